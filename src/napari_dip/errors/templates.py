"""Read the templates of all messages, fill them with facts, and format what stands in texts.

The templates stand in `messages.toml`. `{fact:?this|that}` chooses between two texts by a fact.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from math import ceil
from numbers import Integral, Real
from pathlib import Path
from reprlib import Repr
from string import Formatter, Template
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from unicodedata import category

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: Maximum characters of an unshortened text: a file name has up to 255, the list of all
#: architectures 560.
_MAX_TEXT_LENGTH = 1000
#: Characters that stay at each end of a longer text.
_SHORTENED_END_LENGTH = 100
#: A template that begins with the quoted name of its subject, a fact.
_SUBJECT = re.compile(r"'\{(?P<fact>\w+)\}' (?P<predicate>.+)")
_SHORT_REPR = Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = _SHORT_REPR.maxlong = 100


@dataclass(frozen=True, slots=True)
class FaultTemplate:
    """Templates of an error message: what is wrong, and what to do about it.

    A refusal is also the named error of Python, if there is one.
    """

    sentence: str
    remedy: str
    python_error: str = ""

    def split_sentence(self) -> tuple[str, str]:
        """Return the fact that the sentence begins with, or "", and the template of the rest."""
        match = _SUBJECT.fullmatch(self.sentence)
        return ("", self.sentence) if match is None else (match["fact"], match["predicate"])


_MESSAGES = tomllib.loads(Path(__file__).with_name("messages.toml").read_text(encoding="utf-8"))


def _insert_phrases(texts: Mapping[str, str]) -> dict[str, str]:
    """Replace each `$phrase` by the text that several messages share."""
    phrases = _MESSAGES["phrases"]
    return {key: Template(text).substitute(phrases) for key, text in texts.items()}


#: Templates of refusals and failures, by code.
FAULTS: Mapping[str, FaultTemplate] = MappingProxyType(
    {code: FaultTemplate(**_insert_phrases(texts)) for code, texts in _MESSAGES["faults"].items()}
)
#: Codes of the notes that warn of a result.
WARNINGS = frozenset(_MESSAGES["warnings"])
#: Templates of notes by code, and of the ends of a fit by `StopReason`.
NOTES: Mapping[str, str] = MappingProxyType(
    _insert_phrases({**_MESSAGES["notes"], **_MESSAGES["warnings"]})
)
STOPS: Mapping[str, str] = MappingProxyType(_MESSAGES["stops"])
#: Headlines of the card of a result by verdict, reasons of a verdict, the key of the reason by code
#: of a note, codes that a worse one overrules, and labels of the figures.
HEADLINES: Mapping[str, str] = MappingProxyType(_MESSAGES["headlines"])
REASONS: Mapping[str, str] = MappingProxyType(_MESSAGES["reasons"])
VERDICT_REASONS: Mapping[str, str] = MappingProxyType(_MESSAGES["verdict_reasons"])
OVERRULED_NOTES: Mapping[str, Sequence[str]] = MappingProxyType(_MESSAGES["overruled"])
FIGURES: Mapping[str, str] = MappingProxyType(_MESSAGES["figures"])
#: Sentences of the methods section and their parts; a citation is a key of a paper in braces.
METHODS: Mapping[str, str] = MappingProxyType(_MESSAGES["methods"])
#: Sentences and captions of the experiments, and of the examination of a computer.
TEXTS: Mapping[str, str] = MappingProxyType(_MESSAGES["texts"])
#: What a setting should be, by pydantic's type of the error.
EXPECTED_VALUES: Mapping[str, str] = MappingProxyType(_MESSAGES["expected_values"])
#: Why a noise estimate is unreliable, by `UnreliableReason`.
UNRELIABLE_REASONS: Mapping[str, str] = MappingProxyType(_MESSAGES["unreliable_reasons"])
#: How the user ended a fit, for readers other than the user.
ENDED_BY_HAND: str = _MESSAGES["phrases"]["ended_by_hand"]


class _ConditionalFormatter(Formatter):
    """Format as `str.format` does; `{fact:?this|that}` chooses between two texts."""

    def format_field(self, value: Any, format_spec: str) -> str:
        is_large = isinstance(value, float) and (value == 0 or 1e5 < abs(value) < 1e15)
        if format_spec == "g" and is_large:  # neither "-0" nor "1.00026e+06"
            return f"{value + 0.0:.0f}"
        if format_spec[:1] != "?":
            return str(super().format_field(value, format_spec))
        if_true, _, if_false = format_spec[1:].partition("|")
        return if_true if value else if_false


def render(template: str, facts: Mapping[str, object]) -> str:
    """Fill a template with facts.

    Raises
    ------
    KeyError
        If a fact is missing.
    """
    return _ConditionalFormatter().vformat(template, (), facts)


def render_text(template_key: str, /, **facts: object) -> str:
    """Fill a template of `TEXTS` with facts."""
    return render(TEXTS[template_key], facts)


def simplify_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """Convert facts to plain JSON types; make texts printable and shorten long ones."""
    return {name: _simplify(fact) for name, fact in facts.items()}


def _simplify(fact: object) -> object:
    if fact is None or isinstance(fact, bool):
        return fact
    if isinstance(fact, Integral):
        return int(fact)
    if isinstance(fact, Real):
        return float(fact)
    text = os.fspath(fact) if isinstance(fact, os.PathLike) else fact
    return shorten_middle(make_printable(str(text)))


def make_printable(text: str) -> str:
    """Replace characters that control a terminal or are invisible: escapes, line breaks and such.

    These are control characters, direction marks, zero-width characters and lone surrogates. Spaces
    of all widths stay, since macOS puts them into names of screenshots.
    """
    if text.isprintable():
        return text
    return "".join(
        character if _is_printable(character) else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _is_printable(character: str) -> bool:
    return character.isprintable() or category(character) == "Zs"


def make_lines_printable(text: str) -> str:
    """Make each line of a text printable, and keep the line breaks."""
    return "\n".join(map(make_printable, text.split("\n")))


def shorten_middle(text: str) -> str:
    """Cut the middle out of a text that is too long for a terminal or a label."""
    if len(text) <= _MAX_TEXT_LENGTH:
        return text
    return f"{text[:_SHORTENED_END_LENGTH]} … {text[-_SHORTENED_END_LENGTH:]}"


def shorten_repr(value: object) -> str:
    """Return Python's representation of a value, shortened if it is long or deeply nested."""
    return _SHORT_REPR.repr(value)


def format_sizes(sizes: Iterable[int]) -> str:
    """Format sizes along axes, such as "256 × 512"."""
    return " × ".join(map(str, sizes))


def format_plane_size(grid: Sequence[int]) -> str:
    """Format the size (height, width) of a plane, such as "512 × 256 pixels"."""
    return f"{format_sizes(reversed(grid))} pixels"


def format_bytes(count: float, round_to_int: Callable[[float], int] = ceil) -> str:
    """Format bytes as kB, MB or GB, rounded up; with `round_to_int=floor` rounded down."""
    if count < 1e6:
        return f"{round_to_int(count / 1e3)} kB"
    megabytes = round_to_int(count / 1e6)
    return f"{megabytes} MB" if megabytes < 1000 else f"{round_to_int(count / 1e8) / 10:.1f} GB"


def format_duration(seconds: float, *, is_bound: bool = True) -> str:
    """Format seconds for the user: rounded up if they are an upper bound, else to the nearest."""
    to_integer = ceil if is_bound else round
    if seconds <= 90:
        return f"{max(1, to_integer(seconds))} s"
    if seconds <= 5400:
        return f"{to_integer(seconds / 60)} min"
    return f"{to_integer(seconds / 360) / 10:.1f} h"
