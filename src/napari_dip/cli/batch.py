"""Run `napari-dip batch RECIPE IN... -o OUTDIR`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.cli.terminal import (
    EXIT_FAILURE,
    EXIT_INTERRUPT,
    EXIT_REFUSAL,
    EXIT_SUCCESS,
    PLAN_TIME_NOTE,
    WHOLE_BATCH,
    Interrupt,
    choose_reporter,
    print_message,
    print_result,
)
from napari_dip.errors.fault import make_printable
from napari_dip.pipeline.events import Event, drain_generator
from napari_dip.pipeline.recipe import OLD_INPUTS, OLD_SWITCHES, rename_keys
from napari_dip.scale.batch.plan import find_remaining_plans
from napari_dip.scale.batch_run import run_batch, summarise_batch_plan, summarise_batch_result
from napari_dip.scale.cluster.dask_cluster import plan_with_workers

if TYPE_CHECKING:
    from collections.abc import Callable
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
    *inputs: str,
    output: str,
    axes: str | None = None,
    resume: bool = False,
    quiet: bool = False,
    workers: str | None = None,
    scheduler: str | None = None,
    threads: str | None = None,
    joint_training: bool = False,
    **extra_paths: str | None,
) -> int:
    """Run the command `batch`.

    Parameters
    ----------
    recipe : str
        Path of a recipe.
    *inputs : str
        Files, folders, patterns.
    output : str
        Folder of the results.
    axes : str or None
        Axes that override those in each file.
    resume, quiet, joint_training : bool
    workers, scheduler, threads : str or None
        As typed.
    **extra_paths : str or None
        Paths of further inputs, by name.

    Returns
    -------
    int
        0 if every file has a result, 1 if some have none, 2 if nothing was started, 130 if the
        batch was interrupted.

    Raises
    ------
    RefusedError, FailedError
        As `napari_dip.batch`.
    """
    values = {name: path for name, path in extra_paths.items() if path}
    values, notes = rename_keys(values, {**OLD_INPUTS, **OLD_SWITCHES})
    joint_training = bool(values.pop("joint_training", joint_training))
    if not quiet:
        for note in notes:
            print_message(note)
    options: dict[str, Any] = {"resume": resume, "axes": axes, "joint_training": joint_training}
    options |= {
        "workers": workers,
        "scheduler": scheduler,
        "threads": threads,
        "extra_paths": values,
    }
    with plan_with_workers(recipe, inputs, output, **options) as (plan, start_pool):
        for source, refusal in plan.refused_files:
            print_message(_describe_file_refusal(source, refusal))
        if len(plan.refused_files) == len(plan.jobs):
            return EXIT_REFUSAL
        with Interrupt(quiet=quiet, message=_STOPPING_MESSAGE) as interrupt:
            try:
                with start_pool() as pool:
                    result = _run_and_show_batch(plan, interrupt.poll_control, pool, quiet=quiet)
            except KeyboardInterrupt:
                print_message(_ABORT_MESSAGE)
                return EXIT_INTERRUPT
    return _report_batch_end(result, quiet=quiet)


def _report_batch_end(result: BatchResult, *, quiet: bool) -> int:
    """Print the summary of a batch and return the exit code."""
    if not quiet:
        print_message(f"{summarise_batch_result(result)} Table: '{result.page}'.")
    if result.count("waiting"):
        print_message(_RESUME)
        return EXIT_INTERRUPT
    return EXIT_FAILURE if result.count("refused", "failed") else EXIT_SUCCESS


def _describe_batch_plan(plan: BatchPlan, pool: DaskWorkerPool | None) -> list[str]:
    if pool is not None:
        summary = summarise_batch_plan(plan, pool.worker_count)
        return [*map(str, (*plan.notes, *pool.notes)), summary]
    time_note = [PLAN_TIME_NOTE] if find_remaining_plans(plan) else []
    return [*map(str, plan.notes), " ".join([summarise_batch_plan(plan), *time_note])]


def _run_and_show_batch(
    plan: BatchPlan, control: Callable[[], Control], pool: DaskWorkerPool | None, *, quiet: bool
) -> BatchResult:
    """Run the batch and print progress and outcome of each file."""
    refused_sources = {source for source, _ in plan.refused_files}
    if not quiet:
        for line in _describe_batch_plan(plan, pool):
            print_message(line)
    with closing(choose_reporter(quiet)) as reporter:

        def show_event(event: BatchEvent) -> None:
            if event.event is not None:
                position = f"{event.number} of {event.count}, " if event.number else ""
                text = f"{position}{event.source.name}: {event.event.message}"
                reporter.show(replace(event.event, message=text), event.number)
                if event.count > 1:
                    whole = Event(message=event.progress.message, progress=event.progress)
                    reporter.show(whole, WHOLE_BATCH)
            if event.outcome is not None:
                reporter.end(event.number)
                if event.source not in refused_sources:
                    _report_file_outcome(event.outcome, quiet=quiet)

        return drain_generator(run_batch(plan, control=control, pool=pool), show_event)


def _report_file_outcome(outcome: FileOutcome, *, quiet: bool) -> None:
    """Print the result of a file, or why it has none."""
    if outcome.refusal is not None:
        print_message(_describe_file_refusal(outcome.source, outcome.refusal))
    elif outcome.result is not None and not quiet:
        print_result(str(outcome.result), saved=True)


def _describe_file_refusal(source: Path, refusal: Refusal) -> str:
    """Return the message of a refusal, with the path in front if the message lacks it."""
    path = make_printable(str(source))
    return refusal.message if path in refusal.facts.values() else f"{path}: {refusal.message}"
