"""From a calibrated file to one unit's fit: the engine's values, in network units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_dip.engine.holdout import spread
from napari_dip.engine.prior import fill
from napari_dip.engine.schedule import Phase, Schedule
from napari_dip.engine.steadiness import Before
from napari_dip.engine.stopping import StopRule, held_out_rule
from napari_dip.run.budgets import choose_budget
from napari_dip.run.costs import HALF
from napari_dip.run.frames import NO_FRAMES, Frames
from napari_dip.run.judging import judges, output_average, patience
from napari_dip.run.network_units import beside, correlation_of, network_noise
from napari_dip.tasks.base import Scene
from napari_dip.tasks.blind_spot import IMAGE_FED
from napari_dip.tasks.camera_maps import LEAST_TRUST, trust_of
from napari_dip.tasks.recorrupted import SHOWN
from napari_dip.tasks.second import pooled

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from napari_dip.engine.fidelity import NoiseVariance
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.engine.progress import Result
    from napari_dip.run.costs import Budget
    from napari_dip.run.inputs import Planes
    from napari_dip.run.memory import Bites
    from napari_dip.run.plan import Plan
    from napari_dip.run.prepare import Calibration
    from napari_dip.run.units import WorkUnit

#: Decay of the running average of weights, which settle as the rate falls.
WEIGHT_AVERAGE = 0.95
#: Share of the measured noise that a blind-spot fit takes for certain. With all of it, an estimate
#: that is a quarter too high leaves the network no doubt to speak of, and the pixel no say.
GRANTED_NOISE = 0.6
#: Furthest that held-out residuals may correct the uncertainty, as a factor of the variance:
#: beyond that, a few judging pixels were odd.
DOUBT_LIMITS = (0.05, 20.0)
#: Share of its budget that a fit with hidden pixels or more noise takes at least: it overfits less,
#: and a dip of the curve before the rate has come down is no end (FMD WideField_BPAE_B 3:
#: 32.64 dB where the rule ended it at iteration 175 of 250, 33.88 at the end).
SETTLED = 0.9
#: Noise, as a share of the range, from which on the rounding of half precision (1/512 of a value)
#: is lost in it.
LEAST_NOISE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """One unit, ready for the loop."""

    unit: WorkUnit
    problem: Problem
    prior: Prior
    schedule: Schedule
    stop: StopRule
    seed: int
    scene: Scene


def make_fit(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    chosen: str | None = None,
    frames: Frames = NO_FRAMES,
    bites: Bites | None = None,
) -> Fit:
    """Cast one unit's channels into network units and build its problem and prior.

    Parameters
    ----------
    parts : ndarray
        (parts, C, *grid) of the whole file, in the image's units.
    chosen : str, optional
        Another prior than the plan's.
    frames : Frames
        What other frames of a movie show of this one.
    bites : Bites, optional
        How much the memory takes at a time.
    """
    budget = budget_of(plan, chosen, bites)
    scene = scene_of(plan, calibration, parts, unit, budget, frames)
    return fit_of(plan, unit, scene, budget)


def budget_of(plan: Plan, chosen: str | None, bites: Bites | None) -> Budget:
    """Give the budget of the prior that runs, within what the memory takes."""
    budget = plan.budget
    if chosen:
        volume = plan.layout.volume
        budget = choose_budget(plan.recipe, plan.source, chosen, volume=volume)[0]
    return budget if bites is None else bites.of(budget)


def fit_of(plan: Plan, unit: WorkUnit, scene: Scene, budget: Budget) -> Fit:
    """Make the problem, the network and the schedule for what a fit sees."""
    prior, name = _prior(plan, scene, unit), budget.prior
    average = output_average(unit.iterations) if prior.covers_grid else WEIGHT_AVERAGE
    half = budget.half or (name in HALF and scene.noise_level > LEAST_NOISE)
    half = half and scene.measurement.ndim == 4
    schedule = schedule_for(budget, average, unit.iterations, half=half)
    least = 0 if prior.covers_grid else int(SETTLED * unit.iterations)
    stop = held_out_rule(patience(unit.iterations, schedule.report_every), least)
    return Fit(unit, plan.recipe.task.problem(scene), prior, schedule, stop, unit.seed, scene)


def scene_of(
    plan: Plan,
    calibration: Calibration,
    parts: Planes,
    unit: WorkUnit,
    budget: Budget,
    frames: Frames,
) -> Scene:
    """Cast one unit's channels into network units, as the budget's prior sees them."""
    name, device = budget.prior, torch.device(plan.device)
    channels, size, fine = list(unit.channels), None, parts
    if calibration.coarse is not None:
        size, parts = parts.shape[2:], calibration.coarse.parts
        calibration = calibration.as_fitted()
    second = calibration.second
    shots = (parts,) if second is None else (parts, second.parts)
    part = np.stack([one[unit.part, channels] for one in shots])  # (B, C, *grid)
    dims = part.ndim - 2
    offset = beside(calibration.offset, channels, dims + 1).astype(np.float32)
    scale = beside(calibration.scale, channels, dims + 1).astype(np.float32)
    measurement = torch.from_numpy((part - offset) / scale).to(device)
    noises = (calibration.noise,) if second is None else (calibration.noise, second.noise)
    noise = network_noise(noises, calibration, channels, device, dims)
    known = _known(calibration, unit, measurement)
    halves = 1 if size is None else 2
    origin = tuple(start // halves for start in unit.origin)
    trust = _trust(calibration, noise, measurement, scale)
    judging = known if trust is None else known * (trust >= LEAST_TRUST)
    centres = _judges(plan, calibration, judging, origin)
    scene = Scene(
        measurement=measurement * known,
        noise=noise,
        noise_level=float(noise.at(measurement).mean().sqrt()),
        known=known,
        held_out=centres,
        guarded=spread(centres, calibration.block),
        block=calibration.block,
        granted=GRANTED_NOISE if name in IMAGE_FED else 1.0,
        prior=name,
        widths=budget.widths,
        window=budget.window,
        others={
            name: torch.from_numpy(array).to(device) for name, array in calibration.others.items()
        },
        zero=torch.from_numpy(-offset / scale)[None].to(device),
        unit=torch.from_numpy(1 / scale)[None].to(device),
        correlation=correlation_of(calibration, channels),
        enlarged=size,
        trust=trust,
    )
    if calibration.camera is not None and size is not None and len(channels) == 3:
        whole = torch.from_numpy((fine[unit.part, channels] - offset) / scale)[None].to(device)
        camera = calibration.camera.in_units_of(float(scale.flat[0]))
        scene = replace(scene, camera=camera, full_size=whole)
    scene = pooled(scene) if name in SHOWN else scene
    return plan.recipe.task.seen(_among(scene, frames, offset, scale))


def _prior(plan: Plan, scene: Scene, unit: WorkUnit) -> Prior:
    """Make the network and its code, where they are to be fitted."""
    prior = plan.recipe.task.prior_for(scene, torch.Generator().manual_seed(unit.seed))
    prior.to(scene.measurement.device)
    if scene.measurement.ndim == 4:
        prior.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior


def _among(
    scene: Scene, frames: Frames, offset: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> Scene:
    """Put a scene among the other frames of its movie, in network units."""
    like = scene.measurement

    def network(pictures: Planes) -> Tensor:
        both = pictures.reshape(-1, *offset.shape[:1], *pictures.shape[1:])  # (1 or 2, C, *grid)
        return torch.from_numpy((both - offset) / scale).reshape(1, *pictures.shape).to(like)

    beside = None if frames.beside is None else network(frames.beside)
    if beside is not None and scene.trust is not None:  # the same pixels are noisy in all frames
        beside = fill(beside, scene.quiet, scene.block)
    before = None
    if frames.picture is not None and frames.deviation is not None and frames.seen is not None:
        variance = torch.from_numpy((frames.deviation / scale) ** 2)[None].to(like)
        seen = torch.from_numpy(frames.seen)[None, None].to(like)
        before = Before(network(frames.picture), variance, seen)
    return replace(scene, beside=beside, before=before)


def schedule_for(
    budget: Budget, average: float, iterations: int, *, half: bool = False
) -> Schedule:
    """Make the phases of a fit: with a learned operator, then with the operator as it is."""
    apart = iterations - budget.joint
    phases = (
        Phase(budget.joint, budget.learning_rate, budget.operator_rate),
        Phase(apart, budget.learning_rate),
    )
    return Schedule(
        tuple(phase for phase in phases if phase.iterations),
        iterations,
        iterations,
        average=average,
        release=budget.release,
        half=half,
    )


def to_units(calibration: Calibration, unit: WorkUnit, mean: Tensor) -> npt.NDArray[np.float32]:
    """Bring a picture (1, C, *grid) back to the image's units."""
    picture = mean[0].cpu().numpy().astype(np.float64)
    scale = beside(calibration.scale, unit.channels, picture.ndim)
    return np.asarray(
        picture * scale + beside(calibration.offset, unit.channels, picture.ndim), np.float32
    )


