"""Save results and figures from a dock, and recognise a saved result that is opened again."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import Signal
from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from napari_dip.errors import DipError, Fault
from napari_dip.io.header import OmeMetadata, SourceTags, encode_colour, get_unit_symbol
from napari_dip.io.outputs import IMAGE_SUFFIXES, resolve_output
from napari_dip.io.reading import read_header, read_provenance
from napari_dip.io.writing import write_bytes, write_image
from napari_dip.pipeline.assess.report import select_repeatable_fields
from napari_dip.pipeline.assess.report_fields import ReportFields, translate_record
from napari_dip.pipeline.assess.report_figures import PanelImage, plot_result
from napari_dip.pipeline.store.result_files import format_json
from napari_dip.qt.shell.background_call import find_call, log_error, start_call
from napari_dip.qt.shell.dock_plots import find_plane_index
from napari_dip.qt.shell.dock_widget import DOCK_TEXTS
from napari_dip.qt.shell.layer_headers import (
    METADATA_KEY,
    convert_units,
    get_full_resolution,
    is_sheared,
    locate_corners,
    measure_pixel_sizes,
    read_layer_header,
    read_layer_provenance,
)
from napari_dip.qt.shell.napari_layers import (
    PREVIEW,
    build_report_provenance,
    is_kept_image,
)
from napari_dip.qt.task.run_request import (
    LOOK_ATTRIBUTES,
    describe_unsaved_inputs,
    find_source_layer,
    read_recorded_inputs,
    read_result_provenance,
    record_layer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari.components import Dims
    from napari.viewer import Viewer

    from napari_dip.io import ImageHeader
    from napari_dip.qt.shell.dock_plots import ProfileSection

#: Fields of the provenance that a file has under the same name.
_SAVED_FIELDS = ("recipe", "best_iteration", "stop_reason", "stop_sentence", "shows")
#: Kinds of files by suffix, the first one by default.
_RESULT_KINDS = {".ome.tif": "OME-TIFF", ".ome.zarr": "OME-Zarr"}
_FIGURE_KINDS = {".png": "Picture", ".svg": "Drawing", ".pdf": "Page"}
_PROFILE_KINDS = {".csv": "Table", ".svg": "Drawing", ".pdf": "Page"}

#: Titles of what belongs to a result, in the order of a figure, and most insets in it.
_PANEL_TITLES = {
    "residual": "Residual",
    "uncertainty": "Uncertainty",
    "repeated": "What repeats (orange: not)",
}
_MAX_INSETS = 3
#: Names of layers that show the object of the image without noise.
_REFERENCE_NAME = re.compile(r"truth|reference|long.exposure", re.IGNORECASE)


def pack_provenance(provenance: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a file stores about a layer of this plugin, in plain JSON types.

    Parameters
    ----------
    provenance : mapping
        The provenance of the layer.
    folder : Path
        The folder of the file. Paths of inputs are relative to it, so that the files can be moved
        together, and do not name the user's folders.
    """
    saved = {key: provenance[key] for key in _SAVED_FIELDS if key in provenance}
    saved |= {"program": f"napari-dip {provenance['version']}"}
    saved |= {"source": provenance["input"]["name"]}
    if "report" in provenance:  # a discarded run has none
        saved |= {"report": select_repeatable_fields(provenance["report"])}
    saved["inputs"] = inputs = read_recorded_inputs(provenance)
    for name, record in inputs.items():
        if path := record.get("path"):
            inputs[name] = {**record, "path": _make_relative(path, folder)}
    if merged := provenance.get("merged_into"):
        saved["merged_into"] = pack_provenance(merged, folder)
    return saved


