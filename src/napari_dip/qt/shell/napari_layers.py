"""Add results as napari layers: contrast limits, provenance and preview."""

from __future__ import annotations

import pickle
from functools import partial
from math import ceil, inf, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import numpy as np
from napari.layers import Image

from napari_dip.io.header import get_recipe_task
from napari_dip.qt.shell.dock_widget import preserve_view
from napari_dip.qt.shell.layer_headers import (
    DERIVED_IMAGE_WARNINGS,
    METADATA_KEY,
    compute_matrix,
    compute_pixel_sizes,
    get_full_resolution,
    read_layer_provenance,
)
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dip.io import AnyArray, Float32Array
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.qt.shell.job_controller import ResultTarget

#: Minimum ratio of an image's range to the contrast limits of its source layer for which it gets
#: these limits: at least 0.74 in 35 pairs, 0.006 with a bright scratch (docs/constants.md).
MIN_CONTRAST_FRACTION = 1 / 3
#: Minimum ratio of the range of an image of a crop to the contrast limits of its source layer for
#: which it gets these limits. It may be a dark crop, and is compared with the image around it.
#: Below, it fills less than 8 of 256 grey values and looks black.
MIN_CROP_CONTRAST_FRACTION = 1 / 32
#: Number of grey values on a screen. What exceeds the contrast limits by less than one of them is
#: not visible, and input and result keep the same limits.
_GREY_VALUES = 256
#: Largest number of pixels whose range is computed. Of a larger image, which may be on disk, only
#: every n-th pixel of the middle plane is read. 64 MB take some hundredths of a second.
_MAX_SAMPLED_PIXELS = 2**24
#: Share of the darkest pixels below the contrast limits: one row of 1000, or less.
_MIN_DARK_FRACTION = 0.001
#: Share of the brightest pixels above the contrast limits that are set for a dark image: noise.
_MAX_BRIGHT_FRACTION = 0.001
#: Share of napari's contrast limits below which an image counts as dark. At 0.29 (two-photon BPAE_R
#: of FMD, 8 bits) its result fills 0.2 of them, and looks black.
MIN_BRIGHT_FRACTION = 1 / 2
#: Height and width of the thumbnails of napari's layer list, in pixels.
_THUMBNAIL_SIDE = 32
#: Values in the provenance of a layer into which a region was merged, of the preview of a run, of a
#: crop preview, and of an image that was kept from the history of a run.
REGION = "region"
PREVIEW = "preview"
CROP_PREVIEW = "crop-preview"
SNAPSHOT = "snapshot"
#: Attributes that place a layer, and all that an image takes over from its source layer.
PLACEMENT_KEYS = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
_COPIED_ATTRIBUTES = (
    *PLACEMENT_KEYS,
    "rgb",
    "colormap",
    "contrast_limits",
    "gamma",
    "blending",
    "interpolation2d",
    "interpolation3d",
)
#: Fields of a report on how the fits of a run went.
_RUN_FIELDS = ("iterations", "best_iteration", "stop_reason", "stop_sentence", "seconds")

#: Blendings of layers that do not cover those below.
SEE_THROUGH = ("additive", "minimum")


class ValueRange(NamedTuple):
    """Range of an image without NaN; of a large one, of a sample.

    Attributes
    ----------
    low, high : float
        Minimum and maximum.
    trimmed_low, trimmed_high : float
        Quantiles of the shares that may be cut off, by `measure_clipped_fractions`.
    """

    low: float
    high: float
    trimmed_low: float
    trimmed_high: float

    def unite(self, other: ValueRange) -> ValueRange:
        """Return the smallest range with both."""
        return ValueRange(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.trimmed_low, other.trimmed_low),
            max(self.trimmed_high, other.trimmed_high),
        )


