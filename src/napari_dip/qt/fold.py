"""A part of the dock that can be folded away, and takes all the height that it wants when open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from superqt import QCollapsible

if TYPE_CHECKING:
    from qtpy.QtGui import QResizeEvent
    from qtpy.QtWidgets import QWidget

#: Qt's own word for no limit, which not every binding exports.
_UNLIMITED = (1 << 24) - 1


class Fold(QCollapsible):
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
        page.setMinimumHeight(_wanted(page) if unfolded else 0)
        page.setMaximumHeight(_UNLIMITED if unfolded else 0)


def _wanted(page: QWidget) -> int:
    """Height of a page at the width that it has."""
    height, layout = page.sizeHint().height(), page.layout()
    if layout is not None and layout.hasHeightForWidth():
        height = max(height, layout.totalHeightForWidth(page.width()))
    return int(height)
