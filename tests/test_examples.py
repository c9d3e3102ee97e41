"""The scripts in `examples/`, and the examples in the docstrings of public functions, run."""

from __future__ import annotations

import doctest
import json
import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip import explore
from small_runs import make_noisy

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The first of them runs each time.
SCRIPTS = sorted(
    (Path(__file__).resolve().parents[1] / "examples").glob("*.py"),
    key=lambda path: (path.stem != "scikit_image_denoise", path.stem),
)


NOTEBOOKS = sorted(SCRIPTS[0].parent.glob("*.ipynb"))


def test_there_are_ten_scripts_of_at_most_fifteen_lines() -> None:
    assert len(SCRIPTS) >= 10
    assert {path.name for path in SCRIPTS if len(path.read_text().splitlines()) > 15} == set()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    if "import xarray" in path.read_text(encoding="utf-8"):
        pytest.importorskip("xarray")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(path: Path, tmp_path: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not [cell for cell in cells if cell.get("outputs")], "clear the outputs"
    # the kernel shall import this working tree, as the tests do
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    manager, client = start_new_kernel(cwd=str(tmp_path), env=environment)
    mime_types: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        mime_types.extend(message["content"].get("data", ()))

    try:
        for cell in cells:
            if cell["cell_type"] == "code":
                code = "".join(cell["source"])
                reply = client.execute_interactive(code, timeout=100, output_hook=collect)
                content = reply["content"]
                assert content["status"] == "ok", "\n".join(content["traceback"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "text/html" in mime_types


def find_examples() -> Iterator[doctest.DocTest]:
    """Examples of the public functions, and of the methods of public classes."""
    finder = doctest.DocTestFinder(recurse=True, exclude_empty=True)
    functions = {name: getattr(dip, name) for name in dip.__all__ if name != "explore"}
    functions |= {f"explore.{name}": getattr(explore, name) for name in explore.__all__}
    for name, value in functions.items():
        if callable(value) and value.__module__.startswith("napari_dip."):
            yield from finder.find(value, name, module=False)


EXAMPLES = {example.name: example for example in find_examples()}


def test_each_public_function_has_an_example() -> None:
    functions = [name for name in dip.__all__ if name[0].islower() and name != "explore"]
    functions += [f"explore.{name}" for name in explore.__all__ if name[0].islower()]
    assert {name for name in functions if not EXAMPLES.get(name)} == set()


#: Examples that take seconds.
LONG_EXAMPLES = {
    "Restoration.traces", "batch", "blind_deblur", "explore.features", "explore.impedance",
    "invert_features", "measure_psf", "restore_blocks",
}  # fmt: skip


@pytest.mark.sampled(60)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name in LONG_EXAMPLES else [])
        for name in EXAMPLES
    ],
)
def test_the_example_of_a_docstring_gives_what_it_says(
    name: str, tmp_path: Path, monkeypatch: Any
) -> None:
    if "to_xarray" in name:
        pytest.importorskip("xarray")
    from programs import make_entries, make_small_program, write_archive

    monkeypatch.chdir(tmp_path)
    image = make_noisy(48)
    write_archive(tmp_path / "network.pt2", make_entries(*make_small_program()))
    (tmp_path / "data").mkdir()
    for number in range(2):
        tifffile.imwrite(tmp_path / "data" / f"{number}.tif", image)
    rng = np.random.default_rng(0)
    dark = rng.normal(100, 2, (20, 16, 16))
    flats = [dark + rng.poisson(level, (20, 16, 16)) for level in (50, 200, 800)]
    names = {"dip": dip, "image": image, "bright_channel": make_noisy(48, seed=1) * 2}
    if "restore_blocks" in name:
        names["array"] = pytest.importorskip("dask.array").from_array(image)
    names |= {"movie": np.stack([image] * 16), "labels": (image > 170) + (image > 200) * 1}
    names |= {"dark_frames": dark, "flat_stacks": flats, "beads": draw_beads()}
    example = EXAMPLES[name]
    example.globs = names
    report: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=flags).run(example, out=report.append)
    assert not report, "".join(report)


def draw_beads() -> np.ndarray:
    """Nine small spots on a dark ground."""
    y, x = np.mgrid[:96, :96]
    spots = [
        np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8)
        for row in (16, 48, 80)
        for column in (16, 48, 80)
    ]
    return np.random.default_rng(0).poisson(1000 * sum(spots) + 10).astype("uint16")


def test_the_button_of_a_notebook_keeps_the_best_image_so_far(tmp_path: Path) -> None:
    pytest.importorskip("ipywidgets")
    from jupyter_client.manager import start_new_kernel

    code = f"""
import threading, time, ipywidgets, numpy as np, napari_dip as dip
image = np.random.default_rng(0).poisson({make_noisy(48).tolist()}).astype(float)
run = dip.run("denoise", image, prior="blind-spot", preset="fast", max_iterations=5000)
def press():
    while not any(event := [run._event]) or event[0].iteration < 50:
        time.sleep(0.05)
    widgets = ipywidgets.Widget.widgets.values() if hasattr(ipywidgets.Widget, "widgets") else []
    (button,) = [w for w in widgets if isinstance(w, ipywidgets.Button)]
    button.click()
threading.Thread(target=press, daemon=True).start()
result = run.show()
(picture,) = [w for w in ipywidgets.Widget.widgets.values() if isinstance(w, ipywidgets.Image)]
assert result.stop_reason == "user" and picture.value[:4] == b"\\x89PNG", result.stop
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    manager, client = start_new_kernel(cwd=str(tmp_path), env=environment)
    try:
        reply = client.execute_interactive(code, timeout=100, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", "\n".join(reply["content"]["traceback"])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
