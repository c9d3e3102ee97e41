"""The dock 'Check my computer': usable devices, and commands that install what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from napari_dip.errors import Fault
from napari_dip.pipeline.machine import InstallationReport, examine_installation
from napari_dip.qt.shell.background_call import start_call, stop_parts
from napari_dip.qt.shell.dock_widget import (
    DockLifecycle,
    copy_text,
    fill_grid,
    lay_out,
    load_button,
)
from napari_dip.qt.shell.run_bar import make_message_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtGui import QShowEvent


class ComputerCheckWidget(QWidget):
    """A dock with a description of this computer, collected in a background thread.

    Parameters
    ----------
    examine : callable
        Examines the installation; takes some seconds.
    """

    def __init__(self, examine: Callable[[], InstallationReport] = examine_installation) -> None:
        super().__init__()
        self._closer = DockLifecycle(self, self.shut_down)
        self._examine = examine
        self._install_commands: list[str] = []
        self.message_label: QLabel = make_message_label()
        self.check_button: QPushButton = load_button("computer-check", self.check)
        self.copy_button: QPushButton = load_button("computer-copy")
        self.copy_command_button: QPushButton = load_button("computer-copy-command")
        buttons = QWidget()
        fill_grid(buttons, ([self.check_button, self.copy_button, self.copy_command_button],))
        lay_out(self, (buttons,), (self.message_label,), "tutorial.md")
        self.copy_button.clicked.connect(lambda: copy_text(self.message_label.text()))
        self.copy_command_button.clicked.connect(
            lambda: copy_text("\n".join(self._install_commands))
        )
        self.copy_button.setEnabled(False)
        self.copy_command_button.setVisible(False)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Start the examination when the dock first appears."""
        super().showEvent(event)
        if not self.message_label.text():
            self.check()

    def check(self) -> None:
        """Start the examination in the background."""
        self.check_button.setEnabled(False)
        self.message_label.setText("Trying PyTorch; this takes some seconds.")
        start_call(
            self._examine, self, self._on_report, activity="Looking at", name="this computer"
        )

    def shut_down(self) -> None:
        """Ignore the result of a running examination."""
        stop_parts(self)

    def _on_report(self, report: InstallationReport | Fault) -> None:
        self.check_button.setEnabled(True)
        self.copy_button.setEnabled(True)
        if isinstance(report, Fault):
            self._install_commands, message = [], report.message
        else:
            self._install_commands = [repair.command for repair in report.repairs]
            message = "\n\n".join(report.sentences)
        self.copy_command_button.setVisible(bool(self._install_commands))
        self.message_label.setText(message)
