"""Global settings of torch and NumPy change no run, and are restored while it waits."""

from __future__ import annotations

import gc
import locale
import random
import subprocess
import sys
import threading
import warnings
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import napari_dip as dip
from napari_dip import explore
from napari_dip.pipeline import torch_state
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.torch_state import use_default_torch_state
from small_runs import make_noisy, plan_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIDE = 32
SETTINGS: dict[str, Any] = {"preset": "fast", "device": "cpu", "max_iterations": 4}


@contextmanager
def setting(write: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    write(value)
    try:
        yield
    finally:
        write(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu"),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "double": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: setting(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "threads": lambda: setting(torch.set_num_threads, 2, torch.get_num_threads()),
    "no oneDNN": lambda: setting(_enable_onednn, False, True),
    "NumPy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": lambda: warnings.catch_warnings(action="error"),
}


def _enable_onednn(enabled: bool) -> None:
    torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]


def read_state() -> dict[str, Any]:
    """All that a program may have set."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "random": torch.get_rng_state().numpy().tobytes(),
        "NumPy": np.geterr(),
        "NumPy's random": np.random.get_state()[1].tobytes(),  # type: ignore[index,union-attr]
        "Python's random": random.getstate(),
        "filters": list(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
    }


@pytest.fixture(scope="module")
def plain_result() -> dip.Restoration:
    return dip.denoise(make_noisy(SIDE), **SETTINGS)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", STATES)
@pytest.mark.all_cores
def test_what_a_program_has_set_of_torch_changes_no_pixels_and_stays(
    name: str, plain_result: dip.Restoration
) -> None:
    states = []
    with STATES[name]():
        before = read_state()
        result = dip.denoise(
            make_noisy(SIDE), progress=lambda _: states.append(read_state()), **SETTINGS
        )
        after = read_state()
    assert np.array_equal(result.image, plain_result.image)
    assert np.array_equal(result.uncertainty, plain_result.uncertainty)
    assert after == before
    assert states == [before] * len(states)  # whenever the run waits
    assert len(states) > 3


@pytest.mark.long
@pytest.mark.parametrize("name", ["autocast", "no gradients", "double", "default device"])
def test_noise_and_experiments_do_not_depend_on_it_either(name: str) -> None:
    def list_results() -> Any:
        noise = dip.measure_noise(
            make_noisy(SIDE), dark=make_noisy(SIDE), flat=[make_noisy(SIDE), make_noisy(SIDE, 1)]
        )
        result = explore.impedance(make_noisy(SIDE), max_iterations=4, device="cpu")
        watched = explore.spectrum(make_noisy(SIDE), max_iterations=4, device="cpu")
        finish = {key: energy.tolist() for key, energy in result.losses.items()}
        return noise.to_dict(), finish, watched.correspondence.tolist()

    plain = list_results()
    with STATES[name]():
        before = read_state()
        assert list_results() == plain
        assert read_state() == before


def test_a_run_that_is_given_up_leaves_everything_as_it_was() -> None:
    with torch.no_grad(), STATES["double"]():
        before = read_state()
        steps = run(plan_for(make_noisy(SIDE)), {"image": make_noisy(SIDE)})
        for _ in range(4):
            next(steps)
        assert read_state() == before
        steps.close()
        assert read_state() == before


def test_a_run_that_fails_leaves_everything_as_it_was() -> None:
    flat = np.full((SIDE, SIDE), 3.0)
    with torch.no_grad(), STATES["double"]():
        before = read_state()
        with pytest.raises(dip.RefusedError):
            dip.denoise(flat, **SETTINGS)
        assert read_state() == before


def test_a_run_goes_on_in_another_thread_whose_state_comes_back(
    plain_result: dip.Restoration,
) -> None:
    steps = run(plan_for(make_noisy(SIDE), max_iterations=4), {"image": make_noisy(SIDE)})
    for _ in range(4):
        next(steps)
    settings: list[Any] = []

    def finish() -> None:
        with torch.no_grad():
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    settings.extend((end.value.image, torch.is_grad_enabled()))
                    return

    other = threading.Thread(target=finish)
    other.start()
    other.join()
    assert np.array_equal(settings[0], plain_result.image)
    assert settings[1] is False


def test_an_error_within_comes_out_and_the_state_is_back() -> None:
    before = read_state()
    with pytest.raises(ZeroDivisionError), use_default_torch_state(1):
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert read_state() == before


def test_no_garbage_is_collected_while_torch_loads() -> None:
    code = (
        "import gc\n"
        "from napari_dip.pipeline.torch_state import load_torch\n"
        "collections = []\n"
        "gc.callbacks.append(lambda phase, details: collections.append(phase))\n"
        "load_torch()\n"
        "print(collections.count('start'), gc.isenabled())\n"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    count, is_enabled = printed.split()
    assert int(count) <= 1  # what is due when it goes on
    assert is_enabled == "True"


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_is_collected_afterwards_if_it_was_before(is_enabled: bool) -> None:
    assert gc.isenabled()
    try:
        if not is_enabled:
            gc.disable()
        with torch_state._pause_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is is_enabled
    finally:
        gc.enable()
