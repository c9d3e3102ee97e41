"""Losses follow the noise model of the detector."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.likelihood.fidelity import (
    NoiseVariance,
    compute_posterior,
    make_beta_nll,
    make_gaussian_deviance,
    make_weighted_residual,
    measure_noise_again,
)
from napari_dip.engine.problem import Estimate


def constant(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value)


def make_camera_noise(gain: float = 2.0, read_noise: float = 3.0) -> NoiseVariance:
    return NoiseVariance(
        gain=constant(gain), intercept=constant(read_noise**2), floor=constant(1e-3)
    )


@pytest.mark.parametrize("signal", [5.0, 60.0, 200.0])
def test_the_likelihood_is_best_at_the_true_signal(signal: float) -> None:
    rng = torch.Generator().manual_seed(0)
    gain, read_noise, n = 2.0, 3.0, 200_000
    electrons = torch.poisson(torch.full((1, 1, n, 1), signal / gain), generator=rng)
    pixels = gain * electrons + read_noise * torch.randn(1, 1, n, 1, generator=rng)
    guesses = torch.arange(0.0, 260.0, 1.0)
    loss = make_gaussian_deviance(make_camera_noise(gain, read_noise))
    means = [loss(Estimate(guess.expand(1, 1, n, 1)), pixels).mean() for guess in guesses]
    assert guesses[torch.stack(means).argmin()] == pytest.approx(signal, abs=1.0)


def test_the_variance_never_falls_below_its_floor() -> None:
    noise = NoiseVariance(gain=constant(1.0), intercept=constant(-50.0), floor=constant(4.0))
    assert noise.compute_variance(torch.tensor([[[[0.0, 49.0, 60.0]]]])).flatten().tolist() == [
        4.0,
        4.0,
        10.0,
    ]


def test_darkening_the_image_does_not_lower_the_weighted_residual() -> None:
    measurement = torch.full((1, 1, 8, 8), 10.0)
    mean = torch.full((1, 1, 8, 8), 10.0, requires_grad=True)
    make_weighted_residual(make_camera_noise())(Estimate(mean), measurement).sum().backward()
    assert mean.grad is not None
    assert mean.grad.abs().max() == 0


def test_doubt_does_not_weaken_the_pull_on_the_mean() -> None:
    measurement = torch.full((1, 1, 1, 2), 30.0)
    mean = torch.full((1, 1, 1, 2), 20.0, requires_grad=True)
    log_variance = torch.tensor([[[[-4.0, 6.0]]]])
    loss = make_beta_nll(make_camera_noise(), 1.0)(Estimate(mean, log_variance), measurement)
    loss.sum().backward()
    assert mean.grad is not None
    assert mean.grad.flatten().tolist() == pytest.approx([-20.0, -20.0])


def measure_by_brightness(*columns: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and spreads of 60 x 20 pixels: (mean, spread) for each group of rows, 3 in 5 flat."""
    mean, spread = torch.empty(1, 1, 60, 20), torch.empty(1, 1, 60, 20)
    rows = 60 // len(columns)
    for number, (level, flat) in enumerate(columns):
        here = slice(number * rows, (number + 1) * rows)
        mean[:, :, here] = level + torch.linspace(0, 1e-3, rows)[:, None]
        spread[:, :, here] = flat
        spread[:, :, here, 12:] = flat + 12.0
    return mean, spread


NOBODY = torch.zeros(1, 1, 60, 20)


@pytest.mark.parametrize("factor", [0.75, 1.0, 1.3])
def test_the_posterior_finds_out_that_the_noise_was_measured_wrong(factor: float) -> None:
    measured = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    mean, spread = measure_by_brightness((10.0, 4.0 * factor))
    blind = Estimate(mean, (spread - 0.6 * 4.0).log())
    answer = compute_posterior(
        measured, mean + 8.0, blind, assumed_noise_fraction=0.6, validation_mask=NOBODY
    )
    fraction = 12.0 / (12.0 + 4.0 * factor)
    moved = answer.mean - mean
    assert moved[..., 19].flatten().tolist() == pytest.approx([8.0 * fraction] * 60, rel=1e-3)
    assert float(moved[..., 0].max()) < 0.3
    assert answer.log_variance is not None
    variance = answer.log_variance.exp()[..., 19].flatten().tolist()
    assert variance == pytest.approx([4.0 * factor * fraction] * 60, rel=1e-3)