def unpack_provenance(saved: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the provenance of a layer from what its file stores; raise if that is damaged.

    Parameters
    ----------
    saved : mapping
        By `pack_provenance`, or as the command line stores it.
    folder : Path
        The folder of the file.
    """
    report = {**saved["report"], "recipe": saved["recipe"]}
    report = translate_record(report, "report of a run", ReportFields)
    source = str(saved["source"])
    image = {"layer": Path(source).stem, "path": source, "axes": report["axes"]}
    inputs: dict[str, dict[str, Any]] = {}
    for name, record in saved.get("inputs", {"image": image}).items():
        inputs[name] = {
            key: str(record[key]) for key in ("layer", "axes", "path", "sha256") if record.get(key)
        }
        # a file from elsewhere could name any place
        path = inputs[name].get("path", "")
        is_relative = not os.path.isabs(path) and not Path(path).drive
        inputs[name]["path"] = os.path.abspath(folder / path) if path and is_relative else None
    provenance = build_report_provenance(inputs["image"]["layer"], report["recipe"], report)
    provenance |= {"inputs": inputs, "shows": str(saved.get("shows", "result"))}
    if merged := saved.get("merged_into"):
        provenance["merged_into"] = unpack_provenance(merged, folder)
    return provenance


def _make_relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return Path(path).name


def recognise_result(layer: Any) -> None:
    """Give an image that was opened from a saved result its provenance and its look again.

    napari's reader takes pixels only. Files of others, and damaged ones, stay as they are.
    """
    path = Path(layer.source.path or "")
    is_candidate = isinstance(layer, Image) and path.suffix.lower() in IMAGE_SUFFIXES
    if not is_candidate or METADATA_KEY in layer.metadata:
        return
    try:
        saved = read_provenance(path, "report")
        header = None if saved is None else read_header(path)
        if saved is None or header is None or header.shape != get_full_resolution(layer).shape:
            return
        provenance = unpack_provenance(saved, path.parent)
    except Exception as error:  # the file can be of any origin
        log_error(f"'{path.name}' was not recognised as a result", error)
        return
    layer.metadata = {**layer.metadata, METADATA_KEY: provenance}
    apply_header(layer, header)
    look = _reorder_look(dict(saved.get("look", {})), header.axes.replace("S", ""))
    for key, value in look.items() if len(look.get("scale", ())) == layer.ndim else ():
        if key in LOOK_ATTRIBUTES:
            with suppress(Exception):  # of another version of napari
                setattr(layer, key, value)


def _reorder_look(look: dict[str, Any], axes: str) -> dict[str, Any]:
    """Return a look for the axes of its file, which may have another order than the layer had."""
    if sorted(saved_axes := look.pop("axes", axes)) != sorted(axes) or saved_axes == axes:
        return look
    order = [saved_axes.index(axis) for axis in axes]
    look |= {key: [look[key][index] for index in order] for key in ("scale", "translate", "units")}
    for key, size in (("rotate", len(order)), ("affine", len(order) + 1)):
        indices = np.ix_(*[[*order, len(order)][:size]] * 2)
        look[key] = np.asarray(look[key])[indices].tolist()
    look.pop("shear")  # of pairs of axes, of which the order changes
    return look


def apply_header(layer: Image, header: ImageHeader) -> None:
    """Set pixel size, place, units and axes of a layer to those of its file, if it has as many."""
    if len(header.axes) - (1 if layer.rgb else 0) != layer.ndim:
        return
    layer.axis_labels = tuple(header.axes.lower()[: layer.ndim])
    if header.scale is not None:
        layer.scale = header.scale[: layer.ndim]
    if header.tags.origin is not None:
        layer.translate = header.tags.origin[: layer.ndim]
    if header.units is not None:
        with suppress(Exception):  # a unit that napari does not know
            layer.units = header.units[: layer.ndim]


def _restore_file_sizes(layer: Image, provenance: Mapping[str, Any]) -> ImageHeader:
    """Return the header of a result, with what only its input's file has: axes and pixel size."""
    header = read_layer_header(layer)
    without_report = {"fit": {}, **read_recorded_inputs(provenance)["image"]}
    report = provenance.get("report", without_report)
    scale, units, axes = report["fit"].get("scale"), report["fit"].get("units"), report["axes"]
    if len(axes) != len(header.shape):
        return header
    if header.has_guessed_axes:
        header = replace(header, axes=axes)
    is_dropped = set(header.units or ()) == {"pixel"} != set(units or ())
    if not scale or not units or not is_dropped or axes != header.axes:
        return header
    # the layer of a finer result has a part of a pixel as its scale; an affine is in the size
    parts = (*map(float, layer.scale), 1.0)[: len(scale)]
    sizes = (part * size for part, size in zip(parts, scale, strict=True))
    return replace(header, scale=tuple(sizes), units=tuple(units))


def save_layer(layer: Image, path: Path, *, overwrite: bool) -> Callable[[], Path]:
    """Return a function that saves a layer of this plugin as OME-TIFF or OME-Zarr.

    Parameters
    ----------
    layer : Image
        It is read now, and its pixels when the function is called, in any thread.
    path : Path
        The function raises `DipError` if it cannot be written.
    overwrite : bool
        Whether an earlier file may be replaced.
    """
    provenance, pixels = read_layer_provenance(layer), get_full_resolution(layer)
    header = _restore_file_sizes(layer, provenance)
    input_path = read_recorded_inputs(provenance)["image"].get("path")
    saved = pack_provenance(provenance, path.parent)
    saved["look"] = record_layer(layer)["look"] | {"axes": header.axes.replace("S", "")}
    options = {
        "axes": header.axes,
        "scale": header.scale,
        "units": header.units,
        "provenance": json.loads(format_json(saved)),  # without NaN, which JSON does not have
        "tags": _make_tags(layer, header, provenance["input"]["name"], input_path),
    }

    def write() -> Path:
        inputs = [input_path] if input_path else []
        target = resolve_output(path, inputs, overwrite, bytes_needed=pixels.nbytes)
        image = pixels if isinstance(pixels, np.ndarray) else np.asarray(pixels)
        return write_image(target, image, **options, overwrite=overwrite)

    return write


def _make_tags(layer: Image, header: ImageHeader, name: str, input_path: str | None) -> SourceTags:
    """Return names and colours of the channels: those of the input's file, or else the layer's."""
    ome, limits = None, (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))
    if input_path:
        with suppress(DipError):
            ome = read_header(input_path).tags.ome
    if ome is None and not set(header.axes) & set("CS"):
        colours = np.round(255 * np.asarray(layer.colormap.map(np.array([1.0])))[0]).astype(int)
        is_linear = len(layer.colormap.colors) == 2  # from black to one colour
        *colour, alpha = colours.tolist() if is_linear else (255,) * 4
        number = encode_colour(bytes(colour), alpha)
        ome = OmeMetadata(channels=((("Name", name), ("Color", number)),))
    axes = header.axes.replace("S", "")
    places = dict(zip(axes, map(float, layer.affine(layer.translate)), strict=False))
    has_places = len(layer.translate) == len(axes)
    origin = tuple(places.get(axis, 0.0) for axis in header.axes) if has_places else None
    return SourceTags(ome=ome, origin=origin, contrast_limits=(limits,))


