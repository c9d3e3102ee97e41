"""Arguments of a graph's steps in plain types, and which names stand for the same memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
_SHARING = frozenset(
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
_PLAIN: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("as_none", "as_device", "as_layout", "as_memory_format"), lambda value: None),
    **dict.fromkeys(("as_int", "as_bool", "as_string"), lambda value: value),
    **dict.fromkeys(("as_ints", "as_bools"), list),
    "as_float": float,
    "as_floats": lambda value: [float(number) for number in value],
    "as_scalar_type": lambda value: {"dtype": DTYPES[value]},
}
#: Kinds that stand for a value by its name, for nothing, or for a plain number; and lists of them.
_NAMES = ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool")
_LISTS_OF_NAMES = ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools")


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
        if changes or plain in _SHARING:
            for name in filter(None, results):
                group.add(name)
                self._shared[name] = group
        return ".".join([plain, *parts[2:]])


def value_of(kind: str, value: Any, aliases: Aliases) -> Any:
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
    if kind in _PLAIN:
        return _PLAIN[kind](value)
    if kind == "as_tensor":
        return _named(value["name"], aliases)
    if kind == "as_tensors":
        return [_named(one["name"], aliases) for one in value]
    if kind in _NAMES:
        return _one(value, aliases)
    if kind in _LISTS_OF_NAMES:
        return [_one(one, aliases) for one in value]
    raise ValueError(kind)


def _one(value: Mapping[str, Any], aliases: Aliases) -> Any:
    """Read a value that is a name, nothing, or a plain number."""
    ((kind, inner),) = value.items()
    if kind == "as_name":
        return _named(inner, aliases)
    if kind == "as_tensor":
        return _named(inner["name"], aliases)
    return None if kind == "as_none" else inner


def _named(name: Any, aliases: Aliases) -> Any:
    """Put a constant in, or stand for a value by its name."""
    return aliases.constants[name] if name in aliases.constants else aliases.name(str(name))
