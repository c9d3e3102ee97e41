"""Blind deblur: undo a blur that nobody has measured, and say what it was."""

from __future__ import annotations

from dataclasses import replace
from math import pi
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import FitInput, NoiseRequest, Setting, Task
from napari_dip.tasks.deblur import Deblur
from napari_dip.tasks.optics.psf_settings import check_size, compute_object_size
from napari_dip.tasks.shared_settings import CameraGain, NoiseModel, ReadNoise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec

#: Steps between the widths that are tried first, as a factor, and the least of them in pixels.
WIDTH_STEP_FACTOR, MIN_PSF_WIDTH = 1.4, 0.4
#: Directions that are tried first: 15 degrees apart, a third of what tells two lines of ten
#: pixels apart.
DIRECTIONS = 12


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class BlindDeblur(Task):
    """Settings of a blind deblurring."""

    name: ClassVar[str] = "blind-deblur"
    title: ClassVar[str] = "Blind deblur"
    done: ClassVar[str] = "deblurred blindly"
    same_pixels: ClassVar[bool] = False
    gives: ClassVar[dict[str, str]] = {"psf": "The PSF that was found."}

    blur: Annotated[
        Literal["gaussian", "motion", "defocus", "free"],
        Setting(
            "Kind of blur",
            "What the blur is like: a Gaussian suits most microscopes, a line a camera or stage "
            "that moved, a disc a plane out of focus. Free: any shape, for the shake of a camera.",
            choices={
                "gaussian": "Gaussian",
                "motion": "Motion (line)",
                "defocus": "Defocus (disc)",
                "free": "Free",
            },
            advanced=False,
        ),
    ] = "gaussian"
    psf_size: Annotated[
        Annotated[int, Field(ge=3, le=201)],
        Setting(
            "PSF size",
            "Width of the PSF in pixels: rather too wide than too narrow. An even number counts "
            "as the next odd one.",
            least=3,
            most=201,
            step=2,
            advanced=False,
            written="PSF size: {:g} pixels",
        ),
    ] = 31
    noise: NoiseModel = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    @property
    def side(self) -> int:
        """Width of the PSF in pixels: odd, so that it has a middle."""
        return self.psf_size | 1

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Want a PSF that is no larger than the image."""
        return check_size(source, (self.side, self.side), "YX")

    def network_grid(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> tuple[int, ...]:
        """Speak of all that sends light into the frame."""
        return compute_object_size(source.grid, self._margin)

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say as deblurring with a known PSF does."""
        return self._deblurring.why(prior, block)

    def noise_wish(self) -> NoiseRequest:
        """Say what the settings hold."""
        return NoiseRequest(model=self.noise, read_noise=self.read_noise, gain=self.gain)

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: a blur alone makes neighbours alike, whatever the noise."""
        return 1, 1

    def describe_learned(self, learned: Mapping[str, npt.NDArray[np.float32]]) -> tuple[Note, ...]:
        """Say in words which blur was found."""
        figures = {name: float(values.flat[0]) for name, values in learned.items()}
        if "sigmas" in figures:
            return (make_note("blur-gaussian", sigma=figures["sigmas"]),)
        if "length" in figures:
            turned = figures["angle"] * 180 / pi
            return (make_note("blur-line", length=figures["length"], angle=turned),)
        if "radius" in figures:
            return (make_note("blur-disc", radius=figures["radius"]),)
        return ()

    def prepare_fit_input(self, scene: FitInput) -> FitInput:
        """Find the blur that the measurement alone makes likely; the rest is deblurring with it."""
        kernel, blur = self._any_shape(scene) if self.blur == "free" else self._likely(scene)
        facts = self._deblurring.prepare_fit_input(
            replace(scene, others={**scene.others, "psf": kernel})
        )
        return replace(facts, worked_out={**facts.worked_out, "blur": blur})

    def problem(self, scene: FitInput) -> Problem:
        """Explain the picture as a sharper one under that blur."""
        from torch import nn

        from napari_dip.engine.operators.convolution import LearnedConvolution

        blur = scene.worked_out["blur"]
        assert isinstance(blur, nn.Module)
        operator = LearnedConvolution(blur).to(scene.measurement.device)
        problem = self._deblurring.problem(scene)
        return replace(
            problem, terms=tuple(replace(term, operator=operator) for term in problem.terms)
        )

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Draw as deblurring with a known PSF does."""
        return self._deblurring.prior_for(scene, rng)

    @property
    def _deblurring(self) -> Deblur:
        return Deblur(noise=self.noise, read_noise=self.read_noise, gain=self.gain)

    @property
    def _margin(self) -> tuple[int, int]:
        return self.side // 2, self.side // 2

    def _any_shape(self, scene: FitInput) -> tuple[Tensor, nn.Module]:
        """Guess a kernel of any shape, and make a network that goes on learning from it."""
        import torch

        from napari_dip.engine.deconvolution.blur_estimation import estimate_kernel_from_edges
        from napari_dip.engine.deconvolution.kernels import (
            KernelNetwork,
            SoftmaxKernel,
            compute_kernel_logits,
        )

        kernel, weights = (
            estimate_kernel_from_edges(scene.measurement, self.side),
            torch.Generator(),
        )
        start = compute_kernel_logits(kernel.cpu())
        network = KernelNetwork(tuple(kernel.shape), weights.manual_seed(0), start)
        return kernel, SoftmaxKernel(network)

    def _likely(self, scene: FitInput) -> tuple[Tensor, nn.Module]:
        """Give the blur of the chosen kind that fits the spectrum best, which stays as it is."""
        from napari_dip.engine.deconvolution.blur_estimation import find_most_likely_blur

        variance = scene.noise.at(scene.measurement).mean((0, 2, 3))
        blur = find_most_likely_blur(scene.measurement, variance, self._candidates())
        # fitted along with the picture, the width drifts: a blurred picture is easier to draw
        return blur().detach(), blur.requires_grad_(False)

    def _candidates(self) -> list[Callable[[], nn.Module]]:
        """Blurs of the chosen kind, from narrow to as wide as the PSF may be."""
        from functools import partial

        from napari_dip.engine.deconvolution.kernels import (
            DefocusKernel,
            GaussianKernel,
            MotionKernel,
        )

        sizes = (self.side, self.side)
        widths, width = [], MIN_PSF_WIDTH
        while width < self.side / 2:
            widths.append(width)
            width *= WIDTH_STEP_FACTOR
        if self.blur == "gaussian":  # wider ones would be cut off at three deviations
            return [
                partial(GaussianKernel, sizes, width) for width in widths if width <= self.side / 6
            ]
        if self.blur == "defocus":  # a disc below half a pixel is a point, which nothing moves
            return [partial(DefocusKernel, sizes, width) for width in widths if width > 0.7]
        return [
            partial(MotionKernel, sizes, 2 * width, pi * turn / DIRECTIONS)
            for width in widths
            if width > 0.7
            for turn in range(DIRECTIONS)
        ]
