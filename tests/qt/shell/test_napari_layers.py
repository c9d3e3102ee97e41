"""Which attributes a result layer takes from its input, and which metadata it has."""

from __future__ import annotations

import json
from dataclasses import replace
from weakref import ref

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from napari.layers._source import Source

from napari_dip.errors.notes import Stop, StopReason
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.restoration import Restoration
from napari_dip.qt.shell.dock_plots import find_plane_index
from napari_dip.qt.shell.dock_widget import fit_view, preserve_view
from napari_dip.qt.shell.job_controller import ResultTarget
from napari_dip.qt.shell.layer_headers import (
    METADATA_KEY,
    find_visible_bounds,
    get_full_resolution,
    is_sheared,
    measure_pixel_sizes,
    read_layer_header,
)
from napari_dip.qt.shell.napari_layers import (
    Preview,
    add_result,
    adjust_contrast_limits,
    brighten_dark_layer,
    compute_value_range,
    copy_layer_attributes,
    is_preview,
)
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.task import run_request
from napari_dip.qt.task.result_export import collect_panels
from napari_dip.qt.task.run_request import PendingResult, find_merge_layer, find_source_layer


def make_result(image, **report):
    recipe = make_recipe("denoise", seed=3)
    return Restoration(
        image=image,
        uncertainty=image,
        stop=Stop(reason=StopReason.PLATEAU, facts={"text": "the loss stopped falling"}),
        best_iteration=8,
        history=(),
        recipe=recipe,
        learned_parameters={},
        report=report,
    )


def make_target(layer):
    attributes = copy_layer_attributes(layer)
    return ResultTarget(name=layer.name, layer_attributes=attributes, get_source_layer=ref(layer))


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def rotated_layer(viewer, noisy):
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


def test_a_result_lies_and_looks_as_its_input(viewer, rotated_layer, noisy):
    result = add_result(viewer, make_target(rotated_layer), make_result(noisy.astype(np.float32)))
    for name in ("scale", "translate", "rotate", "shear", "contrast_limits"):
        np.testing.assert_allclose(getattr(result, name), getattr(rotated_layer, name))
    np.testing.assert_allclose(result.affine.affine_matrix, rotated_layer.affine.affine_matrix)
    for name in ("units", "axis_labels", "blending", "opacity", "gamma", "visible", "rgb"):
        assert getattr(result, name) == getattr(rotated_layer, name)
    assert result.colormap.name == rotated_layer.colormap.name
    assert result.data.dtype == np.float32


def test_a_colour_result_has_the_thumbnail_of_its_input(viewer):
    rows, columns = np.indices((64, 64))
    colours = np.stack([rows, columns, 63 - rows], axis=-1).astype(np.uint8) * 3
    source = viewer.add_image(colours, name="stained", rgb=True, contrast_limits=(0, 255))
    preview = Preview(viewer, make_target(source))
    restored = colours.astype(np.float32)
    preview.show(restored / 2)
    result = add_result(viewer, make_target(source), make_result(restored), preview)
    for layer in (result, add_result(viewer, make_target(source), make_result(restored))):
        difference = layer.thumbnail.astype(float) - source.thumbnail
        assert abs(difference).mean() < 8  # of other pixels, but not white
    result.data = 255 - restored  # a later change
    assert result.thumbnail[..., :3].mean() > source.thumbnail[..., :3].mean() + 30


def test_one_bright_scratch_on_the_input_leaves_preview_and_result_in_sight(viewer, noisy):
    scratched = noisy.astype(np.uint16)
    scratched[:, 30] = 65535
    layer = viewer.add_image(scratched, name="scratch")
    filled = noisy.astype(np.float32)
    preview = Preview(viewer, make_target(layer))
    preview.show(filled / 4)
    preview.show(filled)
    result = add_result(viewer, make_target(layer), make_result(filled))
    assert result.contrast_limits == [filled.min(), filled.max()]
    preview_layer = viewer.layers["scratch preview"]
    assert preview_layer.contrast_limits == [filled.min() / 4, filled.max()]
    preview_layer.contrast_limits = (5, 50)
    preview.show(2 * filled)
    preview.show(3 * filled)
    assert preview_layer.contrast_limits == [5, 50]  # by hand, so they stay
    layer.contrast_limits = (10, 3 * filled.max())
    assert add_result(
        viewer, make_target(layer), make_result(filled)
    ).contrast_limits == pytest.approx([10, 3 * filled.max()])


