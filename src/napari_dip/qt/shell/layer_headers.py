"""Describe napari layers as images: pixels, axes and pixel size, also those of a layer's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from napari.utils.transforms import Affine

from napari_dip.errors.notes import Note, make_note
from napari_dip.io import ImageHeader, guess_axes
from napari_dip.io.header import (
    COLOUR_COUNT,
    SourceTags,
    get_recipe_task,
    get_unit_symbol,
    split_pixel_sizes,
)
from napari_dip.io.reading import find_file_header
from napari_dip.pipeline.assess.report_fields import migrate_record
from napari_dip.qt.shell.dock_widget import DOCK_LABELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dip.io import BoolArray, FloatArray
    from napari_dip.tasks import TaskInput

#: Key of `layer.metadata` under which this plugin stores the provenance of a layer.
METADATA_KEY = "napari_dip"
#: Warnings of images that are no restored ones, by what they show.
DERIVED_IMAGE_WARNINGS = DOCK_LABELS["derived-images"]
#: Largest number of planes of a file whose header is read in the GUI thread: 1,000 of ImageJ take
#: 0.26 s on two busy cores.
_MAX_FILE_PLANES = 1_000
#: Largest distance between a pixel of an image and that of a layer on it, in pixels of the image.
_MAX_PLACEMENT_ERROR = 0.5
#: Largest cosine of the angle between rows and columns that are not sheared: lengths on an upright
#: picture of them are wrong by at most half of it, 0.5 %.
_MAX_SHEAR = 0.01
#: Fewest rows and columns that count as a visible part of an image.
_MIN_VISIBLE_PIXELS = 2
#: Least cosine of a turn of a path that napari draws with a tip, at most three half widths away.
_MIN_MITRE_COSINE = 2 / 9 - 1
#: How sizes along the axes of a file are told.
_PIXELS = "pixels of {}"
_SIZE_PHRASES = {"T": "frames every {}", "Z": "planes {} apart", "Y": _PIXELS, "X": _PIXELS}


def read_layer_provenance(layer: Layer) -> Mapping[str, Any]:
    """Return the provenance of a layer; empty if this plugin did not make it."""
    provenance = layer.metadata.get(METADATA_KEY)
    return migrate_record(provenance) if isinstance(provenance, Mapping) else {}


def get_full_resolution(layer: Image) -> Any:
    """Return the pixels in full resolution without alpha, and without computing a lazy array."""
    data = layer.data[0] if layer.multiscale else layer.data
    return data[..., :COLOUR_COUNT] if _has_alpha(layer) else data


def measure_pixel_sizes(layer: Image) -> FloatArray:
    """Return the distances of neighbouring pixels along the axes of a layer, as it is placed."""
    return compute_pixel_sizes(layer.scale, layer.rotate, layer.shear, layer.affine.affine_matrix)


def compute_pixel_sizes(
    scale: Any = (1.0, 1.0), rotate: Any = None, shear: Any = None, affine: Any = None, **_: Any
) -> FloatArray:
    """Return the distances of neighbouring pixels of a layer with these attributes.

    An affine transform counts as well. The sign is that of the scale.
    """
    sizes = np.linalg.norm(_compute_pixel_steps(scale, rotate, shear, affine), axis=0)
    is_scale = np.isclose(sizes, np.abs(scale), rtol=1e-9, atol=0)  # else the digits differ
    return np.asarray(np.where(is_scale, scale, np.copysign(sizes, scale)))


def is_sheared(layer: Image) -> bool:
    """Whether the rows of an image are not at right angles to its columns, as it is placed."""
    steps = _compute_pixel_steps(layer.scale, layer.rotate, layer.shear, layer.affine.affine_matrix)
    row_step, column_step = steps.T[-2:]
    lengths = np.linalg.norm(row_step) * np.linalg.norm(column_step)
    return bool(abs(row_step @ column_step) > _MAX_SHEAR * lengths)


def compute_matrix(layer: Image) -> FloatArray:
    """Return the matrix of scale, rotation and shear of a layer, without its affine transform."""
    return _compute_pixel_steps(layer.scale, layer.rotate, layer.shear, None)


def _compute_pixel_steps(scale: Any, rotate: Any, shear: Any, affine: Any) -> FloatArray:
    """Return the steps from pixel to pixel in the world: a column for each axis of a layer."""
    own = Affine(scale=scale, rotate=rotate, shear=shear)
    outer = Affine(affine_matrix=affine, ndim=len(scale))
    return np.asarray(outer.linear_matrix @ own.linear_matrix)


def _has_alpha(layer: Image) -> bool:
    """Whether a layer has alpha after red, green and blue, as that of an RGBA file has."""
    data = layer.data[0] if layer.multiscale else layer.data
    # labels, which can be a mask, have no colours
    return bool(getattr(layer, "rgb", False)) and data.shape[-1] > COLOUR_COUNT


def read_layer_header(layer: Image, axes: str | None = None) -> ImageHeader:
    """Return a description of an Image layer, without reading its pixels.

    Parameters
    ----------
    layer : napari.layers.Image
    axes : str, optional
        One letter for each axis of the data; by default those of `guess_layer_axes`.
    """
    data, file_header = get_full_resolution(layer), find_layer_file_header(layer)
    shape = tuple(int(count) for count in data.shape)
    samples = 1 if layer.rgb else 0  # napari counts no axis for red, green and blue
    guess = guess_axes(shape, rgb=bool(layer.rgb))
    own_axes = _read_layer_axes(layer, file_header) or guess
    is_named_in_file = file_header is not None and not file_header.has_guessed_axes
    has_names = is_named_in_file or bool(_parse_axis_labels(layer))
    scale: Any = (*map(float, measure_pixel_sizes(layer)), *[1.0] * samples)
    units: Any = (*map(str, layer.units), *["pixel"] * samples)
    chosen_axes = own_axes if axes is None else axes
    record = read_layer_provenance(layer)
    is_restored = record.get("shows") not in DERIVED_IMAGE_WARNINGS  # of these the dock warns
    if file_header and file_header.scale and file_header.units and len(chosen_axes) == len(shape):
        sizes = zip(file_header.scale, file_header.units, strict=True)
        by_axis = dict(zip(file_header.axes, sizes, strict=True))
        file_scale, units = split_pixel_sizes(chosen_axes, by_axis)
        pairs = zip(scale, file_scale or (), strict=True)
        scale = tuple(own_size * size for own_size, size in pairs)  # the layer may have an affine
    return ImageHeader(
        name=layer.name,
        shape=shape,
        dtype=np.dtype(data.dtype).name,
        axes=chosen_axes,
        has_guessed_axes=axes in (None, guess) and not (has_names and chosen_axes == own_axes),
        scale=scale,
        units=units,
        notes=(make_note("alpha-skipped", name=layer.name),) if _has_alpha(layer) else (),
        tags=SourceTags(made_by=get_recipe_task(record) if is_restored else ""),
    )


def find_layer_file_header(layer: Image) -> ImageHeader | None:
    """Return the header of a layer's file if napari handed over neither axes nor pixel size.

    napari's own reader of TIFF passes on pixels only. None: the layer has axes or a scale of its
    own, or its file does not tell more.
    """
    shape = tuple(get_full_resolution(layer).shape)
    path = layer.source.path
    has_scale = set(layer.scale) != {1.0} or {str(unit) for unit in layer.units} != {"pixel"}
    if not path or has_scale or _parse_axis_labels(layer) or prod(shape[:-2]) > _MAX_FILE_PLANES:
        return None
    header = find_file_header(str(path), shape, get_full_resolution(layer).dtype)
    is_empty = header is None or (header.has_guessed_axes and header.scale is None)
    return None if is_empty else header


def record_file_sizes(layer: Image) -> dict[str, Any]:
    """Return scale and units of a layer that only its file states; empty if there are none."""
    header = find_layer_file_header(layer)
    if header is None or header.scale is None or header.units is None:
        return {}
    return {"scale": [*header.scale[: layer.ndim]], "units": [*header.units[: layer.ndim]]}


def describe_file_header(header: ImageHeader | None) -> str:
    """Return a sentence on the axes and pixel sizes that were read from a layer's file, or ""."""
    if header is None:
        return ""
    is_named = bool(set(header.axes) & set("TCZ")) and not header.has_guessed_axes
    known_axes = f"axes {header.axes}" if is_named else ""
    lengths: dict[str, str] = {}
    for axis, size, unit in zip(header.axes, header.scale or (), header.units or (), strict=False):
        if unit != "pixel" and axis in _SIZE_PHRASES:
            length = f"{size:.4g} {get_unit_symbol(unit) or unit}"
            lengths[length] = _SIZE_PHRASES[axis] if length not in lengths else _PIXELS
    phrases = [known_axes, *(phrase.format(length) for length, phrase in lengths.items())]
    text = ", ".join(filter(None, phrases))
    return f"From its file: {text}." if text else ""


