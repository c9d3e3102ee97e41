"""The loss of a fine regular pattern is reported, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from napari_dip.pipeline.assess.artefact_detection import PeriodicPattern, detect_pattern
from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics
from napari_dip.pipeline.assess.quality_checks import assess_quality
from napari_dip.samples import MITOCHONDRIA

SIDE = 96


def draw_grating(period: float, side: int = SIDE) -> np.ndarray:
    down, across = np.mgrid[:side, :side] / period
    return np.sqrt(2) * np.sin(2 * np.pi * (0.8 * across + 0.6 * down))


def make_noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(SIDE, SIDE))


def find_in_residual(residual, measured=None):
    return detect_pattern(residual[None], residual[None] if measured is None else measured[None])


@pytest.mark.parametrize("period", [2.2, 3.5, 6.0])
def test_a_grating_in_the_noise_is_found_with_its_period_and_its_share(period):
    pattern = find_in_residual(make_noise() + 0.5 * draw_grating(period))
    assert 1 / pattern.period == pytest.approx(1 / period, abs=1 / SIDE)
    assert pattern.fraction == pytest.approx(0.25 / 1.25, rel=0.3) and pattern.removed_fraction == 1


def test_a_checkerboard_is_its_own_mirror_and_not_counted_twice():
    down, across = np.mgrid[:SIDE, :SIDE]
    pattern = find_in_residual(make_noise() + 0.5 * (-1.0) ** (down + across))
    assert pattern.fraction == pytest.approx(0.25 / 1.25, rel=0.3)


def test_a_pattern_that_mostly_stayed_in_the_image_is_not_reported():
    residual = make_noise() + 0.5 * draw_grating(2.4)
    assert find_in_residual(
        residual, make_noise() + 0.6 * draw_grating(2.4)
    ).removed_fraction == pytest.approx((5 / 6) ** 2, rel=0.05)
    assert find_in_residual(residual, make_noise() + 3 * draw_grating(2.4)) is None


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_pattern_whatever_its_correlation(seed):
    white = make_noise(seed)
    striped = white + np.random.default_rng(seed + 9).normal(size=(SIDE, 1))
    for residual in (white, striped, gaussian_filter(white, 0.8), gaussian_filter(white, (0, 0.8))):
        assert find_in_residual(residual) is None


def test_what_a_filter_takes_from_an_ordinary_micrograph_is_no_pattern():
    shot = tifffile.imread(MITOCHONDRIA)[0].astype(float)
    assert find_in_residual(shot - gaussian_filter(shot, 1.5), shot) is None
    with_grating = shot + 0.5 * shot.std() * draw_grating(2.4, 320)
    residual = with_grating - gaussian_filter(with_grating, 1.5)
    assert find_in_residual(residual, with_grating).period == pytest.approx(2.4, rel=0.02)


def test_the_verdict_warns_of_a_pattern_and_only_then():
    calm = ResultMetrics(
        residual=ResidualMetrics(excess=0.0, noise_ratio=1.0, pixel_count=256 * 256), bias=0.0
    )
    before = assess_quality(calm)["warnings"]  # that no pixel was left out to the end
    assert not any("period" in message for message in before)
    sentences = assess_quality(
        replace(calm, pattern=PeriodicPattern(period=2.43, fraction=0.2, removed_fraction=0.83))
    )["warnings"]
    (message,) = (sentence for sentence in sentences if sentence not in before)
    assert (
        "period of 2.4 pixels" in message
        and "83%" in message
        and "belongs to the object" in message
    )
