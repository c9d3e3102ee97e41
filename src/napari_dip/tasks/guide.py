"""Guide: restore a noisy channel with the help of a clean image of the same place.

A stack or movie has a guide of its planes and frames, or one plane that guides all of them. The
guide can be registered onto the image first, by phase correlation.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.tasks.base import (
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
from napari_dip.tasks.priors.prior_spec import PriorOptions
from napari_dip.tasks.priors.refinement import add_guided_filter
from napari_dip.tasks.priors.registry import AUTOMATIC, PRIOR_SPECS, PriorChoices
from napari_dip.tasks.shared_settings import (
    BlindSpotShape,
    CameraGain,
    DetectorNoiseSetting,
    ReadNoise,
    TemporalSmoothing,
    TotalVariationKind,
    TotalVariationWeight,
    UseNeighbouringFrames,
    add_temporal_smoothing,
    get_stacked_axes,
    make_noise_settings,
    make_total_variation_penalty,
    read_blind_spot,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array, FloatArray, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.base import ConvertedInputs

#: Percentiles of the guide that are scaled to a range of one, so that hot and dead pixels do not
#: set it.
GUIDE_PERCENTILES = (0.5, 99.5)
#: Maximum distance of a guide pixel outside the range between `GUIDE_PERCENTILES`, in ranges.
MAX_GUIDE_OUTLIER = 1.0
#: Seconds per pixel and channel of the guided filter, on one thread: 512 x 512 took 10.3 s for it,
#: and 2.6 s to judge the image of the network.
GUIDED_FILTER_PIXEL_SECONDS = 4.5e-5
#: Steps per pixel of the registration: a shift of 0.05 pixels changes an edge by less than noise.
SHIFT_STEPS = 20
#: Minimum shift in pixels that is worth the blur of an interpolation.
MIN_SHIFT = 0.1
#: Fraction of the side over which each border is tapered. On 26 noisy pairs of 48 x 48 and 64 x 64
#: pixels, 1/8 gave errors of 0.18 pixels, 1/4 0.19, and 1/2 (a Hann window) 0.22.
TAPER_FRACTION = 1 / 8
#: Rounds of registration of the shifted image: the tapered border, which both images share, makes
#: the first shift too short (one round: 0.21 pixels in place of 0.18).
REGISTRATION_ROUNDS = 4
#: Maximum plausible shift, as a fraction of the side; beyond it, the overlap is too small.
MAX_SHIFT_FRACTION = 0.1
GUIDE_PRIORS = PriorChoices("guide")
#: The prior that *Automatic* prefers.
PREFERRED_PRIOR = GUIDE_PRIORS.select()[0]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Guide(Task):
    """Settings of a guided restoration."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="guide",
        title="Restore with a guide",
        inputs=(IMAGE_INPUT, load_input("guide")),
        result_suffix="restored",
        methods_phrase="restored with the help of a guide image",
        accepts_stacks=True,
        candidates=(PREFERRED_PRIOR.key, PREFERRED_PRIOR.unguided_key),
    )

    prior: Annotated[str, load_setting("guide_prior", choices=GUIDE_PRIORS)] = AUTOMATIC
    align: Annotated[bool, load_setting("align")] = False
    planes_are_channels: Annotated[bool, load_setting("planes_are_channels")] = False
    smoothing: TotalVariationWeight = 0.0
    smoothing_kind: TotalVariationKind = "isotropic"
    noise: DetectorNoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None
    blind_spot_shape: BlindSpotShape = ""
    neighbouring_frames: UseNeighbouringFrames = True
    temporal_smoothing: TemporalSmoothing = 0.0

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Choose prior and layout; refuse a guide of another size, or of other planes."""
        if refusal := self._refuse_guide(header, extra_headers["guide"]):
            return refusal
        prior_spec = GUIDE_PRIORS.select(self.prior)[0]
        takes_neighbours = prior_spec.input_traits.has_neighbour_frames
        return TaskPlan(
            stacks="planes" if takes_neighbours else "auto",
            prior_key=prior_spec.key,
            prior_reasons=self._list_prior_reasons(),
            uses_neighbouring_frames=self.neighbouring_frames,
            uses_previous_frame=self.temporal_smoothing > 0,
            noise_settings=make_noise_settings(self),
            blind_spot_shape=read_blind_spot(self.blind_spot_shape),
            ending_pixel_seconds=GUIDED_FILTER_PIXEL_SECONDS if axes == "YX" else 0.0,
            notes=(make_note("guide-roles", image=header.name, guide=extra_headers["guide"].name),),
        )

    def _refuse_guide(self, image_header: ImageHeader, guide_header: ImageHeader) -> Refusal | None:
        """Refuse a guide of another size, or with planes that the image does not have."""
        axes, shape = self._get_guide_axes(image_header, guide_header), guide_header.shape
        facts = {"name": guide_header.name, "axes": guide_header.axes, "shape": format_sizes(shape)}
        if len(axes) != len(shape) or not {"Y", "X"} <= set(axes):
            return make_refusal("guide-stack", **facts)
        long_axes = {axis for axis, count in zip(axes, shape, strict=True) if count > 1}
        planes = _get_planes(image_header)
        if long_axes - {*"CSYX", *planes} or {"C", "S"} <= long_axes:
            return make_refusal("guide-stack", **facts)
        grid = tuple(shape[axes.index(axis)] for axis in "YX")
        if grid != image_header.grid:
            sizes = dict(zip(("height", "width"), grid, strict=True))
            sizes |= dict(zip(("other_height", "other_width"), image_header.grid, strict=True))
            names = {"name": guide_header.name, "image": image_header.name}
            return make_refusal("guide-size", **names, **sizes)
        if any(shape[axes.index(axis)] != planes[axis] for axis in long_axes & set(planes)):
            facts |= {"image": image_header.name, "other": format_sizes(image_header.shape)}
            return make_refusal("guide-planes", **facts)
        return None

    def _list_prior_reasons(self) -> dict[str, str]:
        """Return why each prior runs, and the size of its blind spots."""
        if self.prior != AUTOMATIC:
            chosen = GUIDE_PRIORS.select(self.prior)[0]
            blind_spot = "; {blind_spot}" if chosen.input_traits.has_masked_pixels else ""
            return {chosen.key: f"you chose it{blind_spot}"}
        verdict = "the network predicted hidden pixels {} with the guide"
        return {
            PREFERRED_PRIOR.key: f"{verdict.format('better')}; {{blind_spot}}",
            PREFERRED_PRIOR.unguided_key: f"{verdict.format('no better')}, so it was left out of "
            "its input; {blind_spot}",
        }

    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Refuse a constant guide."""
        guide = pixels.extra_inputs["guide"]
        if guide.min() == guide.max():
            return make_refusal("guide-constant", value=f"{guide.min():g}")
        return Inspection(convert_inputs=partial(self._make_guide, pixels))

    def _make_guide(
        self,
        pixels: InspectedPixels,
        image: Float32Array,
        extra_inputs: Mapping[str, Float32Array],
        headers: Headers,
    ) -> ConvertedInputs:
        """Return the guide (N or 1, G, *grid) with a range of one, registered on request."""
        import numpy as np

        header, stack = pixels.header, pixels.stack
        axes = self._get_guide_axes(header, headers["guide"])
        guide = _arrange_guide(extra_inputs["guide"], axes, header, is_volume=stack.ndim > 4)
        channels = [channel for channel in guide.swapaxes(0, 1) if channel.min() != channel.max()]
        guide = np.stack([_normalise_range(channel) for channel in channels], 1)
        if not self.align:
            return {"guide": guide}, ()
        # frames of a camera are shifted alike, and their mean has less noise
        guide, note = _align_guide(guide, image if len(stack) == 1 else stack.mean(0))
        return {"guide": guide}, (note,)

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Build the prior, and the problem of denoising: the measurement is image plus noise."""
        options = PriorOptions(
            penalties=make_total_variation_penalty(fit_input, self.smoothing, self.smoothing_kind),
            guide=fit_input.extra_inputs["guide"][None],
        )
        prior_spec = PRIOR_SPECS[fit_input.prior_key]
        setup = prior_spec.build_setup(fit_input, rng, options)
        if prior_spec.input_traits.has_masked_pixels:
            problem = add_guided_filter(setup.problem, setup.fit_input)
            setup = replace(setup, problem=problem)
        problem = add_temporal_smoothing(setup.problem, setup.fit_input, self.temporal_smoothing)
        return replace(setup, problem=problem)

    def _get_guide_axes(self, image_header: ImageHeader, guide_header: ImageHeader) -> str:
        """Return the axes of the guide, in the letters of the image's axes.

        With `planes_are_channels`, the first axis becomes channels. The letters of unnamed arrays
        are guesses, so frames may be read as planes, and planes as frames.
        """
        axes, planes = guide_header.axes, _get_planes(image_header).keys()
        if self.planes_are_channels and len(axes) > 2 and axes[0] in "TZ":
            axes = "C" + axes[1:]
        sizes = zip(axes, guide_header.shape, strict=False)
        guide_planes = {axis for axis, count in sizes if axis in "TZ" and count > 1}
        is_other_letter = len(guide_planes) == len(planes) == 1 and guide_planes != planes
        return axes.translate(str.maketrans("TZ", "ZT")) if is_other_letter else axes


def _get_planes(header: ImageHeader) -> dict[str, int]:
    """Return the axes along frames and planes, if there are several, with their sizes."""
    return {axis: header.get_size(axis) for axis in get_stacked_axes(header)}


def _arrange_guide(
    guide: Float32Array, axes: str, header: ImageHeader, *, is_volume: bool
) -> Float32Array:
    """Return a guide as (N, G, *grid), arranged as the image is.

    N is 1 if planes are fitted one by one and the guide is a single plane for all of them.

    Parameters
    ----------
    guide : ndarray
    axes : str
        Its axes, in the letters of the image's.
    header : ImageHeader
        Header of the image.
    is_volume : bool
        Whether planes are fitted together.
    """
    import numpy as np

    order = sorted(range(len(axes)), key=lambda axis: "TZCSYX".index(axes[axis]))
    sizes, planes = dict(zip(axes, guide.shape, strict=True)), _get_planes(header)
    counts = [sizes.get(axis, 1) for axis in "TZ"]
    arranged = np.transpose(guide, order).reshape(*counts, -1, *header.grid)
    if is_volume or max(counts) > 1:
        full_counts = (planes.get(axis, 1) for axis in "TZ")
        arranged = np.broadcast_to(arranged, (*full_counts, *arranged.shape[2:]))
    if is_volume:
        return np.moveaxis(arranged, 1 if "Z" in planes else 0, 2)
    return arranged.reshape(-1, *arranged.shape[2:])


def _normalise_range(channel: Float32Array) -> Float32Array:
    """Scale the bulk of the pixels to a range of one, around a mean of 0."""
    import numpy as np

    low, high = (float(value) for value in np.percentile(channel, GUIDE_PERCENTILES))
    if high <= low:  # almost constant, such as a few bright points on black
        low, high = float(channel.min()), float(channel.max())
    span = high - low
    margin = MAX_GUIDE_OUTLIER * span
    clipped = np.clip(channel.astype(np.float64), low - margin, high + margin)
    return np.asarray((clipped - clipped.mean()) / span, np.float32)


def _align_guide(guide: Float32Array, image: Float32Array) -> tuple[Float32Array, Note]:
    """Shift the guide (N, G, *grid) onto the image (C, *grid) if plausible; return a note."""
    import numpy as np

    shift = phase_correlate(image.mean(0), guide.mean(0).mean(0))
    down, right = shift[-2:]
    if is_shift_too_large(shift, image.shape[1:]):
        return guide, make_note("guide-far", down=down, right=right)
    if is_shift_negligible(shift):
        return guide, make_note("guide-in-place")
    planes = guide.reshape(-1, *image.shape[1:])
    aligned_guide = np.stack([shift_image(plane, shift) for plane in planes]).reshape(guide.shape)
    return aligned_guide, make_note("guide-moved", down=down, right=right)


def phase_correlate(fixed: AnyArray, moving: AnyArray) -> tuple[float, ...]:
    """Measure the shift between two images by phase correlation.

    Parameters
    ----------
    fixed, moving : ndarray
        (*grid), in any number of dimensions and any units.

    Returns
    -------
    tuple of float
        Pixels along each axis by which `shift_image` has to move `moving`. All 0 if one of the
        images is constant.

    References
    ----------
    Guizar-Sicairos, Thurman, Fienup, Efficient subpixel image registration algorithms, Optics
    Letters 33(2), 2008, doi:10.1364/OL.33.000156 (as implemented in scikit-image).
    """
    from skimage.registration import phase_cross_correlation

    shift, aligned = (0.0,) * fixed.ndim, moving
    for _ in range(REGISTRATION_ROUNDS):
        if any(image.min() == image.max() for image in (fixed, aligned)):
            break
        # without normalisation by the magnitudes, as noise would count as much as structure
        remaining, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
            _taper_border(fixed),
            _taper_border(aligned),
            upsample_factor=SHIFT_STEPS,
            normalization=None,
        )
        shift = tuple(
            component + float(change) for component, change in zip(shift, remaining, strict=True)
        )
        if is_shift_negligible(tuple(remaining)) or is_shift_too_large(shift, fixed.shape):
            break
        aligned = shift_image(moving, shift)
    return shift


def is_shift_too_large(shift: tuple[float, ...], grid: tuple[int, ...]) -> bool:
    """Return whether a shift is too large to be plausible."""
    return any(
        abs(pixels) > MAX_SHIFT_FRACTION * side for pixels, side in zip(shift, grid, strict=True)
    )


def is_shift_negligible(shift: tuple[float, ...]) -> bool:
    """Return whether a shift is too small to be worth an interpolation."""
    return all(abs(pixels) < MIN_SHIFT for pixels in shift)


def shift_image(image: AnyArray, shift: tuple[float, ...]) -> Float32Array:
    """Shift an image by fractions of a pixel, with cubic splines and edge values beyond the border.

    Parameters
    ----------
    image : ndarray
        (*grid).
    shift : tuple of float
        Pixels along each axis.
    """
    import numpy as np
    from skimage.transform import warp

    coordinates = np.indices(image.shape, np.float64)
    coordinates -= np.reshape(shift, (-1, *[1] * image.ndim))
    exact = image.astype(np.float64)
    shifted = warp(exact, coordinates, order=3, mode="edge", preserve_range=True)  # type: ignore[no-untyped-call]
    return np.asarray(shifted, np.float32)


def _taper_border(image: AnyArray) -> FloatArray:
    """Taper the border to the mean, as equal borders would correlate at zero shift."""
    import numpy as np

    tapered = image - image.mean(dtype=np.float64)
    for axis, side in enumerate(image.shape):
        position = np.arange(side) + 0.5
        distance = np.minimum(position, side - position) / (TAPER_FRACTION * side)
        window = np.where(distance < 1, 0.5 - 0.5 * np.cos(np.pi * distance), 1.0)
        tapered = tapered * window.reshape(-1, *[1] * (image.ndim - axis - 1))
    return np.asarray(tapered, np.float64)
