"""A repeated exposure improves the result, and an unsuitable one is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from skimage import data

import napari_dip as dip
from fit_inputs import make_fit_input_from, make_task_problem
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.errors import RefusedError
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.calibrate.inputs import refuse_exposure_pixels
from napari_dip.tasks import Denoise
from napari_dip.tasks.guide import phase_correlate
from napari_dip.tasks.shared_settings import average_exposures

if TYPE_CHECKING:
    from napari_dip.tasks.base import FitInput

SIDE = 48
QUICK = {"preset": "fast", "max_iterations": 4}


def make_truth() -> np.ndarray:
    return data.camera()[100 : 100 + SIDE, 150 : 150 + SIDE].astype(np.float64)


def make_noisy(seed: int, strength: float = 20, exposure: float = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, strength, (SIDE, SIDE))
    return (exposure * (make_truth() + noise)).astype(np.float32)


def compute_error(image: np.ndarray) -> float:
    return float(((image - make_truth()) ** 2).mean())


def refusal_of(image: np.ndarray, second: np.ndarray) -> str:
    with pytest.raises(RefusedError) as caught:
        dip.denoise(image, repeated_exposure=second, **QUICK)
    return caught.value.reason.code


@pytest.mark.long
@pytest.mark.parametrize(("prior", "iterations"), [("blind-spot", 60), ("random-input", 250)])
def test_two_shots_give_a_better_image_than_either_and_than_their_mean(
    prior: str, iterations: int
) -> None:
    settings = {"preset": "fast", "prior": prior, "max_iterations": iterations}
    first, second = make_noisy(0), make_noisy(1, exposure=2) + 100
    both = dip.denoise(first, repeated_exposure=second, **settings)
    alone = dip.denoise(first, **settings)
    other = dip.denoise((second - 100) / 2, **settings)
    plain = (first + (second - 100) / 2) / 2
    assert compute_error(both.image) < min(
        compute_error(image) for image in (alone.image, other.image, plain)
    )
    assert any("Two measurements" in note for note in both.report["notes"])
    assert any("2 ×" in note or "1.9" in note or "2.0" in note for note in both.report["notes"])


def test_the_result_has_the_first_shots_intensities() -> None:
    result = dip.denoise(make_noisy(0), repeated_exposure=3 * make_noisy(1) + 50, **QUICK)
    assert result.image.mean() == pytest.approx(make_noisy(0).mean(), rel=1e-4)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("axes", "planes"), [("ZYX", 4), ("TYX", 2), ("CYX", 2)])
def test_stacks_and_channels_have_second_shots_too(axes: str, planes: int) -> None:
    first, second = (np.stack([make_noisy(9 * n + k) for k in range(planes)]) for n in (1, 2))
    assert (
        dip.denoise(first, repeated_exposure=second, axes=axes, **QUICK).image.shape == first.shape
    )


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (make_noisy(1)[:, :-1], "repeated-exposure-size"),
        (np.stack([make_noisy(1)] * 2), "repeated-exposure-size"),
        (make_noisy(0), "repeated-exposure-same"),
        (np.full((SIDE, SIDE), 7.0), "repeated-exposure-unlike"),
        (make_noisy(1)[::-1], "repeated-exposure-unlike"),
        (-make_noisy(1), "repeated-exposure-unlike"),
        (np.where(np.eye(SIDE) > 0, np.nan, make_noisy(1)), "input-not-finite"),
    ],
)
def test_an_unsuitable_repeated_exposure_is_refused_with_a_message(
    second: np.ndarray, code: str
) -> None:
    assert refusal_of(make_noisy(0), second) == code


def test_a_second_shot_of_next_to_nothing_but_noise_is_still_taken() -> None:
    first, second = (make_noisy(seed, strength=60)[None, None] for seed in (0, 1))
    assert refuse_exposure_pixels(first, second, "again", "cells") is None


def make_fit_input() -> FitInput:
    """Two measurements, the second with a third of the noise variance."""
    rng = torch.Generator().manual_seed(0)
    measurement = torch.rand(2, 1, 16, 16, generator=rng)
    intercept = torch.tensor([0.03, 0.01]).reshape(2, 1, 1, 1)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., ::4, ::4] = 1
    return make_fit_input_from(
        measurement=measurement,
        noise_variance=NoiseVariance(
            gain=0 * intercept, intercept=intercept, floor=0.1 * intercept
        ),
        noise_level=0.1,
        validation_mask=mask,
    )


def test_the_mean_weighs_each_shot_by_its_noise() -> None:
    averaged = average_exposures(make_fit_input())
    first, second = make_fit_input().measurement
    torch.testing.assert_close(averaged.measurement[0], 0.25 * first + 0.75 * second)
    variance = float(averaged.noise.noise_variance.compute_variance(averaged.measurement).mean())
    assert variance == pytest.approx(1 / (1 / 0.03 + 1 / 0.01))
    assert average_exposures(averaged) is averaged


def test_neighbours_of_two_shots_are_averaged_as_the_frame_is() -> None:
    fit_input = make_fit_input()
    frames = torch.cat([fit_input.measurement + 1, fit_input.measurement - 1], 1)
    averaged = average_exposures(replace(fit_input, neighbouring_frames=frames))
    before, after = averaged.neighbouring_frames.chunk(2, 1)
    torch.testing.assert_close(before, averaged.measurement + 1)
    torch.testing.assert_close(after, averaged.measurement - 1)


def test_a_stack_of_two_shots_is_better_with_its_neighbours() -> None:
    stack = np.stack([make_truth()] * 3)
    rng = np.random.default_rng(0)
    shots = [(stack + rng.normal(0, 20, stack.shape)).astype(np.float32) for _ in range(2)]
    errors = [
        dip.denoise(
            shots[0],
            axes="ZYX",
            repeated_exposure=shots[1],
            neighbouring_frames=takes_neighbours,
            preset="instant",
        ).image
        - stack
        for takes_neighbours in (True, False)
    ]
    assert errors[0].std() < 0.9 * errors[1].std()


def test_with_a_random_input_validation_pixels_of_the_second_shot_train_the_first() -> None:
    first, second = make_task_problem(Denoise(prior="random-input"), make_fit_input()).terms
    assert float(first.validation_mask.sum()) == 0
    assert float(first.training_pixel_weights.min()) == 1
    assert float((second.training_pixel_weights * second.validation_mask).sum()) == 0
    assert float(second.validation_mask.sum()) == 16
    fit_noise = replace(
        make_fit_input().noise, noise_variance=make_fit_input().noise.noise_variance.select(0)
    )
    single = replace(
        make_fit_input(), measurement=make_fit_input().measurement[:1], noise=fit_noise
    )
    (only,) = make_task_problem(Denoise(prior="random-input"), single).terms
    assert float((only.training_pixel_weights * only.validation_mask).sum()) == 0


@pytest.mark.parametrize(("moved", "is_told"), [(0, False), (2, True)])
def test_a_second_shot_that_is_moved_is_told_first(moved: int, is_told: bool) -> None:
    rng = np.random.default_rng(0)
    first, second = (data.camera()[::2, ::2] + rng.normal(0, 20, (256, 256)) for _ in range(2))
    second = np.roll(second, moved, 1)
    settings = {"preset": "instant", "max_iterations": 2, "device": "cpu"}
    report = dip.denoise(first, repeated_exposure=second, **settings).report
    shifts = [note for note in report["note_codes"] if note["code"] == "exposures-shifted"]
    assert bool(shifts) == is_told
    for shift in shifts:
        assert shift["facts"]["right"] == pytest.approx(moved, abs=0.2)
        assert make_card(report).warnings[0].code == "exposures-shifted"


def test_noise_of_a_small_crop_is_no_shift() -> None:
    first, second = make_noisy(4, 120), make_noisy(5, 120)
    assert max(map(abs, phase_correlate(first, second))) > 1
    report = dip.denoise(first, repeated_exposure=second, **QUICK).report
    assert "exposures-shifted" not in {note["code"] for note in report["note_codes"]}
