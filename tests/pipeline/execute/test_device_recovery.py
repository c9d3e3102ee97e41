"""Full memory within a fit, damaged checkpoints, and disks that cannot be written."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch

from napari_dip.engine.fit.state import Checkpoint
from napari_dip.engine.fit.stopping import Control, ValidationRecord
from napari_dip.engine.fit.trainer import Trainer
from napari_dip.errors import FailedError, RefusedError, make_refusal
from napari_dip.io.lazy_images import create_mapped_image
from napari_dip.pipeline.assess.merge import UnitResult
from napari_dip.pipeline.execute.device_recovery import (
    MAX_OUT_OF_MEMORY_ERRORS,
    MIN_RETRY_WINDOW,
    RecoveryState,
    is_device_error,
    is_on_accelerator,
)
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.pipeline.store.result_files import rescue_result, save_image
from napari_dip.pipeline.store.run_folder import RunFolder
from napari_dip.pipeline.store.unit_results import ResultStore
from small_runs import make_noisy, plan_for, run_to_end

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = make_noisy(32)
PIECE = UnitResult(
    outcomes=(),
    estimates=(np.ones((1, 3, 3), np.float32), np.ones((1, 3, 3), np.float32)),
    residual_sums=(0.5,),
)


def open_folder(
    folder: Path, identity: Any = "first", *, resume: bool = False, spare: tuple[Path, ...] = ()
) -> ResultStore:
    """Open the folder of a run for the results of its tiles."""
    run_folder = RunFolder(folder, resume=resume)
    run_folder.open({"seed": identity})
    results = ResultStore(run_folder, spare)
    results.lock()
    return results


PLAN = plan_for(IMAGE, max_iterations=60)


@pytest.fixture(scope="module")
def undisturbed_result() -> Any:
    """The result that nothing disturbs."""
    return run_to_end(PLAN, IMAGE)[1]


def fail_steps(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool], error: Exception
) -> None:
    """Raise an error at some steps of the optimiser, counted from the start of the run."""
    advance, steps = Trainer.advance, iter(range(1, 10**9))

    def step(self: Trainer) -> None:
        if fails(next(steps)):
            raise error
        advance(self)

    monkeypatch.setattr(Trainer, "advance", step)


@pytest.mark.long
@pytest.mark.all_cores
def test_a_run_whose_memory_ran_out_once_gives_the_same_pixels(undisturbed_result, monkeypatch):
    fail_steps(monkeypatch, lambda step: step == 40, RuntimeError("CUDA out of memory"))
    events, result = run_to_end(PLAN, IMAGE)
    assert result is not None
    assert np.array_equal(result.image, undisturbed_result.image)
    assert any("ran out at iteration 25" in note for note in result.report["notes"])
    assert events[-1].fraction == pytest.approx(1.0)


@pytest.mark.long
def test_a_memory_that_stays_full_ends_with_what_there_is(monkeypatch):
    fail_steps(monkeypatch, lambda step: step > 30, MemoryError())
    _, result = run_to_end(PLAN, IMAGE)
    assert result is not None
    assert np.isfinite(result.image).all()
    assert str(result.stop) == "the memory ran out"
    notes = [note for note in result.report["notes"] if "memory ran out" in note]
    assert "the best image so far was kept" in notes[-1]


LOST = torch.AcceleratorError("CUDA error: unspecified launch failure\nmore that nobody reads")


@pytest.mark.long
def test_a_card_that_is_lost_ends_in_the_image_of_the_last_report(undisturbed_result, monkeypatch):
    fail_steps(monkeypatch, lambda step: step > 40, LOST)
    _, result = run_to_end(PLAN, IMAGE)
    assert result is not None
    assert result.best_iteration == 25
    assert str(result.stop) == "the GPU stopped answering"
    message = "stopped answering after iteration 25; the best image so far was kept"
    assert any(message in note for note in result.report["notes"])
    error = np.abs(result.image - undisturbed_result.image).mean()
    assert 0 < error < 0.1 * np.ptp(undisturbed_result.image)


def test_a_card_that_is_lost_before_the_first_report_is_said(monkeypatch):
    fail_steps(monkeypatch, lambda step: step > 3, LOST)
    with pytest.raises(FailedError) as caught:
        run_to_end(PLAN, IMAGE)
    assert caught.value.reason.code == "device-lost"
    assert "launch failure." in caught.value.reason.sentence


def test_what_a_card_says_is_told_from_its_full_memory_and_from_other_errors():
    assert is_device_error(LOST)
    assert is_device_error(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert not is_device_error(RuntimeError("CUDA error: out of memory"))
    assert not is_device_error(RuntimeError("the shapes do not fit"))
    assert not is_device_error(ValueError("CUDA error"))


def test_from_a_card_a_checkpoint_is_copied_off_now_and_then():
    recovery = RecoveryState()
    assert recovery.record_checkpoint(make_checkpoint(25)) is not None
    assert recovery.latest_checkpoint is not None and not is_on_accelerator(
        recovery.latest_checkpoint
    )
    assert recovery.record_checkpoint(make_checkpoint(26)) is None  # too soon
    assert recovery.latest_checkpoint.history[-1].iteration == 25
    recovery.reset()
    assert (
        recovery.record_checkpoint(make_checkpoint(30), "random-input") is None
    )  # in a race nothing is kept on the disk
    recovery.latest_checkpoint = None
    recovery.switch_to_cpu()
    assert (recovery.prior_key, recovery.is_exhausted) == ("random-input", True)
    assert recovery.latest_checkpoint is not None and recovery.choose_device("cuda") == "cpu"


def make_checkpoint(iteration: int) -> Checkpoint:
    """Give a checkpoint whose tensors lie on a card, or what stands for one here."""

    class OnCard:
        device = torch.device("cuda")

        def cpu(self) -> torch.Tensor:
            return torch.zeros(1)

    state: Any = {"weight.0": OnCard(), "rng": OnCard()}
    return Checkpoint(
        trainer_state=state,
        rollback_state=state,
        best_average=state,
        lowest_losses=state,
        best_iteration=iteration,
        history=(ValidationRecord(iteration=iteration, training_loss=0.0, validation_loss=0.0),),
        rollback_count=0,
    )


def test_a_memory_that_is_full_from_the_start_is_said(monkeypatch):
    tries = []
    fail_steps(monkeypatch, lambda step: not tries.append(step), MemoryError())
    with pytest.raises(FailedError) as caught:
        run_to_end(PLAN, IMAGE)
    assert caught.value.reason.code == "memory-out"
    assert len(tries) == MAX_OUT_OF_MEMORY_ERRORS + 1


def test_an_error_that_is_not_the_memorys_is_not_tried_again(monkeypatch):
    tries = []
    fail_steps(monkeypatch, lambda step: not tries.append(step), ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        run_to_end(PLAN, IMAGE)
    assert len(tries) == 1


def test_windows_are_halved_but_not_below_what_a_network_sees():
    recovery = RecoveryState()
    widths = []
    for _ in range(4):
        recovery.shrink_window(256, 300)
        widths.append(recovery.window_side)
    assert widths == [128, 64, MIN_RETRY_WINDOW, MIN_RETRY_WINDOW]


def test_a_checkpoint_with_one_flipped_bit_is_refused(tmp_path):
    path, counter = tmp_path / "unfinished", iter(range(10**9))
    poll_control = lambda: Control.KEEP if next(counter) >= 30 else Control.GO  # noqa: E731
    run_to_end(
        PLAN, IMAGE, poll_control=poll_control, checkpoints=CheckpointStore(path, resume=False)
    )
    entry = path / "checkpoint.safetensors"
    content = bytearray(entry.read_bytes())
    content[-1000] ^= 1  # in the middle of a weight
    entry.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        run_to_end(PLAN, IMAGE, checkpoints=CheckpointStore(path, resume=True))
    assert caught.value.reason.code == "resume-broken"


def test_tiles_are_not_written_through_links_that_lie_in_their_place(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "tiles"
    outside.write_bytes(b"not to be touched")
    shelf = open_folder(folder)
    for name in ("tile-0.safetensors", "network-c0r0.safetensors", "picture.raw"):
        (folder / name).symlink_to(outside)
    shelf.save("tile-0", PIECE)
    shelf.save_weights("c0r0", {"weight": torch.ones(2)})
    create_mapped_image(folder / "picture.raw", (3, 3), np.dtype(np.float32))[0] = 1
    assert outside.read_bytes() == b"not to be touched"
    assert sum(estimate.sum() for estimate in shelf.open_estimates("tile-0")[:2]) == 18
    assert not (folder / "tile-0.safetensors").is_symlink()
    leftovers = {path.name for path in folder.iterdir() if path.name.startswith(".napari-dip-")}
    assert not leftovers


@pytest.mark.parametrize("spare", [True, False])
def test_tiles_that_their_disk_does_not_take_are_kept_elsewhere_or_in_memory(tmp_path, spare):
    folder, away = tmp_path / "tiles", tmp_path / "pulled out"
    shelf = open_folder(folder, spare=(tmp_path,) if spare else ())
    shelf.save("tile-0", PIECE)
    assert shelf.make_fallback_notice() is None
    folder.rename(away)
    shelf.save("tile-1", PIECE)
    shelf.save_weights("c0r0", {"weight": torch.ones(2)})
    whole = shelf.allocate_image("picture.raw", (3, 3), np.dtype(np.float32))
    whole[:] = 1
    away.rename(folder)
    shelf.save("tile-2", PIECE)  # its own folder is tried again
    assert (folder / "tile-2.safetensors").exists()
    for name in ("tile-0", "tile-1"):
        assert all(estimate.sum() == 9 for estimate in shelf.open_estimates(name))
        assert shelf.read_residual_sums(name) == (0.5,) and shelf.read_outcomes(name) == ()
    assert float(shelf.load_weights("c0r0")["weight"].sum()) == 2
    assert np.all(whole[:] == 1)
    folders = [str(path) for path in tmp_path.glob("napari-dip-*")]
    assert (folders[0] if spare else "in memory") in shelf.make_fallback_notice().sentence
    shelf.close()
    assert [path.name for path in tmp_path.iterdir()] == ["tiles"]


def test_two_runs_on_one_output_do_not_take_each_others_tiles(tmp_path):
    first = open_folder(tmp_path / "tiles")
    first.save("tile-0", PIECE)
    for resume, code in ((False, "run-twice"), (True, "resume-other")):
        with pytest.raises(RefusedError) as caught:
            open_folder(tmp_path / "tiles", "second", resume=resume)
        assert caught.value.reason.code == code
    first.check_tiles([0])
    first.close()
    with pytest.raises(FailedError, match="are missing from"):
        open_folder(tmp_path / "tiles", "second").check_tiles([0])


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_an_image_has_all_its_room_before_it_is_written_into(tmp_path):
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most[1]))
    try:
        with pytest.raises(OSError, match="large"):
            create_mapped_image(tmp_path / "picture.raw", (100, 100), np.dtype(np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert not list(tmp_path.iterdir())
    assert (
        create_mapped_image(tmp_path / "picture.raw", (9, 9), np.dtype(np.float32))
        .make_memmap()
        .sum()
        == 0
    )
    status = (tmp_path / "picture.raw").stat()
    assert status.st_size == 324 and status.st_blocks > 0


@pytest.mark.long
def test_a_run_that_fails_leaves_a_checkpoint(tmp_path, monkeypatch):
    fail_steps(monkeypatch, lambda step: step > 30, ValueError("something else"))
    with pytest.raises(ValueError, match="something else"):
        run_to_end(PLAN, IMAGE, checkpoints=CheckpointStore(tmp_path / "unfinished", resume=False))
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"]


def test_an_image_that_its_disk_does_not_take_is_kept_elsewhere(
    undisturbed_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    full_disk = FailedError(
        make_refusal("disk-full", path="far/out.tif", why="no space left on device")
    )
    said = rescue_result(full_disk, tmp_path / "far" / "out.tif", PLAN, undisturbed_result)
    kept = tmp_path / "out.rescued.tif"
    assert np.array_equal(tifffile.imread(kept), undisturbed_result.image)
    assert str(kept) in said.reason.remedy


def test_an_image_whose_folder_is_gone_is_kept_beside_that_folder_not_among_the_inputs(
    undisturbed_result: Any, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    plan = replace(PLAN, header=replace(PLAN.header, path=str(tmp_path / "in" / "a.tif")))
    gone = FailedError(make_refusal("save-gone", path="far/out.tif", why="no such folder"))
    rescue_result(gone, tmp_path / "far" / "out.tif", plan, undisturbed_result)
    assert [path.name for path in tmp_path.glob("**/*.tif")] == ["out.rescued.tif"]
    assert (tmp_path / "out.rescued.tif").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions as POSIX has them")
@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
@pytest.mark.parametrize(("mode", "others"), [(0o1777, 0), (0o755, 0o044)])
def test_an_image_kept_where_all_may_write_is_read_by_its_owner_alone(
    name: str,
    mode: int,
    others: int,
    undisturbed_result: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tmp_path.chmod(mode)
    before = os.umask(0o022)
    try:
        full_disk = FailedError(make_refusal("disk-full", path=name, why="no space left on device"))
        rescue_result(full_disk, tmp_path / "far" / name, PLAN, undisturbed_result)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    (kept,) = tmp_path.glob("out.rescued*")
    assert kept.stat().st_mode & 0o077 == others | (0o011 if others and kept.is_dir() else 0)


def test_an_image_whose_header_cannot_be_written_is_kept_with_its_pixels_alone(
    undisturbed_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    flat = replace(PLAN.header, scale=(0.0, 0.0), units=("micrometer", "micrometer"))
    senseless = replace(PLAN, header=flat)
    with pytest.raises(ZeroDivisionError) as failure:
        save_image(
            tmp_path / "out.tif",
            undisturbed_result.image,
            flat,
            flat.scale,
            undisturbed_result,
            False,
        )
    said = rescue_result(failure.value, tmp_path / "out.tif", senseless, undisturbed_result)
    kept = tmp_path / "out.tif.rescued.tif"
    assert np.array_equal(tifffile.imread(kept), undisturbed_result.image)
    assert said.reason.code == "save-unexpected"
    assert str(kept) in said.reason.remedy and "without" in said.reason.remedy
