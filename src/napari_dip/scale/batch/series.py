"""One network for the files of a batch: which one it is, or what it will be fitted to.

What one network is fitted to, for all files of a series: chosen from headers alone.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.machine import choose_thread_count, detect_machine
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.joint_training import MAX_MEMBER_SIDE, choose_members
from napari_dip.pipeline.plan.types import Member, SharedNetwork
from napari_dip.pipeline.plan.units import group_channels
from napari_dip.pipeline.store.shared_network import check_channels, read_network
from napari_dip.scale.batch.jobs import JointTrainingPlan, make_training_units
from napari_dip.scale.batch.records import NETWORK_FILE, find_records_folder, has_joint_training
from napari_dip.scale.batch.series_fit import fit_series

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.engine.control import Control
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.jobs import BatchPlan, Job

#: Fewest files that one network is fitted to: it takes as long as two to three of them by
#: themselves, so that below eight it saves less than half of the time.
MIN_JOINT_TRAINING_FILES = 8


def choose_training_files(plans: Sequence[Plan], cores: int) -> JointTrainingPlan | Refusal:
    """Choose what one network is fitted to, from headers alone.

    Parameters
    ----------
    plans : sequence of Plan
        Of all files that it could serve, each by itself, in their order.
    cores : int

    Returns
    -------
    JointTrainingPlan or Refusal
        Files of the channels and the depth of network that most have, evenly spread; what is seen
        of a large one lies elsewhere in each.
    """
    kinds = Counter((_get_channel_groups(plan), plan.budget.widths) for plan in plans)
    usual = kinds.most_common(1)[0][0] if kinds else ()
    alike = [plan for plan in plans if (_get_channel_groups(plan), plan.budget.widths) == usual]
    if len(alike) < MIN_JOINT_TRAINING_FILES:
        return refusal("series-few", least=MIN_JOINT_TRAINING_FILES, count=len(alike))
    sides = zip(*(item.source.grid for item in alike), strict=True)
    size = tuple(min(MAX_MEMBER_SIDE, *along) // 2 * 2 for along in sides)
    chosen, members = [], []
    # which files, and how far along each side; even numbers, since halves may be fitted
    for place, entry in enumerate(choose_members(len(alike), (2 * MAX_MEMBER_SIDE,) * 2, 0, size)):
        room = [whole - cut for whole, cut in zip(alike[entry.part].source.grid, size, strict=True)]
        spread = [2 * MAX_MEMBER_SIDE - cut for cut in size]
        shares = zip(room, entry.origin, spread, strict=True)
        origin = tuple(whole * start // most // 2 * 2 for whole, start, most in shares)
        chosen.append(alike[entry.part])
        members.append(Member(place, origin, size))
    first = chosen[0]
    units, threads = (
        make_training_units(first, tuple(members)),
        choose_thread_count(cores, prod(size)),
    )
    costs = estimate_costs(
        size, units, first.device, threads, first.budget, half=first.has_bfloat16
    )
    return JointTrainingPlan(plans=tuple(chosen), members=tuple(members), cores=cores, costs=costs)


def check_network_channels(plan: Plan, lesson: JointTrainingPlan) -> Refusal | None:
    """Say no to a file of other channels than those that the network will take."""
    first = lesson.plans[0]
    return check_channels(plan, tuple(group_channels(first.recipe, first.source)))


def _get_channel_groups(plan: Plan) -> tuple[object, ...]:
    return tuple(group_channels(plan.recipe, plan.source))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNetwork:
    """What the files of a batch share.

    Attributes
    ----------
    network : SharedNetwork or None
        That they are shown; of one that is still to be fitted, only its place is known.
    needs_training : bool
        Whether it is to be fitted.
    notes : tuple of Note
    """

    network: SharedNetwork | None = None
    needs_training: bool = False
    notes: tuple[Note, ...] = ()

    def check_place(self, earlier: Mapping[str, str]) -> None:
        """Refuse to fit a network where a file would be lost that is not this batch's own."""
        if not self.needs_training or self.network is None:
            return
        place = Path(self.network.path)
        if place.is_symlink():
            raise Refused(refusal("output-linked", path=make_printable(str(place))))
        if not earlier and os.path.lexists(place):
            raise Refused(refusal("batch-exists", path=make_printable(str(place))))


def choose_batch_network(
    folder: Path, named: str | os.PathLike[str] | None, wished: bool, *, begun: bool
) -> BatchNetwork:
    """Find out what the files of a batch share.

    Parameters
    ----------
    folder : Path
        Of the results.
    named : path or None
        Of a network that was fitted before.
    wished : bool
        Whether one is to be fitted.
    begun : bool
        Whether the batch goes on.

    Raises
    ------
    Refused
        If both are wanted, if the batch was begun without, or if the network cannot be used.
    """
    if wished and named is not None:
        raise Refused(refusal("series-twice"))
    if named is not None:
        return BatchNetwork(network=read_network(named))
    before = begun and has_joint_training(folder)
    if wished and begun and not before:
        raise Refused(refusal("series-late", folder=make_printable(str(folder))))
    if not wished and not before:
        return BatchNetwork()
    place, notes = folder / NETWORK_FILE, () if wished else (make_note("series-resumed"),)
    if begun and place.is_file():
        return BatchNetwork(network=read_network(place), notes=notes)
    return BatchNetwork(
        network=SharedNetwork(path=os.fspath(place)), needs_training=True, notes=notes
    )


def plan_joint_training(
    jobs: tuple[Job, ...], series: BatchNetwork, cores: int
) -> tuple[tuple[Job, ...], JointTrainingPlan | None]:
    """Plan what a network is fitted to, and say no to files that it cannot serve.

    Raises
    ------
    Refused
        If there are too few of them.
    """
    served = [job.plan for job in jobs if not isinstance(job.plan, Refusal) and job.plan.network]
    if not series.needs_training or all(isinstance(job.plan, Refusal) for job in jobs):
        return jobs, None
    lesson = choose_training_files(served, cores)
    if isinstance(lesson, Refusal):
        raise Refused(lesson)

    def checked(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        no = check_network_channels(job.plan, lesson)
        return job if no is None else replace(job, plan=no)

    return tuple(map(checked, jobs)), lesson


def fit_batch_network(
    plan: BatchPlan, lesson: JointTrainingPlan, control: Callable[[], Control]
) -> Generator[Event, None, BatchPlan | None]:
    """Fit the network of a batch, and plan with it; None if that was ended.

    Raises
    ------
    Refused, Failed
        As `fit_series`; if it was planned for a device that is not here.
    """
    device, here = lesson.plans[0].device, detect_machine()
    if device not in here.devices:
        facts = {"device": device, "why": here.missing or "this computer has none"}
        raise Refused(refusal("series-device", **facts))
    place = plan.folder / NETWORK_FILE
    unfinished = find_records_folder(plan.folder) / f"{NETWORK_FILE}.unfinished"
    network = yield from fit_series(lesson, place, unfinished, control, resume=plan.resume)
    if network is None:
        return None

    def use_network(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        return replace(job, plan=replace(job.plan, network=network))

    return replace(
        plan, jobs=tuple(map(use_network, plan.jobs)), network=network, joint_training=None
    )
