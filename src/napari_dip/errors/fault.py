"""One kind of trouble, as the tables list it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble: templates for what is wrong and for what to do about it."""

    sentence: str
    remedy: str
