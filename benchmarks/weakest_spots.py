"""How weak a spot or a line may be to stay in the result, against the limit that the report says.

Usage: python benchmarks/weakest_spots.py [spots | lines] [--preset instant]
Spots or lines of one, two and three pixels are planted in four synthetic scenes, with normal noise
and with photon noise. Lines are 20 pixels long, in any direction. Something planted is recalled if
the result holds at least half of its amplitude. That is the least-squares amplitude of its profile
in the difference of the results with and without what was planted, of the same noise. Recall is a
logistic curve of the logarithm of the peak, in standard deviations of the noise there; its middle
is the true limit. Invented is the share of places at which the result without anything planted
exceeds the scene by half of the said limit.
"""

from __future__ import annotations

import argparse
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

import napari_dip as dip
from napari_dip.engine.constants import FWHM_PER_SIGMA
from noise_matrix_scenes import cells, filaments, membranes
from shared_data import write

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

SIDE, NOISE_STD = 256, 3.0
#: Width at half of the height in pixels -> standard deviation of a spot's profile.
SPOT_STDS = {1: 0.0, 2: 0.8, 3: 1.3}
LINE_LENGTH = 20.0


class Shape(NamedTuple):
    """What is planted.

    Attributes
    ----------
    distance, reach : int
        Of two places, and of a place and the end of its window, in pixels.
    peaks : tuple of float
        In standard deviations of the noise.
    repeats, draws : int
        Of each peak in an image, and number of images.
    report_field : str
    """

    distance: int
    reach: int
    peaks: tuple[float, ...]
    repeats: int
    draws: int
    report_field: str


#: Few lines in an image: a network that sees many learns their shape.
SHAPES = {
    "spots": Shape(24, 7, (2, 3, 4, 5, 6, 7, 8, 10, 14, 20, 30), 5, 1, "min_spot_snr"),
    "lines": Shape(28, 13, (0.7, 1, 1.4, 2, 2.4, 2.8, 3.4, 4, 8, 30), 2, 4, "min_line_snr"),
}


class Planted(NamedTuple):
    """A spot or a line of a peak and a profile, in units of the noise there."""

    window: tuple[slice, slice]
    peak: float
    unit: float
    profile: Image

    def fit(self, image: Image) -> float:
        """Return its least-squares peak in an image."""
        product = (image[self.window] * self.profile).sum()
        return float(product / (self.unit * (self.profile**2).sum()))


@cache
def make_scenes() -> dict[str, Image]:
    """Return four scenes of 10 to 70 grey levels."""
    scenes = {"flat": np.full((SIDE, SIDE), 20.0)}
    for draw in (cells, filaments, membranes):
        scene = draw(SIDE, np.random.default_rng(5))
        scenes[draw.__name__] = 10 + 60 * (scene / np.percentile(scene, 99.5)).clip(0)
    return scenes


def make_profile(shape: str, width: int, angle: float) -> Image:
    """Return a spot or a line of height 1."""
    reach = SHAPES[shape].reach
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    if shape == "lines":
        along = np.cos(angle) * x + np.sin(angle) * y
        across = np.cos(angle) * y - np.sin(angle) * x
        beyond = (np.abs(along) - LINE_LENGTH / 2).clip(0)
        return np.exp(-(across**2 + beyond**2) / 2 * (FWHM_PER_SIGMA / width) ** 2)
    profile = ((y == 0) & (x == 0)).astype(float)
    profile = gaussian_filter(profile, SPOT_STDS[width]) if SPOT_STDS[width] else profile
    return profile / profile.max()


def find_middle(peaks: list[float], recalled: list[bool]) -> float:
    """Return the peak at which a fitted logistic curve of recall is a half."""
    x, y = np.log(peaks), np.array(recalled, float)

    def loss(parameters: Any) -> float:
        z = np.exp(parameters[1]) * (x - parameters[0])
        return float((np.logaddexp(0, z) - y * z).sum() + 0.05 * parameters[1] ** 2)

    best = min(
        (minimize(loss, (start, 1.5), method="Nelder-Mead") for start in np.log((3, 6, 12))),
        key=lambda fit: fit.fun,
    )
    return float(np.exp(best.x[0]))


