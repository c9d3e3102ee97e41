"""What an experiment has found: figures in a table, and what can be done with them.

What came out of an experiment, put into a headline, a table and a stack of pictures.

A small table of figures: as tall as its rows, and read only.
"""

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

from napari_dip.errors import DipError, Refusal, Refused
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
from napari_dip.qt.shell.run_completion import attempt
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors
from napari_dip.tasks.priors.deep_image_prior import PRESET, list_architectures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import napari.layers
    import napari.viewer
    import numpy.typing as npt

    from napari_dip.qt.explorer.request import PlannedExperiment
    from napari_dip.qt.shell.worker import Switch

#: How short a mark says that a row is the one to take.
_BEST_ROW_MARK = "✓ "


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PictureStack:
    """Pictures of the part that was looked at, to be laid over it as one layer.

    Attributes
    ----------
    called : str
        Goes behind the image's name.
    axis : str
        What the slider goes through.
    names : tuple of str
        Of each picture.
    pictures : ndarray (N, Y, X) float32
    in_units : bool
        Whether they have the image's units, and so its contrast.
    """

    called: str
    axis: str
    names: tuple[str, ...]
    pictures: npt.NDArray[np.float32]
    in_units: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ExperimentSummary:
    """An experiment's outcome, as the dock shows it.

    Attributes
    ----------
    headline : str
    heads : tuple of str
    rows : tuple of tuple of str
    stack : PictureStack
    sentences : tuple of str
        The outcome in words.
    curves : tuple of (group, mapping of str to sequence of float)
        What the plot shows where a row is chosen; empty: nothing else.
    """

    headline: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    stack: PictureStack
    sentences: tuple[str, ...]
    curves: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())


def summarise_experiment(experiment: str, result: Any) -> ExperimentSummary:
    """Put an outcome into the form that the dock shows.

    Parameters
    ----------
    experiment : str
    result : Impedance, Spectrum or Architectures
    """
    return {
        "impedance": _summarise_impedance,
        "spectrum": _summarise_spectrum,
        "architectures": _summarise_architectures,
    }[experiment](result)


def _summarise_impedance(result: Any) -> ExperimentSummary:
    last = result.subject.iterations
    places = [*(at for at in REPORTED_ITERATIONS if at < last), last]
    rows = [(str(at), *(f"{item:.3f}" for item in result.at(at).values())) for at in places]
    heads = ("After", "image", "+ noise", "shuffled", "noise")
    targets = np.stack([result.targets[name] for name in TARGETS])
    stack = PictureStack(
        called="targets",
        axis="target",
        names=tuple(TARGETS.values()),
        pictures=targets,
        in_units=False,
    )
    headline = f"Impedance score {result.score:.3f}"
    return ExperimentSummary(
        headline=headline,
        heads=heads,
        rows=tuple(rows),
        stack=stack,
        sentences=_collect_sentences(result),
    )


def _summarise_spectrum(result: Any) -> ExperimentSummary:
    limits = compute_band_edges()
    levels = [find_level_iterations(result.correspondence, level) for level in LEVELS]
    rows = tuple(
        (
            f"{limits[band]:.1f} to {limits[band + 1]:.1f}",
            *(str(level[band] or "never") for level in levels),
            f"{result.correspondence[-1, band]:.2f}",
        )
        for band in range(result.correspondence.shape[1])
    )
    heads = ("Band", "half at", f"{LEVELS[1]:.0%} at", "at the end")
    places = sorted(result.evolution)
    pictures = np.stack([result.evolution[at] for at in places])
    names = tuple(f"iteration {at}" for at in places)
    stack = PictureStack(called="evolution", axis="iteration", names=names, pictures=pictures)
    taken = result.held_out.best_iteration
    headline = f"Held-out pixels take iteration {taken}"
    return ExperimentSummary(
        headline=headline, heads=heads, rows=rows, stack=stack, sentences=_collect_sentences(result)
    )


def _summarise_architectures(result: Any) -> ExperimentSummary:
    taken = result.suits
    heads = ["Architecture", "validation", "score", "bands", "weights"]
    if result.truth is not None:
        heads.insert(2, "dB")
    fits = sorted(result.fits, key=lambda item: item.held_out_error)
    rows = []
    for entry in fits:
        row = [
            f"{_BEST_ROW_MARK if entry is taken else ''}{label_architecture(entry.design)}",
            f"{entry.held_out_error:.4f}",
            f"{entry.impedance:.3f}",
            f"{entry.band_score:.3f}",
            f"{entry.weights / 1000:.0f}k",
        ]
        if result.truth is not None:
            row.insert(2, f"{entry.taken_psnr:.2f}")
        rows.append(tuple(row))
    names = tuple(label_architecture(fit.design) for fit in fits)
    stack = PictureStack(
        called="designs",
        axis="design",
        names=names,
        pictures=np.stack([fit.picture for fit in fits]),
    )
    curves = tuple(
        (name, {"image": item.energy, "noise": item.noise})
        for name, item in zip(names, fits, strict=True)
    )
    headline = f"Suits best: {label_architecture(taken.design)}"
    return ExperimentSummary(
        headline=headline,
        heads=tuple(heads),
        rows=tuple(rows),
        stack=stack,
        sentences=_describe_comparison(result),
        curves=curves,
    )


