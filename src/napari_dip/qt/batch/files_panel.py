"""The files of a batch: the table of their states, and their results as lazy layers."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt, QUrl, Signal
from qtpy.QtGui import QColor, QDesktopServices
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHeaderView,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableView,
    QWidget,
)

from napari_dip.errors import Fault, Refusal, RefusedError
from napari_dip.errors.templates import make_printable
from napari_dip.io.reading import open_pixels, read_header
from napari_dip.pipeline.assess.card import VERDICT_COLOURS, Verdict
from napari_dip.pipeline.assess.report_figures import compute_contrast_limits, select_middle_plane
from napari_dip.qt.shell.background_call import call_reporting_errors, find_call, start_call
from napari_dip.qt.shell.dock_widget import (
    DOCK_LABELS,
    fill_grid,
    fit_view,
    load_button,
    make_button,
    make_single_shot_timer,
    preserve_view,
    require,
    style_table,
)
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.shell.napari_layers import (
    build_report_provenance,
    follow_thumbnail,
)
from napari_dip.qt.shell.run_bar import FoldedLabel, make_message_label
from napari_dip.scale.batch.records import PAGE_FILE, read_file_record
from napari_dip.scale.batch.table import make_source_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import BatchPlan, Job
    from napari_dip.scale.batch.table import FileRow

#: Side in pixels of a chunk of a lazy array.
_TILE = 1024
#: Side in pixels of the sample for the contrast limits.
_CONTRAST_SAMPLE_SIDE = 1024
#: Largest number of results opened at once; each blocks the window for hundredths of a second.
MAX_OPENED_RESULTS = 24


#: A lazy array and the arguments of `add_image` for it.
LazyLayer = tuple[Any, dict[str, Any]]


class BatchLayers(QObject):
    """Opens results one after another, so that the window stays responsive.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    parent : QObject
    """

    message_emitted: Signal = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._remaining: list[tuple[Job, Recipe]] = []
        self._names: list[str] = []
        self._added_layers: list[Layer] = []
        self._includes_inputs = False
        self._opened_layers: list[LazyLayer] = []
        self._next_timer = make_single_shot_timer(self, self._add_next)

    def show_results(self, jobs: Iterable[Job], recipe: Recipe, *, includes_inputs: bool) -> None:
        """Open the results of files, optionally with their inputs below.

        Parameters
        ----------
        jobs : iterable of Job
        recipe : Recipe
        includes_inputs : bool
            Whether the inputs are opened, too.
        """
        self._remaining += [(job, recipe) for job in jobs]
        self._includes_inputs, self._names, self._added_layers = includes_inputs, [], []
        if find_call(self) is None and not self._next_timer.isActive():
            self._open_next()

    def _open_next(self) -> None:
        """Open the next result in the background, or report that all are open."""
        if self._remaining:
            job, recipe = self._remaining.pop(0)
            start_call(
                partial(load_result_layers, job, recipe, self._includes_inputs),
                self,
                self._on_opened,
                activity="Opening the result of",
                name=str(job.source),
            )
        elif self._names:
            count = len(self._names)
            layers = [layer for layer in self._added_layers if layer in self._viewer.layers]
            opened = f"'{self._names[0]}'"
            if count > 1:
                grid = self._viewer.canvas.grid
                grid.shape, grid.stride, grid.enabled = (-1, -1), 1, True
                opened = f"{count} results, side by side; napari's button Grid stacks them again"
            if layers:
                fit_view(self._viewer, *layers)  # to the cells of the grid, if there is one
            self.message_emitted.emit(f"Opened: {opened}.")

    def _on_opened(self, outcome: tuple[LazyLayer, ...] | Fault) -> None:
        if isinstance(outcome, Fault):
            self.message_emitted.emit(outcome.message)
        else:
            self._opened_layers = list(outcome)
            self._names.append(outcome[-1][1]["name"])
        self._add_next()

    def _add_next(self) -> None:
        """Add one layer per event loop cycle, because napari takes a tenth of a second for each."""
        if not self._opened_layers:
            self._open_next()
            return
        pixels, attributes = self._opened_layers.pop(0)
        if not self._is_open(attributes["metadata"][METADATA_KEY]["path"]):
            add = partial(self._add_layer, pixels, attributes)
            error_message = call_reporting_errors(add, "The result could not be opened")
            if error_message:
                self.message_emitted.emit(error_message)
        self._next_timer.start()

    def _add_layer(self, pixels: Any, attributes: dict[str, Any]) -> None:
        with preserve_view(self._viewer):
            layer = self._viewer.add_image(pixels, **attributes)
            follow_thumbnail(layer)
            self._added_layers.append(layer)

    def _is_open(self, path: str) -> bool:
        """Whether a layer of a file exists already."""
        records = (layer.metadata.get(METADATA_KEY) for layer in self._viewer.layers)
        return any(isinstance(record, dict) and record.get("path") == path for record in records)


def load_result_layers(job: Job, recipe: Recipe, includes_inputs: bool) -> tuple[LazyLayer, ...]:
    """Return the layer of a result of a batch, optionally after the layer of its input.

    Parameters
    ----------
    job : Job
    recipe : Recipe
    includes_inputs : bool
        Whether the input is opened, too.

    Returns
    -------
    tuple of LazyLayer
        The result is the last one.

    Raises
    ------
    RefusedError
        If the result is missing or damaged.
    """
    assert not isinstance(job.plan, Refusal)  # a refused file has no result
    header, label = job.plan.header, make_source_label(job.source)
    if (record := read_file_record(job.paths, header, recipe)) is None:
        raise RefusedError("file-missing", path=job.paths.record)
    inputs = {
        input_name: {"layer": make_source_label(path), "path": str(path.absolute())}
        for input_name, path in job.inputs.items()
    }
    inputs["image"]["axes"] = header.axes
    provenance = build_report_provenance(label, record["recipe"], record["report"])
    metadata = {**provenance, "inputs": inputs, "shows": "result"}
    placement = _compute_placement(job.plan, job.plan.factors)
    name = f"{label.removesuffix(job.source.suffix)} {recipe.task.spec.result_suffix}"
    result = _make_lazy_layer(job.paths.result, name, header.axes, metadata, placement)
    if not includes_inputs:
        return (result,)
    placement = _compute_placement(job.plan) | {"contrast_limits": result[1]["contrast_limits"]}
    return _make_lazy_layer(job.source, label, header.axes, {}, placement), result


def _make_lazy_layer(
    path: Path, name: str, axes: str, provenance: dict[str, Any], placement: dict[str, Any]
) -> LazyLayer:
    """Return the layer of a file; contrast limits are estimated unless `placement` has them."""
    lazy = make_dask_array(open_pixels(read_header(path, axes)), axes)
    attributes: dict[str, Any] = {
        "name": name,
        "rgb": axes.endswith("S"),
        "axis_labels": tuple(axis.lower() for axis in axes if axis != "S"),
        "metadata": {METADATA_KEY: {**provenance, "path": str(path.absolute())}},
        **placement,
    }
    if "contrast_limits" not in attributes:
        attributes["contrast_limits"] = _estimate_contrast_limits(lazy, axes)
    return lazy, attributes


def make_dask_array(pixels: Any, axes: str) -> Any:
    """Return a lazy array in chunks of one plane or less.

    Parameters
    ----------
    pixels : array
        An array that is read by slices, as by `napari_dip.io.reading.open_pixels`.
    axes : str

    Returns
    -------
    dask.array.Array
    """
    import dask.array

    tile = tuple(
        min(_TILE, side) if axis in "YX" else side if axis == "S" else 1
        for axis, side in zip(axes, pixels.shape, strict=True)
    )
    return dask.array.from_array(pixels, chunks=tile, name=False)  # type: ignore[no-untyped-call]


def _compute_placement(plan: Plan, factors: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return scale, position and units of the input, or of a result upscaled by factors."""
    header = plan.header
    spatial_indices = [index for index, axis in enumerate(header.axes) if axis != "S"]
    scale = np.array(header.scale or [1.0] * len(header.shape))[spatial_indices]
    units = header.units or ("pixel",) * len(header.shape)
    scale_factors = np.array(factors or [1] * len(header.shape))[spatial_indices]
    return {
        "scale": tuple(scale / scale_factors),
        # so that input and result cover the same area
        "translate": tuple(scale * (0.5 / scale_factors - 0.5)),
        "units": tuple(units[index] for index in spatial_indices),
    }


