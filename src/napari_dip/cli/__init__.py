"""The command line: the same recipes as the dock and Python, with exit codes and files."""

from __future__ import annotations

from napari_dip.cli.app import main

__all__ = ["main"]