@torch.no_grad()
def doubt(fit: Fit, calibration: Calibration, result: Result) -> npt.NDArray[np.float32]:
    """Give each pixel's standard deviation in the image's units, scaled by held-out residuals.

    One factor makes the squared residuals of the held-out pixels, which no fit ever saw, as
    large as the estimate says: of the whole spread where the network gives it, else of what is
    beyond the noise.

    Parameters
    ----------
    result : Result
        Its finished estimate carries a variance; one that was blind to the held-out pixels may
        carry none, and then there is nothing to correct.
    """
    blind, finished = result.blind, result.estimate
    assert finished.log_variance is not None
    variance = finished.log_variance.exp()
    if blind.log_variance is not None:
        variance = _spread_missed(fit, blind) * variance
    deviation = variance[0].sqrt().cpu().numpy()
    scale = beside(calibration.scale, fit.unit.channels, deviation.ndim)
    return np.asarray(deviation * scale, np.float32)


def _spread_missed(fit: Fit, blind: Estimate) -> Tensor:
    """Give how many times the variance that an estimate says its held-out residuals have."""
    assert blind.log_variance is not None
    scene, operator = fit.scene, fit.problem.terms[0].operator
    predicted = operator(blind.mean)
    held_out, noise = scene.held_out, scene.noise.at(predicted)
    seen = (scene.measurement - predicted) ** 2 * held_out
    said = operator(blind.log_variance.exp()) * held_out
    if scene.granted < 1:
        factor = seen.sum() / (said + scene.granted * noise * held_out).sum().clamp(min=1e-30)
    else:
        factor = (seen - noise * held_out).sum() / said.expand_as(seen).sum().clamp(min=1e-30)
    return factor.clamp(*DOUBT_LIMITS) if float(held_out.sum()) else factor.new_ones(())


