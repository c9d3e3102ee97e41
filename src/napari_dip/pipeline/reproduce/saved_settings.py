"""Settings that a user keeps: presets under names, and those of the last run of each task."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_dip.errors import DipError, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import make_folder, make_folder_refusal, resolve_target
from napari_dip.io.writing import write_text
from napari_dip.pipeline.api import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.pipeline.recipe import Recipe

#: Longest name: with it, the file's whole path stays below what Windows takes (260).
_MAX_NAME_LENGTH = 60
#: Signs beside letters and digits that file systems everywhere take.
_ALLOWED_PUNCTUATION = frozenset(" ._-")
#: What Windows keeps for devices, with any ending.
_RESERVED_WINDOWS_NAMES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{item}{n}" for item in ("com", "lpt") for n in range(10)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetFolder:
    """The settings kept for one task, each a recipe as JSON.

    Attributes
    ----------
    folder : Path or None
        Where they lie; made when first needed. None: nowhere, so nothing can be kept.
    task : str
        Key in `TASKS`.
    """

    folder: Path | None
    task: str

    def names(self) -> tuple[str, ...]:
        """List the presets, in the order of the alphabet."""
        if self.folder is None:
            return ()
        try:
            stems = [path.stem for path in self._presets(self.folder).glob("*.json")]
        except OSError:
            return ()
        return tuple(sorted(stems, key=str.casefold))

    def save(self, name: str, recipe: Recipe) -> str:
        """Keep a recipe under a name; gives the name back as it is listed.

        Raises
        ------
        Refused
            If the name cannot be a file's, is taken, or there is no folder.
        Failed
            If the disk does not take it.
        """
        plain = _normalise_preset_name(name)
        if plain.casefold() in {name.casefold() for name in self.names()}:
            raise Refused(refusal("preset-exists", name=plain))
        self._write(self._path(plain), recipe, overwrite=False)
        return plain

    def load(self, name: str) -> Recipe:
        """Read a preset.

        Raises
        ------
        Refused
            If there is none of that name, or its file is damaged, newer, or of another task.
        """
        self._find(name)
        return self._read(self._path(name))

    def delete(self, name: str) -> None:
        """Take a preset away.

        Raises
        ------
        Refused
            If there is none of that name, or the disk does not let it go.
        """
        self._find(name)
        path = self._path(name)
        try:
            path.unlink()
        except OSError as error:
            raise Refused(make_folder_refusal(path.parent, error)) from None

    def remember(self, recipe: Recipe) -> None:
        """Keep the settings of a run that begins; raises as `save` does."""
        self._write(self._last(), recipe, overwrite=True)

    def remembered(self) -> Recipe | None:
        """Give the settings of the last run, None if there are none that can be read."""
        try:
            return self._read(self._last())
        except DipError:
            return None

    def _read(self, path: Path) -> Recipe:
        recipe = load_recipe(path)
        if recipe.task.name != self.task:
            facts = {
                "path": make_printable(str(path)),
                "found": recipe.task.name,
                "wanted": self.task,
            }
            raise Refused(refusal("recipe-task", **facts))
        return recipe

    def _write(self, path: Path, recipe: Recipe, *, overwrite: bool) -> None:
        make_folder(path.parent, parents=True)
        write_text(resolve_target(path), recipe.to_json(), overwrite=overwrite)

    def _find(self, name: str) -> None:
        if name not in self.names():
            raise Refused(refusal("preset-missing", name=make_printable(name)))

    def _presets(self, folder: Path) -> Path:
        return folder / "presets" / self.task

    def _path(self, name: str) -> Path:
        return self._presets(self._home()) / f"{name}.json"

    def _last(self) -> Path:
        return self._home() / "last" / f"{self.task}.json"

    def _home(self) -> Path:
        if self.folder is None:
            raise Refused(refusal("preset-homeless"))
        return self.folder


def _normalise_preset_name(name: str) -> str:
    """Bring a name into the form that files have, or say why it cannot be one."""
    plain = unicodedata.normalize("NFC", " ".join(name.split()))
    strange = next(
        (item for item in plain if not (item.isalnum() or item in _ALLOWED_PUNCTUATION)), ""
    )
    why = ""
    if not plain:
        why = "it is empty"
    elif strange:
        why = f"file names cannot hold '{make_printable(strange)}' everywhere"
    elif plain.startswith(".") or plain.endswith("."):
        why = "it begins or ends with a dot"
    elif plain.partition(".")[0].strip().casefold() in _RESERVED_WINDOWS_NAMES:
        why = "Windows keeps that name for itself"
    elif len(plain) > _MAX_NAME_LENGTH:
        why = f"it has {len(plain)} letters, and {_MAX_NAME_LENGTH} is the most"
    if why:
        raise Refused(
            refusal("preset-name", name=make_printable(plain[:_MAX_NAME_LENGTH]), why=why)
        )
    return plain
