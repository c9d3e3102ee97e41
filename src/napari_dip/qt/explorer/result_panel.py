"""An experiment in the dock: the plot of its course, then its result and buttons to keep it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QSignalBlocker, Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_dip.errors import Fault
from napari_dip.explore.experiment_setup import get_denoising_architecture
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.io.paths import find_free_path
from napari_dip.qt.shell.background_call import call_for_message, find_call, start_call, try_call
from napari_dip.qt.shell.dock_plots import DockPlot
from napari_dip.qt.shell.dock_widget import (
    Connections,
    fill_grid,
    load_button,
    load_tooltip,
    preserve_view,
    require,
    style_table,
)
from napari_dip.qt.shell.preferences import open_saved_settings
from napari_dip.tasks.priors.random_input import DEFAULT_ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_dip.explore.experiment_results import ExperimentResult, ExperimentSummary
    from napari_dip.explore.experiments import PlotSpec
    from napari_dip.qt.shell.job_controller import JobRequest, ResultTarget

    Points = Iterable[tuple[str, int, Mapping[str, float]]]

#: Largest value of a curve that widens the vertical axis: noise begins below 2, the variance of two
#: independent images of variance 1.
_MAX_Y = 2.0
#: Ticks of the iteration axis; the automatic labels of a logarithmic axis would overlap.
_ITERATION_TICKS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


class ExplorerPlot(DockPlot):
    """A plot of curves over the logarithm of the iteration, as in the paper's figure.

    Attributes
    ----------
    experiment : str
        Key of the experiment.
    group : str
        Label of the architecture whose curves are shown; "" in other experiments.
    """

    def __init__(self) -> None:
        super().__init__("Course of the experiment", ("Iteration", ""), "")
        self._spec: PlotSpec | None = None
        self._points: dict[str, list[tuple[int, float]]] = {}
        self.experiment: str = ""
        self.group: str = ""
        self.curves: dict[str, pg.PlotDataItem] = {}
        self.setLogMode(x=True)
        self.getAxis("bottom").setTicks(
            [[(np.log10(tick), f"{tick}") for tick in _ITERATION_TICKS]]
        )
        self.getAxis("left").setStyle(maxTickLevel=0)

    @property
    def point_count(self) -> int:
        """Number of points of the longest curve."""
        return max((len(point) for point in self._points.values()), default=0)

    def restart(self, experiment: str) -> None:
        """Empty the plot and set it up for an experiment."""
        self.experiment = experiment
        self._spec = spec = EXPERIMENTS[experiment].plot
        assert spec is not None  # those without are not in the dock
        for curve in self.curves.values():
            self.removeItem(curve)
        self.curves = {
            curve.name: self.plot(pen=pg.mkPen(curve.colour, width=2)) for curve in spec.curves
        }
        self.setToolTip(f"<qt>{spec.tooltip}</qt>")
        self.setVisible(False)
        self._begin("")

    def extend(self, points: Points) -> None:
        """Add points; another group begins new curves."""
        for group, iteration, values in points:
            if group != self.group:
                self._begin(group)
            for name, value in values.items():
                self._points[name].append((iteration, value))
        self._draw()

    def show_group(self, group: str, curves: Mapping[str, Iterable[float]]) -> None:
        """Replace the curves by the complete curves of a group."""
        self._begin(group)
        for name, values in curves.items():
            self._points[name] = list(enumerate(values, 1))
        self._draw()

    def _begin(self, group: str) -> None:
        self.group = group
        self._points = {name: [] for name in self.curves}
        self.labels: tuple[str, str] = "Iteration", self._spec.axis_label if self._spec else ""
        self.legend: str = self._make_legend()
        self.update_labels()
        self._draw()

    def _draw(self) -> None:
        self.setVisible(self.point_count > 0)
        values = [value for points in self._points.values() for _, value in points]
        y_max = self._spec.y_max if self._spec else 1.0
        self.setYRange(0, max(y_max, min(_MAX_Y, max(values, default=0.0))), padding=0)
        for name, curve in self.curves.items():
            points = np.array(self._points[name], dtype=float).reshape(-1, 2)
            curve.setData(points[:, 0], points[:, 1])

    def _make_legend(self) -> str:
        """Return the legend above the plot, where it hides no curve, as rich text."""
        spec = self._spec
        if spec is None:
            return ""
        entries = [
            f'<span style="color:{curve.colour}">━</span>&nbsp;{curve.label.replace(" ", "&nbsp;")}'
            for curve in spec.curves
        ]
        gap, count = "&nbsp;&nbsp; ", spec.labels_per_line
        lines = [
            gap.join(entries[start : start + count]) for start in range(0, len(entries), count)
        ]
        lines[-1] += gap + spec.unit if spec.unit else ""
        group = shorten(self.group, _MAX_GROUP_LENGTH, placeholder="…")
        return "<br>".join([group, *lines] if group else lines)


#: Longest label of an architecture above the plot, in characters; the dock has room for 40.
_MAX_GROUP_LENGTH = 38
#: Height of a row in pixels; a window of 1280 x 720 shows five rows below the plot.
_METRIC_ROW_HEIGHT = 22
_REPORT_FOLDER_TITLE = "Folder that gets a folder with the report"
#: Limit of the numbers that make preset names distinct.
_MAX_PRESET_NUMBER = 99


def _describe(result: ExperimentResult) -> str:
    """Return the sentences of a result, after a note if the user ended the experiment."""
    notes = result.make_report().notes
    ended = [str(note) for note in notes if note.code == "experiment-ended"]
    return "\n".join([*ended, *result.sentences])


class MetricsTable(QTableWidget):
    """A read-only table as tall as its rows: labels in the first column, then numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.setAccessibleName("Figures")
        self.setToolTip(load_tooltip("explorer-metrics-tooltip"))
        style_table(self, _METRIC_ROW_HEIGHT)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def fill(self, column_titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Replace the contents of the table, without a signal for the current row."""
        with QSignalBlocker(self):
            self.clear()
            self.setRowCount(len(rows))
            self.setColumnCount(len(column_titles))
            self.setHorizontalHeaderLabels(list(column_titles))
            for row, cells in enumerate(rows):
                for column, text in enumerate(cells):
                    self.setItem(row, column, _make_table_item(text, is_label=column == 0))
        self.resizeColumnsToContents()
        header, bar = require(self.horizontalHeader()), require(self.horizontalScrollBar())
        rows_height = sum(map(self.rowHeight, range(self.rowCount())))
        self.setFixedHeight(rows_height + header.sizeHint().height() + bar.sizeHint().height() + 4)


def _make_table_item(text: str, *, is_label: bool) -> QTableWidgetItem:
    cell = QTableWidgetItem(text)
    side = Qt.AlignmentFlag.AlignLeft if is_label else Qt.AlignmentFlag.AlignRight
    cell.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
    return cell


class ResultPanel(QWidget):
    """Headline, table and buttons for the result of an experiment.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    message_emitted: Signal = Signal(str)
    #: Emitted with group and curves of the chosen row.
    row_chosen: Signal = Signal(object)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._target: ResultTarget | None = None
        self._result: Any = None
        self._experiment_key = ""
        self._summary: ExperimentSummary | None = None
        self._layer: Image | None = None
        self._page: Path | None = None
        self.headline: QLabel = QLabel()
        self.headline.setStyleSheet("font-weight: bold; font-size: 12pt;")
        self.headline.setTextFormat(Qt.TextFormat.PlainText)
        self.headline.setWordWrap(True)
        self.table: MetricsTable = MetricsTable()
        self.image_label: QLabel = QLabel()
        self.image_label.setTextFormat(Qt.TextFormat.PlainText)  # layer names may contain markup
        self.image_label.setVisible(False)
        self.layers_button: QPushButton = load_button("explorer-layers", self.add_layer)
        self.save_button: QPushButton = load_button("explorer-save", self.save_report)
        self.open_button: QPushButton = load_button("explorer-open", self.open_report)
        self.preset_button: QPushButton = load_button("explorer-preset", self.save_preset)
        rows = (
            [self.headline],
            [self.table],
            [self.save_button, self.open_button],
            [self.layers_button],
            [self.image_label],
            [self.preset_button],
        )
        fill_grid(self, rows)
        self.table.currentCellChanged.connect(self._on_row)
        self.setVisible(False)
        Connections(self).connect(self._on_step, viewer.dims.events.current_step)

    def show_result(self, request: JobRequest, result: Any) -> str:
        """Show a result, and return its description."""
        self.clear_contents()
        self._target, self._result, self._experiment_key = request.target, result, request.kind
        self._summary = summary = result.summarise()
        self.headline.setText(summary.headline)
        self.table.fill(summary.headers, summary.rows)
        self.preset_button.setVisible(request.kind == "architectures")
        self.open_button.setEnabled(False)
        self.save_button.setEnabled(True)
        self.setVisible(True)
        return _describe(result)

    def choose_experiment(self, experiment: str) -> str:
        """Show the last result while its experiment is chosen; return its description, or ""."""
        is_chosen = self._result is not None and experiment == self._experiment_key
        self.setVisible(is_chosen)
        return _describe(self._result) if is_chosen else ""

    def clear_contents(self) -> None:
        """Drop the last result and hide the widget."""
        if (call := find_call(self)) is not None:
            call.discard()
        self._target = self._result = self._summary = self._layer = None
        self._page = None
        self.image_label.setVisible(False)
        self.setVisible(False)

    def add_layer(self) -> None:
        """Add the stack of images as a layer."""
        target, summary = self._target, self._summary
        if target is None or summary is None:
            return
        stack = summary.stack
        attributes = add_stack_axis(target.layer_attributes)
        if not stack.has_image_units:
            attributes.pop("contrast_limits", None)
        layer_name = f"{target.name} {stack.name_suffix}"
        layer_labels = {"name": layer_name, "axis_labels": (stack.axis, "y", "x")}

        def add() -> Image:
            with preserve_view(self._viewer):
                return self._viewer.add_image(stack.images, **attributes, **layer_labels)

        layer, error_message = try_call(add, "The layer could not be added")
        if layer is not None:
            self._layer = layer
            row = max(0, self.table.currentRow()) if summary.curves else len(stack.names) - 1
            self._move_slider(row)
            self._on_step()
        names = f"{stack.names[0]} to {stack.names[-1]}" if len(stack.names) > 1 else stack.names[0]
        message = f"Added: '{layer_name}'. Its slider goes through {names}."
        self.message_emitted.emit(error_message or message)

    def save_report(self) -> None:
        """Save the report in a folder that the user chooses, in the background."""
        target, result = self._target, self._result
        if target is None or find_call(self) is not None:
            return
        parent = QFileDialog.getExistingDirectory(self, _REPORT_FOLDER_TITLE)
        if not parent:
            return
        folder = find_free_path(parent, f"{target.name} {self._experiment_key}")
        start_call(
            partial(result.save, folder),
            self,
            self._on_saved,
            activity="Saving the report of",
            name=target.name,
        )
        self.save_button.setEnabled(False)
        self.message_emitted.emit("Saving the report")

    def open_report(self) -> None:
        """Open the saved report in the browser."""
        if self._page is not None and not QDesktopServices.openUrl(
            QUrl.fromLocalFile(str(self._page))
        ):
            self.message_emitted.emit(f"No browser could be opened; the page is '{self._page}'.")

    def save_preset(self) -> None:
        """Save the recommended architecture as a preset of Denoise."""
        if self._target is not None and self._result is not None:
            self.message_emitted.emit(
                call_for_message(partial(self._save_preset_for, self._target.name))
            )

    def _save_preset_for(self, image: str) -> str:
        architecture = self._result.recommended_fit.architecture
        recipe, presets = self._result.denoising_recipe, open_saved_settings("denoise")
        preset_label = (
            "random input" if architecture.name == DEFAULT_ARCHITECTURE else architecture.label
        )
        base = _clean_preset_name(f"{preset_label} for {image}")
        used_names = {name.casefold() for name in presets.list_names()}
        names = (base, *(f"{base} {number}" for number in range(2, _MAX_PRESET_NUMBER)))
        name = next((name for name in names if name.casefold() not in used_names), base)
        name, remark = presets.save(name, recipe), ""
        if not get_denoising_architecture(architecture):
            remark = (
                f" It has the preset's network: a preset has no place for {architecture.label}."
            )
        return (
            f"Kept as '{name}': in the Denoise dock under Repeat, Preset of your own.{remark} It "
            "restores from random input; compare it with 'Automatic' on your image."
        )

    def _on_saved(self, outcome: object) -> None:
        self.save_button.setEnabled(True)
        if isinstance(outcome, Fault):
            self.message_emitted.emit(outcome.message)
        elif isinstance(outcome, Path):
            self._page = outcome
            self.open_button.setEnabled(True)
            self.message_emitted.emit(f"Saved: '{outcome}'.")

    def _on_row(self, row: int, *_: int) -> None:
        summary = self._summary
        if summary is None or not 0 <= row < len(summary.curves):
            return
        self.row_chosen.emit(summary.curves[row])
        self._move_slider(row)

    def _on_step(self, _: object = None) -> None:
        """Show the name of the image at the viewer's slider."""
        layer, summary, dims = self._layer, self._summary, self._viewer.dims
        has_slices = layer is not None and layer in self._viewer.layers and dims.ndim > 2
        self.image_label.setVisible(has_slices)
        if has_slices and summary is not None:
            number = round(float(dims.point[dims.ndim - 3]))
            names = summary.stack.names
            self.image_label.setText(f"In sight: {names[min(max(0, number), len(names) - 1)]}")

    def _move_slider(self, number: int) -> None:
        """Move the viewer's slider to an image of the stack, if the layer exists."""
        layer, dims = self._layer, self._viewer.dims
        if layer is not None and layer in self._viewer.layers and dims.ndim > 2:
            dims.set_point(dims.ndim - 3, number)


def _clean_preset_name(name: str) -> str:
    """Return a name with the characters and the length that presets allow."""
    return " ".join(re.sub(r"[^\w -]", "-", name).split())[:56].strip(" .")


def add_stack_axis(layer_attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `add_image` with a further first axis, for a stack of images."""
    stacked = dict(layer_attributes)
    stacked["units"] = ("pixel", *layer_attributes["units"])
    if "affine" in layer_attributes:
        matrix = np.eye(4)
        matrix[1:, 1:] = layer_attributes["affine"]
        return {**stacked, "affine": matrix}
    return {
        **stacked,
        "scale": (1.0, *layer_attributes["scale"]),
        "translate": (0.0, *layer_attributes["translate"]),
    }
