"""An object larger than the frame: light that comes in from outside needs a place to come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from napari_dip.engine.problem import Estimate

#: Half width of a Gaussian blur in standard deviations, as `engine.psf.gaussian_psf` has it; here
#: it is needed where nothing may load torch.
GAUSSIAN_REACH = 4


#: In a volume the network draws at most one part in so many of the frame beyond each side of it:
#: the reach of a deep PSF would make it eight times as large. What lies further is taken to be as
#: at the rim of what is drawn.
BEYOND = 4


def beyond(grid: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels that the network draws beyond the frame, on either side of each axis.

    Parameters
    ----------
    grid : tuple of int
        Of the frame.
    sizes : tuple of int
        Of the PSF.
    """
    reach = tuple(size // 2 for size in sizes)
    if len(grid) == 2:
        return reach
    return tuple(min(far, -(-count // BEYOND)) for far, count in zip(reach, grid, strict=True))


def padded(grid: tuple[int, ...], margin: tuple[int, ...]) -> tuple[int, ...]:
    """Size of the object whose blurred picture fills a frame."""
    return tuple(count + 2 * beyond for count, beyond in zip(grid, margin, strict=True))


def within_frame(margin: tuple[int, ...]) -> Callable[[Estimate], Estimate]:
    """Make the last step that cuts off what lies beyond the frame.

    Parameters
    ----------
    margin : tuple of int
        Pixels beyond the frame on either side of each axis.
    """
    from napari_dip.engine.problem import Estimate

    def cut(picture: Tensor) -> Tensor:
        for axis, beyond in enumerate(margin, start=2):
            picture = picture.narrow(axis, beyond, picture.shape[axis] - 2 * beyond)
        return picture

    def finish(estimate: Estimate) -> Estimate:
        doubt = estimate.log_variance
        return Estimate(cut(estimate.mean), None if doubt is None else cut(doubt))

    return finish
