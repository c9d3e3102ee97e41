"""Denoise: remove the noise of a single image, judged by the image itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import refusal
from napari_dip.tasks.base import IMAGE, Input, NoiseWish, Scene, Setting, Task
from napari_dip.tasks.blind_spot import blind_spot_code, blind_spot_problem, hidden_words
from napari_dip.tasks.jpeg import (
    RECOMPRESSION,
    admit_jpeg,
    check_jpeg,
    keeping_to,
    recompression,
    recompression_problem,
    traces_of,
    without_pixel_judges,
)
from napari_dip.tasks.movies import (
    Beside,
    Steadiness,
    apart_words,
    channels_beside,
    far_apart,
    shown_beside,
    steady,
)
from napari_dip.tasks.noise_settings import Gain, NoiseOrCompression, ReadNoise
from napari_dip.tasks.second import SECOND, check_second
from napari_dip.tasks.smoothing import Smoothing, SmoothingKind, smoothed

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Denoise(Task):
    """Settings of a denoising, each with a default that suits most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
    inputs: ClassVar[tuple[Input, ...]] = (IMAGE, SECOND)
    done: ClassVar[str] = "denoised"
    stacks: ClassVar[bool] = True

    prior: Annotated[
        Literal["auto", "noise", "blind-spot"],
        Setting(
            "Prior",
            "What the untrained network is fed: the image with pixels hidden (blind spot), "
            "or fixed random noise, as in the Deep Image Prior paper. Automatic: blind spot.",
            choices={
                "auto": "Automatic",
                "blind-spot": "Blind spot",
                "noise": "Fixed noise (paper)",
            },
        ),
    ] = "auto"
    noise: NoiseOrCompression = "auto"
    read_noise: ReadNoise = None
    gain: Gain = None
    smoothing: Smoothing = 0.0
    smoothing_kind: SmoothingKind = "isotropic"
    neighbours: Beside = True
    steadiness: Steadiness = 1.0
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
        return no or (check_second(source, others["second"]) if "second" in others else None)

    def check_axes(
        self, source: ImageSpec, others: Mapping[str, ImageSpec], axes: str
    ) -> Refusal | None:
        """Say no to volumes of what is compressed plane by plane."""
        if self.noise == "jpeg" and axes != "YX":
            return refusal("jpeg-volume", name=source.name)
        return None

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Plane by plane where planes were compressed, or lie far apart."""
        return "planes" if self.noise == "jpeg" or self._apart(source) else "auto"

    def remarks(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[str, ...]:
        """Say that planes lie far apart."""
        return (apart_words(source),) if self._apart(source) else ()

    def _apart(self, source: ImageSpec) -> bool:
        """Whether planes are better seen one by one, each beside its neighbours."""
        return self.looks_beside(self.first_choice(source, volume=False)) and far_apart(source)

    def admit_image(self, source: ImageSpec, parts: npt.NDArray[np.float32]) -> Refusal | None:
        """Say no to undoing a compression that is not there."""
        return admit_jpeg(parts[0], source.name) if self.noise == "jpeg" else None

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[str, ...]]:
        """Read how the picture was compressed, if that is to be undone."""
        return traces_of(image) if self.noise == "jpeg" else (others, ())

    def seen(self, scene: Scene) -> Scene:
        """Let whole blocks judge where compression is to be undone."""
        return without_pixel_judges(scene)

    def together(self, source: ImageSpec) -> bool:
        """Couple the fit of colour samples, which share edges; a microscope's channels need not."""
        if self.channels == "auto" or self.noise == "jpeg":  # which mixes the colours
            return "S" in source.axes
        return self.channels == "together"

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Blind spot, unless the user wants the paper's prior."""
        if self.prior != "auto":
            return self.prior
        return RECOMPRESSION if self.noise == "jpeg" else "blind-spot"

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say why this prior runs, and how it hides."""
        asked = self.prior != "auto"
        if prior == RECOMPRESSION:
            return "it learns to undo the compression that was found, on the picture itself"
        chosen = "you chose it" if asked else "it is what 'automatic' takes for denoising"
        if prior != "blind-spot":
            return chosen
        return f"{chosen}; {hidden_words(block)}"

    def noise_wish(self) -> NoiseWish:
        """Say what the settings hold."""
        return NoiseWish(self.noise, self.read_noise, self.gain)

    def looks_beside(self, prior: str) -> bool:
        """Only a prior that is fed the image can be fed more of it."""
        return self.neighbours and prior == "blind-spot"

    def looks_back(self) -> bool:
        """Where the result is to be steady."""
        return self.steadiness > 0

    def problem(self, scene: Scene) -> Problem:
        """Explain the image as picture plus noise; the pixel's own word comes in at the end."""
        from napari_dip.tasks.noise_code import noise_code_problem

        penalties = smoothed(scene, self.smoothing, self.smoothing_kind)
        if scene.prior == RECOMPRESSION:
            return recompression_problem(scene, penalties)
        if scene.prior == "blind-spot":
            problem = steady(blind_spot_problem(scene, penalties), scene, self.steadiness)
        else:
            problem = steady(noise_code_problem(scene, penalties), scene, self.steadiness)
        return keeping_to(scene, problem) if self.noise == "jpeg" else problem

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Blind spot, the paper's fixed noise, or the picture compressed once more."""
        from napari_dip.tasks.noise_code import noise_code

        if scene.prior == RECOMPRESSION:
            return recompression(scene, rng)
        if scene.prior == "blind-spot":
            code = blind_spot_code(scene, rng, further=channels_beside(scene))
            return shown_beside(code, scene)
        return noise_code(scene, scene.grid, rng)
