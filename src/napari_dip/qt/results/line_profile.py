"""The fold of the dock that shows a line profile, and lets the user draw the line.

Intensities along a line that was drawn across the image: of the input, and of the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, ref

import numpy as np
import pyqtgraph as pg
from napari.layers import Image, Shapes
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_dip.qt.shell.dock_widget import CollapsibleSection, make_single_shot_timer
from napari_dip.qt.shell.layers import METADATA_KEY, get_full_resolution, preserve_view
from napari_dip.qt.shell.plot import (
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    disable_plot_interaction,
    recolour,
)
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.run_completion import attempt

if TYPE_CHECKING:
    import napari.viewer
    import numpy.typing as npt

#: Samples along a line, at most: more than the plot has pixels.
_MAX_PROFILE_SAMPLES = 600
_PROFILE_LEGEND = "&nbsp;&nbsp;&nbsp;".join(
    f'<span style="color:{colour}">━</span> {text}'
    for colour, text in ((TRAINING_COLOUR, "input"), (VALIDATION_COLOUR, "result"))
)


class Profile(NamedTuple):
    """Intensities along a line.

    Attributes
    ----------
    distance : ndarray
        From the line's beginning, in the unit of the world.
    intensity : ndarray
        NaN outside of the picture; of colours their mean.
    """

    distance: npt.NDArray[np.float64]
    intensity: npt.NDArray[np.float64]


def find_drawn_line(viewer: napari.viewer.Viewer) -> npt.NDArray[np.float64] | None:
    """Give both ends of the last line or path drawn in the topmost Shapes layer that has one.

    Returns
    -------
    ndarray or None
        (2, 2): Y and X of its first and last point in world coordinates.
    """
    for layer in reversed(viewer.layers):
        if not isinstance(layer, Shapes) or not layer.visible:
            continue
        kinds = layer.shape_type
        for number in reversed(range(len(layer.data))):
            if kinds[number] in ("line", "path"):
                ends = layer.data[number][[0, -1]]
                return np.array([layer.data_to_world(end)[-2:] for end in ends], float)
    return None


def measure_line_profile(
    image: Image,
    line: npt.NDArray[np.float64],
    point: tuple[float, ...],
    most: int = _MAX_PROFILE_SAMPLES,
) -> Profile:
    """Read an image along a line; only the part of the plane around it is read.

    Parameters
    ----------
    image : Image
    line : ndarray
        (2, 2), by `find_drawn_line`.
    point : tuple of float
        Which plane is meant, in world coordinates; its last two are not used.
    most : int
        Most samples.
    """
    data = get_full_resolution(image)
    whole = np.array(point[-image.ndim :], float)
    ends = np.array([image.world_to_data([*whole[:-2], *item]) for item in line])
    count = int(min(most, max(2, np.ceil(np.hypot(*(ends[1] - ends[0])[-2:])) + 1)))
    share = np.linspace(0, 1, count)
    distance = share * float(np.hypot(*(line[1] - line[0])))
    plane = tuple(
        int(np.clip(round(item), 0, size - 1))
        for item, size in zip(ends[0][:-2], data.shape, strict=False)
    )
    sides = np.array(data.shape[len(plane) : len(plane) + 2])
    low = np.clip(np.floor(ends[:, -2:].min(0)).astype(int) - 1, 0, sides)
    high = np.clip(np.ceil(ends[:, -2:].max(0)).astype(int) + 2, 0, sides)
    if (high <= low).any():
        return Profile(distance, np.full(count, np.nan))
    around = np.asarray(data[(*plane, slice(low[0], high[0]), slice(low[1], high[1]))], float)
    around = around.mean(-1) if around.ndim > 2 else around
    places = ends[0, -2:, None] + share * (ends[1] - ends[0])[-2:, None] - low[:, None]
    values = _interpolate_bilinear(around, places)
    outside = (places < -0.5) | (places > np.array(around.shape)[:, None] - 0.5)
    return Profile(distance, np.where(outside.any(0), np.nan, values))


def _interpolate_bilinear(
    picture: npt.NDArray[np.float64], places: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Read a picture at places (Y and X, points) between its pixels; beyond its rim, its rim."""
    last = np.array(picture.shape)[:, None] - 1
    places = np.clip(places, 0, last)
    (y, x), share = np.floor(places).astype(int), places - np.floor(places)
    y_next, x_next = np.minimum(y + 1, last[0]), np.minimum(x + 1, last[1])
    above = picture[y, x] * (1 - share[1]) + picture[y, x_next] * share[1]
    below = picture[y_next, x] * (1 - share[1]) + picture[y_next, x_next] * share[1]
    return np.asarray(above * (1 - share[0]) + below * share[0])


class ProfilePlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """Input and result along one line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.before = self.plot(pen=pg.mkPen(TRAINING_COLOUR, width=1), connect="finite")
        self.after = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2), connect="finite")
        self._unit = "pixel"
        self._colours = ("w", "k")
        disable_plot_interaction(self)
        self.setVisible(False)
        self.setAccessibleName("Line profile")

    def show_profiles(self, before: Profile, after: Profile, unit: str) -> None:
        """Draw both."""
        self.before.setData(before.distance, before.intensity)
        self.after.setData(after.distance, after.intensity)
        if unit != self._unit:
            self._unit = unit
            self.recolour(*self._colours)
        self.setVisible(True)

    def recolour(self, text: str, background: str) -> None:
        """Follow napari's theme."""
        self._colours = text, background
        label = {"bottom": f"Along the line ({self._unit})", "left": "Intensity"}
        recolour(self, text, background, label, _PROFILE_LEGEND)


_PROFILE_HINT = (
    "Compares the input with the latest result along a line. Press Draw a line, then drag it."
)
_NO_RESULT = "There is no result to compare with yet."
_DRAW_LINE_HINT = "Draw a line across something that matters, by dragging in the picture."
#: Milliseconds after the last change before the plot is drawn: sliders and shapes move often.
_REDRAW_DELAY_MS = 50


class ProfileSection(CollapsibleSection):
    """Input and result along the line that was drawn last.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        page = QWidget()
        super().__init__("Line profile", page)
        self._viewer = viewer
        self._pair: tuple[ref[Image], ref[Image]] | None = None
        self._watched: WeakSet[Any] = WeakSet()
        self.button = QPushButton("Draw a line")
        self.button.setToolTip("<qt>Add a Shapes layer, ready for a line to be drawn</qt>")
        self.message_label = make_message_label()
        self.message_label.setText(_PROFILE_HINT)
        self.plot = ProfilePlot()
        self._soon = make_single_shot_timer(self, _REDRAW_DELAY_MS)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.button, self.message_label, self.plot):
            layout.addWidget(widget)
        layout.addStretch()
        self.button.clicked.connect(self.draw)
        self.toggled.connect(self._later)
        self._soon.timeout.connect(self._show)
        self._connect(True)
        self._on_layers()

    def show_pair(self, below: Image, above: Image) -> None:
        """Compare an input with its result from now on."""
        self._pair = ref(below), ref(above)
        self._later()

    def draw(self) -> None:
        """Let the user draw a line."""
        with preserve_view(self._viewer):
            layer = self._viewer.add_shapes(
                ndim=2,
                name="line profile",
                edge_color="orange",
                edge_width=self._width(),
                metadata={METADATA_KEY: {"preview": True}},  # no input of any run
            )
        self._viewer.layers.selection.active = layer
        layer.mode = "add_line"
        self._say(_DRAW_LINE_HINT)

    def shut_down(self) -> None:
        """Stop listening to the viewer."""
        self._soon.stop()
        self._connect(False)
        for layer in list(self._watched):
            layer.events.data.disconnect(self._later)
        self._watched.clear()

    def _later(self, _: object = None) -> None:
        if self.isExpanded():
            self._soon.start()

    def _show(self) -> None:
        below, above = (item() for item in self._pair) if self._pair else (None, None)
        layers, line = self._viewer.layers, find_drawn_line(self._viewer)
        if below not in layers or above not in layers or below is None or above is None:
            self._say(_NO_RESULT)
        elif line is None:
            self._say(_PROFILE_HINT)
        else:
            point = self._viewer.dims.point
            unit = str(below.units[-1]) if below.units is not None else "pixel"
            trouble = attempt(
                lambda: self.plot.show_profiles(
                    measure_line_profile(below, line, point),
                    measure_line_profile(above, line, point),
                    unit,
                ),
                "The profile cannot be shown",
            )
            self._say(trouble or f"'{below.name}' and '{above.name}'")
            return
        self.plot.setVisible(False)
        self.grown()

    def _say(self, text: str) -> None:
        self.message_label.setText(text)
        self.grown()

    def _width(self) -> float:
        """Width of a line that can be seen at any scale: a 200th of what is in view."""
        pair = self._pair[0]() if self._pair else None
        layer = pair or next(
            (layer for layer in self._viewer.layers if isinstance(layer, Image)), None
        )
        return 1.0 if layer is None else float(np.ptp(layer.extent.world[:, -1])) / 200 or 1.0

    def _connect(self, on: bool) -> None:
        layers, dims = self._viewer.layers.events, self._viewer.dims.events
        for signal in (layers.inserted, layers.removed):
            (signal.connect if on else signal.disconnect)(self._on_layers)
        (dims.current_step.connect if on else dims.current_step.disconnect)(self._later)

    def _on_layers(self, _: object = None) -> None:
        for layer in self._viewer.layers:
            if isinstance(layer, Shapes) and layer not in self._watched:
                self._watched.add(layer)
                layer.events.data.connect(self._later)
        self._later()
