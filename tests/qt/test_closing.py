"""Closing the dock or the viewer stops the work and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys

import pytest
from qtpy.QtCore import Qt, QThreadPool
from qtpy.QtGui import QOpenGLContext
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QAbstractButton

from napari_dip.pipeline import autosave
from napari_dip.qt.task.run_request import find_autosave_folder
from napari_dip.qt.task.task_dock import DenoiseDock, TaskDock

pytestmark = pytest.mark.gl


def wait_until_idle(qtbot):
    qtbot.waitUntil(lambda: QThreadPool.globalInstance().activeThreadCount() == 0, timeout=5000)


def find_own_listeners(emitter):
    """Listeners of an event that belong to this package: callables, or (weak object, method)."""
    owners = (
        callback[0]() if isinstance(callback, tuple) else callback for callback in emitter.callbacks
    )
    return [owner for owner in owners if type(owner).__module__.startswith("napari_dip")]


@pytest.fixture
def short_steps(long_run):
    """A run whose step is short next to a second on any computer, once torch is loaded."""
    long_run.run()
    long_run.wait_until(lambda: "cells preview" in long_run.names)
    return long_run


def test_a_dock_that_is_closed_amid_a_run_leaves_its_best_image_and_says_so(
    short_steps, monkeypatch
):
    viewer, qtbot, messages = short_steps.viewer, short_steps.qtbot, []
    monkeypatch.setattr("napari_dip.qt.shell.run_bar.show_info", messages.append)
    frame = short_steps.dock.parentWidget()
    short_steps.dock = None
    viewer.window._qt_window.show()
    (close_button,) = [
        button
        for button in frame.titleBarWidget().findChildren(QAbstractButton)
        if button.objectName() == "QTitleBarCloseButton"
    ]
    qtbot.mouseClick(close_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(messages), timeout=20_000)
    wait_until_idle(qtbot)
    assert [layer.name for layer in viewer.layers] == ["cells", "cells denoised"]
    reason = "the dock was closed, and the best image so far was kept"
    assert len(messages) == 1
    assert messages[0].startswith(f"'cells denoised' is done. T{reason[1:]}.")
    record = viewer.layers["cells denoised"].metadata["napari_dip"]
    assert record["stop_sentence"] == record["report"]["stop_sentence"] == reason
    assert record["stop_reason"] == "user"
    qtbot.waitUntil(lambda: not viewer.window._qt_window.findChildren(TaskDock))
    assert not find_own_listeners(viewer.layers.events.inserted)


@pytest.mark.long
def test_closing_the_viewer_after_a_dock_that_still_ends_its_run_stops_it(short_steps):
    viewer = short_steps.viewer
    viewer.window.remove_dock_widget(short_steps.dock)
    short_steps.dock = None
    viewer.close()
    wait_until_idle(short_steps.qtbot)


@pytest.mark.long
def test_a_closed_dock_no_longer_listens_to_the_viewer(driver, noisy):
    viewer = driver.viewer
    assert find_own_listeners(viewer.layers.events.inserted)
    assert find_own_listeners(viewer.events.theme)
    viewer.window.remove_dock_widget(driver.dock)
    driver.dock = None
    driver.qtbot.wait(20)
    assert not find_own_listeners(viewer.layers.events.inserted)
    assert not find_own_listeners(viewer.events.theme)
    viewer.add_image(noisy, name="later")  # an error in a listener would fail the test
    viewer.theme = "light"
    viewer.layers.clear()


@pytest.mark.long
def test_hiding_the_dock_does_not_stop_the_run(long_run):
    long_run.run()
    long_run.wait_for_fit()
    long_run.dock.parentWidget().close()  # what the eye button of its title bar does
    assert long_run.dock.is_busy
    points = long_run.dock.validation_curve.point_count
    long_run.wait_for_fit(points + 1)


@pytest.mark.long
def test_floating_the_dock_does_not_stop_the_run(long_run):
    long_run.run()
    long_run.wait_for_fit()
    frame = long_run.dock.parentWidget()
    frame.setFloating(True)
    long_run.qtbot.wait(50)
    assert long_run.dock.is_busy
    frame.setFloating(False)
    long_run.qtbot.wait(50)
    assert long_run.dock.is_busy


@pytest.mark.long
def test_closing_the_viewer_stops_the_run(short_steps):
    assert QThreadPool.globalInstance().activeThreadCount() == 1
    short_steps.viewer.close()
    short_steps.dock = None
    wait_until_idle(short_steps.qtbot)
    assert QThreadPool.globalInstance().activeThreadCount() == 0


@pytest.mark.parametrize("is_discarded", [False, True])
def test_a_run_is_offered_again_after_its_window_was_closed_unless_it_was_discarded(
    long_run, make_napari_viewer, monkeypatch, is_discarded
):
    monkeypatch.setattr(autosave, "AUTOSAVE_DELAY_SECONDS", 0.0)
    long_run.run()
    long_run.wait_until(lambda: bool(list(find_autosave_folder().glob("run-*/run.json"))))
    if is_discarded:
        long_run.press(long_run.dock.run_bar.discard_button)
    long_run.viewer.close()
    long_run.dock = None
    wait_until_idle(long_run.qtbot)
    dock = DenoiseDock(make_napari_viewer())
    assert dock.interrupted_runs.isHidden() is is_discarded
    assert bool(list(find_autosave_folder().iterdir())) is not is_discarded
    dock.shut_down()
    dock.deleteLater()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("floating", [False, True])
def test_a_removed_layer_is_freed_in_the_context_that_it_was_drawn_in(driver, noisy, floating):
    viewer = driver.viewer
    viewer.window.show()
    driver.dock.parentWidget().setFloating(floating)
    canvas = viewer.window._qt_window.findChild(QOpenGLWidget)
    driver.wait_until(canvas.isValid)
    later = viewer.add_image(noisy, name="later")
    contexts = []
    viewer.layers.events.removed.connect(lambda _: contexts.append(QOpenGLContext.currentContext()))
    canvas.doneCurrent()
    viewer.layers.remove(later)
    assert contexts == [canvas.context()]


PROGRAM = """
import napari, numpy
from qtpy.QtCore import QTimer
from napari_dip.qt.task.task_dock import DenoiseDock
viewer = napari.Viewer()
viewer.add_image(numpy.random.default_rng(0).normal(size=(64, 64)))
dock = DenoiseDock(viewer)
viewer.window.add_dock_widget(dock)
dock.form.widgets["max_iterations"].value = "100000"
dock.run_bar.run_button.click()
assert dock.is_busy
{end}
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "end",
    [
        "QTimer.singleShot(1000, viewer.close); napari.run(force=True)",
        "",  # the script simply ends
    ],
    ids=["by closing the window", "by the end of the script"],
)
def test_a_program_ends_quietly_in_the_middle_of_a_run(end):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM.format(end=end)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "deleted" not in done.stderr
