"""Measure the impedance of a network: how much slower it learns noise than an image."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors.notes import serialise_notes
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
from napari_dip.pipeline.progress import Progress
from napari_dip.pipeline.torch_state import run_in_default_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy.typing as npt

    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture

    Curve = npt.NDArray[np.float64]

__all__ = [
    "ADDED_NOISE",
    "TARGETS",
    "ImpedanceResult",
    "compute_impedance",
    "explore_impedance",
    "make_targets",
]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImpedanceResult(ExperimentResult):
    """Energies of one network fitted to four targets.

    Attributes
    ----------
    subject : ExperimentSetup
    targets : mapping of str to ndarray (Y, X) float32
        Each of zero mean and unit variance; the keys are those of `TARGETS`.
    energies : mapping of str to ndarray (iterations,) float64
        Mean square of output minus target at iterations 1, 2, ...
    score : float
        Area between the curves of noise and image over the logarithm of the iteration, divided by
        the length of that axis: see `compute_impedance`.
    """

    experiment: ClassVar[str] = "impedance"
    subject: ExperimentSetup
    targets: Mapping[str, Picture]
    energies: Mapping[str, Curve]
    score: float

    def get_energies(self, iteration: int) -> dict[str, float]:
        """Return the energies at a 1-based iteration, by target."""
        return {name: float(curve[iteration - 1]) for name, curve in self.energies.items()}

    def is_ordered(self, iteration: int) -> bool:
        """Return whether image < image + noise < both noise and shuffled pixels at an iteration."""
        energies = self.get_energies(iteration)
        upper_limit = min(energies["shuffled"], energies["noise"])
        return energies["image"] < energies["image_and_noise"] < upper_limit

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that summarise the experiment."""
        count = self.subject.iterations
        return (
            f"Impedance score {self.score:.3f} over {count} iterations (0: noise is learned as "
            "readily as the image; 1: the image at once, noise never).",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return recipe and figures in plain JSON types."""
        return {
            "experiment": self.experiment,
            "recipe": dict(self.subject.recipe),
            **serialise_notes(self.subject.notes),
            "score": self.score,
            "energies": {name: curve.tolist() for name, curve in self.energies.items()},
        }


def make_targets(picture: Picture, seed: int) -> dict[str, Picture]:
    """Make the four targets: image, image with noise, shuffled pixels, and noise alone.

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
    return {name: standardise(target) for name, target in zip(TARGETS, targets, strict=True)}


def compute_impedance(noise: Curve, image: Curve) -> float:
    """Return the mean distance of two energy curves over the logarithm of the iteration.

    As in the paper's figure, the axis is logarithmic. A network that learns twice as fast then has
    the same curves, shifted, and the same score. Over a linear axis the last iterations would
    dominate the score, which would depend on their number.

    Parameters
    ----------
    noise, image : ndarray (iterations,)
        Energies at iterations 1, 2, ... in variances of the target.

    Returns
    -------
    float
        0: the network learns both equally fast; 1: the image at once, and noise never.
    """
    if len(noise) < 2:
        return float(noise[0] - image[0])
    log_iterations, differences = np.log(np.arange(1, len(noise) + 1)), noise - image
    return float(
        np.sum(np.diff(log_iterations) * (differences[1:] + differences[:-1]))
        / 2
        / log_iterations[-1]
    )


def explore_impedance(
    setup: ExperimentSetup, *, control: Callable[[], Control] = lambda: Control.GO
) -> Generator[IterationUpdate, None, ImpedanceResult | None]:
    """Fit the same network from the same initial weights to each target, in parallel.

    Parameters
    ----------
    setup : ExperimentSetup
    control : callable
        Polled at each iteration. KEEP ends the experiment with the iterations so far.

    Yields
    ------
    IterationUpdate
        After each iteration: the energies of all targets.

    Returns
    -------
    Impedance or None
        None if it was discarded, or ended before `MIN_KEPT_ITERATIONS`.
    """
    load_torch()
    return (yield from run_in_default_state(_fit_targets(setup, control), setup.plan.threads))


def _fit_targets(
    setup: ExperimentSetup, control: Callable[[], Control]
) -> Generator[IterationUpdate, None, ImpedanceResult | None]:
    targets, count = make_targets(setup.picture, setup.seed), setup.iterations
    curves: dict[str, list[float]] = {name: [] for name in targets}
    with ExitStack() as ends:
        control_without_keep = delay_keep(control)
        fits = {
            name: iter_fit(target, setup, control=control_without_keep)
            for name, target in targets.items()
        }
        for fit in fits.values():
            ends.callback(fit.close)
        for iteration in range(1, count + 1):
            if control() is Control.KEEP:
                break
            for name, fit in fits.items():
                record = next(fit, None)
                if record is None:  # discarded
                    return None
                curves[name].append(record.energy)
            points = {name: curve[-1] for name, curve in curves.items()}
            yield IterationUpdate(
                Event(
                    message="Fitting image and noise",
                    progress=Progress(done=iteration, total=count),
                    iteration=iteration,
                    iterations=count,
                ),
                points,
            )
    iterations_done = len(curves["noise"])
    if iterations_done < min(count, MIN_KEPT_ITERATIONS):
        return None
    energies = {name: np.array(curve) for name, curve in curves.items()}
    score = compute_impedance(energies["noise"], energies["image"])
    return ImpedanceResult(
        subject=mark_ended_early(setup, iterations_done),
        targets=targets,
        energies=energies,
        score=score,
    )
