"""CPU time of a run within napari, against the same run without it.

    xvfb-run -a python benchmarks/overhead_napari.py [--pairs 10] [--side 256] [--iterations 100]

One napari with its dock; in turns, the dock's Run with its previews, curve and result layer, and
the same plan drained without any. Processor time of the whole process: drawing by software counts,
which a graphics card does elsewhere.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gui import load_sample, open_dock, run_event_loop
from shared_data import write


def main() -> None:
    """Time in turns and write the median."""
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import drain_generator
    from napari_dip.pipeline.recipe import make_recipe

    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--pairs", type=int, default=10)
    ask.add_argument("--side", type=int, default=256)
    ask.add_argument("--iterations", type=int, help="left out: all that the preset has")
    options = ask.parse_args()
    pixels = load_sample(options.side)
    viewer, dock = open_dock(pixels, preset="fast", max_iterations=str(options.iterations or ""))
    recipe = make_recipe("denoise", preset="fast", max_iterations=options.iterations)
    plan = preflight(
        recipe,
        ImageHeader(name="cells", shape=pixels.shape, dtype=str(pixels.dtype), axes="YX"),
        detect_machine(),
    )
    assert isinstance(plan, Plan)

    def time_in_napari() -> float:
        began = time.process_time()
        dock.run_bar.run_button.click()
        run_event_loop(900, lambda: not dock.is_busy)
        took = time.process_time() - began
        viewer.layers.remove(viewer.layers[-1])
        run_event_loop(0.5)
        return took

    def time_alone() -> float:
        began = time.process_time()
        drain_generator(run(plan, {"image": pixels}))
        return time.process_time() - began

    rows = []
    for pair in range(options.pairs + 1):  # the first loads torch and is left out
        row = {"pair": pair, "inside napari": time_in_napari(), "bare": time_alone()}
        row["inside by bare"] = row["inside napari"] / row["bare"]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    viewer.close()
    ratio = float(np.median([row["inside by bare"] for row in rows[1:]]))
    summary = {"inside by bare, median": ratio, "asked for": 1.05}
    write(f"overhead_napari_{options.side}", rows[1:], summary)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # the user's own settings play no part
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        main()
