"""Longest freezes of the window in the journeys of a user.

    xvfb-run -a python benchmarks/gui_journeys.py [JOURNEY ...]

Each journey goes through real buttons, with the sample data cut small, the real engine and a
window that is drawn. Its longest silence of a timer in the GUI thread stands beside that of
napari alone for the same layer operations, measured before it: by the clock, which on a busy
computer says little, and in the thread's own time. Samples and docks are opened before.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gui import EventLoopMonitor, edit_layers, run_event_loop
from shared_data import write

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE, ITERATIONS, PATIENCE = 96, "60", 240


def opened(sample: str, entry: str, **settings: Any) -> tuple[Any, Any]:
    """Open a window with a sample and a dock as its menu opens it."""
    import napari

    viewer = napari.Viewer(show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    viewer.open_sample("napari-dip", sample)
    for layer in viewer.layers:
        layer.data = layer.data[..., :SIDE, :SIDE]
    images = [layer for layer in viewer.layers if layer.visible and type(layer).__name__ == "Image"]
    viewer.layers.selection.active = images[-1]
    _, dock = viewer.window.add_plugin_dock_widget("napari-dip", entry)
    if entry != "Batch":
        settings = {"preset": "fast", "max_iterations": ITERATIONS, **settings}
        for name, value in settings.items():
            dock.form.widgets[name].value = value
    run_event_loop(1)
    return viewer, dock


def run(dock: Any) -> None:
    """Press Run and wait for the end."""
    dock.run_bar.run_button.click()
    run_event_loop(PATIENCE, lambda: not dock.is_busy)
    run_event_loop(0.5)


def guided(viewer: Any, dock: Any) -> None:
    """Two channels: run."""
    run(dock)


def trial(viewer: Any, dock: Any) -> None:
    """Draw a rectangle, try it, apply it to all."""
    corners = np.array([[10, 10], [10, 74], [74, 74], [74, 10]], float)
    cells = viewer.layers.selection.active
    viewer.add_shapes([corners], name="region")
    viewer.layers.selection.active = cells
    for button in (dock.crop_preview.try_button, dock.crop_preview.apply_button):
        button.click()
        run_event_loop(PATIENCE, lambda: not dock.is_busy)
        run_event_loop(0.5)


def preset(viewer: Any, dock: Any) -> None:
    """Save all settings under a name, and load them."""
    dock.repeat_section.expand(animate=False)
    run_event_loop(0.5)
    presets = dock.repeat_section.presets
    presets.combo.setEditText("mine")
    presets.save_button.click()
    run_event_loop(0.5)
    dock.form.widgets["preset"].value = "best"
    presets.load_button.click()
    run_event_loop(0.5)


def queued(viewer: Any, dock: Any) -> None:
    """Let a second dock wait, and discard the first run."""
    from napari_dip.qt.task.task_dock import DenoiseDock

    other = DenoiseDock(viewer)
    viewer.window.add_dock_widget(other, name="Denoise again", area="right")
    other.form.widgets["max_iterations"].value = ITERATIONS
    run_event_loop(1)
    silences()  # what opening a dock takes is not asked here
    dock.form.widgets["max_iterations"].value = "100000"
    dock.run_bar.run_button.click()
    other.run_bar.run_button.click()
    run_event_loop(4)
    dock.run_bar.discard_button.click()
    run_event_loop(PATIENCE, lambda: not other.is_busy)
    run_event_loop(0.5)


def closed(viewer: Any, dock: Any) -> None:
    """Close the window in mid-run; it is only measured until it is told to close."""
    dock.form.widgets["max_iterations"].value = "100000"
    dock.run_bar.run_button.click()
    run_event_loop(4)


def inpaint(viewer: Any, dock: Any) -> None:
    """Fill in, scrub through the history, keep another image."""
    run(dock)
    slider = dock.history.slider
    for place in range(slider.maximum(), -1, -1):
        slider.setValue(place)
        run_event_loop(0.1)
    slider.setValue(slider.maximum() // 2)
    dock.history.keep_button.click()
    run_event_loop(0.5)


def batch(viewer: Any, dock: Any) -> None:
    """Run five files of which one is bad, open all results and their inputs."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    from batch_figures import filled

    with tempfile.TemporaryDirectory() as place:
        settings = dock.recipe_chooser.settings_combo
        settings.setCurrentIndex(settings.findText("Fast"))
        dock.files_edit.add(str(filled(Path(place) / "plate")))
        run_event_loop(PATIENCE, dock.run_bar.run_button.isEnabled)
        run(dock)
        dock.files_panel.inputs_check_box.setChecked(True)
        dock.files_panel.all_button.click()
        run_event_loop(PATIENCE, lambda: "4 results" in dock.run_bar.message_label.text())
        run_event_loop(0.5)


JOURNEYS: dict[str, tuple[str, str, Callable[[Any, Any], None]]] = {
    "batch, all results opened": ("mitochondria", "Batch", batch),
    "two channels, guided": ("weak_channel", "Restore with a guide", guided),
    "crop tried, applied to all": ("mitochondria", "Denoise", trial),
    "preset saved and loaded": ("mitochondria", "Denoise", preset),
    "queued behind another, first discarded": ("mitochondria", "Denoise", queued),
    "closed in mid-run": ("mitochondria", "Denoise", closed),
    "inpainted, scrubbed, another kept": ("scratched", "Inpaint", inpaint),
}


def silences() -> dict[str, float]:
    """Longest silences in milliseconds since the last call: by the clock, and of own work."""
    longest = {"longest_ms": HEART.silences()["longest_ms"]}
    return {**longest, "own_ms": OWN.silences()["longest_ms"]}


def main(*wanted: str) -> None:
    """Go through all journeys, or those whose names begin so, in one program with torch loaded."""
    import torch  # noqa: F401  # its import is stated by gui.py

    rows = []
    for name, (sample, entry, journey) in JOURNEYS.items():
        if wanted and not name.startswith(wanted):
            continue
        viewer, dock = opened(sample, entry)
        silences()
        edit_layers(viewer)
        alone = silences()
        journey(viewer, dock)
        ours = silences()
        viewer.close()
        run_event_loop(3)
        beyond = {f"beyond_napari_{key}": round(ours[key] - alone[key], 1) for key in ours}
        rows.append({"journey": name, **ours, **beyond})
        print(rows[-1], flush=True)
    keys = ("beyond_napari_longest_ms", "beyond_napari_own_ms")
    worst = {f"most_{key}": max(row[key] for row in rows) for key in keys}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    write("gui_journeys", rows, worst | {"load_of_the_machine_after": load})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # the user's own settings play no part
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        from qtpy.QtWidgets import QApplication

        application = QApplication.instance() or QApplication([])
        HEART, OWN = EventLoopMonitor(), EventLoopMonitor(time.thread_time)
        main(*sys.argv[1:])
