"""Denoise: remove the noise of a single image, judged by the image itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.tasks.base import NoiseWish, Scene, Setting, Task
from napari_dip.tasks.blind_spot import blind_spot_code, blind_spot_problem, hidden_words
from napari_dip.tasks.noise_settings import Gain, NoiseModel, ReadNoise
from napari_dip.tasks.smoothing import Smoothing, smoothed

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.io import ImageSpec


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Denoise(Task):
    """Settings of a denoising, each with a default that suits most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
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
    noise: NoiseModel = "auto"
    read_noise: ReadNoise = None
    gain: Gain = None
    smoothing: Smoothing = 0.0
    channels: Annotated[
        Literal["auto", "together", "separate"],
        Setting(
            "Channels",
            "Colour photographs are restored with all channels together, fluorescence channels "
            "one by one, unless you choose otherwise.",
            choices={"auto": "Automatic", "together": "Together", "separate": "One by one"},
        ),
    ] = "auto"

    def together(self, source: ImageSpec) -> bool:
        """Couple the fit of colour samples, which share edges; a microscope's channels need not."""
        return "S" in source.axes if self.channels == "auto" else self.channels == "together"

    def first_choice(self) -> str:
        """Blind spot, unless the user wants the paper's prior."""
        return "blind-spot" if self.prior == "auto" else self.prior

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say why this prior runs, and how it hides."""
        asked = self.prior != "auto"
        chosen = "you chose it" if asked else "it is what 'automatic' takes for denoising"
        if prior != "blind-spot":
            return chosen
        return f"{chosen}; {hidden_words(block)}"

    def noise_wish(self) -> NoiseWish:
        """Say what the settings hold."""
        return NoiseWish(self.noise, self.read_noise, self.gain)

    def problem(self, scene: Scene) -> Problem:
        """Explain the image as picture plus noise; the pixel's own word comes in at the end."""
        from napari_dip.tasks.noise_code import noise_code_problem

        penalties = smoothed(scene, self.smoothing)
        if scene.prior == "blind-spot":
            return blind_spot_problem(scene, penalties)
        return noise_code_problem(scene, penalties)

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Blind spot, or the paper's fixed noise."""
        from napari_dip.tasks.noise_code import noise_code

        if scene.prior == "blind-spot":
            return blind_spot_code(scene, rng)
        return noise_code(scene, scene.grid, rng)
