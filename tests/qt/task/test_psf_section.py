"""A PSF is made from a layer of beads, and a chosen PSF is checked, in the dock, by real clicks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from qtpy.QtCore import Qt, QThreadPool
from scipy import ndimage

from napari_dip.pipeline.interactive_run import Control
from napari_dip.qt.shell.background_call import BackgroundCall
from napari_dip.qt.task.task_dock import make_dock_class

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.gl
PIXEL = {"scale": (0.065, 0.065), "units": ("um", "um")}


def expand(driver, section) -> None:
    driver.viewer.window._qt_window.show()
    driver.press(section.title_button)
    driver.qtbot.wait(50)


def make_spot(sigma: float = 1.3, side: int = 21) -> np.ndarray:
    distance = np.hypot(*np.mgrid[-(side // 2) : side // 2 + 1, -(side // 2) : side // 2 + 1])
    return np.exp(-((distance / sigma) ** 2) / 2).astype(np.float32)


def make_beads() -> np.ndarray:
    """Put beads on a grid, with noise."""
    rng = np.random.default_rng(0)
    points = np.zeros((160, 160))
    points[20::32, 20::32] = 1
    image = 100 + 800 * ndimage.convolve(points, make_spot(), mode="constant")
    return (image + rng.normal(0, 5, image.shape)).astype(np.float32)


@pytest.fixture
def deblur_driver(driver) -> Iterator[object]:
    """The dock of Deblur, with an image and an image of beads."""
    driver.viewer.window.remove_dock_widget(driver.dock)
    driver.viewer.layers["cells"].scale = PIXEL["scale"]
    driver.viewer.layers["cells"].units = PIXEL["units"]
    driver.viewer.add_image(make_beads(), name="beads", visible=False, **PIXEL)
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    driver.dock = make_dock_class("deblur")(driver.viewer)
    driver.viewer.window.add_dock_widget(driver.dock, name="Deblur", area="right")
    driver.set(preset="fast", max_iterations="2")
    return driver


def measure(driver):
    section = driver.dock.psf_section
    if not section.is_unfolded:
        expand(driver, section)
    driver.press(section.measure_button)
    driver.wait_until(section.measure_button.isEnabled)
    return section


def choose_psf(driver, psf: np.ndarray, **pixel: tuple[object, ...]) -> str:
    driver.dock.image_chooser.choose("cells", "YX")
    driver.viewer.add_image(psf, name="spot", visible=False, **pixel)
    driver.dock.extra_inputs.choose({"psf": "spot"})
    return driver.dock.plan_label.text()


def test_measure_makes_a_psf_of_the_beads_and_chooses_it_for_the_run(deblur_driver):
    section = measure(deblur_driver)
    assert deblur_driver.dock.extra_inputs.combos["psf"].currentText() == "beads PSF"
    layer = deblur_driver.viewer.layers["beads PSF"]
    np.testing.assert_allclose(layer.scale, PIXEL["scale"])
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2
    text = section.message_label.text()
    assert "beads of 'beads' were averaged" in text
    assert "±" in text
    assert section.plot.isVisible()
    assert deblur_driver.dock.image_chooser.get_layer().name == "cells"
    deblur_driver.run()
    deblur_driver.wait_for_end()
    assert "cells deblurred" in deblur_driver.names


def test_a_bead_diameter_is_taken_out_by_a_pixel_size_that_is_typed_beside_it(deblur_driver):
    deblur_driver.viewer.add_image(make_beads(), name="beads without scale", visible=False)
    section = deblur_driver.dock.psf_section
    expand(deblur_driver, section)
    pixel_size = section.size_edits["pixel_size"]
    assert pixel_size.isVisible()
    assert pixel_size.placeholderText() == "65, stated"
    assert section.size_edits["z_step"].isHidden()  # a plane has none
    section.bead_chooser.setCurrentText("beads without scale")
    section.bead_chooser.activated.emit(section.bead_chooser.currentIndex())
    assert pixel_size.placeholderText() == "not stated"
    deblur_driver.qtbot.keyClicks(section.diameter_edit, "100")
    text = measure(deblur_driver).message_label.text()
    assert "'Pixel size (nm)' of 'PSF from beads'" in text
    deblur_driver.qtbot.keyClicks(pixel_size, "65,0")
    text = measure(deblur_driver).message_label.text()
    assert "The PSF is 'beads without scale PSF'." in text
    assert " nm" in text  # the width, no longer in pixels


@pytest.mark.parametrize("stated", [{"scale": (0.1, 0.1), "units": ("um", "um")}, {}])
def test_a_pixel_size_that_is_typed_is_that_of_the_psf_layer(deblur_driver, stated):
    deblur_driver.viewer.add_image(make_beads(), name="spots", visible=False, **stated)
    section = deblur_driver.dock.psf_section
    expand(deblur_driver, section)
    section.bead_chooser.setCurrentText("spots")
    section.bead_chooser.activated.emit(section.bead_chooser.currentIndex())
    deblur_driver.qtbot.keyClicks(section.size_edits["pixel_size"], "65")
    measure(deblur_driver)
    layer = deblur_driver.viewer.layers["spots PSF"]
    np.testing.assert_allclose(layer.scale, PIXEL["scale"])
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2
    assert "resampled" not in deblur_driver.dock.plan_label.text()


def test_layers_of_beads_and_psf_that_get_another_name_stay_chosen(deblur_driver):
    layers = deblur_driver.viewer.layers
    deblur_driver.viewer.add_image(make_beads(), name="beads above", visible=False)
    section = deblur_driver.dock.psf_section
    assert section.bead_chooser.currentText() == "beads"
    section.size_edits["pixel_size"].setText("65")
    layers["beads"].name = "calibration"
    assert section.bead_chooser.currentText() == "calibration"
    assert section.size_edits["pixel_size"].text() == "65"
    measure(deblur_driver)
    layers["calibration PSF"].name = "kernel"
    assert section.plot.isVisible()
    assert "The PSF is" in section.message_label.text()
    layers.remove("calibration")
    assert section.bead_chooser.currentText() == "beads above"
    assert section.size_edits["pixel_size"].text() == ""


@pytest.mark.long
def test_plot_and_message_go_with_the_layer_of_the_psf(deblur_driver):
    section = measure(deblur_driver)
    del deblur_driver.viewer.layers["beads PSF"]
    assert section.plot.isHidden()
    assert section.message_label.text().startswith("Choose a layer of beads")


@pytest.mark.long
def test_beads_that_were_selected_are_not_what_is_deblurred(deblur_driver):
    viewer, dock = deblur_driver.viewer, deblur_driver.dock
    viewer.layers["beads"].visible = True
    viewer.layers.selection.active = viewer.layers["beads"]
    assert dock.image_chooser.get_layer().name == "beads"
    section = measure(deblur_driver)
    assert dock.image_chooser.get_layer().name == "cells"
    assert "The image to deblur is 'cells'." in section.message_label.text()
    assert not viewer.layers["beads PSF"].visible


@pytest.mark.long
def test_psfs_that_change_over_the_field_become_a_layer_that_a_run_takes(deblur_driver):
    section = deblur_driver.dock.psf_section
    expand(deblur_driver, section)
    section.field_box.setChecked(True)
    measure(deblur_driver)
    layer = deblur_driver.viewer.layers["beads PSF"]
    assert layer.data.shape[:2] == (7, 7)
    np.testing.assert_allclose(layer.scale, (1, 1, *PIXEL["scale"]))
    assert "over the field" in section.message_label.text().lower()
    assert "7 × 7 PSFs" in deblur_driver.dock.plan_label.text()
    deblur_driver.run()
    deblur_driver.wait_for_end()
    assert "cells deblurred" in deblur_driver.names


@pytest.mark.long
def test_with_aperture_and_wavelength_the_psf_is_compared_with_a_computed_one(deblur_driver):
    deblur_driver.set(microscope="widefield", na="1.4", wavelength="520")
    section = measure(deblur_driver)
    assert "that of a microscope without aberrations" in section.message_label.text()
    assert len(section.plot.listDataItems()) == 4  # Y and X, measured and computed
    assert "without aberrations" in section.plot.legend


def test_a_psf_larger_than_the_image_is_cropped_as_the_plan_says_before_run(deblur_driver):
    line = choose_psf(deblur_driver, make_spot(1.3, 301))
    assert "covers 301 × 301 pixels of the image, which has 64 × 64, and is cropped" in line
    deblur_driver.run()
    deblur_driver.wait_for_end()
    assert "cells deblurred" in deblur_driver.names


@pytest.mark.long
def test_aperture_and_wavelength_are_asked_for_beside_the_microscope(deblur_driver):
    form = deblur_driver.dock.form
    deblur_driver.viewer.window._qt_window.show()
    fields = [form.widgets[name].native for name in ("na", "wavelength")]
    assert not any(widget.isVisible() for widget in fields)
    combo = form.widgets["microscope"].native
    deblur_driver.qtbot.keyClick(combo, Qt.Key.Key_Down)
    assert combo.currentText() == "Widefield"
    assert all(widget.isVisible() for widget in fields)  # no fold was opened
    assert not form.widgets["gaussian_sigma"].native.isVisible()
    assert "'Not chosen' brings 'Gaussian sigma' back" in combo.toolTip()
    for widget, text in zip(fields, ("1.4", "520"), strict=True):
        deblur_driver.qtbot.keyClicks(widget, text)
    assert deblur_driver.dock.run_bar.run_button.isEnabled()
    assert "64 × 64 pixels" in deblur_driver.dock.plan_label.text()


@pytest.mark.long
def test_pixel_size_is_in_sight_with_a_microscope_if_the_layer_has_none(deblur_driver):
    form, layer = deblur_driver.dock.form, deblur_driver.viewer.layers["cells"]
    deblur_driver.viewer.window._qt_window.show()
    native = form.widgets["pixel_size"].native
    layer.units = ("pixel", "pixel")
    deblur_driver.dock.image_chooser.choose("cells", "YX")
    assert not native.isVisible()
    deblur_driver.set(microscope="widefield", na="1.4", wavelength="520")
    assert native.isVisible()  # no fold was opened
    assert form.basic_page.layout().labelForField(native).text() == "Pixel size (nm)"
    assert "without the pixel size" in deblur_driver.dock.plan_label.text()
    deblur_driver.qtbot.keyClicks(native, "65")
    assert native.isVisible() and deblur_driver.dock.run_bar.run_button.isEnabled()


@pytest.mark.long
def test_without_a_microscope_its_data_are_hidden_and_the_gaussian_is_back(deblur_driver):
    form = deblur_driver.dock.form
    deblur_driver.viewer.window._qt_window.show()
    deblur_driver.set(microscope="confocal", na="1.4", wavelength="520", pinhole=2.0)
    assert not form.widgets["gaussian_sigma"].native.isVisible()
    assert form.build_recipe().task.pinhole == 2
    deblur_driver.set(microscope="none")
    assert not any(
        form.widgets[name].native.isVisible() for name in ("na", "wavelength", "pinhole")
    )
    assert form.widgets["gaussian_sigma"].native.isVisible()
    deblur_driver.set(gaussian_sigma="1.5")
    assert form.widgets["microscope"].native.isVisible()
    task = form.build_recipe().task
    assert (task.na, task.wavelength, task.pinhole) == (None, None, 1)
    assert deblur_driver.dock.run_bar.run_button.isEnabled()


@pytest.mark.long
def test_what_holds_no_beads_is_refused_with_a_message(deblur_driver):
    deblur_driver.viewer.add_image(np.random.default_rng(0).normal(size=(64, 64)), name="noise")
    section = deblur_driver.dock.psf_section
    section.bead_chooser.setCurrentText("noise")
    measure(deblur_driver)
    assert "bead" in section.message_label.text()
    assert section.measure_button.isEnabled()
    section.bead_chooser.setCurrentText("beads")
    section.diameter_edit.setText("wide")
    deblur_driver.press(section.measure_button)
    assert "'wide' is not a number" in section.message_label.text()


@pytest.mark.long
def test_only_deblur_has_the_section(driver):
    assert driver.dock.psf_section.isHidden()


@pytest.mark.long
def test_a_closed_dock_waits_for_no_measurement(deblur_driver):
    section = deblur_driver.dock.psf_section
    expand(deblur_driver, section)
    deblur_driver.press(section.measure_button)
    (call,) = section.findChildren(BackgroundCall)
    assert call.control() is Control.GO
    deblur_driver.viewer.window.remove_dock_widget(deblur_driver.dock)
    assert call.control() is Control.DISCARD
    deblur_driver.dock = None
    # its thread goes on for seconds where other programs run
    deblur_driver.wait_until(lambda: QThreadPool.globalInstance().activeThreadCount() == 0)


@pytest.mark.long
def test_a_doubtful_psf_is_named_before_the_run_and_a_wrong_one_refused(deblur_driver):
    assert "PSF" not in choose_psf(deblur_driver, make_spot(), **PIXEL)
    assert deblur_driver.dock.run_bar.run_button.isEnabled()
    deblur_driver.viewer.layers.remove("spot")
    assert "seems saturated" in choose_psf(deblur_driver, make_spot(2.0).clip(max=0.5), **PIXEL)
    deblur_driver.viewer.layers.remove("spot")
    other = {"scale": (0.1, 0.1), "units": ("um", "um")}
    assert "pixels of the PSF have 100 nm" in choose_psf(deblur_driver, make_spot(), **other)
    deblur_driver.viewer.layers.remove("spot")
    assert "negative values" in choose_psf(deblur_driver, make_spot() - 0.1, **PIXEL)
    assert not deblur_driver.dock.run_bar.run_button.isEnabled()
    deblur_driver.viewer.layers.remove("spot")
    spot = make_spot()
    spot[0, 0] = np.nan
    assert "not finite" in choose_psf(deblur_driver, spot, **PIXEL)
