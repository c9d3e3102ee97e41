"""Small pictures that recipes are run on: crops of the bundled samples, and drawn ones, seeded."""

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
class Picture:
    """What a recipe is run on.

    Attributes
    ----------
    image : ndarray
    axes : str
    others : mapping of str to ndarray
        Further inputs, by the names that the task has for them.
    other_images : tuple of ndarray
        Further images, where a folder of them is restored.
    """

    image: Pixels
    axes: str = "YX"
    others: Mapping[str, Pixels] = field(default_factory=dict)
    other_images: tuple[Pixels, ...] = ()


def waves(height: int = SIDE, width: int = SIDE, phase: float = 0.0) -> Pixels:
    """Draw smooth hills with a sharp square among them, from about 40 to 160."""
    y, x = np.mgrid[:height, :width]
    hills = 100 + 40 * np.sin(x / 5 + phase) * np.cos(y / 7 + phase)
    hills[height // 4 : height // 2, width // 4 : width // 2] += 20
    return hills


def shot(seed: int, *size: int, phase: float = 0.0) -> Pixels:
    """Take what a camera of gain 2, read noise 3 and offset 100 sees of it."""
    rng = np.random.default_rng(seed)
    scene = waves(*size, phase=phase)
    counts = 2 * rng.poisson(scene / 2) + rng.normal(0, 3, scene.shape) + 100
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def camera() -> Picture:
    return Picture(shot(0))


def mitochondria() -> Picture:
    """Crop a real single shot, 8 bit."""
    return Picture(_crop(sample("mitochondria")[0], 30, 50))


def two_shots() -> Picture:
    first, second = (_crop(plane, 30, 50) for plane in sample("mitochondria"))
    return Picture(first, others={"second": second})


def oversampled() -> Picture:
    """Blur more finely than pixels are, so that a fit at half the size may do."""
    rng = np.random.default_rng(3)
    coarse = 100 + 30 * np.sin(np.arange(48) / 15)[:, None] * np.cos(np.arange(48) / 18)
    noise = rng.normal(0, 6, (50, 50))
    correlated_noise = sum(noise[y : y + 48, x : x + 48] for y in range(3) for x in range(3)) / 3
    return Picture((coarse + correlated_noise).astype(np.float32))


def colours() -> Picture:
    """Draw red, green and blue, 8 bit."""
    rng = np.random.default_rng(4)
    scene = np.stack([waves(32, 32, phase) for phase in (0.0, 0.4, 0.9)], -1)
    return Picture(np.clip(rng.normal(scene, 12), 0, 255).astype(np.uint8), "YXS")


def channels() -> Picture:
    pixels = sample("two_channels")[:, 60:92, 60:92].astype(np.float64)
    photons = 40 * pixels / pixels.max((1, 2), keepdims=True)
    return Picture(np.random.default_rng(5).poisson(photons).astype(np.uint16), "CYX")


def movie() -> Picture:
    return Picture(_dim(sample("nuclei_movie")[:4, 40:72, 40:72], 6), "TYX")


def long_movie() -> Picture:
    """Take as many frames as ask for one network by themselves."""
    frames = sample("nuclei_movie")[:, 40:64, 40:64]
    return Picture(_dim(np.concatenate([frames, frames[::-1]]), 7), "TYX")


def stack() -> Picture:
    return Picture(_dim(sample("embryo_stack")[:6, 30:54, 30:54], 8), "ZYX")


def film_of_stacks() -> Picture:
    """Put two stacks behind one another, each of the fewest planes of a volume."""
    planes = sample("embryo_stack")[:8, 30:54, 30:54].reshape(2, 4, 24, 24)
    return Picture(_dim(planes, 9), "TZYX")


def wide() -> Picture:
    """Draw what the least tile does not hold."""
    return Picture(shot(10, 32, 176))


def holes() -> Picture:
    """Scratch a picture, and mark the scratches by different labels."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:11, 4:24], mask[15:28, 20:23], mask[26:29, 6:9] = 1, 2, 3
    return Picture(shot(11), others={"mask": mask})


def scattered() -> Picture:
    """Leave out half of the pixels."""
    mask = (np.random.default_rng(12).random((SIDE, SIDE)) < 0.5).astype(np.uint8)
    return Picture(shot(12), others={"mask": mask})


def not_numbers() -> Picture:
    pixels = shot(13).astype(np.float32)
    pixels[8:12, 8:20] = np.nan
    return Picture(pixels)


def holed_colours() -> Picture:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:12, 6:26] = 1
    return Picture(colours().image, "YXS", {"mask": mask})


def holed_stack() -> Picture:
    """Take a whole plane out of a stack."""
    mask = np.zeros((6, 24, 24), np.uint8)
    mask[2] = 1
    return Picture(stack().image, "ZYX", {"mask": mask})


def scratched_stack() -> Picture:
    mask = np.zeros((6, 24, 24), np.uint8)
    mask[:, 8:11, 4:20] = 1
    return Picture(stack().image, "ZYX", {"mask": mask})


def blurred() -> Picture:
    """Blur by 5 x 5 pixels, with the PSF beside it."""
    psf = np.outer(*[np.array([1, 4, 6, 4, 1], np.float64)] * 2)
    rng = np.random.default_rng(14)
    return Picture(rng.poisson(_spread(waves(36, 36), psf / psf.sum())).astype(np.uint16))


def blurred_beside_its_psf() -> Picture:
    psf = np.outer(*[np.array([1, 4, 6, 4, 1], np.float32)] * 2)
    return Picture(blurred().image, others={"psf": psf})


def points_of_light() -> Picture:
    """Draw a stack of bright points in the dark, for PSFs of three axes."""
    rng = np.random.default_rng(15)
    light = np.full((8, 24, 24), 20.0)
    for z, y, x in zip(*(rng.integers(2, side - 2, 10) for side in light.shape), strict=True):
        light[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] += 200
    return Picture(rng.poisson(light).astype(np.uint16), "ZYX")


def guided() -> Picture:
    """Draw a noisy picture, and a clean one of the same place in another brightness."""
    return Picture(shot(16), others={"guide": (300 - waves()).astype(np.float32)})


def guided_by_channels() -> Picture:
    guide = np.stack([waves(), waves()[::-1]]).astype(np.float32)
    return Picture(shot(16), others={"guide": guide})


def guided_from_aside() -> Picture:
    """Move the guide by some pixels."""
    guide = np.roll(waves(48, 48), (2, -1), (0, 1)).astype(np.float32)
    return Picture(shot(17, 48, 48), others={"guide": guide})


def camera_maps() -> Picture:
    """Measure a picture by pixels that have offsets, gains and read noise of their own."""
    rng = np.random.default_rng(18)
    noise = rng.lognormal(np.log(1.5), 0.15, (SIDE, SIDE))
    noise[rng.random(noise.shape) < 0.02] = 25
    offset, gain = rng.normal(100, 3, noise.shape), rng.normal(2, 0.06, noise.shape)
    counts = offset + gain * rng.poisson(waves() / 4) + rng.normal(0, 1, noise.shape) * noise
    maps = {"offset_map": offset, "gain_map": gain, "noise_map": noise}
    kept = {name: pixels.astype(np.float32) for name, pixels in maps.items()}
    return Picture(np.clip(np.rint(counts), 0, 65535).astype(np.uint16), others=kept)


def compressed() -> Picture:
    """Save as JPEG and read again."""
    return Picture(_through_jpeg(np.clip(waves(48, 48), 0, 255).astype(np.uint8)))


def compressed_colours() -> Picture:
    rgb = np.stack([waves(48, 48, phase) for phase in (0.0, 0.4, 0.9)], -1)
    return Picture(_through_jpeg(np.clip(rgb, 0, 255).astype(np.uint8)), "YXS")


def peppered() -> Picture:
    rng = np.random.default_rng(19)
    pixels = np.rint(rng.normal(waves(48, 48), 5))
    hit = rng.random(pixels.shape) < 0.1
    pixels[hit] = np.where(rng.random(int(hit.sum())) < 0.5, 0, 255)
    return Picture(np.clip(pixels, 0, 255).astype(np.uint8))


def striped() -> Picture:
    rng = np.random.default_rng(20)
    pixels = rng.normal(waves(48, 48), 5) + rng.normal(0, 15, (48, 1))
    return Picture(pixels.astype(np.float32))


def speckled() -> Picture:
    pixels = waves(48, 48) * np.random.default_rng(21).gamma(4, 1 / 4, (48, 48))
    return Picture(pixels.astype(np.float32))


def for_a_network() -> Picture:
    """Draw a plane of the size that the small network takes."""
    return Picture(np.rint(waves(32, 32)).astype(np.uint8))


def longer() -> Picture:
    """Draw one that takes seconds to fit, so that there is time to end it."""
    return Picture(shot(22, 64, 63))


def folder() -> Picture:
    """Take two shots of different places."""
    first, *rest = (shot(23 + seed, 32, 32, phase=seed / 2) for seed in range(2))
    return Picture(first, other_images=tuple(rest))


def series() -> Picture:
    """Take as many shots as one network for all of a folder wants."""
    first, *rest = (shot(30 + seed, 24, 24, phase=seed / 3) for seed in range(8))
    return Picture(first, other_images=tuple(rest))


def holed_for_a_part() -> Picture:
    mask = np.zeros((72, 72), np.uint8)
    mask[20:26, 16:50] = 1
    return Picture(shot(42, 72, 72), others={"mask": mask})


def wide_stack() -> Picture:
    """Draw planes that the least tile does not hold."""
    return Picture(np.stack([shot(50 + seed, 32, 160) for seed in range(2)]), "ZYX")


@cache
def sample(name: str) -> Pixels:
    """Read a picture that comes with the package, wherever it lies in there."""
    (path,) = Path(dip.__file__).parent.rglob(f"{name}.tif")
    pixels = np.asarray(tifffile.imread(path))
    pixels.setflags(write=False)
    return pixels


def _crop(plane: Pixels, top: int, left_edge: int) -> Pixels:
    return np.ascontiguousarray(plane[top : top + SIDE, left_edge : left_edge + SIDE])


def _dim(pixels: Pixels, seed: int) -> Pixels:
    """Take a shot of few photons."""
    photons = 30 * pixels / pixels.max()
    return np.random.default_rng(seed).poisson(photons).astype(np.uint16)


def _spread(plane: Pixels, psf: Pixels) -> Pixels:
    """Blur, and keep what sees no border."""
    size = len(psf)
    height, width = (side - size + 1 for side in plane.shape)
    total = np.zeros((height, width))
    for y in range(size):
        for x in range(size):
            total += psf[y, x] * plane[y : y + height, x : x + width]
    return total


def _through_jpeg(pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=15, subsampling=0)
    return np.asarray(Image.open(file)).copy()


#: Makers of pictures, by the names that recipes have for them.
MAKERS: dict[str, Callable[[], Picture]] = {
    maker.__name__.replace("_", " "): maker
    for maker in (
        blurred,
        blurred_beside_its_psf,
        camera,
        camera_maps,
        channels,
        colours,
        compressed,
        compressed_colours,
        film_of_stacks,
        folder,
        for_a_network,
        guided,
        guided_by_channels,
        guided_from_aside,
        holed_colours,
        holed_for_a_part,
        holed_stack,
        holes,
        long_movie,
        longer,
        mitochondria,
        movie,
        not_numbers,
        oversampled,
        peppered,
        points_of_light,
        scattered,
        scratched_stack,
        series,
        speckled,
        stack,
        striped,
        two_shots,
        wide,
        wide_stack,
    )
}
