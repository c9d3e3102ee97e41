"""Accuracy of the noise measurement on synthetic images: gain, intercept, correlation.

Usage: python benchmarks/calibration.py [--part gain|reach|all] [--count 24]
Scenes are images of scikit-image and the bundled samples, brightest value 1. They are taken "as
they are" and, since photographs hold noise of their own, "through optics": blurred by a Gaussian
of one pixel, as any microscope does. Constants were chosen on the scenes and gains in TUNED; the
others were looked at on the way, too, though no constant was fitted to them. Writes
benchmarks/out/calibration_*.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.optimize import brentq
from skimage import data
from skimage.color import rgb2gray
from skimage.io import imread

from napari_dip.engine.noise.estimate import NoiseEstimate, compute_blind_spot_size, estimate_noise
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.samples import MITOCHONDRIA, TWO_CHANNELS
from shared_data import OUT, write

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Image = npt.NDArray[np.float64]

SCENES: dict[str, Callable[[], Any]] = {
    "camera": data.camera,
    "cell": data.cell,
    "mitochondria": lambda: imread(MITOCHONDRIA)[1],
    "hubble": lambda: rgb2gray(data.hubble_deep_field()),
    "coins": data.coins,
    "moon": data.moon,
    "retina": lambda: rgb2gray(data.retina()),
    "brick": data.brick,
    "nucleus": lambda: imread(TWO_CHANNELS)[1],
}
#: Those used for choosing constants. The rest was looked at during development, not fitted to.
TUNED = ("camera", "cell", "mitochondria", "hubble")
GAINS = {True: (0.5, 5.0, 50.0), False: (0.2, 2.0, 20.0)}
READS, OFFSETS, PHOTONS = (0, 1, 3, 8, 20), (0, 20, 100, 500), (10, 30, 100, 300, 1000)
KINDS = {"float": None, "uint8": 255, "uint16": 65535}
#: Largest side of a scene: 512 x 512 are cut from the middle of larger ones.
SIDE = 512
#: Signal must span as many read noises; errors up to that are right.
SPANNED, RIGHT = 5, 0.1
#: Standard error of the gain, as a share of it, beyond which it counts as "cannot tell"; and that
#: which even the clean image would leave, beyond which nobody can.
UNSURE, BEYOND = 0.07, 0.05
LAGS = {True: (0.0, 0.1, 0.3, 0.5, 0.7), False: (0.0, 0.15, 0.4, 0.6, 0.8)}
LEVELS = (5.0, 20.0)


class Case(NamedTuple):
    """One synthetic image."""

    scene: str
    blur: float
    gain: float
    read: float
    offset: float
    photons: float
    kind: str
    seed: int


@cache
def make_scene(name: str, blur: float) -> Image:
    """Clean image of values 0 to about 1."""
    image = np.asarray(SCENES[name](), np.float64)
    low, high = np.percentile(image, [0, 99.9])
    image = (image - low) / (high - low)
    if blur:
        image = gaussian_filter(image, blur)
    row, column = (max(0, (side - SIDE) // 2) for side in image.shape)
    return image.clip(min=0)[row : row + SIDE, column : column + SIDE]


def simulate(case: Case) -> tuple[Image, Image]:
    """Give the noisy image and the signal without noise, in grey values."""
    rng = np.random.default_rng(case.seed)
    light = make_scene(case.scene, case.blur) * case.photons
    image = case.gain * rng.poisson(light) + rng.normal(0, case.read, light.shape) + case.offset
    if (ceiling := KINDS[case.kind]) is not None:
        image = np.clip(np.rint(image), 0, ceiling)
    return image, case.gain * light + case.offset


def draw_cases(count: int, blur: float) -> list[Case]:
    """Draw as many settings for each scene."""
    rng = np.random.default_rng(7)
    return [
        Case(
            name,
            blur,
            float(rng.choice(GAINS[name in TUNED])),
            float(rng.choice(READS)),
            float(rng.choice(OFFSETS)),
            float(rng.choice(PHOTONS)),
            str(rng.choice(list(KINDS))),
            int(rng.integers(1_000_000)),
        )
        for name in SCENES
        for _ in range(count)
    ]


def evaluate(case: Case) -> dict[str, Any]:
    """Measure one image, and compare."""
    image, signal = simulate(case)
    step = 0.0 if case.kind == "float" else 1.0
    estimate = estimate_noise(torch.from_numpy(image)[None], step)
    intercept = case.read**2 - case.gain * case.offset + step**2 / 12
    at = np.percentile(signal, np.linspace(5, 95, 10))
    true = case.gain * at + intercept
    ratio = compute_noise_variance(estimate, at) / np.maximum(true, 1e-9) - 1
    # what the clean image's every pixel would tell of the gain
    weight = 0.5 / np.maximum(case.gain * signal + intercept, 1e-9) ** 2
    centre = np.average(signal, weights=weight)
    bound = float((weight * (signal - centre) ** 2).sum() ** -0.5) / case.gain
    ceiling = KINDS[case.kind]
    spans = case.gain * case.photons >= SPANNED * case.read
    fits = ceiling is None or case.gain * case.photons + case.offset <= 0.9 * ceiling
    # where it is near zero, it matters as a share of the variance amid the signal
    level = max(abs(intercept), float(case.gain * np.median(signal) + intercept))
    worst = float(ratio[np.argmax(abs(ratio))])
    return {
        **case._asdict(),
        "found gain": estimate.gain,
        "found intercept": estimate.intercept,
        "counts": bool(spans and fits and bound <= BEYOND),
        "told": not estimate.unreliable_reason
        and estimate.gain_error <= UNSURE * max(estimate.gain, 1e-12),
        "doubt": estimate.unreliable_reason,
        "gain right": abs(estimate.gain / case.gain - 1) <= RIGHT,
        "intercept right": abs(estimate.intercept - intercept) <= RIGHT * level,
        "intercept plainly right": abs(estimate.intercept - intercept) <= RIGHT * abs(intercept),
        "variance right": abs(worst) <= RIGHT,
        "worst variance": worst,
        "wild": bool(not estimate.unreliable_reason and abs(worst) > 1),
    }


def draw_correlated(
    rng: np.random.Generator, shape: tuple[int, ...], kind: str, lag: float
) -> tuple[Image, list[float], list[float]]:
    """Noise of variance 1, and its true autocorrelation along Y and X."""
    noise, none = rng.normal(size=shape), [0.0] * 5
    if lag == 0:
        return noise, none, none

    def make_gaussian(width: float) -> Image:
        kernel = np.exp(-0.5 * (np.arange(-9, 10) / width) ** 2)
        return np.asarray(kernel / np.sqrt((kernel**2).sum()))

    def at(kernel: Image, apart: int) -> float:
        return float((kernel[apart:] * kernel[:-apart]).sum())

    kernel = make_gaussian(brentq(lambda width: at(make_gaussian(width), 1) - lag, 0.15, 5))
    along = [at(kernel, apart) for apart in range(1, 6)]
    noise = correlate1d(noise, kernel, axis=1, mode="wrap")
    if kind == "line-wise":
        return noise, none, along
    return correlate1d(noise, kernel, axis=0, mode="wrap"), along, along


def evaluate_blind_spot(
    name: str, kind: str, lag: float, level: float, side: int
) -> dict[str, Any]:
    """Compare the blind spot with the one that the true autocorrelation asks for."""
    rng = np.random.default_rng([ord(name[0]), ord(name[1]), round(100 * lag), round(level), side])
    pixels = 255 * make_scene(name, 1.0)
    row, column = (int(rng.integers(0, max(1, full - side + 1))) for full in pixels.shape)
    pixels = pixels[row : row + side, column : column + side]
    noise, along_y, along_x = draw_correlated(rng, pixels.shape, kind, lag)
    image = torch.from_numpy(pixels + level * noise)[None]
    estimate = estimate_noise(image, 0)
    grid = (int(image.shape[1]), int(image.shape[2]))
    true = NoiseEstimate(
        gain=0, intercept=1, floor=1, along_y=tuple(along_y), along_x=tuple(along_x)
    )
    right, got = compute_blind_spot_size([true], grid), compute_blind_spot_size([estimate], grid)
    more = [(ours - theirs) // 2 for ours, theirs in zip(got, right, strict=True)]
    return {
        "scene": name,
        "kernel": kind,
        "lag 1": lag,
        "level": level,
        "side": side,
        "block": "×".join(map(str, got)),
        "true block": "×".join(map(str, right)),
        "right": all(extra == 0 for extra in more),
        "right or one larger": all(0 <= extra <= 1 for extra in more),
        "told": not estimate.unreliable_reason,
    }


def compute_share(rows: list[dict[str, Any]], key: str) -> float:
    """Percentage of rows for which that holds."""
    return 100 * float(np.mean([row[key] for row in rows])) if rows else float("nan")


def write_tables(rows: list[dict[str, Any]], keys: tuple[str, ...], name: str) -> None:
    """Write the rows, and their shares by scene, with tuned and other scenes apart."""
    groups = {name: [row for row in rows if row["scene"] == name] for name in SCENES}
    groups["tuned"] = [row for row in rows if row["scene"] in TUNED]
    groups["not tuned"] = [row for row in rows if row["scene"] not in TUNED]
    shares = [
        {
            "scene": name,
            "cases": len(some),
            **{f"{key} %": compute_share(some, key) for key in keys},
        }
        for name, some in groups.items()
        if some
    ]
    write(name, shares, {})
    text = json.dumps(rows, indent=1) + "\n"
    (OUT / f"{name}_cases.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("gain", "reach", "all"), default="all")
    parser.add_argument("--count", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part in ("gain", "all"):
        for blur, label in ((0.0, "as_they_are"), (1.0, "through_optics")):
            rows = [evaluate(case) for case in draw_cases(options.count, blur)]
            counted = [row for row in rows if row["counts"]]
            confident = [row for row in counted if row["told"]]
            for row in rows:
                row["cannot tell"] = not row["told"]
            keys = ("gain right", "intercept right", "intercept plainly right", "variance right")
            write_tables(confident, keys, f"calibration_gain_{label}")
            write_tables(counted, ("cannot tell",), f"calibration_untold_{label}")
            rest = [row for row in rows if not row["counts"]]
            write_tables(rest, ("cannot tell", "wild"), f"calibration_rest_{label}")
    if options.part in ("reach", "all"):
        rows = [
            evaluate_blind_spot(name, kind, lag, level, side)
            for name in SCENES
            for lag in LAGS[name in TUNED]
            for kind in (("isotropic", "line-wise") if lag else ("white",))
            for level in LEVELS
            for side in (256, 96)
        ]
        for side in (256, 96):
            some = [row for row in rows if row["side"] == side]
            write_tables(
                some, ("right", "right or one larger", "told"), f"calibration_reach_{side}"
            )


if __name__ == "__main__":
    main()
