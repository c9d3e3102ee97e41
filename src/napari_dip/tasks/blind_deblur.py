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
from napari_dip.tasks.shared_settings import CameraGain, DetectorNoiseSetting, ReadNoise

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

#: Ratio of successive candidate widths, and the smallest width in pixels.
WIDTH_STEP_FACTOR, MIN_PSF_WIDTH = 1.4, 0.4
#: Number of candidate directions: 15 degrees apart, a third of the angle that separates two lines
#: of ten pixels.
DIRECTIONS = 12


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class BlindDeblur(Task):
    """Settings of blind deblurring: kind of blur and size of the PSF."""

    name: ClassVar[str] = "blind-deblur"
    title: ClassVar[str] = "Blind deblur"
    result_suffix: ClassVar[str] = "deblurred blindly"
    has_same_pixels: ClassVar[bool] = False
    extra_outputs: ClassVar[dict[str, str]] = {"psf": "The PSF that was found."}

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
            minimum=3,
            maximum=201,
            step=2,
            advanced=False,
            report_template="PSF size: {:g} pixels",
        ),
    ] = 31
    noise: DetectorNoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    @property
    def psf_side(self) -> int:
        """Return the width of the PSF in pixels, made odd so that it has a centre."""
        return self.psf_size | 1

    def check(self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]) -> Refusal | None:
        """Refuse a PSF larger than the image."""
        return check_size(source, (self.psf_side, self.psf_side), "YX")

    def compute_network_grid(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> tuple[int, ...]:
        """Return the size of the object: the frame and the PSF's margin."""
        return compute_object_size(source.grid, self._margin)

    def explain_prior(self, prior: str, block: tuple[int, ...]) -> str:
        """Return the same reason as deblurring with a known PSF."""
        return self._deblurring.explain_prior(prior, block)

    def make_noise_request(self) -> NoiseRequest:
        """Return the noise settings."""
        return NoiseRequest(model=self.noise, read_noise=self.read_noise, gain=self.gain)

    def choose_blind_spot_size(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Return single pixels: blur alone correlates neighbouring pixels, whatever the noise."""
        return 1, 1

    def describe_learned(self, learned: Mapping[str, npt.NDArray[np.float32]]) -> tuple[Note, ...]:
        """Return a note on the blur that was estimated."""
        parameters = {name: float(values.flat[0]) for name, values in learned.items()}
        if "sigmas" in parameters:
            return (make_note("blur-gaussian", sigma=parameters["sigmas"]),)
        if "length" in parameters:
            degrees = parameters["angle"] * 180 / pi
            return (make_note("blur-line", length=parameters["length"], angle=degrees),)
        if "radius" in parameters:
            return (make_note("blur-disc", radius=parameters["radius"]),)
        return ()

    def prepare_fit_input(self, fit_input: FitInput) -> FitInput:
        """Estimate the blur from the measurement, then prepare as for a known PSF."""
        kernel, blur = (
            self._estimate_free_kernel(fit_input)
            if self.blur == "free"
            else self._find_likeliest_kernel(fit_input)
        )
        prepared = self._deblurring.prepare_fit_input(
            replace(fit_input, extra_inputs={**fit_input.extra_inputs, "psf": kernel})
        )
        return replace(prepared, precomputed={**prepared.precomputed, "blur": blur})

    def make_problem(self, fit_input: FitInput) -> Problem:
        """Build the problem of deblurring, with an operator that holds the estimated blur."""
        from torch import nn

        from napari_dip.engine.operators.convolution import LearnedConvolution

        blur = fit_input.precomputed["blur"]
        assert isinstance(blur, nn.Module)
        operator = LearnedConvolution(blur).to(fit_input.measurement.device)
        problem = self._deblurring.make_problem(fit_input)
        return replace(
            problem, terms=tuple(replace(term, operator=operator) for term in problem.terms)
        )

    def make_prior(self, fit_input: FitInput, rng: torch.Generator) -> Prior:
        """Build the same prior as deblurring with a known PSF."""
        return self._deblurring.make_prior(fit_input, rng)

    @property
    def _deblurring(self) -> Deblur:
        return Deblur(noise=self.noise, read_noise=self.read_noise, gain=self.gain)

    @property
    def _margin(self) -> tuple[int, int]:
        return self.psf_side // 2, self.psf_side // 2

    def _estimate_free_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Estimate a kernel of any shape, and build a network that refines it during the fit."""
        import torch

        from napari_dip.engine.deconvolution.blur_estimation import estimate_kernel_from_edges
        from napari_dip.engine.deconvolution.kernels import (
            KernelNetwork,
            SoftmaxKernel,
            compute_kernel_logits,
        )

        kernel, rng = (
            estimate_kernel_from_edges(fit_input.measurement, self.psf_side),
            torch.Generator(),
        )
        initial_logits = compute_kernel_logits(kernel.cpu())
        network = KernelNetwork(tuple(kernel.shape), rng.manual_seed(0), initial_logits)
        return kernel, SoftmaxKernel(network)

    def _find_likeliest_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Return the kernel of the chosen kind that best explains the spectrum; it stays fixed."""
        from napari_dip.engine.deconvolution.blur_estimation import find_most_likely_blur

        variance = fit_input.noise.evaluate(fit_input.measurement).mean((0, 2, 3))
        blur = find_most_likely_blur(
            fit_input.measurement, variance, self._list_candidate_kernels()
        )
        # fitted together with the image, the width drifts, since a blurred image is easier to fit
        return blur().detach(), blur.requires_grad_(False)

    def _list_candidate_kernels(self) -> list[Callable[[], nn.Module]]:
        """List kernels of the chosen kind, from narrow to as wide as the PSF may be."""
        from functools import partial

        from napari_dip.engine.deconvolution.kernels import (
            DefocusKernel,
            GaussianKernel,
            MotionKernel,
        )

        sizes = (self.psf_side, self.psf_side)
        widths, width = [], MIN_PSF_WIDTH
        while width < self.psf_side / 2:
            widths.append(width)
            width *= WIDTH_STEP_FACTOR
        if self.blur == "gaussian":  # wider ones would be truncated below three standard deviations
            return [
                partial(GaussianKernel, sizes, width)
                for width in widths
                if width <= self.psf_side / 6
            ]
        if self.blur == "defocus":  # a disc below half a pixel is a point, without gradient
            return [partial(DefocusKernel, sizes, width) for width in widths if width > 0.7]
        return [
            partial(MotionKernel, sizes, 2 * width, pi * turn / DIRECTIONS)
            for width in widths
            if width > 0.7
            for turn in range(DIRECTIONS)
        ]
