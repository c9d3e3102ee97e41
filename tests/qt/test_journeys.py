"""What a user does from end to end: a sample is opened, a dock from the menu, its buttons clicked.

Buttons are found by the words on them and scrolled into sight, as a user does it; samples are cut
small, so that the real engine takes seconds. Journeys that other files make in full stand in the
table of tests/feature_requests.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt, QThreadPool
from qtpy.QtWidgets import QAbstractButton, QApplication, QFileDialog, QScrollArea, QTabBar

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.card import make_card
from napari_dip.qt.shell.dock_widget import CollapsibleSection, PageScrollArea
from napari_dip.qt.shell.layer_headers import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.gl

PATIENCE = 60_000
#: A click within half a second of Run counts as a double click.
DOUBLE_CLICK = 600


@dataclass
class User:
    """Somebody who knows words on buttons and names of layers."""

    qtbot: Any
    viewer: Any = None
    dock: Any = None
    clicks: int = 0

    def open_sample(self, key: str, side: int) -> None:
        """File, Open Sample; then all layers but a PSF are cut to a corner of what they show."""
        self.viewer.open_sample("napari-dip", key)
        for layer in self.viewer.layers:
            if layer.name != "psf":
                layer.data = np.ascontiguousarray(layer.data[..., 20 : 20 + side, 40 : 40 + side])
        self.viewer.screenshot(canvas_only=False, flash=False)  # lays the window out
        camera = self.viewer.scene.camera  # napari's own reset still sees the layers uncut
        camera.center, camera.zoom = (side / 2, side / 2), 400 / side

    def open_dock(self, entry: str) -> None:
        """Plugins, the entry below Deep Image Prior; and a run that ends within seconds."""
        self.clicks = 2
        _, self.dock = self.viewer.window.add_plugin_dock_widget("napari-dip", entry)
        if hasattr(self.dock, "form"):
            self.set(preset="fast")

    def set(self, **settings: Any) -> None:
        for name, value in settings.items():
            self.dock.form.widgets[name].value = value

    def button(self, label: str) -> QAbstractButton:
        """The one button in the dock that can be seen and has these words on it."""
        within = self.dock.findChildren(QAbstractButton)
        (match,) = [
            widget for widget in within if widget.text() == label and widget.isVisibleTo(self.dock)
        ]
        for area in self.dock.findChildren(QScrollArea):
            if area.isAncestorOf(match):
                area.ensureWidgetVisible(match)
        return match

    def press(self, label: str) -> None:
        button = self.button(label)
        assert button.isEnabled(), f"'{label}' cannot be pressed"
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        self.clicks += 1

    def wait_until(self, happened: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(happened, timeout=PATIENCE)

    def wait_for_end(self) -> None:
        self.wait_until(lambda: not self.dock.is_busy)


def get_menu_entries() -> list[str]:
    """The docks in the plugin's menu, from top to bottom."""
    from npe2 import PluginManager

    widgets = PluginManager.instance().iter_widgets()
    return [widget.display_name for widget in widgets if widget.plugin_name == "napari-dip"]


@pytest.fixture
def user(make_napari_viewer: Any, qtbot: Any, npe2pm: Any) -> Iterator[User]:
    """At a napari that has nothing open."""
    from npe2 import PluginManifest

    if "napari-dip" not in npe2pm:
        npe2pm.register(PluginManifest.from_distribution("napari-dip"))
    user = User(qtbot, make_napari_viewer())
    yield user
    if user.dock is not None and user.dock.is_busy:
        user.dock.jobs.discard()
    user.viewer = user.dock = None  # pytest holds on to the user until after the leak check


@pytest.mark.all_cores
def test_a_sample_is_denoised_stopped_and_kept_and_its_script_gives_the_same_pixels(
    user, tmp_path, monkeypatch, capsys
):
    user.open_sample("mitochondria", side=32)
    user.open_dock("Denoise")
    user.set(max_iterations="2000")
    user.press("Run")
    user.wait_until(lambda: user.dock.validation_curve.point_count >= 1)
    user.qtbot.wait(DOUBLE_CLICK)
    user.press("Stop and keep")
    user.wait_for_end()
    result = user.viewer.layers["mitochondria denoised"]
    assert result.metadata[METADATA_KEY]["stop_sentence"] == "you stopped it and kept the image"
    comparison = user.dock.result_view.comparison  # napari hands a proxy of its viewer to this dock
    assert comparison.isVisibleTo(user.dock)
    comparison.slider.setValue(40)
    assert result.opacity == pytest.approx(0.4)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    QApplication.clipboard().setText("nothing yet")
    user.press("▶ Repeat")
    user.press("Copy as Python")
    user.wait_until(lambda: "keep_after=" in QApplication.clipboard().text())
    monkeypatch.chdir(tmp_path)
    exec(QApplication.clipboard().text(), {})
    assert capsys.readouterr().out == "The same pixels as then.\n"
    pixels = tifffile.imread(tmp_path / "mitochondria denoised.tif")
    np.testing.assert_array_equal(pixels, result.data)


