"""Kinds of layers are restored, or refused with a message before the run."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import tifffile
from napari.layers._layer_actions import _split_stack
from qtpy.QtCore import Qt

from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.task_dock import make_dock_class

pytestmark = pytest.mark.gl


def run_and_get_layer(driver, image, iterations=6, **settings):
    driver.viewer.add_image(image, name="special", **settings)
    driver.set(max_iterations=str(iterations))
    driver.run()
    driver.wait_for_end()
    assert "special denoised" in driver.names, driver.last_message
    return driver.viewer.layers["special denoised"]


def test_a_colour_image_stays_a_colour_image(driver, noisy):
    colour = np.stack([noisy, noisy[::-1], noisy[:, ::-1]], axis=-1)
    result = run_and_get_layer(driver, colour, rgb=True)
    assert result.rgb
    assert result.data.shape == colour.shape
    assert result.metadata[METADATA_KEY]["report"]["axes"] == "YXS"


def test_a_grey_image_in_colours_stays_one_and_is_restored_as_grey(driver, noisy):
    result = run_and_get_layer(driver, np.stack([noisy] * 3, axis=-1), rgb=True)
    assert result.rgb
    assert result.data.shape == (*noisy.shape, 3)
    assert (result.data == result.data[..., :1]).all()
    notes = result.metadata[METADATA_KEY]["report"]["notes"]
    assert "restored as one grey channel" in " ".join(map(str, notes))


@pytest.mark.long
def test_of_a_colour_image_with_alpha_the_colours_are_restored_and_a_note_says_so(driver, noisy):
    alpha = np.full_like(noisy, 255)
    colour = np.stack([noisy, noisy[::-1], noisy[:, ::-1], alpha], axis=-1)
    result = run_and_get_layer(driver, colour, rgb=True)
    assert result.rgb
    assert result.data.shape == (*noisy.shape, 3)
    notes = result.metadata[METADATA_KEY]["report"]["notes"]
    assert "The alpha channel of 'special' is left out." in " ".join(map(str, notes))


@pytest.mark.long
def test_channels_are_restored_when_the_axes_say_so(driver, noisy, qtbot):
    pair = np.stack([noisy, noisy.T]).astype(np.uint16) * 9
    driver.viewer.add_image(pair, name="pair")
    axes = driver.dock.image_chooser.axes_combo
    line = driver.dock.plan_label.text()
    assert "2 planes one after another" in line
    assert "choose in 'Axes': CYX for channels" in line  # no option of the command line
    axes.clearEditText()
    qtbot.keyClicks(axes.lineEdit(), "CYX")
    assert "2 channels one after another" in driver.dock.plan_label.text()
    driver.set(max_iterations="6")
    driver.run()
    driver.wait_for_end()
    assert driver.viewer.layers["pair denoised"].data.shape == pair.shape


def write_hyperstack(path, pixels, axes, size, **tags):
    """Write a TIFF as ImageJ does: axes and sizes are in its header, which napari does not read."""
    metadata = {"axes": axes, "unit": "um", **tags}
    tifffile.imwrite(path, pixels, imagej=True, metadata=metadata, resolution=(1 / size, 1 / size))


def test_axes_and_pixel_size_are_read_from_the_file_where_napari_drops_them(
    driver, noisy, tmp_path
):
    write_hyperstack(tmp_path / "pair.tif", np.stack([noisy, noisy.T]), "CYX", 0.1)
    write_hyperstack(tmp_path / "movie.tif", np.stack([noisy] * 8), "TYX", 0.5, finterval=30.0)
    chooser = driver.dock.image_chooser
    label = chooser.layout().labelForField(chooser.axes_combo)
    (pair,) = driver.viewer.open(str(tmp_path / "pair.tif"))
    assert (pair.scale == 1).all()  # as napari opens it
    header = chooser.read_header()
    assert header.axes == "CYX" and not header.has_guessed_axes and label.text() == "Axes"
    assert header.scale[1:] == (0.1, 0.1) and header.units[1:] == ("micrometer",) * 2
    assert chooser.source_label.text() == "From its file: axes CYX, pixels of 0.1 µm."
    assert "2 channels one after another" in driver.dock.plan_label.text()
    driver.viewer.open(str(tmp_path / "movie.tif"))
    assert "as a movie, 8 frames one after another" in driver.dock.plan_label.text()
    assert "frames every 30 s, pixels of 0.5 µm" in chooser.source_label.text()
    tifffile.imwrite(tmp_path / "stained.tif", np.stack([noisy] * 3, axis=-1), photometric="rgb")
    driver.viewer.open(str(tmp_path / "stained.tif"))
    assert chooser.source_label.isHidden()  # nothing that was missing
    driver.viewer.layers.selection.active = driver.viewer.layers["movie"]
    driver.viewer.layers["movie"].scale = (1, 2, 2)  # the user knows better
    chooser.refresh()
    assert chooser.source_label.isHidden() and chooser.read_header().scale == (1, 2, 2)
    driver.viewer.layers["pair"].data = noisy  # no longer what the file holds
    driver.viewer.layers.selection.active = driver.viewer.layers["pair"]
    assert chooser.source_label.isHidden() and chooser.read_header().axes == "YX"


def test_a_guide_that_is_in_the_same_layer_is_split_off_first(make_napari_viewer, noisy, tmp_path):
    write_hyperstack(tmp_path / "pair.tif", np.stack([noisy, noisy.T]), "CYX", 0.1)
    viewer = make_napari_viewer()
    viewer.open(str(tmp_path / "pair.tif"))
    dock = make_dock_class("guide")(viewer)
    viewer.window.add_dock_widget(dock, name="guide")
    message = dock.plan_label.text()
    assert "'pair' holds 2 channels in one layer" in message and "'Split Stack'" in message
    assert dock.extra_inputs.combos["guide"].placeholderText() == "no other layer"
    viewer.layers.selection.active = viewer.layers["pair"]
    _split_stack(viewer.layers)  # what the menu entry calls
    assert len(viewer.layers) == 2
    assert "Split Stack" not in dock.plan_label.text() and dock.run_bar.run_button.isEnabled()


@pytest.mark.long
def test_the_microscope_needs_no_pixel_size_that_the_file_has(make_napari_viewer, noisy, tmp_path):
    write_hyperstack(tmp_path / "cells.tif", noisy, "YX", 0.065)
    viewer = make_napari_viewer()
    viewer.open(str(tmp_path / "cells.tif"))
    dock = make_dock_class("deblur")(viewer)
    viewer.window.add_dock_widget(dock, name="deblur")
    values = {"microscope": "widefield", "na": "1.4", "wavelength": "520"}
    for name, value in values.items():
        dock.form.widgets[name].value = value
    assert dock.form.advanced_page.isAncestorOf(dock.form.widgets["pixel_size"].native)
    assert "64 × 64 pixels" in dock.plan_label.text() and dock.run_bar.run_button.isEnabled()
    assert dock.image_chooser.source_label.text() == "From its file: pixels of 0.065 µm."


@pytest.mark.long
def test_guessed_axes_are_a_visible_choice_and_a_click_makes_a_movie_of_them(driver, noisy, qtbot):
    driver.viewer.window._qt_window.show()
    driver.viewer.add_image(np.stack([noisy] * 8), name="eight")
    chooser = driver.dock.image_chooser
    label = chooser.layout().labelForField(chooser.axes_combo)
    assert chooser.axes_combo.isVisible() and label.text() == "⚠ Axes (guessed)"
    assert "8 planes one after another" in driver.dock.plan_label.text()
    assert "font-weight: bold" in label.styleSheet()
    assert "was taken for depth" in driver.dock.plan_label.text()
    choices = [chooser.axes_combo.itemText(row) for row in range(chooser.axes_combo.count())]
    assert choices == ["ZYX: 8 planes", "TYX: 8 frames", "CYX: 8 channels"]
    qtbot.keyClick(chooser.axes_combo, Qt.Key.Key_Down)
    assert chooser.read_header().axes == "TYX" and label.text() == "Axes"
    assert "as a movie, 8 frames one after another" in driver.dock.plan_label.text()
    assert "was taken for depth" not in driver.dock.plan_label.text()


def test_a_stack_is_restored_as_a_volume_and_lies_as_before(driver, noisy):
    stack = np.stack([noisy[:32, :32]] * 6)
    result = run_and_get_layer(driver, stack, scale=(2, 1, 1), axis_labels=("z", "y", "x"))
    assert result.data.shape == stack.shape
    np.testing.assert_allclose(result.scale, (2, 1, 1))
    assert result.metadata[METADATA_KEY]["report"]["axes"] == "ZYX"


@pytest.mark.long
def test_a_movie_is_restored_frame_by_frame(driver, noisy):
    movie = np.stack([noisy[:32, :32], noisy[1:33, :32], noisy[2:34, :32]])
    result = run_and_get_layer(driver, movie, 40, axis_labels=("t", "y", "x"))
    assert result.data.shape == movie.shape
    # the later frames begin where the one before ended and take fewer than the first
    assert 40 < result.metadata[METADATA_KEY]["report"]["iterations"] < 3 * 40


@pytest.mark.long
def test_a_multiscale_image_is_restored_in_full_resolution(driver, noisy):
    result = run_and_get_layer(driver, [noisy, noisy[::2, ::2]], multiscale=True)
    assert not result.multiscale
    assert result.data.shape == noisy.shape


@pytest.mark.long
def test_a_lazy_image_is_restored(driver, noisy):
    result = run_and_get_layer(driver, dask.array.from_array(noisy, chunks=32))
    assert isinstance(result.data, np.ndarray)
    assert result.data.shape == noisy.shape


@pytest.mark.long
def test_a_lone_labels_layer_is_refused_by_name(driver):
    driver.viewer.layers.clear()
    driver.viewer.add_labels(np.zeros((64, 64), int), name="nuclei")
    assert "'nuclei' is a Labels layer" in driver.dock.plan_label.text()
    assert not driver.dock.run_bar.run_button.isEnabled()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((64, 64), bool), "is a mask"),
        (np.zeros((8, 64)), "are needed"),
    ],
)
def test_problems_of_the_header_are_refused_before_anything_runs(driver, pixels, message):
    driver.viewer.add_image(pixels, name="wrong", visible=False, contrast_limits=(0, 1))
    assert message in driver.dock.plan_label.text()
    assert not driver.dock.run_bar.run_button.isEnabled()


@pytest.mark.long
def test_a_second_result_does_not_touch_the_first(driver):
    driver.set(max_iterations="3")
    for _ in range(2):
        driver.run()
        driver.wait_for_end()
    assert driver.names == ["cells", "cells denoised", "cells denoised [1]"]
    first, second = driver.viewer.layers[1:]
    assert first.data is not second.data
    assert first.data.tobytes() == second.data.tobytes()


@pytest.mark.long
def test_the_input_may_be_removed_during_the_run(long_run):
    long_run.run()
    long_run.wait_for_fit()
    long_run.viewer.layers.remove("cells")
    long_run.qtbot.wait(600)
    long_run.press(long_run.dock.run_bar.run_button)
    long_run.wait_for_end()
    assert long_run.names == ["cells denoised"]
