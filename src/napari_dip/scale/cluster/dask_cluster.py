"""The one place that knows dask.distributed: workers on this computer, or of a running cluster.

Here lie no decisions about files (`cluster_batch`), none about room (`cluster_room`), and no work
(`cluster_unit`): only how workers are started or joined.

Whether workers of this computer would run the script that starts them, and so start others.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_dip.errors import Refusal, Refused, refusal
from napari_dip.errors.fault import make_printable
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.execute.shards import compute_max_shards
from napari_dip.pipeline.machine import detect_machine
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.cluster.pool import (
    DaskWorkerPool,
    WorkerInfo,
    check_worker_options,
    choose_worker_count,
    find_shared_machine,
    list_gpus,
    make_worker_resources,
    warn_of_oversubscription,
)
from napari_dip.scale.cluster.worker import describe_worker, run_worker_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import FrameType, ModuleType

    from napari_dip.scale.batch.jobs import BatchPlan
    from napari_dip.scale.cluster.unit import WorkerTask


def check_main_guard() -> None:
    """Refuse to start workers out of a script that each of them would run from its top.

    A new process reads the script again, under another name (Python's documentation of
    `multiprocessing`, "The spawn and forkserver start methods"). Raises `Refused`.
    """
    main = sys.modules["__main__"]
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if path is None or (spec is not None and spec.name.endswith("__main__")):
        return  # there is nothing that would be read again
    line = _find_running_line(path)
    if line and not _is_guarded(path, line):
        raise Refused(refusal("cluster-main", path=make_printable(path), line=line))


def _find_running_line(path: str) -> int:
    """Find which line of a script is at work, by its top level; 0 if none is."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if (frame.f_code.co_name, frame.f_code.co_filename) == ("<module>", path):
            return frame.f_lineno
        frame = frame.f_back
    return 0


