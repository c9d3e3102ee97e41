"""Define what a prior is: a network, and the network input and masks of each training step.

The priors themselves are in `engine.priors`; `GuidedPrior` adds a guide to any of them. Validation
pixels are drawn here from global coordinates, so that overlapping tiles choose the same ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_dip.engine.problem import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Two odd multipliers of a 32-bit integer hash, those of Murmur3's finaliser.
_HASH_MULTIPLIERS = (0x85EBCA6B, 0xC2B2AE35)
_UINT32_MASK = 0xFFFFFFFF


def draw_validation_centres(
    shape: tuple[int, ...],
    blind_spot_size: tuple[int, ...],
    fraction: float,
    seed: int,
    origin: tuple[int, ...] | None = None,
    patch_size: tuple[int, ...] | None = None,
) -> Tensor:
    """Draw the validation pixels.

    Parameters
    ----------
    shape : tuple of int
        Size of the region, per axis.
    blind_spot_size : tuple of int, odd
        Size of a blind spot in pixels, per axis. Its centre is a validation pixel; the rest is a
        guard band of pixels whose noise is correlated with that of the centre.
    fraction : float, 0 to 1
        Share of validation pixels and their guard bands in all pixels; an upper bound.
    seed : int
    origin : tuple of int or None
        Global coordinates of the region's first pixel; None: zeros.
    patch_size : tuple of int or None
        Size of patches whose pixels are all drawn or all not; None: single pixels.

    Returns
    -------
    Tensor
        (1, 1, *shape) float32, 1 at validation pixels. Each value depends on the pixel's global
        coordinates and the seed alone.
    """
    origin, patch_size = origin or (0,) * len(shape), patch_size or (1,) * len(shape)
    hashes = torch.full((), (seed * 0x9E3779B1 + 0x7F4A7C15) & _UINT32_MASK, dtype=torch.int64)
    for axis, (start, count) in enumerate(zip(origin, shape, strict=True)):
        coordinates = torch.arange(start, start + count, dtype=torch.int64) // patch_size[axis]
        coordinates = coordinates.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        hashes = _hash_integers((hashes ^ coordinates) + axis + 1)
    is_centre = hashes < int(fraction / prod(blind_spot_size) * (_UINT32_MASK + 1))
    return is_centre.to(torch.float32)[None, None]


def dilate_centres(centres: Tensor, size: tuple[int, ...], shape: Tensor | None = None) -> Tensor:
    """Dilate each centre to a box around it, or to a shape within that box.

    Parameters
    ----------
    centres : Tensor
        (B, 1, *grid), 0 or 1.
    size : tuple of int, odd
    shape : Tensor or None
        (*size), 1 where a pixel belongs to the shape, point symmetric; None: everywhere.

    Returns
    -------
    Tensor
        (B, 1, *grid), 0 or 1.
    """
    if prod(size) == 1:
        return centres
    padding = tuple(side // 2 for side in size)
    if shape is not None:
        convolve = {2: F.conv2d, 3: F.conv3d}[len(size)]
        return convolve(centres, shape.to(centres)[None, None], padding=padding).clamp(max=1)
    pools = {1: nn.functional.max_pool1d, 2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
    return pools[len(size)](centres, size, stride=1, padding=padding)


def _hash_integers(integers: Tensor) -> Tensor:
    """Hash integers to 32 bits, such that neighbouring ones become independent."""
    hashes = integers & _UINT32_MASK
    for multiplier in _HASH_MULTIPLIERS:
        hashes = ((hashes ^ (hashes >> 15)) * multiplier) & _UINT32_MASK
    return hashes ^ (hashes >> 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Part of the grid, possibly mirrored, that one training step uses.

    Attributes
    ----------
    start, size : tuple of int
        Per axis.
    flipped_dims : tuple of int
        Tensor dimensions that are mirrored.
    planes : tuple of int or None
        Indices along the first axis, in any order; None: `size[0]` of them from `start[0]` on.
    batch_index : int or None
        Index of one image in a batch of B that share a network; None: all B.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    flipped_dims: tuple[int, ...] = ()
    planes: tuple[int, ...] | None = None
    batch_index: int | None = None

    def crop(self, tensor: Tensor) -> Tensor:
        """Crop (B, C, *grid) to (B, C, *size), or to (1, C, *size) if there is a `batch_index`."""
        cropped = self.select_image(tensor)
        for axis, (start, length) in enumerate(zip(self.start, self.size, strict=True)):
            if self.planes is None or axis:
                cropped = cropped.narrow(axis + 2, start, length)
        if self.planes is not None:
            cropped = cropped[:, :, list(self.planes)]
        return cropped.flip(self.flipped_dims) if self.flipped_dims else cropped

    def select_image(self, batch: Tensor) -> Tensor:
        """Return one image of (B, ...); all of them if `batch_index` is None or B is 1."""
        if self.batch_index is None or len(batch) == 1:
            return batch
        return batch[self.batch_index : self.batch_index + 1]

    def place_on(self, cropped: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Undo the crop: place (B, C, *size) on (B, C, *grid), with 0 elsewhere."""
        cropped = cropped.flip(self.flipped_dims) if self.flipped_dims else cropped
        if self.size == grid and self.planes is None:
            return cropped
        canvas = cropped.new_zeros((*cropped.shape[:2], *grid))
        region: list[slice | list[int]] = [
            slice(start, start + length)
            for start, length in zip(self.start, self.size, strict=True)
        ]
        if self.planes is not None:
            region[0] = list(self.planes)
        canvas[:, :, *region] = cropped
        return canvas


