"""Make the pictures in docs/images again; needs a display, so call it by `make screenshots`.

They are made from the sample with the preset that the pages name, and show what came out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
#: Seconds that a run may take on a slow computer.
PATIENCE = 600.0


def demo_picture() -> None:
    """Run the demo as the command line does it, and keep its before-and-after picture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "napari_dip", "demo", "--no-window"]
        subprocess.run(command, cwd=folder, check=True)
        shutil.copy(Path(folder) / "demo" / "before_after.png", IMAGES / "demo_before_after.png")


def dock_pictures() -> None:
    """Restore the sample in napari; take the window during the run and with the result."""
    import napari

    from napari_dip.qt.docks import DenoiseDock
    from napari_dip.qt.layers import sample_mitochondria

    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    pixels, look, _ = sample_mitochondria()[-1]
    viewer.add_image(pixels, **look)
    dock = DenoiseDock(viewer)
    viewer.window.add_dock_widget(dock, name="Denoise (Deep Image Prior)", area="right")
    dock.form.widgets["preset"].value = "fast"
    let_pass(1)
    photograph(viewer, "denoise_dock_ready.png")
    dock.run_bar.run_button.click()
    wait_until(lambda: dock.curve.count >= 4 or not dock.busy)
    photograph(viewer, "denoise_dock_running.png")
    wait_until(lambda: not dock.busy)
    if len(viewer.layers) != 2:
        sys.exit(f"The dock made no picture: {dock.run_bar.words.text()}")
    viewer.canvas.grid.enabled = True
    photograph(viewer, "denoise_dock.png")
    viewer.theme = "light"
    dock.settings.expand(animate=False)
    photograph(viewer, "denoise_dock_light.png")
    viewer.close()


#: Task: settings beside the preset, and the further input that its picture shows.
TASK_DOCKS: dict[str, tuple[dict[str, object], str]] = {
    "inpaint": ({}, "mask"),
    "super-resolve": ({"factor": "2"}, ""),
    "deblur": ({"gaussian_sigma": 1.5}, ""),
    "blind-deblur": ({}, ""),
    "guide": ({}, "guide"),
}


def task_picture(task: str) -> None:
    """Run a task on a corner of the sample in its dock; take the window with the result."""
    import napari
    import numpy as np

    from napari_dip.qt.docks import dock_of
    from napari_dip.qt.layers import sample_mitochondria

    settings, second = TASK_DOCKS[task]
    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    (clean, _, _), (noisy, look, _) = sample_mitochondria()
    corner = np.s_[100:228, 90:218]
    if second == "guide":
        viewer.add_image(clean[corner], name="long exposure")
    image = viewer.add_image((noisy if second == "guide" else clean)[corner], **look)
    if second == "mask":
        labels = viewer.add_labels(np.zeros((128, 128), int), name="scratches")
        for line in (np.linspace((10, 20), (110, 60), 60), np.linspace((30, 120), (90, 80), 40)):
            labels.brush_size = 5
            for point in line:
                labels.paint(tuple(point.astype(int)), 1)
        viewer.layers.selection.active = image
    dock = dock_of(task)(viewer)
    viewer.window.add_dock_widget(dock, name=f"{task} (Deep Image Prior)", area="right")
    for name, value in {"preset": "fast", **settings}.items():
        dock.form.widgets[name].value = value
    layers = len(viewer.layers)
    let_pass(1)
    dock.run_bar.run_button.click()
    wait_until(lambda: not dock.busy)
    if len(viewer.layers) == layers:
        sys.exit(f"The dock made no picture: {dock.run_bar.words.text()}")
    viewer.canvas.grid.enabled = True
    photograph(viewer, f"{task}_dock.png")
    viewer.close()


def photograph(viewer: napari.Viewer, name: str) -> None:
    """Save the whole window, drawn to the end."""
    viewer.screenshot(canvas_only=False, flash=False)  # lays out what has not been seen yet
    viewer.reset_view()
    let_pass(0.5)
    viewer.screenshot(str(IMAGES / name), canvas_only=False, flash=False)


def wait_until(happened: Callable[[], bool]) -> None:
    """Let Qt work until something is true."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            sys.exit("The dock did not come to an end.")
        let_pass(0.1)


def let_pass(seconds: float) -> None:
    """Let Qt work for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    if not sys.argv[1:]:  # names of tasks: only their pictures
        demo_picture()
    with tempfile.TemporaryDirectory() as folder:  # the user's own settings play no part
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        if not sys.argv[1:]:
            dock_pictures()
        for task in sys.argv[1:] or TASK_DOCKS:
            task_picture(task)
