"""Noise-free scenes of the noise matrix: synthetic ones and photographs.

None of them was looked at when constants of the measurement were chosen: camera, coins, cell,
moon, brick, grass, gravel and the images of NAPARI_DIP_DATA are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage import data

if TYPE_CHECKING:
    from collections.abc import Callable

    Image = npt.NDArray[np.float64]
    DrawFunction = Callable[[int, np.random.Generator], Image]

#: Sides of the drawn scenes, by turns.
SIDES = (192, 256, 320)
#: Draws of each kind.
DRAWS = 2


def blobs(side: int, rng: np.random.Generator) -> Image:
    """Smooth spots of several sizes on black."""
    return sum(
        spots / spots.max()
        for spots in (
            gaussian_filter((rng.random((side, side)) > 1 - 0.3 / size**2).astype(float), size)
            for size in (3, 6, 12)
        )
    )


def filaments(side: int, rng: np.random.Generator) -> Image:
    """Thin curved lines, as of a cytoskeleton."""
    canvas = np.zeros((side, side))
    for _ in range(25):
        turn = gaussian_filter(rng.normal(0, 0.6, 4 * side), 12) + 1e-3
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(turn)
        y = rng.uniform(0, side) + np.cumsum(np.sin(angle)) * 0.5
        x = rng.uniform(0, side) + np.cumsum(np.cos(angle)) * 0.5
        canvas[y.astype(int) % side, x.astype(int) % side] += rng.uniform(0.4, 1)
    return gaussian_filter(canvas, 1.2)


def cells(side: int, rng: np.random.Generator) -> Image:
    """Discs with a rim, a nucleus and grains, on background light."""
    y, x = np.mgrid[:side, :side]
    canvas = np.full((side, side), 0.1)
    for _ in range(side // 12):
        wide, at = rng.uniform(12, 28), rng.uniform(0, side, 2)
        apart = np.hypot(y - at[0], x - at[1]) / wide
        canvas = np.maximum(canvas, 0.35 * (apart < 1) + 0.4 * (apart < rng.uniform(0.3, 0.5)))
    grains = gaussian_filter(rng.normal(size=canvas.shape), 1.5)
    return gaussian_filter(canvas * (1 + 0.5 * grains * (canvas > 0.2)), 1)


def gradient(side: int, rng: np.random.Generator) -> Image:
    """Uneven light alone."""
    y, x = np.mgrid[:side, :side] / side
    return (x * rng.uniform(0.3, 1) + y * rng.uniform(0.3, 1) + (x - 0.4) * (y - 0.6)) ** 2


def fractal(side: int, rng: np.random.Generator) -> Image:
    """Texture whose amplitude falls as the frequency's power of 1.6."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]) + 1 / side
    return np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / f**1.6).real


def grating(side: int, rng: np.random.Generator) -> Image:
    """Stripes whose period grows from 6 to 40 pixels."""
    y, x = np.mgrid[:side, :side]
    angle = rng.uniform(0, np.pi)
    across = (np.cos(angle) * x + np.sin(angle) * y + side) / side
    return 1 + np.sin(2 * np.pi * side / rng.uniform(8, 16) * np.log(across + 0.5))


def letters(side: int, rng: np.random.Generator) -> Image:
    """Sharp strokes in rows, as of print."""
    canvas = np.ones((side, side))
    for y in range(8, side - 16, 22):
        for x in range(8, side - 16, 14):
            for _ in range(3):
                row, column = rng.integers(0, 10, 2)
                if rng.random() < 0.5:
                    canvas[y + row : y + row + 3, x : x + 11] = 0
                else:
                    canvas[y : y + 13, x + column : x + column + 2] = 0
    return gaussian_filter(canvas, 0.6)


def beads(side: int, rng: np.random.Generator) -> Image:
    """Points of one size, few, on black."""
    canvas = np.zeros((side, side))
    at = rng.integers(0, side, (2, side // 4))
    canvas[at[0], at[1]] = rng.uniform(0.3, 1, len(at[0]))
    return gaussian_filter(canvas, 1.5)


def mosaic(side: int, rng: np.random.Generator) -> Image:
    """Even patches with sharp borders."""
    centres = rng.uniform(0, side, (40, 2))
    y, x = np.mgrid[:side, :side]
    near = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    return gaussian_filter(rng.random(40)[near], 0.7)


def membranes(side: int, rng: np.random.Generator) -> Image:
    """Bright borders of cells that fill the image."""
    far = rng.random((side, side)) > 60 / side**2
    depth = distance_transform_edt(far)
    ridge = np.hypot(*np.gradient(depth))
    return gaussian_filter(np.maximum(0, 1 - ridge) + 0.1 * (depth / depth.max()), 1)


DRAWN: tuple[DrawFunction, ...] = (
    blobs,
    filaments,
    cells,
    gradient,
    fractal,
    grating,
    letters,
    beads,
    mosaic,
    membranes,
)


def _photograph(name: str) -> Image:
    """Middle of an image of scikit-image, blurred by a pixel so that it holds no noise."""
    image = np.asarray(getattr(data, name)(), np.float64)
    image = image[..., 1] if image.ndim == 3 else image
    row, column = (max(0, (length - 288) // 2) for length in image.shape)
    return gaussian_filter(image[row : row + 288, column : column + 288], 1)


PHOTOGRAPHS = (
    "page",
    "immunohistochemistry",
    "hubble_deep_field",
    "chelsea",
    "rocket",
    "clock",
    "shepp_logan_phantom",
)


def list_scenes() -> dict[str, Callable[[], Image]]:
    """Name every scene; each is made when it is called, from 0 to 1."""

    def drawn(draw: DrawFunction, number: int) -> Callable[[], Image]:
        place = DRAWN.index(draw)
        side = SIDES[(number + place) % len(SIDES)]
        return lambda: _to_one(draw(side, np.random.default_rng([place, number])))

    by_name = {
        f"{draw_scene.__name__}-{n}": drawn(draw_scene, n)
        for n in range(DRAWS)
        for draw_scene in DRAWN
    }
    return by_name | {name: lambda name=name: _to_one(_photograph(name)) for name in PHOTOGRAPHS}


def _to_one(image: Image) -> Image:
    low, high = np.percentile(image, (0.1, 99.9))
    return np.clip((image - low) / max(high - low, 1e-9), 0, 1)
