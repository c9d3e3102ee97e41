"""The prior that fills the holes of a stack: each plane foretold from those before and after it.

As with single pictures, more of what is known is hidden at each step, and drives the fit. What is
hidden is like the holes: whole planes where planes are missing, lines where lines are, and as far
from the next plane that shows the place as in the hole itself.

Holes of a stack: which planes have them, and which known planes are like a missing one.

What the planes before and after hold: the nearest ones of a stack at which a pixel is seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_dip.engine.prior import Draw, Prior, Window, draw_random_window, split_mean_and_variance
from napari_dip.engine.priors.masked_input import (
    INFERENCE_FOLDS,
    MAX_MASK_COPIES,
    draw_mask_placement,
    fill_by_normalized_convolution,
    make_filling_windows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from napari_dip.engine.problem import Estimate

#: Planes that are looked for on either side: two tell how fast things move, where one does not.
NEIGHBOURS_PER_SIDE = 2


class NearestVisiblePlanes(NamedTuple):
    """Which plane shows a pixel last, and which shows it next.

    Attributes
    ----------
    last : Tensor of int32
        (N, Y, X): the last plane up to and with each one at which the pixel is seen; -1: none.
    next : Tensor of int32
        (N, Y, X): the first one from each plane on; N: none.
    """

    last: Tensor
    next: Tensor


class NeighbourPlanes(NamedTuple):
    """What was found for some planes.

    Attributes
    ----------
    values : Tensor
        (P, 2 NEIGHBOURS C, Y, X): nearest before first, then those before it; then those after.
    nearness : Tensor
        (P, 2, Y, X): one over the number of planes to the nearest before and after; 0: none.
    between : Tensor
        (P, C, Y, X): straight line between the nearest two, or the only one; 0 without any.
    """

    values: Tensor
    nearness: Tensor
    between: Tensor

    def reversed(self) -> NeighbourPlanes:
        """Give what would be found if the stack were turned round."""
        before, after = self.values.chunk(2, 1)
        return self._replace(values=torch.cat([after, before], 1), nearness=self.nearness.flip(1))


def find_visible_planes(visible: Tensor) -> NearestVisiblePlanes:
    """Look each way from each plane.

    Parameters
    ----------
    visible : Tensor
        (1, 1, N, Y, X), 0 where hidden.
    """
    mask = visible[0, 0] > 0
    count = len(mask)
    place = torch.arange(count, dtype=torch.int32, device=mask.device)[:, None, None]
    last = torch.where(mask, place, -1).cummax(0).values
    behind = torch.where(mask.flip(0), place, -1).cummax(0).values
    return NearestVisiblePlanes(last, (count - 1 - behind).flip(0))


def gather_neighbour_planes(
    measurement: Tensor,
    nearest: NearestVisiblePlanes,
    planes: Tensor,
    reach: tuple[Tensor, Tensor],
) -> NeighbourPlanes:
    """Find the nearest values that are seen before and after some planes.

    Parameters
    ----------
    measurement : Tensor
        (1, C, N, Y, X).
    nearest : NearestVisiblePlanes
        Of the pixels that may be looked at.
    planes : Tensor of int64
        (P,), their numbers.
    reach : (Tensor, Tensor) of int64
        Planes back and ahead at which looking begins, of a shape that fits (P, Y, X); 1: the very
        next plane; N or more: nothing is looked at on that side.
    """
    here = planes[:, None, None]
    before = _gather_side_planes(measurement[0], nearest.last, here - reach[0], -1)
    after = _gather_side_planes(measurement[0], nearest.next, here + reach[1], 1)
    inside_masks = [inside.to(measurement.dtype) for _, _, inside in (before, after)]
    nearness = torch.stack(
        [
            inside / (place - here).abs().clamp(min=1)
            for (_, place, _), inside in zip((before, after), inside_masks, strict=True)
        ],
        1,
    )
    weight = nearness / nearness.sum(1, keepdim=True).clamp(min=1e-6)
    between = weight[:, :1] * before[0][0] + weight[:, 1:] * after[0][0]
    # what only one side shows, or none, is taken for the other as well
    sides = []
    for (values, _, existing), (others, _, _) in ((before, after), (after, before)):
        sides += [torch.where(existing[:, None], value, others[0]) for value in values]
    return NeighbourPlanes(torch.cat(sides, 1), nearness, between)


def _gather_side_planes(
    measurement: Tensor, visible: Tensor, start: Tensor, direction: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Look back (way = -1) or ahead (1) from plane `start`, (P, Y, X).

    Returns
    -------
    values : list of Tensor
        NEIGHBOURS times (P, C, Y, X), the nearest first; 0 where there is none.
    place : Tensor
        (P, Y, X), the plane that the nearest lies in.
    in_range : Tensor of bool
        (P, Y, X), whether there is one.
    """
    count = len(visible)
    start = start.expand(-1, *visible.shape[1:])
    values: list[Tensor] = []
    for _ in range(NEIGHBOURS_PER_SIDE):
        inside = (start >= 0) & (start < count)
        place = visible.gather(0, start.clamp(0, count - 1)).to(torch.int64)
        in_range = inside & (place >= 0) & (place < count)
        index = place.clamp(0, count - 1)[None].expand(len(measurement), -1, -1, -1)
        gathered = (measurement.gather(1, index) * in_range).transpose(0, 1)
        if not values:
            nearest = place, in_range
            values.append(gathered)
        else:
            values.append(torch.where(in_range[:, None], gathered, values[-1]))
        start = torch.where(in_range, place + direction, -1)
    return values, *nearest


