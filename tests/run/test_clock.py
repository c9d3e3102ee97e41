"""The clock of a run: pauses cost nothing, and what is left is told in words with the part."""

from __future__ import annotations

import pytest

from napari_dip.engine.control import Control
from napari_dip.engine.progress import Progress
from napari_dip.engine.stopping import Judgement
from napari_dip.io import ImageSpec
from napari_dip.run.clock import Clock
from napari_dip.run.machine import Machine
from napari_dip.run.plan import Plan, preflight
from napari_dip.run.recipe import make_recipe

MACHINE = Machine(2, 8 * 10**9, ("cpu",), "2.13.0", "no NVIDIA driver was found")


class Hands:
    """A clock whose hands the test moves, and a person whose wish it sets."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.wish = Control.GO

    def monotonic(self) -> float:
        return self.time

    def control(self) -> Control:
        return self.wish


def plan(shape: tuple[int, ...] = (64, 64), axes: str = "YX", **settings: object) -> Plan:
    recipe = make_recipe("denoise", max_iterations=100, **settings)
    answer = preflight(recipe, ImageSpec("cells", shape, "uint16", axes), MACHINE)
    assert isinstance(answer, Plan)
    return answer


def progress(iteration: int) -> Progress:
    return Progress(Judgement(iteration, 1.0, 1.0), iteration, iteration)


def paused_for(seconds: float, hands: Hands, clock: Clock) -> None:
    hands.wish = Control.PAUSE
    for _ in range(4):
        assert clock.control() is Control.PAUSE
        hands.time += seconds / 4
    hands.wish = Control.GO


def test_a_pause_does_not_count_against_the_time_limit() -> None:
    hands = Hands()
    clock = Clock(plan(time_limit=10.0), hands.control, None, hands.monotonic)
    hands.time += 6
    assert clock.control() is Control.GO
    paused_for(100, hands, clock)
    assert clock.control() is Control.GO
    assert clock.seconds == pytest.approx(6)
    hands.time += 5
    assert clock.control() is Control.KEEP
    assert clock.timed_out


def test_seconds_stand_still_while_the_pause_lasts() -> None:
    hands = Hands()
    clock = Clock(plan(), hands.control, None, hands.monotonic)
    hands.time += 2
    hands.wish = Control.PAUSE
    clock.control()
    hands.time += 50
    assert clock.seconds == pytest.approx(2)


def test_a_pause_does_not_lengthen_what_is_left() -> None:
    left = []
    for pause in (0, 1000):
        hands = Hands()
        clock = Clock(plan(), hands.control, None, hands.monotonic)
        clock.begin(1, 0)
        hands.time += 10
        if pause:
            paused_for(pause, hands, clock)
            clock.control()
        left.append(clock.event(progress(50), None).seconds_left)
    assert left[0] == pytest.approx(left[1])
    assert 5 < left[0] < 30


def test_a_preview_is_not_due_because_of_a_pause() -> None:
    hands = Hands()
    clock = Clock(plan(), hands.control, 0.2, hands.monotonic)
    paused_for(60, hands, clock)
    clock.control()
    assert not clock.preview_due()
    hands.time += 0.3
    assert clock.preview_due()


def test_the_words_name_the_part_where_there_are_several() -> None:
    hands = Hands()
    clock = Clock(plan((3, 64, 64), "CYX"), hands.control, None, hands.monotonic)
    clock.begin(2, 0)
    event = clock.event(progress(50), None)
    assert event.words == "Restoring, part 2 of 3"
    assert (event.unit, event.units) == (2, 3)
    alone = Clock(plan(), hands.control, None, hands.monotonic)
    assert alone.event(progress(50), None).words == "Restoring"


def test_the_words_count_frames_of_a_movie_and_planes_of_a_stack() -> None:
    for axis, word in (("T", "frame"), ("Z", "plane")):
        stack = plan((8, 64, 64), f"{axis}YX", stacks="planes", restarts=1)
        clock = Clock(stack, Hands().control, None)
        clock.begin(3, 0)
        assert clock.event(progress(5), None).words == f"Restoring, {word} 3 of 8"
