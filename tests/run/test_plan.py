"""Preflight says yes with a plan or no with a sentence, from the header alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from napari_dip.errors import Refusal
from napari_dip.io import ImageSpec
from napari_dip.run.machine import Machine, threads_for
from napari_dip.run.plan import Plan, duration, preflight, size
from napari_dip.run.recipe import make_recipe

MACHINE = Machine(2, 8 * 10**9, ("cpu",), "2.13.0", "no NVIDIA driver was found")


def ask(
    shape: tuple[int, ...],
    axes: str,
    dtype: str = "uint16",
    machine: Machine = MACHINE,
    **settings: object,
) -> Plan | Refusal:
    return preflight(
        make_recipe("denoise", **settings), ImageSpec("cells", shape, dtype, axes), machine
    )


@pytest.mark.parametrize(
    ("shape", "axes", "fits"),
    [
        ((512, 512), "YX", 1),
        ((3, 64, 64), "CYX", 3),
        ((64, 80, 3), "YXS", 1),
        ((1, 1, 64, 64), "TZYX", 1),
    ],
)
def test_a_picture_gets_a_plan(shape: tuple[int, ...], axes: str, fits: int) -> None:
    plan = ask(shape, axes)
    assert isinstance(plan, Plan)
    assert len(plan.units) == fits
    assert plan.seconds > 0
    assert plan.peak_bytes > 0


def test_channels_together_are_one_fit() -> None:
    plan = ask((3, 64, 64), "CYX", channels="together")
    assert isinstance(plan, Plan)
    assert [unit.channels for unit in plan.units] == [(0, 1, 2)]


def test_repeats_have_seeds_of_their_own() -> None:
    plan = ask((2, 64, 64), "CYX", restarts=3)
    assert isinstance(plan, Plan)
    assert len({unit.seed for unit in plan.units}) == 6


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "code"),
    [
        ((), "", "uint8", "image-scalar"),
        ((100,), "X", "uint8", "image-line"),
        ((0, 64), "YX", "uint8", "image-empty"),
        ((1, 500), "YX", "uint8", "image-small"),
        ((500, 1), "YX", "uint8", "image-small"),
        ((15, 500), "YX", "uint8", "image-small"),
        ((64, 64), "YX", "complex64", "image-complex"),
        ((64, 64), "YX", "bool", "image-bool"),
        ((64, 64), "YX", "<U5", "image-text"),
        ((64, 64), "YX", "object", "image-text"),
        ((5, 64, 64), "ZYX", "uint8", "image-stack"),
        ((5, 64, 64), "TYX", "uint8", "image-stack"),
        ((2, 64, 64, 3), "CYXS", "uint8", "image-stack"),
        ((64, 64, 4), "YXS", "uint8", "image-channels"),
        ((64, 64), "YXC", "uint8", "axes-wrong"),
        ((64, 64), "YY", "uint8", "axes-wrong"),
        ((64, 64), "YQ", "uint8", "axes-wrong"),
        ((64, 64), "CX", "uint8", "axes-missing"),
        ((2**20, 2**20), "YX", "uint8", "image-large"),
    ],
)
def test_what_cannot_be_restored_is_refused(
    shape: tuple[int, ...], axes: str, dtype: str, code: str
) -> None:
    answer = ask(shape, axes, dtype)
    assert isinstance(answer, Refusal)
    assert answer.code == code


def test_a_device_that_is_not_there_is_refused_with_the_reason() -> None:
    answer = ask((64, 64), "YX", device="cuda")
    assert isinstance(answer, Refusal)
    assert "no NVIDIA driver" in answer.sentence


def test_automatic_takes_the_best_device() -> None:
    plan = ask((64, 64), "YX", machine=replace(MACHINE, devices=("cuda", "cpu")))
    assert isinstance(plan, Plan)
    assert plan.device == "cuda"


def test_more_pixels_and_more_repeats_cost_more() -> None:
    small, large, often = (
        ask((256, 256), "YX"),
        ask((1024, 1024), "YX"),
        ask((256, 256), "YX", restarts=4),
    )
    assert isinstance(small, Plan)
    assert isinstance(large, Plan)
    assert isinstance(often, Plan)
    assert large.peak_bytes > 2 * small.peak_bytes
    assert large.seconds > small.seconds
    assert often.seconds > 2 * small.seconds


def test_the_line_is_in_words() -> None:
    plan = ask((480, 640), "YX", time_limit=30.0)
    assert isinstance(plan, Plan)
    assert plan.line.startswith("640 × 480 pixels on the processor (2 threads): up to ")
    assert "MB of memory" in plan.line


def test_threads_follow_a_fixed_table() -> None:
    assert threads_for(2, 512 * 512) == 2
    assert threads_for(2, 32 * 32) == 1
    assert threads_for(64, 4096 * 4096) == 8


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (61, "61 s"), (120, "2 min"), (9000, "2.5 h")]
)
def test_durations_read_like_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_sizes_read_like_words() -> None:
    assert (size(3e6), size(2.34e9)) == ("3 MB", "2.3 GB")


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; from napari_dip.run.machine import this_machine; "
        "this_machine(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
