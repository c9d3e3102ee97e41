"""Architectures are compared under the same conditions, and the verdict follows from that."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from skimage import data

from fit_inputs import make_plain_fit_input
from napari_dip import explore
from napari_dip.cli import main
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.errors import RefusedError
from napari_dip.explore.architecture_fits import SelectedStop, find_stop, is_significantly_worse
from napari_dip.explore.experiment_setup import (
    choose_architectures,
    find_architecture,
    label_architecture,
    list_all_architectures,
    list_plan_architectures,
    make_experiment_setup,
)
from napari_dip.explore.experiments import EXPERIMENTS
from napari_dip.tasks.priors.prior_spec import PriorOptions, RandomInputOptions
from napari_dip.tasks.priors.random_input import (
    ARCHITECTURE_LABELS,
    MAX_SCALES,
    build_from_architecture,
    list_architectures,
)
from napari_dip.tasks.priors.registry import RANDOM_INPUT_PRIOR

ONLY = ("half-width", "decoder", "sgd", "deep-decoder")


def load_clean(side: int = 32) -> np.ndarray:
    return data.camera()[64:448:8, 64:448:8][:side, :side].astype(np.float32)


def make_noisy(side: int = 32) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 25, (side, side))
    return (load_clean(side) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def comparison():
    return explore.architectures(
        make_noisy(), truth=load_clean(), only=ONLY, max_iterations=12, device="cpu"
    )


@pytest.mark.long
def test_each_design_learns_and_the_one_of_the_preset_stands_first(comparison):
    assert [fit.architecture.name for fit in comparison.fits] == [
        "preset",
        "decoder",
        "half-width",
        "sgd",
        "deep-decoder",
    ]
    for fit in comparison.fits:
        assert (
            fit.image_loss[-1] < fit.image_loss[0]
            and len(fit.noise_loss) == len(fit.image_loss) == 12
        )
        assert fit.correspondence.shape == (12, 5) and np.isfinite(fit.validation_errors).all()


def test_the_architecture_of_the_preset_is_the_network_of_a_denoising():
    scene, rate = make_plain_fit_input((16, 16)), 0.01
    architecture = list_architectures(scene.widths, rate)["preset"]
    ours = build_from_architecture(architecture, scene.grid, torch.Generator().manual_seed(3))
    without_jitter = PriorOptions(random_input=RandomInputOptions(jitter=0.0))
    theirs = RANDOM_INPUT_PRIOR.build_prior(scene, torch.Generator().manual_seed(3), without_jitter)
    assert isinstance(theirs, RandomInputPrior) and isinstance(ours, RandomInputPrior)
    assert torch.equal(ours.random_input, theirs.random_input) and ours.jitter == theirs.jitter
    pairs = zip(ours.network.parameters(), theirs.network.parameters(), strict=True)
    assert all(torch.equal(weight, other) for weight, other in pairs)


@pytest.mark.long
def test_scores_and_image_are_those_of_the_curves(comparison):
    for fit in comparison.fits:
        assert fit.validation_error == pytest.approx(fit.squared_errors.mean(), rel=1e-4)
        error = np.mean((fit.image.astype(float) - load_clean()) ** 2)
        peak = float(np.ptp(load_clean()))
        assert fit.selected_psnr == pytest.approx(10 * np.log10(peak**2 / error), abs=1e-3)
        assert fit.best_psnr == fit.psnr.max() >= fit.selected_psnr


def test_the_verdict_names_the_least_error_unless_the_preset_is_level(comparison):
    errors = {fit.architecture.name: fit.validation_error for fit in comparison.fits}
    assert errors[comparison.best.architecture.name] == min(errors.values())
    worse = [
        replace(
            fit, squared_errors=fit.squared_errors + 1, validation_errors=fit.validation_errors + 1
        )
        for fit in comparison.fits
    ]
    alone = replace(comparison, fits=(worse[0], comparison.fits[1], *worse[2:]))
    assert alone.verdict.startswith("'decoder' (Decoder only) suits this image best")
    assert alone.equivalent_fits == ()
    tie = replace(comparison, fits=(comparison.fits[1], *worse[1:]))
    tie = replace(
        tie, fits=(replace(tie.fits[0], architecture=comparison.fits[0].architecture), *worse[1:])
    )
    assert tie.verdict.startswith("The network of the preset suits this image")


def test_a_difference_counts_only_beyond_its_chance():
    rng = np.random.default_rng(0)
    errors = rng.chisquare(1, 400)
    assert is_significantly_worse(
        errors + 0.02, errors, 2.0
    )  # pixel by pixel alike, so it is certain
    assert not is_significantly_worse(errors[::-1] + 0.02, errors, 2.0)
    assert not is_significantly_worse(errors, errors, 2.0)


def test_the_stop_is_where_a_fit_would_have_ended_not_where_this_one_did():
    falls_then_rises = np.abs(np.arange(1, 401) - 100) / 100 + 1
    stop = find_stop(falls_then_rises)
    assert stop.selected_iteration == 100 and stop.stop_iteration < 400
    assert find_stop(np.linspace(2, 1, 400)) == SelectedStop(
        stop_iteration=400, selected_iteration=400
    )


def test_all_designs_are_different_and_the_narrow_deep_decoder_is_under_parametrised():
    from napari_dip.explore.experiment_fit import count_weights

    architectures = list_plan_architectures(make_experiment_setup(load_clean(), device="cpu").plan)
    assert (
        len({replace(architecture, name="", label="") for architecture in architectures.values()})
        == len(architectures)
        > 16
    )
    assert {f"depth-{count}" for count in range(1, MAX_SCALES + 1) if count != 4} < set(
        architectures
    )
    assert count_weights(architectures["deep-decoder"], (128, 128)) < 128**2 / 4
    assert count_weights(architectures["preset"], (128, 128)) > 128**2


def test_unknown_designs_are_refused_with_those_that_there_are():
    subject = make_experiment_setup(load_clean(), device="cpu")
    assert [
        architecture.name for architecture in choose_architectures(subject, "sgd, nearest")
    ] == [
        "preset",
        "nearest",
        "sgd",
    ]
    with pytest.raises(RefusedError, match=r"magic.*there are preset, no-skips"):
        choose_architectures(subject, "sgd,magic")
    with_numbers = [
        architecture.name
        for architecture in choose_architectures(subject, "upsampling-0.3,lipschitz-1.7,no-skips")
    ]
    assert with_numbers == ["preset", "no-skips", "upsampling-0.3", "lipschitz-1.7"]


@pytest.mark.parametrize(
    ("name", "message", "bound", "sigma"),
    [
        ("lipschitz-1.70", "Lipschitz bound 1.7", 1.7, None),
        ("decoder+rate-0.001", "Decoder only, rate 0.001", None, None),
        ("preset+upsampling-0.3", "Gaussian upsampling, width 0.3", None, 0.3),
        ("decoder+lipschitz-2", "Decoder, Lipschitz bound 2", 2.0, None),
        ("depth-4", "hourglass of 16 → 32 → 64 → 64 channels, skips of 4", None, None),
    ],
)
def test_a_control_takes_any_number_within_its_limits(name, message, bound, sigma):
    architectures = list_plan_architectures(make_experiment_setup(load_clean(), device="cpu").plan)
    architecture = find_architecture("network", name, architectures)
    assert (architecture.label, architecture.lipschitz_bound, architecture.upsampling_sigma) == (
        message,
        bound,
        sigma,
    )
    assert find_architecture("network", architecture.name, architectures) == architecture


@pytest.mark.parametrize(
    "name",
    [
        "lipschitz-0",
        "lipschitz-1e9",
        "upsampling-nan",
        "lipschitz-",
        "sharpen-2",
        "",
        "decoder+",
        "nearest+upsampling-1",
        "lipschitz-2+lipschitz-3",
        "rate-0.1+rate-0.2",
        "decoder+sgd",
    ],
)
def test_what_no_network_can_be_is_refused_with_what_there_is(name):
    architectures = list_plan_architectures(make_experiment_setup(load_clean(), device="cpu").plan)
    with pytest.raises(RefusedError, match=r"lipschitz-NUMBER from 0\.1 to 100.*Give one of these"):
        find_architecture("network", name, architectures)


@pytest.mark.long
def test_the_tables_hold_the_numbers_of_the_run_and_the_page_needs_nothing_else(
    comparison, tmp_path
):
    page = comparison.save(tmp_path / "out")
    rows = read_table(tmp_path / "out" / "architectures.csv")
    for row, fit in zip(rows, comparison.fits, strict=True):
        assert row["name"] == fit.architecture.name and float(row["impedance"]) == fit.impedance
        assert float(row["oracle_psnr"]) == fit.best_psnr
    curves = read_table(tmp_path / "out" / "curves.csv")
    energy = [float(row["energy"]) for row in curves if row["design"] == "sgd"]
    assert energy == comparison.fits[3].image_loss.tolist()
    files = EXPERIMENTS["architectures"].files
    assert {path.name for path in page.parent.iterdir()} == set(files) and page.name == files[0]
    record = json.loads((tmp_path / "out" / "architectures.json").read_text(encoding="utf-8"))
    assert (
        record["best"] == comparison.best.architecture.name
        and record["designs"][3]["optimiser"] == "sgd"
    )
    text = page.read_text(encoding="utf-8")
    assert (
        f"{comparison.best.validation_error:.4f}" in text
        and f"{comparison.fits[1].impedance:.3f}" in text
    )
    assert not re.search(r"(?i)(src|href)\s*=\s*[\"'](?!data:)|https?:|<script|<link|@import", text)


def test_the_command_compares_what_is_named_and_says_which_suits(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "in.tif", make_noisy(24))
    line = ["explore", "architectures", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out")]
    assert main([*line, "--only", "magic"]) == 2
    assert "magic" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*line, "--only", "depth-1", "--max-iterations", "3", "--device", "cpu"]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(tmp_path / "out" / "architectures.html")
    assert "suits this image" in output.err
    assert len(read_table(tmp_path / "out" / "curves.csv")) == 6


def read_table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_an_architecture_has_the_same_label_in_the_explorer_and_in_denoise():
    architectures = list_all_architectures()
    labels = {name: label_architecture(row) for name, row in architectures.items()}
    assert labels == {**ARCHITECTURE_LABELS, "sgd": labels["sgd"], "l-bfgs": labels["l-bfgs"]}
    assert len(set(labels.values())) == len(labels)


def test_the_labels_of_deep_decoders_have_their_channels():
    for name in ("deep-decoder", "wide-deep-decoder"):
        widths = list_all_architectures()[name].widths
        assert f"{widths[0]} channels" in ARCHITECTURE_LABELS[name]
