"""The fits that a run is made of: parts, groups of channels, repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_dip.run.costs import channel_count
from napari_dip.run.segments import segment_of
from napari_dip.run.sharing import (
    OWN,
    SHOWN,
    Member,
    members_of,
    neighbours,
    series_of,
    tried,
)
from napari_dip.tasks.recorrupted import SHOWN as SHOWN_PRIORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.io import ImageSpec
    from napari_dip.run.costs import Budget
    from napari_dip.run.layout import Layout
    from napari_dip.run.recipe import Recipe
    from napari_dip.run.tiles import Tile

#: Share of the iterations that a plane takes which begins with what the one before has learned,
#: and the fewest of them: with its last look such a plane takes less than a fifth of the time.
LATER, LEAST_LATER = 0.2, 25
#: Between the seeds of neighbouring tiles: further apart than those of channels and repeats.
SEEDS = 1_000_003


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One fit: a group of channels and a restart.

    Attributes
    ----------
    id : str
        Names the unit in checkpoints and reports.
    channels : tuple of int
        Indices into the channels of the image.
    restart : int
        0-based.
    seed : int
        Of this fit's own random numbers.
    iterations : int
    part : int
        Which plane or volume of a stack, 0-based.
    warm : bool
        Whether it begins with the weights of the unit before.
    first : str
        Id of the first fit of the same channels.
    before, after : int or None
        Which part is its neighbour: the same one frame earlier or later, or in a stack that is no
        movie the next plane; None: there is none.
    timely : bool
        Whether these are neighbours in time.
    segment : int
        Which segment of the movie or stack; see `napari_dip.run.segments`.
    opens : bool
        Whether it is in the first frame of its segment, which nothing is handed on to.
    tile : int or None
        Which tile of the picture plane, or of the stack; None: all of it.
    origin : tuple of int
        Where the first pixel of that tile lies in the image, per axis of the fit; () for all of it.
    role : str
        What the fit is for; see `napari_dip.run.sharing`.
    series : str
        Names the network that several units share; "" where none is shared.
    members : tuple of Member
        What the fit to all sees.
    own : int
        Iterations that a unit which is shown that network takes by itself where they pay.
    trials : int
        How many trials there are.
    """

    id: str
    channels: tuple[int, ...]
    restart: int
    seed: int
    iterations: int
    part: int = 0
    warm: bool = False
    first: str = ""
    before: int | None = None
    after: int | None = None
    timely: bool = False
    segment: int = 0
    opens: bool = False
    tile: int | None = None
    origin: tuple[int, ...] = ()
    role: str = OWN
    series: str = ""
    members: tuple[Member, ...] = ()
    own: int = 0
    trials: int = 0

    @property
    def pictured(self) -> bool:
        """Whether a picture is to come of it, or another fit is helped."""
        return self.role in (OWN, SHOWN)

    @property
    def beside(self) -> tuple[int, ...]:
        """Give the neighbours, as far as there are any."""
        return tuple(one for one in (self.before, self.after) if one is not None)


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """How one unit's fit went, in plain numbers.

    `gain` holds, of a trial, what going on gained at the held-out pixels: its sum, that of its
    squares, and their number; `members` counts what a fit to all has seen.
    """

    unit: str
    stop_reason: str
    kept: bool
    best_iteration: int
    iterations: int
    history: tuple[tuple[int, float, float], ...]
    notes: tuple[str, ...]
    prior: str = ""
    evidence: tuple[float, ...] = ()
    filtered: bool = False
    role: str = OWN
    series: str = ""
    members: int = 0
    gain: tuple[float, ...] = ()

    @property
    def pictured(self) -> bool:
        """Whether a picture came of it, or another fit was helped."""
        return self.role in (OWN, SHOWN)

    @property
    def released(self) -> int:
        """Iterations of the last phase, which held-out pixels drive, too: nothing judges them."""
        if self.kept or not self.history:
            return 0
        return max(0, self.iterations - self.history[-1][0])


