"""The images of docs/batch.md, and the files that the dock is looked at with."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

#: Side of the crops, and where each begins along the sample's rows and columns.
SIDE = 96
CORNERS = {"cell_1": (20, 20), "cell_2": (20, 140), "cell_3": (130, 30), "cell_4": (140, 150)}


def filled(folder: Path) -> Path:
    """Put four crops of a real single shot there, and a file that is no image."""
    import numpy as np
    import tifffile

    from napari_dip.io.writing import write_image
    from napari_dip.samples import MITOCHONDRIA

    shot = tifffile.imread(MITOCHONDRIA)[0]
    folder.mkdir(parents=True)
    for name, (row, column) in CORNERS.items():
        crop = np.ascontiguousarray(shot[row : row + SIDE, column : column + SIDE])
        place = {"axes": "YX", "scale": (0.1, 0.1), "units": ("micrometer",) * 2}
        write_image(folder / f"{name}.tif", crop, **place)
    (folder / "notes.tif").write_text("of the day")
    return folder


def batch() -> None:
    """Restore them in the dock, and open two results."""
    from screenshots import let_pass, photograph, wait_until

    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        viewer, dock = opened(filled(Path("plate 7")))
        wait_until(lambda: dock.run_bar.run_button.isEnabled())
        dock.run_bar.run_button.click()
        table = dock.files_panel.table
        wait_until(
            lambda: sum(row.has_result for row in table.file_model.rows) == 2 or not dock.is_busy
        )
        photograph(viewer, "batch_dock_running.png")
        wait_until(lambda: not dock.is_busy)
        let_pass(1)
        dock.files_panel.inputs_check_box.setChecked(True)
        table.selectRow(0)
        dock.files_panel.show_button.click()
        wait_until(lambda: len(viewer.layers) == 2)
        viewer.canvas.grid.enabled = True
        photograph(viewer, "batch_dock.png")
        viewer.close()


def opened(folder: Path) -> tuple[Any, Any]:
    """Open a window with the dock as its menu opens it, set to `fast` and to these files."""
    import napari
    from screenshots import let_pass

    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    _, dock = viewer.window.add_plugin_dock_widget("napari-dip", "Batch")
    settings = dock.recipe_chooser.settings_combo
    settings.setCurrentIndex(settings.findText("Fast"))
    dock.files_edit.add(str(folder))
    let_pass(1)
    return viewer, dock
