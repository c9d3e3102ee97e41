"""Restore one noisy image with an untrained network fitted to it alone.

    import napari_dip as dip

    result = dip.denoise(image, preset="balanced", seed=0)
    result.image, result.uncertainty, result.stop_reason

Importing this loads neither torch nor Qt; both come when they are first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

from napari_dip.version import __version__

if TYPE_CHECKING:
    from napari_dip.errors import DipError, FailedError, RefusedError
    from napari_dip.pipeline.api import (
        blind_deblur,
        deblur,
        denoise,
        guide,
        inpaint,
        invert_features,
        restore,
        super_resolve,
    )
    from napari_dip.pipeline.camera_maps import CameraReport, camera_maps
    from napari_dip.pipeline.events import Event, Restoration
    from napari_dip.pipeline.noise_report import NoiseReport, measure_noise
    from napari_dip.pipeline.recipe import Recipe, make_recipe, recipe_from_json
    from napari_dip.scale.batch.jobs import BatchEvent
    from napari_dip.scale.batch_run import BatchResult, batch

__all__ = [
    "BatchEvent",
    "BatchResult",
    "CameraReport",
    "DipError",
    "Event",
    "FailedError",
    "NoiseReport",
    "Recipe",
    "RefusedError",
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

_LAZY_IMPORTS = {
    "BatchEvent": "scale.batch.jobs",
    "BatchResult": "scale.batch_run",
    "CameraReport": "pipeline.camera_maps",
    "DipError": "errors",
    "Event": "pipeline.events",
    "FailedError": "errors",
    "NoiseReport": "pipeline.noise_report",
    "Recipe": "pipeline.recipe",
    "RefusedError": "errors",
    "Restoration": "pipeline.events",
    "batch": "scale.batch_run",
    "blind_deblur": "pipeline.api",
    "camera_maps": "pipeline.camera_maps",
    "deblur": "pipeline.api",
    "denoise": "pipeline.api",
    "guide": "pipeline.api",
    "inpaint": "pipeline.api",
    "invert_features": "pipeline.api",
    "make_recipe": "pipeline.recipe",
    "measure_noise": "pipeline.noise_report",
    "recipe_from_json": "pipeline.recipe",
    "restore": "pipeline.api",
    "super_resolve": "pipeline.api",
}


#: Names of before version 0.1, which still work for one version.
_OLD_NAMES = {"Failed": "FailedError", "Refused": "RefusedError"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name == "explore":
        return import_module("napari_dip.explore")
    if name in _OLD_NAMES:
        new_name = _OLD_NAMES[name]
        warn(f"napari_dip.{name} is now {new_name}.", FutureWarning, stacklevel=2)
        name = new_name
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY_IMPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
