"""Locks on files, which the system lets go of when their process ends, however that happens."""

from __future__ import annotations

import json
import os
import socket
import sys

#: Byte that is locked on Windows, where nobody else may read what is locked: beyond all content.
_BYTE = 2**30


def lock(handle: int) -> None:
    """Lock an open file or folder, or raise.

    Parameters
    ----------
    handle : int
        Closing it lets go.

    Raises
    ------
    BlockingIOError, PermissionError
        If another one has locked it.
    OSError
        If the disk knows no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def owner_text() -> str:
    """Name this process and its computer, as one line of JSON."""
    return json.dumps({"process": os.getpid(), "host": socket.gethostname()})
