"""Missing planes are predicted from their neighbours, and learned from planes hidden alike."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.networks.hourglass import PlanewiseNetwork
from napari_dip.engine.prior import Window
from napari_dip.engine.priors.masked_input import make_filling_windows
from napari_dip.engine.priors.masked_stack import (
    MaskedStackPrior,
    NeighbourPlanes,
    StackHoles,
    count_stack_input_channels,
    find_visible_planes,
    gather_neighbour_planes,
)

SIDE, PLANES = 20, 8


def make_stack() -> torch.Tensor:
    """Planes whose pixels are ten times their number, plus their column."""
    plane = torch.arange(SIDE).float().expand(SIDE, SIDE) / SIDE
    return torch.stack([10 * number + plane for number in range(PLANES)])[None, None]


def mask_without_planes(*planes: int) -> torch.Tensor:
    mask = torch.ones(1, 1, PLANES, SIDE, SIDE)
    mask[:, :, list(planes)] = 0
    return mask


def find_neighbours(
    mask: torch.Tensor, plane: int, back: int = 1, ahead: int = 1
) -> NeighbourPlanes:
    reach = (torch.full((1, 1, 1), back), torch.full((1, 1, 1), ahead))
    return gather_neighbour_planes(
        make_stack() * mask, find_visible_planes(mask), torch.tensor([plane]), reach
    )


def make_prior(mask: torch.Tensor, planes: int = 1, *, foretell: bool = False) -> MaskedStackPrior:
    validation_mask = torch.zeros_like(mask)
    validation_mask[..., ::5, ::5] = mask[..., ::5, ::5]
    network = PlanewiseNetwork(torch.nn.Conv2d(count_stack_input_channels(1), 2, 1), 2**18)
    return MaskedStackPrior(
        network,
        make_stack() / 80,
        mask,
        validation_mask,
        max_masked_fraction=0.3,
        predicts_measured=foretell,
        window=(planes, SIDE, SIDE),
    )


def test_a_missing_plane_is_interpolated_between_its_neighbours() -> None:
    neighbours = find_neighbours(mask_without_planes(3, 4), 3)
    torch.testing.assert_close(neighbours.interpolated, make_stack()[0, 0, 3][None, None])
    torch.testing.assert_close(neighbours.nearness[0, :, 0, 0], torch.tensor([1.0, 0.5]))


def test_neighbours_come_in_the_order_of_their_distance() -> None:
    values = find_neighbours(mask_without_planes(4), 4).values[0, :, 0, 0]
    assert values.tolist() == [30, 20, 50, 60]
    assert find_neighbours(mask_without_planes(4), 4).reverse().values[0, :, 0, 0].tolist() == [
        50,
        60,
        30,
        20,
    ]


def test_a_larger_distance_skips_the_nearest_planes() -> None:
    assert find_neighbours(mask_without_planes(), 4, back=2, ahead=3).values[
        0, :, 0, 0
    ].tolist() == [
        20,
        10,
        70,
        70,
    ]


@pytest.mark.parametrize(("plane", "nearest"), [(0, 10), (PLANES - 1, 10 * (PLANES - 2))])
def test_at_either_end_one_side_is_extrapolated(plane: int, nearest: int) -> None:
    neighbours = find_neighbours(mask_without_planes(plane), plane)
    assert float(neighbours.interpolated[0, 0, 0, 0]) == nearest
    assert sorted(neighbours.nearness[0, :, 0, 0].tolist()) == [0, 1]
    assert float(neighbours.values.min()) >= min(nearest, 20)


def test_a_pixel_measured_in_no_plane_has_no_neighbours() -> None:
    mask = mask_without_planes()
    mask[..., 3, 3] = 0
    neighbours = find_neighbours(mask, 4)
    assert float(neighbours.interpolated[0, 0, 3, 3]) == 0
    assert float(neighbours.nearness[0, :, 3, 3].sum()) == 0
    assert float(neighbours.interpolated[0, 0, 3, 4]) > 0


def test_planes_are_hidden_whose_neighbours_are_as_far_as_those_of_the_missing_one() -> None:
    holes = StackHoles(mask_without_planes(3))
    assert holes.planes == [3] and holes.is_plane_missing == [True]
    assert holes.find_similar_planes(0) == [
        1,
        5,
        6,
    ]  # at the ends, and beside the missing one, one side lacks
    assert StackHoles(mask_without_planes(0)).find_similar_planes(0) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("missing", [(3,), (1, 3, 5, 7), (1, 2, 3, 5, 6, 7)])
def test_inference_shows_no_plane_nearer_than_training_does(missing: tuple[int, ...]) -> None:
    prior = make_prior(mask_without_planes(*missing), PLANES)
    rng = torch.Generator().manual_seed(0)
    nearness = [
        max(float(sample.network_input[:, -3:-1].max()) for sample in samples)
        for samples in (
            [prior.draw_step_input(rng) for _ in range(20)],
            prior.make_inference_samples(),
        )
    ]
    assert nearness[1] <= nearness[0]


def test_partly_missing_planes_may_be_imitated_anywhere() -> None:
    mask = mask_without_planes()
    mask[:, :, 2, 5] = 0
    assert StackHoles(mask).find_similar_planes(0) == list(range(PLANES))


@pytest.mark.parametrize("gone", ["plane", "line", "nothing"])
def test_a_predicted_plane_does_not_see_predicted_pixels(gone: str) -> None:
    mask = mask_without_planes(3) if gone == "plane" else mask_without_planes()
    if gone == "line":
        mask[:, :, 3, 5:7] = 0
    hiding = make_prior(mask)
    sample = hiding.draw_step_input(torch.Generator().manual_seed(1))
    assert sample.loss_mask is not None and sample.window is not None
    assert float(sample.loss_mask.sum()) > 0
    hiding.measurement = hiding.measurement + sample.window.place_on(sample.loss_mask, hiding.grid)
    again = hiding.draw_step_input(torch.Generator().manual_seed(1))
    assert torch.equal(sample.network_input, again.network_input)


def test_whole_planes_are_hidden_whole_and_lines_are_not() -> None:
    whole = make_prior(mask_without_planes(3)).draw_step_input(torch.Generator().manual_seed(1))
    assert whole.loss_mask is not None
    assert float(whole.loss_mask.mean()) == 1
    mask = mask_without_planes()
    mask[:, :, 3, 5:7] = 0
    lines = make_prior(mask).draw_step_input(torch.Generator().manual_seed(1))
    assert lines.loss_mask is not None
    rows = lines.loss_mask[0, 0, 0].mean(-1)
    assert 0 < float(lines.loss_mask.mean()) < 0.7
    assert bool((rows == 1).any())


@pytest.mark.parametrize("foretell", [False, True])
@pytest.mark.parametrize("gone", ["plane", "line"])
def test_the_final_inference_predicts_each_requested_pixel(gone: str, foretell: bool) -> None:
    mask = mask_without_planes(3) if gone == "plane" else mask_without_planes()
    if gone == "line":
        mask[:, :, 3, 5:7] = 0
    hiding = make_prior(mask, foretell=foretell)
    total, wanted = (
        torch.zeros_like(mask),
        1 - mask + (mask if foretell else hiding.validation_mask),
    )
    for sample in hiding.make_inference_samples():
        assert sample.output_mask is not None
        filled = sample.network_input[:, -1:] > 0
        judging = (
            hiding.validation_mask
            if sample.window is None
            else sample.window.crop(hiding.validation_mask)
        )
        assert not bool(filled[(judging > 0) & (sample.output_mask > 0)].any())
        total += (
            sample.output_mask
            if sample.window is None
            else sample.window.place_on(sample.output_mask, hiding.grid)
        )
    torch.testing.assert_close(total, wanted)


def test_where_planes_are_missing_validation_uses_other_planes_alone() -> None:
    sample = make_prior(mask_without_planes(3)).make_prediction_sample()
    assert float((sample.network_input[:, -1:] > 0).sum()) == 0
    mask = mask_without_planes()
    mask[:, :, 3, 5:7] = 0
    hiding = make_prior(mask)
    assert torch.equal(
        (hiding.make_prediction_sample().network_input[:, -1:] > 0).float(),
        mask - hiding.validation_mask,
    )


def test_inference_on_a_few_planes_at_a_time_gives_the_same_result() -> None:
    network_input = torch.rand(1, 3, PLANES, SIDE, SIDE)
    network = torch.nn.Conv2d(3, 2, 3, padding=1)
    learning = PlanewiseNetwork(network, 1)(network_input)
    with torch.no_grad():
        torch.testing.assert_close(PlanewiseNetwork(network, 1)(network_input), learning)
        torch.testing.assert_close(PlanewiseNetwork(network, 3 * SIDE**2)(network_input), learning)


def test_a_window_of_chosen_planes_puts_them_back_where_they_were() -> None:
    window = Window(start=(0, 2, 3), size=(2, 5, 6), flipped_dims=(4,), planes=(6, 1))
    whole = torch.rand(1, 1, PLANES, SIDE, SIDE)
    back = window.place_on(window.crop(whole), whole.shape[2:])
    assert torch.equal(back[:, :, [6, 1], 2:7, 3:9], whole[:, :, [6, 1], 2:7, 3:9])
    assert float(back.abs().sum()) == pytest.approx(float(window.crop(whole).sum()), rel=1e-5)


def test_the_input_has_as_many_channels_as_are_counted() -> None:
    network_input = make_prior(mask_without_planes(3)).make_prediction_sample().network_input
    assert network_input.shape == (1, count_stack_input_channels(1), PLANES, SIDE, SIDE)
    assert count_stack_input_channels(2) - count_stack_input_channels(1) == 5 + len(
        make_filling_windows(2)
    )


def test_similar_planes_have_a_small_variance_and_others_a_large_one() -> None:
    mask = mask_without_planes()
    mask[:, :, 3, 5:8] = 0
    validation_mask = torch.zeros_like(mask)
    rng = torch.Generator().manual_seed(0)
    grain = torch.rand(1, 1, 1, SIDE, SIDE, generator=rng).expand(-1, -1, PLANES, -1, -1)
    slopes = torch.arange(SIDE).float()[:, None] * torch.randn(1, 1, PLANES, 1, SIDE, generator=rng)
    texts = [
        MaskedStackPrior(
            torch.nn.Identity(),
            pixels,
            mask,
            validation_mask,
            max_masked_fraction=0.3,
            predicts_measured=False,
            window=(4, SIDE, SIDE),
        ).neighbour_weight
        for pixels in (grain, slopes)
    ]
    assert texts[0] > 0.95
    assert texts[1] < 0.2


def test_validation_pixels_lie_in_planes_like_the_missing_ones() -> None:
    mask = mask_without_planes(3)
    alike = StackHoles(mask).mask_similar_planes(mask)
    assert alike.amax((0, 1, 3, 4)).nonzero()[:, 0].tolist() == [1, 5, 6]
    mask = mask_without_planes()
    mask[:, :, 3, 5:7] = 0
    assert torch.equal(StackHoles(mask).mask_similar_planes(mask), mask)
