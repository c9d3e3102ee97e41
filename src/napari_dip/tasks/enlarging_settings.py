"""What a user can say of an enlargement: how much finer, what made the pixels coarse, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from napari_dip.tasks.base import Setting
from napari_dip.tasks.factor_text import factor_text

Factor = Annotated[
    str,
    BeforeValidator(factor_text),
    Setting(
        "Enlarge ×",
        "How many pixels the result has for each pixel of the image: 2, 3, 4 or 8, or one "
        "number for each axis as Y,X, such as 1,4. For stacks also as Z,Y,X: 4,1,1 makes four "
        "planes of each; one or two numbers leave the planes apart as they are.",
        advanced=False,
    ),
]

CoarsePixels = Annotated[
    Literal["lanczos", "binning"],
    Setting(
        "Coarse pixels",
        "What made the pixels coarse. Lanczos: a picture was scaled down with a smooth filter, "
        "as in the Deep Image Prior paper. Binning: each pixel is the mean of the fine ones "
        "that it covers, as on a camera.",
        choices={"lanczos": "Scaled down (Lanczos)", "binning": "Binning (camera)"},
        advanced=False,
    ),
]

PsfWidth = Annotated[
    Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)],
    Setting(
        "PSF width",
        "Standard deviation of the microscope's blur, in pixels of the result; the result is "
        "freed from it. 0: none.",
        least=0,
        most=20,
        step=0.05,
        written="Gaussian blur of standard deviation {:g} pixels of the result",
    ),
]

PsfDepth = Annotated[
    Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)],
    Setting(
        "PSF width along Z",
        "The same along Z, in planes of the result, where a stack is one volume.",
        least=0,
        most=20,
        step=0.05,
        written="along Z of standard deviation {:g} planes of the result",
    ),
]

EnlargingPrior = Annotated[
    Literal["auto", "scales", "noise"],
    Setting(
        "Prior",
        "What the untrained network learns from: the image made coarser still, where it is "
        "known what the finer pixels are; or fixed random noise that is turned into the image, "
        "as in the Deep Image Prior paper. Automatic takes the first, and the second for "
        "volumes and where there is a PSF.",
        choices={
            "auto": "Automatic",
            "scales": "The image's coarser scales",
            "noise": "Fixed noise (paper)",
        },
    ),
]

WarmStart = Annotated[
    Literal["interpolated", "none"],
    Setting(
        "Warm start",
        "What fixed noise is fed together with: the interpolated image, from which the network "
        "starts much sooner; or nothing, as in the Deep Image Prior paper.",
        choices={"interpolated": "Interpolated image", "none": "None (paper)"},
    ),
]
