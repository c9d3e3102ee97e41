"""Denoise: remove the noise of a single image, judged by the image itself.

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
from napari_dip.tasks.noise_models.camera_maps import CAMERA_MAPS, admit_maps, check_maps
from napari_dip.tasks.noise_models.impulses import (
    SALT_AND_PEPPER,
    build_impulse_prior,
    build_impulse_problem,
    describe_impulses,
    exclude_impulses,
    has_no_impulses,
)
from napari_dip.tasks.noise_models.jpeg import (
    add_jpeg_projection,
    admit_jpeg,
    build_recompression_prior,
    build_recompression_problem,
    check_jpeg,
    clear_validation_pixels,
    read_jpeg_traces,
)
from napari_dip.tasks.noise_models.named_noise import (
    SPECKLE,
    admit_speckle,
    check_named_noise,
    list_noise_hints,
)
from napari_dip.tasks.noise_models.stripes import (
    STRIPES,
    add_line_offsets,
    describe_stripes,
    remove_stripes,
)
from napari_dip.tasks.priors.blind_spot import build_blind_spot_problem, describe_blind_spot
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
    build_r2r_problem,
)
from napari_dip.tasks.priors.registry import (
    BLIND_SPOT,
    MASKED_INPUT,
    PRIORS,
    R2R,
    RANDOM_INPUT,
    RECOMPRESSION,
)
from napari_dip.tasks.shared_settings import (
    REPEATED_EXPOSURE,
    CameraGain,
    NoiseOrCompression,
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


#: Noise models of a detector; all others describe artefacts of the image.
DETECTOR = ("auto", "gaussian", "poisson-gaussian")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Denoise(Task):
    """Settings of a denoising; the defaults suit most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, REPEATED_EXPOSURE, *CAMERA_MAPS)
    result_suffix: ClassVar[str] = "denoised"
    accepts_stacks: ClassVar[bool] = True

    prior: Annotated[
        Literal["auto", "r2r", "blind-spot", "random-input"],
        Setting(
            "Prior",
            "Input of the untrained network. Noisier input: the image with more noise of its own "
            "kind (recorrupted-to-recorrupted, R2R). Blind spot: the image with hidden pixels, as "
            "in Noise2Void and Noise2Self. Random input: fixed random numbers, as in the Deep "
            "Image Prior paper. Automatic: R2R where the noise is known well, in single planes; "
            "else the blind spot.",
            choices={
                "auto": "Automatic",
                "r2r": "Noisier input (R2R)",
                "blind-spot": "Blind spot",
                "random-input": "Deep Image Prior (random input)",
            },
        ),
    ] = "auto"
    architecture: ArchitectureName = PRESET
    noise: NoiseOrCompression = "auto"
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

    def check(self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]) -> Refusal | None:
        """Check headers: repeated exposure, compression, architecture and camera maps."""
        fault = check_jpeg(source, extra_headers) if self.noise == "jpeg" else None
        fault = fault or check_named_noise(self.noise, extra_headers)
        fault = fault or check_architecture(self.architecture, self.prior, self.noise)
        fault = fault or check_maps(source, extra_headers, of_detector=self.noise in DETECTOR)
        return fault or (
            check_exposure_header(source, extra_headers["repeated_exposure"])
            if "repeated_exposure" in extra_headers
            else None
        )

    def check_extra_pixels(
        self, source: ImageSpec, extra_inputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Refuse camera maps with values that no camera has."""
        return admit_maps(extra_inputs)

    def check_axes(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Refuse volumes where the noise model works on single planes."""
        if self.noise == "jpeg" and axes != "YX":
            return make_refusal("jpeg-volume", name=source.name)
        if self.noise == SALT_AND_PEPPER and axes != "YX":
            return make_refusal("impulses-volume", name=source.name)
        return None

    def choose_stack_mode(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Choose planes for noise models of single planes and for distant planes."""
        is_planar_noise = self.noise in ("jpeg", SALT_AND_PEPPER)
        return "planes" if is_planar_noise or self._has_distant_planes(source) else "auto"

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
        if self.noise == SPECKLE:
            return admit_speckle(source.name, stack)
        return admit_jpeg(stack[0], source.name) if self.noise == "jpeg" else None

    def prepare_extra_inputs(
        self,
        image: npt.NDArray[np.float32],
        extra_inputs: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Read the traces of JPEG compression, or return notes on a named noise."""
        if self.noise == "jpeg":
            return read_jpeg_traces(image)
        if self.noise == STRIPES:
            return extra_inputs, (describe_stripes(image),)
        return extra_inputs, list_noise_hints(
            image
        ) if self.noise == "auto" and "repeated_exposure" not in headers else ()

    def find_missing_pixels(
        self, stack: npt.NDArray[Any], extra_inputs: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Return a mask of the impulses, if the noise is salt and pepper."""
        from napari_dip.tasks.noise_models.impulses import find_stack_impulses

        return find_stack_impulses(stack) if self.noise == SALT_AND_PEPPER else None

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
        return (1, 1) if self.noise == SALT_AND_PEPPER and self.prior == "auto" else measured

    def reports_unreliable_noise(self) -> bool:
        """Return True: denoising depends on the measured noise."""
        return True

    def uses_clipping_correction(self) -> bool:
        """Return whether the noise is that of a detector."""
        return self.noise in DETECTOR

    def uses_half_resolution(self) -> bool:
        """Return whether the user's noise settings also hold for binned pixels."""
        return self.noise in DETECTOR and self.read_noise is None and self.gain is None

    def compute_halo(
        self, source: ImageSpec, extra_headers: Mapping[str, ImageSpec], axes: str
    ) -> int | None:
        """Return the receptive field's radius; None where the noise model needs the whole plane.

        So do repeated exposures and camera maps.
        """
        return RECEPTIVE_FIELD_RADIUS if self.noise in DETECTOR and not extra_headers else None

    def prepare_fit_input(self, fit_input: FitInput) -> FitInput:
        """Remove stripes; clear the validation pixels where whole JPEG blocks replace them."""
        return (
            remove_stripes(fit_input)
            if self.noise == STRIPES
            else clear_validation_pixels(fit_input)
        )

    def uses_joint_channels(self, source: ImageSpec) -> bool:
        """Return whether channels are fitted together; by default, colour samples only."""
        if self.channels == "auto" or self.noise == "jpeg":  # JPEG mixes the colours
            return "S" in source.axes
        return self.channels == "together"

    def choose_prior(self, source: ImageSpec, *, volume: bool) -> str:
        """Return the user's prior, that of a named noise, R2R, or the blind spot."""
        if self.prior != "auto" or self.architecture != PRESET:
            return RANDOM_INPUT.key if self.prior == "auto" else self.prior
        prior_of_noise = {"jpeg": RECOMPRESSION.key, SALT_AND_PEPPER: MASKED_INPUT.key}.get(
            self.noise
        )
        return prior_of_noise or (R2R.key if self._allows_r2r(source, volume) else BLIND_SPOT.key)

    def choose_widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Return the channel widths of the chosen architecture."""
        return compute_channel_widths(self.architecture, prior, preset)

    def _allows_r2r(self, source: ImageSpec, volume: bool) -> bool:
        """Return whether R2R applies: detector noise, in a plane or a jointly trained movie."""
        count = count_planes(source)  # for planes along Z the blind spot is better: ADR 0012
        is_joint_movie = (
            not volume and is_movie(source) and self.choose_sharing(R2R.key, count) == "joint"
        )
        return self.noise in DETECTOR and (count == 1 or is_joint_movie)

    def choose_sharing(self, prior: str, count: int, *, tiles: bool = False) -> SharingMode:
        """Return the training mode of a series from the setting and the number of frames."""
        return choose_sharing_mode(
            self.series_training, count, sees_image=self.has_reusable_network(prior), tiles=tiles
        )

    def has_reusable_network(self, prior: str) -> bool:
        """Return whether the network's input is the image with a detector's noise."""
        return PRIORS[prior].takes_neighbour_frames and self.noise in DETECTOR

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
        from napari_dip.tasks.priors.deep_image_prior import build_random_input_problem

        penalties = make_total_variation_penalty(fit_input, self.smoothing, self.smoothing_kind)
        if fit_input.prior == RECOMPRESSION.key:
            return build_recompression_problem(fit_input, penalties)
        if self.noise == SALT_AND_PEPPER:
            problem = build_impulse_problem(fit_input, penalties)
        else:
            builders = {BLIND_SPOT.key: build_blind_spot_problem, R2R.key: build_r2r_problem}
            problem = builders.get(fit_input.prior, build_random_input_problem)(
                fit_input, penalties
            )
        problem = enlarge_to_full_resolution(fit_input, add_line_offsets(fit_input, problem))
        problem = add_temporal_smoothing(problem, fit_input, self.temporal_smoothing)
        return add_jpeg_projection(fit_input, problem) if self.noise == "jpeg" else problem

    def make_prior(self, fit_input: FitInput, rng: torch.Generator) -> Prior:
        """Build the prior that was chosen."""
        if fit_input.prior == RECOMPRESSION.key:
            return build_recompression_prior(fit_input, rng)
        if fit_input.prior == MASKED_INPUT.key:
            return build_impulse_prior(fit_input, rng)
        if self.noise == SALT_AND_PEPPER:
            fit_input = exclude_impulses(fit_input)
        if PRIORS[fit_input.prior].takes_neighbour_frames:
            return build_neighbour_frame_prior(fit_input, rng)
        return build_architecture_prior(self.architecture, fit_input, rng)
