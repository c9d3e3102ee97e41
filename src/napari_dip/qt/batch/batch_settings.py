"""The settings of a batch: recipe, files, results folder, axes, processes and joint training."""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from napari.layers import Layer
from qtpy.QtCore import QSignalBlocker, QUrl, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSpinBox,
    QWidget,
)

from napari_dip.errors import DipError, return_refusal
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import is_zarr
from napari_dip.pipeline.recipe import PRESET_LABELS, RunSettings, load_recipe, make_recipe
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    fill_grid,
    guard_wheel,
    load_button,
    load_tooltip,
    make_form,
    make_single_shot_timer,
)
from napari_dip.qt.shell.layer_headers import read_layer_provenance
from napari_dip.qt.shell.preferences import get_default_preset, open_saved_settings
from napari_dip.qt.shell.settings_form import (
    add_path_button,
    make_combo,
    make_line_edit,
    style_combo,
)
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtCore import QMimeData

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.qt.shell.settings_form import SettingsForm

_LAST_RUN_KEY = "last"
_OPEN_DOCK_KEY = "dock"
_CLOSED_DOCK_KEY = "closed dock"
_RECIPE_FILE_KEY = "file"
_EARLIER_BATCH_KEY = "batch"
#: Number of rows that every task has: its name and its settings.
_FIXED_ROW_COUNT = 2
_IMAGE_FILTER = "Images (*.tif *.tiff *.png *.ome.zarr);;All files (*)"
_BATCH_FILE_FILTER = "Images (*.tif *.tiff *.png *.jpg *.jpeg *.czi *.nd2 *.lif);;All files (*)"
_NO_LOCAL_FILE_MESSAGE = "'{name}' is no file on this computer. Download it, then add that file."
#: Smallest and largest number of visible lines of the list of files, which grows with its lines.
_MIN_FILE_LINES = 2
_MAX_FILE_LINES = 4
#: A frame, which napari's themes omit; grey is visible on dark and light backgrounds.
_FRAME_STYLE = "QPlainTextEdit { border: 1px solid rgba(128, 128, 128, 140); border-radius: 2px; }"
_GLOB_WILDCARDS = frozenset("*?[")


