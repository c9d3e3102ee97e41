"""Networks from files, for the inversion of their features.

Decided here: what may be read, in a process of its own with limits, and the range of its input.
`invert_features` imports this folder.
"""
