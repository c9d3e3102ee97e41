"""Define the blind-spot prior (Noise2Void, Noise2Self): hidden pixels are predicted."""

from __future__ import annotations

from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from napari_dip.engine.prior import (
    StepInput,
    VariancePrior,
    dilate_centres,
    draw_random_window,
    draw_uniform,
    fill_with_local_mean,
    limit_window,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

#: Standard deviation, in pixels, of the Gaussian that smooths the weave: the error of guided
#: results falls by 2 to 6 % with 2 to 30 photons at the brightest (docs/constants.md).
WEAVE_STD = 0.5


class BlindSpotPrior(VariancePrior):
    """Blind spot: predict hidden pixels of the measurement from their surroundings.

    Each training step hides other blind spots, and the loss is computed at their cores. A blind
    spot is wider than the noise correlation, so no input pixel shares the noise of a predicted one.
    Validation pixels and their guard band never enter the network input.

    Parameters
    ----------
    network : nn.Module
        Its 2 C output channels are the mean and the variance before a softplus.
    measurement : Tensor
        (B, C, *grid). If B > 1, each training step uses one image of the batch.
    excluded_mask : Tensor
        (B, 1, *grid), 1 at validation pixels and their guard band.
    blind_spot_size : tuple of int, odd
        Size of a blind spot in pixels, per axis: wider than the noise correlation.
    core_size : tuple of int, odd
        Size of the core of a blind spot, where the prediction is valid, per axis. Its distance to
        visible pixels is about the correlation length or more.
    masked_fraction : float
        Approximate share of the pixels that one training step hides.
    window : tuple of int or None
        Size of the crop of one training step; None: the whole grid.
    blind_spot_shape : Tensor or None
        (*blind_spot_size), 1 where a pixel of the block is hidden, point symmetric; None: all are.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        measurement: Tensor,
        excluded_mask: Tensor,
        blind_spot_size: tuple[int, ...],
        core_size: tuple[int, ...],
        masked_fraction: float,
        window: tuple[int, ...] | None,
        blind_spot_shape: Tensor | None = None,
    ) -> None:
        self.network = network
        self.blind_spot_size = blind_spot_size
        self.blind_spot_shape = blind_spot_shape
        self.hidden_count: int = (
            prod(blind_spot_size) if blind_spot_shape is None else int(blind_spot_shape.sum())
        )
        self.core_size = core_size
        self.masked_fraction = masked_fraction
        self.visible_mask: Tensor = 1 - excluded_mask
        self.measurement: Tensor = measurement * self.visible_mask
        self.grid: tuple[int, ...] = tuple(measurement.shape[2:])
        self.window: tuple[int, ...] = limit_window(window, self.grid)

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Draw a random window, mirrored at random, with blind spots at random positions."""
        window = draw_random_window(self.grid, self.window, rng, batch_size=len(self.measurement))
        measurement, visible = window.crop(self.measurement), window.crop(self.visible_mask)
        density = self.masked_fraction / self.hidden_count
        centres = (draw_uniform(visible, rng) < density).to(visible.dtype)
        predicted = dilate_centres(centres, self.core_size) * visible
        # guard bands are filled anew: a fixed filling would contain the pixels hidden now
        network_input = fill_with_local_mean(
            measurement,
            visible * (1 - dilate_centres(centres, self.blind_spot_size, self.blind_spot_shape)),
            self.blind_spot_size,
        )
        return StepInput(network_input, loss_mask=predicted, output_mask=predicted, window=window)

    def make_prediction_sample(self) -> StepInput:
        """Return the measurement with only validation pixels and their guard band hidden."""
        return StepInput(
            fill_with_local_mean(self.measurement, self.visible_mask, self.blind_spot_size)
        )

    def make_inference_samples(self) -> Iterator[StepInput]:
        """Yield inputs with a shifted lattice of blind spots, until the cores cover the grid."""
        grid = self.grid
        margin = [core // 2 for core in self.core_size]
        # cores must tile the grid, with at least two visible pixels between blind spots
        strides = [
            core * ceil((size + 2) / core)
            for size, core in zip(self.blind_spot_size, self.core_size, strict=True)
        ]
        padded_grid = [length + 2 * pad for length, pad in zip(grid, margin, strict=True)]
        unpadded = [slice(pad, pad + length) for pad, length in zip(margin, grid, strict=True)]
        offsets_by_axis = (
            range(0, min(stride, length), core)
            for stride, length, core in zip(strides, padded_grid, self.core_size, strict=True)
        )
        for offsets in product(*offsets_by_axis):
            centres = self.visible_mask.new_zeros((1, 1, *padded_grid))
            lattice = [
                slice(offset, None, stride) for offset, stride in zip(offsets, strides, strict=True)
            ]
            centres[:, :, *lattice] = 1
            predicted = dilate_centres(centres, self.core_size)[:, :, *unpadded]
            hidden = dilate_centres(centres, self.blind_spot_size, self.blind_spot_shape)[
                :, :, *unpadded
            ]
            yield StepInput(
                fill_with_local_mean(
                    self.measurement, self.visible_mask * (1 - hidden), self.blind_spot_size
                ),
                output_mask=predicted,
            )


def smooth_weave(mean: Tensor) -> Tensor:
    """Smooth predictions of single hidden pixels (B, C, *grid) a little along Y and X.

    A pixel is predicted from its neighbours and not from itself, so the noise of a pixel raises
    its neighbours and leaves a hole between them: a weave of two pixels.
    """
    images = mean.reshape(-1, 1, *mean.shape[-2:])
    profile = torch.exp(-(torch.arange(-1.0, 2.0) ** 2) / (2 * WEAVE_STD**2))
    kernel = torch.outer(profile, profile).to(images) / profile.sum() ** 2
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel[None, None]).reshape(mean.shape)
