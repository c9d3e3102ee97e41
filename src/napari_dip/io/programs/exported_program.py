"""A program of torch.export, read as a list of plain steps; nothing of it is carried out here.

torch's own reader unpickles sample inputs and constants, and evaluates the text of symbolic sizes,
so it is not used. The graph is JSON; weights are bytes of a stated type and shape.

Arguments of a graph's steps in plain types, and which names stand for the same memory.

Weights of a program: bytes of a stated type, laid out as the program says.

The part of a program that leads from the picture to one layer, described in plain JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.programs.archive import PICKLED_REASON, ProgramArchive

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

#: Number of a type in the file, and the name that torch has for it.
DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
#: Operators whose result may be the memory of their input, or a part of it.
_VIEW_OPERATORS = frozenset(
    f"aten.{name}"
    for name in (
        *("alias", "chunk", "contiguous", "detach", "dropout", "expand", "expand_as", "flatten"),
        *("narrow", "permute", "reshape", "select", "slice", "split", "split_with_sizes"),
        *("squeeze", "t", "to", "transpose", "unbind", "unflatten", "unsqueeze", "view"),
        *("view_as", "movedim", "lift_fresh_copy", "feature_dropout"),
    )
)
#: Kinds of arguments that name no value of the graph, and how each becomes plain. Everything is
#: computed where the picture is, and laid out as torch likes, so a device or a layout says nothing.
_PLAIN_ARGUMENT_PARSERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("as_none", "as_device", "as_layout", "as_memory_format"), lambda value: None),
    **dict.fromkeys(("as_int", "as_bool", "as_string"), lambda value: value),
    **dict.fromkeys(("as_ints", "as_bools"), list),
    "as_float": float,
    "as_floats": lambda value: [float(number) for number in value],
    "as_scalar_type": lambda value: {"dtype": DTYPES[value]},
}
#: Kinds that stand for a value by its name, for nothing, or for a plain number; and lists of them.
_NAME_ARGUMENT_KINDS = ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool")
_NAME_LIST_KINDS = ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools")


class Aliases:
    """Follows values that are changed in place, so that no step has to change any.

    `relu_(x)` gives a new value here, which later steps find under the name of the old one. Other
    names of the same memory are stale from then on: what they would hold is not worked out.

    Parameters
    ----------
    constants : mapping
        Inputs of the graph that are plain values.

    Attributes
    ----------
    stale : dict of str to int
        Name, and the number of the step from which on it is stale.
    """

    def __init__(self, constants: Mapping[str, Any]) -> None:
        self.constants = constants
        self.stale: dict[str, int] = {}
        self._now: dict[str, str] = {}
        self._shared: dict[str, set[str]] = {}

    def name(self, name: str) -> dict[str, str]:
        """Stand for a value by the name under which it is found now."""
        return {"of": self._now.get(name, name)}

    def plain(
        self,
        number: int,
        operator: str,
        inputs: Sequence[Mapping[str, Any]],
        results: tuple[str | None, ...],
    ) -> str:
        """Give the operator that changes nothing in place, and note what the step does to names.

        Parameters
        ----------
        number : int
            Of the step.
        operator : str
        inputs : sequence of mapping
            As the file has them.
        results : tuple of str or None
        """
        parts = operator.split(".")
        family = ".".join(parts[:2])
        changes = family.startswith("aten.") and family.endswith("_")
        first = inputs[0]["arg"].get("as_tensor", {}).get("name") if inputs else None
        if first is None or not results:
            return operator
        group = self._shared.setdefault(first, {first})
        plain = family.removesuffix("_") if changes else family
        if changes:
            old = self._now.get(first, first)
            for other in group - {first}:
                self.stale.setdefault(other, number)
            if old != first:
                self.stale.setdefault(old, number)
            self._now[first] = str(results[0])
        if changes or plain in _VIEW_OPERATORS:
            for name in filter(None, results):
                group.add(name)
                self._shared[name] = group
        return ".".join([plain, *parts[2:]])


def parse_argument(kind: str, value: Any, aliases: Aliases) -> Any:
    """Turn one argument into plain JSON types.

    Parameters
    ----------
    kind : str
        As the file calls it, such as "as_ints".
    value : object
    aliases : Aliases

    Raises
    ------
    ValueError
        If it is of a kind that no network here needs, such as a graph or an object.
    """
    if kind in _PLAIN_ARGUMENT_PARSERS:
        return _PLAIN_ARGUMENT_PARSERS[kind](value)
    if kind == "as_tensor":
        return _resolve_name(value["name"], aliases)
    if kind == "as_tensors":
        return [_resolve_name(item["name"], aliases) for item in value]
    if kind in _NAME_ARGUMENT_KINDS:
        return _parse_value(value, aliases)
    if kind in _NAME_LIST_KINDS:
        return [_parse_value(item, aliases) for item in value]
    raise ValueError(kind)


def _parse_value(value: Mapping[str, Any], aliases: Aliases) -> Any:
    """Read a value that is a name, nothing, or a plain number."""
    ((kind, inner),) = value.items()
    if kind == "as_name":
        return _resolve_name(inner, aliases)
    if kind == "as_tensor":
        return _resolve_name(inner["name"], aliases)
    return None if kind == "as_none" else inner


def _resolve_name(name: Any, aliases: Aliases) -> Any:
    """Put a constant in, or stand for a value by its name."""
    return aliases.constants[name] if name in aliases.constants else aliases.name(str(name))


#: Of the schema, as its first number stands in the file; another one may mean something else.
EXPORT_SCHEMA_VERSION = 8
#: Where weights and constants are listed.
_LISTS = {
    "weights": "data/weights/model_weights_config.json",
    "constants": "data/constants/model_constants_config.json",
}
_MALFORMED_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeight:
    """A weight: where its bytes lie, and how they are to be read."""

    entry: str
    kind: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExportedProgram:
    """A network with one picture as its input.

    Attributes
    ----------
    archive : ProgramArchive
    picture : str
        Name of the input.
    sizes : tuple of int or None
        (B, C, H, W) of the picture that it was exported for; None where any may come.
    steps : tuple of GraphNode
        In the order in which they are carried out.
    kept : mapping of str to StoredWeight
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
    steps: tuple[GraphNode, ...]
    kept: Mapping[str, StoredWeight]
    shapes: Mapping[str, tuple[int | None, ...]]
    stale: Mapping[str, int]

    def layers(self) -> dict[str, str]:
        """Give the modules in the order in which they end, each with its last result."""
        layers: dict[str, str] = {}
        for step in self.steps:
            last = next((name for name in step.results if name is not None), None)
            for path in reversed(step.modules):  # what lies within ends before what holds it
                if last is not None:
                    layers.pop(path, None)
                    layers[path] = last
        return layers


