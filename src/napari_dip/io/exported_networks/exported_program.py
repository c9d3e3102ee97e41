"""Read a torch.export program as a list of plain steps, without running any of its code.

torch's own reader unpickles sample inputs and constants and evaluates symbolic sizes, so it is not
used. The graph is JSON; weights are bytes of a stated type and shape. `extract_subgraph` describes
the steps from the image to one layer in plain JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import RefusedError
from napari_dip.io.exported_networks.archive import FORMATS, PICKLED_REASON, ProgramArchive

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_dip.io import AnyArray

#: Number of a type in the file -> torch's name of the type.
DTYPES = {int(number): name for number, name in FORMATS["dtypes"].items()}
#: Operators whose result may share memory with their input.
_VIEW_OPERATORS = frozenset(f"aten.{name}" for name in FORMATS["view_operators"]["names"])
#: Kinds of arguments that refer to no value of the graph, and their conversion to plain types.
#: Devices and layouts become None: the image decides the device, and torch the layout.
_PLAIN_ARGUMENT_PARSERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("as_none", "as_device", "as_layout", "as_memory_format"), lambda value: None),
    **dict.fromkeys(("as_int", "as_bool", "as_string"), lambda value: value),
    **dict.fromkeys(("as_ints", "as_bools"), list),
    "as_float": float,
    "as_floats": lambda value: [float(number) for number in value],
    "as_scalar_type": lambda value: {"dtype": DTYPES[value]},
}
#: Kinds of arguments that hold a name, nothing or a plain number; and lists of such arguments.
_NAME_ARGUMENT_KINDS = ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool")
_NAME_LIST_KINDS = ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools")
#: Supported major version of the schema; another one may have other meanings.
EXPORT_SCHEMA_VERSION = 8
#: Entries that list weights and constants.
_WEIGHT_INDEX_ENTRIES = {
    "weights": "data/weights/model_weights_config.json",
    "constants": "data/constants/model_constants_config.json",
}
_MALFORMED_ERRORS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
#: Number of suggestions for an unknown layer.
_MAX_LAYER_SUGGESTIONS = 5


class AliasTracker:
    """Track values that operators change in place, so that all steps become functional.

    `relu_(x)` becomes a new value, which later steps find under the old name. Other names of the
    same memory are stale from then on: their new content is not computed.

    Parameters
    ----------
    constants : mapping
        Graph inputs that are plain values.

    Attributes
    ----------
    stale_steps : dict of str to int
        Name -> number of the step from which on it is stale.
    """

    def __init__(self, constants: Mapping[str, Any]) -> None:
        self.constants = constants
        self.stale_steps: dict[str, int] = {}
        self._current_names: dict[str, str] = {}
        self._alias_groups: dict[str, set[str]] = {}

    def resolve_name(self, name: Any) -> Any:
        """Return the constant of a name, or a reference to its current value."""
        if name in self.constants:
            return self.constants[name]
        return {"of": self._current_names.get(str(name), str(name))}

    def make_functional(
        self,
        number: int,
        operator: str,
        inputs: Sequence[Mapping[str, Any]],
        results: tuple[str | None, ...],
    ) -> str:
        """Return the functional variant of an operator, and update names that the step changes.

        Parameters
        ----------
        number : int
            Number of the step.
        operator : str
        inputs : sequence of mapping
            Inputs as in the file.
        results : tuple of str or None
        """
        name_parts = operator.split(".")
        family = ".".join(name_parts[:2])
        is_in_place = family.startswith("aten.") and family.endswith("_")
        input_name = inputs[0]["arg"].get("as_tensor", {}).get("name") if inputs else None
        if input_name is None or not results:
            return operator
        aliases = self._alias_groups.setdefault(input_name, {input_name})
        functional = family.removesuffix("_") if is_in_place else family
        if is_in_place:
            current_name = self._current_names.get(input_name, input_name)
            for alias in aliases - {input_name}:
                self.stale_steps.setdefault(alias, number)
            if current_name != input_name:
                self.stale_steps.setdefault(current_name, number)
            self._current_names[input_name] = str(results[0])
        if is_in_place or functional in _VIEW_OPERATORS:
            for name in filter(None, results):
                aliases.add(name)
                self._alias_groups[name] = aliases
        return ".".join([functional, *name_parts[2:]])


def parse_argument(kind: str, value: Any, aliases: AliasTracker) -> Any:
    """Convert one argument to plain JSON types.

    Parameters
    ----------
    kind : str
        Kind of the argument in the file, such as "as_ints".
    value : object
    aliases : AliasTracker

    Raises
    ------
    ValueError
        If the kind is unsupported, such as a graph or an object.
    """
    if kind in _PLAIN_ARGUMENT_PARSERS:
        return _PLAIN_ARGUMENT_PARSERS[kind](value)
    if kind == "as_tensor":
        return aliases.resolve_name(value["name"])
    if kind == "as_tensors":
        return [aliases.resolve_name(element["name"]) for element in value]
    if kind in _NAME_ARGUMENT_KINDS:
        return _parse_value(value, aliases)
    if kind in _NAME_LIST_KINDS:
        return [_parse_value(element, aliases) for element in value]
    raise ValueError(kind)


def _parse_value(value: Mapping[str, Any], aliases: AliasTracker) -> Any:
    """Convert a value that is a name, nothing, or a plain number."""
    ((kind, content),) = value.items()
    if kind == "as_name":
        return aliases.resolve_name(content)
    if kind == "as_tensor":
        return aliases.resolve_name(content["name"])
    return None if kind == "as_none" else content


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One operation of the graph.

    Attributes
    ----------
    operator : str
        Such as "aten.conv2d.default".
    arguments : mapping
        Arguments by name, in plain JSON types; {"of": NAME} refers to an earlier result.
    results : tuple of str or None
        Names of the results; None for unused ones.
    modules : tuple of str
        Paths of the modules that contain the operation, outermost first.
    has_list_output : bool
        Whether the operation returns one list of tensors, with `results` as its elements.
    """

    operator: str
    arguments: Mapping[str, Any]
    results: tuple[str | None, ...]
    modules: tuple[str, ...]
    has_list_output: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeight:
    """Location and layout of the bytes of a weight."""

    entry: str
    kind: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExportedProgram:
    """A network with one image as its input.

    Attributes
    ----------
    archive : ProgramArchive
    input_name : str
        Name of the input.
    sizes : tuple of int or None
        (B, C, H, W) of the exported input; None for dynamic sizes.
    steps : tuple of GraphNode
        Operations in the order of their execution.
    stored_weights : mapping of str to StoredWeight
        Weights and constants by their names in the steps.
    shapes : mapping of str to tuple of int or None
        Shapes of results for the exported input.
    stale_steps : mapping of str to int
        Name whose value a later step changes in place -> number of that step. Later steps must not
        use the name.
    """

    archive: ProgramArchive
    input_name: str
    sizes: tuple[int | None, ...]
    steps: tuple[GraphNode, ...]
    stored_weights: Mapping[str, StoredWeight]
    shapes: Mapping[str, tuple[int | None, ...]]
    stale_steps: Mapping[str, int]

    def list_layers(self) -> dict[str, str]:
        """Return the modules in the order in which they end, each with its last result."""
        layers: dict[str, str] = {}
        for step in self.steps:
            last = next((name for name in step.results if name is not None), None)
            for path in reversed(step.modules):  # inner modules end before outer ones
                if last is not None:
                    layers.pop(path, None)
                    layers[path] = last
        return layers


