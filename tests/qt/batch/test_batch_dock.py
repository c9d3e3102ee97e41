"""The batch dock by real clicks: run, pause, stop, resume, view; to the same bytes."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image
from napari.layers._source import layer_source
from qtpy.QtCore import QMimeData, QObject, QPoint, QPointF, Qt, QThreadPool, QUrl
from qtpy.QtGui import QColor, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QWidget

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.io.reading import open_pixels, read_header
from napari_dip.io.writing import write_image
from napari_dip.pipeline.assess.card import VERDICT_COLOURS
from napari_dip.pipeline.repetition import format_command_line, write_python_script
from napari_dip.qt.batch.batch_dock import BatchDock
from napari_dip.qt.batch.batch_settings import RecipeChooser, suggest_results_folder
from napari_dip.qt.batch.files_panel import BatchLayers, make_dask_array
from napari_dip.qt.shell.dock_widget import MIN_DOCK_WIDTH
from napari_dip.qt.shell.job_controller import JobState
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.shell.preferences import open_saved_settings
from napari_dip.qt.shell.settings_form import SettingsForm
from napari_dip.qt.task.run_request import (
    build_repetition,
    find_unsaved_inputs,
    read_recorded_inputs,
    read_result_provenance,
)
from napari_dip.samples import MITOCHONDRIA
from programs import make_entries, make_small_program, write_archive
from scale.batch.test_plates import make_plate, read_tree, validate_plate

#: The first run of a session also imports torch.
PATIENCE = 60_000
RECIPE = dip.make_recipe("denoise", preset="fast", max_iterations=4, device="cpu")
GOOD = ["a.tif", "b.tif", "c.tif"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """Three crops of a real single shot with sizes of pixels, a bad file, and a whole batch."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "in").mkdir()
    shot = tifffile.imread(MITOCHONDRIA)[0]
    for number, name in enumerate(GOOD):
        crop = np.ascontiguousarray(shot[20:52, 30 + 40 * number : 62 + 40 * number])
        place = {"axes": "YX", "scale": (0.2, 0.2), "units": ("micrometer",) * 2}
        write_image(folder / "in" / name, crop, **place)
    (folder / "in" / "bad.tif").write_text("no image")
    (folder / "recipe.json").write_text(RECIPE.to_json())
    dip.batch(RECIPE, folder / "in", folder / "whole")
    return folder


class Bench:
    """A viewer without a window, the dock, and a user's hands."""

    def __init__(self, qtbot):
        from napari.components import ViewerModel

        self.qtbot, self.viewer = qtbot, ViewerModel()
        self.open()

    def open(self):
        self.dock = BatchDock(self.viewer)
        self.dock.show()
        self.qtbot.addWidget(self.dock, before_close_func=lambda dock: dock.shut_down())

    def ask(self, scene, out, files="in"):
        self.dock.recipe_chooser.load(str(scene / "recipe.json"))
        self.dock.results_folder.setText(str(out))
        self.dock.files_edit.add(str(scene / files))
        self.wait_for_plan()

    def wait_for_plan(self):
        self.wait(lambda: self.bar.state is JobState.PLANNED)

    def press(self, button):
        assert button.isEnabled() and not button.isHidden(), button.text()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def wait(self, happened):
        self.qtbot.waitUntil(happened, timeout=PATIENCE)

    def wait_for_end(self):
        self.wait(lambda: not self.dock.is_busy)

    @property
    def bar(self):
        return self.dock.run_bar

    @property
    def rows(self):
        return {row.source.name: row for row in self.dock.files_panel.table.file_model.rows}

    @property
    def states(self):
        return [row.state for row in self.rows.values()]

    @property
    def last_message(self):
        return self.bar.message_label.text()


@pytest.fixture
def bench(qtbot):
    bench = Bench(qtbot)
    yield bench
    bench.dock.shut_down()
    qtbot.waitUntil(lambda: not QThreadPool.globalInstance().activeThreadCount(), timeout=30_000)


