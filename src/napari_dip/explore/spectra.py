"""Measure when a network learns which frequencies, and find the iteration to stop at.

Power is averaged over rings of radial frequency, in cycles per pixel up to 0.5, the Nyquist
frequency along an axis. The corners of the spectrum beyond are ignored, as in the code of Shi et
al. Their stopping rule waits until the ratio of blurriness to sharpness no longer changes. It needs
neither the truth nor validation pixels, only the outputs.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors.notes import serialise_notes
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
from napari_dip.pipeline.progress import Progress
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    import numpy.typing as npt

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.explore.fit import IterationRecord, ValidationStop

    BandCurve = npt.NDArray[np.float64]

    Curve = npt.NDArray[np.float64]

#: Number of bands of equal width, as in Shi et al.
BAND_COUNT = 5
#: Correspondences whose first iteration is reported: half of a band, and nearly all of it.
LEVELS = (0.5, 0.9)
#: Names of the bands in tables, lowest first.
BAND_NAMES = tuple(f"band_{number}" for number in range(1, BAND_COUNT + 1))
#: Maximum radial frequency, in cycles per pixel.
NYQUIST_FREQUENCY = 0.5
#: Number of iterations over which the ratio is averaged (n in equation 8 of Shi et al. 2022), and
#: the maximum change of a settled average (the threshold in their code).
RATIO_WINDOW, RATIO_TOLERANCE = 100, 0.01
#: Length of the blur filter in pixels, as in their code.
_FILTER = 9
#: Number of the largest local variations, and the decay of their weight with rank, as in their
#: code, which follows that of Bahrami and Kot.
_VARIATION_COUNT, _RANK_DECAY = 1000, 0.01
#: Number of recorded estimates, evenly spaced in log(iteration).
_RECORDED_ESTIMATES = 24
#: Number of estimates that the report draws, evenly spaced in log(iteration), and the iteration of
#: the first one as a divisor of their total: iteration 20 of 1,000.
_DRAWN_ESTIMATES, _FIRST_ESTIMATE_DIVISOR = 6, 50


def compute_band_edges() -> BandCurve:
    """Return the edges of the bands in cycles per pixel, lowest first."""
    return np.linspace(0, NYQUIST_FREQUENCY, BAND_COUNT + 1)


def compute_radial_power(picture: Picture) -> tuple[BandCurve, BandCurve]:
    """Return the power spectral density, averaged over rings of equal radial frequency.

    The mean is subtracted and a Hann window applied, so that the discontinuity at the border of the
    picture adds no power.

    Parameters
    ----------
    picture : ndarray (Y, X)

    Returns
    -------
    frequency : ndarray (rings,)
        Mean radial frequency of each ring, in cycles per pixel.
    power : ndarray (rings,)
        In squared units of the picture; for white noise, it equals the variance.
    """
    window = np.outer(*(np.hanning(count + 2)[1:-1] for count in picture.shape))
    centred = (picture - picture.mean(dtype=np.float64)) * window
    density = np.abs(np.fft.fft2(centred)) ** 2 / (window**2).sum()
    radius = _compute_radial_frequency(picture.shape)
    ring_count = min(picture.shape) // 2
    # ring 0 is the mean only
    ring_index = np.ceil(radius / NYQUIST_FREQUENCY * ring_count).astype(int)
    is_in_ring = (ring_index > 0) & (ring_index <= ring_count)
    count = np.bincount(ring_index[is_in_ring], minlength=ring_count + 1)[1:]
    power = np.bincount(ring_index[is_in_ring], density[is_in_ring], minlength=ring_count + 1)[1:]
    frequency = np.bincount(ring_index[is_in_ring], radius[is_in_ring], minlength=ring_count + 1)[
        1:
    ]
    return frequency / count, power / count


class Correspondence:
    """Compute the frequency-band correspondence of estimates with one target.

    It is the mean over a band of |F(estimate)| / |F(target)|, each clipped to 1: 0 where the
    estimate has nothing of the band, 1 where it is as strong as in the target. The mean of the
    picture is excluded, since it is 0 in a standardised target.

    Parameters
    ----------
    target : ndarray (Y, X)
        Target of the fit, noise included.

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
        self._band_index = np.where((radius > 0) & (radius <= NYQUIST_FREQUENCY), place, BAND_COUNT)
        self._count = np.bincount(self._band_index.ravel(), minlength=BAND_COUNT + 1)[:BAND_COUNT]

    def compute(self, estimate: Picture) -> BandCurve:
        """Return the correspondence of each band, lowest first: (5,) between 0 and 1."""
        strength = np.abs(np.fft.fft2(estimate.astype(np.float64)))
        ratio = np.clip(strength / (self._target + 1e-8), 0, 1)
        total = np.bincount(self._band_index.ravel(), ratio.ravel(), minlength=BAND_COUNT + 1)[
            :BAND_COUNT
        ]
        return np.asarray(total / self._count)


