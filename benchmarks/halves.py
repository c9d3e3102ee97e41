"""Resolution by halves against that of two real shots, and the map against invented detail.

Usage: python benchmarks/halves.py [--preset instant] [--side 256] [--only filaments]
Resolution: of seven FMD fields, the crop with most fine detail and the two captures that agree best
(captures with one file are one); made pictures of 2 to 100 counted photons (`filaments` and `cells`
of the noise matrix). The first shot is restored with `halves=True`, the second by itself. The
result of the second is moved onto the first by their shift, since some captures moved by a quarter
of a pixel. The two-shot Fourier ring correlation of both results is the truth.
Map: of the same pictures, and of made ones with a grating below the noise beside true detail.
Detail is invented where it is visible and its local correlation with the truth is below 0.3, and
true where it is above 0.8. `benchmarks/out/halves_<name>.png` shows result, truth, map and null
control. Rows that are in the results file already are not computed again.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import fourier_shift
from skimage.io import imsave
from skimage.registration import phase_cross_correlation

import napari_dip as dip
from napari_dip.pipeline.assess.repeatability import (
    MIN_REPEATED_CORRELATION,
    extract_detail,
    make_taper,
    map_repeats,
    measure_resolution,
)
from noise_matrix_scenes import cells, filaments
from shared_data import FMD_FIELDS, OUT, fmd, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Image = npt.NDArray[Any]

CAPTURES, PHOTONS, MADE_SIDE = (1, 2, 3, 4), (2, 5, 20, 100), 192
#: Correlation with the truth below which detail is invented, and above which it is true.
MAX_INVENTED, MIN_TRUE = 0.3, 0.8
#: Amplitude and period of a grating below the noise, whose standard deviation is 2.
GRATING, PERIOD, NOISE = 0.5, 5.0, 2.0


def iter_cases(side: int) -> Iterator[tuple[str, Image, Image, Image, dict[str, Any]]]:
    """Yield name, first and second shot, truth, and settings."""
    for field in FMD_FIELDS:
        shots, truth = [fmd(field, capture)[0] for capture in CAPTURES], fmd(field, 1)[1]
        energy = extract_detail(truth[None, None], 4.0)[0, 0] ** 2
        starts = range(0, len(truth) - side + 1, max(1, (len(truth) - side) // 2))
        place = max(
            (np.s_[y : y + side, x : x + side] for y in starts for x in starts),
            key=lambda part: energy[part].mean(),
        )
        crops = [shot[place] for shot in shots]
        pairs = [pair for pair in combinations(crops, 2) if not np.array_equal(*pair)]
        first, second = max(pairs, key=lambda pair: np.corrcoef(pair[0].flat, pair[1].flat)[0, 1])
        yield field, first, second, truth[place], {}
    for photons in PHOTONS:
        for scene in (filaments, cells):
            rng = np.random.default_rng(7)
            truth = scene(MADE_SIDE, rng)
            truth = photons * (truth / np.percentile(truth, 99) + 0.02)
            first, second = (rng.poisson(truth).astype(np.uint16) for _ in range(2))
            yield f"{scene.__name__}, {photons} photons", first, second, truth, {}
    for prior in ("auto", "random-input"):
        for scene in (filaments, cells):
            truth = scene(MADE_SIDE, np.random.default_rng(1))
            truth = 20 + 12 * truth / np.percentile(truth, 99)
            y, x = np.mgrid[:MADE_SIDE, :MADE_SIDE]
            wave = np.sin(2 * np.pi * (x * np.cos(0.6) + y * np.sin(0.6)) / PERIOD)
            truth = np.where(x < MADE_SIDE // 2, truth, 24 + GRATING * wave)
            rng = np.random.default_rng(3)
            shots = [(truth + rng.normal(0, NOISE, truth.shape)).astype("f4") for _ in range(2)]
            yield f"{scene.__name__} and grating, {prior}", *shots, truth, {"prior": prior}


def measure_shift(image: Image, target: Image) -> Image:
    """Return by how many pixels an image has to be moved onto another one."""
    window = make_taper(len(target))[:, None] * make_taper(len(target))
    centred = [(each - each.mean()) * window for each in (target, image)]
    return phase_cross_correlation(*centred, upsample_factor=50)[0]


def move(image: Image, shift: Image) -> Image:
    """Return an image that is moved by parts of a pixel."""
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), shift)).real


def resolve(first: Image, second: Image) -> float | None:
    """Return the resolution of two shots in pixels."""
    stacks = (image[None, None].astype(float) for image in (first, second))
    return measure_resolution([tuple(stacks)], (1.0, 1.0), is_thinned=False)[0]


def measure(
    name: str, first: Image, second: Image, truth: Image, settings: dict[str, Any]
) -> dict[str, Any]:
    """Restore both shots, and compare the halves of the first with both."""
    result = dip.denoise(first, halves=True, null_control=True, **settings)
    other = dip.denoise(second, **settings).image
    if name in FMD_FIELDS:
        shift = measure_shift(other, result.image)
        second, other = (move(image, shift) for image in (second, other))
    halves = result.report["halves"]["resolution"]
    period = min(max(halves["result"] or 16, 2), 16)
    whole = result.image[None, None].astype(float)
    agreement = map_repeats(whole, truth[None, None], whole, period, is_thinned=False)[0, 0]
    visible = ~np.isnan(result.repeat_map) & ~np.isnan(agreement)
    marked = result.repeat_map < MIN_REPEATED_CORRELATION
    invented, true = visible & (agreement < MAX_INVENTED), visible & (agreement > MIN_TRUE)
    panels = [result.image, truth, result.null_image]
    low, high = np.percentile(truth, (0.5, 99.8))
    drawn = [np.clip((panel - low) / (high - low), 0, 1) for panel in panels]
    drawn.insert(2, np.nan_to_num(result.repeat_map, nan=0.5))
    OUT.mkdir(parents=True, exist_ok=True)
    pixels = (255 * np.hstack(drawn)).astype(np.uint8)
    imsave(OUT / f"halves_{name.replace(', ', '_').replace(' ', '_')}.png", pixels)
    return {
        "picture": name,
        "input by halves": halves["input"],
        "input by two shots": resolve(first, second),
        "result by halves": halves["result"],
        "result by two shots": resolve(result.image, other),
        "invented px": int(invented.sum()),
        "of it marked px": int((invented & marked).sum()),
        "true px": int(true.sum()),
        "of it falsely marked px": int((true & marked).sum()),
        "null spots per megapixel": result.report["null_control"]["rate"],
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return errors of the resolution, and shares of the marked areas."""
    summary: dict[str, Any] = {}
    for which in ("input", "result"):
        for kind, names in (("FMD", FMD_FIELDS), ("all", None)):
            ratios = [
                row[f"{which} by halves"] / row[f"{which} by two shots"]
                for row in rows
                if (names is None or row["picture"] in names)
                and row[f"{which} by halves"]
                and row[f"{which} by two shots"]
                and "grating" not in row["picture"]
            ]
            errors = np.abs(np.array(ratios) - 1)
            if len(errors):
                summary[f"{which}, {kind}: median error"] = float(np.median(errors))
                summary[f"{which}, {kind}: within 25 %"] = float((errors <= 0.25).mean())
    sums = {head: sum(row[head] for row in rows) for head in rows[0] if head.endswith("px")}
    summary["invented area that is marked"] = sums["of it marked px"] / max(1, sums["invented px"])
    summary["true detail that is marked"] = sums["of it falsely marked px"] / sums["true px"]
    return summary


def main() -> None:
    """Measure all pictures, or those whose names contain a text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="instant")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    name = f"halves_{options.preset}_{options.side}"
    earlier = OUT / f"{name}.json"
    rows = json.loads(earlier.read_text())["rows"] if earlier.exists() else []
    for case, *pictures, settings in iter_cases(options.side):
        if options.only in case and case not in [row["picture"] for row in rows]:
            rows.append(measure(case, *pictures, {"preset": options.preset, **settings}))
            write(name, rows, summarise(rows))


if __name__ == "__main__":
    main()
