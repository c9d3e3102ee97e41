"""Impedance: a network resists noise and yields to an image, told by how its energy falls."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors.notes import report_notes
from napari_dip.explore.experiment_setup import ADDED_NOISE, TARGETS, standardise
from napari_dip.explore.fit import iter_fit
from napari_dip.explore.progress import (
    MIN_KEPT_ITERATIONS,
    ExperimentResult,
    IterationUpdate,
    delay_keep,
    mark_ended_early,
)
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.machine import load_torch
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture

    Curve = npt.NDArray[np.float64]

__all__ = [
    "ADDED_NOISE",
    "TARGETS",
    "Impedance",
    "compute_impedance",
    "explore_impedance",
    "make_targets",
]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Impedance(ExperimentResult):
    """Energies of one network fitted to four targets.

    Attributes
    ----------
    subject : ExperimentSetup
    targets : mapping of str to ndarray (Y, X) float32
        Each of zero mean and unit variance; the keys are those of `TARGETS`.
    energies : mapping of str to ndarray (iterations,) float64
        Mean square of output minus target at iterations 1, 2, ...
    score : float
        The area between the curves of noise and of image over the logarithm of the iteration,
        divided by its length: see `compute_impedance`.
    """

    experiment: ClassVar[str] = "impedance"
    subject: ExperimentSetup
    targets: Mapping[str, Picture]
    energies: Mapping[str, Curve]
    score: float

    def at(self, iteration: int) -> dict[str, float]:
        """Give the energies at a 1-based iteration, by target."""
        return {name: float(curve[iteration - 1]) for name, curve in self.energies.items()}

    def ordered(self, iteration: int) -> bool:
        """Whether image < image + noise < both noise and shuffled pixels there."""
        result = self.at(iteration)
        last = min(result["shuffled"], result["noise"])
        return result["image"] < result["image_and_noise"] < last

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outcome in words."""
        count = self.subject.iterations
        return (
            f"Impedance score {self.score:.3f} over {count} iterations (0: noise is learned as "
            "readily as the image; 1: the image at once, noise never).",
        )

    def to_dict(self) -> dict[str, Any]:
        """Give recipe and figures in plain JSON types."""
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            **report_notes(self.subject.notes),
            "score": self.score,
            "energies": {name: curve.tolist() for name, curve in self.energies.items()},
        }


def make_targets(picture: Picture, seed: int) -> dict[str, Picture]:
    """Make the four targets: the image, noisy, its pixels shuffled, and noise alone.

    Parameters
    ----------
    picture : ndarray (Y, X)
    seed : int
    """
    rng = np.random.default_rng(seed)
    image = standardise(picture)
    noisy = image + ADDED_NOISE * rng.standard_normal(image.shape)
    shuffled = rng.permutation(image.ravel()).reshape(image.shape)
    noise = rng.standard_normal(image.shape)
    targets: tuple[npt.NDArray[Any], ...] = (image, noisy, shuffled, noise)
    return {name: standardise(item) for name, item in zip(TARGETS, targets, strict=True)}


def compute_impedance(noise: Curve, image: Curve) -> float:
    """Mean distance of two energy curves over the logarithm of the iteration.

    The logarithm, as the paper's figure has it: a network that learns twice as fast has the same
    curves moved sideways there, and so the same score. Over plain iterations the score would be
    that of the last ones, and would depend on how many there are.

    Parameters
    ----------
    noise, image : ndarray (iterations,)
        Energies at iterations 1, 2, ... in variances of the target.

    Returns
    -------
    float
        0: the network learns both alike; 1: the image at once, and noise never.
    """
    if len(noise) < 2:
        return float(noise[0] - image[0])
    place, apart = np.log(np.arange(1, len(noise) + 1)), noise - image
    return float(np.sum(np.diff(place) * (apart[1:] + apart[:-1])) / 2 / place[-1])


def explore_impedance(
    subject: ExperimentSetup, *, control: Callable[[], Control] = lambda: Control.GO
) -> Generator[IterationUpdate, None, Impedance | None]:
    """Fit the same network from the same start to each target, all of them side by side.

    Parameters
    ----------
    subject : ExperimentSetup
    control : callable
        Polled at each iteration. Keeping ends the experiment with what it has come to.

    Yields
    ------
    IterationUpdate
        After each iteration: the energies of all targets.

    Returns
    -------
    Impedance or None
        None if it was discarded, or ended before there was anything to be seen.
    """
    load_torch()
    return (yield from run_in_default_state(_fit_targets(subject, control), subject.plan.threads))


def _fit_targets(
    subject: ExperimentSetup, control: Callable[[], Control]
) -> Generator[IterationUpdate, None, Impedance | None]:
    targets, count = make_targets(subject.picture, subject.seed), subject.iterations
    curves: dict[str, list[float]] = {name: [] for name in targets}
    with ExitStack() as ends:
        whole = delay_keep(control)
        fits = {name: iter_fit(item, subject, control=whole) for name, item in targets.items()}
        for fit in fits.values():
            ends.callback(fit.close)
        for at in range(1, count + 1):
            if control() is Control.KEEP:
                break
            for name, fit in fits.items():
                reading = next(fit, None)
                if reading is None:  # discarded
                    return None
                curves[name].append(reading.energy)
            points = {name: curve[-1] for name, curve in curves.items()}
            yield IterationUpdate(
                Event(
                    message="Fitting image and noise",
                    fraction=at / count,
                    iteration=at,
                    iterations=count,
                ),
                points,
            )
    reached = len(curves["noise"])
    if reached < min(count, MIN_KEPT_ITERATIONS):
        return None
    energies = {name: np.array(curve) for name, curve in curves.items()}
    score = compute_impedance(energies["noise"], energies["image"])
    return Impedance(
        subject=mark_ended_early(subject, reached), targets=targets, energies=energies, score=score
    )
