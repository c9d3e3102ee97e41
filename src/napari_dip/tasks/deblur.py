"""Deblur: undo a blur whose PSF is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.tasks.base import IMAGE, Input, NoiseWish, Scene, Setting, Task
from napari_dip.tasks.known_psf import KnownPsf, Optics, cleaned_picture
from napari_dip.tasks.larger_object import padded, within_frame
from napari_dip.tasks.noise_settings import Gain, NoiseModel, ReadNoise
from napari_dip.tasks.optics_settings import (
    OIL,
    Aperture,
    Excitation,
    Microscope,
    Pinhole,
    PixelSize,
    RefractiveIndex,
    Wavelength,
)
from napari_dip.tasks.smoothing import smoothed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec

#: Steps of Richardson-Lucy after which its picture is shown to the network, and the jitter of
#: these pictures, which have a range of about one: without it the network copies their noise (one
#: crop of 128 x 128, 300 iterations: 27.9 dB without, 29.6 dB with).
LUCY_STEPS, LUCY_JITTER = (5, 20), 0.1
#: Power of the blur below which nothing is made stronger, at least; 0.03 learns more slowly. Where
#: the noise has a larger share of the image's variance, that share, as in a Wiener filter.
LEAST_POWER = 0.01

PSF = Input(
    "psf",
    "PSF",
    "The point spread function: a picture of what becomes of a point. Not needed where a Gaussian "
    "or a microscope is named instead.",
    optional=True,
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Deblur(Task):
    """Settings of a deblurring: where the PSF comes from, and how the image ends."""

    name: ClassVar[str] = "deblur"
    title: ClassVar[str] = "Deblur"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, PSF)
    done: ClassVar[str] = "deblurred"

    gaussian_sigma: Annotated[
        Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None,
        Setting(
            "Gaussian blur",
            "Standard deviation of the blur in pixels, if it is a Gaussian. Empty: none.",
            least=0,
            most=100,
            advanced=False,
        ),
    ] = None
    model: Microscope = "none"
    na: Aperture = None
    wavelength: Wavelength = None
    pixel_size: PixelSize = None
    refractive_index: RefractiveIndex = OIL
    excitation: Excitation = None
    pinhole: Pinhole = 1.0
    border: Annotated[
        Literal["open", "circular"],
        Setting(
            "Border",
            "Open: light came in from outside the image, as in a microscope. Circular: the image "
            "was blurred by a program that let it go on with its other side.",
            choices={"open": "Open", "circular": "Circular"},
        ),
    ] = "open"
    start: Annotated[
        Literal["richardson-lucy", "none"],
        Setting(
            "Warm start",
            "What the network is fed beside noise: pictures of Richardson-Lucy deconvolution after "
            "few steps, from which it starts sooner; or nothing, as in the Deep Image Prior paper.",
            choices={"richardson-lucy": "Richardson-Lucy", "none": "None (paper)"},
        ),
    ] = "richardson-lucy"
    smoothing: Annotated[
        Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
        Setting(
            "Smoothing",
            "Weight of a total-variation penalty beside the network, without unit. Noise that the "
            "blur hides is kept down by it; 0: none, 1 is strong.",
            least=0,
            most=100,
            step=0.05,
        ),
    ] = 0.1
    non_negative: Annotated[
        bool,
        Setting(
            "No negative light",
            "Whether the result is kept from falling below the background.",
        ),
    ] = True
    background: Annotated[
        Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] | None,
        Setting(
            "Background",
            "Value of a pixel without light, in intensity units of the image. Empty: 0, or the "
            "least value of an image with negative ones.",
            least=-1e9,
            most=1e9,
        ),
    ] = None
    noise: NoiseModel = "auto"
    read_noise: ReadNoise = None
    gain: Gain = None

    @property
    def known(self) -> KnownPsf:
        """Where the PSF comes from."""
        optics = Optics(
            self.model,
            self.na,
            self.wavelength,
            self.pixel_size,
            self.refractive_index,
            self.excitation,
            self.pinhole,
        )
        return KnownPsf(self.gaussian_sigma, optics)

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Want one PSF, whole and possible."""
        return self.known.check(source, others.get("psf"))

    def admit(
        self, source: ImageSpec, others: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Want a PSF of light, no larger than the image once its empty border is cut off."""
        from napari_dip.errors import Refusal

        if "psf" not in others:
            return None
        import torch

        cleaned = cleaned_picture(torch.from_numpy(others["psf"]))
        if isinstance(cleaned, Refusal):
            return cleaned
        return self.known.check_size(source, tuple(cleaned[0].shape))

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[str, ...]]:
        """Clean or compute the PSF once; what was done is told to the user."""
        import torch

        picture = torch.from_numpy(others["psf"]) if "psf" in others else None
        kernel, notes = self.known.kernel(headers["image"], picture)
        return {"psf": kernel.numpy()}, notes

    def network_grid(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[int, int]:
        """Speak of all that sends light into the frame."""
        if self.border == "circular":
            return source.grid
        sizes = self.known.sizes(source, others.get("psf"))
        height, width = padded(source.grid, tuple(size // 2 for size in sizes))
        return height, width

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Name the paper's prior."""
        return "fixed noise, as in the Deep Image Prior paper, is what this task uses"

    def noise_wish(self) -> NoiseWish:
        """Say what the settings hold."""
        return NoiseWish(self.noise, self.read_noise, self.gain)

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: a blur alone makes neighbours alike, whatever the noise.

        On five of six Set12 images, blurred and with white noise added, blocks up to 7 x 7 were
        measured, which would take a quarter of the pixels from the fit.
        """
        return 1, 1

    def problem(self, scene: Scene) -> Problem:
        """Explain the blurred image.

        Network units are (pixel - offset) / scale. A kernel of sum one leaves a constant as it
        is, so an even background needs no term of its own: it lies in the offset.
        """
        from napari_dip.engine.backprojection import backprojected_residual
        from napari_dip.engine.fidelity import gaussian_likelihood
        from napari_dip.engine.penalties import not_below
        from napari_dip.engine.problem import Problem, Term

        seen, kernel = scene.known * (1 - scene.guarded), scene.others["psf"]
        term = Term(
            scene.measurement,
            self._operator(scene),
            backprojected_residual(
                scene.noise, kernel, seen, self._floor(scene), circular=self.border == "circular"
            ),
            gaussian_likelihood(scene.noise),
            fitted=seen,
            held_out=scene.held_out,
            measured=scene.known,
        )
        penalties = smoothed(scene, self.smoothing)
        if self.non_negative:
            penalties += ((1.0, not_below(self._darkness(scene), scene.noise_level)),)
        return Problem((term,), penalties, within_frame(self._margin(scene)))

    def _floor(self, scene: Scene) -> float:
        """Power of the blur below which there is more noise than picture."""
        return max(LEAST_POWER, scene.noise_level**2 / max(float(scene.measurement.var()), 1e-12))

    def _darkness(self, scene: Scene) -> Tensor:
        """Where there is no light, in network units: (1, C, 1, ...)."""
        axes = tuple(range(2, scene.measurement.ndim))
        least = scene.measurement.amin(axes, keepdim=True)
        if scene.zero is None or scene.unit is None:
            return least
        if self.background is not None:
            return scene.zero + self.background * scene.unit
        return scene.zero.minimum(least)

    def _margin(self, scene: Scene) -> tuple[int, ...]:
        if self.border == "circular":
            return (0,) * len(scene.grid)
        return tuple(size // 2 for size in scene.others["psf"].shape)

    def _operator(self, scene: Scene) -> nn.Module:
        from napari_dip.engine.convolution import CircularConvolution, ValidConvolution

        kind = CircularConvolution if self.border == "circular" else ValidConvolution
        return kind(scene.others["psf"])

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Draw from fixed noise, as large as the object, with first guesses beside it."""
        from napari_dip.engine.first_guess import lucy_guesses
        from napari_dip.tasks.noise_code import noise_code

        grid = padded(scene.grid, self._margin(scene))
        if self.start == "none":
            return noise_code(scene, grid, rng)
        dark = self._darkness(scene)
        seen = scene.known * (1 - scene.guarded)
        operator = self._operator(scene)
        guesses = lucy_guesses(operator, scene.measurement - dark, seen, grid, LUCY_STEPS)
        guesses = guesses + dark.repeat(1, len(LUCY_STEPS), *(1,) * len(grid))
        return noise_code(scene, grid, rng, shown=guesses, jitter_of_shown=LUCY_JITTER)
