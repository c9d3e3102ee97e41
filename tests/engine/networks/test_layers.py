"""Inference in tiles gives the same result as on the whole image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.constants import compute_tile_size, count_max_tile_pixels
from napari_dip.engine.fit import train_step as looking
from napari_dip.engine.fit.train_step import apply_network
from napari_dip.engine.networks.hourglass import Hourglass, ResidualChain
from napari_dip.engine.networks.layers import (
    make_convolution,
    make_gaussian_upsampling_factory,
)
from napari_dip.engine.priors.masked_input import FillingResidualNetwork


def make_hourglass(widths: tuple[int, ...], **options: object) -> Hourglass:
    """Make a network whose first answer is not zero."""
    rng = torch.Generator().manual_seed(0)
    settings: dict[str, object] = {
        "skip_channels": None,
        "is_normalised": False,
        "preserves_variance": True,
        **options,
    }
    network = Hourglass(2, 1, 2, widths, rng=rng, **settings)  # type: ignore[arg-type]
    nn.init.normal_(network.head.weight, generator=rng)
    return network


def make_filling_network(widths: tuple[int, ...]) -> FillingResidualNetwork:
    return FillingResidualNetwork(make_hourglass(widths), 1, 2, 2, torch.Generator().manual_seed(1))


def measure_receptive_field(network: nn.Module, at: int, side: int) -> int:
    """Measure how far from a pixel the answer depends on it."""
    network_input = torch.randn(
        1, 1, side, side, generator=torch.Generator().manual_seed(2)
    ).double()
    network = network.double()
    other = network_input.clone()
    other[..., at, at] += 1
    with torch.no_grad():
        changed = (network(other) != network(network_input)).any(1)[0].nonzero()
    return int((changed - at).abs().max())


@pytest.mark.parametrize("sums_branches", [False, True])
@pytest.mark.parametrize("widths", [(4, 4), (4, 4, 4), (4, 4, 4, 4)])
def test_a_network_sees_as_far_as_it_says_and_no_further(
    widths: tuple[int, ...], sums_branches: bool
) -> None:
    network = make_hourglass(widths, sums_branches=sums_branches)
    assert network.receptive_field_radius is not None
    farthest = max(
        measure_receptive_field(network, at, 192) for at in range(88, 88 + network.coarsest_stride)
    )
    assert (
        network.receptive_field_radius - network.coarsest_stride
        < farthest
        <= network.receptive_field_radius
    )


def test_a_network_that_fills_sees_one_pixel_further() -> None:
    network, plain = make_filling_network((4, 4)), make_hourglass((4, 4))
    assert plain.receptive_field_radius is not None
    assert network.receptive_field_radius == plain.receptive_field_radius + 1
    assert network.coarsest_stride == 2


class SizeRecorder(nn.Module):
    """A network that remembers the sizes it was shown."""

    def __init__(self, network: Hourglass) -> None:
        super().__init__()
        self.net, self.receptive_field_radius, self.coarsest_stride = (
            network,
            network.receptive_field_radius,
            network.coarsest_stride,
        )
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, network_input: Tensor) -> Tensor:
        self.sizes.append(tuple(network_input.shape[2:]))
        return self.net(network_input)  # type: ignore[no-any-return]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("size", [(600, 800), (601, 793), (300, 1603), (257, 258)])
def test_inference_in_tiles_equals_that_of_the_whole_plane(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "MAX_UNTILED_PIXELS", 2**16)
    network = SizeRecorder(make_hourglass((4, 8, 8, 8), sums_branches=True))
    network_input = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said = apply_network(network, network_input)
        largest = max(max(size) for size in network.sizes)
        whole = network.net(
            F.pad(network_input, (0, -size[1] % 8, 0, -size[0] % 8), mode="reflect")
        )
    margin, core = compute_tile_size(network.receptive_field_radius or 0, network.coarsest_stride)
    assert said.shape == (1, 2, *size)
    assert len(network.sizes) > 1
    assert largest <= core + 2 * margin
    scale = float(whole.std())
    assert torch.allclose(said, whole[:, :, : size[0], : size[1]], atol=1e-5 * scale, rtol=0)


def test_images_up_to_a_megapixel_are_not_tiled() -> None:
    network = SizeRecorder(make_hourglass((2, 2)))
    with torch.no_grad():
        apply_network(network, torch.zeros(1, 1, 1024, 1024))
        apply_network(network, torch.zeros(1, 1, 1024, 1025))
    assert network.sizes[0] == (1024, 1024)
    assert len(network.sizes) == 1 + 4 * 5


@pytest.mark.parametrize(
    "network",
    [
        make_hourglass((4, 4), is_normalised=True),
        make_hourglass((4, 4), make_upsampling=make_gaussian_upsampling_factory(0.5)),
        ResidualChain(2, 1, 2, 4, 1, rng=torch.Generator().manual_seed(0)),
    ],
    ids=["normalised", "other upsampling", "says nothing"],
)
def test_a_network_without_receptive_field_gets_the_whole_plane(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "MAX_UNTILED_PIXELS", 2**10)
    network_input = torch.randn(1, 1, 200, 300, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said, whole = (
            apply_network(network, network_input),
            network(network_input.contiguous(memory_format=torch.channels_last)),
        )
    assert torch.equal(said, whole)


def test_wide_margins_get_larger_pieces() -> None:
    assert compute_tile_size(54, 8) == (56, 256)
    assert compute_tile_size(110, 16) == (112, 448)
    assert compute_tile_size(5, 3) == (6, 258)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("sums_branches", [False, True])
@pytest.mark.parametrize("scales", [2, 3, 4, 5])
def test_the_largest_inference_tile_is_known_beforehand(scales: int, sums_branches: bool) -> None:
    network = SizeRecorder(make_hourglass((2,) * scales, sums_branches=sums_branches))
    with torch.no_grad():
        apply_network(network, torch.zeros(1, 1, 1600, 1600))
    largest = max(height * width for height, width in network.sizes)
    counts = [
        count_max_tile_pixels(side**2, scales, sums_branches=sums_branches) for side in (1600, 1024)
    ]
    assert counts == [largest, 1024 * 1024]


@pytest.mark.parametrize("has_channels_last", [True, False])
@pytest.mark.parametrize(
    ("kernel_size", "channels", "grid"),
    [(3, (5, 7), (33, 90)), (3, (1, 4), (5, 3)), (1, (6, 2), (17, 8)), (5, (3, 3), (64, 70))],
)
def test_gradients_of_a_convolution_are_the_same_on_cpus_without_avx_512(
    monkeypatch: pytest.MonkeyPatch,
    kernel_size: int,
    channels: tuple[int, int],
    grid: tuple[int, int],
    has_channels_last: bool,
) -> None:
    rng = torch.Generator().manual_seed(0)
    layer = make_convolution(2, *channels, kernel_size, rng)
    planes = torch.randn(2, channels[0], *grid, generator=rng)
    if has_channels_last:
        layer.to(memory_format=torch.channels_last)
        planes = planes.contiguous(memory_format=torch.channels_last)
    planes.requires_grad_()
    weights = torch.randn(2, channels[1], *grid, generator=rng)
    gradients = {}
    for capability in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        output = layer(planes)
        assert (type(output.grad_fn).__name__ == "_BlockwiseGradientBackward") == (
            capability == "AVX2"
        )
        loss = (output * weights).sum()
        gradients[capability] = torch.autograd.grad(loss, (planes, layer.weight, layer.bias))
    for expected, actual in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
