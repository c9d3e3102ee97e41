"""PSNR of filled lines, blocks, rows and pixels in crops of real images, against simple fillings.

Usage: python benchmarks/inpaint_shapes.py [--preset fast] [--only cell moon] [--holes rows]
The middle 128 x 128 pixels of 20 images: four fields of FMD (the mean of 50 captures, and a single
shot), single shots of two fields of W2S and two of Hagen et al., four of Set12, four of
scikit-image. Holes: *lines*, six columns and six rows of one pixel at random places; *blocks*,
squares of 20, 20 (10 rows) and 8 pixels; *rows*, twice four rows; *scattered*, 0.15 of the pixels.
PSNR is over the filled pixels, its peak the range of the truth, to which the brightness of W2S and
Hagen is fitted. *Local mean*: the best of five Gaussian widths, chosen by the truth. *Error / SD*:
root mean square error in the holes over the stated one.
"""

from __future__ import annotations

import argparse
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.io import imread
from skimage.restoration import inpaint_biharmonic

import napari_dip as dip
from shared_data import data_folder, fmd, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

SIDE = 128
FIELDS = ("Confocal_BPAE_B", "TwoPhoton_BPAE_R", "WideField_BPAE_R", "Confocal_BPAE_G")
SHOTS = (  # image, truth
    ("w2s/010_0_noisy_avg1", "w2s/010_0_gt_avg400"),
    ("w2s/044_0_noisy_avg1", "w2s/044_0_gt_avg400"),
    ("hagen_cc0/mito-60x-noise1_lowsnr", "hagen_cc0/mito-60x-noise1_highsnr"),
    ("hagen_cc0/mito-60x-noise2_lowsnr", "hagen_cc0/mito-60x-noise2_highsnr"),
)
SAMPLES = ("cell", "brick", "moon", "coins")
WIDTHS = (0.8, 1.2, 1.8, 2.6, 4)


def list_images() -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield names, images and truths."""
    for field in FIELDS:
        shot, truth = fmd(field, 1)
        yield f"{field}, mean", truth, truth
        yield f"{field}, shot", shot, truth
    for path in sorted((data_folder() / "set12").glob("*.png"))[::2]:
        yield path.stem, imread(path), imread(path)
    for name in SAMPLES:
        yield name, getattr(data, name)(), getattr(data, name)()
    for pair in SHOTS:
        shot, truth = (imread(data_folder() / f"{name}.png").astype(float) for name in pair)
        yield pair[0], shot, np.polyval(np.polyfit(truth.ravel(), shot.ravel(), 1), truth)


def draw_holes(rng: np.random.Generator) -> dict[str, npt.NDArray[np.bool_]]:
    """Return masks of the four kinds of holes."""
    lines, blocks, rows = (np.zeros((SIDE, SIDE), bool) for _ in range(3))
    for _ in range(6):
        lines[:, rng.integers(SIDE)] = True
        lines[rng.integers(SIDE), :] = True
    blocks[50:70, 40:60] = blocks[90:100, 80:100] = blocks[20:28, 20:28] = True
    rows[30:34] = rows[80:84] = True
    scattered = rng.random((SIDE, SIDE)) < 0.15
    return {"lines": lines, "blocks": blocks, "rows": rows, "scattered": scattered}


def fill_by_local_means(
    image: npt.NDArray[Any], holes: npt.NDArray[np.bool_], width: float
) -> npt.NDArray[np.float64]:
    """Return means of measured pixels, weighted by a Gaussian window."""
    weights = gaussian_filter((~holes).astype(float), width).clip(min=1e-12)
    return np.asarray(gaussian_filter(np.where(holes, 0, image), width) / weights)


def main() -> None:
    """Fill all holes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--only", nargs="+", help="names of images")
    parser.add_argument("--holes", nargs="+", help="kinds of holes")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, (name, image, truth) in enumerate(list_images()):
        if options.only and name not in options.only:
            continue
        y, x = (size // 2 - SIDE // 2 for size in image.shape)
        crop, true = (whole[y : y + SIDE, x : x + SIDE].astype(float) for whole in (image, truth))
        for kind, holes in draw_holes(np.random.default_rng(number)).items():
            if options.holes and kind not in options.holes:
                continue
            holed = np.where(holes, 0, crop)
            ours = dip.inpaint(holed.astype(np.float32), mask=holes, preset=options.preset)
            means = [fill_by_local_means(holed, holes, width)[holes] for width in WIDTHS]
            fillings = {
                "ours": ours.image[holes],
                "biharmonic": inpaint_biharmonic(holed, holes)[holes],
                "local mean": min(means, key=lambda mean: ((mean - true[holes]) ** 2).mean()),
            }
            row: dict[str, Any] = {"image": name, "holes": kind}
            errors = {t: np.mean((fill - true[holes]) ** 2) for t, fill in fillings.items()}
            for title, error in errors.items():
                row[title] = float(10 * np.log10(np.ptp(true) ** 2 / error))
            stated = np.square(ours.uncertainty[holes]).mean()
            row["error / SD"] = float(np.sqrt(errors["ours"] / stated))
            row["headline"] = ours.report["verdict"]["kind"]
            rows.append(row)
    summary: dict[str, Any] = {"ours": mean(row["ours"] for row in rows)}
    for title in ("biharmonic", "local mean"):
        more = [row["ours"] - row[title] for row in rows]
        summary |= {f"more than {title}": mean(more), f"least, {title}": min(more)}
        summary[f"below {title}"] = sum(value < 0 for value in more)
    write(f"inpaint_shapes_{options.preset}", rows, summary)


if __name__ == "__main__":
    main()
