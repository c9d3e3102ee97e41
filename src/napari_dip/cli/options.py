"""Make the options of all commands from the typed fields of tasks and run settings.

A new task needs no code here. Values are passed on as text and validated by the recipe, so that
every interface reports the same error. The module also decides the order of options in the help.
"""

from __future__ import annotations

from inspect import Parameter as Argument
from inspect import Signature
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from cyclopts import Group, Parameter

from napari_dip.pipeline.recipe import RunSettings
from napari_dip.tasks import TASKS, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

FIRST_GROUP = Group("Used most", sort_key=0)
#: Names in the group "Used most", in the order of the help.
MOST_USED = ("output", "preset", "overwrite", "axes", "max_iterations")
#: Maximum length of the choices after an option. In a terminal of 80 columns, names get 30 letters,
#: and longer ones are broken anywhere.
MAX_CHOICES_LENGTH = 24
TASK_GROUP = Group("Settings of this task", sort_key=1)
COMMON_GROUP = Group("Settings of every task", sort_key=2)
FILES_GROUP = Group("Files", sort_key=3)
#: Metavar in the help for each type of value.
_METAVARS: dict[Any, str] = {int: "WHOLE", float: "NUMBER", str: "TEXT"}
#: Help of the outputs beside the result.
EXTRA_FILES = {
    "uncertainty": "Save the standard deviation of each pixel as TIFF, in intensity units.",
    "residual": "Save input minus what the detector would have seen of the result, as TIFF.",
    "report": "Save the report of the run as JSON.",
    "recipe": "Save the recipe of the run as JSON; --from-recipe repeats it.",
}
#: Task settings that are no options of the experiment: chosen per row, or useless for one plane.
_EXCLUDED_SETTINGS = (
    "network",
    "layer",
    "prior",
    "preset",
    "restarts",
    "time_limit",
    "stacks",
    "tile",
    "dtype",
)
#: Help of shared options whose meaning differs in this experiment.
_OPTION_HELP = {
    "crop": "Pixels along a side: of a larger image the middle is looked at. Default: 128.",
    "max_iterations": "Of each fit. Default: the preset's.",
}


def add_old_names(arguments: Sequence[Argument], names: Mapping[str, str]) -> list[Argument]:
    """Add the hidden options of recipes of schema 1.

    Parameters
    ----------
    arguments : sequence of Argument
    names : mapping of str to str
        Current names by the old ones.
    """
    hidden = Parameter(show=False)
    by_name = {argument.name: argument for argument in arguments}
    return [
        *arguments,
        *(
            by_name[new].replace(name=old, annotation=Annotated[by_name[new].annotation, hidden])
            for old, new in names.items()
            if new in by_name
        ),
    ]


def sort_arguments(arguments: Iterable[Argument]) -> list[Argument]:
    """Sort positional arguments first, as Python requires, then options by frequency of use."""
    return sorted(
        map(_assign_group, arguments), key=lambda item: (item.kind, _rank_option(item.name))
    )


def format_choices(text: str, values: Sequence[object]) -> tuple[str, str]:
    """Return the metavar of an option and its help, which lists the choices if there are many."""
    names = [str(value) for value in values]
    short = "|".join(names)
    return (
        (short, text)
        if len(short) <= MAX_CHOICES_LENGTH
        else ("NAME", f"{text} One of: {', '.join(names)}.")
    )


def _rank_option(name: str) -> int:
    return MOST_USED.index(name) if name in MOST_USED else len(MOST_USED)


def _assign_group(argument: Argument) -> Argument:
    if argument.name not in MOST_USED:
        return argument
    hint: Any = Annotated[argument.annotation, Parameter(group=FIRST_GROUP)]
    return argument.replace(annotation=hint)


def make_setting_arguments(task: str) -> list[Argument]:
    """Make the options for the settings of a task and those of every task."""
    task_arguments = [
        _make_setting_argument(name, hint, TASKS[task], TASK_GROUP)
        for name, hint in _iter_fields(TASKS[task])
    ]
    run_arguments = [
        _make_setting_argument(name, hint, RunSettings, COMMON_GROUP)
        for name, hint in _iter_fields(RunSettings)
    ]
    return task_arguments + run_arguments