def _estimate_contrast_limits(lazy: Any, axes: str) -> tuple[float, float]:
    """Return contrast limits of the centre of the middle plane."""
    region = []
    for axis, side in zip(axes, lazy.shape, strict=True):
        length = min(side, _CONTRAST_SAMPLE_SIDE) if axis in "YX" else 1 if axis in "TZ" else side
        start = side // 2 - length // 2
        region.append(slice(start, start + length))
    low, high = compute_contrast_limits(select_middle_plane(np.asarray(lazy[tuple(region)]), axes))
    return (low, high) if high > low else (low, low + 1.0)


_HEADS = ("File", "State", "What to know")
#: Labels of the states of a file.
_STATE_LABELS = DOCK_LABELS["file-states"]
#: Height of a row of the table in pixels: two lines, which most reasons take.
_FILE_ROW_HEIGHT = 34
#: Minimum height of the table of files: three rows and the headers.
_MIN_TABLE_HEIGHT = 128
#: Height in pixels that napari's style takes within the frame of a table.
_TABLE_MARGIN = 4
#: Largest number of files whose rows all are in sight; the table of more scrolls by itself.
_MAX_WHOLE_ROWS = 8
#: Width of the first column in pixels, for the narrowest dock.
_NAME_COLUMN_WIDTH = 88
#: Largest number of visible lines of the messages on a file: a headline and a warning.
_MAX_DETAIL_LINES = 8


