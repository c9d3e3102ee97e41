"""Inpaint: fill in pixels that are missing or marked, from all the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from napari_dip.errors import refusal
from napari_dip.tasks.base import IMAGE, Input, Scene, Setting, Task
from napari_dip.tasks.blind_spot import IMAGE_FED, blind_spot_problem
from napari_dip.tasks.hidden_code import hidden_code
from napari_dip.tasks.holes import check_mask, depth, grown, marked, refuse_marks, scattered
from napari_dip.tasks.noise_code import noise_code, noise_code_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec

#: Depth of a hole, in pixels from its rim inwards, from which on nothing near by tells what belongs
#: there; scratches and letters are narrower. Tried on the published examples (docs/benchmarks.md).
DEEP = 12
#: Jitter of the noise code, and of the network without skips, which the paper leaves without.
JITTER, JITTER_DEEP = 0.03, 0.0
#: Channels that a skip of the noise code passes on.
SKIP = 16


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Inpaint(Task):
    """Settings of filling in: which pixels, and what becomes of the others."""

    name: ClassVar[str] = "inpaint"
    title: ClassVar[str] = "Inpaint"
    done: ClassVar[str] = "inpainted"
    inputs: ClassVar[tuple[Input, ...]] = (
        IMAGE,
        Input(
            "mask",
            "Pixels to fill in",
            "Marks the pixels to fill in with values above 0. Pixels that are not a number (NaN) "
            "are filled in as well, and without a mask only those.",
            layers=("labels", "shapes", "image"),
            optional=True,
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
        ),
    ] = 0
    known: Annotated[
        Literal["measured", "restored"],
        Setting(
            "Known pixels",
            "Measured: pixels that need no filling in keep their values exactly. Restored: they "
            "are denoised along with it.",
            choices={"measured": "As measured", "restored": "Restored"},
            advanced=False,
        ),
    ] = "measured"
    prior: Annotated[
        Literal["auto", "image", "noise", "deep"],
        Setting(
            "Prior",
            "What the untrained network is fed: the image with more of it hidden; fixed random "
            "noise, as in the Deep Image Prior paper; or that noise without shortcuts past the "
            "coarse scales, for large holes. Automatic looks at the holes.",
            choices={
                "auto": "Automatic",
                "image": "Image with hidden pixels",
                "noise": "Fixed noise (paper)",
                "deep": "Fixed noise, no shortcuts",
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

    def check_known(self, source: ImageSpec, known: npt.NDArray[np.bool_] | None) -> Refusal | None:
        """Say no to an image without holes."""
        return refusal("holes-none", name=source.name) if known is None else None

    def missing(
        self, image: npt.NDArray[Any], others: Mapping[str, npt.NDArray[np.float32]]
    ) -> npt.NDArray[np.bool_] | None:
        """Pixels that are marked or not a number, and those around them if wished."""
        holes: npt.NDArray[np.bool_] = np.isnan(image)
        holes = grown(holes, self.grow)
        return holes | self._marked(others) if "mask" in others else holes

    def keeps_measured(self) -> bool:
        """As the user wishes; without a wish, nothing that was measured is changed."""
        return self.known == "measured"

    def block(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Hide single pixels: what neighbours tell of a hole is wanted here, noise and all."""
        return 1, 1

    def first_choice(self) -> str:
        """Image-fed, unless the user or a large hole says otherwise."""
        return "image" if self.prior == "auto" else self.prior

    def settled(self, prior: str, known: npt.NDArray[np.bool_] | None) -> tuple[str, str]:
        """Choose by the holes: scattered or narrow ones have neighbours to tell, deep ones not."""
        if prior in ("noise", "deep") or known is None:
            return prior, "you chose it"
        holes: npt.NDArray[np.bool_] = np.any(~known, axis=0)
        if scattered(holes):
            return "image", "the missing pixels are scattered, so neighbours tell of each"
        if self.prior == "image":
            return (
                "image-shapes",
                "you chose it; the holes have a shape, copies of which are hidden",
            )
        deepest = depth(holes, DEEP + 1)
        if deepest > DEEP:
            return (
                "deep",
                f"a hole is more than {2 * DEEP} pixels wide, too wide for its rim to tell",
            )
        return (
            "image-shapes",
            f"the widest hole is about {2 * deepest} pixels wide, so its rim tells",
        )

    def problem(self, scene: Scene) -> Problem:
        """Explain what was measured; the mask multiplies the residual, so holes ask for nothing."""
        fed = scene.prior in IMAGE_FED
        problem = blind_spot_problem(scene, ()) if fed else _judged_by_error(scene)

        def finish(estimate: Estimate) -> Estimate:
            restored = problem.finish(estimate) if self.known == "restored" else None
            return self._finished(scene, estimate, restored)

        return replace(problem, finish=finish)

    def prior_for(self, scene: Scene, rng: torch.Generator) -> Prior:
        """Feed the network the image with more of it hidden, or noise."""
        if scene.prior in IMAGE_FED:
            return hidden_code(scene, rng, foretell=self.known == "restored")
        if scene.prior == "deep":
            return noise_code(scene, scene.grid, rng, skip=0, jitter=JITTER_DEEP)
        return noise_code(scene, scene.grid, rng, skip=SKIP, jitter=JITTER)

    def _marked(self, others: Mapping[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.bool_]:
        holes = marked(others["mask"], self.label, invert=self.invert_mask)
        return grown(holes, self.grow)

    def _finished(self, scene: Scene, blind: Estimate, restored: Estimate | None) -> Estimate:
        """Put what was restored, or else what was measured, where there is a measurement."""
        from torch import where

        known, kind = scene.known > 0, type(blind)
        at_known = restored or kind(scene.measurement, scene.noise.at(scene.measurement).log())
        mean = where(known, at_known.mean, blind.mean)
        if at_known.log_variance is None or blind.log_variance is None:
            return kind(mean)
        return kind(mean, where(known, at_known.log_variance, blind.log_variance))


def _judged_by_error(scene: Scene) -> Problem:
    """Explain the picture by a noise code, judged by how far off it is.

    Its spread from step to step is widest at the start, and where the image has little noise, it
    would make the least learned picture the likeliest one.
    """
    from napari_dip.engine.fidelity import gaussian_likelihood

    problem = noise_code_problem(scene, ())
    likelihood = gaussian_likelihood(scene.noise)
    terms = (
        replace(
            term,
            likelihood=lambda estimate, measurement: likelihood(
                type(estimate)(estimate.mean), measurement
            ),
        )
        for term in problem.terms
    )
    return replace(problem, terms=tuple(terms))
