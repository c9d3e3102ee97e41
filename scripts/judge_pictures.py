"""The pictures of docs/judge-and-choose.md; `make screenshots` makes them with all the others."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

    from napari_dip.qt.dock import TaskDock


#: Iterations of the three presets side by side: 'best' would take minutes.
COMPARED = "60"


def history() -> None:
    """Go back in a run that is over, to a picture of its first third."""
    from screenshots import photograph, wait_until

    viewer, dock = _opened()
    dock.run_bar.run_button.click()
    wait_until(lambda: not dock.busy)
    slider = dock.history.slider
    slider.setValue(slider.maximum() // 3)
    photograph(viewer, "history_dock.png")
    viewer.close()


def queue() -> None:
    """Let a dock wait for another."""
    from screenshots import let_pass, photograph, wait_until

    from napari_dip.qt.docks import dock_of

    viewer, dock = _opened()
    other = dock_of("super-resolve")(viewer)
    title = "Super-resolve (Deep Image Prior)"
    viewer.window.add_dock_widget(other, name=title, area="right", tabify=True)
    dock.run_bar.run_button.click()
    wait_until(lambda: dock.curve.count >= 2 or not dock.busy)
    other.parentWidget().raise_()
    let_pass(0.5)
    other.run_bar.run_button.click()
    photograph(viewer, "queue_dock.png")
    other.discard()
    dock.discard()
    viewer.close()


def trial() -> None:
    """Compare the presets on a rectangle."""
    import numpy as np
    from screenshots import let_pass, photograph, wait_until

    viewer, dock = _opened()
    corners = np.array([[120, 90], [120, 218], [216, 218], [216, 90]])
    viewer.add_shapes([corners], name="rectangle", face_color="transparent", edge_color="orange")
    viewer.layers.selection.active = viewer.layers["mitochondria"]
    dock.trying.expand(animate=False)
    let_pass(0.5)
    photograph(viewer, "try_dock.png")
    dock.form.widgets["max_iterations"].value = COMPARED
    dock.trying.compare_button.click()
    wait_until(lambda: not dock.busy and len(viewer.layers) == 5)
    let_pass(0.5)
    _shown(viewer, "compare_dock.png")
    viewer.close()


def profile() -> None:
    """Show input and result along a line."""
    import numpy as np
    from screenshots import photograph, wait_until

    viewer, dock = _opened()
    dock.run_bar.run_button.click()
    wait_until(lambda: not dock.busy)
    line = np.array([[160, 8], [108, 92]])
    viewer.add_shapes([line], shape_type="line", name="line profile", edge_color="orange")
    viewer.layers.selection.active = viewer.layers["mitochondria"]
    fold = dock.view.profile
    fold.expand(animate=False)
    photograph(viewer, "profile_dock.png")
    area = fold.parentWidget().parentWidget().parentWidget()
    area.verticalScrollBar().setValue(fold.y())
    _shown(viewer, "profile_dock.png")
    viewer.close()


#: By the name of what they show.
PICTURES: dict[str, Callable[[], None]] = {
    "history": history,
    "queue": queue,
    "trial": trial,
    "profile": profile,
}


def main(*names: str) -> None:
    """Make some of the pictures, or all of them; none finds what another has left."""
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
            command = [sys.executable, __file__, "--alone", name]
            subprocess.run(command, check=True)


def _shown(viewer: napari.Viewer, name: str) -> None:
    """Save the window as it is, without a view of all that there is."""
    from screenshots import IMAGES, let_pass

    viewer.screenshot(canvas_only=False, flash=False)  # lays out what has not been seen yet
    let_pass(0.5)
    viewer.screenshot(str(IMAGES / name), canvas_only=False, flash=False)


def _opened(task: str = "denoise", sample: str = "mitochondria") -> tuple[napari.Viewer, TaskDock]:
    """Open a window with a sample and a dock."""
    import napari
    from screenshots import let_pass

    from napari_dip.qt import samples
    from napari_dip.qt.docks import dock_of

    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    pixels, look, _ = getattr(samples, sample)()[-1]
    viewer.add_image(pixels, **look)
    dock = dock_of(task)(viewer)
    viewer.window.add_dock_widget(dock, name=f"{task.capitalize()} (Deep Image Prior)")
    dock.form.widgets["preset"].value = "fast"
    let_pass(1)
    return viewer, dock


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        PICTURES[sys.argv[2]]()
    else:
        main(*sys.argv[1:])