def tables(folder):
    """Rows of the table, but what differs from run to run."""
    rows = csv.DictReader((folder / "batch.csv").read_text(encoding="utf-8").splitlines())
    return [{name: cell for name, cell in row.items() if name != "seconds"} for row in rows]


def results(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tif"))}


def test_the_table_of_a_few_files_has_no_scroll_bar_of_its_own(bench, scene, tmp_path):
    bench.ask(scene, tmp_path / "out")
    table = bench.dock.files_panel.table
    table.selectRow(2)  # its message takes room below
    for height in range(400, 720, 40):
        bench.dock.resize(310, height)
        bench.qtbot.wait(50)
        assert len(bench.rows) == 4 and table.verticalScrollBar().maximum() == 0


@pytest.mark.long
@pytest.mark.all_cores
def test_files_are_run_and_held_to_the_bytes_of_the_command(bench, scene, tmp_path):
    out = tmp_path / "out"
    bench.ask(scene, out)
    assert bench.states == ["ready", "ready", "refused", "ready"] and not out.exists()
    assert bench.dock.plan_label.text().startswith("4 files, 1 refused, 3 to restore: up to ")
    assert "Save it as TIFF or PNG" in bench.rows["bad.tif"].messages[0]
    bench.press(bench.bar.run_button)
    bench.press(bench.bar.pause_button)
    assert not bench.dock.files_edit.isEnabled() and bench.bar.pause_button.text() == "Resume"
    bench.qtbot.wait(400)
    assert not any(row.has_result for row in bench.rows.values()) and not results(out)
    bench.press(bench.bar.pause_button)
    bench.wait_for_end()
    assert results(out) == results(scene / "whole")
    assert bench.states == ["restored", "restored", "refused", "restored"]
    assert bench.last_message.startswith("Of 4 files: 3 restored, 1 refused.")
    assert tables(out) == tables(scene / "whole")
    model = bench.dock.files_panel.table.file_model
    colours = [model.data(model.index(row, 1), Qt.ItemDataRole.ForegroundRole) for row in range(4)]
    assert colours[2] == QColor(VERDICT_COLOURS["do-not-use"]) and None not in colours
    reasons = [model.data(model.index(row, 2)) for row in range(4)]
    assert bench.rows["bad.tif"].messages[0].startswith("'bad.tif' ")
    assert not any("bad.tif" in reason for reason in reasons)
    # in words, not in colour alone
    assert sum(reason.startswith(("Fine", "Look closer")) for reason in reasons) == 3
    assert all(reason[0].isupper() for reason in reasons)
    bench.wait_for_plan()
    line = bench.dock.plan_label.text()
    assert "3 done, 1 refused" in line and "1 file was refused: click it to see why" in line
    assert bench.bar.run_button.text() == "Check again"
    assert bench.states == ["restored", "restored", "refused", "restored"]  # as it was said


@pytest.mark.long
def test_a_batch_of_the_command_is_gone_on_with_stopped_and_ended_by_the_command(
    bench, scene, tmp_path
):
    out, bar = tmp_path / "out", bench.bar
    typed = ["batch", str(scene / "recipe.json"), "-o", str(out), "--quiet"]
    assert main([*typed, str(scene / "in" / "a.tif")]) == 0
    begun = (out / "a.tif").stat().st_mtime_ns
    bench.ask(scene, out)
    assert bar.run_button.text() == "Resume"
    bench.press(bar.run_button)
    bench.press(bar.pause_button)
    bench.qtbot.wait(600)  # a double click does not stop it
    bench.press(bar.run_button)
    bench.wait_for_end()
    assert "Of 4 files: 1 done before, 1 refused, 2 left." in bench.last_message
    assert "Resume takes up the rest" in bench.last_message and list(results(out)) == ["a.tif"]
    assert main([*typed, str(scene / "in"), "--resume"]) == 1  # the bad one has no result
    assert results(out) == results(scene / "whole")
    assert (out / "a.tif").stat().st_mtime_ns == begun


def test_a_batch_that_was_stopped_before_its_first_file_was_done_has_begun(bench, scene, tmp_path):
    shutil.copy(scene / "whole" / "batch.json", tmp_path)
    bench.ask(scene, tmp_path)
    assert bench.bar.run_button.text() == "Resume"  # as the sentence at its end has it


def test_a_dock_that_is_closed_amid_a_batch_loses_nothing(bench, scene):
    out = scene / "closed"
    shutil.copytree(scene / "whole", out)
    for name in ("c.tif", "records/c.tif.json"):
        (out / name).unlink()
    bench.dock.results_folder.setText(str(out))  # files and recipe are those of the batch there
    bench.wait_for_plan()
    assert [bench.rows[name].state for name in GOOD] == ["already-done", "already-done", "ready"]
    bench.press(bench.bar.run_button)
    bench.qtbot.wait(100)
    bench.dock.shut_down()
    bench.wait(lambda: not QThreadPool.globalInstance().activeThreadCount())
    assert not list(out.rglob("*.part"))
    bench.open()
    bench.dock.results_folder.setText(str(out))
    bench.wait_for_plan()
    bench.press(bench.bar.run_button)
    bench.wait_for_end()
    assert results(out) == results(scene / "whole")


@pytest.mark.long
def test_resume_is_not_offered_for_a_file_whose_pixels_were_refused(bench, scene, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(scene / "in" / "a.tif", tmp_path / "in")
    tifffile.imwrite(tmp_path / "in" / "black.tif", np.zeros((32, 32), np.uint8))
    shutil.copy(scene / "recipe.json", tmp_path)
    bench.ask(tmp_path, tmp_path / "out")
    assert bench.states == ["ready", "ready"]  # by their headers
    bench.press(bench.bar.run_button)
    bench.wait_for_end()
    bench.wait_for_plan()
    assert bench.states == ["restored", "refused"]
    assert bench.bar.run_button.text() == "Check again"
    text = "2 files, 1 done, 1 refused, 0 to restore.\nAll that can be restored is done. 1 file"
    assert bench.dock.plan_label.text().startswith(f"{text} was refused: click it to see why")


def test_results_open_as_lazy_layers_in_their_place(bench, scene, monkeypatch):
    bench.dock.results_folder.setText(str(scene / "whole"))
    bench.wait_for_plan()
    layers = bench.dock.files_panel
    place = list(bench.rows).index("b.tif")
    layers.table.selectRow(place)
    assert layers.message_label.text() == "\n".join(bench.rows["b.tif"].messages)
    bench.press(layers.inputs_check_box)
    bench.press(layers.show_button)
    bench.wait(lambda: len(bench.viewer.layers) == 2)
    below, layer = bench.viewer.layers
    assert (below.name, layer.name) == ("b.tif", "b denoised")
    assert isinstance(layer.data, dask.array.Array) and isinstance(below.data, dask.array.Array)
    np.testing.assert_array_equal(layer.data, tifffile.imread(scene / "whole" / "b.tif"))
    np.testing.assert_allclose([*layer.scale, *below.scale], 0.2)
    assert {str(unit) for unit in (*layer.units, *below.units)} == {"micrometer"}
    metadata = layer.metadata[METADATA_KEY]
    assert json.loads(json.dumps(metadata)) == metadata and metadata["recipe"] == RECIPE.to_dict()
    assert read_result_provenance(layer) is not None and read_result_provenance(below) is None
    assert not find_unsaved_inputs(metadata)  # a script can be made of it
    bench.wait(lambda: "Opened: 'b denoised'" in bench.last_message)
    middle = np.mean(layer.extent.world, 0)
    np.testing.assert_allclose(bench.viewer.scene.camera.center[-2:], middle)
    bench.press(layers.all_button)
    bench.wait(lambda: "3 results, side by side" in bench.last_message)
    assert len(bench.viewer.layers) == 6 and bench.viewer.canvas.grid.enabled
    cell = np.array(bench.viewer.canvas.viewbox_size(bench.viewer.layers))
    image = np.ptp(layer.extent.world, 0)[-2:] * bench.viewer.scene.camera.zoom
    assert (image <= cell).all() and (image >= 0.5 * cell).any()  # whole, and not small


def test_the_list_of_files_grows_to_four_lines(bench):
    edit, heights = bench.dock.files_edit.text_edit, []
    for count in range(1, 7):
        edit.setPlainText("\n".join("a.tif" for _ in range(count)))
        heights.append(edit.height())
    line = edit.fontMetrics().lineSpacing()
    assert np.diff(heights).tolist() == [0, line, line, 0, 0]


class Watched:
    """A large stack that takes down how many of its pixels are read."""

    shape, dtype, ndim = (40, 1500, 2000), np.dtype("float32"), 3

    def __init__(self):
        self.read = 0

    def __getitem__(self, place):
        part = np.broadcast_to(np.float32(1), self.shape)[place]
        self.read += part.size
        return part


def test_of_a_large_result_only_what_is_in_sight_is_read():
    stack = Watched()
    lazy = make_dask_array(stack, "ZYX")
    assert stack.read == 0
    assert np.asarray(lazy[20, :100, :100]).shape == (100, 100)
    assert 100 * 100 <= stack.read <= 1024 * 1024


def drop(widget, mime):
    """Drag data into a widget and drop it, by the events that Qt sends."""
    details = (
        Qt.DropAction.CopyAction | Qt.DropAction.MoveAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    enter = QDragEnterEvent(QPoint(5, 5), *details)
    QApplication.sendEvent(widget, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(widget, QDropEvent(QPointF(5, 5), *details))


def drag_layers(viewer, *names):
    """What napari's list of layers passes to a drag of these layers."""
    from napari._qt.containers import QtLayerList

    view = QtLayerList(viewer.layers)  # deletes its model when it goes
    model = view.model()
    rows = [model.index(row, 0) for row in range(model.rowCount())]
    return model.mimeData([row for row in rows if row.data() in names])


@pytest.mark.parametrize("target", ["list", "dock"])
def test_dropped_files_and_folders_become_paths(bench, scene, tmp_path, target):
    edit = bench.dock.files_edit
    (tmp_path / "more").mkdir()
    shutil.copy(scene / "in" / "b.tif", tmp_path / "more")
    paths = [str(scene / "in" / "a.tif"), str(tmp_path / "more")]
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(path) for path in (paths[0], f"{paths[1]}/", paths[0])])
    drop(edit.text_edit.viewport() if target == "list" else bench.dock, mime)
    assert edit.get_inputs() == tuple(paths)
    assert edit.text_edit.toPlainText() == "\n".join(paths)
    bench.wait_for_plan()


def test_pasted_files_become_paths_and_a_pasted_text_stays(bench, scene):
    edit = bench.dock.files_edit
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(scene / "in"))])
    QApplication.clipboard().setMimeData(mime)
    edit.text_edit.paste()
    assert edit.get_inputs() == (str(scene / "in"),)
    QApplication.clipboard().setText("\ndata/**/*.tif")
    edit.text_edit.moveCursor(edit.text_edit.textCursor().MoveOperation.End)
    edit.text_edit.paste()
    assert edit.get_inputs() == (str(scene / "in"), "data/**/*.tif")


