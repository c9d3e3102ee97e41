"""After a crash: an unfinished run is offered when its dock is opened next, and goes on or goes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QWidget

from napari_dip.errors import Refusal, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.autosave import (
    AutosaveTarget,
    InterruptedRun,
    find_interrupted_runs,
    read_run_inputs,
)
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import recipe_from_dict
from napari_dip.qt.shell.dock_widget import make_button
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.run_completion import attempt
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors
from napari_dip.qt.task.request import (
    collect_layer_pixels,
    list_autosave_folders,
    make_run_request,
    recreate_layer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import napari.viewer

    from napari_dip.qt.shell.input_chooser import InputChooser
    from napari_dip.qt.shell.layer_dock import ExtraInputs
    from napari_dip.qt.shell.settings_form import SettingsForm
    from napari_dip.qt.shell.worker import Switch
    from napari_dip.qt.task.request import RunRequest

_RESUME_TOOLTIP = (
    "Bring back the picture, if it is not here, and all settings, and resume where the run "
    "was cut off. The result is the same as if it had not been."
)
_RESTART_TOOLTIP = (
    "It was begun with another version and cannot go on exactly: bring back the picture and all "
    "settings, and begin again."
)
_DISCARD_TOOLTIP = (
    "Delete what was kept of this run: its settings, its state, and copies of its pixels. "
)


class InterruptedRunPanel(QWidget):
    """A sentence on the latest run that was cut off, and two buttons; hidden if there is none.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    chooser, further, form
        Of the dock.
    """

    #: A list of `RunRequest`, to be run.
    wanted = Signal(object)
    said = Signal(str)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        chooser: InputChooser,
        further: ExtraInputs,
        form: SettingsForm,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._chooser = viewer, chooser
        self._further, self._form = further, form
        self._run: InterruptedRun | None = None
        self._reading: BackgroundCall | None = None
        self.message_label = make_message_label()
        self.go_on_button = make_button("Resume", _RESUME_TOOLTIP)
        self.discard_button = make_button("Discard", _DISCARD_TOOLTIP)
        self.discard_button.setAccessibleName("Discard the unfinished run")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 12)  # apart from what is chosen below
        layout.setVerticalSpacing(4)
        layout.addWidget(self.message_label, 0, 0, 1, 2)
        layout.addWidget(self.go_on_button, 1, 0)
        layout.addWidget(self.discard_button, 1, 1)
        self.go_on_button.clicked.connect(self.go_on)
        self.discard_button.clicked.connect(self.discard)
        self.refresh()

    def refresh(self) -> None:
        """Look for unfinished runs of this task, and offer the latest."""
        runs = [
            find_interrupted_run
            for home in list_autosave_folders()
            for find_interrupted_run in find_interrupted_runs(home, self._form.task)
        ]
        self._run = runs[0] if runs else None
        self.setVisible(self._run is not None)
        if self._run is None:
            return
        others = len(runs) - 1
        more = f" There {'is' if others == 1 else 'are'} {others} more." if others else ""
        self.message_label.setText(f"Unfinished: {self._run.describe()}{more}")
        exact = self._run.exact
        self.go_on_button.setText("Resume" if exact else "Begin again")
        self.go_on_button.setToolTip(f"<qt>{_RESUME_TOOLTIP if exact else _RESTART_TOOLTIP}</qt>")
        where = escape(f"They lie in '{make_printable(str(self._run.folder))}'.")
        self.discard_button.setToolTip(f"<qt>{_DISCARD_TOOLTIP}{where}</qt>")
        self.setEnabled(True)

    def go_on(self) -> None:
        """Read what the run needs, in another thread, and then ask for it."""
        run = self._run
        if run is None or self._reading is not None:
            return
        pixels = collect_layer_pixels(self._viewer, run.inputs)
        self._reading = BackgroundCall(partial(_read_interrupted_run, run, pixels), self)
        self._reading.ended.connect(partial(self._on_read, run, pixels))
        self.setEnabled(False)
        self.said.emit("Reading what the unfinished run needs")
        self._reading.start()

    def discard(self) -> None:
        """Delete the run that is offered; the next one is offered, if there is one."""
        if self._run is not None:
            self._run.remove()
            self.refresh()
            self.said.emit("The unfinished run was deleted.")

    def set_busy(self, busy: bool) -> None:
        """While a run is on, no other one is offered."""
        if busy:
            self.setVisible(False)
        elif self._reading is None:
            self.refresh()

    def shut_down(self) -> None:
        """Wait for nothing any more."""
        if self._reading is not None:
            self._reading.discard()

    def _on_read(self, run: InterruptedRun, inputs: Mapping[str, Any], outcome: Any) -> None:
        self._reading = None
        self.setEnabled(True)
        if isinstance(outcome, Refusal):
            self.said.emit(outcome.message)
            return
        pixels = {name: inputs[name] if array is None else array for name, array in outcome.items()}
        new = {name: array for name, array in outcome.items() if array is not None}
        requests: list[RunRequest | Refusal] = []
        failing = "The unfinished run cannot be brought back"
        if trouble := attempt(lambda: requests.append(self._ask(run, pixels, new)), failing):
            self.said.emit(trouble)
        elif isinstance(requests[0], Refusal):
            self.said.emit(requests[0].message)
        else:
            self.said.emit("")
            self.wanted.emit(requests)

    def _ask(
        self, run: InterruptedRun, pixels: Mapping[str, Any], new: Mapping[str, Any]
    ) -> RunRequest | Refusal:
        """Set the dock as it was for the run; what to ask for, or why it cannot be."""
        names = {
            name: recreate_layer(self._viewer, noted, new[name]) if name in new else noted["layer"]
            for name, noted in run.inputs.items()
        }
        recipe = recipe_from_dict(run.manifest["recipe"])
        self._form.show(recipe)
        self._chooser.choose(names.pop("image"), run.inputs["image"]["axes"])
        self._further.choose(names)
        header, layer = self._chooser.header(), self._chooser.layer()
        if isinstance(header, Refusal) or layer is None:
            raise RuntimeError("its image is not among the layers")
        plan = preflight(recipe, header, run.machine, self._further.headers())
        if isinstance(plan, Refusal):
            return plan
        here = get_allowed_machine()
        if plan.device not in here.devices:
            return refusal("device-missing", device=plan.device, why=here.missing)
        request = replace(make_run_request(plan, layer, self._further), pixels=pixels)
        if run.exact:
            return replace(
                request,
                place=AutosaveTarget(folder=run.folder, run_summary=run.manifest, resume=True),
            )
        run.remove()
        return request


def _read_interrupted_run(
    run: InterruptedRun, layers: Mapping[str, Any], _: Switch
) -> dict[str, Any] | Refusal:
    return catch_errors(lambda: read_run_inputs(run, layers), "Reading", run.manifest["label"])
