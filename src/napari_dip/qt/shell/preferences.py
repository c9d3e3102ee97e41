"""What the user has set for all docks in napari's preferences.

Where napari lets a plugin keep what belongs to the user.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.reproduce.saved_settings import PresetFolder

if TYPE_CHECKING:
    from napari_dip.pipeline.machine import Machine

#: As `napari.yaml` words them, and how they are called in a recipe.
DEVICES = {"CPU": "cpu", "NVIDIA GPU": "cuda", "Apple GPU": "mps"}
PRESETS = ("fast", "balanced", "best")


def read_preferences(name: str) -> Any:
    """Give a page of our preferences; None where there are none, as in napari before 0.9.

    Parameters
    ----------
    name : str
        "computing" or "layers".
    """
    try:
        from napari.settings import get_plugin_settings

        return getattr(get_plugin_settings("napari-dip"), name)
    except (ImportError, KeyError, AttributeError):
        return None


def get_allowed_machine() -> Machine:
    """Look at this computer, as much of it as the user grants."""
    return limit_machine(detect_machine(), read_preferences("computing"))


def limit_machine(machine: Machine, wishes: Any) -> Machine:
    """Leave of a computer what the user grants.

    Parameters
    ----------
    machine : Machine
    wishes : object
        With `device`, `memory` in GB and `threads`, 0 for all there is; None: no wishes.
    """
    if wishes is None:
        return machine
    first = DEVICES.get(wishes.device)
    devices = machine.devices
    if first in devices:
        devices = (first, *(device for device in devices if device != first))
    memory = round(1e9 * wishes.memory) or machine.memory_bytes
    return replace(
        machine,
        cores=min(machine.cores, wishes.threads or machine.cores),
        memory_bytes=min(machine.memory_bytes, memory),
        devices=devices,
    )


def get_default_preset() -> str:
    """Name the preset that docks begin with; "" for that of the last run."""
    wished = getattr(read_preferences("computing"), "preset", "")
    return wished if wished in PRESETS else ""


def open_saved_settings(task: str) -> PresetFolder:
    """Find the settings kept for a task: in the folder of napari's own settings.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    return PresetFolder(folder=find_settings_folder(), task=task)


def find_settings_folder() -> Path | None:
    """Find the folder for what we keep, beside napari's own settings; None if there is none."""
    file = _find_settings_file()
    return None if file is None else Path(file).parent / "napari-dip"


def _find_settings_file() -> Path | str | None:
    """File that napari keeps our settings in, or its own where it keeps none for plugins."""
    from napari.settings import get_settings

    try:
        from napari.settings import get_plugin_settings

        settings_file: Path | str | None = get_plugin_settings("napari-dip").config_path
    except (ImportError, KeyError, AttributeError):  # before 0.9, or the plugin is not known
        settings_file = get_settings().config_path
    return settings_file
