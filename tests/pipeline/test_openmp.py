"""Idle threads of torch sleep, and the number of computing threads stays the same."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from napari_dip.pipeline import torch_state

needs_gnu = pytest.mark.skipif(
    sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs GNU's OpenMP and two cores"
)

#: Counts this process's threads before, in and after a run, and sums its pixels.
_RUN = """
    import os, time
    import numpy as np
    import napari_dip as dip

    def count():
        return len(os.listdir("/proc/self/task"))

    def settled():  # threads of a thread that has ended go a moment later
        last, end = count(), time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.5)
            if count() == last:
                break
            last = count()
        return last

    image = np.random.default_rng(0).poisson(50, (192, 192)).astype(np.uint16)
    wish = dict(preset="fast", device="cpu", max_iterations=2)
    dip.denoise(image, **wish)
    before, within = settled(), []
    result = dip.denoise(image, progress=lambda _: within.append(count()), **wish)
    print(result.report["threads"], before, max(within), settled(), result.report["output_sha256"])
"""


def run_script(first: str = "", **environment: str) -> list[str]:
    """Run it in a process of its own, after some other lines."""
    clean = {
        name: value for name, value in os.environ.items() if name not in torch_state._WAIT_POLICY
    }
    clean.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-c", first + textwrap.dedent(_RUN)]
    done = subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.split()


@pytest.mark.long
@needs_gnu
@pytest.mark.all_cores
def test_threads_sleep_beside_a_run_where_torch_was_loaded_first_and_the_pixels_are_the_same() -> (
    None
):
    own, late = run_script(), run_script("import torch\n")
    cores = len(os.sched_getaffinity(0))
    assert own[0] == late[0] == str(min(cores, 8))
    assert own[4] == late[4]
    before, within, after = map(int, late[1:4])
    assert within - before == cores + 1  # the one that starts them, and as many as make them wait
    assert after == before
    assert own[1] == own[2] == own[3]


@pytest.mark.long
@needs_gnu
@pytest.mark.parametrize("policy", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "0"}])
@pytest.mark.all_cores
def test_who_says_how_threads_wait_is_left_alone(policy: dict[str, str]) -> None:
    _, before, within, after, _ = run_script("import torch\n", **policy)
    assert before == within == after


@pytest.mark.long
@pytest.mark.all_cores
def test_measuring_noise_first_leaves_no_threads_that_spin() -> None:
    script = (
        "import os, sys, numpy as np, napari_dip as dip\n"
        "from napari_dip.pipeline import torch_state as openmp\n"
        "dip.measure_noise(np.random.default_rng(0).poisson(50, (192, 192)))\n"
        "assert 'torch' in sys.modules\n"
        "print(openmp.has_spinning_threads())\n"
    )
    clean = {
        name: value for name, value in os.environ.items() if name not in torch_state._WAIT_POLICY
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_single_thread_needs_no_others_to_wait() -> None:
    with torch_state.suppress_thread_spinning(1):
        assert not [
            thread for thread in torch_state.threading.enumerate() if "openmp" in thread.name
        ]
