"""Progress reaches the window at limited intervals."""

import time

import pytest

from napari_dip.pipeline.progress import Event
from napari_dip.qt.shell.background_call import (
    MAX_DRAWING_FRACTION,
    MAX_UPDATE_SECONDS,
    MIN_UPDATE_SECONDS,
    JobProgress,
    ProgressQueue,
)


@pytest.fixture
def clock(monkeypatch):
    spent = {"wall": 100.0, "thread": 10.0}
    monkeypatch.setattr(time, "monotonic", lambda: spent["wall"])
    monkeypatch.setattr(time, "thread_time", lambda: spent["thread"])
    return spent


def measure_wait(clock, costs):
    """Show news that cost so much each; seconds until the next are due."""
    box = ProgressQueue()
    box.take()
    for cost in costs:
        clock["thread"] += cost
        clock["wall"] += MAX_UPDATE_SECONDS
        box.take()
    began = clock["wall"]
    nothing = JobProgress(event=Event(message=""))
    while not box.post(nothing):
        clock["wall"] += 0.05
    return clock["wall"] - began


def test_news_that_cost_nothing_come_at_once(clock):
    assert measure_wait(clock, [0, 0, 0]) == pytest.approx(MIN_UPDATE_SECONDS, abs=0.06)


def test_news_that_are_dear_to_show_come_seldom(clock):
    assert measure_wait(clock, [0.02, 0.02]) == pytest.approx(0.02 / MAX_DRAWING_FRACTION, abs=0.06)
    assert measure_wait(clock, [5.0, 5.0]) == pytest.approx(MAX_UPDATE_SECONDS, abs=0.06)


def test_one_dear_image_among_cheap_ones_does_not_count(clock):
    assert measure_wait(clock, [0.002, 3.0]) == pytest.approx(MIN_UPDATE_SECONDS, abs=0.06)
