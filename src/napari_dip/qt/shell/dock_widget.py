"""What all docks are built of: their end when they are closed, folded sections, and layouts."""

from __future__ import annotations

import tomllib
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, QUrl
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QDockWidget,
    QFormLayout,
    QFrame,
    QGridLayout,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QTabBar,
    QTableView,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from napari_dip.qt.shell.preferences import is_section_unfolded, save_fold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer
    from qtpy.QtGui import QResizeEvent

PartT = TypeVar("PartT")

_TEXT_TABLES = tomllib.loads(Path(__file__).parents[1].joinpath("texts.toml").read_text("utf-8"))
#: Texts of the docks by key, and labels by table and key.
DOCK_TEXTS: Mapping[str, str] = _TEXT_TABLES["texts"]
DOCK_LABELS: Mapping[str, Mapping[str, str]] = _TEXT_TABLES["labels"]
#: Minimum width of a dock, in pixels.
MIN_DOCK_WIDTH = 310
#: Minimum width of the scrolled part of a dock, in pixels.
_MIN_SCROLLED_WIDTH = 240
#: Minimum height of a dock: shows its image and Run beside another dock on a screen of 720 pixels.
_MIN_DOCK_HEIGHT = 220
#: Height in pixels of the scrolled part below which the whole dock scrolls instead: six folded
#: sections are 180 high.
_MIN_SCROLLED_HEIGHT = 190
#: Distance of the sections of a dock, in pixels.
_SECTION_SPACING = 4
#: Width and height of the window of a help page, in pixels: lines of about 90 letters.
_HELP_SIZE = (720, 640)
#: Milliseconds until a section that has grown is scrolled to: sentences take several layouts.
_SCROLL_DELAY_MS = 50
#: Distance of the parts of a dock from its edges and from each other, in pixels.
_DOCK_MARGIN = 8
_DOCK_SPACING = 5
_FOLDED = "▶"
_UNFOLDED = "▼"
COLOUR_EVENTS = (QEvent.Type.PaletteChange, QEvent.Type.StyleChange)
_FORM_ROLES = (QFormLayout.ItemRole.LabelRole, QFormLayout.ItemRole.FieldRole)


class CollapsibleSection(QFrame):
    """A page that is folded and unfolded by a click on its title; folded at first.

    Parameters
    ----------
    title : str
    page : QWidget

    Attributes
    ----------
    title_button : QPushButton
        Checked while the page is unfolded.
    """

    def __init__(self, title: str, page: QWidget) -> None:
        super().__init__()
        self.page: QWidget = page
        self.title_button: QPushButton = QPushButton()
        self.title_button.setCheckable(True)
        self.title_button.setStyleSheet("text-align: left; border: none; outline: none;")
        # with some themes, number fields would shrink below the height of their text
        page.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        page.hide()
        _stack(self, (self.title_button, page), 0, 2)
        self.set_title(title)
        self.title_button.toggled.connect(self._on_toggle)

    @property
    def is_unfolded(self) -> bool:
        """Whether the page is shown."""
        return self.title_button.isChecked()

    def set_title(self, title: str) -> None:
        """Show another title."""
        self.title: str = title
        self.title_button.setText(f"{_UNFOLDED if self.is_unfolded else _FOLDED} {title}")

    def scroll_into_view(self) -> None:
        """Scroll down until the section is visible as far as it fits, if it is unfolded."""
        ancestor = self.parentWidget() if self.is_unfolded else None
        while ancestor is not None:
            if isinstance(ancestor, PageScrollArea):  # of two, either scrolls
                _scroll_to_section(ancestor, self)
            ancestor = ancestor.parentWidget()

    def _on_toggle(self, is_unfolded: bool) -> None:
        self.page.setVisible(is_unfolded)
        self.set_title(self.title)


def _measure_scrolled_height(page: QWidget) -> int:
    """Return the height that a scroll area gives a page: labels ask for more than they take."""
    wrapped_height = page.heightForWidth(page.width())  # -1 where nothing wraps
    height = wrapped_height if wrapped_height >= 0 else page.sizeHint().height()
    return max(page.minimumSizeHint().height(), height)


