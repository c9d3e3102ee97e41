"""Bounded layers stay within their bound, however long they learn, and hold fine detail back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_dip.engine.networks.hourglass import Decoder, Hourglass
from napari_dip.engine.networks.layers import bound_spectral_norms, make_transposed_upsampling


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hourglass() -> Hourglass:
    return Hourglass(
        2,
        6,
        1,
        (4, 8),
        skip_channels=2,
        is_normalised=True,
        rng=drawn(),
        upsampling=make_transposed_upsampling,
    )


def norms(net: nn.Module) -> list[float]:
    """Largest singular values of all weights but those of the head."""
    kinds = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d
    layers = [one for one in net.modules() if isinstance(one, kinds) and one is not net.head]
    return [float(torch.linalg.matrix_norm(one.weight.detach().flatten(1), 2)) for one in layers]


def test_no_layer_exceeds_its_bound_while_it_learns_and_the_last_one_may():
    net = hourglass()
    bound_spectral_norms(net, 0.5)
    code, target = (torch.rand(1, count, 16, 16, generator=drawn()) for count in (6, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    before = float(net.head.weight.detach().norm())
    for _ in range(20):
        optimizer.zero_grad()
        loss = (net(code) - 20 * target).square().mean()
        loss.backward()
        optimizer.step()
    found = norms(net)
    assert len(found) == 8 and max(found) == pytest.approx(0.5, rel=1e-4)
    assert float(net.head.weight.detach().norm()) > max(before, 0.5)


def test_a_layer_within_its_bound_is_left_as_it_is():
    free, wide = hourglass(), hourglass()
    bound_spectral_norms(wide, 1000.0)
    kinds = nn.Conv2d | nn.ConvTranspose2d
    bounded = [one.weight for one in wide.modules() if isinstance(one, kinds)]
    there = [one for one in free.parameters() if one.ndim == 4]
    assert all(any(torch.equal(one, other) for other in there) for one in bounded)


def test_norms_move_means_and_leave_differences():
    net = hourglass()
    bound_spectral_norms(net, 1.0)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in net.modules())
    norm = net.last[1]
    flow = torch.rand(2, 4, 5, 6, generator=drawn())
    moved = norm(flow)
    torch.testing.assert_close(moved.mean((2, 3)), torch.zeros(2, 4))
    torch.testing.assert_close(moved - moved[..., :1, :1], flow - flow[..., :1, :1])


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_a_mistake(bound):
    with pytest.raises(ValueError, match="`bound` must be above 0"):
        bound_spectral_norms(hourglass(), bound)


def test_volumes_are_bounded_too():
    net = Decoder((4, 8, 8), 3, 1, (4, 4), rng=drawn())
    bound_spectral_norms(net, 0.1)
    assert max(norms(net)) <= 0.1001
    assert net(torch.rand(1, 3, 2, 4, 4, generator=drawn())).shape == (1, 1, 4, 8, 8)
