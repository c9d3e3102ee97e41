"""The result of an experiment: headline, table and pictures, and buttons to keep them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QGridLayout,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_dip.errors import DipError, Refusal, RefusedError
from napari_dip.explore.experiment_setup import (
    REPORTED_ITERATIONS,
    TARGETS,
    get_denoising_network,
    label_architecture,
)
from napari_dip.explore.output.files import find_free_folder
from napari_dip.explore.spectra import LEVELS, compute_band_edges, find_level_iterations
from napari_dip.qt.explorer.request import add_stack_axis
from napari_dip.qt.shell.dock_widget import make_button
from napari_dip.qt.shell.layers import preserve_view
from napari_dip.qt.shell.preferences import open_saved_settings
from napari_dip.qt.shell.run_completion import call_reporting_errors
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors
from napari_dip.tasks.priors.deep_image_prior import DEFAULT_ARCHITECTURE, list_architectures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import napari.layers
    import napari.viewer
    import numpy.typing as npt

    from napari_dip.explore.comparison import ArchitectureComparison
    from napari_dip.explore.noise_impedance import ImpedanceResult
    from napari_dip.explore.spectra import SpectrumResult
    from napari_dip.qt.explorer.request import PlannedExperiment
    from napari_dip.qt.shell.worker import RunControl

#: Mark of the recommended row.
_BEST_ROW_MARK = "✓ "
_METRICS_TOOLTIP = (
    "Energies of the targets; or what is there of each band of frequencies, in cycles per pixel; "
    "or a row for each network. Validation error: at pixels that drove no fit, small is good. dB: "
    "PSNR against the truth. Score: impedance. Bands: how far the lowest is ahead of the highest. "
    "Weights: in thousands. Choose a network to see its curves and its picture."
)
#: Height of a row in pixels; a window of 1280 x 720 shows five rows below the plot.
_METRIC_ROW_HEIGHT = 22
_REPORT_FOLDER_TITLE = "Folder that gets a folder with the report"
#: Limit of the numbers that make preset names distinct.
_MAX_PRESET_NUMBER = 99


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PictureStack:
    """Pictures of the crop, which become one layer over the image.

    Attributes
    ----------
    name_suffix : str
        Suffix of the layer name.
    axis : str
        Label of the first axis.
    names : tuple of str
        The name of each picture.
    pictures : ndarray (N, Y, X) float32
    has_image_units : bool
        Whether the pixels have the image's units, so that its contrast limits apply.
    """

    name_suffix: str
    axis: str
    names: tuple[str, ...]
    pictures: npt.NDArray[np.float32]
    has_image_units: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentSummary:
    """The result of an experiment, as the dock shows it.

    Attributes
    ----------
    headline : str
    heads : tuple of str
        Headers of the table.
    rows : tuple of tuple of str
        Cells of the table.
    stack : PictureStack
    sentences : tuple of str
        Description of the result.
    curves : tuple of (group, mapping of str to sequence of float)
        The curves for each row of the table; empty if the plot is the same for all rows.
    """

    headline: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    stack: PictureStack
    sentences: tuple[str, ...]
    curves: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())


def summarise_experiment(experiment: str, result: Any) -> ExperimentSummary:
    """Return headline, table, pictures and sentences for the result of an experiment.

    Parameters
    ----------
    experiment : str
    result : ImpedanceResult, SpectrumResult or ArchitectureComparison
    """
    summarise: dict[str, Callable[[Any], ExperimentSummary]] = {
        "impedance": _summarise_impedance,
        "spectrum": _summarise_spectrum,
        "architectures": _summarise_architectures,
    }
    return summarise[experiment](result)


def _summarise_impedance(result: ImpedanceResult) -> ExperimentSummary:
    last = result.subject.iterations
    iterations = [*(iteration for iteration in REPORTED_ITERATIONS if iteration < last), last]
    energies = {iteration: result.get_energies(iteration).values() for iteration in iterations}
    rows = [
        (str(iteration), *(f"{value:.3f}" for value in energies[iteration]))
        for iteration in iterations
    ]
    heads = ("After", "image", "+ noise", "shuffled", "noise")
    targets = np.stack([result.targets[name] for name in TARGETS])
    stack = PictureStack(
        name_suffix="targets",
        axis="target",
        names=tuple(TARGETS.values()),
        pictures=targets,
        has_image_units=False,
    )
    headline = f"Impedance score {result.score:.3f}"
    return ExperimentSummary(
        headline=headline,
        heads=heads,
        rows=tuple(rows),
        stack=stack,
        sentences=_collect_sentences(result),
    )


def _summarise_spectrum(result: SpectrumResult) -> ExperimentSummary:
    band_edges = compute_band_edges()
    levels = [find_level_iterations(result.correspondence, level) for level in LEVELS]
    rows = tuple(
        (
            f"{band_edges[band]:.1f} to {band_edges[band + 1]:.1f}",
            *(str(level[band] or "never") for level in levels),
            f"{result.correspondence[-1, band]:.2f}",
        )
        for band in range(result.correspondence.shape[1])
    )
    heads = ("Band", "half at", f"{LEVELS[1]:.0%} at", "at the end")
    iterations = sorted(result.evolution)
    pictures = np.stack([result.evolution[iteration] for iteration in iterations])
    names = tuple(f"iteration {iteration}" for iteration in iterations)
    stack = PictureStack(name_suffix="evolution", axis="iteration", names=names, pictures=pictures)
    best_iteration = result.validation_stop.best_iteration
    headline = f"Validation pixels take iteration {best_iteration}"
    return ExperimentSummary(
        headline=headline, heads=heads, rows=rows, stack=stack, sentences=_collect_sentences(result)
    )


def _summarise_architectures(result: ArchitectureComparison) -> ExperimentSummary:
    recommended = result.recommended_fit
    heads = ["Architecture", "validation", "score", "bands", "weights"]
    if result.truth is not None:
        heads.insert(2, "dB")
    fits = sorted(result.fits, key=lambda item: item.validation_error)
    rows = []
    for entry in fits:
        mark = _BEST_ROW_MARK if entry is recommended else ""
        row = [
            f"{mark}{label_architecture(entry.architecture)}",
            f"{entry.validation_error:.4f}",
            f"{entry.impedance:.3f}",
            f"{entry.band_score:.3f}",
            f"{entry.weights / 1000:.0f}k",
        ]
        if result.truth is not None:
            row.insert(2, f"{entry.selected_psnr:.2f}")
        rows.append(tuple(row))
    names = tuple(label_architecture(fit.architecture) for fit in fits)
    stack = PictureStack(
        name_suffix="designs",
        axis="design",
        names=names,
        pictures=np.stack([fit.picture for fit in fits]),
    )
    curves = tuple(
        (name, {"image": item.energy, "noise": item.noise})
        for name, item in zip(names, fits, strict=True)
    )
    headline = f"Suits best: {label_architecture(recommended.architecture)}"
    return ExperimentSummary(
        headline=headline,
        heads=tuple(heads),
        rows=tuple(rows),
        stack=stack,
        sentences=_describe_comparison(result),
        curves=curves,
    )


def _describe_comparison(result: ArchitectureComparison) -> tuple[str, ...]:
    """Return sentences on the recommended network, equivalent ones and failed ones."""
    best_fit, preset_fit, recommended = result.best, result.fits[0], result.recommended_fit
    equivalents = [
        label_architecture(fit.architecture)
        for fit in (best_fit, *result.equivalent_fits)
        if fit is not recommended
    ]
    error_text = f"its error at validation pixels is {recommended.validation_error:.4f}"
    if recommended is best_fit:
        sentences = [
            f"{label_architecture(recommended.architecture).capitalize()}: {error_text}, "
            f"the least of {len(result.fits)}."
        ]
        if recommended is not preset_fit:
            reduction = 1 - best_fit.validation_error / preset_fit.validation_error
            sentences.append(f"That is {reduction:.1%} below that of the preset's network.")
        equivalents = [
            label_architecture(equivalent.architecture) for equivalent in result.equivalent_fits
        ]
    else:
        sentences = ["The preset's network: validation pixels cannot tell it from the best one."]
    if equivalents:
        sentences.append(f"Level with it: {', '.join(equivalents)}.")
    if result.truth is not None:
        best_psnr = max(fit.best_psnr or 0.0 for fit in result.fits)
        truth_text = (
            f"{recommended.selected_psnr:.2f} dB; "
            f"the best that any network came by is {best_psnr:.2f} dB."
        )
        sentences.append(f"By the truth its picture has {truth_text}")
    architectures = list_architectures(result.subject.plan.fit_config.widths, 0.0)
    for names, label in (
        (result.failed_architectures, "Broke down"),
        (result.skipped_architectures, "Ended; not fitted"),
    ):
        if names:
            sentences.append(
                f"{label}: {', '.join(label_architecture(architectures[name]) for name in names)}."
            )
    return tuple(sentences)


def _collect_sentences(result: Any) -> tuple[str, ...]:
    """Return the sentences of a result, after a note if the user ended the experiment."""
    ended = [str(note) for note in result.subject.notes if note.code == "experiment-ended"]
    return (*ended, *result.sentences)


class MetricsTable(QTableWidget):
    """A read-only table as tall as its rows: labels in the first column, then numbers."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Figures")
        self.setToolTip(f"<qt>{_METRICS_TOOLTIP}</qt>")
        self.setStyleSheet("QTableWidget, QHeaderView { font-size: 9pt; padding: 0px; }")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        if (rows := self.verticalHeader()) is not None:
            rows.setVisible(False)
            rows.setMinimumSectionSize(_METRIC_ROW_HEIGHT)
            rows.setDefaultSectionSize(_METRIC_ROW_HEIGHT)

    def fill(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Replace the contents of the table, without a signal for the current row."""
        with QSignalBlocker(self):
            self.clear()
            self.setRowCount(len(rows))
            self.setColumnCount(len(heads))
            self.setHorizontalHeaderLabels(list(heads))
            for row, cells in enumerate(rows):
                for column, text in enumerate(cells):
                    self.setItem(row, column, _make_table_item(text, residual=column == 0))
        self.resizeColumnsToContents()
        header, bar = self.horizontalHeader(), self.horizontalScrollBar()
        extra_heights = [
            widget.sizeHint().height() for widget in (header, bar) if widget is not None
        ]
        self.setFixedHeight(
            sum(map(self.rowHeight, range(self.rowCount()))) + sum(extra_heights) + 4
        )


def _make_table_item(text: str, *, residual: bool) -> QTableWidgetItem:
    cell = QTableWidgetItem(text)
    side = Qt.AlignmentFlag.AlignLeft if residual else Qt.AlignmentFlag.AlignRight
    cell.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
    return cell


class ExplorerResults(QWidget):
    """Headline, table and buttons for the result of an experiment.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    message_emitted = Signal(str)
    #: Emitted with group and curves of the chosen row.
    chosen = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._experiment: PlannedExperiment | None = None
        self._result: Any = None
        self._summary: ExperimentSummary | None = None
        self._layer: napari.layers.Image | None = None
        self._saving: BackgroundCall | None = None
        self._page: Path | None = None
        self.headline = QLabel()
        self.headline.setStyleSheet("font-weight: bold; font-size: 12pt;")
        self.headline.setTextFormat(Qt.TextFormat.PlainText)
        self.headline.setWordWrap(True)
        self.table = MetricsTable()
        self.picture_label = QLabel()
        self.picture_label.setTextFormat(Qt.TextFormat.PlainText)  # layer names may contain markup
        self.picture_label.setVisible(False)
        self.layers_button = make_button(
            "Add as layer", "Add the pictures as one layer, over the part that was looked at."
        )
        self.save_button = make_button(
            "Save report …",
            "Save a page with figures, captions, settings and references, and all numbers as "
            "tables, in a folder of its own.",
        )
        self.open_button = make_button("Open report", "Open the saved page in your browser.")
        self.preset_button = make_button(
            "Keep as preset for Denoise",
            "Keep a preset of your own for the Denoise dock: random input, as in the Deep Image "
            "Prior paper, with the network that suits this image.",
        )
        self._arrange()
        self.table.currentCellChanged.connect(self._on_row)
        self.layers_button.clicked.connect(self.add_layer)
        self.save_button.clicked.connect(self.save)
        self.open_button.clicked.connect(self.open)
        self.preset_button.clicked.connect(self.keep_preset)
        self.setVisible(False)
        viewer.dims.events.current_step.connect(self._on_step)

    def show_result(self, experiment: PlannedExperiment, result: Any) -> str:
        """Show a result, and return its description."""
        self.forget()
        # frees the input pixels, which the result does not need
        self._experiment, self._result = replace(experiment, pixels={}), result
        self._summary = summary = summarise_experiment(experiment.request.experiment, result)
        self.headline.setText(summary.headline)
        self.table.fill(summary.heads, summary.rows)
        self.preset_button.setVisible(experiment.request.experiment == "architectures")
        self.open_button.setEnabled(False)
        self.save_button.setEnabled(True)
        self.setVisible(True)
        return "\n".join(summary.sentences)

    def forget(self) -> None:
        """Drop the last result and hide the widget."""
        if self._saving is not None:
            self._saving.discard()
        self._experiment = self._result = self._summary = self._layer = None
        self._saving = self._page = None
        self.picture_label.setVisible(False)
        self.setVisible(False)

    def add_layer(self) -> None:
        """Add the stack of pictures as a layer."""
        experiment, summary = self._experiment, self._summary
        if experiment is None or summary is None:
            return
        stack = summary.stack
        attributes = add_stack_axis(experiment.layer_attributes)
        if not stack.has_image_units:
            attributes.pop("contrast_limits", None)
        layer_labels = {
            "name": f"{experiment.request.name} {stack.name_suffix}",
            "axis_labels": (stack.axis, "y", "x"),
        }
        images: list[napari.layers.Image] = []

        def act() -> None:
            with preserve_view(self._viewer):
                images.append(self._viewer.add_image(stack.pictures, **attributes, **layer_labels))

        trouble = call_reporting_errors(act, "The layer could not be added")
        if images:
            self._layer = images[0]
            row = max(0, self.table.currentRow()) if summary.curves else len(stack.names) - 1
            self._move_slider(row)
            self._on_step()
        names = f"{stack.names[0]} to {stack.names[-1]}" if len(stack.names) > 1 else stack.names[0]
        layer_name = f"{experiment.request.name} {stack.name_suffix}"
        message = f"Added: '{layer_name}'. Its slider goes through {names}."
        self.message_emitted.emit(trouble or message)

    def save(self) -> None:
        """Save the report in a folder that the user chooses, in the background."""
        experiment, result = self._experiment, self._result
        if experiment is None or self._saving is not None:
            return
        parent = QFileDialog.getExistingDirectory(self, _REPORT_FOLDER_TITLE)
        if not parent:
            return
        folder = find_free_folder(
            parent, f"{experiment.request.name} {experiment.request.experiment}"
        )
        self._saving = BackgroundCall(
            partial(_save_experiment_report, result, folder, experiment.request.name), self
        )
        self._saving.ended.connect(self._on_saved)
        self.save_button.setEnabled(False)
        self.message_emitted.emit("Saving the report")
        self._saving.start()

    def open(self) -> None:
        """Open the saved report in the browser."""
        if self._page is not None and not QDesktopServices.openUrl(
            QUrl.fromLocalFile(str(self._page))
        ):
            self.message_emitted.emit(f"No browser could be opened; the page is '{self._page}'.")

    def keep_preset(self) -> None:
        """Save the recommended architecture as a preset of Denoise."""
        if self._experiment is None or self._result is None:
            return
        design = self._result.recommended_fit.architecture
        recipe, presets = self._result.denoising_recipe, open_saved_settings("denoise")
        preset_label = "random input" if design.name == DEFAULT_ARCHITECTURE else design.label
        base = _clean_preset_name(f"{preset_label} for {self._experiment.request.name}")
        name = ""
        try:
            for number in range(1, _MAX_PRESET_NUMBER):
                with suppress(RefusedError):
                    name = presets.save(base if number == 1 else f"{base} {number}", recipe)
                    break
            else:
                name = presets.save(base, recipe)  # raises the refusal
        except DipError as error:
            self.message_emitted.emit(error.refusal.message)
            return
        remark = (
            ""
            if get_denoising_network(design)
            else f" It has the preset's network: a preset has no place for {design.label}."
        )
        self.message_emitted.emit(
            f"Kept as '{name}': in the Denoise dock under Repeat, Preset of your own.{remark} It "
            "restores from random input; compare it with 'Automatic' on your image."
        )

    def shut_down(self) -> None:
        """Drop the result and disconnect from the viewer."""
        self.forget()
        self._viewer.dims.events.current_step.disconnect(self._on_step)

    def _on_saved(self, outcome: object) -> None:
        self._saving = None
        self.save_button.setEnabled(True)
        if isinstance(outcome, Refusal):
            self.message_emitted.emit(outcome.message)
        elif isinstance(outcome, Path):
            self._page = outcome
            self.open_button.setEnabled(True)
            self.message_emitted.emit(f"Saved: '{outcome}'.")

    def _on_row(self, row: int, *_: int) -> None:
        summary = self._summary
        if summary is None or not 0 <= row < len(summary.curves):
            return
        self.chosen.emit(summary.curves[row])
        self._move_slider(row)

    def _on_step(self, _: object = None) -> None:
        """Show the name of the picture at the viewer's slider."""
        layer, summary, dims = self._layer, self._summary, self._viewer.dims
        has_slices = layer is not None and layer in self._viewer.layers and dims.ndim > 2
        self.picture_label.setVisible(has_slices)
        if has_slices and summary is not None:
            number = round(float(dims.point[dims.ndim - 3]))
            names = summary.stack.names
            self.picture_label.setText(f"In sight: {names[min(max(0, number), len(names) - 1)]}")

    def _move_slider(self, number: int) -> None:
        """Move the viewer's slider to a picture of the stack, if the layer exists."""
        layer, dims = self._layer, self._viewer.dims
        if layer is not None and layer in self._viewer.layers and dims.ndim > 2:
            dims.set_point(dims.ndim - 3, number)

    def _arrange(self) -> None:
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.headline, 0, 0, 1, 2)
        layout.addWidget(self.table, 1, 0, 1, 2)
        layout.addWidget(self.save_button, 2, 0)
        layout.addWidget(self.open_button, 2, 1)
        layout.addWidget(self.layers_button, 3, 0, 1, 2)
        layout.addWidget(self.picture_label, 4, 0, 1, 2)
        layout.addWidget(self.preset_button, 5, 0, 1, 2)


def _save_experiment_report(result: Any, folder: Path, name: str, _: RunControl) -> Path | Refusal:
    """Save a report and return its path, or a refusal; takes seconds."""
    from napari_dip.explore.output.files import save_outcome

    return catch_errors(lambda: save_outcome(result, folder), "Saving the report of", name)


def _clean_preset_name(name: str) -> str:
    """Return a name with the characters and the length that presets allow."""
    allowed = "".join(
        character if character.isalnum() or character in " _-" else "-" for character in name
    )
    return " ".join(allowed.split())[:56].strip(" .")
