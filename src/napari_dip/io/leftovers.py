"""What is removed: results that are no longer wanted, and what a killed program left of one."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def remove_parts(folder: Path, before: float) -> None:
    """Remove files and folders that a program left which was killed while it wrote.

    Parameters
    ----------
    folder : Path
    before : float
        Seconds since the epoch: a younger part may be one that is being written.
    """
    with suppress(OSError):
        for part in folder.glob("*.part"):
            ours = part.name.startswith(".napari-dip-") or part.name.endswith(".unfinished.part")
            if ours and part.stat().st_mtime < before:
                remove_result(part)


def remove_result(path: Path) -> None:
    """Remove a file, or the folder of an OME-Zarr; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
