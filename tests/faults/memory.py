"""Memory that runs out at a random step: the run frees it and reaches the same quality.

On the processor the limit is real: the address space of the process may not grow beyond what it
holds at a random moment, for a while or for good. A GPU's failure is injected: the
allocator's own error is raised at a random step of the optimiser, as PyTorch raises it.
"""

from __future__ import annotations

import random
import re
import resource
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from faults.child import measure_address_space, run_command
from faults.reference_runs import make_argv, preload_torch, run_reference, write_inputs
from faults.trials import Trial, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import TrialResult

CASES = ("tall", "inpaint", "blind-deblur", "denoise")
REPEATS = 10
#: Maximum loss against the reference, in dB.
MAX_PSNR_LOSS = 0.1


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield ten limits of the address space, and ten out-of-memory errors of a GPU."""
    preload_torch()
    for number in range(1 if small else REPEATS):
        case = CASES[number % len(CASES)]
        yield Trial(
            f"limit, {case} {number}",
            partial(_run_out_of_memory, case, number, _limit_address_space),
        )
        yield Trial(
            f"GPU, {case} {number}", partial(_run_out_of_memory, case, number, _raise_gpu_error)
        )
    yield Trial("again and again", _fail_every_step)


def _run_out_of_memory(
    case: str, number: int, limit_memory: Callable[[random.Random], Any]
) -> TrialResult:
    """Run with a failure; compare the PSNR of the result with that of the reference."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        (folder / "usual.tif").write_bytes(run_reference(case).content)
        rng = random.Random(f"{case} {number}")
        argv = make_argv(case, folder)
        proc = run_command(argv, folder / "log2", before=partial(limit_memory, rng))
        if proc.code:
            return make_failed(f"exit {proc.code}: {proc.output}"[-600:])
        note_count = proc.output.count("The memory ran out")
        if not note_count:
            return make_failed("it was not noticed that the memory ran out")
        before = tifffile.imread(folder / "usual.tif").astype(np.float64)
        after = tifffile.imread(folder / "out.tif").astype(np.float64)
        ground_truth = make_ground_truth(before.shape)
        psnr_loss = compute_psnr(before, ground_truth) - compute_psnr(after, ground_truth)
        facts = {"lost_dB": round(psnr_loss, 3), "same": bool(np.array_equal(before, after))}
        if (case == "tall") is not ("windows of" in proc.output):
            return make_failed(f"the windows: {proc.output}"[-600:])
        if psnr_loss > MAX_PSNR_LOSS:
            return make_failed(f"{psnr_loss:.2f} dB lost", **facts)
        return make_passed(f"{psnr_loss:+.3f} dB lost", kind="finished", **facts)


def _fail_every_step() -> TrialResult:
    """Fail every step from the fortieth on: the best image so far is kept."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        proc = run_command(make_argv("denoise", folder), folder / "log", before=_fail_from_step_40)
        kept = "the best image so far was kept" in proc.output
        if proc.code or not kept or not np.isfinite(tifffile.imread(folder / "out.tif")).all():
            return make_failed(f"exit {proc.code}: {proc.output}"[-600:])
        note_count = len(set(re.findall(r"The memory ran out[^.]*\.", proc.output)))
        return make_passed(f"kept after {note_count} kinds of notes", kind="kept")


def make_ground_truth(shape: tuple[int, ...]) -> np.ndarray:
    """Crop the image that the noise was added to."""
    from skimage import data

    return data.cell()[200 : 200 + shape[0], 200 : 200 + shape[1]].astype(np.float64) + 100


def compute_psnr(image: np.ndarray, ground_truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio, the peak being the clean image's range."""
    return float(
        20 * np.log10(np.ptp(ground_truth) / np.sqrt(np.mean((image - ground_truth) ** 2)))
    )


def _patch_random_step(rng: random.Random, action: Callable[[], None]) -> None:
    """Patch the trainer to call `action` once, before a random step."""
    from napari_dip.engine.fit.trainer import Trainer

    remaining, advance = [rng.randrange(2, 55)], Trainer.advance

    def count_down(self: Trainer) -> None:
        remaining[0] -= 1
        if remaining[0] == 0:
            action()
        advance(self)

    Trainer.advance = count_down  # type: ignore[method-assign]


def _limit_address_space(rng: random.Random) -> None:
    """Limit the address space to its size at a random step, until an allocation has failed."""
    import torch

    from napari_dip.pipeline.execute import device_recovery as memory

    free = memory.free_memory

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (measure_address_space(), resource.RLIM_INFINITY))
        torch.empty(2**28)  # what the limit does not grant, a step of a larger image would ask for

    def lift_limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        free()

    memory.free_memory = lift_limit
    _patch_random_step(rng, set_limit)


def _fail_from_step_40() -> None:
    """Raise an out-of-memory error at every step from the fortieth on."""
    import torch

    from napari_dip.engine.fit.trainer import Trainer

    advance = Trainer.advance

    def fail_late(self: Trainer) -> None:
        if self.iteration >= 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        advance(self)

    Trainer.advance = fail_late  # type: ignore[method-assign]


def _raise_gpu_error(rng: random.Random) -> None:
    """Raise PyTorch's out-of-memory error of a GPU at a random step."""
    import torch

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    _patch_random_step(rng, fail)
