"""One fit of a network to fixed noise, watched at each iteration, through the loop of all fits.

How a design's weights move, and how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, prod
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_dip.engine.fit.early_stopping import make_validation_stop_rule, never_stop
from napari_dip.engine.fit.loop import MAX_ROLLBACKS, fit
from napari_dip.engine.fit.schedule import Phase, Schedule, make_gradient_descent, make_lbfgs
from napari_dip.engine.likelihood.fidelity import NoiseVariance, least_squares
from napari_dip.engine.prior import dilate_to_blocks
from napari_dip.engine.problem import Identity, Problem, Term
from napari_dip.errors import Failed, refusal
from napari_dip.pipeline.calibrate.calibration import compute_validation_share
from napari_dip.pipeline.calibrate.prepare import (
    compute_output_decay,
    compute_patience,
    select_validation_pixels,
)
from napari_dip.pipeline.events import map_generator
from napari_dip.tasks.base import FitInput
from napari_dip.tasks.priors.deep_image_prior import build_from_architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.control import Control
    from napari_dip.engine.fit.schedule import Optimiser
    from napari_dip.engine.fit.state import FitProgress, FitResult
    from napari_dip.engine.prior import Prior
    from napari_dip.explore.experiment_setup import ExperimentSetup, Picture
    from napari_dip.tasks.priors.deep_image_prior import Architecture


class OptimiserSpec(NamedTuple):
    """An optimiser, and the longest gradient that it is given."""

    make: Optimiser
    clip: float


#: All but Adam, which is the usual one. A gradient that was cut short would tell L-BFGS a curvature
#: that is none.
OPTIMISERS = {
    "sgd": OptimiserSpec(make_gradient_descent, 1.0),
    "l-bfgs": OptimiserSpec(make_lbfgs, inf),
}


def count_weights(design: Architecture, grid: tuple[int, ...]) -> int:
    """Count the weights that are fitted."""
    net = build_from_architecture(design, grid, torch.Generator().manual_seed(0)).net
    return sum(weight.numel() for weight in net.parameters())


#: The rate stays where it is, as in the paper, so that what happens at iteration 50 does not
#: depend on how many iterations are to follow: this many times the fit is the cosine's horizon.
#: What rounding is left of that moves the energy of noise at 128 x 128 by 1 % there.
_COSINE_HORIZON_FACTOR = 1000
#: Iterations between two judgements of held-out pixels, as in all fits.
VALIDATION_INTERVAL = 25


class IterationRecord(NamedTuple):
    """What one iteration showed.

    Attributes
    ----------
    iteration : int
        1-based.
    energy : float
        Mean square of output minus target, in variances of the target.
    picture : ndarray (Y, X) float32 or None
        The output itself, or its running average, in units of the target; only where pictures are
        asked for.
    held_out : float
        The same mean square of that picture at held-out pixels; NaN if there are none.
    """

    iteration: int
    energy: float
    picture: Picture | None = None
    held_out: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ValidationStop:
    """Where held-out pixels end a fit.

    Attributes
    ----------
    judged : tuple of (iteration, mean square error of the held-out pixels)
    best_iteration : int
        Whose running average is taken.
    iterations : int
        Done when the rule, or the budget, ended the fit.
    reason : str
    picture : ndarray (Y, X) float32
        The running average that is taken, in units of the target.
    """

    judged: tuple[tuple[int, float], ...]
    best_iteration: int
    iterations: int
    reason: str
    picture: Picture


def iter_fit(
    target: Picture,
    subject: ExperimentSetup,
    *,
    control: Callable[[], Control],
    pictures: bool = False,
    design: Architecture | None = None,
    block: tuple[int, int] | None = None,
    average: float = 0.0,
) -> Generator[IterationRecord, None, bool]:
    """Fit to a target without jitter, to the last iteration, whatever held-out pixels say.

    Parameters
    ----------
    target : ndarray (Y, X) float32
        Of zero mean and unit variance.
    subject : ExperimentSetup
        The network; the same seed gives the same weights and the same code for each target.
    control : callable
    pictures : bool
        Whether each output is wanted, too.
    design : Architecture or None
        The network; None: that of the subject.
    block : tuple of int or None
        Size of the blocks around held-out pixels; None: nothing is held out.
    average : float
        Decay of the running average that is pictured; 0: the output itself.

    Returns
    -------
    bool
        False if someone ended it before the last iteration.

    Raises
    ------
    Failed
        If the fit broke down.
    """
    design = design or subject.design
    problem, prior = _build_experiment_problem(target, subject, block, design)
    schedule = _make_schedule(subject, design, average=average, report_every=1)
    looks = (lambda _: True) if pictures else (lambda _: False)
    loop = fit(
        problem, prior, schedule, never_stop, seed=subject.seed, control=control, preview_due=looks
    )
    result = yield from _read_iterations(loop, pictures=pictures)
    if result is None or result.kept:
        return False
    if result.broke_down:
        raise Failed(refusal("diverged", name=subject.name, count=MAX_ROLLBACKS))
    return True


def find_validation_stop(
    target: Picture,
    subject: ExperimentSetup,
    block: tuple[int, int],
    *,
    control: Callable[[], Control],
) -> Generator[int, None, ValidationStop | None]:
    """Fit once more with some pixels held out, and end as other fits end; yields iterations.

    Network, code and rate are those of `iter_fit`; the running average is judged.

    Parameters
    ----------
    target, subject, control : as for `iter_fit`
    block : tuple of int
        Size of the blocks around held-out pixels, per axis: wider than the noise is correlated.

    Returns
    -------
    ValidationStop or None
        None if it was discarded.
    """
    problem, prior = _build_experiment_problem(target, subject, block, subject.design)
    average = compute_output_decay(subject.iterations)
    schedule = _make_schedule(
        subject, subject.design, average=average, report_every=VALIDATION_INTERVAL
    )
    stop = make_validation_stop_rule(compute_patience(subject.iterations, VALIDATION_INTERVAL))
    loop = fit(problem, prior, schedule, stop, seed=subject.seed, control=control)
    result = yield from map_generator(loop, attrgetter("iteration"))
    if result is None:
        return None
    judged = tuple((item.iteration, item.held_out) for item in result.history)
    picture = _to_picture(result.estimate.mean)
    reason = "it was ended by hand" if result.kept else str(result.stop)
    return ValidationStop(
        judged=judged,
        best_iteration=result.best_iteration,
        iterations=result.iterations,
        reason=reason,
        picture=picture,
    )


def choose_validation_pixels(
    shape: tuple[int, ...], subject: ExperimentSetup, block: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Tell which pixels judge: (Y, X), True where one does."""
    pixels = select_validation_pixels(
        shape, block, compute_validation_share(block, prod(shape)), subject.seed
    )
    return np.asarray(pixels[0, 0].numpy() > 0)


