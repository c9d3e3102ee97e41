"""Progress of a batch, by file and as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.errors import make_refusal
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.pipeline.progress import PACE_DECAY, Event, PausableClock, Progress
from napari_dip.scale.batch.jobs import BatchEvent, FileOutcome
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch.table import make_file_rows, update_file_row
from napari_dip.scale.batch_run import FILE_SECONDS, BatchTracker


@pytest.fixture
def plan(tmp_path):
    """Three files of one size, so that each takes as long as the others, and a bad one."""
    for number in range(3):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.eye(24, dtype="uint8"))
    (tmp_path / "bad.tif").write_text("no image")
    return plan_batch(dip.make_recipe("denoise"), tmp_path / "*.tif", tmp_path / "out")


def report_step(plan, number, event=None, outcome=None):
    return BatchEvent(
        number=number,
        count=len(plan.jobs),
        source=plan.jobs[number - 1].source,
        event=event,
        outcome=outcome,
    )


def make_outcome(plan, number, seconds):
    receipt = {"report": {"seconds": seconds, "verdict": {"sentences": ["ok"], "warnings": []}}}
    return FileOutcome(source=plan.jobs[number - 1].source, state="restored", record=receipt)


class ManualClock:
    """A clock whose hands the test moves, and a pool of that many workers."""

    def __init__(self, worker_count=1):
        self.time, self.worker_count = 100.0, worker_count

    def watch(self, plan):
        return BatchTracker(plan, PausableClock(monotonic=lambda: self.time), self)


def test_no_time_left_is_told_before_anything_was_measured_and_then_it_follows_the_files(plan):
    hands = ManualClock()
    course = hands.watch(plan)
    first = plan.jobs[0].plan.seconds + FILE_SECONDS
    each = first - START_SECONDS  # torch is loaded once
    event = Event(message="Restoring", progress=Progress(done=0.5))
    begun = course.add_progress(report_step(plan, 1, event)).progress
    assert begun.seconds_left is None  # the engine is still starting
    assert begun.fraction == pytest.approx(0.5 * first / (first + 2 * each))
    hands.time += first / 4
    quick = course.add_progress(
        report_step(plan, 1, outcome=make_outcome(plan, 1, first / 4))
    ).progress
    assert quick.seconds_left == pytest.approx(2 * each / 4)
    course.add_progress(report_step(plan, 2, Event(message="Reading")))
    hands.time += 4 * each
    slow = course.add_progress(
        report_step(plan, 2, outcome=make_outcome(plan, 2, 4 * each))
    ).progress
    pace = (PACE_DECAY * first / 4 + 4 * each) / (
        PACE_DECAY * first + each
    )  # the last file counts most
    assert slow.seconds_left == pytest.approx(pace * each)
    assert slow.message == "2 of 4 files"


def test_a_file_says_itself_how_long_it_will_take(plan):
    hands = ManualClock()
    course = hands.watch(plan)
    course.add_progress(report_step(plan, 1, Event(message="Reading")))
    hands.time += 10
    event = Event(message="Restoring", progress=Progress(done=0.1, seconds_left=30.0))
    begun = course.add_progress(report_step(plan, 1, event)).progress
    first = plan.jobs[0].plan.seconds + FILE_SECONDS
    assert begun.seconds_left == pytest.approx(30 + 2 * 40 * (first - START_SECONDS) / first)
    assert begun.children == (event.progress,)


def test_workers_side_by_side_share_the_time_left(plan):
    hands = ManualClock(worker_count=2)
    course = hands.watch(plan)
    course.add_progress(report_step(plan, 1, Event(message="Reading")))
    hands.time += 10
    event = Event(message="Restoring", progress=Progress(done=0.1, seconds_left=30.0))
    begun = course.add_progress(report_step(plan, 1, event)).progress
    first = plan.jobs[0].plan.seconds + FILE_SECONDS
    third = 40 * (first - START_SECONDS) / first
    assert begun.seconds_left == pytest.approx(max(40, 30 + third))


def test_a_row_shows_progress_and_then_the_outcome_of_its_file(plan):
    *_, bad = rows = make_file_rows(plan)
    assert bad.state == "refused" and bad.messages[0].startswith("'bad.tif' is not a kind of")
    assert bad.reason == bad.messages[0].replace("'bad.tif' is", "Is", 1)
    assert "24 × 24 pixels" in rows[0].messages[0] and not rows[0].reason
    event = Event(message="Restoring.", iteration=3, iterations=10)
    working = update_file_row(rows[0], report_step(plan, 1, event))
    assert (working.state, working.messages) == ("working", ("Restoring, iteration 3 of 10",))
    no = make_refusal("time-over", limit=1, name="0.tif")
    failed = update_file_row(
        working,
        report_step(plan, 1, outcome=FileOutcome(source=rows[0].source, state="failed", fault=no)),
    )
    assert failed.messages == (no.message,) and not failed.has_result
    assert failed.reason == no.describe_in_row("0.tif")
    assert update_file_row(
        working, report_step(plan, 1, outcome=make_outcome(plan, 1, 1))
    ).has_result


def test_only_the_name_of_the_row_is_left_out_and_only_at_the_beginning():
    refusal = make_refusal("file-broken", path="a.tif", why="'a.tif' ends early")
    assert refusal.describe_in_row("a.tif").startswith("Is cut off or damaged: 'a.tif' ends early.")
    assert refusal.describe_in_row("b.tif") == refusal.message
    missing = make_refusal("file-missing", path="a.tif")
    assert missing.describe_in_row("a.tif") == missing.message  # "There is no file ..."
