"""Layers with a spectral-norm bound stay within it, and learn fine detail later."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_dip.engine.networks.hourglass import Decoder, Hourglass
from napari_dip.engine.networks.layers import TransposedUpsampling, bound_spectral_norms


def make_rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_hourglass() -> Hourglass:
    return Hourglass(
        2,
        6,
        1,
        (4, 8),
        skip_channels=2,
        is_normalised=True,
        rng=make_rng(),
        make_upsampling=TransposedUpsampling,
    )


def compute_norms(network: nn.Module) -> list[float]:
    """Largest singular values of all weights but those of the head."""
    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, kinds) and layer is not network.head
    ]
    return [
        float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) for layer in layers
    ]


def test_no_layer_exceeds_its_bound_while_it_learns_and_the_last_one_may():
    network = make_hourglass()
    bound_spectral_norms(network, 0.5)
    random_input, target = (torch.rand(1, count, 16, 16, generator=make_rng()) for count in (6, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    before = float(network.head.weight.detach().norm())
    for _ in range(20):
        optimizer.zero_grad()
        loss = (network(random_input) - 20 * target).square().mean()
        loss.backward()
        optimizer.step()
    measured = compute_norms(network)
    assert len(measured) == 8 and max(measured) == pytest.approx(0.5, rel=1e-4)
    assert float(network.head.weight.detach().norm()) > max(before, 0.5)


def test_a_layer_within_its_bound_is_left_as_it_is():
    free, wide = make_hourglass(), make_hourglass()
    bound_spectral_norms(wide, 1000.0)
    kinds = nn.Conv2d | nn.ConvTranspose2d
    bounded = [layer.weight for layer in wide.modules() if isinstance(layer, kinds)]
    kernels = [weight for weight in free.parameters() if weight.ndim == 4]
    assert len(bounded) >= 8
    assert all(any(torch.equal(weight, other) for other in kernels) for weight in bounded)


def test_norms_move_means_and_leave_differences():
    network = make_hourglass()
    bound_spectral_norms(network, 1.0)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    norm = network.last[1]
    flow = torch.rand(2, 4, 5, 6, generator=make_rng())
    moved = norm(flow)
    torch.testing.assert_close(moved.mean((2, 3)), torch.zeros(2, 4))
    torch.testing.assert_close(moved - moved[..., :1, :1], flow - flow[..., :1, :1])


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_a_mistake(bound):
    with pytest.raises(ValueError, match="`bound` must be above 0"):
        bound_spectral_norms(make_hourglass(), bound)


def test_volumes_are_bounded_too():
    network = Decoder((4, 8, 8), 3, 1, (4, 4), rng=make_rng())
    bound_spectral_norms(network, 0.1)
    assert max(compute_norms(network)) <= 0.1001
    assert network(torch.rand(1, 3, 2, 4, 4, generator=make_rng())).shape == (1, 1, 4, 8, 8)
