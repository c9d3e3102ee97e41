"""Settings that several tasks share: noise, smoothing, exposures, series, and finer grids.

Each comes with the functions that check it and that add it to a problem or a prior.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from napari_dip.errors import make_refusal
from napari_dip.tasks.base import IMAGE_AXES, NoiseSettings, load_setting
from napari_dip.tasks.noise_models.registry import NOISE_MODELS
from napari_dip.tasks.priors.registry import PRIOR_SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import AnyArray, ImageHeader
    from napari_dip.tasks.base import FitInput, TaskPlan

#: Pixels around a position that determine most of a network's prediction; BM3D searches 16.
CONTEXT_RADIUS = 32
#: Blind spot of tasks that hide single pixels, independent of the noise correlation.
SINGLE_PIXEL = ((1,),)
#: Upscaling factors of one axis; the Deep Image Prior paper shows 4 and 8.
ALLOWED_FACTORS = (1, 2, 3, 4, 8)
#: Maximum margin on each side of a volume: the field's size divided by this. The full radius of a
#: deep PSF would enlarge the object eightfold.
MARGIN_DIVISOR = 4
_DETECTOR_NOISE_LABELS = {
    model.key: model.label for model in NOISE_MODELS.values() if model.has_variance_model
}

#: The weight of a penalty, and a value in the units of the image.
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
GreyValue = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
DetectorNoiseSetting = Annotated[str, load_setting("noise", choices=_DETECTOR_NOISE_LABELS)]
ReadNoise = Annotated[
    Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None, load_setting("read_noise")
]
CameraGain = Annotated[
    Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None, load_setting("gain")
]
#: Largest side of a blind spot in pixels, twice the longest measured lag and one.
MAX_BLIND_SPOT_SIDE = 11


def normalise_blind_spot(value: object) -> str:
    """Convert the shape of a blind spot to its text in recipes, without empty margins.

    Parameters
    ----------
    value : str
        Rows of 1 and 0 with "/" between, such as "010/111/010"; "": measured.

    Raises
    ------
    PydanticCustomError
        If the text does not describe such a shape.
    """
    rows = ["".join(row.split()) for row in str(value).split("/")]
    if rows == [""]:
        return ""
    size, middle = (len(rows), len(rows[0])), rows[len(rows) // 2]
    requirement = ""
    if set("".join(rows)) - {"0", "1"} or {len(row) for row in rows} != {size[1]} or not size[1]:
        requirement = "rows of 1 and 0, equally long, with / between, such as 010/111/010"
    elif max(size) > MAX_BLIND_SPOT_SIDE:
        requirement = f"at most {MAX_BLIND_SPOT_SIDE} pixels high and wide"
    elif not size[0] % 2 or not size[1] % 2:
        requirement = "odd in height and width, so that one pixel is in the middle"
    elif middle[size[1] // 2] != "1":
        requirement = "1 in the middle, where the predicted pixel is"
    elif "".join(rows) != "".join(rows)[::-1]:
        requirement = "the same after half a turn, as a correlation is"
    if requirement:
        raise PydanticCustomError(
            "blind_spot", "Input should be {requirement}", {"requirement": requirement}
        )
    for _ in range(2):  # margins along Y, then along X
        while "1" not in rows[0]:
            rows = rows[1:-1]
        rows = ["".join(column) for column in zip(*rows, strict=True)]
    return "/".join(rows)


def read_blind_spot(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the rows of a blind spot in the form of `TaskPlan.blind_spot_shape`."""
    return tuple(tuple(map(int, row)) for row in text.split("/")) if text else ()


def has_series(values: Mapping[str, Any]) -> bool:
    """Return whether there are frames or planes, for `Setting.relevant_when`."""
    return not set("TZ").isdisjoint(values[IMAGE_AXES])


BlindSpotShape = Annotated[
    str, BeforeValidator(normalise_blind_spot), load_setting("blind_spot_shape")
]
TotalVariationWeight = Annotated[Weight, load_setting("smoothing")]
TotalVariationKind = Annotated[
    Literal["isotropic", "anisotropic"],
    load_setting("smoothing_kind", relevant_when=lambda values: values["smoothing"] > 0),
]

