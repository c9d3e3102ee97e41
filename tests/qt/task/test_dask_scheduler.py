"""A dock whose preferences name a dask scheduler, which computes its runs."""

from __future__ import annotations

import numpy as np
import pytest

from napari_dip.qt.shell.layer_headers import METADATA_KEY
from scale.cluster.scheduler_program import start_scheduler

pytest.importorskip("distributed")
pytestmark = [pytest.mark.gl, pytest.mark.timeout(400)]


@pytest.mark.long
@pytest.mark.all_cores
def test_a_run_on_a_scheduler_is_watched_and_stopped_as_here_and_has_the_same_bytes(
    driver, plugin_settings, npe2pm, monkeypatch
):
    from napari.settings import get_plugin_settings
    from npe2 import PluginManifest

    if "napari-dip" not in npe2pm:
        npe2pm.register(PluginManifest.from_distribution("napari-dip"))
    driver.run()
    driver.wait_for_end()
    here = driver.viewer.layers["cells denoised"].data
    with start_scheduler() as address:
        get_plugin_settings("napari-dip").computing.scheduler = f" {address} "
        driver.dock.show_plan()
        assert f"It runs on the dask cluster at {address}." in driver.dock.plan_label.text()
        driver.run()
        driver.wait_for_end()
        remote = driver.viewer.layers["cells denoised [1]"]
        assert remote.data.tobytes() == here.tobytes()
        driver.set(prior="random-input", max_iterations="100000")
        driver.run()
        driver.wait_until(lambda: "cells preview" in driver.names)
        first = driver.viewer.layers["cells preview"].data
        driver.wait_until(lambda: driver.viewer.layers["cells preview"].data is not first)
        driver.wait_for_fit()
        driver.press(driver.dock.run_bar.pause_button)
        driver.qtbot.wait(1500)  # what was under way has come
        points = driver.dock.validation_curve.point_count
        driver.qtbot.wait(1000)
        assert driver.dock.validation_curve.point_count == points
        driver.press(driver.dock.run_bar.pause_button)
        driver.wait_for_fit(points + 1)
        driver.press(driver.dock.run_bar.run_button)  # Stop and keep
        driver.wait_for_end()
        kept = driver.viewer.layers["cells denoised [2]"]
        assert "you stopped it" in kept.metadata[METADATA_KEY]["stop_sentence"]
        driver.run()
        driver.wait_for_fit()
        driver.press(driver.dock.run_bar.discard_button)
        assert not driver.dock.is_busy and "cells denoised [3]" not in driver.names
        get_plugin_settings("napari-dip").computing.scheduler = "tcp://127.0.0.1:1"
        monkeypatch.setattr("napari_dip.scale.cluster.dask_cluster.SCHEDULER_TIMEOUT", 2)
        driver.run()
        driver.wait_for_end()
        assert "cannot be reached" in driver.last_message
    assert np.isfinite(kept.data).all()
