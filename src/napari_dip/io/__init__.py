"""Read image headers and pixels, and write results.

This package decides which files can be read, and saves each result completely or not at all.
`ImageHeader`, `guess_axes` and the names of array types are cheap to import. Readers and writers
have their own modules, so that planning a run loads no file format. The package imports only
`errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_dip.io.header import ImageHeader, guess_axes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    AnyArray = npt.NDArray[Any]
    BoolArray = npt.NDArray[np.bool_]
    Float32Array = npt.NDArray[np.float32]
    FloatArray = npt.NDArray[np.float64]

__all__ = ["ImageHeader", "guess_axes"]
