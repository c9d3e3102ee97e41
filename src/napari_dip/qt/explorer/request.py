"""What an experiment is asked for: frozen when Run is pressed, whatever the viewer shows later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.explore.experiment_setup import make_experiment_recipe, plan_centre_fit
from napari_dip.io import ImageSpec
from napari_dip.pipeline.machine import format_duration
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.qt.explorer.run import ExperimentRequest
from napari_dip.qt.shell.layers import METADATA_KEY, get_full_resolution
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.tasks.priors.deep_image_prior import list_architectures

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari.viewer
    from napari.layers import Image

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.explorer.settings import ExplorerSettings

_FITS = {"impedance": 4, "spectrum": 2}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plane:
    """The plane of a layer that is in sight.

    Attributes
    ----------
    spec : ImageSpec
    pixels : array
        (Y, X) or (Y, X, S), lazy or not.
    at : tuple of int
        Where it lies along the layer's other axes.
    counts : tuple of int
        How many planes there are along these.
    """

    spec: ImageSpec
    pixels: Any
    at: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PlannedExperiment:
    """An experiment that can begin.

    Attributes
    ----------
    request : ExperimentRequest
    plan : Plan
        Of one of its fits.
    pixels : mapping of str to array
    line, line_on : str
        What it takes, for the user, before it begins and while it is on.
    look : mapping
        Where pictures of the part that is looked at lie, as `add_image` wants it.
    """

    request: ExperimentRequest
    plan: Plan
    pixels: Mapping[str, Any]
    line: str
    line_on: str
    look: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What it is called where others wait for it."""
        return f"Prior explorer {self.request.name}"


def plan_experiment(
    viewer: napari.viewer.Viewer, image: Image, truth: Any, settings: ExplorerSettings
) -> PlannedExperiment | Refusal:
    """Note what an experiment is asked for, or say why it cannot be.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose sliders say which plane of a stack is meant.
    image : Image
    truth : Image or None
    settings : ExplorerSettings
    """
    plane, machine, side = (
        find_visible_plane(viewer, image),
        get_allowed_machine(),
        settings.side.value(),
    )
    pixels = {"image": plane.pixels}
    try:
        recipe = make_experiment_recipe(**settings.values())
    except Refused as no:
        return no.refusal
    plan = plan_centre_fit(recipe, plane.spec, side, machine)
    if isinstance(plan, Refusal):
        return plan
    if truth is not None and settings.experiment != "impedance":
        other = find_visible_plane(viewer, truth)
        if other.spec.shape[:2] != plane.spec.shape[:2]:
            sizes = {
                "size": _format_image_size(other.spec),
                "other": _format_image_size(plane.spec),
            }
            return refusal("truth-size", name=truth.name, image=image.name, **sizes)
        pixels["truth"] = other.pixels
    only = None
    if settings.experiment == "architectures":
        architectures = list_architectures(plan.budget.widths, plan.budget.learning_rate)
        only = tuple(name for name in settings.only() if name in architectures)
    request = ExperimentRequest(
        experiment=settings.experiment,
        name=image.name,
        axes=plane.spec.axes,
        settings={**settings.values(), "crop": side},
        machine=machine,
        only=only,
    )
    fits = _FITS.get(request.experiment, 2 * len(only or ()))
    seconds = START_SECONDS + fits * (plan.costs.fit - START_SECONDS)
    time = f", up to {format_duration(seconds)} if nothing else runs"
    line, line_on = (describe_experiment(plan, plane, fits, item) for item in (time, ""))
    return PlannedExperiment(
        request=request,
        plan=plan,
        pixels=pixels,
        line=line,
        line_on=line_on,
        look=make_crop_attributes(image, plane, plan),
    )


def describe_experiment(plan: Plan, plane: Plane, fits: int, time: str) -> str:
    """Say what an experiment takes.

    Parameters
    ----------
    plan : Plan
        Of one fit.
    plane : Plane
    fits : int
    time : str
        Goes behind it.
    """
    said = [f"{plan.work_summary}: {fits} fits of {plan.budget.iterations} iterations{time}."]
    if plan.source.grid != plane.spec.grid:
        said.append("The middle of the image is looked at.")
    if plane.counts:
        place = ", ".join(
            f"{at + 1} of {count}" for at, count in zip(plane.at, plane.counts, strict=True)
        )
        said.append(f"The plane in sight is looked at: {place}.")
    return "\n".join([*said, *map(str, plan.notes)])


def find_visible_plane(viewer: napari.viewer.Viewer, layer: Image) -> Plane:
    """Give the plane that the viewer's sliders stand at; of a picture, all of it."""
    data = get_full_resolution(layer)
    lead = len(data.shape) - (3 if layer.rgb else 2)
    point = layer.world_to_data(viewer.dims.point[-layer.ndim :])
    at = tuple(
        int(np.clip(round(float(item)), 0, count - 1))
        for item, count in zip(point[:lead], data.shape[:lead], strict=True)
    )
    pixels = data[at] if lead else data
    axes = "YXS" if layer.rgb else "YX"
    shape = tuple(int(count) for count in pixels.shape)
    spec = ImageSpec(name=layer.name, shape=shape, dtype=np.dtype(data.dtype).name, axes=axes)
    return Plane(
        spec=spec, pixels=pixels, at=at, counts=tuple(int(count) for count in data.shape[:lead])
    )


def make_crop_attributes(layer: Image, plane: Plane, plan: Plan) -> dict[str, Any]:
    """Lay pictures of the part that is looked at where it is, in the layer's colours.

    Parameters
    ----------
    layer : Image
    plane : Plane
    plan : Plan
        Whose source has the size of that part.
    """
    start = [
        (whole - part) // 2 for whole, part in zip(plane.spec.grid, plan.source.grid, strict=True)
    ]
    first = np.array([*plane.at, *start], float)
    steps = np.vstack([first, first + np.eye(layer.ndim)[-2], first + np.eye(layer.ndim)[-1]])
    origin, down, across = (np.asarray(layer.data_to_world(step))[-2:] for step in steps)
    linear = np.stack([down - origin, across - origin], 1)
    look: dict[str, Any] = {"units": tuple(layer.units)[-2:]}
    if np.allclose(linear, np.diag(np.diag(linear))):
        look |= {"scale": np.diag(linear), "translate": origin}
    else:
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = linear, origin
        look["affine"] = matrix
    colours = {} if layer.rgb else {"colormap": layer.colormap.name}
    if not layer.rgb:
        colours["contrast_limits"] = tuple(layer.contrast_limits)
    return {**look, **colours, "metadata": {METADATA_KEY: {"inputs": {}}}}


def add_stack_axis(look: Mapping[str, Any]) -> dict[str, Any]:
    """Give the look of a stack of such pictures: one more axis, in front."""
    more = dict(look)
    more["units"] = ("pixel", *look["units"])
    if "affine" in look:
        matrix = np.eye(4)
        matrix[1:, 1:] = look["affine"]
        return {**more, "affine": matrix}
    return {**more, "scale": (1.0, *look["scale"]), "translate": (0.0, *look["translate"])}


def _format_image_size(spec: ImageSpec) -> str:
    height, width = spec.grid
    return f"{width} × {height} pixels"
