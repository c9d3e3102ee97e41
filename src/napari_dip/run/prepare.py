"""Read the pixels once: content gate, normalisation, noise, hidden block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.engine.noise import NoiseEstimate
    from napari_dip.run.plan import Plan

    Planes = npt.NDArray[np.float32]

#: Percentiles that span the image without its hot and dead pixels.
ROBUST = (0.5, 99.5)
#: Share of the pixels that judging may take from the fit, as a rule and at most: 4 % of a
#: 512 x 512 image are 10,000 judges, whose mean loss is sure to 0.02.
HELD_OUT_SHARE = 0.04
MOST_HELD_OUT = 0.25
#: Fewest held-out pixels that tell a better picture from a worse one.
LEAST_HELD_OUT = 48


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
        Size of hidden blocks and of the guard band around a judging pixel, along Y and X.
    held_out_share : float
    constant : tuple of int
        Channels that hold one value only; they are handed back untouched.
    model : str
        "gaussian" or "poisson-gaussian".
    prior, why : str
        Which prior runs, and why.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    noise: tuple[NoiseEstimate, ...]
    block: tuple[int, int]
    held_out_share: float
    constant: tuple[int, ...]
    model: str
    prior: str
    why: str


def to_planes(array: npt.NDArray[Any], axes: str) -> Planes:
    """Reorder an image to (C, Y, X) float32; axes of one element vanish."""
    order = sorted(range(len(axes)), key=lambda axis: "TZCSYX".index(axes[axis]))
    moved = np.transpose(array, order)
    planes = moved.reshape(-1, *moved.shape[-2:])
    return np.array(planes, dtype=np.float32, order="C")  # a copy: torch shares memory


def from_planes(planes: npt.NDArray[Any], axes: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Undo `to_planes` for an image of that shape."""
    order = sorted(range(len(axes)), key=lambda axis: "TZCSYX".index(axes[axis]))
    moved = planes.reshape([shape[axis] for axis in order])
    return np.ascontiguousarray(np.transpose(moved, np.argsort(order)))


def check_content(array: npt.NDArray[Any], name: str) -> Refusal | None:
    """Say no to pixels that cannot be restored, whatever the header promised."""
    total = array.size
    if array.dtype.kind == "f":
        if nans := int(np.isnan(array).sum()):
            return refusal("pixels-nan", count=nans, total=total, name=name)
        if infinite := int(np.isinf(array).sum()):
            return refusal("pixels-infinite", count=infinite, total=total, name=name)
    low, high = array.min(), array.max()
    if low == high:
        return refusal("pixels-constant", total=total, name=name, value=low)
    span = float(high) - float(low)
    largest = max(abs(float(low)), abs(float(high)))
    # squares must stay finite, and a step must survive beside the offset, in single precision
    if not 1e-18 < span < 1e18 or span < 16 * float(np.spacing(np.float32(largest))):
        return refusal("pixels-range", name=name, low=low, high=high)
    return None


def prepare(plan: Plan, array: npt.NDArray[Any]) -> tuple[Calibration, Planes] | Refusal:
    """Measure all that the fits need to know.

    Parameters
    ----------
    plan : Plan
    array : ndarray
        In the axes and shape of `plan.source`.

    Returns
    -------
    (Calibration, planes) or Refusal
        Planes are (C, Y, X) float32 in the image's units.
    """
    from napari_dip.engine.noise import hidden_block

    if no := check_content(array, plan.source.name):
        return no
    planes = to_planes(array, plan.source.axes)
    step = 1.0 if array.dtype.kind in "iu" else 0.0
    constant = tuple(c for c, plane in enumerate(planes) if plane.min() == plane.max())
    offset, scale = zip(*(_range(plane) for plane in planes), strict=True)
    if plan.recipe.task.together(plan.source):  # a dark channel must not be blown up
        scale = (max(scale),) * len(scale)
    noise = tuple(_noise(plane, step, plan) for plane in planes)
    varied = [one for c, one in enumerate(noise) if c not in constant]
    block = hidden_block(varied, plan.source.grid)
    judges = LEAST_HELD_OUT * block[0] * block[1] / planes[0].size
    calibration = Calibration(
        offset=tuple(offset),
        scale=tuple(scale),
        noise=noise,
        block=block,
        held_out_share=min(MOST_HELD_OUT, max(HELD_OUT_SHARE, judges)),
        constant=constant,
        model="gaussian" if all(one.gain == 0 for one in varied) else "poisson-gaussian",
        prior=plan.budget.prior,
        why=_why(plan.recipe.task.prior, plan.budget.prior, block),
    )
    return calibration, planes


def _range(plane: Planes) -> tuple[float, float]:
    """Offset and scale that bring the bulk of the pixels to a range of one."""
    low, high = (float(value) for value in np.percentile(plane, ROBUST))
    if high <= low:  # almost all pixels alike: a few bright points on black
        low, high = float(plane.min()), float(plane.max())
    return float(plane.mean(dtype=np.float64)), max(high - low, float(np.finfo(np.float32).tiny))


def _noise(plane: Planes, step: float, plan: Plan) -> NoiseEstimate:
    """Measure one channel's noise, and let the user's own figures overrule."""
    from dataclasses import replace

    import torch

    from napari_dip.engine.noise import measure_noise

    task = plan.recipe.task
    measured = measure_noise(torch.from_numpy(plane)[None], step)
    dark, middle = float(np.percentile(plane, 1)), float(plane.mean(dtype=np.float64))
    level = max(measured.gain * middle + measured.intercept, measured.floor)
    at_dark = max(measured.gain * dark + measured.intercept, measured.floor)
    gain = measured.gain
    if task.noise == "gaussian":
        gain, at_dark = 0.0, level
    elif task.noise == "poisson-gaussian" and gain == 0 and middle > dark:
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


def _why(asked: str, prior: str, block: tuple[int, int]) -> str:
    """Say why this prior runs, and how it hides."""
    chosen = "you chose it" if asked != "auto" else "it is what 'automatic' takes for denoising"
    if prior != "blind-spot":
        return chosen
    if block == (1, 1):
        return f"{chosen}; single pixels are hidden, since the noise differs from pixel to pixel"
    height, width = block
    return (
        f"{chosen}; blocks of {width} × {height} pixels are hidden, "
        "since neighbouring pixels share noise"
    )
