"""Define a fault, and make texts of any origin safe to print."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import Repr
from unicodedata import category

#: Maximum letters of an unshortened text: a file name has up to 255, the list of all architectures
#: 560. Of a longer text, this many letters at each end stay.
_MAX_SHOWN_LENGTH, _SHOWN_END_LENGTH = 1000, 100
_SHORT_REPR = Repr()


@dataclass(frozen=True, slots=True)
class Fault:
    """Templates of an error message: what is wrong, and what to do about it."""

    sentence: str
    remedy: str


def make_printable(text: str) -> str:
    """Replace characters that control a terminal or are invisible: escapes, line breaks and such.

    These are control characters, marks of the writing direction, letters without width and halves
    of surrogate pairs. Spaces of all widths stay, since macOS puts them into names of screenshots.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def make_lines_printable(text: str) -> str:
    """Make each line of a text printable, and keep the line breaks."""
    return "\n".join(map(make_printable, text.split("\n")))


def shorten_middle(text: str) -> str:
    """Cut the middle out of a text that is too long for a terminal or a label."""
    return (
        text
        if len(text) <= _MAX_SHOWN_LENGTH
        else f"{text[:_SHOWN_END_LENGTH]} … {text[-_SHOWN_END_LENGTH:]}"
    )


def shorten_repr(value: object) -> str:
    """Return Python's representation of a value, shortened if it is long or deeply nested."""
    return _SHORT_REPR.repr(value)


_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _SHORT_REPR.maxlong = 100
