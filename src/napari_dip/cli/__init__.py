"""The command-line interface.

The package decides on commands, options, exit codes, and what is printed to which stream. Only
`python -m napari_dip` imports it. It loads neither torch nor Qt before a run begins.
"""

from __future__ import annotations

from napari_dip.cli.app import main

__all__ = ["main"]
