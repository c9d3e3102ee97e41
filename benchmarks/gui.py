"""Responsiveness of the window: freezes, latency of stopping, and memory growth.

    xvfb-run -a python benchmarks/gui.py stalls | latency | growth

`stalls`: longest silence of a timer in the GUI thread during a run on the sample, against that
of napari alone for the same layer operations; the first import of torch is stated apart.
`latency`: from pressing Stop and keep to the new layer, and from Discard to an idle worker.
`growth`: resident memory, threads, timers and widgets before and after 20 small runs in one
viewer, with results kept and removed, against napari alone.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil

from shared_data import write

if TYPE_CHECKING:
    from collections.abc import Callable

#: Rows of the table, and what they come down to.
Figures = tuple[list[dict[str, Any]], dict[str, Any]]

BEAT_SECONDS = 0.005
SAMPLE_SIDE = 320
LATENCY_SIDES = (320, 512)
RUNS, WARM_UP_RUNS = 20, 3


class EventLoopMonitor:
    """A timer in the event loop; its longest silence is how long the window was frozen.

    With `time.thread_time` for a clock, in the GUI thread, what others of the computer take away
    does not count; nor does what the thread waits for.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._beats: list[float] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self._beats.append(clock()))
        self._timer.start(round(BEAT_SECONDS * 1000))

    def silences(self) -> dict[str, float]:
        """Longest and 99th percentile in milliseconds since the last call."""
        gaps = 1000 * np.diff(self._beats[:-1])
        self._beats.clear()
        if not gaps.size:
            return {"longest_ms": 0.0, "p99_ms": 0.0}
        return {
            "longest_ms": round(float(gaps.max()), 1),
            "p99_ms": round(float(np.quantile(gaps, 0.99)), 1),
        }


