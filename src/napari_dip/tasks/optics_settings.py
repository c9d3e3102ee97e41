"""What a PSF can be computed from, as fields of a task: a width, or what a microscope says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_dip.tasks.base import Setting

#: Refractive index of immersion oil, ISO 8036. In focus, which is all that a single plane asks
#: for, the PSF does not depend on it; it only has to lie above the aperture.
OIL = 1.518

_Length = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

_Width = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]

GaussianWidth = Annotated[
    _Width | None,
    Setting(
        "Gaussian blur (SD, pixels)",
        "Standard deviation of the blur, in pixels, if it is a Gaussian: full width at half "
        "maximum / 2.35. Empty: none.",
        least=0,
        most=100,
        advanced=False,
        written="Gaussian blur of standard deviation {:g} pixels",
    ),
]
GaussianDepth = Annotated[
    _Width | None,
    Setting(
        "Gaussian blur along Z",
        "Standard deviation of the blur along Z, in planes of the stack, which is then deblurred "
        "as a volume: full width at half maximum / 2.35. Empty: each plane is blurred by itself.",
        least=0,
        most=100,
        written="along Z of standard deviation {:g} planes",
    ),
]
Microscope = Annotated[
    Literal["none", "widefield", "confocal"],
    Setting(
        "Microscope",
        "Compute the PSF of this kind of microscope from its aperture, the wavelength and the "
        "pixel size.",
        choices={"none": "Not chosen", "widefield": "Widefield", "confocal": "Confocal"},
        advanced=False,
    ),
]
Aperture = Annotated[
    Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)] | None,
    Setting(
        "Numerical aperture",
        "Numerical aperture (NA) of the objective, as written on it. Empty: none.",
        least=0,
        most=4,
        written="numerical aperture {:g}",
    ),
]
Wavelength = Annotated[
    _Length | None,
    Setting(
        "Wavelength",
        "Wavelength of the emitted light, in nanometres. Empty: none.",
        least=0,
        most=1e6,
        written="emission at {:g} nm",
    ),
]
PixelSize = Annotated[
    _Length | None,
    Setting(
        "Pixel size",
        "Size of a pixel in the sample, in nanometres. Empty: as the image says.",
        least=0,
        most=1e6,
        written="pixels of {:g} nm",
    ),
]
ZStep = Annotated[
    _Length | None,
    Setting(
        "Distance of planes",
        "Distance of the planes of a stack in the sample, in nanometres. Empty: as the image says.",
        least=0,
        most=1e6,
        written="planes {:g} nm apart",
    ),
]
RefractiveIndex = Annotated[
    Annotated[float, Field(ge=1, le=4, allow_inf_nan=False)],
    Setting(
        "Refractive index",
        "Of the immersion: 1 for air, 1.333 for water, 1.518 for oil.",
        least=1,
        most=4,
        step=0.001,
        written="refractive index {:g}",
    ),
]
Excitation = Annotated[
    _Length | None,
    Setting(
        "Excitation",
        "Wavelength of the exciting light in nanometres, for a confocal microscope. Empty: "
        "that of the emission.",
        least=0,
        most=1e6,
        written="excitation at {:g} nm",
    ),
]
Pinhole = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    Setting(
        "Pinhole",
        "Diameter of a confocal microscope's pinhole, in Airy units.",
        least=0,
        most=100,
        step=0.1,
        written="pinhole of {:g} Airy units",
    ),
]