def collect_panels(viewer: Viewer, result: Image) -> list[tuple[str, list[PanelImage]]]:
    """Return the images of a figure: input, result, reference, and what belongs to the result.

    Input and reference have the contrast of the result. All show the plane in view.
    """
    provenance = read_layer_provenance(result)
    source, source_name = find_source_layer(viewer, provenance), provenance["input"]["name"]
    digest = provenance.get("report", {}).get("output_sha256")
    panels: dict[str, tuple[Image, Image]] = {"Result": (result, result)}
    for layer in viewer.layers:
        record = read_layer_provenance(layer)
        is_selected = layer in viewer.layers.selection or _REFERENCE_NAME.search(layer.name)
        if not isinstance(layer, Image) or layer is result:
            continue
        if layer is source:
            panels["Input"] = layer, result
        elif record.get("report", {}).get("output_sha256", layer) == digest and _has_same_frame(
            layer, result
        ):
            panels[_PANEL_TITLES.get(record.get("shows", ""), "")] = layer, layer
        elif layer.name == source_name:  # other pixels than those of the run
            continue
        elif not record and is_selected and layer.data.shape == result.data.shape:
            panels["Reference"] = layer, result
    images = {
        title: [_make_panel_image(*panels[title], viewer.dims)]
        for title in ("Input", "Result", "Reference", *_PANEL_TITLES.values())
        if title in panels
    }
    if repeated := images.get(_PANEL_TITLES["repeated"]):  # it is see-through
        repeated.insert(0, images["Result"][0])
    return list(images.items())


def _has_same_frame(layer: Image, result: Image) -> bool:
    """Whether a layer covers the plane of the result, and not a region of it alone."""
    edges, others = (each.extent.world[:, -2:] for each in (layer, result))
    return bool(np.allclose(edges, others, atol=max(abs(measure_pixel_sizes(layer)[-2:]))))


