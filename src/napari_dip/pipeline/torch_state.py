"""Load torch, run with its default settings, and restore those of the caller at each yield.

Autocast, disabled gradients, default type and device, and NumPy errors are settings of a process
or a thread. Those of the caller could change pixels or end a run. The state of global random
generators is not changed, since runs have their own generators.

GNU's OpenMP reads its wait policy when it is loaded. Without a policy, an idle thread spins for
about a millisecond after each operation and takes the cores from computing threads. Beside two
busy programs on two cores, a run of 64 x 64 pixels took 88 s instead of 7 to 14 s. While a process
has more OpenMP threads than cores, threads spin only a three-hundredth as long (`do_spin` in
libgomp's config/linux/wait.h). So where torch was loaded before this package, a few sleeping
threads are added. The number of computing threads does not change, and neither do the pixels.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from napari_dip.errors import FailedError
from napari_dip.io.paths import check_working_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from types import ModuleType

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
#: Parameter M_TRIM_THRESHOLD of glibc's `mallopt`, see mallopt(3): the settings below save 7 to
#: 12 % of the CPU time (`benchmarks/tiles.py`).
_TRIM_THRESHOLD = -1
#: Parameter M_TOP_PAD of glibc's `mallopt`.
_TOP_PAD = -2
#: Parameter M_MMAP_THRESHOLD of glibc's `mallopt`.
_MMAP_THRESHOLD = -3
#: Bytes kept free at the end of a thread's heap of 64 MiB: otherwise one run in three on a thread
#: of napari took 650,000 page faults and 19 % more CPU time (docs/constants.md).
_THREAD_HEAP_BYTES = 64 * 2**20
#: Bytes by parameter: blocks up to the first limit are reused from freed memory; the second is kept
#: at the end of the heap. A larger first limit takes 9 to 24 % more memory (docs/constants.md).
_MALLOC_SETTINGS = {
    _MMAP_THRESHOLD: 32 * 2**20,
    _TRIM_THRESHOLD: 256 * 2**20,
    _TOP_PAD: _THREAD_HEAP_BYTES,
}
#: Environment variables by which users choose how idle threads wait, and the values for torch
#: otherwise: GNU's OpenMP sleeps after 1,000 turns of its waiting loop (docs/constants.md).
_WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
#: Environment variable by which torch computes on the CPU what the Apple GPU cannot.
MPS_FALLBACK_VARIABLE = "PYTORCH_ENABLE_MPS_FALLBACK"


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
                        return cast("AnswerT", stop.value)
                yield step
        finally:
            with use_default_torch_state(threads):
                steps.close()


def keep_freed_memory() -> bool:
    """Make the C library reuse freed memory, which the system would otherwise clear again.

    Returns
    -------
    bool
        True if all settings were accepted; False on systems without glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # a list: all are set, even if one is refused
    accepted = [mallopt(name, size) == 1 for name, size in _MALLOC_SETTINGS.items()]
    return all(accepted)


@cache
def has_spinning_threads() -> bool:
    """Return whether torch was loaded before a wait policy could be set.

    It is detected once, before torch is loaded here; later the environment may change.
    """
    return "torch" in sys.modules and not _has_wait_policy()


def _has_wait_policy() -> bool:
    """Return whether the user has chosen how idle threads wait."""
    return any(name in os.environ for name in _WAIT_POLICY)


@contextmanager
def suppress_thread_spinning(threads: int) -> Iterator[None]:
    """Keep idle threads of torch from spinning within the context.

    Parameters
    ----------
    threads : int
        Number of computing threads; with 1 nothing is done, since no thread waits.
    """
    libraries = _load_openmp_libraries() if threads > 1 and has_spinning_threads() else []
    if not libraries:
        yield
        return
    finished, started = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            for library in libraries:
                _start_threads(library)
        finally:
            started.set()
        finished.wait()  # the OpenMP threads end with the thread that started them

    holder = threading.Thread(target=hold, name="napari-dip-openmp", daemon=True)
    holder.start()
    started.wait()
    try:
        yield
    finally:
        finished.set()
        holder.join()


def _load_openmp_libraries() -> list[ctypes.CDLL]:
    """Return all copies of GNU's OpenMP in this process; empty on systems without /proc."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        columns = [line.split(maxsplit=5) for line in lines]
        paths = {column[5] for column in columns if len(column) > 5 and "/libgomp" in column[5]}
        return [ctypes.CDLL(path) for path in sorted(paths)]
    return []


def _start_threads(library: ctypes.CDLL) -> None:
    """Start one more thread than there are cores, by a parallel region without work."""
    with suppress(AttributeError):  # another library of that name
        start_parallel = library.GOMP_parallel
        start_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        start_parallel.restype = None
        no_operation = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
        start_parallel(no_operation, None, library.omp_get_num_procs() + 1, 0)


def load_torch() -> ModuleType:
    """Import and return torch, with idle threads that soon sleep, and with reuse of freed memory.

    Raises
    ------
    RefusedError
        If the working folder was deleted, where torch's libraries would end the process.
    FailedError
        If Python is shutting down.
    """
    check_working_folder()
    has_spinning_threads()
    keep_freed_memory()
    if "torch" in sys.modules:  # too late: its libraries have read the environment
        return sys.modules["torch"]
    try:
        policy = {} if _has_wait_policy() else _WAIT_POLICY
        environment = {**policy, MPS_FALLBACK_VARIABLE: "1"}
        with _set_default_environment(environment), _pause_garbage_collection():
            import torch
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise FailedError("program-ends") from error
    return torch


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile.

    An import makes many objects that stay. Looking through them takes 0.2 to 0.4 of the 1.6 CPU
    seconds that torch takes to load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _set_default_environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, and remove them again at the end."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
        for read, write, default in _iter_settings(threads):
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


def _iter_settings(threads: int | None) -> Iterator[Setting]:
    """Yield (read, write, value) of each setting, the ones that others depend on first."""
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
    for path, name, default in _BACKEND_DEFAULTS:
        module: Any = torch.backends
        for submodule in filter(None, path.split(".")):
            module = getattr(module, submodule, None)
        yield partial(getattr, module, name), partial(setattr, module, name), default
    # setting it changes those of single devices, too, which are restored after it
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
