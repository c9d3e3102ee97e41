"""Define operators of a detector: Lanczos downsampling, binning and line offsets."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.problem import Identity, Operator

if TYPE_CHECKING:
    from collections.abc import Callable

#: Iterations of back-projection; all results in docs/benchmarks/super-resolution.md use four.
BACKPROJECTION_ITERATIONS = 4


class _Downsample(Operator):
    """Downsampling by integer factors, one per axis of the grid."""

    def __init__(self, factors: tuple[int, ...]) -> None:
        super().__init__()
        if not factors or min(factors) < 1:
            raise ValueError(f"`factors` must be whole numbers from 1 on, but are {factors}.")
        self.factors = tuple(factors)

    def compute_object_grid(self, measured_grid: tuple[int, ...]) -> tuple[int, ...]:
        """Return the size of the fine image."""
        return tuple(
            size * factor for size, factor in zip(measured_grid, self.factors, strict=True)
        )

    def _require_multiples(self, image: Tensor) -> None:
        grid, factors = tuple(image.shape[2:]), self.factors
        if len(grid) != len(factors) or any(n % f for n, f in zip(grid, factors, strict=True)):
            raise ValueError(f"The grid {grid} is no multiple of the factors {factors}.")


class LanczosDownsample(_Downsample):
    """Downsampling by integer factors with an antialiasing Lanczos window, along any axes.

    The window scales with the factor, and its weights sum to one at the borders too. It is that of
    Pillow's `Image.resize(..., LANCZOS)`, the forward model of published experiments.

    Parameters
    ----------
    factors : tuple of int, >= 1
        One per axis of the grid; 1 leaves an axis unchanged.
    lobes : int, > 0
        Half width of the window in coarse pixels; 3 is Pillow's.

    Raises
    ------
    ValueError
        If a factor or `lobes` is below 1; in `forward`, if a size is no multiple of its factor.

    References
    ----------
    Duchon, Lanczos filtering in one and two dimensions, J. Appl. Meteorol. 18, 1979,
    doi:10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2.
    """

    def __init__(self, factors: tuple[int, ...], lobes: int = 3) -> None:
        super().__init__(factors)
        if lobes < 1:
            raise ValueError(f"`lobes` must be at least 1, but is {lobes}.")
        self.lobes = lobes
        # not in a shared cache, since a CUDA graph needs these tensors as long as it exists
        self._weights: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *grid) to (B, C, *grid / factors)."""
        self._require_multiples(image)
        for axis, factor in enumerate(self.factors, start=2):
            if factor > 1:
                image = _multiply_axis(
                    axis, self._get_weights(image.shape[axis], factor, image), image
                )
        return image

    def _get_weights(self, size: int, factor: int, template: Tensor) -> Tensor:
        key = (size, factor, template.device, template.dtype)
        if key not in self._weights:
            with torch.inference_mode(False):  # inference tensors would block gradients
                self._weights[key] = compute_lanczos_weights(size, factor, self.lobes).to(template)
        return self._weights[key]


class BinnedDownsample(_Downsample):
    """Mean over blocks of pixels, as recorded by a camera with larger pixels.

    Parameters
    ----------
    factors : tuple of int, >= 1
        Pixels per block along each axis of the grid.

    Raises
    ------
    ValueError
        If a factor is below 1; in `forward`, if a size is no multiple of its factor.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, *grid) to (B, C, *grid / factors)."""
        self._require_multiples(image)
        blocks = list(image.shape[:2])
        for size, factor in zip(image.shape[2:], self.factors, strict=True):
            blocks += [size // factor, factor]
        return image.reshape(blocks).mean(tuple(range(3, len(blocks), 2)))


def interpolate_cubic(image: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Upscale by cubic interpolation, one axis after the other.

    Parameters
    ----------
    image : Tensor
        (B, C, *grid)
    factors : tuple of int, >= 1
        One per axis of the grid.

    Returns
    -------
    Tensor
        (B, C, *grid x factors), of the same field of view.

    References
    ----------
    Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29, 1981,
    doi:10.1109/TASSP.1981.1163711; here with a = -0.75.
    """
    for axis, factor in enumerate(factors, start=2):
        if factor > 1:
            leading, trailing = image.shape[:axis], image.shape[axis + 1 :]
            count = image.shape[axis]
            flat = image.reshape(1, prod(leading), count, prod(trailing))
            size = (count * factor, prod(trailing))
            flat = F.interpolate(flat, size=size, mode="bicubic", align_corners=False)
            image = flat.reshape(*leading, count * factor, *trailing)
    return image


def apply_iterative_backprojection(
    image: Tensor,
    measured: Tensor,
    downsample: Callable[[Tensor], Tensor],
    upsample: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return a fine image after iterative back-projection of its coarse residual.

    Parameters
    ----------
    image : Tensor
        (B, C, *fine grid)
    measured : Tensor
        (B, C, *grid)
    downsample, upsample : callable
        Maps between the grids; `upsample` may mask pixels that need not be explained.

    References
    ----------
    Irani and Peleg, Improving resolution by image registration, CVGIP 53, 1991,
    doi:10.1016/1049-9652(91)90045-L.
    """
    for _ in range(BACKPROJECTION_ITERATIONS):
        image = image + upsample(measured - downsample(image))
    return image


def compute_lanczos_weights(size: int, factor: int, lobes: int) -> Tensor:
    """Return the Lanczos downsampling of one axis as a matrix.

    Parameters
    ----------
    size : int
        Fine pixels, a multiple of `factor`.
    factor, lobes : int, > 0

    Returns
    -------
    Tensor
        (size / factor, size) float64; each row sums to one.
    """
    fine = torch.arange(size, dtype=torch.float64) + 0.5
    coarse = (torch.arange(size // factor, dtype=torch.float64) + 0.5) * factor
    offset = (fine - coarse[:, None]) / factor  # in coarse pixels
    window = torch.sinc(offset) * torch.sinc(offset / lobes)
    window = torch.where(offset.abs() < lobes, window, 0.0)
    return window / window.sum(1, keepdim=True)


def _multiply_axis(axis: int, matrix: Tensor, image: Tensor) -> Tensor:
    """Multiply one axis by a matrix (out, in)."""
    leading, trailing = image.shape[:axis], image.shape[axis + 1 :]
    if not trailing:
        return image @ matrix.T
    flat = matrix @ image.reshape(*leading, image.shape[axis], prod(trailing))
    return flat.reshape(*leading, matrix.shape[0], *trailing)


class LineOffsets(Identity):
    """Identity operator for a measurement whose line offsets have been subtracted.

    Parameters
    ----------
    offsets : Tensor
        (1, C, *grid), or of size 1 along axes with equal offsets, in network units.
    network_per_image_unit : Tensor
        (1, C, 1, ...), one unit of the image in network units.
    """

    def __init__(self, offsets: Tensor, network_per_image_unit: Tensor) -> None:
        super().__init__()
        self.offsets = offsets
        self.network_per_image_unit = network_per_image_unit

    def detect(self, image: Tensor) -> Tensor:
        """Return the image (1, C, *grid) with the offsets added."""
        return image + self.offsets

    def get_learned_parameters(self) -> dict[str, Tensor]:
        """Return the offsets in the image's units: (lines,), after an axis of channels or depth."""
        values = (self.offsets / self.network_per_image_unit)[0]
        lines = values.squeeze(-1 if values.shape[-1] == 1 else -2)
        return {"line_offsets": (lines[0] if len(lines) == 1 else lines).clone()}