def draw_random_window(
    grid: tuple[int, ...],
    size: tuple[int, ...],
    rng: torch.Generator,
    *,
    uses_mirroring: bool = True,
    batch_size: int = 1,
    steps: tuple[int, ...] = (1, 1, 1),
) -> Window:
    """Draw a window of `size` at random within `grid`, mirrored at random along each axis.

    It starts at multiples of `steps`. With several images in a batch, one of them is drawn as well.
    """
    uniforms = torch.rand(2 * len(grid), generator=rng).tolist()
    start = tuple(
        int(uniform * (grid_size - window_size + step)) // step * step
        for uniform, grid_size, window_size, step in zip(uniforms, grid, size, steps, strict=False)
    )
    batch_index = int(torch.randint(batch_size, (), generator=rng)) if batch_size > 1 else None
    flipped_dims = (axis + 2 for axis, uniform in enumerate(uniforms[len(grid) :]) if uniform < 0.5)
    dims = tuple(flipped_dims) if uses_mirroring else ()
    return Window(start=start, size=size, flipped_dims=dims, batch_index=batch_index)


def draw_uniform(template: Tensor, rng: torch.Generator) -> Tensor:
    """Draw values from 0 to 1, in shape, type and device of the template."""
    return torch.empty_like(template).uniform_(generator=make_device_rng(template.device, rng))


def draw_normal(template: Tensor, rng: torch.Generator) -> Tensor:
    """Draw values of mean 0 and variance 1, in shape, type and device of the template."""
    return torch.empty_like(template).normal_(generator=make_device_rng(template.device, rng))


def draw_poisson(mean: Tensor, rng: torch.Generator) -> Tensor:
    """Draw counts of these means; on the CPU for Apple GPUs, which cannot."""
    if mean.device.type == "mps":
        return torch.poisson(mean.cpu(), generator=rng).to(mean.device)
    return torch.poisson(mean, generator=make_device_rng(mean.device, rng))


