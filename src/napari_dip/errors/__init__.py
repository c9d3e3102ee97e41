"""Define all errors that are meant for users: a table of faults, and the values that carry them.

    DipError                 base of all errors meant for users
    ├── RefusedError         refused before any work began; holds a `Refusal`
    └── FailedError          work began and failed; holds a `Refusal` as well

A message has two sentences: what is wrong and where, then what to do. Both stand in
`messages.toml`, as all notes do. The tests check them and the documentation lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from napari_dip.errors.fault import FAULTS as FAULTS
from napari_dip.errors.fault import Fault, make_printable, render, simplify_facts
from napari_dip.errors.notes import Note, read_note

if TYPE_CHECKING:
    from collections.abc import Mapping

Answer = TypeVar("Answer")

#: Keys of the sentences of a refusal whose code an earlier version wrote, but not its facts.
_WRITTEN_SENTENCE, _WRITTEN_REMEDY = "written_sentence", "written_remedy"
_WRITTEN = Fault(sentence=f"{{{_WRITTEN_SENTENCE}}}", remedy=f"{{{_WRITTEN_REMEDY}}}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The reason why something was refused or failed.

    Attributes
    ----------
    code : str
        Key in `FAULTS`.
    facts : mapping
        Values that fill the templates of the fault, in plain JSON types.
    further : tuple of Note
        Notes that follow the remedy.
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
        """Both sentences."""
        return f"{self.sentence} {self.remedy}"

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def to_dict(self) -> dict[str, Any]:
        """Return code, sentences and facts in plain JSON types."""
        return {
            "code": self.code,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "facts": dict(self.facts),
            "further": [note.to_dict() for note in self.further],
        }

    @property
    def _fault(self) -> Fault:
        return _WRITTEN if _WRITTEN_SENTENCE in self.facts else FAULTS[self.code]

    def _render(self, template: str) -> str:
        return make_printable(render(template, self.facts))


def make_refusal(code: str, /, **facts: object) -> Refusal:
    """Make a refusal from the fault `code` and the facts of this case.

    Raises
    ------
    KeyError
        If the code is not in `FAULTS`, or a fact is missing.
    """
    refusal = Refusal(code=code, facts=simplify_facts(facts))
    str(refusal.message)
    return refusal


def read_refusal(raw: Mapping[str, Any]) -> Refusal:
    """Read a refusal from JSON; one of an earlier version keeps its sentences."""
    code = str(raw["code"])
    try:
        notes = tuple(map(read_note, raw.get("further", ())))
        refusal = Refusal(code=code, facts=simplify_facts(raw["facts"]), further=notes)
        str(refusal.message)
    except (KeyError, TypeError, ValueError):
        sentences = {_WRITTEN_SENTENCE: raw["sentence"], _WRITTEN_REMEDY: raw["remedy"]}
        return Refusal(code=code, facts=simplify_facts(sentences))
    return refusal


class DipError(Exception):
    """Base of all errors that are meant for users.

    Parameters
    ----------
    refusal : Refusal or str
        The reason, or the code of its fault.
    **facts
        The facts of this case, with a code.
    """

    def __init__(self, refusal: Refusal | str, /, **facts: object) -> None:
        self.refusal = make_refusal(refusal, **facts) if isinstance(refusal, str) else refusal
        super().__init__(self.refusal.message)

    def __reduce__(self) -> tuple[type[DipError], tuple[Refusal]]:
        """Pickle the refusal, not only its message."""
        return type(self), (self.refusal,)


class RefusedError(DipError):
    """Refused before any work began."""


class FailedError(DipError):
    """Work began and failed."""


def raise_if_refused(answer: Answer | Refusal) -> Answer:
    """Return the answer, or raise its refusal.

    Raises
    ------
    RefusedError
        If the answer is a refusal.
    """
    if isinstance(answer, Refusal):
        raise RefusedError(answer)
    return answer
