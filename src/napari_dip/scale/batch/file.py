"""One file of a batch, from its pixels to its receipt; whatever goes wrong becomes its outcome."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Failed, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.header import make_plane_spec
from napari_dip.io.outputs import check_folder
from napari_dip.io.paths import describe_exception, resolve_target
from napari_dip.io.reading import read_provenance
from napari_dip.io.regions import MemoryMappedImage
from napari_dip.io.writing import write_bytes
from napari_dip.pipeline.assess.report_figures import draw_overview, select_middle_plane
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.execute.tile_calibration import open_plan_inputs
from napari_dip.pipeline.lazy_inputs import stamp_plan_files
from napari_dip.pipeline.machine import is_memory_error
from napari_dip.pipeline.reproduce.report_lookup import has_reported_pixels
from napari_dip.pipeline.store.checkpoints import CHECKPOINT_FAULTS, CheckpointStore
from napari_dip.pipeline.store.results import choose_free_name, rescue_result, save_picture
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, ControlRecorder, FileOutcome
from napari_dip.scale.batch.records import hash_inputs, read_verified_record, write_file_record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from napari_dip.engine.control import Control
    from napari_dip.errors import Refusal
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import FileState, Job, ResultPaths

#: Pixels along the longer side of a plane from which on not all of it is looked at to draw it.
_MAX_DRAWN_SIDE = 2048


def restore_file(
    job: Job, plan: Plan, *, resume: bool, control: Callable[[], Control]
) -> Generator[Event, None, FileOutcome]:
    """Restore one file and write its receipt, unless it has one that holds.

    Parameters
    ----------
    job : Job
    plan : Plan
        The job's own.
    resume : bool
        Whether to look for a receipt, and for a checkpoint to go on from.
    control : callable
        Polled at every step.

    Yields
    ------
    Event

    Returns
    -------
    FileOutcome
        Also where the file is refused for its pixels or its run fails; nothing is raised for that.
    """
    at, source = job.paths, plan.source
    if resume:
        yield Event(message="Checking what was done before")
        try:
            kept = read_verified_record(job, plan, partial(check_interrupt, control))
        except BatchInterrupt:
            return FileOutcome(source=job.source, state="waiting")
        if kept is not None:
            CheckpointStore(at.checkpoint, resume=False).remove()  # killed right after the receipt
            return FileOutcome(
                source=job.source, state="kept", result=at.result, picture=at.picture, record=kept
            )
    hashes: dict[str, str] = {}
    state: FileState = "failed"
    log = ""
    try:
        return (yield from _restore_and_save(job, plan, hashes, resume, control))
    except BatchInterrupt:
        return FileOutcome(source=job.source, state="waiting")
    except Refused as error:
        state, no = "refused", error.refusal
    except Failed as error:
        no = error.refusal
        if no.code == "save-unexpected":
            log = "".join(traceback.format_exception(error))
    except Exception as error:
        no = _make_unexpected_refusal(error, source.name)
        log = "".join(traceback.format_exception(error))
    return record_failure(job, plan, hashes, state, no, log)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OutputSnapshot:
    """What was there when a file was begun: nothing that came since is replaced or followed.

    Attributes
    ----------
    folders : tuple of Path
        Where the folders of result and receipt lie, all links followed.
    files : frozenset of Path
        Files that may be replaced.
    """

    folders: tuple[Path, ...]
    files: frozenset[Path]

    @classmethod
    def take(cls, job: Job, plan: Plan) -> _OutputSnapshot:
        """Look at the places of a file."""
        at = job.paths
        places = (at.result, *(at.get_learned_path(name) for name in plan.recipe.task.gives))
        return cls(
            folders=_resolve_folders(at),
            files=frozenset(place for place in places if os.path.lexists(place)),
        )

    def check(self, at: ResultPaths) -> None:
        """Raise `Failed` if the folders lead elsewhere by now."""
        if _resolve_folders(at) != self.folders:
            raise Failed(refusal("output-moved", path=make_printable(str(at.result.parent))))


def _set_aside(result: Path) -> Path | None:
    """Rename an earlier result that is not as it was written: somebody may have worked on it."""
    if not os.path.lexists(result) or _is_unmodified_result(result):
        return None
    aside = choose_free_name(result, "changed")
    with suppress(OSError):  # what cannot be moved is not replaced either
        os.rename(result, aside)
        return aside
    return None


def _is_unmodified_result(result: Path) -> bool:
    with suppress(Exception):  # whoever wrote it: what cannot be read is not proven
        facts = read_provenance(result) or {}
        return has_reported_pixels(result, facts["report"])
    return False


def _resolve_folders(at: ResultPaths) -> tuple[Path, ...]:
    return tuple(resolve_target(item.parent) for item in (at.result, at.record))


def _restore_and_save(
    job: Job,
    plan: Plan,
    hashes: dict[str, str],
    resume: bool,
    control: Callable[[], Control],
) -> Generator[Event, None, FileOutcome]:
    """Do the work; `hashes` are filled in as soon as they are known."""
    at = job.paths
    check_folder(at.result.parent, 4 * prod(plan.result_shape))
    plan = stamp_plan_files(plan)
    before = _OutputSnapshot.take(job, plan)
    hashes.update(hash_inputs(job.inputs, partial(check_interrupt, control)))
    data = open_plan_inputs(plan)
    recorder = ControlRecorder(control)
    store = CheckpointStore(at.checkpoint, resume=resume)
    try:
        result = yield from run(plan, data, control=recorder, store=store)
    except Refused as error:
        if error.refusal.code not in CHECKPOINT_FAULTS:
            raise
        store = CheckpointStore(at.checkpoint, resume=False)
        result = yield from run(plan, data, control=recorder, store=store)
    if recorder.is_ended or result is None:
        return FileOutcome(source=job.source, state="waiting", refusal=store.failure)
    yield Event(message="Saving the result", fraction=1.0)
    if at.result in before.files and (aside := _set_aside(at.result)) is not None:
        yield Event(
            message=f"A changed result is kept as '{make_printable(aside.name)}'", fraction=1.0
        )
    results = _save_results(job, plan, data["image"], result, before)
    receipt = write_file_record(
        at, plan.source, plan.recipe, hashes, report=result.report, results=results
    )
    store.remove()
    return FileOutcome(
        source=job.source, state="restored", result=at.result, picture=at.picture, record=receipt
    )


def _save_results(
    job: Job,
    plan: Plan,
    image: npt.NDArray[Any] | MemoryMappedImage,
    result: Restoration,
    before: _OutputSnapshot,
) -> list[Path]:
    """Write the result, what was learned beside it, and a drawing; give back the first two."""
    at, source = job.paths, plan.source
    try:
        before.check(at)
        again = at.result in before.files and _is_unmodified_result(at.result)
        save_picture(at.result, result.image, source, plan.result_scale, result, again)
    except Exception as failure:  # a night's work must not end with a full disk
        raise rescue_result(failure, at.result, plan, result) from failure
    results = [at.result]
    for name in plan.recipe.task.gives:
        detected = result.learned[name]
        spec = make_plane_spec(source, detected.shape)
        again = at.get_learned_path(name) in before.files
        save_picture(at.get_learned_path(name), detected, spec, spec.scale, result, again)
        results.append(at.get_learned_path(name))
    pictures = (
        item.mapped() if isinstance(item, MemoryMappedImage) else item
        for item in (image, result.image)
    )
    left, right = (
        _subsample_plane(select_middle_plane(picture, source.axes)) for picture in pictures
    )
    drawn = draw_overview(left, right, result.report["validation_loss"], result.best_iteration)
    write_bytes(at.picture, drawn, overwrite=True)
    return results


def _subsample_plane(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Leave pixels out of a plane too large to be drawn from whole."""
    step = max(1, max(plane.shape[:2]) // _MAX_DRAWN_SIDE)
    return plane[::step, ::step]


def record_failure(
    job: Job, plan: Plan, hashes: Mapping[str, str], state: FileState, no: Refusal, log: str = ""
) -> FileOutcome:
    """Write down why there is no result; a disk that does not even take that stops nothing.

    Parameters
    ----------
    job : Job
    plan : Plan
    hashes : mapping of str to str
        Of the files that were read.
    state : str
    no : Refusal
    log : str
        For a report, where nobody foresaw it.
    """
    receipt: Mapping[str, Any] = {}
    with suppress(Failed):
        receipt = write_file_record(job.paths, plan.source, plan.recipe, hashes, no=no, log=log)
    return FileOutcome(source=job.source, state=state, refusal=no, record=receipt)


def _make_unexpected_refusal(error: Exception, name: str) -> Refusal:
    if is_memory_error(error):
        return refusal("memory-out", name=name)
    return refusal("unexpected", why=describe_exception(error))


class BatchInterrupt(Exception):
    """The batch is to end, said while a file was hashed."""


def check_interrupt(control: Callable[[], Control]) -> None:
    """Raise `BatchInterrupt` if a control says that the batch is to end."""
    if control() in ENDING_CONTROLS:
        raise BatchInterrupt
