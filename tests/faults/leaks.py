"""Leaks: after a hundred runs in one napari, memory, threads and handles are as before."""

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

from faults.trials import Trial, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import TrialResult

RUNS, FEW_RUNS, WARM_UP = 100, 8, 5
MAX_GROWTH_BYTES = 20e6
TIMEOUT_S = 1200.0
POLL_MILLISECONDS, DRAWING_MILLISECONDS = 2, 30
#: A screen in memory, drawn by Mesa's software OpenGL, as the tests have it.
SCREEN = ("xvfb-run", "-a", "-s", "-screen 0 1400x900x24")
DRAWN_ENV = {"QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield series of runs, each in a process of its own, so that only its runs count."""
    yield Trial("a few runs in one dock", partial(_measure_growth, FEW_RUNS, "model"))
    if not small:
        yield Trial("runs in one dock", partial(_measure_growth, RUNS, "model"))
        yield Trial("runs in one drawn napari", partial(_measure_growth, RUNS, "drawn"))


def _measure_growth(runs: int, kind: str) -> TrialResult:
    """Run `main` in a process, and compare its memory, threads and handles with the limits."""
    argv = [sys.executable, "-m", "faults.leaks", str(runs), kind]
    proc = subprocess.run(
        [*(SCREEN if kind == "drawn" else ()), *argv],
        env={**os.environ, **(DRAWN_ENV if kind == "drawn" else {})},
        capture_output=True,
        text=True,
        timeout=7200,
    )
    if proc.returncode:
        return make_failed(proc.stderr[-600:])
    output = json.loads(proc.stdout.splitlines()[-1])
    grown_bytes = output["bytes"]
    summary = (
        f"{grown_bytes / 1e6:+.1f} MB, threads {output['threads']:+}, handles {output['handles']:+}"
    )
    is_steady = (
        grown_bytes <= MAX_GROWTH_BYTES and output["threads"] <= 0 and output["handles"] <= 0
    )
    return (make_passed if is_steady else make_failed)(
        summary, kind=f"steady, {kind}", count=runs, **output
    )


def main(runs: int, kind: str) -> None:
    """Open a dock, run it `runs` times, and print the growth as JSON."""
    import psutil
    from qtpy.QtWidgets import QApplication

    from napari_dip.qt.task.task_dock import DenoiseDock

    _application = QApplication.instance() or QApplication([])  # lives as long as it is held
    frames: list[None] = []
    viewer = _make_viewer(kind, lambda _: frames.append(None))
    rng = np.random.default_rng(0)
    viewer.add_image(rng.poisson(50, (48, 48)).astype("uint16"), name="cells")
    dock = DenoiseDock(viewer)
    if kind == "drawn":
        viewer.window.add_dock_widget(dock, name="Denoise", area="right")
    dock.form.widgets["preset"].value = "fast"
    dock.form.widgets["max_iterations"].value = "3"
    process = psutil.Process()
    before: dict[str, Any] = {}
    memory_mb = []
    for number in range(WARM_UP + runs):
        if number == WARM_UP:
            before = _measure(process)
        _run(viewer, dock)
        assert kind != "drawn" or len(frames) > number, "the canvas was not drawn"
        memory_mb.append(round(process.memory_info().rss / 1e6))
    after = _measure(process)
    dock.shut_down()
    growth = {name: after[name] - before[name] for name in before}
    print(json.dumps({**growth, "course_MB": memory_mb[::10], "frames": len(frames)}))
    sys.stdout.flush()
    os._exit(0)


def _make_viewer(kind: str, on_draw: Callable[[Any], object]) -> Any:
    """Give a napari with a window that is drawn, or what it is without one.

    `on_draw` is called for each frame.
    """
    if kind == "drawn":
        import napari

        viewer = napari.Viewer(show=True, show_welcome_screen=False)
        viewer.window.resize(1280, 720)
        viewer.window._qt_viewer.canvas._scene_canvas.events.draw.connect(on_draw)
        return viewer
    from napari.components import ViewerModel

    return ViewerModel()


def _run(viewer: Any, dock: Any) -> None:
    """Press Run, wait for the layer, and remove it, with another one where layers are drawn."""
    dock.start()
    end = time.monotonic() + TIMEOUT_S
    while dock.is_busy or len(viewer.layers) < 2:
        _process_events(POLL_MILLISECONDS)
        if time.monotonic() > end:
            raise TimeoutError(dock.run_bar.message_label.text())
    assert len(viewer.layers) == 2, dock.run_bar.message_label.text()
    if hasattr(viewer, "window"):
        viewer.add_image(np.ones((48, 48), np.float32), name="other")
        _process_events(DRAWING_MILLISECONDS)
    for layer in [layer for layer in viewer.layers if layer.name != "cells"]:
        viewer.layers.remove(layer)  # one right after the other, as of several that are selected
    dock.image_chooser.choose("cells", "YX")
    _process_events(POLL_MILLISECONDS)


def _process_events(milliseconds: int) -> None:
    """Go on as napari does, in an event loop: `processEvents` alone deletes nothing "later"."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def _measure(process: Any) -> dict[str, int]:
    gc.collect()
    time.sleep(0.5)
    return {
        "bytes": process.memory_info().rss,
        "threads": process.num_threads(),
        "handles": process.num_fds(),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
