"""Measure offset, gain and read noise of each pixel of a camera from dark and flat frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.engine.noise import predict_variance
from napari_dip.errors import RefusedError, raise_if_refused
from napari_dip.errors.templates import format_sizes, render_text
from napari_dip.io.outputs import resolve_folder_files
from napari_dip.io.paths import make_folder
from napari_dip.io.reading import open_pixels
from napari_dip.io.writing import write_bytes, write_image
from napari_dip.pipeline.assess.report_figures import (
    format_small_axes,
    make_figure,
    render_figure,
    use_default_style,
)
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.plan.layout import refuse_header

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from napari_dip.io import Float32Array, FloatArray, ImageHeader
    from napari_dip.public_types import FilePath, ImageLike

    Map = Float32Array

#: File names of the maps and of the photon transfer plot.
CAMERA_MAP_FILES = ("offset.tif", "gain.tif", "noise.tif", "photon_transfer.png")
#: Minimum number of dark frames for a read noise known to 16 %, 1 / sqrt(2 (n - 1)).
MIN_RELIABLE_DARK_FRAMES = 20
#: Variance of rounding to whole grey values, the minimum of any pixel of an integer image.
QUANTISATION_VARIANCE = 1 / 12
#: Minimum gain of a pixel, as a share of the camera's gain.
MIN_GAIN_FRACTION = 0.1
#: Quantiles of a normal distribution at one standard deviation to each side.
ONE_SIGMA_QUANTILES = (0.1587, 0.8413)
#: Maximum relative deviation of a level's variance from the line without a warning. More means an
#: unsteady lamp or saturated pixels.
MAX_LINE_DEVIATION = 0.2
#: Maximum number of pixels of a light level that are plotted.
MAX_PLOTTED_PIXELS = 1500
#: Colour of measured values in plots (matplotlib's blue).
BLUE = "#1f77b4"
#: Colour of medians and of the gain in the map (ColorBrewer's Dark2).
ORANGE = "#d95f02"


class LightLevel(NamedTuple):
    """Mean and variance of the frames of one light level.

    Attributes
    ----------
    name : str
    frame_count : int
    mean, variance : ndarray
        (Y, X): of each pixel over the frames.
    """

    name: str
    frame_count: int
    mean: FloatArray
    variance: FloatArray


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CameraReport:
    """Maps of a camera, in its grey values, and the measurements behind them.

    Attributes
    ----------
    offset, noise : ndarray
        (Y, X) float32: what each pixel reads without light, and its read noise.
    gain : ndarray or None
        (Y, X) float32, grey values per photo-electron; None without flat frames.
    dark : LightLevel
        Of the dark frames.
    flats : tuple of LightLevel
        One for each stack of flat frames.
    camera_gain : float
        Weighted mean of the measured gains; 0 without flat frames.
    gain_spread, gain_error : float
        Spread of the pixels' gains without measurement errors, and standard error of a single
        one, as shares of the camera's gain.
    raw_gain : ndarray or None
        (Y, X): measured gains, before shrinkage towards the camera's gain.
    """

    offset: Map
    noise: Map
    gain: Map | None
    dark: LightLevel
    flats: tuple[LightLevel, ...]
    camera_gain: float = 0.0
    gain_spread: float = 0.0
    gain_error: float = 0.0
    raw_gain: FloatArray | None = None

    def __repr__(self) -> str:
        """Return one line: the first sentence."""
        return f"<CameraReport: {self.sentences[0]}>"

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the report, for the user."""
        count, median_noise = self.dark.frame_count, float(np.median(self.noise))
        hot_fraction = float((self.noise**2 > 2 * median_noise**2).mean())
        low, high = np.quantile(self.offset, ONE_SIGMA_QUANTILES)
        lines = [
            render_text(
                "camera-dark",
                count=count,
                width=self.offset.shape[1],
                height=self.offset.shape[0],
                offset=np.median(self.offset),
                spread=(high - low) / 2,
                noise=median_noise,
                hot=hot_fraction,
            ),
            render_text(
                "camera-errors",
                offset_error=median_noise / np.sqrt(count),
                noise_error=1 / np.sqrt(2 * (count - 1)),
            ),
        ]
        if count < MIN_RELIABLE_DARK_FRAMES:
            lines.append(render_text("camera-few-frames", least=MIN_RELIABLE_DARK_FRAMES))
        return (*lines, *self._describe_gain())

    def _describe_gain(self) -> list[str]:
        if self.gain is None:
            return [render_text("camera-no-gain")]
        lines = [
            render_text(
                "camera-gain",
                count=len(self.flats),
                gain=self.camera_gain,
                spread=self.gain_spread,
                error=self.gain_error,
                kept=self.gain_spread**2 / (self.gain_spread**2 + self.gain_error**2),
            )
        ]
        for flat in self.flats:
            light = float(np.median(flat.mean - self.offset))
            read_variance = float(np.median(self.noise)) ** 2
            expected = predict_variance(light, self.camera_gain, read_variance)
            deviation = float(np.median(flat.variance)) / expected - 1
            if abs(deviation) > MAX_LINE_DEVIATION:
                lines.append(render_text("camera-off-line", name=flat.name, deviation=deviation))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the report, without maps, in plain JSON types."""
        return {
            "dark_frames": self.dark.frame_count,
            "flat_frames": {flat.name: flat.frame_count for flat in self.flats},
            "camera_gain": self.camera_gain,
            "gain_spread": self.gain_spread,
            "gain_error": self.gain_error,
            "sentences": list(self.sentences),
        }

    def save(self, folder: FilePath, *, overwrite: bool = False) -> Path:
        """Write the maps as 32-bit TIFF, and the photon transfer plot; return the folder.

        Raises
        ------
        RefusedError
            If the folder cannot be used, or already holds files of these names.
        FailedError
            If the files cannot be written.
        """
        path = resolve_folder_files(folder, CAMERA_MAP_FILES, overwrite=overwrite)
        make_folder(path)
        maps = {"offset.tif": self.offset, "gain.tif": self.gain, "noise.tif": self.noise}
        for name, array in maps.items():
            if array is not None:
                facts = {"napari_dip_camera_maps": self.to_dict()}
                write_image(path / name, array, axes="YX", provenance=facts, overwrite=overwrite)
        write_bytes(path / CAMERA_MAP_FILES[-1], plot_photon_transfer(self), overwrite=overwrite)
        return path


def measure_camera_maps(
    dark: ImageLike | Sequence[ImageLike],
    flat: Sequence[ImageLike] = (),
    *,
    progress: Callable[[str], object] | None = None,
) -> CameraReport:
    """Measure offset, read noise and gain of each pixel of a camera.

    The mean brightness of each frame is subtracted first, so that neither a drift of the offset
    nor a flickering lamp counts as noise. Frames are read one at a time.

    The gain of a pixel is the slope of its variance against its mean. It is fitted by weighted
    least squares through the pixel's dark point, with the error of each level's variance. From few
    frames the slope is uncertain, so it is shrunk towards the camera's gain. Its difference from
    that gain is multiplied by t² / (t² + e²), with its standard error e and the true spread t of
    the pixels. t² is the observed variance of the slopes minus the squared median error.

    Parameters
    ----------
    dark : path or array-like, or a list of these
        Frames without light: stacks (N, Y, X) or single frames, which are pooled.
    flat : list of path or array-like
        Frames of steady, even light: one stack for each of two or more levels. Without flat frames
        there is no gain map.
    progress : callable, optional
        Called with a sentence for the user before each stack is read.

    Returns
    -------
    CameraReport

    Raises
    ------
    RefusedError
        If the frames cannot be used.

    References
    ----------
    Huang et al., Video-rate nanoscopy using sCMOS camera-specific single-molecule localization
    algorithms, Nature Methods 10, 2013, doi:10.1038/nmeth.2488.
    Janesick, Photon Transfer, SPIE Press 2007, doi:10.1117/3.725073.

    Examples
    --------
    >>> report = dip.measure_camera_maps(dark_frames, flat_stacks)
    >>> report.offset.shape
    (16, 16)
    """
    darks, flats = _open_stacks("dark", dark), _open_stacks("flat", flat)
    if len(flats) == 1:
        raise RefusedError("camera-levels", name=flats[0][0].name)
    for header, _ in (*darks, *flats):
        _check_frames(header, darks[0][0])
    report_progress = progress or (lambda _: None)
    dark_level = _measure_level(darks, darks[0][0].name, report_progress)
    is_whole = darks[0][0].dtype[0] in "iu"
    least_variance = QUANTISATION_VARIANCE if is_whole else float(np.finfo(np.float32).tiny)
    variance = np.maximum(dark_level.variance, least_variance)
    dark_level = dark_level._replace(variance=variance)
    offset, noise = dark_level.mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
    if not flats:
        return CameraReport(offset=offset, noise=noise, gain=None, dark=dark_level, flats=())
    levels = tuple(_measure_level([flat], flat[0].name, report_progress) for flat in flats)
    for level in levels:
        if float(np.median(level.mean - dark_level.mean)) <= float(np.median(noise)):
            raise RefusedError("camera-not-lit", name=level.name, dark=dark_level.name)
    raw_gains, errors = _fit_gains(dark_level, levels)
    camera_gain = float((raw_gains / errors**2).sum() / (1 / errors**2).sum())
    low, high = np.quantile(raw_gains, ONE_SIGMA_QUANTILES)
    error = float(np.median(errors))
    spread = max(((high - low) / 2) ** 2 - error**2, 0.0)
    shrunk_gains = camera_gain + spread / (spread + errors**2) * (raw_gains - camera_gain)
    return CameraReport(
        offset=offset,
        noise=noise,
        gain=np.maximum(shrunk_gains, MIN_GAIN_FRACTION * camera_gain).astype(np.float32),
        dark=dark_level,
        flats=levels,
        camera_gain=camera_gain,
        gain_spread=float(np.sqrt(spread)) / camera_gain,
        gain_error=error / camera_gain,
        raw_gain=raw_gains,
    )


#: Header and pixels of a stack of frames.
FrameStack = tuple["ImageHeader", Any]


def _open_stacks(name: str, frames: Any) -> list[FrameStack]:
    """Return header and pixels of each stack; files are read later, frame by frame."""
    is_list = isinstance(frames, Sequence) and not isinstance(frames, str)
    stacks = []
    for frame in frames if is_list else [frames]:
        header, pixels = open_input(name, frame, None)
        stacks.append((header, open_pixels(header) if header.path is not None else pixels()))
    return stacks


def _check_frames(header: ImageHeader, first: ImageHeader) -> None:
    """Refuse a stack whose header is wrong, or whose frame size is not that of the first."""
    raise_if_refused(refuse_header(header))
    if header.grid != first.grid:
        facts = {"size": format_sizes(header.grid), "want": format_sizes(first.grid)}
        raise RefusedError("frames-size", name=header.name, other=first.name, **facts)


def _measure_level(
    stacks: Sequence[FrameStack], name: str, report_progress: Callable[[str], object]
) -> LightLevel:
    """Measure mean and variance of each pixel over all frames of some stacks.

    References
    ----------
    Welford, Note on a method for calculating corrected sums of squares and products,
    Technometrics 4(3), 1962, doi:10.1080/00401706.1962.10490022.
    """
    grid = stacks[0][0].grid
    mean, squares, level_sum, count = np.zeros(grid), np.zeros(grid), 0.0, 0
    for header, array in stacks:
        frames = [n for axis, n in zip(header.axes, header.shape, strict=True) if axis not in "YX"]
        report_progress(f"Reading the frames of '{header.name}'.")
        is_transposed = header.axes.index("X") < header.axes.index("Y")
        for frame_index in np.ndindex(*frames):
            indices = iter(frame_index)
            selection = tuple(
                slice(None) if axis in "YX" else next(indices) for axis in header.axes
            )
            frame = np.asarray(array[selection], np.float64)
            frame = frame.T if is_transposed else frame
            level = float(frame.mean())
            if not np.isfinite(level):
                raise RefusedError("frames-constant", name=header.name)
            count += 1
            level_sum += level
            deviation = frame - level - mean
            mean += deviation / count
            squares += deviation * (frame - level - mean)
    if count < 2:
        raise RefusedError("frames-few", name=name, count=count, least=2)
    if not squares.any():
        raise RefusedError("frames-constant", name=name)
    return LightLevel(name, count, mean + level_sum / count, squares / (count - 1))


def _fit_gains(dark: LightLevel, flats: Sequence[LightLevel]) -> tuple[FloatArray, FloatArray]:
    """Fit the gain of each pixel through its dark point; return gains and errors, (Y, X)."""
    lights = [flat.mean - dark.mean for flat in flats]
    excess = [flat.variance - dark.variance for flat in flats]
    typical_gain = float(np.median(sum(excess)) / np.median(sum(lights)))
    dark_error_variance = 2 * dark.variance**2 / (dark.frame_count - 1)
    numerator, denominator = np.zeros_like(dark.mean), np.zeros_like(dark.mean)
    for level, light, variance in zip(flats, lights, excess, strict=True):
        expected_variance = np.maximum(typical_gain * light, 0) + dark.variance
        weight = light / (2 * expected_variance**2 / (level.frame_count - 1) + dark_error_variance)
        numerator += weight * variance
        denominator += weight * light
    denominator = np.maximum(denominator, np.finfo(np.float64).tiny)
    return numerator / denominator, 1 / np.sqrt(denominator)


@use_default_style
def plot_photon_transfer(report: CameraReport) -> bytes:
    """Plot light levels with their line, read noise and gains; return the bytes of a PNG file."""
    drawings = [_plot_read_noise]
    if report.gain is not None:
        drawings = [_plot_levels, _plot_read_noise, _plot_gains]
    figure = make_figure(3.6 * len(drawings), 3.2)
    for ax, draw in zip(figure.subplots(1, len(drawings), squeeze=False)[0], drawings, strict=True):
        draw(ax, report)
        format_small_axes(ax, "upper left" if draw is _plot_levels else "best")
    return render_figure(figure)


def _plot_levels(ax: Axes, report: CameraReport) -> None:
    """Plot variance against light, with the line of the camera."""
    read_variance = float(np.median(report.noise)) ** 2
    pixels = report.offset.size
    plotted = np.linspace(0, pixels - 1, min(MAX_PLOTTED_PIXELS, pixels)).astype(int)
    for level in report.flats:
        light = (level.mean - report.offset).ravel()
        dots = light[plotted], level.variance.ravel()[plotted]
        ax.plot(*dots, ".", color=BLUE, markersize=1.5, alpha=0.15, rasterized=True)
        ax.plot(np.median(light), np.median(level.variance), "o", color=ORANGE, markersize=5)
    light_levels = [float(np.median(flat.mean - report.offset)) for flat in report.flats]
    lights = np.geomspace(min(light_levels) / 3, max(light_levels) * 1.5, 200)
    label = f"{report.camera_gain:.3g} × light + {read_variance:.3g}"
    line = predict_variance(lights, report.camera_gain, read_variance)
    ax.plot(lights, line, color="black", linewidth=1, label=label)
    ax.set(
        xscale="log",
        yscale="log",
        title="Photon transfer",
        xlabel="Light: grey values above the offset",
        ylabel="Variance, grey values squared",
    )


def _plot_read_noise(ax: Axes, report: CameraReport) -> None:
    """Plot a histogram of the pixels' read noise."""
    low, high = float(report.noise.min()), float(report.noise.max())
    bins = np.geomspace(low, max(high, 1.01 * low), 60).tolist()
    ax.hist(report.noise.ravel(), bins, color=BLUE)
    median_noise = float(np.median(report.noise))
    ax.axvline(median_noise, color=ORANGE, linewidth=1, label=f"median {median_noise:.3g}")
    label = "Standard deviation, grey values"
    ax.set(xscale="log", yscale="log", title="Read noise", xlabel=label, ylabel="Pixels")


def _plot_gains(ax: Axes, report: CameraReport) -> None:
    """Plot histograms of the measured gains and of those of the map."""
    assert report.gain is not None and report.raw_gain is not None
    low, high = np.quantile(report.raw_gain, [0.001, 0.999])
    bins = np.linspace(float(low), float(high), 80).tolist()
    ax.hist(report.raw_gain.ravel(), bins, color=BLUE, alpha=0.5, label="as measured")
    ax.hist(report.gain.ravel(), bins, histtype="step", color=ORANGE, label="in the map")
    ax.set(yscale="log", title="Gain", xlabel="Grey values for a photo-electron")
