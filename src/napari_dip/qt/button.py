"""A button that explains itself."""

from __future__ import annotations

from qtpy.QtWidgets import QPushButton


def explained_button(words: str, tip: str) -> QPushButton:
    """Make a button whose tip is broken into lines, as Qt does with rich text only."""
    button = QPushButton(words)
    button.setToolTip(f"<qt>{tip}</qt>")
    return button
