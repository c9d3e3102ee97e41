"""Dark frames, flat frames and dark pixels give gain, read noise and offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_dip.engine.noise.estimate import estimate_noise
from napari_dip.engine.noise.flat_blocks import DarkLevel
from napari_dip.engine.noise.repeated_exposure import (
    has_varied_light,
    measure_dark_level,
    measure_photon_transfer,
)

GAIN, READ, OFFSET = 2.5, 4.0, 100.0


def make_frames(light: float | np.ndarray, count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    shape = (count, 64, 64)
    shots = GAIN * rng.poisson(light, shape) + rng.normal(0, READ, shape) + OFFSET
    return torch.from_numpy(shots)


def test_dark_frames_give_offset_and_read_noise() -> None:
    dark = measure_dark_level(make_frames(0, 8))
    assert dark.offset == pytest.approx(OFFSET, rel=0.01)
    assert dark.read_noise == pytest.approx(READ, rel=0.05)


def test_offsets_of_single_pixels_are_no_read_noise() -> None:
    fixed = torch.from_numpy(np.random.default_rng(1).normal(0, 20, (1, 64, 64)))
    assert measure_dark_level(make_frames(0, 8) + fixed).read_noise == pytest.approx(READ, rel=0.05)


def test_hot_pixels_of_one_dark_frame_do_not_count() -> None:
    dark = make_frames(0, 1)
    dark[0, ::16, ::16] = 4000
    assert measure_dark_level(dark).read_noise == pytest.approx(READ, rel=0.1)


def test_flat_frames_give_the_gain_with_a_dark_frame() -> None:
    flat = make_frames(200, 4) * torch.tensor([1.0, 1.0, 1.0, 1.0])[:, None, None]
    gain, intercept = measure_photon_transfer(flat, DarkLevel(OFFSET, READ))
    assert gain == pytest.approx(GAIN, rel=0.05)
    assert intercept == pytest.approx(READ**2 - gain * OFFSET)


def test_uneven_flat_frames_give_only_the_variance_model() -> None:
    ramp = np.linspace(20, 800, 64)[None, None].repeat(64, 1)
    frames = make_frames(ramp, 6)
    assert has_varied_light(frames)
    gain, intercept = measure_photon_transfer(frames, None)
    assert gain == pytest.approx(GAIN, rel=0.1)
    assert gain * OFFSET + intercept == pytest.approx(READ**2, abs=0.05 * GAIN**2 * 400)


def test_light_that_falls_off_to_the_border_does_not_tell_the_gain() -> None:
    falloff = np.linspace(160, 200, 64)[None, None].repeat(64, 1)
    assert not has_varied_light(make_frames(falloff, 6))


def test_one_flat_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="two frames"):
        measure_photon_transfer(make_frames(200, 1), None)


def draw_cells(background: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    spots = gaussian_filter((rng.random((256, 256)) > 0.999).astype(float), 8)
    light = background + 300 * np.clip(spots / spots.max() - 0.2, 0, None)
    return np.asarray(GAIN * rng.poisson(light) + rng.normal(0, READ, light.shape) + OFFSET)


def test_dark_pixels_of_an_image_give_offset_and_read_noise() -> None:
    estimate = estimate_noise(torch.from_numpy(draw_cells(0))[None], 0)
    assert estimate.offset == pytest.approx(OFFSET, abs=READ / 2)
    assert estimate.read_noise == pytest.approx(READ, rel=0.1)


def test_an_image_without_dark_pixels_gives_neither_offset_nor_read_noise() -> None:
    rng = np.random.default_rng(0)
    light = np.linspace(20, 300, 256)[None].repeat(256, 0)
    shot = GAIN * rng.poisson(light) + rng.normal(0, READ, light.shape) + OFFSET
    estimate = estimate_noise(torch.from_numpy(shot)[None], 0)
    assert (estimate.offset, estimate.read_noise) == (None, None)