def guess_layer_axes(layer: Image) -> str:
    """Return the axes from the layer's axis labels, from its file, or else guessed by shape."""
    axes = _read_layer_axes(layer, find_layer_file_header(layer))
    return axes or guess_axes(tuple(get_full_resolution(layer).shape), rgb=bool(layer.rgb))


def _read_layer_axes(layer: Image, file_header: ImageHeader | None) -> str:
    """Return the axes from the layer's axis labels, or else from its file; "" if none tells."""
    if labels := _parse_axis_labels(layer):
        return labels + ("S" if layer.rgb else "")
    return "" if file_header is None else file_header.axes


def _parse_axis_labels(layer: Image) -> str:
    """Return the axes from the layer's axis labels; "" unless all are distinct known axes."""
    labels = "".join(label[:1].upper() for label in layer.axis_labels)
    is_valid = {"Y", "X"} <= set(labels) <= set("TCZYX") and len(set(labels)) == len(labels)
    return labels if is_valid else ""


def rasterise_shapes(shapes: Shapes, image: Image | None) -> BoolArray:
    """Return masks of the shapes of a layer on the pixel grid of an image.

    Scale and position of the two layers may differ.

    Parameters
    ----------
    shapes : Shapes
    image : Image or None
        None gives an empty mask.

    Returns
    -------
    ndarray of bool
        (shapes, Y, X), True inside of each; lines and paths are as wide as they are drawn.
    """
    grid = get_image_grid(image)
    if image is None or not shapes.nshapes:
        return np.zeros((0, *grid), bool)
    corners = [locate_corners(shapes, number, image) for number in range(shapes.nshapes)]
    moved_shapes = Shapes(corners, shape_type=list(shapes.shape_type))
    masks = np.asarray(moved_shapes.to_masks(mask_shape=grid))
    for number, kind in enumerate(shapes.shape_type):
        if kind in ("line", "path"):  # napari's masks of them are one pixel wide
            masks[number] |= _draw_line(shapes, number, image)
    return masks


