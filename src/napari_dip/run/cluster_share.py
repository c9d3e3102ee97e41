"""A share of a file as a task: it leaves tiles, or fits, on the shelf beside the checkpoint."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.errors import Refusal, Refused
from napari_dip.run.batch_file import ENDS, Ended, end_if_asked
from napari_dip.run.batch_receipts import confirmed
from napari_dip.run.checkpoints import UNUSABLE, Store
from napari_dip.run.cluster_begun import MOST_DEATHS, SHARES, Beginnings
from napari_dip.run.cluster_unit import answer_of, job_of
from napari_dip.run.draining import drained
from napari_dip.run.events import Event
from napari_dip.run.held import make_run_folder
from napari_dip.run.machine import load_torch
from napari_dip.run.meanwhile import stamped
from napari_dip.run.survey import opened
from napari_dip.run.torch_state import in_own_state

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from napari_dip.run.batch_plan import Job
    from napari_dip.run.cluster_unit import Unit
    from napari_dip.run.plan import Plan
    from napari_dip.run.shares import Share


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
    data = opened(stamped(plan))
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
    from napari_dip.run.tile_share import restore_share
    from napari_dip.run.unit_share import restore_fits

    yield Event("Starting the engine")
    load_torch()
    restore = restore_share if plan.tiles else restore_fits
    steps = restore(plan, data, share, control, store)
    return (yield from in_own_state(steps, plan.threads))
