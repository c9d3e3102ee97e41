"""Start dask workers on this computer, or join a dask cluster.

This is the only module that imports dask.distributed. It also checks that local workers would not
run the script that starts them, and so start further workers.
"""

from __future__ import annotations

import ast
import gc
import inspect
import logging
import os
import sys
import time
import traceback
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_dip.errors import FailedError, Fault, Refusal, RefusedError, raise_if_refused
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.units import compute_max_shards
from napari_dip.pipeline.progress import Event
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.cluster.pool import (
    DaskWorkerPool,
    WorkerInfo,
    choose_worker_count,
    find_shared_machine,
    list_gpus,
    make_job_resources,
    make_oversubscription_note,
    make_worker_resources,
    read_worker_options,
)
from napari_dip.scale.cluster.worker import RemoteRun, detect_worker, run_worker_job

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import ModuleType

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.scale.batch.jobs import BatchPlan, FileOutcome
    from napari_dip.scale.cluster.worker import ShardState, WorkerJob

LOOPBACK = "127.0.0.1"
#: Timeout of the connection to a scheduler, in seconds.
SCHEDULER_TIMEOUT = 30
#: Timeout of the first worker of a scheduler, in seconds.
FIRST_WORKER_TIMEOUT = 60
#: Seconds between two exchanges with a run on a worker: as often as a dock is updated.
EXCHANGE_SECONDS = 0.2
#: Maximum worker deaths per task at the scheduler: no limit, since dask charges a death to every
#: task of that worker; `RunFolder` counts instead.
ALLOWED_FAILURES = 1_000_000
#: Reduce dask's profiling and monitoring, which cost two workers 3 to 8 % of their time
#: (`benchmarks/cluster.py throughput --large`).
QUIET_DASK_CONFIG: dict[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
#: Torch's libraries keep the number of threads of this process. A killed worker is restarted
#: however long that takes: with dask's 15 s, a busy computer lost all its workers one by one.
LOCAL_CLUSTER_CONFIG: dict[str, Any] = {
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.deploy.lost-worker-timeout": "1000 days",
    **QUIET_DASK_CONFIG,
}
#: Code that a local worker runs first. Ctrl-C reaches all processes of a terminal, but workers end
#: only by the control, with a checkpoint.
IGNORE_INTERRUPT_CODE = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


def check_main_guard() -> None:
    """Refuse to start workers from a script without a main guard, which each worker would run.

    A new process imports the script under another name (Python's documentation of
    `multiprocessing`, "The spawn and forkserver start methods"). Raises `RefusedError`.
    """
    main = sys.modules["__main__"]
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if path is None or (spec is not None and spec.name.endswith("__main__")):
        return  # no script that a worker would import
    line = _find_running_line(path)
    if line and not _is_guarded(path, line):
        raise RefusedError("cluster-main", path=path, line=line)


def _find_running_line(path: str) -> int:
    """Return the line of a script that is running at its top level; 0 if none is."""
    for frame, line in traceback.walk_stack(inspect.currentframe()):
        if (frame.f_code.co_name, frame.f_code.co_filename) == ("<module>", path):
            return line
    return 0


def _is_guarded(path: str, line: int) -> bool:
    """Return whether a line of a script is inside an `if` that tests `__name__`."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return True  # unknown, so do not refuse
    guards = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    )
    return any(node.lineno <= line <= (node.end_lineno or line) for node in guards)


@contextmanager
def plan_with_workers(
    *plan_arguments: Any,
    workers: object,
    scheduler: str | None,
    threads: object,
    **plan_options: Any,
) -> Iterator[tuple[BatchPlan, Callable[[], AbstractContextManager[DaskWorkerPool | None]]]]:
    """Plan a batch for the machine of its workers.

    Parameters
    ----------
    *plan_arguments, **plan_options
        As for `plan_batch`.
    workers : int or str or None
        Number of worker processes to start on this computer.
    scheduler : str or None
        Address of a running cluster.
    threads : int or str or None
        Maximum threads of each fit.

    Yields
    ------
    plan : BatchPlan
    start_pool : callable
        Returns a context manager for the workers; its value None means this process alone.

    Raises
    ------
    RefusedError
        As `plan_batch`; also if the requested workers are not available.
    """
    count, max_threads = read_worker_options(workers, scheduler, threads)
    joining = nullcontext() if scheduler is None else join_cluster(scheduler)
    with joining as joined_pool:
        if count:
            _import_distributed()  # report a missing package first
            check_main_guard()
        machine = None if joined_pool is None else joined_pool.machine
        plan_options |= {"machine": machine, "threads": max_threads, "process_count": count or 1}
        plan = plan_batch(*plan_arguments, **plan_options)
        use_joined_pool = partial(nullcontext, joined_pool)
        yield plan, partial(start_workers, plan, count) if count else use_joined_pool


@contextmanager
def join_cluster(address: str) -> Iterator[DaskWorkerPool]:
    """Join a running cluster.

    Parameters
    ----------
    address : str
        Address of the scheduler, such as "tcp://10.0.0.1:8786", or its file (`--scheduler-file`),
        with suffix ".json".

    Raises
    ------
    RefusedError
        If the scheduler does not answer, or its workers are unsuitable.
    """
    distributed = _import_distributed()
    if address.endswith(".json") and not _wait_for_file(Path(address)):
        raise RefusedError("cluster-unreachable", address=address, why="there is no such file")
    location = {"scheduler_file" if address.endswith(".json") else "address": address}
    loop_runner = distributed.utils.LoopRunner()
    loop_runner.start()
    settings = {"timeout": SCHEDULER_TIMEOUT, "set_as_default": False, "loop": loop_runner.loop}
    client, why = None, "nothing answers there"
    try:
        client = distributed.Client(**location, **settings)
    except (OSError, TimeoutError, ValueError, TypeError, KeyError) as error:
        why = describe_exception(error) if isinstance(error, OSError) else why
    if client is None:
        gc.collect()  # a client that failed closes itself, for which its loop has to run
        # it would leave the thread of its loop behind
        loop_runner.loop.add_callback(loop_runner.loop.stop)
        raise RefusedError("cluster-unreachable", address=address, why=why)
    with ExitStack() as stack:
        stack.callback(loop_runner.stop)
        stack.enter_context(client)
        machine = find_shared_machine(_query_workers(client, address), address)
        pool = _open_pool(client, address, root=os.getcwd(), fixed_count=0, machine=machine)
        yield stack.enter_context(pool)


def _wait_for_file(path: Path) -> bool:
    """Return whether a file is there before the timeout; dask itself would wait for ever."""
    end = time.monotonic() + SCHEDULER_TIMEOUT
    while not (is_there := path.exists()) and time.monotonic() < end:
        time.sleep(EXCHANGE_SECONDS)
    return is_there


@contextmanager
def start_workers(plan: BatchPlan, requested_count: int) -> Iterator[DaskWorkerPool]:
    """Start workers on this computer, reachable only from this computer.

    Parameters
    ----------
    plan : BatchPlan
    requested_count : int
        Maximum number of workers.
    """
    distributed = _import_distributed()
    restorable = [job.plan for job in plan.jobs if not isinstance(job.plan, Refusal)]
    gpus = list_gpus() if any(file_plan.device == "cuda" for file_plan in restorable) else []
    peaks = [file_plan.peak_bytes for file_plan in restorable]
    max_workers = min(requested_count, sum(map(compute_max_shards, restorable)))
    worker_count, note = choose_worker_count(max_workers, peaks, plan.machine, len(gpus))
    threads = max((file_plan.threads for file_plan in restorable), default=1)
    threads_note = make_oversubscription_note(worker_count, threads, detect_machine().cores)
    notes = tuple(filter(None, (note, threads_note)))
    import dask

    scheduler_options = {  # only the loopback address, and no dashboard
        "host": LOOPBACK,
        "port": 0,
        "dashboard": False,
        "dashboard_address": f"{LOOPBACK}:0",
        "allowed_failures": ALLOWED_FAILURES,
    }
    scheduler = {"cls": distributed.Scheduler, "options": scheduler_options}
    options = {"fixed_count": worker_count, "machine": plan.machine, "notes": notes}
    memory_bytes = plan.machine.memory_bytes // worker_count
    workers = {
        index: _make_worker_spec(distributed, memory_bytes, gpus, index)
        for index in range(worker_count)
    }
    with (
        dask.config.set(LOCAL_CLUSTER_CONFIG),
        distributed.SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        _open_pool(client, cluster.scheduler_address, root="", **options) as pool,
    ):
        yield pool


def run_on_cluster(
    address: str,
    plan: Plan,
    inputs: Mapping[str, Any],
    *,
    poll_control: PollControl = lambda: Control.GO,
    preview_seconds: float | None = None,
) -> Generator[Event, None, Restoration | None]:
    """Run a plan of this computer on a worker of a running cluster, to the same pixels.

    Events, result and errors are those of `napari_dip.pipeline.execute.runner.run`.

    Parameters
    ----------
    address : str
        As for `join_cluster`.
    plan, inputs, poll_control, preview_seconds
        As for `napari_dip.pipeline.execute.runner.run`. The pixels are sent to the worker.

    Raises
    ------
    RefusedError
        Also if the scheduler does not answer, or its workers are unsuitable.
    FailedError
        Also if the worker is lost.
    """
    yield Event(message="Joining the cluster")
    with join_cluster(address) as pool:
        if plan.device not in pool.machine.devices:
            raise RefusedError("cluster-device", address=address, device=plan.device)
        resources = make_job_resources(plan.peak_bytes, plan.device, pool.declared_resources)
        pixels = pool.client.scatter(dict(inputs))
        try:
            options = {"actor": True, "resources": resources}
            with pool.client.as_current():  # which an actor needs
                future = pool.client.submit(RemoteRun, plan, pixels, preview_seconds, **options)
                remote_run = future.result()
            is_done, outcome = False, None
            while not is_done:
                events, is_done, outcome = remote_run.exchange(poll_control().name).result()
                yield from events
                time.sleep(0 if is_done else EXCHANGE_SECONDS)
        except (OSError, ValueError, RuntimeError) as error:  # dask's errors of a lost actor
            raise FailedError("cluster-run-lost", address=address, why=str(error)) from error
    if isinstance(outcome, str):
        raise RuntimeError(outcome)
    if isinstance(outcome, Fault) and not isinstance(outcome, Refusal):
        raise FailedError(outcome)
    result: Restoration | None = raise_if_refused(outcome)
    return result


def run_on_worker(worker_job: WorkerJob) -> FileOutcome | ShardState:
    """Restore one file or shard on a worker; return the answer of `run_worker_job`."""
    from distributed import Reschedule, get_worker

    answer = run_worker_job(worker_job, get_worker())
    if answer is None:
        raise Reschedule
    return answer


def _query_workers(client: Any, address_text: str) -> list[WorkerInfo]:
    """Query the resources of all workers; wait for the first one."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=FIRST_WORKER_TIMEOUT)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise RefusedError("cluster-empty", address=address_text)
    try:
        worker_descriptions = client.run(detect_worker)
    except Exception as error:
        raise RefusedError(
            "cluster-package", address=address_text, why=describe_exception(error)
        ) from None
    return [
        WorkerInfo(
            host=workers[address]["host"],
            machine=machine,
            versions=versions,
            threads=workers[address]["nthreads"],
            resources=workers[address]["resources"],
            memory_limit=int(workers[address]["memory_limit"] or 0),
        )
        for address, (machine, versions) in worker_descriptions.items()
        if address in workers
    ]


def _open_pool(client: Any, address: str, **options: Any) -> closing[DaskWorkerPool]:
    """Open a pool of the workers of a client, and cancel its jobs at the end."""
    killed_error = _import_distributed().KilledWorker
    return closing(DaskWorkerPool(client, run_on_worker, killed_error, address, **options))


def _make_worker_spec(
    distributed: ModuleType, memory_bytes: int, gpus: list[str], index: int
) -> dict[str, Any]:
    """Return dask's specification of a local worker; with GPUs, each worker gets its own."""
    return {
        "cls": distributed.Nanny,
        "options": {
            "host": LOOPBACK,
            "nthreads": 1,
            "dashboard": False,
            "memory_limit": 0,  # the plan limits the memory
            "resources": make_worker_resources(memory_bytes, bool(gpus)),
            "env": {"CUDA_VISIBLE_DEVICES": gpus[index]} if gpus else {},
            "preload": [IGNORE_INTERRUPT_CODE],
            "silence_logs": logging.CRITICAL,
        },
    }


def _import_distributed() -> ModuleType:
    try:
        import distributed
    except ImportError:
        raise RefusedError("cluster-missing") from None
    for name in ("distributed", "tornado", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # this package reports errors itself
    module: ModuleType = distributed
    return module
