"""Child process that reads a network from a file, within limits, and writes plain tensors.

    python -P -m napari_dip.tasks.network_import.child FOLDER < request.json

It writes its result to FOLDER: `result.safetensors`, or `layers.json` if no layer was named, or
`refusal.json`. An architecture of torchvision is first exported as a program, with weights from a
safetensors file; its code is that of the installed torchvision.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.engine.operators.network_features import find_operator_fault
from napari_dip.errors import RefusedError, make_refusal
from napari_dip.errors.templates import make_printable
from napari_dip.io.exported_networks.exported_program import (
    extract_subgraph,
    read_program,
    read_weight,
)
from napari_dip.io.paths import describe_exception, stat_readable_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.io.exported_networks.exported_program import ExportedProgram

#: Names of the files that are written, and of a program exported from an architecture.
RESULT_FILE = "result.safetensors"
LAYERS_FILE = "layers.json"
REFUSAL_FILE = "refusal.json"
PROGRAM_FILE = "network.pt2"
#: Phrases in the messages of torch and Python when memory runs out.
_OUT_OF_MEMORY_TEXTS = ("can't allocate", "not enough memory", "out of memory")
#: Number of names that a refusal of an unknown architecture suggests.
_MAX_NAME_SUGGESTIONS = 5


def main() -> int:
    """Process the request; return 0 on success, 2 for a refusal, 3 if memory ran out."""
    folder = Path(sys.argv[1])
    request = json.load(sys.stdin)
    limit_resources(request["memory"], request["seconds"])
    try:
        _process_request(folder, request)
    except RefusedError as error:
        refusal = error.reason
    except MemoryError:
        return 3
    except Exception as error:  # a fault of this program, or a file that nobody foresaw
        why = f"{type(error).__name__}: {describe_exception(error)[:300]}"
        refusal = make_refusal("network-failed", path=make_printable(request["path"]), why=why)
    else:
        return 0
    (folder / REFUSAL_FILE).write_text(json.dumps(refusal.to_dict()), encoding="utf-8")
    return 2


def limit_resources(memory: int, seconds: int) -> None:
    """Limit this process: memory beyond what it uses now, CPU time, and size of files.

    Parameters
    ----------
    memory : int
        Bytes; also the maximum size of a file that it writes.
    seconds : int
        CPU time after which the system ends the process.
    """
    if sys.platform == "win32":
        return  # no such limits; archives are checked when read, and the parent limits the time
    import resource

    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: memory}
    with suppress(OSError):  # without the current size, no memory limit can be set
        with open("/proc/self/statm", encoding="ascii") as file:
            in_use = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        bounds[resource.RLIMIT_AS] = in_use + memory
    for resource_kind, bound in bounds.items():
        hard = resource.getrlimit(resource_kind)[1]
        soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(resource_kind, (soft, hard))


def _load_torch(request: dict[str, Any]) -> None:
    """Load torch without a memory limit, as its libraries reserve much address space."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    import torch

    torch.set_num_threads(1)
    # again, relative to the memory in use now
    limit_resources(request["memory"], request["seconds"])


def _process_request(folder: Path, request: dict[str, Any]) -> None:
    if request["weights"] is None:
        program = read_program(request["path"])
        path = str(program.archive.path)
    else:
        path = request["path"]
        _load_torch(request)
        export_torchvision_network(
            request["path"], request["weights"], request["size"], folder / PROGRAM_FILE
        )
        program = read_program(folder / PROGRAM_FILE)
    if request["layer"] is None:
        layers = [
            [layer, _format_known_sizes(program.shapes.get(name, ())[1:]) or "1"]
            for layer, name in program.list_layers().items()
        ]
        (folder / LAYERS_FILE).write_text(json.dumps(layers), encoding="utf-8")
        return
    subgraph = extract_subgraph(program, request["layer"])
    _check_steps(subgraph["steps"], path)
    channels = _read_channel_count(program)
    _run_network(folder, program, subgraph, channels, request)


def _format_known_sizes(sizes: Iterable[int | None]) -> str:
    """Format sizes of which some are not known."""
    return " × ".join("?" if size is None else str(size) for size in sizes)


