"""What a batch keeps beside its results: the list of its files, and a receipt for each.

A receipt counts as long as all that it speaks of is still there, byte for byte; it is written
last, so that a program killed at any moment leaves none for a result that is not whole.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refused, refusal
from napari_dip.io.integrity import compute_file_sha256, parse_strict_json
from napari_dip.io.paths import MAX_REPORT_BYTES, describe_exception, read_small_text, shorten_name
from napari_dip.io.writing import write_text
from napari_dip.pipeline.assess.report_fields import (
    SCHEMA,
    BatchManifestFields,
    FileRecordFields,
    find_field_fault,
)
from napari_dip.pipeline.recipe import migrate_record
from napari_dip.pipeline.store.results import format_json
from napari_dip.scale.batch.jobs import _MAX_SUFFIX_BYTES, ResultPaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import Job

MANIFEST_FILE, TABLE_FILE, PAGE_FILE, RECORDS_FOLDER = (
    "batch.json",
    "batch.csv",
    "batch.html",
    "records",
)
#: What that folder was called before.
OLD_RECORDS_FOLDER = "receipts"
#: Bytes of a file for each pixel of a result, at most: eight, and the coarser levels of an
#: OME-Zarr; what else a file tells is no longer than a report.
_MAX_BYTES_PER_PIXEL = 16
#: Where one network for all files is kept.
NETWORK_FILE = "series.network"


def find_records_folder(folder: Path) -> Path:
    """Give the folder of the records of a batch: under its old name where it was begun so."""
    old = folder / OLD_RECORDS_FOLDER
    return old if old.is_dir() and not old.is_symlink() else folder / RECORDS_FOLDER


def make_result_paths(folder: Path, name: str) -> ResultPaths:
    """Name the places of what belongs to a result."""
    kept = find_records_folder(folder)
    short = shorten_name(name, _MAX_SUFFIX_BYTES)
    return ResultPaths(
        result=folder / name,
        record=kept / f"{short}.json",
        picture=kept / f"{short}.png",
        checkpoint=kept / f"{short}.unfinished",
        crash_counter=kept / f"{short}.begun",
    )


def read_batch_manifest(folder: Path, recipe: Recipe) -> Mapping[str, str]:
    """Read which results in a folder come from this batch, and the addresses of their inputs.

    Returns
    -------
    mapping of str to str
        Empty where there is no list.

    Raises
    ------
    Refused
        If the list is not one, or of another recipe.
    """
    if not os.path.lexists(folder / MANIFEST_FILE):
        return {}
    fields = _read_manifest_fields(folder)
    if fields.recipe != recipe.to_dict():
        raise Refused(refusal("batch-recipe", folder=folder))
    return fields.files


def _read_manifest_fields(folder: Path) -> BatchManifestFields:
    """Read the list of a batch; raises Refused if it is none."""
    path = folder / MANIFEST_FILE
    try:
        raw = parse_strict_json(read_small_text(path, "a list of files", MAX_REPORT_BYTES))
    except ValueError as error:
        raise Refused(refusal("batch-broken", path=path, why=describe_exception(error))) from None
    raw = migrate_record(raw) if isinstance(raw, dict) else raw
    if fault := find_field_fault(raw, BatchManifestFields):
        why = f"it is no list of files and results, since {fault}"
        raise Refused(refusal("batch-broken", path=path, why=why))
    return BatchManifestFields.model_validate(raw)


def read_earlier_batch(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """Read what the batch in a folder was begun with; None if there is none that can be read.

    Returns
    -------
    recipe : dict
        In plain JSON types; whoever takes it checks it.
    sources : tuple of str
        Paths of all its files: those with results first, then those that were refused.
    """
    with suppress(Refused):
        fields = _read_manifest_fields(folder)
        own = [os.path.normpath(folder / place) for place in fields.files.values()]
        refused = [item.source for item in fields.refused]
        return fields.recipe, tuple(dict.fromkeys([*own, *refused]))
    return None


def read_batch_cores(folder: Path) -> int | None:
    """Read how many cores an earlier call in this folder counted on; None: not known."""
    with suppress(Refused):
        return _read_manifest_fields(folder).cores or None
    return None


def has_joint_training(folder: Path) -> bool:
    """Whether an earlier call in this folder was to fit one network to all files."""
    with suppress(Refused):
        return _read_manifest_fields(folder).joint_training
    return False


def make_relative_path(source: Path, folder: Path) -> str:
    """Say where an input lies: as seen from the results, so that both may move together."""
    target, seen_from = os.path.realpath(source), os.path.realpath(folder)
    with suppress(ValueError):  # another drive of Windows
        return Path(os.path.relpath(target, seen_from)).as_posix()
    return target


def write_batch_manifest(
    folder: Path,
    recipe: Recipe,
    files: Mapping[str, str],
    refused: Iterable[tuple[Path, Refusal]],
    cores: int,
    joint_training: bool = False,
) -> None:
    """Write down which results will come from this batch, before any does.

    Parameters
    ----------
    folder : Path
    recipe : Recipe
    files : mapping of str to str
        Names of the results, and the addresses of their inputs.
    refused : iterable of (Path, Refusal)
        Files that no work will be done for.
    cores : int
        That each fit counts on: pixels depend on it a little, so that what goes on with this
        batch counts on as many.
    joint_training : bool
        Whether one is fitted to many of the files first.
    """
    content = {
        "schema": SCHEMA,
        "recipe": recipe.to_dict(),
        "cores": cores,
        **({"joint_training": True} if joint_training else {}),
        "files": dict(files),
        "refused": [{"source": str(source), **no.to_dict()} for source, no in refused],
    }
    write_text(folder / MANIFEST_FILE, format_json(content), overwrite=True)


def write_file_record(
    at: ResultPaths,
    source: ImageSpec,
    recipe: Recipe,
    hashes: Mapping[str, str],
    *,
    report: Mapping[str, Any] | None = None,
    results: Iterable[Path] = (),
    no: Refusal | None = None,
    log: str = "",
) -> dict[str, Any]:
    """Write down what became of a file, once all else that belongs to it is on the disk.

    Parameters
    ----------
    at : ResultPaths
    source : ImageSpec
    recipe : Recipe
    hashes : mapping of str to str
        Of the files that were read, by the names that the task has for them.
    report : mapping, optional
        The run's own, where it ended with a picture.
    results : iterable of Path
        Files that were written; their hashes are taken from the disk.
    no : Refusal, optional
        Why there is no result.
    log : str
        For a report, where nobody foresaw it.

    Returns
    -------
    dict
        What was written.
    """
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "source": str(source.path),
        "axes": source.axes,
        "recipe": recipe.to_dict(),
        "inputs_sha256": dict(hashes),
        "results_sha256": {
            _format_relative_path(at, path): compute_file_sha256(path) for path in results
        },
        "refusal": None if no is None else no.to_dict(),
        "log": log,
        "report": None if report is None else dict(report),
    }
    write_text(at.record, format_json(content), overwrite=True)
    return content


def read_file_record(at: ResultPaths, source: ImageSpec, recipe: Recipe) -> dict[str, Any] | None:
    """Read the receipt of a result that was made by this recipe, without a look at the files."""
    with suppress(Refused, OSError, ValueError):
        record: dict[str, Any] = parse_strict_json(
            read_small_text(at.record, "a record", MAX_REPORT_BYTES)
        )
        record = migrate_record(record)
        if find_field_fault(record, FileRecordFields):
            return None
        return (
            record
            if (record["recipe"], record["axes"]) == (recipe.to_dict(), source.axes)
            else None
        )
    return None


def read_verified_record(
    job: Job, plan: Plan, check: Callable[[], object] = lambda: None
) -> dict[str, Any] | None:
    """Read the receipt of a result, if inputs and results are still what they were.

    Parameters
    ----------
    job : Job
    plan : Plan
        Of that file.
    check : callable
        Called while files are hashed; raises what is to end it.

    Returns
    -------
    dict or None
        None also where something cannot be read, or where the receipt names other files than a
        result of this plan has: who wrote it is not known then.
    """
    at, task = job.paths, plan.recipe.task
    record = read_file_record(at, plan.source, plan.recipe)
    if record is None:
        return None
    written = [at.result, *(at.get_learned_path(name) for name in task.gives)]
    facts = record["results_sha256"]
    if set(facts) != {_format_relative_path(at, path) for path in written}:
        return None
    most = _MAX_BYTES_PER_PIXEL * prod(plan.result_shape) + MAX_REPORT_BYTES
    with suppress(Refused):
        if all(
            compute_file_sha256(p, check, most=most) == facts[_format_relative_path(at, p)]
            for p in written
        ):
            return record if has_same_inputs(record, job.inputs, check) else None
    return None


def has_same_inputs(
    receipt: Mapping[str, Any],
    inputs: Mapping[str, Path],
    check: Callable[[], object] = lambda: None,
) -> bool:
    """Whether these are the inputs of a receipt, byte for byte, wherever they lie."""
    with suppress(Refused):
        return bool(receipt.get("inputs_sha256") == hash_inputs(inputs, check))
    return False


def hash_inputs(
    inputs: Mapping[str, Path], check: Callable[[], object] = lambda: None
) -> dict[str, str]:
    """Hash the files that a result comes from; raises `Refused` where one cannot be read."""
    return {name: compute_file_sha256(path, check) for name, path in inputs.items()}


def _format_relative_path(at: ResultPaths, path: Path) -> str:
    return path.relative_to(at.result.parent).as_posix()
