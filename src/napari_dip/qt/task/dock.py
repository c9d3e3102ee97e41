"""The dock of a task, such as `napari_dip.qt.task.dock:super_resolve`, made from its settings.

The dock reads a recipe from the form, gets a plan from `preflight`, and runs it in a background
thread.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from napari_dip.errors import Refusal, RefusedError
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
    call_reporting_errors,
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

#: The space between a number and its unit, which becomes a non-breaking one.
_UNIT = re.compile(r"(?<=\d) (?=(s|min|h|MB|GB)\b)")


class TaskDock(LayerDock):
    """The dock of a task in napari.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers fill the list; results become layers of it.

    Attributes
    ----------
    task : str
        Key in `TASKS`; the only difference between the subclasses.
    """

    task: ClassVar[str]
    empty_result_message = NO_PICTURE_MESSAGE

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, RunBar(), TASKS[self.task].spec.inputs[1:])
        viewer = self._viewer
        self._queued_requests: list[RunRequest] = []
        self._remarks: list[str] = []
        self.view = ResultView(viewer)
        self._results = ResultQueue(viewer, self.view.show)
        self.form = SettingsForm(self.task)
        self.repeat = RepeatSection(viewer, self.form, self.chooser, self.extra_inputs)
        self.curve = ValidationCurve()
        self.history = HistorySlider(viewer)
        self.noise = NoiseSection(self.chooser, self.form)
        self.settings = CollapsibleSection("Settings", self.form.advanced_page)
        self.maps = CollapsibleSection("Maps of the camera", self.extra_inputs.calibration)
        self.crop_preview = CropPreviewSection(
            viewer, self.chooser, self.extra_inputs, self.form, self.plan
        )
        self.recovery = InterruptedRunPanel(viewer, self.chooser, self.extra_inputs, self.form)
        self._arrange()
        self._listen()
        self._on_theme()
        self._on_image()
        self.run_bar.show_message(self.repeat.restore_last_settings())
        self.form.widgets["preset"].value = (
            get_default_preset() or self.form.widgets["preset"].value
        )

    def plan(self) -> Plan | Refusal:
        """Return the plan of a run with the present settings, or a refusal, without pixels.

        Only a drawn mask is read, to check that it is not empty.
        """
        header = self.chooser.read_header()
        if isinstance(header, Refusal):
            return header
        try:
            plan = preflight(
                self.form.build_recipe(),
                header,
                get_allowed_machine(),
                self.extra_inputs.read_headers(),
            )
        except RefusedError as error:
            return error.refusal
        return plan if isinstance(plan, Refusal) else self.extra_inputs.check_drawings(plan) or plan

    def show_plan(self, _: object = None) -> None:
        """Update the plan above the buttons, unless a run is on."""
        if self.is_busy:
            return
        plan = self.plan()
        if isinstance(plan, Refusal):
            self.plan_label.setText(plan.message)
            self.run_bar.show_state(RunBarState.REFUSED)
        else:
            time = f"up to {format_duration(plan.seconds)} if nothing else runs, "
            self.plan_label.setText(_describe_plan(plan, self.chooser.get_layer(), time))
            self.run_bar.show_state(RunBarState.IDLE)

    def start(self) -> None:
        """Start the run of the plan, or add it to the queue."""
        layer, plan = self.chooser.get_layer(), self.plan()
        if self.is_busy or layer is None or isinstance(plan, Refusal):
            self.show_plan()
            return
        requests: list[RunRequest] = []
        failure_message = "The run could not be started"
        if trouble := call_reporting_errors(
            lambda: requests.append(make_run_request(plan, layer, self.extra_inputs)),
            failure_message,
        ):
            self.run_bar.show_message(trouble)
            return
        self.repeat.remember(plan.recipe)
        self.run(requests)

    def run(self, requests: Sequence[RunRequest]) -> None:
        """Add the first request to the queue; the others follow one after another."""
        first_request, *self._queued_requests = requests
        self._join(first_request)

    def discard(self) -> None:
        """Stop the run without a result, and drop the requests that would follow."""
        self._queued_requests = []
        super().discard()

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        super().shut_down()
        for section in (self.noise, self.repeat, self.crop_preview, self.recovery, self.view):
            section.shut_down()
        self.history.forget()

    def _make_run(self, request: RunRequest, on_finished: Callable[[], object]) -> BackgroundRun:
        return BackgroundRun(request.plan, request.pixels, self, on_finished, request.begin)

    def _prepare(self, request: RunRequest) -> None:
        self.view.comparison.forget()
        self.history.begin(request)
        self._remarks = []
        self.curve.restart()
        # without the time, which the run bar now shows
        plan = _describe_plan(request.plan, request.get_source_layer())
        self.plan_label.setText(
            f"{_describe_crop_preview(request.crop_preview_name, len(self._queued_requests))}{plan}"
        )

    def _show(self, news: RunProgress) -> None:
        event = news.event
        failure_message = "The preview cannot be shown, but the run goes on"
        trouble = call_reporting_errors(lambda: self.history.show_event(event), failure_message)
        self._remarks += filter(None, [trouble])
        self.run_bar.show_event(event, self._remarks)
        self.curve.extend(news.points, event.best_iteration)

    def _accept_result(self, request: RunRequest, outcome: Restoration) -> str:
        self.history.note(outcome)
        message = self._results.add(
            request.make_pending_result(outcome, self.history.preview), self._remarks
        )
        self.run_bar.add_button.setVisible(self._results.has_waiting)
        return message

    def _release_run(self) -> str:
        return call_reporting_errors(self.history.end, "The preview layer could not be removed")

    def _run_next(self, whole: bool) -> None:
        next_requests = self._queued_requests if whole else []
        if next_requests:
            self.run(next_requests)
        else:
            call_reporting_errors(
                self.crop_preview.end, "The results could not be shown side by side"
            )

    def _clear_discarded_run(self) -> None:
        self.history.forget()

    @property
    def _discard_message(self) -> str:
        return DISCARDED_MESSAGE if not self.history.has_kept_snapshot else SNAPSHOTS_KEPT_MESSAGE

    def _on_add(self) -> None:
        self.run_bar.show_message(self._results.add_waiting())
        self.run_bar.add_button.setVisible(self._results.has_waiting)

    def _lock_parts(self, busy: bool) -> None:
        for widget in (
            self.form.basic_page,
            self.form.advanced_page,
            self.noise,
            self.extra_inputs.calibration,
        ):
            widget.setEnabled(not busy)
        for section in (self.repeat, self.crop_preview, self.recovery):
            section.set_busy(busy)
        super()._lock_parts(busy)

    def _listen(self) -> None:
        self.form.changed.connect(self.show_plan)
        self.run_bar.add_pressed.connect(self._on_add)
        self.crop_preview.wanted.connect(self.run)
        self.recovery.wanted.connect(self.run)
        self.crop_preview.applied.connect(self.start)
        for section in (self.repeat, self.crop_preview, self.recovery):
            section.message_emitted.connect(self.run_bar.prepend_message)
        self.history.moved.connect(self.curve.mark)
        self.view.comparison.slider.valueChanged.connect(self.history.move_to_end)

    def _plots(self) -> Sequence[Any]:
        return self.curve, self.noise.plot, self.view.profile.plot

    def _arrange(self) -> None:
        self.noise.setVisible(has_noise(self.form))
        self.maps.setVisible(
            any(task_input.is_detector_map for task_input in TASKS[self.task].spec.inputs)
        )
        always_visible = (
            self.chooser,
            self.extra_inputs,
            self.form.basic_page,
            self.plan_label,
            self.run_bar,
        )
        sections = (
            self.crop_preview,
            self.view.profile,
            self.noise,
            self.settings,
            self.maps,
            self.repeat,
        )
        scrolled = (self.history, self.view.extra_layer_chooser, self.curve, *sections)
        lay_out(self, (self.recovery, *always_visible, self.view.comparison), scrolled)


def _describe_plan(plan: Plan, layer: Image | None, time: str = "") -> str:
    """Return the text of a plan: work, time, memory, a warning on the input, and notes."""
    summary = _UNIT.sub(
        "\u00a0", f"{plan.work_summary}: {time}{format_bytes(plan.peak_bytes)} of memory."
    )
    derived_warning = "" if layer is None else describe_derived_image(layer)
    return "\n".join(filter(None, [summary, derived_warning, *map(str, plan.notes)]))


def _describe_crop_preview(name: str, remaining_count: int) -> str:
    """Return the name of the crop preview that runs, and how many follow; "" for other runs."""
    if not name:
        return ""
    remaining = f", {remaining_count} more to follow" if remaining_count else ""
    return f"{name[:1].upper()}{name[1:]}{remaining}. "


@cache
def make_dock_class(task: str) -> type[TaskDock]:
    """Return the dock class of a task.

    It is a class and no function, so that napari passes its viewer to it.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    task_class = TASKS[task]
    name = f"{task_class.__name__}Dock"
    return type(
        name, (TaskDock,), {"task": task, "__doc__": task_class.__doc__, "__module__": __name__}
    )


def __getattr__(name: str) -> Any:
    """Return the dock class for the name of a task in `napari.yaml`."""
    task = name.replace("_", "-")
    if task not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return make_dock_class(task)


DenoiseDock = make_dock_class("denoise")
