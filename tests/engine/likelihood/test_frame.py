"""Lines along the border are restored from the residual, and noise is not."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.likelihood.lost_detail import restore_border_detail

MASK = torch.ones(1, 1, 1, 1)
NOISE = NoiseVariance(gain=0 * MASK, intercept=0.01 * MASK, floor=1e-4 * MASK)


def make_noise(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, 96, 80, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("place", [(..., 0, slice(None)), (..., -1), (..., -3, slice(None))])
def test_a_line_that_the_network_has_smoothed_away_comes_back(place: tuple) -> None:
    truth = torch.zeros(1, 1, 96, 80)
    truth[place] = 0.5
    measured = truth + make_noise()
    answer = restore_border_detail(NOISE, measured, torch.zeros_like(truth))
    # of the line, less than a quarter of the noise is left
    assert float((answer - truth)[place].square().mean()) < 0.25 * 0.01
    inside = (..., slice(4, -4), slice(4, -4))
    assert not answer[inside].any()


def test_noise_alone_is_left_where_it_is() -> None:
    added = [
        restore_border_detail(NOISE, make_noise(seed), 0 * make_noise()).square().sum()
        for seed in range(6)
    ]
    lines = 6 * (96 + 80)
    assert float(sum(added)) / 6 < 0.05 * 0.01 * lines


def test_small_images_come_back_as_they_are() -> None:
    small = torch.zeros(1, 1, 20, 80)
    assert restore_border_detail(NOISE, small + 1, small) is small
