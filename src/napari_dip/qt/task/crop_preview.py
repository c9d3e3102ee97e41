"""Trying first: on a part of the image, with one preset or all of them, then on all of it.

Which part of an image is meant: what is in view, or a rectangle that was drawn.

Layers side by side in napari's grid, and back to how the viewer was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QGridLayout, QWidget

from napari_dip.errors import Refusal
from napari_dip.pipeline.execute.crop_preview import make_crop_region, plan_crop_preview
from napari_dip.pipeline.machine import format_duration
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import RunSettings, recipe_from_dict
from napari_dip.qt.shell.dock_widget import CollapsibleSection, make_button
from napari_dip.qt.shell.layers import (
    follow_layers,
    is_preview,
    read_layer_header,
    read_layer_provenance,
)
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.task.request import RunRequest, make_run_request, restrict_to_region

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import napari.layers
    import napari.viewer

    from napari_dip.pipeline.execute.crop_preview import CropRegion
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.input_chooser import InputChooser
    from napari_dip.qt.shell.layer_dock import ExtraInputs
    from napari_dip.qt.shell.settings_form import SettingsForm

BoundingBox = tuple[float, float, float, float]


def find_region(
    viewer: napari.viewer.Viewer, plan: Plan, image: Image, shapes: Shapes | None
) -> CropRegion:
    """Find the region that is meant, in pixels of the image.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    plan : Plan
        For the whole image.
    image : Image
    shapes : Shapes or None
        With at least one shape: the rectangle around the selected or else the last one. None: what
        is in view.
    """
    box = find_visible_bounds(image) if shapes is None else find_shape_bounds(shapes, image)
    point = image.world_to_data(viewer.dims.point[-image.ndim :])
    at = [
        int(np.clip(round(item), 0, n - 1))
        for item, n in zip(point, plan.source.shape, strict=False)
    ]
    at += [0] * (len(plan.source.shape) - len(at))  # red, green and blue
    return make_crop_region(plan.source, plan.layout, box, tuple(at))


def find_shape_bounds(shapes: Shapes, image: Image) -> BoundingBox:
    """Give the rectangle around a shape: top, left, bottom, right; shapes lie on pixel centres."""
    number = max(shapes.selected_data, default=len(shapes.data) - 1)
    corners = np.array(
        [
            image.world_to_data(shapes.data_to_world(datum)[-image.ndim :])[-2:]
            for datum in shapes.data[number]
        ]
    )
    (top, left), (bottom, right) = corners.min(0) + 0.5, corners.max(0) + 0.5
    return float(top), float(left), float(bottom), float(right)


def find_visible_bounds(image: Image) -> BoundingBox:
    """Give the part of the picture plane that the canvas shows; all of it before it was drawn."""
    finer = np.ones(image.ndim)
    if image.multiscale:
        finer = np.asarray(image.downsample_factors[image.data_level])[: image.ndim]
    corners = np.asarray(image.corner_pixels, float) * finer
    (top, left), (bottom, right) = corners[0, -2:], corners[1, -2:] + finer[-2:]
    if bottom - top < 2 or right - left < 2:
        return 0.0, 0.0, np.inf, np.inf
    return float(top), float(left), float(bottom), float(right)


class GridComparison:
    """One cell for each of some layers; all others are hidden meanwhile.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._hidden: list[napari.layers.Layer] = []
        self._named: list[napari.layers.Layer] = []
        self._on = False

    def show(self, layers: Sequence[napari.layers.Layer]) -> None:
        """Show these, all at the place of the last of them; cells share one camera."""
        self.end()
        viewer = self._viewer
        self._hidden = [layer for layer in viewer.layers if layer.visible and layer not in layers]
        for item in self._hidden:
            item.visible = False
        for item in layers:
            item.visible = True
            if hasattr(item, "name_overlay") and not item.name_overlay.visible:  # napari >= 0.9
                item.name_overlay.visible = True
                self._named.append(item)
        grid = _get_viewer_grid(viewer)
        grid.shape, grid.stride, grid.enabled = (-1, -1), 1, True
        self._on = True
        if hasattr(viewer, "fit_to_view"):
            viewer.fit_to_view(layers=[layers[-1]])
        else:  # napari < 0.9
            viewer.reset_view()

    def end(self) -> None:
        """Leave the grid, if it is ours, and show again what was hidden."""
        hidden, self._hidden = self._hidden, []
        if self._on:
            self._on = False
            _get_viewer_grid(self._viewer).enabled = False
        for item in hidden:
            item.visible = True
        named, self._named = self._named, []
        for item in named:
            item.name_overlay.visible = False


def _get_viewer_grid(viewer: napari.viewer.Viewer) -> Any:
    return viewer.canvas.grid if hasattr(viewer, "canvas") else viewer.grid  # napari < 0.9


