"""The pictures of the quality benchmark: what is noisy, what is true, and how they are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tifffile
from skimage.io import imread
from skimage.metrics import structural_similarity

from shared_data import FMD_FIELDS, OUT, counts, data_folder, psnr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Picture = npt.NDArray[np.float64]

#: Crops of the reference-size network: the middle of each field's first capture, 3,000 steps of
#: it on 512 x 512 pixels would take four times as long.
CROP = (slice(128, 384), slice(128, 384))
#: Standard deviations on each side that hold 90 % of a Gaussian.
NINETY = 1.645
#: FMD fields that nothing was chosen on (docs/benchmarks/fmd.md), one for each microscope; a colour
#: picture, a grey one, a camera's own noise, and one pair of each further microscope.
SMALL = (
    "fmd/Confocal_BPAE_R_raw1",
    "fmd/TwoPhoton_BPAE_R_raw1",
    "fmd/WideField_BPAE_B_raw1",
    "color9-25/peppers",
    "set12-25/03_peppers",
    "cc15/d600_iso3200_1",
    "w2s/031_2",
    "hagen/nucleus",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One noisy picture and its truth.

    Attributes
    ----------
    group, name : str
        The set, and the picture in it.
    source : Path
        The shared file, or the file that the truth lies in where the noise is ours.
    load : callable
        () -> noisy, truth, both on a scale of 0 to 255, (Y, X) or (Y, X, 3).
    sigma : float or None
        Standard deviation of the noise where it is known; never told to our presets.
    given : Path
        The file that the installed command reads.
    stretched : bool
        Noisy and true picture differ in gain and offset, so a straight line is fitted as well.
    published : tuple of str and Path
        Outputs that others have published for this very input.
    """

    group: str
    name: str
    source: Path
    load: Callable[[], tuple[Picture, Picture]]
    input_path: Path
    sigma: float | None = None
    stretched: bool = False
    published: tuple[tuple[str, Path], ...] = ()

    @property
    def key(self) -> str:
        """Set and picture, as `--only` takes them."""
        return f"{self.group}/{self.name}"


def fmd_cases() -> Iterator[Case]:
    """Seven fields, four captures each; WideField_BPAE_B has the same pixels in 1 and 2."""
    for field in FMD_FIELDS:
        for capture in (1, 2, 3, 4):
            noisy = data_folder() / "fmd" / f"{field}_raw{capture}.png"
            yield _pair("fmd", noisy.stem, noisy, noisy.with_name(f"{field}_gt.png"))


def fmd_crop_cases() -> Iterator[Case]:
    """256 x 256 pixels of one capture a field, for the reference-size network."""
    for field in FMD_FIELDS:
        noisy = data_folder() / "fmd" / f"{field}_raw1.png"
        truth = noisy.with_name(f"{field}_gt.png")
        load = partial(_cropped, noisy, truth)
        yield Case("fmd256", noisy.stem, noisy, load, make_file("fmd256", noisy.stem))


def colour_cases(sigma: int) -> Iterator[Case]:
    """Noisy inputs of the Deep Image Prior project page: clipped, rounded, as published."""
    for truth in sorted((data_folder() / "color9").glob("*_gt.png")):
        name = truth.stem.removesuffix("_gt")
        noisy = truth.with_name(f"{name}_noisy{sigma}.png")
        dip = truth.with_name(f"{name}_dip{sigma}_published.png")
        yield Case(
            f"color9-{sigma}",
            name,
            noisy,
            partial(_read, noisy, truth),
            noisy,
            sigma,
            published=(("published DIP", dip),) if dip.is_file() else (),
        )


def grey_cases(group: str, sigma: int) -> Iterator[Case]:
    """Gaussian noise added by us, seed 0 and the file's name, neither clipped nor rounded."""
    for truth in sorted((data_folder() / group).glob("*.png")):
        name = f"{group}-{sigma}"
        yield Case(
            name,
            truth.stem,
            truth,
            partial(_noised, truth, sigma),
            make_file(name, truth.stem),
            sigma,
        )


def camera_cases() -> Iterator[Case]:
    """Real camera noise and the mean of many shots, in colour."""
    for truth in sorted((data_folder() / "cc15").glob("*_mean.png")):
        name = truth.stem.removesuffix("_mean")
        yield _pair("cc15", name, truth.with_name(f"{name}_real.png"), truth)


def processed_cases() -> Iterator[Case]:
    """Real camera noise after JPEG, and the mean of many shots, in colour."""
    for truth in sorted((data_folder() / "polyu").glob("*_gt.JPG")):
        name = truth.stem.removesuffix("_gt")
        yield _pair("polyu", name, truth.with_name(f"{name}_noisy.JPG"), truth)


def zero_shot_cases(sigma: int) -> Iterator[Case]:
    """Colour pictures of the zero-shot tables: seed 123 for each, cut off at black and white."""
    group = f"kodak256-{sigma}"
    for truth in sorted((data_folder() / "kodak256").glob("*.png")):
        load = partial(_cut_off, truth, sigma)
        yield Case(group, truth.stem, truth, load, make_file(group, truth.stem), sigma)


