"""Overhead of workers: time and bytes per task, CPU time of the scheduler, files per minute.

Usage: python benchmarks/cluster.py [overhead] [throughput] [--small | --large] [--again]

overhead     a real dask scheduler and two workers in processes of their own: tasks that do nothing,
             and files that are done already (header, plan, hashes), so that nothing is fitted
throughput   a batch by two workers that are there already, as dask starts them and with dask's
             looks at itself made rare (docs/cluster.md), and by two of its own (--workers 2),
             against two single processes at once with half the files each, all with one thread:
             files per minute with and without the start, and seconds of the processor, which tell
             more where other programs run beside it

The files are crops of single shots of FMD and W2S. Rows are written as they come and are not done
again; --again begins anew. Run it where two cores are idle: `make bench-cluster`.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import tifffile
from skimage.io import imread

import napari_dip as dip
from napari_dip.pipeline.progress import drain_generator
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from napari_dip.scale.cluster.dask_cluster import QUIET_DASK_CONFIG, join_cluster, run_on_worker
from napari_dip.scale.cluster.dispatcher import make_worker_job
from shared_data import OUT, data_folder, write

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = OUT / "cluster" / "rows.jsonl"
SHOTS = ("fmd/*_raw?.png", "w2s/*_noisy_avg1.png")
#: Tasks that do nothing, files, pixels along a side, iterations; the same for --small; and for
#: --large, with as many iterations as the preset has.
USUAL, SMALL, LARGE = (500, 32, 128, 60), (100, 6, 64, 20), (500, 12, 256, 250)
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["overhead", "throughput"])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--small", action="store_true", help="few small files")
    sizes.add_argument("--large", action="store_true", help="few files, the whole preset")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    options = parser.parse_args()
    ROWS.parent.mkdir(parents=True, exist_ok=True)
    if options.again:
        ROWS.unlink(missing_ok=True)
    size = SMALL if options.small else LARGE if options.large else USUAL
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_files(folder, *size[1:])
        for part in options.parts:
            for name, measure in PARTS[part].items():
                if (name, list(size)) not in [(row["what"], row["size"]) for row in read_rows()]:
                    row = {"what": name, "size": size, **measure(folder, size)}
                    with ROWS.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
    rows = [row for row in read_rows() if row["size"] == list(size)]
    heads = list(dict.fromkeys(head for row in rows for head in row if head != "size"))
    tasks, files, side, iterations = size
    summary = {
        "command": "make bench-cluster",
        "files": f"{files} of {side} x {side} pixels, {iterations} iterations, 1 thread",
        "empty tasks": tasks,
    }
    for variant in list(PARTS["throughput"])[1:]:
        for arguments, figure in RATIOS.items():
            summary[f"{variant} to single processes, {arguments}"] = compute_ratio(
                rows, variant, figure
            )
    write("cluster", [{head: row.get(head, "") for head in heads} for row in rows], summary)


def read_rows() -> list[dict[str, Any]]:
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def compute_ratio(rows: list[dict[str, Any]], variant: str, figure: str) -> float | str:
    """Set a way beside the single processes; of seconds, the fewer are the better."""
    figures_by_case = {row["what"]: row[figure] for row in rows if figure in row}
    ours, theirs = figures_by_case.get(variant), figures_by_case.get("two single processes")
    if not ours or not theirs:
        return "not measured"
    return round(theirs / ours if figure == "cpu_s_per_file" else ours / theirs, 3)


def write_files(folder: Path, count: int, side: int, iterations: int) -> None:
    """Cut the files out, in two halves."""
    paths = [path for shot in SHOTS for path in sorted(data_folder().glob(shot))]
    rng = np.random.default_rng(0)
    for number in range(count):
        image = imread(paths[number % len(paths)])
        y, x = (int(rng.integers(0, size - side)) for size in image.shape)
        place = folder / f"in{number % WORKERS}"
        place.mkdir(exist_ok=True)
        tifffile.imwrite(place / f"{number:03d}.tif", image[y : y + side, x : x + side])
    recipe = dip.make_recipe("denoise", preset="fast", device="cpu", max_iterations=iterations)
    (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")


@contextmanager
def start_cluster(
    folder: Path, settings: dict[str, Any] | None = None
) -> Iterator[tuple[str, psutil.Process, list[psutil.Process]]]:
    """Start a scheduler and workers with settings of dask's; give its file, and their processes."""
    settings = settings or {}
    place = folder / "scheduler.json"
    place.unlink(missing_ok=True)
    at = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(place))
    started = [start_dask(settings, "scheduler", "--port", "0", *at)]
    try:
        while not place.exists():
            time.sleep(0.1)
        started += [start_dask(settings, "worker", "--nthreads", "1", *at) for _ in range(WORKERS)]
        with join_cluster(str(place)) as crew:
            assert crew is not None
            crew.client.wait_for_workers(WORKERS)
            pids = crew.client.run(_pid).values()
        yield str(place), psutil.Process(started[0].pid), [psutil.Process(pid) for pid in pids]
    finally:
        for process in started:
            for child in (*psutil.Process(process.pid).children(recursive=True), process):
                child.kill()
            process.wait()


