"""From a calibrated file to one unit's fit: the engine's values, in network units.

What was measured in the image's units, in those of the network.

How a fit went, in the plain numbers that merge, checkpoints and reports keep.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_dip.engine.fit.early_stopping import StopRule, make_validation_stop_rule
from napari_dip.engine.fit.schedule import Phase, Schedule
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.likelihood.penalties import PreviousFrame
from napari_dip.engine.noise.correlation import subtract_image_correlation
from napari_dip.engine.prior import dilate_to_blocks, fill_with_local_mean
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.validation_evidence import compute_validation_evidence
from napari_dip.pipeline.calibrate.prepare import (
    compute_output_decay,
    compute_patience,
    select_validation_pixels,
)
from napari_dip.pipeline.execute.neighbour_frames import NO_NEIGHBOUR_FRAMES, NeighbourFrames
from napari_dip.pipeline.plan.costs import HALF_PRECISION_PRIORS, choose_budget
from napari_dip.pipeline.plan.types import UnitOutcome
from napari_dip.tasks.base import MIN_PIXEL_WEIGHT, FitInput
from napari_dip.tasks.noise_models.camera_maps import compute_camera_weights
from napari_dip.tasks.priors.blind_spot import IMAGE_INPUT_PRIORS
from napari_dip.tasks.priors.r2r import MEASUREMENT_INPUT_PRIORS
from napari_dip.tasks.shared_settings import average_exposures

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.fit.state import FitResult
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Calibration, Planes
    from napari_dip.pipeline.execute.device_recovery import RecoveryState
    from napari_dip.pipeline.plan.types import Budget, Plan, WorkUnit


def shape_channel_values(
    values: tuple[float, ...], channels: Sequence[int], dims: int
) -> npt.NDArray[np.float64]:
    """Shape one number for each of some channels to be used beside (C, *grid)."""
    return np.array([values[c] for c in channels]).reshape(-1, *[1] * (dims - 1))


def average_noise_correlation(
    calibration: Calibration, channels: list[int]
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean autocorrelation of the noise of some channels; None where it counts as white."""
    if all(side == 1 for side in calibration.blind_spot_size):
        return None
    noise = [calibration.noise[c] for c in channels]
    y, x = (
        np.mean([item.along_y for item in noise], 0),
        np.mean([item.along_x for item in noise], 0),
    )
    return subtract_image_correlation(tuple(y.tolist())), subtract_image_correlation(
        tuple(x.tolist())
    )


def convert_noise_to_network_units(
    noises: tuple[tuple[NoiseEstimate, ...], ...],
    calibration: Calibration,
    channels: list[int],
    device: torch.device,
    dims: int,
) -> NoiseVariance:
    """Noise of these channels of each measurement in network units: (B, C, 1, ...) each."""
    rows = []
    for each in noises:
        for channel in channels:
            item, offset, scale = (
                each[channel],
                calibration.offset[channel],
                calibration.scale[channel],
            )
            # a share of the signal, which the offset is a part of, multiplied out
            square, zero = item.relative**2, offset / scale
            variance = (item.intercept + item.gain * offset) / scale**2 + square * zero**2
            gain = item.gain / scale + 2 * square * zero
            rows.append((gain, variance, item.floor / scale**2, square))
    table = torch.tensor(rows, dtype=torch.float32, device=device)
    table = table.T.reshape(4, len(noises), -1, *[1] * dims)
    squares = table[3] if bool(table[3].any()) else None
    return NoiseVariance(
        gain=table[0], intercept=table[1], floor=table[2].clamp(min=1e-10), square=squares
    )


#: Decay of the running average of weights, which settle as the rate falls.
WEIGHT_AVERAGE_DECAY = 0.95
#: Share of the measured noise that a blind-spot fit takes for certain. With all of it, an estimate
#: that is a quarter too high leaves the network no doubt to speak of, and the pixel no say.
BLIND_SPOT_NOISE_SHARE = 0.6
#: Furthest that held-out residuals may correct the uncertainty, as a factor of the variance:
#: beyond that, a few judging pixels were odd.
UNCERTAINTY_FACTOR_LIMITS = (0.05, 20.0)
#: Share of its budget that a fit with hidden pixels or more noise takes at least: it overfits less,
#: and a dip of the curve before the rate has come down is no end (FMD WideField_BPAE_B 3:
#: 32.64 dB where the rule ended it at iteration 175 of 250, 33.88 at the end).
MIN_BUDGET_SHARE = 0.9
#: Noise, as a share of the range, from which on the rounding of half precision (1/512 of a value)
#: is lost in it.
MIN_HALF_PRECISION_NOISE = 0.02


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FitSetup:
    """One unit, ready for the loop."""

    unit: WorkUnit
    problem: Problem
    prior: Prior
    schedule: Schedule
    stop_rule: StopRule
    seed: int
    fit_input: FitInput


