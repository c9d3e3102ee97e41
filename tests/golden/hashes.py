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

from golden.processor import list_instructions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Pixels = np.ndarray[Any, Any]

PATH = Path(__file__).with_name("hashes.json")
#: Blocks along a side, and digits of each mean.
BLOCKS, DIGITS = 4, 4
#: Maximum distance of a block, as a share of the image's standard deviation.
TOLERANCE = 0.02
#: How many times as far as the machines in the file lie from each other another one may lie. Fits
#: of fixed noise are the furthest: 17 tolerances between an Intel and an AMD after 60 iterations.
MAX_MACHINE_RATIO = 3


def make_machine_key() -> dict[str, Any]:
    """Describe the machine: all that the last digits depend on."""
    import torch

    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join([platform.machine(), *list_instructions()]),
        "threads": 1,
    }


def freeze(outcome: Mapping[str, Pixels]) -> dict[str, Any]:
    """Compute hash and block means of each part of an outcome."""
    return {name: _freeze(np.asarray(pixels)) for name, pixels in outcome.items()}


def find_differences(
    outcome: Mapping[str, Any], kept: Mapping[str, Any], *, machine: int | None
) -> Iterable[str]:
    """Describe the parts of an outcome that differ; an interface may have fewer parts.

    Parameters
    ----------
    outcome, kept : mapping
        By `freeze`: now, and before.
    machine : int or None
        Index of this machine in the file, to compare bytes; None: block means.
    """
    for name, part in outcome.items():
        if name not in kept:
            yield f"'{name}' is new"
        elif machine is not None and kept[name]["sha256"][machine]:
            if part["sha256"][0] == kept[name]["sha256"][machine]:
                continue
            yield f"'{name}' has other pixels; coarsely they are {_describe(part, kept[name])}"
        elif not _is_near(part, kept[name]):
            yield f"'{name}' is another image: {_describe(part, kept[name])}"


def read_hashes() -> dict[str, Any]:
    """Read the file: machines, and recipes by name."""
    file: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return file


def find_machine(file: Mapping[str, Any]) -> int | None:
    """Find the index of this machine in the file, if any."""
    key = make_machine_key()
    return file["machines"].index(key) if key in file["machines"] else None


def add_machine(
    file: Mapping[str, Any], recipes: Mapping[str, Any], machine: int | None = None
) -> dict[str, Any]:
    """Add the hashes of this machine, and the distance of its images from those in the file.

    Parameters
    ----------
    file : mapping
    recipes : mapping
        What this machine has; a machine in the file may lack recipes that were frozen elsewhere.
    machine : int or None
        Index of this machine in the file; None: a new one.
    """

    def add(entry: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
        hashes = [*entry["sha256"], None] if machine is None else list(entry["sha256"])
        hashes[-1 if machine is None else machine] = part["sha256"][0]
        apart = max(entry["apart"], _round(_compute_distance(part, entry)))
        return {**entry, "sha256": hashes, "apart": apart}

    return {
        name: {part: add(entry, recipes[name][part]) for part, entry in parts.items()}
        if name in recipes
        else parts
        for name, parts in file["recipes"].items()
    }


def has_hash(file: Mapping[str, Any], name: str, machine: int | None) -> bool:
    """Return whether the bytes of a recipe are known for a machine."""
    parts = file["recipes"].get(name, {}).values()
    return machine is not None and all(entry["sha256"][machine] for entry in parts)


def refreeze(file: Mapping[str, Any], recipes: Mapping[str, Any], machine: int) -> dict[str, Any]:
    """Replace or add recipes; other machines keep only block means of them."""

    def hashes(part: Mapping[str, Any]) -> list[str | None]:
        by_machine = [None] * len(file["machines"])
        return [*by_machine[:machine], part["sha256"][0], *by_machine[machine + 1 :]]

    before = {**recipes, **file["recipes"]}
    return {
        name: {
            part: {**entry, "sha256": hashes(entry), "apart": before[name][part]["apart"]}
            for part, entry in parts.items()
        }
        for name, parts in recipes.items()
    }


def write_hashes(machines: list[dict[str, Any]], recipes: Mapping[str, Any]) -> None:
    """Write the file anew, with one line for each part of an outcome."""
    lines = [f'{{"machines": {json.dumps(machines)},', '"recipes": {']
    for place, (name, parts) in enumerate(recipes.items(), 1):
        rows = [f"  {json.dumps(part)}: {json.dumps(entry)}" for part, entry in parts.items()]
        comma = "," if place < len(recipes) else ""
        lines += [f"{json.dumps(name)}: {{", ",\n".join(rows), f"}}{comma}"]
    PATH.write_text("\n".join([*lines, "}}", ""]), encoding="utf-8")


def _freeze(pixels: Pixels) -> dict[str, Any]:
    whole = np.ascontiguousarray(pixels)
    head = f"{whole.dtype.str} {whole.shape} ".encode()
    return {
        "sha256": [hashlib.sha256(head + whole.tobytes()).hexdigest()],
        "shape": list(whole.shape),
        "blocks": [_round(block.mean()) for block in _split_blocks(whole)],
        "std": _round(whole.std()),
        "apart": 0.0,
    }


def _split_blocks(pixels: Pixels) -> Iterable[Pixels]:
    """Cut the two longest axes into blocks: the image plane."""
    whole = pixels.astype(np.float64)
    longest = sorted(range(whole.ndim), key=lambda axis: -whole.shape[axis])[:2]
    plane = np.moveaxis(whole, sorted(longest), range(len(longest)))
    for band in np.array_split(plane, min(BLOCKS, len(plane) if plane.ndim else 1)):
        if plane.ndim < 2:
            yield band
            continue
        yield from np.array_split(band, min(BLOCKS, plane.shape[1]), axis=1)


def _round(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _is_near(part: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    allowed = max(1, MAX_MACHINE_RATIO * kept["apart"])
    return part["shape"] == kept["shape"] and _compute_distance(part, kept) <= allowed


def _compute_distance(part: Mapping[str, Any], kept: Mapping[str, Any]) -> float:
    """Compute the largest distance of a block, in tolerances."""
    now, then = (np.array([*entry["blocks"], entry["std"]]) for entry in (part, kept))
    allowed = TOLERANCE * kept["std"] + 10.0 ** (1 - DIGITS) * np.abs(then) + 1e-12
    return float((np.abs(now - then) / allowed).max())


def _describe(part: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    if part["shape"] != kept["shape"]:
        return f"of shape {part['shape']} and not {kept['shape']}"
    return f"{_compute_distance(part, kept):.3g} times as far apart as is tolerated elsewhere"
