"""A repeated exposure from another layer, and JPEG as a noise model, in the Denoise dock."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from qtpy.QtCore import Qt
from skimage import data

from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.samples import MITOCHONDRIA

pytestmark = pytest.mark.gl


@pytest.fixture
def longer_exposure():
    """The same place as the driver's layer, exposed for longer."""
    return np.ascontiguousarray(tifffile.imread(MITOCHONDRIA)[1, 20:84, 40:104])


def choose_second(driver, name):
    """Open the list and go down to the layer, as a hand on the keyboard does."""
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    combo = driver.dock.extra_inputs.combos["repeated_exposure"]
    driver.qtbot.mouseClick(combo, Qt.MouseButton.LeftButton)
    for _ in range(combo.findText(name) - combo.currentIndex()):
        driver.qtbot.keyClick(combo.view(), Qt.Key.Key_Down)
    driver.qtbot.keyClick(combo.view(), Qt.Key.Key_Return)
    assert combo.currentText() == name


@pytest.mark.long
def test_no_second_shot_is_taken_unless_one_is_chosen(driver, longer_exposure):
    driver.viewer.add_image(longer_exposure, name="again")
    assert driver.dock.extra_inputs.combos["repeated_exposure"].currentText() == "none"
    assert driver.dock.extra_inputs.read_headers() == {}


def test_a_second_shot_is_used_and_the_layer_says_so(driver, longer_exposure):
    driver.viewer.add_image(longer_exposure, name="again")
    choose_second(driver, "again")
    driver.run()
    driver.wait_for_end()
    result = driver.viewer.layers["cells denoised"]
    report = result.metadata[METADATA_KEY]["report"]
    assert any("Two measurements" in note for note in report["notes"])
    assert result.data.mean() == pytest.approx(driver.viewer.layers["cells"].data.mean(), rel=1e-3)


@pytest.mark.long
def test_a_second_image_of_another_size_is_refused_before_anything_runs(driver, longer_exposure):
    driver.viewer.add_image(longer_exposure[:40], name="small")
    choose_second(driver, "small")
    assert not driver.dock.run_bar.run_button.isEnabled()
    assert "small" in driver.dock.plan_label.text()


@pytest.mark.long
def test_a_second_image_of_something_else_is_refused_with_a_message(driver, longer_exposure):
    driver.viewer.add_image(longer_exposure[::-1], name="upside down")
    choose_second(driver, "upside down")
    driver.run()
    driver.wait_for_end()
    assert "does not show" in driver.last_message
    assert "cells denoised" not in driver.names


@pytest.mark.long
def test_compression_is_undone_and_refused_where_there_is_none(driver):
    file = io.BytesIO()
    Image.fromarray(data.camera()[96:192, 192:288]).save(file, "JPEG", quality=20)
    driver.set(noise="jpeg", max_iterations="4")
    driver.run()
    driver.wait_for_end()
    assert "no trace of JPEG" in driver.last_message
    driver.viewer.add_image(np.asarray(Image.open(file)), name="photo")
    driver.run()
    driver.wait_for_end()
    report = driver.viewer.layers["photo denoised"].metadata[METADATA_KEY]["report"]
    assert report["noise"]["model"] == "jpeg"
    assert any("quality 20" in note for note in report["notes"])
