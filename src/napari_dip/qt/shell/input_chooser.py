"""The list of images to restore: follows napari's selected layer until the user chooses.

Results of this plugin are in the list, but selecting one, for example to save it, does not choose
it as the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from napari.layers import Image
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QLineEdit, QWidget

from napari_dip.errors import Refusal, make_refusal
from napari_dip.qt.shell.layers import (
    guess_layer_axes,
    is_preview,
    read_layer_header,
    read_layer_provenance,
)

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_dip.io import ImageSpec


class InputChooser(QWidget):
    """A list of images and a field for the axes.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    asks_axes : bool
        Whether the field for the axes can appear.
    """

    changed = Signal()

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        parent: QWidget | None = None,
        *,
        asks_axes: bool = True,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._asks_axes = asks_axes
        self._chosen_by_hand: str | None = None
        self._watched_layer: Image | None = None
        self._axes_by_layer: dict[str, str] = {}
        self.combo = QComboBox()
        self.combo.setToolTip(
            "<qt>The image to restore. It follows the layer that is selected in napari, "
            "unless that is a result.</qt>"
        )
        self.combo.setAccessibleName("Image")
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.axes = QLineEdit()
        self.axes.setAccessibleName("Axes")
        self.axes.setToolTip(
            "<qt>One letter for each axis: Y and X for the picture plane, C for channels, "
            "Z for depth, T for time, S for red, green and blue. "
            "Change it if the guess is wrong.</qt>"
        )
        self._axes_label = QLabel("Axes")
        self._arrange()
        self.combo.activated.connect(self._on_combo)
        self.axes.textEdited.connect(self._on_axes)
        self._connect()
        self.refresh()

    def get_layer(self) -> Image | None:
        """Return the chosen layer, or None."""
        name = self.combo.currentText()
        return self._viewer.layers[name] if name and name in self._viewer.layers else None

    def choose(self, name: str, axes: str) -> bool:
        """Choose a layer by name, as the user would; return False if it cannot be chosen.

        Parameters
        ----------
        name : str
        axes : str
            One letter for each axis.
        """
        if name not in self._viewer.layers or not _is_selectable(self._viewer.layers[name]):
            return False
        self._chosen_by_hand, self._axes_by_layer[name] = name, axes
        self.refresh()
        return True

    def read_header(self) -> ImageSpec | Refusal:
        """Return a description of the chosen image, or a refusal."""
        layer = self.get_layer()
        if layer is not None:
            return read_layer_header(layer, self.axes.text().strip().upper())
        active = self._viewer.layers.selection.active
        if active is None or is_preview(active):
            return make_refusal("image-none")
        kind = type(active).__name__
        return make_refusal("layer-type", name=active.name, kind=kind)

    def refresh(self, _: object = None) -> None:
        """Update the list to the layers of the viewer, then follow its selection."""
        names = [layer.name for layer in self._viewer.layers if _is_selectable(layer)]
        current = self._choose_layer_name(names)
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItems(names[::-1])  # topmost first, as in the layer list
            self.combo.setCurrentIndex(self.combo.findText(current) if current else -1)
        self._axes_by_layer = {
            name: axes for name, axes in self._axes_by_layer.items() if name in names
        }
        self._show_axes()
        self._watch()
        self.changed.emit()

    def disconnect_viewer(self) -> None:
        """Disconnect from the viewer, which outlives this widget."""
        layers = self._viewer.layers
        for signal in (layers.events.inserted, layers.events.removed, layers.events.renamed):
            signal.disconnect(self.refresh)
        layers.selection.events.active.disconnect(self._on_selection)
        self._watch(stop=True)

    def _connect(self) -> None:
        layers = self._viewer.layers
        for signal in (layers.events.inserted, layers.events.removed, layers.events.renamed):
            signal.connect(self.refresh)
        layers.selection.events.active.connect(self._on_selection)

    def _arrange(self) -> None:
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.addRow("Image", self.combo)
        layout.addRow(self._axes_label, self.axes)
        self._axes_label.setBuddy(self.axes)

    def _choose_layer_name(self, names: list[str]) -> str | None:
        """Return the name chosen by hand, or else the selected, present or topmost image."""
        if self._chosen_by_hand not in names:
            self._chosen_by_hand = None
        active = self._viewer.layers.selection.active
        selected = active.name if _is_original_image(active) else None
        for name in (self._chosen_by_hand, selected, self.combo.currentText()):
            if name in names:
                return name
        originals = [name for name in names if _is_original_image(self._viewer.layers[name])]
        return next(reversed(originals or names), None)

    def _on_selection(self, _: object = None) -> None:
        active = self._viewer.layers.selection.active
        if not self.isEnabled():  # the input stays during a run
            return
        if active is None or (self._chosen_by_hand is None and _is_original_image(active)):
            self.refresh()
        elif self.get_layer() is None:
            self.changed.emit()

    def _on_combo(self, _: int) -> None:
        active = self._viewer.layers.selection.active
        name = self.combo.currentText()
        self._chosen_by_hand = None if _is_original_image(active) and active.name == name else name
        self.refresh()

    def _on_axes(self, text: str) -> None:
        self._axes_by_layer[self.combo.currentText()] = text
        self.changed.emit()

    def _show_axes(self, _: object = None) -> None:
        """Show the axes, but no field for them if there are only Y and X."""
        layer = self.get_layer()
        axes = ""
        if layer is not None:
            axes = self._axes_by_layer.get(layer.name, guess_layer_axes(layer))
        self.axes.setText(axes)
        is_visible = (
            self._asks_axes and layer is not None and len(read_layer_header(layer, "").shape) > 2
        )
        self._axes_label.setVisible(is_visible)
        self.axes.setVisible(is_visible)

    def _watch(self, *, stop: bool = False) -> None:
        """Connect to data changes of the chosen layer: another shape needs another plan."""
        layer = None if stop else self.get_layer()
        if layer is self._watched_layer:
            return
        if self._watched_layer is not None:
            self._watched_layer.events.data.disconnect(self._on_data)
        if layer is not None:
            layer.events.data.connect(self._on_data)
        self._watched_layer = layer

    def _on_data(self, _: object = None) -> None:
        self._show_axes()
        self.changed.emit()


def _is_selectable(layer: object) -> bool:
    return isinstance(layer, Image) and not is_preview(layer)


def _is_original_image(layer: Layer | None) -> TypeGuard[Image]:
    return isinstance(layer, Image) and not read_layer_provenance(layer)
