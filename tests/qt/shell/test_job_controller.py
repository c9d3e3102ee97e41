"""A job goes from idle to finished or discarded, and says so at each step; no window is needed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from qtpy.QtCore import QObject

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import make_refusal
from napari_dip.pipeline.progress import Event
from napari_dip.qt.shell import job_controller
from napari_dip.qt.shell.background_call import JobProgress
from napari_dip.qt.shell.job_controller import (
    JobController,
    JobRequest,
    JobState,
    get_job_queue,
)

IDLE, PLANNED, WAITING, RUNNING, PAUSED, STOPPING, FINISHED, DISCARDED = JobState


class FakeDock:
    """What a dock does for its controller, written down."""

    def __init__(self):
        self.parent = QObject()
        self.progress, self.messages, self.states, self.refusals = [], [], [], []
        self.jobs = JobController(self, self.parent, no_outcome_message="Nothing.")
        self.jobs.message_emitted.connect(self.messages.append)
        self.jobs.state_changed.connect(self.states.append)
        self.jobs.refused.connect(self.refusals.append)

    def begin_job(self, request):
        self.progress.append(f"begin {request.label}")

    def accept_outcome(self, request, outcome):
        self.progress.append(f"accept {outcome}")
        return f"Done: {outcome}."

    def release_job(self):
        self.progress.append("release")
        return ""

    def describe_discard(self):
        return "Thrown away."


@pytest.fixture
def fake_dock(qtbot):
    fake_dock = FakeDock()
    yield fake_dock
    fake_dock.jobs.discard()
    qtbot.waitUntil(lambda: not get_job_queue()._tickets)


def work(pixels, control, *, outcome="picture", waits=True):
    """Report until the control ends it, or at once; return the outcome, as an engine does."""
    yield JobProgress(event=Event(message="working"))
    while waits and control() in (Control.GO, Control.PAUSE):
        yield JobProgress(event=Event(message="working"))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def request_of(label="Denoise cells", **options):
    return JobRequest(kind="denoise", label=label, work=partial(work, **options), summary="")


def test_a_job_is_planned_runs_pauses_and_ends_in_what_it_found(fake_dock, qtbot):
    jobs = fake_dock.jobs
    assert jobs.state is IDLE and not jobs.is_busy
    jobs.set_planned(True)
    jobs.start([request_of()])
    assert jobs.state is RUNNING and jobs.is_busy
    jobs.pause()
    jobs.resume()
    jobs.keep()
    qtbot.waitUntil(lambda: not jobs.is_busy)
    assert fake_dock.states == [
        PLANNED,
        WAITING,
        RUNNING,
        PAUSED,
        RUNNING,
        STOPPING,
        FINISHED,
        PLANNED,
    ]
    assert fake_dock.progress == ["begin Denoise cells", "accept picture", "release"]
    assert fake_dock.messages == [
        "Getting ready",
        "Paused",
        "Going on",
        "Stopping, the best image so far is kept",
        "Done: picture.",
    ]


def test_a_plan_is_ignored_during_a_job(fake_dock):
    fake_dock.jobs.start([request_of()])
    fake_dock.jobs.set_planned(False)
    assert fake_dock.jobs.state is RUNNING


def test_a_discarded_job_lets_another_begin_and_shows_nothing_more(fake_dock, qtbot):
    fake_dock.jobs.start([request_of("first")])
    fake_dock.jobs.discard()
    assert (
        fake_dock.states[-2:] == [DISCARDED, PLANNED] and fake_dock.messages[-1] == "Thrown away."
    )
    fake_dock.jobs.start([request_of("second", waits=False)])
    qtbot.waitUntil(lambda: not fake_dock.jobs.is_busy)
    assert fake_dock.progress == [
        "begin first",
        "release",
        "begin second",
        "accept picture",
        "release",
    ]


def test_a_job_without_an_outcome_says_so(fake_dock, qtbot):
    fake_dock.jobs.start([request_of(outcome=None, waits=False)])
    qtbot.waitUntil(lambda: not fake_dock.jobs.is_busy)
    assert fake_dock.messages[-1] == "Nothing." and fake_dock.states[-2:] == [FINISHED, PLANNED]


@pytest.mark.parametrize("outcome", [make_refusal("image-none"), RuntimeError("the disk is gone")])
def test_a_failure_ends_with_a_message_and_later_progress_is_dropped(fake_dock, qtbot, outcome):
    requests = [request_of(outcome=outcome, waits=False), request_of("next")]
    fake_dock.jobs.start(requests)
    qtbot.waitUntil(lambda: bool(fake_dock.refusals))
    assert not fake_dock.jobs.is_busy and fake_dock.jobs.remaining == ()
    assert fake_dock.messages[-1] == fake_dock.refusals[0].message
    assert fake_dock.progress == ["begin Denoise cells", "release"]


def test_jobs_follow_each_other_without_a_hand(fake_dock, qtbot):
    fake_dock.jobs.start([request_of(label, waits=False) for label in ("first", "second")])
    qtbot.waitUntil(lambda: not fake_dock.jobs.is_busy)
    assert [text for text in fake_dock.progress if "begin" in text] == [
        "begin first",
        "begin second",
    ]


def test_a_job_that_cannot_begin_is_said_and_leaves_the_queue(fake_dock, qtbot, monkeypatch):
    def fail(request):
        raise RuntimeError("no activity today")

    with monkeypatch.context() as patch:
        patch.setattr(fake_dock, "begin_job", fail)
        fake_dock.jobs.start([request_of()])
    assert fake_dock.messages[-1] == "The run could not be started: no activity today."
    assert not fake_dock.jobs.is_busy
    fake_dock.jobs.start([request_of(waits=False)])
    qtbot.waitUntil(lambda: "accept picture" in fake_dock.progress)


def test_two_docks_take_turns_and_who_leaves_the_queue_computes_nothing(fake_dock, qtbot):
    second = FakeDock()
    fake_dock.jobs.start([request_of("first")])
    second.jobs.start([request_of("second")])
    assert second.jobs.state is WAITING and "'first'" in second.messages[-1]
    second.jobs.discard()
    assert (
        second.messages[-1] == "Taken out of the queue before it began."
        and "begin second" not in second.progress
    )
    second.jobs.start([request_of("third", waits=False)])
    fake_dock.jobs.keep()
    qtbot.waitUntil(lambda: not second.jobs.is_busy)
    assert second.progress == ["release", "begin third", "accept picture", "release"]


def test_a_job_whose_dock_is_deleted_is_discarded(qtbot):
    fake_dock, begun, ends = FakeDock(), [], []

    def endless(pixels, control):
        begun.append(True)
        while control() is Control.GO:
            yield JobProgress(event=Event(message="working"))
        ends.append(control())

    job = JobRequest(kind="denoise", label="cells", work=endless, summary="")
    fake_dock.jobs.start([job])
    qtbot.waitUntil(lambda: bool(begun))
    fake_dock.parent.deleteLater()
    qtbot.waitUntil(lambda: bool(ends))
    assert ends == [Control.DISCARD]


def test_a_waiting_job_reads_small_inputs_as_they_were(fake_dock, qtbot, monkeypatch):
    monkeypatch.setattr(job_controller, "_MAX_COPIED_BYTES", 2 * 64)
    fake_dock.jobs.start([request_of("first")])
    other = FakeDock()
    image, mask, large = np.zeros(8), np.zeros(8, bool), np.zeros(99)

    def read(pixels, control):
        yield JobProgress(event=Event(message="working"))
        return {name: float(array[0]) for name, array in pixels.items()}

    inputs = {"large": large, "image": image, "mask": mask}
    request = JobRequest(kind="denoise", label="x", work=read, summary="", inputs=inputs)
    other.jobs.start([request, request])
    for array in inputs.values():
        array[:] = 1
    fake_dock.jobs.discard()
    qtbot.waitUntil(lambda: not other.jobs.is_busy)
    accepted = [text for text in other.progress if text.startswith("accept")]
    assert accepted == ["accept {'large': 1.0, 'image': 0.0, 'mask': 0.0}"] * 2
