"""Speckle is measured from the spread of the logarithm; its variance is quadratic."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
import torch

from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.operators.imaging import LineOffsets
from napari_dip.tasks.noise_models.registry import compute_logarithm, estimate_number_of_looks


def test_single_look_speckle_has_the_known_spread_of_its_logarithm():
    assert estimate_number_of_looks(pi**2 / 6) == pytest.approx(1, rel=1e-6)
    assert estimate_number_of_looks(pi**2 / 6 - 1) == pytest.approx(2, rel=1e-6)


def test_gamma_variates_give_their_looks_back():
    torch.manual_seed(0)
    looks = torch.distributions.Gamma(torch.tensor(5.0), torch.tensor(5.0)).sample((200_000,))
    variance = float(compute_logarithm(7 * looks.numpy()).var())
    assert estimate_number_of_looks(variance) == pytest.approx(5, rel=0.02)


def test_black_pixels_have_a_logarithm_too():
    assert np.isfinite(compute_logarithm(np.float32([0, 1, 100]))).all()


def test_the_variance_of_speckle_grows_with_the_squared_signal():
    mask = torch.ones(1, 1, 1, 1)
    noise = NoiseVariance(gain=0 * mask, intercept=0 * mask, floor=1e-9 * mask, square=0.25 * mask)
    signal = torch.tensor([2.0, 4.0]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(noise.compute_variance(signal), 0.25 * signal**2)
    torch.testing.assert_close(noise.scale(3).select(0).compute_variance(signal), 0.75 * signal**2)


def test_offsets_of_lines_are_seen_by_the_detector_and_handed_over_in_image_units():
    offsets, unit = torch.arange(4.0).reshape(1, 1, 4, 1), torch.full((1, 1, 1, 1), 0.5)
    operator = LineOffsets(offsets, unit)
    image = torch.rand(1, 1, 4, 3)
    torch.testing.assert_close(operator(image), image)
    torch.testing.assert_close(
        operator.simulate_measurement(image) - image, offsets.expand(1, 1, 4, 3)
    )
    torch.testing.assert_close(
        operator.get_learned_parameters()["line_offsets"], 2 * torch.arange(4.0)
    )
