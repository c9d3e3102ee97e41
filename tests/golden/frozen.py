"""What is frozen of results, and how others are compared with it.

Bytes are compared where torch, NumPy and processor are those of a machine in the file. Elsewhere
the same arithmetic is done in another order, so that last digits differ and grow from step to step
of a fit. There a coarse picture has to agree, as nearly as the machines in the file do.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Pixels = np.ndarray[Any, Any]

PATH = Path(__file__).with_name("hashes.json")
#: Blocks along a side of the coarse picture, and digits that are kept of each mean.
BLOCKS, DIGITS = 4, 4
#: How far a block may lie from the frozen one, as a share of the picture's standard deviation.
TOLERANCE = 0.02
#: How many times as far as the machines in the file lie from each other another one may lie. Fits
#: of fixed noise are the furthest: 17 tolerances between an Intel and an AMD after 60 iterations.
ELSEWHERE = 3
#: Instructions that libraries choose their arithmetic by, as Linux names them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd")


def machine_key() -> dict[str, Any]:
    """Tell all that the last digits depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join([platform.machine(), *_instructions()]),
        "threads": 1,
    }


def frozen(outcome: Mapping[str, Pixels]) -> dict[str, Any]:
    """Give hash and coarse picture of each part of an outcome."""
    return {name: _frozen(np.asarray(pixels)) for name, pixels in outcome.items()}


def differences(
    outcome: Mapping[str, Any], kept: Mapping[str, Any], *, machine: int | None
) -> Iterable[str]:
    """Say which parts of an outcome are not as they were; a interface may have fewer parts.

    Parameters
    ----------
    outcome, kept : mapping
        By `frozen`: now, and before.
    machine : int or None
        Which of the file's machines this one is: bytes are compared; None: coarse pictures.
    """
    for name, part in outcome.items():
        if name not in kept:
            yield f"'{name}' is new"
        elif machine is not None and kept[name]["sha256"][machine]:
            if part["sha256"][0] == kept[name]["sha256"][machine]:
                continue
            yield f"'{name}' has other pixels; coarsely they are {_how_far(part, kept[name])}"
        elif not _is_near(part, kept[name]):
            yield f"'{name}' is another picture: {_how_far(part, kept[name])}"


def read() -> dict[str, Any]:
    """Read the file: the machine's key, and the recipes by name."""
    file: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return file


def this_machine(file: Mapping[str, Any]) -> int | None:
    """Tell which of the file's machines this one is, if any."""
    key = machine_key()
    return file["machines"].index(key) if key in file["machines"] else None


def with_this_machine(file: Mapping[str, Any], recipes: Mapping[str, Any]) -> dict[str, Any]:
    """Add the hashes of this machine, and how far its pictures lie from the first one's."""
    return {
        name: {
            part: {
                **entry,
                "sha256": [*entry["sha256"], *recipes[name][part]["sha256"]],
                "apart": max(entry["apart"], _rounded(_farthest(recipes[name][part], entry))),
            }
            for part, entry in parts.items()
        }
        for name, parts in file["recipes"].items()
    }


def refrozen(file: Mapping[str, Any], recipes: Mapping[str, Any], machine: int) -> dict[str, Any]:
    """Give recipes whose pixels have changed; other machines know only the coarse picture."""

    def hashes(part: Mapping[str, Any]) -> list[str | None]:
        by_machine = [None] * len(file["machines"])
        return [*by_machine[:machine], part["sha256"][0], *by_machine[machine + 1 :]]

    before = file["recipes"]
    return {
        name: {
            part: {**entry, "sha256": hashes(entry), "apart": before[name][part]["apart"]}
            for part, entry in parts.items()
        }
        for name, parts in recipes.items()
    }


def write(machines: list[dict[str, Any]], recipes: Mapping[str, Any]) -> None:
    """Write the file anew, with one line for each part of an outcome."""
    lines = [f'{{"machines": {json.dumps(machines)},', '"recipes": {']
    for place, (name, parts) in enumerate(recipes.items(), 1):
        rows = [f"  {json.dumps(part)}: {json.dumps(entry)}" for part, entry in parts.items()]
        comma = "," if place < len(recipes) else ""
        lines += [f"{json.dumps(name)}: {{", ",\n".join(rows), f"}}{comma}"]
    PATH.write_text("\n".join([*lines, "}}", ""]), encoding="utf-8")


def _instructions() -> list[str]:
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    return [name for name in INSTRUCTIONS if name in flags]


def _frozen(pixels: Pixels) -> dict[str, Any]:
    whole = np.ascontiguousarray(pixels)
    head = f"{whole.dtype.str} {whole.shape} ".encode()
    return {
        "sha256": [hashlib.sha256(head + whole.tobytes()).hexdigest()],
        "shape": list(whole.shape),
        "blocks": [_rounded(block.mean()) for block in _blocks(whole)],
        "std": _rounded(whole.std()),
        "apart": 0.0,
    }


def _blocks(pixels: Pixels) -> Iterable[Pixels]:
    """Cut the two longest axes into blocks: the picture plane, wherever it lies."""
    whole = pixels.astype(np.float64)
    longest = sorted(range(whole.ndim), key=lambda axis: -whole.shape[axis])[:2]
    plane = np.moveaxis(whole, sorted(longest), range(len(longest)))
    for band in np.array_split(plane, min(BLOCKS, len(plane) if plane.ndim else 1)):
        if plane.ndim < 2:
            yield band
            continue
        yield from np.array_split(band, min(BLOCKS, plane.shape[1]), axis=1)


def _rounded(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _is_near(part: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    allowed = max(1, ELSEWHERE * kept["apart"])
    return part["shape"] == kept["shape"] and _farthest(part, kept) <= allowed


def _farthest(part: Mapping[str, Any], kept: Mapping[str, Any]) -> float:
    """Give the farthest block's distance, where 1 is what is tolerated."""
    now, then = (np.array([*entry["blocks"], entry["std"]]) for entry in (part, kept))
    allowed = TOLERANCE * kept["std"] + 10.0 ** (1 - DIGITS) * np.abs(then) + 1e-12
    return float((np.abs(now - then) / allowed).max())


def _how_far(part: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    if part["shape"] != kept["shape"]:
        return f"of shape {part['shape']} and not {kept['shape']}"
    return f"{_farthest(part, kept):.3g} times as far apart as is tolerated elsewhere"