def _make_panel_image(layer: Image, like: Image, dims: Dims) -> PanelImage:
    """Return the plane of a layer in view, with the contrast, colours and units of another."""
    plane = np.asarray(get_full_resolution(layer)[find_plane_index(layer, dims.point, dims.units)])
    sizes, corner = measure_pixel_sizes(layer), layer.affine(layer.translate)
    place = convert_units([sizes, corner], layer.units, like.units)
    (height, width), (y, x) = place[:, -2:].tolist()
    rows, columns = plane.shape[:2]
    edges = (x - width / 2, x + width * (columns - 0.5), y + height * (rows - 0.5), y - height / 2)
    colours = like.colormap.map(np.linspace(0, 1, 256))
    return PanelImage(plane, edges, tuple(like.contrast_limits), like.gamma, colours)


def find_insets(viewer: Viewer, result: Image) -> list[tuple[float, float, float, float]]:
    """Return left, right, bottom and top of the rectangles in visible Shapes layers, as drawn."""
    boxes = [
        find_shape_bounds(layer, result, number)
        for layer in viewer.layers
        if isinstance(layer, Shapes) and layer.visible
        for number, kind in enumerate(layer.shape_type)
        if kind == "rectangle"
    ]
    insets = []
    for box in boxes[:_MAX_INSETS]:
        corners = np.reshape(box, (2, 2)) - 0.5  # top and left, bottom and right
        start, sizes = result.affine(result.translate), measure_pixel_sizes(result)
        (top, left), (bottom, right) = start[-2:] + sizes[-2:] * corners
        insets.append((left, right, bottom, top))
    return insets


def find_shape_bounds(
    shapes: Shapes, image: Image, number: int | None = None
) -> tuple[float, float, float, float]:
    """Return top, left, bottom, right of a shape, by default the selected, in pixels of the image.

    napari counts from pixel centres, the result from pixel edges.
    """
    number = max(shapes.selected_data, default=-1) if number is None else number
    corners = locate_corners(shapes, number, image)
    (top, left), (bottom, right) = corners.min(0) + 0.5, corners.max(0) + 0.5
    return float(top), float(left), float(bottom), float(right)


def write_rendered(path: Path, render: Callable[[str], bytes], overwrite: bool) -> Path:
    """Write what `render` returns for the suffix of a path; raise `DipError` if that fails."""
    suffix = path.suffix.lower()
    target = resolve_output(path, overwrite=overwrite, suffixes=(suffix,))
    return write_bytes(target, render(suffix[1:]), overwrite=overwrite)


