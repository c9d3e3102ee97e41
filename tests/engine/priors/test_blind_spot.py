"""Hidden pixels never enter the input, and the final inference hides each pixel once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.prior import dilate_centres, draw_validation_centres
from napari_dip.engine.priors.blind_spot import BlindSpotPrior, smooth_weave
from napari_dip.engine.priors.random_input import RandomInputPrior

BLOCKS = [(1, 1), (1, 3), (5, 5), (7, 7), (5, 7), (3, 3, 3)]


DIAMOND = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])


def make_blind_spot_prior(
    measurement: torch.Tensor,
    block: tuple[int, ...],
    window: int | None = None,
    shape: torch.Tensor | None = None,
) -> BlindSpotPrior:
    grid = tuple(measurement.shape[2:])
    rng = torch.Generator().manual_seed(0)
    network = Hourglass(len(grid), 1, 2, (4, 8), skip_channels=None, is_normalised=False, rng=rng)
    validation_mask = dilate_centres(draw_validation_centres(grid, block, 0.05, seed=0), block)
    size = None if window is None else (window,) * len(grid)
    core = tuple(3 if side >= 7 else 1 for side in block)
    return BlindSpotPrior(
        network,
        measurement=measurement,
        excluded_mask=validation_mask,
        blind_spot_size=block,
        core_size=core,
        masked_fraction=0.2,
        window=size,
        blind_spot_shape=shape,
    )


def make_image(block: tuple[int, ...]) -> torch.Tensor:
    grid = (40, 36) if len(block) == 2 else (12, 16, 20)
    return torch.rand(1, 1, *grid, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_network_input_does_not_depend_on_hidden_pixels(block: tuple[int, ...]) -> None:
    measurement = make_image(block)
    prior = make_blind_spot_prior(measurement, block)
    sample = prior.draw_step_input(torch.Generator().manual_seed(2))
    assert sample.loss_mask is not None
    assert sample.window is not None
    beyond = tuple(size - core + 1 for size, core in zip(block, prior.core_size, strict=True))
    hidden = dilate_centres(sample.loss_mask, beyond).flip(sample.window.flipped_dims)
    changed = measurement + 100 * hidden
    again = make_blind_spot_prior(changed, block).draw_step_input(torch.Generator().manual_seed(2))
    assert float(sample.loss_mask.sum()) > 0
    assert torch.equal(sample.network_input, again.network_input)


@pytest.mark.parametrize("block", BLOCKS)
def test_validation_pixels_and_their_guard_band_never_enter_the_input(
    block: tuple[int, ...],
) -> None:
    measurement = make_image(block)
    guard = dilate_centres(
        draw_validation_centres(tuple(measurement.shape[2:]), block, 0.05, seed=0), block
    )
    prior, changed = (
        make_blind_spot_prior(measurement, block),
        make_blind_spot_prior(measurement + 100 * guard, block),
    )
    assert float(guard.sum()) > 0
    assert torch.equal(
        prior.make_prediction_sample().network_input, changed.make_prediction_sample().network_input
    )
    rngs = (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    assert torch.equal(
        prior.draw_step_input(rngs[0]).network_input,
        changed.draw_step_input(rngs[1]).network_input,
    )
    for sample, other in zip(
        prior.make_inference_samples(), changed.make_inference_samples(), strict=True
    ):
        assert torch.equal(sample.network_input, other.network_input)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_final_inference_outputs_each_pixel_exactly_once(block: tuple[int, ...]) -> None:
    measurement = make_image(block)
    trusted = sum(
        sample.output_mask
        for sample in make_blind_spot_prior(measurement, block).make_inference_samples()
    )
    assert torch.equal(trusted, torch.ones_like(measurement))


def test_a_shape_hides_its_own_pixels_and_no_others() -> None:
    measurement = make_image((3, 3)) + 1
    prior = make_blind_spot_prior(measurement, (3, 3), shape=DIAMOND)
    for sample in prior.make_inference_samples():
        assert sample.output_mask is not None
        hidden = dilate_centres(sample.output_mask, (3, 3), DIAMOND)
        is_filled = sample.network_input != prior.measurement
        assert not bool((is_filled & (hidden + 1 - prior.visible_mask == 0)).any())
        assert bool(is_filled[hidden * prior.visible_mask > 0].all())


def test_a_shape_hides_as_large_a_share_as_a_block_with_more_pixels_to_learn_from() -> None:
    measurement = make_image((3, 3))
    drawn = [
        make_blind_spot_prior(measurement, (3, 3), shape=shape).draw_step_input(
            torch.Generator().manual_seed(2)
        )
        for shape in (None, DIAMOND)
    ]
    block, diamond = (float(sample.loss_mask.sum()) for sample in drawn)
    assert 1.4 < diamond / block < 2.2  # 9 of 5 pixels


@pytest.mark.parametrize("size", [(3, 3), (1, 3, 3)])
def test_a_full_shape_is_the_block(size: tuple[int, ...]) -> None:
    centres = draw_validation_centres((8,) * (len(size) - 2) + (40, 36), size, 0.1, seed=0)
    block = dilate_centres(centres, size)
    assert torch.equal(dilate_centres(centres, size, torch.ones(size)), block)


def test_a_window_shows_the_matching_part_of_the_measurement() -> None:
    measurement = make_image((1, 1))
    sample = make_blind_spot_prior(measurement, (1, 1), window=16).draw_step_input(
        torch.Generator().manual_seed(5)
    )
    assert sample.window is not None
    assert sample.loss_mask is not None
    assert sample.network_input.shape == (1, 1, 16, 16)
    window = sample.window.crop(measurement)
    same = (sample.network_input == window).float().mean()
    assert 0.5 < float(same) < 1


def test_hidden_pixels_look_like_their_surroundings() -> None:
    measurement = torch.full((1, 1, 32, 32), 7.0)
    sample = make_blind_spot_prior(measurement, (5, 5)).draw_step_input(
        torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(sample.network_input, measurement)


def test_the_random_input_stays_and_only_jitters() -> None:
    random_input = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    prior = RandomInputPrior(nn.Identity(), random_input, jitter=0.01)
    rng = torch.Generator().manual_seed(0)
    first, second = (
        prior.draw_step_input(rng).network_input,
        prior.draw_step_input(rng).network_input,
    )
    assert not torch.equal(first, second)
    assert float((first - random_input).std()) == pytest.approx(0.01, rel=0.1)
    assert torch.equal(prior.make_prediction_sample().network_input, random_input)


@pytest.mark.parametrize("grid", [(16, 16), (17, 31), (50, 23), (9, 16, 13)])
@pytest.mark.parametrize("skip_channels", [None, 0, 4])
def test_an_hourglass_keeps_any_size(grid: tuple[int, ...], skip_channels: int | None) -> None:
    rng = torch.Generator().manual_seed(0)
    network = Hourglass(
        len(grid), 2, 3, (4, 8, 8), skip_channels=skip_channels, is_normalised=True, rng=rng
    )
    assert network(torch.rand(1, 2, *grid)).shape == (1, 3, *grid)


def test_weights_come_from_the_generator_alone() -> None:
    nets = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        rng = torch.Generator().manual_seed(0)
        nets.append(Hourglass(2, 1, 2, (4, 8), skip_channels=None, is_normalised=True, rng=rng))
    for weight, same in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(weight, same)


@pytest.mark.parametrize("shape", [(1, 2, 12, 16), (1, 1, 3, 12, 16)])
def test_smoothing_the_weave_fills_the_hole_between_neighbours(shape: tuple[int, ...]) -> None:
    weave = torch.zeros(shape)
    weave[..., ::2, ::2] = weave[..., 1::2, 1::2] = 1.0
    smooth = smooth_weave(weave)
    assert smooth.shape == weave.shape
    inside = smooth[..., 1:-1, 1:-1]
    assert inside.mean() == pytest.approx(0.5, abs=1e-4)
    assert inside.std() < 0.4 * weave.std()
    assert torch.allclose(smooth_weave(torch.full(shape, 7.0)), torch.full(shape, 7.0))