def _build_experiment_problem(
    target: Picture,
    subject: ExperimentSetup,
    block: tuple[int, int] | None,
    design: Architecture,
) -> tuple[Problem, Prior]:
    """Ask for the target itself by plain squares, and make the network that is asked."""
    scene = _make_fit_input(target, subject, block)
    error = least_squares(1.0)
    term = Term(
        measurement=scene.measurement,
        operator=Identity(),
        fidelity=error,
        likelihood=error,
        fitted=scene.measured_mask * (1 - scene.guarded),
        held_out=scene.held_out,
        measured=scene.measured_mask,
    )
    rng = torch.Generator().manual_seed(subject.seed)
    prior = build_from_architecture(design, scene.grid, rng)
    prior.to(scene.measurement.device)
    prior.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Problem(terms=(term,)), prior


def _make_fit_input(
    target: Picture, subject: ExperimentSetup, block: tuple[int, int] | None
) -> FitInput:
    device = torch.device(subject.plan.device)
    measurement = torch.from_numpy(target)[None, None].to(device)
    all_pixels = torch.ones_like(measurement)
    held_out = torch.zeros_like(all_pixels)
    if block is not None:
        chosen = choose_validation_pixels(target.shape, subject, block)
        held_out = torch.from_numpy(chosen.astype(np.float32))[None, None].to(device)
    item = measurement.new_ones((1, 1, 1, 1))
    return FitInput(
        measurement=measurement,
        noise=NoiseVariance(gain=0 * item, intercept=item, floor=item),
        noise_level=1.0,
        measured_mask=all_pixels,
        held_out=held_out,
        guarded=held_out if block is None else dilate_to_blocks(held_out, block),
        block=block or (1, 1),
        granted=1.0,
        prior="random-input",
        widths=subject.plan.budget.widths,
        window=None,
    )


def _make_schedule(
    subject: ExperimentSetup, design: Architecture, *, average: float, report_every: int
) -> Schedule:
    """Take the rate and the optimiser of a design; where that is Adam, the device's own."""
    count = subject.iterations
    schedule = Schedule(
        phases=(Phase(iterations=count, learning_rate=design.rate),),
        horizon=_COSINE_HORIZON_FACTOR * count,
        stop_at=count,
        warm_up=0.0,
        average=average,
        report_every=report_every,
    )
    moved = OPTIMISERS.get(design.optimiser)
    return schedule if moved is None else replace(schedule, optimiser=moved.make, clip=moved.clip)


def _read_iterations(
    loop: Generator[FitProgress, None, FitResult | None], *, pictures: bool
) -> Generator[IterationRecord, None, FitResult | None]:
    """Give each iteration once, with its picture where that is wanted."""
    reading = None
    while True:
        try:
            progress = next(loop)
        except StopIteration as stop:
            result: FitResult | None = stop.value
            return result
        if progress.note:  # it broke down, and that iteration comes again
            reading = None
        elif progress.estimate is None:
            judgement = progress.judgement
            reading = IterationRecord(
                judgement.iteration, judgement.fitted, held_out=judgement.held_out
            )
            if not pictures:
                yield reading
        elif reading is not None:
            yield reading._replace(picture=_to_picture(progress.estimate.mean))


def _to_picture(mean: Tensor) -> Picture:
    return np.array(mean[0, 0].cpu().numpy(), np.float32)
