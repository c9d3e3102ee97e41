"""Stacks and movies: restored item by item or as a volume, reproducible and complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_dip.engine.fit.stopping import Control
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from small_runs import make_noisy, make_truth, plan_for, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = 3


def draw_movie() -> np.ndarray:
    """Return shots of one scene, each with noise of its own."""
    return np.stack([make_noisy(32, seed) for seed in range(FRAMES)])


def measure_error(image: np.ndarray) -> np.ndarray:
    """Mean square error of each plane against the scene without noise."""
    return ((image - make_truth(32) - 100) ** 2).mean((1, 2))


@pytest.mark.long
@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
def test_every_frame_gets_clearer_though_later_ones_take_less_than_a_fifth(prior: str) -> None:
    fit_config = 100 if prior == "blind-spot" else 250
    plan = plan_for(draw_movie(), "TYX", max_iterations=fit_config, prior=prior)
    _, answer = run_to_end(plan, draw_movie())
    assert answer is not None
    assert answer.image.shape == draw_movie().shape
    assert (measure_error(answer.image) < 0.9 * measure_error(draw_movie())).all()
    assert answer.report["iterations"] <= 1.5 * fit_config


@pytest.mark.long
def test_a_volume_is_restored_whole() -> None:
    stack = np.stack([make_noisy(32, seed) for seed in range(4)])
    _, answer = run_to_end(plan_for(stack, "ZYX", max_iterations=40), stack)
    assert answer is not None
    assert answer.uncertainty.shape == stack.shape
    assert measure_error(answer.image).mean() < 0.6 * measure_error(stack).mean()


@pytest.mark.long
@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
@pytest.mark.all_cores
def test_the_same_seed_gives_the_same_bytes(axes: str) -> None:
    stack = np.stack([make_noisy(32, seed) for seed in range(4)])
    images = [run_to_end(plan_for(stack, axes), stack)[1] for _ in range(2)]
    first, second = (result.image.tobytes() for result in images if result is not None)
    assert first == second


@pytest.mark.long
@pytest.mark.parametrize("after", [40, 70])
@pytest.mark.all_cores
def test_a_movie_resumed_in_any_frame_gives_the_same_bytes(tmp_path: Path, after: int) -> None:
    plan = plan_for(draw_movie(), "TYX", max_iterations=60)
    _, whole = run_to_end(plan, draw_movie())
    path, counter = tmp_path / "unfinished", iter(range(10**9))
    poll_control = lambda: Control.KEEP if next(counter) >= after else Control.GO  # noqa: E731
    run_to_end(
        plan,
        draw_movie(),
        poll_control=poll_control,
        checkpoints=CheckpointStore(path, resume=False),
    )
    _, resumed = run_to_end(plan, draw_movie(), checkpoints=CheckpointStore(path, resume=True))
    assert whole is not None
    assert resumed is not None
    assert np.array_equal(whole.image, resumed.image)


def test_frames_that_were_not_reached_are_as_in_the_input_and_said_so() -> None:
    counter = iter(range(10**9))
    poll_control = lambda: Control.KEEP if next(counter) >= 30 else Control.GO  # noqa: E731
    _, answer = run_to_end(
        plan_for(draw_movie(), "TYX", max_iterations=60), draw_movie(), poll_control=poll_control
    )
    assert answer is not None
    np.testing.assert_allclose(answer.image[1:], draw_movie()[1:], rtol=1e-6)
    assert not np.allclose(answer.image[0], draw_movie()[0])
    early, began, *_ = answer.report["verdict"]["warnings"]
    assert early == "Frames 2 and 3 were not restored; they are as in the input."
    assert began.startswith("The fit of frame 1 was ended early after 30 of at most 60 iterations")


@pytest.mark.long
def test_progress_never_goes_back_and_ends_at_one() -> None:
    events, _ = run_to_end(plan_for(draw_movie(), "TYX", max_iterations=60), draw_movie())
    shares = [event.fraction for event in events]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.05)


@pytest.mark.long
def test_channels_of_a_movie_are_restored_each_by_itself() -> None:
    pair = np.stack([draw_movie(), draw_movie()[::-1]], axis=1)
    plan = plan_for(pair, "TCYX")
    assert len(plan.units) == 2 * FRAMES
    _, answer = run_to_end(plan, pair)
    assert answer is not None
    assert answer.image.shape == pair.shape
