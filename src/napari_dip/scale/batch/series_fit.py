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
from napari_dip.pipeline.execute.clock import RunClock
from napari_dip.pipeline.execute.device_recovery import make_machine_refusal
from napari_dip.pipeline.execute.runner import calibrate_image
from napari_dip.pipeline.execute.tile_calibration import open_part_checkpoint as gone_on
from napari_dip.pipeline.execute.tile_calibration import open_plan_inputs
from napari_dip.pipeline.lazy_inputs import stamp_plan_files
from napari_dip.pipeline.machine import choose_thread_count, load_torch
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.layout import Layout, split_into_parts
from napari_dip.pipeline.plan.types import JOINT, Member, SharedNetwork
from napari_dip.pipeline.plan.units import group_channels
from napari_dip.pipeline.store.checkpoint_file import write_tensors
from napari_dip.pipeline.store.checkpoints import CheckpointStore, read_weights, write_weights
from napari_dip.pipeline.store.folder_lock import make_run_folder
from napari_dip.pipeline.store.shared_network import NETWORK_FILE_SCHEMA, read_network
from napari_dip.pipeline.torch_state import run_in_default_state
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, ControlRecorder, make_training_units

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy.typing as npt

    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.calibrate.calibration import Calibration
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import JointTrainingPlan

#: Fewest of those looked at that must ask for the same: with fewer it is hardly one of a series.
MIN_SIMILAR_FILES = 4
#: What it is called where it has no file yet.
SERIES_NAME = "the files of the series"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _CalibratedCrop:
    """One file, hashed, measured, and cut to what is seen of it: (1, C, *size)."""

    plan: Plan
    calibration: Calibration
    stack: npt.NDArray[np.float32]
    member: Member
    sha256: str

    @property
    def network_requirements(self) -> tuple[object, ...]:
        """What a network must have been fitted for to be of use to it."""
        calibration = self.calibration
        return (
            self.plan.budget.prior,
            calibration.half_resolution is not None,
            calibration.constant_channels,
        )


