"""Read the report of a run from its result, from a JSON file next to it, or from a report file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import RefusedError
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import (
    MAX_REPORT_BYTES,
    check_readable_file,
    describe_exception,
    is_zarr,
    parse_strict_json,
    read_small_text,
)
from napari_dip.pipeline.assess.report_fields import ReportFields, find_field_fault
from napari_dip.pipeline.recipe import migrate_record, recipe_from_dict

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


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
        return _validate_report(_read_report_json(file_path), file_path)
    read_spec(file_path)  # raises RefusedError if it is no image
    try:
        provenance = read_provenance(file_path)
    except Exception:  # not a TIFF, or written by another program
        provenance = None
    if provenance and isinstance(provenance.get("report"), dict):
        return _validate_report({**provenance["report"], "recipe": provenance["recipe"]}, file_path)
    report_path = file_path.with_suffix(".json")
    if not report_path.is_file():
        why = "neither in itself nor in a report beside it"
        raise RefusedError("result-untold", path=file_path, why=why)
    return _check_report_pixels(
        file_path, _validate_report(_read_report_json(report_path), report_path)
    )


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


def _check_report_pixels(picture: Path, report: dict[str, Any]) -> dict[str, Any]:
    if not has_reported_pixels(picture, report):
        why = "the report beside it is of another picture"
        raise RefusedError("result-untold", path=picture, why=why)
    return report


def _read_report_json(path: Path) -> Any:
    try:
        return parse_strict_json(read_small_text(path, "a report", MAX_REPORT_BYTES))
    except (ValueError, OSError) as error:
        printable = make_printable(str(path))
        raise RefusedError("result-untold", path=printable, why=describe_exception(error)) from None


def _validate_report(report: Any, path: Path) -> dict[str, Any]:
    printable = make_printable(str(path))
    report = migrate_record(report) if isinstance(report, dict) else report
    if fault := find_field_fault(report, ReportFields):
        why = f"it is no report of a run, since {fault}"
        raise RefusedError("result-untold", path=printable, why=why)
    recipe_from_dict(report["recipe"], origin=printable)
    valid_report: dict[str, Any] = report
    return valid_report
