"""Guide: restore a noisy channel with the help of a clean picture of the same place.

How far two pictures of one scene lie apart, and how one is laid onto the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from napari_dip.errors import refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import IMAGE, FitInput, Input, NoiseRequest, Setting, Task
from napari_dip.tasks.priors.blind_spot import (
    build_blind_spot_prior,
    build_blind_spot_problem,
    describe_blind_spot,
)
from napari_dip.tasks.shared_settings import (
    CameraGain,
    NoiseModel,
    ReadNoise,
    Smoothing,
    SmoothingKind,
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

#: Percentiles of the guide that are brought to a range of one, hot and dead pixels left out.
GUIDE_PERCENTILES = (0.5, 99.5)
#: Furthest that a hot pixel of the guide may lie outside that range, in ranges.
MAX_GUIDE_OUTLIER = 1.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Guide(Task):
    """Settings of a guided restoration."""

    name: ClassVar[str] = "guide"
    title: ClassVar[str] = "Restore with a guide"
    inputs: ClassVar[tuple[Input, ...]] = (
        IMAGE,
        Input(
            name="guide",
            label="Guide",
            help="A clean picture of the same place and size: a brighter channel, or the "
            "photograph "
            "with flash. It may have several channels.",
        ),
    )
    done: ClassVar[str] = "guided"

    prior: Annotated[
        Literal["auto", "blind-spot", "random-input"],
        Setting(
            "Prior",
            "Input of the untrained network beside the guide: the image with hidden pixels (blind "
            "spot), or random numbers, as in the Deep Image Prior paper. Automatic: blind spot, "
            "and the guide is left out where hidden pixels are predicted as well without it.",
            choices={
                "auto": "Automatic",
                "blind-spot": "Guide + blind spot",
                "random-input": "Guide + random input",
            },
        ),
    ] = "auto"
    align: Annotated[
        bool,
        Setting(
            "Align the guide",
            "Move the guide first, by a part of a pixel or by some pixels, so that its structures "
            "lie on those of the image. Only where both show the same structures.",
        ),
    ] = False
    planes_are_channels: Annotated[
        bool,
        Setting(
            "Planes are channels",
            "Take the planes of a guide with three axes as its channels; otherwise a stack is "
            "refused.",
        ),
    ] = False
    smoothing: Smoothing = 0.0
    smoothing_kind: SmoothingKind = "isotropic"
    noise: NoiseModel = "auto"
    read_noise: ReadNoise = None
    gain: CameraGain = None

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Say no to a guide that is a stack, or of another size."""
        guide = others["guide"]
        axes = self._axes(guide)
        sizes = " × ".join(map(str, guide.shape))
        flat = [axis for axis, count in zip(axes, guide.shape, strict=False) if count > 1]
        if (
            len(axes) != len(guide.shape)
            or not {"Y", "X"} <= set(axes)
            or set(flat) - set("CSYX")
            or {"C", "S"} <= set(flat)
        ):
            return refusal("guide-stack", name=guide.name, axes=axes, shape=sizes)
        grid = tuple(guide.shape[axes.index(axis)] for axis in "YX")
        if grid != source.grid:
            facts = {
                "height": grid[0],
                "width": grid[1],
                "other_height": source.grid[0],
                "other_width": source.grid[1],
            }
            return refusal("guide-size", name=guide.name, image=source.name, **facts)
        return None

    def admit(
        self, source: ImageSpec, others: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Say no to a guide that shows nothing."""
        guide = others["guide"]
        if guide.min() == guide.max():
            return refusal("guide-constant", value=f"{guide.min():g}")
        return None

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Bring the guide to (G, Y, X) and a range of one, and onto the image if wished."""
        import numpy as np

        raw, axes = others["guide"], self._axes(headers["guide"])
        order = sorted(range(len(axes)), key=lambda axis: "TZCSYX".index(axes[axis]))
        planes = np.transpose(raw, order).reshape(-1, *image.shape[1:])
        guide = np.stack(
            [_normalise_range(plane) for plane in planes if plane.min() != plane.max()]
        )
        if not self.align:
            return {"guide": guide}, ()
        guide, note = _align_guide(guide, image)
        return {"guide": guide}, (note,)

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Guide and blind spot, unless the user wants the paper's prior."""
        return "guided-random-input" if self.prior == "random-input" else "guided"

    def contenders(self) -> tuple[str, ...]:
        """With and without the guide, unless the user has chosen."""
        return ("guided", "blind-spot") if self.prior == "auto" else ()

    def why(self, prior: str, block: tuple[int, ...]) -> str:
        """Say why this prior runs, and how it hides."""
        if prior == "guided-random-input":
            return "you chose it"
        if self.prior != "auto":
            return f"you chose it; {describe_blind_spot(block)}"
        verdict = (
            "hidden pixels were predicted better with the guide"
            if prior == "guided"
            else "hidden pixels were predicted no better with the guide, so it was left out"
        )
        return f"{verdict}; {describe_blind_spot(block)}"

    def noise_wish(self) -> NoiseRequest:
        """Say what the settings hold."""
        return NoiseRequest(model=self.noise, read_noise=self.read_noise, gain=self.gain)

    def problem(self, scene: FitInput) -> Problem:
        """Explain the image as picture plus noise, as denoising does."""
        from napari_dip.tasks.priors.deep_image_prior import build_random_input_problem

        penalties = make_total_variation_penalty(scene, self.smoothing, self.smoothing_kind)
        if scene.prior == "guided-random-input":
            return build_random_input_problem(scene, penalties)
        # under the few photons that call for a guide, a pixel's own word brings in more noise than
        # picture: on three pairs of channels at a peak of 5 photons it cost 1.1, 0.7 and 0.1 dB
        return build_blind_spot_problem(scene, penalties, own_word=scene.prior == "blind-spot")

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Blind spot or fixed noise, with the guide beside it; or the blind spot alone."""
        from napari_dip.engine.priors.guided import GuidedPrior, zero_last_channels
        from napari_dip.tasks.priors.deep_image_prior import build_random_input_prior

        if scene.prior == "blind-spot":
            return build_blind_spot_prior(scene, rng)
        guide = scene.others["guide"][None]
        channels = guide.shape[1]
        if scene.prior == "guided-random-input":
            return GuidedPrior(
                build_random_input_prior(scene, scene.grid, rng, further=channels), guide
            )
        code = build_blind_spot_prior(scene, rng, further=channels)
        zero_last_channels(code.net, channels)
        return GuidedPrior(code, guide)

    def _axes(self, guide: ImageSpec) -> str:
        """Axes of the guide; those of a stack are channels if the user says so."""
        if self.planes_are_channels and len(guide.shape) == 3 and guide.axes.endswith("YX"):
            return "CYX"
        return guide.axes


def _normalise_range(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bring the bulk of the pixels to a range of one around their mean."""
    import numpy as np

    low, high = (float(value) for value in np.percentile(plane, GUIDE_PERCENTILES))
    if high <= low:  # almost all pixels alike: a few bright points on black
        low, high = float(plane.min()), float(plane.max())
    span = high - low
    within = np.clip(
        plane.astype(np.float64), low - MAX_GUIDE_OUTLIER * span, high + MAX_GUIDE_OUTLIER * span
    )
    return np.asarray((within - within.mean()) / span, np.float32)


def _align_guide(
    guide: npt.NDArray[np.float32], image: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], Note]:
    """Move the guide onto the image, where a shift was found that can be believed in."""
    import numpy as np

    shift = phase_correlate(image.mean(0), guide.mean(0))
    down, right = shift
    if is_far(shift, image.shape[1:]):
        return guide, make_note("guide-far", down=down, right=right)
    if is_near(shift):
        return guide, make_note("guide-in-place")
    moved = np.stack([shift_image(plane, shift) for plane in guide])
    return moved, make_note("guide-moved", down=down, right=right)


