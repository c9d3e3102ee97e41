"""Options of the command for many files."""

from __future__ import annotations

from inspect import Parameter as Argument
from typing import Annotated

from cyclopts import Parameter

from napari_dip.cli.options import (
    COMMON_GROUP,
    FILES_GROUP,
    flag,
    network_argument,
    recipe_arguments,
    text,
)
from napari_dip.tasks import TASKS

ONE_NETWORK = (
    "Fit one network to up to 32 of the files first, series.network in OUTDIR, and show it each: "
    "for eight files or more of one microscope with the same settings."
)


def batch_arguments() -> list[Argument]:
    """Arguments of the command for many files; further inputs are those of all tasks."""
    recipe = Parameter(name="RECIPE", help="A recipe, as --recipe or the dock saves it.")
    images = Parameter(
        name="IN", help="Images, folders of images, or patterns in quotes, such as 'data/*.tif'."
    )
    output = Parameter(
        name=("--output", "-o"), help="Folder of the results.", metavar="OUTDIR", group=FILES_GROUP
    )
    inputs = [one for task in TASKS.values() for one in task.inputs[1:]]
    further = {one.name: one.help for one in inputs if not one.measures}
    (axes,) = (one for one in recipe_arguments() if one.name == "axes")
    words = "Go on with the batch in OUTDIR: what is done and still whole is left as it is."
    return [
        Argument("recipe", Argument.POSITIONAL_ONLY, annotation=Annotated[str, recipe]),
        Argument("inputs", Argument.VAR_POSITIONAL, annotation=Annotated[str, images]),
        Argument("output", Argument.KEYWORD_ONLY, annotation=Annotated[str, output]),
        *(
            text(name, f"{told} One image file for all of IN.", "FILE", FILES_GROUP)
            for name, told in further.items()
        ),
        axes,
        flag("one_network", ONE_NETWORK, FILES_GROUP),
        network_argument(),
        flag("resume", words, FILES_GROUP),
        *_worker_arguments(),
        flag("quiet", "Say nothing but errors.", COMMON_GROUP),
    ]


def _worker_arguments() -> list[Argument]:
    """Arguments for work that is shared between processes."""
    return [
        text(
            "workers",
            "Restore so many files at once, each in a process of its own on this computer.",
            "WHOLE",
            COMMON_GROUP,
        ),
        text(
            "scheduler",
            "Hand the files to the workers of a running dask cluster, which see them under the "
            "same names: its address, or the file of --scheduler-file.",
            "ADDRESS",
            COMMON_GROUP,
        ),
        text(
            "threads",
            "Most threads of each fit, which pixels depend on in their last digits. Default: the "
            "cores, shared by the workers.",
            "WHOLE",
            COMMON_GROUP,
        ),
    ]
