"""Our presets and what others have, on the same pictures, one file for each result; resumable.

Usage: python benchmarks/quality.py [--small] [--sets fmd hagen] [--methods input vst_bm3d]
       [--presets fast balanced best] [--only fmd/Confocal_BPAE_B_raw1] [--captures 1] [--table]
Presets run as `napari-dip denoise` in a process of its own, told nothing but the file, start-up
included; the others run here. A result that is there is not computed again, unless its settings
or its pixels are not the same. `--methods` or `--presets` with nothing behind it leaves them out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import tifffile

from baselines import METHODS
from quality_method import Method, Output
from quality_sets import (
    SETS,
    SMALL,
    Case,
    Picture,
    fingerprint,
    given_file,
    interval_coverage,
    judged,
)
from quality_tables import write_tables
from reference_dip import REFERENCE
from shared_data import OUT, ROOT, machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = OUT / "quality"
PRESETS = ("fast", "balanced", "best")
BASELINES = {**METHODS, "reference_dip": REFERENCE}
#: What `--small` takes: without the fits of an hour each, and without the longest preset.
SMALL_PRESETS = ("fast",)
SMALL_METHODS = ("input", "vst_bm3d", "bm3d", "nlm", "tv", "published_dip")


def preset(name: str) -> Method:
    """Run one of our presets through the installed command."""

    def run(case: Case, noisy: Picture, truth: Picture) -> Output:
        target = FOLDER / case.group / f"{case.name}.{name}.tif"
        report = target.with_suffix(".report.json")
        uncertainty = target.with_suffix(".uncertainty.tif")
        command = [sys.executable, "-m", "napari_dip", "denoise", given_file(case, noisy)]
        command += ["-o", target, "--preset", name, "--report", report]
        command += ["--uncertainty", uncertainty, "--overwrite", "--quiet"]
        subprocess.run(list(map(str, command)), check=True)
        record = json.loads(report.read_text(encoding="utf-8"))
        kept = ("iterations", "best_iteration", "stop_reason", "noise", "prior")
        image = tifffile.imread(target)
        covered = interval_coverage(case, image, tifffile.imread(uncertainty), truth)
        return Output(image, {**{key: record.get(key) for key in kept}, "inside_90": covered})

    return Method(f"napari-dip {name}", run, settings=lambda case, noisy: preset_settings(name))


def preset_settings(name: str) -> dict[str, Any]:
    """Name, version and budget. The code's own state is noted in the result, but not compared."""
    import napari_dip

    fit_configs = ROOT / "src" / "napari_dip" / "pipeline" / "plan" / "presets" / "denoise.json"
    config = json.loads(fit_configs.read_text(encoding="utf-8"))
    fit_config = {
        prior: entry.get(name) for prior, entry in config.items() if isinstance(entry, dict)
    }
    return {"preset": name, "version": napari_dip.__version__, "budget": fit_config}


def code_state() -> str:
    """Tell states of our code apart: a hash of what a fit is made of."""
    parts = [ROOT / "src" / "napari_dip" / part for part in ("engine", "tasks", "pipeline")]
    files = sorted(path for part in parts for path in part.rglob("*") if path.is_file())
    contents = (path.read_bytes() for path in files if path.suffix in {".py", ".json"})
    return sha256(b"".join(contents)).hexdigest()[:12]


def settings_hash(method: str, settings: dict[str, Any], noisy: Picture) -> str:
    """Hash what a result depends on."""
    packages = [f"bm3d {_version('bm3d')}"] if "bm3d" in method else []
    text = json.dumps(
        [method, settings, fingerprint(noisy), packages], sort_keys=True, default=list
    )
    return sha256(text.encode()).hexdigest()[:16]


def result(case: Case, name: str, method: Method, folder: Path = FOLDER) -> dict[str, Any]:
    """Read one result, or make it."""
    noisy, truth = case.load()
    settings = method.settings(case, noisy)
    made_from = settings_hash(name, settings, noisy)
    path = folder / case.group / f"{case.name}.{name}.json"
    if path.exists():
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if row["made_from"] == made_from:
            return row
    path.parent.mkdir(parents=True, exist_ok=True)
    started, spent = time.monotonic(), cpu_seconds()
    output = method.run(case, noisy, truth)
    row = {
        "set": case.group,
        "image": case.name,
        "method": name,
        "title": method.title,
        **judged(case, output.image, truth),
        "seconds": time.monotonic() - started,
        "cpu_seconds": cpu_seconds() - spent,
        "settings": settings,
        "notes": output.notes,
        "made_from": made_from,
        "code": code_state(),
        "machine": machine(),
    }
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(row, indent=1, default=list) + "\n", encoding="utf-8")
    partial.replace(path)  # a run that is cut off leaves no half a result
    return row


def cpu_seconds() -> float:
    """Processor time of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def chosen_cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield what the options leave of the sets, in order."""
    for group in options.sets:
        cases = [case for case in SETS[group]() if _wanted(case, options)]
        yield from cases[: options.limit]


def _wanted(case: Case, options: argparse.Namespace) -> bool:
    only = SMALL if options.small and not options.only else options.only
    if only and not any(case.key == name or case.group == name for name in only):
        return False
    if options.captures and case.group == "fmd":
        return case.name.endswith(tuple(f"raw{capture}" for capture in options.captures))
    return True


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="*", choices=BASELINES)
    parser.add_argument("--presets", nargs="*", choices=PRESETS)
    parser.add_argument("--only", nargs="+", metavar="SET/IMAGE")
    parser.add_argument("--limit", type=int, metavar="PER_SET")
    parser.add_argument("--captures", nargs="+", type=int, help="of each FMD field")
    parser.add_argument("--small", action="store_true", help=", ".join(SMALL))
    parser.add_argument("--jobs", type=int, default=1, help="results made at a time")
    parser.add_argument("--table", action="store_true", help="write the tables of what is there")
    chosen_options = parser.parse_args(argv)
    if chosen_options.presets is None:
        chosen_options.presets = SMALL_PRESETS if chosen_options.small else PRESETS
    if chosen_options.methods is None:
        chosen_options.methods = SMALL_METHODS if chosen_options.small else tuple(BASELINES)
    return chosen_options


def _work(key: tuple[str, str], name: str) -> str:
    """Make one result, known by names, so that another process can."""
    group, image = key
    case = next(case for case in SETS[group]() if case.name == image)
    method = BASELINES[name] if name in BASELINES else preset(name)
    row = result(case, name, method)
    return f"{case.key} {name} {row['psnr']:.2f} dB {row['cpu_seconds']:.1f} CPU s"


def run_jobs(work: list[tuple[tuple[str, str], str]], jobs: int) -> Iterator[str]:
    keys, names = [key for key, _ in work], [name for _, name in work]
    if jobs == 1:
        yield from map(_work, keys, names)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            yield from pool.map(_work, keys, names)


def main() -> None:
    """Make what is missing, method by method, and write the tables."""
    chosen_options = options()
    if not chosen_options.table:
        work = [
            ((case.group, case.name), name)
            for name in (*chosen_options.methods, *chosen_options.presets)
            for case in chosen_cases(chosen_options)
            if name in PRESETS or BASELINES[name].applies(case)
        ]
        for number, line in enumerate(run_jobs(work, chosen_options.jobs), 1):
            print(f"{number} of {len(work)}: {line}", file=sys.stderr, flush=True)
    print(write_tables(FOLDER, list(SETS), [*BASELINES, *PRESETS]))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise SystemExit(
            f"The package '{package}' is not installed. `make bench-quality` installs it."
        ) from None


if __name__ == "__main__":
    main()
