"""The benchmark of the noise measurement has known truth and rates correctly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NONE = (0.0,) * 5


@pytest.fixture(autouse=True)
def _benchmarks_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def _recipe(name="16 bits"):
    from noise_matrix_cases import list_recipes

    return next(recipe for recipe in list_recipes() if recipe.name == name)


def test_it_has_two_thousand_images_of_names_of_their_own():
    from noise_matrix import list_cases

    names = [(scene, recipe.group, recipe.name) for scene, recipe in list_cases([])]
    assert len(names) == len(set(names)) >= 2000


def test_its_truth_is_the_detectors_own():
    from noise_matrix import DRAWS, simulate_truth

    recipe, rng = _recipe(), np.random.default_rng(0)
    light = np.linspace(0, 1, 128)[None] + np.zeros((128, 1))
    truth = simulate_truth(np.stack([recipe.draw(light, rng) for _ in range(DRAWS)]), recipe)
    for level, variance in zip(truth.levels, truth.variances, strict=True):
        assert variance == pytest.approx(2 * (level - 100) + 4, rel=0.05)  # gain 2, read noise 2
    assert max(map(abs, truth.along_y + truth.along_x)) < 0.02


@pytest.mark.parametrize(
    ("factor", "doubt", "verdict"),
    [(1.1, "", "right"), (1.3, "", "wrong"), (1.3, "texture", "cannot tell"), (1.6, "", "silent")],
)
def test_a_variance_is_rated_by_its_factor(factor, doubt, verdict):
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from noise_matrix import Truth, evaluate

    truth = Truth((10.0, 20.0), (5.0, 5.0), NONE, NONE)
    estimate = NoiseEstimate(
        gain=0.0,
        intercept=5 * factor,
        floor=0.1,
        along_y=NONE,
        along_x=NONE,
        unreliable_reason=doubt,
    )
    assert evaluate(estimate, truth, (64, 64))["verdict"] == verdict


@pytest.mark.parametrize(
    ("measured", "verdict"), [(0.0, "silent"), (0.5, "right"), (0.1, "silent"), (0.3, "right")]
)
def test_a_block_must_be_as_wide_as_the_noise_is_correlated(measured, verdict):
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from noise_matrix import Truth, evaluate

    lags = (measured, 0.0, 0.0, 0.0, 0.0)
    truth = Truth((10.0,), (5.0,), (0.5, 0.0, 0.0), (0.5, 0.0, 0.0))
    estimate = NoiseEstimate(gain=0.0, intercept=5.0, floor=0.1, along_y=lags, along_x=lags)
    assert evaluate(estimate, truth, (64, 64))["verdict"] == verdict
