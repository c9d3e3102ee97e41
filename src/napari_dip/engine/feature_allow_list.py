"""The operators that a network from a file may use: each takes tensors and gives tensors, no more.

None of them reads or writes anything else, draws at random, or takes a size from a value of the
picture. Names are those of torch's ATen library, after which the rest of torch is built.
"""

from __future__ import annotations

#: Family of operators and its variants.
_FAMILIES = {
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
ALLOWED = frozenset(f"aten.{name}" for names in _FAMILIES.values() for name in names)
#: Arithmetic of sizes, as Python has it.
ON_SIZES = frozenset(
    f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv")
)
#: What gives back what it gets, once a network is no longer trained.
AS_IT_IS = frozenset(
    f"aten.{name}" for name in ("dropout.default", "feature_dropout.default", "detach.default")
)
#: Arguments that say that a network is being trained, and the operators that have them.
TRAINED = {
    "aten.dropout.default": "train",
    "aten.feature_dropout.default": "train",
    "aten.batch_norm.default": "training",
    "aten.instance_norm.default": "use_input_stats",
}


def objection(operator: str, arguments: dict[str, object]) -> str:
    """Say why a step is not carried out: "operator", "training", or nothing.

    Parameters
    ----------
    operator : str
        Such as "aten.conv2d.default".
    arguments : dict
        By name.
    """
    if operator not in ALLOWED | ON_SIZES | AS_IT_IS:
        return "operator"
    told = TRAINED.get(operator)
    # instance normalisation takes its figures from the picture itself, also in use
    if told is not None and operator != "aten.instance_norm.default" and arguments.get(told, False):
        return "training"
    return ""
