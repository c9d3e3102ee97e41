"""Low frequencies are learned before high ones, and the measures show it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from skimage import data

from napari_dip import explore
from napari_dip.cli import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.explore import spectra
from napari_dip.explore.experiment_fit import iter_fit
from napari_dip.explore.experiment_setup import make_experiment_setup
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.explore.spectral_measures import (
    Correspondence,
    compute_band_edges,
    compute_radial_power,
    find_level_iterations,
    find_ratio_stop,
    measure_sharpness,
)
from napari_dip.pipeline.torch_state import use_default_torch_state


def load_clean(side: int = 48) -> np.ndarray:
    return data.camera()[64:448:8, 64:448:8][:side, :side].astype(np.float32)


def make_noisy(side: int = 48) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 25, (side, side))
    return (load_clean(side) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def result():
    return explore.spectrum(make_noisy(), truth=load_clean(), max_iterations=30, device="cpu")


@pytest.mark.long
def test_the_lowest_band_is_learned_first_and_the_highest_last(result):
    mean = result.correspondence.mean(0)
    assert mean.argmax() == 0 and mean.argmin() in (3, 4)
    at = find_level_iterations(result.correspondence, 0.5)
    assert at[0] and all(other == 0 or other >= at[0] for other in at)


@pytest.mark.long
def test_the_energy_falls_and_the_output_nears_the_truth(result):
    assert result.loss[-1] < 0.5 * result.loss[0]
    assert result.psnr[-1] > result.psnr[0] + 3
    error = np.mean((result.reported_outputs[30].astype(float) - load_clean()) ** 2)
    peak = float(load_clean().max() - load_clean().min())
    assert result.psnr[-1] == pytest.approx(10 * np.log10(peak**2 / error), abs=1e-6)


def test_validation_pixels_evaluate_the_second_fit(result):
    stop = result.validation_stop
    errors = dict(stop.validation_errors)
    assert stop.best_iteration in errors and all(np.isfinite(list(errors.values())))
    assert errors[stop.best_iteration] == min(errors.values())


def test_white_noise_has_the_same_power_at_all_frequencies():
    rng = np.random.default_rng(1)
    many = [compute_radial_power(rng.normal(7, 3, (48, 40)).astype(np.float32)) for _ in range(200)]
    frequency, power = many[0][0], np.mean([powers for _, powers in many], 0)
    assert len(power) == 20 and frequency[0] < 0.04 and 0.45 < frequency[-1] <= 0.5
    assert power[1:] == pytest.approx(np.full(19, 9.0), rel=0.1)  # of the first the mean is off
    assert 4.5 < power[0] < 10


def test_a_wave_has_its_power_where_its_frequency_is():
    wave = np.sin(2 * np.pi * 0.3 * np.arange(100))[None] * np.ones((100, 1))
    frequency, power = compute_radial_power(wave.astype(np.float32))
    assert frequency[power.argmax()] == pytest.approx(0.3, abs=0.01)


def test_correspondence_is_one_for_the_target_and_nothing_for_nothing():
    target = make_noisy()
    correspondence = Correspondence(target).compute
    assert correspondence(target) == pytest.approx(np.ones(5), abs=1e-6)
    assert correspondence(np.zeros_like(target)) == pytest.approx(np.zeros(5))
    assert correspondence(target / 4) == pytest.approx(np.full(5, 0.25), abs=1e-6)
    assert correspondence(3 * target) == pytest.approx(np.ones(5), abs=1e-6)  # clipped


def test_a_band_is_reached_after_its_least_and_not_by_the_first_random_output():
    course = np.array([[0.6, 0.6], [0.1, 0.1], [0.4, 0.2], [0.5, 0.3], [0.4, 0.3]])
    assert find_level_iterations(course, 0.5) == (4, 0)


def test_a_low_pass_keeps_the_low_bands_and_loses_the_high_ones():
    target = np.random.default_rng(2).normal(0, 1, (64, 48))
    down, across = np.fft.fftfreq(64)[:, None], np.fft.fftfreq(48)[None]
    kept = np.hypot(down, across) <= compute_band_edges()[2]
    low = np.fft.ifft2(np.fft.fft2(target) * kept).real
    correspondence = Correspondence(target.astype(np.float32)).compute(low.astype(np.float32))
    assert correspondence[:2] == pytest.approx([1, 1], abs=1e-3)
    assert correspondence[2:] == pytest.approx([0, 0, 0], abs=1e-3)


def test_a_blurred_image_is_blurrier_and_less_sharp():
    image = load_clean() / 255
    blurred = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3
    sharp, blurry = measure_sharpness(image), measure_sharpness(blurred)
    assert blurry.blurriness > sharp.blurriness and blurry.sharpness < sharp.sharpness
    assert blurry.blurriness / blurry.sharpness > sharp.blurriness / sharp.sharpness


def test_the_sharpness_of_an_edge_is_its_height():
    edge = np.zeros((20, 20), np.float32)
    edge[:, 10:] = 0.25  # of 18 x 18 inner pixels those on either side of it see a step
    weight = np.where(np.arange(18 * 18) < 36, np.exp(-0.01 * np.arange(18 * 18)), 0)
    assert measure_sharpness(edge).sharpness == pytest.approx(
        0.25 * np.sqrt(np.mean(weight**2)), rel=1e-5
    )


def test_the_ratio_has_settled_where_its_average_no_longer_changes():
    falling = 5 * np.exp(-np.arange(90) / 10)
    at = find_ratio_stop(falling, window=5, tolerance=0.01)
    means = [falling[at - 5 : at].mean(), falling[at - 10 : at - 5].mean()]
    before = [falling[at - 6 : at - 1].mean(), falling[at - 11 : at - 6].mean()]
    assert abs(means[0] - means[1]) < 0.01 <= abs(before[0] - before[1])
    assert find_ratio_stop(falling[:9], window=5) == 0  # too short to tell
    assert find_ratio_stop(np.arange(60.0), window=5) == 0


@pytest.mark.long
def test_the_tables_hold_the_numbers_of_the_run_and_the_page_needs_nothing_else(result, tmp_path):
    page = result.save(tmp_path / "out")
    rows = read_table(tmp_path / "out" / "bands.csv")
    assert [float(row["band_1"]) for row in rows] == result.correspondence[:, 0].tolist()
    assert [float(row["ratio"]) for row in rows] == result.ratio.tolist()
    assert [float(row["psnr"]) for row in rows] == result.psnr.tolist()
    power = read_table(tmp_path / "out" / "power.csv")
    assert [float(row["truth"]) for row in power] == result.power["truth"].tolist()
    assert [float(row["iteration_30"]) for row in power] == result.power["30"].tolist()
    files = EXPERIMENTS["spectrum"].files
    assert {path.name for path in page.parent.iterdir()} == set(files) and page.name == files[0]
    record = json.loads((tmp_path / "out" / "spectrum.json").read_text(encoding="utf-8"))
    assert record["held_out_stop"]["best_iteration"] == result.validation_stop.best_iteration
    text = page.read_text(encoding="utf-8")
    assert f"{result.psnr.max():.2f} dB" in text and f"{result.correspondence[-1, 4]:.2f}" in text
    assert not re.search(r"(?i)(src|href)\s*=\s*[\"'](?!data:)|https?:|<script|<link|@import", text)


def test_a_run_whose_last_image_is_the_best_is_called_too_short(result):
    stop = result.validation_stop
    for best, headline in ((stop.iterations, "Too short to tell where to stop"), (5, "Best by")):
        changed = replace(result, validation_stop=replace(stop, best_iteration=best))
        assert changed.summarise().headline.startswith(headline)
        text = " ".join(changed.sentences)
        assert ("too short to tell" in text) == (best == stop.iterations)
        assert ("best at iteration 5." in text) == (best == 5)
    assert "from coarse to fine" in text and "never" not in text


@pytest.mark.parametrize(("ratio_stop", "title"), [(7, "Blue dashes:"), (0, "The ratio never ")])
def test_the_title_of_the_stops_names_only_lines_that_are_drawn(
    result, monkeypatch, ratio_stop, title
):
    figures = []
    monkeypatch.setattr(spectra, "render_figure", figures.append)
    figure = next(
        figure
        for figure in replace(result, ratio_stop=ratio_stop).make_report().figures
        if figure.file == "stopping.png"
    )
    figure.draw()
    (panel, *_) = figures[0].axes
    has_blue_dashes = any(
        line.get_linestyle() == "--" and line.get_color() == "tab:blue" for line in panel.lines
    )
    assert panel.get_title().startswith(title) and has_blue_dashes == bool(ratio_stop)


def fit_noise(network):
    subject = make_experiment_setup(
        make_noisy(32), architecture=network, max_iterations=60, device="cpu"
    )
    noise = np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)
    with use_default_torch_state(subject.plan.threads):
        return [event.loss for event in iter_fit(noise, subject, poll_control=lambda: Control.GO)]


@pytest.mark.long
def test_bounded_layers_hold_noise_back_that_free_ones_learn():
    free, bounded = (fit_noise(name)[-1] for name in ("preset", "decoder+lipschitz-1"))
    assert free < 0.5 and bounded > 0.85


def test_the_page_names_the_network_and_its_bound(tmp_path):
    network = "decoder+lipschitz-1.7"
    result = explore.spectrum(make_noisy(24), architecture=network, max_iterations=3, device="cpu")
    assert result.setup.recipe["architecture"] == network
    text = result.save(tmp_path / "out").read_text(encoding="utf-8")
    assert "Lipschitz bound 1.7, else hourglass" in text and "here the bound is 1.7." in text


@pytest.mark.long
def test_the_command_takes_the_truth_and_refuses_one_of_another_size(tmp_path, capsys):
    for name, image in (
        ("in", make_noisy(24)),
        ("truth", load_clean(24)),
        ("other", load_clean(32)),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    line = ["explore", "spectrum", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out")]
    assert main([*line, "--architecture", "lipschitz-0"]) == 2
    assert "'--architecture' cannot be 'lipschitz-0'" in capsys.readouterr().err
    assert main([*line, "--truth", str(tmp_path / "other.tif")]) == 2
    assert "is 32 × 32 pixels, but 'in.tif' is 24 × 24" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    truth = ["--truth", str(tmp_path / "truth.tif"), "--max-iterations", "3", "--device", "cpu"]
    assert main([*line, *truth, "--quiet"]) == 0
    assert len(read_table(tmp_path / "out" / "bands.csv")) == 3


def read_table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
