"""What a run was asked for: frozen when Run is pressed, whatever the viewer shows later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.utils.transforms import Affine

from napari_dip.qt.ending import Answer
from napari_dip.qt.layers import level_zero, look_of
from napari_dip.qt.recovery_notes import place_for
from napari_dip.qt.sources import inputs_of
from napari_dip.run.keeping import Place, run_kept
from napari_dip.run.trial import run_trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari.layers import Image

    from napari_dip.qt.further import FurtherInputs
    from napari_dip.qt.preview import Preview
    from napari_dip.run.events import Restoration
    from napari_dip.run.plan import Plan
    from napari_dip.run.trial import Region


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A plan, the pixels that it is for, and what its picture takes over from their layer.

    Attributes
    ----------
    plan : Plan
    name : str
        Of the image's layer.
    look, input_look : mapping
        For pictures of the result's size and of the input's; see `look_of`.
    source : callable
        Gives the image's layer, or None if it is gone.
    pixels : mapping of str to array
        The inputs by name, lazy or not.
    whole : Plan or None
        For all of the image, where the plan is for a region of it.
    region : Region or None
    trial : str
        Goes behind the image's name to name what was tried on the region.
    place : Place or None
        Where the run is kept, so that it can go on after a crash.
    """

    plan: Plan
    name: str
    look: Mapping[str, Any]
    input_look: Mapping[str, Any]
    source: Callable[[], Any]
    pixels: Mapping[str, Any]
    whole: Plan | None = None
    region: Region | None = None
    trial: str = ""
    place: Place | None = None

    @property
    def label(self) -> str:
        """What the run is called where others wait for it, such as "Denoise cells"."""
        title = self.plan.recipe.task.title
        return " ".join(filter(None, [title, self.name, self.trial]))

    def answered(self, result: Restoration, preview: Preview | None = None) -> Answer:
        """Put the result on its way into the viewer, in the preview's place if there is one."""
        whole = self.plan if self.whole is None else self.whole
        return Answer(
            self.name,
            self.look,
            result,
            self.source,
            self.input_look,
            trial=self.trial,
            told=whole.notes,
            preview=preview,
        )

    @property
    def begin(self) -> Callable[..., Any] | None:
        """What begins the run where it is no ordinary one."""
        if self.whole is not None and self.region is not None:
            return partial(run_trial, self.whole, self.region)
        return None if self.place is None else partial(run_kept, self.place)


def asked_of(plan: Plan, layer: Image, further: FurtherInputs) -> Asked:
    """Note what a run is asked for.

    Parameters
    ----------
    plan : Plan
    layer : Image
        What is restored.
    further : FurtherInputs
        What is chosen beside it.
    """
    chosen = further.chosen()
    inputs = inputs_of(layer, plan.source.axes, chosen)
    return Asked(
        plan,
        layer.name,
        look_of(layer, plan, inputs),
        look_of(layer, None, inputs),
        ref(layer),
        {"image": level_zero(layer), **further.pixels()},
        place=place_for(plan, layer, chosen),
    )


def on_region(asked: Asked, region: Region, small: Plan) -> Asked:
    """Ask for the same on a part of the image, whose picture lies where that part is.

    Parameters
    ----------
    asked : Asked
        For the whole.
    region : Region
    small : Plan
        By `napari_dip.run.trial.plan_trial`.
    """
    layer = asked.source()
    # napari counts no axis for red, green and blue
    start = [one for one, axis in zip(region.start, small.source.axes, strict=True) if axis != "S"]
    placed = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    shift = placed @ np.array(start, float)

    def moved(look: Mapping[str, Any]) -> dict[str, Any]:
        return {**look, "translate": look["translate"] + shift}

    preset = small.recipe.common.preset.capitalize()
    return replace(
        asked,
        plan=small,
        look=moved(asked.look),
        input_look=moved(asked.input_look),
        whole=asked.plan,
        region=region,
        trial=f"trial, {preset}",
    )
