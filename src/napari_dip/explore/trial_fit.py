"""What one design does with a picture: how soon it learns what, and where its stop lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.stopping import Judgement, held_out_rule
from napari_dip.explore.course import JUDGED_EVERY
from napari_dip.explore.energies import score_of
from napari_dip.run.judging import patience

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from napari_dip.explore.designs import Design
    from napari_dip.explore.subject import Picture

    Curve = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrialFit:
    """One design, fitted to the picture and to noise.

    Attributes
    ----------
    design : Design
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

    design: Design
    weights: int
    energy: Curve
    noise: Curve
    correspondence: Curve
    held_out: Curve
    psnr: Curve | None
    stop: Stop
    picture: Picture
    errors: Curve
    seconds: float

    @property
    def impedance(self) -> float:
        """Area between the energies of noise and picture, as in `score_of`."""
        return score_of(self.noise, self.energy)

    @property
    def band_score(self) -> float:
        """Area between the correspondences of the lowest and the highest band, measured alike."""
        return score_of(self.correspondence[:, 0], self.correspondence[:, -1])

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


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a fit would have ended, and which picture it would have handed over; iterations."""

    ended: int
    taken: int


def stop_of(held_out: Sequence[float]) -> Stop:
    """Stop as fits stop: judged now and then, patient, the best of what was judged is taken.

    Parameters
    ----------
    held_out : sequence of float
        Mean squares at iterations 1, 2, ... of a fit that went on to its last iteration.
    """
    count = len(held_out)
    rule = held_out_rule(patience(count, JUDGED_EVERY))
    places = [*range(JUDGED_EVERY, count, JUDGED_EVERY), count]
    history: list[Judgement] = []
    for place in places:
        history.append(Judgement(place, float("nan"), float(held_out[place - 1])))
        if rule(history):
            break
    best = min(reversed(history), key=lambda one: one.held_out)  # of equals the later
    return Stop(history[-1].iteration, best.iteration)


def worse_for_certain(one: Curve, other: Curve, sure: float) -> bool:
    """Whether one picture's held-out errors exceed another's by more than chance.

    Parameters
    ----------
    one, other : ndarray (held-out pixels,)
        Squared errors at the same pixels.
    sure : float
        Standard errors of the mean difference.
    """
    apart = one - other
    error = float(apart.std(ddof=1)) / np.sqrt(apart.size) if apart.size > 1 else np.inf
    return bool(apart.mean() > sure * error)
