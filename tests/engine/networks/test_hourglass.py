"""Networks compute what their layers define, on every processor."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from napari_dip.engine.networks import layers
from napari_dip.engine.networks.hourglass import Hourglass, SummedBranches
from napari_dip.engine.networks.layers import (
    LEAKY_SLOPE,
    make_convolution,
    make_linear_upsampling,
)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("slow", [0, 10**9])
def test_volumes_are_convolved_as_torch_does_with_its_gradients(monkeypatch, size, slow) -> None:
    monkeypatch.setattr(layers, "_MAX_SLOW_SIZE", slow)
    layer = make_convolution(3, 4, 5, size, torch.Generator().manual_seed(0))
    mode = {"padding": size // 2, "padding_mode": layer.padding_mode}
    theirs = nn.Conv3d(4, 5, size, **mode)
    theirs.load_state_dict(layer.state_dict())
    rng = torch.Generator().manual_seed(1)
    volume = torch.rand(2, 4, 6, 7, 8, generator=rng)
    answers = []
    for convolution in (layer, theirs):
        fed = volume.clone().requires_grad_()
        answer = convolution(fed)
        answer.square().sum().backward()
        answers.append((answer, fed.grad, convolution.weight.grad, convolution.bias.grad))
    for ours, wanted in zip(*answers, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def measure_head_input(preserves_variance: bool, *, sums_branches: bool = False) -> float:
    """Root of the mean square of what the last layer is given, for a code of about one."""
    rng = torch.Generator().manual_seed(0)
    network = Hourglass(
        2,
        8,
        1,
        (16, 32, 32),
        skip_channels=None,
        is_normalised=False,
        rng=rng,
        preserves_variance=preserves_variance,
        sums_branches=sums_branches,
    )
    inputs: list[torch.Tensor] = []
    network.head.register_forward_pre_hook(lambda _, fed: inputs.append(fed[0]))
    with torch.no_grad():
        network(torch.randn(1, 8, 24, 24, generator=rng))
    return float(inputs[0].square().mean().sqrt())


def test_signals_reach_the_head_of_an_even_network_and_fade_in_torchs_own() -> None:
    assert 0.3 < measure_head_input(preserves_variance=True) < 3
    assert 0.3 < measure_head_input(preserves_variance=True, sums_branches=True) < 3
    assert measure_head_input(preserves_variance=False) < 0.1


def test_summed_branches_equal_a_convolution_of_their_concatenation() -> None:
    """For features that upsampling leaves as they are: the same in all pixels of a plane."""
    rng = torch.Generator().manual_seed(0)
    layer = SummedBranches(2, 4, 6, rng)
    coarser = torch.randn(1, 6, 1, 1, generator=rng).expand(-1, -1, 5, 7)
    features = torch.randn(1, 4, 10, 14, generator=rng)
    weights = torch.cat([layer.coarser.weight, layer.skip.weight], 1)
    concatenated = torch.cat([coarser[..., :1, :1].expand(-1, -1, 10, 14), features], 1)
    expected = F.leaky_relu(
        F.conv2d(F.pad(concatenated, (1, 1, 1, 1), mode="reflect"), weights)
        + (layer.coarser.bias + layer.skip.bias)[:, None, None],
        LEAKY_SLOPE,
    )
    with torch.no_grad():
        summed = layer(coarser, features, make_linear_upsampling(2, 6, rng))
    torch.testing.assert_close(summed, expected)


def test_an_even_network_begins_with_nothing_to_be_changed() -> None:
    rng = torch.Generator().manual_seed(0)
    network = Hourglass(
        2, 8, 1, (16, 32), skip_channels=None, is_normalised=False, rng=rng, preserves_variance=True
    )
    assert bool((network(torch.randn(1, 8, 16, 16, generator=rng)) == 0).all())
