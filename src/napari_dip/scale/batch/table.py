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
from napari_dip.pipeline.assess.report_picture import html_page, picture_tag
from napari_dip.pipeline.events import Event
from napari_dip.pipeline.store.results import escape_formula
from napari_dip.scale.batch.records import read_file_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.types import BatchEvent, BatchPlan, FileOutcome, FileState, Job

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
    rows = [_make_table_row(one) for one in outcomes]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: escape_formula(value) for name, value in row.items()})
    return text.getvalue()


def render_batch_page(outcomes: Iterable[FileOutcome], recipe: Recipe) -> str:
    """Write the table as HTML: nothing is loaded from elsewhere, and no program is in it."""
    outcomes = list(outcomes)
    counts = ", ".join(
        f"{count} {words}"
        for state, words in FILE_STATE_LABELS.items()
        if (count := sum(one.state == state for one in outcomes))
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
    return html_page(f"{recipe.task.title}: {len(outcomes)} files", _TABLE_STYLE, body)


def _make_table_row(one: FileOutcome) -> dict[str, Any]:
    report: Mapping[str, Any] = one.receipt.get("report") or {}
    losses = [loss for _, loss in report.get("held_out", ()) if loss is not None]
    hashes = one.receipt.get("inputs_sha256") or {}
    written = one.receipt.get("results_sha256") or {}
    return {
        "file": make_printable(str(one.source)),
        "state": FILE_STATE_LABELS[one.state],
        "result": make_printable(one.result.name) if one.result else "",
        "seconds": report.get("seconds"),
        "iterations": report.get("iterations"),
        "best_iteration": report.get("best_iteration"),
        "stop_reason": report.get("stop_reason"),
        "prior": report.get("prior", {}).get("chosen"),
        "least_held_out_loss": min(losses, default=None),
        "residual_whiteness": report.get("residual", {}).get("whiteness"),
        "verdict": " ".join(_list_verdict_sentences(report)),
        "message": one.refusal.message if one.refusal else "",
        "version": report.get("version"),
        "torch": report.get("torch"),
        "device": report.get("device"),
        "threads": report.get("threads"),
        "input_sha256": hashes.get("image"),
        "result_sha256": written.get(one.result.name) if one.result else None,
    }


def _list_verdict_sentences(report: Mapping[str, Any]) -> list[str]:
    return list(report.get("verdict", {}).get("sentences", ()))


def _render_page_row(one: FileOutcome) -> str:
    row = _make_table_row(one)
    picture = ""
    if one.picture is not None:
        with suppress(OSError, DipError):  # one that a pipe has taken the place of would wait
            path, count = check_readable_file(one.picture)
            picture = picture_tag(path.read_bytes()) if count <= MAX_REPORT_BYTES else ""
    if one.refusal is not None:
        words = [one.refusal.sentence, one.refusal.remedy]
    else:
        report = one.receipt.get("report") or {}
        words = [*_list_verdict_sentences(report), *report.get("notes", ())]
    if row["stop_reason"]:
        ended = f"{row['iterations']} iterations in {row['seconds']} s: {row['stop_reason']}."
        words = [ended, *words]
    told = "".join(f"<p>{html.escape(str(text))}</p>" for text in dict.fromkeys(words))
    name = f"<p>{html.escape(row['file'])}</p><p>{html.escape(row['state'])}</p>"
    return f'<tr><td class="name">{name}</td><td>{picture}</td><td>{told}</td></tr>'


@dataclass(frozen=True, slots=True)
class FileRow:
    """What is known of one file.

    Attributes
    ----------
    source : Path
    state : str
        As in `FileOutcome`; "ready" before it is begun and "working" while it is restored.
    fraction : float, 0 to 1
        How far it is.
    words : tuple of str
        The verdict, warnings first; or why there is no result, or what is being done.
    """

    source: Path
    state: FileState | Literal["ready", "working"]
    fraction: float = 0.0
    words: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
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
            job.source, "refused", words=(_shorten_message(job.plan.message, job.source),)
        )
    receipt = read_file_record(job.at, job.plan.source, plan.recipe) if plan.resume else None
    if receipt is None or not job.at.result.exists():
        return FileRow(job.source, "ready", words=(job.plan.line, *job.plan.notes))
    return _add_verdict(FileRow(job.source, "kept", 1.0), receipt)


def update_file_row(row: FileRow, told: BatchEvent) -> FileRow:
    """Bring a row up to date with what was reported of its file."""
    if told.outcome is not None:
        return _make_finished_row(row, told.outcome)
    if told.event is None:
        return row
    event = told.event
    words = event.words.rstrip(".")
    if event.iterations:
        words += f", iteration {event.iteration} of {event.iterations}"
    return replace(row, state="working", fraction=event.fraction, words=(words,))


def _make_finished_row(row: FileRow, outcome: FileOutcome) -> FileRow:
    row = replace(row, state=outcome.state)
    if outcome.refusal is not None:
        return replace(row, words=(_shorten_message(outcome.refusal.message, row.source),))
    if outcome.state == "waiting":
        return replace(row, words=("Not finished; it goes on where it was.",))
    return _add_verdict(replace(row, fraction=1.0), outcome.receipt)


def _shorten_message(message: str, source: Path) -> str:
    """Call a file by its name alone: its row says which one it is."""
    return message.replace(make_printable(str(source)), make_printable(source.name))


def _add_verdict(row: FileRow, receipt: Mapping[str, Any]) -> FileRow:
    """Put the verdict of a receipt into a row, warnings first."""
    said = receipt["report"].get("verdict", {})
    warnings = said.get("warnings", ())
    calm = (one for one in said.get("sentences", ()) if one not in warnings)
    return replace(row, words=(*(f"⚠ {one}" for one in warnings), *calm))


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
        self._planned = {
            number: job.plan.seconds
            for number, (job, row) in jobs
            if row.state == "ready" and not isinstance(job.plan, Refusal)
        }
        if plan.lesson is not None:
            self._planned[0] = plan.lesson.seconds
        self._count, self._workers = len(plan.jobs), workers
        self._going: dict[int, Event] = {}
        self._ended: set[int] = set()
        self._spent = self._meant = 0.0

    def whole(self, told: BatchEvent) -> Event:
        """Take in a report and say how far all files together are.

        Returns
        -------
        Event
            The time left is what the plans say, files in progress as they say themselves; and
            longer by as much as the files so far have taken longer.
        """
        if told.outcome is not None:
            self._end(told.number, told.outcome)
        elif told.event is not None:
            self._going[told.number] = told.event
        total = sum(self._planned.values()) or 1.0
        slower = max(1.0, self._spent / self._meant) if self._meant else 1.0
        done = left = 0.0
        for number, seconds in self._planned.items():
            event = self._going.get(number)
            if number in self._ended:
                done += seconds
            elif event is None:
                left += slower * seconds
            else:
                done += event.fraction * seconds
                rest = slower * seconds * (1 - event.fraction)
                left += rest if event.seconds_left is None else event.seconds_left
        words = f"{len(self._ended)} of {self._count} files"
        if not told.number:
            words = "One network for all files"
        side_by_side = max(1, min(self._workers, len(self._planned) or 1))
        return Event(words, fraction=done / total, seconds_left=left / side_by_side)

    def _end(self, number: int, outcome: FileOutcome) -> None:
        self._going.pop(number, None)
        if outcome.state != "waiting":
            self._ended.add(number)
        if outcome.state == "restored" and number in self._planned:
            self._spent += outcome.receipt["report"]["seconds"]
            self._meant += self._planned[number]
