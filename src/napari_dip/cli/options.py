"""Make the options of all commands from the typed fields of tasks and run settings.

A new task needs no code here. Values are passed on as text and validated by the recipe, so that
every interface reports the same error. The module also decides the order of options in the help.
"""

from __future__ import annotations

from importlib import import_module
from inspect import Parameter as Argument
from inspect import Signature
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from cyclopts import Group, Parameter

from napari_dip.pipeline.recipe import RunSettings
from napari_dip.tasks import TASKS, Setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_dip.explore.experiments import Experiment

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
#: Metavar in the help for each type of value.
_METAVARS: dict[Any, str] = {int: "WHOLE", float: "NUMBER", str: "TEXT"}
#: Help of the outputs besides the result.
EXTRA_FILES = {
    "uncertainty": "Save the standard deviation of each pixel as TIFF, in intensity units.",
    "residual": "Save the residual as TIFF: the input minus the predicted measurement.",
    "repeated": "Check by halves, and save as TIFF which share of fine detail came again: 1 all, "
    "0 nothing.",
    "null_image": "Run the null control, and save what it finds as TIFF.",
    "report": "Save the report of the run as JSON.",
    "recipe": "Save the recipe of the run as JSON; --from-recipe repeats it.",
    "save_network": "Save the fitted network: weights as .safetensors, or a .zip package of the "
    "BioImage Model Zoo.",
}
#: Settings that are no options of the experiment `features`: chosen per row, or useless for one
#: plane.
_EXCLUDED_SETTINGS = frozenset(
    ("network", "layer", "prior", "restarts", "time_limit", "stacks", "tile", "dtype")
)
_IMAGE_FORMATS = "TIFF, OME-TIFF, OME-Zarr, PNG or JPEG."


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
    metavar: str = "FILE",
    group: Group = FILES_GROUP,
    *,
    is_required: bool = False,
    **parameters: Any,
) -> Argument:
    """Return an option whose value stays text.

    Parameters
    ----------
    name, help_text : str
        Name in Python, and help.
    metavar : str
        Placeholder of the value in the help.
    group : Group
    is_required : bool
        Whether the option has no default.
    **parameters
        Further parameters of `cyclopts.Parameter`.
    """
    parameter = Parameter(help=help_text, metavar=metavar, group=group, **parameters)
    if is_required:
        return Argument(name, Argument.KEYWORD_ONLY, annotation=Annotated[str, parameter])
    hint = Annotated[str | None, parameter]
    return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=hint)


def make_output_option(help_text: str, metavar: str = "FOLDER") -> Argument:
    """Return the required option for the result of a command."""
    return make_option("output", help_text, metavar, is_required=True, name=("--output", "-o"))


def make_positional(name: str, metavar: str, help_text: str, kind: Any = None) -> Argument:
    """Return an argument that is recognised by its position; by default one value."""
    hint = Annotated[str, Parameter(name=metavar, help=help_text)]
    return Argument(name, kind or Argument.POSITIONAL_ONLY, annotation=hint)


def make_flag(
    name: str, help_text: str, /, group: Group = FILES_GROUP, **parameters: Any
) -> Argument:
    """Return an option without a value."""
    parameter = Parameter(
        help=help_text, negative=(), show_default=False, group=group, **parameters
    )
    hint = Annotated[bool, parameter]
    return Argument(name, Argument.KEYWORD_ONLY, default=False, annotation=hint)


_QUIET = make_flag("quiet", "Print nothing but errors.", COMMON_GROUP)
_VERBOSE = make_flag("verbose", "Print all notes on the result, not only its card.", COMMON_GROUP)
_OVERWRITE = make_flag("overwrite", "Replace files that exist.")
_AXES = make_option(
    "axes",
    "Names of the axes of IN, one letter each out of T, C, Z, Y, X and S (S = red, green, "
    "blue). Default: as the file says.",
    "LETTERS",
)
_NETWORK_FILE = make_option(
    "network_file",
    "Apply a network that was fitted to other files of the series (batch --joint-training) "
    "instead of fitting one to the image.",
)


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
    recipe_help = "Take the settings from this recipe; options on the command line override it."
    return [
        make_positional("image", "IN", f"The image: {_IMAGE_FORMATS}"),
        *extra_inputs,
        *([_NETWORK_FILE] if TASKS[task].spec.independent_settings else []),
        *_make_setting_arguments(TASKS[task], TASK_GROUP),
        *_make_setting_arguments(RunSettings, COMMON_GROUP),
        make_option("from_recipe", recipe_help, "FILE", COMMON_GROUP),
        _AXES,
    ]


