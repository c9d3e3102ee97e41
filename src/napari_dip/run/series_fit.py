"""The fit of one network to many frames, regions or files, and what going on alone gains."""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from napari_dip.engine.fidelity import NoiseVariance
from napari_dip.engine.looking import answer
from napari_dip.engine.problem import Estimate, predicted
from napari_dip.run.fitting import Fit, budget_of, fit_of, scene_of
from napari_dip.run.sharing import REPORTS, SHARED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.progress import Result
    from napari_dip.run.frames import Movie
    from napari_dip.run.inputs import Planes
    from napari_dip.run.memory import Bites
    from napari_dip.run.plan import Plan
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.sharing import Member
    from napari_dip.run.units import WorkUnit
    from napari_dip.tasks.base import Scene


def make_series_fit(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    prior: str,
    movie: Movie,
    bites: Bites,
) -> Fit:
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
    budget = budget_of(plan, prior, bites)
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
        scenes.append(scene_of(plan, small, seen, replace(one, part=0), budget, frames))
    joined = _joined(scenes, apart=bool(calibration.each))
    ready = fit_of(plan, unit, joined, budget)
    problem = replace(ready.problem, finish=_as_it_is, refine=None)
    if unit.role != SHARED:
        return replace(ready, problem=problem)
    every = max(ready.schedule.report_every, unit.iterations // REPORTS)
    schedule = replace(ready.schedule, report_every=every, last_look=False)
    return replace(ready, problem=problem, schedule=schedule)


@torch.no_grad()
def held_out_gain(
    ready: Fit, weights: Mapping[str, Tensor], result: Result
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
    before = prior.estimate(answer(prior.net, prior.glance().code))
    first, last = (
        term.likelihood(predicted(term, one), term.measurement) for one in (before, result.blind)
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


def _joined(scenes: list[Scene], *, apart: bool) -> Scene:
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
    scenes: list[Scene],
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
