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
from napari_dip.pipeline.machine import size
from napari_dip.scale.cluster.unit import WorkerMessage
from napari_dip.scale.cluster.worker import EVENT_TOPIC, receive_control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from napari_dip.engine.control import Control
    from napari_dip.pipeline.machine import Machine
    from napari_dip.scale.cluster.unit import WorkerTask

#: Names of what tasks ask for and workers declare.
GPU_RESOURCE, MEMORY_RESOURCE = "GPU", "memory"
#: Bytes that a worker takes besides, for its packages. Measured: workers held 550 MB at most by
#: their receipts (`peak_bytes`), at files of 32 x 32 and 64 x 64 pixels, with torch 2.13 on Linux.
WORKER_OVERHEAD_BYTES = 600_000_000


@dataclass(frozen=True, slots=True)
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
    limit : int
        Bytes at which it would be ended; 0: none.
    """

    host: str
    machine: Machine
    versions: tuple[str, ...]
    threads: int
    resources: Mapping[str, float]
    limit: int = 0

    def memory(self, beside: int) -> int:
        """Give the bytes that files may take here, where so many workers share the computer."""
        share = self.machine.memory_bytes // beside
        return max(1, min(share, self.limit - WORKER_OVERHEAD_BYTES)) if self.limit else share


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
) -> tuple[int, str]:
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
    why : str
        Why it is less than was wanted; "" if it is not.
    """
    largest = max(peaks, default=0) + WORKER_OVERHEAD_BYTES
    held = max(1, machine.memory_bytes // largest)
    if cards and cards < min(wanted, held):
        words = "1 graphics card" if cards == 1 else f"{cards} graphics cards"
        return cards, f"{_format_worker_count(cards)} instead of {wanted}: there is {words}."
    if held < wanted:
        why = f"one file takes up to {size(largest)} of memory, and {size(machine.memory_bytes)}"
        return held, f"{_format_worker_count(held)} instead of {wanted}: {why} are free."
    return wanted, ""


def warn_of_oversubscription(count: int, threads: int, cores: int) -> str:
    """Say that workers with so many threads each are too many for the cores here; "" if not."""
    if count * threads <= cores or threads == 1:
        return ""
    fewer = max(1, cores // count)
    return (
        f"{count} workers of {threads} threads share {cores} core{'s' * (cores != 1)}, which slows "
        f"them down: --threads {fewer} would be faster, with pixels that differ in their last "
        "digits."
    )


def find_shared_machine(crew: Sequence[WorkerInfo], address: str) -> Machine:
    """Find what all workers can be counted on for, so that each makes the same of a file.

    Parameters
    ----------
    crew : sequence of About
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
    for one in crew:
        if one.versions != here:
            names = ("napari-dip {} with PyTorch {}".format(*each) for each in (one.versions, here))
            raise Refused(refusal("cluster-versions", found=next(names), here=next(names)))
        if one.threads > 1:
            raise Refused(refusal("cluster-threads", count=one.threads, address=address))
    crew = [one for one in crew if one.resources.get(GPU_RESOURCE)] or crew
    beside = Counter(one.host for one in crew)
    devices = tuple(
        device
        for device in crew[0].machine.devices
        if all(device in one.machine.devices for one in crew)
    )
    cores = min(one.machine.cores // beside[one.host] for one in crew)
    told = [one.resources.get(MEMORY_RESOURCE) for one in crew]
    shares = [one.memory(beside[one.host]) for one in crew]
    memory = int(max(filter(None, told))) if all(told) else min(shares)
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
        return [one.strip() for one in granted.split(",")]
    driver = Path("/proc/driver/nvidia/gpus")  # one folder for each card
    return [str(place) for place, _ in enumerate(driver.glob("*"))] or ["0"]


def _format_worker_count(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


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
    notes : tuple of str
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
        client.subscribe_topic(EVENT_TOPIC, lambda event: self._words.put(event[1]))

    @property
    def count(self) -> int:
        """How many workers there are now."""
        when, known = self._seen
        if time.monotonic() - when > WORKER_COUNT_SECONDS:
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

    def send(self, unit: WorkerTask, memory: int, device: str) -> None:
        """Hand out one unit."""
        self._session = unit.session
        key = f"napari-dip-{unit.session}-{unit.name}-{next(self._tries)}"
        wanted = make_task_resources(memory, device, self._declared)
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

    def heard(self, seconds: float) -> Iterator[WorkerMessage]:
        """Give what has come in since."""
        words = []
        with suppress(queue.Empty):
            words.append(self._words.get(timeout=seconds))
            while len(words) < MAX_MESSAGES_AT_ONCE:
                words.append(self._words.get_nowait())
        for word in words:
            if self.lost is not None:
                return
            if isinstance(word, dict):
                if word.get("session") == self._session:
                    yield WorkerMessage(word["unit"], word["worker"], event=word["event"])
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
        elif time.monotonic() - self._last_seen > MAX_ABSENCE_SECONDS:
            self._lose()

    def _ended(self, name: str, future: Any) -> None:
        """Take note, in a thread of the client's."""
        self._words.put((name, future))

    def _answer(self, name: str, future: Any) -> WorkerMessage | None:
        """Fetch what came of a unit; None where that is to be waited for, or nothing will come."""
        if future.status == "cancelled":  # by the client, for its scheduler is gone
            self._lose()
            return None
        try:
            one = WorkerMessage(name, answer=future.result(timeout=RESULT_TIMEOUT))
        except self._killed:
            one = WorkerMessage(name, given_up=True)
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                self._lose()
                return None
            if isinstance(error, TimeoutError) and future.status != "error":
                # its worker is gone, and the unit is being done again, from its receipt
                self._words.put((name, future))
                return None
            one = WorkerMessage(name, broke="".join(traceback.format_exception(error)))
        del self._futures[name]
        return one

    def _tell(self, session: str, control: str) -> None:
        with suppress(Exception):  # it is told again, and a lost scheduler is noticed elsewhere
            self.client.run(receive_control, session, control, on_error="ignore")

    def _lose(self) -> None:
        self.lost = refusal("cluster-lost", address=make_printable(self._address))

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Take errors of the connection for its end."""
        try:
            yield
        except (OSError, TimeoutError, RuntimeError, ValueError):
            self._lose()
