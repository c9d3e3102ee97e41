"""The card of a result in the dock: verdict, worst warnings and figures; all else under Details."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

from napari_dip.pipeline.assess.card import VERDICT_COLOURS
from napari_dip.qt.shell.dock_widget import CollapsibleSection, fill_grid
from napari_dip.qt.shell.run_bar import ScrollableLabel, make_message_label

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.assess.card import ResultCard

#: Largest number of visible lines of the warnings; with headline and figures there are eight.
_MAX_WARNING_LINES = 3
#: Largest number of visible lines of the details, which scroll.
_MAX_FOLDED_LINES = 8


class ResultCardView(QWidget):
    """The card of the latest result, hidden while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.headline, self.figure_label = make_message_label(), make_message_label()
        self.warning_label, self.detail_label = make_message_label(), make_message_label()
        self._warnings = ScrollableLabel(self.warning_label, max_lines=_MAX_WARNING_LINES)
        self._details = ScrollableLabel(self.detail_label, max_lines=_MAX_FOLDED_LINES)
        page = QWidget()
        fill_grid(page, ([self._details],))
        self.details_section = CollapsibleSection("Details", page)
        rows = ([self.headline], [self._warnings], [self.figure_label], [self.details_section])
        fill_grid(self, rows, spacing=4)
        self.setVisible(False)

    def show_card(self, card: ResultCard, hidden_notes: Iterable[Note] = ()) -> None:
        """Show a card.

        Parameters
        ----------
        card : ResultCard
        hidden_notes : iterable of Note
            Details that the plan above shows already.
        """
        self.headline.setText(card.headline)
        self.headline.setStyleSheet(
            "QLabel { font-weight: bold; padding-left: 6px; "
            f"border-left: 4px solid {VERDICT_COLOURS[card.verdict]}; }}"
        )
        self._warnings.show_text("\n".join(f"⚠ {note}" for note in card.warnings))
        self._warnings.setVisible(bool(card.warnings))
        self.figure_label.setText(card.figure_line)
        self.figure_label.setVisible(bool(card.figures))
        hidden = set(hidden_notes)
        details = [
            f"⚠ {note}" if note.is_warning else str(note)
            for note in card.details
            if note not in hidden
        ]
        self._details.show_text("\n".join(details))
        self.details_section.setVisible(bool(details))
        self.setVisible(True)
        self.details_section.adjust_page_height()
