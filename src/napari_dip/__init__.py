"""Restore one noisy image with an untrained network fitted to it alone.

    import napari_dip as dip

    result = dip.denoise(image, preset="balanced", seed=0)
    result.image, result.uncertainty, result.stop_reason
    result.save("denoised.tif")

Importing this loads neither torch nor Qt; both come when they are first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

from napari_dip.version import __version__

if TYPE_CHECKING:
    from napari_dip import explore as explore
    from napari_dip.errors import DipError, FailedError, RefusedError
    from napari_dip.pipeline.api import (
        blind_deblur,
        deblur,
        denoise,
        guide,
        inpaint,
        invert_features,
        plan,
        restore,
        run,
        super_resolve,
    )
    from napari_dip.pipeline.interactive_run import Run
    from napari_dip.pipeline.measure.camera_maps import CameraReport, measure_camera_maps
    from napari_dip.pipeline.measure.noise_report import NoiseReport, measure_noise
    from napari_dip.pipeline.measure.psf_measurement import PsfReport, measure_psf
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.recipe import (
        Recipe,
        SettingField,
        SettingTable,
        list_settings,
        recipe_from_json,
    )
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.public_types import RecipeFunction
    from napari_dip.scale.batch.jobs import BatchEvent
    from napari_dip.scale.batch_run import BatchResult, batch
    from napari_dip.scale.blocks import restore_blocks

    #: The function of `pipeline.recipe`, as type checkers see the settings of each task.
    make_recipe: RecipeFunction[Recipe]

__all__ = [
    "BatchEvent",
    "BatchResult",
    "CameraReport",
    "DipError",
    "Event",
    "FailedError",
    "NoiseReport",
    "Plan",
    "PsfReport",
    "Recipe",
    "RefusedError",
    "Restoration",
    "Run",
    "SettingField",
    "SettingTable",
    "__version__",
    "batch",
    "blind_deblur",
    "deblur",
    "denoise",
    "explore",
    "guide",
    "inpaint",
    "invert_features",
    "list_settings",
    "make_recipe",
    "measure_camera_maps",
    "measure_noise",
    "measure_psf",
    "plan",
    "recipe_from_json",
    "restore",
    "restore_blocks",
    "run",
    "super_resolve",
]

#: Modules of the public names that are not those of `pipeline.api`.
_MODULES = {
    "errors": ("DipError", "FailedError", "RefusedError"),
    "pipeline.measure.camera_maps": ("CameraReport", "measure_camera_maps"),
    "pipeline.progress": ("Event",),
    "pipeline.interactive_run": ("Run",),
    "pipeline.measure.noise_report": ("NoiseReport", "measure_noise"),
    "pipeline.measure.psf_measurement": ("PsfReport", "measure_psf"),
    "pipeline.plan.types": ("Plan",),
    "pipeline.recipe": (
        *("Recipe", "SettingField", "SettingTable"),
        *("make_recipe", "list_settings", "recipe_from_json"),
    ),
    "pipeline.restoration": ("Restoration",),
    "scale.batch.jobs": ("BatchEvent",),
    "scale.batch_run": ("BatchResult", "batch"),
    "scale.blocks": ("restore_blocks",),
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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names), "pipeline.api")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