class DockLifecycle(QObject):
    """Event filter that opens a dock as a tab, makes its title fit, and shuts it down at its end.

    A dock that is closed during a run keeps the best image so far, as *Stop and keep* does.

    napari stacks docks below each other, and its window grows with each of them, beyond the screen.
    Its menu hides a dock that is chosen again: one that runs, or lies behind a tab, is raised.

    Parameters
    ----------
    dock : QWidget
    shut_down : callable
        Stops all work and disconnects from the viewer.

    Attributes
    ----------
    is_closing : bool
        Whether the dock was closed; a run may still end.
    """

    def __init__(self, dock: QWidget, shut_down: Callable[[], object]) -> None:
        super().__init__(dock)
        self._dock, self._shut_down = dock, shut_down
        self._has_appeared = self.is_closing = False
        self._last_frame: QWidget | None = None
        self._is_in_front = self._was_hidden = self._was_closed_by_button = False
        self._raise_timer = make_single_shot_timer(self, self._raise_frame)
        dock.setMinimumWidth(MIN_DOCK_WIDTH)
        dock.installEventFilter(self)

    @property
    def frame(self) -> QWidget | None:
        """The parent of the dock: a `QDockWidget`, or None before napari adds the dock."""
        return self._dock.parentWidget()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """React to a change of the parent, to the first appearance, and to napari's menu."""
        kind = None if event is None else event.type()
        if self.is_closing:
            return False
        if watched is not self._dock:
            with suppress(RuntimeError):  # Qt hides the frame of a dock that is deleted
                self._watch_frame(kind)
        elif kind == QEvent.Type.ParentChange:  # when closing, napari takes the parent away
            if self.frame is not None:
                self._last_frame = self.frame
                if isinstance(self.frame, QDockWidget):
                    title = self.frame.windowTitle()  # a tab has no room for the plugin's name
                    self.frame.setWindowTitle(title.rpartition(" (")[0] or title)
                    self.frame.dockLocationChanged.connect(self._tabify)
                    self.frame.visibilityChanged.connect(self._on_visibility)
                    self.frame.installEventFilter(self)
            elif self._last_frame is not None:
                self.is_closing = True
                self._close()
        elif kind == QEvent.Type.Show:
            self._adjust_title_width()
            if self.frame is not None and not self._has_appeared:
                self._has_appeared = True
                self.frame.raise_()  # a new tab lies behind the others
        return False

    def _on_visibility(self, is_in_front: bool) -> None:
        self._is_in_front = is_in_front
        window = None if self.frame is None else self.frame.parentWidget()
        for tab_bar in () if window is None else window.findChildren(QTabBar):
            if tab_bar.parent() is window:  # arrows scroll tabs for which there is no room
                tab_bar.setElideMode(Qt.TextElideMode.ElideNone)

    def _watch_frame(self, kind: QEvent.Type | None) -> None:
        """Raise the dock if napari's menu has hidden it, and not a button of its title bar."""
        frame, jobs = self.frame, getattr(self._dock, "jobs", None)
        if kind == QEvent.Type.Close:
            self._was_closed_by_button = True
        elif kind == QEvent.Type.Hide and frame is not None and frame.isHidden():
            is_needed = not self._is_in_front or (jobs is not None and jobs.is_busy)
            if is_needed and not self._was_closed_by_button:
                self._raise_timer.start()
            self._was_hidden = True
        elif kind == QEvent.Type.Show and self._was_hidden:
            self._was_hidden = self._was_closed_by_button = False
            self._raise_timer.start()  # else it may lie behind another tab

    def _raise_frame(self) -> None:
        if self.frame is not None and not self.is_closing:
            self._was_hidden = False
            self.frame.show()
            self.frame.raise_()

    def _close(self) -> None:
        """Shut the dock down; during a run, keep the best image so far first."""
        jobs = getattr(self._dock, "jobs", None)
        window = None if self._last_frame is None else self._last_frame.parentWidget()
        if jobs is None or window is None or not jobs.is_running:
            self._end()
            return
        self._dock.setParent(window)  # lives on, hidden, until the run or the window ends
        jobs.remaining = ()
        jobs.ended.connect(self._end)
        jobs.keep()

    def _end(self) -> None:
        self._shut_down()
        self._dock.deleteLater()

    def _tabify(self, area: Qt.DockWidgetArea) -> None:
        """Make the dock a tab of another dock of this plugin, when napari has just added it.

        A timer would be too late: the window would have grown already. Later, the user may move
        the dock anywhere.
        """
        frame = self.frame
        if not isinstance(frame, QDockWidget):
            return
        frame.dockLocationChanged.disconnect(self._tabify)
        window = frame.parentWidget()
        if not isinstance(window, QMainWindow):
            return
        for closer in window.findChildren(DockLifecycle):
            other = closer.frame
            if other is frame or not isinstance(other, QDockWidget) or other.isFloating():
                continue
            if window.dockWidgetArea(other) == area:
                window.tabifyDockWidget(other, frame)
                return

    def _adjust_title_width(self) -> None:
        """Make the dock as wide as its title, which napari would cut off."""
        frame = self.frame
        title = frame.titleBarWidget() if isinstance(frame, QDockWidget) else None
        if title is not None and (layout := title.layout()) is not None:
            width = layout.minimumSize().width()
            self._dock.setMinimumWidth(max(self._dock.minimumWidth(), width))


