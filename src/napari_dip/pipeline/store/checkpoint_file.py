"""Tensors and what they mean in one safetensors file: whole or not at all, and proven on reading.

No pickle, so opening one runs nothing. A digest over all of it tells a file that was damaged on the
disk from one that was written so.

What a checkpoint holds, as named tensors and plain JSON: a fit in progress, and units done.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from napari_dip.errors.notes import read_note, read_stop
from napari_dip.io.outputs import make_part_name
from napari_dip.pipeline.machine import get_torch_version
from napari_dip.pipeline.plan.types import UnitOutcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.plan.types import Plan

_METADATA_KEY, _DIGEST_KEY = "napari_dip", "sha256"
#: Bytes that safetensors itself takes for a header at most.
_MAX_HEADER_BYTES = 100_000_000


class DamagedFileError(ValueError):
    """The file is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Any], label: Mapping[str, Any]) -> None:
    """Write tensors and words beside the place under a new name, then put them in place.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    label : mapping in plain JSON types

    Raises
    ------
    OSError
        If the disk does not take it; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    text = json.dumps(label)
    facts = {_METADATA_KEY: text, _DIGEST_KEY: _compute_digest(tensors, text)}
    # a name that nobody can foresee, so that no link can lie there; a folder, since safetensors
    # writes beside its place under a name of its own, which nobody would find after a crash
    folder = path.with_name(make_part_name())
    part = folder / "tensors"
    folder.mkdir(mode=0o700)
    try:
        save_file(dict(tensors), part, metadata=facts)
        with open(part, "rb+") as file:
            _sort_metadata(file)
            os.fsync(file.fileno())
        os.replace(part, path)
    except SafetensorError as error:  # its word for a full disk
        cause = re.search(r"os error (\d+)", str(error))
        number = int(cause[1]) if cause else errno.EIO
        raise OSError(number, os.strerror(number)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_metadata(path: Path) -> Any:
    """Read what a file says of its tensors, and no tensor.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it is damaged.
    """
    with _open_tensors(path) as file:
        return json.loads(_get_metadata(file)[_METADATA_KEY])


def read_header(path: Path) -> Any:
    """Read the same without loading torch; nothing of it is proven.

    Raises
    ------
    OSError, ValueError, KeyError, RecursionError
        If it is damaged.
    """
    with path.open("rb") as file:  # safetensors: a length in 8 bytes, then JSON
        count = int.from_bytes(file.read(8), "little")
        if count > _MAX_HEADER_BYTES:
            raise DamagedFileError("no header is so long")
        return json.loads(json.loads(file.read(count))["__metadata__"][_METADATA_KEY])


def is_checkpoint(path: Path) -> bool:
    """Whether a file is what `write_tensors` writes, by its marks and its size; follows no links.

    Parameters
    ----------
    path : Path
        Pixels are not read: that a file is ours is proven, not that it is undamaged.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        with path.open("rb") as file:
            count = int.from_bytes(file.read(8), "little")
            if count > min(_MAX_HEADER_BYTES, status.st_size):
                return False
            header = json.loads(file.read(count))
        facts = header.pop("__metadata__")
        end = max((item["data_offsets"][1] for item in header.values()), default=0)
        return (
            set(facts) == {_METADATA_KEY, _DIGEST_KEY}
            and isinstance(json.loads(facts[_METADATA_KEY]), dict)
            and status.st_size == 8 + count + end
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


def read_tensors(path: Path) -> dict[str, Any]:
    """Read all tensors.

    Raises
    ------
    OSError, ValueError
        If it is damaged.
    """
    with _open_tensors(path) as file:
        metadata = _get_metadata(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if _compute_digest(tensors, metadata[_METADATA_KEY]) != metadata[_DIGEST_KEY]:
        raise DamagedFileError("its digest is another")
    return tensors


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DamagedFileError(str(error)) from error


def _sort_metadata(file: BinaryIO) -> None:
    """Put what a header says of itself in order, which safetensors does not: same bytes each time.

    Words and digest are ASCII, so the header keeps its length; if not, it stays as it is.
    """
    count = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(count))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(count)
    if len(text) == count:
        file.seek(8)
        file.write(text)


def _get_metadata(file: Any) -> dict[str, str]:
    facts = file.metadata() or {}
    if not {_METADATA_KEY, _DIGEST_KEY} <= set(facts):
        raise DamagedFileError("it lacks what napari-dip writes")
    return dict(facts)


def _compute_digest(tensors: Mapping[str, Any], text: str) -> str:
    """Hash names, types, shapes, values and words."""
    import torch

    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        whole.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        whole.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return whole.hexdigest()


_CHECKPOINT_STATES = ("step", "rollback", "best")


def make_run_identity(plan: Plan, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Say which run something belongs to, in plain JSON types: all that its pixels depend on.

    Parameters
    ----------
    plan : Plan
    hashes : mapping of str to str
        Of the pixels of each input.
    """
    from napari_dip.version import __version__

    return {
        "version": __version__,
        "torch": get_torch_version(),
        "recipe": plan.recipe.to_dict(),
        "budget": json.loads(json.dumps(asdict(plan.budget))),
        "inputs": dict(hashes),
        "axes": plan.source.axes,
        "device": plan.device,
        "threads": plan.threads,
        **({} if plan.network is None else {"network": plan.network.sha256}),
    }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CompletedUnits:
    """The units that are done: copies, so that later units do not creep in."""

    sums: npt.NDArray[Any]
    predictions: npt.NDArray[Any]
    count: npt.NDArray[Any]
    learned: Mapping[str, npt.NDArray[Any]]
    outcomes: tuple[UnitOutcome, ...]
    weights: Mapping[str, Any]


def pack_checkpoint(
    latest: tuple[Checkpoint, str] | None, done: CompletedUnits | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flatten to named tensors and a JSON header."""
    import torch

    tensors: dict[str, Any] = {}
    header: dict[str, Any] = {"fit": None, "outcomes": []}
    if done is not None:
        tensors["done/sums"] = torch.from_numpy(done.sums)
        tensors["done/predictions"] = torch.from_numpy(done.predictions)
        for name, array in done.learned.items():
            tensors[f"learned/{name}"] = torch.from_numpy(array)
        for name, value in done.weights.items():
            tensors[f"weights/{name}"] = value.contiguous()
        tensors["done/count"] = torch.from_numpy(done.count)
        header["outcomes"] = [asdict(outcome) for outcome in done.outcomes]
    if latest is not None:
        point, unit = latest
        for part in _CHECKPOINT_STATES:
            for name, value in getattr(point, part).items():
                tensors[f"{part}/{name}"] = value.contiguous()
        header["fit"] = {
            "unit": unit,
            "best_iteration": point.best_iteration,
            "rollbacks": point.rollbacks,
            "notes": [note.to_dict() for note in point.notes],
            "history": [[item.iteration, item.fitted, item.held_out] for item in point.history],
        }
    return tensors, header


def unpack_checkpoint(
    tensors: dict[str, Any], header: dict[str, Any]
) -> tuple[tuple[Checkpoint, str] | None, CompletedUnits | None]:
    """Undo `pack_checkpoint`."""
    from napari_dip.engine.fit.early_stopping import ValidationRecord
    from napari_dip.engine.fit.state import Checkpoint

    done = None
    if "done/sums" in tensors:
        outcomes = [read_outcome(raw) for raw in header["outcomes"]]
        sums, predictions, count = (
            tensors[f"done/{name}"].numpy() for name in ("sums", "predictions", "count")
        )
        learned = {
            name.removeprefix("learned/"): value.numpy()
            for name, value in tensors.items()
            if name.startswith("learned/")
        }
        weights = {
            name.removeprefix("weights/"): value
            for name, value in tensors.items()
            if name.startswith("weights/")
        }
        done = CompletedUnits(
            sums=sums,
            predictions=predictions,
            count=count,
            learned=learned,
            outcomes=tuple(outcomes),
            weights=weights,
        )
    fit = header["fit"]
    if fit is None:
        return None, done
    parts: dict[str, dict[str, Any]] = {part: {} for part in _CHECKPOINT_STATES}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = value
    point = Checkpoint(
        **parts,
        best_iteration=int(fit["best_iteration"]),
        history=tuple(
            ValidationRecord(iteration=int(i), fitted=float(a), held_out=float(b))
            for i, a, b in fit["history"]
        ),
        rollbacks=int(fit["rollbacks"]),
        notes=tuple(map(read_note, fit["notes"])),
    )
    return (point, str(fit["unit"])), done


def read_outcome(raw: Mapping[str, Any]) -> UnitOutcome:
    """Undo `asdict` of an outcome that was kept as JSON."""
    history = tuple((int(i), float(a), float(b)) for i, a, b in raw["history"])
    lists = {name: tuple(raw[name]) for name in ("evidence", "gain")}
    rest = {key: value for key, value in raw.items() if key not in ("stop", "stop_reason")}
    stop = read_stop(raw["stop"] if "stop" in raw else raw["stop_reason"])
    notes = tuple(map(read_note, raw["notes"]))
    return UnitOutcome(**{**rest, "stop": stop, "history": history, "notes": notes, **lists})
