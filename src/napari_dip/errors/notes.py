"""What a user should know of a run, and why a fit ended: values, and one table of their sentences.

    Note         something to know, by its code in `NOTES`
    StopReason   why a fit ended; a `Stop` holds it with its numbers

Code compares, finds and drops these by code. Only the doors (command line, dock, report, methods)
render them, with `str`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from numbers import Integral, Real
from string import Formatter
from typing import TYPE_CHECKING, Any

from napari_dip.errors.fault import shorten_middle
from napari_dip.errors.note_texts import NOTES, STOPS
from napari_dip.errors.note_texts import StopReason as StopReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Code of a note of which only the sentence is known, as an earlier version wrote it.
TEXT_CODE = "text"


class _Template(Formatter):
    """Fill in as `str.format` does; `{fact:?this|that}` chooses between two texts."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec[:1] != "?":
            return str(super().format_field(value, format_spec))
        this, _, that = format_spec[1:].partition("|")
        return this if value else that


def render(template: str, facts: Mapping[str, object]) -> str:
    """Fill a template with facts.

    Raises
    ------
    KeyError
        If a fact is missing.
    """
    return _Template().vformat(template, (), facts)


def simplify_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """Turn facts into plain JSON types; long texts lose their middle."""
    return {name: _simplify(fact) for name, fact in facts.items()}


def _simplify(fact: object) -> object:
    if fact is None or isinstance(fact, bool):
        return fact
    if isinstance(fact, Integral):
        return int(fact)
    return float(fact) if isinstance(fact, Real) else shorten_middle(str(fact))


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that the user should know of a run.

    Attributes
    ----------
    code : str
        Key in `NOTES`.
    facts : mapping
        What its sentence is filled with, in plain JSON types. `channel_number` names the channel
        that the note is about, where there are several.
    """

    code: str
    facts: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """Render the sentence."""
        number = self.facts.get("channel_number")
        start = "" if number is None else f"Channel {number}: "
        return start + render(NOTES[self.code], self.facts)

    def __hash__(self) -> int:
        return hash((self.code, tuple(sorted(self.facts.items(), key=repr))))

    def to_dict(self) -> dict[str, Any]:
        """Give code and facts in plain JSON types."""
        return {"code": self.code, "facts": dict(self.facts)}


def make_note(code: str, /, **facts: object) -> Note:
    """Make a note of the facts of this case.

    Raises
    ------
    KeyError
        If the code is not in `NOTES`, or a fact is missing.
    """
    note = Note(code=code, facts=simplify_facts(facts))
    str(note)
    return note


def make_text_note(text: str) -> Note:
    """Make a note of which only the sentence is known."""
    return Note(code=TEXT_CODE, facts={"text": text})


def read_note(raw: Any) -> Note:
    """Read a note from JSON: by its code or, as earlier versions wrote it, its sentence.

    Raises
    ------
    KeyError
        If it has neither a known code nor all its facts.
    """
    if isinstance(raw, str):
        return make_text_note(raw)
    note = Note(code=str(raw["code"]), facts=simplify_facts(raw["facts"]))
    str(note)
    return note


def read_report_notes(report: Mapping[str, Any]) -> tuple[Note, ...]:
    """Read the notes of a report; of an earlier version's it has the sentences only."""
    try:
        return tuple(map(read_note, report["note_codes"]))
    except (KeyError, TypeError, ValueError):
        return tuple(make_text_note(str(text)) for text in report.get("notes", ()))


def report_notes(notes: Iterable[Note]) -> dict[str, Any]:
    """Give the fields of a report for notes: sentences to be read, codes to be compared."""
    notes = list(notes)
    return {"notes": list(map(str, notes)), "note_codes": [note.to_dict() for note in notes]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Why a fit ended, with the numbers of this case.

    Attributes
    ----------
    reason : StopReason
    facts : mapping
        What its words are filled with. `text` holds the words of an earlier version.
    """

    reason: StopReason
    facts: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """Render the words that follow "since"."""
        return render("{text}" if "text" in self.facts else STOPS[self.reason], self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Give reason and facts in plain JSON types."""
        return {"reason": str(self.reason), "facts": dict(self.facts)}


def make_stop(reason: StopReason, **facts: object) -> Stop:
    """Note why a fit ended; raises `KeyError` if a fact is missing."""
    stop = Stop(reason=reason, facts=simplify_facts(facts))
    str(stop)
    return stop


def read_stop(raw: Any) -> Stop:
    """Read from JSON why a fit ended: by its code or, as earlier versions wrote it, its words."""
    if isinstance(raw, str):
        return Stop(reason=_find_stop_reason(raw), facts={"text": raw})
    return make_stop(StopReason(raw["reason"]), **raw["facts"])


def read_report_stop(report: Mapping[str, Any]) -> Stop:
    """Read why the fit of a report ended; of an earlier version's it has the words only."""
    text = str(report.get("stop_reason") or "")
    try:
        return Stop(reason=StopReason(report["stop_code"]), facts={"text": text})
    except (KeyError, ValueError):
        return read_stop(text)


def report_stop(stop: Stop) -> dict[str, str]:
    """Give the fields of a report for the end of a fit: words to be read, a code to be compared."""
    return {"stop_reason": str(stop), "stop_code": str(stop.reason)}


def _find_stop_reason(text: str) -> StopReason:
    """Find the reason whose template an earlier version has filled to this text."""
    for reason, template in STOPS.items():
        parts = (re.escape(literal) for literal, *_ in Formatter().parse(template))
        if reason is not StopReason.OTHER and re.fullmatch(".*".join(parts), text):
            return reason
    return StopReason.OTHER
