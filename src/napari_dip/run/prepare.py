"""Measure the pixels once: normalisation, noise, hidden block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.run.camera import camera_note, noise_of_colours
from napari_dip.run.clipped import with_believed_limits
from napari_dip.run.coarse import HALVED, LEAST_SIDE, coarse_grid
from napari_dip.run.judging import held_out_share
from napari_dip.run.noise import channels_noise, noise_model, noise_variance
from napari_dip.run.noise_doubt import doubt_notes
from napari_dip.run.outliers import (
    NO_LIMITS,
    ROBUST,
    outlier_limits,
    outlier_note,
    without_outliers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_dip.engine.camera_noise import CameraNoise
    from napari_dip.engine.noise import NoiseEstimate
    from napari_dip.run.coarse import Coarse
    from napari_dip.run.inputs import Inputs, Planes
    from napari_dip.run.noise import Second
    from napari_dip.run.plan import Plan
    from napari_dip.tasks.camera_maps import CameraMaps

#: A note on a plan.
TOGETHER = (
    "Nothing is known of a whole plane, so the planes along {axis} are fitted together, not one by "
    "one."
)
#: Noise, as a share of the range, below which held-out pixels, which are filled in to judge, say
#: little of a network that is shown the others: of cc15 (0.002 to 0.004) one of four fits lost
#: 7.8 dB so. Micrographs of FMD, W2S and Hagen et al. have 0.04 to 0.18.
WEAK_NOISE = 0.02


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
    second : Second or None
        Another measurement of what the image shows.
    coarse : Coarse or None
        What is fitted instead of the image, where that is oversampled.
    outlier_limits : tuple of (float, float)
        Per channel, values beyond which single pixels are left out of the fit.
    outliers : int
        Count of such pixels.
    camera : CameraNoise or None
        The noise of red, green and blue together, where it is a colour camera's.
    each : tuple of Calibration
        Of each part by itself, where parts are of files of their own; empty: all share this one.
    maps : CameraMaps or None
        What was corrected, and how noisy each pixel is.
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
    second: Second | None = None
    coarse: Coarse | None = None
    outlier_limits: tuple[tuple[float, float], ...] = ()
    outliers: int = 0
    camera: CameraNoise | None = None
    each: tuple[Calibration, ...] = ()
    maps: CameraMaps | None = None

    @property
    def excess(self) -> Planes | float:
        """Variance of each pixel beyond the noise of its channel: (Y, X), or 0 for none."""
        known = None if self.maps is None else self.maps.excess
        return 0.0 if known is None else known

    def as_fitted(self) -> Calibration:
        """Give what holds for the pixels that are fitted, which may be coarser than the image's."""
        if self.coarse is None:
            return self
        share = held_out_share(self.coarse.block, self.coarse.parts[0, 0].size)
        return replace(
            self,
            noise=self.coarse.noise,
            block=self.coarse.block,
            held_out_share=share,
            coarse=None,
        )


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

    task, known = plan.recipe.task, inputs.known
    parts, limits, values = _usual(plan, inputs)
    strays: tuple[str, ...] = ()
    if len(values) and not plan.tiles:  # of a picture in tiles, a sample alone is seen here
        strays = (outlier_note(values, put_back=task.same_pixels),)
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
    if inputs.second is not None:
        inputs = replace(inputs, second=without_outliers(inputs.second, None, limits)[0])
    maps = inputs.maps
    seen = parts if maps is None else maps.quietened(parts)
    noise, second = channels_noise(inputs, seen, constant, task.noise_wish())
    noise = tuple(
        with_believed_limits(one, parts[:, c], None if known is None else known[:, c])
        for c, one in enumerate(noise)
    )
    camera = None
    if maps is None and _of_colours(plan, inputs, parts, constant):
        camera, noise = noise_of_colours(parts, noise, inputs.step)
    varied = [one for c, one in enumerate(noise) if c not in constant]
    # detectors make noise plane by plane: along depth or time it is taken to be white
    block = (1,) * (parts.ndim - 4) + task.block(hidden_block(varied, plan.source.grid))
    arranged, notes = task.arranged(parts[0], inputs.others, {"image": plan.source, **plan.others})
    told = () if known is None else task.told(known)
    doubts = doubt_notes(noise, constant) if task.doubts_noise() else ()
    some = parts[0, 0].size if known is None else max(1, int(known[0, 0].sum()))
    coarse = None
    whole = second is None and known is None and (maps is None or maps.excess is None)
    if task.halves() and whole and len(parts) == 1:
        coarse = coarse_grid(parts, noise, block, constant, camera=camera is not None)
    halved = (camera_note(camera),) if camera else (HALVED,) if coarse else ()
    calibration = Calibration(
        offset=tuple(offset),
        scale=tuple(scale),
        noise=noise,
        block=block,
        held_out_share=held_out_share(block, some),
        constant=constant,
        model=noise_model(varied, task.noise_wish()),
        prior=plan.budget.prior,
        known=known,
        others=arranged,
        outlier_limits=limits,
        outliers=len(values),
        notes=(
            *strays,
            *(second.notes if second else ()),
            *(maps.notes if maps else ()),
            *doubts,
            *told,
            *notes,
            *halved,
        ),
        second=second,
        coarse=coarse,
        camera=camera,
        maps=maps,
    )
    return calibration, parts


