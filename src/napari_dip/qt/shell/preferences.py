"""The plugin's page and keys in napari's preferences, and the folder of the saved settings."""

from __future__ import annotations

import json
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import DipError, RefusedError
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import make_folder, make_folder_refusal, resolve_target
from napari_dip.io.writing import write_text
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.recipe import PRESET_LABELS, load_task_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.recipe import Recipe

#: Devices by their labels in `napari.yaml`, with their names in a recipe.
DEVICES = {"CPU": "cpu", "NVIDIA GPU": "cuda", "Apple GPU": "mps"}
#: Keys in napari: name of the action in the dock in sight, what it does, and the key at first.
#: Users change them in napari's preferences.
KEYS = {
    "run": ("run", "Alt-R"),
    "stop": ("stop and keep", "Alt-S"),
    "fade": ("switch between input and result", "Alt-X"),
    "swipe": ("show or hide the swipe line", "Alt-C"),
    "earlier": ("show an earlier image of the history", "Alt-,"),
    "later": ("show a later image of the history", "Alt-."),
}
#: Maximum length of a name; it keeps file paths below the limit of Windows (260).
_MAX_NAME_LENGTH = 60
#: File of the keys of unfolded sections, a list in JSON.
_FOLDS_FILE = "unfolded.json"
#: Titles of sections by those that earlier versions saved.
_RENAMED_SECTIONS = {"Preview on a crop": "Crop"}
#: Characters, other than letters and digits, that all file systems accept.
_PUNCTUATION = frozenset(" ._-")
#: Device names that Windows reserves, with any suffix.
_RESERVED_WINDOWS_NAMES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


@cache
def register_keys(press: Callable[[str, Any], None]) -> None:
    """Register the keys with napari, which lists them in its preferences.

    Parameters
    ----------
    press : callable
        Called with the name of the action and the viewer.
    """
    from napari.components import ViewerModel
    from napari.settings import get_settings
    from napari.utils.action_manager import action_manager

    for name, (text, key) in KEYS.items():
        action = f"napari-dip:{name}"
        command = partial(press, name)
        command.__name__ = action  # type: ignore[attr-defined]  # napari reads it
        description = f"Deep Image Prior: {text} (dock in sight)"
        action_manager.register_action(action, command, description, ViewerModel)
        if action not in get_settings().shortcuts.shortcuts:  # else it was changed
            action_manager.bind_shortcut(action, key)


def read_preferences(name: str) -> Any:
    """Return a page of the plugin's preferences; None if the plugin is not registered with napari.

    Parameters
    ----------
    name : str
        "computing" or "layers".
    """
    try:
        from napari.settings import get_plugin_settings

        return getattr(get_plugin_settings("napari-dip"), name)
    except (KeyError, AttributeError):
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
    devices = tuple(sorted(machine.devices, key=lambda device: device != preferred_device))
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
    return preset if preset in PRESET_LABELS else ""


def get_scheduler() -> str:
    """Return the address of the dask scheduler that computes the runs; "" for this computer."""
    return str(getattr(read_preferences("computing"), "scheduler", "")).strip()


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
    from napari.settings import get_settings

    file: Path | str | None
    try:
        from napari.settings import get_plugin_settings

        file = get_plugin_settings("napari-dip").config_path
    except (KeyError, AttributeError):  # the plugin is not registered
        file = get_settings().config_path
    return None if file is None else Path(file).parent / "napari-dip"


def is_section_unfolded(key: str) -> bool:
    """Return whether a section of a dock was unfolded when it was last used."""
    return key in _read_unfolded()


def save_fold(key: str, is_unfolded: bool) -> None:
    """Save whether a section is unfolded; errors are ignored, since nothing depends on it."""
    folder, unfolded = find_settings_folder(), _read_unfolded() - {key}
    if folder is not None:
        with suppress(DipError, OSError):
            make_folder(folder, makes_parents=True)
            text = json.dumps(sorted(unfolded | ({key} if is_unfolded else set())))
            write_text(resolve_target(folder / _FOLDS_FILE), text, overwrite=True)


