"""The result is not lost and the dock is ready again, however a run ends."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import QThreadPool, QTimer
from qtpy.QtWidgets import QApplication

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors.notes import Stop, StopReason
from napari_dip.pipeline import autosave as keeping
from napari_dip.pipeline.progress import Event
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.restoration import Restoration
from napari_dip.qt.shell import background_call
from napari_dip.qt.shell import run_bar as activity_module
from napari_dip.qt.shell.job_controller import JobState, ResultTarget
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task import run_request

pytestmark = pytest.mark.gl
CELLS = ResultTarget(name="cells", layer_attributes={})


def make_result(pixels, **report):
    recipe = make_recipe("denoise")
    return Restoration(
        image=pixels,
        uncertainty=pixels,
        stop=Stop(reason=StopReason.PLATEAU, facts={"text": "the validation loss stopped falling"}),
        best_iteration=8,
        history=(),
        recipe=recipe,
        learned_parameters={},
        report=report,
    )


@pytest.fixture(autouse=True)
def clear_last_error():
    """What napari's events do with an error of a listener keeps its frames, and so the viewer."""
    yield
    for name in ("last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)


@pytest.fixture
def scripted_driver(driver, noisy, monkeypatch):
    """A driver whose runs end, after one preview, as the test says; no engine is needed."""
    image = noisy.astype(np.float32)

    def emit_outcome(outcome=None, waits=False, draws=True, **report):
        def run(plan, data, poll_control, preview_seconds, checkpoints=None):
            preview = image if draws else None
            yield Event(message="Restoring", iteration=1, iterations=2, preview=preview)
            while waits and poll_control() is Control.GO:
                yield Event(message="Restoring", iteration=1, iterations=2, preview=image.copy())
            if outcome == "nothing":
                return None
            return make_result(image + np.float32(1), **report)

        for module in (run_request, keeping):
            monkeypatch.setattr(module, "run", run)
        driver.run()

    driver.play = emit_outcome
    return driver


def refuse_layers(monkeypatch, viewer, wanted=lambda layer_options: True):
    """Let `add_image` fail for layers whose arguments the test names."""
    whole = type(viewer).add_image

    def add_image(self, *args, **layer_options):
        if wanted(layer_options):
            raise ValueError("no room on the card")
        return whole(self, *args, **layer_options)

    monkeypatch.setattr(type(viewer), "add_image", add_image)


def is_ready(driver):
    dock = driver.dock
    return (
        not dock.is_busy
        and dock.run_bar.state is JobState.PLANNED
        and dock.form.basic_page.isEnabled()
        and dock.image_chooser.isEnabled()
        and "cells preview" not in driver.names
    )


@pytest.mark.long
def test_layer_attributes_that_fail_are_left_out_and_the_result_is_added(
    scripted_driver, monkeypatch
):
    viewer = scripted_driver.viewer
    refuse_layers(monkeypatch, viewer, lambda layer_options: "colormap" in layer_options)
    scripted_driver.play(draws=False)
    scripted_driver.wait_for_end()
    assert is_ready(scripted_driver)
    layer = viewer.layers["cells denoised"]
    assert METADATA_KEY in layer.metadata
    assert "could not be taken over: no room on the card." in scripted_driver.last_message


@pytest.mark.long
def test_a_result_selected_for_saving_is_not_restored_again_silently(scripted_driver):
    dock, layers = scripted_driver.dock, scripted_driver.viewer.layers
    scripted_driver.play()
    scripted_driver.wait_for_end()
    layers.selection.active = layers["cells denoised"]
    assert dock.image_chooser.get_layer().name == "cells"
    assert scripted_driver.last_message.startswith("'cells denoised' is done.")
    combo = dock.image_chooser.combo
    combo.setCurrentText("cells denoised")
    combo.activated.emit(combo.currentIndex())
    assert "'cells denoised' is already a result of 'Denoise'" in dock.plan_label.text()
    assert dock.run_bar.run_button.isEnabled()
    layers.selection.active = layers["cells"]
    assert dock.image_chooser.get_layer().name == "cells denoised"  # by hand


@pytest.mark.long
def test_the_time_that_was_planned_is_not_said_beside_the_time_that_is_left(scripted_driver):
    line = scripted_driver.dock.plan_label
    assert "on the CPU" in line.text() and "up to" in line.text()
    scripted_driver.play(waits=True)
    assert "on the CPU" in line.text() and "of memory" in line.text()
    assert "up to" not in line.text()


@pytest.mark.long
def test_a_result_that_cannot_be_added_is_offered_again(scripted_driver, monkeypatch, noisy):
    viewer, bar = scripted_driver.viewer, scripted_driver.dock.run_bar
    with monkeypatch.context() as patch:
        refuse_layers(patch, viewer)
        scripted_driver.play(draws=False)
        scripted_driver.wait_for_end()
        assert is_ready(scripted_driver)
        assert scripted_driver.names == ["cells"]
        assert (
            "could not be added to the viewer: no room on the card." in scripted_driver.last_message
        )
        scripted_driver.press(bar.add_button)
        assert scripted_driver.names == ["cells"]
        assert bar.add_button.isVisibleTo(bar)
    scripted_driver.press(bar.add_button)
    np.testing.assert_array_equal(
        viewer.layers["cells denoised"].data, noisy.astype(np.float32) + 1
    )
    assert scripted_driver.last_message.startswith("'cells denoised' is done.")
    assert not bar.add_button.isVisibleTo(bar)


@pytest.mark.long
def test_a_result_that_waits_survives_another_run(scripted_driver, monkeypatch):
    viewer = scripted_driver.viewer
    with monkeypatch.context() as patch:
        refuse_layers(patch, viewer)
        scripted_driver.play(draws=False)
        scripted_driver.wait_for_end()
    scripted_driver.play(draws=False)
    scripted_driver.wait_for_end()
    scripted_driver.press(scripted_driver.dock.run_bar.add_button)
    assert scripted_driver.names == ["cells", "cells denoised", "cells denoised [1]"]


@pytest.mark.long
def test_another_plugin_that_fails_on_new_layers_does_not_hold_the_dock_up(scripted_driver):
    def fail(event):
        if "denoised" in event.value.name:
            raise RuntimeError("a listener broke")

    scripted_driver.viewer.layers.events.inserted.connect(fail)
    scripted_driver.play(draws=False)
    scripted_driver.wait_for_end()
    scripted_driver.viewer.layers.events.inserted.disconnect(fail)
    assert is_ready(scripted_driver)
    assert scripted_driver.names == ["cells", "cells denoised"]
    assert "a listener broke" in scripted_driver.last_message


@pytest.mark.long
def test_a_preview_that_fails_is_said_once_and_the_run_goes_on(scripted_driver):
    def fail(event):
        if "preview" in event.value.name:
            raise RuntimeError("a listener broke")

    scripted_driver.viewer.layers.events.inserted.connect(fail)
    scripted_driver.play(waits=True)
    scripted_driver.wait_until(
        lambda: "The preview cannot be shown" in scripted_driver.last_message
    )
    scripted_driver.qtbot.wait(700)
    scripted_driver.viewer.layers.events.inserted.disconnect(fail)
    scripted_driver.press(scripted_driver.dock.run_bar.run_button)
    scripted_driver.wait_for_end()
    assert is_ready(scripted_driver)
    assert scripted_driver.names == ["cells", "cells denoised"]
    assert scripted_driver.last_message.count("The preview cannot be shown") == 1


@pytest.mark.long
def test_a_preview_layer_that_cannot_be_removed_does_not_hold_the_dock_up(
    scripted_driver, monkeypatch
):
    def fail(event):
        if "preview" in event.value.name:
            raise RuntimeError("a listener broke")

    scripted_driver.play(waits=True)
    scripted_driver.wait_until(lambda: "cells preview" in scripted_driver.names)
    scripted_driver.viewer.add_points(name="above")  # or the preview would become the result
    scripted_driver.viewer.layers.events.removed.connect(fail)
    scripted_driver.qtbot.wait(600)
    scripted_driver.press(scripted_driver.dock.run_bar.run_button)
    scripted_driver.wait_for_end()
    scripted_driver.viewer.layers.events.removed.disconnect(fail)
    assert is_ready(scripted_driver)
    assert "cells denoised" in scripted_driver.names
    assert "could not be removed: a listener broke." in scripted_driver.last_message


@pytest.mark.long
def test_the_preview_becomes_the_result_whatever_else_listens(scripted_driver):
    renamed = []
    scripted_driver.viewer.layers.events.renamed.connect(
        lambda event: renamed.append(scripted_driver.names)
    )
    scripted_driver.play(waits=True)
    scripted_driver.wait_until(lambda: "cells preview" in scripted_driver.names)
    preview = scripted_driver.viewer.layers["cells preview"]
    scripted_driver.qtbot.wait(600)
    scripted_driver.press(scripted_driver.dock.run_bar.run_button)
    scripted_driver.wait_for_end()
    assert is_ready(scripted_driver)
    assert renamed == [["cells", "cells denoised"]]
    assert scripted_driver.viewer.layers["cells denoised"] is preview
    assert METADATA_KEY in preview.metadata
    assert "report" in preview.metadata[METADATA_KEY]


@pytest.mark.long
def test_the_input_and_the_preview_may_be_removed_during_the_run(scripted_driver):
    scripted_driver.play(waits=True)
    scripted_driver.wait_until(lambda: "cells preview" in scripted_driver.names)
    scripted_driver.viewer.layers.clear()
    scripted_driver.qtbot.wait(700)
    assert scripted_driver.names == []
    scripted_driver.press(scripted_driver.dock.run_bar.run_button)
    scripted_driver.wait_for_end()
    assert scripted_driver.names == ["cells denoised"]
    assert is_ready(scripted_driver)


@pytest.mark.long
def test_a_run_that_cannot_be_started_is_reported_in_a_message(driver, monkeypatch):
    def fail(**_):
        raise RuntimeError("no activity today")

    with monkeypatch.context() as patch:
        patch.setattr(activity_module, "progress", fail)
        driver.press(driver.dock.run_bar.run_button)
    assert "could not be started: no activity today." in driver.last_message
    assert is_ready(driver)
    driver.set(max_iterations="3")
    driver.run()
    driver.wait_for_end()
    assert "cells denoised" in driver.names


def test_warnings_of_a_result_are_shown_with_its_stop_reason(scripted_driver):
    note = "the run was ended before channel 2 was restored"
    scripted_driver.play(notes=[note, note], seconds=12.0)
    scripted_driver.wait_for_end()
    assert scripted_driver.last_message == (
        "'cells denoised' is done.\nThe validation loss stopped falling. It took 12 s."
    )
    assert scripted_driver.dock.result_view.card.detail_label.text() == f"• {note}"


@pytest.mark.long
def test_channels_that_were_not_restored_are_named_in_the_dock(long_run, noisy):
    long_run.viewer.add_image(np.stack([noisy, noisy.T]), name="pair", axis_labels=("c", "y", "x"))
    long_run.set(channels="separate")
    long_run.run()
    long_run.wait_for_fit()
    long_run.qtbot.wait(600)
    long_run.press(long_run.dock.run_bar.run_button)
    long_run.wait_for_end()
    report = long_run.viewer.layers["pair denoised"].metadata[METADATA_KEY]["report"]
    warnings = report["verdict"]["warnings"]
    assert "Channel 2 was not restored; it is as in the input." in warnings
    card = long_run.dock.result_view.card
    assert "⚠ Channel 2 was not restored; it is as in the input." in card.warning_label.text()
    assert not card.headline.text().startswith("Fine")


@pytest.mark.long
def test_keeping_before_there_is_an_image_is_reported_in_a_message(scripted_driver):
    scripted_driver.play("nothing", waits=True)
    scripted_driver.qtbot.wait(600)
    scripted_driver.press(scripted_driver.dock.run_bar.run_button)
    scripted_driver.wait_for_end()
    assert is_ready(scripted_driver)
    assert scripted_driver.names == ["cells"]
    assert "before there was a first image" in scripted_driver.last_message
    assert "Discarded" not in scripted_driver.last_message


def act_before_idle(driver, act):
    """Do something after the result is in and before the dock has come to rest."""
    done = []

    def act_soon(event):
        if "denoised" in event.value.name:
            QTimer.singleShot(0, lambda: (act(), done.append(driver)))

    driver.viewer.layers.events.inserted.connect(act_soon)
    driver.play(draws=False)
    driver.wait_until(lambda: bool(done))
    done.clear()


def test_closing_the_dock_between_the_result_and_the_end_keeps_the_result(scripted_driver):
    dock, viewer, messages = scripted_driver.dock, scripted_driver.viewer, []

    def close():
        viewer.window.remove_dock_widget(dock)
        messages.append(dock.run_bar.message_label.text())

    act_before_idle(scripted_driver, close)
    scripted_driver.qtbot.wait(50)
    assert scripted_driver.names == ["cells", "cells denoised"]
    assert messages.pop().startswith("'cells denoised' is done.")
    scripted_driver.dock = None


@pytest.mark.long
def test_closing_the_viewer_between_the_result_and_the_end_touches_nothing_deleted(scripted_driver):
    act_before_idle(scripted_driver, scripted_driver.viewer.close)
    scripted_driver.dock = None
    scripted_driver.qtbot.wait(100)
    gc.collect()
    scripted_driver.qtbot.wait(50)
    assert not background_call.GeneratorWorker._worker_set
    assert QThreadPool.globalInstance().activeThreadCount() == 0
    widgets = QApplication.allWidgets()
    assert not [widget for widget in widgets if type(widget).__module__.startswith("napari_dip")]


@pytest.mark.long
def test_words_of_a_result_are_whole_sentences(noisy):
    from napari_dip.qt.task.run_request import PendingResult

    result = replace(
        make_result(noisy, notes=["channel 2 is as it was", ""]),
        stop=Stop(reason=StopReason.PLATEAU, facts={"text": "it ended."}),
    )
    message = PendingResult(target=CELLS, result=result).describe(
        "cells denoised", ["", "One more"]
    )
    assert message == "'cells denoised' is done.\nIt ended. One more."
