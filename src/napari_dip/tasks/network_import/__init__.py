"""Networks from files, for feature inversion: how they are loaded safely, and their input range.

A child process with limits on memory and time reads the files. `invert_features` imports this
folder.
"""
