"""Typing errors: names that begin with a dash, and misspelt options and commands."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main

SHORT = ("--preset", "fast", "--max-iterations", "1", "--device", "cpu", "--quiet")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).normal(500, 20, (32, 32)).astype("uint16")
    for name in ("in.tif", "-in.tif", "--in.tif"):
        tifffile.imwrite(tmp_path / name, image)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("denoise in.tif -o -out.tif", "Write '-o=-out.tif' if it is the value"),
        ("denoise in.tif --output -out.tif", "Write '--output=-out.tif' if it is the value"),
        ("denoise in.tif -o --in.tif", "Write '-o=--in.tif' if it is the value"),
        ("denoise -in.tif -o out.tif", "Write './-in.tif' if it is a file"),
        ("denoise --in.tif -o out.tif", "Write './--in.tif' if it is a file"),
        ("denoise in.tif -o --report r.json", "The option '-o' lacks its value."),
        ("denoise in.tif --seed -o out.tif", "The option '--seed' lacks its value."),
        ("noise in.tif -q", "There is no option called '-q' here. Check its spelling"),
        ("denoise in.tif -o", "The option '-o' lacks its value."),
        ("denoise -- -in.tif -o out.tif", "lacks the option -o before '--'."),
        ("methods -report.json", "Write './-report.json' if it is a file"),
        ("denoise in.tif -o out.tif --presett fast", "Did you mean '--preset'?"),
        ("denoise in.tif -o out.tif -preset fast", "Did you mean '--preset'?"),
        ("denoise in.tif --outptu=out.tif", "Did you mean '--output'?"),
        ("denoise in.tif -o out.tif --xyzzy 3", "Check its spelling"),
        ("denois in.tif -o out.tif", "Did you mean 'denoise'?"),
        ("Denoise in.tif -o out.tif", "Did you mean 'denoise'?"),
        ("plan denoize in.tif", "Did you mean 'plan denoise'?"),
        ("explore spectrm in.tif", "Did you mean 'explore spectrum'?"),
        ("xyzzy", "Choose one of: denoise,"),
        ("demo --preset fst", 'Did you mean "fast". See'),
    ],
)
def test_a_slip_is_answered_by_what_to_write_instead(line, message, folder, capsys):
    files = sorted(folder.iterdir())
    assert main(line.split()) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and output.out == ""
    assert sorted(folder.iterdir()) == files


@pytest.mark.parametrize(
    "line",
    [
        "denoise in.tif -o=-out.tif",
        "denoise in.tif --output=-out.tif",
        "denoise in.tif -o ./-out.tif",
        "denoise -o=-out.tif {} -- -in.tif",
        "denoise ./--in.tif -o=-out.tif",
    ],
)
def test_names_that_begin_with_a_dash_work_as_the_message_says(line, folder):
    before, _, after = line.partition("{}")
    assert main([*before.split(), *SHORT, *after.split()]) == 0
    assert tifffile.imread(folder / "-out.tif").shape == (32, 32)


def test_a_file_that_is_called_like_an_option_is_no_option(folder, capsys):
    shutil.copy(folder / "in.tif", folder / "--preset")
    assert main(["denoise", "in.tif", "-o", "out.tif", *SHORT]) == 0
    assert main(["denoise", "-o", "out2.tif", *SHORT, "--", "--preset"]) == 0