def read_program(path: str | os.PathLike[str]) -> ExportedProgram:
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
        raise archive.broken(PICKLED_REASON)
    model = archive.json("models/model.json")
    lists = {name: archive.json(entry) for name, entry in _LISTS.items()}
    try:
        if model["schema_version"]["major"] != EXPORT_SCHEMA_VERSION:
            major = str(model["schema_version"]["major"])[:20]
            raise archive.broken(
                f"it is of version {major}, and version {EXPORT_SCHEMA_VERSION} is read here"
            )
        return _parse_program(archive, model, lists)
    except _MALFORMED_ERRORS as error:
        raise archive.broken(f"its graph lacks sense ({type(error).__name__})") from None


def _parse_program(
    archive: ProgramArchive, model: dict[str, Any], lists: dict[str, dict[str, Any]]
) -> ExportedProgram:
    graph = model["graph_module"]["graph"]
    pictures, places, constants = _parse_inputs(model["graph_module"]["signature"]["input_specs"])
    if len(pictures) != 1:
        raise archive.broken(f"it takes {len(pictures)} inputs, and one picture is all there is")
    (picture,) = pictures
    kept = {}
    for name, (where, key) in places.items():
        config = lists[where]["config"]
        kept[name] = _parse_weight(archive, where, config[key]) if key in config else None
    aliases, steps = Aliases(constants), []
    for number, node in enumerate(graph["nodes"]):
        steps.append(_parse_node(archive, number, node, aliases))
    return ExportedProgram(
        archive=archive,
        picture=picture,
        sizes=_parse_open_sizes(graph["tensor_values"][picture]["sizes"]),
        steps=tuple(steps),
        kept={name: item for name, item in kept.items() if item is not None},
        shapes={
            name: _parse_open_sizes(meta["sizes"]) for name, meta in graph["tensor_values"].items()
        },
        stale=aliases.stale,
    )


