"""The images of docs/judge-and-choose.md; `make screenshots` makes them with all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

    from napari_dip.qt.task.task_dock import TaskDock


#: Iterations of the three presets side by side: 'best' would take minutes.
COMPARED = "60"


def history(viewer: napari.Viewer, dock: TaskDock) -> None:
    """Go back in a run that is over, to an image of its first third; and forth again."""
    from screenshots import photograph

    slider = dock.history.slider
    slider.setValue(slider.maximum() // 3)
    photograph(viewer, "history_dock.png")
    slider.setValue(slider.maximum())


def profile(viewer: napari.Viewer, dock: TaskDock) -> None:
    """Show input and result along a line; and take the line away again."""
    import numpy as np
    from screenshots import photograph, scroll_to

    chosen = viewer.layers.selection.active
    line = np.array([[209.6, 246.0], [198.4, 274.0]])
    drawn = viewer.add_shapes(
        [line], shape_type="line", name="line profile", edge_color="orange", edge_width=2
    )
    viewer.layers.selection.active = chosen
    fold = dock.result_view.profile
    fold.title_button.setChecked(True)
    photograph(viewer, "profile_dock.png")  # lays out
    scroll_to(dock, fold)
    photograph(viewer, "profile_dock.png", reset=False)
    fold.title_button.setChecked(False)
    scroll_to(dock, dock.history)
    viewer.layers.remove(drawn)


def queue() -> None:
    """Let a dock wait for another."""
    from screenshots import let_pass, opened, photograph, wait_until

    viewer, dock = opened("Denoise", "mitochondria")
    _, other = viewer.window.add_plugin_dock_widget("napari-dip", "Super-resolve", tabify=True)
    dock.run_bar.run_button.click()
    wait_until(lambda: dock.validation_curve.point_count >= 2 or not dock.is_busy)
    other.parentWidget().raise_()
    let_pass(0.5)
    other.run_bar.run_button.click()
    photograph(viewer, "queue_dock.png")
    other.jobs.discard()
    dock.jobs.discard()
    viewer.close()


def trial() -> None:
    """Compare the presets on a rectangle."""
    import numpy as np
    from screenshots import let_pass, opened, photograph, wait_until

    viewer, dock = opened("Denoise", "mitochondria")
    viewer.layers.remove(viewer.layers["mitochondria, long exposure"])
    corners = np.array([[24, 24], [24, 152], [120, 152], [120, 24]])
    viewer.add_shapes(
        [corners], name="rectangle", face_color="transparent", edge_color="orange", edge_width=2
    )
    viewer.layers.selection.active = viewer.layers["mitochondria"]
    dock.crop_preview.title_button.setChecked(True)
    let_pass(0.5)
    photograph(viewer, "try_dock.png")
    dock.form.widgets["max_iterations"].value = COMPARED
    dock.crop_preview.compare_button.click()
    wait_until(lambda: not dock.is_busy and len(viewer.layers) == 6)
    let_pass(0.5)
    photograph(viewer, "compare_dock.png", reset=False)
    viewer.close()
