"""Names of the array types that functions of all parts take and return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    AnyArray = npt.NDArray[Any]
    BoolArray = npt.NDArray[np.bool_]
    Float32Array = npt.NDArray[np.float32]
    FloatArray = npt.NDArray[np.float64]
