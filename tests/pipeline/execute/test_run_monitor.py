"""The clock of a run: pauses do not count, and the message names the part and the time left."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from engine.fit.schedules import make_single_phase_schedule
from fit_inputs import make_plain_fit_input, make_task_setup
from napari_dip.engine.fit.loop import fit
from napari_dip.engine.fit.state import FitProgress
from napari_dip.engine.fit.stopping import Control, ValidationRecord, never_stop
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.run_monitor import RunMonitor
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.progress import TIME_LEFT_MARGIN
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import Inpaint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Problem

MACHINE = Machine(
    cores=2,
    memory_bytes=8 * 10**9,
    devices=("cpu",),
    torch_version="2.13.0",
    no_gpu_reason="no NVIDIA driver was found",
)


class ManualClock:
    """A clock whose hands the test moves, and a person whose wish it sets."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.answer = Control.GO

    def monotonic(self) -> float:
        return self.time

    def poll_control(self) -> Control:
        return self.answer


def make_plan(shape: tuple[int, ...] = (64, 64), axes: str = "YX", **settings: object) -> Plan:
    recipe = make_recipe("denoise", max_iterations=100, **settings)
    answer = preflight(
        recipe, ImageHeader(name="cells", shape=shape, dtype="uint16", axes=axes), MACHINE
    )
    assert isinstance(answer, Plan)
    return answer


def make_progress(iteration: int, inference_fraction: float = 0.0) -> FitProgress:
    return FitProgress(
        validation_record=ValidationRecord(
            iteration=iteration, training_loss=1.0, validation_loss=1.0
        ),
        iteration=iteration,
        best_iteration=iteration,
        inference_fraction=inference_fraction,
    )


def pause_for(seconds: float, hands: ManualClock, monitor: RunMonitor) -> None:
    hands.answer = Control.PAUSE
    for _ in range(4):
        assert monitor.poll_control() is Control.PAUSE
        hands.time += seconds / 4
    hands.answer = Control.GO


def test_a_pause_does_not_count_against_the_time_limit() -> None:
    hands = ManualClock()
    monitor = RunMonitor(make_plan(time_limit=10.0), hands.poll_control, None, hands.monotonic)
    hands.time += 6
    assert monitor.poll_control() is Control.GO
    pause_for(100, hands, monitor)
    assert monitor.poll_control() is Control.GO
    assert monitor.seconds == pytest.approx(6)
    hands.time += 5
    assert monitor.poll_control() is Control.KEEP
    assert monitor.is_timed_out


def test_seconds_stand_still_while_the_pause_lasts() -> None:
    hands = ManualClock()
    monitor = RunMonitor(make_plan(), hands.poll_control, None, hands.monotonic)
    hands.time += 2
    hands.answer = Control.PAUSE
    monitor.poll_control()
    hands.time += 50
    assert monitor.seconds == pytest.approx(2)


def test_a_pause_does_not_lengthen_what_is_left() -> None:
    seconds = []
    for pause in (0, 1000):
        hands = ManualClock()
        monitor = RunMonitor(make_plan(), hands.poll_control, None, hands.monotonic)
        monitor.start_fit(1, 0)
        hands.time += 10
        if pause:
            pause_for(pause, hands, monitor)
            monitor.poll_control()
        seconds.append(monitor.make_event(make_progress(50), None).seconds_left)
    assert seconds[0] == pytest.approx(seconds[1])
    assert 5 < seconds[0] < 30


def test_a_preview_is_not_due_because_of_a_pause() -> None:
    hands = ManualClock()
    monitor = RunMonitor(make_plan(), hands.poll_control, 0.2, hands.monotonic)
    pause_for(60, hands, monitor)
    monitor.poll_control()
    assert not monitor.is_preview_due(has_prediction=True)
    hands.time += 0.3
    assert monitor.is_preview_due(has_prediction=True)


def test_looks_for_the_sake_of_previews_take_a_hundredth_of_the_time() -> None:
    hands = ManualClock()
    monitor = RunMonitor(make_plan(), hands.poll_control, 0.2, hands.monotonic)
    hands.time += 0.3
    assert monitor.is_preview_due(has_prediction=False)
    hands.time += 0.05
    monitor.record_preview_cost()
    hands.time += 4.9
    assert not monitor.is_preview_due(has_prediction=False)
    assert monitor.is_preview_due(has_prediction=True)  # it costs no look
    monitor.record_preview_cost()
    hands.time += 4.9
    assert not monitor.is_preview_due(has_prediction=False)
    hands.time += 0.2
    assert monitor.is_preview_due(has_prediction=False)