@pytest.mark.long
def test_a_mask_is_painted_with_the_mouse_filled_scrubbed_and_another_image_kept(user):
    user.open_sample("scratched", side=48)
    viewer = user.viewer
    viewer.layers.remove("mask")
    image = viewer.layers.selection.active = viewer.layers["scratched mitochondria"]
    measured = image.data.copy()
    holes = viewer.add_labels(np.zeros(measured.shape, np.uint8), name="my mask")
    holes.mode, holes.brush_size = "paint", 7
    canvas = viewer.window._qt_viewer.canvas.native
    middle = canvas.rect().center()
    for step in (-40, 0, 40):
        place = middle + QPoint(step, step)
        user.qtbot.mouseMove(canvas, place)
        user.qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=place)
    painted = holes.data > 0
    assert 40 < painted.sum() < 400
    viewer.layers.selection.active = image
    user.open_dock("Inpaint")
    assert user.dock.extra_inputs.combos["mask"].currentText() == "my mask"
    user.set(max_iterations="40")
    user.press("Run")
    user.wait_for_end()
    automatic = viewer.layers["scratched mitochondria inpainted"].data.copy()
    user.qtbot.keyClick(user.dock.history.slider, Qt.Key.Key_Left)
    user.press("Use this iteration")
    (kept,) = [layer for layer in viewer.layers if ", iteration " in layer.name]
    for pixels in (automatic, kept.data):
        np.testing.assert_array_equal(pixels[~painted], measured[~painted])
        assert (pixels[painted] != measured[painted]).any()
    assert (kept.data != automatic).any()
    assert kept.metadata[METADATA_KEY]["inputs"]["mask"]["layer"] == "my mask"


@pytest.mark.long
def test_of_two_channels_the_clean_one_guides_the_weak_one(user):
    user.open_sample("weak_channel", side=40)
    viewer = user.viewer
    weak = viewer.layers.selection.active = viewer.layers[-1]
    user.open_dock("Restore with a guide")
    assert user.dock.extra_inputs.combos["guide"].currentText() == "guide"
    user.set(max_iterations="12")
    user.press("Run")
    user.wait_for_end()
    result = viewer.layers[f"{weak.name} restored"]
    provenance = result.metadata[METADATA_KEY]
    assert provenance["inputs"]["guide"]["layer"] == "guide"
    assert provenance["report"]["prior"]["reason"]
    assert np.abs(np.diff(result.data)).mean() < np.abs(np.diff(weak.data.astype(float))).mean()


@pytest.mark.long
def test_a_preset_that_was_saved_is_there_when_napari_is_started_again(user, make_napari_viewer):
    from napari import settings

    user.viewer.add_image(np.eye(32), name="cells")
    user.open_dock("Denoise")
    user.set(seed=21, gain="2.5", max_iterations="77")
    wanted = user.dock.form.build_recipe()
    user.press("▶ Repeat")
    user.qtbot.keyClicks(user.dock.repeat_section.presets.name_edit, "Cells at 30 C")
    user.press("Save")
    user.viewer.close()
    settings._clear_plugin_settings_cache()  # what is in memory goes with a program
    user.viewer = make_napari_viewer()
    user.viewer.add_image(np.eye(32), name="other cells")
    user.open_dock("Denoise")
    assert user.dock.form.build_recipe() != wanted
    assert user.dock.repeat_section.is_unfolded  # as it was left
    user.dock.repeat_section.presets.combo.setCurrentText("Cells at 30 C")
    user.press("Use")
    assert user.dock.form.build_recipe() == wanted