#: Steps per pixel in which a shift is looked for: 0.05 pixels move an edge by less than noise does.
SHIFT_STEPS = 20
#: Shifts below this part of a pixel are not worth the blur of an interpolation.
MIN_SHIFT = 0.1
#: Part of the side over which each border is faded out. On 26 noisy pairs of 48 x 48 and 64 x 64
#: pixels an eighth left errors of 0.18 pixels, a quarter 0.19, half of it (a Hann window) 0.22.
TAPER_FRACTION = 1 / 8
#: Rounds in which what was moved is looked at again: the faded border, which both pictures share,
#: makes the first shift too short (with one round 0.21 pixels in place of 0.18).
REGISTRATION_ROUNDS = 4
#: Largest shift to believe in, as a share of the side: beyond it, the overlap is too small.
MAX_SHIFT_FRACTION = 0.1


def phase_correlate(fixed: npt.NDArray[Any], moving: npt.NDArray[Any]) -> tuple[float, ...]:
    """Find the shift that lays one picture onto the other: where their spectra agree in phase.

    Parameters
    ----------
    fixed, moving : ndarray
        (*grid), in any number of dimensions and any units.

    Returns
    -------
    tuple of float
        Pixels along each axis, to be given to `shift_image` with `moving`. All 0 if one of the
        pictures
        holds one value only.

    References
    ----------
    Guizar-Sicairos, Thurman, Fienup, Efficient subpixel image registration algorithms, Optics
    Letters 33(2), 2008, doi:10.1364/OL.33.000156 (as scikit-image has it).
    """
    from skimage.registration import phase_cross_correlation

    shift, aligned = (0.0,) * fixed.ndim, moving
    for _ in range(REGISTRATION_ROUNDS):
        if any(item.min() == item.max() for item in (fixed, aligned)):
            break
        # not normalised by the magnitudes: noise would count as much as structure
        rest, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
            _taper_border(fixed),
            _taper_border(aligned),
            upsample_factor=SHIFT_STEPS,
            normalization=None,
        )
        shift = tuple(item + float(more) for item, more in zip(shift, rest, strict=True))
        if is_near(tuple(rest)) or is_far(shift, fixed.shape):
            break
        aligned = shift_image(moving, shift)
    return shift


