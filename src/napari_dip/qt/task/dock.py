"""The dock of a task: choose an image, read the plan, run, watch, keep.

The dock holds no settings and no pictures of its own: it reads a recipe from the form, asks
`preflight` for a plan, and drains a run in another thread.

One dock for each task, made from the task: `napari_dip.qt.task.dock:super_resolve`, say.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from napari_dip.errors import Refusal, Refused
from napari_dip.pipeline.machine import format_bytes, format_duration
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.qt.results.comparison import ResultView
from napari_dip.qt.shell.dock_widget import CollapsibleSection, lay_out
from napari_dip.qt.shell.layer_dock import LayerDock
from napari_dip.qt.shell.layers import describe_derived_image
from napari_dip.qt.shell.plot import ValidationCurve
from napari_dip.qt.shell.preferences import get_allowed_machine, get_default_preset
from napari_dip.qt.shell.run_bar import RunBar, RunBarState
from napari_dip.qt.shell.run_completion import (
    DISCARDED_MESSAGE,
    NO_PICTURE_MESSAGE,
    SNAPSHOTS_KEPT_MESSAGE,
    ResultQueue,
    attempt,
)
from napari_dip.qt.shell.settings_form import SettingsForm, has_noise
from napari_dip.qt.shell.worker import BackgroundRun, RunProgress
from napari_dip.qt.task.crop_preview import CropPreviewSection
from napari_dip.qt.task.noise import NoiseSection
from napari_dip.qt.task.recipes import RepeatSection
from napari_dip.qt.task.recovery import InterruptedRunPanel
from napari_dip.qt.task.request import RunRequest, make_run_request
from napari_dip.qt.task.snapshot_history import HistorySlider
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer
    from napari.layers import Image

    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan

#: The space between a number and its unit, where no line is to end.
_UNIT = re.compile(r"(?<=\d) (?=(s|min|h|MB|GB)\b)")


class TaskDock(LayerDock):
    """One task in napari.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers are offered; results become layers of it.

    Attributes
    ----------
    task : str
        Key in `TASKS`; set by each subclass, and all that differs between them.
    """

    task: ClassVar[str]
    too_early = NO_PICTURE_MESSAGE

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, RunBar(), TASKS[self.task].inputs[1:])
        viewer = self._viewer
        self._then: list[RunRequest] = []
        self._remarks: list[str] = []
        self.view = ResultView(viewer)
        self._results = ResultQueue(viewer, self.view.show)
        self.form = SettingsForm(self.task)
        self.repeat = RepeatSection(viewer, self.form, self.chooser, self.further)
        self.curve = ValidationCurve()
        self.history = HistorySlider(viewer)
        self.noise = NoiseSection(self.chooser, self.form)
        self.settings = CollapsibleSection("Settings", self.form.folded)
        self.maps = CollapsibleSection("Maps of the camera", self.further.calibration)
        self.trying = CropPreviewSection(viewer, self.chooser, self.further, self.form, self.plan)
        self.recovery = InterruptedRunPanel(viewer, self.chooser, self.further, self.form)
        self._arrange()
        self._listen()
        self._on_theme()
        self._on_image()
        self.run_bar.say(self.repeat.take_up())
        self.form.widgets["preset"].value = (
            get_default_preset() or self.form.widgets["preset"].value
        )

    def plan(self) -> Plan | Refusal:
        """Say what Run would do now, or why it would not; from headers and what is drawn."""
        header = self.chooser.header()
        if isinstance(header, Refusal):
            return header
        try:
            plan = preflight(
                self.form.recipe(), header, get_allowed_machine(), self.further.headers()
            )
        except Refused as error:
            return error.refusal
        return plan if isinstance(plan, Refusal) else self.further.refused(plan) or plan

    def show_plan(self, _: object = None) -> None:
        """Bring the line above the buttons up to date; while a run is on it stays."""
        if self.busy:
            return
        plan = self.plan()
        if isinstance(plan, Refusal):
            self.plan_line.setText(plan.message)
            self.run_bar.show_state(RunBarState.REFUSED)
        else:
            time = f"up to {format_duration(plan.seconds)} if nothing else runs, "
            self.plan_line.setText(_describe_plan(plan, self.chooser.layer(), time))
            self.run_bar.show_state(RunBarState.IDLE)

    def start(self) -> None:
        """Begin what the plan line says, or wait in line for other docks."""
        layer, plan = self.chooser.layer(), self.plan()
        if self.busy or layer is None or isinstance(plan, Refusal):
            self.show_plan()
            return
        requests: list[RunRequest] = []
        failing = "The run could not be started"
        if trouble := attempt(
            lambda: requests.append(make_run_request(plan, layer, self.further)), failing
        ):
            self.run_bar.say(trouble)
            return
        self.repeat.remember(plan.recipe)
        self.run(requests)

    def run(self, requests: Sequence[RunRequest]) -> None:
        """Run what was asked for, one after another, when the queue lets it."""
        first, *self._then = requests
        self._join(first)

    def discard(self) -> None:
        """Stop the run and leave nothing of it; the dock is free at once."""
        self._then = []
        super().discard()

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        super().shut_down()
        for part in (self.noise, self.repeat, self.trying, self.recovery, self.view):
            part.shut_down()
        self.history.forget()

    def _make_run(self, request: RunRequest, over: Callable[[], object]) -> BackgroundRun:
        return BackgroundRun(request.plan, request.pixels, self, over, request.begin)

    def _prepare(self, request: RunRequest) -> None:
        self.view.comparison.forget()
        self.history.begin(request)
        self._remarks = []
        self.curve.restart()
        plan = _describe_plan(request.plan, request.source())  # the bar tells the time now
        self.plan_line.setText(f"{_describe_trial(request.trial, len(self._then))}{plan}")

    def _show(self, news: RunProgress) -> None:
        event = news.event
        failing = "The preview cannot be shown, but the run goes on"
        trouble = attempt(lambda: self.history.show_event(event), failing)
        self._remarks += filter(None, [trouble])
        self.run_bar.show_event(event, self._remarks)
        self.curve.extend(news.points, event.best_iteration)

    def _taken(self, request: RunRequest, outcome: Restoration) -> str:
        self.history.note(outcome)
        text = self._results.add(request.answered(outcome, self.history.preview), self._remarks)
        self.run_bar.add_button.setVisible(self._results.waiting)
        return text

    def _put_away(self) -> str:
        return attempt(self.history.end, "The preview layer could not be removed")

    def _after(self, whole: bool) -> None:
        then = self._then if whole else []
        if then:
            self.run(then)
        else:
            attempt(self.trying.end, "The results could not be shown side by side")

    def _forget(self) -> None:
        self.history.forget()

    @property
    def _discarded(self) -> str:
        return DISCARDED_MESSAGE if not self.history.any_kept else SNAPSHOTS_KEPT_MESSAGE

    def _on_add(self) -> None:
        self.run_bar.say(self._results.add_waiting())
        self.run_bar.add_button.setVisible(self._results.waiting)

    def _close_parts(self, busy: bool) -> None:
        for part in (self.form.top, self.form.folded, self.noise, self.further.calibration):
            part.setEnabled(not busy)
        for fold in (self.repeat, self.trying, self.recovery):
            fold.set_busy(busy)
        super()._close_parts(busy)

    def _listen(self) -> None:
        self.form.changed.connect(self.show_plan)
        self.run_bar.add_pressed.connect(self._on_add)
        self.trying.wanted.connect(self.run)
        self.recovery.wanted.connect(self.run)
        self.trying.applied.connect(self.start)
        for part in (self.repeat, self.trying, self.recovery):
            part.said.connect(self.run_bar.say_also)
        self.history.moved.connect(self.curve.mark)
        self.view.comparison.slider.valueChanged.connect(self.history.rest)

    def _plots(self) -> Sequence[Any]:
        return self.curve, self.noise.plot, self.view.profile.plot

    def _arrange(self) -> None:
        self.noise.setVisible(has_noise(self.form))
        self.maps.setVisible(any(item.calibrates for item in TASKS[self.task].inputs))
        always_visible = (self.chooser, self.further, self.form.top, self.plan_line, self.run_bar)
        folds = (self.trying, self.view.profile, self.noise, self.settings, self.maps, self.repeat)
        long = (self.history, self.view.also, self.curve, *folds)
        lay_out(self, (self.recovery, *always_visible, self.view.comparison), long)


def _describe_plan(plan: Plan, layer: Image | None, time: str = "") -> str:
    """Say what is computed where, how long that takes if it is to be said, and what to know."""
    line = _UNIT.sub(
        "\u00a0", f"{plan.work_summary}: {time}{format_bytes(plan.peak_bytes)} of memory."
    )
    derived = "" if layer is None else describe_derived_image(layer)
    return "\n".join(filter(None, [line, derived, *map(str, plan.notes)]))


def _describe_trial(trial: str, further: int) -> str:
    """Say which of several trials is running, and how many follow."""
    if not trial:
        return ""
    more = f", {further} more to follow" if further else ""
    return f"{trial[:1].upper()}{trial[1:]}{more}. "


@cache
def make_dock_class(task: str) -> type[TaskDock]:
    """Make the dock's class of a task; a class, so that napari hands it its own viewer.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    kind = TASKS[task]
    name = f"{kind.__name__}Dock"
    return type(name, (TaskDock,), {"task": task, "__doc__": kind.__doc__, "__module__": __name__})


def __getattr__(name: str) -> Any:
    """Find a task's dock by the task's name, as `napari.yaml` gives it."""
    task = name.replace("_", "-")
    if task not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return make_dock_class(task)


DenoiseDock = make_dock_class("denoise")
