"""Looking at a result: faded over its input, and with its uncertainty and residual beside it.

What can come as layers beside a result: how sure it is, and what was taken out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.utils import Colormap
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QSlider, QWidget

from napari_dip.qt.results.line_profile import ProfileSection
from napari_dip.qt.shell.layers import add_provenance, preserve_view, read_source_input
from napari_dip.qt.shell.preferences import read_preferences
from napari_dip.qt.shell.run_completion import attempt
from napari_dip.qt.shell.settings_form import WheelGuard

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari.layers
    import napari.viewer
    import numpy.typing as npt
    from napari.layers import Image

    from napari_dip.pipeline.events import Restoration
    from napari_dip.qt.shell.run_completion import PendingResult

#: Keys, as attributes of a `Restoration`, and how users know them.
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
#: Percentile of the absolute values that the contrast limits take in, so that one odd pixel does
#: not make everything else grey.
_CONTRAST_PERCENTILE = 99.5
#: Blue below zero, orange above, as the curve's colours; of one lightness, so that neither stands
#: out.
_DIVERGING_COLORMAP = Colormap(
    [[0.0, 0.45, 0.85], [0.5, 0.5, 0.5], [0.9, 0.55, 0.0]], name="blue, grey at zero, orange"
)


def add_extra_layer(
    viewer: napari.viewer.Viewer,
    kind: str,
    name: str,
    look: Mapping[str, Any],
    result: Restoration,
    trial: str = "",
) -> napari.layers.Image | None:
    """Add one of `EXTRA_LAYERS` above the result, hidden at first; None if the result has none.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    kind : str
        Key of `EXTRA_LAYERS`.
    name : str
        Of the input layer.
    look : mapping
        Place and metadata: of the result for the uncertainty, of the input for the residual.
    result : Restoration
    trial : str
        What was tried, if the result is not of the whole; goes into the layer's name.
    """
    pixels = getattr(result, kind)
    if pixels is None:
        return None
    pixels = _reduce_rgb(pixels) if look.get("rgb") else pixels
    high = (
        float(np.percentile(np.abs(pixels), _CONTRAST_PERCENTILE))
        or float(np.abs(pixels).max())
        or 1.0
    )
    low, colours = (0.0, "magma") if kind == "uncertainty" else (-high, _DIVERGING_COLORMAP)
    with preserve_view(viewer):
        return viewer.add_image(
            pixels,
            name=" ".join(filter(None, [name, trial, kind])),
            **{key: look[key] for key in _PLACEMENT_KEYS if key in look},
            colormap=colours,
            contrast_limits=(low, high),
            blending="translucent_no_depth",
            visible=False,  # it would cover the result
            metadata=add_provenance(look, name, result, kind),
        )


_PLACEMENT_KEYS = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")


def _reduce_rgb(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bring red, green and blue to one figure, with its sign: napari shows no negative colours."""
    mean = pixels.mean(-1)
    return np.asarray(
        np.sqrt((pixels.astype(np.float64) ** 2).mean(-1)) * np.sign(mean), np.float32
    )


#: Said of what comes beside a result: one layer, or both.
_HIDDEN_LAYER_HINT = "{names} comes hidden: its eye in the layer list shows it."
_HIDDEN_LAYERS_HINT = "{names} come hidden: their eyes in the layer list show them."


