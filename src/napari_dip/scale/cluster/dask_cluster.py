"""Start dask workers on this computer, join a dask cluster, or restore a dask array in blocks.

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
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.errors import FailedError, Fault, Refusal, RefusedError, raise_if_refused
from napari_dip.io.header import ImageHeader, guess_axes
from napari_dip.io.lazy_images import LazyImage
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.events import Event, drain_generator
from napari_dip.pipeline.execute.runner import run, run_with_torch
from napari_dip.pipeline.interactive_run import Control
from napari_dip.pipeline.lazy_inputs import LazyPixels
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.layout import has_overlap
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.units import compute_max_shards
from napari_dip.pipeline.recipe import make_recipe
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
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import FrameType, ModuleType

    from napari_dip.engine.fit.stopping import PollControl
    from napari_dip.io import AnyArray, Float32Array
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.plan.layout import Tile
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration
    from napari_dip.scale.batch.jobs import BatchPlan
    from napari_dip.scale.cluster.worker import WorkerJob

#: Minimum side of the blocks of a dask array, in pixels: narrower ones are mostly halo (see
#: `plan.tiling`).
MIN_BLOCK_SIDE = 256
#: Maximum side: wider ones gain nothing.
MAX_BLOCK_SIDE = 1024
#: Held by a fit in a task of dask, since the threads of a process share the state of torch.
_BLOCK_LOCK = Lock()
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
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if (frame.f_code.co_name, frame.f_code.co_filename) == ("<module>", path):
            return frame.f_lineno
        frame = frame.f_back
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
    with join_cluster(scheduler) as joined_pool:
        if count:
            _import_distributed()  # report a missing package first
            check_main_guard()
        machine = None if joined_pool is None else joined_pool.machine
        plan_options |= {"machine": machine, "threads": max_threads, "process_count": count or 1}
        plan = plan_batch(*plan_arguments, **plan_options)
        yield plan, partial(start_workers, plan, count, joined_pool)


@contextmanager
def join_cluster(address: str | None) -> Iterator[DaskWorkerPool | None]:
    """Join a running cluster.

    Parameters
    ----------
    address : str or None
        Address of the scheduler, such as "tcp://10.0.0.1:8786", or its file (`--scheduler-file`),
        with suffix ".json"; None: no cluster.

    Raises
    ------
    RefusedError
        If the scheduler does not answer, or its workers are unsuitable.
    """
    if address is None:
        yield None
        return
    distributed = _import_distributed()
    if address.endswith(".json") and not _wait_for_file(Path(address)):
        raise RefusedError("cluster-unreachable", address=address, why="there is no such file")
    location = {"scheduler_file" if address.endswith(".json") else "address": address}
    loop_runner = distributed.utils.LoopRunner()
    loop_runner.start()
    options = {"timeout": SCHEDULER_TIMEOUT, "set_as_default": False, "loop": loop_runner.loop}
    client, why = None, "nothing answers there"
    try:
        client = distributed.Client(**location, **options)
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
        pool_options = {"root": os.getcwd(), "fixed_count": 0, "machine": machine}
        with closing(_make_worker_pool(distributed, client, address, **pool_options)) as pool:
            yield pool


def _wait_for_file(path: Path) -> bool:
    """Return whether a file is there before the timeout; dask itself would wait for ever."""
    end = time.monotonic() + SCHEDULER_TIMEOUT
    while not (is_there := path.exists()) and time.monotonic() < end:
        time.sleep(EXCHANGE_SECONDS)
    return is_there


@contextmanager
def start_workers(
    plan: BatchPlan, requested_count: int, joined_pool: DaskWorkerPool | None = None
) -> Iterator[DaskWorkerPool | None]:
    """Start workers on this computer, if requested, reachable only from this computer.

    Parameters
    ----------
    plan : BatchPlan
    requested_count : int
        Number of workers; 0: none.
    joined_pool : DaskWorkerPool, optional
        Pool of a cluster that was joined, used if no workers are requested.
    """
    if not requested_count:
        yield joined_pool
        return
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

    # only the loopback address, and no dashboard
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
                index: _make_worker_spec(
                    distributed, plan.machine.memory_bytes // worker_count, gpus, index
                )
                for index in range(worker_count)
            },
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        address = cluster.scheduler_address
        pool_options = {
            "root": "",
            "fixed_count": worker_count,
            "machine": plan.machine,
            "notes": notes,
        }
        with closing(_make_worker_pool(distributed, client, address, **pool_options)) as pool:
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
        assert pool is not None  # there is an address
        if plan.device not in pool.machine.devices:
            raise RefusedError("cluster-device", address=address, device=plan.device)
        resources = make_job_resources(plan.peak_bytes, plan.device, pool.declared_resources)
        pixels = pool.client.scatter(dict(inputs))
        try:
            with pool.client.as_current():  # which an actor needs
                exchange = (
                    pool.client.submit(
                        RemoteRun, plan, pixels, preview_seconds, actor=True, resources=resources
                    )
                    .result()
                    .exchange
                )
            is_done, outcome = False, None
            while not is_done:
                events, is_done, outcome = exchange(poll_control().name).result()
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


def run_on_worker(worker_job: WorkerJob) -> dict[str, Any]:
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


def _make_worker_pool(
    distributed: ModuleType, client: Any, address: str, **pool_options: Any
) -> DaskWorkerPool:
    return DaskWorkerPool(client, run_on_worker, distributed.KilledWorker, address, **pool_options)


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


def restore_blocks(
    image: Any, task: str = "denoise", *, axes: str | None = None, **settings: Any
) -> Any:
    """Restore a dask array lazily: return a dask array whose blocks are fitted when computed.

    One task measures noise and range on sample regions of the whole array. Then each block is
    fitted with a halo, independently of the others, and overlaps are blended, as in a run in
    tiles. Nothing is computed before `compute`, and any scheduler will do; its own progress bar
    counts the blocks. In one process the fits take turns.

    Parameters
    ----------
    image : dask array
        A plane or a Z stack, also with channels. An array that fits into one block, and a movie,
        is restored as a whole by a single task.
    task : str
        "denoise" or "deblur", without extra inputs.
    axes : str, optional
        As for `denoise`.
    **settings
        Settings of the task; ``tile`` is the side of a block without its halo. Default: that of
        the largest chunk of `image`, but at least 256 and at most 1,024 pixels.

    Returns
    -------
    dask array of float32
        Each block keeps its own mean.

    Raises
    ------
    RefusedError
        If array or settings cannot be used. Pixels are refused when they are computed.

    Examples
    --------
    >>> restored = dip.restore_blocks(array, preset="fast")
    >>> restored.to_zarr("restored.zarr")
    """
    import dask.array
    from dask.delayed import delayed

    da: Any = dask.array  # typed in part
    side = min(max(map(max, image.chunks[-2:])), MAX_BLOCK_SIDE)
    defaults: dict[str, Any] = {"tile": max(side, MIN_BLOCK_SIDE)}
    if hasattr(TASKS.get(task), "series_training"):
        defaults["series_training"] = "independent"
    recipe = make_recipe(task, **{**defaults, **settings})
    header = ImageHeader(
        name="image",
        shape=tuple(map(int, image.shape)),
        dtype=image.dtype.name,
        axes=axes or guess_axes(image.shape),
        has_guessed_axes=axes is None,
    )
    plan = raise_if_refused(preflight(recipe, header, detect_machine()))
    if not plan.tiles:
        result = delayed(partial(_restore_whole_array, plan))(image)
        return da.from_delayed(result, plan.result_shape, np.float32)
    regions_image = delayed(partial(_calibrate_array, plan, LazyPixels("image", image)))()
    estimates = [
        delayed(partial(_restore_block, plan, tile))(
            regions_image, image[tile.get_slices(header.axes)]
        )
        for tile in plan.tiles
    ]
    down, right = plan.task_plan.get_factors("YX")
    blocks: dict[tuple[int, ...], Any] = {}
    for tile in plan.tiles:
        region = tile.core
        neighbours = [other for other in plan.tiles if has_overlap(other, region)]
        blend = delayed(partial(_blend_block, plan, region, neighbours))
        block = blend(*(estimates[other.index] for other in neighbours))
        shape = region.upscale((down, right)).make_header(header).shape
        blocks[region.start] = da.from_delayed(block, shape, np.float32)
    for axis in reversed(plan.tiles[0].axes):
        lines = defaultdict(list)
        for start, block in blocks.items():
            lines[start[:-1]].append(block)
        place = header.axes.index(axis)
        blocks = {start: da.concatenate(line, place) for start, line in lines.items()}
    return blocks[()]


def _restore_whole_array(plan: Plan, image: AnyArray) -> AnyArray:
    with _BLOCK_LOCK:
        result = drain_generator(run(plan, {"image": image}))
    assert result is not None  # the control never discards
    return result.image


def _calibrate_array(plan: Plan, image: LazyPixels) -> CalibratedImage:
    """Measure noise and range of a dask array within a task, which computes it in pieces."""
    import dask

    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_calibration import calibrate_tiles

    monitor = RunMonitor(plan, lambda: Control.GO, None)
    steps = calibrate_tiles(plan, {"image": image}, monitor)
    with _BLOCK_LOCK, dask.config.set(scheduler="synchronous"):
        return drain_generator(run_with_torch(steps, plan.threads, plan.header.name))[0]


def _restore_block(
    plan: Plan, tile: Tile, regions_image: CalibratedImage, pixels: AnyArray
) -> Float32Array:
    """Fit one block; return (C, *size) with its halo, and with the mean of its pixels."""
    from napari_dip.pipeline.execute.run_monitor import RunMonitor
    from napari_dip.pipeline.execute.tile_executor import TileExecutor, open_tile_results
    from napari_dip.pipeline.store.checkpoints import CheckpointStore
    from napari_dip.pipeline.store.unit_results import make_tile_name

    units = [unit for unit in regions_image.run_plan.units if unit.tile == tile.index]
    monitor = RunMonitor(plan, lambda: Control.GO, None)
    monitor.set_expected_work(regions_image.run_plan, units)
    with _BLOCK_LOCK, tempfile.TemporaryDirectory(prefix="napari-dip-") as folder:
        block = LazyImage(path=Path(folder), array=pixels, fetch=lambda _: pixels)
        checkpoints = CheckpointStore(Path(folder, "run"), resume=False)
        results = open_tile_results(regions_image.run_plan, {}, checkpoints)
        executor = TileExecutor(regions_image, block, monitor, checkpoints, results)
        drain_generator(run_with_torch(executor.run(units), plan.threads, plan.header.name))
        name = make_tile_name(tile.index)
        estimate = np.array(results.open_estimates(name)[0], np.float32)
        mean_residual = np.array(results.read_residual_sums(name)) / tile.compute_weights().sum()
        results.close()
    if plan.recipe.task.spec.keeps_mean:
        estimate += mean_residual.astype(np.float32).reshape(-1, *[1] * len(tile.spans))
    return estimate


def _blend_block(plan: Plan, region: Tile, tiles: list[Tile], *estimates: Float32Array) -> AnyArray:
    """Blend what overlaps with a region, and return it in the axes of the image."""
    from napari_dip.pipeline.execute.tile_blending import arrange_axes, compute_overlap

    down, right = plan.task_plan.get_factors("YX")
    finer_region = region.upscale((down, right))
    image = np.zeros((len(estimates[0]), *finer_region.size))
    for tile, estimate in zip(tiles, estimates, strict=True):
        overlap, weight, tile_slices = compute_overlap(tile.upscale((down, right)), finer_region)
        image[:, *overlap] += weight * estimate[:, *tile_slices]
    return arrange_axes(plan, image, finer_region)
