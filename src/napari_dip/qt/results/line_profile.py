"""Line profiles: the intensities of input and result along a line that the user draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, ref

import numpy as np
import pyqtgraph as pg
from napari.layers import Image, Shapes
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_dip.qt.shell.dock_widget import (
    CollapsibleSection,
    Connections,
    make_button,
    make_single_shot_timer,
)
from napari_dip.qt.shell.layers import METADATA_KEY, get_full_resolution, preserve_view
from napari_dip.qt.shell.plot import (
    TRAINING_COLOUR,
    VALIDATION_COLOUR,
    disable_plot_interaction,
    recolour,
)
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.worker import call_reporting_errors

if TYPE_CHECKING:
    import napari.viewer
    import numpy.typing as npt

#: Largest number of samples along a line; more than the plot has pixels.
_MAX_PROFILE_SAMPLES = 600
_PROFILE_LEGEND = "&nbsp;&nbsp;&nbsp;".join(
    f'<span style="color:{colour}">━</span> {text}'
    for colour, text in ((TRAINING_COLOUR, "input"), (VALIDATION_COLOUR, "result"))
)
_PROFILE_HINT = (
    "Compares the input with the latest result along a line. Press Draw a line, then drag it."
)
_NO_RESULT = "There is no result to compare with yet."
_DRAW_LINE_HINT = "Draw a line across something that matters, by dragging in the picture."
#: Milliseconds from the last change to a redraw, because sliders and shapes change often.
_REDRAW_DELAY_MS = 50


class Profile(NamedTuple):
    """Intensities along a line.

    Attributes
    ----------
    distance : ndarray
        Distance from the beginning of the line, in world units.
    intensity : ndarray
        Intensity, for RGB the mean; NaN outside of the picture.
    """

    distance: npt.NDArray[np.float64]
    intensity: npt.NDArray[np.float64]


def find_drawn_line(viewer: napari.viewer.Viewer) -> npt.NDArray[np.float64] | None:
    """Return both ends of the last line or path in the topmost visible Shapes layer with one.

    Returns
    -------
    ndarray or None
        (2, 2): Y and X of the first and the last point in world coordinates; None without a line.
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
    max_count: int = _MAX_PROFILE_SAMPLES,
) -> Profile:
    """Return the intensities of an image along a line; only pixels around the line are read.

    Parameters
    ----------
    image : Image
    line : ndarray
        (2, 2), by `find_drawn_line`.
    point : tuple of float
        The position of the plane in world coordinates; the last two values are not used.
    max_count : int
        Largest number of samples.
    """
    data = get_full_resolution(image)
    centre = np.array(point[-image.ndim :], float)
    ends = np.array([image.world_to_data([*centre[:-2], *coordinate]) for coordinate in line])
    count = int(min(max_count, max(2, np.ceil(np.hypot(*(ends[1] - ends[0])[-2:])) + 1)))
    fractions = np.linspace(0, 1, count)
    distance = fractions * float(np.hypot(*(line[1] - line[0])))
    plane = tuple(
        int(np.clip(round(coordinate), 0, size - 1))
        for coordinate, size in zip(ends[0][:-2], data.shape, strict=False)
    )
    sides = np.array(data.shape[len(plane) : len(plane) + 2])
    low = np.clip(np.floor(ends[:, -2:].min(0)).astype(int) - 1, 0, sides)
    high = np.clip(np.ceil(ends[:, -2:].max(0)).astype(int) + 2, 0, sides)
    if (high <= low).any():
        return Profile(distance, np.full(count, np.nan))
    crop = np.asarray(data[(*plane, slice(low[0], high[0]), slice(low[1], high[1]))], float)
    crop = crop.mean(-1) if crop.ndim > 2 else crop
    positions = ends[0, -2:, None] + fractions * (ends[1] - ends[0])[-2:, None] - low[:, None]
    values = _interpolate_bilinear(crop, positions)
    outside = (positions < -0.5) | (positions > np.array(crop.shape)[:, None] - 0.5)
    return Profile(distance, np.where(outside.any(0), np.nan, values))


