"""The noise of an image, measured without restoring anything, for people to look at.

What a detector tells of itself: frames without light, and frames of one even light.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.api import describe_input
from napari_dip.pipeline.assess.artefact_detection import ClippedPixels, detect_clipped_pixels
from napari_dip.pipeline.assess.quality_checks import cut_off_notes
from napari_dip.pipeline.assess.report import round_to_six_digits
from napari_dip.pipeline.calibrate.calibration import RunInputs
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    compute_variance_points,
    measure_channel_noise,
)
from napari_dip.pipeline.calibrate.inputs import check_content
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.plan.layout import check_header, make_layout, split_into_parts
from napari_dip.pipeline.torch_state import use_default_torch_state
from napari_dip.tasks.base import NoiseRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.calibrate.calibration import Planes

#: Why an image cannot tell its noise, in words for each of the engine's `DOUBTS`.
UNRELIABLE_REASON_TEXTS = {
    "blocks": "too few parts of it are without holes",
    "clipped": "almost all of it was cut off at an end of its range",
    "grey values": "its grey values are coarser than the noise",
    "texture": "structure is everywhere in it, down to single pixels",
    "correlation": "texture and noise that neighbours share look alike in it",
    "brightness": "at some brightness its noise is off a straight line, or nothing is flat there",
    "tails": "many single pixels lie further off than normal noise has it",
    "smoothed": "it seems to have been smoothed, interpolated or compressed",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChannelNoise:
    """The noise of one channel, in the image's intensity units.

    Attributes
    ----------
    gain : float
        How much the variance grows for each unit of brightness.
    intercept : float
        The variance at signal m is `gain * m + intercept`.
    noise_in_dark : float
        Standard deviation where the image is darkest, light that there may be included.
    offset, read_noise : float or None
        What the detector reads without light, and the standard deviation there; the most that they
        can be if even light fell on the darkest part; None if the image has none to tell them by.
    along_y, along_x : tuple of float
        Autocorrelation at lags 1, 2, ... pixels.
    points : tuple of (mean, variance)
        Of the flattest blocks of the image.
    doubt : str
        Why the image cannot tell, in words; "" if it can.
    caution : str
        What should be known of figures that stand, in a sentence; "" if nothing.
    gain_error, offset_error, read_noise_error : float
        Standard errors: 0 where the detector's own frames tell, infinite where nothing does.
    """

    gain: float
    intercept: float
    noise_in_dark: float
    offset: float | None
    read_noise: float | None
    along_y: tuple[float, ...]
    along_x: tuple[float, ...]
    points: tuple[tuple[float, float], ...]
    doubt: str = ""
    caution: str = ""
    gain_error: float = 0.0
    offset_error: float = 0.0
    read_noise_error: float = 0.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NoiseReport:
    """What an image tells of its noise.

    Attributes
    ----------
    channels : tuple of ChannelNoise
        In the image's order; a channel of one value only is left out.
    hidden_block : tuple of int
        Size along Y and X of the blocks that a restoration hides from its network.
    least, largest : ClippedPixels
        Pixels at the ends of the range that were cut off there.
    """

    channels: tuple[ChannelNoise, ...]
    hidden_block: tuple[int, int]
    least: ClippedPixels
    largest: ClippedPixels

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it in words, for people."""
        several = len(self.channels) > 1
        said = []
        for number, item in enumerate(self.channels, 1):
            begin = f"Channel {number}: " if several else ""
            said.append(begin + describe_noise_strength(item))
            said.append(begin + describe_detector_offset(item))
            if item.doubt:
                said.append(f"{begin}These are guesses: the image cannot tell, as {item.doubt}.")
            if item.caution:
                said.append(begin + item.caution)
        return (
            *said,
            self.correlation_sentence,
            *map(str, cut_off_notes(self.least, self.largest)),
        )

    @property
    def correlation_sentence(self) -> str:
        """How far the noise of a pixel reaches, and what a restoration makes of it."""
        height, width = self.hidden_block
        if height * width == 1:
            return (
                "Neighbouring pixels do not share noise: when the image is restored, single "
                "pixels are hidden from the network."
            )
        most_y, most_x = (
            max((channel.along_y if axis == 0 else channel.along_x)[0] for channel in self.channels)
            for axis in (0, 1)
        )
        return (
            f"Neighbouring pixels share noise ({most_y:.0%} along Y, {most_x:.0%} along X): when "
            f"the image is restored, blocks of {width} × {height} pixels are hidden from the "
            "network."
        )

    def to_dict(self) -> dict[str, Any]:
        """Give everything in plain JSON types."""
        return {
            "channels": [
                {
                    "gain": round_to_six_digits(channel.gain),
                    "gain_error": _round_finite_error(channel.gain_error),
                    "intercept": round_to_six_digits(channel.intercept),
                    "noise_in_dark": round_to_six_digits(channel.noise_in_dark),
                    "offset": None
                    if channel.offset is None
                    else round_to_six_digits(channel.offset),
                    "read_noise": None
                    if channel.read_noise is None
                    else round_to_six_digits(channel.read_noise),
                    "offset_error": None
                    if channel.offset is None
                    else round_to_six_digits(channel.offset_error),
                    "read_noise_error": (
                        None
                        if channel.read_noise is None
                        else round_to_six_digits(channel.read_noise_error)
                    ),
                    "doubt": channel.doubt,
                    "caution": channel.caution,
                    "autocorrelation": {"y": list(channel.along_y), "x": list(channel.along_x)},
                    "points": [
                        [round_to_six_digits(value) for value in point] for point in channel.points
                    ],
                }
                for channel in self.channels
            ],
            "blind_spot_block": list(self.hidden_block),
            "cut_off": {
                "least": {
                    "share": round_to_six_digits(self.least.share),
                    "value": self.least.value,
                },
                "largest": {
                    "share": round_to_six_digits(self.largest.share),
                    "value": self.largest.value,
                },
            },
            "sentences": list(self.sentences),
        }


