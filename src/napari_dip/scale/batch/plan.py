"""Plan a batch: read all headers and find all refusals before any work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import (
    Refusal,
    RefusedError,
    make_refusal,
    make_unknown_refusal,
    raise_if_refused,
    return_refusal,
)
from napari_dip.errors.notes import make_note
from napari_dip.io.formats.zarr import list_fields
from napari_dip.io.outputs import check_unlocked, resolve_output_folder
from napari_dip.io.paths import check_names_differ, expand_input_paths, make_result_name
from napari_dip.io.reading import read_header
from napari_dip.pipeline.lazy_inputs import parse_axes
from napari_dip.pipeline.machine import MAX_THREADS, choose_thread_count, detect_machine
from napari_dip.pipeline.plan.costs import group_channels
from napari_dip.pipeline.plan.joint_training import (
    MAX_TRAINING_REGION_SIDE,
    choose_training_regions,
    refuse_channels,
)
from napari_dip.pipeline.plan.layout import describe_batch_axes
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import JointNetwork, TrainingRegion
from napari_dip.pipeline.recipe import load_recipe
from napari_dip.pipeline.store.network_files import NETWORK_FILE_INPUT, read_network
from napari_dip.scale.batch.jobs import (
    BatchPlan,
    Job,
    JointTrainingPlan,
    estimate_training_costs,
    list_training_units,
)
from napari_dip.scale.batch.joint_fit import fit_joint_network
from napari_dip.scale.batch.records import (
    MANIFEST_FILE,
    NETWORK_FILE,
    PAGE_FILE,
    TABLE_FILE,
    find_records_folder,
    has_same_inputs,
    make_relative_path,
    make_result_paths,
    read_batch_manifest,
    read_file_record,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageHeader
    from napari_dip.io.header import Headers
    from napari_dip.pipeline.assess.report_fields import BatchManifestFields
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.recipe import Recipe
    from napari_dip.public_types import FilePath
    from napari_dip.tasks.base import Task

#: Minimum number of files for joint training. It takes as long as two to three separate files, so
#: that with fewer than eight files it saves less than half of the time.
MIN_JOINT_TRAINING_FILES = 8


def choose_training_files(plans: Sequence[Plan], machine: Machine) -> JointTrainingPlan:
    """Choose files and crops for the joint training, from headers alone.

    Parameters
    ----------
    plans : sequence of Plan
        Plans of all eligible files, each on its own, in their order.
    machine : Machine

    Returns
    -------
    JointTrainingPlan
        Evenly spaced files among those with the most common channels and network widths. The crop
        of a large file lies at a different position in each.

    Raises
    ------
    RefusedError
        If there are too few files.
    """
    groups: dict[Any, list[Plan]] = {}
    for plan in plans:
        groups.setdefault((_get_channel_groups(plan), plan.fit_config.widths), []).append(plan)
    eligible = max(groups.values(), key=len, default=[])
    if len(eligible) < MIN_JOINT_TRAINING_FILES:
        raise RefusedError("joint-few", least=MIN_JOINT_TRAINING_FILES, count=len(eligible))
    sides = zip(*(file_plan.header.grid for file_plan in eligible), strict=True)
    size = tuple(min(MAX_TRAINING_REGION_SIDE, *lengths) // 2 * 2 for lengths in sides)
    field = 2 * MAX_TRAINING_REGION_SIDE
    training_plans, training_regions = [], []
    # choose files and crop positions; even numbers, for half-resolution fits
    for index, candidate in enumerate(
        choose_training_regions(len(eligible), (field, field), 0, size)
    ):
        plan = eligible[candidate.item]
        positions = zip(plan.header.grid, candidate.origin, size, strict=True)
        origin = tuple(
            (side - crop_side) * offset // (field - crop_side) // 2 * 2
            for side, offset, crop_side in positions
        )
        training_plans.append(plan)
        training_regions.append(TrainingRegion(index, origin, size))
    first = training_plans[0]
    units = list_training_units(first, tuple(training_regions))
    threads = choose_thread_count(machine, prod(size), first.recipe.run_settings.threads)
    return JointTrainingPlan(
        plans=tuple(training_plans),
        training_regions=tuple(training_regions),
        threads=threads,
        costs=estimate_training_costs(first, size, units, threads),
    )


def _get_channel_groups(plan: Plan) -> tuple[tuple[int, ...], ...]:
    return tuple(group_channels(plan.task_plan, plan.header))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNetwork:
    """The network that the files of a batch share.

    Attributes
    ----------
    network : JointNetwork or None
        Before the joint training, only its path is set.
    needs_training : bool
        Whether the network is still to be fitted.
    notes : tuple of Note
    """

    network: JointNetwork | None = None
    needs_training: bool = False
    notes: tuple[Note, ...] = ()

    def check_output_path(self, earlier_files: Mapping[str, str]) -> None:
        """Refuse to fit a network whose file would replace one that is not this batch's."""
        if not self.needs_training or self.network is None:
            return
        network_path = Path(self.network.path)
        if network_path.is_symlink():
            raise RefusedError("output-linked", path=network_path)
        if not earlier_files and os.path.lexists(network_path):
            raise RefusedError("batch-exists", path=network_path)


