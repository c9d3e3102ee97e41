"""Repeating a result: as a script, a command line, a methods text, or again in the dock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QApplication, QFileDialog, QWidget

from napari_dip.errors import Refusal, RefusedError, make_refusal
from napari_dip.io import guess_axes
from napari_dip.io.writing import write_image
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.events import Control
from napari_dip.pipeline.recipe import recipe_from_dict
from napari_dip.pipeline.reproduce.repetition import format_command_line, write_python_script
from napari_dip.qt.shell.dock_widget import (
    Connections,
    fill_combo,
    fill_grid,
    make_button,
    make_combo,
    make_form,
)
from napari_dip.qt.shell.layer_inputs import rasterise_shapes
from napari_dip.qt.shell.layers import METADATA_KEY, get_full_resolution
from napari_dip.qt.shell.worker import BackgroundCall
from napari_dip.qt.task.request import (
    build_repetition,
    find_unsaved_inputs,
    read_recorded_inputs,
    read_result_provenance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import napari.viewer

    from napari_dip.pipeline.reproduce.repetition import Repetition
    from napari_dip.qt.shell.layer_inputs import LayerInputs
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.qt.shell.worker import RunControl

_SAVE_FOLDER_TITLE = "Folder for the layers that lie in no file, for the script to read"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnsavedLayer:
    """An input layer without a file, which has to be saved for a script.

    Attributes
    ----------
    name : str
        The name of the input.
    layer, result : str
        Names of the layer and of the result.
    pixels : array
        Lazy or not.
    axes : str
        One letter for each axis of the pixels.
    fingerprint : str or None
        The expected `compute_sha256` of the pixels; None to skip the check.
    """

    name: str
    layer: str
    result: str
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
            raise RefusedError(
                make_refusal("repeat-changed", layer=layer.layer, result=layer.result)
            )
        if control() is Control.DISCARD:
            break
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        path = _find_free_path(folder, layer.layer)
        paths[layer.name] = str(write_image(path, pixels, axes=layer.axes))
    return paths


def _find_free_path(folder: Path, layer: str) -> Path:
    """Return a path named after a layer, with a number if the file exists already."""
    stem = "".join(
        character if character.isalnum() or character in " ._-" else "-" for character in layer
    )
    stem = stem.strip(" .") or "layer"
    path, number = folder / f"{stem}.tif", 2
    while path.exists() or path.is_symlink():
        path, number = folder / f"{stem}-{number}.tif", number + 1
    return path


class RepeatButtons(QWidget):
    """A list of results, and four buttons that repeat the chosen one.

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
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._form = viewer, form
        self._chooser, self._extra_inputs = inputs.chooser, inputs.extra_inputs
        self._connections = Connections()
        self._save_call: BackgroundCall | None = None
        self._is_busy = False
        self.combo = make_combo(
            "Result",
            "The result to repeat: the layer that is selected in napari, or else the latest.",
        )
        self.again_button = make_button(
            "Run again from this layer",
            "Set this dock as it was for this result: image, further pictures and all settings. "
            "Nothing runs until you press Run.",
        )
        self.python_button = make_button(
            "Copy as Python",
            "Copy a script that makes this result again, to paste into a file or a notebook.",
        )
        self.command_button = make_button(
            "Copy as command",
            "Copy the line that makes this result again, to paste into a terminal.",
        )
        self.methods_button = make_button(
            "Copy methods text",
            "Copy what to write about this result in a paper: version, settings, what was "
            "measured, and the references for what was used.",
        )
        self._arrange()
        self.again_button.clicked.connect(self.set_up_again)
        self.python_button.clicked.connect(partial(self._copy, write_python_script, "The script"))
        self.command_button.clicked.connect(partial(self._copy, format_command_line, "The command"))
        self.methods_button.clicked.connect(self.copy_methods)
        self._connections.follow_layers(self.refresh, viewer)
        self._connections.connect(self.refresh, viewer.layers.selection.events.active)
        self.refresh()

    def get_layer(self) -> Image | None:
        """Return the layer of the chosen result, or None."""
        name = self.combo.currentText()
        return self._viewer.layers[name] if name and name in self._viewer.layers else None

    def refresh(self, _: object = None) -> None:
        """List the results, latest first; choose a new one or else the selected layer."""
        layers = [
            layer for layer in self._viewer.layers if read_result_provenance(layer) is not None
        ][::-1]
        names, previous_name = [layer.name for layer in layers], self.combo.currentText()
        fresh = [name for name in names if self.combo.findText(name) < 0]
        active = self._viewer.layers.selection.active
        chosen_name = next(iter(fresh), previous_name)
        if active in layers and not fresh:
            chosen_name = active.name
        fill_combo(self.combo, names, chosen_name, default=0)
        for button in (self.python_button, self.command_button, self.methods_button):
            button.setEnabled(bool(names))
        self.again_button.setEnabled(bool(names) and not self._is_busy)

    def set_up_again(self) -> None:
        """Set form and inputs as they were for the chosen result."""
        layer = self.get_layer()
        provenance = None if layer is None else read_result_provenance(layer)
        if layer is None or provenance is None:
            return
        joint_training = provenance["report"].get("fit", {}).get("joint_training", {})
        if "network_file" in joint_training:
            error = make_refusal(
                "series-repeat", layer=layer.name, network=joint_training["network_file"]
            )
            self.message_emitted.emit(error.message)
            return
        recipe = recipe_from_dict(provenance["recipe"])
        if recipe.task.spec.name != self._form.task:
            title = recipe.task.spec.title
            error = make_refusal("repeat-other-task", layer=layer.name, task=title)
            self.message_emitted.emit(error.message)
            return
        self._form.show(recipe)
        recorded = read_recorded_inputs(provenance)
        image = recorded.pop("image")
        is_chosen = self._chooser.choose(
            image["layer"], image.get("axes", provenance["report"]["axes"])
        )
        self._extra_inputs.choose({name: record["layer"] for name, record in recorded.items()})
        names = [record["layer"] for record in (image, *recorded.values())]
        missing = [name for name in names if name not in self._viewer.layers]
        if missing or not is_chosen:
            missing_name = missing[0] if missing else image["layer"]
            error = make_refusal("repeat-layer-gone", result=layer.name, layer=missing_name)
            self.message_emitted.emit(error.message)
            return
        self.message_emitted.emit(f"All is set as for '{layer.name}'. Press Run to make it again.")

    def copy_methods(self) -> None:
        """Copy the methods text to the clipboard."""
        layer = self.get_layer()
        provenance = None if layer is None else read_result_provenance(layer)
        if provenance is not None:
            self._to_clipboard(write_methods_section(provenance["report"]), "The methods text")

    def set_busy(self, busy: bool) -> None:
        """Disable "Run again" during a run."""
        self._is_busy = busy
        self.refresh()

    def disconnect_viewer(self) -> None:
        """Disconnect from the viewer, which outlives this widget."""
        if self._save_call is not None:
            self._save_call.discard()
        self._connections.end()

    def _copy(self, write: Callable[[Repetition], str], what: str) -> None:
        """Copy a script or command for the result; layers without a file are saved first."""
        layer = self.get_layer()
        provenance = None if layer is None else read_result_provenance(layer)
        if layer is None or provenance is None or self._save_call is not None:
            return
        unsaved = find_unsaved_inputs(provenance)
        if not unsaved:
            self._to_clipboard(write(build_repetition(provenance, {})), what)
            return
        unsaved_layers = [
            self._find_unsaved_layer(name, provenance, layer.name) for name in unsaved
        ]
        for unsaved_layer in unsaved_layers:
            if isinstance(unsaved_layer, Refusal):
                self.message_emitted.emit(unsaved_layer.message)
                return
        folder = QFileDialog.getExistingDirectory(self, _SAVE_FOLDER_TITLE)
        if not folder:
            return
        layers_to_save = tuple(
            layer_to_save
            for layer_to_save in unsaved_layers
            if isinstance(layer_to_save, UnsavedLayer)
        )
        self.message_emitted.emit("Saving what the script needs")
        self._save_call = BackgroundCall(
            partial(save_layers, layers_to_save, Path(folder)),
            self,
            doing="Saving",
            name=layers_to_save[0].layer,
        )
        self._save_call.ended.connect(partial(self._on_saved, layer, write, what))
        self._save_call.start()

    def _on_saved(
        self,
        layer: Image,
        write: Callable[[Repetition], str],
        what: str,
        outcome: dict[str, str] | Refusal,
    ) -> None:
        self._save_call = None
        if isinstance(outcome, Refusal):
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
        self._to_clipboard(
            write(build_repetition(provenance, outcome)), what, f" {files} lies beside it."
        )

    def _find_unsaved_layer(
        self, name: str, provenance: Mapping[str, Any], result: str
    ) -> UnsavedLayer | Refusal:
        """Return an input that has to be saved, or a refusal if its layer no longer exists."""
        recorded = read_recorded_inputs(provenance)
        record = recorded[name]
        if record["layer"] not in self._viewer.layers:
            return make_refusal("repeat-unsaved", layer=record["layer"], result=result)
        layer = self._viewer.layers[record["layer"]]
        if name == "image":
            axes, fingerprint = str(provenance["report"]["axes"]), provenance["input"]["sha256"]
            return UnsavedLayer(
                name=name,
                layer=layer.name,
                result=result,
                pixels=get_full_resolution(layer),
                axes=axes,
                fingerprint=fingerprint,
            )
        if isinstance(layer, Shapes):
            image = recorded["image"]["layer"]
            source_layer = self._viewer.layers[image] if image in self._viewer.layers else None
            if not isinstance(source_layer, Image):
                return make_refusal("repeat-unsaved", layer=image, result=result)
            return UnsavedLayer(
                name=name,
                layer=layer.name,
                result=result,
                pixels=rasterise_shapes(layer, source_layer).astype(np.uint8),
                axes="YX",
            )
        pixels = get_full_resolution(layer)
        axes = guess_axes(tuple(pixels.shape), rgb=bool(getattr(layer, "rgb", False)))
        return UnsavedLayer(name=name, layer=layer.name, result=result, pixels=pixels, axes=axes)

    def _to_clipboard(self, text: str, what: str, more: str = "") -> None:
        clipboard = QApplication.clipboard()
        assert clipboard is not None  # there is an application, since there is a widget
        clipboard.setText(text)
        self.message_emitted.emit(f"{what} was copied; paste it where you want it.{more}")

    def _arrange(self) -> None:
        form = make_form()
        form.addRow("Result", self.combo)
        rows = (
            [form],
            [self.python_button, self.command_button],
            [self.methods_button],
            [self.again_button],
        )
        fill_grid(self, rows)
