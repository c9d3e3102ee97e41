"""Blind deblur: undo a blur that nobody has measured, and say what it was."""

from __future__ import annotations

from dataclasses import replace
from math import pi
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import (
    FitInput,
    FitSetup,
    Setting,
    Task,
    TaskPlan,
    TaskSpec,
)
from napari_dip.tasks.deblur import DEBLUR_REASON, Deblur
from napari_dip.tasks.priors.registry import RANDOM_INPUT
from napari_dip.tasks.psf_settings import check_size, compute_object_size
from napari_dip.tasks.shared_settings import (
    CameraGain,
    DetectorNoiseSetting,
    ReadNoise,
    make_noise_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec

#: Ratio of successive candidate widths, and the smallest width in pixels.
WIDTH_STEP_FACTOR, MIN_PSF_WIDTH = 1.4, 0.4
#: Number of candidate directions: 15 degrees apart, a third of the angle that separates two lines
#: of ten pixels.
DIRECTIONS = 12


def describe_blur(learned: Mapping[str, npt.NDArray[np.float32]]) -> tuple[Note, ...]:
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


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class BlindDeblur(Task):
    """Settings of blind deblurring: kind of blur and size of the PSF."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="blind-deblur",
        title="Blind deblur",
        result_suffix="deblurred blindly",
        has_same_pixels=False,
        extra_outputs={"psf": "The PSF that was found."},
        describe_learned=describe_blur,
    )

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
            step=2,
            advanced=False,
            report_template="PSF size: {:g} pixels",
        ),
    ] = 31
    noise: DetectorNoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    @property
    def _psf_side(self) -> int:
        """Return the width of the PSF in pixels, made odd so that it has a centre."""
        return self.psf_size | 1

    def plan(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> TaskPlan | Refusal:
        """Refuse a PSF larger than the image; the object extends beyond it by the PSF's margin."""
        side = self._psf_side
        return check_size(source, (side, side), "YX") or TaskPlan(
            network_grid=compute_object_size(source.grid, (side // 2, side // 2)),
            prior_reasons={RANDOM_INPUT.key: DEBLUR_REASON},
            noise_settings=make_noise_settings(self),
            # blur alone correlates neighbouring pixels, whatever the noise
            has_single_pixel_blind_spot=True,
        )

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> FitSetup:
        """Estimate the blur, then set up as for a known PSF, with an operator that holds it."""
        from napari_dip.engine.operators.convolution import LearnedConvolution

        kernel, blur = (
            self._estimate_free_kernel(fit_input)
            if self.blur == "free"
            else self._find_likeliest_kernel(fit_input)
        )
        extra_inputs = {**fit_input.extra_inputs, "psf": kernel}
        setup = self._deblurring.setup(replace(fit_input, extra_inputs=extra_inputs), rng)
        operator = LearnedConvolution(blur).to(fit_input.measurement.device)
        terms = tuple(replace(term, operator=operator) for term in setup.problem.terms)
        return replace(setup, problem=replace(setup.problem, terms=terms))

    @property
    def _deblurring(self) -> Deblur:
        return Deblur(noise=self.noise, read_noise=self.read_noise, gain=self.gain)

    def _estimate_free_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Estimate a kernel of any shape, and build a network that refines it during the fit."""
        import torch

        from napari_dip.engine.deconvolution.blur_estimation import estimate_kernel_from_edges
        from napari_dip.engine.deconvolution.kernels import (
            KernelNetwork,
            SoftmaxKernel,
            compute_kernel_logits,
        )

        kernel = estimate_kernel_from_edges(fit_input.measurement, self._psf_side)
        rng = torch.Generator()
        initial_logits = compute_kernel_logits(kernel.cpu())
        network = KernelNetwork(tuple(kernel.shape), rng.manual_seed(0), initial_logits)
        return kernel, SoftmaxKernel(network)

    def _find_likeliest_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Return the kernel of the chosen kind that best explains the spectrum; it stays fixed."""
        from napari_dip.engine.deconvolution.blur_estimation import find_most_likely_blur

        variance = fit_input.noise.variance.evaluate(fit_input.measurement).mean((0, 2, 3))
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

        sizes = (self._psf_side, self._psf_side)
        widths, width = [], MIN_PSF_WIDTH
        while width < self._psf_side / 2:
            widths.append(width)
            width *= WIDTH_STEP_FACTOR
        if self.blur == "gaussian":  # wider ones would be truncated below three standard deviations
            return [
                partial(GaussianKernel, sizes, width)
                for width in widths
                if width <= self._psf_side / 6
            ]
        if self.blur == "defocus":  # a disc below half a pixel is a point, without gradient
            return [partial(DefocusKernel, sizes, width) for width in widths if width > 0.7]
        return [
            partial(MotionKernel, sizes, 2 * width, pi * turn / DIRECTIONS)
            for width in widths
            if width > 0.7
            for turn in range(DIRECTIONS)
        ]