def test_a_dropped_layer_adds_its_file_or_says_that_it_has_none(bench, scene):
    path = scene / "in" / "b.tif"
    with layer_source(path=str(path)):
        bench.viewer.add_layer(Image(tifffile.imread(path), name="opened"))
    bench.viewer.add_image(np.zeros((8, 8)), name="computed")
    edit = bench.dock.files_edit
    drop(edit.text_edit.viewport(), drag_layers(bench.viewer, "opened", "computed"))
    assert edit.get_inputs() == (str(path),)
    assert "'computed' was not opened from a file" in bench.last_message


def test_what_is_dropped_from_the_web_is_not_listed(bench):
    mime = QMimeData()
    mime.setUrls([QUrl("https://example.org/a.tif")])
    drop(bench.dock, mime)
    assert bench.dock.files_edit.get_inputs() == ()
    assert "'https://example.org/a.tif' is no file on this computer" in bench.last_message


def test_what_is_wrong_with_the_whole_is_said_above_run(bench, scene, tmp_path):
    dock = bench.dock
    assert "Add the files" in dock.plan_label.text() and bench.bar.state is JobState.IDLE
    dock.files_edit.add(str(scene / "in" / "a.tif"))
    assert dock.results_folder.path == str(scene / "in" / "denoised")
    dock.results_folder.setText(str(scene / "whole"))
    bench.wait(lambda: "come from another recipe" in dock.plan_label.text())
    assert not bench.bar.run_button.isEnabled()
    dock.results_folder.setText(str(scene / "in"))
    bench.wait(lambda: "would replace its own input" in dock.plan_label.text())
    bench.bar.prepend_message("Opened: 4 results.")
    dock.recipe_chooser.task_combo.setCurrentIndex(
        dock.recipe_chooser.task_combo.findText("Restore with a guide")
    )
    assert list(dock.recipe_chooser.extra_input_edits) == ["guide"]
    assert not bench.last_message  # it was about the results of another task
    dock.recipe_chooser.load(str(scene / "in" / "bad.tif"))
    assert "recipe" in bench.last_message


