"""A widget in a dock of napari: how it is laid out, and how it notices that it is closed.

A part of the dock that can be folded away, and takes all the height that it wants when open.

A button that explains itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QDockWidget, QFrame, QPushButton, QScrollArea, QVBoxLayout, QWidget
from superqt import QCollapsible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtCore import QObject
    from qtpy.QtGui import QResizeEvent, QShowEvent

#: Qt's own word for no limit, which not every binding exports.
_MAX_WIDGET_SIZE = (1 << 24) - 1


class CollapsibleSection(QCollapsible):
    """A title to click on, and a page below it; closed at first.

    Parameters
    ----------
    title : str
    page : QWidget
    """

    def __init__(self, title: str, page: QWidget) -> None:
        super().__init__(title, expandedIcon="▼", collapsedIcon="▶")
        # not by addWidget, which would measure the page before a new theme has reached it
        page.setMaximumHeight(0)
        self.setContent(page)
        self.setDuration(0)
        if (layout := self.layout()) is not None:  # several folds below each other need the height
            layout.setContentsMargins(0, 2, 0, 2)
        page.setVisible(False)  # or the tab key would go to what nobody sees
        self.toggled.connect(self._on_fold)

    def grown(self) -> None:
        """Take more or less height, after the page has changed."""
        if self.isExpanded():
            self._on_fold(True)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Sentences take more lines in a narrow dock."""
        super().resizeEvent(event)
        self.grown()

    def _on_fold(self, unfolded: bool) -> None:
        """Give the page all the height that it wants, also when a theme makes it taller."""
        page = self.content()
        page.setVisible(unfolded)
        # themes let number fields shrink to less than their text needs
        page.setMinimumHeight(_measure_page_height(page) if unfolded else 0)
        page.setMaximumHeight(_MAX_WIDGET_SIZE if unfolded else 0)


def _measure_page_height(page: QWidget) -> int:
    """Height of a page at the width that it has."""
    height, layout = page.sizeHint().height(), page.layout()
    if layout is not None and layout.hasHeightForWidth():
        height = max(height, layout.totalHeightForWidth(page.width()))
    return int(height)


#: In pixels: what the dock takes at least, and what scrolls in it.
MIN_DOCK_WIDTH, _MIN_SCROLLED_WIDTH = 310, 240


class DockWidget(QWidget):
    """A widget that shuts down when napari closes its dock."""

    def __init__(self) -> None:
        super().__init__()
        self._docked = False

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer."""
        raise NotImplementedError

    def showEvent(self, event: QShowEvent | None) -> None:
        """Be as wide as the title of the dock, of which napari would cut the end off."""
        super().showEvent(event)
        dock = self.parentWidget()
        title = dock.titleBarWidget() if isinstance(dock, QDockWidget) else None
        if title is not None and (layout := title.layout()) is not None:
            self.setMinimumWidth(max(self.minimumWidth(), layout.minimumSize().width()))

    def event(self, event: QEvent | None) -> bool:
        """Notice being closed: napari takes the widget out of its dock and forgets it."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parentWidget() is not None:
                self._docked = True
            elif self._docked:
                self._docked = False
                self.shut_down()
                self.deleteLater()
        return bool(super().event(event))


def unwrap_viewer(viewer: Any) -> Any:
    """Give the viewer itself where napari hands a proxy to a dock that is opened from a menu.

    Each layer that comes through the proxy is a new object: it is no other's equal by identity,
    and a weak reference to it is dead at once.
    """
    return getattr(viewer, "__wrapped__", viewer)


def make_single_shot_timer(parent: QObject, milliseconds: int = 0) -> QTimer:
    """Make a timer that fires once after each start, and never when its parent is gone."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    return timer


def lay_out(dock: QWidget, widgets: Sequence[QWidget], long: Sequence[QWidget]) -> None:
    """Put parts below each other: some are always in sight, what may be long scrolls below.

    Parameters
    ----------
    dock : QWidget
    widgets, long : sequence of QWidget
        From top to bottom.
    """
    below = QWidget()
    below.setMinimumWidth(_MIN_SCROLLED_WIDTH)
    scrolled = QVBoxLayout(below)
    scrolled.setContentsMargins(0, 0, 0, 0)
    for widget in long:
        scrolled.addWidget(widget)
    scrolled.addStretch()
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setWidget(below)
    for widget in long:
        if isinstance(widget, CollapsibleSection):
            widget.toggled.connect(partial(_reveal, area, widget))
    layout = QVBoxLayout(dock)
    layout.setContentsMargins(8, 8, 8, 8)
    for widget in widgets:
        layout.addWidget(widget)
    layout.addWidget(area, 1)
    dock.setMinimumWidth(MIN_DOCK_WIDTH)


def _reveal(area: QScrollArea, fold: CollapsibleSection, unfolded: bool) -> None:
    """Scroll so far that as much as can be of what was just unfolded is in sight."""
    bar = area.verticalScrollBar()
    if not unfolded or bar is None:
        return
    timer = make_single_shot_timer(area)
    timer.timeout.connect(lambda: bar.setValue(max(bar.value(), _find_scroll_position(area, fold))))
    timer.timeout.connect(timer.deleteLater)
    timer.start()


def _find_scroll_position(area: QScrollArea, fold: CollapsibleSection) -> int:
    """Give the least place of the scroll bar at which a fold's end is in sight, or its begin."""
    view = area.viewport()
    height = view.height() if view is not None else 0
    return min(fold.y(), fold.y() + fold.height() - height)


def make_button(text: str, tip: str) -> QPushButton:
    """Make a button whose tip is broken into lines, as Qt does with rich text only."""
    button = QPushButton(text)
    button.setToolTip(f"<qt>{tip}</qt>")
    return button
