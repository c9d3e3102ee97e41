"""Weights of a program: bytes of a stated type, laid out as the program says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.io.graph_values import DTYPES

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.io.exported_program import Program


def read_kept(program: Program, name: str) -> npt.NDArray[Any]:
    """Read one weight; floating-point numbers come in single precision.

    Parameters
    ----------
    program : Program
    name : str
        As the steps call it.

    Raises
    ------
    Refused
        If its bytes are not there, or not as many as it claims.
    """
    archive, told = program.archive, program.kept[name]
    kind = DTYPES.get(told.kind)
    if kind is None:
        raise archive.broken("its weights are of a type that is not read here")
    plain = np.dtype("uint16" if kind == "bfloat16" else kind)
    raw = archive.raw(told.entry)
    if len(raw) % plain.itemsize:
        raise archive.broken(f"the bytes of '{name[:100]}' are cut off")
    values = np.frombuffer(raw, plain.newbyteorder("<")).astype(plain)
    count = 1
    for size in told.sizes:
        count *= size
    steps = zip(told.sizes, told.strides, strict=True)
    last = told.offset + sum((size - 1) * stride for size, stride in steps)
    if count and (count > len(values) or last >= len(values)):
        raise archive.broken(f"'{name[:100]}' claims more values than there are")
    if not count:
        laid = np.zeros(told.sizes, plain)
    else:
        strides = tuple(stride * plain.itemsize for stride in told.strides)
        laid = np.lib.stride_tricks.as_strided(values[told.offset :], told.sizes, strides)
    laid = np.array(laid)  # a copy, in the usual order
    if kind == "bfloat16":  # the upper half of single precision
        laid = (laid.astype(np.uint32) << 16).view(np.float32)
    return laid.astype(np.float32) if laid.dtype.kind == "f" else laid
