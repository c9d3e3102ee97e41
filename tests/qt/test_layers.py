"""What a picture made from a layer takes over from it, and what it says about itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_dip.qt.layers import (
    METADATA_KEY,
    Preview,
    add_result,
    header,
    is_preview,
    look_of,
    undisturbed,
)
from napari_dip.run.events import Restoration
from napari_dip.run.recipe import make_recipe


def restored(image, **report):
    recipe = make_recipe("denoise", seed=3)
    return Restoration(image, image, "the held-out loss stopped falling", 8, (), recipe, {}, report)


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def turned(viewer, noisy):
    """A layer with everything that can be set about its place and look."""
    return viewer.add_image(
        noisy,
        name="turned",
        scale=(0.2, 0.3),
        translate=(5, 6),
        rotate=30,
        shear=[0.1],
        affine=np.array([[1, 0.1, 2], [0, 1, 3], [0, 0, 1]]),
        units=("um", "um"),
        axis_labels=("y", "x"),
        colormap="magma",
        contrast_limits=(3, 200),
        gamma=0.7,
        blending="additive",
        opacity=0.6,
        metadata={"microscope": "confocal"},
    )


def test_a_result_lies_and_looks_as_its_input(viewer, turned, noisy):
    result = add_result(viewer, turned.name, look_of(turned), restored(noisy.astype(np.float32)))
    for name in ("scale", "translate", "rotate", "shear", "contrast_limits"):
        np.testing.assert_allclose(getattr(result, name), getattr(turned, name))
    np.testing.assert_allclose(result.affine.affine_matrix, turned.affine.affine_matrix)
    for name in ("units", "axis_labels", "blending", "opacity", "gamma", "visible", "rgb"):
        assert getattr(result, name) == getattr(turned, name)
    assert result.colormap.name == turned.colormap.name
    assert result.data.dtype == np.float32


def test_one_bright_scratch_on_the_input_leaves_preview_and_result_in_sight(viewer, noisy):
    scratched = noisy.astype(np.uint16)
    scratched[:, 30] = 65535
    layer = viewer.add_image(scratched, name="scratch")
    filled = noisy.astype(np.float32)
    preview = Preview(viewer, "scratch", look_of(layer))
    preview.show(filled / 4)
    preview.show(filled)
    result = add_result(viewer, "scratch", look_of(layer), restored(filled))
    assert result.contrast_limits == [filled.min(), filled.max()]
    shown = viewer.layers["scratch preview"]
    assert shown.contrast_limits == [filled.min() / 4, filled.max()]
    shown.contrast_limits = (5, 50)
    preview.show(2 * filled)
    preview.show(3 * filled)
    assert shown.contrast_limits == [5, 50]  # by hand, so they stay
    layer.contrast_limits = (10, 3 * filled.max())
    assert add_result(
        viewer, "scratch", look_of(layer), restored(filled)
    ).contrast_limits == pytest.approx([10, 3 * filled.max()])


def test_a_result_says_how_it_came_about_in_plain_json(viewer, turned, noisy):
    answer = restored(
        noisy, iterations=12, seconds=1.5, device="cpu", input_sha256="ab" * 32, held_out=[[8, 0.1]]
    )
    result = add_result(viewer, turned.name, look_of(turned), answer)
    said = result.metadata[METADATA_KEY]
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert result.metadata["microscope"] == "confocal"
    assert METADATA_KEY not in turned.metadata
    assert said["recipe"] == {"schema": 1, "task": "denoise", "settings": {}, "seed": 3}
    assert said["input"] == {"name": "turned", "sha256": "ab" * 32}
    assert (said["seed"], said["iterations"], said["device"]) == (3, 12, "cpu")
    assert said["report"]["held_out"] == [[8, 0.1]]


@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 5)])
def test_a_psf_that_was_found_lies_beside_the_picture_in_pixels_of_its_size(
    viewer, turned, noisy, shape
):
    psf = np.full(shape, 1 / 25, np.float32)
    recipe = make_recipe("blind-deblur", psf_size=5)
    answer = replace(restored(noisy), recipe=recipe, learned={"psf": psf})
    result = add_result(viewer, turned.name, look_of(turned), answer)
    assert [layer.name for layer in viewer.layers][-2:] == ["turned PSF", result.name]
    layer = viewer.layers["turned PSF"]
    np.testing.assert_array_equal(layer.data, psf)
    np.testing.assert_allclose(layer.scale[-2:], turned.scale)
    assert layer.metadata[METADATA_KEY]["recipe"]["task"] == "blind-deblur"


def test_results_get_names_of_their_own(viewer, turned, noisy):
    names = [
        add_result(viewer, turned.name, look_of(turned), restored(noisy)).name for _ in range(3)
    ]
    assert names == ["turned denoised", "turned denoised [1]", "turned denoised [2]"]


def test_there_is_one_preview_layer_however_many_pictures_come(viewer, turned, noisy):
    preview = Preview(viewer, turned.name, look_of(turned))
    for value in range(5):
        preview.show(np.full(noisy.shape, value, np.float32))
    assert [layer.name for layer in viewer.layers] == ["turned", "turned preview"]
    assert is_preview(viewer.layers[1])
    assert viewer.layers[1].data[0, 0] == 4
    preview.remove()
    assert [layer.name for layer in viewer.layers] == ["turned"]


def test_a_preview_that_the_user_removed_does_not_come_back(viewer, turned, noisy):
    preview = Preview(viewer, turned.name, look_of(turned))
    preview.show(noisy.astype(np.float32))
    viewer.layers.remove("turned preview")
    preview.show(noisy.astype(np.float32))
    preview.show(noisy.astype(np.float32))
    preview.remove()
    assert [layer.name for layer in viewer.layers] == ["turned"]


def test_preview_and_result_leave_selection_camera_and_sliders_alone(viewer, turned, noisy):
    stack = viewer.add_image(np.zeros((7, 64, 64)), name="stack")
    viewer.layers.selection = {turned, stack}
    viewer.layers.selection.active = stack
    viewer.dims.set_current_step(0, 2)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 3.5, (0, 11, 12)
    before = (
        set(viewer.layers.selection),
        viewer.layers.selection.active,
        viewer.dims.current_step,
        viewer.scene.camera.zoom,
        viewer.scene.camera.center,
    )
    preview = Preview(viewer, turned.name, look_of(turned))
    preview.show(noisy.astype(np.float32))
    add_result(viewer, turned.name, look_of(turned), restored(noisy))
    preview.remove()
    after = (
        set(viewer.layers.selection),
        viewer.layers.selection.active,
        viewer.dims.current_step,
        viewer.scene.camera.zoom,
        viewer.scene.camera.center,
    )
    assert after == before


def test_a_selected_layer_that_goes_away_is_not_selected_again(viewer, turned):
    with undisturbed(viewer):
        viewer.layers.remove(turned)
    assert not viewer.layers.selection


def test_a_multiscale_layer_is_described_by_its_finest_level():
    levels = [np.zeros((64, 64), np.uint16), np.zeros((32, 32), np.uint16)]
    spec = header(Image(levels, multiscale=True, name="pyramid"))
    assert spec.shape == (64, 64)
    assert spec.axes == "YX"
    assert spec.dtype == "uint16"


def test_colour_is_what_napari_says_and_not_guessed_from_the_shape():
    pixels = np.zeros((32, 40, 3), np.uint8)
    assert header(Image(pixels, rgb=True)).axes == "YXS"
    assert header(Image(pixels, rgb=False)).axes == "ZYX"


def test_the_size_of_a_pixel_goes_with_each_axis():
    spec = header(Image(np.zeros((32, 40, 3), np.uint8), rgb=True, scale=(0.2, 0.3), units="um"))
    assert spec.scale == (0.2, 0.3, 1.0)
    assert spec.units == ("micrometer", "micrometer", "pixel")
