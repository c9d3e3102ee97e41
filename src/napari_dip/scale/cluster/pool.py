"""Send jobs to the workers of a dask scheduler, and plan with the resources of those workers.

Their results arrive as futures and their progress as events on a topic. One queue collects both.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
import traceback
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Fault, RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.errors.templates import format_bytes
from napari_dip.pipeline.machine import MAX_THREADS
from napari_dip.scale.cluster.worker import (
    EVENT_TOPIC,
    WorkerMessage,
    format_versions,
    get_versions,
    receive_control,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from napari_dip.engine.fit.stopping import Control
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.machine import Machine
    from napari_dip.scale.batch.jobs import FileOutcome
    from napari_dip.scale.cluster.worker import ShardState, WorkerJob

#: Name of the dask resource of GPUs.
GPU_RESOURCE = "GPU"
#: Name of the dask resource of memory.
MEMORY_RESOURCE = "memory"
#: Bytes that a worker needs for its packages. Measured: workers used at most 550 MB (`peak_bytes`
#: in their records) for files of 32 x 32 and 64 x 64 pixels, with torch 2.13 on Linux.
WORKER_OVERHEAD_BYTES = 600_000_000
#: Seconds for which the number of workers is cached.
WORKER_COUNT_SECONDS = 2.0
RESULT_TIMEOUT = 5  #: Seconds to wait for a result.
#: Seconds without any local worker after which the pool gives up. A worker starts in 2 s, on a busy
#: computer in up to a minute.
MAX_ABSENCE_SECONDS = 600.0
#: Maximum number of messages between two polls of the user's control.
MAX_MESSAGES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """Resources of one worker.

    Attributes
    ----------
    host : str
        Name of its computer.
    machine : Machine
    versions : tuple of str
        Versions of napari-dip and torch.
    threads : int
        Number of tasks that it runs at once.
    resources : mapping of str to float
        Dask resources that it declares.
    memory_limit : int
        Bytes at which dask would kill it; 0: no limit.
    """

    host: str
    machine: Machine
    versions: tuple[str, ...]
    threads: int
    resources: Mapping[str, float]
    memory_limit: int = 0

    def compute_file_memory(self, worker_count: int) -> int:
        """Return the bytes of memory for a restoration beside `worker_count` - 1 others."""
        available_bytes = self.machine.memory_bytes // worker_count
        if not self.memory_limit:
            return available_bytes
        return max(1, min(available_bytes, self.memory_limit - WORKER_OVERHEAD_BYTES))


def read_worker_options(
    workers: object, scheduler: str | None, threads: object
) -> tuple[int, int | None]:
    """Validate the options for workers, scheduler and threads.

    Parameters
    ----------
    workers : int or str or None
    scheduler : str or None
    threads : int or str or None

    Returns
    -------
    workers : int
        0: no workers.
    threads : int or None

    Raises
    ------
    RefusedError
        If a number is no integer from 1 to 10000, or both workers and a scheduler are requested.
    """
    if workers is not None and scheduler is not None:
        raise RefusedError("cluster-twice")
    count = None if workers is None else _parse_positive_integer("workers", workers)
    return count or 0, None if threads is None else _parse_positive_integer("threads", threads)


def choose_worker_count(
    requested_count: int, peaks: Iterable[int], machine: Machine, gpu_count: int
) -> tuple[int, Note | None]:
    """Choose how many workers to run at once on a computer.

    Parameters
    ----------
    requested_count : int
    peaks : iterable of int
        Peak memory of each file in bytes.
    machine : Machine
    gpu_count : int
        Number of GPUs for the files; 0: the CPU.

    Returns
    -------
    count : int
    note : Note or None
        Why it is less than `requested_count`.
    """
    largest = max(peaks, default=0) + WORKER_OVERHEAD_BYTES
    max_by_memory = max(1, machine.memory_bytes // largest)
    is_gpu_limit = 0 < gpu_count < min(requested_count, max_by_memory)
    count = gpu_count if is_gpu_limit else min(requested_count, max_by_memory)
    if count == requested_count:
        return requested_count, None
    facts: dict[str, Any] = {"count": count, "wanted": requested_count, "several": count > 1}
    if is_gpu_limit:
        return count, make_note("workers-gpus", **facts)
    facts |= {"need": format_bytes(largest), "have": format_bytes(machine.memory_bytes)}
    return count, make_note("workers-memory", **facts)


def make_oversubscription_note(count: int, threads: int, cores: int) -> Note | None:
    """Return a note if the workers have more threads in total than there are cores."""
    if count * threads <= cores or threads == 1:
        return None
    return make_note(
        "workers-threads",
        count=count,
        threads=threads,
        cores=cores,
        several=cores > 1,
        fewer=max(1, cores // count),
    )


def find_shared_machine(workers: Sequence[WorkerInfo], address: str) -> Machine:
    """Find the machine to plan for, so that all workers make the same plan.

    Parameters
    ----------
    workers : sequence of WorkerInfo
        Not empty. If some have GPUs, only those count.
    address : str
        Address of the scheduler, for messages.

    Returns
    -------
    Machine
        Workers on one computer share its cores and free memory; the smallest share counts. If all
        declare their memory, the largest value counts: each job requests the memory it needs, and
        the scheduler sends it to a worker that has as much.

    Raises
    ------
    RefusedError
        If a worker runs several tasks at once, or has other versions than this process.
    """
    own_versions = get_versions()
    for info in workers:
        if info.versions != own_versions:
            own_text, other_text = map(format_versions, (own_versions, info.versions))
            raise RefusedError("cluster-versions", actual=other_text, here=own_text)
        if info.threads > 1:
            raise RefusedError("cluster-threads", count=info.threads, address=address)
    workers = [worker for worker in workers if worker.resources.get(GPU_RESOURCE)] or workers
    counter = Counter(worker.host for worker in workers)
    devices = tuple(
        device
        for device in workers[0].machine.devices
        if all(device in worker.machine.devices for worker in workers)
    )
    cores = min(worker.machine.cores // counter[worker.host] for worker in workers)
    declared_memory = [worker.resources.get(MEMORY_RESOURCE) for worker in workers]
    file_memory = [worker.compute_file_memory(counter[worker.host]) for worker in workers]
    memory = int(max(filter(None, declared_memory))) if all(declared_memory) else min(file_memory)
    return replace(
        workers[0].machine,
        cores=max(1, cores),
        memory_bytes=memory,
        devices=devices,
        max_threads=MAX_THREADS,  # dask sets OMP_NUM_THREADS=1 in all its workers
    )


def make_job_resources(
    peak_bytes: int, device: str, declared_names: Iterable[str]
) -> dict[str, float]:
    """Return the dask resources that a job requests, among those that workers declare.

    Parameters
    ----------
    peak_bytes : int
        Peak memory of the file.
    device : str
        "cpu", "cuda" or "mps".
    declared_names : iterable of str
        Resources that the workers declare; dask would never schedule a job with any other.
    """
    resources = {MEMORY_RESOURCE: float(peak_bytes)}
    if device == "cuda":
        resources[GPU_RESOURCE] = 1.0
    return {name: resources[name] for name in declared_names if name in resources}


def make_worker_resources(memory_bytes: int, has_gpu: bool) -> dict[str, float]:
    """Return the dask resources that a worker declares."""
    return {MEMORY_RESOURCE: float(memory_bytes), **({GPU_RESOURCE: 1.0} if has_gpu else {})}


def list_gpus() -> list[str]:
    """List the NVIDIA GPUs of this computer as CUDA_VISIBLE_DEVICES does, without loading torch.

    Returns
    -------
    list of str
        At least one entry, since a plan for CUDA implies a GPU.
    """
    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if visible_devices:
        return [device.strip() for device in visible_devices.split(",")]
    driver = Path("/proc/driver/nvidia/gpus")  # one folder per GPU
    return [str(number) for number, _ in enumerate(driver.glob("*"))] or ["0"]


def _parse_positive_integer(name: str, value: object) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 10_000):
        why = "it is not a whole number from 1 to 10000"
        hint = f"Give a number such as --{name} 2."
        raise RefusedError("setting-wrong", field=name, value=repr(value), why=why, hint=hint)
    return int(text)


@dataclass(slots=True, eq=False)
class DaskWorkerPool:
    """Send jobs to the workers of a dask scheduler.

    Attributes
    ----------
    client : distributed.Client
    run_job : callable
        Function that a worker runs on a job.
    killed_error : type of exception
        Exception of the scheduler for a job that it gave up after deaths of workers.
    address : str
        Address of the scheduler, for messages.
    root : str
        Folder that relative paths refer to on workers; "" for their working folder.
    fixed_count : int
        Number of workers if it never changes, else 0.
    machine : Machine
        Machine to plan for.
    notes : tuple of Note
        Notes for the user.
    connection_failure : Fault or None
        Why the scheduler cannot be reached any more.
    """

    client: Any
    run_job: Callable[[WorkerJob], FileOutcome | ShardState]
    killed_error: type[Exception]
    address: str
    root: str
    fixed_count: int
    machine: Machine
    notes: tuple[Note, ...] = ()
    connection_failure: Fault | None = None
    _cached_count: tuple[float, int] = (float("-inf"), 1)
    _declared_resources: tuple[str, ...] = ()
    _messages: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    _futures: dict[str, Any] = field(default_factory=dict)
    _job_numbers: Iterator[int] = field(default_factory=itertools.count)
    _control_thread: threading.Thread | None = None
    _session: str = ""
    _last_worker_time: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.client.subscribe_topic(EVENT_TOPIC, lambda event: self._messages.put(event[1]))

    @property
    def worker_count(self) -> int:
        """Current number of workers."""
        count_time, worker_count = self._cached_count
        if time.monotonic() - count_time > WORKER_COUNT_SECONDS:
            with self._catch_connection_errors():
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
                self._declared_resources = tuple(
                    {name for worker in workers for name in worker["resources"]}
                )
                worker_count = len(workers)
                self._track_absence(worker_count)
            self._cached_count = (time.monotonic(), worker_count)
        return worker_count

    @property
    def declared_resources(self) -> tuple[str, ...]:
        """Names of the resources that workers declare."""
        return self._declared_resources if self.worker_count else ()

    @property
    def max_queued(self) -> int:
        """Maximum number of waiting jobs; with some, an adaptive cluster sees the demand."""
        return 0 if self.fixed_count else 1 + self.worker_count // 4

    def send(self, worker_job: WorkerJob, peak_bytes: int, device: str) -> None:
        """Send one job."""
        self._session = worker_job.session
        key = f"napari-dip-{worker_job.session}-{worker_job.name}-{next(self._job_numbers)}"
        resources = make_job_resources(peak_bytes, device, self._declared_resources)
        with self._catch_connection_errors():
            future = self.client.submit(
                self.run_job, worker_job, key=key, pure=False, resources=resources
            )
            self._futures[worker_job.name] = future
            # dask calls this in a thread of its own
            future.add_done_callback(
                lambda finished: self._messages.put((worker_job.name, finished))
            )

    def cancel(self, name: str) -> None:
        """Cancel a job; a worker that has already started it ends it at the next iteration."""
        future = self._futures.pop(name, None)
        if future is not None:
            with self._catch_connection_errors():
                self.client.cancel([future])

    def send_control(self, session: str, control: Control) -> None:
        """Send the control to all workers, without waiting for their replies."""
        if self._control_thread is None or not self._control_thread.is_alive():
            arguments = session, control.name
            self._control_thread = threading.Thread(
                target=self._run_send_control, args=arguments, daemon=True
            )
            self._control_thread.start()

    def receive_messages(self, seconds: float) -> Iterator[WorkerMessage]:
        """Yield new messages; wait at most this long for the first one."""
        messages = []
        with suppress(queue.Empty):
            messages.append(self._messages.get(timeout=seconds))
            while len(messages) < MAX_MESSAGES_AT_ONCE:
                messages.append(self._messages.get_nowait())
        for message in messages:
            if self.connection_failure is not None:
                return
            if isinstance(message, dict):
                if message.get("session") == self._session:
                    yield WorkerMessage(
                        job_name=message["job"], worker=message["worker"], event=message["event"]
                    )
            elif self._futures.get(message[0]) is message[1]:
                if answer_message := self._fetch_answer(*message):
                    yield answer_message

    def close(self) -> None:
        """Cancel all jobs in progress, without waiting for the workers."""
        if self._futures and self.connection_failure is None:
            with self._catch_connection_errors():
                self.client.cancel(list(self._futures.values()))
        self._futures.clear()

    def _track_absence(self, worker_count: int) -> None:
        """Record a failure if local workers stay away too long; cluster workers may come back."""
        if worker_count or not self.fixed_count:
            self._last_worker_time = time.monotonic()
        elif time.monotonic() - self._last_worker_time > MAX_ABSENCE_SECONDS:
            self._record_connection_failure()

    def _fetch_answer(self, name: str, future: Any) -> WorkerMessage | None:
        """Return the answer of a job; None if it is still pending or the connection failed."""
        if future.status == "cancelled":  # by the client, because the scheduler is gone
            self._record_connection_failure()
            return None
        try:
            message = WorkerMessage(job_name=name, answer=future.result(timeout=RESULT_TIMEOUT))
        except self.killed_error:
            message = WorkerMessage(job_name=name, is_abandoned=True)
        except Exception as error:
            if future.status in ("cancelled", "lost"):
                self._record_connection_failure()
                return None
            if isinstance(error, TimeoutError) and future.status != "error":
                # its worker is gone, and the scheduler runs the task again
                self._messages.put((name, future))
                return None
            message = WorkerMessage(
                job_name=name, traceback_text="".join(traceback.format_exception(error))
            )
        del self._futures[name]
        return message

    def _run_send_control(self, session: str, control: str) -> None:
        with suppress(Exception):  # sent repeatedly; other calls detect a lost scheduler
            self.client.run(receive_control, session, control, on_error="ignore")

    def _record_connection_failure(self) -> None:
        self.connection_failure = Fault.make("cluster-lost", address=self.address)

    @contextmanager
    def _catch_connection_errors(self) -> Iterator[None]:
        """Record errors of the connection instead of raising them."""
        try:
            yield
        except (OSError, TimeoutError, RuntimeError, ValueError):
            self._record_connection_failure()
