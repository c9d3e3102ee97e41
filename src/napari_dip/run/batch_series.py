"""One network for the files of a batch: which one it is, or what it will be fitted to."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.io.paths import printable
from napari_dip.run.batch_receipts import NETWORK, RECEIPTS, listed_network
from napari_dip.run.machine import this_machine
from napari_dip.run.series_lesson import fit_series
from napari_dip.run.series_plan import outlier, plan_lesson
from napari_dip.run.shared_network import SharedNetwork, read_network

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.engine.control import Control
    from napari_dip.run.batch_plan import BatchPlan, Job
    from napari_dip.run.events import Event
    from napari_dip.run.series_plan import Lesson

#: A note on a batch that is gone on with.
GOES_ON = "The batch was begun with one network for all files, and goes on with it."


@dataclass(frozen=True, slots=True)
class Series:
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
            raise Refused(refusal("output-linked", path=printable(str(place))))
        if not earlier and os.path.lexists(place):
            raise Refused(refusal("batch-exists", path=printable(str(place))))


def series_for(
    folder: Path, named: str | os.PathLike[str] | None, wished: bool, *, begun: bool
) -> Series:
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
        return Series(read_network(named))
    before = begun and listed_network(folder)
    if wished and begun and not before:
        raise Refused(refusal("series-late", folder=printable(str(folder))))
    if not wished and not before:
        return Series()
    place, notes = folder / NETWORK, () if wished else (GOES_ON,)
    if begun and place.is_file():
        return Series(read_network(place), notes=notes)
    return Series(SharedNetwork(os.fspath(place)), learns=True, notes=notes)


def with_lesson(
    jobs: tuple[Job, ...], series: Series, cores: int
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


def learned(
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
    place = plan.folder / NETWORK
    unfinished = plan.folder / RECEIPTS / f"{NETWORK}.unfinished"
    network = yield from fit_series(lesson, place, unfinished, control, resume=plan.resume)
    if network is None:
        return None

    def shown(job: Job) -> Job:
        if isinstance(job.plan, Refusal) or job.plan.network is None:
            return job
        return replace(job, plan=replace(job.plan, network=network))

    return replace(plan, jobs=tuple(map(shown, plan.jobs)), network=network, lesson=None)