def _describe_comparison(result: Any) -> tuple[str, ...]:
    """Say which network suits the image, and how sure that is."""
    best, first, taken = result.best, result.fits[0], result.suits
    others = [
        label_architecture(item.design) for item in (best, *result.level) if item is not taken
    ]
    least = f"its error at held-out pixels is {taken.held_out_error:.4f}"
    if taken is best:
        said = [
            f"{label_architecture(taken.design).capitalize()}: {least}, the least of "
            f"{len(result.fits)}."
        ]
        if taken is not first:
            share = 1 - best.held_out_error / first.held_out_error
            said.append(f"That is {share:.1%} below that of the preset's network.")
        others = [label_architecture(item.design) for item in result.level]
    else:
        said = ["The preset's network: held-out pixels cannot tell it from the best one."]
    if others:
        said.append(f"Level with it: {', '.join(others)}.")
    if result.truth is not None:
        most = max(fit.oracle for fit in result.fits)
        text = f"{taken.taken_psnr:.2f} dB; the best that any network came by is {most:.2f} dB."
        said.append(f"By the truth its picture has {text}")
    architectures = list_architectures(result.subject.plan.budget.widths, 0.0)
    for names, label in ((result.broken, "Broke down"), (result.left_out, "Ended; not fitted")):
        if names:
            said.append(
                f"{label}: {', '.join(label_architecture(architectures[name]) for name in names)}."
            )
    return tuple(said)


def _collect_sentences(result: Any) -> tuple[str, ...]:
    """Give the sentences of an experiment, and how it ended where someone ended it."""
    ended = [str(note) for note in result.subject.notes if note.code == "experiment-ended"]
    return (*ended, *result.sentences)


_METRICS_TOOLTIP = (
    "Energies of the targets; or what is there of each band of frequencies, in cycles per pixel; "
    "or a row for each network. Held out: error at pixels that drove no fit, small is good. dB: "
    "PSNR against the truth. Score: impedance. Bands: how far the lowest is ahead of the highest. "
    "Weights: in thousands. Choose a network to see its curves and its picture."
)
#: Height of a row, in pixels: five are in sight below the plot in a window of 1280 x 720.
_METRIC_ROW_HEIGHT = 22


class MetricsTable(QTableWidget):
    """Rows of words; the first column on the left, numbers on the right."""

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
        """Show other figures; nobody is told that another row is chosen."""
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
        around = [part.sizeHint().height() for part in (header, bar) if part is not None]
        self.setFixedHeight(sum(map(self.rowHeight, range(self.rowCount()))) + sum(around) + 4)


def _make_table_item(text: str, *, residual: bool) -> QTableWidgetItem:
    item = QTableWidgetItem(text)
    side = Qt.AlignmentFlag.AlignLeft if residual else Qt.AlignmentFlag.AlignRight
    item.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
    return item


_REPORT_FOLDER_TITLE = "Folder that gets a folder with the report"
#: Most presets of one name, told apart by numbers.
_MAX_PRESET_NUMBER = 99


