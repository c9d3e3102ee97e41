"""Zero-Shot Noise2Noise, reimplemented from the paper.

Mansour and Heckel, Zero-Shot Noise2Noise: Efficient Image Denoising without any Data, CVPR 2023,
arXiv:2303.11253.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: As in the paper: Adam, the rate halved every 1,000 steps.
SETTINGS = {"channels": 48, "steps": 2000, "rate": 1e-3, "halved_every": 1000, "seed": 0}


def split_halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each 2 x 2 block's diagonals: (1, C, Y, X) -> two of half the size.

    An odd last row or column is left out.
    """
    y, x = (side // 2 * 2 for side in image.shape[2:])
    even, odd = image[..., 0:y:2, :], image[..., 1:y:2, :]
    falling = (even[..., 0:x:2] + odd[..., 1:x:2]) / 2
    rising = (even[..., 1:x:2] + odd[..., 0:x:2]) / 2
    return rising, falling


def make_network(planes: int) -> nn.Sequential:
    """Three layers that foretell the noise."""
    wide = int(SETTINGS["channels"])
    return nn.Sequential(
        nn.Conv2d(planes, wide, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(wide, planes, 1),
    )


def compute_loss(net: nn.Module, noisy: Tensor) -> Tensor:
    """Residual loss (each half, denoised, foretells the other) and consistency loss.

    Consistency: denoising and then halving gives what halving and then denoising gives.
    """
    first, second = split_halves(noisy)
    clean_first, clean_second = first - net(first), second - net(second)
    whole_first, whole_second = split_halves(noisy - net(noisy))
    residual = F.mse_loss(clean_first, second) + F.mse_loss(clean_second, first)
    consistency = F.mse_loss(clean_first, whole_first) + F.mse_loss(clean_second, whole_second)
    return (residual + consistency) / 2


def denoise(image: npt.NDArray[Any], steps: int | None = None) -> npt.NDArray[np.float64]:
    """Fit to one image, (Y, X) or (Y, X, C) on a scale of 0 to 255, and denoise it."""
    torch.manual_seed(int(SETTINGS["seed"]))
    planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    noisy = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32))[None] / 255
    net = make_network(len(planes))
    adam = torch.optim.Adam(net.parameters(), lr=float(SETTINGS["rate"]))
    slower = torch.optim.lr_scheduler.StepLR(adam, int(SETTINGS["halved_every"]), gamma=0.5)
    for _ in range(int(SETTINGS["steps"]) if steps is None else steps):
        adam.zero_grad()
        compute_loss(net, noisy).backward()
        adam.step()
        slower.step()
    with torch.no_grad():
        clean = (noisy - net(noisy)).clamp(0, 1)[0].double().numpy() * 255
    return clean[0] if image.ndim == 2 else np.moveaxis(clean, 0, -1)
