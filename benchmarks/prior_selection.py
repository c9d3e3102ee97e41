"""Selection of the prior by validation loss on a crop, against the selection by rule; resumable.

Usage: python benchmarks/prior_selection.py
Reads what `stop.py --sets` has written for the three priors: each runs the same part of its own
iterations, the least validation loss wins, and is taken to its end. *Before*: PSNR of the network's
images; *after*: of whole `fast` runs, which end with the last filter. The rule, `r2r`
here, shows the network more noise where the noise is strong enough, and hides pixels elsewhere.
Fixed noise has no last filter: its image is the same before and after.
"""

from __future__ import annotations

import json
import sys
from math import isfinite
from typing import Any

import numpy as np

import napari_dip as dip
from shared_data import OUT, counts, write
from stop import Crop, seeded_crops

SETS = ["fmd", "w2s", "hagen", "color9-25", "set12-25", "bsd68-25"]
#: Priors that race, and the iterations of their `fast` presets.
PRIORS = {"r2r": 250, "blind-spot": 250, "random-input": 800}
RULE, UNFILTERED = "r2r", "random-input"
#: Parts of the iterations that the race takes.
PARTS = (0.2, 0.4, 1.0)
KEPT = OUT / "race.lines.json"


def find_min_loss(row: dict[str, Any], until: float) -> float:
    """Least validation loss up to an iteration."""
    losses = [loss for iteration, loss, _ in row["course"] if iteration <= until]
    return min((loss for loss in losses if isfinite(loss)), default=float("inf"))


def measure_psnr(crop: Crop, curve: dict[str, float]) -> dict[str, float]:
    """PSNR of whole runs, by prior."""
    raw, filtered = counts(crop.noisy), [prior for prior in PRIORS if prior != UNFILTERED]
    for prior in filtered:
        key = f"{crop.name} {prior}"
        if key not in curve:
            axes = "YXS" if raw.ndim == 3 else "YX"
            result = dip.denoise(raw, prior=prior, preset="fast", axes=axes)
            curve[key] = crop.judge(np.asarray(result.image), crop.truth)
            KEPT.write_text(json.dumps(curve), encoding="utf-8")
            print(key, curve[key], file=sys.stderr, flush=True)
    return {prior: curve[f"{crop.name} {prior}"] for prior in filtered}


def compare(crop: Crop, lines: dict[str, dict[str, Any]], ends: dict[str, float]) -> dict[str, Any]:
    """Make one line of the table."""
    starts = {prior: lines[prior]["kept dB"] for prior in PRIORS}
    ends = starts | ends
    row: dict[str, Any] = {"crop": crop.name}
    for moment, quality in (("before", starts), ("after", ends)):
        row |= {f"{prior}, {moment}": value for prior, value in quality.items()}
    for part in PARTS:
        won = min(PRIORS, key=lambda prior: find_min_loss(lines[prior], part * PRIORS[prior]))
        row[f"won at {part:.0%}"] = won
        for moment, quality in (("before", starts), ("after", ends)):
            row[f"gain at {part:.0%}, {moment}"] = quality[won] - quality[RULE]
    for moment, quality in (("before", starts), ("after", ends)):
        row[f"gain by oracle, {moment}"] = max(quality.values()) - quality[RULE]
    return row


def main() -> None:
    """Compare, crop by crop."""
    results: dict[str, dict[str, Any]] = {}
    for prior in PRIORS:
        lines = json.loads((OUT / f"stop_{prior}_fast_sets.lines.json").read_text("utf-8"))
        results[prior] = {line["crop"]: line for line in lines}
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.is_file() else {}
    rows = []
    for crop in seeded_crops(SETS):
        lines = {prior: results[prior][crop.name] for prior in PRIORS}
        rows.append(compare(crop, lines, measure_psnr(crop, kept)))
    gains = [key for key in rows[0] if key.startswith("gain")]
    mean = {f"{key}, mean": float(np.mean([row[key] for row in rows])) for key in gains}
    worst = {f"{key}, worst": float(min(row[key] for row in rows)) for key in gains}
    write("race", rows, {**mean, **worst})


if __name__ == "__main__":
    main()
