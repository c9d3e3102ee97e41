"""'Check my computer' describes the devices, and gives the line that installs what is missing."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QPushButton, QTextBrowser

from napari_dip.pipeline.machine import InstallationReport, Repair
from napari_dip.qt.computer_check import ComputerCheckWidget
from napari_dip.qt.shell.dock_widget import MIN_DOCK_WIDTH

REPORT = InstallationReport(
    version="0.1.0",
    python="3.11.7 at /usr/bin/python",
    system="Linux",
    torch="2.13.0",
    build="",
    devices=("cpu",),
    gpus=(),
    no_gpu_reason="PyTorch is built for CPUs",
    cores=8,
    memory_bytes=16_000_000_000,
    napari="0.9.2",
    qt="PyQt6 6.11",
    repairs=(
        Repair(
            problem="There is an NVIDIA card, but PyTorch cannot use it", command="pip install that"
        ),
    ),
)


@pytest.fixture
def dock(qtbot):
    threads = []

    def run_check():
        threads.append(threading.current_thread())
        return REPORT

    dock = ComputerCheckWidget(run_check)
    dock.threads = threads
    qtbot.addWidget(dock)
    return dock


def test_it_looks_as_soon_as_it_is_seen_and_in_another_thread(dock, qtbot):
    assert dock.threads == [] and not dock.copy_button.isEnabled()
    dock.show()
    assert not dock.check_button.isEnabled() and "Trying PyTorch" in dock.message_label.text()
    qtbot.waitUntil(dock.check_button.isEnabled)
    (where,) = dock.threads
    assert where is not threading.main_thread()
    assert "Restorations run on the CPU." in dock.message_label.text()
    qtbot.mouseClick(dock.copy_command_button, Qt.MouseButton.LeftButton)
    assert QApplication.clipboard().text() == "pip install that"
    dock.hide()
    dock.show()  # what was found stays
    assert len(dock.threads) == 1
    qtbot.mouseClick(dock.check_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(dock.threads) == 2 and dock.check_button.isEnabled())


def test_the_dock_is_as_wide_as_the_title_that_napari_gives_it(qtbot):
    from napari._qt.widgets.qt_viewer_dock_widget import QtCustomTitleBar

    dock, holder = ComputerCheckWidget(lambda: REPORT), QDockWidget()
    qtbot.addWidget(holder)
    bar = QtCustomTitleBar(holder, title="Check my computer (Deep Image Prior), and some more")
    holder.setTitleBarWidget(bar)
    holder.setWidget(dock)
    holder.show()
    qtbot.waitUntil(dock.check_button.isEnabled)
    assert bar.title.width() >= bar.title.sizeHint().width() > 200


def test_the_dock_has_margins_and_a_button_for_its_help(dock, qtbot):
    dock.resize(MIN_DOCK_WIDTH, 400)
    dock.show()
    qtbot.waitUntil(dock.check_button.isEnabled)
    for widget in (dock.check_button, dock.message_label):
        corner = widget.mapTo(dock, widget.rect().topLeft())
        assert min(corner.x(), corner.y()) >= 8
    (button,) = [b for b in dock.findChildren(QPushButton) if b.text() == "Help on this dock"]
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    (page,) = dock.findChildren(QTextBrowser)
    assert "napari-dip doctor" in page.toPlainText()
    page.close()
    text_end = dock.message_label.mapTo(dock, dock.message_label.rect().bottomLeft()).y()
    assert button.mapTo(dock, button.rect().topLeft()).y() > text_end


def test_devices_are_described_and_a_missing_gpu_is_explained():
    text = "\n".join(REPORT.sentences)
    assert "No GPU is used: PyTorch is built for CPUs." in text
    assert "16.0 GB of memory free" in text
    assert "8 CPU cores, 16.0 GB" in text
    assert "\n1 CPU core, 16.0 GB" in "\n".join(replace(REPORT, cores=1).sentences)
    assert not {"cpu", "cuda", "mps", "None"} & set(text.split())


def test_a_complete_installation_is_confirmed_and_its_gpu_is_named():
    devices = {"devices": ("cuda", "cpu"), "gpus": ("A100",), "build": "CUDA 12.4"}
    text = replace(REPORT, **devices, no_gpu_reason="", repairs=()).sentences
    assert text[0] == ("Restorations run on the NVIDIA GPU (A100); the CPU can be chosen.")
    assert text[-1] == "All that is needed is there."
