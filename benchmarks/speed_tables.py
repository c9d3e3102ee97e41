"""Tables and curves of the speed benchmark, from its result files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shared_data import write

if TYPE_CHECKING:
    from pathlib import Path

#: Presets of ours, the quickest first.
OURS = ("fast", "balanced", "best")
Row = dict[str, Any]


def read_results(folder: Path) -> dict[str, dict[str, Row]]:
    """Read the results: case, method."""
    by_case: dict[str, dict[str, Row]] = {}
    for path in sorted(folder.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        by_case.setdefault(row["case"], {})[row["method"]] = row
    return by_case


def find_time_to_quality(row: Row, aim: float) -> float | None:
    """CPU seconds until an image was as good; None if none was."""
    return next((point["seconds"] for point in row["curve"] if point["dB"] >= aim), None)


def find_reference_step(by_case: dict[str, dict[str, Row]], kind: str) -> Row | None:
    """Find the reference's step of a kind of images; one channel serves for all that have one."""
    steps = [methods["step"] for methods in by_case.values() if "step" in methods]
    alike = {"inpaint": "micrograph", "super-resolve": "photograph"}.get(kind, kind)
    return next((step for want in (kind, alike) for step in steps if step["kind"] == want), None)


def make_comparison(by_case: dict[str, dict[str, Row]]) -> list[Row]:
    """dB, CPU seconds and memory of all that ended."""
    return [
        {
            "picture": case,
            "method": method,
            "dB": row["dB"],
            "CPU s": row["seconds"],
            "MB above the imports": row["MB"],
        }
        for case, methods in by_case.items()
        for method, row in methods.items()
        if "dB" in row
    ]


def compare_with_reference(by_case: dict[str, dict[str, Row]]) -> list[Row]:
    """How long the reference and ours take to the reference's best image."""
    rows = []
    for case, methods in by_case.items():
        theirs = methods.get("reference")
        if theirs is None or (step := find_reference_step(by_case, theirs["kind"])) is None:
            continue
        seconds, aim = theirs["best step"] * step["seconds per step"], theirs["best dB"]
        row = {
            "picture": case,
            "reference, dB": aim,
            "at step": theirs["best step"],
            "of": theirs["history"][-1]["step"],
            "past its peak": theirs["passed its peak"],
            "reference, CPU s": seconds,
        }
        ends = [methods[method] for method in OURS if method in methods]
        ours = next(
            (
                (method, at)
                for method in ends
                if (at := find_time_to_quality(method, aim)) is not None
            ),
            None,
        )
        row["ours"] = ours[0]["method"] if ours else "not reached"
        row["ours, CPU s"] = ours[1] if ours else float("nan")
        row["times sooner"] = seconds / ours[1] if ours else float("nan")
        row["ours in the end, dB"] = ends[-1]["dB"] if ends else float("nan")
        row["memory, ours by theirs"] = ours[0]["MB"] / step["MB"] if ours else float("nan")
        rows.append(row)
    return rows


def draw_curves(by_case: dict[str, dict[str, Row]], path: Path) -> None:
    """Draw dB against CPU seconds, one panel for each image with a reference."""
    from matplotlib.figure import Figure

    cases = [case for case, methods in by_case.items() if {"reference", "fast"} <= set(methods)]
    if not cases:
        return
    figure = Figure(figsize=(4 * len(cases), 3.2), layout="constrained")
    for place, case in enumerate(cases):
        axes, methods = figure.add_subplot(1, len(cases), place + 1), by_case[case]
        theirs = methods["reference"]
        step = find_reference_step(by_case, theirs["kind"])
        if step is not None:
            seconds = [entry["step"] * step["seconds per step"] for entry in theirs["history"]]
            best = [max(entry["output"], entry["average"]) for entry in theirs["history"]]
            axes.plot(seconds, best, color="0.45", label="reference network")
        for preset in OURS:
            if preset in methods:
                points = methods[preset]["curve"]
                across = [point["seconds"] for point in points], [point["dB"] for point in points]
                axes.plot(*across, marker=".", label=f"napari-dip {preset}")
        for method in ("nlm", "tv", "vst_bm3d", "bm3d", "deepinv"):
            if method in methods:
                row = methods[method]
                axes.plot(row["seconds"], row["dB"], "x", label=method.replace("_", " + "))
        axes.set(xscale="log", xlabel="CPU seconds", ylabel="PSNR, dB", title=case)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def write_tables(folder: Path) -> None:
    """Write all tables, and the curves beside them."""
    by_case = read_results(folder)
    if rows := make_comparison(by_case):
        write("speed_side_by_side", rows, {"pictures": len(by_case)})
    steps = [methods["step"] for methods in by_case.values() if "step" in methods]
    names = ("kind", "weights", "seconds per step", "least", "most", "MB")
    if steps:
        write("speed_step", [{name: step[name] for name in names} for step in steps], {})
    if rows := compare_with_reference(by_case):
        write("speed_reference", rows, {"pictures": len(rows)})
    draw_curves(by_case, folder / "curves.png")
