"""Card of three shots of one field: how often its headline is of one kind, by size.

Usage: python benchmarks/card_stability.py [--fields 40] [--preset instant] [--sides 64 96 128 256]
Fields are six places of each of the seven FMD images, of which three different captures are
restored (captures 1 and 2 of WideField_BPAE_B are one file). Crops of all sizes have one centre.
`benchmarks/out/card_stability_<preset>.jsonl` keeps each run; those that it holds are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import combinations
from typing import Any

import numpy as np

import napari_dip as dip
from napari_dip.pipeline.assess.card import make_card
from shared_data import FMD_FIELDS, OUT, fmd, write

CENTRES = [(y, x) for y in (128, 384) for x in (128, 256, 384)]
SHOTS = 3


def list_captures(field: str) -> tuple[int, ...]:
    """Return the numbers of three captures that are different files."""
    captures = range(1, 5)
    shots = {capture: fmd(field, capture)[0] for capture in captures}
    for chosen in combinations(captures, SHOTS):
        if not any(np.array_equal(shots[a], shots[b]) for a, b in combinations(chosen, 2)):
            return chosen
    raise SystemExit(f"{field} has no three different captures.")


def run_shot(key: dict[str, Any], preset: str) -> dict[str, Any]:
    """Restore one shot, and return its card and figures."""
    half = key["side"] // 2
    place = tuple(
        slice(middle - half, middle - half + key["side"]) for middle in (key["y"], key["x"])
    )
    began = time.process_time()
    result = dip.denoise(fmd(key["field"], key["capture"])[0][place], preset=preset, device="cpu")
    verdict, card = result.report["verdict"], make_card(result.report)
    return {
        **key,
        "kind": verdict["kind"],
        "headline": verdict["headline"],
        "warnings": [note.code for note in card.all_warnings],
        "codes": [note["code"] for note in verdict["codes"]],
        "figures": verdict["figures"],
        "bounds": verdict["bounds"],
        "prior": result.report["prior"]["key"],
        "cpu_seconds": time.process_time() - began,
    }


def compare_shots(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return whether the shots of a field have one kind of headline, and which warnings differ."""
    warnings = [set(run["warnings"]) for run in runs]
    differing = set.union(*warnings) - set.intersection(*warnings)
    return {
        **{name: runs[0][name] for name in ("field", "y", "x", "side")},
        "kinds": ", ".join(run["kind"] for run in runs),
        "same": len({run["kind"] for run in runs}) == 1,
        "one headline": len({run["headline"] for run in runs}) == 1,
        "warnings of some": ", ".join(sorted(differing)),
    }


def summarise(rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each size, the share of fields whose shots have one kind of headline."""
    summary: dict[str, Any] = {}
    for side in sorted({row["side"] for row in rows}):
        same = [row["same"] for row in rows if row["side"] == side]
        kinds = [run["kind"] for run in runs if run["side"] == side]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        summary[f"{side} pixels, one kind"] = f"{sum(same)} of {len(same)} ({counts})"
    return summary


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=40)
    parser.add_argument("--preset", default="instant")
    parser.add_argument("--sides", type=int, nargs="*", default=[64, 96, 128, 256])
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / f"card_stability_{options.preset}.jsonl"
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    places = [(field, y, x) for y, x in CENTRES for field in FMD_FIELDS][: options.fields]
    rows = []
    for field, y, x in places:
        for side in options.sides:
            shots = []
            for capture in list_captures(field):
                key = {"field": field, "y": y, "x": x, "side": side, "capture": capture}
                run = next((run for run in runs if key.items() <= run.items()), None)
                if run is None:
                    run = run_shot(key, options.preset)
                    runs.append(run)
                    with kept.open("a") as file:
                        file.write(json.dumps(run) + "\n")
                shots.append(run)
            rows.append(compare_shots(shots))
            print(rows[-1], flush=True)
    write(f"card_stability_{options.preset}", rows, summarise(rows, runs))


if __name__ == "__main__":
    main()
