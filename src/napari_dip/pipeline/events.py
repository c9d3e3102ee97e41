"""Define the event of a running restoration, and consume or map generators that yield events."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from napari_dip.pipeline.progress import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari_dip.io import Float32Array


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Event:
    """Progress of a running restoration.

    Attributes
    ----------
    message : str
        Current step, for the user: "Measuring the noise", "Restoring, channel 1 of 3".
    progress : Progress
        How much is done, and how much time remains.
    iteration, iterations : int
        Iterations done and planned in the current fit; 0 outside a fit.
    training_loss, validation_loss : float or None
        Mean deviance (twice the negative log-likelihood) of training and of validation pixels;
        None if not measured.
    best_iteration : int
        Iteration with the lowest validation loss so far, of the first prior where several are
        compared; 0 before the first validation.
    seconds : float
        Time since the start.
    preview : ndarray or None
        Current estimate, float32, in intensity units of the input.
    unit, units : int
        Number of the current work unit, 1-based, and their count.
    unit_name : str
        What that unit restores, as "frame 2 of 5, channel 1 of 3"; "" for the only one.
    """

    message: str
    progress: Progress = NO_PROGRESS
    iteration: int = 0
    iterations: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    best_iteration: int = 0
    seconds: float = 0.0
    preview: Float32Array | None = None
    unit: int = 1
    units: int = 1
    unit_name: str = ""

    @property
    def fraction(self) -> float:
        """Share of the run that is done, from 0 to 1."""
        return self.progress.fraction

    @property
    def seconds_left(self) -> float | None:
        """Upper estimate of the remaining time; None while unknown."""
        return self.progress.seconds_left


ItemT = TypeVar("ItemT")
MappedT = TypeVar("MappedT")
ReturnT = TypeVar("ReturnT")


def drain_generator(
    steps: Generator[ItemT, None, ReturnT], on_item: Callable[[ItemT], object] | None = None
) -> ReturnT:
    """Run a generator to its end and return its result; an interrupt or error closes it.

    Parameters
    ----------
    steps : generator
    on_item : callable or None
        Called with each value that the generator yields.
    """
    mapped = map_generator(steps, on_item or (lambda _: None))
    while True:
        try:
            next(mapped)
        except StopIteration as stop:
            return cast("ReturnT", stop.value)


def map_generator(
    steps: Generator[ItemT, None, ReturnT], change: Callable[[ItemT], MappedT]
) -> Generator[MappedT, None, ReturnT]:
    """Yield the mapped values of a generator and return its result; closing closes both."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                return cast("ReturnT", stop.value)
            yield change(step)
