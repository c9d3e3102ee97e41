"""Define the masked-input prior for inpainting, and smooth interpolation of holes.

Each training step masks further measured pixels, and the loss is computed there. The network input
is several smooth fillings of all masked pixels, and a channel that marks visible ones.
"""

from __future__ import annotations

from itertools import compress, count, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.fit.train_step import LocalNetwork, run_in_bfloat16
from napari_dip.engine.networks.layers import AVERAGE_POOLS, LINEAR_MODES, make_convolution
from napari_dip.engine.prior import (
    StepInput,
    VariancePrior,
    Window,
    draw_random_window,
    draw_uniform,
    limit_window,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Standard deviations of isotropic filling windows, in pixels: six windows gained 0.2 dB over the
#: best single one (0.7) (docs/constants.md).
ISOTROPIC_SIGMAS = (0.7, 1.4)
#: Standard deviation along elongated filling windows, in pixels.
SIGMA_ALONG = 1.6
#: Standard deviation across elongated filling windows, in pixels.
SIGMA_ACROSS = 0.45
#: Half width of a filling window, in pixels.
FILLING_RADIUS = 4
#: Least weight of a filling window that is significant in single precision.
MIN_FILLING_WEIGHT = 1e-4
#: Number of folds of the measured pixels in the final inference. Each is predicted with that fold
#: masked, which is about the share that training masks.
INFERENCE_FOLDS = 4
#: Largest number of copies of the holes that one step masks, if they are a small share of the
#: image.
MAX_MASK_COPIES = 4
#: Number of masks with copies of the holes that the final inference predicts: twelve lost 0.06 dB
#: against four in the mean of 18 cases (docs/adr/0041-a-filling-is-blended-with-a-smooth-one.md).
INFERENCE_COPIES = 4
#: Hidden channels of the variance layers.
UNCERTAINTY_CHANNELS = 16


def count_input_channels(dims: int, channels: int) -> int:
    """Return the number of input channels: all fillings of each channel, and the visible mask."""
    return len(make_filling_windows(dims)) * channels + 1


def make_filling_windows(dims: int) -> Tensor:
    """Return the filling windows (K, 1, 9, 9) or (K, 1, 9, 9, 9), each of sum one.

    Isotropic windows come first, then elongated ones along each axis and, in 2-D, along both
    diagonals, which fill holes along edges better.
    """
    axis_offsets = torch.arange(-FILLING_RADIUS, FILLING_RADIUS + 1, dtype=torch.float32)
    offsets = torch.stack(torch.meshgrid(*[axis_offsets] * dims, indexing="ij"))
    squared_distance = (offsets**2).sum(0)
    directions = [
        *torch.eye(dims),
        *([torch.ones(2), torch.tensor([1.0, -1.0])] if dims == 2 else []),
    ]
    windows = [torch.exp(-squared_distance / (2 * sigma**2)) for sigma in ISOTROPIC_SIGMAS]
    for direction in directions:
        distance_along = torch.tensordot(direction / direction.norm(), offsets, 1) ** 2
        distance_across = squared_distance - distance_along
        windows.append(
            torch.exp(
                -distance_along / (2 * SIGMA_ALONG**2) - distance_across / (2 * SIGMA_ACROSS**2)
            )
        )
    return torch.stack([window / window.sum() for window in windows])[:, None]


def fill_by_normalised_convolution(measurement: Tensor, visible: Tensor, windows: Tensor) -> Tensor:
    """Fill hidden pixels with weighted means of visible ones, once for each window.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid).
    visible : Tensor
        (B, 1, *grid), 0 where hidden, 1 where not.
    windows : Tensor
        (K, 1, ...), from `make_filling_windows`.

    Returns
    -------
    Tensor
        (B, K C, *grid), all channels of the first filling, then of the next. Where a window has no
        visible pixel, the filling is that of `fill_by_pull_push`.

    References
    ----------
    Knutsson, Westin, Normalized and differential convolution, CVPR 1993,
    doi:10.1109/CVPR.1993.341081.
    """
    batch, channels, *grid = measurement.shape
    count = len(windows)
    convolve = F.conv2d if len(grid) == 2 else F.conv3d
    visible_values = (measurement * visible).reshape(-1, 1, *grid)
    sums = convolve(visible_values, windows, padding=FILLING_RADIUS)
    sums = sums.reshape(batch, channels, count, *grid).transpose(1, 2)
    weights = convolve(visible, windows, padding=FILLING_RADIUS)[:, :, None]
    fallback = fill_by_pull_push(measurement, visible)[:, None]
    means = torch.where(
        weights > MIN_FILLING_WEIGHT, sums / weights.clamp(min=MIN_FILLING_WEIGHT), fallback
    )
    filled = torch.where(visible[:, None] > 0, measurement[:, None], means)
    return filled.reshape(batch, count * channels, *grid)


def fill_by_pull_push(measurement: Tensor, visible: Tensor) -> Tensor:
    """Fill hidden pixels with the mean of the nearest visible ones.

    Visible pixels are averaged onto coarser and coarser grids. Then, from coarse to fine, holes are
    filled by interpolation of the coarser grid.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid).
    visible : Tensor
        (B, 1, *grid), 0 where hidden, 1 where not.

    Returns
    -------
    Tensor
        (B, C, *grid); the measurement itself where it is visible.

    References
    ----------
    Gortler, Grzeszczuk, Szeliski, Cohen, The Lumigraph, SIGGRAPH 1996,
    doi:10.1145/237170.237200 (pull and push).
    """
    return _pull_and_push(measurement * visible, visible)


def _pull_and_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """Return the mean where there is weight, else the interpolated coarser grid."""
    dims = weighted.ndim - 2
    mean = weighted / weight.clamp(min=1e-6)
    if min(weighted.shape[2:]) <= 2:
        axes = tuple(range(2, 2 + dims))
        overall_mean = weighted.sum(axes, keepdim=True) / weight.sum(axes, keepdim=True).clamp(
            min=1e-6
        )
        return torch.where(weight > 0, mean, overall_mean)
    # windows overlap: otherwise the last pixel of an odd size would be averaged with no other
    coarse = _pull_and_push(
        *(AVERAGE_POOLS[dims](tensor, 4, 2, 1) for tensor in (weighted, weight))
    )
    size = weighted.shape[2:]
    finer = F.interpolate(coarse, size=size, mode=LINEAR_MODES[dims], align_corners=False)
    return torch.where(weight > 0, mean, finer)


def draw_mask_placement(
    sizes: tuple[int, ...], rng: torch.Generator
) -> tuple[list[int], list[int]]:
    """Draw the placement of a copy of the holes: axes to mirror, and a shift along each axis.

    Parameters
    ----------
    sizes : tuple of int
        Of the grid; shifts are periodic.
    rng : torch.Generator
    """
    uniforms = torch.rand(2 * len(sizes), generator=rng).tolist()
    mirrored_axes = [axis for axis, uniform in enumerate(uniforms[: len(sizes)]) if uniform < 0.5]
    shifts = [
        int(uniform * size) for uniform, size in zip(uniforms[len(sizes) :], sizes, strict=True)
    ]
    return mirrored_axes, shifts


def split_into_folds(mask: Tensor, fold_count: int) -> Iterator[Tensor]:
    """Yield masks that together make up a mask (1, 1, *grid), the same at every inference."""
    rng = torch.Generator().manual_seed(0)
    fold_index = draw_uniform(mask, rng).mul(fold_count).floor()
    yield from (mask * (fold_index == fold) for fold in range(fold_count))


class FillingResidualNetwork(nn.Module):
    """A network that predicts the change to a smooth filling, and its variance.

    Two small layers predict the variance from the input and the change, without a gradient to the
    network. With that gradient, training was slower (2 dB less after 60 iterations on a 96 x 96
    crop with half of its pixels missing).

    Parameters
    ----------
    network : nn.Module
        (B, D, *grid) -> (B, C, *grid).
    in_channels, channels : int
        D, from `count_input_channels`, and C of the image.
    dims : int
        2 or 3.
    rng : torch.Generator
        Draws the weights of the variance layers.
    """

    def __init__(
        self, network: nn.Module, in_channels: int, channels: int, dims: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.net = network  # this name is part of the keys of saved weights
        self.channels = channels
        self.variance_head: nn.Sequential = nn.Sequential(
            make_convolution(dims, in_channels + channels, UNCERTAINTY_CHANNELS, 3, rng),
            nn.ReLU(inplace=True),
            make_convolution(dims, UNCERTAINTY_CHANNELS, channels, 1, rng),
        )

    @property
    def coarsest_stride(self) -> int:
        """Coarsest stride of the inner network."""
        return self.net.coarsest_stride if isinstance(self.net, LocalNetwork) else 1

    @property
    def receptive_field_radius(self) -> int | None:
        """Receptive field of the inner network, plus one pixel of the variance layers."""
        radius = self.net.receptive_field_radius if isinstance(self.net, LocalNetwork) else None
        return None if radius is None else radius + 1

    def forward(self, network_input: Tensor) -> Tensor:
        """Map (B, D, *grid) to (B, 2 C, *grid): mean and raw variance."""
        return self._append_variance(network_input, self.net(network_input))

    def run_mixed_precision(self, network_input: Tensor) -> Tensor:
        """Compute only the change in bfloat16, since the filling must not be rounded."""
        return self._append_variance(network_input, run_in_bfloat16(self.net, network_input))

    def _append_variance(self, network_input: Tensor, change: Tensor) -> Tensor:
        raw = self.variance_head(torch.cat([network_input, change.detach()], 1))
        return torch.cat([network_input[:, : self.channels] + change, raw], 1)


class MaskedInputPrior(VariancePrior):
    """The measurement with further pixels masked at each training step, where the loss is computed.

    Validation pixels are masked in training and previews. The final inference uses all measured
    pixels.

    Parameters
    ----------
    network : nn.Module
        A `FillingResidualNetwork`.
    measurement : Tensor
        (1, C, *grid).
    measured_mask : Tensor
        (1, 1, *grid), 1 where there is a measurement.
    validation_mask : Tensor
        (1, 1, *grid), 1 at validation pixels.
    masked_fraction : (float, float)
        Smallest and largest share of the measured pixels that a step masks.
    block_side : int
        A quarter of the side of the squares in which copies of the holes are thinned.
    uses_hole_shapes : bool
        Whether randomly placed copies of the holes are masked; otherwise independent pixels are.
    uses_mirroring : bool
        Whether training windows are mirrored at random, and the final inference averages over all
        mirrored images.
    predicts_measured : bool
        Whether the final inference predicts all measured pixels from the others; otherwise only
        validation pixels.
    window : tuple of int or None
        Size of the crop of one training step; None: the whole grid.
    """

    def __init__(
        self,
        network: nn.Module,
        measurement: Tensor,
        measured_mask: Tensor,
        validation_mask: Tensor,
        *,
        masked_fraction: tuple[float, float],
        block_side: int,
        uses_hole_shapes: bool,
        uses_mirroring: bool,
        predicts_measured: bool,
        window: tuple[int, ...] | None,
    ) -> None:
        self.network = network
        self.masked_fraction = masked_fraction
        self.block_side = block_side
        self.uses_hole_shapes = uses_hole_shapes
        self.uses_mirroring = uses_mirroring
        self.predicts_measured = predicts_measured
        self.measurement: Tensor = measurement * measured_mask
        self.measured_mask = measured_mask
        self._hole_fraction = float((1 - measured_mask).mean())
        self.validation_mask: Tensor = validation_mask * measured_mask
        self.grid: tuple[int, ...] = tuple(measurement.shape[2:])
        self.filling_windows: Tensor = make_filling_windows(len(self.grid)).to(measurement)
        self.window: tuple[int, ...] = limit_window(window, self.grid)

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Draw a random window with masked pixels, mirrored at random if chosen."""
        window = draw_random_window(self.grid, self.window, rng, uses_mirroring=self.uses_mirroring)
        measured_mask = window.crop(self.measured_mask)
        validation = window.crop(self.validation_mask)
        if self.uses_hole_shapes:
            hidden = window.crop(self._draw_hidden_mask(rng))
        else:
            min_fraction, max_fraction = self.masked_fraction
            fraction = min_fraction + (max_fraction - min_fraction) * float(
                torch.rand((), generator=rng)
            )
            hidden = (draw_uniform(measured_mask, rng) < fraction).to(measured_mask.dtype)
        masked = measured_mask * (1 - (1 - hidden) * (1 - validation))
        network_input = self._make_masked_input(
            window.crop(self.measurement), measured_mask - masked
        )
        return StepInput(network_input, loss_mask=masked, output_mask=masked, window=window)

    def make_prediction_sample(self) -> StepInput:
        """Return the measurement with only validation pixels masked."""
        return StepInput(
            self._make_masked_input(self.measurement, self.measured_mask - self.validation_mask)
        )

    def make_inference_samples(self) -> Iterator[StepInput]:
        """Yield the measurement in each orientation, then inputs to predict measured pixels.

        All take as long, although the first ones predict few pixels.
        """
        copies = self.list_hole_copies() if self.uses_hole_shapes else []
        predicted = self._predicted_mask
        if copies:
            predicted = torch.cat([predicted, *copies]).amax(0, keepdim=True)
        axes = range(2, 2 + len(self.grid))
        orientations = list(
            product((False, True) if self.uses_mirroring else (False,), repeat=len(self.grid))
        )
        start = (0,) * len(self.grid)
        numbers, total = count(1), len(orientations) + len(copies) + self._fold_count
        for flips in orientations:
            flipped_dims = tuple(compress(axes, flips))
            window = Window(start=start, size=self.grid, flipped_dims=flipped_dims)
            network_input = self._make_masked_input(
                window.crop(self.measurement), window.crop(self.measured_mask)
            )
            yield StepInput(
                network_input,
                output_mask=window.crop(1 - predicted) / len(orientations),
                window=window,
                completed_fraction=next(numbers) / total,
            )
        for hidden in copies:
            network_input = self._make_masked_input(self.measurement, self.measured_mask - hidden)
            yield StepInput(
                network_input,
                output_mask=hidden * predicted,
                completed_fraction=next(numbers) / total,
            )
            predicted = predicted * (1 - hidden)
        for fold in split_into_folds(predicted, self._fold_count):
            network_input = self._make_masked_input(self.measurement, self.measured_mask - fold)
            yield StepInput(
                network_input, output_mask=fold, completed_fraction=next(numbers) / total
            )

    def list_hole_copies(self) -> list[Tensor]:
        """List the same masks at every inference: copies of shapes, or the first fold of pixels."""
        if not self.uses_hole_shapes:
            return [next(split_into_folds(self._predicted_mask, self._fold_count))]
        rng = torch.Generator().manual_seed(0)
        return [self._draw_hidden_mask(rng) * self.measured_mask for _ in range(INFERENCE_COPIES)]

    @property
    def _predicted_mask(self) -> Tensor:
        """Measured pixels that the final inference predicts."""
        return self.measured_mask if self.predicts_measured else self.validation_mask

    @property
    def _fold_count(self) -> int:
        return INFERENCE_FOLDS if self.predicts_measured else 1

    def _draw_hidden_mask(self, rng: torch.Generator) -> Tensor:
        """Return randomly placed copies of the holes, thinned in squares to the allowed share."""
        holes = 1 - self.measured_mask
        max_fraction = self.masked_fraction[1]
        hole_fraction = self._hole_fraction
        copies = min(MAX_MASK_COPIES, max(1, round(max_fraction / max(hole_fraction, 1e-6))))
        hidden = torch.zeros_like(holes)
        for _ in range(copies):
            flipped_axes, shifts = draw_mask_placement(self.grid, rng)
            holes_copy = holes[0, 0].flip(flipped_axes).roll(shifts, list(range(len(self.grid))))
            hidden = torch.maximum(hidden, holes_copy)
        squares = [-(-n // (4 * self.block_side)) for n in self.grid]
        square_mask = draw_uniform(holes.new_empty((1, 1, *squares)), rng)
        square_mask = F.interpolate(
            (square_mask < max_fraction / max(hole_fraction, max_fraction)).to(holes.dtype),
            size=self.grid,
        )
        return hidden * square_mask

    def _make_masked_input(self, measurement: Tensor, visible: Tensor) -> Tensor:
        """Return the fillings of hidden pixels and the visible mask; (B, D, *size)."""
        fillings = fill_by_normalised_convolution(measurement, visible, self.filling_windows)
        # centred at zero like the image: a constant of one would be an offset to unlearn
        return torch.cat([fillings, visible - 0.5], 1)
