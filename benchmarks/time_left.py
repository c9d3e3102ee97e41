"""Accuracy of the predicted remaining time, in six kinds of runs.

Usage: python benchmarks/time_left.py [--only KIND ...] [--repeats N] [--wall] [--again]

one image    the sample of the package, 320 x 320 pixels
independent  a movie of eight frames, a network for each
joint        a movie of eight frames with one network
tiles        an image of 448 x 448 pixels in nine tiles
batch        twelve files of two sizes, one after another
cluster      twelve files of two sizes, by two workers

Every report of a run says how many seconds are left. Those from a fifth of the run on are compared
with the seconds that came; a report that says nothing counts as wrong. Runs end by themselves, so
early stops are among them. All fits have one thread. Time is that of the processor, for a computer
that is busy otherwise; with --wall, and always for workers in other processes, it is that of the
clock. Rows are written as they come and are not measured again; --again begins anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_dip.pipeline import progress as progress_module
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.progress import FINISHED
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from napari_dip.scale.cluster.dask_cluster import start_workers
from shared_data import OUT, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from napari_dip.pipeline.progress import Progress

ROWS = OUT / "time_left" / "rows.jsonl"
#: Share of a run from which on reports count, the factor within which they are right, and the
#: seconds below which a difference is none: the interfaces round up to whole seconds.
FIRST_FRACTION, FACTOR, RESOLUTION = 0.2, 1.5, 1.0
#: Seconds between previews, as in the dock.
PREVIEWS = 0.2
#: Files of a batch, and workers of a cluster.
FILES, WORKERS = 12, 2
KINDS: dict[str, dict[str, Any]] = {
    "one image": {"max_iterations": 300},
    "independent": {"max_iterations": 100, "series_training": "independent"},
    "joint": {"max_iterations": 500, "series_training": "joint"},
    "tiles": {"max_iterations": 200, "tile": 192},
    "batch": {"max_iterations": 80},
    "cluster": {"max_iterations": 80},
}


def main() -> None:
    """Measure what is asked for, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="measure the time of the clock")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    options = parser.parse_args()
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    if options.again:
        ROWS.write_text(
            "".join(
                json.dumps(row) + "\n" for row in read_rows() if row["kind"] not in options.only
            )
        )
    for kind in options.only:
        now = time.monotonic if options.wall or kind == "cluster" else time.process_time
        progress_module.time = SimpleNamespace(monotonic=now)  # type: ignore[assignment]
        for repeat in range(options.repeats):
            if (kind, repeat) not in [(row["kind"], row["repeat"]) for row in read_rows()]:
                row = {"kind": kind, "repeat": repeat, **measure(kind, repeat, now)}
                with ROWS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    write("time_left", list(make_table()), {"first_share": FIRST_FRACTION, "factor": FACTOR})


def read_rows() -> list[dict[str, Any]]:
    """Read the rows that were measured."""
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.exists() else []
    return [json.loads(line) for line in lines]


def make_table() -> Iterator[dict[str, Any]]:
    """Make a row for each kind, from the reports of all its runs."""
    for kind in KINDS:
        runs = [row for row in read_rows() if row["kind"] == kind]
        reports = [report for row in runs for report in row["reports"]]
        if reports:
            seconds = [row["seconds"] for row in runs]
            shares = [np.mean([is_right(*report) for report in row["reports"]]) for row in runs]
            ratios = [said / max(came, 1e-3) for said, came in reports if said is not None]
            yield {
                "kind": kind,
                "clock": runs[0]["clock"],
                "seconds": ", ".join(f"{value:.0f}" for value in seconds),
                "reports": len(reports),
                "right": f"{np.mean([is_right(*report) for report in reports]):.0%}",
                "of each run": ", ".join(f"{share:.0%}" for share in shares),
                "by the factor alone": f"{np.mean([is_right(*r, 0.0) for r in reports]):.0%}",
                "said by came, median": round(median(ratios), 2),
            }


def is_right(said: float | None, came: float, resolution: float = RESOLUTION) -> bool:
    """Return whether a report was right within the factor, or within what is shown."""
    if said is None:
        return False
    return abs(said - came) < resolution or 1 / FACTOR <= said / max(came, 1e-3) <= FACTOR