#: Number of frames or planes from which on joint training is the default: 12 frames of 64 x 64 took
#: 12.9 CPU seconds with it, and 13.0 with warm starts (cancer_cell_migration, `fast`).
MIN_JOINT_FRAMES = 16
#: Number of tiles from which on joint training is the default: 16 tiles of 128 x 128 took 15 to 17
#: % more CPU time with it than with warm starts (docs/constants.md).
MIN_JOINT_TILES = 32


def make_total_variation_penalty(
    fit_input: FitInput, weight: float, kind: str
) -> tuple[tuple[float, Penalty], ...]:
    """Return the penalty with its weight, or nothing for weight 0."""
    from napari_dip.engine.likelihood.penalties import (
        make_anisotropic_total_variation,
        make_total_variation,
    )

    if not weight:
        return ()
    penalty = make_anisotropic_total_variation if kind == "anisotropic" else make_total_variation
    return ((weight, penalty(fit_input.noise.rms_std)),)


def has_blind_spot_setting(task: Any) -> bool:
    """Return whether the user of a task can say that neighbouring pixels share no noise."""
    return hasattr(task, "blind_spot_shape")


def make_noise_settings(task: Any, *, is_white: bool = False) -> NoiseSettings:
    """Return the noise settings of a task that has all three.

    A blind spot of one pixel that the user draws means that neighbouring pixels share no noise.
    """
    return NoiseSettings(
        model=task.noise,
        read_noise=task.read_noise,
        gain=task.gain,
        is_white=is_white,
        is_known_white=getattr(task, "blind_spot_shape", "") == "1",
    )


def refuse_content(array: AnyArray, name: str, total: int = 0) -> Refusal | None:
    """Refuse an image by the values of its measured pixels.

    Parameters
    ----------
    array : ndarray
        All measured pixels.
    name : str
        Name of the image in messages.
    total : int
        Number of all pixels, if others are missing or masked.
    """
    import numpy as np

    total = total or array.size
    if array.dtype.kind == "f":
        if nans := int(np.isnan(array).sum()):
            return make_refusal("pixels-nan", count=nans, total=total, name=name)
        if infinite := int(np.isinf(array).sum()):
            return make_refusal("pixels-infinite", count=infinite, total=total, name=name)
    low, high = array.min(), array.max()
    if low == high:
        facts = {"total": array.size, "value": low, "masked": array.size < total}
        return make_refusal("pixels-constant", name=name, **facts)
    span = float(high) - float(low)
    largest = max(abs(float(low)), abs(float(high)))
    # in single precision squares must stay finite, and contrast must exceed rounding errors
    if not 1e-18 < span < 1e18 or span < 16 * float(np.spacing(np.float32(largest))):
        return make_refusal("pixels-range", name=name, low=low, high=high)
    return None


def average_exposures(fit_input: FitInput) -> FitInput:
    """Replace two repeated exposures by their mean, weighted by inverse noise variance.

    For normal noise, that mean is a sufficient statistic: a network that gets it misses nothing.
    The variance of the mean is again linear in brightness.

    Parameters
    ----------
    fit_input : FitInput
        Returned unchanged if it has one exposure only.
    """
    import torch

    from napari_dip.engine.likelihood.fidelity import NoiseVariance

    if len(fit_input.measurement) == 1:
        return fit_input
    noise_variance = fit_input.noise.noise_variance
    axes = tuple(range(2, fit_input.measurement.ndim))
    pixel_variance = noise_variance.compute_variance(fit_input.measurement)
    precision = 1 / pixel_variance.mean(axes, keepdim=True)  # (B, C, 1, ...)
    weight = precision / precision.sum(0, keepdim=True)
    mean = (weight * fit_input.measurement).sum(0, keepdim=True)
    gain, intercept, floor = (
        (weight**2 * values).sum(0, keepdim=True)
        for values in (noise_variance.gain, noise_variance.intercept, noise_variance.floor)
    )
    mean_noise = NoiseVariance(gain=gain, intercept=intercept, floor=floor)
    level = float(mean_noise.compute_variance(mean).mean().sqrt())
    noise = replace(fit_input.noise, noise_variance=mean_noise, rms_std=level)
    neighbours = fit_input.neighbouring_frames
    if neighbours is not None:
        neighbours = (neighbours * torch.cat([weight, weight], 1)).sum(0, keepdim=True)
    return replace(fit_input, measurement=mean, noise=noise, neighbouring_frames=neighbours)


