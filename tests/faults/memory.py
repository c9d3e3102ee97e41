"""A memory that runs out at random steps: the run frees it and goes on to the same quality.

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
from faults.scenes import command, lay_out, result, warm
from faults.trials import Trial, make_failed, make_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import TrialResult

CASES = ("tall", "inpaint", "blind-deblur", "denoise")
TIMES = 10
#: Most that the result may lose against the undisturbed one.
MOST_LOST = 0.1


def trials(*, small: bool) -> Iterator[Trial]:
    """Give ten real limits of the processor's memory, and ten failures of a card's allocator."""
    warm()
    for number in range(1 if small else TIMES):
        case = CASES[number % len(CASES)]
        yield Trial(
            f"limit, {case} {number}", partial(_run_with_little_memory, case, number, _limit)
        )
        yield Trial(
            f"card, {case} {number}", partial(_run_with_little_memory, case, number, _injected)
        )
    yield Trial("again and again", _again_and_again)


def _run_with_little_memory(
    case: str, number: int, limit_memory: Callable[[random.Random], Any]
) -> TrialResult:
    """Run with a failure; compare with the undisturbed result by the signal that both restore."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        (folder / "usual.tif").write_bytes(result(case)[0])
        rng = random.Random(f"{case} {number}")
        argv = command(case, folder)
        ended = run_command(argv, folder / "log2", before=partial(limit_memory, rng))
        if ended.code:
            return make_failed(f"exit {ended.code}: {ended.output}"[-600:])
        times = ended.output.count("The memory ran out")
        if not times:
            return make_failed("it was not noticed that the memory ran out")
        before = tifffile.imread(folder / "usual.tif").astype(np.float64)
        after = tifffile.imread(folder / "out.tif").astype(np.float64)
        clean = truth(before.shape)
        lost = psnr(before, clean) - psnr(after, clean)
        facts = {"lost_dB": round(lost, 3), "same": bool(np.array_equal(before, after))}
        if (case == "tall") is not ("windows of" in ended.output):
            return make_failed(f"the windows: {ended.output}"[-600:])
        if lost > MOST_LOST:
            return make_failed(f"{lost:.2f} dB lost", **facts)
        return make_passed(f"{lost:+.3f} dB lost", kind="finished", **facts)


def _again_and_again() -> TrialResult:
    """Let every step fail from the fortieth on: the run ends with what it has, and says so."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        ended = run_command(command("denoise", folder), folder / "log", before=_always)
        kept = "the best image so far was kept" in ended.output
        if ended.code or not kept or not np.isfinite(tifffile.imread(folder / "out.tif")).all():
            return make_failed(f"exit {ended.code}: {ended.output}"[-600:])
        times = len(set(re.findall(r"The memory ran out[^.]*\.", ended.output)))
        return make_passed(f"kept after {times} kinds of notes", kind="kept")


def truth(shape: tuple[int, ...]) -> np.ndarray:
    """Give the picture that the noise was added to."""
    from skimage import data

    return data.cell()[200 : 200 + shape[0], 200 : 200 + shape[1]].astype(np.float64) + 100


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio, the peak being the clean picture's range."""
    return float(20 * np.log10(np.ptp(clean) / np.sqrt(np.mean((image - clean) ** 2))))


def _at_a_step(rng: random.Random, act: Callable[[], None]) -> None:
    """Do something once, before a random step of the optimiser; the code itself is unchanged."""
    from napari_dip.engine.fit.trainer import Trainer

    remaining, advance = [rng.randrange(2, 55)], Trainer.advance

    def counted(self: Trainer) -> None:
        remaining[0] -= 1
        if remaining[0] == 0:
            act()
        advance(self)

    Trainer.advance = counted  # type: ignore[method-assign]


def _limit(rng: random.Random) -> None:
    """Hold the address space at what it is, until an allocation has failed."""
    import torch

    from napari_dip.pipeline.execute import device_recovery as memory

    free = memory.free_memory

    def hold() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (measure_address_space(), resource.RLIM_INFINITY))
        torch.empty(2**28)  # what the limit does not grant, a step of a larger image would ask for

    def let_go() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        free()

    memory.free_memory = let_go
    _at_a_step(rng, hold)


def _always() -> None:
    """Raise it at every step of the optimiser from the fortieth on."""
    import torch

    from napari_dip.engine.fit.trainer import Trainer

    advance = Trainer.advance

    def failing(self: Trainer) -> None:
        if self.iteration >= 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        advance(self)

    Trainer.advance = failing  # type: ignore[method-assign]


def _injected(rng: random.Random) -> None:
    """Raise what PyTorch raises where a card's memory is full."""
    import torch

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    _at_a_step(rng, fail)