@pytest.mark.parametrize("crop_name", ["", "fast"])
def test_a_result_brighter_than_its_input_is_not_cut_off_at_white(viewer, noisy, crop_name):
    layer = viewer.add_image(noisy.astype(np.float32), name="blurred")
    limits = tuple(layer.contrast_limits)
    sharp = noisy * np.float32(1.8)
    target = replace(make_target(layer), crop_name=crop_name)
    preview = Preview(viewer, target)
    preview.show(sharp)
    for output in (
        viewer.layers["blurred preview"],
        add_result(viewer, target, make_result(sharp)),
    ):
        assert output.contrast_limits == pytest.approx(
            [limits[0], sharp.max()], abs=limits[1] / 256
        )
    assert tuple(layer.contrast_limits) == limits


def test_a_result_within_a_grey_value_of_the_limits_of_its_input_keeps_them(viewer, noisy):
    layer = viewer.add_image(noisy, name="cells", contrast_limits=(0, 255))
    result = noisy.astype(np.float32)
    result[0, 0], result[0, 1] = -0.9, 255.9
    assert add_result(viewer, make_target(layer), make_result(result)).contrast_limits == [0, 255]


def test_of_a_result_no_more_is_cut_off_than_of_its_input(viewer, noisy):
    layer = viewer.add_image(noisy, name="cells")
    layer.contrast_limits = np.quantile(noisy, [0, 0.9])
    sharp = noisy * np.float32(1.8)
    result = add_result(viewer, make_target(layer), make_result(sharp))
    share = (noisy > layer.contrast_limits[1]).mean()
    assert (sharp > result.contrast_limits[1]).mean() == pytest.approx(share, abs=0.005)
    assert share > 0.05


def test_alpha_is_left_out_of_a_layer_and_a_note_says_so(noisy):
    colour = np.stack([noisy, noisy // 2, noisy // 3, np.full_like(noisy, 255)], -1)
    layer = Image(colour, rgb=True, name="drawing")
    header = read_layer_header(layer)
    assert header.shape == (64, 64, 3) and header.axes == "YXS"
    assert [note.code for note in header.notes] == ["alpha-skipped"]
    np.testing.assert_array_equal(get_full_resolution(layer), colour[..., :3])


@pytest.mark.parametrize("shows", ["result", "region", "snapshot", "crop-preview"])
def test_every_restored_image_says_that_it_is_restored(noisy, shows):
    record = {"recipe": {"task": "denoise"}, "shows": shows}
    layer = Image(noisy, metadata={METADATA_KEY: record}, name="cells")
    assert read_layer_header(layer).tags.made_by == "denoise"
    layer.metadata[METADATA_KEY] = {**record, "shows": "residual"}  # the dock warns of it
    assert not read_layer_header(layer).tags.made_by
    layer.metadata[METADATA_KEY] = "not by this plugin"
    assert not read_layer_header(layer).tags.made_by


def test_a_result_says_how_it_came_about_in_plain_json(viewer, rotated_layer, noisy):
    answer = make_result(
        noisy,
        seed=3,
        iterations=12,
        seconds=1.5,
        device="cpu",
        input_sha256="ab" * 32,
        validation_loss=[[8, 0.1]],
    )
    result = add_result(viewer, make_target(rotated_layer), answer)
    provenance = result.metadata[METADATA_KEY]
    assert json.loads(json.dumps(provenance, allow_nan=False)) == provenance
    assert result.metadata["microscope"] == "confocal"
    assert METADATA_KEY not in rotated_layer.metadata
    assert provenance["recipe"] == {"schema": 3, "task": "denoise", "settings": {}, "seed": 3}
    assert provenance["input"] == {"name": "turned", "sha256": "ab" * 32}
    assert (provenance["seed"], provenance["iterations"], provenance["device"]) == (
        3,
        12,
        "cpu",
    )
    assert provenance["report"]["validation_loss"] == [[8, 0.1]]


@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 5)])
def test_a_psf_that_was_found_lies_beside_the_image_in_pixels_of_its_size(
    viewer, rotated_layer, noisy, shape
):
    psf = np.full(shape, 1 / 25, np.float32)
    recipe = make_recipe("blind-deblur", psf_size=5)
    answer = replace(make_result(noisy), recipe=recipe, learned_parameters={"psf": psf})
    result = add_result(viewer, make_target(rotated_layer), answer)
    assert [layer.name for layer in viewer.layers][-2:] == ["turned PSF", result.name]
    layer = viewer.layers["turned PSF"]
    assert not layer.visible  # it would lie over a corner of the image
    np.testing.assert_array_equal(layer.data, psf)
    np.testing.assert_allclose(layer.scale[-2:], measure_pixel_sizes(rotated_layer))
    assert layer.metadata[METADATA_KEY]["recipe"]["task"] == "blind-deblur"


