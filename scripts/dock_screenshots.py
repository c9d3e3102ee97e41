"""Take every dock in each state, two sizes of the window and both themes, to be looked at.

    xvfb-run -a -s "-screen 0 2000x1200x24" python scripts/dock_screenshots.py FOLDER [DOCK ...]

No page shows them. Each dock restores its sample, cut small, in a few iterations, since what
matters here is the window. With QT_SCALE_FACTOR set, the window has as many pixels and everything
in it is larger.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

#: Pixels of the windows.
SIZES = ((1280, 720), (1920, 1080))
THEMES = ("dark", "light")
#: Dock in the manifest: key of its sample.
DOCKS = {
    "Denoise": "mitochondria",
    "Inpaint": "scratched",
    "Super-resolve": "coarse",
    "Deblur": "blurred",
    "Blind deblur": "blurred",
    "Restore with a guide": "weak_channel",
    "Invert features": "mitochondria",
    "Prior explorer": "mitochondria",
    "Batch": "mitochondria",
}
#: Several docks, which share the window with another plugin's.
STACKED = "Stacked"
#: Side of the cut samples, and iterations: of a run that ends, and of one that is stopped.
SIDE, ITERATIONS, ENDLESS = 64, "30", "100000"


class Photographer:
    """Takes the window of a viewer under a dock's name and a state's."""

    def __init__(self, viewer: napari.Viewer, folder: Path, entry: str) -> None:
        self._viewer, self._folder, self._entry = viewer, folder, entry
        self._scale = float(os.environ.get("QT_SCALE_FACTOR", "1"))

    def take(self, state: str, *sizes: tuple[int, int], reset: bool = True) -> None:
        """Save the window in some sizes, by default the smallest."""
        from screenshots import let_pass

        for width, height in sizes or SIZES[:1]:
            self._viewer.window.resize(round(width / self._scale), round(height / self._scale))
            let_pass(0.3)
            size = f"{width}x{height}"
            name = f"{self._entry}, {state}, {size}, {self._viewer.theme}.png".replace(" ", "_")
            self._viewer.screenshot(canvas_only=False, flash=False)  # lays out
            if reset:
                self._viewer.reset_view()
            let_pass(0.5)
            self._viewer.screenshot(str(self._folder / name), canvas_only=False, flash=False)


def take(folder: Path, entry: str) -> None:
    """Open one dock, and take it in each of its states."""
    import napari
    from screenshots import let_pass, wait_until

    from napari_dip.qt.shell.dock_widget import CollapsibleSection

    viewer = napari.Viewer(title="napari-dip", show_welcome_screen=False)
    viewer.open_sample("napari-dip", DOCKS.get(entry, "mitochondria"))
    for layer in viewer.layers:
        if layer.name != "psf":
            layer.data = layer.data[..., :SIDE, :SIDE]
    photographer = Photographer(viewer, folder, entry)
    if entry == STACKED:
        take_stacked(viewer, photographer)
        return
    _, dock = viewer.window.add_plugin_dock_widget("napari-dip", entry)
    let_pass(0.5)
    photographer.take("opened")
    if entry == "Batch":
        take_batch(dock, folder, photographer)
    elif entry == "Prior explorer":
        take_explorer(dock, photographer)
    else:
        take_task(viewer, dock, folder, photographer)
    for theme in THEMES:
        viewer.theme = theme
        photographer.take("done", *SIZES)
    for section in dock.findChildren(CollapsibleSection):
        if section.isVisible():
            section.title_button.click()
            let_pass(0.5)
            photographer.take(section.title)
            section.title_button.click()
    if hasattr(dock, "crop_preview"):
        dock.crop_preview.compare_button.click()
        wait_until(lambda: not dock.is_busy)
        photographer.take("compared", reset=False)
    viewer.close()


def export_network(folder: Path) -> str:
    """Write a network of two layers, whose features are inverted; return its path."""
    import torch

    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
    program = torch.export.export(network, (torch.zeros(1, 1, SIDE, SIDE),))
    torch.export.save(program, folder / "network.pt2")
    return str(folder / "network.pt2")


def take_task(viewer: napari.Viewer, dock: Any, folder: Path, photographer: Photographer) -> None:
    """Let the dock of a task refuse, run, pause, stop, and restore to the end."""
    from screenshots import wait_until

    def run_until(happened: Callable[[], bool] = lambda: not dock.is_busy) -> None:
        dock.run_bar.run_button.click()
        wait_until(lambda: happened() or not dock.is_busy)

    if "network" in dock.form.widgets:
        dock.form.widgets["network"].value = export_network(folder)
        dock.form.widgets["layer"].value = "0"
    image = dock.image_chooser.get_layer()
    pixels = image.data
    image.data = np.full_like(pixels, pixels.mean())
    run_until()
    photographer.take("refused")
    image.data = pixels
    dock.form.widgets["preset"].value = "fast"
    dock.form.widgets["max_iterations"].value = ENDLESS
    run_until(lambda: dock.validation_curve.point_count > 3)
    photographer.take("running")
    dock.run_bar.pause_button.click()
    wait_until(lambda: dock.run_bar.pause_button.text() == "Resume" or not dock.is_busy)
    photographer.take("paused")
    dock.run_bar.run_button.click()
    wait_until(lambda: not dock.is_busy)
    photographer.take("stopped")
    viewer.layers.remove(viewer.layers[-1])
    viewer.layers.selection.active = image
    dock.form.widgets["max_iterations"].value = ITERATIONS
    run_until()


def take_explorer(dock: Any, photographer: Photographer) -> None:
    """Let the explorer do each experiment."""
    from screenshots import wait_until

    combo = dock.settings.experiment_combo
    dock.settings.widgets["max_iterations"].value = int(ITERATIONS)
    for index in range(combo.count()):
        combo.setCurrentIndex(index)
        photographer.take(f"before {combo.itemData(index)}")
        dock.run_bar.run_button.click()
        wait_until(lambda: dock.plot.point_count > 3 or not dock.jobs.is_busy)
        photographer.take(f"amid {combo.itemData(index)}")
        wait_until(lambda: not dock.jobs.is_busy)
        photographer.take(f"after {combo.itemData(index)}")


def take_batch(dock: Any, folder: Path, photographer: Photographer) -> None:
    """Let the dock of a batch restore some files, and choose one of them."""
    from batch_figures import filled
    from screenshots import let_pass, wait_until

    from napari_dip.pipeline.recipe import make_recipe

    recipe = folder / "recipe.json"
    recipe.write_text(
        make_recipe("denoise", preset="fast", max_iterations=int(ITERATIONS)).to_json()
    )
    dock.recipe_chooser.load(str(recipe))
    with tempfile.TemporaryDirectory() as place:
        dock.files_edit.add(str(filled(Path(place) / "plate 7")))
        wait_until(dock.run_bar.run_button.isEnabled)
        photographer.take("chosen")
        dock.run_bar.run_button.click()
        rows = dock.files_panel.table.file_model.rows
        wait_until(lambda: any(row.has_result for row in rows) or not dock.is_busy)
        photographer.take("running")
        wait_until(lambda: not dock.is_busy)
        let_pass(1)
        photographer.take("ended")
    dock.files_panel.table.selectRow(0)


def take_stacked(viewer: napari.Viewer, photographer: Photographer) -> None:
    """Take docks as tabs, and the last of them above a high dock of another plugin."""
    from qtpy.QtWidgets import QLabel
    from screenshots import let_pass, wait_until

    docks = [
        viewer.window.add_plugin_dock_widget("napari-dip", name)[1]
        for name in ("Batch", "Deblur", "Denoise")
    ]
    let_pass(0.5)
    photographer.take("tabs")
    other = QLabel("Another plugin")
    other.setMinimumHeight(SIZES[0][1] // 3)
    viewer.window.add_dock_widget(other, name="Another", area="right")
    docks[-1].form.widgets["preset"].value = "fast"
    docks[-1].form.widgets["max_iterations"].value = ITERATIONS
    docks[-1].run_bar.run_button.click()
    wait_until(lambda: not docks[-1].is_busy)
    photographer.take("done", *SIZES)
    viewer.close()


def main(folder: str, *entries: str) -> None:
    """Take some docks, or all of them; each in a process of its own."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as settings:  # the user's own play no part
        for entry in entries or (*DOCKS, STACKED):
            os.environ["NAPARI_CONFIG"] = str(Path(settings) / entry / "settings.yaml")
            subprocess.run([sys.executable, __file__, "--alone", folder, entry], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        take(Path(sys.argv[2]), sys.argv[3])
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    else:
        main(*sys.argv[1:])