def make_fit(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    chosen: str | None = None,
    frames: NeighbourFrames = NO_NEIGHBOUR_FRAMES,
    bites: RecoveryState | None = None,
) -> FitSetup:
    """Cast one unit's channels into network units and build its problem and prior.

    Parameters
    ----------
    parts : ndarray
        (parts, C, *grid) of the whole file, in the image's units.
    chosen : str, optional
        Another prior than the plan's.
    frames : NeighbourFrames
        What other frames of a movie show of this one.
    bites : RecoveryState, optional
        How much the memory takes at a time.
    """
    budget = choose_fit_budget(plan, chosen, bites)
    scene = make_fit_input(plan, calibration, parts, unit, budget, frames)
    return build_fit(plan, unit, scene, budget)


def choose_fit_budget(plan: Plan, chosen: str | None, bites: RecoveryState | None) -> Budget:
    """Give the budget of the prior that runs, within what the memory takes."""
    budget = plan.budget
    if chosen:
        volume = plan.layout.is_volume
        budget = choose_budget(plan.recipe, plan.source, chosen, volume=volume)[0]
    return budget if bites is None else bites.limit_budget(budget)


def build_fit(plan: Plan, unit: WorkUnit, scene: FitInput, budget: Budget) -> FitSetup:
    """Make the problem, the network and the schedule for what a fit sees."""
    prior, name = _build_prior(plan, scene, unit), budget.prior
    average = compute_output_decay(unit.iterations) if prior.covers_grid else WEIGHT_AVERAGE_DECAY
    half = budget.half or (
        name in HALF_PRECISION_PRIORS and scene.noise_level > MIN_HALF_PRECISION_NOISE
    )
    half = half and scene.measurement.ndim == 4
    schedule = make_fit_schedule(budget, average, unit.iterations, half=half)
    least = 0 if prior.covers_grid else int(MIN_BUDGET_SHARE * unit.iterations)
    stop = make_validation_stop_rule(
        compute_patience(unit.iterations, schedule.report_every), least
    )
    return FitSetup(
        unit=unit,
        problem=plan.recipe.task.problem(scene),
        prior=prior,
        schedule=schedule,
        stop_rule=stop,
        seed=unit.seed,
        fit_input=scene,
    )


