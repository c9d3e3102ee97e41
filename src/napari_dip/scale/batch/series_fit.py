"""The fit of one network to the files of a series, before any of them is restored.

Which files, and which part of each, is planned from headers alone. Each is then measured as it
would be by itself, so that gain, range and noise are its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, Refused, refusal
from napari_dip.io.integrity import compute_file_sha256
from napari_dip.io.paths import make_save_refusal
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.clock import Clock
from napari_dip.pipeline.execute.memory import make_machine_refusal
from napari_dip.pipeline.execute.runner import calibrated
from napari_dip.pipeline.execute.tile_measuring import open_survey
from napari_dip.pipeline.execute.tile_measuring import opened as gone_on
from napari_dip.pipeline.lazy_inputs import stamped
from napari_dip.pipeline.machine import load_torch, threads_for
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.layout import Layout, split_into_parts
from napari_dip.pipeline.plan.types import SHARED, Member, SharedNetwork
from napari_dip.pipeline.plan.units import groups_of
from napari_dip.pipeline.store.checkpoint_file import write_tensors
from napari_dip.pipeline.store.checkpoints import CheckpointStore, read_weights, write_weights
from napari_dip.pipeline.store.folder_lock import make_run_folder
from napari_dip.pipeline.store.shared_network import SCHEMA, read_network
from napari_dip.pipeline.torch_state import in_own_state
from napari_dip.scale.batch.types import ENDING_CONTROLS, ControlRecorder, lesson_units

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy.typing as npt

    from napari_dip.pipeline.assess.merge import Merge
    from napari_dip.pipeline.calibrate.types import Calibration
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.types import Lesson

#: Fewest of those looked at that must ask for the same: with fewer it is hardly one of a series.
LEAST_ALIKE = 4
#: What it is called where it has no file yet.
NAME = "the files of the series"


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One file, hashed, measured, and cut to what is seen of it: (1, C, *size)."""

    plan: Plan
    calibration: Calibration
    parts: npt.NDArray[np.float32]
    member: Member
    sha256: str

    @property
    def kind(self) -> tuple[object, ...]:
        """What a network must have been fitted for to be of use to it."""
        one = self.calibration
        return self.plan.budget.prior, one.coarse is not None, one.constant


def fit_series(
    lesson: Lesson, at: Path, unfinished: Path, control: Callable[[], Control], *, resume: bool
) -> Generator[Event, None, SharedNetwork | None]:
    """Fit one network to many files, try whether going on from it pays, and write it down.

    Parameters
    ----------
    lesson : Lesson
    at, unfinished : Path
        Of the network, and of its checkpoint until then.
    control : callable
        Polled at every step; asked to keep or discard, the fit ends with a checkpoint.
    resume : bool
        Whether to go on from a checkpoint.

    Yields
    ------
    Event

    Returns
    -------
    SharedNetwork or None
        None if it was ended.

    Raises
    ------
    Refused
        If too few of the files can share a network.
    Failed
        If it came to nothing, or cannot be written.
    """
    yield Event("Starting the engine")
    load_torch()
    threads, wish = (
        threads_for(lesson.cores, prod(lesson.members[0].size)),
        ControlRecorder(control),
    )
    store = CheckpointStore(unfinished, resume=resume)
    steps = _learned(lesson, threads, at, store, wish)
    try:
        return (yield from in_own_state(steps, threads))
    except (Refused, Failed):
        raise
    except OSError as error:
        raise Failed(make_save_refusal(at, error)) from error
    except Exception as error:
        if no := make_machine_refusal(error, NAME):
            raise Failed(no) from error
        raise


def _learned(
    lesson: Lesson, threads: int, at: Path, store: CheckpointStore, wish: ControlRecorder
) -> Generator[Event, None, SharedNetwork | None]:
    """Measure the files, and fit their network."""
    seen = yield from _measured(lesson, wish)
    if not seen:
        return None
    return (yield from _fitted(seen, threads, at, store, wish))


def _measured(
    lesson: Lesson, control: Callable[[], Control]
) -> Generator[Event, None, list[_Seen]]:
    """Measure the files; those that ask for what most ask for, or none if it was ended."""
    found = []
    for plan, member in zip(lesson.plans, lesson.members, strict=True):
        if control() in ENDING_CONTROLS:
            return []
        done = f"{member.part + 1} of {len(lesson.members)}"
        yield Event(f"Measuring the noise of '{plan.source.name}', {done}")
        try:
            plan = stamped(plan)
            digest = compute_file_sha256(Path(str(plan.source.path)))
            ready = yield from calibrated(plan, open_survey(plan), Clock(plan, control, None))
        except Refused:  # its own turn says why
            continue
        found.append(_cut(ready.plan, ready.calibration, ready.arrays["image"], member, digest))
    kinds = Counter(one.kind for one in found)
    usual = kinds.most_common(1)[0][0] if kinds else ()
    alike = [one for one in found if one.kind == usual]
    if len(alike) < LEAST_ALIKE:
        facts = {"count": len(alike), "total": len(lesson.members)}
        raise Refused(refusal("series-unlike", **facts))
    return alike


