"""An interrupted run resumes to the same bytes, or says why it cannot."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import RefusedError
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from small_runs import make_noisy, plan_for, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.pipeline.restoration import Restoration


def interrupt(path: Path, array: np.ndarray, after: int, **settings: Any) -> None:
    counter = iter(range(10**9))
    plan = plan_for(array, max_iterations=60, **settings)
    poll_control = lambda: Control.KEEP if next(counter) >= after else Control.GO  # noqa: E731
    run_to_end(
        plan, array, poll_control=poll_control, checkpoints=CheckpointStore(path, resume=False)
    )
    assert path.exists()


@cache
def run_uninterrupted(prior: str) -> Restoration:
    """Give the run that nobody ended."""
    plan = plan_for(make_noisy(32), max_iterations=60, prior=prior, restarts=2)
    _, answer = run_to_end(plan, make_noisy(32))
    assert answer is not None
    return answer


@pytest.mark.sampled(1)
@pytest.mark.parametrize("prior", ["blind-spot", "random-input"])
@pytest.mark.parametrize("after", [75, 26, 63, 90])
@pytest.mark.all_cores
def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, prior: str, after: int) -> None:
    settings = {"prior": prior, "restarts": 2}
    whole = run_uninterrupted(prior)
    path = tmp_path / "unfinished"
    interrupt(path, make_noisy(32), after, **settings)
    plan = plan_for(make_noisy(32), max_iterations=60, **settings)
    events, resumed = run_to_end(
        plan, make_noisy(32), checkpoints=CheckpointStore(path, resume=True)
    )
    assert resumed is not None
    assert np.array_equal(whole.image, resumed.image)
    assert np.array_equal(whole.uncertainty, resumed.uncertainty)
    assert whole.report["iterations"] == resumed.report["iterations"]
    assert events[-1].fraction == pytest.approx(1.0)


@pytest.mark.long
def test_the_same_pixels_with_other_axes_are_another_image(tmp_path: Path) -> None:
    path = tmp_path / "unfinished"
    interrupt(path, make_noisy(32), 30)
    with pytest.raises(RefusedError) as caught:
        plan = plan_for(make_noisy(32), "XY", max_iterations=60)
        run_to_end(plan, make_noisy(32), checkpoints=CheckpointStore(path, resume=True))
    assert caught.value.reason.code == "resume-other"


@pytest.mark.long
def test_a_disk_that_takes_no_checkpoint_does_not_end_the_run(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path / "missing" / "unfinished", resume=False)
    counter = iter(range(10**9))
    poll_control = lambda: Control.KEEP if next(counter) >= 30 else Control.GO  # noqa: E731
    _, answer = run_to_end(
        plan_for(make_noisy(32), max_iterations=60),
        make_noisy(32),
        poll_control=poll_control,
        checkpoints=checkpoints,
    )
    assert answer is not None
    assert checkpoints.failure is not None
    assert checkpoints.failure.code == "save-gone"


@pytest.mark.long
def test_another_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unfinished"
    interrupt(path, make_noisy(32), 30)
    with pytest.raises(RefusedError) as caught:
        run_to_end(
            plan_for(make_noisy(32), max_iterations=60),
            make_noisy(32, seed=5),
            checkpoints=CheckpointStore(path, resume=True),
        )
    assert caught.value.reason.code == "resume-other"


@pytest.mark.long
def test_another_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unfinished"
    interrupt(path, make_noisy(32), 30)
    with pytest.raises(RefusedError) as caught:
        run_to_end(
            plan_for(make_noisy(32), max_iterations=59),
            make_noisy(32),
            checkpoints=CheckpointStore(path, resume=True),
        )
    assert caught.value.reason.code == "resume-other"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("spoil", [b"", b"not a checkpoint", b"\x80\x04pickle"])
@pytest.mark.parametrize("name", ["", "checkpoint.safetensors", "run.json"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, spoil: bytes, name: str) -> None:
    path = tmp_path / "unfinished"
    if name:
        interrupt(path, make_noisy(32), 30)
    (path / name).write_bytes(spoil)
    with pytest.raises(RefusedError) as caught:
        run_to_end(
            plan_for(make_noisy(32), max_iterations=60),
            make_noisy(32),
            checkpoints=CheckpointStore(path, resume=True),
        )
    assert caught.value.reason.code == "resume-broken"


@pytest.mark.long
def test_a_cut_off_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unfinished"
    interrupt(path, make_noisy(32), 30)
    entry = path / "checkpoint.safetensors"
    entry.write_bytes(entry.read_bytes()[:-100])
    with pytest.raises(RefusedError) as caught:
        run_to_end(
            plan_for(make_noisy(32), max_iterations=60),
            make_noisy(32),
            checkpoints=CheckpointStore(path, resume=True),
        )
    assert caught.value.reason.code == "resume-broken"


def test_without_a_checkpoint_a_run_starts_anew(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path / "unfinished", resume=True)
    _, answer = run_to_end(plan_for(make_noisy(32)), make_noisy(32), checkpoints=checkpoints)
    assert answer is not None
    checkpoints.remove()
    assert not list(tmp_path.iterdir())
