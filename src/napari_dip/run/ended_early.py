"""What a person should know of a picture whose run was ended before all of it was restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_dip.run.layout import PART_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from napari_dip.run.plan import Plan
    from napari_dip.run.units import UnitOutcome, WorkUnit


def early_words(plan: Plan, outcomes: Sequence[UnitOutcome]) -> tuple[str, ...]:
    """Warn of fits that were ended by hand, or by the time limit, and whose pictures were taken.

    A fit that ended by itself and was kept in its last look is whole; so is a picture of which
    another repeat came to its end.

    Parameters
    ----------
    plan : Plan
    outcomes : sequence of UnitOutcome
    """
    from napari_dip.engine.course import KEPT

    whole = {_place(one) for one in outcomes if one.pictured and not one.kept}
    early = [one for one in outcomes if one.kept and one.stop_reason == KEPT]
    early = [one for one in early if _place(one) not in whole]
    if not early:
        return ()
    units = {unit.id: unit for unit in plan.units}
    what, far = f"{len(early)} fits were", ""
    if len(early) == 1 and (unit := units.get(early[0].unit)) is not None:
        most = unit.iterations + plan.budget.release
        what = f"The fit{_whose(plan, unit)} was"
        if early[0].iterations < most:
            far = f" after {early[0].iterations} of at most {most} iterations"
    elif len(early) == 1:
        what = "One fit was"
    return (f"{what} ended early{far}: noise may be left in places, and detail may be missing.",)


def _whose(plan: Plan, unit: WorkUnit) -> str:
    """Name the one of several parts that a fit is of, as " of plane 2"."""
    if unit.tile is not None:
        return " of a tile"
    long = _long_axes(plan)
    if len(long) == 1:
        return f" of {PART_NAMES[long]} {unit.part + 1}"
    return " of a plane" if long else ""


def _long_axes(plan: Plan) -> str:
    """Name the axes along which there are several parts."""
    source = plan.source
    return "".join(one for one in plan.layout.parts if source.shape[source.axes.index(one)] > 1)


def _place(one: UnitOutcome) -> str:
    """Name what repeats of a fit have in common."""
    return one.unit.rpartition("r")[0]


def untouched_words(plan: Plan, missing: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """Name the planes, frames and channels that no fit has reached.

    Parameters
    ----------
    plan : Plan
    missing : ndarray of bool
        (parts, C), of the plan's layout.
    """
    channels = missing.all(0)
    rest = missing[:, ~channels]
    parts = rest.all(1) & ~channels.all()
    told = _sentences("channel", np.flatnonzero(channels))
    told += _of_parts(plan, np.flatnonzero(parts))
    for channel in np.flatnonzero(~channels):
        some = np.flatnonzero(missing[:, channel] & ~parts)
        told += [f"channel {channel + 1}: {words}" for words in _of_parts(plan, some)]
    return tuple(words[:1].upper() + words[1:] for words in told)


def untouched_tiles(left: int, count: int) -> tuple[str, ...]:
    """Say how many tiles no fit has reached."""
    if not left:
        return ()
    one = left == 1
    return (
        f"{left} of the {count} tiles {'was' if one else 'were'} not restored; "
        f"{'it is' if one else 'they are'} as in the input.",
    )


def _of_parts(plan: Plan, parts: npt.NDArray[np.intp]) -> list[str]:
    """Name parts as a person counts them: frames, planes, or planes of frames."""
    long = _long_axes(plan)
    if len(long) < 2:
        return _sentences(PART_NAMES.get(long, "part"), parts)
    deep = plan.source.shape[plan.source.axes.index(plan.layout.parts[1])]
    frames, planes = np.divmod(parts, deep)
    whole = [one for one in np.unique(frames) if (frames == one).sum() == deep]
    told = _sentences(PART_NAMES["T"], np.array(whole, np.intp))
    for frame in np.setdiff1d(frames, whole):
        told += _sentences(PART_NAMES["Z"], planes[frames == frame], f" of frame {frame + 1}")
    return told


def _sentences(noun: str, indices: npt.NDArray[np.intp], of: str = "") -> list[str]:
    """Put 0-based indices into one sentence, if there are any."""
    if not len(indices):
        return []
    if len(indices) == 1:
        return [f"{noun} {indices[0] + 1}{of} was not restored; it is as in the input."]
    return [f"{noun}s {_numbers(indices)}{of} were not restored; they are as in the input."]


def _numbers(indices: Iterable[int]) -> str:
    """Write 0-based indices as people count: "2, 4 and 6 to 9"."""
    runs: list[list[int]] = []
    for one in indices:
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(int(one))
        else:
            runs.append([int(one)])
    words = []
    for run in runs:
        if len(run) > 2:
            words.append(f"{run[0] + 1} to {run[-1] + 1}")
        else:
            words += [str(one + 1) for one in run]
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
