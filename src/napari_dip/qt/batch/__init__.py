"""The dock for batches: the files, the recipe, the results folder and the table of files.

Only the manifest of the plugin refers to this package.
"""
