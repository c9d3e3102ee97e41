"""Comparison of a result with its input by fading, and extra layers: uncertainty and residual."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

import numpy as np
from napari.utils import Colormap
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QSlider, QWidget

from napari_dip.qt.results.line_profile import ProfileSection
from napari_dip.qt.shell.dock_widget import guard_wheel
from napari_dip.qt.shell.layers import add_provenance, preserve_view, read_source_input
from napari_dip.qt.shell.preferences import read_preferences
from napari_dip.qt.shell.worker import call_reporting_errors

if TYPE_CHECKING:
    import napari.layers
    import napari.viewer
    import numpy.typing as npt
    from napari.layers import Image

    from napari_dip.pipeline.events import Restoration
    from napari_dip.qt.shell.job_controller import ResultTarget
    from napari_dip.qt.shell.run_completion import PendingResult

#: Extra layers by attribute of `Restoration`: label and tooltip.
EXTRA_LAYERS = {
    "uncertainty": (
        "Uncertainty",
        "Standard deviation of each pixel, in the picture's units: dark where it is sure. "
        "The layer comes hidden; its eye in the layer list shows it.",
    ),
    "residual": (
        "Residual",
        "What was taken out of the picture, grey where that is nothing. It should look like noise: "
        "lines and spots in it are structure that was lost. "
        "The layer comes hidden; its eye in the layer list shows it.",
    ),
}
#: Percentile of the absolute values that sets the contrast limits, so that single outliers do not
#: reduce the contrast of all other pixels.
_CONTRAST_PERCENTILE = 99.5
#: Blue below zero and orange above, as in the loss plot, both of the same lightness.
_DIVERGING_COLORMAP = Colormap(
    [[0.0, 0.45, 0.85], [0.5, 0.5, 0.5], [0.9, 0.55, 0.0]], name="blue, grey at zero, orange"
)
_PLACEMENT_KEYS = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
#: Hints on hidden extra layers: for one layer, or two.
_HIDDEN_LAYER_HINT = "{names} comes hidden: its eye in the layer list shows it."
_HIDDEN_LAYERS_HINT = "{names} come hidden: their eyes in the layer list show them."


def add_extra_layer(
    viewer: napari.viewer.Viewer, kind: str, target: ResultTarget, result: Restoration
) -> napari.layers.Image | None:
    """Add an extra layer, hidden at first; return None if the result does not have it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    kind : str
        Key of `EXTRA_LAYERS`. The uncertainty lies where the result lies, the residual where the
        input lies.
    target : ResultTarget
    result : Restoration
    """
    pixels = getattr(result, kind)
    if pixels is None:
        return None
    is_uncertainty = kind == "uncertainty"
    attributes = target.layer_attributes if is_uncertainty else target.input_layer_attributes
    pixels = _reduce_rgb(pixels) if attributes.get("rgb") else pixels
    limit = (
        float(np.percentile(np.abs(pixels), _CONTRAST_PERCENTILE))
        or float(np.abs(pixels).max())
        or 1.0
    )
    low, colours = (0.0, "magma") if is_uncertainty else (-limit, _DIVERGING_COLORMAP)
    with preserve_view(viewer):
        return viewer.add_image(
            pixels,
            name=" ".join(filter(None, [target.name, target.crop_preview_name, kind])),
            **{key: attributes[key] for key in _PLACEMENT_KEYS if key in attributes},
            colormap=colours,
            contrast_limits=(low, limit),
            blending="translucent_no_depth",
            visible=False,  # it would cover the result
            metadata=add_provenance(attributes, target.name, result, kind),
        )


def _reduce_rgb(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the signed root mean square over RGB, because napari shows no negative colours."""
    mean = pixels.mean(-1)
    return np.asarray(
        np.sqrt((pixels.astype(np.float64) ** 2).mean(-1)) * np.sign(mean), np.float32
    )


