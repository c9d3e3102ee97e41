"""The run buttons (Run, Pause, Discard) with progress bar and messages, and scrollable labels."""

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

#: Largest number of visible lines; a window of 1280 x 720 leaves room for the widgets below.
MAX_MESSAGE_LINES = 10
#: Events other than a resize that change the height of a text. napari sets style and font of a dock
#: after its text, and again with each theme.
_STYLE_EVENTS = (QEvent.Type.LayoutRequest, QEvent.Type.StyleChange, QEvent.Type.FontChange)
#: An option in brackets, with its value: " (--tile 512)".
_OPTION = re.compile(r" \(--[a-z][^()]*\)")
#: Seconds after the start in which a click on Run is ignored: the second click of a double click
#: must not stop the run.
_DOUBLE_CLICK_SECONDS = 0.5


class ScrollableLabel(QScrollArea):
    """A label as tall as its wrapped text, which scrolls by whole lines if the text is long.

    Parameters
    ----------
    label : QLabel
    lines : int
        Largest number of visible lines.
    """

    def __init__(
        self, label: QLabel, parent: QWidget | None = None, *, lines: int = MAX_MESSAGE_LINES
    ) -> None:
        super().__init__(parent)
        self._label, self._lines = label, lines
        self._line_ends: list[tuple[int, str]] = []
        self.more_label = QLabel(self)
        self.setFrameShape(QFrame.Shape.NoFrame)
        # napari pads all widgets by a pixel, which would hide a pixel of the text
        self.setStyleSheet("QScrollArea { padding: 0px; }")
        self.setWidgetResizable(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setWidget(label)
        # the size hint of a label is too tall: a block of three lines for one long line
        label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Ignored)
        if (bar := self.verticalScrollBar()) is not None:
            bar.valueChanged.connect(self._update_more_label)
            bar.rangeChanged.connect(self._update_more_label)
        self.show_text("")

    def show_text(self, text: str) -> None:
        """Show a text from its beginning."""
        self._label.setText(text)
        self._fit_height()
        bar = self.verticalScrollBar()
        if bar is not None:
            bar.setValue(0)

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

    def _fit_height(self) -> None:
        """Set the height to that of the text, and show a scroll bar only for too many lines.

        Qt would show a scroll bar while the area is still low. The bar narrows the text, wraps
        further lines by that, and would then stay because of these lines.
        """
        width, bar = max(1, self.width()), self.verticalScrollBar()
        is_scrolled = bar is not None and len(self._break_lines(width)) > self._lines
        if bar is not None and is_scrolled:
            width -= bar.sizeHint().width()
        self._line_ends = self._break_lines(width)
        height = self._label.heightForWidth(width)
        sign_height = self.more_label.sizeHint().height() if is_scrolled else 0
        policy = Qt.ScrollBarPolicy
        self.setVerticalScrollBarPolicy(
            policy.ScrollBarAlwaysOn if is_scrolled else policy.ScrollBarAlwaysOff
        )
        if self.viewportMargins().bottom() != sign_height:
            self.setViewportMargins(0, 0, 0, sign_height)
        if is_scrolled:
            top_margin = (height - self._line_ends[-1][0]) // 2  # the text is centred in the label
            height = top_margin + self._line_ends[self._lines - 1][0]
        self.setFixedHeight(max(1, height + sign_height))
        if bar is not None and is_scrolled:
            bar.setSingleStep(self._line_ends[0][0])  # scrolls by whole lines
        self.more_label.setVisible(is_scrolled)
        self.more_label.setGeometry(0, height, width, sign_height)
        self._update_more_label()

    def _break_lines(self, width: int) -> list[tuple[int, str]]:
        """Return bottom edge (in pixels) and text of each line, wrapped as the label wraps it."""
        label = self._label
        text = label.text()
        layout = QTextLayout(text.replace("\n", "\u2028"), label.font())
        option = QTextOption()
        option.setWrapMode(QTextOption.WrapMode.WordWrap)
        layout.setTextOption(option)
        frame_width = label.width() - label.contentsRect().width()
        ends: list[tuple[int, str]] = []
        bottom = 0
        layout.beginLayout()
        while (line := layout.createLine()).isValid():
            line.setLineWidth(max(1, width - frame_width))
            line.setPosition(QPointF(0, bottom))
            bottom = ceil(bottom + line.height())
            start = line.textStart()
            ends.append((bottom, text[start : start + line.textLength()]))
        layout.endLayout()
        return ends

    def _update_more_label(self, *_: int) -> None:
        """Show how many lines are hidden below, and whether one of them is a warning."""
        bar, view = self.verticalScrollBar(), self.viewport()
        if bar is None or view is None or self.more_label.isHidden():
            return
        bottom = bar.value() + view.height()
        hidden_lines = [text for end, text in self._line_ends if end > bottom]
        lines = "1 more line" if len(hidden_lines) == 1 else f"{len(hidden_lines)} more lines"
        warning = ", with a warning ⚠" if any("⚠" in text for text in hidden_lines) else ""
        self.more_label.setText(f"▼ {lines}{warning}" if hidden_lines else "")


class RunBarState(Enum):
    """The state of the run buttons."""

    REFUSED = "refused"
    IDLE = "ready"
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"


