"""Blind deblur: undo a blur that nobody has measured, with a PSF estimated from the image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil, log, pi, prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.engine.constants import GAUSSIAN_RADIUS_SIGMAS, ZERNIKE_MODES
from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import (
    DEFAULT_PRIOR,
    FitInput,
    InspectedPixels,
    Inspection,
    Task,
    TaskPlan,
    TaskSetup,
    TaskSpec,
    load_setting,
)
from napari_dip.tasks.deblur import DEBLUR_REASON, DECONVOLUTION_PIXEL_SECONDS, Deblur
from napari_dip.tasks.psf.psf_settings import refuse_size
from napari_dip.tasks.shared_settings import (
    SINGLE_PIXEL,
    CameraGain,
    DetectorNoiseSetting,
    ReadNoise,
    compute_object_margin,
    compute_object_size,
    compute_plane_distance,
    make_noise_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor, nn

    from napari_dip.engine.problem import Operator
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import Float32Array, ImageHeader
    from napari_dip.io.header import Headers

#: Kinds of blur with a few parameters.
PARAMETRIC_KINDS = ("gaussian", "motion", "defocus")
#: How many more parameters a free kernel has in effect: the Bayesian information criterion asks it
#: for 0.06 per frequency in 172 x 172 pixels (docs/constants.md).
FREE_KERNEL_PARAMETERS = 185
#: Side of the PSF in pixels for which the fit of a stack is planned: that of a width of 2 pixels.
TYPICAL_VOLUME_SIDE = 17
#: Ratio of successive candidate widths.
WIDTH_STEP_FACTOR = 1.4
#: The smallest width in pixels.
MIN_PSF_WIDTH = 0.4
#: Number of candidate directions: 15 degrees apart, a third of the angle that separates two lines
#: of ten pixels.
DIRECTIONS = 12
#: Root mean square of aberrations in wavelengths below which a lens counts as free of them
#: (Marechal: a fourteenth leaves 0.8 of the peak).
MARECHAL_WAVES = 1 / 14
#: CPU seconds of the search for each kind: 64 x 64 pixels on an AMD EPYC without AVX-512; of a
#: lens, 225 x 225 pixels on one beside other programs. Since all candidates are searched at once,
#: *auto* takes 0.49 and *motion* 0.25 of what it took (on an AMD EPYC with AVX-512).
SEARCH_SECONDS = {
    "auto": 4.7,
    "gaussian": 1.0,
    "motion": 1.6,
    "defocus": 1.9,
    "lens": 14.0,
    "free": 1.0,
}
#: Further CPU seconds per pixel: 256 x 256 pixels took 0.4 to 7 s longer.
SEARCH_PIXEL_SECONDS = 5e-5


def make_blur_notes(learned: Mapping[str, Float32Array]) -> tuple[Note, ...]:
    """Return a note on the blur that was estimated."""
    parameters = {name: float(values.flat[0]) for name, values in learned.items()}
    if "sigmas" in parameters and learned["psf"].ndim > 2:
        widths = {"axial": parameters["sigmas"], "lateral": float(learned["sigmas"].flat[-1])}
        return (make_note("blur-gaussian-volume", **widths),)
    if "sigmas" in parameters:
        return (make_note("blur-gaussian", sigma=parameters["sigmas"]),)
    if "length" in parameters:
        degrees = parameters["angle"] * 180 / pi
        return (make_note("blur-line", length=parameters["length"], angle=degrees),)
    if "waves" in parameters:
        waves = dict(zip(ZERNIKE_MODES, np.abs(learned["waves"]).tolist(), strict=True))
        if np.linalg.norm(learned["waves"]) < MARECHAL_WAVES:
            return (make_note("blur-lens-sharp"),)
        first, second = sorted(waves, key=lambda name: -waves[name])[:2]
        facts = {"first": first, "second": second}
        facts |= {"first_waves": waves[first], "second_waves": waves[second]}
        return (make_note("blur-lens", **facts),)
    if "radius" in parameters:
        return (make_note("blur-disc", radius=parameters["radius"]),)
    return (make_note("blur-free"),)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class BlindDeblur(Task):
    """Settings of blind deblurring: kind of blur and size of the PSF."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="blind-deblur",
        title="Blind deblur",
        result_suffix="blind-deblurred",
        methods_phrase="deblurred with a point spread function estimated from the image itself",
        keeps_pixel_grid=False,
        light_crosses_border=True,
        extra_outputs={"psf": "The PSF that was found."},
        describe_learned=make_blur_notes,
        accepts_stacks=True,
    )

    blur: Annotated[
        Literal["auto", "gaussian", "motion", "defocus", "lens", "free"], load_setting("blur")
    ] = "auto"
    psf_size: Annotated[Annotated[int, Field(ge=3, le=201)], load_setting("psf_size")] = 31
    noise: DetectorNoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    @property
    def _psf_side(self) -> int:
        """Width of the PSF in pixels, made odd so that it has a centre."""
        return self.psf_size | 1

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Refuse a PSF larger than the image; the object extends beyond it by the PSF's margin.

        Of a stack, one Gaussian blur is found, in a fit of the whole volume.
        """
        side = self._psf_side
        planes = {axis: header.get_size(axis) for axis in "TZ" if axis in header.axes}
        if planes.get("T", 1) > 1:
            return make_refusal("blind-planes", name=header.name, count=planes["T"])
        axes_refusal = None
        if planes.get("Z", 1) > 1:
            if self.blur not in ("auto", "gaussian"):
                return make_refusal("blind-volume-kind", name=header.name, kind=self.blur)
            if axes != "ZYX":
                axes_refusal = make_refusal("blind-planes", name=header.name, count=planes["Z"])
        sizes = (side, side) if axes == "YX" else (min(side, TYPICAL_VOLUME_SIDE),) * 3
        grid = header.get_sizes(axes)
        search_seconds = SEARCH_SECONDS[self.blur] + SEARCH_PIXEL_SECONDS * prod(grid)
        return refuse_size(header, (side, side), "YX") or TaskPlan(
            axes_refusal=axes_refusal,
            stacks="volume" if planes.get("Z", 1) > 1 else "auto",
            network_grid=compute_object_size(grid, compute_object_margin(grid, sizes)),
            has_initial_estimate=axes == "ZYX",
            learns_operator=axes == "YX" and self.blur in ("auto", "free"),
            prior_reasons={DEFAULT_PRIOR: DEBLUR_REASON},
            noise_settings=make_noise_settings(self),
            # the search for the blur takes all noise for white
            blind_spot_shape=SINGLE_PIXEL,
            setup_seconds=search_seconds if axes == "YX" else 0.0,
            ending_pixel_seconds=DECONVOLUTION_PIXEL_SECONDS if axes == "YX" else 0.0,
        )

    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Give the fit of a stack its plane distance, and note that the PSF is estimated."""
        distance = np.array([compute_plane_distance(pixels.header)], np.float32)
        inputs = {"plane_distance": distance} if pixels.stack.ndim == 5 else {}
        return Inspection(convert_inputs=lambda *_: (inputs, (make_note("psf-estimated"),)))

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Estimate the blur, then set up as for a known PSF, with an operator that holds it."""
        from napari_dip.engine.operators.imaging import LearnedConvolution

        if len(fit_input.grid) > 2:
            return self._setup_volume(fit_input, rng)
        kernel, blur = self._find_kernel(fit_input)
        return self._setup_deblurring(fit_input, rng, kernel, LearnedConvolution(blur))

    def _setup_volume(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Estimate the Gaussian blur of a stack, which is fixed during the fit."""
        import torch

        from napari_dip.engine.deconvolution.psf import estimate_gaussian_psf, sample_gaussian_psf
        from napari_dip.engine.operators.imaging import EstimatedConvolution

        measurement, side = fit_input.measurement, self._psf_side
        depth = fit_input.grid[0]
        sides = ((depth - 1) | 1, side, side)
        variance = fit_input.noise.noise_variance.compute_variance(measurement)
        distance = float(fit_input.extra_inputs["plane_distance"])
        axial, lateral = estimate_gaussian_psf(measurement, variance.mean((0, 2, 3, 4)), distance)
        # wider ones would be truncated, as those of planes, or as deep as the stack
        lateral = min(max(lateral, MIN_PSF_WIDTH), side / 6)
        axial = min(max(axial, MIN_PSF_WIDTH), depth / 4)
        sigmas = (axial, lateral, lateral)
        sizes = tuple(
            min(most, 2 * ceil(GAUSSIAN_RADIUS_SIGMAS * sigma) + 1)
            for most, sigma in zip(sides, sigmas, strict=True)
        )
        kernel = sample_gaussian_psf(sigmas, sizes).to(measurement.device)
        parameters = {"psf": sample_gaussian_psf(sigmas, sides), "sigmas": torch.tensor(sigmas)}
        margin = compute_object_margin(fit_input.grid, sizes)
        operator = EstimatedConvolution(kernel, margin, parameters)
        return self._setup_deblurring(fit_input, rng, kernel, operator)

    def _setup_deblurring(
        self, fit_input: FitInput, rng: torch.Generator, kernel: Tensor, operator: Operator
    ) -> TaskSetup:
        """Set up as for a known PSF, with an operator that holds the estimated one."""
        task = Deblur(noise=self.noise, read_noise=self.read_noise, gain=self.gain)
        extra_inputs = {**fit_input.extra_inputs, "psf": kernel}
        fit_input = replace(fit_input, extra_inputs=extra_inputs)
        return task.setup(fit_input, rng, operator.to(fit_input.measurement.device))

    def _estimate_free_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Estimate a kernel of any shape, and build a network that refines it during the fit."""
        import torch

        from napari_dip.engine.deconvolution.edges import estimate_kernel_from_edges
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

    def _estimate_lens_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Estimate the aberrations of a lens; its kernel is fixed during the fit."""
        from napari_dip.engine.deconvolution.edges import estimate_aberrations

        measurement = fit_input.measurement
        variance = float(fit_input.noise.noise_variance.compute_variance(measurement).mean())
        lens = estimate_aberrations(measurement, variance / measurement.shape[1], self._psf_side)
        return lens().detach(), lens.requires_grad_(False)

    def _find_kernel(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Return the kernel, and the module that returns it during the fit."""
        if self.blur == "auto":
            return self._choose_kind(fit_input)
        if self.blur == "free":
            return self._estimate_free_kernel(fit_input)
        if self.blur == "lens":
            return self._estimate_lens_kernel(fit_input)
        return self._find_likeliest_kernel(fit_input, self.blur)[1:]

    def _choose_kind(self, fit_input: FitInput) -> tuple[Tensor, nn.Module]:
        """Return kernel and module of the kind under which the spectrum is most likely.

        A free kernel pays for its parameters (Schwarz, Annals of Statistics 6, 1978,
        doi:10.1214/aos/1176344136).
        """
        from napari_dip.engine.deconvolution.kernels import SoftmaxKernel, compute_kernel_logits

        fits = [self._find_likeliest_kernel(fit_input, kind) for kind in PARAMETRIC_KINDS]
        loss, kernel, blur = min(fits, key=lambda fit: fit[0])
        free_kernel, free_blur = self._estimate_free_kernel(fit_input)
        logits = compute_kernel_logits(free_kernel)
        fixed_kernel = SoftmaxKernel(logits).requires_grad_(False)
        free_loss, _ = self._fit_spectrum(fit_input, [lambda: fixed_kernel])
        if free_loss >= loss:
            return kernel, blur
        # A scene with a direction and a line explain a part of a shaken camera, so the evidence has
        # to come from scenes without.
        losses = [
            self._find_likeliest_kernel(fit_input, kind, allows_directions=False)[0]
            for kind in PARAMETRIC_KINDS
        ]
        free_loss, _ = self._fit_spectrum(
            fit_input, [lambda: fixed_kernel], allows_directions=False
        )
        frequencies = prod(fit_input.grid) / 2
        min_evidence = FREE_KERNEL_PARAMETERS / 2 * log(frequencies) / frequencies
        is_free = free_loss < min(losses) - min_evidence
        return (free_kernel, free_blur) if is_free else (kernel, blur)

    def _find_likeliest_kernel(
        self, fit_input: FitInput, kind: str, *, allows_directions: bool = True
    ) -> tuple[float, Tensor, nn.Module]:
        """Return loss, kernel and module of a kind that best explains the spectrum; it is fixed."""
        factories = self._list_kernel_factories(kind)
        loss, blur = self._fit_spectrum(fit_input, factories, allows_directions=allows_directions)
        # fitted together with the image, the width drifts, since a blurred image is easier to fit
        return loss, blur().detach(), blur.requires_grad_(False)

    def _fit_spectrum(
        self,
        fit_input: FitInput,
        factories: list[Callable[[], nn.Module]],
        *,
        allows_directions: bool = True,
    ) -> tuple[float, nn.Module]:
        from napari_dip.engine.deconvolution.kernels import find_most_likely_blur

        measurement = fit_input.measurement
        variance = fit_input.noise.noise_variance.compute_variance(measurement).mean((0, 2, 3))
        return find_most_likely_blur(
            measurement, variance, factories, allows_directions=allows_directions
        )

    def _list_kernel_factories(self, kind: str) -> list[Callable[[], nn.Module]]:
        """List factories of one kind, from narrow to as wide as the PSF may be."""
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
        if kind == "gaussian":  # wider ones would be truncated below three standard deviations
            most = self._psf_side / 6
            return [partial(GaussianKernel, sizes, width) for width in widths if width <= most]
        if kind == "defocus":  # a disc below half a pixel is a point, without gradient
            return [partial(DefocusKernel, sizes, width) for width in widths if width > 0.7]
        return [
            partial(MotionKernel, sizes, 2 * width, pi * turn / DIRECTIONS)
            for width in widths
            if width > 0.7
            for turn in range(DIRECTIONS)
        ]
