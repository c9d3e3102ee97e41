"""The prior explorer by real clicks: run, watch, read, save, keep, stop, close."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt, QThreadPool
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_dip.engine.fit.stopping import Control
from napari_dip.explore.experiment_results import ExperimentTimer
from napari_dip.explore.experiment_setup import TARGET_LABELS, label_architecture
from napari_dip.explore.spectral_measures import BAND_NAMES
from napari_dip.qt.explorer.explorer_dock import (
    ExperimentForm,
    find_visible_plane,
    make_progress,
)
from napari_dip.qt.explorer.result_panel import ExplorerPlot
from napari_dip.qt.shell.background_call import ProgressQueue
from napari_dip.qt.shell.preferences import open_saved_settings

#: The first run of a session also imports torch.
PATIENCE = 120_000
ITERATIONS = 12


class Bench:
    """A viewer with the sample, the dock as its menu makes it, and a user's hands."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        viewer.open_sample("napari-dip", "mitochondria")
        viewer.layers.selection.active = viewer.layers["mitochondria"]
        _, self.dock = viewer.window.add_plugin_dock_widget("napari-dip", "Prior explorer")
        self.set(crop=24, max_iterations=ITERATIONS)
        viewer.screenshot(canvas_only=False, flash=False)  # lays the window out

    def set(self, **values):
        for name, value in values.items():
            self.dock.settings.widgets[name].value = value

    def choose(self, experiment):
        """By the keyboard, as the list is opened and closed by it."""
        combo = self.dock.settings.experiment_combo
        steps = combo.findData(experiment) - combo.currentIndex()
        key = Qt.Key.Key_Down if steps > 0 else Qt.Key.Key_Up
        for _ in range(abs(steps)):
            self.qtbot.keyClick(combo, key)
        assert self.dock.settings.experiment.key == experiment

    def press(self, button):
        assert button.isEnabled() and not button.isHidden(), button.text()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def run(self):
        self.press(self.dock.run_bar.run_button)
        assert self.dock.is_busy

    def wait(self, happened):
        self.qtbot.waitUntil(happened, timeout=PATIENCE)

    def wait_for_end(self):
        self.wait(lambda: not self.dock.is_busy)

    @property
    def last_message(self):
        return self.dock.run_bar.message_label.text()


@pytest.fixture
def bench(make_napari_viewer, qtbot):
    bench = Bench(make_napari_viewer(), qtbot)
    yield bench
    if bench.dock is not None and bench.dock.is_busy:
        bench.dock.jobs.discard()
    bench.viewer = bench.dock = None  # pytest holds on to it until after the leak check


@pytest.mark.long
@pytest.mark.gl
def test_impedance_is_drawn_while_it_runs_and_its_report_saved_and_opened(
    bench, tmp_path, monkeypatch
):
    dock = bench.dock
    assert "24 × 24 pixels" in dock.plan_label.text() and "4 fits of 12" in dock.plan_label.text()
    bench.run()
    assert not dock.settings.basic_page.isEnabled()
    bench.wait_for_end()
    curves = {name: curve.getOriginalDataset() for name, curve in dock.plot.curves.items()}
    assert list(curves) == ["image", "image_and_noise", "shuffled", "noise"]
    result = dock.result_panel._result
    for name, (iteration, energy) in curves.items():
        assert iteration.tolist() == list(range(1, ITERATIONS + 1))
        assert energy.tolist() == result.losses[name].tolist()
    assert (
        f"{result.score:.3f}" in dock.result_panel.headline.text() and "score" in bench.last_message
    )
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    opened = []
    monkeypatch.setattr(
        "napari_dip.qt.explorer.result_panel.QDesktopServices.openUrl",
        lambda url: opened.append(url.toLocalFile()) or True,
    )
    bench.press(dock.result_panel.save_button)
    bench.wait(dock.result_panel.open_button.isEnabled)
    bench.press(dock.result_panel.open_button)
    page = tmp_path / "mitochondria impedance" / "impedance.html"
    assert opened == [str(page)] and f"{result.score:.3f}" in page.read_text(encoding="utf-8")
    rows = list(csv.DictReader((page.parent / "impedance.csv").read_text().splitlines()))
    assert [float(row["noise"]) for row in rows] == result.losses["noise"].tolist()


