"""Two buttons: fill the form from a recipe file, and save what it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QWidget

from napari_dip.errors import DipError, Refused, refusal
from napari_dip.io.outputs import JSON_SUFFIXES, check_output
from napari_dip.io.writing import write_text
from napari_dip.run.api import load_recipe

if TYPE_CHECKING:
    from napari_dip.qt.form import SettingsForm

_KIND = "Recipe (*.json)"


class RecipeButtons(QWidget):
    """The form as a file, which the command line and Python read as well.

    Parameters
    ----------
    form : SettingsForm
    """

    said = Signal(str)

    def __init__(self, form: SettingsForm, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._form = form
        self.load_button = QPushButton("Load recipe…")
        self.load_button.setToolTip("Set all settings as a saved recipe has them")
        self.save_button = QPushButton("Save recipe…")
        self.save_button.setToolTip(
            "Save all settings, to use them again here, on the command line or in Python"
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.load_button)
        layout.addWidget(self.save_button)
        self.load_button.clicked.connect(self._on_load)
        self.save_button.clicked.connect(self._on_save)

    def load(self, path: str) -> None:
        """Fill the form, or say why not and leave it as it is."""
        try:
            recipe = load_recipe(Path(path))
            if recipe.task.name != self._form.task:
                facts = {"path": path, "found": recipe.task.name, "wanted": self._form.task}
                raise Refused(refusal("recipe-task", **facts))
        except DipError as error:
            self.said.emit(error.refusal.message)
            return
        self._form.show(recipe)
        self.said.emit(f"The settings are now those of '{Path(path).name}'.")

    def save(self, path: str) -> None:
        """Write the recipe, or say why not; the file dialog has asked about an earlier file."""
        target = path if path.lower().endswith(JSON_SUFFIXES) else f"{path}.json"
        try:
            text = self._form.recipe().to_json()
            place = check_output(target, overwrite=target == path, suffixes=JSON_SUFFIXES)
            write_text(place, text, overwrite=target == path)
        except DipError as error:
            self.said.emit(error.refusal.message)
            return
        self.said.emit(f"The recipe was saved as '{Path(target).name}'.")

    def _on_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load recipe", "", _KIND)
        if path:
            self.load(path)

    def _on_save(self) -> None:
        name = f"{self._form.task}.json"
        path, _ = QFileDialog.getSaveFileName(self, "Save recipe", name, _KIND)
        if path:
            self.save(path)
