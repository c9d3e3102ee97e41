"""What earlier runs left to a dock: runs that a crash interrupted, and the network of the last."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QPushButton, QWidget

from napari_dip.errors import DipError, Fault, Refusal, make_refusal
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import find_free_path
from napari_dip.pipeline.autosave import (
    AutosaveTarget,
    InterruptedRun,
    find_interrupted_runs,
    read_run_inputs,
)
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import recipe_from_dict
from napari_dip.pipeline.store.network_files import RunNetwork, read_network
from napari_dip.qt.shell.background_call import find_call, start_call, try_call
from napari_dip.qt.shell.dock_widget import fill_grid, fit_view, load_tooltip, preserve_view
from napari_dip.qt.shell.layer_headers import get_full_resolution
from napari_dip.qt.shell.napari_layers import find_layer
from napari_dip.qt.shell.preferences import find_settings_folder, get_allowed_machine, get_scheduler
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.task.run_request import find_autosave_folder, make_run_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari.viewer import Viewer

    from napari_dip.pipeline.plan.types import JointNetwork, Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.qt.shell.job_controller import JobRequest
    from napari_dip.qt.shell.layer_inputs import LayerInputs
    from napari_dip.qt.shell.settings_form import SettingsForm


#: Letters of a layer's name for which the label of a box has room in a dock of 280 pixels.
MAX_NAME_LENGTH = 20


def collect_layer_pixels(viewer: Viewer, inputs: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return the pixels of those inputs of a run whose layers exist, by input name.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : mapping of str to mapping
        The recorded inputs of the run.
    """
    pixels = {}
    for name, record in inputs.items():
        layer = find_layer(viewer, record["layer"])
        if isinstance(layer, Image | Labels):
            pixels[name] = get_full_resolution(layer)
    return pixels


def recreate_layer(viewer: Viewer, recorded_layer: Mapping[str, Any], pixels: Any) -> str:
    """Add a recorded layer again, without position and colours if napari rejects these.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    recorded_layer : mapping
        The record of the layer.
    pixels : ndarray

    Returns
    -------
    str
        The name of the layer, which differs from the recorded one if that is in use.
    """
    attributes = {**recorded_layer["look"], "name": recorded_layer["layer"]}
    with preserve_view(viewer):
        if recorded_layer["kind"] == "labels":
            labels = np.asarray(pixels)
            labels = labels.astype(np.uint8) if labels.dtype == bool else labels
            return str(viewer.add_labels(labels, **attributes).name)
        try:
            layer = viewer.add_image(pixels, **attributes)
        except (TypeError, ValueError, KeyError):  # attributes of another version of napari
            layer = viewer.add_image(
                pixels, name=recorded_layer["layer"], rgb=bool(attributes.get("rgb"))
            )
    return str(layer.name)


