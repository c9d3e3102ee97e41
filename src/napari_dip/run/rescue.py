"""A finished picture that its place does not take is kept in another one, and that is said."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Failed
from napari_dip.io.paths import fitting, printable, target_of
from napari_dip.run.results import save_picture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_dip.run.events import Restoration
    from napari_dip.run.plan import Plan

_KEPT = "The picture is kept as '{path}'."
_LOST = "No other place took the picture either: {places}."


def kept_elsewhere(failure: Failed, output: Path, plan: Plan, result: Restoration) -> Failed:
    """Save a result that could not be saved, near its input, at home, or where temporary files go.

    Parameters
    ----------
    failure : Failed
        Why it could not be saved.
    output : Path
        Where it should have gone.
    plan : Plan
    result : Restoration

    Returns
    -------
    Failed
        The same failure, which says where the picture is now.
    """
    tried = []
    beside = [output.parent] if failure.refusal.code == "save-taken" else []
    for folder in (*beside, *_places(plan)):
        path = free_name(folder / output.name, "rescued")
        with suppress(Failed, OSError), _private(folder):
            save_picture(path, result.image, plan.source, plan.result_scale, result, False)
            return _also(failure, _KEPT.format(path=printable(str(path))))
        tried.append(printable(str(folder)))
    return _also(failure, _LOST.format(places=", ".join(tried)))


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
