"""`napari-dip batch RECIPE IN... -o OUTDIR`: all refusals first, then file after file."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.cli.interrupt import Interrupt
from napari_dip.cli.progress import reporter_for
from napari_dip.cli.words import ALONE, say, tell
from napari_dip.io.paths import printable
from napari_dip.run.batch import run_batch
from napari_dip.run.batch_words import words_after, words_before
from napari_dip.run.cluster import planning
from napari_dip.run.draining import drained

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari_dip.errors import Refusal
    from napari_dip.run.batch import BatchEvent, BatchResult
    from napari_dip.run.batch_file import FileOutcome
    from napari_dip.run.batch_plan import BatchPlan
    from napari_dip.run.cluster_crew import DaskCrew
    from napari_dip.run.runner import Control

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

_STOPPING = "Stopping; all that is done is kept. Press Ctrl-C again to end at once."
_RESUME = "The same command with --resume goes on from there."
_AT_ONCE = f"Ended at once; results that have a receipt are whole. {_RESUME}"


def batch(
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
    one_network: bool = False,
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
    resume, quiet, one_network : bool
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
    given = {name: path for name, path in others.items() if path is not None}
    how: dict[str, Any] = {"resume": resume, "axes": axes, "one_network": one_network}
    how |= {"workers": workers, "scheduler": scheduler, "threads": threads, "others": given}
    with planning(recipe, inputs, output, **how) as (plan, staff):
        for source, no in plan.refused:
            say(_told(source, no))
        if len(plan.refused) == len(plan.jobs):
            return REFUSED
        with Interrupt(quiet=quiet, said=_STOPPING) as interrupt:
            try:
                with staff() as crew:
                    result = _watched(plan, interrupt.control, crew, quiet=quiet)
            except KeyboardInterrupt:
                say(_AT_ONCE)
                return INTERRUPTED
    return _ended(result, quiet=quiet)


def _ended(result: BatchResult, *, quiet: bool) -> int:
    """Say what came of it; the exit code."""
    if not quiet:
        say(f"{words_after(result)} Table: '{result.page}'.")
    if result.count("waiting"):
        say(_RESUME)
        return INTERRUPTED
    return FAILED if result.count("refused", "failed") else DONE


def _before(plan: BatchPlan, crew: DaskCrew | None) -> list[str]:
    if crew is None:
        return [*plan.notes, f"{words_before(plan)} {ALONE}" if plan.left else words_before(plan)]
    return [*plan.notes, *crew.notes, words_before(plan, crew.count)]


def _watched(
    plan: BatchPlan, control: Callable[[], Control], crew: DaskCrew | None, *, quiet: bool
) -> BatchResult:
    """Run to the end: how far each file is, where its result lies, or why there is none."""
    said = {source for source, _ in plan.refused}
    if not quiet:
        for line in _before(plan, crew):
            say(line)
    with closing(reporter_for(quiet)) as reporter:

        def see(one: BatchEvent) -> None:
            if one.event is not None:
                place = f"{one.number} of {one.count}, " if one.number else ""
                words = f"{place}{one.source.name}: {one.event.words}"
                reporter.show(replace(one.event, words=words), one.number)
            if one.outcome is not None:
                reporter.end(one.number)
                if one.source not in said:
                    _tell(one.outcome, quiet=quiet)

        return drained(run_batch(plan, control=control, crew=crew), see)


def _tell(outcome: FileOutcome, *, quiet: bool) -> None:
    """Say what became of a file that was worked on."""
    if outcome.refusal is not None:
        say(_told(outcome.source, outcome.refusal))
    elif outcome.result is not None and not quiet:
        tell(str(outcome.result), saved=True)


def _told(source: Path, no: Refusal) -> str:
    """Say of a file why it has no result; its path goes first, where the words do not hold it."""
    path = printable(str(source))
    return no.message if f"'{path}'" in no.sentence else f"{path}: {no.message}"
