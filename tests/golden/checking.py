"""Runs recipes by their interfaces; compares the results with each other and frozen ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from golden.hashes import find_differences, freeze
from golden.interfaces import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    from golden.recipes import Recipe

    Outcome = Mapping[str, np.ndarray[Any, Any]]


def run_interfaces(
    recipe: Recipe, run_by_interface: Callable[[Recipe, str], Outcome] = run
) -> dict[str, dict[str, Any]]:
    """Run a recipe by each of its interfaces; return hashes and block means."""
    return {
        interface: freeze(run_by_interface(recipe, interface)) for interface in recipe.interfaces
    }


def find_disagreements(outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Describe where interfaces give other pixels than the first one."""
    (first, kept), *rest = outcomes.items()
    return [
        f"{interface} and {first}: {sentence}"
        for interface, parts in rest
        for sentence in find_differences(
            {name: part for name, part in parts.items() if name in kept}, kept, machine=0
        )
    ]


def find_changes(
    recipe: Recipe,
    outcomes: Mapping[str, Mapping[str, Any]],
    file: Mapping[str, Any],
    *,
    machine: int | None,
) -> list[str]:
    """Describe what differs from the frozen results, on machine `machine` of the file."""
    kept = file["recipes"].get(recipe.name)
    if kept is None:
        return ["it was never frozen"]
    gone = sorted(set(kept) - {name for parts in outcomes.values() for name in parts})
    return [f"'{name}' is gone" for name in gone] + list(_find_changes(outcomes, kept, machine))


def _find_changes(
    outcomes: Mapping[str, Mapping[str, Any]], kept: Mapping[str, Any], machine: int | None
) -> Iterator[str]:
    for interface, parts in outcomes.items():
        for sentence in find_differences(parts, kept, machine=machine):
            yield f"{interface}: {sentence}"


def merge_parts(outcomes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the parts of all interfaces, which agree."""
    return {name: part for parts in outcomes.values() for name, part in parts.items()}
