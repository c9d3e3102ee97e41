"""Where napari lets a plugin keep what belongs to the user."""

from __future__ import annotations

from pathlib import Path

from napari_dip.run.saved_settings import Shelf


def shelf_of(task: str) -> Shelf:
    """Find the settings kept for a task: in the folder of napari's own settings.

    Parameters
    ----------
    task : str
        Key in `TASKS`.
    """
    return Shelf(home_folder(), task)


def home_folder() -> Path | None:
    """Find the folder for what we keep, beside napari's own settings; None if there is none."""
    file = _settings_file()
    return None if file is None else Path(file).parent / "napari-dip"


def _settings_file() -> Path | str | None:
    """File that napari keeps our settings in, or its own where it keeps none for plugins."""
    from napari.settings import get_settings

    try:
        from napari.settings import get_plugin_settings

        found: Path | str | None = get_plugin_settings("napari-dip").config_path
    except (ImportError, KeyError, AttributeError):  # before 0.9, or the plugin is not known
        found = get_settings().config_path
    return found
