"""JSON that a stranger may have written, read as the standard has it."""

from __future__ import annotations

import json
from typing import Any


def plain_json(text: str) -> Any:
    """Read JSON in which each name stands once and all numbers are finite.

    Raises
    ------
    ValueError
        If it is no such JSON, or nested more deeply than anything of ours.
    """
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it gives '{twice[:100]}' twice")
    return found
