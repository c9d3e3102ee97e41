"""A GPU that fails at a random step: the image so far is kept, with a message.

The GPU is simulated: tensors on "mps" stay in main memory but are marked, as is all that is
computed from them; only `cpu()` and `to("cpu")` make unmarked copies. From a random call on, every
call with a marked tensor raises PyTorch's error. (Not "cuda", whose steps are CUDA graphs.)
"""

from __future__ import annotations

import random
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from torch.overrides import TorchFunctionMode

from faults.child import run_command
from faults.memory import compute_psnr, make_ground_truth
from faults.reference_runs import make_argv, preload_torch, write_inputs
from faults.trials import Trial, compile_pattern, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

CASES = ("denoise", "inpaint", "blind-deblur", "tiled")
REPEATS = 20
#: Iteration of the first report, after which there is something to keep.
FIRST_REPORT = 25
GPU, CPU = torch.device("mps"), torch.device("cpu")
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
    """Compare the simulated GPU with the CPU, without half precision: the same pixels."""
    first, total, image = count_calls(case)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder)
        proc = run_command(make_argv(case, folder), folder / "log", before=_disable_half_precision)
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


def _disable_half_precision() -> None:
    """Make the CPU report no support of half precision."""
    from napari_dip.engine.fit import train_step as precision

    precision.BFLOAT16_FEATURES = ()  # type: ignore[assignment]


def _simulate_gpu(at: int | None, counts: Path | None) -> None:
    """Simulate a GPU that fails at call `at`, or count the calls."""
    from napari_dip.engine.fit.trainer import Trainer
    from napari_dip.pipeline import machine

    gpu = SimulatedGpu(at, counts)
    gpu.__enter__()  # for as long as the process lives
    generator = torch.Generator
    torch.Generator = lambda device=None: generator()  # type: ignore[assignment,misc]
    machine._detect_devices = lambda version: (("mps", "cpu"), "")
    advance = Trainer.advance

    def advance_and_count(self: Trainer) -> None:
        advance(self)
        if self.iteration == FIRST_REPORT + 1 and not gpu.first:
            gpu.first = gpu.touched

    Trainer.advance = advance_and_count  # type: ignore[method-assign]


class SimulatedGpu(TorchFunctionMode):
    """Marks tensors on the GPU, and fails from some call on.

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
        self.first = self.touched = 0
        self._counts = counts
        self._storages: dict[int, Any] = {}

    @property
    def lost(self) -> bool:
        """Whether the GPU has failed."""
        return self.at is not None and self.touched >= self.at

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Execute a call, and mark its result if it is on the GPU."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            on_gpu = [tensor for tensor in _list_tensors((args, kwargs)) if self._is_marked(tensor)]
            if func == torch.Tensor.device.__get__:
                return GPU if on_gpu else CPU
            # what a module is moved to is read from its arguments, and must stay the GPU
            if name in ("device", "_parse_to") or (on_gpu and name in _METADATA_CALLS):
                return func(*args, **kwargs)
            if on_gpu:
                self.touched += 1
                if self._counts is not None and self.touched % 20 == 0:
                    self._counts.write_text(f"{self.first} {self.touched}")
                if self.lost:
                    raise torch.AcceleratorError(GPU_ERROR)
                if name in ("numpy", "__array__"):
                    raise TypeError("can't convert mps device type tensor to numpy.")
            device = _find_device((args, kwargs), name)
            output = func(*_move_to_cpu(args), **_move_to_cpu(kwargs))
            return self._mark_output(name, device, bool(on_gpu), args, output)

    def _mark_output(
        self, name: str, device: torch.device | None, on_gpu: bool, args: Any, output: Any
    ) -> Any:
        """Mark results on the GPU; copy those that are moved to the CPU."""
        if name == "cpu" or (name == "to" and device == CPU):
            return output.clone() if on_gpu else output
        if name == "copy_":  # stays where it was
            return output
        if device == GPU and self.lost:
            raise torch.AcceleratorError(GPU_ERROR)
        if device == GPU and name == "to" and not on_gpu:
            output = output.clone(memory_format=torch.preserve_format)
        if device == GPU or (on_gpu and device is None):
            for part in _list_tensors(output):
                self._mark(part)
        return output

    def _mark(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        # held weakly, so that no other storage is taken for it
        from torch.multiprocessing.reductions import StorageWeakRef

        self._storages[storage._cdata] = StorageWeakRef(storage)

    def _is_marked(self, tensor: torch.Tensor) -> bool:
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        return storage is not None and not storage.expired()


#: Calls that read no values.
_METADATA_CALLS = {
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
    "__len__",
    "element_size",
    "requires_grad_",
}


def _list_tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _list_tensors(part)]
    return []


def _find_device(value: Any, name: str) -> torch.device | None:
    """Find the device among the arguments of a call."""
    args, kwargs = value
    named = [kwargs.get("device"), *(args[1:] if name in ("to", "new_zeros", "new_ones") else args)]
    for part in named:
        if isinstance(part, torch.device) or (isinstance(part, str) and part in ("mps", "cpu")):
            return GPU if torch.device(part).type == "mps" else CPU
    return None


def _move_to_cpu(value: Any) -> Any:
    """Replace the device by the CPU."""
    if isinstance(value, torch.device):
        return CPU
    if isinstance(value, str) and value == "mps":
        return "cpu"
    if isinstance(value, dict):
        return {name: _move_to_cpu(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_move_to_cpu(part) for part in value)
    return value
