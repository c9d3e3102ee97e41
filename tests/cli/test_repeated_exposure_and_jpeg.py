"""`napari-dip denoise` with a repeated exposure, and with a JPEG image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image
from skimage import data

from napari_dip.cli import main

if TYPE_CHECKING:
    from pathlib import Path

FAST = ("--preset", "fast", "--max-iterations", "3", "--device", "cpu", "--quiet")


def save_exposure(path: Path, seed: int) -> str:
    truth = data.camera()[100:148, 150:198].astype(float)
    tifffile.imwrite(path, np.random.default_rng(seed).poisson(truth).astype("uint16"))
    return str(path)


def test_a_second_file_is_used_and_the_report_says_so(tmp_path: Path) -> None:
    first, second = (save_exposure(tmp_path / f"{seed}.tif", seed) for seed in (0, 1))
    report = tmp_path / "out.json"
    where = ["-o", str(tmp_path / "out.tif"), "--report", str(report)]
    assert main(["denoise", first, "--repeated-exposure", second, *where, *FAST]) == 0
    notes = json.loads(report.read_text(encoding="utf-8"))["notes"]
    assert any("Two measurements" in note for note in notes)


def test_the_same_file_twice_is_refused_and_nothing_is_written(tmp_path: Path, capsys) -> None:
    first, out = save_exposure(tmp_path / "0.tif", 0), tmp_path / "out.tif"
    assert main(["denoise", first, "--repeated-exposure", first, "-o", str(out), *FAST]) == 2
    assert "same pixels" in capsys.readouterr().err
    assert not out.exists()


def test_a_compressed_photograph_is_taken_as_it_comes(tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.jpg", tmp_path / "out.tif"
    Image.fromarray(data.astronaut()[40:104, 160:224]).save(photo, quality=30)
    assert main(["denoise", str(photo), "--noise", "jpeg", "-o", str(out), *FAST]) == 0
    assert tifffile.imread(out).shape == (64, 64, 3)
