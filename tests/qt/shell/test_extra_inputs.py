"""A mask may come from Labels, Shapes or an Image; shapes are drawn onto the image's own grid."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from skimage.draw import polygon2mask

from napari_dip.errors import return_refusal
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.qt.shell.layer_headers import (
    rasterise_mask,
    rasterise_shapes,
    read_layer_header,
)
from napari_dip.qt.shell.layer_inputs import NO_LAYER, ExtraInputs
from napari_dip.qt.shell.preferences import get_allowed_machine
from napari_dip.qt.shell.settings_form import make_combo
from napari_dip.tasks import TaskInput
from napari_dip.tasks.denoise import REPEATED_EXPOSURE_INPUT

MASK = TaskInput(
    name="mask", label="Mask", help="What to fill in.", layer_types=("labels", "shapes", "image")
)
SECOND = TaskInput(
    name="second", label="Second", help="Another shot.", layer_types=("image",), is_optional=True
)


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def extra_inputs(viewer, qtbot):
    further = ExtraInputs(viewer, (MASK, SECOND))
    qtbot.addWidget(further)
    yield further
    further.shut_down()


def list_offered(extra_inputs, name):
    combo = extra_inputs.combos[name]
    return [combo.itemText(index) for index in range(combo.count())]


def test_each_list_offers_the_layers_of_its_kinds(viewer, extra_inputs):
    image = viewer.add_image(np.zeros((8, 9)), name="cells")
    viewer.add_image(np.zeros((8, 9)), name="again")
    viewer.add_labels(np.zeros((8, 9), int), name="holes")
    viewer.add_points(np.zeros((1, 2)), name="points")
    extra_inputs.set_image(image)
    assert list_offered(extra_inputs, "mask") == ["holes", "again"]
    assert list_offered(extra_inputs, "second") == [NO_LAYER, "again"]


def test_what_may_be_left_out_is_left_out_at_first(viewer, extra_inputs):
    viewer.add_image(np.zeros((8, 9)), name="again")
    assert extra_inputs.get_layer("second") is None
    assert set(extra_inputs.read_headers()) == {"mask"}


def test_results_are_offered_as_inputs_and_never_taken_by_themselves(viewer, extra_inputs):
    metadata = {"napari_dip": {"recipe": {"task": "denoise"}, "shows": "residual"}}
    image = viewer.add_image(np.zeros((8, 9)), name="second mask")
    extra_inputs.set_image(image)
    viewer.add_image(np.zeros((8, 9)), name="second mask residual", metadata=metadata)
    assert list_offered(extra_inputs, "second") == [NO_LAYER, "second mask residual"]
    assert list_offered(extra_inputs, "mask") == ["second mask residual"]
    assert extra_inputs.get_chosen_layers() == {} and extra_inputs.read_headers() == {}
    viewer.add_image(np.zeros((8, 9)), name="again")
    viewer.layers.move(2, 1)  # below the residual
    extra_inputs.refresh()
    assert (
        extra_inputs.get_layer("mask").name == "again" and extra_inputs.get_layer("second") is None
    )


def test_a_result_is_offered_neither_as_a_repeated_exposure_nor_as_a_mask(viewer, qtbot):
    further = ExtraInputs(viewer, (REPEATED_EXPOSURE_INPUT, MASK))
    qtbot.addWidget(further)
    metadata = {"napari_dip": {"recipe": {"task": "denoise"}, "shows": "result"}}
    viewer.add_image(np.zeros((8, 9)), name="again")
    viewer.add_image(np.zeros((8, 9)), name="actin denoised", metadata=metadata)
    assert list_offered(further, "repeated_exposure") == [NO_LAYER, "again"]
    assert list_offered(further, "mask") == ["again"]
    further.shut_down()


def test_a_psf_that_was_found_is_taken_for_the_psf(viewer, qtbot):
    further = ExtraInputs(
        viewer,
        (
            TaskInput(
                name="psf", label="PSF", help="The blur.", layer_types=("image",), is_optional=True
            ),
        ),
    )
    qtbot.addWidget(further)
    psf_metadata = {"recipe": {"task": "blind-deblur"}}
    for name, shows in (("cells psf restored", "result"), ("cells PSF", "found")):
        metadata = {"napari_dip": {**psf_metadata, "shows": shows}}
        viewer.add_image(np.zeros((8, 9)), name=name, metadata=metadata)
    assert further.get_layer("psf").name == "cells PSF"
    further.shut_down()


def test_a_labels_layer_is_handed_over_as_it_is(viewer, extra_inputs):
    labels = np.arange(72).reshape(8, 9)
    viewer.add_labels(labels, name="holes")
    assert extra_inputs.read_headers()["mask"].shape == (8, 9)
    np.testing.assert_array_equal(extra_inputs.read_pixels()["mask"], labels)


def test_shapes_are_drawn_onto_the_image_wherever_both_lie(viewer):
    image = viewer.add_image(np.zeros((20, 30)), scale=(0.5, 0.5), translate=(10, 10))
    square = np.array([[11, 12], [11, 15], [14, 15], [14, 12]])  # in world units
    shapes = viewer.add_shapes([square], shape_type="polygon")
    (mask,) = rasterise_shapes(shapes, image)
    inside = np.argwhere(mask)
    assert mask.shape == (20, 30)
    np.testing.assert_allclose(inside.min(0), (2, 4), atol=1)
    np.testing.assert_allclose(inside.max(0), (8, 10), atol=1)


def test_a_line_marks_its_drawn_width_on_the_grid_of_the_image(viewer):
    image = viewer.add_image(np.zeros((60, 60)), scale=(0.5, 0.25))
    upright = viewer.add_shapes([[[5, 6], [25, 6]]], shape_type="line", edge_width=2)
    (mask,) = rasterise_shapes(upright, image)
    assert np.array_equal(np.unique(np.argwhere(mask)[:, 0]), np.arange(10, 51))
    assert np.array_equal(np.unique(np.argwhere(mask)[:, 1]), np.arange(20, 29))
    assert mask.sum() == 41 * 9
    outside = viewer.add_shapes([[[40, 6], [60, 6]]], shape_type="line", edge_width=2)
    assert not rasterise_shapes(outside, image).any()


@pytest.mark.parametrize("corners", [[[8, 9], [30, 41]], [[8, 9], [9, 40], [44, 41], [42, 15]]])
def test_lines_and_paths_cover_what_napari_draws(viewer, corners):
    image = viewer.add_image(np.zeros((60, 60)))
    kind = "line" if len(corners) == 2 else "path"
    shapes = viewer.add_shapes([corners], shape_type=kind, edge_width=9)
    drawn = shapes._data_view.shapes[0]
    triangles = (drawn._edge_vertices + 9 * drawn._edge_offsets)[drawn._edge_triangles]
    expected = np.any([polygon2mask((60, 60), triangle) for triangle in triangles], axis=0)
    (mask,) = rasterise_shapes(shapes, image)
    assert mask.sum() > 300 and (mask != expected).sum() < 3


def test_a_wide_line_marks_only_the_plane_on_which_it_is_drawn(viewer):
    image = viewer.add_image(np.zeros((4, 30, 40)))
    shapes = viewer.add_shapes([[[2, 15, 5], [2, 15, 30]]], shape_type="line", edge_width=5)
    mask = rasterise_mask(shapes, image)
    assert mask.any((1, 2)).tolist() == [False, False, True, False]
    assert mask.sum() == 5 * 26


UNITS = [("um", 0.1, "nm", 1000), ("nm", 100, "um", 0.001), ("um", 0.1, "pixel", 1)]


@pytest.mark.parametrize(("unit", "size", "other", "factor"), UNITS)
def test_shapes_in_another_unit_are_drawn_where_napari_shows_them(
    viewer, unit, size, other, factor
):
    image = viewer.add_image(np.zeros((100, 100)), scale=(size, size), units=unit)
    square = np.array([[19.5, 19.5], [19.5, 39.5], [39.5, 39.5], [39.5, 19.5]]) * size * factor
    (mask,) = rasterise_shapes(viewer.add_shapes([square], units=other), image)
    inside = np.argwhere(mask)
    np.testing.assert_allclose((inside.min(0), inside.max(0)), ((20, 20), (39, 39)), atol=1)
    (mask,) = rasterise_shapes(viewer.add_shapes([square / 1000], units=other), image)
    assert mask.sum() <= 1


def test_an_empty_shapes_layer_is_a_mask_as_large_as_the_image(viewer, extra_inputs):
    image = viewer.add_image(np.zeros((20, 30)), name="cells")
    viewer.add_shapes(name="drawing")
    extra_inputs.set_image(image)
    assert extra_inputs.read_headers()["mask"].shape == (20, 30)
    assert not extra_inputs.read_pixels()["mask"].any()


def test_the_list_of_an_optional_input_is_as_narrow_as_another_list(viewer, extra_inputs):
    viewer.add_image(np.zeros((8, 9)), name="cells")
    other = make_combo("Other", length=len(NO_LAYER))
    other.addItem(NO_LAYER)
    lists = extra_inputs.combos["second"], other
    for combo in lists:
        combo.setStyleSheet("QComboBox { padding: 3px; }")  # as napari's, it renews the size
    assert lists[0].sizeHint() == lists[1].sizeHint()


def test_a_choice_outlasts_new_layers_and_renaming_the_others(viewer, extra_inputs):
    viewer.add_labels(np.zeros((8, 9), int), name="first")
    viewer.add_labels(np.zeros((8, 9), int), name="second")
    combo = extra_inputs.combos["mask"]
    combo.setCurrentIndex(combo.findText("first"))
    viewer.add_labels(np.zeros((8, 9), int), name="third")
    assert extra_inputs.get_layer("mask").name == "first"


def test_a_chosen_layer_stays_chosen_under_another_name(viewer, extra_inputs):
    names = {"mask": "first", "second": "again"}
    layers = {"first": viewer.add_labels(np.zeros((8, 9), int), name="first")}
    viewer.add_labels(np.zeros((8, 9), int), name="topmost")
    layers["again"] = viewer.add_image(np.zeros((8, 9)), name="again")
    viewer.add_image(np.zeros((8, 9)), name="other")
    extra_inputs.choose(names)
    for name, layer in layers.items():
        layer.name = f"{name}, checked"
    assert extra_inputs.get_chosen_layers() == {
        "mask": layers["first"],
        "second": layers["again"],
    }


def test_a_change_is_signalled_until_the_dock_is_gone(viewer, extra_inputs):
    heard = []
    extra_inputs.changed.connect(lambda: heard.append(True))
    viewer.add_labels(np.zeros((8, 9), int), name="holes")
    assert heard
    heard.clear()
    extra_inputs.shut_down()
    viewer.add_labels(np.zeros((8, 9), int), name="more")
    assert not heard


def test_what_was_drawn_is_taken_until_the_user_says_otherwise(viewer, qtbot):
    further = ExtraInputs(
        viewer,
        (
            TaskInput(
                name="mask",
                label="Mask",
                help="Words.",
                layer_types=MASK.layer_types,
                is_optional=True,
            ),
        ),
    )
    qtbot.addWidget(further)
    viewer.add_image(np.zeros((8, 9)), name="another")
    assert further.get_layer("mask") is None
    viewer.add_labels(np.zeros((8, 9), int), name="holes")
    assert further.get_layer("mask").name == "holes"
    combo = further.combos["mask"]
    combo.setCurrentIndex(combo.findText(NO_LAYER))
    combo.activated.emit(combo.currentIndex())
    viewer.add_labels(np.zeros((8, 9), int), name="more")
    assert further.get_layer("mask") is None
    further.shut_down()


def test_a_long_label_stands_above_its_list_where_the_dock_is_narrow(viewer, qtbot):
    long = TaskInput(
        name="second",
        label="Repeated exposure of the same object",
        help="Words.",
        layer_types=("image",),
        is_optional=True,
    )
    further = ExtraInputs(viewer, (long,))
    qtbot.addWidget(further)
    width = further.layout().minimumSize().width()
    further.resize(width, further.layout().heightForWidth(width))
    further.show()
    combo = further.combos["second"]
    label = further.layout().labelForField(combo)
    assert label.width() >= label.sizeHint().width()
    assert not label.geometry().intersects(combo.geometry())
    assert combo.geometry().bottom() < further.height()
    further.shut_down()


def plan_with_mask(viewer, extra_inputs, name, **settings):
    image = viewer.add_image(np.zeros((16, 16)), name="cells")
    extra_inputs.set_image(image)
    extra_inputs.choose({"mask": name})
    headers = extra_inputs.read_headers()
    recipe = make_recipe("inpaint", **settings)
    return preflight(recipe, read_layer_header(image), get_allowed_machine(), headers)


def test_shapes_that_mark_nothing_are_refused_before_run_until_one_is_on_the_image(
    viewer, extra_inputs
):
    shapes = viewer.add_shapes(name="drawing")
    plan = plan_with_mask(viewer, extra_inputs, "drawing")
    inspect_early = return_refusal(extra_inputs.inspect_early)
    assert inspect_early(plan).code == "mask-empty"
    square = np.array([[2, 2], [2, 6], [6, 6], [6, 2]])
    answers = []
    extra_inputs.changed.connect(lambda: answers.append(inspect_early(plan)))
    shapes.add_polygons(square - 40)  # beside the image
    assert answers[-1].code == "mask-empty"
    shapes.add_polygons(square)
    assert answers[-1] == ()


def test_an_image_that_marks_nothing_is_refused_before_run(viewer, extra_inputs):
    viewer.add_image(np.zeros((16, 16), np.uint8), name="opened mask")
    plan = plan_with_mask(viewer, extra_inputs, "opened mask")
    assert return_refusal(extra_inputs.inspect_early)(plan).code == "mask-empty"


def test_a_label_that_does_not_occur_is_refused_before_run(viewer, extra_inputs):
    viewer.add_labels(np.eye(16, dtype=int), name="holes")
    plan = plan_with_mask(viewer, extra_inputs, "holes", label=7)
    refusal = return_refusal(extra_inputs.inspect_early)(plan)
    assert refusal.code == "mask-label"
    assert refusal.facts["labels"] == "1"


def test_a_mask_with_nothing_painted_is_refused_before_run_until_a_stroke(
    viewer, extra_inputs, qtbot
):
    holes = viewer.add_labels(np.zeros((16, 16), int), name="holes")
    plan = plan_with_mask(viewer, extra_inputs, "holes")
    inspect_early = return_refusal(extra_inputs.inspect_early)
    assert inspect_early(plan).code == "mask-empty"
    answers = []
    extra_inputs.changed.connect(lambda: answers.append(inspect_early(plan)))
    holes.paint((5, 5), 1)
    assert answers[-1] == ()  # at once: Run may be pressed now
    assert inspect_early(plan) == ()
    with qtbot.waitSignal(extra_inputs.changed, timeout=2000):
        holes.undo()
    assert inspect_early(plan).code == "mask-empty"


def list_input_notes(extra_inputs, name):
    notes = extra_inputs.read_headers()[name].notes
    return [(note.code, note.facts["is_placed"]) for note in notes]


def test_a_layer_that_lies_elsewhere_is_taken_by_hand_only_and_with_a_note(
    viewer, extra_inputs, qtbot
):
    holes = viewer.add_labels(np.zeros((8, 9), int), name="holes", translate=(3, 4))
    assert extra_inputs.get_layer("mask") is holes  # there is no image yet
    image = viewer.add_image(np.zeros((8, 9)), name="cells")
    viewer.add_labels(np.zeros((8, 9), int), name="more", translate=(0.4, 0))
    extra_inputs.set_image(image)
    assert extra_inputs.get_layer("mask").name == "more"
    assert list_input_notes(extra_inputs, "mask") == []
    extra_inputs.choose({"mask": "holes"})
    assert list_input_notes(extra_inputs, "mask") == [("input-elsewhere", True)]
    with qtbot.waitSignal(extra_inputs.changed, timeout=2000):
        holes.translate = (0, 0)
    assert list_input_notes(extra_inputs, "mask") == []


def test_a_layer_without_a_place_is_taken_with_a_note(viewer, extra_inputs):
    size = {"scale": (0.1, 0.1), "units": "um"}
    image = viewer.add_image(np.zeros((8, 9)), name="cells", **size)
    extra_inputs.set_image(image)
    viewer.add_labels(np.zeros((8, 9), int), name="holes")
    assert extra_inputs.get_layer("mask").name == "holes"
    assert list_input_notes(extra_inputs, "mask") == [("input-elsewhere", False)]
    viewer.add_image(np.zeros((8, 9)), name="again", scale=(100, 100), units="nm")
    extra_inputs.choose({"mask": "holes", "second": "again"})
    assert list_input_notes(extra_inputs, "second") == []


def test_a_layer_chosen_by_hand_that_is_removed_leaves_no_other_in_its_place(viewer, extra_inputs):
    extra_inputs.set_image(viewer.add_image(np.zeros((8, 9)), name="cells"))
    viewer.add_image(np.zeros((8, 9)), name="other")
    viewer.add_image(np.zeros((8, 9)), name="chosen")
    extra_inputs.choose({"mask": "chosen"})
    viewer.layers["chosen"].name = "renamed"
    assert extra_inputs.get_layer("mask").name == "renamed"
    viewer.layers.remove("renamed")
    viewer.add_image(np.zeros((8, 9)), name="later")
    assert extra_inputs.get_layer("mask") is None
    assert extra_inputs.list_unfit() == []  # it could be chosen
    assert extra_inputs.combos["mask"].placeholderText() == NO_LAYER
    extra_inputs.choose({"mask": "other"})
    assert extra_inputs.get_layer("mask").name == "other"


def test_a_shape_on_a_frame_of_a_movie_marks_that_frame_only(viewer, extra_inputs):
    movie = viewer.add_image(np.zeros((6, 16, 16)), name="cells", scale=(2, 1, 1))
    extra_inputs.set_image(movie)
    square = np.array([[2, 2], [2, 6], [6, 6], [6, 2]])
    shapes = viewer.add_shapes([np.insert(square, 0, 3 * 2, axis=1)], name="scratch")
    shapes.add_polygons(np.column_stack([[8, 8, 10, 10], square]))  # napari shows it on both
    shapes.add_polygons(np.insert(square, 0, -9, axis=1))  # before the movie
    extra_inputs.choose({"mask": "scratch"})
    header, mask = extra_inputs.read_headers()["mask"], extra_inputs.read_pixels()["mask"]
    assert header.shape == mask.shape == (6, 16, 16)
    assert np.flatnonzero(mask.any((1, 2))).tolist() == [3, 4, 5]
    assert [dict(note.facts) for note in header.notes] == [
        {"name": "scratch", "count": 3, "total": 6}
    ]
    viewer.layers.remove("scratch")
    viewer.add_shapes([square], name="flat")
    extra_inputs.choose({"mask": "flat"})
    assert extra_inputs.read_headers()["mask"].shape == (16, 16)
    assert extra_inputs.read_pixels()["mask"].any()


def test_a_shape_of_three_axes_marks_its_plane_in_all_frames_of_four(viewer, extra_inputs):
    extra_inputs.set_image(viewer.add_image(np.zeros((2, 3, 16, 16)), name="cells"))
    square = np.array([[1, 2, 2], [1, 2, 6], [1, 6, 6], [1, 6, 2]])
    viewer.add_shapes([square], name="scratch")
    mask = extra_inputs.read_pixels()["mask"]
    assert np.argwhere(mask.any((2, 3))).tolist() == [[0, 1], [1, 1]]
