"""Events of a run, its result, and helpers that consume or map a generator of events."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from napari_dip.engine.control import Control as Control
from napari_dip.pipeline.progress import NOT_BEGUN, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy as np
    import numpy.typing as npt

    from napari_dip.errors.notes import Stop, StopReason
    from napari_dip.pipeline.recipe import Recipe

    Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Event:
    """Progress of a running restoration.

    Attributes
    ----------
    message : str
        Current step, for the user: "Measuring the noise", "Restoring part 1 of 3".
    progress : Progress
        How much is done, and how much time remains.
    iteration, iterations : int
        Iterations done and planned in the current fit; 0 outside a fit.
    training_loss, validation_loss : float or None
        Training and validation loss: negative log-likelihood per pixel; None if not measured.
    best_iteration : int
        Iteration with the lowest validation loss so far; 0 before the first validation.
    seconds : float
        Time since the start.
    preview : ndarray or None
        Current estimate, float32, in intensity units of the input.
    unit, units : int
        Number of the current work unit, 1-based, and their count.
    """

    message: str
    progress: Progress = NOT_BEGUN
    iteration: int = 0
    iterations: int = 0
    training_loss: float | None = None
    validation_loss: float | None = None
    best_iteration: int = 0
    seconds: float = 0.0
    preview: Pixels | None = None
    unit: int = 1
    units: int = 1

    @property
    def fraction(self) -> float:
        """Share of the run that is done, from 0 to 1."""
        return self.progress.fraction

    @property
    def seconds_left(self) -> float | None:
        """Upper estimate of the remaining time; None while unknown."""
        return self.progress.seconds_left


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Restoration:
    """Result of a run: image, uncertainty and report.

    Attributes
    ----------
    image : ndarray
        In the axes and intensity units of the input; its shape is that of the input, times the
        upscaling factor. float32, or the input's type if the recipe asks for it.
    uncertainty : ndarray
        Standard deviation of each pixel of `image`, in the same units.
    stop : Stop
        Why the fit ended: `stop.reason` is a value to compare, `str(stop)` a text for the user.
    best_iteration : int
        Iteration that the image was taken from.
    history : tuple of (iteration, training loss, validation loss)
        Of the first restart of the first work unit; NaN where not measured.
    recipe : Recipe
        Recipe of this run.
    learned : mapping of str to ndarray
        Other fitted quantities, such as {"psf": ...}.
    report : mapping
        The report of the run in plain JSON types.
    residual : ndarray or None
        Measurement minus the operator's output for `image`, in the input's shape and intensity
        units; 0 where nothing was measured.
    """

    image: npt.NDArray[Any]
    uncertainty: Pixels
    stop: Stop
    best_iteration: int
    history: tuple[tuple[int, float, float], ...]
    recipe: Recipe
    learned: Mapping[str, Pixels] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    residual: Pixels | None = None

    @property
    def stop_reason(self) -> StopReason:
        """Why the fit ended, as a value to compare; `str(result.stop)` is a text for the user."""
        return self.stop.reason

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the result is used, worst first; empty if nothing was found."""
        return tuple(self.report.get("verdict", {}).get("warnings", ()))

    def __repr__(self) -> str:
        """Return one line: task, shape, type and stop reason."""
        size = " × ".join(map(str, self.image.shape))
        task = self.recipe.task.spec.name
        return f"<Restoration: {task}, {size}, {self.image.dtype}; ended since {self.stop}>"


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
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                result: ReturnT = stop.value
                return result
            if on_item is not None:
                on_item(step)


def map_generator(
    steps: Generator[ItemT, None, ReturnT], change: Callable[[ItemT], MappedT]
) -> Generator[MappedT, None, ReturnT]:
    """Yield the mapped values of a generator and return its result; closing closes both."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                result: ReturnT = stop.value
                return result
            yield change(step)
