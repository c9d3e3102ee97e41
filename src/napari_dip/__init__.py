"""Restore one noisy image with an untrained network fitted to it alone.

    import napari_dip as dip

    result = dip.denoise(image, preset="balanced", seed=0)
    result.image, result.uncertainty, result.stop_reason

Importing this loads neither torch nor Qt; both come when they are first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_dip.errors import DipError, Failed, Refused
    from napari_dip.run.api import restore
    from napari_dip.run.batch import BatchEvent, BatchResult, batch
    from napari_dip.run.calls import blind_deblur, deblur, denoise, guide, inpaint, super_resolve
    from napari_dip.run.camera_maps import CameraReport, camera_maps
    from napari_dip.run.events import Event, Restoration
    from napari_dip.run.measuring import NoiseReport, measure_noise
    from napari_dip.run.network_calls import invert_features
    from napari_dip.run.recipe import Recipe, make_recipe, recipe_from_json

__version__ = "0.1.0"

__all__ = [
    "BatchEvent",
    "BatchResult",
    "CameraReport",
    "DipError",
    "Event",
    "Failed",
    "NoiseReport",
    "Recipe",
    "Refused",
    "Restoration",
    "__version__",
    "batch",
    "blind_deblur",
    "camera_maps",
    "deblur",
    "denoise",
    "guide",
    "inpaint",
    "invert_features",
    "make_recipe",
    "measure_noise",
    "recipe_from_json",
    "restore",
    "super_resolve",
]

_HOMES = {
    "BatchEvent": "run.batch",
    "BatchResult": "run.batch",
    "CameraReport": "run.camera_maps",
    "DipError": "errors",
    "Event": "run.events",
    "Failed": "errors",
    "NoiseReport": "run.measuring",
    "Recipe": "run.recipe",
    "Refused": "errors",
    "Restoration": "run.events",
    "batch": "run.batch",
    "blind_deblur": "run.calls",
    "camera_maps": "run.camera_maps",
    "deblur": "run.calls",
    "denoise": "run.calls",
    "guide": "run.calls",
    "inpaint": "run.calls",
    "invert_features": "run.network_calls",
    "make_recipe": "run.recipe",
    "measure_noise": "run.measuring",
    "recipe_from_json": "run.recipe",
    "restore": "run.api",
    "super_resolve": "run.calls",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name == "explore":
        return import_module("napari_dip.explore")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
