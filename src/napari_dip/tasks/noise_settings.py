"""What a user may know of the noise, as fields of several tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_dip.tasks.base import Setting

NoiseModel = Annotated[
    Literal["auto", "gaussian", "poisson-gaussian"],
    Setting(
        "Noise model",
        "Gaussian: the noise is equally strong everywhere. Poisson-Gaussian: it grows with "
        "brightness, as photon noise does. Automatic measures which.",
        choices={
            "auto": "Automatic",
            "gaussian": "Gaussian",
            "poisson-gaussian": "Poisson-Gaussian",
        },
    ),
]
NoiseOrCompression = Annotated[
    Literal[
        "auto", "gaussian", "poisson-gaussian", "jpeg", "salt-and-pepper", "stripes", "speckle"
    ],
    Setting(
        "Noise model",
        "Gaussian: the noise is equally strong everywhere. Poisson-Gaussian: it grows with "
        "brightness, as photon noise does. Automatic measures which of the two. JPEG compression: "
        "blocks and rings of a compressed picture are taken away. Salt and pepper: hot, dead and "
        "other faulty pixels are found and filled in. Stripes: rows or columns with offsets of "
        "their own, as of sCMOS cameras and scanners, are levelled. Speckle: noise in proportion "
        "to the signal, as in OCT, ultrasound and coherent light.",
        choices={
            "auto": "Automatic",
            "gaussian": "Gaussian",
            "poisson-gaussian": "Poisson-Gaussian",
            "jpeg": "JPEG compression",
            "salt-and-pepper": "Salt and pepper (faulty pixels)",
            "stripes": "Stripes (line noise)",
            "speckle": "Speckle",
        },
    ),
]
ReadNoise = Annotated[
    Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None,
    Setting(
        "Read noise",
        "Standard deviation of the noise where the image is dark, in intensity units of the "
        "image. Empty: measured.",
        least=0,
        most=1e9,
    ),
]
Gain = Annotated[
    Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None,
    Setting(
        "Gain",
        "How much the noise variance grows for each unit of brightness. Empty: measured.",
        least=0,
        most=1e9,
    ),
]
