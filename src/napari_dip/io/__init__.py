"""Read image headers and pixels, and write results.

This package decides which files can be read, and saves each result completely or not at all.
`ImageSpec` and `guess_axes` are cheap to import. Readers and writers have modules of their own, so
that planning a run loads no file format. The package imports only `errors`.
"""

from __future__ import annotations

from napari_dip.io.header import ImageSpec, guess_axes

__all__ = ["ImageSpec", "guess_axes"]