def choose_batch_network(
    folder: Path,
    network_file: FilePath | None,
    is_joint_requested: bool,
    earlier_manifest: BatchManifestFields | None,
) -> BatchNetwork:
    """Choose the network that the files of a batch share, if any.

    Parameters
    ----------
    folder : Path
        Folder of the results.
    network_file : path or None
        Path of a network that was fitted before.
    is_joint_requested : bool
        Whether the user asked for joint training.
    earlier_manifest : BatchManifestFields or None
        Manifest of the batch if it is resumed.

    Raises
    ------
    RefusedError
        If both are requested, if the batch began without joint training, or if the network is
        unusable.
    """
    if is_joint_requested and network_file is not None:
        raise RefusedError("joint-twice")
    if network_file is not None:
        return BatchNetwork(network=read_network(network_file))
    was_joint = earlier_manifest is not None and earlier_manifest.joint_training
    if is_joint_requested and earlier_manifest is not None and not was_joint:
        raise RefusedError("joint-late", folder=folder)
    if not is_joint_requested and not was_joint:
        return BatchNetwork()
    network_path = folder / NETWORK_FILE
    notes = () if is_joint_requested else (make_note("joint-resumed"),)
    if earlier_manifest is not None and network_path.is_file():
        return BatchNetwork(network=read_network(network_path), notes=notes)
    network = JointNetwork(path=os.fspath(network_path))
    return BatchNetwork(network=network, needs_training=True, notes=notes)


