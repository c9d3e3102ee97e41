"""How far a batch is, file by file and as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.errors import make_refusal
from napari_dip.pipeline.events import Event
from napari_dip.scale.batch.jobs import BatchEvent, FileOutcome
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch.table import BatchProgressEstimator, make_file_rows, update_file_row


@pytest.fixture
def plan(tmp_path):
    """Three files of one size, so that each takes as long as the others, and a bad one."""
    for number in range(3):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.eye(24, dtype="uint8"))
    (tmp_path / "bad.tif").write_text("no image")
    return plan_batch(dip.make_recipe("denoise"), tmp_path / "*.tif", tmp_path / "out")


def told(plan, number, event=None, outcome=None):
    return BatchEvent(
        number=number,
        count=len(plan.jobs),
        source=plan.jobs[number - 1].source,
        event=event,
        outcome=outcome,
    )


def restored(plan, number, seconds):
    receipt = {"report": {"seconds": seconds, "verdict": {"sentences": ["ok"], "warnings": []}}}
    return FileOutcome(source=plan.jobs[number - 1].source, state="restored", record=receipt)


def test_the_time_left_is_the_plans_and_grows_with_files_that_took_longer(plan):
    course = BatchProgressEstimator(plan, make_file_rows(plan))
    each = plan.jobs[0].plan.seconds
    begun = course.update(told(plan, 1, Event(message="Restoring", fraction=0.5)))
    assert begun.seconds_left == pytest.approx(2.5 * each)
    assert begun.fraction == pytest.approx(0.5 / 3)
    quick = course.update(told(plan, 1, outcome=restored(plan, 1, each / 4)))
    assert quick.seconds_left == pytest.approx(2 * each)  # an upper bound stays one
    slow = course.update(told(plan, 2, outcome=restored(plan, 2, 4 * each)))
    assert slow.seconds_left == pytest.approx(4.25 / 2 * each)
    assert slow.message == "2 of 4 files"


def test_workers_side_by_side_share_the_time_left(plan):
    course = BatchProgressEstimator(plan, make_file_rows(plan), workers=2)
    begun = course.update(told(plan, 1, Event(message="Restoring", fraction=0.0)))
    assert begun.seconds_left == pytest.approx(1.5 * plan.jobs[0].plan.seconds)


def test_a_row_tells_what_is_done_and_then_what_became_of_the_file(plan):
    *_, bad = rows = make_file_rows(plan)
    assert bad.state == "refused" and bad.messages[0].startswith("'bad.tif' is not a kind of")
    assert "24 × 24 pixels" in rows[0].messages[0]
    event = Event(message="Restoring.", fraction=0.3, iteration=3, iterations=10)
    working = update_file_row(rows[0], told(plan, 1, event))
    assert (working.state, working.messages) == ("working", ("Restoring, iteration 3 of 10",))
    no = make_refusal("time-over", limit=1, name="0.tif")
    failed = update_file_row(
        working,
        told(plan, 1, outcome=FileOutcome(source=rows[0].source, state="failed", refusal=no)),
    )
    assert failed.messages == (no.message,) and not failed.has_result
    assert update_file_row(working, told(plan, 1, outcome=restored(plan, 1, 1))).has_result
