"""Denoise: remove the noise of a single image, with a network fitted to that image alone.

An oversampled image is fitted at half its size, and the result is upscaled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import make_refusal
from napari_dip.tasks.base import (
    IMAGE,
    RECEPTIVE_FIELD_RADIUS,
    FitInput,
    Input,
    NoiseRequest,
    Setting,
    Task,
)
from napari_dip.tasks.noise_models.camera_maps import CAMERA_MAPS, check_map_pixels, check_maps
from napari_dip.tasks.noise_models.impulses import (
    build_impulse_prior,
    describe_impulses,
    has_no_impulses,
)
from napari_dip.tasks.noise_models.jpeg import (
    build_recompression_prior,
    build_recompression_problem,
    clear_validation_pixels,
)
from napari_dip.tasks.noise_models.registry import NOISE_MODELS, NoiseModel
from napari_dip.tasks.priors.blind_spot import describe_blind_spot
from napari_dip.tasks.priors.deep_image_prior import (
    PRESET,
    ArchitectureName,
    build_architecture_prior,
    check_architecture,
    compute_channel_widths,
)
from napari_dip.tasks.priors.r2r import (
    UNRELIABLE_NOISE_REASON,
    WEAK_NOISE_REASON,
)
from napari_dip.tasks.priors.registry import (
    BLIND_SPOT,
    MASKED_INPUT,
    PRIORS,
    R2R,
    RANDOM_INPUT,
    RECOMPRESSION,
    list_denoising_priors,
)
from napari_dip.tasks.shared_settings import (
    REPEATED_EXPOSURE,
    CameraGain,
    NoiseSetting,
    ReadNoise,
    SeriesSharing,
    SharingMode,
    Smoothing,
    SmoothingKind,
    TemporalSmoothing,
    UseNeighbouringFrames,
    add_temporal_smoothing,
    build_neighbour_frame_prior,
    check_exposure_header,
    choose_sharing_mode,
    count_planes,
    describe_distant_planes,
    has_distant_planes,
    is_movie,
    make_total_variation_penalty,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec


def enlarge_to_full_resolution(fit_input: FitInput, problem: Problem) -> Problem:
    """Append upscaling to the final steps of a problem, if the fit runs at half resolution."""
    from napari_dip.engine.noise.oversampling import upscale_estimate
    from napari_dip.engine.problem import append_final_step

    if fit_input.upscaled_grid is None:
        return problem
    upscaled = append_final_step(
        problem, lambda _, done: upscale_estimate(done, fit_input.upscaled_grid)
    )
    # BM3D of a colour camera runs at full size
    return upscaled if fit_input.camera_noise is None else replace(upscaled, refine=problem.refine)


if TYPE_CHECKING:
    DenoisingPrior = str
else:  # a new row of the registry becomes a choice of form and command
    DenoisingPrior = Literal[("auto", *list_denoising_priors())]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Denoise(Task):
    """Settings of a denoising; the defaults suit most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, REPEATED_EXPOSURE, *CAMERA_MAPS)
    result_suffix: ClassVar[str] = "denoised"
    accepts_stacks: ClassVar[bool] = True

    prior: Annotated[
        DenoisingPrior,
        Setting(
            "Prior",
            "Input of the untrained network. Noisier input: the image with more noise of its own "
            "kind (recorrupted-to-recorrupted, R2R). Blind spot: the image with hidden pixels, as "
            "in Noise2Void and Noise2Self. Random input: fixed random numbers, as in the Deep "
            "Image Prior paper. Automatic: R2R where the noise is known well, in single planes; "
            "else the blind spot.",
            choices={"auto": "Automatic", **list_denoising_priors()},
        ),
    ] = "auto"
    architecture: ArchitectureName = PRESET
    noise: NoiseSetting = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None
    smoothing: Smoothing = 0.0
    smoothing_kind: SmoothingKind = "isotropic"
    neighbouring_frames: UseNeighbouringFrames = True
    temporal_smoothing: TemporalSmoothing = 1.0
    series_training: SeriesSharing = "auto"
    channels: Annotated[
        Literal["auto", "together", "separate"],
        Setting(
            "Channels",
            "Colour photographs are restored with all channels together, fluorescence channels "
            "one by one, unless you choose otherwise.",
            choices={"auto": "Automatic", "together": "Together", "separate": "One by one"},
        ),
    ] = "auto"

    @property
    def _noise_model(self) -> NoiseModel:
        return NOISE_MODELS[self.noise]

    def check(self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]) -> Refusal | None:
        """Check headers: repeated exposure, compression, architecture and camera maps."""
        model = self._noise_model
        refusal = model.check_header(source, extra_headers)
        refusal = refusal or check_architecture(self.architecture, self.prior, self.noise)
        refusal = refusal or check_maps(source, extra_headers, of_detector=model.is_detector)
        if refusal or "repeated_exposure" not in extra_headers:
            return refusal
        return check_exposure_header(source, extra_headers["repeated_exposure"])

    def check_extra_pixels(
        self, source: ImageSpec, extra_inputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Refuse camera maps with values that no camera has."""
        return check_map_pixels(extra_inputs)

    def check_axes(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Refuse volumes where the noise model works on single planes."""
        code = self._noise_model.volume_refusal
        return make_refusal(code, name=source.name) if code and axes != "YX" else None

    def choose_stack_mode(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Choose planes for noise models of single planes and for distant planes."""
        is_planar = bool(self._noise_model.volume_refusal)
        return "planes" if is_planar or self._has_distant_planes(source) else "auto"

    def list_header_notes(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]
    ) -> tuple[Note, ...]:
        """Return a note if the planes lie far apart."""
        return (describe_distant_planes(source),) if self._has_distant_planes(source) else ()

    def _has_distant_planes(self, source: ImageSpec) -> bool:
        """Return whether planes lie far apart and the prior takes neighbouring planes as input."""
        return self.uses_neighbouring_frames(
            self.choose_prior(source, volume=False)
        ) and has_distant_planes(source)

    def check_image_pixels(
        self, source: ImageSpec, stack: npt.NDArray[np.float32]
    ) -> Refusal | None:
        """Refuse images without traces of JPEG, or with negative values under speckle."""
        return self._noise_model.check_pixels(source.name, stack)

    def prepare_extra_inputs(
        self,
        image: npt.NDArray[np.float32],
        extra_inputs: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Return what the noise model prepares, such as the traces of JPEG compression."""
        prepared: tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]
        prepared = self._noise_model.prepare_inputs(image, extra_inputs, headers)
        return prepared

    def find_missing_pixels(
        self, stack: npt.NDArray[Any], extra_inputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Return a mask of the impulses, if the noise is salt and pepper."""
        return self._noise_model.find_missing(stack)

    def describe_missing_pixels(self, measured_mask: npt.NDArray[np.bool_]) -> tuple[Note, ...]:
        """Return a note on how many impulses were found."""
        return (describe_impulses(measured_mask),)

    def choose_prior_by_mask(
        self, prior: str, measured_mask: npt.NDArray[np.bool_] | None
    ) -> tuple[str, str]:
        """Return the blind spot for images without impulses, else the prior as it is."""
        if prior == MASKED_INPUT.key and has_no_impulses(measured_mask):
            return BLIND_SPOT.key, "no impulses were found, so there is nothing to fill in"
        return prior, ""

    def choose_blind_spot_size(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Return single pixels where impulses are filled in, else the measured size.

        Filling in needs the closest neighbours.
        """
        fills_in = self.prior == "auto" and self._noise_model.prior == MASKED_INPUT.key
        return (1, 1) if fills_in else measured

    def reports_unreliable_noise(self) -> bool:
        """Return True: denoising depends on the measured noise."""
        return True

    def uses_clipping_correction(self) -> bool:
        """Return whether the noise is that of a detector."""
        return self._noise_model.is_detector

    def uses_half_resolution(self) -> bool:
        """Return whether the user's noise settings also hold for binned pixels."""
        has_user_noise = self.read_noise is not None or self.gain is not None
        return self._noise_model.is_detector and not has_user_noise

    def compute_halo(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> int | None:
        """Return the receptive field's radius; None where the noise model needs the whole plane.

        So do repeated exposures and camera maps.
        """
        needs_plane = bool(extra_headers) or not self._noise_model.is_detector
        return None if needs_plane else RECEPTIVE_FIELD_RADIUS

    def prepare_fit_input(self, fit_input: FitInput) -> FitInput:
        """Remove stripes; clear the validation pixels where whole JPEG blocks replace them."""
        if fit_input.prior == RECOMPRESSION.key:
            return clear_validation_pixels(fit_input)
        return self._noise_model.prepare_fit_input(fit_input)

    def uses_joint_channels(self, source: ImageSpec) -> bool:
        """Return whether channels are fitted together; by default, colour samples only."""
        if self.channels == "auto" or self._noise_model.joins_colours:
            return "S" in source.axes
        return self.channels == "together"

    def choose_prior(self, source: ImageSpec, *, volume: bool) -> str:
        """Return the user's prior, that of a named noise, R2R, or the blind spot."""
        if self.prior != "auto" or self.architecture != PRESET:
            return RANDOM_INPUT.key if self.prior == "auto" else self.prior
        if self._noise_model.prior:
            return self._noise_model.prior
        return R2R.key if self._allows_r2r(source, volume) else BLIND_SPOT.key

    def choose_widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Return the channel widths of the chosen architecture."""
        if prior != RANDOM_INPUT.key:
            return preset
        return compute_channel_widths(self.architecture, preset)

    def _allows_r2r(self, source: ImageSpec, volume: bool) -> bool:
        """Return whether R2R applies: detector noise, in a plane or a jointly trained movie."""
        count = count_planes(source)  # for planes along Z the blind spot is better: ADR 0012
        is_joint_movie = (
            not volume and is_movie(source) and self.choose_sharing(R2R.key, count) == "joint"
        )
        return self._noise_model.is_detector and (count == 1 or is_joint_movie)

    def choose_sharing(self, prior: str, count: int, *, tiles: bool = False) -> SharingMode:
        """Return the training mode of a series from the setting and the number of frames."""
        return choose_sharing_mode(
            self.series_training, count, sees_image=self.has_reusable_network(prior), tiles=tiles
        )

    def has_reusable_network(self, prior: str) -> bool:
        """Return whether the network's input is the image with a detector's noise."""
        return PRIORS[prior].takes_neighbour_frames and self._noise_model.is_detector

    def choose_prior_by_noise(
        self, prior: str, *, is_unreliable: bool, is_weak: bool
    ) -> tuple[str, str]:
        """Replace R2R by the blind spot where the noise is unreliable or weak."""
        if prior != R2R.key or self.prior != "auto" or not (is_unreliable or is_weak):
            return prior, ""
        return BLIND_SPOT.key, UNRELIABLE_NOISE_REASON if is_unreliable else WEAK_NOISE_REASON

    def explain_prior(self, prior: str, block: tuple[int, ...]) -> str:
        """Return why this prior runs, and the size of its hidden blocks."""
        is_chosen = self.prior != "auto"
        if prior == RECOMPRESSION.key:
            return "it learns to undo the compression that was found, on the picture itself"
        if prior == MASKED_INPUT.key:
            return "it learns to fill pixels in from those around, as the impulses need"
        reason = "you chose it" if is_chosen else "it is what 'automatic' takes for denoising"
        if prior == R2R.key:
            return f"{reason} where the noise is known" if not is_chosen else reason
        if prior != BLIND_SPOT.key:
            return reason
        return f"{reason}; {describe_blind_spot(block)}"

    def make_noise_request(self) -> NoiseRequest:
        """Return the noise settings."""
        return NoiseRequest(model=self.noise, read_noise=self.read_noise, gain=self.gain)

    def uses_neighbouring_frames(self, prior: str) -> bool:
        """Return whether the setting is on and the prior takes the image as input."""
        return self.neighbouring_frames and PRIORS[prior].takes_neighbour_frames

    def uses_previous_frame(self) -> bool:
        """Return whether temporal smoothing is on."""
        return self.temporal_smoothing > 0

    def make_problem(self, fit_input: FitInput) -> Problem:
        """Build the problem: the measurement is the image plus noise.

        The final steps add temporal smoothing, upscaling and the JPEG projection where they apply.
        """
        penalties = make_total_variation_penalty(fit_input, self.smoothing, self.smoothing_kind)
        if fit_input.prior == RECOMPRESSION.key:
            return build_recompression_problem(fit_input, penalties)
        model = self._noise_model
        build_problem = model.build_problem or PRIORS[fit_input.prior].build_problem
        assert build_problem is not None
        problem = enlarge_to_full_resolution(fit_input, build_problem(fit_input, penalties))
        problem = add_temporal_smoothing(problem, fit_input, self.temporal_smoothing)
        return model.wrap_problem(fit_input, problem)

    def make_prior(self, fit_input: FitInput, rng: torch.Generator) -> Prior:
        """Build the prior that was chosen, with neighbouring frames if it takes them."""
        if fit_input.prior == RECOMPRESSION.key:
            return build_recompression_prior(fit_input, rng)
        if fit_input.prior == MASKED_INPUT.key:
            return build_impulse_prior(fit_input, rng)
        fit_input = self._noise_model.limit_network_input(fit_input)
        if fit_input.prior == RANDOM_INPUT.key:
            return build_architecture_prior(self.architecture, fit_input, rng)
        return build_neighbour_frame_prior(fit_input, rng)
