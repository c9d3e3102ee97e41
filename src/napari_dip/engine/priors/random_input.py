"""Define the Deep Image Prior: random numbers as network input, or free pixels without network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_dip.engine.prior import Prior, StepInput, draw_normal
from napari_dip.engine.problem import Estimate


class RandomInputPrior(Prior):
    """Deep Image Prior: fixed uniform noise as input, with fresh noise added at each iteration.

    Parameters
    ----------
    network : nn.Module
    random_input : Tensor
        (1, D, *grid), drawn once; for a decoder on a coarser grid.
    jitter : float or Tensor
        Standard deviation of the fresh noise, in units of `random_input` (1/30 in the paper). One
        value for each channel has the shape (1, D, 1, ...).
    output_scale : float
        Factor from the network's output to the image. A deblurred image may span far more
        than the measurement, and weights need many iterations to grow to that range.
    baseline : Tensor or None
        (1, C, *grid), added to the output; None: 0.
    grid : tuple of int or None
        Size of the image; None: that of the random input.
    bounds : tuple of Tensor or None
        Lowest and highest value of the image, (1, C, 1, ...), to which a sigmoid maps the
        output; None: unbounded. Activations of deeper layers determine the brightness of an image
        less, while valid inputs of the network that gave them lie within a range.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep image prior, CVPR 2018, arXiv:1711.10925.
    """

    covers_grid = True
    source_name = "random_input"

    def __init__(
        self,
        network: nn.Module,
        random_input: Tensor,
        jitter: float | Tensor,
        output_scale: float = 1.0,
        baseline: Tensor | None = None,
        *,
        grid: tuple[int, ...] | None = None,
        bounds: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.network = network
        self.output_scale = output_scale
        self.baseline = baseline
        self.grid: tuple[int, ...] = grid or tuple(random_input.shape[2:])
        self.random_input = random_input
        self.jitter = jitter
        self.low: Tensor | None = None if bounds is None else bounds[0]
        self.high: Tensor | None = None if bounds is None else bounds[1]

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Return the random input plus fresh noise; no pixel is masked."""
        noise = draw_normal(self.random_input, rng)
        return StepInput(self.random_input + self.jitter * noise)

    def make_prediction_sample(self) -> StepInput:
        """Return the random input without jitter."""
        return StepInput(self.random_input)

    def estimate(self, output: Tensor) -> Estimate:
        """Return the scaled or bounded output plus the baseline, without a variance."""
        if self.low is not None and self.high is not None:
            return Estimate(self.low + (self.high - self.low) * torch.sigmoid(output))
        image = output * self.output_scale
        return Estimate(image if self.baseline is None else image + self.baseline)


class PixelParameters(nn.Module):
    """Pixels as independent weights, without a network; the input is ignored.

    Parameters
    ----------
    channels : int
    grid : tuple of int
    std : float
        Standard deviation of the initial pixels, around 0.
    rng : torch.Generator
    """

    def __init__(
        self, channels: int, grid: tuple[int, ...], std: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        initial_pixels = torch.empty(1, channels, *grid).normal_(0, std, generator=rng)
        self.pixels: nn.Parameter = nn.Parameter(initial_pixels)

    def forward(self, network_input: Tensor) -> Tensor:
        """Return the pixels."""
        return self.pixels
