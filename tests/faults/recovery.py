"""napari killed during a run: the next one offers the run and resumes it to the same pixels.

Both are processes of their own, with the dock on a viewer without a window; the code is unmodified,
so a run is kept from its fifth second on.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

import napari_dip as dip
from faults.reference_runs import write_inputs
from faults.trials import Trial, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: Settings of each task, for runs of some ten seconds on an idle core.
TASKS: dict[str, dict[str, Any]] = {
    "denoise": {"preset": "fast", "prior": "random-input", "max_iterations": 1500},
    "inpaint": {"preset": "fast", "max_iterations": 1000},
    "blind-deblur": {"preset": "balanced", "psf_size": 7, "max_iterations": 800},
}
REPEATS = 6
#: Iterations to the first report of a run that begins anew.
FIRST_REPORT = 25
TIMEOUT_S = 1200.0


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield kills at random moments after the first autosave."""
    for number in range(1 if small else REPEATS):
        task = list(TASKS)[number % len(TASKS)]
        yield Trial(f"{task} {number}", partial(_kill_and_recover, task, number))


def _kill_and_recover(task: str, number: int) -> TrialResult:
    rng = random.Random(f"{task} {number}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        kept = folder / "napari-dip" / "unfinished"
        with _start_napari(folder, "begin", task) as process:
            while not list(kept.glob("run-*/checkpoint.safetensors")):
                if process.poll() is not None:
                    return make_failed(
                        f"it ended before it was kept: {process.communicate()[1]}"[-500:]
                    )
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 4))
            process.kill()
        if process.returncode == 0:
            return make_failed("it ended before it could be killed")
        if not list(kept.glob("run-*")):
            return make_failed("nothing is left of it")
        with _start_napari(folder, "go on", task) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        if process.returncode:
            return make_failed(err[-500:])
        if list(kept.iterdir()):
            return make_failed("what was kept is still there")
        image, mask = (tifffile.imread(folder / f"{name}.tif") for name in ("in", "mask"))
        inputs = {"mask": mask} if task == "inpaint" else {}
        call = getattr(dip, task.replace("-", "_"))
        reference = call(image, **inputs, **TASKS[task]).image
        if not np.array_equal(np.load(folder / "out.npy"), reference):
            return make_failed("other pixels")
        *_, offered, first = out.splitlines()
        if int(first) <= FIRST_REPORT:
            return make_failed(f"it began anew: first report at iteration {first}")
        return make_passed(
            f"{offered} First report at {first}.", kind="offered, and went on to the same pixels"
        )


def _start_napari(folder: Path, what: str, task: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "faults.recovery", what, task, str(folder)]
    settings = {"NAPARI_CONFIG": str(folder / "settings.yaml"), "QT_QPA_PLATFORM": "offscreen"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, env={**os.environ, **settings}, **pipes)


def main(what: str, task: str, folder: Path) -> None:
    """Start a run, or resume the offered one, and save its pixels."""
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QApplication

    from napari_dip.qt.task.task_dock import make_dock_class

    application = QApplication([])
    viewer = ViewerModel()
    dock = make_dock_class(task)(viewer)
    if what == "begin":
        viewer.add_image(tifffile.imread(folder / "in.tif"), name="cells")
        if task == "inpaint":
            viewer.add_labels(tifffile.imread(folder / "mask.tif"), name="holes")
            dock.extra_inputs.choose({"mask": "holes"})
        for name, value in TASKS[task].items():
            widget = dock.form.widgets[name]
            widget.value = value if name in ("preset", "prior", "psf_size") else str(value)
        dock.start()
    else:
        assert not dock.interrupted_runs.isHidden(), "nothing was offered"
        print(dock.interrupted_runs.message_label.text())
        dock.interrupted_runs.resume()
    reports = []
    dock.jobs.progressed.connect(lambda news: reports.append(news.event.iteration))
    end = time.monotonic() + TIMEOUT_S
    while (dock.is_busy or " is done." not in dock.run_bar.message_label.text()) and (
        time.monotonic() < end
    ):
        application.processEvents()
        time.sleep(0.005)
    # a run that was kept at its end has nothing more to report; one that begins anew has
    print(min(filter(None, reports), default=TASKS[task]["max_iterations"]))
    np.save(folder / "out.npy", viewer.layers[-1].data)
    dock.shut_down()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
