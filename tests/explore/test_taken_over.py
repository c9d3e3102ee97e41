"""The architecture that suits an image can be used for denoising."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from skimage import data

import napari_dip as dip
from fit_inputs import make_task_plan
from napari_dip import explore
from napari_dip.cli import main
from napari_dip.errors import RefusedError
from napari_dip.explore.experiment_setup import find_architecture
from napari_dip.io import ImageHeader
from napari_dip.pipeline.plan.costs import choose_fit_config
from napari_dip.pipeline.recipe import make_recipe, recipe_from_json
from napari_dip.tasks.priors.random_input import (
    ARCHITECTURE_LABELS,
    build_from_architecture,
    list_architectures,
)

SPEC = ImageHeader(name="cells", shape=(64, 64), dtype="float32", axes="YX")
NETWORKS = tuple(ARCHITECTURE_LABELS)


def make_noisy(side: int = 24) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 25, (side, side))
    return (data.camera()[64:448:16, 64:448:16][:side, :side] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def comparison():
    return explore.architectures(make_noisy(), only="decoder,sgd", max_iterations=8, device="cpu")


def test_a_comparison_leaves_a_recipe_that_the_command_takes(comparison, tmp_path):
    first, other = (
        comparison.fits[0],
        next(fit for fit in comparison.fits if fit.architecture.name == "decoder"),
    )
    better = replace(
        other,
        validation_errors=0 * other.validation_errors,
        squared_errors=0 * other.squared_errors,
    )
    comparison = replace(comparison, fits=(first, better))
    assert (
        comparison.recommended_fit is better
        and "the architecture 'decoder'" in comparison.sentences[-1]
    )
    comparison.save(tmp_path / "out")
    recipe = recipe_from_json((tmp_path / "out" / "denoising.json").read_text(encoding="utf-8"))
    assert recipe.task.architecture == "decoder" and recipe.run_settings.preset == "fast"
    tifffile.imwrite(tmp_path / "in.tif", make_noisy())
    line = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "result.tif"), "--quiet"]
    line += ["--from-recipe", str(tmp_path / "out" / "denoising.json"), "--device", "cpu"]
    assert main([*line, "--max-iterations", "3"]) == 0
    assert tifffile.imread(tmp_path / "result.tif").shape == (24, 24)


def test_an_optimiser_has_no_place_in_a_recipe_and_that_is_said(comparison):
    first, other = (
        comparison.fits[0],
        next(fit for fit in comparison.fits if fit.architecture.name == "sgd"),
    )
    better = replace(
        other,
        validation_errors=0 * other.validation_errors,
        squared_errors=0 * other.squared_errors,
    )
    comparison = replace(comparison, fits=(first, better))
    assert comparison.denoising_recipe.task.architecture == "preset"
    assert "no place for the optimiser of 'sgd'" in comparison.sentences[-1]


def test_every_network_of_a_recipe_is_a_design_and_the_preset_is_as_before():
    architectures = list_architectures((16, 32, 64), 0.01)
    assert {*NETWORKS} - {"depth-3"} == {*architectures} - {"sgd", "l-bfgs"}
    plain = dip.denoise(
        make_noisy(), prior="random-input", preset="fast", max_iterations=3, device="cpu"
    )
    assert "architecture" not in plain.recipe.task.to_dict()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "network", ["no-skips", "coordinates", "deep-decoder", "decoder+lipschitz-2+upsampling-0.5"]
)
def test_another_network_makes_another_image_from_the_same_seed(network):
    settings = {"preset": "fast", "max_iterations": 3, "device": "cpu"}
    plain = dip.denoise(make_noisy(), prior="random-input", **settings)
    other = dip.denoise(make_noisy(), architecture=network, **settings)  # automatic: fixed noise
    assert other.report["prior"]["key"] == "random-input"
    assert not np.array_equal(plain.image, other.image) and np.isfinite(other.image).all()


def test_depth_and_width_are_known_to_the_plan():
    usual, half, deep = (
        choose_fit_config(recipe, make_task_plan(recipe.task, SPEC), SPEC)[0].widths
        for recipe in (
            make_recipe("denoise", prior="random-input", architecture=name)
            for name in ("preset", "half-width", "depth-2")
        )
    )
    assert half == tuple(width // 2 for width in usual) and deep == usual[:2]


@pytest.mark.parametrize("settings", [{"prior": "blind-spot"}, {"noise": "salt-and-pepper"}])
def test_a_network_where_another_prior_has_its_own_is_refused(settings):
    with pytest.raises(RefusedError, match="network of its own"):
        dip.denoise(make_noisy(), architecture="decoder", **settings)


def test_a_number_of_ones_own_has_no_place_in_a_recipe_and_that_is_said(comparison):
    first, other = comparison.fits[0], comparison.fits[1]
    architecture = find_architecture("only", "lipschitz-1.7", list_architectures((16, 32), 0.01))
    better = replace(
        other,
        architecture=architecture,
        validation_errors=0 * other.validation_errors,
        squared_errors=0 * other.squared_errors,
    )
    comparison = replace(comparison, fits=(first, better))
    assert comparison.denoising_recipe.task.architecture == "preset"
    assert "no place for the numbers of 'lipschitz-1.7'" in comparison.sentences[-1]


@pytest.mark.parametrize(
    "name", ["decoder", "wide-deep-decoder", "he-weights", "lipschitz-2", "upsampling-0.5"]
)
def test_designs_draw_volumes_and_colours(name):
    architecture = list_architectures((4, 8), 0.01)[name]
    rng = torch.Generator().manual_seed(0)
    prior = build_from_architecture(architecture, (4, 16, 16), rng, 3)
    assert prior.network(prior.make_prediction_sample().network_input).shape == (1, 3, 4, 16, 16)
