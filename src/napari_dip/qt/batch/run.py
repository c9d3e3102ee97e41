"""A batch for threads of their own: its headers first, then its files; what is wished and told."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.events import Control, Event, map_generator
from napari_dip.qt.shell.worker import ProgressQueue
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch.records import MANIFEST_FILE
from napari_dip.scale.batch.table import (
    BatchProgressEstimator,
    FileRow,
    make_file_rows,
    update_file_row,
)
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
    """What a batch is asked for.

    Attributes
    ----------
    recipe : Recipe
    inputs : tuple of str
        Files, folders, patterns.
    folder : str
        Where the results go.
    machine : Machine
    others : mapping of str to str
        Paths of further inputs, one file for all.
    axes : str or None
        Names of the axes of each file, if not those that it says.
    processes : int
        That work side by side; 1: this one.
    joint_training : bool
        Whether one network is fitted to many of the files first.
    """

    recipe: Recipe
    inputs: tuple[str, ...]
    folder: str
    machine: Machine
    others: Mapping[str, str] = field(default_factory=dict)
    axes: str | None = None
    processes: int = 1
    joint_training: bool = False

    def read(self) -> BatchPreflight:
        """Read all headers; raises `Refused` where the batch as a whole cannot be done."""
        plan = plan_batch(
            self.recipe,
            self.inputs,
            self.folder,
            resume=True,  # without a batch in that folder it changes nothing
            axes=self.axes,
            others=self.others,
            machine=self.machine,
            sharing=self.processes,
            joint_training=self.joint_training,
        )
        rows = make_file_rows(plan)
        workers = self.processes if self.processes > 1 else None
        return BatchPreflight(
            request=self, plan=plan, rows=rows, line=summarise_batch_plan(plan, workers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPreflight:
    """What the headers of a batch have led to.

    Attributes
    ----------
    request : BatchRequest
    plan : BatchPlan
    rows : tuple of FileRow
    line : str
        All of it in a sentence.
    """

    request: BatchRequest
    plan: BatchPlan
    rows: tuple[FileRow, ...]
    line: str

    @property
    def label(self) -> str:
        """What the batch is called where others wait for it."""
        count = len(self.rows)
        return f"Batch of {count} file{'s' * (count != 1)}"

    @property
    def count_remaining(self) -> int:
        """How many files are to be restored."""
        return sum(row.state == "ready" for row in self.rows)

    @property
    def begun(self) -> bool:
        """Whether an earlier call was here, even if it was ended before its first file was done."""
        return (
            any(row.has_result for row in self.rows)
            or Path(self.request.folder, MANIFEST_FILE).is_file()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchUpdate:
    """One report: of the whole, and of a file or of the headers."""

    whole: Event
    of_file: BatchEvent | None = None
    reading: BatchPreflight | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchProgress:
    """What happened since the dock last looked.

    Attributes
    ----------
    event : Event
        About all files together.
    reading : BatchPreflight or None
        The headers, where they were read anew.
    rows : mapping of int to FileRow
        The files that have moved, by their place in the table.
    """

    event: Event
    reading: BatchPreflight | None
    rows: Mapping[int, FileRow]


class BatchProgressQueue(ProgressQueue[BatchUpdate, BatchProgress]):
    """Holds the reports of a batch: the latest row of each file."""

    def __init__(self) -> None:
        super().__init__()
        self._event: Event | None = None
        self._reading: BatchPreflight | None = None
        self._rows: dict[int, FileRow] = {}
        self._moved: set[int] = set()

    def _put(self, report: BatchUpdate) -> None:
        self._event = report.whole
        if report.reading is not None:
            self._reading = report.reading
            self._rows, self._moved = dict(enumerate(report.reading.rows)), set()
        if (of_file := report.of_file) is not None and of_file.number:
            place = of_file.number - 1
            self._rows[place] = update_file_row(self._rows[place], of_file)
            self._moved.add(place)

    def _emptied(self) -> BatchProgress | None:
        event, reading, moved = self._event, self._reading, self._moved
        self._event, self._reading, self._moved = None, None, set()
        rows = {place: self._rows[place] for place in moved}
        return None if event is None else BatchProgress(event=event, reading=reading, rows=rows)


def execute_batch(
    reading: BatchPreflight,
    data: Mapping[str, Any],
    *,
    control: Callable[[], Control],
    preview_seconds: float,
) -> Generator[BatchUpdate, None, BatchResult]:
    """Carry a batch out: the very code of the command.

    Parameters
    ----------
    reading : BatchPreflight
        As it was shown. Headers are read again: the batch may have waited for hours.
    data : mapping
        Of no use here: pixels are read file by file.
    control : callable
        Asked at every step. Discarding is keeping here: the file in progress leaves a checkpoint.
    preview_seconds : float
        Of no use either.

    Raises
    ------
    Refused, Failed
        As `napari_dip.batch`.
    """
    request = reading.request
    yield BatchUpdate(whole=Event(message="Reading the headers"))
    reading = request.read()
    check_any_restorable(reading.plan)
    yield BatchUpdate(whole=Event(message="Reading the headers"), reading=reading)
    course = BatchProgressEstimator(reading.plan, reading.rows, request.processes)
    with start_workers(reading.plan, request.processes if request.processes > 1 else 0) as crew:
        steps = run_batch(reading.plan, control=partial(_keep_on_discard, control), crew=crew)
        return (
            yield from map_generator(
                steps, lambda item: BatchUpdate(whole=course.update(item), of_file=item)
            )
        )


def _keep_on_discard(control: Callable[[], Control]) -> Control:
    """Ask; a batch that is discarded, as when napari is closed, keeps what it has."""
    wanted = control()
    return Control.KEEP if wanted is Control.DISCARD else wanted
