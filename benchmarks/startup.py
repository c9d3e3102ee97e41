"""Start-up times: of the dock, and from Run to the first preview.

    xvfb-run -a python benchmarks/startup.py [--times 5]

Each time a napari of its own is started, with the noisy single shot of the samples open. Timed are:
`dock`, from the entry of the plugin's menu to a dock that is drawn (torch must not be loaded by
then); `first run`, from pressing Run to the first preview, loading torch included; `warm run`, the
same once more in that napari. Wall time, and the processor time of the whole process beside it: on
a computer that is busy otherwise only the latter means anything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_data import write

if TYPE_CHECKING:
    from collections.abc import Callable

#: What is asked for, in seconds.
TARGETS = {"dock": 1.0, "warm run": 3.0}


def run_once() -> dict[str, float]:
    """Start napari and go through it all."""
    import napari
    from qtpy.QtCore import QEventLoop, QTimer

    from napari_dip.qt.demo import make_mitochondria_layers
    from napari_dip.qt.shell.napari_layers import is_preview

    def event_loop(seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        loop, end = QEventLoop(), time.monotonic() + seconds
        watch = QTimer()
        watch.timeout.connect(lambda: loop.quit() if until() or time.monotonic() > end else None)
        watch.start(5)
        loop.exec()
        watch.stop()

    took: dict[str, float] = {}

    def time_action(name: str, act: Callable[[], Any], until: Callable[[], bool]) -> Any:
        wall, spent = time.perf_counter(), time.process_time()
        answer = act()
        event_loop(600, until)
        took[name] = time.perf_counter() - wall
        took[f"{name}, CPU"] = time.process_time() - spent
        return answer

    viewer = napari.Viewer(show_welcome_screen=False)
    viewer.window.resize(1280, 720)
    viewer.add_image(make_mitochondria_layers()[-1][0], name="cells")
    event_loop(3)
    windows: list[Any] = []

    def open_dock() -> None:
        windows.append(viewer.window.add_plugin_dock_widget("napari-dip", "Denoise")[1])

    def drawn() -> bool:
        return windows[0].isVisible() and windows[0].run_bar.run_button.isVisible()

    time_action("dock", open_dock, drawn)
    assert "torch" not in sys.modules, "the dock has loaded torch"
    dock = windows[0]
    event_loop(1)
    for name in ("first run", "warm run"):
        press = dock.run_bar.run_button.click
        time_action(name, press, lambda: any(is_preview(layer) for layer in viewer.layers))
        dock.run_bar.discard_button.click()
        event_loop(60, lambda: not dock.is_busy)
        event_loop(0.5)
    viewer.close()
    return took


def main() -> None:
    """Do it as often as asked, each time in a process of its own."""
    if sys.argv[1:] == ["once"]:
        with tempfile.TemporaryDirectory() as folder:  # the user's own settings play no part
            os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
            print(json.dumps(run_once()))
        return
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--times", type=int, default=5)
    rows = []
    for number in range(1, ask.parse_args().scale + 1):
        ended = subprocess.run(
            [sys.executable, __file__, "once"], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append({"time": number, **json.loads(ended.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr, flush=True)
    medians = {f"{name}, median": float(np.median([row[name] for row in rows])) for name in TARGETS}
    targets = {f"{name}, asked for": seconds for name, seconds in TARGETS.items()}
    load = {"load of the machine": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
    write("startup", rows, medians | targets | load)


if __name__ == "__main__":
    main()