def make_input_arguments(task: str) -> list[Argument]:
    """Make the arguments for the input images of a task: the first positional, others by name."""
    extra_inputs = TASKS[task].spec.inputs[1:]
    arguments = [_make_image_argument("The image: TIFF, OME-TIFF, OME-Zarr, PNG or JPEG.")]
    for extra_input in extra_inputs:
        help_text = f"{extra_input.help} An image file."
        if extra_input.optional:
            arguments.append(make_text_option(extra_input.name, help_text, "FILE", FILES_GROUP))
            continue
        parameter = Parameter(help=help_text, metavar="FILE", group=FILES_GROUP)
        kind = Argument.KEYWORD_ONLY
        arguments.append(Argument(extra_input.name, kind, annotation=Annotated[str, parameter]))
    return arguments + (
        [make_network_argument()] if "series_training" in TASKS[task].list_setting_names() else []
    )


def make_noise_arguments() -> list[Argument]:
    """Make the arguments of the command `noise`."""
    (axes,) = (argument for argument in make_recipe_arguments() if argument.name == "axes")
    return [
        _make_image_argument("The image to measure: TIFF, OME-TIFF, OME-Zarr, PNG or JPEG."),
        axes,
        make_text_option(
            "dark", "Frames without light, which tell offset and read noise.", "FILE", FILES_GROUP
        ),
        make_text_option(
            "flat", "Two frames or more of one even light: they tell the gain.", "FILE", FILES_GROUP
        ),
        make_text_option("report", "Save all figures as JSON.", "FILE", FILES_GROUP),
        make_flag("overwrite", "Replace a report that exists.", FILES_GROUP),
        make_flag("json", "Print all figures as JSON instead of sentences.", FILES_GROUP),
    ]


def make_camera_arguments() -> list[Argument]:
    """Make the arguments of the command `camera-maps`."""
    folder_option = Parameter(
        name=("--output", "-o"), help="Folder of the maps.", metavar="FOLDER", group=FILES_GROUP
    )
    help_texts = {
        "dark": "Frames without light, as one stack or several files: they tell offset and noise.",
        "flat": "Frames of steady, even light, one stack for each of two levels or more: they tell "
        "the gain. Without them no gain map is made.",
    }
    kind, file_list = Argument.KEYWORD_ONLY, list[str]
    dark, flat = (
        Parameter(
            help=help_text,
            metavar="FILES",
            group=FILES_GROUP,
            consume_multiple=True,
            negative=(),
            show_default=False,
        )
        for help_text in help_texts.values()
    )
    return [
        Argument("dark", kind, annotation=Annotated[file_list, dark]),
        Argument("flat", kind, default=(), annotation=Annotated[file_list, flat]),
        Argument("output", kind, annotation=Annotated[str, folder_option]),
        make_flag("overwrite", "Replace files that exist.", FILES_GROUP),
        make_flag("quiet", "Say nothing but errors.", COMMON_GROUP),
    ]


