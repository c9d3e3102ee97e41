"""Write images, text and bytes atomically, with pixel size and provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_dip.errors import FailedError
from napari_dip.io.atomic import write_atomically
from napari_dip.io.header import SourceTags, escape_unit, get_unit_meters, get_unit_symbol
from napari_dip.io.outputs import FOLDER_SUFFIX, resolve_folder
from napari_dip.io.paths import make_save_refusal
from napari_dip.io.regions import MemoryMappedImage, iter_chunks

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

#: Pixel types of ImageJ's TIFF flavour, which most microscopists open next.
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
#: Number of the TIFF tag for the orientation.
_TIFF_ORIENTATION_TAG = 274
#: Maximum bytes of pixels in a classic TIFF, whose offsets have 32 bits; the header needs the rest.
_MAX_CLASSIC_TIFF_BYTES = 2**32 - 2**25


def write_image(
    path: str | os.PathLike[str],
    image: npt.NDArray[Any],
    *,
    axes: str,
    scale: tuple[float, ...] | None = None,
    units: tuple[str, ...] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    like: str | None = None,
    tags: SourceTags | None = None,
) -> Path:
    """Save an image as TIFF or OME-Zarr, with its pixel size and provenance.

    Parameters
    ----------
    path : path ending in .tif, .tiff, .zarr; .ome.tif and .ome.tiff make an OME-TIFF
        Symbolic links are not followed; `check_output` returns the path that a link leads to.
    image : ndarray of integers or float32
        A memory-mapped array is copied chunk by chunk.
    axes : str
        One letter for each axis out of T, C, Z, Y, X and S.
    scale, units : tuples as in `ImageSpec`
    provenance : mapping in plain JSON types
        Saved as text that ImageJ shows (Image, Show Info) or as an OME annotation.
    overwrite : bool
        Whether a file of that name may be replaced.
    like : str, optional
        Path of an OME-Zarr whose format version the result should have.
    tags : SourceTags, optional
        Header entries of the input that the result copies.

    Returns
    -------
    Path
        Path of the saved file, as passed in.

    Raises
    ------
    FailedError
        If the file cannot be written; an earlier file stays unchanged.
    """
    if len(axes) != image.ndim:
        raise ValueError(f"The axes '{axes}' do not fit an image of shape {image.shape}.")
    units = units or ("pixel",) * len(axes)
    sizes = dict(zip(axes, zip(scale, units, strict=True), strict=True)) if scale else {}
    if Path(path).suffix.lower() == FOLDER_SUFFIX:  # also with a slash behind it
        from napari_dip.io.zarr_writing import write_zarr

        origin = dict(zip(axes, tags.origin, strict=True)) if tags and tags.origin else None
        zarr_options: dict[str, Any] = {"provenance": dict(provenance or {}), "like": like}
        pixels = _make_contiguous(image)
        return write_zarr(
            Path(path), pixels, axes, sizes, origin=origin, overwrite=overwrite, **zarr_options
        )
    provenance_json = json.dumps(dict(provenance or {}), ensure_ascii=True)
    return _write_tiff(
        Path(path), image, axes, sizes, provenance_json, tags or SourceTags(), overwrite
    )


def _write_tiff(
    path: Path,
    image: npt.NDArray[Any],
    axes: str,
    sizes: Mapping[str, tuple[float, str]],
    text: str,
    tags: SourceTags,
    overwrite: bool,
) -> Path:
    ome = str(path).lower().endswith((".ome.tif", ".ome.tiff"))
    imagej = not ome and _is_imagej_compatible(image, axes)
    if ome and not axes.endswith(("YX", "YXS", "YXC")):  # OME-TIFF has a fixed order of axes
        ome_axes = [axis for axis in "TCZYXS" if axis in axes]
        image, axes = image.transpose([axes.index(axis) for axis in ome_axes]), "".join(ome_axes)
    pixels = _make_contiguous(image)
    make_options = (
        _make_ome_options if ome else _make_imagej_options if imagej else _make_plain_options
    )
    options = make_options(image, axes, sizes, text)
    if ome and tags.ome is not None:
        options["metadata"] |= tags.ome.make_tifffile_options(axes, image.shape)
        if tags.ome.objective:
            lens = ", ".join(f"{key} {value}" for key, value in tags.ome.objective)
            options["metadata"]["MapAnnotation"]["objective"] = lens
    if axes.endswith(("S", "YXC")):  # interleaved samples
        options["planarconfig"] = "contig"
    grey = "miniswhite" if tags.is_white_zero else "minisblack"
    options["photometric"] = "rgb" if "S" in axes else grey
    if tags.orientation != 1:
        options["extratags"] = [(_TIFF_ORIENTATION_TAG, "H", 1, tags.orientation, False)]
    is_bigtiff = image.nbytes > _MAX_CLASSIC_TIFF_BYTES and not imagej
    flavour = {"ome": ome, "imagej": imagej, "bigtiff": is_bigtiff}
    return _write_file(
        path, lambda file: _write_tiff_pages(file, pixels, flavour, options), overwrite
    )


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = False) -> Path:
    """Save text in UTF-8; raise `FailedError` as `write_image` does."""
    return write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def write_bytes(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False) -> Path:
    """Save bytes; raise `FailedError` as `write_image` does."""
    return _write_file(Path(path), lambda file: file.write(content), overwrite)


def _write_tiff_pages(
    file: IO[bytes],
    pixels: npt.NDArray[Any] | MemoryMappedImage,
    flavour: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Write header and pixels; memory-mapped pixels chunk by chunk."""
    from tifffile import TiffWriter

    with TiffWriter(file, **flavour) as tiff:
        if isinstance(pixels, np.ndarray):
            tiff.write(pixels, **options)
            return
        shape, dtype = pixels.shape, pixels.dtype
        location = tiff.write(None, shape=shape, dtype=dtype, returnoffset=True, **options)
    assert location is not None  # only compressed pixels have no offset
    file.seek(location[0])
    for chunk in iter_chunks(pixels):
        file.write(chunk.tobytes())


