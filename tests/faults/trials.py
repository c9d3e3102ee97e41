"""What every part of `make faults` is made of: named trials, each with what was seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.errors import FAULTS, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

#: What a trial saw: "ok" and "seen" at least; "count" where it stands for several.
TrialResult = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One thing that is done to the program.

    Attributes
    ----------
    name : str
        Unique within its part.
    act : callable
        Does it and says what was seen; an error counts as a failure.
    """

    name: str
    act: Callable[[], TrialResult]

    def run(self) -> TrialResult:
        """Do it; whatever is raised becomes a failure in words."""
        try:
            return {"trial": self.name, **self.act()}
        except Exception as error:
            return {"trial": self.name, "ok": False, "seen": f"{type(error).__name__}: {error}"}


def make_passed(account: str, **facts: Any) -> TrialResult:
    """Say that it went as it should."""
    return {"ok": True, "seen": account, **facts}


def make_failed(account: str, **facts: Any) -> TrialResult:
    """Say that it did not."""
    return {"ok": False, "seen": account, **facts}


def as_it_is(text: str) -> str:
    """Leave a message as the table has it."""
    return text


def pattern(code: str, format_message: Callable[[str], str] = as_it_is) -> re.Pattern[str]:
    """Match the fault's two sentences, as a door says them, whatever its facts are."""
    fault = FAULTS[code]
    parts = re.split(r"\{\w+\}", format_message(f"{fault.sentence} {fault.remedy}"))
    return re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)


def find_fault_code(message: str, format_message: Callable[[str], str] = as_it_is) -> str | None:
    """Find the fault whose two sentences a message is; None if it is none of them."""
    for code in FAULTS:
        if code != "unexpected" and pattern(code, format_message).fullmatch(message.strip()):
            return code
    return None


def is_translated(no: Refusal) -> bool:
    """Whether a refusal says what is wrong and what to do, and was foreseen."""
    return no.code != "unexpected" and bool(no.sentence.strip()) and bool(no.remedy.strip())
