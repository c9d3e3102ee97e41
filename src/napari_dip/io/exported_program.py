"""A program of torch.export, read as a list of plain steps; nothing of it is carried out here.

torch's own reader unpickles sample inputs and constants, and evaluates the text of symbolic sizes,
so it is not used. The graph is JSON; weights are bytes of a stated type and shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_dip.io.graph_values import Aliases, value_of
from napari_dip.io.program_archive import PICKLED, ProgramArchive

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

#: Of the schema, as its first number stands in the file; another one may mean something else.
SCHEMA = 8
#: Where weights and constants are listed.
_LISTS = {
    "weights": "data/weights/model_weights_config.json",
    "constants": "data/constants/model_constants_config.json",
}
_WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the graph.

    Attributes
    ----------
    operator : str
        Such as "aten.conv2d.default".
    arguments : mapping
        By name, in plain JSON types; {"of": NAME} stands for an earlier result.
    results : tuple of str or None
        Names of what it gives, None where nobody is told.
    modules : tuple of str
        Paths of the modules that it belongs to, outermost first.
    listed : bool
        Whether it gives one list of tensors, of which `results` are the parts.
    """

    operator: str
    arguments: Mapping[str, Any]
    results: tuple[str | None, ...]
    modules: tuple[str, ...]
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """A weight: where its bytes lie, and how they are to be read."""

    entry: str
    kind: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A network with one picture as its input.

    Attributes
    ----------
    archive : ProgramArchive
    picture : str
        Name of the input.
    sizes : tuple of int or None
        (B, C, H, W) of the picture that it was exported for; None where any may come.
    steps : tuple of Step
        In the order in which they are carried out.
    kept : mapping of str to Kept
        Weights and constants, by the names that steps call them by.
    shapes : mapping of str to tuple of int or None
        Sizes of results, for the picture that it was exported for.
    stale : mapping of str to int
        Names whose values a later step changes in place, and the number of that step: after it
        they may not be asked for.
    """

    archive: ProgramArchive
    picture: str
    sizes: tuple[int | None, ...]
    steps: tuple[Step, ...]
    kept: Mapping[str, Kept]
    shapes: Mapping[str, tuple[int | None, ...]]
    stale: Mapping[str, int]

    def layers(self) -> dict[str, str]:
        """Give the modules in the order in which they end, each with its last result."""
        found: dict[str, str] = {}
        for step in self.steps:
            last = next((name for name in step.results if name is not None), None)
            for path in reversed(step.modules):  # what lies within ends before what holds it
                if last is not None:
                    found.pop(path, None)
                    found[path] = last
        return found


def read_program(path: str | os.PathLike[str]) -> Program:
    """Read the graph of a program, and where its weights lie.

    Parameters
    ----------
    path : path

    Raises
    ------
    Refused
        If it is none, is damaged, or takes anything but one picture.
    """
    archive = ProgramArchive(path)
    if _LISTS["weights"] not in archive.names():
        raise archive.broken(PICKLED)
    model = archive.json("models/model.json")
    lists = {name: archive.json(entry) for name, entry in _LISTS.items()}
    try:
        if model["schema_version"]["major"] != SCHEMA:
            major = str(model["schema_version"]["major"])[:20]
            raise archive.broken(f"it is of version {major}, and version {SCHEMA} is read here")
        return _program(archive, model, lists)
    except _WRONG as error:
        raise archive.broken(f"its graph lacks sense ({type(error).__name__})") from None


def _program(
    archive: ProgramArchive, model: dict[str, Any], lists: dict[str, dict[str, Any]]
) -> Program:
    graph = model["graph_module"]["graph"]
    pictures, places, constants = _inputs(model["graph_module"]["signature"]["input_specs"])
    if len(pictures) != 1:
        raise archive.broken(f"it takes {len(pictures)} inputs, and one picture is all there is")
    (picture,) = pictures
    kept = {}
    for name, (where, key) in places.items():
        config = lists[where]["config"]
        kept[name] = _kept(archive, where, config[key]) if key in config else None
    aliases, steps = Aliases(constants), []
    for number, node in enumerate(graph["nodes"]):
        steps.append(_step(archive, number, node, aliases))
    return Program(
        archive,
        picture,
        _sizes(graph["tensor_values"][picture]["sizes"]),
        tuple(steps),
        {name: one for name, one in kept.items() if one is not None},
        {name: _sizes(meta["sizes"]) for name, meta in graph["tensor_values"].items()},
        aliases.stale,
    )


def _inputs(
    specs: list[dict[str, Any]],
) -> tuple[list[str], dict[str, tuple[str, str]], dict[str, Any]]:
    """Sort the inputs of the graph: pictures, weights with where they are listed, constants."""
    pictures: list[str] = []
    places: dict[str, tuple[str, str]] = {}
    constants: dict[str, Any] = {}
    for spec in specs:
        ((kind, told),) = spec.items()
        if kind == "user_input":
            pictures += [str(told["arg"]["as_tensor"]["name"])]
        elif kind == "parameter":
            places[told["arg"]["name"]] = "weights", told["parameter_name"]
        elif kind == "buffer":  # one that is not saved with the weights lies with the constants
            where = "weights" if told["persistent"] else "constants"
            places[told["arg"]["name"]] = where, told["buffer_name"]
        elif kind == "tensor_constant":
            places[told["arg"]["name"]] = "constants", told["tensor_constant_name"]
        elif kind == "constant_input":
            ((_, value),) = told["value"].items()
            constants[str(told["name"])] = value
        else:
            raise ValueError(kind)
    return pictures, places, constants


def _kept(archive: ProgramArchive, where: str, told: dict[str, Any]) -> Kept:
    """Read what is said of a weight, and hold it against the bytes that are there."""
    if told["use_pickle"]:
        raise archive.broken("some of its weights are pickled, and pickles are not opened")
    meta = told["tensor_meta"]
    sizes, strides = (_whole(meta[key]) for key in ("sizes", "strides"))
    (offset,) = _whole([meta["storage_offset"]])
    entry = f"data/{where}/{told['path_name']}"
    if len(sizes) != len(strides) or min((*sizes, *strides, offset), default=0) < 0:
        raise ValueError("sizes")
    archive.size(entry)  # says no where it is missing
    return Kept(entry, int(meta["dtype"]), sizes, strides, offset)


def _whole(told: list[dict[str, Any]]) -> tuple[int, ...]:
    """Read sizes that must be plain numbers."""
    return tuple(int(one["as_int"]) for one in told)


def _sizes(told: list[dict[str, Any]]) -> tuple[int | None, ...]:
    """Read sizes of which some may be left open."""
    return tuple(int(one["as_int"]) if "as_int" in one else None for one in told)


def _step(archive: ProgramArchive, number: int, node: dict[str, Any], aliases: Aliases) -> Step:
    operator = str(node["target"]).removeprefix("torch.ops.")
    arguments = {}
    for one in node["inputs"]:
        ((kind, value),) = one["arg"].items()
        arguments[str(one["name"])] = value_of(kind, value, aliases)
    results, listed = _results(node["outputs"])
    modules = _modules(str(node["metadata"].get("nn_module_stack", "")))
    operator = aliases.plain(number, operator, node["inputs"], results)
    return Step(operator, arguments, results, modules, listed)


def _results(outputs: list[dict[str, Any]]) -> tuple[tuple[str | None, ...], bool]:
    """Name what a step gives; of a list, its parts."""
    names: list[str | None] = []
    for one in outputs:
        ((kind, value),) = one.items()
        if kind == "as_tensors":
            if len(outputs) > 1:
                raise ValueError(kind)
            return tuple(str(part["name"]) for part in value), True
        if kind == "as_none":
            names.append(None)
        elif kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
            names.append(str(value.get("name", value.get("as_name"))))
        else:
            raise ValueError(kind)
    return tuple(names), False


def _modules(stack: str) -> tuple[str, ...]:
    """Read the paths of modules, outermost first: "key,path,class" with semicolons between."""
    paths = [part.split(",")[1] for part in stack.split(";") if part.count(",") >= 2]
    return tuple(path for path in paths if path)
