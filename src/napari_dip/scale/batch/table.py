"""The table of a batch: as CSV for a spreadsheet, and as one HTML page with pictures.

How far a batch is, file by file and as a whole: what a table of it and a bar show.
"""

from __future__ import annotations

import csv
import html
import io
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from napari_dip.errors import DipError, Refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import MAX_REPORT_BYTES, check_readable_file
from napari_dip.pipeline.assess.report_figures import make_html_page, make_image_tag
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.store.results import escape_formula
from napari_dip.scale.batch.records import read_file_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan, FileOutcome, FileState, Job

#: How the states are called in the table.
FILE_STATE_LABELS = {
    "restored": "restored",
    "kept": "restored before",
    "refused": "refused",
    "failed": "failed",
    "waiting": "not begun or not finished",
}
_TABLE_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid #8886; padding: .6rem .8rem; text-align: left; vertical-align: top; }
img { background: #fff; display: block; max-width: 100%; }
td.name { overflow-wrap: anywhere; width: 22%; }
p { margin: 0 0 .4rem; }
pre { font-size: .85em; overflow-x: auto; }
"""


def format_batch_csv(outcomes: Iterable[FileOutcome]) -> str:
    """Write the table as CSV, one row for each file, with figures as the receipts have them.

    All text is in quotes: where cells are told apart by semicolons, one in a name would begin
    another cell.
    """
    text = io.StringIO()
    rows = [_make_table_row(outcome) for outcome in outcomes]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: escape_formula(value) for name, value in row.items()})
    return text.getvalue()


def render_batch_page(outcomes: Iterable[FileOutcome], recipe: Recipe) -> str:
    """Write the table as HTML: nothing is loaded from elsewhere, and no program is in it."""
    outcomes = list(outcomes)
    counts = ", ".join(
        f"{count} {text}"
        for state, text in FILE_STATE_LABELS.items()
        if (count := sum(outcome.state == state for outcome in outcomes))
    )
    rows = "\n".join(map(_render_page_row, outcomes))
    body = f"""<p>{html.escape(counts)}.</p>
<details><summary>Recipe</summary><pre>{html.escape(recipe.to_json())}</pre></details>
<table>
<thead><tr><th>File</th><th>Input, result, held-out loss</th><th>What to know</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""
    return make_html_page(f"{recipe.task.title}: {len(outcomes)} files", _TABLE_STYLE, body)


def _make_table_row(outcome: FileOutcome) -> dict[str, Any]:
    report: Mapping[str, Any] = outcome.record.get("report") or {}
    losses = [loss for _, loss in report.get("validation_loss", ()) if loss is not None]
    hashes = outcome.record.get("inputs_sha256") or {}
    written = outcome.record.get("results_sha256") or {}
    return {
        "file": make_printable(str(outcome.source)),
        "state": FILE_STATE_LABELS[outcome.state],
        "result": make_printable(outcome.result.name) if outcome.result else "",
        "seconds": report.get("seconds"),
        "iterations": report.get("iterations"),
        "best_iteration": report.get("best_iteration"),
        "stop_reason": report.get("stop_reason"),
        "prior": report.get("prior", {}).get("chosen"),
        "min_validation_loss": min(losses, default=None),
        "residual_whiteness": report.get("residual", {}).get("whiteness"),
        "verdict": " ".join(_list_verdict_sentences(report)),
        "message": outcome.refusal.message if outcome.refusal else "",
        "version": report.get("version"),
        "torch": report.get("torch"),
        "device": report.get("device"),
        "threads": report.get("threads"),
        "input_sha256": hashes.get("image"),
        "result_sha256": written.get(outcome.result.name) if outcome.result else None,
    }


def _list_verdict_sentences(report: Mapping[str, Any]) -> list[str]:
    return list(report.get("verdict", {}).get("sentences", ()))


def _render_page_row(outcome: FileOutcome) -> str:
    row = _make_table_row(outcome)
    picture = ""
    if outcome.picture is not None:
        with suppress(OSError, DipError):  # one that a pipe has taken the place of would wait
            path, count = check_readable_file(outcome.picture)
            picture = make_image_tag(path.read_bytes()) if count <= MAX_REPORT_BYTES else ""
    if outcome.refusal is not None:
        label = [outcome.refusal.sentence, outcome.refusal.remedy]
    else:
        report = outcome.record.get("report") or {}
        label = [*_list_verdict_sentences(report), *report.get("notes", ())]
    if row["stop_reason"]:
        ended = f"{row['iterations']} iterations in {row['seconds']} s: {row['stop_reason']}."
        label = [ended, *label]
    facts = "".join(f"<p>{html.escape(str(text))}</p>" for text in dict.fromkeys(label))
    name = f"<p>{html.escape(row['file'])}</p><p>{html.escape(row['state'])}</p>"
    return f'<tr><td class="name">{name}</td><td>{picture}</td><td>{facts}</td></tr>'


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """What is known of one file.

    Attributes
    ----------
    source : Path
    state : str
        As in `FileOutcome`; "ready" before it is begun and "working" while it is restored.
    fraction : float, 0 to 1
        How far it is.
    messages : tuple of str
        The verdict, warnings first; or why there is no result, or what is being done.
    """

    source: Path
    state: FileState | Literal["ready", "working"]
    fraction: float = 0.0
    messages: tuple[str, ...] = ()

    @property
    def has_result(self) -> bool:
        """Whether there is a result."""
        return self.state in ("restored", "kept")


def make_file_rows(plan: BatchPlan) -> tuple[FileRow, ...]:
    """Say of each file of a plan what will become of it; receipts are believed here.

    Parameters
    ----------
    plan : BatchPlan
    """
    return tuple(_make_planned_row(plan, job) for job in plan.jobs)


def _make_planned_row(plan: BatchPlan, job: Job) -> FileRow:
    if isinstance(job.plan, Refusal):
        return FileRow(
            source=job.source, state="refused", messages=(_shorten_message(job.plan, job.source),)
        )
    receipt = read_file_record(job.paths, job.plan.source, plan.recipe) if plan.resume else None
    if receipt is None or not job.paths.result.exists():
        return FileRow(
            source=job.source, state="ready", messages=(job.plan.summary, *map(str, job.plan.notes))
        )
    return _add_verdict(FileRow(source=job.source, state="kept", fraction=1.0), receipt)


def update_file_row(row: FileRow, entry: BatchEvent) -> FileRow:
    """Bring a row up to date with what was reported of its file."""
    if entry.outcome is not None:
        return _make_finished_row(row, entry.outcome)
    if entry.event is None:
        return row
    event = entry.event
    text = event.message.rstrip(".")
    if event.iterations:
        text += f", iteration {event.iteration} of {event.iterations}"
    return replace(row, state="working", fraction=event.fraction, messages=(text,))


def _make_finished_row(row: FileRow, outcome: FileOutcome) -> FileRow:
    row = replace(row, state=outcome.state)
    if outcome.refusal is not None:
        return replace(row, messages=(_shorten_message(outcome.refusal, row.source),))
    if outcome.state == "waiting":
        return replace(row, messages=("Not finished; it goes on where it was.",))
    return _add_verdict(replace(row, fraction=1.0), outcome.record)


def _shorten_message(no: Refusal, source: Path) -> str:
    """Call a file by its name alone: its row says which one it is."""
    path = make_printable(str(source))
    names = {name: source.name for name, fact in no.facts.items() if fact == path}
    return replace(no, facts={**no.facts, **names}).message


def _add_verdict(row: FileRow, receipt: Mapping[str, Any]) -> FileRow:
    """Put the verdict of a receipt into a row, warnings first."""
    said = receipt["report"].get("verdict", {})
    warnings = said.get("warnings", ())
    calm = said.get("sentences", ())[len(warnings) :]  # warnings come first
    return replace(row, messages=(*(f"⚠ {warning}" for warning in warnings), *calm))


class BatchProgressEstimator:
    """Tells from the reports of all files how far the whole is.

    Parameters
    ----------
    plan : BatchPlan
    rows : sequence of FileRow
        Of that plan.
    workers : int
        That work side by side.
    """

    def __init__(self, plan: BatchPlan, rows: tuple[FileRow, ...], workers: int = 1) -> None:
        jobs = enumerate(zip(plan.jobs, rows, strict=True), 1)
        self._planned_seconds = {
            number: job.plan.seconds
            for number, (job, row) in jobs
            if row.state == "ready" and not isinstance(job.plan, Refusal)
        }
        if plan.joint_training is not None:
            self._planned_seconds[0] = plan.joint_training.seconds
        self._file_count, self._worker_count = len(plan.jobs), workers
        self._running_events: dict[int, Event] = {}
        self._finished_files: set[int] = set()
        self._actual_seconds = self._planned_finished_seconds = 0.0

    def update(self, entry: BatchEvent) -> Event:
        """Take in a report and say how far all files together are.

        Returns
        -------
        Event
            The time left is what the plans say, files in progress as they say themselves; and
            longer by as much as the files so far have taken longer.
        """
        if entry.outcome is not None:
            self._record_outcome(entry.number, entry.outcome)
        elif entry.event is not None:
            self._running_events[entry.number] = entry.event
        total = sum(self._planned_seconds.values()) or 1.0
        slower = (
            max(1.0, self._actual_seconds / self._planned_finished_seconds)
            if self._planned_finished_seconds
            else 1.0
        )
        done = remaining = 0.0
        for number, seconds in self._planned_seconds.items():
            event = self._running_events.get(number)
            if number in self._finished_files:
                done += seconds
            elif event is None:
                remaining += slower * seconds
            else:
                done += event.fraction * seconds
                rest = slower * seconds * (1 - event.fraction)
                remaining += rest if event.seconds_left is None else event.seconds_left
        text = f"{len(self._finished_files)} of {self._file_count} files"
        if not entry.number:
            text = "Joint training"
        side_by_side = max(1, min(self._worker_count, len(self._planned_seconds) or 1))
        return Event(message=text, fraction=done / total, seconds_left=remaining / side_by_side)

    def _record_outcome(self, number: int, outcome: FileOutcome) -> None:
        self._running_events.pop(number, None)
        if outcome.state != "waiting":
            self._finished_files.add(number)
        if outcome.state == "restored" and number in self._planned_seconds:
            self._actual_seconds += outcome.record["report"]["seconds"]
            self._planned_finished_seconds += self._planned_seconds[number]