def measure_empty_tasks(folder: Path, size: tuple[int, ...]) -> dict[str, Any]:
    """Hand out tasks that do nothing, as many at once as there are workers."""
    with start_cluster(folder) as (place, scheduler, _), join_cluster(place) as crew:
        assert crew is not None
        client = crew.client
        client.submit(_nothing, -1, pure=False).result()
        before, sent, began = (
            measure_cpu(scheduler),
            count_connection_bytes(scheduler),
            time.monotonic(),
        )
        for number in range(0, size[0], WORKERS):
            client.gather([client.submit(_nothing, number + i, pure=False) for i in range(WORKERS)])
        seconds = time.monotonic() - began
        return {
            "ms_per_task": 1e3 * seconds / size[0] * WORKERS,
            "scheduler_cpu_ms_per_task": 1e3 * (measure_cpu(scheduler) - before) / size[0],
            "bytes_per_task": (count_connection_bytes(scheduler) - sent) / size[0],
        }


def measure_finished_files(folder: Path, size: tuple[int, ...]) -> dict[str, Any]:
    """Hand out files that are done, again and again."""
    out = folder / "done"
    inputs = [folder / f"in{half}" for half in range(WORKERS)]
    dip.batch(folder / "recipe.json", inputs, out, threads=1)
    with start_cluster(folder) as (place, scheduler, workers), join_cluster(place) as crew:
        assert crew is not None
        options = {"resume": True, "threads": 1, "machine": crew.machine}
        plan = plan_batch(folder / "recipe.json", inputs, out, **options)
        unit = make_worker_job(plan, 1, "session", crew.root)
        answer = crew.client.submit(run_on_worker, unit, pure=False).result()
        drain_generator(run_batch(plan, pool=crew))
        times = max(1, size[0] // len(plan.jobs))
        before, sent, began = (
            measure_cpu(scheduler),
            count_connection_bytes(scheduler),
            time.monotonic(),
        )
        for _ in range(times):
            drain_generator(run_batch(plan, pool=crew))
        seconds, count = time.monotonic() - began, times * len(plan.jobs)
        return {
            "ms_per_task": 1e3 * seconds / count * WORKERS,
            "scheduler_cpu_ms_per_task": 1e3 * (measure_cpu(scheduler) - before) / count,
            "bytes_per_task": (count_connection_bytes(scheduler) - sent) / count,
            "bytes_of_unit": len(pickle.dumps(unit)),
            "bytes_of_answer": len(pickle.dumps(answer)),
            "scheduler_mb": scheduler.memory_info().rss / 1e6,
            "worker_mb": max(worker.memory_info().rss for worker in workers) / 1e6,
        }


def measure_workers(folder: Path, size: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    """Restore all files by two workers."""
    out = folder / ("by_quiet_workers" if settings else "by_workers")
    with start_cluster(folder, settings) as (place, scheduler, workers):
        before = measure_cpu(scheduler) + sum(map(measure_cpu, workers))
        alone = measure_cpu(scheduler)
        times = time_commands(
            [[folder / "in0", folder / "in1", "-o", out, "--scheduler", place]], folder
        )
        times["cpu_s"] += measure_cpu(scheduler) + sum(map(measure_cpu, workers)) - before
        return {
            **compute_throughput(times, [out]),
            "scheduler_cpu_ms_per_task": 1e3 * (measure_cpu(scheduler) - alone) / size[1],
            "worker_mb": max(worker.memory_info().rss for worker in workers) / 1e6,
        }


def measure_own_workers(folder: Path, size: tuple[int, ...]) -> dict[str, Any]:
    """Restore all files by two workers that are started for it."""
    out = folder / "by_its_own"
    times = time_commands(
        [[folder / "in0", folder / "in1", "-o", out, "--workers", WORKERS]], folder
    )
    return compute_throughput(times, [out])


def measure_processes(folder: Path, size: tuple[int, ...]) -> dict[str, Any]:
    """Restore half the files each by two processes at once that know nothing of each other."""
    outs = [folder / f"alone{half}" for half in range(WORKERS)]
    halves = [[folder / f"in{half}", "-o", out] for half, out in enumerate(outs)]
    return compute_throughput(time_commands(halves, folder), outs)


PARTS = {
    "overhead": {"empty tasks": measure_empty_tasks, "files that are done": measure_finished_files},
    "throughput": {
        "two single processes": measure_processes,
        "two workers": measure_workers,
        "two workers, rare looks": partial(measure_workers, **QUIET_DASK_CONFIG),
        "two workers of its own": measure_own_workers,
    },
}
#: What is set beside the single processes.
RATIOS = {
    "with the start": "files_per_minute",
    "running": "files_per_minute_running",
    "by seconds of the processor": "cpu_s_per_file",
}


def time_commands(commands: list[list[Any]], folder: Path) -> dict[str, float]:
    """Run batches at once; seconds on the clock and of the processor."""
    began, wall = time.monotonic(), time.time()
    running = []
    for argv in commands:
        line = [sys.executable, "-m", "napari_dip", "batch", folder / "recipe.json", *argv]
        running.append(subprocess.Popen([*map(str, line), "--threads", "1", "--quiet"]))
    spent = [0.0] * len(running)
    while any(process.poll() is None for process in running):
        for place, process in enumerate(running):
            if process.poll() is None:
                spent[place] = max(spent[place], measure_tree_cpu(process.pid))
        time.sleep(0.05)
    if any(process.returncode for process in running):
        raise SystemExit("A batch did not end well.")
    return {"s": time.monotonic() - began, "began": wall, "cpu_s": sum(spent)}


def compute_throughput(times: dict[str, float], outs: list[Path]) -> dict[str, float]:
    """Files per minute, from the start on and from the first result on."""
    ends = sorted(path.stat().st_mtime for out in outs for path in out.glob("records/*.json"))
    running = (len(ends) - 1) / (ends[-1] - ends[0])
    return {
        "files_per_minute": 60 * len(ends) / times["s"],
        "files_per_minute_running": 60 * running,
        "cpu_s_per_file": times["cpu_s"] / len(ends),
    }


def measure_tree_cpu(pid: int) -> float:
    """Seconds of the processor of a process and of those that it started and that run still."""
    with suppress(psutil.NoSuchProcess):  # one that ends meanwhile is counted as it was before
        whole = psutil.Process(pid)
        return sum(map(measure_cpu, (whole, *whole.children(recursive=True))))
    return 0.0


def measure_cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def count_connection_bytes(process: psutil.Process) -> int:
    """Bytes that went through a process's connections that are open now; 0 where `ss` is missing.

    Both ends lie on this computer, so that what the process sent and received is all there was.
    """
    if shutil.which("ss") is None:
        return 0
    listing = subprocess.run(["ss", "-tinpH"], capture_output=True, text=True, check=True).stdout
    lines = listing.splitlines()
    total = 0
    for head, facts in pairwise(lines):
        if f"pid={process.pid}," in head:
            total += sum(map(int, re.findall(r"bytes_(?:sent|received):(\d+)", facts)))
    return total


def start_dask(settings: dict[str, Any], *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process of dask's; its settings are told as docs/cluster.md says."""
    environment = {
        "DASK_" + name.replace(".", "__").replace("-", "_").upper(): str(value)
        for name, value in settings.items()
    }
    quiet, env = subprocess.DEVNULL, os.environ | environment
    line = [sys.executable, "-m", "dask", *arguments]
    return subprocess.Popen(line, stdout=quiet, stderr=quiet, env=env)


def _nothing(number: int) -> int:
    return number


def _pid() -> int:
    import os

    return os.getpid()


if __name__ == "__main__":
    main()
