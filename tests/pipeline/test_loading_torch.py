"""Loading torch keeps the settings of the program, and failures are reported."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from napari_dip.pipeline.torch_state import MPS_FALLBACK_VARIABLE

needs_gnu = pytest.mark.skipif(sys.platform != "linux", reason="needs GNU's OpenMP")

#: Restores, and prints what the environment was when torch was imported, and is afterwards.
_WATCHED = f"""
    import os, sys
    import numpy as np
    import napari_dip as dip

    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "{MPS_FALLBACK_VARIABLE}"
                print(*map(os.environ.get, names))

    sys.meta_path.insert(0, Watch())
    before = dict(os.environ)
    image = np.random.default_rng(0).poisson(90, (32, 32))
    dip.denoise(image, preset="fast", max_iterations=2, device="cpu")
    print(dict(os.environ) == before)
"""


def run_script(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines in a process of its own, in which the environment says nothing of torch."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", MPS_FALLBACK_VARIABLE)
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, check=True, timeout=300
    )


@pytest.mark.long
@needs_gnu
def test_torch_loads_with_a_policy_that_the_program_then_does_not_have() -> None:
    done = run_script(_WATCHED, OMP_DISPLAY_ENV="verbose")
    assert done.stdout.splitlines() == ["PASSIVE 1000 1", "True"]
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr  # by the library itself, as it loads
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


@pytest.mark.long
def test_what_the_user_says_of_apple_graphics_and_of_threads_is_kept() -> None:
    done = run_script(_WATCHED, OMP_WAIT_POLICY="ACTIVE", **{MPS_FALLBACK_VARIABLE: "0"})
    assert done.stdout.splitlines() == ["ACTIVE None 0", "True"]


@pytest.mark.long
def test_a_first_call_after_the_main_thread_has_ended_fails_with_a_message() -> None:
    script = """
        import threading
        import numpy as np
        import napari_dip as dip

        def late():
            threading.main_thread().join()
            try:
                dip.denoise(np.random.default_rng(0).poisson(90, (32, 32)), device="cpu")
            except dip.FailedError as error:
                print(error.reason.code)

        threading.Thread(target=late).start()
    """
    assert run_script(script).stdout == "program-ends\n"


@pytest.mark.long
def test_a_torch_without_a_packages_notes_is_found_with_its_version() -> None:
    script = """
        import sys
        from importlib import metadata

        def none(name):
            raise metadata.PackageNotFoundError(name)

        import numpy as np
        import napari_dip as dip
        metadata.version = none
        image = np.random.default_rng(0).poisson(90, (32, 32))
        result = dip.denoise(image, preset="fast", max_iterations=2, device="cpu")
        print(type(result.report["torch"]).__name__, result.report["torch"])
    """
    assert run_script(script).stdout == f"str {metadata.version('torch')}\n"
