"""The part of a program that leads from the picture to one layer, described in plain JSON."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.io.exported_program import Program, Step

#: How many names a refusal of a wrong one suggests.
_NEAREST = 5


def cut(program: Program, layer: str) -> dict[str, Any]:
    """Keep the steps that a layer's result depends on.

    Parameters
    ----------
    program : Program
    layer : str
        Path of a module; its last result is what is kept.

    Returns
    -------
    dict
        "picture": name of the input; "output": name of the layer's result; "steps": list of
        [operator, arguments, results, listed]; "kept": names of the weights that these need.

    Raises
    ------
    Refused
        If there is no such layer, or it hangs on what is not there.
    """
    layers = program.layers()
    if layer not in layers:
        raise Refused(_unknown(program, layer, list(layers)))
    made: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in step.results:
            if name is not None:
                made[name] = number
    needed, kept = _needed(program, layers[layer], made)
    return {
        "picture": program.picture,
        "output": layers[layer],
        "steps": [
            [one.operator, dict(one.arguments), list(one.results), one.listed]
            for number, one in enumerate(program.steps)
            if number in needed
        ],
        "kept": kept,
    }


def _needed(program: Program, output: str, made: dict[str, int]) -> tuple[set[int], list[str]]:
    """Follow a result back to the picture: the steps on the way, and the weights beside it."""
    needed: set[int] = set()
    kept: dict[str, None] = {}
    asked = [(output, made[output] + 1)]  # as it was given, whatever later steps make of it
    while asked:
        name, by = asked.pop()
        if program.stale.get(name, by) < by:
            why = "it changes part of a tensor in place, which run_decompositions() would undo"
            raise program.archive.broken(why)
        if name in program.kept:
            kept[name] = None
        elif name in made:
            number = made[name]
            if number >= by:
                raise program.archive.broken("one of its steps comes before what it needs")
            if number not in needed:
                needed.add(number)
                asked += [(one, number) for one in references(program.steps[number])]
        elif name != program.picture:
            raise program.archive.broken(f"it lacks '{printable(name)[:100]}'")
    return needed, list(kept)


def references(step: Step) -> Iterator[str]:
    """Give the names that a step asks for."""
    for value in step.arguments.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) and "of" in one:
                yield one["of"]


def _unknown(program: Program, layer: str, layers: list[str]) -> Any:
    near = get_close_matches(layer, layers, _NEAREST, cutoff=0) or layers[:_NEAREST]
    facts = {"layer": printable(layer)[:100], "near": ", ".join(map(printable, near))}
    return refusal("layer-unknown", path=program.archive.shown, **facts)
