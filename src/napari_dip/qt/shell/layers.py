"""Between napari's layers and our values: headers, pixels, preview, result.

What a layer's metadata say of how its picture came about.

Between which values a picture made from a layer is shown: as the layer, unless that is black.

Adding layers without moving what the user looks at.

The layer that shows a run on its way, and its result in the end.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from contextlib import contextmanager
from math import ceil, inf, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.transforms import Affine

from napari_dip.errors.notes import report_stop
from napari_dip.io import ImageSpec, guess_axes
from napari_dip.pipeline.recipe import migrate_record
from napari_dip.tasks import TASKS
from napari_dip.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import napari.layers
    import napari.types
    import napari.viewer
    import numpy.typing as npt
    from napari.layers import Layer

    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan

#: Least share of the layer's limits that a picture fills which is shown between them, so that the
#: two can be compared by eye. Noise alone widens a layer's range less than that: the average of
#: many shots fills 0.74 of the range of one of them or more, in all of 35 pairs (FMD BPAE, W2S). A
#: scratch of 65535 over 460 counts leaves 0.006, and a picture that is black.
MIN_CONTRAST_SHARE = 1 / 3
#: The same for a picture of a part of the layer, which may be a dark one, and is compared with what
#: lies around it: it fills less than 8 of 256 grey values, and nothing is seen in it.
MIN_CROP_CONTRAST_SHARE = 1 / 32
#: Pixels of a picture that are looked at, at most; of a larger one its middle plane, thinned out,
#: since it may lie on the disk. 64 MB are read through in some hundredths of a second.
_MAX_SAMPLED_PIXELS = 2**24


def compute_value_range(picture: npt.NDArray[Any]) -> tuple[float, float]:
    """Tell the least and the greatest value of a picture; NaN counts for nothing."""
    if picture.size > _MAX_SAMPLED_PIXELS:
        plane = picture[tuple(count // 2 for count in picture.shape[:-2])]
        step = ceil(sqrt(plane.size / _MAX_SAMPLED_PIXELS))
        picture = plane[::step, ::step]
    return float(np.fmin.reduce(picture, axis=None)), float(np.fmax.reduce(picture, axis=None))


def adjust_contrast_limits(
    look: Mapping[str, Any], value_range: tuple[float, float], *, part: bool = False
) -> dict[str, Any]:
    """Give a picture limits of its own where it would be dark between those of the layer.

    Parameters
    ----------
    look : mapping
        Of the layer, by `napari_dip.qt.shell.layers.copy_layer_attributes`.
    value_range : (float, float)
        Least and greatest value of the picture.
    part : bool
        Whether it shows a part of the layer.

    Returns
    -------
    dict
        The look; as it was where the picture fills enough of the limits, is of one value, or in
        red, green and blue, whose balance is judged beside the layer's.
    """
    limits = look.get("contrast_limits")
    if limits is None or look.get("rgb"):
        return dict(look)
    least = (MIN_CROP_CONTRAST_SHARE if part else MIN_CONTRAST_SHARE) * (limits[1] - limits[0])
    if not 0 < value_range[1] - value_range[0] < least:
        return dict(look)
    return {**look, "contrast_limits": value_range}


#: Under this key of `layer.metadata` lies what we know about a layer.
METADATA_KEY = "napari_dip"
#: Said where a picture of ours is taken for a measurement: by what it shows, else by its task.
_DERIVED_IMAGE_WARNINGS = {
    "residual": "This is what {title} took out of an image, and no image itself",
    "uncertainty": "This is how sure a result of {title} is, and no image itself",
    "found": "This was found by {title} beside a result, and is no image itself",
    "inpaint": "This is already a result of {title}: what was filled in is no measurement",
}
_RESTORED_IMAGE_WARNING = (
    "This is already a result of {title}: what noise is left in it cannot be told from structure"
)


def read_layer_provenance(layer: Layer) -> Mapping[str, Any]:
    """Give what a layer says of how we made it; empty if it is none of ours."""
    ours = layer.metadata.get(METADATA_KEY)
    return migrate_record(ours) if isinstance(ours, Mapping) else {}


def describe_derived_image(layer: Layer) -> str:
    """Say that a layer is one of our own pictures; empty if it is none."""
    provenance = read_layer_provenance(layer)
    if not provenance:
        return ""
    task = provenance.get("recipe", {}).get("task", "")
    title = TASKS[task].title if task in TASKS else "this plugin"
    why = _DERIVED_IMAGE_WARNINGS.get(
        provenance.get("shows", "result"),
        _DERIVED_IMAGE_WARNINGS.get(task, _RESTORED_IMAGE_WARNING),
    )
    return f"{why.format(title=title)}. Choose the original, if you can."


def add_provenance(
    look: Mapping[str, Any], name: str, result: Restoration, shows: str = "result"
) -> dict[str, Any]:
    """Give the metadata of a picture made from a layer: that layer's own, and how it came about.

    Parameters
    ----------
    look : mapping
        Of the layer, by `copy_layer_attributes`.
    name : str
        Of the layer.
    result : Restoration
    shows : str
        "result", or what else the picture shows of it.
    """
    metadata = dict(look.get("metadata", {}))
    inputs = metadata.get(METADATA_KEY, {}).get("inputs", {})
    record = {**build_provenance(name, result), "inputs": inputs, "shows": shows}
    return {**metadata, METADATA_KEY: record}


def build_provenance(name: str, result: Restoration) -> dict[str, Any]:
    """How a picture came about, in plain JSON types.

    Parameters
    ----------
    name : str
        Of the input layer.
    result : Restoration
    """
    provenance = build_report_provenance(name, result.recipe.to_dict(), result.report)
    return {
        **provenance,
        "version": __version__,
        "seed": result.recipe.run_settings.seed,
        "best_iteration": result.best_iteration,
        **report_stop(result.stop),
    }


def build_report_provenance(
    name: str, recipe: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """How a picture came about, as its report tells, in plain JSON types.

    Parameters
    ----------
    name : str
        Of the input layer.
    recipe, report : mapping
    """
    return {
        "version": report.get("version"),
        "recipe": dict(recipe),
        "seed": report.get("seed"),
        "device": report.get("device"),
        "input": {"name": name, "sha256": report.get("input_sha256")},
        "iterations": report.get("iterations"),
        "best_iteration": report.get("best_iteration"),
        "stop_reason": report.get("stop_reason"),
        "stop_code": report.get("stop_code"),
        "seconds": report.get("seconds"),
        "report": dict(report),
    }


@contextmanager
def preserve_view(viewer: napari.viewer.Viewer) -> Iterator[None]:
    """Give the user back selection, camera and sliders, which napari moves for a new layer."""
    layers = viewer.layers
    selected, active = set(layers.selection), layers.selection.active
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera  # napari < 0.9
    view = {"center": camera.center, "zoom": camera.zoom, "angles": camera.angles}
    step = viewer.dims.current_step
    try:
        yield
    finally:
        _restore_view(viewer, selected, active, camera, view, step)


def _restore_view(
    viewer: napari.viewer.Viewer,
    selected: set[Any],
    active: Any,
    camera: Any,
    view: Mapping[str, Any],
    step: tuple[int, ...],
) -> None:
    layers = viewer.layers
    kept = {layer for layer in selected if layer in layers}
    if set(layers.selection) != kept:
        layers.selection = kept
    if active is not None and active in layers and layers.selection.active is not active:
        layers.selection.active = active
    for key, value in view.items():
        if getattr(camera, key) != value:
            setattr(camera, key, value)
    if len(viewer.dims.current_step) == len(step) and viewer.dims.current_step != step:
        viewer.dims.current_step = step


#: What a picture made from a layer takes over from it.
_COPIED_ATTRIBUTES = (
    "scale",
    "translate",
    "rotate",
    "shear",
    "affine",
    "units",
    "axis_labels",
    "rgb",
    "colormap",
    "contrast_limits",
    "gamma",
    "blending",
    "opacity",
    "interpolation2d",
    "interpolation3d",
    "visible",
)


def get_full_resolution(layer: napari.layers.Image) -> Any:
    """Give the pixels in full resolution, still lazy if they are.

    `layer.data` of a multiscale layer is a sequence of levels, which NumPy would silently read as
    its smallest one.
    """
    return layer.data[0] if layer.multiscale else layer.data


def read_layer_header(layer: napari.layers.Image, axes: str | None = None) -> ImageSpec:
    """Describe an Image layer without reading its pixels.

    Parameters
    ----------
    layer : napari.layers.Image
    axes : str, optional
        One letter for each axis of its data; `guess_layer_axes` if left out.
    """
    data = get_full_resolution(layer)
    shape = tuple(int(count) for count in data.shape)
    samples = 1 if layer.rgb else 0  # napari counts no axis for red, green and blue
    return ImageSpec(
        name=layer.name,
        shape=shape,
        dtype=np.dtype(data.dtype).name,
        axes=guess_layer_axes(layer) if axes is None else axes,
        guessed=axes in (None, guess_axes(shape, rgb=bool(layer.rgb)))
        and not _parse_axis_labels(layer),
        scale=(*map(float, layer.scale), *[1.0] * samples),
        units=(*map(str, layer.units), *["pixel"] * samples),
    )


def guess_layer_axes(layer: napari.layers.Image) -> str:
    """Name the axes by the layer's own labels where they are such names, else by their number."""
    if labels := _parse_axis_labels(layer):
        return labels + ("S" if layer.rgb else "")
    return guess_axes(tuple(get_full_resolution(layer).shape), rgb=bool(layer.rgb))


