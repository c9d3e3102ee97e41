"""Impulses, stripes and speckle: PSNR by their noise model, the automatic one, and a filter.

Usage: python benchmarks/named_noise.py [--preset fast] [--side 96] [--kinds stripes ...]
Crops of images of scikit-image and of a real nucleus (NAPARI_DIP_DATA,
demo_candidates/nucleus_low_high.tif, long exposure, brought to 8 bit) are spoilt with seeded noise
of each kind at two strengths; normal noise of standard deviation 5 comes before salt and pepper
and with stripes, speckle comes alone. PSNR at peak 255. The filters: a 3 x 3 median against salt
and pepper; each row less what its median differs from the median of nine rows' against stripes;
non-local means of the logarithm (scikit-image, noise told by the steps between neighbours) against
speckle. Rows that are in the results file already are not computed again. Input, filter, automatic,
named and truth are written side by side under benchmarks/out/named_noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage import data
from skimage.filters import median
from skimage.io import imread
from skimage.restoration import denoise_nl_means

import napari_dip as dip
from shared_data import OUT, data_folder, psnr, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Picture = npt.NDArray[np.float64]

#: Where crops begin.
CROPS = {
    "cell": (320, 400),
    "nucleus": (80, 80),
    "brick": (100, 100),
    "moon": (200, 200),
    "coins": (100, 100),
    "camera": (96, 160),
}
#: Strengths: share of impulses, half of them 0 and half 255; standard deviation of the offsets of
#: rows, in grey levels; looks.
STRENGTHS = {"salt-and-pepper": (0.25, 0.05), "stripes": (12, 4), "speckle": (4, 16)}
#: Standard deviation of the normal noise beside them, in grey levels.
NOISE_SIGMA = 5.0


def load_truth(name: str, side: int) -> Picture:
    """Cut the crop out."""
    row, column = CROPS[name]
    if name == "nucleus":
        whole = imread(data_folder() / "demo_candidates" / "nucleus_low_high.tif")[1].astype(float)
        low, high = np.percentile(whole, (0.1, 99.9))
        whole = np.clip((whole - low) / (high - low) * 230 + 10, 0, 255)
    else:
        whole = getattr(data, name)().astype(np.float64)
    return np.asarray(whole[row : row + side, column : column + side])


def add_noise(clean: Picture, kind: str, strength: float) -> npt.NDArray[Any]:
    """Spoil a crop; the same strength gives the same noise."""
    rng = np.random.default_rng(0)
    if kind == "speckle":
        return (clean * rng.gamma(strength, 1 / strength, clean.shape)).astype(np.float32)
    noisy = clean + rng.normal(0, NOISE_SIGMA, clean.shape)
    if kind == "stripes":
        return (noisy + rng.normal(0, strength, (len(clean), 1))).astype(np.float32)
    values = np.where(rng.random(clean.shape) < 0.5, 0, 255)
    whole = np.where(rng.random(clean.shape) < strength, values, np.rint(noisy))
    return np.clip(whole, 0, 255).astype(np.uint8)


def run_filter(noisy: npt.NDArray[Any], kind: str) -> Picture:
    """Restore with the filter that one would take first."""
    if kind == "salt-and-pepper":
        return np.asarray(median(noisy, np.ones((3, 3)))).astype(np.float64)
    if kind == "stripes":
        rows = np.median(noisy, 1)
        near = np.median(
            np.lib.stride_tricks.sliding_window_view(np.pad(rows, 4, mode="edge"), 9), 1
        )
        return np.asarray(noisy - (rows - near)[:, None], np.float64)
    log = np.log(np.maximum(noisy, 0.5))
    steps = np.diff(log, axis=1)
    sigma = float(1.4826 * np.median(np.abs(steps - np.median(steps))) / 2**0.5)
    smooth = denoise_nl_means(
        log, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True
    )
    speckle = np.exp(smooth)
    return np.asarray(speckle * (noisy.mean() / speckle.mean()))


def compare(name: str, kind: str, strength: float, options: argparse.Namespace) -> dict[str, Any]:
    """Restore one crop in all ways."""
    clean = load_truth(name, options.side)
    noisy = add_noise(clean, kind, strength)
    began = time.process_time()
    ours = dip.denoise(noisy, preset=options.preset, noise=kind)
    seconds = time.process_time() - began
    plain = dip.denoise(noisy, preset=options.preset)
    classical = run_filter(noisy, kind)
    folder = OUT / "named_noise"
    folder.mkdir(parents=True, exist_ok=True)
    panels = [
        np.clip(np.rint(image), 0, 255).astype(np.uint8)
        for image in (noisy, classical, plain.image, ours.image, clean)
    ]
    Image.fromarray(np.concatenate(panels, 1)).save(folder / f"{name}_{kind}_{strength:g}.png")
    return {
        "crop": f"{name}, {kind} {strength:g}",
        "input dB": psnr(noisy, clean),
        "filter dB": psnr(classical, clean),
        "auto dB": psnr(plain.image, clean),
        "named dB": psnr(ours.image, clean),
        "gain dB": psnr(ours.image, clean) - psnr(plain.image, clean),
        "hint": any(f"--noise {kind}" in note for note in plain.report["notes"]),
        "CPU seconds": seconds,
    }


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--kinds", nargs="+", default=list(STRENGTHS))
    parser.add_argument("--pictures", nargs="+", default=["cell", "nucleus", "brick"])
    options = parser.parse_args()
    title = f"named_noise_{options.preset}_{options.side}"
    path = OUT / f"{title}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["crop"] for row in rows}
    for name in options.pictures:
        for kind in options.kinds:
            for strength in STRENGTHS[kind]:
                if f"{name}, {kind} {strength:g}" in done:
                    continue
                rows.append(compare(name, kind, strength, options))
                print(rows[-1], file=sys.stderr, flush=True)
                write(title, rows, summarise(rows))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean gain over the automatic model and over the filter, of each kind."""
    means: dict[str, Any] = {}
    for kind in STRENGTHS:
        some = [row for row in rows if f", {kind} " in row["crop"]]
        if some:
            over = [row["named dB"] - row["filter dB"] for row in some]
            means[f"{kind}: mean gain over auto, dB"] = float(np.mean([r["gain dB"] for r in some]))
            means[f"{kind}: least"] = min(row["gain dB"] for row in some)
            means[f"{kind}: mean gain over the filter, dB"] = float(np.mean(over))
    return means


if __name__ == "__main__":
    main()
