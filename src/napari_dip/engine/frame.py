"""The outermost rows and columns, which a network cannot see apart from what they mirror.

Many pictures end in a line of their own: what a scanner, a decoder or a cut-out has left. The
network's convolutions reflect at the border, so a pixel of the last row looks like any other to it,
and such a line is smoothed away. What is left of it in the residual is put back here, along each
line as smoothly as its noise asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from napari_dip.engine.fidelity import NoiseVariance

#: Lines that are looked at on each side, and pixels along a line that are averaged. On F16 of the
#: Deep Image Prior page, lines up to 3 pixels from the border held 57 % of the squared error.
DEPTH, ALONG = 3, 9
#: How many times more than the noise's own power a line must hold, so that chance is left alone.
CERTAIN = 2.0


def frame_put_back(noise: NoiseVariance, measurement: Tensor, picture: Tensor) -> Tensor:
    """Add to a picture's outermost lines what the measurement holds there beyond the noise.

    Parameters
    ----------
    noise : NoiseVariance
        White.
    measurement, picture : Tensor
        (1, C, Y, X), at least `4 * ALONG` pixels a side; smaller ones come back as they are.

    Returns
    -------
    Tensor
        As `picture`.
    """
    if min(picture.shape[2:]) < 4 * ALONG:
        return picture
    deviation = noise.at(picture).sqrt()
    residual = (measurement - picture) / deviation
    answer = picture.clone()
    for axis in (2, 3):
        for place in (*range(DEPTH), *range(-DEPTH, 0)):
            line = residual.select(axis, place)  # (1, C, L)
            found = _smooth(line)
            power = found.square().mean(2, keepdim=True)
            chance = 1 / ALONG
            share = torch.where(power > CERTAIN * chance, 1 - chance / power, 0)
            target = answer.select(axis, place)
            target += share * found * deviation.select(axis, place)
    return answer


def _smooth(line: Tensor) -> Tensor:
    """Mean along a line, of as many pixels as there are at its ends."""
    return F.avg_pool1d(line, ALONG, 1, ALONG // 2, count_include_pad=False)
