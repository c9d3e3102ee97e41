"""The table of a batch: as CSV for a spreadsheet, and as one HTML page with pictures."""

from __future__ import annotations

import csv
import html
import io
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from napari_dip.errors import DipError
from napari_dip.io.paths import REPORT_BYTES, printable, readable_file
from napari_dip.run.page import html_page, picture_tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_dip.run.batch_file import FileOutcome
    from napari_dip.run.recipe import Recipe

#: How the states are called in the table.
STATES = {
    "restored": "restored",
    "kept": "restored before",
    "refused": "refused",
    "failed": "failed",
    "waiting": "not begun or not finished",
}
#: Beginnings that a spreadsheet takes for a formula, which a file's name must never be.
_FORMULA = ("=", "+", "-", "@")
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid #8886; padding: .6rem .8rem; text-align: left; vertical-align: top; }
img { background: #fff; display: block; max-width: 100%; }
td.name { overflow-wrap: anywhere; width: 22%; }
p { margin: 0 0 .4rem; }
pre { font-size: .85em; overflow-x: auto; }
"""


def table_text(outcomes: Iterable[FileOutcome]) -> str:
    """Write the table as CSV, one row for each file, with figures as the receipts have them.

    All text is in quotes: where cells are told apart by semicolons, one in a name would begin
    another cell.
    """
    text = io.StringIO()
    rows = [_row(one) for one in outcomes]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: plain_cell(value) for name, value in row.items()})
    return text.getvalue()


def page_text(outcomes: Iterable[FileOutcome], recipe: Recipe) -> str:
    """Write the table as HTML: nothing is loaded from elsewhere, and no program is in it."""
    outcomes = list(outcomes)
    counts = ", ".join(
        f"{count} {words}"
        for state, words in STATES.items()
        if (count := sum(one.state == state for one in outcomes))
    )
    rows = "\n".join(map(_page_row, outcomes))
    body = f"""<p>{html.escape(counts)}.</p>
<details><summary>Recipe</summary><pre>{html.escape(recipe.to_json())}</pre></details>
<table>
<thead><tr><th>File</th><th>Input, result, held-out loss</th><th>What to know</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""
    return html_page(f"{recipe.task.title}: {len(outcomes)} files", _STYLE, body)


def _row(one: FileOutcome) -> dict[str, Any]:
    report: Mapping[str, Any] = one.receipt.get("report") or {}
    losses = [loss for _, loss in report.get("held_out", ()) if loss is not None]
    hashes = one.receipt.get("inputs_sha256") or {}
    written = one.receipt.get("results_sha256") or {}
    return {
        "file": printable(str(one.source)),
        "state": STATES[one.state],
        "result": printable(one.result.name) if one.result else "",
        "seconds": report.get("seconds"),
        "iterations": report.get("iterations"),
        "best_iteration": report.get("best_iteration"),
        "stop_reason": report.get("stop_reason"),
        "prior": report.get("prior", {}).get("chosen"),
        "least_held_out_loss": min(losses, default=None),
        "residual_whiteness": report.get("residual", {}).get("whiteness"),
        "verdict": " ".join(_sentences(report)),
        "message": one.refusal.message if one.refusal else "",
        "version": report.get("version"),
        "torch": report.get("torch"),
        "device": report.get("device"),
        "threads": report.get("threads"),
        "input_sha256": hashes.get("image"),
        "result_sha256": written.get(one.result.name) if one.result else None,
    }


def _sentences(report: Mapping[str, Any]) -> list[str]:
    return list(report.get("verdict", {}).get("sentences", ()))


def plain_cell(value: object) -> object:
    """Keep text from being taken for a formula or a command; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    # spreadsheets pass over spaces, and take the wide signs of East Asian keyboards for the same
    begins = normalize("NFKC", value).lstrip()
    return f"'{shown}" if begins.startswith(_FORMULA) else shown


def _page_row(one: FileOutcome) -> str:
    row = _row(one)
    picture = ""
    if one.picture is not None:
        with suppress(OSError, DipError):  # one that a pipe has taken the place of would wait
            path, count = readable_file(one.picture)
            picture = picture_tag(path.read_bytes()) if count <= REPORT_BYTES else ""
    if one.refusal is not None:
        words = [one.refusal.sentence, one.refusal.remedy]
    else:
        report = one.receipt.get("report") or {}
        words = [*_sentences(report), *report.get("notes", ())]
    if row["stop_reason"]:
        ended = f"{row['iterations']} iterations in {row['seconds']} s: {row['stop_reason']}."
        words = [ended, *words]
    told = "".join(f"<p>{html.escape(str(text))}</p>" for text in dict.fromkeys(words))
    name = f"<p>{html.escape(row['file'])}</p><p>{html.escape(row['state'])}</p>"
    return f'<tr><td class="name">{name}</td><td>{picture}</td><td>{told}</td></tr>'
