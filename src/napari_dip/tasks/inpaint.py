"""Inpaint: fill in pixels that are missing or marked, from all the others."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors import refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import IMAGE, FitInput, Input, Setting, Task
from napari_dip.tasks.priors.blind_spot import IMAGE_INPUT_PRIORS, build_blind_spot_problem
from napari_dip.tasks.priors.deep_image_prior import (
    build_random_input_prior,
    build_random_input_problem,
    validate_by_squared_error,
)
from napari_dip.tasks.priors.masked_input import (
    build_masked_input_prior,
    build_masked_stack_prior,
    check_mask,
    count_missing_planes,
    dilate_holes,
    is_scattered,
    measure_hole_depth,
    measure_widest_hole,
    parse_mask,
    refuse_marks,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec

#: Depth of a hole, in pixels from its rim inwards, from which on nothing near by tells what belongs
#: there; scratches and letters are narrower.
#: Tried on the published examples (docs/benchmarks/inpainting.md).
MIN_DEEP_HOLE = 12
#: Widest patch that judges the filling of a stack: with pixels by themselves as judges, what a fit
#: has learned of their neighbours in the plane speaks for them. Patches of 16 are too few on small
#: crops (0.1 dB less on 15 x 64 x 64 of a movie).
MAX_VALIDATION_PATCH = 8
#: Jitter of the noise code, and of the network without skips, which the paper leaves without.
INPAINT_JITTER, NO_SKIP_JITTER = 0.03, 0.0
#: Channels that a skip of the noise code passes on.
INPAINT_SKIP_CHANNELS = 16


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Inpaint(Task):
    """Settings of filling in: which pixels, and what becomes of the others."""

    name: ClassVar[str] = "inpaint"
    title: ClassVar[str] = "Inpaint"
    done: ClassVar[str] = "inpainted"
    stacks: ClassVar[bool] = True
    least_depth: ClassVar[int] = 2
    inputs: ClassVar[tuple[Input, ...]] = (
        IMAGE,
        Input(
            name="mask",
            label="Pixels to fill in",
            help="Marks the pixels to fill in with values above 0. Pixels that are not a number "
            "(NaN) "
            "are filled in as well, and without a mask only those. For a stack: of the same "
            "size, or one plane for all.",
            layers=("labels", "shapes", "image"),
            optional=True,
            overlays=True,
        ),
    )

    invert_mask: Annotated[
        bool,
        Setting(
            "Invert mask",
            "Fill in the pixels that are not marked: the mask shows what is good.",
            advanced=False,
        ),
    ] = False
    label: Annotated[
        Annotated[int, Field(ge=1, le=2**24)] | None,
        Setting(
            "Only this label",
            "Fill in the pixels that have this value in the mask, and no others. Empty: all "
            "above 0.",
            least=1,
            most=2**24,
            advanced=False,
        ),
    ] = None
    grow: Annotated[
        Annotated[int, Field(ge=0, le=64)],
        Setting(
            "Grow by",
            "Pixels by which the holes are widened on all sides, so that the rim of a stain goes "
            "with it.",
            least=0,
            most=64,
            step=1,
            advanced=False,
            written="holes widened by {:g} pixels on all sides",
        ),
    ] = 0
    unmasked: Annotated[
        Literal["keep", "denoise"],
        Setting(
            "Unmasked pixels",
            "Keep: pixels outside the mask keep their values exactly. Denoise: they are denoised "
            "along with the filling in.",
            choices={"keep": "Keep", "denoise": "Denoise"},
            advanced=False,
        ),
    ] = "keep"
    prior: Annotated[
        Literal["auto", "masked-input", "random-input", "random-input-no-skips"],
        Setting(
            "Prior",
            "Input of the untrained network. Masked input: the image with more of its pixels "
            "masked. Random input: fixed random numbers, as in the Deep Image Prior paper; without "
            "skip connections for large holes. Automatic looks at the holes.",
            choices={
                "auto": "Automatic",
                "masked-input": "Masked input",
                "random-input": "Deep Image Prior (random input)",
                "random-input-no-skips": "Random input, no skip connections",
            },
        ),
    ] = "auto"

    def check(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
        """Say no to a mask of another size, and to an image that cannot have holes."""
        if "mask" in others:
            return check_mask(source, others["mask"])
        if self.label is not None or self.invert_mask:
            return refusal("mask-missing", name=source.name)
        return None if source.dtype.startswith("float") else refusal("holes-none", name=source.name)

    def admit(
        self, source: ImageSpec, others: Mapping[str, npt.NDArray[np.float32]]
    ) -> Refusal | None:
        """Say no to a mask that marks nothing, or all."""
        if "mask" not in others:
            return None
        return refuse_marks(others["mask"], source.name, self.label, self._marked(others))

    def check_known(
        self, source: ImageSpec, measured_mask: npt.NDArray[np.bool_] | None
    ) -> Refusal | None:
        """Say no to an image without holes."""
        return refusal("holes-none", name=source.name) if measured_mask is None else None

    def stacked(
        self, source: ImageSpec, others: Mapping[str, ImageSpec]
    ) -> Literal["auto", "planes", "volume"]:
        """Together: the planes before and after tell most of what is missing in one."""
        return "volume"

    def remarks(self, source: ImageSpec, others: Mapping[str, ImageSpec]) -> tuple[Note, ...]:
        """Say that a mask of one plane holds for all."""
        if "mask" not in others or prod(others["mask"].shape) > prod(source.grid):
            return ()
        count = prod(source.along("".join(axis for axis in source.axes if axis in "TZ")))
        return (make_note("mask-one-plane", count=count),) * (count > 1)

    def judging(self, measured_mask: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
        """Patches as wide as the holes, in planes whose neighbours are as far as a missing one's.

        What fits one pixel of a plane fits the next one, too.
        """
        if measured_mask.ndim < 5:
            return None
        from napari_dip.engine.priors.masked_stack import StackHoles

        side = measure_widest_hole(measured_mask[0].cpu().numpy() > 0, MAX_VALIDATION_PATCH)
        return (
            ((1, side, side), StackHoles(measured_mask).like_missing(measured_mask))
            if side
            else None
        )

    def describe_missing_pixels(self, measured_mask: npt.NDArray[np.bool_]) -> tuple[Note, ...]:
        """Say how many planes were made from nothing but others."""
        gone, total = count_missing_planes(measured_mask)
        if not gone:
            return ()
        return (make_note("planes-missing", count=gone, total=total),)

    def arranged(
        self,
        image: npt.NDArray[np.float32],
        others: Mapping[str, npt.NDArray[np.float32]],
        headers: Mapping[str, ImageSpec],
    ) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
        """Nothing: what the mask says is known by then."""
        return {}, ()

    def missing(
        self, parts: npt.NDArray[Any], others: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Pixels that are marked or not a number, and those around them if wished."""
        holes: npt.NDArray[np.bool_] = np.isnan(parts)
        holes = dilate_holes(holes, self.grow)
        return holes | self._marked(others) if "mask" in others else holes

    def keeps_measured(self) -> bool:
        """As the user wishes; without a wish, nothing that was measured is changed."""
        return self.unmasked == "keep"

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: what neighbours tell of a hole is wanted here, noise and all."""
        return 1, 1

    def first_choice(self, source: ImageSpec, *, volume: bool) -> str:
        """Image-fed, unless the user or a large hole says otherwise."""
        return "masked-input" if self.prior == "auto" else self.prior

    def choose_prior_by_mask(
        self, prior: str, measured_mask: npt.NDArray[np.bool_] | None
    ) -> tuple[str, str]:
        """Choose by the holes: scattered or narrow ones have neighbours to tell, deep ones not."""
        if prior in ("random-input", "random-input-no-skips") or measured_mask is None:
            return prior, "you chose it"
        if measured_mask.ndim > 4:
            return _choose_stack_prior(measured_mask)
        holes = [item for item in np.any(~measured_mask, axis=1) if item.any()]
        if all(is_scattered(hole) for hole in holes):
            return "masked-input", "the missing pixels are scattered, so neighbours tell of each"
        if self.prior == "masked-input":
            return (
                "masked-input-shapes",
                "you chose it; the holes have a shape, copies of which are hidden",
            )
        deepest = max(measure_hole_depth(hole, MIN_DEEP_HOLE + 1) for hole in holes)
        if deepest > MIN_DEEP_HOLE:
            return (
                "random-input-no-skips",
                f"a hole is more than {2 * MIN_DEEP_HOLE} pixels wide, too wide for its rim to "
                "tell",
            )
        return (
            "masked-input-shapes",
            f"the widest hole is about {2 * deepest} pixels wide, so its rim tells",
        )

    def problem(self, scene: FitInput) -> Problem:
        """Explain what was measured; the mask multiplies the residual, so holes ask for nothing."""
        fed = scene.prior in IMAGE_INPUT_PRIORS
        explained = (
            build_blind_spot_problem(scene, ()) if fed else build_random_input_problem(scene, ())
        )
        problem = validate_by_squared_error(scene, explained)

        def finish(estimate: Estimate) -> Estimate:
            restored = problem.finish(estimate) if self.unmasked == "denoise" else None
            return self._finished(scene, estimate, restored)

        return replace(problem, finish=finish, refine=None)

    def prior_for(self, scene: FitInput, rng: torch.Generator) -> Prior:
        """Feed the network the image with more of it hidden, or noise."""
        if scene.prior in IMAGE_INPUT_PRIORS:
            code = build_masked_stack_prior if len(scene.grid) > 2 else build_masked_input_prior
            return code(scene, rng, foretell=self.unmasked == "denoise")
        if scene.prior == "random-input-no-skips":
            return build_random_input_prior(scene, scene.grid, rng, skip=0, jitter=NO_SKIP_JITTER)
        return build_random_input_prior(
            scene, scene.grid, rng, skip=INPAINT_SKIP_CHANNELS, jitter=INPAINT_JITTER
        )

    def _marked(self, others: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.bool_]:
        holes = parse_mask(others["mask"], self.label, invert=self.invert_mask)
        return dilate_holes(holes, self.grow)

    def _finished(self, scene: FitInput, blind: Estimate, restored: Estimate | None) -> Estimate:
        """Put what was restored, or else what was measured, where there is a measurement."""
        from torch import where

        mask, kind = scene.measured_mask > 0, type(blind)
        at_known = restored or kind(scene.measurement, scene.noise.at(scene.measurement).log())
        mean = where(mask, at_known.mean, blind.mean)
        if at_known.log_variance is None or blind.log_variance is None:
            return kind(mean)
        return kind(mean, where(mask, at_known.log_variance, blind.log_variance))


def _choose_stack_prior(measured_mask: npt.NDArray[np.bool_]) -> tuple[str, str]:
    """Choose between the priors that fill planes from planes, for holes in (parts, C, *grid)."""
    gone, total = count_missing_planes(measured_mask)
    if gone:
        why = f"{gone} of {total} planes are missing, so those before and after tell of them"
        return "masked-input", why
    return "masked-input-shapes", "the planes before and after tell, too, of what is missing in one"
