"""Restore one file of a batch and write its record; any error becomes its outcome."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from napari_dip.errors import FailedError, Fault, Refusal, RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import make_printable
from napari_dip.io.header import make_plane_header
from napari_dip.io.lazy_images import MemoryMappedImage
from napari_dip.io.outputs import resolve_output_folder
from napari_dip.io.paths import make_folder, resolve_target, split_field_path
from napari_dip.io.reading import read_provenance
from napari_dip.io.writing import write_bytes
from napari_dip.pipeline.assess.report_fields import has_reported_pixels
from napari_dip.pipeline.assess.report_figures import (
    plot_overview,
    select_middle_plane,
    subsample_plane,
)
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import open_plan_inputs, stamp_files
from napari_dip.pipeline.machine import make_unexpected_fault
from napari_dip.pipeline.progress import FINISHED, Event
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.result_files import (
    choose_free_name,
    raise_if_mixed,
    rescue_result,
    save_image,
)
from napari_dip.pipeline.store.run_folder import RunFolder
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, ControlRecorder, FileOutcome
from napari_dip.scale.batch.records import (
    hash_inputs,
    read_result_record,
    read_verified_record,
    write_file_record,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Set
    from pathlib import Path

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import AnyArray
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.scale.batch.jobs import FileState, Job, ResultPaths
    from napari_dip.tasks.base import Task

#: Longer side, in pixels, from which on a plane is subsampled for its drawing.
_MAX_DRAWN_SIDE = 2048


def restore_file(
    job: Job, plan: Plan, *, resume: bool, poll_control: PollControl
) -> Generator[Event, None, FileOutcome]:
    """Restore one file and write its record, unless a valid record exists.

    Parameters
    ----------
    job : Job
    plan : Plan
        Plan of the job.
    resume : bool
        Whether to accept an earlier record, and to resume from a checkpoint.
    poll_control : callable
        Polled at every iteration.

    Yields
    ------
    Event

    Returns
    -------
    FileOutcome
        Also if the file is refused for its pixels or its run fails; neither is raised.
    """
    hashes: dict[str, str] = {}
    record_fault = partial(record_failure, job, plan, hashes)
    try:
        if resume:
            yield Event(message="Checking what was done before")
            record = read_verified_record(job, plan, partial(check_interrupt, poll_control))
            if record is not None:
                # left by a run killed at its end
                RunFolder(job.paths.run_folder, resume=False).remove()
                return _make_done_outcome(job, "already-done", record)
        return (yield from _restore_and_save(job, plan, hashes, resume, poll_control))
    except BatchInterruptedError:
        return FileOutcome(source=job.source, state="waiting")
    except RefusedError as error:
        return record_fault("refused", error.reason)
    except FailedError as error:
        log = traceback.format_exception(error) if error.reason.code == "save-unexpected" else ()
        return record_fault("failed", error.reason, "".join(log))
    except Exception as error:
        fault = make_unexpected_fault(error, plan.header.name)
        return record_fault("failed", fault, "".join(traceback.format_exception(error)))


def make_refused_outcome(job: Job, refusal: Refusal, task: Task) -> FileOutcome:
    """Return the outcome of a file that its header refuses; set an outdated result aside."""
    fault = _set_outdated_results_aside(job, task, {}, refusal)
    return FileOutcome(source=job.source, state="refused", fault=fault)


def _set_outdated_results_aside(
    job: Job, task: Task, hashes: Mapping[str, str], fault: Fault
) -> Fault:
    """Rename the earlier outputs of a file that changed since; return the fault with a note.

    An input that cannot be read may be the same as before, so its result stays.
    """
    record = read_result_record(job.paths)
    if record is None:
        return fault
    note = make_note("result-unverified", name=make_printable(job.paths.result.name))
    with suppress(RefusedError, OSError):
        hashes = hashes or hash_inputs(job.inputs)
        if hashes.items() <= record["inputs_sha256"].items():
            return fault
        outputs = [path for path in job.paths.list_outputs(task) if os.path.lexists(path)]
        renamed = [path.rename(choose_free_name(path, "changed")).name for path in outputs]
        note = make_note("result-outdated", name=make_printable(renamed[0]))
    return replace(fault, extra_advice=(*fault.extra_advice, note))


def _rename_modified_result(result: Path) -> Path | None:
    """Rename an earlier result that was modified since, and return its new path."""
    if os.path.lexists(result) and not _is_unmodified_result(result):
        with suppress(OSError):  # if it cannot be renamed, the run does not replace it either
            return result.rename(choose_free_name(result, "changed"))
    return None


def _is_unmodified_result(result: Path) -> bool:
    with suppress(Exception):  # an unreadable file counts as modified
        provenance = read_provenance(result) or {}
        return has_reported_pixels(result, provenance["report"])
    return False


def _resolve_folders(paths: ResultPaths) -> tuple[Path, ...]:
    return tuple(resolve_target(path.parent) for path in (paths.result, paths.record))


def _restore_and_save(
    job: Job, plan: Plan, hashes: dict[str, str], resume: bool, poll_control: PollControl
) -> Generator[Event, None, FileOutcome]:
    """Restore one file and save its outputs; add the hashes of the inputs to `hashes`."""
    paths = job.paths
    if split_field_path(job.source)[1]:
        make_folder(paths.result.parent, makes_parents=True)
    resolve_output_folder(paths.result.parent, 4 * prod(plan.result_shape))
    stamps = stamp_files(plan)
    folders = _resolve_folders(paths)
    outputs = paths.list_outputs(plan.recipe.task)
    # files that appear during the run are not replaced
    replaceable_paths = {path for path in outputs if os.path.lexists(path)}
    hashes.update(hash_inputs(job.inputs, partial(check_interrupt, poll_control)))
    inputs = open_plan_inputs(plan, stamps)
    recorder = ControlRecorder(poll_control)
    checkpoints = CheckpointStore(paths.run_folder, resume=resume, replaces_unusable=True)
    result = yield from run(
        plan, inputs, poll_control=recorder.poll_control, checkpoints=checkpoints, stamps=stamps
    )
    if recorder.is_ended or result is None:
        return FileOutcome(source=job.source, state="waiting", fault=checkpoints.failure)
    raise_if_mixed(paths.result, plan, result, checkpoints)
    yield Event(message="Saving the result", progress=FINISHED)
    is_replaceable = paths.result in replaceable_paths
    if is_replaceable and (renamed_path := _rename_modified_result(paths.result)):
        message = f"A changed result is kept as '{make_printable(renamed_path.name)}'"
        yield Event(message=message, progress=FINISHED)
    try:
        if _resolve_folders(paths) != folders:
            raise FailedError("output-moved", path=paths.result.parent)
        may_replace = is_replaceable and _is_unmodified_result(paths.result)
        save_image(paths.result, result.image, plan.header, plan.result_scale, result, may_replace)
    except Exception as failure:  # a full disk must not cost the result of a long run
        raise rescue_result(failure, paths.result, plan, result) from failure
    _save_extra_outputs(job, plan, inputs["image"], result, replaceable_paths)
    record = write_file_record(
        paths, plan.header, plan.recipe, hashes, report=result.report, results=outputs
    )
    checkpoints.remove()
    return _make_done_outcome(job, "restored", record)


def _make_done_outcome(job: Job, state: FileState, record: Mapping[str, Any]) -> FileOutcome:
    result, overview = job.paths.result, job.paths.overview
    return FileOutcome(
        source=job.source, state=state, result=result, overview=overview, record=record
    )


def _save_extra_outputs(
    job: Job,
    plan: Plan,
    image: AnyArray | MemoryMappedImage,
    result: Restoration,
    replaceable_paths: Set[Path],
) -> None:
    """Write what a task has learned, and a drawing of input and result."""
    header = plan.header
    for name in plan.recipe.task.spec.extra_outputs:
        path, learned_plane = job.paths.get_learned_path(name), result.learned_parameters[name]
        plane_header = make_plane_header(header, learned_plane.shape, plan.layout.grid_axes)
        is_replaceable = path in replaceable_paths
        save_image(path, learned_plane, plane_header, plane_header.scale, result, is_replaceable)
    pixels = image.make_memmap() if isinstance(image, MemoryMappedImage) else image
    input_plane, result_plane = (
        subsample_plane(select_middle_plane(each, header.axes), _MAX_DRAWN_SIDE)
        for each in (pixels, result.image)
    )
    overview = plot_overview(
        input_plane, result_plane, result.report["validation_loss"], result.best_iteration
    )
    write_bytes(job.paths.overview, overview, overwrite=True)


def record_failure(
    job: Job, plan: Plan, hashes: Mapping[str, str], state: FileState, fault: Fault, log: str = ""
) -> FileOutcome:
    """Write the record of a file without a result; ignore errors of the disk.

    Parameters
    ----------
    job : Job
    plan : Plan
    hashes : mapping of str to str
        Hashes of the inputs that were read.
    state : str
    fault : Fault
    log : str
        Traceback of an unexpected error.
    """
    record: Mapping[str, Any] = {}
    fault = _set_outdated_results_aside(job, plan.recipe.task, hashes, fault)
    with suppress(FailedError):
        record = write_file_record(
            job.paths, plan.header, plan.recipe, hashes, fault=fault, log=log
        )
    return FileOutcome(source=job.source, state=state, fault=fault, record=record)


class BatchInterruptedError(Exception):
    """Raised while a file is hashed, when the user ends the batch."""


def check_interrupt(poll_control: PollControl) -> None:
    """Raise `BatchInterruptedError` if the control ends the batch."""
    if poll_control() in ENDING_CONTROLS:
        raise BatchInterruptedError
