"""The dock of the prior explorer: experiments with an untrained network on the user's image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal
from napari_dip.explore.experiment_setup import label_architecture, list_all_architectures
from napari_dip.qt.explorer.plot import ExplorerPlot
from napari_dip.qt.explorer.request import PlannedExperiment, plan_experiment
from napari_dip.qt.explorer.results import ExplorerResults
from napari_dip.qt.explorer.run import ExperimentProgress, ExperimentProgressQueue, run_experiment
from napari_dip.qt.explorer.settings import ExplorerSettings
from napari_dip.qt.shell.dock_widget import CollapsibleSection, lay_out
from napari_dip.qt.shell.layer_dock import LayerDock
from napari_dip.qt.shell.layers import Preview
from napari_dip.qt.shell.run_bar import RunBar, RunBarState
from napari_dip.qt.shell.run_completion import call_reporting_errors
from napari_dip.qt.shell.worker import BackgroundRun
from napari_dip.tasks import Input

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer

_TRUTH = Input(
    name="truth",
    label="Truth",
    help="The same picture without noise, if you have it: tells how good each estimate is.",
    optional=True,
)
#: Architectures by name, used for their labels only.
_ALL_ARCHITECTURES = list_all_architectures()


class PriorExplorer(LayerDock):
    """The dock for three experiments with an untrained network, which restore no image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers fill the list.
    """

    empty_result_message = "Ended before there was anything to be seen. Give it a little more time."

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(
            viewer, RunBar(kept_label="what was found so far"), (_TRUTH,), asks_axes=False
        )
        self._preview: Preview | None = None
        self.chooser.combo.setToolTip(
            "<qt>The image to look at. It follows the layer that is selected in napari, "
            "unless that is a result.</qt>"
        )
        self.settings = ExplorerSettings()
        self.run_bar.pause_button.setToolTip("Hold the computation; what there is stays")
        self.run_bar.discard_button.setToolTip("Stop and throw all of it away")
        self.plot = ExplorerPlot()
        self.results = ExplorerResults(self._viewer)
        self.fold = CollapsibleSection("Settings", self.settings.advanced_page)
        visible_widgets = (
            self.chooser,
            self.settings.basic_page,
            self.extra_inputs,
            self.plan_label,
            self.run_bar,
        )
        lay_out(self, visible_widgets, (self.fold, self.plot, self.results))
        self.settings.changed.connect(self._on_settings)
        self.results.message_emitted.connect(self.run_bar.prepend_message)
        self.results.chosen.connect(lambda item: self.plot.show_group(*item))
        self._viewer.dims.events.current_step.connect(self.show_plan)
        self._on_theme()
        self._on_settings()

    def check_request(self) -> PlannedExperiment | Refusal:
        """Return the experiment of the present settings, or a refusal, from headers alone."""
        layer = self.chooser.get_layer()
        if layer is None:
            header = self.chooser.read_header()
            assert isinstance(header, Refusal)  # there is no layer
            return header
        return plan_experiment(
            self._viewer, layer, self.extra_inputs.get_layer("truth"), self.settings
        )

    def show_plan(self, _: object = None) -> None:
        """Update the plan above the buttons, unless an experiment is on."""
        if self.is_busy:
            return
        request = self.check_request()
        is_refused = isinstance(request, Refusal)
        self.plan_label.setText(
            request.message if isinstance(request, Refusal) else request.summary
        )
        self.run_bar.show_state(RunBarState.REFUSED if is_refused else RunBarState.IDLE)

    def start(self) -> None:
        """Start the experiment, or add it to the queue."""
        request = self.check_request()
        if self.is_busy or isinstance(request, Refusal):
            self.show_plan()
            return
        self._join(request)

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        super().shut_down()
        self.results.shut_down()
        self._viewer.dims.events.current_step.disconnect(self.show_plan)

    def _make_run(
        self, experiment: PlannedExperiment, on_finished: Callable[[], object]
    ) -> BackgroundRun:
        begin = partial(run_experiment, experiment.request)
        return BackgroundRun(
            experiment.plan, experiment.pixels, self, on_finished, begin, ExperimentProgressQueue()
        )

    def _prepare(self, experiment: PlannedExperiment) -> None:
        self.results.forget()
        self.plot.restart(experiment.request.experiment)
        self._preview = Preview(self._viewer, experiment.request.name, experiment.layer_attributes)
        self.plan_label.setText(experiment.running_summary)  # without the time: the bar shows it

    def _show(self, news: ExperimentProgress) -> None:
        self.run_bar.show_event(news.event)
        self.plot.extend(
            (group and label_architecture(_ALL_ARCHITECTURES[group]), iteration, values)
            for group, iteration, values in news.points
        )
        if self._preview is not None:
            failing = "The preview cannot be shown"
            call_reporting_errors(partial(self._preview.show, news.picture), failing)

    def _accept_result(self, experiment: PlannedExperiment, outcome: Any) -> str:
        messages: list[str] = []
        failing = "What was found cannot be shown"
        error_message = call_reporting_errors(
            lambda: messages.append(self.results.show_result(experiment, outcome)), failing
        )
        return "\n".join([error_message] if error_message else messages)

    def _release_run(self) -> str:
        preview, self._preview = self._preview, None
        if preview is None:
            return ""
        return call_reporting_errors(preview.remove, "The preview layer could not be removed")

    def _clear_discarded_run(self) -> None:
        self.plot.restart(self.settings.experiment.key)

    def _lock_parts(self, busy: bool) -> None:
        self.settings.basic_page.setEnabled(not busy)
        self.settings.advanced_page.setEnabled(not busy)
        super()._lock_parts(busy)

    def _on_settings(self) -> None:
        self.extra_inputs.setVisible("truth" in self.settings.experiment.settings)
        self.show_plan()

    def _plots(self) -> Sequence[Any]:
        return (self.plot,)
