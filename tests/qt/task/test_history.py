"""Going back in a run and keeping an earlier image, by real clicks and keys."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.progress import Event
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.result_export import pack_provenance, unpack_provenance
from napari_dip.qt.task.snapshot_history import SnapshotBuffer, ValidationCurve


def list_iterations(film: SnapshotBuffer, count: int, side: int = 10) -> list[int]:
    for iteration in range(1, count + 1):
        image = np.zeros((side, side), np.float32)
        film.add(Event(message="Restoring", iteration=iteration, preview=image))
    return [snapshot.event.iteration for snapshot in film.snapshots]


def test_a_film_never_takes_more_than_its_bound_and_stays_evenly_spread():
    film = SnapshotBuffer(max_bytes=8 * 400)
    iterations = list_iterations(film, 1000)
    assert 4 <= len(iterations) <= 8
    assert film.byte_count <= 8 * 400
    assert len(set(np.diff(iterations))) == 1
    assert iterations[0] == 1 and iterations[-1] > 800


def test_the_history_has_no_more_images_than_the_slider_has_positions():
    assert len(list_iterations(SnapshotBuffer(max_snapshots=10), 95)) <= 10


def test_images_of_which_two_do_not_fit_are_not_kept():
    assert list_iterations(SnapshotBuffer(max_bytes=799), 5) == []


def test_a_repeated_snapshot_is_stored_once():
    film, image = SnapshotBuffer(), np.zeros((4, 4), np.float32)
    for iteration in (1, 2):
        film.add(Event(message="Restoring", iteration=iteration, preview=image))
    assert len(film.snapshots) == 1


def step_back(driver, steps: int) -> None:
    for _ in range(steps):
        driver.qtbot.keyClick(driver.dock.history.slider, Qt.Key.Key_Left)


@pytest.mark.long
@pytest.mark.gl
def test_the_preview_of_a_channel_that_adds_up_is_seen_without_its_input(long_run):
    viewer, history = long_run.viewer, long_run.dock.history
    channel = viewer.layers["cells"]
    other = viewer.add_image(channel.data[::-1], name="other", blending="additive")
    channel.blending = "additive"
    viewer.layers.selection.active = channel
    long_run.run()
    long_run.wait_until(lambda: len(history.snapshot_buffer.snapshots) >= 3)
    assert not channel.visible and other.visible
    long_run.press(long_run.dock.run_bar.run_button)  # Stop and keep
    long_run.wait_for_end()
    result = viewer.layers["cells denoised"]
    assert channel.visible and channel.opacity == 0 and result.visible
    step_back(long_run, 1)
    assert not channel.visible and not result.visible and other.visible
    long_run.qtbot.keyClick(history.slider, Qt.Key.Key_End)
    assert channel.visible and channel.opacity == 0 and result.visible
    viewer.layers.remove(result)
    long_run.run()
    long_run.wait_until(lambda: "cells preview" in long_run.names)
    long_run.press(long_run.dock.run_bar.discard_button)
    assert channel.visible and channel.opacity == 1


@pytest.mark.long
@pytest.mark.gl
def test_a_run_can_be_scrubbed_while_it_goes_on_and_an_image_kept(long_run):
    history = long_run.dock.history
    assert history.isHidden()
    long_run.run()
    long_run.wait_until(lambda: len(history.snapshot_buffer.snapshots) >= 4)
    assert "of at most 256 MB" in history.toolTip() and history.message_label.isHidden()
    step_back(long_run, 2)
    image = history.snapshot_buffer.snapshots[history.slider.value()]
    preview = long_run.viewer.layers["cells preview"]
    assert preview.data is image.image
    count = len(history.snapshot_buffer.snapshots)
    long_run.wait_until(lambda: len(history.snapshot_buffer.snapshots) > count)
    assert preview.data is image.image  # the run goes on, what is looked at stays
    long_run.press(history.keep_button)
    name = f"cells denoised, iteration {image.event.iteration}"
    long_run.qtbot.wait(300)  # the run goes on
    assert history.message_label.text() == f"Kept: '{name}'."
    kept = long_run.viewer.layers[name]
    np.testing.assert_array_equal(kept.data, image.image)
    assert kept.metadata[METADATA_KEY]["input"]["sha256"] is None
    long_run.qtbot.keyClick(history.slider, Qt.Key.Key_End)
    assert preview.data is history.snapshot_buffer.snapshots[-1].image
    long_run.press(long_run.dock.run_bar.run_button)
    long_run.wait_for_end()
    assert set(long_run.names) == {"cells", name, "cells denoised"}
    metadata = kept.metadata[METADATA_KEY]
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["best_iteration"] == image.event.iteration
    assert "you kept the image of iteration" in metadata["stop_sentence"]
    assert len(metadata["input"]["sha256"]) == 64 and "verdict" not in metadata["report"]
    assert metadata["automatic"]["stop_sentence"] == "you stopped it and kept the image"


@pytest.mark.gl
def test_after_a_run_its_images_are_still_there_and_the_right_end_is_the_result(driver, tmp_path):
    driver.set(prior="random-input", max_iterations="60")
    driver.run()
    driver.wait_for_end()
    history = driver.dock.history
    count = len(history.snapshot_buffer.snapshots)
    assert count and driver.names == ["cells", "cells denoised"]
    result = driver.viewer.layers["cells denoised"].data.copy()
    step_back(driver, 1)
    assert "cells preview" in driver.names
    driver.press(history.keep_button)
    assert f"iteration {history.snapshot_buffer.snapshots[-1].event.iteration}" in driver.names[-1]
    kept = driver.viewer.layers[-1].metadata[METADATA_KEY]
    read = unpack_provenance(pack_provenance(kept, tmp_path), tmp_path)
    assert read["best_iteration"] == kept["best_iteration"] and read["shows"] == "snapshot"
    driver.qtbot.keyClick(history.slider, Qt.Key.Key_End)
    assert "cells preview" not in driver.names
    np.testing.assert_array_equal(driver.viewer.layers["cells denoised"].data, result)
    assert driver.dock.image_chooser.get_layer().name == "cells"


@pytest.mark.gl
def test_card_and_repeat_say_that_they_are_not_about_a_kept_image(driver):
    driver.set(max_iterations="60")
    driver.run()
    driver.wait_for_end()
    dock, layers = driver.dock, driver.viewer.layers
    step_back(driver, 1)
    driver.press(dock.history.keep_button)
    kept, result = layers[-1], layers["cells denoised"]
    layers.selection.active = result
    name, note = dock.result_view.card.name_label, dock.repeat_section.unsaved_label
    assert name.text() == result.name and kept.name not in note.text()
    layers.selection.active = kept
    assert name.text().startswith(result.name) and "has no card" in name.text()
    assert f"about '{result.name}', not about '{kept.name}'" in note.text()
    assert dock.repeat_section.get_layer() is result
    layers.selection.active = result
    assert name.text() == result.name and kept.name not in note.text()
    reports = [layer.metadata[METADATA_KEY]["report"] for layer in (result, kept)]
    are_filtered = ["similar patches" in write_methods_section(report) for report in reports]
    assert are_filtered == [True, False]


@pytest.mark.long
@pytest.mark.gl
def test_discard_forgets_the_history_but_leaves_what_was_kept(long_run):
    history = long_run.dock.history
    long_run.run()
    long_run.wait_until(lambda: len(history.snapshot_buffer.snapshots) >= 2)
    step_back(long_run, 1)
    long_run.press(history.keep_button)
    long_run.press(long_run.dock.run_bar.discard_button)
    assert len(long_run.names) == 2 and "iteration" in long_run.names[1]
    assert "you kept" in long_run.last_message and "Undo Discard" in long_run.last_message
    assert history.isHidden() and not history.snapshot_buffer.snapshots


def run_until_curve(driver):
    """Run until there are snapshots and a curve."""
    driver.run()
    driver.wait_until(lambda: len(driver.dock.history.snapshot_buffer.snapshots) >= 2)
    driver.wait_for_fit(2)


@pytest.mark.long
@pytest.mark.gl
def test_the_plot_and_the_undo_of_a_discarded_run_go_with_its_input(long_run):
    dock = long_run.dock
    run_until_curve(long_run)
    long_run.press(dock.run_bar.discard_button)
    assert "Undo Discard" in long_run.last_message
    long_run.viewer.add_image(np.zeros((8, 8)), name="other")
    del long_run.viewer.layers["other"]
    assert dock.run_bar.undo_button.isVisibleTo(dock) and dock.validation_curve.isVisibleTo(dock)
    del long_run.viewer.layers["cells"]
    assert dock.run_bar.undo_button.isHidden() and dock.validation_curve.isHidden()
    assert long_run.last_message == ""


@pytest.mark.long
@pytest.mark.gl
def test_discard_offers_no_undo_without_the_input(long_run):
    dock = long_run.dock
    run_until_curve(long_run)
    del long_run.viewer.layers["cells"]
    long_run.press(dock.run_bar.discard_button)
    assert dock.run_bar.undo_button.isHidden() and dock.validation_curve.isHidden()
    assert "Undo" not in long_run.last_message


@pytest.mark.long
@pytest.mark.gl
def test_the_plot_of_a_result_outlives_its_input(driver):
    dock = driver.dock
    driver.set(max_iterations="60")
    driver.run()
    driver.wait_for_end()
    del driver.viewer.layers["cells"]
    assert not dock.validation_curve.isHidden()
    del driver.viewer.layers["cells denoised"]
    assert dock.validation_curve.isHidden()


@pytest.mark.long
@pytest.mark.gl
def test_paint_a_mask_inpaint_scrub_and_keep_leaves_measured_pixels_as_they_were(driver, noisy):
    from napari_dip.qt.task.task_dock import make_dock_class

    viewer = driver.viewer
    mask = viewer.add_labels(np.zeros(noisy.shape, np.uint8), name="mask")
    for place in range(20, 40, 3):
        mask.paint((30, place), 1)
    viewer.layers.selection.active = viewer.layers["cells"]
    dock = make_dock_class("inpaint")(viewer)
    viewer.window.remove_dock_widget(driver.dock)
    driver.dock = dock
    viewer.window.add_dock_widget(dock, name="Inpaint")
    driver.set(preset="fast", max_iterations="40")
    residual_box = dock.result_view.extra_layer_chooser.boxes["residual"]
    assert residual_box.isHidden()  # it would be 0 everywhere
    residual_box.setChecked(True)  # as in other docks
    driver.run()
    driver.wait_for_end()
    assert not any("residual" in name for name in driver.names)
    residual_box.setChecked(False)
    driver.set(unmasked="denoise")
    assert not residual_box.isHidden()
    step_back(driver, 1)
    driver.press(dock.history.keep_button)
    kept = next(layer for layer in viewer.layers if ", iteration" in layer.name)
    holes = mask.data > 0
    assert holes.sum() > 20
    np.testing.assert_array_equal(kept.data[~holes], noisy[~holes])
    assert (kept.data[holes] != noisy[holes]).any()
    assert kept.metadata[METADATA_KEY]["inputs"]["mask"]["layer"] == "mask"


@pytest.mark.long
@pytest.mark.gl
def test_history_curve_and_message_of_a_deleted_result_go_with_it(driver):
    dock, layers = driver.dock, driver.viewer.layers
    driver.set(max_iterations="60")  # two losses or more, which make a curve
    driver.run()
    driver.wait_for_end()
    assert not dock.history.isHidden() and not dock.validation_curve.isHidden()
    layers.selection = {layers["cells denoised"]}
    buttons = driver.viewer.window._qt_viewer.layerButtons
    driver.press(buttons.deleteButton)
    assert driver.names == ["cells"]
    assert dock.history.isHidden() and not dock.history.snapshot_buffer.snapshots
    assert dock.validation_curve.isHidden()
    assert driver.last_message == ""


def test_the_curve_at_the_end_is_that_of_the_fit_that_was_taken(qtbot):
    curve = ValidationCurve()
    qtbot.addWidget(curve)
    curve.extend([(1, 10, 1.0, 1.0), (1, 20, 0.5, 0.4), (1, 30, 0.4, 0.5)], 20)
    taken = ((10, 1.0, 0.9), (20, 0.5, 0.8), (30, 0.4, 0.7))
    curve.show_result(SimpleNamespace(report={"fit": {}}, history=taken, best_iteration=30))
    dots = [item for item in curve.listDataItems() if item.opts["symbol"] == "o"]
    assert [item.getData()[0].tolist() for item in dots] == [[30.0]]
    many = SimpleNamespace(
        report={"fit": {"finished_fit_count": 3}}, history=taken[:2], best_iteration=20
    )
    curve.show_result(many)
    assert curve.point_count == 3


def test_a_training_loss_with_one_point_in_range_is_left_out(qtbot):
    curve = ValidationCurve()
    qtbot.addWidget(curve)
    curve.extend([(1, 10, 9.0, 1.02), (1, 20, 1.01, 1.0), (1, 30, -9.0, 0.98)], 30)
    assert "↓" in curve.legend and "↑" not in curve.legend
    curve.extend([(1, 40, 1.0, 0.97), (1, 50, 0.98, 0.96)], 50)
    assert "↓" not in curve.legend