def make_explore_arguments(experiment: str) -> list[Argument]:
    """Make the arguments of an experiment."""
    help_text = "Folder of the page, the pictures and the tables."
    output = Parameter(name=("--output", "-o"), help=help_text, metavar="FOLDER", group=FILES_GROUP)
    (axes,) = (argument for argument in make_recipe_arguments() if argument.name == "axes")
    shared = ("seed", "device")
    help_text = "Whose network is fitted: fast, balanced or best. Default: fast."
    count, side = (300, 128) if experiment == "architectures" else (500, 256)
    arguments = [
        _make_image_argument("The image: one plane, as TIFF, OME-TIFF, OME-Zarr, PNG or JPEG."),
        Argument("output", Argument.KEYWORD_ONLY, annotation=Annotated[str, output]),
        *(
            _make_setting_argument(name, hint, RunSettings, COMMON_GROUP)
            for name, hint in _iter_fields(RunSettings)
            if name in shared
        ),
        make_text_option("preset", help_text, "NAME", COMMON_GROUP),
        make_text_option(
            "max_iterations", f"Of each fit. Default: {count}.", "WHOLE", COMMON_GROUP
        ),
        make_text_option(
            "crop",
            f"Pixels along a side: of a larger image the middle is looked at. Default: {side}.",
            "WHOLE",
            COMMON_GROUP,
        ),
        axes,
    ]
    if experiment == "architectures":
        help_text = "Architectures to compare with the preset's, with commas between. Default: all."
        arguments.append(make_text_option("only", help_text, "NAMES", COMMON_GROUP))
    elif experiment != "features":  # whose network is an imported one
        help_text = (
            "Another network than the preset's: one of 'explore architectures', such as "
            "no-skips, lipschitz-2 (any bound) or decoder+lipschitz-2+upsampling-0.5. Default: "
            "preset."
        )
        arguments.append(make_text_option("architecture", help_text, "NAME", COMMON_GROUP))
    if experiment in ("architectures", "spectrum"):
        help_text = "The same picture without noise: tells how good each estimate is."
        arguments.append(make_text_option("truth", help_text, "FILE", FILES_GROUP))
    arguments.append(make_flag("overwrite", "Replace files that exist.", FILES_GROUP))
    arguments.append(make_flag("quiet", "Say nothing but errors.", COMMON_GROUP))
    return arguments


def make_methods_arguments() -> list[Argument]:
    """Make the argument of the command `methods`."""
    help_text = "The result, as napari-dip saved it (TIFF), or the report of its run (JSON)."
    hint = Annotated[str, Parameter(name="RESULT", help=help_text)]
    return [Argument("result", Argument.POSITIONAL_ONLY, annotation=hint)]


def make_network_argument() -> Argument:
    """Make the option for a network that was fitted before."""
    help_text = (
        "Apply a network that was fitted to other files of the series (batch --joint-training) "
        "instead of fitting one to the image."
    )
    return make_text_option("network_file", help_text, "FILE", FILES_GROUP)


def make_recipe_arguments() -> list[Argument]:
    """Make the options for the recipe file and the axes."""
    return [
        make_text_option(
            "from_recipe",
            "Take the settings from this recipe; options given beside it win.",
            "FILE",
            COMMON_GROUP,
        ),
        make_text_option(
            "axes",
            "Names of the axes of IN, one letter each out of T, C, Z, Y, X and S (S = red, green, "
            "blue). Default: as the file says.",
            "LETTERS",
            FILES_GROUP,
        ),
    ]


def list_extra_outputs(task: str) -> dict[str, str]:
    """Return the help of each output beside the result, including those of the task."""
    entries = {
        f"{name}_out": f"{help_text} Saved as TIFF."
        for name, help_text in TASKS[task].spec.extra_outputs.items()
    }
    return {**EXTRA_FILES, **entries}


def make_output_arguments(task: str) -> list[Argument]:
    """Make the options for the outputs, and for interrupted and quiet runs."""
    parameter = Parameter(
        name=("--output", "-o"),
        help="The result, as .tif or .ome.zarr.",
        metavar="OUT",
        group=FILES_GROUP,
    )
    arguments = [Argument("output", Argument.KEYWORD_ONLY, annotation=Annotated[str, parameter])]
    files = list_extra_outputs(task).items()
    arguments += [
        make_text_option(name, help_text, "FILE", FILES_GROUP) for name, help_text in files
    ]
    label = (
        "Iterations after which the best picture so far is kept, as by Ctrl-C or 'Stop and keep': "
        "repeats a run that was ended so."
    )
    arguments.append(make_text_option("keep_after", label, "WHOLE", COMMON_GROUP))
    arguments.append(
        make_flag("resume", "Resume a run with this OUT where it was ended.", FILES_GROUP)
    )
    arguments.append(make_flag("overwrite", "Replace files that exist.", FILES_GROUP))
    arguments.append(make_flag("quiet", "Say nothing but errors.", COMMON_GROUP))
    return arguments