UseNeighbouringFrames = Annotated[
    bool, load_setting("neighbouring_frames", relevant_when=has_series)
]
TemporalSmoothing = Annotated[
    Weight,
    load_setting("temporal_smoothing", relevant_when=lambda values: "T" in values[IMAGE_AXES]),
]
#: Training modes of a series: one network, warm starts, or independent networks.
SeriesTrainingMode = Literal["joint", "warm-start", "independent"]


def choose_series_training(
    choice: str, count: int, *, can_be_joint: bool, are_tiles: bool = False
) -> SeriesTrainingMode:
    """Choose how `count` frames, planes or tiles share a network.

    `can_be_joint` is `can_train_jointly` of task and prior; without it, there are warm starts.
    """
    if choice == "independent":
        return "independent"
    min_count = MIN_JOINT_TILES if are_tiles else MIN_JOINT_FRAMES
    prefers_joint = choice == "joint" or (choice == "auto" and count >= min_count)
    return "joint" if prefers_joint and can_be_joint and count > 1 else "warm-start"


def can_train_jointly(plan: TaskPlan, prior_key: str) -> bool:
    """Return whether one network of a prior can be trained on several images of a task.

    The task has to allow it, and the prior to be one whose network takes frames as input: the image
    and its neighbours. Any other network is fitted to one image only.
    """
    takes_frames = PRIOR_SPECS[prior_key].input_traits.has_neighbour_frames
    return plan.allows_joint_training and takes_frames


def get_series_training(
    plan: TaskPlan, prior_key: str, count: int, *, are_tiles: bool = False
) -> SeriesTrainingMode:
    """Return how `count` frames, planes or tiles of a planned task share a network."""
    can_be_joint = can_train_jointly(plan, prior_key)
    return choose_series_training(
        plan.series_training, count, can_be_joint=can_be_joint, are_tiles=are_tiles
    )


def get_stacked_axes(header: ImageHeader) -> str:
    """Return the axes T and Z with more than one plane, time first."""
    return "".join(axis for axis in "TZ" if header.get_size(axis) > 1)


def count_planes(header: ImageHeader) -> int:
    """Return the number of frames times the number of planes."""
    return prod(header.get_sizes(get_stacked_axes(header)))


def compute_plane_distance(header: ImageHeader) -> float:
    """Return the Z step in pixels of the plane; 1 if the header does not state it."""
    if header.scale is None or header.units is None or "Z" not in header.axes:
        return 1.0
    z, x = (header.axes.index(axis) for axis in "ZX")
    if header.shape[z] < 2 or header.units[z] != header.units[x] or not header.scale[x] > 0:
        return 1.0
    return abs(header.scale[z]) / header.scale[x] or 1.0


def add_temporal_smoothing(problem: Problem, fit_input: FitInput, weight: float) -> Problem:
    """Add temporal smoothing to a problem, if there is a previous frame.

    For priors that take the measurement as input, it is a step of postprocessing, weighted by the
    predicted variance. For all others it is a term of the loss.
    """
    from napari_dip.engine.likelihood.penalties import make_temporal_term, smooth_temporally
    from napari_dip.engine.problem import append_postprocessing

    previous, prior_spec = fit_input.previous_frame, PRIOR_SPECS[fit_input.prior_key]
    if previous is None or not weight or not prior_spec.allows_temporal_smoothing:
        return problem
    if not prior_spec.input_traits.contains_image:
        term = make_temporal_term(previous, fit_input.noise.rms_std, weight, problem.postprocess)
        return replace(problem, terms=(*problem.terms, term))
    return append_postprocessing(
        problem, lambda _, final: smooth_temporally(final, previous, weight)
    )


