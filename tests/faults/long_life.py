"""A hundred runs in one napari: memory, threads and handles stay what they were."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from faults.trials import Trial, bad, good

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import Seen

RUNS, FEW, WARM_UP = 100, 8, 5
MOST_BYTES = 20e6
PATIENCE = 120.0


def trials(*, small: bool) -> Iterator[Trial]:
    """Run in a process of its own, so that only these runs count."""
    yield Trial("a few runs in one dock", partial(_apart, FEW))
    if not small:
        yield Trial("runs in one dock", partial(_apart, RUNS))


def _apart(runs: int) -> Seen:
    argv = [sys.executable, "-m", "faults.long_life", str(runs)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        return bad(done.stderr[-600:])
    found = json.loads(done.stdout.splitlines()[-1])
    grown = found["bytes"]
    seen = f"{grown / 1e6:+.1f} MB, threads {found['threads']:+}, handles {found['handles']:+}"
    steady = grown <= MOST_BYTES and found["threads"] <= 0 and found["handles"] <= 0
    return (good if steady else bad)(seen, kind="steady", count=runs, **found)


def main(runs: int) -> None:
    """Open a dock, run it that often, and print what has grown."""
    import psutil
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QApplication

    from napari_dip.qt.docks import DenoiseDock

    application = QApplication([])
    viewer = ViewerModel()
    rng = np.random.default_rng(0)
    viewer.add_image(rng.poisson(50, (48, 48)).astype("uint16"), name="cells")
    dock = DenoiseDock(viewer)
    dock.form.widgets["preset"].value = "fast"
    dock.form.widgets["max_iterations"].value = "3"
    process = psutil.Process()
    before: dict[str, Any] = {}
    for number in range(WARM_UP + runs):
        if number == WARM_UP:
            before = _state(process)
        _run(application, viewer, dock)
    after = _state(process)
    dock.shut_down()
    print(json.dumps({name: after[name] - before[name] for name in before}))
    sys.stdout.flush()
    os._exit(0)


def _run(application: Any, viewer: Any, dock: Any) -> None:
    """Press Run, wait for the layer, and remove it."""
    dock.start()
    end = time.monotonic() + PATIENCE
    while dock.busy or len(viewer.layers) < 2:
        application.processEvents()
        time.sleep(0.002)
        if time.monotonic() > end:
            raise TimeoutError(dock.run_bar.words.text())
    assert len(viewer.layers) == 2, dock.run_bar.words.text()
    viewer.layers.remove(next(one for one in viewer.layers if one.name != "cells"))
    dock.chooser.choose("cells", "YX")
    application.processEvents()


def _state(process: Any) -> dict[str, int]:
    gc.collect()
    time.sleep(0.5)
    return {
        "bytes": process.memory_info().rss,
        "threads": process.num_threads(),
        "handles": process.num_fds(),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]))
