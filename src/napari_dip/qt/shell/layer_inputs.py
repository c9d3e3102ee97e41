"""The layers that a dock reads: the image, and extra inputs such as mask, guide and PSF.

The image follows napari's selected layer until the user chooses. Results of this plugin are in the
list, but selecting one, for example to save it, does not choose it as the input.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any, TypeGuard
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image, Labels, Shapes
from qtpy.QtCore import QObject, QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QWidget

from napari_dip.errors import Fault, Refusal, make_refusal
from napari_dip.pipeline.assess.card import VERDICT_COLOURS, Verdict
from napari_dip.pipeline.calibrate.inputs import inspect_early
from napari_dip.pipeline.plan.layout import has_planes_of, list_axes_choices
from napari_dip.qt.shell.background_call import call_reporting_errors
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    Connections,
    fill_grid,
    guard_wheel,
    load_tooltip,
    make_button,
    make_form,
    make_single_shot_timer,
)
from napari_dip.qt.shell.layer_headers import (
    describe_file_header,
    find_layer_file_header,
    get_full_resolution,
    get_image_grid,
    get_mask_shape,
    guess_layer_axes,
    is_misplaced,
    read_input_header,
    read_input_pixels,
    read_layer_header,
    read_layer_provenance,
)
from napari_dip.qt.shell.napari_layers import find_layer, is_preview
from napari_dip.qt.shell.settings_form import fill_combo, make_combo, make_combo_editable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.shell.job_controller import JobController
    from napari_dip.tasks import TaskInput

_LAYER_TYPES = {"image": Image, "labels": Labels, "shapes": Shapes}
#: Largest drawn mask, in pixels, that is checked with each plan: labels of 2048 x 2048 pixels, or
#: one shape on so many, take some hundredths of a second.
_MAX_CHECKED_MASK_PIXELS = 2**22
#: Milliseconds from a stroke to the next check.
_STROKE_PAUSE_MS = 300
#: Largest PSF, in pixels, that is inspected with each plan; 256 x 256 take 0.1 s.
_MAX_INSPECTED_PIXELS = 2**16
#: Largest share of marked pixels of a mask that only the run inspects. Inpainting suspects masks
#: that mark more to be reversed, which is worth the time before a run.
_MAX_USUAL_MASK_FRACTION = 0.5
_NEW_MASK_TOOLTIP = "Add an empty mask as large as the image, to paint what is filled in"
#: Events of a layer that is painted on; "set_data": undo.
_LABELS_EVENTS = ("paint", "labels_update", "set_data")
#: Events of a layer that moves.
_PLACEMENT_EVENTS = ("scale", "translate", "rotate", "shear", "affine", "units")
#: Entry of the list for an optional input that is not used.
NO_LAYER = "none"


class ImageChooser(QWidget):
    """A list of images and a field for the axes.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    has_axes_field : bool
        Whether the field for the axes can appear.
    """

    changed: Signal = Signal()

    def __init__(self, viewer: Viewer, *, has_axes_field: bool = True) -> None:
        super().__init__()
        self._viewer = viewer
        self._has_axes_field = has_axes_field
        self._chosen_layer: Image | None = None
        #: Whether the user has chosen that layer, which then stays whatever is selected.
        self.is_by_hand: bool = False
        self._get_active_at_choice: Callable[[], Layer | None] = lambda: None
        self._watched_layer: Image | None = None
        self._axes_by_layer: WeakKeyDictionary[Image, str] = WeakKeyDictionary()
        self._connections, self._layer_connections = Connections(self), Connections(self)
        self.combo: QComboBox = make_combo("Image", DOCK_TEXTS["inputs-image"])
        self.axes_combo: QComboBox = make_combo("Axes", DOCK_TEXTS["inputs-axes-tooltip"])
        self._axes_edit = make_combo_editable(self.axes_combo)
        guard_wheel(self.axes_combo)
        self._axes_label = QLabel("Axes")
        self.source_label: QLabel = QLabel()
        self.source_label.setWordWrap(True)
        self.source_label.setToolTip(load_tooltip("inputs-source-tooltip"))
        form = make_form(self)
        form.addRow("Image", self.combo)
        form.addRow(self._axes_label, self.axes_combo)
        form.addRow(self.source_label)
        self._axes_label.setBuddy(self.axes_combo)
        self.combo.activated.connect(self._on_combo)
        self.axes_combo.currentTextChanged.connect(self._on_axes)
        self._connections.follow_layers(self.refresh, viewer)
        self._connections.connect(self._on_selection, viewer.layers.selection.events.active)
        self.refresh()

    def get_layer(self) -> Image | None:
        """Return the chosen layer, or None."""
        layer: Image | None = find_layer(self._viewer, self.combo.currentText())
        return layer

    def choose(self, name: str, axes: str = "", *, is_by_hand: bool = True) -> bool:
        """Choose a layer by name, as the user would; return False if it cannot be chosen.

        Parameters
        ----------
        name : str
        axes : str
            One letter for each axis; "": as they are.
        is_by_hand : bool
            False: only until another image is selected.
        """
        layer = find_layer(self._viewer, name)
        if not is_selectable(layer):
            return False
        self._chosen_layer, self.is_by_hand = layer, is_by_hand
        active = self._viewer.layers.selection.active
        self._get_active_at_choice = (lambda: None) if active is None else ref(active)
        if axes:
            self._axes_by_layer[layer] = axes
        self.refresh()
        return True

    def read_header(self) -> ImageHeader | Refusal:
        """Return a description of the chosen image, or a refusal."""
        layer = self.get_layer()
        if layer is not None:
            header = read_layer_header(layer, self._read_axes())
            is_named = layer in self._axes_by_layer
            return replace(header, has_guessed_axes=False) if is_named else header
        active = self._viewer.layers.selection.active
        if active is None or is_preview(active):
            return make_refusal("image-none")
        kind = type(active).__name__
        return make_refusal("layer-type", name=active.name, kind=kind)

    def refresh(self, _: object = None) -> None:
        """Update the list to the layers of the viewer, then follow its selection."""
        layers = [layer for layer in self._viewer.layers if is_selectable(layer)]
        chosen = self._find_choice(layers)
        # topmost first, as in the layer list
        names = [layer.name for layer in reversed(layers)]
        fill_combo(self.combo, names, None if chosen is None else chosen.name)
        self._show_axes()
        self._watch_layer(self.get_layer())
        self.changed.emit()

    def shut_down(self) -> None:
        """Disconnect from the viewer, which outlives this widget."""
        self._connections.disconnect_all()
        self._watch_layer(None)
        self._chosen_layer = None

    def _find_choice(self, layers: list[Image]) -> Image | None:
        """Return the image that was chosen, or else the selected, present or topmost one."""
        if self._chosen_layer not in layers:
            self._chosen_layer, self.is_by_hand = None, False
        active = self._viewer.layers.selection.active
        selected = active if is_original(active) else None
        # the present one can have got another name
        for layer in (self._chosen_layer, selected, self.get_layer(), self._watched_layer):
            if layer is not None and layer in layers:
                return layer
        originals = [layer for layer in layers if is_original(layer)]
        return next(reversed(originals or layers), None)

    def _on_selection(self, _: object = None) -> None:
        active = self._viewer.layers.selection.active
        is_followed = not self.is_by_hand and is_original(active)
        if is_followed and active is not self._get_active_at_choice():
            self._chosen_layer = None
        if not self.isEnabled():  # the input stays during a run
            return
        if active is None or is_followed:
            self.refresh()
        elif self.get_layer() is None:
            self.changed.emit()

    def _on_combo(self, _: int) -> None:
        active, layer = self._viewer.layers.selection.active, self.get_layer()
        self.is_by_hand = not is_original(active) or active is not layer
        self._chosen_layer = layer if self.is_by_hand else None
        self.refresh()

    def _read_axes(self) -> str:
        """Return the letters of the chosen or typed axes."""
        return self.axes_combo.currentText().partition(":")[0].strip().upper()

    def _on_axes(self, _: str) -> None:
        if (layer := self.get_layer()) is not None:
            self._axes_by_layer[layer] = self._read_axes()
        self._mark_guess(is_guess=False)
        self.changed.emit()

    def _show_axes(self, _: object = None) -> None:
        """Show the axes, but no field for them if there are only Y and X."""
        layer, axes, choices = self.get_layer(), "", dict[str, str]()
        is_guess = False
        if layer is not None:
            axes = self._axes_by_layer.get(layer, guess_layer_axes(layer))
            choices = list_axes_choices(get_full_resolution(layer).shape, rgb=bool(layer.rgb))
            header = read_layer_header(layer, axes)
            is_guess = layer not in self._axes_by_layer and header.has_guessed_axes
        with QSignalBlocker(self.axes_combo):
            self.axes_combo.clear()
            self.axes_combo.addItems(list(choices.values()))
            self.axes_combo.setCurrentText(choices.get(axes, axes))
        self._axes_edit.setCursorPosition(0)  # else a narrow field shows the end
        is_visible = self._has_axes_field and bool(choices)
        self._mark_guess(is_guess=is_guess)
        source = "" if layer is None else describe_file_header(find_layer_file_header(layer))
        self.source_label.setText(source)
        self.source_label.setVisible(bool(source))
        self._axes_label.setVisible(is_visible)
        self.axes_combo.setVisible(is_visible)

    def _mark_guess(self, *, is_guess: bool) -> None:
        """Mark guessed axes so that nobody overlooks them."""
        self._axes_label.setText("⚠ Axes (guessed)" if is_guess else "Axes")
        colour = VERDICT_COLOURS[Verdict.LOOK_CLOSER]
        self._axes_label.setStyleSheet(f"color: {colour}; font-weight: bold;" * is_guess)

    def _watch_layer(self, layer: Image | None) -> None:
        """Connect to changes of data and axes of one layer only, which need another plan."""
        if layer is self._watched_layer:
            return
        self._layer_connections.disconnect_all()
        if layer is not None:
            events = layer.events
            self._layer_connections.connect(self._on_data, events.data, events.axis_labels)
        self._watched_layer = layer

    def _on_data(self, _: object = None) -> None:
        self._show_axes()
        self.changed.emit()


def is_selectable(layer: object) -> bool:
    """Whether a layer is an image that can be chosen: not a preview of this plugin."""
    return isinstance(layer, Image) and not is_preview(layer)


def is_original(layer: Layer | None) -> TypeGuard[Image]:
    """Whether a layer is an image that this plugin did not make."""
    return isinstance(layer, Image) and not read_layer_provenance(layer)


class ExtraInputs(QWidget):
    """A list of layers for each extra input of a task.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : sequence of TaskInput

    Attributes
    ----------
    calibration : QWidget
        The lists for the maps of the detector, which another widget lays out.
    mask_buttons : dict of str to QPushButton
        Button beside each list of masks, for a new one.
    """

    changed: Signal = Signal()

    def __init__(self, viewer: Viewer, inputs: Sequence[TaskInput]) -> None:
        super().__init__()
        self._viewer = viewer
        self._inputs = tuple(inputs)
        self._image: Image | None = None
        self._chosen_by_hand: set[str] = set()
        self._last_layers: dict[str, Any] = {}
        self._watched_signals: list[Any] = []
        self._is_blank = False
        self._stroke_timer = make_single_shot_timer(self, self.changed, _STROKE_PAUSE_MS)
        self.changed.connect(lambda: self._watch_layers(self.get_chosen_layers()))
        self.combos: dict[str, QComboBox] = {
            item.name: make_combo(item.label, item.help, length=len(NO_LAYER))
            for item in self._inputs
        }
        self.calibration: QWidget = QWidget(self)
        self.calibration.hide()  # until another widget lays it out
        self.mask_buttons: dict[str, QPushButton] = {}
        form, calibration = make_form(self), make_form(self.calibration)
        for extra_input in self._inputs:
            page = calibration if extra_input.is_detector_map else form
            combo = self.combos[extra_input.name]
            field: QWidget = combo
            if "labels" in extra_input.layer_types:
                field, button = QWidget(), make_button("New", _NEW_MASK_TOOLTIP)
                fill_grid(field, ([combo, button],)).setColumnStretch(0, 1)
                field.setToolTip(combo.toolTip())
                self.mask_buttons[extra_input.name] = button
            page.addRow(extra_input.short_label or extra_input.label, field)
            combo.activated.connect(partial(self._on_choice, extra_input.name))
        self.setVisible(form.rowCount() > 0)
        self._connections = Connections(self)
        self._connections.follow_layers(self.refresh, viewer)
        self.refresh()

    def get_layer(self, name: str) -> Any:
        """Return the layer chosen for an input, or None."""
        return find_layer(self._viewer, self.combos[name].currentText())

    def set_image(self, image: Image | None) -> None:
        """Exclude the image that is restored from the lists."""
        if image is not self._image:
            self._image = image
            self.refresh()

    def get_chosen_layers(self) -> dict[str, Any]:
        """Return the chosen layers by the names of the inputs, without unused inputs."""
        layers = {name: self.get_layer(name) for name in self.combos}
        return {name: layer for name, layer in layers.items() if layer is not None}

    def choose(self, layers: Mapping[str, str]) -> None:
        """Choose layers by name for the inputs; optional inputs without a name get none."""
        for extra_input in self._inputs:
            combo = self.combos[extra_input.name]
            index = combo.findText(layers.get(extra_input.name, NO_LAYER))
            if index >= 0:
                combo.setCurrentIndex(index)
                self._chosen_by_hand.add(extra_input.name)
        self.changed.emit()

    def list_unfit(self) -> list[TaskInput]:
        """Return the inputs without a layer although there are some, as none fits the image."""
        items = (item for item in self._inputs if item.name not in self._chosen_by_hand)
        combos = [(item, self.combos[item.name]) for item in items]
        return [item for item, combo in combos if combo.count() and combo.currentIndex() < 0]

    def list_empty(self) -> list[TaskInput]:
        """Return the inputs with the planes of the image for which there is no layer at all."""
        return [
            item for item in self._inputs if item.has_items and not self.combos[item.name].count()
        ]

    def read_headers(self) -> dict[str, ImageHeader]:
        """Return a description of each chosen layer by input name, without reading pixels."""
        layers, items = self.get_chosen_layers(), {item.name: item for item in self._inputs}
        return {
            name: read_input_header(items[name], layer, self._image)
            for name, layer in layers.items()
        }

    def read_pixels(self) -> dict[str, Any]:
        """Return the pixels of each chosen layer by input name; shapes become a mask."""
        layers = self.get_chosen_layers().items()
        return {name: read_input_pixels(layer, self._image) for name, layer in layers}

    def inspect_early(self, plan: Plan) -> tuple[Note, ...]:
        """Let the task inspect a small PSF, and an empty or very full mask; return its notes.

        Masks and PSFs on disk, or large ones, are not read.

        Parameters
        ----------
        plan : Plan
            The plan made from the headers.

        Raises
        ------
        RefusedError
            If an input cannot be used.
        """
        masks, small_images = dict[str, Any](), dict[str, Any]()
        for item in self._inputs:
            layer = self.get_layer(item.name)
            if "labels" in item.layer_types and self._is_small_mask(layer):
                masks[item.name] = read_input_pixels(layer, self._image)
            if item.is_inspected_early and _is_small(layer, Image, _MAX_INSPECTED_PIXELS):
                small_images[item.name] = read_input_pixels(layer, self._image)
        marked_fractions = [float((pixels > 0).mean()) for pixels in masks.values()]
        self._is_blank = bool(marked_fractions) and not any(marked_fractions)
        # a usual mask is inspected with the image, in the run
        is_odd = self._is_blank or max(marked_fractions, default=0) > _MAX_USUAL_MASK_FRACTION
        is_odd |= getattr(plan.recipe.task, "label", None) is not None  # it may not occur
        return inspect_early(plan, {**(masks if is_odd else {}), **small_images})

    def refresh(self, _: object = None) -> None:
        """Update the lists to the layers of the viewer and keep the choices."""
        for extra_input in self._inputs:
            combo = self.combos[extra_input.name]
            layer_types = tuple(_LAYER_TYPES[kind] for kind in extra_input.layer_types)
            layers = [
                layer
                for layer in self._viewer.layers
                if isinstance(layer, layer_types)
                and layer is not self._image
                and not is_preview(layer)
                # a result of this image has no independent noise
                and not (extra_input.is_repeated_exposure and read_layer_provenance(layer))
                and not ("labels" in extra_input.layer_types and _is_result(layer))
            ][::-1]
            names = [layer.name for layer in layers]
            entries = [NO_LAYER, *names] if extra_input.is_optional else names
            layer_name, last_layer = combo.currentText(), self._last_layers.get(extra_input.name)
            if layer_name not in entries and last_layer is not None and last_layer in layers:
                layer_name = last_layer.name  # another one by now
            misplaced = [each for each in layers if is_misplaced(extra_input, each, self._image)]
            layers = [each for each in layers if each not in misplaced]
            unchosen_names = ("", NO_LAYER, *(each.name for each in misplaced))
            if extra_input.name not in self._chosen_by_hand and layer_name in unchosen_names:
                layer_name = _guess_layer(extra_input.name, layers)
            layers += misplaced
            if extra_input.has_items and extra_input.name not in self._chosen_by_hand:
                image = None if self._image is None else read_layer_header(self._image)
                layers = [each for each in layers if has_planes_of(read_layer_header(each), image)]
            is_by_hand = extra_input.name in self._chosen_by_hand
            is_deleted = is_by_hand and last_layer not in self._viewer.layers
            if layer_name not in (layer.name for layer in layers):
                is_none = extra_input.is_optional or is_deleted
                layer_name = NO_LAYER if is_none else _find_topmost_original(layers)
            # a placeholder widens the list, which would then move below its label
            absent = NO_LAYER if is_deleted and names else "no other layer"
            combo.setPlaceholderText("" if extra_input.is_optional else absent)
            fill_combo(combo, entries, layer_name)
        self.changed.emit()

    def shut_down(self) -> None:
        """Disconnect from the viewer, which outlives this widget."""
        self._connections.disconnect_all()
        self._stroke_timer.stop()
        self._image = None
        self._watch_layers({})

    def _watch_layers(self, chosen_layers: dict[str, Any]) -> None:
        """Keep the layers; connect to their moves, to strokes on small masks, and to all shapes."""
        self._last_layers = chosen_layers
        layers = chosen_layers.values()
        images = () if self._image is None else (self._image,)
        moves = ((layer, _PLACEMENT_EVENTS) for layer in (*images, *layers))
        strokes = (
            (mask, ("data", *_LABELS_EVENTS[: 3 * isinstance(mask, Labels)]))
            for mask in layers
            if isinstance(mask, Shapes) or self._is_small_mask(mask)
        )
        pairs = chain(moves, strokes)
        signals = [getattr(layer.events, name) for layer, names in pairs for name in names]
        for signal in (each for each in self._watched_signals if each not in signals):
            signal.disconnect(self._on_stroke)
        for signal in (each for each in signals if each not in self._watched_signals):
            signal.connect(self._on_stroke)
        self._watched_signals = signals

    def _on_stroke(self, _: object = None) -> None:
        if self._is_blank:  # the first stroke enables Run without a delay
            self.changed.emit()
        else:
            self._stroke_timer.start()

    def _on_choice(self, name: str, _: int) -> None:
        self._chosen_by_hand.add(name)
        self.changed.emit()

    def _is_small_mask(self, layer: Any) -> bool:
        """Whether a layer can be a mask that is small enough to be checked with each plan."""
        if isinstance(layer, Shapes):
            pixel_count = max(1, len(layer.data)) * prod(get_image_grid(self._image))
            mask_pixel_count = prod(get_mask_shape(layer, self._image))
            return max(pixel_count, mask_pixel_count) <= _MAX_CHECKED_MASK_PIXELS
        return _is_small(layer, (Labels, Image), _MAX_CHECKED_MASK_PIXELS)


def _is_result(layer: Layer) -> bool:
    """Whether a layer is a restored image, which marks no pixels."""
    provenance = read_layer_provenance(layer)
    return bool(provenance) and provenance.get("shows", "result") == "result"


def _guess_layer(name: str, layers: Sequence[Any]) -> str:
    """Return the name of the layer for an input: named like it, or drawn; else ""."""
    # an estimated PSF is a sensible input; a result or a residual is not
    candidates = [
        layer for layer in layers if read_layer_provenance(layer).get("shows", "found") == "found"
    ]
    named_alike = (
        candidate.name
        for candidate in candidates
        if name in re.findall("[a-z]+", candidate.name.lower())
    )
    drawn = (layer.name for layer in layers if not isinstance(layer, Image))
    return next(chain(named_alike, drawn), "")


def _is_small(layer: Any, layer_type: Any, max_pixels: int) -> bool:
    """Whether a layer of a type is in memory, and small enough to be checked with each plan."""
    pixels = layer.data if isinstance(layer, layer_type) else None
    return type(pixels) is np.ndarray and pixels.size <= max_pixels


def _find_topmost_original(layers: Sequence[Any]) -> str:
    """Return the name of the topmost layer that this plugin did not make, or ""."""
    return next((str(layer.name) for layer in layers if not read_layer_provenance(layer)), "")


class LayerInputs(QObject):
    """The lists of a dock for the image and for each extra input.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its layers fill the lists.
    inputs : sequence of TaskInput
        The extra inputs.
    parent : QWidget
    has_axes_field : bool
        Whether there is a field for the axes.
    """

    changed: Signal = Signal()
    #: Emitted when the last message is about another image than the one that is chosen now.
    message_outdated: Signal = Signal()

    def __init__(
        self,
        viewer: Viewer,
        inputs: Sequence[TaskInput],
        parent: QWidget,
        *,
        has_axes_field: bool = True,
    ) -> None:
        super().__init__(parent)
        self.image_chooser: ImageChooser = ImageChooser(viewer, has_axes_field=has_axes_field)
        self.extra_inputs: ExtraInputs = ExtraInputs(viewer, inputs)
        self._refused_image: ImageHeader | Refusal | None = None
        self._message_layer: ref[Image] | None = None
        self.image_chooser.changed.connect(self.update_image)
        self.extra_inputs.changed.connect(self.changed)

    def follow_jobs(self, jobs: JobController) -> None:
        """Connect to the jobs of the dock, whose messages are about the image."""
        jobs.refused.connect(self._on_refused)
        jobs.ended.connect(lambda: None if jobs.is_busy else self.follow_message())

    def set_busy(self, is_busy: bool) -> None:
        """Disable the lists during a job; afterwards update them."""
        self._refused_image = self._message_layer = None
        self.image_chooser.setEnabled(not is_busy)
        self.extra_inputs.setEnabled(not is_busy)
        if not is_busy:
            call_reporting_errors(
                self.image_chooser.refresh, "The list of images could not be brought up to date"
            )

    def shut_down(self) -> None:
        """Disconnect from the viewer, which outlives the dock."""
        self.image_chooser.shut_down()
        self.extra_inputs.shut_down()

    def update_image(self) -> None:
        """Exclude the chosen image from the other lists, and drop a message on another image."""
        self.extra_inputs.set_image(self.image_chooser.get_layer())
        is_other_image = (
            self._message_layer is not None
            and self._message_layer() is not self.image_chooser.get_layer()
        )
        if is_other_image or self._refused_image not in (None, self.image_chooser.read_header()):
            self._refused_image = self._message_layer = None
            self.message_outdated.emit()
        self.changed.emit()

    def _on_refused(self, _: Fault) -> None:
        self._refused_image = self.image_chooser.read_header()

    def follow_message(self) -> None:
        """Note that the message in sight is about the chosen image."""
        layer = self.image_chooser.get_layer()
        self._message_layer = None if layer is None else ref(layer)