class RecipeChooser(QWidget):
    """Lists of tasks and settings, a button for recipe files, and a line for each extra input.

    Parameters
    ----------
    find_form : callable
        Returns the form of a task's open dock by the name of the task, or None.

    Attributes
    ----------
    form_layout : QFormLayout
        The layout, to which the dock adds further rows.
    maps_page : QWidget
        The lines for the maps of the detector, which the dock lays out.
    """

    changed: Signal = Signal()
    message_emitted: Signal = Signal(str)

    def __init__(self, find_form: Callable[[str], SettingsForm | None]) -> None:
        super().__init__()
        self._find_form = find_form
        self._listed_recipes: dict[str, tuple[str, Recipe]] = {}
        self._sources: dict[str, Callable[[], Recipe]] = {}
        self._followed_forms: WeakSet[SettingsForm] = WeakSet()
        self._dock_recipe: Recipe | None = None  # of the open dock, which may close at any time
        self._close_timer = make_single_shot_timer(self, self.refresh)
        titles = {name: task.spec.title for name, task in TASKS.items()}
        self.task_combo: QComboBox = make_combo(
            "Task", "What is done to each file.", titles, length=8
        )
        self.settings_combo: QComboBox = style_combo(
            _RefreshingComboBox(self.refresh),
            "Settings",
            DOCK_TEXTS["batch-settings-tip"],
            length=8,
        )
        self.file_button: QPushButton = load_button("batch-file", self._on_file)
        self.extra_input_edits: dict[str, QLineEdit] = {}
        guard_wheel(self.task_combo, self.settings_combo)
        self.form_layout: QFormLayout = make_form(self)
        self.maps_page: QWidget = QWidget(self)
        self._maps_layout = make_form(self.maps_page)
        self.form_layout.addRow("Task", self.task_combo)
        row = QHBoxLayout()
        row.addWidget(self.settings_combo, 1)
        row.addWidget(self.file_button)
        self.form_layout.addRow("Settings", row)
        self.task_combo.currentIndexChanged.connect(self._on_task)
        self.settings_combo.currentIndexChanged.connect(self._notify)
        self._on_task()

    @property
    def task(self) -> str:
        """Key of the chosen task in `TASKS`."""
        return str(self.task_combo.currentData())

    @return_refusal
    def build_recipe(self) -> Recipe:
        """Return the chosen recipe, or a refusal."""
        read_recipe = self._sources.get(str(self.settings_combo.currentData()))
        return make_recipe(self.task) if read_recipe is None else read_recipe()

    def get_extra_paths(self) -> dict[str, str]:
        """Return the paths of the extra inputs by name, without empty ones."""
        edits = self.extra_input_edits.items()
        return {name: path for name, edit in edits if (path := edit.text().strip())}

    def load(self, path: str) -> None:
        """Read and choose a recipe file, or show an error."""
        try:
            recipe = load_recipe(Path(path))
        except DipError as error:
            self.message_emitted.emit(error.reason.message)
            return
        self._listed_recipes[_RECIPE_FILE_KEY] = f"As in '{Path(path).name}'", recipe
        self._choose_recipe(_RECIPE_FILE_KEY)

    def offer_earlier_batch(self, recipe: Recipe | None, *, is_chosen: bool) -> None:
        """List the recipe of the batch in the results folder, and optionally choose it."""
        self._listed_recipes.pop(_EARLIER_BATCH_KEY, None)
        if recipe is not None:
            self._listed_recipes[_EARLIER_BATCH_KEY] = ("As the batch in that folder", recipe)
        if recipe is not None and is_chosen:
            self._choose_recipe(_EARLIER_BATCH_KEY)
        else:
            self.refresh()

    def refresh(self) -> None:
        """Update the list of settings; the choice stays if it still exists."""
        task, chosen = self.task, str(self.settings_combo.currentData())
        presets = open_saved_settings(task)
        choices: dict[str, tuple[str, Callable[[], Recipe]]] = {
            f"preset {value}": (label, partial(make_recipe, task, preset=value))
            for value, label in PRESET_LABELS.items()
        }
        if (last_recipe := presets.load_last()) is not None:
            choices[_LAST_RUN_KEY] = ("As in my last run", partial(load_recipe, last_recipe))
        if (form := self._find_form(task)) is not None:
            choices[_OPEN_DOCK_KEY] = ("As in the open dock", self._read_dock)
            self._follow_form(form)
        elif (
            chosen == _OPEN_DOCK_KEY
            and (recipe := self._dock_recipe) is not None
            and recipe.task.spec.name == task
        ):
            self._listed_recipes[_CLOSED_DOCK_KEY] = "As in the closed dock", recipe
            chosen = _CLOSED_DOCK_KEY
        for name in presets.list_names():
            choices[f"own {name}"] = (f"My preset '{name}'", partial(presets.load, name))
        for key, (label, recipe) in self._listed_recipes.items():
            if recipe.task.spec.name == task:
                choices[key] = (label, partial(load_recipe, recipe))
        self._sources = {key: source for key, (_, source) in choices.items()}
        with QSignalBlocker(self.settings_combo):
            self.settings_combo.clear()
            for key, (label, _) in choices.items():
                self.settings_combo.addItem(label, key)
            default = f"preset {get_default_preset() or RunSettings().preset}"
            key = chosen if chosen in choices else default
            self.settings_combo.setCurrentIndex(self.settings_combo.findData(key))

    def _follow_form(self, form: SettingsForm) -> None:
        """Note the settings of an open dock whenever they change, and when it closes."""
        if form not in self._followed_forms:
            self._followed_forms.add(form)
            form.changed.connect(self._on_form)
            form.basic_page.destroyed.connect(self._close_timer.start)
        return_refusal(self._read_dock)()

    def _read_dock(self) -> Recipe:
        """Return the recipe of the open dock; after it closed, its last one."""
        if (form := self._find_form(self.task)) is not None:
            self._dock_recipe = form.build_recipe()
        return self._dock_recipe or make_recipe(self.task)

    def _on_form(self) -> None:
        return_refusal(self._read_dock)()
        self.changed.emit()

    def _choose_recipe(self, key: str) -> None:
        """Choose a recipe that was listed."""
        _, recipe = self._listed_recipes[key]
        with QSignalBlocker(self.task_combo):
            self.task_combo.setCurrentIndex(self.task_combo.findData(recipe.task.spec.name))
        self._update_extra_rows()
        self.refresh()
        with QSignalBlocker(self.settings_combo):
            self.settings_combo.setCurrentIndex(self.settings_combo.findData(key))
        self.changed.emit()

    def _on_task(self, _: object = None) -> None:
        self._update_extra_rows()
        self.refresh()
        self.changed.emit()

    def _on_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Recipe", "", "Recipe (*.json)")
        if path:
            self.load(path)

    def _update_extra_rows(self) -> None:
        """Show a line for each extra input of the task, with one file for the whole batch."""
        for line_edit in self.extra_input_edits.values():
            is_map = line_edit.parentWidget() is self.maps_page
            (self._maps_layout if is_map else self.form_layout).removeRow(line_edit)
        self.extra_input_edits = {}
        for extra_input in TASKS[self.task].spec.inputs[1:]:
            if extra_input.is_repeated_exposure:  # a repeated exposure belongs to a single file
                continue
            placeholder = "none" if extra_input.is_optional else "one file for all"
            tooltip = f"{extra_input.help} One file for all."
            line_edit = make_line_edit(extra_input.label, tooltip, placeholder)
            add_path_button(line_edit, extra_input.label, _IMAGE_FILTER)
            line_edit.textChanged.connect(self._notify)
            layout = self._maps_layout if extra_input.is_detector_map else self.form_layout
            row = len(self.extra_input_edits) + (layout is self.form_layout) * _FIXED_ROW_COUNT
            layout.insertRow(row, extra_input.short_label or extra_input.label, line_edit)
            self.extra_input_edits[extra_input.name] = line_edit

    def _notify(self, _: object = None) -> None:
        self.changed.emit()


