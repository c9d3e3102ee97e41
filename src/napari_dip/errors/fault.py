"""One kind of trouble, as the tables list it.

Letters that a terminal, a label or a table may be shown; all others are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import Repr
from unicodedata import category


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble: templates for what is wrong and for what to do about it."""

    sentence: str
    remedy: str


#: Letters shown whole: a file name has up to 255, the list of all architectures 560.
#: Of a longer text both ends are shown, each of so many letters.
_MAX_SHOWN_LENGTH, _SHOWN_END_LENGTH = 1000, 100


def make_printable(text: str) -> str:
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


def make_lines_printable(text: str) -> str:
    """Replace the same, line by line, for a text of ours that has several lines."""
    return "\n".join(map(make_printable, text.split("\n")))


def shorten_middle(text: str) -> str:
    """Leave out the middle of a text so long that it would flood a terminal or a label."""
    return (
        text
        if len(text) <= _MAX_SHOWN_LENGTH
        else f"{text[:_SHOWN_END_LENGTH]} … {text[-_SHOWN_END_LENGTH:]}"
    )


def shorten_repr(value: object) -> str:
    """Show a value as Python writes it, cut where it is long or nested deeply."""
    return _SHORT_REPR.repr(value)


_SHORT_REPR = Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _SHORT_REPR.maxlong = 100
