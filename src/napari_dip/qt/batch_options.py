"""Where the results of a batch go, and what few need to set about it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QFormLayout, QLineEdit, QSpinBox, QWidget

from napari_dip.io.paths import is_zarr
from napari_dip.qt.form import WheelGuard
from napari_dip.qt.offering import let_browse_folders
from napari_dip.tasks import TASKS

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
_NO_PROCESSES = (
    "Several files side by side need what is not installed here: pip install "
    '"napari-dip[cluster]". For more computers, see the command line.'
)
_ONE_NETWORK_TIP = (
    "For eight files or more of one microscope, taken with the same settings: a network is fitted "
    "to up to 32 of them, each with gain, range and noise of its own, and then shown each file, "
    "which takes a fraction of the time. A result then does not come from its own file alone; its "
    "report names the network, which stays with the results. Pixels that were held out decide "
    "whether all files go on by themselves from there."
)
_NO_NETWORK = "This task fits what a file holds, so that no network can serve several."
_MAGIC = frozenset("*?[")


class ResultsFolder(QLineEdit):
    """The folder of the results: suggested beside the inputs until the user names one."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._by_hand = False
        self.setAccessibleName("Results in")
        self.setPlaceholderText("a folder of their own")
        self.setToolTip(f"<qt>{_FOLDER_TIP}</qt>")
        let_browse_folders(self, "Folder for the results")
        self.textChanged.connect(self._on_text)

    @property
    def path(self) -> str:
        """What is named; empty for nothing."""
        return os.path.expanduser(self.text().strip())

    def suggest(self, inputs: tuple[str, ...], done: str) -> None:
        """Name a folder beside the inputs, unless the user has named one."""
        if not self._by_hand:
            with QSignalBlocker(self):
                self.setText(beside(inputs[0], done) if inputs else "")

    def _on_text(self, text: str) -> None:
        self._by_hand = bool(text.strip())
        self.changed.emit()


class OneNetwork(QCheckBox):
    """Whether one network is fitted to all files; for tasks where one can serve several."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("One network for all files", parent)
        self.toggled.connect(lambda _: self.changed.emit())
        self.fit_task("denoise")

    def fit_task(self, task: str) -> None:
        """Offer it where it is of use; what was chosen stays for when it is again."""
        useful = "sharing" in TASKS[task].setting_names()
        self.setEnabled(useful)
        self.setToolTip(f"<qt>{_ONE_NETWORK_TIP if useful else _NO_NETWORK}</qt>")

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
        there = find_spec("distributed") is not None
        self.processes.setEnabled(there)
        self.processes.setToolTip(f"<qt>{_PROCESSES_TIP if there else _NO_PROCESSES}</qt>")
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


def beside(source: str, done: str) -> str:
    """Name a folder for results in the folder that the inputs lie in.

    Parameters
    ----------
    source : str
        A file, a folder or a pattern.
    done : str
        What is done to them, such as "denoised".
    """
    place = Path(source)
    pattern = bool(_MAGIC & set(source))
    while _MAGIC & set(str(place)):
        place = place.parent
    own = place.is_dir() and not is_zarr(place)
    return str((place if own or pattern else place.parent) / done)