def is_far(shift: tuple[float, ...], grid: tuple[int, ...]) -> bool:
    """Whether a shift is too large to believe in."""
    return any(
        abs(item) > MAX_SHIFT_FRACTION * side for item, side in zip(shift, grid, strict=True)
    )


def is_near(shift: tuple[float, ...]) -> bool:
    """Whether a shift is too small to be worth an interpolation."""
    return all(abs(item) < MIN_SHIFT for item in shift)


def shift_image(picture: npt.NDArray[Any], shift: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Move a picture by parts of a pixel, with cubic splines; its border is continued.

    Parameters
    ----------
    picture : ndarray
        (*grid).
    shift : tuple of float
        Pixels along each axis.
    """
    import numpy as np
    from skimage.transform import warp

    places = np.indices(picture.shape, np.float64)
    places -= np.reshape(shift, (-1, *[1] * picture.ndim))
    plain = picture.astype(np.float64)
    shifted = warp(plain, places, order=3, mode="edge", preserve_range=True)  # type: ignore[no-untyped-call]
    return np.asarray(shifted, np.float32)


def _taper_border(picture: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Fade to the mean at the border, which would otherwise agree with itself at no shift."""
    import numpy as np

    plain = picture - picture.mean(dtype=np.float64)
    for axis, side in enumerate(picture.shape):
        place = np.arange(side) + 0.5
        inward = np.minimum(place, side - place) / (TAPER_FRACTION * side)
        window = np.where(inward < 1, 0.5 - 0.5 * np.cos(np.pi * inward), 1.0)
        plain = plain * window.reshape(-1, *[1] * (picture.ndim - axis - 1))
    return np.asarray(plain, np.float64)