def _of_colours(plan: Plan, inputs: Inputs, parts: Planes, constant: tuple[int, ...]) -> bool:
    """Whether this is a colour picture, and nothing else is known of its noise."""
    task, wish = plan.recipe.task, plan.recipe.task.noise_wish()
    colours = plan.layout.channels == "S" and parts.shape[1] == 3 and parts.ndim == 4
    alone = inputs.second is None and inputs.known is None and not constant
    whole = (len(parts) == 1 or bool(plan.tiles)) and min(parts.shape[-2:]) >= LEAST_SIDE
    together = task.halves() and task.together(plan.source) and wish.model == "auto"
    return bool(colours and alone and whole and together)


def _usual(plan: Plan, inputs: Inputs) -> tuple[Planes, tuple[tuple[float, float], ...], Planes]:
    """Give the parts without outliers, the limits of each channel, and what the outliers were."""
    parts, known = inputs.parts, inputs.known
    if not plan.recipe.task.fits_pixels():
        return parts, (NO_LIMITS,) * parts.shape[1], np.zeros(0, np.float32)
    if inputs.maps is not None:  # a noise map says more of its pixels
        known = inputs.maps.usable(known, parts.shape)
    limits = tuple(
        outlier_limits(parts[:, c], None if known is None else known[:, c])
        for c in range(parts.shape[1])
    )
    parts, values = without_outliers(parts, known, limits)
    return parts, limits, values


def settled(plan: Plan, inputs: Inputs) -> Plan:
    """Plan anew with the prior that the pixels ask for, where the task lets them choose."""
    from napari_dip.run.plan import with_prior

    prior, why = plan.recipe.task.settled(plan.budget.prior, inputs.known)
    if inputs.layout != plan.layout:
        note = TOGETHER.format(axis=inputs.layout.grid[0])
        plan = replace(plan, layout=inputs.layout, notes=(*plan.notes, note))
        return with_prior(plan, prior, why)
    return plan if not why else with_prior(plan, prior, why)


def trusting(plan: Plan, calibration: Calibration) -> tuple[Plan, Calibration]:
    """Plan anew with the prior that suits how well the noise is known."""
    from napari_dip.run.plan import with_prior

    kept = [c for c in range(len(calibration.noise)) if c not in calibration.constant]
    doubted = any(calibration.noise[c].doubt for c in kept)
    # the offset is the mean of the picture
    levels = [noise_variance(calibration.noise[c], calibration.offset[c]) ** 0.5 for c in kept]
    weak = any(one < WEAK_NOISE * calibration.scale[c] for one, c in zip(levels, kept, strict=True))
    prior, why = plan.recipe.task.trusting(plan.budget.prior, doubted=doubted, weak=weak)
    if not why:
        return plan, calibration
    return with_prior(plan, prior, why), replace(calibration, prior=prior)


def _range(plane: Planes) -> tuple[float, float]:
    """Offset and scale that bring the bulk of the pixels to a range of one."""
    if not plane.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(plane, ROBUST))
    if high <= low:  # almost all pixels alike: a few bright points on black
        low, high = float(plane.min()), float(plane.max())
    return float(plane.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))