def _read_unfolded() -> set[str]:
    folder = find_settings_folder()
    if folder is None:
        return set()
    with suppress(OSError, ValueError, TypeError, AttributeError):
        keys = json.loads((folder / _FOLDS_FILE).read_text(encoding="utf-8"))
        parts = (key.split("/", 1) for key in keys)
        return {f"{dock}/{_RENAMED_SECTIONS.get(title, title)}" for dock, title in parts}
    return set()


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRecipeFolder:
    """Store the settings of one task as recipes in JSON.

    Attributes
    ----------
    folder : Path or None
        Created when first needed; None: settings cannot be saved.
    task : str
        Key in `TASKS`.
    """

    folder: Path | None
    task: str

    def list_names(self) -> tuple[str, ...]:
        """Return the names of the presets in alphabetical order."""
        with suppress(OSError, RefusedError):
            presets = self._get_path("presets", self.task).glob("*.json")
            return tuple(sorted((path.stem for path in presets), key=str.casefold))
        return ()

    def save(self, name: str, recipe: Recipe) -> str:
        """Save a recipe as a preset, and return the name as it is listed.

        Raises
        ------
        RefusedError
            If the name is invalid or exists, or there is no folder.
        FailedError
            If the file cannot be written.
        """
        preset_name = _normalise_preset_name(name)
        if preset_name.casefold() in {name.casefold() for name in self.list_names()}:
            raise RefusedError("preset-exists", name=preset_name)
        path = self._get_path("presets", self.task, f"{preset_name}.json")
        self._write(path, recipe, overwrite=False)
        return preset_name

    def load(self, name: str) -> Recipe:
        """Return the recipe of a preset.

        Raises
        ------
        RefusedError
            If there is no preset of that name, or its file is damaged, newer, or of another task.
        """
        return load_task_recipe(self._find_preset(name), self.task)

    def delete(self, name: str) -> None:
        """Delete a preset.

        Raises
        ------
        RefusedError
            If there is no preset of that name, or its file cannot be deleted.
        """
        path = self._find_preset(name)
        try:
            path.unlink()
        except OSError as error:
            raise RefusedError(make_folder_refusal(path.parent, error)) from None

    def save_last(self, recipe: Recipe) -> None:
        """Save the settings of a run that starts; raise errors as `save` does."""
        self._write(self._get_path("last", f"{self.task}.json"), recipe, overwrite=True)

    def load_last(self) -> Recipe | None:
        """Return the settings of the last run; None if they cannot be read."""
        try:
            return load_task_recipe(self._get_path("last", f"{self.task}.json"), self.task)
        except DipError:
            return None

    def _write(self, path: Path, recipe: Recipe, *, overwrite: bool) -> None:
        make_folder(path.parent, makes_parents=True)
        write_text(resolve_target(path), recipe.to_json(), overwrite=overwrite)

    def _find_preset(self, name: str) -> Path:
        if name not in self.list_names():
            raise RefusedError("preset-missing", name=name)
        return self._get_path("presets", self.task, f"{name}.json")

    def _get_path(self, *names: str) -> Path:
        """Return a path in the folder; raise `RefusedError` if there is none."""
        if self.folder is None:
            raise RefusedError("preset-folder-missing")
        return self.folder.joinpath(*names)


def _normalise_preset_name(name: str) -> str:
    """Return the normalised name of a preset, or raise RefusedError if it is no valid file name."""
    preset_name = unicodedata.normalize("NFC", " ".join(name.split()))
    invalid = [each for each in preset_name if not each.isalnum() and each not in _PUNCTUATION]
    why = ""
    if not preset_name:
        why = "it is empty"
    elif invalid:
        why = f"file names cannot hold '{make_printable(invalid[0])}' everywhere"
    elif preset_name.startswith(".") or preset_name.endswith("."):
        why = "it begins or ends with a dot"
    elif preset_name.partition(".")[0].strip().casefold() in _RESERVED_WINDOWS_NAMES:
        why = "Windows keeps that name for itself"
    elif len(preset_name) > _MAX_NAME_LENGTH:
        why = f"it has {len(preset_name)} letters, and {_MAX_NAME_LENGTH} is the most"
    if why:
        raise RefusedError("preset-name", name=preset_name[:_MAX_NAME_LENGTH], why=why)
    return preset_name
