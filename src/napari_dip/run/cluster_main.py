"""Whether workers of this computer would run the script that starts them, and so start others."""

from __future__ import annotations

import ast
import inspect
import sys
from typing import TYPE_CHECKING

from napari_dip.errors import Refused, refusal
from napari_dip.io.paths import printable

if TYPE_CHECKING:
    from types import FrameType


def check_main_guard() -> None:
    """Refuse to start workers out of a script that each of them would run from its top.

    A new process reads the script again, under another name (Python's documentation of
    `multiprocessing`, "The spawn and forkserver start methods"). Raises `Refused`.
    """
    main = sys.modules["__main__"]
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if path is None or (spec is not None and spec.name.endswith("__main__")):
        return  # there is nothing that would be read again
    line = _line_in(path)
    if line and not _is_guarded(path, line):
        raise Refused(refusal("cluster-main", path=printable(path), line=line))


def _line_in(path: str) -> int:
    """Find which line of a script is at work, by its top level; 0 if none is."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if (frame.f_code.co_name, frame.f_code.co_filename) == ("<module>", path):
            return frame.f_lineno
        frame = frame.f_back
    return 0


def _is_guarded(path: str, line: int) -> bool:
    """Whether a line of a script stands below an `if` that asks for `__name__`."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return True  # nobody can tell
    asking = (
        one
        for one in ast.walk(tree)
        if isinstance(one, ast.If) and "__name__" in ast.unparse(one.test)
    )
    return any(one.lineno <= line <= (one.end_lineno or line) for one in asking)
