"""Run with default settings of torch and NumPy, and restore those of the caller at each yield.

Autocast, disabled gradients, default type and device, and NumPy errors are settings of a process
or a thread. Those of the caller could change pixels or end a run. The state of global random
generators is not changed, since runs have their own generators.
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
#: Settings of torch.backends that affect pixels: submodule, attribute, and torch's default value.
#: Some are missing in the oldest supported torch.
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
#: Devices whose autocast is switched off.
_AUTOCAST_DEVICES = ("cpu", "cuda", "mps")


def run_in_default_state(
    steps: Generator[StepT, None, AnswerT], threads: int
) -> Generator[StepT, None, AnswerT]:
    """Run a generator in the default state, and restore the caller's state at each yield.

    Parameters
    ----------
    steps : generator
        Must not yield within a `with` that changes this state.
    threads : int
        CPU threads of torch.
    """
    with suppress_thread_spinning(threads):
        try:
            while True:
                with use_default_torch_state(threads):
                    try:
                        step = next(steps)
                    except StopIteration as stop:
                        result: AnswerT = stop.value
                        return result
                yield step
        finally:
            with use_default_torch_state(threads):
                steps.close()


@contextmanager
def use_default_torch_state(threads: int | None = None) -> Iterator[None]:
    """Set torch and NumPy to their defaults within the context, and restore them at its end.

    Parameters
    ----------
    threads : int, optional
        CPU threads of torch; None: unchanged.
    """
    import torch

    with ExitStack() as exit_stack:
        if torch.is_inference_mode_enabled():
            exit_stack.enter_context(torch.inference_mode(False))
        exit_stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            exit_stack.enter_context(torch.device("cpu"))
        for read, write, default in (*_iter_global_settings(threads), *_iter_backend_settings()):
            _change_setting(exit_stack, read, write, default)
        # NumPy's defaults; "raise" for underflow would end a run
        errors = np.errstate(divide="warn", over="warn", under="ignore", invalid="warn")
        exit_stack.enter_context(errors)
        yield


def _change_setting(exit_stack: ExitStack, read: Callable[[], Any], write: Any, value: Any) -> None:
    """Change a setting, and restore it when the exit stack closes."""
    try:
        before = read()
    except (RuntimeError, AttributeError, TypeError):  # this version of torch lacks it
        return
    if before != value:
        write(value)
        exit_stack.callback(write, before)


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

    def set_deterministic(mode: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])

    yield deterministic, set_deterministic, (False, False)


def _iter_backend_settings() -> Iterator[Setting]:
    """Yield (read, write, value) of each backend setting, the ones that others depend on first."""
    import torch

    # setting it changes those of single devices, too, which are restored after it
    mode = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    for path, name, default in _BACKEND_DEFAULTS:
        module: Any = torch.backends
        for submodule in filter(None, path.split(".")):
            module = getattr(module, submodule, None)
        yield partial(getattr, module, name), partial(setattr, module, name), default
    yield *mode, "highest"
