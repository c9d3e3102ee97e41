"""A frozen network up to a layer, carried out step by step from a description in plain types."""

from __future__ import annotations

import operator as arithmetic
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_dip.engine.feature_allow_list import AS_IT_IS, ON_SIZES, objection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Arguments that say where and how a result is laid out in memory; torch is left to choose.
_LAYOUT = ("device", "layout", "memory_format", "pin_memory")
#: Types that a step may turn its input into.
_TYPES = {
    str(one).removeprefix("torch."): one
    for one in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}


class FeatureGraph(nn.Module):
    """From a picture to the activations of one layer; nothing in it is fitted.

    Parameters
    ----------
    description : mapping
        "picture": name of the input; "output": name of what is given back; "steps": list of
        [operator, arguments, results, listed], where {"of": NAME} stands for an earlier result.
    tensors : mapping of str to Tensor
        Weights and constants, by their names.

    Raises
    ------
    ValueError
        If a step is not among `feature_allow_list.ALLOWED`, or asks for what is not there.
    """

    def __init__(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._picture, self._output = str(description["picture"]), str(description["output"])
        self._places = {name: f"kept_{place}" for place, name in enumerate(tensors)}
        for name, place in self._places.items():
            self.register_buffer(place, tensors[name].detach(), persistent=False)
        self._steps = [_ready(*step) for step in description["steps"]]
        there = {self._picture, *self._places}
        for _, arguments, results, _ in self._steps:
            if missing := {one for one in _names(arguments) if one not in there}:
                raise ValueError(f"{min(missing)!r} is asked for before it is there")
            there.update(name for name in results if name is not None)
        if self._output not in there:
            raise ValueError(f"{self._output!r} is not there")

    def forward(self, picture: Tensor) -> Tensor:
        """(B, C, Y, X) as the network takes it -> activations, of whatever shape."""
        values: dict[str, Any] = {self._picture: picture}
        values |= {name: getattr(self, place) for name, place in self._places.items()}
        for call, arguments, results, listed in self._steps:
            given = {name: _filled(value, values) for name, value in arguments.items()}
            answer = call(given)
            several = listed or len(results) > 1
            for name, one in zip(results, answer if several else (answer,), strict=False):
                if name is not None:
                    values[name] = one
        return torch.as_tensor(values[self._output])


def _ready(
    operator: str, arguments: dict[str, Any], results: list[str | None], listed: bool
) -> tuple[Callable[[dict[str, Any]], Any], dict[str, Any], tuple[str | None, ...], bool]:
    """Look up what carries a step out."""
    if why := objection(operator, arguments):
        raise ValueError(f"{operator!r} is not carried out here ({why})")
    kept = {name: value for name, value in arguments.items() if name not in _LAYOUT}
    call: Callable[[dict[str, Any]], Any]
    if operator in ON_SIZES:
        size = getattr(arithmetic, operator.partition(".")[2])
        call = lambda given: size(*given.values())  # noqa: E731
    elif operator in AS_IT_IS:
        call = lambda given: next(iter(given.values()))  # noqa: E731
    else:
        _, family, variant = operator.split(".")
        aten = getattr(getattr(torch.ops.aten, family), variant)
        call = lambda given: aten(**given)  # noqa: E731
    return call, kept, tuple(results), bool(listed)


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Put results, and types, in the place of what stands for them."""
    if isinstance(value, dict):
        return values[value["of"]] if "of" in value else _TYPES[value["dtype"]]
    return [_filled(one, values) for one in value] if isinstance(value, list) else value


def _names(arguments: Mapping[str, Any]) -> list[str]:
    found = []
    for value in arguments.values():
        parts = value if isinstance(value, list) else [value]
        found += [one["of"] for one in parts if isinstance(one, dict) and "of" in one]
    return found
