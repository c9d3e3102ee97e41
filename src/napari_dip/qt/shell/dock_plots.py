"""The plots of the docks, and the section with intensities along a line or over time."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet, ref

import numpy as np
import pyqtgraph as pg
from napari.layers import Image, Shapes
from qtpy.QtWidgets import QLabel, QPushButton, QSizePolicy, QWidget

from napari_dip.errors import RefusedError
from napari_dip.io.header import get_unit_symbol
from napari_dip.pipeline.assess.card import format_traces
from napari_dip.pipeline.assess.metrics import NoPeakWidth, measure_peak_width
from napari_dip.pipeline.assess.quality_checks import list_trace_notes
from napari_dip.pipeline.assess.report_figures import plot_profiles
from napari_dip.pipeline.assess.traces import (
    MIN_TRACE_FRAMES,
    average_regions,
    measure_region_traces,
)
from napari_dip.pipeline.store.result_files import format_csv
from napari_dip.qt.shell.background_call import call_for_message, try_call
from napari_dip.qt.shell.dock_widget import (
    DOCK_LABELS,
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    fill_grid,
    fit_view,
    load_button,
    load_tooltip,
    make_single_shot_timer,
    preserve_view,
)
from napari_dip.qt.shell.layer_headers import (
    METADATA_KEY,
    convert_units,
    get_full_resolution,
    locate_points,
    rasterise_shapes,
    read_layer_provenance,
)
from napari_dip.qt.shell.run_bar import make_message_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.viewer import Viewer

    from napari_dip.io import FloatArray
    from napari_dip.pipeline.assess.traces import RegionTraces

_PROFILE_HINT = DOCK_TEXTS["profile-hint"]
_NO_RESULT = "There is no result to compare with yet."
_WIDTH_REASONS = DOCK_LABELS["peak-width-reasons"]
_WEAK_CHANGE = "apart from a steady trend, it changes by less than twice its noise"
_DRAW_REGIONS_HINT = "Draw regions, such as cells, by dragging in the image."
_DRAW_LINE_HINT = "Draw a line across something that matters, by dragging in the image."
#: Milliseconds from the last change to a redraw, because sliders and shapes change often.
_REDRAW_DELAY_MS = 50
#: Blue of the Okabe-Ito palette, distinct from its orange in every kind of colour vision.
TRAINING_COLOUR = "#56B4E9"
#: Orange of the Okabe-Ito palette.
VALIDATION_COLOUR = "#E69F00"
#: Height of a plot in pixels; in a window of 1280 x 720 it stays visible below a long message.
_HEIGHT = 164
#: Margin below a plot in pixels: pyqtgraph lets the label of the axis reach so far below the axis.
_BOTTOM_MARGIN = 5
_AXIS_SIDES = "bottom", "left"
#: Height of the legend in pixels; pyqtgraph's default is 30, the topmost tick label needs 7.
_LEGEND_HEIGHT = 20
#: Height of each further line of the legend, in pixels.
_LEGEND_LINE = 16
#: Largest number of samples along a line; more than the plot has pixels.
_MAX_PROFILE_SAMPLES = 600


class DockPlot(pg.PlotWidget):  # type: ignore[misc]  # pyqtgraph ships no types
    """A plot in a dock: of fixed height, without interaction, in the colours of napari's theme.

    Parameters
    ----------
    name : str
        Name for screen readers.
    labels : (str, str)
        Labels of the horizontal and the vertical axis.
    legend : str
        Rich text above the plot, where it hides no curve; see `make_legend`.
    tooltip : str
        The tooltip.
    """

    def __init__(self, name: str, labels: tuple[str, str], legend: str, tooltip: str = "") -> None:
        super().__init__()
        self.labels: tuple[str, str] = labels
        self.legend: str = legend
        self._text_colour = "#ffffff"
        self.setAccessibleName(name)
        self.setToolTip(tooltip)
        plot_item = self.getPlotItem()
        plot_item.setMenuEnabled(False)
        plot_item.hideButtons()
        for side in _AXIS_SIDES:
            # Before the axis has a label: afterwards, this call would fix a factor for the range of
            # the moment, such as 1000 for that of a line whose drawing just began.
            plot_item.getAxis(side).enableAutoSIPrefix(False)
        self.setMouseEnabled(x=False, y=False)  # so that the wheel scrolls the dock
        plot_item.layout.setContentsMargins(2, 0, 8, _BOTTOM_MARGIN)
        plot_item.titleLabel.updateMin = lambda: None  # a long legend would widen the plot
        plot_item.titleLabel.setMinimumWidth(0)
        self.setFixedHeight(_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setVisible(False)  # until it has points

    def recolour(self, text: str, background: str) -> None:
        """Apply the colours of napari's theme."""
        self._text_colour = text
        self.setBackground(background)
        self.update_labels()

    def update_labels(self) -> None:
        """Apply colours, axis labels and legend."""
        text, plot_item = self._text_colour, self.getPlotItem()
        for side, label in zip(_AXIS_SIDES, self.labels, strict=True):
            axis = plot_item.getAxis(side)
            axis.setPen(text)
            axis.setTextPen(text)
            axis.setLabel(label, color=text)
        plot_item.setTitle(self.legend, color=text, size="9pt")
        extra_height = _LEGEND_LINE * self.legend.count("<br>")
        plot_item.titleLabel.setMaximumHeight(_LEGEND_HEIGHT + extra_height)
        plot_item.layout.setRowFixedHeight(0, _LEGEND_HEIGHT + extra_height)
        self.setFixedHeight(_HEIGHT + extra_height)  # the plot area keeps its height


