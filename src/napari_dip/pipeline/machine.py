"""Detect what this computer offers, and check the installation."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from math import floor
from pathlib import Path
from typing import Any, Protocol

from napari_dip.errors import Refusal, make_refusal
from napari_dip.errors.templates import TEXTS, format_bytes, render_text
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.torch_state import MPS_FALLBACK_VARIABLE, load_torch

#: Maximum number of CPU threads of a fit. Two threads are 1.8 times as fast as one (256 x 256
#: crops). More were not measured; the limit is a guess, as layers of narrow networks are small.
MAX_THREADS = 8
#: Pixels of a fit below which a second thread costs more time than it saves: a step of 64 x 64
#: takes 10 ms with one thread and 22 with two, of 96 x 96 16 and 26, of 192 x 192 the same.
MIN_THREADED_PIXELS = 192 * 192
#: Floating-point operations per second of convolutions of the presets' widths, per CPU thread in
#: single precision (`benchmarks/speed_plan.py`), where the CPU has AVX-512.
AVX512_THREAD_RATE = 100e9
#: Floating-point operations per second of convolutions, per CPU thread in single precision, without
#: AVX-512 or where that is unknown. An AMD EPYC with AVX2 reaches 30e9 on one thread, and 22e9 on
#: each of two.
OTHER_THREAD_RATE = 25e9
#: Folder of the limits of a container on Linux (cgroup).
_CGROUP_FOLDER = Path("/sys/fs/cgroup")
#: Parts of torch's messages when memory is full.
_MEMORY_ERROR_TEXTS = ("out of memory", "can't allocate memory", "defaultcpuallocator")
#: Qt bindings that napari supports, in its order of preference.
QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
#: What the docks need beside napari and a Qt binding: the extra 'qt'.
DOCK_PACKAGES = ("magicgui", "psygnal", "pyqtgraph", "qtpy", "superqt")
#: Texts that name a device.
DEVICE_TEXTS = {"cpu": "device-cpu", "cuda": "device-cuda", "mps": "device-mps"}
#: Note for the user on Apple GPUs.
MPS_FALLBACK_NOTE = (
    f"What the Apple GPU cannot compute is done by the CPU ({MPS_FALLBACK_VARIABLE}=1)."
)
#: Program that tests torch in a separate process, which a broken library may end.
_TORCH_PROBE = """
import json, torch
devices = ["cpu"]
names = []
if torch.cuda.is_available():
    devices.insert(0, "cuda")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if torch.backends.mps.is_available():
    devices.insert(0, "mps")