def test_the_message_names_the_channel_where_there_are_several() -> None:
    hands = ManualClock()
    monitor = RunMonitor(make_plan((3, 64, 64), "CYX"), hands.poll_control, None, hands.monotonic)
    monitor.start_fit(2, 0)
    event = monitor.make_event(make_progress(50), None)
    assert event.message == "Restoring, channel 2 of 3"
    assert event.unit_name == "channel 2 of 3"
    assert (event.unit, event.units) == (2, 3)
    alone = RunMonitor(make_plan(), hands.poll_control, None, hands.monotonic)
    assert alone.make_event(make_progress(50), None).message == "Restoring"


def test_the_message_counts_frames_of_a_movie_and_planes_of_a_stack() -> None:
    for axis, word in (("T", "frame"), ("Z", "plane")):
        stack = make_plan((8, 64, 64), f"{axis}YX", stacks="planes", restarts=1)
        monitor = RunMonitor(stack, ManualClock().poll_control, None)
        monitor.start_fit(3, 0)
        assert monitor.make_event(make_progress(5), None).message == f"Restoring, {word} 3 of 8"


def expect_ending(run: Plan, each: float) -> float:
    """Seconds after the last iteration: half as slow as the iterations, in logarithms."""
    costs, (unit,) = run.costs, run.units
    iterations = unit.iterations + run.fit_config.refit_iterations
    slowness = each * iterations / costs.estimate_fit(iterations)
    return (costs.inference_seconds + costs.postprocessing_seconds) * slowness**0.5


def list_seconds_left(
    iterations: Iterable[int], each: float, first: float = 0.0, shape: tuple[int, ...] = (64, 64)
) -> list[float | None]:
    """What is said to be left at each report of a run, on a clock of our own."""
    hands = ManualClock()
    monitor = RunMonitor(make_plan(shape), hands.poll_control, None, hands.monotonic)
    monitor.start_fit(1, 0)
    began = hands.time
    said = []
    for iteration in iterations:
        hands.time = began + first + each * iteration
        said.append(monitor.make_event(make_progress(iteration), None).seconds_left)
    return said


def test_the_time_left_is_a_bound_and_right_within_a_quarter() -> None:
    iterations = (1, 10, 25, 50, 90)
    for each in (0.05, 0.5):
        said = list_seconds_left(iterations, each, first=4.0)
        for iteration, seconds in zip(iterations[1:], said[1:], strict=True):
            comes = each * (100 - iteration) + expect_ending(make_plan(), each)
            assert seconds is not None
            assert comes <= seconds <= 1.25 * comes


def make_filling_fit(grid: tuple[int, ...]) -> tuple[Problem, Prior]:
    """A fit that fills a small hole of one plane, and of a single plane denoises the others."""
    fit_input = replace(make_plain_fit_input(grid), prior_key="masked-input")
    measured = torch.ones(1, 1, *grid)
    measured[..., 8:12, 8:12] = 0
    if len(grid) > 2:
        measured[:, :, 1:] = 1
    validation = fit_input.masks.validation
    masks = replace(fit_input.masks, measured=measured, select_validation=lambda **_: validation)
    unmasked = "keep" if len(grid) > 2 else "denoise"
    setup = make_task_setup(Inpaint(unmasked=unmasked), replace(fit_input, masks=masks))
    return setup.problem, setup.prior


@pytest.mark.parametrize("grid", [(40, 40), (4, 24, 24)])
def test_time_left_of_the_last_phase_is_at_most_twice_what_comes(grid: tuple[int, ...]) -> None:
    """Hours were said where 10 s came.

    The first passes predict the few pixels of the holes, and take as long as the others. Before
    them, no validation reported the end of the refit.
    """
    plan = preflight(
        make_recipe("inpaint", max_iterations=35),
        ImageHeader(name="cells", shape=grid, dtype="uint16", axes="ZYX"[-len(grid) :]),
        MACHINE,
        {"mask": ImageHeader(name="mask", shape=grid, dtype="uint8", axes="ZYX"[-len(grid) :])},
    )
    assert isinstance(plan, Plan)
    refit = plan.fit_config.refit_iterations
    hands = ManualClock()
    monitor = RunMonitor(plan, hands.poll_control, None, hands.monotonic)
    monitor.start_fit(1, 0)

    def poll_control() -> Control:  # once an iteration, and once a pass
        hands.time += 1.0
        return Control.GO

    schedule = make_single_phase_schedule(35 - refit, 0.001, refit_iterations=refit)
    problem, prior = make_filling_fit(grid)
    loop = fit(problem, prior, schedule, never_stop, seed=0, poll_control=poll_control)
    said = []
    for progress in loop:
        seconds_left = monitor.make_event(progress, None).seconds_left
        if progress.inference_fraction:
            said.append((hands.time, seconds_left))
    assert len(said) > 3
    for now, seconds_left in said:
        assert seconds_left is not None
        assert seconds_left <= 2 * (said[-1][0] - now) + 1