def predicted(
    fit: Fit, calibration: Calibration, blind: Estimate, finished: Estimate
) -> npt.NDArray[np.float32]:
    """Give what the detector would have seen of the picture: (C, Y, X), in the image's units.

    Of the finished picture where it has the network's grid, else of the network's.
    """
    operator = fit.problem.terms[0].operator
    operator = getattr(operator, "detected", operator)  # with what it adds to a whole picture
    if fit.scene.enlarged is not None:  # what was fitted is coarser than what was measured
        return to_units(calibration, fit.unit, finished.mean)
    same = finished.mean.shape[1:] == blind.mean.shape[1:]
    with torch.no_grad():
        return to_units(calibration, fit.unit, operator(finished.mean if same else blind.mean))


def _known(calibration: Calibration, unit: WorkUnit, measurement: Tensor) -> Tensor:
    """Give 1 where all channels of a fit were measured: (1, 1, *grid)."""
    if calibration.known is None:
        return torch.ones_like(measurement[:1, :1])
    known = torch.from_numpy(
        calibration.known[unit.part, list(unit.channels)].all(0).astype(np.float32)
    )
    return known[None, None].to(measurement.device)


def _trust(
    calibration: Calibration,
    noise: NoiseVariance,
    measurement: Tensor,
    scale: npt.NDArray[np.float32],
) -> Tensor | None:
    """Weigh pixels by the camera's noise map: (1, 1, *grid); None where there is none."""
    if calibration.maps is None or calibration.maps.excess is None:
        return None
    excess = torch.from_numpy(calibration.maps.excess / scale**2)[None]
    return trust_of(excess.to(measurement), noise, measurement)


def _judges(plan: Plan, calibration: Calibration, known: Tensor, origin: tuple[int, ...]) -> Tensor:
    """Choose the judging pixels: enough of them, the same for all fits of the file."""
    share, seed = calibration.held_out_share, plan.recipe.common.seed
    grid, judging = tuple(known.shape[2:]), plan.recipe.task.judging(known)
    patch, allowed = (None, known) if judging is None else judging
    return judges(
        grid, calibration.block, share, seed, origin=origin or None, patch=patch, allowed=allowed
    )
