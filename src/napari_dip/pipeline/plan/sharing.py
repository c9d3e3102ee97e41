"""One network for the frames of a movie, planes of a stack or tiles of a picture: how it is shared.

A network that is shown the image learns what to do with one, not what is in it. So one is fitted
to many of them in turn and then shown each. Whether a frame gains by going on alone is tried on
three of them, and the pixels that were held out decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import TYPE_CHECKING

from napari_dip.pipeline.plan.types import SHARED, SHOWN, TRIAL, Member

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.pipeline.plan.types import UnitOutcome, WorkUnit

#: Iterations of the fit to all, as a multiple of the preset's: it has more to see. On 8 frames of
#: cancer_cell_migration (96 x 96) 1 and 2.4 came to 31.91 and 32.04 dB, frame by frame to 31.89.
TIMES = 2.0
#: Judgements of that fit: each looks at all its members, so there are no more than these.
REPORTS = 10
#: Frames that trials go on from, evenly spread.
TRIALS = 3
#: Standard errors by which going on must explain held-out pixels better. The best of a few
#: judgements is taken for what going on came to, which is lucky by about one.
CERTAIN = 2.0
#: Side of what is cut out of a large frame for the fit to all, pixels of all that is cut out, and
#: least and most frames: about what regions of a large picture are.
MEMBER_SIDE, MEMBER_PIXELS = 512, 2**21
LEAST_MEMBERS, MOST_MEMBERS = 8, 32
#: Bytes for each pixel and channel of a member: the image, what is filled in, noise, masks, frames
#: beside, and the answers of a look at all.
MEMBER_BYTES = 80


@dataclass(frozen=True, slots=True)
class Gain:
    """What going on alone gained in the trials, per held-out pixel, in units of the likelihood.

    Attributes
    ----------
    mean, error : float
        And its standard error.
    trials : int
    """

    mean: float
    error: float
    trials: int

    @property
    def pays(self) -> bool:
        """Whether it gained more than chance explains."""
        return self.mean > CERTAIN * self.error


def member_size(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Size of what is cut out of each frame of that size."""
    return tuple(min(side, MEMBER_SIDE) for side in grid)


def members_of(
    parts: int, grid: tuple[int, ...], stride: int, size: tuple[int, ...] = ()
) -> tuple[Member, ...]:
    """Choose what the fit to all sees: frames evenly spread, each cut at another place.

    Parameters
    ----------
    parts : int
        How many frames there are.
    grid : tuple of int
        Their size.
    stride : int
        Frames from one to its neighbour; 0 where there are no neighbours.
    size : tuple of int
        Of what is cut out; (): as large as is usual.
    """
    size = size or member_size(grid)
    most = min(MOST_MEMBERS, max(LEAST_MEMBERS, MEMBER_PIXELS // prod(size)))
    count = min(parts, most)
    members = []
    for number in range(count):
        part = (2 * number + 1) * parts // (2 * count)
        # steps of three and five visit all places along both axes, none twice in a row
        along = ((number * 3 % count + 0.5) / count, (number * 5 % count + 0.5) / count)
        room = [whole - cut for whole, cut in zip(grid, size, strict=True)]
        origin = tuple(round(one * share) for one, share in zip(room, along, strict=True))
        members.append(Member(part, origin, size, *neighbours(part, parts, stride)))
    return tuple(members)


def neighbours(part: int, parts: int, stride: int) -> tuple[int | None, int | None]:
    """Give the parts before and after one; None where there is none."""
    before = part - stride if stride and part >= stride else None
    return before, part + stride if stride and part + stride < parts else None


def members_bytes(parts: int, grid: tuple[int, ...], channels: int) -> int:
    """Estimate the memory that the fit to all takes beside that of one fit."""
    return len(members_of(parts, grid, 0)) * prod(member_size(grid)) * channels * MEMBER_BYTES


def tried(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Choose whose going on is tried, evenly spread."""
    places = [(2 * one + 1) * len(members) // (2 * TRIALS) for one in range(TRIALS)]
    return tuple(dict.fromkeys(members[place] for place in places)) if members else ()


def series_of(
    first: WorkUnit, members: tuple[Member, ...], chosen: tuple[Member, ...], own: int
) -> list[WorkUnit]:
    """Give the fit to all and the trials, which come before the frames that they are for.

    Parameters
    ----------
    first : WorkUnit
        Of the first frame, fitted by itself with all iterations.
    members : tuple of Member
    chosen : tuple of Member
        Whose going on is tried.
    own : int
        Iterations of a trial, and of each frame if the trials say so.
    """
    name = f"c{first.channels[0]}r{first.restart}"
    every = replace(
        first,
        id=f"all-{name}",
        iterations=round(TIMES * first.iterations),
        part=members[0].part if members else 0,
        role=SHARED,
        members=members,
        series=name,
        before=None,
        after=None,
        tile=None,
        origin=(),
    )
    trials = [
        replace(
            every,
            id=f"trial{number}-{name}",
            iterations=own,
            part=one.part,
            warm=True,
            role=TRIAL,
            before=one.before,
            after=one.after,
            members=(one,),
            trials=len(chosen),
        )
        for number, one in enumerate(chosen)
    ]
    return [every, *trials]


def settled_by(unit: WorkUnit, outcomes: Iterable[UnitOutcome]) -> WorkUnit:
    """Let a frame go on by itself if the trials of its series say that it pays."""
    if unit.role != SHOWN:
        return unit
    gain = gain_of(outcomes, unit.series)
    return replace(unit, iterations=unit.own if gain is not None and gain.pays else 0)


def gain_of(outcomes: Iterable[UnitOutcome], series: str) -> Gain | None:
    """Add up what the trials of a series gained; None where there were none."""
    found = [one.gain for one in outcomes if one.series == series and one.gain]
    if not found:
        return None
    total, squares, count = (sum(column) for column in zip(*found, strict=True))
    if count < 2:
        return None
    mean = total / count
    return Gain(mean, sqrt(max(0.0, squares / count - mean**2) / (count - 1)), len(found))


def sharing_words(gain: Gain) -> str:
    """Say what the trials decided."""
    each = f"{gain.mean:+.4f} ± {gain.error:.4f}"
    went = "so all went on" if gain.pays else "so none went on"
    return (
        f"Going on with each alone, tried on {gain.trials}, changed the log-likelihood of a pixel "
        f"that was held out by {each}: {went}."
    )


def sharing_report(outcomes: Iterable[UnitOutcome]) -> dict[str, dict[str, object]]:
    """Say in plain types how a network was shared; empty if it was not."""
    every = list(outcomes)
    first = next((one for one in every if one.role == SHARED), None)
    if first is None:
        return {}
    gain = gain_of(every, first.series)
    told: dict[str, object] = {
        "members": first.members,
        "iterations": first.iterations,
        "shown": sum(one.role == SHOWN for one in every),
    }
    if gain is None:
        return {"shared": told}
    tried = {"trials": gain.trials, "gain": gain.mean, "error": gain.error, "went_on": gain.pays}
    return {"shared": told | tried}