def _make_contiguous(image: npt.NDArray[Any]) -> npt.NDArray[Any] | MemoryMappedImage:
    """Return contiguous pixels, without a copy if they are already contiguous on the disk."""
    if isinstance(image, np.memmap) and image.flags.c_contiguous and image.filename is not None:
        path = Path(image.filename)
        if path.exists():
            return MemoryMappedImage(
                path=path, offset=image.offset, shape=image.shape, stored_dtype=image.dtype.str
            )
    return np.ascontiguousarray(image)


def _write_file(path: Path, write: Callable[[IO[bytes]], object], overwrite: bool) -> Path:
    """Write a file atomically; convert OSError to `FailedError`."""
    try:
        with (
            write_atomically(resolve_folder(path), overwrite=overwrite) as part,
            part.open("x+b") as file,
        ):
            write(file)
    except OSError as error:
        raise FailedError(make_save_refusal(path, error)) from error
    return path


def _is_imagej_compatible(image: npt.NDArray[Any], axes: str) -> bool:
    """Return whether ImageJ's flavour can hold an image: few types, fixed order, 8-bit colours."""
    if image.dtype.name not in _IMAGEJ_TYPES or image.nbytes > _MAX_CLASSIC_TIFF_BYTES:
        return False
    if "S" in axes and (image.dtype != np.uint8 or not axes.endswith("YXS")):
        return False
    order = [axis for axis in "TZCYXS" if axis in axes]
    return list(axes) == order and axes.replace("S", "").endswith("YX")


def _make_imagej_options(
    image: npt.NDArray[Any], axes: str, sizes: Mapping[str, tuple[float, str]], text: str
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes, "Info": text}
    options: dict[str, Any] = {"metadata": metadata}
    if "X" in sizes and "Y" in sizes:
        unit = sizes["X"][1]
        metadata["unit"] = {"micrometer": "micron"}.get(unit, escape_unit(unit))
        options["resolution"] = (1 / sizes["X"][0], 1 / sizes["Y"][0])
        options["resolutionunit"] = "NONE"
    if "Z" in sizes:
        metadata["spacing"] = sizes["Z"][0]
    if "T" in sizes:
        metadata["finterval"] = sizes["T"][0]
    return options


def _make_plain_options(
    image: npt.NDArray[Any], axes: str, sizes: Mapping[str, tuple[float, str]], text: str
) -> dict[str, Any]:
    options: dict[str, Any] = {"metadata": {"axes": axes, "napari_dip": text}}
    if "X" in sizes and "Y" in sizes:
        (across, unit), (down, _) = sizes["X"], sizes["Y"]
        meters = get_unit_meters(unit)
        resolution_unit = "INCH" if unit == "inch" else "CENTIMETER" if meters else "NONE"
        factor = meters * 100 if meters and unit != "inch" else 1.0
        options["resolution"] = (1 / (across * factor), 1 / (down * factor))
        options["resolutionunit"] = resolution_unit
    return options


def _make_ome_options(
    image: npt.NDArray[Any], axes: str, sizes: Mapping[str, tuple[float, str]], text: str
) -> dict[str, Any]:
    import hashlib
    import uuid

    # tifffile would derive the identifier from the time and the network address of the computer
    hasher = hashlib.sha256()
    for chunk in iter_chunks(image):
        hasher.update(chunk.tobytes())
    digest = hasher.hexdigest()
    metadata: dict[str, Any] = {
        "axes": axes,
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_OID, digest)),
        "MapAnnotation": {"Namespace": "napari-dip", "provenance": text},
    }
    for axis, (value, unit) in sizes.items():
        symbol = get_unit_symbol(unit)
        if symbol is None or (unit == "pixel" and value == 1):
            continue
        if axis in "XYZ":
            metadata[f"PhysicalSize{axis}"] = value
            metadata[f"PhysicalSize{axis}Unit"] = symbol
        elif axis == "T":
            metadata["TimeIncrement"] = value
            metadata["TimeIncrementUnit"] = symbol
    return {"metadata": metadata}
