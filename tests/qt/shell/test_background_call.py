"""Everything that happens in a run is returned as a value."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import dask.array
import numpy as np
import pytest

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Fault
from napari_dip.io import ImageHeader
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import Event
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.restoration import Restoration
from napari_dip.qt.shell import background_call
from napari_dip.qt.shell.background_call import ProgressQueue, RunControl, run_work
from napari_dip.qt.shell.job_controller import JobRequest
from napari_dip.qt.task import run_request
from napari_dip.qt.task.run_request import LossTracker, run_restoration


def plan_for(pixels, **settings):
    header = ImageHeader(name="cells", shape=pixels.shape, dtype=pixels.dtype.name, axes="YX")
    recipe = make_recipe("denoise", preset="fast", **({"max_iterations": 4} | settings))
    return preflight(recipe, header, detect_machine())


def run_to_end(generator):
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def drain_run(plan, pixels, control, queue):
    """Restore as a dock does, without a window."""
    job = JobRequest(
        kind="denoise",
        label="Denoise cells",
        plan=plan,
        work=partial(run_restoration, partial(run_request.run, plan)),
        summary="",
        inputs=pixels,
    )
    return run_work(job.run, "Restoring", job.name, control, queue)


def failing(error):
    def compute(block):
        raise error

    return dask.array.zeros((64, 64), dtype=np.uint8).map_blocks(compute, dtype=np.uint8)


def test_a_run_ends_in_an_image(noisy):
    outcome = run_to_end(
        drain_run(plan_for(noisy), {"image": noisy}, RunControl(), ProgressQueue())
    )
    assert isinstance(outcome, Restoration)
    assert outcome.image.shape == noisy.shape


@pytest.mark.all_cores
def test_a_lazy_image_gives_the_same_bytes_as_its_pixels(noisy):
    plan = plan_for(noisy)
    lazy = dask.array.from_array(noisy, chunks=32)
    first, second = (
        run_to_end(drain_run(plan, {"image": data}, RunControl(), ProgressQueue()))
        for data in (noisy, lazy)
    )
    assert first.image.tobytes() == second.image.tobytes()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("the disk went away"), "array-broken"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory-out"),
        (MemoryError(), "memory-out"),
        (StopIteration(), "array-broken"),
        (KeyError("frame"), "array-broken"),
        (OSError("cut off"), "array-broken"),
    ],
)
def test_any_error_while_reading_comes_back_as_a_sentence(noisy, error, code):
    outcome = run_to_end(
        drain_run(plan_for(noisy), {"image": failing(error)}, RunControl(), ProgressQueue())
    )
    assert isinstance(outcome, Fault)
    assert outcome.code == code
    assert outcome.message.endswith(".")


def test_a_lazy_image_that_lies_of_its_type_is_refused_by_its_name(noisy):
    lazy = dask.array.from_array(noisy, chunks=32)
    lying = lazy.map_blocks(lambda block: block + 0.5, dtype=noisy.dtype)
    plan = plan_for(noisy)
    outcome = run_to_end(drain_run(plan, {"image": lying}, RunControl(), ProgressQueue()))
    assert isinstance(outcome, Fault)
    assert outcome.code == "array-other"
    assert outcome.message.startswith(f"'{plan.header.name}' declares 64 × 64 values")


def test_a_refusal_names_the_layer_of_a_further_input(noisy):
    layer = ImageHeader(name="brightfield", shape=noisy.shape, dtype=noisy.dtype.name, axes="YX")
    plan = replace(plan_for(noisy), extra_headers={"guide": layer})
    pixels = {"image": noisy, "guide": failing(RuntimeError("the disk went away"))}
    outcome = run_to_end(drain_run(plan, pixels, RunControl(), ProgressQueue()))
    assert isinstance(outcome, Fault)
    assert outcome.code == "array-broken"
    assert "'brightfield'" in outcome.message and "guide" not in outcome.message


def test_the_trace_of_an_unexpected_error_is_in_the_log(noisy, caplog):
    run_to_end(
        drain_run(
            plan_for(noisy),
            {"image": failing(RuntimeError("disk gone"))},
            RunControl(),
            ProgressQueue(),
        )
    )
    assert "disk gone" in caplog.text
    assert "Traceback" in caplog.text


def test_pixels_that_cannot_be_restored_are_refused_with_a_message(noisy):
    pixels = np.full((64, 64), np.nan, np.float32)
    outcome = run_to_end(
        drain_run(plan_for(pixels), {"image": pixels}, RunControl(), ProgressQueue())
    )
    assert isinstance(outcome, Fault)
    assert outcome.code == "pixels-nan"


def test_a_run_discarded_before_it_begins_computes_nothing(noisy, monkeypatch):
    monkeypatch.setattr(run_request, "run", lambda *_, **__: pytest.fail("it was computed"))
    switch = RunControl()
    switch.set(Control.DISCARD)
    assert run_to_end(drain_run(plan_for(noisy), {"image": noisy}, switch, ProgressQueue())) is None


def test_closing_the_shield_closes_the_run(noisy, monkeypatch):
    closed = []

    def endless(*_, **__):
        try:
            while True:
                yield Event(message="working")
        finally:
            closed.append(True)

    monkeypatch.setattr(run_request, "run", endless)
    generator = drain_run(plan_for(noisy), {"image": noisy}, RunControl(), ProgressQueue())
    next(generator)
    generator.close()
    assert closed


def test_discarding_is_final_and_keeping_only_yields_to_it():
    switch = RunControl()
    switch.set(Control.PAUSE)
    switch.set(Control.GO)
    switch.set(Control.KEEP)
    switch.set(Control.PAUSE)
    assert switch() is Control.KEEP
    switch.set(Control.DISCARD)
    switch.set(Control.KEEP)
    assert switch() is Control.DISCARD


def test_the_mailbox_calls_once_and_keeps_only_the_latest_image():
    mailbox, read = ProgressQueue(), LossTracker()
    images = [np.full((4, 4), index, np.float32) for index in range(50)]
    calls = [
        mailbox.post(
            read(Event(message="", iteration=index, validation_loss=float(index), preview=image))
        )
        for index, image in enumerate(images)
    ]
    assert sum(calls) == 1
    news = mailbox.take()
    assert news.event.preview is images[-1]
    assert [iteration for _, iteration, *_ in news.points] == list(range(50))
    assert mailbox.take() is None


def test_a_report_without_an_image_does_not_lose_the_one_before():
    mailbox, read = ProgressQueue(), LossTracker()
    image = np.zeros((4, 4), np.float32)
    mailbox.post(read(Event(message="", preview=image)))
    mailbox.post(read(Event(message="later")))
    news = mailbox.take()
    assert news.event.preview is image
    assert news.event.message == "later"


def test_the_mailbox_calls_at_most_five_times_a_second():
    mailbox, read = ProgressQueue(), LossTracker()
    assert mailbox.post(read(Event(message="")))
    mailbox.take()
    assert not mailbox.post(read(Event(message="")))
    mailbox._last_take_time -= background_call.MIN_UPDATE_SECONDS
    assert mailbox.post(read(Event(message="")))
    assert background_call.MIN_UPDATE_SECONDS >= 0.2


def test_a_loss_that_is_only_repeated_is_no_new_point():
    mailbox, read = ProgressQueue(), LossTracker()
    for iteration in (25, 26, 27):
        mailbox.post(read(Event(message="", iteration=iteration, validation_loss=1.0)))
    mailbox.post(read(Event(message="", iteration=50, validation_loss=0.5)))
    assert [point[1] for point in mailbox.take().points] == [25, 50]
