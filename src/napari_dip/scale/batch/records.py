"""Read and write the manifest of a batch and the record of each file.

A record is valid only while inputs and results match its hashes. It is written last, so that a
killed program leaves no record of an incomplete result.
"""

from __future__ import annotations

import os
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Fault, RefusedError
from napari_dip.io.paths import (
    MAX_REPORT_BYTES,
    compute_file_sha256,
    describe_exception,
    shorten_name,
)
from napari_dip.io.writing import write_text
from napari_dip.pipeline.assess.report_fields import (
    RECORD_SCHEMA,
    BatchManifestFields,
    FileRecordFields,
    read_record,
)
from napari_dip.pipeline.store.result_files import format_json
from napari_dip.scale.batch.jobs import MAX_SUFFIX_BYTES, ResultPaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.scale.batch.jobs import BatchPlan, Job

MANIFEST_FILE = "batch.json"
TABLE_FILE = "batch.csv"
PAGE_FILE = "batch.html"
RECORDS_FOLDER = "records"
#: Name of the folder in earlier versions.
OLD_RECORDS_FOLDER = "receipts"
#: Maximum bytes of a result file per pixel: a value has at most eight, and the coarser levels of an
#: OME-Zarr add at most as many. Metadata counts in addition (`MAX_REPORT_BYTES`).
_MAX_BYTES_PER_PIXEL = 16
#: Name of the file of the joint network.
NETWORK_FILE = "series.network"


def find_records_folder(folder: Path) -> Path:
    """Return the folder of the records; under its old name where an earlier version created it."""
    old = folder / OLD_RECORDS_FOLDER
    return old if old.is_dir() and not old.is_symlink() else folder / RECORDS_FOLDER


def make_result_paths(folder: Path, name: str) -> ResultPaths:
    """Return the paths of all files that belong to a result."""
    records = find_records_folder(folder)
    short_name = shorten_name(name.replace("/", "-"), MAX_SUFFIX_BYTES)
    return ResultPaths(
        result=folder / name,
        record=records / f"{short_name}.json",
        overview=records / f"{short_name}.png",
        run_folder=records / f"{short_name}.unfinished",
    )


def read_batch_manifest(folder: Path, recipe: Recipe) -> BatchManifestFields | None:
    """Read which results in a folder belong to this batch, and how it was planned.

    Returns
    -------
    BatchManifestFields or None
        None without a manifest.

    Raises
    ------
    RefusedError
        If the manifest is invalid, or of another recipe.
    """
    if not os.path.lexists(folder / MANIFEST_FILE):
        return None
    fields = _read_manifest_fields(folder)
    if not _is_same_recipe(fields.recipe, recipe):
        raise RefusedError("batch-recipe", folder=folder)
    return fields


def _is_same_recipe(stored: Mapping[str, Any], recipe: Recipe) -> bool:
    """Compare recipes apart from the threads, which a resumed batch may change."""
    return {**stored, "threads": None} == {**recipe.to_dict(), "threads": None}


def _read_manifest_fields(folder: Path) -> BatchManifestFields:
    """Read the manifest of a batch; raise `RefusedError` if it is invalid."""
    path = folder / MANIFEST_FILE
    try:
        record = read_record(path, "list of files and results", BatchManifestFields)
    except ValueError as error:
        raise RefusedError("batch-broken", path=path, why=describe_exception(error)) from None
    return BatchManifestFields.model_validate(record)


def read_earlier_batch(folder: Path) -> tuple[dict[str, Any], tuple[str, ...], bool] | None:
    """Read recipe and inputs of the batch in a folder; None without a readable manifest.

    Returns
    -------
    recipe : dict
        In plain JSON types, not validated.
    sources : tuple of str
        Paths of all files: those with results first, then the refused ones.
    joint_training : bool
        Whether one network was to be fitted to many files.
    """
    with suppress(RefusedError):
        fields = _read_manifest_fields(folder)
        sources = [os.path.normpath(folder / path) for path in fields.files.values()]
        sources += [refused_file.source for refused_file in fields.refused]
        return fields.recipe, tuple(dict.fromkeys(sources)), fields.joint_training
    return None


def make_relative_path(source: Path, folder: Path) -> str:
    """Return the path of an input relative to the results, so that both can move together."""
    target, seen_from = os.path.realpath(source), os.path.realpath(folder)
    with suppress(ValueError):  # another Windows drive
        return Path(os.path.relpath(target, seen_from)).as_posix()
    return target


