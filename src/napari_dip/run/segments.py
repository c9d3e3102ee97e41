"""Segments of a movie or stack: each is restored from its own beginning, whoever restores it.

A chain of frames, each of which begins with what the one before has learned or is drawn to its
picture, is one worker's, however many there are. So a long one is cut, always at the same frames:
what a frame comes to does not depend on how many workers there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.run.layout import PART_NAMES

if TYPE_CHECKING:
    from napari_dip.run.plan import Plan

#: Frames of a segment at most. Those that go on with the weights of the one before take a fifth of
#: its iterations, so a segment of 32 costs an eighth more than 32 frames of an endless chain; a
#: film of 25 frames a second has one step of the usual unsteadiness in more than a second.
LONGEST = 32
#: A note on a run.
SEGMENTS = (
    "Restored in {count} segments, which several workers can share: each begins anew, at {called}s "
    "{which}."
)


def segment_of(part: int, parts: int, stride: int) -> int:
    """Give the number of a part's segment, 0-based; all are of one length, within one frame.

    Parameters
    ----------
    part : int
        0-based.
    parts : int
        How many there are.
    stride : int
        Parts from a frame to the next one, such as the planes of a frame; 0 for a single part.
    """
    steps = parts // max(1, stride)
    count = -(-steps // LONGEST)
    return part // max(1, stride) * count // steps


def first_frames(parts: int, stride: int) -> tuple[int, ...]:
    """List the frames with which a segment begins after the first one, 0-based."""
    each = max(1, stride)
    found = [segment_of(step * each, parts, stride) for step in range(parts // each)]
    return tuple(step for step in range(1, len(found)) if found[step] != found[step - 1])


def segment_notes(plan: Plan) -> tuple[str, ...]:
    """Say where a movie or stack begins anew; nothing where that makes no difference."""
    task = plan.recipe.task
    drawn = task.looks_back() and any(one.timely for one in plan.units)
    in_turn = any(one.warm and not one.series for one in plan.units)
    first = first_frames(plan.layout.count(plan.source), plan.layout.stride(plan.source))
    if plan.tiles or not first or not (drawn or in_turn):
        return ()
    called = PART_NAMES[plan.layout.along(plan.source)]
    *some, last = (str(one + 1) for one in (0, *first))
    which = f"{', '.join(some)} and {last}"
    return (SEGMENTS.format(count=len(first) + 1, called=called, which=which),)
