"""The files of a batch, a row for each: what it is, how far, and what to know of it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QSizePolicy, QTableView, QWidget

from napari_dip.io.paths import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_dip.run.batch_rows import FileRow

_HEADS = ("File", "State", "What to know")
#: How the states are called here.
_STATES = {
    "ready": "will run",
    "restored": "done",
    "kept": "done before",
    "refused": "refused",
    "failed": "failed",
    "waiting": "not finished",
}
#: Height of a row and least height of the table, in pixels: three rows and the heads are in sight
#: in a window of 1280 x 720.
_ROW, _LEAST = 22, 90
#: Widths of the first two columns, in pixels, in the narrowest dock: the second takes its longest
#: words, which are "not finished".
_NAME, _STATE = 88, 84


class FileRows(QAbstractTableModel):
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
            first = printable(row.words[0]) if row.words else ""
            return (printable(row.source.name), state_of(row), first)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            words = (escape(printable(one)) for one in (str(row.source), *row.words))
            return f"<qt>{'<br>'.join(words)}</qt>"  # as rich text it wraps
        return None


class FilesTable(QTableView):
    """The rows of a batch; rows are chosen as files are."""

    #: A row was clicked twice, or Enter pressed on it.
    wanted = Signal(int)
    chosen = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.files = FileRows()
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
        self.setMinimumHeight(_LEAST)
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
        found = [] if selection is None else selection.selectedRows()
        return sorted(index.row() for index in found)

    def _lay_out_columns(self) -> None:
        if (rows := self.verticalHeader()) is not None:
            rows.setVisible(False)
            rows.setMinimumSectionSize(_ROW)
            rows.setDefaultSectionSize(_ROW)
        if (heads := self.horizontalHeader()) is not None:
            heads.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
            heads.setStretchLastSection(True)
            heads.setHighlightSections(False)
            heads.resizeSection(0, _NAME)
            heads.resizeSection(1, _STATE)


def state_of(row: FileRow) -> str:
    """Say in a word or two how far a file is."""
    if row.state == "working":
        return f"{100 * row.fraction:.0f} %"
    return _STATES[row.state]