def make_fit_input(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    budget: Budget,
    frames: NeighbourFrames,
) -> FitInput:
    """Cast one unit's channels into network units, as the budget's prior sees them."""
    name, device = budget.prior, torch.device(plan.device)
    channels, size, fine = list(unit.channels), None, parts
    if calibration.half_resolution is not None:
        size, parts = parts.shape[2:], calibration.half_resolution.stack
        calibration = calibration.get_fit_calibration()
    second = calibration.repeated_exposure
    shots = (parts,) if second is None else (parts, second.stack)
    part = np.stack([shot[unit.part, channels] for shot in shots])  # (B, C, *grid)
    dims = part.ndim - 2
    offset = shape_channel_values(calibration.offset, channels, dims + 1).astype(np.float32)
    scale = shape_channel_values(calibration.scale, channels, dims + 1).astype(np.float32)
    measurement = torch.from_numpy((part - offset) / scale).to(device)
    noises = (calibration.noise,) if second is None else (calibration.noise, second.noise)
    noise = convert_noise_to_network_units(noises, calibration, channels, device, dims)
    measured_mask = _make_known_mask(calibration, unit, measurement)
    halves = 1 if size is None else 2
    origin = tuple(start // halves for start in unit.origin)
    trust = _make_pixel_weights(calibration, noise, measurement, scale)
    judging = measured_mask if trust is None else measured_mask * (trust >= MIN_PIXEL_WEIGHT)
    centres = _select_unit_validation_pixels(plan, calibration, judging, origin)
    scene = FitInput(
        measurement=measurement * measured_mask,
        noise=noise,
        noise_level=float(noise.at(measurement).mean().sqrt()),
        measured_mask=measured_mask,
        held_out=centres,
        guarded=dilate_to_blocks(centres, calibration.blind_spot_size),
        block=calibration.blind_spot_size,
        granted=BLIND_SPOT_NOISE_SHARE if name in IMAGE_INPUT_PRIORS else 1.0,
        prior=name,
        widths=budget.widths,
        window=budget.window,
        others={
            name: torch.from_numpy(array).to(device)
            for name, array in calibration.extra_inputs.items()
        },
        zero=torch.from_numpy(-offset / scale)[None].to(device),
        unit=torch.from_numpy(1 / scale)[None].to(device),
        correlation=average_noise_correlation(calibration, channels),
        enlarged=size,
        trust=trust,
    )
    if calibration.camera_noise is not None and size is not None and len(channels) == 3:
        whole = torch.from_numpy((fine[unit.part, channels] - offset) / scale)[None].to(device)
        camera = calibration.camera_noise.in_units_of(float(scale.flat[0]))
        scene = replace(scene, camera=camera, full_size=whole)
    scene = average_exposures(scene) if name in MEASUREMENT_INPUT_PRIORS else scene
    return plan.recipe.task.prepare_fit_input(_add_neighbour_frames(scene, frames, offset, scale))


def _build_prior(plan: Plan, scene: FitInput, unit: WorkUnit) -> Prior:
    """Make the network and its code, where they are to be fitted."""
    prior = plan.recipe.task.prior_for(scene, torch.Generator().manual_seed(unit.seed))
    prior.to(scene.measurement.device)
    if scene.measurement.ndim == 4:
        prior.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior


def _add_neighbour_frames(
    scene: FitInput,
    frames: NeighbourFrames,
    offset: npt.NDArray[np.float32],
    scale: npt.NDArray[np.float32],
) -> FitInput:
    """Put a scene among the other frames of its movie, in network units."""
    like = scene.measurement

    def network(pictures: Planes) -> Tensor:
        both = pictures.reshape(-1, *offset.shape[:1], *pictures.shape[1:])  # (1 or 2, C, *grid)
        return torch.from_numpy((both - offset) / scale).reshape(1, *pictures.shape).to(like)

    neighbours = None if frames.neighbours is None else network(frames.neighbours)
    if (
        neighbours is not None and scene.trust is not None
    ):  # the same pixels are noisy in all frames
        neighbours = fill_with_local_mean(neighbours, scene.quiet, scene.block)
    before = None
    if (
        frames.previous_picture is not None
        and frames.previous_deviation is not None
        and frames.previous_mask is not None
    ):
        variance = torch.from_numpy((frames.previous_deviation / scale) ** 2)[None].to(like)
        valid = torch.from_numpy(frames.previous_mask)[None, None].to(like)
        before = PreviousFrame(
            picture=network(frames.previous_picture), variance=variance, valid=valid
        )
    return replace(scene, neighbours=neighbours, before=before)


def make_fit_schedule(
    budget: Budget, average: float, iterations: int, *, half: bool = False
) -> Schedule:
    """Make the phases of a fit: with a learned operator, then with the operator as it is."""
    apart = iterations - budget.joint
    phases = (
        Phase(
            iterations=budget.joint,
            learning_rate=budget.learning_rate,
            operator_learning_rate=budget.operator_rate,
        ),
        Phase(iterations=apart, learning_rate=budget.learning_rate),
    )
    return Schedule(
        phases=tuple(phase for phase in phases if phase.iterations),
        horizon=iterations,
        stop_at=iterations,
        average=average,
        release=budget.release,
        half=half,
    )


def convert_to_image_units(
    calibration: Calibration, unit: WorkUnit, mean: Tensor
) -> npt.NDArray[np.float32]:
    """Bring a picture (1, C, *grid) back to the image's units."""
    picture = mean[0].cpu().numpy().astype(np.float64)
    scale = shape_channel_values(calibration.scale, unit.channels, picture.ndim)
    return np.asarray(
        picture * scale + shape_channel_values(calibration.offset, unit.channels, picture.ndim),
        np.float32,
    )


@torch.no_grad()
def compute_uncertainty(
    fit: FitSetup, calibration: Calibration, result: FitResult
) -> npt.NDArray[np.float32]:
    """Give each pixel's standard deviation in the image's units, scaled by held-out residuals.

    One factor makes the squared residuals of the held-out pixels, which no fit ever saw, as
    large as the estimate says: of the whole spread where the network gives it, else of what is
    beyond the noise.

    Parameters
    ----------
    result : FitResult
        Its finished estimate carries a variance; one that was blind to the held-out pixels may
        carry none, and then there is nothing to correct.
    """
    blind, finished = result.blind, result.estimate
    assert finished.log_variance is not None
    variance = finished.log_variance.exp()
    if blind.log_variance is not None:
        variance = _compute_variance_factor(fit, blind) * variance
    deviation = variance[0].sqrt().cpu().numpy()
    scale = shape_channel_values(calibration.scale, fit.unit.channels, deviation.ndim)
    return np.asarray(deviation * scale, np.float32)


def _compute_variance_factor(fit: FitSetup, blind: Estimate) -> Tensor:
    """Give how many times the variance that an estimate says its held-out residuals have."""
    assert blind.log_variance is not None
    scene, operator = fit.fit_input, fit.problem.terms[0].operator
    predicted = operator(blind.mean)
    held_out, noise = scene.held_out, scene.noise.at(predicted)
    squared_residuals = (scene.measurement - predicted) ** 2 * held_out
    said = operator(blind.log_variance.exp()) * held_out
    if scene.granted < 1:
        factor = squared_residuals.sum() / (said + scene.granted * noise * held_out).sum().clamp(
            min=1e-30
        )
    else:
        factor = (squared_residuals - noise * held_out).sum() / said.expand_as(
            squared_residuals
        ).sum().clamp(min=1e-30)
    return (
        factor.clamp(*UNCERTAINTY_FACTOR_LIMITS) if float(held_out.sum()) else factor.new_ones(())
    )


def predict_measurement(
    fit: FitSetup, calibration: Calibration, blind: Estimate, finished: Estimate
) -> npt.NDArray[np.float32]:
    """Give what the detector would have seen of the picture: (C, Y, X), in the image's units.

    Of the finished picture where it has the network's grid, else of the network's.
    """
    operator = fit.problem.terms[0].operator
    operator = getattr(operator, "detected", operator)  # with what it adds to a whole picture
    if fit.fit_input.enlarged is not None:  # what was fitted is coarser than what was measured
        return convert_to_image_units(calibration, fit.unit, finished.mean)
    same = finished.mean.shape[1:] == blind.mean.shape[1:]
    with torch.no_grad():
        return convert_to_image_units(
            calibration, fit.unit, operator(finished.mean if same else blind.mean)
        )


def _make_known_mask(calibration: Calibration, unit: WorkUnit, measurement: Tensor) -> Tensor:
    """Give 1 where all channels of a fit were measured: (1, 1, *grid)."""
    if calibration.measured_mask is None:
        return torch.ones_like(measurement[:1, :1])
    measured_mask = torch.from_numpy(
        calibration.measured_mask[unit.part, list(unit.channels)].all(0).astype(np.float32)
    )
    return measured_mask[None, None].to(measurement.device)


def _make_pixel_weights(
    calibration: Calibration,
    noise: NoiseVariance,
    measurement: Tensor,
    scale: npt.NDArray[np.float32],
) -> Tensor | None:
    """Weigh pixels by the camera's noise map: (1, 1, *grid); None where there is none."""
    if calibration.camera_correction is None or calibration.camera_correction.excess is None:
        return None
    excess = torch.from_numpy(calibration.camera_correction.excess / scale**2)[None]
    return compute_camera_weights(excess.to(measurement), noise, measurement)


def _select_unit_validation_pixels(
    plan: Plan, calibration: Calibration, eligible_mask: Tensor, origin: tuple[int, ...]
) -> Tensor:
    """Choose the judging pixels: enough of them, the same for all fits of the file."""
    share, seed = calibration.validation_share, plan.recipe.run_settings.seed
    grid, judging = tuple(eligible_mask.shape[2:]), plan.recipe.task.judging(eligible_mask)
    patch, allowed = (None, eligible_mask) if judging is None else judging
    return select_validation_pixels(
        grid,
        calibration.blind_spot_size,
        share,
        seed,
        origin=origin or None,
        patch=patch,
        allowed=allowed,
    )


def make_unit_outcome(
    unit: WorkUnit,
    setup: FitSetup,
    result: FitResult,
    learned_notes: tuple[Note, ...],
    bites: RecoveryState,
) -> UnitOutcome:
    """Put a fit's answer into numbers and notes.

    Parameters
    ----------
    unit : WorkUnit
    setup : FitSetup
    result : FitResult
    learned_notes : tuple of Note
        What the task has to say of what was learned.
    bites : RecoveryState
        Of the run: how often its memory ran out, and whether its card was lost.
    """
    notes = (*bites.notes, *result.notes, *learned_notes)
    if result.broke_down:
        notes = (*notes, make_note("unit-ended", unit=unit.id, why=str(result.stop)))
    return UnitOutcome(
        unit=unit.id,
        stop=bites.stop or result.stop,
        kept=result.kept,
        best_iteration=result.best_iteration,
        iterations=result.iterations,
        history=tuple((item.iteration, item.fitted, item.held_out) for item in result.history),
        notes=notes,
        prior=setup.fit_input.prior,
        evidence=compute_validation_evidence(
            setup.schedule, setup.problem, setup.fit_input.noise, result.blind
        ),
        filtered=setup.problem.refine is not None and not result.kept,
        role=unit.role,
        series=unit.series,
        members=len(unit.members),
    )
