"""Run, stop and keep, pause, discard; and what is going on, in a bar and in words.

Sentences that may be many: as tall as they need, up to some lines, and then they scroll.

What is in sight ends with a whole line, and a sign below tells what is not.
"""

from __future__ import annotations

import re
import time
from enum import Enum
from math import ceil
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QPointF, Qt, QTimer, Signal
from qtpy.QtGui import QTextLayout, QTextOption
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QWidget,
)

from napari_dip.errors.fault import make_lines_printable
from napari_dip.pipeline.machine import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qtpy.QtGui import QResizeEvent

    from napari_dip.pipeline.events import Event

#: Most lines in sight: in a window of 1280 x 720 as much height is left for what lies below.
MAX_MESSAGE_LINES = 10
#: What else than a resize changes the height of the same words: napari's style, and with it the
#: font, comes to a dock after its words, and again with each theme.
_STYLE_EVENTS = (QEvent.Type.LayoutRequest, QEvent.Type.StyleChange, QEvent.Type.FontChange)


class ScrollableLabel(QScrollArea):
    """A place for a label that wraps its sentences.

    Parameters
    ----------
    label : QLabel
    lines : int
        Most in sight.
    """

    def __init__(
        self, label: QLabel, parent: QWidget | None = None, *, lines: int = MAX_MESSAGE_LINES
    ) -> None:
        super().__init__(parent)
        self._label, self._lines = label, lines
        self._ends: list[tuple[int, str]] = []
        self.more = QLabel(self)
        self.setFrameShape(QFrame.Shape.NoFrame)
        # napari pads all widgets by a pixel: here it would be taken off the words
        self.setStyleSheet("QScrollArea { padding: 0px; }")
        self.setWidgetResizable(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setWidget(label)
        # what a label hints at, a block of three lines for one long one, is no height that it needs
        label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Ignored)
        if (bar := self.verticalScrollBar()) is not None:
            bar.valueChanged.connect(self._tell_more)
            bar.rangeChanged.connect(self._tell_more)
        self.show_words("")

    def show_words(self, text: str) -> None:
        """Show sentences from their beginning."""
        self._label.setText(text)
        self._fit()
        bar = self.verticalScrollBar()
        if bar is not None:
            bar.setValue(0)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Sentences take more lines in a narrow dock."""
        super().resizeEvent(event)
        self._fit()

    def event(self, event: QEvent | None) -> bool:
        """Sentences take more height in a larger font."""
        done = super().event(event)
        if event is not None and event.type() in _STYLE_EVENTS:
            self._fit()
        return done

    def _fit(self) -> None:
        """Take the height of the words; a bar, which takes width off them, only for too many.

        Were Qt to choose, a bar that came while the place was low would make a line wrap that
        does not, and would stay for what it had wrapped itself.
        """
        width, bar = max(1, self.width()), self.verticalScrollBar()
        many = bar is not None and len(self._lines_at(width)) > self._lines
        if bar is not None and many:
            width -= bar.sizeHint().width()
        self._ends = self._lines_at(width)
        wanted = self._label.heightForWidth(width)
        sign = self.more.sizeHint().height() if many else 0
        policy = Qt.ScrollBarPolicy
        self.setVerticalScrollBarPolicy(
            policy.ScrollBarAlwaysOn if many else policy.ScrollBarAlwaysOff
        )
        if self.viewportMargins().bottom() != sign:
            self.setViewportMargins(0, 0, 0, sign)
        if many:
            above = (wanted - self._ends[-1][0]) // 2  # the words stand in the label's middle
            wanted = above + self._ends[self._lines - 1][0]
        self.setFixedHeight(max(1, wanted + sign))
        if bar is not None and many:
            bar.setSingleStep(self._ends[0][0])  # goes on by whole lines
        self.more.setVisible(many)
        self.more.setGeometry(0, wanted, width, sign)
        self._tell_more()

    def _lines_at(self, width: int) -> list[tuple[int, str]]:
        """Break the words into lines as the label does; where each ends, and what it says."""
        label = self._label
        text = label.text()
        layout = QTextLayout(text.replace("\n", "\u2028"), label.font())
        option = QTextOption()
        option.setWrapMode(QTextOption.WrapMode.WordWrap)
        layout.setTextOption(option)
        frame = label.width() - label.contentsRect().width()
        ends: list[tuple[int, str]] = []
        bottom = 0
        layout.beginLayout()
        while (line := layout.createLine()).isValid():
            line.setLineWidth(max(1, width - frame))
            line.setPosition(QPointF(0, bottom))
            bottom = ceil(bottom + line.height())
            start = line.textStart()
            ends.append((bottom, text[start : start + line.textLength()]))
        layout.endLayout()
        return ends

    def _tell_more(self, *_: int) -> None:
        """Say how many lines are below what is in sight, and whether a warning is among them."""
        bar, view = self.verticalScrollBar(), self.viewport()
        if bar is None or view is None or self.more.isHidden():
            return
        bottom = bar.value() + view.height()
        below = [text for end, text in self._ends if end > bottom]
        lines = "1 more line" if len(below) == 1 else f"{len(below)} more lines"
        warned = ", with a warning ⚠" if any("⚠" in text for text in below) else ""
        self.more.setText(f"▼ {lines}{warned}" if below else "")


#: An option in brackets, with its value: " (--tile 512)".
_OPTION = re.compile(r" \(--[a-z][^()]*\)")
#: A double click on Run must not stop what it has just started.
_DOUBLE_CLICK_SECONDS = 0.5


class RunBarState(Enum):
    """What the buttons may do."""

    REFUSED = "refused"
    IDLE = "ready"
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"


class RunBar(QWidget):
    """Three buttons, a progress bar and a sentence; knows no run, only says what was pressed.

    Parameters
    ----------
    kept : str
        What stopping keeps; an attribute, too.
    stop : str
        What the first button says while a run is on.
    discards : bool
        Whether a run can be thrown away; one that waits for its turn always can.
    """

    run_pressed = Signal()
    keep_pressed = Signal()
    pause_pressed = Signal()
    resume_pressed = Signal()
    discard_pressed = Signal()
    add_pressed = Signal()

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        kept: str = "the best picture so far",
        stop: str = "Stop and keep",
        discards: bool = True,
    ) -> None:
        super().__init__(parent)
        self.kept = kept
        self._stop, self._discards = stop, discards
        self._start = "Run"
        self.state = RunBarState.REFUSED
        self._since = 0.0
        self._said = ""
        self._last_shown_event: tuple[Event, tuple[str, ...]] | None = None
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._on_second)
        self.run_button = QPushButton("Run")
        self.pause_button = QPushButton("Pause")
        self.discard_button = QPushButton("Discard")
        self.add_button = QPushButton("Add the result")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.message_label = make_message_label()
        self.place = ScrollableLabel(self.message_label)
        self._arrange()
        self.run_button.clicked.connect(self._on_run)
        self.pause_button.clicked.connect(self._on_pause)
        self.discard_button.clicked.connect(self.discard_pressed)
        self.add_button.clicked.connect(self.add_pressed)
        self.show_state(RunBarState.REFUSED)

    def show_state(self, state: RunBarState) -> None:
        """Label and enable the buttons for what can be done now."""
        if state is RunBarState.RUNNING and self.state in (RunBarState.IDLE, RunBarState.WAITING):
            self._since, self._last_shown_event = time.monotonic(), None
            self._clock.start()
        self.state = state
        busy = state in (RunBarState.RUNNING, RunBarState.PAUSED, RunBarState.STOPPING)
        waits = state is RunBarState.WAITING
        self.run_button.setText(self._stop if busy else "Waiting" if waits else self._start)
        self.run_button.setToolTip(
            f"Stop now and keep {self.kept}" if busy else "Start, as the line above says"
        )
        self.run_button.setEnabled(
            state in (RunBarState.IDLE, RunBarState.RUNNING, RunBarState.PAUSED)
        )
        self.pause_button.setText("Resume" if state is RunBarState.PAUSED else "Pause")
        self.pause_button.setEnabled(state in (RunBarState.RUNNING, RunBarState.PAUSED))
        self.discard_button.setEnabled(busy or waits)
        self.discard_button.setVisible(self._discards or waits)
        self.bar.setVisible(busy)
        if not busy:
            self._clock.stop()

    def call_start(self, text: str) -> None:
        """Let the first button say something else than Run before a run."""
        self._start = text
        self.show_state(self.state)

    def show_event(self, event: Event, remarks: Iterable[str] = ()) -> None:
        """Bring bar and sentence up to date; remarks stand below.

        Until the bar has something to show, the seconds are counted. A bar that moves would draw
        the whole window anew 25 times a second, which without a GPU took 31 % of a core
        where the seconds took 3 % (measured in a window of 1280 x 720 with Mesa's llvmpipe).
        """
        if self.state is not RunBarState.RUNNING:
            return
        self._last_shown_event = event, tuple(remarks)
        self.bar.setValue(round(1000 * event.fraction))
        parts = [event.message.rstrip(".")]
        since = int(time.monotonic() - self._since)
        if since and not event.fraction:
            parts.append(f"{since} s so far")
        if event.iterations:
            parts.append(f"iteration {event.iteration} of {event.iterations}")
        if event.seconds_left is not None and event.fraction < 1:
            parts.append(f"at most {format_duration(event.seconds_left)} left")
        # each part stays on one line
        line = " · ".join(part.replace(" ", "\u00a0") for part in parts)
        self.place.show_words("\n".join([line, *remarks]))

    def say(self, text: str) -> None:
        """Show a sentence."""
        self._said = text
        self.place.show_words(text)

    def say_also(self, text: str) -> None:
        """Show a sentence above the last one, which goes on being true, until another is said."""
        self.place.show_words("\n".join(filter(None, [text, self._said])))

    def _on_second(self) -> None:
        """Let it be seen that something is being done while there is no news."""
        if self._last_shown_event is not None and not self._last_shown_event[0].fraction:
            self.show_event(*self._last_shown_event)

    def _on_run(self) -> None:
        if self.state is RunBarState.IDLE:
            self.bar.setValue(0)
            self.run_pressed.emit()
        elif time.monotonic() - self._since > _DOUBLE_CLICK_SECONDS:
            self.keep_pressed.emit()

    def _on_pause(self) -> None:
        (self.resume_pressed if self.state is RunBarState.PAUSED else self.pause_pressed).emit()

    def _arrange(self) -> None:
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        if self._discards:
            layout.addWidget(self.run_button, 0, 0, 1, 2)
            layout.addWidget(self.pause_button, 1, 0)
            layout.addWidget(self.discard_button, 1, 1)
        else:
            layout.addWidget(self.run_button, 0, 0)
            layout.addWidget(self.pause_button, 0, 1)
            layout.addWidget(self.discard_button, 1, 0, 1, 2)
        layout.addWidget(self.bar, 2, 0, 1, 2)
        layout.addWidget(self.place, 3, 0, 1, 2)
        layout.addWidget(self.add_button, 4, 0, 1, 2)
        self.add_button.setToolTip("Try again to add the restored picture as a layer")
        self.add_button.setVisible(False)  # until a result waits
        self.pause_button.setToolTip("Hold the computation; the picture so far stays")
        self.discard_button.setToolTip("Stop and throw the picture away")


def remove_option_names(text: str) -> str:
    """Leave out how the command line calls a field that stands in the dock: "'Axes' (--axes)"."""
    return _OPTION.sub("", text)


class _MessageLabel(QLabel):
    def setText(self, text: str | None) -> None:
        super().setText(make_lines_printable(remove_option_names(text or "")))


def make_message_label() -> QLabel:
    """Make a label for whole sentences: wraps, can be copied, and never as mark-up."""
    label = _MessageLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
    return label