class StackHoles:
    """Planes with holes, and how far from each missing pixel others show its place.

    Parameters
    ----------
    measured_mask : Tensor
        (1, 1, N, Y, X), 1 where there is a measurement.

    Attributes
    ----------
    planes : list of int
        Those that have holes.
    whole : list of bool
        Whether nothing of that plane is known.
    weights : Tensor
        (H,), pixels missing in each.
    back, ahead : Tensor of int16
        (H, Y, X), planes to the next one that shows a pixel; N: none.
    usable : list of int
        Planes of which something is known.
    """

    def __init__(self, measured_mask: Tensor) -> None:
        missing = (measured_mask[0, 0] == 0).flatten(1).sum(1)
        size = measured_mask[0, 0, 0].numel()
        count = measured_mask.shape[2]
        self.planes: list[int] = missing.nonzero()[:, 0].tolist()
        self.whole = [bool(missing[plane] == size) for plane in self.planes]
        self.usable: list[int] = (missing < size).nonzero()[:, 0].tolist()
        self.weights = missing[self.planes].to(torch.float32).cpu()
        planes = find_visible_planes(measured_mask)
        here = torch.tensor(self.planes, device=measured_mask.device)[:, None, None]
        back, ahead = here - planes.last[self.planes], planes.next[self.planes] - here
        back = torch.where(planes.last[self.planes] < 0, count, back)
        ahead = torch.where(planes.next[self.planes] >= count, count, ahead)
        self.back, self.ahead = back.to(torch.int16), ahead.to(torch.int16)

    def to(self, device: torch.device) -> None:
        """Move what is looked up in pixels."""
        self.back, self.ahead = self.back.to(device), self.ahead.to(device)

    def suited(self, place: int) -> list[int]:
        """Planes whose surroundings are like those of a missing one: as far from the next known."""
        if not self.whole[place]:
            return self.usable
        plane, usable = self.planes[place], set(self.usable)
        back = min((plane - item for item in usable if item < plane), default=0)
        ahead = min((item - plane for item in usable if item > plane), default=0)
        alike = [item for item in self.usable if {item - back, item + ahead} <= usable]
        return alike or self.usable

    def like_missing(self, measured_mask: Tensor) -> Tensor:
        """Leave of what is known the planes whose surroundings are like those of missing ones.

        All, where no plane is missing; the shape of `measured_mask`.
        """
        places = [place for place, whole in enumerate(self.whole) if whole]
        if not places:
            return measured_mask
        alike = torch.zeros_like(measured_mask)
        alike[:, :, sorted({plane for place in places for plane in self.suited(place)})] = 1
        return measured_mask * alike


#: Axes of (B, D, N, Y, X) that the last look mirrors, one after the other: steps do so at random.
#: On a 15 x 64 x 64 crop of a movie, learning with mirrors and seen from behind gained 2 dB.
MIRROR_AXES: tuple[tuple[int, ...], ...] = ((), (3,), (4,), (3, 4))
#: Draws by which the word of other planes is weighed against a plane's own: some 10,000 pixels.
WEIGHTING_DRAWS = 8
#: Side of the squares in which copies of holes are dealt out where all of them would be too much.
THINNING_SIDE = 32


def count_stack_input_channels(channels: int) -> int:
    """Count the channels of a code: fillings and neighbours of the picture's, and what is seen."""
    return (1 + 2 * NEIGHBOURS_PER_SIDE + len(make_filling_windows(2))) * channels + 3