def read_program(path: str | os.PathLike[str]) -> ExportedProgram:
    """Read the graph of a program and the location of its weights.

    Parameters
    ----------
    path : path

    Raises
    ------
    RefusedError
        If it is no program, is damaged, or has other inputs than one image.
    """
    archive = ProgramArchive(path)
    if _WEIGHT_INDEX_ENTRIES["weights"] not in archive.list_entries():
        raise archive.make_broken_error(PICKLED_REASON)
    model = archive.read_json("models/model.json")
    lists = {name: archive.read_json(entry) for name, entry in _WEIGHT_INDEX_ENTRIES.items()}
    try:
        if model["schema_version"]["major"] != EXPORT_SCHEMA_VERSION:
            major = str(model["schema_version"]["major"])[:20]
            raise archive.make_broken_error(
                f"it is of version {major}, and version {EXPORT_SCHEMA_VERSION} is read here"
            )
        return _parse_program(archive, model, lists)
    except _MALFORMED_ERRORS as error:
        raise archive.make_broken_error(
            f"its graph is inconsistent ({type(error).__name__})"
        ) from None


def _parse_program(
    archive: ProgramArchive, model: dict[str, Any], lists: dict[str, dict[str, Any]]
) -> ExportedProgram:
    graph = model["graph_module"]["graph"]
    image_names, locations, constants = _parse_inputs(
        model["graph_module"]["signature"]["input_specs"]
    )
    if len(image_names) != 1:
        raise archive.make_broken_error(
            f"it takes {len(image_names)} inputs, and one image is all there is"
        )
    (image_name,) = image_names
    weights = {}
    for name, (group, key) in locations.items():
        config = lists[group]["config"]
        if key in config:
            weights[name] = _parse_weight(archive, group, config[key])
    aliases, nodes = AliasTracker(constants), enumerate(graph["nodes"])
    steps = tuple(_parse_node(archive, number, node, aliases) for number, node in nodes)
    return ExportedProgram(
        archive=archive,
        input_name=image_name,
        sizes=_parse_open_sizes(graph["tensor_values"][image_name]["sizes"]),
        steps=steps,
        stored_weights=weights,
        shapes={
            name: _parse_open_sizes(meta["sizes"]) for name, meta in graph["tensor_values"].items()
        },
        stale_steps=aliases.stale_steps,
    )


