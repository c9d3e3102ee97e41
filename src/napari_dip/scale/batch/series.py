"""Choose the network that the files of a batch share, and plan its joint training from headers."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, RefusedError, make_refusal, raise_if_refused
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.machine import choose_thread_count, detect_machine
from napari_dip.pipeline.plan.costs import estimate_costs, group_channels
from napari_dip.pipeline.plan.joint_training import MAX_MEMBER_SIDE, check_channels, choose_members
from napari_dip.pipeline.plan.types import JointNetwork, Member
from napari_dip.pipeline.store.joint_network import read_network
from napari_dip.scale.batch.jobs import JointTrainingPlan, list_training_units
from napari_dip.scale.batch.joint_fit import fit_joint_network
from napari_dip.scale.batch.records import NETWORK_FILE, find_records_folder, has_joint_training

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.engine.control import Control
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import BatchPlan, Job

#: Minimum number of files for joint training. It takes as long as two to three separate files, so
#: that with fewer than eight files it saves less than half of the time.
MIN_JOINT_TRAINING_FILES = 8


def choose_training_files(plans: Sequence[Plan], cores: int) -> JointTrainingPlan | Refusal:
    """Choose files and crops for the joint training, from headers alone.

    Parameters
    ----------
    plans : sequence of Plan
        Plans of all eligible files, each on its own, in their order.
    cores : int

    Returns
    -------
    JointTrainingPlan or Refusal
        Evenly spaced files among those with the most common channels and network widths. The crop
        of a large file lies at a different position in each.
    """
    kinds = Counter((_get_channel_groups(plan), plan.fit_config.widths) for plan in plans)
    most_common_kind = kinds.most_common(1)[0][0] if kinds else ()
    eligible = [
        plan
        for plan in plans
        if (_get_channel_groups(plan), plan.fit_config.widths) == most_common_kind
    ]
    if len(eligible) < MIN_JOINT_TRAINING_FILES:
        return make_refusal("series-few", least=MIN_JOINT_TRAINING_FILES, count=len(eligible))
    sides = zip(*(plan_of_file.source.grid for plan_of_file in eligible), strict=True)
    size = tuple(min(MAX_MEMBER_SIDE, *lengths) // 2 * 2 for lengths in sides)
    chosen, members = [], []
    # choose files and crop positions; even numbers, for half-resolution fits
    for index, candidate in enumerate(
        choose_members(len(eligible), (2 * MAX_MEMBER_SIDE,) * 2, 0, size)
    ):
        margins = [
            side - crop_side
            for side, crop_side in zip(eligible[candidate.part].source.grid, size, strict=True)
        ]
        spread = [2 * MAX_MEMBER_SIDE - crop_side for crop_side in size]
        positions = zip(margins, candidate.origin, spread, strict=True)
        origin = tuple(side * offset // span // 2 * 2 for side, offset, span in positions)
        chosen.append(eligible[candidate.part])
        members.append(Member(index, origin, size))
    first = chosen[0]
    units = list_training_units(first, tuple(members))
    threads = choose_thread_count(cores, prod(size))
    costs = estimate_costs(
        size, units, first.device, threads, first.fit_config, uses_bfloat16=first.has_bfloat16
    )
    return JointTrainingPlan(plans=tuple(chosen), members=tuple(members), cores=cores, costs=costs)


def check_network_channels(plan: Plan, joint_plan: JointTrainingPlan) -> Refusal | None:
    """Return a refusal for a file whose channels are not those that the network is fitted to."""
    first = joint_plan.plans[0]
    return check_channels(
        plan.task_plan, plan.source, tuple(group_channels(first.task_plan, first.source))
    )


def _get_channel_groups(plan: Plan) -> tuple[object, ...]:
    return tuple(group_channels(plan.task_plan, plan.source))


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

    def check_place(self, earlier: Mapping[str, str]) -> None:
        """Refuse to fit a network whose file would replace one that is not this batch's."""
        if not self.needs_training or self.network is None:
            return
        network_path = Path(self.network.path)
        if network_path.is_symlink():
            raise RefusedError("output-linked", path=network_path)
        if not earlier and os.path.lexists(network_path):
            raise RefusedError("batch-exists", path=network_path)


def choose_batch_network(
    folder: Path, named: str | os.PathLike[str] | None, requested: bool, *, begun: bool
) -> BatchNetwork:
    """Choose the network that the files of a batch share, if any.

    Parameters
    ----------
    folder : Path
        Folder of the results.
    named : path or None
        Path of a network that was fitted before.
    requested : bool
        Whether the user asked for joint training.
    begun : bool
        Whether the batch is resumed.

    Raises
    ------
    RefusedError
        If both are requested, if the batch began without joint training, or if the network is
        unusable.
    """
    if requested and named is not None:
        raise RefusedError("series-twice")
    if named is not None:
        return BatchNetwork(network=read_network(named))
    was_joint = begun and has_joint_training(folder)
    if requested and begun and not was_joint:
        raise RefusedError("series-late", folder=folder)
    if not requested and not was_joint:
        return BatchNetwork()
    network_path, notes = folder / NETWORK_FILE, () if requested else (make_note("series-resumed"),)
    if begun and network_path.is_file():
        return BatchNetwork(network=read_network(network_path), notes=notes)
    return BatchNetwork(
        network=JointNetwork(path=os.fspath(network_path)), needs_training=True, notes=notes
    )


def plan_joint_training(
    jobs: tuple[Job, ...], series: BatchNetwork, cores: int
) -> tuple[tuple[Job, ...], JointTrainingPlan | None]:
    """Plan the joint training, and refuse the files that the network cannot be applied to.

    Raises
    ------
    RefusedError
        If too few files are eligible.
    """
    eligible = [job.plan for job in jobs if not isinstance(job.plan, Refusal) and job.plan.network]
    if not series.needs_training or all(isinstance(job.plan, Refusal) for job in jobs):
        return jobs, None
    joint_plan = raise_if_refused(choose_training_files(eligible, cores))

    def checked(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        refusal = check_network_channels(job.plan, joint_plan)
        return job if refusal is None else replace(job, plan=refusal)

    return tuple(map(checked, jobs)), joint_plan


def fit_batch_network(
    plan: BatchPlan, joint_plan: JointTrainingPlan, control: Callable[[], Control]
) -> Generator[Event, None, bool]:
    """Fit the network of a batch; return whether there is one, or the user ended the fit.

    Raises
    ------
    RefusedError, FailedError
        As `fit_joint_network`; also if the device of the plan is not available.
    """
    device, machine = joint_plan.plans[0].device, detect_machine()
    if device not in machine.devices:
        facts = {"device": device, "why": machine.missing or "this computer has none"}
        raise RefusedError("series-device", **facts)
    network_path = plan.folder / NETWORK_FILE
    checkpoint_path = find_records_folder(plan.folder) / f"{NETWORK_FILE}.unfinished"
    return (
        yield from fit_joint_network(
            joint_plan, network_path, checkpoint_path, control, resume=plan.resume
        )
    )