def test_the_noise_may_be_wrong_at_one_brightness_and_right_at_another() -> None:
    measured = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    mean, spread = measure_by_brightness((10.0, 3.2), (50.0, 4.8))
    blind = Estimate(mean, (spread - 0.6 * 4.0).log())
    answer = compute_posterior(
        measured, mean + 8.0, blind, assumed_noise_fraction=0.6, validation_mask=NOBODY
    )
    assert float((answer.mean - mean)[:, :, :25, :12].max()) < 0.3
    assert float((answer.mean - mean)[:, :, 35:, :12].max()) < 0.3


def test_no_prediction_is_taken_for_certain() -> None:
    measured = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    mean, _ = measure_by_brightness((10.0, 4.0))
    blind = Estimate(mean, torch.full_like(mean, -30.0))
    answer = compute_posterior(
        measured, mean + 1.0, blind, assumed_noise_fraction=1.0, validation_mask=NOBODY
    )
    assert answer.log_variance is not None
    assert float(answer.log_variance.exp().min()) > 0.01 * 4.0


def test_the_posterior_mean_of_a_poor_fit_is_the_measurement() -> None:
    measured = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    mean, spread = measure_by_brightness((10.0, 4.0))
    measurement = mean + 30.0
    blind = Estimate(mean, (spread - 0.6 * 4.0).log())
    validation_mask = torch.ones_like(mean)
    answer = compute_posterior(
        measured, measurement, blind, assumed_noise_fraction=0.6, validation_mask=validation_mask
    )
    assert float((answer.mean - measurement).abs().max()) < 0.5


def test_a_missed_rod_in_a_volume_comes_back_and_its_error_is_said() -> None:
    measured = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    truth = torch.full((1, 1, 9, 48, 48), 10.0)
    truth[..., 3:6, 20:26, :] += 8.0
    mean = torch.full_like(truth, 10.0)
    noise = 2.0 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    answer = compute_posterior(
        measured,
        truth + noise,
        Estimate(mean, torch.full_like(mean, -30.0)),
        assumed_noise_fraction=0.6,
        validation_mask=torch.zeros_like(mean),
    )
    rod, far = truth > 11, torch.zeros_like(truth, dtype=torch.bool)
    far[..., :12, :] = True
    squared_error = (answer.mean - truth) ** 2
    assert answer.log_variance is not None
    claimed = answer.log_variance.exp()
    assert float(squared_error[rod].mean()) < 6.0  # 64 in the prediction
    assert float(claimed[rod].mean()) > 0.5 * float(squared_error[rod].mean())
    assert float(squared_error[far].mean()) < 0.1  # 4 in the measurement


def test_voxels_that_were_not_measured_do_not_raise_the_variance_of_a_volume() -> None:
    measured = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    mean = torch.full((1, 1, 5, 40, 40), 10.0)
    measurement = mean + 2.0 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(mean)
    mask[..., 10:14, 10:14] = 0
    blind = Estimate(mean, torch.full_like(mean, 0.47))  # 0.6 times 4 + 1.6 is the noise
    answers = [
        compute_posterior(
            measured,
            image,
            blind,
            assumed_noise_fraction=0.6,
            validation_mask=torch.zeros_like(mean),
            residual_mask=mask,
        )
        for image in (measurement, measurement * mask - 1000.0 * (1 - mask))
    ]
    near = answers[0].mean[mask > 0], answers[1].mean[mask > 0]
    assert torch.equal(*near)


def test_an_estimate_without_doubt_is_its_own_posterior() -> None:
    blind = Estimate(torch.rand(1, 1, 4, 4))
    answer = compute_posterior(
        make_camera_noise(),
        torch.rand(1, 1, 4, 4),
        blind,
        assumed_noise_fraction=1.0,
        validation_mask=torch.zeros(1, 1, 4, 4),
    )
    assert answer is blind


