"""What a batch does to each file: a task, and where its settings come from.

Which files a batch takes: a line for each file, folder or pattern, typed or chosen.

Where the results of a batch go, and what few need to set about it.
"""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QSpinBox,
    QWidget,
)

from napari_dip.errors import DipError, Refusal, Refused
from napari_dip.io.paths import is_zarr
from napari_dip.pipeline.api import load_recipe
from napari_dip.pipeline.recipe import RunSettings, make_recipe
from napari_dip.qt.shell.dock_widget import make_button
from napari_dip.qt.shell.preferences import get_default_preset, open_saved_settings
from napari_dip.qt.shell.settings_form import WheelGuard, add_file_button, add_folder_button
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.settings_form import SettingsForm

_LAST_RUN_KEY, _OPEN_DOCK_KEY, _RECIPE_FILE_KEY, _EARLIER_BATCH_KEY = (
    "last",
    "dock",
    "file",
    "batch",
)
_RECIPE_TOOLTIPS = {
    "Task": "What is done to each file.",
    "Settings": "A preset as it comes, the settings of your last run, those of the dock that is "
    "open, a preset of your own, or a recipe file. Find them on one file first.",
}
#: Rows that every task has: its name and its settings.
_FIXED_ROW_COUNT = 2
_IMAGE_FILTER = "Images (*.tif *.tiff *.png *.ome.zarr);;All files (*)"