def _parse_inputs(
    specs: list[dict[str, Any]],
) -> tuple[list[str], dict[str, tuple[str, str]], dict[str, Any]]:
    """Sort the inputs of the graph: pictures, weights with where they are listed, constants."""
    pictures: list[str] = []
    places: dict[str, tuple[str, str]] = {}
    constants: dict[str, Any] = {}
    for spec in specs:
        ((kind, facts),) = spec.items()
        if kind == "user_input":
            pictures += [str(facts["arg"]["as_tensor"]["name"])]
        elif kind == "parameter":
            places[facts["arg"]["name"]] = "weights", facts["parameter_name"]
        elif kind == "buffer":  # one that is not saved with the weights lies with the constants
            where = "weights" if facts["persistent"] else "constants"
            places[facts["arg"]["name"]] = where, facts["buffer_name"]
        elif kind == "tensor_constant":
            places[facts["arg"]["name"]] = "constants", facts["tensor_constant_name"]
        elif kind == "constant_input":
            ((_, value),) = facts["value"].items()
            constants[str(facts["name"])] = value
        else:
            raise ValueError(kind)
    return pictures, places, constants


def _parse_weight(archive: ProgramArchive, where: str, facts: dict[str, Any]) -> StoredWeight:
    """Read what is said of a weight, and hold it against the bytes that are there."""
    if facts["use_pickle"]:
        raise archive.broken("some of its weights are pickled, and pickles are not opened")
    meta = facts["tensor_meta"]
    sizes, strides = (_parse_fixed_sizes(meta[key]) for key in ("sizes", "strides"))
    (offset,) = _parse_fixed_sizes([meta["storage_offset"]])
    entry = f"data/{where}/{facts['path_name']}"
    if len(sizes) != len(strides) or min((*sizes, *strides, offset), default=0) < 0:
        raise ValueError("sizes")
    archive.size(entry)  # says no where it is missing
    return StoredWeight(
        entry=entry, kind=int(meta["dtype"]), sizes=sizes, strides=strides, offset=offset
    )


def _parse_fixed_sizes(entry: list[dict[str, Any]]) -> tuple[int, ...]:
    """Read sizes that must be plain numbers."""
    return tuple(int(item["as_int"]) for item in entry)


def _parse_open_sizes(entry: list[dict[str, Any]]) -> tuple[int | None, ...]:
    """Read sizes of which some may be left open."""
    return tuple(int(item["as_int"]) if "as_int" in item else None for item in entry)


def _parse_node(
    archive: ProgramArchive, number: int, node: dict[str, Any], aliases: Aliases
) -> GraphNode:
    operator = str(node["target"]).removeprefix("torch.ops.")
    arguments = {}
    for item in node["inputs"]:
        ((kind, value),) = item["arg"].items()
        arguments[str(item["name"])] = parse_argument(kind, value, aliases)
    results, listed = _parse_results(node["outputs"])
    modules = _parse_module_stack(str(node["metadata"].get("nn_module_stack", "")))
    operator = aliases.plain(number, operator, node["inputs"], results)
    return GraphNode(
        operator=operator, arguments=arguments, results=results, modules=modules, listed=listed
    )


def _parse_results(outputs: list[dict[str, Any]]) -> tuple[tuple[str | None, ...], bool]:
    """Name what a step gives; of a list, its parts."""
    names: list[str | None] = []
    for output in outputs:
        ((kind, value),) = output.items()
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


def _parse_module_stack(stack: str) -> tuple[str, ...]:
    """Read the paths of modules, outermost first: "key,path,class" with semicolons between."""
    paths = [part.split(",")[1] for part in stack.split(";") if part.count(",") >= 2]
    return tuple(path for path in paths if path)