class ResultView:
    """The widgets to inspect the latest result of a dock.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    extra_layer_chooser : ExtraLayerChooser
    comparison : Comparison
    profile : ProfileSection
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._pending_result: PendingResult | None = None
        self._added_kinds: set[str] = set()
        self.extra_layer_chooser = ExtraLayerChooser()
        self.comparison = Comparison(viewer)
        self.profile = ProfileSection(viewer)
        self.extra_layer_chooser.changed.connect(self._add_checked_layers)
        self.comparison.ended.connect(self._release_pictures)

    def show(self, pending: PendingResult, layer: str) -> str:
        """Compare a new result with its input and add its extra layers; return a message."""
        result_layer, source_layer = self._viewer.layers[layer], pending.target.get_source_layer()
        if source_layer is not None and source_layer in self._viewer.layers:
            self.comparison.show_pair(source_layer, result_layer)
            self.profile.show_pair(source_layer, result_layer)
        self._pending_result, self._added_kinds = pending, set()
        return self._add_checked_layers()

    def shut_down(self) -> None:
        """Disconnect from the viewer and release the latest result."""
        self.comparison.disconnect_viewer()
        self.profile.shut_down()

    def _release_pictures(self) -> None:
        """Release the result, whose extra layers can then no longer be added."""
        self._pending_result = None

    def _add_checked_layers(self) -> str:
        """Add the checked extra layers that are missing; return a message."""
        answer, names, messages = self._pending_result, list[str](), list[str]()
        for kind in self.extra_layer_chooser.checked_layers if answer is not None else ():
            if answer is None or kind in self._added_kinds:
                continue
            self._added_kinds.add(kind)
            messages.append(self._add_extra_layer(kind, answer, names))
        hint = (_HIDDEN_LAYERS_HINT if len(names) > 1 else _HIDDEN_LAYER_HINT) if names else ""
        return " ".join(filter(None, [hint.format(names=" and ".join(names)), *messages]))

    def _add_extra_layer(self, kind: str, pending: PendingResult, names: list[str]) -> str:
        """Add an extra layer and append its name to `names`; return an error message or ""."""
        act = partial(add_extra_layer, self._viewer, kind, pending.target, pending.result)
        added: list[Image | None] = []
        trouble = call_reporting_errors(
            lambda: added.append(act()), f"The {kind} could not be added"
        )
        names += [f"'{extra_layer.name}'" for extra_layer in added if extra_layer]
        return trouble


class ExtraLayerChooser(QWidget):
    """Check boxes for the extra layers of a result, saved in napari's preferences."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Extra layers"))
        self.boxes = {name: QCheckBox(label) for name, (label, _) in EXTRA_LAYERS.items()}
        remembered = read_preferences("layers")
        for name, box in self.boxes.items():
            box.setToolTip(f"<qt>{EXTRA_LAYERS[name][1]}</qt>")
            box.setChecked(bool(getattr(remembered, name, False)))
            box.toggled.connect(self._on_toggle)
            layout.addWidget(box)
        layout.addStretch()

    @property
    def checked_layers(self) -> tuple[str, ...]:
        """Checked keys of `EXTRA_LAYERS`."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())

    def _on_toggle(self) -> None:
        remembered = read_preferences("layers")
        for name, box in self.boxes.items():
            if hasattr(remembered, name):
                setattr(remembered, name, box.isChecked())
        self.changed.emit()


class Comparison(QWidget):
    """A slider that fades between input and result, visible while both layers exist.

    The opacities are restored when the comparison ends.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    ended = Signal()

    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._pair: tuple[ref[Image], ref[Image]] | None = None
        self._initial_opacities: tuple[float, float] = (1.0, 1.0)
        self._applied_opacities: tuple[float, float] | None = None
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setPageStep(25)
        self.slider.setAccessibleName("Input or result")
        guard_wheel(self.slider)
        self.setToolTip(
            "<qt>Fade between the input and the result, to see what was changed. "
            "Only the layers' opacity is changed, no pixel.</qt>"
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("Input"))
        layout.addWidget(self.slider, 1)
        layout.addWidget(QLabel("Result"))
        self.setVisible(False)
        self.slider.valueChanged.connect(self._on_move)
        viewer.layers.events.removed.connect(self._on_removed)

    def show_pair(self, below: Image, above: Image) -> None:
        """Begin the comparison of an input with its result."""
        self.forget()
        self._pair = ref(below), ref(above)
        self._initial_opacities = below.opacity, above.opacity
        with QSignalBlocker(self.slider):
            self.slider.setValue(100)
        self.setVisible(True)

    def forget(self) -> None:
        """End the comparison and restore both opacities."""
        if self._applied_opacities is not None:
            for layer, initial_opacity, applied_opacity in zip(
                self._get_pair_layers(),
                self._initial_opacities,
                self._applied_opacities,
                strict=True,
            ):
                if layer is None or layer not in self._viewer.layers:
                    continue
                if layer.opacity == applied_opacity:  # else the user has changed it
                    layer.opacity = initial_opacity
        self._pair = self._applied_opacities = None
        self.setVisible(False)
        self.ended.emit()

    def disconnect_viewer(self) -> None:
        """Disconnect from the viewer, which outlives this widget."""
        self.forget()
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _get_pair_layers(self) -> tuple[Image | None, Image | None]:
        """Return the layers of input and result, each None if it no longer exists."""
        if self._pair is None:
            return None, None
        source_layer, result_layer = (layer_ref() for layer_ref in self._pair)
        return source_layer, result_layer

    def _on_removed(self, _: object = None) -> None:
        if self._pair is not None and not all(
            layer is not None and layer in self._viewer.layers for layer in self._get_pair_layers()
        ):
            self.forget()

    def _on_move(self, value: int) -> None:
        source_layer, result_layer = self._get_pair_layers()
        if source_layer is None or result_layer is None:
            return
        fraction = value / 100
        source_layer.visible = result_layer.visible = True
        self._hide_layers_between(source_layer, result_layer)
        source_opacity, result_opacity = (
            self._initial_opacities[0],
            self._initial_opacities[1] * fraction,
        )
        # such an upper layer does not cover the lower one
        if result_layer.blending in ("additive", "minimum"):
            source_opacity *= 1 - fraction
        # the user has swapped the layers
        elif self._get_layer_index(source_layer) > self._get_layer_index(result_layer):
            source_opacity, result_opacity = (
                source_opacity * (1 - fraction),
                self._initial_opacities[1],
            )
        elif result_layer.blending == "opaque":
            result_layer.blending = "translucent_no_depth"
        source_layer.opacity, result_layer.opacity = source_opacity, result_opacity
        self._applied_opacities = source_layer.opacity, result_layer.opacity

    def _hide_layers_between(self, below: Image, above: Image) -> None:
        """Hide other results of the same input between the two layers."""
        first, last = sorted((self._get_layer_index(below), self._get_layer_index(above)))
        for layer in self._viewer.layers[first + 1 : last]:
            if layer.visible and read_source_input(layer) is not None:
                layer.visible = read_source_input(layer) != read_source_input(above)

    def _get_layer_index(self, layer: Image) -> int:
        return int(self._viewer.layers.index(layer))
