"""Draw `docs/images/architecture.svg`: the folders of the package, and what passes through them.

Folders, their order and the first sentence about each are read from `pyproject.toml` and from the
package itself. Only the path of an image, `PATH`, stands here; each of its stations must exist.
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_dip"
IMAGE = ROOT / "docs" / "images" / "architecture.svg"

#: The way of one image: the part it passes, and what leaves that part.
PATH = (
    ("qt", "layer, settings"),
    ("io", "header"),
    ("tasks", "Task"),
    ("pipeline.plan", "Plan"),
    ("io", "pixels"),
    ("pipeline.calibrate", "Calibration"),
    ("pipeline.execute", "FitInput"),
    ("tasks", "Problem, Prior"),
    ("engine.fit", "FitResult"),
    ("pipeline.assess", "Result, report"),
    ("pipeline.store", "checkpoints, files"),
    ("qt", "new layer"),
)
#: Parts too small for a box.
LEFT_OUT = {"__main__", "samples", "public_types", "version"}
_COLUMNS = 6  # boxes in a row, as many as can be read across a page
_LINE = 25  # letters in a line of a box, at the size below
_SIZE = 8.5  # points


def layers() -> list[list[str]]:
    """List the parts of the package, from the doors down, as import-linter holds them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    first = contracts["contracts"][0]["layers"]
    rows = [[name.strip() for name in re.split(r"[|,]", row)] for row in first]
    return [kept for row in rows if (kept := [name for name in row if name not in LEFT_OUT])]


def folders(part: str) -> list[str]:
    """List the folders of a part, in the order of its contract if there is one."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    here = sorted(
        path.parent.name for path in (PACKAGE / part).glob("*/__init__.py") if path.parent.name
    )
    order = [
        name.strip()
        for contract in contracts["contracts"]
        if contract.get("containers") == [f"napari_dip.{part}"]
        for row in reversed(contract["layers"])
        for name in row.split("|")
    ]
    return sorted(here, key=lambda name: order.index(name) if name in order else len(order))


def summary(part: str) -> str:
    """Return the first sentence of what a folder says of itself."""
    module = PACKAGE / part.replace(".", "/") / "__init__.py"
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert text, f"{part} says nothing of itself"
    return re.split(r"\.\s|\.$|:\s", " ".join(text.split("\n\n")[0].split()))[0]


def stations(part: str) -> str:
    """Return the numbers of the steps that an image takes in this part."""
    assert all((PACKAGE / name.replace(".", "/")).is_dir() for name, _ in PATH)
    return " ".join(str(step) for step, (name, _) in enumerate(PATH, 1) if name == part)


def draw() -> str:
    """Return the image as SVG, the same on every machine with the same matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "napari-dip", "svg.fonttype": "none", "font.size": _SIZE}
    with mpl.rc_context(style):
        return _draw_rows(Figure)


def _draw_rows(new_figure: Callable[..., Any]) -> str:
    rows = [
        (part, [f"{part}.{name}" for name in folders(part)]) for row in layers() for part in row
    ]
    heights = [max(1, -(-len(names) // _COLUMNS)) for _, names in rows]
    figure = new_figure(figsize=(13, 0.98 * sum(heights) + 1.5))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(0, _COLUMNS + 1.3), ylim=(-1.1, sum(heights)))
    axes.axis("off")
    top = float(sum(heights))
    for (part, names), height in zip(rows, heights, strict=True):
        top -= height
        _box(axes, (0.02, top + 0.04), (1.26, height - 0.08), part, "#d9e4ef")
        for index, name in enumerate(names):
            row, column = divmod(index, _COLUMNS)
            corner = (column + 1.32, top + height - 1 - row + 0.04)
            _box(axes, corner, (0.96, 0.92), name, "#f4f1ea")
    steps = (f"{step} {name}: {what}" for step, (name, what) in enumerate(PATH, 1))
    text = textwrap.fill("An image on its way:  " + "  →  ".join(steps), 170)
    axes.text(0.02, -0.1, text, va="top", color="#a3341c", linespacing=1.6)
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _box(
    axes: Any, corner: tuple[float, float], size: tuple[float, float], part: str, colour: str
) -> None:
    from matplotlib import patches

    (x, y), (width, height) = corner, size
    shape = patches.FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.04", fc=colour, ec="#8a8a8a"
    )
    axes.add_patch(shape)
    text = axes.text
    text(x + 0.05, y + height - 0.08, part.rsplit(".")[-1], va="top", weight="bold", size=_SIZE + 1)
    letters = int(_LINE * width / 0.96)
    body = textwrap.fill(summary(part), letters)
    text(x + 0.05, y + height - 0.3, body, va="top", size=_SIZE - 1)
    if numbers := stations(part):
        text(x + width - 0.05, y + height - 0.08, numbers, va="top", ha="right", color="#a3341c")
