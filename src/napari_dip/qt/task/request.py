"""What a run was asked for: frozen when Run is pressed, whatever the viewer shows later.

What is noted of a run's layers so that they can be brought back after a crash, and where.

What a result's layer knows of the layers that it was made from, and where these lie.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image, Labels
from napari.utils.transforms import Affine

from napari_dip.errors import DipError
from napari_dip.io.reading import read_spec
from napari_dip.pipeline.autosave import AutosaveTarget, run_with_autosave, summarise_run
from napari_dip.pipeline.execute.crop_preview import run_crop_preview
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.reproduce.repetition import Repetition
from napari_dip.pipeline.store.shared_network import SHARED_NETWORK_INPUT
from napari_dip.qt.shell.layers import (
    copy_layer_attributes,
    get_full_resolution,
    preserve_view,
    read_layer_provenance,
)
from napari_dip.qt.shell.preferences import (
    find_settings_folder,
    get_allowed_machine,
    read_preferences,
)
from napari_dip.qt.shell.run_completion import PendingResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import napari.viewer
    from napari.layers import Layer

    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.execute.crop_preview import CropRegion
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.shell.layer_dock import ExtraInputs
    from napari_dip.qt.shell.layers import Preview


def record_inputs(image: Image, axes: str, further: Mapping[str, Layer]) -> dict[str, Any]:
    """Note which layers a run reads, in plain JSON types.

    Parameters
    ----------
    image : Image
        What is restored.
    axes : str
        One letter for each of its axes.
    further : mapping of str to Layer
        The task's other inputs, by their names.
    """
    layers: dict[str, Any] = {"image": image, **further}
    noted = {
        name: {"layer": str(layer.name), "path": _get_layer_path(layer)}
        for name, layer in layers.items()
    }
    noted["image"]["axes"] = axes
    return noted


def read_result_provenance(layer: Any) -> Mapping[str, Any] | None:
    """Give what a result's layer says of its making; None if it is no result."""
    ours = read_layer_provenance(layer)
    if not isinstance(ours.get("report"), Mapping):
        return None
    return ours if ours.get("shows", "result") == "result" else None


