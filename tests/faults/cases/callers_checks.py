"""Programs of users that call from threads, loops, forks and the like."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from faults.cases import (
    Outcome,
    check,
    make_env,
    read_folder,
    save_tiff,
    spawn_cli,
)
from faults.cases.processes_checks import DENOISE, check_only_result_written

if TYPE_CHECKING:
    from pathlib import Path

CALL = """
import numpy as np, napari_dip as dip
x = np.random.default_rng(0).normal(1000, 50, (24, 24)).astype("f4")
def fit(seed=0):
    return dip.denoise(x, preset="fast", max_iterations=2, seed=seed).image
"""


def check_program(code: str, folder: Path) -> None:
    """Call it from a program of a user's own, which prints "well" at its end."""
    (folder / "user.py").write_text(CALL + code, "utf-8")
    proc = subprocess.run(
        [sys.executable, "user.py"], env=make_env(), capture_output=True, text=True, timeout=80
    )
    output = f"exit {proc.returncode}: {proc.stderr}{proc.stdout}"[-700:]
    check("AssertionError" not in proc.stderr, output)
    check("Traceback" not in proc.stderr, output, Outcome.TRACEBACK)
    check(proc.returncode == 0 and proc.stdout.strip().endswith("well"), output)


def check_no_warnings(flag: str, folder: Path) -> None:
    """Run with warnings as errors: ours are none, and the run ends well."""
    save_tiff(folder / "in.tif")
    before = read_folder(folder)
    check_only_result_written(spawn_cli(*DENOISE, python=("-W", flag)), folder, before)


CALLERS = {
    "from threads": """
from concurrent.futures import ThreadPoolExecutor
plain = [fit(seed) for seed in (1, 2, 3)]
with ThreadPoolExecutor(3) as pool:
    threaded = list(pool.map(fit, (1, 2, 3)))
assert all(np.array_equal(a, b) for a, b in zip(plain, threaded)), "other pixels in threads"
print("well")
""",
    "from a thread while Ctrl-C is another's": """
import signal, threading
mine = signal.getsignal(signal.SIGINT)
thread = threading.Thread(target=fit)
thread.start(); thread.join()
assert signal.getsignal(signal.SIGINT) is mine
print("well")
""",
    "by spawned processes": """
import multiprocessing
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(fit, (1, 1))
    assert np.array_equal(*found)
    print("well")
""",
    "by forked processes, after a run": """
import multiprocessing
first = fit(1)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(fit, (1, 1))
assert np.array_equal(*found) and np.array_equal(found[0], first)
print("well")
""",
    "in a running event loop": """
import asyncio
async def main():
    here = fit(1)
    there = await asyncio.to_thread(fit, 1)
    assert np.array_equal(here, there)
asyncio.run(main())
print("well")
""",
    "in an event loop that goes on meanwhile": """
import asyncio
async def main():
    ticks = 0
    task = asyncio.create_task(asyncio.to_thread(fit, 1))
    while not task.done():
        ticks += 1
        await asyncio.sleep(0.01)
    assert ticks > 1, ticks
asyncio.run(main())
print("well")
""",
    "with a handler for Ctrl-C of one's own": """
import signal
heard = []
signal.signal(signal.SIGINT, lambda *rest: heard.append(1))
signal.signal(signal.SIGTERM, lambda *rest: heard.append(2))
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
fit()
assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
print("well")
""",
    "with an alarm every 5 ms": """
import signal
count = 0
def tick(*rest):
    global count
    count += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
one = fit(1)
signal.setitimer(signal.ITIMER_REAL, 0)
assert count and np.array_equal(one, fit(1))
print("well")
""",
    "at the end of the program": """
import atexit
fit()
def last():
    assert fit().shape == (24, 24)
    print("well", flush=True)
atexit.register(last)
""",
    "from a thread that outlives the main one": """
import threading
import napari_dip as dip
def late():
    try:
        assert fit().shape == (24, 24)
    except dip.FailedError as failed:  # torch cannot be loaded any more: that is said
        assert "main thread" in failed.reason.message
    print("well", flush=True)
threading.Thread(target=late).start()
""",
    "with a trace function": """
import sys
sys.setprofile(lambda *rest: None)
one = fit(1)
sys.setprofile(None)
assert np.array_equal(one, fit(1))
print("well")
""",
    "with little room for recursion": """
import sys
fit(1)
sys.setrecursionlimit(200)
assert fit(1).shape == (24, 24)
print("well")
""",
    "and counts open files": """
import os
fit()
first = len(os.listdir("/proc/self/fd"))
for seed in range(10):
    fit(seed)
assert len(os.listdir("/proc/self/fd")) <= first, "open files grow"
print("well")
""",
    "and counts threads": """
import threading
fit()
first = threading.active_count()
for seed in range(5):
    fit(seed)
assert threading.active_count() <= first, threading.enumerate()
print("well")
""",
    "and measures memory": """
import psutil
for seed in range(5):
    fit(seed)
first = psutil.Process().memory_info().rss
for seed in range(40):
    fit(seed)
grown = psutil.Process().memory_info().rss - first
assert grown < 20e6, f"{grown / 1e6:.0f} MB more after 40 runs"
print("well")
""",
    "and looks at the working folder": """
import os
before = os.getcwd(), sorted(os.listdir())
fit()
assert (os.getcwd(), sorted(os.listdir())) == before
print("well")
""",
    "and looks at the environment": """
import os
before = dict(os.environ)
fit()
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
print("well")
""",
    "and looks at modules": """
import sys
assert "torch" not in sys.modules and "napari" not in sys.modules
fit()
assert "napari" not in sys.modules and "qtpy" not in sys.modules
print("well")
""",
    "and listens to warnings": """
import warnings
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    fit()
assert not heard, [str(one.message) for one in heard]
print("well")
""",
    "and logs": """
import io, logging
text = io.StringIO()
logging.basicConfig(stream=text, level=logging.DEBUG)
fit()
ours = [line for line in text.getvalue().splitlines() if "ERROR" in line or "WARNING" in line]
assert not ours, ours
assert logging.getLogger().level == logging.DEBUG
print("well")
""",
    "and prints nothing": """
import contextlib, io
out, err = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    fit()
assert not out.getvalue() and not err.getvalue(), (out.getvalue(), err.getvalue())
print("well")
""",
}
