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
from napari_dip.pipeline.execute.fit_setup import (
    FitSetup,
    build_fit,
    choose_fit_budget,
    make_fit_input,
)
from napari_dip.pipeline.plan.joint_training import MAX_JOINT_VALIDATIONS
from napari_dip.pipeline.plan.types import JOINT

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.fit.state import FitProgress, FitResult
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.execute.device_recovery import RecoveryState
    from napari_dip.pipeline.execute.neighbour_frames import Movie
    from napari_dip.pipeline.plan.types import Member, Plan, WorkUnit
    from napari_dip.tasks.base import FitInput


def make_series_fit(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    prior: str,
    movie: Movie,
    bites: RecoveryState,
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
    bites : RecoveryState
    """
    budget = choose_fit_budget(plan, prior, bites)
    scenes = []
    for member in unit.members:
        item = replace(
            unit,
            part=member.part,
            previous_part=member.previous_part,
            next_part=member.next_part,
            origin=member.origin,
        )
        frames = movie.get_neighbour_frames(item, prior)
        if frames.neighbours is not None:
            frames = replace(frames, neighbours=frames.neighbours[:, *_make_member_slices(member)])
        small, crop = _crop_member(calibration, parts, member)
        scenes.append(make_fit_input(plan, small, crop, replace(item, part=0), budget, frames))
    joined = _stack_fit_inputs(scenes, apart=bool(calibration.part_calibrations))
    setup = build_fit(plan, unit, joined, budget)
    problem = replace(setup.problem, finish=_keep_estimate, refine=None)
    if unit.role != JOINT:
        return replace(setup, problem=problem)
    every = max(setup.schedule.report_every, unit.iterations // MAX_JOINT_VALIDATIONS)
    schedule = replace(setup.schedule, report_every=every, last_look=False)
    return replace(setup, problem=problem, schedule=schedule)


@torch.no_grad()
def compute_validation_gain(
    setup: FitSetup, weights: Mapping[str, Tensor], result: FitResult
) -> tuple[float, float, float]:
    """Tell how much better a fit explains held-out pixels than the weights that it began with.

    Parameters
    ----------
    setup : FitSetup
    weights : mapping of str to Tensor
        That it began with.
    result : FitResult

    Returns
    -------
    tuple of float
        Sum of the gain in log-likelihood over held-out pixels, sum of its squares, and their count.
    """
    prior, term = setup.prior, setup.problem.terms[0]
    prior.net.load_state_dict(dict(weights))
    before = prior.estimate(apply_network(prior.net, prior.glance().code))
    first, last = (
        term.likelihood(predict_detected(term, item), term.measurement)
        for item in (before, result.blind)
    )
    gain = ((first - last) * term.held_out).double()
    count = float(term.held_out.sum()) * gain.shape[1]
    return float(gain.sum()), float((gain**2).sum()), count


def _make_member_slices(member: Member, halves: int = 1) -> tuple[slice, ...]:
    """Say where in its part it lies, in pixels that are so many times as wide."""
    if not member.size:
        return ()
    sides = zip(member.origin, member.size, strict=True)
    return tuple(slice(start // halves, (start + count) // halves) for start, count in sides)


def _crop_member(
    calibration: Calibration, parts: Planes, member: Member
) -> tuple[Calibration, Planes]:
    """Give one part alone, cut to what is seen of it: (1, C, *size).

    Parts of several files come cut, each with what was measured of its own file.
    """
    if calibration.part_calibrations:
        return calibration.part_calibrations[member.part], parts[member.part : member.part + 1]

    def item(whole: npt.NDArray[np.float32], halves: int = 1) -> npt.NDArray[np.float32]:
        return whole[member.part : member.part + 1, :, *_make_member_slices(member, halves)]

    second, coarse = calibration.repeated_exposure, calibration.half_resolution
    if second is not None:
        calibration = replace(
            calibration, repeated_exposure=replace(second, stack=item(second.stack))
        )
    if calibration.camera_correction is not None and member.size:
        camera = calibration.camera_correction.cut(_make_member_slices(member)[-2:])
        calibration = replace(calibration, camera_correction=camera)
    if coarse is not None:
        calibration = replace(
            calibration, half_resolution=replace(coarse, stack=item(coarse.stack, 2))
        )
    return calibration, item(parts)


def _stack_fit_inputs(scenes: list[FitInput], *, apart: bool) -> FitInput:
    """Lay scenes of one size side by side: (B, C, *grid), each with noise of its own if `apart`."""

    def both(tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)

    first = scenes[0]
    noises = NoiseVariance.stack_with([scene.noise for scene in scenes]) if apart else None
    neighbours = [scene.neighbours for scene in scenes if scene.neighbours is not None]
    return replace(
        first,
        measurement=both([scene.measurement for scene in scenes]),
        measured_mask=both([scene.measured_mask for scene in scenes]),
        held_out=both([scene.held_out for scene in scenes]),
        guarded=both([scene.guarded for scene in scenes]),
        neighbours=both(neighbours) if neighbours else None,
        noise_level=sum(scene.noise_level for scene in scenes) / len(scenes),
        noise=first.noise if noises is None else noises.mean(),
        noises=noises,
        correlation=_average_correlation(scenes) if apart else first.correlation,
    )


def _average_correlation(
    scenes: list[FitInput],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Average the noise's correlation over files; white counts as 0 at all lags."""
    correlations = [scene.correlation for scene in scenes if scene.correlation is not None]
    if not correlations:
        return None
    y, x = (
        tuple(sum(lags) / len(scenes) for lags in zip_longest(*along, fillvalue=0.0))
        for along in zip(*correlations, strict=True)
    )
    return y, x


def _keep_estimate(estimate: Estimate) -> Estimate:
    return estimate


#: Standard errors by which a fit must be better than the one that needs less.
MIN_SELECTION_STANDARD_ERRORS = 1.0


@dataclass(slots=True, eq=False)
class RunningFit:
    """One fit under way.

    Attributes
    ----------
    setup : FitSetup
    loop : generator
        Of the engine's reports.
    is_finished : bool
        Whether the loop has ended.
    result : FitResult or None
        What it ended with; None if discarded.
    """

    setup: FitSetup
    loop: Generator[FitProgress, None, FitResult | None]
    is_finished: bool = False
    result: FitResult | None = None

    def iter_progress(self) -> Generator[FitProgress, None, None]:
        """Go on to the end, and keep what it ends with."""
        self.result = yield from self.loop
        self.is_finished = True

    @property
    def is_ended_by_user(self) -> bool:
        """Whether a person has ended it."""
        return self.is_finished and (self.result is None or self.result.kept)

    def predict_blind(self) -> Tensor:
        """Prediction of each measured pixel while it was hidden: (1, C, *grid)."""
        assert self.result is not None
        prediction: Tensor = self.setup.problem.terms[0].operator(self.result.blind.mean)
        return prediction


def select_best_fit(finished: Sequence[RunningFit]) -> RunningFit:
    """Choose the fit that foretold hidden pixels best; the last is the plainest, and wins a draw.

    Squared residuals are compared pixel by pixel, in units of the noise. They are of use where a
    prediction never saw its own pixel, as with priors that are fed the image.

    Parameters
    ----------
    finished : sequence of RunningFit
        Each with its result, of the same scene.
    """
    *others, best = finished
    for other in others:
        if _is_better_fit(other, best):
            best = other
    return best


def _is_better_fit(fit: RunningFit, other: RunningFit) -> bool:
    """Whether one foretold more than chance explains."""
    scene = fit.setup.fit_input
    first, second = fit.predict_blind(), other.predict_blind()
    noise = scene.noise.at((first + second) / 2)
    gain = (scene.measurement - second) ** 2 - (scene.measurement - first) ** 2
    gain = (gain / noise)[scene.measured_mask.expand_as(gain) > 0]
    certain = MIN_SELECTION_STANDARD_ERRORS * float(gain.std()) / sqrt(gain.numel())
    return float(gain.mean()) > certain
