"""What an experiment has found: figures in a table, and what can be done with them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QWidget

from napari_dip.errors import DipError, Refusal, Refused
from napari_dip.explore.designs import PRESET, kept_by
from napari_dip.explore.place import free_folder
from napari_dip.qt.background import BackgroundCall, answered
from napari_dip.qt.button import explained_button
from napari_dip.qt.ending import attempt
from napari_dip.qt.explorer_asked import stacked
from napari_dip.qt.explorer_findings import Findings, findings_of
from napari_dip.qt.explorer_table import FiguresTable
from napari_dip.qt.shelf import shelf_of
from napari_dip.qt.undisturbed import undisturbed

if TYPE_CHECKING:
    import napari.layers
    import napari.viewer

    from napari_dip.qt.explorer_asked import AskedExperiment
    from napari_dip.qt.worker import Switch

_WHERE = "Folder that gets a folder with the report"
#: Most presets of one name, told apart by numbers.
_MOST = 99


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
        self._asked: AskedExperiment | None = None
        self._found: Any = None
        self._findings: Findings | None = None
        self._layer: napari.layers.Image | None = None
        self._saving: BackgroundCall | None = None
        self._page: Path | None = None
        self.headline = QLabel()
        self.headline.setStyleSheet("font-weight: bold; font-size: 12pt;")
        self.headline.setTextFormat(Qt.TextFormat.PlainText)
        self.headline.setWordWrap(True)
        self.table = FiguresTable()
        self.in_sight = QLabel()
        self.in_sight.setTextFormat(Qt.TextFormat.PlainText)  # names of layers are a stranger's
        self.in_sight.setVisible(False)
        self.layers_button = explained_button(
            "Add as layer", "Add the pictures as one layer, over the part that was looked at."
        )
        self.save_button = explained_button(
            "Save report …",
            "Save a page with figures, captions, settings and references, and all numbers as "
            "tables, in a folder of its own.",
        )
        self.open_button = explained_button("Open report", "Open the saved page in your browser.")
        self.preset_button = explained_button(
            "Keep as preset for Denoise",
            "Keep a preset of your own for the Denoise dock: fixed noise, as in the Deep Image "
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

    def show_found(self, asked: AskedExperiment, found: Any) -> str:
        """Take an outcome in; gives it in words."""
        self.forget()
        # the outcome outlives the layer; its pixels need not
        self._asked, self._found = replace(asked, pixels={}), found
        self._findings = findings = findings_of(asked.wish.experiment, found)
        self.headline.setText(findings.headline)
        self.table.fill(findings.heads, findings.rows)
        self.preset_button.setVisible(asked.wish.experiment == "architectures")
        self.open_button.setEnabled(False)
        self.save_button.setEnabled(True)
        self.setVisible(True)
        return "\n".join(findings.sentences)

    def forget(self) -> None:
        """Let go of the outcome before."""
        if self._saving is not None:
            self._saving.discard()
        self._asked = self._found = self._findings = self._layer = None
        self._saving = self._page = None
        self.in_sight.setVisible(False)
        self.setVisible(False)

    def add_layer(self) -> None:
        """Add the stack of pictures; the slider goes through it."""
        asked, findings = self._asked, self._findings
        if asked is None or findings is None:
            return
        stack = findings.stack
        look = stacked(asked.look)
        if not stack.in_units:
            look.pop("contrast_limits", None)
        words = {"name": f"{asked.wish.name} {stack.called}", "axis_labels": (stack.axis, "y", "x")}
        shown: list[napari.layers.Image] = []

        def act() -> None:
            with undisturbed(self._viewer):
                shown.append(self._viewer.add_image(stack.pictures, **look, **words))

        trouble = attempt(act, "The layer could not be added")
        if shown:
            self._layer = shown[0]
            row = max(0, self.table.currentRow()) if findings.curves else len(stack.names) - 1
            self._go_to(row)
            self._on_step()
        names = f"{stack.names[0]} to {stack.names[-1]}" if len(stack.names) > 1 else stack.names[0]
        said = f"Added: '{asked.wish.name} {stack.called}'. Its slider goes through {names}."
        self.said.emit(trouble or said)

    def save(self) -> None:
        """Save the report in a folder that the user chooses."""
        asked, found = self._asked, self._found
        if asked is None or self._saving is not None:
            return
        parent = QFileDialog.getExistingDirectory(self, _WHERE)
        if not parent:
            return
        folder = free_folder(parent, f"{asked.wish.name} {asked.wish.experiment}")
        self._saving = BackgroundCall(partial(_saved, found, folder, asked.wish.name), self)
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
        if self._asked is None or self._found is None:
            return
        suits = self._found.suits.design
        recipe, shelf = self._found.denoising, shelf_of("denoise")
        what = "fixed noise" if suits.name == PRESET else suits.words
        base = _plain(f"{what} for {self._asked.wish.name}")
        name = ""
        try:
            for number in range(1, _MOST):
                with suppress(Refused):
                    name = shelf.save(base if number == 1 else f"{base} {number}", recipe)
                    break
            else:
                name = shelf.save(base, recipe)  # says why it cannot be
        except DipError as no:
            self.said.emit(no.refusal.message)
            return
        given = (
            ""
            if kept_by(suits)
            else f" It has the preset's network: a preset has no place for {suits.words}."
        )
        self.said.emit(
            f"Kept as '{name}': in the Denoise dock under Repeat, Preset of your own.{given} It "
            "restores from fixed noise; compare it with 'Automatic' on your image."
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
        there = layer is not None and layer in self._viewer.layers and dims.ndim > 2
        self.in_sight.setVisible(there)
        if there and findings is not None:
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


def _saved(found: Any, folder: Path, name: str, _: Switch) -> Path | Refusal:
    """Save a report in a thread of its own; drawing it takes seconds."""
    return answered(lambda: found.save(folder), "Saving the report of", name)


def _plain(name: str) -> str:
    """Bring a name into signs that presets may have, and to a length."""
    kept = "".join(one if one.isalnum() or one in " _-" else "-" for one in name)
    return " ".join(kept.split())[:56].strip(" .")
