"""Camera maps in the Denoise dock are chosen from layers."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.qt.shell.layer_headers import METADATA_KEY

pytestmark = pytest.mark.gl


def choose_layers(driver, **layers):
    """Add layers, and choose them in the lists of these names."""
    for name, pixels in layers.items():
        driver.viewer.add_image(pixels, name=name)
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    driver.dock.extra_inputs.choose({name: name for name in layers})


@pytest.mark.long
def test_no_map_is_taken_unless_one_is_chosen(driver):
    driver.viewer.add_image(np.ones((64, 64)), name="noise")
    combos = driver.dock.extra_inputs.combos
    assert {combos[f"{kind}_map"].currentText() for kind in ("offset", "gain", "noise")} == {"none"}


def test_maps_from_layers_are_used_and_the_layer_says_so(driver):
    noise = np.ones((64, 64))
    noise[5, 7] = 40
    choose_layers(driver, offset_map=np.zeros((64, 64)), noise_map=noise)
    driver.run()
    driver.wait_for_end()
    report = driver.viewer.layers["cells denoised"].metadata[METADATA_KEY]["report"]
    assert report["fit"]["inputs"] == ["offset_map", "noise_map"]
    assert any("noise map of the camera" in note for note in report["notes"])


@pytest.mark.long
def test_a_gain_map_alone_is_refused_before_anything_runs(driver):
    choose_layers(driver, gain_map=np.ones((64, 64)))
    assert not driver.dock.run_bar.run_button.isEnabled()
    assert "offset map" in driver.dock.plan_label.text()


@pytest.mark.long
def test_a_map_of_another_size_is_refused_before_anything_runs(driver):
    choose_layers(driver, noise_map=np.ones((60, 64)))
    assert not driver.dock.run_bar.run_button.isEnabled()
    assert "60 × 64" in driver.dock.plan_label.text()


@pytest.mark.long
def test_maps_wait_in_a_fold_of_their_own(driver):
    dock = driver.dock
    combos = dock.extra_inputs.combos
    assert dock.camera_maps.isVisibleTo(dock)
    assert not combos["noise_map"].isVisibleTo(dock)
    assert combos["repeated_exposure"].isVisibleTo(dock)
    dock.camera_maps.title_button.setChecked(True)
    assert combos["noise_map"].isVisibleTo(dock)
