"""Inpaint: fill in pixels that are missing or marked, from all the others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.io.header import match_axes
from napari_dip.tasks.base import (
    EXTRA_INPUTS,
    IMAGE_INPUT,
    FitInput,
    InspectedPixels,
    Inspection,
    Task,
    TaskPlan,
    TaskSetup,
    TaskSpec,
    load_input,
    load_setting,
)
from napari_dip.tasks.noise_models.impulses import exclude_missing, fill_missing
from napari_dip.tasks.priors.image_input import append_upscaling
from napari_dip.tasks.priors.masked_input import (
    MAX_SMOOTH_PIXELS,
    average_border_holes,
    blend_with_smooth_filling,
    find_border_holes,
    is_scattered,
    measure_hole_depth,
    measure_hole_width,
    measure_widest_hole,
)
from napari_dip.tasks.priors.prior_spec import PriorOptions, RandomInputOptions
from napari_dip.tasks.priors.random_input import validate_by_squared_error
from napari_dip.tasks.priors.registry import (
    AUTOMATIC,
    PRIOR_SPECS,
    PriorChoices,
    get_denoising_prior,
)
from napari_dip.tasks.shared_settings import (
    SINGLE_PIXEL,
    compute_plane_distance,
    count_planes,
    refuse_content,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, PostprocessingSteps, Problem
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, ImageHeader
    from napari_dip.io.header import Headers

#: Depth of a hole in pixels from which on its surroundings do not predict its interior; deeper than
#: scratches and letters (docs/benchmarks/inpainting.md).
MIN_DEEP_HOLE = 12
#: Z step in pixels of the plane from which on the plan tells that planes are filled in together: at
#: four to eight, scattered pixels are up to 1.2 dB better plane by plane.
MIN_DISTANT_SPACING = 2.0
#: Share of marked pixels from which on a mask of shapes may be reversed: the text, the region and
#: the large hole of the Deep Image Prior page have 0.04, 0.03 and 0.19.
MIN_REVERSED_FRACTION = 0.5
#: Least share of marked pixels that have the highest value, for a mask of saturated places.
MIN_HIGHEST_FRACTION = 0.5
#: Least brightness of the pixels beside a mask of saturated places, from the median of all unmarked
#: pixels (0) to the highest value (1): more beside 0.92 of 245 such masks, and beside 0.05 of 372
#: masks drawn in white elsewhere.
MIN_BRIGHTNESS_BESIDE = 0.4
#: Maximum number of labels that a message lists.
MAX_LISTED_LABELS = 8
#: Maximum side of a validation patch in a stack, in pixels: single pixels are predicted from the
#: plane, patches of 16 cost 0.1 dB on a small crop (docs/constants.md).
MAX_VALIDATION_PATCH = 8
#: Standard deviation of the jitter of the random input with skip connections.
INPAINT_JITTER = 0.03
#: Channels of each skip connection with random input.
INPAINT_SKIP_CHANNELS = 16
#: Greatest share of marked neighbours of weak pixels with the same value in a mask without labels,
#: along Y or X: at most 0.59 after JPEG or resampling, 0.61 or more in labels 5 pixels wide.
MAX_EQUAL_NEIGHBOURS = 0.6
#: Side of the blocks of JPEG in pixels: what it adds around marks is in the same block.
JPEG_BLOCK = 8
#: Greatest median of weak pixels that JPEG may have added, as a share of the highest value: at most
#: 0.05 at qualities 20 to 100 in 28 masks, where their neighbours are mostly equal.
MAX_RING_SHARE = 0.1
INPAINTING_PRIORS = PriorChoices("inpaint")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Inpaint(Task):
    """Settings of inpainting: which pixels to fill in, and whether to denoise the others."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="inpaint",
        title="Inpaint",
        result_suffix="inpainted",
        methods_phrase="filled in where pixels were missing",
        accepts_stacks=True,
        min_depth=2,
        inputs=(IMAGE_INPUT, load_input("mask", layer_types=("labels", "shapes", "image"))),
    )

    invert_mask: Annotated[
        bool,
        load_setting("invert_mask", relevant_when=lambda values: "mask" in values[EXTRA_INPUTS]),
    ] = False
    label: Annotated[
        Annotated[int, Field(ge=1, le=2**24)] | None,
        load_setting("label", relevant_when=lambda values: "mask" in values[EXTRA_INPUTS]),
    ] = None
    grow: Annotated[Annotated[int, Field(ge=0, le=64)], load_setting("grow")] = 0
    unmasked: Annotated[Literal["keep", "denoise"], load_setting("unmasked")] = "keep"
    prior: Annotated[str, load_setting("inpaint_prior", choices=INPAINTING_PRIORS)] = AUTOMATIC

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Refuse a mask of another size, and integer images without a mask."""
        if "mask" in extra_headers:
            refusal = refuse_mask_header(header, extra_headers["mask"])
        elif self.label is not None or self.invert_mask:
            refusal = make_refusal("mask-missing", name=header.name)
        else:
            may_hold_nan = header.dtype.startswith("float")
            refusal = None if may_hold_nan else make_refusal("holes-none", name=header.name)
        keeps_noise = self.prior != AUTOMATIC or axes != "YX"
        return refusal or TaskPlan(
            stacks="volume",  # neighbouring planes show most of what is missing in a plane
            prior_key=INPAINTING_PRIORS.select(self.prior)[0].key,
            fallback_prior_key="" if keeps_noise else get_denoising_prior(knows_noise=False).key,
            other_priors=self._list_other_priors(axes),
            # filling in needs the closest neighbours; noise that they share may be kept
            blind_spot_shape=SINGLE_PIXEL if keeps_noise else (),
            uses_half_resolution=not keeps_noise,
            keeps_measured_pixels=self.unmasked == "keep",
            notes=_list_header_notes(header, extra_headers.get("mask"), axes),
        )

    def _list_other_priors(self, axes: str) -> dict[str, str]:
        """List the priors that holes with a shape may select, as `TaskPlan.other_priors`."""
        if PRIOR_SPECS[INPAINTING_PRIORS.select(self.prior)[0].key].input_traits.is_random_noise:
            return {}
        others = {_get_suitable_prior("narrow"): ""}
        if self.prior == AUTOMATIC and axes == "YX":
            wide = f"holes wider than {2 * MIN_DEEP_HOLE} pixels"
            others[_get_suitable_prior("wide")] = wide
        return others

    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Find the marked and NaN pixels, and choose the prior by them."""
        name, extra_inputs = pixels.header.name, pixels.extra_inputs
        mask = extra_inputs.get("mask")
        missing = dilate_holes(np.isnan(pixels.stack), self.grow)
        if mask is not None:
            drawn = parse_mask(mask, self.label, is_inverted=self.invert_mask)
            marked = dilate_holes(drawn, self.grow)
            if refusal := refuse_holes(mask, name, self.label, marked):
                return refusal
            missing = missing | marked
        if not missing.any():
            return refuse_content(pixels.image, name) or make_refusal("holes-none", name=name)
        prior_key, reason = self._choose_prior(plan.prior_key, ~missing)
        notes = []
        if mask is not None:
            notes = _list_reversed_mask_notes(missing) + _list_saturation_notes(pixels.stack, drawn)
        if mask is not None and self.label is None:
            notes += _list_weak_pixel_notes(mask)
        planes, total = count_missing_planes(~missing)
        if planes:
            notes.append(make_note("planes-missing", count=planes, total=total))
        return Inspection(
            measured_mask=~missing,
            prior_key=prior_key,
            prior_reason=reason,
            notes=tuple(notes),
            convert_inputs=lambda *_: ({}, ()),  # the mask is part of the measured mask
        )

    def _choose_prior(self, prior_key: str, measured_mask: BoolArray) -> tuple[str, str]:
        """Choose by the holes: masked input for scattered or narrow ones, else random input.

        The mask is (N, C, *grid). Return the key of the prior, and the reason.
        """
        if PRIOR_SPECS[prior_key].input_traits.is_random_noise:
            return prior_key, "you chose it"
        if measured_mask.ndim > 4:
            return _choose_stack_prior(prior_key, measured_mask)
        holes = [hole_mask for hole_mask in np.any(~measured_mask, axis=1) if hole_mask.any()]
        if all(is_scattered(hole) for hole in holes):
            return prior_key, "the missing pixels are scattered, so their neighbours predict them"
        narrow_key = _get_suitable_prior("narrow")
        if self.prior != AUTOMATIC:
            return narrow_key, "you chose it; the holes have a shape, copies of which are hidden"
        deepest = max(map(measure_hole_depth, holes))
        edge = "to be predicted from its edge"
        if deepest > MIN_DEEP_HOLE:
            wide = f"a hole is more than {2 * MIN_DEEP_HOLE} pixels wide"
            reason = f"{wide}, or half as deep at a border: too wide {edge}"
            return _get_suitable_prior("wide"), reason
        width = max(map(measure_hole_width, holes))
        return narrow_key, f"the widest hole is about {width} pixels wide, narrow enough {edge}"

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Build the prior, and the problem of the measured pixels alone."""
        from napari_dip.engine.problem import append_postprocessing

        if fit_input.half_resolution is not None:  # its holes are filled
            options = PriorOptions(predicts_measured=True)
            setup = PRIOR_SPECS[fit_input.prior_key].build_setup(fit_input, rng, options)
            return replace(setup, problem=append_upscaling(fit_input, setup.problem))
        if patches := choose_validation_patches(fit_input.masks.low_noise):
            masks = fit_input.masks.redraw_validation(*patches)
            fit_input = replace(fit_input, masks=masks)
        fit_input = exclude_missing(fit_input)
        # noise that neighbours share reaches the holes, unless measured pixels are predicted, too
        predicts_measured = self.unmasked == "denoise" or fit_input.noise.correlation is not None
        options = PriorOptions(
            predicts_measured=predicts_measured,
            random_input=RandomInputOptions(
                skip_channels=INPAINT_SKIP_CHANNELS, jitter=INPAINT_JITTER
            ),
        )
        setup = PRIOR_SPECS[fit_input.prior_key].build_setup(fit_input, rng, options)
        problem = validate_by_squared_error(fit_input, setup.problem)
        if not predicts_measured:
            problem = _keep_measurement(fit_input, problem)
        problem = append_postprocessing(problem, partial(fill_missing, fit_input))
        if float((1 - fit_input.masks.measured).sum()) <= MAX_SMOOTH_PIXELS:
            problem = _blend_filling(fit_input, problem, setup.prior)
        return replace(setup, problem=problem)


def _keep_measurement(fit_input: FitInput, problem: Problem) -> Problem:
    """Return the problem with the measurement and its noise as the image."""

    def keep(estimate: Estimate) -> Estimate:
        variance = fit_input.noise.noise_variance.compute_variance(fit_input.measurement)
        return estimate._replace(mean=fit_input.measurement, log_variance=variance.log())

    return replace(problem, postprocess=keep, full_postprocess=None)


def _blend_filling(fit_input: FitInput, problem: Problem, prior: Prior) -> Problem:
    """Return the problem whose fillings are blended with smooth ones before the other steps.

    They are if copies of the holes were hidden. Without copies, wide holes at the border are.
    """
    from napari_dip.engine.problem import make_single_step

    finish = problem.full_postprocess or make_single_step(problem.postprocess)
    has_copies, border_holes = bool(prior.list_hole_copies()), np.zeros(0, bool)
    is_wide = PRIOR_SPECS[fit_input.prior_key].suitable_holes == "wide"
    if is_wide and len(fit_input.grid) == 2:
        holes = (fit_input.masks.measured[0, 0] == 0).cpu().numpy()
        border_holes = find_border_holes(holes, fit_input.location)
    if not has_copies and not border_holes.any():
        return problem

    def blend(estimate: Estimate) -> PostprocessingSteps:
        if has_copies:  # listed here, so that the fit does not hold the masks
            blended = blend_with_smooth_filling(fit_input, prior.list_hole_copies(), estimate)
        else:
            blended = average_border_holes(fit_input, border_holes, estimate)
        return (yield from finish(blended))

    return replace(
        problem,
        full_postprocess=blend,
        blends_filling=True,
        refines_pixels=problem.full_postprocess is not None,
    )


def _get_suitable_prior(holes: str) -> str:
    """Return the key of the prior that fills such holes best."""
    return next(
        prior_spec.key
        for prior_spec in INPAINTING_PRIORS.select()
        if prior_spec.suitable_holes == holes
    )


def _choose_stack_prior(prior_key: str, measured_mask: BoolArray) -> tuple[str, str]:
    """Choose the prior of a stack, given the mask (N, C, *grid) of measured pixels."""
    missing, total = count_missing_planes(measured_mask)
    if missing:
        why = f"{missing} of {total} planes are missing, so those before and after tell of them"
        return prior_key, why
    why = "the planes before and after tell, too, of what is missing in one"
    return _get_suitable_prior("narrow"), why


def choose_validation_patches(measured_mask: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
    """Return patches as wide as the holes, in suitable planes of a stack (1, 1, *grid).

    Return None for a single plane and for scattered holes. Suitable planes are as far from their
    measured neighbours as a missing plane is. Single pixels would not do: a network that fits one
    pixel of a plane predicts its neighbours, too.
    """
    if measured_mask.ndim < 5:
        return None
    from napari_dip.engine.priors.masked_stack import StackHoles

    side = measure_widest_hole(measured_mask[0].cpu().numpy() > 0, MAX_VALIDATION_PATCH)
    if not side:
        return None
    return (1, side, side), StackHoles(measured_mask).mask_similar_planes(measured_mask)


def _list_header_notes(
    image_header: ImageHeader, mask_header: ImageHeader | None, axes: str
) -> tuple[Note, ...]:
    """Return notes on a mask of one plane for all planes, and on distant planes of a volume."""
    notes: list[Note] = []
    distance = compute_plane_distance(image_header)
    if "Z" in axes and distance >= MIN_DISTANT_SPACING:
        notes.append(make_note("planes-distant", distance=distance))
    count = count_planes(image_header)
    is_plane = mask_header is not None and prod(mask_header.shape) <= prod(image_header.grid)
    if is_plane and count > 1:
        notes.append(make_note("mask-one-plane", count=count))
    return tuple(notes)


def _list_reversed_mask_notes(missing: BoolArray) -> list[Note]:
    """Return a warning if a mask (N, C, *grid) marks most pixels, other than singly."""
    share = float(missing.mean())
    holes = np.any(missing, axis=1).reshape(-1, *missing.shape[-2:])
    if share < MIN_REVERSED_FRACTION or any(map(is_scattered, holes)):
        return []
    return [make_note("mask-mostly", share=share)]


def _list_saturation_notes(stack: Float32Array, marked: BoolArray) -> list[Note]:
    """Return a warning if a mask of (N, C, *grid) seems to mark the saturated places.

    They have the highest value, and the pixels beside them are bright.
    """
    marked = np.broadcast_to(marked, stack.shape)
    for pixels, is_marked in zip(np.moveaxis(stack, 1, 0), np.moveaxis(marked, 1, 0), strict=True):
        highest, values = np.nanmax(pixels, initial=-np.inf), pixels[is_marked]
        if not len(values) or (values == highest).mean() < MIN_HIGHEST_FRACTION:
            continue
        neighbours = pixels[dilate_holes(is_marked, 1) & ~is_marked & np.isfinite(pixels)]
        if not len(neighbours):
            continue
        middle = np.nanmedian(pixels[~is_marked])
        if np.median(neighbours) - middle > MIN_BRIGHTNESS_BESIDE * (highest - middle):
            return [make_note("mask-saturated", value=float(highest))]
    return []


def _list_weak_pixel_notes(mask: AnyArray) -> list[Note]:
    """Return a note on pixels that JPEG or resampling may have added to a mask."""
    weak, is_ignored = _find_weak_pixels(mask)
    if not weak.any():
        return []
    return [make_note("mask-weak", count=int(weak.sum()), ignored=is_ignored)]


def refuse_mask_header(image_header: ImageHeader, mask_header: ImageHeader) -> Refusal | None:
    """Refuse a mask whose header does not fit that of the image.

    Parameters
    ----------
    image_header, mask_header : ImageHeader
        The mask may have the axes of the image, those without channels, or Y and X only. Further
        axes of length 1 are allowed.
    """
    if match_axes(image_header, mask_header.shape):
        return None
    facts = {"name": mask_header.name, "shape": format_sizes(mask_header.shape)}
    axis_sizes = zip(mask_header.axes, mask_header.shape, strict=False)
    axes = [axis for axis, n in axis_sizes if n > 1 or axis in "YX"]
    is_unnamed = len(mask_header.axes) != len(mask_header.shape)
    image_shape = image_header.shape[-len(mask_header.shape) :]
    if "S" in axes or ("S" in image_header.axes and mask_header.shape == image_shape):
        return make_refusal("mask-colours", **facts)
    if is_unnamed or not {"Y", "X"} <= set(axes):
        return make_refusal("mask-planes", **facts)
    if len(axes) > 2:
        is_stack = prod(image_header.shape) > prod(image_header.grid)
        facts |= {"image": image_header.name, "want": format_sizes(image_header.shape)}
        return make_refusal("mask-stack" if is_stack else "mask-planes", **facts)
    sides = dict(zip(("height", "width"), mask_header.grid, strict=True))
    sides |= dict(zip(("image_height", "image_width"), image_header.grid, strict=True))
    return make_refusal("mask-shape", name=mask_header.name, image=image_header.name, **sides)


def parse_mask(mask: AnyArray, label: int | None, *, is_inverted: bool) -> BoolArray:
    """Return which pixels of a mask mark pixels to fill in.

    Parameters
    ----------
    mask : ndarray
        (..., Y, X), above 0 where marked; at least half of its maximum if it was JPEG or resampled.
    label : int or None
        Select the pixels of this value only.
    is_inverted : bool
        Select all other pixels instead.

    Returns
    -------
    ndarray of bool
        Of the shape of the mask.
    """
    marked = mask > 0 if label is None else mask == label
    if label is None:
        weak, is_ignored = _find_weak_pixels(mask)
        marked &= ~(weak & is_ignored)
    return ~marked if is_inverted else marked


def _find_weak_pixels(mask: AnyArray) -> tuple[BoolArray, bool]:
    """Return which pixels of a mask (..., Y, X) are below half of its maximum, and no labels.

    Return also whether they are ignored. The marked neighbours of a label mostly equal it, those of
    weak pixels differ from them. A single value may be a label one pixel wide.
    """
    weak = (mask > 0) & (mask < float(mask.max()) / 2)
    if not weak.any():
        return weak, False
    background = _find_background(mask)
    if _has_jpeg_rings(mask, weak, background):
        return weak, True
    if _has_labels(mask, weak, background):
        return np.zeros_like(weak), False
    return weak, bool(mask[weak].min() < mask[weak].max())


def _find_background(mask: AnyArray) -> int:
    """Return the commonest value below half of the maximum, which JPEG may make 1 rather than 0."""
    highest = float(mask.max())
    dark = mask[mask < highest / 2].clip(0)
    return int(np.bincount(dark.astype(int)).argmax()) if highest < 256 else 0  # JPEG has 8 bits


def _has_jpeg_rings(mask: AnyArray, weak: BoolArray, background: int) -> bool:
    """Return whether weak pixels are those that JPEG adds to a mask of 0 and 255.

    They are dark and beside the marks, apart from the background.
    """
    from scipy.ndimage import maximum_filter

    values, highest = mask[weak], float(mask.max())
    if not 128 <= highest < 256 or np.median(values) > MAX_RING_SHARE * highest:
        return False
    marked = (mask >= highest / 2).reshape(-1, *mask.shape[-2:])
    dark = mask.reshape(marked.shape).clip(0)
    near = maximum_filter(marked, (1, 2 * JPEG_BLOCK - 1, 2 * JPEG_BLOCK - 1))
    if not (near | (dark == background)).all():
        return False
    touched = maximum_filter(marked, (1, 3, 1)) | maximum_filter(marked, (1, 1, 3))
    has_rim = background == 0 and bool((dark[touched] > 0).all())
    return not has_rim or bool(values.min() < values.max())  # a label as the rim of another


def _has_labels(mask: AnyArray, weak: BoolArray, background: int) -> bool:
    """Return whether most neighbours of weak pixels that are marked have the same whole value."""
    if (mask[weak] % 1).any():
        return False
    shares, is_mark = [], (mask > 0) & (mask != background)
    for axis in (-1, -2):
        values, is_weak = np.moveaxis(mask, axis, 0), np.moveaxis(weak, axis, 0)
        has_mark = np.moveaxis(is_mark, axis, 0)
        is_pair = (is_weak[1:] | is_weak[:-1]) & has_mark[1:] & has_mark[:-1]
        is_equal = values[1:][is_pair] == values[:-1][is_pair]
        shares.append(is_equal.mean() if is_equal.size else 1.0)
    return bool(min(shares) > MAX_EQUAL_NEIGHBOURS)


def dilate_holes(holes: BoolArray, radius: int) -> BoolArray:
    """Dilate holes (..., Y, X) in each plane by a disc of that radius, in pixels."""
    if not radius or not holes.any():
        return holes
    from skimage.morphology import isotropic_dilation

    dilated = holes.copy()
    for plane in dilated.reshape(-1, *holes.shape[-2:]):
        if plane.any():  # an empty plane has no distances to a hole
            plane[:] = isotropic_dilation(plane, radius)  # type: ignore[no-untyped-call]
    return dilated


def refuse_holes(mask: AnyArray, name: str, label: int | None, holes: BoolArray) -> Refusal | None:
    """Refuse a mask that marks no pixel, or every pixel.

    Parameters
    ----------
    mask : ndarray
        As loaded.
    name : str
        Of the image.
    label : int or None
        The only value that marks pixels.
    holes : ndarray of bool
        Result of `parse_mask`, dilated.
    """
    if label is not None and not (mask == label).any():
        labels = [f"{value:g}" for value in np.unique(mask) if value != 0]
        label_list = ", ".join(labels[:MAX_LISTED_LABELS]) or "none"
        if len(labels) > MAX_LISTED_LABELS:
            label_list += " and more"
        return make_refusal("mask-label", name=name, label=label, labels=label_list)
    if not holes.any():
        return make_refusal("mask-empty", name=name)
    if holes.all():
        return make_refusal("mask-full", name=name, total=holes.size)
    return None


def count_missing_planes(measured_mask: BoolArray) -> tuple[int, int]:
    """Return the number of planes without any measured pixel, and that of all planes.

    Parameters
    ----------
    measured_mask : ndarray of bool
        (N, C, *grid).
    """
    planes = measured_mask.any((1, -2, -1))
    return int((~planes).sum()), planes.size
