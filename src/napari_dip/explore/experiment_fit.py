"""Fit a network to a target from random input, with every iteration reported.

The fits use the same loop as restorations, with a constant learning rate and without jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from napari_dip.engine.fit.loop import fit
from napari_dip.engine.fit.optimizers import (
    FixedStepLbfgs,
    Phase,
    Schedule,
    compute_output_decay,
    make_sgd,
)
from napari_dip.engine.fit.state import MAX_ROLLBACKS
from napari_dip.engine.fit.stopping import compute_patience, make_validation_stop_rule, never_stop
from napari_dip.engine.likelihood.fidelity import make_least_squares
from napari_dip.engine.prior import dilate_centres
from napari_dip.engine.problem import Identity, Problem, Term
from napari_dip.errors import FailedError
from napari_dip.pipeline.calibrate.image_calibration import select_validation_pixels
from napari_dip.pipeline.calibrate.types import compute_validation_fraction
from napari_dip.pipeline.plan.types import ITERATIONS_PER_VALIDATION
from napari_dip.pipeline.progress import map_generator
from napari_dip.tasks.priors.random_input import build_from_architecture

if TYPE_CHECKING:
    from collections.abc import Generator

    from torch import Tensor

    from napari_dip.engine.fit.state import FitProgress, FitResult
    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.engine.prior import Prior
    from napari_dip.explore.experiment_setup import ExperimentSetup, ImageArray
    from napari_dip.io import BoolArray
    from napari_dip.tasks.priors.random_input import Architecture

#: Horizon of the cosine schedule in lengths of the fit: the rate is practically constant, as in the
#: paper; the decay changes the loss of noise by 1 % (docs/constants.md).
_COSINE_HORIZON_FACTOR = 1000


#: What the schedules of optimisers other than Adam, the default, set. L-BFGS gets unclipped
#: gradients, since clipping would distort its estimate of the curvature.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": make_sgd, "max_gradient_norm": 1.0},
    "l-bfgs": {"optimizer": FixedStepLbfgs, "max_gradient_norm": inf},
}


def count_weights(architecture: Architecture, grid: tuple[int, ...]) -> int:
    """Count the fitted weights of an architecture."""
    network = build_from_architecture(architecture, grid, torch.Generator().manual_seed(0)).network
    return sum(weight.numel() for weight in network.parameters())


class IterationRecord(NamedTuple):
    """Measurements of one iteration.

    Attributes
    ----------
    iteration : int
        1-based.
    loss : float
        Mean square of output minus target, in variances of the target.
    image : ndarray (Y, X) float32 or None
        The output itself, or its running average, in units of the target; only if requested.
    validation_error : float
        Mean square of that image minus the target at the validation pixels; NaN without them.
    """

    iteration: int
    loss: float
    image: ImageArray | None = None
    validation_error: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ValidationStop:
    """Early stop of a fit by its validation pixels.

    Attributes
    ----------
    validation_errors : tuple of (iteration, mean square error of the validation pixels)
    best_iteration : int
        Iteration of the selected running average.
    iterations : int
        Iterations until the stopping rule, or the maximum, ended the fit.
    reason : str
    image : ndarray (Y, X) float32
        The selected running average, in units of the target.
    """

    validation_errors: tuple[tuple[int, float], ...]
    best_iteration: int
    iterations: int
    reason: str
    image: ImageArray

    @property
    def is_last(self) -> bool:
        """Whether the last image was selected, so that a longer fit might have been better."""
        return self.best_iteration >= self.iterations


def iter_fit(
    target: ImageArray,
    setup: ExperimentSetup,
    *,
    poll_control: PollControl,
    keeps_images: bool = False,
    architecture: Architecture | None = None,
    blind_spot_size: tuple[int, int] | None = None,
    average_decay: float = 0.0,
) -> Generator[IterationRecord, None, bool]:
    """Fit to a target without jitter up to the last iteration, without early stopping.

    Parameters
    ----------
    target : ndarray (Y, X) float32
        Target of zero mean and unit variance.
    setup : ExperimentSetup
        Setup with the network; the same seed gives the same weights and random input each time.
    poll_control : callable
    keeps_images : bool
        Whether to yield the outputs, too.
    architecture : Architecture or None
        Architecture of the network; None: that of the setup.
    blind_spot_size : tuple of int or None
        Size of the guard band around each validation pixel; None: no validation pixels.
    average_decay : float
        Decay of the running average that is yielded; 0: the output itself.

    Returns
    -------
    bool
        False if the user ended it before the last iteration.

    Raises
    ------
    FailedError
        If the fit diverged.
    """
    architecture = architecture or setup.architecture
    problem, prior = _build_experiment_problem(target, setup, blind_spot_size, architecture)
    schedule = _make_schedule(setup, architecture, average_decay, 1)
    loop = fit(
        problem,
        prior,
        schedule,
        never_stop,
        seed=setup.seed,
        poll_control=poll_control,
        is_preview_due=lambda _: keeps_images,
    )
    result = yield from _read_iterations(loop, keeps_images=keeps_images)
    if result is None or result.is_ended_by_user:
        return False
    if result.is_broken_down:
        raise FailedError("diverged", name=setup.name, count=MAX_ROLLBACKS)
    return True


def find_validation_stop(
    target: ImageArray,
    setup: ExperimentSetup,
    blind_spot_size: tuple[int, int],
    *,
    poll_control: PollControl,
) -> Generator[int, None, ValidationStop | None]:
    """Fit once more with validation pixels and the usual early stopping; yield iterations.

    Network, random input and rate are those of `iter_fit`. The running average is validated.

    Parameters
    ----------
    target, setup, poll_control : as for `iter_fit`
    blind_spot_size : tuple of int
        Size of the guard band around each validation pixel, per axis: wider than the noise
        correlation.

    Returns
    -------
    ValidationStop or None
        None if it was discarded.
    """
    problem, prior = _build_experiment_problem(target, setup, blind_spot_size, setup.architecture)
    average_decay = compute_output_decay(setup.iterations)
    schedule = _make_schedule(setup, setup.architecture, average_decay, ITERATIONS_PER_VALIDATION)
    stop = make_validation_stop_rule(compute_patience(setup.iterations, ITERATIONS_PER_VALIDATION))
    loop = fit(problem, prior, schedule, stop, seed=setup.seed, poll_control=poll_control)
    result = yield from map_generator(loop, attrgetter("iteration"))
    if result is None:
        return None
    return ValidationStop(
        validation_errors=tuple((item.iteration, item.validation_loss) for item in result.history),
        best_iteration=result.best_iteration,
        iterations=result.iterations,
        reason=result.stop.describe_impersonally(),
        image=_to_image(result.estimate.mean),
    )


def choose_validation_pixels(
    shape: tuple[int, ...], setup: ExperimentSetup, blind_spot_size: tuple[int, int]
) -> BoolArray:
    """Return the mask (Y, X) of the validation pixels."""
    fraction = compute_validation_fraction(blind_spot_size, prod(shape))
    pixels = select_validation_pixels(shape, blind_spot_size, fraction, setup.seed)
    return np.asarray(pixels[0, 0].numpy() > 0)


def _build_experiment_problem(
    target: ImageArray,
    setup: ExperimentSetup,
    blind_spot_size: tuple[int, int] | None,
    architecture: Architecture,
) -> tuple[Problem, Prior]:
    """Build the least-squares problem for a target, and the network that is fitted to it."""
    measurement = torch.from_numpy(target)[None, None].to(torch.device(setup.plan.device))
    all_pixels = torch.ones_like(measurement)
    validation_mask = excluded_mask = torch.zeros_like(all_pixels)
    if blind_spot_size is not None:
        pixels = choose_validation_pixels(target.shape, setup, blind_spot_size).astype(np.float32)
        validation_mask = torch.from_numpy(pixels)[None, None].to(measurement.device)
        excluded_mask = dilate_centres(validation_mask, blind_spot_size)
    error = make_least_squares(1.0)
    term = Term(
        measurement=measurement,
        operator=Identity(),
        fidelity=error,
        deviance=error,
        training_pixel_weights=all_pixels - excluded_mask,
        validation_mask=validation_mask,
        refit_pixel_weights=all_pixels,
    )
    rng = torch.Generator().manual_seed(setup.seed)
    prior = build_from_architecture(architecture, tuple(target.shape), rng)
    prior.to(measurement.device)
    prior.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Problem(terms=(term,)), prior


def _make_schedule(
    setup: ExperimentSetup, architecture: Architecture, average_decay: float, interval: int
) -> Schedule:
    """Make the schedule with the rate and the optimiser of an architecture."""
    count = setup.iterations
    return Schedule(
        phases=(Phase(iterations=count, learning_rate=architecture.learning_rate),),
        planned_iterations=_COSINE_HORIZON_FACTOR * count,
        last_iteration=count,
        warm_up_fraction=0.0,
        average_decay=average_decay,
        validation_interval=interval,
        **OPTIMIZERS.get(architecture.optimizer, {}),
    )


def _read_iterations(
    loop: Generator[FitProgress, None, FitResult | None], *, keeps_images: bool
) -> Generator[IterationRecord, None, FitResult | None]:
    """Yield each iteration once, with its image if requested."""
    record = None
    while True:
        try:
            progress = next(loop)
        except StopIteration as stop:
            return cast("FitResult | None", stop.value)
        if progress.note:  # the fit was rolled back and repeats that iteration
            record = None
        elif progress.estimate is None:
            validation_record = progress.validation_record
            record = IterationRecord(
                validation_record.iteration,
                validation_record.training_loss,
                validation_error=validation_record.validation_loss,
            )
            if not keeps_images:
                yield record
        elif record is not None:
            yield record._replace(image=_to_image(progress.estimate.mean))


def _to_image(mean: Tensor) -> ImageArray:
    return np.array(mean[0, 0].cpu().numpy(), np.float32)