def _parse_inputs(
    specs: list[dict[str, Any]],
) -> tuple[list[str], dict[str, tuple[str, str]], dict[str, Any]]:
    """Sort the inputs of the graph into images, locations of weights, and constants."""
    image_names: list[str] = []
    locations: dict[str, tuple[str, str]] = {}
    constants: dict[str, Any] = {}
    for spec in specs:
        ((kind, fields),) = spec.items()
        if kind == "user_input":
            image_names += [str(fields["arg"]["as_tensor"]["name"])]
        elif kind == "parameter":
            locations[fields["arg"]["name"]] = "weights", fields["parameter_name"]
        elif kind == "buffer":  # buffers that are not persistent are stored with the constants
            group = "weights" if fields["persistent"] else "constants"
            locations[fields["arg"]["name"]] = group, fields["buffer_name"]
        elif kind == "tensor_constant":
            locations[fields["arg"]["name"]] = "constants", fields["tensor_constant_name"]
        elif kind == "constant_input":
            ((_, value),) = fields["value"].items()
            constants[str(fields["name"])] = value
        else:
            raise ValueError(kind)
    return image_names, locations, constants


def _parse_weight(archive: ProgramArchive, location: str, fields: dict[str, Any]) -> StoredWeight:
    """Read the description of a weight, and check that its bytes exist."""
    if fields["use_pickle"]:
        raise archive.make_broken_error(
            "some of its weights are pickled, and pickles are not opened"
        )
    meta = fields["tensor_meta"]
    sizes, strides = (_parse_fixed_sizes(meta[key]) for key in ("sizes", "strides"))
    (offset,) = _parse_fixed_sizes([meta["storage_offset"]])
    entry_name = f"data/{location}/{fields['path_name']}"
    if len(sizes) != len(strides) or min((*sizes, *strides, offset), default=0) < 0:
        raise ValueError("sizes")
    archive.get_entry_size(entry_name)  # raises `RefusedError` if the entry is missing
    return StoredWeight(
        entry=entry_name, kind=int(meta["dtype"]), sizes=sizes, strides=strides, offset=offset
    )


def _parse_fixed_sizes(sizes: list[dict[str, Any]]) -> tuple[int, ...]:
    """Read sizes that must be plain numbers."""
    return tuple(int(size["as_int"]) for size in sizes)


def _parse_open_sizes(sizes: list[dict[str, Any]]) -> tuple[int | None, ...]:
    """Read sizes of which some may be dynamic."""
    return tuple(int(size["as_int"]) if "as_int" in size else None for size in sizes)


def _parse_node(
    archive: ProgramArchive, number: int, node: dict[str, Any], aliases: AliasTracker
) -> GraphNode:
    operator = str(node["target"]).removeprefix("torch.ops.")
    arguments = {}
    for node_input in node["inputs"]:
        ((kind, value),) = node_input["arg"].items()
        arguments[str(node_input["name"])] = parse_argument(kind, value, aliases)
    results, has_list_output = _parse_results(node["outputs"])
    modules = _parse_module_stack(str(node["metadata"].get("nn_module_stack", "")))
    operator = aliases.make_functional(number, operator, node["inputs"], results)
    return GraphNode(
        operator=operator,
        arguments=arguments,
        results=results,
        modules=modules,
        has_list_output=has_list_output,
    )


def _parse_results(outputs: list[dict[str, Any]]) -> tuple[tuple[str | None, ...], bool]:
    """Return the names of a step's results, and whether they are the elements of one list."""
    names: list[str | None] = []
    for output in outputs:
        ((kind, value),) = output.items()
        if kind == "as_tensors":
            if len(outputs) > 1:
                raise ValueError(kind)
            return tuple(str(element["name"]) for element in value), True
        if kind == "as_none":
            names.append(None)
        elif kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
            names.append(str(value.get("name", value.get("as_name"))))
        else:
            raise ValueError(kind)
    return tuple(names), False


def _parse_module_stack(stack: str) -> tuple[str, ...]:
    """Read the paths of modules, outermost first, from "key,path,class" separated by semicolons."""
    fields = (text.split(",") for text in stack.split(";") if text.count(",") >= 2)
    return tuple(path for _, path, *_ in fields if path)


