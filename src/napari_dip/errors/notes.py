"""Define notes about a run and the reason why a fit ended, as values with templates for sentences.

    Note         something that the user should know, by its code in `NOTES`
    StopReason   why a fit ended; a `Stop` holds it with its numbers

Code compares notes and reasons by code. Only the interfaces (command line, dock, report, methods)
render them, with `str`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from napari_dip.errors.templates import (
    ENDED_BY_HAND,
    NOTES,
    OVERRULED_NOTES,
    STOPS,
    WARNINGS,
    render,
    simplify_facts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Code of a note that holds only its sentence.
TEXT_CODE = "text"


class StopReason(StrEnum):
    """Why a fit ended."""

    USER = "user"
    HISTORY = "history"
    PLATEAU = "plateau"
    ITERATIONS = "iterations"
    BREAKDOWN = "breakdown"
    TIME = "time"
    MEMORY = "memory"
    DEVICE = "device"
    JOINT_NETWORK = "joint-network"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that the user should know about a run.

    Attributes
    ----------
    code : str
        Key in `NOTES`.
    facts : mapping
        Values that fill the template of the note, in plain JSON types. `channel_number` names the
        channel of the note, if there are several.
    """

    code: str
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_warning(self) -> bool:
        """Whether the note warns of the result."""
        return self.code in WARNINGS

    @property
    def channel_name(self) -> str:
        """Name of the channel that the note is about; "" if it is about all."""
        number = self.facts.get("channel_number")
        return "" if number is None else str(self.facts.get("channel_name", f"Channel {number}"))

    def __str__(self) -> str:
        """Render the sentence."""
        prefix = f"{self.channel_name}: " if self.channel_name else ""
        return prefix + render(NOTES[self.code], self.facts)

    def __hash__(self) -> int:
        return hash((self.code, tuple(sorted(self.facts.items(), key=repr))))

    def to_dict(self) -> dict[str, Any]:
        """Return code and facts in plain JSON types."""
        return {"code": self.code, "facts": dict(self.facts)}


def make_note(code: str, /, **facts: object) -> Note:
    """Make a note from the facts of this case.

    Raises
    ------
    KeyError
        If the code is not in `NOTES`, or a fact is missing.
    """
    note = Note(code=code, facts=simplify_facts(facts))
    str(note)
    return note


def drop_overruled(notes: Iterable[Note]) -> list[Note]:
    """Return the notes without those that others make untrue."""
    notes = list(notes)
    overruled = {code for note in notes for code in OVERRULED_NOTES.get(note.code, ())}
    return [note for note in notes if note.code not in overruled]


def parse_note(raw: Mapping[str, Any]) -> Note:
    """Read a note from the JSON of its `to_dict`.

    Raises
    ------
    KeyError
        If its code or a fact is unknown.
    """
    return make_note(raw["code"], **raw["facts"])


def parse_report_notes(report: Mapping[str, Any]) -> tuple[Note, ...]:
    """Read the notes of a report; those that this version does not know keep their sentences."""
    return parse_notes(report.get("note_codes"), report.get("notes", ()))


def parse_notes(raw_notes: Any, sentences: Iterable[str]) -> tuple[Note, ...]:
    """Read serialised notes; if they are missing or one is unknown, keep their sentences."""
    try:
        return tuple(map(parse_note, raw_notes))
    except (KeyError, TypeError, ValueError):
        return tuple(make_note(TEXT_CODE, text=text) for text in sentences)


def serialise_notes(notes: Iterable[Note]) -> dict[str, Any]:
    """Return the fields of a report for notes: sentences for people, codes for programs."""
    notes = list(notes)
    return {"notes": list(map(str, notes)), "note_codes": [note.to_dict() for note in notes]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Why a fit ended, with the numbers of this case.

    Attributes
    ----------
    reason : StopReason
    facts : mapping
        Values that fill the template of the reason. `text` holds the words of a report.
    """

    reason: StopReason
    facts: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        """Render the words that follow "since"."""
        return render("{text}" if "text" in self.facts else STOPS[self.reason], self.facts)

    def describe_impersonally(self) -> str:
        """Render the words for readers other than the user."""
        return ENDED_BY_HAND if self.reason is StopReason.USER else str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return reason and facts in plain JSON types."""
        return {"reason": str(self.reason), "facts": dict(self.facts)}


def make_stop(reason: StopReason, **facts: object) -> Stop:
    """Make a `Stop` from the facts of this case; raise `KeyError` if a fact is missing."""
    stop = Stop(reason=reason, facts=simplify_facts(facts))
    str(stop)
    return stop


def parse_stop(raw: Mapping[str, Any]) -> Stop:
    """Read a `Stop` from the JSON of its `to_dict`."""
    reason, facts = StopReason(raw["reason"]), dict(raw["facts"])
    if reason is StopReason.ITERATIONS:
        facts.setdefault("several", False)  # earlier checkpoints do not have it
    return make_stop(reason, **facts)


def read_report_stop(report: Mapping[str, Any]) -> Stop:
    """Read why the fit of a report ended."""
    reason = StopReason(report["stop_reason"])
    return Stop(reason=reason, facts={"text": report["stop_sentence"]})


def serialise_stop(stop: Stop) -> dict[str, str]:
    """Return the fields of a report for the end of a fit: a code for programs, words for people."""
    return {"stop_reason": str(stop.reason), "stop_sentence": str(stop)}
