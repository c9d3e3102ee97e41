"""A second measurement of the same object, as a further input of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.errors import refusal
from napari_dip.tasks.base import Input

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import Scene

#: What the dock and the command line ask for.
SECOND = Input(
    "second",
    "Second image of the same object",
    "Another shot of the same thing, unmoved: its noise is another, so the two together tell more "
    "than twice as much. Exposures may differ. Leave it out if there is one image only.",
    optional=True,
    measures=True,
)
#: Side of the blocks whose means are compared, in pixels: noise falls to an eighth, and what a
#: microscope shows mostly is as large.
BLOCK = 8
#: Least correlation of those means. It is 0.5 where the noise of a block's mean is as strong as
#: the picture, so that of a pixel eight times as strong, where nobody could tell.
ALIKE = 0.5
#: Most blocks that are compared; more would only make sure of what is sure.
MOST_BLOCKS = 20_000


def check_second(source: ImageSpec, second: ImageSpec) -> Refusal | None:
    """Say no to a second image of another size or kind, from the headers alone."""
    same_axes = source.guessed or second.guessed or source.axes == second.axes
    if second.shape == source.shape and same_axes:
        return None
    ours, theirs = (f"{' × '.join(map(str, one.shape))} ({one.axes})" for one in (source, second))
    return refusal("second-size", name=second.name, image=source.name, size=theirs, other=ours)


def admit_second(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], name: str, other: str
) -> Refusal | None:
    """Say no to a second image that is no second measurement of the same object.

    Parameters
    ----------
    first, second : ndarray
        (parts, C, *grid), in units of their own.
    name, other : str
        Of the second image and of the first.
    """
    import numpy as np

    if np.array_equal(first, second):
        return refusal("second-same", name=name, image=other)
    alike = [
        correlation
        for channel in range(first.shape[1])
        if (correlation := _alike(first[:, channel], second[:, channel])) is not None
    ]
    if alike and min(alike) < ALIKE:
        facts = {"name": name, "image": other, "found": f"{min(alike):.2f}", "least": f"{ALIKE}"}
        return refusal("second-other", **facts)
    return None


def pooled(scene: Scene) -> Scene:
    """Make one measurement of a scene's two: their mean, weighed by how sure each of them is.

    All that two measurements with normal noise tell of a picture is in that mean, so a network
    that is fed with it misses nothing. A line of variances stays one.

    Parameters
    ----------
    scene : Scene
        Comes back as it is if it has one measurement only.
    """
    from dataclasses import replace

    from napari_dip.engine.fidelity import NoiseVariance

    if len(scene.measurement) == 1:
        return scene
    noise, axes = scene.noise, tuple(range(2, scene.measurement.ndim))
    sure = 1 / noise.at(scene.measurement).mean(axes, keepdim=True)  # (B, C, 1, ...)
    weight = sure / sure.sum(0, keepdim=True)
    variances = (noise.gain, noise.intercept, noise.floor)
    mean = (weight * scene.measurement).sum(0, keepdim=True)
    total = NoiseVariance(*((weight**2 * one).sum(0, keepdim=True) for one in variances))
    level = float(total.at(mean).mean().sqrt())
    return replace(scene, measurement=mean, noise=total, noise_level=level)


def _alike(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float | None:
    """Correlation of the means of blocks; None where the first has nothing to be like."""
    x, y = (_block_means(one) for one in (first, second))
    if first.min() == first.max():  # such a channel is left as it is
        return None
    x, y = x - x.mean(), y - y.mean()
    power = float((x**2).sum() * (y**2).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else 0.0


def _block_means(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Means of blocks of (..., Y, X), evenly chosen if there are very many."""
    import numpy as np

    height, width = (side // BLOCK for side in volume.shape[-2:])
    planes = volume.reshape(-1, *volume.shape[-2:])[:, : height * BLOCK, : width * BLOCK]
    every = max(1, len(planes) * height * width // MOST_BLOCKS)
    some = planes[:: min(every, max(1, len(planes)))]
    blocks = some.reshape(len(some), height, BLOCK, width, BLOCK).astype(np.float64)
    return np.asarray(blocks.mean((2, 4))).ravel()
