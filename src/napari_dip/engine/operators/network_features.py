"""Compute the activations of a layer of a frozen network, from a description in plain types.

Only the listed operators of torch's ATen library are executed. All of them are pure functions of
tensors: without files, random numbers, or sizes that depend on values of the image.
"""

from __future__ import annotations

import operator as arithmetic
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from napari_dip.engine.problem import Identity, Operator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_OPERATORS = tomllib.loads(Path(__file__).with_name("aten_operators.toml").read_text("utf-8"))
#: Names of all allowed ATen operators.
ALLOWED_OPERATORS = frozenset(
    f"aten.{name}" for names in _OPERATORS["allowed"].values() for name in names
)
#: Python arithmetic on sizes.
SIZE_OPERATORS = frozenset(
    f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv")
)
#: Operators that are the identity in inference.
IDENTITY_OPERATORS = frozenset(f"aten.{name}" for name in _OPERATORS["identity"]["names"])
#: Operators with an argument for training mode, and its name.
TRAINING_ARGUMENTS: Mapping[str, str] = _OPERATORS["training_arguments"]
#: Arguments for device and memory layout, which are ignored.
_LAYOUT_ARGUMENTS = ("device", "layout", "memory_format", "pin_memory")
#: Why a step is not allowed: an unlisted operator, or one in training mode.
OperatorFault = Literal["operator", "training"]
#: Types that a step may convert to, by name.
_DTYPES = {
    str(item).removeprefix("torch."): item
    for item in (
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}


class FeatureOperator(Operator):
    """Operator from an image to the activations of a layer of a frozen network.

    Parameters
    ----------
    graph : nn.Module
        (B, channels, Y, X), standardised -> activations of any shape, B first.
    input_offset, input_scale : Tensor
        (1, C, 1, 1), value of 0 and size of one unit of the frozen network's images, in network
        units of the fit.
    channels : int
        Input channels of the frozen network. A grey image is repeated for several channels; a
        colour image is averaged for one.
    mean, std : sequence of float
        Mean and standard deviation of the frozen network's training images, in its units; one
        for each channel or one for all. Its input is (value - mean) / std.
    """

    def __init__(
        self,
        graph: nn.Module,
        input_offset: Tensor,
        input_scale: Tensor,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.graph = graph
        self.channels = channels
        self.register_buffer("input_offset", input_offset)
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("mean", input_offset.new_tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", input_offset.new_tensor(std).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, Y, X) to (B, K, h, w); activations without a grid are (B, K, 1, 1)."""
        input_offset, input_scale = self.get_buffer("input_offset"), self.get_buffer("input_scale")
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        network_image = (image - input_offset) / input_scale
        if network_image.shape[1] > self.channels:
            network_image = network_image.mean(1, keepdim=True)
        network_image = network_image.expand(-1, self.channels, -1, -1)
        activations: Tensor = self.graph((network_image - mean) / std)
        return activations if activations.ndim == 4 else activations.reshape(len(image), -1, 1, 1)


def find_operator_fault(operator: str, arguments: dict[str, object]) -> OperatorFault | None:
    """Return why a step is not allowed, or None.

    Parameters
    ----------
    operator : str
        Name such as "aten.conv2d.default".
    arguments : dict
        Arguments by name.
    """
    if operator not in ALLOWED_OPERATORS | SIZE_OPERATORS | IDENTITY_OPERATORS:
        return "operator"
    training_argument = TRAINING_ARGUMENTS.get(operator)
    # instance normalisation uses statistics of the image in inference as well
    if (
        training_argument is not None
        and operator != "aten.instance_norm.default"
        and arguments.get(training_argument, False)
    ):
        return "training"
    return None


class FeatureGraph(nn.Module):
    """Frozen network up to one layer, executed from a description.

    Parameters
    ----------
    description : mapping
        "image": name of the input; "output": name of the result; "steps": list of
        [operator, arguments, results, has_list_output], where {"of": NAME} is an earlier result.
    tensors : mapping of str to Tensor
        Weights and constants by name.

    Raises
    ------
    ValueError
        If a step is not allowed.
    """

    def __init__(self, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._image_input, self._output = str(description["image"]), str(description["output"])
        self._buffer_names = {name: f"weight_{index}" for index, name in enumerate(tensors)}
        for name, buffer_name in self._buffer_names.items():
            self.register_buffer(buffer_name, tensors[name].detach(), persistent=False)
        self._steps = [_resolve_operator(*step) for step in description["steps"]]

    def forward(self, image: Tensor) -> Tensor:
        """Map the standardised image (B, C, Y, X) to activations of any shape."""
        values: dict[str, Any] = {self._image_input: image}
        values |= {
            name: getattr(self, buffer_name) for name, buffer_name in self._buffer_names.items()
        }
        for call, arguments, results, has_list_output in self._steps:
            provided = {
                name: _substitute_results(value, values) for name, value in arguments.items()
            }
            output = call(provided)
            has_several = has_list_output or len(results) > 1
            for name, result in zip(results, output if has_several else (output,), strict=False):
                if name is not None:
                    values[name] = result
        return torch.as_tensor(values[self._output])


def _resolve_operator(
    operator: str, arguments: dict[str, Any], results: list[str | None], has_list_output: bool
) -> tuple[Callable[[dict[str, Any]], Any], dict[str, Any], tuple[str | None, ...], bool]:
    """Return callable, arguments, names of results and list flag of a step."""
    if fault := find_operator_fault(operator, arguments):
        raise ValueError(f"{operator!r} is not allowed ({fault})")
    used_arguments = {
        name: value for name, value in arguments.items() if name not in _LAYOUT_ARGUMENTS
    }
    call: Callable[[dict[str, Any]], Any]
    if operator in SIZE_OPERATORS:
        size = getattr(arithmetic, operator.partition(".")[2])
        call = lambda values: size(*values.values())  # noqa: E731
    elif operator in IDENTITY_OPERATORS:
        call = lambda values: next(iter(values.values()))  # noqa: E731
    else:
        _, family, variant = operator.split(".")
        aten = getattr(getattr(torch.ops.aten, family), variant)
        call = lambda values: aten(**values)  # noqa: E731
    return call, used_arguments, tuple(results), bool(has_list_output)


def _substitute_results(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace references to results and types by their values."""
    if isinstance(value, dict):
        return values[value["of"]] if "of" in value else _DTYPES[value["dtype"]]
    return (
        [_substitute_results(item, values) for item in value] if isinstance(value, list) else value
    )


class UnmeasuredIdentity(Identity):
    """Identity operator of a term without measured pixels: only activations are fitted.

    Parameters
    ----------
    image_mean : Tensor
        (1, C, 1, 1), mean of the image.
    """

    def __init__(self, image_mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("image_mean", image_mean)

    def simulate_measurement(self, image: Tensor) -> Tensor:
        """Return the estimated image, shifted to the mean of the measured one.

        Results are corrected by the difference of these means. It is 0 here, so that no pixel of
        the image enters the result.
        """
        return image + self.get_buffer("image_mean") - image.mean((2, 3), keepdim=True)
