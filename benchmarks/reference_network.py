"""CPU time of a step of the Deep Image Prior reference network, against that of the presets.

Usage: python benchmarks/reference_network.py [--steps 5]
The network of the published code for denoising and inpainting: 128 channels on 5 scales, skips of
4 channels, 32 channels of fixed noise, batch normalisation. Both take forward and backward passes
and steps of Adam, on one thread, after one step that is not counted; processor time, in turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.engine.priors.masked_input import count_input_channels
from shared_data import write

SIDE, NOISE_CHANNELS, WIDTH, SCALES, SKIP = 256, 32, 128, 5, 4
#: Ours for scattered pixels (src/napari_dip/pipeline/plan/presets/inpaint.json).
OUR_WIDTHS = (32, 64, 64)


def layer(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolve, normalise, rectify."""
    padding = {"padding": size // 2, "padding_mode": "reflect"} if size > 1 else {}
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, **padding),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(0.2),
    )


class Reference(nn.Module):
    """Encoder and decoder of Ulyanov et al. 2018, table of the supplement, as published.

    Parameters
    ----------
    channels : int
        Of the image: 2,217,573 weights for one, as the published code counts.
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        widths = [NOISE_CHANNELS] + [WIDTH] * SCALES
        self.down = nn.ModuleList(
            nn.Sequential(layer(before, after, 3, 2), layer(after, after, 3))
            for before, after in pairwise(widths)
        )
        self.skip_channels = nn.ModuleList(layer(before, SKIP, 1) for before in widths[:-1])
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(WIDTH + SKIP),
                layer(WIDTH + SKIP, WIDTH, 3),
                layer(WIDTH, WIDTH, 1),
            )
            for _ in range(SCALES)
        )
        self.head = nn.Conv2d(WIDTH, channels, 1)

    def forward(self, code: Tensor) -> Tensor:
        """(1, 32, Y, X) -> (1, channels, Y, X)."""
        passed, flow = [], code
        for down, skip_channels in zip(self.down, self.skip_channels, strict=True):
            passed.append(skip_channels(flow))
            flow = down(flow)
        for up, skipped in zip(reversed(self.up), reversed(passed), strict=True):
            flow = F.interpolate(flow, size=skipped.shape[2:], mode="bilinear")
            flow = up(torch.cat([flow, skipped], 1))
        return torch.sigmoid(self.head(flow))


def seconds_per_step(net: nn.Module, channels: int, steps: int) -> float:
    """Processor time of a step, without the first."""
    net.to(memory_format=torch.channels_last)
    code = torch.rand(1, channels, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    aim = torch.rand(1, 1, SIDE, SIDE)
    adam = torch.optim.Adam(net.parameters(), lr=1e-4)
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = time.process_time()
        adam.zero_grad()
        ((net(code) - aim) ** 2).mean().backward()
        adam.step()
    return (time.process_time() - started) / steps


def main() -> None:
    """Time both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fed = count_input_channels(2, 1)
    ours = Hourglass(
        2,
        fed,
        1,
        OUR_WIDTHS,
        skip_channels=None,
        is_normalised=False,
        rng=torch.Generator(),
        preserves_variance=True,
    )
    rows: list[dict[str, Any]] = []
    for name, net, channels in (
        ("reference size", Reference(), NOISE_CHANNELS),
        ("ours", ours, fed),
    ):
        rows.append(
            {
                "network": name,
                "weights": sum(weight.numel() for weight in net.parameters()),
                "CPU seconds per step": seconds_per_step(net, channels, options.steps),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    write("reference_network", rows, {"steps": options.steps, "side": SIDE, "threads": 1})


if __name__ == "__main__":
    main()
