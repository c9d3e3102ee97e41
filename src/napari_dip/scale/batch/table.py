"""Format the outcomes of a batch as CSV and HTML, and the state of its files as rows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from napari_dip.errors import DipError, Fault, Refusal
from napari_dip.errors.templates import make_printable
from napari_dip.io.paths import (
    MAX_REPORT_BYTES,
    make_result_name,
    split_field_path,
    stat_readable_file,
)
from napari_dip.pipeline.assess.card import VERDICT_COLOURS, Verdict, make_card
from napari_dip.pipeline.assess.methods_section import count_fits
from napari_dip.pipeline.assess.report_figures import (
    Html,
    make_element,
    make_elements,
    make_image,
    make_table,
    render_page,
)
from napari_dip.pipeline.store.result_files import format_csv
from napari_dip.scale.batch.records import read_file_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import BatchEvent, BatchPlan, FileOutcome, FileState, Job

#: Label of each state in the table.
FILE_STATE_LABELS = {
    "restored": "restored",
    "already-done": "restored before",
    "not-named": "restored before, not named now",
    "refused": "refused",
    "failed": "failed",
    "waiting": "not begun or not finished",
}


#: Columns of the table that are fields of the report.
_COMPUTER_COLUMNS = ("version", "torch", "device", "threads")


def format_batch_csv(outcomes: Iterable[FileOutcome]) -> str:
    """Format the outcomes as CSV, one row per file, with the figures of the records.

    All text is quoted: in a CSV with semicolons as separators, a semicolon in a name would start
    another cell.
    """
    rows = [_make_table_row(outcome) for outcome in outcomes]
    columns = max((row.keys() for row in rows), key=len)  # with a plate among them, its cells
    cells = (map(row.get, columns) for row in rows)
    return format_csv(columns, cells, quotes_texts=True)


def render_batch_page(outcomes: Iterable[FileOutcome], recipe: Recipe) -> str:
    """Format the outcomes as an HTML page without scripts and external resources."""
    outcomes = list(outcomes)
    counts = ", ".join(
        f"{count} {label}"
        for state, label in FILE_STATE_LABELS.items()
        if (count := sum(outcome.state == state for outcome in outcomes))
    )
    return render_page(
        f"{recipe.task.spec.title}: {len(outcomes)} files",
        make_element("p", f"{counts}."),
        make_element(
            "details", make_element("summary", "Recipe"), make_element("pre", recipe.to_json())
        ),
        make_table(
            ("File", "Input, result, validation loss", "Verdict", "What to know"),
            map(_make_page_cells, outcomes),
        ),
    )


def _make_table_row(outcome: FileOutcome) -> dict[str, Any]:
    report: Mapping[str, Any] = outcome.record.get("report") or {}
    fit_count = count_fits(report) if report else None
    # the report has the curve of the first fit only, which says nothing of the others
    single_fit = report if fit_count == 1 else {}
    losses = [loss for _, loss in single_fit.get("validation_loss", ()) if loss is not None]
    card = make_card(report) if report else None
    sentences = (*card.all_warnings, *card.findings, *card.details) if card else ()
    hashes = outcome.record.get("inputs_sha256") or {}
    written = outcome.record.get("results_sha256") or {}
    name = make_result_name(outcome.source)
    return {
        "file": make_printable(str(outcome.source)),
        **_make_plate_cells(outcome.source),
        "state": FILE_STATE_LABELS[outcome.state],
        "result": make_printable(name) if outcome.result else "",
        "seconds": report.get("seconds"),
        "fits": fit_count,
        "iterations": report.get("iterations"),
        "best_iteration": single_fit.get("best_iteration"),
        "stop_reason": report.get("stop_reason"),
        "prior": report.get("prior", {}).get("key"),
        "min_validation_loss": min(losses, default=None),
        "residual_lag_1_correlation": report.get("residual", {}).get("lag_1_correlation"),
        "verdict": str(card.verdict) if card else "",
        "checks": " ".join(dict.fromkeys(map(str, sentences))),
        "message": outcome.fault.message if outcome.fault else "",
        **{name: report.get(name) for name in _COMPUTER_COLUMNS},
        "input_sha256": hashes.get("image"),
        "result_sha256": written.get(name) if outcome.result else None,
    }


def make_source_label(source: Path) -> str:
    """Return the name of a file, or well and field of a field of a plate, such as "A1, field 0"."""
    cells = _make_plate_cells(source)
    return make_printable("{well}, field {field}".format(**cells) if cells else source.name)


def _make_plate_cells(source: Path) -> dict[str, str]:
    """Return plate, well and field of a field of a plate."""
    plate, field = split_field_path(source)
    if not field:
        return {}
    row, column, image = field.split("/")
    return {"plate": make_printable(plate.name), "well": f"{row}{column}", "field": image}


def _make_page_cells(outcome: FileOutcome) -> tuple[Html, Html, Html, Html]:
    row = _make_table_row(outcome)
    image = verdict = details = Html()
    if outcome.overview is not None:
        with suppress(OSError, DipError):  # reading a pipe in its place would block
            path, byte_count = stat_readable_file(outcome.overview)
            image = make_image(path.read_bytes()) if byte_count <= MAX_REPORT_BYTES else image
    if outcome.fault is not None:
        paragraphs = [outcome.fault.sentence, outcome.fault.remedy]
    else:
        report = outcome.record.get("report") or {}
        card = make_card(report)
        colour = VERDICT_COLOURS[card.verdict] if report else "inherit"
        verdict = make_element("b", row["verdict"], style=f"color: {colour}")
        paragraphs = card.list_lines() if report else []
        rest = list(map(str, card.details))
        if sentence := report.get("stop_sentence"):
            fits = f" of {row['fits']} fits" * (row["fits"] != 1)
            rest.append(f"{row['iterations']} iterations{fits} in {row['seconds']} s: {sentence}.")
        details = make_element(
            "details", make_element("summary", "Details"), make_elements("p", rest)
        )
    name = make_elements("p", (row["file"], row["state"]))
    return name, image, verdict, Html(make_elements("p", paragraphs) + details)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """State and progress of one file.

    Attributes
    ----------
    source : Path
    state : str
        As in `FileOutcome`; "ready" before the file starts and "working" while it is restored.
    fraction : float, 0 to 1
        Fraction of the work that is done.
    messages : tuple of str
        The card and its details; or the refusal, or the current step.
    verdict : Verdict or None
        Verdict on the result; None if there is no result.
    reason : str
        Reason of the verdict, or why there is no result; "" if there is neither.
    """

    source: Path
    state: FileState | Literal["ready", "working"]
    fraction: float = 0.0
    messages: tuple[str, ...] = ()
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def has_result(self) -> bool:
        """Whether the file has a result."""
        return self.state in ("restored", "already-done")


def make_file_rows(plan: BatchPlan) -> tuple[FileRow, ...]:
    """Make a row for each file of a plan; records of earlier calls are not verified.

    Parameters
    ----------
    plan : BatchPlan
    """
    return tuple(_make_planned_row(plan, job) for job in plan.jobs)


def _make_planned_row(plan: BatchPlan, job: Job) -> FileRow:
    if isinstance(job.plan, Refusal):
        return _add_fault(FileRow(source=job.source, state="refused"), job.plan)
    record = read_file_record(job.paths, job.plan.header, plan.recipe) if plan.resume else None
    if record is None:
        return FileRow(
            source=job.source, state="ready", messages=(job.plan.summary, *map(str, job.plan.notes))
        )
    return _add_verdict(FileRow(source=job.source, state="already-done", fraction=1.0), record)


def update_file_row(row: FileRow, entry: BatchEvent) -> FileRow:
    """Return a row updated by a progress report of its file."""
    if entry.outcome is not None:
        return _make_finished_row(row, entry.outcome)
    if entry.event is None:
        return row
    event = entry.event
    message = event.message.rstrip(".")
    if event.iterations:
        message += f", iteration {event.iteration} of {event.iterations}"
    return replace(row, state="working", fraction=event.fraction, messages=(message,))


def _make_finished_row(row: FileRow, outcome: FileOutcome) -> FileRow:
    row = replace(row, state=outcome.state)
    if outcome.fault is not None:
        return _add_fault(row, outcome.fault)
    if outcome.state == "waiting":
        return replace(row, messages=("Not finished; it goes on where it was.",))
    return _add_verdict(replace(row, fraction=1.0), outcome.record)


def _add_fault(row: FileRow, fault: Fault) -> FileRow:
    """Add the message of a fault to a row, with the label instead of the whole path."""
    path, label = make_printable(str(row.source)), make_source_label(row.source)
    names = {name: label for name, fact in fault.facts.items() if fact == path}
    fault = replace(fault, facts={**fault.facts, **names})
    return replace(row, messages=(fault.message,), reason=fault.describe_in_row(label))


def _add_verdict(row: FileRow, record: Mapping[str, Any]) -> FileRow:
    """Add the card of a record to a row."""
    card = make_card(record["report"])
    messages = (*card.list_lines(), *map(str, card.details))
    return replace(row, messages=messages, verdict=card.verdict, reason=card.reason)
