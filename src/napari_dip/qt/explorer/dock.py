"""The dock of the prior explorer: see on your own image why an untrained network restores."""

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
from napari_dip.qt.shell.run_completion import attempt
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
#: By their names; of any network, since only what they are called is wanted.
_ALL_ARCHITECTURES = list_all_architectures()


class PriorExplorer(LayerDock):
    """Three experiments with the untrained network; nothing is restored.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers are offered.
    """

    too_early = "Ended before there was anything to be seen. Give it a little more time."

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer, RunBar(kept="what was found so far"), (_TRUTH,), asks_axes=False)
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
        self.fold = CollapsibleSection("Settings", self.settings.folded)
        above = (self.chooser, self.settings.top, self.further, self.plan_line, self.run_bar)
        lay_out(self, above, (self.fold, self.plot, self.results))
        self.settings.changed.connect(self._on_settings)
        self.results.said.connect(self.run_bar.say_also)
        self.results.chosen.connect(lambda item: self.plot.show_group(*item))
        self._viewer.dims.events.current_step.connect(self.show_plan)
        self._on_theme()
        self._on_settings()

    def check_request(self) -> PlannedExperiment | Refusal:
        """Say what Run would do now, or why it would not; from headers alone."""
        layer = self.chooser.layer()
        if layer is None:
            header = self.chooser.header()
            assert isinstance(header, Refusal)  # there is no layer
            return header
        return plan_experiment(self._viewer, layer, self.further.layer("truth"), self.settings)

    def show_plan(self, _: object = None) -> None:
        """Bring the line above the buttons up to date; while an experiment is on it stays."""
        if self.busy:
            return
        request = self.check_request()
        refused = isinstance(request, Refusal)
        self.plan_line.setText(request.message if isinstance(request, Refusal) else request.line)
        self.run_bar.show_state(RunBarState.REFUSED if refused else RunBarState.IDLE)

    def start(self) -> None:
        """Begin, or wait in line for other docks."""
        request = self.check_request()
        if self.busy or isinstance(request, Refusal):
            self.show_plan()
            return
        self._join(request)

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        super().shut_down()
        self.results.shut_down()
        self._viewer.dims.events.current_step.disconnect(self.show_plan)

    def _make_run(self, experiment: PlannedExperiment, over: Callable[[], object]) -> BackgroundRun:
        begin = partial(run_experiment, experiment.request)
        return BackgroundRun(
            experiment.plan, experiment.pixels, self, over, begin, ExperimentProgressQueue()
        )

    def _prepare(self, experiment: PlannedExperiment) -> None:
        self.results.forget()
        self.plot.restart(experiment.request.experiment)
        self._preview = Preview(self._viewer, experiment.request.name, experiment.look)
        self.plan_line.setText(experiment.line_on)  # the bar tells the time now

    def _show(self, news: ExperimentProgress) -> None:
        self.run_bar.show_event(news.event)
        self.plot.extend(
            (group and label_architecture(_ALL_ARCHITECTURES[group]), iteration, values)
            for group, iteration, values in news.points
        )
        if self._preview is not None:
            failing = "The preview cannot be shown"
            attempt(partial(self._preview.show, news.picture), failing)

    def _taken(self, experiment: PlannedExperiment, outcome: Any) -> str:
        facts: list[str] = []
        failing = "What was found cannot be shown"
        trouble = attempt(
            lambda: facts.append(self.results.show_found(experiment, outcome)), failing
        )
        return "\n".join([trouble] if trouble else facts)

    def _put_away(self) -> str:
        preview, self._preview = self._preview, None
        if preview is None:
            return ""
        return attempt(preview.remove, "The preview layer could not be removed")

    def _forget(self) -> None:
        self.plot.restart(self.settings.experiment)

    def _close_parts(self, busy: bool) -> None:
        self.settings.top.setEnabled(not busy)
        self.settings.folded.setEnabled(not busy)
        super()._close_parts(busy)

    def _on_settings(self) -> None:
        self.further.setVisible(self.settings.experiment != "impedance")
        self.show_plan()

    def _plots(self) -> Sequence[Any]:
        return (self.plot,)
