"""A unit in a worker: what the person wants reaches it, and how far it is gets out.

A share of a file as a task: it leaves tiles, or fits, on the shelf beside the checkpoint.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.pipeline.events import Event, drained
from napari_dip.pipeline.execute.tile_measuring import open_survey
from napari_dip.pipeline.lazy_inputs import stamped
from napari_dip.pipeline.machine import load_torch, this_machine
from napari_dip.pipeline.store.checkpoints import UNUSABLE, Store
from napari_dip.pipeline.store.folder_lock import make_run_folder
from napari_dip.pipeline.torch_state import in_own_state
from napari_dip.scale.batch.file import Ended, end_if_asked
from napari_dip.scale.batch.records import confirmed
from napari_dip.scale.batch.types import ENDS
from napari_dip.scale.cluster.unit import (
    MOST_DEATHS,
    SHARES,
    Beginnings,
    answer_of,
    event_words,
    failed_unit,
    job_of,
    restore_unit,
    versions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.pipeline.execute.shares import Share
    from napari_dip.pipeline.machine import Machine
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.scale.batch.types import Job
    from napari_dip.scale.cluster.unit import Unit


def restore_part(
    unit: Unit, control: Callable[[], Control], see: Callable[[Event], object]
) -> dict[str, Any]:
    """Restore the tiles of a share here, or do its fits.

    Parameters
    ----------
    unit : Unit
        With a share.
    control, see
        As for `restore_unit`.

    Returns
    -------
    dict
        Its state is "shared" once they are there; "waiting" if the run was ended; "passed" where
        they do not come: who restores the rest of the file restores them too, or says why not.
    """
    at, share, job = unit.at, unit.share, job_of(unit)
    assert share is not None
    if isinstance(job.plan, Refusal):
        return answer_of("passed")
    if control() in ENDS:
        return answer_of("waiting")
    shelf = Store(at.unfinished, resume=True).shelf
    path = shelf / f"{SHARES}{share.name}" if share.place else at.begun
    begun = Beginnings(path, unit.session)
    if shelf.is_symlink() or begun.count() >= MOST_DEATHS:
        return answer_of("passed")
    try:
        if not job.plan.tiles:
            make_run_folder(shelf)
        begun.add()
        state = drained(_restored(job, job.plan, share, control), see)
    except Exception:  # the rest of the file meets it as well, and writes it down
        state = "passed"
    begun.forget()
    return answer_of(state)


def _restored(
    job: Job, plan: Plan, share: Share, control: Callable[[], Control]
) -> Generator[Event, None, str]:
    if not (plan.tiles and share.place):  # who is the first to look at the file
        yield Event("Checking what was done before")
        try:
            if confirmed(job, plan, partial(end_if_asked, control)) is not None:
                return "passed"
        except Ended:
            return "waiting"
    store = Store(job.at.unfinished, resume=True)
    if share.place:  # others are at work beside this one
        name = f"share{share.name}of{share.count}"
        store = Store(store.shelf / name, resume=True, shelf=store.shelf)
    data = open_survey(stamped(plan))
    try:
        ended = yield from _work(plan, data, share, control, store)
    except Refused as error:
        if share.place or error.refusal.code not in UNUSABLE:
            raise
        anew = Store(job.at.unfinished, resume=False)
        ended = yield from _work(plan, data, share, control, anew)
    return "shared" if ended is Control.GO else "waiting"


def _work(
    plan: Plan,
    data: Mapping[str, Any],
    share: Share,
    control: Callable[[], Control],
    store: Store,
) -> Generator[Event, None, Control]:
    from napari_dip.pipeline.execute.shares import restore_fits, restore_share

    yield Event("Starting the engine")
    load_torch()
    restore = restore_share if plan.tiles else restore_fits
    steps = restore(plan, data, share, control, store)
    return (yield from in_own_state(steps, plan.threads))


#: Topic that workers speak on; the scheduler keeps the last thousand words of a topic and no more.
TOPIC = "napari-dip"
#: What the person of each call wants; of calls long ended the oldest are forgotten.
_WISHES: dict[str, Control] = {}
_MOST_CALLS = 100
#: What dask calls a worker that is not about to end.
STAYS = ("running", "paused")
#: A fit has torch's threads and this process's memory to itself.
_ALONE = threading.Lock()


def work(unit: Unit, worker: Any) -> dict[str, Any] | None:
    """Restore one file, or a share of it, in a worker.

    Parameters
    ----------
    unit : Unit
    worker : distributed.Worker
        The one that this runs in.

    Returns
    -------
    dict or None
        As `restore_unit` and `restore_part`; None if the worker is about to go, so that another
        one should go on from the checkpoint.
    """
    if unit.versions != versions():
        told = {"found": named(versions()), "here": named(unit.versions)}
        return failed_unit(refusal("cluster-versions", **told))
    key = worker.get_current_task()

    def wish() -> Control:
        return _WISHES.get(unit.session, Control.GO)

    def wanted() -> bool:
        """Whether whoever sent this is still there: dask calls a task cancelled if not."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled"

    def control() -> Control:
        going_on = wish()
        if going_on is Control.GO and not (wanted() and worker.status.name in STAYS):
            return Control.KEEP
        return going_on

    with _ALONE:
        see = speaker(unit, lambda words: worker.log_event(TOPIC, words), worker.address)
        restore = restore_unit if unit.share is None else restore_part
        answer = restore(unit, control, see)
    if answer["state"] == "waiting" and wish() is Control.GO and wanted():
        return None
    return answer


def hear(session: str, control: str) -> None:
    """Take note of what the person of a call wants."""
    while len(_WISHES) >= _MOST_CALLS:
        _WISHES.pop(next(iter(_WISHES)))
    _WISHES[session] = Control[control]


def about() -> tuple[Machine, tuple[str, ...]]:
    """Say what this worker offers."""
    return this_machine(), versions()


def named(found: tuple[str, ...]) -> str:
    """Put versions into words."""
    return "napari-dip {} with PyTorch {}".format(*found)


def speaker(
    unit: Unit, tell: Callable[[dict[str, Any]], object], worker: str
) -> Callable[[Event], None]:
    """Pass events on, at each new kind of work and else now and then.

    Parameters
    ----------
    unit : Unit
    tell : callable
        Takes words in plain types.
    worker : str
        Who speaks.
    """
    last = ("", float("-inf"))

    def see(event: Event) -> None:
        nonlocal last
        now = time.monotonic()
        if event.words != last[0] or now - last[1] >= unit.beat:
            last = (event.words, now)
            words = {"session": unit.session, "unit": unit.name, "worker": worker}
            tell({**words, "event": event_words(event)})

    return see
