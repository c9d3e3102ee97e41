"""Requests of runs, the record of their input layers, and how their results become layers.

A request is fixed when Run is pressed and does not follow later changes in the viewer.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import eq, ge
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import AVAILABLE_COLORMAPS

from napari_dip.errors import DipError
from napari_dip.errors.notes import parse_report_notes
from napari_dip.errors.templates import format_bytes, format_duration, render_text
from napari_dip.io.paths import describe_exception
from napari_dip.io.reading import read_header
from napari_dip.pipeline.assess.methods_section import describe_result_iteration
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.autosave import AutosaveTarget, run_with_autosave, summarise_run
from napari_dip.pipeline.execute.crop_preview import MERGE_INPUT, run_crop_preview
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import map_generator
from napari_dip.pipeline.repetition import Repetition
from napari_dip.pipeline.store.network_files import NETWORK_FILE_INPUT
from napari_dip.qt.shell.background_call import MIN_UPDATE_SECONDS, JobProgress, log_error, try_call
from napari_dip.qt.shell.dock_widget import DOCK_TEXTS
from napari_dip.qt.shell.job_controller import JobRequest, ResultTarget, run_until_abandoned
from napari_dip.qt.shell.layer_headers import (
    compute_matrix,
    get_full_resolution,
    read_layer_provenance,
    record_file_sizes,
)
from napari_dip.qt.shell.layer_inputs import is_selectable
from napari_dip.qt.shell.napari_layers import (
    CROP_PREVIEW,
    REGION,
    add_result,
    brighten_dark_layer,
    copy_layer_attributes,
    describe_derived_image,
)
from napari_dip.qt.shell.preferences import (
    find_settings_folder,
    get_allowed_machine,
    get_scheduler,
    read_preferences,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dip.pipeline.execute.crop_preview import CropRegion
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.qt.shell.background_call import RunControl
    from napari_dip.qt.shell.layer_inputs import ExtraInputs
    from napari_dip.qt.shell.napari_layers import Preview

SNAPSHOTS_KEPT_MESSAGE = "Discarded; only the images that you kept from its history are left."
UNDO_HINT = DOCK_TEXTS["run-undo-hint"]
NO_IMAGE_MESSAGE = DOCK_TEXTS["run-no-image"]
#: The space between a number and its unit, which becomes a non-breaking one.
_UNIT = re.compile(r"(?<=\d) (?=(s|min|h|MB|GB)\b)")
#: Largest image that is hashed in the GUI thread, in bytes: 0.1 s on one core.
_MAX_HASHED_BYTES = 2**27
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
#: Attributes of an image that are recorded, and that can be set.
LOOK_ATTRIBUTES = (*_ARRAY_ATTRIBUTES, *_SCALAR_ATTRIBUTES[:-2], "units", "colormap")


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
    is_restored = provenance.get("shows", "result") in ("result", REGION)
    return provenance if is_restored and isinstance(provenance.get("report"), Mapping) else None


def is_input_layer(layer: Layer, provenance: Mapping[str, Any]) -> bool:
    """Whether a layer has the pixels of which a result was made, under any name.

    Pixels on the disk, and too many ones, are not compared. They go by the name of the layer, and
    by the path of its file if both are known.
    """
    report = provenance.get("report", {})  # a discarded run has none
    recorded = provenance.get("inputs", {}).get("image", {})
    is_crop = provenance.get("shows") in (REGION, CROP_PREVIEW)
    shape = tuple(report.get("shape", ()))
    if not is_selectable(layer):
        return False
    if shape and not _is_matching_shape(get_full_resolution(layer).shape, shape, is_crop):
        return False
    # the report of a crop has the hash of the crop
    digest = recorded.get("sha256") or (None if is_crop else provenance["input"]["sha256"])
    if digest and (layer_digest := hash_pixels(get_full_resolution(layer))):
        return layer_digest == str(digest)
    paths = {os.path.realpath(path) for path in (recorded.get("path"), layer.source.path) if path}
    return layer.name == provenance["input"]["name"] and len(paths) < 2


def find_source_layer(viewer: Viewer, provenance: Mapping[str, Any]) -> Image | None:
    """Return the layer of which a result was made; None if there is none."""
    name = provenance["input"]["name"]
    layers = sorted(viewer.layers, key=lambda layer: layer.name != name)
    return next((layer for layer in layers if is_input_layer(layer, provenance)), None)


def hash_pixels(pixels: Any) -> str | None:
    """Return the hash of the pixels of a layer; None if they are on the disk, or too many."""
    is_hashed = type(pixels) is np.ndarray and pixels.nbytes <= _MAX_HASHED_BYTES
    return compute_sha256(pixels) if is_hashed else None


def find_merge_layer(viewer: Viewer, image: Image, plan: Plan) -> Image | None:
    """Return the topmost result of the plan's task for an image; None if there is none.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    image : Image
    plan : Plan
        The plan for the whole image.
    """
    for layer in reversed(viewer.layers):
        provenance = read_result_provenance(layer)
        if (
            provenance is not None
            and provenance["recipe"]["task"] == plan.recipe.task.spec.name
            and get_full_resolution(layer).shape == plan.result_shape
            and is_input_layer(image, provenance)
        ):
            return layer
    return None


def read_recorded_inputs(provenance: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the recorded inputs of a result by name; by default, its image only."""
    name, axes = provenance["input"]["name"], provenance.get("report", {}).get("axes")
    image = {"layer": name, "path": None, "axes": axes}
    recorded = dict(provenance.get("inputs") or {"image": image})
    return {name: record for name, record in recorded.items() if name != NETWORK_FILE_INPUT}


