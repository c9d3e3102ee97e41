"""Layers that lie in no file, saved for a script to read, in a thread of their own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import Refusal, refusal
from napari_dip.io.writing import write_image
from napari_dip.qt.background import answered
from napari_dip.run.receipt import sha256
from napari_dip.run.runner import Control

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.qt.worker import Switch


@dataclass(frozen=True, slots=True, eq=False)
class Unsaved:
    """A layer's pixels on their way into a file.

    Attributes
    ----------
    name : str
        Of the input that it was.
    layer, result : str
        Names of the layer and of what was made from it.
    pixels : array
        Lazy or not.
    axes : str
        One letter for each of its axes.
    fingerprint : str or None
        What `sha256` of the pixels must be; None: anything.
    """

    name: str
    layer: str
    result: str
    pixels: Any
    axes: str
    fingerprint: str | None = None


#: What comes of it: paths by the names of the inputs, or a sentence.
Saved = dict[str, str] | Refusal


def saved(ones: tuple[Unsaved, ...], folder: Path, switch: Switch) -> Saved:
    """Save each as TIFF under its layer's name; an earlier file of that name stays."""
    paths: dict[str, str] = {}
    for one in ones:
        path = answered(partial(_save, one, folder, switch), "Saving", one.layer)
        if isinstance(path, Refusal):
            return path
        if path is None:
            break
        paths[one.name] = path
    return paths


def _save(one: Unsaved, folder: Path, switch: Switch) -> str | Refusal | None:
    """Save one; None if nobody waits any more."""
    pixels = np.asarray(one.pixels)
    if one.fingerprint is not None and sha256(pixels) != one.fingerprint:
        return refusal("repeat-changed", layer=one.layer, result=one.result)
    if switch() is Control.DISCARD:
        return None
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    path = _free(folder, one.layer)
    return str(write_image(path, pixels, axes=one.axes))


def _free(folder: Path, layer: str) -> Path:
    """Name a file after a layer, with a number if there is one already."""
    stem = "".join(one if one.isalnum() or one in " ._-" else "-" for one in layer)
    stem = stem.strip(" .") or "layer"
    path, number = folder / f"{stem}.tif", 2
    while path.exists() or path.is_symlink():
        path, number = folder / f"{stem}-{number}.tif", number + 1
    return path
