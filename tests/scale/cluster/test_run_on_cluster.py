"""A run on a worker of a running cluster is the run that it would be here."""

from __future__ import annotations

import gc
import sys
import time

import numpy as np
import pytest

from napari_dip.errors import FailedError, RefusedError
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.scale.cluster import dask_cluster
from napari_dip.scale.cluster.dask_cluster import run_on_cluster
from scale.cluster.scheduler_program import start_scheduler

pytest.importorskip("distributed")
pytestmark = pytest.mark.timeout(400)
IMAGE = np.random.default_rng(0).poisson(60, (64, 64)).astype(np.uint16)


@pytest.fixture(scope="module")
def address():
    with start_scheduler() as scheduler_address:
        yield scheduler_address


def make_plan(**settings):
    recipe = make_recipe("denoise", preset="fast", device="cpu", **settings)
    header = ImageHeader(name="cells", shape=IMAGE.shape, dtype="uint16", axes="YX")
    return preflight(recipe, header, detect_machine())


@pytest.mark.long
@pytest.mark.all_cores
def test_a_run_on_a_worker_has_the_bytes_and_the_steps_of_one_here(address):
    plan, here, remote = make_plan(max_iterations=20), [], []
    expected = drain_generator(run(plan, {"image": IMAGE}, preview_seconds=0), here.append)
    result = drain_generator(
        run_on_cluster(address, plan, {"image": IMAGE}, preview_seconds=0), remote.append
    )
    assert result.image.tobytes() == expected.image.tobytes()
    assert result.uncertainty.tobytes() == expected.uncertainty.tobytes()
    changing = {"seconds", "peak_bytes"}
    assert {k: v for k, v in result.report.items() if k not in changing} == {
        k: v for k, v in expected.report.items() if k not in changing
    }
    losses = [
        {(event.training_loss, event.validation_loss) for event in events}
        for events in (remote, here)
    ]
    assert losses[0] == losses[1]
    assert any(event.preview is not None for event in remote)


@pytest.mark.long
def test_a_run_on_a_worker_is_stopped_and_kept_or_discarded(address):
    plan = make_plan(max_iterations=100_000, prior="random-input")
    for control in (Control.KEEP, Control.DISCARD):
        events = []

        def poll_control(control=control, events=events):
            return control if any(event.iteration > 2 for event in events) else Control.GO

        steps = run_on_cluster(address, plan, {"image": IMAGE}, poll_control=poll_control)
        result = drain_generator(steps, events.append)
        if control is Control.DISCARD:
            assert result is None
        else:
            assert 2 < result.report["iterations"] < 100_000
            assert result.image.shape == IMAGE.shape


def test_what_is_refused_there_is_refused_here(address):
    image = np.full(IMAGE.shape, 7, np.uint16)
    with pytest.raises(RefusedError) as remote_error:
        drain_generator(run_on_cluster(address, make_plan(), {"image": image}))
    with pytest.raises(RefusedError) as local_error:
        drain_generator(run(make_plan(), {"image": image}))
    assert remote_error.value.reason == local_error.value.reason


def test_what_fails_there_fails_here(address):
    plan = make_plan(time_limit=1e-6)
    with pytest.raises(FailedError) as caught:
        drain_generator(run_on_cluster(address, plan, {"image": IMAGE}))
    assert caught.value.code == "time-over"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("absent", ["nonsense://here", "tcp://127.0.0.1:1", "/nowhere/at.json"])
def test_a_scheduler_that_is_not_there_is_named_and_its_client_ends(absent, monkeypatch):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    monkeypatch.setattr(dask_cluster, "SCHEDULER_TIMEOUT", 2)
    with pytest.raises(RefusedError) as caught:
        drain_generator(run_on_cluster(absent, make_plan(), {"image": IMAGE}))
    assert caught.value.reason.code == "cluster-unreachable"
    time.sleep(0.3)  # its loop closes
    gc.collect()
    assert not complaints
