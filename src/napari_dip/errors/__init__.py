"""Everything that can go wrong for a user: one table of faults, and the values that carry them.

    DipError                 anything this package raises for a user's eyes
    ├── Refused              said no before any work began; holds a `Refusal`
    └── Failed               work began and could not end well; holds a `Refusal` as well

A message is two sentences: what is wrong and where, then what to do. Both live in `FAULTS`,
which the tests walk and the documentation prints.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from napari_dip.errors.fault import Fault, make_printable
from napari_dip.errors.files import FILE_FAULTS, PIXEL_FAULTS
from napari_dip.errors.notes import Note, read_note, render, simplify_facts
from napari_dip.errors.runs import (
    NETWORK_FAULTS,
    RUN_FAULTS,
    SERIES_FAULTS,
    SETTING_FAULTS,
    WORKER_FAULTS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer = TypeVar("Answer")

FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        **FILE_FAULTS,
        **SETTING_FAULTS,
        **PIXEL_FAULTS,
        **NETWORK_FAULTS,
        **RUN_FAULTS,
        **WORKER_FAULTS,
        **SERIES_FAULTS,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A 'no' with its reason.

    Attributes
    ----------
    code : str
        Key in `FAULTS`.
    facts : mapping
        What its sentences are filled with, in plain JSON types.
    further : tuple of Note
        What follows the remedy.
    """

    code: str
    facts: Mapping[str, object] = field(default_factory=dict)
    further: tuple[Note, ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong and where."""
        return self._render(self._fault.sentence)

    @property
    def remedy(self) -> str:
        """What to do."""
        return " ".join([self._render(self._fault.remedy), *map(str, self.further)])

    @property
    def message(self) -> str:
        """Both sentences, as people read them."""
        return f"{self.sentence} {self.remedy}"

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def to_dict(self) -> dict[str, Any]:
        """Give code and facts in plain JSON types, and the sentences for those who read them."""
        return {
            "code": self.code,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "facts": dict(self.facts),
            "further": [item.to_dict() for item in self.further],
        }

    @property
    def _fault(self) -> Fault:
        return _WRITTEN if _WRITTEN_SENTENCE in self.facts else FAULTS[self.code]

    def _render(self, template: str) -> str:
        return make_printable(render(template, self.facts))


#: Facts of a refusal of which only the sentences are known, as an earlier version wrote them.
_WRITTEN_SENTENCE, _WRITTEN_REMEDY = "written_sentence", "written_remedy"
_WRITTEN = Fault(sentence=f"{{{_WRITTEN_SENTENCE}}}", remedy=f"{{{_WRITTEN_REMEDY}}}")


def refusal(code: str, **facts: object) -> Refusal:
    """Fill the fault `code` with the facts of this case, whoever wrote them and however long.

    Raises
    ------
    KeyError
        If the code is not in `FAULTS`, or a fact is missing.
    """
    no = Refusal(code=code, facts=simplify_facts(facts))
    str(no.message)
    return no


def read_refusal(raw: Mapping[str, Any]) -> Refusal:
    """Read a refusal from JSON; one of an earlier version has its sentences only."""
    code = str(raw["code"])
    try:
        further = tuple(map(read_note, raw.get("further", ())))
        no = Refusal(code=code, facts=simplify_facts(raw["facts"]), further=further)
        str(no.message)
    except (KeyError, TypeError, ValueError):
        text = {_WRITTEN_SENTENCE: raw["sentence"], _WRITTEN_REMEDY: raw["remedy"]}
        return Refusal(code=code, facts=simplify_facts(text))
    return no


class DipError(Exception):
    """Base of all errors that are meant for a user's eyes."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal

    def __reduce__(self) -> tuple[type[DipError], tuple[Refusal]]:
        """Travel between processes with the refusal, not only with its text."""
        return type(self), (self.refusal,)


class Refused(DipError):
    """Said no before any work began."""


class Failed(DipError):
    """Work began and could not end well."""


def allowed(answer: Answer | Refusal) -> Answer:
    """Hand on what was not refused.

    Raises
    ------
    Refused
        If it was.
    """
    if isinstance(answer, Refusal):
        raise Refused(answer)
    return answer
