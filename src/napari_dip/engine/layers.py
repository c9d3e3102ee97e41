"""Layers of networks: convolutions that continue the picture at its border by reflection."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Up to that product of the first four sizes torch 2 leaves a volume's convolution to code of its
#: own, 2 to 7 times slower than the same taken as convolutions of planes (12 x 48 x 48, 16
#: channels, one core: 138 ms forward and back, 19 ms as planes).
_SLOW = 20480


class VolumeConvolution(nn.Conv3d):
    """As `nn.Conv3d` without stride, faster for small volumes on a processor."""

    def _conv_forward(self, volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode != "zeros":
            sides = self._reversed_padding_repeated_twice
            volume = F.pad(volume, sides, mode=self.padding_mode)
        if volume.device.type != "cpu" or prod(volume.shape[:4]) > _SLOW:
            return F.conv3d(volume, weight, bias)
        return _as_planes(volume, weight, bias)


def _as_planes(volume: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with the planes as a batch, the neighbours of each as further channels."""
    size, out = weight.shape[2], weight.shape[0]
    planes = volume.movedim(2, 1)  # (B, Z, C, Y, X)
    count = planes.shape[1] - size + 1
    near = torch.cat([planes[:, first : first + count] for first in range(size)], 2).flatten(0, 1)
    flat = weight.transpose(1, 2).reshape(out, -1, *weight.shape[3:])
    convolved: Tensor = F.conv2d(near, flat, bias).unflatten(0, (-1, count))
    return convolved.movedim(1, 2)


_CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: VolumeConvolution}


def convolution(
    dims: int, before: int, after: int, size: int, rng: torch.Generator
) -> nn.Conv2d | nn.Conv3d:
    """Reflect at the border, where zeros would draw a dark frame; weights from `rng` alone."""
    layer = nn.utils.skip_init(
        _CONVOLUTIONS[dims],
        before,
        after,
        size,
        padding=size // 2,
        padding_mode="reflect" if size > 1 else "zeros",
    )
    nn.init.kaiming_uniform_(layer.weight, a=sqrt(5), generator=rng)  # torch's own default
    bound = 1 / sqrt(before * size**dims)
    nn.init.uniform_(layer.bias, -bound, bound, generator=rng)
    return layer  # type: ignore[no-any-return]
