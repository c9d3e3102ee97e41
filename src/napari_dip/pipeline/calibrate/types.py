"""Types of calibration: inputs and plan of a run, measured calibration, calibrated image."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.noise import NoiseCaution, UnreliableReason, predict_variance
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.types import Plan
from napari_dip.tasks.base import GridLocation, Inspection
from napari_dip.tasks.shared_settings import has_blind_spot_setting, multiply_sizes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, BoolArray, Float32Array, ImageHeader
    from napari_dip.pipeline.plan.layout import Layout, Tile
    from napari_dip.tasks.base import Task, TaskPlan, TaskSpec
    from napari_dip.tasks.noise_models.camera_correction import CameraCorrection

#: Usual share of validation pixels: 4 % of a 512 x 512 image are 10,000 pixels, with a standard
#: error of 0.02 of their mean loss.
VALIDATION_FRACTION = 0.04
#: Largest share of validation pixels, in small images.
MAX_VALIDATION_FRACTION = 0.25
#: Minimum number of validation pixels that distinguish a better image from a worse one.
MIN_RELIABLE_VALIDATION_PIXELS = 48
#: Least ratio of the noise variances at bright and dark pixels with which the noise is that of
#: photons: 17 or more on 32 micrographs, at most 6 on 49 photographs with even noise and on the
#: widefield images of FMD.
MIN_PHOTON_NOISE_GROWTH = 10.0
#: Least standard deviation of the noise that is told of where correlation counts as structure, as a
#: share of the image's range: at most 0.016 in photographs with noise of 0 or 2 that is in doubt,
#: 0.05 and more in coarse widefield shots.
MIN_NOTABLE_NOISE = 0.02
#: Least standard deviation between scattered holes of noise that is told of where it stays, as a
#: share of the image's range: 0.054 to 0.20 in six noisy crops without 0.5 to 0.8 of their pixels,
#: less in 18 of 23 without noise; the others are textures, or means whose noise is shared.
MIN_NOISE_BETWEEN_HOLES = 0.05
#: Doubts that noise of a chosen strength leaves: whether pixels share it, and what lies in holes.
UNCHOSEN_REASONS = (UnreliableReason.AMBIGUOUS_CORRELATION, UnreliableReason.SCATTERED_HOLES)
#: Cautions of the engine that other notes cover.
SEPARATELY_NOTED_CAUTIONS = (NoiseCaution.LINE_OFFSETS, NoiseCaution.COLOUR_CAMERA)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HalfResolutionStack:
    """Input of a half-resolution fit, in place of an oversampled image.

    Attributes
    ----------
    stack : ndarray
        (1, C, Y / 2, X / 2), in the image's units.
    noise : tuple of NoiseEstimate
        Noise of the stack, per channel.
    blind_spot_size : tuple of int
        Size of blind spots in the stack.
    """

    stack: Float32Array
    noise: tuple[NoiseEstimate, ...]
    blind_spot_size: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunInputs:
    """The image in the plan's layout, and the task's extra inputs.

    Attributes
    ----------
    stack : ndarray
        (N, C, *grid) float32, in the image's units, corrected by camera maps.
    extra_inputs : mapping of str to ndarray
        Extra inputs, float32; overlays are in the layout of the image.
    measured_mask : ndarray or None
        (N, C, *grid), True where a pixel was measured; None if all were.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for floating-point images.
    layout : Layout
        That of the plan, or another one if an item of it has no measured pixel.
    inspection : Inspection
        What the task decided from the pixels.
    repeated_exposure : ndarray or None
        (N, C, *grid): another measurement of the same object, in units of its own.
    camera_correction : CameraCorrection or None
        Correction by camera maps, and the noise of each pixel.
    """

    stack: Float32Array
    extra_inputs: Mapping[str, Float32Array]
    measured_mask: BoolArray | None
    grey_level_step: float
    layout: Layout
    inspection: Inspection
    repeated_exposure: Float32Array | None = None
    camera_correction: CameraCorrection | None = None


def get_grey_level_step(dtype: np.dtype[Any]) -> float:
    """Return the distance of neighbouring grey values; 0 for floating-point images."""
    return 1.0 if dtype.kind in "iu" else 0.0


def compute_validation_fraction(blind_spot_size: tuple[int, ...], pixel_count: int) -> float:
    """Return the share of validation pixels, within the limits above.

    Parameters
    ----------
    blind_spot_size : tuple of int
        Size of the blind spot around each validation pixel.
    pixel_count : int
        Number of measured pixels.
    """
    min_fraction = MIN_RELIABLE_VALIDATION_PIXELS * prod(blind_spot_size) / pixel_count
    return min(MAX_VALIDATION_FRACTION, max(VALIDATION_FRACTION, min_fraction))


def count_measured_pixels(stack: Float32Array, measured_mask: BoolArray | None) -> int:
    """Return the number of measured pixels of the first item and channel, at least 1."""
    return stack[0, 0].size if measured_mask is None else max(1, int(measured_mask[0, 0].sum()))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Calibration:
    """Results of measuring an image before any fit; shared by all work units.

    Attributes
    ----------
    intensity_offset, intensity_scale : tuple of float
        Per channel: network units are (pixel - intensity_offset) / intensity_scale. The offset is
        the mean of the channel's measured pixels. The scale is negative where noise falls with
        brightness, so that in network units it grows.
    noise : tuple of NoiseEstimate
        Per channel, in the image's units.
    blind_spot_size : tuple of int
        Size of blind spots, and of guard bands around validation pixels, per axis of a fit.
    validation_fraction : float
    constant_channels : tuple of int
        Channels that hold one value only; they are returned unchanged.
    noise_model : str
        "gaussian", "poisson-gaussian", or the model of an artefact such as "jpeg".
    measured_mask : ndarray or None
        (N, C, *grid), True where a pixel was measured; None if all were.
    extra_inputs : mapping of str to ndarray
        Extra inputs, float32, as converted by the task.
    notes : tuple of Note
        Notes on the calibration, for the user.
    repeated_exposure : RepeatedExposure or None
        Another measurement of the same object.
    half_resolution : HalfResolutionStack or None
        Input of a half-resolution fit, if the image is oversampled.
    outlier_limits : tuple of (float, float)
        Per channel, values beyond which isolated pixels are outliers.
    filled_count : int
        Number of outliers and of pixels in empty areas, which are filled in for the fit.
    camera_noise : CameraNoise or None
        Joint noise of red, green and blue, if it is that of a colour camera.
    item_calibrations : tuple of Calibration
        Calibration of each item, if items come from different files; empty: all share this one.
    camera_correction : CameraCorrection or None
        Correction by camera maps, and the noise of each pixel.
    empty_planes : ndarray or None
        (N, C, *depth), True for planes of one value among others, such as lost frames; None if
        there are none.
    shares_frame_noise : bool
        Whether successive frames or planes have noise in common, as after a running mean.
    """

    intensity_offset: tuple[float, ...]
    intensity_scale: tuple[float, ...]
    noise: tuple[NoiseEstimate, ...]
    blind_spot_size: tuple[int, ...]
    validation_fraction: float
    constant_channels: tuple[int, ...]
    noise_model: str
    measured_mask: BoolArray | None
    extra_inputs: Mapping[str, Float32Array]
    notes: tuple[Note, ...] = ()
    repeated_exposure: RepeatedExposure | None = None
    half_resolution: HalfResolutionStack | None = None
    outlier_limits: tuple[tuple[float, float], ...] = ()
    filled_count: int = 0
    camera_noise: CameraNoise | None = None
    item_calibrations: tuple[Calibration, ...] = ()
    camera_correction: CameraCorrection | None = None
    empty_planes: BoolArray | None = None
    shares_frame_noise: bool = False

    def select_extra_inputs(self, task_spec: TaskSpec, item: int) -> dict[str, Float32Array]:
        """Return the extra inputs of one item; of those with items, the entry of it or for all."""
        names = {task_input.name for task_input in task_spec.inputs if task_input.has_items}
        return {
            name: array[item if len(array) > 1 else 0] if name in names else array
            for name, array in self.extra_inputs.items()
        }

    @property
    def empty_items(self) -> frozenset[tuple[int, int]]:
        """Items and channels of which all planes are empty; they are not fitted."""
        if self.empty_planes is None:
            return frozenset()
        planes = self.empty_planes.reshape(*self.empty_planes.shape[:2], -1)
        items = np.argwhere(np.all(planes, axis=2))
        return frozenset((int(item), int(channel)) for item, channel in items)

    @property
    def varied_channels(self) -> list[int]:
        """Channels that are not constant."""
        return [c for c in range(len(self.noise)) if c not in self.constant_channels]

    @property
    def noise_traits(self) -> tuple[str, ...]:
        """What a preset may depend on, see `choose_fit_config`: at most one of the three below."""
        if self.half_resolution is not None:
            return ("half_resolution",)
        if any(side > 1 for side in self.blind_spot_size):
            return ("correlated",)
        return ("photon",) if self._has_photon_noise else ()

    @property
    def _has_photon_noise(self) -> bool:
        """Whether the noise of every varied channel grows with brightness as that of photons."""
        growths = []
        for channel in self.varied_channels:
            mean, scale = self.intensity_offset[channel], self.intensity_scale[channel]
            noise = self.noise[channel]
            dark, bright = (
                max(noise.floor, predict_variance(level, noise.gain, noise.intercept))
                for level in (mean - scale, mean + scale)
            )
            growths.append(bright / dark)
        return bool(growths) and min(growths) >= MIN_PHOTON_NOISE_GROWTH

    @property
    def excess_variance(self) -> Float32Array | float:
        """Variance of each pixel in excess of the channel's noise, (Y, X); 0 without maps."""
        correction = self.camera_correction
        if correction is None or correction.excess_variance is None:
            return 0.0
        return correction.excess_variance

    @property
    def level_correction(self) -> CameraCorrection | None:
        """The correction by the level of the noise, which results undo; None without one."""
        correction = self.camera_correction
        return correction if correction is not None and correction.is_undone else None

    @property
    def noise_level(self) -> Float32Array | float:
        """Level of the noise (C, *grid) by which differences from the mean were divided; or 1."""
        correction = self.level_correction
        return 1.0 if correction is None else np.reciprocal(correction.factor)

    def divide_by_level(self, stack: Float32Array) -> Float32Array:
        """Return (N, C, *grid) as it is fitted: divided by the level of its noise, if any."""
        return stack if self.level_correction is None else self.level_correction.correct(stack)

    def undo_level(self, stack: Float32Array) -> Float32Array:
        """Undo `divide_by_level`."""
        return stack if self.level_correction is None else self.level_correction.undo(stack)

    def get_fit_calibration(self) -> Calibration:
        """Return the calibration of the fitted pixels, which may have half the resolution."""
        if self.half_resolution is None:
            return self
        fraction = compute_validation_fraction(
            self.half_resolution.blind_spot_size, self.half_resolution.stack[0, 0].size
        )
        return replace(
            self,
            noise=self.half_resolution.noise,
            blind_spot_size=self.half_resolution.blind_spot_size,
            validation_fraction=fraction,
            measured_mask=None,  # holes were filled before the image was halved
            half_resolution=None,
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RepeatedExposure:
    """Another measurement of the same object.

    Attributes
    ----------
    stack : ndarray
        (N, C, *grid), scaled to the intensities of the image.
    noise : tuple of NoiseEstimate
        Noise of the stack, per channel.
    notes : tuple of Note
        Notes for the user.
    """

    stack: Float32Array
    noise: tuple[NoiseEstimate, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan(Plan):
    """Plan of a run whose pixels are known; `make_run_plan` makes it once.

    Prior, layout, tiles, units and network file are those that the run uses.

    Attributes
    ----------
    regions : tuple of Tile
        Sample regions on which an image in tiles is calibrated; empty without tiles.
    """

    regions: tuple[Tile, ...] = ()

    @property
    def reference_tile(self) -> Tile | None:
        """Tile that is restored first; None without tiles."""
        first = next(unit for unit in self.units if unit.has_estimate)
        return self.tiles[first.tile or 0] if self.tiles else None

    @classmethod
    def refine(cls, plan: Plan, **changes: Any) -> RunPlan:
        """Return the run plan that differs from a plan by these fields."""
        values = {field.name: getattr(plan, field.name) for field in fields(plan)}
        return cls(**values | changes)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CalibratedImage:
    """Pixels that work units are fitted to: an image, a tile, a crop, or sample regions.

    Attributes
    ----------
    run_plan : RunPlan
        Plan of the whole run.
    calibration : Calibration
    header : ImageHeader
        Header of these pixels.
    layout : Layout
        Use of the axes of these pixels.
    inputs : mapping of str to ndarray
        "image": the pixels in the axes of `header`; for a whole image, also the extra inputs.
    stack : ndarray
        (N, C, *grid), in the image's units. Outliers are filled in.
    inspection : Inspection
        What the task decided from the pixels of a whole image.
    location : GridLocation or None
        Part of the image that a crop is; None for others, whose units know it.
    frame_stacks : tuple of ndarray
        For each exposure of a crop, (1 to 3, C, *grid): its plane, and the planes or frames before
        and after. Empty: `stack` and its repeated exposure hold them.
    """

    run_plan: RunPlan
    calibration: Calibration
    header: ImageHeader
    layout: Layout
    inputs: Mapping[str, AnyArray]
    stack: Float32Array
    inspection: Inspection = field(default_factory=Inspection)
    location: GridLocation | None = None
    frame_stacks: tuple[Float32Array, ...] = ()

    def list_frame_stacks(self) -> tuple[Float32Array, ...]:
        """List for each exposure the stack of the items that neighbours of work units refer to."""
        repeated_exposure = self.calibration.repeated_exposure
        others = () if repeated_exposure is None else (repeated_exposure.stack,)
        return self.frame_stacks or (self.stack, *others)

    def locate_grid(self, origin: tuple[int, ...]) -> GridLocation | None:
        """Return the part of the image that a unit is fitted to; None for the whole image."""
        if not origin:
            return self.location
        image_size = self.run_plan.header.get_sizes(self.layout.grid_axes)
        return GridLocation(start=origin, image_size=image_size)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Shape of the result, in the axes of `header`."""
        factors = self.run_plan.task_plan.get_factors(self.header.axes)
        return multiply_sizes(self.header.shape, factors)


def reports_noise(
    task_plan: TaskPlan, task_spec: TaskSpec, noise_estimate: NoiseEstimate, relative_std: float
) -> bool:
    """Return whether notes tell how well the noise is known: of holes where removed or strong.

    Each task tells that chosen noise is not the measured one, and that shared noise stays. Where
    correlation counts as structure, noise is in doubt in most images without noise, so only strong
    noise is told of.

    Parameters
    ----------
    task_plan : TaskPlan
    task_spec : TaskSpec
    noise_estimate : NoiseEstimate
    relative_std : float
        Standard deviation at the mean, as a share of the image's range.
    """
    is_told_always = noise_estimate.caution in (NoiseCaution.CHOSEN, NoiseCaution.CORRELATED_KEPT)
    if task_spec.offers_noise_models or is_told_always:
        return True
    if task_plan.noise_settings.is_white and noise_estimate.unreliable_reason:
        return relative_std > MIN_NOTABLE_NOISE
    has_holes = noise_estimate.unreliable_reason is UnreliableReason.SCATTERED_HOLES
    is_strong = relative_std > MIN_NOISE_BETWEEN_HOLES  # what neighbours share of it fills holes
    return has_holes and (is_strong or not task_plan.keeps_measured_pixels)


def make_noise_notes(
    noise_estimates: Sequence[NoiseEstimate],
    constant_channels: Collection[int],
    task: Task | None = None,
    *,
    is_chosen: bool = False,
) -> tuple[Note, ...]:
    """Return notes on unreliable noise and cautions; what all channels share is said once.

    Parameters
    ----------
    noise_estimates : sequence of NoiseEstimate
        Noise of each channel.
    constant_channels : collection of int
        Channels that hold one value only, which get no note.
    task : Task or None
        Its settings decide which remedies are named.
    is_chosen : bool
        Whether the user chose the strength of the noise at each brightness.
    """
    channels: dict[str, list[int]] = {}
    for channel, estimate in enumerate(noise_estimates):
        if channel in constant_channels:
            continue
        codes = ["noise-inverted"] if estimate.gain < 0 else []
        reason = estimate.unreliable_reason
        if is_chosen and reason and reason not in UNCHOSEN_REASONS:
            codes.append("noise-unchecked")
        elif reason:
            codes.append(f"noise-unreliable-{reason}")
        elif estimate.caution and estimate.caution not in SEPARATELY_NOTED_CAUTIONS:
            codes.append(f"noise-caution-{estimate.caution}")
        for code in codes:
            channels.setdefault(code, []).append(channel)
    count = len(noise_estimates)
    notes: list[Note] = []
    for code, named in channels.items():
        is_shared = len(named) == count
        facts = [{}] if is_shared else [name_channel(channel, count) for channel in named]
        if code == "noise-unreliable-ambiguous-correlation":
            facts = [{**names, "settable": has_blind_spot_setting(task)} for names in facts]
        notes += [make_note(code, **names) for names in facts]
    return tuple(notes)


def name_channel(channel: int, count: int) -> dict[str, int]:
    """Return the channel number as a fact of a note; empty for a single channel."""
    return {} if count == 1 else {"channel_number": channel + 1}
