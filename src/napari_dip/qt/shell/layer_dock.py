"""The base class of docks that read layers: an image, and extra inputs such as mask, guide, PSF."""

from __future__ import annotations

import re
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image, Labels, Shapes
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_dip.errors import Refusal
from napari_dip.io import ImageSpec, guess_axes
from napari_dip.qt.shell.dock_widget import make_single_shot_timer
from napari_dip.qt.shell.input_chooser import InputChooser
from napari_dip.qt.shell.layers import get_full_resolution, is_preview, read_layer_provenance
from napari_dip.qt.shell.run_completion import call_reporting_errors
from napari_dip.qt.shell.run_dock import RunDock
from napari_dip.tasks.base import Pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import napari.viewer
    import numpy.typing as npt

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.shell.run_bar import RunBar
    from napari_dip.tasks import Input

_LAYER_TYPES = {"image": Image, "labels": Labels, "shapes": Shapes}
#: Largest drawn mask, in pixels, that is checked with each plan; 2048 x 2048 pixels take some
#: hundredths of a second. And milliseconds from a stroke to the next check.
_MAX_CHECKED_MASK_PIXELS, _STROKE_PAUSE_MS = 2**22, 300
#: Entry of the list for an optional input that is not used.
NO_LAYER = "none"


class ExtraInputs(QWidget):
    """A list of layers for each extra input of a task.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : sequence of Input

    Attributes
    ----------
    calibration : QWidget
        The lists for the maps of the detector, which another widget lays out.
    """

    changed = Signal()

    def __init__(
        self, viewer: napari.viewer.Viewer, inputs: Sequence[Input], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._inputs = tuple(inputs)
        self._image: Image | None = None
        self._chosen_by_hand: set[str] = set()
        self._watched_layers: list[Labels] = []
        self._is_blank = False
        self._stroke_timer = make_single_shot_timer(self, _STROKE_PAUSE_MS)
        self._stroke_timer.timeout.connect(self.changed)
        self.changed.connect(self._watch)
        self.combos = {
            task_input.name: _make_input_combo(task_input) for task_input in self._inputs
        }
        self.calibration = QWidget(self)
        self.calibration.hide()  # until another widget lays it out
        form, calibration = _make_inputs_layout(self), _make_inputs_layout(self.calibration)
        for extra_input in self._inputs:
            page = calibration if extra_input.is_detector_map else form
            page.addRow(extra_input.label, self.combos[extra_input.name])
            self.combos[extra_input.name].activated.connect(
                partial(self._on_choice, extra_input.name)
            )
        self.setVisible(form.rowCount() > 0)
        self._connect(True)
        self.refresh()

    def get_layer(self, name: str) -> Any:
        """Return the layer chosen for an input, or None."""
        chosen = self.combos[name].currentText()
        return self._viewer.layers[chosen] if chosen in self._viewer.layers else None

    def set_image(self, image: Image | None) -> None:
        """Exclude the image that is restored from the lists."""
        if image is not self._image:
            self._image = image
            self.refresh()

    def get_chosen_layers(self) -> dict[str, Any]:
        """Return the chosen layers by the names of the inputs, without unused inputs."""
        layers = {
            extra_input.name: self.get_layer(extra_input.name) for extra_input in self._inputs
        }
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

    def read_headers(self) -> dict[str, ImageSpec]:
        """Return a description of each chosen layer by input name, without reading pixels."""
        return {
            name: self._describe_layer(layer) for name, layer in self.get_chosen_layers().items()
        }

    def read_pixels(self) -> dict[str, Any]:
        """Return the pixels of each chosen layer by input name; shapes become a mask."""
        return {
            name: rasterise_shapes(layer, self._image)
            if isinstance(layer, Shapes)
            else get_full_resolution(layer)
            for name, layer in self.get_chosen_layers().items()
        }

    def check_drawings(self, plan: Plan) -> Refusal | None:
        """Return a refusal if a mask is still empty; masks on disk or large ones are not read.

        Parameters
        ----------
        plan : Plan
            The plan made from the headers.
        """
        drawn_masks = {
            name: layer.data
            for name, layer in self.get_chosen_layers().items()
            if _is_small_mask(layer)
        }
        self._is_blank = bool(drawn_masks) and not any(
            pixels.any() for pixels in drawn_masks.values()
        )
        if not self._is_blank:
            return None
        no_image = np.zeros((1, 1, *plan.source.grid), np.float32)
        pixels = Pixels(
            source=plan.source, image=no_image, stack=no_image, extra_inputs=drawn_masks
        )
        inspection = plan.recipe.task.inspect(pixels, plan.task_plan)
        return inspection if isinstance(inspection, Refusal) else None

    def refresh(self, _: object = None) -> None:
        """Update the lists to the layers of the viewer and keep the choices."""
        for extra_input in self._inputs:
            combo = self.combos[extra_input.name]
            layer_types = tuple(_LAYER_TYPES[kind] for kind in extra_input.layers)
            layers = [
                layer
                for layer in self._viewer.layers
                if isinstance(layer, layer_types)
                and layer is not self._image
                and not is_preview(layer)
            ][::-1]
            names = [layer.name for layer in layers]
            layer_name = combo.currentText()
            if extra_input.name not in self._chosen_by_hand and layer_name in ("", NO_LAYER):
                layer_name = _guess_layer(extra_input.name, layers) or layer_name
            if layer_name not in names:
                layer_name = NO_LAYER if extra_input.optional else _find_topmost_original(layers)
            with QSignalBlocker(combo):
                combo.clear()
                combo.addItems([NO_LAYER, *names] if extra_input.optional else names)
                combo.setCurrentIndex(combo.findText(layer_name))
        self.changed.emit()

    def disconnect_viewer(self) -> None:
        """Disconnect from the viewer, which outlives this widget."""
        self._connect(False)
        self._stroke_timer.stop()
        self._watch(stop=True)

    def _watch(self, *, stop: bool = False) -> None:
        """Connect to the drawing events of the chosen layers."""
        watched_layers = (
            []
            if stop
            else [layer for layer in self.get_chosen_layers().values() if _is_small_mask(layer)]
        )
        for watched in {*self._watched_layers, *watched_layers}:
            if (watched in self._watched_layers) != (watched in watched_layers):
                for name in ("paint", "labels_update", "data", "set_data"):  # "set_data": undo
                    signal = getattr(watched.events, name)
                    (signal.connect if watched in watched_layers else signal.disconnect)(
                        self._on_stroke
                    )
        self._watched_layers = watched_layers

    def _on_stroke(self, _: object = None) -> None:
        if self._is_blank:  # the first stroke enables Run without a delay
            self.changed.emit()
        else:
            self._stroke_timer.start()

    def _connect(self, is_connected: bool) -> None:
        events = self._viewer.layers.events
        for signal in (events.inserted, events.removed, events.renamed):
            (signal.connect if is_connected else signal.disconnect)(self.refresh)

    def _on_choice(self, name: str, _: int) -> None:
        self._chosen_by_hand.add(name)
        self.changed.emit()

    def _describe_layer(self, layer: Any) -> ImageSpec:
        if isinstance(layer, Shapes):
            grid = _get_image_grid(self._image) if layer.nshapes else (0, 0)
            return ImageSpec(name=layer.name, shape=grid, dtype="bool", axes="YX")
        data = get_full_resolution(layer)
        shape = tuple(int(count) for count in data.shape)
        rgb = bool(getattr(layer, "rgb", False))
        return ImageSpec(
            name=layer.name,
            shape=shape,
            dtype=np.dtype(data.dtype).name,
            axes=guess_axes(shape, rgb=rgb),
        )


def rasterise_shapes(shapes: Shapes, image: Image | None) -> npt.NDArray[np.bool_]:
    """Return a mask of a Shapes layer on the pixel grid of an image.

    Scale and position of the two layers may differ.

    Parameters
    ----------
    shapes : Shapes
    image : Image or None
        None gives an empty mask.

    Returns
    -------
    ndarray of bool
        (Y, X), True inside any of the shapes.
    """
    grid = _get_image_grid(image)
    if image is None or not shapes.nshapes:
        return np.zeros(grid, bool)
    # the last two axes are Y and X in both layers
    corners = [
        np.array(
            [
                image.world_to_data(shapes.data_to_world(corner)[-image.ndim :])[-2:]
                for corner in shape
            ]
        )
        for shape in shapes.data
    ]
    moved_shapes = Shapes(corners, shape_type=list(shapes.shape_type))
    return np.asarray(moved_shapes.to_masks(mask_shape=grid).any(0))


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


def _is_small_mask(layer: Any) -> bool:
    """Whether a layer is a labels layer in memory that is small enough to be checked."""
    pixels = layer.data if isinstance(layer, Labels) else None
    return type(pixels) is np.ndarray and pixels.size <= _MAX_CHECKED_MASK_PIXELS


def _find_topmost_original(layers: Sequence[Any]) -> str:
    """Return the name of the topmost layer that this plugin did not make, or ""."""
    return next((str(layer.name) for layer in layers if not read_layer_provenance(layer)), "")


def _get_image_grid(image: Image | None) -> tuple[int, int]:
    if image is None:
        return (0, 0)
    shape = get_full_resolution(image).shape
    height, width = shape[-3:-1] if image.rgb else shape[-2:]
    return int(height), int(width)


def _make_inputs_layout(page: QWidget) -> QFormLayout:
    """Return a layout of labels and lists for a page."""
    layout = QFormLayout(page)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    # in a narrow dock, a long label would leave no width for its list
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
    return layout


def _make_input_combo(item: Input) -> QComboBox:
    combo = QComboBox()
    combo.setAccessibleName(item.label)
    combo.setToolTip(f"<qt>{item.help}</qt>")
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(len(NO_LAYER))
    return combo


class LayerDock(RunDock):
    """A dock with a list for the image and one for each extra input.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers fill the list.
    run_bar : RunBar
    extra_inputs : sequence of Input
    asks_axes : bool
        Whether the dock has a field for the axes.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        run_bar: RunBar,
        extra_inputs: Sequence[Input],
        *,
        asks_axes: bool = True,
    ) -> None:
        super().__init__(viewer, run_bar)
        self.chooser = InputChooser(self._viewer, asks_axes=asks_axes)
        self.extra_inputs = ExtraInputs(self._viewer, extra_inputs)
        self._refused_image: ImageSpec | Refusal | None = None
        self._message_layer: ref[Image] | None = None
        self.chooser.changed.connect(self._on_image)
        self.extra_inputs.changed.connect(self.show_plan)

    def shut_down(self) -> None:
        """Stop all work and disconnect from the viewer, when the dock is closed."""
        super().shut_down()
        self.chooser.disconnect_viewer()
        self.extra_inputs.disconnect_viewer()

    def _on_image(self) -> None:
        self.extra_inputs.set_image(self.chooser.get_layer())
        is_other_image = (
            self._message_layer is not None
            and self._message_layer() is not self.chooser.get_layer()
        )
        if is_other_image or self._refused_image not in (None, self.chooser.read_header()):
            self._refused_image = self._message_layer = None
            if self.run_bar.add_button.isHidden():  # else the message is about a waiting result
                self.run_bar.show_message("")  # the message was about another image
        self.show_plan()

    def _finish(self, text: str = "") -> None:
        """End the run; its message stays until another image is chosen."""
        super()._finish(text)
        layer = None if self.is_busy else self.chooser.get_layer()  # busy: the next run has begun
        self._message_layer = None if layer is None else ref(layer)

    def _on_refused(self) -> None:
        self._refused_image = self.chooser.read_header()

    def _lock_parts(self, busy: bool) -> None:
        self._refused_image = self._message_layer = None
        self.chooser.setEnabled(not busy)
        self.extra_inputs.setEnabled(not busy)
        if not busy:
            call_reporting_errors(
                self.chooser.refresh, "The list of images could not be brought up to date"
            )
