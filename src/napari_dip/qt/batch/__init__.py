"""The dock for many files.

Decided here: which files, by which recipe, where results go, the table of them.
The manifest opens it.
"""
