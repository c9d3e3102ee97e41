"""Markdown tables of the quality benchmark, from the results that lie there."""

from __future__ import annotations

import json
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from shared_data import FMD_FIELDS

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]
#: What a preset must have above blind VST + BM3D, in the mean of 28 images of FMD.
AIMS = {"best": 2.7, "balanced": 2.4, "fast": 2.0}


def write_tables(folder: Path, groups: list[str], methods: list[str]) -> str:
    """Write `tables.md` of all results, sets and methods in that order, and hand it back."""
    rows = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("*/*.json")
        if not path.name.endswith(".report.json")
    ]
    parts = []
    for group in groups:
        of_set = {
            method: {
                row["image"]: row for row in rows if (row["set"], row["method"]) == (group, method)
            }
            for method in methods
        }
        there = {method: found for method, found in of_set.items() if found}
        if there:
            parts += [f"## {group}", *summary(there, "psnr")]
            if any("line_psnr" in row for one in there.values() for row in one.values()):
                parts += ["After a least-squares gain and offset:", *summary(there, "line_psnr")]
            if group == "fmd":
                parts += [*by_field(there), *differences(there), by_image(there)]
            if "reference_dip" in there:
                parts += on_the_way(there)
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    return text


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Lay out a Markdown table."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def summary(there: dict[str, dict[str, Row]], key: str) -> list[str]:
    """Mean, worst and median of each method, its time, and what is below its input."""
    before = there.get("input", {})
    heads = [
        "method",
        "images",
        "mean dB",
        "worst dB",
        "median dB",
        "mean gain dB",
        "below input",
        "mean CPU s",
        "mean s",
    ]
    lines, below = [], []
    for found in there.values():
        values = [row[key] for row in found.values()]
        gains = {one: row[key] - before[one][key] for one, row in found.items() if one in before}
        worse = sorted(one for one, gain in gains.items() if gain < 0)
        title = next(iter(found.values()))["title"]
        below += [f"{title}: {', '.join(worse)}"] if worse else []
        lines.append(
            [title, str(len(values))]
            + [f"{what(values):.2f}" for what in (mean, min, median)]
            + [f"{mean(gains.values()):+.2f}" if gains else "", str(len(worse))]
            + [
                f"{mean(row[one] for row in found.values()):.1f}"
                for one in ("cpu_seconds", "seconds")
            ]
        )
    return [table(heads, lines), f"Below their input: {'; '.join(below) or 'none'}."]


def by_field(there: dict[str, dict[str, Row]]) -> list[str]:
    """Mean of the captures of each FMD field."""
    heads = ["method", *FMD_FIELDS, "mean of fields"]
    lines = []
    for found in there.values():
        means = [_mean(found, field) for field in FMD_FIELDS]
        known = [one for one in means if one is not None]
        title = next(iter(found.values()))["title"]
        lines.append([title, *map(_cell, means), _cell(mean(known) if known else None)])
    return ["Mean of the captures, dB:", table(heads, lines)]


def by_image(there: dict[str, dict[str, Row]]) -> str:
    """Lay out every result of a set."""
    images = sorted({image for found in there.values() for image in found})
    lines = []
    for image in images:
        rows = [found.get(image) for found in there.values()]
        lines.append([image, *(_cell(row["psnr"] if row else None) for row in rows)])
    return table(["dB", *(next(iter(found.values()))["title"] for found in there.values())], lines)


def differences(there: dict[str, dict[str, Row]]) -> list[str]:
    """Say what each preset has above blind VST + BM3D on the same images, field by field."""
    base = there.get("vst_bm3d", {})
    heads = ["preset", *FMD_FIELDS, "images", "mean", "least", "aim"]
    lines = []
    for preset, aim in AIMS.items():
        found = there.get(preset, {})
        more = {one: row["psnr"] - base[one]["psnr"] for one, row in found.items() if one in base}
        if not more:
            continue
        cells = []
        for field in FMD_FIELDS:
            of_field = [gain for one, gain in more.items() if one.startswith(field)]
            cells.append(f"{mean(of_field):+.2f}" if of_field else "")
        cells += [str(len(more)), f"{mean(more.values()):+.2f}", f"{min(more.values()):+.2f}"]
        lines.append([preset, *cells, f"{aim:+.1f}"])
    if not lines:
        return []
    states = {row["code"] for preset in AIMS for row in there.get(preset, {}).values()}
    told = [f"These results come from {len(states)} states of the code."] if len(states) > 1 else []
    return ["Above VST + BM3D, blind (a), dB:", table(heads, lines), *told]


def on_the_way(there: dict[str, dict[str, Row]]) -> list[str]:
    """Quality of the reference-size network against time, beside the presets' on the same crops."""
    heads = [
        "crop",
        "best output",
        "at step",
        "best average",
        "at step",
        "last output",
        "last average",
        "CPU s",
        *(one for one in AIMS if one in there),
    ]
    lines, courses = [], []
    for image, row in there["reference_dip"].items():
        best, history = row["notes"]["best"], row["notes"]["history"]
        ours = [there[one].get(image) for one in AIMS if one in there]
        lines.append(
            [image]
            + [
                part
                for key in ("output", "average")
                for part in (f"{best[key][key]:.2f}", str(best[key]["step"]))
            ]
            + [f"{history[-1][key]:.2f}" for key in ("output", "average")]
            + [f"{history[-1]['cpu_seconds']:.0f}"]
            + [f"{one['psnr']:.2f} ({one['cpu_seconds']:.0f} s)" if one else "" for one in ours]
        )
        courses.append(history)
    steps = [
        step
        for step in (100, 200, 400, 800, 1200, 1600, 2000, 2400, 3000)
        if all(any(one["step"] == step for one in course) for course in courses)
    ]
    way = []
    for step in steps:
        looks = [next(one for one in course if one["step"] == step) for course in courses]
        way.append(
            [str(step)]
            + [
                f"{mean(one[key] for one in looks):.2f}"
                for key in ("cpu_seconds", "output", "average")
            ]
        )
    return [
        "Reference-size network, dB (best: chosen by the truth):",
        table(heads, lines),
        table(["step", "mean CPU s", "mean output dB", "mean average dB"], way),
    ]


def _mean(found: dict[str, Row], field: str) -> float | None:
    values = [row["psnr"] for image, row in found.items() if image.startswith(field)]
    return mean(values) if values else None


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
