"""Workers of a dask scheduler, seen from the process that hands units out.

Units go there as tasks. Their ends come as futures, and how far they are as events on a topic; both
wait here in one queue for whoever asks.

What a crew of workers offers, made of what each of them says: pure figures, no connection.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count as counted
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.machine import format_bytes
from napari_dip.scale.cluster.unit import WorkerMessage
from napari_dip.scale.cluster.worker import EVENT_TOPIC, receive_control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from napari_dip.engine.control import Control
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.machine import Machine
    from napari_dip.scale.cluster.unit import WorkerTask

#: Names of what tasks ask for and workers declare.
GPU_RESOURCE, MEMORY_RESOURCE = "GPU", "memory"
#: Bytes that a worker takes besides, for its packages. Measured: workers held 550 MB at most by
#: their receipts (`peak_bytes`), at files of 32 x 32 and 64 x 64 pixels, with torch 2.13 on Linux.
WORKER_OVERHEAD_BYTES = 600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """What one worker says of itself.

    Attributes
    ----------
    host : str
        Which computer it is on.
    machine : Machine
    versions : tuple of str
        Of napari-dip and torch.
    threads : int
        Tasks that it runs at once.
    resources : mapping of str to float
        What it declares.
    memory_limit : int
        Bytes at which it would be ended; 0: none.
    """

    host: str
    machine: Machine
    versions: tuple[str, ...]
    threads: int
    resources: Mapping[str, float]
    memory_limit: int = 0

    def compute_file_memory(self, neighbours: int) -> int:
        """Give the bytes that files may take here, where so many workers share the computer."""
        share = self.machine.memory_bytes // neighbours
        return (
            max(1, min(share, self.memory_limit - WORKER_OVERHEAD_BYTES))
            if self.memory_limit
            else share
        )


def check_worker_options(
    workers: object, scheduler: str | None, threads: object
) -> tuple[int, int | None]:
    """Read what was asked for.

    Parameters
    ----------
    workers : int or str or None
    scheduler : str or None
    threads : int or str or None

    Returns
    -------
    workers : int
        0: none.
    threads : int or None

    Raises
    ------
    Refused
        If these are no whole numbers from 1 on, or workers and a scheduler are asked for at once.
    """
    if workers is not None and scheduler is not None:
        raise Refused(refusal("cluster-twice"))
    count = None if workers is None else _parse_positive_integer("workers", workers)
    return count or 0, None if threads is None else _parse_positive_integer("threads", threads)


def choose_worker_count(
    wanted: int, peaks: Iterable[int], machine: Machine, cards: int
) -> tuple[int, Note | None]:
    """Choose how many workers a computer holds at once.

    Parameters
    ----------
    wanted : int
    peaks : iterable of int
        Bytes that each file takes.
    machine : Machine
    cards : int
        Graphics cards that the files are restored on; 0: on the processor.

    Returns
    -------
    count : int
    why : Note or None
        Why it is less than was wanted.
    """
    largest = max(peaks, default=0) + WORKER_OVERHEAD_BYTES
    locked = max(1, machine.memory_bytes // largest)
    if cards and cards < min(wanted, locked):
        return cards, make_note("workers-cards", count=cards, wanted=wanted, several=cards > 1)
    if locked < wanted:
        facts = {"count": locked, "wanted": wanted, "several": locked > 1}
        need, have = format_bytes(largest), format_bytes(machine.memory_bytes)
        return locked, make_note("workers-memory", **facts, need=need, have=have)
    return wanted, None


def warn_of_oversubscription(count: int, threads: int, cores: int) -> Note | None:
    """Say that workers with so many threads each are too many for the cores here, if so."""
    if count * threads <= cores or threads == 1:
        return None
    facts = {"count": count, "threads": threads, "cores": cores, "several": cores > 1}
    return make_note("workers-threads", **facts, fewer=max(1, cores // count))


def find_shared_machine(crew: Sequence[WorkerInfo], address: str) -> Machine:
    """Find what all workers can be counted on for, so that each makes the same of a file.

    Parameters
    ----------
    crew : sequence of WorkerInfo
        Not empty. If some declare cards, only those count.
    address : str
        Of the scheduler, for messages.

    Returns
    -------
    Machine
        Cores and free memory of a computer are shared by its workers; the least of all counts.
        Where all declare their memory, the most of all counts, since tasks ask for what they need.

    Raises
    ------
    Refused
        If workers run several tasks at once, or have other versions than this process.
    """
    from napari_dip.scale.cluster.unit import get_versions

    here = get_versions()
    for entry in crew:
        if entry.versions != here:
            names = (
                "napari-dip {} with PyTorch {}".format(*each) for each in (entry.versions, here)
            )
            raise Refused(refusal("cluster-versions", found=next(names), here=next(names)))
        if entry.threads > 1:
            raise Refused(refusal("cluster-threads", count=entry.threads, address=address))
    crew = [item for item in crew if item.resources.get(GPU_RESOURCE)] or crew
    counter = Counter(item.host for item in crew)
    devices = tuple(
        device
        for device in crew[0].machine.devices
        if all(device in item.machine.devices for item in crew)
    )
    cores = min(item.machine.cores // counter[item.host] for item in crew)
    facts = [item.resources.get(MEMORY_RESOURCE) for item in crew]
    shares = [item.compute_file_memory(counter[item.host]) for item in crew]
    memory = int(max(filter(None, facts))) if all(facts) else min(shares)
    return replace(crew[0].machine, cores=max(1, cores), memory_bytes=memory, devices=devices)


def make_task_resources(memory: int, device: str, declared: Iterable[str]) -> dict[str, float]:
    """Say what a unit asks of its worker, as far as workers declare it.

    Parameters
    ----------
    memory : int
        Bytes that the file takes.
    device : str
        "cpu", "cuda" or "mps".
    declared : iterable of str
        What all workers declare; what none has would never be found.
    """
    wanted = {MEMORY_RESOURCE: float(memory)}
    if device == "cuda":
        wanted[GPU_RESOURCE] = 1.0
    return {name: wanted[name] for name in declared if name in wanted}


def make_worker_resources(memory: int, card: bool) -> dict[str, float]:
    """Say what a worker declares."""
    return {MEMORY_RESOURCE: float(memory), **({GPU_RESOURCE: 1.0} if card else {})}


def list_gpus() -> list[str]:
    """Name the NVIDIA cards of this computer as CUDA_VISIBLE_DEVICES does, without loading torch.

    Returns
    -------
    list of str
        At least one: there is a card where a plan says so.
    """
    granted = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if granted:
        return [part.strip() for part in granted.split(",")]
    driver = Path("/proc/driver/nvidia/gpus")  # one folder for each card
    return [str(place) for place, _ in enumerate(driver.glob("*"))] or ["0"]


def _parse_positive_integer(name: str, value: object) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10_000):
        why = "it is not a whole number from 1 to 10000"
        hint = f"Give a number such as --{name} 2."
        raise Refused(refusal("setting-wrong", field=name, value=repr(value), why=why, hint=hint))
    return int(text)


#: Seconds that the number of workers is believed, that an answer has to be fetched, and that all
#: workers of this computer may be away: one starts in 2 s, in a minute on a busy computer.
WORKER_COUNT_SECONDS, RESULT_TIMEOUT, MAX_ABSENCE_SECONDS = 2.0, 5, 600.0
#: Words that are taken in before the person is asked again.
MAX_MESSAGES_AT_ONCE = 100


class DaskWorkerPool:
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
    notes : tuple of Note
        One sentence each for the user.
    """

    def __init__(
        self,
        client: Any,
        task: Callable[[WorkerTask], dict[str, Any]],
        killed: type[Exception],
        address: str,
        *,
        root: str,
        fixed: int,
        machine: Machine,
        notes: tuple[Note, ...] = (),
    ) -> None:
        self.client = client
        self.root = root
        self.machine = machine
        self.notes = notes
        self.connection_failure: Refusal | None = None
        self._task = task
        self._killed_error = killed
        self._address = address
        self._fixed_count = fixed
        self._cached_count = (float("-inf"), 1)
        self._declared_resources: tuple[str, ...] = ()
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._futures: dict[str, Any] = {}
        self._task_numbers = counted()
        self._control_thread: threading.Thread | None = None
        self._session = ""
        self._last_worker_time = time.monotonic()
        client.subscribe_topic(EVENT_TOPIC, lambda event: self._messages.put(event[1]))

    @property
    def count(self) -> int:
        """How many workers there are now."""
        when, worker_count = self._cached_count
        if time.monotonic() - when > WORKER_COUNT_SECONDS:
            with self._catch_connection_errors():
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
                self._declared_resources = tuple(
                    {name for worker in workers for name in worker["resources"]}
                )
                worker_count = len(workers)
                self._check_absence(worker_count)
            self._cached_count = (time.monotonic(), worker_count)
        return worker_count

    @property
    def max_queued(self) -> int:
        """How many units may wait: enough that a cluster that grows by need sees the need."""
        return 0 if self._fixed_count else 1 + self.count // 4

    def send(self, unit: WorkerTask, memory: int, device: str) -> None:
        """Hand out one unit."""
        self._session = unit.session
        key = f"napari-dip-{unit.session}-{unit.name}-{next(self._task_numbers)}"
        wanted = make_task_resources(memory, device, self._declared_resources)
        with self._catch_connection_errors():
            future = self.client.submit(self._task, unit, key=key, pure=False, resources=wanted)
            self._futures[unit.name] = future
            future.add_done_callback(partial(self._queue_finished_future, unit.name))

    def withdraw(self, name: str) -> None:
        """Take back a unit; a worker that has begun it after all ends it at its next step."""
        future = self._futures.pop(name, None)
        if future is not None:
            with self._catch_connection_errors():
                self.client.cancel([future])

    def send_control(self, session: str, control: Control) -> None:
        """Tell all workers, without waiting for those that do not answer."""
        if self._control_thread is None or not self._control_thread.is_alive():
            self._control_thread = threading.Thread(
                target=self._run_send_control, args=(session, control.name)
            )
            self._control_thread.daemon = True
            self._control_thread.start()

    def receive_messages(self, seconds: float) -> Iterator[WorkerMessage]:
        """Give what has come in since."""
        text = []
        with suppress(queue.Empty):
            text.append(self._messages.get(timeout=seconds))
            while len(text) < MAX_MESSAGES_AT_ONCE:
                text.append(self._messages.get_nowait())
        for word in text:
            if self.connection_failure is not None:
                return
            if isinstance(word, dict):
                if word.get("session") == self._session:
                    yield WorkerMessage(
                        unit=word["unit"], worker=word["worker"], event=word["event"]
                    )
            elif self._futures.get(word[0]) is word[1]:
                if item := self._fetch_answer(*word):
                    yield item

    def close(self) -> None:
        """Take back all that is out, so that workers end it, and wait for no answer."""
        if self._futures and self.connection_failure is None:
            with self._catch_connection_errors():
                self.client.cancel(list(self._futures.values()))
        self._futures.clear()

    def _check_absence(self, worker_count: int) -> None:
        """Give up workers of this computer that do not come back; those of a cluster may."""
        if worker_count or not self._fixed_count:
            self._last_worker_time = time.monotonic()
        elif time.monotonic() - self._last_worker_time > MAX_ABSENCE_SECONDS:
            self._record_connection_failure()

    def _queue_finished_future(self, name: str, future: Any) -> None:
        """Take note, in a thread of the client's."""
        self._messages.put((name, future))

    def _fetch_answer(self, name: str, future: Any) -> WorkerMessage | None:
        """Fetch what came of a unit; None where that is to be waited for, or nothing will come."""
        if future.status == "cancelled":  # by the client, for its scheduler is gone
            self._record_connection_failure()
            return None
        try:
            message = WorkerMessage(unit=name, answer=future.result(timeout=RESULT_TIMEOUT))
        except self._killed_error:
            message = WorkerMessage(unit=name, is_given_up=True)
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                self._record_connection_failure()
                return None
            if isinstance(error, TimeoutError) and future.status != "error":
                # its worker is gone, and the unit is being done again, from its receipt
                self._messages.put((name, future))
                return None
            message = WorkerMessage(
                unit=name, traceback_text="".join(traceback.format_exception(error))
            )
        del self._futures[name]
        return message

    def _run_send_control(self, session: str, control: str) -> None:
        with suppress(Exception):  # it is told again, and a lost scheduler is noticed elsewhere
            self.client.run(receive_control, session, control, on_error="ignore")

    def _record_connection_failure(self) -> None:
        self.connection_failure = refusal("cluster-lost", address=make_printable(self._address))

    @contextmanager
    def _catch_connection_errors(self) -> Iterator[None]:
        """Take errors of the connection for its end."""
        try:
            yield
        except (OSError, TimeoutError, RuntimeError, ValueError):
            self._record_connection_failure()