def make_legend(*entries: tuple[str, str, str]) -> str:
    """Return a legend as rich text, of entries (colour, sign, text)."""
    return "&nbsp;&nbsp;&nbsp;".join(
        f'<span style="color:{colour}">{sign}</span> {text}' for colour, sign, text in entries
    )


class Profile(NamedTuple):
    """Intensities along a line.

    Attributes
    ----------
    distance : ndarray
        Distance from the beginning of the line, in world units.
    intensity : ndarray
        Intensity, for RGB the mean; NaN outside of the image.
    """

    distance: FloatArray
    intensity: FloatArray


class LineProfiles(NamedTuple):
    """Profiles of an input and its result along one line, to be shown and saved.

    Attributes
    ----------
    names : (str, str)
        Names of the two layers.
    profiles : (Profile, Profile)
    unit : str
        Unit of the distances.
    """

    names: tuple[str, str]
    profiles: tuple[Profile, Profile]
    unit: str

    @property
    def axis_label(self) -> str:
        """Label of the horizontal axis in the dock."""
        return f"Along the line ({self.unit})"

    def measure_widths(self) -> list[str | NoPeakWidth]:
        """Return the full width at half maximum of the peak in each profile, as text."""
        (distance, measured), result = self.profiles
        difference = measured - np.interp(distance, *result)
        noise = float(np.std(difference[np.isfinite(difference)])) if len(difference) else 0.0
        widths = measure_peak_width(distance, measured), measure_peak_width(*result, noise)
        return [
            width
            if isinstance(width, NoPeakWidth)
            else f"{width[0]:.3g} ± {width[1]:.2g} {self.unit}"
            for width in widths
        ]

    def describe(self) -> str:
        """Return the width of the peak in both profiles, or why there is none."""
        widths = self.measure_widths()
        texts = [
            f": {_WIDTH_REASONS[width.value]}" if isinstance(width, NoPeakWidth) else f" {width}"
            for width in widths
        ]
        if widths[0] == widths[1] and isinstance(widths[0], NoPeakWidth):
            return f"Width of a peak (FWHM){texts[0]}."
        return f"Width of the peak (FWHM): input{texts[0]}; result{texts[1]}."

    def render(self, kind: str) -> bytes:
        """Return the content of a file: "csv", or a figure as "svg" or "pdf"."""
        (_, intensity), (distance, result) = self.profiles
        if kind != "csv":
            labels = (
                name if isinstance(width, NoPeakWidth) else f"{name}, FWHM: {width}"
                for name, width in zip(self.names, self.measure_widths(), strict=True)
            )
            curves = [(label, *pair) for label, pair in zip(labels, self.profiles, strict=True)]
            return plot_profiles(curves, f"Distance ({self.unit})", kind)
        # a finer result has more samples
        intensity = np.interp(distance, self.profiles[0].distance, intensity)
        headers = (f"Distance ({self.unit})", *self.names)
        return format_csv(headers, zip(distance, intensity, result, strict=True)).encode("utf-8")


