"""The plan line, the run buttons, the progress and the messages of a dock's jobs."""

from __future__ import annotations

import re
import time
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast
from weakref import WeakSet

from napari.utils.notifications import show_error, show_info
from napari.utils.progress import progress
from napari.utils.theme import get_theme
from qtpy.QtCore import QEvent, QObject, QPointF, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap, QPolygonF, QTextLayout, QTextOption
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QPushButton, QSizePolicy, QWidget

from napari_dip.errors.templates import format_duration, make_lines_printable
from napari_dip.pipeline.assess.card import VERDICT_COLOURS
from napari_dip.pipeline.progress import Event
from napari_dip.qt.shell.background_call import call_reporting_errors, stop_parts
from napari_dip.qt.shell.dock_widget import (
    Connections,
    fill_grid,
    load_button,
    require,
    unwrap_viewer,
)
from napari_dip.qt.shell.job_controller import KEPT_LABEL, JobController, JobState, JobView
from napari_dip.qt.shell.preferences import register_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari.viewer import Viewer
    from qtpy.QtGui import QResizeEvent

    from napari_dip.errors import Fault
    from napari_dip.qt.shell.background_call import JobProgress
    from napari_dip.qt.shell.job_controller import JobRequest

#: Largest number of visible lines; a window of 1280 x 720 leaves room for the widgets below.
MAX_MESSAGE_LINES = 10
#: Largest number of lines beyond `max_lines` with which a text is still shown whole.
_MAX_SPARE_LINES = 2
_LINK_STYLE = "QPushButton { background: transparent; padding: 0px 4px; text-align: left; }"
#: Distance of a text from the edge in pixels, as Qt chooses it with napari's style.
_INDENT = 4
#: Events other than a resize that change the height of a text. napari sets style and font of a dock
#: after its text, and again with each theme.
_STYLE_EVENTS = (QEvent.Type.LayoutRequest, QEvent.Type.StyleChange, QEvent.Type.FontChange)
#: An option and its value, in brackets: " (--tile 512)".
_OPTION = re.compile(r" \(--[a-z][^()]*\)")
#: Seconds after the start in which a click on Run, the second of a double click, is ignored.
_DOUBLE_CLICK_SECONDS = 0.5
#: Seconds of a run after which its end is announced in napari: who waits longer looks elsewhere.
_LONG_SECONDS = 30.0
#: Icons of buttons and text fields: corners of polygons in a square of 16 units.
_ICON_SIDE = 16
_ICONS: dict[str, tuple[tuple[tuple[int, int], ...], ...]] = {
    "run": (((4, 2), (4, 14), (14, 8)),),
    "pause": (((3, 2), (3, 14), (7, 14), (7, 2)), ((9, 2), (9, 14), (13, 14), (13, 2))),
    "stop": (((3, 3), (3, 13), (13, 13), (13, 3)),),
    "choices": (((2, 5), (14, 5), (8, 12)),),
    "folder": (
        ((1, 2), (1, 13), (3, 6), (13, 6), (13, 4), (7, 4), (6, 2)),
        ((4, 7), (15, 7), (13, 14), (2, 14)),
    ),
    "discard": (((2, 4), (4, 2), (14, 12), (12, 14)), ((12, 2), (14, 4), (4, 14), (2, 12))),
}
#: States in which the first button stops the job.
_BUSY_STATES = {JobState.RUNNING, JobState.PAUSED, JobState.STOPPING, JobState.FINISHED}


