"""Run requests, the record of their input layers, and how to restore these after a crash.

A request is fixed when Run is pressed and does not follow later changes in the viewer.
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
from napari_dip.pipeline.store.joint_network import SHARED_NETWORK_INPUT
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


def record_inputs(image: Image, axes: str, extra_inputs: Mapping[str, Layer]) -> dict[str, Any]:
    """Return names and files of the layers that a run reads, in plain JSON types.

    Parameters
    ----------
    image : Image
        The image that is restored.
    axes : str
        One letter for each of its axes.
    extra_inputs : mapping of str to Layer
        The extra inputs of the task by name.
    """
    layers: dict[str, Any] = {"image": image, **extra_inputs}
    recorded = {
        name: {"layer": str(layer.name), "path": _get_layer_path(layer)}
        for name, layer in layers.items()
    }
    recorded["image"]["axes"] = axes
    return recorded


def read_result_provenance(layer: Any) -> Mapping[str, Any] | None:
    """Return the provenance of a layer with a report; None if the layer is no result."""
    provenance = read_layer_provenance(layer)
    if not isinstance(provenance.get("report"), Mapping):
        return None
    return provenance if provenance.get("shows", "result") == "result" else None


def read_recorded_inputs(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the recorded inputs of a result by name; by default, its image only."""
    image = {
        "layer": provenance["input"]["name"],
        "path": None,
        "axes": provenance["report"]["axes"],
    }
    recorded = dict(provenance.get("inputs") or {"image": image})
    return {name: record for name, record in recorded.items() if name != SHARED_NETWORK_INPUT}