class ShapeTraces(NamedTuple):
    """Traces of shapes in a movie and in its result, to be shown and saved.

    Attributes
    ----------
    names : (str, str)
        Names of the two layers.
    traces : RegionTraces
    region : int
        Index of the region that is plotted.
    """

    names: tuple[str, str]
    traces: RegionTraces
    region: int
    axis_label: str = "Frame"

    @property
    def profiles(self) -> tuple[Profile, Profile]:
        """Frames and means of the region that is plotted, in the input and in the result."""
        traces, frames = self.traces, np.arange(len(self.traces.measured), dtype=float)
        before, after = (means[:, self.region] for means in (traces.measured, traces.restored))
        return Profile(frames, before), Profile(frames, after)

    def describe(self) -> str:
        """Return the figures of the plotted region and of all, and what they mean, as lines."""
        traces, (frames, count) = self.traces, self.traces.measured.shape
        if frames < MIN_TRACE_FRAMES:
            return DOCK_TEXTS["profile-few-frames"].format(count=frames, least=MIN_TRACE_FRAMES)
        rows = {f"Region {self.region + 1}": traces.comparisons[self.region]}
        rows |= {f"All {count} regions": traces.pooled} if count > 1 else {}
        lines = [
            f"{name}: {format_traces(asdict(row)) if row else _WEAK_CHANGE}."
            for name, row in rows.items()
        ]
        return "\n".join((*lines, *map(str, list_trace_notes(traces.pooled))))

    def render(self, kind: str) -> bytes:
        """Return the content of a file: "csv" of all regions, or a figure as "svg" or "pdf"."""
        if kind == "csv":
            return self.traces.to_csv().encode("utf-8")
        curves = [(name, *pair) for name, pair in zip(self.names, self.profiles, strict=True)]
        return plot_profiles(curves, self.axis_label, kind)


def find_drawn_regions(viewer: Viewer) -> Shapes | None:
    """Return the topmost visible Shapes layer with shapes; None if the last one is a line."""
    layers = (layer for layer in reversed(viewer.layers) if isinstance(layer, Shapes))
    layer = next((layer for layer in layers if layer.visible and len(layer.data)), None)
    return None if layer is None or layer.shape_type[-1] in ("line", "path") else layer


def is_movie_result(layer: Image) -> bool:
    """Return whether a layer is a result with a time axis."""
    return "T" in read_layer_provenance(layer).get("report", {}).get("axes", "")


def measure_shape_traces(shapes: Shapes, input_layer: Image, result_layer: Image) -> ShapeTraces:
    """Return the traces of shapes in a movie and in its result; only pixels around are read."""
    report = read_layer_provenance(result_layer)["report"]
    averages = []
    for layer in (input_layer, result_layer):
        masks = rasterise_shapes(shapes, layer)
        if not masks.any():
            raise RefusedError("drawing-outside", name=layer.name)
        spans = {}
        for axis, other in (("Y", 2), ("X", 1)):
            inside = np.flatnonzero(masks.any((0, other)))
            spans[axis] = slice(inside[0], inside[-1] + 1)
        window = tuple(spans.get(axis, slice(None)) for axis in report["axes"])
        pixels = np.asarray(get_full_resolution(layer)[window])
        averages.append(average_regions(pixels, report["axes"], masks[:, spans["Y"], spans["X"]]))
    (measured, counts), (restored, _) = averages
    traces = measure_region_traces(measured, restored, counts, report["noise"])
    selected = max(shapes.selected_data, default=len(shapes.data) - 1)
    region = min(selected, traces.measured.shape[1] - 1)
    return ShapeTraces((input_layer.name, result_layer.name), traces, region)


def find_drawn_line(viewer: Viewer) -> FloatArray | None:
    """Return both ends of the last line or path in the topmost visible Shapes layer with one.

    Returns
    -------
    ndarray or None
        (2, 2): Y and X of the first and the last point in the viewer's world coordinates; None
        without a line.
    """
    for layer in reversed(viewer.layers):
        if not isinstance(layer, Shapes) or not layer.visible:
            continue
        kinds = layer.shape_type
        for number in reversed(range(len(layer.data))):
            if kinds[number] in ("line", "path"):
                ends = layer.data[number][[0, -1]]
                world = [layer.data_to_world(end)[-2:] for end in ends]
                return convert_units(world, layer.units, viewer.dims.units)
    return None


def find_plane_index(
    image: Image, point: Sequence[float] | FloatArray, units: Sequence[Any] | None = None
) -> tuple[int, ...]:
    """Return the index of the plane at a position in world coordinates: all axes but Y and X."""
    position = locate_points([point], units, image)[0, :-2]
    sizes = get_full_resolution(image).shape
    return tuple(int(np.clip(round(c), 0, n - 1)) for c, n in zip(position, sizes, strict=False))