def list_extra_outputs(task: str) -> dict[str, str]:
    """Return the help of each output besides the result, including those of the task."""
    outputs = TASKS[task].spec.extra_outputs.items()
    return EXTRA_FILES | {f"{name}_out": f"{text} Saved as TIFF." for name, text in outputs}


def make_output_arguments(task: str) -> list[Argument]:
    """Make the options for the outputs, and for interrupted and quiet runs."""
    keep_help = (
        "Keep the best image so far after this many iterations, as Ctrl-C or 'Stop and keep' "
        "did: repeats a run that was ended by hand."
    )
    return [
        make_output_option("The result, as .tif or .ome.zarr.", "OUT"),
        *(make_option(name, help_text) for name, help_text in list_extra_outputs(task).items()),
        make_option("keep_after", keep_help, "WHOLE", COMMON_GROUP),
        make_flag("resume", "Resume a run with this OUT where it was ended."),
        _OVERWRITE,
        _QUIET,
        _VERBOSE,
    ]


def make_batch_arguments() -> list[Argument]:
    """Make the arguments of the command `batch`; its extra inputs are those of all tasks."""
    extra_inputs = {
        task_input.name: task_input.help
        for task in TASKS.values()
        for task_input in task.spec.inputs[1:]
        if not task_input.is_repeated_exposure
    }
    images = "Images, folders of images, or patterns in quotes, such as 'data/*.tif'."
    return [
        make_positional("recipe", "RECIPE", "A recipe, as --recipe or the dock saves it."),
        make_positional("inputs", "IN", images, Argument.VAR_POSITIONAL),
        make_output_option("Folder of the results.", "OUTDIR"),
        *(
            make_option(name, f"{help_text} One image file for all of IN.")
            for name, help_text in extra_inputs.items()
        ),
        _AXES,
        make_flag(
            "joint_training",
            "Fit one network to up to 32 of the files first (series.network in OUTDIR), and "
            "apply it to each: for eight or more files of one microscope with the same settings.",
        ),
        _NETWORK_FILE,
        make_flag(
            "resume",
            "Resume the batch in OUTDIR: finished results that are intact are not repeated.",
        ),
        make_option(
            "workers",
            "Restore this many files at once, each in its own process on this computer.",
            "WHOLE",
            COMMON_GROUP,
        ),
        make_option(
            "scheduler",
            "Address of a running dask cluster, or its --scheduler-file: its workers restore the "
            "files, which they see under the same names.",
            "ADDRESS",
            COMMON_GROUP,
        ),
        make_option(
            "threads",
            "Maximum number of threads of each fit; the last digits of pixels depend on it. "
            "Default: as RECIPE sets, else the cores, shared by the workers.",
            "WHOLE",
            COMMON_GROUP,
        ),
        _QUIET,
    ]


def make_noise_arguments() -> list[Argument]:
    """Make the arguments of the command `noise`."""
    return [
        make_positional("image", "IN", f"The image to measure: {_IMAGE_FORMATS}"),
        _AXES,
        make_option("dark", "Frames without light, from which offset and read noise are measured."),
        make_option(
            "flat", "At least two frames of the same even light, from which the gain is measured."
        ),
        make_option("report", "Save all figures as JSON."),
        make_flag("overwrite", "Replace a report that exists."),
        make_flag("as_json", "Print all figures as JSON instead of sentences.", name="--json"),
    ]


def make_camera_maps_arguments() -> list[Argument]:
    """Make the arguments of the command `camera-maps`."""
    parameters: dict[str, Any] = {"consume_multiple": True, "negative": (), "show_default": False}
    dark = make_option(
        "dark",
        "Frames without light, as one stack or several files, to measure offset and noise.",
        "FILES",
        is_required=True,
        **parameters,
    )
    flat = make_option(
        "flat",
        "Frames of steady, even light, one stack for each of at least two levels, to "
        "measure the gain. Without them no gain map is made.",
        "FILES",
        **parameters,
    )
    dark, flat = (
        option.replace(annotation=Annotated[list[str], *get_args(option.annotation)[1:]])
        for option in (dark, flat.replace(default=()))
    )
    return [dark, flat, make_output_option("Folder of the maps."), _OVERWRITE, _QUIET]


#: Settings of *Deblur* that name a microscope to compare with.
_OPTICS_FIELDS = (
    "microscope",
    "na",
    "wavelength",
    "pixel_size",
    "z_step",
    "refractive_index",
    "excitation",
    "pinhole",
)


