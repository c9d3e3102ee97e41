"""`napari-dip batch RECIPE IN... -o OUTDIR`: all refusals first, then file after file.

Options of the command for many files.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from inspect import Parameter as Argument
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from napari_dip.cli.options import (
    COMMON_GROUP,
    FILES_GROUP,
    make_flag,
    make_network_argument,
    make_recipe_arguments,
    make_text_option,
)
from napari_dip.cli.progress import choose_reporter
from napari_dip.cli.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPT,
    EXIT_REFUSAL,
    EXIT_SUCCESS,
    PLAN_TIME_NOTE,
    Interrupt,
    print_message,
    print_result,
)
from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.events import drain_generator
from napari_dip.pipeline.recipe import OLD_INPUTS, OLD_SWITCHES, rename_keys
from napari_dip.scale.batch.plan import list_remaining_plans
from napari_dip.scale.batch_run import run_batch, summarise_batch_plan, summarise_batch_result
from napari_dip.scale.cluster.dask_cluster import plan_with_workers
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari_dip.errors import Refusal
    from napari_dip.pipeline.events import Control
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan, FileOutcome
    from napari_dip.scale.batch_run import BatchResult
    from napari_dip.scale.cluster.pool import DaskWorkerPool

_STOPPING_MESSAGE = "Stopping; all that is done is kept. Press Ctrl-C again to end at once."
_RESUME = "The same command with --resume continues from there."
_ABORT_MESSAGE = f"Ended at once; results that have a record are whole. {_RESUME}"


def run_batch_command(
    recipe: str,
    inputs: Sequence[str],
    *,
    output: str,
    axes: str | None = None,
    resume: bool = False,
    quiet: bool = False,
    workers: str | None = None,
    scheduler: str | None = None,
    threads: str | None = None,
    joint_training: bool = False,
    **others: str | None,
) -> int:
    """Carry out the command.

    Parameters
    ----------
    recipe : str
        Path of a recipe.
    inputs : sequence of str
        Files, folders, patterns.
    output : str
        Folder of the results.
    axes : str or None
        Names of the axes of each file, if not those that it says.
    resume, quiet, joint_training : bool
    workers, scheduler, threads : str or None
        As they were typed.
    **others : str or None
        Paths of further inputs, by name.

    Returns
    -------
    int
        0 if every file has a result, 1 if some have none, 2 if nothing was begun, 130 if it was
        interrupted.

    Raises
    ------
    Refused, Failed
        As `napari_dip.batch`.
    """
    values = {name: path for name, path in others.items() if path}
    values, notes = rename_keys(values, {**OLD_INPUTS, **OLD_SWITCHES})
    joint_training = bool(values.pop("joint_training", joint_training))
    if not quiet:
        for note in notes:
            print_message(note)
    how: dict[str, Any] = {"resume": resume, "axes": axes, "joint_training": joint_training}
    how |= {"workers": workers, "scheduler": scheduler, "threads": threads, "others": values}
    with plan_with_workers(recipe, inputs, output, **how) as (plan, staff):
        for source, no in plan.list_refused:
            print_message(_describe_file_refusal(source, no))
        if len(plan.list_refused) == len(plan.jobs):
            return EXIT_REFUSAL
        with Interrupt(quiet=quiet, said=_STOPPING_MESSAGE) as interrupt:
            try:
                with staff() as crew:
                    result = _run_and_show_batch(plan, interrupt.control, crew, quiet=quiet)
            except KeyboardInterrupt:
                print_message(_ABORT_MESSAGE)
                return EXIT_INTERRUPT
    return _report_batch_end(result, quiet=quiet)


def _report_batch_end(result: BatchResult, *, quiet: bool) -> int:
    """Say what came of it; the exit code."""
    if not quiet:
        print_message(f"{summarise_batch_result(result)} Table: '{result.page}'.")
    if result.count("waiting"):
        print_message(_RESUME)
        return EXIT_INTERRUPT
    return EXIT_FAILURE if result.count("refused", "failed") else EXIT_SUCCESS


def _describe_batch_plan(plan: BatchPlan, crew: DaskWorkerPool | None) -> list[str]:
    if crew is None:
        return [
            *map(str, plan.notes),
            f"{summarise_batch_plan(plan)} {PLAN_TIME_NOTE}"
            if list_remaining_plans(plan)
            else summarise_batch_plan(plan),
        ]
    return [*map(str, (*plan.notes, *crew.notes)), summarise_batch_plan(plan, crew.count)]


def _run_and_show_batch(
    plan: BatchPlan, control: Callable[[], Control], crew: DaskWorkerPool | None, *, quiet: bool
) -> BatchResult:
    """Run to the end: how far each file is, where its result lies, or why there is none."""
    said = {source for source, _ in plan.list_refused}
    if not quiet:
        for line in _describe_batch_plan(plan, crew):
            print_message(line)
    with closing(choose_reporter(quiet)) as reporter:

        def see(event: BatchEvent) -> None:
            if event.event is not None:
                place = f"{event.number} of {event.count}, " if event.number else ""
                text = f"{place}{event.source.name}: {event.event.message}"
                reporter.show(replace(event.event, message=text), event.number)
            if event.outcome is not None:
                reporter.end(event.number)
                if event.source not in said:
                    _report_file_outcome(event.outcome, quiet=quiet)

        return drain_generator(run_batch(plan, control=control, crew=crew), see)


def _report_file_outcome(outcome: FileOutcome, *, quiet: bool) -> None:
    """Say what became of a file that was worked on."""
    if outcome.refusal is not None:
        print_message(_describe_file_refusal(outcome.source, outcome.refusal))
    elif outcome.result is not None and not quiet:
        print_result(str(outcome.result), saved=True)


def _describe_file_refusal(source: Path, no: Refusal) -> str:
    """Say of a file why it has no result; its path goes first, where the words do not hold it."""
    path = make_printable(str(source))
    return no.message if path in no.facts.values() else f"{path}: {no.message}"


JOINT_TRAINING_HELP = (
    "Fit one network to up to 32 of the files first, series.network in OUTDIR, and show it each: "
    "for eight files or more of one microscope with the same settings."
)


def make_batch_arguments() -> list[Argument]:
    """Arguments of the command for many files; further inputs are those of all tasks."""
    recipe = Parameter(name="RECIPE", help="A recipe, as --recipe or the dock saves it.")
    images = Parameter(
        name="IN", help="Images, folders of images, or patterns in quotes, such as 'data/*.tif'."
    )
    output = Parameter(
        name=("--output", "-o"), help="Folder of the results.", metavar="OUTDIR", group=FILES_GROUP
    )
    inputs = [item for task in TASKS.values() for item in task.inputs[1:]]
    further = {item.name: item.help for item in inputs if not item.measures}
    (axes,) = (argument for argument in make_recipe_arguments() if argument.name == "axes")
    text = "Resume the batch in OUTDIR: what is done and still whole is left as it is."
    return [
        Argument("recipe", Argument.POSITIONAL_ONLY, annotation=Annotated[str, recipe]),
        Argument("inputs", Argument.VAR_POSITIONAL, annotation=Annotated[str, images]),
        Argument("output", Argument.KEYWORD_ONLY, annotation=Annotated[str, output]),
        *(
            make_text_option(name, f"{facts} One image file for all of IN.", "FILE", FILES_GROUP)
            for name, facts in further.items()
        ),
        axes,
        make_flag("joint_training", JOINT_TRAINING_HELP, FILES_GROUP),
        make_network_argument(),
        make_flag("resume", text, FILES_GROUP),
        *_make_worker_arguments(),
        make_flag("quiet", "Say nothing but errors.", COMMON_GROUP),
    ]


def _make_worker_arguments() -> list[Argument]:
    """Arguments for work that is shared between processes."""
    return [
        make_text_option(
            "workers",
            "Restore so many files at once, each in a process of its own on this computer.",
            "WHOLE",
            COMMON_GROUP,
        ),
        make_text_option(
            "scheduler",
            "Hand the files to the workers of a running dask cluster, which see them under the "
            "same names: its address, or the file of --scheduler-file.",
            "ADDRESS",
            COMMON_GROUP,
        ),
        make_text_option(
            "threads",
            "Most threads of each fit, which pixels depend on in their last digits. Default: the "
            "cores, shared by the workers.",
            "WHOLE",
            COMMON_GROUP,
        ),
    ]
