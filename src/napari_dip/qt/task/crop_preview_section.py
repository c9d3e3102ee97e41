"""The section Crop: try the visible or a drawn region with one preset or all, or restore it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, get_args
from weakref import ref

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel, QPushButton, QWidget

from napari_dip.errors import Refusal
from napari_dip.errors.templates import format_duration, format_plane_size
from napari_dip.pipeline.execute.crop_preview import (
    MERGE_INPUT,
    REGION_ALIGNMENT,
    make_crop_region,
    plan_crop_preview,
)
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import RunSettings, recipe_from_dict
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    fill_grid,
    fit_view,
    load_button,
    make_form,
    make_single_shot_timer,
    preserve_view,
)
from napari_dip.qt.shell.layer_headers import (
    METADATA_KEY,
    convert_units,
    find_visible_bounds,
    get_full_resolution,
    locate_points,
    measure_pixel_sizes,
    read_layer_header,
    read_layer_provenance,
)
from napari_dip.qt.shell.napari_layers import (
    CROP_PREVIEW,
    copy_layer_attributes,
    cut_columns,
    find_layer,
    is_preview,
    read_source_input,
)
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.settings_form import make_combo, update_combo
from napari_dip.qt.task.result_export import find_shape_bounds
from napari_dip.qt.task.run_request import (
    find_merge_layer,
    find_source_layer,
    make_crop_request,
    make_run_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dip.pipeline.execute.crop_preview import CropRegion
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.shell.job_controller import JobRequest, ResultTarget
    from napari_dip.qt.shell.layer_inputs import LayerInputs
    from napari_dip.qt.shell.settings_form import SettingsForm


#: First entry in the list of regions.
VISIBLE_REGION_LABEL = "What is in view"
#: Milliseconds from the last move of the camera to a preview that follows it.
_FOLLOW_PAUSE_MS = 700
#: Distance from the swipe line at which the mouse takes it, in pixels of the screen.
_MAX_DRAG_DISTANCE = 10
#: Font sizes of the names in the grid: 7 can just be read, and 10 is napari's.
_NAME_SIZES = (7, 10)
#: Width of a letter in pixels by the font size, measured with napari 0.9.
_LETTER_WIDTH = 0.98
#: Pixels left of a name, with which napari begins, and as many right of it.
_NAME_MARGIN = 10
_CROP_PREVIEW_HINT = DOCK_TEXTS["crop-hint"]
_PRESETS: tuple[str, ...] = get_args(RunSettings.model_fields["preset"].annotation)
#: Milliseconds from a change of view or settings to the times for them, which take 0.02 s.
_OFFER_PAUSE_MS = 200


def find_region(
    viewer: Viewer, plan: Plan, image: Image, shapes: Shapes | None, *, is_merged: bool = False
) -> CropRegion:
    """Return the region for a crop preview, in pixels of the image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    plan : Plan
        The plan for the whole image.
    image : Image
    shapes : Shapes or None
        A layer with at least one shape, for the rectangle around its selected or else its last
        shape. None for the visible part of the image.
    is_merged : bool
        Whether the result is merged into an earlier one.
    """
    box = find_visible_bounds(viewer, image) if shapes is None else find_shape_bounds(shapes, image)
    point = locate_points([viewer.dims.point], viewer.dims.units, image)[0]
    pairs = zip(point, plan.header.shape, strict=False)
    position = [int(np.clip(round(coordinate), 0, count - 1)) for coordinate, count in pairs]
    position += [0] * (len(plan.header.shape) - len(position))  # for the axis of colours
    return make_crop_region(plan.header, plan.layout, box, tuple(position), is_merged=is_merged)


class GridComparison:
    """Shows layers side by side in napari's grid, and hides all others meanwhile."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._hidden_layers: list[Layer] = []
        self._labelled_layers: list[tuple[Layer, float]] = []  # with their font sizes
        self.is_active: bool = False
        self._view: dict[str, Any] = {}

    def show(self, layers: Sequence[Layer]) -> None:
        """Show layers in the grid, with the camera on the last one."""
        self.end()
        viewer = self._viewer
        others = (layer for layer in viewer.layers if layer not in layers)
        self._hidden_layers = [layer for layer in others if layer.visible]
        for layer in self._hidden_layers:
            layer.visible = False
        for layer in layers:
            layer.visible = True
            if not layer.name_overlay.visible:
                self._labelled_layers.append((layer, layer.name_overlay.font_size))
                layer.name_overlay.visible = True
        grid = viewer.canvas.grid
        grid.shape, grid.stride, grid.enabled = (-1, -1), 1, True
        self._fit_names()
        self.is_active = True
        camera = viewer.scene.camera
        self._view = {name: getattr(camera, name) for name in ("center", "zoom", "angles")}
        fit_view(viewer, layers[-1])

    def end(self) -> None:
        """Leave the grid if this object opened it, with the view and the layers of before."""
        hidden, self._hidden_layers = self._hidden_layers, []
        if self.is_active:
            self.is_active = False
            self._viewer.canvas.grid.enabled = False
            self._viewer.scene.camera.update(self._view)
        for layer in hidden:
            layer.visible = True
        labelled, self._labelled_layers = self._labelled_layers, []
        for layer, size in labelled:
            layer.name_overlay.visible, layer.name_overlay.font_size = False, size

    def _fit_names(self) -> None:
        """Make the names small enough for their cells, which would cut them off."""
        longest = max((len(layer.name) for layer, _ in self._labelled_layers), default=0)
        for layer, _ in self._labelled_layers:
            width = self._viewer.canvas.viewbox_size(self._viewer.layers)[1]
            size = np.clip((width - 2 * _NAME_MARGIN) / longest / _LETTER_WIDTH, *_NAME_SIZES)
            layer.name_overlay.font_size = float(size)


