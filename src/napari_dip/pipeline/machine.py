"""What this computer offers, found out without loading torch.

How the C library of a process keeps memory that is freed and wanted again at the next step.

Idle threads of torch that wait, where torch was loaded before anyone told them to.

GNU's OpenMP reads its wait policy when it loads. Without one, an idle thread spins for a
millisecond or so after each operation, and takes the cores from threads that compute: beside two
busy programs on two cores, a run of 64 x 64 pixels took 88 s instead of 7 to 14. Spinning is cut
to a three-hundredth as long as the process has more such threads than there are cores
(`do_spin` in libgomp's config/linux/wait.h), so that a few more, which sleep, end it. The number
of threads that compute, and with it the pixels, stay as planned.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import shutil
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Failed, refusal
from napari_dip.io.paths import check_working_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

#: Names of glibc's `mallopt`, and bytes. Blocks up to the first are taken from what was freed, as
#: glibc does by itself in time (mallopt(3)); so much of it is kept that is at the end of the heap,
#: where glibc keeps 64 MiB, and 64 kB in a worker of dask, which says so. Pictures of 512, 1,024
#: and 2,048 pixels a side took 13.3, 12.5 and 14.3 CPU seconds a megapixel at three iterations, and
#: 14.5, 13.5 and 16.2 without, the peaks within 6 % (`benchmarks/tiles.py`). Larger blocks kept as
#: well save one to two seconds more of large ones, and take 9 to 24 % more memory.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
#: A thread that is not the first one, such as a worker of napari, has heaps of 64 MiB of its own,
#: which glibc gives back as soon as they are empty, unless that left less than this spare. Of runs
#: of 100 iterations on 256 x 256 pixels one in three then took 650,000 page faults and 19 % more
#: processor time than on the first thread; with this, a thousand, and as long.
_THREAD_HEAP_BYTES = 64 * 2**20
_MALLOC_SETTINGS = {
    _MMAP_THRESHOLD: 32 * 2**20,
    _TRIM_THRESHOLD: 256 * 2**20,
    _TOP_PAD: _THREAD_HEAP_BYTES,
}


def keep_freed_memory() -> bool:
    """Keep freed memory for the next step, instead of having it cleared by the system anew.

    Returns
    -------
    bool
        Whether that was to be set here, and was.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    taken = [
        mallopt(name, size) == 1 for name, size in _MALLOC_SETTINGS.items()
    ]  # both, in any case
    return all(taken)


#: What people set who want to say themselves how threads wait.
_WAIT_POLICY_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
#: Whether idle threads spin, found out once: the environment says nothing of it later.
_spinning_state: list[bool] = []


def detect_thread_spinning() -> None:
    """Find out whether idle threads spin: it is too late for a policy once torch has loaded."""
    if not _spinning_state:
        late = "torch" in sys.modules
        _spinning_state.append(
            late and not any(name in os.environ for name in _WAIT_POLICY_VARIABLES)
        )


@contextmanager
def suppress_thread_spinning(threads: int) -> Iterator[None]:
    """Keep idle threads of torch from spinning meanwhile.

    Parameters
    ----------
    threads : int
        That compute; one has no others to wait for.
    """
    libraries = _load_openmp_libraries() if threads > 1 and any(_spinning_state) else []
    if not libraries:
        yield
        return
    over, asleep = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            for library in libraries:
                _start_threads(library)
        finally:
            asleep.set()
        over.wait()  # they go with the thread that started them

    holder = threading.Thread(target=hold, name="napari-dip-openmp", daemon=True)
    holder.start()
    asleep.wait()
    try:
        yield
    finally:
        over.set()
        holder.join()


def _load_openmp_libraries() -> list[ctypes.CDLL]:
    """Find the copies of GNU's OpenMP in this process; none on other systems."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        columns = [line.split(maxsplit=5) for line in lines]
        paths = {column[5] for column in columns if len(column) > 5 and "/libgomp" in column[5]}
        return [ctypes.CDLL(path) for path in sorted(paths)]
    return []


def _start_threads(library: ctypes.CDLL) -> None:
    """Start one thread more than there are cores, by an operation that does nothing."""
    with suppress(AttributeError):  # another library of that name
        begin = library.GOMP_parallel
        begin.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        begin.restype = None
        nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
        begin(nothing, None, library.omp_get_num_procs() + 1, 0)


#: Cores and image size decide the threads. Two were measured to be 1.8 times as fast as one
#: (256 x 256 crops); more than two were not measured. This many are a guess: past some number
#: the layers of so narrow a network are too small to share out.
MAX_THREADS = 8
#: Asks torch to do on the processor what Apple graphics cannot.
MPS_FALLBACK_VARIABLE = "PYTORCH_ENABLE_MPS_FALLBACK"
#: What torch's libraries read from the environment when they load, unless it says otherwise.
_TORCH_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", MPS_FALLBACK_VARIABLE: "1"}
#: What torch says when its memory is full.
_MEMORY_ERROR_TEXTS = ("out of memory", "can't allocate memory", "defaultcpuallocator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores, memory and devices.

    Attributes
    ----------
    cores : int
        Cores that this process may use.
    memory_bytes : int
        Memory that is free now.
    devices : tuple of str
        Devices that look usable, best first; always ends in "cpu".
    torch : str
        Version of the torch that is installed, "" if there is none.
    missing : str
        Why there is no GPU among the devices, in words; "" if there is one.
    half : bool
        Whether the processor says that it multiplies matrices of bfloat16 by instructions of its
        own; it is only asked on Linux.
    """

    cores: int
    memory_bytes: int
    devices: tuple[str, ...]
    torch: str
    missing: str = ""
    half: bool = False


