"""Blur that is fitted along with the picture: for what nobody measured."""

from __future__ import annotations

from torch import Tensor, nn

from napari_dip.engine.convolution import convolve_valid


class LearnedConvolution(nn.Module):
    """Blur with a kernel that has parameters; the picture is larger than the measurement.

    Parameters
    ----------
    shape : nn.Module
        Called without input, gives the kernel (*sizes) with odd sizes, non-negative and of sum one:
        one of those in `kernels`.

    Raises
    ------
    ValueError
        If a size is even.

    Attributes
    ----------
    margin : tuple of int
        Pixels of the picture beyond the frame, on either side of each axis.
    """

    def __init__(self, shape: nn.Module) -> None:
        super().__init__()
        self.shape = shape
        sizes = tuple(self.kernel().shape)
        if any(size % 2 == 0 for size in sizes):
            raise ValueError(f"A kernel needs odd sizes to have a middle, but has {sizes}.")
        self.margin = tuple(size // 2 for size in sizes)

    def kernel(self) -> Tensor:
        """Give the present kernel (*sizes); detach it to keep it."""
        return self.shape()  # type: ignore[no-any-return]

    def learned(self) -> dict[str, Tensor]:
        """Give the kernel as "psf", and the figures of a kernel of a known kind by their names."""
        figures: dict[str, tuple[float, ...]] = getattr(self.shape, "figures", dict)()
        kernel = self.kernel().detach().clone()
        return {"psf": kernel, **{name: kernel.new_tensor(one) for name, one in figures.items()}}

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *measured + sizes - 1) -> (B, C, *measured)."""
        return convolve_valid(image, self.kernel())
