"""The prior that fills the holes of a stack: each plane foretold from those before and after it.

As with single pictures, more of what is known is hidden at each step, and drives the fit. What is
hidden is like the holes: whole planes where planes are missing, lines where lines are, and as far
from the next plane that shows the place as in the hole itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.filling import filling_windows, smooth_fillings
from napari_dip.engine.hidden_pixels import MOST_COPIES, PARTS, random_place
from napari_dip.engine.neighbour_planes import NEIGHBOURS, Sight, neighbours, sight
from napari_dip.engine.prior import Draw, Prior, mean_and_variance
from napari_dip.engine.stack_holes import Holes
from napari_dip.engine.window import Window, random_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from napari_dip.engine.problem import Estimate

#: Axes of (B, D, N, Y, X) that the last look mirrors, one after the other: steps do so at random.
#: On a 15 x 64 x 64 crop of a movie, learning with mirrors and seen from behind gained 2 dB.
MIRRORS: tuple[tuple[int, ...], ...] = ((), (3,), (4,), (3, 4))
#: Draws by which the word of other planes is weighed against a plane's own: some 10,000 pixels.
WEIGHED = 8
#: Side of the squares in which copies of holes are dealt out where all of them would be too much.
THINNING = 32


def stack_code_channels(channels: int) -> int:
    """Count the channels of a code: fillings and neighbours of the picture's, and what is seen."""
    return (1 + 2 * NEIGHBOURS + len(filling_windows(2))) * channels + 3


