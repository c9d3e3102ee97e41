"""The prior that learns to undo a compression: fed the picture, compressed once more elsewhere.

What compression takes from a picture it takes again, if it comes again on another grid of blocks.
A network that is shown both and learns to undo the second has learned, on this very picture, what
edges, textures and rings look like before and after, and can then be shown the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_dip.engine.jpeg import SHIFTS, recompressed, spun
from napari_dip.engine.prior import Draw, Prior, mean_and_variance
from napari_dip.engine.window import random_window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from napari_dip.engine.jpeg import Compression
    from napari_dip.engine.problem import Estimate

#: Grids that steps compress on: every other one, none of which is the picture's own, where
#: nothing would happen. Each takes memory, and mirrors make four of each.
ELSEWHERE = SHIFTS[1::2]


class Recompression(Prior):
    """Feeds a picture and its mean over many grids, both as compressed once more, or as they are.

    Parameters
    ----------
    net : nn.Module
        2 C channels in, the mean over grids first; 2 C out: mean, and a number whose softplus is
        the variance.
    measured : Tensor
        (1, C, Y, X), in network units.
    how : Compression
    levels, network : callable
        From network units to grey levels, and back.
    window : tuple of int or None
        Size of what a step looks at; None: the whole grid.
    """

    covers_grid = False

    def __init__(
        self,
        net: nn.Module,
        measured: Tensor,
        how: Compression,
        levels: Callable[[Tensor], Tensor],
        network: Callable[[Tensor], Tensor],
        *,
        window: tuple[int, ...] | None,
    ) -> None:
        self.net = net
        self.grid = tuple(measured.shape[2:])
        self.window = self.grid if window is None else tuple(map(min, window, self.grid))
        picture = levels(measured)
        again = (recompressed(picture, how, shift) for shift in ELSEWHERE)
        self._shown, *self._codes = (
            torch.cat([network(spun(one, how)), network(one)], 1) for one in (picture, *again)
        )

    def to(self, device: torch.device) -> None:
        """Move network and pictures."""
        self.net.to(device)
        self._shown = self._shown.to(device)
        self._codes = [one.to(device) for one in self._codes]

    def draw(self, rng: torch.Generator) -> Draw:
        """Show a window of the picture as compressed once more, on one grid, mirrored at random."""
        window = random_window(self.grid, self.window, rng)
        which = int(torch.randint(len(self._codes), (), generator=rng, device=rng.device))
        return Draw(window.of(self._codes[which]), window=window)

    def glance(self) -> Draw:
        """Show it as it is."""
        return Draw(self._shown)

    def trial(self) -> Draw:
        """Show it compressed once more, since what it was before that is known."""
        return Draw(self._codes[0], direct=True)

    def sweep(self) -> Iterator[Draw]:
        """Show it as it is."""
        yield Draw(self._shown)

    def estimate(self, output: Tensor) -> Estimate:
        """First half is the mean, second half the variance."""
        return mean_and_variance(output)
