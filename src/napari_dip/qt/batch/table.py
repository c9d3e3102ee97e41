"""The table of a batch, and what can be done with its results.

The files of a batch, a row for each: what it is, how far, and what to know of it.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QGridLayout,
    QHeaderView,
    QSizePolicy,
    QTableView,
    QWidget,
)

from napari_dip.errors.fault import make_printable
from napari_dip.qt.batch.layers import MAX_OPENED_RESULTS, BatchLayers
from napari_dip.qt.shell.dock_widget import make_button
from napari_dip.qt.shell.run_bar import ScrollableLabel, make_message_label
from napari_dip.scale.batch.records import PAGE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import napari.viewer

    from napari_dip.qt.batch.run import BatchPreflight
    from napari_dip.scale.batch.table import FileRow

_HEADS = ("File", "State", "What to know")
#: How the states are called here.
_STATE_LABELS = {
    "ready": "will run",
    "restored": "done",
    "kept": "done before",
    "refused": "refused",
    "failed": "failed",
    "waiting": "not finished",
}
#: Height of a row and least height of the table, in pixels: three rows and the heads are in sight
#: in a window of 1280 x 720.
_FILE_ROW_HEIGHT, _MIN_TABLE_HEIGHT = 22, 90
#: Widths of the first two columns, in pixels, in the narrowest dock: the second takes its longest
#: words, which are "not finished".
_NAME_COLUMN_WIDTH, _STATE_COLUMN_WIDTH = 88, 84


class FileTableModel(QAbstractTableModel):
    """Rows that are made into words only when they are in sight, so that many cost nothing."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[FileRow] = []

    def fill(self, rows: Sequence[FileRow]) -> None:
        """Show other files."""
        self.beginResetModel()
        self.rows = list(rows)
        self.endResetModel()

    def move(self, rows: Mapping[int, FileRow]) -> None:
        """Bring some rows up to date."""
        for place, row in rows.items():
            self.rows[place] = row
            self.dataChanged.emit(self.index(place, 0), self.index(place, len(_HEADS) - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Count the files."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Count the columns."""
        return 0 if parent is not None and parent.isValid() else len(_HEADS)

    def headerData(self, section: int, side: Any, role: int = 0) -> Any:
        """Name the columns."""
        if side == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return _HEADS[section]
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Put a cell into words; all of them when pointed at."""
        row = self.rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            first = make_printable(row.messages[0]) if row.messages else ""
            return (make_printable(row.source.name), format_file_state(row), first)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            text = (escape(make_printable(message)) for message in (str(row.source), *row.messages))
            return f"<qt>{'<br>'.join(text)}</qt>"  # as rich text it wraps
        return None


class FilesTable(QTableView):
    """The rows of a batch; rows are chosen as files are."""

    #: A row was clicked twice, or Enter pressed on it.
    wanted = Signal(int)
    chosen = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.files = FileTableModel()
        self.files.setParent(self)
        self.setModel(self.files)
        self.setAccessibleName("Files of the batch")
        self.setStyleSheet("QTableView, QHeaderView { font-size: 9pt; padding: 0px; }")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setTabKeyNavigation(False)  # the tab key goes on to the next part of the dock
        self.setWordWrap(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(_MIN_TABLE_HEIGHT)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        policy.setVerticalStretch(1)
        self.setSizePolicy(policy)
        self._lay_out_columns()
        self.activated.connect(lambda index: self.wanted.emit(index.row()))
        if (selection := self.selectionModel()) is not None:
            selection.selectionChanged.connect(lambda *_: self.chosen.emit())

    def selected(self) -> list[FileRow]:
        """Give the rows that are chosen, from top to bottom."""
        return [self.files.rows[place] for place in self.places()]

    def places(self) -> list[int]:
        """Give their places."""
        selection = self.selectionModel()
        result = [] if selection is None else selection.selectedRows()
        return sorted(index.row() for index in result)

    def _lay_out_columns(self) -> None:
        if (rows := self.verticalHeader()) is not None:
            rows.setVisible(False)
            rows.setMinimumSectionSize(_FILE_ROW_HEIGHT)
            rows.setDefaultSectionSize(_FILE_ROW_HEIGHT)
        if (heads := self.horizontalHeader()) is not None:
            heads.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
            heads.setStretchLastSection(True)
            heads.setHighlightSections(False)
            heads.resizeSection(0, _NAME_COLUMN_WIDTH)
            heads.resizeSection(1, _STATE_COLUMN_WIDTH)


def format_file_state(row: FileRow) -> str:
    """Say in a word or two how far a file is."""
    if row.state == "working":
        return f"{100 * row.fraction:.0f} %"
    return _STATE_LABELS[row.state]


#: Most lines of the words about a file: the table above needs the height.
_MAX_DETAIL_LINES = 4


class BatchResults(QWidget):
    """A row for each file, what there is to know of the one that is chosen, and three buttons.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Gets the layers.
    """

    said = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._reading: BatchPreflight | None = None
        self.layers = BatchLayers(viewer, self)
        self.table = FilesTable()
        self.message_label = make_message_label()
        self.show_button = make_button(
            "Show",
            "Open the results of the chosen files as layers. What is in sight is read from the "
            "disk, never the whole. A double click on a row does the same.",
        )
        self.all_button = make_button(
            "Show all", f"Open all results as layers, the first {MAX_OPENED_RESULTS} of many."
        )
        self.page_button = make_button(
            "Open table",
            "Open the table of the batch in your browser, with pictures of input and result. "
            "Beside it lies batch.csv, for a spreadsheet.",
        )
        self.with_input = QCheckBox("with inputs")
        self.with_input.setToolTip("<qt>Open the input of each result below it, too</qt>")
        self._arrange()
        self.table.wanted.connect(lambda place: self._open([self.table.files.rows[place]]))
        self.table.chosen.connect(self._on_chosen)
        self.show_button.clicked.connect(lambda: self._open(self.table.selected()))
        self.all_button.clicked.connect(lambda: self._open(self.table.files.rows))
        self.page_button.clicked.connect(self.open_page)
        self.layers.said.connect(self.said)
        self._on_chosen()

    def show_reading(self, reading: BatchPreflight, rows: Iterable[FileRow]) -> None:
        """Show the files of a batch."""
        self._reading = reading
        self.table.files.fill(list(rows))
        self._on_chosen()

    def bring_up(self, rows: Mapping[int, FileRow]) -> None:
        """Bring some rows up to date."""
        self.table.files.move(rows)
        self._on_chosen()

    def forget(self) -> None:
        """Show no files."""
        self._reading = None
        self.table.files.fill([])
        self._on_chosen()

    def open_page(self) -> None:
        """Show the table in the browser."""
        if self._reading is None:
            return
        page = self._reading.plan.folder.absolute() / PAGE_FILE
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(page))):
            self.said.emit(f"No browser could be opened; the table is '{page}'.")

    def shut_down(self) -> None:
        """Open nothing more."""
        self.layers.shut_down()

    def _open(self, rows: Iterable[FileRow]) -> None:
        """Open the results of rows, those that have one."""
        reading = self._reading
        if reading is None:
            return
        wanted = {row.source for row in rows if row.has_result}
        jobs = [job for job in reading.plan.jobs if job.source in wanted]
        if not jobs:
            self.said.emit("There is no result of that file.")
            return
        if len(jobs) > MAX_OPENED_RESULTS:
            self.said.emit(f"The first {MAX_OPENED_RESULTS} of {len(jobs)} results are opened.")
        self.layers.show_results(
            jobs[:MAX_OPENED_RESULTS], reading.plan.recipe, neighbours=self.with_input.isChecked()
        )

    def _on_chosen(self) -> None:
        """Say all there is to know of the first row that is chosen."""
        chosen, rows = self.table.selected(), self.table.files.rows
        self.place.show_words(" ".join(chosen[0].messages) if chosen else "")
        self.place.setVisible(bool(chosen and chosen[0].messages))
        self.show_button.setEnabled(any(row.has_result for row in chosen))
        self.all_button.setEnabled(any(row.has_result for row in rows))
        folder = None if self._reading is None else self._reading.plan.folder
        self.page_button.setEnabled(folder is not None and (folder / PAGE_FILE).is_file())

    def _arrange(self) -> None:
        self.place = ScrollableLabel(self.message_label, lines=_MAX_DETAIL_LINES)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        layout.addWidget(self.table, 0, 0, 1, 3)
        layout.setRowStretch(0, 1)
        layout.addWidget(self.place, 1, 0, 1, 3)
        buttons = (self.show_button, self.all_button, self.page_button)
        for column, button in enumerate(buttons):
            layout.addWidget(button, 2, column)
        layout.addWidget(self.with_input, 3, 0, 1, 3, Qt.AlignmentFlag.AlignLeft)
        policy = self.sizePolicy()
        policy.setVerticalStretch(1)
        self.setSizePolicy(policy)