class Connections(QObject):
    """Connections to events that outlive a widget, such as those of the viewer."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._pairs: list[tuple[Any, Callable[..., Any]]] = []

    def connect(self, slot: Callable[..., Any], *signals: Any, **options: Any) -> None:
        """Connect a slot to each of the signals, with the options of their `connect`."""
        for signal in signals:
            signal.connect(slot, **options)
            self._pairs.append((signal, slot))

    def follow_layers(self, slot: Callable[..., Any], viewer: Any) -> None:
        """Connect a slot to the layers that are added to a viewer, removed or renamed."""
        events = viewer.layers.events
        self.connect(slot, events.inserted, events.removed, events.renamed)

    def disconnect_all(self) -> None:
        """Disconnect all of them."""
        for signal, slot in self._pairs:
            signal.disconnect(slot)
        self._pairs.clear()


class WheelGuard(QObject):
    """Event filter that keeps the wheel from changing a setting while the dock is scrolled."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Filter out wheel events for widgets without the focus."""
        if event is None or event.type() != QEvent.Type.Wheel or not isinstance(watched, QWidget):
            return False
        if watched.hasFocus():
            return False
        event.ignore()  # passes the event on to the scroll area
        return True


def guard_wheel(*widgets: QWidget) -> None:
    """Let the wheel change these widgets only when they have the focus."""
    for widget in widgets:
        widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        widget.installEventFilter(WheelGuard(widget))


def unwrap_viewer(viewer: Any) -> Any:
    """Return the viewer behind the proxy that napari passes to a dock opened from a menu.

    The proxy returns a layer as a new object each time, to which a weak reference is dead at once.
    """
    return getattr(viewer, "__wrapped__", viewer)


@contextmanager
def preserve_view(viewer: Viewer) -> Iterator[None]:
    """Restore selection, camera and sliders afterwards, which napari changes for a new layer."""
    layers = viewer.layers
    selected, active = set(layers.selection), layers.selection.active
    camera = viewer.scene.camera
    view = {"center": camera.center, "zoom": camera.zoom, "angles": camera.angles}
    step = viewer.dims.current_step
    try:
        yield
    finally:
        still_selected = {layer for layer in selected if layer in layers}
        if set(layers.selection) != still_selected:
            layers.selection = still_selected
        if active is not None and active in layers and layers.selection.active is not active:
            layers.selection.active = active
        for key, value in view.items():
            if getattr(camera, key) != value:
                setattr(camera, key, value)
        if len(viewer.dims.current_step) == len(step) and viewer.dims.current_step != step:
            viewer.dims.current_step = step


def fit_view(viewer: Viewer, *layers: Layer) -> None:
    """Move the camera so that these layers fill the view."""
    # napari 0.9 raises IndexError for layers of fewer axes than others in the viewer
    has_all_axes = all(layer.ndim == viewer.dims.ndim for layer in layers)
    viewer.fit_to_view(layers=list(layers) if has_all_axes else None)


