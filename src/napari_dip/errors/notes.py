"""Define notes about a run and the reason why a fit ended, as values with templates for sentences.

    Note         something that the user should know, by its code in `NOTES`
    StopReason   why a fit ended; a `Stop` holds it with its numbers

Code compares notes and reasons by code. Only the interfaces (command line, dock, report, methods)
render them, with `str`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from string import Formatter
from typing import TYPE_CHECKING, Any

from napari_dip.errors.templates import (
    ENDED_BY_HAND,
    NOTES,
    STOPS,
    WARNINGS,
    render,
    simplify_facts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Code of a note of an earlier version, which holds only the sentence.
TEXT_CODE = "text"
#: Codes of notes that an earlier version wrote.
_EARLIER_CODES = {
    "card-memory-unknown": "gpu-memory-unknown",
    "picture-kept": "result-rescued",
    "picture-kept-bare": "result-rescued-bare",
    "picture-lost": "result-lost",
    "residual-unjudged": "residual-unchecked",
    "shared-network": "joint-network",
    "sharing-tried": "fine-tuning-tried",
    "workers-cards": "workers-gpus",
}
#: Templates by which reports of earlier versions word a `StopReason`, without its code.
_EARLIER_STOPS = (
    ("user", "you kept the picture"),
    ("history", "you kept the picture of {place} from the history of the run"),
    ("plateau", "the pixels held out from the fit were explained no better{by} iterations"),
    ("plateau", "the validation pixels were explained no better{by} iterations"),
    ("breakdown", "the fit broke down {count} times in a row"),
    ("joint-network", "the network that was fitted to all was enough"),
)


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
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> StopReason | None:
        """Read the code of an earlier version."""
        return cls.JOINT_NETWORK if value == "shared-network" else None


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

    def __str__(self) -> str:
        """Render the sentence."""
        number = self.facts.get("channel_number")
        prefix = "" if number is None else f"Channel {number}: "
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


def make_text_note(text: str) -> Note:
    """Make a note from a sentence."""
    return Note(code=TEXT_CODE, facts={"text": text})


def read_note(raw: Any) -> Note:
    """Read a note from JSON: its code and facts or, from an earlier version, its sentence.

    Raises
    ------
    KeyError
        If its code or a fact is unknown.
    """
    if isinstance(raw, str):
        return make_text_note(raw)
    code = _EARLIER_CODES.get(raw["code"], raw["code"]).replace("noise-doubt-", "noise-unreliable-")
    note = Note(code=code, facts=simplify_facts(raw["facts"]))
    str(note)
    return note


def read_report_notes(report: Mapping[str, Any]) -> tuple[Note, ...]:
    """Read the notes of a report; a report of an earlier version has only their sentences."""
    try:
        return tuple(map(read_note, report["note_codes"]))
    except (KeyError, TypeError, ValueError):
        return tuple(make_text_note(str(text)) for text in report.get("notes", ()))


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
        Values that fill the template of the reason. `text` holds the words of an earlier version.
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


def read_stop(raw: Any) -> Stop:
    """Read a `Stop` from JSON: its reason and facts or, from an earlier version, its words."""
    if isinstance(raw, str):
        return Stop(reason=_find_stop_reason(raw), facts={"text": raw})
    return make_stop(StopReason(raw["reason"]), **raw["facts"])


def read_report_stop(report: Mapping[str, Any]) -> Stop:
    """Read why the fit of a report ended; a report of an earlier version has only the words."""
    text = str(report.get("stop_reason") or "")
    try:
        return Stop(reason=StopReason(report["stop_code"]), facts={"text": text})
    except (KeyError, ValueError):
        return read_stop(text)


def serialise_stop(stop: Stop) -> dict[str, str]:
    """Return the fields of a report for the end of a fit: words for people, a code for programs."""
    return {"stop_reason": str(stop), "stop_code": str(stop.reason)}


def _find_stop_reason(text: str) -> StopReason:
    """Return the reason whose template could have produced the words of an earlier version."""
    for reason, template in (*STOPS.items(), *_EARLIER_STOPS):
        literals = (re.escape(literal) for literal, *_ in Formatter().parse(template))
        if reason != StopReason.OTHER and re.fullmatch(".*".join(literals), text):
            return StopReason(reason)
    return StopReason.OTHER
