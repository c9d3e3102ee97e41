"""Letters that a terminal, a label or a table may be shown; all others are replaced."""

from __future__ import annotations

from reprlib import Repr
from unicodedata import category


def printable(text: str) -> str:
    """Replace what commands a terminal or hides what is there, such as escapes and line breaks.

    Control characters of both sets, marks that turn the direction of writing, letters without
    width and halves of surrogate pairs go. Spaces of all widths stay: macOS writes them into the
    names of its screenshots.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Replace the same, line by line, for a text of ours that has several lines."""
    return "\n".join(map(printable, text.split("\n")))


def short(value: object) -> str:
    """Show a value as Python writes it, cut where it is long or nested deeply."""
    return _SHORT.repr(value)


_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
