"""What earlier runs left: interrupted ones, resumed to the same pixels, and the last network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from napari.components import ViewerModel

import napari_dip as dip
from napari_dip.pipeline import autosave as keeping
from napari_dip.qt.shell.dock_widget import fit_view
from napari_dip.qt.shell.layer_headers import METADATA_KEY
from napari_dip.qt.shell.preferences import find_settings_folder
from napari_dip.qt.task.run_request import find_autosave_folder
from napari_dip.qt.task.task_dock import DenoiseDock, make_dock_class

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(400)
SETTINGS = {"preset": "fast", "prior": "random-input", "max_iterations": 120}
#: Milliseconds for loading torch and for a run, on a machine that does ten other things.
PATIENCE = 180_000
#: What a napari does that is to crash: a run, kept from its first report on.
CHILD = """
import sys, time
import numpy as np
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
from napari_dip.qt.task.task_dock import DenoiseDock
from napari_dip.pipeline import autosave
autosave.AUTOSAVE_DELAY_SECONDS = 0.0
application = QApplication([])
viewer = ViewerModel()
viewer.add_image(np.load(sys.argv[1]), name="cells", scale=(0.2, 0.3), colormap="green")
dock = DenoiseDock(viewer)
for name, value in dict(preset="fast", prior="random-input", max_iterations="120").items():
    dock.form.widgets[name].value = value
dock.start()
assert dock.is_busy, dock.plan_label.text()
while True:
    application.processEvents()
    time.sleep(0.005)
