"""Workers of a dask scheduler, seen from the process that hands units out.

Units go there as tasks. Their ends come as futures, and how far they are as events on a topic; both
wait here in one queue for whoever asks.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count as counted
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, refusal
from napari_dip.io.paths import printable
from napari_dip.run.cluster_protocol import Heard
from napari_dip.run.cluster_room import needs
from napari_dip.run.cluster_worker import TOPIC, hear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_dip.engine.control import Control
    from napari_dip.run.cluster_unit import Unit
    from napari_dip.run.machine import Machine

#: Seconds that the number of workers is believed, that an answer has to be fetched, and that all
#: workers of this computer may be away: one starts in 2 s, in a minute on a busy computer.
COUNTED, FETCH, GONE = 2.0, 5, 600.0
#: Words that are taken in before the person is asked again.
AT_ONCE = 100


class DaskCrew:
    """Workers that a dask scheduler hands units to.

    Parameters
    ----------
    client : distributed.Client
    task : callable
        What is done with a unit, where a worker is.
    killed : type of exception
        What the scheduler raises for a task that it gave up for the deaths of workers.
    address : str
        Of the scheduler, as the user knows it.
    root : str
        As in `Crew`.
    fixed : int
        How many workers there are, if their number never changes; else 0.
    machine : Machine
        What each of them can be counted on for.
    notes : tuple of str
        One sentence each for the user.
    """

    def __init__(
        self,
        client: Any,
        task: Callable[[Unit], dict[str, Any]],
        killed: type[Exception],
        address: str,
        *,
        root: str,
        fixed: int,
        machine: Machine,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.client = client
        self.root = root
        self.machine = machine
        self.notes = notes
        self.lost: Refusal | None = None
        self._task = task
        self._killed = killed
        self._address = address
        self._fixed = fixed
        self._seen = (float("-inf"), 1)
        self._declared: tuple[str, ...] = ()
        self._words: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._futures: dict[str, Any] = {}
        self._tries = counted()
        self._telling: threading.Thread | None = None
        self._session = ""
        self._last_seen = time.monotonic()
        client.subscribe_topic(TOPIC, lambda event: self._words.put(event[1]))

    @property
    def count(self) -> int:
        """How many workers there are now."""
        when, known = self._seen
        if time.monotonic() - when > COUNTED:
            with self._losing():
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
                self._declared = tuple({name for one in workers for name in one["resources"]})
                known = len(workers)
                self._mind(known)
            self._seen = (time.monotonic(), known)
        return known

    @property
    def ahead(self) -> int:
        """How many units may wait: enough that a cluster that grows by need sees the need."""
        return 0 if self._fixed else 1 + self.count // 4

    def send(self, unit: Unit, memory: int, device: str) -> None:
        """Hand out one unit."""
        self._session = unit.session
        key = f"napari-dip-{unit.session}-{unit.name}-{next(self._tries)}"
        wanted = needs(memory, device, self._declared)
        with self._losing():
            future = self.client.submit(self._task, unit, key=key, pure=False, resources=wanted)
            self._futures[unit.name] = future
            future.add_done_callback(partial(self._ended, unit.name))

    def withdraw(self, name: str) -> None:
        """Take back a unit; a worker that has begun it after all ends it at its next step."""
        future = self._futures.pop(name, None)
        if future is not None:
            with self._losing():
                self.client.cancel([future])

    def wish(self, session: str, control: Control) -> None:
        """Tell all workers, without waiting for those that do not answer."""
        if self._telling is None or not self._telling.is_alive():
            self._telling = threading.Thread(target=self._tell, args=(session, control.name))
            self._telling.daemon = True
            self._telling.start()

    def heard(self, seconds: float) -> Iterator[Heard]:
        """Give what has come in since."""
        words = []
        with suppress(queue.Empty):
            words.append(self._words.get(timeout=seconds))
            while len(words) < AT_ONCE:
                words.append(self._words.get_nowait())
        for word in words:
            if self.lost is not None:
                return
            if isinstance(word, dict):
                if word.get("session") == self._session:
                    yield Heard(word["unit"], word["worker"], event=word["event"])
            elif self._futures.get(word[0]) is word[1]:
                if one := self._answer(*word):
                    yield one

    def close(self) -> None:
        """Take back all that is out, so that workers end it, and wait for no answer."""
        if self._futures and self.lost is None:
            with self._losing():
                self.client.cancel(list(self._futures.values()))
        self._futures.clear()

    def _mind(self, known: int) -> None:
        """Give up workers of this computer that do not come back; those of a cluster may."""
        if known or not self._fixed:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > GONE:
            self._lose()

    def _ended(self, name: str, future: Any) -> None:
        """Take note, in a thread of the client's."""
        self._words.put((name, future))

    def _answer(self, name: str, future: Any) -> Heard | None:
        """Fetch what came of a unit; None where that is to be waited for, or nothing will come."""
        if future.status == "cancelled":  # by the client, for its scheduler is gone
            self._lose()
            return None
        try:
            one = Heard(name, answer=future.result(timeout=FETCH))
        except self._killed:
            one = Heard(name, given_up=True)
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                self._lose()
                return None
            if isinstance(error, TimeoutError) and future.status != "error":
                # its worker is gone, and the unit is being done again, from its receipt
                self._words.put((name, future))
                return None
            one = Heard(name, broke="".join(traceback.format_exception(error)))
        del self._futures[name]
        return one

    def _tell(self, session: str, control: str) -> None:
        with suppress(Exception):  # it is told again, and a lost scheduler is noticed elsewhere
            self.client.run(hear, session, control, on_error="ignore")

    def _lose(self) -> None:
        self.lost = refusal("cluster-lost", address=printable(self._address))

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Take errors of the connection for its end."""
        try:
            yield
        except (OSError, TimeoutError, RuntimeError, ValueError):
            self._lose()