def plan_joint_training(
    jobs: tuple[Job, ...], batch_network: BatchNetwork, machine: Machine
) -> tuple[tuple[Job, ...], JointTrainingPlan | None]:
    """Plan the joint training, and refuse the files that the network cannot be applied to.

    Raises
    ------
    RefusedError
        If too few files are eligible.
    """
    eligible = [job.plan for job in jobs if not isinstance(job.plan, Refusal) and job.plan.network]
    if not batch_network.needs_training or all(isinstance(job.plan, Refusal) for job in jobs):
        return jobs, None
    joint_plan = choose_training_files(eligible, machine)
    network_groups = _get_channel_groups(joint_plan.plans[0])

    def replace_unsuited(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        refusal = refuse_channels(job.plan.task_plan, job.plan.header, network_groups)
        return job if refusal is None else replace(job, plan=refusal)

    return tuple(map(replace_unsuited, jobs)), joint_plan


def fit_batch_network(
    plan: BatchPlan, joint_plan: JointTrainingPlan, poll_control: PollControl
) -> Generator[Event, None, bool]:
    """Fit the network of a batch; return whether there is one, or the user ended the fit.

    Raises
    ------
    RefusedError, FailedError
        As `fit_joint_network`; also if the device of the plan is not available.
    """
    device, machine = joint_plan.plans[0].device, detect_machine()
    if device not in machine.devices:
        facts = {"device": device, "why": machine.no_gpu_reason or "this computer has none"}
        raise RefusedError("joint-device", **facts)
    network_path = plan.folder / NETWORK_FILE
    run_folder = find_records_folder(plan.folder) / f"{NETWORK_FILE}.unfinished"
    paths = network_path, run_folder
    return (yield from fit_joint_network(joint_plan, *paths, poll_control, resume=plan.resume))


def find_remaining_plans(plan: BatchPlan) -> dict[int, Plan]:
    """Return the plans of the files without a record of an earlier call, by number of the file.

    Records are not verified.
    """
    return {
        number: job.plan
        for number, job in enumerate(plan.jobs, 1)
        if not isinstance(job.plan, Refusal)
        and not (plan.resume and read_file_record(job.paths, job.plan.header, plan.recipe))
    }


def plan_batch(
    recipe: object,
    inputs: FilePath | Iterable[FilePath],
    output_folder: FilePath,
    *,
    resume: bool = False,
    axes: str | None = None,
    extra_paths: Mapping[str, FilePath] | None = None,
    machine: Machine | None = None,
    threads: int | None = None,
    process_count: int = 1,
    joint_training: bool = False,
) -> BatchPlan:
    """Plan a batch from headers alone, without writing a file or loading the engine.

    Parameters
    ----------
    recipe, inputs, output_folder, resume, axes, joint_training
        As for `napari_dip.batch`.
    extra_paths : mapping of str to path, optional
        Extra inputs of the task, such as a PSF: one for all files.
    machine : Machine, optional
        Machine to plan for. Default: this one.
    threads : int, optional
        Maximum threads of each fit, instead of those in the recipe. Default: as in the recipe or
        the resumed batch, else all cores.
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
    if threads is not None:
        loaded_recipe = loaded_recipe.replace_run_settings(threads=None)
    input_paths = _list_inputs(inputs)
    if not isinstance(output_folder, str | os.PathLike):
        raise RefusedError(_make_path_refusal("The folder of the results", output_folder))
    extra_headers = _read_extra_headers(loaded_recipe, extra_paths or {})
    folder = Path(os.fspath(output_folder) or "")
    resolve_output_folder(os.fspath(output_folder))
    check_unlocked(folder / MANIFEST_FILE)
    images, notes = expand_input_paths(input_paths, folder)
    sources = tuple(chain.from_iterable(map(list_fields, images)))
    manifest = read_batch_manifest(folder, loaded_recipe) if resume else None
    earlier_manifest = manifest if manifest is not None and manifest.files else None
    earlier_files = earlier_manifest.files if earlier_manifest is not None else {}
    cores = threads
    if earlier_manifest is not None and threads is None:
        cores, recipe_threads = earlier_manifest.cores, earlier_manifest.recipe.get("threads")
        loaded_recipe = loaded_recipe.replace_run_settings(threads=recipe_threads)
    machine = _limit_cores(machine or detect_machine(), cores, process_count)
    network_file = (extra_paths or {}).get(NETWORK_FILE_INPUT)
    batch_network = choose_batch_network(folder, network_file, joint_training, earlier_manifest)
    network = batch_network.network
    jobs = tuple(
        Job(
            source=source,
            plan=plan_file(loaded_recipe, source, axes, extra_headers, machine, network),
            paths=make_result_paths(folder, make_result_name(source)),
        )
        for source in sources
    )
    jobs, joint_plan = plan_joint_training(jobs, batch_network, machine)
    restorable = [job for job in jobs if not isinstance(job.plan, Refusal)]
    _check_no_overwrite(
        folder, loaded_recipe.task, restorable, extra_headers, earlier_files, resume
    )
    batch_network.check_output_path(earlier_files)
    sources_by_name = {make_result_name(job.source): job.source for job in restorable}
    files = {name: make_relative_path(path, folder) for name, path in sources_by_name.items()}
    headers = [job.plan.header for job in jobs if not isinstance(job.plan, Refusal)]
    plan = BatchPlan(
        recipe=loaded_recipe,
        folder=folder,
        jobs=jobs,
        resume=resume,
        files={**earlier_files, **files},
        machine=machine,
        axes=axes,
        notes=(*notes, *batch_network.notes, *describe_batch_axes(headers)),
        network=network,
        joint_training=joint_plan,
    )
    shapes = [file_plan.result_shape for file_plan in find_remaining_plans(plan).values()]
    resolve_output_folder(folder, 4 * sum(map(prod, shapes)))
    return plan


def _limit_cores(machine: Machine, cores: int | None, process_count: int) -> Machine:
    """Return the machine with the cores of one fit.

    The manifest stores them, so they include the limit of this environment.
    """
    cores = cores or min(machine.cores // process_count, machine.max_threads)
    return replace(machine, cores=max(1, min(cores, machine.cores)), max_threads=MAX_THREADS)


def _list_inputs(inputs: object) -> list[FilePath]:
    """List the inputs; raise `RefusedError` if they are no paths."""
    if isinstance(inputs, str | os.PathLike):
        return [inputs]
    if isinstance(inputs, bytes | bytearray | Mapping) or not isinstance(inputs, Iterable):
        raise RefusedError(_make_path_refusal("Inputs", inputs))
    for path in (paths := list(inputs)):
        if not isinstance(path, str | os.PathLike):
            raise RefusedError(_make_path_refusal("Each input", path))
    return paths


def _make_path_refusal(label: str, value: object) -> Refusal:
    kind = "None" if value is None else f"something of type {type(value).__name__}"
    return make_refusal("batch-paths", what=label, actual=kind)


def _read_extra_headers(
    recipe: Recipe, extra_paths: Mapping[str, FilePath]
) -> dict[str, ImageHeader]:
    """Read the headers of the extra inputs, which all files share.

    A repeated exposure is refused, since it belongs to a single file.
    """
    inputs = recipe.task.spec.inputs[1:]
    names = [item.name for item in inputs if not item.is_repeated_exposure]
    if unknown := set(extra_paths) - {*names, NETWORK_FILE_INPUT}:
        raise RefusedError(make_unknown_refusal(min(unknown), [*names, NETWORK_FILE_INPUT]))
    return {
        name: read_header(path) for name, path in extra_paths.items() if name != NETWORK_FILE_INPUT
    }


@return_refusal
def plan_file(
    recipe: Recipe,
    source: Path,
    axes: str | None,
    extra_headers: Headers,
    machine: Machine,
    network: JointNetwork | None = None,
) -> Plan:
    """Read the header of one file and plan its run; return a refusal if it cannot be restored.

    Parameters
    ----------
    recipe : Recipe
    source : Path
    axes : str or None
        Axes that override those in the file.
    extra_headers : mapping of str to ImageHeader
        Headers of the extra inputs.
    machine : Machine
    network : JointNetwork, optional
        Network to apply to the file.
    """
    header = read_header(source, axes)
    return raise_if_refused(preflight(recipe, header, machine, extra_headers, network))


def _check_no_overwrite(
    folder: Path,
    task: Task,
    jobs: list[Job],
    extra_headers: Headers,
    earlier_files: Mapping[str, str],
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
    inputs |= {
        _identify_file(Path(header.path)) for header in extra_headers.values() if header.path
    }
    new_paths = (
        [] if earlier_files else [folder / name for name in (MANIFEST_FILE, TABLE_FILE, PAGE_FILE)]
    )
    for job in jobs:
        if job.paths.result.exists() and _identify_file(job.paths.result) in inputs:
            raise RefusedError("output-is-input", path=job.paths.result, inside=False)
        if make_result_name(job.source) not in earlier_files:
            new_paths += [*job.paths.list_outputs(task), job.paths.record, job.paths.overview]
        elif not _is_own_result(job, folder, earlier_files):
            new_paths.append(job.paths.result)
    for path in new_paths:
        if os.path.lexists(path):
            code = "batch-foreign" if resume else "batch-exists"
            raise RefusedError(code, path=path)


def _is_own_result(job: Job, folder: Path, earlier_files: Mapping[str, str]) -> bool:
    """Return whether an existing result comes from this job's file, which may have moved since."""
    if isinstance(job.plan, Refusal):
        return False
    if earlier_files[make_result_name(job.source)] == make_relative_path(job.source, folder):
        return True
    record = read_file_record(job.paths, job.plan.header, job.plan.recipe)
    return record is not None and has_same_inputs(record, job.inputs)


def _identify_file(path: Path) -> tuple[int, int] | str:
    """Return device and inode of a file, or its real path, to recognise the same file."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