def measure_line_profile(
    image: Image,
    line: FloatArray,
    point: Sequence[float] | FloatArray,
    units: Sequence[Any] | None = None,
) -> Profile:
    """Return the intensities of an image along a line; only pixels around the line are read.

    Parameters
    ----------
    image : Image
    line : ndarray
        (2, 2), by `find_drawn_line`.
    point : sequence of float or ndarray
        The position of the plane in world coordinates; the last two values are not used.
    units : sequence, optional
        Those of line and point; by default those of the image.
    """
    from skimage.transform import warp  # takes a tenth of a second

    data = get_full_resolution(image)
    centre = np.array(point[-image.ndim :], float)
    ends = locate_points([[*centre[:-2], *coordinate] for coordinate in line], units, image)
    count = int(min(_MAX_PROFILE_SAMPLES, max(2, np.ceil(np.hypot(*(ends[1] - ends[0])[-2:])) + 1)))
    fractions = np.linspace(0, 1, count)
    distance = fractions * float(np.hypot(*(line[1] - line[0])))
    plane = find_plane_index(image, point, units)
    sides = np.array(data.shape[len(plane) : len(plane) + 2])
    low = np.clip(np.floor(ends[:, -2:].min(0)).astype(int) - 1, 0, sides)
    high = np.clip(np.ceil(ends[:, -2:].max(0)).astype(int) + 2, 0, sides)
    if (high <= low).any():
        return Profile(distance, np.full(count, np.nan))
    crop = np.asarray(data[(*plane, slice(low[0], high[0]), slice(low[1], high[1]))], float)
    crop = crop.mean(-1) if crop.ndim > 2 else crop
    positions = ends[0, -2:, None] + fractions * (ends[1] - ends[0])[-2:, None] - low[:, None]
    values = warp(  # type: ignore[no-untyped-call]
        crop, positions, order=1, mode="edge", clip=False
    )
    outside = (positions < -0.5) | (positions > np.array(crop.shape)[:, None] - 0.5)
    return Profile(distance, np.where(outside.any(0), np.nan, values))


class ProfilePlot(DockPlot):
    """A plot of input and result along a line."""

    def __init__(self) -> None:
        super().__init__(
            "Line profile",
            ("Along the line (pixel)", "Intensity"),
            make_legend((TRAINING_COLOUR, "━", "input"), (VALIDATION_COLOUR, "━", "result")),
        )
        self.input_curve: Any = self.plot(pen=pg.mkPen(TRAINING_COLOUR, width=1), connect="finite")
        self.result_curve: Any = self.plot(
            pen=pg.mkPen(VALIDATION_COLOUR, width=2), connect="finite"
        )

    def show_profiles(self, lines: LineProfiles | ShapeTraces) -> None:
        """Plot the profiles of input and result."""
        measured, restored = lines.profiles
        self.input_curve.setData(*measured)
        self.result_curve.setData(*restored)
        self.labels: tuple[str, str] = lines.axis_label, self.labels[1]
        self.update_labels()
        self.setVisible(True)


class LayerPair:
    """An input and its result, which this object does not keep alive.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    layers : Image
        Input and result; empty for no pair.
    """

    def __init__(self, viewer: Viewer, *layers: Image) -> None:
        self._viewer, self._refs = viewer, [ref(layer) for layer in layers]

    def get(self) -> tuple[Image | None, Image | None]:
        """Return both layers, each None if it is no longer in the viewer."""
        layers = self._viewer.layers
        first, second = [layer_ref() for layer_ref in self._refs] or (None, None)
        return first if first in layers else None, second if second in layers else None


