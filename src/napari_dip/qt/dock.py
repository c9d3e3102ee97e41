"""The dock of a task: choose an image, read the plan, run, watch, keep.

The dock holds no settings and no pictures of its own: it reads a recipe from the form, asks
`preflight` for a plan, and drains a run in another thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from napari.utils.notifications import show_error
from napari.utils.progress import progress
from napari.utils.theme import get_theme

from napari_dip.errors import Refusal, Refused
from napari_dip.qt.asked import Asked, asked_of
from napari_dip.qt.chooser import InputChooser
from napari_dip.qt.docked import Docked, lay_out, single_shot, unveiled
from napari_dip.qt.ending import DISCARDED, DISCARDED_REST, TOO_EARLY, Results, attempt
from napari_dip.qt.fold import Fold
from napari_dip.qt.form import SettingsForm, has_noise
from napari_dip.qt.further import FurtherInputs
from napari_dip.qt.history import History
from napari_dip.qt.noise_section import NoiseSection
from napari_dip.qt.plot import HeldOutCurve
from napari_dip.qt.preferences import first_preset, my_machine
from napari_dip.qt.recovery import RecoveryOffer
from napari_dip.qt.repeat_fold import RepeatFold
from napari_dip.qt.run_bar import RunBar, State, sentence_label
from napari_dip.qt.run_queue import Place, run_queue
from napari_dip.qt.trust import ResultView
from napari_dip.qt.trying import TryFold
from napari_dip.qt.worker import BackgroundRun, News, Outcome
from napari_dip.run.events import Restoration
from napari_dip.run.plan import Plan, preflight
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari.viewer


class TaskDock(Docked):
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

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = unveiled(viewer)
        self._run: BackgroundRun | None = None
        self._asked: Asked | None = None
        self._place: Place | None = None
        self._then: list[Asked] = []
        self._activity: Any = None
        self._last_words = ""
        self._remarks: list[str] = []
        self.view = ResultView(viewer)
        self._results = Results(viewer, self.view.show)
        self._closing = single_shot(self)
        self.chooser = InputChooser(viewer)
        self.further = FurtherInputs(viewer, TASKS[self.task].inputs[1:])
        self.form = SettingsForm(self.task)
        self.repeat = RepeatFold(viewer, self.form, self.chooser, self.further)
        self.plan_line = sentence_label()
        self.run_bar = RunBar()
        self.curve = HeldOutCurve()
        self.history = History(viewer)
        self.noise = NoiseSection(self.chooser, self.form)
        self.settings = Fold("Settings", self.form.folded)
        self.trying = TryFold(viewer, self.chooser, self.further, self.form, self.plan)
        self.recovery = RecoveryOffer(viewer, self.chooser, self.further, self.form)
        self._arrange()
        self._listen()
        self._on_theme()
        self._on_image()
        self.run_bar.say(self.repeat.take_up())
        self.form.widgets["preset"].value = first_preset() or self.form.widgets["preset"].value

    def plan(self) -> Plan | Refusal:
        """Say what Run would do now, or why it would not; from headers alone."""
        header = self.chooser.header()
        if isinstance(header, Refusal):
            return header
        try:
            return preflight(self.form.recipe(), header, my_machine(), self.further.headers())
        except Refused as error:
            return error.refusal

    def show_plan(self) -> None:
        """Bring the line above the buttons up to date; while a run is on it stays."""
        if self.busy:
            return
        plan = self.plan()
        if isinstance(plan, Refusal):
            self.plan_line.setText(plan.message)
            self.run_bar.show_state(State.REFUSED)
        else:
            self.plan_line.setText("\n".join([plan.line, *plan.notes]))
            self.run_bar.show_state(State.READY)

    @property
    def busy(self) -> bool:
        """Whether a run is on, or waits for its turn."""
        return self._asked is not None

    def start(self) -> None:
        """Begin what the plan line says, or wait in line for other docks."""
        layer, plan = self.chooser.layer(), self.plan()
        if self.busy or layer is None or isinstance(plan, Refusal):
            self.show_plan()
            return
        asked: list[Asked] = []
        failing = "The run could not be started"
        if trouble := attempt(lambda: asked.append(asked_of(plan, layer, self.further)), failing):
            self.run_bar.say(trouble)
            return
        self.repeat.remember(plan.recipe)
        self.run(asked)

    def run(self, asked: Sequence[Asked]) -> None:
        """Run what was asked for, one after another, when the queue lets it."""
        self._asked, *self._then = asked
        self._set_busy(True)
        run_queue().join(self._asked.label, self, self._on_turn)

    def _on_turn(self, place: Place) -> None:
        """Begin, or say what is waited for."""
        asked, self._place = self._asked, place
        if asked is None:  # discarded in the meantime
            place.leave()
        elif not place.begun:
            self.run_bar.show_state(State.WAITING)
            self.run_bar.say(place.words)
        elif trouble := attempt(lambda: self._begin(asked, place), "The run could not be started"):
            self.discard()
            self.run_bar.say(trouble)

    def _begin(self, asked: Asked, place: Place) -> None:
        self._run = BackgroundRun(asked.plan, asked.pixels, self, place.leave, asked.begin)
        self._run.reported.connect(self._on_news)
        self._run.ended.connect(self._on_end)
        self.view.comparison.forget()
        self.history.begin(asked)
        self._remarks = []
        self.curve.restart()
        self.plan_line.setText("\n".join([asked.plan.line, *asked.plan.notes]))
        self.run_bar.show_state(State.RUNNING)
        self.run_bar.say("Getting ready")
        self._activity = progress(total=100, desc=place.label)
        self._run.start()

    def keep(self) -> None:
        """Stop the run; its best picture becomes the result."""
        words = "Stopping, the best picture so far is kept"
        self._wish(State.STOPPING, words, BackgroundRun.keep)

    def pause(self) -> None:
        """Hold the run."""
        self._wish(State.PAUSED, "Paused", BackgroundRun.pause)

    def resume(self) -> None:
        """Go on after a pause."""
        self._wish(State.RUNNING, "Going on", BackgroundRun.resume)

    def _wish(self, state: State, words: str, ask: Callable[[BackgroundRun], None]) -> None:
        if self._run is not None:
            self.run_bar.show_state(state)
            self.run_bar.say(words)
            ask(self._run)

    def discard(self) -> None:
        """Stop the run and leave nothing of it; the dock is free at once."""
        self._then = []
        if self._closing.isActive():  # its result is in the viewer already
            self._closing.stop()
            self._finish()
        elif self._run is not None:
            self._run.reported.disconnect(self._on_news)
            self._run.ended.disconnect(self._on_end)
            self._run.discard()
            self._finish(DISCARDED if not self.history.any_kept else DISCARDED_REST)
            self.history.forget()
        elif self._place is not None:  # its turn has not come
            self._place.leave()
            self._finish(DISCARDED)

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        self.discard()
        for part in (self.noise, self.repeat, self.trying, self.recovery, self.view):
            part.shut_down()
        self.history.forget()
        self.chooser.disconnect_viewer()
        self.further.disconnect_viewer()
        self._viewer.events.theme.disconnect(self._on_theme)

    def _on_news(self, news: News) -> None:
        event, activity = news.event, self._activity
        failing = "The preview cannot be shown, but the run goes on"
        trouble = attempt(lambda: self.history.show_event(event), failing)
        self._remarks += filter(None, [trouble])
        self.run_bar.show_event(event, self._remarks)
        self.curve.extend(news.points, event.best_iteration)
        if activity is not None:  # last, since napari lets other events in here
            activity.update(max(0, round(100 * event.fraction) - activity.n))

    def _on_end(self, outcome: Outcome) -> None:
        asked = self._asked
        if isinstance(outcome, Restoration) and asked is not None:
            self.run_bar.discard_button.setEnabled(False)  # too late for that
            self.history.note(outcome)
            self._last_words = self._results.add(asked.answered(outcome), self._remarks)
            self.run_bar.add_button.setVisible(self._results.waiting)
            # napari collects garbage whenever a layer goes: not in the same breath as adding one
            self._closing.start()
        elif isinstance(outcome, Refusal):
            self._finish(outcome.message)
            show_error(outcome.message)
        else:
            self._finish(TOO_EARLY)

    def _on_add(self) -> None:
        self.run_bar.say(self._results.add_waiting())
        self.run_bar.add_button.setVisible(self._results.waiting)

    def _finish(self, words: str = "") -> None:
        """Drop all that belonged to the run and make the dock ready again, come what may."""
        if self._asked is None:  # discarded in the meantime
            return
        activity, then = self._activity, [] if words else self._then
        self._run = self._asked = self._activity = self._place = None
        said = [words or self._last_words]
        said.append(attempt(self.history.end, "The preview layer could not be removed"))
        self._set_busy(False)
        self.run_bar.say(" ".join(filter(None, said)))
        if activity is not None:
            attempt(activity.close, "The activity could not be closed")
        if then:
            self.run(then)
        else:
            attempt(self.trying.end, "The results could not be shown side by side")

    def _set_busy(self, busy: bool) -> None:
        form = self.form
        for part in (self.chooser, self.further, form.top, form.folded, self.noise):
            part.setEnabled(not busy)
        for fold in (self.repeat, self.trying, self.recovery):
            fold.set_busy(busy)
        if not busy:
            self.run_bar.show_state(State.READY)  # whatever the new plan says
            attempt(self.chooser.refresh, "The list of images could not be brought up to date")

    def _listen(self) -> None:
        self.chooser.changed.connect(self._on_image)
        self.further.changed.connect(self.show_plan)
        self.form.changed.connect(self.show_plan)
        self.run_bar.run_pressed.connect(self.start)
        self.run_bar.keep_pressed.connect(self.keep)
        self.run_bar.pause_pressed.connect(self.pause)
        self.run_bar.resume_pressed.connect(self.resume)
        self.run_bar.discard_pressed.connect(self.discard)
        self.run_bar.add_pressed.connect(self._on_add)
        self._closing.timeout.connect(self._finish)
        self.trying.wanted.connect(self.run)
        self.recovery.wanted.connect(self.run)
        self.trying.applied.connect(self.start)
        for part in (self.repeat, self.trying, self.recovery):
            part.said.connect(self.run_bar.say_also)
        self.history.moved.connect(self.curve.mark)
        self.view.comparison.slider.valueChanged.connect(self.history.rest)
        self._viewer.events.theme.connect(self._on_theme)

    def _on_image(self) -> None:
        self.further.set_image(self.chooser.layer())
        self.show_plan()

    def _on_theme(self, _: object = None) -> None:
        theme = get_theme(self._viewer.theme)
        for plot in (self.curve, self.noise.plot, self.view.profile.plot):
            plot.recolour(theme.text.as_hex(), theme.background.as_hex())

    def _arrange(self) -> None:
        self.noise.setVisible(has_noise(self.form))
        asked = (self.chooser, self.further, self.form.top, self.plan_line, self.run_bar)
        folds = (self.trying, self.view.profile, self.noise, self.settings, self.repeat)
        long = (self.history, self.view.also, self.curve, *folds)
        lay_out(self, (self.recovery, *asked, self.view.comparison), long)