class RecipeChooser(QWidget):
    """Two lists, a button for recipe files, and a line for each further picture.

    Parameters
    ----------
    form_of : callable
        Gives the form of a task's dock that is open, by the task's name, or None.

    Attributes
    ----------
    rows : QFormLayout
        All of them; others may be put below.
    """

    changed = Signal()
    said = Signal(str)

    def __init__(
        self, form_of: Callable[[str], SettingsForm | None], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._form_of = form_of
        self._recipes_by_label: dict[str, tuple[str, Recipe]] = {}
        self._sources: dict[str, Callable[[], Recipe]] = {}
        self.tasks = _make_recipe_combo("Task")
        for name, task in TASKS.items():
            self.tasks.addItem(task.title, name)
        self.settings = _RefreshingComboBox(self.refresh)
        _dress(self.settings, "Settings")
        self.file_button = make_button(
            "File…", "Take task and settings from a recipe that was saved before"
        )
        self.others: dict[str, QLineEdit] = {}
        self._wheel = WheelGuard()
        for combo in (self.tasks, self.settings):
            combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            combo.installEventFilter(self._wheel)
        self.rows = form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Task", self.tasks)
        line = QHBoxLayout()
        line.addWidget(self.settings, 1)
        line.addWidget(self.file_button)
        form.addRow("Settings", line)
        self.tasks.currentIndexChanged.connect(self._on_task)
        self.settings.currentIndexChanged.connect(self._tell)
        self.file_button.clicked.connect(self._on_file)
        self._on_task()

    @property
    def task(self) -> str:
        """Key in `TASKS` of the one that is chosen."""
        return str(self.tasks.currentData())

    def recipe(self) -> Recipe | Refusal:
        """Give what is chosen, or say why it cannot be had."""
        source = self._sources.get(str(self.settings.currentData()))
        try:
            return make_recipe(self.task) if source is None else source()
        except Refused as no:
            return no.refusal

    def paths(self) -> dict[str, str]:
        """Give the further pictures by their names, those that are named."""
        values = {name: line.text().strip() for name, line in self.others.items()}
        return {name: path for name, path in values.items() if path}

    def load(self, path: str) -> None:
        """Take a recipe from a file, or say why not."""
        try:
            recipe = load_recipe(Path(path))
        except DipError as error:
            self.said.emit(error.refusal.message)
            return
        self._show(_RECIPE_FILE_KEY, f"As in '{Path(path).name}'", recipe)

    def offer_begun(self, recipe: Recipe | None, *, choose: bool) -> None:
        """List the recipe of the batch in the folder of results, and take it if wished."""
        label = "As the batch in that folder"
        if recipe is not None and choose:
            self._show(_EARLIER_BATCH_KEY, label, recipe)
            return
        self._recipes_by_label.pop(_EARLIER_BATCH_KEY, None)
        if recipe is not None:
            self._recipes_by_label[_EARLIER_BATCH_KEY] = (label, recipe)
        self.refresh()

    def refresh(self) -> None:
        """List what there is now; what is chosen stays, where it is still there."""
        task, chosen = self.task, str(self.settings.currentData())
        shelf = open_saved_settings(task)
        common: Any = RunSettings.model_fields["preset"]
        text = next(item for item in common.metadata if hasattr(item, "choices")).choices
        offered: dict[str, tuple[str, Callable[[], Recipe]]] = {
            f"preset {value}": (label, partial(make_recipe, task, preset=value))
            for value, label in text.items()
        }
        if (last := shelf.remembered()) is not None:
            offered[_LAST_RUN_KEY] = ("As in my last run", partial(_return_recipe, last))
        if (form := self._form_of(task)) is not None:
            offered[_OPEN_DOCK_KEY] = ("As in the open dock", form.recipe)
            form.changed.connect(self._tell, unique=True)
        for name in shelf.names():
            offered[f"own {name}"] = (f"My preset '{name}'", partial(shelf.load, name))
        for kind, (label, recipe) in self._recipes_by_label.items():
            if recipe.task.name == task:
                offered[kind] = (label, partial(_return_recipe, recipe))
        self._sources = {key: source for key, (_, source) in offered.items()}
        with QSignalBlocker(self.settings):
            self.settings.clear()
            for key, (label, _) in offered.items():
                self.settings.addItem(label, key)
            usual = self.settings.findData(f"preset {get_default_preset() or RunSettings().preset}")
            place = self.settings.findData(chosen)
            self.settings.setCurrentIndex(place if place >= 0 else usual)

    def _show(self, kind: str, label: str, recipe: Recipe) -> None:
        """Offer a recipe, and choose it."""
        self._recipes_by_label[kind] = (label, recipe)
        with QSignalBlocker(self.tasks):
            self.tasks.setCurrentIndex(self.tasks.findData(recipe.task.name))
        self._fit_others()
        self.refresh()
        with QSignalBlocker(self.settings):
            self.settings.setCurrentIndex(self.settings.findData(kind))
        self.changed.emit()

    def _on_task(self, _: object = None) -> None:
        self._fit_others()
        self.refresh()
        self.changed.emit()

    def _on_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Recipe", "", "Recipe (*.json)")
        if path:
            self.load(path)

    def _fit_others(self) -> None:
        """Ask for the further pictures of the task, each one file for all."""
        for line in self.others.values():
            self.rows.removeRow(line)
        self.others = {}
        for item in TASKS[self.task].inputs[1:]:
            if item.measures:  # a second shot is of one file's object
                continue
            line = QLineEdit()
            line.setAccessibleName(item.label)
            line.setPlaceholderText("none" if item.optional else "one file for all")
            line.setToolTip(f"<qt>{item.help} One file for all.</qt>")
            add_file_button(line, item.label, _IMAGE_FILTER)
            line.textChanged.connect(self._tell)
            self.rows.insertRow(_FIXED_ROW_COUNT + len(self.others), item.label, line)
            self.others[item.name] = line

    def _tell(self, _: object = None) -> None:
        self.changed.emit()


class _RefreshingComboBox(QComboBox):
    """A list that is brought up to date before it opens."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        super().__init__()
        self._refresh = refresh

    def showPopup(self) -> None:
        """Open the list."""
        self._refresh()
        super().showPopup()


def _make_recipe_combo(name: str) -> QComboBox:
    combo = QComboBox()
    _dress(combo, name)
    return combo


def _dress(combo: QComboBox, name: str) -> None:
    combo.setAccessibleName(name)
    combo.setToolTip(f"<qt>{_RECIPE_TOOLTIPS[name]}</qt>")
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(8)


def _return_recipe(recipe: Recipe) -> Recipe:
    return recipe


_BATCH_FILE_FILTER = "Images (*.tif *.tiff *.png *.jpg *.jpeg *.czi *.nd2 *.lif);;All files (*)"
_FILES_TOOLTIP = (
    "What to restore, a line for each: a file, a folder (the images in it, not those in folders "
    "below), an OME-Zarr, or a pattern such as data/**/*.tif. Lines can be changed and deleted."
)
#: Lines in sight.
_VISIBLE_FILE_LINES = 2
#: napari's themes leave such a field without a frame; grey is seen on both.
_FRAME_STYLE = "QPlainTextEdit { border: 1px solid rgba(128, 128, 128, 140); border-radius: 2px; }"


class FilesChooser(QWidget):
    """Lines of text, and buttons that add to them."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.files_button = make_button("Add files…", "Choose one or several images")
        self.folder_button = make_button(
            "Add folder…", "Choose a folder: it stands for the images that lie in it"
        )
        self.lines = QPlainTextEdit()
        self.lines.setAccessibleName("Files")
        self.lines.setStyleSheet(_FRAME_STYLE)
        self.lines.setToolTip(f"<qt>{_FILES_TOOLTIP}</qt>")
        self.lines.setPlaceholderText("one file, folder or pattern in each line")
        self.lines.setTabChangesFocus(True)
        self.lines.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(4)
        label = QLabel("Files")
        label.setBuddy(self.lines)
        layout.addWidget(label, 0, 0)
        layout.setColumnStretch(0, 1)
        layout.addWidget(self.files_button, 0, 1)
        layout.addWidget(self.folder_button, 0, 2)
        layout.addWidget(self.lines, 1, 0, 1, 3)
        self.lines.setFixedHeight(_VISIBLE_FILE_LINES * self.lines.fontMetrics().lineSpacing() + 14)
        self.lines.textChanged.connect(self.changed)
        self.files_button.clicked.connect(self._on_files)
        self.folder_button.clicked.connect(self._on_folder)

    def inputs(self) -> tuple[str, ...]:
        """Give what is asked for: files, folders and patterns, in that order."""
        lines = (line.strip() for line in self.lines.toPlainText().splitlines())
        return tuple(os.path.expanduser(line) for line in lines if line)

    def add(self, *paths: str) -> None:
        """Add lines below those that there are."""
        new = [path for path in paths if path and path not in self.inputs()]
        if new:
            self.show_inputs((*self.inputs(), *new))

    def show_inputs(self, inputs: tuple[str, ...]) -> None:
        """Ask for other files; tells once."""
        with QSignalBlocker(self.lines):
            self.lines.setPlainText("\n".join(inputs))
        self.changed.emit()

    def _on_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Files to restore", "", _BATCH_FILE_FILTER)
        self.add(*paths)

    def _on_folder(self) -> None:
        self.add(QFileDialog.getExistingDirectory(self, "Folder of images to restore"))


_FOLDER_TIP = (
    "Where the results go, each under its input's name. A new folder is made. With the folder of "
    "a batch that was begun, here or on the command line, the batch goes on."
)
_AXES_TIP = (
    "One letter for each axis of the files, such as TYX or CZYX, where they do not say it "
    "themselves or say it wrong. Empty: as each file says."
)
_PROCESSES_TIP = (
    "How many files are restored side by side, each by a program of its own. More than one pays "
    "where there are many cores and small files; each takes its share of the memory."
)
_DISTRIBUTED_MISSING_TIP = (
    "Several files side by side need what is not installed here: pip install "
    '"napari-dip[cluster]". For more computers, see the command line.'
)
_JOINT_TRAINING_TIP = (
    "For eight files or more of one microscope, taken with the same settings: a network is fitted "
    "to up to 32 of them, each with gain, range and noise of its own, and then shown each file, "
    "which takes a fraction of the time. A result then does not come from its own file alone; its "
    "report names the network, which stays with the results. Pixels that were held out decide "
    "whether all files are fine-tuned from there."
)
_NO_JOINT_TRAINING_TIP = "This task fits what a file holds, so that no network can serve several."
_GLOB_WILDCARDS = frozenset("*?[")


class ResultsFolder(QLineEdit):
    """The folder of the results: suggested beside the inputs until the user names one."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._by_hand = False
        self.setAccessibleName("Results in")
        self.setPlaceholderText("a folder of their own")
        self.setToolTip(f"<qt>{_FOLDER_TIP}</qt>")
        add_folder_button(self, "Folder for the results")
        self.textChanged.connect(self._on_text)

    @property
    def path(self) -> str:
        """What is named; empty for nothing."""
        return os.path.expanduser(self.text().strip())

    def suggest(self, inputs: tuple[str, ...], done: str) -> None:
        """Name a folder beside the inputs, unless the user has named one."""
        if not self._by_hand:
            with QSignalBlocker(self):
                self.setText(suggest_results_folder(inputs[0], done) if inputs else "")

    def _on_text(self, text: str) -> None:
        self._by_hand = bool(text.strip())
        self.changed.emit()


class JointTrainingCheckBox(QCheckBox):
    """Whether one network is fitted to all files; for tasks where one can serve several."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Joint training (one network for all files)", parent)
        self.toggled.connect(lambda _: self.changed.emit())
        self.fit_task("denoise")

    def fit_task(self, task: str) -> None:
        """Offer it where it is of use; what was chosen stays for when it is again."""
        useful = "series_training" in TASKS[task].setting_names()
        self.setEnabled(useful)
        self.setToolTip(f"<qt>{_JOINT_TRAINING_TIP if useful else _NO_JOINT_TRAINING_TIP}</qt>")

    @property
    def wanted(self) -> bool:
        """Whether it is asked for."""
        return self.isEnabled() and self.isChecked()

    def take_up(self, begun: bool) -> None:
        """Show what a batch was begun with, saying nothing."""
        with QSignalBlocker(self):
            self.setChecked(begun)


