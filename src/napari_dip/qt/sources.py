"""What a result's layer knows of the layers that it was made from, and where these lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_dip.errors import DipError
from napari_dip.io.reading import read_spec
from napari_dip.qt.provenance import told_of
from napari_dip.run.repeating import Repetition
from napari_dip.run.shared_network import KEY

if TYPE_CHECKING:
    from napari.layers import Image, Layer


def inputs_of(image: Image, axes: str, further: Mapping[str, Layer]) -> dict[str, Any]:
    """Note which layers a run reads, in plain JSON types.

    Parameters
    ----------
    image : Image
        What is restored.
    axes : str
        One letter for each of its axes.
    further : mapping of str to Layer
        The task's other inputs, by their names.
    """
    layers: dict[str, Any] = {"image": image, **further}
    noted = {
        name: {"layer": str(layer.name), "path": _path(layer)} for name, layer in layers.items()
    }
    noted["image"]["axes"] = axes
    return noted


def made_by_us(layer: Any) -> Mapping[str, Any] | None:
    """Give what a result's layer says of its making; None if it is no result."""
    ours = told_of(layer)
    if not isinstance(ours.get("report"), Mapping):
        return None
    return ours if ours.get("shows", "result") == "result" else None


def inputs_noted(made: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the images that were noted; of a result that notes none, its own."""
    image = {"layer": made["input"]["name"], "path": None, "axes": made["report"]["axes"]}
    noted = dict(made.get("inputs") or {"image": image})
    return {name: one for name, one in noted.items() if name != KEY}


def without_file(made: Mapping[str, Any]) -> list[str]:
    """Name the inputs that lie in no file, or in one that does not look like them."""
    inputs = inputs_noted(made)
    shape = tuple(made["report"]["shape"])
    return [
        name
        for name, one in inputs.items()
        if not _fits(one.get("path"), shape if name == "image" else None)
    ]


def repetition(made: Mapping[str, Any], saved: Mapping[str, str]) -> Repetition:
    """Put together what repeats a result.

    Parameters
    ----------
    made : mapping
        By `made_by_us`.
    saved : mapping of str to str
        Files of inputs that lay in none.
    """
    paths = {name: str(one.get("path")) for name, one in inputs_noted(made).items()}
    if (network := dict(made.get("inputs") or {}).get(KEY)) is not None:
        paths[KEY] = str(network["path"])
    return Repetition(made["report"], {**paths, **saved}, str(made["input"]["name"]))


def _path(layer: Any) -> str | None:
    path = layer.source.path
    return None if not path else os.path.abspath(path)


def _fits(path: str | None, shape: tuple[int, ...] | None) -> bool:
    """Whether a file can be read here, and holds a picture of that shape; from its header."""
    if not path:
        return False
    try:
        found = read_spec(path).shape
    except DipError:
        return False
    return shape is None or found == shape
