"""Messages stay readable, however long an argument or a text in a file is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main
from napari_dip.errors import make_refusal

if TYPE_CHECKING:
    from pathlib import Path

X = "x" * 100_000
OUT = ("-o", "o.tif")
TYPED = (
    (X,),
    ("plan", X),
    ("explore", X),
    ("denoise", X, *OUT),
    ("denoise", "in.tif", "-o", X),
    ("denoise", "in.tif", X, *OUT),
    ("denoise", "in.tif", *OUT, f"--{X}"),
    ("denoise", "in.tif", *OUT, f"-{X}"),
    ("denoise", "in.tif", *OUT, f"--quiet={X}"),
    ("denoise", "in.tif", *OUT, "--prior", X),
    ("denoise", "in.tif", *OUT, "--axes", X),
    ("denoise", "in.tif", *OUT, "--keep-after", X),
    ("denoise", "in.tif", *OUT, "--network-file", X),
    ("super-resolve", "in.tif", *OUT, "--factor", X),
    ("explore", "spectrum", "in.tif", "-o", "e", "--crop", X),
    ("explore", "architectures", "in.tif", "-o", "e", "--only", X),
    ("demo", "--preset", X),
    ("methods", X),
)
WRITTEN = ({X: 1}, {"settings": {X: 1}}, {"task": X}, {"settings": {"prior": X}}, {"seed": X})


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("in.tif", np.random.default_rng(0).poisson(90, (32, 32)).astype("uint16"))


@pytest.mark.parametrize("argv", TYPED, ids=lambda argv: " ".join(argv)[:40])
def test_long_arguments_are_shortened_in_the_message(argv, capsys) -> None:
    assert main(list(argv)) == 2
    error_output = capsys.readouterr().err
    assert len(error_output) < 1500 and ("…" in error_output or "..." in error_output)


@pytest.mark.parametrize("fields", WRITTEN)
def test_long_texts_in_a_recipe_are_cut_in_the_message(fields, tmp_path, capsys) -> None:
    recipe = {"schema": 1, "task": "denoise", "settings": {}, **fields}
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    assert main(["denoise", "in.tif", *OUT, "--from-recipe", "r.json"]) == 2
    assert len(capsys.readouterr().err) < 800


def test_a_long_text_keeps_both_its_ends_and_a_name_all_of_it() -> None:
    long, name = f"begin{X}end", f"{'n' * 251}.tif"
    sentence = make_refusal("argument-extra", argument=long, help="h").sentence
    assert "begin" in sentence and "end'" in sentence and len(sentence) < 300
    assert name in make_refusal("argument-extra", argument=name, help="h").sentence