class BatchOptions(QWidget):
    """Axes and processes."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.axes = QLineEdit()
        self.axes.setAccessibleName("Axes")
        self.axes.setPlaceholderText("as each file says")
        self.axes.setToolTip(f"<qt>{_AXES_TIP}</qt>")
        self.processes = QSpinBox()
        self.processes.setAccessibleName("Processes")
        self.processes.setRange(1, max(1, os.cpu_count() or 1))
        self.processes.setKeyboardTracking(False)
        mask = find_spec("distributed") is not None
        self.processes.setEnabled(mask)
        self.processes.setToolTip(
            f"<qt>{_PROCESSES_TIP if mask else _DISTRIBUTED_MISSING_TIP}</qt>"
        )
        self._wheel = WheelGuard()
        self.processes.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.processes.installEventFilter(self._wheel)
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.addRow("Axes", self.axes)
        layout.addRow("Processes", self.processes)
        self.axes.textChanged.connect(lambda _: self.changed.emit())
        self.processes.valueChanged.connect(lambda _: self.changed.emit())


def suggest_results_folder(source: str, done: str) -> str:
    """Name a folder for results in the folder that the inputs lie in.

    Parameters
    ----------
    source : str
        A file, a folder or a pattern.
    done : str
        What is done to them, such as "denoised".
    """
    place = Path(source)
    pattern = bool(_GLOB_WILDCARDS & set(source))
    while _GLOB_WILDCARDS & set(str(place)):
        place = place.parent
    own = place.is_dir() and not is_zarr(place)
    return str((place if own or pattern else place.parent) / done)
