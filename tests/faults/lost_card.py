"""A GPU that stops answering at a random step: the picture so far is kept, and said so.

There is no card here, so one is played: whatever is moved to "mps" stays in the main memory but is
marked, and so is all that is computed from it; only `cpu()` and `to("cpu")` make copies without the
mark, as on a card. From a random call on the card is lost: every call that touches something
marked, reading included, raises what PyTorch raises. The program's own code is unchanged. ("mps"
since "cuda" would record its steps, which takes a card.)
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
from faults.memory import psnr, truth
from faults.scenes import command, lay_out, warm
from faults.trials import Trial, make_failed, make_passed, pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

CASES = ("denoise", "inpaint", "blind-deblur", "tiled")
TIMES = 20
#: Iteration of the first report, after which there is something to keep.
FIRST_REPORT = 25
CARD, HERE = torch.device("mps"), torch.device("cpu")
#: What PyTorch raises, and how.
SAID = "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"


def trials(*, small: bool) -> Iterator[Trial]:
    """Play a card that is never lost; lose it at random calls; and before the first report."""
    warm()
    for case in CASES[: 1 if small else None]:
        yield Trial(f"card that goes on, {case}", partial(_whole, case))
    for number in range(1 if small else TIMES):
        case = CASES[number % len(CASES)]
        yield Trial(f"card lost, {case} {number}", partial(_lost, case, number))
    yield Trial("card lost at once", _at_once)


@cache
def counted(case: str) -> tuple[int, int, np.ndarray]:
    """Calls until the first report, calls in all, and pixels, of a run whose card is never lost."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        counts = folder / "counts"
        ended = run_command(
            _argv(case, folder), folder / "log", before=partial(_play, None, counts)
        )
        if ended.code:
            raise RuntimeError(ended.output)
        first, whole = map(int, counts.read_text().split())
        return first, whole, tifffile.imread(folder / "out.tif")


def _argv(case: str, folder: Path) -> list[str]:
    return command(case, folder, "--device", "mps")


def _whole(case: str) -> TrialResult:
    """The played card computes what the processor computes; else it would prove nothing.

    Processors that are made for it compute some steps in half precision, the played card none.
    """
    first, whole, picture = counted(case)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        ended = run_command(command(case, folder), folder / "log", before=_without_half)
        if ended.code:
            return make_failed(ended.output[-600:])
        off = float(np.abs(tifffile.imread(folder / "out.tif") - picture).max())
    if first >= whole or off:
        return make_failed(f"{first} of {whole} calls before the first report; off by {off}")
    return make_passed(f"{whole} calls, off by {off}", kind="card went on")


