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
from napari_dip.pipeline.recipe import recipe_from_dict

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


def report_in(path: str | os.PathLike[str]) -> dict[str, Any]:
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

    found = Path(path)
    if not is_zarr(found):
        found, _ = check_readable_file(path)
    if found.suffix.lower() == ".json":
        return _checked(_json(found), found)
    read_spec(found)  # says no to what is no picture
    try:
        inside = read_provenance(found)
    except Exception:  # not a TIFF, or one that was written by somebody else
        inside = None
    if inside and isinstance(inside.get("report"), dict):
        return _checked({**inside["report"], "recipe": inside["recipe"]}, found)
    beside = found.with_suffix(".json")
    if not beside.is_file():
        why = "neither in itself nor in a report beside it"
        raise Refused(refusal("result-untold", path=make_printable(str(found)), why=why))
    return _beside(found, _checked(_json(beside), beside))


def is_picture_of(path: Path, report: Mapping[str, Any]) -> bool:
    """Whether a file holds the very pixels that a report speaks of, and an OME-Zarr nothing else.

    Raises
    ------
    Refused
        If it cannot be read.
    """
    from napari_dip.io.formats.zarr_metadata import find_foreign_file
    from napari_dip.io.reading import read_spec
    from napari_dip.io.regions import open_pixels
    from napari_dip.pipeline.assess.report import sha256

    if path.is_dir() and find_foreign_file(path):
        return False
    pixels: Any = open_pixels(read_spec(path))
    return sha256(pixels) == report.get("output_sha256")


def _beside(picture: Path, report: dict[str, Any]) -> dict[str, Any]:
    if not is_picture_of(picture, report):
        why = "the report beside it is of another picture"
        raise Refused(refusal("result-untold", path=make_printable(str(picture)), why=why))
    return report


def _json(path: Path) -> Any:
    try:
        return parse_strict_json(read_small_text(path, "a report", MAX_REPORT_BYTES))
    except (ValueError, OSError) as error:
        shown = make_printable(str(path))
        raise Refused(refusal("result-untold", path=shown, why=describe_exception(error))) from None


def _checked(report: Any, path: Path) -> dict[str, Any]:
    shown = make_printable(str(path))
    if fault := find_field_fault(report, ReportFields):
        why = f"it is no report of a run, since {fault}"
        raise Refused(refusal("result-untold", path=shown, why=why))
    recipe_from_dict(report["recipe"], origin=shown)
    whole: dict[str, Any] = report
    return whole
