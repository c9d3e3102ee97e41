"""torch and NumPy as a run wants them, whatever the program around has set for itself.

Autocast, no gradients, another default type or device, and warnings that are errors are settings
of a process or a thread: they would change pixels, or end a run. A run has its own while it
computes; each yield finds the program's own again. Global random numbers are left alone: runs draw
from generators of their own.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_dip.pipeline.machine import suppress_thread_spinning

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Setting = tuple[Callable[[], Any], Callable[[Any], Any], Any]

StepT = TypeVar("StepT")
AnswerT = TypeVar("AnswerT")
#: Precisions that a program may have lowered: module of torch.backends, name, and torch's default.
#: Some are newer than the oldest torch that is taken.
_BACKEND_DEFAULTS = (
    ("", "fp32_precision", "none"),
    ("mkldnn.conv", "fp32_precision", "none"),
    ("mkldnn.matmul", "fp32_precision", "none"),
    ("cuda.matmul", "fp32_precision", "none"),
    ("cudnn.conv", "fp32_precision", "tf32"),
    ("mkldnn", "enabled", True),
    ("mkldnn", "deterministic", False),
    ("cudnn", "enabled", True),
    ("cudnn", "benchmark", False),
    ("cudnn", "deterministic", False),
)
#: Devices whose autocast is asked for.
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


def run_in_default_state(
    steps: Generator[StepT, None, AnswerT], threads: int
) -> Generator[StepT, None, AnswerT]:
    """Run a generator in a state of its own, and be back in the caller's whenever it waits.

    Parameters
    ----------
    steps : generator
        Must not wait within a `with` that changes this state.
    threads : int
        Of torch.
    """
    with suppress_thread_spinning(threads):
        try:
            while True:
                with use_default_torch_state(threads):
                    try:
                        step = next(steps)
                    except StopIteration as stop:
                        answer: AnswerT = stop.value
                        return answer
                yield step
        finally:
            with use_default_torch_state(threads):
                steps.close()


@contextmanager
def use_default_torch_state(threads: int | None = None) -> Iterator[None]:
    """Have torch and NumPy as they are when nobody has set anything, and put all of it back.

    Parameters
    ----------
    threads : int, optional
        Of torch; as they are if left out.
    """
    import torch

    with ExitStack() as ends:
        if torch.is_inference_mode_enabled():
            ends.enter_context(torch.inference_mode(False))
        ends.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            ends.enter_context(torch.device("cpu"))
        for read, write, wanted in (*_iter_global_settings(threads), *_iter_backend_settings()):
            _change_setting(ends, read, write, wanted)
        # NumPy's own; "raise" would end a run at the first number that is too small
        errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
        ends.enter_context(errors)
        yield


def _change_setting(ends: ExitStack, read: Callable[[], Any], write: Any, wanted: Any) -> None:
    """Change a setting until the end, if it is another one."""
    try:
        before = read()
    except (RuntimeError, AttributeError, TypeError):  # this torch has none of that name
        return
    if before != wanted:
        write(wanted)
        ends.callback(write, before)


def _iter_global_settings(threads: int | None) -> Iterator[Setting]:
    import torch

    if threads is not None:
        yield torch.get_num_threads, torch.set_num_threads, threads
    yield torch.get_default_dtype, torch.set_default_dtype, torch.float32
    for device in _AUTOCAST_DEVICES:
        is_enabled = partial(torch.is_autocast_enabled, device)
        yield is_enabled, partial(torch.set_autocast_enabled, device), False

    def deterministic() -> tuple[bool, bool]:
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), warns

    def set_deterministic(both: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(both[0], warn_only=both[1])

    yield deterministic, set_deterministic, (False, False)


def _iter_backend_settings() -> Iterator[Setting]:
    """Give settings in an order in which each is read when those that it follows are plain."""
    import torch

    # sets those of single devices too, which are put back after it
    mode = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    for path, name, wanted in _BACKEND_DEFAULTS:
        home: Any = torch.backends
        for part in filter(None, path.split(".")):
            home = getattr(home, part, None)
        yield partial(getattr, home, name), partial(setattr, home, name), wanted
    yield *mode, "highest"