def compute_value_range(image: AnyArray, clipped_fractions: tuple[float, float]) -> ValueRange:
    """Return the range of an image, and that without the shares below and above that are cut."""
    image = _sample_pixels(image)
    low, high = float(np.fmin.reduce(image, axis=None)), float(np.fmax.reduce(image, axis=None))
    if np.isnan(low):  # there is no number, of which numpy would warn
        return ValueRange(low, high, low, high)
    below, above = clipped_fractions
    # single dark pixels would turn a black background grey
    some, dark = image.reshape(-1)[:: max(1, image.size // 2**18)], max(below, _MIN_DARK_FRACTION)
    trimmed_high = float(np.nanquantile(image, 1 - above)) if above else high
    return ValueRange(low, high, float(np.nanquantile(some, dark)), trimmed_high)


def _sample_pixels(image: AnyArray) -> AnyArray:
    """Return an image, or of a large one every n-th pixel of its middle plane."""
    if image.size <= _MAX_SAMPLED_PIXELS:
        return image
    plane = image[tuple(count // 2 for count in image.shape[:-2])]
    step = ceil(sqrt(plane.size / _MAX_SAMPLED_PIXELS))
    return np.asarray(plane[::step, ::step])


def measure_clipped_fractions(target: ResultTarget) -> tuple[float, float]:
    """Return the shares of an input's pixels below and above its contrast limits.

    Where the user has chosen limits that clip the input, its result is clipped as much.

    Returns
    -------
    (float, float)
        Both 0 for a layer that was removed or is not in memory.
    """
    layer, limits = target.get_source_layer(), target.layer_attributes.get("contrast_limits")
    if layer is None or limits is None or type(layer.data) is not np.ndarray:
        return 0.0, 0.0
    pixels = _sample_pixels(layer.data)
    return float((pixels < limits[0]).mean()), float((pixels > limits[1]).mean())


def adjust_contrast_limits(
    layer_attributes: Mapping[str, Any], value_range: ValueRange, *, is_crop: bool = False
) -> dict[str, Any]:
    """Set contrast limits for an image that would be black or cut off between those of its layer.

    Parameters
    ----------
    layer_attributes : mapping
        The attributes of the source layer, by `copy_layer_attributes`.
    value_range : ValueRange
        The range of the image, by `compute_value_range`.
    is_crop : bool
        Whether the image shows a crop of the layer.

    Returns
    -------
    dict
        The attributes. They are unchanged if the image lies within the limits and fills enough of
        them, has a single value, or is RGB, whose colour balance is compared with the layer's.
    """
    limits = layer_attributes.get("contrast_limits")
    if limits is None or layer_attributes.get("rgb"):
        return dict(layer_attributes)
    min_range = (MIN_CROP_CONTRAST_FRACTION if is_crop else MIN_CONTRAST_FRACTION) * (
        limits[1] - limits[0]
    )
    if 0 < value_range.high - value_range.low < min_range:
        return {**layer_attributes, "contrast_limits": (value_range.low, value_range.high)}
    tolerance = (limits[1] - limits[0]) / _GREY_VALUES
    low, high = value_range.trimmed_low, value_range.trimmed_high
    low = low if low < limits[0] - tolerance else limits[0]
    high = high if high > limits[1] + tolerance else limits[1]
    return {**layer_attributes, "contrast_limits": (low, high)}


def make_image_attributes(target: ResultTarget, image: AnyArray) -> dict[str, Any]:
    """Return the attributes of a target, with contrast limits for an image that is added there."""
    value_range = compute_value_range(image, measure_clipped_fractions(target))
    is_crop = bool(target.crop_name)
    return adjust_contrast_limits(target.layer_attributes, value_range, is_crop=is_crop)


def brighten_dark_layer(layer: Image) -> None:
    """Let the contrast limits of a layer fit a dark image, unless the user has set them.

    napari shows 8 bits from 0 to 255 and other types up to their brightest pixel, so that a dark
    image is black. Its result would get other limits, and could not be compared with it by eye.
    """
    limits = layer.contrast_limits
    if layer.rgb or type(layer.data) is not np.ndarray or limits != layer.contrast_limits_range:
        return
    value_range = compute_value_range(layer.data, (0.0, _MAX_BRIGHT_FRACTION))
    low, high = value_range.low, value_range.trimmed_high
    if 0 < high - low < MIN_BRIGHT_FRACTION * (limits[1] - limits[0]):
        layer.contrast_limits = (low, high)


def find_layer(viewer: Viewer, name: str) -> Any:
    """Return the layer of a name, or None."""
    return viewer.layers[name] if name in viewer.layers else None


def describe_derived_image(layer: Layer) -> str:
    """Return a warning if the layer is another output of this plugin than a result; else ""."""
    provenance = read_layer_provenance(layer)
    task = get_recipe_task(provenance)
    warning = DERIVED_IMAGE_WARNINGS.get(provenance.get("shows", ""))
    if warning is None:
        return ""
    title = TASKS[task].spec.title if task in TASKS else "this plugin"
    return f"{warning.format(title=title)}. Choose the original, if you can."


def add_provenance(
    layer_attributes: Mapping[str, Any], name: str, result: Restoration, shows: str = "result"
) -> dict[str, Any]:
    """Return the metadata for an image made from a layer: the layer's own and the provenance.

    Parameters
    ----------
    layer_attributes : mapping
        The attributes of the layer, by `copy_layer_attributes`.
    name : str
        The name of the layer.
    result : Restoration
    shows : str
        What the image shows: "result", or another output of the run.
    """
    metadata = dict(layer_attributes.get("metadata", {}))
    inputs = metadata.get(METADATA_KEY, {}).get("inputs", {})
    record = build_report_provenance(name, result.recipe.to_dict(), result.report)
    return {**metadata, METADATA_KEY: {**record, "inputs": inputs, "shows": shows}}


def build_report_provenance(
    name: str, recipe: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the provenance of a result from its recipe and report, in plain JSON types.

    Parameters
    ----------
    name : str
        The name of the input layer.
    recipe, report : mapping
    """
    return {
        "version": report.get("version"),
        "recipe": dict(recipe),
        "seed": report.get("seed"),
        "device": report.get("device"),
        "input": {"name": name, "sha256": report.get("input_sha256")},
        **{field: report.get(field) for field in _RUN_FIELDS},
        "report": dict(report),
    }


def cut_columns(layer: Image, reference: Image, column: int) -> Any:
    """Return the pixels left of a column of a reference layer, of which one at least is shown."""
    edge = reference.translate[-1] + (column - 0.5) * reference.scale[-1]
    pixels, is_rgb = get_full_resolution(layer), layer.rgb
    column = round((edge - layer.translate[-1]) / layer.scale[-1] + 0.5)
    end = int(np.clip(column, 1, pixels.shape[-2 if is_rgb else -1]))
    return pixels[..., :end, :] if is_rgb else pixels[..., :end]


def copy_layer_attributes(
    layer: Image, plan: Plan | None = None, inputs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of `add_image` for an image that is made from a layer.

    With an upscaling factor in the plan, both images cover the same area: the centre of pixel j
    is at (j + 0.5) / factor - 0.5 in pixels of the layer.

    Parameters
    ----------
    layer : Image
    plan : Plan, optional
        The plan of the run that makes the image.
    inputs : mapping, optional
        The inputs of the run, by `napari_dip.qt.task.run_request.record_inputs`.
    """
    state = layer.as_layer_data_tuple()[1]
    attributes = {key: state[key] for key in _COPIED_ATTRIBUTES}
    if plan is not None and max(plan.factors) > 1:
        axis_factors = zip(plan.header.axes, plan.factors, strict=True)
        factors = np.array([factor for axis, factor in axis_factors if axis != "S"])
        shift = compute_matrix(layer) @ (0.5 / factors - 0.5)
        attributes["translate"] = layer.translate + shift
        attributes["scale"] = layer.scale / factors
    metadata = {**layer.metadata, METADATA_KEY: {"inputs": dict(inputs or {})}}
    # an input that adds up is hidden or transparent while its preview or result is seen
    attributes |= {"visible": True, "opacity": state["opacity"] or 1.0}
    return attributes | {"metadata": metadata, "multiscale": False}


def is_preview(layer: Layer) -> bool:
    """Whether a layer is a preview or a profile line of this plugin, which is never an input."""
    return bool(read_layer_provenance(layer).get("preview"))


def is_kept_image(layer: Layer) -> bool:
    """Whether a layer is an image that was kept from the history of a run."""
    return read_layer_provenance(layer).get("shows") == SNAPSHOT


def read_source_input(layer: Layer) -> Mapping[str, Any] | None:
    """Return name and hash of the input that a result was made from; None for other layers."""
    return read_layer_provenance(layer).get("input")


def add_result(
    viewer: Viewer, target: ResultTarget, result: Restoration, preview: Preview | None = None
) -> Image:
    """Add a result and its extra outputs as layers; return the layer of the result.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    target : ResultTarget
    result : Restoration
    preview : Preview, optional
        The preview of the run; its layer shows the result if it is the topmost one.
    """
    name, spec, merged_layer = target.name, result.recipe.task.spec, target.get_merged_layer()
    layer_name = target.base_name if target.crop_name else f"{name} {spec.result_suffix}"
    shows, merged = CROP_PREVIEW if target.crop_name else "result", {}
    if target.whole is not None:
        shows, merged = REGION, {"merged_into": dict(target.merged_provenance)}
        layer_name, target = f"{name} {spec.result_suffix} in a region", target.whole
    metadata = add_provenance(target.layer_attributes, name, result, shows)
    metadata[METADATA_KEY] |= merged
    layer_attributes = make_image_attributes(target, result.image)
    with preserve_view(viewer):
        for output in spec.extra_outputs:
            output_name, image = f"{name} {output.upper()}", result.learned_parameters[output]
            _add_extra_output(viewer, output_name, layer_attributes, image, metadata)
        attributes = {**layer_attributes, "metadata": metadata}
        if merged_layer in viewer.layers:
            merged_layer.metadata, merged_layer.data = metadata, result.image
            return merged_layer
        layer = (
            None if preview is None else preview.show_result(result.image, layer_name, attributes)
        )
        layer = layer or viewer.add_image(result.image, name=layer_name, **attributes)
        follow_thumbnail(layer)
        _uncover_channels(viewer, layer, target.get_source_layer())
        return layer


def follow_thumbnail(layer: Image) -> None:
    """Show a colour image in napari's layer list as on the canvas, also after later changes.

    napari 0.9 draws RGB there without the contrast limits, and floats above 1 as white.
    """
    if layer.rgb and np.dtype(layer.dtype).kind == "f":
        draw = partial(_draw_thumbnail, ref(layer))
        layer.events.thumbnail.connect(draw)
        draw()


def _draw_thumbnail(get_layer: Callable[[], Image | None], _: object = None) -> None:
    """Set the thumbnail of a layer to the middle plane between its contrast limits."""
    if (layer := get_layer()) is None:
        return
    pixels, (low, high) = get_full_resolution(layer), layer.contrast_limits
    plane = np.asarray(pixels[tuple(count // 2 for count in pixels.shape[:-3])])
    step = ceil(max(plane.shape[:2]) / _THUMBNAIL_SIDE)
    colours = np.clip((plane[::step, ::step] - low) / (high - low), 0, 1)
    alpha = np.full((*colours.shape[:2], 1), layer.opacity)
    with layer.events.thumbnail.blocker():
        layer.thumbnail = np.concatenate([colours, alpha], axis=-1)


def _uncover_channels(viewer: Viewer, layer: Image, source_layer: Layer | None) -> None:
    """Move a layer from the top to just above its source, if it covers channels above that."""
    layers = viewer.layers
    if source_layer not in layers or layer.blending in SEE_THROUGH:
        return
    index = layers.index(source_layer) + 1
    if any(other.visible and other.blending in SEE_THROUGH for other in layers[index:-1]):
        layers.move(len(layers) - 1, index)


def _add_extra_output(
    viewer: Viewer,
    name: str,
    layer_attributes: Mapping[str, Any],
    image: Float32Array,
    metadata: Mapping[str, Any],
) -> None:
    """Add an extra output, such as an estimated PSF, with the pixel size of the result."""
    scale = compute_pixel_sizes(**layer_attributes).tolist()[-image.ndim :]
    scale = [1.0] * (image.ndim - len(scale)) + scale
    units = layer_attributes.get("units")
    placement = {"scale": scale} | ({"units": units} if units and len(units) == len(scale) else {})
    provenance = {**metadata, METADATA_KEY: {**metadata[METADATA_KEY], "shows": "found"}}
    attributes = {**placement, "colormap": "magma", "metadata": provenance}
    viewer.add_image(image, name=name, **attributes, visible=False)  # it would cover a corner


class Preview:
    """The layer that shows a running fit, and the result afterwards.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    target : ResultTarget
    """

    def __init__(self, viewer: Viewer, target: ResultTarget) -> None:
        self._viewer, self._is_crop = viewer, bool(target.crop_name)
        self._name, self._get_source_layer = f"{target.name} preview", target.get_source_layer
        self._clipped_fractions = measure_clipped_fractions(target)
        self._layer_attributes = dict(target.layer_attributes) | {
            "metadata": {METADATA_KEY: {"preview": True, "shows": PREVIEW}}
        }
        self._layer: Image | None = None
        self._is_dismissed = False
        self._hidden_layers: list[ref[Layer]] = []
        self._last_range = ValueRange(inf, -inf, inf, -inf)  # of all images so far
        self._limits: tuple[float, ...] | None = None

    def show(self, image: Float32Array | None) -> None:
        """Show an image in the layer, unless it is None or the user has removed the layer.

        Raises
        ------
        Exception
            Any error of napari; later images are ignored then.
        """
        if self._is_dismissed or image is None:
            return
        if self._layer is not None and self._layer not in self._viewer.layers:
            self.remove()
            return
        try:
            self._show_image(image)
        except Exception:
            self._is_dismissed = True
            raise

    def _show_image(self, image: Float32Array) -> None:
        attributes = self._update_attributes(image)
        if self._layer is None:
            self._layer = Image(image, name=self._name, **attributes)
            follow_thumbnail(self._layer)
            with preserve_view(self._viewer):
                self._viewer.add_layer(self._layer)
                self._hide_sources()
                _uncover_channels(self._viewer, self._layer, self._get_source_layer())
        else:
            self._layer.data = image
            if tuple(self._layer.contrast_limits) != self._limits:  # the user has changed them
                return
            self._layer.contrast_limits = attributes.get("contrast_limits", self._limits)
        self._limits = tuple(self._layer.contrast_limits)

    def _update_attributes(self, image: Float32Array) -> dict[str, Any]:
        """Return layer attributes with limits for all images so far, which avoids flicker."""
        value_range = compute_value_range(image, self._clipped_fractions)
        self._last_range = self._last_range.unite(value_range)
        return adjust_contrast_limits(
            self._layer_attributes, self._last_range, is_crop=self._is_crop
        )

    @property
    def is_dismissed(self) -> bool:
        """Whether images are ignored, for example because the user has removed the layer."""
        is_removed = self._layer is not None and self._layer not in self._viewer.layers
        return self._is_dismissed or is_removed

    def remove(self) -> None:
        """Remove the layer; later images are ignored."""
        layer, self._layer, self._is_dismissed = self._layer, None, True
        self._show_sources()
        if layer is not None and layer in self._viewer.layers:
            with preserve_view(self._viewer):
                self._viewer.layers.remove(layer)

    def _hide_sources(self) -> None:
        """Hide the input and its results under a see-through preview, which would add up."""
        source, preview = self._get_source_layer(), self._layer
        if preview is None or source is None or preview.blending not in SEE_THROUGH:
            return
        for layer in self._viewer.layers:
            is_result = (read_source_input(layer) or {}).get("name") == source.name
            if layer.visible and (layer is source or is_result):
                layer.visible = False
                self._hidden_layers.append(ref(layer))

    def _show_sources(self) -> None:
        """Show again what the preview has hidden."""
        while self._hidden_layers:
            if (layer := self._hidden_layers.pop()()) is not None:
                layer.visible = True

    def show_result(
        self, image: Float32Array, name: str, layer_attributes: Mapping[str, Any]
    ) -> Image | None:
        """Turn the preview layer into the layer of the result.

        To remove one layer and add another takes napari half a second without a response.

        Returns
        -------
        Image or None
            The layer. None, and nothing changed, unless it is the topmost layer and has the
            shape and type of the result.

        Raises
        ------
        Exception
            Any error of napari. The layer is removed unless it has the image already.
        """
        layer, layers = self._layer, self._viewer.layers
        if layer is None or not len(layers) or layers[-1] is not layer:
            return None
        if layer.data.shape != image.shape or layer.data.dtype != image.dtype:
            return None
        self._layer, self._is_dismissed = None, True
        self._show_sources()
        try:
            _update_layer(layer, image, name, layer_attributes)
        except Exception:
            if layer.data is not image:  # else the layer shows the result already
                layers.remove(layer)
            raise
        return layer


def _update_layer(
    layer: Image, image: Float32Array, name: str, layer_attributes: Mapping[str, Any]
) -> None:
    """Make a layer equal to a new one with the given image, name and attributes."""
    # metadata first: listeners must not take it for a preview
    layer.metadata = dict(layer_attributes["metadata"])
    layer.data = image
    old_attributes = layer.as_layer_data_tuple()[1]
    for key, value in layer_attributes.items():
        if key in ("metadata", "rgb", "multiscale", "contrast_limits"):
            continue
        # each assignment redraws the layer; equal bytes prove that a value is unchanged
        if pickle.dumps(old_attributes[key]) != pickle.dumps(value):
            setattr(layer, key, value)
    if (limits := layer_attributes.get("contrast_limits")) is None:
        layer.reset_contrast_limits()
    else:
        layer.contrast_limits_range = layer.contrast_limits = limits
    layer.iso_threshold = fmean(layer.contrast_limits_range)
    layer.name = name
