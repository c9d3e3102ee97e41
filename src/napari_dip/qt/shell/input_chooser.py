"""Which image is restored: follows the layer selected in napari until the user chooses here.

Our own pictures are offered but not followed: who selects a result to save it restores it not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from napari.layers import Image
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QLineEdit, QWidget

from napari_dip.errors import Refusal, refusal
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
    """The input image and the meaning of its axes.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    asks_axes : bool
        Whether the meaning of the axes is asked for.
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
        self._by_hand: str | None = None
        self._watched: Image | None = None
        self._axes_given: dict[str, str] = {}
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

    def layer(self) -> Image | None:
        """Give the chosen layer, None if there is none."""
        name = self.combo.currentText()
        return self._viewer.layers[name] if name and name in self._viewer.layers else None

    def choose(self, name: str, axes: str) -> bool:
        """Choose a layer by its name, as if by hand; False if there is none.

        Parameters
        ----------
        name : str
        axes : str
            One letter for each axis.
        """
        if name not in self._viewer.layers or not _is_selectable(self._viewer.layers[name]):
            return False
        self._by_hand, self._axes_given[name] = name, axes
        self.refresh()
        return True

    def header(self) -> ImageSpec | Refusal:
        """Describe the chosen image, or say what to do."""
        layer = self.layer()
        if layer is not None:
            return read_layer_header(layer, self.axes.text().strip().upper())
        active = self._viewer.layers.selection.active
        if active is None or is_preview(active):
            return refusal("image-none")
        kind = type(active).__name__
        return refusal("layer-type", name=active.name, kind=kind)

    def refresh(self, _: object = None) -> None:
        """Bring the list in line with the viewer, then follow its selection."""
        names = [layer.name for layer in self._viewer.layers if _is_selectable(layer)]
        current = self._wanted(names)
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItems(names[::-1])  # as in the layer list, topmost first
            self.combo.setCurrentIndex(self.combo.findText(current) if current else -1)
        self._axes_given = {name: axes for name, axes in self._axes_given.items() if name in names}
        self._show_axes()
        self._watch()
        self.changed.emit()

    def disconnect_viewer(self) -> None:
        """Stop listening; the viewer lives longer than this widget."""
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

    def _wanted(self, names: list[str]) -> str | None:
        """Prefer the choice made by hand, then the selection, then what was there, then any."""
        if self._by_hand not in names:
            self._by_hand = None
        active = self._viewer.layers.selection.active
        selected = active.name if _is_original_image(active) else None
        for name in (self._by_hand, selected, self.combo.currentText()):
            if name in names:
                return name
        originals = [name for name in names if _is_original_image(self._viewer.layers[name])]
        return next(reversed(originals or names), None)

    def _on_selection(self, _: object = None) -> None:
        active = self._viewer.layers.selection.active
        if not self.isEnabled():  # during a run, the input is the run's
            return
        if active is None or (self._by_hand is None and _is_original_image(active)):
            self.refresh()
        elif self.layer() is None:
            self.changed.emit()

    def _on_combo(self, _: int) -> None:
        active = self._viewer.layers.selection.active
        name = self.combo.currentText()
        self._by_hand = None if _is_original_image(active) and active.name == name else name
        self.refresh()

    def _on_axes(self, text: str) -> None:
        self._axes_given[self.combo.currentText()] = text
        self.changed.emit()

    def _show_axes(self, _: object = None) -> None:
        """Two axes can only be Y and X, so they are not asked for."""
        layer = self.layer()
        text = ""
        if layer is not None:
            text = self._axes_given.get(layer.name, guess_layer_axes(layer))
        self.axes.setText(text)
        requested = (
            self._asks_axes and layer is not None and len(read_layer_header(layer, "").shape) > 2
        )
        self._axes_label.setVisible(requested)
        self.axes.setVisible(requested)

    def _watch(self, *, stop: bool = False) -> None:
        """Listen to the chosen layer's data: another shape is another plan."""
        layer = None if stop else self.layer()
        if layer is self._watched:
            return
        if self._watched is not None:
            self._watched.events.data.disconnect(self._on_data)
        if layer is not None:
            layer.events.data.connect(self._on_data)
        self._watched = layer

    def _on_data(self, _: object = None) -> None:
        self._show_axes()
        self.changed.emit()


def _is_selectable(layer: object) -> bool:
    return isinstance(layer, Image) and not is_preview(layer)


def _is_original_image(layer: Layer | None) -> TypeGuard[Image]:
    return isinstance(layer, Image) and not read_layer_provenance(layer)