def make_single_shot_timer(
    parent: QObject, on_timeout: Callable[[], object], milliseconds: int = 0
) -> QTimer:
    """Return a timer that fires once after each start, and not after its parent is deleted."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(on_timeout)
    return timer


def lay_out(
    dock: QWidget, widgets: Sequence[QWidget], scrolled_widgets: Sequence[QWidget], help_page: str
) -> None:
    """Stack widgets in a dock, with a scroll area below those that are always visible.

    Parameters
    ----------
    dock : QWidget
    widgets : sequence of QWidget
        The widgets that do not scroll, from top to bottom.
    scrolled_widgets : sequence of QWidget
        The widgets in the scroll area, from top to bottom.
    help_page : str
        The page of the documentation on this dock, such as "batch.md".
    """
    help_button = load_button("dock-help", lambda: show_help(dock, help_page))
    help_button.setFlat(True)
    scrolled_page, page = QWidget(), QWidget()
    scrolled_page.setMinimumWidth(_MIN_SCROLLED_WIDTH)
    _stack(scrolled_page, (*scrolled_widgets, help_button), 0, _SECTION_SPACING).addStretch()
    scroll_area = PageScrollArea(scrolled_page)
    layout = _stack(page, (*widgets, scroll_area), _DOCK_MARGIN, _DOCK_SPACING)
    layout.setStretchFactor(scroll_area, 1)
    fill_grid(dock, ([PageScrollArea(page, scroll_area)],))
    for section in scrolled_widgets:
        if isinstance(section, CollapsibleSection):
            key = f"{type(dock).__name__}/{section.title}"
            if is_section_unfolded(key):  # when it was last used
                section.title_button.setChecked(True)
            section.title_button.toggled.connect(partial(save_fold, key))
            section.title_button.toggled.connect(section.scroll_into_view)
    for form in dock.findChildren(QFormLayout):
        _copy_tooltips(form)


def _stack(page: QWidget, widgets: Sequence[QWidget], margin: int, spacing: int) -> QVBoxLayout:
    """Stack widgets on a page, with distances in pixels; return its layout."""
    layout = QVBoxLayout(page)
    layout.setContentsMargins(margin, margin, margin, margin)
    layout.setSpacing(spacing)
    for widget in widgets:
        layout.addWidget(widget)
    return layout


class PageScrollArea(QScrollArea):
    """A scroll area as wide as its page, but never too high for the window.

    napari's window grows with the minimum heights of docks below each other, beyond the screen.

    Parameters
    ----------
    page : QWidget
    inner : PageScrollArea, optional
        The part of the page that scrolls by itself while there is room for it. Without room it is
        as high as its own page, so that never two scroll bars stand beside each other.
    """

    def __init__(self, page: QWidget, inner: PageScrollArea | None = None) -> None:
        super().__init__()
        self.page: QWidget = page
        self._inner = inner
        self.height_hint: int = _MIN_SCROLLED_HEIGHT if inner is None else _MIN_DOCK_HEIGHT
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(page)
        require(self.verticalScrollBar()).rangeChanged.connect(self._reserve_width)

    def minimumSizeHint(self) -> QSize:
        """Return the width of the page and of a scroll bar in sight, and the minimum height."""
        bar, width = require(self.verticalScrollBar()), self.page.minimumSizeHint().width()
        scrolls = self.verticalScrollBarPolicy() != Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        if bar.maximum() > 0 and scrolls:
            width += bar.sizeHint().width()
        return QSize(width, self.height_hint)

    def sizeHint(self) -> QSize:
        """Return the minimum; the layout around gives the rest of the window."""
        return self.minimumSizeHint()

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Decide anew which of the two areas scrolls."""
        super().resizeEvent(event)
        self._choose_scrolling()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow a page that has become higher or wider, as a theme or a setting makes it."""
        is_handled = super().eventFilter(watched, event)
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self._reserve_width()
            self._choose_scrolling()
        return is_handled

    def _choose_scrolling(self) -> None:
        """Let the inner area scroll if it has room for that, and else this one."""
        if (inner := self._inner) is None:
            return
        fixed_height = _measure_scrolled_height(self.page) - inner.height_hint
        has_room = require(self.viewport()).height() - fixed_height >= _MIN_SCROLLED_HEIGHT
        frame = inner.height() - require(inner.viewport()).height()
        whole_height = _measure_scrolled_height(inner.page) + frame
        height = _MIN_SCROLLED_HEIGHT if has_room else whole_height
        # both bars would come and go in turn, each by the width that the other takes
        policies = Qt.ScrollBarPolicy.ScrollBarAlwaysOff, Qt.ScrollBarPolicy.ScrollBarAsNeeded
        inner.setVerticalScrollBarPolicy(policies[has_room])
        if height != inner.height_hint:
            inner.height_hint = height
            inner.updateGeometry()

    def _reserve_width(self) -> None:
        """Widen a dock that is narrower than its page with a scroll bar."""
        self.updateGeometry()
        dock, width = self.parentWidget(), self.minimumSizeHint().width()
        if dock is not None and 0 < dock.minimumWidth() < width:  # a limit of its own
            dock.setMinimumWidth(width)


def _copy_tooltips(form: QFormLayout) -> None:
    """Give the labels of a form the tooltips of their fields."""
    for row in range(form.rowCount()):
        items = (form.itemAt(row, role) for role in _FORM_ROLES)
        label, field = (None if item is None else item.widget() for item in items)
        if label is not None and field is not None and not label.toolTip():
            label.setToolTip(field.toolTip())


def show_help(dock: QWidget, page: str) -> None:
    """Show a page of the documentation that came with the plugin, in a window of its own."""
    package = Path(__file__).parents[2]  # in a checkout, the pages are beside src
    folders = (package / "docs", package.parents[1] / "docs")
    path = next((folder / page for folder in folders if (folder / page).is_file()), None)
    browser = QTextBrowser(dock)
    browser.setWindowFlag(Qt.WindowType.Window)
    browser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    browser.setWindowTitle("napari-dip")
    browser.setOpenExternalLinks(True)
    browser.resize(*_HELP_SIZE)
    if path is None:
        browser.setPlainText(f"The page '{page}' is missing from this installation.")
    else:
        browser.setSource(QUrl.fromLocalFile(str(path)))
    browser.show()


def _scroll_to_section(area: QScrollArea, section: CollapsibleSection) -> None:
    """Scroll down, a moment later, until a section is visible as far as it fits."""
    show = partial(_show_section, area, section)
    timer = make_single_shot_timer(area, show, _SCROLL_DELAY_MS)
    timer.timeout.connect(timer.deleteLater)
    timer.start()


def _show_section(area: QScrollArea, section: CollapsibleSection) -> None:
    """Scroll the end of a section into view, but never hide its title."""
    bar, view_height = require(area.verticalScrollBar()), require(area.viewport()).height()
    top = section.mapTo(require(area.widget()), section.rect().topLeft()).y()
    bar.setValue(max(bar.value(), min(top, top + section.height() - view_height)))


def require(part: PartT | None) -> PartT:
    """Return a part that a widget always has, although Qt's type hints say that it may be None."""
    assert part is not None
    return part