@pytest.mark.long
@pytest.mark.gl
def test_a_spectrum_that_is_stopped_keeps_the_best_image_so_far_and_shows_how_it_came(bench):
    dock, viewer = bench.dock, bench.viewer
    bench.choose("spectrum")
    bench.set(max_iterations=5000)
    bench.run()
    bench.wait(lambda: dock.plot.point_count >= 12 and "mitochondria preview" in viewer.layers)
    preview = viewer.layers["mitochondria preview"]
    middle = (np.array(viewer.layers["mitochondria"].data.shape) - 24) // 2
    assert preview.data.shape == (24, 24) and preview.translate.tolist() == middle.tolist()
    assert preview.data.std() > 0
    bench.qtbot.wait(600)  # a double click on Run must not stop it
    bench.press(dock.run_bar.run_button)
    bench.wait_for_end()
    assert "Ended by hand after" in bench.last_message
    count = dock.result_panel._result.setup.iterations
    assert 10 <= count < 5000 and dock.result_panel.table.rowCount() == 5
    assert "mitochondria preview" not in viewer.layers
    bench.press(dock.result_panel.layers_button)
    layer = viewer.layers["mitochondria evolution"]
    assert layer.data.shape[1:] == (24, 24) and len(layer.data) > 3
    assert layer.translate.tolist() == [0, *middle]


@pytest.mark.long
@pytest.mark.gl
def test_the_network_that_suits_an_image_is_kept_as_a_preset_for_denoising(bench, monkeypatch):
    dock = bench.dock
    bench.choose("architectures")
    architecture_list = dock.settings.architecture_list
    for row in range(1, architecture_list.count()):
        wanted = architecture_list.item(row).data(Qt.ItemDataRole.UserRole) in (
            "decoder",
            "depth-2",
        )
        state = Qt.CheckState.Checked if wanted else Qt.CheckState.Unchecked
        architecture_list.item(row).setCheckState(state)
    bench.set(crop=24, max_iterations=ITERATIONS)
    assert "6 fits of 12" in dock.plan_label.text()
    bench.run()
    bench.wait_for_end()
    results, result = dock.result_panel, dock.result_panel._result
    assert results.table.rowCount() == 3
    errors = [float(results.table.item(row, 1).text()) for row in range(3)]
    assert errors == sorted(errors)
    results.table.setCurrentCell(2, 0)
    worst = max(result.fits, key=lambda fit: fit.validation_error)
    assert dock.plot.group == label_architecture(worst.architecture)
    other = next(fit for fit in result.fits if fit.architecture.name == "decoder")
    better = 0 * other.validation_errors  # as if it were better for certain
    other = replace(other, validation_errors=better, squared_errors=0 * other.squared_errors)
    results._result = replace(result, fits=(*result.fits[:1], other))
    bench.press(results.preset_button)
    (name,) = open_saved_settings("denoise").list_names()
    kept = open_saved_settings("denoise").load(name)
    assert name == "Decoder only for mitochondria" and f"'{name}'" in bench.last_message
    assert kept.task.architecture == "decoder" and kept.task.prior == "random-input"
    bench.press(results.preset_button)
    assert len(open_saved_settings("denoise").list_names()) == 2


@pytest.mark.long
@pytest.mark.gl
def test_a_result_is_in_sight_only_while_its_experiment_is_chosen(bench):
    dock = bench.dock
    bench.run()
    bench.wait_for_end()
    message = bench.last_message
    assert message and not dock.result_panel.isHidden() and not dock.plot.isHidden()
    bench.choose("spectrum")
    assert bench.last_message == "" and dock.result_panel.isHidden() and dock.plot.isHidden()
    bench.choose("impedance")
    assert bench.last_message == message
    assert not dock.result_panel.isHidden() and not dock.plot.isHidden()


@pytest.mark.gl
def test_closing_the_viewer_amid_an_experiment_leaves_no_worker(bench):
    bench.set(max_iterations=5000)
    bench.run()
    bench.wait(lambda: bench.dock.plot.point_count >= 2)
    pool = QThreadPool.globalInstance()
    assert pool.activeThreadCount() == 1
    bench.viewer.close()
    bench.dock = None
    bench.qtbot.waitUntil(
        lambda: not QThreadPool.globalInstance().activeThreadCount(), timeout=5000
    )
    QApplication.processEvents()


def test_of_a_stack_the_plane_in_sight_is_looked_at():
    from napari.components import ViewerModel

    viewer = ViewerModel()
    stack = np.arange(5 * 20 * 30, dtype=np.float32).reshape(5, 20, 30)
    layer = viewer.add_layer(Image(stack, scale=(2, 1, 1)))
    viewer.dims.set_point(0, 6.0)
    plane = find_visible_plane(viewer, layer)
    assert plane.position == (3,) and plane.counts == (5,) and plane.header.axes == "YX"
    assert np.array_equal(plane.pixels, stack[3])