class RunBar(QWidget):
    """Run buttons, a progress bar and a message; emits a signal for each button pressed.

    Parameters
    ----------
    kept_label : str
        What stopping keeps, for messages; also an attribute.
    stop : str
        The label of the first button during a run.
    discards : bool
        Whether a run can be discarded; a run in the queue always can.
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
        kept_label: str = "the best picture so far",
        stop: str = "Stop and keep",
        discards: bool = True,
    ) -> None:
        super().__init__(parent)
        self.kept_label = kept_label
        self._stop_label, self._can_discard = stop, discards
        self._start_label = "Run"
        self.state = RunBarState.REFUSED
        self._last_event_time = 0.0
        self._message = ""
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
        self.message_area = ScrollableLabel(self.message_label)
        self._arrange()
        self.run_button.clicked.connect(self._on_run)
        self.pause_button.clicked.connect(self._on_pause)
        self.discard_button.clicked.connect(self.discard_pressed)
        self.add_button.clicked.connect(self.add_pressed)
        self.show_state(RunBarState.REFUSED)

    def show_state(self, state: RunBarState) -> None:
        """Set labels, tooltips and availability of the buttons for a state."""
        if state is RunBarState.RUNNING and self.state in (RunBarState.IDLE, RunBarState.WAITING):
            self._last_event_time, self._last_shown_event = time.monotonic(), None
            self._clock.start()
        self.state = state
        is_busy = state in (RunBarState.RUNNING, RunBarState.PAUSED, RunBarState.STOPPING)
        is_waiting = state is RunBarState.WAITING
        self.run_button.setText(
            self._stop_label if is_busy else "Waiting" if is_waiting else self._start_label
        )
        self.run_button.setToolTip(
            f"Stop now and keep {self.kept_label}" if is_busy else "Start, as the line above says"
        )
        self.run_button.setEnabled(
            state in (RunBarState.IDLE, RunBarState.RUNNING, RunBarState.PAUSED)
        )
        self.pause_button.setText("Resume" if state is RunBarState.PAUSED else "Pause")
        self.pause_button.setEnabled(state in (RunBarState.RUNNING, RunBarState.PAUSED))
        self.discard_button.setEnabled(is_busy or is_waiting)
        self.discard_button.setVisible(self._can_discard or is_waiting)
        self.bar.setVisible(is_busy)
        if not is_busy:
            self._clock.stop()

    def set_start_label(self, text: str) -> None:
        """Set the label of the first button before a run."""
        self._start_label = text
        self.show_state(self.state)

    def show_event(self, event: Event, remarks: Iterable[str] = ()) -> None:
        """Update progress bar and message, with the remarks below.

        While the fraction is 0, the seconds are counted instead. An animated bar redraws the whole
        window 25 times a second: 31 % of a core without a GPU, against 3 % for the seconds
        (window of 1280 x 720 with Mesa's llvmpipe).
        """
        if self.state is not RunBarState.RUNNING:
            return
        self._last_shown_event = event, tuple(remarks)
        self.bar.setValue(round(1000 * event.fraction))
        parts = [event.message.rstrip(".")]
        seconds = int(time.monotonic() - self._last_event_time)
        if seconds and not event.fraction:
            parts.append(f"{seconds} s so far")
        if event.iterations:
            parts.append(f"iteration {event.iteration} of {event.iterations}")
        if event.seconds_left is not None and event.fraction < 1:
            parts.append(f"at most {format_duration(event.seconds_left)} left")
        # each part stays on one line
        progress = " · ".join(part.replace(" ", "\u00a0") for part in parts)
        self.message_area.show_text("\n".join([progress, *remarks]))

    def show_message(self, text: str) -> None:
        """Show a message."""
        self._message = text
        self.message_area.show_text(text)

    def prepend_message(self, text: str) -> None:
        """Show a text above the last message, until the next message."""
        self.message_area.show_text("\n".join(filter(None, [text, self._message])))

    def _on_second(self) -> None:
        """Update the count of seconds while there is no progress to show."""
        if self._last_shown_event is not None and not self._last_shown_event[0].fraction:
            self.show_event(*self._last_shown_event)

    def _on_run(self) -> None:
        if self.state is RunBarState.IDLE:
            self.bar.setValue(0)
            self.run_pressed.emit()
        elif time.monotonic() - self._last_event_time > _DOUBLE_CLICK_SECONDS:
            self.keep_pressed.emit()

    def _on_pause(self) -> None:
        (self.resume_pressed if self.state is RunBarState.PAUSED else self.pause_pressed).emit()

    def _arrange(self) -> None:
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        if self._can_discard:
            layout.addWidget(self.run_button, 0, 0, 1, 2)
            layout.addWidget(self.pause_button, 1, 0)
            layout.addWidget(self.discard_button, 1, 1)
        else:
            layout.addWidget(self.run_button, 0, 0)
            layout.addWidget(self.pause_button, 0, 1)
            layout.addWidget(self.discard_button, 1, 0, 1, 2)
        layout.addWidget(self.bar, 2, 0, 1, 2)
        layout.addWidget(self.message_area, 3, 0, 1, 2)
        layout.addWidget(self.add_button, 4, 0, 1, 2)
        self.add_button.setToolTip("Try again to add the restored picture as a layer")
        self.add_button.setVisible(False)  # until a result waits
        self.pause_button.setToolTip("Hold the computation; the picture so far stays")
        self.discard_button.setToolTip("Stop and throw the picture away")


def remove_option_names(text: str) -> str:
    """Return a text without command-line options in brackets, as in "'Axes' (--axes)"."""
    return _OPTION.sub("", text)


class _MessageLabel(QLabel):
    def setText(self, text: str | None) -> None:
        super().setText(make_lines_printable(remove_option_names(text or "")))


def make_message_label() -> QLabel:
    """Return a label for messages: wrapped, selectable, and never read as rich text."""
    label = _MessageLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
    return label
