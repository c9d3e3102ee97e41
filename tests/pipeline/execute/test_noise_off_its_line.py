"""Noise whose variance is no line in brightness is measured again where pixels were hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from napari_dip.engine.noise import UnreliableReason
from napari_dip.engine.noise.estimate import NoiseEstimate
from napari_dip.tasks.base import NoiseSettings
from napari_dip.tasks.priors.image_input import find_off_model_channels


def rms(image: np.ndarray) -> float:
    return float(np.sqrt(np.mean(image**2)))


def test_speckle_is_removed_where_it_is_weak_and_where_it_is_strong():
    crop = gaussian_filter(data.camera()[100:260, 180:340].astype(float), 1)
    light = 8 + 227 * (crop - crop.min()) / np.ptp(crop)
    noisy = light * np.random.default_rng(3).gamma(10, 0.1, light.shape)
    result = dip.denoise(noisy.astype(np.float32), preset="instant", threads=1)
    codes = {note["code"] for note in result.report["note_codes"]}
    assert {"noise-unreliable-off-variance-model", "noise-measured-again"} <= codes
    for part in (light < 60, light > 120):
        assert rms((result.image - light)[part]) < 0.45 * rms((noisy - light)[part])


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        (NoiseSettings(), (1,)),
        (NoiseSettings(model="speckle"), ()),
        (NoiseSettings(gain=2.0), ()),
        (NoiseSettings(read_noise=2.0), ()),
    ],
)
def test_noise_that_the_user_chose_is_not_measured_again(settings, channels):
    on_line = NoiseEstimate(gain=1.0, intercept=1.0, floor=1.0)
    off_line = replace(on_line, unreliable_reason=UnreliableReason.OFF_VARIANCE_MODEL)
    texture = replace(on_line, unreliable_reason=UnreliableReason.TEXTURE)
    assert find_off_model_channels([on_line, off_line, texture], settings) == channels