def find_unsaved_inputs(provenance: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs without a file, or whose file has another shape."""
    inputs = read_recorded_inputs(provenance)
    shape = tuple(provenance["report"]["shape"])
    is_crop = provenance.get("shows") in (REGION, CROP_PREVIEW)
    return [
        name
        for name, record in inputs.items()
        if not _is_matching_file(record.get("path"), shape if name == "image" else None, is_crop)
    ]


def describe_unsaved_inputs(provenance: Mapping[str, Any]) -> str:
    """Return a sentence on inputs that cannot be opened again, such as a painted mask, or ""."""
    if not {"axes", "shape"} <= set(provenance.get("report", ())):  # such as a discarded run
        return ""
    inputs = read_recorded_inputs(provenance)
    names = [f"'{inputs[name]['layer']}'" for name in find_unsaved_inputs(provenance)]
    facts = {"names": " and ".join(names), "several": len(names) > 1}
    return render_text("inputs-unsaved", **facts) if names else ""


def build_repetition(provenance: Mapping[str, Any], saved: Mapping[str, str]) -> Repetition:
    """Return what is needed to repeat a result: its report, files and name.

    Parameters
    ----------
    provenance : mapping
        By `read_result_provenance`.
    saved : mapping of str to str
        Files of inputs that were saved afterwards, by name.
    """
    inputs = read_recorded_inputs(provenance)
    paths = {name: str(record.get("path")) for name, record in inputs.items()}
    if (network := dict(provenance.get("inputs") or {}).get(NETWORK_FILE_INPUT)) is not None:
        paths[NETWORK_FILE_INPUT] = str(network["path"])
    return Repetition(
        report=provenance["report"], paths={**paths, **saved}, name=str(provenance["input"]["name"])
    )


def _get_layer_path(layer: Any) -> str | None:
    path = layer.source.path
    return None if not path else os.path.abspath(path)


def _is_matching_file(path: str | None, shape: tuple[int, ...] | None, is_crop: bool) -> bool:
    """Whether a file can be read, and has the given shape, or contains it; None for any shape."""
    if not path:
        return False
    try:
        found_shape = read_header(path).shape
    except DipError:
        return False
    return shape is None or _is_matching_shape(found_shape, shape, is_crop)


def _is_matching_shape(sides: tuple[int, ...], shape: tuple[int, ...], is_crop: bool) -> bool:
    """Whether an image has the shape of a run's input, or contains it if that was a crop."""
    return len(sides) == len(shape) and all(map(ge if is_crop else eq, sides, shape))


def describe_region(report: Mapping[str, Any]) -> str:
    """Return the rows and columns that were merged into a result; "" for other results."""
    regions = (note for note in parse_report_notes(report) if note.code == "region-merged")
    return next((render_text("region", **note.facts) for note in regions), "")


def find_autosave_folder() -> Path | None:
    """Return the folder of interrupted runs next to napari's settings; None if it saves none."""
    folder = find_settings_folder()
    return None if folder is None else folder / "unfinished"


def plan_autosave(
    plan: Plan, image: Image, extra_inputs: Mapping[str, Layer]
) -> AutosaveTarget | None:
    """Return folder and manifest for the autosave of a run; None if it is not to be saved.

    A run is not saved if the preferences say so, if napari has no settings folder, or if the plan
    would now be another one. One that begins with another network is short, and is not saved.

    Parameters
    ----------
    plan : Plan
    image : Image
        The image that is restored.
    extra_inputs : mapping of str to Layer
        The extra inputs of the task by name.
    """
    is_enabled = getattr(read_preferences("computing"), "keep_unfinished", True)
    machine, folder = get_allowed_machine(), find_autosave_folder()
    new_plan = preflight(plan.recipe, plan.header, machine, plan.extra_headers)
    # another amount of free memory can change the plan
    if not is_enabled or folder is None or new_plan != plan:
        return None
    layers = {"image": image, **extra_inputs}
    records = record_inputs(image, plan.header.axes, extra_inputs)
    recorded = {name: record | record_layer(layers[name]) for name, record in records.items()}
    file = os.path.basename(recorded["image"]["path"] or "")
    file = f" ({file})" if os.path.splitext(file)[0] not in ("", image.name) else ""
    label = f"{plan.recipe.task.spec.title} of '{image.name}'{file}"
    return AutosaveTarget(
        folder=folder / f"run-{secrets.token_hex(4)}",
        run_summary=summarise_run(plan, label, machine),
        inputs=recorded,
    )


def record_layer(layer: Layer) -> dict[str, Any]:
    """Return kind and attributes of a layer, in plain JSON types."""
    state = layer.as_layer_data_tuple()[1]
    if not isinstance(layer, Image):
        attributes = {name: np.asarray(state[name]).tolist() for name in ("scale", "translate")}
        return {"kind": "labels", "look": attributes if isinstance(layer, Labels) else {}}
    attributes = {name: np.asarray(state[name]).tolist() for name in _ARRAY_ATTRIBUTES}
    attributes |= {name: state[name] for name in _SCALAR_ATTRIBUTES}
    attributes |= {name: [str(value) for value in state[name]] for name in ("units", "axis_labels")}
    attributes |= {"blending": str(state["blending"]), **record_file_sizes(layer)}
    colours, name = layer.colormap, layer.colormap.name
    attributes["colormap"] = (
        name
        if name in AVAILABLE_COLORMAPS
        else {"name": name, "colors": colours.colors.tolist(), "controls": list(colours.controls)}
    )
    return {"kind": "image", "look": attributes}


class LossTracker:
    """Turns the events of a run into progress, with a point of the curves for each new loss."""

    def __init__(self) -> None:
        self._last_losses: tuple[int, float | None, float | None] = (0, None, None)

    def __call__(self, event: Event) -> JobProgress:
        """Return the progress of an event; events repeat the last losses until there are others."""
        losses = (event.unit, event.training_loss, event.validation_loss)
        if losses == self._last_losses or losses[1:] == (None, None):
            return JobProgress(event=event)
        self._last_losses = losses
        values = (float("nan") if loss is None else loss for loss in losses[1:])
        return JobProgress(event=event, points=((event.unit, event.iteration, *values),))


def run_restoration(
    begin: Callable[..., Generator[Event, None, Restoration | None]],
    pixels: Mapping[str, Any],
    control: RunControl,
) -> Generator[JobProgress, None, Restoration | None]:
    """Run a restoration as the work of a `JobRequest`.

    Parameters
    ----------
    begin : callable
        As `run`, with its plan.
    pixels : mapping of str to array
    control : RunControl
    """
    steps = begin(pixels, poll_control=control, preview_seconds=MIN_UPDATE_SECONDS)
    return (yield from map_generator(steps, LossTracker()))


def make_run_request(
    plan: Plan,
    layer: Image,
    extra_inputs: ExtraInputs,
    *,
    autosave_target: AutosaveTarget | None = None,
    is_crop: bool = False,
) -> JobRequest:
    """Return a request for the chosen layers.

    Parameters
    ----------
    plan : Plan
    layer : Image
        The image that is restored; its contrast limits are set if it is dark.
    extra_inputs : ExtraInputs
        The extra inputs.
    autosave_target : AutosaveTarget, optional
        An interrupted run that is resumed; by default a new one, if runs are saved.
    is_crop : bool
        Whether a crop is restored, whose report does not tell the hash of the whole image.
    """
    earlier_limits = layer.contrast_limits
    brighten_dark_layer(layer)
    is_brightened = layer.contrast_limits != earlier_limits
    chosen = extra_inputs.get_chosen_layers()
    inputs = record_inputs(layer, plan.header.axes, chosen)
    if is_crop:
        inputs["image"]["sha256"] = hash_pixels(get_full_resolution(layer))
    scheduler = "" if autosave_target is not None else get_scheduler()
    if plan.network is not None:
        inputs[NETWORK_FILE_INPUT] = {"path": plan.network.path}
    saved = autosave_target or (None if scheduler else plan_autosave(plan, layer, chosen))
    spec = plan.recipe.task.spec
    return JobRequest(
        kind=spec.name,
        label=f"{spec.title} {layer.name}",
        plan=plan,
        work=partial(run_restoration, _choose_run(plan, saved, scheduler)),
        summary=describe_plan(plan, layer, scheduler=scheduler),
        inputs={"image": get_full_resolution(layer), **extra_inputs.read_pixels()},
        target=ResultTarget(
            name=layer.name,
            layer_attributes=copy_layer_attributes(layer, plan, inputs),
            input_layer_attributes=copy_layer_attributes(layer, None, inputs),
            get_source_layer=ref(layer),
            plan_notes=plan.notes,
        ),
        remark=DOCK_TEXTS["run-brightened"].format(layer.name) if is_brightened else "",
    )


def _choose_run(plan: Plan, saved: AutosaveTarget | None, scheduler: str) -> Callable[..., Any]:
    """Return what runs the plan: a dask cluster, or this computer, with or without saving."""
    if scheduler:  # 50 ms that only those need who have a cluster
        from napari_dip.scale.cluster.dask_cluster import run_on_cluster

        return partial(run_on_cluster, scheduler, plan)
    if saved is None:
        return partial(run, plan)
    return partial(run_until_abandoned, partial(run_with_autosave, saved, plan))


def make_crop_request(
    full_request: JobRequest,
    full_plan: Plan,
    region: CropRegion,
    crop_plan: Plan,
    merge_layer: Image | None = None,
) -> JobRequest:
    """Return a request for a crop preview, whose result is placed at the crop.

    The result of a region with `inner_spans` is merged into the whole image instead.

    Parameters
    ----------
    full_request : JobRequest
        A request for the whole image.
    full_plan : Plan
        The plan for the whole image with the settings of the preview.
    region : CropRegion
    crop_plan : Plan
        The plan of the crop, by `napari_dip.pipeline.execute.crop_preview.plan_crop_preview`.
    merge_layer : Image, optional
        The result that a region is merged into.
    """
    target = full_request.target
    assert target is not None  # the result of a task is a layer
    layer = target.get_source_layer()
    # napari counts no axis for red, green and blue
    starts = zip(region.start, crop_plan.header.axes, strict=True)
    offset = [index for index, axis in starts if axis != "S"]
    shift = compute_matrix(layer) @ np.array(offset, float)
    attributes, input_attributes = (
        {**layer_attributes, "translate": layer_attributes["translate"] + shift}
        for layer_attributes in (target.layer_attributes, target.input_layer_attributes)
    )
    name = f"{crop_plan.recipe.run_settings.preset.capitalize()} crop"
    inputs, merge = full_request.inputs, dict[str, Any]()
    if region.inner_spans:
        name, merge["whole"] = REGION, target
    if merge_layer is not None:
        inputs = {**inputs, MERGE_INPUT: get_full_resolution(merge_layer)}
        merge["get_merged_layer"] = ref(merge_layer)
        merge["merged_provenance"] = read_layer_provenance(merge_layer)
    return replace(
        full_request,
        inputs=inputs,
        label=f"{full_request.label} {name}",
        plan=crop_plan,
        work=partial(run_restoration, partial(run_crop_preview, full_plan, region, crop_plan)),
        summary=describe_plan(crop_plan, layer),
        target=replace(
            target,
            layer_attributes=attributes,
            input_layer_attributes=input_attributes,
            crop_name=name,
            plan_notes=full_plan.notes,
            **merge,
        ),
    )


def describe_plan(plan: Plan, layer: Image | None, time: str = "", *, scheduler: str = "") -> str:
    """Return the text of a plan: work, time, memory, a warning on the input, and notes."""
    summary = _UNIT.sub(
        "\u00a0", f"{plan.work_summary}: {time}{format_bytes(plan.peak_bytes)} of memory."
    )
    derived_warning = "" if layer is None else describe_derived_image(layer)
    place = f"It runs on the dask cluster at {scheduler}." if scheduler else ""
    return "\n".join(filter(None, [summary, place, derived_warning, *map(str, plan.notes)]))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PendingResult:
    """A result that is to become a layer.

    Attributes
    ----------
    target : ResultTarget
    result : Restoration
    preview : Preview or None
        The preview of the run, whose layer shows the result afterwards.
    """

    target: ResultTarget
    result: Restoration
    preview: Preview | None = None

    def add(self, viewer: Viewer) -> tuple[str, str]:
        """Add the result as a layer; without position and colours of the input if these fail.

        Returns
        -------
        name, remark : str
            The name of the new layer, and a sentence on what failed, or "".

        Raises
        ------
        Exception
            If no layer could be added. Any type, because other plugins listen to the layers.
        """
        target = self.target
        try:
            return add_result(viewer, target, self.result, self.preview).name, ""
        except Exception as error:
            log_error(f"Adding the result of '{target.name}' failed", error)
            # the error may have come after napari had added the layer
            if layer_name := self._find_layer_name(viewer):
                return (
                    layer_name,
                    f"While it was added, something else failed: {describe_exception(error)}.",
                )
            plain_attributes = {key: target.layer_attributes[key] for key in ("rgb", "metadata")}
            try:
                plain_target = replace(target, layer_attributes=plain_attributes)
                name = add_result(viewer, plain_target, self.result).name
            except Exception:
                name = self._find_layer_name(viewer)
                if not name:
                    raise
            reason = describe_exception(error)
            return name, f"Place and colours of the input could not be taken over: {reason}."

    def describe(self, layer_name: str, remarks: Iterable[str] = ()) -> str:
        """Return the message on a finished run: layer, stop reason, duration and remarks."""
        seconds = self.result.report.get("seconds")
        duration = ""
        if isinstance(seconds, int | float):
            duration = f"It took {format_duration(seconds, is_bound=False)}"
        ends = str(self.result.stop), describe_result_iteration(self.result.report)
        sentences = dict.fromkeys((*ends, duration, *remarks))
        texts = (format_sentence(sentence) for sentence in sentences if sentence)
        region = describe_region(self.result.report)
        beginning = f"{region} of '{layer_name}' are" if region else f"'{layer_name}' is"
        return "\n".join(filter(None, [format_sentence(f"{beginning} done"), " ".join(texts)]))

    def _find_layer_name(self, viewer: Viewer) -> str:
        """Return the name of the layer that shows the result, or ""."""
        return next((layer.name for layer in viewer.layers if layer.data is self.result.image), "")


@dataclass(slots=True, eq=False)
class ResultQueue:
    """Adds results to a viewer, and keeps those that could not be added for another attempt.

    Attributes
    ----------
    viewer : napari.viewer.Viewer
    on_added : callable, optional
        Called with each result and the name of its layer; returns a further message or "".
    """

    viewer: Viewer
    on_added: Callable[[PendingResult, str], str] = lambda pending, layer_name: ""
    _waiting_results: list[PendingResult] = field(default_factory=list)

    @property
    def has_waiting(self) -> bool:
        """Whether a result could not be added yet."""
        return bool(self._waiting_results)

    def add(self, pending: PendingResult, remarks: Iterable[str] = ()) -> str:
        """Add a result as a layer; return the message for the user."""
        try:
            layer_name, remark = pending.add(self.viewer)
        except Exception as error:
            name = pending.target.name
            log_error(f"The result of '{name}' waits", error)
            self._waiting_results.append(pending)
            return (
                f"The result for '{name}' is ready but could not be added to the viewer: "
                f"{describe_exception(error)}. Press Add the result to try again."
            )
        message, error_message = try_call(
            lambda: self.on_added(pending, layer_name), "It cannot be compared with its input"
        )
        return pending.describe(layer_name, [*remarks, remark, message or error_message])

    def add_waiting(self) -> str:
        """Try again to add the waiting results; return the message for the user."""
        waiting, self._waiting_results = self._waiting_results, []
        return "\n".join([self.add(pending) for pending in waiting])


def format_sentence(text: str) -> str:
    """Return a text with a capital at the beginning and a full stop at the end."""
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
