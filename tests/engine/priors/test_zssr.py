"""Zero-shot super-resolution learns on a downsampled image: steps, validation, inference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.networks.hourglass import ResidualChain
from napari_dip.engine.operators.imaging import (
    BinnedDownsample,
    LanczosDownsample,
    apply_iterative_backprojection,
    interpolate_cubic,
)
from napari_dip.engine.priors.masked_input import FillingResidualNetwork
from napari_dip.engine.priors.zssr import ZssrNetwork, ZssrPrior, compute_noise_power_ratio

GRID = (18, 22)


def make_image() -> torch.Tensor:
    return torch.rand(1, 1, *GRID, generator=torch.Generator().manual_seed(3))


def make_noise_variance(variance: float) -> NoiseVariance:
    mask = torch.ones(1, 1, 1, 1)
    return NoiseVariance(gain=0 * mask, intercept=variance * mask, floor=1e-12 * mask)


def make_network(factors: tuple[int, int] = (2, 2), stages: int = 2) -> ZssrNetwork:
    rng = torch.Generator().manual_seed(0)
    network = FillingResidualNetwork(ResidualChain(2, 1, 1, 4, 1, rng=rng), 1, 1, 2, rng)
    return ZssrNetwork(network, BinnedDownsample(factors), factors, stages, GRID)


def make_prior(variance: float = 0.0, **settings: object) -> ZssrPrior:
    window = settings.pop("window", None)
    return ZssrPrior(
        make_network(**settings), make_image(), make_noise_variance(variance), 0.01, window=window
    )


@pytest.mark.parametrize("window", [None, (8, 7)])
def test_a_step_shows_the_window_that_it_asks_for_made_coarse(window) -> None:
    prior, rng = make_prior(window=window), torch.Generator().manual_seed(1)
    for _ in range(20):
        sample = prior.draw_step_input(rng)
        assert sample.bypasses_operator
        wanted = sample.window.crop(make_image())
        torch.testing.assert_close(
            sample.network_input, BinnedDownsample((2, 2))(wanted), atol=1e-5, rtol=0
        )
        answer = prior.estimate(prior.network(sample.network_input))
        assert answer.mean.shape == wanted.shape


def test_training_steps_have_as_much_noise_as_the_image() -> None:
    prior, rng = make_prior(0.04), torch.Generator().manual_seed(1)
    clean = BinnedDownsample((2, 2))
    grains = []
    for _ in range(200):
        sample = prior.draw_step_input(rng)
        grains.append(sample.network_input - clean(sample.window.crop(make_image())))
    # a quarter of the variance is in the coarse pixels already
    assert float(torch.stack(grains).var()) == pytest.approx(0.75 * 0.04, rel=0.05)


def test_the_image_goes_all_the_way_and_what_is_made_coarse_one_stage() -> None:
    prior = make_prior()
    whole = prior.estimate(prior.network(prior.make_prediction_sample().network_input))
    assert whole.mean.shape[2:] == prior.grid == (72, 88)
    validation_input = prior.make_validation_sample()
    assert (
        prior.estimate(prior.network(validation_input.network_input)).mean.shape[2:]
        == validation_input.window.size
        == GRID
    )


def test_an_image_that_is_no_multiple_of_the_factor_is_tried_but_for_its_rim() -> None:
    prior = make_prior(factors=(4, 4), stages=1)
    assert prior.make_validation_sample().window.size == (16, 20)
    assert prior.grid == (72, 88)


def test_an_untrained_network_interpolates_and_explains_the_image() -> None:
    prior = make_prior(stages=1)
    start = prior.estimate(prior.network(prior.make_prediction_sample().network_input)).mean
    coarse = BinnedDownsample((2, 2))
    loss = (coarse(start) - make_image()).square().mean()
    assert (
        loss
        < 0.02 * (coarse(interpolate_cubic(make_image(), (2, 2))) - make_image()).square().mean()
    )


class SlopedNetwork(nn.Module):
    """Answers with a slope along Y, as a network that has learned something wrong might."""

    def forward(self, network_input: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, network_input.shape[2])[:, None].expand(
            network_input.shape[2:]
        )
        return torch.cat([network_input + ramp, network_input], 1)


def test_what_favours_an_axis_is_averaged_out_of_the_answer() -> None:
    network = make_network(stages=1)
    network.net = SlopedNetwork()
    wrong = network(make_image()).chunk(2, 1)[0] - network._interpolate(make_image())
    torch.testing.assert_close(wrong, torch.zeros_like(wrong), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("coarser", "factors", "kept"),
    [
        (BinnedDownsample((2, 2)), (2, 2), 1 / 4),
        (BinnedDownsample((3, 1)), (3, 1), 1 / 3),
    ],
)
def test_binning_keeps_one_part_of_the_noise_for_each_pixel_of_a_bin(
    coarser, factors, kept
) -> None:
    assert float(compute_noise_power_ratio(coarser, factors)) == pytest.approx(kept)


def test_what_decimation_keeps_of_white_noise_is_as_measured() -> None:
    coarser = LanczosDownsample((2, 2))
    white = torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(0))
    assert float(compute_noise_power_ratio(coarser, (2, 2))) == pytest.approx(
        float(coarser(white).var()), rel=0.02
    )


def test_rounds_of_explaining_bring_an_image_to_what_was_measured() -> None:
    coarse, start = BinnedDownsample((2, 2)), torch.zeros(1, 1, 36, 44)
    finer = lambda residual: interpolate_cubic(residual, (2, 2))  # noqa: E731
    once = apply_iterative_backprojection(start, make_image(), coarse, finer)
    twice = apply_iterative_backprojection(once, make_image(), coarse, finer)
    deviations = [
        float((make_image() - coarse(estimate)).std()) for estimate in (start, once, twice)
    ]
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 0.02 * deviations[0]
