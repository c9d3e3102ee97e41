"""Adding layers without moving what the user looks at."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import napari.viewer


@contextmanager
def undisturbed(viewer: napari.viewer.Viewer) -> Iterator[None]:
    """Give the user back selection, camera and sliders, which napari moves for a new layer."""
    layers = viewer.layers
    selected, active = set(layers.selection), layers.selection.active
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari < 0.9
    view = {"center": camera.center, "zoom": camera.zoom, "angles": camera.angles}
    step = viewer.dims.current_step
    try:
        yield
    finally:
        _put_back(viewer, selected, active, camera, view, step)


def _put_back(
    viewer: napari.viewer.Viewer,
    selected: set[Any],
    active: Any,
    camera: Any,
    view: Mapping[str, Any],
    step: tuple[int, ...],
) -> None:
    layers = viewer.layers
    kept = {layer for layer in selected if layer in layers}
    if set(layers.selection) != kept:
        layers.selection = kept
    if active is not None and active in layers and layers.selection.active is not active:
        layers.selection.active = active
    for key, value in view.items():
        if getattr(camera, key) != value:
            setattr(camera, key, value)
    if len(viewer.dims.current_step) == len(step) and viewer.dims.current_step != step:
        viewer.dims.current_step = step
