"""One dock for each task, as `napari.yaml` names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.qt.dock import TaskDock

if TYPE_CHECKING:
    import napari.viewer


class DenoiseDock(TaskDock):
    """Remove the noise of a single image."""

    task = "denoise"

    def __init__(self, viewer: napari.viewer.Viewer) -> None:  # napari reads this signature
        super().__init__(viewer)
