"""Runs recipes by their interfaces and compares what comes out: with one another, and as frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from golden.frozen import differences, frozen
from golden.interfaces import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    from golden.recipes import Recipe

    Outcome = Mapping[str, np.ndarray[Any, Any]]


def outcomes_of(
    recipe: Recipe, run_by_interface: Callable[[Recipe, str], Outcome] = run
) -> dict[str, dict[str, Any]]:
    """Run a recipe by each of its interfaces, and give what would be frozen, by interface."""
    return {
        interface: frozen(run_by_interface(recipe, interface)) for interface in recipe.interfaces
    }


def disagreements(outcomes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where interfaces give other pixels than the first one; that holds on every machine."""
    (first, kept), *rest = outcomes.items()
    return [
        f"{interface} and {first}: {sentence}"
        for interface, parts in rest
        for sentence in differences(
            {name: part for name, part in parts.items() if name in kept}, kept, machine=0
        )
    ]


def changes(
    recipe: Recipe,
    outcomes: Mapping[str, Mapping[str, Any]],
    file: Mapping[str, Any],
    *,
    machine: int | None,
) -> list[str]:
    """Say what is not as it was frozen, on the file's machine of that number or on another."""
    kept = file["recipes"].get(recipe.name)
    if kept is None:
        return ["it was never frozen"]
    gone = sorted(set(kept) - {name for parts in outcomes.values() for name in parts})
    return [f"'{name}' is gone" for name in gone] + list(_changes(outcomes, kept, machine))


def _changes(
    outcomes: Mapping[str, Mapping[str, Any]], kept: Mapping[str, Any], machine: int | None
) -> Iterator[str]:
    for interface, parts in outcomes.items():
        for sentence in differences(parts, kept, machine=machine):
            yield f"{interface}: {sentence}"


def merged(outcomes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Give all parts that any interface has; they agree where several have one."""
    return {name: part for parts in outcomes.values() for name, part in parts.items()}