def test_the_settings_can_be_read_in_the_narrowest_dock(bench):
    dock = bench.dock
    dock.resize(dock.minimumWidth(), 640)
    bench.qtbot.waitExposed(dock)
    assert dock.width() == dock.minimumWidth() == MIN_DOCK_WIDTH
    for combo in (dock.recipe_chooser.task_combo, dock.recipe_chooser.settings_combo):
        text_width = combo.fontMetrics().horizontalAdvance("As in the open dock")
        assert combo.width() > text_width + 20  # the arrow
    maps = dock.recipe_chooser.maps_page
    assert dock.recipe_chooser.extra_input_edits["offset_map"].parentWidget() is maps
    assert not dock.maps_section.isHidden()
    chooser = dock.recipe_chooser.task_combo
    chooser.setCurrentIndex(chooser.findText("Inpaint"))
    assert dock.maps_section.isHidden()


def test_settings_are_offered_from_presets_of_ones_own_and_the_last_run(bench):
    shelf = open_saved_settings("denoise")
    shelf.save_last(RECIPE)
    shelf.save("mine", RECIPE.replace_run_settings(seed=3))
    chooser = bench.dock.recipe_chooser
    chooser.refresh()
    names = [
        chooser.settings_combo.itemText(place) for place in range(chooser.settings_combo.count())
    ]
    assert names == ["Instant", "Fast", "Balanced", "Best", "As in my last run", "My preset 'mine'"]
    chooser.settings_combo.setCurrentIndex(5)
    assert chooser.build_recipe().run_settings.seed == 3
    chooser.settings_combo.setCurrentIndex(4)
    assert chooser.build_recipe() == RECIPE


