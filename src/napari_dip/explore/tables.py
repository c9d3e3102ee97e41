"""Figures as text that every spreadsheet reads."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from napari_dip.run.batch_table import plain_cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table as CSV; numbers with all their digits, so that they are those of the run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(map(plain_cell, row) for row in rows)
    return text.getvalue()
