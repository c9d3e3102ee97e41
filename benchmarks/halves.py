"""Resolution by halves against the truth and two real shots, and the map against invented detail.

Usage: python benchmarks/halves.py [--preset instant] [--side 256] [--only filaments]
Resolution: of seven FMD fields, the crop with most fine detail and the two captures that agree best
(captures with one file are one); made pictures of 2 to 100 counted photons (`filaments` and `cells`
of the noise matrix), smooth spots, and noise without an object. The first shot is restored with
`halves=True`, the second by itself. The result of the second is moved onto the first by their
shift, since some captures moved by a quarter of a pixel. The true resolution is where the squared
correlation of result and truth falls below 1/7.
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
    correlate_rings,
    extract_detail,
    find_resolution,
    make_taper,
    map_repeats,
    measure_resolution,
    smooth_rings,
)
from napari_dip.pipeline.execute.repeatability_runs import MAX_PERIOD
from noise_matrix_scenes import cells, filaments
from shared_data import FMD_FIELDS, OUT, fmd, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Image = npt.NDArray[Any]

CAPTURES, PHOTONS, MADE_SIDE = (1, 2, 3, 4), (2, 5, 20, 100), 192
#: Widths of smooth spots; 0 is noise without an object.
SPOT_WIDTHS = (0.0, 1.5, 2.5, 4.0)
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
    for photons in PHOTONS[1:]:
        for width in SPOT_WIDTHS:
            rng = np.random.default_rng(2)
            truth = photons * (1 + spots(MADE_SIDE, rng, width))
            shots = (2 * rng.poisson(truth) + rng.normal(100, 2, truth.shape) for _ in range(2))
            first, second = (shot.round().astype(np.uint16) for shot in shots)
            name = f"spots of {width}" if width else "noise alone"
            yield f"{name}, {photons} photons", first, second, truth, {}
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


def spots(side: int, rng: np.random.Generator, width: float) -> Image:
    """Return 40 Gaussian spots of one standard deviation; of width 0, nothing."""
    y, x = np.mgrid[:side, :side]
    canvas = np.zeros((side, side))
    for _ in range(40 if width else 0):
        at, height = rng.integers(8, side - 8, 2), rng.uniform(0.25, 3)
        canvas += height * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 2 / width**2)
    return canvas


def measure_shift(image: Image, target: Image) -> Image:
    """Return by how many pixels an image has to be moved onto another one."""
    window = make_taper(len(target))[:, None] * make_taper(len(target))
    centred = [(each - each.mean()) * window for each in (target, image)]
    return phase_cross_correlation(*centred, upsample_factor=50)[0]


def move(image: Image, shift: Image) -> Image:
    """Return an image that is moved by parts of a pixel."""
    return np.fft.ifft2(fourier_shift(np.fft.fft2(image), shift)).real


def resolve(shots: list[Image], results: list[Image] | None = None) -> float | None:
    """Return the resolution of two shots in pixels, or of their results."""
    shots, results = (
        [image[None, None].astype(float) for image in images] for images in (shots, results or [])
    )
    return measure_resolution([shots], (1.0, 1.0), is_thinned=False, predictions=results)[0]


def resolve_truly(result: Image, truth: Image) -> float | None:
    """Return the period in pixels down to which a result shows the truth."""
    frequencies, correlation, _ = correlate_rings([(result, truth)], truth.shape, (1.0, 1.0))
    return find_resolution(frequencies, np.maximum(smooth_rings(correlation), 0) ** 2)


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
    period = min(max(halves["result"] or MAX_PERIOD, 2), MAX_PERIOD)
    whole = result.image[None, None].astype(float)
    agreement = map_repeats(whole, truth[None, None], whole, period, is_thinned=False)[0, 0]
    visible = ~np.isnan(result.repeat_map) & ~np.isnan(agreement)
    marked = result.repeat_map < MIN_REPEATED_CORRELATION
    invented, true = visible & (agreement < MAX_INVENTED), visible & (agreement > MIN_TRUE)
    panels = [result.image, truth, result.null_image]
    low, high = np.percentile(result.image, (0.5, 99.8))
    drawn = [np.clip((panel - low) / (high - low), 0, 1) for panel in panels]
    drawn.insert(2, np.nan_to_num(result.repeat_map, nan=0.5))
    OUT.mkdir(parents=True, exist_ok=True)
    pixels = (255 * np.hstack(drawn)).astype(np.uint8)
    imsave(OUT / f"halves_{name.replace(', ', '_').replace(' ', '_')}.png", pixels)
    return {
        "picture": name,
        "input by halves": halves["input"],
        "input by two shots": resolve([first, second]),
        "result by halves": halves["result"],
        "result by two shots": resolve([first, second], [result.image, other]),
        "result by truth": resolve_truly(result.image, truth) if truth.std() else None,
        "invented px": int(invented.sum()),
        "of it marked px": int((invented & marked).sum()),
        "true px": int(true.sum()),
        "of it falsely marked px": int((true & marked).sum()),
        "null spots per megapixel": result.report["null_control"]["rate"],
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return errors of the resolution, and shares of the marked areas."""
    summary: dict[str, Any] = {}
    for which, by in (("input", "two shots"), ("result", "two shots"), ("result", "truth")):
        ratios = np.array(
            [
                (row[f"{which} by halves"] or np.inf) / row[f"{which} by {by}"]
                for row in rows
                if row[f"{which} by {by}"] and "grating" not in row["picture"]
            ]
        )
        if len(ratios):
            head = f"{which} against {by}"
            summary[f"{head}: median ratio"] = float(np.median(ratios))
            summary[f"{head}: finer by 25 %"] = int((ratios < 0.75).sum())
            summary[f"{head}: coarser by 25 %"] = int((ratios > 1.25).sum())
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