def make_flag(name: str, text: str, group: Group | None = None) -> Argument:
    """Return an option without a value."""
    groups = (group,) if group else ()
    parameter = Parameter(help=text, negative=(), show_default=False, group=groups)
    hint = Annotated[bool, parameter]
    return Argument(name, Argument.KEYWORD_ONLY, default=False, annotation=hint)


def make_command(function: Callable[..., int], arguments: list[Argument], text: str) -> Any:
    """Return a function with the signature and the help of a command."""

    def command(*places: Any, **options: Any) -> int:
        return function(*places, **options)

    command.__doc__ = text
    command.__signature__ = Signature(arguments)  # type: ignore[attr-defined]
    command.__annotations__ = {argument.name: argument.annotation for argument in arguments}
    return command


def _iter_fields(kind: Any) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    for name in kind.__pydantic_fields__:
        yield name, hints[name]


def _make_setting_argument(name: str, hint: Any, kind: Any, group: Group) -> Argument:
    base, *marks = get_args(hint)
    setting = next(mark for mark in marks if isinstance(mark, Setting))
    value_type = _strip_annotations(base)
    default = kind.__pydantic_fields__[name].default
    default_text = {True: "yes", False: "no"}[default] if value_type is bool else default
    help_text = (
        setting.help if default in (None, "") else f"{setting.help} Default: {default_text}."
    )
    if value_type is bool:
        annotation: Any = Annotated[bool | None, Parameter(help=help_text, group=group)]
    else:  # pass the text on: the recipe validates it, and the parser must not round 1.5
        values = (
            get_args(value_type) if get_origin(value_type) is Literal else (_METAVARS[value_type],)
        )
        metavar, help_text = format_choices(help_text, values)
        mark = Parameter(help=help_text, group=group, metavar=metavar)
        annotation = Annotated[str | None, mark]
    return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=annotation)


def _strip_annotations(hint: Any) -> Any:
    """Remove limits and None from a type."""
    if get_origin(hint) is Annotated:
        return _strip_annotations(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        kinds = [_strip_annotations(kind) for kind in get_args(hint) if kind is not NoneType]
        return kinds[0]
    return hint


def _make_image_argument(text: str) -> Argument:
    hint = Annotated[str, Parameter(name="IN", help=text)]
    return Argument("image", Argument.POSITIONAL_ONLY, annotation=hint)


def make_text_option(name: str, text: str, metavar: str, group: Group) -> Argument:
    """Return an option whose value stays text."""
    hint = Annotated[str | None, Parameter(help=text, metavar=metavar, group=group)]
    return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=hint)


def make_feature_arguments() -> list[Argument]:
    """Make the arguments of the experiment `features`."""
    shared = [_override_help(argument) for argument in make_explore_arguments("features")]
    existing = {*_EXCLUDED_SETTINGS, *(shared_argument.name for shared_argument in shared)}
    task_arguments = [
        argument
        for argument in make_setting_arguments("invert-features")
        if argument.name not in existing
    ]
    help_text = "A program of torch.export (.pt2), or an architecture of torchvision."
    network = Parameter(help=help_text, metavar="FILE|NAME")
    help_text = "Paths of modules, with commas between. Default: five, from the first to the last."
    layers = Parameter(help=help_text, metavar="NAMES")
    network_arguments = [
        Argument("network", Argument.KEYWORD_ONLY, annotation=Annotated[str, network]),
        Argument(
            "layers", Argument.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, layers]
        ),
    ]
    required = [
        shared_argument for shared_argument in shared if shared_argument.default is Argument.empty
    ]
    remaining = [
        shared_argument
        for shared_argument in shared
        if shared_argument.default is not Argument.empty
    ]
    return [*required, *network_arguments, *remaining, *task_arguments]


def _override_help(argument: Argument) -> Argument:
    """Replace the help of an option where `_OPTION_HELP` has another."""
    if argument.name not in _OPTION_HELP:
        return argument
    parameter = Parameter(help=_OPTION_HELP[argument.name], metavar="WHOLE")
    return argument.replace(annotation=Annotated[str | None, parameter])
