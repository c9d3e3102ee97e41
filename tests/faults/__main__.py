"""`make faults`: cause real faults, and record how the program ends.

    python -m faults [--only PART]... [--match TEXT]... [--small] [--again]

Results are appended to benchmarks/out/faults/PART.jsonl with a hash of the code; trials are not
repeated on the same code without --again. The exit code is 1 if a trial failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Module of each part.
PARTS = {
    "bad-input": "bad_input",
    "properties": "properties",
    "numerics": "numerics",
    "hostile": "hostile",
    "kills": "kills",
    "memory": "memory",
    "lost-gpu": "lost_gpu",
    "recovery": "recovery",
    "disk": "disk",
    "many": "batch_kills",
    "leaks": "leaks",
    "mutations": "mutations",
    "cases-files": "cases.files",
    "cases-numerics": "cases.numerics",
    "cases-processes": "cases.processes",
    "cases-state": "cases.state",
    "cases-security": "cases.security",
}


def main() -> int:
    """Run the requested parts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be repeated")
    parser.add_argument("--match", action="append", help="only trials whose name begins so")
    parser.add_argument("--small", action="store_true", help="a few trials of each part")
    parser.add_argument("--again", action="store_true", help="forget what was done before")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "out")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    rows = [row for part in arguments.only or PARTS for row in _run_part(part, arguments)]
    failed = [row for row in rows if not row["ok"]]
    if not arguments.small:
        _write_table(arguments.out, arguments.only)
    _print_outcomes(rows)
    for row in failed:
        print(f"FAILED {row['part']}: {row['trial']}: {row['seen']}")
    return 1 if failed else 0


def _print_outcomes(rows: list[dict[str, Any]]) -> None:
    """Print the number of trials by part in `cases` and outcome."""
    from faults.cases import Outcome

    outcomes = list(Outcome)
    cases = [row for row in rows if row["part"].startswith("cases-")]
    families = dict.fromkeys(row["part"] for row in cases)
    if families:
        print(
            "| family | trials | "
            + " | ".join(outcomes)
            + " |\n"
            + "|---" * (len(outcomes) + 2)
            + "|"
        )
    for family in (*families, *(["all"] if len(families) > 1 else [])):
        ours = [row for row in cases if family in (row["part"], "all")]
        counts = [sum(row.get("kind") == end for row in ours) for end in outcomes]
        print(f"| {family} | {len(ours)} | " + " | ".join(map(str, counts)) + " |")


def _run_part(part: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the remaining trials of one part, and append each result to its file."""
    folder = options.out / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}{'.small' if options.small else ''}.jsonl"
    if options.again:
        path.unlink(missing_ok=True)
    done = {row["trial"]: row for row in _read_rows(path) if row.get("code") == hash_code()}
    rows = []
    module = import_module(f"faults.{PARTS[part]}")
    with path.open("a", encoding="utf-8") as file:
        # with --match, a part's trials are all looked through, however few are asked for
        for trial in module.trials(small=options.small and not options.match):
            if options.match and not trial.name.startswith(tuple(options.match)):
                continue
            if trial.name not in done:
                began = time.monotonic()
                row = trial.run()
                row |= {
                    "part": part,
                    "code": hash_code(),
                    "seconds": round(time.monotonic() - began, 2),
                }
                file.write(json.dumps(row) + "\n")
                file.flush()
                done[trial.name] = row
                if not row["ok"]:
                    print(f"{part}: {trial.name}: {row['seen']}", flush=True)
            rows.append(done[trial.name])
    print(f"{part}: {_count_trials(rows)} trials, {_count_trials(rows, False)} failed", flush=True)
    return rows


@cache
def hash_code() -> str:
    """Hash the code of the package, which results belong to."""
    package = find_spec("napari_dip")
    assert package is not None
    folder = Path(str(package.origin)).parent
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".json")):
        whole.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _count_trials(rows: list[dict[str, Any]], ok: bool | None = None) -> int:
    chosen = [row for row in rows if ok is None or row["ok"] is ok]
    return sum(row.get("count", row.get("kills", 1)) for row in chosen)


def _write_table(out: Path, only: list[str] | None) -> None:
    """Write the table of all parts, whichever call ran them."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import shared_data

    shared_data.OUT = out
    rows = []
    for part in PARTS:
        every = _read_rows(out / "faults" / f"{part}.jsonl")
        latest = {row["trial"]: row for row in every if row.get("code") == every[-1].get("code")}
        if not latest:
            continue
        latest_rows = list(latest.values())
        kinds: dict[str, int] = {}
        for row in latest_rows:
            kind = row.get("kind", "")
            kinds[kind] = kinds.get(kind, 0) + _count_trials([row])
        outcomes = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if kind)
        seconds = sum(row["seconds"] for row in latest_rows)
        failed = _count_trials(latest_rows, False)
        rows.append(
            {
                "part": part,
                "trials": _count_trials(latest_rows),
                "failed": failed,
                "seen": outcomes,
                "s": seconds,
                "code": latest_rows[-1].get("code", ""),
            }
        )
    shared_data.write("faults", rows, {"command": "make faults", "trials in all": len(rows)})


if __name__ == "__main__":
    sys.exit(main())
