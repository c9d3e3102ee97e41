"""Run a batch: one recipe on many files, each restored, refused or failed on its own.

The module also summarises a batch in one sentence, before and after, for all interfaces.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError, Refusal, RefusedError
from napari_dip.errors.templates import format_duration
from napari_dip.io.outputs import OutputLock, remove_stale_temporary_files
from napari_dip.io.paths import make_folder, make_result_name, split_field_path
from napari_dip.io.writing import write_plate, write_text
from napari_dip.pipeline.interactive_run import UserControl
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.pipeline.progress import (
    PausableClock,
    ProgressTracker,
    drain_generator,
    map_generator,
)
from napari_dip.pipeline.recipe import OLD_INPUTS, OLD_SWITCHES, accept_old_names
from napari_dip.pipeline.store.network_files import read_network_weights
from napari_dip.scale.batch.jobs import ENDING_CONTROLS, BatchEvent, FileOutcome
from napari_dip.scale.batch.plan import find_remaining_plans, fit_batch_network
from napari_dip.scale.batch.records import (
    MANIFEST_FILE,
    NETWORK_FILE,
    PAGE_FILE,
    TABLE_FILE,
    find_records_folder,
    make_result_paths,
    read_result_record,
    write_batch_manifest,
)
from napari_dip.scale.batch.restore_file import make_refused_outcome, restore_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.public_types import Answer, AxisLetters, FilePath, InputKeywords
    from napari_dip.scale.batch.jobs import BatchPlan, FileState, Job
    from napari_dip.scale.cluster.pool import DaskWorkerPool

#: Seconds for hashing a file, saving its result and plotting it, measured on 128 x 128 pixels.
FILE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """The outcome of a batch.

    Attributes
    ----------
    folder : Path
    outcomes : tuple of FileOutcome
        One for each file, in the order of the inputs; then the results of earlier calls whose files
        are not among the inputs.
    table, page : Path
        The outcomes as CSV, and as HTML with images.
    """

    folder: Path
    outcomes: tuple[FileOutcome, ...]
    table: Path
    page: Path

    def count(self, *states: FileState) -> int:
        """Count the files in any of these states."""
        return sum(outcome.state in states for outcome in self.outcomes)

    def __repr__(self) -> str:
        """Return one line: the number of files in each state, and the folder."""
        states = Counter(outcome.state for outcome in self.outcomes)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        return f"<BatchResult: {counts}, in '{self.folder}'>"


def batch(
    recipe: Recipe | FilePath | Mapping[str, Any],
    inputs: FilePath | Iterable[FilePath],
    output_folder: FilePath,
    *,
    resume: bool = False,
    progress: Callable[[BatchEvent], Answer] | None = None,
    axes: AxisLetters | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    threads: int | None = None,
    joint_training: bool = False,
    **extra_paths: Unpack[InputKeywords[FilePath]],
) -> BatchResult:
    """Run a recipe on many files; a file that fails never stops the others.

    Parameters
    ----------
    recipe : Recipe, path of a recipe file, JSON text or the mapping it holds
    inputs : path, pattern, or several of them
        Files, folders (the images in them) and patterns such as ``data/*.tif``.
    output_folder : path
        Folder of the results, which are named as their inputs. Created if its parent exists.
    resume : bool
        Keep results whose records are still valid. Without it, no existing file is replaced.
    progress : callable, optional
        Called with each `BatchEvent`, in the calling thread. It may return what to do, as for
        `napari_dip.denoise`. "keep" and "discard" end the batch, which ``resume`` completes.
    axes : str, optional
        Axes of each file, as for `restore`. Default: those in the files.
    workers : int, optional
        Number of worker processes to start. A script must then make this call below
        ``if __name__ == "__main__":``, since each worker imports the script.
    scheduler : str, optional
        Address of a running dask scheduler whose workers can access the same files.
    threads : int, optional
        Maximum threads of a fit; the last digits of the pixels depend on it. Default: as in the
        recipe or the resumed batch, else an equal share of the cores.
    joint_training : bool
        Whether to fit one network to up to 32 of the files first, and apply it to each.
    **extra_paths : path
        Extra inputs of the task by name, one file for all. ``network_file`` is a network that
        was fitted before.

    Returns
    -------
    BatchResult

    Raises
    ------
    RefusedError
        If the batch as a whole, or every file of it, is refused; nothing was computed.
    FailedError
        If lists or tables cannot be written.

    Examples
    --------
    >>> recipe = dip.make_recipe("denoise", preset="fast", max_iterations=10)
    >>> done = dip.batch(recipe, "data/*.tif", "restored")
    >>> done.count("restored")
    2
    """
    from napari_dip.scale.cluster.dask_cluster import plan_with_workers

    paths = accept_old_names(extra_paths, {**OLD_INPUTS, **OLD_SWITCHES})
    joint_training = bool(paths.pop("joint_training", joint_training))
    options: dict[str, Any] = {"resume": resume, "axes": axes, "joint_training": joint_training}
    options |= {"workers": workers, "scheduler": scheduler, "threads": threads}
    options["extra_paths"] = paths
    with plan_with_workers(recipe, inputs, output_folder, **options) as (plan, start_pool):
        check_any_restorable(plan)
        with start_pool() as pool:
            control = UserControl(progress)
            steps = run_batch(plan, poll_control=control.poll, pool=pool)
            return drain_generator(steps, control.show)


def run_batch(
    plan: BatchPlan,
    *,
    poll_control: PollControl = lambda: Control.GO,
    pool: DaskWorkerPool | None = None,
) -> Generator[BatchEvent, None, BatchResult]:
    """Run a planned batch: file after file in the order of the inputs, or in parallel.

    Parameters
    ----------
    plan : BatchPlan
    poll_control : callable
        Polled at every iteration of every file. Once it returns keep or discard, the current file
        leaves a checkpoint, and the tables are written for the finished files.
    pool : DaskWorkerPool, optional
        Workers that restore the files.

    Yields
    ------
    BatchEvent

    Returns
    -------
    BatchResult

    Raises
    ------
    FailedError
        If lists or tables cannot be written, or all workers are lost; finished results stay.
    """
    if plan.network is not None and plan.network.sha256:
        read_network_weights(plan.network)  # report damage once, before any work
    clock = PausableClock(poll_control)
    tracker = BatchTracker(plan, clock, pool)
    with _lock_batch_folder(plan):
        steps = _run_planned_files(plan, clock, pool)
        return (yield from map_generator(steps, tracker.add_progress))


class BatchTracker:
    """Track the files of a batch, and add the progress of all of them to each report.

    Parameters
    ----------
    plan : BatchPlan
    clock : PausableClock
    pool : DaskWorkerPool or None
        Workers that restore the files; None: this process alone.
    """

    def __init__(self, plan: BatchPlan, clock: PausableClock, pool: DaskWorkerPool | None) -> None:
        self._clock, self._pool, self._file_count = clock, pool, len(plan.jobs)
        # deviations of many files average out; those in progress have their own margin
        self._tracker = ProgressTracker(margin=1.0)
        # each worker loads torch once
        process_count = 1 if pool is None else max(1, pool.worker_count)
        self._steps = {
            number: self._tracker.add_step(
                "file",
                file_plan.seconds - (index >= process_count) * START_SECONDS + FILE_SECONDS,
                stage=1,
            )
            for index, (number, file_plan) in enumerate(find_remaining_plans(plan).items())
        }
        if plan.joint_training is not None:
            seconds = plan.joint_training.seconds
            self._steps[0] = self._tracker.add_step("joint training", seconds)
        self._finished_files: set[int] = set()

    def add_progress(self, batch_event: BatchEvent) -> BatchEvent:
        """Process a report, and return it with the progress of the whole batch."""
        now, outcome, number = self._clock.seconds, batch_event.outcome, batch_event.number
        step = self._steps.get(number)
        if outcome is not None and outcome.state != "waiting":
            self._finished_files.add(number)
        if number and 0 in self._steps and not self._steps[0].is_finished:
            self._steps[0].finish(now)
        if step is not None and batch_event.event is not None:
            step.report_progress(now, batch_event.event.progress)
        elif step is not None and outcome is not None:
            step.finish(now if outcome.state == "restored" else None)
        self._tracker.worker_count = 1 if self._pool is None else self._pool.worker_count
        files = f"{len(self._finished_files)} of {self._file_count} files"
        progress = self._tracker.compute_progress(now, files if number else "Joint training")
        return replace(batch_event, progress=progress)


def _run_planned_files(
    plan: BatchPlan, clock: PausableClock, pool: DaskWorkerPool | None
) -> Generator[BatchEvent, None, BatchResult]:
    """Run a planned batch in a folder that this process has locked."""
    from napari_dip.scale.batch.table import format_batch_csv, render_batch_page

    is_fitted = True
    if plan.joint_training is not None:
        count, source = len(plan.jobs), plan.folder / NETWORK_FILE
        steps = fit_batch_network(plan, plan.joint_training, clock.poll_control)
        is_fitted = yield from map_generator(
            steps, lambda event: BatchEvent(number=0, count=count, source=source, event=event)
        )
    if not is_fitted:  # the user ended the joint training
        outcomes = yield from _restore_sequentially(plan, lambda: Control.KEEP)
    elif pool is None:
        outcomes = yield from _restore_sequentially(plan, clock.poll_control)
    else:
        from napari_dip.scale.cluster.dispatcher import restore_in_parallel

        outcomes = yield from restore_in_parallel(plan, clock, pool)
    result = BatchResult(
        folder=plan.folder,
        outcomes=(*outcomes, *_list_unnamed_outcomes(plan)),
        table=plan.folder / TABLE_FILE,
        page=plan.folder / PAGE_FILE,
    )
    write_text(result.table, format_batch_csv(result.outcomes), overwrite=True)
    write_text(result.page, render_batch_page(result.outcomes, plan.recipe), overwrite=True)
    _write_plates(plan, outcomes)
    folders = {job.paths.result.parent for job in plan.jobs}
    for folder in (plan.folder, find_records_folder(plan.folder), *folders):
        remove_stale_temporary_files(folder)
    if pool is not None and pool.connection_failure is not None:
        raise FailedError(pool.connection_failure)
    return result


def _list_unnamed_outcomes(plan: BatchPlan) -> Iterator[FileOutcome]:
    """List the results of earlier calls whose files are not among the inputs of this one."""
    names = {make_result_name(job.source) for job in plan.jobs}
    for name, path in plan.files.items():
        source = Path(os.path.normpath(plan.folder / path))
        paths = make_result_paths(plan.folder, name)
        is_unnamed = name not in names and name == make_result_name(source)
        if is_unnamed and (record := read_result_record(paths)):
            outcome = FileOutcome(source=source, state="not-named", record=record)
            yield replace(outcome, result=paths.result, overview=paths.overview)


def _write_plates(plan: BatchPlan, outcomes: Iterable[FileOutcome]) -> None:
    """Make plates of the restored fields of plates."""
    plates: dict[Path, set[str]] = {}
    for outcome in outcomes:
        plate, field = split_field_path(outcome.source)
        if field and outcome.result is not None:
            plates.setdefault(plate, set()).add(field)
    for plate, fields in plates.items():
        write_plate(plan.folder / plate.name, plate, fields)


def check_any_restorable(plan: BatchPlan) -> None:
    """Raise `RefusedError` if every file of a plan is refused."""
    if len(plan.refused_files) == len(plan.jobs):
        refusal = plan.refused_files[0][1]
        facts = {"count": len(plan.jobs), "sentence": refusal.sentence, "remedy": refusal.remedy}
        raise RefusedError("batch-refused", **facts)


def _restore_sequentially(
    plan: BatchPlan, poll_control: PollControl
) -> Generator[BatchEvent, None, tuple[FileOutcome, ...]]:
    """Restore all files in this process."""
    outcomes = []
    for number, job in enumerate(plan.jobs, 1):
        outcomes.append((yield from _restore_or_skip(plan, job, number, poll_control)))
    return tuple(outcomes)


def _restore_or_skip(
    plan: BatchPlan, job: Job, number: int, poll_control: PollControl
) -> Generator[BatchEvent, None, FileOutcome]:
    """Restore one file, unless it is refused or the batch is ending."""
    make_event = partial(BatchEvent, number=number, count=len(plan.jobs), source=job.source)
    outcome = FileOutcome(source=job.source, state="waiting")
    if isinstance(job.plan, Refusal):
        outcome = make_refused_outcome(job, job.plan, plan.recipe.task)
    elif poll_control() not in ENDING_CONTROLS:
        steps = restore_file(job, job.plan, resume=plan.resume, poll_control=poll_control)
        outcome = yield from map_generator(steps, lambda event: make_event(event=event))
    yield make_event(outcome=outcome)
    return outcome


@contextmanager
def _lock_batch_folder(plan: BatchPlan) -> Iterator[None]:
    """Create the folder of the results, lock it, and write the manifest."""
    make_folder(plan.folder)
    manifest = plan.folder / MANIFEST_FILE
    with OutputLock(manifest):
        if not plan.resume and os.path.lexists(manifest):  # another run was faster
            raise RefusedError("batch-exists", path=manifest)
        write_batch_manifest(plan)
        make_folder(find_records_folder(plan.folder))
        yield


def summarise_batch_plan(
    plan: BatchPlan, workers: int | None = None, refused_sources: Collection[Path] = ()
) -> str:
    """Summarise a plan: number of files to restore, finished and refused, and maximum time.

    Parameters
    ----------
    plan : BatchPlan
    workers : int or None
        Number of worker processes; None: this process alone.
    refused_sources : collection of Path
        Files whose pixels were refused, in addition to those whose headers are.
    """
    refused = {source for source, _ in plan.refused_files}.union(refused_sources)
    restorable_count = len(plan.jobs) - len(refused)
    remaining = find_remaining_plans(plan).items()
    plans = [each for number, each in remaining if plan.jobs[number - 1].source not in refused]
    clauses = [f"{len(plan.jobs)} file{'s' * (len(plan.jobs) != 1)}"]
    if restorable_count > len(plans):
        clauses.append(f"{restorable_count - len(plans)} done")
    if refused:
        clauses.append(f"{len(refused)} refused")
    worker_text = "" if workers is None else f" by {workers} worker{'s' * (workers > 1)}"
    parallel_count = max(1, min(workers or 1, len(plans)))
    seconds = sum(remaining_plan.seconds for remaining_plan in plans) / parallel_count
    if plans and plan.joint_training is not None:
        seconds += plan.joint_training.seconds
    duration = f": up to {format_duration(seconds)}" if plans else ""
    return f"{', '.join(clauses)}, {len(plans)} to restore{worker_text}{duration}."


def summarise_batch_result(result: BatchResult) -> str:
    """Summarise the outcomes of a batch in one sentence."""
    count_by_label = {
        "restored": result.count("restored"),
        "done before": result.count("already-done"),
        "done before and not named now": result.count("not-named"),
        "refused": result.count("refused"),
        "failed": result.count("failed"),
        "left": result.count("waiting"),
    }
    counts = ", ".join(f"{count} {label}" for label, count in count_by_label.items() if count)
    files = f"{len(result.outcomes)} file{'s' * (len(result.outcomes) != 1)}"
    return f"Of {files}: {counts}."
