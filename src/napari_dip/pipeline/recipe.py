"""The recipe: all that repeating a run needs besides the pixels, as a value and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import shorten_repr
from napari_dip.io.integrity import parse_strict_json
from napari_dip.io.paths import describe_exception
from napari_dip.tasks import TASKS, Setting, Task

#: Raised by one whenever a recipe written before would be read differently.
SCHEMA = 1
#: What is wanted instead of a value, by pydantic's name for what is wrong with it. Other words of
#: pydantic's are plain enough.
_WANTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "bool_parsing": "yes or no",
}


class Common(BaseModel):
    """Settings that every task has, with how they are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Annotated[
        Literal["fast", "balanced", "best"],
        Setting(
            "Preset",
            "Fast for a first look, Balanced for daily work, Best for the figure in the paper: "
            "they differ in time, not in how the result is judged.",
            choices={"fast": "Fast", "balanced": "Balanced", "best": "Best"},
            advanced=False,
        ),
    ] = "balanced"
    seed: Annotated[
        Annotated[int, Field(ge=0, lt=2**31)],
        Setting(
            "Seed",
            "Start of the random numbers: the same seed gives the same pixels.",
            least=0,
            most=2**31 - 1,
        ),
    ] = 0
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Setting(
            "Device",
            "Where to compute. Automatic takes a graphics card if there is one.",
            choices={
                "auto": "Automatic",
                "cpu": "Processor",
                "cuda": "NVIDIA graphics card",
                "mps": "Apple graphics",
            },
        ),
    ] = "auto"
    restarts: Annotated[
        Annotated[int, Field(ge=1, le=64)] | None,
        Setting(
            "Repeats",
            "Independent fits that are averaged; their spread adds to the uncertainty. "
            "Empty: the preset's.",
            least=1,
            most=64,
            written="{:g} independent fits averaged",
        ),
    ] = None
    max_iterations: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | None,
        Setting(
            "Iterations at most",
            "Limit of each fit; it may stop earlier by itself. Empty: the preset's.",
            least=1,
            most=1_000_000,
        ),
    ] = None
    time_limit: Annotated[
        Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] | None,
        Setting(
            "Time limit",
            "Seconds after which the best picture so far is kept. Empty: none.",
            least=1,
            most=1e7,
            written="time limit of {:g} s",
        ),
    ] = None
    stacks: Annotated[
        Literal["auto", "planes", "volume"],
        Setting(
            "Stacks",
            "Whether the planes of a stack or movie are restored one by one, each beginning with "
            "what was learned from the one before, or together as one volume, where neighbouring "
            "planes help each other. Automatic: a volume for depth, one by one for time; for "
            "inpainting, together.",
            choices={"auto": "Automatic", "planes": "Plane by plane", "volume": "As a volume"},
        ),
    ] = "auto"
    tile: Annotated[
        Annotated[int, Field(ge=128, le=2**16)] | None,
        Setting(
            "Tile",
            "Pixels along a side of the parts that a large plane is restored in, one after "
            "another; they overlap and blend into each other. Empty: the whole at once, or as many "
            "parts as the memory asks for.",
            least=128,
            most=2**16,
            written="tiles of {:g} pixels along a side",
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "same"],
        Setting(
            "Result type",
            "A 32-bit float keeps all that was restored; 'As the input' rounds to its type.",
            choices={"float32": "32-bit float", "same": "As the input"},
        ),
    ] = "float32"


