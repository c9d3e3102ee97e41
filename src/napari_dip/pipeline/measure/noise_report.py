"""Measure the noise of an image, or of a detector from dark and flat frames, for a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.noise import compute_intercept, predict_variance
from napari_dip.errors import RefusedError, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import UNRELIABLE_REASONS, render_text
from napari_dip.pipeline.assess.artefact_detection import ClippedPixels, detect_clipped_pixels
from napari_dip.pipeline.assess.quality_checks import list_clipping_notes
from napari_dip.pipeline.assess.report import round_if_known, round_to_six_digits
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    find_dark_level,
    measure_channel_noise,
    select_spread_planes,
)
from napari_dip.pipeline.calibrate.inputs import fill_empty_areas
from napari_dip.pipeline.calibrate.types import RunInputs, get_grey_level_step
from napari_dip.pipeline.lazy_inputs import has_equal_colours, open_input
from napari_dip.pipeline.plan.layout import make_layout, refuse_header, to_stack
from napari_dip.pipeline.torch_state import load_torch, use_default_torch_state
from napari_dip.tasks.base import Inspection, NoiseSettings
from napari_dip.tasks.shared_settings import normalise_blind_spot, refuse_content

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import AnyArray, BoolArray, Float32Array, FloatArray, ImageHeader
    from napari_dip.public_types import AxisLetters, ImageLike

#: Maximum number of points of variance against mean, so that a plot shows them apart.
MAX_VARIANCE_POINTS = 400
#: Correlation of neighbours from which on it is stated although it does not widen the blind spot:
#: three standard errors of independent noise in 64 x 64 pixels.
MIN_STATED = 0.05
#: Fields of a noise estimate that a report repeats.
_REPEATED_FIELDS = (
    "gain",
    "gain_error",
    "intercept",
    "offset",
    "offset_error",
    "read_noise",
    "read_noise_error",
    "along_y",
    "along_x",
)
#: Figures that are written rounded.
_ROUNDED_FIELDS = ("gain", "gain_error", "intercept", "darkest_std", "offset", "read_noise")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelNoise:
    """The noise of one channel, in the image's intensity units.

    Attributes
    ----------
    gain : float
        Noise variance per unit of brightness; negative for inverted grey values.
    intercept : float
        The variance at signal m is `gain * m + intercept`.
    darkest_std : float
        Standard deviation of the noise at the darkest percentile of the image, or at the brightest
        one if its grey values were inverted.
    offset, read_noise : float or None
        Value that the detector reads without light, and its standard deviation. From an image
        alone they are upper bounds, since light may have fallen on its darkest part. None if the
        image has no part that is surely dark.
    along_y, along_x : tuple of float
        Autocorrelation of the noise at lags 1, 2, ... pixels.
    correlation : ndarray
        (L, L), the same at lags along Y and X together, in flat blocks; lag 0 is in the middle.
    points : tuple of (mean, variance)
        Mean and variance of the flattest blocks of the image.
    unreliable_reason : str
        Reason, for the user, why the noise is unreliable; "" if it is reliable.
    caution : str
        Sentence for the user on reliable figures; "" if there is nothing to note.
    gain_error, offset_error, read_noise_error : float
        Standard errors: 0 where detector frames were measured, infinite where unknown.
    """

    gain: float
    intercept: float
    darkest_std: float
    offset: float | None
    read_noise: float | None
    along_y: tuple[float, ...]
    along_x: tuple[float, ...]
    correlation: FloatArray
    points: tuple[tuple[float, float], ...]
    unreliable_reason: str = ""
    caution: str = ""
    gain_error: float = 0.0
    offset_error: float = 0.0
    read_noise_error: float = 0.0

    def compute_variance(self, signal: float) -> float:
        """Return the variance at a signal, by the variance model."""
        return predict_variance(signal, self.gain, self.intercept)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures in plain JSON types, rounded; None where they are not known."""
        return {
            **{name: round_if_known(getattr(self, name)) for name in _ROUNDED_FIELDS},
            "offset_error": None if self.offset is None else round_if_known(self.offset_error),
            "read_noise_error": (
                None if self.read_noise is None else round_if_known(self.read_noise_error)
            ),
            "doubt": self.unreliable_reason,
            "caution": self.caution,
            "autocorrelation": {
                "y": list(self.along_y),
                "x": list(self.along_x),
                "plane": self.correlation.round(4).tolist(),
            },
            "points": [list(map(round_to_six_digits, point)) for point in self.points],
        }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NoiseReport:
    """Measured noise of an image.

    Attributes
    ----------
    channels : tuple of ChannelNoise
        In the order of the image, without channels that hold one value only.
    correlation : ndarray
        The strongest correlation of any channel at each lag, as of one channel.
    blind_spot_size : tuple of int
        Size of the blind spot, along Y and X.
    blind_spot_shape : str
        Its pixels that share noise with the middle one, as the setting of that name; a suggestion.
    lower_clipping, upper_clipping : ClippedPixels
        Clipped pixels at the lower and the upper end of the range.
    """

    channels: tuple[ChannelNoise, ...]
    correlation: FloatArray
    blind_spot_size: tuple[int, int]
    blind_spot_shape: str
    lower_clipping: ClippedPixels
    upper_clipping: ClippedPixels

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the report, for the user."""
        has_channels = len(self.channels) > 1
        lines: list[str] = []
        for number, channel in enumerate(self.channels, 1):
            prefix = f"Channel {number}: " if has_channels else ""
            sentences = [describe_noise_strength(channel), describe_detector_offset(channel)]
            if channel.unreliable_reason:
                sentences.append(render_text("noise-guessed", reason=channel.unreliable_reason))
            if channel.caution:
                sentences.append(channel.caution)
            lines += [prefix + sentence for sentence in sentences]
        return (
            *lines,
            self.correlation_sentence,
            *map(str, list_clipping_notes(self.lower_clipping, self.upper_clipping)),
        )

    def __repr__(self) -> str:
        """Return one line: the first sentence."""
        return f"<NoiseReport: {self.sentences[0]}>"

    @property
    def correlation_sentence(self) -> str:
        """Sentence on the correlation of the noise, and on the blind spot."""
        height, width = self.blind_spot_size
        along_y = max(channel.along_y[0] for channel in self.channels)
        along_x = max(channel.along_x[0] for channel in self.channels)
        if height * width == 1:
            most = max(along_y, along_x)
            return render_text("noise-white", most=most if most > MIN_STATED else 0)
        shape = self.blind_spot_shape if "0" in self.blind_spot_shape else ""
        facts = {"along_y": along_y, "along_x": along_x, "width": width, "height": height}
        return render_text("noise-shared", shape=shape, **facts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        return {
            "channels": [channel.to_dict() for channel in self.channels],
            "blind_spot_size": list(self.blind_spot_size),
            "blind_spot_shape": self.blind_spot_shape,
            "cut_off": {
                name: {"share": round_to_six_digits(end.fraction), "value": end.value}
                for name, end in (("least", self.lower_clipping), ("largest", self.upper_clipping))
            },
            "sentences": list(self.sentences),
        }


def measure_noise(
    image: ImageLike,
    axes: AxisLetters | None = None,
    *,
    dark: ImageLike | None = None,
    flat: ImageLike | None = None,
) -> NoiseReport:
    """Measure the noise of an image without restoring it.

    Parameters
    ----------
    image : array-like or path
        As for `napari_dip.denoise`. Of a stack, evenly spaced planes are measured.
    axes : str, optional
        One letter for each axis out of T, C, Z, Y, X and S.
    dark : array-like or path, optional
        Frames of the same detector without light, for its offset and read noise.
    flat : array-like or path, optional
        Two or more frames of one steady, even light, for its gain.

    Returns
    -------
    NoiseReport

    Raises
    ------
    RefusedError
        If the image or the frames cannot be used.

    Examples
    --------
    >>> len(dip.measure_noise(image).channels)
    1
    """
    header, pixels = _open_checked_input("image", image, axes)
    frames = [
        _read_detector_frames(name, source) for name, source in (("dark", dark), ("flat", flat))
    ]
    load_torch()
    with use_default_torch_state():
        detector = measure_detector(*frames)
    return make_noise_report(header, np.asarray(pixels()), detector)


def _open_checked_input(
    name: str, image: Any, axes: object
) -> tuple[ImageHeader, Callable[[], Any]]:
    header, pixels = open_input(name, image, axes)
    raise_if_refused(refuse_header(header))
    return header, pixels


def _read_detector_frames(name: str, frames: Any) -> DetectorFrames | None:
    """Read detector frames; None if there are none."""
    if frames is None:
        return None
    header, pixels = _open_checked_input(name, frames, None)
    return header, np.asarray(pixels())


def make_noise_report(
    header: ImageHeader, array: AnyArray, detector: DetectorCalibration | None = None
) -> NoiseReport:
    """Measure the noise of an image whose header was checked, with torch in its default state.

    Parameters
    ----------
    header : ImageHeader
    array : ndarray
        In the axes and shape of `header`; NaN where nothing was measured.
    detector : DetectorCalibration or None
        Measured on detector frames; its figures replace those of the image.

    Returns
    -------
    NoiseReport

    Raises
    ------
    RefusedError
        If the pixels cannot be used, such as those of a constant image.
    """
    load_torch()
    with use_default_torch_state():
        return _measure_report(header, array, detector)


def _measure_report(
    header: ImageHeader, array: AnyArray, detector: DetectorCalibration | None
) -> NoiseReport:
    from napari_dip.engine.noise.correlation import MAX_NEGLIGIBLE_CORRELATION
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    if "S" in header.axes and has_equal_colours(array, axis := header.axes.index("S")):
        header, array = header.drop_colours(), array.take(0, axis)
    layout = make_layout(header, is_volume=False)
    stack = to_stack(array, header.axes, layout)
    missing = np.isnan(stack)
    mask = ~missing if missing.any() else None
    measured = array if mask is None else stack[mask]
    raise_if_refused(refuse_content(measured, header.name))
    if mask is None:
        stack, empty_count = fill_empty_areas(stack)
        measured = stack.astype(array.dtype) if empty_count else measured
    else:
        stack = np.where(mask, stack, np.nanmean(stack)).astype(np.float32)
    constant = tuple(c for c in range(stack.shape[1]) if stack[:, c].min() == stack[:, c].max())
    inputs = RunInputs(
        stack=stack,
        extra_inputs={},
        measured_mask=mask,
        grey_level_step=get_grey_level_step(array.dtype),
        layout=layout,
        inspection=Inspection(measured_mask=mask),
    )
    noise = measure_channel_noise(inputs, stack, constant, NoiseSettings())[0]
    varied = [c for c in range(len(noise)) if c not in constant]
    least, largest = detect_clipped_pixels(measured, [noise[c] for c in varied])
    noise = noise if detector is None else tuple(detector.apply_to(estimate) for estimate in noise)
    channels = tuple(
        _make_channel_noise(noise[c], stack[:, c], None if mask is None else mask[:, c])
        for c in varied
    )
    blind_spot_size = compute_blind_spot_size([noise[c] for c in varied], header.grid)
    correlation = np.max([channel.correlation for channel in channels], 0)
    return NoiseReport(
        channels=channels,
        correlation=correlation,
        blind_spot_size=blind_spot_size,
        blind_spot_shape=_suggest_blind_spot(
            correlation > MAX_NEGLIGIBLE_CORRELATION, blind_spot_size
        ),
        lower_clipping=least,
        upper_clipping=largest,
    )


def _suggest_blind_spot(is_correlated: BoolArray, size: tuple[int, int]) -> str:
    """Return the lags that are correlated and connected with lag 0, within a block of that size."""
    middle, halves = len(is_correlated) // 2, [side // 2 for side in size]
    is_spot = is_correlated[tuple(slice(middle - half, middle + half + 1) for half in halves)]
    if not is_spot.all():
        from skimage.measure import label  # takes 0.3 s of CPU time to import

        regions = label(is_spot, connectivity=2)  # type: ignore[no-untyped-call]
        is_spot = regions == regions[tuple(halves)]
    rows = ("".join(map(str, row)) for row in is_spot.astype(int))
    return normalise_blind_spot("/".join(rows))


def describe_noise_strength(noise: ChannelNoise) -> str:
    """Return a sentence on the noise where the image is darkest, and on the gain."""
    interval, std = format_interval(abs(noise.gain), noise.gain_error), noise.darkest_std
    if noise.gain != 0:
        return render_text("noise-strength", std=std, interval=interval, falls=noise.gain < 0)
    return render_text("noise-constant", std=std, growth=interval if " ± " in interval else "")


def describe_detector_offset(noise: ChannelNoise) -> str:
    """Return a sentence on the detector's offset and read noise."""
    if noise.offset is None or noise.read_noise is None:
        return render_text("detector-unknown")
    return render_text(
        "detector-offset",
        offset=format_interval(noise.offset, noise.offset_error),
        read=format_interval(noise.read_noise, noise.read_noise_error),
        bounded=noise.offset_error,
    )


