"""A unit in a worker: what the person wants reaches it, and how far it is gets out."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from napari_dip.engine.control import Control
from napari_dip.errors import refusal
from napari_dip.run.cluster_share import restore_part
from napari_dip.run.cluster_unit import event_words, failed_unit, restore_unit, versions
from napari_dip.run.machine import this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_dip.run.cluster_unit import Unit
    from napari_dip.run.events import Event
    from napari_dip.run.machine import Machine

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