def test_settings_of_a_dock_stay_after_it_closes_and_are_named_so(qtbot):
    dock, form = QWidget(), SettingsForm("denoise")
    for page in (form.basic_page, form.advanced_page):
        page.setParent(dock)
    forms = {"denoise": form}
    chooser = RecipeChooser(forms.get)
    qtbot.addWidget(chooser)
    combo = chooser.settings_combo
    combo.setCurrentIndex(combo.findText("As in the open dock"))
    form.widgets["smoothing"].value = 2.0
    del forms["denoise"]
    with qtbot.waitSignal(dock.destroyed):
        dock.deleteLater()
    assert chooser.build_recipe() == dip.make_recipe("denoise", smoothing=2.0)
    qtbot.waitUntil(lambda: combo.currentText() == "As in the closed dock")
    chooser.refresh()
    assert combo.currentText() == "As in the closed dock"
    assert chooser.build_recipe() == dip.make_recipe("denoise", smoothing=2.0)


@pytest.mark.parametrize(
    ("source", "folder"),
    [("data/cell.tif", "data/denoised"), ("data/**/*.tif", "data/denoised")],
)
def test_results_are_suggested_beside_their_inputs(source, folder):
    assert Path(suggest_results_folder(source, "denoised")) == Path(folder)


@pytest.mark.long
def test_one_network_for_all_files_is_a_tick_and_the_command_knows_it(bench, tmp_path):
    shot = tifffile.imread(MITOCHONDRIA)[0]
    (tmp_path / "in").mkdir()
    for number in range(8):
        crop = np.ascontiguousarray(shot[20:52, 10 + 30 * number : 42 + 30 * number])
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", crop)
    (tmp_path / "recipe.json").write_text(RECIPE.replace_run_settings(max_iterations=1).to_json())
    box, out = bench.dock.joint_training, tmp_path / "out"
    bench.ask(tmp_path, out)
    alone = bench.dock.plan_label.text()
    box.click()
    bench.wait(lambda: bench.dock.plan_label.text() not in (alone, "Reading the headers …"))
    bench.wait_for_plan()
    bench.press(bench.bar.run_button)
    assert not box.isEnabled()
    bench.wait_for_end()
    assert bench.states == ["restored"] * 8 and (out / "series.network").is_file()
    again = ["batch", str(tmp_path / "recipe.json"), str(tmp_path / "in"), "-o", str(out)]
    before = (out / "0.tif").stat().st_mtime_ns
    assert main([*again, "--resume", "--quiet"]) == 0
    assert (out / "0.tif").stat().st_mtime_ns == before
    bench.wait(box.isEnabled)
    bench.dock.recipe_chooser.task_combo.setCurrentIndex(
        bench.dock.recipe_chooser.task_combo.findData("deblur")
    )
    assert not box.isEnabled() and not box.is_requested


