"""Many files by one recipe: each restored, refused or failed by itself, and none twice.

What a batch says of itself as a whole, before and after; the same at every door.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.errors import Failed, Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.outputs import OutputLock, remove_parts
from napari_dip.io.paths import make_folder_refusal
from napari_dip.io.writing import write_text
from napari_dip.pipeline.events import drain_generator, map_generator
from napari_dip.pipeline.machine import format_duration
from napari_dip.pipeline.recipe import OLD_INPUTS, OLD_SWITCHES, accept_old_names
from napari_dip.pipeline.store.shared_network import read_network_weights
from napari_dip.scale.batch.file import restore_file
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, BatchEvent, FileOutcome
from napari_dip.scale.batch.plan import list_remaining_plans
from napari_dip.scale.batch.records import (
    MANIFEST_FILE,
    NETWORK_FILE,
    PAGE_FILE,
    TABLE_FILE,
    find_records_folder,
    write_batch_manifest,
)
from napari_dip.scale.batch.series import fit_batch_network

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from napari_dip.pipeline.events import Event
    from napari_dip.scale.batch.jobs import BatchPlan, FileState, Job
    from napari_dip.scale.cluster.unit import WorkerPool


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of a batch.

    Attributes
    ----------
    folder : Path
    outcomes : tuple of FileOutcome
        One for each file, in the order of the inputs.
    table, page : Path
        The same as CSV, and as HTML with pictures.
    """

    folder: Path
    outcomes: tuple[FileOutcome, ...]
    table: Path
    page: Path

    def count(self, *states: FileState) -> int:
        """Count the files that came to one of these ends."""
        return sum(outcome.state in states for outcome in self.outcomes)


def batch(
    recipe: object,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    outdir: str | os.PathLike[str],
    resume: bool = False,
    *,
    progress: Callable[[BatchEvent], object] | None = None,
    axes: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    threads: int | None = None,
    joint_training: bool = False,
    **others: str | os.PathLike[str],
) -> BatchResult:
    """Run a recipe on many files; one that cannot be restored never stops the others.

    Parameters
    ----------
    recipe : Recipe, path of a recipe file, JSON text or the mapping it holds
    inputs : path, pattern, or several of them
        Files, folders (the images in them) and patterns such as ``data/*.tif``.
    outdir : path
        Folder of the results, named as their inputs; made if its own folder is there.
    resume : bool
        Go on: results whose records still hold stay. Without it nothing that exists is replaced.
    progress : callable, optional
        Called with each `BatchEvent`, in this thread.
    axes : str, optional
        Names of the axes of each file, as for `restore`. Default: as the files say.
    workers : int, optional
        Processes to start here that work side by side. In a script this call must then stand
        below ``if __name__ == "__main__":``, since each of them reads the script.
    scheduler : str, optional
        Address of a running dask scheduler, whose workers see the same files.
    threads : int, optional
        Most threads of a fit; last digits depend on them. Default: the cores, shared, or as begun.
    joint_training : bool
        Whether one network is fitted to up to 32 of the files first, and then shown each.
    **others : path
        Further inputs of the task by name, one file for all; ``network_file``: fitted before.

    Returns
    -------
    BatchResult

    Raises
    ------
    Refused
        If the batch as a whole cannot be done, or none of its files; nothing was computed.
    Failed
        If lists or tables cannot be written.
    """
    from napari_dip.scale.cluster.dask_cluster import plan_with_workers

    others = accept_old_names(others, {**OLD_INPUTS, **OLD_SWITCHES})
    joint_training = bool(others.pop("joint_training", joint_training))
    how: dict[str, Any] = {"resume": resume, "axes": axes, "joint_training": joint_training}
    how |= {"workers": workers, "scheduler": scheduler, "threads": threads, "others": others}
    with plan_with_workers(recipe, inputs, outdir, **how) as (plan, staff):
        check_any_restorable(plan)
        with staff() as crew:
            return drain_generator(run_batch(plan, crew=crew), progress)


def run_batch(
    plan: BatchPlan,
    *,
    control: Callable[[], Control] = lambda: Control.GO,
    crew: WorkerPool | None = None,
) -> Generator[BatchEvent, None, BatchResult]:
    """Do what was planned: file after file in the order of the inputs, or side by side.

    Parameters
    ----------
    plan : BatchPlan
    control : callable
        Polled at every step of every file. Once it says keep or discard, the file in progress
        leaves a checkpoint, and the tables are written for what is done.
    crew : WorkerPool, optional
        Workers to hand the files to.

    Yields
    ------
    BatchEvent

    Returns
    -------
    BatchResult

    Raises
    ------
    Failed
        If lists or tables cannot be written, or all workers are lost; what is done is kept.
    """
    if plan.network is not None and plan.network.sha256:
        read_network_weights(plan.network)  # damage is said once, before any work
    with _lock_batch_folder(plan):
        return (yield from _run_planned_files(plan, control, crew))


