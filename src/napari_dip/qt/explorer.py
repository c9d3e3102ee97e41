"""The dock of the prior explorer: see on your own image why an untrained network restores."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from napari.utils.progress import progress
from napari.utils.theme import get_theme

from napari_dip.errors import Refusal
from napari_dip.explore.designs import called, every_design
from napari_dip.qt.chooser import InputChooser
from napari_dip.qt.docked import Docked, lay_out, single_shot, unveiled
from napari_dip.qt.ending import DISCARDED, attempt
from napari_dip.qt.explorer_asked import AskedExperiment, asked_of
from napari_dip.qt.explorer_plot import ExplorerPlot
from napari_dip.qt.explorer_results import ExplorerResults
from napari_dip.qt.explorer_run import Box, News, explored
from napari_dip.qt.explorer_settings import ExplorerSettings
from napari_dip.qt.fold import Fold
from napari_dip.qt.further import FurtherInputs
from napari_dip.qt.layers import Preview
from napari_dip.qt.run_bar import RunBar, State, sentence_label
from napari_dip.qt.run_queue import Place, run_queue
from napari_dip.qt.worker import BackgroundRun
from napari_dip.tasks import Input

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

_TRUTH = Input(
    "truth",
    "Truth",
    "The same picture without noise, if you have it: tells how good each estimate is.",
    optional=True,
)
#: By their names; of any network, since only what they are called is wanted.
_DESIGNS = every_design()
_TOO_EARLY = "Ended before there was anything to be seen. Give it a little more time."


class PriorExplorer(Docked):
    """Three experiments with the untrained network; nothing is restored.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers are offered.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = unveiled(viewer)
        self._run: BackgroundRun | None = None
        self._asked: AskedExperiment | None = None
        self._place: Place | None = None
        self._preview: Preview | None = None
        self._activity: Any = None
        self._closing = single_shot(self)
        self._last_words = ""
        self.chooser = InputChooser(viewer, asks_axes=False)
        self.chooser.combo.setToolTip(
            "<qt>The image to look at. It follows the layer that is selected in napari.</qt>"
        )
        self.further = FurtherInputs(viewer, (_TRUTH,))
        self.settings = ExplorerSettings()
        self.plan_line = sentence_label()
        self.run_bar = RunBar(kept="what was found so far")
        self.run_bar.pause_button.setToolTip("Hold the computation; what there is stays")
        self.run_bar.discard_button.setToolTip("Stop and throw all of it away")
        self.plot = ExplorerPlot()
        self.results = ExplorerResults(viewer)
        self.fold = Fold("Settings", self.settings.folded)
        above = (self.chooser, self.settings.top, self.further, self.plan_line, self.run_bar)
        lay_out(self, above, (self.fold, self.plot, self.results))
        self._listen()
        self._on_theme()
        self._on_settings()

    @property
    def busy(self) -> bool:
        """Whether an experiment is on, or waits for its turn."""
        return self._asked is not None

    def asked(self) -> AskedExperiment | Refusal:
        """Say what Run would do now, or why it would not; from headers alone."""
        layer = self.chooser.layer()
        if layer is None:
            header = self.chooser.header()
            assert isinstance(header, Refusal)  # there is no layer
            return header
        return asked_of(self._viewer, layer, self.further.layer("truth"), self.settings)

    def show_plan(self, _: object = None) -> None:
        """Bring the line above the buttons up to date; while an experiment is on it stays."""
        if self.busy:
            return
        asked = self.asked()
        refused = isinstance(asked, Refusal)
        self.plan_line.setText(asked.message if isinstance(asked, Refusal) else asked.line)
        self.run_bar.show_state(State.REFUSED if refused else State.READY)

    def start(self) -> None:
        """Begin, or wait in line for other docks."""
        asked = self.asked()
        if self.busy or isinstance(asked, Refusal):
            self.show_plan()
            return
        self._asked = asked
        self._set_busy(True)
        run_queue().join(asked.label, self, self._on_turn)

    def keep(self) -> None:
        """Stop; what was found so far is the outcome."""
        self._wish(State.STOPPING, "Stopping, what was found so far is kept", BackgroundRun.keep)

    def pause(self) -> None:
        """Hold the experiment."""
        self._wish(State.PAUSED, "Paused", BackgroundRun.pause)

    def resume(self) -> None:
        """Go on after a pause."""
        self._wish(State.RUNNING, "Going on", BackgroundRun.resume)

    def discard(self) -> None:
        """Stop and leave nothing of it; the dock is free at once."""
        if self._closing.isActive():  # its outcome is shown already
            self._closing.stop()
            self._finish()
        elif self._run is not None:
            self._run.reported.disconnect(self._on_news)
            self._run.ended.disconnect(self._on_end)
            self._run.discard()
            self.plot.restart(self.settings.experiment)
            self._finish(DISCARDED)
        elif self._place is not None:  # its turn has not come
            self._place.leave()
            self._finish(DISCARDED)

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        self.discard()
        self.results.shut_down()
        self.chooser.disconnect_viewer()
        self.further.disconnect_viewer()
        self._viewer.dims.events.current_step.disconnect(self.show_plan)
        self._viewer.events.theme.disconnect(self._on_theme)

    def _wish(self, state: State, words: str, ask: Callable[[BackgroundRun], None]) -> None:
        if self._run is not None:
            self.run_bar.show_state(state)
            self.run_bar.say(words)
            ask(self._run)

    def _on_turn(self, place: Place) -> None:
        """Begin, or say what is waited for."""
        asked, self._place = self._asked, place
        if asked is None:  # discarded in the meantime
            place.leave()
        elif not place.begun:
            self.run_bar.show_state(State.WAITING)
            self.run_bar.say(place.words)
        elif trouble := attempt(partial(self._begin, asked, place), "It could not be started"):
            self.discard()
            self.run_bar.say(trouble)

    def _begin(self, asked: AskedExperiment, place: Place) -> None:
        begin = partial(explored, asked.wish)
        self._run = BackgroundRun(asked.plan, asked.pixels, self, place.leave, begin, Box())
        self._run.reported.connect(self._on_news)
        self._run.ended.connect(self._on_end)
        self.results.forget()
        self.plot.restart(asked.wish.experiment)
        self._preview = Preview(self._viewer, asked.wish.name, asked.look)
        self.run_bar.show_state(State.RUNNING)
        self.run_bar.say("Getting ready")
        self._activity = progress(total=100, desc=place.label)
        self._run.start()

    def _on_news(self, news: News) -> None:
        self.run_bar.show_event(news.event)
        self.plot.extend(
            (group and called(_DESIGNS[group]), iteration, values)
            for group, iteration, values in news.points
        )
        if self._preview is not None:
            failing = "The preview cannot be shown"
            attempt(partial(self._preview.show, news.picture), failing)
        if self._activity is not None:  # last, since napari lets other events in here
            self._activity.update(max(0, round(100 * news.event.fraction) - self._activity.n))

    def _on_end(self, outcome: Any) -> None:
        asked = self._asked
        if isinstance(outcome, Refusal):
            self._finish(outcome.message)
            show_error(outcome.message)
        elif outcome is None or asked is None:
            self._finish(_TOO_EARLY)
        else:
            self.run_bar.discard_button.setEnabled(False)  # too late for that
            told: list[str] = []
            failing = "What was found cannot be shown"
            trouble = attempt(lambda: told.append(self.results.show_found(asked, outcome)), failing)
            self._last_words = "\n".join([trouble] if trouble else told)
            self._closing.start()  # the preview goes in a breath of its own

    def _finish(self, words: str = "") -> None:
        """Drop all that belonged to the experiment and make the dock ready again."""
        if self._asked is None:  # discarded in the meantime
            return
        activity, preview = self._activity, self._preview
        self._run = self._asked = self._activity = self._place = self._preview = None
        said = [words or self._last_words]
        if preview is not None:
            said.append(attempt(preview.remove, "The preview layer could not be removed"))
        self._set_busy(False)
        self.run_bar.say(" ".join(filter(None, said)))
        if activity is not None:
            attempt(activity.close, "The activity could not be closed")

    def _set_busy(self, busy: bool) -> None:
        for part in (self.chooser, self.further, self.settings.top, self.settings.folded):
            part.setEnabled(not busy)
        if not busy:
            self.run_bar.show_state(State.READY)  # whatever the new plan says
            attempt(self.chooser.refresh, "The list of images could not be brought up to date")

    def _listen(self) -> None:
        self.chooser.changed.connect(self._on_image)
        self.further.changed.connect(self.show_plan)
        self.settings.changed.connect(self._on_settings)
        self.run_bar.run_pressed.connect(self.start)
        self.run_bar.keep_pressed.connect(self.keep)
        self.run_bar.pause_pressed.connect(self.pause)
        self.run_bar.resume_pressed.connect(self.resume)
        self.run_bar.discard_pressed.connect(self.discard)
        self.results.said.connect(self.run_bar.say_also)
        self.results.chosen.connect(lambda one: self.plot.show_group(*one))
        self._closing.timeout.connect(self._finish)
        self._viewer.dims.events.current_step.connect(self.show_plan)
        self._viewer.events.theme.connect(self._on_theme)

    def _on_image(self) -> None:
        self.further.set_image(self.chooser.layer())
        self.show_plan()

    def _on_settings(self) -> None:
        self.further.setVisible(self.settings.experiment != "impedance")
        self.show_plan()

    def _on_theme(self, _: object = None) -> None:
        theme = get_theme(self._viewer.theme)
        self.plot.recolour(theme.text.as_hex(), theme.background.as_hex())