def write_batch_manifest(plan: BatchPlan) -> None:
    """Write the manifest of a batch: the list of its results, before any of them exists.

    Pixels depend slightly on the number of cores, so a resumed batch uses as many.
    """
    network_path = plan.network and Path(plan.network.path)
    is_joint = network_path == plan.folder / NETWORK_FILE
    refused = plan.refused_files
    content = {
        "schema": RECORD_SCHEMA,
        "recipe": plan.recipe.to_dict(),
        "cores": plan.machine.cores,
        **({"joint_training": True} if is_joint else {}),
        "files": dict(plan.files),
        "refused": [{"source": str(source), **refusal.to_dict()} for source, refusal in refused],
    }
    write_text(plan.folder / MANIFEST_FILE, format_json(content), overwrite=True)


def write_file_record(
    paths: ResultPaths,
    header: ImageHeader,
    recipe: Recipe,
    hashes: Mapping[str, str],
    *,
    report: Mapping[str, Any] | None = None,
    results: Iterable[Path] = (),
    fault: Fault | None = None,
    log: str = "",
) -> dict[str, Any]:
    """Write the record of a file, after all its other outputs.

    Parameters
    ----------
    paths : ResultPaths
    header : ImageHeader
    recipe : Recipe
    hashes : mapping of str to str
        Hash of each input, by its name in the task.
    report : mapping, optional
        Report of a run with a result.
    results : iterable of Path
        Files that were written; they are hashed here.
    fault : Fault, optional
        Why there is no result.
    log : str
        Traceback of an unexpected error.

    Returns
    -------
    dict
        The content of the record.
    """
    content: dict[str, Any] = {
        "schema": RECORD_SCHEMA,
        "source": str(header.path),
        "axes": header.axes,
        "recipe": recipe.to_dict(),
        "inputs_sha256": dict(hashes),
        "results_sha256": {
            _format_relative_path(paths, path): compute_file_sha256(path) for path in results
        },
        "refusal": None if fault is None else fault.to_dict(),
        "log": log,
        "report": None if report is None else dict(report),
    }
    write_text(paths.record, format_json(content), overwrite=True)
    return content


def read_file_record(
    paths: ResultPaths, header: ImageHeader, recipe: Recipe
) -> dict[str, Any] | None:
    """Read the record of a result of this recipe, without verifying any file."""
    record = read_result_record(paths)
    if record and record["axes"] == header.axes and _is_same_recipe(record["recipe"], recipe):
        return record
    return None


def read_result_record(paths: ResultPaths) -> dict[str, Any] | None:
    """Read the record of a result that exists, whatever its recipe, without verifying any file."""
    with suppress(RefusedError, OSError, ValueError):
        if paths.result.exists():
            return read_record(paths.record, "record", FileRecordFields)
    return None


def read_verified_record(
    job: Job, plan: Plan, check: Callable[[], object] = lambda: None
) -> dict[str, Any] | None:
    """Read the record of a result and verify that inputs and results are unchanged.

    Parameters
    ----------
    job : Job
    plan : Plan
        Plan of the file.
    check : callable
        Called while files are hashed; may raise an exception to stop.

    Returns
    -------
    dict or None
        The record. None if anything differs or cannot be read, or if the record lists other files
        than this plan would write.
    """
    paths = job.paths
    record = read_file_record(paths, plan.header, plan.recipe)
    if record is None:
        return None
    outputs = paths.list_outputs(plan.recipe.task)
    paths_by_name = {_format_relative_path(paths, path): path for path in outputs}
    hashes = record["results_sha256"]
    if hashes.keys() != paths_by_name.keys():
        return None
    max_bytes = _MAX_BYTES_PER_PIXEL * prod(plan.result_shape) + MAX_REPORT_BYTES
    with suppress(RefusedError):
        for name, path in paths_by_name.items():
            if compute_file_sha256(path, check, max_bytes=max_bytes) != hashes[name]:
                return None
        return record if has_same_inputs(record, job.inputs, check) else None
    return None


def has_same_inputs(
    record: Mapping[str, Any],
    inputs: Mapping[str, Path],
    check: Callable[[], object] = lambda: None,
) -> bool:
    """Return whether inputs have the hashes of a record, wherever they are stored."""
    with suppress(RefusedError):
        return bool(record.get("inputs_sha256") == hash_inputs(inputs, check))
    return False


def hash_inputs(
    inputs: Mapping[str, Path], check: Callable[[], object] = lambda: None
) -> dict[str, str]:
    """Hash the inputs of a result; raise `RefusedError` if one cannot be read."""
    return {name: compute_file_sha256(path, check) for name, path in inputs.items()}


def _format_relative_path(paths: ResultPaths, path: Path) -> str:
    return path.relative_to(paths.record.parents[1]).as_posix()