def test_the_folder_of_a_batch_with_one_network_ticks_the_box(bench, scene, tmp_path):
    shutil.copy(scene / "whole" / "batch.json", tmp_path)
    record = json.loads((tmp_path / "batch.json").read_text(encoding="utf-8"))
    (tmp_path / "batch.json").write_text(json.dumps(record | {"joint_training": True}))
    bench.dock.results_folder.setText(str(tmp_path))
    assert bench.dock.joint_training.is_requested
    bench.dock.results_folder.setText(str(scene / "whole"))
    assert not bench.dock.joint_training.is_requested


def test_a_result_of_joint_training_says_how_it_is_repeated(scene):
    """As a layer that the dock opens notes it."""
    shared = {"network_file": "series.network", "sha256": "0" * 64}
    receipt = json.loads((scene / "whole" / "records" / "a.tif.json").read_text())
    report = receipt["report"]
    report["fit"]["joint_training"] = shared
    inputs = {
        "image": {"layer": "a.tif", "path": str(scene / "in" / "a.tif"), "axes": "YX"},
        "network_file": {"layer": "series.network", "path": "/there/series.network"},
    }
    metadata = {"report": report, "input": {"name": "a.tif"}, "inputs": inputs}
    assert find_unsaved_inputs(metadata) == [] and set(read_recorded_inputs(metadata)) == {"image"}
    assert '"/there/series.network"' in write_python_script(build_repetition(metadata, {}))
    assert "--network-file /there/series.network" in format_command_line(
        build_repetition(metadata, {})
    )


