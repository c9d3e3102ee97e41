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
    from napari.layers import Layer

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
    from napari_dip.qt.samples import mitochondria

    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    pixels, look, _ = mitochondria()[-1]
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


#: Task: the sample that its picture shows, and settings beside the preset.
TASK_DOCKS: dict[str, tuple[str, dict[str, object]]] = {
    "inpaint": ("scratched", {}),
    "super-resolve": ("coarse_pixels", {"factor": "2"}),
    "deblur": ("blurred_with_psf", {}),
    "blind-deblur": ("blurred_with_psf", {}),
    "guide": ("weak_beside_clean", {}),
}


def task_picture(task: str) -> None:
    """Run a task on its sample in its dock; take the window with the result."""
    import napari
    from napari.layers import Layer

    from napari_dip.qt import samples
    from napari_dip.qt.docks import dock_of

    sample, settings = TASK_DOCKS[task]
    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    made = [Layer.create(*one) for one in getattr(samples, sample)()]
    viewer.layers.extend(made)
    viewer.layers.selection.active = [one for one in made if one.visible and not _marks(one)][-1]
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


def _marks(layer: Layer) -> bool:
    from napari.layers import Labels

    return isinstance(layer, Labels)


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
    if not sys.argv[1:]:
        import judge_pictures

        judge_pictures.main()
