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
        methods_of_set = {method: rows for method, rows in of_set.items() if rows}
        if methods_of_set:
            parts += [f"## {group}", *summary(methods_of_set, "psnr")]
            if any(
                "line_psnr" in row for result in methods_of_set.values() for row in result.values()
            ):
                parts += [
                    "After a least-squares gain and offset:",
                    *summary(methods_of_set, "line_psnr"),
                ]
            if group == "fmd":
                parts += [
                    *by_field(methods_of_set),
                    *differences(methods_of_set),
                    by_image(methods_of_set),
                ]
            if "reference_dip" in methods_of_set:
                parts += on_the_way(methods_of_set)
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    return text


def table(heads: list[str], lines: list[list[str]]) -> str:
    """Lay out a Markdown table."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def summary(methods: dict[str, dict[str, Row]], key: str) -> list[str]:
    """Mean, worst and median of each method, its time, and what is below its input."""
    before = methods.get("input", {})
    heads = [
        "method",
        "images",
        "mean dB",
        "worst dB",
        "median dB",
        "mean gain dB",
        "below input",
        "mean SSIM",
        "90 % intervals hold %",
        "mean CPU s",
        "mean s",
    ]
    lines, below = [], []
    for rows in methods.values():
        values = [row[key] for row in rows.values()]
        gains = {
            image: row[key] - before[image][key] for image, row in rows.items() if image in before
        }
        worse = sorted(image for image, gain in gains.items() if gain < 0)
        title = next(iter(rows.values()))["title"]
        below += [f"{title}: {', '.join(worse)}"] if worse else []
        lines.append(
            [title, str(len(values))]
            + [f"{what(values):.2f}" for what in (mean, min, median)]
            + [f"{mean(gains.values()):+.2f}" if gains else "", str(len(worse))]
            + [_mean_of([row.get("ssim") for row in rows.values()], "{:.3f}")]
            + [_mean_of([row.get("notes", {}).get("inside_90") for row in rows.values()], "{:.1%}")]
            + [
                f"{mean(row[key] for row in rows.values()):.1f}"
                for key in ("cpu_seconds", "seconds")
            ]
        )
    return [table(heads, lines), f"Below their input: {'; '.join(below) or 'none'}."]


def _mean_of(values: list[float | None], form: str) -> str:
    """Mean of a figure that older results lack; empty if one of them does."""
    present_values = [value for value in values if value is not None]
    return form.format(mean(present_values)) if len(present_values) == len(values) else ""


def by_field(methods: dict[str, dict[str, Row]]) -> list[str]:
    """Mean of the captures of each FMD field."""
    heads = ["method", *FMD_FIELDS, "mean of fields"]
    lines = []
    for rows in methods.values():
        means = [_mean(rows, field) for field in FMD_FIELDS]
        known_means = [value for value in means if value is not None]
        title = next(iter(rows.values()))["title"]
        lines.append([title, *map(_cell, means), _cell(mean(known_means) if known_means else None)])
    return ["Mean of the captures, dB:", table(heads, lines)]


def by_image(methods: dict[str, dict[str, Row]]) -> str:
    """Lay out every result of a set."""
    images = sorted({image for rows in methods.values() for image in rows})
    lines = []
    for image in images:
        rows = [rows.get(image) for rows in methods.values()]
        lines.append([image, *(_cell(row["psnr"] if row else None) for row in rows)])
    return table(["dB", *(next(iter(rows.values()))["title"] for rows in methods.values())], lines)


def differences(methods: dict[str, dict[str, Row]]) -> list[str]:
    """Say what each preset has above blind VST + BM3D on the same images, field by field."""
    base = methods.get("vst_bm3d", {})
    heads = ["preset", *FMD_FIELDS, "images", "mean", "least", "aim"]
    lines = []
    for preset, aim in AIMS.items():
        rows = methods.get(preset, {})
        more = {
            image: row["psnr"] - base[image]["psnr"] for image, row in rows.items() if image in base
        }
        if not more:
            continue
        cells = []
        for field in FMD_FIELDS:
            of_field = [gain for image, gain in more.items() if image.startswith(field)]
            cells.append(f"{mean(of_field):+.2f}" if of_field else "")
        cells += [str(len(more)), f"{mean(more.values()):+.2f}", f"{min(more.values()):+.2f}"]
        lines.append([preset, *cells, f"{aim:+.1f}"])
    if not lines:
        return []
    states = {row["code"] for preset in AIMS for row in methods.get(preset, {}).values()}
    sentences = (
        [f"These results come from {len(states)} states of the code."] if len(states) > 1 else []
    )
    return ["Above VST + BM3D, blind (a), dB:", table(heads, lines), *sentences]


def on_the_way(methods: dict[str, dict[str, Row]]) -> list[str]:
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
        *(method for method in AIMS if method in methods),
    ]
    lines, courses = [], []
    for image, row in methods["reference_dip"].items():
        best, history = row["notes"]["best"], row["notes"]["history"]
        ours = [methods[method].get(image) for method in AIMS if method in methods]
        lines.append(
            [image]
            + [
                part
                for key in ("output", "average")
                for part in (f"{best[key][key]:.2f}", str(best[key]["step"]))
            ]
            + [f"{history[-1][key]:.2f}" for key in ("output", "average")]
            + [f"{history[-1]['cpu_seconds']:.0f}"]
            + [f"{row['psnr']:.2f} ({row['cpu_seconds']:.0f} s)" if row else "" for row in ours]
        )
        courses.append(history)
    steps = [
        step
        for step in (100, 200, 400, 800, 1200, 1600, 2000, 2400, 3000)
        if all(any(point["step"] == step for point in course) for course in courses)
    ]
    lines_out = []
    for step in steps:
        looks = [next(point for point in course if point["step"] == step) for course in courses]
        lines_out.append(
            [str(step)]
            + [
                f"{mean(point[key] for point in looks):.2f}"
                for key in ("cpu_seconds", "output", "average")
            ]
        )
    return [
        "Reference-size network, dB (best: chosen by the truth):",
        table(heads, lines),
        table(["step", "mean CPU s", "mean output dB", "mean average dB"], lines_out),
    ]


def _mean(rows: dict[str, Row], field: str) -> float | None:
    values = [row["psnr"] for image, row in rows.items() if image.startswith(field)]
    return mean(values) if values else None


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