class FileTableModel(QAbstractTableModel):
    """The model of the table, which formats visible rows only."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.rows: list[FileRow] = []

    def fill(self, rows: Sequence[FileRow]) -> None:
        """Replace all rows."""
        self.beginResetModel()
        self.rows = list(rows)
        self.endResetModel()

    def update_rows(self, rows: Mapping[int, FileRow]) -> None:
        """Update rows by their index."""
        for index, row in rows.items():
            self.rows[index] = row
            self.dataChanged.emit(self.index(index, 0), self.index(index, len(_HEADS) - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of files."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(_HEADS)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:
        """Return the header of a column."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return _HEADS[section]
        return None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return the text of a cell, or all messages of the file as the tooltip."""
        row = self.rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            label = make_source_label(row.source)
            reason = make_printable(row.messages[0]) if row.messages else ""
            if row.reason and row.verdict is None:
                reason = row.reason
            return (label, format_file_state(row), reason)[index.column()]
        if role == Qt.ItemDataRole.ForegroundRole and index.column():
            is_lost = row.state in ("refused", "failed")
            verdict = Verdict.DO_NOT_USE if is_lost else row.verdict
            return QColor(VERDICT_COLOURS[verdict]) if verdict else None
        if role == Qt.ItemDataRole.ToolTipRole:
            messages = (
                escape(make_printable(message)) for message in (str(row.source), *row.messages)
            )
            return f"<qt>{'<br>'.join(messages)}</qt>"  # rich text is wrapped
        return None


class FilesTable(QTableView):
    """The view of the table, in which several rows can be selected."""

    #: Emitted with the index of a row after a double click or Enter.
    row_activated: Signal = Signal(int)
    selection_changed: Signal = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.file_model: FileTableModel = FileTableModel(self)
        self.setModel(self.file_model)
        self.setAccessibleName("Files of the batch")
        style_table(self, _FILE_ROW_HEIGHT)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setTabKeyNavigation(False)  # the tab key moves on to the next widget of the dock
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumHeight(_MIN_TABLE_HEIGHT)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        policy.setVerticalStretch(1)
        self.setSizePolicy(policy)
        header = require(self.horizontalHeader())
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        header.setHighlightSections(False)
        header.resizeSection(0, _NAME_COLUMN_WIDTH)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.file_model.modelReset.connect(self._fit_height)
        self.activated.connect(lambda index: self.row_activated.emit(index.row()))
        self._selection = require(self.selectionModel())
        self._selection.selectionChanged.connect(lambda *_: self.selection_changed.emit())

    def get_selected_rows(self) -> list[FileRow]:
        """Return the selected rows from top to bottom."""
        numbers = sorted(index.row() for index in self._selection.selectedRows())
        return [self.file_model.rows[number] for number in numbers]

    def _fit_height(self) -> None:
        """Show a few rows whole: else the table would have a scroll bar beside that of the dock."""
        rows = min(len(self.file_model.rows), _MAX_WHOLE_ROWS) * _FILE_ROW_HEIGHT
        header_height = require(self.horizontalHeader()).sizeHint().height()
        height = rows + header_height + 2 * self.frameWidth() + _TABLE_MARGIN
        self.setMinimumHeight(max(_MIN_TABLE_HEIGHT, height))


def format_file_state(row: FileRow) -> str:
    """Return the label of a file's state, or its progress in percent."""
    is_working = row.state == "working"
    return f"{100 * row.fraction:.0f} %" if is_working else _STATE_LABELS[row.state]


