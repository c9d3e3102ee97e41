"""Files in and out: headers, pixels, results.

`ImageSpec` and `guess_axes` cost nothing to import; readers and writers live in their own
modules, so that planning never loads a file format.
"""

from __future__ import annotations

from napari_dip.io.spec import ImageSpec, guess_axes

__all__ = ["ImageSpec", "guess_axes"]
