"""Files in and out: headers, pixels, results.

Decided here: what may be read and how results are saved, whole or not at all. `ImageSpec` and
`guess_axes` cost nothing to import; readers and writers live in their own modules, so that planning
never loads a file format. Everything above imports this package; it knows `errors` alone.
"""

from __future__ import annotations

from napari_dip.io.header import ImageSpec, guess_axes

__all__ = ["ImageSpec", "guess_axes"]
