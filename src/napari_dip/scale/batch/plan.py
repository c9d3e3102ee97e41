"""What a batch will do: all headers read, all refusals found, before any work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.outputs import check_folder, check_free
from napari_dip.io.paths import check_names_differ, gather, make_result_name
from napari_dip.io.reading import read_spec
from napari_dip.pipeline.api import load_recipe, parse_axes
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.store.shared_network import SHARED_NETWORK_INPUT, plan_with_network
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
    from napari_dip.pipeline.plan.types import Plan, SharedNetwork
    from napari_dip.pipeline.recipe import Recipe


def list_remaining_plans(plan: BatchPlan) -> tuple[Plan, ...]:
    """Plans of the files without a receipt of an earlier call, whose word is taken here."""
    plans = [(job.paths, job.plan) for job in plan.jobs if not isinstance(job.plan, Refusal)]
    if not plan.resume:
        return tuple(item for _, item in plans)
    return tuple(p for at, p in plans if read_file_record(at, p.source, plan.recipe) is None)


def plan_batch(
    recipe: object,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    outdir: str | os.PathLike[str],
    *,
    resume: bool = False,
    axes: str | None = None,
    others: Mapping[str, str | os.PathLike[str]] | None = None,
    machine: Machine | None = None,
    threads: int | None = None,
    sharing: int = 1,
    joint_training: bool = False,
) -> BatchPlan:
    """Read all headers and say what will be done; writes nothing and loads no engine.

    Parameters
    ----------
    recipe, inputs, outdir, resume, axes, joint_training
        As for `napari_dip.batch`.
    others : mapping of str to path, optional
        Further inputs of the task, such as a PSF: one for all files.
    machine : Machine, optional
        What to plan with. Default: this one.
    threads : int, optional
        Most threads of each fit. Default: as earlier calls in that folder, else all cores.
    sharing : int
        Files that are worked on at once, which share the cores.

    Returns
    -------
    BatchPlan
        Files that cannot be restored are in it, with the reason.

    Raises
    ------
    Refused
        If the batch as a whole cannot be done, such as for two results of one name.
    """
    choice, axes = load_recipe(recipe), parse_axes(axes)
    named = _list_inputs(inputs)
    if not isinstance(outdir, str | os.PathLike):
        raise Refused(_make_path_refusal("The folder of the results", outdir))
    further = _read_extra_headers(choice, others or {})
    folder = Path(os.fspath(outdir) or "")
    check_folder(os.fspath(outdir))
    check_free(folder / MANIFEST_FILE)
    gathered = gather(named, folder)
    earlier = read_batch_manifest(folder, choice) if resume else {}
    before = read_batch_cores(folder) if earlier else None
    machine = _limit_cores(machine or detect_machine(), threads or before, sharing)
    series = choose_batch_network(
        folder, (others or {}).get(SHARED_NETWORK_INPUT), joint_training, begun=bool(earlier)
    )
    prepared = choice, axes, further, machine, series.network
    jobs = tuple(_plan_job(file, folder, *prepared) for file in gathered.files)
    jobs, lesson = plan_joint_training(jobs, series, machine.cores)
    sound = [job for job in jobs if not isinstance(job.plan, Refusal)]
    _check_no_overwrite(folder, sound, further, earlier, resume)
    series.check_place(earlier)
    files = {
        **earlier,
        **{job.paths.result.name: make_relative_path(job.source, folder) for job in sound},
    }
    plan = BatchPlan(
        recipe=choice,
        folder=folder,
        jobs=jobs,
        resume=resume,
        files=files,
        machine=machine,
        axes=axes,
        notes=(*gathered.notes, *series.notes),
        network=series.network,
        joint_training=lesson,
    )
    check_folder(folder, sum(4 * prod(plan.result_shape) for plan in list_remaining_plans(plan)))
    return plan


def _list_inputs(inputs: object) -> list[str | os.PathLike[str]]:
    """List the inputs, or say what was given instead of paths."""
    if isinstance(inputs, str | os.PathLike):
        return [inputs]
    if isinstance(inputs, bytes | bytearray | Mapping) or not isinstance(inputs, Iterable):
        raise Refused(_make_path_refusal("Inputs", inputs))
    for item in (named := list(inputs)):
        if not isinstance(item, str | os.PathLike):
            raise Refused(_make_path_refusal("Each input", item))
    return named


def _make_path_refusal(what: str, result: object) -> Refusal:
    kind = "None" if result is None else f"something of type {type(result).__name__}"
    return refusal("batch-paths", what=what, found=kind)


def _plan_job(
    source: Path,
    folder: Path,
    recipe: Recipe,
    axes: str | None,
    others: Mapping[str, ImageSpec],
    machine: Machine,
    network: SharedNetwork | None,
) -> Job:
    plan = plan_file(recipe, source, axes, others, machine, network)
    return Job(source=source, plan=plan, paths=make_result_paths(folder, make_result_name(source)))


def _limit_cores(machine: Machine, cores: int | None, sharing: int) -> Machine:
    """Leave of a machine the cores that each fit counts on: its share, or those asked for."""
    return replace(machine, cores=max(1, min(cores or machine.cores // sharing, machine.cores)))


def _read_extra_headers(
    recipe: Recipe, others: Mapping[str, str | os.PathLike[str]]
) -> dict[str, ImageSpec]:
    """Read the headers of the further inputs, which every file shares.

    A second shot of the same object is of one file's object, so there is none for all.
    """
    names = [item.name for item in recipe.task.inputs[1:] if not item.measures]
    if unknown := set(others) - {*names, SHARED_NETWORK_INPUT}:
        facts = {"field": min(unknown), "known": ", ".join(names) or "this task takes none"}
        raise Refused(refusal("setting-unknown", **facts))
    return {name: read_spec(path) for name, path in others.items() if name != SHARED_NETWORK_INPUT}


def plan_file(
    recipe: Recipe,
    source: Path,
    axes: str | None,
    others: Mapping[str, ImageSpec],
    machine: Machine,
    network: SharedNetwork | None = None,
) -> Plan | Refusal:
    """Read one header and say what will be done, or why not.

    Parameters
    ----------
    recipe : Recipe
    source : Path
    axes : str or None
        Names of the axes, if not those that the file says.
    others : mapping of str to ImageSpec
        Headers of the further inputs.
    machine : Machine
    network : SharedNetwork, optional
        That the file is to be shown.
    """
    try:
        return plan_with_network(
            preflight(recipe, read_spec(source, axes), machine, others), network
        )
    except Refused as no:
        return no.refusal


def _check_no_overwrite(
    folder: Path,
    jobs: list[Job],
    others: Mapping[str, ImageSpec],
    earlier: Mapping[str, str],
    resume: bool,
) -> None:
    """Refuse to begin where a file would be lost: of this batch by a twin, or not its own."""
    check_names_differ(job.source for job in jobs)
    links = [find_records_folder(folder), *(place for job in jobs for place in job.paths)]
    if linked := next((place for place in links if place.is_symlink()), None):
        raise Refused(refusal("output-linked", path=make_printable(str(linked))))
    inputs = {_identify_file(job.source) for job in jobs}
    inputs |= {_identify_file(Path(spec.path)) for spec in others.values() if spec.path}
    taken = [] if earlier else [folder / name for name in (MANIFEST_FILE, TABLE_FILE, PAGE_FILE)]
    for job in jobs:
        if job.paths.result.exists() and _identify_file(job.paths.result) in inputs:
            raise Refused(refusal("output-is-input", path=make_printable(str(job.paths.result))))
        if job.paths.result.name not in earlier:
            taken += [job.paths.result, job.paths.record, job.paths.picture]
            taken += [job.paths.get_learned_path(name) for name in _list_learned_outputs(job)]
        elif not _is_own_result(job, folder, earlier):
            taken.append(job.paths.result)
    for place in taken:
        if os.path.lexists(place):
            code = "batch-foreign" if resume else "batch-exists"
            raise Refused(refusal(code, path=make_printable(str(place))))


def _list_learned_outputs(job: Job) -> tuple[str, ...]:
    return () if isinstance(job.plan, Refusal) else tuple(job.plan.recipe.task.gives)


def _is_own_result(job: Job, folder: Path, earlier: Mapping[str, str]) -> bool:
    """Whether a result of that name comes from this very file, which may lie elsewhere by now."""
    if isinstance(job.plan, Refusal):
        return False
    if earlier[job.paths.result.name] == make_relative_path(job.source, folder):
        return True
    receipt = read_file_record(job.paths, job.plan.source, job.plan.recipe)
    return receipt is not None and has_same_inputs(receipt, job.inputs)


def _identify_file(path: Path) -> tuple[int, int] | str:
    """Tell files apart, however they are reached."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
