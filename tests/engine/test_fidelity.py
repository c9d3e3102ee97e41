"""What the losses ask for is what a detector does."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.fidelity import (
    NoiseVariance,
    gaussian_likelihood,
    mean_and_doubt,
    posterior,
    weighted_residual,
)
from napari_dip.engine.problem import Estimate


def constant(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), value)


def camera(gain: float = 2.0, read_noise: float = 3.0) -> NoiseVariance:
    return NoiseVariance(constant(gain), constant(read_noise**2), constant(1e-3))


@pytest.mark.parametrize("signal", [5.0, 60.0, 200.0])
def test_the_likelihood_is_best_at_the_true_signal(signal: float) -> None:
    rng = torch.Generator().manual_seed(0)
    gain, read_noise, n = 2.0, 3.0, 200_000
    electrons = torch.poisson(torch.full((1, 1, n, 1), signal / gain), generator=rng)
    pixels = gain * electrons + read_noise * torch.randn(1, 1, n, 1, generator=rng)
    guesses = torch.arange(0.0, 260.0, 1.0)
    loss = gaussian_likelihood(camera(gain, read_noise))
    means = [loss(Estimate(guess.expand(1, 1, n, 1)), pixels).mean() for guess in guesses]
    assert guesses[torch.stack(means).argmin()] == pytest.approx(signal, abs=1.0)


def test_the_variance_never_falls_below_its_floor() -> None:
    noise = NoiseVariance(constant(1.0), constant(-50.0), constant(4.0))
    assert noise.at(torch.tensor([[[[0.0, 49.0, 60.0]]]])).flatten().tolist() == [4.0, 4.0, 10.0]


def test_darkening_the_picture_does_not_lower_the_weighted_residual() -> None:
    measurement = torch.full((1, 1, 8, 8), 10.0)
    mean = torch.full((1, 1, 8, 8), 10.0, requires_grad=True)
    weighted_residual(camera())(Estimate(mean), measurement).sum().backward()
    assert mean.grad is not None
    assert mean.grad.abs().max() == 0


def test_doubt_does_not_weaken_the_pull_on_the_mean() -> None:
    measurement = torch.full((1, 1, 1, 2), 30.0)
    mean = torch.full((1, 1, 1, 2), 20.0, requires_grad=True)
    log_variance = torch.tensor([[[[-4.0, 6.0]]]])
    loss = mean_and_doubt(camera(), 1.0)(Estimate(mean, log_variance), measurement)
    loss.sum().backward()
    assert mean.grad is not None
    assert mean.grad.flatten().tolist() == pytest.approx([-20.0, -20.0])


def test_the_posterior_weighs_pixel_and_surroundings_by_their_variances() -> None:
    noise = NoiseVariance(constant(0.0), constant(4.0), constant(1e-3))
    beyond = torch.full((1, 1, 5, 2), 12.0)
    beyond[:, :, :3] = 1e-9  # flat: all that is seen there is noise
    blind = Estimate(torch.full((1, 1, 5, 2), 10.0), beyond.log())
    answer = posterior(noise, torch.full((1, 1, 5, 2), 18.0), blind, granted=1.0)
    assert answer.mean[0, 0, 0].tolist() == pytest.approx([10.0] * 2, abs=1e-3)
    assert answer.mean[0, 0, 4].tolist() == pytest.approx([16.0] * 2)
    assert answer.log_variance is not None
    assert answer.log_variance[0, 0, 4].exp().tolist() == pytest.approx([3.0] * 2)


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_the_posterior_finds_out_that_the_noise_was_measured_wrong(factor: float) -> None:
    measured = NoiseVariance(constant(0.0), constant(4.0), constant(1e-3))
    spread = torch.full((1, 1, 10, 2), 4.0 * factor)
    spread[:, :, 8:] = 4.0 * factor + 12.0
    blind = Estimate(torch.full((1, 1, 10, 2), 10.0), (spread - 0.6 * 4.0).log())
    answer = posterior(measured, torch.full((1, 1, 10, 2), 18.0), blind, granted=0.6)
    share = 12.0 / (12.0 + 4.0 * factor)
    assert answer.mean[0, 0, 0].tolist() == pytest.approx([10.0] * 2, abs=1e-3)
    assert answer.mean[0, 0, 9].tolist() == pytest.approx([10.0 + 8.0 * share] * 2, rel=1e-3)


def test_an_estimate_without_doubt_is_its_own_posterior() -> None:
    blind = Estimate(torch.rand(1, 1, 4, 4))
    assert posterior(camera(), torch.rand(1, 1, 4, 4), blind, granted=1.0) is blind
