"""Images that come with the package; LICENSE.txt beside them says whose they are.

Decided here: which images are shipped, and how each task's example is degraded from them. All is
drawn with fixed seeds, so that each sample is the same on every computer. User interfaces import
this package; it imports nothing else of napari-dip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

#: Two exposures of the same mitochondria, uint8 (2, 320, 320): [0] is a noisy single shot,
#: [1] a long exposure to compare with.
MITOCHONDRIA = Path(__file__).with_name("mitochondria.tif")
#: Mitochondria and nucleus of one cell, uint16 (C, Y, X) = (2, 192, 192), hardly noisy.
TWO_CHANNELS = Path(__file__).with_name("two_channels.tif")
#: Nuclei that wander, uint16 (T, Y, X) = (8, 130, 130), hardly noisy.
NUCLEI_MOVIE = Path(__file__).with_name("nuclei_movie.tif")
#: Cell walls of an embryo, uint8 (Z, Y, X) = (16, 112, 109), hardly noisy.
EMBRYO_STACK = Path(__file__).with_name("embryo_stack.tif")
#: Photons at the brightest pixel, as in the benchmark of stacks and movies.
PEAK_PHOTONS = 30.0
#: Standard deviation of the read noise in photons, as in the benchmark of stacks and movies.
READ_NOISE = 2.0
#: Photons at the brightest pixel of the channel that is restored with a guide. With 5, hidden
#: pixels are predicted as well without it.
WEAK_PEAK_PHOTONS = 2.0
#: Brightness of the nucleus in the guide, relative to the mitochondria.
GUIDE_NUCLEUS = 0.5
#: Grey values of the brightest mitochondria in the guide, as of a 10-bit camera.
GUIDE_PEAK = 1000.0
#: Standard deviation of the blur, in pixels.
BLUR_STD = 2.0
#: Radius of the PSF of the blur, in pixels.
PSF_RADIUS = 8
#: Photons at the brightest pixel of the blurred image.
BLURRED_PEAK_PHOTONS = 400.0
#: Number of scratches in a sample.
SCRATCH_COUNT = 4
#: Half width of a scratch, in pixels.
SCRATCH_HALF_WIDTH = 1.5
#: Number of grains of dust in a sample.
GRAIN_COUNT = 14
#: Range of the radii of grains of dust, in pixels.
GRAIN_RADII = (2.0, 6.0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DegradedSample:
    """The inputs of a task, and the truth.

    Attributes
    ----------
    name : str
        Name of the image's layer.
    image : ndarray
    axes : str
    truth : ndarray
        The image without degradation, on its grid or on the finer one of the result.
    extra_inputs : mapping of str to ndarray
        The extra inputs of the task, by name.
    """

    name: str
    image: npt.NDArray[Any]
    axes: str
    truth: npt.NDArray[Any]
    extra_inputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def make_masked_sample() -> DegradedSample:
    """Return mitochondria under scratches (1) and dust (2) of the slide."""
    truth = _read_mitochondria()
    mask, rng = np.zeros(truth.shape, np.uint8), np.random.default_rng(0)
    (rows, columns), side = np.indices(truth.shape), len(truth)
    for _ in range(SCRATCH_COUNT):
        centre, angle = rng.uniform(0.2, 0.8, 2) * side, rng.uniform(0, np.pi)
        distance = (rows - centre[0]) * np.cos(angle) - (columns - centre[1]) * np.sin(angle)
        mask[np.abs(distance) < SCRATCH_HALF_WIDTH] = 1
    for _ in range(GRAIN_COUNT):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(*GRAIN_RADII)
        mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = 2
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
    clean = _read_mitochondria().astype(np.float64)
    offsets = np.arange(-PSF_RADIUS, PSF_RADIUS + 1)
    profile = np.exp(-(offsets**2) / (2 * BLUR_STD**2))
    profile /= profile.sum()
    light = clean  # larger than the sample, so that light comes in from outside
    for axis in (0, 1):
        light = np.apply_along_axis(np.convolve, axis, light, profile, "valid")
    gain = light.max() / BLURRED_PEAK_PHOTONS
    noisy = gain * np.random.default_rng(0).poisson(light / gain)
    truth = clean[PSF_RADIUS:-PSF_RADIUS, PSF_RADIUS:-PSF_RADIUS].astype(np.float32)
    extra_inputs = {"psf": np.outer(profile, profile).astype(np.float32)}
    return DegradedSample(
        name="blurred mitochondria",
        image=noisy.astype(np.float32),
        axes="YX",
        truth=truth,
        extra_inputs=extra_inputs,
    )


def make_weak_channel_sample() -> DegradedSample:
    """Return mitochondria in few photons, and a clean channel as a guide.

    The guide is made from both channels, as a stain of the whole cell looks: mitochondria with
    other contrast (square root), and the nucleus.
    """
    weak, nucleus = _read(TWO_CHANNELS).astype(np.float64)
    truth = weak / weak.max() * WEAK_PEAK_PHOTONS
    noisy = np.random.default_rng(0).poisson(truth).astype(np.uint16)
    nucleus = (nucleus - nucleus.min()) / np.ptp(nucleus)
    guide = GUIDE_PEAK * (np.sqrt(weak / weak.max()) + GUIDE_NUCLEUS * nucleus)
    extra_inputs = {"guide": np.rint(guide).astype(np.uint16)}
    return DegradedSample(
        name="weak channel",
        image=noisy,
        axes="YX",
        truth=truth.astype(np.float32),
        extra_inputs=extra_inputs,
    )


def make_movie_sample() -> DegradedSample:
    """Return moving nuclei in few photons."""
    return _make_dim_sample("noisy nuclei", NUCLEI_MOVIE, "TYX")


def make_stack_sample() -> DegradedSample:
    """Return an embryo's cell walls in few photons."""
    return _make_dim_sample("noisy embryo", EMBRYO_STACK, "ZYX")


def _make_dim_sample(name: str, path: Path, axes: str) -> DegradedSample:
    truth = _read(path).astype(np.float64)
    truth = (truth - truth.min()) / (truth.max() - truth.min()) * PEAK_PHOTONS
    rng = np.random.default_rng(0)
    noisy = rng.poisson(truth) + rng.normal(0, READ_NOISE, truth.shape)
    return DegradedSample(
        name=name, image=noisy.astype(np.float32), axes=axes, truth=truth.astype(np.float32)
    )


def _read_mitochondria() -> npt.NDArray[np.uint16]:
    """Return the channel of mitochondria, (192, 192)."""
    return np.asarray(_read(TWO_CHANNELS)[0], np.uint16)


def _read(path: Path) -> npt.NDArray[Any]:
    import tifffile

    return np.asarray(tifffile.imread(path))