def open_dock(pixels: Any, **settings: Any) -> tuple[Any, Any]:
    """Open a viewer with one image and the dock."""
    import napari

    from napari_dip.qt.task.task_dock import DenoiseDock

    viewer = napari.Viewer(show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    viewer.add_image(pixels, name="cells")
    dock = DenoiseDock(viewer)
    viewer.window.add_dock_widget(dock, name="Denoise", area="right")
    for name, value in settings.items():
        dock.form.widgets[name].value = value
    run_event_loop(1)
    return viewer, dock


def run_event_loop(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Run Qt's own event loop for a while: nothing of ours in between, as in a real session."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop, end = QEventLoop(), time.monotonic() + seconds
    watch = QTimer()
    watch.timeout.connect(lambda: loop.quit() if until() or time.monotonic() > end else None)
    watch.start(20)
    loop.exec()
    watch.stop()


def load_sample(side: int) -> Any:
    """Cut a corner out of the sample, or mirror it at its edges to make it larger."""
    from napari_dip.qt.demo import make_mitochondria_layers

    pixels = make_mitochondria_layers()[-1][0]
    more = max(0, side - len(pixels))
    return np.ascontiguousarray(np.pad(pixels, (0, more), mode="reflect")[:side, :side])


def measure_stalls(seconds: float = 20.0) -> Figures:
    """Measure silences of the GUI thread: torch's import, a run, its end, napari alone.

    napari collects garbage whenever a layer is removed, which takes the longer the more is
    loaded: so it is measured alone with torch loaded as well.
    """
    viewer, dock = open_dock(load_sample(SAMPLE_SIDE), max_iterations="100000")
    heart, figures = EventLoopMonitor(), {}
    run_event_loop(2)
    heart.silences()
    edit_layers(viewer)
    figures["napari alone, torch not loaded"] = heart.silences()
    dock.run_bar.run_button.click()
    run_event_loop(
        120, lambda: "Starting" not in dock.run_bar.message_label.text() and "torch" in sys.modules
    )
    figures["until torch is loaded"] = heart.silences()
    run_event_loop(seconds)
    figures["run"] = heart.silences()
    dock.run_bar.run_button.click()
    run_event_loop(30, lambda: not dock.is_busy)
    run_event_loop(0.5)
    figures["stop and result"] = heart.silences()
    edit_layers(viewer)
    figures["napari alone, torch loaded"] = alone = heart.silences()
    viewer.close()
    ours = max(figures[phase]["longest_ms"] for phase in ("run", "stop and result"))
    rows = [{"phase": phase, **silences} for phase, silences in figures.items()]
    return rows, {"longest_beyond_napari_ms": round(ours - alone["longest_ms"], 1)}


def edit_layers(viewer: Any) -> None:
    """Do to the layers what a run does to them, without one: add, update, add, remove."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(SAMPLE_SIDE, SAMPLE_SIDE)).astype(np.float32)
    preview = viewer.add_image(image, name="preview")
    for _ in range(10):
        run_event_loop(0.3)
        preview.data = image + np.float32(1)
    run_event_loop(0.3)
    result = viewer.add_image(image, name="result")
    for layer in (preview, result):
        run_event_loop(0.3)
        viewer.layers.remove(layer)
    run_event_loop(0.3)


def measure_latency(repeats: int = 3) -> Figures:
    """Measure how long the two ways to stop take, in a run that has made images already.

    `keep`: until the new layer is there; `ready`: until the dock can run again, after napari has
    drawn the layer and collected garbage for the preview; `discard`: until nothing computes.
    """
    rows = [row for side in LATENCY_SIDES for row in measure_latency_at(side, repeats)]
    summary = {
        f"longest_{what}_{side}": max(row[f"{what}_seconds"] for row in rows if row["side"] == side)
        for side in LATENCY_SIDES
        for what in ("keep", "ready", "discard")
    }
    return rows, summary


def measure_latency_at(side: int, repeats: int) -> list[dict[str, Any]]:
    """Measure it for images of one size."""
    from qtpy.QtCore import QThreadPool

    viewer, dock = open_dock(load_sample(side), max_iterations="100000")
    pool, bar = QThreadPool.globalInstance(), dock.run_bar
    rows = []
    for number in range(1, repeats + 1):
        keep = time_button(bar.run_button, dock, lambda n=number: len(result_names(viewer)) == n)
        run_event_loop(60, lambda: not dock.is_busy)
        done_after = time.perf_counter() - keep.pressed
        discard = time_button(
            bar.discard_button, dock, lambda: not dock.is_busy and pool.activeThreadCount() == 0
        )
        row = {"keep": keep.seconds, "ready": done_after, "discard": discard.seconds}
        rows.append({"side": side} | {f"{what}_seconds": round(row[what], 3) for what in row})
    if len(viewer.layers) != 1 + repeats:
        sys.exit(f"{repeats} runs were kept, but there are {len(viewer.layers) - 1} results.")
    viewer.close()
    return rows


class StopTiming(NamedTuple):
    """When a button was pressed, and how long it took to have its way."""

    pressed: float
    seconds: float


def time_button(button: Any, dock: Any, happened: Callable[[], bool]) -> StopTiming:
    """Start a run, let it be judged once, press a button and wait for what it promises."""
    dock.run_bar.run_button.click()
    run_event_loop(240, lambda: dock.validation_curve.point_count > 0)
    run_event_loop(1.5)
    pressed = time.perf_counter()
    button.click()
    run_event_loop(60, happened)
    return StopTiming(pressed, time.perf_counter() - pressed)


def result_names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers if "denoised" in layer.name]


def measure_growth() -> Figures:
    """Measure what stays of 20 runs with results removed, of 20 with results kept, and of napari.

    Each layer's controls in napari take some megabytes, with us or without us.
    """
    viewer, dock = open_dock(load_sample(64), preset="instant", max_iterations="3")
    image = load_sample(64).astype(np.float32)

    def run_once() -> None:
        dock.run_bar.run_button.click()
        run_event_loop(600, lambda: not dock.is_busy)
        run_event_loop(0.2)

    def run_and_remove() -> None:
        run_once()
        viewer.layers.remove(viewer.layers[-1])
        viewer.layers.selection.active = viewer.layers[0]
        run_event_loop(0.1)

    def only_add() -> None:
        viewer.add_image(image, name="other")
        run_event_loop(0.2)

    for _ in range(WARM_UP_RUNS):
        run_and_remove()
    rows = [
        {"what": what, "times": RUNS, **measure_remains(act)}
        for what, act in (
            ("runs, each result removed", run_and_remove),
            ("runs, each result kept", run_once),
            ("layers added by napari alone", only_add),
        )
    ]
    viewer.close()
    beyond = rows[1]["megabytes"] - rows[2]["megabytes"]
    return rows, {"kept_beyond_napari_megabytes": round(beyond, 1)}


def measure_remains(act: Callable[[], None]) -> dict[str, float]:
    """Do something 20 times; how much more memory, and how many more objects, there are."""
    before = count_objects()
    for _ in range(RUNS):
        act()
    after = count_objects()
    return {name: round(after[name] - before[name], 1) for name in after}


def count_objects() -> dict[str, float]:
    """Count megabytes, threads, running timers, and widgets that are shown and hidden."""
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    run_event_loop(0.5)
    gc.collect()
    process, widgets = psutil.Process(), QApplication.allWidgets()
    timers = {timer for widget in widgets for timer in widget.findChildren(QTimer)}
    return {
        "megabytes": process.memory_info().rss / 1e6,
        "threads": process.num_threads(),
        "timers": len(timers),
        "widgets": sum(not widget.isHidden() for widget in widgets),
        "hidden widgets": sum(widget.isHidden() for widget in widgets),
    }


if __name__ == "__main__":
    measures = {"stalls": measure_stalls, "latency": measure_latency, "growth": measure_growth}
    if len(sys.argv) != 2 or sys.argv[1] not in measures:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:  # the user's own settings play no part
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        figures = measures[sys.argv[1]]()
    rows, summary = figures
    write(f"gui_{sys.argv[1]}", rows, summary | {"load_of_the_machine_before": load})
