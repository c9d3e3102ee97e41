"""Recipe: the task and the settings that repeat a run, as a value and as JSON."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import warnings
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from textwrap import shorten
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_dip.errors import (
    Refusal,
    RefusedError,
    ask_if_meant,
    make_refusal,
    make_unknown_refusal,
)
from napari_dip.errors.templates import EXPECTED_VALUES, shorten_repr
from napari_dip.io.outputs import IMAGE_SUFFIXES
from napari_dip.io.paths import (
    MAX_SETTINGS_BYTES,
    describe_exception,
    is_zarr,
    parse_strict_json,
    read_small_text,
    stat_readable_file,
)
from napari_dip.tasks import TASKS, Setting, Task
from napari_dip.tasks.base import load_setting
from napari_dip.tasks.shared_settings import has_series

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

#: Version of the recipe format; it grows by one when an older recipe would be read differently.
#: Schema 2 has the names of docs/glossary.md, schema 3 no *Temporal smoothing* by default.
#: `recipe_from_dict` and `migrate_record` translate older ones, for one version of the program.
RECIPE_SCHEMA = 3
#: Old names of recipes, options and stored records, and defaults before schema 3.
OLD_NAMES: Mapping[str, Any] = tomllib.loads(
    Path(__file__).with_name("old_names.toml").read_text(encoding="utf-8")
)
#: New name of each setting that was renamed after schema 1, by task and old name.
OLD_SETTINGS: Mapping[str, Mapping[str, str]] = OLD_NAMES["settings"]
#: New value of each value that was renamed, by (task, setting in schema 2) and old value.
OLD_VALUES: Mapping[tuple[str, str], Mapping[str, str]] = {
    (task, setting): values
    for task, settings in OLD_NAMES["values"].items()
    for setting, values in settings.items()
}
#: New names of extra inputs and of the switch of a batch, by their names in schema 1.
OLD_INPUTS: Mapping[str, str] = OLD_NAMES["inputs"]
OLD_SWITCHES: Mapping[str, str] = OLD_NAMES["switches"]
#: New names of settings of the experiments, by their names in schema 1.
OLD_EXPERIMENT_SETTINGS: Mapping[str, str] = OLD_NAMES["experiments"]
#: Settings, by task, that recipes before schema 3 leave out where they have these values.
OLD_DEFAULTS: Mapping[str, dict[str, Any]] = OLD_NAMES["defaults"]
#: Names in a list of allowed values; shorter words, such as "or", are none.
_CHOICE_PATTERN = re.compile(r"[a-z][\w-]{2,}")

Preset = Literal["instant", "fast", "balanced", "best"]
#: Labels of the presets.
PRESET_LABELS = {"instant": "Instant", "fast": "Fast", "balanced": "Balanced", "best": "Best"}
DeviceSetting = Annotated[Literal["auto", "cpu", "cuda", "mps"], load_setting("device")]


class RunSettings(BaseModel):
    """Settings that all tasks have, with their labels and help texts."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    preset: Annotated[Preset, load_setting("preset", choices=PRESET_LABELS)] = "balanced"
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**31)], load_setting("seed")] = 0
    device: DeviceSetting = "auto"
    # larger computers than of 1024 cores are rare
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, load_setting("threads")] = None
    restarts: Annotated[Annotated[int, Field(ge=1, le=64)] | None, load_setting("restarts")] = None
    max_iterations: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None, load_setting("max_iterations")
    ] = None
    time_limit: Annotated[
        Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] | None,
        load_setting("time_limit"),
    ] = None
    stacks: Annotated[
        Literal["auto", "planes", "volume"], load_setting("stacks", relevant_when=has_series)
    ] = "auto"
    tile: Annotated[Annotated[int, Field(ge=128, le=2**16)] | None, load_setting("tile")] = None
    dtype: Annotated[Literal["float32", "same"], load_setting("dtype")] = "float32"
    halves: Annotated[bool, load_setting("halves")] = False
    null_control: Annotated[bool, load_setting("null_control")] = False