def _draw_line(shapes: Shapes, number: int, image: Image) -> BoolArray:
    """Return a mask of a line or path as wide as napari draws it, but at least one pixel."""
    from skimage.draw import polygon

    corners, mask = shapes.data[number], np.zeros(get_image_grid(image), bool)
    corners = corners[np.append(True, np.diff(corners[:, -2:], axis=0).any(1))]
    points = _move_corners(shapes, corners, image)[:, -2:]
    steps = np.eye(2, corners.shape[1], corners.shape[1] - 2)  # one unit along Y and X
    to_image = _move_corners(shapes, corners[0] + steps, image)[:, -2:] - points[0]
    half_width = max(shapes.edge_width[number], abs(np.linalg.det(to_image)) ** -0.5) / 2
    directions = np.diff(corners[:, -2:], axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    normals = directions[:, ::-1] * (1, -1)
    before, after = normals[:-1], normals[1:]
    cosines = (before * after).sum(1, keepdims=True)
    tips = (before + after) / np.where(cosines < _MIN_MITRE_COSINE, 2, 1 + cosines)
    side, left, tip, right = (
        half_width * part @ to_image for part in (normals, before, tips, after)
    )
    start, end, bend = points[:-1], points[1:], points[1:-1]
    bars = (start + side, end + side, end - side, start - side)
    bends = (bend + left, bend + tip, bend + right, bend - left, bend - tip, bend - right)
    for outline in (*zip(*bars, strict=True), *zip(*bends, strict=True)):
        rows, columns = np.transpose(outline)
        mask[polygon(rows, columns, mask.shape)] = True  # type: ignore[no-untyped-call]
    return mask


def locate_corners(shapes: Shapes, number: int, image: Image) -> FloatArray:
    """Return the corners of a shape in pixels of an image: (corners, 2), Y and X."""
    return _move_corners(shapes, shapes.data[number], image)[:, -2:]


def _move_corners(shapes: Shapes, corners: FloatArray, image: Image) -> FloatArray:
    """Return corners of a shape in pixels of an image; the last two axes of both are Y and X."""
    world = [shapes.data_to_world(corner) for corner in corners]
    return locate_points(world, shapes.units, image)


def locate_points(points: Any, units: Sequence[Any] | None, image: Image) -> FloatArray:
    """Return points in world coordinates, in these units, in pixels of an image."""
    world = convert_units(points, units, image.units)
    return np.array([image.world_to_data(point) for point in world])


def convert_units(
    points: Any, units: Sequence[Any] | None, others: Sequence[Any] | None
) -> FloatArray:
    """Return points or lengths in other units; the last axes of all belong together.

    As in napari, nothing is converted without units (None: those of its layers differ in kind), nor
    between units that differ in kind, such as pixels and micrometres.
    """
    converted, units, others = np.array(points, float), units or (), others or ()
    for axis in range(-min(len(units), len(others), converted.shape[-1]), 0):
        if units[axis].is_compatible_with(others[axis]):
            converted[..., axis] *= (1 * units[axis]).m_as(others[axis])
    return converted


def rasterise_mask(shapes: Shapes, image: Image | None) -> BoolArray:
    """Return a mask of the shapes of a layer on an image, of the shape by `get_mask_shape`."""
    mask = np.zeros(get_mask_shape(shapes, image), bool)
    for number, plane in enumerate(rasterise_shapes(shapes, image)):
        is_stack = image is not None and mask.ndim > 2
        mask[_find_planes(shapes, number, image) if is_stack else ()] |= plane
    return mask


def get_mask_shape(shapes: Shapes, image: Image | None) -> tuple[int, ...]:
    """Return the shape of a mask: that of a stack, if shapes are drawn on its planes, or a plane.

    Shapes with two axes hold for all planes, and those with more axes only where napari shows them.
    """
    grid = get_image_grid(image)
    shape = grid if image is None else get_full_resolution(image).shape[: image.ndim]
    is_stack = shapes.ndim > 2 and shapes.nshapes > 0 and shape[-2:] == grid
    return tuple(map(int, shape)) if is_stack and prod(shape) > prod(grid) else grid


def _find_planes(shapes: Shapes, number: int, image: Image) -> tuple[slice, ...]:
    """Return the index of the planes of a stack on which napari shows a shape."""
    corners = shapes.data[number]
    _, first = np.unique(corners[:, :-2], axis=0, return_index=True)  # usually one, of many
    planes = np.rint(_move_corners(shapes, corners[first], image)[:, :-2]).astype(int)
    spans = zip(planes.min(0).clip(0), planes.max(0).clip(-1) + 1, strict=True)
    common_count = max(0, image.ndim - shapes.ndim)  # axes along which the shapes hold everywhere
    return tuple(
        slice(None) if axis < common_count else slice(*map(int, span))
        for axis, span in enumerate(spans)
    )


def _describe_mask(shapes: Shapes, image: Image | None) -> ImageHeader:
    """Return a description of a mask of shapes, with a note on the planes of a stack it marks."""
    shape, axes, notes = get_mask_shape(shapes, image), "YX", tuple[Note, ...]()
    if image is not None and len(shape) > 2:
        marked_planes = np.zeros(shape[:-2], bool)
        for number in range(shapes.nshapes):
            marked_planes[_find_planes(shapes, number, image)] = True
        axes = read_layer_header(image).axes.replace("S", "")
        facts = {"count": int(marked_planes.sum()), "total": marked_planes.size}
        notes = (make_note("mask-shapes", name=shapes.name, **facts),)
    return ImageHeader(name=shapes.name, shape=shape, dtype="bool", axes=axes, notes=notes)


def read_input_header(item: TaskInput, layer: Any, image: Image | None) -> ImageHeader:
    """Return a description of a layer as an extra input of a task for an image."""
    if isinstance(layer, Shapes):
        return _describe_mask(layer, image)
    if isinstance(layer, Image):
        header = read_layer_header(layer)
    else:
        data = get_full_resolution(layer)
        shape, dtype = tuple(int(count) for count in data.shape), np.dtype(data.dtype).name
        header = ImageHeader(name=layer.name, shape=shape, dtype=dtype, axes=guess_axes(shape))
    return replace(header, notes=(*header.notes, *_list_placement_notes(item, layer, image)))


def read_input_pixels(layer: Any, image: Image | None) -> Any:
    """Return the pixels of a layer; shapes become a mask on the grid of the image."""
    if isinstance(layer, Shapes):
        return rasterise_mask(layer, image)
    return get_full_resolution(layer)


def is_misplaced(item: TaskInput, layer: Layer, image: Image | None) -> bool:
    """Whether a layer was placed elsewhere than the image to whose pixels its own would belong."""
    notes = _list_placement_notes(item, layer, image)
    return any(note.facts["is_placed"] for note in notes)


def _list_placement_notes(item: TaskInput, layer: Any, image: Image | None) -> tuple[Note, ...]:
    """Return a note on a layer of the image's size that is drawn elsewhere.

    A layer without scale and translation was not placed at all, such as a mask made by a script.
    """
    # PSF and detector maps have no place, and shapes are drawn onto the image where they lie
    is_unplaced = item.is_detector_map or item.is_inspected_early or isinstance(layer, Shapes)
    if image is None or is_unplaced:
        return ()
    shape = get_full_resolution(layer).shape[: layer.ndim]
    if shape[-2:] != get_image_grid(image):
        return ()
    count = min(layer.ndim, image.ndim)
    corners = np.array(list(product(*((0, size - 1) for size in shape[-count:]))), float)
    world = np.array([layer.data_to_world(corner)[-count:] for corner in corners])
    on_image = locate_points(world, layer.units, image)[:, -count:]
    distance = float(np.abs(on_image - corners).max())
    if distance <= _MAX_PLACEMENT_ERROR:
        return ()
    facts = {
        "distance": ceil(distance),
        "several": distance > 1,
        "is_placed": not np.array_equal(world, corners),
    }
    return (make_note("input-elsewhere", name=layer.name, image=image.name, **facts),)


def get_image_grid(image: Image | None) -> tuple[int, int]:
    """Return height and width of an image; 0 without one."""
    return (0, 0) if image is None else read_layer_header(image).grid


def find_visible_bounds(viewer: Viewer, image: Image) -> tuple[float, float, float, float]:
    """Return top, left, bottom, right of the visible part of an image, in pixels from its corner.

    All of it, if fewer than two rows or columns are visible. napari's `corner_pixels` are not used:
    of a multiscale image they are those of the part that is loaded.
    """
    camera, axes = viewer.scene.camera, list(viewer.dims.displayed[-2:])
    half = np.array(viewer.canvas.viewbox_size(viewer.layers)) / camera.zoom / 2
    points = np.tile(np.array(viewer.dims.point, float), (4, 1))
    points[:, axes] = camera.center[-2:] + half * [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    # the centre of a pixel is half a pixel from its corner
    corners = locate_points(points, viewer.dims.units, image)[:, -2:] + 0.5
    bounds = np.clip([corners.min(0), corners.max(0)], 0, get_image_grid(image))
    if (bounds[1] - bounds[0] < _MIN_VISIBLE_PIXELS).any():
        return 0.0, 0.0, np.inf, np.inf
    top, left, bottom, right = bounds.ravel().tolist()
    return top, left, bottom, right
