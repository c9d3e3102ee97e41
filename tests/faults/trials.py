"""Trials of `make faults`, and their results."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.errors import FAULTS, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

#: Row of the table: "ok" and "seen" at least; "count" where it stands for several.
TrialResult = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes
    ----------
    name : str
        Unique within its part.
    execute : callable
        Returns the result; an exception counts as a failure.
    """

    name: str
    execute: Callable[[], TrialResult]

    def run(self) -> TrialResult:
        """Execute the trial; an exception becomes a failure."""
        try:
            return {"trial": self.name, **self.execute()}
        except Exception as error:
            return {"trial": self.name, "ok": False, "seen": f"{type(error).__name__}: {error}"}


def make_passed(summary: str, **facts: Any) -> TrialResult:
    """Make the result of a trial that passed."""
    return {"ok": True, "seen": summary, **facts}


def make_failed(summary: str, **facts: Any) -> TrialResult:
    """Make the result of a trial that failed."""
    return {"ok": False, "seen": summary, **facts}


def keep_message(text: str) -> str:
    """Return a message unchanged."""
    return text


#: A field of a message, with its format, and what stands for its fact: no word of a message.
_FIELD, _FACT = re.compile(r"\{\w+(?::[^{}?]*)?\}"), "qqq"


def compile_pattern(
    code: str, format_message: Callable[[str], str] = keep_message
) -> re.Pattern[str]:
    """Compile a pattern of the fault's two sentences with any facts."""
    fault = FAULTS[code]
    text = _FIELD.sub(_FACT, f"{fault.sentence} {fault.remedy}")
    parts = format_message(text).split(_FACT)
    return re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)


def find_fault_code(
    message: str, format_message: Callable[[str], str] = keep_message
) -> str | None:
    """Find the fault whose two sentences a message is; None if it is none of them."""
    for code in FAULTS:
        if code != "unexpected" and compile_pattern(code, format_message).fullmatch(
            message.strip()
        ):
            return code
    return None


def is_translated(no: Refusal) -> bool:
    """Whether a refusal says what is wrong and what to do, and was foreseen."""
    return no.code != "unexpected" and bool(no.sentence.strip()) and bool(no.remedy.strip())
