"""The docks in napari: forms, runs in the background, and results as layers.

A subpackage imports only those before it: shell, task, batch, explorer. No other package
imports Qt, magicgui or napari, and none imports this one. The GUI thread never imports torch and
never waits for a computation. A class of ours inherits from one other class of ours at most.
"""

from napari_dip.errors import RefusedError
from napari_dip.pipeline.machine import DOCK_PACKAGES, find_missing_dock_package

if (_missing := find_missing_dock_package()) in DOCK_PACKAGES:  # napari may be there without them
    raise RefusedError("dock-package-missing", missing=_missing)
