"""Check the installation: versions, devices, and a command for each problem."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from napari_dip.pipeline.machine import (
    MPS_FALLBACK_VARIABLE,
    Machine,
    detect_machine,
    has_nvidia_driver,
    is_cpu_build,
)

#: Qt bindings that napari supports, in its order of preference.
QT_BINDINGS = ("PyQt6", "PySide6", "PyQt5", "PySide2")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A problem of the installation, and the command that solves it."""

    trouble: str
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
    cards : tuple of str
        Names of the GPUs.
    no_card : str
        Reason, for the user, why there is no GPU among the devices; "" if there is one.
    cores : int
    memory_bytes : int
        Free memory.
    napari, qt : str
        Versions, "" where missing; for Qt with the name of the binding.
    mends : tuple of Repair
        Problems with their commands.
    """

    version: str
    python: str
    system: str
    torch: str
    build: str
    devices: tuple[str, ...]
    cards: tuple[str, ...]
    no_card: str
    cores: int
    memory_bytes: int
    napari: str
    qt: str
    mends: tuple[Repair, ...]

    @property
    def works(self) -> bool:
        """Whether any device can restore an image."""
        return bool(self.devices)

    @property
    def bridge(self) -> str:
        """Note for the user on operations that the GPU leaves to the CPU; "" if none."""
        return MPS_FALLBACK_NOTE if "mps" in self.devices else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        return {**asdict(self), "works": self.works}


def examine_installation() -> InstallationReport:
    """Check the installation; takes some seconds, since PyTorch is started for a test."""
    from napari_dip.version import __version__

    machine = detect_machine()
    torch, trouble = _probe_torch() if machine.torch else ({}, "PyTorch is not installed")
    devices = tuple(torch.get("devices", ()))
    no_card = (
        "" if set(devices) - {"cpu"} else machine.missing or trouble or _UNUSABLE_DRIVER_MESSAGE
    )
    napari = _get_package_version("napari")
    qt = next(
        (f"{name} {_get_package_version(name)}" for name in QT_BINDINGS if find_spec(name)), ""
    )
    return InstallationReport(
        version=__version__,
        python=f"{platform.python_version()} at {sys.executable}",
        system=platform.platform(),
        torch=torch.get("version", ""),
        build=torch.get("build", ""),
        devices=devices,
        cards=tuple(torch.get("names", ())),
        no_card=no_card,
        cores=machine.cores,
        memory_bytes=machine.memory_bytes,
        napari=napari,
        qt=qt,
        mends=tuple(_list_repairs(machine, devices, trouble, napari, qt)),
    )


def _list_repairs(
    machine: Machine, devices: tuple[str, ...], trouble: str, napari: str, qt: str
) -> list[Repair]:
    pip = f'"{sys.executable}" -m pip install'
    repairs = []
    if not machine.torch:
        repairs.append(Repair(trouble="PyTorch is not installed", command=f"{pip} torch"))
    elif not devices:
        repairs.append(
            Repair(
                trouble=f"PyTorch does not work: {trouble}",
                command=f"{pip} --force-reinstall torch",
            )
        )
    elif "cuda" in machine.devices and "cuda" not in devices:
        repairs.append(Repair(trouble=_UNUSABLE_DRIVER_MESSAGE, command="nvidia-smi"))
    elif machine.missing and is_cpu_build(machine.torch) and has_nvidia_driver():
        # uv reads the driver's version and chooses the matching build
        command = f'{pip} uv && "{sys.executable}" -m uv pip install --python "{sys.executable}"'
        command += " --reinstall-package torch --torch-backend=auto torch"
        repairs.append(
            Repair(trouble="There is an NVIDIA card, but PyTorch cannot use it", command=command)
        )
    if not napari or not qt:
        package = "napari" if not napari else "a Qt binding for napari"
        repairs.append(
            Repair(trouble=f"{package} is not installed", command=f'{pip} "napari[pyqt6]"')
        )
    return repairs


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