@pytest.mark.long
@pytest.mark.parametrize("how", ["dropped", "typed", "chosen"])
def test_a_plate_is_restored_to_a_plate(bench, scene, tmp_path, monkeypatch, how):
    pytest.importorskip("zarr")
    plate = make_plate(tmp_path / "cells.ome.zarr", "0.5")
    edit = bench.dock.files_edit
    bench.dock.recipe_chooser.load(str(scene / "recipe.json"))
    if how == "dropped":
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(f"{plate}/")])
        drop(edit.text_edit.viewport(), mime)
    elif how == "typed":
        bench.qtbot.keyClicks(edit.text_edit, str(plate))
    else:
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(plate))
        bench.press(edit.folder_button)
    assert edit.get_inputs() == (str(plate),)
    assert bench.dock.results_folder.path == str(tmp_path / "denoised")
    bench.wait_for_plan()
    panel = bench.dock.files_panel
    model = panel.table.file_model
    cells = [model.data(model.index(row, 0), 0) for row in range(model.rowCount())]
    fields = [(f"{row}{column}", field) for row in "AB" for column in "123" for field in "01"]
    assert cells == [f"{well}, field {field}" for well, field in fields]
    assert bench.dock.plan_label.text().startswith("12 files, 12 to restore")
    if how != "dropped":  # the same list
        return
    bench.press(bench.bar.run_button)
    bench.wait_for_end()
    assert "12 restored" in bench.last_message
    assert [row.state for row in model.rows] == ["restored"] * 12
    result, expected = (tmp_path / name / plate.name for name in ("denoised", "by command"))
    dip.batch(RECIPE, plate, expected.parent)
    assert read_tree(result).keys() == read_tree(expected).keys()
    for well, field in fields:
        paths = (folder / well[0] / well[1] / field for folder in (result, expected))
        ours, theirs = (open_pixels(read_header(path))[:] for path in paths)
        assert ours.tobytes() == theirs.tobytes()
    if find_spec("ome_zarr_models") is not None:
        validate_plate(result, "0.5")
    rows = list(csv.DictReader((result.parent / "batch.csv").read_text().splitlines()))
    assert [(row["plate"], row["well"], row["field"]) for row in rows] == [
        (plate.name, *field) for field in fields
    ]
    panel.table.selectRow(7)
    assert panel.message_label.text() == "\n".join(model.rows[7].messages)
    bench.press(panel.inputs_check_box)
    bench.press(panel.show_button)
    bench.wait(lambda: "Opened: 'B1, field 1 denoised'" in bench.last_message)
    assert [layer.name for layer in bench.viewer.layers] == ["B1, field 1", "B1, field 1 denoised"]


def test_a_colour_result_has_no_white_thumbnail(qtbot):
    viewer = ViewerModel()
    colours = np.full((16, 16, 3), (20.0, 60.0, 120.0), np.float32)
    attributes = {"name": "stained", "rgb": True, "contrast_limits": (0, 255)}
    attributes["metadata"] = {METADATA_KEY: {"path": "stained.tif"}}
    parent = QObject()
    BatchLayers(viewer, parent)._on_opened(((dask.array.from_array(colours), attributes),))
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert viewer.layers[0].thumbnail[16, 16, :3].tolist() == pytest.approx([20, 60, 120], abs=2)


@pytest.mark.long
def test_a_recipe_that_asks_for_the_layers_is_refused_with_them_before_run(qtbot, scene, tmp_path):
    bench = Bench(qtbot)
    network = write_archive(tmp_path / "net.pt2", make_entries(*make_small_program()))
    recipe = dip.make_recipe("invert-features", network=str(network), layer="list")
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    bench.dock.recipe_chooser.load(str(tmp_path / "recipe.json"))
    bench.dock.results_folder.setText(str(tmp_path / "out"))
    bench.dock.files_edit.add(str(scene / "in" / GOOD[0]))
    bench.wait(lambda: "Choose one of: body.0" in bench.dock.plan_label.text())
    assert not bench.bar.run_button.isEnabled()