def normalise_factor(value: object, *, allows_one: bool) -> str:
    """Convert an upscaling factor, or one for each axis, to its text in recipes, such as "1,4".

    Parameters
    ----------
    value : int, str or sequence of int
    allows_one : bool
        Whether all factors may be 1.

    Raises
    ------
    PydanticCustomError
        If a factor is not allowed.
    """
    texts = [text.strip() for text in str(value).split(",")]
    if isinstance(value, list | tuple):
        texts = [str(factor) for factor in value]
    numbers = [int(text) for text in texts if text in map(str, ALLOWED_FACTORS)]
    is_allowed = len(numbers) == len(texts) and len(numbers) in (1, 2, 3)
    if not is_allowed or (max(numbers) == 1 and not allows_one):
        choices = "1, 2, 3, 4 or 8" if allows_one else "2, 3, 4 or 8"
        raise PydanticCustomError(
            "factor",
            "Input should be {choices}, or one of 1, 2, 3, 4, 8 for each axis as Y,X or Z,Y,X",
            {"choices": choices},
        )
    is_isotropic = len(numbers) < 3 and len(set(numbers)) == 1
    return str(numbers[0]) if is_isotropic else ",".join(map(str, numbers))


def get_axis_factors(factor: str, axes: str) -> tuple[int, ...]:
    """Return the factor of each axis; a single number holds for Y and X.

    Parameters
    ----------
    factor : str
        From `normalise_factor`.
    axes : str
        Spatial axes of a fit, or those of an image; other axes have the factor 1.
    """
    numbers = [int(text) for text in factor.split(",")]
    factors = {"Z": numbers[0] if len(numbers) > 2 else 1, "Y": numbers[-2:][0], "X": numbers[-1]}
    return tuple(factors.get(axis, 1) for axis in axes)


def refuse_factor_depth(factor: str, header: ImageHeader, axes: str) -> Refusal | None:
    """Refuse a factor along Z where single planes are fitted."""
    if factor.count(",") > 1 and "Z" not in axes:
        return make_refusal("factor-depth", factor=factor, name=header.name)
    return None


def multiply_sizes(sizes: tuple[int, ...], factors: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a grid that is finer by these factors."""
    return tuple(size * factor for size, factor in zip(sizes, factors, strict=True))


def get_spatial_axes(fit_input: FitInput) -> str:
    """Return the axes of a fit; T counts as Z, since no factor or PSF here concerns time."""
    return "ZYX"[-len(fit_input.grid) :]


def compute_object_margin(grid: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the pixels of the object beyond the field, on either side of each axis.

    Parameters
    ----------
    grid : tuple of int
        Size of the field of view.
    sizes : tuple of int
        Size of the PSF.
    """
    radius = tuple(size // 2 for size in sizes)
    if len(grid) == 2:
        return radius
    return tuple(
        min(pixels, -(-count // MARGIN_DIVISOR)) for pixels, count in zip(radius, grid, strict=True)
    )


def compute_object_size(grid: tuple[int, ...], margin: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of the object whose blurred image fills the field of view."""
    return tuple(count + 2 * pixels for count, pixels in zip(grid, margin, strict=True))


def make_crop_to_field(margin: tuple[int, ...]) -> Callable[[Estimate], Estimate]:
    """Return the postprocessing that crops the object to the field of view.

    Parameters
    ----------
    margin : tuple of int
        Pixels beyond the field on either side of each axis.
    """

    def crop(image: Tensor) -> Tensor:
        for axis, pixels in enumerate(margin, start=2):
            image = image.narrow(axis, pixels, image.shape[axis] - 2 * pixels)
        return image

    return lambda estimate: estimate.map(crop)