def test_settings_follow_the_experiment_until_someone_sets_them(qapp):
    settings = ExperimentForm()
    assert settings.widgets["seed"].native.text() == "0"
    widgets = settings.widgets
    settings.experiment_combo.setCurrentIndex(settings.experiment_combo.findData("architectures"))
    assert (widgets["max_iterations"].value, widgets["crop"].value) == (300, 128)
    widgets["max_iterations"].value = 77
    settings.experiment_combo.setCurrentIndex(settings.experiment_combo.findData("impedance"))
    assert (widgets["max_iterations"].value, widgets["crop"].value) == (77, 256)
    depths = {f"depth-{count}" for count in range(1, 7)}  # a network has none of its own depth
    assert settings.list_checked_architectures()[0] == "preset" and depths | {"l-bfgs"} <= set(
        settings.list_checked_architectures()
    )


@pytest.mark.parametrize("experiment", ["impedance", "spectrum"])
def test_the_labels_around_the_curves_have_room(experiment, qtbot):
    plot = ExplorerPlot()
    qtbot.addWidget(plot)
    plot.restart(experiment)
    names = {"impedance": TARGET_LABELS, "spectrum": BAND_NAMES}[experiment]
    plot.extend([("", 1, dict.fromkeys(names, 0.5)), ("", 2, dict.fromkeys(names, 0.4))])
    plot.resize(320, plot.height())
    plot.show()
    plot.grab()  # lays it out
    title, axis = plot.getPlotItem().titleLabel, plot.getAxis("left")
    assert title.item.boundingRect().height() <= title.size().height() + 8  # Qt's own margins
    assert axis.label.boundingRect().width() <= plot.height()


def test_all_of_the_curves_and_of_a_long_legend_is_in_sight(qtbot):
    plot = ExplorerPlot()
    qtbot.addWidget(plot)
    plot.restart("architectures")
    group = "decoder only, layers bounded to 2, Gaussian input"
    plot.extend([(group, 1, {"image": 1.4, "noise": 1.3}), (group, 30, {"image": 0.2, "noise": 1})])
    plot.setFixedWidth(273)
    plot.show()
    qtbot.wait(50)
    box = plot.getPlotItem().getViewBox()
    assert box.mapRectToScene(box.boundingRect()).right() <= plot.viewport().width()
    assert plot.viewRange()[1][1] >= 1.4


def test_another_network_can_be_chosen_where_one_is_fitted(qapp):
    settings = ExperimentForm()
    settings.widgets["architecture"].value = "decoder+lipschitz-2"
    assert settings.read_settings()["architecture"] == "decoder+lipschitz-2"
    settings.experiment_combo.setCurrentIndex(settings.experiment_combo.findData("architectures"))
    assert settings.read_settings()["architecture"] == "preset"  # several are compared there
    assert settings.widgets["architecture"].native.isHidden()


def test_the_pace_leaves_pauses_out():
    from napari_dip.explore.experiment_results import IterationUpdate
    from napari_dip.pipeline.progress import Event, Progress

    now, answer = [0.0], [Control.GO]
    pace = ExperimentTimer(lambda: answer[0], lambda: now[0])
    now[0] = 100.0
    pace.add_time_left(IterationUpdate(Event(message="a"), {}))
    now[0], answer[0] = 110.0, Control.PAUSE
    pace.poll_control()
    now[0], answer[0] = 4110.0, Control.GO
    pace.poll_control()
    assert pace.add_time_left(
        IterationUpdate(Event(message="a", progress=Progress(done=0.5)), {})
    ).event.seconds_left == pytest.approx(12.5)


def test_the_box_holds_all_points_and_the_last_image_until_they_are_taken():
    from napari_dip.explore.experiment_results import IterationUpdate
    from napari_dip.pipeline.progress import Event

    box = ProgressQueue()
    image = np.zeros((2, 2))
    first = IterationUpdate(Event(message="a", iteration=1), {"image": 1.0}, image=image)
    assert box.post(make_progress(first))
    later = IterationUpdate(Event(message="a", iteration=2), {"image": 0.5})
    assert not box.post(make_progress(later))
    news = box.take()
    assert [point[1:] for point in news.points] == [(1, {"image": 1.0}), (2, {"image": 0.5})]
    assert news.event.preview is image and box.take() is None
