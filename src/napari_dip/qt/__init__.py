"""The docks in napari.

Order of the folders: shell, results, task, batch, explorer. Only this package knows Qt, magicgui
and napari; the GUI thread neither imports torch nor waits. Nothing imports this package.
"""
