"""Denoise: remove the noise of a single image, judged by the image itself.

An oversampled image is fitted at half its size, and handed over in full.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import refusal
from napari_dip.tasks.base import IMAGE, SEEN, Input, NoiseWish, Scene, Setting, Task
from napari_dip.tasks.noise_models.camera_maps import CAMERA_MAPS, admit_maps, check_maps
from napari_dip.tasks.noise_models.impulses import (
    FILLING,
    IMPULSES,
    filling_code,
    impulse_problem,
    impulse_words,
    impulses_hidden,
    no_impulses,
)
from napari_dip.tasks.noise_models.jpeg import (
    RECOMPRESSION,
    admit_jpeg,
    check_jpeg,
    keeping_to,
    recompression,
    recompression_problem,
    traces_of,
    without_pixel_judges,
)
from napari_dip.tasks.noise_models.named_noise import SPECKLE, admit_speckle, check_named, hints
from napari_dip.tasks.noise_models.stripes import STRIPES, destriped, stripe_words, with_offsets
from napari_dip.tasks.priors.blind_spot import blind_spot_problem, hidden_words
from napari_dip.tasks.priors.deep_image_prior import (
    PRESET,
    Network,
    check_network,
    designed_code,
    widths_of,
)
from napari_dip.tasks.priors.r2r import DOUBTED, RECORRUPTED, WEAK, recorrupted_problem
from napari_dip.tasks.shared_settings import (
    BESIDE,
    SECOND,
    Beside,
    Gain,
    NoiseOrCompression,
    ReadNoise,
    Sharing,
    Smoothing,
    SmoothingKind,
    Steadiness,
    Way,
    apart_words,
    check_second,
    far_apart,
    is_movie,
    plane_count,
    shown_beside,
    smoothed,
    steady,
    way_of_sharing,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec


def in_full(scene: Scene, problem: Problem) -> Problem:
    """Enlarge what a problem ends with, where the scene is smaller than the picture is to be."""
    from napari_dip.engine.noise.oversampling import enlarged
    from napari_dip.engine.problem import followed_by

    if scene.enlarged is None:
        return problem
    full = followed_by(problem, lambda _, done: enlarged(done, scene.enlarged))
    # a camera's noise is filtered at full size
    return full if scene.camera is None else replace(full, refine=problem.refine)


#: Noise that a camera makes, in contrast to what lies on the picture.
DETECTOR = ("auto", "gaussian", "poisson-gaussian")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Denoise(Task):
    """Settings of a denoising, each with a default that suits most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, SECOND, *CAMERA_MAPS)
    done: ClassVar[str] = "denoised"
    stacks: ClassVar[bool] = True

    prior: Annotated[
        Literal["auto", "noise", "blind-spot", "recorrupted"],
        Setting(
            "Prior",
            "What the untrained network is fed: the image with more noise of its own kind, the "
            "image with pixels hidden (blind spot), or fixed random noise, as in the Deep Image "
            "Prior paper. Automatic: more noise where the noise is known well, in single planes; "
            "else the blind spot.",
            choices={
                "auto": "Automatic",
                "recorrupted": "More noise",
                "blind-spot": "Blind spot",
                "noise": "Fixed noise (paper)",
            },
        ),
    ] = "auto"
    network: Network = PRESET
    noise: NoiseOrCompression = "auto"
    read_noise: ReadNoise = None
    gain: Gain = None
    smoothing: Smoothing = 0.0
    smoothing_kind: SmoothingKind = "isotropic"
    neighbours: Beside = True
    steadiness: Steadiness = 1.0
    sharing: Sharing = "auto"
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
        """Say no to a second image of another size, or to what was never compressed so."""
        no = check_jpeg(source, others) if self.noise == "jpeg" else None
        no = no or check_named(self.noise, others)
        no = no or check_network(self.network, self.prior, self.noise)
        no = no or check_maps(source, others, of_detector=self.noise in DETECTOR)
        return no or (check_second(source, others["second"]) if "second" in others else None)

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
        if self.noise == IMPULSES and axes != "YX":
            return refusal("impulses-volume", name=source.name)
        return None

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Plane by plane where planes were compressed, have impulses, or lie far apart."""
        alone = self.noise in ("jpeg", IMPULSES)
        return "planes" if alone or self._apart(source) else "auto"

    def remarks(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[str, ...]:
        """Say that planes lie far apart."""
        return (apart_words(source),) if self._apart(source) else ()

    def _apart(self, source: ImageSpec) -> bool:
        """Whether planes are better seen one by one, each beside its neighbours."""
        return self.looks_beside(self.first_choice(source, volume=False)) and far_apart(source)

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
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[str, ...]]:
        """Read how the picture was compressed, or say what else was found of a named noise."""
        if self.noise == "jpeg":
            return traces_of(image)
        if self.noise == STRIPES:
            return others, (stripe_words(image),)
        return others, hints(image) if self.noise == "auto" and "second" not in headers else ()

    def missing(
        self, parts: npt.NDArray[Any], others: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Find impulses, if that is the noise: they tell nothing of the picture."""
        from napari_dip.tasks.noise_models.impulses import impulses_of

        return impulses_of(parts) if self.noise == IMPULSES else None

    def told(self, known: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        """Say how many impulses were found."""
        return (impulse_words(known),)

    def settled(self, prior: str, known: npt.NDArray[np.bool_] | None) -> tuple[str, str]:
        """Restore a picture without impulses as if none had been looked for."""
        if prior == FILLING and no_impulses(known):
            return "blind-spot", "no impulses were found, so there is nothing to fill in"
        return prior, ""

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels where impulses are filled: what neighbours tell is wanted there."""
        return (1, 1) if self.noise == IMPULSES and self.prior == "auto" else measured

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
        return SEEN if self.noise in DETECTOR and not others else None

    def seen(self, scene: Scene) -> Scene:
        """Let whole blocks judge where compression is to be undone; take stripes out."""
        return destriped(scene) if self.noise == STRIPES else without_pixel_judges(scene)

    def together(self, source: ImageSpec) -> bool:
        """Couple the fit of colour samples, which share edges; a microscope's channels need not."""
        if self.channels == "auto" or self.noise == "jpeg":  # which mixes the colours
            return "S" in source.axes
        return self.channels == "together"

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Blind spot, unless the user wants the paper's prior."""
        if self.prior != "auto" or self.network != PRESET:
            return "noise" if self.prior == "auto" else self.prior
        named = {"jpeg": RECOMPRESSION, IMPULSES: FILLING}.get(self.noise)
        return named or (RECORRUPTED if self._simple(source, volume) else "blind-spot")

    def widths(self, prior: str, preset: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the network that was asked for."""
        return widths_of(self.network, prior, preset)

    def _simple(self, source: ImageSpec, volume: bool) -> bool:
        """Whether the noise is a detector's, in a plane or in a movie with one network for all."""
        count = plane_count(source)  # of planes along depth, hidden pixels tell more: ADR 0012
        many = not volume and is_movie(source) and self.shares(RECORRUPTED, count) == "together"
        return self.noise in DETECTOR and (count == 1 or many)

    def shares(self, prior: str, count: int, *, tiles: bool = False) -> Way:
        """As the setting says, where a network is shown the noise of a detector."""
        return way_of_sharing(self.sharing, count, shown=self.serves(prior), tiles=tiles)

    def serves(self, prior: str) -> bool:
        """Where it is shown the noise of a detector."""
        return prior in BESIDE and self.noise in DETECTOR

    def trusting(self, prior: str, *, doubted: bool, weak: bool) -> tuple[str, str]:
        """Hide pixels where the noise is too little known, or too weak, to be put on top."""
        if prior != RECORRUPTED or self.prior != "auto" or not (doubted or weak):
            return prior, ""
        return "blind-spot", DOUBTED if doubted else WEAK

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say why this prior runs, and how it hides."""
        asked = self.prior != "auto"
        if prior == RECOMPRESSION:
            return "it learns to undo the compression that was found, on the picture itself"
        if prior == FILLING:
            return "it learns to fill pixels in from those around, as the impulses need"
        chosen = "you chose it" if asked else "it is what 'automatic' takes for denoising"
        if prior == RECORRUPTED:
            return f"{chosen} where the noise is known" if not asked else chosen
        if prior != "blind-spot":
            return chosen
        return f"{chosen}; {hidden_words(block)}"

    def noise_wish(self) -> NoiseWish:
        """Say what the settings hold."""
        return NoiseWish(self.noise, self.read_noise, self.gain)

    def looks_beside(self, prior: str) -> bool:
        """Only a prior that is fed the image can be fed more of it."""
        return self.neighbours and prior in BESIDE

    def looks_back(self) -> bool:
        """Where the result is to be steady."""
        return self.steadiness > 0

    def problem(self, scene: Scene) -> Problem:
        """Explain the image as picture plus noise; the pixel's own word comes in at the end."""
        from napari_dip.tasks.priors.deep_image_prior import noise_code_problem

        penalties = smoothed(scene, self.smoothing, self.smoothing_kind)
        if scene.prior == RECOMPRESSION:
            return recompression_problem(scene, penalties)
        if self.noise == IMPULSES:
            problem = impulse_problem(scene, penalties)
        else:
            known = {"blind-spot": blind_spot_problem, RECORRUPTED: recorrupted_problem}
            problem = known.get(scene.prior, noise_code_problem)(scene, penalties)
        problem = in_full(scene, with_offsets(scene, problem))
        problem = steady(problem, scene, self.steadiness)
        return keeping_to(scene, problem) if self.noise == "jpeg" else problem

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Blind spot, the paper's fixed noise, or the picture compressed once more."""
        if scene.prior == RECOMPRESSION:
            return recompression(scene, rng)
        if scene.prior == FILLING:
            return filling_code(scene, rng)
        if self.noise == IMPULSES:
            scene = impulses_hidden(scene)
        if scene.prior in BESIDE:
            return shown_beside(scene, rng)
        return designed_code(self.network, scene, rng)
