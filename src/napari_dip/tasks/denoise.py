"""Denoise: remove the noise of a single image, judged by the image itself.

An oversampled image is fitted at half its size, and handed over in full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import refusal
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
    MASKED_INPUT_PRIOR,
    SALT_AND_PEPPER,
    build_impulse_prior,
    build_impulse_problem,
    describe_impulses,
    exclude_impulses,
    has_no_impulses,
)
from napari_dip.tasks.noise_models.jpeg import (
    RECOMPRESSION,
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
    R2R_PRIOR,
    UNRELIABLE_NOISE_REASON,
    WEAK_NOISE_REASON,
    build_r2r_problem,
)
from napari_dip.tasks.shared_settings import (
    NEIGHBOUR_FRAME_PRIORS,
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


def enlarge_to_full_resolution(scene: FitInput, problem: Problem) -> Problem:
    """Enlarge what a problem ends with, where the scene is smaller than the picture is to be."""
    from napari_dip.engine.noise.oversampling import upscale_estimate
    from napari_dip.engine.problem import append_final_step

    if scene.enlarged is None:
        return problem
    full = append_final_step(problem, lambda _, done: upscale_estimate(done, scene.enlarged))
    # a camera's noise is filtered at full size
    return full if scene.camera is None else replace(full, refine=problem.refine)


#: Noise that a camera makes, in contrast to what lies on the picture.
DETECTOR = ("auto", "gaussian", "poisson-gaussian")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Denoise(Task):
    """Settings of a denoising, each with a default that suits most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, REPEATED_EXPOSURE, *CAMERA_MAPS)
    done: ClassVar[str] = "denoised"
    stacks: ClassVar[bool] = True

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

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Say no to a repeated exposure of another size, or to what was never compressed so."""
        no = check_jpeg(source, others) if self.noise == "jpeg" else None
        no = no or check_named_noise(self.noise, others)
        no = no or check_architecture(self.architecture, self.prior, self.noise)
        no = no or check_maps(source, others, of_detector=self.noise in DETECTOR)
        return no or (
            check_exposure_header(source, others["repeated_exposure"])
            if "repeated_exposure" in others
            else None
        )

    def admit(
        self, source: ImageSpec, others: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Say no to maps of a camera that hold what no camera has."""
        return admit_maps(others)

    def check_axes(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Say no to volumes of what is compressed plane by plane."""
        if self.noise == "jpeg" and axes != "YX":
            return refusal("jpeg-volume", name=source.name)
        if self.noise == SALT_AND_PEPPER and axes != "YX":
            return refusal("impulses-volume", name=source.name)
        return None

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Plane by plane where planes were compressed, have impulses, or lie far apart."""
        alone = self.noise in ("jpeg", SALT_AND_PEPPER)
        return "planes" if alone or self._apart(source) else "auto"

    def remarks(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[Note, ...]:
        """Say that planes lie far apart."""
        return (describe_distant_planes(source),) if self._apart(source) else ()

    def _apart(self, source: ImageSpec) -> bool:
        """Whether planes are better seen one by one, each beside its neighbours."""
        return self.looks_beside(self.first_choice(source, volume=False)) and has_distant_planes(
            source
        )

    def admit_image(self, source: ImageSpec, parts: npt.NDArray[np.float32]) -> Refusal | None:
        """Say no to undoing a compression that is not there, or to speckle below 0."""
        if self.noise == SPECKLE:
            return admit_speckle(source.name, parts)
        return admit_jpeg(parts[0], source.name) if self.noise == "jpeg" else None

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Read how the picture was compressed, or say what else was found of a named noise."""
        if self.noise == "jpeg":
            return read_jpeg_traces(image)
        if self.noise == STRIPES:
            return others, (describe_stripes(image),)
        return others, list_noise_hints(
            image
        ) if self.noise == "auto" and "repeated_exposure" not in headers else ()

    def missing(
        self, parts: npt.NDArray[Any], others: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Find impulses, if that is the noise: they tell nothing of the picture."""
        from napari_dip.tasks.noise_models.impulses import find_stack_impulses

        return find_stack_impulses(parts) if self.noise == SALT_AND_PEPPER else None

    def describe_missing_pixels(self, measured_mask: npt.NDArray[np.bool_]) -> tuple[Note, ...]:
        """Say how many impulses were found."""
        return (describe_impulses(measured_mask),)

    def choose_prior_by_mask(
        self, prior: str, measured_mask: npt.NDArray[np.bool_] | None
    ) -> tuple[str, str]:
        """Restore a picture without impulses as if none had been looked for."""
        if prior == MASKED_INPUT_PRIOR and has_no_impulses(measured_mask):
            return "blind-spot", "no impulses were found, so there is nothing to fill in"
        return prior, ""

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels where impulses are filled: what neighbours tell is wanted there."""
        return (1, 1) if self.noise == SALT_AND_PEPPER and self.prior == "auto" else measured

    def doubts_noise(self) -> bool:
        """Say so: nothing but the noise has to be known here."""
        return True

    def unclips(self) -> bool:
        """Where a detector made the noise: each pixel's own is cut, before anything else."""
        return self.noise in DETECTOR

    def halves(self) -> bool:
        """Where all that the user says of the noise holds for coarser pixels, too."""
        return self.noise in DETECTOR and self.read_noise is None and self.gain is None

    def reach(self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str) -> int | None:
        """As far as a network sees; what is found of whole lines or blocks needs the whole."""
        return RECEPTIVE_FIELD_RADIUS if self.noise in DETECTOR and not others else None

    def prepare_fit_input(self, scene: FitInput) -> FitInput:
        """Let whole blocks judge where compression is to be undone; take stripes out."""
        return remove_stripes(scene) if self.noise == STRIPES else clear_validation_pixels(scene)

    def together(self, source: ImageSpec) -> bool:
        """Couple the fit of colour samples, which share edges; a microscope's channels need not."""
        if self.channels == "auto" or self.noise == "jpeg":  # which mixes the colours
            return "S" in source.axes
        return self.channels == "together"

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Blind spot, unless the user wants the paper's prior."""
        if self.prior != "auto" or self.architecture != PRESET:
            return "random-input" if self.prior == "auto" else self.prior
        named = {"jpeg": RECOMPRESSION, SALT_AND_PEPPER: MASKED_INPUT_PRIOR}.get(self.noise)
        return named or (R2R_PRIOR if self._simple(source, volume) else "blind-spot")

    def widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the network that was asked for."""
        return compute_channel_widths(self.architecture, prior, preset)

    def _simple(self, source: ImageSpec, volume: bool) -> bool:
        """Whether the noise is a detector's, in a plane or in a movie with one network for all."""
        count = count_planes(source)  # of planes along depth, hidden pixels tell more: ADR 0012
        many = not volume and is_movie(source) and self.shares(R2R_PRIOR, count) == "joint"
        return self.noise in DETECTOR and (count == 1 or many)

    def shares(self, prior: str, count: int, *, tiles: bool = False) -> SharingMode:
        """As the setting says, where a network is shown the noise of a detector."""
        return choose_sharing_mode(
            self.series_training, count, sees_image=self.serves(prior), tiles=tiles
        )

    def serves(self, prior: str) -> bool:
        """Where it is shown the noise of a detector."""
        return prior in NEIGHBOUR_FRAME_PRIORS and self.noise in DETECTOR

    def choose_prior_by_noise(self, prior: str, *, doubted: bool, weak: bool) -> tuple[str, str]:
        """Hide pixels where the noise is too little known, or too weak, to be put on top."""
        if prior != R2R_PRIOR or self.prior != "auto" or not (doubted or weak):
            return prior, ""
        return "blind-spot", UNRELIABLE_NOISE_REASON if doubted else WEAK_NOISE_REASON

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say why this prior runs, and how it hides."""
        is_chosen = self.prior != "auto"
        if prior == RECOMPRESSION:
            return "it learns to undo the compression that was found, on the picture itself"
        if prior == MASKED_INPUT_PRIOR:
            return "it learns to fill pixels in from those around, as the impulses need"
        chosen = "you chose it" if is_chosen else "it is what 'automatic' takes for denoising"
        if prior == R2R_PRIOR:
            return f"{chosen} where the noise is known" if not is_chosen else chosen
        if prior != "blind-spot":
            return chosen
        return f"{chosen}; {describe_blind_spot(block)}"

    def noise_wish(self) -> NoiseRequest:
        """Say what the settings hold."""
        return NoiseRequest(model=self.noise, read_noise=self.read_noise, gain=self.gain)

    def looks_beside(self, prior: str) -> bool:
        """Only a prior that is fed the image can be fed more of it."""
        return self.neighbouring_frames and prior in NEIGHBOUR_FRAME_PRIORS

    def looks_back(self) -> bool:
        """Where the result is to be steady."""
        return self.temporal_smoothing > 0

    def problem(self, scene: FitInput) -> Problem:
        """Explain the image as picture plus noise; the pixel's own word comes in at the end."""
        from napari_dip.tasks.priors.deep_image_prior import build_random_input_problem

        penalties = make_total_variation_penalty(scene, self.smoothing, self.smoothing_kind)
        if scene.prior == RECOMPRESSION:
            return build_recompression_problem(scene, penalties)
        if self.noise == SALT_AND_PEPPER:
            problem = build_impulse_problem(scene, penalties)
        else:
            values = {"blind-spot": build_blind_spot_problem, R2R_PRIOR: build_r2r_problem}
            problem = values.get(scene.prior, build_random_input_problem)(scene, penalties)
        problem = enlarge_to_full_resolution(scene, add_line_offsets(scene, problem))
        problem = add_temporal_smoothing(problem, scene, self.temporal_smoothing)
        return add_jpeg_projection(scene, problem) if self.noise == "jpeg" else problem

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Blind spot, the paper's fixed noise, or the picture compressed once more."""
        if scene.prior == RECOMPRESSION:
            return build_recompression_prior(scene, rng)
        if scene.prior == MASKED_INPUT_PRIOR:
            return build_impulse_prior(scene, rng)
        if self.noise == SALT_AND_PEPPER:
            scene = exclude_impulses(scene)
        if scene.prior in NEIGHBOUR_FRAME_PRIORS:
            return build_neighbour_frame_prior(scene, rng)
        return build_architecture_prior(self.architecture, scene, rng)
