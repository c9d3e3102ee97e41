"""Small inputs of the recipes: crops of the bundled samples, and seeded synthetic images."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

import napari_dip as dip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Pixels = np.ndarray[Any, Any]

SIDE = 32


@dataclass(frozen=True)
class Inputs:
    """Inputs of a recipe.

    Attributes
    ----------
    image : ndarray
    axes : str
    others : mapping of str to ndarray
        Extra inputs, by the names of the task.
    other_images : tuple of ndarray
        Further images, where a folder of them is restored.
    """

    image: Pixels
    axes: str = "YX"
    others: Mapping[str, Pixels] = field(default_factory=dict)
    other_images: tuple[Pixels, ...] = ()


def make_scene(height: int = SIDE, width: int = SIDE, phase: float = 0.0) -> Pixels:
    """Make smooth hills with a sharp square, from about 40 to 160."""
    y, x = np.mgrid[:height, :width]
    hills = 100 + 40 * np.sin(x / 5 + phase) * np.cos(y / 7 + phase)
    hills[height // 4 : height // 2, width // 4 : width // 2] += 20
    return hills


def make_exposure(seed: int, *size: int, phase: float = 0.0) -> Pixels:
    """Simulate a camera of gain 2, read noise 3 and offset 100."""
    rng = np.random.default_rng(seed)
    scene = make_scene(*size, phase=phase)
    counts = 2 * rng.poisson(scene / 2) + rng.normal(0, 3, scene.shape) + 100
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def camera() -> Inputs:
    return Inputs(make_exposure(0))


def mitochondria() -> Inputs:
    """Crop a real single exposure, 8 bit."""
    return Inputs(_crop(read_sample("mitochondria")[0], 30, 50))


def two_exposures() -> Inputs:
    first, second = (_crop(plane, 30, 50) for plane in read_sample("mitochondria"))
    return Inputs(first, others={"second": second})


def oversampled() -> Inputs:
    """Make an oversampled image with correlated noise, for fits at half resolution."""
    rng = np.random.default_rng(3)
    coarse = 100 + 30 * np.sin(np.arange(48) / 15)[:, None] * np.cos(np.arange(48) / 18)
    noise = rng.normal(0, 6, (50, 50))
    correlated_noise = sum(noise[y : y + 48, x : x + 48] for y in range(3) for x in range(3)) / 3
    return Inputs((coarse + correlated_noise).astype(np.float32))


def colours() -> Inputs:
    """Draw red, green and blue, 8 bit."""
    rng = np.random.default_rng(4)
    scene = np.stack([make_scene(32, 32, phase) for phase in (0.0, 0.4, 0.9)], -1)
    return Inputs(np.clip(rng.normal(scene, 12), 0, 255).astype(np.uint8), "YXS")


def channels() -> Inputs:
    pixels = read_sample("two_channels")[:, 60:92, 60:92].astype(np.float64)
    photons = 40 * pixels / pixels.max((1, 2), keepdims=True)
    return Inputs(np.random.default_rng(5).poisson(photons).astype(np.uint16), "CYX")


def movie() -> Inputs:
    return Inputs(_draw_photons(read_sample("nuclei_movie")[:4, 40:72, 40:72], 6), "TYX")


def long_movie() -> Inputs:
    """Take enough frames for joint training by default."""
    frames = read_sample("nuclei_movie")[:, 40:64, 40:64]
    return Inputs(_draw_photons(np.concatenate([frames, frames[::-1]]), 7), "TYX")


def stack() -> Inputs:
    return Inputs(_draw_photons(read_sample("embryo_stack")[:6, 30:54, 30:54], 8), "ZYX")


def movie_of_stacks() -> Inputs:
    """Take two stacks, each of the fewest planes of a volume."""
    planes = read_sample("embryo_stack")[:8, 30:54, 30:54].reshape(2, 4, 24, 24)
    return Inputs(_draw_photons(planes, 9), "TZYX")


def wide_plane() -> Inputs:
    """Make a plane larger than the smallest tile."""
    return Inputs(make_exposure(10, 32, 176))


def holes() -> Inputs:
    """Mark scratches by different labels."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:11, 4:24], mask[15:28, 20:23], mask[26:29, 6:9] = 1, 2, 3
    return Inputs(make_exposure(11), others={"mask": mask})


