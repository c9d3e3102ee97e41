"""Plan a batch: read all headers and find all refusals before any work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, RefusedError, make_refusal
from napari_dip.io.outputs import check_folder, check_unlocked
from napari_dip.io.paths import check_names_differ, expand_input_paths, make_result_name
from napari_dip.io.reading import read_spec
from napari_dip.pipeline.api import load_recipe, parse_axes
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.store.joint_network import NETWORK_FILE_INPUT
from napari_dip.scale.batch.jobs import BatchPlan, Job
from napari_dip.scale.batch.records import (
    MANIFEST_FILE,
    PAGE_FILE,
    TABLE_FILE,
    find_records_folder,
    has_same_inputs,
    make_relative_path,
    make_result_paths,
    read_batch_cores,
    read_batch_manifest,
    read_file_record,
)
from napari_dip.scale.batch.series import choose_batch_network, plan_joint_training

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import JointNetwork, Plan
    from napari_dip.pipeline.recipe import Recipe


def find_remaining_plans(plan: BatchPlan) -> dict[int, Plan]:
    """Return the plans of the files without a record of an earlier call, by number of the file.

    Records are not verified.
    """
    return {
        number: job.plan
        for number, job in enumerate(plan.jobs, 1)
        if not isinstance(job.plan, Refusal)
        and not (plan.resume and read_file_record(job.paths, job.plan.source, plan.recipe))
    }


def plan_batch(
    recipe: object,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    outdir: str | os.PathLike[str],
    *,
    resume: bool = False,
    axes: str | None = None,
    extra_paths: Mapping[str, str | os.PathLike[str]] | None = None,
    machine: Machine | None = None,
    threads: int | None = None,
    process_count: int = 1,
    joint_training: bool = False,
) -> BatchPlan:
    """Plan a batch from headers alone, without writing a file or loading the engine.

    Parameters
    ----------
    recipe, inputs, outdir, resume, axes, joint_training
        As for `napari_dip.batch`.
    extra_paths : mapping of str to path, optional
        Further inputs of the task, such as a PSF: one for all files.
    machine : Machine, optional
        Machine to plan for. Default: this one.
    threads : int, optional
        Maximum threads of each fit. Default: as in the resumed batch, else all cores.
    process_count : int
        Number of files that are restored at once and share the cores.

    Returns
    -------
    BatchPlan
        Includes the files that cannot be restored, with the reason.

    Raises
    ------
    RefusedError
        If the batch as a whole cannot run, such as for two results of one name.
    """
    loaded_recipe, axes = load_recipe(recipe), parse_axes(axes)
    input_paths = _list_inputs(inputs)
    if not isinstance(outdir, str | os.PathLike):
        raise RefusedError(_make_path_refusal("The folder of the results", outdir))
    extra_headers = _read_extra_headers(loaded_recipe, extra_paths or {})
    folder = Path(os.fspath(outdir) or "")
    check_folder(os.fspath(outdir))
    check_unlocked(folder / MANIFEST_FILE)
    sources, notes = expand_input_paths(input_paths, folder)
    earlier = read_batch_manifest(folder, loaded_recipe) if resume else {}
    earlier_cores = read_batch_cores(folder) if earlier else None
    machine = _limit_cores(machine or detect_machine(), threads or earlier_cores, process_count)
    series = choose_batch_network(
        folder, (extra_paths or {}).get(NETWORK_FILE_INPUT), joint_training, begun=bool(earlier)
    )
    prepared = loaded_recipe, axes, extra_headers, machine, series.network
    jobs = tuple(_plan_job(source, folder, *prepared) for source in sources)
    jobs, joint_plan = plan_joint_training(jobs, series, machine.cores)
    restorable = [job for job in jobs if not isinstance(job.plan, Refusal)]
    _check_no_overwrite(folder, restorable, extra_headers, earlier, resume)
    series.check_place(earlier)
    files = {
        **earlier,
        **{job.paths.result.name: make_relative_path(job.source, folder) for job in restorable},
    }
    plan = BatchPlan(
        recipe=loaded_recipe,
        folder=folder,
        jobs=jobs,
        resume=resume,
        files=files,
        machine=machine,
        axes=axes,
        notes=(*notes, *series.notes),
        network=series.network,
        joint_training=joint_plan,
    )
    check_folder(
        folder, sum(4 * prod(plan.result_shape) for plan in find_remaining_plans(plan).values())
    )
    return plan


def _list_inputs(inputs: object) -> list[str | os.PathLike[str]]:
    """List the inputs; raise `RefusedError` if they are no paths."""
    if isinstance(inputs, str | os.PathLike):
        return [inputs]
    if isinstance(inputs, bytes | bytearray | Mapping) or not isinstance(inputs, Iterable):
        raise RefusedError(_make_path_refusal("Inputs", inputs))
    for path in (paths := list(inputs)):
        if not isinstance(path, str | os.PathLike):
            raise RefusedError(_make_path_refusal("Each input", path))
    return paths


def _make_path_refusal(what: str, result: object) -> Refusal:
    kind = "None" if result is None else f"something of type {type(result).__name__}"
    return make_refusal("batch-paths", what=what, found=kind)


def _plan_job(
    source: Path,
    folder: Path,
    recipe: Recipe,
    axes: str | None,
    extra_headers: Mapping[str, ImageSpec],
    machine: Machine,
    network: JointNetwork | None,
) -> Job:
    plan = plan_file(recipe, source, axes, extra_headers, machine, network)
    return Job(source=source, plan=plan, paths=make_result_paths(folder, make_result_name(source)))


def _limit_cores(machine: Machine, cores: int | None, process_count: int) -> Machine:
    """Return the machine with the number of cores that each fit uses."""
    wanted_cores = cores or machine.cores // process_count
    return replace(machine, cores=max(1, min(wanted_cores, machine.cores)))


def _read_extra_headers(
    recipe: Recipe, extra_paths: Mapping[str, str | os.PathLike[str]]
) -> dict[str, ImageSpec]:
    """Read the headers of the further inputs, which all files share.

    A repeated exposure is refused, since it belongs to a single file.
    """
    names = [
        task_input.name
        for task_input in recipe.task.spec.inputs[1:]
        if not task_input.is_repeated_exposure
    ]
    if unknown := set(extra_paths) - {*names, NETWORK_FILE_INPUT}:
        facts = {"field": min(unknown), "known": ", ".join(names) or "this task takes none"}
        raise RefusedError("setting-unknown", **facts)
    return {
        name: read_spec(path) for name, path in extra_paths.items() if name != NETWORK_FILE_INPUT
    }


def plan_file(
    recipe: Recipe,
    source: Path,
    axes: str | None,
    extra_headers: Mapping[str, ImageSpec],
    machine: Machine,
    network: JointNetwork | None = None,
) -> Plan | Refusal:
    """Read the header of one file and plan its run.

    Parameters
    ----------
    recipe : Recipe
    source : Path
    axes : str or None
        Axes that override those in the file.
    extra_headers : mapping of str to ImageSpec
        Headers of the further inputs.
    machine : Machine
    network : JointNetwork, optional
        Network to apply to the file.

    Returns
    -------
    Plan or Refusal
        The refusal says why the file cannot be restored.
    """
    try:
        return preflight(recipe, read_spec(source, axes), machine, extra_headers, network)
    except RefusedError as error:
        return error.refusal


def _check_no_overwrite(
    folder: Path,
    jobs: list[Job],
    extra_headers: Mapping[str, ImageSpec],
    earlier: Mapping[str, str],
    resume: bool,
) -> None:
    """Refuse to start if a file would be overwritten that is no result of this batch.

    Nor may two inputs have one result name.
    """
    check_names_differ(job.source for job in jobs)
    own_paths = [find_records_folder(folder), *(path for job in jobs for path in job.paths)]
    if linked := next((path for path in own_paths if path.is_symlink()), None):
        raise RefusedError("output-linked", path=linked)
    inputs = {_identify_file(job.source) for job in jobs}
    inputs |= {_identify_file(Path(spec.path)) for spec in extra_headers.values() if spec.path}
    new_paths = (
        [] if earlier else [folder / name for name in (MANIFEST_FILE, TABLE_FILE, PAGE_FILE)]
    )
    for job in jobs:
        if job.paths.result.exists() and _identify_file(job.paths.result) in inputs:
            raise RefusedError("output-is-input", path=job.paths.result)
        if job.paths.result.name not in earlier:
            new_paths += [job.paths.result, job.paths.record, job.paths.picture]
            new_paths += [job.paths.get_learned_path(name) for name in _list_learned_outputs(job)]
        elif not _is_own_result(job, folder, earlier):
            new_paths.append(job.paths.result)
    for path in new_paths:
        if os.path.lexists(path):
            code = "batch-foreign" if resume else "batch-exists"
            raise RefusedError(code, path=path)


def _list_learned_outputs(job: Job) -> tuple[str, ...]:
    return () if isinstance(job.plan, Refusal) else tuple(job.plan.recipe.task.spec.extra_outputs)


def _is_own_result(job: Job, folder: Path, earlier: Mapping[str, str]) -> bool:
    """Return whether an existing result comes from this job's file, which may have moved since."""
    if isinstance(job.plan, Refusal):
        return False
    if earlier[job.paths.result.name] == make_relative_path(job.source, folder):
        return True
    record = read_file_record(job.paths, job.plan.source, job.plan.recipe)
    return record is not None and has_same_inputs(record, job.inputs)


def _identify_file(path: Path) -> tuple[int, int] | str:
    """Return device and inode of a file, or its real path, to recognise the same file."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
