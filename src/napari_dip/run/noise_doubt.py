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


#: What each of `engine.noise.CAUTIONS` means to the user, and those of which other notes speak.
CAUTIONED = {
    "resampled": "Noise is stronger in every second row or column, or so, as after enlarging, a "
    "colour mosaic or JPEG: it was measured as one for all.",
    "calm": "Hardly any part of the image is without structure, so the noise is known within a "
    "third only.",
    "blotches": "Every part of the image varies over eight pixels and more: that is kept as "
    "structure, so noise in blotches as wide would stay.",
    "lines": "Rows or columns are offset against each other: the noise model 'Stripes' takes that "
    "out.",
    "camera": "It is the noise of a colour camera, known within a third.",
    "cut": "Most of the image was cut off at its darkest or brightest grey value: the noise near "
    "there is a guess.",
    "uneven": "At some brightness the variance of the noise is a third more or less than was "
    "reckoned: after a gamma curve, or for want of flat places.",
    "ends": "In the darkest or brightest tenth of the image the variance of the noise is known "
    "within a fifth only.",
    "colours": "Neighbouring pixels share noise in this colour picture: how strong it is, is known "
    "within a third only.",
    "whiter": "Neighbouring pixels seem to share less noise than was measured, so the noise may be "
    "weaker.",
}

ELSEWHERE = ("lines", "camera")


def doubt_notes(noise: Sequence[NoiseEstimate], constant: Collection[int]) -> tuple[str, ...]:
    """Say which channels cannot tell their noise, and why, or what else should be known of it.

    Parameters
    ----------
    noise : sequence of NoiseEstimate
        One for each channel.
    constant : collection of int
        Channels that hold one value only, and are not restored.
    """
    said = []
    for channel, one in enumerate(noise):
        words = ""
        if one.doubt:
            words = f"{SENTENCES[one.doubt]} {REMEDY}"
        elif one.caution and one.caution not in ELSEWHERE:
            words = CAUTIONED[one.caution]
        if words and channel not in constant:
            said.append(words if len(noise) == 1 else f"Channel {channel + 1}: {words}")
    return tuple(said)
