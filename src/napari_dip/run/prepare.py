"""Measure the pixels once: normalisation, noise, hidden block."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.engine.noise import NoiseEstimate
    from napari_dip.run.inputs import Inputs, Planes
    from napari_dip.run.plan import Plan

#: Percentiles that span the image without its hot and dead pixels.
ROBUST = (0.5, 99.5)
#: Share of the pixels that judging may take from the fit, as a rule and at most: 4 % of a
#: 512 x 512 image are 10,000 judges, whose mean loss is sure to 0.02.
HELD_OUT_SHARE = 0.04
MOST_HELD_OUT = 0.25
#: Fewest held-out pixels that tell a better picture from a worse one.
LEAST_HELD_OUT = 48
#: Planes of a stack that the noise is measured on, spread over all of it: eight planes of
#: 512 x 512 hold 30,000 blocks, and one detector made them all.
MOST_PLANES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was measured on the file before any fit; shared by all its units.

    Attributes
    ----------
    offset, scale : tuple of float
        Per channel: network units are (pixel - offset) / scale.
    noise : tuple of NoiseEstimate
        Per channel, in the image's units.
    block : tuple of int
        Size of hidden blocks and of the guard band around a judging pixel, per axis of a fit.
    held_out_share : float
    constant : tuple of int
        Channels that hold one value only; they are handed back untouched.
    model : str
        "gaussian" or "poisson-gaussian".
    prior : str
        Which prior runs.
    known : ndarray or None
        (parts, C, *grid), True where a pixel was measured; None if all were.
    others : mapping of str to ndarray
        The task's further inputs, float32, as the task has arranged them.
    notes : tuple of str
        What was found out on the way.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    noise: tuple[NoiseEstimate, ...]
    block: tuple[int, ...]
    held_out_share: float
    constant: tuple[int, ...]
    model: str
    prior: str
    known: npt.NDArray[np.bool_] | None
    others: Mapping[str, Planes]
    notes: tuple[str, ...] = ()


def prepare(plan: Plan, inputs: Inputs) -> tuple[Calibration, Planes]:
    """Measure all that the fits need to know.

    Parameters
    ----------
    plan : Plan
    inputs : Inputs

    Returns
    -------
    (Calibration, parts)
        Parts are (parts, C, *grid) float32 in the image's units, as the plan's layout has them;
        what was not measured is filled with the mean of what was.
    """
    from napari_dip.engine.noise import hidden_block

    task, parts, known = plan.recipe.task, inputs.parts, inputs.known
    measured = [
        parts[:, c] if known is None else parts[:, c][known[:, c]] for c in range(parts.shape[1])
    ]
    constant = tuple(c for c, one in enumerate(measured) if not one.size or one.min() == one.max())
    offset, scale = zip(*(_range(one) for one in measured), strict=True)
    if task.together(plan.source):  # a dark channel must not be blown up
        scale = (max(scale),) * len(scale)
    if known is not None:
        middle = np.array(offset, np.float32).reshape(-1, *[1] * (parts.ndim - 2))
        parts = np.where(known, parts, middle)
    noise = tuple(
        _noise(parts[:, c], None if known is None else known[:, c], inputs.step, plan)
        for c in range(parts.shape[1])
    )
    varied = [one for c, one in enumerate(noise) if c not in constant]
    # detectors make noise plane by plane: along depth or time it is taken to be white
    block = (1,) * (parts.ndim - 4) + task.block(hidden_block(varied, plan.source.grid))
    arranged, notes = task.arranged(parts[0], inputs.others, {"image": plan.source, **plan.others})
    judges = (
        LEAST_HELD_OUT * prod(block) / (parts[0, 0].size if known is None else known[0, 0].sum())
    )
    calibration = Calibration(
        offset=tuple(offset),
        scale=tuple(scale),
        noise=noise,
        block=block,
        held_out_share=min(MOST_HELD_OUT, max(HELD_OUT_SHARE, judges)),
        constant=constant,
        model="gaussian" if all(one.gain == 0 for one in varied) else "poisson-gaussian",
        prior=plan.budget.prior,
        known=known,
        others=arranged,
        notes=notes,
    )
    return calibration, parts


def settled(plan: Plan, inputs: Inputs) -> Plan:
    """Plan anew with the prior that the pixels ask for, where the task lets them choose."""
    from napari_dip.run.plan import with_prior

    known = None if inputs.known is None else inputs.known[0]
    prior, why = plan.recipe.task.settled(plan.budget.prior, known)
    return plan if not why else with_prior(plan, prior, why)


def noise_variance(noise: NoiseEstimate, signal: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Variance of one channel's noise at a signal, in the image's units squared."""
    line = noise.gain * np.asarray(signal, np.float64) + noise.intercept
    return np.asarray(np.maximum(line, noise.floor))


def _range(plane: Planes) -> tuple[float, float]:
    """Offset and scale that bring the bulk of the pixels to a range of one."""
    if not plane.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(plane, ROBUST))
    if high <= low:  # almost all pixels alike: a few bright points on black
        low, high = float(plane.min()), float(plane.max())
    return float(plane.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))


def _noise(
    volume: Planes, known: npt.NDArray[np.bool_] | None, step: float, plan: Plan
) -> NoiseEstimate:
    """Measure one channel's noise, and let the user's own figures overrule.

    Parameters
    ----------
    volume : ndarray
        (..., Y, X), all planes of a channel.
    """
    from dataclasses import replace

    import torch

    from napari_dip.engine.noise import measure_noise

    task = plan.recipe.task.noise_wish()
    planes = volume.reshape(-1, *volume.shape[-2:])
    some = np.unique(np.linspace(0, len(planes) - 1, MOST_PLANES).astype(int))
    seen = None if known is None else torch.from_numpy(known.reshape(planes.shape)[some])
    measured = measure_noise(torch.from_numpy(planes[some]), step, seen)
    dark, middle = float(np.percentile(planes, 1)), float(planes.mean(dtype=np.float64))
    level = float(noise_variance(measured, middle))
    at_dark = float(noise_variance(measured, dark))
    gain = measured.gain
    if task.model == "gaussian":
        gain, at_dark = 0.0, level
    elif task.model == "poisson-gaussian" and gain == 0 and middle > dark:
        # no slope was found, but the user knows of one: all that is above the least variance
        gain, at_dark = max(level - measured.floor, 0.1 * level) / (middle - dark), measured.floor
    if task.gain is not None:
        gain = task.gain
    if task.read_noise is not None:
        at_dark = task.read_noise**2
    if gain == measured.gain and task.read_noise is None:
        return measured
    floor = at_dark if task.read_noise is not None else min(measured.floor, at_dark)
    return replace(measured, gain=gain, intercept=at_dark - gain * dark, floor=floor)
