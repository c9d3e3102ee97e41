"""What a killed program left half-written: told from what a living one writes, and removed."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from napari_dip.io.locks import remove_if_free

if TYPE_CHECKING:
    from pathlib import Path

_PART = re.compile(r"\.napari-dip-([0-9a-f]{12})-(\d+)-[0-9a-f]{16}\.part")


def part_name() -> str:
    """Name a file or folder that is still being written, after this computer and process.

    Nobody can foresee it, so that no link can lie there.
    """
    return f".napari-dip-{_computer()}-{os.getpid()}-{secrets.token_hex(8)}.part"


def remove_parts(folder: Path) -> None:
    """Remove what processes of this computer left that live no more, and their locks.

    Parameters
    ----------
    folder : Path
        What other computers write there is theirs.
    """
    with suppress(OSError):
        for entry in list(folder.glob(".napari-dip-*")):
            with suppress(OSError):
                if entry.name.endswith(".lock"):
                    remove_if_free(entry)
                elif is_abandoned(entry.name):
                    remove_result(entry)


def is_abandoned(name: str) -> bool:
    """Whether a name is that of a part whose process was on this computer and lives no more."""
    import psutil

    told = _PART.fullmatch(name)
    return told is not None and told[1] == _computer() and not psutil.pid_exists(int(told[2]))


def remove_result(path: Path) -> None:
    """Remove a file, or the folder of an OME-Zarr; of a link, only the link."""
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


@cache
def _computer() -> str:
    """Tell computers apart, and containers, which count their processes each for itself."""
    told = socket.gethostname()
    with suppress(OSError):
        told += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(told.encode()).hexdigest()[:12]