def missing_pixels() -> Inputs:
    """Mark half of the pixels as missing."""
    mask = (np.random.default_rng(12).random((SIDE, SIDE)) < 0.5).astype(np.uint8)
    return Inputs(make_exposure(12), others={"mask": mask})


def nan_pixels() -> Inputs:
    pixels = make_exposure(13).astype(np.float32)
    pixels[8:12, 8:20] = np.nan
    return Inputs(pixels)


def masked_colours() -> Inputs:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:12, 6:26] = 1
    return Inputs(colours().image, "YXS", {"mask": mask})


def missing_plane() -> Inputs:
    """Mark a whole plane of a stack as missing."""
    mask = np.zeros((6, 24, 24), np.uint8)
    mask[2] = 1
    return Inputs(stack().image, "ZYX", {"mask": mask})


def scratched_stack() -> Inputs:
    mask = np.zeros((6, 24, 24), np.uint8)
    mask[:, 8:11, 4:20] = 1
    return Inputs(stack().image, "ZYX", {"mask": mask})


def blurred() -> Inputs:
    """Blur by 5 x 5 pixels."""
    psf = np.outer(*[np.array([1, 4, 6, 4, 1], np.float64)] * 2)
    rng = np.random.default_rng(14)
    return Inputs(
        rng.poisson(_convolve_valid(make_scene(36, 36), psf / psf.sum())).astype(np.uint16)
    )


def blurred_with_psf() -> Inputs:
    psf = np.outer(*[np.array([1, 4, 6, 4, 1], np.float32)] * 2)
    return Inputs(blurred().image, others={"psf": psf})


def bead_stack() -> Inputs:
    """Make a stack of bright points, for PSFs of three axes."""
    rng = np.random.default_rng(15)
    light = np.full((8, 24, 24), 20.0)
    for z, y, x in zip(*(rng.integers(2, side - 2, 10) for side in light.shape), strict=True):
        light[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] += 200
    return Inputs(rng.poisson(light).astype(np.uint16), "ZYX")


def guide() -> Inputs:
    """Make a noisy image, and a clean one of the same place and other brightness."""
    return Inputs(make_exposure(16), others={"guide": (300 - make_scene()).astype(np.float32)})


def two_channel_guide() -> Inputs:
    guide = np.stack([make_scene(), make_scene()[::-1]]).astype(np.float32)
    return Inputs(make_exposure(16), others={"guide": guide})


def guided_stack() -> Inputs:
    """Make a stack, with its clean planes as the guide."""
    guide = read_sample("embryo_stack")[:6, 30:54, 30:54].astype(np.float32)
    return Inputs(stack().image, "ZYX", {"guide": guide})


def guided_movie() -> Inputs:
    """Make a movie whose frames share one guide."""
    guide = read_sample("nuclei_movie")[:4, 40:72, 40:72].mean(0).astype(np.float32)
    return Inputs(movie().image, "TYX", {"guide": guide})


def shifted_guide() -> Inputs:
    """Shift the guide by some pixels."""
    guide = np.roll(make_scene(48, 48), (2, -1), (0, 1)).astype(np.float32)
    return Inputs(make_exposure(17, 48, 48), others={"guide": guide})


def camera_maps() -> Inputs:
    """Simulate a camera whose pixels have their own offset, gain and read noise."""
    rng = np.random.default_rng(18)
    noise = rng.lognormal(np.log(1.5), 0.15, (SIDE, SIDE))
    noise[rng.random(noise.shape) < 0.02] = 25
    offset, gain = rng.normal(100, 3, noise.shape), rng.normal(2, 0.06, noise.shape)
    counts = offset + gain * rng.poisson(make_scene() / 4) + rng.normal(0, 1, noise.shape) * noise
    maps = {"offset_map": offset, "gain_map": gain, "noise_map": noise}
    maps = {name: pixels.astype(np.float32) for name, pixels in maps.items()}
    return Inputs(np.clip(np.rint(counts), 0, 65535).astype(np.uint16), others=maps)


def jpeg() -> Inputs:
    """Compress by JPEG."""
    return Inputs(_compress_jpeg(np.clip(make_scene(48, 48), 0, 255).astype(np.uint8)))