def test_results_get_names_of_their_own(viewer, rotated_layer, noisy):
    names = [
        add_result(viewer, make_target(rotated_layer), make_result(noisy)).name for _ in range(3)
    ]
    assert names == ["turned denoised", "turned denoised [1]", "turned denoised [2]"]


def test_there_is_one_preview_layer_however_many_images_come(viewer, rotated_layer, noisy):
    preview = Preview(viewer, make_target(rotated_layer))
    for value in range(5):
        preview.show(np.full(noisy.shape, value, np.float32))
    assert [layer.name for layer in viewer.layers] == ["turned", "turned preview"]
    assert is_preview(viewer.layers[1])
    assert viewer.layers[1].data[0, 0] == 4
    preview.remove()
    assert [layer.name for layer in viewer.layers] == ["turned"]


def test_a_preview_that_the_user_removed_does_not_come_back(viewer, rotated_layer, noisy):
    preview = Preview(viewer, make_target(rotated_layer))
    preview.show(noisy.astype(np.float32))
    viewer.layers.remove("turned preview")
    preview.show(noisy.astype(np.float32))
    preview.show(noisy.astype(np.float32))
    preview.remove()
    assert [layer.name for layer in viewer.layers] == ["turned"]


def test_preview_and_result_leave_selection_camera_and_sliders_alone(viewer, rotated_layer, noisy):
    stack = viewer.add_image(np.zeros((7, 64, 64)), name="stack")
    viewer.layers.selection = {rotated_layer, stack}
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
    preview = Preview(viewer, make_target(rotated_layer))
    preview.show(noisy.astype(np.float32))
    add_result(viewer, make_target(rotated_layer), make_result(noisy))
    preview.remove()
    after = (
        set(viewer.layers.selection),
        viewer.layers.selection.active,
        viewer.dims.current_step,
        viewer.scene.camera.zoom,
        viewer.scene.camera.center,
    )
    assert after == before


def test_a_selected_layer_that_goes_away_is_not_selected_again(viewer, rotated_layer):
    with preserve_view(viewer):
        viewer.layers.remove(rotated_layer)
    assert not viewer.layers.selection


def test_a_multiscale_layer_is_described_by_its_finest_level():
    levels = [np.zeros((64, 64), np.uint16), np.zeros((32, 32), np.uint16)]
    header = read_layer_header(Image(levels, multiscale=True, name="pyramid"))
    assert header.shape == (64, 64)
    assert header.axes == "YX"
    assert header.dtype == "uint16"


def test_colour_is_what_napari_says_and_not_guessed_from_the_shape():
    pixels = np.zeros((32, 40, 3), np.uint8)
    assert read_layer_header(Image(pixels, rgb=True)).axes == "YXS"
    assert read_layer_header(Image(pixels, rgb=False)).axes == "ZYX"


def test_the_size_of_a_pixel_goes_with_each_axis():
    header = read_layer_header(
        Image(np.zeros((32, 40, 3), np.uint8), rgb=True, scale=(0.2, 0.3), units="um")
    )
    assert header.scale == (0.2, 0.3, 1.0)
    assert header.units == ("micrometer", "micrometer", "pixel")


AFFINES = {
    "none": (np.eye(3), (0.2, 0.3)),
    "larger": ([[2, 0, 5], [0, 4, 7], [0, 0, 1]], (0.4, 1.2)),
    "turned": ([[0, -2, 5], [2, 0, 7], [0, 0, 1]], (0.4, 0.6)),
    "sheared": ([[1, 0.75, 0], [0, 1, 0], [0, 0, 1]], (0.2, 0.375)),
}