def test_the_window_stays_as_high_as_it_was_with_all_docks_of_the_menu_open(user):
    window = user.viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    entries = get_menu_entries()
    assert len(entries) == 10
    docks = []
    for entry in entries:
        frame, dock = user.viewer.window.add_plugin_dock_widget("napari-dip", entry)
        user.qtbot.waitUntil(dock.isVisible)
        docks.append(frame)
        user.qtbot.wait(50)
        assert (window.width(), window.height()) == (1280, 720), entry
        assert not any(other.visibleRegion().intersects(frame.rect()) for other in docks[:-1])
    assert set(window.tabifiedDockWidgets(docks[0])) == set(docks[1:])
    (tab_bar,) = (bar for bar in window.findChildren(QTabBar) if bar.count() == len(entries))
    assert sorted(map(tab_bar.tabText, range(tab_bar.count()))) == sorted(entries)
    assert tab_bar.elideMode() is Qt.TextElideMode.ElideNone
    assert [frame.name for frame in docks] == [f"{entry} (napari-dip)" for entry in entries]
    # the check of the computer tries PyTorch in the background
    user.wait_until(lambda: not QThreadPool.globalInstance().activeThreadCount())


@pytest.mark.long
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_dock_is_wider_than_what_it_is_shown_in(user, theme):
    window = user.viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    user.viewer.theme = theme
    for entry in get_menu_entries():
        _, dock = user.viewer.window.add_plugin_dock_widget("napari-dip", entry)
        user.qtbot.waitUntil(dock.isVisible)
        user.qtbot.wait(50)
        check_widths(dock, entry)
        if hasattr(dock, "form") and "microscope" in dock.form.widgets:
            dock.form.widgets["microscope"].value = "widefield"  # shows four more rows
        for section in dock.findChildren(CollapsibleSection):
            section.title_button.setChecked(True)
            user.qtbot.wait(50)
            check_widths(dock, f"{entry}, {section.title}")
    user.wait_until(lambda: not QThreadPool.globalInstance().activeThreadCount())


def check_widths(dock, place):
    """Check that nothing in a dock is cut off at a side, and that one scroll bar is enough."""
    areas = [area for area in dock.findChildren(PageScrollArea) if area.isVisible()]
    for area in areas:
        assert area.widget().width() <= area.viewport().width(), place
        assert area.widget().minimumSizeHint().width() <= area.viewport().width(), place
    frame = dock.parentWidget()
    assert frame.minimumSizeHint().width() <= frame.width() and dock.width() <= frame.width(), place
    assert frame.mapTo(frame.window(), frame.rect().topRight()).x() < frame.window().width(), place
    assert sum(area.verticalScrollBar().isVisible() for area in areas) <= 1, place


@pytest.mark.long
def test_a_dock_with_a_long_card_has_a_single_scroll_bar(user):
    user.open_sample("mitochondria", side=32)
    window = user.viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    mean_note = make_note("mean-off", share=0.02, brighter=1, plane="")
    codes = [make_note("residual-edges", ratio=1.6), mean_note]
    report = {"verdict": {"codes": [note.to_dict() for note in codes]}, "note_codes": []}
    for entry in ("Denoise", "Super-resolve", "Inpaint"):
        user.open_dock(entry)
        view = user.dock.result_view
        view.card.show_card(make_card(report))
        user.dock.validation_curve.extend([(1, 10, 1.0, 1.0), (1, 20, 0.5, 0.6)], 20)
        for part in (view.comparison, user.dock.history, user.dock.run_bar.add_button):
            part.setVisible(True)
            for height in (720, 700, 740):
                window.resize(1280, height)
                for _ in range(4):  # drawing may take a wait
                    user.qtbot.wait(50)
                check_widths(user.dock, f"{entry}, {height}")


def choose_in_menu(entry):
    """Plugins, Deep Image Prior, an entry whose dock is open already."""
    from napari._qt._qplugins._qnpe2 import _toggle_or_get_widget

    assert _toggle_or_get_widget("napari-dip", entry, f"{entry} (napari-dip)") is None


def test_a_dock_that_is_chosen_again_during_a_run_stays_and_the_run_goes_on(user):
    user.viewer.window._qt_window.resize(1280, 720)
    user.viewer.window._qt_window.show()
    user.open_sample("mitochondria", side=32)
    user.open_dock("Denoise")
    user.set(max_iterations="100000", prior="random-input")
    user.press("Run")
    user.wait_until(lambda: user.dock.validation_curve.point_count >= 1)
    choose_in_menu("Denoise")
    user.qtbot.waitUntil(user.dock.isVisible)
    assert user.dock.jobs.is_running
    _, other = user.viewer.window.add_plugin_dock_widget("napari-dip", "Batch")
    user.qtbot.waitUntil(lambda: user.dock.visibleRegion().isEmpty())
    choose_in_menu("Denoise")
    user.qtbot.waitUntil(lambda: not user.dock.visibleRegion().isEmpty())
    assert user.dock.jobs.is_running and other.visibleRegion().isEmpty()
    user.qtbot.wait(DOUBLE_CLICK)
    user.press("Stop and keep")
    user.wait_for_end()


