"""The fit of one network to many frames, regions or files, and what going on alone gains.

A race of priors: all are fitted alike, and the one that foretells hidden pixels best is taken.

The pixels that are held out for the stop are too few to tell two good fits apart: over 1,500 of
them, the difference of two fits was lost in the noise three times out of three, while over all
pixels, each foretold while it was hidden, it had the sign of the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from math import sqrt
from typing import TYPE_CHECKING

import torch

from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.problem import Estimate, predict_detected
from napari_dip.engine.train_step import apply_network
from napari_dip.pipeline.execute.fitting import (
    FitSetup,
    build_fit,
    choose_fit_budget,
    make_fit_input,
)
from napari_dip.pipeline.plan.sharing import REPORTS
from napari_dip.pipeline.plan.types import SHARED

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.fit.state import FitProgress, FitResult
    from napari_dip.pipeline.calibrate.types import Calibration, Planes
    from napari_dip.pipeline.execute.frames import Movie
    from napari_dip.pipeline.execute.memory import Bites
    from napari_dip.pipeline.plan.types import Member, Plan, WorkUnit
    from napari_dip.tasks.base import FitInput


def make_series_fit(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    prior: str,
    movie: Movie,
    bites: Bites,
) -> FitSetup:
    """Make the fit of one network to all members of a unit; each step looks at one of them.

    Parameters
    ----------
    plan, calibration, parts
        As for `make_fit`.
    unit : WorkUnit
        Its members are what the network sees. They share range and noise, unless the calibration
        has one of each.
    prior : str
    movie : Movie
        Shows the frames beside.
    bites : Bites
    """
    budget = choose_fit_budget(plan, prior, bites)
    scenes = []
    for member in unit.members:
        one = replace(
            unit,
            part=member.part,
            before=member.before,
            after=member.after,
            origin=member.origin,
        )
        frames = movie.around(one, prior)
        if frames.beside is not None:
            frames = replace(frames, beside=frames.beside[:, *_place(member)])
        small, seen = _cut(calibration, parts, member)
        scenes.append(make_fit_input(plan, small, seen, replace(one, part=0), budget, frames))
    joined = _joined(scenes, apart=bool(calibration.each))
    ready = build_fit(plan, unit, joined, budget)
    problem = replace(ready.problem, finish=_as_it_is, refine=None)
    if unit.role != SHARED:
        return replace(ready, problem=problem)
    every = max(ready.schedule.report_every, unit.iterations // REPORTS)
    schedule = replace(ready.schedule, report_every=every, last_look=False)
    return replace(ready, problem=problem, schedule=schedule)


@torch.no_grad()
def held_out_gain(
    ready: FitSetup, weights: Mapping[str, Tensor], result: FitResult
) -> tuple[float, float, float]:
    """Tell how much better a fit explains held-out pixels than the weights that it began with.

    Parameters
    ----------
    ready : Fit
    weights : mapping of str to Tensor
        That it began with.
    result : Result

    Returns
    -------
    tuple of float
        Sum of the gain in log-likelihood over held-out pixels, sum of its squares, and their count.
    """
    prior, term = ready.prior, ready.problem.terms[0]
    prior.net.load_state_dict(dict(weights))
    before = prior.estimate(apply_network(prior.net, prior.glance().code))
    first, last = (
        term.likelihood(predict_detected(term, one), term.measurement)
        for one in (before, result.blind)
    )
    gain = ((first - last) * term.held_out).double()
    count = float(term.held_out.sum()) * gain.shape[1]
    return float(gain.sum()), float((gain**2).sum()), count


def _place(member: Member, halves: int = 1) -> tuple[slice, ...]:
    """Say where in its part it lies, in pixels that are so many times as wide."""
    if not member.size:
        return ()
    sides = zip(member.origin, member.size, strict=True)
    return tuple(slice(start // halves, (start + count) // halves) for start, count in sides)


def _cut(calibration: Calibration, parts: Planes, member: Member) -> tuple[Calibration, Planes]:
    """Give one part alone, cut to what is seen of it: (1, C, *size).

    Parts of several files come cut, each with what was measured of its own file.
    """
    if calibration.each:
        return calibration.each[member.part], parts[member.part : member.part + 1]

    def one(whole: npt.NDArray[np.float32], halves: int = 1) -> npt.NDArray[np.float32]:
        return whole[member.part : member.part + 1, :, *_place(member, halves)]

    second, coarse = calibration.second, calibration.coarse
    if second is not None:
        calibration = replace(calibration, second=replace(second, parts=one(second.parts)))
    if calibration.maps is not None and member.size:
        camera = calibration.maps.cut(_place(member)[-2:])
        calibration = replace(calibration, maps=camera)
    if coarse is not None:
        calibration = replace(calibration, coarse=replace(coarse, parts=one(coarse.parts, 2)))
    return calibration, one(parts)


def _joined(scenes: list[FitInput], *, apart: bool) -> FitInput:
    """Lay scenes of one size side by side: (B, C, *grid), each with noise of its own if `apart`."""

    def both(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)

    first = scenes[0]
    noises = NoiseVariance.beside([one.noise for one in scenes]) if apart else None
    beside = [one.beside for one in scenes if one.beside is not None]
    return replace(
        first,
        measurement=both([one.measurement for one in scenes]),
        known=both([one.known for one in scenes]),
        held_out=both([one.held_out for one in scenes]),
        guarded=both([one.guarded for one in scenes]),
        beside=both(beside) if beside else None,
        noise_level=sum(one.noise_level for one in scenes) / len(scenes),
        noise=first.noise if noises is None else noises.mean(),
        noises=noises,
        correlation=_mean_correlation(scenes) if apart else first.correlation,
    )


def _mean_correlation(
    scenes: list[FitInput],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Average the noise's correlation over files; white counts as 0 at all lags."""
    found = [one.correlation for one in scenes if one.correlation is not None]
    if not found:
        return None
    y, x = (
        tuple(sum(lags) / len(scenes) for lags in zip_longest(*along, fillvalue=0.0))
        for along in zip(*found, strict=True)
    )
    return y, x


def _as_it_is(estimate: Estimate) -> Estimate:
    return estimate


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

    ready: FitSetup
    loop: Generator[FitProgress, None, FitResult | None]
    over: bool = False
    result: FitResult | None = None

    def reports(self) -> Generator[FitProgress, None, None]:
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
