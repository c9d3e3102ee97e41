"""Slope and delay of traces of regions, against the truth: of filters, and of restored movies.

Usage: python benchmarks/traces.py [filters] [restored] [--sides 8 16 32] [--preset instant]

Made movies of nine cells of 8 to 13 pixels, 64 frames of 64 x 64 pixels. Transients rise within a
frame and fall within six; cells at rest have 5 or 20 photons a pixel. The truth of slope and delay
is that of the same traces without noise. A wrong result is one whose true slope is off by more than
0.1, or whose true delay is more than 0.1 frames; a good one has half of both at most.

filters    what a bad restoration may do: smooth over time, look back, lose a fifth of the change;
           and what must not be suspected: the truth, the input, half of its noise. Eight movies.
restored   by the program, with and without temporal smoothing, also a real movie, whose truth is
           not known.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter, gaussian_filter1d

import napari_dip as dip
from napari_dip.pipeline.assess.quality_checks import list_trace_notes
from napari_dip.pipeline.assess.traces import average_regions, compare_traces
from shared_data import data_folder, write

if TYPE_CHECKING:
    import numpy.typing as npt

    Movie = npt.NDArray[np.float64]

FRAMES, SIDE, CELLS_PER_SIDE = 64, 64, 3
PHOTONS, SEEDS = (5, 20), 8
#: Rate of transients per frame, their range of heights in units of rest, and frames of their fall.
RATE, HEIGHTS, DECAY = 0.03, (0.4, 1.5), 6.0
#: Wrong by more than these is wrong.
WRONG_SLOPE, WRONG_DELAY = 0.1, 0.1


def make_movie(photons: int, seed: int) -> tuple[Movie, Movie, Any]:
    """Return light, photons, and labels of the cells."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    ground = (0.4 + 4 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), 8)).clip(0.2, 0.8)
    light, labels = np.repeat(ground[None], FRAMES, 0), np.zeros((SIDE, SIDE), int)
    time_after = np.arange(40 + FRAMES)
    transient = np.exp(-time_after / DECAY) * (1 - np.exp(-(time_after + 1.0)))
    for cell in range(CELLS_PER_SIDE**2):
        place = (np.array(divmod(cell, CELLS_PER_SIDE)) + 0.5) * SIDE / CELLS_PER_SIDE
        row, column = place + rng.uniform(-3, 3, 2)
        radius, stretch, angle = rng.uniform(4, 6.5), rng.uniform(0.8, 1.25), rng.uniform(0, np.pi)
        along = (y - row) * np.cos(angle) + (x - column) * np.sin(angle)
        across = (x - column) * np.cos(angle) - (y - row) * np.sin(angle)
        shape = 1 / (1 + np.exp((np.hypot(along / stretch, across * stretch) - radius) / 0.6))
        texture = 1 + 0.45 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.5)
        events = (rng.random(40 + FRAMES) < RATE) * rng.uniform(*HEIGHTS, 40 + FRAMES)
        trace = np.convolve(events, transient / transient.max())[40 : 40 + FRAMES]
        light += 0.7 * shape * texture * (1 + trace[:, None, None])
        labels[shape > 0.5] = cell + 1
    light *= photons
    return light, rng.poisson(light).astype(np.float64), labels


def look_back(movie: Movie, weight: float) -> Movie:
    """Average each frame with the filtered one before."""
    filtered = movie.copy()
    for frame in range(1, len(movie)):
        filtered[frame] = weight * movie[frame] + (1 - weight) * filtered[frame - 1]
    return filtered


def filter_movie(light: Movie, noisy: Movie) -> dict[str, Movie]:
    """Return what restorations may do, good and bad."""
    rest = light.mean(0)
    return {
        "the truth": light,
        "the input": noisy,
        "half of the noise": (light + noisy) / 2,
        "Gaussian over time, 1 frame": gaussian_filter1d(noisy, 1, axis=0),
        "Gaussian over time, 2 frames": gaussian_filter1d(noisy, 2, axis=0),
        "truth, Gaussian over time, 2 frames": gaussian_filter1d(light, 2, axis=0),
        "truth, four fifths of the change": rest + 0.8 * (light - rest),
        "looks back, weight 0.7": look_back(noisy, 0.7),
        "looks back, weight 0.5": look_back(noisy, 0.5),
        "truth, looks back, weight 0.5": look_back(light, 0.5),
        "truth, one frame late": np.roll(light, 1, 0),
    }


