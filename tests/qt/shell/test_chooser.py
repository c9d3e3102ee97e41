"""The input follows napari's selection until the user chooses in the dock."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_dip.errors import Refusal
from napari_dip.pipeline.plan.layout import list_axes_choices
from napari_dip.qt.shell.dock_widget import preserve_view
from napari_dip.qt.shell.layer_inputs import ImageChooser


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def image_chooser(viewer, qtbot):
    image_chooser = ImageChooser(viewer)
    qtbot.addWidget(image_chooser)
    yield image_chooser
    image_chooser.shut_down()


def make_image():
    return np.random.default_rng(0).normal(size=(32, 40)).astype(np.float32)


def choose_by_hand(image_chooser, name):
    index = image_chooser.combo.findText(name)
    image_chooser.combo.setCurrentIndex(index)
    image_chooser.combo.activated.emit(index)


def test_the_selected_image_is_chosen(viewer, image_chooser):
    first, second = (viewer.add_image(make_image(), name=name) for name in ("first", "second"))
    assert image_chooser.get_layer() is second
    viewer.layers.selection.active = first
    assert image_chooser.get_layer() is first


def test_a_result_is_not_followed_but_may_be_chosen_by_hand(viewer, image_chooser):
    viewer.add_image(make_image(), name="cells")
    for shows in ("result", "residual", "snapshot"):
        metadata = {"napari_dip": {"recipe": {"task": "denoise"}, "shows": shows}}
        layer = viewer.add_image(make_image(), name=shows, metadata=metadata)
        assert viewer.layers.selection.active is layer
        assert image_chooser.get_layer().name == "cells"
    choose_by_hand(image_chooser, "residual")
    assert image_chooser.get_layer().name == "residual"
    viewer.layers.remove("residual")
    assert image_chooser.get_layer().name == "cells"


def test_a_result_is_taken_where_there_is_nothing_else(viewer, image_chooser):
    metadata = {"napari_dip": {"recipe": {"task": "denoise"}, "shows": "result"}}
    viewer.add_image(make_image(), name="cells denoised", metadata=metadata)
    assert image_chooser.get_layer().name == "cells denoised"


def test_a_choice_by_hand_outlasts_the_selection(viewer, image_chooser):
    first, second = (viewer.add_image(make_image(), name=name) for name in ("first", "second"))
    choose_by_hand(image_chooser, "first")
    third = viewer.add_image(make_image(), name="third")
    assert viewer.layers.selection.active is third
    viewer.layers.selection.active = second
    assert image_chooser.get_layer() is first


def test_following_goes_on_when_the_image_chosen_by_hand_is_gone(viewer, image_chooser):
    first, second = (viewer.add_image(make_image(), name=name) for name in ("first", "second"))
    choose_by_hand(image_chooser, "first")
    viewer.layers.remove(first)
    assert image_chooser.get_layer() is second


def test_renaming_the_chosen_image_keeps_it(viewer, image_chooser):
    first = viewer.add_image(make_image(), name="first")
    viewer.layers.selection.clear()
    viewer.add_labels(np.zeros((32, 40), int), name="other")
    first.name = "renamed"
    assert image_chooser.get_layer() is first
    assert image_chooser.read_header().name == "renamed"


def test_renaming_keeps_an_image_chosen_by_hand_and_its_axes(viewer, image_chooser):
    stack = np.stack([make_image()] * 3)
    first, second = (viewer.add_image(stack, name=name) for name in "ab")
    choose_by_hand(image_chooser, "a")
    image_chooser.axes_combo.setCurrentText("TYX")
    first.name = "raw"
    assert image_chooser.get_layer() is first
    second.name = "a"
    assert image_chooser.get_layer() is first
    assert image_chooser.read_header().axes == "TYX"
    choose_by_hand(image_chooser, "a")
    assert image_chooser.read_header().axes == "ZYX"


def test_a_choice_of_the_program_lasts_until_another_image_is_selected(viewer, image_chooser):
    first, second = (viewer.add_image(make_image(), name=name) for name in ("first", "second"))
    third = viewer.add_image(make_image(), name="third")
    image_chooser.choose("first", is_by_hand=False)
    with preserve_view(viewer):
        viewer.add_image(make_image(), name="result", metadata={"napari_dip": {"preview": True}})
    assert viewer.layers.selection.active is third
    assert image_chooser.get_layer() is first
    viewer.layers.selection.active = second
    assert image_chooser.get_layer() is second


def test_only_images_are_offered(viewer, image_chooser):
    viewer.add_image(make_image(), name="cells")
    viewer.add_labels(np.zeros((32, 40), int), name="labels")
    viewer.add_points(np.zeros((3, 2)), name="points")
    viewer.add_shapes(name="shapes")
    assert [image_chooser.combo.itemText(i) for i in range(image_chooser.combo.count())] == [
        "cells"
    ]
    assert image_chooser.get_layer().name == "cells"


def test_with_nothing_to_choose_a_sentence_says_what_to_do(viewer, image_chooser):
    header = image_chooser.read_header()
    assert isinstance(header, Refusal)
    assert "Open an image" in header.message


def test_a_lone_labels_layer_is_refused_by_its_name(viewer, image_chooser):
    viewer.add_labels(np.zeros((32, 40), int), name="nuclei")
    header = image_chooser.read_header()
    assert isinstance(header, Refusal)
    assert "'nuclei' is a Labels layer" in header.message


def test_axes_are_asked_for_only_where_they_could_differ(viewer, image_chooser):
    viewer.add_image(make_image(), name="flat")
    assert image_chooser.axes_combo.isHidden()
    viewer.add_image(np.stack([make_image()] * 3), name="deep")
    assert not image_chooser.axes_combo.isHidden()
    assert image_chooser.axes_combo.currentText() == "ZYX: 3 planes"


def test_axis_labels_that_change_are_followed_until_axes_are_chosen(viewer, image_chooser):
    layer = viewer.add_image(np.zeros((1, 32, 40)), axis_labels=("z", "y", "x"))
    assert image_chooser.axes_combo.currentText() == "ZYX: 1 plane"
    changes = []
    image_chooser.changed.connect(lambda: changes.append(image_chooser.read_header().axes))
    layer.axis_labels = ("t", "y", "x")
    assert image_chooser.axes_combo.currentText() == "TYX: 1 frame" and changes == ["TYX"]
    image_chooser.choose(layer.name, "CYX")
    layer.axis_labels = ("z", "y", "x")
    assert image_chooser.read_header().axes == "CYX"


@pytest.mark.parametrize(
    ("shape", "rgb", "axes"),
    [
        ((8, 64, 64), False, ["ZYX", "TYX", "CYX"]),
        ((64, 64, 3), False, ["ZYX", "TYX", "CYX", "YXS"]),
        ((64, 64, 4), False, ["ZYX", "TYX", "CYX", "YXC"]),
        ((8, 64, 64, 3), True, ["ZYXS", "TYXS", "CYXS"]),
        ((5, 8, 64, 64), False, ["TZYX", "TCYX", "CZYX", "ZCYX"]),
        ((64, 64, 3), True, []),
        ((64, 64), False, []),
        ((64,), False, []),
    ],
)
def test_the_choices_of_axes_fit_the_image(shape, rgb, axes):
    assert list(list_axes_choices(shape, rgb=rgb)) == axes


def test_axes_named_by_the_user_are_remembered_for_that_image(viewer, image_chooser, qtbot):
    deep = viewer.add_image(np.stack([make_image()] * 3), name="deep")
    image_chooser.axes_combo.clearEditText()
    qtbot.keyClicks(image_chooser.axes_combo.lineEdit(), "cyx")
    assert image_chooser.read_header().axes == "CYX"
    viewer.add_image(make_image(), name="flat")
    assert image_chooser.read_header().axes == "YX"
    viewer.layers.selection.active = deep
    assert image_chooser.read_header().axes == "CYX"


def test_axis_labels_of_the_layer_are_believed(viewer, image_chooser):
    stack = np.stack([make_image()] * 3)
    viewer.add_image(stack, name="labelled", axis_labels=("c", "y", "x"))
    assert image_chooser.read_header().axes == "CYX"


def test_new_data_in_the_chosen_layer_is_noticed(viewer, image_chooser):
    layer = viewer.add_image(make_image(), name="cells")
    changes = []
    image_chooser.changed.connect(lambda: changes.append(image_chooser.read_header().shape))
    layer.data = make_image()[:20, :24]
    assert changes[-1] == (20, 24)


def test_a_disconnected_chooser_hears_nothing(viewer, image_chooser, qtbot):
    layer = viewer.add_image(make_image(), name="cells")
    heard = []
    image_chooser.changed.connect(lambda: heard.append(True))
    image_chooser.shut_down()
    layer.data = make_image()[:20, :24]
    viewer.add_image(make_image(), name="more")
    assert not heard


def test_axes_too_long_for_a_narrow_dock_end_in_an_ellipsis(viewer, image_chooser):
    viewer.add_image(np.zeros((128, 32, 40), np.float32), name="stack")
    combo = image_chooser.axes_combo
    edit = combo.lineEdit()
    assert edit.text() == "ZYX: 128 planes"
    combo.setFixedWidth(110)
    image_chooser.show()
    combo.clearFocus()  # who types needs the whole text
    assert edit.fontMetrics().horizontalAdvance(edit.text()) > edit.width()
    drawn = edit.grab().toImage()
    entries = [f"{edit.text()[:end]}…" for end in range(1, len(edit.text()))]
    images = []
    for entry in entries:
        edit.setText(entry)
        images.append(edit.grab().toImage())
    assert drawn in images
