"""Read the report of a run from its result, from a JSON file next to it, or from a report file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import (
    check_readable_file,
    describe_exception,
    is_zarr,
)
from napari_dip.pipeline.assess.report_fields import ReportFields, check_record, read_record
from napari_dip.pipeline.recipe import recipe_from_dict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

_NOUN = "report of a run"


def read_run_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report of the run that made a file.

    Files that napari-dip saved contain it. For other files, the report is read from a JSON file of
    the same name in the same folder (`OUT.json`). Its digest must match the pixels.

    Parameters
    ----------
    path : path
        A TIFF, an OME-Zarr, or a report.

    Raises
    ------
    RefusedError
        If the file cannot be read, or there is no valid report.
    """
    from napari_dip.io.reading import read_provenance, read_spec

    file_path = Path(path)
    if not is_zarr(file_path):
        file_path, _ = check_readable_file(path)
    if file_path.suffix.lower() == ".json":
        return _read_report_file(file_path)
    read_spec(file_path)  # raises RefusedError if it is no image
    try:
        provenance = read_provenance(file_path)
    except Exception:  # not a TIFF, or written by another program
        provenance = None
    if provenance and isinstance(provenance.get("report"), dict):
        report = {**provenance["report"], "recipe": provenance["recipe"]}
        return _check_report(file_path, partial(check_record, report, _NOUN, ReportFields))
    report_path = file_path.with_suffix(".json")
    if not report_path.is_file():
        why = "neither in itself nor in a report beside it"
        raise RefusedError("result-untold", path=file_path, why=why)
    report = _read_report_file(report_path)
    if not has_reported_pixels(file_path, report):
        why = "the report beside it is of another picture"
        raise RefusedError("result-untold", path=file_path, why=why)
    return report


def has_reported_pixels(path: Path, report: Mapping[str, Any]) -> bool:
    """Return whether the pixels of a file match a report; an OME-Zarr must have no foreign files.

    Raises
    ------
    RefusedError
        If the file cannot be read.
    """
    from napari_dip.io.formats.zarr import find_foreign_file
    from napari_dip.io.reading import open_pixels, read_spec
    from napari_dip.pipeline.assess.report import compute_sha256

    if path.is_dir() and find_foreign_file(path):
        return False
    pixels: Any = open_pixels(read_spec(path))
    return compute_sha256(pixels) == report.get("output_sha256")


def _read_report_file(path: Path) -> dict[str, Any]:
    return _check_report(path, partial(read_record, path, _NOUN, ReportFields))


def _check_report(path: Path, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the report that `read` returns; raise `RefusedError` if it is none."""
    try:
        report = read()
    except (ValueError, OSError) as error:
        raise RefusedError("result-untold", path=path, why=describe_exception(error)) from None
    recipe_from_dict(report["recipe"], origin=make_printable(str(path)))
    return report
