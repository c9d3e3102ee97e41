"""Noise models in the Denoise dock, chosen and run with the mouse."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from skimage import data

from napari_dip.qt.shell.layer_headers import METADATA_KEY

pytestmark = pytest.mark.gl


def choose_noise(driver, label):
    """Open the list of noise models and go to the one of these words, as a hand does."""
    combo = driver.dock.form.widgets["noise"].native
    driver.qtbot.mouseClick(combo, Qt.MouseButton.LeftButton)
    texts = [combo.itemText(number) for number in range(combo.count())]
    steps = texts.index(label) - combo.currentIndex()
    for _ in range(abs(steps)):
        driver.qtbot.keyClick(combo.view(), Qt.Key.Key_Down if steps > 0 else Qt.Key.Key_Up)
    driver.qtbot.keyClick(combo.view(), Qt.Key.Key_Return)
    assert combo.currentText() == label


def read_report(driver, name):
    return driver.viewer.layers[name].metadata[METADATA_KEY]["report"]


@pytest.mark.long
def test_faulty_pixels_are_filled_in_and_the_layer_says_how_many(driver):
    image = data.moon()[200:264, 200:264].copy()
    image[::7, ::5] = 255
    driver.viewer.add_image(image, name="hot")
    choose_noise(driver, "Salt and pepper (faulty pixels)")
    driver.run()
    driver.wait_for_end()
    report = read_report(driver, "hot denoised")
    assert report["noise"]["model"] == "salt-and-pepper"
    assert any(note.startswith("130 pixels") for note in report["notes"])
    assert driver.viewer.layers["hot denoised"].data[::7, ::5].max() < 160


def test_stripes_are_levelled(driver):
    rng = np.random.default_rng(0)
    image = data.moon()[200:264, 200:264] + rng.normal(0, 4, (64, 64))
    image += rng.normal(0, 15, (1, 64))
    driver.viewer.add_image(image.astype(np.float32), name="striped")
    choose_noise(driver, "Stripes (line noise)")
    driver.run()
    driver.wait_for_end()
    report = read_report(driver, "striped denoised")
    assert report["noise"]["model"] == "stripes"
    columns = driver.viewer.layers["striped denoised"].data.mean(0)
    assert np.diff(columns).std() < 0.5 * np.diff(image.mean(0)).std()


@pytest.mark.long
def test_speckle_below_zero_is_refused_with_a_message(driver):
    image = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    driver.viewer.add_image(image, name="offset")
    choose_noise(driver, "Speckle")
    driver.run()
    driver.wait_for_end()
    assert "negative" in driver.last_message
    assert "offset denoised" not in driver.names
