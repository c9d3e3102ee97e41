"""The Repeat section of a task's dock: repeats results, and saves recipes and presets."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QLabel, QLineEdit, QPushButton, QWidget

from napari_dip.errors import DipError, Fault, RefusedError
from napari_dip.io import guess_axes
from napari_dip.io.outputs import JSON_SUFFIXES, resolve_output
from napari_dip.io.paths import find_free_path
from napari_dip.io.reading import read_header
from napari_dip.io.writing import write_image, write_text
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.recipe import load_task_recipe, make_recipe, recipe_from_dict
from napari_dip.pipeline.repetition import format_command_line, write_python_script
from napari_dip.qt.shell.background_call import (
    BackgroundCall,
    call_for_message,
    find_call,
    try_call,
)
from napari_dip.qt.shell.dock_widget import (
    DOCK_TEXTS,
    CollapsibleSection,
    Connections,
    copy_text,
    fill_grid,
    load_button,
    make_form,
    make_single_shot_timer,
    preserve_view,
)
from napari_dip.qt.shell.layer_headers import METADATA_KEY, get_full_resolution, read_input_pixels
from napari_dip.qt.shell.napari_layers import REGION, find_layer, is_kept_image
from napari_dip.qt.shell.preferences import open_saved_settings
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.settings_form import (
    fill_combo,
    make_combo,
    make_combo_editable,
    update_combo,
)
from napari_dip.qt.task.result_export import apply_header
from napari_dip.qt.task.run_request import (
    build_repetition,
    describe_unsaved_inputs,
    find_source_layer,
    find_unsaved_inputs,
    hash_pixels,
    read_recorded_inputs,
    read_result_provenance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import napari.viewer

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.pipeline.repetition import Repetition
    from napari_dip.qt.shell.background_call import RunControl
    from napari_dip.qt.shell.layer_inputs import LayerInputs
    from napari_dip.qt.shell.preferences import SavedRecipeFolder
    from napari_dip.qt.shell.settings_form import SettingsForm

#: First entry of the list: the default settings of a task.
DEFAULT_SETTINGS_LABEL = "Default settings"
_RECIPE_FILE_FILTER = "Recipe (*.json)"
_OWN_PRESETS_LABEL = "Presets of your own: all settings of this dock."
#: Milliseconds for which a button says that it has copied.
_COPIED_MS = 3000
_SAVE_FOLDER_TITLE = "Folder for the layers without a file, for the script to read"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnsavedLayer:
    """An input layer without a file, which has to be saved for a script.

    Attributes
    ----------
    input_name : str
    layer_name, result_name : str
        Names of the layer and of the result.
    pixels : array
        Lazy or not.
    axes : str
        One letter for each axis of the pixels.
    fingerprint : str or None
        The expected `compute_sha256` of the pixels; None to skip the check.
    """

    input_name: str
    layer_name: str
    result_name: str
    pixels: Any
    axes: str
    fingerprint: str | None = None


def save_layers(
    layers: tuple[UnsavedLayer, ...], folder: Path, control: RunControl
) -> dict[str, str]:
    """Save layers as TIFF files named after them, without overwriting; return their paths.

    Raises
    ------
    RefusedError
        If a layer has other pixels than those of the run.
    """
    paths: dict[str, str] = {}
    for layer in layers:
        pixels = np.asarray(layer.pixels)
        if layer.fingerprint is not None and compute_sha256(pixels) != layer.fingerprint:
            raise RefusedError("repeat-changed", layer=layer.layer_name, result=layer.result_name)
        if control() is Control.DISCARD:
            break
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        path = find_free_path(folder, layer.layer_name, ".tif")
        paths[layer.input_name] = str(write_image(path, pixels, axes=layer.axes))
    return paths


class UserPresetsWidget(QWidget):
    """The user's presets: a list of names with buttons to load, save and delete.

    Parameters
    ----------
    form : SettingsForm
    preset_folder : SavedRecipeFolder
        Stores the presets.
    """

    message_emitted: Signal = Signal(str)

    def __init__(self, form: SettingsForm, preset_folder: SavedRecipeFolder) -> None:
        super().__init__()
        self._form, self._preset_folder = form, preset_folder
        self.combo: QComboBox = make_combo("Preset of your own", DOCK_TEXTS["repeat-preset"])
        self.name_edit: QLineEdit = make_combo_editable(self.combo)
        self.name_edit.setPlaceholderText("name of a preset")
        self.load_button: QPushButton = load_button("own-preset-load")
        self.save_button: QPushButton = load_button("own-preset-save")
        self.delete_button: QPushButton = load_button("own-preset-delete")
        fill_grid(self, ([self.combo], [self.load_button, self.save_button, self.delete_button]))
        self.load_button.clicked.connect(lambda: self._attempt(self._load))
        self.save_button.clicked.connect(lambda: self._attempt(self._save))
        self.delete_button.clicked.connect(lambda: self._attempt(self._delete))
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
            fill_combo(
                self.combo, [DEFAULT_SETTINGS_LABEL, *self._preset_folder.list_names()], name
            )
            self.combo.setEditText(name)
        self._on_text()

    def _load(self) -> str:
        """Set the form to the chosen preset; return a message."""
        if self._is_default(self.name):
            self._form.show_recipe(make_recipe(self._form.task))
            return "The settings are the default ones."
        self._form.show_recipe(self._preset_folder.load(self.name))
        return f"The settings are now those of '{self.name}'."

    def _save(self) -> str:
        """Save the settings of the form under the typed name; return a message."""
        if self._is_default(self.name, Qt.MatchFlag.MatchFixedString):
            raise RefusedError("preset-exists", name=DEFAULT_SETTINGS_LABEL)
        name = self._preset_folder.save(self.name, self._form.build_recipe())
        self.combo.setEditText(name)
        return f"The settings are kept as '{name}'."

    def _delete(self) -> str:
        """Delete the chosen preset; return a message."""
        name = self.name
        self._preset_folder.delete(name)
        self.combo.setEditText("")
        return f"The preset '{name}' was deleted."

    def _attempt(self, action: Callable[[], str]) -> None:
        """Call a function, and show its message or that of its error."""
        message = call_for_message(action)
        self.refresh()
        self.message_emitted.emit(message)

    def _is_default(self, name: str, match_flag: Qt.MatchFlag = Qt.MatchFlag.MatchExactly) -> bool:
        """Whether a name is that of the default settings; MatchFixedString ignores case."""
        return bool(self.combo.findText(name, match_flag) == 0)

    def _on_text(self, _: str = "") -> None:
        name, saved_names = self.name, self._preset_folder.list_names()
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

    message_emitted: Signal = Signal(str)

    def __init__(self, form: SettingsForm) -> None:
        super().__init__()
        self._form = form
        self.load_button: QPushButton = load_button("recipe-load", self._on_load)
        self.save_button: QPushButton = load_button("recipe-save", self._on_save)
        fill_grid(self, ([self.load_button, self.save_button],))

    def load(self, path: str) -> None:
        """Set the form to a recipe file, or show an error and leave the form unchanged."""
        self.message_emitted.emit(call_for_message(partial(self._load, Path(path))))

    def _load(self, path: Path) -> str:
        self._form.show_recipe(load_task_recipe(path, self._form.task))
        return f"The settings are now those of '{path.name}'."

    def save(self, path: str) -> None:
        """Write the recipe of the form, or show an error.

        The file dialogue has confirmed that `path` may be overwritten.
        """
        self.message_emitted.emit(call_for_message(partial(self._save, path)))

    def _save(self, path: str) -> str:
        target = path if path.lower().endswith(JSON_SUFFIXES) else f"{path}.json"
        text = self._form.build_recipe().to_json()
        checked_path = resolve_output(target, overwrite=target == path, suffixes=JSON_SUFFIXES)
        write_text(checked_path, text, overwrite=target == path)
        return f"The recipe was saved as '{Path(target).name}'."

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

    message_emitted: Signal = Signal(str)

    def __init__(
        self, viewer: napari.viewer.Viewer, form: SettingsForm, inputs: LayerInputs
    ) -> None:
        page = QWidget()
        super().__init__("Repeat", page)
        self._viewer, self._form = viewer, form
        self._image_chooser, self._extra_inputs = inputs.image_chooser, inputs.extra_inputs
        self._connections = Connections(self)
        self._is_busy = False
        self.combo: QComboBox = make_combo("Result", DOCK_TEXTS["repeat-result"])
        self.again_button: QPushButton = load_button("repeat-again", self.set_up_again)
        self.python_button: QPushButton = load_button("repeat-python")
        self.command_button: QPushButton = load_button("repeat-command")
        self.methods_button: QPushButton = load_button("repeat-methods", self.copy_methods)
        buttons = (self.python_button, self.command_button, self.methods_button)
        self._copy_labels = {button: button.text() for button in buttons}
        self._label_timer = make_single_shot_timer(self, self._restore_labels, _COPIED_MS)
        self.unsaved_label: QLabel = make_message_label()
        self._preset_folder = open_saved_settings(form.task)
        self.presets: UserPresetsWidget = UserPresetsWidget(form, self._preset_folder)
        self.recipes: RecipeButtons = RecipeButtons(form)
        self._build_layout(page)
        for part in (self.presets, self.recipes):
            part.message_emitted.connect(self.message_emitted)
        self.title_button.toggled.connect(self.presets.refresh)  # another dock may have saved one
        self.python_button.clicked.connect(
            partial(self._copy_script, write_python_script, self.python_button)
        )
        self.command_button.clicked.connect(
            partial(self._copy_script, format_command_line, self.command_button)
        )
        self._connections.follow_layers(self.refresh, viewer)
        self._connections.connect(self.refresh, viewer.layers.selection.events.active)
        self.refresh()

    def restore_last_settings(self) -> str:
        """Set the form as it was for the last run; return a message or ""."""
        last_recipe = self._preset_folder.load_last()
        if last_recipe is None or last_recipe == make_recipe(self._form.task):
            return ""
        self._form.show_recipe(last_recipe)
        return DOCK_TEXTS["repeat-last-settings"]

    def remember(self, recipe: Recipe) -> None:
        """Save the settings of a run that begins; errors are ignored, so that the run starts."""
        with suppress(DipError):
            self._preset_folder.save_last(recipe)

    def get_layer(self) -> Image | None:
        """Return the layer of the chosen result, or None."""
        layer: Image | None = find_layer(self._viewer, self.combo.currentText())
        return layer

    def refresh(self, _: object = None) -> None:
        """List the results, latest first; choose a new one or else the selected layer."""
        # not `layers[::-1]`: napari makes a layer list of it, which renames layers of one name
        layers, active = [*reversed(self._viewer.layers)], self._viewer.layers.selection.active
        names = [layer.name for layer in layers if read_result_provenance(layer) is not None]
        update_combo(self.combo, names, names, active.name if active is not None else "")
        for button in self._copy_labels:
            button.setEnabled(bool(names))
        _, provenance = self._read_chosen_result()
        texts = [describe_unsaved_inputs(provenance)] if provenance else []
        if provenance and active is not None and is_kept_image(active):
            names_of_both = {"result": self.combo.currentText(), "kept": active.name}
            texts.insert(0, DOCK_TEXTS["kept-no-script"].format(**names_of_both))
        self.unsaved_label.setText("\n".join(filter(None, texts)))
        self.unsaved_label.setVisible(bool(self.unsaved_label.text()))
        self.again_button.setEnabled(bool(names) and not self._is_busy)

    def set_up_again(self) -> None:
        """Set form and inputs as they were for the chosen result."""
        layer, provenance = self._read_chosen_result()
        if layer is not None and provenance is not None:
            self.message_emitted.emit(
                call_for_message(partial(self._set_up, layer.name, provenance))
            )

    def _set_up(self, result: str, provenance: Mapping[str, Any]) -> str:
        """Set form and inputs and return a message; raise if the result cannot be made here."""
        joint_training = provenance["report"].get("fit", {}).get("joint_training", {})
        if "network_file" in joint_training:
            network = joint_training["network_file"]
            raise RefusedError("joint-repeat", layer=result, network=network)
        recipe = recipe_from_dict(provenance["recipe"])
        if recipe.task.spec.name != self._form.task:
            raise RefusedError("repeat-other-task", layer=result, task=recipe.task.spec.title)
        self._form.show_recipe(recipe)
        recorded = read_recorded_inputs(provenance)
        image, layers = recorded.pop("image"), self._viewer.layers
        with preserve_view(self._viewer):  # the result stays selected
            source_layer = self._open_source(image, result, provenance)
            for record in recorded.values():
                if record["layer"] not in layers:
                    self._open_input(record, result)
        if source_layer is not None:
            axes = image.get("axes", provenance["report"]["axes"])
            self._image_chooser.choose(source_layer.name, axes, is_by_hand=False)
        self._extra_inputs.choose({name: record["layer"] for name, record in recorded.items()})
        names = [record["layer"] for record in (image, *recorded.values())]
        for name in names[source_layer is not None :]:
            if name not in layers:
                raise RefusedError("repeat-layer-gone", result=result, layer=name)
        digests = provenance["report"].get("extra_inputs_sha256", {})
        for name in recorded.keys() & digests.keys():
            layer = recorded[name]["layer"]
            digest = hash_pixels(read_input_pixels(layers[layer], source_layer))
            if digest and digests[name] != digest:
                raise RefusedError("repeat-changed", result=result, layer=layer)
        return f"All is set as for '{result}'. Press Run to make it again."

    def _open_source(
        self, record: Mapping[str, Any], result: str, provenance: Mapping[str, Any]
    ) -> Image | None:
        """Return the layer of which a result was made, opened if needed; None without one.

        Raises
        ------
        RefusedError
            If only other pixels are there, in a layer of its name or in its file.
        """
        if (layer := find_source_layer(self._viewer, provenance)) is None:
            opened = self._open_input(record, result, provenance["report"].get("fit", {}))
            layer = find_source_layer(self._viewer, provenance)
            is_changed = opened is not None or record["layer"] in self._viewer.layers
            if layer is None and opened is not None:
                self._viewer.layers.remove(opened)
            if layer is None and is_changed:
                raise RefusedError("repeat-changed", result=result, layer=record["layer"])
        return layer

    def _open_input(
        self, record: Mapping[str, Any], result: str, fit: Mapping[str, Any] | None = None
    ) -> Any:
        """Open the file of an input, and place it below the result; return its layer, or None.

        The pixel size is that of the run, if `fit` has it: the user may have changed the file's.
        """
        path = record.get("path")
        if not path or not os.path.exists(path):
            return None
        failure_text = f"'{path}' could not be opened"
        layers, _ = try_call(lambda: self._viewer.open(path, plugin="napari"), failure_text)
        for layer in (layers or ())[:1]:
            all_layers = self._viewer.layers
            all_layers.move(all_layers.index(layer), all_layers.index(result))
            layer.visible = fit is not None  # a PSF would lie over a corner of the image
            layer.name = record["layer"]
            with suppress(DipError):
                header = read_header(path)
                if fit and fit.get("scale") and fit.get("units"):
                    header = replace(header, scale=tuple(fit["scale"]), units=tuple(fit["units"]))
                apply_header(layer, header)
        return layers[0] if layers else None

    def copy_methods(self) -> None:
        """Copy the methods text to the clipboard."""
        _, provenance = self._read_chosen_result()
        if provenance is not None:
            texts = list[str]()
            while provenance:
                texts.insert(0, write_methods_section(provenance["report"]))
                provenance = provenance.get("merged_into")  # what was restored before the region
            self._copy_to_clipboard("\n".join(texts), self.methods_button)

    def _read_chosen_result(self) -> tuple[Image | None, Mapping[str, Any] | None]:
        """Return layer and provenance of the chosen result, each None without one."""
        layer = self.get_layer()
        return layer, None if layer is None else read_result_provenance(layer)

    def set_busy(self, is_busy: bool) -> None:
        """Disable what changes the settings during a run."""
        self._is_busy = is_busy
        self.refresh()
        for part in (self.presets, self.recipes):
            part.setEnabled(not is_busy)

    def _copy_script(self, write: Callable[[Repetition], str], button: QPushButton) -> None:
        """Copy a script or command for the result; layers without a file are saved first."""
        layer, provenance = self._read_chosen_result()
        if layer is None or provenance is None or find_call(self) is not None:
            return
        try:
            if provenance.get("shows") == REGION:
                raise RefusedError("repeat-merged", layer=layer.name)
            names, result = find_unsaved_inputs(provenance), layer.name
            layers = tuple(self._find_unsaved_layer(name, provenance, result) for name in names)
        except RefusedError as error:
            self.message_emitted.emit(error.reason.message)
            return
        if not layers:
            self._copy_to_clipboard(write(build_repetition(provenance, {})), button)
            return
        folder = QFileDialog.getExistingDirectory(self, _SAVE_FOLDER_TITLE)
        if not folder:
            return
        self.message_emitted.emit("Saving what the script needs")
        save = partial(save_layers, layers, Path(folder))
        call = BackgroundCall(save, self, activity="Saving", name=layers[0].layer_name)
        call.ended.connect(partial(self._on_saved, layer, write, button))
        call.start()

    def _on_saved(
        self,
        layer: Image,
        write: Callable[[Repetition], str],
        button: QPushButton,
        outcome: dict[str, str] | Fault,
    ) -> None:
        if isinstance(outcome, Fault):
            self.message_emitted.emit(outcome.message)
            return
        provenance = read_result_provenance(layer)
        if provenance is None:  # the metadata of the layer were removed meanwhile
            return
        recorded = read_recorded_inputs(provenance)
        for name, path in outcome.items():  # so that the next copy saves nothing
            recorded[name] = {**recorded[name], "path": path}
        layer.metadata[METADATA_KEY] = {**provenance, "inputs": recorded}
        files = " and ".join(f"'{Path(path).name}'" for path in outcome.values())
        self._copy_to_clipboard(write(build_repetition(provenance, outcome)), button)
        self.message_emitted.emit(f"What was copied reads {files} from the folder that you chose.")

    def _find_unsaved_layer(
        self, name: str, provenance: Mapping[str, Any], result: str
    ) -> UnsavedLayer:
        """Return an input that has to be saved; raise `RefusedError` if its layer is gone."""
        recorded = read_recorded_inputs(provenance)
        layer_name = recorded[name]["layer"]
        layer = find_layer(self._viewer, layer_name)
        fingerprint = provenance["report"].get("extra_inputs_sha256", {}).get(name)
        source_layer = find_source_layer(self._viewer, provenance)
        if name == "image" and source_layer is not None:
            layer = source_layer
        if layer is None:
            raise RefusedError("repeat-unsaved", layer=layer_name, result=result)
        if name == "image":
            pixels = get_full_resolution(layer)
            axes, fingerprint = str(provenance["report"]["axes"]), provenance["input"]["sha256"]
        elif isinstance(layer, Shapes) and source_layer is None:
            raise RefusedError("repeat-unsaved", layer=recorded["image"]["layer"], result=result)
        else:
            pixels = read_input_pixels(layer, source_layer)
            axes = guess_axes(tuple(pixels.shape), rgb=bool(getattr(layer, "rgb", False)))
        return UnsavedLayer(
            input_name=name,
            layer_name=layer.name,
            result_name=result,
            pixels=pixels,
            axes=axes,
            fingerprint=fingerprint,
        )

    def _copy_to_clipboard(self, text: str, button: QPushButton) -> None:
        """Copy a text, and say so on the button that was pressed."""
        copy_text(text)
        self._restore_labels()
        button.setText("Copied")
        self._label_timer.start()

    def _restore_labels(self) -> None:
        for button, text in self._copy_labels.items():
            button.setText(text)

    def _build_layout(self, page: QWidget) -> None:
        form, label, results = make_form(), make_message_label(_OWN_PRESETS_LABEL), QWidget()
        form.addRow("Result", self.combo)
        copy_buttons = [self.python_button, self.command_button]
        rows = ([form], copy_buttons, [self.methods_button], [self.again_button])
        fill_grid(results, (*rows, [self.unsaved_label]))
        fill_grid(page, ([results], [label], [self.presets], [self.recipes]))