def find_level_iterations(correspondence: BandCurve, level: float) -> tuple[int, ...]:
    """Return the iteration at which each band first reaches a level, 0 if never.

    The search starts at the minimum of a band. Before the first iterations, the output of an
    untrained network is as strong as any picture and unrelated to the target.

    Parameters
    ----------
    correspondence : ndarray (iterations, 5)
    level : float
    """
    iterations = []
    for band in correspondence.T:
        start = int(np.argmin(band))
        above_level = np.flatnonzero(band[start:] >= level)
        iterations.append(start + int(above_level[0]) + 1 if above_level.size else 0)
    return tuple(iterations)


def _compute_radial_frequency(shape: tuple[int, ...]) -> BandCurve:
    down, across = (np.fft.fftfreq(count) for count in shape)
    return np.asarray(np.hypot(down[:, None], across[None]))


class SharpnessMetrics(NamedTuple):
    """Blurriness and sharpness of one estimate.

    Attributes
    ----------
    blurriness : float, 0 to 1
        After Crete et al.: share of the edge strength that survives one more blur.
    sharpness : float, > 0
        After Bahrami and Kot: root mean square of the largest differences of neighbouring pixels,
        weighted by rank, in ranges of the target.
    """

    blurriness: float
    sharpness: float

    @property
    def ratio(self) -> float:
        """Blurriness over sharpness."""
        return self.blurriness / max(self.sharpness, 1e-12)


