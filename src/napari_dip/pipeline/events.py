"""What a run says while it works and what it leaves behind: the values that every door reads.

Running a generator to its end, or inside another one, with its answer handed on.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from napari_dip.engine.control import Control as Control

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy as np
    import numpy.typing as npt

    from napari_dip.errors.notes import Stop, StopReason
    from napari_dip.pipeline.recipe import Recipe

    Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Event:
    """One report of a running restoration.

    Attributes
    ----------
    message : str
        What is being done now, for the user: "Measuring the noise", "Restoring part 1 of 3".
    fraction : float, 0 to 1
        Share of the whole run that is done; a run that stops early jumps to 1.
    iteration, iterations : int
        Iterations done and planned in the fit now running, 0 outside a fit.
    fitted_loss, held_out_loss : float or None
        Negative log-likelihood per pixel, without unit; None where not measured.
    best_iteration : int
        Iteration of the least held-out loss so far, 0 before the first judgement.
    seconds, seconds_left : float
        Since the start, and an upper bound of what is left; None while unknown.
    preview : ndarray or None
        The picture so far: shape and intensity units of the input, float32.
    unit, units : int
        Which part of the run this is, 1-based, and how many there are.
    """

    message: str
    fraction: float = 0.0
    iteration: int = 0
    iterations: int = 0
    fitted_loss: float | None = None
    held_out_loss: float | None = None
    best_iteration: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    preview: Pixels | None = None
    unit: int = 1
    units: int = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Restoration:
    """The answer: a picture, how sure it is, and how it came about.

    Attributes
    ----------
    image : ndarray
        Axes and intensity units of the input, and its shape, or times the factor of a
        super-resolution. float32, or the input's own type
        where the recipe asks for it.
    uncertainty : ndarray
        Standard deviation of each pixel of `image`, in intensity units.
    stop : Stop
        Why the fit ended: `stop.reason` is to be compared, `str(stop)` to be read.
    best_iteration : int
        Iteration that the picture was taken from.
    history : tuple of (iteration, fitted loss, held-out loss)
        Of the first unit's first restart; NaN where not measured.
    recipe : Recipe
        Repeats this run.
    learned : mapping of str to ndarray
        What else was fitted, such as {"psf": ...}.
    report : mapping
        The report of the run in plain JSON types.
    residual : ndarray or None
        Measured pixels less what the detector would have seen of `image`, in the input's shape
        and intensity units; 0 where nothing was measured.
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
        """Why the fit ended, as a value to compare; `str(result.stop)` has it in words."""
        return self.stop.reason

    def __repr__(self) -> str:
        """Show in one line what came out, without its arrays."""
        size = " × ".join(map(str, self.image.shape))
        task = self.recipe.task.name
        return f"<Restoration: {task}, {size}, {self.image.dtype}; ended since {self.stop}>"


ItemT = TypeVar("ItemT")
MappedT = TypeVar("MappedT")
ReturnT = TypeVar("ReturnT")


def drain_generator(
    steps: Generator[ItemT, None, ReturnT], see: Callable[[ItemT], object] | None = None
) -> ReturnT:
    """Run to the end; an interrupt or an error in `see` closes the run on its way out.

    Parameters
    ----------
    steps : generator
    see : callable or None
        Called with each step.
    """
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                answer: ReturnT = stop.value
                return answer
            if see is not None:
                see(step)


def map_generator(
    steps: Generator[ItemT, None, ReturnT], change: Callable[[ItemT], MappedT]
) -> Generator[MappedT, None, ReturnT]:
    """Yield each step changed, and return what the steps return; closed, it closes them."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                answer: ReturnT = stop.value
                return answer
            yield change(step)
