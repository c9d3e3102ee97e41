"""PSNR of denoised crops that were edited as images are before they come to a denoiser.

Usage: python benchmarks/edited_images.py [--preset fast] [--only padded "JPEG 75"] [--black]
       [--others]
Crops of 192 x 192 pixels: single shots of four fields of FMD ([160:352, 200:392], the mean of 50 as
truth), and two photographs of scikit-image with synthetic photon noise. The truth is edited alike
where the edit is not a fault. A gain and an offset are fitted to each result, since captures differ
in brightness. *Gaussian*: the best of five widths, chosen by the truth.

`--others`: 14 other crops of FMD, W2S and Hagen et al. instead, on which nothing was chosen.
`--black`: five scenes of bright structures on black instead, photon noise with 3.5 grey values a
photon, an offset of 3.4 and read noise of 0.3; no gain and offset are fitted.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter, rotate, zoom
from skimage import data
from skimage.io import imread

import napari_dip as dip
from shared_data import data_folder, fmd, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Picture = npt.NDArray[np.float64]

SIDE = 192
OTHER_CROPS = (  # image, truth, first row and column
    ("fmd/Confocal_BPAE_B_raw3", "fmd/Confocal_BPAE_B_gt", 300, 280),
    ("fmd/Confocal_BPAE_R_raw1", "fmd/Confocal_BPAE_R_gt", 60, 250),
    ("fmd/TwoPhoton_BPAE_B_raw4", "fmd/TwoPhoton_BPAE_B_gt", 20, 20),
    ("fmd/TwoPhoton_BPAE_R_raw2", "fmd/TwoPhoton_BPAE_R_gt", 90, 60),
    ("fmd/WideField_BPAE_R_raw1", "fmd/WideField_BPAE_R_gt", 300, 40),
    ("fmd/WideField_BPAE_B_raw2", "fmd/WideField_BPAE_B_gt", 290, 60),
    ("fmd/Confocal_BPAE_G_raw2", "fmd/Confocal_BPAE_G_gt", 20, 300),
    ("w2s/010_0_noisy_avg1", "w2s/010_0_gt_avg400", 30, 260),
    ("w2s/044_0_noisy_avg1", "w2s/044_0_gt_avg400", 30, 260),
    ("w2s/077_2_noisy_avg1", "w2s/077_2_gt_avg400", 30, 260),
    ("w2s/100_1_noisy_avg1", "w2s/100_1_gt_avg400", 30, 260),
    ("hagen_cc0/mito-60x-noise1_lowsnr", "hagen_cc0/mito-60x-noise1_highsnr", 100, 100),
    ("hagen_cc0/mito-confocal_lowsnr", "hagen_cc0/mito-confocal_highsnr", 100, 100),
    ("hagen_cc0/mito-60x-noise2_lowsnr", "hagen_cc0/mito-60x-noise2_highsnr", 100, 100),
)
FIELDS = {"Confocal_BPAE_B": 2, "Confocal_BPAE_G": 3, "TwoPhoton_BPAE_R": 2, "WideField_BPAE_R": 2}
WIDTHS = (0.5, 0.8, 1.2, 1.8, 2.6)
Y, X = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]


def pad(image: Picture) -> Picture:
    """Keep a rectangle; the rest is 0, as in a mosaic."""
    padded = np.zeros_like(image)
    padded[20:150, 30:] = image[20:150, 30:]
    return padded


def cut_box(image: Picture) -> Picture:
    """Set a rectangle to 0."""
    return np.where((abs(Y + 0.11) < 0.26) & (abs(X - 0.04) < 0.31), 0, image)


def sharpen(image: Picture) -> Picture:
    """Mask unsharply."""
    return 2 * image - gaussian_filter(image, 1.5)


def compress(image: Picture, quality: int, top: float) -> Picture:
    """Scale to 8 bits and save as JPEG."""
    buffer = BytesIO()
    pixels = np.clip(255 * image / top, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), float)


def subtract_background(image: Picture) -> Picture:
    """Subtract the image blurred by 25 pixels."""
    return image - gaussian_filter(image, 25)


def join_tiles(image: Picture) -> Picture:
    """Give parts a gain and an offset of their own, as in a mosaic."""
    gain = np.where(X > 0, 1.3, 1) * np.where(Y > 0.2, 0.8, 1)
    return gain * image + np.where(X > 0, 10, 0)


#: Edits that hold for the truth as well.
EDITS: dict[str, Callable[[Picture], Picture]] = {
    "none": lambda image: image,
    "padded": pad,
    "black rectangle": cut_box,
    "rotated by 15 degrees": lambda image: rotate(image, 15, reshape=False, order=1),
    "circle on black": lambda image: np.where(np.hypot(Y, X) < 0.94, image, 0),
    "flat field": lambda image: image * (1 - 0.4 * (Y**2 + X**2) / 2),
    "background subtracted": subtract_background,
    "tiles": join_tiles,
    "vignette": lambda image: image * (1 - 0.6 * (Y**2 + X**2) / 2),
    "flattened": lambda image: image / (1 - 0.6 * (Y**2 + X**2) / 2),
    "logarithm": lambda image: np.log1p(image.clip(0)),
    "gain of one half": lambda image: np.where(X > 0, 1.6, 1) * image,
    "sharpened": sharpen,
    "enlarged, nearest": lambda image: np.kron(image, np.ones((2, 2)))[:SIDE, :SIDE],
    "enlarged, linear": lambda image: zoom(image, 2, order=1)[:SIDE, :SIDE],
    "enlarged, cubic": lambda image: zoom(image, 2, order=3)[:SIDE, :SIDE],
    "blurred by 0.7": lambda image: gaussian_filter(image, 0.7),
}
#: Edits of the noisy crop whose highest value is given, and of the truth.
SCALED_EDITS: dict[str, tuple[Callable[..., Picture], Callable[..., Picture]]] = {
    "JPEG 75": (lambda image, top: compress(image, 75, top), lambda image, top: 255 * image / top),
    "JPEG 90": (lambda image, top: compress(image, 90, top), lambda image, top: 255 * image / top),
    "squared": (
        lambda image, top: (image / top) ** 2,
        lambda image, top: (image / top) ** 2,
    ),
    "inverted": (lambda image, top: top - image, lambda image, top: top - image),
    "median of 3 x 3": (lambda image, _: median_filter(image, 3), lambda image, _: image),
}


def list_crops() -> Iterator[tuple[str, Picture, Picture]]:
    """Yield names, noisy crops and truths."""
    for field, capture in FIELDS.items():
        shot, truth = (whole[160:352, 200:392].astype(float) for whole in fmd(field, capture))
        yield field, shot, truth
    rng = np.random.default_rng(5)
    for name, whole in (("cell", data.cell()[200:, 200:]), ("camera", data.camera()[100:, 180:])):
        light = gaussian_filter(whole[:SIDE, :SIDE].astype(float), 1)
        light = 30 * light / light.max() + 1
        noisy = 20 * rng.poisson(light) + rng.normal(0, 10, light.shape) + 100
        yield name, noisy, 20 * light + 100


def list_other_crops() -> Iterator[tuple[str, Picture, Picture]]:
    """Yield names, noisy crops and truths of other images."""
    for noisy, truth, row, column in OTHER_CROPS:
        crop = slice(row, row + SIDE), slice(column, column + SIDE)
        pixels = (imread(data_folder() / f"{name}.png")[crop] for name in (noisy, truth))
        yield noisy, *(picture.astype(float) for picture in pixels)


def list_black_scenes() -> Iterator[tuple[str, Picture, Picture]]:
    """Yield names, noisy scenes and truths."""
    coins = gaussian_filter(data.coins()[50:242, 50:242].astype(float), 1.5)
    gravel = gaussian_filter(data.gravel()[:SIDE, :SIDE].astype(float), 2)
    cell = gaussian_filter(data.cell()[200:392, 200:392].astype(float), 1)
    scenes = {
        "coins": (coins - 110) / 3,
        "gravel": (gravel - np.quantile(gravel, 0.6)) / 4,
        "cell": (cell - 70) / 2,
    }
    rng = np.random.default_rng(0)
    for width in (8, 5):
        blobs = gaussian_filter(rng.normal(size=(SIDE, SIDE)), width)
        scenes[f"blobs of {width}"] = 30 * (blobs / blobs.std() - 0.3)
    for name, scene in scenes.items():
        light, draw = np.clip(scene, 0, None), np.random.default_rng(1)
        noise = draw.normal(0, 0.3, light.shape)
        yield name, 3.5 * draw.poisson(light) + 3.4 + noise, 3.5 * light + 3.4


def compute_psnr(result: npt.NDArray[Any], truth: Picture, *, is_fitted: bool) -> float:
    """Return PSNR over the range of the truth, after a fit of gain and offset if asked."""
    image = result.astype(float)
    if is_fitted:
        image = np.polyval(np.polyfit(image.ravel(), truth.ravel(), 1), image)
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean((image - truth) ** 2)))


def main() -> None:
    """Restore all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--only", nargs="+", help="names of edits")
    parser.add_argument("--black", action="store_true")
    parser.add_argument("--others", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    scenes = list_other_crops if options.others else list_crops
    crops = list(list_black_scenes() if options.black else scenes())
    for edit in ("none",) if options.black else (*EDITS, *SCALED_EDITS):
        if options.only and edit not in options.only:
            continue
        for name, noisy, truth in crops:
            if edit in EDITS:
                image, target = EDITS[edit](noisy), EDITS[edit](truth)
            else:
                image, target = (
                    apply(p, noisy.max())
                    for apply, p in zip(SCALED_EDITS[edit], (noisy, truth), strict=True)
                )
            result = dip.denoise(image.astype(np.float32), preset=options.preset)
            candidates = {"input": [image], "output": [np.asarray(result.image)]}
            candidates["Gaussian"] = [gaussian_filter(image, width) for width in WIDTHS]
            row: dict[str, Any] = {"edit": edit, "crop": name}
            for title, images in candidates.items():
                psnr = (compute_psnr(p, target, is_fitted=not options.black) for p in images)
                row[title] = max(psnr)
            row["verdict"] = str(result.report["verdict"]["kind"])
            rows.append(row)
    gains = [row["output"] - row["input"] for row in rows]
    summary = {
        "mean gain": float(np.mean(gains)),
        "below 0.2 dB": sum(gain < 0.2 for gain in gains),
    }
    kind = "black_" * options.black + "others_" * options.others
    write(f"edited_images_{kind}{options.preset}", rows, summary)


if __name__ == "__main__":
    main()