def _read_channel_count(program: ExportedProgram) -> int:
    if len(program.sizes) != 4 or program.sizes[1] is None:
        why = "its input is no plane with a stated number of channels (batch, channels, Y, X)"
        raise program.archive.make_broken_error(why)
    return program.sizes[1]


def _check_steps(steps: list[list[Any]], path: str) -> None:
    """Raise a refusal for operators that are not allowed."""
    for operator, arguments, _, _ in steps:
        if why := find_operator_fault(operator, arguments):
            raise RefusedError(f"network-{why}", path=path, operator=operator[:100])


def _run_network(
    folder: Path,
    program: ExportedProgram,
    graph: dict[str, Any],
    channels: int,
    request: dict[str, Any],
) -> None:
    """Run the network once on an image of zeros, and write it to the folder."""
    weights = {name: read_weight(program, name) for name in graph.pop("weight_names")}
    _load_torch(request)
    import torch
    from safetensors.torch import save_file

    from napari_dip.engine.operators.network_features import FeatureGraph

    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    height, width = request["size"]
    try:
        with torch.no_grad():
            activations = FeatureGraph(graph, tensors)(torch.zeros(1, channels, height, width))
            if not activations.is_floating_point() or activations.shape[0] != 1:
                raise TypeError("it gives no activations there")
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS):
            raise MemoryError from None
        facts = {"path": program.archive.path, "why": describe_exception(error)[:300]}
        facts["expected"] = _format_known_sizes(program.sizes[2:])
        raise RefusedError("network-size", height=height, width=width, **facts) from None
    details = {"network": graph, "channels": channels, "shape": list(activations.shape)}
    save_file(tensors, folder / RESULT_FILE, metadata={"napari_dip": json.dumps(details)})


def export_torchvision_network(name: str, weights: str, size: tuple[int, int], path: Path) -> None:
    """Build an architecture, load its weights, and save it as a program of torch.export.

    Parameters
    ----------
    name : str
        Such as "vgg16".
    weights : str
        Path of a safetensors file with the state of that architecture.
    size : tuple of int
        Size of the image, along Y and X.
    path : Path
        Path of the program to write.

    Raises
    ------
    RefusedError
        If torchvision is missing or has no such architecture, or if the weights do not fit.
    """
    try:
        from torchvision import models
    except Exception as error:  # a build for another torch may raise anything
        facts = {"name": make_printable(name)[:100], "why": describe_exception(error)[:300]}
        raise RefusedError("torchvision-missing", **facts) from None
    model_names = models.list_models(module=models)
    if name not in model_names:
        suggestions = get_close_matches(name, model_names, _MAX_NAME_SUGGESTIONS, cutoff=0)
        facts = {"name": make_printable(name)[:100], "near": ", ".join(suggestions)}
        raise RefusedError("architecture-unknown", **facts)
    import torch

    state = _load_weights(name, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the initialisation of some architectures
        network = _build_torchvision_network(models, name, state, weights)
        example = torch.zeros(1, 3, *size)
        try:
            program = torch.export.export(network, (example,))
        except Exception as error:  # an unsuitable size may raise anything
            why, (height, width) = describe_exception(error)[:300], size
            facts = {"path": name, "why": why, "expected": "224 × 224, say"}
            raise RefusedError("network-size", height=height, width=width, **facts) from None
        torch.export.save(program, path)


def _load_weights(name: str, weights: str) -> dict[str, Any]:
    """Read the weights, or raise a refusal."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, _ = stat_readable_file(weights)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise RefusedError(
            "weights-unfit", path=path, name=name, why=describe_exception(error)[:300]
        ) from None


def _build_torchvision_network(models: Any, name: str, state: dict[str, Any], weights: str) -> Any:
    """Build the architecture for as many classes as the weights have, and load them."""
    import torch

    with torch.device("meta"):  # sizes only: the weights come from the file
        network = models.get_model(name, weights=None)
        head_name = list(network.state_dict())[-1]
        if head_name in state and state[head_name].shape != network.state_dict()[head_name].shape:
            network = models.get_model(name, weights=None, num_classes=len(state[head_name]))
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        message = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise RefusedError(
            "weights-unfit", path=weights, name=name, why=make_printable(message)[:300]
        ) from None
    return network.eval()


if __name__ == "__main__":
    sys.exit(main())
