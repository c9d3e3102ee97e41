"""A small table of figures: as tall as its rows, and read only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QAbstractItemView, QTableWidget, QTableWidgetItem, QWidget

if TYPE_CHECKING:
    from collections.abc import Sequence

_TIP = (
    "Energies of the targets; or what is there of each band of frequencies, in cycles per pixel; "
    "or a row for each network. Held out: error at pixels that drove no fit, small is good. dB: "
    "PSNR against the truth. Score: impedance. Bands: how far the lowest is ahead of the highest. "
    "Weights: in thousands. Choose a network to see its curves and its picture."
)
#: Height of a row, in pixels: five are in sight below the plot in a window of 1280 x 720.
_ROW = 22


class FiguresTable(QTableWidget):
    """Rows of words; the first column on the left, numbers on the right."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Figures")
        self.setToolTip(f"<qt>{_TIP}</qt>")
        self.setStyleSheet("QTableWidget, QHeaderView { font-size: 9pt; padding: 0px; }")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        if (rows := self.verticalHeader()) is not None:
            rows.setVisible(False)
            rows.setMinimumSectionSize(_ROW)
            rows.setDefaultSectionSize(_ROW)

    def fill(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show other figures; nobody is told that another row is chosen."""
        with QSignalBlocker(self):
            self.clear()
            self.setRowCount(len(rows))
            self.setColumnCount(len(heads))
            self.setHorizontalHeaderLabels(list(heads))
            for row, cells in enumerate(rows):
                for column, words in enumerate(cells):
                    self.setItem(row, column, _item(words, left=column == 0))
        self.resizeColumnsToContents()
        header, bar = self.horizontalHeader(), self.horizontalScrollBar()
        around = [part.sizeHint().height() for part in (header, bar) if part is not None]
        self.setFixedHeight(sum(map(self.rowHeight, range(self.rowCount()))) + sum(around) + 4)


def _item(words: str, *, left: bool) -> QTableWidgetItem:
    item = QTableWidgetItem(words)
    side = Qt.AlignmentFlag.AlignLeft if left else Qt.AlignmentFlag.AlignRight
    item.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
    return item
