"""Quality against CPU seconds of presets, baselines and the reference network; resumable.

Usage: python benchmarks/speed.py [--only NAME ...] [--methods NAME ...] [--minutes N] [--table]
Each result is made in a process of its own, on one thread, import left out; one that is there is
not made again, and a reference fit that was cut off goes on where it was. `--minutes` begins
nothing new after so many CPU minutes, so that the queue can be worked off in parts.

The reference is the network and the schedule of Deep Image Prior (speed_reference.py). Where a
processor is made for bfloat16 its curve is computed in that, sooner; its time is that of a step in
float32, as published, times the step of its best image.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from shared_data import OUT, machine
from speed_cases import Case, list_cases
from speed_tables import write_tables

FOLDER = OUT / "speed"
DENOISING = ("micrograph", "photograph")
#: Methods in the order of the queue, each for which kinds of images.
METHODS: dict[str, tuple[str, ...]] = {
    "fast": (*DENOISING, "inpaint", "super-resolve"),
    "step": (),  # one of each kind is enough; see `is_applicable`
    "nlm": DENOISING,
    "tv": DENOISING,
    "vst_bm3d": ("micrograph",),
    "bm3d": ("photograph",),
    "balanced": ("photograph", "inpaint", "super-resolve"),
    "reference": (*DENOISING, "inpaint", "super-resolve"),
    "deepinv": (),
}
#: Methods that are the same for all images of a kind.
ONE_EACH = ("step", "deepinv")


def is_applicable(case: Case, method: str, firsts: dict[str, str]) -> bool:
    """Whether a method is for an image."""
    if method in ONE_EACH:
        denoises = case.kind in DENOISING or method == "step"
        return firsts[case.kind] == case.name and denoises
    return case.kind in METHODS[method]


def list_jobs() -> list[tuple[Case, str]]:
    """All there is to do, what is short first, then reference fits, one of each kind first."""
    every = list(list_cases())
    firsts: dict[str, str] = {}
    for case in every:
        firsts.setdefault(case.kind, case.name)
    work = [
        (case, method)
        for method in METHODS
        for case in every
        if is_applicable(case, method, firsts)
    ]
    later = ("reference", "deepinv")

    def rank(job: tuple[Case, str]) -> tuple[int, int]:
        case, method = job
        place = [other.name for other in every if other.kind == case.kind].index(case.name)
        return (method in later, place if method in later else 0)

    return sorted(work, key=rank)


def run_job(case: Case, method: str) -> dict[str, Any]:
    """Make one result in this process."""
    import torch

    import speed_methods

    torch.set_num_threads(1)
    problem = case.load()
    if method in ("fast", "balanced", "best"):
        return speed_methods.run_preset(problem, method)
    if method == "deepinv":
        return speed_methods.run_deepinv(problem)
    if method not in ("step", "reference"):
        return speed_methods.make_method(method)(problem)
    import speed_reference

    if method == "step":
        return {**speed_methods.measure_reference(problem), **speed_reference.time_steps(problem)}
    return speed_reference.measure_curve(problem, FOLDER / f"{case.name}.copy.pt")


def read_or_run(case: Case, method: str) -> dict[str, Any] | None:
    """Read one result, or make it in a process of its own; None if that failed."""
    path = FOLDER / f"{case.name}.{method}.json"
    if path.exists():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record
    command = [sys.executable, __file__, "one", case.name, method]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        print(f"{case.name} {method}: failed", file=sys.stderr, flush=True)
        return None
    printed = json.loads(ended.stdout.splitlines()[-1])
    row = {"case": case.name, "kind": case.kind, "method": method, **printed, "machine": machine()}
    path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    summary = {key: value for key, value in printed.items() if key not in ("curve", "history")}
    print(f"{case.name} {method}: {summary}", file=sys.stderr, flush=True)
    return row


def main() -> None:
    """Work the queue off, and write the tables of what is there."""
    if sys.argv[1:2] == ["one"]:
        case = next(case for case in list_cases() if case.name == sys.argv[2])
        print(json.dumps(run_job(case, sys.argv[3])))
        return
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", nargs="+", metavar="NAME")
    ask.add_argument("--methods", nargs="+", choices=METHODS)
    ask.add_argument("--minutes", type=float, default=float("inf"))
    ask.add_argument("--table", action="store_true", help="write the tables of what is there")
    options = ask.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for case, method in () if options.table else list_jobs():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if (used.ru_utime + used.ru_stime) / 60 > options.minutes:
            break
        chosen = options.only is None or any(text in case.name for text in options.only)
        if not chosen or (options.methods is not None and method not in options.methods):
            continue
        if method == "deepinv" and find_spec("deepinv") is None:
            print("deepinv is not installed, and is left out.", file=sys.stderr)
            continue
        read_or_run(case, method)
    write_tables(FOLDER)


if __name__ == "__main__":
    main()
