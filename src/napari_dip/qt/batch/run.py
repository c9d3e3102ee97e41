"""The plan of a batch, made from the headers of its files, and its work in the background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.events import Control, Event, map_generator
from napari_dip.qt.shell.job_controller import JobRequest
from napari_dip.qt.shell.worker import JobProgress
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch.records import MANIFEST_FILE
from napari_dip.scale.batch.table import FileRow, make_file_rows, update_file_row
from napari_dip.scale.batch_run import check_any_restorable, run_batch, summarise_batch_plan
from napari_dip.scale.cluster.dask_cluster import start_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan
    from napari_dip.scale.batch_run import BatchResult


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPreflight:
    """The plan of a batch, made from the headers of its files.

    Attributes
    ----------
    plan : BatchPlan
    rows : tuple of FileRow
    summary : str
        The plan in a sentence.
    processes : int
        Number of parallel processes; 1 for this process only.
    repeat : callable
        Reads all headers again.
    """

    plan: BatchPlan
    rows: tuple[FileRow, ...]
    summary: str
    processes: int
    repeat: Callable[[], BatchPreflight]

    @property
    def count_remaining(self) -> int:
        """Number of files to restore."""
        return sum(row.state == "ready" for row in self.rows)

    @property
    def has_begun(self) -> bool:
        """Whether the folder has an earlier batch, with or without results."""
        return (
            any(row.has_result for row in self.rows) or (self.plan.folder / MANIFEST_FILE).is_file()
        )

    def describe(self, message: str = "") -> str:
        """Return the summary, a message and the notes, each in a line."""
        return "\n".join(filter(None, [self.summary, message, *map(str, self.plan.notes)]))

    def make_request(self) -> JobRequest:
        """Return the request for the batch."""
        count = len(self.rows)
        return JobRequest(
            kind="batch",
            label=f"Batch of {count} file{'s' * (count != 1)}",
            work=partial(execute_batch, self),
            summary=self.describe(),
        )


def read_batch(
    recipe: Recipe, inputs: tuple[str, ...], folder: str, *, processes: int, **options: Any
) -> BatchPreflight:
    """Read the headers of a batch; raise `RefusedError` if the whole batch cannot be restored.

    Parameters
    ----------
    recipe : Recipe
    inputs : tuple of str
        Files, folders and patterns.
    folder : str
        The folder for the results; a batch in it is resumed.
    processes : int
        Number of parallel processes.
    options
        As for `plan_batch`.
    """
    plan = plan_batch(recipe, inputs, folder, resume=True, process_count=processes, **options)
    return BatchPreflight(
        plan=plan,
        rows=make_file_rows(plan),
        summary=summarise_batch_plan(plan, processes if processes > 1 else None),
        processes=processes,
        repeat=partial(read_batch, recipe, inputs, folder, processes=processes, **options),
    )


def execute_batch(
    preflight: BatchPreflight, pixels: Mapping[str, Any], control: Callable[[], Control]
) -> Generator[JobProgress, None, BatchResult]:
    """Run a batch with the same code as the command line, as the work of a `JobRequest`.

    Parameters
    ----------
    preflight : BatchPreflight
        The plan. Its headers are read again, because the batch may have waited for hours.
    pixels : mapping
        Empty: pixels are read file by file.
    control : callable
        Polled at every step. DISCARD acts as KEEP: the current file leaves a checkpoint.

    Raises
    ------
    RefusedError, FailedError
        As `napari_dip.batch`.
    """
    reading = Event(message="Reading the headers")
    yield JobProgress(event=reading)
    preflight = preflight.repeat()
    plan, rows = preflight.plan, list(preflight.rows)
    check_any_restorable(plan)
    yield JobProgress(event=reading, preflight=preflight)

    def report(item: BatchEvent) -> JobProgress:
        event = Event(message=item.progress.message, progress=item.progress)
        index = item.number - 1
        if index < 0:
            return JobProgress(event=event)
        rows[index] = update_file_row(rows[index], item)
        return JobProgress(event=event, rows={index: rows[index]})

    with start_workers(plan, preflight.processes if preflight.processes > 1 else 0) as workers:
        steps = run_batch(plan, control=partial(_keep_on_discard, control), pool=workers)
        return (yield from map_generator(steps, report))


def _keep_on_discard(control: Callable[[], Control]) -> Control:
    """Return the control, with KEEP for DISCARD: closing napari must not lose results."""
    requested = control()
    return Control.KEEP if requested is Control.DISCARD else requested
