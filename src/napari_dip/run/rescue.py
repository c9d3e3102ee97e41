"""A finished picture that its place does not take is kept in another one, and that is said."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Failed, Refused, refusal
from napari_dip.io.paths import fitting, printable, target_of, unsaved, why_not
from napari_dip.io.writing import write_image
from napari_dip.run.results import save_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.run.events import Restoration
    from napari_dip.run.plan import Plan

_KEPT = "The picture is kept as '{path}'."
_BARE = "The picture is kept as '{path}', without its settings and the size of its pixels."
_LOST = "No other place took the picture either: {places}."


def as_failed(error: Exception, output: Path) -> Failed:
    """Say of whatever went wrong while a file was saved that it could not be saved."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, Refused):
        return Failed(error.refusal)
    if isinstance(error, OSError):
        return Failed(unsaved(output, error))
    shown = printable(str(output))
    return Failed(refusal("save-unexpected", path=shown, why=why_not(error)))


def kept_elsewhere(failure: Exception, output: Path, plan: Plan, result: Restoration) -> Failed:
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
    failed = as_failed(failure, output)
    beside = [output.parent] if failed.refusal.code in ("save-taken", "save-unexpected") else []
    folders = (*beside, *_places(plan))
    for folder in folders:
        path = free_name(folder / output.name, "rescued")
        with suppress(Exception), _private(folder):  # the next place may take it
            save_picture(path, result.image, plan.source, plan.result_scale, result, False)
            return _also(failed, _KEPT.format(path=printable(str(path))))
    for folder in folders:  # what goes with the pixels may be what cannot be saved
        path = free_name(folder / f"{output.name}.tif", "rescued")
        with suppress(Exception), _private(folder):
            write_image(path, result.image, axes=plan.source.axes)
            return _also(failed, _BARE.format(path=printable(str(path))))
    return _also(failed, _LOST.format(places=", ".join(printable(str(one)) for one in folders)))


def free_name(output: Path, kind: str) -> Path:
    """Name a picture beside a result: OUT.kind.tif, or a numbered one if that exists."""
    free, number = name_beside(output, kind), 2
    while free.exists() or free.is_symlink():
        free, number = name_beside(output, f"{kind}-{number}"), number + 1
    return free


def name_beside(output: Path, kind: str) -> Path:
    """Put a word between a result's name and its ending."""
    stem = output.name[: -len(output.suffix)]
    suffix = f".ome{output.suffix}" if stem.lower().endswith(".ome") else output.suffix
    stem = stem[:-4] if stem.lower().endswith(".ome") else stem
    end = f".{kind}{suffix}"
    return output.with_name(fitting(stem, len(end)) + end)


def _places(plan: Plan) -> list[Path]:
    """List folders that may lie on other disks: the input's, the home, that of temporary files."""
    near = [target_of(Path(plan.source.path)).parent] if plan.source.path else []
    with suppress(RuntimeError):  # no home is known
        near.append(Path.home())
    with suppress(OSError):  # no folder for temporary files takes any
        near.append(Path(tempfile.gettempdir()))
    return list(dict.fromkeys(near))


def spare_places(plan: Plan) -> list[Path]:
    """List the same for what goes with the run, last first: the system empties temporary files."""
    return _places(plan)[::-1]


@contextmanager
def _private(folder: Path) -> Iterator[None]:
    """Let files in a folder that all may write to be the user's alone; others could read them."""
    if not folder.stat().st_mode & stat.S_IWOTH:
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _also(failure: Failed, words: str) -> Failed:
    return Failed(replace(failure.refusal, remedy=f"{failure.refusal.remedy} {words}"))
