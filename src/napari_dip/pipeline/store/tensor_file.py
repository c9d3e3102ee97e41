"""Write tensors and JSON metadata to safetensors files, and verify them on reading.

A digest over tensors and metadata detects damage. Unlike a pickle, opening a file executes no code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.io.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_dip.io import AnyArray

_METADATA_KEY = "napari_dip"
_DIGEST_KEY = "sha256"
#: Maximum size of a header in bytes, as in safetensors itself.
_MAX_HEADER_BYTES = 100_000_000
#: Errors from reading a damaged file, or one of another kind.
DAMAGE_ERRORS = (
    *(OSError, ValueError, ArithmeticError, TypeError, LookupError, AttributeError),
    RecursionError,
)


#: NumPy types of the tensors that can be memory-mapped, by their names in safetensors.
_MAPPED_DTYPES = {"F32": "<f4", "F64": "<f8"}


class DamagedFileError(ValueError):
    """Raised for a file that differs from what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata atomically.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    metadata : mapping
        In plain JSON types.

    Raises
    ------
    OSError
        If the file cannot be written. An existing file is then unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata_json = json.dumps(metadata)
    texts = {_METADATA_KEY: metadata_json, _DIGEST_KEY: _compute_digest(tensors, metadata_json)}
    try:
        with write_atomically(path, overwrite=True) as temporary_path:
            save_file(tensors, temporary_path, metadata=texts)
            _sort_metadata(temporary_path)
    except SafetensorError as error:  # raised for a full disk, too
        match = re.search(r"os error (\d+)", str(error))
        number = int(match[1]) if match else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def read_metadata(path: Path) -> Any:
    """Read the metadata of a file without importing torch; nothing is verified.

    Raises
    ------
    OSError, ValueError, LookupError, TypeError, RecursionError
        If the file is damaged.
    """
    return json.loads(_read_header(path)[0]["__metadata__"][_METADATA_KEY])


def read_tensors(path: Path) -> dict[str, Any]:
    """Read all tensors of a file, and verify its digest.

    Raises
    ------
    OSError, ValueError
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise DamagedFileError(str(error)) from error
    if not {_METADATA_KEY, _DIGEST_KEY} <= set(metadata):
        raise DamagedFileError("it lacks what napari-dip writes")
    if _compute_digest(tensors, metadata[_METADATA_KEY]) != metadata[_DIGEST_KEY]:
        raise DamagedFileError("its digest is another")
    return tensors


def map_tensors(path: Path) -> dict[str, AnyArray]:
    """Return the floating-point tensors of a file, memory-mapped; nothing is verified."""
    header, data_start = _read_header(path)
    return {
        name: np.memmap(
            path,
            _MAPPED_DTYPES[entry["dtype"]],
            "r",
            data_start + entry["data_offsets"][0],
            tuple(entry["shape"]),
        )
        for name, entry in header.items()
        if entry.get("dtype") in _MAPPED_DTYPES
    }


def group_tensors(tensors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return tensors named `group/name` by group, then by name."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    return groups


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and the position of its data."""
    with path.open("rb") as file:  # a length in 8 bytes, then JSON
        count = int.from_bytes(file.read(8), "little")
        if count > _MAX_HEADER_BYTES:
            raise DamagedFileError("no header is so long")
        return json.loads(file.read(count)), 8 + count


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in a file's header, so that the same content always has the same bytes.

    If sorting would change the length of the header, the file is left unchanged.
    """
    header, data_start = _read_header(path)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    sorted_header = text.encode().ljust(data_start - 8)
    if len(sorted_header) == data_start - 8:
        with path.open("rb+") as file:
            file.seek(8)
            file.write(sorted_header)


def _compute_digest(tensors: Mapping[str, Any], text: str) -> str:
    """Return the SHA-256 of names, types, shapes and values of tensors, and of the metadata."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
