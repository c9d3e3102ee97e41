"""How weak a spot may be to stay in the result, against the limit that the report says.

Usage: python benchmarks/weakest_spots.py [--preset instant]
Spots of one, two and three pixels are planted in four synthetic scenes, with normal noise and with
photon noise. A spot is recalled if the result holds at least half of its amplitude. That is the
least-squares amplitude of its profile in the difference of the results with and without spots, of
the same noise. Recall is a logistic curve of the logarithm of the peak, in standard deviations of
the noise there; its middle is the true limit. Results without spots say what is put back from
noise alone.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

import napari_dip as dip
from noise_matrix_scenes import cells, filaments, membranes
from shared_data import write

if TYPE_CHECKING:
    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

SIDE, DISTANCE, REACH = 256, 24, 7
#: Peaks in standard deviations of the noise; width in pixels, and the standard deviation for it.
PEAKS, WIDTHS = (2, 3, 4, 5, 6, 7, 8, 10, 14, 20, 30), {1: 0.0, 2: 0.8, 3: 1.3}
NOISE_STD = 3.0


def make_scenes() -> dict[str, Image]:
    """Return four scenes of 10 to 70 grey levels."""
    scenes = {"flat": np.full((SIDE, SIDE), 20.0)}
    for draw in (cells, filaments, membranes):
        scene = draw(SIDE, np.random.default_rng(5))
        scenes[draw.__name__] = 10 + 60 * (scene / np.percentile(scene, 99.5)).clip(0)
    return scenes


def make_profile(width: int) -> Image:
    """Return a spot of height 1."""
    profile = np.zeros((2 * REACH + 1, 2 * REACH + 1))
    profile[REACH, REACH] = 1
    profile = gaussian_filter(profile, WIDTHS[width]) if WIDTHS[width] else profile
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


def measure(scene: Image, kind: str, width: int, preset: str) -> dict[str, Any]:
    """Return recall and limits of spots of one width in one scene."""
    deviation = np.full(scene.shape, NOISE_STD) if kind == "normal" else np.sqrt(scene)
    places = np.arange(DISTANCE // 2, SIDE - DISTANCE // 2, DISTANCE)
    grid = [(y, x) for y in places for x in places]
    np.random.default_rng(11).shuffle(grid)
    profile, added, spots = make_profile(width), np.zeros_like(scene), []
    for number, (y, x) in enumerate(grid[: 5 * len(PEAKS)]):
        peak = PEAKS[number % len(PEAKS)]
        amplitude = peak * deviation[y, x]
        spot = np.s_[y - REACH : y + REACH + 1, x - REACH : x + REACH + 1]
        added[spot] += amplitude * profile
        spots.append((spot, peak, amplitude))
    rng = np.random.default_rng(9)
    if kind == "normal":
        empty = scene + rng.normal(0, NOISE_STD, scene.shape)
        planted = empty + added
    else:
        empty = rng.poisson(scene).astype(float)
        planted = empty + rng.poisson(added)
    results = [
        dip.denoise(image.astype(np.float32), preset=preset, seed=0) for image in (planted, empty)
    ]
    difference = results[0].image.astype(float) - results[1].image
    kept = [
        float((difference[spot] * profile).sum() / (amplitude * (profile**2).sum()))
        for spot, _, amplitude in spots
    ]
    limit = find_middle([peak for _, peak, _ in spots], [share >= 0.5 for share in kept])
    said = (results[0].report["fit"].get("min_spot_snr") or {}).get(str(width))
    is_measured = limit >= PEAKS[0]  # weaker ones were not planted
    return {
        "noise": kind,
        "width": width,
        "limit": round(limit, 2) if is_measured else None,
        "said": said,
        "ratio": round(said / limit, 2) if said and is_measured else None,
        "RMSE without spots": round(float(np.sqrt(((results[1].image - scene) ** 2).mean())), 3),
        "recall": {
            str(peak): float(
                np.mean([s >= 0.5 for s, (_, p, _) in zip(kept, spots, strict=True) if p == peak])
            )
            for peak in PEAKS
        },
    }


def main() -> None:
    """Measure all scenes, kinds of noise and widths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    preset = parser.parse_args().preset
    rows: list[dict[str, Any]] = []
    for name, scene in make_scenes().items():
        for kind in ("photons", "normal"):
            for width in WIDTHS:
                rows.append({"scene": name} | measure(scene, kind, width, preset))
                print(rows[-1], flush=True)
    ratios = [max(row["ratio"], 1 / row["ratio"]) for row in rows if row["ratio"]]
    summary = {
        "preset": preset,
        "rows with a limit": len(ratios),
        "within a factor of 1.3": sum(ratio <= 1.3 for ratio in ratios),
        "worst factor": max(ratios, default=None),
    }
    write("weakest_spots", rows, summary)


if __name__ == "__main__":
    main()