for device in devices:
    total = (torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum().item()
    assert total == 512, f"{device} gives wrong sums"
build = f"CUDA {torch.version.cuda}" if torch.version.cuda else ""
facts = {"version": torch.__version__, "build": build, "devices": devices, "names": names}
print(json.dumps(facts))
"""
_UNUSABLE_DRIVER_MESSAGE = "PyTorch sees the driver but cannot use it"


class CpuSpeed(Protocol):
    """What estimates need to know of a CPU: a `Machine`, or the `Plan` that was made for it."""

    @property
    def has_bfloat16(self) -> bool:
        """Whether the CPU has bfloat16 instructions."""

    @property
    def thread_flops(self) -> float:
        """Floating-point operations per second of one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Cores, memory and devices of a computer.

    Attributes
    ----------
    cores : int
        Cores that this process may use, at most the CPU quota of its container.
    memory_bytes : int
        Free memory at the time of detection.
    devices : tuple of str
        Devices that look usable, best first; always ends in "cpu".
    torch_version : str
        Version of the installed torch, "" if none.
    no_gpu_reason : str
        Reason, for the user, why there is no GPU among the devices; "" if there is one.
    has_bfloat16 : bool
        Whether the CPU has bfloat16 matrix instructions; detected on Linux only.
    thread_flops : float
        Floating-point operations per second of a CPU thread, in single precision: an estimate from
        its instructions.
    max_threads : int
        Maximum number of threads of a fit whose recipe sets none.
    """

    cores: int
    memory_bytes: int
    devices: tuple[str, ...]
    torch_version: str
    no_gpu_reason: str = ""
    has_bfloat16: bool = False
    thread_flops: float = AVX512_THREAD_RATE
    max_threads: int = MAX_THREADS


def detect_machine(cgroup_folder: Path = _CGROUP_FOLDER) -> Machine:
    """Detect what this computer offers; takes milliseconds and does not import torch.

    Parameters
    ----------
    cgroup_folder : Path
        Folder of the limits of a container.
    """
    version = get_torch_version()
    devices, missing = _detect_devices(version)
    cpu_flags = _read_cpu_flags()
    return Machine(
        cores=_count_cores(cgroup_folder),
        memory_bytes=read_free_memory(),
        devices=devices,
        torch_version=version,
        no_gpu_reason=missing,
        has_bfloat16=not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpu_flags),
        thread_flops=AVX512_THREAD_RATE if "avx512f" in cpu_flags else OTHER_THREAD_RATE,
        max_threads=read_max_threads(),
    )


def read_free_memory() -> int:
    """Return the free main memory, in bytes."""
    import psutil

    return int(psutil.virtual_memory().available)


def read_free_gpu_memory() -> int:
    """Return the memory of the NVIDIA GPU that a run of this process may use, in bytes.

    What torch holds without using it counts as free.
    """
    cuda = load_torch().cuda
    free, _ = cuda.mem_get_info()
    return int(free + cuda.memory_reserved() - cuda.memory_allocated())


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error of NumPy, torch or the system means that memory is full.

    torch raises OutOfMemoryError on a GPU and RuntimeError on the CPU. They are recognised by name
    and message, so that torch need not be loaded.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        fragment in message for fragment in _MEMORY_ERROR_TEXTS
    )


def make_unexpected_fault(error: Exception, name: str) -> Refusal:
    """Return the refusal for an error that nothing else explains: the memory, or its own text."""
    if is_memory_error(error):
        return make_refusal("memory-out", name=name)
    return make_refusal("unexpected", why=describe_exception(error))


def choose_thread_count(machine: Machine, pixel_count: int, requested: int | None = None) -> int:
    """Return the number of CPU threads for a fit; it depends on the arguments alone.

    Parameters
    ----------
    machine : Machine
    pixel_count : int
        Pixels, or voxels, of one fit.
    requested : int, optional
        Number that the recipe sets, which may exceed the cores: that repeats the pixels of a
        larger computer.
    """
    if requested is not None:
        return requested
    if pixel_count < MIN_THREADED_PIXELS:
        return 1
    return max(1, min(machine.cores, machine.max_threads))


def read_max_threads() -> int:
    """Return `MAX_THREADS`, or OMP_NUM_THREADS if that is valid and less."""
    # "4,2" limits nested levels, too; the first number is that of the outer level
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    limit = int(text) if text.isascii() and text.isdigit() else 0
    return min(limit or MAX_THREADS, MAX_THREADS)


def get_torch_version() -> str:
    """Return the version of the installed torch, "" if none."""
    version = _get_package_version("torch")
    if not version and find_spec("torch"):  # frozen programs may lack package metadata
        return str(load_torch().__version__)
    return version


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
    """Return whether an NVIDIA driver is installed, without loading it."""
    return (
        Path("/proc/driver/nvidia/version").exists()
        or Path("/dev/nvidia0").exists()
        or shutil.which("nvidia-smi") is not None
    )


def is_cpu_build(version: str) -> bool:
    """Return whether a version of PyTorch is built for CPUs only."""
    return "+cpu" in version


def _count_cores(cgroup_folder: Path) -> int:
    """Count the cores that this process may use, at most the CPU quota of its container."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota_files = (  # version 2 has both numbers in one file, version 1 in two
        ("cpu.max",),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
        ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    )
    for names in quota_files:
        try:
            texts = [(cgroup_folder / name).read_text(encoding="ascii") for name in names]
            quota, period = map(int, " ".join(texts).split())
        except (OSError, ValueError):  # not there, or "max": no limit
            continue
        if quota > 0 and period > 0:  # version 1 has -1 for no limit
            cores = min(cores, max(1, quota // period))
    return cores


def _read_cpu_flags() -> frozenset[str]:
    """Return the CPU's instructions, without torch, which is not loaded for a plan."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text("ascii", errors="replace").split())
    except OSError:
        return frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A problem of the installation, and the command that solves it."""

    problem: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationReport:
    """Versions, devices and problems of an installation.

    Attributes
    ----------
    version, python, system : str
    torch : str
        Version of PyTorch; "" where it is missing or broken.
    build : str
        CUDA version that PyTorch is built for; "" for CPUs only.
    devices : tuple of str
        Devices that passed a small computation, best first; empty if PyTorch does not work.
    gpus : tuple of str
        Names of the GPUs.
    no_gpu_reason : str
        Reason, for the user, why there is no GPU among the devices; "" if there is one.
    cores : int
    memory_bytes : int
        Free memory.
    napari, qt : str
        Versions, "" where missing; for Qt with the name of the binding.
    repairs : tuple of Repair
        Problems with their commands.
    """

    version: str
    python: str
    system: str
    torch: str
    build: str
    devices: tuple[str, ...]
    gpus: tuple[str, ...]
    no_gpu_reason: str
    cores: int
    memory_bytes: int
    napari: str
    qt: str
    repairs: tuple[Repair, ...]

    @property
    def is_usable(self) -> bool:
        """Whether any device can restore an image."""
        return bool(self.devices)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences on devices, versions and missing parts, with commands to install them."""
        names = [TEXTS[DEVICE_TEXTS[device]] for device in self.devices]
        if self.gpus and self.devices:
            names[0] += f" ({', '.join(self.gpus)})"
        alternatives = " or ".join(names[1:])
        lines = [
            render_text("installation-devices", device="".join(names[:1]), others=alternatives)
        ]
        if "mps" in self.devices:
            lines.append(MPS_FALLBACK_NOTE)
        if self.no_gpu_reason:
            lines.append(render_text("installation-no-gpu", reason=self.no_gpu_reason))
        if self.torch:
            build = self.build or "CPUs only"
            lines.append(render_text("installation-torch", version=self.torch, build=build))
        facts = {
            **asdict(self),
            "several": self.cores > 1,
            "memory": format_bytes(self.memory_bytes, floor),
            "napari": self.napari or "missing",
            "qt": self.qt or "no Qt binding",
        }
        lines.append(render_text("installation-hardware", **facts))
        lines.append(render_text("installation-versions", **facts))
        for repair in self.repairs:
            facts = {"problem": repair.problem, "line": repair.command}
            lines.append(render_text("installation-repair", **facts))
        return tuple(lines if self.repairs else [*lines, TEXTS["installation-complete"]])

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        return {**asdict(self), "is_usable": self.is_usable}


def examine_installation() -> InstallationReport:
    """Check the installation; takes some seconds, since PyTorch is started for a test."""
    from napari_dip.version import __version__

    machine = detect_machine()
    torch, problem = _probe_torch() if machine.torch_version else ({}, "PyTorch is not installed")
    devices = tuple(torch.get("devices", ()))
    no_gpu_reason = machine.no_gpu_reason or problem or _UNUSABLE_DRIVER_MESSAGE
    bindings = [f"{name} {_get_package_version(name)}" for name in QT_BINDINGS if find_spec(name)]
    return InstallationReport(
        version=__version__,
        python=f"{platform.python_version()} at {sys.executable}",
        system=platform.platform(),
        torch=torch.get("version", ""),
        build=torch.get("build", ""),
        devices=devices,
        gpus=tuple(torch.get("names", ())),
        no_gpu_reason="" if set(devices) - {"cpu"} else no_gpu_reason,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        napari=_get_package_version("napari"),
        qt=bindings[0] if bindings else "",
        repairs=tuple(_list_repairs(machine, devices, problem)),
    )


def _list_repairs(machine: Machine, devices: tuple[str, ...], problem: str) -> list[Repair]:
    pip = f'"{sys.executable}" -m pip install'
    commands = {}
    if not machine.torch_version:
        commands["PyTorch is not installed"] = f"{pip} torch"
    elif not devices:
        commands[f"PyTorch does not work: {problem}"] = f"{pip} --force-reinstall torch"
    elif "cuda" in machine.devices and "cuda" not in devices:
        commands[_UNUSABLE_DRIVER_MESSAGE] = "nvidia-smi"
    elif machine.no_gpu_reason and is_cpu_build(machine.torch_version) and has_nvidia_driver():
        # uv reads the driver's version and chooses the matching build
        command = f'{pip} uv && "{sys.executable}" -m uv pip install --python "{sys.executable}"'
        command += " --reinstall-package torch --torch-backend=auto torch"
        commands["There is an NVIDIA card, but PyTorch cannot use it"] = command
    if missing := find_missing_dock_package():
        extra = "qt" if missing in DOCK_PACKAGES else "app"
        commands[f"{missing} is not installed"] = f'{pip} "napari-dip[{extra}]"'
    return [Repair(problem=problem, command=command) for problem, command in commands.items()]


def find_missing_dock_package() -> str:
    """Return what the docks lack here, "" if nothing."""
    if find_spec("napari") is None:
        return "napari"
    if not any(map(find_spec, QT_BINDINGS)):
        return "a Qt binding for napari"
    return next((name for name in DOCK_PACKAGES if find_spec(name) is None), "")


def _probe_torch() -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-W", "ignore", "-c", _TORCH_PROBE]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        return dict(json.loads(process.stdout.splitlines()[-1])), ""
    except subprocess.TimeoutExpired:
        return {}, "it does not answer within three minutes"
    except (IndexError, ValueError):
        lines = process.stderr.strip().splitlines() or [f"it ends with code {process.returncode}"]
        return {}, lines[-1].rstrip(".")
    except OSError as error:
        return {}, str(error)


def _get_package_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
