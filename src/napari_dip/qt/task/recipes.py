"""The fold of the dock in which results are repeated and settings kept.

The user's own presets: a list of names, and buttons that load, save and delete.

Two buttons: fill the form from a recipe file, and save what it stands for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_dip.errors import DipError, Refused, refusal
from napari_dip.io.outputs import JSON_SUFFIXES, check_output
from napari_dip.io.writing import write_text
from napari_dip.pipeline.api import load_recipe
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.qt.shell.dock_widget import CollapsibleSection
from napari_dip.qt.shell.preferences import open_saved_settings
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.task.repeat import RepeatButtons

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari.viewer

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.pipeline.reproduce.saved_settings import PresetFolder
    from napari_dip.qt.shell.input_chooser import InputChooser
    from napari_dip.qt.shell.layer_dock import ExtraInputs
    from napari_dip.qt.shell.settings_form import SettingsForm

#: First in the list, and always there: what a task begins with.
DEFAULT_SETTINGS_LABEL = "Default settings"


class Presets(QWidget):
    """All settings of the form, kept under names.

    Parameters
    ----------
    form : SettingsForm
    shelf : PresetFolder
        Where they are kept.
    """

    said = Signal(str)

    def __init__(
        self, form: SettingsForm, shelf: PresetFolder, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._form, self._shelf = form, shelf
        self.combo = QComboBox()
        self.combo.setEditable(True)
        self.combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.combo.setAccessibleName("Preset of your own")
        self.combo.setToolTip(
            "<qt>Choose one of your presets, or type a name for the settings as they are now.</qt>"
        )
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        line = self.combo.lineEdit()
        assert line is not None  # the list is editable
        self.line = line
        self.line.setPlaceholderText("name of a preset")
        self.load_button = QPushButton("Use")
        self.load_button.setToolTip("Set all settings as this preset has them")
        self.save_button = QPushButton("Save")
        self.save_button.setToolTip("Keep all settings, as they are now, under this name")
        self.delete_button = QPushButton("Delete")
        self.delete_button.setToolTip("Forget this preset; the settings stay as they are")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.combo, 0, 0, 1, 3)
        for column, button in enumerate((self.load_button, self.save_button, self.delete_button)):
            layout.addWidget(button, 1, column)
        self.load_button.clicked.connect(self.load)
        self.save_button.clicked.connect(self.save)
        self.delete_button.clicked.connect(self.delete)
        self.combo.editTextChanged.connect(self._on_text)
        self.refresh()

    @property
    def name(self) -> str:
        """What is chosen or typed."""
        return " ".join(self.combo.currentText().split())

    def refresh(self) -> None:
        """Bring the list up to date; the name that is typed stays."""
        name = self.combo.currentText()
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItems([DEFAULT_SETTINGS_LABEL, *self._shelf.names()])
            self.combo.setCurrentIndex(self.combo.findText(name) if name else -1)
            self.combo.setEditText(name)
        self._on_text()

    def load(self) -> None:
        """Set the form."""
        name = self.name
        defaults = self._is_default(name)
        task = self._form.task

        def act() -> str:
            self._form.show(make_recipe(task) if defaults else self._shelf.load(name))
            return (
                "The settings are the default ones."
                if defaults
                else f"The settings are now those of '{name}'."
            )

        self._attempt(act)

    def save(self) -> None:
        """Keep what the form stands for."""

        def act() -> str:
            if self._is_default(self.name, Qt.MatchFlag.MatchFixedString):
                raise Refused(refusal("preset-exists", name=DEFAULT_SETTINGS_LABEL))
            name = self._shelf.save(self.name, self._form.recipe())
            self.combo.setEditText(name)
            return f"The settings are kept as '{name}'."

        self._attempt(act)

    def delete(self) -> None:
        """Take what is chosen off the list."""

        def act() -> str:
            name = self.name
            self._shelf.delete(name)
            self.combo.setEditText("")
            return f"The preset '{name}' was deleted."

        self._attempt(act)

    def _attempt(self, act: Callable[[], str]) -> None:
        """Do something and say what came of it."""
        try:
            text = act()
        except DipError as error:
            text = error.refusal.message
        self.refresh()
        self.said.emit(text)

    def _is_default(self, name: str, how: Qt.MatchFlag = Qt.MatchFlag.MatchExactly) -> bool:
        """Whether a name is that of the first entry; fixed strings match in any case."""
        return bool(self.combo.findText(name, how) == 0)

    def _on_text(self, _: str = "") -> None:
        name, listed = self.name, self._shelf.names()
        default = self._is_default(name)
        self.load_button.setEnabled(default or name in listed)
        self.save_button.setEnabled(bool(name) and not default and name not in listed)
        self.delete_button.setEnabled(name in listed)


_RECIPE_FILE_FILTER = "Recipe (*.json)"


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
        path, _ = QFileDialog.getOpenFileName(self, "Load recipe", "", _RECIPE_FILE_FILTER)
        if path:
            self.load(path)

    def _on_save(self) -> None:
        name = f"{self._form.task}.json"
        path, _ = QFileDialog.getSaveFileName(self, "Save recipe", name, _RECIPE_FILE_FILTER)
        if path:
            self.save(path)


_OWN_PRESETS_LABEL = "Presets of your own: all settings of this dock."
_LAST_SETTINGS_MESSAGE = (
    "The settings are those of your last run. For the others, use 'Default settings' under Repeat."
)


class RepeatSection(CollapsibleSection):
    """Results to repeat, presets, and recipes as files.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    form : SettingsForm
    chooser : InputChooser
    further : ExtraInputs
    """

    said = Signal(str)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        form: SettingsForm,
        chooser: InputChooser,
        further: ExtraInputs,
    ) -> None:
        page = QWidget()
        super().__init__("Repeat", page)
        self._form = form
        self._shelf = open_saved_settings(form.task)
        self.buttons = RepeatButtons(viewer, form, chooser, further)
        self.presets = Presets(form, self._shelf)
        self.recipes = RecipeButtons(form)
        label = make_message_label()
        label.setText(_OWN_PRESETS_LABEL)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.buttons, label, self.presets, self.recipes):
            layout.addWidget(widget)
        for part in (self.buttons, self.presets, self.recipes):
            part.said.connect(self.said)
        self.toggled.connect(self.presets.refresh)  # another dock may have saved one

    def take_up(self) -> str:
        """Set the form as it was for the last run; returns what to tell the user."""
        last = self._shelf.remembered()
        if last is None or last == make_recipe(self._form.task):
            return ""
        self._form.show(last)
        return _LAST_SETTINGS_MESSAGE

    def remember(self, recipe: Recipe) -> None:
        """Keep the settings of a run that begins; a full disk is no reason not to run."""
        try:
            self._shelf.remember(recipe)
        except DipError:
            return

    def set_busy(self, busy: bool) -> None:
        """While a run is on, nothing here changes the settings."""
        self.buttons.set_busy(busy)
        self.presets.setEnabled(not busy)
        self.recipes.setEnabled(not busy)

    def shut_down(self) -> None:
        """Stop listening to the viewer."""
        self.buttons.disconnect_viewer()
