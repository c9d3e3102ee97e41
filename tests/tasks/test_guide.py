"""A guide is a further input of the network, and is left out if it does not help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from skimage.filters import gaussian

import napari_dip as dip
from fit_inputs import make_fit_input_from, make_task_prior, make_task_problem
from napari_dip.engine.fit.state import FitResult
from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.engine.prior import GuidedPrior, pad_input_weights
from napari_dip.engine.problem import Estimate
from napari_dip.errors import Refusal, RefusedError
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.crop_preview import CropRegion
from napari_dip.pipeline.execute.executor import FinishedFit, select_best_fit
from napari_dip.pipeline.execute.fit_setup import PreparedFit
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.plan.costs import list_candidates
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.progress import drain_generator
from napari_dip.tasks import Guide
from napari_dip.tasks.base import FitInput, InspectedPixels, Inspection, TaskPlan
from small_runs import MACHINE, make_noisy, make_truth

if TYPE_CHECKING:
    import numpy.typing as npt

GRID = (24, 32)


def make_fit_input(prior: str, *, window_side: int | None = None, channels: int = 2) -> FitInput:
    rng = torch.Generator().manual_seed(0)
    ones = torch.ones(1, 1, 1, 1)
    guarded = torch.zeros(1, 1, *GRID)
    guarded[..., ::6, ::6] = 1
    return make_fit_input_from(
        measurement=torch.rand(1, 1, *GRID, generator=rng),
        noise_variance=NoiseVariance(gain=0.1 * ones, intercept=0.01 * ones, floor=1e-4 * ones),
        noise_level=0.2,
        validation_mask=guarded,
        assumed_noise_fraction=0.6,
        prior=prior,
        window_side=window_side,
        extra_inputs={"guide": torch.rand(channels, *GRID, generator=rng)},
    )


def arrange_inputs(
    guide: npt.NDArray[Any], image: npt.NDArray[Any], axes: str = "YX", **settings: Any
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    guide_header = ImageHeader(name="flash", shape=guide.shape, dtype="float32", axes=axes)
    task = Guide(**settings)
    stack, others = image.astype(np.float32)[None], {"guide": guide.astype(np.float32)}
    header = ImageHeader(name="cells", shape=image.shape, dtype="float32", axes="YX")
    pixels = InspectedPixels(header=header, image=image, stack=stack[None], extra_inputs=others)
    inspection = task.inspect(pixels, TaskPlan())
    assert isinstance(inspection, Inspection)
    others, notes = inspection.convert_inputs(stack, others, {"guide": guide_header})
    (planes,) = others["guide"]
    return planes, notes


@pytest.mark.parametrize(("prior", "fed"), [("guided", 1 + 2), ("guided-random-input", 32 + 2)])
def test_the_whole_guide_is_a_further_channel_of_the_input(prior: str, fed: int) -> None:
    fit_input = make_fit_input(prior)
    guided_prior = make_task_prior(Guide(), fit_input)
    assert isinstance(guided_prior, GuidedPrior)
    for draw in (
        guided_prior.draw_step_input(torch.Generator().manual_seed(0)),
        guided_prior.make_prediction_sample(),
        *guided_prior.make_inference_samples(),
    ):
        assert draw.network_input.shape == (1, fed, *GRID)
        expected = fit_input.extra_inputs["guide"][None]
        guide_channels = draw.network_input[:, -2:]
        if draw.window is not None:
            guide_channels = guide_channels.flip(draw.window.flipped_dims)
        torch.testing.assert_close(guide_channels, expected)
        assert guided_prior.estimate(guided_prior.network(draw.network_input)).mean.shape == (
            1,
            1,
            *GRID,
        )


def test_the_guide_follows_window_and_mirror() -> None:
    fit_input = make_fit_input("guided", window_side=16)
    guided_prior = make_task_prior(Guide(), fit_input)
    guide, guides = fit_input.extra_inputs["guide"][None], set()
    for seed in range(12):
        draw = guided_prior.draw_step_input(torch.Generator().manual_seed(seed))
        assert draw.window is not None
        guides.add(draw.window.flipped_dims)
        torch.testing.assert_close(draw.network_input[:, -2:], draw.window.crop(guide))
    assert len(guides) == 4


def test_without_the_guide_it_is_the_prior_of_denoising() -> None:
    plain = make_task_prior(dip.make_recipe("denoise").task, make_fit_input("blind-spot"))
    plain_prior = make_task_prior(Guide(), make_fit_input("blind-spot"))
    for ours, theirs in zip(
        plain_prior.network.parameters(), plain.network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_only_automatic_compares_two_fits() -> None:
    assert list_candidates(Guide()) == ("guided", "blind-spot")
    assert (
        list_candidates(Guide(prior="blind-spot"))
        == list_candidates(Guide(prior="random-input"))
        == ()
    )


@pytest.mark.parametrize("factor", [1.0, 1e-6, 5e4])
def test_the_unit_of_the_guide_does_not_matter(factor: float) -> None:
    plain, _ = arrange_inputs(make_truth(32), make_noisy(32))
    scaled, _ = arrange_inputs(factor * make_truth(32) + 3 * factor, make_noisy(32))
    np.testing.assert_allclose(plain, scaled, atol=2e-3)
    low, high = np.percentile(plain, (0.5, 99.5))
    assert high - low == pytest.approx(1, abs=1e-3)


def test_a_hot_pixel_of_the_guide_stays_of_order_one() -> None:
    guide = make_truth(32)
    guide[5, 6] = 1e9
    assert np.abs(arrange_inputs(guide, make_noisy(32))[0]).max() < 4


@pytest.mark.parametrize(("axes", "order"), [("CYX", (2, 0, 1)), ("YXS", (0, 1, 2))])
def test_a_guide_may_have_several_channels(axes: str, order: tuple[int, ...]) -> None:
    planes = np.stack([make_truth(32), make_truth(32) ** 2, np.full((32, 32), 7.0)], -1).transpose(
        order
    )
    assert arrange_inputs(planes, make_noisy(32), axes)[0].shape == (
        2,
        32,
        32,
    )  # one that shows nothing goes


@pytest.mark.parametrize("shift", [(2.0, -3.0), (-0.5, 1.25)])
def test_a_shifted_guide_is_aligned_with_the_image(shift: tuple[float, float]) -> None:
    spectrum = np.fft.fft2(make_truth(64))
    down, right = np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij")
    turn = np.exp(-2j * np.pi * (down * shift[0] + right * shift[1]))
    shifted = np.fft.ifft2(spectrum * turn).real
    moved, (note,) = arrange_inputs(shifted, make_noisy(64), align=True)
    straight, _ = arrange_inputs(make_truth(64), make_noisy(64))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    before = np.abs(arrange_inputs(shifted, make_noisy(64))[0] - straight)[inner].mean()
    assert np.abs(moved - straight)[inner].mean() < 0.4 * before
    assert note.code == "guide-moved"


def test_a_shift_too_far_to_believe_in_is_left_alone() -> None:
    apart = np.zeros((2, 64, 64))
    apart[0, 8:16, 8:16] = apart[1, 40:48, 44:52] = 1
    moved, (note,) = arrange_inputs(apart[1], apart[0], align=True)
    np.testing.assert_array_equal(moved, arrange_inputs(apart[1], apart[0])[0])
    assert note.code == "guide-far"


@pytest.mark.long
def test_a_guide_that_shows_the_structure_is_of_use() -> None:
    guided = dip.guide(make_noisy(), make_truth(), preset="fast", max_iterations=60, device="cpu")
    alone = dip.denoise(make_noisy(), preset="fast", max_iterations=60, device="cpu")
    error = [
        np.sqrt(np.mean((result.image - 100 - make_truth()) ** 2)) for result in (guided, alone)
    ]
    assert error[0] < 0.8 * error[1]
    assert guided.report["prior"]["key"] == "guided"
    assert "better with the guide" in guided.report["prior"]["reason"]


@pytest.mark.parametrize("relation", ["inverse", "lacks a disc"])
def test_a_guided_filter_helps_where_the_network_learns_little(relation: str) -> None:
    from skimage import data

    light = gaussian(data.coins()[60:188, 100:228].astype(float), 1)
    y, x = np.mgrid[:128, :128]
    disc = np.hypot(y - 60, x - 60) < 10
    truth = light + 60.0 * disc * (relation != "inverse")
    truth *= 10 / truth.max()
    guide = 1 / (light + 30) if relation == "inverse" else light
    noisy = np.random.default_rng(0).poisson(truth).astype(np.float32)
    settings = {"preset": "instant", "device": "cpu", "seed": 0}
    results = dip.guide(noisy, guide.astype(np.float32), **settings), dip.denoise(noisy, **settings)
    guided, alone = (np.square(result.image - truth) for result in results)
    assert guided.mean() < 0.7 * alone.mean()
    assert guided[disc].mean() < 1.3 * alone[disc].mean()


def test_a_padded_image_is_restored_no_worse_with_a_guide_than_without():
    from skimage import data

    truth = data.camera()[100:196, 150:246] / 10.0
    truth[:16] = truth[:, :20] = 0
    noisy = np.random.default_rng(0).poisson(truth).astype(np.float32)
    guide = data.camera()[100:196, 150:246].astype(np.float32)
    settings = {"preset": "instant", "device": "cpu", "seed": 0}
    guided = dip.guide(noisy, guide, prior="blind-spot", **settings).image
    denoised = dip.denoise(noisy, **settings).image
    errors = [np.mean((image - truth) ** 2) for image in (guided, denoised)]
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.long
@pytest.mark.all_cores
def test_where_the_guide_loses_the_pixels_are_those_of_denoising(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def get_last(finished: list[FinishedFit], _: float) -> FinishedFit:
        return finished[-1]

    monkeypatch.setattr("napari_dip.pipeline.execute.executor.select_best_fit", get_last)
    guided = dip.guide(
        make_noisy(32), make_truth(32), preset="fast", max_iterations=30, device="cpu"
    )
    alone = dip.denoise(
        make_noisy(32), prior="blind-spot", preset="fast", max_iterations=30, device="cpu"
    )
    assert guided.report["prior"]["key"] == "blind-spot"
    assert "left out" in guided.report["prior"]["reason"]
    assert np.array_equal(guided.image, alone.image)


@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
def test_a_chosen_prior_runs_without_a_comparison(prior: str) -> None:
    answer = dip.guide(make_noisy(32), make_truth(32), prior=prior, max_iterations=4, device="cpu")
    assert answer.report["prior"]["reason"].startswith("you chose it")
    assert answer.image.shape == (32, 32)


def test_channels_are_guided_one_by_one() -> None:
    pair = np.stack([make_noisy(32), make_noisy(32, seed=1)])
    answer = dip.guide(
        pair, make_truth(32), preset="fast", max_iterations=4, axes="CYX", device="cpu"
    )
    assert answer.image.shape == (2, 32, 32)
    assert answer.report["iterations"] == 8


@pytest.mark.parametrize(
    ("guide", "settings", "code"),
    [
        (make_truth(40), {}, "guide-size"),
        (make_truth(32)[:31], {}, "guide-size"),
        (np.stack([make_truth(32)] * 3), {}, "guide-stack"),
        (np.stack([make_truth(32)[:30]] * 3), {"planes_are_channels": True}, "guide-size"),
        (np.full((32, 32), 3.0), {}, "guide-constant"),
        (np.where(np.eye(32) > 0, np.nan, make_truth(32)), {}, "input-not-finite"),
        (make_truth(32) + 1j, {}, "image-text"),
        (np.zeros((0, 32)), {}, "image-empty"),
        (None, {}, "input-missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_guide_that_cannot_guide_is_refused(guide: Any, settings: Any, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        dip.guide(make_noisy(32), guide, **settings)
    assert caught.value.reason.code == code


def test_planes_may_be_channels() -> None:
    planes = np.stack([make_truth(32), make_noisy(32)])
    answer = dip.guide(
        make_noisy(32),
        planes,
        planes_are_channels=True,
        max_iterations=4,
        device="cpu",
        preset="fast",
    )
    assert answer.image.shape == (32, 32)


def make_stack(seed: int) -> npt.NDArray[np.float64]:
    """Fine threads, which noise hides, from 0 to 1."""
    noise = np.random.default_rng(seed).normal(size=(4, 64, 64))
    return gaussian(np.abs(gaussian(noise, (1, 2, 2))) < 0.01, (0, 0.7, 0.7))


@pytest.mark.long
@pytest.mark.timeout(600)
# With 200, the right guide is better by 13.5 standard errors, of which 4 are asked, and the wrong
# guide is worse by 4.2. With 160 neither is chosen, with 250 both: fits differ by more than that.
@pytest.mark.parametrize(("axes", "iterations"), [("TYX", 60), ("ZYX", 200)])
def test_a_stack_or_movie_comes_closer_to_the_truth_with_the_right_guide_only(
    axes: str, iterations: int
) -> None:
    scene = make_stack(3)
    truth = 0.5 + 5 * scene
    noisy = np.random.default_rng(0).poisson(truth).astype(np.uint16)
    settings: dict[str, Any] = {"preset": "fast", "max_iterations": iterations, "device": "cpu"}
    if "T" in axes:
        settings["temporal_smoothing"] = 1
    alone = dip.denoise(noisy, prior="blind-spot", axes=axes, **settings)
    guided = dip.guide(noisy, 900 - 300 * scene**2, axes=axes, **settings)
    misled = dip.guide(noisy, make_stack(77), axes=axes, **settings)
    error = [np.sqrt(np.mean((result.image - truth) ** 2)) for result in (guided, alone)]
    assert error[0] < 0.9 * error[1]
    assert guided.report["prior"]["key"] == "guided"
    np.testing.assert_array_equal(misled.image, alone.image)


def test_later_frames_are_not_compared_once_the_guide_has_helped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = []

    def get_first(finished: list[FinishedFit], _: float) -> FinishedFit:
        compared.append([fit.prepared_fit.fit_input.prior_key for fit in finished])
        return finished[-1 if len(compared) == 1 else 0]

    monkeypatch.setattr("napari_dip.pipeline.execute.executor.select_best_fit", get_first)
    movie = np.stack([make_noisy(32, seed=seed) for seed in range(3)])
    dip.guide(
        movie, make_truth(32), preset="fast", max_iterations=4, axes="TYX", device="cpu", seed=1
    )
    assert compared == [["guided", "blind-spot"], ["guided", "blind-spot"], ["guided"]]


def test_a_guided_network_starts_as_the_one_without_a_guide() -> None:
    plain = make_task_prior(Guide(), make_fit_input("blind-spot")).network
    guided = make_task_prior(Guide(), make_fit_input("guided")).network
    guided.load_state_dict(pad_input_weights(plain.state_dict(), guided))
    image = torch.rand(1, 1, *GRID)
    torch.testing.assert_close(guided(torch.cat([image, image, image], 1)), plain(image))


@pytest.mark.parametrize(
    ("axes", "guide_shape", "guide_axes", "is_volume", "arranged"),
    [
        ("ZYX", (5, 32, 40), "ZYX", True, (1, 1, 5, 32, 40)),
        ("ZYX", (32, 40), "YX", True, (1, 1, 5, 32, 40)),
        ("ZYX", (5, 32, 40), "ZYX", False, (5, 1, 32, 40)),
        ("ZYX", (32, 40), "YX", False, (1, 1, 32, 40)),
        ("TYX", (5, 32, 40), "ZYX", False, (5, 1, 32, 40)),  # the letters of arrays are guesses
        ("TYX", (5, 32, 40), "ZYX", True, (1, 1, 5, 32, 40)),
        ("ZYX", (5, 32, 40, 3), "ZYXS", True, (1, 3, 5, 32, 40)),
        ("ZYX", (2, 5, 32, 40), "CZYX", False, (5, 2, 32, 40)),
    ],
)
def test_a_guide_has_the_planes_of_the_image_or_one_for_all(
    axes: str,
    guide_shape: tuple[int, ...],
    guide_axes: str,
    is_volume: bool,
    arranged: tuple[int, ...],
) -> None:
    guide = np.random.default_rng(0).random(guide_shape, np.float32)
    image = np.random.default_rng(1).random((5, 32, 40), np.float32)
    header = ImageHeader(name="cells", shape=image.shape, dtype="float32", axes=axes)
    headers = {
        "guide": ImageHeader(name="flash", shape=guide_shape, dtype="float32", axes=guide_axes)
    }
    stack = image[None, None] if is_volume else image[:, None]
    pixels = InspectedPixels(header=header, image=image, stack=stack, extra_inputs={"guide": guide})
    assert isinstance(Guide().plan(header, headers, "YX"), TaskPlan)
    inspection = Guide(align=True).inspect(pixels, TaskPlan())
    assert isinstance(inspection, Inspection)
    extra_inputs, _ = inspection.convert_inputs(stack[0], {"guide": guide}, headers)
    assert extra_inputs["guide"].shape == arranged
    first_pixels = extra_inputs["guide"].reshape(arranged[0], arranged[1], -1)[0, 0]
    channel = {"ZYXS": (..., 0), "CZYX": (0, 0)}.get(guide_axes, ...)
    expected = np.broadcast_to(guide[channel], image.shape) if is_volume else guide[channel]
    assert np.corrcoef(first_pixels, expected.ravel()[: first_pixels.size])[0, 1] > 0.999


def test_planes_of_a_stacks_guide_may_be_channels() -> None:
    header = ImageHeader(name="cells", shape=(5, 32, 40), dtype="float32", axes="ZYX")
    guide = ImageHeader(name="flash", shape=(2, 5, 32, 40), dtype="float32", axes="TZYX")
    refusal = Guide().plan(header, {"guide": guide}, "ZYX")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "guide-stack"
    task = Guide(planes_are_channels=True)
    assert isinstance(task.plan(header, {"guide": guide}, "ZYX"), TaskPlan)


def test_a_guide_without_named_axes_is_cropped_with_the_frames() -> None:
    header = ImageHeader(name="cells", shape=(5, 32, 40), dtype="float32", axes="TYX")
    guide = replace(header, name="flash", axes="ZYX")
    region = CropRegion(spans=((1, 2), (0, 16), (8, 40)))
    assert region.crop_header(guide, header).shape == (1, 16, 32)


def finished(error: float, seed: int) -> FinishedFit:
    """A fit that is off by that much, with a noise of 0.2."""
    fit_input = make_fit_input("guided")
    rng = torch.Generator().manual_seed(seed)
    truth = torch.zeros_like(fit_input.measurement)
    noise = 0.2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(9))
    fit_input = replace(fit_input, measurement=truth + noise)
    mean = truth + error * torch.randn(truth.shape, generator=rng)
    return runner(fit_input, mean)


def runner(fit_input: FitInput, mean: torch.Tensor, *, kept: bool = False) -> FinishedFit:
    estimate = Estimate(mean, torch.zeros_like(mean))
    result = FitResult(
        estimate=estimate,
        uncropped_estimate=estimate,
        network_estimate=estimate,
        validated_estimate=estimate,
        stop="done",
        is_ended_by_user=kept,
        is_broken_down=False,
        best_iteration=1,
        iterations=1,
        history=(),
        learned_parameters={},
        weights={},
        notes=(),
    )
    prepared = PreparedFit(
        unit=None,
        problem=make_task_problem(Guide(), fit_input),
        prior=None,
        schedule=None,
        stop_rule=None,
        fit_input=fit_input,
    )  # type: ignore[arg-type]
    return FinishedFit(prepared_fit=prepared, result=result, control=Control.GO)


def test_the_fit_that_predicts_hidden_pixels_best_is_selected() -> None:
    good, bad = finished(0.02, 0), finished(0.2, 1)
    assert select_best_fit([good, bad], 1.0) is good
    assert select_best_fit([bad, good], 1.0) is good


def test_the_plainest_wins_where_chance_may_be_the_reason() -> None:
    first, get_last = finished(0.01, 0), finished(0.01, 1)
    assert select_best_fit([first, get_last], 1.0) is get_last
    assert select_best_fit([first], 1.0) is first


def test_unmeasured_pixels_are_not_validation_pixels() -> None:
    fit_input = make_fit_input("guided")
    mask = torch.ones_like(fit_input.masks.measured)
    mask[..., :12, :] = 0
    fit_input = replace(fit_input, masks=replace(fit_input.masks, measured=mask))
    clear = torch.where(mask > 0, fit_input.measurement, 1e3)
    assert (
        select_best_fit(
            [runner(fit_input, clear), runner(fit_input, torch.zeros_like(clear))], 1.0
        ).predict_measurement()
        is not None
    )
    best = select_best_fit(
        [runner(fit_input, clear), runner(fit_input, torch.zeros_like(clear))], 1.0
    )
    torch.testing.assert_close(best.predict_measurement(), clear)


@pytest.mark.parametrize("after", [0, 6])
def test_stop_and_keep_during_a_comparison_keeps_the_best_image_so_far(after: int) -> None:
    calls = 0

    def keep_after() -> Control:
        nonlocal calls
        calls += 1
        return Control.KEEP if calls > 4 + after else Control.GO

    recipe = dip.make_recipe("guide", preset="fast", max_iterations=6, device="cpu")
    headers = {"guide": ImageHeader(name="flash", shape=(32, 32), dtype="float64", axes="YX")}
    plan = preflight(
        recipe,
        ImageHeader(name="shot", shape=(32, 32), dtype="uint16", axes="YX"),
        MACHINE,
        headers,
    )
    assert isinstance(plan, Plan)
    loop = run(plan, {"image": make_noisy(32), "guide": make_truth(32)}, poll_control=keep_after)
    answer = drain_generator(loop, None)
    assert answer is not None
    assert np.isfinite(answer.image).all()
    assert str(answer.stop) == "you stopped it and kept the image" or after
