"""How many workers a file, or a share of it, has ended."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused
from napari_dip.io.paths import REPORT_BYTES, small_text
from napari_dip.io.writing import write_text

if TYPE_CHECKING:
    from pathlib import Path

#: Workers that one file may end before it is left alone: one may have been lost by chance.
MOST_DEATHS = 2
#: Begins the name of each share's count, in the folder beside the checkpoint.
SHARES = "begun"


class Beginnings:
    """Counts on the disk how often something was begun in a session and not ended.

    Parameters
    ----------
    path : Path
    session : str

    Notes
    -----
    The scheduler counts as well, but it holds a worker's death against all tasks that lay there,
    and how many deaths it allows is not ours to say on a cluster of others.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._path = path
        self._session = session

    def count(self) -> int:
        """Give how often it was begun."""
        with suppress(ValueError, TypeError):
            session, count = self._read() or ("", 0)
            return int(count) if session == self._session else 0
        return 0

    def add(self) -> None:
        """Count this one, before anything is risked; raises `Failed` if the disk takes nothing."""
        if os.path.lexists(self._path) and self._read() is None:  # somebody else's file
            return
        words = {"session": self._session, "begun": self.count() + 1}
        write_text(self._path, json.dumps(words), overwrite=True)

    def forget(self) -> None:
        """Take note that it came to an end."""
        if self._read() is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> tuple[Any, Any] | None:
        """Give session and count, None where there is no such file, or somebody else's."""
        with suppress(Refused, OSError, ValueError, RecursionError, TypeError, KeyError):
            found = json.loads(small_text(self._path, "a list of beginnings", REPORT_BYTES))
            if set(found) == {"session", "begun"} and not self._path.is_symlink():
                return found["session"], found["begun"]
        return None
