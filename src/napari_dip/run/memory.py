"""Going on when the memory runs out within a fit: let go of everything, take smaller bites.

Other programs may have taken what a plan counted on, so a fit that met a full memory begins again
where its last judgement was, a stated number of times, and is then ended with what it has.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_dip.run.events import Event
from napari_dip.run.machine import is_memory_error

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from napari_dip.engine.control import Control
    from napari_dip.engine.progress import Checkpoint
    from napari_dip.run.costs import Budget

    Attempt = Callable[[Checkpoint | None], Generator[Event, None, Control]]

#: How often a fit goes on after its memory ran out, before it is ended with what it has.
MOST_TRIES = 4
#: Pixels along each side that a step looks at, at least: four times what the network's deepest
#: scale sees as one pixel is no picture any more.
LEAST_WINDOW = 64
#: Why a fit was ended that the memory did not suffice for.
NO_MEMORY = "the memory ran out"


@dataclass(slots=True, eq=False)
class Bites:
    """How large a run's steps are, and how often its memory ran out in the fit in progress.

    Attributes
    ----------
    window : int or None
        Most pixels along each side that a step looks at; None: as planned.
    tries : int
        How often the fit in progress went on after its memory ran out.
    latest : Checkpoint or None
        Where the fit in progress last stood.
    shown : Event
        What was last told.
    notes : list of str
        One sentence for each time.
    """

    window: int | None = None
    tries: int = 0
    latest: Checkpoint | None = None
    shown: Event = field(default_factory=lambda: Event("Restoring"))
    notes: list[str] = field(default_factory=list)

    @property
    def spent(self) -> bool:
        """Whether the fit is only to be ended with what it has."""
        return self.tries > MOST_TRIES

    def of(self, budget: Budget) -> Budget:
        """Keep a budget's windows within what the memory takes."""
        if self.window is None or budget.window is None:
            return budget
        return replace(budget, window=min(self.window, budget.window))

    def shrink(self, planned: int | None, side: int) -> str:
        """Count a try and halve the window; the sentence about it."""
        self.tries += 1
        where = f"at iteration {self.latest.history[-1].iteration}" if self.latest else "early"
        words = f"The memory ran out {where}; all of it was freed and "
        before = min(planned or side, self.window or side, side)
        if self.spent:
            words += "the best picture so far was kept."
        elif planned is None or before <= LEAST_WINDOW:
            words += "the fit went on from there."
        else:
            self.window = max(LEAST_WINDOW, before // 2)
            words += f"the fit went on from there with windows of {self.window} pixels."
        self.notes.append(words)
        return words


def enduring(
    attempt: Attempt,
    resume: Checkpoint | None,
    bites: Bites,
    planned: int | None,
    side: int,
    outcomes: Sequence[Any],
) -> Generator[Event, None, Control]:
    """Make attempts at a fit until one is not ended by a full memory.

    Parameters
    ----------
    attempt : callable
        Begins the fit from a checkpoint.
    resume : Checkpoint or None
    bites : Bites
        Shared by all fits of the run; `bites.latest` is kept up to date by the attempt.
    planned : int or None
        The budget's window.
    side : int
        Of the picture, in pixels.
    outcomes : sequence
        Of the fits that are done: once this one is among them, it is not made again.

    Raises
    ------
    Exception
        The memory's own, if not even a picture could be kept.
    """
    done = len(outcomes)
    bites.latest = resume
    while True:
        try:
            ended = yield from attempt(bites.latest)
            bites.tries = 0  # the next fit has as many
            bites.notes.clear()
            return ended
        except Exception as error:
            nothing = bites.tries == MOST_TRIES and bites.latest is None and not outcomes
            if not is_memory_error(error) or len(outcomes) > done or bites.spent or nothing:
                raise
        # outside of the handler, where the error no longer holds on to the fit's arrays
        free()
        yield replace(bites.shown, words=bites.shrink(planned, side), preview=None)


def free() -> None:
    """Let go of what nothing refers to, here and on the graphics card."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
