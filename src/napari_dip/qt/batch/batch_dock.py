"""The dock for batches: one recipe for many files.

The dock uses the same code as the command line, so each of them can resume a batch of the other.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLabel, QWidget

from napari_dip.errors import Fault, Refusal, RefusedError, raise_if_refused
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.progress import Event, map_generator
from napari_dip.pipeline.recipe import list_settings, load_recipe
from napari_dip.qt.batch.batch_settings import (
    BatchOptions,
    FilesEdit,
    JointTrainingCheckBox,
    RecipeChooser,
    ResultsFolderEdit,
    read_dropped_paths,
)
from napari_dip.qt.batch.files_panel import FilesPanel
from napari_dip.qt.shell.background_call import JobProgress, find_call, start_call
from napari_dip.qt.shell.dock_widget import (
    CollapsibleSection,
    DockLifecycle,
    lay_out,
    make_single_shot_timer,
    require,
    unwrap_viewer,
)
from napari_dip.qt.shell.job_controller import JobController, JobRequest
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import JobPanel, RunBar, make_message_label, show_refusal
from napari_dip.qt.task.task_dock import TaskDock
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch.records import MANIFEST_FILE, read_earlier_batch
from napari_dip.scale.batch.table import FileRow, make_file_rows, update_file_row
from napari_dip.scale.batch_run import (
    check_any_restorable,
    run_batch,
    summarise_batch_plan,
    summarise_batch_result,
)
from napari_dip.scale.cluster.dask_cluster import start_workers
from napari_dip.tasks import TASKS
from napari_dip.tasks.network_import.loading import LIST_ALL, refuse_unlisted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    import napari.viewer
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    from napari_dip.pipeline.interactive_run import PollControl
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan
    from napari_dip.scale.batch.table import FileRow
    from napari_dip.scale.batch_run import BatchResult


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlanView:
    """The plan of a batch as the dock shows it, made from the headers of its files.

    Attributes
    ----------
    plan : BatchPlan
    rows : tuple of FileRow
    summary : str
        The plan in a sentence.
    process_count : int
        Number of parallel processes; 1 for this process only.
    reread : callable
        Reads all headers again.
    """

    plan: BatchPlan
    rows: tuple[FileRow, ...]
    summary: str
    process_count: int
    reread: Callable[[], BatchPlanView]

    @property
    def remaining_count(self) -> int:
        """Number of files to restore."""
        return sum(row.state in _REMAINING_STATES for row in self.rows)

    @property
    def has_earlier_batch(self) -> bool:
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
    recipe: Recipe,
    inputs: tuple[str, ...],
    folder: str,
    *,
    process_count: int,
    refused_sources: Collection[Path] = (),
    **options: Any,
) -> BatchPlanView:
    """Read the headers of a batch; raise `RefusedError` if the whole batch cannot be restored.

    Parameters
    ----------
    recipe : Recipe
    inputs : tuple of str
        Files, folders and patterns.
    folder : str
        The folder for the results; a batch in it is resumed.
    process_count : int
        Number of parallel processes.
    refused_sources : collection of Path
        Files that the last batch refused, for the summary; they are tried again.
    options
        As for `plan_batch`.
    """
    for name, field in list_settings(recipe.task.spec.name).items():
        suggest = field.setting.list_suggestions
        if suggest is not None and (value := getattr(recipe.task, name).strip()) == LIST_ALL:
            raise_if_refused(refuse_unlisted(field.setting.label, value, suggest(recipe.task)))
    plan = plan_batch(recipe, inputs, folder, resume=True, process_count=process_count, **options)
    return BatchPlanView(
        plan=plan,
        rows=make_file_rows(plan),
        summary=summarise_batch_plan(
            plan, process_count if process_count > 1 else None, refused_sources
        ),
        process_count=process_count,
        reread=partial(read_batch, recipe, inputs, folder, process_count=process_count, **options),
    )


def execute_batch(
    plan_view: BatchPlanView, pixels: Mapping[str, Any], poll_control: PollControl
) -> Generator[JobProgress, None, BatchResult]:
    """Run a batch with the same code as the command line, as the work of a `JobRequest`.

    Parameters
    ----------
    plan_view : BatchPlanView
        The plan. Its headers are read again, because the batch may have waited for hours.
    pixels : mapping
        Empty: pixels are read file by file.
    poll_control : callable
        Polled at every step. DISCARD acts as KEEP: the current file leaves a checkpoint.

    Raises
    ------
    RefusedError, FailedError
        As `napari_dip.batch`.
    """
    reading = Event(message="Reading the headers")
    yield JobProgress(event=reading)
    plan_view = plan_view.reread()
    plan, rows = plan_view.plan, list(plan_view.rows)
    check_any_restorable(plan)
    yield JobProgress(event=reading, plan_view=plan_view)

    def make_progress(batch_event: BatchEvent) -> JobProgress:
        event = Event(message=batch_event.progress.message, progress=batch_event.progress)
        index = batch_event.number - 1
        if index < 0:
            return JobProgress(event=event)
        rows[index] = update_file_row(rows[index], batch_event)
        return JobProgress(event=event, rows={index: rows[index]})

    count = plan_view.process_count
    with start_workers(plan, count) if count > 1 else nullcontext() as workers:
        steps = run_batch(plan, poll_control=partial(_keep_on_discard, poll_control), pool=workers)
        return (yield from map_generator(steps, make_progress))


def _keep_on_discard(poll_control: PollControl) -> Control:
    """Return the control, with KEEP for DISCARD: closing napari must not lose results."""
    control = poll_control()
    return Control.KEEP if control is Control.DISCARD else control


#: States of files that another run of the batch would restore, or try again.
_REMAINING_STATES = {"ready", "waiting", "failed"}
#: Milliseconds from the last change to reading the headers, longer than a pause in typing.
_TYPING_PAUSE_MS = 400
_EMPTY_BATCH_HINT = "Add the files to restore. Results go into a folder of their own."
_READING_HEADERS_MESSAGE = "Reading the headers …"
_ALL_REFUSED_MESSAGE = "None of them can be restored: the table says why."
_BATCH_FINISHED_MESSAGE = "All that can be restored is done."
_FILE_REFUSED_MESSAGE = "1 file was refused: click it to see why."
_FILES_REFUSED_MESSAGE = "{count} files were refused: click one to see why."
_RESUME_BATCH_HINT = "Resume takes up the rest, here or on the command line with --resume."


class BatchDock(QWidget):
    """The dock that restores many files by one recipe.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Results can be opened as layers of it.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        viewer = unwrap_viewer(viewer)
        self._closer = DockLifecycle(self, self.shut_down)
        self._plan_view: BatchPlanView | None = None
        self._is_stale = False
        self._task = ""
        self._last_rows: dict[Path, FileRow] = {}
        self._typing_timer = make_single_shot_timer(self, self._start_reading, _TYPING_PAUSE_MS)
        self.files_edit: FilesEdit = FilesEdit()
        self.recipe_chooser: RecipeChooser = RecipeChooser(self._find_form)
        self.results_folder: ResultsFolderEdit = ResultsFolderEdit()
        self.joint_training: JointTrainingCheckBox = JointTrainingCheckBox()
        self.options: BatchOptions = BatchOptions()
        self.files_panel: FilesPanel = FilesPanel(viewer)
        self.plan_label: QLabel = make_message_label()
        bar = RunBar(kept_label="what is done", stop_label="Stop", can_discard=False)
        self.run_bar: RunBar = bar
        bar.pause_button.setToolTip("Hold the computation; what is done stays")
        bar.discard_button.setText("Leave queue")
        bar.discard_button.setToolTip("Give up the place in the queue; the files stay chosen")
        self._panel = JobPanel(
            self,
            viewer,
            bar,
            no_outcome_message="The batch was ended before anything was done.",
            queue_left_message="The batch does not wait any more; all is as it was.",
        )
        self.jobs: JobController = self._panel.jobs
        settings = CollapsibleSection("Axes and workers", self.options)
        maps_page = self.recipe_chooser.maps_page
        self.maps_section: CollapsibleSection = CollapsibleSection("Maps of the camera", maps_page)
        self.recipe_chooser.form_layout.addRow("Results in", self.results_folder)
        self.recipe_chooser.form_layout.addRow(self.joint_training)
        visible_widgets = (self.files_edit, self.recipe_chooser, self.plan_label, bar)
        scrolled = (self.files_panel, settings, self.maps_section)
        lay_out(self, visible_widgets, scrolled, "batch.md")
        bar.run_pressed.connect(self.start)
        for section in (self.files_edit, self.recipe_chooser, self.options, self.joint_training):
            section.changed.connect(self.show_plan)
        self.recipe_chooser.changed.connect(self._on_task)
        self.results_folder.changed.connect(self._on_folder)
        self.recipe_chooser.message_emitted.connect(bar.prepend_message)
        self.files_panel.message_emitted.connect(bar.prepend_message)
        self.files_edit.message_emitted.connect(bar.prepend_message)
        self.setAcceptDrops(True)
        self._on_task()
        self.show_plan()

    @property
    def is_busy(self) -> bool:
        """Whether a batch is computed or waits in the queue."""
        return self.jobs.is_busy

    def show_plan(self, _: object = None) -> None:
        """Schedule reading the headers, without which no batch can start."""
        if self.is_busy:
            return
        self._plan_view, self._last_rows = None, {}
        self._schedule_reading()

    def start(self) -> None:
        """Start the batch of the plan, or add it to the queue."""
        if not self.is_busy and self._plan_view is not None:
            self.jobs.start([self._plan_view.make_request()])

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:
        """Accept files and layers anywhere in the dock, unless a batch is running."""
        mime = None if event is None else event.mimeData()
        is_path = mime is not None and read_dropped_paths(mime) is not None
        if event is not None and is_path and not self.is_busy:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:
        """Add the files and layers to the list of files."""
        mime = None if event is None else event.mimeData()
        if event is not None and mime is not None:
            self.files_edit.add_dropped(mime)
            event.acceptProposedAction()

    def shut_down(self) -> None:
        """Stop the batch; results are kept, and the current file leaves a checkpoint."""
        self._panel.shut_down()

    def begin_job(self, request: JobRequest) -> None:
        """Forget the rows of the last batch."""
        self._last_rows = {}

    def show_progress(self, progress: JobProgress) -> None:
        """Show the changed rows of the table, and the plan if the headers were read again."""
        if progress.plan_view is not None:
            self.files_panel.show_plan(progress.plan_view.plan, progress.plan_view.rows)
            self.plan_label.setText(progress.plan_view.describe())
        self.files_panel.update_rows(progress.rows)
        self.run_bar.show_event(progress.event)

    def accept_outcome(self, request: JobRequest, outcome: BatchResult) -> str:
        """Return the summary of the batch."""
        hint = [_RESUME_BATCH_HINT] if outcome.count("waiting") else []
        return " ".join([summarise_batch_result(outcome), *hint])

    def release_job(self) -> str:
        """Return "": a batch has no preview."""
        return ""

    def describe_discard(self) -> str:
        """Return the message on a stopped batch."""
        return "Stopped; what is done is kept."

    def set_busy(self, is_busy: bool) -> None:
        """Disable what must not change during a batch; then read again what remains to do."""
        maps_page = self.recipe_chooser.maps_page
        for section in (self.files_edit, self.recipe_chooser, self.options, maps_page):
            section.setEnabled(not is_busy)
        self.joint_training.setEnabled(False)
        if not is_busy:  # keeps the rows of the table
            self.joint_training.update_for_task(self.recipe_chooser.task)
            self._plan_view = None
            self._last_rows = {row.source: row for row in self.files_panel.table.file_model.rows}
            self._schedule_reading()

    def _on_task(self) -> None:
        """Offer joint training and maps of the camera if the task takes them."""
        task = self.recipe_chooser.task
        if task != self._task and not self.is_busy:
            self.run_bar.clear_message()  # about another task's results
        self._task = task
        self.joint_training.update_for_task(task)
        self.maps_section.setVisible(any(each.is_detector_map for each in TASKS[task].spec.inputs))

    def _schedule_reading(self) -> None:
        """Schedule reading the headers; the table is kept until then."""
        inputs = self.files_edit.get_inputs()
        self.results_folder.suggest(inputs, TASKS[self.recipe_chooser.task].spec.result_suffix)
        self.jobs.set_planned(False)
        if inputs and self.results_folder.path:
            self.plan_label.setText(_READING_HEADERS_MESSAGE)
            self._typing_timer.start()
        else:
            self._typing_timer.stop()
            self.plan_label.setText(_EMPTY_BATCH_HINT)
            self.files_panel.clear_contents()

    def _start_reading(self) -> None:
        """Read the headers in the background, unless they are being read."""
        if find_call(self) is not None:
            self._is_stale = True
            return
        recipe = self.recipe_chooser.build_recipe()
        if isinstance(recipe, Refusal):
            self._on_read(recipe)
            return
        folder = self.results_folder.path
        read = partial(
            read_batch,
            recipe,
            self.files_edit.get_inputs(),
            folder,
            process_count=self.options.process_spin_box.value(),
            refused_sources={
                row.source for row in self._last_rows.values() if row.state == "refused"
            },
            machine=get_allowed_machine(),
            extra_paths=self.recipe_chooser.get_extra_paths(),
            axes=self.options.axes_edit.text().strip().upper() or None,
            joint_training=self.joint_training.is_requested,
        )
        start_call(read, self, self._on_read, activity="Reading the headers for", name=folder)

    def _on_read(self, plan_view: BatchPlanView | Fault) -> None:
        if self._is_stale or self._typing_timer.isActive() or self.is_busy:
            self._is_stale = False
            self.show_plan()
            return
        if isinstance(plan_view, Fault):
            show_refusal(self.plan_label, plan_view)
            self.files_panel.clear_contents()
            return
        # a file that the last batch refused for its pixels has a header that can be planned
        rows = tuple(self._last_rows.get(row.source, row) for row in plan_view.rows)
        self._plan_view = plan_view = replace(plan_view, rows=rows)
        self.files_panel.show_plan(plan_view.plan, rows)
        refused_count = sum(row.state == "refused" for row in rows)
        is_all_refused = len(plan_view.plan.refused_files) == len(rows)
        message = "" if plan_view.remaining_count else _describe_finished_batch(refused_count)
        self.plan_label.setText(
            plan_view.describe(_ALL_REFUSED_MESSAGE if is_all_refused else message)
        )
        start_label = "Resume" if plan_view.remaining_count else "Check again"
        self.run_bar.set_start_label(start_label if plan_view.has_earlier_batch else "Run")
        self.jobs.set_planned(not is_all_refused)

    def _on_folder(self) -> None:
        """List the recipe of a batch in the folder; if no files are chosen, choose the batch."""
        folder = self.results_folder.path
        earlier_batch = read_earlier_batch(Path(folder)) if folder else None
        has_no_files = not self.files_edit.get_inputs()
        recipe = None if earlier_batch is None else _load_recipe_or_none(earlier_batch[0])
        self.recipe_chooser.offer_earlier_batch(recipe, is_chosen=has_no_files)
        if earlier_batch is not None:
            self.joint_training.show_earlier_choice(earlier_batch[2])
        if earlier_batch is not None and recipe is not None and has_no_files:
            self.files_edit.show_inputs(earlier_batch[1])
        self.show_plan()

    def _find_form(self, task: str) -> SettingsForm | None:
        """Return the form of a task's dock in the same window, or None."""
        docks = require(self.window()).findChildren(TaskDock)
        return next((dock.form for dock in docks if dock.task == task), None)


def _describe_finished_batch(refused_count: int) -> str:
    """Return the message on a batch without remaining files, with the number of refused files."""
    if not refused_count:
        return _BATCH_FINISHED_MESSAGE
    message = _FILE_REFUSED_MESSAGE if refused_count == 1 else _FILES_REFUSED_MESSAGE
    return f"{_BATCH_FINISHED_MESSAGE} {message.format(count=refused_count)}"


def _load_recipe_or_none(raw: dict[str, Any]) -> Recipe | None:
    """Return the recipe of an earlier batch; None if this version cannot read it."""
    try:
        return load_recipe(raw)
    except RefusedError:
        return None
