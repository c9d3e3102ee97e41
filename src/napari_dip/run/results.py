"""Results as files: a picture with how it came about, and figures as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from napari_dip.io.writing import write_image
from napari_dip.run.receipt import lasting

if TYPE_CHECKING:
    import os

    from napari_dip.io import ImageSpec
    from napari_dip.io.spec import SourceTags
    from napari_dip.run.events import Restoration


def save_picture(
    path: str | os.PathLike[str],
    image: Any,
    spec: ImageSpec,
    scale: tuple[float, ...] | None,
    result: Restoration,
    overwrite: bool,
) -> None:
    """Save one picture of a result as TIFF or OME-Zarr, whole or not at all.

    Nothing in the file depends on when and where it was written: the same pixels give the same
    bytes.

    Parameters
    ----------
    path : path
    image : ndarray
        In the axes of `spec`.
    spec : ImageSpec
        Of the image that was restored.
    scale : tuple of float or None
        Size of a pixel of `image` along each axis.
    result : Restoration
        What goes into the file as its provenance.
    overwrite : bool

    Raises
    ------
    Failed
        If the disk does not take it.
    """
    from napari_dip import __version__

    provenance = {
        "program": f"napari-dip {__version__}",
        "source": spec.name,
        "recipe": result.recipe.to_dict(),
        "best_iteration": result.best_iteration,
        "stop_reason": result.stop_reason,
        "report": _finite(lasting(result.report)),
    }
    write_image(
        path,
        image,
        axes=spec.axes,
        scale=scale,
        units=spec.units,
        provenance=provenance,
        overwrite=overwrite,
        like=spec.path,
        tags=_laid(spec, scale),
    )


def _laid(spec: ImageSpec, scale: tuple[float, ...] | None) -> SourceTags:
    """Move the first pixel's middle where pixels became smaller: both cover the same ground."""
    origin = spec.tags.origin
    if origin is None or spec.scale is None or scale is None:
        return spec.tags
    moved = tuple(
        start + (after - before) / 2
        for start, before, after in zip(origin, spec.scale, scale, strict=True)
    )
    return replace(spec.tags, origin=moved)


def json_text(value: Any) -> str:
    """Write plain types as JSON, for people to read as well: what no terminal shows is escaped."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    return "\n".join(map(_escaped, text.split("\n"))) + "\n"


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else _code(one) for one in line)


def _code(letter: str) -> str:
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


def _finite(value: Any) -> Any:
    """Write what is not a finite number as null, since JSON has no word for it."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
