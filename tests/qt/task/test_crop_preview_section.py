"""A crop preview, then the whole image, by real clicks."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication

from napari_dip.pipeline.assess.card import make_card
from napari_dip.qt.shell.dock_widget import DOCK_TEXTS
from napari_dip.qt.shell.job_controller import ResultTarget
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.result_export import collect_panels

pytestmark = pytest.mark.gl


@pytest.fixture
def large_image(driver, noisy):
    """An image of four times as many pixels, in place of the small one."""
    layer = driver.viewer.layers["cells"]
    layer.data = np.tile(noisy, (2, 2))
    layer.scale, layer.translate = (0.5, 0.5), (10, 20)
    driver.set(max_iterations="4")
    return driver


def test_without_an_image_there_is_nothing_to_try(driver):
    trying = driver.dock.crop_preview
    driver.press(trying.title_button)
    buttons = trying.try_button, trying.compare_button, trying.restore_button
    driver.wait_until(lambda: "in 4 runs" in trying.offer_label.text())
    assert all(button.isEnabled() for button in buttons)
    driver.viewer.layers.clear()
    assert not any(button.isEnabled() for button in buttons)
    driver.wait_until(lambda: not trying.offer_label.text())


def draw_rectangle(driver, first_row, first_column, last_row, last_column):
    """A rectangle around these pixels, drawn in world coordinates."""
    (y, x), (h, w) = (
        np.array([10, 20]) + 0.5 * np.array([first_row - 0.5, first_column - 0.5]),
        (
            0.5 * (last_row - first_row),
            0.5 * (last_column - first_column),
        ),
    )
    corners = np.array([[y, x], [y, x + w], [y + h, x + w], [y + h, x]])
    driver.viewer.add_shapes([corners], name="region")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]


@pytest.mark.long
def test_a_drawn_rectangle_is_tried_in_its_place_and_then_applied_to_all(large_image):
    trying = large_image.dock.crop_preview
    draw_rectangle(large_image, 40, 16, 104, 112)
    assert trying.region_combo.currentText() == "region"
    assert not trying.apply_button.isVisibleTo(trying.page)  # there is no preview yet
    large_image.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(True)
    large_image.press(trying.title_button)
    offer = r"96 × 64 pixels: up to \d+ s. Compare presets: up to .+ (s|min) in 4 runs."
    large_image.wait_until(lambda: re.fullmatch(offer, trying.offer_label.text()))
    large_image.viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    large_image.press(trying.try_button)
    assert large_image.dock.is_busy
    large_image.wait_for_end()
    assert (
        "Fast crop of cells residual" in large_image.names
    )  # of several previews, each has its own
    large_image.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(False)
    preview = large_image.viewer.layers["Fast crop of cells"]
    assert preview.data.shape == (64, 96)
    np.testing.assert_allclose(preview.translate, (10 + 20, 20 + 8))
    np.testing.assert_allclose(preview.scale, (0.5, 0.5))
    metadata = preview.metadata[METADATA_KEY]
    assert metadata["shows"] == "crop-preview"
    assert "crop of cells" not in large_image.dock.repeat_section.combo.currentText()
    large_image.set(max_iterations="9", gain="3")
    large_image.press(trying.apply_button)
    large_image.wait_for_end()
    whole = large_image.viewer.layers["cells denoised"]
    assert whole.data.shape == (128, 128)
    provenance = whole.metadata[METADATA_KEY]
    assert provenance["recipe"] == metadata["recipe"]
    assert provenance["report"]["noise"] == metadata["report"]["noise"]


@pytest.mark.long
def test_presets_are_compared_side_by_side_and_the_chosen_one_is_applied(large_image):
    trying, viewer = large_image.dock.crop_preview, large_image.viewer
    viewer.add_image(np.zeros((8, 8)), name="aside")
    viewer.layers.selection.active = viewer.layers["cells"]
    draw_rectangle(large_image, 0, 0, 64, 64)
    large_image.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(True)
    large_image.press(trying.compare_button)
    large_image.wait_until(lambda: "Fast crop of cells" in large_image.names)
    assert large_image.dock.is_busy and not trying.apply_button.isEnabled()  # two more are to come
    large_image.wait_until(
        lambda: not large_image.dock.is_busy and "Best crop of cells" in large_image.names
    )
    assert trying.apply_button.isEnabled()
    assert not any("residual" in name for name in large_image.names)  # four would bury the list
    large_image.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(False)
    assert viewer.canvas.grid.enabled
    assert not viewer.layers["aside"].visible and not viewer.layers["region"].visible
    (width,) = {viewer.canvas.viewbox_size(viewer.layers)[1]}
    sizes = {layer.name_overlay.font_size for layer in viewer.layers if layer.visible}
    length = len("Balanced crop of cells")
    assert len(sizes) == 1 and 10 + 0.98 * length * sizes.pop() < width  # ten left of the name
    layer = [layer.name for layer in viewer.layers if layer.visible]
    assert layer == [
        "cells",
        *(f"{preset} crop of cells" for preset in ("Instant", "Fast", "Balanced", "Best")),
    ]
    assert trying.preview_combo.currentText() == "Fast crop of cells"  # the form's own preset
    assert DOCK_TEXTS["crop-choose-preview"] in large_image.last_message
    viewer.layers.selection.active = viewer.layers["Balanced crop of cells"]
    assert trying.preview_combo.currentText() == "Balanced crop of cells"
    report = viewer.layers["Balanced crop of cells"].metadata[METADATA_KEY]["report"]
    assert large_image.dock.result_view.card.headline.text() == make_card(report).headline
    large_image.qtbot.keyClick(trying.preview_combo, Qt.Key.Key_Up)
    chosen = trying.preview_combo.currentText()
    assert chosen != "Balanced crop of cells"
    assert large_image.dock.result_view.card.name_label.text() == chosen
    large_image.qtbot.keyClick(trying.preview_combo, Qt.Key.Key_Down)
    assert re.fullmatch(
        r"The whole image with Balanced: up to \d+ (s|min)\.", trying.cost_label.text()
    ), trying.cost_label.text()
    viewer.layers.selection.active = viewer.layers["Fast crop of cells"]
    assert trying.preview_combo.currentText() == "Fast crop of cells"
    large_image.press(trying.apply_button)
    assert large_image.dock.is_busy and large_image.dock.image_chooser.get_layer().name == "cells"
    assert not viewer.canvas.grid.enabled and viewer.layers["aside"].visible
    large_image.wait_for_end()
    assert viewer.layers["cells denoised"].metadata[METADATA_KEY]["recipe"]["preset"] == "fast"


@pytest.mark.long
def test_apply_to_all_shows_the_whole_image_as_before_the_grid(large_image):
    viewer, trying = large_image.viewer, large_image.dock.crop_preview
    viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    viewer.reset_view()
    view = viewer.scene.camera.center, viewer.scene.camera.zoom
    draw_rectangle(large_image, 0, 0, 64, 64)
    large_image.press(trying.title_button)
    viewer.screenshot(canvas_only=False, flash=False)
    large_image.press(trying.compare_button)
    assert large_image.dock.is_busy
    large_image.wait_until(lambda: viewer.canvas.grid.enabled)
    assert viewer.scene.camera.zoom != pytest.approx(view[1])
    large_image.press(trying.apply_button)
    assert not viewer.canvas.grid.enabled
    np.testing.assert_allclose(viewer.scene.camera.center, view[0])
    assert viewer.scene.camera.zoom == pytest.approx(view[1])


@pytest.mark.long
def test_the_name_of_a_preview_fits_into_a_cell_of_the_grid():
    target = ResultTarget(
        name="scratched mitochondria", layer_attributes={}, crop_name="Balanced crop"
    )
    assert target.base_name == "Balanced crop of scrat…dria"
    assert replace(target, name="cells").base_name == "Balanced crop of cells"
    assert replace(target, whole=target).base_name == "scratched mitochondria Balanced crop"


def test_the_two_ways_to_restore_a_part_say_what_becomes_of_it(driver):
    section = driver.dock.crop_preview
    assert "layer of its own" in section.try_button.toolTip()
    assert "blend it into the latest result" in section.restore_button.toolTip()
    hint = section.message_label.text()
    assert "to look at only" in hint and "for good" in hint


def test_previews_of_another_task_are_not_offered(driver, noisy):
    trying = driver.dock.crop_preview
    for task in ("denoise", "inpaint"):
        provenance = {"shows": "crop-preview", "recipe": {"task": task}, "report": {"axes": "YX"}}
        metadata = {METADATA_KEY: {**provenance, "input": {"name": "gone", "sha256": None}}}
        driver.viewer.add_image(noisy, name=f"{task} crop", metadata=metadata)
    names = [trying.preview_combo.itemText(row) for row in range(trying.preview_combo.count())]
    assert names == ["denoise crop"]


def test_discarding_a_comparison_runs_no_further_preset(large_image):
    large_image.set(prior="random-input", max_iterations="100000")
    draw_rectangle(large_image, 40, 16, 104, 80)
    large_image.press(large_image.dock.crop_preview.compare_button)
    large_image.wait_for_fit()
    assert large_image.dock.plan_label.text().startswith(
        "Instant crop, 3 more to follow. 64 × 64 pixels"
    )
    large_image.press(large_image.dock.run_bar.discard_button)
    assert not large_image.dock.is_busy
    large_image.qtbot.wait(200)
    assert not large_image.dock.is_busy and large_image.names == ["cells", "region"]


def test_what_is_in_view_is_the_region_without_a_drawing(large_image):
    viewer, trying = large_image.viewer, large_image.dock.crop_preview
    viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    viewer.reset_view()
    viewer.scene.camera.center = (10 + 32, 20 + 32)
    viewer.scene.camera.zoom *= 2.5
    large_image.press(trying.title_button)
    viewer.screenshot(canvas_only=False, flash=False)
    (row, column), (bottom, right) = (
        corner.tolist() for corner in viewer.layers["cells"].corner_pixels
    )
    large_image.press(trying.try_button)
    large_image.wait_for_end()
    preview = viewer.layers["Fast crop of cells"]
    first = [
        round(coordinate) for coordinate in viewer.layers["cells"].world_to_data(preview.translate)
    ]
    last = [start + n for start, n in zip(first, preview.data.shape, strict=True)]
    assert 0 <= row - first[0] < 8 and 0 <= column - first[1] < 8  # cut at multiples of 8
    assert 0 <= last[0] - bottom <= 9 and 0 <= last[1] - right <= 9
    assert preview.data.size < viewer.layers["cells"].data.size


def test_the_offer_tells_the_drawn_size_beside_the_enlarged_one(large_image):
    trying = large_image.dock.crop_preview
    draw_rectangle(large_image, 41, 17, 100, 88)
    large_image.press(trying.title_button)
    offer = "71 × 59 pixels, enlarged to 72 × 64 pixels (multiples of 8): up to "
    large_image.wait_until(lambda: trying.offer_label.text().startswith(offer))


def test_an_empty_drawing_is_reported_in_a_message(large_image):
    large_image.viewer.add_shapes(name="empty")
    large_image.viewer.layers.selection.active = large_image.viewer.layers["cells"]
    large_image.press(large_image.dock.crop_preview.try_button)
    assert not large_image.dock.is_busy
    assert "Draw a rectangle in 'empty' first" in large_image.dock.crop_preview.message_label.text()


@pytest.mark.long
def test_a_preview_follows_the_view_and_takes_the_place_of_the_last_one(large_image):
    viewer, trying = large_image.viewer, large_image.dock.crop_preview
    large_image.set(max_iterations="1")
    viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    viewer.scene.camera.center, viewer.scene.camera.zoom = (10 + 16, 20 + 16), 30
    large_image.press(trying.title_button)
    viewer.screenshot(canvas_only=False, flash=False)
    box = trying.follow_box
    place = QPoint(8, box.height() // 2)
    large_image.qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=place)
    assert box.isChecked()
    name = "Fast crop of cells"
    large_image.wait_until(lambda: name in large_image.names and not large_image.dock.is_busy)
    first = viewer.layers[name]
    large_image.qtbot.wait(1500)  # nothing moves: nothing is tried again
    assert viewer.layers[name] is first and not large_image.dock.is_busy
    viewer.scene.camera.center = (10 + 40, 20 + 40)
    viewer.screenshot(canvas_only=False, flash=False)
    large_image.wait_until(lambda: name in large_image.names and viewer.layers[name] is not first)
    large_image.wait_for_end()
    assert large_image.names == ["cells", name]
    assert (viewer.layers[name].translate > first.translate).all()
    large_image.qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=place)
    assert not box.isChecked()


@pytest.mark.long
def test_a_region_is_merged_into_the_latest_result_and_can_be_undone(large_image):
    trying, viewer = large_image.dock.crop_preview, large_image.viewer
    large_image.run()
    large_image.wait_for_end()
    result = viewer.layers["cells denoised"]
    earlier, metadata = result.data.copy(), dict(result.metadata[METADATA_KEY])
    draw_rectangle(large_image, 40, 48, 80, 88)
    large_image.set(max_iterations="8")
    large_image.press(trying.try_button)
    large_image.wait_for_end()
    preview = viewer.layers["Fast crop of cells"]
    assert preview.visible
    large_image.press(trying.restore_button)
    assert large_image.dock.plan_label.text().startswith("Region. ")
    large_image.wait_for_end()
    assert not preview.visible  # it would cover what was restored
    viewer.layers.remove(preview)
    assert large_image.names == ["cells", "cells denoised", "region"]
    changed = result.data != earlier
    assert changed[40:80, 48:88].all() and not changed[:22].any() and not changed[98:].any()
    assert not changed[:, :30].any() and not changed[:, 106:].any()
    place = "rows 40 to 79 and columns 48 to 87"
    beginning = f"R{place[1:]} of 'cells denoised' are done."
    assert large_image.last_message.startswith(beginning)
    card = large_image.dock.result_view.card
    assert card.name_label.text() == f"cells denoised, only {place}" and not card.isHidden()
    provenance = result.metadata[METADATA_KEY]
    assert provenance["shows"] == "region" and provenance["merged_into"] == metadata
    assert provenance["recipe"]["max_iterations"] == 8
    assert provenance["report"]["noise"] == metadata["report"]["noise"]  # that of the whole image
    repeating = large_image.dock.repeat_section
    assert repeating.combo.currentText() == "cells denoised"
    large_image.press(repeating.python_button)
    assert "no script repeats as a whole" in large_image.last_message
    large_image.press(repeating.methods_button)
    text = QApplication.clipboard().text()
    assert text.count("Only rows 40 to 79 and columns 48 to 87") == 1
    assert text.count("The image was denoised") == 2
    large_image.press(trying.restore_button)
    large_image.wait_for_end()
    twice = result.metadata[METADATA_KEY]
    assert twice["merged_into"]["merged_into"] == metadata
    large_image.press(trying.undo_button)
    assert result.metadata[METADATA_KEY] == provenance and trying.undo_button.isHidden()
    assert large_image.last_message == "The latest region was undone."
    assert (result.data != earlier).any() and "Remove previews" in trying.remove_button.text()


@pytest.mark.long
def test_undoing_a_region_brings_back_card_and_layers_of_the_result(large_image):
    trying, card = large_image.dock.crop_preview, large_image.dock.result_view.card
    large_image.run()
    large_image.wait_for_end()
    headline = card.headline.text()
    draw_rectangle(large_image, 40, 48, 80, 88)
    large_image.set(max_iterations="8")
    large_image.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(True)
    residuals = {name for name in large_image.names if "residual" in name}
    large_image.press(trying.restore_button)
    large_image.wait_for_end()
    assert len(residuals) < sum("residual" in name for name in large_image.names)
    assert ", only rows" in card.name_label.text()
    panels = collect_panels(large_image.viewer, large_image.viewer.layers["cells denoised"])
    assert "Residual" not in dict(panels)  # that of the region shows a part of the image alone
    large_image.press(trying.undo_button)
    assert {name for name in large_image.names if "residual" in name} == residuals
    assert (card.name_label.text(), card.headline.text()) == ("cells denoised", headline)
    assert not card.isHidden()


@pytest.mark.long
def test_a_region_whose_layer_was_deleted_is_not_offered_to_be_undone(large_image):
    trying, viewer = large_image.dock.crop_preview, large_image.viewer
    large_image.run()
    large_image.wait_for_end()
    draw_rectangle(large_image, 40, 48, 80, 88)
    large_image.set(max_iterations="8")
    large_image.press(trying.restore_button)
    large_image.wait_for_end()
    assert not trying.undo_button.isHidden()
    viewer.layers.remove("cells denoised")
    assert trying.undo_button.isHidden()


@pytest.mark.long
def test_a_region_without_a_result_is_merged_into_a_copy_of_the_image(large_image):
    trying, viewer = large_image.dock.crop_preview, large_image.viewer
    draw_rectangle(large_image, 40, 48, 80, 88)
    large_image.set(max_iterations="100000", prior="random-input")
    large_image.press(trying.restore_button)
    large_image.wait_for_fit()
    large_image.qtbot.wait(300)
    large_image.press(large_image.dock.run_bar.run_button)  # Stop and keep
    large_image.wait_for_end()
    layer, cells = viewer.layers["cells denoised in a region"], viewer.layers["cells"]
    assert layer.data.shape == cells.data.shape
    np.testing.assert_array_equal(layer.translate, cells.translate)
    changed = layer.data != cells.data
    assert changed[40:80, 48:88].mean() > 0.9 and not changed[:22].any()
    assert layer.metadata[METADATA_KEY]["merged_into"] == {} and trying.undo_button.isHidden()
    large_image.press(trying.restore_button)
    large_image.wait_for_fit()
    large_image.press(large_image.dock.run_bar.discard_button)
    assert large_image.names == ["cells", "region", "cells denoised in a region"]
    assert not (layer.data != cells.data)[:22].any()
