"""Reads a network from a file in a process of its own, with limits, and hands over plain tensors.

    python -P -m napari_dip.tasks.network_child FOLDER < request.json

What it finds lies in FOLDER afterwards: `answer.safetensors`, where no layer was named
`layers.json`, or `refusal.json`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.engine.feature_allow_list import objection
from napari_dip.errors import Refused, refusal
from napari_dip.io.exported_program import read_program
from napari_dip.io.graph_cut import cut
from napari_dip.io.paths import printable, why_not
from napari_dip.io.program_weights import read_kept

if TYPE_CHECKING:
    from napari_dip.io.exported_program import Program

#: Names of what is handed over, and of a program that was made of an architecture.
ANSWER, LAYERS, REFUSAL, MADE = "answer.safetensors", "layers.json", "refusal.json", "network.pt2"
#: How torch and Python say that they got no memory.
_NO_MEMORY = ("can't allocate", "not enough memory", "out of memory")


def main() -> int:
    """Carry out the request; 0 for an answer, 2 for a refusal, 3 where the memory is too small."""
    folder = Path(sys.argv[1])
    request = json.load(sys.stdin)
    limit(request["memory"], request["seconds"])
    try:
        _answer(folder, request)
    except Refused as no:
        said = no.refusal
        told = {"code": said.code, "sentence": said.sentence, "remedy": said.remedy}
        (folder / REFUSAL).write_text(json.dumps(told), encoding="utf-8")
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
            held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        bounds[resource.RLIMIT_AS] = held + memory
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


def _answer(folder: Path, request: dict[str, Any]) -> None:
    if request["weights"] is None:
        program = read_program(request["path"])
        shown = program.archive.shown
    else:
        from napari_dip.tasks.torchvision_network import exported

        shown = printable(request["path"])
        _load_torch(request)
        exported(request["path"], request["weights"], request["size"], folder / MADE)
        program = read_program(folder / MADE)
    if request["layer"] is None:
        layers = [[path, _sizes(program, name)] for path, name in program.layers().items()]
        (folder / LAYERS).write_text(json.dumps(layers), encoding="utf-8")
        return
    found = cut(program, request["layer"])
    _check_steps(found["steps"], shown)
    channels = _channels(program)
    _look(folder, program, found, channels, request)


def _sizes(program: Program, name: str) -> str:
    """Give the size of a result for the picture that the program was exported for."""
    sizes = program.shapes.get(name, ())[1:]
    return " × ".join("?" if one is None else str(one) for one in sizes) or "1"


def _channels(program: Program) -> int:
    if len(program.sizes) != 4 or program.sizes[1] is None:
        why = "its input is no plane with a stated number of channels (batch, channels, Y, X)"
        raise program.archive.broken(why)
    return program.sizes[1]


def _check_steps(steps: list[list[Any]], shown: str) -> None:
    """Say no to what is not among the operators that are carried out."""
    for operator, arguments, _, _ in steps:
        if why := objection(operator, arguments):
            code = f"network-{why}"
            raise Refused(refusal(code, path=shown, operator=printable(operator)[:100]))


def _look(
    folder: Path, program: Program, found: dict[str, Any], channels: int, request: dict[str, Any]
) -> None:
    """Carry the network out once, on a picture of zeros, and hand it over if that goes well."""
    weights = {name: read_kept(program, name) for name in found.pop("kept")}
    _load_torch(request)
    import torch
    from safetensors.torch import save_file

    from napari_dip.engine.feature_graph import FeatureGraph

    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    height, width = request["size"]
    try:
        with torch.no_grad():
            seen = FeatureGraph(found, tensors)(torch.zeros(1, channels, height, width))
            if not seen.is_floating_point() or seen.shape[0] != 1:
                raise TypeError("it gives no activations there")
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if any(words in str(error).lower() for words in _NO_MEMORY):
            raise MemoryError from None
        expected = " × ".join("?" if one is None else str(one) for one in program.sizes[2:])
        facts = {"height": height, "width": width, "expected": expected}
        raise Refused(
            refusal("network-size", path=program.archive.shown, why=why_not(error)[:300], **facts)
        ) from None
    told = {"network": found, "channels": channels, "shape": list(seen.shape)}
    save_file(tensors, folder / ANSWER, metadata={"napari_dip": json.dumps(told)})


if __name__ == "__main__":
    sys.exit(main())
