"""Super-resolve: make a finer picture that explains the coarse one.

What a user can say of an enlargement: how much finer, what made the pixels coarse, and how.

How many times finer, along each axis, as recipes keep it and people write it.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from napari_dip.errors import Refusal, refusal
from napari_dip.tasks.base import FitInput, NoiseRequest, Setting, Task
from napari_dip.tasks.optics.psf_settings import (
    GAUSSIAN_RADIUS_SIGMAS,
    compute_object_size,
    get_fit_axes,
    make_crop_to_frame,
)
from napari_dip.tasks.priors.zssr import (
    MIN_ZSSR_SIDE,
    ZSSR_PRIOR,
    build_zssr_prior,
    build_zssr_problem,
    set_validation_patches,
    split_into_stages,
)
from napari_dip.tasks.shared_settings import CameraGain, NoiseModel, ReadNoise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor, nn

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.io import ImageSpec

#: Factors of one axis; the paper shows 4 and 8.
ALLOWED_FACTORS = (1, 2, 3, 4, 8)


def normalise_factor(value: object) -> str:
    """Bring a factor, or one for each axis, to the text that recipes keep, such as "2" or "1,4".

    Parameters
    ----------
    value : int, str or sequence of int

    Raises
    ------
    PydanticCustomError
        If a factor is not allowed, or all are 1.
    """
    parts: list[Any]
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = [value]
    texts = [str(part) for part in parts]
    numbers = [int(text) for text in texts if text in map(str, ALLOWED_FACTORS)]
    if len(numbers) != len(texts) or len(numbers) not in (1, 2, 3) or max(numbers) == 1:
        raise PydanticCustomError(
            "factor",
            "Input should be 2, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as Y,X or Z,Y,X",
        )
    even = len(numbers) < 3 and len(set(numbers)) == 1
    return str(numbers[0]) if even else ",".join(map(str, numbers))


Factor = Annotated[
    str,
    BeforeValidator(normalise_factor),
    Setting(
        "Upscaling factor",
        "How many pixels the result has for each pixel of the image: 2, 3, 4 or 8, or one "
        "number for each axis as Y,X, such as 1,4. For stacks also as Z,Y,X: 4,1,1 makes four "
        "planes of each; one or two numbers leave the planes apart as they are.",
        advanced=False,
    ),
]
CoarsePixels = Annotated[
    Literal["lanczos", "binning"],
    Setting(
        "Downsampling",
        "How the image came to its pixels. Lanczos: it was scaled down with a smooth filter, "
        "as in the Deep Image Prior paper. Binning: each pixel is the mean of the fine ones "
        "that it covers, as on a camera.",
        choices={"lanczos": "Lanczos filter", "binning": "Binning (camera)"},
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
SuperResolutionPrior = Annotated[
    Literal["auto", "zssr", "random-input"],
    Setting(
        "Prior",
        "Zero-shot super-resolution: the untrained network learns from the image scaled down "
        "further, where the finer pixels are known. Random input: fixed random numbers are turned "
        "into the image, as in the Deep Image Prior paper. Automatic takes the first, and the "
        "second for volumes and where there is a PSF.",
        choices={
            "auto": "Automatic",
            "zssr": "Zero-shot super-resolution (ZSSR)",
            "random-input": "Deep Image Prior (random input)",
        },
    ),
]
WarmStart = Annotated[
    Literal["interpolated", "none"],
    Setting(
        "Initial estimate",
        "Input of the network beside random numbers: the interpolated image, from which it "
        "starts much sooner; or nothing, as in the Deep Image Prior paper.",
        choices={"interpolated": "Interpolated image", "none": "None (paper)"},
    ),
]
#: Standard deviation of the code's jitter up to that factor, and beyond: the paper's 0.03 for 4
#: and 0.05 for 8.
SMALL_FACTOR_JITTER, LARGE_FACTOR_JITTER, MAX_SMALL_FACTOR = 0.03, 0.05, 4
#: Jitter of the interpolated image, which has a range of about one.
INTERPOLATED_INPUT_JITTER = 0.1
#: A volume's fit begins with the interpolated one, since its few steps would not get there from a
#: random one (embryo, 32 x 64 x 64, planes made twice as many: cubics 41.1 dB, 29.1 dB after 100
#: steps from random ones), and with what that leaves unexplained added. What the network adds is
#: taken to be that many times as large.
CORRECTION = 4.0
#: Largest factor of a plane that such a beginning is better for (192 x 192 of mitochondria, halved:
#: off by 51 grey values, 72 without it after 250 steps, 60 after 1250, cubics by 52).
MAX_INTERPOLATED_START_FACTOR = 2
#: Least reach of what the network adds, in network units: a picture without any detail.
MIN_CORRECTION_RANGE = 1e-4


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class SuperResolve(Task):
    """Settings of a super-resolution: how much finer, and what made the pixels coarse."""

    name: ClassVar[str] = "super-resolve"
    title: ClassVar[str] = "Super-resolve"
    done: ClassVar[str] = "super-resolved"
    same_pixels: ClassVar[bool] = False
    stacks: ClassVar[bool] = True

    factor: Factor = "2"
    model: CoarsePixels = "lanczos"
    psf_sigma: PsfWidth = 0.0
    psf_sigma_z: PsfDepth = 0.0
    prior: SuperResolutionPrior = "auto"
    initial_estimate: WarmStart = "interpolated"
    noise: NoiseModel = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    def factors(self, axes: str) -> tuple[int, ...]:
        """As the user wants it; one number is for Y and X."""
        numbers = [int(part) for part in self.factor.split(",")]
        deep = numbers[0] if len(numbers) > 2 else 1
        chosen = {"Z": deep, "Y": numbers[-2:][0], "X": numbers[-1]}
        return tuple(chosen.get(axis, 1) for axis in axes)

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["planes", "volume"]:
        """Finer planes, or blur along Z, ask for a volume; all else costs less plane by plane."""
        return "volume" if self._deep and get_fit_axes(source, 3) == "ZYX" else "planes"

    @property
    def _deep(self) -> bool:
        return self.factor.count(",") > 1 or self.psf_sigma_z > 0

    def check_axes(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Want depth where there is a factor for it."""
        if not self._deep or axes == "ZYX":
            return None
        if self.factor.count(",") > 1:
            return refusal("factor-depth", factor=self.factor, name=source.name)
        return refusal("gaussian-depth", name=source.name)

    def network_grid(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> tuple[int, ...]:
        """Speak of the fine grid, and of what the PSF brings in."""
        frame, factors = source.along(axes), self.factors(axes)
        return compute_object_size(_multiply_sizes(frame, factors), self._margin(axes))

    def _sigmas(self, axes: str) -> tuple[float, ...]:
        """Give the standard deviation of the PSF along each of these axes, in fine pixels."""
        values = {"Z": self.psf_sigma_z, "Y": self.psf_sigma, "X": self.psf_sigma}
        return tuple(values.get(axis, 0.0) for axis in axes)

    def _margin(self, axes: str) -> tuple[int, ...]:
        """Fine pixels beyond the frame from which the PSF brings light, on either side."""
        return tuple(ceil(GAUSSIAN_RADIUS_SIGMAS * sigma) for sigma in self._sigmas(axes))

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Say no to a prior that has nothing to learn from."""
        if self.prior == "zssr" and not self._has_scales(source):
            return refusal("scales-none", name=source.name)
        return None

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Coarser scales, where the picture has some that were made as its own pixels were."""
        if self.prior == "random-input" or (self.prior == "auto" and volume):
            return "random-input"
        return ZSSR_PRIOR if self._has_scales(source) else "random-input"

    def _has_scales(self, source: ImageSpec) -> bool:
        equal = split_into_stages(self.factors(source.axes))
        sharp = not (self.psf_sigma or self.psf_sigma_z)
        return sharp and equal is not None and min(source.grid) >= MIN_ZSSR_SIDE

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say what it learns from, or name the paper's choice."""
        if prior == ZSSR_PRIOR:
            return "it learns on the picture, made coarser still, what finer pixels look like"
        return "it is the one that the Deep Image Prior paper enlarges with"

    def noise_wish(self) -> NoiseRequest:
        """Say what the settings hold; what coarse pixels share is picture, nearly always."""
        return NoiseRequest(
            model=self.noise, read_noise=self.read_noise, gain=self.gain, white=True
        )

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: each stands for many fine ones, and a clean image looks correlated.

        A guard band of 7 x 7 coarse pixels would take a quarter of a small image from the fit.
        """
        return 1, 1

    def prepare_fit_input(self, scene: FitInput) -> FitInput:
        """Interpolate once, and explain the pixels seen, for prior and problem."""
        if scene.prior == ZSSR_PRIOR:
            stage = _get_stage_factors(self.factors(_get_spatial_axes(scene)))
            return set_validation_patches(scene, self._decimation(stage), stage)
        if self.initial_estimate == "none":
            return scene
        interpolated, begun = self._explaining(scene, scene.measured_mask * (1 - scene.guarded))
        return replace(scene, others={**scene.others, "shown": interpolated, "begun": begun})

    def problem(self, scene: FitInput) -> Problem:
        """Explain the coarse pixels; those held out judge."""
        from napari_dip.engine.likelihood.fidelity import gaussian_likelihood, weighted_residual
        from napari_dip.engine.problem import Problem, Term

        if scene.prior == ZSSR_PRIOR:
            return build_zssr_problem(scene, *self._ways(scene))
        term = Term(
            measurement=scene.measurement,
            operator=self._operator(_get_spatial_axes(scene)).to(scene.measurement.device),
            fidelity=weighted_residual(scene.noise),
            likelihood=gaussian_likelihood(scene.noise),
            fitted=scene.measured_mask * (1 - scene.guarded),
            held_out=scene.held_out,
            # where the last step adds what the judges tell, they must not drive as well
            measured=scene.measured_mask * (1 - scene.guarded)
            if self._begins(scene)
            else scene.measured_mask,
        )
        return Problem(terms=(term,), finish=self._finish(scene))

    def _begins(self, scene: FitInput) -> bool:
        """Whether the fit begins with a picture that explains the pixels seen (see BEGUN)."""
        small = (
            len(scene.grid) > 2
            or max(self.factors(_get_spatial_axes(scene))) <= MAX_INTERPOLATED_START_FACTOR
        )
        return small and self.initial_estimate != "none"

    def _operator(self, axes: str) -> nn.Module:
        """First the optics, then the pixels."""
        from napari_dip.engine.deconvolution.psf import gaussian_psf
        from napari_dip.engine.operators.convolution import ValidConvolution
        from napari_dip.engine.problem import Chain

        coarser = self._decimation(self.factors(axes))
        sigmas = self._sigmas(axes)
        return Chain(ValidConvolution(gaussian_psf(sigmas)), coarser) if any(sigmas) else coarser

    def _decimation(self, factors: tuple[int, ...]) -> nn.Module:
        from napari_dip.engine.operators.detector import BinnedDownsample, LanczosDownsample

        return LanczosDownsample(factors) if self.model == "lanczos" else BinnedDownsample(factors)

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Draw from fixed noise on the fine grid, with the interpolated image beside it."""
        from torch import cat

        from napari_dip.tasks.priors.deep_image_prior import (
            NOISE_IN_VOLUMES,
            RANDOM_INPUT_CHANNELS,
            build_random_input_prior,
        )

        axes = _get_spatial_axes(scene)
        factors = self.factors(axes)
        if scene.prior == ZSSR_PRIOR:
            return build_zssr_prior(
                scene, self._decimation(_get_stage_factors(factors)), factors, rng
            )
        jitter = SMALL_FACTOR_JITTER if max(factors) <= MAX_SMALL_FACTOR else LARGE_FACTOR_JITTER
        grid = compute_object_size(_multiply_sizes(scene.grid, factors), self._margin(axes))
        channels = NOISE_IN_VOLUMES if len(grid) > 2 else RANDOM_INPUT_CHANNELS
        noise: dict[str, Any] = {"jitter": jitter, "channels_of_noise": channels}
        if self.initial_estimate == "none":
            return build_random_input_prior(scene, grid, rng, **noise)
        interpolated, begun = scene.others["shown"], scene.others["begun"]
        noise |= {"extra_input_jitter": INTERPOLATED_INPUT_JITTER}
        if not self._begins(scene):
            return build_random_input_prior(
                scene, grid, rng, extra_input=cat([interpolated, begun], 1), **noise
            )
        noise["extra_input"] = interpolated
        reach = CORRECTION * float((begun - interpolated).square().mean().sqrt())
        return build_random_input_prior(
            scene, grid, rng, start=begun, reach=max(reach, MIN_CORRECTION_RANGE), **noise
        )

    def _interpolated(self, scene: FitInput, visible: Tensor) -> Tensor:
        """Cubic interpolation (1, C, *grid) of the visible pixels."""
        from napari_dip.engine.prior import fill_with_local_mean

        return self._finer(
            scene, fill_with_local_mean(scene.measurement * visible, visible, scene.block)
        )

    def _ways(self, scene: FitInput) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        """Give what makes pixels coarse, and what interpolates finer ones."""
        operator = self._operator(_get_spatial_axes(scene)).to(scene.measurement.device)
        return operator, lambda coarse: self._finer(scene, coarse)

    def _finer(self, scene: FitInput, coarse: Tensor) -> Tensor:
        from torch.nn import functional

        from napari_dip.engine.operators.detector import interpolate_cubic

        axes = _get_spatial_axes(scene)
        sides = [side for far in reversed(self._margin(axes)) for side in (far, far)]
        return functional.pad(
            interpolate_cubic(coarse, self.factors(axes)), sides, mode="replicate"
        )

    def _explaining(self, scene: FitInput, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate, and add to that, a few times over, what it leaves unexplained; give both."""
        from napari_dip.engine.operators.detector import apply_iterative_backprojection

        interpolation = self._interpolated(scene, visible)
        picture = apply_iterative_backprojection(
            interpolation,
            scene.measurement,
            self._operator(_get_spatial_axes(scene)).to(scene.measurement.device),
            lambda residual: self._finer(scene, residual * visible),
        )
        return interpolation, picture

    def _finish(self, scene: FitInput) -> Callable[[Estimate], Estimate]:
        """Cut to the frame; where the fit begins with a picture, add what the judges tell."""
        cut = make_crop_to_frame(self._margin(_get_spatial_axes(scene)))
        if not self._begins(scene):
            return cut
        judges = self._explaining(scene, scene.measured_mask)[1] - scene.others["begun"]
        return lambda estimate: cut(estimate._replace(mean=estimate.mean + judges))


def _multiply_sizes(frame: tuple[int, ...], factors: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n * f for n, f in zip(frame, factors, strict=True))


def _get_stage_factors(factors: tuple[int, ...]) -> tuple[int, ...]:
    stages = split_into_stages(factors)
    assert stages is not None  # or another prior were chosen
    return stages[0]


def _get_spatial_axes(scene: FitInput) -> str:
    """Axes of a fit; those of a movie's volume count alike, as nothing here speaks of time."""
    return "ZYX"[-len(scene.grid) :]