def w2s_cases() -> Iterator[Case]:
    """Widefield: one shot against the mean of 400, each stretched to 8 bit by itself."""
    for truth in sorted((data_folder() / "w2s").glob("*_gt_avg400.png")):
        name = truth.stem.removesuffix("_gt_avg400")
        noisy = truth.with_name(f"{name}_noisy_avg1.png")
        yield _pair("w2s", name, noisy, truth, stretched=True)


def hagen_cases() -> Iterator[Case]:
    """Short and long exposures of fluorescent cells, each stretched to 8 bit by itself."""
    for truth in sorted((data_folder() / "hagen_cc0").glob("*_highsnr.png")):
        name = truth.stem.removesuffix("_highsnr")
        noisy = truth.with_name(f"{name}_lowsnr.png")
        yield _pair("hagen", name, noisy, truth, stretched=True)


SETS: dict[str, Callable[[], Iterator[Case]]] = {
    "fmd": fmd_cases,
    "fmd256": fmd_crop_cases,
    "color9-25": partial(colour_cases, 25),
    "color9-50": partial(colour_cases, 50),
    "set12-25": partial(grey_cases, "set12", 25),
    "set12-50": partial(grey_cases, "set12", 50),
    "bsd68-25": partial(grey_cases, "bsd68", 25),
    "bsd68-50": partial(grey_cases, "bsd68", 50),
    "cc15": camera_cases,
    "polyu": processed_cases,
    "kodak256-25": partial(zero_shot_cases, 25),
    "kodak256-50": partial(zero_shot_cases, 50),
    "w2s": w2s_cases,
    "hagen": hagen_cases,
}


def line_fit(image: npt.NDArray[Any], truth: Picture) -> tuple[float, float]:
    """Gain and offset that bring an image nearest to the truth, in least squares."""
    design = np.column_stack([np.ravel(image).astype(np.float64), np.ones(truth.size)])
    (gain, offset), *_ = np.linalg.lstsq(design, truth.ravel(), rcond=None)
    return float(gain), float(offset)


def line_psnr(image: npt.NDArray[Any], truth: Picture) -> float:
    """PSNR after the gain and offset that suit best in least squares; peak 255, not rounded."""
    gain, offset = line_fit(image, truth)
    error = gain * image.astype(np.float64) + offset - truth
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def interval_coverage(
    case: Case, image: npt.NDArray[Any], uncertainty: npt.NDArray[Any], truth: Picture
) -> float:
    """Share of pixels whose true value lies in the interval that should hold 90 %.

    The fit is compared without rounding, since the intervals are those of the unrounded estimate.
    """
    gain, offset = line_fit(image, truth) if case.stretched else (1.0, 0.0)
    error = np.abs(gain * image.astype(np.float64) + offset - truth)
    return float(np.mean(error <= NINETY * abs(gain) * uncertainty))


def judged(case: Case, image: npt.NDArray[Any], truth: Picture) -> dict[str, float]:
    """All figures of one output."""
    channel_axis = -1 if truth.ndim == 3 else None
    similarity = structural_similarity(
        image.astype(np.float64), truth, data_range=255, channel_axis=channel_axis
    )
    scores = {"psnr": psnr(image, truth), "ssim": float(similarity)}
    return {**scores, "line_psnr": line_psnr(image, truth)} if case.stretched else scores


def fingerprint(picture: Picture) -> str:
    """Tell pictures apart by their pixels."""
    return sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()[:16]


def given_file(case: Case, noisy: Picture) -> Path:
    """Write the noisy picture where there is no shared file of it, as a TIFF."""
    if not case.input_path.is_file():
        case.input_path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(case.input_path, counts(noisy))
    return case.input_path


def _pair(group: str, name: str, noisy: Path, truth: Path, stretched: bool = False) -> Case:
    return Case(group, name, noisy, partial(_read, noisy, truth), noisy, stretched=stretched)


def make_file(group: str, name: str) -> Path:
    return OUT / "quality" / "given" / f"{group}_{name}.tif"


def _read(noisy: Path, truth: Path) -> tuple[Picture, Picture]:
    return imread(noisy).astype(np.float64), imread(truth).astype(np.float64)


def _cropped(noisy: Path, truth: Path) -> tuple[Picture, Picture]:
    first, second = _read(noisy, truth)
    return first[CROP], second[CROP]


def _noised(path: Path, sigma: int) -> tuple[Picture, Picture]:
    truth = imread(path).astype(np.float64)
    seed = [0, *path.stem.encode()]  # else all pictures of one size had the same noise
    noise = np.random.default_rng(seed).normal(0, sigma, truth.shape)
    return (truth + noise).astype(np.float32).astype(np.float64), truth


def _cut_off(path: Path, sigma: int) -> tuple[Picture, Picture]:
    """Draw noise from PyTorch, as the page of the shared data has it."""
    import torch

    truth = imread(path).astype(np.float64)
    clean = torch.from_numpy(truth.transpose(2, 0, 1)[None] / 255).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(123)) * sigma / 255
    noisy = (clean + noise).clamp(0, 1)[0].permute(1, 2, 0).double().numpy()
    return 255 * noisy, truth
