"""Noise, comparison, uncertainty and residual in the dock, by real clicks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt, QThreadPool

from napari_dip.errors.notes import Note, Stop, StopReason, make_note
from napari_dip.errors.templates import OVERRULED_NOTES
from napari_dip.pipeline.assess.card import CardFigure, ResultCard, Verdict, make_card
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.restoration import Restoration
from napari_dip.qt.shell.background_call import BackgroundCall
from napari_dip.qt.shell.job_controller import ResultTarget
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.shell.napari_layers import copy_layer_attributes
from napari_dip.qt.task.result_view import (
    _DIVERGING_COLORMAP,
    _REPEAT_COLORMAP,
    REPEATABILITY_LAYERS,
    add_extra_layer,
)
from napari_dip.qt.task.task_dock import make_dock_class
from small_runs import make_noisy

if TYPE_CHECKING:
    from napari_dip.qt.task.measurement_sections import NoiseSection

pytestmark = pytest.mark.gl


def expand(driver, section) -> None:
    driver.viewer.window._qt_window.show()
    driver.press(section.title_button)
    driver.qtbot.wait(50)


def measure(driver) -> NoiseSection:
    noise = driver.dock.noise_section
    if not noise.is_unfolded:
        expand(driver, noise)
    driver.press(noise.measure_button)
    driver.wait_until(noise.measure_button.isEnabled)
    return noise


def placeholder(driver, name: str) -> str:
    return driver.dock.form.widgets[name].native.placeholderText()


def drag_slider(driver, share: float) -> None:
    """Click into the slider's groove until it stands there, as a user does who has no patience."""
    slider = driver.dock.result_view.comparison.slider
    key = Qt.Key.Key_Left if slider.value() > 100 * share else Qt.Key.Key_Right
    while slider.value() != round(100 * share):
        driver.qtbot.keyClick(slider, key)


def run_to_end(driver):
    """Run in a window that is not on the screen: Mesa 22 may fail where one follows another."""
    driver.run()
    driver.wait_for_end()
    return driver.viewer.layers["cells"], driver.viewer.layers["cells denoised"]


def test_measure_shows_the_noise_as_text_in_the_fields_and_as_a_plot(driver):
    noise = measure(driver)
    assert (
        "variance" in noise.message_label.text() or "equally strong" in noise.message_label.text()
    )
    assert "pixels are hidden" in noise.message_label.text()
    for name, ending in {"gain": ", measured", "read_noise": ", at most"}.items():
        assert placeholder(driver, name).endswith(ending)  # the detector's own may not be told
        float(placeholder(driver, name).partition(",")[0])
    assert noise.plot.isVisible()
    assert len(noise.plot.dots.getData()[0]) > 5


@pytest.mark.long
def test_what_was_measured_changes_no_setting(driver):
    before = driver.dock.form.build_recipe()
    measure(driver)
    assert driver.dock.form.build_recipe() == before
    assert before.task.gain is None


@pytest.mark.long
def test_a_field_that_is_filled_overrules_the_measurement(driver):
    measure(driver)
    driver.set(gain="2.5")
    assert driver.dock.form.build_recipe().task.gain == 2.5
    assert driver.dock.plan_label.text().startswith("64 × 64 pixels")


@pytest.mark.long
def test_another_image_forgets_what_was_measured_of_the_first(driver, noisy):
    noise = measure(driver)
    driver.viewer.add_image(noisy[::-1].copy(), name="turned")
    assert placeholder(driver, "gain") == "measured"
    assert not noise.plot.isVisible()
    assert "variance" not in noise.message_label.text()


@pytest.mark.long
def test_an_image_without_noise_to_measure_is_refused_with_a_message(driver):
    driver.viewer.add_image(np.full((40, 40), 3.0, np.float32), name="flat", contrast_limits=(0, 5))
    noise = measure(driver)
    assert "there is nothing to restore" in noise.message_label.text()
    assert noise.measure_button.isEnabled()


