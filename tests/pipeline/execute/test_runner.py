"""A run returns an image in the units of the input, with a report."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import FailedError, RefusedError
from napari_dip.pipeline.execute.runner import run
from small_runs import make_noisy, make_truth, plan_for, run_to_end

if TYPE_CHECKING:
    from napari_dip.pipeline.restoration import Restoration


#: Below 64 a fit takes one thread; two of them wait for each other where tests run side by side.
SIDE = 48


def restore(array: Any, axes: str = "YX", **settings: Any) -> Restoration:
    _, answer = run_to_end(plan_for(np.asarray(array), axes, **settings), array)
    assert answer is not None
    return answer


@cache
def run_plain(prior: str = "auto", seed: int = 0) -> Restoration:
    """One run that several tests look at."""
    return restore(make_noisy(SIDE), prior=prior, seed=seed)


@cache
def run_longer() -> Restoration:
    """One that has settled."""
    return restore(make_noisy(SIDE), max_iterations=100)


@pytest.mark.long
def test_the_image_gets_nearer_to_the_truth() -> None:
    image = run_longer().image - 100.0
    before = np.sqrt(np.mean((make_noisy(SIDE) - 100.0 - make_truth(SIDE)) ** 2))
    assert np.sqrt(np.mean((image - make_truth(SIDE)) ** 2)) < 0.75 * before


@pytest.mark.long
@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
def test_mean_and_units_are_kept(prior: str) -> None:
    image = run_plain(prior).image
    assert image.dtype == np.float32
    assert image.mean() == pytest.approx(make_noisy(SIDE).mean(), rel=1e-5)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (40, 33)),
        ("CYX", (2, 33, 40)),
        ("YXS", (33, 40, 3)),
        ("SYX", (3, 33, 40)),
        ("XY", (33, 40)),
        ("ZCYX", (1, 2, 33, 40)),
    ],
)
def test_shape_and_axes_come_back(axes: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    answer = restore(array, axes, max_iterations=3)
    assert answer.image.shape == answer.uncertainty.shape == shape
    assert np.isfinite(answer.image).all()
    assert (answer.uncertainty > 0).all()


@pytest.mark.long
def test_strides_and_byte_order_do_not_change_a_pixel() -> None:
    image = make_noisy(SIDE)
    for other in (np.asfortranarray(image), image.astype(">u2"), np.repeat(image, 2, 1)[:, ::2]):
        again = restore(other)
        assert np.array_equal(again.image, run_plain().image)
        assert again.report["input_sha256"] == run_plain().report["input_sha256"]


@pytest.mark.long
@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_another_unit_of_intensity_gives_the_same_image(factor: float) -> None:
    unscaled = restore(make_noisy(SIDE).astype(np.float32)).image
    scaled = restore((make_noisy(SIDE) * factor).astype(np.float32)).image / factor
    assert np.array_equal(scaled, unscaled)


@pytest.mark.long
def test_the_result_has_the_input_type_on_request() -> None:
    answer = restore(make_noisy(SIDE), dtype="same")
    assert answer.image.dtype == np.uint16
    assert np.abs(answer.image - run_plain().image).max() <= 0.5


@pytest.mark.long
@pytest.mark.all_cores
def test_the_same_recipe_gives_the_same_bytes() -> None:
    few: dict[str, Any] = {"max_iterations": 6}  # of 64 x 64, which take two threads
    hashes = {restore(make_noisy(64), **few).report["output_sha256"] for _ in range(2)}
    assert len(hashes) == 1
    assert restore(make_noisy(64), seed=1, **few).report["output_sha256"] not in hashes


@pytest.mark.all_cores
def test_threads_and_random_numbers_are_left_as_found() -> None:
    torch.manual_seed(3)
    before = torch.get_num_threads(), torch.random.get_rng_state(), torch.get_default_dtype()
    restore(make_noisy(SIDE))
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert torch.get_default_dtype() == before[2]


def test_the_report_holds_what_was_promised_and_is_json() -> None:
    report = restore(make_noisy(SIDE), restarts=2, max_iterations=4).report
    promised = (
        "task recipe version device threads seed shape axes noise prior iterations best_iteration "
        "stop_reason seconds validation_loss residual peak_bytes input_sha256 output_sha256 notes "
        "note_codes stop_sentence extra_inputs_sha256"
    )
    assert set(promised.split()) <= set(report)
    assert {"model", "gain", "intercept", "offset", "autocorrelation"} <= set(report["noise"])
    assert {"key", "reason"} <= set(report["prior"])
    assert {"lag_1_correlation", "mean"} <= set(report["residual"])
    assert json.loads(json.dumps(report, allow_nan=False))["recipe"]["restarts"] == 2


@pytest.mark.long
def test_repeats_are_averaged_and_their_spread_counts() -> None:
    single, other, both = run_plain(), run_plain(seed=1), restore(make_noisy(SIDE), restarts=2)
    assert both.report["iterations"] == 50
    half_apart = np.abs(single.image - other.image).mean() / 2
    assert np.abs(both.image - single.image).mean() == pytest.approx(half_apart, rel=0.5)
    assert both.uncertainty.min() > 0
    assert np.mean(both.uncertainty**2) > 0.8 * np.mean(single.uncertainty**2)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", ["separate", "together"])
def test_a_blank_channel_does_not_spoil_the_others(dtype: Any, channels: str) -> None:
    array = np.stack([make_noisy(SIDE), np.full((SIDE, SIDE), 7), make_noisy(SIDE, 1)]).astype(
        dtype
    )
    answer = restore(array, "CYX", channels=channels)
    assert np.array_equal(answer.image[1], array[1].astype(np.float32))
    assert (answer.uncertainty[1] == 0).all()
    assert 0 < answer.image[0].std() < make_noisy(SIDE).std()
    assert any("Channel 2 holds one value" in note for note in answer.report["notes"])
    assert json.dumps(answer.report, allow_nan=False)


@pytest.mark.long
def test_the_paper_prior_says_how_sure_it_is_too() -> None:
    answer = restore(make_noisy(96), prior="random-input", max_iterations=150)
    error = answer.image - 100.0 - make_truth(96)
    ratio = np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(answer.uncertainty**2))
    assert 0.2 < ratio < 5


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"noise": "gaussian"}, "gaussian"),
        ({"noise": "poisson-gaussian"}, "poisson-gaussian"),
        ({"gain": 2.0, "read_noise": 3.0}, "poisson-gaussian"),
    ],
)
def test_the_user_may_overrule_the_noise_model(settings: dict[str, Any], model: str) -> None:
    noise = restore(make_noisy(SIDE), max_iterations=2, **settings).report["noise"]
    assert noise["model"] == model
    if "gain" in settings:
        dark = float(np.percentile(make_noisy(SIDE), 1))
        assert noise["gain"] == [2.0]
        assert 2.0 * dark + noise["intercept"][0] == pytest.approx(9.0)


@pytest.mark.long
def test_uncertainty_is_as_large_as_the_error() -> None:
    error = run_longer().image - 100.0 - make_truth(SIDE)
    ratio = np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(run_longer().uncertainty ** 2))
    assert 0.5 < ratio < 2


def spoil(value: float) -> np.ndarray:
    array = make_noisy(SIDE).astype(np.float32)
    array[3, 4] = value
    return array


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.full((64, 64), np.nan, np.float32), "pixels-nan"),
        (spoil(np.nan), "pixels-nan"),
        (spoil(np.inf), "pixels-infinite"),
        (np.full((SIDE, SIDE), 7, np.uint8), "pixels-constant"),
        (np.random.default_rng(0).normal(0, 1e30, (64, 64)), "pixels-range"),
        (1e9 + np.random.default_rng(0).normal(0, 1, (64, 64)), "pixels-range"),
    ],
)
def test_pixels_that_cannot_be_restored_are_refused(array: np.ndarray, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        run_to_end(plan_for(array), array)
    assert caught.value.reason.code == code


def make_poll_control(count: int, control: Control) -> Any:
    calls = iter(range(10**9))
    return lambda: control if next(calls) >= count else Control.GO


def test_keep_gives_the_best_so_far() -> None:
    _, answer = run_to_end(
        plan_for(make_noisy(SIDE)),
        make_noisy(SIDE),
        poll_control=make_poll_control(12, Control.KEEP),
    )
    assert answer is not None
    assert str(answer.stop) == "you stopped it and kept the image"
    assert answer.report["iterations"] == 12


def test_keep_before_anything_was_fitted_gives_nothing() -> None:
    assert (
        run_to_end(
            plan_for(make_noisy(SIDE)),
            make_noisy(SIDE),
            poll_control=make_poll_control(0, Control.KEEP),
        )[1]
        is None
    )


def test_keep_during_the_first_of_two_channels_leaves_the_other_as_it_was() -> None:
    array = np.stack([make_noisy(SIDE), make_noisy(SIDE, 1)])
    _, answer = run_to_end(
        plan_for(array, "CYX"), array, poll_control=make_poll_control(5, Control.KEEP)
    )
    assert answer is not None
    assert np.array_equal(answer.image[1], array[1].astype(np.float32))
    assert answer.uncertainty[1].mean() > answer.uncertainty[0].mean() / 2
    warned = answer.report["verdict"]["warnings"]
    assert any(
        "Channel 2 was not restored; it is as in the input." in warning for warning in warned
    )
    assert str(answer.stop) == "you stopped it and kept the image"


@pytest.mark.long
@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
@pytest.mark.parametrize("late", [0, 3])
def test_keep_in_a_repeat_does_not_water_down_the_finished_one(prior: str, late: int) -> None:
    count = sum(1 for _ in range(25))
    looks = 9 if prior == "blind-spot" else 0
    poll_control = make_poll_control(count + looks + late, Control.KEEP)
    plan = plan_for(make_noisy(SIDE), prior=prior, restarts=2)
    _, answer = run_to_end(plan, make_noisy(SIDE), poll_control=poll_control)
    assert answer is not None
    assert np.array_equal(answer.image, run_plain(prior).image)


def test_discard_returns_nothing() -> None:
    assert (
        run_to_end(
            plan_for(make_noisy(SIDE)),
            make_noisy(SIDE),
            poll_control=make_poll_control(3, Control.DISCARD),
        )[1]
        is None
    )


@pytest.mark.long
def test_the_time_limit_ends_a_run_with_a_message() -> None:
    plan = plan_for(make_noisy(SIDE), max_iterations=100_000, time_limit=1.0)
    _, answer = run_to_end(plan, make_noisy(SIDE))
    assert answer is not None
    assert str(answer.stop) == "the time limit of 1 s was reached"
    assert answer.report["seconds"] < 3


def test_a_time_limit_too_short_for_anything_fails_with_a_message() -> None:
    with pytest.raises(FailedError) as caught:
        run_to_end(plan_for(make_noisy(SIDE), time_limit=1e-9), make_noisy(SIDE))
    assert caught.value.reason.code == "time-over"


@pytest.mark.long
def test_previews_have_the_units_of_the_input_and_change_no_pixel() -> None:
    array = np.stack([make_noisy(SIDE), make_noisy(SIDE, 1)])
    events, answer = run_to_end(plan_for(array, "CYX"), array, preview_seconds=0.0)
    quiet = run_to_end(plan_for(array, "CYX"), array)[1]
    previews = [event.preview for event in events if event.preview is not None]
    assert previews
    assert all(preview.shape == array.shape for preview in previews)
    assert previews[-1].mean() == pytest.approx(array.mean(), rel=0.1)
    assert answer is not None
    assert quiet is not None
    assert np.array_equal(answer.image, quiet.image)


@pytest.mark.long
def test_progress_only_rises() -> None:
    events, _ = run_to_end(
        plan_for(make_noisy(SIDE), restarts=2, max_iterations=50), make_noisy(SIDE)
    )
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert all(event.seconds_left is None or event.seconds_left >= 0 for event in events)


class Exhausted:
    """An array whose pixels do not fit into memory, as numpy says it."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise MemoryError("Unable to allocate 3.00 TiB")


def test_a_full_memory_is_reported_in_a_message() -> None:
    with pytest.raises(FailedError) as caught:
        run_to_end(plan_for(make_noisy(SIDE)), Exhausted())
    assert caught.value.reason.code == "memory-out"


@pytest.mark.long
@pytest.mark.all_cores
def test_a_closed_run_puts_the_threads_back() -> None:
    before = torch.get_num_threads()
    loop = run(
        plan_for(np.zeros((32, 32), np.uint8) + make_noisy(32) % 200), {"image": make_noisy(32)}
    )
    for _ in range(5):
        next(loop)
    loop.close()
    assert torch.get_num_threads() == before
