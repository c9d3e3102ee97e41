"""Saving results by real clicks, and opening the files by napari's own readers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtWidgets import QFileDialog

from napari_dip.cli import main
from napari_dip.io.reading import read_header, read_provenance
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.task.result_export import collect_panels, find_insets
from napari_dip.qt.task.run_request import describe_unsaved_inputs
from napari_dip.qt.task.task_dock import DenoiseDock

pytestmark = pytest.mark.gl


def choose(driver, action):
    """Open the menu by a click, and click on one of its entries."""
    button = driver.dock.result_view.save_menu
    menu = button.menu()

    def click():
        position = menu.actionGeometry(action).center()
        driver.qtbot.mouseClick(menu, Qt.MouseButton.LeftButton, pos=QPoint(position))

    QTimer.singleShot(200, click)
    driver.press(button)


def answer(monkeypatch, path, kind=""):
    """Let the dialogue return a path, as if it had been typed."""
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), kind))


def save(driver, monkeypatch, path, kind=""):
    answer(monkeypatch, path, kind)
    choose(driver, driver.dock.result_view.save_menu.result_action)
    driver.wait_until(lambda: f"Saved as '{path.name}" in driver.last_message)


def restore(driver):
    driver.set(max_iterations="3")
    driver.run()
    driver.wait_for_end()
    return driver.viewer.layers["cells denoised"]


@pytest.fixture
def file_driver(driver, noisy, tmp_path):
    """The driver with an image of a file, with a pixel size, in green."""
    tifffile.imwrite(tmp_path / "cells.tif", noisy[:32, :32])
    driver.viewer.layers.clear()
    (layer,) = driver.viewer.open(str(tmp_path / "cells.tif"))
    layer.scale, layer.units, layer.colormap = (0.2, 0.2), ("micrometer",) * 2, "green"
    return driver


def test_a_part_of_an_image_from_a_file_asks_for_no_further_file(driver, noisy, tmp_path):
    path, pixels = tmp_path / "cells.tif", np.tile(noisy, (2, 2))
    tifffile.imwrite(path, pixels)
    driver.viewer.layers.clear()
    driver.viewer.open(str(path))
    driver.viewer.add_shapes([[[40.0, 40], [40, 80], [80, 80], [80, 40]]])
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    driver.set(max_iterations="4")
    section = driver.dock.crop_preview
    for button in (section.try_button, section.restore_button):
        driver.press(button)
        driver.wait_for_end()
    records = [
        driver.viewer.layers[name].metadata[METADATA_KEY]
        for name in ("Fast crop of cells", "cells denoised in a region")
    ]
    assert [describe_unsaved_inputs(record) for record in records] == ["", ""]
    tifffile.imwrite(path, pixels[:4, :4])  # another image of that name
    assert all("has no file" in describe_unsaved_inputs(record) for record in records)


def test_the_image_of_a_discarded_run_is_saved_and_not_an_earlier_result(
    driver, tmp_path, monkeypatch
):
    viewer, dock = driver.viewer, driver.dock
    viewer.layers["cells"].scale = (0.2, 0.3)
    result = restore(driver)
    driver.set(prior="random-input", max_iterations="100000")
    driver.run()
    driver.wait_until(lambda: len(dock.history.snapshot_buffer.snapshots) >= 2)
    driver.press(dock.run_bar.discard_button)
    driver.wait_for_end()
    driver.press(dock.run_bar.undo_button)
    viewer.layers.selection.active = result  # its card is shown
    viewer.layers.selection.active = undone = viewer.layers[-1]
    assert [title for title, _ in collect_panels(viewer, undone)] == ["Input", "Result"]
    save(driver, monkeypatch, tmp_path / "undone.ome.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "undone.ome.tif"), undone.data)
    header, record = (read(tmp_path / "undone.ome.tif") for read in (read_header, read_provenance))
    assert header.scale == pytest.approx((0.2, 0.3)) and record["shows"] == "snapshot"
    (opened,) = viewer.open(str(tmp_path / "undone.ome.tif"))
    assert METADATA_KEY not in opened.metadata  # without a report, it is no result


def test_a_preview_is_not_saved_and_neither_is_the_result_in_its_place(
    driver, tmp_path, monkeypatch
):
    restore(driver)
    driver.dock.history.step(-1)
    driver.viewer.layers.selection.active = driver.viewer.layers["cells preview"]
    answer(monkeypatch, tmp_path / "preview.ome.tif")
    for action in ("result_action", "figure_action"):
        choose(driver, getattr(driver.dock.result_view.save_menu, action))
        driver.wait_until(lambda: "'cells preview' is a preview" in driver.last_message)
        driver.dock.run_bar.clear_message()
    assert not [*tmp_path.glob("preview*")]


def test_the_result_is_saved_with_a_profile_line_selected(driver, tmp_path, monkeypatch):
    result, viewer = restore(driver), driver.viewer
    line = {"metadata": {METADATA_KEY: {"preview": True}}}  # as that of the profile
    viewer.layers.selection.active = viewer.add_shapes(None, ndim=2, name="line", **line)
    save(driver, monkeypatch, tmp_path / "result.ome.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "result.ome.tif"), result.data)


def test_an_opened_result_proposes_its_own_file_name(driver, monkeypatch):
    layer, proposed = restore(driver), []
    layer.name = "cells denoised.ome"  # as napari names the layer of an OME-TIFF

    def cancel(_parent, _title, path, _filters):
        proposed.append(path)
        return "", ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", cancel)
    choose(driver, driver.dock.result_view.save_menu.result_action)
    driver.wait_until(lambda: bool(proposed))
    assert proposed == ["cells denoised.ome.tif"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_a_saved_result_opens_as_it_was_is_judged_and_runs_again(
    file_driver, tmp_path, monkeypatch, suffix
):
    driver, viewer = file_driver, file_driver.viewer
    layer = restore(driver)
    headline, limits = driver.dock.result_view.card.headline.text(), layer.contrast_limits
    pixels, recipe = layer.data, layer.metadata[METADATA_KEY]["recipe"]
    path = tmp_path / f"mine{suffix}"
    save(driver, monkeypatch, path)
    viewer.layers.clear()
    driver.set(max_iterations="50")
    viewer.open(str(path))
    (opened,) = viewer.layers
    np.testing.assert_array_equal(np.asarray(opened.data), pixels)
    np.testing.assert_allclose(opened.scale, (0.2, 0.2))
    assert list(map(str, opened.units)) == ["micrometer"] * 2
    assert opened.axis_labels == ("y", "x") and opened.colormap.name == "green"
    assert opened.contrast_limits == pytest.approx(limits)
    assert not driver.dock.result_view.card.isHidden()
    assert driver.dock.result_view.card.headline.text() == headline
    assert driver.dock.result_view.card.name_label.text() == opened.name
    assert "already a result" in driver.dock.plan_label.text()
    driver.press(driver.dock.repeat_section.again_button)
    assert "All is set" in driver.last_message
    assert viewer.layers["cells"].scale == pytest.approx((0.2, 0.2))
    assert driver.dock.form.build_recipe().to_dict() == recipe
    assert driver.names == ["cells", opened.name]  # the input does not cover its result
    assert viewer.layers.selection.active is opened
    driver.run()
    driver.wait_for_end()
    assert driver.names == ["cells", opened.name, "cells denoised"]
    np.testing.assert_array_equal(viewer.layers["cells denoised"].data, pixels)


def test_a_message_on_settings_goes_with_the_image_that_it_is_about(driver):
    layer = restore(driver)
    driver.viewer.layers.selection.active = layer
    driver.press(driver.dock.repeat_section.again_button)
    assert "All is set" in driver.last_message
    driver.viewer.layers.clear()
    driver.viewer.add_image(np.zeros((32, 32)), name="empty")
    assert "All is set" not in driver.last_message


def test_the_card_follows_the_name_of_its_layer(driver):
    layer = restore(driver)
    layer.name = "control"
    assert driver.dock.result_view.card.name_label.text() == "control"


def test_a_saved_result_keeps_channels_and_pixel_size_that_only_the_file_of_the_input_has(
    driver, noisy, tmp_path, monkeypatch
):
    driver.viewer.layers.clear()
    pixels = np.stack([noisy[:32, :32], noisy[32:64, :32]]).astype(np.float32)
    metadata = {"axes": "CYX", "unit": "um"}
    tifffile.imwrite(
        tmp_path / "cells.tif", pixels, imagej=True, resolution=(10, 10), metadata=metadata
    )
    driver.viewer.open(str(tmp_path / "cells.tif"))
    restore(driver)
    save(driver, monkeypatch, tmp_path / "mine.ome.tif")
    header = read_header(tmp_path / "mine.ome.tif")
    assert (header.axes, header.shape) == ("CYX", (2, 32, 32))
    assert header.scale == pytest.approx((1, 0.1, 0.1)) and header.units[-1] == "micrometer"


@pytest.mark.long
@pytest.mark.parametrize(("suffix", "order"), [(".ome.tif", "ztyx"), (".ome.zarr", "tzyx")])
def test_a_layer_with_unusual_axes_keeps_colour_and_place(
    driver, noisy, tmp_path, monkeypatch, suffix, order
):
    driver.viewer.layers.clear()
    movie = np.random.default_rng(0).normal(size=(2, 3, 24, 26)) + noisy[:24, :26] / 8
    steps = {"z": (2.0, 1.0), "t": (5.0, 2.0), "y": (0.5, 3.0), "x": (0.25, 4.0)}
    scale, translate = zip(*steps.values(), strict=True)
    driver.viewer.add_image(
        movie,
        name="cells",
        axis_labels=tuple(steps),
        scale=scale,
        translate=translate,
        colormap="magenta",
    )
    layer = restore(driver)
    layer.gamma = 0.5
    save(driver, monkeypatch, tmp_path / f"mine{suffix}")
    driver.viewer.layers.clear()
    driver.viewer.open(str(tmp_path / f"mine{suffix}"))
    (opened,) = driver.viewer.layers
    assert opened.axis_labels == tuple(order)
    assert opened.colormap.name == "magenta" and opened.gamma == 0.5
    np.testing.assert_allclose(opened.scale, [steps[axis][0] for axis in order])
    np.testing.assert_allclose(opened.translate, [steps[axis][1] for axis in order])


@pytest.mark.long
def test_a_saved_colour_photograph_keeps_its_place(driver, noisy, tmp_path, monkeypatch):
    driver.viewer.layers.clear()
    photograph = np.stack([noisy[y : y + 32, :34] for y in (0, 16, 32)], -1)
    driver.viewer.add_image(photograph, name="cells", scale=(0.5, 0.25), translate=(3.0, 4.0))
    restore(driver)
    save(driver, monkeypatch, tmp_path / "mine.ome.zarr")
    assert read_header(tmp_path / "mine.ome.zarr").tags.origin == (0.0, 3.0, 4.0)
    driver.viewer.layers.clear()
    driver.viewer.open(str(tmp_path / "mine.ome.zarr"))
    for opened in driver.viewer.layers:
        np.testing.assert_allclose(opened.scale[-2:], (0.5, 0.25))
        np.testing.assert_allclose(opened.translate[-2:], (3.0, 4.0))


@pytest.mark.long
def test_run_again_from_a_saved_result_opens_its_further_inputs_as_well(
    file_driver, noisy, tmp_path, monkeypatch
):
    driver, viewer = file_driver, file_driver.viewer
    again = noisy[:32, :32] // 2 + np.random.default_rng(0).integers(0, 90, (32, 32), "uint8")
    tifffile.imwrite(tmp_path / "again.tif", again)
    viewer.open(str(tmp_path / "again.tif"))
    viewer.layers.selection.active = viewer.layers["cells"]
    driver.dock.extra_inputs.choose({"repeated_exposure": "again"})
    restore(driver)
    save(driver, monkeypatch, tmp_path / "result.ome.tif")
    viewer.layers.clear()
    viewer.open(str(tmp_path / "result.ome.tif"))
    driver.dock.repeat_section.set_up_again()
    assert "All is set" in driver.last_message
    assert driver.dock.image_chooser.get_layer().name == "cells"
    second = driver.dock.extra_inputs.get_layer("repeated_exposure")
    np.testing.assert_array_equal(second.data, again)


@pytest.mark.long
def test_other_programs_find_size_name_and_colour_and_no_folder_of_the_user(
    file_driver, tmp_path, monkeypatch
):
    restore(file_driver)
    save(file_driver, monkeypatch, tmp_path / "a")  # without a suffix
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert str(tmp_path) not in file.ome_metadata
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.2, "µm")
    assert pixels["Channel"]["Name"] == "cells"
    assert pixels["Channel"]["Color"] & 0xFFFFFFFF == 0x00FF00FF  # red, green, blue, alpha
    save(file_driver, monkeypatch, tmp_path / "b", "OME-Zarr (*.ome.zarr)")
    attributes = json.loads((tmp_path / "b.ome.zarr" / "zarr.json").read_text())["attributes"]
    (channel,) = attributes["ome"]["omero"]["channels"]
    assert (channel["label"], channel["color"]) == ("cells", "00FF00")
    assert str(tmp_path) not in json.dumps(attributes)


@pytest.mark.long
def test_a_result_that_was_opened_before_the_dock_is_judged_by_it(
    file_driver, tmp_path, monkeypatch
):
    driver, viewer = file_driver, file_driver.viewer
    driver.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(True)
    restore(driver)
    residual = viewer.layers["cells denoised residual"]
    viewer.layers.selection.active = residual
    save(driver, monkeypatch, tmp_path / "residual.ome.tif")
    viewer.layers.selection.active = viewer.layers["cells denoised"]
    save(driver, monkeypatch, tmp_path / "result.ome.tif")
    viewer.window.remove_dock_widget(driver.dock)
    viewer.layers.clear()
    viewer.open([str(tmp_path / "residual.ome.tif"), str(tmp_path / "result.ome.tif")])
    assert not viewer.layers[0].metadata
    later = DenoiseDock(viewer)
    viewer.window.add_dock_widget(later, name="Later", area="right")
    assert viewer.layers[0].metadata[METADATA_KEY]["shows"] == "residual"
    np.testing.assert_allclose(viewer.layers[0].colormap.colors, residual.colormap.colors)
    assert not later.result_view.card.isHidden()
    assert later.repeat_section.combo.count() == 1  # a residual is no result
    driver.dock = later


@pytest.mark.long
def test_a_result_of_the_command_line_is_judged_and_its_input_is_found(file_driver, tmp_path):
    driver, viewer = file_driver, file_driver.viewer
    options = ["--preset", "fast", "--max-iterations", "3", "--quiet"]
    source, result = str(tmp_path / "cells.tif"), str(tmp_path / "out.tif")
    residual = str(tmp_path / "rest.tif")
    assert main(["denoise", source, "-o", result, "--residual", residual, *options]) == 0
    viewer.layers.clear()
    (opened,) = viewer.open(residual)
    assert driver.dock.result_view.card.isHidden()  # a residual is not judged
    (opened,) = viewer.open(result)
    assert not driver.dock.result_view.card.isHidden()
    driver.press(driver.dock.repeat_section.again_button)
    assert driver.names == ["rest", "cells", "out"]
    driver.run()
    driver.wait_for_end()
    np.testing.assert_array_equal(viewer.layers["cells denoised"].data, opened.data)


@pytest.mark.long
def test_a_file_that_is_no_result_or_is_damaged_stays_as_it_is(driver, tmp_path):
    description = json.dumps({"source": "x", "report": {"axes": 7}, "recipe": {"task": "no"}})
    tifffile.imwrite(
        tmp_path / "bad.tif",
        np.ones((8, 8), "float32"),
        imagej=True,
        metadata={"Info": description},
    )
    (layer,) = driver.viewer.open(str(tmp_path / "bad.tif"))
    assert METADATA_KEY not in layer.metadata
    assert driver.dock.result_view.card.isHidden()


@pytest.mark.long
def test_a_figure_shows_what_belongs_to_the_result_and_the_drawn_insets(
    file_driver, noisy, tmp_path, monkeypatch
):
    driver, viewer = file_driver, file_driver.viewer
    viewer.layers["cells"].translate = (1.0, 2.0)
    for box in driver.dock.result_view.extra_layer_chooser.boxes.values():
        box.setChecked(True)
    viewer.add_image(noisy[:32, :32], name="ground truth", visible=False)
    viewer.add_image(noisy[:32, :32], name="another channel")
    viewer.layers.selection.active = viewer.layers["cells"]
    result = restore(driver)
    corners = np.array([[2.0, 3.0], [2.0, 5.0], [3.0, 5.0], [3.0, 3.0]])
    viewer.add_shapes([corners], shape_type="rectangle", name="inset", scale=(1, 1))
    panels = dict(collect_panels(viewer, result))
    assert list(panels) == ["Input", "Result", "Reference", "Residual", "Uncertainty"]
    (input_image,), (reference,) = panels["Input"], panels["Reference"]
    assert input_image.limits == reference.limits == tuple(result.contrast_limits)
    np.testing.assert_array_equal(input_image.colours[-1], [0, 1, 0, 1])
    assert input_image.extent == pytest.approx((1.9, 8.3, 7.3, 0.9))
    viewer.add_shapes([corners * 1000], shape_type="rectangle", units="nm")
    for inset in find_insets(viewer, result):
        assert inset == pytest.approx((3, 5, 3, 2))
    viewer.layers.selection.active = viewer.layers["cells denoised residual"]
    answer(monkeypatch, tmp_path / "figure.svg")
    choose(driver, driver.dock.result_view.save_menu.figure_action)
    driver.wait_until(lambda: "Saved as 'figure.svg'" in driver.last_message)
    text = (tmp_path / "figure.svg").read_text()
    assert all(f">{title}<" in text for title in panels) and ">1 µm<" in text


def read_svg_after_export(driver, monkeypatch, path):
    answer(monkeypatch, path)
    choose(driver, driver.dock.result_view.save_menu.figure_action)
    driver.wait_until(lambda: f"Saved as '{path.name}'" in driver.last_message)
    return path.read_text()


def test_file_figure_and_report_have_the_pixel_size_of_a_layer_with_an_affine(
    driver, tmp_path, monkeypatch
):
    viewer = driver.viewer
    cells = viewer.layers["cells"]
    cells.scale, cells.units, cells.translate = (0.2, 0.2), ("um", "um"), (1, 2)
    cells.affine = [[2, 0, 10], [0, 2, 20], [0, 0, 1]]
    result = restore(driver)
    assert result.metadata[METADATA_KEY]["report"]["fit"]["scale"] == pytest.approx((0.4, 0.4))
    save(driver, monkeypatch, tmp_path / "mine.ome.tif")
    save(driver, monkeypatch, tmp_path / "mine.ome.zarr")
    for suffix in (".ome.tif", ".ome.zarr"):
        header = read_header(tmp_path / f"mine{suffix}")
        assert header.scale == pytest.approx((0.4, 0.4))
    assert header.tags.origin == pytest.approx((12, 24))
    (image,) = dict(collect_panels(viewer, result))["Result"]
    left, right, bottom, top = image.extent
    assert (left, top) == pytest.approx((23.8, 11.8))
    assert (right - left, bottom - top) == pytest.approx((25.6, 25.6))
    corners = np.array([[15.8, 31.8], [30, 40]])  # from row 9.5 and column 19.5 on
    viewer.add_shapes([corners], shape_type="rectangle", units="um", opacity=0)
    assert find_insets(viewer, result) == [pytest.approx((31.8, 40, 30, 15.8))]
    viewer.layers.selection.active = result
    assert ">5 µm<" in read_svg_after_export(driver, monkeypatch, tmp_path / "figure.svg")
    result.affine = [[1, 0.3, 0], [0, 1, 0], [0, 0, 1]]
    assert "µm" not in read_svg_after_export(driver, monkeypatch, tmp_path / "sheared.svg")
    assert "no scale bar: the transform of 'cells denoised' shears it" in driver.last_message


def test_a_figure_of_a_mirrored_layer_has_a_scale_bar_and_what_belongs_to_the_result(
    driver, tmp_path, monkeypatch
):
    cells = driver.viewer.layers["cells"]
    cells.scale, cells.units = (-0.2, -0.2), ("um", "um")
    driver.dock.result_view.extra_layer_chooser.boxes["residual"].setChecked(True)
    driver.viewer.layers.selection.active = restore(driver)
    residual = driver.viewer.layers["cells denoised residual"]
    residual.translate = (0.05, 0.05)  # as that of a finer result
    text = read_svg_after_export(driver, monkeypatch, tmp_path / "mirrored.svg")
    assert ">2 µm<" in text and ">Residual<" in text


def test_an_affine_counts_where_only_the_file_has_the_pixel_size(
    driver, noisy, tmp_path, monkeypatch
):
    """napari's own reader drops the size of a TIFF, so that the layer's scale is one pixel."""
    viewer = driver.viewer
    tifffile.imwrite(
        tmp_path / "cells.tif", noisy, imagej=True, resolution=(5, 5), metadata={"unit": "um"}
    )
    viewer.layers.clear()
    (cells,) = viewer.open(str(tmp_path / "cells.tif"))
    cells.affine = [[2, 0, 0], [0, 2, 0], [0, 0, 1]]
    result = restore(driver)
    assert result.metadata[METADATA_KEY]["report"]["fit"]["scale"] == pytest.approx((0.4, 0.4))
    (image,) = dict(collect_panels(viewer, result))["Result"]
    assert image.extent[1] - image.extent[0] == pytest.approx(2 * 64)
    save(driver, monkeypatch, tmp_path / "mine.ome.tif")
    assert read_header(tmp_path / "mine.ome.tif").scale == pytest.approx((0.4, 0.4))
    viewer.layers.clear()
    viewer.open(str(tmp_path / "mine.ome.tif"))
    save(driver, monkeypatch, tmp_path / "again.ome.tif")
    assert read_header(tmp_path / "again.ome.tif").scale == pytest.approx((0.4, 0.4))


@pytest.mark.parametrize("is_deleted", [False, True])
def test_the_message_on_a_figure_says_where_its_input_is_missing(
    driver, tmp_path, monkeypatch, is_deleted
):
    result, cells = restore(driver), driver.viewer.layers["cells"]
    driver.viewer.layers.selection.active = result
    assert ">Input<" in read_svg_after_export(driver, monkeypatch, tmp_path / "whole.svg")
    assert "lacks" not in driver.last_message
    if is_deleted:
        driver.viewer.layers.remove(cells)
    else:
        cells.data = cells.data[::-1].copy()
    driver.viewer.layers.selection.active = result
    assert ">Input<" not in read_svg_after_export(driver, monkeypatch, tmp_path / "lone.svg")
    assert (
        "The figure lacks the input: no open layer has the pixels that 'cells'"
        in driver.last_message
    )


def test_an_existing_file_is_not_replaced_without_a_question(file_driver, tmp_path, monkeypatch):
    (tmp_path / "a.ome.tif").write_bytes(b"precious")
    restore(file_driver)
    answer(monkeypatch, tmp_path / "a")  # the dialogue has not seen the suffix
    choose(file_driver, file_driver.dock.result_view.save_menu.result_action)
    file_driver.wait_until(lambda: "a.ome.tif" in file_driver.last_message)
    assert (tmp_path / "a.ome.tif").read_bytes() == b"precious"
    save(file_driver, monkeypatch, tmp_path / "a.ome.tif")
    assert tifffile.imread(tmp_path / "a.ome.tif").shape == (32, 32)
