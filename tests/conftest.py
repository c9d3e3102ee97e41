"""What holds for every test: a home of its own, and nothing left running when it ends."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from golden.processor import choose_blas_kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

# Before napari, Qt, matplotlib or torch load: none of them may read or write the user's own files.
HOME = Path(tempfile.mkdtemp(prefix="napari-dip-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.update(
    HOME=str(HOME),
    USERPROFILE=str(HOME),
    APPDATA=str(HOME),
    LOCALAPPDATA=str(HOME),
    XDG_CACHE_HOME=str(HOME / "cache"),
    XDG_CONFIG_HOME=str(HOME / "config"),
    XDG_DATA_HOME=str(HOME / "share"),
    XDG_STATE_HOME=str(HOME / "state"),
    MPLCONFIGDIR=str(HOME / "matplotlib"),
    MPLBACKEND="Agg",
    NAPARI_CONFIG=str(HOME / "napari" / "settings.yaml"),
    OMP_WAIT_POLICY="PASSIVE",  # idle threads of torch do not fight those of other programs
    **choose_blas_kernels(),  # the frozen pixels hold for these
)

# Side by side without a display, each worker keeps to one core: fits of two threads each, on two
# cores, mostly wait for one another (92 CPU seconds of four files of tests instead of 52).
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
WORKER_NUMBER = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
IS_PINNED = bool(WORKER_NUMBER and CORES and os.environ.get("QT_QPA_PLATFORM") == "offscreen")
if IS_PINNED:
    os.sched_setaffinity(0, {sorted(CORES)[int(WORKER_NUMBER) % len(CORES)]})

#: Seconds that a thread may take to end after its test.
GRACE_SECONDS = 3.0
#: Threads that libraries start once and keep: ours never bear such names.
LIBRARY_THREADS = (
    "pydevd",
    "tqdm",
    "IPython",
    "asyncio_",
    "pytest_timeout",
    "ThreadPoolExecutor",
    "zarr_",
    "Dummy-",
)

#: How many modules were there when their objects were last set aside.
_frozen_module_count = [0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark cases of a test that says `sampled(n)` as long, but for n spread over them."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    for group in cases.values():
        marker = group[0].get_closest_marker("sampled")
        assert marker is not None
        count = min(marker.args[0], len(group))
        kept = {number * len(group) // count for number in range(count)}
        for number, item in enumerate(group):
            if number not in kept:
                item.add_marker("long")


@pytest.fixture(autouse=True)
def use_all_cores(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let fits of tests marked `all_cores` take the threads that they take elsewhere."""
    if not (IS_PINNED and request.node.get_closest_marker("all_cores")):
        yield
        return
    import torch

    mine, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, CORES)
    torch.set_num_threads(len(CORES))
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, mine)


@pytest.fixture(autouse=True)
def check_nothing_is_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a worker, a running timer or a window behind.

    It takes the place of napari's NAPARI_STRICT_QT, which looks before Python has collected its
    cycles: pyqtgraph's menus are part of such cycles, and go with them.
    """
    _freeze_imports()
    threads = set(threading.enumerate())
    windows = set(_list_windows())
    yield
    _finish_qt_events()
    leftovers = [
        *_find_after_grace(lambda: _find_new_threads(threads)),
        *_find_after_grace(_find_workers),
        *_find_after_grace(lambda: _find_new_windows(windows)),
        # a search through all objects, 50 ms for each of 4000 tests that have nothing of Qt
        *(_find_after_grace(_find_timers) if "qapp" in request.fixturenames else ()),
    ]
    assert not leftovers, "The test left behind: " + "; ".join(leftovers)


def _freeze_imports() -> None:
    """Keep what imports have made out of later searches and collections of garbage.

    torch and napari leave 300 000 objects, for good; going through them, at least three times
    after each test with a viewer, took half a second of the processor.
    """
    if len(sys.modules) > _frozen_module_count[0] + 100:
        gc.collect()
        gc.freeze()
        _frozen_module_count[0] = len(sys.modules)


def _find_after_grace(find: Callable[[], list[str]]) -> list[str]:
    """Ask again until nothing is found or the time is up."""
    end = time.monotonic() + GRACE_SECONDS
    while (alive := find()) and time.monotonic() < end:
        _finish_qt_events()
        gc.collect()
        time.sleep(0.02)
    return alive


def _find_new_threads(before: set[threading.Thread]) -> list[str]:
    return [
        f"thread {thread.name}"
        for thread in set(threading.enumerate()) - before
        if not thread.name.startswith(LIBRARY_THREADS)
    ]


def _find_workers() -> list[str]:
    """Find superqt's workers, which napari's are too, and jobs in Qt's own pool of threads."""
    alive: list[str] = []
    if module := sys.modules.get("superqt.utils._qthreading"):
        alive += [f"worker {worker!r}" for worker in module.WorkerBase._worker_set]
    if core := _get_qt_module("QtCore"):
        alive += ["job in Qt's thread pool"] * core.QThreadPool.globalInstance().activeThreadCount()
    return alive


def _list_windows() -> list[object]:
    widgets = _get_qt_module("QtWidgets")
    if widgets is None or widgets.QApplication.instance() is None:
        return []
    return list(widgets.QApplication.topLevelWidgets())


def _find_new_windows(before: set[object]) -> list[str]:
    """Find widgets without a parent; napari names those that its own tests may leave."""
    return [
        f"widget {type(window).__name__} {window.objectName()!r}"
        for window in set(_list_windows()) - before
        if _is_alive(window) and window.objectName() != "handled_widget"
    ]


def _find_timers() -> list[str]:
    """Find timers of ours that still run."""
    core = _get_qt_module("QtCore")
    if core is None or core.QCoreApplication.instance() is None:
        return []
    return [
        f"running timer of {type(timer.parent()).__name__}"
        for timer in gc.get_objects()
        if type(timer) is core.QTimer
        and _is_alive(timer)
        and timer.isActive()
        and type(timer.parent()).__module__.startswith("napari_dip")
    ]


def _is_alive(widget: object) -> bool:
    try:
        widget.objectName()  # type: ignore[attr-defined]
    except RuntimeError:  # its C++ half is gone
        return False
    return True


def _finish_qt_events() -> None:
    core = _get_qt_module("QtCore")
    if core is None or (app := core.QCoreApplication.instance()) is None:
        return
    app.processEvents()
    app.sendPostedEvents(None, core.QEvent.Type.DeferredDelete)


def _get_qt_module(part: str) -> ModuleType | None:
    """Return a module of Qt if a test has loaded it: these checks must not load it themselves."""
    return sys.modules.get(f"PyQt6.{part}")