class InterruptedRunPanel(QWidget):
    """The latest interrupted run with buttons to resume and discard it; hidden if there is none.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    inputs : LayerInputs
    form : SettingsForm
    """

    #: Emitted with a list of `JobRequest`, to be run.
    run_requested: Signal = Signal(object)
    message_emitted: Signal = Signal(str)

    def __init__(self, viewer: Viewer, inputs: LayerInputs, form: SettingsForm) -> None:
        super().__init__()
        self._viewer, self._form = viewer, form
        self._image_chooser, self._extra_inputs = inputs.image_chooser, inputs.extra_inputs
        self._run: InterruptedRun | None = None
        self.message_label: QLabel = make_message_label()
        self.resume_button: QPushButton = QPushButton("Resume")
        self.discard_button: QPushButton = QPushButton("Discard")
        self.discard_button.setAccessibleName("Discard the unfinished run")
        rows = ([self.message_label], [self.resume_button, self.discard_button])
        layout = fill_grid(self, rows, spacing=4)
        layout.setContentsMargins(0, 0, 0, 12)  # a gap to the widgets below
        self.resume_button.clicked.connect(self.resume)
        self.discard_button.clicked.connect(self.discard)
        self.refresh()

    def refresh(self) -> None:
        """Search for interrupted runs of this task, and show the latest."""
        folder = find_autosave_folder()
        runs = () if folder is None else find_interrupted_runs(folder, self._form.task)
        self._run = runs[0] if runs else None
        self.setVisible(self._run is not None)
        if self._run is None:
            return
        count = len(runs) - 1
        more_runs = f" There {'is' if count == 1 else 'are'} {count} more." if count else ""
        self.message_label.setText(f"Unfinished: {self._run.describe()}{more_runs}")
        is_resumable = self._run.is_resumable
        self.resume_button.setText("Resume" if is_resumable else "Begin again")
        tip = "unfinished-resume-tooltip" if is_resumable else "unfinished-restart-tooltip"
        self.resume_button.setToolTip(load_tooltip(tip))
        folder_note = escape(f"They lie in '{make_printable(str(self._run.folder))}'.")
        self.discard_button.setToolTip(load_tooltip("unfinished-discard-tooltip", folder_note))
        self.setEnabled(True)

    def resume(self) -> None:
        """Read the inputs of the run in the background, then request the run."""
        run = self._run
        if run is None or find_call(self) is not None:
            return
        pixels = collect_layer_pixels(self._viewer, run.inputs)
        start_call(
            partial(read_run_inputs, run, pixels),
            self,
            partial(self._on_read, run, pixels),
            activity="Reading",
            name=run.manifest["label"],
        )
        self.setEnabled(False)
        self.message_emitted.emit("Reading what the unfinished run needs")

    def discard(self) -> None:
        """Delete the interrupted run, and show the next one if there is one."""
        if self._run is not None:
            self._run.remove()
            self.refresh()
            self.message_emitted.emit("The unfinished run was deleted.")

    def set_busy(self, is_busy: bool) -> None:
        """Hide the panel during a run."""
        if is_busy:
            self.setVisible(False)
        elif find_call(self) is None:
            self.refresh()

    def _on_read(self, run: InterruptedRun, inputs: Mapping[str, Any], outcome: Any) -> None:
        self.setEnabled(True)
        if isinstance(outcome, Fault):
            self.message_emitted.emit(outcome.message)
            return
        pixels = {name: inputs[name] if array is None else array for name, array in outcome.items()}
        loaded_pixels = {name: array for name, array in outcome.items() if array is not None}
        request, error_message = try_call(
            lambda: self._restore_request(run, pixels, loaded_pixels),
            "The unfinished run cannot be brought back",
        )
        if isinstance(request, Refusal):
            error_message, request = request.message, None
        self.message_emitted.emit(error_message)
        if request is not None:
            self.run_requested.emit([request])

    def _restore_request(
        self, run: InterruptedRun, pixels: Mapping[str, Any], loaded_pixels: Mapping[str, Any]
    ) -> JobRequest | Refusal:
        """Restore layers and settings of the run; return its request, or a refusal."""
        names = {name: record["layer"] for name, record in run.inputs.items()}
        for name, array in loaded_pixels.items():
            names[name] = recreate_layer(self._viewer, run.inputs[name], array)
        if "image" in loaded_pixels:
            image = self._viewer.layers[names["image"]]
            fit_view(self._viewer, image)
            self._viewer.layers.selection.active = image
        recipe = recipe_from_dict(run.manifest["recipe"])
        self._form.show_recipe(recipe)
        axes = run.inputs["image"]["axes"]
        self._image_chooser.choose(names.pop("image"), axes, is_by_hand=False)
        self._extra_inputs.choose(names)
        header, layer = self._image_chooser.read_header(), self._image_chooser.get_layer()
        if isinstance(header, Refusal) or layer is None:
            raise RuntimeError("its image is not among the layers")
        extra_headers, machine = self._extra_inputs.read_headers(), get_allowed_machine()
        plan = preflight(recipe, header, run.machine, extra_headers)
        if isinstance(plan, Refusal):
            return plan
        if plan.device not in machine.devices:
            return make_refusal("device-missing", device=plan.device, why=machine.no_gpu_reason)
        target = None
        if run.is_resumable:
            target = AutosaveTarget(folder=run.folder, run_summary=run.manifest, resume=True)
        else:
            run.remove()
        request = make_run_request(plan, layer, self._extra_inputs, autosave_target=target)
        return replace(request, inputs=pixels)


class NetworkStartBox(QCheckBox):
    """Offer to begin with the network of the last image; hidden where it does not suit the plan.

    The network of each result is a file next to napari's settings. It stays there if another result
    began with it, whose report names it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._network: JointNetwork | None = None
        self._is_used = False
        self.setToolTip(load_tooltip("network-start-tooltip"))
        self.setVisible(False)

    def remember(self, result: Restoration) -> None:
        """Keep the network of a result for the next image, if a fit can begin with it."""
        network, folder = result.run_network, find_settings_folder()
        if folder is None or not isinstance(network, RunNetwork) or not network.can_start_fit:
            return
        self.forget()
        with suppress(OSError, DipError):  # it is not offered then, and nothing else is lost
            (folder / "networks").mkdir(parents=True, exist_ok=True)
            name = network.run_plan.header.name
            path = network.save(find_free_path(folder / "networks", name, ".safetensors"))
            self._network = read_network(path)
            self.setText(f"Begin with the network of '{_shorten(name)}'")

    def forget(self) -> None:
        """Delete the file of the network, unless a result began with it."""
        if self._network is not None and not self._is_used:
            with suppress(OSError):
                Path(self._network.path).unlink()
        self._network, self._is_used = None, False

    def update_plan(self, plan: Plan) -> Plan:
        """Show whether the network suits a plan; return the plan that begins with it, if ticked."""
        plan_with_start = self._make_plan_with_start(plan)
        self.setVisible(plan_with_start is not None)
        return plan if plan_with_start is None or not self.isChecked() else plan_with_start

    def note_use(self, plan: Plan) -> None:
        """Keep the file if a run begins with the network."""
        self._is_used = self._is_used or plan.network is not None

    def _make_plan_with_start(self, plan: Plan) -> Plan | None:
        """Return the plan that begins with the network; None if it does not suit the image."""
        network = self._network
        if network is None or plan.header.name in network.files:
            return None
        if get_scheduler() or not Path(network.path).is_file():  # workers would not find the file
            return None
        machine = get_allowed_machine()
        planned = preflight(plan.recipe, plan.header, machine, plan.extra_headers, network)
        return None if isinstance(planned, Refusal) or planned.network is None else planned


def _shorten(name: str) -> str:
    """Return the name of a layer for a label of one line, in which & marks no letter."""
    name = name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
    return name.replace("&", "&&")
