"""Between which values a picture made from a layer is shown: as the layer, unless that is black."""

from __future__ import annotations

from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

#: Least share of the layer's limits that a picture fills which is shown between them, so that the
#: two can be compared by eye. Noise alone widens a layer's range less than that: the average of
#: many shots fills 0.74 of the range of one of them or more, in all of 35 pairs (FMD BPAE, W2S). A
#: scratch of 65535 over 460 counts leaves 0.006, and a picture that is black.
LEAST_SHARE = 1 / 3
#: The same for a picture of a part of the layer, which may be a dark one, and is compared with what
#: lies around it: it fills less than 8 of 256 grey values, and nothing is seen in it.
LEAST_OF_PART = 1 / 32
#: Pixels of a picture that are looked at, at most; of a larger one its middle plane, thinned out,
#: since it may lie on the disk. 64 MB are read through in some hundredths of a second.
_LOOKED_AT = 2**24


def range_of(picture: npt.NDArray[Any]) -> tuple[float, float]:
    """Tell the least and the greatest value of a picture; NaN counts for nothing."""
    if picture.size > _LOOKED_AT:
        plane = picture[tuple(count // 2 for count in picture.shape[:-2])]
        step = ceil(sqrt(plane.size / _LOOKED_AT))
        picture = plane[::step, ::step]
    return float(np.fmin.reduce(picture, axis=None)), float(np.fmax.reduce(picture, axis=None))


def in_sight(
    look: Mapping[str, Any], seen: tuple[float, float], *, part: bool = False
) -> dict[str, Any]:
    """Give a picture limits of its own where it would be dark between those of the layer.

    Parameters
    ----------
    look : mapping
        Of the layer, by `napari_dip.qt.layers.look_of`.
    seen : (float, float)
        Least and greatest value of the picture.
    part : bool
        Whether it shows a part of the layer.

    Returns
    -------
    dict
        The look; as it was where the picture fills enough of the limits, is of one value, or in
        red, green and blue, whose balance is judged beside the layer's.
    """
    limits = look.get("contrast_limits")
    if limits is None or look.get("rgb"):
        return dict(look)
    least = (LEAST_OF_PART if part else LEAST_SHARE) * (limits[1] - limits[0])
    if not 0 < seen[1] - seen[0] < least:
        return dict(look)
    return {**look, "contrast_limits": seen}
