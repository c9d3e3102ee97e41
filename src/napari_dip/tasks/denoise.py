"""Denoise: remove the noise of a single image, judged by the image itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.tasks.base import Setting

if TYPE_CHECKING:
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Denoise:
    """Settings of a denoising, each with a default that suits most images."""

    name: ClassVar[str] = "denoise"
    title: ClassVar[str] = "Denoise"
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    done: ClassVar[str] = "denoised"

    prior: Annotated[
        Literal["auto", "noise", "blind-spot"],
        Setting(
            "Prior",
            "What the untrained network is fed: the image with pixels hidden (blind spot), "
            "or fixed random noise as in the Deep Image Prior paper. Automatic takes the blind spot.",
            choices={"auto": "Automatic", "blind-spot": "Blind spot", "noise": "Fixed noise (paper)"},
        ),
    ] = "auto"
    noise: Annotated[
        Literal["auto", "gaussian", "poisson-gaussian"],
        Setting(
            "Noise model",
            "Gaussian: the noise is equally strong everywhere. Poisson-Gaussian: it grows with "
            "brightness, as photon noise does. Automatic measures which.",
            choices={"auto": "Automatic", "gaussian": "Gaussian", "poisson-gaussian": "Poisson-Gaussian"},
        ),
    ] = "auto"
    read_noise: Annotated[
        Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None,
        Setting(
            "Read noise",
            "Standard deviation of the noise where the image is dark, in intensity units of the "
            "image. Empty: measured.",
            least=0,
            most=1e9,
        ),
    ] = None
    gain: Annotated[
        Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None,
        Setting(
            "Gain",
            "How much the noise variance grows for each unit of brightness. Empty: measured.",
            least=0,
            most=1e9,
        ),
    ] = None
    smoothing: Annotated[
        Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
        Setting(
            "Smoothing",
            "Weight of a total-variation penalty beside the network, without unit. 0 is best for "
            "most images; 0.1 is visible, 1 is strong.",
            least=0,
            most=100,
            step=0.05,
        ),
    ] = 0.0
    channels: Annotated[
        Literal["auto", "together", "separate"],
        Setting(
            "Channels",
            "Colour photographs are restored with all channels together, fluorescence channels "
            "one by one, unless you choose otherwise.",
            choices={"auto": "Automatic", "together": "Together", "separate": "One by one"},
        ),
    ] = "auto"

    def check(self, spec: ImageSpec) -> Refusal | None:
        """Nothing beyond what holds for every task."""
        return None

    def together(self, spec: ImageSpec) -> bool:
        """Colour samples share edges, so their fit is coupled; channels of a microscope need not."""
        return "S" in spec.axes if self.channels == "auto" else self.channels == "together"

    def to_dict(self) -> dict[str, Any]:
        """Settings that differ from their defaults."""
        return {key: value for key, value in asdict(self).items() if value != getattr(type(self), key)}