class _RefreshingComboBox(QComboBox):
    """A list that is updated before it opens."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        super().__init__()
        self._refresh = refresh

    def showPopup(self) -> None:
        """Update the list, then open it."""
        self._refresh()
        super().showPopup()


def read_dropped_paths(mime: QMimeData) -> tuple[list[str], list[str]] | None:
    """Return the paths that were dropped or pasted, and messages on what has no path.

    Parameters
    ----------
    mime : QMimeData
        URLs, as file managers send them, or layers of napari's layer list.

    Returns
    -------
    tuple of (list of str, list of str) or None
        None if there are neither URLs nor layers, but only a text.
    """
    # napari's list of layers passes the layers themselves; its MIME type has only their indices
    layers = [item for item in getattr(mime, "items", ()) if isinstance(item, Layer)]
    if not layers and not mime.hasUrls():
        return None
    paths, messages = list[str](), list[str]()
    for layer in layers:
        if path := _find_layer_path(layer):
            paths.append(path)
        else:
            messages.append(
                DOCK_TEXTS["batch-layer-without-file"].format(name=make_printable(layer.name))
            )
    for url in mime.urls():
        if url.isLocalFile():
            paths.append(url.adjusted(QUrl.UrlFormattingOption.StripTrailingSlash).toLocalFile())
        else:
            messages.append(_NO_LOCAL_FILE_MESSAGE.format(name=make_printable(url.toString())))
    return paths, messages


def _find_layer_path(layer: Layer) -> str:
    """Return the file that a layer was opened from, by napari or by this plugin; else ""."""
    path = str(layer.source.path or read_layer_provenance(layer).get("path", ""))
    return path if Path(path).exists() else ""


class _PathsTextEdit(QPlainTextEdit):
    """A text field that takes dropped and pasted files as their paths, not as URLs."""

    mime_dropped = Signal(object)

    def canInsertFromMimeData(self, source: QMimeData | None) -> bool:
        """Accept files and layers besides text."""
        return source is not None and (
            read_dropped_paths(source) is not None or super().canInsertFromMimeData(source)
        )

    def insertFromMimeData(self, source: QMimeData | None) -> None:
        """Pass files and layers on, and insert a text as it is."""
        if source is not None and read_dropped_paths(source) is not None:
            self.mime_dropped.emit(source)
        else:
            super().insertFromMimeData(source)


class FilesEdit(QWidget):
    """A text field for files, folders and patterns, with buttons that add lines."""

    changed: Signal = Signal()
    message_emitted: Signal = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.files_button: QPushButton = load_button("batch-files", self._on_files)
        self.folder_button: QPushButton = load_button("batch-folder", self._on_folder)
        self.text_edit: _PathsTextEdit = _PathsTextEdit()
        self.text_edit.setAccessibleName("Files")
        self.text_edit.setStyleSheet(_FRAME_STYLE)
        self.text_edit.setToolTip(load_tooltip("batch-files-tooltip"))
        self.text_edit.setPlaceholderText("one file, folder or pattern in each line")
        self.text_edit.setTabChangesFocus(True)
        self.text_edit.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        label = QLabel("Files")
        label.setBuddy(self.text_edit)
        rows = ([label, self.files_button, self.folder_button], [self.text_edit])
        fill_grid(self, rows, spacing=4).setColumnStretch(0, 1)
        self._fit_height()
        self.text_edit.textChanged.connect(self._fit_height)
        self.text_edit.textChanged.connect(self.changed)
        self.text_edit.mime_dropped.connect(self.add_dropped)

    def _fit_height(self) -> None:
        """Give the list as many lines as it has, within limits, and its frame."""
        lines = min(max(self.text_edit.blockCount(), _MIN_FILE_LINES), _MAX_FILE_LINES)
        self.text_edit.setFixedHeight(lines * self.text_edit.fontMetrics().lineSpacing() + 14)

    def get_inputs(self) -> tuple[str, ...]:
        """Return the files, folders and patterns in the order of the lines."""
        lines = (line.strip() for line in self.text_edit.toPlainText().splitlines())
        return tuple(os.path.expanduser(line) for line in lines if line)

    def add(self, *paths: str) -> None:
        """Append paths that are not in the list yet."""
        new = [path for path in paths if path and path not in self.get_inputs()]
        if new:
            self.show_inputs((*self.get_inputs(), *new))

    def add_dropped(self, mime: QMimeData) -> None:
        """Append the paths of dropped files and layers, and report what has none."""
        paths, messages = read_dropped_paths(mime) or ([], [])
        self.add(*dict.fromkeys(paths))
        if messages:
            self.message_emitted.emit("\n".join(messages))

    def show_inputs(self, inputs: tuple[str, ...]) -> None:
        """Replace all lines, and emit `changed` once."""
        with QSignalBlocker(self.text_edit):
            self.text_edit.setPlainText("\n".join(inputs))
        self.changed.emit()

    def _on_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Files to restore", "", _BATCH_FILE_FILTER)
        self.add(*paths)

    def _on_folder(self) -> None:
        self.add(QFileDialog.getExistingDirectory(self, "Folder of images, or OME-Zarr"))


class ResultsFolderEdit(QLineEdit):
    """The results folder: suggested next to the inputs until the user enters one."""

    changed: Signal = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._is_set_by_hand = False
        self.setAccessibleName("Results in")
        self.setPlaceholderText("a new folder")
        self.setToolTip(load_tooltip("batch-folder-tip"))
        add_path_button(self, "Folder for the results")
        self.textChanged.connect(self._on_text)

    @property
    def path(self) -> str:
        """Path of the folder; "" if the field is empty."""
        return os.path.expanduser(self.text().strip())

    def suggest(self, inputs: tuple[str, ...], folder_name: str) -> None:
        """Enter a folder next to the inputs, unless the user has entered one."""
        if not self._is_set_by_hand:
            with QSignalBlocker(self):
                self.setText(suggest_results_folder(inputs[0], folder_name) if inputs else "")

    def _on_text(self, text: str) -> None:
        self._is_set_by_hand = bool(text.strip())
        self.changed.emit()


class JointTrainingCheckBox(QCheckBox):
    """The check box for joint training, enabled for tasks that support it."""

    changed: Signal = Signal()

    def __init__(self) -> None:
        super().__init__("Joint training (one network for all files)")
        self.toggled.connect(lambda _: self.changed.emit())
        self.update_for_task("denoise")

    def update_for_task(self, task: str) -> None:
        """Enable the box if the task supports joint training; its state stays."""
        is_supported = bool(TASKS[task].spec.independent_settings)
        self.setEnabled(is_supported)
        tip = "batch-joint-training-tip" if is_supported else "batch-no-joint-training-tip"
        self.setToolTip(load_tooltip(tip))

    @property
    def is_requested(self) -> bool:
        """Whether the box is enabled and checked."""
        return self.isEnabled() and self.isChecked()

    def show_earlier_choice(self, is_checked: bool) -> None:
        """Set the box to the choice of an earlier batch, without a signal."""
        with QSignalBlocker(self):
            self.setChecked(is_checked)


class BatchOptions(QWidget):
    """Fields for the axes of the files and the number of processes."""

    changed: Signal = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.axes_edit: QLineEdit = make_line_edit(
            "Axes", DOCK_TEXTS["batch-axes-tip"], "as each file says"
        )
        self.process_spin_box: QSpinBox = QSpinBox()
        self.process_spin_box.setAccessibleName("Workers")
        self.process_spin_box.setRange(1, max(1, os.cpu_count() or 1))
        self.process_spin_box.setKeyboardTracking(False)
        has_distributed = find_spec("distributed") is not None
        self.process_spin_box.setEnabled(has_distributed)
        tip = "batch-processes-tip" if has_distributed else "batch-distributed-missing-tip"
        self.process_spin_box.setToolTip(load_tooltip(tip))
        guard_wheel(self.process_spin_box)
        layout = make_form(self)
        layout.addRow("Axes", self.axes_edit)
        layout.addRow("Workers", self.process_spin_box)
        self.axes_edit.textChanged.connect(lambda _: self.changed.emit())
        self.process_spin_box.valueChanged.connect(lambda _: self.changed.emit())


def suggest_results_folder(source: str, folder_name: str) -> str:
    """Return a results folder in the folder of the inputs.

    Parameters
    ----------
    source : str
        A file, a folder or a pattern.
    folder_name : str
        The name of the folder, such as "denoised".
    """
    folder = Path(source)
    is_pattern = bool(_GLOB_WILDCARDS & set(source))
    while _GLOB_WILDCARDS & set(str(folder)):
        folder = folder.parent
    is_plain_folder = folder.is_dir() and not is_zarr(folder)
    return str((folder if is_plain_folder or is_pattern else folder.parent) / folder_name)