class FilesPanel(QWidget):
    """The table with the messages on the selected file, and buttons to open results.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Results become layers of it.
    """

    message_emitted: Signal = Signal(str)

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._plan: BatchPlan | None = None
        self.layers: BatchLayers = BatchLayers(viewer, self)
        self.table: FilesTable = FilesTable()
        self.message_label: QLabel = make_message_label()
        self.message_area: FoldedLabel = FoldedLabel(
            self.message_label, max_lines=_MAX_DETAIL_LINES
        )
        self.show_button: QPushButton = load_button("batch-show")
        self.all_button: QPushButton = make_button(
            "Show all", f"Open all results as layers, the first {MAX_OPENED_RESULTS} of many."
        )
        self.page_button: QPushButton = load_button("batch-page", self.open_page)
        self.inputs_check_box: QCheckBox = QCheckBox("with inputs")
        self.inputs_check_box.setToolTip("<qt>Open the input of each result below it, too</qt>")
        buttons = [self.show_button, self.all_button, self.page_button]
        rows = ([self.table], [self.message_area], buttons, [self.inputs_check_box])
        layout = fill_grid(self, rows, spacing=4)
        layout.setRowStretch(0, 1)
        layout.setAlignment(self.inputs_check_box, Qt.AlignmentFlag.AlignLeft)
        policy = self.sizePolicy()
        policy.setVerticalStretch(1)
        self.setSizePolicy(policy)
        self.table.row_activated.connect(lambda row: self._open([self.table.file_model.rows[row]]))
        self.table.selection_changed.connect(self._on_selection)
        self.show_button.clicked.connect(lambda: self._open(self.table.get_selected_rows()))
        self.all_button.clicked.connect(lambda: self._open(self.table.file_model.rows))
        self.layers.message_emitted.connect(self.message_emitted)
        self._on_selection()

    def show_plan(self, plan: BatchPlan | None, rows: Iterable[FileRow]) -> None:
        """Show the files of a batch in the table, or of none."""
        self._plan = plan
        self.table.file_model.fill(list(rows))
        self._on_selection()

    def update_rows(self, rows: Mapping[int, FileRow]) -> None:
        """Update rows of the table by their index."""
        self.table.file_model.update_rows(rows)
        self._on_selection()

    def clear_contents(self) -> None:
        """Empty the table."""
        self.show_plan(None, ())

    def open_page(self) -> None:
        """Open the page of the batch in the browser."""
        if self._plan is None:
            return
        page = self._plan.folder.absolute() / PAGE_FILE
        if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(page))):
            self.message_emitted.emit(f"No browser could be opened; the table is '{page}'.")

    def _open(self, rows: Iterable[FileRow]) -> None:
        """Open the results of those rows that have one."""
        if (plan := self._plan) is None:
            return
        sources = {row.source for row in rows if row.has_result}
        jobs = [job for job in plan.jobs if job.source in sources]
        if not jobs:
            self.message_emitted.emit("There is no result of that file.")
            return
        if len(jobs) > MAX_OPENED_RESULTS:
            text = f"The first {MAX_OPENED_RESULTS} of {len(jobs)} results are opened."
            self.message_emitted.emit(text)
        includes_inputs = self.inputs_check_box.isChecked()
        self.layers.show_results(
            jobs[:MAX_OPENED_RESULTS], plan.recipe, includes_inputs=includes_inputs
        )

    def _on_selection(self) -> None:
        """Show the messages on the first selected row, and enable the buttons."""
        selected_rows, rows = self.table.get_selected_rows(), self.table.file_model.rows
        self.message_area.show_text("\n".join(selected_rows[0].messages) if selected_rows else "")
        self.message_area.setVisible(bool(selected_rows and selected_rows[0].messages))
        self.show_button.setEnabled(any(row.has_result for row in selected_rows))
        self.all_button.setEnabled(any(row.has_result for row in rows))
        folder = None if self._plan is None else self._plan.folder
        self.page_button.setEnabled(folder is not None and (folder / PAGE_FILE).is_file())
