"""`napari-dip noise` prints the measured noise, and writes no file unless requested."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main


@pytest.fixture
def image(tmp_path):
    rng = np.random.default_rng(0)
    scene = 200 + 150 * np.sin(np.arange(96) / 15)[:, None] * np.ones((96, 96))
    tifffile.imwrite(tmp_path / "in.tif", (2 * rng.poisson(scene / 2)).astype(np.uint16))
    return str(tmp_path / "in.tif")


def test_it_prints_sentences_and_writes_nothing(tmp_path, image, capsys):
    assert main(["noise", image]) == 0
    output = capsys.readouterr().out
    assert output.startswith("The noise is ") and "variance grows by" in output
    assert "read noise" in output and "offset" in output
    assert "pixels are hidden" in output
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_it_prints_and_writes_json(tmp_path, image, capsys):
    assert main(["noise", image, "--json", "--report", str(tmp_path / "noise.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "noise.json").read_text(encoding="utf-8"))
    assert printed["channels"][0]["gain"] == pytest.approx(2, rel=0.3)


def test_a_missing_image_and_an_existing_report_are_refused(tmp_path, image, capsys):
    assert main(["noise", str(tmp_path / "none.tif")]) == 2
    (tmp_path / "noise.json").write_text("mine")
    assert main(["noise", image, "--report", str(tmp_path / "noise.json")]) == 2
    assert (tmp_path / "noise.json").read_text() == "mine"
    assert capsys.readouterr().out == ""


def test_a_run_says_what_its_result_is_worth(tmp_path, image, capsys):
    out, report = tmp_path / "out.tif", tmp_path / "report.json"
    line = ["denoise", image, "-o", str(out), "--preset", "fast", "--max-iterations", "20"]
    assert main([*line, "--report", str(report), "--device", "cpu"]) == 0
    record = json.loads(report.read_text(encoding="utf-8"))["verdict"]
    error_output = capsys.readouterr().err
    assert record["headline"] in error_output and "--verbose" in error_output
    card = error_output[error_output.index(record["headline"]) :]
    assert len(card.splitlines()) <= 6
    assert main([*line, "--verbose", "--overwrite", "--device", "cpu"]) == 0
    error_output = capsys.readouterr().err
    assert record["sentences"] and all(sentence in error_output for sentence in record["sentences"])
    assert "Mean intensity was kept within 0.5%." in record["sentences"]


def test_saturation_is_said_before_the_work_and_once(tmp_path, capsys):
    pixels = np.random.default_rng(0).normal(200, 40, (64, 64)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    line = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]
    assert main([*line, "--max-iterations", "5", "--device", "cpu"]) == 0
    error_output = capsys.readouterr().err
    assert error_output.count("saturated") == 1
    assert error_output.index("saturated") < error_output.index("Done")


def test_frames_of_the_detector_give_offset_and_gain(tmp_path, image, capsys):
    rng = np.random.default_rng(3)
    for name, light in (("dark", 0), ("flat", 300)):
        shots = 2 * rng.poisson(light, (4, 48, 48)) + rng.normal(50, 3, (4, 48, 48))
        pixels = np.rint(shots).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="minisblack")
    line = ["noise", image, "--dark", str(tmp_path / "dark.tif"), "--flat"]
    assert main([*line, str(tmp_path / "flat.tif"), "--json"]) == 0
    (channel,) = json.loads(capsys.readouterr().out)["channels"]
    assert channel["offset"] == pytest.approx(50, abs=0.2)
    assert channel["read_noise"] == pytest.approx(3, rel=0.05)
    assert channel["gain"] == pytest.approx(2, rel=0.05)
