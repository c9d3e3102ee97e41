"""The shipped images, spoilt as each task expects them, with the truth to compare with.

Everything is drawn with fixed seeds, so that each sample is the same on every computer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.samples import EMBRYO_STACK, NUCLEI_MOVIE, TWO_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt

#: Photons at the brightest pixel, and the standard deviation of a camera's read noise beside them:
#: a dim recording, as the shared benchmark of stacks and movies has it.
PHOTONS, READ_NOISE = 30.0, 2.0
#: Photons at the brightest pixel of the channel that needs a guide.
FEW_PHOTONS = 5.0
#: Standard deviation of the blur in pixels, half width of its PSF, and photons at the brightest.
BLUR, REACH, BLURRED_PHOTONS = 2.0, 8, 400.0
#: Scratches across the image, and their half width in pixels; grains of dust, and their radii.
SCRATCHES, SCRATCH_WIDTH, GRAINS, RADII = 4, 1.5, 14, (2.0, 6.0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DegradedSample:
    """What a task gets, and what it should come near to.

    Attributes
    ----------
    name : str
        Of the image's layer.
    image : ndarray
    axes : str
    truth : ndarray
        On the image's grid, or on the finer one of the result.
    extra_inputs : mapping of str to ndarray
        The task's further inputs, by name.
    """

    name: str
    image: npt.NDArray[Any]
    axes: str
    truth: npt.NDArray[Any]
    extra_inputs: Mapping[str, npt.NDArray[Any]] = field(
        default_factory=lambda: MappingProxyType({})
    )


def make_masked_sample() -> DegradedSample:
    """Return mitochondria under scratches (1) and dust (2) of the slide."""
    truth = _read_mitochondria()
    mask, rng = np.zeros(truth.shape, np.uint8), np.random.default_rng(0)
    (down, right), side = np.indices(truth.shape), len(truth)
    for _ in range(SCRATCHES):
        middle, angle = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0, np.pi)
        off = (down - middle[0]) * np.cos(angle) - (right - middle[1]) * np.sin(angle)
        mask[np.abs(off) < SCRATCH_WIDTH] = 1
    for _ in range(GRAINS):
        middle, radius = rng.uniform(0, side, 2), rng.uniform(*RADII)
        mask[(down - middle[0]) ** 2 + (right - middle[1]) ** 2 < radius**2] = 2
    return DegradedSample(
        name="scratched mitochondria",
        image=np.where(mask, 0, truth),
        axes="YX",
        truth=truth,
        extra_inputs={"mask": mask},
    )


def make_binned_sample() -> DegradedSample:
    """Return mitochondria in pixels that are twice as coarse, as a camera bins them."""
    truth = _read_mitochondria()
    half = len(truth) // 2
    binned = truth.reshape(half, 2, half, 2).mean((1, 3))
    return DegradedSample(
        name="coarse mitochondria", image=binned.astype(np.float32), axes="YX", truth=truth
    )


def make_blurred_sample() -> DegradedSample:
    """Return mitochondria under a Gaussian blur and photon noise, and the PSF that made it."""
    whole = _read_mitochondria().astype(np.float64)
    places = np.arange(-REACH, REACH + 1)
    line = np.exp(-(places**2) / (2 * BLUR**2))
    line /= line.sum()
    light = whole  # what comes in from outside is in it
    for axis in (0, 1):
        light = np.apply_along_axis(np.convolve, axis, light, line, "valid")
    gain = light.max() / BLURRED_PHOTONS
    shot = gain * np.random.default_rng(0).poisson(light / gain)
    truth = whole[REACH:-REACH, REACH:-REACH].astype(np.float32)
    others = {"psf": np.outer(line, line).astype(np.float32)}
    return DegradedSample(
        name="blurred mitochondria",
        image=shot.astype(np.float32),
        axes="YX",
        truth=truth,
        extra_inputs=others,
    )


def make_weak_channel_sample() -> DegradedSample:
    """Return mitochondria in a handful of photons, beside the clean channel of the nucleus."""
    weak, guide = _read(TWO_CHANNELS).astype(np.float64)
    truth = weak / weak.max() * FEW_PHOTONS
    shot = np.random.default_rng(0).poisson(truth).astype(np.uint16)
    others = {"guide": guide.astype(np.uint16)}
    return DegradedSample(
        name="weak channel",
        image=shot,
        axes="YX",
        truth=truth.astype(np.float32),
        extra_inputs=others,
    )


def make_movie_sample() -> DegradedSample:
    """Return moving nuclei in few photons."""
    return _make_dim_sample("noisy nuclei", NUCLEI_MOVIE, "TYX")


def make_stack_sample() -> DegradedSample:
    """Return an embryo's cell walls in few photons."""
    return _make_dim_sample("noisy embryo", EMBRYO_STACK, "ZYX")


#: Samples that are made here, by the key that napari and the pages know them by.
SAMPLE_MAKERS: Mapping[str, Callable[[], DegradedSample]] = MappingProxyType(
    {
        "scratched": make_masked_sample,
        "coarse": make_binned_sample,
        "blurred": make_blurred_sample,
        "weak_channel": make_weak_channel_sample,
        "movie": make_movie_sample,
        "stack": make_stack_sample,
    }
)


def _make_dim_sample(name: str, path: Path, axes: str) -> DegradedSample:
    truth = _read(path).astype(np.float64)
    truth = (truth - truth.min()) / (truth.max() - truth.min()) * PHOTONS
    rng = np.random.default_rng(0)
    shot = rng.poisson(truth) + rng.normal(0, READ_NOISE, truth.shape)
    return DegradedSample(
        name=name, image=shot.astype(np.float32), axes=axes, truth=truth.astype(np.float32)
    )


def _read_mitochondria() -> npt.NDArray[np.uint16]:
    """Return the channel of mitochondria, (192, 192)."""
    return np.asarray(_read(TWO_CHANNELS)[0], np.uint16)


def _read(path: Path) -> npt.NDArray[Any]:
    import tifffile

    return np.asarray(tifffile.imread(path))
