"""One recipe file, three interfaces, the same bytes: again, and in other processes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip

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


@pytest.mark.long
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


def test_another_seed_gives_other_bytes(driver, shot, recipe):
    """Or the test above could not fail."""
    same = dip.restore(shot, recipe)
    other = dip.restore(shot, same.recipe.replace_run_settings(seed=4))
    assert hash_pixels(same.image) != hash_pixels(other.image)