def measure(kind: str, repeat: int, now: Callable[[], float]) -> dict[str, Any]:
    """Do one run, and compare what its reports said with what came."""
    with tempfile.TemporaryDirectory() as scratch:
        began = now()
        steps = RUNS[kind](KINDS[kind], repeat, Path(scratch))
        heard, seconds = [], 0.0
        for progress in steps:  # the last one comes when the result is there
            seconds = now() - began
            heard.append((seconds, progress.seconds_left))
    reports = [
        (None if said is None else round(said, 2), round(seconds - at, 2))
        for at, said in heard[:-1]
        if at >= FIRST_FRACTION * seconds
    ]
    right = np.mean([is_right(*report) for report in reports])
    print(f"{kind}, {seconds:.0f} s, {len(reports)} reports, {right:.0%} right", flush=True)
    return {"clock": now.__name__, "seconds": round(seconds, 1), "reports": reports}


def _run_one(
    image: np.ndarray[Any, Any], axes: str, settings: dict[str, Any]
) -> Iterator[Progress]:
    recipe = make_recipe("denoise", preset="fast", **settings)
    header = open_input("image", image, axes)[0]
    plan = preflight(recipe, header, dataclasses.replace(detect_machine(), cores=1))
    assert isinstance(plan, Plan)
    for event in run(plan, {"image": image}, preview_seconds=PREVIEWS):
        yield event.progress
    yield FINISHED


def _shot(side: int, number: int) -> npt.NDArray[np.uint16]:
    """Cut a part out of the sample, enlarged by reflection, and add noise."""
    rng = np.random.default_rng(number)
    image = tifffile.imread(MITOCHONDRIA)[0].astype(np.float64)
    image = np.pad(image, (0, max(0, side - len(image))), mode="reflect")
    start = rng.integers(0, len(image) - side + 1, 2)
    crop = image[start[0] : start[0] + side, start[1] : start[1] + side]
    return rng.poisson(np.clip(crop, 0, None)).astype(np.uint16)


def run_image(settings: dict[str, Any], repeat: int, _: Path) -> Iterator[Progress]:
    """Restore one image."""
    yield from _run_one(_shot(320, repeat), "YX", settings)


def run_movie(settings: dict[str, Any], repeat: int, _: Path) -> Iterator[Progress]:
    """Restore a movie of eight frames."""
    frames = np.stack([_shot(144, 10 * repeat + frame) for frame in range(8)])
    yield from _run_one(frames, "TYX", settings)


def run_tiles(settings: dict[str, Any], repeat: int, _: Path) -> Iterator[Progress]:
    """Restore one image in tiles."""
    yield from _run_one(_shot(448, repeat), "YX", settings)


def run_folder(settings: dict[str, Any], repeat: int, folder: Path) -> Iterator[Progress]:
    """Restore twelve files of two sizes, one after another."""
    yield from _run_batch(settings, repeat, folder, workers=0)


def run_cluster(settings: dict[str, Any], repeat: int, folder: Path) -> Iterator[Progress]:
    """Restore twelve files of two sizes by two workers."""
    yield from _run_batch(settings, repeat, folder, workers=WORKERS)


def _run_batch(
    settings: dict[str, Any], repeat: int, folder: Path, workers: int
) -> Iterator[Progress]:
    (folder / "in").mkdir()
    for number in range(FILES):
        side = (128, 192)[number % 2]
        tifffile.imwrite(folder / "in" / f"{number}.tif", _shot(side, 10 * repeat + number))
    recipe = make_recipe("denoise", preset="fast", **settings)
    plan = plan_batch(
        recipe, folder / "in", folder / "out", process_count=max(1, workers), threads=1
    )
    with start_workers(plan, workers) as pool:
        for event in run_batch(plan, pool=pool):
            yield event.progress
        yield FINISHED


RUNS = {
    "one image": run_image,
    "independent": run_movie,
    "joint": run_movie,
    "tiles": run_tiles,
    "batch": run_folder,
    "cluster": run_cluster,
}


if __name__ == "__main__":
    main()