def _is_guarded(path: str, line: int) -> bool:
    """Whether a line of a script stands below an `if` that asks for `__name__`."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return True  # nobody can tell
    asking = (
        item
        for item in ast.walk(tree)
        if isinstance(item, ast.If) and "__name__" in ast.unparse(item.test)
    )
    return any(item.lineno <= line <= (item.end_lineno or line) for item in asking)


LOOPBACK = "127.0.0.1"
#: Seconds that a scheduler has to answer, and its first worker to come.
SCHEDULER_TIMEOUT, FIRST_WORKER_TIMEOUT = 30, 60
#: Deaths of workers that the scheduler may hold against a task: it counts those of all workers
#: that a task lay with, begun or not, so that a bad file would take others with it. We count.
ALLOWED_FAILURES = 1_000_000
#: Dask looks 100 times a second where each thread is, 50 times whether its loop is late, and twice
#: at the system, all of which a fit in the same process waits for: 3 to 8 % of two workers' time
#: (`benchmarks/cluster.py throughput --large`).
QUIET_DASK_CONFIG = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
#: Threads of torch's libraries as they are in this process; and a worker that was killed is started
#: again however long that takes: dask's own 15 s are too few on a busy computer, where all workers
#: were lost one by one.
LOCAL_CLUSTER_CONFIG = {
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.deploy.lost-worker-timeout": "1000 days",
    **QUIET_DASK_CONFIG,
}
#: First thing that a worker here does: Ctrl-C reaches all processes of a terminal, and workers end
#: when they are told, with what they have done so far.
IGNORE_INTERRUPT_CODE = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@contextmanager
def plan_with_workers(
    *places: Any,
    workers: object,
    scheduler: str | None,
    threads: object,
    **how: Any,
) -> Iterator[tuple[BatchPlan, Callable[[], AbstractContextManager[DaskWorkerPool | None]]]]:
    """Plan a batch with what its workers can do.

    Parameters
    ----------
    *places, **how
        As for `plan_batch`.
    workers : int or str or None
        Processes to start on this computer.
    scheduler : str or None
        Address of a running cluster.
    threads : int or str or None
        Most threads of each fit.

    Yields
    ------
    plan : BatchPlan
    staff : callable
        Makes the context in which there are workers; None stands for this process alone.

    Raises
    ------
    Refused
        As `plan_batch`; if the workers cannot be had as asked for.
    """
    count, most = check_worker_options(workers, scheduler, threads)
    with join_cluster(scheduler) as joined:
        if count:
            _import_distributed()  # what is missing is said first
            check_main_guard()
        machine = None if joined is None else joined.machine
        how |= {"machine": machine, "threads": most, "sharing": count or 1}
        plan = plan_batch(*places, **how)
        yield plan, partial(start_workers, plan, count, joined)


@contextmanager
def join_cluster(address: str | None) -> Iterator[DaskWorkerPool | None]:
    """Join a running cluster.

    Parameters
    ----------
    address : str or None
        Of the scheduler, such as "tcp://10.0.0.1:8786", or its file (`--scheduler-file`), which
        ends with ".json"; None: no cluster.

    Raises
    ------
    Refused
        If it does not answer, or its workers are not fit for work.
    """
    if address is None:
        yield None
        return
    distributed = _import_distributed()
    printable = make_printable(address)
    place = {"scheduler_file" if address.endswith(".json") else "address": address}
    try:
        client = distributed.Client(**place, timeout=SCHEDULER_TIMEOUT, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, KeyError) as error:
        why = describe_exception(error) if isinstance(error, OSError) else "nothing answers there"
        raise Refused(refusal("cluster-unreachable", address=printable, why=why)) from None
    with client:
        machine = find_shared_machine(_query_workers(client, printable), printable)
        crew = _make_worker_pool(
            distributed, client, address, root=os.getcwd(), fixed=0, machine=machine
        )
        try:
            yield crew
        finally:
            crew.close()


@contextmanager
def start_workers(
    plan: BatchPlan, wanted: int, joined: DaskWorkerPool | None = None
) -> Iterator[DaskWorkerPool | None]:
    """Start workers on this computer, if any are wanted; they listen to nobody beyond it.

    Parameters
    ----------
    plan : BatchPlan
    wanted : int
        0: none.
    joined : DaskWorkerPool, optional
        Workers that there are already.
    """
    if not wanted:
        yield joined
        return
    distributed = _import_distributed()
    sound = [job.plan for job in plan.jobs if not isinstance(job.plan, Refusal)]
    cards = list_gpus() if any(item.device == "cuda" for item in sound) else []
    peaks = [item.peak_bytes for item in sound]
    most = min(wanted, sum(map(compute_max_shards, sound)))
    number, why = choose_worker_count(most, peaks, plan.machine, len(cards))
    notes = tuple(
        filter(
            None,
            (why, warn_of_oversubscription(number, plan.machine.cores, detect_machine().cores)),
        )
    )
    import dask

    # an address of this computer alone, and no page to look at
    with (
        dask.config.set(LOCAL_CLUSTER_CONFIG),
        distributed.SpecCluster(
            scheduler={
                "cls": distributed.Scheduler,
                "options": {
                    "host": LOOPBACK,
                    "port": 0,
                    "dashboard": False,
                    "dashboard_address": f"{LOOPBACK}:0",
                    "allowed_failures": ALLOWED_FAILURES,
                },
            },
            workers={
                place: _make_worker_spec(
                    distributed, plan.machine.memory_bytes // number, cards, place
                )
                for place in range(number)
            },
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        address = cluster.scheduler_address
        how = {"machine": plan.machine, "notes": notes}
        crew = _make_worker_pool(distributed, client, address, root="", fixed=number, **how)
        try:
            yield crew
        finally:
            crew.close()


def run_on_worker(unit: WorkerTask) -> dict[str, Any]:
    """Restore one file in a worker; what comes back is as `restore_unit` says."""
    from distributed import Reschedule, get_worker

    answer = run_worker_task(unit, get_worker())
    if answer is None:
        raise Reschedule
    return answer


def _query_workers(client: Any, address_text: str) -> list[WorkerInfo]:
    """Ask all workers what they offer; the first one may take a while to come."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=FIRST_WORKER_TIMEOUT)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise Refused(refusal("cluster-empty", address=address_text))
    try:
        answers = client.run(describe_worker)
    except Exception as error:
        facts = {"address": address_text, "why": describe_exception(error)}
        raise Refused(refusal("cluster-package", **facts)) from None
    infos = []
    for address in workers.keys() & answers.keys():
        offer, (machine, versions) = workers[address], answers[address]
        info = WorkerInfo(
            host=offer["host"],
            machine=machine,
            versions=versions,
            threads=offer["nthreads"],
            resources=offer["resources"],
            memory_limit=int(offer["memory_limit"] or 0),
        )
        infos.append(info)
    return infos


def _make_worker_pool(
    distributed: ModuleType, client: Any, address: str, **how: Any
) -> DaskWorkerPool:
    return DaskWorkerPool(client, run_on_worker, distributed.KilledWorker, address, **how)


def _make_worker_spec(
    distributed: ModuleType, memory: int, cards: list[str], place: int
) -> dict[str, Any]:
    """Say how one worker here is started; each has a card to itself where there are cards."""
    return {
        "cls": distributed.Nanny,
        "options": {
            "host": LOOPBACK,
            "nthreads": 1,
            "dashboard": False,
            "memory_limit": 0,  # what files take is planned, and a full memory is minded there
            "resources": make_worker_resources(memory, bool(cards)),
            "env": {"CUDA_VISIBLE_DEVICES": cards[place]} if cards else {},
            "preload": [IGNORE_INTERRUPT_CODE],
            "silence_logs": logging.CRITICAL,
        },
    }


def _import_distributed() -> ModuleType:
    try:
        import distributed
    except ImportError:
        raise Refused(refusal("cluster-missing")) from None
    for name in ("distributed", "tornado", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # we say what matters
    module: ModuleType = distributed
    return module