class ProfileSection(CollapsibleSection):
    """The section of the dock with the profile along a line, or the traces of regions of a movie.

    Parameters
    ----------
    viewer : napari.viewer.Viewer

    Attributes
    ----------
    profiles : LineProfiles, ShapeTraces or None
        What the plot shows; None for nothing.
    """

    def __init__(self, viewer: Viewer) -> None:
        page = QWidget()
        super().__init__("Line profile and traces", page)
        self._viewer = viewer
        self._pair = LayerPair(viewer)
        self._watched_layers: WeakSet[Any] = WeakSet()
        self.draw_button: QPushButton = load_button("profile-draw")
        self.region_button: QPushButton = load_button("profile-region")
        self.message_label: QLabel = make_message_label(_PROFILE_HINT)
        self.message_label.setToolTip(load_tooltip("profile-width-tooltip"))
        self.plot: ProfilePlot = ProfilePlot()
        self.profiles: LineProfiles | ShapeTraces | None = None
        self._redraw_timer = make_single_shot_timer(self, self._update_plot, _REDRAW_DELAY_MS)
        rows = ([self.draw_button, self.region_button], [self.message_label], [self.plot])
        fill_grid(page, rows).setRowStretch(len(rows), 1)
        self.draw_button.clicked.connect(lambda: self.start_drawing("line profile", "add_line"))
        self.region_button.clicked.connect(lambda: self.start_drawing("traces", "add_rectangle"))
        self.title_button.toggled.connect(self._schedule_redraw)
        events = viewer.layers.events
        self._connections = Connections(self)
        self._connections.connect(self._on_layers, events.inserted, events.removed)
        self._connections.connect(self._schedule_redraw, viewer.dims.events.current_step)
        self._on_layers()

    def show_pair(self, input_layer: Image, result_layer: Image) -> None:
        """Set the input and the result whose profiles are plotted."""
        self._pair = LayerPair(self._viewer, input_layer, result_layer)
        self._schedule_redraw()

    def start_drawing(self, name: str, mode: str) -> None:
        """Add a Shapes layer in which the user draws the line, or regions."""
        if self._viewer.canvas.grid.enabled:  # the layer would get an empty cell of its own
            self._viewer.canvas.grid.enabled = False
            if (result_layer := self._pair.get()[1]) is not None:
                fit_view(self._viewer, result_layer)
        units = self._viewer.dims.units
        with preserve_view(self._viewer):
            layer = self._viewer.add_shapes(
                ndim=2,
                units=units and units[-2:],  # napari takes the mouse's position for one in these
                name=name,
                edge_color="orange",
                face_color="transparent",
                edge_width=self._choose_line_width(),
                metadata={METADATA_KEY: {"preview": True}},  # never an input of a run
            )
        self._viewer.layers.selection.active = layer
        layer.mode = mode
        self.message_label.setText(_DRAW_LINE_HINT if mode == "add_line" else _DRAW_REGIONS_HINT)

    def _schedule_redraw(self, _: object = None) -> None:
        if self.is_unfolded:
            self._redraw_timer.start()

    def _update_plot(self) -> None:
        (source_layer, result_layer), line = self._pair.get(), find_drawn_line(self._viewer)
        shapes, self.profiles = find_drawn_regions(self._viewer), None
        is_new = self.plot.isHidden()
        if source_layer is None or result_layer is None:
            text = _NO_RESULT
        elif shapes is not None and is_movie_result(result_layer):
            text = self._call(partial(self._show_traces, shapes, source_layer, result_layer))
        elif line is None:
            text = _PROFILE_HINT
        else:
            text = self._call(partial(self._show_profiles, source_layer, result_layer, line))
        self.plot.setVisible(self.profiles is not None)
        self.message_label.setText(text)
        if is_new and self.profiles is not None:
            self.scroll_into_view()

    def _call(self, show: Callable[[], str]) -> str:
        """Show profiles or traces, and return what they tell, or why there are none."""
        message, error_message = try_call(partial(call_for_message, show), "There is no plot")
        return message or error_message

    def _show_traces(self, shapes: Shapes, source_layer: Image, result_layer: Image) -> str:
        """Plot the traces of the shapes, and return what they tell."""
        self.profiles = traces = measure_shape_traces(shapes, source_layer, result_layer)
        self.plot.show_profiles(traces)
        return traces.describe()

    def _show_profiles(self, source_layer: Image, result_layer: Image, line: FloatArray) -> str:
        """Plot the profiles of both layers, and return what they tell."""
        layers, dims, units = (source_layer, result_layer), self._viewer.dims, source_layer.units
        line, point = (convert_units(each, dims.units, units) for each in (line, dims.point))
        unit = str(units[-1]) if units is not None else "pixel"
        first, second = (measure_line_profile(layer, line, point, units) for layer in layers)
        if not np.isfinite(second.intensity).any():
            raise RefusedError("drawing-outside", name=result_layer.name)
        names = source_layer.name, result_layer.name
        lines = LineProfiles(names, (first, second), get_unit_symbol(unit) or unit)
        self.plot.show_profiles(lines)
        self.profiles = lines
        return f"'{names[0]}' and '{names[1]}'. {lines.describe()}"

    def _choose_line_width(self) -> float:
        """Return a line width that is visible at any scale: a 200th of the image width."""
        images = (layer for layer in self._viewer.layers if isinstance(layer, Image))
        layer = self._pair.get()[0] or next(images, None)
        if layer is None:
            return 1.0
        edges = convert_units(layer.extent.world, layer.units, self._viewer.dims.units)
        return float(np.ptp(edges[:, -1])) / 200 or 1.0

    def _on_layers(self, _: object = None) -> None:
        for layer in self._viewer.layers:
            if isinstance(layer, Shapes) and layer not in self._watched_layers:
                self._watched_layers.add(layer)
                self._connections.connect(self._schedule_redraw, layer.events.data)
        self._schedule_redraw()