def jpeg_colours() -> Inputs:
    rgb = np.stack([make_scene(48, 48, phase) for phase in (0.0, 0.4, 0.9)], -1)
    return Inputs(_compress_jpeg(np.clip(rgb, 0, 255).astype(np.uint8)), "YXS")


def salt_and_pepper() -> Inputs:
    rng = np.random.default_rng(19)
    pixels = np.rint(rng.normal(make_scene(48, 48), 5))
    hit = rng.random(pixels.shape) < 0.1
    pixels[hit] = np.where(rng.random(int(hit.sum())) < 0.5, 0, 255)
    return Inputs(np.clip(pixels, 0, 255).astype(np.uint8))


def stripes() -> Inputs:
    rng = np.random.default_rng(20)
    pixels = rng.normal(make_scene(48, 48), 5) + rng.normal(0, 15, (48, 1))
    return Inputs(pixels.astype(np.float32))


def speckle() -> Inputs:
    pixels = make_scene(48, 48) * np.random.default_rng(21).gamma(4, 1 / 4, (48, 48))
    return Inputs(pixels.astype(np.float32))


def network_input() -> Inputs:
    """Make a plane of the size that the small network takes."""
    return Inputs(np.rint(make_scene(32, 32)).astype(np.uint8))


def slow_plane() -> Inputs:
    """Make a plane whose fit takes seconds, so that it can be killed."""
    return Inputs(make_exposure(22, 64, 63))


def two_files() -> Inputs:
    """Make exposures of two places."""
    first, *rest = (make_exposure(23 + seed, 32, 32, phase=seed / 2) for seed in range(2))
    return Inputs(first, other_images=tuple(rest))


def series() -> Inputs:
    """Make enough exposures for joint training of a folder."""
    first, *rest = (make_exposure(30 + seed, 24, 24, phase=seed / 3) for seed in range(8))
    return Inputs(first, other_images=tuple(rest))


def masked_plane() -> Inputs:
    mask = np.zeros((72, 72), np.uint8)
    mask[20:26, 16:50] = 1
    return Inputs(make_exposure(42, 72, 72), others={"mask": mask})


def wide_stack() -> Inputs:
    """Make planes larger than the smallest tile."""
    return Inputs(np.stack([make_exposure(50 + seed, 32, 160) for seed in range(2)]), "ZYX")


@cache
def read_sample(name: str) -> Pixels:
    """Read a sample of the package."""
    (path,) = Path(dip.__file__).parent.rglob(f"{name}.tif")
    pixels = np.asarray(tifffile.imread(path))
    pixels.setflags(write=False)
    return pixels


def _crop(plane: Pixels, top: int, left_edge: int) -> Pixels:
    return np.ascontiguousarray(plane[top : top + SIDE, left_edge : left_edge + SIDE])


def _draw_photons(pixels: Pixels, seed: int) -> Pixels:
    """Simulate an exposure of few photons."""
    photons = 30 * pixels / pixels.max()
    return np.random.default_rng(seed).poisson(photons).astype(np.uint16)


def _convolve_valid(plane: Pixels, psf: Pixels) -> Pixels:
    """Convolve, without the border."""
    size = len(psf)
    height, width = (side - size + 1 for side in plane.shape)
    total = np.zeros((height, width))
    for y in range(size):
        for x in range(size):
            total += psf[y, x] * plane[y : y + height, x : x + width]
    return total


def _compress_jpeg(pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=15, subsampling=0)
    return np.asarray(Image.open(file)).copy()


#: Functions that make inputs, by their names in recipes.
MAKERS: dict[str, Callable[[], Inputs]] = {
    maker.__name__.replace("_", " "): maker
    for maker in (
        blurred,
        blurred_with_psf,
        camera,
        camera_maps,
        channels,
        colours,
        jpeg,
        jpeg_colours,
        movie_of_stacks,
        two_files,
        network_input,
        guide,
        two_channel_guide,
        guided_stack,
        guided_movie,
        shifted_guide,
        masked_colours,
        masked_plane,
        missing_plane,
        holes,
        long_movie,
        slow_plane,
        mitochondria,
        movie,
        nan_pixels,
        oversampled,
        salt_and_pepper,
        bead_stack,
        missing_pixels,
        scratched_stack,
        series,
        speckle,
        stack,
        stripes,
        two_exposures,
        wide_plane,
        wide_stack,
    )
}