@pytest.mark.parametrize("rotate", [0, 30])
@pytest.mark.parametrize("name", AFFINES)
def test_the_size_of_a_pixel_is_the_distance_of_its_neighbours_in_the_world(name, rotate):
    affine, sizes = AFFINES[name]
    layer = Image(np.zeros((32, 40)), scale=(0.2, 0.3), units="um", affine=affine, rotate=rotate)
    start = np.array(layer.data_to_world((0, 0)))
    steps = [np.array(layer.data_to_world(step)) - start for step in ((1, 0), (0, 1))]
    np.testing.assert_allclose(measure_pixel_sizes(layer), np.linalg.norm(steps, axis=1))
    assert read_layer_header(layer).scale == tuple(measure_pixel_sizes(layer))
    if not rotate:
        assert read_layer_header(layer).scale == pytest.approx(sizes)
    is_turned_and_stretched = name == "larger" and rotate
    assert is_sheared(layer) == bool(name == "sheared" or is_turned_and_stretched)


def fill_and_add(viewer, rotated_layer):
    """Take one result into the layer of a preview, and add the same to another viewer."""
    rng = np.random.default_rng(5)
    first, last = (rng.normal(3, 1, rotated_layer.data.shape).astype(np.float32) for _ in range(2))
    preview = Preview(viewer, make_target(rotated_layer))
    preview.show(first)
    layer = viewer.layers[-1]
    result = make_result(last, note="kept")
    into = add_result(viewer, make_target(rotated_layer), result, preview=preview)
    other = ViewerModel()
    other.add_layer(Image(rotated_layer.data, name=rotated_layer.name))
    new = add_result(other, make_target(rotated_layer), result)
    return preview, layer, into, new


def test_the_layer_of_the_preview_shows_the_result_as_a_new_one_would(viewer, rotated_layer):
    preview, before, into, new = fill_and_add(viewer, rotated_layer)
    assert into is before
    assert list(viewer.layers) == [rotated_layer, into]
    (data, state, kind), (expected, limits, same) = (
        into.as_layer_data_tuple(),
        new.as_layer_data_tuple(),
    )
    assert kind == same
    assert data is expected
    assert state.keys() == limits.keys()
    for key, value in limits.items():
        np.testing.assert_equal(state[key], value, key)
    assert into.name == new.name == "turned denoised"
    assert into.contrast_limits_range == new.contrast_limits_range
    assert not is_preview(into)
    preview.remove()
    assert into in viewer.layers
    preview.show(np.zeros_like(into.data))
    assert into.data is data


def test_what_was_set_for_the_preview_alone_does_not_stay(viewer, rotated_layer):
    preview = Preview(viewer, make_target(rotated_layer))
    image = np.ones(rotated_layer.data.shape, np.float32)
    preview.show(image)
    layer = viewer.layers[-1]
    layer.visible, layer.opacity, layer.colormap = False, 0.2, "magma"
    into = add_result(viewer, make_target(rotated_layer), make_result(image), preview=preview)
    assert into is layer
    assert (into.visible, into.opacity, into.colormap) == (
        rotated_layer.visible,
        rotated_layer.opacity,
        rotated_layer.colormap,
    )


def test_a_second_result_has_a_name_of_its_own(viewer, rotated_layer):
    names = [fill_and_add(viewer, rotated_layer)[2].name for _ in range(2)]
    assert names == ["turned denoised", "turned denoised [1]"]


@pytest.mark.parametrize("why", ["removed", "below another", "another size", "never shown"])
def test_a_preview_that_cannot_show_the_result_leaves_it_a_layer_of_its_own(
    viewer, rotated_layer, why
):
    preview = Preview(viewer, make_target(rotated_layer))
    image = np.ones(rotated_layer.data.shape, np.float32)
    if why != "never shown":
        preview.show(image[:-1] if why == "another size" else image)
        preview_layer = viewer.layers[-1]
    if why == "removed":
        viewer.layers.remove(preview_layer)
    elif why == "below another":
        viewer.add_image(image, name="kept")
    new = add_result(viewer, make_target(rotated_layer), make_result(image), preview=preview)
    assert viewer.layers[-1] is new
    assert new.data is not None
    preview.remove()
    assert not any(is_preview(layer) for layer in viewer.layers)
    assert new in viewer.layers