def _parse_axis_labels(layer: napari.layers.Image) -> str:
    """Axes as the layer's own labels name them, "" if they are no such names."""
    labels = "".join(label[:1].upper() for label in layer.axis_labels)
    whole = {"Y", "X"} <= set(labels) <= set("TCZYX") and len(set(labels)) == len(labels)
    return labels if whole else ""


def copy_layer_attributes(
    layer: napari.layers.Image,
    plan: Plan | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that a picture made from this layer takes over, as `add_image` wants it.

    Where the plan makes finer pixels, they lie so that both pictures cover the same ground:
    pixel j has its centre at (j + 0.5) / factor - 0.5 of the layer's own.

    Parameters
    ----------
    layer : Image
    plan : Plan, optional
        Of the run that makes the picture.
    inputs : mapping, optional
        What the run reads, as `napari_dip.qt.task.request.record_inputs` says it.
    """
    state = layer.as_layer_data_tuple()[1]
    look = {key: state[key] for key in _COPIED_ATTRIBUTES}
    if plan is not None and max(plan.factors) > 1:
        finer = zip(plan.source.axes, plan.factors, strict=True)
        factors = np.array([factor for axis, factor in finer if axis != "S"])
        before = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear)
        look["translate"] = layer.translate + before.linear_matrix @ (0.5 / factors - 0.5)
        look["scale"] = layer.scale / factors
    metadata = {**layer.metadata, METADATA_KEY: {"inputs": dict(inputs or {})}}
    return look | {"metadata": metadata, "multiscale": False}


def is_preview(layer: napari.layers.Layer) -> bool:
    """Whether a layer is the preview of a run, or a line of ours: these are no input."""
    return bool(read_layer_provenance(layer).get("preview"))


def read_source_input(layer: napari.layers.Layer) -> Mapping[str, Any] | None:
    """Say of which input a layer is a result; None if it is none of ours."""
    return read_layer_provenance(layer).get("input")


def add_result(
    viewer: napari.viewer.Viewer,
    name: str,
    look: Mapping[str, Any],
    result: Restoration,
    trial: str = "",
    preview: Preview | None = None,
) -> napari.layers.Image:
    """Make a layer of the answer, which napari names apart from those already there.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    name : str
        Of the input layer.
    look : mapping
        What the layer takes over from it.
    result : Restoration
    trial : str
        What it is called where it shows a part of the input only; else empty.
    preview : Preview, optional
        That showed the run, whose layer is taken for it where nothing lies above.
    """
    metadata = add_provenance(look, name, result, "trial" if trial else "result")
    look = adjust_contrast_limits(look, compute_value_range(result.image), part=bool(trial))
    with preserve_view(viewer):
        for give in result.recipe.task.gives:
            _add_learned_layer(
                viewer, f"{name} {give.upper()}", look, result.learned[give], metadata
            )
        called, facts = f"{name} {trial or result.recipe.task.done}", {**look, "metadata": metadata}
        layer = None if preview is None else preview.become(result.image, called, facts)
        return layer or viewer.add_image(result.image, name=called, **facts)


def _add_learned_layer(
    viewer: napari.viewer.Viewer,
    name: str,
    look: Mapping[str, Any],
    picture: npt.NDArray[np.float32],
    metadata: Mapping[str, Any],
) -> None:
    """Add what was found beside the picture, its pixels as large as the picture's."""
    scale = [1.0] * (picture.ndim - 2) + [*look.get("scale", (1.0, 1.0))][-2:]
    units = look.get("units")
    placed = {"scale": scale} | ({"units": units} if units and len(units) == len(scale) else {})
    neighbours = {**metadata, METADATA_KEY: {**metadata[METADATA_KEY], "shows": "found"}}
    viewer.add_image(picture, name=name, **placed, colormap="magma", metadata=neighbours)


def follow_layers(viewer: napari.viewer.Viewer, slot: Callable[..., None], *, on: bool) -> None:
    """Call, or call no longer, when a layer comes, goes, is renamed or becomes the active one."""
    layers = viewer.layers
    signals = (layers.events.inserted, layers.events.removed, layers.events.renamed)
    for signal in (*signals, layers.selection.events.active):
        (signal.connect if on else signal.disconnect)(slot)


class Preview:
    """The one layer that shows a running restoration; its result when the run is over, or gone.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    name : str
        Of the input layer.
    look : mapping
        By `copy_layer_attributes`.
    part : bool
        Whether a part of the layer is restored.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        name: str,
        look: Mapping[str, Any],
        *,
        part: bool = False,
    ) -> None:
        self._viewer, self._part = viewer, part
        self._name = f"{name} preview"
        self._look = dict(look) | {"metadata": {METADATA_KEY: {"preview": True}}}
        self._layer: Image | None = None
        self._dismissed = False
        self._last_range = (inf, -inf)  # least and greatest value so far
        self._limits: tuple[float, ...] | None = None

    def show(self, picture: npt.NDArray[np.float32] | None) -> None:
        """Put a new picture, if there is one, into the layer, unless the user has removed it.

        Raises
        ------
        Exception
            If napari does not take it, of any kind; no more pictures are shown then.
        """
        if self._dismissed or picture is None:
            return
        if self._layer is not None and self._layer not in self._viewer.layers:
            self._dismissed, self._layer = True, None
            return
        try:
            self._put(picture)
        except Exception:
            self._dismissed = True
            raise

    def _put(self, picture: npt.NDArray[np.float32]) -> None:
        look = self._look_for(picture)
        if self._layer is None:
            self._layer = Image(picture, name=self._name, **look)
            with preserve_view(self._viewer):
                self._viewer.add_layer(self._layer)
        else:
            self._layer.data = picture
            if tuple(self._layer.contrast_limits) != self._limits:  # they are the user's own now
                return
            self._layer.contrast_limits = look.get("contrast_limits", self._limits)
        self._limits = tuple(self._layer.contrast_limits)

    def _look_for(self, picture: npt.NDArray[np.float32]) -> dict[str, Any]:
        """Have all pictures so far in sight: limits that only widen do not flicker."""
        low, high = compute_value_range(picture)
        self._last_range = min(self._last_range[0], low), max(self._last_range[1], high)
        return adjust_contrast_limits(self._look, self._last_range, part=self._part)

    @property
    def dismissed(self) -> bool:
        """Whether no more pictures are shown, as where the user has removed the layer."""
        gone = self._layer is not None and self._layer not in self._viewer.layers
        return self._dismissed or gone

    def remove(self) -> None:
        """Take the layer away; no more pictures are shown."""
        layer, self._layer, self._dismissed = self._layer, None, True
        if layer is not None and layer in self._viewer.layers:
            with preserve_view(self._viewer):
                self._viewer.layers.remove(layer)

    def become(
        self, picture: npt.NDArray[np.float32], name: str, look: Mapping[str, Any]
    ) -> Image | None:
        """Let the layer show a result from now on, under its own name, as a new one would be.

        napari takes half a second to take one layer out and put another one in, for which the
        window stands still.

        Returns
        -------
        Image or None
            None where there is no such layer on top of all others; then nothing was changed.

        Raises
        ------
        Exception
            If napari does not take it, of any kind; the layer is gone, or has the picture.
        """
        layer, layers = self._layer, self._viewer.layers
        if layer is None or not len(layers) or layers[-1] is not layer:
            return None
        if layer.data.shape != picture.shape or layer.data.dtype != picture.dtype:
            return None
        self._layer, self._dismissed = None, True
        try:
            _update_layer(layer, picture, name, look)
        except Exception:
            if layer.data is not picture:  # else it holds the result, whatever failed after that
                layers.remove(layer)
            raise
        return layer


def _update_layer(
    layer: Image, picture: npt.NDArray[np.float32], name: str, look: Mapping[str, Any]
) -> None:
    """Make a layer what a new one of that picture, name and look would be."""
    layer.metadata = dict(look["metadata"])  # no preview any more when others hear its name
    layer.data = picture
    had = layer.as_layer_data_tuple()[1]
    for key, value in look.items():
        if key in ("metadata", "rgb", "multiscale", "contrast_limits"):
            continue
        # each change is drawn: as bytes, what is the same may look changed, never the reverse
        if pickle.dumps(had[key]) != pickle.dumps(value):
            setattr(layer, key, value)
    if (limits := look.get("contrast_limits")) is None:
        layer.reset_contrast_limits()
    else:
        layer.contrast_limits_range = layer.contrast_limits = limits
    layer.iso_threshold = fmean(layer.contrast_limits_range)
    layer.name = name
