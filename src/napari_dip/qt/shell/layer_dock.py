"""A dock whose runs read layers: one image, and perhaps others beside it.

The further pictures of a task: a mask, a guide, a PSF, each from a layer of its own.
"""

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

from napari_dip.io import ImageSpec, guess_axes
from napari_dip.qt.shell.dock_widget import make_single_shot_timer
from napari_dip.qt.shell.input_chooser import InputChooser
from napari_dip.qt.shell.layers import get_full_resolution, is_preview, read_layer_provenance
from napari_dip.qt.shell.run_completion import attempt
from napari_dip.qt.shell.run_dock import RunDock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import napari.viewer
    import numpy.typing as npt

    from napari_dip.errors import Refusal
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.qt.shell.run_bar import RunBar
    from napari_dip.tasks import Input

_LAYER_TYPES = {"image": Image, "labels": Labels, "shapes": Shapes}
#: Pixels of a drawn mask up to which it is looked at with each plan, which takes some hundredths of
#: a second for 2048 x 2048 pixels; and milliseconds after a stroke before that.
_MAX_CHECKED_MASK_PIXELS, _STROKE_PAUSE_MS = 2**22, 300
#: What the list shows where a picture may be left out.
NO_LAYER = "none"


class ExtraInputs(QWidget):
    """One list of layers for each further picture that a task takes.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : sequence of Input

    Attributes
    ----------
    calibration : QWidget
        Lists of what was measured of the detector, to be laid out elsewhere.
    """

    changed = Signal()

    def __init__(
        self, viewer: napari.viewer.Viewer, inputs: Sequence[Input], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._inputs = tuple(inputs)
        self._image: Image | None = None
        self._by_hand: set[str] = set()
        self._watched: list[Labels] = []
        self._blank = False
        self._soon = make_single_shot_timer(self, _STROKE_PAUSE_MS)
        self._soon.timeout.connect(self.changed)
        self.changed.connect(self._watch)
        self.combos = {item.name: _make_input_combo(item) for item in self._inputs}
        self.calibration = QWidget(self)
        self.calibration.hide()  # until it is laid out elsewhere
        form, calibration = _make_inputs_layout(self), _make_inputs_layout(self.calibration)
        for entry in self._inputs:
            page = calibration if entry.calibrates else form
            page.addRow(entry.label, self.combos[entry.name])
            self.combos[entry.name].activated.connect(partial(self._on_choice, entry.name))
        self.setVisible(form.rowCount() > 0)
        self._connect(True)
        self.refresh()

    def layer(self, name: str) -> Any:
        """Give the layer chosen for an input, None if there is none."""
        chosen = self.combos[name].currentText()
        return self._viewer.layers[chosen] if chosen in self._viewer.layers else None

    def set_image(self, image: Image | None) -> None:
        """Take note of what is restored: it is no mask or guide of itself."""
        if image is not self._image:
            self._image = image
            self.refresh()

    def chosen(self) -> dict[str, Any]:
        """Give the layers that are chosen, by the names of the inputs."""
        layers = {item.name: self.layer(item.name) for item in self._inputs}
        return {name: layer for name, layer in layers.items() if layer is not None}

    def choose(self, layers: Mapping[str, str]) -> None:
        """Choose layers by their names; inputs that are not named take none, where they may."""
        for item in self._inputs:
            combo = self.combos[item.name]
            place = combo.findText(layers.get(item.name, NO_LAYER))
            if place >= 0:
                combo.setCurrentIndex(place)
                self._by_hand.add(item.name)
        self.changed.emit()

    def headers(self) -> dict[str, ImageSpec]:
        """Describe what is chosen, without reading pixels."""
        return {name: self._header(layer) for name, layer in self.chosen().items()}

    def pixels(self) -> dict[str, Any]:
        """Give the pixels of what is chosen; shapes are drawn onto the image's grid."""
        return {
            name: rasterise_shapes(item, self._image)
            if isinstance(item, Shapes)
            else get_full_resolution(item)
            for name, item in self.chosen().items()
        }

    def refused(self, plan: Plan) -> Refusal | None:
        """Say no where nothing is drawn yet; of what lies on the disk or is large, the run tells.

        Parameters
        ----------
        plan : Plan
            Of the headers.
        """
        drawn_on = {name: item.data for name, item in self.chosen().items() if _is_small_mask(item)}
        self._blank = bool(drawn_on) and not any(pixels.any() for pixels in drawn_on.values())
        if not self._blank:
            return None
        return plan.recipe.task.admit(plan.source, drawn_on)

    def refresh(self, _: object = None) -> None:
        """Bring the lists in line with the viewer; what was chosen stays."""
        for item in self._inputs:
            combo = self.combos[item.name]
            kinds = tuple(_LAYER_TYPES[kind] for kind in item.layers)
            layers = [
                layer
                for layer in self._viewer.layers
                if isinstance(layer, kinds) and layer is not self._image and not is_preview(layer)
            ][::-1]
            names = [layer.name for layer in layers]
            wanted = combo.currentText()
            if item.name not in self._by_hand and wanted in ("", NO_LAYER):
                wanted = _guess_layer(item.name, layers) or wanted
            if wanted not in names:
                wanted = NO_LAYER if item.optional else _find_topmost_original(layers)
            with QSignalBlocker(combo):
                combo.clear()
                combo.addItems([NO_LAYER, *names] if item.optional else names)
                combo.setCurrentIndex(combo.findText(wanted))
        self.changed.emit()

    def disconnect_viewer(self) -> None:
        """Stop listening; the viewer lives longer than this widget."""
        self._connect(False)
        self._soon.stop()
        self._watch(stop=True)

    def _watch(self, *, stop: bool = False) -> None:
        """Listen to what is drawn in the layers that are chosen."""
        wanted = [] if stop else [item for item in self.chosen().values() if _is_small_mask(item)]
        for entry in {*self._watched, *wanted}:
            if (entry in self._watched) != (entry in wanted):
                for name in ("paint", "labels_update", "data", "set_data"):  # the last by undoing
                    signal = getattr(entry.events, name)
                    (signal.connect if entry in wanted else signal.disconnect)(self._on_stroke)
        self._watched = wanted

    def _on_stroke(self, _: object = None) -> None:
        if self._blank:  # who has just painted may press Run at once
            self.changed.emit()
        else:
            self._soon.start()

    def _connect(self, on: bool) -> None:
        events = self._viewer.layers.events
        for signal in (events.inserted, events.removed, events.renamed):
            (signal.connect if on else signal.disconnect)(self.refresh)

    def _on_choice(self, name: str, _: int) -> None:
        self._by_hand.add(name)
        self.changed.emit()

    def _header(self, layer: Any) -> ImageSpec:
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
    """Draw a Shapes layer onto an image's grid; the two may be scaled and placed differently.

    Parameters
    ----------
    shapes : Shapes
    image : Image or None

    Returns
    -------
    ndarray of bool
        (Y, X), True inside any of the shapes.
    """
    grid = _get_image_grid(image)
    if image is None or not shapes.nshapes:
        return np.zeros(grid, bool)
    # the last two axes are the picture plane of both
    corners = [
        np.array(
            [image.world_to_data(shapes.data_to_world(item)[-image.ndim :])[-2:] for item in part]
        )
        for part in shapes.data
    ]
    moved = Shapes(corners, shape_type=list(shapes.shape_type))
    return np.asarray(moved.to_masks(mask_shape=grid).any(0))


def _guess_layer(name: str, layers: Sequence[Any]) -> str:
    """Guess the layer that is meant: one called so, or drawn; an image may be there for itself."""
    # a PSF that was found may well be meant; a result or what was taken out of it is none
    meant = [
        layer for layer in layers if read_layer_provenance(layer).get("shows", "found") == "found"
    ]
    called = (item.name for item in meant if name in re.findall("[a-z]+", item.name.lower()))
    drawn_ones = (layer.name for layer in layers if not isinstance(layer, Image))
    return next(chain(called, drawn_ones), "")


def _is_small_mask(layer: Any) -> bool:
    """Whether it is a drawing in the memory that is looked at in no time."""
    pixels = layer.data if isinstance(layer, Labels) else None
    return type(pixels) is np.ndarray and pixels.size <= _MAX_CHECKED_MASK_PIXELS


def _find_topmost_original(layers: Sequence[Any]) -> str:
    """Name the topmost layer that is no picture of ours."""
    return next((str(layer.name) for layer in layers if not read_layer_provenance(layer)), "")


def _get_image_grid(image: Image | None) -> tuple[int, int]:
    if image is None:
        return (0, 0)
    shape = get_full_resolution(image).shape
    height, width = shape[-3:-1] if image.rgb else shape[-2:]
    return int(height), int(width)


def _make_inputs_layout(page: QWidget) -> QFormLayout:
    """Lay a page out as labels and lists."""
    layout = QFormLayout(page)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    # in a narrow dock a long label would get no width at all
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
    """Chooses an image, and what goes with it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its Image layers are offered.
    run_bar : RunBar
    further : sequence of Input
        What is chosen beside the image.
    asks_axes : bool
        Whether the meaning of the axes is asked for.
    """

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        run_bar: RunBar,
        further: Sequence[Input],
        *,
        asks_axes: bool = True,
    ) -> None:
        super().__init__(viewer, run_bar)
        self.chooser = InputChooser(self._viewer, asks_axes=asks_axes)
        self.further = ExtraInputs(self._viewer, further)
        self._refused_image: ImageSpec | Refusal | None = None
        self._said_of: ref[Image] | None = None
        self.chooser.changed.connect(self._on_image)
        self.further.changed.connect(self.show_plan)

    def shut_down(self) -> None:
        """Stop all work and let go of the viewer; for a dock that is closed."""
        super().shut_down()
        self.chooser.disconnect_viewer()
        self.further.disconnect_viewer()

    def _on_image(self) -> None:
        self.further.set_image(self.chooser.layer())
        other = self._said_of is not None and self._said_of() is not self.chooser.layer()
        if other or self._refused_image not in (None, self.chooser.header()):
            self._refused_image = self._said_of = None
            if self.run_bar.add_button.isHidden():  # else a result waits, and the words tell of it
                self.run_bar.say("")  # it was said of another image
        self.show_plan()

    def _finish(self, text: str = "") -> None:
        """Say how the run ended, until another image is chosen."""
        super()._finish(text)
        layer = None if self.busy else self.chooser.layer()  # or the next run is on
        self._said_of = None if layer is None else ref(layer)

    def _refused(self) -> None:
        self._refused_image = self.chooser.header()

    def _close_parts(self, busy: bool) -> None:
        self._refused_image = self._said_of = None
        self.chooser.setEnabled(not busy)
        self.further.setEnabled(not busy)
        if not busy:
            attempt(self.chooser.refresh, "The list of images could not be brought up to date")