@pytest.mark.long
def test_measuring_loads_torch_in_no_gui_thread_and_a_closed_dock_waits_for_nothing(driver):
    expand(driver, driver.dock.noise_section)
    driver.press(driver.dock.noise_section.measure_button)
    (call,) = driver.dock.noise_section.findChildren(BackgroundCall)
    assert call.control() is Control.GO
    driver.viewer.window.remove_dock_widget(driver.dock)
    assert call.control() is Control.DISCARD
    driver.dock = None
    # an answer to a dead dock would be an error here; loading torch takes its thread seconds
    driver.wait_until(lambda: QThreadPool.globalInstance().activeThreadCount() == 0)


def measure_diamond(driver) -> NoiseSection:
    """Return the noise section after Measure, with noise whose correlation is a diamond."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(130, 130))
    cross = noise[1:-1, 1:-1] + noise[2:, 1:-1] + noise[:-2, 1:-1]
    cross += noise[1:-1, 2:] + noise[1:-1, :-2]
    image = (100 + 10 * cross).astype(np.float32)
    driver.viewer.add_image(image, name="diamond", contrast_limits=(0, 200))
    return measure(driver)


DIAMOND = "00100/01110/11111/01110/00100"


def click_lag(driver, table, y: int, x: int) -> None:
    """Click the number at a lag of the table, whose middle is lag 0."""
    middle = table.rowCount() // 2
    place = table.visualRect(table.model().index(middle + y, middle + x)).center()
    driver.qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)


@pytest.mark.long
def test_the_blind_spot_is_drawn_on_the_measured_correlation(driver):
    page = measure_diamond(driver).blind_spot_page
    table = page.table
    assert page.isVisible() and table.shape_text == DIAMOND
    assert (table.item(5, 5).text(), table.horizontalHeaderItem(0).text()) == ("100", "−5")
    assert 30 < int(table.item(5, 6).text()) < 50
    assert driver.dock.form.build_recipe().task.blind_spot_shape == ""
    click_lag(driver, table, -2, 2)
    assert table.shape_text == "00101/01110/11111/01110/10100"
    click_lag(driver, table, 2, -2)  # the opposite lag is the same one
    click_lag(driver, table, 0, 0)
    assert table.shape_text == DIAMOND
    driver.press(page.use_button)
    assert driver.dock.form.build_recipe().task.blind_spot_shape == DIAMOND
    click_lag(driver, table, 0, 1)
    driver.press(page.clear_button)
    assert driver.dock.form.build_recipe().task.blind_spot_shape == ""
    assert table.shape_text == DIAMOND


@pytest.mark.long
def test_the_blind_spot_can_be_drawn_by_keys_alone(driver):
    page = measure_diamond(driver).blind_spot_page
    table = page.table
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Space):
        driver.qtbot.keyClick(table, key)
    assert table.shape_text == "010/111/111/111/010"
    driver.qtbot.keyClick(table, Qt.Key.Key_Space)
    assert table.shape_text == DIAMOND


@pytest.mark.long
def test_a_blind_spot_that_is_set_is_the_one_that_is_drawn(driver):
    page = measure_diamond(driver).blind_spot_page
    table = page.table
    driver.set(blind_spot_shape="010/111/010")
    assert table.shape_text == "010/111/010"
    driver.set(blind_spot_shape="010/11")  # half typed
    assert table.shape_text == "010/111/010"
    driver.set(blind_spot_shape="")
    assert table.shape_text == DIAMOND
    driver.viewer.add_image(np.eye(40, dtype=np.float32), name="other")
    assert not page.isVisible()


@pytest.mark.long
def test_a_blind_spot_that_is_set_before_measuring_is_drawn_afterwards(driver):
    driver.set(blind_spot_shape="010/111/010")
    assert driver.dock.form.build_recipe().task.blind_spot_shape == "010/111/010"
    driver.set(blind_spot_shape="")
    driver.set(blind_spot_shape="111")
    assert measure_diamond(driver).blind_spot_page.table.shape_text == "111"


@pytest.mark.long
def test_tasks_without_a_noise_model_have_no_noise_section(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    docks = {}
    for task in ("inpaint", "deblur", "super-resolve", "guide"):
        dock = make_dock_class(task)(viewer)
        viewer.window.add_dock_widget(dock, name=task)
        docks[task] = not dock.noise_section.isHidden()
    assert docks == {"inpaint": False, "deblur": True, "super-resolve": True, "guide": True}


@pytest.mark.long
def test_the_fields_of_the_noise_can_be_read_when_unfolded(driver):
    window = driver.viewer.window._qt_window
    window.resize(1280, 720)
    driver.viewer.theme = "light"
    noise = measure(driver)
    driver.qtbot.wait(50)
    for name in ("noise", "read_noise", "gain"):
        field = driver.dock.form.widgets[name].native
        assert field.isVisible() and field.height() >= field.minimumSizeHint().height() > 10
    label = noise.message_label
    assert label.height() >= label.heightForWidth(label.width())
    assert noise.plot.height() == noise.plot.maximumHeight()
    run = driver.dock.run_bar.run_button
    assert run.mapTo(window, run.rect().bottomRight()).y() < 720


@pytest.mark.long
def test_a_folded_field_is_not_reached_by_the_tab_key(driver):
    assert not driver.dock.form.widgets["gain"].native.isVisible()


def make_long_report() -> dict:
    """A report whose card has two long warnings, and more figures than a dock shows."""
    codes = [
        make_note(
            "contrast-doubtful",
            share=0.3,
            weak=True,
            unsure=True,
            bounded=False,
            little=False,
            least="0",
        ),
        make_note("residual-edges", ratio=1.6),
    ]
    halves = {"resolution": {"input": 412.3, "result": 301.2}, "unit": "nm", "repeated": 0.87}
    figures = {"detail": {"regression_slope": 0.97, "slope_error": 0.03, "detail_std": 0.1}}
    return {
        "verdict": {"codes": [note.to_dict() for note in codes], "figures": figures},
        "deviation": {"noise": 0.0123, "result": 0.00456},
        "halves": halves,
        "note_codes": [],
    }


def test_a_card_in_a_narrow_dock_has_at_most_eight_lines_above_its_details(driver):
    window = driver.viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    view = driver.dock.result_view.card
    view.show_card(make_card(make_long_report()))
    driver.qtbot.wait(100)
    assert "Repeated" not in view.figure_label.text() and "nm" in view.detail_label.text()
    labels = (view.headline, view.warning_label, view.figure_label, view.name_label)
    lines = [
        label.isVisible() * (label.height() // label.fontMetrics().lineSpacing())
        for label in labels
    ]
    assert lines[1] > 0 and sum(lines) <= 8, lines


@pytest.mark.parametrize("width", [310, 700])
def test_a_card_shows_each_warning_whole_or_among_the_details(driver, width):
    window = driver.viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    card, view = make_card(make_long_report()), driver.dock.result_view.card
    driver.dock.parentWidget().setFixedWidth(width)
    view.show_card(card)
    driver.qtbot.wait(100)
    label = view.warning_label
    assert label.height() >= label.heightForWidth(label.width())
    above, below = label.text().split("\n"), view.detail_label.text().split("\n")
    assert [*above, *below][: len(above)] == [f"⚠ {note}" for note in card.warnings[: len(above)]]
    hidden = card.warnings[len(above) :]
    assert below[: len(hidden)] == [f"⚠ {note}" for note in hidden]
    assert len(hidden) == (1 if width == 310 else 0)
    title = "Details of the result (1 more warning)" if hidden else "Details of the result"
    assert view.details_section.title == title


@pytest.mark.long
def test_details_list_warnings_then_figures_then_the_other_sentences(driver):
    view = driver.dock.result_view.card
    alerts = Note(code="residual-no-edges"), Note(code="noise-unreliable-smoothed")
    other, finding = Note(code="two-exposures"), Note(code="half-resolution")
    figures = [CardFigure(name=name, after=name) for name in ("noise", "detail", "mean", "spot")]
    view.show_card(
        ResultCard(
            verdict=Verdict.FINE,
            headline="Fine",
            findings=(finding,) * 9,  # more than fit above
            figures=tuple(figures),
            details=(*alerts, other),
            all_warnings=alerts,
        )
    )
    listed = view.detail_label.text().split("\n")
    assert listed[:2] == [f"⚠ {note}" for note in alerts]
    assert listed[2:6] == [f"• {figure}" for figure in figures]
    assert set(listed[6:-1]) == {f"• {finding}"} and listed[-1] == f"• {other}"
    assert view.details_section.title == "Details of the result (2 more warnings)"


def test_the_card_gives_the_verdict_on_the_result_and_goes_with_it(driver):
    run_to_end(driver)
    card = driver.dock.result_view.card
    report = driver.viewer.layers["cells denoised"].metadata[METADATA_KEY]["report"]
    verdict = report["verdict"]
    assert json.loads(json.dumps(verdict)) == verdict
    assert not card.isHidden() and card.headline.text() == verdict["headline"]
    text = f"{card.warning_label.text()}\n{card.detail_label.text()}"
    codes = [note["code"] for note in verdict["codes"]]
    overruled = {other for code in codes for other in OVERRULED_NOTES.get(code, ())}
    pairs = zip(codes, verdict["sentences"], strict=True)
    remaining = [sentence for code, sentence in pairs if code not in overruled]
    assert len(remaining) >= 3 and all(sentence in text for sentence in remaining)
    warnings = [sentence for sentence in verdict["warnings"] if sentence in remaining]
    assert all(f"⚠ {sentence}" in text for sentence in warnings)
    driver.viewer.layers.remove("cells denoised")
    assert card.isHidden()


def test_the_slider_appears_with_a_result_and_fades_it_over_its_input(driver, noisy):
    comparison = driver.dock.result_view.comparison
    assert comparison.isHidden()
    cells, result = run_to_end(driver)
    assert not comparison.isHidden() and comparison.slider.value() == 100
    kept = result.data.copy()
    drag_slider(driver, 0.4)
    assert result.opacity == pytest.approx(0.4) and cells.opacity == 1
    drag_slider(driver, 0)
    assert result.opacity == 0
    np.testing.assert_array_equal(result.data, kept)
    np.testing.assert_array_equal(cells.data, noisy)


@pytest.mark.long
def test_at_the_left_end_the_canvas_shows_the_input(driver):
    _, result = run_to_end(driver)
    driver.viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
    driver.viewer.reset_view()
    drag_slider(driver, 0)
    faded = driver.viewer.screenshot(canvas_only=True, flash=False).astype(int)
    result.visible = False
    alone = driver.viewer.screenshot(canvas_only=True, flash=False).astype(int)
    assert np.abs(faded - alone).max() <= 2
    assert alone[..., :3].std() > 10


@pytest.mark.long
def test_layers_that_add_up_are_faded_both_and_come_back(driver):
    driver.viewer.layers["cells"].blending = "additive"
    cells, result = run_to_end(driver)
    drag_slider(driver, 0.3)
    assert (cells.opacity, result.opacity) == (pytest.approx(0.7), pytest.approx(0.3))
    driver.viewer.layers.remove(result)
    assert cells.opacity == 1
    assert driver.dock.result_view.comparison.isHidden()


@pytest.mark.long
def test_a_result_takes_the_place_of_an_input_that_would_shine_through_it(driver):
    driver.viewer.layers["cells"].blending = "additive"
    cells, result = run_to_end(driver)
    assert (cells.opacity, result.opacity) == (0, 1)
    driver.dock.result_view.comparison.end_comparison()
    assert (cells.opacity, cells.visible, result.visible) == (1, False, True)


@pytest.mark.long
def test_a_second_result_of_a_channel_that_adds_up_is_seen_as_well(driver):
    driver.viewer.layers["cells"].blending = "additive"
    run_to_end(driver)
    driver.run()
    driver.wait_for_end()
    second = driver.viewer.layers["cells denoised [1]"]
    assert second.visible and second.opacity == 1


@pytest.mark.long
def test_an_input_that_the_user_has_hidden_stays_hidden(driver):
    cells, _ = run_to_end(driver)
    drag_slider(driver, 0.3)
    drag_slider(driver, 1.0)
    cells.visible = False
    driver.dock.result_view.comparison.end_comparison()
    assert not cells.visible


@pytest.mark.long
def test_renaming_does_no_harm_and_removing_the_input_hides_the_slider(driver):
    cells, result = run_to_end(driver)
    result.name, cells.name = "mine", "yours"
    drag_slider(driver, 0.5)
    assert result.opacity == pytest.approx(0.5)
    driver.viewer.layers.remove(cells)
    assert driver.dock.result_view.comparison.isHidden()
    assert result.opacity == 1


@pytest.mark.long
def test_an_earlier_result_between_the_two_is_not_taken_for_the_input(driver, noisy):
    run_to_end(driver)
    driver.viewer.add_image(noisy, name="other")
    driver.viewer.layers.selection.active = driver.viewer.layers["cells"]
    driver.run()
    driver.wait_for_end()
    drag_slider(driver, 0.5)
    assert not driver.viewer.layers["cells denoised"].visible
    assert driver.viewer.layers["other"].visible  # the user's own layers are left alone
    assert driver.viewer.layers["cells denoised [1]"].visible


@pytest.mark.long
def test_the_slider_fades_in_sight_below_another_image(driver, noisy):
    _, result = run_to_end(driver)
    driver.viewer.add_image(noisy[::-1], name="cover")
    drag_slider(driver, 0.4)
    assert driver.names == ["cover", "cells", "cells denoised"]
    assert result.opacity == pytest.approx(0.4) and driver.viewer.layers["cover"].visible


@pytest.mark.long
def test_an_overlay_stays_above_what_is_faded(driver, noisy):
    run_to_end(driver)
    driver.viewer.add_image(noisy[::-1], name="other channel", blending="additive")
    drag_slider(driver, 0.4)
    assert driver.names == ["cells", "cells denoised", "other channel"]


@pytest.mark.long
def test_an_opacity_that_the_user_has_chosen_since_stays(driver):
    _, result = run_to_end(driver)
    drag_slider(driver, 0.5)
    result.opacity = 0.8
    driver.viewer.layers.remove("cells")
    assert result.opacity == pytest.approx(0.8)


def tick(driver, name: str) -> None:
    box = driver.dock.result_view.extra_layer_chooser.boxes[name]
    driver.qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))


@pytest.mark.long
def test_ticked_extras_come_as_hidden_layers_in_the_right_place(driver, noisy):
    layer = driver.viewer.layers["cells"]
    layer.scale, layer.translate, layer.units = (0.2, 0.3), (5, 6), ("um", "um")
    tick(driver, "uncertainty")
    tick(driver, "residual")
    _, result = run_to_end(driver)
    assert driver.names == [
        "cells",
        "cells denoised",
        "cells denoised uncertainty",
        "cells denoised residual",
    ]
    uncertainty, residual = (driver.viewer.layers[f"cells denoised {extra}"] for extra in EXTRAS)
    for extra_layer in (uncertainty, residual):
        np.testing.assert_allclose(extra_layer.scale, layer.scale)
        np.testing.assert_allclose(extra_layer.translate, layer.translate)
        assert extra_layer.units == layer.units and not extra_layer.visible
    assert (
        "'cells denoised uncertainty' and 'cells denoised residual' come hidden: "
        in driver.last_message
    )
    assert uncertainty.contrast_limits[0] == 0 < uncertainty.contrast_limits[1]
    low, high = residual.contrast_limits
    assert low == -high
    np.testing.assert_allclose(residual.colormap.map(0.5)[..., :3], 0.5, atol=0.01)
    taken = noisy - result.data
    assert np.corrcoef(residual.data.ravel(), taken.ravel())[0, 1] > 0.99


EXTRAS = ("uncertainty", "residual")


@pytest.mark.long
def test_an_extra_layer_can_be_added_after_the_run_once(driver):
    run_to_end(driver)
    assert driver.names == ["cells", "cells denoised"]
    tick(driver, "residual")
    assert driver.names == ["cells", "cells denoised", "cells denoised residual"]
    tick(driver, "residual")
    tick(driver, "residual")
    assert driver.names == ["cells", "cells denoised", "cells denoised residual"]
    driver.run()
    driver.wait_for_end()
    assert driver.names[-2:] == ["cells denoised [1]", "cells denoised [1] residual"]


@pytest.mark.long
def test_what_was_ticked_is_remembered(driver, plugin_settings, npe2pm):
    from npe2 import PluginManifest

    if "napari-dip" not in npe2pm:
        npe2pm.register(PluginManifest.from_distribution("napari-dip"))
    tick(driver, "residual")
    again = make_dock_class("denoise")(driver.viewer)
    driver.viewer.window.add_dock_widget(again, name="again")
    assert again.result_view.extra_layer_chooser.checked_layers == ("residual",)
    driver.viewer.window.remove_dock_widget(again)


@pytest.mark.long
def test_a_finer_result_has_its_uncertainty_on_its_own_grid_and_the_residual_on_the_inputs(
    make_napari_viewer, noisy
):
    viewer = make_napari_viewer()
    layer = viewer.add_image(noisy, name="cells", scale=(2, 2))
    fine = np.ones((128, 128), np.float32)
    recipe = make_recipe("super-resolve", factor=2)
    answer = Restoration(
        image=fine,
        uncertainty=fine,
        stop=Stop(reason=StopReason.PLATEAU, facts={"text": ""}),
        best_iteration=1,
        history=(),
        recipe=recipe,
        residual=noisy.astype(np.float32),
    )
    attributes = copy_layer_attributes(layer)
    finer = {**attributes, "scale": np.array([1.0, 1.0]), "translate": np.array([-0.5, -0.5])}
    target = ResultTarget(name="cells", layer_attributes=finer, input_layer_attributes=attributes)
    above = add_extra_layer(viewer, "uncertainty", target, answer)
    below = add_extra_layer(viewer, "residual", target, answer)
    np.testing.assert_allclose(above.scale, (1, 1))
    np.testing.assert_allclose(below.scale, (2, 2))


@pytest.mark.long
def test_colours_come_as_one_figure_with_a_sign(make_napari_viewer):
    viewer = make_napari_viewer()
    pixels = np.zeros((32, 32, 3), np.uint8)
    layer = viewer.add_image(pixels, rgb=True, name="photo")
    rest = np.full((32, 32, 3), -2, np.float32)
    answer = Restoration(
        image=rest,
        uncertainty=rest,
        stop=Stop(reason=StopReason.PLATEAU, facts={"text": ""}),
        best_iteration=1,
        history=(),
        recipe=make_recipe("denoise"),
        residual=rest,
    )
    attributes = copy_layer_attributes(layer)
    target = ResultTarget(
        name="photo", layer_attributes=attributes, input_layer_attributes=attributes
    )
    added = add_extra_layer(viewer, "residual", target, answer)
    assert not added.rgb and added.data.shape == (32, 32)
    np.testing.assert_allclose(added.data, -2)


@pytest.mark.long
def test_what_repeats_and_the_null_control_come_hidden_without_a_tick(driver):
    layer = driver.viewer.layers["cells"]
    layer.scale, layer.data = (0.2, 0.3), make_noisy()  # the sample's noise cannot be measured
    driver.dock.form.widgets["halves"].value = True
    driver.dock.form.widgets["null_control"].value = True
    _, result = run_to_end(driver)
    card = driver.dock.result_view.card
    assert "came again in two independent halves" in card.detail_label.text()
    layers = driver.viewer.layers
    repeats, null = (layers[f"cells denoised {name}"] for name in REPEATABILITY_LAYERS.values())
    assert driver.names == ["cells", "cells denoised", repeats.name, null.name]
    assert not repeats.visible and not null.visible
    np.testing.assert_allclose(repeats.scale, layer.scale)
    assert tuple(repeats.contrast_limits) == (0, 1)
    # nothing lies over what came again; orange over what did not
    assert repeats.colormap.map(1.0)[0, 3] == 0 and repeats.colormap.map(0.0)[0, 3] > 0.5
    np.testing.assert_allclose(null.contrast_limits, result.contrast_limits)


def test_colours_of_extra_layers_do_not_widen_the_controls_of_layers(make_napari_viewer):
    viewer = make_napari_viewer()
    widths = []
    for colours in ("twilight_shifted", _DIVERGING_COLORMAP, _REPEAT_COLORMAP, "gray"):
        viewer.add_image(np.eye(4), colormap=colours)  # napari's longest name first
        controls = viewer.window._qt_viewer.controls.widgets[viewer.layers[-1]]
        widths.append(controls._colormap_control.colormap_combobox.sizeHint().width())
    assert len(set(widths)) == 1
