"""Save results as image files with their provenance, and format reports as JSON.

A result that cannot be saved at its target is saved elsewhere, and the error message says where.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from napari_dip.errors import FailedError, RefusedError
from napari_dip.errors.notes import make_note, serialise_stop
from napari_dip.errors.templates import make_printable
from napari_dip.io.outputs import OutputLock, resolve_output
from napari_dip.io.paths import describe_exception, make_save_refusal, resolve_target, shorten_name
from napari_dip.io.writing import write_image
from napari_dip.pipeline.assess.report import select_repeatable_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.io.header import SourceTags
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan

#: First characters that make a spreadsheet read a cell, such as a file name, as a formula.
_FORMULA_PREFIXES = ("=", "+", "-", "@")


def save_image(
    path: str | os.PathLike[str],
    image: Any,
    header: ImageHeader,
    scale: tuple[float, ...] | None,
    result: Restoration,
    overwrite: bool,
) -> None:
    """Save one image of a result as TIFF or OME-Zarr, atomically.

    The content of the file does not depend on the time and place of writing: equal pixels give
    equal bytes.

    Parameters
    ----------
    path : path
    image : ndarray
        In the axes of `header`.
    header : ImageHeader
        Header of the image that was restored.
    scale : tuple of float or None
        Pixel size of `image` along each axis.
    result : Restoration
        Source of the provenance that is stored in the file.
    overwrite : bool

    Raises
    ------
    FailedError
        If the file cannot be written.
    """
    from napari_dip.version import __version__

    provenance = {
        "program": f"napari-dip {__version__}",
        "source": header.name,
        "recipe": result.recipe.to_dict(),
        "best_iteration": result.best_iteration,
        **serialise_stop(result.stop),
        "report": _replace_non_finite(select_repeatable_fields(result.report)),
    }
    write_image(
        path,
        image,
        axes=header.axes,
        scale=scale,
        units=header.units,
        provenance=provenance,
        overwrite=overwrite,
        like=header.path,
        tags=_shift_origin(header, scale),
    )


def save_result(
    plan: Plan, path: str | os.PathLike[str], result: Restoration, *, overwrite: bool
) -> Path:
    """Save the image of a result that a plan led to; for the rest see `Restoration.save`."""
    headers = (plan.header, *plan.extra_headers.values())
    inputs = [header.path for header in headers if header.path]
    target = resolve_output(path, inputs, overwrite, bytes_needed=result.image.nbytes)
    with OutputLock(path):
        try:
            save_image(target, result.image, plan.header, plan.result_scale, result, overwrite)
        except Exception as error:
            raise convert_to_failure(error, target) from error
    return Path(path)


def _shift_origin(header: ImageHeader, scale: tuple[float, ...] | None) -> SourceTags:
    """Return the tags with the centre of the first pixel shifted for a new pixel size.

    Input and result then cover the same area.
    """
    origin = header.tags.origin
    if origin is None or header.scale is None or scale is None:
        return header.tags
    shifted_origin = tuple(
        start + (new_size - old_size) / 2
        for start, old_size, new_size in zip(origin, header.scale, scale, strict=True)
    )
    return replace(header.tags, origin=shifted_origin)


def format_json(value: Any) -> str:
    """Format plain types as readable JSON, with unprintable characters escaped."""
    text = json.dumps(_replace_non_finite(value), indent=2, ensure_ascii=False)
    return "".join(
        letter if letter == "\n" or letter.isprintable() else _escape_character(letter)
        for letter in f"{text}\n"
    )


def _escape_character(letter: str) -> str:
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


def _replace_non_finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, since JSON cannot represent them."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _replace_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(entry) for entry in value]
    return value


def convert_to_failure(error: Exception, output: Path) -> FailedError:
    """Convert any error while saving a file to FailedError."""
    if isinstance(error, FailedError):
        return error
    if isinstance(error, RefusedError):
        return FailedError(error.reason)
    if isinstance(error, OSError):
        return FailedError(make_save_refusal(output, error))
    printable = make_printable(str(output))
    return FailedError("save-unexpected", path=printable, why=describe_exception(error))


def rescue_result(failure: Exception, output: Path, plan: Plan, result: Restoration) -> FailedError:
    """Save a result elsewhere: next to its input, in the home folder, or with temporary files.

    Parameters
    ----------
    failure : Exception
        Error from saving the result at its target.
    output : Path
        The target.
    plan : Plan
    result : Restoration

    Returns
    -------
    FailedError
        The same error, with a note on where the image was saved.
    """
    failed = convert_to_failure(failure, output)
    target_folders = (
        [output.parent] if failed.reason.code in ("save-taken", "save-unexpected") else []
    )
    folders = (*target_folders, *list_rescue_folders(plan))
    for folder in folders:
        path = choose_free_name(folder / output.name, "rescued")
        with suppress(Exception), _restrict_permissions(folder):  # else try the next folder
            save_image(path, result.image, plan.header, plan.result_scale, result, False)
            return add_to_failure(failed, make_note("result-rescued", path=path))
    for folder in folders:  # the metadata may have caused the error, so save pixels only
        path = choose_free_name(folder / f"{output.name}.tif", "rescued")
        with suppress(Exception), _restrict_permissions(folder):
            write_image(path, result.image, axes=plan.header.axes)
            return add_to_failure(failed, make_note("result-rescued-bare", path=path))
    places = ", ".join(make_printable(str(folder)) for folder in folders)
    return add_to_failure(failed, make_note("result-lost", places=places))


def choose_free_name(output: Path, kind: str) -> Path:
    """Return a free file name next to a result: OUT.kind.tif, or a numbered one."""
    candidate, number = insert_name_suffix(output, kind), 2
    while candidate.exists() or candidate.is_symlink():
        candidate, number = insert_name_suffix(output, f"{kind}-{number}"), number + 1
    return candidate


def insert_name_suffix(output: Path, kind: str) -> Path:
    """Return a path with `.kind` inserted before the suffix of a result's name."""
    stem = output.name[: -len(output.suffix)]
    suffix = f".ome{output.suffix}" if stem.lower().endswith(".ome") else output.suffix
    stem = stem[:-4] if stem.lower().endswith(".ome") else stem
    name_end = f".{kind}{suffix}"
    return output.with_name(shorten_name(stem, len(name_end)) + name_end)


def list_rescue_folders(plan: Plan) -> list[Path]:
    """Return folders to save a result in: the input's, the home folder, and the temporary one."""
    folders = [resolve_target(Path(plan.header.path)).parent] if plan.header.path else []
    with suppress(RuntimeError):  # there is no home folder
        folders.append(Path.home())
    with suppress(OSError):  # no temporary folder is writable
        folders.append(Path(tempfile.gettempdir()))
    return list(dict.fromkeys(folders))


@contextmanager
def _restrict_permissions(folder: Path) -> Iterator[None]:
    """Make new files readable by the user only, if all users can write to the folder."""
    if not folder.stat().st_mode & stat.S_IWOTH:
        yield
        return
    old_umask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(old_umask)


def add_to_failure(failure: FailedError, note: Note) -> FailedError:
    """Return the same error with a further note."""
    original = failure.reason
    return FailedError(replace(original, extra_advice=(*original.extra_advice, note)))


def escape_formula(value: object) -> object:
    """Escape text that a spreadsheet would read as a formula; return other values unchanged."""
    if not isinstance(value, str):
        return value
    printable = make_printable(value)
    # spreadsheets ignore leading spaces, and treat full-width characters like ASCII ones
    normalised = normalize("NFKC", value).lstrip()
    return f"'{printable}" if normalised.startswith(_FORMULA_PREFIXES) else printable
