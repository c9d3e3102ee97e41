"""Running a generator to its end, or inside another one, with its answer handed on."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Step = TypeVar("Step")
Other = TypeVar("Other")
Answer = TypeVar("Answer")


def drained(
    steps: Generator[Step, None, Answer], see: Callable[[Step], object] | None = None
) -> Answer:
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
                answer: Answer = stop.value
                return answer
            if see is not None:
                see(step)


def mapped(
    steps: Generator[Step, None, Answer], change: Callable[[Step], Other]
) -> Generator[Other, None, Answer]:
    """Yield each step changed, and return what the steps return; closed, it closes them."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            yield change(step)