"""


@pytest.fixture
def crashed_run(noisy, tmp_path):
    """Pixels of a run whose napari was killed after it had been kept once."""
    pixels = noisy[:32, :32].copy()
    np.save(tmp_path / "cells.npy", pixels)
    settings = {"NAPARI_CONFIG": str(tmp_path / "settings.yaml"), "QT_QPA_PLATFORM": "offscreen"}
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "cells.npy")]
    with subprocess.Popen(argv, env={**os.environ, **settings}) as child:
        end = time.monotonic() + PATIENCE / 1000
        while not list(find_autosave_folder().glob("run-*/checkpoint.safetensors")):
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end, "nothing was kept"
            time.sleep(0.005)
        child.kill()
    assert child.returncode == (-signal.SIGKILL if os.name == "posix" else 1)
    return pixels


@pytest.fixture
def open_docks(qtbot):
    """Opens docks on viewers without a window."""
    docks = []

    def open_dock(viewer=None, kind=DenoiseDock):
        docks.append(kind(ViewerModel() if viewer is None else viewer))
        return docks[-1]

    yield open_dock
    for dock in docks:
        dock.shut_down()
        dock.deleteLater()
    docks.clear()


def begin_run(pixels, monkeypatch, dock, qtbot):
    """Run in this process until it was kept."""
    monkeypatch.setattr(keeping, "AUTOSAVE_DELAY_SECONDS", 0.0)
    dock.viewer.add_image(pixels, name="cells")
    for name, value in {**SETTINGS, "max_iterations": "100000"}.items():
        dock.form.widgets[name].value = value
    dock.start()
    qtbot.waitUntil(
        lambda: bool(list(find_autosave_folder().glob("run-*/run.json"))), timeout=PATIENCE
    )


@pytest.mark.long
@pytest.mark.all_cores
def test_a_run_that_a_crash_cut_off_resumes_to_the_same_pixels(crashed_run, open_docks, qtbot):
    assert open_docks(kind=make_dock_class("guide")).interrupted_runs.isHidden()
    dock = open_docks()
    offer = dock.interrupted_runs
    assert not offer.isHidden()
    assert "Denoise of 'cells', begun on" in offer.message_label.text()
    assert "of at most 120 iterations" in offer.message_label.text()
    offer.resume_button.click()
    qtbot.waitUntil(lambda: dock.is_busy, timeout=PATIENCE)
    assert offer.isHidden()
    qtbot.waitUntil(lambda: not dock.is_busy, timeout=PATIENCE)
    layers = dock.viewer.layers
    assert [layer.name for layer in layers] == ["cells", "cells denoised"], (
        dock.run_bar.message_label.text()
    )
    expected = dip.denoise(crashed_run, **SETTINGS)
    np.testing.assert_array_equal(layers["cells"].data, crashed_run)
    np.testing.assert_array_equal(layers["cells denoised"].data, expected.image)
    np.testing.assert_allclose(layers["cells denoised"].scale, (0.2, 0.3))
    assert layers["cells denoised"].colormap.name == "green"
    assert not list(find_autosave_folder().iterdir())
    assert offer.isHidden()


@pytest.mark.long
def test_the_image_of_a_resumed_run_is_selected_and_fills_the_view(crashed_run, open_docks, qtbot):
    dock = open_docks()
    viewer = dock.viewer
    dock.interrupted_runs.resume_button.click()
    qtbot.waitUntil(lambda: dock.is_busy, timeout=PATIENCE)
    dock.jobs.keep()
    qtbot.waitUntil(lambda: not dock.is_busy, timeout=PATIENCE)
    camera = viewer.scene.camera
    center, zoom = camera.center, camera.zoom
    assert viewer.layers["cells"] in viewer.layers.selection
    fit_view(viewer, viewer.layers["cells"])
    np.testing.assert_allclose([*center, zoom], [*camera.center, camera.zoom])
    assert center[-2:] == pytest.approx((31 * 0.2 / 2, 31 * 0.3 / 2))


def test_a_run_that_is_on_is_not_offered_and_one_that_is_stopped_leaves_nothing(
    noisy, open_docks, monkeypatch, qtbot
):
    dock = open_docks()
    begin_run(noisy[:32, :32], monkeypatch, dock, qtbot)
    assert open_docks().interrupted_runs.isHidden()
    dock.jobs.keep()
    qtbot.waitUntil(lambda: not dock.is_busy, timeout=PATIENCE)
    assert not list(find_autosave_folder().iterdir())


def test_discarding_deletes_what_was_kept_and_offers_the_next(open_docks):
    for number in (1, 2):
        write_interrupted_run(find_autosave_folder(), number)
    offer = open_docks().interrupted_runs
    assert (
        "cells 2" in offer.message_label.text() and "There is 1 more" in offer.message_label.text()
    )
    offer.discard_button.click()
    assert "cells 1" in offer.message_label.text()
    offer.discard_button.click()
    assert offer.isHidden()
    assert not list(find_autosave_folder().iterdir())


def write_interrupted_run(home: Path, number: int) -> None:
    """Write down a run as if it had been cut off before its first state was kept."""
    from napari_dip.pipeline.autosave import summarise_run
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.store.run_folder import RunFolder
    from small_runs import plan_for

    home.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(home / f"run-{number}", resume=False)
    plan = plan_for(np.zeros((32, 32), "uint8"))
    about = summarise_run(plan, f"Denoise of 'cells {number}'", detect_machine())
    folder.summary = {**about, "begun": f"2026-01-0{number}T10:00:00+00:00", "inputs": {}}
    folder.initialise()


def test_what_was_begun_with_another_version_begins_again(open_docks):
    write_interrupted_run(find_autosave_folder(), 1)
    record = next(find_autosave_folder().glob("*/run.json"))
    record.write_text(record.read_text().replace('"torch": "', '"torch": "0.'))
    assert open_docks().interrupted_runs.resume_button.text() == "Begin again"


@pytest.mark.gl
def test_a_run_begins_with_the_network_of_the_last_image_if_that_is_ticked(driver, noisy):
    box = driver.dock.network_start
    pixels = noisy[:32, :32]
    driver.viewer.layers["cells"].data = pixels
    # a mirror image has the same noise: another noise may ask for another prior
    driver.viewer.add_image(pixels[::-1].copy(), name="more cells")
    driver.dock.image_chooser.choose("cells")
    driver.set(max_iterations="40")
    assert box.isHidden()
    driver.run()
    driver.wait_for_end()
    driver.dock.image_chooser.choose("cells")
    assert box.isHidden(), "an image does not begin with its own network"
    driver.dock.image_chooser.choose("more cells")
    assert not box.isHidden() and box.text() == "Begin with the network of 'cells'"
    driver.set(preset="instant")
    assert box.isHidden(), "the network is of another preset"
    driver.set(preset="fast")
    assert not box.isHidden() and not box.isChecked()
    box.click()
    assert box.isChecked()
    driver.run()
    driver.wait_for_end()
    report = driver.viewer.layers["more cells denoised"].metadata[METADATA_KEY]["report"]
    assert report["iterations"] == 25
    assert report["fit"]["joint_training"]["network_file"] == "cells.safetensors"
    assert box.text() == "Begin with the network of 'cells'", "each image is one step from it"
    driver.dock.shut_down()
    kept = find_settings_folder() / "networks"
    assert [path.stem for path in kept.iterdir()] == ["cells"], "a result names it"
