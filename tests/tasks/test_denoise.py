"""Denoise turns a calibrated image into a problem and a prior."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data

import napari_dip as dip
from fit_inputs import make_fit_input_from, make_task_plan, make_task_prior, make_task_problem
from napari_dip.engine.fit.trainer import Trainer
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.likelihood.penalties import PreviousFrame
from napari_dip.engine.noise import UnreliableReason
from napari_dip.engine.priors.blind_spot import BlindSpotPrior
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.calibrate.image_calibration import calibrate_pixels
from napari_dip.pipeline.calibrate.inputs import arrange_inputs
from napari_dip.pipeline.calibrate.run_plan import calibrate_image, make_run_plan
from napari_dip.pipeline.calibrate.types import CalibratedImage, RunInputs
from napari_dip.pipeline.execute.fit_setup import prepare_fit
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import FitConfig, Plan
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import TASKS, Denoise
from napari_dip.tasks.base import FitInput, Setting
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from small_runs import make_noisy, make_truth, plan_for

SOURCE = ImageHeader(name="cells", shape=(24, 32), dtype="uint8", axes="YX")


def make_fit_input(
    prior: str, blind_spot_size: tuple[int, int] = (1, 1), window_side: int | None = None
) -> FitInput:
    rng = torch.Generator().manual_seed(0)
    measurement = torch.rand(1, 2, 24, 32, generator=rng)
    ones = torch.ones(1, 2, 1, 1)
    guarded = torch.zeros(1, 1, 24, 32)
    guarded[..., ::6, ::6] = 1
    noise = NoiseVariance(gain=0.1 * ones, intercept=0.01 * ones, floor=1e-4 * ones)
    return make_fit_input_from(
        measurement,
        noise,
        guarded,
        noise_level=0.2,
        blind_spot_size=blind_spot_size,
        assumed_noise_fraction=0.6,
        prior=prior,
        window_side=window_side,
    )


def test_the_blind_spot_gets_the_image_and_returns_a_variance() -> None:
    prior = make_task_prior(Denoise(), make_fit_input("blind-spot", window_side=16))
    assert isinstance(prior, BlindSpotPrior)
    draw = prior.draw_step_input(torch.Generator().manual_seed(0))
    assert draw.network_input.shape == (1, 2, 16, 16)
    estimate = prior.estimate(prior.network(draw.network_input))
    assert estimate.log_variance is not None
    assert estimate.mean.shape == estimate.log_variance.shape == (1, 2, 16, 16)


def test_the_random_input_is_uniform_noise_of_32_channels() -> None:
    prior = make_task_prior(Denoise(prior="random-input"), make_fit_input("random-input"))
    assert isinstance(prior, RandomInputPrior)
    assert prior.random_input.shape == (1, 32, 24, 32)
    assert 0 <= float(prior.random_input.min()) < float(prior.random_input.max()) <= 0.1
    assert prior.jitter == pytest.approx(1 / 30)


@pytest.mark.parametrize(
    ("blind_spot_size", "core"), [((1, 1), (1, 1)), ((1, 5), (1, 1)), ((7, 7), (3, 3))]
)
def test_only_wide_blind_spots_enter_the_loss_beyond_their_centre(
    blind_spot_size: tuple[int, int], core: tuple[int, int]
) -> None:
    prior = make_task_prior(Denoise(), make_fit_input("blind-spot", blind_spot_size))
    assert isinstance(prior, BlindSpotPrior)
    assert prior.core_size == core


def test_guard_band_pixels_never_enter_the_loss() -> None:
    problem = make_task_problem(Denoise(), make_fit_input("random-input"))
    term = problem.main_term
    assert (
        float((term.training_pixel_weights * make_fit_input("random-input").masks.excluded).sum())
        == 0
    )


def test_the_blind_spot_ends_with_the_posterior_mean() -> None:
    fit_input = make_fit_input("blind-spot")
    blind = Estimate(
        torch.zeros_like(fit_input.measurement), torch.full_like(fit_input.measurement, 9.0)
    )
    finished = make_task_problem(Denoise(), fit_input).postprocess(blind)
    torch.testing.assert_close(finished.mean, fit_input.measurement, atol=1e-3, rtol=0)
    assert make_task_problem(Denoise(), make_fit_input("random-input")).postprocess(blind) is blind


def test_smoothing_adds_a_penalty() -> None:
    assert make_task_problem(Denoise(), make_fit_input("random-input")).penalties == ()
    assert (
        make_task_problem(Denoise(smoothing=0.5), make_fit_input("random-input")).penalties[0][0]
        == 0.5
    )


def test_the_kind_of_smoothing_is_the_users() -> None:
    diagonal = torch.eye(8)[None, None]
    costs = [
        float(
            make_task_problem(
                Denoise(smoothing=0.5, smoothing_kind=kind), make_fit_input("random-input")
            ).penalties[0][1](diagonal)
        )
        for kind in ("isotropic", "anisotropic")
    ]
    assert costs[0] < 0.9 * costs[1]


def make_movie_fit_input(prior: str) -> FitInput:
    """Return a fit input between two frames, with what was restored of the one before."""
    fit_input = make_fit_input(prior, window_side=16)
    rng = torch.Generator().manual_seed(1)
    frames = torch.rand(1, 4, 24, 32, generator=rng)
    image = torch.rand(fit_input.measurement.shape, generator=rng)
    before = PreviousFrame(
        image=image, variance=torch.full_like(image, 0.01), valid_mask=torch.ones(1, 1, 24, 32)
    )
    return replace(fit_input, neighbouring_frames=frames, previous_frame=before)


def test_a_frame_whose_network_learned_little_is_restored_by_its_neighbours() -> None:
    fit_input = make_movie_fit_input("blind-spot")
    rng = torch.Generator().manual_seed(0)
    truth = torch.linspace(0, 1, 32).expand(fit_input.measurement.shape)
    std = fit_input.noise.noise_variance.compute_variance(truth).sqrt()
    measurement, predicted, *frames = (
        truth + std * torch.randn(truth.shape, generator=rng) for _ in range(4)
    )
    fit_input = replace(
        fit_input, measurement=measurement, neighbouring_frames=torch.cat(frames, 1)
    )
    problem = make_task_problem(Denoise(), fit_input)
    assert problem.full_postprocess is not None
    steps = problem.full_postprocess(Estimate(predicted, 2 * std.log()))
    restored = drain_generator(steps)
    assert float((restored.mean - truth).std() / std.mean()) < 0.32  # 0.44 by its prediction


@pytest.mark.parametrize("is_alike", [True, False])
def test_neighbours_are_filtered_together_with_a_frame_that_they_resemble(is_alike: bool) -> None:
    fit_input = make_movie_fit_input("blind-spot")
    rng = torch.Generator().manual_seed(0)
    truth, other = (
        torch.rand(fit_input.measurement.shape, generator=rng).round() for _ in range(2)
    )
    noisy = [
        scene + 0.1 * torch.randn(truth.shape, generator=rng)
        for scene in (truth, truth if is_alike else other)
    ]
    frames = [torch.cat([frame, frame], 1) for frame in (noisy[1], torch.zeros_like(truth))]
    restored = []
    for neighbours in frames:
        problem = make_task_problem(
            Denoise(),
            replace(fit_input, measurement=noisy[0], neighbouring_frames=neighbours),
        )
        assert problem.full_postprocess is not None
        steps = problem.full_postprocess(Estimate(truth, torch.full_like(truth, -4.0)))
        restored.append(drain_generator(steps).mean)
    assert torch.equal(*restored) is not is_alike


def test_neighbouring_frames_are_cropped_to_the_window() -> None:
    fit_input = make_movie_fit_input("blind-spot")
    prior = make_task_prior(Denoise(), fit_input)
    draw = prior.draw_step_input(torch.Generator().manual_seed(0))
    assert draw.window is not None
    torch.testing.assert_close(
        draw.network_input[:, 2:], draw.window.crop(fit_input.neighbouring_frames)
    )
    assert prior.estimate(prior.network(draw.network_input)).mean.shape == (1, 2, 16, 16)


def test_a_steady_result_lies_nearer_to_the_frame_before() -> None:
    fit_input = make_movie_fit_input("blind-spot")
    assert fit_input.previous_frame is not None
    blind = Estimate(
        torch.zeros_like(fit_input.measurement), torch.full_like(fit_input.measurement, -4.0)
    )
    apart = [
        float(
            (
                make_task_problem(Denoise(temporal_smoothing=weight), fit_input)
                .postprocess(blind)
                .mean
                - fit_input.previous_frame.image
            )
            .abs()
            .mean()
        )
        for weight in (0.0, 1.0, 50.0)
    ]
    assert apart == sorted(apart, reverse=True)
    assert apart[2] < 0.9 * apart[0]


@pytest.mark.parametrize(("weight", "terms"), [(0.0, 1), (1.0, 2)])
def test_the_random_input_is_drawn_to_the_frame_before_by_a_term(weight, terms) -> None:
    fit_input = make_movie_fit_input("random-input")
    assert len(make_task_problem(Denoise(temporal_smoothing=weight), fit_input).terms) == terms
    assert isinstance(make_task_prior(Denoise(), fit_input), RandomInputPrior)


def test_only_priors_that_get_the_image_get_neighbouring_frames() -> None:
    assert make_task_plan(Denoise(), SOURCE).uses_neighbouring_frames
    assert PRIOR_SPECS["blind-spot"].input_traits.has_neighbour_frames
    assert not PRIOR_SPECS["random-input"].input_traits.has_neighbour_frames
    assert not make_task_plan(Denoise(neighbouring_frames=False), SOURCE).uses_neighbouring_frames
    assert [
        make_task_plan(Denoise(temporal_smoothing=weight), SOURCE).uses_previous_frame
        for weight in (0.0, 1.0)
    ] == [False, True]


@pytest.mark.parametrize(
    ("axes", "choice", "together"),
    [
        ("YXS", "auto", True),
        ("CYX", "auto", False),
        ("CYX", "together", True),
        ("YXS", "separate", False),
    ],
)
def test_colours_are_coupled_and_channels_are_not(axes: str, choice: str, together: bool) -> None:
    shape = tuple(3 if axis in "CS" else 64 for axis in axes)
    task = Denoise(channels=choice)  # type: ignore[arg-type]
    header = ImageHeader(name="cells", shape=shape, dtype="uint8", axes=axes)
    assert make_task_plan(task, header).joint_channels is together


def test_every_setting_is_explained_to_people() -> None:
    for task in TASKS.values():
        hints = get_type_hints(task, include_extras=True)
        for field in fields(task):
            (setting,) = (
                mark for mark in hints[field.name].__metadata__ if isinstance(mark, Setting)
            )
            assert setting.label
            assert setting.help.endswith(".")


def test_noise_learned_beside_wide_blocks_counts_against_the_random_input() -> None:
    assert (
        make_task_problem(Denoise(), make_fit_input("random-input", (5, 5))).sure_term is not None
    )
    assert make_task_problem(Denoise(), make_fit_input("random-input")).sure_term is None
    assert make_task_problem(Denoise(), make_fit_input("blind-spot", (5, 5))).sure_term is None


@pytest.mark.parametrize(
    ("shape", "axes", "chosen"),
    [
        ((24, 24), "YX", "r2r"),
        ((2, 24, 24), "CYX", "r2r"),
        ((1, 24, 24), "ZYX", "r2r"),
        ((5, 24, 24), "TYX", "blind-spot"),
        ((8, 24, 24), "ZYX", "blind-spot"),
    ],
)
def test_single_planes_take_r2r_and_stacks_a_blind_spot(
    shape: tuple[int, ...], axes: str, chosen: str
) -> None:
    header = ImageHeader(name="a", shape=shape, dtype="uint8", axes=axes)
    assert make_task_plan(Denoise(), header).prior_key == chosen


def calibrate_plan(prior: str, *, is_unreliable: bool, is_weak: bool) -> FitConfig:
    """Return the budget for an image once its noise is known."""
    image = np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32)
    header = ImageHeader(name="a", shape=image.shape, dtype="float32", axes="YX")
    plan = preflight(make_recipe("denoise", prior=prior), header, detect_machine())
    assert isinstance(plan, Plan)
    inputs = arrange_inputs(plan, {"image": image})
    assert isinstance(inputs, RunInputs)
    calibration, _ = calibrate_pixels(plan, inputs)
    level = (0.001 if is_weak else 0.2) * calibration.intensity_scale[0]
    noise = replace(
        calibration.noise[0],
        gain=0.0,
        intercept=level**2,
        floor=0.0,
        unreliable_reason=UnreliableReason.TOO_FEW_BLOCKS if is_unreliable else None,
    )
    return make_run_plan(plan, inputs.inspection, replace(calibration, noise=(noise,))).fit_config


@pytest.mark.parametrize(
    ("doubted", "weak", "message"), [(True, False, "could not be measured"), (False, True, "weak")]
)
def test_where_the_noise_is_in_doubt_or_weak_pixels_are_hidden_instead(
    doubted: bool, weak: bool, message: str
) -> None:
    plain = calibrate_plan("auto", is_unreliable=False, is_weak=False)
    assert (plain.prior_key, plain.prior_reason) == ("r2r", "")
    hidden = calibrate_plan("auto", is_unreliable=doubted, is_weak=weak)
    assert hidden.prior_key == "blind-spot"
    assert message in hidden.prior_reason
    prior = calibrate_plan("r2r", is_unreliable=doubted, is_weak=weak)
    assert (prior.prior_key, prior.prior_reason) == ("r2r", "")


def test_an_image_of_weak_noise_is_restored_with_hidden_pixels() -> None:
    y, x = np.mgrid[:128, :128]
    rng = np.random.default_rng(0)
    image = (900 * np.sin(x / 20) * np.cos(y / 25) + rng.normal(0, 8, x.shape)).astype(np.float32)
    quick = {"preset": "fast", "max_iterations": 4, "device": "cpu"}
    result = dip.denoise(image, **quick).report["prior"]
    assert result["key"] == "blind-spot"
    assert "weak" in result["reason"]


def test_an_image_with_unreliable_noise_is_restored_with_a_blind_spot() -> None:
    image = np.random.default_rng(0).integers(0, 3, (48, 48)).astype(np.uint8)
    quick = {"preset": "fast", "max_iterations": 4, "device": "cpu"}
    prior = dip.denoise(image, **quick).report["prior"]
    assert prior["key"] == "blind-spot"
    assert "could not be measured" in prior["reason"]


@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        ("010/111/010", "010/111/010"),
        (" 000 / 111 / 000 ", "111"),
        ("00100/00100/00100", "1/1/1"),
        ("", ""),
        (1, "1"),
    ],
)
def test_the_shape_of_a_blind_spot_has_one_text(drawn: object, text: str) -> None:
    assert make_recipe("denoise", blind_spot_shape=drawn).task.blind_spot_shape == text


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        ("11/11", "odd in height and width"),
        ("110/111/010", "the same after half a turn"),
        ("101", "1 in the middle"),
        ("/".join(["1" * 13] * 13), "at most 11 pixels high and wide"),
        ("111/1/111", "equally long"),
        ("2", "rows of 1 and 0"),
        ("/", "rows of 1 and 0"),
        (None, "rows of 1 and 0"),
    ],
)
def test_a_blind_spot_that_is_none_is_refused_in_two_sentences(drawn: object, reason: str) -> None:
    with pytest.raises(dip.RefusedError, match="'blind_spot_shape' cannot be") as caught:
        make_recipe("denoise", blind_spot_shape=drawn)
    assert reason in caught.value.reason.sentence
    assert caught.value.reason.remedy == "Leave it out to use the default."


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_a_drawn_blind_spot_is_that_of_guard_bands_and_prior(axes: str) -> None:
    array = make_noisy(48) if axes == "YX" else np.stack([make_noisy(48)] * 4)
    plan = plan_for(array, axes=axes, blind_spot_shape="010/111/010", stacks="volume")
    image = calibrate_image(plan, {"image": array})
    assert image.run_plan.fit_config.prior_key == "blind-spot"
    fit = prepare_fit(image, image.run_plan.units[0])
    masks = fit.fit_input.masks
    inner = torch.nn.functional.pad(masks.validation, (-1, -1, -1, -1))
    crosses = sum(
        masks.excluded[..., 1 + y : 47 + y, 1 + x : 47 + x] * inner
        for y, x in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
    )
    assert float(inner.sum()) > 0
    assert torch.equal(crosses, 5 * inner)
    assert float(masks.excluded.sum()) <= 5 * float(masks.validation.sum())
    assert isinstance(fit.prior, BlindSpotPrior)
    assert fit.prior.hidden_count == 5
    assert fit.prior.core_size == (1,) * len(axes)


def test_a_drawn_rectangle_is_the_block_of_that_size_and_keeps_the_prior() -> None:
    plan = plan_for(make_noisy(48), blind_spot_shape="111/111/111")
    assert plan.fit_config.prior_key == "r2r"
    image = calibrate_image(plan, {"image": make_noisy(48)})
    masks = prepare_fit(image, image.run_plan.units[0]).fit_input.masks
    assert (masks.blind_spot_size, masks.blind_spot_shape) == ((3, 3), None)


def test_the_report_says_that_the_blind_spot_was_drawn() -> None:
    quick = {"preset": "fast", "max_iterations": 4, "device": "cpu"}
    report = dip.denoise(make_noisy(48), blind_spot_shape="010/111/010", **quick).report
    assert "; 5 of each 3 × 3 pixels, in a shape given by hand, were held back" in (
        write_methods_section(report)
    )
    assert report["noise"]["blind_spot_size"] == [3, 3]
    assert "5 of 3 × 3 pixels are hidden, in the shape that you set" in report["prior"]["reason"]
    assert report["recipe"]["settings"]["blind_spot_shape"] == "010/111/010"


@pytest.mark.long
def test_the_training_loss_of_a_balanced_fit_does_not_rise_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses: list[float] = []
    pop_losses = Trainer.pop_losses

    def pop_and_keep(trainer: Trainer, *further: torch.Tensor) -> list[float]:
        values = pop_losses(trainer, *further)
        losses.append(values[0])
        return values

    monkeypatch.setattr(Trainer, "pop_losses", pop_and_keep)
    truth = data.camera()[128:192, 200:264].astype(np.float64)
    noisy = truth + np.random.default_rng(0).normal(0, 20, truth.shape)
    dip.denoise(noisy.astype(np.float32), prior="r2r", preset="balanced", device="cpu")
    assert len(losses) > 6
    assert max(losses[3:]) < losses[2] + 0.5  # at twice the learning rate it is 13, after -3


def calibrate_noise(width: float, **settings: Any) -> CalibratedImage:
    """Calibrate an image with noise of 12, blurred by a Gaussian of that width."""
    noise = np.random.default_rng(1).normal(size=(192, 192))
    if width:
        noise = ndimage.gaussian_filter(noise, width, mode="wrap")
    array = np.float32(make_truth(192) + 12 * noise / noise.std())
    return calibrate_image(plan_for(array, prior="r2r", **settings), {"image": array})


def test_white_noise_is_learned_from_smaller_windows_than_correlated_noise() -> None:
    white, correlated = calibrate_noise(0.0), calibrate_noise(0.6)
    assert white.calibration.noise_traits == ()
    assert correlated.calibration.noise_traits == ("correlated",)
    assert white.run_plan.fit_config.window_side == 192
    assert correlated.run_plan.fit_config.window_side == 256


@pytest.mark.parametrize(
    ("preset", "iterations", "white_iterations"), [("instant", 60, 40), ("fast", 140, 70)]
)
def test_correlated_noise_takes_more_iterations_than_white_noise(
    preset: str, iterations: int, white_iterations: int
) -> None:
    correlated = calibrate_noise(0.6, preset=preset, max_iterations=None)
    white = calibrate_noise(0.0, preset=preset, max_iterations=None)
    assert correlated.run_plan.fit_config.iterations == iterations
    assert white.run_plan.fit_config.iterations == white_iterations


def test_noise_that_is_fitted_at_half_resolution_takes_as_many_as_white_noise() -> None:
    halved = calibrate_noise(0.8, max_iterations=None)
    assert halved.calibration.noise_traits == ("half_resolution",)
    assert halved.run_plan.fit_config.window_side == 256
    assert halved.run_plan.fit_config.iterations == 70


@pytest.mark.parametrize(("read_noise", "iterations"), [(0.0, 50), (20.0, 70)])
def test_photon_noise_takes_fewer_iterations_than_noise_that_is_the_same_everywhere(
    read_noise: float, iterations: int
) -> None:
    rng = np.random.default_rng(0)
    light = make_truth(192) - make_truth(192).min()
    array = np.float32(3 * rng.poisson(light / 3) + rng.normal(0, read_noise, light.shape))
    image = calibrate_image(plan_for(array, prior="r2r", max_iterations=None), {"image": array})
    assert image.run_plan.fit_config.iterations == iterations


@pytest.mark.parametrize(("preset", "is_sparse"), [("instant", True), ("fast", False)])
def test_only_the_quickest_preset_refines_sparse_groups(preset: str, is_sparse: bool) -> None:
    array = make_noisy(48)
    plan = plan_for(array, prior="r2r", preset=preset)
    image = calibrate_image(plan, {"image": array})
    fit_input = prepare_fit(image, image.run_plan.units[0]).fit_input
    assert fit_input.refines_sparse_groups == is_sparse


@pytest.mark.parametrize("prior", ["r2r", "blind-spot", "random-input"])
def test_the_time_is_planned_for_the_decoder_that_a_prior_has(prior: str) -> None:
    array = make_noisy(48)
    plan = plan_for(array, prior=prior)
    image = calibrate_image(plan, {"image": array})
    fit = prepare_fit(image, image.run_plan.units[0])
    assert fit.prior.network.sums_branches == PRIOR_SPECS[prior].network_traits.sums_branches