def make_device_rng(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """Return a generator for draws on a device: `rng` on the CPU, elsewhere a seeded new one.

    `rng` is always on the CPU, so that numbers which Python reads, such as the start of a window,
    never wait for a GPU.
    """
    if device.type == "cpu":
        return rng
    seed = int(torch.randint(2**62, (), generator=rng))
    return torch.Generator(device).manual_seed(seed)


def limit_window(window: tuple[int, ...] | None, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a training window, at most that of the grid; None: the whole grid."""
    return grid if window is None else tuple(map(min, window, grid))


class StepInput(NamedTuple):
    """Network input and masks of one training or inference step.

    Attributes
    ----------
    network_input : Tensor
        (B, D, *size).
    loss_mask : Tensor or None
        (B, 1, *size), 1 where the loss of this step is computed; None: everywhere.
    output_mask : Tensor or None
        (B, 1, *size), 1 where this output is valid and enters the average; None: everywhere.
    window : Window or None
        Part of the grid; None: all of it.
    bypasses_operator : bool
        Whether the prediction is compared with the measurement without an operator. `window` is
        then one of the measured grid.
    target_noise : Tensor or None
        (B, C, *size), noise that is subtracted from the measurement to get the target.
    completed_fraction : float or None
        Share of the time of the final inference that is complete after this sample; None: the
        share of the pixels that are predicted.
    """

    network_input: Tensor
    loss_mask: Tensor | None = None
    output_mask: Tensor | None = None
    window: Window | None = None
    bypasses_operator: bool = False
    target_noise: Tensor | None = None
    completed_fraction: float | None = None


class Prior(ABC):
    """A network, and how its inputs are drawn.

    Attributes
    ----------
    network : nn.Module
    grid : tuple of int
        Size of the restored image, per axis.
    covers_grid : bool
        Whether each sample covers the whole grid and all its outputs are valid. Then outputs are
        averaged. Otherwise weights are, since one output is a window or a few valid pixels.
    reveals_validation : bool
        Whether the inputs of the final inference contain validation pixels. Then only
        `make_prediction_sample` hides them.
    source_name : str
        Name of the tensor that the inputs of the final inference are made from.
    """

    network: nn.Module
    grid: tuple[int, ...]
    covers_grid: bool = False
    reveals_validation: bool = False
    source_name: str = "measurement"

    def to(self, device: torch.device) -> Self:
        """Move the network and the tensors of its inputs to a device."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor | nn.Module | Prior):
                setattr(self, name, value.to(device))
        return self

    def get_source(self) -> Tensor:
        """Return the tensor that the inputs of the final inference are made from."""
        source: Tensor = getattr(self, self.source_name)
        return source

    def replace_source(self, source: Tensor) -> Self:
        """Return a prior with the same network and another source."""
        changed = copy(self)
        setattr(changed, self.source_name, source)
        return changed

    @abstractmethod
    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Draw input and masks of one training step; `rng` is on the CPU."""

    @abstractmethod
    def make_prediction_sample(self) -> StepInput:
        """Return the input of the whole grid with only validation pixels hidden, for previews."""

    def make_validation_sample(self) -> StepInput | None:
        """Return the input for the validation loss; None: that of `make_prediction_sample`.

        It is for networks that are trained on another task than they are applied to. The
        prediction is then compared with the validation pixels without an operator.
        """
        return None

    def make_inference_samples(self) -> Iterator[StepInput]:
        """Yield the inputs of the final inference, whose valid outputs together cover the grid."""
        yield self.make_prediction_sample()

    def list_hole_copies(self) -> list[Tensor]:
        """List masks (1, 1, *grid) of measured pixels, hidden as holes are in the final inference.

        Its samples predict these pixels, each with the first mask that it lies in hidden.
        """
        return []

    def estimate(self, output: Tensor) -> Estimate:
        """Convert the network's output (B, *, *size) to an estimate of the image."""
        return Estimate(output)


class VariancePrior(Prior):
    """A prior whose network has 2 C output channels: the mean, and the variance of its error."""

    def estimate(self, output: Tensor) -> Estimate:
        """Split (B, 2 C, *size) into the mean and, through a softplus, the variance."""
        mean, raw = output.chunk(2, 1)
        # shift and factor make the initial variance about 1 % of the squared range, below most
        # noise
        return Estimate(mean, (0.5 * F.softplus(raw - 4) + 1e-9).log())


class GuidedPrior(Prior):
    """A prior with a guide in the last channels of its network input, without masks or jitter.

    The guide shows where edges are; brightness comes from the measurement.

    Parameters
    ----------
    prior : Prior
        Draws the other channels. Its network takes those and the guide's.
    guide : Tensor
        (1, G, *grid), of order one.

    References
    ----------
    Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, IJCV 2020, section on flash and no-flash
    pairs, doi:10.1007/s11263-020-01303-4.
    """

    def __init__(self, prior: Prior, guide: Tensor) -> None:
        self._prior = prior
        self._guide = guide
        self.network: nn.Module = prior.network
        self.grid: tuple[int, ...] = prior.grid
        self.covers_grid: bool = prior.covers_grid
        self.reveals_validation: bool = prior.reveals_validation

    def get_source(self) -> Tensor:
        """Return the source of the prior without a guide."""
        return self._prior.get_source()

    def replace_source(self, source: Tensor) -> GuidedPrior:
        """Return a prior with another source and the same guide."""
        return GuidedPrior(self._prior.replace_source(source), self._guide)

    def draw_step_input(self, rng: torch.Generator) -> StepInput:
        """Return the prior's sample with the same window of the guide."""
        return self._append_guide(self._prior.draw_step_input(rng))

    def make_prediction_sample(self) -> StepInput:
        """Return the prior's prediction input with the guide."""
        return self._append_guide(self._prior.make_prediction_sample())

    def make_validation_sample(self) -> StepInput | None:
        """Return the prior's validation input with the guide."""
        sample = self._prior.make_validation_sample()
        return None if sample is None else self._append_guide(sample)

    def make_inference_samples(self) -> Iterator[StepInput]:
        """Yield the prior's inference inputs with the guide."""
        yield from map(self._append_guide, self._prior.make_inference_samples())

    def estimate(self, output: Tensor) -> Estimate:
        """Convert the output as the prior does."""
        return self._prior.estimate(output)

    def _append_guide(self, sample: StepInput) -> StepInput:
        guide = self._guide if sample.window is None else sample.window.crop(self._guide)
        return sample._replace(network_input=torch.cat([sample.network_input, guide], 1))


def zero_last_channels(network: nn.Module, count: int) -> None:
    """Set a network's weights for the last channels of its input to 0.

    A guide without relation to the image then has no initial influence. On four pairs of
    fluorescence channels (192 x 192 pixels, Poisson noise of peak 5), predictions of hidden pixels
    gained 0.1 to 0.7 dB over random weights.

    Parameters
    ----------
    network : nn.Module
        Its first parameter with more than one axis must be the weights of the input layer.
    count : int
    """
    input_weight = next(weight for weight in network.parameters() if weight.ndim > 1)
    with torch.no_grad():
        input_weight[:, -count:] = 0


def pad_input_weights(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return weights with zeros for last channels of the input that only `network` has.

    A network with a guide can so start from one without, whose output it then has.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Of a network with the same or fewer channels of its input.
    network : nn.Module
        As for `zero_last_channels`.
    """
    name, parameter = next(item for item in network.named_parameters() if item[1].ndim > 1)
    missing = parameter.shape[1] - weights[name].shape[1]
    padding = (0, 0) * (parameter.ndim - 2) + (0, missing)
    return {**weights, name: F.pad(weights[name], padding)} if missing else dict(weights)


def fill_with_local_mean(
    measurement: Tensor, visible: Tensor, blind_spot_size: tuple[int, ...]
) -> Tensor:
    """Replace hidden pixels by the mean of the visible pixels around them.

    Parameters
    ----------
    measurement : Tensor
        (B, C, *grid).
    visible : Tensor
        (B, 1, *grid), 0 where hidden.
    blind_spot_size : tuple of int
        Size of a blind spot in pixels, per axis; the mean is over 2 x size + 1 pixels.
    """
    local_sum = _compute_box_mean(measurement * visible, blind_spot_size)
    weight = _compute_box_mean(visible, blind_spot_size)
    return torch.where(visible > 0, measurement, local_sum / weight.clamp(min=1e-6))


def _compute_box_mean(image: Tensor, radius: tuple[int, ...]) -> Tensor:
    """Return the mean over 2 x radius + 1 pixels, per axis, with zero padding."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(radius)]
    for axis, axis_radius in enumerate(radius):
        kernel_size, padding = [1] * len(radius), [0] * len(radius)
        kernel_size[axis], padding[axis] = 2 * axis_radius + 1, axis_radius
        image = pool(image, kernel_size, stride=1, padding=padding, count_include_pad=True)
    return image


def average_box(values: Tensor, radius: int) -> Tensor:
    """Return the mean of (..., Y, X) in the window around each pixel; outside there is 0."""
    planes = values.reshape(-1, 1, *values.shape[-2:])
    return _compute_box_mean(planes, (radius, radius)).reshape(values.shape)
