"""Spectrum: which frequencies a network learns when, and where that says to stop.

Frequencies: radially averaged power, and how much of each band an estimate has learned.

Radial frequency is in cycles per pixel, up to 0.5, which is the finest along an axis; the corners
of the spectrum beyond are left out, as in the code of Shi et al.

The stop of Shi et al.: the ratio of blurriness to sharpness no longer changes.

It needs neither the truth nor held-out pixels, only the estimates themselves.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors.notes import report_notes
from napari_dip.explore.experiment_setup import compute_psnr, measure_validation_block, standardise
from napari_dip.explore.fit import find_validation_stop, iter_fit
from napari_dip.explore.progress import (
    MIN_KEPT_ITERATIONS,
    ExperimentResult,
    IterationUpdate,
    delay_keep,
    mark_ended_early,
)
from napari_dip.pipeline.calibrate.resolution_and_outliers import ROBUST_PERCENTILES
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.explore.fit import IterationRecord, ValidationStop

    BandCurve = npt.NDArray[np.float64]

    Curve = npt.NDArray[np.float64]

#: Bands of equal width, as Shi et al. have them.
BAND_COUNT = 5
#: Shares of a band whose iteration is told: half of it, and nearly all.
LEVELS = (0.5, 0.9)
#: As tables name them, lowest first.
BAND_NAMES = tuple(f"band_{number}" for number in range(1, BAND_COUNT + 1))
#: Finest radial frequency that is looked at, in cycles per pixel.
NYQUIST_FREQUENCY = 0.5


def compute_band_edges() -> BandCurve:
    """Limits of the bands in cycles per pixel, lowest first: one more than there are bands."""
    return np.linspace(0, NYQUIST_FREQUENCY, BAND_COUNT + 1)


def compute_radial_power(picture: Picture) -> tuple[BandCurve, BandCurve]:
    """Power spectral density, averaged over rings of equal radial frequency.

    The mean is taken off and a Hann window laid on, so that the picture's border, where it does
    not continue on the other side, adds no power of its own.

    Parameters
    ----------
    picture : ndarray (Y, X)

    Returns
    -------
    frequency : ndarray (rings,)
        Mean radial frequency of each ring, in cycles per pixel.
    power : ndarray (rings,)
        In squared units of the picture; of white noise it is the variance.
    """
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in picture.shape))
    centred = (picture - picture.mean(dtype=np.float64)) * window
    density = np.abs(np.fft.fft2(centred)) ** 2 / (window**2).sum()
    radius = _compute_radial_frequency(picture.shape)
    rings = min(picture.shape) // 2
    place = np.ceil(radius / NYQUIST_FREQUENCY * rings).astype(int)  # ring 0 is the mean alone
    inside = (place > 0) & (place <= rings)
    count = np.bincount(place[inside], minlength=rings + 1)[1:]
    power = np.bincount(place[inside], density[inside], minlength=rings + 1)[1:]
    frequency = np.bincount(place[inside], radius[inside], minlength=rings + 1)[1:]
    return frequency / count, power / count


class Correspondence:
    """Frequency-band correspondence of estimates with one target.

    The mean over a band of |F(estimate)| / |F(target)|, each clipped to 1: 0 where nothing of the
    band is there yet, 1 where it is as strong as in the target. The mean of the picture is left
    out, since it is 0 in a standardised target.

    Parameters
    ----------
    target : ndarray (Y, X)
        What is fitted, noise included.

    References
    ----------
    Shi, Mettes, Maji, Snoek, On measuring and controlling the spectral bias of the deep image
    prior, IJCV 130, 2022, doi:10.1007/s11263-021-01572-7, section 3, and the authors' code
    (function `get_circular_statastic` of their repository Measure-and-Control-Spectral-Bias).
    """

    def __init__(self, target: Picture) -> None:
        self._target = np.abs(np.fft.fft2(target.astype(np.float64)))
        radius = _compute_radial_frequency(target.shape)
        place = np.ceil(radius / NYQUIST_FREQUENCY * BAND_COUNT).astype(int) - 1
        self._place = np.where((radius > 0) & (radius <= NYQUIST_FREQUENCY), place, BAND_COUNT)
        self._count = np.bincount(self._place.ravel(), minlength=BAND_COUNT + 1)[:BAND_COUNT]

    def of(self, estimate: Picture) -> BandCurve:
        """Correspondence of each band, lowest first: (5,) between 0 and 1."""
        strength = np.abs(np.fft.fft2(estimate.astype(np.float64)))
        ratio = np.clip(strength / (self._target + 1e-8), 0, 1)
        total = np.bincount(self._place.ravel(), ratio.ravel(), minlength=BAND_COUNT + 1)[
            :BAND_COUNT
        ]
        return np.asarray(total / self._count)


def find_level_iterations(correspondence: BandCurve, level: float) -> tuple[int, ...]:
    """Tell at which iteration each band first has so much of its target, 0 if never.

    Counted from where a band has least of it: what an untrained network says before its first
    steps is as strong as any picture, and has nothing to do with the target.

    Parameters
    ----------
    correspondence : ndarray (iterations, 5)
    level : float
    """
    iterations = []
    for band in correspondence.T:
        least = int(np.argmin(band))
        reached = np.flatnonzero(band[least:] >= level)
        iterations.append(least + int(reached[0]) + 1 if reached.size else 0)
    return tuple(iterations)


def _compute_radial_frequency(shape: tuple[int, ...]) -> BandCurve:
    down, across = (np.fft.fftfreq(count) for count in shape)
    return np.asarray(np.hypot(down[:, None], across[None]))


#: Iterations over which the ratio is averaged, and the change of that average that counts as
#: none: n of equation 8 and the threshold in the code of Shi et al.
RATIO_WINDOW, RATIO_TOLERANCE = 100, 0.01
#: Length of the filter that blurs once more, in pixels; as in their code.
_FILTER = 9
#: The largest variations that count, and how fast their weight falls with their rank; as in
#: their code, which follows that of Bahrami and Kot.
_LARGEST, _FALL = 1000, 0.01


class SharpnessMetrics(NamedTuple):
    """How an estimate looks by itself.

    Attributes
    ----------
    blurriness : float, 0 to 1
        After Crete et al.: share of the edges that one more blur leaves as they are.
    sharpness : float, > 0
        After Bahrami and Kot: root mean square of the largest steps between neighbours, weighted
        by rank, in ranges of the target.
    """

    blurriness: float
    sharpness: float

    @property
    def ratio(self) -> float:
        """Blurriness over sharpness."""
        return self.blurriness / max(self.sharpness, 1e-12)


def measure_sharpness(picture: Picture) -> SharpnessMetrics:
    """Measure blurriness and sharpness.

    Parameters
    ----------
    picture : ndarray (Y, X)
        Scaled so that the target spans 0 to 1, as the authors' 8-bit images do: the ratio, and
        with it the stop, depends on that scale.

    References
    ----------
    Crete, Dolmiere, Ladret, Nicolas, The blur effect: perception and estimation with a new
    no-reference perceptual blur metric, SPIE 6492, 2007, doi:10.1117/12.702790 (as in
    scikit-image, whose edges are Sobel's).
    Bahrami, Kot, A fast approach for no-reference image sharpness assessment based on maximum
    local variation, IEEE Signal Processing Letters 21(6), 2014, pages 751 to 755.
    """
    from skimage.measure import blur_effect

    whole = picture.astype(np.float64)
    blurriness = float(blur_effect(whole, h_size=_FILTER))  # type: ignore[no-untyped-call]
    largest = np.sort(_compute_local_variation(picture).ravel())[::-1][:_LARGEST]
    weight = np.exp(-_FALL * np.arange(largest.size))
    return SharpnessMetrics(blurriness, float(np.sqrt(np.mean((largest * weight) ** 2))))


def find_ratio_stop(
    ratios: Sequence[float], count: int = RATIO_WINDOW, change: float = RATIO_TOLERANCE
) -> int:
    """Tell at which iteration the ratio's average has settled; 0 if it has not.

    Parameters
    ----------
    ratios : sequence of float
        At iterations 1, 2, ...
    count : int
        The means of the last `count` ratios and of the `count` before are compared.
    change : float
        They differ by less.

    References
    ----------
    Shi et al. 2022, equation 8.
    """
    sums = np.concatenate([[0.0], np.cumsum(ratios)])
    means = (sums[count:] - sums[:-count]) / count
    steps = np.abs(means[count:] - means[:-count])
    settled_steps = np.flatnonzero(steps < change)
    return int(settled_steps[0]) + 2 * count if settled_steps.size else 0


def _compute_local_variation(picture: Picture) -> Picture:
    """Largest step from each inner pixel to one of its eight neighbours."""
    height, width = picture.shape
    inner = picture[1:-1, 1:-1]
    steps = [
        np.abs(picture[down : height - 2 + down, across : width - 2 + across] - inner)
        for down in range(3)
        for across in range(3)
    ]
    return np.asarray(np.max(steps, 0), np.float32)


#: Estimates whose power and pictures are shown, and those that are kept to be looked through:
#: evenly spread over the logarithm of the iteration, the former from a fiftieth of the fit on.
_DRAWN_ESTIMATES, _RECORDED_ESTIMATES, _FIRST_ESTIMATE_DIVISOR = 6, 24, 50


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Spectrum(ExperimentResult):
    """What the frequencies of the output did while one network was fitted to one picture.

    Attributes
    ----------
    subject : ExperimentSetup
    truth : ndarray (Y, X) float32 or None
    energy : ndarray (iterations,)
        Mean square of output minus target, in variances of the target.
    correspondence : ndarray (iterations, 5)
        With the target; lowest band first.
    blurriness, sharpness : ndarray (iterations,)
    psnr : ndarray (iterations,) or None
        Against the truth, in dB; the peak is the truth's range.
    pictures : mapping of int to ndarray (Y, X) float32
        Outputs by iteration, in the image's units: those of the report.
    evolution : mapping of int to ndarray (Y, X) float32
        These and more.
    frequency : ndarray (rings,)
        In cycles per pixel.
    power : mapping of str to ndarray (rings,)
        In squared units of the image; "target", "truth" if there is one, and iterations.
    ratio_stop : int
        Where the ratio of blurriness to sharpness has settled; 0 if it has not.
    held_out : ValidationStop
        Where held-out pixels end a fit of the same network.
    held_out_psnr : float or None
        Of the picture that is taken there.
    """

    experiment: ClassVar[str] = "spectrum"
    subject: ExperimentSetup
    truth: Picture | None
    energy: Curve
    correspondence: Curve
    blurriness: Curve
    sharpness: Curve
    psnr: Curve | None
    pictures: Mapping[int, Picture]
    evolution: Mapping[int, Picture]
    frequency: Curve
    power: Mapping[str, Curve]
    ratio_stop: int
    held_out: ValidationStop
    held_out_psnr: float | None

    @property
    def ratio(self) -> Curve:
        """Blurriness over sharpness at each iteration."""
        return self.blurriness / np.maximum(self.sharpness, 1e-12)

    @property
    def best_iteration(self) -> int:
        """Iteration of the output nearest to the truth; 0 without a truth."""
        return 0 if self.psnr is None else int(np.argmax(self.psnr)) + 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outcome in words."""
        halves = (
            str(at or "never") for at in find_level_iterations(self.correspondence, LEVELS[0])
        )
        stop = f"settles at iteration {self.ratio_stop}" if self.ratio_stop else "never settles"
        return (
            f"Half of each band, lowest first, is there at iteration {', '.join(halves)}.",
            f"Blurriness over sharpness {stop}; held-out pixels take iteration "
            f"{self.held_out.best_iteration}.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Give recipe and figures in plain JSON types."""
        stop = self.held_out
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            **report_notes(self.subject.notes),
            "band_edges": compute_band_edges().tolist(),
            "reached": {
                str(level): find_level_iterations(self.correspondence, level) for level in LEVELS
            },
            "ratio_stop": self.ratio_stop,
            "held_out_stop": {
                "best_iteration": stop.best_iteration,
                "iterations": stop.iterations,
                "reason": stop.reason,
                "judged": [list(item) for item in stop.judged],
                "psnr": self.held_out_psnr,
            },
            "best_iteration": self.best_iteration,
        }


def explore_spectrum(
    subject: ExperimentSetup,
    truth: Picture | None = None,
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[IterationUpdate, None, Spectrum | None]:
    """Fit with nothing held out and look at each output; beside it once with pixels held out.

    Parameters
    ----------
    subject : ExperimentSetup
    truth : ndarray (Y, X) or None
        What the picture should have been, in its units.
    control : callable
        Polled at each iteration. Keeping ends the experiment with what it has come to.

    Yields
    ------
    IterationUpdate
        After each iteration: the correspondences of the bands, and the output.

    Returns
    -------
    Spectrum or None
        None if it was discarded, or ended before there was anything to be seen.
    """
    load_torch()
    return (
        yield from run_in_default_state(
            _fit_spectrum(subject, truth, control), subject.plan.threads
        )
    )


def _fit_spectrum(
    subject: ExperimentSetup, truth: Picture | None, control: Callable[[], Control]
) -> Generator[IterationUpdate, None, Spectrum | None]:
    target, count = standardise(subject.picture), subject.iterations
    watch, block = _SpectrumRecorder(subject, truth), measure_validation_block(subject)
    fitted = iter_fit(target, subject, control=delay_keep(control), pictures=True)
    judged = find_validation_stop(target, subject, block, control=control)
    with closing(fitted), closing(judged):
        judge = _ValidationFit(judged)
        for at in range(1, count + 1):
            judge.follow(at)
            reading = None if control() is Control.KEEP else next(fitted, None)
            if reading is None:
                break
            points, picture = watch.see(reading)
            event = Event(
                message="Watching the frequencies",
                fraction=at / count,
                iteration=at,
                iterations=count,
            )
            yield IterationUpdate(event, points, picture=picture)
        if control() is Control.DISCARD or watch.count < min(count, MIN_KEPT_ITERATIONS):
            return None
        held_out = judge.last()
    if held_out is None:
        return None
    return watch.ended(held_out, mark_ended_early(subject, watch.count))


class _ValidationFit:
    """Runs the fit that is judged beside the one that is watched, never far ahead of it."""

    def __init__(self, fit: Generator[int, None, ValidationStop | None]) -> None:
        self._fit = fit
        self._at, self._over = 0, False
        self._validation_stop: ValidationStop | None = None

    def follow(self, at: int) -> None:
        """Go on to the next judgement behind an iteration."""
        while not self._over and self._at < at:
            self._go_on()

    def last(self) -> ValidationStop | None:
        """Come to the end: by the rule, by the budget or, if someone asks for it, now."""
        while not self._over:
            self._go_on()
        return self._validation_stop

    def _go_on(self) -> None:
        try:
            self._at = next(self._fit)
        except StopIteration as end:
            self._validation_stop, self._over = end.value, True


class _SpectrumRecorder:
    """Gathers what each output shows."""

    def __init__(self, subject: ExperimentSetup, truth: Picture | None) -> None:
        self._subject, self._truth = subject, truth
        picture = subject.picture
        self._offset, self._unit = float(picture.mean()), float(picture.std())
        self._low, high = np.percentile(picture, ROBUST_PERCENTILES)
        self._range = max(float(high - self._low), 1e-12)
        self._correspondence = Correspondence(standardise(picture))
        count = subject.iterations
        self._preview_iterations, self._kept = (
            {int(item) for item in np.round(np.geomspace(first, count, many))}
            for first, many in (
                (max(1, count // _FIRST_ESTIMATE_DIVISOR), _DRAWN_ESTIMATES),
                (1, _RECORDED_ESTIMATES),
            )
        )
        self._last: Picture | None = None
        self._rows: list[tuple[float, ...]] = []
        self._bands: list[Curve] = []
        self._pictures: dict[int, Picture] = {}

    @property
    def count(self) -> int:
        """Iterations that were seen."""
        return len(self._rows)

    def see(self, record: IterationRecord) -> tuple[dict[str, float], Picture]:
        """Measure the output of one iteration; its bands by their names, and the picture."""
        assert record.picture is not None
        picture = self._in_units(record.picture)
        sharpness = measure_sharpness((picture - self._low) / self._range)
        psnr = self._psnr(picture)
        self._rows.append((record.energy, sharpness.blurriness, sharpness.sharpness, psnr))
        self._bands.append(self._correspondence.of(record.picture))
        if record.iteration in self._kept | self._preview_iterations:
            self._pictures[record.iteration] = picture
        self._last = picture
        return dict(zip(BAND_NAMES, self._bands[-1].tolist(), strict=True)), picture

    def ended(self, held_out: ValidationStop, subject: ExperimentSetup) -> Spectrum:
        """Put all together."""
        assert self._last is not None
        evolution = {**self._pictures, self.count: self._last}
        facts = {
            at: item
            for at, item in evolution.items()
            if at in self._preview_iterations | {self.count}
        }
        energy, blurriness, sharpness, psnr = np.array(self._rows).T
        frequency, target = compute_radial_power(self._subject.picture)
        power = {"target": target}
        if self._truth is not None:
            power["truth"] = compute_radial_power(self._truth)[1]
        power |= {str(at): compute_radial_power(item)[1] for at, item in facts.items()}
        mask = self._truth is not None
        return Spectrum(
            subject=subject,
            truth=self._truth,
            energy=energy,
            correspondence=np.array(self._bands),
            blurriness=blurriness,
            sharpness=sharpness,
            psnr=psnr if mask else None,
            pictures=facts,
            evolution=evolution,
            frequency=frequency,
            power=power,
            ratio_stop=find_ratio_stop(blurriness / np.maximum(sharpness, 1e-12)),
            held_out=held_out,
            held_out_psnr=self._psnr(self._in_units(held_out.picture)) if mask else None,
        )

    def _in_units(self, picture: Picture) -> Picture:
        return np.asarray(picture * self._unit + self._offset, np.float32)

    def _psnr(self, picture: Picture) -> float:
        return float("nan") if self._truth is None else compute_psnr(picture, self._truth)