def detect_machine() -> Machine:
    """Look at this computer; takes milliseconds and imports nothing heavy."""
    version = get_torch_version()
    devices, missing = _detect_devices(version)
    return Machine(
        cores=_count_cores(),
        memory_bytes=_get_free_memory(),
        devices=devices,
        torch=version,
        missing=missing,
        half=_has_bfloat16_instructions(),
    )


def load_torch() -> ModuleType:
    """Import torch so that its idle threads wait instead of spinning, and keep freed memory.

    Spinning gains nothing on an idle machine and costs a factor of 4 to 7 beside other programs
    (one forward and backward pass at 256 x 256: 0.17 to 0.24 s against 0.72 to 1.1 s).

    Raises
    ------
    Refused
        If the working folder was deleted: its libraries end the process there.
    Failed
        If Python ends: only threads that outlive the main one still run then.
    """
    check_working_folder()
    detect_thread_spinning()
    keep_freed_memory()
    if "torch" in sys.modules:  # its libraries have read the environment
        return sys.modules["torch"]
    try:
        with _set_default_environment(_TORCH_ENVIRONMENT):
            import torch
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise Failed(refusal("program-ends")) from error
    return torch


@contextmanager
def _set_default_environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set what the environment does not say, and take it out again: the program has its own."""
    new = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def is_memory_error(error: BaseException) -> bool:
    """Tell a full memory from other errors, by what numpy, torch and the system raise.

    torch raises OutOfMemoryError on a card and RuntimeError on a processor; asking by name and
    text leaves torch unloaded.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(label in text for label in _MEMORY_ERROR_TEXTS)


def choose_thread_count(cores: int, pixels: int) -> int:
    """Threads for a fit of that many pixels: a fixed table, so that pixels repeat.

    Parameters
    ----------
    cores : int
    pixels : int
        Pixels of the picture plane.
    """
    if pixels < 64 * 64:  # a layer then takes less time than waking a second thread
        return 1
    return max(1, min(cores, MAX_THREADS))


def get_torch_version() -> str:
    """Version of the torch that is installed, "" if there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:  # frozen programs need not have a package's notes
        return str(load_torch().__version__) if find_spec("torch") else ""


def _detect_devices(version: str) -> tuple[tuple[str, ...], str]:
    if not version:
        return ("cpu",), "PyTorch is not installed"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("mps", "cpu"), ""
    if not has_nvidia_driver():
        return ("cpu",), "no NVIDIA driver was found"
    if is_cpu_build(version):
        return ("cpu",), f"the installed PyTorch {version} is built for CPUs only"
    return ("cuda", "cpu"), ""


def has_nvidia_driver() -> bool:
    """Whether the driver of an NVIDIA card is there; nothing is loaded."""
    return (
        Path("/proc/driver/nvidia/version").exists()
        or Path("/dev/nvidia0").exists()
        or shutil.which("nvidia-smi") is not None
    )


def is_cpu_build(version: str) -> bool:
    """Whether that version of PyTorch is built for CPUs only."""
    return "+cpu" in version


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _has_bfloat16_instructions() -> bool:
    """As `engine.precision` asks torch, which is not to be loaded for a plan."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def _get_free_memory() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return next(
            int(line.split()[1]) * 1024
            for line in text.splitlines()
            if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration, ValueError):
        import psutil  # ships with napari; needed where there is no /proc

        return int(psutil.virtual_memory().available)


def convert_nan_to_none(value: float) -> float | None:
    """None instead of NaN, which JSON does not have."""
    return value if isfinite(value) else None


def format_bytes(count: float, whole: Callable[[float], int] = ceil) -> str:
    """Bytes in words, rounded up: most are bounds; `whole=floor` for what is there to be used."""
    megabytes = max(1, whole(count / 1e6))
    return f"{megabytes} MB" if megabytes < 1000 else f"{whole(count / 1e8) / 10:.1f} GB"


def format_duration(seconds: float) -> str:
    """Seconds in words, always rounded up: most are upper bounds."""
    if seconds <= 90:
        return f"{max(1, ceil(seconds))} s"
    return f"{ceil(seconds / 60)} min" if seconds <= 5400 else f"{ceil(seconds / 360) / 10:.1f} h"