def format_interval(figure: float, error: float) -> str:
    """Format a figure, with two standard errors where these are known and not 0."""
    return f"{figure:.4g} ± {2 * error:.2g}" if 0 < error < inf else f"{figure:.4g}"


def _make_channel_noise(
    noise_estimate: NoiseEstimate, planes: Float32Array, measured_mask: BoolArray | None
) -> Any:
    """Convert the noise estimate of one channel for the report."""
    plane_stack = planes.reshape(-1, *planes.shape[-2:])
    pixels = plane_stack if measured_mask is None else planes[measured_mask]
    dark_level = find_dark_level(noise_estimate, pixels)
    points, correlation = _measure_flat_blocks(
        plane_stack, None if measured_mask is None else measured_mask.reshape(plane_stack.shape)
    )
    return ChannelNoise(
        **{name: getattr(noise_estimate, name) for name in _REPEATED_FIELDS},
        darkest_std=float(np.sqrt(compute_noise_variance(noise_estimate, dark_level))),
        correlation=correlation,
        points=points,
        unreliable_reason=UNRELIABLE_REASONS.get(noise_estimate.unreliable_reason or "", ""),
        caution=str(make_note(f"noise-caution-{noise_estimate.caution}"))
        if noise_estimate.caution
        else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorCalibration:
    """Noise figures of a detector, in its grey values; None where no frames were measured.

    Attributes
    ----------
    gain : float or None
        Noise variance per unit of brightness, from flat frames.
    offset, read_noise : float or None
        Value read without light, and its standard deviation, from dark frames.
    intercept : float or None
        The variance at signal m is `gain * m + intercept`; from flat frames.
    """

    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None
    intercept: float | None = None

    def apply_to(self, noise_estimate: NoiseEstimate) -> NoiseEstimate:
        """Return the noise estimate of an image with the figures of the detector put in.

        An image whose grey values were inverted is not one of its frames, and keeps its estimate.
        """
        if noise_estimate.gain < 0:
            return noise_estimate
        changes: dict[str, Any] = {}
        if self.gain is not None:
            changes = {"gain": self.gain, "gain_error": 0.0, "unreliable_reason": None}
        if self.offset is not None and self.read_noise is not None:  # from the same dark frames
            changes |= {"offset": self.offset, "offset_error": 0.0}
            changes |= {"read_noise": self.read_noise, "read_noise_error": 0.0}
            changes["floor"] = self.read_noise**2 or noise_estimate.floor
            gain = changes.get("gain", noise_estimate.gain)
            changes["intercept"] = compute_intercept(gain, self.offset, self.read_noise**2)
        if self.intercept is not None:
            changes["intercept"] = self.intercept
        return replace(noise_estimate, **changes)


def measure_detector(
    dark: DetectorFrames | None, flat: DetectorFrames | None
) -> DetectorCalibration:
    """Measure offset, read noise and gain of a detector from dark and flat frames.

    Parameters
    ----------
    dark : (ImageHeader, ndarray) or None
        One or more frames without light.
    flat : (ImageHeader, ndarray) or None
        Two or more frames of one steady, even light.

    Raises
    ------
    RefusedError
        If flat frames are fewer than two, or of one brightness without dark frames; if frames hold
        one value only.
    """
    import torch

    from napari_dip.engine.noise.repeated_exposure import (
        has_varied_light,
        measure_dark_level,
        measure_photon_transfer,
    )

    offset = read_noise = gain = intercept = dark_frames_noise = None
    if dark is not None:
        dark_frames_noise = measure_dark_level(torch.from_numpy(_stack_frames(dark, min_count=1)))
        offset, read_noise = dark_frames_noise.offset, dark_frames_noise.read_noise
    if flat is not None:
        flat_frames = torch.from_numpy(_stack_frames(flat, min_count=2))
        if dark is None and not has_varied_light(flat_frames):
            raise RefusedError("frames-even", name=flat[0].name)
        gain, intercept = measure_photon_transfer(flat_frames, dark_frames_noise)
    return DetectorCalibration(gain=gain, offset=offset, read_noise=read_noise, intercept=intercept)


#: Header and pixels of detector frames.
DetectorFrames = tuple["ImageHeader", "AnyArray"]


def _stack_frames(frames: DetectorFrames, min_count: int) -> FloatArray:
    """Return frames as a stack (N, Y, X); refuse fewer than `min_count`, and constant ones."""
    header, array = frames
    plane_axes = [header.axes.index(axis) for axis in "YX"]
    planes = np.moveaxis(np.asarray(array, np.float64), plane_axes, (-2, -1))
    planes = planes.reshape(-1, *planes.shape[-2:])
    if len(planes) < min_count:
        raise RefusedError("frames-few", name=header.name, count=len(planes), least=min_count)
    if not np.isfinite(planes).all() or planes.min() == planes.max():
        raise RefusedError("frames-constant", name=header.name)
    return planes


def _measure_flat_blocks(
    planes: Float32Array, measured_mask: BoolArray | None
) -> tuple[tuple[tuple[float, float], ...], FloatArray]:
    """Measure the flattest blocks, as used for the variance model.

    Parameters
    ----------
    planes : ndarray
        (P, Y, X).
    measured_mask : ndarray of bool or None
        (P, Y, X), True where there is a measurement; blocks with holes are omitted.

    Returns
    -------
    points : tuple of (mean, variance)
        Of each block.
    correlation : ndarray
        (2 MAX_LAG + 1, 2 MAX_LAG + 1), autocorrelation by lag along Y and X; lag 0 in the middle.
    """
    import torch

    from napari_dip.engine.noise.correlation import measure_correlation_plane
    from napari_dip.engine.noise.flat_blocks import (
        MAX_LAG,
        NO_CLIPPING,
        choose_block_side,
        cut_blocks,
        estimate_autocorrelation,
        find_clipping_limits,
        select_flat_blocks,
        select_informative_blocks,
    )

    plane_indices = select_spread_planes(len(planes))
    pixels = torch.from_numpy(planes[plane_indices]).to(torch.float64)
    sample_mask = None if measured_mask is None else torch.from_numpy(measured_mask[plane_indices])
    side = choose_block_side(planes.shape[1:])
    means, residuals = cut_blocks(pixels, side)
    is_usable = select_informative_blocks(
        pixels, side, side // 2, sample_mask, find_clipping_limits(pixels)
    )
    if not bool(is_usable.any()):  # use clipped blocks rather than none
        is_usable = select_informative_blocks(pixels, side, side // 2, sample_mask, NO_CLIPPING)
    means, residuals = means[is_usable], residuals[is_usable]
    if not len(means):
        white = np.zeros((2 * MAX_LAG + 1,) * 2)
        white[MAX_LAG, MAX_LAG] = 1
        return (), white
    flat_indices = select_flat_blocks(means, residuals)
    means, residuals = means[flat_indices], residuals[flat_indices]
    variances = residuals.square().mean((1, 2)) / (1 - estimate_autocorrelation(residuals)[2])
    stride = max(1, -(-len(means) // MAX_VARIANCE_POINTS))
    pairs = zip(means[::stride].tolist(), variances[::stride].tolist(), strict=True)
    return tuple(pairs), measure_correlation_plane(residuals).numpy()