class ResultView:
    """What the dock offers for looking at its latest result.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    also : ExtraLayerChooser
    comparison : Comparison
    profile : ProfileSection
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._answer: PendingResult | None = None
        self._added: set[str] = set()
        self.also = ExtraLayerChooser()
        self.comparison = Comparison(viewer)
        self.profile = ProfileSection(viewer)
        self.also.changed.connect(self._add)
        self.comparison.ended.connect(self._drop)

    def show(self, answer: PendingResult, layer: str) -> str:
        """Take in a result that has just become a layer; returns what to tell the user."""
        above, below = self._viewer.layers[layer], answer.source()
        if below is not None and below in self._viewer.layers:
            self.comparison.show_pair(below, above)
            self.profile.show_pair(below, above)
        self._answer, self._added = answer, set()
        return self._add()

    def shut_down(self) -> None:
        """Let go of the viewer and of the latest result."""
        self.comparison.disconnect_viewer()
        self.profile.shut_down()

    def _drop(self) -> None:
        """Free the pictures that were kept in case somebody ticks a box."""
        self._answer = None

    def _add(self) -> str:
        """Add what is ticked and not there yet."""
        answer, names, said = self._answer, list[str](), list[str]()
        for kind in self.also.wanted if answer is not None else ():
            if answer is None or kind in self._added:
                continue
            self._added.add(kind)
            said.append(self._add_one(kind, answer, names))
        hidden = (_HIDDEN_LAYERS_HINT if len(names) > 1 else _HIDDEN_LAYER_HINT) if names else ""
        return " ".join(filter(None, [hidden.format(names=" and ".join(names)), *said]))

    def _add_one(self, kind: str, answer: PendingResult, names: list[str]) -> str:
        """Add a layer, and its name to those of the others; returns what went wrong."""
        look = answer.look if kind == "uncertainty" else answer.input_look
        displayed = answer.name, look, answer.result, answer.trial
        act = partial(add_extra_layer, self._viewer, kind, *displayed)
        added: list[Image | None] = []
        trouble = attempt(lambda: added.append(act()), f"The {kind} could not be added")
        names += [f"'{item.name}'" for item in added if item]
        return trouble


class ExtraLayerChooser(QWidget):
    """Check boxes for what comes as layers beside the result; remembered in napari's settings."""

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
    def wanted(self) -> tuple[str, ...]:
        """Keys of `EXTRA_LAYERS` that are ticked."""
        return tuple(name for name, box in self.boxes.items() if box.isChecked())

    def _on_toggle(self) -> None:
        remembered = read_preferences("layers")
        for name, box in self.boxes.items():
            if hasattr(remembered, name):
                setattr(remembered, name, box.isChecked())
        self.changed.emit()


class Comparison(QWidget):
    """A slider that fades the result over its input; in sight while both are in the viewer.

    Only opacities change, and they come back when the two are no longer compared.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    ended = Signal()

    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._pair: tuple[ref[Image], ref[Image]] | None = None
        self._before: tuple[float, float] = (1.0, 1.0)
        self._set: tuple[float, float] | None = None
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setPageStep(25)
        self.slider.setAccessibleName("Input or result")
        self.slider.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._wheel = WheelGuard()
        self.slider.installEventFilter(self._wheel)
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
        """Compare an input with its result from now on."""
        self.forget()
        self._pair = ref(below), ref(above)
        self._before = below.opacity, above.opacity
        with QSignalBlocker(self.slider):
            self.slider.setValue(100)
        self.setVisible(True)

    def forget(self) -> None:
        """Compare nothing any more, and leave both as opaque as they were."""
        if self._set is not None:
            for layer, before, ours in zip(self._layers(), self._before, self._set, strict=True):
                if layer is None or layer not in self._viewer.layers:
                    continue
                if layer.opacity == ours:  # else it is the user's own
                    layer.opacity = before
        self._pair = self._set = None
        self.setVisible(False)
        self.ended.emit()

    def disconnect_viewer(self) -> None:
        """Stop listening; the viewer lives longer than this widget."""
        self.forget()
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _layers(self) -> tuple[Image | None, Image | None]:
        """Input and result, where they are still there."""
        if self._pair is None:
            return None, None
        below, above = (item() for item in self._pair)
        return below, above

    def _on_removed(self, _: object = None) -> None:
        if self._pair is not None and not all(
            layer is not None and layer in self._viewer.layers for layer in self._layers()
        ):
            self.forget()

    def _on_move(self, value: int) -> None:
        below, above = self._layers()
        if below is None or above is None:
            return
        share = value / 100
        below.visible = above.visible = True
        self._clear_between(below, above)
        kept, faded = self._before[0], self._before[1] * share
        if above.blending in ("additive", "minimum"):  # nothing covers anything
            kept *= 1 - share
        elif self._index(below) > self._index(above):  # the user has turned them round
            kept, faded = kept * (1 - share), self._before[1]
        elif above.blending == "opaque":
            above.blending = "translucent_no_depth"
        below.opacity, above.opacity = kept, faded
        self._set = below.opacity, above.opacity

    def _clear_between(self, below: Image, above: Image) -> None:
        """Hide earlier results of the same input that lie between the two and would be seen."""
        first, last = sorted((self._index(below), self._index(above)))
        for layer in self._viewer.layers[first + 1 : last]:
            if layer.visible and read_source_input(layer) is not None:
                layer.visible = read_source_input(layer) != read_source_input(above)

    def _index(self, layer: Image) -> int:
        return int(self._viewer.layers.index(layer))