def find_unsaved_inputs(provenance: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs without a file, or whose file has another shape."""
    inputs = read_recorded_inputs(provenance)
    shape = tuple(provenance["report"]["shape"])
    return [
        name
        for name, record in inputs.items()
        if not _is_matching_file(record.get("path"), shape if name == "image" else None)
    ]


def build_repetition(provenance: Mapping[str, Any], saved: Mapping[str, str]) -> Repetition:
    """Return what is needed to repeat a result: its report, files and name.

    Parameters
    ----------
    provenance : mapping
        By `read_result_provenance`.
    saved : mapping of str to str
        Files of inputs that were saved afterwards, by name.
    """
    paths = {
        name: str(record.get("path")) for name, record in read_recorded_inputs(provenance).items()
    }
    if (network := dict(provenance.get("inputs") or {}).get(SHARED_NETWORK_INPUT)) is not None:
        paths[SHARED_NETWORK_INPUT] = str(network["path"])
    return Repetition(
        report=provenance["report"], paths={**paths, **saved}, name=str(provenance["input"]["name"])
    )


def _get_layer_path(layer: Any) -> str | None:
    path = layer.source.path
    return None if not path else os.path.abspath(path)


def _is_matching_file(path: str | None, shape: tuple[int, ...] | None) -> bool:
    """Whether the header of a file can be read, and has the given shape unless that is None."""
    if not path:
        return False
    try:
        found_shape = read_spec(path).shape
    except DipError:
        return False
    return shape is None or found_shape == shape


def list_autosave_folders() -> list[Path]:
    """Return the folder of interrupted runs next to napari's settings, or an empty list."""
    folder = find_settings_folder()
    return [] if folder is None else [folder / "unfinished"]


def plan_autosave(
    plan: Plan, image: Image, extra_inputs: Mapping[str, Layer]
) -> AutosaveTarget | None:
    """Return folder and manifest for the autosave of a run; None if it is not to be saved.

    A run is not saved if the preferences say so, if napari has no settings folder, or if the plan
    would now be another one.

    Parameters
    ----------
    plan : Plan
    image : Image
        The image that is restored.
    extra_inputs : mapping of str to Layer
        The extra inputs of the task by name.
    """
    is_enabled = getattr(read_preferences("computing"), "keep_unfinished", True)
    machine = get_allowed_machine()
    new_plan = preflight(plan.recipe, plan.source, machine, plan.extra_inputs)
    # another amount of free memory can change the plan
    if not is_enabled or not list_autosave_folders() or new_plan != plan:
        return None
    layers = {"image": image, **extra_inputs}
    recorded = {
        name: {**record, **_record_layer(layers[name])}
        for name, record in record_inputs(image, plan.source.axes, extra_inputs).items()
    }
    path = recorded["image"]["path"]
    file = os.path.basename(path or "")
    file = f" ({file})" if os.path.splitext(file)[0] not in ("", image.name) else ""
    run_summary = summarise_run(
        plan, f"{plan.recipe.task.spec.title} of '{image.name}'{file}", machine
    )
    return AutosaveTarget(
        folder=list_autosave_folders()[0] / f"run-{secrets.token_hex(4)}",
        run_summary=run_summary,
        inputs=recorded,
    )


def collect_layer_pixels(
    viewer: napari.viewer.Viewer, inputs: Mapping[str, Mapping[str, Any]]
) -> Any:
    """Return the pixels of those inputs of a run whose layers exist, by input name.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : mapping of str to mapping
        The recorded inputs of the run.
    """
    pixels = {}
    for name, record in inputs.items():
        layer = viewer.layers[record["layer"]] if record["layer"] in viewer.layers else None
        if isinstance(layer, Image | Labels):
            pixels[name] = get_full_resolution(layer)
    return pixels


def recreate_layer(viewer: napari.viewer.Viewer, noted: Mapping[str, Any], pixels: Any) -> str:
    """Add a recorded layer again, without position and colours if napari rejects these.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    noted : mapping
        The record of the layer.
    pixels : ndarray

    Returns
    -------
    str
        The name of the layer, which differs from the recorded one if that is in use.
    """
    attributes = {**noted["look"], "name": noted["layer"]}
    with preserve_view(viewer):
        if noted["kind"] == "labels":
            labels = np.asarray(pixels)
            labels = labels.astype(np.uint8) if labels.dtype == bool else labels
            return str(viewer.add_labels(labels, **attributes).name)
        try:
            layer = viewer.add_image(pixels, **attributes)
        except (TypeError, ValueError, KeyError):  # attributes of another version of napari
            layer = viewer.add_image(pixels, name=noted["layer"], rgb=bool(attributes.get("rgb")))
    return str(layer.name)


def _record_layer(layer: Layer) -> dict[str, Any]:
    """Return kind and attributes of a layer, in plain JSON types."""
    state = layer.as_layer_data_tuple()[1]
    if not isinstance(layer, Image):
        attributes = {name: np.asarray(state[name]).tolist() for name in ("scale", "translate")}
        return {"kind": "labels", "look": attributes if isinstance(layer, Labels) else {}}
    attributes = {name: np.asarray(state[name]).tolist() for name in _ARRAY_ATTRIBUTES}
    attributes |= {name: state[name] for name in _SCALAR_ATTRIBUTES}
    attributes |= {name: [str(value) for value in state[name]] for name in ("units", "axis_labels")}
    attributes["blending"] = str(state["blending"])
    attributes["colormap"] = layer.colormap.name
    return {"kind": "image", "look": attributes}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RunRequest:
    """A plan with its pixels and the layer attributes for its result.

    Attributes
    ----------
    plan : Plan
    name : str
        The name of the image's layer.
    layer_attributes, input_layer_attributes : mapping
        For pictures of the result's size and of the input's; see `copy_layer_attributes`.
    get_source_layer : callable
        Returns the image's layer, or None if it no longer exists.
    pixels : mapping of str to array
        The inputs by name, lazy or not.
    full_plan : Plan or None
        The plan for the whole image, if this is a crop preview.
    region : CropRegion or None
        The region of a crop preview.
    crop_preview_name : str
        Suffix of the layer name for a crop preview; else empty.
    autosave_target : AutosaveTarget or None
        Where the run is saved, to be resumed after a crash.
    """

    plan: Plan
    name: str
    layer_attributes: Mapping[str, Any]
    input_layer_attributes: Mapping[str, Any]
    get_source_layer: Callable[[], Any]
    pixels: Mapping[str, Any]
    full_plan: Plan | None = None
    region: CropRegion | None = None
    crop_preview_name: str = ""
    autosave_target: AutosaveTarget | None = None

    @property
    def label(self) -> str:
        """Name of the run in the queue, such as "Denoise cells"."""
        title = self.plan.recipe.task.spec.title
        return " ".join(filter(None, [title, self.name, self.crop_preview_name]))

    def make_pending_result(
        self, result: Restoration, preview: Preview | None = None
    ) -> PendingResult:
        """Return the result with all that is needed to make it a layer."""
        plan = self.plan if self.full_plan is None else self.full_plan
        return PendingResult(
            name=self.name,
            layer_attributes=self.layer_attributes,
            result=result,
            get_source_layer=self.get_source_layer,
            input_layer_attributes=self.input_layer_attributes,
            crop_preview_name=self.crop_preview_name,
            remarks=plan.notes,
            preview=preview,
        )

    @property
    def begin(self) -> Callable[..., Any] | None:
        """Function that starts a crop preview or a run with autosave; None for other runs."""
        if self.full_plan is not None and self.region is not None:
            return partial(run_crop_preview, self.full_plan, self.region)
        return (
            None
            if self.autosave_target is None
            else partial(run_with_autosave, self.autosave_target)
        )


def make_run_request(plan: Plan, layer: Image, extra_inputs: ExtraInputs) -> RunRequest:
    """Return a run request for the chosen layers.

    Parameters
    ----------
    plan : Plan
    layer : Image
        The image that is restored.
    extra_inputs : ExtraInputs
        The extra inputs.
    """
    chosen = extra_inputs.get_chosen_layers()
    inputs = record_inputs(layer, plan.source.axes, chosen)
    return RunRequest(
        plan=plan,
        name=layer.name,
        layer_attributes=copy_layer_attributes(layer, plan, inputs),
        input_layer_attributes=copy_layer_attributes(layer, None, inputs),
        get_source_layer=ref(layer),
        pixels={"image": get_full_resolution(layer), **extra_inputs.read_pixels()},
        autosave_target=plan_autosave(plan, layer, chosen),
    )


def restrict_to_region(request: RunRequest, region: CropRegion, small: Plan) -> RunRequest:
    """Return a request for a crop preview, whose result is placed at the crop.

    Parameters
    ----------
    request : RunRequest
        The request for the whole image.
    region : CropRegion
    small : Plan
        The plan of the crop, by `napari_dip.pipeline.execute.crop_preview.plan_crop_preview`.
    """
    layer = request.get_source_layer()
    # napari counts no axis for red, green and blue
    offset = [
        index for index, axis in zip(region.start, small.source.axes, strict=True) if axis != "S"
    ]
    linear_matrix = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    shift = linear_matrix @ np.array(offset, float)

    def moved(layer_attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {**layer_attributes, "translate": layer_attributes["translate"] + shift}

    preset = small.recipe.run_settings.preset.capitalize()
    return replace(
        request,
        plan=small,
        layer_attributes=moved(request.layer_attributes),
        input_layer_attributes=moved(request.input_layer_attributes),
        full_plan=request.plan,
        region=region,
        crop_preview_name=f"crop preview, {preset}",
    )
