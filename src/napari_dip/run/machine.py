"""What this computer offers, found out without loading torch."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Failed, refusal
from napari_dip.io.paths import check_working_folder
from napari_dip.run.allocator import keep_freed_memory
from napari_dip.run.openmp import note_spinning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

#: Cores and image size decide the threads. Two were measured to be 1.8 times as fast as one
#: (256 x 256 crops); more than two were not measured. This many are a guess: past some number
#: the layers of so narrow a network are too small to share out.
MOST_THREADS = 8

#: Asks torch to do on the processor what Apple graphics cannot.
MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"

#: What torch's libraries read from the environment when they load, unless it says otherwise.
_AT_LOAD = {"OMP_WAIT_POLICY": "PASSIVE", MPS_FALLBACK: "1"}

#: What torch says when its memory is full.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "defaultcpuallocator")


@dataclass(frozen=True, slots=True)
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
        Why there is no graphics card among the devices, in words; "" if there is one.
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


def this_machine() -> Machine:
    """Look at this computer; takes milliseconds and imports nothing heavy."""
    version = torch_version()
    devices, missing = _devices(version)
    return Machine(_cores(), _free_bytes(), devices, version, missing, _half())


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
    note_spinning()
    keep_freed_memory()
    if "torch" in sys.modules:  # its libraries have read the environment
        return sys.modules["torch"]
    try:
        with _environment(_AT_LOAD):
            import torch
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        raise Failed(refusal("program-ends")) from error
    return torch


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
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
    return isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)


def threads_for(cores: int, pixels: int) -> int:
    """Threads for a fit of that many pixels: a fixed table, so that pixels repeat.

    Parameters
    ----------
    cores : int
    pixels : int
        Pixels of the picture plane.
    """
    if pixels < 64 * 64:  # a layer then takes less time than waking a second thread
        return 1
    return max(1, min(cores, MOST_THREADS))


def torch_version() -> str:
    """Version of the torch that is installed, "" if there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:  # frozen programs need not have a package's notes
        return str(load_torch().__version__) if find_spec("torch") else ""


def _devices(version: str) -> tuple[tuple[str, ...], str]:
    if not version:
        return ("cpu",), "PyTorch is not installed"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ("mps", "cpu"), ""
    card = (
        Path("/proc/driver/nvidia/version").exists()
        or Path("/dev/nvidia0").exists()
        or shutil.which("nvidia-smi") is not None
    )
    if not card:
        return ("cpu",), "no NVIDIA driver was found"
    if "+cpu" in version:
        return ("cpu",), f"the installed PyTorch {version} is built for processors only"
    return ("cuda", "cpu"), ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _half() -> bool:
    """As `engine.precision` asks torch, which is not to be loaded for a plan."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def _free_bytes() -> int:
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
