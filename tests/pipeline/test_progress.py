"""Progress and time left: steps are folded into one progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from napari_dip.pipeline.progress import (
    TIME_LEFT_MARGIN,
    Progress,
    ProgressTracker,
    drain_generator,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def estimate_seconds(tracker: ProgressTracker, now: float) -> float:
    seconds = tracker.compute_progress(now).seconds_left
    assert seconds is not None
    return seconds / TIME_LEFT_MARGIN


def test_nothing_is_said_of_the_time_before_something_was_measured() -> None:
    tracker = ProgressTracker()
    step = tracker.add_step("fit", 10.0)
    assert tracker.compute_progress(0.0).seconds_left is None
    step.start(0.0)
    step.update(4.0, 0.5)
    assert estimate_seconds(tracker, 4.0) == pytest.approx(4.0)
    assert estimate_seconds(tracker, 6.0) == pytest.approx(2.0)


def test_steps_of_another_kind_are_half_as_slow_in_logarithms_until_they_are_measured() -> None:
    tracker = ProgressTracker()
    fit, *endings = (tracker.add_step(kind, 10.0) for kind in ("fit", "ending", "ending"))
    fit.start(0.0)
    fit.finish(40.0)
    assert estimate_seconds(tracker, 40.0) == pytest.approx(2 * 20.0)
    endings[0].start(40.0)
    endings[0].finish(45.0)
    assert estimate_seconds(tracker, 45.0) == pytest.approx(5.0)


def test_steps_of_the_same_group_are_as_slow() -> None:
    tracker = ProgressTracker()
    joint, _ = (tracker.add_step(kind, 10.0) for kind in ("fit joint", "fit fine-tune-probe"))
    joint.start(0.0)
    joint.finish(40.0)
    assert estimate_seconds(tracker, 40.0) == pytest.approx(40.0)


def test_fits_are_expected_to_stop_where_others_did() -> None:
    tracker = ProgressTracker()
    first, second, _ = (tracker.add_step("fit", 10.0) for _ in range(3))
    first.start(0.0)
    first.update(6.0, 0.6)
    first.finish()
    assert estimate_seconds(tracker, 6.0) == pytest.approx(12.0)
    second.start(6.0)
    second.update(9.0, 0.3)
    assert estimate_seconds(tracker, 9.0) == pytest.approx(3.0 + 6.0)
    second.update(14.0, 0.8)  # it lasts longer than the first
    assert 1.0 + 6.0 < estimate_seconds(tracker, 14.0) < 2.0 + 8.0


def test_the_first_iterations_are_not_timed() -> None:
    tracker = ProgressTracker()
    step = tracker.add_step("fit", 10.0)
    step.warm_up_fraction = 0.1
    step.start(0.0)
    step.update(30.0, 0.01)
    assert tracker.compute_progress(30.0).seconds_left is None
    step.update(31.0, 0.26)
    assert estimate_seconds(tracker, 31.0) == pytest.approx(0.74 / 0.25)


def test_stages_follow_each_other_and_workers_share_each() -> None:
    tracker = ProgressTracker(worker_count=2)
    for stage, planned in ((0, 5.0), (1, 4.0), (1, 4.0), (1, 4.0), (2, 1.0)):
        tracker.add_step("shard", planned, stage=stage)
    assert tracker.compute_progress(0.0).seconds_left is None  # nothing was measured yet
    tracker.steps[0].start(0.0)
    tracker.steps[0].finish(5.0)
    assert estimate_seconds(tracker, 5.0) == pytest.approx(8 + 1)


def test_the_progress_that_a_step_reports_itself_is_taken() -> None:
    tracker = ProgressTracker()
    first, _ = (tracker.add_step("file", 10.0) for _ in range(2))
    first.start(0.0)
    report = Progress(message="a.tif", done=0.25, seconds_left=15.0)
    first.report_progress(5.0, report)
    progress = tracker.compute_progress(5.0)
    assert progress.children == (report,)
    assert progress.seconds_left == pytest.approx(15.0 + 20.0 * TIME_LEFT_MARGIN)
    assert progress.fraction == pytest.approx(0.125)


def test_further_work_shares_the_rest_of_the_bar() -> None:
    tracker = ProgressTracker()
    first = tracker.add_step("fit", 10.0)
    first.start(0.0)
    first.update(8.0, 0.8)
    assert tracker.compute_progress(8.0).fraction == pytest.approx(0.8)
    tracker.add_step("fit", 10.0)
    assert tracker.compute_progress(8.0).fraction == pytest.approx(0.8)
    first.finish(10.0)
    assert tracker.compute_progress(10.0).fraction == pytest.approx(0.8 + 0.2 * 2 / 12)


@pytest.mark.parametrize("error", [StopIteration("mine"), GeneratorExit(), KeyboardInterrupt()])
def test_an_error_of_a_callback_comes_out_unchanged_and_closes_the_run(
    error: BaseException,
) -> None:
    is_closed = False

    def count_up() -> Iterator[int]:
        nonlocal is_closed
        try:
            yield from range(5)
        finally:
            is_closed = True

    def fail(number: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        drain_generator(count_up(), fail)
    assert caught.value is error and is_closed
