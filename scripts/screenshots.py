"""Make the images in docs/images again; needs a display, so call it by `make screenshots`.

They are made from the samples with the preset that the pages name, in docks that are opened as
from the menu, and show what came out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer
    from qtpy.QtWidgets import QWidget

    from napari_dip.qt.task.task_dock import TaskDock

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
#: Seconds that a run may take on a slow computer.
PATIENCE = 1800.0


def demo_image() -> None:
    """Run the demo as the command line does it, and keep its before-and-after image."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "napari_dip", "demo", "--no-window"]
        subprocess.run(command, cwd=folder, check=True)
        shutil.copy(Path(folder) / "demo" / "before_after.png", IMAGES / "demo_before_after.png")


def denoise_images() -> None:
    """Restore the sample; take the window before, during and after the run, and looked at."""
    import judge_figures

    viewer, dock = opened("Denoise", "mitochondria")
    photograph(viewer, "denoise_dock_ready.png")
    dock.run_bar.run_button.click()
    wait_until(lambda: dock.validation_curve.point_count >= 4 or not dock.is_busy)
    if not dock.is_busy:
        sys.exit(f"The run was over too soon: {dock.run_bar.message_label.text()}")
    photograph(viewer, "denoise_dock_running.png")
    finish(viewer, dock, more=1, before=2)
    # it would stand among the results
    viewer.layers.remove(viewer.layers["mitochondria, long exposure"])
    judge_figures.history(viewer, dock)
    judge_figures.profile(viewer, dock)
    viewer.canvas.grid.enabled = True
    photograph(viewer, "denoise_dock.png")
    viewer.theme = "light"
    dock.settings_section.title_button.setChecked(True)
    photograph(viewer, "denoise_dock_light.png")  # lays out
    scroll_to(dock, dock.settings_section)
    photograph(viewer, "denoise_dock_light.png")
    viewer.close()


#: Image: the dock, the sample that it shows, and settings beside the preset.
TASK_DOCKS: dict[str, tuple[str, str, dict[str, object]]] = {
    "inpaint": ("Inpaint", "scratched", {}),
    "super-resolve": ("Super-resolve", "coarse", {"factor": "2"}),
    "deblur": ("Deblur", "blurred", {}),
    "blind-deblur": ("Blind deblur", "blurred", {}),
    "guide": ("Restore with a guide", "weak_channel", {}),
}


def task_image(name: str) -> None:
    """Run a task on its sample in its dock; take the window with the result."""
    entry, sample, settings = TASK_DOCKS[name]
    viewer, dock = opened(entry, sample, **settings)
    layers = len(viewer.layers)
    dock.run_bar.run_button.click()
    finish(viewer, dock, more=1, before=layers)
    viewer.canvas.grid.enabled = True
    photograph(viewer, f"{name}_dock.png")
    viewer.close()


def opened(entry: str, sample: str, **settings: object) -> tuple[napari.Viewer, TaskDock]:
    """Open a window with a sample and the dock of that name in the menu, set to `fast`."""
    import napari

    viewer = napari.Viewer(title="napari-dip", show_welcome_screen=False)  # shown, for its style
    viewer.window.resize(1280, 720)
    viewer.open_sample("napari-dip", sample)
    visible = [layer for layer in viewer.layers if layer.visible and not _marks(layer)]
    viewer.layers.selection.active = visible[-1]
    _, dock = viewer.window.add_plugin_dock_widget("napari-dip", entry)
    for name, value in {"preset": "fast", **settings}.items():
        dock.form.widgets[name].value = value
    let_pass(1)
    return viewer, dock


def finish(viewer: napari.Viewer, dock: TaskDock, more: int, before: int) -> None:
    """Wait for the end of a run, and give up if it has left no image."""
    wait_until(lambda: not dock.is_busy)
    if len(viewer.layers) < before + more:
        sys.exit(f"The dock made no picture: {dock.run_bar.message_label.text()}")


def _marks(layer: Layer) -> bool:
    from napari.layers import Labels

    return isinstance(layer, Labels)


def photograph(viewer: napari.Viewer, name: str, *, reset: bool = True) -> None:
    """Save the whole window, drawn to the end, without notifications, which hide part of it."""
    from napari._qt.dialogs.qt_notification import NapariQtNotification
    from qtpy.QtWidgets import QApplication

    for widget in QApplication.allWidgets():
        if isinstance(widget, NapariQtNotification):
            widget.close()
    viewer.screenshot(canvas_only=False, flash=False)  # lays out what has not been seen yet
    if reset:
        viewer.reset_view()
    let_pass(0.5)
    viewer.screenshot(str(IMAGES / name), canvas_only=False, flash=False)


def scroll_to(dock: TaskDock, part: QWidget) -> None:
    """Scroll as far as it takes to see a part of the dock from its first line on."""
    from qtpy.QtWidgets import QScrollArea

    *_, area = [area for area in dock.findChildren(QScrollArea) if area.isAncestorOf(part)]
    area.verticalScrollBar().setValue(part.y())


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


def make_images() -> dict[str, Callable[[], Any]]:
    """By the names that the command takes."""
    import batch_figures
    import explorer_figures
    import judge_figures

    tasks = {name: partial(task_image, name) for name in TASK_DOCKS}
    judged = {"queue": judge_figures.queue, "trial": judge_figures.trial}
    judged |= {"explorer": explorer_figures.explorer, "batch": batch_figures.batch}
    return {"demo": demo_image, "denoise": denoise_images, **tasks, **judged}


def main(*names: str) -> None:
    """Make some of the images, or all; each in a process of its own that finds no settings."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in names or make_images():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
            subprocess.run([sys.executable, __file__, "--alone", name], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        make_images()[sys.argv[2]]()
    else:
        main(*sys.argv[1:])
