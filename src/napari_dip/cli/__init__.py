"""The command line: one of the two doors.

Decided here: commands, options, exit codes, what is printed and where. Nothing imports this package
but `python -m napari_dip`; it loads neither torch nor Qt before a run begins.
"""

from __future__ import annotations

from napari_dip.cli.app import main

__all__ = ["main"]
