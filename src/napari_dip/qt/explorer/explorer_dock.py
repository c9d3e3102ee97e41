"""The dock of the prior explorer: experiments with an untrained network on the user's image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QLabel, QWidget

from napari_dip.errors import Refusal
from napari_dip.explore.experiment_setup import label_architecture, list_all_architectures
from napari_dip.qt.explorer.experiment_request import ExperimentForm, plan_experiment
from napari_dip.qt.explorer.result_panel import ExplorerPlot, ResultPanel
from napari_dip.qt.shell.background_call import call_reporting_errors, try_call
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    DockLifecycle,
    lay_out,
    make_single_shot_timer,
    unwrap_viewer,
)
from napari_dip.qt.shell.job_controller import DISCARDED_MESSAGE
from napari_dip.qt.shell.layer_inputs import LayerInputs
from napari_dip.qt.shell.napari_layers import Preview
from napari_dip.qt.shell.run_bar import JobPanel, RunBar, make_message_label, show_refusal
from napari_dip.qt.shell.settings_form import align_forms
from napari_dip.tasks import TaskInput

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QShowEvent

    from napari_dip.qt.shell.background_call import JobProgress
    from napari_dip.qt.shell.job_controller import JobController, JobRequest
    from napari_dip.qt.shell.layer_inputs import ExtraInputs, ImageChooser

_NOTHING_MESSAGE = "Ended before there was anything to be seen. Give it a little more time."
_TRUTH_INPUT = TaskInput(
    name="truth",
    label="Truth",
    help="The same image without noise, if you have it: tells how good each estimate is.",
    is_optional=True,
)
#: Architectures by name, used for their labels only.
_ALL_ARCHITECTURES = list_all_architectures()


class ExplorerDock(QWidget):
    """The dock for three experiments with an untrained network, which restore no image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers fill the list.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = unwrap_viewer(viewer)
        self._closer = DockLifecycle(self, self.shut_down)
        self._preview: Preview | None = None
        self.plan_label: QLabel = make_message_label()
        self.run_bar: RunBar = RunBar(kept_label="what was found so far")
        self.inputs: LayerInputs = LayerInputs(viewer, (_TRUTH_INPUT,), self, has_axes_field=False)
        self.image_chooser: ImageChooser = self.inputs.image_chooser
        self.extra_inputs: ExtraInputs = self.inputs.extra_inputs
        self.image_chooser.combo.setToolTip(DOCK_TEXTS["explorer-image"])
        self.settings: ExperimentForm = ExperimentForm()
        self.run_bar.pause_button.setToolTip("Pause the computation; finished results stay")
        self.run_bar.discard_button.setToolTip("Stop and discard all results")
        self.plot: ExplorerPlot = ExplorerPlot()
        self.result_panel: ResultPanel = ResultPanel(viewer)
        self.settings_section: CollapsibleSection = CollapsibleSection(
            "More settings", self.settings.advanced_page
        )
        self._panel = JobPanel(
            self, viewer, self.run_bar, (self.plot,), no_outcome_message=_NOTHING_MESSAGE
        )
        self.jobs: JobController = self._panel.jobs
        visible_widgets = (
            self.image_chooser,
            self.settings.basic_page,
            self.extra_inputs,
            self.plan_label,
            self.run_bar,
        )
        forms = self.image_chooser, self.settings.choice_page, self.extra_inputs
        self._align_timer = make_single_shot_timer(self, partial(align_forms, *forms))
        scrolled = (self.settings_section, self.plot, self.result_panel)
        lay_out(self, visible_widgets, scrolled, "explore.md")
        self.run_bar.run_pressed.connect(self.start)
        self.settings.changed.connect(self._on_settings)
        self.settings.experiment_combo.currentIndexChanged.connect(self._on_experiment)
        self.inputs.changed.connect(self.show_plan)
        self.inputs.message_outdated.connect(self.run_bar.clear_message)
        self.inputs.follow_jobs(self.jobs)
        self.result_panel.message_emitted.connect(self.run_bar.prepend_message)
        self.result_panel.row_chosen.connect(lambda item: self.plot.show_group(*item))
        self.jobs.discarded.connect(lambda: self.plot.restart(self.settings.experiment.key))
        Connections(self).connect(self.show_plan, viewer.dims.events.current_step)
        self._on_settings()

    @property
    def is_busy(self) -> bool:
        """Whether an experiment is computed or waits in the queue."""
        return self.jobs.is_busy

    def plan_request(self) -> tuple[JobRequest, str] | Refusal:
        """Return the experiment of the present settings and its plan, from headers alone."""
        layer = self.image_chooser.get_layer()
        if layer is None:
            header = self.image_chooser.read_header()
            assert isinstance(header, Refusal)  # there is no layer
            return header
        return plan_experiment(
            self._viewer, layer, self.extra_inputs.get_layer("truth"), self.settings
        )

    def show_plan(self, _: object = None) -> None:
        """Update the plan above the buttons, unless an experiment is on."""
        if self.is_busy:
            return
        planned = self.plan_request()
        if isinstance(planned, Refusal):
            show_refusal(self.plan_label, planned)
        else:
            self.plan_label.setText(planned[1])
        self.jobs.set_planned(not isinstance(planned, Refusal))

    def start(self) -> None:
        """Start the experiment, or add it to the queue."""
        planned = self.plan_request()
        if self.is_busy or isinstance(planned, Refusal):
            self.show_plan()
            return
        self.jobs.start(planned[:1])

    def showEvent(self, event: QShowEvent | None) -> None:
        """Align the labels, whose width napari's style changes when they are shown."""
        super().showEvent(event)
        self._align_timer.start()

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        self._panel.shut_down()
        self.inputs.shut_down()
        self.result_panel.clear_contents()

    def begin_job(self, request: JobRequest) -> None:
        """Empty the widgets for an experiment that begins, and show its plan."""
        assert request.target is not None  # experiments have one
        self.result_panel.clear_contents()
        self.plot.restart(request.kind)
        self._preview = Preview(self._viewer, request.target)
        self.plan_label.setText(request.summary)

    def show_progress(self, progress: JobProgress) -> None:
        """Show the preview, the time left and the curves."""
        self.run_bar.show_event(progress.event)
        self.plot.extend(
            (group and label_architecture(_ALL_ARCHITECTURES[group]), iteration, values)
            for group, iteration, values in progress.points
        )
        if self._preview is not None:
            failure_text = "The preview cannot be shown"
            call_reporting_errors(partial(self._preview.show, progress.event.preview), failure_text)

    def accept_outcome(self, request: JobRequest, outcome: Any) -> str:
        """Show the result and return its description."""
        message, error_message = try_call(
            lambda: self.result_panel.show_result(request, outcome),
            "What was found cannot be shown",
        )
        return error_message if message is None else message

    def release_job(self) -> str:
        """Remove the preview; return an error message, or ""."""
        preview, self._preview = self._preview, None
        if preview is None:
            return ""
        return call_reporting_errors(preview.remove, "The preview layer could not be removed")

    def describe_discard(self) -> str:
        """Return the message on a discarded experiment."""
        return DISCARDED_MESSAGE

    def set_busy(self, is_busy: bool) -> None:
        """Disable what must not change during an experiment, or enable it again."""
        self.settings.basic_page.setEnabled(not is_busy)
        self.settings.advanced_page.setEnabled(not is_busy)
        self.inputs.set_busy(is_busy)

    def _on_experiment(self, _: object = None) -> None:
        """Show plot, result and message of the last run only while its experiment is chosen."""
        key = self.settings.experiment.key
        self.plot.setVisible(key == self.plot.experiment and self.plot.point_count > 0)
        self.run_bar.show_message(self.result_panel.choose_experiment(key))

    def _on_settings(self) -> None:
        self.extra_inputs.setVisible("truth" in self.settings.experiment.settings)
        self.show_plan()