def read_weight(program: ExportedProgram, name: str) -> npt.NDArray[Any]:
    """Read one weight; floating-point numbers come in single precision.

    Parameters
    ----------
    program : ExportedProgram
    name : str
        As the steps call it.

    Raises
    ------
    Refused
        If its bytes are not there, or not as many as it claims.
    """
    archive, facts = program.archive, program.kept[name]
    kind = DTYPES.get(facts.kind)
    if kind is None:
        raise archive.broken("its weights are of a type that is not read here")
    plain = np.dtype("uint16" if kind == "bfloat16" else kind)
    raw = archive.raw(facts.entry)
    if len(raw) % plain.itemsize:
        raise archive.broken(f"the bytes of '{name[:100]}' are cut off")
    values = np.frombuffer(raw, plain.newbyteorder("<")).astype(plain)
    count = 1
    for size in facts.sizes:
        count *= size
    steps = zip(facts.sizes, facts.strides, strict=True)
    last = facts.offset + sum((size - 1) * stride for size, stride in steps)
    if count and (count > len(values) or last >= len(values)):
        raise archive.broken(f"'{name[:100]}' claims more values than there are")
    if not count:
        laid = np.zeros(facts.sizes, plain)
    else:
        strides = tuple(stride * plain.itemsize for stride in facts.strides)
        laid = np.lib.stride_tricks.as_strided(values[facts.offset :], facts.sizes, strides)
    laid = np.array(laid)  # a copy, in the usual order
    if kind == "bfloat16":  # the upper half of single precision
        laid = (laid.astype(np.uint32) << 16).view(np.float32)
    return laid.astype(np.float32) if laid.dtype.kind == "f" else laid


#: How many names a refusal of a wrong one suggests.
_MAX_LAYER_SUGGESTIONS = 5


def extract_subgraph(program: ExportedProgram, layer: str) -> dict[str, Any]:
    """Keep the steps that a layer's result depends on.

    Parameters
    ----------
    program : ExportedProgram
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
        raise Refused(_refuse_unknown_layer(program, layer, list(layers)))
    producers: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        for name in step.results:
            if name is not None:
                producers[name] = number
    needed, kept = _find_dependencies(program, layers[layer], producers)
    return {
        "picture": program.picture,
        "output": layers[layer],
        "steps": [
            [item.operator, dict(item.arguments), list(item.results), item.listed]
            for number, item in enumerate(program.steps)
            if number in needed
        ],
        "kept": kept,
    }


def _find_dependencies(
    program: ExportedProgram, output: str, producers: dict[str, int]
) -> tuple[set[int], list[str]]:
    """Follow a result back to the picture: the steps on the way, and the weights beside it."""
    needed: set[int] = set()
    kept: dict[str, None] = {}
    names = [(output, producers[output] + 1)]  # as it was given, whatever later steps make of it
    while names:
        name, by = names.pop()
        if program.stale.get(name, by) < by:
            why = "it changes part of a tensor in place, which run_decompositions() would undo"
            raise program.archive.broken(why)
        if name in program.kept:
            kept[name] = None
        elif name in producers:
            number = producers[name]
            if number >= by:
                raise program.archive.broken("one of its steps comes before what it needs")
            if number not in needed:
                needed.add(number)
                names += [
                    (reference, number) for reference in iter_references(program.steps[number])
                ]
        elif name != program.picture:
            raise program.archive.broken(f"it lacks '{make_printable(name)[:100]}'")
    return needed, list(kept)


def iter_references(step: GraphNode) -> Iterator[str]:
    """Give the names that a step asks for."""
    for value in step.arguments.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and "of" in item:
                yield item["of"]


def _refuse_unknown_layer(program: ExportedProgram, layer: str, layers: list[str]) -> Any:
    near = (
        get_close_matches(layer, layers, _MAX_LAYER_SUGGESTIONS, cutoff=0)
        or layers[:_MAX_LAYER_SUGGESTIONS]
    )
    facts = {"layer": make_printable(layer)[:100], "near": ", ".join(map(make_printable, near))}
    return refusal("layer-unknown", path=program.archive.printable_name, **facts)
