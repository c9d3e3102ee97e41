"""Options made from the typed fields of tasks: a new task needs no line here.

Values go on as the text that was typed. The recipe checks them, so that a wrong value meets
the same sentence from every door.

How the help reads: what most runs need comes first, and no word is broken.

Options of the comparison of layers: what it looks at, and the settings of the task behind it.
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
#: In the order in which the help names them.
MOST_USED = ("output", "preset", "overwrite", "axes", "max_iterations")
#: Letters that choices behind the name of an option may take: in a terminal of 80 columns names get
#: 30 of them, and what is longer is broken anywhere.
MAX_CHOICES_LENGTH = 24


def add_old_names(arguments: Sequence[Argument], names: Mapping[str, str]) -> list[Argument]:
    """Add options of schema 1 of the recipes, which `--help` does not show.

    Parameters
    ----------
    arguments : sequence of Argument
    names : mapping of str to str
        Names of today, by the old ones.
    """
    hidden = Parameter(show=False)
    today = {argument.name: argument for argument in arguments}
    return [
        *arguments,
        *(
            today[new].replace(name=old, annotation=Annotated[today[new].annotation, hidden])
            for old, new in names.items()
            if new in today
        ),
    ]


def sort_arguments(arguments: Iterable[Argument]) -> list[Argument]:
    """Put arguments that go by their place first, as Python wants them, then what is used most."""
    return sorted(
        map(_assign_group, arguments), key=lambda item: (item.kind, _rank_option(item.name))
    )


def format_choices(text: str, values: Sequence[object]) -> tuple[str, str]:
    """Give what stands behind the name of an option, and its text, which takes many choices."""
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


TASK_GROUP = Group("Settings of this task", sort_key=1)
COMMON_GROUP = Group("Settings of every task", sort_key=2)
FILES_GROUP = Group("Files", sort_key=3)
#: How the help calls the kinds of values.
_METAVARS: dict[Any, str] = {int: "WHOLE", float: "NUMBER", str: "TEXT"}
#: Files beside the result, with what they hold.
EXTRA_FILES = {
    "uncertainty": "Save the standard deviation of each pixel as TIFF, in intensity units.",
    "residual": "Save input minus what the detector would have seen of the result, as TIFF.",
    "report": "Save the report of the run as JSON.",
    "recipe": "Save the recipe of the run as JSON; --from-recipe repeats it.",
}


def make_setting_arguments(task: str) -> list[Argument]:
    """Keyword arguments for all settings of a task and those that every task has."""
    own = [
        _make_setting_argument(name, hint, TASKS[task], TASK_GROUP)
        for name, hint in _iter_fields(TASKS[task])
    ]
    shared = [
        _make_setting_argument(name, hint, RunSettings, COMMON_GROUP)
        for name, hint in _iter_fields(RunSettings)
    ]
    return own + shared


def make_input_arguments(task: str) -> list[Argument]:
    """Arguments for the images that a task takes: the first by its place, others by name."""
    others = TASKS[task].inputs[1:]
    arguments = [_make_image_argument("The image: TIFF, OME-TIFF, OME-Zarr, PNG or JPEG.")]
    for other in others:
        text = f"{other.help} An image file."
        if other.optional:
            arguments.append(make_text_option(other.name, text, "FILE", FILES_GROUP))
            continue
        mark = Parameter(help=text, metavar="FILE", group=FILES_GROUP)
        kind = Argument.KEYWORD_ONLY
        arguments.append(Argument(other.name, kind, annotation=Annotated[str, mark]))
    return arguments + (
        [make_network_argument()] if "series_training" in TASKS[task].setting_names() else []
    )


def make_noise_arguments() -> list[Argument]:
    """Arguments of the command that only measures."""
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
    """Arguments of the command that makes maps of a camera."""
    place = Parameter(
        name=("--output", "-o"), help="Folder of the maps.", metavar="FOLDER", group=FILES_GROUP
    )
    text = {
        "dark": "Frames without light, as one stack or several files: they tell offset and noise.",
        "flat": "Frames of steady, even light, one stack for each of two levels or more: they tell "
        "the gain. Without them no gain map is made.",
    }
    kind, some = Argument.KEYWORD_ONLY, list[str]
    dark, flat = (
        Parameter(
            help=facts,
            metavar="FILES",
            group=FILES_GROUP,
            consume_multiple=True,
            negative=(),
            show_default=False,
        )
        for facts in text.values()
    )
    return [
        Argument("dark", kind, annotation=Annotated[some, dark]),
        Argument("flat", kind, default=(), annotation=Annotated[some, flat]),
        Argument("output", kind, annotation=Annotated[str, place]),
        make_flag("overwrite", "Replace files that exist.", FILES_GROUP),
        make_flag("quiet", "Say nothing but errors.", COMMON_GROUP),
    ]


def make_explore_arguments(experiment: str) -> list[Argument]:
    """Arguments of an experiment: settings that fits have, and what it looks at."""
    text = "Folder of the page, the pictures and the tables."
    output = Parameter(name=("--output", "-o"), help=text, metavar="FOLDER", group=FILES_GROUP)
    (axes,) = (argument for argument in make_recipe_arguments() if argument.name == "axes")
    shared = ("seed", "device")
    text = "Whose network is fitted: fast, balanced or best. Default: fast."
    count, side = (300, 128) if experiment == "architectures" else (500, 256)
    arguments = [
        _make_image_argument("The image: one plane, as TIFF, OME-TIFF, OME-Zarr, PNG or JPEG."),
        Argument("output", Argument.KEYWORD_ONLY, annotation=Annotated[str, output]),
        *(
            _make_setting_argument(name, hint, RunSettings, COMMON_GROUP)
            for name, hint in _iter_fields(RunSettings)
            if name in shared
        ),
        make_text_option("preset", text, "NAME", COMMON_GROUP),
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
        text = "Architectures to compare with the preset's, with commas between. Default: all."
        arguments.append(make_text_option("only", text, "NAMES", COMMON_GROUP))
    elif experiment != "features":  # which has a network of another kind
        text = (
            "Another network than the preset's: one of 'explore architectures', such as "
            "no-skips, lipschitz-2 (any bound) or decoder+lipschitz-2+upsampling-0.5. Default: "
            "preset."
        )
        arguments.append(make_text_option("architecture", text, "NAME", COMMON_GROUP))
    if experiment in ("architectures", "spectrum"):
        text = "The same picture without noise: tells how good each estimate is."
        arguments.append(make_text_option("truth", text, "FILE", FILES_GROUP))
    arguments.append(make_flag("overwrite", "Replace files that exist.", FILES_GROUP))
    arguments.append(make_flag("quiet", "Say nothing but errors.", COMMON_GROUP))
    return arguments


def make_methods_arguments() -> list[Argument]:
    """Argument of the command that writes about a result."""
    text = "The result, as napari-dip saved it (TIFF), or the report of its run (JSON)."
    hint = Annotated[str, Parameter(name="RESULT", help=text)]
    return [Argument("result", Argument.POSITIONAL_ONLY, annotation=hint)]


def make_network_argument() -> Argument:
    """Argument for a network that was fitted before."""
    text = (
        "Apply a network that was fitted to other files of the series (batch --joint-training) "
        "instead of fitting one to the image."
    )
    return make_text_option("network_file", text, "FILE", FILES_GROUP)


def make_recipe_arguments() -> list[Argument]:
    """How the image and its recipe are read."""
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
    """Files beside the result: those of every task, and what this one finds along the way."""
    entries = {f"{name}_out": f"{text} Saved as TIFF." for name, text in TASKS[task].gives.items()}
    return {**EXTRA_FILES, **entries}


def make_output_arguments(task: str) -> list[Argument]:
    """Where results go, and how much is said meanwhile."""
    mark = Parameter(
        name=("--output", "-o"),
        help="The result, as .tif or .ome.zarr.",
        metavar="OUT",
        group=FILES_GROUP,
    )
    arguments = [Argument("output", Argument.KEYWORD_ONLY, annotation=Annotated[str, mark])]
    files = list_extra_outputs(task).items()
    arguments += [make_text_option(name, text, "FILE", FILES_GROUP) for name, text in files]
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
    mark = Parameter(help=text, negative=(), show_default=False, group=groups)
    hint = Annotated[bool, mark]
    return Argument(name, Argument.KEYWORD_ONLY, default=False, annotation=hint)


def make_command(function: Callable[..., int], arguments: list[Argument], text: str) -> Any:
    """Give a function the signature and the help that make a command of it."""

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
    plain = _strip_annotations(base)
    default = kind.__pydantic_fields__[name].default
    usual = {True: "yes", False: "no"}[default] if plain is bool else default
    text = setting.help if default in (None, "") else f"{setting.help} Default: {usual}."
    if plain is bool:
        annotation: Any = Annotated[bool | None, Parameter(help=text, group=group)]
    else:  # the text itself goes on: rounding 1.5 to a whole number is not for a parser to do
        values = get_args(plain) if get_origin(plain) is Literal else (_METAVARS[plain],)
        metavar, text = format_choices(text, values)
        mark = Parameter(help=text, group=group, metavar=metavar)
        annotation = Annotated[str | None, mark]
    return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=annotation)


def _strip_annotations(hint: Any) -> Any:
    """Strip limits and None off a type."""
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
    """Return an option with a value, as it was typed."""
    hint = Annotated[str | None, Parameter(help=text, metavar=metavar, group=group)]
    return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=hint)


#: Settings that the comparison chooses for each row, and those that fits of one plane do without.
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
#: How the options of experiments are called here.
_OPTION_HELP = {
    "crop": "Pixels along a side: of a larger image the middle is looked at. Default: 128.",
    "max_iterations": "Of each fit. Default: the preset's.",
}


def make_feature_arguments() -> list[Argument]:
    """Give the network and its layers, options that experiments have, and those of the task."""
    shared = [_override_help(argument) for argument in make_explore_arguments("features")]
    existing = {*_EXCLUDED_SETTINGS, *(item.name for item in shared)}
    own = [
        argument
        for argument in make_setting_arguments("invert-features")
        if argument.name not in existing
    ]
    text = "A program of torch.export (.pt2), or an architecture of torchvision."
    network = Parameter(help=text, metavar="FILE|NAME")
    text = "Paths of modules, with commas between. Default: five, from the first to the last."
    layers = Parameter(help=text, metavar="NAMES")
    named = [
        Argument("network", Argument.KEYWORD_ONLY, annotation=Annotated[str, network]),
        Argument(
            "layers", Argument.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, layers]
        ),
    ]
    selected = [item for item in shared if item.default is Argument.empty]
    remaining = [item for item in shared if item.default is not Argument.empty]
    return [*selected, *named, *remaining, *own]


def _override_help(argument: Argument) -> Argument:
    """Put the words in that hold here."""
    if argument.name not in _OPTION_HELP:
        return argument
    mark = Parameter(help=_OPTION_HELP[argument.name], metavar="WHOLE")
    return argument.replace(annotation=Annotated[str | None, mark])
