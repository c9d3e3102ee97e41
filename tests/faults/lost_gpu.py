"""A GPU that fails at a random step: the image so far is kept, with a message.

The GPU is simulated (`simulated_gpu`). From a random call on, every call with a tensor on it raises
PyTorch's error.
"""

from __future__ import annotations

import random
import tempfile
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
import torch

from faults.child import run_command
from faults.memory import compute_psnr, make_ground_truth
from faults.reference_runs import make_argv, preload_torch, write_inputs
from faults.trials import Trial, compile_pattern, make_failed, make_passed
from simulated_gpu import SimulatedGpu, simulate_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

CASES = ("denoise", "inpaint", "blind-deblur", "tiled")
REPEATS = 20
#: Iteration of the first report, after which there is something to keep.
FIRST_REPORT = 25
#: For as long as the process lives.
_PROCESS = ExitStack()
#: Message of PyTorch's error.
GPU_ERROR = (
    "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
)


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield a GPU that works, that fails at a random call, and before the first report."""
    preload_torch()
    for case in CASES[: 1 if small else None]:
        yield Trial(f"GPU that goes on, {case}", partial(_check_simulated_gpu, case))
    for number in range(1 if small else REPEATS):
        case = CASES[number % len(CASES)]
        yield Trial(f"GPU lost, {case} {number}", partial(_lose_gpu, case, number))
    yield Trial("GPU lost at once", _lose_gpu_before_report)


@cache
def count_calls(case: str) -> tuple[int, int, np.ndarray]:
    """Calls until the first report, all calls, and pixels, of a run whose GPU works."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        counts = folder / "counts"
        proc = run_command(
            _argv(case, folder), folder / "log", before=partial(_simulate_gpu, None, counts)
        )
        if proc.code:
            raise RuntimeError(proc.output)
        first, total = map(int, counts.read_text().split())
        return first, total, tifffile.imread(folder / "out.tif")


def _argv(case: str, folder: Path) -> list[str]:
    return make_argv(case, folder, "--device", "mps")


def _check_simulated_gpu(case: str) -> TrialResult:
    """Compare the simulated GPU with the CPU, which computes as a GPU does: the same pixels."""
    first, total, image = count_calls(case)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        proc = run_command(make_argv(case, folder), folder / "log", before=_compute_as_on_gpu)
        if proc.code:
            return make_failed(proc.output[-600:])
        off = float(np.abs(tifffile.imread(folder / "out.tif") - image).max())
    if first >= total or off:
        return make_failed(f"{first} of {total} calls before the first report; off by {off}")
    return make_passed(f"{total} calls, off by {off}", kind="GPU went on")


def _lose_gpu(case: str, number: int) -> TrialResult:
    """Let the GPU fail between the first report and the end."""
    first, total, reference = count_calls(case)
    # previews come by the clock, so that another run may touch the GPU a few times less
    at = random.Random(f"GPU {case} {number}").randrange(first + 1, total * 19 // 20)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        proc = run_command(
            _argv(case, folder), folder / "log", before=partial(_simulate_gpu, at, None)
        )
        kept = ("best image so far was kept", "tiles that are done were kept")
        output = "stopped answering" in proc.output and any(text in proc.output for text in kept)
        if proc.code or not output:
            return make_failed(f"call {at} of {total}: exit {proc.code}: {proc.output}"[-600:])
        image = tifffile.imread(folder / "out.tif").astype(np.float64)
        if not np.isfinite(image).all() or np.ptp(image) == 0:
            return make_failed(f"call {at} of {total}: no image")
        ground_truth = make_ground_truth(image.shape)
        psnr_loss = compute_psnr(reference.astype(np.float64), ground_truth) - compute_psnr(
            image, ground_truth
        )
        return make_passed(
            f"call {at} of {total}, {psnr_loss:+.2f} dB lost",
            kind="kept",
            lost_dB=round(psnr_loss, 3),
        )


def _lose_gpu_before_report() -> TrialResult:
    """Let the GPU fail before the first report: a message, and no result."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        proc = run_command(
            _argv("denoise", folder), folder / "log", before=partial(_simulate_gpu, 5, None)
        )
        message = compile_pattern("device-lost").search(proc.output)
        if proc.code != 1 or not message or (folder / "out.tif").exists():
            return make_failed(f"exit {proc.code}: {proc.output}"[-600:])
        return make_passed("said so", kind="nothing to keep yet")


def _compute_as_on_gpu() -> None:
    """Let the CPU draw and compute as on an Apple GPU, in single precision."""
    from napari_dip.engine import prior
    from napari_dip.engine.fit import train_step
    from napari_dip.engine.priors import r2r

    def make_rng(device: torch.device, rng: torch.Generator) -> torch.Generator:
        return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=rng)))

    train_step.BFLOAT16_FEATURES = ()  # type: ignore[assignment]
    prior.make_device_rng = make_rng  # type: ignore[assignment]
    r2r.draw_poisson = lambda mean, rng: torch.poisson(mean, generator=rng)  # type: ignore[attr-defined]
    # weight gradients of processors with AVX2 are computed otherwise on them alone
    torch.backends.cpu.get_cpu_capability = lambda: "DEFAULT"  # type: ignore[assignment]


def _simulate_gpu(at: int | None, counts: Path | None) -> None:
    """Simulate a GPU that fails at call `at`, or count the calls."""
    from napari_dip.engine.fit.trainer import Trainer

    gpu = FailingGpu(at, counts)
    _PROCESS.enter_context(simulate_gpu(gpu))
    advance = Trainer.advance

    def advance_and_count(self: Trainer) -> None:
        advance(self)
        if self.iteration == FIRST_REPORT + 1 and not gpu.first:
            gpu.first = gpu.touched

    Trainer.advance = advance_and_count  # type: ignore[method-assign]


class FailingGpu(SimulatedGpu):
    """A simulated GPU that fails from some call on.

    Parameters
    ----------
    at : int or None
        Number of the call at which the GPU fails.
    counts : Path or None
        File for the numbers of calls until the first report, and in all.
    """

    def __init__(self, at: int | None, counts: Path | None) -> None:
        super().__init__()
        self.at = at
        self.first = 0
        self._counts = counts

    def check(self, *, has_tensor: bool) -> None:
        """Write the counts, and fail if it is time."""
        if has_tensor and self._counts is not None and self.touched % 20 == 0:
            self._counts.write_text(f"{self.first} {self.touched}")
        if self.at is not None and self.touched >= self.at:
            raise torch.AcceleratorError(GPU_ERROR)
