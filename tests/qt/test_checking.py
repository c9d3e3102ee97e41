"""'Check my computer' says in words what there is, and hands over the line that mends the rest."""

from __future__ import annotations

import threading

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_dip.qt.checking import CheckMyComputer, sentences
from napari_dip.run.doctor import Examination, Mend

FOUND = Examination(
    version="0.1.0",
    python="3.11.7 at /usr/bin/python",
    system="Linux",
    torch="2.13.0",
    build="no CUDA",
    devices=("cpu",),
    cards=(),
    no_card="PyTorch is built for processors",
    cores=8,
    memory_bytes=16_000_000_000,
    napari="0.9.2",
    qt="PyQt6 6.11",
    mends=(Mend("There is an NVIDIA card, but PyTorch cannot use it", "pip install that"),),
)


@pytest.fixture
def dock(qtbot):
    looked = []

    def look():
        looked.append(threading.current_thread())
        return FOUND

    dock = CheckMyComputer(look)
    dock.looked = looked
    qtbot.addWidget(dock)
    return dock


def test_nothing_is_looked_at_before_check_is_pressed_and_then_in_another_thread(dock, qtbot):
    assert dock.looked == [] and not dock.copy_button.isEnabled()
    qtbot.mouseClick(dock.check_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(dock.check_button.isEnabled)
    (where,) = dock.looked
    assert where is not threading.main_thread()
    assert "Restorations run on the processor." in dock.words.text()
    qtbot.mouseClick(dock.line_button, Qt.MouseButton.LeftButton)
    assert QApplication.clipboard().text() == "pip install that"


def test_it_speaks_of_devices_in_words_and_says_why_there_is_no_card():
    said = "\n".join(sentences(FOUND))
    assert "No graphics card is used: PyTorch is built for processors." in said
    assert "16.0 GB of memory free" in said
    assert not {"cpu", "cuda", "mps", "None"} & set(said.split())


def test_a_computer_that_lacks_nothing_is_told_so_and_its_card_is_named():
    from dataclasses import replace

    devices = {"devices": ("cuda", "cpu"), "cards": ("A100",), "build": "CUDA 12.4"}
    said = sentences(replace(FOUND, **devices, no_card="", mends=()))
    assert said[0] == (
        "Restorations run on the NVIDIA graphics card (A100); the processor can be chosen."
    )
    assert said[-1] == "All that is needed is there."
