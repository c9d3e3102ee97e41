"""Denoise: remove the noise of a single image, judged by the image itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.tasks.base import Scene, Setting

if TYPE_CHECKING:
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec


#: Part of the pixels that the blind spot hides at a step: single pixels, and blocks, whose centre
#: alone drives the fit. On FMD crops single pixels do not care (1/12, 1/6 and 1/4 lie within
#: 0.1 dB); blocks of 5 x 7 gain 0.2 dB from 0.15 to 0.3 and nothing beyond.
HIDDEN_SHARE, HIDDEN_SHARE_OF_BLOCKS = 1 / 8, 0.3
#: Blocks from this width on drive the fit with their middle three pixels, not one.
WIDE = 7
#: Channels of the fixed noise, its jitter in units of its range, and the channels of a skip:
#: the values of the paper's denoising.
CODE_CHANNELS, CODE_JITTER, SKIP = 32, 1 / 3, 4


def trusted_core(side: int) -> int:
    """Width of the middle of a hidden block of that width that may drive the fit."""
    return 3 if side >= WIDE else 1


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
            "or fixed random noise, as in the Deep Image Prior paper. Automatic: blind spot.",
            choices={
                "auto": "Automatic",
                "blind-spot": "Blind spot",
                "noise": "Fixed noise (paper)",
            },
        ),
    ] = "auto"
    noise: Annotated[
        Literal["auto", "gaussian", "poisson-gaussian"],
        Setting(
            "Noise model",
            "Gaussian: the noise is equally strong everywhere. Poisson-Gaussian: it grows with "
            "brightness, as photon noise does. Automatic measures which.",
            choices={
                "auto": "Automatic",
                "gaussian": "Gaussian",
                "poisson-gaussian": "Poisson-Gaussian",
            },
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
        """Couple the fit of colour samples, which share edges; a microscope's channels need not."""
        return "S" in spec.axes if self.channels == "auto" else self.channels == "together"

    def problem(self, scene: Scene) -> Problem:
        """Explain the image as picture plus noise; the pixel's own word comes in at the end."""
        from napari_dip.engine.fidelity import (
            gaussian_likelihood,
            mean_and_doubt,
            posterior,
            weighted_residual,
        )
        from napari_dip.engine.operators import Identity
        from napari_dip.engine.overfitting import NoiseTaken
        from napari_dip.engine.penalties import total_variation
        from napari_dip.engine.problem import Problem, Term

        blind = scene.prior == "blind-spot"
        noise = scene.noise.times(scene.granted)
        fidelity = (
            mean_and_doubt(noise, scene.noise_level**2) if blind else weighted_residual(noise)
        )
        term = Term(
            scene.measurement,
            Identity(),
            fidelity,
            gaussian_likelihood(noise),
            fitted=1 - scene.guarded,
            held_out=scene.held_out,
        )
        penalties = (
            ((self.smoothing, total_variation(scene.noise_level)),) if self.smoothing else ()
        )
        if not blind:
            shared = any(side > 1 for side in scene.block)
            return Problem(
                (term,), penalties, unseen=NoiseTaken(scene.measurement) if shared else None
            )

        def finish(estimate: Estimate) -> Estimate:
            return posterior(
                scene.noise,
                scene.measurement,
                estimate,
                granted=scene.granted,
                judges=scene.held_out,
            )

        return Problem((term,), penalties, finish)

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Blind spot, or the paper's fixed noise."""
        import torch

        from napari_dip.engine.networks import Hourglass
        from napari_dip.engine.prior import BlindSpotCode, NoiseCode

        channels, *grid = scene.measurement.shape[1:]
        if scene.prior == "blind-spot":
            net = Hourglass(
                len(grid),
                channels,
                2 * channels,
                scene.widths,
                skip=None,
                normalised=False,
                rng=rng,
            )
            window = None if scene.window is None else (scene.window,) * len(grid)
            single = all(side == 1 for side in scene.block)
            return BlindSpotCode(
                net,
                scene.measurement,
                scene.guarded,
                scene.block,
                tuple(trusted_core(side) for side in scene.block),
                share=HIDDEN_SHARE if single else HIDDEN_SHARE_OF_BLOCKS,
                window=window,
            )
        net = Hourglass(
            len(grid), CODE_CHANNELS, channels, scene.widths, skip=SKIP, normalised=True, rng=rng
        )
        code = torch.empty(1, CODE_CHANNELS, *grid).uniform_(0, 0.1, generator=rng)
        return NoiseCode(net, code, CODE_JITTER * 0.1)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that differ from their defaults."""
        return {
            key: value for key, value in asdict(self).items() if value != getattr(type(self), key)
        }
