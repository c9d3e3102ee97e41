"""Maps of a camera from frames without light and of even light, pixel by pixel.

The photon transfer plot of a camera: variance against light, and how its pixels differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.errors import Refused, refusal
from napari_dip.io.outputs import check_folder, check_output
from napari_dip.io.paths import make_folder
from napari_dip.io.regions import open_pixels
from napari_dip.io.writing import write_bytes, write_image
from napari_dip.pipeline.api import describe_input
from napari_dip.pipeline.assess.report_figures import make_figure, render_png, use_default_style
from napari_dip.pipeline.plan.layout import check_header

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from matplotlib.axes import Axes

    from napari_dip.io import ImageSpec

    Map = npt.NDArray[np.float32]

    Numbers = npt.NDArray[np.float64]

#: Files of the maps and the plot.
CAMERA_MAP_FILES = ("offset.tif", "gain.tif", "noise.tif", "photon_transfer.png")
#: Frames without light from which on a pixel's read noise is known to 16 %, 1 / sqrt(2 (n - 1)).
MIN_RELIABLE_DARK_FRAMES = 20
#: Variance of rounding to whole grey values: no pixel reads with less noise.
QUANTISATION_VARIANCE = 1 / 12
#: Least gain of a pixel, as a share of the camera's, whatever its few frames say.
MIN_GAIN_SHARE = 0.1
#: Quantiles of a normal law at one standard deviation to each side.
ONE_SIGMA_QUANTILES = (0.1587, 0.8413)
#: Share of a level's variance that may lie off the line before it is said: the lamp flickers in
#: parts of the picture, or the pixels are saturated.
MAX_LINE_DEVIATION = 0.2


class LightLevel(NamedTuple):
    """Frames of one light.

    Attributes
    ----------
    name : str
    frames : int
        How many there are.
    mean, variance : ndarray
        (Y, X), of each pixel over the frames.
    """

    name: str
    frames: int
    mean: Numbers
    variance: Numbers


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CameraReport:
    """Maps of a camera, in its grey values, and how they came about.

    Attributes
    ----------
    offset, noise : ndarray
        (Y, X) float32: what each pixel reads without light, and the standard deviation there.
    gain : ndarray or None
        (Y, X) float32, grey values for a photo-electron; None without flat frames.
    dark : LightLevel
    flats : tuple of LightLevel
    camera_gain : float
        Mean of the gain map; 0 without one.
    gain_spread, gain_error : float
        True spread of the pixels' gains, and standard error of a single one, as shares of it.
    raw_gain : ndarray or None
        (Y, X), before it was drawn to the camera's gain.
    """

    offset: Map
    noise: Map
    gain: Map | None
    dark: LightLevel
    flats: tuple[LightLevel, ...]
    camera_gain: float = 0.0
    gain_spread: float = 0.0
    gain_error: float = 0.0
    raw_gain: Numbers | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it in words, for people."""
        count, usual = self.dark.frames, float(np.median(self.noise))
        hot = float((self.noise**2 > 2 * usual**2).mean())
        low, high = np.quantile(self.offset, ONE_SIGMA_QUANTILES)
        error = 1 / np.sqrt(2 * (count - 1))
        said = [
            f"From {count} dark frames of {self.offset.shape[1]} × {self.offset.shape[0]} pixels: "
            f"offset {np.median(self.offset):.4g} ± {(high - low) / 2:.2g}, read noise "
            f"{usual:.3g} grey values in the median; {hot:.2%} of the pixels have more than twice "
            "that variance.",
            f"A pixel's offset is known to {usual / np.sqrt(count):.2g} grey values, and its read "
            f"noise to {error:.0%}.",
        ]
        if count < MIN_RELIABLE_DARK_FRAMES:
            said.append(
                f"That is uncertain: with fewer than {MIN_RELIABLE_DARK_FRAMES} dark frames, "
                "chance makes quiet "
                "pixels look noisy. Take hundreds if you can."
            )
        return (*said, *self._describe_gain())

    def _describe_gain(self) -> list[str]:
        if self.gain is None:
            return ["No gain map was made, since no flat frames were given."]
        kept = self.gain_spread**2 / (self.gain_spread**2 + self.gain_error**2)
        said = [
            f"From flat frames of {len(self.flats)} light levels: {self.camera_gain:.4g} grey "
            f"values for a photo-electron. Pixels differ by {self.gain_spread:.1%}, and one is "
            f"measured to {self.gain_error:.1%}, so {kept:.0%} of what is measured of each was "
            "kept."
        ]
        for flat in self.flats:
            light, variance = (
                float(np.median(value)) for value in (flat.mean - self.offset, flat.variance)
            )
            off = variance / (self.camera_gain * light + float(np.median(self.noise)) ** 2) - 1
            if abs(off) > MAX_LINE_DEVIATION:
                said.append(
                    f"The variance of '{flat.name}' lies {off:+.0%} off the line: check that it is "
                    "not saturated, and that its light is steady."
                )
        return said

    def to_dict(self) -> dict[str, Any]:
        """Give what was found in plain JSON types."""
        return {
            "dark_frames": self.dark.frames,
            "flat_frames": {flat.name: flat.frames for flat in self.flats},
            "camera_gain": self.camera_gain,
            "gain_spread": self.gain_spread,
            "gain_error": self.gain_error,
            "sentences": list(self.sentences),
        }

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the maps as 32-bit TIFF, and the photon transfer plot; gives the folder.

        Raises
        ------
        Refused
            If the folder cannot be used, or holds such files already.
        Failed
            If the disk does not take them.
        """
        place = check_camera_map_folder(folder, overwrite=overwrite)
        make_folder(place)
        maps = {"offset.tif": self.offset, "gain.tif": self.gain, "noise.tif": self.noise}
        for name, array in maps.items():
            if array is not None:
                facts = {"napari_dip_camera_maps": self.to_dict()}
                write_image(place / name, array, axes="YX", provenance=facts, overwrite=overwrite)
        write_bytes(place / CAMERA_MAP_FILES[-1], draw_photon_transfer(self), overwrite=overwrite)
        return place


def check_camera_map_folder(
    folder: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]] = (),
    *,
    overwrite: bool,
) -> Path:
    """Make sure that the maps can be saved in a folder, which need not be there yet.

    Raises
    ------
    Refused
        If it is no folder, cannot be written to, or holds such files or the frames themselves.
    """
    place = check_folder(folder)
    if place.is_dir():
        for name in CAMERA_MAP_FILES:
            check_output(place / name, inputs, overwrite, suffixes=(os.path.splitext(name)[1],))
    return place


def camera_maps(
    dark: Any, flat: Any = (), *, progress: Callable[[str], object] | None = None
) -> CameraReport:
    """Measure offset, read noise and gain of each pixel of a camera.

    The mean brightness of each frame is taken out first, so that neither a drift of the offset nor
    a flickering lamp counts as noise. Frames are read one at a time.

    A pixel's gain is the slope of its variance against its mean, fitted by least squares through
    its own dark point, each level weighed by the error of a variance. From few frames that slope
    is uncertain, so it is drawn to the camera's gain: its difference is multiplied by
    t² / (t² + e²), with its standard error e and the pixels' true spread t, which is the spread
    that is seen less what the errors alone would make.

    Parameters
    ----------
    dark : path or array-like, or a list of these
        Frames without light, (N, Y, X) each, or single ones; all are taken together.
    flat : list of path or array-like
        Frames of steady, even light: a stack for each of two levels or more. Without any there is
        no gain map.
    progress : callable, optional
        Called with a sentence before each stack is read.

    Returns
    -------
    CameraReport

    Raises
    ------
    Refused
        If the frames cannot be used.

    References
    ----------
    Huang et al., Video-rate nanoscopy using sCMOS camera-specific single-molecule localization
    algorithms, Nature Methods 10, 2013, doi:10.1038/nmeth.2488.
    Janesick, Photon Transfer, SPIE Press 2007, doi:10.1117/3.725073.
    """
    darks, flats = _describe_stacks("dark", dark), _describe_stacks("flat", flat)
    if len(flats) == 1:
        raise Refused(refusal("camera-levels", name=flats[0][0].name))
    for spec, _ in (*darks, *flats):
        _check_frames(spec, darks[0][0])
    tell = progress or (lambda _: None)
    without = _measure_level(darks, darks[0][0].name, tell)
    variance = np.maximum(without.variance, _get_quantisation_variance(darks[0][0]))
    without = without._replace(variance=variance)
    offset, noise = without.mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
    if not flats:
        return CameraReport(offset=offset, noise=noise, gain=None, dark=without, flats=())
    levels = tuple(_measure_level([flat], flat[0].name, tell) for flat in flats)
    for level in levels:
        if float(np.median(level.mean - without.mean)) <= float(np.median(noise)):
            raise Refused(refusal("camera-not-lit", name=level.name, dark=without.name))
    raw, errors = _fit_gains(without, levels)
    camera = float((raw / errors**2).sum() / (1 / errors**2).sum())
    low, high = np.quantile(raw, ONE_SIGMA_QUANTILES)
    error = float(np.median(errors))
    spread = max(((high - low) / 2) ** 2 - error**2, 0.0)
    drawn = camera + spread / (spread + errors**2) * (raw - camera)
    return CameraReport(
        offset=offset,
        noise=noise,
        gain=np.maximum(drawn, MIN_GAIN_SHARE * camera).astype(np.float32),
        dark=without,
        flats=levels,
        camera_gain=camera,
        gain_spread=float(np.sqrt(spread)) / camera,
        gain_error=error / camera,
        raw_gain=raw,
    )


FrameStack = tuple["ImageSpec", Any]


def _describe_stacks(name: str, frames: Any) -> list[FrameStack]:
    """Describe stacks of frames; files are read later, frame by frame."""
    several = isinstance(frames, Sequence) and not isinstance(frames, str)
    specs = []
    for frame in frames if several else [frames]:
        spec, pixels = describe_input(name, frame, None)
        specs.append((spec, open_pixels(spec) if spec.path is not None else pixels()))
    return specs


def _check_frames(spec: ImageSpec, first: ImageSpec) -> None:
    """Refuse what is no frame of the same camera, from the headers alone."""
    if no := check_header(spec):
        raise Refused(no)
    if spec.grid != first.grid:
        sizes = [" × ".join(map(str, item.grid)) for item in (spec, first)]
        facts = {"name": spec.name, "size": sizes[0], "other": first.name, "want": sizes[1]}
        raise Refused(refusal("frames-size", **facts))


def _measure_level(
    stacks: Sequence[FrameStack], name: str, tell: Callable[[str], object]
) -> LightLevel:
    """Accumulate mean and variance of each pixel over all frames of some stacks.

    References
    ----------
    Welford, Note on a method for calculating corrected sums of squares and products,
    Technometrics 4(3), 1962, doi:10.1080/00401706.1962.10490022.
    """
    grid = stacks[0][0].grid
    mean, squares, bright, count = np.zeros(grid), np.zeros(grid), 0.0, 0
    for spec, array in stacks:
        frames = [n for axis, n in zip(spec.axes, spec.shape, strict=True) if axis not in "YX"]
        tell(f"Reading the frames of '{spec.name}'.")
        turned = spec.axes.index("X") < spec.axes.index("Y")
        for place in np.ndindex(*frames):
            at = iter(place)
            whole = tuple(slice(None) if axis in "YX" else next(at) for axis in spec.axes)
            frame = np.asarray(array[whole], np.float64)
            frame = frame.T if turned else frame
            level = float(frame.mean())
            if not np.isfinite(level):
                raise Refused(refusal("frames-constant", name=spec.name))
            count += 1
            bright += level
            away = frame - level - mean
            mean += away / count
            squares += away * (frame - level - mean)
    if count < 2:
        raise Refused(refusal("frames-few", name=name, count=count, least=2))
    if not squares.any():
        raise Refused(refusal("frames-constant", name=name))
    return LightLevel(name, count, mean + bright / count, squares / (count - 1))


def _get_quantisation_variance(spec: ImageSpec) -> float:
    return QUANTISATION_VARIANCE if spec.dtype[0] in "iu" else float(np.finfo(np.float32).tiny)


def _fit_gains(dark: LightLevel, flats: Sequence[LightLevel]) -> tuple[Numbers, Numbers]:
    """Fit each pixel's gain through its dark point: slopes and their standard errors, (Y, X)."""
    lights = [flat.mean - dark.mean for flat in flats]
    excess = [flat.variance - dark.variance for flat in flats]
    usual = float(np.median(sum(excess)) / np.median(sum(lights)))
    of_dark = 2 * dark.variance**2 / (dark.frames - 1)
    above, below = np.zeros_like(dark.mean), np.zeros_like(dark.mean)
    for item, light, variance in zip(flats, lights, excess, strict=True):
        foretold = np.maximum(usual * light, 0) + dark.variance
        weight = light / (2 * foretold**2 / (item.frames - 1) + of_dark)
        above += weight * variance
        below += weight * light
    below = np.maximum(below, np.finfo(np.float64).tiny)
    return above / below, 1 / np.sqrt(below)


