"""A frozen network as an operator: from a picture to the activations of one of its layers.

A frozen network up to a layer, carried out step by step from a description in plain types.

The operators that a network from a file may use: each takes tensors and gives tensors, no more.

None of them reads or writes anything else, draws at random, or takes a size from a value of the
picture. Names are those of torch's ATen library, after which the rest of torch is built.
"""

from __future__ import annotations

import operator as arithmetic
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class FeatureOperator(nn.Module):
    """What a network's layer answers to a picture; nothing in it is fitted.

    Parameters
    ----------
    graph : nn.Module
        (B, channels, Y, X) as the network takes it -> activations of any shape, B first.
    zero, unit : Tensor
        (1, C, 1, 1): value of a picture that the network takes for 0, and what one of its units
        is, in network units of the fit.
    channels : int
        That the network takes: as many as the picture has; more than one for a grey picture,
        which is repeated; or one for a coloured one, which is averaged.
    mean, deviation : sequence of float
        Of the pictures that the network was trained on, one for each channel or one for all, in
        its own units: it takes (value - mean) / deviation.
    """

    def __init__(
        self,
        graph: nn.Module,
        zero: Tensor,
        unit: Tensor,
        channels: int,
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> None:
        super().__init__()
        self.graph = graph
        self.channels = channels
        self.register_buffer("zero", zero)
        self.register_buffer("unit", unit)
        self.register_buffer("mean", zero.new_tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("deviation", zero.new_tensor(deviation).reshape(1, -1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, K, h, w); activations that lie on no grid are (B, K, 1, 1)."""
        zero, unit = self.get_buffer("zero"), self.get_buffer("unit")
        mean, deviation = self.get_buffer("mean"), self.get_buffer("deviation")
        picture = (image - zero) / unit
        if picture.shape[1] > self.channels:
            picture = picture.mean(1, keepdim=True)
        picture = picture.expand(-1, self.channels, -1, -1)
        activations: Tensor = self.graph((picture - mean) / deviation)
        return activations if activations.ndim == 4 else activations.reshape(len(image), -1, 1, 1)


#: Family of operators and its variants.
_OPERATOR_FAMILIES = {
    "convolutions": (
        *("conv2d.default", "conv2d.padding", "convolution.default", "conv_transpose2d.input"),
        *("linear.default", "addmm.default", "mm.default", "bmm.default", "matmul.default"),
        "baddbmm.default",
    ),
    "normalisation": (
        *("batch_norm.default", "_native_batch_norm_legit_no_training.default"),
        *("layer_norm.default", "native_layer_norm.default", "group_norm.default"),
        *("native_group_norm.default", "instance_norm.default"),
    ),
    "activations": (
        *("relu.default", "relu6.default", "hardtanh.default", "leaky_relu.default"),
        *("elu.default", "selu.default", "celu.default", "gelu.default", "silu.default"),
        *("mish.default", "hardswish.default", "hardsigmoid.default", "sigmoid.default"),
        *("tanh.default", "softplus.default", "prelu.default", "_prelu_kernel.default"),
        *("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default"),
    ),
    "pooling and resampling": (
        *("max_pool2d.default", "max_pool2d_with_indices.default", "avg_pool2d.default"),
        *("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default"),
        *("adaptive_max_pool2d.default", "pixel_shuffle.default", "pixel_unshuffle.default"),
        *("upsample_nearest2d.default", "upsample_nearest2d.vec", "upsample_bilinear2d.default"),
        *("upsample_bilinear2d.vec", "upsample_bicubic2d.default", "upsample_bicubic2d.vec"),
        *("pad.default", "constant_pad_nd.default", "reflection_pad2d.default"),
        "replication_pad2d.default",
    ),
    "arithmetic": (
        *(f"{name}.{kind}" for name in ("add", "sub", "mul", "div") for kind in ("Tensor",)),
        *(f"{name}.Scalar" for name in ("add", "sub", "mul", "div", "rsub")),
        *(f"{name}.default" for name in ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "erf")),
        *("pow.Tensor_Scalar", "square.default", "reciprocal.default", "maximum.default"),
        *("minimum.default", "clamp.default", "clamp_min.default", "clamp_max.default"),
        *("mean.dim", "mean.default", "sum.dim_IntList", "amax.default", "amin.default"),
        *("var.correction", "linalg_vector_norm.default"),
        "scaled_dot_product_attention.default",
    ),
    "shape": (
        *("cat.default", "stack.default", "chunk.default", "split.Tensor"),
        *("split_with_sizes.default", "unbind.int", "view.default", "reshape.default"),
        *("_unsafe_view.default", "flatten.using_ints", "unflatten.int", "permute.default"),
        *("transpose.int", "t.default", "squeeze.default", "squeeze.dim", "squeeze.dims"),
        *("unsqueeze.default", "expand.default", "slice.Tensor", "select.int", "roll.default"),
        *("contiguous.default", "clone.default", "alias.default", "lift_fresh_copy.default"),
        *("to.dtype", "_to_copy.default", "sym_size.int", "movedim.int"),
    ),
}
#: Everything that is carried out.
ALLOWED_OPERATORS = frozenset(
    f"aten.{name}" for names in _OPERATOR_FAMILIES.values() for name in names
)
#: Arithmetic of sizes, as Python has it.
SIZE_OPERATORS = frozenset(
    f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv")
)
#: What gives back what it gets, once a network is no longer trained.
IDENTITY_OPERATORS = frozenset(
    f"aten.{name}" for name in ("dropout.default", "feature_dropout.default", "detach.default")
)
#: Arguments that say that a network is being trained, and the operators that have them.
TRAINING_ARGUMENTS = {
    "aten.dropout.default": "train",
    "aten.feature_dropout.default": "train",
    "aten.batch_norm.default": "training",
    "aten.instance_norm.default": "use_input_stats",
}


def find_operator_fault(operator: str, arguments: dict[str, object]) -> str:
    """Say why a step is not carried out: "operator", "training", or nothing.

    Parameters
    ----------
    operator : str
        Such as "aten.conv2d.default".
    arguments : dict
        By name.
    """
    if operator not in ALLOWED_OPERATORS | SIZE_OPERATORS | IDENTITY_OPERATORS:
        return "operator"
    facts = TRAINING_ARGUMENTS.get(operator)
    # instance normalisation takes its figures from the picture itself, also in use
    if (
        facts is not None
        and operator != "aten.instance_norm.default"
        and arguments.get(facts, False)
    ):
        return "training"
    return ""


#: Arguments that say where and how a result is laid out in memory; torch is left to choose.
_LAYOUT_ARGUMENTS = ("device", "layout", "memory_format", "pin_memory")
#: Types that a step may turn its input into.
_DTYPES = {
    str(item).removeprefix("torch."): item
    for item in (
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
        self._steps = [_resolve_operator(*step) for step in description["steps"]]
        existing = {self._picture, *self._places}
        for _, arguments, results, _ in self._steps:
            if missing := {name for name in _list_result_names(arguments) if name not in existing}:
                raise ValueError(f"{min(missing)!r} is asked for before it is there")
            existing.update(name for name in results if name is not None)
        if self._output not in existing:
            raise ValueError(f"{self._output!r} is not there")

    def forward(self, picture: Tensor) -> Tensor:
        """(B, C, Y, X) as the network takes it -> activations, of whatever shape."""
        values: dict[str, Any] = {self._picture: picture}
        values |= {name: getattr(self, place) for name, place in self._places.items()}
        for call, arguments, results, listed in self._steps:
            provided = {
                name: _substitute_results(value, values) for name, value in arguments.items()
            }
            answer = call(provided)
            several = listed or len(results) > 1
            for name, item in zip(results, answer if several else (answer,), strict=False):
                if name is not None:
                    values[name] = item
        return torch.as_tensor(values[self._output])


def _resolve_operator(
    operator: str, arguments: dict[str, Any], results: list[str | None], listed: bool
) -> tuple[Callable[[dict[str, Any]], Any], dict[str, Any], tuple[str | None, ...], bool]:
    """Look up what carries a step out."""
    if why := find_operator_fault(operator, arguments):
        raise ValueError(f"{operator!r} is not carried out here ({why})")
    kept = {name: value for name, value in arguments.items() if name not in _LAYOUT_ARGUMENTS}
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
    return call, kept, tuple(results), bool(listed)


def _substitute_results(value: Any, values: Mapping[str, Any]) -> Any:
    """Put results, and types, in the place of what stands for them."""
    if isinstance(value, dict):
        return values[value["of"]] if "of" in value else _DTYPES[value["dtype"]]
    return (
        [_substitute_results(item, values) for item in value] if isinstance(value, list) else value
    )


def _list_result_names(arguments: Mapping[str, Any]) -> list[str]:
    names = []
    for value in arguments.values():
        parts = value if isinstance(value, list) else [value]
        names += [part["of"] for part in parts if isinstance(part, dict) and "of" in part]
    return names
