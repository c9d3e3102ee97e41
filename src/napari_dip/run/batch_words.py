"""What a batch says of itself as a whole, before and after; the same at every door."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_dip.run.plan import duration

if TYPE_CHECKING:
    from napari_dip.run.batch import BatchResult
    from napari_dip.run.batch_plan import BatchPlan


def words_before(plan: BatchPlan, workers: int | None = None) -> str:
    """Say how many files will be restored, how many not, and how long that takes at most.

    Parameters
    ----------
    plan : BatchPlan
    workers : int or None
        Processes that work side by side; None: this one alone.
    """
    ready = len(plan.jobs) - len(plan.refused)
    left = plan.left
    parts = [f"{len(plan.jobs)} file{'s' * (len(plan.jobs) != 1)}"]
    if ready > len(left):
        parts.append(f"{ready - len(left)} done before")
    if plan.refused:
        parts.append(f"{len(plan.refused)} refused")
    by = "" if workers is None else f" by {workers} worker{'s' * (workers > 1)}"
    seconds = sum(one.seconds for one in left) / max(1, min(workers or 1, len(left)))
    if left and plan.lesson is not None:
        seconds += plan.lesson.seconds
    time = f": up to {duration(seconds)}" if left else ""
    return f"{', '.join(parts)}, {len(left)} to restore{by}{time}."


def words_after(result: BatchResult) -> str:
    """Say what became of the files."""
    parts = {
        "restored": result.count("restored"),
        "done before": result.count("kept"),
        "refused": result.count("refused"),
        "failed": result.count("failed"),
        "left": result.count("waiting"),
    }
    counts = ", ".join(f"{count} {words}" for words, count in parts.items() if count)
    files = f"{len(result.outcomes)} file{'s' * (len(result.outcomes) != 1)}"
    return f"Of {files}: {counts}."
