"""One sentence for the user where an image cannot tell its noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from napari_dip.engine.noise import NoiseEstimate

#: What to do about it.
REMEDY = "Where you know read noise or gain, enter them."
#: What each of `engine.noise.DOUBTS` means to the user.
SENTENCES = {
    "blocks": "The noise cannot be told from this image: too little of it was measured in one "
    "piece, so it is taken to be even and weak.",
    "clipped": "The noise cannot be told for certain: almost everywhere the image was cut off at "
    "its darkest or brightest grey value.",
    "grey values": "The noise cannot be told from this image: it is finer than the steps of its "
    "grey values.",
    "texture": "The noise cannot be told for certain: there is structure down to single pixels "
    "everywhere, so what was measured may be too much.",
    "correlation": "Whether neighbouring pixels share noise cannot be told: all parts of the image "
    "are structured, so the noise is taken to differ from pixel to pixel.",
    "brightness": "The noise cannot be told for certain: at some brightness it is off a straight "
    "line, as after a gamma curve or with speckle, or nothing is flat there.",
    "tails": "The noise cannot be told for certain: many single pixels lie further off than normal "
    "noise has it, so what was measured is that of the others.",
    "smoothed": "The noise cannot be told for certain: the image seems to have been smoothed, "
    "interpolated or compressed, so what was measured may be too little.",
}


def doubt_notes(noise: Sequence[NoiseEstimate], constant: Collection[int]) -> tuple[str, ...]:
    """Say which channels cannot tell their noise, and why.

    Parameters
    ----------
    noise : sequence of NoiseEstimate
        One for each channel.
    constant : collection of int
        Channels that hold one value only, and are not restored.
    """
    told = [(c, one.doubt) for c, one in enumerate(noise) if one.doubt and c not in constant]
    return tuple(
        f"{SENTENCES[doubt]} {REMEDY}"
        if len(noise) == 1
        else f"Channel {channel + 1}: {SENTENCES[doubt]} {REMEDY}"
        for channel, doubt in told
    )
