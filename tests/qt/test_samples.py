"""Each sample suits its task, and its truth is nearer to the result than its input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer

from napari_dip import samples as degraded_samples
from napari_dip.qt import demo as samples
from napari_dip.qt.task.task_dock import make_dock_class

ROOT = Path(__file__).resolve().parents[2]
#: Task, sample, and settings that make one run short.
TASKS = [
    ("denoise", samples.make_movie_layers),
    ("denoise", samples.make_stack_layers),
    ("inpaint", samples.make_scratched_layers),
    ("super-resolve", samples.make_coarse_layers),
    ("deblur", samples.make_blurred_layers),
    ("blind-deblur", samples.make_blurred_layers),
    ("guide", samples.make_weak_channel_layers),
]


def test_the_sample_is_a_noisy_shot_above_a_hidden_long_exposure():
    (reference, reference_attributes, _), (shot, attributes, _) = samples.make_mitochondria_layers()
    assert shot.shape == reference.shape == (320, 320)
    assert reference_attributes["visible"] is False
    assert "visible" not in attributes
    assert np.diff(shot.astype(float)).std() > 2 * np.diff(reference.astype(float)).std()


@pytest.mark.parametrize("kind", ["masked", "binned", "blurred", "weak_channel", "movie", "stack"])
def test_a_sample_is_the_same_each_time_and_not_the_truth(kind):
    first, again = (getattr(degraded_samples, f"make_{kind}_sample")() for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.image.shape != first.truth.shape or np.abs(first.image - first.truth).max() > 1


def test_coarse_pixels_cover_the_ground_of_the_fine_ones():
    fine, coarse = (Layer.create(*data) for data in samples.make_coarse_layers())
    for corner in ((-0.5, -0.5), (95.5, 95.5)):
        finer = (np.array(corner) + 0.5) * 2 - 0.5
        np.testing.assert_allclose(fine.data_to_world(finer), coarse.data_to_world(corner))


@pytest.mark.sampled(1)
@pytest.mark.gl
@pytest.mark.parametrize(
    ("task", "sample"), TASKS, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_sample_is_taken_by_its_task_as_it_lies(make_napari_viewer, task, sample):
    viewer = make_napari_viewer()
    layers = [Layer.create(*data) for data in sample()]
    viewer.layers.extend(layers)
    images = [layer for layer in layers if isinstance(layer, Image) and layer.visible]
    viewer.layers.selection.active = images[-1]
    dock = make_dock_class(task)(viewer)
    viewer.window.add_dock_widget(dock, name=task, area="right")
    assert dock.run_bar.run_button.isEnabled(), dock.plan_label.text()
    assert [layer.name for layer in layers if isinstance(layer, Labels)] in ([], ["mask"])
    chosen = {key: combo.currentText() for key, combo in dock.extra_inputs.combos.items()}
    helpers = {"mask", "psf", "guide"}  # a second shot and maps of the camera are not made up
    assert {key: name for key, name in chosen.items() if name in helpers} == {
        key: key for key in helpers & chosen.keys()
    }


def test_every_sample_of_the_manifest_can_be_made():
    import yaml

    manifest = yaml.safe_load((ROOT / "napari.yaml").read_text(encoding="utf-8"))["contributions"]
    commands = {command["id"]: command["python_name"] for command in manifest["commands"]}
    for entry in manifest["sample_data"]:
        layers = getattr(samples, commands[entry["command"]].partition(":")[2])()
        assert all(kind in ("image", "labels") for _, _, kind in layers)
    functions = {f"make_{entry['key']}_layers" for entry in manifest["sample_data"]}
    assert functions == {name for name in vars(samples) if re.fullmatch("make_.*_layers", name)}