def _cut(
    plan: Plan,
    calibration: Calibration,
    image: npt.NDArray[Any],
    member: Member,
    sha256: str,
) -> _Seen:
    axes, coarse = plan.source.axes, calibration.coarse
    sides = dict(zip("YX", zip(member.origin, member.size, strict=True), strict=True))
    place = [slice(None)] * len(axes)
    for axis, (start, count) in sides.items():
        place[axes.index(axis)] = slice(start, start + count)
    parts = split_into_parts(image[tuple(place)], axes, plan.layout)
    if coarse is not None:
        half = [slice(start // 2, (start + count) // 2) for start, count in sides.values()]
        coarse = replace(coarse, parts=coarse.parts[:, :, *half].copy())
    return _Seen(plan, replace(calibration, coarse=coarse), parts.copy(), member, sha256)


def _fitted(
    seen: list[_Seen], threads: int, at: Path, store: CheckpointStore, wish: ControlRecorder
) -> Generator[Event, None, SharedNetwork | None]:
    """Fit the networks of all channels and repeats, one after another, and keep them."""
    from napari_dip.pipeline.assess.merge import Merge
    from napari_dip.pipeline.execute.course import UnitExecutor, drop_constant_channels

    members = tuple(one.member._replace(part=place) for place, one in enumerate(seen))
    parts = np.concatenate([one.parts for one in seen])
    plan, calibration = _together(seen, members, parts.shape, threads), _all_of(seen)
    clock = Clock(plan, wish, None)
    merge = Merge(plan, calibration, parts, parts)
    resume = gone_on(store, plan, parts, merge)
    learned = {one.series for one in merge.outcomes if one.role == SHARED}
    kept = {name: read_weights(_place(store, name)) for name in sorted(learned)}
    weights: dict[str, Any] = {name: one for name, one in kept.items() if one is not None}
    merge.outcomes[:] = [one for one in merge.outcomes if one.series in weights]
    done = {one.unit for one in merge.outcomes}
    course = UnitExecutor(plan, calibration, parts, clock, merge, store)
    for number, unit in enumerate(plan.units, 1):
        fitted = drop_constant_channels(unit, calibration.constant)
        if unit.id in done or not fitted.channels:
            continue
        point = resume if unit.id == store.unit else None
        ended = yield from course.fit_unit(fitted, number, point)
        if ended is not Control.GO or wish.ended:
            store.write_if_possible()
            return None
        if course.weights is not None and unit.role == SHARED:
            weights[unit.series] = course.weights
            make_run_folder(store.shelf)
            write_weights(_place(store, unit.series), course.weights)
    _write(at, plan, seen, weights, merge)
    store.remove()
    return read_network(at)


def _together(
    seen: list[_Seen], members: tuple[Member, ...], shape: tuple[int, ...], threads: int
) -> Plan:
    """Plan the fit as that of a movie whose frames are the files."""
    first = seen[0].plan
    layout = Layout("T", first.layout.channels or "C", "YX")
    source = replace(
        first.source, name=NAME, shape=shape, axes=layout.order, path=None, scale=None, units=None
    )
    recipe = first.recipe.with_common(time_limit=None)  # which is that of one file
    units = lesson_units(first, members)
    grid = members[0].size
    how = units, first.device, threads, first.budget
    return replace(
        first,
        recipe=recipe,
        source=source,
        layout=layout,
        units=units,
        threads=threads,
        costs=estimate_costs(grid, *how, half=first.half),
        network=None,
    )


def _all_of(seen: list[_Seen]) -> Calibration:
    """Put side by side what was measured of each; all hide as much as the one that hides most."""
    each = [one.calibration for one in seen]
    block = tuple(max(sides) for sides in zip(*(one.block for one in each), strict=True))
    coarse = [one.coarse.block for one in each if one.coarse is not None]
    half = tuple(max(sides) for sides in zip(*coarse, strict=True))
    alike = tuple(
        replace(
            one,
            block=block,
            coarse=None if one.coarse is None else replace(one.coarse, block=half),
        )
        for one in each
    )
    return replace(alike[0], coarse=None, each=alike)


def _write(at: Path, plan: Plan, seen: list[_Seen], weights: dict[str, Any], merge: Merge) -> None:
    """Write networks and what they come from, whole or not at all."""
    from napari_dip.version import __version__

    first, recipe = seen[0], plan.recipe
    files = [
        {
            "name": one.plan.source.name,
            "sha256": one.sha256,
            "shape": list(one.plan.source.shape),
            "axes": one.plan.source.axes,
        }
        for one in seen
    ]
    told = {
        "schema": SCHEMA,
        "version": __version__,
        "task": recipe.task.name,
        "settings": recipe.task.to_dict(),
        "preset": recipe.common.preset,
        "recipe": recipe.to_dict(),
        "repeats": plan.budget.restarts,
        "prior": plan.budget.prior,
        "widths": list(plan.budget.widths),
        "halved": first.calibration.coarse is not None,
        "groups": [list(one) for one in groups_of(first.plan.recipe, first.plan.source)],
        "files": files,
        "outcomes": [asdict(one) for one in merge.outcomes],
        "device": plan.device,
        "threads": plan.threads,
    }
    tensors = {
        f"{series}/{name}": value.contiguous().cpu()
        for series, each in weights.items()
        for name, value in each.items()
    }
    write_tensors(at, tensors, {"network": told})


def _place(store: CheckpointStore, series: str) -> Path:
    return store.shelf / f"{series}.weights"