def load_tooltip(key: str, further: str = "") -> str:
    """Return a text of `texts.toml` as a tooltip that wraps, which Qt does for rich text only."""
    return f"<qt>{DOCK_TEXTS[key]}{further}</qt>"


def load_button(key: str, on_click: Callable[..., object] | None = None) -> QPushButton:
    """Return the button of a row of `texts.toml`, with what a click calls."""
    button = make_button(**_TEXT_TABLES["buttons"][key])
    if on_click is not None:
        button.clicked.connect(on_click)
    return button


def make_button(text: str, tooltip: str) -> QPushButton:
    """Return a button whose tooltip wraps, which Qt does for rich text only."""
    button = QPushButton(text)
    button.setToolTip(f"<qt>{tooltip}</qt>")
    return button


def style_table(table: QTableView, row_height: int) -> None:
    """Make a table read-only and small, with rows of a fixed height that are selected whole."""
    table.setStyleSheet("QTableView, QHeaderView { font-size: 9pt; padding: 0px; }")
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    rows = require(table.verticalHeader())
    rows.setVisible(False)
    rows.setMinimumSectionSize(row_height)
    rows.setDefaultSectionSize(row_height)


def copy_text(text: str) -> None:
    """Copy a text to the clipboard."""
    require(QApplication.clipboard()).setText(text)


def make_form(page: QWidget | None = None) -> QFormLayout:
    """Return a layout of labels and fields without margins, optionally for a page."""
    form = QFormLayout() if page is None else QFormLayout(page)
    form.setContentsMargins(0, 0, 0, 0)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)  # else they widen the dock
    return form


def fill_grid(
    page: QWidget, rows: Sequence[Sequence[Any]], spacing: int | None = None
) -> QGridLayout:
    """Lay widgets and layouts out in rows; one that is alone spans its row.

    Parameters
    ----------
    page : QWidget
    rows : sequence of sequence of QWidget or QLayout
    spacing : int, optional
        Vertical spacing in pixels.
    """
    grid = QGridLayout(page)
    grid.setContentsMargins(0, 0, 0, 0)
    if spacing is not None:
        grid.setVerticalSpacing(spacing)
    columns = max(map(len, rows))
    for row, items in enumerate(rows):
        for column, item in enumerate(items):
            span = columns if len(items) == 1 else 1
            add = grid.addWidget if isinstance(item, QWidget) else grid.addLayout
            add(item, row, column, 1, span)
    return grid
