"""Noise between scattered holes is measured in pixels that are moved together."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage
from skimage import data

import napari_dip as dip
from napari_dip.engine.noise import UnreliableReason
from napari_dip.engine.noise.estimate import estimate_noise
from napari_dip.engine.noise.flat_blocks import pack_measured_pixels
from napari_dip.samples import MITOCHONDRIA

SCENES = {
    "cell": data.cell()[100:260, 100:260].astype(float),
    "camera": data.camera()[100:260, 100:260].astype(float),
}


def draw_mask(missing: float, shape: tuple[int, int] = (160, 160)) -> np.ndarray:
    return np.random.default_rng(1).random(shape) > missing


@pytest.mark.parametrize("missing", [0.3, 0.5, 0.7, 0.8])
@pytest.mark.parametrize("name", SCENES)
def test_the_noise_of_measured_pixels_is_known_within_a_quarter(name: str, missing: float) -> None:
    truth, mask = SCENES[name], draw_mask(missing)
    noisy = truth + np.random.default_rng(0).normal(0, 15, truth.shape)
    planes = torch.from_numpy(np.where(mask, noisy, 0))[None]
    estimate = estimate_noise(planes, 0.0, torch.from_numpy(mask)[None])
    assert estimate.unreliable_reason is UnreliableReason.SCATTERED_HOLES
    variance = float(estimate.compute_variance(torch.tensor(truth.mean())))
    assert variance == pytest.approx(225, rel=0.25)


def test_noise_below_a_grey_level_is_not_called_uncertain_because_of_holes() -> None:
    image = np.rint(100 + np.random.default_rng(0).normal(0, 0.2, (160, 160)))
    mask = torch.from_numpy(draw_mask(0.5))[None]
    estimate = estimate_noise(torch.from_numpy(image)[None], 1.0, mask)
    assert estimate.unreliable_reason is UnreliableReason.COARSE_GREY_VALUES


def test_measured_pixels_are_moved_together_in_their_order() -> None:
    planes = torch.arange(96 * 96).reshape(1, 96, 96)
    packed = pack_measured_pixels(planes, planes % 2 == 0)
    assert packed is not None
    upper, lower = planes[:, ::2, ::2], planes[:, 1::2, ::2]  # half is missing: two rows are merged
    torch.testing.assert_close(packed, torch.stack([upper, lower], -1).flatten(2))


def test_nothing_is_moved_across_a_wide_hole() -> None:
    mask = torch.from_numpy(draw_mask(0.5))[None]
    mask[:, :, 60:110] = False
    assert pack_measured_pixels(torch.zeros(1, 160, 160), mask) is None


@pytest.mark.parametrize("unmasked", ["denoise", "keep"])
def test_unmasked_pixels_between_scattered_holes_are_denoised(unmasked: str) -> None:
    shot, truth = (plane[64:160, 64:160].astype(float) for plane in tifffile.imread(MITOCHONDRIA))
    mask = draw_mask(0.5, shot.shape)
    result = dip.inpaint(
        np.where(mask, shot, 0).astype(np.float32),
        mask=(~mask).astype(np.uint8),
        preset="fast",
        unmasked=unmasked,
        max_iterations=20,
    )
    errors = [((image - truth)[mask] ** 2).mean() for image in (result.image, shot)]
    assert (errors[0] < 0.6 * errors[1]) == (unmasked == "denoise")
    codes = [note["code"] for note in result.report["note_codes"]]
    assert codes.count("noise-unreliable-scattered-holes") == 1


@pytest.mark.parametrize(("std", "is_doubted"), [(0, False), (15, True)])
def test_strong_noise_between_scattered_holes_may_fill_them_and_is_no_fine_result(
    std: float, is_doubted: bool
) -> None:
    image, mask = SCENES["cell"], draw_mask(0.5)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=image.shape), 0.8)
    noisy = np.where(mask, image + std * noise / noise.std(), 0)
    result = dip.inpaint(
        noisy.astype(np.float32), mask=(~mask).astype(np.uint8), preset="instant", max_iterations=5
    )
    codes = {note["code"] for note in result.report["note_codes"]}
    assert ("noise-unreliable-scattered-holes" in codes) == is_doubted
    assert result.report["verdict"]["headline"].startswith("Look closer") == is_doubted