class ExplorerResults(QWidget):
    """Headline, table and buttons.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    """

    said = Signal(str)
    #: Group and curves of the row that was chosen.
    chosen = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._experiment: PlannedExperiment | None = None
        self._result: Any = None
        self._findings: ExperimentSummary | None = None
        self._layer: napari.layers.Image | None = None
        self._saving: BackgroundCall | None = None
        self._page: Path | None = None
        self.headline = QLabel()
        self.headline.setStyleSheet("font-weight: bold; font-size: 12pt;")
        self.headline.setTextFormat(Qt.TextFormat.PlainText)
        self.headline.setWordWrap(True)
        self.table = MetricsTable()
        self.in_sight = QLabel()
        self.in_sight.setTextFormat(Qt.TextFormat.PlainText)  # names of layers are a stranger's
        self.in_sight.setVisible(False)
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

    def show_found(self, experiment: PlannedExperiment, result: Any) -> str:
        """Take an outcome in; gives it in words."""
        self.forget()
        # the outcome outlives the layer; its pixels need not
        self._experiment, self._result = replace(experiment, pixels={}), result
        self._findings = findings = summarise_experiment(experiment.request.experiment, result)
        self.headline.setText(findings.headline)
        self.table.fill(findings.heads, findings.rows)
        self.preset_button.setVisible(experiment.request.experiment == "architectures")
        self.open_button.setEnabled(False)
        self.save_button.setEnabled(True)
        self.setVisible(True)
        return "\n".join(findings.sentences)

    def forget(self) -> None:
        """Let go of the outcome before."""
        if self._saving is not None:
            self._saving.discard()
        self._experiment = self._result = self._findings = self._layer = None
        self._saving = self._page = None
        self.in_sight.setVisible(False)
        self.setVisible(False)

    def add_layer(self) -> None:
        """Add the stack of pictures; the slider goes through it."""
        experiment, findings = self._experiment, self._findings
        if experiment is None or findings is None:
            return
        stack = findings.stack
        look = add_stack_axis(experiment.look)
        if not stack.in_units:
            look.pop("contrast_limits", None)
        text = {
            "name": f"{experiment.request.name} {stack.called}",
            "axis_labels": (stack.axis, "y", "x"),
        }
        images: list[napari.layers.Image] = []

        def act() -> None:
            with preserve_view(self._viewer):
                images.append(self._viewer.add_image(stack.pictures, **look, **text))

        trouble = attempt(act, "The layer could not be added")
        if images:
            self._layer = images[0]
            row = max(0, self.table.currentRow()) if findings.curves else len(stack.names) - 1
            self._go_to(row)
            self._on_step()
        names = f"{stack.names[0]} to {stack.names[-1]}" if len(stack.names) > 1 else stack.names[0]
        said = (
            f"Added: '{experiment.request.name} {stack.called}'. Its slider goes through {names}."
        )
        self.said.emit(trouble or said)

    def save(self) -> None:
        """Save the report in a folder that the user chooses."""
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
        self.said.emit("Saving the report")
        self._saving.start()

    def open(self) -> None:
        """Show the saved page in the browser."""
        if self._page is not None and not QDesktopServices.openUrl(
            QUrl.fromLocalFile(str(self._page))
        ):
            self.said.emit(f"No browser could be opened; the page is '{self._page}'.")

    def keep_preset(self) -> None:
        """Keep the design that suits the image as a preset of Denoise."""
        if self._experiment is None or self._result is None:
            return
        suits = self._result.suits.design
        recipe, shelf = self._result.denoising, open_saved_settings("denoise")
        what = "random input" if suits.name == PRESET else suits.label
        base = _clean_preset_name(f"{what} for {self._experiment.request.name}")
        name = ""
        try:
            for number in range(1, _MAX_PRESET_NUMBER):
                with suppress(Refused):
                    name = shelf.save(base if number == 1 else f"{base} {number}", recipe)
                    break
            else:
                name = shelf.save(base, recipe)  # says why it cannot be
        except DipError as no:
            self.said.emit(no.refusal.message)
            return
        text = (
            ""
            if get_denoising_network(suits)
            else f" It has the preset's network: a preset has no place for {suits.label}."
        )
        self.said.emit(
            f"Kept as '{name}': in the Denoise dock under Repeat, Preset of your own.{text} It "
            "restores from random input; compare it with 'Automatic' on your image."
        )

    def shut_down(self) -> None:
        """Wait for no answer any more, and let go of the viewer."""
        self.forget()
        self._viewer.dims.events.current_step.disconnect(self._on_step)

    def _on_saved(self, outcome: object) -> None:
        self._saving = None
        self.save_button.setEnabled(True)
        if isinstance(outcome, Refusal):
            self.said.emit(outcome.message)
        elif isinstance(outcome, Path):
            self._page = outcome
            self.open_button.setEnabled(True)
            self.said.emit(f"Saved: '{outcome}'.")

    def _on_row(self, row: int, *_: int) -> None:
        findings = self._findings
        if findings is None or not 0 <= row < len(findings.curves):
            return
        self.chosen.emit(findings.curves[row])
        self._go_to(row)

    def _on_step(self, _: object = None) -> None:
        """Say which picture of the stack the viewer's slider stands at."""
        layer, findings, dims = self._layer, self._findings, self._viewer.dims
        has_slices = layer is not None and layer in self._viewer.layers and dims.ndim > 2
        self.in_sight.setVisible(has_slices)
        if has_slices and findings is not None:
            number = round(float(dims.point[dims.ndim - 3]))
            names = findings.stack.names
            self.in_sight.setText(f"In sight: {names[min(max(0, number), len(names) - 1)]}")

    def _go_to(self, number: int) -> None:
        """Bring the viewer's slider to a picture of the stack, if it is there."""
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
        layout.addWidget(self.in_sight, 4, 0, 1, 2)
        layout.addWidget(self.preset_button, 5, 0, 1, 2)


def _save_experiment_report(result: Any, folder: Path, name: str, _: Switch) -> Path | Refusal:
    """Save a report in a thread of its own; drawing it takes seconds."""
    from napari_dip.explore.output.files import save_outcome

    return catch_errors(lambda: save_outcome(result, folder), "Saving the report of", name)


def _clean_preset_name(name: str) -> str:
    """Bring a name into signs that presets may have, and to a length."""
    kept = "".join(item if item.isalnum() or item in " _-" else "-" for item in name)
    return " ".join(kept.split())[:56].strip(" .")