class MaskedStackPrior(Prior):
    """A stack with further pixels hidden afresh at each step, plane by plane; they drive the fit.

    Held-out pixels stay hidden in every step and glance; the last look shows the network all that
    was measured. Where most of what is missing are whole planes, judging and foretelling hide
    whole planes as well: a pixel is told from other planes alone.

    Parameters
    ----------
    net : nn.Module
        A `PlaneWise` network, as `count_stack_input_channels` counts its input.
    measurement : Tensor
        (1, C, N, Y, X).
    measured_mask : Tensor
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
        measured_mask: Tensor,
        held_out: Tensor,
        *,
        share: float,
        foretell: bool,
        window: tuple[int, ...],
    ) -> None:
        self.net = net
        self.share = share
        self.foretell = foretell
        self.measurement = measurement * measured_mask
        self.measured_mask = measured_mask
        self.held_out = held_out * measured_mask
        self.grid = tuple(measurement.shape[2:])
        self.window = tuple(map(min, window, self.grid))
        self.windows = make_filling_windows(2).to(measurement)
        self.holes = StackHoles(measured_mask)
        self.visible_planes = find_visible_planes(measured_mask - self.held_out)
        planes = self.holes.weights[torch.tensor(self.holes.whole, dtype=torch.bool)].sum()
        self.blind = bool(2 * planes > self.holes.weights.sum())
        self.others_word = 1.0
        self.others_word = self._word_of_others()

    def to(self, device: torch.device) -> None:
        """Move network and measurement."""
        self.net.to(device)
        self.measurement, self.measured_mask = (
            self.measurement.to(device),
            self.measured_mask.to(device),
        )
        self.held_out, self.windows = self.held_out.to(device), self.windows.to(device)
        self.holes.to(device)
        self.visible_planes = NearestVisiblePlanes(
            *(plane.to(device) for plane in self.visible_planes)
        )

    def draw(self, rng: torch.Generator) -> Draw:
        """Hide, in some planes, what is missing in another; look at it in a random window."""
        hidden, reach, usable = self._more_hidden(rng)
        count = min(self.window[0], len(usable))
        order = torch.randperm(len(usable), generator=rng, device=rng.device)[:count]
        planes = tuple(usable[place] for place in order.tolist())
        flat = draw_random_window(self.grid[1:], self.window[1:], rng)
        mirrored = tuple(axis + 1 for axis in flat.mirrored)
        window = Window(
            start=(0, *flat.start), size=(count, *flat.size), mirrored=mirrored, planes=planes
        )
        measured_mask, held_out = window.of(self.measured_mask), window.of(self.held_out)
        cut = flat.of(hidden[None])
        driven = measured_mask * (1 - (1 - cut) * (1 - held_out))
        back, ahead = (flat.of(item[None, None])[0] for item in reach)
        turned = bool(torch.rand((), generator=rng, device=rng.device) < 0.5)
        code = self._code(
            window, self.visible_planes, measured_mask - driven, (back, ahead), turned=turned
        )
        return Draw(code, driven=driven, trusted=driven, window=window)

    def glance(self) -> Draw:
        """Nothing hidden but the held-out pixels, or the planes that they lie in."""
        visible = (
            torch.zeros_like(self.measured_mask)
            if self.blind
            else self.measured_mask - self.held_out
        )
        everything = self._planes(tuple(range(self.grid[0])))
        return Draw(self._code(everything, self.visible_planes, visible))

    def sweep(self) -> Iterator[Draw]:
        """Show all that was measured; then foretell what judges, or all.

        Planes of which nothing is asked are left out.
        """
        foretold = self.measured_mask if self.foretell else self.held_out
        planes = find_visible_planes(self.measured_mask)
        for direction, mirrored in enumerate(MIRROR_AXES if self.holes.planes else ()):
            window = self._planes(tuple(self.holes.planes), mirrored)
            code = self._code(
                window, planes, window.of(self.measured_mask), turned=bool(direction % 2)
            )
            yield Draw(
                code, trusted=window.of(1 - self.measured_mask) / len(MIRROR_AXES), window=window
            )
        judging = foretold.amax((0, 1, 3, 4)).nonzero()[:, 0].tolist()
        window = self._planes(tuple(judging))
        parts = INFERENCE_FOLDS if self.foretell and not self.blind else 1
        rng = torch.Generator(self.measured_mask.device).manual_seed(
            0
        )  # the same parts at every look
        part_of = torch.empty_like(self.measured_mask).uniform_(generator=rng).mul(parts).floor()
        for part in range(parts if judging else 0):
            trusted = foretold * (part_of == part)
            visible = torch.zeros_like(trusted) if self.blind else self.measured_mask - trusted
            around = self.visible_planes if self.blind else find_visible_planes(visible)
            code = self._code(window, around, window.of(visible))
            yield Draw(code, trusted=window.of(trusted), window=window)

    def estimate(self, output: Tensor) -> Estimate:
        """First half is the mean, second half the variance."""
        return split_mean_and_variance(output)

    def _word_of_others(self) -> float:
        """Weigh what other planes say of a pixel against what its own plane says around it.

        By least squares, over pixels that are hidden as steps hide them. 1: others alone.
        """
        rng = torch.Generator(self.measured_mask.device).manual_seed(0)
        channels = self.measurement.shape[1]
        first = (1 + 2 * NEIGHBOURS_PER_SIDE) * channels
        above = below = 0.0
        for _ in range(WEIGHTING_DRAWS):
            draw = self.draw(rng)
            assert draw.driven is not None
            assert draw.window is not None
            others, own = draw.code[:, :channels], draw.code[:, first : first + channels]
            mask = (draw.code[:, -3:-1] + 0.5).sum(1, keepdim=True) > 0
            here = (draw.code[:, -1:] > 0).to(own.dtype).amax((3, 4), keepdim=True)
            weight = draw.driven * mask * here
            truth = draw.window.of(self.measurement)
            above += float((weight * (others - own) * (truth - own)).sum())
            below += float((weight * (others - own) ** 2).sum())
        return min(1.0, max(0.0, above / below)) if below else 1.0

    def _planes(self, planes: tuple[int, ...], mirrored: tuple[int, ...] = ()) -> Window:
        return Window(
            start=(0,) * 3, size=(len(planes), *self.grid[1:]), mirrored=mirrored, planes=planes
        )

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
            plane = self.measured_mask[0, 0, 0]
            near = torch.ones_like(plane, dtype=torch.int64)
            scattered = torch.empty_like(plane).uniform_(generator=rng) < self.share
            return scattered.to(plane.dtype)[None], (near, near), self.holes.usable
        place = int(torch.multinomial(self.holes.weights.to(rng.device), 1, generator=rng))
        missing = 1 - self.measured_mask[0, 0, self.holes.planes[place]]
        back, ahead = self.holes.back[place].long(), self.holes.ahead[place].long()
        usable = self.holes.suited(place)
        if self.holes.whole[place]:
            return missing[None], (back, ahead), usable
        most, part = self.share, float(missing.mean())
        hidden = torch.zeros_like(missing)
        far = [torch.ones_like(back), torch.ones_like(ahead)]
        for _ in range(min(MAX_MASK_COPIES, max(1, round(most / part)))):
            turned, shifts = draw_mask_placement(missing.shape, rng)
            moved, *reach = (
                item.flip(turned).roll(shifts, (0, 1)) for item in (missing, back, ahead)
            )
            far = [torch.where(moved > 0, new, old) for new, old in zip(reach, far, strict=True)]
            hidden = torch.maximum(hidden, moved)
        return self._thinned(hidden, most, rng)[None], (far[0], far[1]), usable

    def _thinned(self, hidden: Tensor, most: float, rng: torch.Generator) -> Tensor:
        """Leave, in squares, about as much of it as may be hidden."""
        part = float(hidden.mean())
        if part <= most:
            return hidden
        squares = [-(-n // THINNING_SIDE) for n in hidden.shape]
        dealt = torch.empty((1, 1, *squares), device=hidden.device).uniform_(generator=rng)
        kept = F.interpolate((dealt < most / part).to(hidden.dtype), scale_factor=THINNING_SIDE)
        return hidden * kept[0, 0, : hidden.shape[0], : hidden.shape[1]]

    def _code(
        self,
        window: Window,
        nearest: NearestVisiblePlanes,
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
            As `gather_neighbour_planes` takes it, in the window; the very next planes if left out.
        turned : bool
            Whether the stack is seen from behind.
        """
        planes = torch.tensor(window.planes, device=visible.device)
        size = (self.grid[0], *window.size[1:])
        whole = Window(start=(0, *window.start[1:]), size=size, mirrored=window.mirrored)
        near = NearestVisiblePlanes(*(whole.of(item[None, None])[0, 0] for item in nearest))
        entry = torch.ones((1, 1, 1), dtype=torch.int64, device=visible.device)
        neighbour_planes = gather_neighbour_planes(
            whole.of(self.measurement), near, planes, reach or (entry, entry)
        )
        neighbour_planes = neighbour_planes.reversed() if turned else neighbour_planes
        own = (window.of(self.measurement) * visible)[0].transpose(0, 1)  # (P, C, Y, X)
        visible_planes = visible[0].transpose(0, 1)
        fillings = fill_by_normalized_convolution(own, visible_planes, self.windows)
        # told from other planes where one shows it, else from the plane's own surroundings
        neighbours = fillings[:, : own.shape[1]]
        elsewhere = neighbour_planes.nearness.sum(1, keepdim=True) > 0
        here = visible_planes.amax((1, 2, 3), keepdim=True) > 0
        both = self.others_word * neighbour_planes.between + (1 - self.others_word) * neighbours
        base = torch.where(elsewhere, torch.where(here, both, neighbour_planes.between), neighbours)
        base = torch.where(visible_planes > 0, own, base)
        parts = [
            base,
            neighbour_planes.values,
            fillings,
            neighbour_planes.nearness - 0.5,
            visible_planes - 0.5,
        ]
        return torch.cat(parts, 1).transpose(0, 1)[None]