class SwipeLine:
    """Shows inputs left of a line that can be dragged, and what lies below right of it.

    Layers on top have the pixels of the inputs left of the line, as views and no copies. The lowest
    covers what lies below, and the others keep their blending: channels add up on both sides.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._pairs: list[tuple[Image, Image]] = []  # of each input and the layer on top

    @property
    def column(self) -> int:
        """Number of columns of the first input left of the line; 0 without a line."""
        if not self._pairs or self._pairs[0][1] not in self._viewer.layers:
            return 0
        layer = self._pairs[0][1]
        return int(layer.data.shape[-2 if layer.rgb else -1])

    def show(self, inputs: Sequence[tuple[Image, float]]) -> None:
        """Show the line in the middle of the first of these inputs, each with its opacity."""
        self.hide()
        first, _ = inputs[0]
        column = get_full_resolution(first).shape[-2 if first.rgb else -1] // 2
        for layer, opacity in inputs:
            attributes = copy_layer_attributes(layer) | {
                "metadata": {METADATA_KEY: {"preview": True}},
                "name": f"{layer.name}, left of the line",
                "visible": True,
                "opacity": opacity,
            }
            if layer is first:
                attributes["blending"] = "translucent_no_depth"
            with preserve_view(self._viewer):
                cut_layer = self._viewer.add_image(cut_columns(layer, first, column), **attributes)
            self._pairs.append((layer, cut_layer))
        box = self._pairs[-1][1].bounding_box
        box.points, box.visible = False, True
        self._viewer.mouse_drag_callbacks.append(self._on_drag)

    def hide(self) -> None:
        """Remove the line."""
        if self._on_drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)
        pairs, self._pairs = self._pairs, []
        for _, layer in pairs:
            if layer in self._viewer.layers:
                with preserve_view(self._viewer):
                    self._viewer.layers.remove(layer)

    def _on_drag(self, _: Any, event: Any) -> Iterator[None]:
        """Follow the mouse if it was pressed near the line."""
        if not self.column:
            return
        camera, (input_layer, _) = self._viewer.scene.camera, self._pairs[0]
        units = self._viewer.dims.units
        width = convert_units(measure_pixel_sizes(input_layer), input_layer.units, units)[-1]
        distance = locate_points([event.position], units, input_layer)[0, -1] - (self.column - 0.5)
        if abs(distance * width) * camera.zoom > _MAX_DRAG_DISTANCE:
            return
        camera.mouse_pan = False
        try:
            yield
            while event.type == "mouse_move" and self.column:
                position = locate_points([event.position], units, input_layer)[0, -1]
                column = round(position + 0.5)
                if column != self.column:
                    for layer, cut_layer in self._pairs:
                        cut_layer.data = cut_columns(layer, input_layer, column)
                yield
        finally:
            camera.mouse_pan = True


class CropPreviewSection(CollapsibleSection):
    """A section of the dock with the region, the buttons and the results of crop previews.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : LayerInputs
    form : SettingsForm
    make_plan : callable
        Returns the plan for the whole image.
    """

    #: Emitted with a list of `JobRequest`, to be run one after another.
    run_requested: Signal = Signal(object)
    message_emitted: Signal = Signal(str)
    #: Emitted when the form is set for a run on the whole image.
    applied: Signal = Signal()

    def __init__(
        self,
        viewer: Viewer,
        inputs: LayerInputs,
        form: SettingsForm,
        make_plan: Callable[[], Plan | Refusal],
    ) -> None:
        page = QWidget()
        super().__init__("Crop", page)
        self._viewer, self._form, self._make_plan = viewer, form, make_plan
        self._image_chooser, self._extra_inputs = inputs.image_chooser, inputs.extra_inputs
        self._connections = Connections(self)
        self.grid: GridComparison = GridComparison(viewer)
        #: What is compared while presets are compared, else None.
        self.comparison_target: ResultTarget | None = None
        self._earlier_layer_names: set[str] = set()
        self._preset, self._is_busy, self._is_followed = "", False, False
        self.region_combo: QComboBox = make_combo("Region", "The part of the image to try on")
        self.preview_combo: QComboBox = make_combo("Preview", DOCK_TEXTS["crop-preview"])
        self.try_button: QPushButton = load_button("crop-try", self.request_preview)
        self.compare_button: QPushButton = load_button("crop-compare")
        self.restore_button: QPushButton = load_button("crop-restore")
        self.undo_button: QPushButton = load_button("crop-undo", self.undo_region)
        self._unmerge: partial[None] | None = None
        self.apply_button: QPushButton = load_button("crop-apply", self.apply)
        self.remove_button: QPushButton = load_button("crop-remove", self.remove_previews)
        self.follow_box: QCheckBox = QCheckBox("Follow the view")
        self.follow_box.setToolTip("Try again whenever another part of the image is in view")
        self._last_bounds: tuple[float, ...] = ()
        self._followed: set[str] = set()
        self._follow_timer = make_single_shot_timer(self, self._follow, _FOLLOW_PAUSE_MS)
        self._offer_timer = make_single_shot_timer(self, self._show_offer, _OFFER_PAUSE_MS)
        self.message_label: QLabel = make_message_label(_CROP_PREVIEW_HINT)
        self.offer_label: QLabel = make_message_label()
        self.cost_label: QLabel = make_message_label()
        self._preview_page = QWidget()
        self._build_layout(page)
        self.compare_button.clicked.connect(lambda: self._request_runs(_PRESETS))
        self.restore_button.clicked.connect(lambda: self._request_runs((), is_merged=True))
        self.follow_box.toggled.connect(self._on_view)
        self.region_combo.currentIndexChanged.connect(self._update_offer)
        self.title_button.toggled.connect(self._update_offer)
        form.changed.connect(self._update_offer)
        inputs.changed.connect(self._update_offer)
        camera_events = viewer.scene.camera.events
        view_events = camera_events.center, camera_events.zoom, viewer.dims.events.current_step
        self._connections.connect(self._on_view, *view_events)
        self.preview_combo.currentIndexChanged.connect(self._show_cost)
        self.preview_combo.activated.connect(self._select_preview)
        self._extra_inputs.changed.connect(self._show_cost)
        self._connections.follow_layers(self.refresh, viewer)
        self._connections.connect(self.refresh, viewer.layers.selection.events.active)
        self.refresh()

    def request_preview(self) -> None:
        """Request a run on the region with the present settings."""
        self._request_runs(())

    def undo_region(self) -> None:
        """Give the layer of the latest region back what it had before."""
        if self._unmerge is not None:
            self._unmerge()
        self._unmerge = None
        self.refresh()

    def offer_undo(self, request: JobRequest) -> None:
        """Offer to undo the region that a request merged, and hide previews that cover it."""
        target, self._unmerge = request.target, None
        if target is not None and target.whole is not None:
            for preview in filter(read_preview_provenance, self._viewer.layers):
                preview.visible &= (read_source_input(preview) or {}).get("name") != target.name
        layer = None if target is None else target.get_merged_layer()
        if target is not None and layer is not None and layer in self._viewer.layers:
            metadata = {**layer.metadata, METADATA_KEY: dict(target.merged_provenance)}
            self._unmerge = partial(_set_pixels, ref(layer), request.inputs[MERGE_INPUT], metadata)
        self.refresh()

    def apply(self) -> None:
        """Set the form to the chosen crop preview, and emit `applied`."""
        preview = find_layer(self._viewer, self.preview_combo.currentText())
        provenance = read_preview_provenance(preview)
        if provenance is None:
            return
        self.grid.end()
        self._form.show_recipe(recipe_from_dict(provenance["recipe"]))
        image = find_source_layer(self._viewer, provenance)
        if image is None:
            name = provenance["input"]["name"]
            self.message_label.setText(f"The layer '{name}' that was tried is no longer there.")
            return
        axes = provenance["report"]["axes"]
        self._image_chooser.choose(image.name, axes, is_by_hand=False)
        self.applied.emit()

    def _on_view(self, _: object = None) -> None:
        self._update_offer()
        if self.follow_box.isChecked():
            self._follow_timer.start()

    def _update_offer(self, _: object = None) -> None:
        """Show what the buttons would take, a moment after the last change."""
        if self.is_unfolded and not self._is_busy:
            self._offer_timer.start()

    def _show_offer(self) -> None:
        crops = self._plan_crops(_PRESETS)
        if isinstance(crops, str):
            self.offer_label.setText("")
        else:
            _, region, crop_plan = crops[0]
            sizes = crop_plan.header.grid, region.wanted_size
            size, wanted = map(format_plane_size, sizes)
            if wanted != size:
                size = f"{wanted}, enlarged to {size} (multiples of {REGION_ALIGNMENT})"
            seconds = dict(zip(_PRESETS, (crop[2].seconds for crop in crops), strict=True))
            chosen = seconds[self._form.widgets["preset"].value]
            self.offer_label.setText(
                f"{size}: up to {format_duration(chosen)}. Compare presets: up "
                f"to {format_duration(sum(seconds.values()))} in {len(crops)} runs."
            )

    def _follow(self) -> None:
        """Try on what has come into view, in place of the last such preview."""
        image = self._image_chooser.get_layer()
        if self._is_busy or image is None or self.grid.is_active:
            return
        bounds = (*find_visible_bounds(self._viewer, image), *self._viewer.dims.current_step)
        if bounds == self._last_bounds:
            return
        self._last_bounds = bounds
        for name in self._followed & {layer.name for layer in self._viewer.layers}:
            self._viewer.layers.remove(name)
        self.region_combo.setCurrentIndex(0)
        self.request_preview()
        self._is_followed = self._is_busy

    def remove_previews(self) -> None:
        """Leave the grid, and delete the layers of all previews with what belongs to them."""
        self.grid.end()
        for layer in list(self._viewer.layers):
            notes = read_layer_provenance(layer).get("report", {}).get("note_codes", ())
            if any(note["code"] == "crop-preview-region" for note in notes):
                self._viewer.layers.remove(layer)

    def show_comparison(self) -> None:
        """Show the results of a comparison next to the input, if one has ended."""
        target, self.comparison_target = self.comparison_target, None
        previews = filter(read_preview_provenance, self._viewer.layers)
        layers = [layer for layer in previews if layer.name not in self._earlier_layer_names]
        source_layer = None if target is None else target.get_source_layer()
        if len(layers) > 1 and source_layer is not None and source_layer in self._viewer.layers:
            self.grid.show([source_layer, *layers])
            for layer in layers:
                recipe = recipe_from_dict(read_layer_provenance(layer)["recipe"])
                if recipe.run_settings.preset == self._preset:
                    self.preview_combo.setCurrentText(layer.name)
            self.message_emitted.emit(DOCK_TEXTS["crop-choose-preview"])

    def refresh(self, _: object = None) -> None:
        """Update both lists to the layers of the viewer; a new layer is chosen."""
        layers = list(self._viewer.layers)[::-1]
        drawn = [each.name for each in layers if isinstance(each, Shapes) and not is_preview(each)]
        update_combo(self.region_combo, [VISIBLE_REGION_LABEL, *drawn], drawn)
        names = [each.name for each in layers if self._is_own_preview(each)]
        if self._unmerge is not None and self._unmerge.args[0]() not in layers:
            self._unmerge = None
        self.undo_button.setVisible(self._unmerge is not None)
        active = self._viewer.layers.selection.active
        update_combo(self.preview_combo, names, names, active.name if active is not None else "")
        self._preview_page.setVisible(bool(names))
        self._enable_buttons()
        if self._image_chooser.get_layer() is None:
            self.message_label.setText(_CROP_PREVIEW_HINT)  # the last one was about an image
        self._update_offer()
        self._show_cost()

    def _is_own_preview(self, layer: Layer) -> bool:
        """Whether a layer is a crop preview of this task, whose settings the form can show."""
        provenance = read_preview_provenance(layer)
        return provenance is not None and provenance["recipe"]["task"] == self._form.task

    def _enable_buttons(self) -> None:
        """Enable what can act: without an image, nothing but the previews that are there."""
        has_image = self._image_chooser.get_layer() is not None
        has_preview = bool(self.preview_combo.count())
        for button in (self.try_button, self.compare_button, self.restore_button):
            button.setEnabled(has_image and not self._is_busy)
        for button in (self.apply_button, self.remove_button):
            button.setEnabled(has_preview and not self._is_busy)

    def set_busy(self, is_busy: bool) -> None:
        """Disable the buttons and lists during a run."""
        for widget in (self.region_combo, self.preview_combo, self.undo_button):
            widget.setEnabled(not is_busy)
        self._is_busy = is_busy
        self._enable_buttons()
        if not is_busy and self._is_followed:
            names = {layer.name for layer in self._viewer.layers} - self._earlier_layer_names
            self._followed, self._is_followed = names, False
        self._on_view()

    def _request_runs(self, presets: tuple[str, ...], *, is_merged: bool = False) -> None:
        """Request runs on the region: with each of these presets, or as the form says.

        Parameters
        ----------
        presets : tuple of str
            Empty for the settings of the form.
        is_merged : bool
            Whether the result is merged into the latest one.
        """
        preset = self._form.widgets["preset"].value
        crops = self._plan_crops(presets or (preset,), is_merged=is_merged)
        image = self._image_chooser.get_layer()
        if isinstance(crops, str) or image is None:
            self.message_label.setText(crops if isinstance(crops, str) else "")
            return
        self.grid.end()
        whole_plan, *_ = crops[0]
        merge_layer = find_merge_layer(self._viewer, image, whole_plan) if is_merged else None
        whole_request = make_run_request(whole_plan, image, self._extra_inputs, is_crop=True)
        requests = [make_crop_request(whole_request, *crop, merge_layer) for crop in crops]
        self.message_label.setText("")
        self.comparison_target = requests[0].target if len(requests) > 1 else None
        self._earlier_layer_names = {layer.name for layer in self._viewer.layers}
        self._preset = preset
        self.run_requested.emit(requests)

    def _plan_crops(
        self, presets: Sequence[str], *, is_merged: bool = False
    ) -> list[tuple[Plan, CropRegion, Plan]] | str:
        """Plan the image, the region and the run on it for each preset; or return a message."""
        plan, image = self._make_plan(), self._image_chooser.get_layer()
        if isinstance(plan, Refusal) or image is None:
            return plan.message if isinstance(plan, Refusal) else ""
        layer = find_layer(self._viewer, self.region_combo.currentText())
        shapes = layer if isinstance(layer, Shapes) else None
        if shapes is not None and not len(shapes.data):
            return f"Draw a rectangle in '{shapes.name}' first."
        region = find_region(self._viewer, plan, image, shapes, is_merged=is_merged)
        machine, crops = get_allowed_machine(), []
        for preset in presets:
            recipe = plan.recipe.replace_run_settings(preset=preset)
            whole_plan = preflight(recipe, plan.header, machine, plan.extra_headers)
            if isinstance(whole_plan, Refusal):
                return whole_plan.message
            crop_plan = plan_crop_preview(whole_plan, region, machine)
            if isinstance(crop_plan, Refusal):
                return crop_plan.message
            crops.append((whole_plan, region, crop_plan))
        return crops

    def _select_preview(self, _: int) -> None:
        """Select the layer of the preview that the user chose, so that its card is shown."""
        preview = find_layer(self._viewer, self.preview_combo.currentText())
        self._viewer.layers.selection.active = preview

    def _show_cost(self, _: object = None) -> None:
        """Show the time that *Apply to all* would take."""
        self.cost_label.setText(self._describe_cost())

    def _describe_cost(self) -> str:
        preview = find_layer(self._viewer, self.preview_combo.currentText())
        provenance = read_preview_provenance(preview)
        image = provenance and find_layer(self._viewer, provenance["input"]["name"])
        if provenance is None or not isinstance(image, Image):
            return ""
        recipe = recipe_from_dict(provenance["recipe"])
        header = read_layer_header(image, provenance["report"]["axes"])
        plan = preflight(recipe, header, get_allowed_machine(), self._extra_inputs.read_headers())
        if isinstance(plan, Refusal):
            return plan.message
        preset = recipe.run_settings.preset.capitalize()
        return f"The whole image with {preset}: up to {format_duration(plan.seconds)}."

    def _build_layout(self, page: QWidget) -> None:
        region, preview = make_form(), make_form()
        region.addRow("Region", self.region_combo)
        preview.addRow("Preview", self.preview_combo)
        rows: tuple[list[Any], ...] = (
            [region],
            [self.try_button, self.compare_button],
            [self.restore_button, self.undo_button],
            [self.follow_box],
            *([widget] for widget in (self.offer_label, self.message_label, self._preview_page)),
        )
        buttons = [self.apply_button, self.remove_button]
        fill_grid(self._preview_page, ([preview], [self.cost_label], buttons))
        fill_grid(page, rows).setRowStretch(len(rows), 1)


def _set_pixels(
    get_layer: Callable[[], Image | None], pixels: Any, metadata: Mapping[str, Any]
) -> None:
    if (layer := get_layer()) is not None:
        layer.metadata, layer.data = metadata, pixels


def read_preview_provenance(layer: Any) -> Mapping[str, Any] | None:
    """Return the provenance of a crop preview; None for other layers."""
    provenance = {} if layer is None else read_layer_provenance(layer)
    return provenance if provenance.get("shows") == CROP_PREVIEW else None