def measure_sharpness(picture: Picture) -> SharpnessMetrics:
    """Measure blurriness and sharpness of a picture.

    Parameters
    ----------
    picture : ndarray (Y, X)
        Scaled so that the target spans 0 to 1, as the authors' 8-bit images do. The ratio, and
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

    picture_float64 = picture.astype(np.float64)
    blurriness = float(blur_effect(picture_float64, h_size=_FILTER))  # type: ignore[no-untyped-call]
    largest = np.sort(_compute_local_variation(picture).ravel())[::-1][:_VARIATION_COUNT]
    weight = np.exp(-_RANK_DECAY * np.arange(largest.size))
    return SharpnessMetrics(blurriness, float(np.sqrt(np.mean((largest * weight) ** 2))))


def find_ratio_stop(
    ratios: Sequence[float], window: int = RATIO_WINDOW, tolerance: float = RATIO_TOLERANCE
) -> int:
    """Return the iteration at which the average ratio has settled; 0 if it never does.

    Parameters
    ----------
    ratios : sequence of float
        Ratios at iterations 1, 2, ...
    window : int
        Number of ratios in each of two adjacent windows whose means are compared.
    tolerance : float
        The ratio has settled where the two means first differ by less than this.

    References
    ----------
    Shi et al. 2022, equation 8.
    """
    sums = np.concatenate([[0.0], np.cumsum(ratios)])
    means = (sums[window:] - sums[:-window]) / window
    steps = np.abs(means[window:] - means[:-window])
    settled_steps = np.flatnonzero(steps < tolerance)
    # the first pair of windows ends at iteration 2 * window
    return int(settled_steps[0]) + 2 * window if settled_steps.size else 0


def _compute_local_variation(picture: Picture) -> Picture:
    """Return the largest difference of each inner pixel to its eight neighbours."""
    height, width = picture.shape
    centre = picture[1:-1, 1:-1]
    steps = [
        np.abs(picture[down : height - 2 + down, across : width - 2 + across] - centre)
        for down in range(3)
        for across in range(3)
    ]
    return np.asarray(np.max(steps, 0), np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SpectrumResult(ExperimentResult):
    """Frequencies of the output during the fit of one network to one picture.

    Attributes
    ----------
    subject : ExperimentSetup
    truth : ndarray (Y, X) float32 or None
    energy : ndarray (iterations,)
        Mean square of output minus target, in variances of the target.
    correspondence : ndarray (iterations, 5)
        Correspondence with the target, lowest band first.
    blurriness, sharpness : ndarray (iterations,)
    psnr : ndarray (iterations,) or None
        PSNR against the truth, in dB; the peak is the truth's range.
    pictures : mapping of int to ndarray (Y, X) float32
        Outputs in the report, by iteration, in the image's units.
    evolution : mapping of int to ndarray (Y, X) float32
        All recorded outputs, by iteration.
    frequency : ndarray (rings,)
        In cycles per pixel.
    power : mapping of str to ndarray (rings,)
        Power in squared units of the image, for "target", "truth" if there is one, and iterations.
    ratio_stop : int
        Iteration at which the ratio of blurriness to sharpness settles; 0 if it never does.
    validation_stop : ValidationStop
        Early stop of a fit of the same network with validation pixels.
    validation_psnr : float or None
        PSNR of the picture that this fit selects.
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
    validation_stop: ValidationStop
    validation_psnr: float | None

    @property
    def ratio(self) -> Curve:
        """Blurriness over sharpness at each iteration."""
        return self.blurriness / np.maximum(self.sharpness, 1e-12)

    @property
    def best_iteration(self) -> int:
        """Iteration of the output with the highest PSNR; 0 without a truth."""
        return 0 if self.psnr is None else int(np.argmax(self.psnr)) + 1

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the experiment."""
        half_iterations = (
            str(iteration or "never")
            for iteration in find_level_iterations(self.correspondence, LEVELS[0])
        )
        stop = f"settles at iteration {self.ratio_stop}" if self.ratio_stop else "never settles"
        return (
            f"Half of each band, lowest first, is there at iteration {', '.join(half_iterations)}.",
            f"Blurriness over sharpness {stop}; validation pixels take iteration "
            f"{self.validation_stop.best_iteration}.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return recipe and figures in plain JSON types."""
        stop = self.validation_stop
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            **serialise_notes(self.subject.notes),
            "band_edges": compute_band_edges().tolist(),
            "reached": {
                str(level): find_level_iterations(self.correspondence, level) for level in LEVELS
            },
            "ratio_stop": self.ratio_stop,
            "held_out_stop": {
                "best_iteration": stop.best_iteration,
                "iterations": stop.iterations,
                "reason": stop.reason,
                "judged": [list(item) for item in stop.validation_errors],
                "psnr": self.validation_psnr,
            },
            "best_iteration": self.best_iteration,
        }


def explore_spectrum(
    setup: ExperimentSetup,
    truth: Picture | None = None,
    *,
    control: Callable[[], Control] = lambda: Control.GO,
) -> Generator[IterationUpdate, None, SpectrumResult | None]:
    """Fit to all pixels and measure each output, in parallel with a fit with validation pixels.

    Parameters
    ----------
    setup : ExperimentSetup
    truth : ndarray (Y, X) or None
        Picture without noise, in its units.
    control : callable
        Polled at each iteration. KEEP ends the experiment with the iterations so far.

    Yields
    ------
    IterationUpdate
        After each iteration: the correspondences of the bands, and the output.

    Returns
    -------
    Spectrum or None
        None if it was discarded, or ended before `MIN_KEPT_ITERATIONS`.
    """
    load_torch()
    return (
        yield from run_in_default_state(_fit_spectrum(setup, truth, control), setup.plan.threads)
    )


def _fit_spectrum(
    setup: ExperimentSetup, truth: Picture | None, control: Callable[[], Control]
) -> Generator[IterationUpdate, None, SpectrumResult | None]:
    target, count = standardise(setup.picture), setup.iterations
    recorder, block = _SpectrumRecorder(setup, truth), measure_validation_block(setup)
    fit_steps = iter_fit(target, setup, control=delay_keep(control), pictures=True)
    validation_steps = find_validation_stop(target, setup, block, control=control)
    with closing(fit_steps), closing(validation_steps):
        validation_fit = _ValidationFit(validation_steps)
        for iteration in range(1, count + 1):
            validation_fit.advance_to(iteration)
            record = None if control() is Control.KEEP else next(fit_steps, None)
            if record is None:
                break
            points, picture = recorder.record(record)
            event = Event(
                message="Watching the frequencies",
                progress=Progress(done=iteration, total=count),
                iteration=iteration,
                iterations=count,
            )
            yield IterationUpdate(event, points, picture=picture)
        if control() is Control.DISCARD or recorder.count < min(count, MIN_KEPT_ITERATIONS):
            return None
        validation_stop = validation_fit.finish()
    if validation_stop is None:
        return None
    return recorder.make_result(validation_stop, mark_ended_early(setup, recorder.count))


