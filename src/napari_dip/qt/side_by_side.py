"""Layers side by side in napari's grid, and back to how the viewer was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.layers
    import napari.viewer


class SideBySide:
    """One cell for each of some layers; all others are hidden meanwhile.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._hidden: list[napari.layers.Layer] = []
        self._named: list[napari.layers.Layer] = []
        self._on = False

    def show(self, layers: Sequence[napari.layers.Layer]) -> None:
        """Show these, all at the place of the last of them; cells share one camera."""
        self.end()
        viewer = self._viewer
        self._hidden = [one for one in viewer.layers if one.visible and one not in layers]
        for one in self._hidden:
            one.visible = False
        for one in layers:
            one.visible = True
            if hasattr(one, "name_overlay") and not one.name_overlay.visible:  # napari >= 0.9
                one.name_overlay.visible = True
                self._named.append(one)
        grid = _grid(viewer)
        grid.shape, grid.stride, grid.enabled = (-1, -1), 1, True
        self._on = True
        if hasattr(viewer, "fit_to_view"):
            viewer.fit_to_view(layers=[layers[-1]])
        else:  # napari < 0.9
            viewer.reset_view()

    def end(self) -> None:
        """Leave the grid, if it is ours, and show again what was hidden."""
        hidden, self._hidden = self._hidden, []
        if self._on:
            self._on = False
            _grid(self._viewer).enabled = False
        for one in hidden:
            one.visible = True
        named, self._named = self._named, []
        for one in named:
            one.name_overlay.visible = False


def _grid(viewer: napari.viewer.Viewer) -> Any:
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid  # napari < 0.9