#: Run settings of a recipe that changes none of them.
DEFAULT_RUN_SETTINGS = RunSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A task with its settings, and the run settings that all tasks have.

    Attributes
    ----------
    task : frozen dataclass, one of `TASKS`
    run_settings : RunSettings
    """

    task: Task
    run_settings: RunSettings = DEFAULT_RUN_SETTINGS

    def __repr__(self) -> str:
        """Return the task, and the settings that differ from their defaults."""
        run_settings = self.run_settings.model_dump(exclude_defaults=True)
        settings = {**self.task.to_dict(), **run_settings}
        changes = "".join(f", {name}={value!r}" for name, value in settings.items())
        return f"<Recipe: {self.task.spec.name}{changes}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe in plain JSON types, without settings that have their default value."""
        return {
            "schema": RECIPE_SCHEMA,
            "task": self.task.spec.name,
            "settings": self.task.to_dict(),
            **self.run_settings.model_dump(exclude_defaults=True),
        }

    def to_json(self) -> str:
        """Return the recipe as JSON text, as in files and in the metadata of layers."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def replace_run_settings(self, **changes: Any) -> Recipe:
        """Return the recipe with changed run settings, which are validated."""
        settings = {**self.run_settings.model_dump(), **changes}
        return replace(self, run_settings=_validate_settings(RunSettings, settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingField:
    """A setting: its name in Python and recipes, type, default, limits, and how forms show it."""

    name: str
    annotation: Any
    default: Any
    setting: Setting
    limits: tuple[float | None, float | None]

    @property
    def choices(self) -> tuple[str, ...]:
        """Values that it may have; empty for numbers and texts."""
        return tuple(self.setting.choices or ())

    @property
    def help(self) -> str:
        """Description for the user."""
        return self.setting.help

    @property
    def values(self) -> str:
        """Choices, or type and limits, in a few words."""
        if self.choices:
            return ", ".join(self.choices)
        low, high = self.limits
        types = list_union_members(self.annotation)
        parts = [*(kind.__name__ for kind in types if kind is not NoneType)]
        parts += [] if low is None else [f"from {low:g}"]
        parts += [] if high is None else [f"to {high:g}"]
        return " ".join(parts)

    @property
    def is_optional(self) -> bool:
        """Whether the field may be empty."""
        return NoneType in list_union_members(self.annotation)

    @property
    def number_type(self) -> type[int] | type[float]:
        """The type of number behind an optional field."""
        return int if int in list_union_members(self.annotation) else float


def list_setting_fields(*models: Any) -> tuple[SettingField, ...]:
    """Return the settings of a task, or of models of pydantic, in their order."""
    return tuple(
        SettingField(
            name=name,
            annotation=info.annotation,
            default=info.default,
            setting=setting,
            limits=_get_limits(info),
        )
        for model in models
        for name, info in model.__pydantic_fields__.items()
        for setting in info.metadata
        if isinstance(setting, Setting)
    )


def _get_limits(field: FieldInfo) -> tuple[float | None, float | None]:
    """Return the least and the greatest value of a number setting, from its type.

    An excluded lower limit, such as 0 in ``Field(gt=0)``, counts as included.
    """
    members = (getattr(member, "__metadata__", ()) for member in get_args(field.annotation))
    constraints = (*field.metadata, *chain.from_iterable(members))
    limits = [
        limit
        for constraint in constraints
        for limit in getattr(constraint, "metadata", (constraint,))
    ]
    values = {
        name: getattr(limit, name)
        for limit in limits
        for name in ("ge", "gt", "le", "lt")
        if hasattr(limit, name)
    }
    upper = values["lt"] - 1 if "lt" in values else values.get("le")  # of whole numbers only
    return values.get("ge", values.get("gt")), upper


def list_union_members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, without the metadata of `Annotated`."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(
            member for argument in get_args(annotation) for member in list_union_members(argument)
        )
    return (getattr(annotation, "__origin__", annotation),)


class SettingTable(dict[str, SettingField]):
    """The settings of a task by name; printed, a table of names, defaults and values."""

    def __repr__(self) -> str:
        """Return one line for each setting."""
        return "\n".join(
            f"{field.name:20} {field.default!r:18} {shorten(field.values, 60)}"
            for field in self.values()
        )


def list_settings(task: str) -> SettingTable:
    """Return the settings of a task, those of all tasks last.

    Parameters
    ----------
    task : str
        As on the command line, such as "denoise" or "super-resolve".

    Returns
    -------
    SettingTable
        Mapping of names to fields with ``default``, ``choices``, ``limits`` and ``help``. Printed,
        it is a table.

    Examples
    --------
    >>> dip.list_settings("denoise")["preset"].choices
    ('instant', 'fast', 'balanced', 'best')
    """
    fields = list_setting_fields(_get_task_class(task), RunSettings)
    return SettingTable({field.name: field for field in fields})


def _get_task_class(task: str) -> Any:
    if task not in TASKS:
        raise RefusedError(
            "setting-wrong",
            field="task",
            value=shorten_repr(task),
            why="there is no such task",
            hint=f"{ask_if_meant(task, TASKS)}Choose one of: {', '.join(TASKS)}.",
        )
    return TASKS[task]


def make_recipe(task: str, /, **settings: Any) -> Recipe:
    """Build a recipe from settings by name; task and run settings may be mixed.

    Raises
    ------
    RefusedError
        If the task or a setting does not exist, or a value is not allowed.

    Examples
    --------
    >>> dip.make_recipe("denoise", preset="fast", max_iterations=200)
    <Recipe: denoise, preset='fast', max_iterations=200>
    """
    task_class = _get_task_class(task)
    settings, notes = rename_settings(task, settings)
    _warn_caller(notes)
    for name, value in settings.items():
        if isinstance(value, os.PathLike):
            settings[name] = os.fspath(value)
    run_settings = {
        key: settings.pop(key) for key in list(settings) if key in RunSettings.model_fields
    }
    return Recipe(
        task=_validate_settings(task_class, settings),
        run_settings=_validate_settings(RunSettings, run_settings),
    )


def recipe_from_dict(raw: object, *, origin: str = "recipe") -> Recipe:
    """Read a recipe from plain JSON types, also from the report of a run, which holds its recipe.

    Raises
    ------
    RefusedError
        If it is not a recipe, comes from a newer program, or holds unknown settings.
    """
    raw = raw["recipe"] if isinstance(raw, dict) and "recipe" in raw else raw
    if (
        not isinstance(raw, dict)
        or not isinstance(raw.get("settings", {}), dict)
        or "task" not in raw
    ):
        raise RefusedError(
            "recipe-broken", path=origin, why="it does not name a task and its settings"
        )
    fields = dict(raw)
    schema = fields.pop("schema", None)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise RefusedError("recipe-broken", path=origin, why="its schema version is missing")
    if schema > RECIPE_SCHEMA:
        raise RefusedError("recipe-newer", actual=schema, newest=RECIPE_SCHEMA)
    task, settings = str(fields.pop("task")), fields.pop("settings", {})
    settings, _ = rename_settings(task, {str(key): setting for key, setting in settings.items()})
    settings = (OLD_DEFAULTS.get(task, {}) if schema < RECIPE_SCHEMA else {}) | settings
    if clash := set(fields) & set(settings):
        raise RefusedError("recipe-broken", path=origin, why=f"it gives {sorted(clash)[0]!r} twice")
    return make_recipe(task, **settings, **{str(key): value for key, value in fields.items()})


def rename_settings(
    task: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Translate the settings of a task from schema 1 to the present names and values.

    Parameters
    ----------
    task : str
    settings : mapping of str to object
        By their present names or those of schema 1.

    Returns
    -------
    settings : dict
    notes : tuple of str
        One sentence for each name or value that was translated.

    Raises
    ------
    RefusedError
        If a setting occurs under both its old and its new name.
    """
    renamed, notes = rename_keys(settings, OLD_SETTINGS.get(task, {}))
    for name, value in renamed.items():
        new_value = OLD_VALUES.get((task, name), {}).get(value) if isinstance(value, str) else None
        if new_value is not None:
            renamed[name] = new_value
            notes = (*notes, f"The value '{value}' of '{name}' is called '{new_value}' now.")
    return renamed, notes


