"""The dock 'Check my computer': what is there to compute with, and the line that mends the rest."""

from __future__ import annotations

from functools import partial
from math import floor
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QApplication, QHBoxLayout, QVBoxLayout

from napari_dip.errors import Refusal
from napari_dip.pipeline.doctor import InstallationReport, examine_installation
from napari_dip.pipeline.machine import format_bytes
from napari_dip.qt.shell.dock_widget import MIN_DOCK_WIDTH, DockWidget, make_button
from napari_dip.qt.shell.run_bar import make_message_label
from napari_dip.qt.shell.worker import BackgroundCall, catch_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtGui import QShowEvent

    from napari_dip.qt.shell.worker import Switch

_DEVICE_NAMES = {
    "cpu": "the CPU",
    "cuda": "the NVIDIA GPU",
    "mps": "the Apple GPU",
}


class CheckMyComputer(DockWidget):
    """Sentences about this computer, looked up in another thread as soon as the dock is seen.

    Parameters
    ----------
    look : callable
        What finds it out; takes some seconds.
    """

    def __init__(self, look: Callable[[], InstallationReport] = examine_installation) -> None:
        super().__init__()
        self._look = look
        self._call: BackgroundCall | None = None
        self._lines: list[str] = []
        self.message_label = make_message_label()
        self.check_button = make_button("Check again", "Try PyTorch and look for GPUs once more")
        self.copy_button = make_button("Copy", "Copy all of it, to send it to somebody")
        self.line_button = make_button(
            "Copy the line", "Copy the line that mends what is missing, for a terminal"
        )
        layout, buttons = QVBoxLayout(self), QHBoxLayout()
        for button in (self.check_button, self.copy_button, self.line_button):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        layout.addWidget(self.message_label)
        layout.addStretch()
        self.check_button.clicked.connect(self.check)
        self.copy_button.clicked.connect(lambda: _copy(self.message_label.text()))
        self.line_button.clicked.connect(lambda: _copy("\n".join(self._lines)))
        self.copy_button.setEnabled(False)
        self.line_button.setVisible(False)
        self.setMinimumWidth(MIN_DOCK_WIDTH)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Look at once, the first time."""
        super().showEvent(event)
        if not self.message_label.text():
            self.check()

    def check(self) -> None:
        """Look; the answer comes later."""
        self.check_button.setEnabled(False)
        self.message_label.setText("Trying PyTorch; this takes some seconds.")
        self._call = BackgroundCall(partial(_run_examination, self._look), self)
        self._call.ended.connect(self._on_found)
        self._call.start()

    def shut_down(self) -> None:
        """Wait for no answer any more."""
        if self._call is not None:
            self._call.discard()
        self._call = None

    def _on_found(self, report: InstallationReport | Refusal) -> None:
        self._call = None
        self.check_button.setEnabled(True)
        self.copy_button.setEnabled(True)
        if isinstance(report, Refusal):
            self._lines, message = [], report.message
        else:
            self._lines = [mend.command for mend in report.mends]
            message = "\n\n".join(describe_examination(report))
        self.line_button.setVisible(bool(self._lines))
        self.message_label.setText(message)


def describe_examination(report: InstallationReport) -> list[str]:
    """Say what was found, what it means for restorations, and how to mend what is missing."""
    names = [_DEVICE_NAMES[device] for device in report.devices]
    if report.cards and report.devices:
        names[0] += f" ({', '.join(report.cards)})"
    on = f"Restorations run on {names[0]}" if names else "Nothing can be restored here"
    others = f"; {' or '.join(names[1:])} can be chosen" if names[1:] else ""
    built = report.build or "CPUs only"
    said = [f"{on}{others}."]
    if report.no_card:
        said.append(f"No GPU is used: {report.no_card}.")
    if report.torch:
        said.append(f"PyTorch {report.torch}, built for {built}.")
    memory = format_bytes(report.memory_bytes, floor)
    cores = "1 CPU core" if report.cores == 1 else f"{report.cores} CPU cores"
    said += [
        f"{cores}, {memory} of memory free.",
        f"napari-dip {report.version}, napari {report.napari or 'missing'}, "
        f"{report.qt or 'no Qt binding'}, Python {report.python}, {report.system}.",
    ]
    if not report.mends:
        return [*said, "All that is needed is there."]
    return said + [f"{mend.trouble}. To mend it:\n{mend.command}" for mend in report.mends]


def _run_examination(
    look: Callable[[], InstallationReport], _: Switch
) -> InstallationReport | Refusal:
    return catch_errors(look, "Looking at", "this computer")


def _copy(text: str) -> None:
    clipboard = QApplication.clipboard()
    if clipboard is not None:
        clipboard.setText(text)
