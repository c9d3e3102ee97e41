"""Reads a network from a file in a process of its own, with limits, and hands over plain tensors.

    python -P -m napari_dip.tasks.network_import.child FOLDER < request.json

What it finds lies in FOLDER afterwards: `answer.safetensors`, where no layer was named
`layers.json`, or `refusal.json`.

An architecture of torchvision with weights from a safetensors file, made into a program.

The architecture is code of the torchvision that is installed; the file holds numbers only.
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
from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import check_readable_file, describe_exception
from napari_dip.io.programs.exported_program import extract_subgraph, read_program, read_weight

if TYPE_CHECKING:
    from napari_dip.io.programs.exported_program import ExportedProgram

#: Names of what is handed over, and of a program that was made of an architecture.
ANSWER_FILE, LAYERS_FILE, REFUSAL_FILE, PROGRAM_FILE = (
    "answer.safetensors",
    "layers.json",
    "refusal.json",
    "network.pt2",
)
#: How torch and Python say that they got no memory.
_OUT_OF_MEMORY_TEXTS = ("can't allocate", "not enough memory", "out of memory")


def main() -> int:
    """Carry out the request; 0 for an answer, 2 for a refusal, 3 where the memory is too small."""
    folder = Path(sys.argv[1])
    request = json.load(sys.stdin)
    limit(request["memory"], request["seconds"])
    try:
        _process_request(folder, request)
    except Refused as no:
        (folder / REFUSAL_FILE).write_text(json.dumps(no.refusal.to_dict()), encoding="utf-8")
        return 2
    except MemoryError:
        return 3
    return 0


def limit(memory: int, seconds: int) -> None:
    """Bound this process: memory beyond what it holds now, time of the processor, files.

    Parameters
    ----------
    memory : int
        Bytes; also those of the largest file that it may write.
    seconds : int
        After which the system ends it.
    """
    if sys.platform == "win32":
        return  # has no such limits: what is read was bounded before, and the clock is watched
    import resource

    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: memory}
    with suppress(OSError):  # where the size is not to be had, no limit can be set upon it
        with open("/proc/self/statm", encoding="ascii") as file:
            locked = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        bounds[resource.RLIMIT_AS] = locked + memory
    for kind, most in bounds.items():
        hard = resource.getrlimit(kind)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (soft, hard))


def _load_torch(request: dict[str, Any]) -> None:
    """Load torch, whose own libraries may take far more address space than networks do."""
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    import torch

    torch.set_num_threads(1)
    limit(request["memory"], request["seconds"])  # anew, beyond what it holds by now


def _process_request(folder: Path, request: dict[str, Any]) -> None:
    if request["weights"] is None:
        program = read_program(request["path"])
        printable = program.archive.printable_name
    else:
        printable = make_printable(request["path"])
        _load_torch(request)
        export_torchvision_network(
            request["path"], request["weights"], request["size"], folder / PROGRAM_FILE
        )
        program = read_program(folder / PROGRAM_FILE)
    if request["layer"] is None:
        layers = [
            [path, _format_result_size(program, name)] for path, name in program.layers().items()
        ]
        (folder / LAYERS_FILE).write_text(json.dumps(layers), encoding="utf-8")
        return
    subgraph = extract_subgraph(program, request["layer"])
    _check_steps(subgraph["steps"], printable)
    channels = _read_channel_count(program)
    _run_network(folder, program, subgraph, channels, request)


def _format_result_size(program: ExportedProgram, name: str) -> str:
    """Give the size of a result for the picture that the program was exported for."""
    sizes = program.shapes.get(name, ())[1:]
    return " × ".join("?" if siz is None else str(siz) for siz in sizes) or "1"


def _read_channel_count(program: ExportedProgram) -> int:
    if len(program.sizes) != 4 or program.sizes[1] is None:
        why = "its input is no plane with a stated number of channels (batch, channels, Y, X)"
        raise program.archive.broken(why)
    return program.sizes[1]


def _check_steps(steps: list[list[Any]], printable_name: str) -> None:
    """Say no to what is not among the operators that are carried out."""
    for operator, arguments, _, _ in steps:
        if why := find_operator_fault(operator, arguments):
            code = f"network-{why}"
            raise Refused(
                refusal(code, path=printable_name, operator=make_printable(operator)[:100])
            )


def _run_network(
    folder: Path,
    program: ExportedProgram,
    graph: dict[str, Any],
    channels: int,
    request: dict[str, Any],
) -> None:
    """Carry the network out once, on a picture of zeros, and hand it over if that goes well."""
    weights = {name: read_weight(program, name) for name in graph.pop("kept")}
    _load_torch(request)
    import torch
    from safetensors.torch import save_file

    from napari_dip.engine.operators.network_features import FeatureGraph

    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    height, width = request["size"]
    try:
        with torch.no_grad():
            answer = FeatureGraph(graph, tensors)(torch.zeros(1, channels, height, width))
            if not answer.is_floating_point() or answer.shape[0] != 1:
                raise TypeError("it gives no activations there")
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS):
            raise MemoryError from None
        expected = " × ".join("?" if siz is None else str(siz) for siz in program.sizes[2:])
        facts = {"height": height, "width": width, "expected": expected}
        raise Refused(
            refusal(
                "network-size",
                path=program.archive.printable_name,
                why=describe_exception(error)[:300],
                **facts,
            )
        ) from None
    details = {"network": graph, "channels": channels, "shape": list(answer.shape)}
    save_file(tensors, folder / ANSWER_FILE, metadata={"napari_dip": json.dumps(details)})


if __name__ == "__main__":
    sys.exit(main())
#: How many names a refusal of a wrong one suggests.
_MAX_NAME_SUGGESTIONS = 5


def export_torchvision_network(name: str, weights: str, size: tuple[int, int], place: Path) -> None:
    """Build an architecture, fill it with weights, and save it as a program of torch.export.

    Parameters
    ----------
    name : str
        Such as "vgg16".
    weights : str
        Path of a safetensors file with the state of that architecture.
    size : tuple of int
        Of the image, along Y and X.
    place : Path
        Where to save the program.

    Raises
    ------
    Refused
        If torchvision is not there, has no such network, or the weights are of another.
    """
    try:
        from torchvision import models
    except Exception as error:  # one that was built for another torch raises what it likes
        facts = {"name": make_printable(name)[:100], "why": describe_exception(error)[:300]}
        raise Refused(refusal("torchvision-missing", **facts)) from None
    model_names = models.list_models(module=models)
    if name not in model_names:
        near = get_close_matches(name, model_names, _MAX_NAME_SUGGESTIONS, cutoff=0)
        facts = {"name": make_printable(name)[:100], "near": ", ".join(near)}
        raise Refused(refusal("architecture-unknown", **facts))
    import torch

    state = _load_weights(name, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how some architectures draw their first weights
        network = _build_torchvision_network(models, name, state, weights)
        example = torch.zeros(1, 3, *size)
        try:
            program = torch.export.export(network, (example,))
        except Exception as error:  # whatever an architecture makes of an odd size
            facts = {
                "path": name,
                "why": describe_exception(error)[:300],
                "expected": "224 × 224, say",
            }
            height, width = size
            no = refusal("network-size", height=height, width=width, **facts)
            raise Refused(no) from None
        torch.export.save(program, place)


def _load_weights(name: str, weights: str) -> dict[str, Any]:
    """Read the weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, _ = check_readable_file(weights)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        facts = {
            "path": make_printable(str(path)),
            "name": name,
            "why": describe_exception(error)[:300],
        }
        raise Refused(refusal("weights-unfit", **facts)) from None


def _build_torchvision_network(models: Any, name: str, state: dict[str, Any], weights: str) -> Any:
    """Build the architecture with as many classes as the weights are for, and fill it."""
    import torch

    with torch.device("meta"):  # sizes only: the weights come from the file
        network = models.get_model(name, weights=None)
        last = list(network.state_dict())[-1]
        if last in state and state[last].shape != network.state_dict()[last].shape:
            network = models.get_model(name, weights=None, num_classes=len(state[last]))
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        text = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        facts = {"path": make_printable(weights), "name": name, "why": make_printable(text)[:300]}
        raise Refused(refusal("weights-unfit", **facts)) from None
    return network.eval()