def rename_keys(
    values_by_name: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Replace old keys by new ones; returns and raises as `rename_settings` does."""
    for old, new in names.items():
        if old in values_by_name and new in values_by_name:
            why = f"'{new}' is another name of it and stands there as well"
            value, hint = shorten_repr(values_by_name[old]), f"Leave '{old}' out."
            raise RefusedError("setting-wrong", field=old, value=value, why=why, hint=hint)
    renamed = [old for old in values_by_name if old in names]
    notes = tuple(f"'{old}' is called '{names[old]}' now." for old in renamed)
    return {names.get(key, key): value for key, value in values_by_name.items()}, notes


def accept_old_names(values_by_name: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename old keywords of a Python function, with a `FutureWarning` for each."""
    renamed, notes = rename_keys(values_by_name, names)
    _warn_caller(notes)
    return renamed


def _warn_caller(notes: tuple[str, ...]) -> None:
    """Warn of old names at the line that called this package."""
    level, frame = 1, sys._getframe()  # noqa: SLF001 - the documented way to the frames
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("napari_dip."):
        level, frame = level + 1, frame.f_back
    for note in notes:
        warnings.warn(note, FutureWarning, stacklevel=level)


def recipe_from_json(text: str, *, origin: str = "recipe") -> Recipe:
    """Read a recipe from JSON text; raises as `recipe_from_dict` does.

    Examples
    --------
    >>> recipe = dip.make_recipe("inpaint", grow=2)
    >>> dip.recipe_from_json(recipe.to_json()) == recipe
    True
    """
    try:
        raw = parse_strict_json(text)
    except ValueError as error:
        raise RefusedError("recipe-broken", path=origin, why=describe_exception(error)) from None
    return recipe_from_dict(raw, origin=origin)


def load_task_recipe(path: str | os.PathLike[str], task: str) -> Recipe:
    """Return the recipe in a file; raise `RefusedError` if it is of another task."""
    recipe = load_recipe(path)
    if recipe.task.spec.name != task:
        facts = {"actual": recipe.task.spec.name, "wanted": task}
        raise RefusedError("recipe-task", path=path, **facts)
    return recipe


def load_recipe(recipe: object) -> Recipe:
    """Return a recipe, given as one, as JSON text, as a mapping, or as the path of a file.

    The file may be a recipe, a report, or a result, which holds the recipe of its run.

    Raises
    ------
    RefusedError
        If it cannot be read or is not a recipe.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and recipe.lstrip().startswith("{"):
        return recipe_from_json(recipe)
    if not isinstance(recipe, str | os.PathLike):
        return recipe_from_dict(recipe)
    path = os.fspath(recipe)
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        return recipe_from_dict(_read_result_record(path), origin=path)
    try:
        text = read_small_text(path, "a recipe", MAX_SETTINGS_BYTES)
    except ValueError as error:
        raise RefusedError("recipe-broken", path=path, why=describe_exception(error)) from None
    return recipe_from_json(text, origin=path)


def _read_result_record(path: str) -> dict[str, Any]:
    """Return what a result says of its run; raise `RefusedError` if it says nothing."""
    from napari_dip.io.reading import read_provenance

    if not is_zarr(Path(path)):
        stat_readable_file(path)
    with suppress(Exception):  # not a TIFF, or written by another program
        if (record := read_provenance(path)) is not None:
            return record
    why = "it is an image that does not say how it was made"
    raise RefusedError("recipe-broken", path=path, why=why)


def _validate_settings(kind: type[Any], settings: dict[str, Any]) -> Any:
    numbers = [name for name, value in settings.items() if _is_bool_for_number(kind, name, value)]
    if numbers:  # pydantic accepts True as the number 1
        raise RefusedError(_make_setting_refusal(numbers[0], settings[numbers[0]], "a number"))
    try:
        return kind(**settings)
    except ValidationError as error:
        raise RefusedError(_make_validation_refusal(kind, error)) from None


def _make_validation_refusal(kind: type[Any], error: ValidationError) -> Refusal:
    first = error.errors()[0]
    field = str(first["loc"][0])[:100] if first["loc"] else "?"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        task_settings = [] if kind is RunSettings else [field.name for field in fields(kind)]
        inputs = [] if kind is RunSettings else [item.name for item in kind.spec.inputs]
        names = sorted({*task_settings, *RunSettings.model_fields})
        return make_unknown_refusal(field, names, (*names, *inputs, "axes", "progress"))
    if expected := EXPECTED_VALUES.get(first["type"]):
        why = expected.format(**first.get("ctx", {}))
    else:  # not formatted: it may contain braces from the user
        why = first["msg"].removeprefix("Input should be ").replace("'", "")
    hint = ask_if_meant(first["input"], _CHOICE_PATTERN.findall(why)).strip()
    return _make_setting_refusal(field, first["input"], why, hint)


def _is_bool_for_number(kind: type[Any], name: str, value: object) -> bool:
    """Return whether a number setting got a bool; by type name, to include NumPy's bool."""
    if type(value).__name__ not in ("bool", "bool_") or name not in kind.__pydantic_fields__:
        return False
    types = list_union_members(kind.__pydantic_fields__[name].annotation)
    return int in types or float in types


def _make_setting_refusal(field: str, value: object, expected: str, hint: str = "") -> Refusal:
    return make_refusal(
        "setting-wrong",
        field=field,
        value=shorten_repr(value),
        why=f"it should be {expected}",
        hint=hint or "Leave it out to use the default.",
    )