def read_weight(program: ExportedProgram, name: str) -> AnyArray:
    """Read one weight; floating-point numbers are converted to single precision.

    Parameters
    ----------
    program : ExportedProgram
    name : str
        Name in the steps.

    Raises
    ------
    RefusedError
        If its bytes are missing or too few.
    """
    archive, stored_weight = program.archive, program.stored_weights[name]
    dtype_name = DTYPES.get(stored_weight.kind)
    if dtype_name is None:
        raise archive.make_broken_error("its weights are of a type that is not read here")
    stored_dtype = np.dtype("uint16" if dtype_name == "bfloat16" else dtype_name)
    raw = archive.read_entry(stored_weight.entry)
    if len(raw) % stored_dtype.itemsize:
        raise archive.make_broken_error(f"the bytes of '{name[:100]}' are cut off")
    values = np.frombuffer(raw, stored_dtype.newbyteorder("<")).astype(stored_dtype)
    count = prod(stored_weight.sizes)
    size_stride_pairs = zip(stored_weight.sizes, stored_weight.strides, strict=True)
    last_index = stored_weight.offset + sum(
        (size - 1) * stride for size, stride in size_stride_pairs
    )
    if count and (count > len(values) or last_index >= len(values)):
        raise archive.make_broken_error(f"'{name[:100]}' claims more values than there are")
    if not count:
        weight = np.zeros(stored_weight.sizes, stored_dtype)
    else:
        strides = tuple(stride * stored_dtype.itemsize for stride in stored_weight.strides)
        weight = np.lib.stride_tricks.as_strided(
            values[stored_weight.offset :], stored_weight.sizes, strides
        )
    weight = np.array(weight)  # a contiguous copy
    if dtype_name == "bfloat16":  # the upper half of single precision
        weight = (weight.astype(np.uint32) << 16).view(np.float32)
    return weight.astype(np.float32) if weight.dtype.kind == "f" else weight


def extract_subgraph(program: ExportedProgram, layer: str) -> dict[str, Any]:
    """Return the steps that the result of a layer depends on.

    Parameters
    ----------
    program : ExportedProgram
    layer : str
        Path of a module, whose last result counts.

    Returns
    -------
    dict
        "image": name of the input; "output": name of the layer's result; "steps": list of
        [operator, arguments, results, has_list_output]; "weight_names": names of the weights that
        these need.

    Raises
    ------
    RefusedError
        If there is no such layer, or its dependencies are incomplete.
    """
    layers = program.list_layers()
    if layer not in layers:
        names, count = list(layers), _MAX_LAYER_SUGGESTIONS
        near = ", ".join(get_close_matches(layer, names, count, cutoff=0) or names[:count])
        path = program.archive.path
        raise RefusedError("layer-unknown", path=path, layer=layer[:100], near=near)
    results = ((name, number) for number, step in enumerate(program.steps) for name in step.results)
    producers = {name: number for name, number in results if name is not None}
    step_numbers, weight_names = _find_dependencies(program, layers[layer], producers)
    return {
        "image": program.input_name,
        "output": layers[layer],
        "steps": [
            [step.operator, dict(step.arguments), list(step.results), step.has_list_output]
            for number, step in enumerate(program.steps)
            if number in step_numbers
        ],
        "weight_names": weight_names,
    }


def _find_dependencies(
    program: ExportedProgram, output: str, producers: dict[str, int]
) -> tuple[set[int], list[str]]:
    """Follow a result back to the image; return the steps on the path and their weights."""
    step_numbers: set[int] = set()
    weight_names: dict[str, None] = {}
    pending = [(output, producers[output] + 1)]  # its value before any later step changes it
    while pending:
        name, user_step = pending.pop()
        if program.stale_steps.get(name, user_step) < user_step:
            why = "it changes part of a tensor in place, which run_decompositions() would undo"
            raise program.archive.make_broken_error(why)
        if name in program.stored_weights:
            weight_names[name] = None
        elif name in producers:
            number = producers[name]
            if number >= user_step:
                raise program.archive.make_broken_error(
                    "one of its steps comes before what it needs"
                )
            if number not in step_numbers:
                step_numbers.add(number)
                pending += [
                    (reference, number) for reference in iter_references(program.steps[number])
                ]
        elif name != program.input_name:
            raise program.archive.make_broken_error(f"it lacks '{name[:100]}'")
    return step_numbers, list(weight_names)


def iter_references(step: GraphNode) -> Iterator[str]:
    """Yield the names that a step refers to."""
    for value in step.arguments.values():
        for argument in value if isinstance(value, list) else [value]:
            if isinstance(argument, dict) and "of" in argument:
                yield argument["of"]