class _ValidationFit:
    """Run the fit with validation pixels in step with the measured one."""

    def __init__(self, fit: Generator[int, None, ValidationStop | None]) -> None:
        self._fit = fit
        self._iteration, self._is_finished = 0, False
        self._validation_stop: ValidationStop | None = None

    def advance_to(self, at: int) -> None:
        """Continue up to the next validation after an iteration."""
        while not self._is_finished and self._iteration < at:
            self._advance()

    def finish(self) -> ValidationStop | None:
        """Run the fit to its end and return its early stop."""
        while not self._is_finished:
            self._advance()
        return self._validation_stop

    def _advance(self) -> None:
        try:
            self._iteration = next(self._fit)
        except StopIteration as end:
            self._validation_stop, self._is_finished = end.value, True


class _SpectrumRecorder:
    """Collect the measurements of each output."""

    def __init__(self, setup: ExperimentSetup, truth: Picture | None) -> None:
        self._subject, self._truth = setup, truth
        picture = setup.picture
        self._offset, self._unit = float(picture.mean()), float(picture.std())
        self._low, high = np.percentile(picture, ROBUST_PERCENTILES)
        self._range = max(float(high - self._low), 1e-12)
        self._correspondence = Correspondence(standardise(picture))
        count = setup.iterations
        self._preview_iterations, self._evolution_iterations = (
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
        """Number of recorded iterations."""
        return len(self._rows)

    def record(self, record: IterationRecord) -> tuple[dict[str, float], Picture]:
        """Measure the output of one iteration; return its bands by name, and the picture."""
        assert record.picture is not None
        picture = self._restore_units(record.picture)
        sharpness = measure_sharpness((picture - self._low) / self._range)
        psnr = self._psnr(picture)
        self._rows.append((record.energy, sharpness.blurriness, sharpness.sharpness, psnr))
        self._bands.append(self._correspondence.compute(record.picture))
        if record.iteration in self._evolution_iterations | self._preview_iterations:
            self._pictures[record.iteration] = picture
        self._last = picture
        return dict(zip(BAND_NAMES, self._bands[-1].tolist(), strict=True)), picture

    def make_result(
        self, validation_stop: ValidationStop, setup: ExperimentSetup
    ) -> SpectrumResult:
        """Combine all measurements into a `SpectrumResult`."""
        assert self._last is not None
        evolution = {**self._pictures, self.count: self._last}
        report_pictures = {
            iteration: estimate
            for iteration, estimate in evolution.items()
            if iteration in self._preview_iterations | {self.count}
        }
        energy, blurriness, sharpness, psnr = np.array(self._rows).T
        frequency, target = compute_radial_power(self._subject.picture)
        power = {"target": target}
        if self._truth is not None:
            power["truth"] = compute_radial_power(self._truth)[1]
        power |= {
            str(iteration): compute_radial_power(estimate)[1]
            for iteration, estimate in report_pictures.items()
        }
        has_truth = self._truth is not None
        return SpectrumResult(
            subject=setup,
            truth=self._truth,
            energy=energy,
            correspondence=np.array(self._bands),
            blurriness=blurriness,
            sharpness=sharpness,
            psnr=psnr if has_truth else None,
            pictures=report_pictures,
            evolution=evolution,
            frequency=frequency,
            power=power,
            ratio_stop=find_ratio_stop(blurriness / np.maximum(sharpness, 1e-12)),
            validation_stop=validation_stop,
            validation_psnr=self._psnr(self._restore_units(validation_stop.picture))
            if has_truth
            else None,
        )

    def _restore_units(self, picture: Picture) -> Picture:
        return np.asarray(picture * self._unit + self._offset, np.float32)

    def _psnr(self, picture: Picture) -> float:
        return float("nan") if self._truth is None else compute_psnr(picture, self._truth)
