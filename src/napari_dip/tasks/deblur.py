"""Deblur: undo a blur whose PSF is known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.tasks.base import IMAGE, FitInput, Input, NoiseRequest, Setting, Task
from napari_dip.tasks.optics.initial_estimate import (
    FirstGuess,
    build_first_guess_prior,
    compute_first_guess,
    make_first_guess_penalty,
    make_validated_mixture,
)
from napari_dip.tasks.optics.microscope import Optics
from napari_dip.tasks.optics.psf_settings import (
    OIL,
    PSF,
    Aperture,
    Excitation,
    GaussianDepth,
    GaussianWidth,
    Microscope,
    Pinhole,
    PixelSize,
    PsfSource,
    RefractiveIndex,
    Wavelength,
    ZStep,
    check_size,
    clean_psf_image,
    compute_object_margin,
    compute_object_size,
    get_fit_axes,
    make_crop_to_frame,
)
from napari_dip.tasks.shared_settings import (
    CameraGain,
    NoiseModel,
    ReadNoise,
    SmoothingKind,
    make_total_variation_penalty,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Fidelity, Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec

#: Power of the blur below which nothing is made stronger, at least; 0.03 learns more slowly. Where
#: the noise has a larger share of the image's variance, that share, as in a Wiener filter.
MIN_BLUR_POWER = 0.01


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Deblur(Task):
    """Settings of a deblurring: where the PSF comes from, and how the image ends."""

    name: ClassVar[str] = "deblur"
    title: ClassVar[str] = "Deblur"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, PSF)
    done: ClassVar[str] = "deblurred"
    same_pixels: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    gaussian_sigma: GaussianWidth = None
    gaussian_sigma_z: GaussianDepth = None
    model: Microscope = "none"
    na: Aperture = None
    wavelength: Wavelength = None
    pixel_size: PixelSize = None
    z_step: ZStep = None
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
    initial_estimate: Annotated[
        Literal["richardson-lucy", "none"],
        Setting(
            "Initial estimate",
            "Input of the network beside random numbers: pictures of Richardson-Lucy "
            "deconvolution after few steps, from which it starts sooner; or nothing, as in the "
            "Deep Image Prior paper.",
            choices={"richardson-lucy": "Richardson-Lucy", "none": "None (paper)"},
        ),
    ] = "richardson-lucy"
    smoothing: Annotated[
        Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
        Setting(
            "Smoothing",
            "Weight of a total-variation penalty added to the fit, without unit. Noise that the "
            "blur hides is kept down by it; 0: none, 1 is strong.",
            least=0,
            most=100,
            step=0.05,
        ),
    ] = 0.1
    smoothing_kind: SmoothingKind = "isotropic"
    non_negative: Annotated[
        bool,
        Setting(
            "Non-negativity",
            "Keeps the result from falling below the background.",
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
    gain: CameraGain = None

    @property
    def psf_source(self) -> PsfSource:
        """Where the PSF comes from."""
        optics = Optics(
            model=self.model,
            na=self.na,
            wavelength=self.wavelength,
            pixel_size=self.pixel_size,
            z_step=self.z_step,
            refractive_index=self.refractive_index,
            excitation=self.excitation,
            pinhole=self.pinhole,
        )
        return PsfSource(sigma=self.gaussian_sigma, sigma_z=self.gaussian_sigma_z, optics=optics)

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Want one PSF, whole and possible."""
        return self.psf_source.check(source, others.get("psf"))

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["planes", "volume"]:
        """Blur along Z asks for a volume; a PSF of one plane acts in each plane by itself."""
        deep = get_fit_axes(source, 3) == "ZYX" and self.psf_source.stacked(
            source, others.get("psf")
        )
        return "volume" if deep else "planes"

    def check_axes(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Want a PSF that fits one plane, or one volume, and is no larger."""
        return self.psf_source.check_axes(source, others.get("psf"), axes)

    def admit(
        self, source: ImageSpec, others: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Want a PSF of light, no larger than the image once its empty border is cut off."""
        from napari_dip.errors import Refusal

        if "psf" not in others:
            return None
        import torch

        cleaned = clean_psf_image(torch.from_numpy(others["psf"]))
        if isinstance(cleaned, Refusal):
            return cleaned
        return check_size(source, tuple(cleaned[0].shape), "ZYX"[-cleaned[0].ndim :])

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Clean or compute the PSF once; what was done is told to the user."""
        import torch

        picture = torch.from_numpy(others["psf"]) if "psf" in others else None
        axes = get_fit_axes(headers["image"], image.ndim - 1)
        kernel, notes = self.psf_source.kernel(headers["image"], picture, axes)
        return {"psf": kernel.numpy()}, notes

    def network_grid(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> tuple[int, ...]:
        """Speak of all that sends light into the frame."""
        frame = source.along(axes)
        sizes = self.psf_source.sizes(source, others.get("psf"), axes)
        return (
            frame
            if self.border == "circular"
            else compute_object_size(frame, compute_object_margin(frame, sizes))
        )

    def reach(self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str) -> int | None:
        """As far as light comes from, and then as far as a network sees."""
        return None if self.border == "circular" else self.psf_source.reach(source, others, axes)

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Name the paper's prior."""
        return "random input, as in the Deep Image Prior paper, is what this task uses"

    def noise_wish(self) -> NoiseRequest:
        """Say what the settings hold."""
        return NoiseRequest(model=self.noise, read_noise=self.read_noise, gain=self.gain)

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: a blur alone makes neighbours alike, whatever the noise.

        On five of six Set12 images, blurred and with white noise added, blocks up to 7 x 7 were
        measured, which would take a quarter of the pixels from the fit.
        """
        return 1, 1

    def prepare_fit_input(self, scene: FitInput) -> FitInput:
        """Deconvolve once, for prior and problem."""
        if self.initial_estimate == "none":
            return scene
        grid, dark = compute_object_size(scene.grid, self._margin(scene)), self._darkness(scene)
        guess = compute_first_guess(scene, self._operator(scene), grid, dark)
        return replace(scene, worked_out={"guess": guess})

    def problem(self, scene: FitInput) -> Problem:
        """Explain the blurred image.

        Network units are (pixel - offset) / scale. A kernel of sum one leaves a constant as it
        is, so an even background needs no term of its own: it lies in the offset.
        """
        from napari_dip.engine.likelihood.fidelity import (
            gaussian_likelihood,
            make_backprojection_fidelity,
        )
        from napari_dip.engine.likelihood.penalties import lower_bound_penalty
        from napari_dip.engine.problem import Problem, Term

        visible = scene.measured_mask * (1 - scene.guarded)
        smooth = None if self.initial_estimate == "none" else _get_first_guess(scene).smooth

        def residual(valid: Tensor) -> Fidelity:
            kernel, wraps = scene.others["psf"], self.border == "circular"
            floor = self._floor(scene)
            return make_backprojection_fidelity(scene.noise, kernel, valid, floor, circular=wraps)

        term = Term(
            measurement=scene.measurement,
            operator=self._operator(scene),
            fidelity=residual(visible),
            likelihood=gaussian_likelihood(scene.noise),
            fitted=visible,
            held_out=scene.held_out,
            # where the last step adds what the judges tell, they must not drive as well
            measured=scene.measured_mask if smooth is None else visible,
            released=residual(scene.measured_mask if smooth is None else visible),
        )
        penalties = make_total_variation_penalty(scene, self.smoothing, self.smoothing_kind)
        if self.non_negative:
            penalties += ((1.0, lower_bound_penalty(self._darkness(scene), scene.noise_level)),)
        if self.initial_estimate != "none":
            penalties += make_first_guess_penalty(_get_first_guess(scene))
        finish = make_crop_to_frame(self._margin(scene))
        if smooth is None:
            return Problem(terms=(term,), penalties=penalties, finish=finish)
        dark = self._darkness(scene) if self.non_negative else None
        mixed = make_validated_mixture(smooth, scene, term.operator, dark)
        return Problem(
            terms=(term,),
            penalties=penalties,
            finish=lambda estimate: finish(mixed(estimate)),
            on_grid=mixed,
        )

    def _floor(self, scene: FitInput) -> float:
        """Power of the blur below which there is more noise than picture."""
        return max(
            MIN_BLUR_POWER, scene.noise_level**2 / max(float(scene.measurement.var()), 1e-12)
        )

    def _darkness(self, scene: FitInput) -> Tensor:
        """Where there is no light, in network units: (1, C, 1, ...)."""
        axes = tuple(range(2, scene.measurement.ndim))
        least = scene.measurement.amin(axes, keepdim=True)
        if scene.zero is None or scene.unit is None:
            return least
        if self.background is not None:
            return scene.zero + self.background * scene.unit
        return scene.zero.minimum(least)

    def _margin(self, scene: FitInput) -> tuple[int, ...]:
        if self.border == "circular":
            return (0,) * len(scene.grid)
        return compute_object_margin(scene.grid, tuple(scene.others["psf"].shape))

    def _operator(self, scene: FitInput) -> nn.Module:
        from napari_dip.engine.operators.convolution import CircularConvolution, ValidConvolution

        if self.border == "circular":
            return CircularConvolution(scene.others["psf"])
        return ValidConvolution(scene.others["psf"], margin=self._margin(scene))

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Draw from fixed noise, as large as the object, with first guesses beside it."""
        from napari_dip.tasks.priors.deep_image_prior import build_random_input_prior

        grid = compute_object_size(scene.grid, self._margin(scene))
        if self.initial_estimate == "none":
            return build_random_input_prior(scene, grid, rng)
        return build_first_guess_prior(_get_first_guess(scene), scene, grid, rng)


def _get_first_guess(scene: FitInput) -> FirstGuess:
    guess = scene.worked_out["guess"]
    assert isinstance(guess, FirstGuess)
    return guess
