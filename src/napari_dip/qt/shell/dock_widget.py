"""The base class of all docks, which detects that its dock is closed, and layout helpers."""

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

#: Qt's `QWIDGETSIZE_MAX`, in pixels: no limit on the size. Not every binding exports it.
_MAX_WIDGET_SIZE = (1 << 24) - 1
#: Minimum widths in pixels: of a dock, and of the scrolled part of it.
MIN_DOCK_WIDTH, _MIN_SCROLLED_WIDTH = 310, 240


class CollapsibleSection(QCollapsible):
    """A page that is folded and unfolded by a click on its title; folded at first.

    Parameters
    ----------
    title : str
    page : QWidget
    """

    def __init__(self, title: str, page: QWidget) -> None:
        super().__init__(title, expandedIcon="▼", collapsedIcon="▶")
        # addWidget would measure the page before a new theme is applied to it
        page.setMaximumHeight(0)
        self.setContent(page)
        self.setDuration(0)
        if (layout := self.layout()) is not None:  # saves height where several sections are stacked
            layout.setContentsMargins(0, 2, 0, 2)
        page.setVisible(False)  # else the tab key would reach the hidden fields
        self.toggled.connect(self._on_fold)

    def fit_page_height(self) -> None:
        """Adapt the height of the section to a page that has changed."""
        if self.isExpanded():
            self._on_fold(True)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Adapt the height: sentences take more lines in a narrow dock."""
        super().resizeEvent(event)
        self.fit_page_height()

    def _on_fold(self, unfolded: bool) -> None:
        """Show the page in its full height, or hide it."""
        page = self.content()
        page.setVisible(unfolded)
        # with some themes, number fields would shrink below the height of their text
        page.setMinimumHeight(_measure_page_height(page) if unfolded else 0)
        page.setMaximumHeight(_MAX_WIDGET_SIZE if unfolded else 0)


def _measure_page_height(page: QWidget) -> int:
    """Return the height that a page needs at its present width."""
    height, layout = page.sizeHint().height(), page.layout()
    if layout is not None and layout.hasHeightForWidth():
        height = max(height, layout.totalHeightForWidth(page.width()))
    return int(height)


class DockWidget(QWidget):
    """A widget that shuts down when napari closes its dock."""

    def __init__(self) -> None:
        super().__init__()
        self._is_docked = False

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer."""
        raise NotImplementedError

    def showEvent(self, event: QShowEvent | None) -> None:
        """Make the widget as wide as the title of its dock, which napari would cut off."""
        super().showEvent(event)
        dock = self.parentWidget()
        title = dock.titleBarWidget() if isinstance(dock, QDockWidget) else None
        if title is not None and (layout := title.layout()) is not None:
            self.setMinimumWidth(max(self.minimumWidth(), layout.minimumSize().width()))

    def event(self, event: QEvent | None) -> bool:
        """Shut down when the dock is closed: napari then removes the widget from its parent."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parentWidget() is not None:
                self._is_docked = True
            elif self._is_docked:
                self._is_docked = False
                self.shut_down()
                self.deleteLater()
        return bool(super().event(event))


def unwrap_viewer(viewer: Any) -> Any:
    """Return the viewer behind the proxy that napari passes to a dock opened from a menu.

    The proxy returns a new object for a layer at each access. Such an object has another identity
    each time, and a weak reference to it is dead at once.
    """
    return getattr(viewer, "__wrapped__", viewer)


def make_single_shot_timer(parent: QObject, milliseconds: int = 0) -> QTimer:
    """Return a timer that fires once after each start, and not after its parent is deleted."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    return timer


def lay_out(dock: QWidget, widgets: Sequence[QWidget], long: Sequence[QWidget]) -> None:
    """Stack widgets in a dock, with a scroll area below those that are always visible.

    Parameters
    ----------
    dock : QWidget
    widgets : sequence of QWidget
        The widgets that do not scroll, from top to bottom.
    long : sequence of QWidget
        The widgets in the scroll area, from top to bottom.
    """
    scrolled_page = QWidget()
    scrolled_page.setMinimumWidth(_MIN_SCROLLED_WIDTH)
    scrolled_layout = QVBoxLayout(scrolled_page)
    scrolled_layout.setContentsMargins(0, 0, 0, 0)
    for widget in long:
        scrolled_layout.addWidget(widget)
    scrolled_layout.addStretch()
    scroll_area = QScrollArea()
    scroll_area.setWidgetResizable(True)
    scroll_area.setFrameShape(QFrame.Shape.NoFrame)
    scroll_area.setWidget(scrolled_page)
    for widget in long:
        if isinstance(widget, CollapsibleSection):
            widget.toggled.connect(partial(_reveal, scroll_area, widget))
    layout = QVBoxLayout(dock)
    layout.setContentsMargins(8, 8, 8, 8)
    for widget in widgets:
        layout.addWidget(widget)
    layout.addWidget(scroll_area, 1)
    dock.setMinimumWidth(MIN_DOCK_WIDTH)


def _reveal(area: QScrollArea, fold: CollapsibleSection, unfolded: bool) -> None:
    """Scroll down until a section that was just unfolded is visible as far as it fits."""
    bar = area.verticalScrollBar()
    if not unfolded or bar is None:
        return
    timer = make_single_shot_timer(area)
    timer.timeout.connect(lambda: bar.setValue(max(bar.value(), _find_scroll_position(area, fold))))
    timer.timeout.connect(timer.deleteLater)
    timer.start()


def _find_scroll_position(area: QScrollArea, fold: CollapsibleSection) -> int:
    """Return the scroll position that shows the end of a section, but never hides its title."""
    view = area.viewport()
    height = view.height() if view is not None else 0
    return min(fold.y(), fold.y() + fold.height() - height)


def make_button(text: str, tip: str) -> QPushButton:
    """Return a button whose tooltip wraps, which Qt does for rich text only."""
    button = QPushButton(text)
    button.setToolTip(f"<qt>{tip}</qt>")
    return button