#: Pixels of a level that are drawn as dots.
MAX_PLOTTED_PIXELS = 1500
BLUE, ORANGE = "#1f77b4", "#d95f02"


@use_default_style
def draw_photon_transfer(report: CameraReport) -> bytes:
    """Draw the levels with their line, the read noise and the gains of all pixels; a PNG file."""
    count = 3 if report.gain is not None else 1
    figure = make_figure(3.6 * count, 3.2)
    panels = figure.subplots(1, count, squeeze=False)[0]
    _draw_read_noise(panels[-1] if count == 1 else panels[1], report)
    if report.gain is not None:
        _draw_levels(panels[0], report)
        _draw_gains(panels[2], report)
    for panel in panels:
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return render_png(figure)


def _draw_levels(axes: Axes, report: CameraReport) -> None:
    """Draw variance against light, and the line of the whole camera."""
    usual = float(np.median(report.noise)) ** 2
    some = np.linspace(
        0, report.offset.size - 1, min(MAX_PLOTTED_PIXELS, report.offset.size)
    ).astype(int)
    for item in report.flats:
        light = (item.mean - report.offset).ravel()
        dots = light[some], item.variance.ravel()[some]
        axes.plot(*dots, ".", color=BLUE, markersize=1.5, alpha=0.15, rasterized=True)
        axes.plot(np.median(light), np.median(item.variance), "o", color=ORANGE, markersize=5)
    ends = [float(np.median(flat.mean - report.offset)) for flat in report.flats]
    along = np.geomspace(min(ends) / 3, max(ends) * 1.5, 200)
    label = f"{report.camera_gain:.3g} × light + {usual:.3g}"
    axes.plot(along, report.camera_gain * along + usual, color="black", linewidth=1, label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_title("Photon transfer", fontsize=9)
    axes.set_xlabel("Light: grey values above the offset", fontsize=8)
    axes.set_ylabel("Variance, grey values squared", fontsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper left")


def _draw_read_noise(axes: Axes, report: CameraReport) -> None:
    """Draw how many pixels read with how much noise."""
    low, high = float(report.noise.min()), float(report.noise.max())
    bins = np.geomspace(low, max(high, 1.01 * low), 60).tolist()
    axes.hist(report.noise.ravel(), bins, color=BLUE)
    usual = float(np.median(report.noise))
    axes.axvline(usual, color=ORANGE, linewidth=1, label=f"median {usual:.3g}")
    axes.set(xscale="log", yscale="log")
    axes.set_title("Read noise", fontsize=9)
    axes.set_xlabel("Standard deviation, grey values", fontsize=8)
    axes.set_ylabel("Pixels", fontsize=8)
    axes.legend(fontsize=7, frameon=False)


def _draw_gains(axes: Axes, report: CameraReport) -> None:
    """Draw the pixels' gains as they were measured, and as the map has them."""
    assert report.gain is not None and report.raw_gain is not None
    low, high = np.quantile(report.raw_gain, [0.001, 0.999])
    bins = np.linspace(float(low), float(high), 80).tolist()
    axes.hist(report.raw_gain.ravel(), bins, color=BLUE, alpha=0.5, label="as measured")
    style = {"histtype": "step", "color": ORANGE, "label": "in the map"}
    axes.hist(report.gain.ravel(), bins, **style)  # type: ignore[arg-type]
    axes.set(yscale="log")
    axes.set_title("Gain", fontsize=9)
    axes.set_xlabel("Grey values for a photo-electron", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
