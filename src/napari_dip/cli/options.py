"""Make the options of all commands from the typed fields of tasks and run settings.

A new task needs no code here. Values are passed on as text and validated by the recipe, so that
every interface reports the same error. The module also decides the order of options in the help.
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from importlib import import_module
from inspect import Parameter as Argument
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from napari_dip.pipeline.recipe import RunSettings, list_setting_fields, list_union_members
from napari_dip.tasks import TASKS
from napari_dip.tasks.psf.psf_settings import OpticsSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_dip.explore.experiments import Experiment
    from napari_dip.pipeline.recipe import SettingField

FIRST_GROUP = Group("Used most", sort_key=0)
#: Names in the group "Used most", in the order of the help.
MOST_USED = ("output", "preset", "overwrite", "axes", "max_iterations")
#: Maximum length of the choices after an option. In a terminal of 80 columns, names get 30 letters,
#: and longer ones are broken anywhere.
MAX_CHOICES_LENGTH = 24
DEFAULT_GROUP = Group.create_default_parameters()
TASK_GROUP = Group("Settings of this task", sort_key=1)
COMMON_GROUP = Group("Settings of every task", sort_key=2)
FILES_GROUP = Group("Files", sort_key=3)
#: Groups by their names in `options.toml`.
_GROUPS = {"default": DEFAULT_GROUP, "common": COMMON_GROUP, "files": FILES_GROUP}
#: Metavar in the help for each type of value.
_METAVARS: dict[Any, str] = {int: "WHOLE", float: "NUMBER", str: "TEXT"}
#: Types and defaults of the values of options, by kind.
_VALUE_TYPES: dict[str, tuple[Any, Any]] = {
    "text": (str, None),
    "texts": (list[str], ()),
    "number": (float, 0.0),
    "flag": (bool, False),
}
#: Kinds of arguments that are recognised by their position.
_POSITIONS = {"position": Argument.POSITIONAL_ONLY, "positions": Argument.VAR_POSITIONAL}
#: Options for what a run can save besides its result.
EXTRA_FILES = (
    "uncertainty",
    "residual",
    "repeated",
    "null_image",
    "report",
    "recipe",
    "save_network",
)
_ARGUMENT_ROWS = tomllib.loads(Path(__file__).with_name("options.toml").read_text("utf-8"))
#: Help of the commands that are functions of `napari_dip.cli.commands`.
COMMAND_SUMMARIES: Mapping[str, str] = _ARGUMENT_ROWS["command_summaries"]
#: Settings that are no options of the experiment `features`: chosen per row, or useless for one
#: plane.
_EXCLUDED_SETTINGS = frozenset(
    ("network", "layer", "prior", "restarts", "time_limit", "stacks", "tile", "dtype")
)


def make_command(
    target: str, arguments: list[Argument], help_text: str, *first_arguments: str
) -> Any:
    """Return a function with the signature and the help of a command.

    Parameters
    ----------
    target : str
        Module of this package and function, such as "commands:run_batch_command"; it is imported
        when the command runs.
    arguments : list of Argument
    help_text : str
        Help of the command.
    *first_arguments : str
    """

    def command(*positional: Any, **options: Any) -> int:
        module, _, name = target.partition(":")
        function = getattr(import_module(f"napari_dip.cli.{module}"), name)
        code: int = function(*first_arguments, *positional, **options)
        return code

    command.__doc__ = help_text
    command.__signature__ = Signature(arguments)  # type: ignore[attr-defined]
    command.__annotations__ = {argument.name: argument.annotation for argument in arguments}
    return command


def make_option(
    name: str,
    help_text: str,
    /,
    metavar: str | None = "FILE",
    group: Group = FILES_GROUP,
    *,
    kind: str = "text",
    is_required: bool = False,
    **parameters: Any,
) -> Argument:
    """Return an option, whose value stays text unless its kind is another.

    Parameters
    ----------
    name, help_text : str
        Name in Python, and help.
    metavar : str or None
        Placeholder of the value in the help.
    group : Group
    kind : str
        Key of `_VALUE_TYPES`.
    is_required : bool
        Whether the option has no default.
    **parameters
        Further parameters of `cyclopts.Parameter`.
    """
    if kind == "flag":
        metavar = None
        parameters |= {"negative": (), "show_default": False}
    parameter = Parameter(help=help_text, metavar=metavar, group=group, **parameters)
    value_type, default = _VALUE_TYPES[kind]
    if is_required:
        return Argument(name, Argument.KEYWORD_ONLY, annotation=Annotated[value_type, parameter])
    hint: Any = Annotated[value_type | None if default is None else value_type, parameter]
    return Argument(name, Argument.KEYWORD_ONLY, default=default, annotation=hint)


def load_arguments(*keys: str) -> list[Argument]:
    """Return the arguments of rows of `options.toml`."""
    return [_load_argument(key) for key in keys]


def _load_argument(key: str) -> Argument:
    row = dict(_ARGUMENT_ROWS[key])
    name, help_text = row.pop("argument", key), row.pop("help")
    if (kind := row.get("kind")) in _POSITIONS:
        hint = Annotated[str, Parameter(name=row["metavar"], help=help_text)]
        return Argument(name, _POSITIONS[kind], annotation=hint)
    return make_option(name, help_text, group=_GROUPS[row.pop("group", "files")], **row)


def add_old_names(arguments: Sequence[Argument], names: Mapping[str, str]) -> list[Argument]:
    """Add the hidden options of recipes of schema 1.

    Parameters
    ----------
    arguments : sequence of Argument
    names : mapping of str to str
        Current names by the old ones.
    """
    hidden = Parameter(show=False)
    arguments_by_name = {argument.name: argument for argument in arguments}
    old_arguments = []
    for old, new in names.items():
        if (argument := arguments_by_name.get(new)) is not None:
            hint: Any = Annotated[argument.annotation, hidden]
            old_arguments.append(argument.replace(name=old, annotation=hint))
    return [*arguments, *old_arguments]


def sort_arguments(arguments: Iterable[Argument]) -> list[Argument]:
    """Sort positional arguments first, as Python requires, then options by frequency of use."""
    ranks = {name: rank for rank, name in enumerate(MOST_USED)}
    first = Parameter(group=FIRST_GROUP)
    regrouped = [
        each.replace(annotation=Annotated[each.annotation, first]) if each.name in ranks else each
        for each in arguments
    ]
    return sorted(regrouped, key=lambda each: (each.kind, ranks.get(each.name, len(ranks))))


def make_plan_arguments(task: str) -> list[Argument]:
    """Make the arguments for the inputs of a task, its settings and those of every task."""
    extra_inputs = [
        make_option(item.name, f"{item.help} An image file.", is_required=not item.is_optional)
        for item in TASKS[task].spec.inputs[1:]
    ]
    return [
        *load_arguments("image"),
        *extra_inputs,
        *(load_arguments("network_file") if TASKS[task].spec.independent_settings else []),
        *_make_setting_arguments(TASKS[task], TASK_GROUP),
        *_make_setting_arguments(RunSettings, COMMON_GROUP),
        *load_arguments("from_recipe", "axes"),
    ]


def list_extra_outputs(task: str) -> list[str]:
    """Return the options for each output besides the result, including those of the task."""
    return [*EXTRA_FILES, *(f"{name}_out" for name in TASKS[task].spec.extra_outputs)]


def make_output_arguments(task: str) -> list[Argument]:
    """Make the options for the outputs, and for interrupted and quiet runs."""
    return [
        *load_arguments("output", *EXTRA_FILES),
        *(
            make_option(f"{name}_out", f"{text} Saved as TIFF.")
            for name, text in TASKS[task].spec.extra_outputs.items()
        ),
        *load_arguments("keep_after", "resume", "overwrite", "quiet", "verbose"),
    ]


def make_batch_arguments() -> list[Argument]:
    """Make the arguments of the command `batch`; its extra inputs are those of all tasks."""
    extra_inputs = {
        task_input.name: task_input.help
        for task in TASKS.values()
        for task_input in task.spec.inputs[1:]
        if not task_input.is_repeated_exposure
    }
    return [
        *load_arguments("recipe_file", "inputs", "batch_folder"),
        *(
            make_option(name, f"{help_text} One image file for all of IN.")
            for name, help_text in extra_inputs.items()
        ),
        *load_arguments("axes", "joint_training", "network_file", "resume_batch"),
        *load_arguments("workers", "scheduler", "threads", "quiet"),
    ]


def make_psf_arguments() -> list[Argument]:
    """Make the arguments of the command `psf`."""
    settings = _make_setting_arguments(TASKS["deblur"], COMMON_GROUP)
    optics = {argument.name: argument for argument in settings}
    return [
        *load_arguments("image_of_beads", "psf_file", "axes"),
        *load_arguments("bead_diameter", "field", "save_bead_report"),
        *(optics[field.name] for field in fields(OpticsSettings)),
        *load_arguments("overwrite", "quiet"),
    ]


def make_explore_arguments(experiment: Experiment) -> list[Argument]:
    """Make the arguments of an experiment."""
    is_features = "network" in experiment.settings
    group = DEFAULT_GROUP if is_features else COMMON_GROUP
    count = str(experiment.iterations or "the preset's")
    crop_help = "Pixels along a side: of a larger image only the middle is used. Default: "
    run_arguments = _make_setting_arguments(RunSettings, COMMON_GROUP)
    optional = ("only", "architecture", "truth")
    arguments = [
        *load_arguments("image_to_explore", "experiment_folder"),
        *(load_arguments("network", "layers") if is_features else []),
        *(argument for argument in run_arguments if argument.name in ("seed", "device")),
        *load_arguments("preset"),
        make_option("max_iterations", f"Of each fit. Default: {count}.", "WHOLE", group),
        make_option("crop", f"{crop_help}{experiment.crop}.", "WHOLE", group),
        *load_arguments("axes", *(name for name in optional if name in experiment.settings)),
        *load_arguments("overwrite", "quiet"),
    ]
    if is_features:
        task_arguments = _make_setting_arguments(TASKS["invert-features"], TASK_GROUP)
        arguments += [each for each in task_arguments if each.name not in _EXCLUDED_SETTINGS]
    return arguments


def _make_setting_arguments(settings_class: Any, group: Group) -> list[Argument]:
    """Make the options for the fields of a task or of the run settings."""
    return [_make_setting_argument(field, group) for field in list_setting_fields(settings_class)]


def _make_setting_argument(field: SettingField, group: Group) -> Argument:
    name, default, text, choices = field.name, field.default, field.help, field.choices
    value_type = list_union_members(field.annotation)[0]
    if default not in (None, ""):
        default_text = {True: "yes", False: "no"}[default] if value_type is bool else default
        text = f"{text} Default: {default_text}."
    if value_type is bool:
        hint: Any = Annotated[bool | None, Parameter(help=text, group=group)]
        return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=hint)
    # pass the text on: the recipe validates it, and the parser must not round 1.5
    if not choices:
        return make_option(name, text, _METAVARS[value_type], group)
    if len("|".join(choices)) <= MAX_CHOICES_LENGTH:
        return make_option(name, text, "|".join(choices), group)
    return make_option(name, f"{text} One of: {', '.join(choices)}.", "NAME", group)
