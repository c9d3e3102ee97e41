"""Two exposures of one object: their intensities are matched, and the noise of each is measured."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_dip.engine.noise.estimate import compute_blind_spot_size
from napari_dip.engine.noise.repeated_exposure import match_intensities, measure_repeated_exposure

SIDE = 192


def make_scene() -> torch.Tensor:
    """Coarse structure of 50 to 250 units and fine stripes: nothing is flat."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, SIDE // 12, SIDE // 12, generator=rng, dtype=torch.float64)
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    stripes = torch.arange(SIDE, dtype=torch.float64).mul(1.3).sin()
    return 50 + 200 * smooth + 15 * stripes


def draw_normal(rng: torch.Generator) -> torch.Tensor:
    return torch.randn(1, SIDE, SIDE, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gain_and_offset_are_found_though_both_shots_are_noisy(seed: int) -> None:
    rng, truth = torch.Generator().manual_seed(seed), make_scene()
    first = truth + 40 * draw_normal(rng)
    second = 2.5 * (truth + 20 * draw_normal(rng)) + 100
    match = match_intensities(first, second)
    assert match.gain == pytest.approx(2.5, rel=0.02)
    assert match.offset == pytest.approx(100, abs=0.02 * 2.5 * 150)


def test_what_moved_between_the_shots_hardly_changes_the_gain() -> None:
    rng, truth = torch.Generator().manual_seed(3), make_scene()
    second = truth + 10 * draw_normal(rng)
    second[:, 20:60, 20:60] += 400
    assert match_intensities(truth + 10 * draw_normal(rng), second).gain == pytest.approx(
        1, abs=0.04
    )


@pytest.mark.parametrize(("gain", "read"), [(0.0, 12.0), (1.5, 5.0), (6.0, 3.0)])
def test_the_variance_model_is_measured_in_an_image_without_flat_areas(
    gain: float, read: float
) -> None:
    rng, truth = torch.Generator().manual_seed(4), make_scene()
    spread = (gain * truth + read**2).sqrt()
    ours, theirs = measure_repeated_exposure(
        truth + spread * draw_normal(rng), truth + spread * draw_normal(rng), 0
    )
    for signal in (80.0, 150.0, 220.0):
        expected = gain * signal + read**2
        for noise in (ours, theirs):
            assert noise.gain * signal + noise.intercept == pytest.approx(expected, rel=0.1)


def test_the_noisier_exposure_is_identified() -> None:
    rng, truth = torch.Generator().manual_seed(5), make_scene()
    ours, theirs = measure_repeated_exposure(
        truth + 10 * draw_normal(rng), truth + 20 * draw_normal(rng), 0
    )
    level = [noise.gain * 150 + noise.intercept for noise in (ours, theirs)]
    assert level[0] == pytest.approx(100, rel=0.2)
    assert level[1] == pytest.approx(400, rel=0.1)


def test_stripes_that_both_shots_share_are_not_taken_for_correlated_noise() -> None:
    rng, truth = torch.Generator().manual_seed(6), make_scene()
    ours, _ = measure_repeated_exposure(
        truth + 5 * draw_normal(rng), truth + 5 * draw_normal(rng), 0
    )
    assert compute_blind_spot_size([ours], (SIDE, SIDE)) == (1, 1)


def test_noise_shared_by_neighbours_is_seen() -> None:
    rng, truth = torch.Generator().manual_seed(7), make_scene()
    shots = (truth + 15 * F.avg_pool2d(draw_normal(rng), 3, 1, 1) for _ in range(2))
    ours, _ = measure_repeated_exposure(*shots, 0)
    assert min(compute_blind_spot_size([ours], (SIDE, SIDE))) >= 5


def test_a_single_grey_value_has_no_gain() -> None:
    with pytest.raises(ValueError, match="one value"):
        match_intensities(torch.ones(1, 32, 32), torch.rand(1, 32, 32))