def make_grid(side: int) -> Any:
    """Return labels of a grid of square regions."""
    rows = np.arange(SIDE) // side
    return 1 + rows[:, None] * (SIDE // side) + rows


def measure(light: Movie, noisy: Movie, restored: Movie, regions: Any) -> dict[str, Any]:
    """Compare what is measured with the truth."""
    (measured, counts), (result, _), (truth, _) = (
        average_regions(movie, "TYX", regions) for movie in (noisy, restored, light)
    )
    variance = (measured.mean(0) / counts)[0]
    traces = measured[:, 0], result[:, 0]
    estimate, codes = compare_traces(*traces, variance), []
    if estimate is None:
        return {}
    codes = [note.code for note in list_trace_notes(estimate)]
    centred = measured[:, 0] - measured[:, 0].mean(0)
    tells = (centred**2).mean(0) > 4 * variance
    true = compare_traces(truth[:, 0, tells], result[:, 0, tells], 1e-6 * variance[tells])
    assert true is not None
    return {
        "regions": estimate.region_count,
        "true slope": true.slope,
        "slope": estimate.slope,
        "its error": estimate.slope_uncertainty,
        "true delay": true.delay,
        "delay": estimate.delay,
        "its error ": estimate.delay_uncertainty,
        "true change": max(abs(true.slope - 1) / WRONG_SLOPE, abs(true.delay) / WRONG_DELAY),
        "flagged": not {"traces-scaled", "traces-late"}.isdisjoint(codes),
    }


def average_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over movies, with the greatest deviation in its own errors."""
    rows = [row for row in rows if row]
    if not rows:
        return {}
    deviations = [abs(row["slope"] - row["true slope"]) / row["its error"] for row in rows]
    delays = [abs(row["delay"] - row["true delay"]) / row["its error "] for row in rows]
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return means | {"errors off, slope": max(deviations), "errors off, delay": max(delays)}


def run_filters(sides: list[int]) -> None:
    """Write the table of filters."""
    rows: list[dict[str, Any]] = []
    cases: list[dict[str, Any]] = []
    for photons in PHOTONS:
        movies = [make_movie(photons, seed) for seed in range(SEEDS)]
        filtered = [filter_movie(light, noisy) for light, noisy, _ in movies]
        for side in (*sides, 0):
            for name in filtered[0]:
                each = [
                    measure(*movie[:2], results[name], make_grid(side) if side else movie[2])
                    for movie, results in zip(movies, filtered, strict=True)
                ]
                cases += [row | {"side": side} for row in each if row]
                regions = f"{side} pixels" if side else "cells"
                head = {"photons": photons, "regions of": regions, "result": name}
                if means := average_rows(each):
                    rows.append(head | means)
    summary: dict[str, Any] = {
        f"error of the slope, regions of {side or 'cells'}": round(
            float(np.mean([case["its error"] for case in cases if case["side"] == side])), 4
        )
        for side in (*sides, 0)
    }
    for kind, low, high in (("good", 0, 0.5), ("other", 0.5, 1), ("wrong", 1, np.inf)):
        flags = [case["flagged"] for case in cases if low <= case["true change"] < high]
        summary[f"{kind} results flagged"] = f"{sum(flags)} of {len(flags)}"
    write("traces_filters", rows, summary)


def run_restored(preset: str) -> None:
    """Write the table of movies that the program restored."""
    real = tifffile.imread(data_folder() / "timelapse" / "cancer_cell_migration.tif")
    cases: list[tuple[str, Any, Any]] = [
        (f"made, {photons} photons", *make_movie(photons, 0)[:2]) for photons in PHOTONS
    ]
    cases.append(("cancer_cell_migration", None, real[:, 1:129, 1:129]))
    rows = []
    for name, light, movie in cases:
        for smoothing in (1.0, 0.0):
            began = time.process_time()
            result = dip.denoise(
                movie.astype(np.float32) if light is not None else movie,
                axes="TYX",
                preset=preset,
                temporal_smoothing=smoothing,
                device="cpu",
            )
            verdict = result.report["verdict"]
            traces = verdict["figures"]["traces"] or {}
            codes = {note["code"] for note in verdict["codes"]}
            true = {} if light is None else measure(light, movie, result.image, make_grid(16))
            rows.append(
                {
                    "movie": name,
                    "temporal smoothing": smoothing,
                    "regions": traces.get("region_count", 0),
                    "true slope": true.get("true slope", ""),
                    "slope": traces.get("slope", ""),
                    "its error": traces.get("slope_uncertainty", ""),
                    "true delay": true.get("true delay", ""),
                    "delay": traces.get("delay", ""),
                    "its error ": traces.get("delay_uncertainty", ""),
                    "says": ", ".join(code for code in codes if code.startswith("traces")),
                    "CPU s": time.process_time() - began,
                }
            )
            print(rows[-1], flush=True)
    write(f"traces_restored_{preset}", rows, {})


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["filters", "restored", []], default=[])
    parser.add_argument("--sides", type=int, nargs="*", default=[16])
    parser.add_argument("--preset", default="instant")
    options = parser.parse_args()
    if "filters" in (options.parts or ["filters"]):
        run_filters(options.sides)
    if "restored" in (options.parts or ["restored"]):
        run_restored(options.preset)


if __name__ == "__main__":
    main()
