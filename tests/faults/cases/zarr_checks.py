"""OME-Zarrs as other programs write them: how they are made, and read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import zarr

from faults.cases import (
    QUICK,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    check_same_pixels,
    check_unmasked_pixels,
    make_image,
    read_folder,
    run_cli,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def write_ome_zarr(
    path: Path,
    values: np.ndarray,
    *,
    version: int = 3,
    axes: str = "yx",
    scale: Any = None,
    more: dict[str, Any] | None = None,
    units: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=version)
    array = group.create_array("0", shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    kinds = {"t": "time", "c": "channel"}
    entries = [
        {"name": axis, "type": kinds.get(axis, "space")}
        | ({"unit": units[axis]} if units and axis in units else {})
        for axis in axes
    ]
    steps = [{"type": "scale", "scale": scale or [1.0] * values.ndim}]
    multiscale = {"axes": entries, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    multiscale |= more or {}
    if version == 2:
        group.attrs["multiscales"] = [{"version": "0.4", **multiscale}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return path


def check_zarr(values: np.ndarray, options: dict[str, Any], folder: Path) -> None:
    check_unmasked_pixels(write_ome_zarr(folder / "in.ome.zarr", values, **options), values)


def check_zarr_refused(
    change: Callable[[Path], object], pattern: str, options: dict[str, Any], folder: Path
) -> None:
    path = write_ome_zarr(folder / "in.ome.zarr", make_image(), **options)
    change(path)
    check_command_refused(
        run_cli("denoise", "in.ome.zarr", "-o", "out.tif", *QUICK), "in.ome.zarr", pattern
    )


def change_multiscale(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Change the metadata of a Zarr as text editors do."""

    def act(path: Path) -> None:
        record = json.loads((path / "zarr.json").read_text("utf-8"))
        change(record["attributes"]["ome"]["multiscales"][0])
        (path / "zarr.json").write_text(json.dumps(record), "utf-8")

    return act


def check_zarr_with_byte_order_mark(folder: Path) -> None:
    """Let an editor put its mark before the metadata."""
    path = write_ome_zarr(folder / "in.ome.zarr", make_image())
    text = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(b"\xef\xbb\xbf" + text)
    result = run_cli("denoise", "in.ome.zarr", "-o", "out.tif", *QUICK)
    if result.code:
        check_command_refused(result, "in.ome.zarr")


def check_zarr_translation(folder: Path) -> None:
    """Place an image somewhere: its result lies there too, or it is said."""
    steps = [
        {"type": "scale", "scale": [0.5, 0.5]},
        {"type": "translation", "translation": [100.0, 200.0]},
    ]
    more = {"datasets": [{"path": "0", "coordinateTransformations": steps}]}
    write_ome_zarr(
        folder / "in.ome.zarr", make_image(), more=more, units=dict.fromkeys("yx", "micrometer")
    )
    result = check_completed(run_cli("denoise", "in.ome.zarr", "-o", "out.ome.zarr", *QUICK))
    record = json.loads((folder / "out.ome.zarr" / "zarr.json").read_text("utf-8"))
    text = json.dumps(record["attributes"]["ome"]["multiscales"])
    kept = "100.0" in text and "200.0" in text
    check(
        kept or "translation" in result.err or "place" in result.err,
        f"where it lay is lost: {text}"[:500],
    )


def check_zarr_units(folder: Path) -> None:
    """Time in milliseconds, planes in nanometres: kept with their values."""
    values = np.stack([make_image(24, 24, seed=n) for n in range(5)])
    units = {"t": "millisecond", "y": "nanometer", "x": "nanometer"}
    write_ome_zarr(
        folder / "in.ome.zarr", values, axes="tyx", scale=[40.0, 65.0, 65.0], units=units
    )
    check_completed(run_cli("denoise", "in.ome.zarr", "-o", "out.ome.zarr", *QUICK))
    record = json.loads((folder / "out.ome.zarr" / "zarr.json").read_text("utf-8"))
    multiscale = record["attributes"]["ome"]["multiscales"][0]
    read_units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}
    check(read_units == units, f"units: {read_units}")
    scale = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
    check(scale == [40.0, 65.0, 65.0], f"sizes: {scale}")


def check_zipped_zarr(folder: Path) -> None:
    import zipfile

    write_ome_zarr(folder / "z", make_image())
    with zipfile.ZipFile(folder / "in.ome.zarr.zip", "w") as file:
        for path in sorted((folder / "z").rglob("*")):
            file.write(path, path.relative_to(folder / "z"))
    check_command_refused(
        run_cli("denoise", "in.ome.zarr.zip", "-o", "out.tif"), "in.ome.zarr.zip", "kind|zip"
    )


def check_bare_zarr_array(folder: Path) -> None:
    zarr.save_array(folder / "in.zarr", make_image())
    check_command_refused(run_cli("denoise", "in.zarr", "-o", "out.tif"), "in.zarr", "image")


def check_zarr_level_path(folder: Path) -> None:
    write_ome_zarr(folder / "in.ome.zarr", make_image())
    check_command_refused(
        run_cli("denoise", "in.ome.zarr/0", "-o", "out.tif"), "in.ome.zarr/0", "image"
    )


def check_zarr_path_with_slash(folder: Path) -> None:
    write_ome_zarr(folder / "in.ome.zarr", make_image())
    check_completed(run_cli("denoise", "in.ome.zarr/", "-o", "out.tif", *QUICK))
    check(tifffile.imread("out.tif").shape == (32, 32), "no image")


def check_zarr_to_zarr(folder: Path) -> None:
    """Restore from one Zarr into another: the input stays byte for byte."""
    write_ome_zarr(folder / "in.ome.zarr", make_image())
    before = read_folder(folder)
    check_completed(run_cli("denoise", "in.ome.zarr", "-o", "out.ome.zarr", *QUICK))
    check_files_unchanged(folder, before, "out.ome.zarr")
    check_same_pixels(zarr.open_array(folder / "out.ome.zarr" / "0").shape, (32, 32), "shape")


def drop_chunk(path: Path) -> None:
    next(
        entry for entry in (path / "0").rglob("*") if entry.is_file() and entry.name != "zarr.json"
    ).unlink()


def cut_chunk(path: Path) -> None:
    entry = next(entry for entry in (path / "0" / "c").rglob("*") if entry.is_file())
    entry.write_bytes(entry.read_bytes()[:-9])