def measure_noise(
    image: Any, axes: str | None = None, *, dark: Any = None, flat: Any = None
) -> NoiseReport:
    """Measure the noise of an image; nothing is restored.

    Parameters
    ----------
    image : array-like or path
        As for `napari_dip.denoise`. Of a stack, planes from all over it are looked at.
    axes : str, optional
        One letter for each axis out of T, C, Z, Y, X and S.
    dark : array-like or path, optional
        Frames of the same detector without light: they tell its offset and its read noise.
    flat : array-like or path, optional
        Two frames or more of one steady, even light: they tell its gain.

    Returns
    -------
    NoiseReport

    Raises
    ------
    Refused
        If the image or the frames cannot be used.
    """
    spec, pixels = _describe_checked_input("image", image, axes)
    frames = [_read_detector_frames(name, item) for name, item in (("dark", dark), ("flat", flat))]
    load_torch()
    with use_default_torch_state():
        detector = measure_detector(*frames)
    report = make_noise_report(spec, np.asarray(pixels()), detector)
    if isinstance(report, Refusal):
        raise Refused(report)
    return report


def _describe_checked_input(
    name: str, image: Any, axes: str | None
) -> tuple[ImageSpec, Callable[[], Any]]:
    spec, pixels = describe_input(name, image, axes)
    if no := check_header(spec):
        raise Refused(no)
    return spec, pixels


def _read_detector_frames(name: str, frames: Any) -> DetectorFrames | None:
    """Read a detector's own frames, if there are any."""
    if frames is None:
        return None
    spec, pixels = _describe_checked_input(name, frames, None)
    return spec, np.asarray(pixels())


def make_noise_report(
    spec: ImageSpec, array: npt.NDArray[Any], detector: DetectorCalibration | None = None
) -> NoiseReport | Refusal:
    """Measure the noise of pixels whose header has been found to be good.

    torch has the state of a run meanwhile.

    Parameters
    ----------
    spec : ImageSpec
    array : ndarray
        In its axes and shape; NaN where nothing was measured.
    detector : DetectorCalibration or None
        What its own frames tell, which goes before what the image tells.
    """
    load_torch()
    with use_default_torch_state():
        return _measure_report(spec, array, detector)


def _measure_report(
    spec: ImageSpec, array: npt.NDArray[Any], detector: DetectorCalibration | None
) -> NoiseReport | Refusal:
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    layout = make_layout(spec, volume=False)
    parts = split_into_parts(array, spec.axes, layout)
    mask = None
    if (gone := np.isnan(parts)).any():
        mask = ~gone
    measured = array if mask is None else parts[mask]
    if no := check_content(measured, spec.name):
        return no
    least, largest = detect_clipped_pixels(measured)
    if mask is not None:
        parts = np.where(mask, parts, np.nanmean(parts)).astype(np.float32)
    step = 1.0 if array.dtype.kind in "iu" else 0.0
    constant = tuple(c for c in range(parts.shape[1]) if parts[:, c].min() == parts[:, c].max())
    inputs = RunInputs(
        stack=parts, extra_inputs={}, measured_mask=mask, grey_level_step=step, layout=layout
    )
    noise = measure_channel_noise(inputs, parts, constant, NoiseRequest())[0]
    noise = noise if detector is None else tuple(detector.said_of(item) for item in noise)
    kept = [c for c in range(len(noise)) if c not in constant]
    return NoiseReport(
        channels=tuple(
            _make_channel_noise(noise[c], parts[:, c], None if mask is None else mask[:, c])
            for c in kept
        ),
        hidden_block=compute_blind_spot_size([noise[c] for c in kept], spec.grid),
        least=least,
        largest=largest,
    )


def describe_noise_strength(noise: ChannelNoise) -> str:
    """Say how strong the noise is, and how surely its growth is known."""
    if noise.gain == 0:
        grown = format_interval(0.0, noise.gain_error)
        sure = f" (growth for each unit of brightness: {grown})" if " ± " in grown else ""
        return f"The noise is equally strong everywhere: {noise.noise_in_dark:.3g}{sure}."
    return (
        f"The noise is {noise.noise_in_dark:.3g} in the dark, and its variance grows by "
        f"{format_interval(noise.gain, noise.gain_error)} for each unit of brightness."
    )


