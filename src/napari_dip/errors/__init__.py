"""Everything that can go wrong for a user: one table of faults, and the values that carry them.

    DipError                 anything this package raises for a user's eyes
    ├── Refused              said no before any work began; holds a `Refusal`
    └── Failed               work began and could not end well; holds a `Refusal` as well

A message is two sentences: what is wrong and where, then what to do. Both live in `FAULTS`,
which the tests walk and the documentation prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from napari_dip.errors.fault import make_printable, shorten_middle
from napari_dip.errors.files import FILE_FAULTS
from napari_dip.errors.pixels import PIXEL_FAULTS
from napari_dip.errors.runs import RUN_FAULTS, SERIES_FAULTS, WORKER_FAULTS
from napari_dip.errors.settings import NETWORK_FAULTS, SETTING_FAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.errors.fault import Fault

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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 'no' with its reason.

    Attributes
    ----------
    code : str
        Key in `FAULTS`.
    sentence, remedy : str
        What is wrong and where; what to do.
    """

    code: str
    sentence: str
    remedy: str

    @property
    def message(self) -> str:
        """Both sentences, as people read them."""
        return f"{self.sentence} {self.remedy}"


def refusal(code: str, **facts: object) -> Refusal:
    """Fill the fault `code` with the facts of this case, whoever wrote them and however long.

    Raises
    ------
    KeyError
        If the code is not in `FAULTS`, or a fact is missing.
    """
    fault = FAULTS[code]
    shown = {
        name: shorten_middle(str(fact)) if isinstance(fact, str | PathLike) else fact
        for name, fact in facts.items()
    }
    sentence, remedy = (one.format(**shown) for one in (fault.sentence, fault.remedy))
    return Refusal(code, make_printable(sentence), make_printable(remedy))


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