def test_a_dock_behind_a_tab_is_raised_by_the_menu_and_its_own_button_hides_it(user):
    user.viewer.window._qt_window.show()
    user.open_dock("Denoise")
    first = user.dock
    user.open_dock("Batch")
    user.qtbot.waitUntil(lambda: first.visibleRegion().isEmpty())
    choose_in_menu("Denoise")
    user.qtbot.waitUntil(lambda: not first.visibleRegion().isEmpty())
    frame = first.parentWidget()
    user.qtbot.mouseClick(frame.titleBarWidget().hide_button, Qt.MouseButton.LeftButton)
    user.qtbot.wait(100)
    assert frame.isHidden()
    choose_in_menu("Denoise")
    user.qtbot.waitUntil(lambda: not first.visibleRegion().isEmpty())
    choose_in_menu("Denoise")  # without a run, napari's menu hides what is in sight
    user.qtbot.wait(100)
    assert frame.isHidden()


@pytest.mark.long
def test_docks_in_tabs_settle_with_a_single_scroll_bar_at_any_height(user):
    user.viewer.open_sample("napari-dip", "mitochondria")
    for layer in user.viewer.layers:
        layer.visible = False  # what is drawn plays no part
    window = user.viewer.window._qt_window
    window.show()
    docks = []
    for entry in ("Batch", "Deblur", "Denoise"):
        user.open_dock(entry)
        docks.append(user.dock)
    for dock in docks:
        dock.parentWidget().raise_()
        user.qtbot.waitUntil(dock.isVisible)
        for height in range(480, 720, 8):
            window.resize(1280, height)
            user.qtbot.wait(50)
        user.qtbot.wait(200)
        check_widths(dock, type(dock).__name__)


@pytest.mark.long
def test_a_dock_that_was_moved_away_from_its_tab_stays_there(user):
    window = user.viewer.window._qt_window
    window.resize(1280, 720)
    window.show()
    first, _ = user.viewer.window.add_plugin_dock_widget("napari-dip", "Denoise")
    second, dock = user.viewer.window.add_plugin_dock_widget("napari-dip", "Batch")
    user.qtbot.waitUntil(lambda: window.tabifiedDockWidgets(first) == [second])
    window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, second)
    window.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, second)
    assert not window.tabifiedDockWidgets(first) and not dock.parentWidget().isFloating()


@pytest.mark.long
@pytest.mark.timeout(300)  # four runs
def test_the_page_of_comparison_counts_the_clicks_of_four_journeys(user, tmp_path, monkeypatch):
    user.open_sample("blurred", side=32)  # with its PSF
    image = user.viewer.layers.selection.active = user.viewer.layers["blurred mitochondria"]
    counts = []
    for entry, is_stopped in (("Denoise", False), ("Denoise", True), ("Deblur", False)):
        user.open_dock(entry)
        user.set(max_iterations="100000" if is_stopped else "3")
        if is_stopped:
            user.set(prior="random-input")  # else the fit of so small an image ends first
        before = len(user.viewer.layers)
        user.press("Run")
        if is_stopped:
            user.wait_until(lambda: user.dock.validation_curve.point_count >= 1)
            user.qtbot.wait(DOUBLE_CLICK)
            user.press("Stop and keep")
        user.wait_for_end()
        assert len(user.viewer.layers) > before
        counts.append(user.clicks)
        user.viewer.window.remove_dock_widget(user.dock.parentWidget())
    (tmp_path / "in").mkdir()
    for name in "ab":
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", image.data)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "in"))
    user.open_dock("Batch")
    settings = user.dock.recipe_chooser.settings_combo
    settings.setCurrentIndex(settings.findText("Instant"))  # seconds, at the same clicks
    user.press("Add folder…")
    user.clicks += 2  # the folder and OK, in the dialog
    user.wait_until(lambda: user.dock.run_bar.run_button.isEnabled())
    user.press("Run")
    user.wait_for_end()
    assert len(list((tmp_path / "in" / "denoised").glob("*.tif"))) == 2
    counts.append(user.clicks)
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| napari-dip 0.1.0")]
    assert [cell.strip() for cell in row.split("|")[2:6]] == list(map(str, counts))
