"""Tensors and what they mean in one safetensors file: whole or not at all, and proven on reading.

No pickle, so opening one runs nothing. A digest over all of it tells a file that was damaged on the
disk from one that was written so.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_WORDS, _DIGEST = "napari_dip", "sha256"


class Damaged(ValueError):
    """The file is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Any], words: Mapping[str, Any]) -> None:
    """Write tensors and words beside the place under a new name, then put them in place.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to Tensor
    words : mapping in plain JSON types

    Raises
    ------
    OSError
        If the disk does not take it; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    text = json.dumps(words)
    told = {_WORDS: text, _DIGEST: _digest(tensors, text)}
    # a name that nobody can foresee, so that no link can lie there
    handle, part = tempfile.mkstemp(prefix=".napari-dip-", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save_file(dict(tensors), part, metadata=told)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(part)
        if isinstance(error, SafetensorError):  # its word for a full disk
            raise OSError(str(error)) from error
        raise


def read_words(path: Path) -> Any:
    """Read what a file says of its tensors, and no tensor.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it is damaged.
    """
    with _opened(path) as file:
        return json.loads(_told(file)[_WORDS])


def read_tensors(path: Path) -> dict[str, Any]:
    """Read all tensors.

    Raises
    ------
    OSError, ValueError
        If it is damaged.
    """
    with _opened(path) as file:
        told = _told(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if _digest(tensors, told[_WORDS]) != told[_DIGEST]:
        raise Damaged("its digest is another")
    return tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise Damaged(str(error)) from error


def _told(file: Any) -> dict[str, str]:
    told = file.metadata() or {}
    if not {_WORDS, _DIGEST} <= set(told):
        raise Damaged("it lacks what napari-dip writes")
    return dict(told)


def _digest(tensors: Mapping[str, Any], text: str) -> str:
    """Hash names, types, shapes, values and words."""
    import torch

    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        whole.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        whole.update(memoryview(value.reshape(-1).view(torch.uint8).numpy()))
    return whole.hexdigest()
