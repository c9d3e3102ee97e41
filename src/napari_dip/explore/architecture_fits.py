"""Fits one design to a picture and to noise, the same pixels held out of both.

What one design does with a picture: how soon it learns what, and where its stop lies.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.engine.fit.early_stopping import ValidationRecord, make_validation_stop_rule
from napari_dip.explore.experiment_setup import compute_psnr
from napari_dip.explore.fit import (
    VALIDATION_INTERVAL,
    choose_validation_pixels,
    count_weights,
    iter_fit,
)
from napari_dip.explore.noise_impedance import compute_impedance, make_targets
from napari_dip.explore.spectra import Correspondence
from napari_dip.pipeline.calibrate.prepare import compute_output_decay, compute_patience
from napari_dip.pipeline.events import map_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import numpy.typing as npt

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.explore.fit import IterationRecord
    from napari_dip.tasks.priors.deep_image_prior import Architecture

    Curve = npt.NDArray[np.float64]

    ProgressCurve = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TrialFit:
    """One design, fitted to the picture and to noise.

    Attributes
    ----------
    design : Architecture
    weights : int
        That are fitted.
    energy, noise : ndarray (iterations,)
        Mean square of output minus target, of the picture and of noise, in variances of the target.
    correspondence : ndarray (iterations, 5)
        Of the running average with the picture; lowest band first.
    held_out : ndarray (iterations,)
        Mean square of running average minus picture at held-out pixels, in variances of the
        picture.
    psnr : ndarray (iterations,) or None
        Of the running average against the truth, in dB.
    stop : Stop
    picture : ndarray (Y, X)
        The running average that held-out pixels take, in the image's units.
    errors : ndarray (held-out pixels,)
        Its squared errors there.
    seconds : float
        Time of the processor per iteration.
    """

    design: Architecture
    weights: int
    energy: Curve
    noise: Curve
    correspondence: Curve
    held_out: Curve
    psnr: Curve | None
    stop: TrialStop
    picture: Picture
    errors: Curve
    seconds: float

    @property
    def impedance(self) -> float:
        """Area between the energies of noise and picture, as in `compute_impedance`."""
        return compute_impedance(self.noise, self.energy)

    @property
    def band_score(self) -> float:
        """Area between the correspondences of the lowest and the highest band, measured alike."""
        return compute_impedance(self.correspondence[:, 0], self.correspondence[:, -1])

    @property
    def held_out_error(self) -> float:
        """Mean square at held-out pixels of the picture that is taken."""
        return float(self.held_out[self.stop.taken - 1])

    @property
    def oracle(self) -> float | None:
        """PSNR of the best running average, which only the truth knows; dB."""
        return None if self.psnr is None else float(self.psnr.max())

    @property
    def taken_psnr(self) -> float | None:
        """PSNR of the picture that is taken; dB."""
        return None if self.psnr is None else float(self.psnr[self.stop.taken - 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStop:
    """Where a fit would have ended, and which picture it would have handed over; iterations."""

    ended: int
    taken: int


def find_stop(held_out: Sequence[float]) -> TrialStop:
    """Stop as fits stop: judged now and then, patient, the best of what was judged is taken.

    Parameters
    ----------
    held_out : sequence of float
        Mean squares at iterations 1, 2, ... of a fit that went on to its last iteration.
    """
    count = len(held_out)
    rule = make_validation_stop_rule(compute_patience(count, VALIDATION_INTERVAL))
    places = [*range(VALIDATION_INTERVAL, count, VALIDATION_INTERVAL), count]
    history: list[ValidationRecord] = []
    for place in places:
        history.append(
            ValidationRecord(
                iteration=place, fitted=float("nan"), held_out=float(held_out[place - 1])
            )
        )
        if rule(history):
            break
    best = min(reversed(history), key=lambda item: item.held_out)  # of equals the later
    return TrialStop(ended=history[-1].iteration, taken=best.iteration)


def is_significantly_worse(item: Curve, other: Curve, sure: float) -> bool:
    """Whether one picture's held-out errors exceed another's by more than chance.

    Parameters
    ----------
    item, other : ndarray (held-out pixels,)
        Squared errors at the same pixels.
    sure : float
        Standard errors of the mean difference.
    """
    apart = item - other
    error = float(apart.std(ddof=1)) / np.sqrt(apart.size) if apart.size > 1 else np.inf
    return bool(apart.mean() > sure * error)


class ArchitectureProgress(NamedTuple):
    """How far the trial of a design is.

    Attributes
    ----------
    done : float
        Share of both fits.
    iteration : int
    target : str
        "image" or "noise".
    energy : float
        Of the target there.
    picture : ndarray (Y, X) float32 or None
        The running average, in the image's units.
    """

    done: float
    iteration: int
    target: str
    energy: float
    picture: Picture | None = None


def fit_architecture(
    design: Architecture,
    subject: ExperimentSetup,
    truth: Picture | None,
    block: tuple[int, int],
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    noise: ProgressCurve | None = None,
) -> Generator[ArchitectureProgress, None, TrialFit | None]:
    """Fit a design to the picture, then to noise.

    Parameters
    ----------
    design : Architecture
    subject : ExperimentSetup
    truth : ndarray (Y, X) or None
    block : tuple of int
        Size of the blocks around held-out pixels, which are the same for all designs.
    control : callable
    noise : ndarray (iterations,) or None
        Energies of noise, where they are known already: with the same seed, size and block they are
        the same for all pictures.

    Yields
    ------
    ArchitectureProgress
        After each iteration.

    Returns
    -------
    TrialFit or None
        None if it was ended.

    Raises
    ------
    Failed
        If a fit broke down.
    """
    begun, count = time.process_time(), subject.iterations
    ways: dict[str, Any] = {"control": control, "design": design, "block": block}
    ways["average"] = compute_output_decay(count)
    targets = make_targets(subject.picture, subject.seed)
    image = targets["image"]
    watch = _FitRecorder(subject, truth, image)

    def make_update(record: IterationRecord) -> ArchitectureProgress:
        picture = watch.see(record)
        done = 0.5 * record.iteration / count
        return ArchitectureProgress(done, record.iteration, "image", record.energy, picture)

    if not (yield from map_generator(iter_fit(image, subject, pictures=True, **ways), make_update)):
        return None
    seconds = (time.process_time() - begun) / count
    if noise is None:
        noise = yield from _fit_noise(targets["noise"], subject, ways)
        if noise is None:
            return None
    judges = choose_validation_pixels(image.shape, subject, block)
    return watch.ended(design, count_weights(design, image.shape), noise, judges, seconds)


def _fit_noise(
    target: Picture, subject: ExperimentSetup, ways: dict[str, Any]
) -> Generator[ArchitectureProgress, None, ProgressCurve | None]:
    """Fit to noise: its energies, or None if it was ended."""
    energies: list[float] = []

    def resisted(record: IterationRecord) -> ArchitectureProgress:
        energies.append(record.energy)
        done = 0.5 + 0.5 * record.iteration / subject.iterations
        return ArchitectureProgress(done, record.iteration, "noise", record.energy)

    whole = yield from map_generator(iter_fit(target, subject, **ways), resisted)
    return np.array(energies) if whole else None


class _FitRecorder:
    """Gathers what each iteration shows."""

    def __init__(self, subject: ExperimentSetup, truth: Picture | None, image: Picture) -> None:
        self._truth, self._image = truth, image
        self._offset, self._unit = float(subject.picture.mean()), float(subject.picture.std())
        self._correspondence = Correspondence(image)
        self._readings: list[IterationRecord] = []
        self._bands: list[ProgressCurve] = []
        self._psnr: list[float] = []

    def see(self, record: IterationRecord) -> Picture:
        """Measure the running average of one iteration; gives it in the image's units."""
        assert record.picture is not None
        self._readings.append(record)
        self._bands.append(self._correspondence.of(record.picture))
        picture = self._in_units(record.picture)
        if self._truth is not None:
            self._psnr.append(compute_psnr(picture, self._truth))
        return picture

    def ended(
        self,
        design: Architecture,
        weights: int,
        noise: ProgressCurve,
        judges: npt.NDArray[np.bool_],
        seconds: float,
    ) -> TrialFit:
        """Put all together."""
        energy, held_out = (
            np.array([attrgetter(name)(reading) for reading in self._readings])
            for name in ("energy", "held_out")
        )
        stop = find_stop(held_out.tolist())
        picture = self._readings[stop.taken - 1].picture
        assert picture is not None
        return TrialFit(
            design=design,
            weights=weights,
            energy=energy,
            noise=noise,
            correspondence=np.array(self._bands),
            held_out=held_out,
            psnr=np.array(self._psnr) if self._psnr else None,
            stop=stop,
            picture=self._in_units(picture),
            errors=(picture - self._image)[judges].astype(np.float64) ** 2,
            seconds=seconds,
        )

    def _in_units(self, picture: Picture) -> Picture:
        return np.asarray(picture * self._unit + self._offset, np.float32)
