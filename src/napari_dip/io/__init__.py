"""Read image headers and pixels, and write results.

This package decides which files can be read, and saves each result completely or not at all.
`ImageHeader` and `guess_axes` are cheap to import. Readers and writers have their own modules, so
that planning a run loads no file format. The package imports only `errors`.
"""

from __future__ import annotations

from napari_dip.io.header import ImageHeader, guess_axes

__all__ = ["ImageHeader", "guess_axes"]
