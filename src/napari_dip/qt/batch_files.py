"""Which files a batch takes: a line for each file, folder or pattern, typed or chosen."""

from __future__ import annotations

import os

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QPlainTextEdit, QWidget

from napari_dip.qt.button import explained_button

_IMAGES = "Images (*.tif *.tiff *.png *.jpg *.jpeg *.czi *.nd2 *.lif);;All files (*)"
_TIP = (
    "What to restore, a line for each: a file, a folder (the images in it, not those in folders "
    "below), an OME-Zarr, or a pattern such as data/**/*.tif. Lines can be changed and deleted."
)
#: Lines in sight.
_LINES = 2
#: napari's themes leave such a field without a frame; grey is seen on both.
_FRAMED = "QPlainTextEdit { border: 1px solid rgba(128, 128, 128, 140); border-radius: 2px; }"


class FilesChooser(QWidget):
    """Lines of text, and buttons that add to them."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.files_button = explained_button("Add files…", "Choose one or several images")
        self.folder_button = explained_button(
            "Add folder…", "Choose a folder: it stands for the images that lie in it"
        )
        self.lines = QPlainTextEdit()
        self.lines.setAccessibleName("Files")
        self.lines.setStyleSheet(_FRAMED)
        self.lines.setToolTip(f"<qt>{_TIP}</qt>")
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
        self.lines.setFixedHeight(_LINES * self.lines.fontMetrics().lineSpacing() + 14)
        self.lines.textChanged.connect(self.changed)
        self.files_button.clicked.connect(self._on_files)
        self.folder_button.clicked.connect(self._on_folder)

    def inputs(self) -> tuple[str, ...]:
        """Give what is asked for: files, folders and patterns, in that order."""
        lines = (line.strip() for line in self.lines.toPlainText().splitlines())
        return tuple(os.path.expanduser(line) for line in lines if line)

    def add(self, *paths: str) -> None:
        """Add lines below those that there are."""
        new = [one for one in paths if one and one not in self.inputs()]
        if new:
            self.show_inputs((*self.inputs(), *new))

    def show_inputs(self, inputs: tuple[str, ...]) -> None:
        """Ask for other files; tells once."""
        with QSignalBlocker(self.lines):
            self.lines.setPlainText("\n".join(inputs))
        self.changed.emit()

    def _on_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Files to restore", "", _IMAGES)
        self.add(*paths)

    def _on_folder(self) -> None:
        self.add(QFileDialog.getExistingDirectory(self, "Folder of images to restore"))
