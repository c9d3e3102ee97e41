"""Define all errors that are meant for users, as values and as exceptions.

    Fault                what is wrong: a code and the facts of this case
    └── Refusal          why something cannot be done, before any work began
    DipError             base of the exceptions, whose `reason` is a `Fault`
    ├── RefusedError     refused before any work began: nothing was written; also the ValueError,
    │                    TypeError or FileNotFoundError that `messages.toml` names
    └── FailedError      work began and failed: earlier files are unchanged

A refusal is a value where something is only asked: `refuse_…` functions and the answers of a task,
`X | Refusal`. Code that works raises `RefusedError`: files, pixels, settings; `raise_if_refused`
raises what it asked for. Doors that show a refusal and go on (plans, docks, batches) get the value
from `return_refusal`. Once work has begun, errors are raised as `FailedError`.

A message has two sentences: what is wrong and where, then what to do. Their templates stand in
`messages.toml`, as those of all notes do. The tests check them and the documentation lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from napari_dip.errors.notes import Note, parse_note
from napari_dip.errors.templates import FAULTS as FAULTS
from napari_dip.errors.templates import make_printable, render, simplify_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong: why something cannot be done, or was not done.

    Attributes
    ----------
    code : str
        Key in `FAULTS`.
    facts : mapping
        Values that fill the templates of that code, in plain JSON types.
    extra_advice : tuple of Note
        Advice after the remedy.
    """

    code: str
    facts: Mapping[str, object] = field(default_factory=dict)
    extra_advice: tuple[Note, ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong and where."""
        return self._render(FAULTS[self.code].sentence)

    @property
    def remedy(self) -> str:
        """What to do."""
        return " ".join([self._render(FAULTS[self.code].remedy), *map(str, self.extra_advice)])

    @property
    def message(self) -> str:
        """Both sentences."""
        return f"{self.sentence} {self.remedy}"

    def describe_in_row(self, name: str) -> str:
        """Return both sentences for a row with the name of a file, without it as the subject."""
        subject, template = FAULTS[self.code].split_sentence()
        if self.facts.get(subject) != name:
            return self.message
        predicate = self._render(template)
        return f"{predicate[:1].upper()}{predicate[1:]} {self.remedy}"

    @classmethod
    def make(cls, code: str, /, **facts: object) -> Self:
        """Make a fault from its code and the facts of this case.

        Raises
        ------
        KeyError
            If the code is not in `FAULTS`, or a fact is missing.
        """
        fault = cls(code=code, facts=simplify_facts(facts))
        str(fault.message)
        return fault

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """Read a fault from the JSON of its `to_dict`.

        Raises
        ------
        KeyError
            If its code or a fact is unknown.
        """
        advice = tuple(map(parse_note, raw["extra_advice"]))
        return replace(cls.make(raw["code"], **raw["facts"]), extra_advice=advice)

    def __hash__(self) -> int:
        return hash((self.code, self.message))

    def to_dict(self) -> dict[str, Any]:
        """Return code, sentences and facts in plain JSON types."""
        return {
            "code": self.code,
            "sentence": self.sentence,
            "remedy": self.remedy,
            "facts": dict(self.facts),
            "extra_advice": [note.to_dict() for note in self.extra_advice],
        }

    def _render(self, template: str) -> str:
        return make_printable(render(template, self.facts))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Refusal(Fault):
    """Why something cannot be done, before any work began."""


def make_refusal(code: str, /, **facts: object) -> Refusal:
    """Make a refusal from its code and the facts of this case; see `Fault.make`."""
    return Refusal.make(code, **facts)


def make_unknown_refusal(field: str, allowed: Iterable[str], names: Iterable[str] = ()) -> Refusal:
    """Return the refusal of an unknown setting or input, with the most similar of the names."""
    allowed = tuple(allowed)
    question = ask_if_meant(field, tuple(names) or allowed)
    lead = f"{question}All names" if question else "Remove it, or check its spelling"
    return make_refusal("setting-unknown", field=field, hint=f"{lead}: {', '.join(allowed)}.")


def ask_if_meant(value: object, names: Iterable[str]) -> str:
    """Return a question for the most similar of the names; "" if there is none."""
    near = get_close_matches(str(value), list(names), n=1, cutoff=0.7)
    return f"Did you mean '{near[0]}'? " if near else ""


class DipError(Exception):
    """Base of all errors that are meant for users.

    Parameters
    ----------
    reason : Fault or str
        What is wrong, or the code of it.
    **facts
        The facts of this case, if `reason` is a code.
    """

    def __init__(self, reason: Fault | str, /, **facts: object) -> None:
        self.reason: Fault = Fault.make(reason, **facts) if isinstance(reason, str) else reason
        super().__init__(self.reason.message)
        self.args: tuple[str] = (self.reason.message,)  # OSError leaves them empty

    @property
    def code(self) -> str:
        """Code of the message, a key in `FAULTS`."""
        return self.reason.code

    def __reduce__(self) -> tuple[type[DipError], tuple[Fault]]:
        """Pickle the reason, not only its message."""
        return type(self), (self.reason,)


class RefusedError(DipError):
    """Refused before any work began.

    `RefusedError(...)` makes the subclass that its code stands for, such as `RefusedValueError`.
    """

    def __new__(cls, reason: Refusal | str, /, **_: object) -> RefusedError:
        """Choose the subclass by the code."""
        code = reason if isinstance(reason, str) else reason.code
        kind = cls if cls is not RefusedError else _ERROR_CLASSES[FAULTS[code].python_error]
        return super(RefusedError, kind).__new__(kind)  # that of OSError for a missing file

    def __init__(self, reason: Refusal | str, /, **facts: object) -> None:
        super().__init__(Refusal.make(reason, **facts) if isinstance(reason, str) else reason)
        self.reason: Refusal


class RefusedValueError(RefusedError, ValueError):
    """Refused because of a value."""


class RefusedTypeError(RefusedError, TypeError):
    """Refused because of a type, or of a keyword that does not exist."""


class RefusedFileError(RefusedError, FileNotFoundError):
    """Refused because a file or folder is missing."""


#: Subclass of `RefusedError` by the `python_error` of a template.
_ERROR_CLASSES = {
    "": RefusedError,
    "ValueError": RefusedValueError,
    "TypeError": RefusedTypeError,
    "FileNotFoundError": RefusedFileError,
}


class FailedError(DipError):
    """Work began and failed."""


def raise_if_refused(result: Result | Refusal) -> Result:
    """Return the result of a check, or raise its refusal.

    Raises
    ------
    RefusedError
        If the result is a refusal.
    """
    if isinstance(result, Refusal):
        raise RefusedError(result)
    return result


def return_refusal(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Result | Refusal]:
    """Return a function that returns the refusal of each `RefusedError` that this one raises."""

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result | Refusal:
        try:
            return function(*args, **kwargs)
        except RefusedError as error:
            return error.reason

    return call
