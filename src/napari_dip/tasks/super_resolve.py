"""Super-resolve: a finer picture that explains the coarse one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from napari_dip.tasks.base import NoiseWish, Scene, Setting, Task
from napari_dip.tasks.larger_object import GAUSSIAN_REACH, padded, within_frame
from napari_dip.tasks.noise_settings import Gain, NoiseModel, ReadNoise

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem
    from napari_dip.io import ImageSpec

#: Factors of one axis; the paper shows 4 and 8.
ALLOWED = (1, 2, 3, 4, 8)
#: Standard deviation of the code's jitter up to that factor, and beyond: the paper's 0.03 for 4
#: and 0.05 for 8.
JITTER, JITTER_BEYOND, FINE = 0.03, 0.05, 4
#: Jitter of the interpolated image, which has a range of about one.
JITTER_OF_SHOWN = 0.1


def factor_text(value: object) -> str:
    """Bring a factor, or one for each axis, to the text that recipes keep, such as "2" or "1,4".

    Parameters
    ----------
    value : int, str or sequence of int

    Raises
    ------
    PydanticCustomError
        If a factor is not allowed, or all are 1.
    """
    parts: list[Any]
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",")]
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = [value]
    texts = [str(part) for part in parts]
    numbers = [int(text) for text in texts if text in map(str, ALLOWED)]
    if len(numbers) != len(texts) or len(numbers) not in (1, 2) or max(numbers) == 1:
        raise PydanticCustomError(
            "factor", "Input should be 2, 3, 4 or 8, or one of 1, 2, 3, 4, 8 for each axis as Y,X"
        )
    return str(numbers[0]) if len(set(numbers)) == 1 else ",".join(map(str, numbers))


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SuperResolve(Task):
    """Settings of a super-resolution: how much finer, and what made the pixels coarse."""

    name: ClassVar[str] = "super-resolve"
    title: ClassVar[str] = "Super-resolve"
    done: ClassVar[str] = "super-resolved"

    factor: Annotated[
        str,
        BeforeValidator(factor_text),
        Setting(
            "Enlarge ×",
            "How many pixels the result has for each pixel of the image: 2, 3, 4 or 8, or one "
            "number for each axis as Y,X, such as 1,4.",
            advanced=False,
        ),
    ] = "2"
    model: Annotated[
        Literal["lanczos", "binning"],
        Setting(
            "Coarse pixels",
            "What made the pixels coarse. Lanczos: a picture was scaled down with a smooth filter, "
            "as in the Deep Image Prior paper. Binning: each pixel is the mean of the fine ones "
            "that it covers, as on a camera.",
            choices={"lanczos": "Scaled down (Lanczos)", "binning": "Binning (camera)"},
            advanced=False,
        ),
    ] = "lanczos"
    psf_sigma: Annotated[
        Annotated[float, Field(ge=0, le=20, allow_inf_nan=False)],
        Setting(
            "PSF width",
            "Standard deviation of the microscope's blur, in pixels of the result; the result is "
            "freed from it. 0: none.",
            least=0,
            most=20,
            step=0.05,
        ),
    ] = 0.0
    start: Annotated[
        Literal["interpolated", "none"],
        Setting(
            "Warm start",
            "What the network is fed beside noise: the interpolated image, from which it starts "
            "much sooner; or nothing, as in the Deep Image Prior paper.",
            choices={"interpolated": "Interpolated image", "none": "None (paper)"},
        ),
    ] = "interpolated"
    noise: NoiseModel = "auto"
    read_noise: ReadNoise = None
    gain: Gain = None

    @property
    def along(self) -> tuple[int, int]:
        """Factors along Y and X."""
        numbers = [int(part) for part in self.factor.split(",")]
        return numbers[0], numbers[-1]

    @property
    def margin(self) -> tuple[int, int]:
        """Fine pixels beyond the frame from which the PSF brings light, on either side."""
        from math import ceil

        beyond = ceil(GAUSSIAN_REACH * self.psf_sigma)
        return beyond, beyond

    def factors(self, source: ImageSpec) -> tuple[int, int]:
        """As the user wants it."""
        return self.along

    def network_grid(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[int, int]:
        """Speak of the fine grid, and of what the PSF brings in."""
        fine = tuple(n * f for n, f in zip(source.grid, self.along, strict=True))
        height, width = padded(fine, self.margin)
        return height, width

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Name the paper's choice."""
        return "it is the one that the Deep Image Prior paper enlarges with"

    def noise_wish(self) -> NoiseWish:
        """Say what the settings hold."""
        return NoiseWish(self.noise, self.read_noise, self.gain)

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: each stands for many fine ones, and a clean image looks correlated.

        A guard band of 7 x 7 coarse pixels would take a quarter of a small image from the fit.
        """
        return 1, 1

    def problem(self, scene: Scene) -> Problem:
        """Explain the coarse pixels; those held out judge."""
        from napari_dip.engine.fidelity import gaussian_likelihood, weighted_residual
        from napari_dip.engine.problem import Problem, Term

        term = Term(
            scene.measurement,
            self._operator().to(scene.measurement.device),
            weighted_residual(scene.noise),
            gaussian_likelihood(scene.noise),
            fitted=scene.known * (1 - scene.guarded),
            held_out=scene.held_out,
            measured=scene.known,
        )
        return Problem((term,), finish=within_frame(self.margin))

    def _operator(self) -> nn.Module:
        """First the optics, then the pixels."""
        from napari_dip.engine.convolution import ValidConvolution
        from napari_dip.engine.operators import Chain
        from napari_dip.engine.psf import gaussian_psf
        from napari_dip.engine.resampling import BinnedDownsample, LanczosDownsample

        kind = LanczosDownsample if self.model == "lanczos" else BinnedDownsample
        if not self.psf_sigma:
            return kind(self.along)
        blur = ValidConvolution(gaussian_psf((self.psf_sigma,) * len(self.along)))
        return Chain(blur, kind(self.along))

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Draw from fixed noise on the fine grid, with the interpolated image beside it."""
        from napari_dip.tasks.noise_code import noise_code

        fine = tuple(n * f for n, f in zip(scene.grid, self.along, strict=True))
        jitter = JITTER if max(self.along) <= FINE else JITTER_BEYOND
        shown = None if self.start == "none" else self._interpolated(scene, fine)
        grid = padded(fine, self.margin)
        return noise_code(
            scene, grid, rng, jitter=jitter, shown=shown, jitter_of_shown=JITTER_OF_SHOWN
        )

    def _interpolated(self, scene: Scene, fine: tuple[int, ...]) -> Tensor:
        """Bicubic picture (1, C, *grid) of the pixels that do not judge."""
        from torch.nn import functional

        from napari_dip.engine.prior import fill

        visible = scene.known * (1 - scene.guarded)
        whole = fill(scene.measurement * visible, visible, scene.block)
        picture = functional.interpolate(whole, size=fine, mode="bicubic", align_corners=False)
        sides = [side for beyond in reversed(self.margin) for side in (beyond, beyond)]
        return functional.pad(picture, sides, mode="replicate")
