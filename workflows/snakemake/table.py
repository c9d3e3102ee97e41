"""Gather the records into one table: a row for each image."""

import csv
import json
from pathlib import Path

COLUMNS = ("image", "state", "prior", "iterations", "stop_reason", "seconds", "warnings", "refused")

job = snakemake  # noqa: F821  # Snakemake defines it
with open(job.output[0], "w", newline="", encoding="utf-8") as file:
    table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
    table.writeheader()
    for path in map(Path, job.input):
        record = json.loads(path.read_text(encoding="utf-8"))
        verdict = record.get("verdict") or {}
        row = {
            "image": path.stem,
            "state": "refused" if "refused" in record else "restored",
            "prior": (record.get("prior") or {}).get("key", ""),
            "warnings": " ".join(verdict.get("warnings", [])),
        }
        table.writerow({**record, **row})