def test_nothing_is_said_of_the_time_left_from_a_first_iteration_alone() -> None:
    """It is the slowest by far: 75 s were said where 24 came."""
    assert list_seconds_left((1,), 0.1, first=20.0) == [None]


def test_what_follows_the_last_iteration_is_counted_and_grows_with_the_image() -> None:
    small, large = (
        list_seconds_left((1, 100), 0.1, shape=(side, side))[-1] for side in (256, 1024)
    )
    assert small is not None
    assert large is not None
    assert small > 0.1
    assert large > 8 * small  # iterations look at a window, filter and verdict at all of it


def test_frames_without_iterations_have_a_time_left_too() -> None:
    """One network learns from all frames of a movie, and is then applied to each."""
    movie = make_plan((8, 64, 64), "TYX", series_training="joint")
    frames = [unit for unit in movie.units if unit.has_estimate]
    assert not any(unit.iterations for unit in frames)
    hands = ManualClock()
    monitor = RunMonitor(movie, hands.poll_control, None, hands.monotonic)
    said = []
    for number, unit in enumerate(movie.units, start=1):
        monitor.start_fit(number, 0)
        for iteration in range(0, unit.iterations + 1, 25):
            hands.time += 1 if unit.iterations else 2
            report = make_progress(iteration, inference_fraction=float(unit.has_estimate))
            seconds = monitor.make_event(report, None).seconds_left
        said += [seconds] if unit.has_estimate else []
    assert None not in said
    # each frame takes 2 s: from the second on, what is left is known from the first
    for done, seconds in enumerate(said[1:], start=2):
        comes = 2.0 * (len(frames) - done)
        assert comes <= seconds <= 1.5 * comes + 4  # the quality checks of all follow


def test_a_second_restoration_goes_on_where_the_first_ended() -> None:
    """Another estimate of the noise lets the run fit all once more: the bar does not go back."""
    hands = ManualClock()
    monitor = RunMonitor(make_plan(), hands.poll_control, None, hands.monotonic)
    fractions = []
    for again in (False, True):
        if again:
            monitor.set_expected_work(make_plan())
            begun = monitor.make_message_event("Restoring again with weaker noise")
            assert begun.fraction >= fractions[-1]
            assert begun.seconds_left == pytest.approx(54 * TIME_LEFT_MARGIN, rel=0.1)
        monitor.start_fit(1, 0)
        for iteration in (25, 50, 75, 100):
            hands.time += 0.5 * 25
            fractions.append(monitor.make_event(make_progress(iteration), None).fraction)
        hands.time += 3
        fractions.append(
            monitor.make_event(make_progress(100, inference_fraction=1.0), None).fraction
        )
        monitor.start_assessment()
        hands.time += 1
    assert fractions == sorted(fractions)
    assert fractions[3] > 0.5


def test_the_best_iteration_is_that_of_the_curve_on_display() -> None:
    hands = ManualClock()
    header = ImageHeader(name="cells", shape=(64, 64), dtype="uint16", axes="YX")
    guide_header = ImageHeader(name="guide", shape=(64, 64), dtype="uint16", axes="YX")
    plan = preflight(make_recipe("guide"), header, MACHINE, {"guide": guide_header})
    assert isinstance(plan, Plan)
    monitor = RunMonitor(plan, hands.poll_control, None, hands.monotonic)
    monitor.start_fit(1, 0, 0)
    assert monitor.make_event(make_progress(50), None).best_iteration == 50
    monitor.start_fit(1, 0, 1)
    event = monitor.make_event(make_progress(25), None)
    assert event.validation_loss is None and event.best_iteration == 50
