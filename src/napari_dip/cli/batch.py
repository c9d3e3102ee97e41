"""`napari-dip batch RECIPE IN... -o OUTDIR`: all refusals first, then file after file."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.cli.interrupt import Interrupt
from napari_dip.cli.progress import reporter_for
from napari_dip.cli.words import say, tell
from napari_dip.io.paths import printable
from napari_dip.run.batch import run_batch
from napari_dip.run.batch_plan import plan_batch
from napari_dip.run.draining import drained
from napari_dip.run.plan import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_dip.run.batch import BatchEvent, BatchResult
    from napari_dip.run.batch_file import FileOutcome
    from napari_dip.run.batch_plan import BatchPlan
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
    resume, quiet : bool
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
    plan = plan_batch(recipe, inputs, output, resume=resume, axes=axes, others=given)
    for source, no in plan.refused:
        say(f"{printable(str(source))}: {no.message}")
    if len(plan.refused) == len(plan.jobs):
        return REFUSED
    if not quiet:
        for line in _before(plan):
            say(line)
    with Interrupt(quiet=quiet, said=_STOPPING) as interrupt:
        try:
            result = _watched(plan, interrupt.control, quiet=quiet)
        except KeyboardInterrupt:
            say(_AT_ONCE)
            return INTERRUPTED
    if not quiet:
        say(_after(result))
    if result.count("waiting"):
        say(_RESUME)
        return INTERRUPTED
    return FAILED if result.count("refused", "failed") else DONE


def _before(plan: BatchPlan) -> list[str]:
    ready = len(plan.jobs) - len(plan.refused)
    left = len(plan.left)
    done = f", {ready - left} with a receipt" if ready > left else ""
    refused = f", {len(plan.refused)} refused" if plan.refused else ""
    time = f": up to {duration(plan.seconds)}" if left else ""
    return [*plan.notes, f"{len(plan.jobs)} files{done}{refused}, {left} to restore{time}."]


def _after(result: BatchResult) -> str:
    parts = {
        "restored": result.count("restored"),
        "done before": result.count("kept"),
        "refused": result.count("refused"),
        "failed": result.count("failed"),
        "left": result.count("waiting"),
    }
    counts = ", ".join(f"{count} {words}" for words, count in parts.items() if count)
    return f"Of {len(result.outcomes)} files: {counts}. Table: '{printable(str(result.page))}'."


def _watched(plan: BatchPlan, control: Callable[[], Control], *, quiet: bool) -> BatchResult:
    """Run to the end: how far each file is, where its result lies, or why there is none."""
    said = {source for source, _ in plan.refused}
    with closing(reporter_for(quiet)) as reporter:

        def see(one: BatchEvent) -> None:
            if one.event is not None:
                place = f"{one.number} of {one.count}, {printable(one.source.name)}"
                reporter.show(replace(one.event, words=f"{place}: {one.event.words}"))
            if one.outcome is not None and one.source not in said:
                _tell(one.outcome, quiet=quiet)

        return drained(run_batch(plan, control=control), see)


def _tell(outcome: FileOutcome, *, quiet: bool) -> None:
    """Say what became of a file that was worked on."""
    if outcome.refusal is not None:
        say(f"{printable(str(outcome.source))}: {outcome.refusal.message}")
    elif outcome.result is not None and not quiet:
        tell(str(outcome.result))