class HiddenInStack(Prior):
    """A stack with further pixels hidden afresh at each step, plane by plane; they drive the fit.

    Held-out pixels stay hidden in every step and glance; the last look shows the network all that
    was measured. Where most of what is missing are whole planes, judging and foretelling hide
    whole planes as well: a pixel is told from other planes alone.

    Parameters
    ----------
    net : nn.Module
        A `PlaneWise` network, as `stack_code_channels` counts its input.
    measurement : Tensor
        (1, C, N, Y, X).
    known : Tensor
        (1, 1, N, Y, X), 1 where there is a measurement.
    held_out : Tensor
        (1, 1, N, Y, X), 1 at pixels that judge.
    share : float
        Most part of a plane that a step hides where planes are missing in part.
    foretell : bool
        Whether the last look foretells known pixels from the others; else it leaves them.
    window : tuple of int
        Planes, height and width of what a step looks at.
    """

    covers_grid = False

    def __init__(
        self,
        net: nn.Module,
        measurement: Tensor,
        known: Tensor,
        held_out: Tensor,
        *,
        share: float,
        foretell: bool,
        window: tuple[int, ...],
    ) -> None:
        self.net = net
        self.share = share
        self.foretell = foretell
        self.measurement = measurement * known
        self.known = known
        self.held_out = held_out * known
        self.grid = tuple(measurement.shape[2:])
        self.window = tuple(map(min, window, self.grid))
        self.windows = filling_windows(2).to(measurement)
        self.holes = Holes(known)
        self.seen = sight(known - self.held_out)
        planes = self.holes.weights[torch.tensor(self.holes.whole, dtype=torch.bool)].sum()
        self.blind = bool(2 * planes > self.holes.weights.sum())
        self.others_word = 1.0
        self.others_word = self._word_of_others()

    def to(self, device: torch.device) -> None:
        """Move network and measurement."""
        self.net.to(device)
        self.measurement, self.known = self.measurement.to(device), self.known.to(device)
        self.held_out, self.windows = self.held_out.to(device), self.windows.to(device)
        self.holes.to(device)
        self.seen = Sight(*(one.to(device) for one in self.seen))

    def draw(self, rng: torch.Generator) -> Draw:
        """Hide, in some planes, what is missing in another; look at it in a random window."""
        hidden, reach, usable = self._more_hidden(rng)
        count = min(self.window[0], len(usable))
        order = torch.randperm(len(usable), generator=rng, device=rng.device)[:count]
        planes = tuple(usable[place] for place in order.tolist())
        flat = random_window(self.grid[1:], self.window[1:], rng)
        mirrored = tuple(axis + 1 for axis in flat.mirrored)
        window = Window((0, *flat.start), (count, *flat.size), mirrored, planes)
        known, held_out = window.of(self.known), window.of(self.held_out)
        cut = flat.of(hidden[None])
        driven = known * (1 - (1 - cut) * (1 - held_out))
        back, ahead = (flat.of(one[None, None])[0] for one in reach)
        turned = bool(torch.rand((), generator=rng, device=rng.device) < 0.5)
        code = self._code(window, self.seen, known - driven, (back, ahead), turned=turned)
        return Draw(code, driven=driven, trusted=driven, window=window)

    def glance(self) -> Draw:
        """Nothing hidden but the held-out pixels, or the planes that they lie in."""
        visible = torch.zeros_like(self.known) if self.blind else self.known - self.held_out
        everything = self._planes(tuple(range(self.grid[0])))
        return Draw(self._code(everything, self.seen, visible))

    def sweep(self) -> Iterator[Draw]:
        """Show all that was measured; then foretell what judges, or all.

        Planes of which nothing is asked are left out.
        """
        foretold = self.known if self.foretell else self.held_out
        seen = sight(self.known)
        for way, mirrored in enumerate(MIRRORS if self.holes.planes else ()):
            window = self._planes(tuple(self.holes.planes), mirrored)
            code = self._code(window, seen, window.of(self.known), turned=bool(way % 2))
            yield Draw(code, trusted=window.of(1 - self.known) / len(MIRRORS), window=window)
        judging = foretold.amax((0, 1, 3, 4)).nonzero()[:, 0].tolist()
        window = self._planes(tuple(judging))
        parts = PARTS if self.foretell and not self.blind else 1
        rng = torch.Generator(self.known.device).manual_seed(0)  # the same parts at every look
        part_of = torch.empty_like(self.known).uniform_(generator=rng).mul(parts).floor()
        for part in range(parts if judging else 0):
            trusted = foretold * (part_of == part)
            visible = torch.zeros_like(trusted) if self.blind else self.known - trusted
            around = self.seen if self.blind else sight(visible)
            code = self._code(window, around, window.of(visible))
            yield Draw(code, trusted=window.of(trusted), window=window)

    def estimate(self, output: Tensor) -> Estimate:
        """First half is the mean, second half the variance."""
        return mean_and_variance(output)

    def _word_of_others(self) -> float:
        """Weigh what other planes say of a pixel against what its own plane says around it.

        By least squares, over pixels that are hidden as steps hide them. 1: others alone.
        """
        rng = torch.Generator(self.known.device).manual_seed(0)
        channels = self.measurement.shape[1]
        first = (1 + 2 * NEIGHBOURS) * channels
        above = below = 0.0
        for _ in range(WEIGHED):
            draw = self.draw(rng)
            assert draw.driven is not None
            assert draw.window is not None
            others, own = draw.code[:, :channels], draw.code[:, first : first + channels]
            told = (draw.code[:, -3:-1] + 0.5).sum(1, keepdim=True) > 0
            here = (draw.code[:, -1:] > 0).to(own.dtype).amax((3, 4), keepdim=True)
            weight = draw.driven * told * here
            truth = draw.window.of(self.measurement)
            above += float((weight * (others - own) * (truth - own)).sum())
            below += float((weight * (others - own) ** 2).sum())
        return min(1.0, max(0.0, above / below)) if below else 1.0

    def _planes(self, planes: tuple[int, ...], mirrored: tuple[int, ...] = ()) -> Window:
        return Window((0,) * 3, (len(planes), *self.grid[1:]), mirrored, planes)

    def _more_hidden(self, rng: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor], list[int]]:
        """Choose a plane with holes, and copies of them elsewhere in a plane.

        Returns
        -------
        hidden : Tensor
            (1, Y, X), 1 where hidden.
        reach : (Tensor, Tensor) of int64
            (Y, X), planes back and ahead at which looking begins.
        usable : list of int
            Planes to hide it in.
        """
        if not self.holes.planes:  # this part of the stack is whole
            plane = self.known[0, 0, 0]
            near = torch.ones_like(plane, dtype=torch.int64)
            scattered = torch.empty_like(plane).uniform_(generator=rng) < self.share
            return scattered.to(plane.dtype)[None], (near, near), self.holes.usable
        place = int(torch.multinomial(self.holes.weights.to(rng.device), 1, generator=rng))
        missing = 1 - self.known[0, 0, self.holes.planes[place]]
        back, ahead = self.holes.back[place].long(), self.holes.ahead[place].long()
        usable = self.holes.suited(place)
        if self.holes.whole[place]:
            return missing[None], (back, ahead), usable
        most, part = self.share, float(missing.mean())
        hidden = torch.zeros_like(missing)
        far = [torch.ones_like(back), torch.ones_like(ahead)]
        for _ in range(min(MOST_COPIES, max(1, round(most / part)))):
            turned, shifts = random_place(missing.shape, rng)
            moved, *reach = (
                one.flip(turned).roll(shifts, (0, 1)) for one in (missing, back, ahead)
            )
            far = [torch.where(moved > 0, new, old) for new, old in zip(reach, far, strict=True)]
            hidden = torch.maximum(hidden, moved)
        return self._thinned(hidden, most, rng)[None], (far[0], far[1]), usable

    def _thinned(self, hidden: Tensor, most: float, rng: torch.Generator) -> Tensor:
        """Leave, in squares, about as much of it as may be hidden."""
        part = float(hidden.mean())
        if part <= most:
            return hidden
        squares = [-(-n // THINNING) for n in hidden.shape]
        dealt = torch.empty((1, 1, *squares), device=hidden.device).uniform_(generator=rng)
        kept = F.interpolate((dealt < most / part).to(hidden.dtype), scale_factor=THINNING)
        return hidden * kept[0, 0, : hidden.shape[0], : hidden.shape[1]]

    def _code(
        self,
        window: Window,
        seen: Sight,
        visible: Tensor,
        reach: tuple[Tensor, Tensor] | None = None,
        *,
        turned: bool = False,
    ) -> Tensor:
        """Give what the network is fed of some planes; (1, D, P, height, width).

        Parameters
        ----------
        visible : Tensor
            (1, 1, P, height, width), what is seen of these planes themselves.
        reach : (Tensor, Tensor), optional
            As `neighbours` takes it, in the window; the very next planes if left out.
        turned : bool
            Whether the stack is seen from behind.
        """
        planes = torch.tensor(window.planes, device=visible.device)
        size = (self.grid[0], *window.size[1:])
        whole = Window((0, *window.start[1:]), size, window.mirrored)
        near = Sight(*(whole.of(one[None, None])[0, 0] for one in seen))
        one = torch.ones((1, 1, 1), dtype=torch.int64, device=visible.device)
        found = neighbours(whole.of(self.measurement), near, planes, reach or (one, one))
        found = found.reversed() if turned else found
        own = (window.of(self.measurement) * visible)[0].transpose(0, 1)  # (P, C, Y, X)
        shown = visible[0].transpose(0, 1)
        fillings = smooth_fillings(own, shown, self.windows)
        # told from other planes where one shows it, else from the plane's own surroundings
        beside = fillings[:, : own.shape[1]]
        elsewhere = found.nearness.sum(1, keepdim=True) > 0
        here = shown.amax((1, 2, 3), keepdim=True) > 0
        both = self.others_word * found.between + (1 - self.others_word) * beside
        base = torch.where(elsewhere, torch.where(here, both, found.between), beside)
        base = torch.where(shown > 0, own, base)
        parts = [base, found.values, fillings, found.nearness - 0.5, shown - 0.5]
        return torch.cat(parts, 1).transpose(0, 1)[None]
