"""Names with control characters, bidirectional text or markup are printed harmlessly."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.cli.app import _report_unexpected_error
from napari_dip.cli.terminal import BarReporter
from napari_dip.errors import RefusedError, make_refusal
from napari_dip.errors.templates import make_printable
from napari_dip.pipeline.assess.report_figures import render_page
from napari_dip.pipeline.progress import Event, Progress
from napari_dip.pipeline.store.result_files import escape_formula, format_json

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows takes no such names")

#: A title for the window, a colour, mark-up of rich and of HTML, text that runs backwards, a letter
#: without width, and the one-byte form of an escape.
H = "x\x1b]0;owned\x07\x1b[31m[bold]\u202egnp\u200b\x9b1m[link=e]<img src=x>"
COMMANDS = set("\x1b\x07\u202e\u200b\x9b\r\x7f")
SHORT = ("--preset", "fast", "--max-iterations", "2", "--device", "cpu")
IMAGE = f"{H}.tif"
RECIPES = ("key", "task", "value", "setting", "text", "twice", "schema", f"{H}other")
INTERFACES = (
    ("denoise", IMAGE, "-o", f"{H}out.tif", *SHORT),
    ("denoise", IMAGE, "-o", f"{H}out.ome.zarr", "--report", f"{H}.json", *SHORT),
    ("denoise", IMAGE, "-o", IMAGE),
    ("denoise", f"{H}none.tif", "-o", "x.tif"),
    ("denoise", IMAGE, "-o", f"{H}.xyz"),
    ("denoise", IMAGE, "-o", f"{H}none/x.tif"),
    ("denoise", IMAGE, "-o", H),
    ("denoise", H, "-o", "x.tif"),
    ("denoise", IMAGE, "-o", "x.tif", f"--{H}", "1"),
    ("denoise", IMAGE, "-o", "x.tif", "--gain", H),
    ("denoise", IMAGE, "-o", "x.tif", "--preset", H),
    ("denoise", IMAGE, "-o", "x.tif", "--axes", H),
    ("denoise", IMAGE, IMAGE, "-o", "x.tif"),
    ("denoise", IMAGE, "-o", "x.tif", "--network-file", H),
    ("denoise", IMAGE, "-o", "x.tif", "--repeated-exposure", H),
    ("inpaint", IMAGE, "-o", "x.tif", "--mask", H),
    ("invert-features", IMAGE, "-o", "x.tif", "--network", H, "--layer", H),
    (H,),
    ("plan", H),
    ("explore", H),
    ("noise", IMAGE),
    ("noise", IMAGE, "--json"),
    ("noise", f"{H}imagej.tif"),
    ("noise", f"{H}.ome.tif"),
    ("plan", "denoise", f"{H}stack.tif"),
    ("plan", "denoise", f"{H}imagej.tif"),
    ("plan", "denoise", f"{H}.ome.tif"),
    ("methods", IMAGE),
    ("methods", f"{H}none"),
    *(("plan", "denoise", IMAGE, "--from-recipe", f"{recipe}.json") for recipe in RECIPES),
    ("batch", f"{H}recipe.json", IMAGE, f"{H}.ome.tif", f"{H}none.tif", "-o", f"done{H}"),
    ("batch", f"{H}recipe.json", IMAGE, f"{H}empty.tif", "-o", f"refused{H}"),
    ("batch", f"{H}recipe.json", f"{H}*.none", "-o", "z"),
    ("batch", f"{H}recipe.json", IMAGE, "-o", "z", "--workers", H),
    ("batch", f"{H}recipe.json", IMAGE, "-o", "z", "--scheduler", H),
    ("explore", "spectrum", IMAGE, "-o", f"seen{H}", "--max-iterations", "3", "--crop", "32"),
    ("explore", "spectrum", IMAGE, "-o", "z", "--network", H),
    ("explore", "architectures", IMAGE, "-o", "z", "--only", H),
)


@pytest.fixture
def hostile_folder(tmp_path, monkeypatch):
    """A folder in which everything is called so, and says so in its metadata."""
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).normal(500, 20, (48, 48)).astype("uint16")
    tifffile.imwrite(IMAGE, image)
    tifffile.imwrite(f"{H}empty.tif", image * 0)
    tifffile.imwrite(f"{H}stack.tif", np.stack([image] * 5).astype("float32"))
    size = {f"PhysicalSize{axis}": 0.1 for axis in "XY"}
    size |= {f"PhysicalSize{axis}Unit": H for axis in "XY"}
    imagej = {"axes": "YX", "Name": H, "Channel": {"Name": H}, **size}
    tifffile.imwrite(f"{H}.ome.tif", image, ome=True, metadata=imagej)
    imagej = {"axes": "YX", "unit": "\x1b[31m[bold]", "Info": "\x1b[31m"}
    tifffile.imwrite(f"{H}imagej.tif", image, imagej=True, resolution=(1, 1), metadata=imagej)
    recipe = {"schema": 1, "task": "denoise", "settings": {}, "preset": "fast", "device": "cpu"}
    recipe["max_iterations"] = 1
    for name, content in {
        f"{H}recipe": recipe,
        "key": {**recipe, H: 1},
        "task": {**recipe, "task": H},
        "value": {**recipe, "preset": H},
        "setting": {**recipe, "settings": {H: H}},
        "twice": {**recipe, H: 1, "settings": {H: 1}},
        "schema": {**recipe, "schema": H},
        f"{H}other": {**recipe, "task": "inpaint"},
    }.items():
        Path(f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    Path("text.json").write_text("{" + H, encoding="utf-8")
    Path(H).mkdir()
    return tmp_path


def find_control_characters(text: str) -> list[str]:
    """Lines that hold what no terminal may be sent."""
    return [ascii(line) for line in text.split("\n") if COMMANDS & set(line)]


@pytest.mark.sampled(15)
@pytest.mark.parametrize("door", INTERFACES, ids=lambda door: ascii(" ".join(door)[:40]))
def test_no_name_commands_the_terminal_or_marks_up_a_page(door, hostile_folder, capsys):
    files = set(hostile_folder.rglob("*"))
    assert main(list(door)) in (0, 1, 2)
    output = capsys.readouterr()
    assert output.out + output.err
    assert find_control_characters(output.out) == find_control_characters(output.err) == []
    assert "unexpected" not in output.err
    for path in set(hostile_folder.rglob("*")) - files:
        if path.suffix in (".json", ".csv", ".html") and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert find_control_characters(text) == [] and (
                path.suffix != ".html" or "<img src=x" not in text
            )


def test_a_name_that_is_no_unicode_stops_neither_a_run_nor_a_batch(hostile_folder, capsys):
    name = os.fsdecode(b"\xff\x1b[31m.tif")
    os.rename(IMAGE, name)
    report = ("--report", "r.json")
    assert main(["denoise", name, "-o", f"out{name}", *SHORT, *report]) == 0
    assert main(["batch", f"{H}recipe.json", name, "-o", "done"]) == 0
    assert main(["batch", f"{H}recipe.json", name, "-o", "done", "--resume"]) == 0
    output = capsys.readouterr()
    assert find_control_characters(output.out + output.err) == []
    assert (hostile_folder / "done" / name).exists()


def test_a_refusal_raised_in_python_holds_no_commands_either(hostile_folder):
    with pytest.raises(RefusedError) as caught:
        dip.denoise(np.ones((8, 8)), axes=H)
    assert find_control_characters(str(caught.value)) == []
    assert find_control_characters(make_refusal("file-missing", path=Path(H)).message) == []


def test_the_log_of_an_unforeseen_error_holds_no_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        raise ValueError(H)
    except ValueError as error:
        assert _report_unexpected_error(error) == 1
    (log,) = tmp_path.glob("napari-dip-*.log")
    assert log.read_text(encoding="utf-8").count("\n") >= 3
    assert find_control_characters(log.read_text(encoding="utf-8") + capsys.readouterr().err) == []


def test_where_even_the_log_cannot_be_written_the_error_is_reported(monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/none")
    assert _report_unexpected_error(ValueError("no such place")) == 1
    assert "no such place" in capsys.readouterr().err


def test_the_bars_of_a_terminal_are_drawn_with_names_that_command_nothing(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    bars = BarReporter(1)
    bars.show(Event(message=f"1 of 2, {H}: Restoring", progress=Progress(done=0.5)), 1)
    bars._progress.refresh()
    bars.close()
    drawn = terminal.getvalue()
    assert "[bold]" in drawn and "\ufffd]0;owned\ufffd" in drawn
    assert not any(bad in drawn for bad in ("\x1b]", "\x07", "\u202e", "\u200b", "\x9b"))


def test_spaces_of_all_widths_are_printed_as_they_are():
    assert make_printable("Screenshot at 1.00\u202fPM\u3000\xa0.png") == (
        "Screenshot at 1.00\u202fPM\u3000\xa0.png"
    )
    assert make_printable("a\u2028b\u2066c\xadd\ue000") == "a\ufffdb\ufffdc\ufffdd\ufffd"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
@pytest.mark.parametrize("before", ["", " ", "\t", "\r", "\n", "\xa0", "\u3000", " \t "])
def test_no_cell_of_a_table_begins_a_formula(begin, before):
    assert str(escape_formula(f"{before}{begin}cmd|' /C calc'!A0")).startswith("'")


def test_figures_in_a_table_stay_figures():
    assert (
        escape_formula(-0.5) == -0.5
        and escape_formula(None) is None
        and escape_formula("a=b") == "a=b"
    )


def test_a_semicolon_in_a_name_begins_no_cell(hostile_folder, capsys):
    os.rename(IMAGE, "a;=1+1.tif")
    assert main(["batch", f"{H}recipe.json", "a;=1+1.tif", "-o", "done", "--quiet"]) == 0
    table = (hostile_folder / "done" / "batch.csv").read_text(encoding="utf-8")
    assert '"a;=1+1.tif"' in table
    (row,) = csv.DictReader(io.StringIO(table))
    assert row["file"] == "a;=1+1.tif" and float(row["seconds"]) >= 0


def test_our_json_holds_a_name_exactly_without_control_characters():
    text = format_json({H: ["\x7f\ue000\U000e0001µ", float("nan")]})
    assert find_control_characters(text) == [] and "µ" in text
    assert json.loads(text) == {H: ["\x7f\ue000\U000e0001µ", None]}


def test_a_page_turns_no_text_around():
    assert find_control_characters(render_page(H)) == []
