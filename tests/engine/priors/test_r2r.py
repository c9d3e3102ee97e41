"""R2R adds noise like that of the measurement to the input of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import napari_dip as dip
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.priors.r2r import R2R_CORRELATED_STRENGTH, R2R_NOISE_STRENGTH, R2RPrior

LAGS = ((0.5, 0.1, 0.0), (0.3, 0.0, 0.0))


def make_prior(
    measurement: torch.Tensor,
    *,
    validation_mask: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    correlation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    window: tuple[int, ...] | None = None,
    intercept: float = 0.1,
) -> R2RPrior:
    dims = measurement.ndim - 2
    ones = torch.ones(1, measurement.shape[1], *[1] * dims)
    noise = NoiseVariance(gain=0.5 * ones, intercept=intercept * ones, floor=1e-4 * ones)
    network = Hourglass(
        dims,
        1,
        1,
        (4, 8),
        skip_channels=None,
        is_normalised=False,
        rng=torch.Generator().manual_seed(0),
    )
    none = torch.zeros_like(measurement[:, :1])
    return R2RPrior(
        network,
        measurement=measurement,
        measured_mask=torch.ones_like(none) if mask is None else mask,
        excluded_mask=none if validation_mask is None else validation_mask,
        blind_spot_size=(1,) * dims,
        noise_variance=noise,
        correlation=correlation,
        window=window,
    )


def make_rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_input_and_target_have_noise_of_the_measured_strength() -> None:
    prior = make_prior(torch.full((1, 1, 256, 256), 0.8))
    sample = prior.draw_step_input(make_rng())
    assert sample.target_noise is not None
    added_noise = sample.network_input - 0.8
    # their product is minus the noise's variance, which makes the noise of the two uncorrelated
    assert float((added_noise * sample.target_noise).mean()) == pytest.approx(
        0.5 * 0.8 + 0.1, rel=0.02
    )
    assert float(added_noise.std() / sample.target_noise.std()) == pytest.approx(
        R2R_NOISE_STRENGTH**2, rel=1e-4
    )


def test_brighter_places_get_more_noise() -> None:
    measurement = torch.zeros(1, 1, 128, 128)
    measurement[..., 64:] = 2
    sample = make_prior(measurement).draw_step_input(make_rng())
    assert sample.target_noise is not None
    spread = [
        float(sample.target_noise[..., part].var()) for part in (slice(0, 60), slice(68, 128))
    ]
    bright, dark = (max(spread), min(spread))  # a window may be mirrored
    assert bright / dark == pytest.approx(1.1 / 0.1, rel=0.1)


def test_added_noise_has_the_measured_correlation() -> None:
    prior = make_prior(torch.zeros(1, 1, 256, 256), correlation=LAGS)
    sample = prior.draw_step_input(make_rng())
    assert sample.target_noise is not None
    noise = sample.target_noise[0, 0]
    assert float(noise.var()) == pytest.approx(0.1 / R2R_CORRELATED_STRENGTH**2, rel=0.05)
    for axis, lags in enumerate(LAGS):
        moved = noise.roll(1, axis)
        assert float((noise * moved).mean() / noise.var()) == pytest.approx(lags[0], abs=0.03)


def test_validation_pixels_enter_the_input_only_in_the_final_inference() -> None:
    measurement = torch.rand(1, 1, 32, 32, generator=make_rng())
    validation_mask = torch.zeros(1, 1, 32, 32)
    validation_mask[..., 5::7, 5::7] = 1
    changed = measurement + 9 * validation_mask
    prior, changed_prior = (
        make_prior(image, validation_mask=validation_mask) for image in (measurement, changed)
    )
    assert torch.equal(
        prior.draw_step_input(make_rng()).network_input,
        changed_prior.draw_step_input(make_rng()).network_input,
    )
    assert torch.equal(
        prior.make_prediction_sample().network_input,
        changed_prior.make_prediction_sample().network_input,
    )
    assert torch.equal(next(changed_prior.make_inference_samples()).network_input, changed)
    loss_mask = prior.draw_step_input(make_rng()).loss_mask
    assert loss_mask is not None
    assert float(loss_mask.mean()) == pytest.approx(1 - float(validation_mask.mean()))


def test_unmeasured_pixels_are_filled_in_and_excluded_from_the_loss() -> None:
    measurement = torch.ones(1, 1, 32, 32)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 10:12, 10:12] = 0
    prior = make_prior(measurement * mask, mask=mask)
    assert float(next(prior.make_inference_samples()).network_input.min()) == pytest.approx(1)
    loss_mask = prior.draw_step_input(make_rng()).loss_mask
    assert loss_mask is not None
    assert float((1 - loss_mask).sum()) == 4


def test_volumes_and_windows_are_drawn_alike() -> None:
    prior = make_prior(torch.rand(1, 1, 6, 24, 24), window=(6, 16, 16), correlation=LAGS)
    sample = prior.draw_step_input(make_rng())
    assert sample.network_input.shape == (1, 1, 6, 16, 16)
    assert prior.network(sample.network_input).shape == (1, 1, 6, 16, 16)


@pytest.mark.long
def test_r2r_learns_the_image_and_not_the_noise() -> None:
    y, x = np.mgrid[:96, :96]
    truth = 100 + 60 * np.sin(x / 7) * np.cos(y / 9)
    noisy = (truth + np.random.default_rng(0).normal(0, 20, truth.shape)).astype(np.float32)
    result = dip.denoise(noisy, prior="r2r", preset="fast", max_iterations=60, device="cpu")
    assert np.mean((result.image - truth) ** 2) < 0.12 * np.mean((noisy - truth) ** 2)
    assert np.isfinite(result.uncertainty).all()


def test_counts_get_skewed_noise_so_that_input_and_target_are_independent() -> None:
    rate, generator = torch.full((1, 1, 512, 512), 3.0), torch.Generator().manual_seed(0)
    measurement = 0.5 * torch.poisson(rate, generator=generator)  # a gain of 1/2, as `code_of` has
    prior = make_prior(measurement, intercept=0)
    sample = prior.draw_step_input(make_rng())
    assert sample.target_noise is not None and sample.window is not None
    fed = sample.network_input - 1.5
    target = sample.window.crop(measurement) - sample.target_noise - 1.5
    spread = float(fed.std() ** 2 * target.std())
    assert abs(float((fed**2 * target).mean())) / spread < 0.015
    plain = torch.empty_like(measurement).normal_(generator=generator) * 0.75**0.5
    fed, target = (
        measurement - 1.5 + R2R_NOISE_STRENGTH * plain,
        measurement - 1.5 - plain / R2R_NOISE_STRENGTH,
    )
    assert float((fed**2 * target).mean()) / spread > 0.1  # what noise that is not skewed lets by


def test_equal_losses_keep_the_later_image_since_the_final_inference_shows_all() -> None:
    assert make_prior(torch.zeros(1, 1, 8, 8)).reveals_validation


def test_the_final_inference_shows_the_validation_pixels_and_a_prediction_does_not() -> None:
    measurement = torch.randn(1, 1, 16, 16, generator=make_rng())
    hidden = torch.zeros(1, 1, 16, 16)
    hidden[..., 8, 8] = 1
    prior = make_prior(measurement, validation_mask=hidden)
    (final,) = prior.make_inference_samples()
    assert torch.equal(final.network_input, measurement)
    filled = prior.make_prediction_sample().network_input
    assert torch.equal((filled != measurement).float(), hidden)