#: What a recipe has that asks for nothing in particular.
DEFAULTS = Common()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A task with its settings and those that all tasks have.

    Attributes
    ----------
    task : frozen dataclass, one of `TASKS`
    common : Common
    """

    task: Task
    common: Common = DEFAULTS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; settings left at their default are left out."""
        return {
            "schema": SCHEMA,
            "task": self.task.name,
            "settings": self.task.to_dict(),
            **self.common.model_dump(exclude_defaults=True),
        }

    def to_json(self) -> str:
        """As it is written to disk and into layers."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def with_common(self, **changes: Any) -> Recipe:
        """Return the same recipe with other common settings; checks them again."""
        return replace(self, common=_checked(Common, {**self.common.model_dump(), **changes}))


def make_recipe(task: str, /, **settings: Any) -> Recipe:
    """Build a recipe from settings by name, those of the task and the common ones mixed.

    Raises
    ------
    Refused
        If a setting does not exist, or its value is not allowed.
    """
    if task not in TASKS:
        raise Refused(
            refusal(
                "setting-wrong",
                field="task",
                value=shorten_repr(task),
                why="there is no such task",
                hint=f"Choose one of: {', '.join(TASKS)}.",
            )
        )
    common = {key: settings.pop(key) for key in list(settings) if key in Common.model_fields}
    return Recipe(_checked(TASKS[task], settings), _checked(Common, common))


def recipe_from_dict(raw: object, *, origin: str = "recipe") -> Recipe:
    """Read a recipe from plain JSON types.

    Raises
    ------
    Refused
        If it is not a recipe, comes from a newer program, or holds unknown settings.
    """
    if (
        not isinstance(raw, dict)
        or not isinstance(raw.get("settings", {}), dict)
        or "task" not in raw
    ):
        raise Refused(
            refusal("recipe-broken", path=origin, why="it does not name a task and its settings")
        )
    known = dict(raw)
    found = known.pop("schema", None)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise Refused(refusal("recipe-broken", path=origin, why="its schema version is missing"))
    if found > SCHEMA:
        raise Refused(refusal("recipe-newer", found=found, known=SCHEMA))
    task, settings = known.pop("task"), known.pop("settings", {})
    if clash := set(known) & set(settings):
        raise Refused(
            refusal("recipe-broken", path=origin, why=f"it gives {sorted(clash)[0]!r} twice")
        )
    return make_recipe(
        str(task), **{str(key): value for key, value in {**settings, **known}.items()}
    )


def recipe_from_json(text: str, *, origin: str = "recipe") -> Recipe:
    """Read a recipe from its JSON text; raises as `recipe_from_dict` does."""
    try:
        raw = parse_strict_json(text)
    except ValueError as error:
        raise Refused(
            refusal("recipe-broken", path=origin, why=describe_exception(error))
        ) from None
    return recipe_from_dict(raw, origin=origin)


def _checked(kind: type[Any], settings: dict[str, Any]) -> Any:
    numbers = [name for name, value in settings.items() if _is_truth_for_number(kind, name, value)]
    if numbers:  # pydantic takes yes for the number 1
        raise Refused(_wrong(numbers[0], settings[numbers[0]], "a number"))
    try:
        return kind(**settings)
    except ValidationError as error:
        raise Refused(_first_fault(kind, error)) from None


def _first_fault(kind: type[Any], error: ValidationError) -> Refusal:
    first = error.errors()[0]
    field = str(first["loc"][0])[:100] if first["loc"] else "?"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        own = [] if kind is Common else [one.name for one in fields(kind)]
        names = sorted({*own, *Common.model_fields})
        return refusal("setting-unknown", field=field, known=", ".join(names))
    if wanted := _WANTED.get(first["type"]):
        why = wanted.format(**first.get("ctx", {}))
    else:  # not to be formatted: it may hold braces of the user's
        why = first["msg"].removeprefix("Input should be ").replace("'", "")
    return _wrong(field, first["input"], why)


def _is_truth_for_number(kind: type[Any], name: str, value: object) -> bool:
    """Whether yes or no stands where a number does; by its name, since NumPy has one of its own."""
    if type(value).__name__ not in ("bool", "bool_") or name not in kind.__pydantic_fields__:
        return False
    annotation = kind.__pydantic_fields__[name].annotation
    kinds = {annotation, *(get_args(one)[0] for one in get_args(annotation) if get_args(one))}
    return not kinds.isdisjoint((int, float))


def _wrong(field: str, value: object, wanted: str) -> Refusal:
    return refusal(
        "setting-wrong",
        field=field,
        value=shorten_repr(value),
        why=f"it should be {wanted}",
        hint="Leave it out to use the default.",
    )
