"""Noise measurement on 2,268 synthetic images: right, marked as unreliable, or silently wrong.

Usage: python benchmarks/noise_matrix.py [--groups blotches EMCCD ...] [--every 6] [--first 0]
Every recipe of `noise_matrix_cases` meets every scene of `noise_matrix_scenes`. The truth is
simulated: the variance over draws of one scene, among the pixels whose mean is nearest the 10th,
50th and 90th percentile of brightness, and the correlation of a draw less the mean of all. Half of
the draws choose these pixels and the other half tells their brightness and variance: the mean that
a pixel was chosen by is off by its noise. What is cut off at an end is judged as if it had not
been, as the measurement means it.

right: variances within 15 % and blind spots as wide as the true correlation asks for, or one
pixel wider to each side. silent: neither a doubt, nor a caution, nor within a factor of 1.5. A
colour image counts by its worst channel. Offsets and read noises that are claimed are judged
apart: within two true read noises and a factor of 1.5. `--every N` takes each Nth image, from
`--first` on.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_dip.engine.noise.correlation import (
    MAX_BLIND_SPOT_RADIUS,
    MAX_NEGLIGIBLE_CORRELATION,
    MIN_LAG_1_CORRELATION,
)
from napari_dip.engine.noise.estimate import compute_blind_spot_size
from napari_dip.pipeline.calibrate.channel_noise import (
    compute_noise_variance,
    measure_colour_noise,
    measure_single_exposure,
)
from napari_dip.tasks.base import NoiseSettings
from noise_matrix_cases import Recipe, list_recipes
from noise_matrix_scenes import list_scenes
from shared_data import OUT, write

if TYPE_CHECKING:
    from napari_dip.engine.noise.estimate import NoiseEstimate

    Image = npt.NDArray[np.float64]

#: Draws that make the truth; with half of them and 2 % of 192 x 192 pixels, it is known to 1.4 %.
DRAWS, NEAREST = 32, 0.02
#: Percentiles of brightness at which the variance is judged.
PERCENTILES = (10, 50, 90)
#: What is right, what is silent, and how near its threshold a correlation may lie either way.
RIGHT, SILENT, NEAR = 0.15, 1.5, 0.03
VERDICTS = ("right", "cannot tell", "wrong", "silent")


@dataclass(frozen=True, slots=True)
class Truth:
    """Noise of one channel, simulated."""

    levels: tuple[float, ...]
    variances: tuple[float, ...]
    along_y: tuple[float, ...]
    along_x: tuple[float, ...]


def quantise(image: Image, recipe: Recipe, *, cut: bool = True) -> Image:
    """Round, and cut off if asked."""
    if recipe.step:
        image = recipe.step * np.rint(image / recipe.step)
    return np.clip(image, 0, recipe.top) if cut and np.isfinite(recipe.top) else image


def simulate_truth(draws: Image, recipe: Recipe) -> Truth:
    """Simulate: draws (N, Y, X) of one channel, not cut off."""
    mean, noise = draws.mean(0), draws - draws.mean(0)
    choosing, telling = draws[::2].mean(0), draws[1::2]
    variance = telling.var(0, ddof=1)
    spread = np.sqrt(variance.mean())
    visible = (choosing > spread) & (choosing < recipe.top - spread)
    if not np.isfinite(recipe.top) or visible.mean() < NEAREST:
        visible = np.ones(mean.shape, bool)
    means, variances = choosing[visible], variance[visible]
    count = max(1, int(NEAREST * mean.size))
    levels, factors_known = [], []
    for percentile in PERCENTILES:
        near = np.abs(means - np.percentile(means, percentile)).argsort()[:count]
        levels.append(float(telling.mean(0)[visible][near].mean()))
        factors_known.append(max(float(variances[near].mean()), recipe.step**2 / 12, 1e-12))
    whole = (noise**2).mean()
    y, x = (
        tuple(float((a * b).mean() / whole) for a, b in pairs)
        for pairs in (
            [(noise[:, lag:], noise[:, :-lag]) for lag in range(1, MAX_BLIND_SPOT_RADIUS + 1)],
            [(noise[..., lag:], noise[..., :-lag]) for lag in range(1, MAX_BLIND_SPOT_RADIUS + 1)],
        )
    )
    return Truth(tuple(levels), tuple(factors_known), y, x)


def reach(along: tuple[float, ...], shift: float) -> int:
    """Half width of a block that this correlation asks for, its lags moved by `shift`."""
    if along[0] + shift <= MIN_LAG_1_CORRELATION:
        return 0
    ended = [
        lag
        for lag, value in enumerate(along)
        if lag and value + shift <= MAX_NEGLIGIBLE_CORRELATION
    ]
    return ended[0] if ended else MAX_BLIND_SPOT_RADIUS


def evaluate(estimate: NoiseEstimate, truth: Truth, shape: tuple[int, int]) -> dict[str, object]:
    """Compare one channel's estimate with the truth."""
    factors = [
        float(compute_noise_variance(estimate, level)) / variance
        for level, variance in zip(truth.levels, truth.variances, strict=True)
    ]
    worst = max(max(factor, 1 / factor) for factor in factors)
    halves = [side // 2 for side in compute_blind_spot_size([estimate], shape)]
    wanted = [
        (reach(correlation, -NEAR), reach(correlation, NEAR) + 1)
        for correlation in (truth.along_y, truth.along_x)
    ]
    fits = all(low <= half <= high for half, (low, high) in zip(halves, wanted, strict=True))
    wide = max(
        max((2 * low + 1) / (2 * half + 1), (2 * half + 1) / (2 * high + 1))
        for half, (low, high) in zip(halves, wanted, strict=True)
    )
    near = all(abs(factor - 1) <= RIGHT for factor in factors)
    verdict = "wrong"
    if near and fits:
        verdict = "right"
    elif estimate.unreliable_reason or estimate.caution:
        verdict = "cannot tell"
    elif max(worst, wide) > SILENT:
        verdict = "silent"
    return {
        "verdict": verdict,
        "doubt": estimate.unreliable_reason or estimate.caution,
        "factors": [round(factor, 3) for factor in factors],
        "half widths": halves,
        "true half widths": [list(half_width) for half_width in wanted],
    }


def evaluate_dark(estimate: NoiseEstimate, recipe: Recipe) -> str:
    """Judge offset and read noise where they are claimed."""
    if estimate.offset is None or estimate.read_noise is None:
        return "not claimed"
    if recipe.dark is None:
        return "of none"
    offset, read = recipe.dark
    read = float(np.hypot(read, recipe.step / 12**0.5))
    near = abs(estimate.offset - offset) <= 2 * read
    return "right" if near and 1 / 1.5 < estimate.read_noise / read < 1.5 else "wrong"


def run_case(scene: str, light: Image, recipe: Recipe) -> dict[str, object]:
    """Make one image, measure it and judge."""
    rng = np.random.default_rng(zlib.crc32(f"{scene} {recipe.group} {recipe.name}".encode()))
    noisy = recipe.draw(light, rng)
    clean = recipe.clean or recipe.draw
    draws = [noisy] * (recipe.clean is None)
    draws += [clean(light, rng) for _ in range(DRAWS - len(draws))]
    truths = np.stack([quantise(draw, recipe, cut=False) for draw in draws])
    noisy = quantise(noisy, recipe)
    channels = [...] if noisy.ndim == 2 else [(..., c) for c in range(3)]
    begun = perf_counter()
    estimates = [
        measure_single_exposure(
            noisy[c].astype(np.float32)[None], None, recipe.step, NoiseSettings()
        )
        for c in channels
    ]
    if len(channels) == 3:
        stack = np.moveaxis(noisy, -1, 0)[None].astype(np.float32)
        estimates = list(measure_colour_noise(stack, estimates, recipe.step)[1])
    seconds = perf_counter() - begun
    judged = [
        evaluate(estimate, simulate_truth(truths[c], recipe), noisy.shape[:2])
        for estimate, c in zip(estimates, channels, strict=True)
    ]
    worst = max(judged, key=lambda judgement: VERDICTS.index(str(judgement["verdict"])))
    case = {"group": recipe.group, "recipe": recipe.name, "scene": scene}
    return {
        **case,
        **worst,
        "dark": evaluate_dark(estimates[0], recipe),
        "seconds": round(seconds, 3),
    }


def list_cases(groups: list[str]) -> list[tuple[str, Recipe]]:
    """Pair every scene with every recipe, shuffled, so that each Nth of them stands for all."""
    kinds = [
        case_recipe for case_recipe in list_recipes() if not groups or case_recipe.group in groups
    ]
    pairs = [(name, recipe) for name in list_scenes() for recipe in kinds]
    return [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]


def count_verdicts(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Count the verdicts of each group."""
    counted = []
    for group in [*dict.fromkeys(str(row["group"]) for row in rows), "all"]:
        of = [row for row in rows if group in (row["group"], "all")]
        claims = [row["dark"] for row in of if row["dark"] != "not claimed"]
        counted.append(
            {"group": group, "pictures": len(of)}
            | {name: sum(row["verdict"] == name for row in of) for name in VERDICTS}
            | {"dark claimed": len(claims), "dark wrong": sum(claim != "right" for claim in claims)}
        )
    return counted


def main() -> None:
    """Examine the images and write them beside the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="+", default=[])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--name", default="noise_matrix")
    options = parser.parse_args()
    drawn = {name: make() for name, make in list_scenes().items()}
    begun, rows = perf_counter(), []
    for name, recipe in list_cases(options.groups)[options.first :: options.every]:
        rows.append(run_case(name, drawn[name], recipe))
        print(*rows[-1].values(), sep=" | ", file=sys.stderr, flush=True)
    counted = count_verdicts(rows)
    answered = counted[-1]["right"] + counted[-1]["cannot tell"]
    summary = {
        "right or cannot tell, %": 100 * answered / len(rows),
        "seconds a picture": (perf_counter() - begun) / len(rows),
        "every": options.every,
    }
    write(options.name, counted, summary)
    images = OUT / f"{options.name}_pictures.json"
    images.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
