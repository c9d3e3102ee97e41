"""A network learns an image before noise, and the score says by how much."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import tifffile
from skimage import data

from napari_dip import explore
from napari_dip.cli import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.explore.experiment_setup import TARGET_LABELS, make_experiment_setup
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.explore.noise_impedance import compute_impedance, explore_impedance, make_targets


def load_small_image(side: int = 48) -> np.ndarray:
    """Smooth and bright, with an edge: the middle of the cameraman, made coarser."""
    return data.camera()[64:448:8, 64:448:8][:side, :side]


@pytest.fixture(scope="module")
def result():
    return explore.impedance(load_small_image(), max_iterations=20, device="cpu")


@pytest.mark.long
def test_the_energy_of_an_image_falls_before_that_of_noise(result):
    half = {name: int(np.argmax(curve < 0.5)) for name, curve in result.losses.items()}
    assert result.losses["image"].min() < 0.5
    for rough in ("noise", "shuffled"):
        assert result.losses[rough].min() > 0.5 or half[rough] > half["image"]
    assert result.score > 0.05


@pytest.mark.long
def test_energies_begin_at_the_variance_of_the_targets(result):
    # an untrained network says nearly nothing: what is missing is the whole target
    for curve in result.losses.values():
        assert len(curve) == 20 and curve[0] == pytest.approx(1, abs=0.5)


def test_targets_are_standardised_and_share_nothing_but_what_they_should():
    targets = make_targets(load_small_image().astype(np.float32), seed=3)
    assert list(targets) == list(TARGET_LABELS)
    for target in targets.values():
        assert target.mean() == pytest.approx(0, abs=1e-5) and target.std() == pytest.approx(
            1, abs=1e-5
        )
    correlation = {name: np.mean(targets["image"] * target) for name, target in targets.items()}
    assert correlation["image_and_noise"] == pytest.approx(1 / np.sqrt(1.25), abs=0.02)
    assert abs(correlation["shuffled"]) < 0.1 and abs(correlation["noise"]) < 0.1
    assert sorted(targets["shuffled"].ravel()) == pytest.approx(sorted(targets["image"].ravel()))


def test_the_score_does_not_change_when_a_network_learns_twice_as_fast():
    at = np.arange(1, 4001)
    slow = [1 / (1 + at / scale) for scale in (400, 20)]
    fast = [1 / (1 + at / scale) for scale in (200, 10)]
    assert compute_impedance(*slow) == pytest.approx(compute_impedance(*fast), rel=0.05)
    assert compute_impedance(np.ones(9), np.zeros(9)) == pytest.approx(1)
    assert compute_impedance(np.ones(9), np.ones(9)) == 0


@pytest.mark.long
def test_the_same_seed_gives_the_same_energies_and_another_does_not():
    once, again, other = (
        explore.impedance(load_small_image(24), max_iterations=4, seed=seed, device="cpu")
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(once.losses[name], again.losses[name]) for name in TARGET_LABELS)
    assert once.losses["image"].tolist() != other.losses["image"].tolist()


def test_an_experiment_ends_on_request():
    subject = make_experiment_setup(load_small_image(24), max_iterations=50, device="cpu")
    answers = iter([Control.GO] * 3)
    steps = explore_impedance(subject, poll_control=lambda: next(answers, Control.KEEP))
    events = []
    with pytest.raises(StopIteration) as stop:
        while True:
            events.append(next(steps))
    assert stop.value.value is None and len(events) <= 4


@pytest.mark.long
def test_the_table_holds_the_numbers_of_the_run_and_the_page_needs_nothing_else(result, tmp_path):
    page = result.save(tmp_path / "out")
    table = (tmp_path / "out" / "impedance.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    for name, curve in result.losses.items():
        assert [float(row[name]) for row in rows] == curve.tolist()
    files = EXPERIMENTS["impedance"].files
    assert {path.name for path in page.parent.iterdir()} == set(files) and page.name == files[0]
    record = json.loads((tmp_path / "out" / "impedance.json").read_text(encoding="utf-8"))
    assert record["score"] == result.score and record["recipe"]["max_iterations"] == 20
    text = page.read_text(encoding="utf-8")
    assert f"{result.score:.3f}" in text and f"{result.get_losses(10)['noise']:.3f}" in text
    assert not re.search(r"(?i)(src|href)\s*=\s*[\"'](?!data:)|https?:|<script|<link|@import", text)
    assert (tmp_path / "out" / "impedance.png").read_bytes().startswith(b"\x89PNG")


def test_existing_files_are_replaced_only_on_request(result, tmp_path):
    (tmp_path / "impedance.csv").write_text("mine")
    with pytest.raises(RefusedError, match="already exists"):
        result.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["impedance.csv"]
    result.save(tmp_path, overwrite=True)
    assert (tmp_path / "impedance.csv").read_text() != "mine"


def test_the_command_writes_a_folder_and_prints_its_page(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "in.tif", load_small_image(24))
    line = ["explore", "impedance", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out")]
    assert main([*line, "--max-iterations", "3", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(tmp_path / "out" / "impedance.html")
    assert "Impedance score: none, since 10 iterations or more" in output.err
    assert main(line) == 2  # there already
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "8"], "crop"),
        (["--crop", "many"], "crop"),
        (["--max-iterations", "0"], "--max-iterations"),
        (["--preset", "slow"], "--preset"),
        (["--axes", "CYX"], "channels"),
    ],
)
def test_bad_settings_are_refused_with_a_message_and_leave_nothing(
    options, message, tmp_path, capsys
):
    image = np.stack([load_small_image(24)] * 2) if "CYX" in options else load_small_image(24)
    tifffile.imwrite(tmp_path / "in.tif", image, photometric="minisblack")
    line = ["explore", "impedance", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out")]
    assert main([*line, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_colours_are_averaged_and_large_images_cut_and_both_is_said():
    subject = make_experiment_setup(data.astronaut()[:64, :40], axes="YXS", crop=32, device="cpu")
    assert subject.image.shape == (32, 32)
    middle = data.astronaut()[16:48, 4:36].mean(2)
    assert np.allclose(subject.image, middle, atol=1e-3)
    assert "averaged" in " ".join(map(str, subject.notes)) and "32 × 32" in " ".join(
        map(str, subject.notes)
    )


def test_an_unknown_experiment_is_refused_with_those_that_there_are(capsys):
    assert main(["explore", "magic"]) == 2
    assert "impedance, spectrum" in capsys.readouterr().err


def test_the_experiment_says_what_impedance_to_noise_is():
    description = EXPERIMENTS["impedance"].description
    assert "Impedance to noise: how much later it learns noise than the image." in description
