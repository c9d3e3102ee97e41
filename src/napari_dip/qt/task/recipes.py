"""The Repeat section of a task's dock: repeats results, and saves presets and recipe files."""

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

from napari_dip.errors import DipError, RefusedError
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
    from napari_dip.pipeline.reproduce.saved_settings import SavedRecipeFolder
    from napari_dip.qt.shell.layer_inputs import LayerInputs
    from napari_dip.qt.shell.settings_form import SettingsForm

#: First entry of the list: the default settings of a task.
DEFAULT_SETTINGS_LABEL = "Default settings"
_RECIPE_FILE_FILTER = "Recipe (*.json)"
_OWN_PRESETS_LABEL = "Presets of your own: all settings of this dock."
_LAST_SETTINGS_MESSAGE = (
    "The settings are those of your last run. For the others, use 'Default settings' under Repeat."
)


class SavedRecipesWidget(QWidget):
    """The user's presets: a list of names with buttons to load, save and delete.

    Parameters
    ----------
    form : SettingsForm
    preset_folder : SavedRecipeFolder
        Stores the presets.
    """

    message_emitted = Signal(str)

    def __init__(
        self, form: SettingsForm, preset_folder: SavedRecipeFolder, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._form, self._saved_settings = form, preset_folder
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
        line_edit = self.combo.lineEdit()
        assert line_edit is not None  # the list is editable
        self.name_edit = line_edit
        self.name_edit.setPlaceholderText("name of a preset")
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
        """The chosen or typed name, without extra spaces."""
        return " ".join(self.combo.currentText().split())

    def refresh(self) -> None:
        """Update the list; a typed name stays."""
        name = self.combo.currentText()
        with QSignalBlocker(self.combo):
            self.combo.clear()
            self.combo.addItems([DEFAULT_SETTINGS_LABEL, *self._saved_settings.names()])
            self.combo.setCurrentIndex(self.combo.findText(name) if name else -1)
            self.combo.setEditText(name)
        self._on_text()

    def load(self) -> None:
        """Set the form to the chosen preset."""
        name = self.name
        defaults = self._is_default(name)
        task = self._form.task

        def act() -> str:
            self._form.show(make_recipe(task) if defaults else self._saved_settings.load(name))
            return (
                "The settings are the default ones."
                if defaults
                else f"The settings are now those of '{name}'."
            )

        self._attempt(act)

    def save(self) -> None:
        """Save the settings of the form under the typed name."""

        def act() -> str:
            if self._is_default(self.name, Qt.MatchFlag.MatchFixedString):
                raise RefusedError("preset-exists", name=DEFAULT_SETTINGS_LABEL)
            name = self._saved_settings.save(self.name, self._form.build_recipe())
            self.combo.setEditText(name)
            return f"The settings are kept as '{name}'."

        self._attempt(act)

    def delete(self) -> None:
        """Delete the chosen preset."""

        def act() -> str:
            name = self.name
            self._saved_settings.delete(name)
            self.combo.setEditText("")
            return f"The preset '{name}' was deleted."

        self._attempt(act)

    def _attempt(self, action: Callable[[], str]) -> None:
        """Call a function, and show its message or that of its error."""
        try:
            message = action()
        except DipError as error:
            message = error.refusal.message
        self.refresh()
        self.message_emitted.emit(message)

    def _is_default(self, name: str, how: Qt.MatchFlag = Qt.MatchFlag.MatchExactly) -> bool:
        """Whether a name is that of the default settings; MatchFixedString ignores case."""
        return bool(self.combo.findText(name, how) == 0)

    def _on_text(self, _: str = "") -> None:
        name, saved_names = self.name, self._saved_settings.names()
        is_default = self._is_default(name)
        self.load_button.setEnabled(is_default or name in saved_names)
        self.save_button.setEnabled(bool(name) and not is_default and name not in saved_names)
        self.delete_button.setEnabled(name in saved_names)


class RecipeButtons(QWidget):
    """Buttons that load and save the form as a recipe file, also for command line and Python.

    Parameters
    ----------
    form : SettingsForm
    """

    message_emitted = Signal(str)

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
        """Set the form to a recipe file, or show an error and leave the form unchanged."""
        try:
            recipe = load_recipe(Path(path))
            if recipe.task.spec.name != self._form.task:
                facts = {"path": path, "found": recipe.task.spec.name, "wanted": self._form.task}
                raise RefusedError("recipe-task", **facts)
        except DipError as error:
            self.message_emitted.emit(error.refusal.message)
            return
        self._form.show(recipe)
        self.message_emitted.emit(f"The settings are now those of '{Path(path).name}'.")

    def save(self, path: str) -> None:
        """Write the recipe of the form, or show an error.

        The file dialogue has confirmed that `path` may be overwritten.
        """
        target = path if path.lower().endswith(JSON_SUFFIXES) else f"{path}.json"
        try:
            text = self._form.build_recipe().to_json()
            checked_path = check_output(target, overwrite=target == path, suffixes=JSON_SUFFIXES)
            write_text(checked_path, text, overwrite=target == path)
        except DipError as error:
            self.message_emitted.emit(error.refusal.message)
            return
        self.message_emitted.emit(f"The recipe was saved as '{Path(target).name}'.")

    def _on_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load recipe", "", _RECIPE_FILE_FILTER)
        if path:
            self.load(path)

    def _on_save(self) -> None:
        name = f"{self._form.task}.json"
        path, _ = QFileDialog.getSaveFileName(self, "Save recipe", name, _RECIPE_FILE_FILTER)
        if path:
            self.save(path)


class RepeatSection(CollapsibleSection):
    """The section of the dock with results to repeat, presets and recipe files.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    form : SettingsForm
    inputs : LayerInputs
    """

    message_emitted = Signal(str)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        form: SettingsForm,
        inputs: LayerInputs,
    ) -> None:
        page = QWidget()
        super().__init__("Repeat", page)
        self._form = form
        self._saved_settings = open_saved_settings(form.task)
        self.buttons = RepeatButtons(viewer, form, inputs)
        self.presets = SavedRecipesWidget(form, self._saved_settings)
        self.recipes = RecipeButtons(form)
        label = make_message_label()
        label.setText(_OWN_PRESETS_LABEL)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.buttons, label, self.presets, self.recipes):
            layout.addWidget(widget)
        for section in (self.buttons, self.presets, self.recipes):
            section.message_emitted.connect(self.message_emitted)
        self.toggled.connect(self.presets.refresh)  # another dock may have saved one

    def restore_last_settings(self) -> str:
        """Set the form as it was for the last run; return a message or ""."""
        last_recipe = self._saved_settings.remembered()
        if last_recipe is None or last_recipe == make_recipe(self._form.task):
            return ""
        self._form.show(last_recipe)
        return _LAST_SETTINGS_MESSAGE

    def remember(self, recipe: Recipe) -> None:
        """Save the settings of a run that begins; errors are ignored, so that the run starts."""
        try:
            self._saved_settings.remember(recipe)
        except DipError:
            return

    def set_busy(self, busy: bool) -> None:
        """Disable what changes the settings during a run."""
        self.buttons.set_busy(busy)
        self.presets.setEnabled(not busy)
        self.recipes.setEnabled(not busy)

    def shut_down(self) -> None:
        """Disconnect from the viewer."""
        self.buttons.disconnect_viewer()
