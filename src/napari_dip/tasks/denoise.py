"""Denoise: remove the noise of a single image, with a network fitted to that image alone.

An oversampled image is fitted at half its size, and the result is upscaled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import make_refusal
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_sizes
from napari_dip.tasks.base import (
    IMAGE_AXES,
    IMAGE_INPUT,
    FitInput,
    InspectedPixels,
    Inspection,
    Task,
    TaskPlan,
    TaskSetup,
    TaskSpec,
    load_input,
    load_setting,
)
from napari_dip.tasks.guide import phase_correlate
from napari_dip.tasks.noise_models.camera_correction import (
    CAMERA_MAP_INPUTS,
    refuse_map_pixels,
    refuse_maps,
)
from napari_dip.tasks.noise_models.impulses import make_impulses_note
from napari_dip.tasks.noise_models.registry import AUTO, JPEG, NOISE_MODELS, NoiseModel
from napari_dip.tasks.priors.image_input import append_upscaling
from napari_dip.tasks.priors.prior_spec import PriorOptions, RandomInputOptions
from napari_dip.tasks.priors.random_input import (
    DEFAULT_ARCHITECTURE,
    ArchitectureName,
    make_architecture_refusal,
)
from napari_dip.tasks.priors.registry import (
    AUTOMATIC,
    DENOISING_PRIORS,
    PRIOR_SPECS,
    get_denoising_prior,
)
from napari_dip.tasks.shared_settings import (
    CONTEXT_RADIUS,
    BlindSpotShape,
    CameraGain,
    ReadNoise,
    TemporalSmoothing,
    TotalVariationKind,
    TotalVariationWeight,
    UseNeighbouringFrames,
    add_temporal_smoothing,
    choose_series_training,
    count_planes,
    get_stacked_axes,
    has_series,
    make_noise_settings,
    make_total_variation_penalty,
    read_blind_spot,
    refuse_content,
)

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array, ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.tasks.priors.prior_spec import PriorSpec


#: Least shift of a repeated exposure in pixels that is told: up to 0.73 between four shots of seven
#: fields of FMD. A shift of one pixel costs more than the second exposure gains.
MIN_EXPOSURE_SHIFT = 0.75
#: Maximum difference of the shifts of two halves from that of the whole, in pixels: noise alone had
#: shifts of 2 to 45 pixels in crops of 64 and 128 pixels.
MAX_SHIFT_DIFFERENCE = 0.3
#: Second measurement of the same object, as an optional input.
REPEATED_EXPOSURE_INPUT = load_input("repeated_exposure")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Denoise(Task):
    """Settings of a denoising; the defaults suit most images."""

    spec: ClassVar[TaskSpec] = TaskSpec(
        name="denoise",
        title="Denoise",
        inputs=(IMAGE_INPUT, REPEATED_EXPOSURE_INPUT, *CAMERA_MAP_INPUTS),
        result_suffix="denoised",
        methods_phrase="denoised",
        accepts_stacks=True,
        offers_noise_models=True,
        independent_settings={"series_training": "independent"},
    )

    prior: Annotated[str, load_setting("denoise_prior", choices=DENOISING_PRIORS)] = AUTOMATIC
    architecture: ArchitectureName = DEFAULT_ARCHITECTURE
    noise: Annotated[
        str,
        load_setting(
            "denoise_noise", choices={model.key: model.label for model in NOISE_MODELS.values()}
        ),
    ] = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None
    blind_spot_shape: BlindSpotShape = ""
    smoothing: TotalVariationWeight = 0.0
    smoothing_kind: TotalVariationKind = "isotropic"
    neighbouring_frames: UseNeighbouringFrames = True
    temporal_smoothing: TemporalSmoothing = 0.0
    series_training: Annotated[
        Literal["auto", "joint", "warm-start", "independent"],
        load_setting(
            "series_training",
            relevant_when=lambda values: has_series(values) or bool(values["tile"]),
        ),
    ] = "auto"
    channels: Annotated[
        Literal["auto", "together", "separate"],
        load_setting(
            "channels", relevant_when=lambda values: bool(set("CS") & set(values[IMAGE_AXES]))
        ),
    ] = "auto"

    @property
    def _noise_model(self) -> NoiseModel:
        return NOISE_MODELS[self.noise]

    def plan(self, header: ImageHeader, extra_headers: Headers, axes: str) -> TaskPlan | Refusal:
        """Choose prior, layout and noise; refuse what the noise model cannot take."""
        model, exposure = self._noise_model, extra_headers.get("repeated_exposure")
        refusal = (
            model.refuse_header(header, extra_headers)
            or self._refuse_architecture()
            or refuse_maps(header, extra_headers, has_variance_model=model.has_variance_model)
            or (exposure and refuse_exposure_header(header, exposure))
        )
        if refusal:
            return refusal
        code = model.volume_refusal
        prior_spec = self._choose_prior(header, is_volume=len(axes) > 2)
        plane_prior = self._choose_prior(header, is_volume=False)
        takes_neighbours = plane_prior.input_traits.has_neighbour_frames
        joins_colours = self.channels == "auto" or model.joins_colours
        needs_whole_plane = bool(extra_headers) or not model.has_variance_model
        is_replaceable = self.prior == AUTOMATIC and (
            prior_spec.needs_noise_variance or model.fills_missing_pixels
        )
        fallback_prior_key = get_denoising_prior(knows_noise=False).key if is_replaceable else ""
        has_user_noise = (self.read_noise, self.gain, self.blind_spot_shape) != (None, None, "")
        return TaskPlan(
            axes_refusal=make_refusal(code, name=header.name) if code and axes != "YX" else None,
            stacks="planes" if code or takes_neighbours else "auto",
            joint_channels=None if joins_colours else self.channels == "together",
            prior_key=prior_spec.key,
            prior_reasons=self._list_prior_reasons(),
            fallback_prior_key=fallback_prior_key,
            architecture=self.architecture,
            halo=None if needs_whole_plane else CONTEXT_RADIUS,
            series_training=self.series_training,
            allows_joint_training=model.has_variance_model,
            uses_neighbouring_frames=self.neighbouring_frames,
            uses_previous_frame=self.temporal_smoothing > 0,
            noise_settings=make_noise_settings(self),
            blind_spot_shape=read_blind_spot(self.blind_spot_shape),
            uses_clipping_correction=model.has_variance_model,
            # the user's noise does not hold for binned pixels
            uses_half_resolution=model.has_variance_model and not has_user_noise,
        )

    def _choose_prior(self, header: ImageHeader, *, is_volume: bool) -> PriorSpec:
        """Return the prior that a setting demands, otherwise R2R or the blind spot."""
        if self.prior != AUTOMATIC:
            return DENOISING_PRIORS.select(self.prior)[0]
        if self.architecture != DEFAULT_ARCHITECTURE:
            priors = DENOISING_PRIORS.select()
            return next(prior for prior in priors if prior.input_traits.is_random_noise)
        if self._noise_model.prior_key:
            return PRIOR_SPECS[self._noise_model.prior_key]
        return get_denoising_prior(knows_noise=self._allows_added_noise(header, is_volume))

    def _refuse_architecture(self) -> Refusal | None:
        """Refuse an architecture together with a prior or noise model that has its own network."""
        if self.architecture == DEFAULT_ARCHITECTURE:
            return None
        priors = DENOISING_PRIORS.select(self.prior)
        if not any(prior_spec.input_traits.is_random_noise for prior_spec in priors):
            return make_architecture_refusal(self.architecture, f"the prior '{self.prior}'")
        if not self._noise_model.has_variance_model:
            return make_architecture_refusal(self.architecture, f"the noise model '{self.noise}'")
        return None

    def _allows_added_noise(self, header: ImageHeader, is_volume: bool) -> bool:
        """Return whether R2R applies: detector noise, in a plane or a jointly trained movie.

        The correlation of the noise that R2R adds is the product of one along Y and one along X. A
        blind spot with gaps ("0" in its shape) stands for another one.
        """
        count = count_planes(header)  # for planes along Z the blind spot is better: ADR 0012
        series_training = choose_series_training(self.series_training, count, can_be_joint=True)
        is_joint = not is_volume and series_training == "joint"
        is_joint_movie = is_joint and "T" in get_stacked_axes(header)
        can_draw = self._noise_model.allows_added_noise and "0" not in self.blind_spot_shape
        return can_draw and (count == 1 or is_joint_movie)

    def _list_prior_reasons(self) -> dict[str, str]:
        """Return why each prior runs, and the size of its blind spots."""
        is_chosen = self.prior != AUTOMATIC
        reason = "you chose it" if is_chosen else "it is what 'automatic' takes for denoising"
        reasons = {self._noise_model.prior_key: self._noise_model.prior_reason}
        for prior_spec in DENOISING_PRIORS.select():
            reasons[prior_spec.key] = reason
            if prior_spec.needs_noise_variance and not is_chosen:
                reasons[prior_spec.key] += " where the noise is known"
            if prior_spec.input_traits.has_masked_pixels:
                reasons[prior_spec.key] += "; {blind_spot}"
        return reasons

    def inspect(self, pixels: InspectedPixels, plan: TaskPlan) -> Inspection | Refusal:
        """Find impulses, and refuse pixels that do not have the noise that the user named.

        `arrange_inputs` then refuses pixels that are not finite or all equal. For artefacts that is
        done here, before the checks of their noise model.
        """
        model, name = self._noise_model, pixels.header.name
        if refusal := refuse_map_pixels(pixels.extra_inputs):
            return refusal
        missing = model.find_missing(pixels.stack)
        measured_mask = None if missing is None or not missing.any() else ~missing
        if measured_mask is None and not model.has_variance_model:
            refusal = refuse_content(pixels.image, name)
        if refusal := refusal or model.refuse_pixels(name, pixels.stack):
            return refusal
        notes = _list_exposure_notes(pixels)
        inspection = Inspection(convert_inputs=model.convert_inputs, notes=notes)
        if measured_mask is not None:
            notes = (*notes, make_impulses_note(measured_mask))
            return replace(inspection, measured_mask=measured_mask, notes=notes)
        if not (model.fills_missing_pixels and plan.prior_key == model.prior_key):
            return inspection
        key = get_denoising_prior(knows_noise=False).key
        reason = "no impulses were found, so there is nothing to fill in"
        return replace(inspection, prior_key=key, prior_reason=reason)

    def setup(self, fit_input: FitInput, rng: torch.Generator) -> TaskSetup:
        """Build the chosen prior, and the problem: the measurement is the image plus noise."""
        prior_spec, model = PRIOR_SPECS[fit_input.prior_key], self._get_fitted_model(fit_input)
        fit_input = model.correct_fit_input(prior_spec.clear_unused_validation(fit_input))
        options = PriorOptions(
            penalties=make_total_variation_penalty(fit_input, self.smoothing, self.smoothing_kind),
            predicts_measured=True,
            random_input=RandomInputOptions(architecture=self.architecture),
        )
        return TaskSetup(
            prior=prior_spec.build_prior(model.limit_network_input(fit_input), rng, options),
            problem=self._make_problem(fit_input, options),
            fit_input=fit_input,
        )

    def _make_problem(self, fit_input: FitInput, options: PriorOptions) -> Problem:
        """Build the problem: the measurement is the image plus noise.

        Postprocessing ends with upscaling, temporal smoothing and what the noise model adds.
        """
        prior_spec = PRIOR_SPECS[fit_input.prior_key]
        model = self._get_fitted_model(fit_input)
        build_problem = model.problem_factory or prior_spec.problem_factory
        assert build_problem is not None
        problem = append_upscaling(fit_input, build_problem(fit_input, options))
        problem = add_temporal_smoothing(problem, fit_input, self.temporal_smoothing)
        return model.wrap_problem(fit_input, problem)

    def _get_fitted_model(self, fit_input: FitInput) -> NoiseModel:
        """Return the noise model of a fit: JPEG where *Automatic* has chosen its prior."""
        is_jpeg = self._noise_model is AUTO and fit_input.prior_key == JPEG.prior_key
        return JPEG if is_jpeg else self._noise_model


def refuse_exposure_header(
    image_header: ImageHeader, exposure_header: ImageHeader
) -> Refusal | None:
    """Refuse a repeated exposure whose header shows another size or other axes."""
    has_same_axes = (
        image_header.has_guessed_axes
        or exposure_header.has_guessed_axes
        or image_header.axes == exposure_header.axes
    )
    if exposure_header.shape == image_header.shape and has_same_axes:
        return None
    image_size, exposure_size = (
        f"{format_sizes(header.shape)} ({header.axes})"
        for header in (image_header, exposure_header)
    )
    facts = {"name": exposure_header.name, "image": image_header.name}
    return make_refusal("repeated-exposure-size", **facts, size=exposure_size, other=image_size)


def _list_exposure_notes(pixels: InspectedPixels) -> tuple[Note, ...]:
    """Return a warning if the repeated exposure is moved against the image.

    Noise may look like a shift, so both halves of the plane in the middle must agree on it.
    """
    exposure = pixels.extra_inputs.get(REPEATED_EXPOSURE_INPUT.name)
    if exposure is None:
        return ()
    axes = [pixels.header.axes.index(axis) for axis in "YX"]
    fixed, moving = (_get_middle_plane(array, axes) for array in (pixels.image, exposure))
    half = len(fixed) // 2
    whole, *parts = (
        np.array(phase_correlate(fixed[rows], moving[rows]))
        for rows in (slice(None), slice(half), slice(half, None))
    )
    is_certain = all(np.abs(part - whole).max() <= MAX_SHIFT_DIFFERENCE for part in parts)
    if not is_certain or np.hypot(*whole) < MIN_EXPOSURE_SHIFT:
        return ()
    down, right = (0.0 - whole.round(1)).tolist()  # no -0.0
    return (make_note("exposures-shifted", down=down, right=right),)


def _get_middle_plane(array: AnyArray, axes: list[int]) -> Float32Array:
    """Return the middle plane (Y, X) of an array with these axes Y and X, copying no other."""
    planes = np.moveaxis(np.asarray(array), axes, (-2, -1))
    middle = planes[tuple(size // 2 for size in planes.shape[:-2])]
    return np.asarray(middle, np.float32)
