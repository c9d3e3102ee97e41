"""Trying on a part first, then on all of it, by real clicks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from napari_dip.qt.shell.layers import METADATA_KEY

pytestmark = pytest.mark.gl


@pytest.fixture
def large(desk, noisy):
    """An image of four times as many pixels, in place of the small one."""
    layer = desk.viewer.layers["cells"]
    layer.data = np.tile(noisy, (2, 2))
    layer.scale, layer.translate = (0.5, 0.5), (10, 20)
    desk.set(max_iterations="4")
    return desk


def draw(desk, top, left, bottom, right):
    """A rectangle around these pixels, drawn in world coordinates."""
    (y, x), (h, w) = (
        np.array([10, 20]) + 0.5 * np.array([top - 0.5, left - 0.5]),
        (
            0.5 * (bottom - top),
            0.5 * (right - left),
        ),
    )
    corners = np.array([[y, x], [y, x + w], [y + h, x + w], [y + h, x]])
    desk.viewer.add_shapes([corners], name="region")
    desk.viewer.layers.selection.active = desk.viewer.layers["cells"]


def test_a_drawn_rectangle_is_tried_in_its_place_and_then_applied_to_all(large):
    trying = large.dock.crop_preview
    draw(large, 40, 16, 104, 112)
    assert trying.regions.currentText() == "region"
    assert not trying.apply_button.isEnabled()
    large.dock.view.extra_layer_chooser.boxes["residual"].setChecked(True)
    large.press(trying.try_button)
    assert large.dock.is_busy and "96 × 64 pixels" in trying.message_label.text()
    large.wait_for_end()
    assert (
        "cells crop preview, Fast residual" in large.names
    )  # of several previews, each has its own
    large.dock.view.extra_layer_chooser.boxes["residual"].setChecked(False)
    preview = large.viewer.layers["cells crop preview, Fast"]
    assert preview.data.shape == (64, 96)
    np.testing.assert_allclose(preview.translate, (10 + 20, 20 + 8))
    np.testing.assert_allclose(preview.scale, (0.5, 0.5))
    made = preview.metadata[METADATA_KEY]
    assert made["shows"] == "crop-preview"
    assert "cells crop preview" not in large.dock.repeat.buttons.combo.currentText()
    large.set(max_iterations="9", gain="3")
    large.press(trying.apply_button)
    large.wait_for_end()
    whole = large.viewer.layers["cells denoised"]
    assert whole.data.shape == (128, 128)
    provenance = whole.metadata[METADATA_KEY]
    assert provenance["recipe"] == made["recipe"]
    assert provenance["report"]["noise"] == made["report"]["noise"]


def test_presets_are_compared_side_by_side_and_the_chosen_one_is_applied(large):
    trying, viewer = large.dock.crop_preview, large.viewer
    viewer.add_image(np.zeros((8, 8)), name="aside")
    viewer.layers.selection.active = viewer.layers["cells"]
    draw(large, 0, 0, 64, 64)
    large.press(trying.compare_button)
    large.wait_until(lambda: "cells crop preview, Fast" in large.names)
    assert large.dock.is_busy and not trying.apply_button.isEnabled()  # two more are to come
    large.wait_until(lambda: not large.dock.is_busy and "cells crop preview, Best" in large.names)
    assert trying.apply_button.isEnabled()
    assert viewer.canvas.grid.enabled
    assert not viewer.layers["aside"].visible and not viewer.layers["region"].visible
    layer = [one.name for one in viewer.layers if one.visible]
    assert layer == [
        "cells",
        *(f"cells crop preview, {one}" for one in ("Fast", "Balanced", "Best")),
    ]
    assert trying.previews.currentText() == "cells crop preview, Fast"  # the form's own preset
    viewer.layers.selection.active = viewer.layers["cells crop preview, Balanced"]
    assert trying.previews.currentText() == "cells crop preview, Balanced"
    assert re.fullmatch(
        r"The whole image with Balanced: up to \d+ (s|min)\.", trying.cost_label.text()
    ), trying.cost_label.text()
    viewer.layers.selection.active = viewer.layers["cells crop preview, Fast"]
    assert trying.previews.currentText() == "cells crop preview, Fast"
    large.press(trying.apply_button)
    assert large.dock.is_busy and large.dock.chooser.get_layer().name == "cells"
    assert not viewer.canvas.grid.enabled and viewer.layers["aside"].visible
    large.wait_for_end()
    assert viewer.layers["cells denoised"].metadata[METADATA_KEY]["recipe"]["preset"] == "fast"


def test_discarding_a_comparison_runs_no_further_preset(large):
    large.set(prior="random-input", max_iterations="100000")
    large.press(large.dock.crop_preview.compare_button)
    large.wait_for_fit()
    assert large.dock.plan_label.text().startswith(
        "Crop preview, Fast, 2 more to follow. 64 × 64 pixels"
    )
    large.press(large.dock.run_bar.discard_button)
    assert not large.dock.is_busy
    large.qtbot.wait(200)
    assert not large.dock.is_busy and large.names == ["cells"]


def test_what_is_in_view_is_the_region_without_a_drawing(large):
    viewer, trying = large.viewer, large.dock.crop_preview
    viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    viewer.reset_view()
    viewer.scene.camera.center = (10 + 32, 20 + 32)
    viewer.scene.camera.zoom *= 2.5
    large.press(trying.toggleButton())
    viewer.screenshot(canvas_only=False, flash=False)
    (top, left), (bottom, right) = (
        corner.tolist() for corner in viewer.layers["cells"].corner_pixels
    )
    large.press(trying.try_button)
    large.wait_for_end()
    preview = viewer.layers["cells crop preview, Fast"]
    first = [round(one) for one in viewer.layers["cells"].world_to_data(preview.translate)]
    last = [one + n for one, n in zip(first, preview.data.shape, strict=True)]
    assert 0 <= top - first[0] < 8 and 0 <= left - first[1] < 8  # cut at multiples of 8
    assert 0 <= last[0] - bottom <= 9 and 0 <= last[1] - right <= 9
    assert preview.data.size < viewer.layers["cells"].data.size


def test_an_empty_drawing_is_said_in_words(large):
    large.viewer.add_shapes(name="empty")
    large.viewer.layers.selection.active = large.viewer.layers["cells"]
    large.press(large.dock.crop_preview.try_button)
    assert not large.dock.is_busy
    assert "Draw a rectangle in 'empty' first" in large.dock.crop_preview.message_label.text()
