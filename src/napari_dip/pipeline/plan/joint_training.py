"""One network for the frames of a movie, planes of a stack or tiles of a picture: how it is shared.

A network that is shown the image learns what to do with one, not what is in it. So one is fitted
to many of them in turn and then shown each. Whether a frame gains by going on alone is tried on
three of them, and the pixels that were held out decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import TYPE_CHECKING

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.plan.types import FINE_TUNE_PROBE, INFERENCE, JOINT, Member

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.plan.types import UnitOutcome, WorkUnit

#: Iterations of the fit to all, as a multiple of the preset's: it has more to see. On 8 frames of
#: cancer_cell_migration (96 x 96) 1 and 2.4 came to 31.91 and 32.04 dB, frame by frame to 31.89.
JOINT_ITERATION_FACTOR = 2.0
#: Judgements of that fit: each looks at all its members, so there are no more than these.
MAX_JOINT_VALIDATIONS = 10
#: Frames that trials go on from, evenly spread.
FINE_TUNE_PROBE_COUNT = 3
#: Standard errors by which going on must explain held-out pixels better. The best of a few
#: judgements is taken for what going on came to, which is lucky by about one.
MIN_GAIN_STANDARD_ERRORS = 2.0
#: Side of what is cut out of a large frame for the fit to all, pixels of all that is cut out, and
#: least and most frames: about what regions of a large picture are.
MAX_MEMBER_SIDE, MAX_MEMBER_PIXELS = 512, 2**21
MIN_MEMBERS, MAX_MEMBERS = 8, 32
#: Bytes for each pixel and channel of a member: the image, what is filled in, noise, masks, frames
#: beside, and the answers of a look at all.
MEMBER_PIXEL_BYTES = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneGain:
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
        return self.mean > MIN_GAIN_STANDARD_ERRORS * self.error


def compute_member_size(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Size of what is cut out of each frame of that size."""
    return tuple(min(side, MAX_MEMBER_SIDE) for side in grid)


def choose_members(
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
    size = size or compute_member_size(grid)
    most = min(MAX_MEMBERS, max(MIN_MEMBERS, MAX_MEMBER_PIXELS // prod(size)))
    count = min(parts, most)
    members = []
    for number in range(count):
        part = (2 * number + 1) * parts // (2 * count)
        # steps of three and five visit all places along both axes, none twice in a row
        along = ((number * 3 % count + 0.5) / count, (number * 5 % count + 0.5) / count)
        room = [whole - cut for whole, cut in zip(grid, size, strict=True)]
        origin = tuple(round(item * share) for item, share in zip(room, along, strict=True))
        members.append(Member(part, origin, size, *get_neighbour_parts(part, parts, stride)))
    return tuple(members)


def get_neighbour_parts(part: int, parts: int, stride: int) -> tuple[int | None, int | None]:
    """Give the parts before and after one; None where there is none."""
    before = part - stride if stride and part >= stride else None
    return before, part + stride if stride and part + stride < parts else None


def estimate_members_memory(parts: int, grid: tuple[int, ...], channels: int) -> int:
    """Estimate the memory that the fit to all takes beside that of one fit."""
    return (
        len(choose_members(parts, grid, 0))
        * prod(compute_member_size(grid))
        * channels
        * MEMBER_PIXEL_BYTES
    )


def choose_probe_members(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Choose whose going on is tried, evenly spread."""
    places = [
        (2 * index + 1) * len(members) // (2 * FINE_TUNE_PROBE_COUNT)
        for index in range(FINE_TUNE_PROBE_COUNT)
    ]
    return tuple(dict.fromkeys(members[place] for place in places)) if members else ()


def make_joint_units(
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
        iterations=round(JOINT_ITERATION_FACTOR * first.iterations),
        part=members[0].part if members else 0,
        role=JOINT,
        members=members,
        series=name,
        previous_part=None,
        next_part=None,
        tile=None,
        origin=(),
    )
    trials = [
        replace(
            every,
            id=f"trial{number}-{name}",
            iterations=own,
            part=item.part,
            is_warm_start=True,
            role=FINE_TUNE_PROBE,
            previous_part=item.previous_part,
            next_part=item.next_part,
            members=(item,),
            probe_count=len(chosen),
        )
        for number, item in enumerate(chosen)
    ]
    return [every, *trials]


def apply_probe_outcome(unit: WorkUnit, outcomes: Iterable[UnitOutcome]) -> WorkUnit:
    """Let a frame go on by itself if the trials of its series say that it pays."""
    if unit.role != INFERENCE:
        return unit
    gain = compute_fine_tune_gain(outcomes, unit.series)
    return replace(
        unit, iterations=unit.fine_tune_iterations if gain is not None and gain.pays else 0
    )


def compute_fine_tune_gain(outcomes: Iterable[UnitOutcome], series: str) -> FineTuneGain | None:
    """Add up what the trials of a series gained; None where there were none."""
    gains = [outcome.gain for outcome in outcomes if outcome.series == series and outcome.gain]
    if not gains:
        return None
    total, squares, count = (sum(column) for column in zip(*gains, strict=True))
    if count < 2:
        return None
    mean = total / count
    return FineTuneGain(
        mean=mean, error=sqrt(max(0.0, squares / count - mean**2) / (count - 1)), trials=len(gains)
    )


def make_sharing_note(gain: FineTuneGain) -> Note:
    """Say what the trials decided."""
    facts = {"trials": gain.trials, "mean": gain.mean, "error": gain.error, "pays": gain.pays}
    return make_note("sharing-tried", **facts)


def summarise_joint_training(outcomes: Iterable[UnitOutcome]) -> dict[str, dict[str, object]]:
    """Say in plain types how a network was shared; empty if it was not."""
    every = list(outcomes)
    first = next((item for item in every if item.role == JOINT), None)
    if first is None:
        return {}
    gain = compute_fine_tune_gain(every, first.series)
    facts: dict[str, object] = {
        "members": first.members,
        "iterations": first.iterations,
        "inference": sum(item.role == INFERENCE for item in every),
    }
    if gain is None:
        return {"joint_training": facts}
    tried = {"trials": gain.trials, "gain": gain.mean, "error": gain.error, "fine_tuned": gain.pays}
    return {"joint_training": facts | tried}