def describe_detector_offset(noise: ChannelNoise) -> str:
    """Say where the detector's zero is, or that the image cannot tell."""
    if noise.offset is None or noise.read_noise is None:
        return "The detector's offset and read noise: cannot tell, as no part is surely dark."
    offset = format_interval(noise.offset, noise.offset_error)
    read = format_interval(noise.read_noise, noise.read_noise_error)
    if noise.offset_error == 0:
        return f"The detector's offset is {offset} and its read noise {read}."
    return (
        f"The detector's offset is about {offset} and its read noise {read} if no light fell on "
        "the darkest part, and both are less if some did."
    )


def format_interval(figure: float, error: float) -> str:
    """Write two standard errors beside a figure, where they are known."""
    return f"{figure:.4g} ± {2 * error:.2g}" if 0 < error < inf else f"{figure:.4g}"


def _round_finite_error(error: float) -> float | None:
    return round_to_six_digits(error) if error < inf else None


def _make_channel_noise(
    noise: NoiseEstimate, planes: Planes, measured_mask: npt.NDArray[np.bool_] | None
) -> Any:
    """Put one channel's noise into the figures that people know."""
    flat = planes.reshape(-1, *planes.shape[-2:])
    dark = float(np.percentile(flat if measured_mask is None else planes[measured_mask], 1))
    return ChannelNoise(
        gain=noise.gain,
        intercept=noise.intercept,
        noise_in_dark=float(np.sqrt(compute_noise_variance(noise, dark))),
        offset=noise.offset,
        read_noise=noise.read_noise,
        along_y=noise.along_y,
        along_x=noise.along_x,
        points=compute_variance_points(
            flat, None if measured_mask is None else measured_mask.reshape(flat.shape)
        ),
        doubt=UNRELIABLE_REASON_TEXTS.get(noise.doubt, noise.doubt),
        caution=str(make_note(f"noise-caution-{noise.caution}")) if noise.caution else "",
        gain_error=noise.gain_error,
        offset_error=noise.offset_error,
        read_noise_error=noise.read_noise_error,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorCalibration:
    """Figures of a detector, in its grey values; None where no frames tell them.

    Attributes
    ----------
    gain : float or None
        How much the variance grows for each unit of brightness: from flat frames.
    offset, read_noise : float or None
        What is read without light, and its standard deviation: from dark frames.
    intercept : float or None
        The variance at signal m is `gain * m + intercept`: from flat frames.
    """

    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None
    intercept: float | None = None

    def said_of(self, noise: NoiseEstimate) -> NoiseEstimate:
        """Put what the detector's own frames tell in place of what an image tells."""
        gain = noise.gain if self.gain is None else self.gain
        intercept = self.intercept
        if intercept is None and self.offset is not None and self.read_noise is not None:
            intercept = self.read_noise**2 - gain * self.offset
        return replace(
            noise,
            gain=gain,
            intercept=noise.intercept if intercept is None else intercept,
            floor=noise.floor if not self.read_noise else self.read_noise**2,
            doubt=noise.doubt if self.gain is None else "",
            gain_error=noise.gain_error if self.gain is None else 0.0,
            offset_error=noise.offset_error if self.offset is None else 0.0,
            read_noise_error=noise.read_noise_error if self.read_noise is None else 0.0,
            offset=noise.offset if self.offset is None else self.offset,
            read_noise=noise.read_noise if self.read_noise is None else self.read_noise,
        )


def measure_detector(
    dark: DetectorFrames | None, flat: DetectorFrames | None
) -> DetectorCalibration:
    """Measure a detector by frames without light and of even light.

    Parameters
    ----------
    dark : (ImageSpec, ndarray) or None
        One frame or more.
    flat : (ImageSpec, ndarray) or None
        Two frames or more of one steady light.

    Raises
    ------
    Refused
        If flat frames are fewer than two, or frames hold one value only.
    """
    import torch

    from napari_dip.engine.noise.variance_model import measure_dark, measure_flat

    offset = read_noise = gain = intercept = gain_error = None
    if dark is not None:
        gain_error = measure_dark(torch.from_numpy(_stack_frames(dark, least=1)))
        offset, read_noise = gain_error.offset, gain_error.read_noise
    if flat is not None:
        gain, intercept = measure_flat(torch.from_numpy(_stack_frames(flat, least=2)), gain_error)
    return DetectorCalibration(gain=gain, offset=offset, read_noise=read_noise, intercept=intercept)


DetectorFrames = tuple["ImageSpec", "npt.NDArray[Any]"]


def _stack_frames(frames: DetectorFrames, least: int) -> npt.NDArray[np.float64]:
    """Lay frames one upon another: (N, Y, X)."""
    spec, array = frames
    last = [spec.axes.index(axis) for axis in "YX"]
    planes = np.moveaxis(np.asarray(array, np.float64), last, (-2, -1))
    planes = planes.reshape(-1, *planes.shape[-2:])
    if len(planes) < least:
        raise Refused(refusal("frames-few", name=spec.name, count=len(planes), least=least))
    if not np.isfinite(planes).all() or planes.min() == planes.max():
        raise Refused(refusal("frames-constant", name=spec.name))
    return planes