#: First in the list of regions.
VISIBLE_REGION_LABEL = "What is in view"
_CHOOSE_TRIAL_MESSAGE = "Choose one of the trials under Preview on a crop, and press Apply to all."
_CROP_PREVIEW_HINT = (
    "Restores a part only: what you see, or a rectangle drawn in a Shapes layer. Range and noise "
    "are measured on the whole image, as for a run on all of it."
)


class CropPreviewSection(CollapsibleSection):
    """Region, buttons, and the trials that were made.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    chooser, further, form
        Of the dock.
    plan : callable
        Gives the plan for the whole image.
    """

    #: A list of `RunRequest`, to be run one after another.
    wanted = Signal(object)
    said = Signal(str)
    #: The form is set; the whole is to be run.
    applied = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        chooser: InputChooser,
        further: ExtraInputs,
        form: SettingsForm,
        plan: Callable[[], Plan | Refusal],
    ) -> None:
        page = QWidget()
        super().__init__("Preview on a crop", page)
        self._viewer, self._chooser, self._further = viewer, chooser, further
        self._form, self._plan = form, plan
        self.grid = GridComparison(viewer)
        self._comparing: RunRequest | None = None
        self._before: set[str] = set()
        self._preset, self._busy = "", False
        self.regions = _make_trial_combo("Region", "The part of the image to try on")
        self.trials = _make_trial_combo("Trial", "The trial whose preset the whole image gets")
        self.try_button = make_button("Try", "Run on this part, with the settings as they are")
        self.compare_button = make_button(
            "Compare presets",
            "Run on this part with each preset, and show the results side by side",
        )
        self.apply_button = make_button(
            "Apply to all", "Run on the whole image with the settings of this trial"
        )
        self.message_label = make_message_label()
        self.message_label.setText(_CROP_PREVIEW_HINT)
        self.cost = make_message_label()
        self._arrange(page)
        self.try_button.clicked.connect(self.try_one)
        self.compare_button.clicked.connect(self.compare)
        self.apply_button.clicked.connect(self.apply)
        self.trials.currentIndexChanged.connect(self._show_cost)
        further.changed.connect(self._show_cost)
        self._connect(True)
        self.refresh()

    def try_one(self) -> None:
        """Ask for a run on the region."""
        self._ask(())

    def compare(self) -> None:
        """Ask for a run on the region with each preset."""
        self._ask(get_args(RunSettings.model_fields["preset"].annotation))

    def apply(self) -> None:
        """Set the form as it was for the chosen trial, and ask for the whole."""
        provenance = self._read_provenance()
        if provenance is None:
            return
        self.grid.end()
        self._form.show(recipe_from_dict(provenance["recipe"]))
        name, axes = provenance["input"]["name"], provenance["report"]["axes"]
        if not self._chooser.choose(name, axes):
            self._say(f"The layer '{name}' that was tried is no longer there.")
            return
        self.applied.emit()

    def end(self) -> None:
        """Show what a comparison has brought, if one was on, beside the input."""
        comparing, self._comparing = self._comparing, None
        layers = [
            layer
            for layer in self._viewer.layers
            if _read_trial_provenance(layer) is not None and layer.name not in self._before
        ]
        if comparing is not None and len(layers) > 1 and comparing.source() in self._viewer.layers:
            self.grid.show([comparing.source(), *layers])
            own = (
                layer.name
                for layer in layers
                if _read_trial_recipe(layer).run_settings.preset == self._preset
            )
            self.trials.setCurrentText(next(own, self.trials.currentText()))
            self.said.emit(_CHOOSE_TRIAL_MESSAGE)

    def refresh(self, _: object = None) -> None:
        """Bring both lists in line with the viewer; a layer that has just come is chosen."""
        layers = list(self._viewer.layers)[::-1]
        drawn = [
            layer.name for layer in layers if isinstance(layer, Shapes) and not is_preview(layer)
        ]
        _fill_combo(self.regions, [VISIBLE_REGION_LABEL, *drawn], drawn)
        names = [layer.name for layer in layers if _read_trial_provenance(layer) is not None]
        active = self._viewer.layers.selection.active
        _fill_combo(self.trials, names, names, active.name if active is not None else "")
        self.apply_button.setEnabled(bool(names) and not self._busy)
        self._show_cost()

    def set_busy(self, busy: bool) -> None:
        """While a run is on, nothing here begins another."""
        for part in (self.regions, self.trials, self.try_button, self.compare_button):
            part.setEnabled(not busy)
        self._busy = busy
        self.apply_button.setEnabled(not busy and self.trials.count() > 0)

    def shut_down(self) -> None:
        """Stop listening to the viewer, and leave the grid."""
        self._connect(False)
        self.grid.end()

    def _ask(self, presets: tuple[str, ...]) -> None:
        plan, image = self._plan(), self._chooser.layer()
        if isinstance(plan, Refusal) or image is None:
            self._say(plan.message if isinstance(plan, Refusal) else "")
            return
        name = self.regions.currentText()
        layers = self._viewer.layers
        shapes = layers[name] if name in layers and isinstance(layers[name], Shapes) else None
        if shapes is not None and not len(shapes.data):
            self._say(f"Draw a rectangle in '{name}' first.")
            return
        self.grid.end()
        request = self._make_request(
            plan, image, shapes, presets or (plan.recipe.run_settings.preset,)
        )
        if isinstance(request, Refusal):
            self._say(request.message)
            return
        height, width = request[0].plan.source.grid
        seconds = sum(item.plan.seconds for item in request)
        runs = f" in {len(request)} runs" if len(request) > 1 else ""
        self._say(f"{width} × {height} pixels: up to {format_duration(seconds)}{runs}.")
        self._comparing = request[0] if len(request) > 1 else None
        self._before = {layer.name for layer in self._viewer.layers}
        self._preset = plan.recipe.run_settings.preset
        self.wanted.emit(request)

    def _make_request(
        self, plan: Plan, image: Image, shapes: Shapes | None, presets: tuple[str, ...]
    ) -> list[RunRequest] | Refusal:
        region = find_region(self._viewer, plan, image, shapes)
        machine, requests = get_allowed_machine(), []
        whole = make_run_request(plan, image, self._further)
        for preset in presets:
            recipe = plan.recipe.replace_run_settings(preset=preset)
            large = preflight(recipe, plan.source, machine, plan.extra_inputs)
            if isinstance(large, Refusal):
                return large
            small = plan_crop_preview(large, region, machine)
            if isinstance(small, Refusal):
                return small
            requests.append(restrict_to_region(replace(whole, plan=large), region, small))
        return requests

    def _read_provenance(self) -> Mapping[str, Any] | None:
        """Give what the chosen trial says of its making."""
        name = self.trials.currentText()
        return (
            _read_trial_provenance(self._viewer.layers[name])
            if name in self._viewer.layers
            else None
        )

    def _show_cost(self, _: object = None) -> None:
        """Say what *Apply to all* would take."""
        self.cost.setText(self._cost())
        self.cost.setVisible(bool(self.cost.text()))
        self.grown()

    def _cost(self) -> str:
        provenance, layers = self._read_provenance(), self._viewer.layers
        image = (
            layers[provenance["input"]["name"]]
            if provenance and provenance["input"]["name"] in layers
            else None
        )
        if provenance is None or not isinstance(image, Image):
            return ""
        recipe, source = (
            recipe_from_dict(provenance["recipe"]),
            read_layer_header(image, provenance["report"]["axes"]),
        )
        plan = preflight(recipe, source, get_allowed_machine(), self._further.headers())
        if isinstance(plan, Refusal):
            return plan.message
        preset = recipe.run_settings.preset.capitalize()
        return f"The whole image with {preset}: up to {format_duration(plan.seconds)}."

    def _say(self, text: str) -> None:
        self.message_label.setText(text)
        self.grown()

    def _connect(self, on: bool) -> None:
        follow_layers(self._viewer, self.refresh, on=on)

    def _arrange(self, page: QWidget) -> None:
        region, trial = QFormLayout(), QFormLayout()
        region.addRow("Region", self.regions)
        trial.addRow("Trial", self.trials)
        layout = QGridLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(region, 0, 0, 1, 2)
        layout.addWidget(self.try_button, 1, 0)
        layout.addWidget(self.compare_button, 1, 1)
        layout.addWidget(self.message_label, 2, 0, 1, 2)
        layout.addLayout(trial, 3, 0, 1, 2)
        layout.addWidget(self.cost, 4, 0, 1, 2)
        layout.addWidget(self.apply_button, 5, 0, 1, 2)
        layout.setRowStretch(6, 1)


def _read_trial_provenance(layer: Any) -> Mapping[str, Any] | None:
    """Give what a trial's layer says of its making; None if it is no trial."""
    ours = read_layer_provenance(layer)
    return ours if ours.get("shows") == "trial" else None


def _read_trial_recipe(layer: Any) -> Recipe:
    return recipe_from_dict(read_layer_provenance(layer)["recipe"])


def _fill_combo(combo: QComboBox, names: list[str], fresh: list[str], active: str = "") -> None:
    """List names; a fresh one is chosen, or the active layer, or what was chosen before."""
    before = combo.currentText()
    item_texts = {combo.itemText(number) for number in range(combo.count())}
    wanted = next(
        (item for item in fresh if item not in item_texts), active if active in names else before
    )
    with QSignalBlocker(combo):
        combo.clear()
        combo.addItems(names)
        combo.setCurrentIndex(max(combo.findText(wanted), 0 if names else -1))


def _make_trial_combo(name: str, tip: str) -> QComboBox:
    combo = QComboBox()
    combo.setAccessibleName(name)
    combo.setToolTip(f"<qt>{tip}</qt>")
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    return combo