def _lost(case: str, number: int) -> TrialResult:
    """Lose the card somewhere between the first report and the end."""
    first, whole, usual = counted(case)
    # previews come by the clock, so that another run may touch the card a few times less
    at = random.Random(f"card {case} {number}").randrange(first + 1, whole * 19 // 20)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        ended = run_command(_argv(case, folder), folder / "log", before=partial(_play, at, None))
        kept = ("best image so far was kept", "tiles that are done were kept")
        output = "stopped answering" in ended.output and any(text in ended.output for text in kept)
        if ended.code or not output:
            return make_failed(f"call {at} of {whole}: exit {ended.code}: {ended.output}"[-600:])
        picture = tifffile.imread(folder / "out.tif").astype(np.float64)
        if not np.isfinite(picture).all() or np.ptp(picture) == 0:
            return make_failed(f"call {at} of {whole}: no picture")
        clean = truth(picture.shape)
        lost = psnr(usual.astype(np.float64), clean) - psnr(picture, clean)
        return make_passed(
            f"call {at} of {whole}, {lost:+.2f} dB lost", kind="kept", lost_dB=round(lost, 3)
        )


def _at_once() -> TrialResult:
    """Lose the card before there is anything to keep: that is said, and nothing is written."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        lay_out(folder)
        ended = run_command(
            _argv("denoise", folder), folder / "log", before=partial(_play, 5, None)
        )
        message = pattern("device-lost").search(ended.output)
        if ended.code != 1 or not message or (folder / "out.tif").exists():
            return make_failed(f"exit {ended.code}: {ended.output}"[-600:])
        return make_passed("said so", kind="nothing to keep yet")


def _without_half() -> None:
    """Have the processor say that it is not made for half precision."""
    from napari_dip.engine.fit import train_step as precision

    precision.BFLOAT16_FEATURES = ()  # type: ignore[assignment]


def _play(at: int | None, counts: Path | None) -> None:
    """Put a card into this computer, to be lost at a call; or count the calls."""
    from napari_dip.engine.fit.trainer import Trainer
    from napari_dip.pipeline import machine

    card = PlayedCard(at, counts)
    card.__enter__()  # for as long as the process lives
    generator = torch.Generator
    torch.Generator = lambda device=None: generator()  # type: ignore[assignment,misc]
    machine._detect_devices = lambda version: (("mps", "cpu"), "")
    advance = Trainer.advance

    def noting(self: Trainer) -> None:
        advance(self)
        if self.iteration == FIRST_REPORT + 1 and not card.first:
            card.first = card.touched

    Trainer.advance = noting  # type: ignore[method-assign]


class PlayedCard(TorchFunctionMode):
    """Marks what is on the card, and refuses to touch it from some call on.

    Parameters
    ----------
    at : int or None
        Number of the call at which the card is lost.
    counts : Path or None
        File that takes the number of calls until the first report, and in all.
    """

    def __init__(self, at: int | None, counts: Path | None) -> None:
        super().__init__()
        self.at = at
        self.first = self.touched = 0
        self._counts = counts
        self._storages: dict[int, Any] = {}

    @property
    def lost(self) -> bool:
        """Whether it does not answer any more."""
        return self.at is not None and self.touched >= self.at

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do what is asked for, as a card would."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunction():
            ours = [tensor for tensor in _tensors((args, kwargs)) if self._is_marked(tensor)]
            if func == torch.Tensor.device.__get__:
                return CARD if ours else HERE
            # what a module is moved to is read from its arguments, and must stay the card
            if name in ("device", "_parse_to") or (ours and name in _FREE):
                return func(*args, **kwargs)
            if ours:
                self.touched += 1
                if self._counts is not None and self.touched % 20 == 0:
                    self._counts.write_text(f"{self.first} {self.touched}")
                if self.lost:
                    raise torch.AcceleratorError(SAID)
                if name in ("numpy", "__array__"):
                    raise TypeError("can't convert mps device type tensor to numpy.")
            device = _device((args, kwargs), name)
            output = func(*_mapped(args), **_mapped(kwargs))
            return self._placed(name, device, bool(ours), args, output)

    def _placed(
        self, name: str, device: torch.device | None, ours: bool, args: Any, output: Any
    ) -> Any:
        """Mark what lies on the card now; a copy off it is a copy."""
        if name == "cpu" or (name == "to" and device == HERE):
            return output.clone() if ours else output
        if name == "copy_":  # stays where it was
            return output
        if device == CARD and self.lost:
            raise torch.AcceleratorError(SAID)
        if device == CARD and name == "to" and not ours:
            output = output.clone(memory_format=torch.preserve_format)
        if device == CARD or (ours and device is None):
            for part in _tensors(output):
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


#: What tells of a tensor without touching what it holds.
_FREE = {
    "size",
    "dim",
    "numel",
    "stride",
    "is_contiguous",
    "__len__",
    "element_size",
    "requires_grad_",
}


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _device(value: Any, name: str) -> torch.device | None:
    """Find the device that a call names, or whose tensor it names as an example."""
    args, kwargs = value
    named = [kwargs.get("device"), *(args[1:] if name in ("to", "new_zeros", "new_ones") else args)]
    for part in named:
        if isinstance(part, torch.device) or (isinstance(part, str) and part in ("mps", "cpu")):
            return CARD if torch.device(part).type == "mps" else HERE
    return None


def _mapped(value: Any) -> Any:
    """Put "cpu" in the place of the card's name."""
    if isinstance(value, torch.device):
        return HERE
    if isinstance(value, str) and value == "mps":
        return "cpu"
    if isinstance(value, dict):
        return {name: _mapped(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(part) for part in value)
    return value
