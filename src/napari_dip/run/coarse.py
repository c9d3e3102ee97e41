"""The grid that an oversampled picture is fitted on: half as many pixels along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_dip.engine.noise import NoiseEstimate
    from napari_dip.run.inputs import Planes

#: Hidden block from which on an image is looked at: with less, noise is shared by direct
#: neighbours only, and half the pixels would lose more than they spare.
WIDE = 5
#: Least side of an image, so that half of it is one that can be restored.
LEAST_SIDE = 64
#: Widest hidden block on the coarse grid: what is left of the correlation there is slight from two
#: pixels on. On the first shots of FMD WideField_BPAE_R and B, 512 x 512 pixels, blocks of 3 x 3
#: ended at 33.75 and 36.08 dB, blocks of 3 x 7, as the lags ask for, at 33.11 and 35.55 dB.
WIDEST = 3
#: A note on a run.
HALVED = (
    "The image has more pixels than detail: what is finer than two pixels holds neither picture "
    "nor noise. It was fitted at half its size, and enlarged again."
)


@dataclass(frozen=True, slots=True, eq=False)
class Coarse:
    """What is fitted instead of an oversampled picture.

    Attributes
    ----------
    parts : ndarray
        (1, C, Y / 2, X / 2), in the image's units.
    noise : tuple of NoiseEstimate
        Per channel, of these.
    block : tuple of int
        Size of hidden blocks there.
    """

    parts: Planes
    noise: tuple[NoiseEstimate, ...]
    block: tuple[int, ...]


def coarse_grid(
    parts: Planes,
    noise: Sequence[NoiseEstimate],
    block: tuple[int, ...],
    constant: tuple[int, ...],
    *,
    camera: bool = False,
) -> Coarse | None:
    """Halve a picture that is oversampled in all its channels; None if it is not.

    Parameters
    ----------
    parts : ndarray
        (1, C, Y, X), every pixel of it measured.
    noise : sequence of NoiseEstimate
    block : tuple of int
        Size of hidden blocks.
    constant : tuple of int
        Channels that hold one value only.
    camera : bool
        Whether the noise is a colour camera's, of which half the pixels hold 0.71 to 0.90 of the
        variance in nine files of cc15: then the picture is halved in any case.
    """
    import torch

    from napari_dip.engine.noise import hidden_block
    from napari_dip.engine.oversampling import halved, halved_noise, oversampled

    if parts.ndim > 4 or min(parts.shape[-2:]) < LEAST_SIDE:
        return None
    varied = [c for c in range(parts.shape[1]) if c not in constant]
    seen = (oversampled(torch.from_numpy(parts[:, c]), noise[c]) for c in varied)
    if not camera and (min(block) < WIDE or not all(seen)):
        return None
    half = np.asarray(halved(torch.from_numpy(parts)), np.float32)
    noises = tuple(one if c in constant else halved_noise(one) for c, one in enumerate(noise))
    measured = hidden_block([noises[c] for c in varied], (half.shape[-2], half.shape[-1]))
    return Coarse(half, noises, tuple(min(side, WIDEST) for side in measured))