@pytest.mark.parametrize("failing", ["data", "name"])
def test_a_result_is_not_lost_with_a_preview_that_fails_to_show_it(viewer, rotated_layer, failing):
    image = np.ones(rotated_layer.data.shape, np.float32)
    preview = Preview(viewer, make_target(rotated_layer))
    preview.show(0 * image)
    preview_layer = viewer.layers[-1]

    def fail(event):
        raise RuntimeError("another plugin")

    getattr(preview_layer.events, failing).connect(fail)
    answer = PendingResult(
        target=make_target(rotated_layer),
        result=make_result(image),
        preview=preview,
    )
    name, remark = answer.add(viewer)
    preview.remove()
    assert "another plugin" in remark
    assert any(layer.data is image for layer in viewer.layers)
    assert name in [layer.name for layer in viewer.layers]
    assert not any(is_preview(layer) for layer in viewer.layers)


def test_single_dark_pixels_leave_the_background_black():
    image = np.random.default_rng(0).uniform(0, 200, (100, 100)).astype(np.float32)
    image[3, 4] = -19
    attributes = {"contrast_limits": (0.0, 255.0)}
    value_range = compute_value_range(image, (0.0, 0.0))
    assert adjust_contrast_limits(attributes, value_range)["contrast_limits"] == (0, 255)
    image[:2] = -19  # as many as can be structure
    value_range = compute_value_range(image, (0.0, 0.0))
    assert adjust_contrast_limits(attributes, value_range)["contrast_limits"] == (-19, 255)


def test_a_layer_with_fewer_axes_than_others_can_be_brought_into_view():
    viewer = ViewerModel()
    viewer.add_image(np.zeros((5, 40, 50)))
    fit_view(viewer, viewer.add_image(np.ones((30, 20))))
    assert viewer.scene.camera.zoom > 0


def test_a_dark_image_of_8_bits_is_brightened_for_the_comparison_with_its_result(viewer):
    dark = np.random.default_rng(0).integers(0, 60, (100, 100)).astype(np.uint8)
    dark[7, 9] = 200  # noise
    layer = viewer.add_image(dark)
    assert layer.contrast_limits == [0, 255]  # napari's
    brighten_dark_layer(layer)
    assert layer.contrast_limits == pytest.approx([0, 59], abs=0.1)
    request_attributes = copy_layer_attributes(layer)
    value_range = compute_value_range(np.minimum(dark, 59) / 2 + 10.0, (0.0, 0.0))
    adjusted = adjust_contrast_limits(request_attributes, value_range)
    assert adjusted["contrast_limits"] == pytest.approx((0, 59), abs=0.1)


@pytest.mark.parametrize(("brightest", "limits"), [(60, (0, 200)), (180, (0, 255))])
def test_limits_by_hand_and_of_bright_images_stay(viewer, brightest, limits):
    image = np.random.default_rng(0).integers(0, brightest, (40, 40)).astype(np.uint8)
    layer = viewer.add_image(image)
    layer.contrast_limits = limits
    brighten_dark_layer(layer)
    assert tuple(layer.contrast_limits) == limits


@pytest.fixture
def result_layer(viewer, noisy):
    """The result of a layer "cells"."""
    cells = viewer.add_image(noisy, name="cells")
    report = {"shape": noisy.shape, "input_sha256": compute_sha256(noisy)}
    return add_result(viewer, make_target(cells), make_result(noisy.astype(np.float32), **report))


def test_a_region_of_another_image_of_the_name_is_not_merged(viewer, result_layer, noisy):
    cells = viewer.layers["cells"]
    plan = preflight(make_recipe("denoise"), read_layer_header(cells), get_allowed_machine())
    assert find_merge_layer(viewer, cells, plan) is result_layer
    cells.name = "raw"
    assert find_merge_layer(viewer, cells, plan) is result_layer
    other = viewer.add_image(noisy[::-1], name="cells")
    assert find_merge_layer(viewer, other, plan) is None
    cells.data = noisy[:, ::-1]
    assert find_merge_layer(viewer, cells, plan) is None