def make_residuals(variance: torch.Tensor, texture: float = 0.0) -> tuple[torch.Tensor, ...]:
    """Measurement and prediction of a ramp from 0 to 100 with noise of this variance in columns."""
    rng = torch.Generator().manual_seed(0)
    mean = torch.linspace(0, 100, 200).expand(1, 1, 100, 200).contiguous()
    noise = variance.sqrt() * torch.randn(1, 1, 100, 200, generator=rng)
    return mean + noise + texture * torch.randn(1, 1, 100, 200, generator=rng), mean


LEVELS = torch.linspace(0, 100, 200)
EVERYWHERE = torch.ones(1, 1, 100, 200)


def measure_again(variance: torch.Tensor, claimed: NoiseVariance, texture: float = 0.0):
    measurement, mean = make_residuals(variance, texture)
    return measure_noise_again(claimed, measurement, mean, EVERYWHERE, channels=[0])


def test_residuals_give_the_noise_that_the_line_leaves_out_in_the_dark() -> None:
    variance = (2 * LEVELS).clamp(min=30)
    claimed = NoiseVariance(gain=constant(3.0), intercept=constant(-90.0), floor=constant(1e-3))
    measured = measure_again(variance, claimed).compute_variance(LEVELS[None, None, None])
    ratio = measured[0, 0, 0] / variance
    assert float(ratio.min()) > 0.6
    assert float(ratio.max()) < 1.4
    assert float(claimed.compute_variance(LEVELS).flatten()[40]) < 0.1


def test_texture_that_is_much_stronger_than_the_noise_changes_nothing() -> None:
    claimed = NoiseVariance(gain=constant(0.0), intercept=constant(1.0), floor=constant(1e-3))
    assert measure_again(torch.ones(200), claimed, texture=2.0) is claimed


def test_residuals_that_neighbours_share_change_nothing() -> None:
    claimed = NoiseVariance(gain=constant(0.0), intercept=constant(1.0), floor=constant(1e-3))
    measurement, mean = make_residuals(torch.ones(200))
    noise = measurement - mean
    shared = mean + (noise + noise.roll(1, -1)) / 2**0.5
    for pixels, is_kept in ((measurement, False), (shared, True)):
        again = measure_noise_again(claimed, pixels, mean, EVERYWHERE, channels=[0])
        assert (again is claimed) == is_kept


def test_pixels_that_were_not_measured_do_not_measure_the_noise() -> None:
    claimed = NoiseVariance(gain=constant(0.0), intercept=constant(1.0), floor=constant(1e-3))
    measurement, mean = make_residuals(torch.ones(200))
    mask = torch.ones(1, 1, 100, 200)
    mask[..., ::3] = 0
    holed = torch.where(mask > 0, measurement, 0.0)
    again = measure_noise_again(claimed, holed, mean, mask, channels=[0])
    assert float(again.compute_variance(mean).max()) < 1.4


def test_noise_measured_again_leaves_what_the_fit_assumed() -> None:
    assumed = NoiseVariance(gain=constant(0.0), intercept=constant(2.0), floor=constant(1e-3))
    again = NoiseVariance(gain=constant(0.0), intercept=constant(4.0), floor=constant(1e-3))
    mean, spread = measure_by_brightness((10.0, 4.0))
    blind = Estimate(mean, (spread - 0.6 * 2.0).log())
    answer = compute_posterior(
        again,
        mean + 8.0,
        blind,
        assumed_noise=assumed,
        assumed_noise_fraction=0.6,
        validation_mask=NOBODY,
    )
    assert (answer.mean - mean)[..., 19].flatten().tolist() == pytest.approx([6.0] * 60, rel=1e-3)


def test_an_image_of_few_measured_pixels_keeps_its_noise() -> None:
    claimed = NoiseVariance(gain=constant(0.0), intercept=constant(1.0), floor=constant(1e-3))
    measurement, mean = make_residuals(torch.ones(200))
    for measured in (0, 100):
        mask = torch.zeros(1, 1, 100, 200)
        mask[0, 0, 0, :measured] = 1
        assert measure_noise_again(claimed, measurement, mean, mask, channels=[0]) is claimed
