"""Deblur: undo a blur whose PSF is known."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import (
    DEFAULT_PRIOR,
    IMAGE_INPUT,
    FitInput,
    GridLocation,
    InspectedPixels,
    Inspection,
    Task,
    TaskPlan,
    TaskSetup,
    TaskSpec,
    load_setting,
)
from napari_dip.tasks.initial_estimate import (
    InitialEstimate,
    choose_dark_level,
    compute_initial_estimate,
    find_rival_guide,
    make_proximity_penalty,
    make_validated_mixture,
    measure_volume_error,
)
from napari_dip.tasks.priors.prior_spec import PriorOptions, RandomInputOptions
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from napari_dip.tasks.psf.psf_settings import (
    OIL_REFRACTIVE_INDEX,
    PSF_INPUT,
    Excitation,
    GaussianSigma,
    GaussianSigmaZ,
    MicroscopeType,
    NumericalAperture,
    OpticsSettings,
    Pinhole,
    PixelSize,
    PsfSource,
    RefractiveIndex,
    Wavelength,
    ZStep,
    get_fit_axes,
    get_psf_cells,
    refuse_field_size,
    refuse_size,
    upscale_sizes,
)
from napari_dip.tasks.shared_settings import (
    CONTEXT_RADIUS,
    CameraGain,
    DetectorNoiseSetting,
    GreyValue,
    ReadNoise,
    TotalVariationKind,
    Weight,
    compute_object_margin,
    compute_object_size,
    get_axis_factors,
    get_spatial_axes,
    make_crop_to_field,
    make_noise_settings,
    make_total_variation_penalty,
    multiply_sizes,
    normalise_factor,
    refuse_factor_depth,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch
    from torch import Tensor

    from napari_dip.engine.deconvolution.kernels import FieldPsf
    from napari_dip.engine.problem import Estimate, Operator, PostprocessingSteps, Problem
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.base import ConvertedInputs

#: Minimum floor of the blur's power, or the noise's share of the image's variance if that is
#: larger, as in a Wiener filter; with 0.03 fits are slower.
MIN_BLUR_POWER = 0.01
#: Seconds per pixel and channel of the deconvolution after a fit and of that of a simulated
#: measurement: 6.9 s for 294 x 294 pixels on another machine than 6.8 s for 273 x 273 without it.
DECONVOLUTION_PIXEL_SECONDS = 90e-6
#: How far the light of an estimated PSF is misplaced, in pixels: on five shaken photographs 30.7,
#: 32.1, 31.9 and 30.2 dB with 0, 0.1, 0.2 and 0.4.
ESTIMATED_PSF_ERROR = 0.15
#: Side in pixels of the areas whose mean brightness tells the background: wider than the grain of
#: white noise, narrower than the gaps between cells. In volumes they are cubes: by the noise of
#: squares, the darkest are too dark (threads of 20 photons: error 2.92, with cubes 2.37).
DARK_AREA_SIDE = 5
#: Share of the areas that are as dark as the background: 0.02 and 0.1 choose as well between levels
#: on 16 scenes, since a wrong one predicts the validation pixels worse (docs/adr/0049).
DARK_AREA_FRACTION = 0.05
#: Why the prior runs, for the report.
DEBLUR_REASON = "random input, as in the Deep Image Prior paper, is what this task uses"


def get_psf_source(task: Deblur) -> PsfSource:
    """Return the source of the PSF that the settings name."""
    optics = OpticsSettings(
        **{field.name: getattr(task, field.name) for field in fields(OpticsSettings)}
    )
    return PsfSource(sigma=task.gaussian_sigma, sigma_z=task.gaussian_sigma_z, optics=optics)


def _fill_in_pixel_sizes(task: Deblur, header: ImageHeader) -> Deblur:
    """Return a task whose computed PSF has the image's pixel sizes as settings.

    So it no longer depends on the image's scale.
    """
    if task.microscope == "none":
        return task
    optics = get_psf_source(task).optics
    size_x, size_y = optics.get_pixel_sizes(header, "XY")
    if size_x is not None and size_x == size_y:
        task = replace(task, pixel_size=size_x)
    if "Z" in header.axes and (z_step := optics.get_pixel_sizes(header, "Z")[0]) is not None:
        task = replace(task, z_step=z_step)
    return task


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Deblur(Task):
    """Settings of deblurring: source of the PSF, border, initial estimate and penalties."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="deblur",
        title="Deblur",
        inputs=(IMAGE_INPUT, PSF_INPUT),
        result_suffix="deblurred",
        methods_phrase="deblurred with a known point spread function",
        keeps_pixel_grid=False,
        light_crosses_border=True,
        accepts_stacks=True,
        complete_settings=_fill_in_pixel_sizes,
    )

    gaussian_sigma: GaussianSigma = None
    gaussian_sigma_z: GaussianSigmaZ = None
    microscope: MicroscopeType = "none"
    na: NumericalAperture = None
    wavelength: Wavelength = None
    pixel_size: PixelSize = None
    z_step: ZStep = None
    refractive_index: RefractiveIndex = OIL_REFRACTIVE_INDEX
    excitation: Excitation = None
    pinhole: Pinhole = 1.0
    factor: Annotated[
        str,
        BeforeValidator(partial(normalise_factor, allows_one=True)),
        load_setting("deblur_factor"),
    ] = "1"
    border: Annotated[Literal["open", "circular"], load_setting("border")] = "open"
    initial_estimate: Annotated[
        Literal["richardson-lucy", "none"], load_setting("deblur_initial_estimate")
    ] = "richardson-lucy"
    smoothing: Annotated[Weight, load_setting("deblur_smoothing")] = 0.1
    smoothing_kind: TotalVariationKind = "isotropic"
    non_negative: Annotated[bool, load_setting("non_negative")] = True
    background: Annotated[GreyValue | None, load_setting("background")] = None
    noise: DetectorNoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Refuse settings without a usable PSF; choose volume or planes, grid and halo by it."""
        psf_source, psf_header = get_psf_source(self), extra_headers.get("psf")
        if refusal := psf_source.refuse_source(header, psf_header):
            return refusal
        has_depth = get_fit_axes(header, 3) == "ZYX"
        is_volume = has_depth and psf_source.is_volumetric(psf_header)
        stacks: Literal["planes", "volume"] = "volume" if is_volume else "planes"
        refusal = psf_source.refuse_axes(header, psf_header, axes)
        if refusal := refusal or refuse_factor_depth(self.factor, header, axes):
            return TaskPlan(axes_refusal=refusal, stacks=stacks)
        factors = get_axis_factors(self.factor, axes)
        is_field = psf_header is not None and bool(get_psf_cells(psf_header))
        coarse_sizes = psf_source.compute_psf_sizes(header, psf_header, axes)
        sizes = upscale_sizes(coarse_sizes, factors)
        field_size = multiply_sizes(header.get_sizes(axes), factors)
        is_open = self.border == "open"
        if psf_header and is_field and not is_open:
            return make_refusal("psf-field-circular", name=psf_header.name)
        # memory and time of a volume are those of the usual PSF: of others, at most 1.5 times that
        grid_sizes = psf_source.compute_psf_sizes(
            header, psf_header, axes, is_centred=len(axes) > 2
        )
        margin: tuple[int, ...] = (0,) * len(axes)
        if is_open:
            margin = compute_object_margin(field_size, upscale_sizes(grid_sizes, factors))
        return TaskPlan(
            axes_refusal=None if psf_header else refuse_size(header, coarse_sizes, axes),
            stacks=stacks,
            network_grid=compute_object_size(field_size, margin),
            has_initial_estimate=self.initial_estimate != "none",
            factors=dict(zip("ZYX", get_axis_factors(self.factor, "ZYX"), strict=True)),
            halo=max(sizes) // 2 + CONTEXT_RADIUS if is_open and max(factors) == 1 else None,
            prior_reasons={DEFAULT_PRIOR: DEBLUR_REASON},
            ending_pixel_seconds=DECONVOLUTION_PIXEL_SECONDS if len(axes) == 2 else 0.0,
            noise_settings=make_noise_settings(self),
            notes=psf_source.list_notes(header, psf_header, factors[-1]),
        )

    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Refuse an image that is no PSF, and warn of a doubtful one."""
        from napari_dip.tasks.psf.psf_checks import inspect_psf_image, refuse_dark_middle

        if (psf := pixels.extra_inputs.get("psf")) is None:
            return Inspection(convert_inputs=partial(self._make_kernel, None))
        if psf.shape == pixels.image.shape and (psf == pixels.image).all():
            return make_refusal("psf-same", name=pixels.header.name)
        psf_header = pixels.extra_headers.get("psf")
        if psf_header and (refusal := refuse_field_size(pixels.header, psf_header)):
            return refusal
        psf_source = get_psf_source(self)
        leading = [count for count in psf.shape[:-2] if count > 1]
        is_field = len(leading) > 1
        cells = tuple(leading[:2]) if is_field else ()
        sizes = (*leading[len(cells) :], *psf.shape[-2:])
        axes = "ZYX"[-len(sizes) :]
        ratios = psf_source.compute_resampling(pixels.header, psf_header, axes)
        widths = psf_source.optics.compute_fwhm(pixels.header)  # in pixels of the image
        pairs = zip(axes, ratios, strict=True)
        computed_fwhm = {axis: widths[axis] / ratio for axis, ratio in pairs if axis in widths}
        images: list[AnyArray] = []
        notes: list[Note] = []
        for image in psf.reshape(-1, *sizes):
            checked = inspect_psf_image(image, {} if is_field else computed_fwhm)
            if isinstance(checked, Refusal):
                return checked
            if refusal := refuse_dark_middle(pixels.header, checked.image, ratios):
                return refusal
            images.append(checked.image)
            notes += checked.notes
        if not is_field:
            make_kernel = partial(self._make_kernel, images[0])
            return Inspection(notes=tuple(notes), convert_inputs=make_kernel)
        make_field_psf = partial(self._make_field_psf, np.reshape(images, (*cells, *sizes)))
        return Inspection(notes=keep_first_notes(notes), convert_inputs=make_field_psf)

    def _make_kernel(
        self,
        checked_psf: AnyArray | None,
        image: Float32Array,
        extra_inputs: Mapping[str, Float32Array],
        headers: Headers,
    ) -> ConvertedInputs:
        """Centre or compute the PSF, and return it with notes on what was done."""
        axes = get_fit_axes(headers["image"], image.ndim - 1)
        source, factors = get_psf_source(self), get_axis_factors(self.factor, axes)
        kernel, notes = source.make_kernel(
            headers["image"], checked_psf, axes, factors, headers.get("psf")
        )
        is_computed = checked_psf is None and source.sigma is None
        if is_computed or source.optics.compute_fwhm(headers["image"]):
            return {"psf": kernel.numpy()}, notes
        return {"psf": kernel.numpy()}, (*notes, make_note("psf-unchecked"))

    def _make_field_psf(
        self,
        checked_psfs: AnyArray,
        image: Float32Array,
        extra_inputs: Mapping[str, Float32Array],
        headers: Headers,
    ) -> ConvertedInputs:
        """Return a PSF that changes over the field as modes, and its mean over the field."""
        dims = image.ndim - 1
        factors = get_axis_factors(self.factor, get_fit_axes(headers["image"], dims))
        ratios = get_psf_source(self).compute_resampling(
            headers["image"], headers.get("psf"), "ZYX"[2 - checked_psfs.ndim :]
        )
        field_psf, mean, notes = make_field_kernels(
            headers["image"], checked_psfs, dims, factors, ratios
        )
        arrays = {"psf": mean, "psf_modes": field_psf.modes}
        arrays["psf_coefficients"] = field_psf.coefficients
        kernels = {name: array.numpy() for name, array in arrays.items()}
        return kernels, (*notes, make_note("psf-unchecked"))

    def setup(
        self, fit_input: FitInput, rng: torch.Generator, operator: Operator | None = None
    ) -> TaskSetup:
        """Build the prior, and the problem: the blurred prediction explains the image.

        `operator` replaces that of the settings by one whose PSF was estimated from the image. The
        PSF among the extra inputs is then its PSF at the start.
        """
        setup_input, fit_input = fit_input, self._strengthen_noise(fit_input)
        initial_operator = self._make_operator(fit_input)
        dark_level = self._compute_dark_level(fit_input)
        random_input = RandomInputOptions(grid=initial_operator.compute_object_grid(fit_input.grid))
        initial = None
        if len(fit_input.grid) > 2 and self.background is None:
            levels = self._list_dark_levels(fit_input, dark_level)
            dark_level = choose_dark_level(fit_input, initial_operator, levels)
        if self.initial_estimate != "none":
            initial = compute_initial_estimate(
                fit_input,
                initial_operator,
                dark_level,
                is_regularised=self._is_regularised(fit_input),
            )
            is_coarse = not fit_input.widths[0]
            random_input = initial.add_to_input(random_input, is_coarse=is_coarse)
        options = PriorOptions(random_input=random_input)
        return TaskSetup(
            prior=PRIOR_SPECS[fit_input.prior_key].build_prior(fit_input, rng, options),
            problem=self._make_problem(
                fit_input,
                operator or initial_operator,
                dark_level,
                initial,
                psf_error=0.0 if operator is None else ESTIMATED_PSF_ERROR,
            ),
            fit_input=setup_input,
        )

    def _strengthen_noise(self, fit_input: FitInput) -> FitInput:
        """Return a fit input whose noise is white, and as strong where the blur passes light."""
        from napari_dip.engine.noise.correlation import compute_passed_power

        noise = fit_input.noise
        if noise.correlation is None:
            return fit_input
        power = compute_passed_power(noise.correlation, self._bin_kernel(fit_input))
        white_noise = replace(
            noise,
            noise_variance=noise.noise_variance.scale(power),
            rms_std=noise.rms_std * power**0.5,
        )
        return replace(fit_input, noise=white_noise)

    def _make_problem(
        self,
        fit_input: FitInput,
        operator: Operator,
        dark_level: Tensor,
        initial: InitialEstimate | None,
        *,
        psf_error: float,
    ) -> Problem:
        """Build the problem: the blurred prediction explains the image.

        Network units are (pixel - offset) / scale. A PSF of sum one does not change a constant, so
        an even background is part of the offset and needs no term.
        """
        from napari_dip.engine.deconvolution.plug_and_play import deconvolve_with_guide
        from napari_dip.engine.likelihood.fidelity import (
            make_backprojection_fidelity,
            make_gaussian_deviance,
        )
        from napari_dip.engine.likelihood.penalties import make_lower_bound_penalty
        from napari_dip.engine.problem import Problem, Term

        deconvolution = None if initial is None else initial.deconvolution
        masks, fit_noise = fit_input.masks, fit_input.noise
        term = Term(
            measurement=fit_input.measurement,
            operator=operator,
            fidelity=make_backprojection_fidelity(
                fit_noise.noise_variance,
                self._bin_kernel(fit_input),
                masks.visible,
                floor=self._compute_power_floor(fit_input),
                is_circular=self.border == "circular",
            ),
            deviance=make_gaussian_deviance(fit_noise.noise_variance),
            training_pixel_weights=masks.visible,
            validation_mask=masks.validation,
            refit_pixel_weights=masks.visible,  # postprocessing adds the validation pixels
        )
        penalties = make_total_variation_penalty(fit_input, self.smoothing, self.smoothing_kind)
        if self.non_negative:
            penalties += ((1.0, make_lower_bound_penalty(dark_level, fit_noise.rms_std)),)
        problem = Problem(
            terms=(term,),
            penalties=penalties,
            crop=make_crop_to_field(self._compute_margin(fit_input)),
        )
        bound = dark_level if self.non_negative else None
        if deconvolution is not None:
            mix = make_validated_mixture(deconvolution, fit_input, operator, bound)
            penalties += (make_proximity_penalty(deconvolution),)
            problem = replace(problem, penalties=penalties, postprocess=mix)
        if len(fit_input.grid) > 2:  # 160 x 160 x 160 voxels would take a quarter of an hour more
            return measure_volume_error(problem, deconvolution) if deconvolution else problem

        is_noise_shared = fit_noise.correlation is not None
        may_be_rivalled = initial is not None and not (is_noise_shared or psf_error)

        def list_guides(estimate: Estimate) -> list[Tensor]:
            if deconvolution is not None:
                mix_visible = make_validated_mixture(
                    deconvolution, fit_input, operator, bound, adds_validation=False
                )
                return [mix_visible(estimate).mean]
            if not may_be_rivalled:
                return [estimate.mean]
            dark_levels = self._list_dark_levels(fit_input, dark_level)
            rival = find_rival_guide(fit_input, operator, dark_levels, estimate.mean)
            return [estimate.mean] if rival is None else [rival, estimate.mean]

        def deconvolve(estimate: Estimate) -> PostprocessingSteps:
            guides = list_guides(estimate)
            for guide in guides:
                deconvolved = yield from deconvolve_with_guide(
                    term,
                    fit_noise.noise_variance,
                    masks.measured,
                    guide,
                    psf_error=psf_error,
                    is_noise_shared=is_noise_shared,
                    must_filter=guide is not guides[-1],
                )
                if deconvolved is not None:
                    mean = deconvolved.mean
                    return deconvolved._replace(mean=mean if bound is None else mean.maximum(bound))
            return problem.postprocess(estimate)

        return replace(problem, full_postprocess=deconvolve)

    def _compute_power_floor(self, fit_input: FitInput) -> float:
        """Return the floor of the blur's power, at which noise outweighs the image."""
        image_variance = max(float(fit_input.measurement.var()), 1e-12)
        return max(MIN_BLUR_POWER, fit_input.noise.rms_std**2 / image_variance)

    def _compute_dark_level(self, fit_input: FitInput) -> Tensor:
        """Return the value of a pixel without light, in network units: (1, C, 1, ...)."""
        axes = tuple(range(2, fit_input.measurement.ndim))
        lowest = fit_input.measurement.amin(axes, keepdim=True)
        if self.background is None:
            return fit_input.to_network_units(0).minimum(lowest)
        level = fit_input.to_network_units(self.background)
        # inverted grey values may lie beyond a background on either side
        return level.where(fit_input.intensity_scale > 0, level.minimum(lowest))

    def _list_dark_levels(self, fit_input: FitInput, dark_level: Tensor) -> list[Tensor]:
        """List values that a pixel without light may have: that of the background, if not chosen.

        It is the brightness of the darkest parts; in a volume, where blur may fill these, also half
        way to it.
        """
        from torch.nn import functional

        if self.background is not None or min(fit_input.grid[-2:]) < DARK_AREA_SIDE:
            return [dark_level]
        measured = fit_input.measurement
        planes = measured.reshape(*measured.shape[:2], -1, *measured.shape[-2:])
        side = (min(DARK_AREA_SIDE, planes.shape[2]), DARK_AREA_SIDE, DARK_AREA_SIDE)
        means = functional.avg_pool3d(planes, side, 1).flatten(2)
        darkest = means.kthvalue(max(1, round(DARK_AREA_FRACTION * means.shape[2]))).values
        darkest = darkest.reshape(dark_level.shape)
        between = [(dark_level + darkest) / 2] if len(fit_input.grid) > 2 else []
        return [dark_level, darkest, *between]

    def _compute_margin(self, fit_input: FitInput) -> tuple[int, ...]:
        if self.border == "circular":
            return (0,) * len(fit_input.grid)
        field_size = multiply_sizes(fit_input.grid, self._get_factors(fit_input))
        return compute_object_margin(field_size, tuple(fit_input.extra_inputs["psf"].shape))

    def _get_factors(self, fit_input: FitInput) -> tuple[int, ...]:
        return get_axis_factors(self.factor, get_spatial_axes(fit_input))

    def _is_regularised(self, fit_input: FitInput) -> bool:
        """Whether a deconvolution with a Hessian penalty is an initial estimate and an anchor.

        With a PSF that changes over the field, fits without it are slower: 23.4 and 25.1 dB on
        cameraman and starfish of `benchmarks/field_psf.py`, 24.2 and 25.9 with it.
        """
        is_fine = max(self._get_factors(fit_input)) > 1
        return len(fit_input.grid) > 2 or is_fine or "psf_modes" in fit_input.extra_inputs

    def _bin_kernel(self, fit_input: FitInput) -> Tensor:
        """Return the kernel on the grid of the image."""
        from torch.nn import functional

        from napari_dip.engine.operators.imaging import BinnedDownsample

        kernel, factors = fit_input.extra_inputs["psf"], self._get_factors(fit_input)
        if max(factors) == 1:
            return kernel
        sides: list[int] = []  # so that the middle pixel is in the middle of a block
        for size, factor in reversed(list(zip(kernel.shape, factors, strict=True))):
            blocks = -(-(size // 2 - factor // 2) // factor)
            before = blocks * factor + factor // 2 - size // 2
            after = (2 * blocks + 1) * factor - size - before
            sides += [before, after]
        padded = functional.pad(kernel, sides)[None, None]
        return BinnedDownsample(factors)(padded)[0, 0] * prod(factors)

    def _make_operator(self, fit_input: FitInput) -> Operator:
        from napari_dip.engine.operators.imaging import (
            BinnedDownsample,
            CircularConvolution,
            ValidConvolution,
        )
        from napari_dip.engine.problem import Chain

        kernel, factors = fit_input.extra_inputs["psf"], self._get_factors(fit_input)
        margin = self._compute_margin(fit_input)
        blur: Operator
        if "psf_modes" in fit_input.extra_inputs:
            blur = self._make_field_blur(fit_input, margin)
        elif self.border == "circular":
            blur = CircularConvolution(kernel)
        else:
            blur = ValidConvolution(kernel, margin=margin)
        return blur if max(factors) == 1 else Chain(blur, BinnedDownsample(factors))

    def _make_field_blur(self, fit_input: FitInput, margin: tuple[int, ...]) -> Operator:
        """Return the blur that changes over the field, with coefficients of this part of it."""
        from napari_dip.engine.deconvolution.kernels import interpolate_coefficients
        from napari_dip.engine.operators.imaging import FieldConvolution

        location = fit_input.location or GridLocation(
            start=(0,) * len(margin), image_size=fit_input.grid
        )
        factors = self._get_factors(fit_input)
        start = multiply_sizes(location.start, factors)
        field_size = multiply_sizes(fit_input.grid, factors)
        coefficients = interpolate_coefficients(
            fit_input.extra_inputs["psf_coefficients"],
            multiply_sizes(location.image_size, factors),
            tuple(first - pixels for first, pixels in zip(start, margin, strict=True)),
            compute_object_size(field_size, margin),
        )
        return FieldConvolution(fit_input.extra_inputs["psf_modes"], coefficients, margin)


def make_field_kernels(
    header: ImageHeader,
    images: AnyArray,
    dims: int,
    factors: tuple[int, ...],
    ratios: tuple[float, ...],
) -> tuple[FieldPsf, Tensor, tuple[Note, ...]]:
    """Return a PSF that changes over the field, its mean over the field, and notes.

    Parameters
    ----------
    header : ImageHeader
        Header of the image, after the checks.
    images : ndarray
        (rows, columns, *sizes): images of the PSF in the middles of equal parts of the field.
    dims : int
        Number of axes of a fit. PSFs of one plane act within each plane of a volume.
    factors : tuple of int
        As for `PsfSource.make_kernel`.
    ratios : tuple of float
        Pixels of the image in each pixel of the PSF, along the axes of a PSF.
    """
    import torch
    from torch.nn.functional import pad

    from napari_dip.engine.deconvolution.kernels import decompose_field
    from napari_dip.engine.deconvolution.psf import resample_psf
    from napari_dip.tasks.psf.psf_checks import centre_psf_image

    cells, sizes = images.shape[:2], images.shape[2:]
    centred = [centre_psf_image(header, image, ratios) for image in images.reshape(-1, *sizes)]
    kernels = [resample_psf(kernel, factors[-kernel.ndim :]) for kernel, _ in centred]
    largest = [max(axis_sizes) for axis_sizes in zip(*(k.shape for k in kernels), strict=True)]

    def pad_evenly(kernel: Tensor) -> Tensor:
        missing = [most - size for most, size in zip(largest, kernel.shape, strict=True)]
        padded = pad(kernel, [count // 2 for count in reversed(missing) for _ in range(2)])
        return padded.reshape(*(1,) * (dims - padded.ndim), *padded.shape)

    stacked = torch.stack([pad_evenly(kernel) for kernel in kernels])
    field_psf = decompose_field(stacked, (1,) * (dims - 2) + cells)
    notes = keep_first_notes(note for _, kernel_notes in centred for note in kernel_notes)
    mode_note = make_note("psf-modes", count=len(field_psf.modes), many=len(field_psf.modes) > 1)
    return field_psf, stacked.mean(0), (*notes, mode_note)


def keep_first_notes(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Return the first note of each code, where many PSFs are checked alike."""
    first_notes: dict[str, Note] = {}
    for note in notes:
        first_notes.setdefault(note.code, note)
    return tuple(first_notes.values())
