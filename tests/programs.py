"""Synthetic programs of torch.export, valid ones of torch 2.13 and invalid ones."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZES = (1, 1, 32, 32)
KINDS = {"float32": 7, "float64": 8, "int64": 5}


def refer_to(name: str) -> dict[str, Any]:
    """Stand for a tensor."""
    return {"as_tensor": {"name": name}}


def make_step(target: str, result: str, modules: str = "", **arguments: Any) -> dict[str, Any]:
    """One operation; arguments as the file has them, such as {"as_int": 2}."""
    parts = modules.split(".") if modules else []
    paths = [".".join(parts[: place + 1]) for place in range(len(parts))]
    stack = ";".join(["L__self__,,Net", *(f"L__self__{path},{path},Module" for path in paths)])
    inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
    metadata = {"nn_module_stack": stack}
    return {"target": target, "inputs": inputs, "outputs": [refer_to(result)], "metadata": metadata}


def make_relu(source: str, result: str, modules: str) -> dict[str, Any]:
    return make_step("torch.ops.aten.relu.default", result, modules, self=refer_to(source))


def make_convolution(source: str, weight: str, result: str, modules: str) -> dict[str, Any]:
    inputs = {"input": refer_to(source), "weight": refer_to(weight), "padding": {"as_ints": [1, 1]}}
    return make_step("torch.ops.aten.conv2d.default", result, modules, **inputs)


def describe_weight(array: np.ndarray, path: str, **changes: Any) -> dict[str, Any]:
    """Say where a weight lies, and how it is laid out; changes make that a lie."""
    strides = [stride // array.itemsize for stride in array.strides]
    meta = {
        "dtype": KINDS[array.dtype.name],
        "sizes": [{"as_int": count} for count in changes.get("sizes", array.shape)],
        "strides": [{"as_int": count} for count in changes.get("strides", strides)],
        "storage_offset": {"as_int": changes.get("offset", 0)},
        "device": {"type": "cpu", "index": None},
        "layout": 7,
        "requires_grad": True,
    }
    pickled = changes.get("use_pickle", False)
    return {"path_name": path, "is_param": True, "use_pickle": pickled, "tensor_meta": meta}


def make_entries(
    steps: list[dict[str, Any]],
    weights: Mapping[str, np.ndarray] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    sizes: tuple[int, ...] = SIZES,
) -> dict[str, bytes]:
    """Give the entries of an archive whose graph has these steps, by their names in it."""
    weights = dict(weights or {})
    config, content = {}, {}
    specs = []
    for place, (name, array) in enumerate(weights.items()):
        config[name] = describe_weight(array, f"weight_{place}", **(changes or {}).get(name, {}))
        content[f"data/weights/weight_{place}"] = np.ascontiguousarray(array).tobytes()
        specs.append({"parameter": {"arg": {"name": name}, "parameter_name": name}})
    specs.append({"user_input": {"arg": refer_to("x")}})
    image = {"sizes": [{"as_int": count} for count in sizes], "dtype": 7}
    graph = {"nodes": steps, "tensor_values": {"x": image}}
    model = {
        "schema_version": {"major": 8, "minor": 20},
        "graph_module": {"graph": graph, "signature": {"input_specs": specs}},
    }
    return {
        "models/model.json": json.dumps(model).encode(),
        "data/weights/model_weights_config.json": json.dumps({"config": config}).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        **content,
    }


def write_archive(
    path: Path, content: Mapping[str, bytes], root: str = "net/", **options: Any
) -> Path:
    """Write the archive."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, whole in content.items():
            file.writestr(root + name, whole)
    return path


def make_small_program(
    widths: tuple[int, int] = (4, 8),
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Two convolutions with rectifiers: steps, and weights drawn at random."""
    rng = np.random.default_rng(0)
    first, second = widths
    weights = {
        "p_first": rng.normal(0, 0.5, (first, 1, 3, 3)).astype(np.float32),
        "p_second": rng.normal(0, 0.3, (second, first, 3, 3)).astype(np.float32),
    }
    steps = [
        make_convolution("x", "p_first", "conv", "body.0"),
        make_relu("conv", "act", "body.1"),
        make_convolution("act", "p_second", "conv_1", "body.2"),
        make_relu("conv_1", "act_1", "body.3"),
    ]
    return steps, weights
