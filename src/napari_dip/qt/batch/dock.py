"""The dock for many files: choose them and a recipe, read what will be done, run, watch, go on.

The batch is that of the command line, to the byte: what one begins, the other goes on with.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused
from napari_dip.pipeline.api import load_recipe
from napari_dip.qt.batch.run import (
    BatchPreflight,
    BatchProgress,
    BatchProgressQueue,
    BatchRequest,
    execute_batch,
)
from napari_dip.qt.batch.settings import (
    BatchOptions,
    FilesChooser,
    JointTrainingCheckBox,
    RecipeChooser,
    ResultsFolder,
)
from napari_dip.qt.batch.table import BatchResults
from napari_dip.qt.shell.dock_widget import CollapsibleSection, lay_out, make_single_shot_timer
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import RunBar, RunBarState
from napari_dip.qt.shell.run_dock import RunDock
from napari_dip.qt.shell.worker import BackgroundCall, BackgroundRun, catch_errors
from napari_dip.qt.task.dock import TaskDock
from napari_dip.scale.batch.records import has_joint_training, read_earlier_batch
from napari_dip.scale.batch_run import summarise_batch_result
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.qt.shell.worker import Switch
    from napari_dip.scale.batch.table import FileRow
    from napari_dip.scale.batch_run import BatchResult

#: Milliseconds without a change after which headers are read: nobody types slower than that.
_TYPING_PAUSE_MS = 400
_EMPTY_BATCH_HINT = "Add the files to restore. Results go into a folder of their own."
_READING_HEADERS_MESSAGE = "Reading the headers …"
_ALL_REFUSED_MESSAGE = "None of them can be restored: the table says why."
_BATCH_FINISHED_MESSAGE = "All that can be restored is done."
_FILE_REFUSED_MESSAGE = "1 file was refused: click it to see why."
_FILES_REFUSED_MESSAGE = "{count} files were refused: click one to see why."
_RESUME_BATCH_HINT = "Resume takes up the rest, here or on the command line with --resume."


class BatchDock(RunDock):
    """Many files by one recipe.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Results can be opened in it.
    """

    too_early = "The batch was ended before anything was done."
    given_up = "The batch does not wait any more; all is as it was."

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, RunBar(kept="what is done", stop="Stop", discards=False))
        self._reading: BatchPreflight | None = None
        self._call: BackgroundCall | None = None
        self._stale = False
        self._last: dict[Path, FileRow] = {}
        self._soon = make_single_shot_timer(self, _TYPING_PAUSE_MS)
        self.files = FilesChooser()
        self.recipe = RecipeChooser(self._form_of)
        self.folder = ResultsFolder()
        self.joint_training = JointTrainingCheckBox()
        self.options = BatchOptions()
        self.results = BatchResults(self._viewer)
        bar = self.run_bar
        bar.pause_button.setToolTip("Hold the computation; what is done stays")
        bar.discard_button.setText("Leave queue")
        bar.discard_button.setToolTip("Give up the place in the queue; the files stay chosen")
        settings = CollapsibleSection("Axes and processes", self.options)
        self.recipe.rows.addRow("Results in", self.folder)
        self.recipe.rows.addRow("", self.joint_training)
        above = (self.files, self.recipe, self.plan_line, bar)
        lay_out(self, above, (self.results, settings))
        for part in (self.files, self.recipe, self.options, self.joint_training):
            part.changed.connect(self.show_plan)
        self.recipe.changed.connect(lambda: self.joint_training.fit_task(self.recipe.task))
        self.folder.changed.connect(self._on_folder)
        self._soon.timeout.connect(self._read)
        self.recipe.said.connect(bar.say_also)
        self.results.said.connect(bar.say_also)
        self.show_plan()

    def show_plan(self, _: object = None) -> None:
        """Have the headers read soon; nothing runs before they are."""
        if self.busy:
            return
        self._reading, self._last = None, {}
        self._look_again()

    def start(self) -> None:
        """Begin what the plan line says, or wait in line for other docks."""
        if not self.busy and self._reading is not None:
            self._join(self._reading)

    def shut_down(self) -> None:
        """Stop; what is done is kept, and the file in progress leaves a checkpoint."""
        super().shut_down()
        self._soon.stop()
        self.results.shut_down()
        if self._call is not None:
            self._call.discard()

    def _read_request(self) -> BatchRequest | Refusal:
        recipe = self.recipe.recipe()
        if isinstance(recipe, Refusal):
            return recipe
        return BatchRequest(
            recipe=recipe,
            inputs=self.files.inputs(),
            folder=self.folder.path,
            machine=get_allowed_machine(),
            others=self.recipe.paths(),
            axes=self.options.axes.text().strip().upper() or None,
            processes=self.options.processes.value(),
            joint_training=self.joint_training.wanted,
        )

    def _look_again(self) -> None:
        """Have the headers read; the table stays as it is until they are."""
        inputs = self.files.inputs()
        self.folder.suggest(inputs, TASKS[self.recipe.task].done)
        self.run_bar.show_state(RunBarState.REFUSED)
        if inputs and self.folder.path:
            self.plan_line.setText(_READING_HEADERS_MESSAGE)
            self._soon.start()
        else:
            self._soon.stop()
            self.plan_line.setText(_EMPTY_BATCH_HINT)
            self.results.forget()

    def _read(self) -> None:
        """Read the headers, in a thread of their own, one time after the other."""
        if self._call is not None:
            self._stale = True
            return
        request = self._read_request()
        if isinstance(request, Refusal):
            self._on_read(request)
            return
        self._call = BackgroundCall(partial(_read_headers, request), self)
        self._call.ended.connect(self._on_read)
        self._call.start()

    def _on_read(self, preflight: BatchPreflight | Refusal) -> None:
        self._call = None
        if self._stale or self._soon.isActive() or self.busy:
            self._stale = False
            self.show_plan()
            return
        if isinstance(preflight, Refusal):
            self.plan_line.setText(preflight.message)
            self.results.forget()
            return
        self._reading = preflight
        self.results.show_reading(
            preflight, (self._last.get(row.source, row) for row in preflight.rows)
        )
        hopeless = len(preflight.plan.list_refused) == len(preflight.rows)
        more = (
            _ALL_REFUSED_MESSAGE
            if hopeless
            else ""
            if preflight.count_remaining
            else _describe_finished_batch(len(preflight.plan.list_refused))
        )
        self.plan_line.setText(
            "\n".join(filter(None, [preflight.line, more, *map(str, preflight.plan.notes)]))
        )
        on = "Resume" if preflight.count_remaining else "Check again"
        self.run_bar.call_start(on if preflight.begun else "Run")
        self.run_bar.show_state(RunBarState.REFUSED if hopeless else RunBarState.IDLE)

    def _on_folder(self) -> None:
        """Offer the recipe of the batch that lies there; with no files named, take it up whole."""
        begun = read_earlier_batch(Path(self.folder.path)) if self.folder.path else None
        alone = not self.files.inputs()
        recipe = None if begun is None else _load_recipe_or_none(begun[0])
        self.recipe.offer_begun(recipe, choose=alone)
        if begun is not None:
            self.joint_training.take_up(has_joint_training(Path(self.folder.path)))
        if begun is not None and recipe is not None and alone:
            self.files.show_inputs(begun[1])
        self.show_plan()

    def _form_of(self, task: str) -> SettingsForm | None:
        """Find the form of a task's dock that is open in the same window."""
        window = self.window()
        docks = [] if window is None else window.findChildren(TaskDock)
        return next((dock.form for dock in docks if dock.task == task), None)

    def _make_run(self, preflight: BatchPreflight, over: Callable[[], object]) -> BackgroundRun:
        return BackgroundRun(
            preflight, {}, self, over, execute_batch, BatchProgressQueue(), preflight.label
        )

    def _prepare(self, preflight: BatchPreflight) -> None:
        self._last = {}

    def _show(self, news: BatchProgress) -> None:
        if news.reading is not None:
            self.results.show_reading(news.reading, news.reading.rows)
            self.plan_line.setText(
                "\n".join([news.reading.line, *map(str, news.reading.plan.notes)])
            )
        self.results.bring_up(news.rows)
        self.run_bar.show_event(news.event)

    def _taken(self, preflight: BatchPreflight, outcome: BatchResult) -> str:
        return " ".join(
            [
                summarise_batch_result(outcome),
                *([_RESUME_BATCH_HINT] if outcome.count("waiting") else []),
            ]
        )

    def _put_away(self) -> str:
        return ""

    def _close_parts(self, busy: bool) -> None:
        for part in (self.files, self.recipe, self.options):
            part.setEnabled(not busy)
        self.joint_training.setEnabled(False)
        if not busy:  # what was said of each file stays, but what is left to do is another
            self.joint_training.fit_task(self.recipe.task)
            self._reading = None
            self._last = {row.source: row for row in self.results.table.files.rows}
            self._look_again()

    @property
    def _discarded(self) -> str:
        return "Stopped; what is done is kept."


def _describe_finished_batch(refused: int) -> str:
    """Say that nothing is left to do, and where to see why files were refused."""
    why = _FILE_REFUSED_MESSAGE if refused == 1 else _FILES_REFUSED_MESSAGE.format(count=refused)
    return f"{_BATCH_FINISHED_MESSAGE} {why}" if refused else _BATCH_FINISHED_MESSAGE


def _load_recipe_or_none(raw: dict[str, Any]) -> Recipe | None:
    """Read the recipe of a batch that was begun; None where this version does not know it."""
    try:
        return load_recipe(raw)
    except Refused:
        return None


def _read_headers(request: BatchRequest, _: Switch) -> BatchPreflight | Refusal:
    return catch_errors(request.read, "Reading the headers for", request.folder)