def _run_planned_files(
    plan: BatchPlan, control: Callable[[], Control], crew: WorkerPool | None
) -> Generator[BatchEvent, None, BatchResult]:
    """Do what was planned, in a folder that is this process's own."""
    from napari_dip.scale.batch.table import format_batch_csv, render_batch_page

    going_on = plan
    if plan.joint_training is not None:
        say = partial(_make_event, 0, len(plan.jobs), plan.folder / NETWORK_FILE)
        going_on = (
            yield from map_generator(fit_batch_network(plan, plan.joint_training, control), say)
        ) or plan
    if going_on.joint_training is not None:  # it was ended
        outcomes = yield from _restore_sequentially(plan, _return_keep)
    elif crew is None:
        outcomes = yield from _restore_sequentially(going_on, control)
    else:
        from napari_dip.scale.cluster.batch import restore_in_parallel

        outcomes = yield from restore_in_parallel(going_on, control, crew)
    result = BatchResult(
        folder=plan.folder,
        outcomes=outcomes,
        table=plan.folder / TABLE_FILE,
        page=plan.folder / PAGE_FILE,
    )
    write_text(result.table, format_batch_csv(result.outcomes), overwrite=True)
    write_text(result.page, render_batch_page(result.outcomes, plan.recipe), overwrite=True)
    for folder in (plan.folder, find_records_folder(plan.folder)):
        remove_parts(folder)
    if crew is not None and crew.connection_failure is not None:
        raise Failed(crew.connection_failure)
    return result


def check_any_restorable(plan: BatchPlan) -> None:
    """Raise `Refused` where no file of a plan can be restored."""
    if len(plan.list_refused) == len(plan.jobs):
        no = plan.list_refused[0][1]
        facts = {"count": len(plan.jobs), "sentence": no.sentence, "remedy": no.remedy}
        raise Refused(refusal("batch-refused", **facts))


def _make_event(
    number: int,
    count: int,
    source: Path,
    event: Event | None,
    outcome: FileOutcome | None = None,
) -> BatchEvent:
    return BatchEvent(number=number, count=count, source=source, event=event, outcome=outcome)


def _restore_sequentially(
    plan: BatchPlan, control: Callable[[], Control]
) -> Generator[BatchEvent, None, tuple[FileOutcome, ...]]:
    """Restore all files in this process."""
    outcomes = []
    for number, job in enumerate(plan.jobs, 1):
        say = partial(_make_event, number, len(plan.jobs), job.source)
        outcomes.append((yield from _restore_or_skip(plan, job, control, say)))
        yield say(None, outcomes[-1])
    return tuple(outcomes)


def _restore_or_skip(
    plan: BatchPlan,
    job: Job,
    control: Callable[[], Control],
    say: Callable[[Event], BatchEvent],
) -> Generator[BatchEvent, None, FileOutcome]:
    """Restore one file, unless it was refused or the batch is to end."""
    if isinstance(job.plan, Refusal):
        return FileOutcome(source=job.source, state="refused", refusal=job.plan)
    if control() in ENDING_CONTROLS:
        return FileOutcome(source=job.source, state="waiting")
    events = restore_file(job, job.plan, resume=plan.resume, control=control)
    return (yield from map_generator(events, say))


def _return_keep() -> Control:
    return Control.KEEP


@contextmanager
def _lock_batch_folder(plan: BatchPlan) -> Iterator[None]:
    """Make the folders, keep others out, and write down which files will be this batch's own."""
    try:
        plan.folder.mkdir(exist_ok=True)
        lock = OutputLock(plan.folder / MANIFEST_FILE)
    except OSError as error:
        raise Refused(make_folder_refusal(plan.folder, error)) from None
    with lock:
        _record_batch(plan)
        yield


def _record_batch(plan: BatchPlan) -> None:
    if not plan.resume and os.path.lexists(plan.folder / MANIFEST_FILE):  # another one was faster
        raise Refused(
            refusal("batch-exists", path=make_printable(str(plan.folder / MANIFEST_FILE)))
        )
    try:
        own = plan.network is not None and Path(plan.network.path) == plan.folder / NETWORK_FILE
        write_batch_manifest(
            plan.folder, plan.recipe, plan.files, plan.list_refused, plan.machine.cores, own
        )
        find_records_folder(plan.folder).mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(make_folder_refusal(plan.folder, error)) from None


def summarise_batch_plan(plan: BatchPlan, workers: int | None = None) -> str:
    """Say how many files will be restored, how many not, and how long that takes at most.

    Parameters
    ----------
    plan : BatchPlan
    workers : int or None
        Processes that work side by side; None: this one alone.
    """
    prepared = len(plan.jobs) - len(plan.list_refused)
    plans = list_remaining_plans(plan)
    parts = [f"{len(plan.jobs)} file{'s' * (len(plan.jobs) != 1)}"]
    if prepared > len(plans):
        parts.append(f"{prepared - len(plans)} done before")
    if plan.list_refused:
        parts.append(f"{len(plan.list_refused)} refused")
    by = "" if workers is None else f" by {workers} worker{'s' * (workers > 1)}"
    seconds = sum(item.seconds for item in plans) / max(1, min(workers or 1, len(plans)))
    if plans and plan.joint_training is not None:
        seconds += plan.joint_training.seconds
    time = f": up to {format_duration(seconds)}" if plans else ""
    return f"{', '.join(parts)}, {len(plans)} to restore{by}{time}."


def summarise_batch_result(result: BatchResult) -> str:
    """Say what became of the files."""
    parts = {
        "restored": result.count("restored"),
        "done before": result.count("kept"),
        "refused": result.count("refused"),
        "failed": result.count("failed"),
        "left": result.count("waiting"),
    }
    counts = ", ".join(f"{count} {text}" for text, count in parts.items() if count)
    files = f"{len(result.outcomes)} file{'s' * (len(result.outcomes) != 1)}"
    return f"Of {files}: {counts}."
