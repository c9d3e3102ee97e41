"""The share of the noise that an estimate has learned is measured."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_dip.engine.likelihood.penalties import SureTerm
from napari_dip.engine.problem import Estimate


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a slow scene and the same with correlated noise."""
    rng = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    clean = (y * x)[None, None]
    white = torch.randn(1, 1, 98, 98, generator=rng)
    noise = F.avg_pool2d(white, 3, stride=1) * 0.3
    return clean, clean + noise


def test_a_clean_image_has_taken_no_noise(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean, noisy = scene
    assert abs(float(SureTerm(noisy)(Estimate(clean)))) < 1e-3


def test_a_copy_of_the_measurement_has_taken_all_of_it(
    scene: tuple[torch.Tensor, torch.Tensor],
) -> None:
    _, noisy = scene
    assert float(SureTerm(noisy)(Estimate(noisy))) == pytest.approx(2, abs=1e-4)


def test_a_third_of_the_noise_counts_as_a_third(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    clean, noisy = scene
    mixed = Estimate(clean + (noisy - clean) / 3)
    assert float(SureTerm(noisy)(mixed)) == pytest.approx(2 / 3, abs=2e-3)


def test_an_image_without_any_noise_is_no_reason_to_stop() -> None:
    flat = torch.zeros(1, 1, 64, 64)
    assert float(SureTerm(flat)(Estimate(flat + 1))) == 0
