"""Write tensors and JSON metadata to safetensors files, and convert checkpoints to this form.

Files are written atomically. A digest over tensors and metadata detects damage. Unlike a pickle,
opening a file executes no code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from napari_dip.errors.notes import read_note, read_stop
from napari_dip.io.atomic import write_atomically
from napari_dip.pipeline.machine import get_torch_version
from napari_dip.pipeline.plan.types import UnitOutcome, UnitRole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from napari_dip.engine.fit.state import Checkpoint
    from napari_dip.pipeline.plan.types import Plan

_METADATA_KEY, _DIGEST_KEY = "napari_dip", "sha256"
#: Maximum size of a header in bytes, as in safetensors itself.
_MAX_HEADER_BYTES = 100_000_000
_CHECKPOINT_STATES = ("step", "rollback", "best")


class DamagedFileError(ValueError):
    """Raised for a file that differs from what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Any], label: Mapping[str, Any]) -> None:
    """Write tensors and metadata atomically.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    label : mapping
        Metadata in plain JSON types.

    Raises
    ------
    OSError
        If the file cannot be written. An existing file is then unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata_json = json.dumps(label)
    metadata = {_METADATA_KEY: metadata_json, _DIGEST_KEY: _compute_digest(tensors, metadata_json)}
    try:
        with write_atomically(path, overwrite=True) as part:
            save_file(dict(tensors), part, metadata=metadata)
            with part.open("rb+") as file:
                _sort_metadata(file)
    except SafetensorError as error:  # raised for a full disk, too
        match = re.search(r"os error (\d+)", str(error))
        number = int(match[1]) if match else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def read_metadata(path: Path) -> Any:
    """Read the metadata of a file, without its tensors.

    Raises
    ------
    OSError, ValueError, RecursionError
        If the file is damaged.
    """
    with _open_tensors(path) as file:
        return json.loads(_get_metadata(file)[_METADATA_KEY])


def read_header(path: Path) -> Any:
    """Read the metadata of a file without importing torch; nothing is verified.

    Raises
    ------
    OSError, ValueError, KeyError, RecursionError
        If the file is damaged.
    """
    with path.open("rb") as file:  # safetensors: a length in 8 bytes, then JSON
        count = int.from_bytes(file.read(8), "little")
        if count > _MAX_HEADER_BYTES:
            raise DamagedFileError("no header is so long")
        return json.loads(json.loads(file.read(count))["__metadata__"][_METADATA_KEY])


def is_checkpoint(path: Path) -> bool:
    """Return whether `write_tensors` wrote a file, judged by its metadata and its size.

    Tensors are not read, so the file may still be damaged. Links are not followed.
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
        metadata = header.pop("__metadata__")
        data_end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        return (
            set(metadata) == {_METADATA_KEY, _DIGEST_KEY}
            and isinstance(json.loads(metadata[_METADATA_KEY]), dict)
            and status.st_size == 8 + count + data_end
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


def read_tensors(path: Path) -> dict[str, Any]:
    """Read all tensors of a file, and verify its digest.

    Raises
    ------
    OSError, ValueError
        If the file is damaged.
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
    """Sort the metadata in a file's header, so that the same content always has the same bytes.

    If sorting would change the length of the header, the file is left unchanged.
    """
    count = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(count))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    sorted_header = (
        json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(count)
    )
    if len(sorted_header) == count:
        file.seek(8)
        file.write(sorted_header)


def _get_metadata(file: Any) -> dict[str, str]:
    metadata = file.metadata() or {}
    if not {_METADATA_KEY, _DIGEST_KEY} <= set(metadata):
        raise DamagedFileError("it lacks what napari-dip writes")
    return dict(metadata)


def _compute_digest(tensors: Mapping[str, Any], text: str) -> str:
    """Return the SHA-256 of names, types, shapes and values of tensors, and of the metadata."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def make_run_identity(plan: Plan, axes: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the identity of a run in plain JSON types: everything its result depends on.

    Parameters
    ----------
    plan : Plan
    axes : str
        Axes of the fitted pixels.
    hashes : mapping of str to str
        SHA-256 of the pixels of each input.
    """
    from napari_dip.version import __version__

    return {
        "version": __version__,
        "torch": get_torch_version(),
        "recipe": plan.recipe.to_dict(),
        "budget": json.loads(json.dumps(asdict(plan.fit_config))),
        "inputs": dict(hashes),
        "axes": axes,
        "device": plan.device,
        "threads": plan.threads,
        **({} if plan.network is None else {"network": plan.network.sha256}),
    }


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CompletedUnits:
    """Hold copies of the merged results of finished units."""

    sums: npt.NDArray[Any]
    predictions: npt.NDArray[Any]
    count: npt.NDArray[Any]
    learned: Mapping[str, npt.NDArray[Any]]
    outcomes: tuple[UnitOutcome, ...]
    weights: Mapping[str, Any]


def pack_checkpoint(
    latest: tuple[Checkpoint, str] | None, done: CompletedUnits | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert the state of a run to named tensors and a JSON header.

    Parameters
    ----------
    latest : tuple of (Checkpoint, str) or None
        Checkpoint of the current fit, and id of its unit.
    done : CompletedUnits or None
    """
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
        checkpoint, unit = latest
        for state_name in _CHECKPOINT_STATES:
            for name, value in getattr(checkpoint, state_name).items():
                tensors[f"{state_name}/{name}"] = value.contiguous()
        header["fit"] = {
            "unit": unit,
            "best_iteration": checkpoint.best_iteration,
            "rollbacks": checkpoint.rollbacks,
            "notes": [note.to_dict() for note in checkpoint.notes],
            "history": [
                [record.iteration, record.fit_loss, record.validation_loss]
                for record in checkpoint.history
            ],
        }
    return tensors, header


def unpack_checkpoint(
    tensors: dict[str, Any], header: dict[str, Any]
) -> tuple[tuple[Checkpoint, str] | None, CompletedUnits | None]:
    """Return the current fit and the finished units, as `pack_checkpoint` takes them."""
    from napari_dip.engine.fit.early_stopping import ValidationRecord
    from napari_dip.engine.fit.state import Checkpoint

    completed_units = None
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
        completed_units = CompletedUnits(
            sums=sums,
            predictions=predictions,
            count=count,
            learned=learned,
            outcomes=tuple(outcomes),
            weights=weights,
        )
    fit = header["fit"]
    if fit is None:
        return None, completed_units
    states: dict[str, dict[str, Any]] = {state_name: {} for state_name in _CHECKPOINT_STATES}
    for name, value in tensors.items():
        state_name, _, tensor_name = name.partition("/")
        if state_name in states:
            states[state_name][tensor_name] = value
    checkpoint = Checkpoint(
        **states,
        best_iteration=int(fit["best_iteration"]),
        history=tuple(
            ValidationRecord(iteration=int(i), fit_loss=float(a), validation_loss=float(b))
            for i, a, b in fit["history"]
        ),
        rollbacks=int(fit["rollbacks"]),
        notes=tuple(map(read_note, fit["notes"])),
    )
    return (checkpoint, str(fit["unit"])), completed_units


def read_outcome(raw: Mapping[str, Any]) -> UnitOutcome:
    """Return the outcome that was stored as JSON after `asdict`."""
    history = tuple((int(i), float(a), float(b)) for i, a, b in raw["history"])
    tuples = {name: tuple(raw[name]) for name in ("evidence", "gain")}
    fields = {key: value for key, value in raw.items() if key not in ("stop", "stop_reason")}
    stop = read_stop(raw["stop"] if "stop" in raw else raw["stop_reason"])
    notes = tuple(map(read_note, raw["notes"]))
    fields["role"] = UnitRole(fields["role"])
    return UnitOutcome(**{**fields, "stop": stop, "history": history, "notes": notes, **tuples})
