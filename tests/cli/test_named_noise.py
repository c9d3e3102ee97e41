"""`napari-dip denoise` with a named noise model: its outputs and its refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from skimage import data

from napari_dip.cli import main

if TYPE_CHECKING:
    from pathlib import Path

FAST = ("--preset", "fast", "--max-iterations", "3", "--device", "cpu", "--quiet")


def save_image(path: Path, image: np.ndarray) -> str:
    tifffile.imwrite(path, image)
    return str(path)


def test_faulty_pixels_are_counted_in_the_report_and_named_in_the_recipe(tmp_path: Path) -> None:
    pixels = data.moon()[200:248, 200:248].copy()
    pixels[::7, ::5] = 255
    image, report, recipe = (tmp_path / name for name in ("in.tif", "out.json", "recipe.json"))
    where = ["-o", str(tmp_path / "out.tif"), "--report", str(report), "--recipe", str(recipe)]
    argv = ["denoise", save_image(image, pixels), "--noise", "salt-and-pepper"]
    assert main([*argv, *where, *FAST]) == 0
    record = json.loads(report.read_text(encoding="utf-8"))
    assert record["noise"]["model"] == "salt-and-pepper"
    assert any(note.startswith("70 pixels (3.04%)") for note in record["notes"])
    assert "salt-and-pepper" in recipe.read_text(encoding="utf-8")


def test_speckle_below_zero_is_refused_and_nothing_is_written(tmp_path: Path, capsys) -> None:
    pixels = np.random.default_rng(0).normal(0, 1, (32, 32)).astype(np.float32)
    image, out = save_image(tmp_path / "in.tif", pixels), tmp_path / "out.tif"
    assert main(["denoise", image, "--noise", "speckle", "-o", str(out), *FAST]) == 2
    error_output = capsys.readouterr().err
    assert f"{(pixels < 0).sum()} of the 1024 pixels" in error_output
    assert not out.exists()