def units_of(
    recipe: Recipe,
    source: ImageSpec,
    budget: Budget,
    layout: Layout,
    tiles: tuple[Tile, ...] = (),
) -> tuple[WorkUnit, ...]:
    """List the fits: for each group of channels and each restart a chain through the parts."""
    if tiles:
        return tile_units_of(recipe, source, budget, layout, tiles)
    parts, stride = layout.count(source), layout.stride(source)
    later = later_iterations(budget)
    way = "in-turn" if layout.volume else recipe.task.shares(budget.prior, parts)
    segments = [segment_of(part, parts, stride) for part in range(parts)]
    beside = [neighbours(part, parts, stride) for part in range(parts)]
    # those that go on with the weights of the part before, which is of the same segment
    ahead = [-1, *segments[:-1]]
    linked = [way != "alone" and one == two for one, two in zip(ahead, segments, strict=True)]
    units = [
        WorkUnit(
            f"c{number}r{restart}" if parts == 1 else f"p{part}c{number}r{restart}",
            group,
            restart,
            # the same for all parts: the next one goes on with the same code
            recipe.common.seed + 1000 * number + restart,
            later if linked[part] else budget.iterations,
            part,
            warm=linked[part],
            first=f"c{number}r0" if parts == 1 else f"p{part}c{number}r0",
            before=before,
            after=after,
            timely=layout.along(source) == "T",
            segment=segments[part],
            opens=before is None or segments[before] != segments[part],
        )
        for number, group in enumerate(groups_of(recipe, source))
        for restart in range(budget.restarts)
        for part, (before, after) in enumerate(beside)
    ]
    if way != "together" or budget.rivals:
        return tuple(units)
    members = members_of(parts, source.grid, stride)
    return tuple(shown_together(units, members, tried(members), later))


def later_iterations(budget: Budget) -> int:
    """Give the iterations of a fit that begins with what another has learned."""
    return max(min(LEAST_LATER, budget.iterations), round(LATER * budget.iterations))


def shown_together(
    units: Sequence[WorkUnit], members: tuple[Member, ...], chosen: tuple[Member, ...], own: int
) -> list[WorkUnit]:
    """Let units of the same channels and repeat be shown one network, which is fitted before."""
    fits: dict[str, list[WorkUnit]] = {}
    for unit in units:
        name = f"c{unit.channels[0]}r{unit.restart}"
        if name not in fits:
            fits[name] = series_of(unit, members, chosen, own)
        fits[name].append(replace(unit, iterations=0, warm=True, role=SHOWN, series=name, own=own))
    return [unit for each in fits.values() for unit in each]


def tile_units_of(
    recipe: Recipe,
    source: ImageSpec,
    budget: Budget,
    layout: Layout,
    tiles: tuple[Tile, ...],
    members: tuple[Member, ...] = (),
) -> tuple[WorkUnit, ...]:
    """List the fits of a picture in tiles: all those of one tile, then those of the next.

    The first tile takes all iterations. Where a network is shown the picture, the others begin
    with what it has learned there, or all are shown one network that was fitted to regions of the
    picture; none of them needs another: which process restores a tile, and when, makes no
    difference. Planes of a tile that are restored one by one are a chain.

    Parameters
    ----------
    recipe, source, budget, layout
        Of the plan.
    tiles : tuple of Tile
        The first one first.
    members : tuple of Member
        Regions of the picture, once they are known, where one network is fitted to them.
    """
    way = recipe.task.shares(budget.prior, len(tiles), tiles=True)
    learns = budget.prior in SHOWN_PRIORS and way != "alone"
    later = later_iterations(budget)
    units = [
        WorkUnit(
            f"t{tile.index}{named}c{number}r{restart}",
            group,
            restart,
            recipe.common.seed + 1000 * number + restart + SEEDS * tile.index,
            later if link or (learns and place) else budget.iterations,
            part,
            warm=link > 0 or (learns and place > 0),
            first=f"t{tile.index}{named}c{number}r0",
            before=part - 1 if named and part else None,
            after=part + 1 if named and part + 1 < tile.size[0] else None,
            tile=tile.index,
            origin=tile.start[-len(layout.grid) :],
        )
        for place, tile in enumerate(tiles)
        for number, group in enumerate(groups_of(recipe, source))
        for restart in range(budget.restarts)
        for link, (part, named) in enumerate(_planes(tile, layout))
    ]
    if way != "together" or budget.rivals or tiles[0].z is not None:
        return tuple(units)
    order = {tile.index: place for place, tile in enumerate(tiles)}
    # tiles of a picture that is looked at whole, or before regions are known
    places = (Member(0, tile.start, tile.size) for tile in tiles)
    chosen = members if len(members) > 1 else tuple(sorted(places))
    units = shown_together(units, members, tried(chosen), later)
    # what is learned from all comes before the first tile
    return tuple(sorted(units, key=lambda unit: -1 if unit.tile is None else order[unit.tile]))


def _planes(tile: Tile, layout: Layout) -> list[tuple[int, str]]:
    """List the planes of a tile that are restored one by one, and their names in the stack."""
    if tile.z is None or layout.volume:
        return [(0, "")]
    return [(one - tile.z.start, f"p{one}") for one in range(tile.z.first, tile.z.last)]


def groups_of(recipe: Recipe, source: ImageSpec) -> list[tuple[int, ...]]:
    """Channels that are fitted together."""
    count = channel_count(source)
    if recipe.task.together(source):
        return [tuple(range(count))]
    return [(index,) for index in range(count)]