def _interpolate_bilinear(
    picture: npt.NDArray[np.float64], places: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate a picture at places (Y and X, points), which are clipped to the picture."""
    last_index = np.array(picture.shape)[:, None] - 1
    places = np.clip(places, 0, last_index)
    (y, x), weights = np.floor(places).astype(int), places - np.floor(places)
    y_next, x_next = np.minimum(y + 1, last_index[0]), np.minimum(x + 1, last_index[1])
    upper = picture[y, x] * (1 - weights[1]) + picture[y, x_next] * weights[1]
    lower = picture[y_next, x] * (1 - weights[1]) + picture[y_next, x_next] * weights[1]
    return np.asarray(upper * (1 - weights[0]) + lower * weights[0])


class ProfilePlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """A plot of input and result along a line."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.input_curve = self.plot(pen=pg.mkPen(TRAINING_COLOUR, width=1), connect="finite")
        self.result_curve = self.plot(pen=pg.mkPen(VALIDATION_COLOUR, width=2), connect="finite")
        self._unit = "pixel"
        self._colours = ("w", "k")
        disable_plot_interaction(self)
        self.setVisible(False)
        self.setAccessibleName("Line profile")

    def show_profiles(self, before: Profile, after: Profile, unit: str) -> None:
        """Plot the profiles of input and result."""
        self.input_curve.setData(before.distance, before.intensity)
        self.result_curve.setData(after.distance, after.intensity)
        if unit != self._unit:
            self._unit = unit
            self.recolour(*self._colours)
        self.setVisible(True)

    def recolour(self, text: str, background: str) -> None:
        """Apply the colours of napari's theme."""
        self._colours = text, background
        label = {"bottom": f"Along the line ({self._unit})", "left": "Intensity"}
        recolour(self, text, background, label, _PROFILE_LEGEND)


class ProfileSection(CollapsibleSection):
    """The section of the dock with the line profile and the button to draw the line.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        page = QWidget()
        super().__init__("Line profile", page)
        self._viewer = viewer
        self._pair: tuple[ref[Image], ref[Image]] | None = None
        self._watched_layers: WeakSet[Any] = WeakSet()
        self.button = make_button("Draw a line", "Add a Shapes layer, ready for a line to be drawn")
        self.message_label = make_message_label()
        self.message_label.setText(_PROFILE_HINT)
        self.plot = ProfilePlot()
        self._redraw_timer = make_single_shot_timer(self, _REDRAW_DELAY_MS)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.button, self.message_label, self.plot):
            layout.addWidget(widget)
        layout.addStretch()
        self.button.clicked.connect(self.draw)
        self.toggled.connect(self._schedule_redraw)
        self._redraw_timer.timeout.connect(self._update_plot)
        events = viewer.layers.events
        self._connections = Connections()
        self._connections.connect(self._on_layers, events.inserted, events.removed)
        self._connections.connect(self._schedule_redraw, viewer.dims.events.current_step)
        self._on_layers()

    def show_pair(self, below: Image, above: Image) -> None:
        """Set the input and the result whose profiles are plotted."""
        self._pair = ref(below), ref(above)
        self._schedule_redraw()

    def draw(self) -> None:
        """Add a Shapes layer in which the user draws the line."""
        with preserve_view(self._viewer):
            layer = self._viewer.add_shapes(
                ndim=2,
                name="line profile",
                edge_color="orange",
                edge_width=self._choose_line_width(),
                metadata={METADATA_KEY: {"preview": True}},  # never an input of a run
            )
        self._viewer.layers.selection.active = layer
        layer.mode = "add_line"
        self._show_message(_DRAW_LINE_HINT)

    def shut_down(self) -> None:
        """Disconnect from the viewer."""
        self._redraw_timer.stop()
        self._connections.end()
        for layer in list(self._watched_layers):
            layer.events.data.disconnect(self._schedule_redraw)
        self._watched_layers.clear()

    def _schedule_redraw(self, _: object = None) -> None:
        if self.isExpanded():
            self._redraw_timer.start()

    def _update_plot(self) -> None:
        source_layer, result_layer = (
            (layer_ref() for layer_ref in self._pair) if self._pair else (None, None)
        )
        layers, line = self._viewer.layers, find_drawn_line(self._viewer)
        if (
            source_layer not in layers
            or result_layer not in layers
            or source_layer is None
            or result_layer is None
        ):
            self._show_message(_NO_RESULT)
        elif line is None:
            self._show_message(_PROFILE_HINT)
        else:
            point = self._viewer.dims.point
            unit = str(source_layer.units[-1]) if source_layer.units is not None else "pixel"
            trouble = call_reporting_errors(
                lambda: self.plot.show_profiles(
                    measure_line_profile(source_layer, line, point),
                    measure_line_profile(result_layer, line, point),
                    unit,
                ),
                "The profile cannot be shown",
            )
            self._show_message(trouble or f"'{source_layer.name}' and '{result_layer.name}'")
            return
        self.plot.setVisible(False)
        self.fit_page_height()

    def _show_message(self, text: str) -> None:
        self.message_label.setText(text)
        self.fit_page_height()

    def _choose_line_width(self) -> float:
        """Return a line width that is visible at any scale: a 200th of the image width."""
        source_layer = self._pair[0]() if self._pair else None
        layer = source_layer or next(
            (layer for layer in self._viewer.layers if isinstance(layer, Image)), None
        )
        return 1.0 if layer is None else float(np.ptp(layer.extent.world[:, -1])) / 200 or 1.0

    def _on_layers(self, _: object = None) -> None:
        for layer in self._viewer.layers:
            if isinstance(layer, Shapes) and layer not in self._watched_layers:
                self._watched_layers.add(layer)
                layer.events.data.connect(self._schedule_redraw)
        self._schedule_redraw()
