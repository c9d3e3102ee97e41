"""The plugin's page in napari's preferences, and the folder for the user's own files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.reproduce.saved_settings import SavedRecipeFolder

if TYPE_CHECKING:
    from napari_dip.pipeline.machine import Machine

#: Devices by their labels in `napari.yaml`, with their names in a recipe.
DEVICES = {"CPU": "cpu", "NVIDIA GPU": "cuda", "Apple GPU": "mps"}
PRESETS = ("fast", "balanced", "best")


def read_preferences(name: str) -> Any:
    """Return a page of the plugin's preferences; None if there is none, as before napari 0.9.

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
    """Return this computer, limited to what the preferences allow."""
    return limit_machine(detect_machine(), read_preferences("computing"))


def limit_machine(machine: Machine, preferences: Any) -> Machine:
    """Return a machine limited to the preferences, with the preferred device first.

    Parameters
    ----------
    machine : Machine
    preferences : object
        Has `device`, `memory` in GB and `threads`; 0 means no limit. None for no preferences.
    """
    if preferences is None:
        return machine
    preferred_device = DEVICES.get(preferences.device)
    devices = machine.devices
    if preferred_device in devices:
        devices = (preferred_device, *(device for device in devices if device != preferred_device))
    memory = round(1e9 * preferences.memory) or machine.memory_bytes
    return replace(
        machine,
        cores=min(machine.cores, preferences.threads or machine.cores),
        memory_bytes=min(machine.memory_bytes, memory),
        devices=devices,
    )


def get_default_preset() -> str:
    """Return the preset that docks begin with; "" for the preset of the last run."""
    preset = getattr(read_preferences("computing"), "preset", "")
    return preset if preset in PRESETS else ""


def open_saved_settings(task: str) -> SavedRecipeFolder:
    """Return the user's presets of a task, in the folder of napari's settings.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    return SavedRecipeFolder(folder=find_settings_folder(), task=task)


def find_settings_folder() -> Path | None:
    """Return the plugin's folder next to napari's settings; None if napari saves none."""
    file = _find_settings_file()
    return None if file is None else Path(file).parent / "napari-dip"


def _find_settings_file() -> Path | str | None:
    """Return the file of the plugin's settings, or of napari's own before napari 0.9."""
    from napari.settings import get_settings

    try:
        from napari.settings import get_plugin_settings

        settings_file: Path | str | None = get_plugin_settings("napari-dip").config_path
    except (ImportError, KeyError, AttributeError):  # before 0.9, or the plugin is not registered
        settings_file = get_settings().config_path
    return settings_file
