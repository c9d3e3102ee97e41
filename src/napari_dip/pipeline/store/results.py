"""Results as files: a picture with how it came about, and figures as JSON.

A finished picture that its place does not take is kept in another one, and that is said.
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

from napari_dip.errors import Failed, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note, report_stop
from napari_dip.io.paths import describe_exception, make_save_refusal, resolve_target, shorten_name
from napari_dip.io.writing import write_image
from napari_dip.pipeline.assess.report import select_repeatable_fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.io.header import SourceTags
    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan


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
    from napari_dip.version import __version__

    provenance = {
        "program": f"napari-dip {__version__}",
        "source": spec.name,
        "recipe": result.recipe.to_dict(),
        "best_iteration": result.best_iteration,
        **report_stop(result.stop),
        "report": _replace_non_finite(select_repeatable_fields(result.report)),
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
        tags=_shift_origin(spec, scale),
    )


def _shift_origin(spec: ImageSpec, scale: tuple[float, ...] | None) -> SourceTags:
    """Move the first pixel's middle where pixels became smaller: both cover the same ground."""
    origin = spec.tags.origin
    if origin is None or spec.scale is None or scale is None:
        return spec.tags
    moved = tuple(
        start + (after - before) / 2
        for start, before, after in zip(origin, spec.scale, scale, strict=True)
    )
    return replace(spec.tags, origin=moved)


def format_json(value: Any) -> str:
    """Write plain types as JSON, for people to read as well: what no terminal shows is escaped."""
    text = json.dumps(_replace_non_finite(value), indent=2, ensure_ascii=False)
    return "\n".join(map(_escape_line, text.split("\n"))) + "\n"


def _escape_line(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(item if item.isprintable() else _escape_character(item) for item in line)


def _escape_character(letter: str) -> str:
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


def _replace_non_finite(value: Any) -> Any:
    """Write what is not a finite number as null, since JSON has no word for it."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _replace_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(entry) for entry in value]
    return value


def convert_to_failure(error: Exception, output: Path) -> Failed:
    """Say of whatever went wrong while a file was saved that it could not be saved."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, Refused):
        return Failed(error.refusal)
    if isinstance(error, OSError):
        return Failed(make_save_refusal(output, error))
    printable = make_printable(str(output))
    return Failed(refusal("save-unexpected", path=printable, why=describe_exception(error)))


def rescue_result(failure: Exception, output: Path, plan: Plan, result: Restoration) -> Failed:
    """Save a result that could not be saved, near its input, at home, or where temporary files go.

    Parameters
    ----------
    failure : Exception
        Why it could not be saved, foreseen or not.
    output : Path
        Where it should have gone.
    plan : Plan
    result : Restoration

    Returns
    -------
    Failed
        The same failure, which says where the picture is now.
    """
    failed = convert_to_failure(failure, output)
    neighbours = [output.parent] if failed.refusal.code in ("save-taken", "save-unexpected") else []
    folders = (*neighbours, *_list_rescue_folders(plan))
    for folder in folders:
        path = choose_free_name(folder / output.name, "rescued")
        with suppress(Exception), _restrict_permissions(folder):  # the next place may take it
            save_picture(path, result.image, plan.source, plan.result_scale, result, False)
            return add_to_failure(failed, make_note("picture-kept", path=make_printable(str(path))))
    for folder in folders:  # what goes with the pixels may be what cannot be saved
        path = choose_free_name(folder / f"{output.name}.tif", "rescued")
        with suppress(Exception), _restrict_permissions(folder):
            write_image(path, result.image, axes=plan.source.axes)
            return add_to_failure(
                failed, make_note("picture-kept-bare", path=make_printable(str(path)))
            )
    places = ", ".join(make_printable(str(folder)) for folder in folders)
    return add_to_failure(failed, make_note("picture-lost", places=places))


def choose_free_name(output: Path, kind: str) -> Path:
    """Name a picture beside a result: OUT.kind.tif, or a numbered one if that exists."""
    free, number = insert_name_suffix(output, kind), 2
    while free.exists() or free.is_symlink():
        free, number = insert_name_suffix(output, f"{kind}-{number}"), number + 1
    return free


def insert_name_suffix(output: Path, kind: str) -> Path:
    """Put a word between a result's name and its ending."""
    stem = output.name[: -len(output.suffix)]
    suffix = f".ome{output.suffix}" if stem.lower().endswith(".ome") else output.suffix
    stem = stem[:-4] if stem.lower().endswith(".ome") else stem
    end = f".{kind}{suffix}"
    return output.with_name(shorten_name(stem, len(end)) + end)


def _list_rescue_folders(plan: Plan) -> list[Path]:
    """List folders that may lie on other disks: the input's, the home, that of temporary files."""
    near = [resolve_target(Path(plan.source.path)).parent] if plan.source.path else []
    with suppress(RuntimeError):  # no home is known
        near.append(Path.home())
    with suppress(OSError):  # no folder for temporary files takes any
        near.append(Path(tempfile.gettempdir()))
    return list(dict.fromkeys(near))


def list_fallback_folders(plan: Plan) -> list[Path]:
    """List the same for what goes with the run, last first: the system empties temporary files."""
    return _list_rescue_folders(plan)[::-1]


@contextmanager
def _restrict_permissions(folder: Path) -> Iterator[None]:
    """Let files in a folder that all may write to be the user's alone; others could read them."""
    if not folder.stat().st_mode & stat.S_IWOTH:
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def add_to_failure(failure: Failed, note: Note) -> Failed:
    """Make the same failure, with a note behind its remedy."""
    no = failure.refusal
    return Failed(replace(no, further=(*no.further, note)))


#: Beginnings that a spreadsheet takes for a formula, which a file's name must never be.
_FORMULA_PREFIXES = ("=", "+", "-", "@")


def escape_formula(value: object) -> object:
    """Keep text from being taken for a formula or a command; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    printable = make_printable(value)
    # spreadsheets pass over spaces, and take the wide signs of East Asian keyboards for the same
    begins = normalize("NFKC", value).lstrip()
    return f"'{printable}" if begins.startswith(_FORMULA_PREFIXES) else printable