def draw_noise(scene: Image, kind: str, rng: np.random.Generator) -> Image:
    """Return a scene with noise."""
    if kind == "normal":
        return scene + rng.normal(0, NOISE_STD, scene.shape)
    return rng.poisson(scene).astype(float)


def denoise(image: Image, preset: str) -> Any:
    """Return the result of an image."""
    return dip.denoise(image.astype(np.float32), preset=preset, seed=0)


@cache
def denoise_empty(name: str, kind: str, preset: str) -> Image:
    """Return the result of a scene without anything planted."""
    image = draw_noise(make_scenes()[name], kind, np.random.default_rng(9))
    return denoise(image, preset).image.astype(float)


def plant(scene: Image, kind: str, shape: str, width: int, draw: int) -> list[Planted]:
    """Choose places, peaks and directions of spots or lines."""
    distance, reach, peaks, repeats, *_ = SHAPES[shape]
    deviation = np.full(scene.shape, NOISE_STD) if kind == "normal" else np.sqrt(scene)
    places = np.arange(distance // 2, SIDE - distance // 2, distance)
    grid = [(y, x) for y in places for x in places]
    np.random.default_rng(11 + draw).shuffle(grid)
    angles = np.random.default_rng(31 + draw).uniform(0, np.pi, len(grid))
    return [
        Planted(
            np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1],
            peaks[number % len(peaks)],
            deviation[y, x],
            make_profile(shape, width, angles[number]),
        )
        for number, (y, x) in enumerate(grid[: repeats * len(peaks)])
    ]


def measure(name: str, kind: str, shape: str, width: int, preset: str) -> dict[str, Any]:
    """Return recall and limits of spots or lines of one width in one scene."""
    scene, rng = make_scenes()[name], np.random.default_rng(9)
    empty, empty_result = draw_noise(scene, kind, rng), denoise_empty(name, kind, preset)
    peaks, kept, errors, said = [], [], [], []
    for draw in range(SHAPES[shape].draws):
        planted, added = plant(scene, kind, shape, width, draw), np.zeros_like(scene)
        for window, peak, unit, profile in planted:
            added[window] += peak * unit * profile
        result = denoise(empty + (added if kind == "normal" else rng.poisson(added)), preset)
        peaks += [item.peak for item in planted]
        kept += [item.fit(result.image - empty_result) for item in planted]
        errors += [item.fit(empty_result - scene) for item in planted]
        limits = result.report["fit"][SHAPES[shape].report_field]
        said += [limits[str(width)]] if limits else []
    is_recalled = np.array(kept) >= np.array(peaks) / 2
    limit, said_limit = find_middle(peaks, list(is_recalled)), float(np.mean(said or [np.nan]))
    is_measured = limit >= min(peaks)  # weaker ones were not planted
    return {
        "noise": kind,
        "width": width,
        "limit": round(limit, 2) if is_measured else None,
        "said": round(said_limit, 2) if said else None,
        "ratio": round(said_limit / limit, 2) if said and is_measured else None,
        "invented": round(float(np.mean(np.array(errors) >= said_limit / 2)), 3) if said else None,
        "RMSE without them": round(float(np.sqrt(((empty_result - scene) ** 2).mean())), 3),
        "recall": {
            str(peak): round(float(is_recalled[np.array(peaks) == peak].mean()), 2)
            for peak in SHAPES[shape].peaks
        },
    }


def main() -> None:
    """Measure all scenes, kinds of noise and widths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", nargs="?", choices=SHAPES, default="spots")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--scene", action="append", choices=make_scenes())
    arguments = parser.parse_args()
    shape, preset = arguments.shape, arguments.preset
    rows: list[dict[str, Any]] = []
    for scene in arguments.scene or make_scenes():
        for kind in ("photons", "normal"):
            for width in SPOT_STDS:
                rows.append({"scene": scene} | measure(scene, kind, shape, width, preset))
                print(rows[-1], flush=True)
    ratios = [max(row["ratio"], 1 / row["ratio"]) for row in rows if row["ratio"]]
    summary = {
        "preset": preset,
        "rows with a limit": len(ratios),
        "within a factor of 1.3": sum(ratio <= 1.3 for ratio in ratios),
        "worst factor": max(ratios, default=None),
    }
    write(f"weakest_{shape}", rows, summary)


if __name__ == "__main__":
    main()
