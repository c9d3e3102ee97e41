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
    Unfinished,
    find_unfinished,
    read_run_inputs,
)
from napari_dip.pipeline.plan.plan import preflight
from napari_dip.pipeline.recipe import recipe_from_dict
from napari_dip.qt.shell.docked import make_button
from napari_dip.qt.shell.ending import attempt
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.run_bar import make_message_label
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

    from napari_dip.qt.shell.chooser import InputChooser
    from napari_dip.qt.shell.form import SettingsForm
    from napari_dip.qt.shell.layer_dock import ExtraInputs
    from napari_dip.qt.shell.worker import Switch
    from napari_dip.qt.task.request import RunRequest

_RESUME_TOOLTIP = (
    "Bring back the picture, if it is not here, and all settings, and go on from where the run "
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
        self._one: Unfinished | None = None
        self._reading: BackgroundCall | None = None
        self.words = make_message_label()
        self.go_on_button = make_button("Go on", _RESUME_TOOLTIP)
        self.discard_button = make_button("Discard", _DISCARD_TOOLTIP)
        self.discard_button.setAccessibleName("Discard the unfinished run")
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 12)  # apart from what is chosen below
        layout.setVerticalSpacing(4)
        layout.addWidget(self.words, 0, 0, 1, 2)
        layout.addWidget(self.go_on_button, 1, 0)
        layout.addWidget(self.discard_button, 1, 1)
        self.go_on_button.clicked.connect(self.go_on)
        self.discard_button.clicked.connect(self.discard)
        self.refresh()

    def refresh(self) -> None:
        """Look for unfinished runs of this task, and offer the latest."""
        found = [
            one
            for home in list_autosave_folders()
            for one in find_unfinished(home, self._form.task)
        ]
        self._one = found[0] if found else None
        self.setVisible(self._one is not None)
        if self._one is None:
            return
        others = len(found) - 1
        more = f" There {'is' if others == 1 else 'are'} {others} more." if others else ""
        self.words.setText(f"Unfinished: {self._one.words()}{more}")
        exact = self._one.exact
        self.go_on_button.setText("Go on" if exact else "Begin again")
        self.go_on_button.setToolTip(f"<qt>{_RESUME_TOOLTIP if exact else _RESTART_TOOLTIP}</qt>")
        where = escape(f"They lie in '{make_printable(str(self._one.folder))}'.")
        self.discard_button.setToolTip(f"<qt>{_DISCARD_TOOLTIP}{where}</qt>")
        self.setEnabled(True)

    def go_on(self) -> None:
        """Read what the run needs, in another thread, and then ask for it."""
        one = self._one
        if one is None or self._reading is not None:
            return
        there = collect_layer_pixels(self._viewer, one.inputs)
        self._reading = BackgroundCall(partial(_read_interrupted_run, one, there), self)
        self._reading.ended.connect(partial(self._on_read, one, there))
        self.setEnabled(False)
        self.said.emit("Reading what the unfinished run needs")
        self._reading.start()

    def discard(self) -> None:
        """Delete the run that is offered; the next one is offered, if there is one."""
        if self._one is not None:
            self._one.remove()
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

    def _on_read(self, one: Unfinished, there: Mapping[str, Any], outcome: Any) -> None:
        self._reading = None
        self.setEnabled(True)
        if isinstance(outcome, Refusal):
            self.said.emit(outcome.message)
            return
        pixels = {name: there[name] if array is None else array for name, array in outcome.items()}
        new = {name: array for name, array in outcome.items() if array is not None}
        asked: list[RunRequest | Refusal] = []
        failing = "The unfinished run cannot be brought back"
        if trouble := attempt(lambda: asked.append(self._ask(one, pixels, new)), failing):
            self.said.emit(trouble)
        elif isinstance(asked[0], Refusal):
            self.said.emit(asked[0].message)
        else:
            self.said.emit("")
            self.wanted.emit(asked)

    def _ask(
        self, one: Unfinished, pixels: Mapping[str, Any], new: Mapping[str, Any]
    ) -> RunRequest | Refusal:
        """Set the dock as it was for the run; what to ask for, or why it cannot be."""
        names = {
            name: recreate_layer(self._viewer, noted, new[name]) if name in new else noted["layer"]
            for name, noted in one.inputs.items()
        }
        recipe = recipe_from_dict(one.told["recipe"])
        self._form.show(recipe)
        self._chooser.choose(names.pop("image"), one.inputs["image"]["axes"])
        self._further.choose(names)
        header, layer = self._chooser.header(), self._chooser.layer()
        if isinstance(header, Refusal) or layer is None:
            raise RuntimeError("its image is not among the layers")
        plan = preflight(recipe, header, one.machine, self._further.headers())
        if isinstance(plan, Refusal):
            return plan
        here = get_allowed_machine()
        if plan.device not in here.devices:
            return refusal("device-missing", device=plan.device, why=here.missing)
        asked = replace(make_run_request(plan, layer, self._further), pixels=pixels)
        if one.exact:
            return replace(asked, place=AutosaveTarget(one.folder, one.told, resume=True))
        one.remove()
        return asked


def _read_interrupted_run(
    one: Unfinished, there: Mapping[str, Any], _: Switch
) -> dict[str, Any] | Refusal:
    return catch_errors(lambda: read_run_inputs(one, there), "Reading", one.told["label"])
