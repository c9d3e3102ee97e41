"""The images of docs/explore.md; `make screenshots` makes them with all the others."""

from __future__ import annotations

from typing import Any

#: Small and short enough for a minute or two, large enough to show what the page says.
SIDE, ITERATIONS = 96, 120


def explorer() -> None:
    """Fit the long exposure and noise, and watch the frequencies of the single shot."""
    from screenshots import photograph, wait_until

    viewer, dock = _opened()
    dock.run_bar.run_button.click()
    wait_until(lambda: not dock.is_busy)
    photograph(viewer, "explorer_dock.png")
    settings = dock.settings
    viewer.layers.selection.active = viewer.layers["mitochondria"]
    settings.experiment_combo.setCurrentIndex(settings.experiment_combo.findData("spectrum"))
    dock.run_bar.run_button.click()
    wait_until(lambda: dock.plot.point_count >= ITERATIONS // 2 or not dock.is_busy)
    viewer.theme = "light"
    photograph(viewer, "explorer_dock_light.png")
    dock.jobs.discard()
    viewer.close()


def _opened() -> tuple[Any, Any]:
    """Open a window with the sample and the dock as its menu opens it."""
    import napari
    from screenshots import let_pass

    viewer = napari.Viewer(show=False, title="napari-dip", show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    viewer.open_sample("napari-dip", "mitochondria")
    long_exposure = viewer.layers["mitochondria, long exposure"]
    long_exposure.visible = True
    viewer.layers.move(viewer.layers.index(long_exposure), len(viewer.layers))
    viewer.layers.selection.active = long_exposure
    _, dock = viewer.window.add_plugin_dock_widget("napari-dip", "Prior explorer")
    dock.settings.widgets["crop"].value = SIDE
    dock.settings.widgets["max_iterations"].value = ITERATIONS
    let_pass(1)
    return viewer, dock
