"""The background run of a batch: its request, the reading of headers, and its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.events import Control, Event, map_generator
from napari_dip.qt.shell.worker import ProgressQueue
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch.records import MANIFEST_FILE
from napari_dip.scale.batch.table import FileRow, make_file_rows, update_file_row
from napari_dip.scale.batch_run import check_any_restorable, run_batch, summarise_batch_plan
from napari_dip.scale.cluster.dask_cluster import start_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan
    from napari_dip.scale.batch_run import BatchResult


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """A request for a batch.

    Attributes
    ----------
    recipe : Recipe
    inputs : tuple of str
        Files, folders and patterns.
    folder : str
        The folder for the results.
    machine : Machine
    extra_inputs : mapping of str to str
        Paths of the extra inputs by name, one file for the whole batch.
    axes : str or None
        The axes of each file; None for those of its header.
    processes : int
        Number of parallel processes; 1 for this process only.
    joint_training : bool
        Whether one network is first fitted to many of the files.
    """

    recipe: Recipe
    inputs: tuple[str, ...]
    folder: str
    machine: Machine
    extra_inputs: Mapping[str, str] = field(default_factory=dict)
    axes: str | None = None
    processes: int = 1
    joint_training: bool = False

    def read(self) -> BatchPreflight:
        """Read all headers; raise `RefusedError` if the whole batch cannot be restored."""
        plan = plan_batch(
            self.recipe,
            self.inputs,
            self.folder,
            resume=True,  # has no effect without a batch in that folder
            axes=self.axes,
            extra_paths=self.extra_inputs,
            machine=self.machine,
            sharing=self.processes,
            joint_training=self.joint_training,
        )
        rows = make_file_rows(plan)
        workers = self.processes if self.processes > 1 else None
        return BatchPreflight(
            request=self, plan=plan, rows=rows, summary=summarise_batch_plan(plan, workers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPreflight:
    """The plan of a batch, made from the headers of its files.

    Attributes
    ----------
    request : BatchRequest
    plan : BatchPlan
    rows : tuple of FileRow
    summary : str
        The plan in a sentence.
    """

    request: BatchRequest
    plan: BatchPlan
    rows: tuple[FileRow, ...]
    summary: str

    @property
    def label(self) -> str:
        """Name of the batch in the queue."""
        count = len(self.rows)
        return f"Batch of {count} file{'s' * (count != 1)}"

    @property
    def count_remaining(self) -> int:
        """Number of files to restore."""
        return sum(row.state == "ready" for row in self.rows)

    @property
    def has_begun(self) -> bool:
        """Whether the folder has an earlier batch, with or without results."""
        return (
            any(row.has_result for row in self.rows)
            or Path(self.request.folder, MANIFEST_FILE).is_file()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchUpdate:
    """A report on the whole batch, and on a file or the headers."""

    batch_event: Event
    file_event: BatchEvent | None = None
    preflight: BatchPreflight | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchProgress:
    """The progress of a batch since the last update of the dock.

    Attributes
    ----------
    event : Event
        The progress of all files together.
    preflight : BatchPreflight or None
        The plan, if the headers were read again.
    rows : mapping of int to FileRow
        The changed rows, by their index in the table.
    """

    event: Event
    preflight: BatchPreflight | None
    rows: Mapping[int, FileRow]


class BatchProgressQueue(ProgressQueue[BatchUpdate, BatchProgress]):
    """Merges the reports of a batch: keeps the latest row of each file."""

    def __init__(self) -> None:
        super().__init__()
        self._event: Event | None = None
        self._preflight: BatchPreflight | None = None
        self._rows: dict[int, FileRow] = {}
        self._changed_rows: set[int] = set()

    def _put(self, report: BatchUpdate) -> None:
        self._event = report.batch_event
        if report.preflight is not None:
            self._preflight = report.preflight
            self._rows, self._changed_rows = dict(enumerate(report.preflight.rows)), set()
        if (file_event := report.file_event) is not None and file_event.number:
            index = file_event.number - 1
            self._rows[index] = update_file_row(self._rows[index], file_event)
            self._changed_rows.add(index)

    def _drain(self) -> BatchProgress | None:
        event, preflight, changed_rows = self._event, self._preflight, self._changed_rows
        self._event, self._preflight, self._changed_rows = None, None, set()
        rows = {index: self._rows[index] for index in changed_rows}
        return None if event is None else BatchProgress(event=event, preflight=preflight, rows=rows)


def execute_batch(
    preflight: BatchPreflight,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control],
    preview_seconds: float,
) -> Generator[BatchUpdate, None, BatchResult]:
    """Run a batch with the same code as the command line.

    Parameters
    ----------
    preflight : BatchPreflight
        The plan. Its headers are read again, because the batch may have waited for hours.
    data : mapping
        Not used: pixels are read file by file.
    control : callable
        Polled at every step. DISCARD acts as KEEP: the current file leaves a checkpoint.
    preview_seconds : float
        Not used.

    Raises
    ------
    RefusedError, FailedError
        As `napari_dip.batch`.
    """
    request = preflight.request
    yield BatchUpdate(batch_event=Event(message="Reading the headers"))
    preflight = request.read()
    check_any_restorable(preflight.plan)
    yield BatchUpdate(batch_event=Event(message="Reading the headers"), preflight=preflight)
    with start_workers(
        preflight.plan, request.processes if request.processes > 1 else 0
    ) as workers:
        steps = run_batch(preflight.plan, control=partial(_keep_on_discard, control), pool=workers)
        return (
            yield from map_generator(
                steps,
                lambda item: BatchUpdate(
                    batch_event=Event(message=item.progress.message, progress=item.progress),
                    file_event=item,
                ),
            )
        )


def _keep_on_discard(control: Callable[[], Control]) -> Control:
    """Return the control, with KEEP for DISCARD: closing napari must not lose results."""
    requested = control()
    return Control.KEEP if requested is Control.DISCARD else requested