def fit_series(
    lesson: JointTrainingPlan,
    at: Path,
    unfinished: Path,
    control: Callable[[], Control],
    *,
    resume: bool,
) -> Generator[Event, None, SharedNetwork | None]:
    """Fit one network to many files, try whether going on from it pays, and write it down.

    Parameters
    ----------
    lesson : JointTrainingPlan
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
    yield Event(message="Starting the engine")
    load_torch()
    threads, recorder = (
        choose_thread_count(lesson.cores, prod(lesson.members[0].size)),
        ControlRecorder(control),
    )
    store = CheckpointStore(unfinished, resume=resume)
    steps = _measure_and_fit(lesson, threads, at, store, recorder)
    try:
        return (yield from run_in_default_state(steps, threads))
    except (Refused, Failed):
        raise
    except OSError as error:
        raise Failed(make_save_refusal(at, error)) from error
    except Exception as error:
        if no := make_machine_refusal(error, SERIES_NAME):
            raise Failed(no) from error
        raise


def _measure_and_fit(
    lesson: JointTrainingPlan,
    threads: int,
    at: Path,
    store: CheckpointStore,
    recorder: ControlRecorder,
) -> Generator[Event, None, SharedNetwork | None]:
    """Measure the files, and fit their network."""
    crops = yield from _calibrate_files(lesson, recorder)
    if not crops:
        return None
    return (yield from _fit_networks(crops, threads, at, store, recorder))


def _calibrate_files(
    lesson: JointTrainingPlan, control: Callable[[], Control]
) -> Generator[Event, None, list[_CalibratedCrop]]:
    """Measure the files; those that ask for what most ask for, or none if it was ended."""
    crops = []
    for plan, member in zip(lesson.plans, lesson.members, strict=True):
        if control() in ENDING_CONTROLS:
            return []
        done = f"{member.part + 1} of {len(lesson.members)}"
        yield Event(message=f"Measuring the noise of '{plan.source.name}', {done}")
        try:
            plan = stamp_plan_files(plan)
            digest = compute_file_sha256(Path(str(plan.source.path)))
            prepared = yield from calibrate_image(
                plan, open_plan_inputs(plan), RunClock(plan, control, None)
            )
        except Refused:  # its own turn says why
            continue
        crops.append(
            _crop_file(
                prepared.plan, prepared.calibration, prepared.inputs["image"], member, digest
            )
        )
    kinds = Counter(item.network_requirements for item in crops)
    usual = kinds.most_common(1)[0][0] if kinds else ()
    alike = [item for item in crops if item.network_requirements == usual]
    if len(alike) < MIN_SIMILAR_FILES:
        facts = {"count": len(alike), "total": len(lesson.members)}
        raise Refused(refusal("series-unlike", **facts))
    return alike


def _crop_file(
    plan: Plan,
    calibration: Calibration,
    image: npt.NDArray[Any],
    member: Member,
    sha256: str,
) -> _CalibratedCrop:
    axes, coarse = plan.source.axes, calibration.half_resolution
    sides = dict(zip("YX", zip(member.origin, member.size, strict=True), strict=True))
    place = [slice(None)] * len(axes)
    for axis, (start, count) in sides.items():
        place[axes.index(axis)] = slice(start, start + count)
    parts = split_into_parts(image[tuple(place)], axes, plan.layout)
    if coarse is not None:
        half = [slice(start // 2, (start + count) // 2) for start, count in sides.values()]
        coarse = replace(coarse, stack=coarse.stack[:, :, *half].copy())
    return _CalibratedCrop(
        plan=plan,
        calibration=replace(calibration, half_resolution=coarse),
        stack=parts.copy(),
        member=member,
        sha256=sha256,
    )


def _fit_networks(
    crops: list[_CalibratedCrop],
    threads: int,
    at: Path,
    store: CheckpointStore,
    recorder: ControlRecorder,
) -> Generator[Event, None, SharedNetwork | None]:
    """Fit the networks of all channels and repeats, one after another, and keep them."""
    from napari_dip.pipeline.assess.merge import ResultMerger
    from napari_dip.pipeline.execute.unit_executor import UnitExecutor, drop_constant_channels

    members = tuple(item.member._replace(part=place) for place, item in enumerate(crops))
    parts = np.concatenate([item.stack for item in crops])
    plan, calibration = (
        _make_series_plan(crops, members, parts.shape, threads),
        _combine_calibrations(crops),
    )
    clock = RunClock(plan, recorder, None)
    merge = ResultMerger(plan, calibration, parts, parts)
    resume = gone_on(store, plan, parts, merge)
    learned = {outcome.series for outcome in merge.outcomes if outcome.role == JOINT}
    kept = {name: read_weights(_get_weights_path(store, name)) for name in sorted(learned)}
    weights: dict[str, Any] = {name: item for name, item in kept.items() if item is not None}
    merge.outcomes[:] = [outcome for outcome in merge.outcomes if outcome.series in weights]
    done = {outcome.unit for outcome in merge.outcomes}
    course = UnitExecutor(plan, calibration, parts, clock, merge, store)
    for number, unit in enumerate(plan.units, 1):
        fitted = drop_constant_channels(unit, calibration.constant_channels)
        if unit.id in done or not fitted.channels:
            continue
        point = resume if unit.id == store.unit else None
        ended = yield from course.fit_unit(fitted, number, point)
        if ended is not Control.GO or recorder.is_ended:
            store.write_if_possible()
            return None
        if course.weights is not None and unit.role == JOINT:
            weights[unit.series] = course.weights
            make_run_folder(store.results_folder)
            write_weights(_get_weights_path(store, unit.series), course.weights)
    _write_network_file(at, plan, crops, weights, merge)
    store.remove()
    return read_network(at)


def _make_series_plan(
    crops: list[_CalibratedCrop], members: tuple[Member, ...], shape: tuple[int, ...], threads: int
) -> Plan:
    """Plan the fit as that of a movie whose frames are the files."""
    first = crops[0].plan
    layout = Layout(parts="T", channels=first.layout.channels or "C", grid="YX")
    source = replace(
        first.source,
        name=SERIES_NAME,
        shape=shape,
        axes=layout.order,
        path=None,
        scale=None,
        units=None,
    )
    recipe = first.recipe.replace_run_settings(time_limit=None)  # which is that of one file
    units = make_training_units(first, members)
    grid = members[0].size
    how = units, first.device, threads, first.budget
    return replace(
        first,
        recipe=recipe,
        source=source,
        layout=layout,
        units=units,
        threads=threads,
        costs=estimate_costs(grid, *how, half=first.has_bfloat16),
        network=None,
    )


def _combine_calibrations(crops: list[_CalibratedCrop]) -> Calibration:
    """Put side by side what was measured of each; all hide as much as the one that hides most."""
    each = [item.calibration for item in crops]
    block = tuple(
        max(sides) for sides in zip(*(item.blind_spot_size for item in each), strict=True)
    )
    coarse = [
        item.half_resolution.blind_spot_size for item in each if item.half_resolution is not None
    ]
    half = tuple(max(sides) for sides in zip(*coarse, strict=True))
    alike = tuple(
        replace(
            item,
            blind_spot_size=block,
            half_resolution=None
            if item.half_resolution is None
            else replace(item.half_resolution, blind_spot_size=half),
        )
        for item in each
    )
    return replace(alike[0], half_resolution=None, part_calibrations=alike)


def _write_network_file(
    at: Path, plan: Plan, crops: list[_CalibratedCrop], weights: dict[str, Any], merge: ResultMerger
) -> None:
    """Write networks and what they come from, whole or not at all."""
    from napari_dip.version import __version__

    first, recipe = crops[0], plan.recipe
    files = [
        {
            "name": item.plan.source.name,
            "sha256": item.sha256,
            "shape": list(item.plan.source.shape),
            "axes": item.plan.source.axes,
        }
        for item in crops
    ]
    facts = {
        "schema": NETWORK_FILE_SCHEMA,
        "version": __version__,
        "task": recipe.task.name,
        "settings": recipe.task.to_dict(),
        "preset": recipe.run_settings.preset,
        "recipe": recipe.to_dict(),
        "repeats": plan.budget.restarts,
        "prior": plan.budget.prior,
        "widths": list(plan.budget.widths),
        "halved": first.calibration.half_resolution is not None,
        "groups": [
            list(channel) for channel in group_channels(first.plan.recipe, first.plan.source)
        ],
        "files": files,
        "outcomes": [asdict(outcome) for outcome in merge.outcomes],
        "device": plan.device,
        "threads": plan.threads,
    }
    tensors = {
        f"{series}/{name}": value.contiguous().cpu()
        for series, each in weights.items()
        for name, value in each.items()
    }
    write_tensors(at, tensors, {"network": facts})


def _get_weights_path(store: CheckpointStore, series: str) -> Path:
    return store.results_folder / f"{series}.weights"
