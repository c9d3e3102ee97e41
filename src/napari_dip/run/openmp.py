"""Idle threads of torch that wait, where torch was loaded before anyone told them to.

GNU's OpenMP reads its wait policy when it loads. Without one, an idle thread spins for a
millisecond or so after each operation, and takes the cores from threads that compute: beside two
busy programs on two cores, a run of 64 x 64 pixels took 88 s instead of 7 to 14. Spinning is cut
to a three-hundredth as long as the process has more such threads than there are cores
(`do_spin` in libgomp's config/linux/wait.h), so that a few more, which sleep, end it. The number
of threads that compute, and with it the pixels, stay as planned.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What people set who want to say themselves how threads wait.
_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

#: Whether idle threads spin, found out once: the environment says nothing of it later.
_spinning: list[bool] = []


def note_spinning() -> None:
    """Find out whether idle threads spin: it is too late for a policy once torch has loaded."""
    if not _spinning:
        late = "torch" in sys.modules
        _spinning.append(late and not any(name in os.environ for name in _POLICIES))


@contextmanager
def waiting_threads(threads: int) -> Iterator[None]:
    """Keep idle threads of torch from spinning meanwhile.

    Parameters
    ----------
    threads : int
        That compute; one has no others to wait for.
    """
    libraries = _libraries() if threads > 1 and any(_spinning) else []
    if not libraries:
        yield
        return
    over, asleep = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            for one in libraries:
                _start_threads(one)
        finally:
            asleep.set()
        over.wait()  # they go with the thread that started them

    holder = threading.Thread(target=hold, name="napari-dip-openmp", daemon=True)
    holder.start()
    asleep.wait()
    try:
        yield
    finally:
        over.set()
        holder.join()


def _libraries() -> list[ctypes.CDLL]:
    """Find the copies of GNU's OpenMP in this process; none on other systems."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        columns = [line.split(maxsplit=5) for line in lines]
        paths = {one[5] for one in columns if len(one) > 5 and "/libgomp" in one[5]}
        return [ctypes.CDLL(path) for path in sorted(paths)]
    return []


def _start_threads(library: ctypes.CDLL) -> None:
    """Start one thread more than there are cores, by an operation that does nothing."""
    with suppress(AttributeError):  # another library of that name
        begin = library.GOMP_parallel
        begin.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        begin.restype = None
        nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
        begin(nothing, None, library.omp_get_num_procs() + 1, 0)
