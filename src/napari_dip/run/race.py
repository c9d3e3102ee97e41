"""A race of priors: all are fitted alike, and the one that foretells hidden pixels best is taken.

The pixels that are held out for the stop are too few to tell two good fits apart: over 1,500 of
them, the difference of two fits was lost in the noise three times out of three, while over all
pixels, each foretold while it was hidden, it had the sign of the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor

    from napari_dip.engine.progress import Progress, Result
    from napari_dip.run.fitting import Fit

#: Standard errors by which a fit must be better than the one that needs less.
CERTAIN = 1.0


@dataclass(slots=True, eq=False)
class Runner:
    """One fit under way.

    Attributes
    ----------
    ready : Fit
    loop : generator
        Of the engine's reports.
    over : bool
        Whether the loop has ended.
    result : Result or None
        What it ended with; None if discarded.
    """

    ready: Fit
    loop: Generator[Progress, None, Result | None]
    over: bool = False
    result: Result | None = None

    def reports(self) -> Generator[Progress, None, None]:
        """Go on to the end, and keep what it ends with."""
        self.result = yield from self.loop
        self.over = True

    @property
    def ended_by_hand(self) -> bool:
        """Whether a person has ended it."""
        return self.over and (self.result is None or self.result.kept)

    def foretold(self) -> Tensor:
        """Prediction of each measured pixel while it was hidden: (1, C, *grid)."""
        assert self.result is not None
        prediction: Tensor = self.ready.problem.terms[0].operator(self.result.blind.mean)
        return prediction


def winner(finished: Sequence[Runner]) -> Runner:
    """Choose the fit that foretold hidden pixels best; the last is the plainest, and wins a draw.

    Squared residuals are compared pixel by pixel, in units of the noise. They are of use where a
    prediction never saw its own pixel, as with priors that are fed the image.

    Parameters
    ----------
    finished : sequence of Runner
        Each with its result, of the same scene.
    """
    *others, best = finished
    for one in others:
        if _better(one, best):
            best = one
    return best


def _better(one: Runner, other: Runner) -> bool:
    """Whether one foretold more than chance explains."""
    scene = one.ready.scene
    first, second = one.foretold(), other.foretold()
    noise = scene.noise.at((first + second) / 2)
    gain = (scene.measurement - second) ** 2 - (scene.measurement - first) ** 2
    gain = (gain / noise)[scene.known.expand_as(gain) > 0]
    certain = CERTAIN * float(gain.std()) / sqrt(gain.numel())
    return float(gain.mean()) > certain
