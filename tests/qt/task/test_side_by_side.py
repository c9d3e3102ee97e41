"""Simultaneous runs do not affect the pixels of each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

import napari_dip as dip
from napari_dip.qt.task.task_dock import DenoiseDock

SETTINGS = {"preset": "fast", "max_iterations": 10}


def restore_alone(pixels, seed):
    return dip.denoise(pixels, seed=seed, **SETTINGS).image.tobytes()


@pytest.fixture
def second_image(noisy):
    return np.ascontiguousarray(noisy[::-1, ::-1])


@pytest.mark.long
@pytest.mark.parametrize("small", [False, True], ids=["same threads", "other threads"])
@pytest.mark.all_cores
def test_runs_started_together_in_threads_equal_lone_runs(noisy, second_image, small):
    """The number of threads is one setting of the whole process, and part of the pixels."""
    images = [noisy, second_image[:40, :48] if small else second_image, noisy]
    wanted = [restore_alone(image, seed) for seed, image in enumerate(images)]
    start = Barrier(len(images))

    def restore_together(seed, image):
        start.wait(30)
        return restore_alone(image, seed)

    with ThreadPoolExecutor(len(images)) as pool:
        for _ in range(2):
            got = list(pool.map(restore_together, range(len(images)), images))
            assert got == wanted


def run_both(driver, docks):
    for dock, seed in zip(docks, (1, 2), strict=True):
        dock.form.widgets["seed"].value = seed
        dock.form.widgets["preset"].value = SETTINGS["preset"]
        dock.form.widgets["max_iterations"].value = str(SETTINGS["max_iterations"])
        driver.press(dock.run_bar.run_button)
    assert all(dock.is_busy for dock in docks)
    driver.wait_until(lambda: not any(dock.is_busy for dock in docks))


@pytest.mark.long
@pytest.mark.gl
@pytest.mark.all_cores
def test_two_docks_in_one_viewer_give_what_each_gives_alone(driver, noisy, second_image):
    driver.viewer.add_image(second_image, name="other")
    docks = [driver.dock, DenoiseDock(driver.viewer)]
    driver.viewer.window.add_dock_widget(docks[1], name="Denoise again", area="right")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    combo = docks[1].image_chooser.combo
    combo.setCurrentText("other")
    combo.activated.emit(combo.currentIndex())  # as if chosen by hand
    assert [dock.image_chooser.get_layer().name for dock in docks] == ["cells", "other"]
    run_both(driver, docks)
    layers = driver.viewer.layers
    assert sorted(driver.names) == ["cells", "cells denoised", "other", "other denoised"]
    assert layers["cells denoised"].data.tobytes() == restore_alone(noisy, 1)
    assert layers["other denoised"].data.tobytes() == restore_alone(second_image, 2)


@pytest.mark.long
@pytest.mark.gl
@pytest.mark.all_cores
def test_two_viewers_give_what_each_gives_alone(driver, make_napari_viewer, noisy, second_image):
    viewer = make_napari_viewer()
    viewer.add_image(second_image, name="other")
    docks = [driver.dock, DenoiseDock(viewer)]
    viewer.window.add_dock_widget(docks[1], name="Denoise", area="right")
    run_both(driver, docks)
    assert driver.viewer.layers["cells denoised"].data.tobytes() == restore_alone(noisy, 1)
    assert viewer.layers["other denoised"].data.tobytes() == restore_alone(second_image, 2)