class SaveMenu(QPushButton):
    """A button with a menu that saves the result on the card, or the selected layer of a run.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    profile : ProfileSection
    get_result : callable
        Returns the layer of the result on the card, or None.
    """

    message_emitted: Signal = Signal(str)

    def __init__(
        self, viewer: Viewer, profile: ProfileSection, get_result: Callable[[], Image | None]
    ) -> None:
        super().__init__("Save ▾")
        self._viewer, self._profile, self._get_result = viewer, profile, get_result
        self._hint = ""
        self.setToolTip("<qt>Save the result with all that is needed to open it again here</qt>")
        # Qt's own arrow lies on the text in napari's style
        self.setStyleSheet("QPushButton::menu-indicator { image: none; width: 0px; }")
        self._menu = QMenu(self)
        self.setMenu(self._menu)
        self.result_action: QAction = self._add_action("Save result…", self._on_save_result)
        self.figure_action: QAction = self._add_action("Export figure…", self._on_save_figure)
        self.profile_action: QAction = self._add_action(
            "Export profile or traces…", self._on_save_profile
        )
        self._menu.aboutToShow.connect(
            lambda: self.profile_action.setEnabled(profile.profiles is not None)
        )

    def _add_action(self, text: str, slot: Callable[[], object]) -> QAction:
        action = QAction(text, self)
        action.triggered.connect(slot)
        self._menu.addAction(action)
        return action

    def get_layer(self) -> Image | None:
        """Return the selected layer, if a run made it, or else the result on the card."""
        active = self._viewer.layers.selection.active
        is_made = isinstance(active, Image) and "recipe" in read_layer_provenance(active)
        return active if is_made else self._get_result()

    def _choose_layer(self) -> Image | None:
        """Return the layer to save; None while another is saved, or instead of a preview."""
        active = self._viewer.layers.selection.active
        if active is not None and read_layer_provenance(active).get("shows") == PREVIEW:
            self.message_emitted.emit(DOCK_TEXTS["save-preview"].format(active.name))
            return None
        return None if find_call(self) is not None else self.get_layer()

    def _on_save_result(self) -> None:
        if (layer := self._choose_layer()) is None:
            return
        path, is_confirmed = self._ask_path("Save result", layer, layer.name, _RESULT_KINDS)
        if path is not None:
            hint = describe_unsaved_inputs(read_layer_provenance(layer))
            self._start(save_layer(layer, path, overwrite=is_confirmed), layer.name, hint)

    def _on_save_figure(self) -> None:
        layer = self._choose_layer()
        if layer is not None and not (read_result_provenance(layer) or is_kept_image(layer)):
            layer = self._get_result()  # beside which the figure has what else belongs to it
        if layer is None:
            return
        path, is_confirmed = self._ask_path("Export figure", layer, layer.name, _FIGURE_KINDS)
        if path is not None:
            panels, insets = collect_panels(self._viewer, layer), find_insets(self._viewer, layer)
            unit = str(layer.units[-1])
            unit = f"{unit}s" if unit == "pixel" else get_unit_symbol(unit) or unit
            unit = "" if is_sheared(layer) else unit
            hints = [] if unit else [DOCK_TEXTS["figure-sheared"].format(layer.name)]
            if "Input" not in dict(panels):
                source = read_layer_provenance(layer)["input"]["name"]
                hints.append(DOCK_TEXTS["figure-no-input"].format(source))
            render = partial(plot_result, panels, insets, unit)
            write = partial(write_rendered, path, render, is_confirmed)
            self._start(write, path.name, "\n".join(hints))

    def _on_save_profile(self) -> None:
        layer, lines = self.get_layer(), self._profile.profiles
        if layer is None or lines is None or find_call(self) is not None:
            return
        path, is_confirmed = self._ask_path(
            "Export profile or traces", layer, f"{layer.name} plot", _PROFILE_KINDS
        )
        if path is not None:
            self._start(partial(write_rendered, path, lines.render, is_confirmed), path.name)

    def _start(self, write: Callable[[], Path], name: str, hint: str = "") -> None:
        """Write a file in the background; the hint follows the message on it."""
        self._hint = hint
        start_call(write, self, self._on_written, activity="Saving", name=name)
        self.message_emitted.emit(f"Saving '{name}'")

    def _on_written(self, outcome: Path | Fault) -> None:
        if isinstance(outcome, Fault):
            text = outcome.message
        else:
            text = f"Saved as '{outcome.name}' in '{outcome.parent}'."
            text = "\n".join(filter(None, [text, self._hint]))
        self.message_emitted.emit(text)

    def _ask_path(
        self, title: str, layer: Image, name: str, kinds: Mapping[str, str]
    ) -> tuple[Path | None, bool]:
        """Ask for the path of a file.

        Parameters
        ----------
        title, name : str
            The title of the dialogue, and the suggested name.
        layer : Image
            The file is suggested beside that of its input.
        kinds : mapping of str to str
            Names of the kinds of files by suffix.

        Returns
        -------
        path : Path or None
            With a suffix; None if the user has cancelled.
        is_confirmed : bool
            Whether the user has agreed to replace a file of that name.
        """
        input_path = read_recorded_inputs(read_layer_provenance(layer))["image"].get("path")
        folder = Path(input_path).parent if input_path else Path()
        filters = {f"{kind} (*{suffix})": suffix for suffix, kind in kinds.items()}
        ending = next(iter(kinds))
        # napari names the layer of "cells.ome.tif" "cells.ome"
        stem = name.replace("/", "-").removesuffix(Path(ending).stem)
        suggested = folder / (stem + ending)
        text, chosen = QFileDialog.getSaveFileName(self, title, str(suggested), ";;".join(filters))
        last_suffixes = tuple(suffix[suffix.rindex(".") :] for suffix in kinds)
        has_suffix = text.lower().endswith(last_suffixes)
        suffix = "" if has_suffix else filters.get(chosen, ending)
        return (Path(text + suffix) if text else None), has_suffix
