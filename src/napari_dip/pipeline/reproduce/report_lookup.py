"""The report of a run, found in what it left behind: in the result, beside it, or by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.integrity import parse_strict_json
from napari_dip.io.paths import (
    MAX_REPORT_BYTES,
    check_readable_file,
    describe_exception,
    is_zarr,
    read_small_text,
)
from napari_dip.pipeline.assess.report_fields import ReportFields, find_field_fault
from napari_dip.pipeline.recipe import migrate_record, recipe_from_dict

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


def read_run_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Find the report of the run that made a file.

    A TIFF or OME-Zarr that napari-dip saved holds it. Of one that does not, the report may lie
    beside under the same name (`OUT.json`); then the pixels must be those that it speaks of.

    Parameters
    ----------
    path : path of a TIFF, of an OME-Zarr, or of a report

    Raises
    ------
    Refused
        If it cannot be read, or says nothing.
    """
    from napari_dip.io.reading import read_provenance, read_spec

    place = Path(path)
    if not is_zarr(place):
        place, _ = check_readable_file(path)
    if place.suffix.lower() == ".json":
        return _validate_report(_read_report_json(place), place)
    read_spec(place)  # says no to what is no picture
    try:
        inside = read_provenance(place)
    except Exception:  # not a TIFF, or one that was written by somebody else
        inside = None
    if inside and isinstance(inside.get("report"), dict):
        return _validate_report({**inside["report"], "recipe": inside["recipe"]}, place)
    neighbours = place.with_suffix(".json")
    if not neighbours.is_file():
        why = "neither in itself nor in a report beside it"
        raise Refused(refusal("result-untold", path=make_printable(str(place)), why=why))
    return _check_report_pixels(place, _validate_report(_read_report_json(neighbours), neighbours))


def has_reported_pixels(path: Path, report: Mapping[str, Any]) -> bool:
    """Whether a file holds the very pixels that a report speaks of, and an OME-Zarr nothing else.

    Raises
    ------
    Refused
        If it cannot be read.
    """
    from napari_dip.io.formats.zarr_metadata import find_foreign_file
    from napari_dip.io.reading import read_spec
    from napari_dip.io.regions import open_pixels
    from napari_dip.pipeline.assess.report import compute_sha256

    if path.is_dir() and find_foreign_file(path):
        return False
    pixels: Any = open_pixels(read_spec(path))
    return compute_sha256(pixels) == report.get("output_sha256")


def _check_report_pixels(picture: Path, report: dict[str, Any]) -> dict[str, Any]:
    if not has_reported_pixels(picture, report):
        why = "the report beside it is of another picture"
        raise Refused(refusal("result-untold", path=make_printable(str(picture)), why=why))
    return report


def _read_report_json(path: Path) -> Any:
    try:
        return parse_strict_json(read_small_text(path, "a report", MAX_REPORT_BYTES))
    except (ValueError, OSError) as error:
        printable = make_printable(str(path))
        raise Refused(
            refusal("result-untold", path=printable, why=describe_exception(error))
        ) from None


def _validate_report(report: Any, path: Path) -> dict[str, Any]:
    printable = make_printable(str(path))
    report = migrate_record(report) if isinstance(report, dict) else report
    if fault := find_field_fault(report, ReportFields):
        why = f"it is no report of a run, since {fault}"
        raise Refused(refusal("result-untold", path=printable, why=why))
    recipe_from_dict(report["recipe"], origin=printable)
    whole: dict[str, Any] = report
    return whole
