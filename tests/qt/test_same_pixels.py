"""One recipe file, three interfaces, the same bytes: again, and in other processes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.pipeline.execute.executor import Executor

pytestmark = [pytest.mark.gl, pytest.mark.timeout(300)]

#: A few iterations, so that the fit, its judgement and the last look all take part.
SETTINGS = {"max_iterations": "12", "seed": 3, "smoothing": 0.01}

PYTHON = """
import sys, napari_dip as dip
result = dip.restore(sys.argv[1], sys.argv[2])
sys.stdout.buffer.write(result.image.tobytes())
"""


def hash_pixels(pixels):
    assert np.asarray(pixels).dtype == np.float32
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


@pytest.fixture
def shot(noisy, tmp_path):
    path = tmp_path / "shot.tif"
    tifffile.imwrite(path, noisy)
    return path


@pytest.fixture
def recipe(driver, tmp_path):
    """Written by the dock."""
    path = tmp_path / "recipe.json"
    driver.set(**SETTINGS)
    driver.dock.repeat_section.recipes.save(str(path))
    driver.set(max_iterations="7", seed=0, smoothing=0)
    return path


def restore_in_dock(driver, shot, recipe):
    driver.viewer.layers.clear()
    (layer,) = driver.viewer.open(str(shot), plugin="napari")
    driver.dock.repeat_section.recipes.load(str(recipe))
    driver.run()
    driver.wait_for_end()
    return driver.viewer.layers[f"{layer.name} denoised"].data


def restore_by_command(shot, recipe, out):
    program = Path(sys.executable).with_name("napari-dip")
    command = [program, "denoise", shot, "--from-recipe", recipe, "-o", out, "--quiet"]
    subprocess.run([str(part) for part in command], check=True, timeout=120)
    return tifffile.imread(out)


def restore_in_new_python(shot, recipe):
    command = [sys.executable, "-c", PYTHON, str(shot), str(recipe)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.frombuffer(done.stdout, np.float32)


#: Milliseconds after which a second press on Run is no double click any more.
DOUBLE_CLICK = 600


def stop_and_keep_in_dock(driver, iteration, monkeypatch):
    """Press *Stop and keep* while the run of the dock waits after this iteration."""
    is_reached, is_pressed, poll = threading.Event(), threading.Event(), Executor._poll_control
    polls = 0

    def wait_for_press(executor):
        nonlocal polls
        polls += 1
        if polls == iteration + 1:  # it is polled before each iteration
            is_reached.set()
            assert is_pressed.wait(60)
        return poll(executor)

    with monkeypatch.context() as patch:
        patch.setattr(Executor, "_poll_control", wait_for_press)
        driver.run()
        driver.wait_until(is_reached.is_set)
        driver.qtbot.wait(DOUBLE_CLICK)
        assert driver.dock.run_bar.run_button.text() == "Stop and keep"
        driver.press(driver.dock.run_bar.run_button)
        is_pressed.set()
        driver.wait_for_end()
    return driver.viewer.layers["cells denoised"]


def keep_by_loop(image, recipe, iteration):
    run = dip.run("denoise", image, **recipe)
    for event in run:
        if event.iteration >= iteration:
            run.keep()
    return run.result


def keep_by_answer(image, recipe, iteration):
    return dip.denoise(
        image,
        **recipe,
        progress=lambda event: "keep" if event.iteration >= iteration else None,
    )


@pytest.mark.long
@pytest.mark.parametrize("prior", ["r2r", "blind-spot", "random-input"])
@pytest.mark.all_cores
def test_stop_and_keep_gives_the_same_bytes_from_dock_loop_and_answer(
    driver, noisy, tmp_path, monkeypatch, prior
):
    settings = {"preset": "fast", "max_iterations": 60, "prior": prior}
    whole = dip.denoise(noisy, **settings)
    second = whole.history[1][0]  # a validation: there is an event of it in every run
    assert second < 60
    driver.set(max_iterations="60", prior=prior)
    layer = stop_and_keep_in_dock(driver, second, monkeypatch)
    (saved,) = layer.save(str(tmp_path / "dock.tif"), plugin="napari")
    for number, keep in enumerate((keep_by_loop, keep_by_answer)):
        result = keep(noisy, settings, second)
        assert result.stop_reason == "user"
        assert result.report["iterations"] == second
        assert hash_pixels(result.image) == hash_pixels(layer.data)
        path = result.save(tmp_path / f"python-{number}.tif")
        assert hash_pixels(tifffile.imread(path)) == hash_pixels(tifffile.imread(saved))
    if whole.best_iteration > second:  # or this could not fail
        assert hash_pixels(whole.image) != hash_pixels(layer.data)


@pytest.mark.long
@pytest.mark.all_cores
def test_one_recipe_gives_the_same_bytes_through_every_door_twice(driver, shot, recipe, tmp_path):
    digests = {}
    for turn in ("first", "second"):
        out = tmp_path / f"{turn}.tif"
        digests[f"dock, {turn}"] = hash_pixels(restore_in_dock(driver, shot, recipe))
        digests[f"command line, {turn}"] = hash_pixels(restore_by_command(shot, recipe, out))
        digests[f"Python here, {turn}"] = hash_pixels(dip.restore(shot, recipe).image)
        digests[f"Python anew, {turn}"] = hash_pixels(restore_in_new_python(shot, recipe))
    assert len(digests) == 8
    assert len(set(digests.values())) == 1, digests


@pytest.mark.long
@pytest.mark.all_cores
def test_another_seed_gives_other_bytes(driver, shot, recipe):
    """Or the test above could not fail."""
    same = dip.restore(shot, recipe)
    other = dip.restore(shot, same.recipe.replace_run_settings(seed=4))
    assert hash_pixels(same.image) != hash_pixels(other.image)