def read_recorded_inputs(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Give the images that were noted; of a result that notes none, its own."""
    image = {
        "layer": provenance["input"]["name"],
        "path": None,
        "axes": provenance["report"]["axes"],
    }
    noted = dict(provenance.get("inputs") or {"image": image})
    return {name: item for name, item in noted.items() if name != SHARED_NETWORK_INPUT}


def find_unsaved_inputs(provenance: Mapping[str, Any]) -> list[str]:
    """Name the inputs that lie in no file, or in one that does not look like them."""
    inputs = read_recorded_inputs(provenance)
    shape = tuple(provenance["report"]["shape"])
    return [
        name
        for name, item in inputs.items()
        if not _is_matching_file(item.get("path"), shape if name == "image" else None)
    ]


def build_repetition(provenance: Mapping[str, Any], saved: Mapping[str, str]) -> Repetition:
    """Put together what repeats a result.

    Parameters
    ----------
    provenance : mapping
        By `read_result_provenance`.
    saved : mapping of str to str
        Files of inputs that lay in none.
    """
    paths = {name: str(item.get("path")) for name, item in read_recorded_inputs(provenance).items()}
    if (network := dict(provenance.get("inputs") or {}).get(SHARED_NETWORK_INPUT)) is not None:
        paths[SHARED_NETWORK_INPUT] = str(network["path"])
    return Repetition(
        report=provenance["report"], paths={**paths, **saved}, name=str(provenance["input"]["name"])
    )


def _get_layer_path(layer: Any) -> str | None:
    path = layer.source.path
    return None if not path else os.path.abspath(path)


def _is_matching_file(path: str | None, shape: tuple[int, ...] | None) -> bool:
    """Whether a file can be read here, and holds a picture of that shape; from its header."""
    if not path:
        return False
    try:
        found_shape = read_spec(path).shape
    except DipError:
        return False
    return shape is None or found_shape == shape


_ARRAY_ATTRIBUTES = ("scale", "translate", "rotate", "shear", "affine", "contrast_limits")
_SCALAR_ATTRIBUTES = (
    "gamma",
    "blending",
    "opacity",
    "interpolation2d",
    "interpolation3d",
    "rgb",
    "visible",
)


def list_autosave_folders() -> list[Path]:
    """Give the folder of unfinished runs, in the folder of napari's own settings, if it has one."""
    folder = find_settings_folder()
    return [] if folder is None else [folder / "unfinished"]


def plan_autosave(plan: Plan, image: Image, further: Mapping[str, Layer]) -> AutosaveTarget | None:
    """Say where a run is kept, and what is noted of it; None if it is not to be kept.

    Parameters
    ----------
    plan : Plan
    image : Image
        What is restored.
    further : mapping of str to Layer
        The task's other inputs.
    """
    wished = getattr(read_preferences("computing"), "keep_unfinished", True)
    machine = get_allowed_machine()
    again = preflight(plan.recipe, plan.source, machine, plan.extra_inputs)
    if (
        not wished or not list_autosave_folders() or again != plan
    ):  # the free memory changed what can be done
        return None
    layers = {"image": image, **further}
    noted = {
        name: {**item, **_record_layer(layers[name])}
        for name, item in record_inputs(image, plan.source.axes, further).items()
    }
    path = noted["image"]["path"]
    file = os.path.basename(path or "")
    file = f" ({file})" if os.path.splitext(file)[0] not in ("", image.name) else ""
    about = summarise_run(plan, f"{plan.recipe.task.title} of '{image.name}'{file}", machine)
    return AutosaveTarget(
        folder=list_autosave_folders()[0] / f"run-{secrets.token_hex(4)}",
        run_summary=about,
        inputs=noted,
    )


def collect_layer_pixels(
    viewer: napari.viewer.Viewer, inputs: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Give the pixels of layers that bear the names of a run's inputs, as far as there are any.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : mapping of str to mapping
        What was noted.
    """
    entries = {}
    for name, noted in inputs.items():
        layer = viewer.layers[noted["layer"]] if noted["layer"] in viewer.layers else None
        if isinstance(layer, Image | Labels):
            entries[name] = get_full_resolution(layer)
    return entries


def recreate_layer(viewer: napari.viewer.Viewer, noted: Mapping[str, Any], pixels: Any) -> str:
    """Add a layer as it was; without its place and colours if napari does not take these.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    noted : mapping
    pixels : ndarray

    Returns
    -------
    str
        Its name, which is another one if that is taken.
    """
    look = {**noted["look"], "name": noted["layer"]}
    with preserve_view(viewer):
        if noted["kind"] == "labels":
            drawn = np.asarray(pixels)
            drawn = drawn.astype(np.uint8) if drawn.dtype == bool else drawn
            return str(viewer.add_labels(drawn, **look).name)
        try:
            layer = viewer.add_image(pixels, **look)
        except (TypeError, ValueError, KeyError):  # of another napari
            layer = viewer.add_image(pixels, name=noted["layer"], rgb=bool(look.get("rgb")))
    return str(layer.name)


def _record_layer(layer: Layer) -> dict[str, Any]:
    """Note kind and look of a layer, in plain JSON types."""
    state = layer.as_layer_data_tuple()[1]
    if not isinstance(layer, Image):
        look = {name: np.asarray(state[name]).tolist() for name in ("scale", "translate")}
        return {"kind": "labels", "look": look if isinstance(layer, Labels) else {}}
    look = {name: np.asarray(state[name]).tolist() for name in _ARRAY_ATTRIBUTES}
    look |= {name: state[name] for name in _SCALAR_ATTRIBUTES}
    look |= {name: [str(item) for item in state[name]] for name in ("units", "axis_labels")}
    look["blending"] = str(state["blending"])
    look["colormap"] = layer.colormap.name
    return {"kind": "image", "look": look}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunRequest:
    """A plan, the pixels that it is for, and what its picture takes over from their layer.

    Attributes
    ----------
    plan : Plan
    name : str
        Of the image's layer.
    look, input_look : mapping
        For pictures of the result's size and of the input's; see `copy_layer_attributes`.
    source : callable
        Gives the image's layer, or None if it is gone.
    pixels : mapping of str to array
        The inputs by name, lazy or not.
    whole : Plan or None
        For all of the image, where the plan is for a region of it.
    region : CropRegion or None
    trial : str
        Goes behind the image's name to name what was tried on the region.
    place : AutosaveTarget or None
        Where the run is kept, so that it can go on after a crash.
    """

    plan: Plan
    name: str
    look: Mapping[str, Any]
    input_look: Mapping[str, Any]
    source: Callable[[], Any]
    pixels: Mapping[str, Any]
    whole: Plan | None = None
    region: CropRegion | None = None
    trial: str = ""
    place: AutosaveTarget | None = None

    @property
    def label(self) -> str:
        """What the run is called where others wait for it, such as "Denoise cells"."""
        title = self.plan.recipe.task.title
        return " ".join(filter(None, [title, self.name, self.trial]))

    def answered(self, result: Restoration, preview: Preview | None = None) -> PendingResult:
        """Put the result on its way into the viewer, in the preview's place if there is one."""
        whole = self.plan if self.whole is None else self.whole
        return PendingResult(
            name=self.name,
            look=self.look,
            result=result,
            source=self.source,
            input_look=self.input_look,
            trial=self.trial,
            remarks=whole.notes,
            preview=preview,
        )

    @property
    def begin(self) -> Callable[..., Any] | None:
        """What begins the run where it is no ordinary one."""
        if self.whole is not None and self.region is not None:
            return partial(run_crop_preview, self.whole, self.region)
        return None if self.place is None else partial(run_with_autosave, self.place)


def make_run_request(plan: Plan, layer: Image, further: ExtraInputs) -> RunRequest:
    """Note what a run is asked for.

    Parameters
    ----------
    plan : Plan
    layer : Image
        What is restored.
    further : ExtraInputs
        What is chosen beside it.
    """
    chosen = further.chosen()
    inputs = record_inputs(layer, plan.source.axes, chosen)
    return RunRequest(
        plan=plan,
        name=layer.name,
        look=copy_layer_attributes(layer, plan, inputs),
        input_look=copy_layer_attributes(layer, None, inputs),
        source=ref(layer),
        pixels={"image": get_full_resolution(layer), **further.pixels()},
        place=plan_autosave(plan, layer, chosen),
    )


def restrict_to_region(request: RunRequest, region: CropRegion, small: Plan) -> RunRequest:
    """Ask for the same on a part of the image, whose picture lies where that part is.

    Parameters
    ----------
    request : RunRequest
        For the whole.
    region : CropRegion
    small : Plan
        By `napari_dip.pipeline.execute.crop_preview.plan_crop_preview`.
    """
    layer = request.source()
    # napari counts no axis for red, green and blue
    start = [
        item for item, axis in zip(region.start, small.source.axes, strict=True) if axis != "S"
    ]
    placed = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    shift = placed @ np.array(start, float)

    def moved(look: Mapping[str, Any]) -> dict[str, Any]:
        return {**look, "translate": look["translate"] + shift}

    preset = small.recipe.run_settings.preset.capitalize()
    return replace(
        request,
        plan=small,
        look=moved(request.look),
        input_look=moved(request.input_look),
        whole=request.plan,
        region=region,
        trial=f"trial, {preset}",
    )
