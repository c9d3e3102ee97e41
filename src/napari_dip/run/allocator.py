"""How the C library of a process keeps memory that is freed and wanted again at the next step."""

from __future__ import annotations

import ctypes
import sys

#: Names of glibc's `mallopt`, and bytes. Blocks up to the first are taken from what was freed, as
#: glibc does by itself in time (mallopt(3)); so much of it is kept that is at the end of the heap,
#: where glibc keeps 64 MiB, and 64 kB in a worker of dask, which says so. Pictures of 512, 1,024
#: and 2,048 pixels a side took 13.3, 12.5 and 14.3 CPU seconds a megapixel at three iterations, and
#: 14.5, 13.5 and 16.2 without, the peaks within 6 % (`benchmarks/tiles.py`). Larger blocks kept as
#: well save one to two seconds more of large ones, and take 9 to 24 % more memory.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
#: A thread that is not the first one, such as a worker of napari, has heaps of 64 MiB of its own,
#: which glibc gives back as soon as they are empty, unless that left less than this spare. Of runs
#: of 100 iterations on 256 x 256 pixels one in three then took 650,000 page faults and 19 % more
#: processor time than on the first thread; with this, a thousand, and as long.
_HEAP = 64 * 2**20
_KEPT = {_MMAP_THRESHOLD: 32 * 2**20, _TRIM_THRESHOLD: 256 * 2**20, _TOP_PAD: _HEAP}


def keep_freed_memory() -> bool:
    """Keep freed memory for the next step, instead of having it cleared by the system anew.

    Returns
    -------
    bool
        Whether that was to be set here, and was.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    taken = [mallopt(name, size) == 1 for name, size in _KEPT.items()]  # both, in any case
    return all(taken)
