"""Memory that runs out within a fit, checkpoints that are damaged, disks that take no result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_dip.engine.step import EagerStep
from napari_dip.errors import Failed, Refused, refusal
from napari_dip.run.checkpoints import Store
from napari_dip.run.memory import LEAST_WINDOW, MOST_TRIES, Bites
from napari_dip.run.rescue import kept_elsewhere
from napari_dip.run.runner import Control
from run_scene import drain, plan_for, shot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = shot(32)
PLAN = plan_for(IMAGE, max_iterations=60)


@pytest.fixture(scope="module")
def whole() -> Any:
    """The result that nothing disturbs."""
    return drain(PLAN, IMAGE)[1]


def full(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], error: Exception) -> None:
    """Raise an error at some steps of the optimiser, counted from the start of the run."""
    advance, steps = EagerStep.advance, iter(range(1, 10**9))

    def step(self: EagerStep) -> None:
        if fails(next(steps)):
            raise error
        advance(self)

    monkeypatch.setattr(EagerStep, "advance", step)


def test_a_run_whose_memory_ran_out_once_gives_the_same_pixels(whole, monkeypatch):
    full(monkeypatch, lambda step: step == 40, RuntimeError("CUDA out of memory"))
    seen, result = drain(PLAN, IMAGE)
    assert result is not None
    assert np.array_equal(result.image, whole.image)
    assert any("ran out at iteration 25" in note for note in result.report["notes"])
    assert seen[-1].fraction == pytest.approx(1.0)


def test_a_memory_that_stays_full_ends_with_what_there_is(monkeypatch):
    full(monkeypatch, lambda step: step > 30, MemoryError())
    _, result = drain(PLAN, IMAGE)
    assert result is not None
    assert np.isfinite(result.image).all()
    assert result.stop_reason == "the memory ran out"
    told = [note for note in result.report["notes"] if "memory ran out" in note]
    assert "the best picture so far was kept" in told[-1]


def test_a_memory_that_is_full_from_the_start_is_said(monkeypatch):
    tries = []
    full(monkeypatch, lambda step: not tries.append(step), MemoryError())
    with pytest.raises(Failed) as caught:
        drain(PLAN, IMAGE)
    assert caught.value.refusal.code == "memory-out"
    assert len(tries) == MOST_TRIES + 1


def test_an_error_that_is_not_the_memorys_is_not_tried_again(monkeypatch):
    tries = []
    full(monkeypatch, lambda step: not tries.append(step), ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        drain(PLAN, IMAGE)
    assert len(tries) == 1


def test_windows_are_halved_but_not_below_what_a_network_sees():
    bites = Bites()
    widths = []
    for _ in range(4):
        bites.shrink(256, 300)
        widths.append(bites.window)
    assert widths == [128, 64, LEAST_WINDOW, LEAST_WINDOW]


def test_a_checkpoint_with_one_flipped_bit_is_refused(tmp_path):
    path, asked = tmp_path / "unfinished", iter(range(10**9))
    wish = lambda: Control.KEEP if next(asked) >= 30 else Control.GO  # noqa: E731
    drain(PLAN, IMAGE, control=wish, store=Store(path, resume=False))
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1  # in the middle of a weight
    path.write_bytes(content)
    with pytest.raises(Refused) as caught:
        drain(PLAN, IMAGE, store=Store(path, resume=True))
    assert caught.value.refusal.code == "resume-broken"


def test_a_run_that_fails_leaves_a_checkpoint(tmp_path, monkeypatch):
    full(monkeypatch, lambda step: step > 30, ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        drain(PLAN, IMAGE, store=Store(tmp_path / "unfinished", resume=False))
    assert [one.name for one in tmp_path.iterdir()] == ["unfinished"]


def test_a_picture_that_its_disk_does_not_take_is_kept_elsewhere(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    full_disk = Failed(refusal("disk-full", path="far/out.tif", why="no space left on device"))
    said = kept_elsewhere(full_disk, tmp_path / "far" / "out.tif", PLAN, whole)
    kept = tmp_path / "out.rescued.tif"
    assert np.array_equal(tifffile.imread(kept), whole.image)
    assert str(kept) in said.refusal.remedy
