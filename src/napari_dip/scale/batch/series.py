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
from napari_dip.pipeline.machine import this_machine, threads_for
from napari_dip.pipeline.plan.costs import estimate_costs
from napari_dip.pipeline.plan.sharing import MEMBER_SIDE, members_of
from napari_dip.pipeline.plan.types import Member, SharedNetwork
from napari_dip.pipeline.plan.units import groups_of
from napari_dip.pipeline.store.shared_network import check_channels, read_network
from napari_dip.scale.batch.records import NETWORK_FILE, RECORDS_FOLDER, has_joint_training
from napari_dip.scale.batch.series_fit import fit_series
from napari_dip.scale.batch.types import Lesson, lesson_units

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from napari_dip.engine.control import Control
    from napari_dip.pipeline.events import Event
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.types import BatchPlan, Job

#: Fewest files that one network is fitted to: it takes as long as two to three of them by
#: themselves, so that below eight it saves less than half of the time.
LEAST_FILES = 8


def plan_lesson(plans: Sequence[Plan], cores: int) -> Lesson | Refusal:
    """Choose what one network is fitted to, from headers alone.

    Parameters
    ----------
    plans : sequence of Plan
        Of all files that it could serve, each by itself, in their order.
    cores : int

    Returns
    -------
    Lesson or Refusal
        Files of the channels and the depth of network that most have, evenly spread; what is seen
        of a large one lies elsewhere in each.
    """
    kinds = Counter((_channels(one), one.budget.widths) for one in plans)
    usual = kinds.most_common(1)[0][0] if kinds else ()
    alike = [one for one in plans if (_channels(one), one.budget.widths) == usual]
    if len(alike) < LEAST_FILES:
        return refusal("series-few", least=LEAST_FILES, count=len(alike))
    sides = zip(*(one.source.grid for one in alike), strict=True)
    size = tuple(min(MEMBER_SIDE, *along) // 2 * 2 for along in sides)
    chosen, members = [], []
    # which files, and how far along each side; even numbers, since halves may be fitted
    for place, one in enumerate(members_of(len(alike), (2 * MEMBER_SIDE,) * 2, 0, size)):
        room = [whole - cut for whole, cut in zip(alike[one.part].source.grid, size, strict=True)]
        spread = [2 * MEMBER_SIDE - cut for cut in size]
        shares = zip(room, one.origin, spread, strict=True)
        origin = tuple(whole * start // most // 2 * 2 for whole, start, most in shares)
        chosen.append(alike[one.part])
        members.append(Member(place, origin, size))
    first = chosen[0]
    units, threads = lesson_units(first, tuple(members)), threads_for(cores, prod(size))
    costs = estimate_costs(size, units, first.device, threads, first.budget, half=first.half)
    return Lesson(tuple(chosen), tuple(members), cores, costs)


def outlier(plan: Plan, lesson: Lesson) -> Refusal | None:
    """Say no to a file of other channels than those that the network will take."""
    first = lesson.plans[0]
    return check_channels(plan, tuple(groups_of(first.recipe, first.source)))


def _channels(plan: Plan) -> tuple[object, ...]:
    return tuple(groups_of(plan.recipe, plan.source))


#: A note on a batch that is gone on with.
RESUMED_JOINT_TRAINING_NOTE = (
    "The batch was begun with one network for all files, and goes on with it."
)


@dataclass(frozen=True, slots=True)
class BatchNetwork:
    """What the files of a batch share.

    Attributes
    ----------
    network : SharedNetwork or None
        That they are shown; of one that is still to be fitted, only its place is known.
    learns : bool
        Whether it is to be fitted.
    notes : tuple of str
    """

    network: SharedNetwork | None = None
    learns: bool = False
    notes: tuple[str, ...] = ()

    def check_place(self, earlier: Mapping[str, str]) -> None:
        """Refuse to fit a network where a file would be lost that is not this batch's own."""
        if not self.learns or self.network is None:
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
        return BatchNetwork(read_network(named))
    before = begun and has_joint_training(folder)
    if wished and begun and not before:
        raise Refused(refusal("series-late", folder=make_printable(str(folder))))
    if not wished and not before:
        return BatchNetwork()
    place, notes = folder / NETWORK_FILE, () if wished else (RESUMED_JOINT_TRAINING_NOTE,)
    if begun and place.is_file():
        return BatchNetwork(read_network(place), notes=notes)
    return BatchNetwork(SharedNetwork(os.fspath(place)), learns=True, notes=notes)


def plan_joint_training(
    jobs: tuple[Job, ...], series: BatchNetwork, cores: int
) -> tuple[tuple[Job, ...], Lesson | None]:
    """Plan what a network is fitted to, and say no to files that it cannot serve.

    Raises
    ------
    Refused
        If there are too few of them.
    """
    served = [job.plan for job in jobs if not isinstance(job.plan, Refusal) and job.plan.network]
    if not series.learns or all(isinstance(job.plan, Refusal) for job in jobs):
        return jobs, None
    lesson = plan_lesson(served, cores)
    if isinstance(lesson, Refusal):
        raise Refused(lesson)

    def checked(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        no = outlier(job.plan, lesson)
        return job if no is None else replace(job, plan=no)

    return tuple(map(checked, jobs)), lesson


def fit_batch_network(
    plan: BatchPlan, lesson: Lesson, control: Callable[[], Control]
) -> Generator[Event, None, BatchPlan | None]:
    """Fit the network of a batch, and plan with it; None if that was ended.

    Raises
    ------
    Refused, Failed
        As `fit_series`; if it was planned for a device that is not here.
    """
    device, here = lesson.plans[0].device, this_machine()
    if device not in here.devices:
        facts = {"device": device, "why": here.missing or "this computer has none"}
        raise Refused(refusal("series-device", **facts))
    place = plan.folder / NETWORK_FILE
    unfinished = plan.folder / RECORDS_FOLDER / f"{NETWORK_FILE}.unfinished"
    network = yield from fit_series(lesson, place, unfinished, control, resume=plan.resume)
    if network is None:
        return None

    def shown(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        return replace(job, plan=replace(job.plan, network=network))

    return replace(plan, jobs=tuple(map(shown, plan.jobs)), network=network, lesson=None)