class FoldedLabel(QWidget):
    """A label as tall as its text; a line to click on stands for what exceeds `max_lines`.

    Texts are cut between their lines, never within one that wraps: a sentence is shown whole.
    """

    def __init__(self, label: QLabel, *, max_lines: int = MAX_MESSAGE_LINES) -> None:
        super().__init__()
        self._label, self._max_lines = label, max_lines
        self._line_ends: list[tuple[int, str]] = []
        self._is_unfolded = False
        self.more_button: QPushButton = load_button("message-more", self._unfold)
        self.more_button.setStyleSheet(_LINK_STYLE)
        self.more_button.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        for widget in (label, self.more_button):
            widget.setParent(self)
        label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        label.setIndent(_INDENT)  # Qt chooses one by the style, from the left and from the top
        self.show_text("")

    def show_text(self, text: str) -> None:
        """Show a text, of which a long one is folded."""
        self._is_unfolded = False
        self._label.setText(text)
        self._fit_height()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Adapt the height: sentences take more lines in a narrow dock."""
        super().resizeEvent(event)
        self._fit_height()

    def event(self, event: QEvent | None) -> bool:
        """Adapt the height to a change of font or style."""
        is_handled = super().event(event)
        if event is not None and event.type() in _STYLE_EVENTS:
            self._fit_height()
        return is_handled

    def _unfold(self) -> None:
        self._is_unfolded = True
        self._fit_height()

    def _fit_height(self) -> None:
        """Set the height to that of the lines in sight and of the line that stands for others."""
        width = max(1, self.width())
        self._line_ends = self._break_lines(width)
        visible_count = self._count_visible_lines()
        is_folded = visible_count < len(self._line_ends)
        height = self._label.heightForWidth(width)
        if is_folded:
            margin = self._label.contentsRect().top() + _INDENT
            height = margin + self._line_ends[visible_count - 1][0]
            self.more_button.setText(self._describe_hidden_lines(visible_count))
        button_height = self.more_button.sizeHint().height() if is_folded else 0
        self._label.setGeometry(0, 0, width, height)
        self.more_button.setGeometry(0, height, width, button_height)
        self.more_button.setVisible(is_folded)
        self.setFixedHeight(max(1, height + button_height))

    def _count_visible_lines(self) -> int:
        """Return how many lines are visible: all, or those up to the end of a sentence."""
        line_count = len(self._line_ends)
        # the line below would stand for hardly more than itself
        if self._is_unfolded or line_count <= self._max_lines + _MAX_SPARE_LINES:
            return line_count
        ends = [
            number
            for number, (_, text) in enumerate(self._line_ends, 1)
            if text.endswith("\n") or number == line_count
        ]
        return max((end for end in ends if end <= self._max_lines), default=ends[0])

    def _break_lines(self, width: int) -> list[tuple[int, str]]:
        """Return bottom edge (in pixels) and text of each line, wrapped as the label wraps it."""
        text = self._label.text()
        layout = QTextLayout(text.replace("\n", "\u2028"), self._label.font())
        option = QTextOption()
        option.setWrapMode(QTextOption.WrapMode.WordWrap)
        layout.setTextOption(option)
        frame_width = self._label.width() - self._label.contentsRect().width() + _INDENT
        ends: list[tuple[int, str]] = []
        bottom = 0
        layout.beginLayout()
        while (line := layout.createLine()).isValid():
            line.setLineWidth(max(1, width - frame_width))
            line.setPosition(QPointF(0, bottom))
            bottom = ceil(bottom + line.height())
            ends.append((bottom, text[line.textStart() :][: line.textLength()]))
        layout.endLayout()
        return ends

    def _describe_hidden_lines(self, visible_count: int) -> str:
        """Return how many lines are hidden below, and whether one of them is a warning."""
        hidden_lines = [text for _, text in self._line_ends[visible_count:]]
        warning = ", with a warning ⚠" if any("⚠" in text for text in hidden_lines) else ""
        return f"▼ {len(hidden_lines)} more lines{warning}"


class RunBar(QWidget):
    """Run buttons, a progress bar and a message; emits signals for the buttons of two meanings.

    Parameters
    ----------
    kept_label : str
        What stopping keeps, for the tooltip and for messages.
    stop_label : str
        The label of the first button during a run.
    can_discard : bool
        Whether a run can be discarded; a run in the queue always can.
    """

    run_pressed: Signal = Signal()
    keep_pressed: Signal = Signal()
    pause_pressed: Signal = Signal()
    resume_pressed: Signal = Signal()

    def __init__(
        self,
        *,
        kept_label: str = KEPT_LABEL,
        stop_label: str = "Stop and keep",
        can_discard: bool = True,
    ) -> None:
        super().__init__()
        self.kept_label: str = kept_label
        self._stop_label, self._can_discard = stop_label, can_discard
        self._start_label = "Run"
        self.state: JobState = JobState.IDLE
        self._last_event_time, self._message = 0.0, ""
        self._last_shown_event: tuple[Event, tuple[str, ...]] | None = None
        self._second_timer = QTimer(self)
        self._second_timer.setInterval(1000)
        self._second_timer.timeout.connect(self._on_second)
        self.run_button: QPushButton = QPushButton("Run")
        self.pause_button: QPushButton = QPushButton("Pause")
        self.discard_button: QPushButton = load_button("run-discard")
        self.add_button: QPushButton = QPushButton("Add the result")
        self.selected_button: QPushButton = load_button("run-selected")
        self.undo_button: QPushButton = load_button("run-undo")
        self.bar: QProgressBar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.message_label: QLabel = make_message_label()
        self.message_area: FoldedLabel = FoldedLabel(self.message_label)
        self._build_layout()
        self.run_button.clicked.connect(self._on_run)
        self.pause_button.clicked.connect(self._on_pause)
        self._icons: dict[str, QIcon] = {}
        self.recolour("white", "grey")

    def recolour(self, text: str, accent: str) -> None:
        """Apply the colours of a theme to the icons, and its accent to the first button."""
        self._icons = {name: make_icon(name, text) for name in _ICONS}
        self.run_button.setStyleSheet(
            f"QPushButton:enabled {{ background-color: {accent}; font-weight: bold; }}"
        )
        self.discard_button.setIcon(self._icons["discard"])
        self.show_state(self.state)

    def show_state(self, state: JobState) -> None:
        """Set labels, tooltips and availability of the buttons for a state."""
        if state is JobState.RUNNING and self.state in (JobState.PLANNED, JobState.WAITING):
            self._last_event_time = time.monotonic()
            self._last_shown_event = Event(message="Getting ready"), ()
            self.bar.setValue(0)
            self._second_timer.start()
        self.state = state
        is_busy = state in _BUSY_STATES
        is_waiting = state is JobState.WAITING
        self.run_button.setText(
            self._stop_label if is_busy else "Waiting" if is_waiting else self._start_label
        )
        self.run_button.setToolTip(
            f"Stop now and keep {self.kept_label}" if is_busy else "Start, as the line above says"
        )
        self.run_button.setEnabled(state in (JobState.PLANNED, JobState.RUNNING, JobState.PAUSED))
        self.pause_button.setText("Resume" if state is JobState.PAUSED else "Pause")
        self.pause_button.setEnabled(state in (JobState.RUNNING, JobState.PAUSED))
        self.run_button.setIcon(self._icons["stop" if is_busy else "run"])
        self.pause_button.setIcon(self._icons["run" if state is JobState.PAUSED else "pause"])
        # a finished job has an outcome already
        self.discard_button.setEnabled(state in _BUSY_STATES - {JobState.FINISHED} or is_waiting)
        self.discard_button.setVisible(self._can_discard or is_waiting)
        self.bar.setVisible(is_busy)
        if not is_busy:
            self._second_timer.stop()

    def press_run(self) -> None:
        """Press the first button, if it starts a job."""
        if self.state is JobState.PLANNED:
            self.run_button.click()

    def press_stop(self) -> None:
        """Press the first button, if it stops a job."""
        if self.state in _BUSY_STATES:
            self.run_button.click()

    def set_start_label(self, text: str) -> None:
        """Set the label of the first button before a run."""
        self._start_label = text
        self.show_state(self.state)

    def show_event(self, event: Event, remarks: Iterable[str] = ()) -> None:
        """Update progress bar and message, with the remarks below.

        While the fraction is 0, seconds are counted: they take 3 % of a core without a GPU, and an
        animated bar 31 % (window of 1280 x 720 with Mesa's llvmpipe).
        """
        if self.state is not JobState.RUNNING:
            return
        self._last_shown_event = event, tuple(remarks)
        self.bar.setValue(round(1000 * event.fraction))
        phrases = [event.message.rstrip(".")]
        seconds = int(time.monotonic() - self._last_event_time)
        if seconds and not event.fraction:
            phrases.append(f"{seconds} s so far")
        if event.iterations:
            phrases.append(f"iteration {event.iteration} of {event.iterations}")
        if event.seconds_left is not None and event.fraction < 1:
            phrases.append(f"at most {format_duration(event.seconds_left)} left")
        # each phrase stays on one line
        progress = " · ".join(phrase.replace(" ", "\u00a0") for phrase in phrases)
        self.message_area.show_text("\n".join([progress, *remarks]))

    def show_message(self, text: str) -> None:
        """Show a message."""
        self._message = text
        self.message_area.show_text(text)

    def prepend_message(self, text: str) -> None:
        """Show a text above the last message, until the next message."""
        self.message_area.show_text("\n".join(filter(None, [text, self._message])))

    def show_passing_message(self, text: str) -> None:
        """Show a text instead of the last message, until the next message or change of settings."""
        self.show_message("")
        self.prepend_message(text)

    def clear_message(self) -> None:
        """Remove the last message, unless it is about a waiting result."""
        if self.add_button.isHidden():
            self.show_message("")

    def _on_second(self) -> None:
        """Update the count of seconds while there is no progress to show."""
        if self._last_shown_event is not None and not self._last_shown_event[0].fraction:
            self.show_event(*self._last_shown_event)

    def _on_run(self) -> None:
        if self.state is JobState.PLANNED:
            self.run_pressed.emit()
        elif time.monotonic() - self._last_event_time > _DOUBLE_CLICK_SECONDS:
            self.keep_pressed.emit()

    def _on_pause(self) -> None:
        (self.resume_pressed if self.state is JobState.PAUSED else self.pause_pressed).emit()

    def _build_layout(self) -> None:
        run, pause, discard = self.run_button, self.pause_button, self.discard_button
        buttons = ([run], [pause, discard]) if self._can_discard else ([run, pause], [discard])
        hidden = (self.undo_button, self.selected_button, self.add_button)  # until they can act
        rows = [[widget] for widget in (self.bar, self.message_area, *hidden)]
        fill_grid(self, (*buttons, *rows), spacing=4)
        for button in hidden:
            button.setVisible(False)
        self.add_button.setToolTip("Try again to add the restored image as a layer")
        self.pause_button.setToolTip("Hold the computation; the image so far stays")


def make_icon(name: str, colour: str) -> QIcon:
    """Draw an icon of `_ICONS`, and a faint one for a disabled button."""
    icon = QIcon()
    for mode, alpha in ((QIcon.Mode.Normal, 1.0), (QIcon.Mode.Disabled, 0.4)):
        pixmap = QPixmap(4 * _ICON_SIDE, 4 * _ICON_SIDE)  # sharp on screens of high resolution
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colour))
        painter.setOpacity(alpha)
        painter.scale(4, 4)
        for corners in _ICONS[name]:
            painter.drawPolygon(QPolygonF([QPointF(*corner) for corner in corners]))
        painter.end()
        icon.addPixmap(pixmap, mode)
    return icon


def remove_option_names(text: str) -> str:
    """Return a text without command-line options in brackets, as in "'Axes' (--axes)"."""
    return _OPTION.sub("", text)


class _MessageLabel(QLabel):
    def setText(self, text: str | None) -> None:
        super().setText(make_lines_printable(remove_option_names(text or "")))
        if self.styleSheet():  # of a refusal that was shown before
            self.setStyleSheet("")


def show_refusal(label: QLabel, fault: Fault, text: str = "") -> None:
    """Show why something cannot be done, marked as a result that should not be used is.

    Parameters
    ----------
    label : QLabel
    fault : Fault
        An empty viewer is no mistake, and not marked.
    text : str
        Text that has the message of the fault among others; "" for the message alone.
    """
    label.setText(text or fault.message)
    if fault.code != "image-none":
        colour = VERDICT_COLOURS["do-not-use"]
        label.setStyleSheet(f"QLabel {{ padding-left: 6px; border-left: 4px solid {colour}; }}")


def make_message_label(text: str = "") -> QLabel:
    """Return a label for messages: wrapped, selectable, and never read as rich text."""
    label = _MessageLabel()
    label.setText(text)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
    return label


class Activity:
    """A progress bar in napari's activity dock, in percent, with a label.

    The spinning wheel in the corner of napari's window is stopped: it redraws the window 25 times a
    second. On one core without a GPU, a fit of 7 s then lasted 57 s (256 x 256, 60 iterations).
    """

    def __init__(self, label: str, window: QWidget | None) -> None:
        self._label, self._bar = label, progress(total=100, desc=label)
        for text_label in window.findChildren(QLabel) if window is not None else ():
            if (movie := text_label.movie()) is not None:
                movie.stop()

    def show(self, fraction: float, seconds_left: float | None = None) -> None:
        """Show the fraction of the work that is done, from 0 to 1, and the seconds left."""
        if seconds_left is not None and fraction < 1:
            time_left = f"at most {format_duration(seconds_left)} left"
            self._bar.set_description(f"{self._label}, {time_left}")
        self._bar.update(max(0, round(100 * fraction) - self._bar.n))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def make_canvas_current(dock: QWidget) -> None:
    """Make the OpenGL context of the window's canvas current, before a layer is removed.

    napari 0.9 frees what a removed layer holds at once, in the context that is current, mostly that
    of the surrounding window. After two removals, a later drawing crashes in `glDrawArrays` (Mesa's
    llvmpipe and softpipe; napari's issues 6472 and 8471 report such crashes with NVIDIA GPUs).
    """
    window = require(dock.window())
    while (parent := window.parentWidget()) is not None:  # a floating dock
        window = require(parent.window())
    for canvas in window.findChildren(QOpenGLWidget):
        canvas.makeCurrent()


def _press_key(name: str, viewer: Any) -> None:
    """Do in the dock in sight what a key stands for."""
    for panel in JobPanel.open_panels:
        if panel.is_in_sight(unwrap_viewer(viewer)) and name in panel.actions:
            panel.actions[name]()


class JobDock(JobView, Protocol):
    """A dock that starts jobs."""

    def show_progress(self, progress: JobProgress) -> None:
        """Show the progress of the job."""

    def set_busy(self, is_busy: bool) -> None:
        """Disable what must not change during a job, or enable it again and show the plan."""


class JobPanel(QObject):
    """The widgets that all docks have for their jobs, and what connects them to a controller.

    Parameters
    ----------
    dock : JobDock
        A widget.
    viewer : napari.viewer.Viewer
    run_bar : RunBar
    plots : tuple of plots
        They take the colours of napari's theme.
    messages
        The other messages, as for `JobController`.

    Attributes
    ----------
    jobs : JobController
    actions : dict of str to callable
        What the keys of `preferences.KEYS` do in this dock.
    """

    open_panels: ClassVar[WeakSet[JobPanel]] = WeakSet()

    def __init__(
        self,
        dock: JobDock,
        viewer: Viewer,
        run_bar: RunBar,
        plots: tuple[Any, ...] = (),
        **messages: str,
    ) -> None:
        self._widget = cast("QWidget", dock)
        super().__init__(self._widget)
        self._dock, self._viewer, self._run_bar, self._plots = dock, viewer, run_bar, plots
        self._activity: Activity | None = None
        self._is_busy = False
        jobs = JobController(self, self, kept_label=run_bar.kept_label, **messages)
        self.jobs: JobController = jobs
        jobs.state_changed.connect(self._on_state)
        self._start_time, self._message = 0.0, ""
        jobs.message_emitted.connect(self._on_message)
        jobs.ended.connect(self._on_ended)
        jobs.progressed.connect(self._on_progress)
        jobs.refused.connect(self._on_refused)
        run_bar.keep_pressed.connect(jobs.keep)
        run_bar.pause_pressed.connect(jobs.pause)
        run_bar.resume_pressed.connect(jobs.resume)
        run_bar.discard_button.clicked.connect(jobs.discard)
        self.actions: dict[str, Callable[[], object]] = {
            "run": run_bar.press_run,
            "stop": run_bar.press_stop,
        }
        self.open_panels.add(self)
        register_keys(_press_key)
        connections = Connections(self._widget)
        connections.connect(self._on_theme, viewer.events.theme)
        connections.connect(self._on_removing, viewer.layers.events.removing)
        self._on_theme()

    def begin_job(self, request: JobRequest) -> None:
        """Prepare the dock for a job that begins, and show its progress in napari's window."""
        self._dock.begin_job(request)
        self._activity = Activity(request.label, self._widget.window())
        self._start_time = time.monotonic()

    def accept_outcome(self, request: JobRequest, outcome: Any) -> str:
        """Show the outcome in the dock and return a message for the user."""
        return self._dock.accept_outcome(request, outcome)

    def release_job(self) -> str:
        """Remove what only the job needed; return an error message, or ""."""
        return self._dock.release_job()

    def describe_discard(self) -> str:
        """Return the message on a discarded job."""
        return self._dock.describe_discard()

    def is_in_sight(self, viewer: Any) -> bool:
        """Whether the dock belongs to a viewer, and is not hidden or behind another tab."""
        return viewer is self._viewer and not self._widget.visibleRegion().isEmpty()

    def shut_down(self) -> None:
        """Stop the job and all else that the dock does."""
        self.open_panels.discard(self)
        self.jobs.discard()
        stop_parts(self._widget)

    def _on_state(self, state: JobState) -> None:
        self._run_bar.show_state(state)
        if self.jobs.is_busy == self._is_busy:
            return
        self._is_busy = self.jobs.is_busy
        self._dock.set_busy(self._is_busy)
        activity, self._activity = self._activity, None
        if activity is not None:
            call_reporting_errors(activity.close, "The activity could not be closed")

    def _on_progress(self, progress: JobProgress) -> None:
        activity = self._activity
        self._dock.show_progress(progress)
        if activity is not None:  # last, because napari processes other events here
            activity.show(progress.event.fraction, progress.event.seconds_left)

    def _on_message(self, text: str) -> None:
        self._message = text
        self._run_bar.show_message(text)

    def _on_ended(self) -> None:
        """Tell a user who does not look at the dock that a run has ended."""
        is_closed, seconds = self._widget.isHidden(), time.monotonic() - self._start_time
        if self.jobs.is_busy or not self._message or not (is_closed or seconds > _LONG_SECONDS):
            return
        lines = self._message.split("\n")
        show_info(" ".join(lines[: 2 if is_closed else 1]))  # of a closed dock, why it ended too
        QApplication.alert(self._widget.window())

    def _on_refused(self, fault: Fault) -> None:
        show_refusal(self._run_bar.message_label, fault, self._run_bar.message_label.text())
        show_error(remove_option_names(fault.message))

    def _on_removing(self, _: object) -> None:
        make_canvas_current(self._widget)

    def _on_theme(self, _: object = None) -> None:
        theme = get_theme(self._viewer.theme)
        self._run_bar.recolour(theme.text.as_hex(), theme.current.as_hex())
        for plot in self._plots:
            plot.recolour(theme.text.as_hex(), theme.background.as_hex())
