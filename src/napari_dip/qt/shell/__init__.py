"""The base of all docks: background threads, settings forms, layers and the run buttons.

This package decides how work leaves the GUI thread, how settings become widgets and how results
become layers. The other subpackages of `qt` import it, and it imports none of them.
"""