def test_the_input_of_a_result_is_the_layer_of_its_pixels(viewer, result_layer, noisy):
    cells, metadata = viewer.layers["cells"], result_layer.metadata[METADATA_KEY]
    other = viewer.add_image(noisy[::-1], name="other")
    cells.name, other.name = "raw", "cells"
    assert find_source_layer(viewer, metadata) is cells
    viewer.layers.selection = {cells, other}
    panels = dict(collect_panels(viewer, result_layer))
    assert list(panels) == ["Input", "Result"]  # the other is no reference
    np.testing.assert_array_equal(panels["Input"][0].plane, noisy)
    viewer.layers.remove(cells)
    assert find_source_layer(viewer, metadata) is None
    assert list(dict(collect_panels(viewer, result_layer))) == ["Result"]


def test_large_inputs_are_paired_by_name_and_file(viewer, result_layer, noisy, monkeypatch):
    monkeypatch.setattr(run_request, "_MAX_HASHED_BYTES", 1)
    cells, metadata = viewer.layers["cells"], result_layer.metadata[METADATA_KEY]
    assert find_source_layer(viewer, metadata) is cells
    inputs = {"image": {"layer": "cells", "path": "/elsewhere/cells.tif"}}
    assert find_source_layer(viewer, {**metadata, "inputs": inputs}) is cells
    viewer.layers.remove(cells)
    source = Source(path="/here/cells.tif")
    viewer.add_layer(Image(noisy, name="cells"))._source = source
    assert find_source_layer(viewer, metadata) is viewer.layers["cells"]
    assert find_source_layer(viewer, {**metadata, "inputs": inputs}) is None


def test_the_whole_image_of_a_region_is_recognised(viewer, result_layer, noisy):
    whole = {"layer": "cells", "path": None, "sha256": compute_sha256(noisy)}
    region = {**result_layer.metadata[METADATA_KEY], "shows": "region", "inputs": {"image": whole}}
    region["report"] = {"shape": (32, 32), "input_sha256": compute_sha256(noisy[:32, :32])}
    assert find_source_layer(viewer, region) is viewer.layers["cells"]
    viewer.layers["cells"].data = noisy[::-1]
    assert find_source_layer(viewer, region) is None


@pytest.mark.parametrize("multiscale", [False, True])
def test_what_is_in_view_follows_camera_and_canvas(multiscale):
    viewer, pixels = ViewerModel(), np.zeros((2, 80, 60))
    place = {"scale": (1, 0.5, 0.5), "translate": (0, 10, 20)}
    data = [pixels, pixels[:, ::2, ::2]] if multiscale else pixels
    image = viewer.add_image(data, multiscale=multiscale, **place)
    viewer.canvas.size = (40, 20)
    viewer.scene.camera.center, viewer.scene.camera.zoom = (10 + 15, 20 + 5), 4
    assert find_visible_bounds(viewer, image) == (20.5, 5.5, 40.5, 15.5)
    viewer.scene.camera.center = (10, 20)  # the corner of the image
    assert find_visible_bounds(viewer, image) == (0, 0, 10.5, 5.5)
    viewer.scene.camera.center = (-90, 20)
    assert find_visible_bounds(viewer, image) == (0, 0, np.inf, np.inf)
    viewer.dims.order = (0, 2, 1)  # resets the view
    viewer.scene.camera.center, viewer.scene.camera.zoom = (20 + 5, 10 + 15), 4
    assert find_visible_bounds(viewer, image) == (25.5, 0.5, 35.5, 20.5)


def test_the_part_in_view_is_that_of_the_image_in_its_own_unit():
    viewer, pixels = ViewerModel(), np.zeros((9, 100, 100))
    images = [
        viewer.add_image(pixels, scale=(0.5, 0.1, 0.1), units="um"),
        viewer.add_image(pixels, scale=(500, 100, 100), units="nm"),
    ]
    viewer.canvas.size = (20, 20)
    viewer.dims.set_point(0, 1500)  # napari's view takes the smallest unit
    viewer.scene.camera.center, viewer.scene.camera.zoom = (3_000, 5_000), 0.01
    for image in images:
        np.testing.assert_allclose(find_visible_bounds(viewer, image), (20.5, 40.5, 40.5, 60.5))
        assert find_plane_index(image, viewer.dims.point, viewer.dims.units) == (3,)