def make_psf_arguments() -> list[Argument]:
    """Make the arguments of the command `psf`."""
    settings = _make_setting_arguments(TASKS["deblur"], COMMON_GROUP)
    optics = {argument.name: argument for argument in settings}
    text = "Diameter of the beads in nanometres, which is taken out of the PSF. Default: 0."
    bead_diameter = make_option("bead_diameter", text, "VALUE", show_default=False)
    bead_diameter = bead_diameter.replace(default=0.0)
    return [
        make_positional("image", "IN", f"One plane or Z stack of beads: {_IMAGE_FORMATS}"),
        make_output_option("The PSF, as TIFF or OME-Zarr; a figure is saved beside it.", "FILE"),
        _AXES,
        bead_diameter.replace(annotation=Annotated[float, *get_args(bead_diameter.annotation)[1:]]),
        make_flag(
            "field",
            "The PSF changes over the field: save rows and columns of PSFs, which deblur takes as "
            "they are. Beads must lie in all parts of the field.",
            COMMON_GROUP,
        ),
        make_option("report", "Save widths, errors and positions of the beads as JSON."),
        *(optics[name] for name in _OPTICS_FIELDS),
        _OVERWRITE,
        _QUIET,
    ]


#: Options that only some experiments have.
_EXPERIMENT_OPTIONS = (
    make_option(
        "only",
        "Architectures to compare with the preset's, with commas between. Default: all.",
        "NAMES",
        COMMON_GROUP,
    ),
    make_option(
        "architecture",
        "Another network than the preset's: one of 'explore architectures', such as no-skips, "
        "lipschitz-2 (any bound) or decoder+lipschitz-2+upsampling-0.5. Default: preset.",
        "NAME",
        COMMON_GROUP,
    ),
    make_option("truth", "The same image without noise: tells how good each estimate is."),
)


def make_explore_arguments(experiment: Experiment) -> list[Argument]:
    """Make the arguments of an experiment."""
    is_features = "network" in experiment.settings
    group = DEFAULT_GROUP if is_features else COMMON_GROUP
    count = str(experiment.iterations or "the preset's")
    crop_help = "Pixels along a side: of a larger image only the middle is used. Default: "
    preset_help = "Whose network is fitted: fast, balanced or best. Default: fast."
    run_arguments = _make_setting_arguments(RunSettings, COMMON_GROUP)
    arguments = [
        make_positional("image", "IN", f"The image: one plane, as {_IMAGE_FORMATS}"),
        make_output_option("Folder of the page, the images and the tables."),
        *(_make_network_arguments() if is_features else []),
        *(argument for argument in run_arguments if argument.name in ("seed", "device")),
        make_option("preset", preset_help, "NAME", COMMON_GROUP),
        make_option("max_iterations", f"Of each fit. Default: {count}.", "WHOLE", group),
        make_option("crop", f"{crop_help}{experiment.crop}.", "WHOLE", group),
        _AXES,
        *(option for option in _EXPERIMENT_OPTIONS if option.name in experiment.settings),
        _OVERWRITE,
        _QUIET,
    ]
    if is_features:
        task_arguments = _make_setting_arguments(TASKS["invert-features"], TASK_GROUP)
        arguments += [each for each in task_arguments if each.name not in _EXCLUDED_SETTINGS]
    return arguments


def _make_network_arguments() -> list[Argument]:
    """Make the arguments for the imported network of the experiment `features`."""
    text = "A program of torch.export (.pt2), or an architecture of torchvision."
    layers = "Paths of modules, with commas between. Default: five, from the first to the last."
    return [
        make_option("network", text, "FILE|NAME", DEFAULT_GROUP, is_required=True),
        make_option("layers", layers, "NAMES", DEFAULT_GROUP),
    ]


def _make_setting_arguments(settings_class: Any, group: Group) -> list[Argument]:
    """Make the options for the fields of a task or of the run settings."""
    fields = settings_class.__pydantic_fields__.items()
    return [_make_setting_argument(name, field, group) for name, field in fields]


def _make_setting_argument(name: str, field: Any, group: Group) -> Argument:
    setting = next(entry for entry in field.metadata if isinstance(entry, Setting))
    value_type, default, text = _get_value_type(field.annotation), field.default, setting.help
    if default not in (None, ""):
        default_text = {True: "yes", False: "no"}[default] if value_type is bool else default
        text = f"{text} Default: {default_text}."
    if value_type is bool:
        hint: Any = Annotated[bool | None, Parameter(help=text, group=group)]
        return Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=hint)
    # pass the text on: the recipe validates it, and the parser must not round 1.5
    if not setting.choices:
        return make_option(name, text, _METAVARS[value_type], group)
    names = list(setting.choices)
    if len("|".join(names)) <= MAX_CHOICES_LENGTH:
        return make_option(name, text, "|".join(names), group)
    return make_option(name, f"{text} One of: {', '.join(names)}.", "NAME", group)


def _get_value_type(hint: Any) -> Any:
    """Return a type without its limits, and without None or further types that it may have."""
    while get_origin(hint) in (Annotated, Union, UnionType):
        hint = get_args(hint)[0]
    return hint
