"""Take every dock in two sizes of the window and both themes, to be looked at; no page shows them.

    xvfb-run -a -s "-screen 0 2000x1200x24" python scripts/dock_screenshots.py FOLDER [DOCK ...]

Each dock restores its sample, cut small, in a few iterations, since what matters here is the
window. With QT_SCALE_FACTOR set, the window has as many pixels and everything in it is larger.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dip.qt.batch.batch_dock import BatchDock

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
#: Folds that hold settings.
FOLDS = ("More settings", "Axes and workers")
#: Side of the cut samples, and iterations.
SIDE, ITERATIONS = 64, "12"


def take(folder: Path, entry: str) -> None:
    """Open one dock, run it, and take it as it is, with its settings unfolded, and at its end."""
    import napari
    from screenshots import let_pass, wait_until
    from superqt import QCollapsible

    scale = float(os.environ.get("QT_SCALE_FACTOR", "1"))
    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.open_sample("napari-dip", DOCKS.get(entry, "mitochondria"))
    for layer in viewer.layers:
        if layer.name != "psf":
            layer.data = layer.data[..., :SIDE, :SIDE]
    _, dock = viewer.window.add_plugin_dock_widget("napari-dip", entry)
    let_pass(0.5)

    def photograph(what: str, width: int, height: int) -> None:
        viewer.window.resize(round(width / scale), round(height / scale))
        let_pass(0.3)
        name = f"{entry}, {what}, {width}x{height}, {viewer.theme}.png".replace(" ", "_")
        viewer.screenshot(canvas_only=False, flash=False)  # lays out what has not been seen yet
        let_pass(0.5)
        viewer.screenshot(str(folder / name), canvas_only=False, flash=False)

    photograph("opened", *SIZES[0])
    if entry == "Batch":
        run_batch(dock, folder)
    if hasattr(dock, "form"):  # one of a task
        dock.form.widgets["preset"].value = "fast"
        dock.form.widgets["max_iterations"].value = ITERATIONS
        dock.run_bar.run_button.click()
        wait_until(lambda: not dock.is_busy)
    for theme in THEMES:
        viewer.theme = theme
        for size in SIZES:
            photograph("done", *size)
    folds = [fold for fold in dock.findChildren(QCollapsible) if fold.text() in FOLDS]
    for fold in folds:
        fold.toggleButton().click()
        let_pass(1)
        for size in SIZES:
            photograph("settings", *size)
    viewer.close()


def run_batch(dock: BatchDock, folder: Path) -> None:
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
        dock.run_bar.run_button.click()
        wait_until(lambda: not dock.is_busy)
        let_pass(1)
    dock.files_panel.table.selectRow(0)


def main(folder: str, *entries: str) -> None:
    """Take some docks, or all of them; each in a process of its own."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as settings:  # the user's own play no part
        for entry in entries or DOCKS:
            os.environ["NAPARI_CONFIG"] = str(Path(settings) / entry / "settings.yaml")
            subprocess.run([sys.executable, __file__, "--alone", folder, entry], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        take(Path(sys.argv[2]), sys.argv[3])
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    else:
        main(*sys.argv[1:])
