"""Preflight returns a plan or a refusal, from the header alone."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from math import floor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_dip.errors import Refusal
from napari_dip.errors.templates import format_bytes, format_duration
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import (
    Machine,
    choose_thread_count,
    detect_machine,
    is_memory_error,
)
from napari_dip.pipeline.plan.costs import (
    BLIND_SPOT_SIDES,
    START_SECONDS,
    STEP_SECONDS,
    count_blind_spot_passes,
    count_final_passes,
    count_max_scales,
)
from napari_dip.pipeline.plan.layout import MIN_IMAGE_SIDE, refuse_header
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks.priors.image_input import compute_loss_core_width

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = Machine(
    cores=2,
    memory_bytes=8 * 10**9,
    devices=("cpu",),
    torch_version="2.13.0",
    no_gpu_reason="no NVIDIA driver was found",
)


def plan_image(
    shape: tuple[int, ...],
    axes: str,
    dtype: str = "uint16",
    machine: Machine = MACHINE,
    **settings: object,
) -> Plan | Refusal:
    return preflight(
        make_recipe("denoise", **settings),
        ImageHeader(name="cells", shape=shape, dtype=dtype, axes=axes),
        machine,
    )


@pytest.mark.parametrize(("side", "iterations"), [(256, 40), (257, 20)])
def test_small_images_take_more_iterations_with_instant(side: int, iterations: int) -> None:
    plan = plan_image((side, side), "YX", preset="instant")
    assert isinstance(plan, Plan)
    assert plan.fit_config.iterations == iterations


@pytest.mark.parametrize(
    ("shape", "axes", "fits"),
    [
        ((512, 512), "YX", 1),
        ((3, 64, 64), "CYX", 3),
        ((64, 80, 3), "YXS", 1),
        ((1, 1, 64, 64), "TZYX", 1),
    ],
)
def test_an_image_gets_a_plan(shape: tuple[int, ...], axes: str, fits: int) -> None:
    plan = plan_image(shape, axes)
    assert isinstance(plan, Plan)
    assert len(plan.units) == fits
    assert plan.seconds > 0
    assert plan.peak_bytes > 0


def test_channels_together_are_one_fit() -> None:
    plan = plan_image((3, 64, 64), "CYX", channels="together")
    assert isinstance(plan, Plan)
    assert [unit.channels for unit in plan.units] == [(0, 1, 2)]


def test_three_channels_behind_the_plane_are_no_colours_if_they_are_named_so() -> None:
    plan = plan_image((64, 64, 3), "YXC")
    assert isinstance(plan, Plan)
    assert [unit.channels for unit in plan.units] == [(0,), (1,), (2,)]


def test_repeats_have_seeds_of_their_own() -> None:
    plan = plan_image((2, 64, 64), "CYX", restarts=3)
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
        ((2, 64, 64, 3), "CYXS", "uint8", "axes-twice"),
        ((64, 64, 3), "ZYX", "uint8", "axes-colours"),
        ((64, 64, 4), "ZYX", "uint8", "axes-colours"),
        ((12, 64, 64, 3), "TZYX", "uint8", "axes-colours"),
        ((64, 64, 4), "YXS", "uint8", "image-channels"),
        ((60_000, 16, 16), "TYX", "uint8", "planes-many"),
        ((300, 200, 16, 16), "TZYX", "uint8", "planes-many"),
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
    answer = plan_image(shape, axes, dtype)
    assert isinstance(answer, Refusal)
    assert answer.code == code


@pytest.mark.parametrize(("shape", "axes"), [((2000, 64, 64), "ZYX"), ((20_000, 64, 64), "TYX")])
def test_deep_volumes_and_long_movies_are_accepted(shape: tuple[int, ...], axes: str) -> None:
    assert isinstance(plan_image(shape, axes, machine=replace(MACHINE, memory_bytes=10**11)), Plan)


def test_a_device_that_is_not_there_is_refused_with_the_reason() -> None:
    answer = plan_image((64, 64), "YX", device="cuda")
    assert isinstance(answer, Refusal)
    assert "no NVIDIA driver" in answer.sentence


def test_automatic_takes_the_best_device() -> None:
    plan = plan_image((64, 64), "YX", machine=replace(MACHINE, devices=("cuda", "cpu")))
    assert isinstance(plan, Plan)
    assert plan.device == "cuda"


def test_more_pixels_and_more_repeats_cost_more() -> None:
    small, large, often = (
        plan_image((256, 256), "YX"),
        plan_image((1024, 1024), "YX"),
        plan_image((256, 256), "YX", restarts=4),
    )
    assert isinstance(small, Plan)
    assert isinstance(large, Plan)
    assert isinstance(often, Plan)
    assert large.peak_bytes > 2 * small.peak_bytes
    assert large.seconds > small.seconds
    assert often.seconds > 2 * small.seconds


def test_the_plan_line_is_a_sentence() -> None:
    plan = plan_image((480, 640), "YX", time_limit=30.0)
    assert isinstance(plan, Plan)
    assert plan.summary.startswith("640 × 480 pixels on the CPU (2 threads): up to ")
    assert "MB of memory" in plan.summary


def test_the_plan_line_says_how_large_the_result_is() -> None:
    def summarise(shape: tuple[int, ...], axes: str, factor: str) -> str:
        header = ImageHeader(name="image", shape=shape, dtype="uint8", axes=axes)
        plan = preflight(make_recipe("super-resolve", factor=factor), header, MACHINE)
        assert isinstance(plan, Plan)
        return plan.summary

    assert summarise((96, 128), "YX", "4").startswith("128 × 96 becomes 512 × 384 pixels on the")
    movie = summarise((5, 96, 128), "TYX", "2")
    assert movie.startswith(
        "128 × 96 becomes 256 × 192 pixels as a movie, 5 frames one after another"
    )
    volume = summarise((6, 96, 128), "ZYX", "4,1,1")
    assert volume.startswith("128 × 96 × 6 becomes 128 × 96 × 24 pixels as one volume on")


@pytest.mark.all_cores
def test_threads_follow_a_fixed_table() -> None:
    assert choose_thread_count(MACHINE, 512 * 512) == 2
    assert choose_thread_count(MACHINE, 128 * 128) == 1
    assert choose_thread_count(replace(MACHINE, cores=64), 4096 * 4096) == 8


@pytest.mark.all_cores
def test_a_small_plane_takes_one_thread_and_a_volume_of_such_planes_more() -> None:
    plane, volume = plan_image((96, 96), "YX"), plan_image((8, 96, 96), "ZYX", stacks="volume")
    assert isinstance(plane, Plan) and isinstance(volume, Plan)
    assert (plane.threads, volume.threads) == (1, 2)


def test_the_smallest_step_takes_milliseconds() -> None:
    plan = plan_image((32, 32), "YX")
    assert isinstance(plan, Plan)
    assert STEP_SECONDS <= plan.costs.seconds_per_iteration < 2 * STEP_SECONDS


@pytest.mark.all_cores
def test_the_threads_of_a_recipe_hold_on_any_computer() -> None:
    for threads in (1, 2, 5):
        plan = plan_image((256, 256), "YX", threads=threads)
        assert isinstance(plan, Plan)
        assert plan.threads == threads
    assert make_recipe("denoise").to_dict() == make_recipe("denoise", threads=None).to_dict()


@pytest.mark.parametrize(
    ("variable", "count"),
    [("1", 1), ("3,2", 3), (" 2 ", 2), ("", 8), ("0", 8), ("many", 8), ("-1", 8), ("999", 8)],
)
def test_a_valid_limit_of_openmp_holds(
    monkeypatch: pytest.MonkeyPatch, variable: str, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    machine = replace(detect_machine(), cores=64)
    assert choose_thread_count(machine, 512 * 512) == count
    assert choose_thread_count(machine, 512 * 512, 4) == 4


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "350000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_the_cpu_quota_of_a_container_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert detect_machine(tmp_path).cores == cores


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (61, "61 s"),
        (61.2, "62 s"),
        (120, "2 min"),
        (121, "3 min"),
        (9000, "2.5 h"),
        (9001, "2.6 h"),
    ],
)
def test_durations_are_rounded_up_and_readable(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_sizes_are_readable() -> None:
    assert (format_bytes(3e6), format_bytes(2.3e9), format_bytes(999.5e6)) == (
        "3 MB",
        "2.3 GB",
        "1.0 GB",
    )


def test_sizes_needed_are_rounded_up_and_sizes_there_down() -> None:
    assert (format_bytes(3.1e6), format_bytes(2.31e9)) == ("4 MB", "2.4 GB")
    assert (format_bytes(3.9e6, floor), format_bytes(2.39e9, floor)) == ("3 MB", "2.3 GB")


@pytest.mark.parametrize("block", list(product(BLIND_SPOT_SIDES, repeat=2)))
def test_the_plan_counts_the_passes_of_the_final_inference(block: tuple[int, int]) -> None:
    import torch

    from napari_dip.engine.priors.blind_spot import BlindSpotPrior

    grid = torch.zeros(1, 1, 20, 20)
    core = tuple(map(compute_loss_core_width, block))
    prior = BlindSpotPrior(
        torch.nn.Identity(),
        measurement=grid,
        excluded_mask=torch.zeros_like(grid),
        blind_spot_size=block,
        core_size=core,
        masked_fraction=0.1,
        window=None,
    )
    assert (
        count_blind_spot_passes(block)
        == len(list(prior.make_inference_samples()))
        <= count_final_passes(2)[1]
    )


@pytest.mark.parametrize("shape", ["101/010/101", "0001000/1111111/0001000"])
def test_the_time_of_a_drawn_blind_spot_is_that_of_the_passes_it_takes(shape: str) -> None:
    rows = shape.split("/")
    passes = (len(rows) + 2) * (len(rows[0]) + 2)
    plan = plan_image((512, 512), "YX", preset="fast", blind_spot_shape=shape)
    plain = plan_image((512, 512), "YX", preset="fast", prior="blind-spot")
    assert isinstance(plan, Plan) and isinstance(plain, Plan)
    assert plan.costs.longest_inference_seconds == plan.costs.usual_inference_seconds
    ratio = plan.costs.longest_inference_seconds / plain.costs.longest_inference_seconds
    assert ratio == pytest.approx(passes / 49)
    assert count_final_passes(3, ((0, 1, 0), (1, 1, 1), (0, 1, 0))) == (75, 75)


def test_blocks_reach_no_further_than_the_looks_are_counted_for() -> None:
    from napari_dip.engine.noise.correlation import MAX_BLIND_SPOT_RADIUS

    assert max(BLIND_SPOT_SIDES) == 2 * MAX_BLIND_SPOT_RADIUS + 1


def test_the_time_is_bounded_by_most_looks_and_the_bar_paced_by_the_usual() -> None:
    plan = plan_image((512, 512), "YX", preset="fast", prior="blind-spot")
    assert isinstance(plan, Plan)
    assert count_final_passes(2) == (9, 49)
    assert (
        plan.costs.longest_inference_seconds / plan.costs.usual_inference_seconds
        == pytest.approx(49 / 9)
    )
    costs = plan.costs
    assert plan.seconds == pytest.approx(
        costs.fit_seconds + costs.longest_inference_seconds + costs.postprocessing_seconds
    )
    (unit,) = plan.units
    fit = costs.estimate_fit(unit.iterations + plan.fit_config.refit_iterations)
    assert 0 < fit < costs.fit_seconds  # which holds loading torch as well
    assert costs.inference_seconds == pytest.approx(costs.usual_inference_seconds)
    assert costs.refinement_seconds + costs.assessment_seconds == pytest.approx(
        costs.postprocessing_seconds
    )


def test_a_plan_names_the_longer_time_of_unusual_noise_where_the_prior_is_automatic() -> None:
    automatic = plan_image((512, 512), "YX", preset="fast")
    chosen = plan_image((512, 512), "YX", preset="fast", prior="r2r")
    assert isinstance(automatic, Plan) and isinstance(chosen, Plan)
    (blind_spot_costs,) = automatic.other_costs.values()
    assert blind_spot_costs.total_seconds > 1.5 * automatic.seconds
    assert re.search(r"up to .*, or .* for unusual noise, ", automatic.summary)
    assert "unusual" not in chosen.summary


def plan_inpainting(shape: tuple[int, ...], **settings: object) -> Plan:
    axes = "ZYX"[-len(shape) :]
    plan = preflight(
        make_recipe("inpaint", **settings),
        ImageHeader(name="cells", shape=shape, dtype="uint8", axes=axes),
        MACHINE,
        {"mask": ImageHeader(name="mask", shape=shape, dtype="uint8", axes=axes)},
    )
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.parametrize("preset", ["instant", "fast", "balanced", "best"])
def test_a_plan_names_the_longer_time_of_wide_holes_where_the_prior_is_automatic(
    preset: str,
) -> None:
    """It said 7 s where 37 came, as it cannot know the holes."""
    automatic = plan_inpainting((128, 128), preset=preset)
    assert re.search(r"up to .*, or .* for holes wider than 24 pixels, ", automatic.summary)
    for prior in ("masked-input", "random-input"):
        assert "wider" not in plan_inpainting((128, 128), preset=preset, prior=prior).summary
    limited = plan_inpainting((128, 128), preset=preset, time_limit=2.0)
    assert "up to 2 s, " in limited.summary


@pytest.mark.parametrize(("shape", "is_longer"), [((8, 96, 96), True), ((512, 512), False)])
def test_a_plan_counts_the_longer_prior_of_scattered_and_narrow_holes(
    shape: tuple[int, ...], is_longer: bool
) -> None:
    plan = plan_inpainting(shape, preset="instant")
    scattered = plan.costs.total_seconds
    narrow = plan.other_costs["masked-input-shapes"].total_seconds
    assert (narrow > scattered) == is_longer
    assert plan.seconds == max(scattered, narrow)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells without torch")
def test_the_plan_takes_a_processor_for_as_quick_as_the_engine_does() -> None:
    import torch

    from napari_dip.engine.fit.train_step import has_fast_bfloat16

    assert detect_machine().has_bfloat16 == has_fast_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize(
    ("shape", "prior", "iterations", "took"),
    [
        # one thread of an AMD EPYC, where the last filter counts; else of an Intel Xeon
        ((256, 256), "r2r", 50, 3.03),
        ((512, 512), "r2r", 3, 3.26),
        ((256, 256), "blind-spot", 30, 3.16),
        ((256, 256), "random-input", 15, 2.97),
        ((16, 96, 96), "blind-spot", 6, 9.53),
    ],
)
def test_the_time_is_estimated_within_a_quarter_of_what_was_measured(
    shape: tuple[int, ...], prior: str, iterations: int, took: float
) -> None:
    machine = replace(MACHINE, cores=1, has_bfloat16=True)
    settings = {"preset": "fast", "prior": prior, "max_iterations": iterations, "stacks": "volume"}
    plan = plan_image(shape, "ZYX"[-len(shape) :], "float32", machine, **settings)
    assert isinstance(plan, Plan)
    costs = plan.costs
    # benchmarks/speed_plan.py, which leaves loading out
    said = (
        costs.fit_seconds
        + costs.usual_inference_seconds
        + costs.postprocessing_seconds
        - START_SECONDS
    )
    assert said == pytest.approx(took, rel=0.25)


def test_half_precision_is_counted_on_where_the_processor_and_the_prior_have_it() -> None:
    quick = replace(MACHINE, has_bfloat16=True)
    for prior, quicker in (("r2r", True), ("blind-spot", True), ("random-input", False)):
        plans = [
            plan_image((256, 256), "YX", machine=machine, prior=prior)
            for machine in (MACHINE, quick)
        ]
        seconds = [plan.seconds for plan in plans if isinstance(plan, Plan)]
        assert (seconds[1] < 0.9 * seconds[0]) == quicker
        assert quicker or seconds[0] == seconds[1]


@pytest.mark.parametrize(
    ("prior", "side", "channels", "half", "growth"),
    [
        ("blind-spot", 256, 1, True, 113e6),
        ("r2r", 256, 1, True, 91e6),
        ("r2r", 256, 1, False, 93e6),
        ("r2r", 512, 1, True, 192e6),
        ("r2r", 512, 1, False, 206e6),
        ("r2r", 768, 1, True, 433e6),
        ("blind-spot", 1024, 1, True, 671e6),
        ("r2r", 1024, 1, False, 619e6),
        ("r2r", 1088, 1, True, 435e6),
        ("r2r", 2048, 1, True, 1191e6),
        ("r2r", 1536, 1, True, 761e6),
        ("blind-spot", 2048, 1, True, 1139e6),
        ("r2r", 4096, 1, True, 3348e6),
        ("r2r", 256, 3, True, 149e6),
        ("r2r", 256, 3, False, 154e6),
        ("r2r", 512, 3, True, 292e6),
        ("r2r", 1536, 3, True, 1322e6),
        ("r2r", 2048, 3, True, 2295e6),
        ("random-input", 256, 1, True, 241e6),
        ("random-input", 512, 1, True, 768e6),
        ("random-input", 1024, 1, True, 2422e6),
    ],
)
def test_the_memory_is_estimated_within_fifteen_percent_of_what_was_measured(
    prior: str, side: int, channels: int, half: bool, growth: float
) -> None:
    shape, axes = ((side, side), "YX") if channels == 1 else ((side, side, channels), "YXS")
    plan = plan_image(
        shape, axes, machine=replace(MACHINE, has_bfloat16=half), prior=prior, preset="fast"
    )
    assert isinstance(plan, Plan)
    assert plan.peak_bytes == pytest.approx(growth, rel=0.15)


@pytest.mark.parametrize(("side", "growth"), [(2048, 546e6), (4096, 671e6)])
def test_so_is_the_memory_of_tiles_and_of_the_images_that_they_make(
    side: int, growth: float
) -> None:
    plan = plan_image(
        (side, side), "YX", preset="fast", tile=1024, machine=replace(MACHINE, has_bfloat16=True)
    )
    assert isinstance(plan, Plan)
    assert len(plan.tiles) == (side // 1024) ** 2
    assert plan.peak_bytes == pytest.approx(growth, rel=0.15)


@pytest.mark.parametrize(("side", "scales"), [(1, 1), (2, 1), (3, 2), (4, 2), (16, 4), (17, 5)])
def test_scales_end_while_two_pixels_are_left(side: int, scales: int) -> None:
    assert count_max_scales(side) == scales


@pytest.mark.parametrize(
    ("preset", "prior"), list(product(["fast", "balanced", "best"], ["blind-spot", "random-input"]))
)
def test_the_smallest_image_is_restored_with_every_preset_and_prior(
    preset: str, prior: str
) -> None:
    side = MIN_IMAGE_SIDE
    plan = plan_image((side, side), "YX", preset=preset, prior=prior, max_iterations=2, restarts=1)
    assert isinstance(plan, Plan)
    image = np.random.default_rng(0).normal(500, 20, (side, side)).astype("uint16")
    events = run(plan, {"image": image})
    while True:
        try:
            next(events)
        except StopIteration as end:
            assert np.isfinite(end.value.image).all()
            break
    assert bool(plan.notes) == (len(plan.fit_config.widths) < count_scales(preset, prior))


def count_scales(preset: str, prior: str) -> int:
    """Scales of the preset's network where there is room for all."""
    plan = plan_image((64, 64), "YX", preset=preset, prior=prior)
    assert isinstance(plan, Plan)
    assert plan.notes == ()
    return len(plan.fit_config.widths)


def test_a_network_with_fewer_scales_is_reported() -> None:
    plan = plan_image((16, 40), "YX", preset="balanced", prior="random-input")
    assert isinstance(plan, Plan)
    assert "4 scales instead of 5" in " ".join(map(str, plan.notes))


def test_the_memory_of_a_gpu_is_not_confused_with_that_of_the_computer() -> None:
    small = replace(MACHINE, devices=("cuda", "cpu"), memory_bytes=200 * 10**6)
    plan = plan_image((512, 512), "YX", machine=small, device="cuda")
    assert isinstance(plan, Plan)
    assert isinstance(plan_image((512, 512), "YX", machine=small, device="cpu"), Refusal)
    assert isinstance(plan_image((4096, 4096), "YX", machine=small, device="cuda"), Refusal)


@pytest.mark.parametrize(
    ("shape", "axes", "is_named"), [((2, 64, 64), "ZYX", True), ((99, 64, 64), "TYX", False)]
)
def test_a_stack_that_may_be_channels_is_refused_with_the_axes_to_enter(
    shape: tuple[int, ...], axes: str, is_named: bool
) -> None:
    header = ImageHeader(name="image", shape=shape, axes=axes, dtype="uint8")
    refusal = refuse_header(header, accepts_stacks=False)
    assert refusal is not None
    assert refusal.remedy.startswith("Choose one slice or frame")
    for text in ("--axes CYX", "axes='CYX'", "Axes in the dock"):
        assert (text in refusal.remedy) == is_named


OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {})


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("an illegal memory access was encountered"), False),
        (RuntimeError("pin_memory needs a card"), False),
        (ValueError("out of memory"), False),
        (OSError(5, "Input/output error"), False),
    ],
)
def test_a_full_memory_is_distinguished_from_other_errors(error: Exception, full: bool) -> None:
    assert is_memory_error(error) == full


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; from napari_dip.pipeline.machine import detect_machine; "
        "detect_machine(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stack_that_nobody_named_may_be_something_else_and_the_plan_says_so() -> None:
    colours = ", SYX for red, green and blue"
    for axes, count, message in (
        ("ZYX", 3, f"CYX for channels, TYX for time{colours}."),
        ("ZYX", 4, "CYX for channels, TYX for time."),
        ("TZYX", 4, "TCYX for channels."),
        ("ZYX", 90, "CYX for channels, TYX for time."),
    ):
        header = ImageHeader(
            name="cells",
            shape=(2, count, 64, 64)[-len(axes) :],
            dtype="uint8",
            axes=axes,
            has_guessed_axes=True,
        )
        plan = preflight(make_recipe("denoise"), header, MACHINE)
        assert isinstance(plan, Plan)
        notes = [note for note in plan.notes if note.code == "depth-assumed"]
        assert len(notes) == 1 and str(notes[0]).endswith(message)
        assert all("'Axes' (--axes)" in str(note) for note in notes)


def test_a_volume_is_one_fit_and_a_movie_is_one_for_each_frame() -> None:
    deep = plan_image((12, 64, 64), "ZYX", stacks="volume")
    moving = plan_image((12, 64, 64), "TYX")
    assert isinstance(deep, Plan)
    assert isinstance(moving, Plan)
    assert (deep.layout.grid_axes, len(deep.units)) == ("ZYX", 1)
    assert (moving.layout.grid_axes, len(moving.units)) == ("YX", 12)
    assert deep.summary.startswith("64 × 64 × 12 pixels as one volume on")


def test_the_user_may_choose_a_volume_or_planes() -> None:
    planes, volume = (
        plan_image((9, 64, 64), "ZYX", stacks="planes"),
        plan_image((9, 64, 64), "TYX", stacks="volume"),
    )
    assert isinstance(planes, Plan)
    assert isinstance(volume, Plan)
    assert planes.layout.item_axes == "Z"
    assert volume.layout.grid_axes == "TYX"


def test_each_frame_of_a_volume_series_is_a_volume() -> None:
    plan = plan_image((3, 8, 64, 64), "TZYX", stacks="volume")
    assert isinstance(plan, Plan)
    assert (plan.layout.item_axes, plan.layout.grid_axes, len(plan.units)) == ("T", "ZYX", 3)


@pytest.mark.parametrize("task", ["denoise", "guide"])
def test_planes_are_restored_one_by_one_with_their_neighbours(task: str) -> None:
    header = ImageHeader(name="cells", shape=(12, 64, 64), dtype="uint8", axes="ZYX")
    guides = {"guide": header} if task == "guide" else {}
    plan = preflight(make_recipe(task), header, MACHINE, guides)
    assert isinstance(plan, Plan)
    assert plan.layout.grid_axes == "YX"
    assert all(unit.neighbours for unit in plan.units if unit.item >= 0)
    alone = preflight(make_recipe(task, neighbouring_frames=False), header, MACHINE, guides)
    assert alone.layout.grid_axes == "YX"
    wished = preflight(make_recipe(task, stacks="volume"), header, MACHINE, guides)
    assert isinstance(wished, Plan)
    assert wished.layout.grid_axes == "ZYX"


def test_neighbours_that_are_filtered_together_take_memory() -> None:
    plans = [
        plan_image((3, 2048, 2048), "TYX", prior="blind-spot", neighbouring_frames=takes)
        for takes in (True, False)
    ]
    first, second = (plan.peak_bytes for plan in plans if isinstance(plan, Plan))
    assert first > second + 80 * 2048**2


def test_the_deep_image_prior_takes_a_stack_as_a_volume() -> None:
    plan = plan_image((12, 64, 64), "ZYX", prior="random-input")
    assert isinstance(plan, Plan)
    assert plan.layout.grid_axes == "ZYX"


@pytest.mark.parametrize(("step", "stacks"), [(5.0, "auto"), (5.0, "planes"), (1.0, "auto")])
def test_inpaint_says_that_it_fills_in_planes_far_apart_together(step: float, stacks: str) -> None:
    header = ImageHeader(
        name="cells",
        shape=(12, 64, 64),
        dtype="float32",
        axes="ZYX",
        scale=(step, 1.0, 1.0),
        units=("micrometer",) * 3,
    )
    plan = preflight(make_recipe("inpaint", stacks=stacks), header, MACHINE)
    assert isinstance(plan, Plan)
    notes = [str(note) for note in plan.notes if note.code == "planes-distant"]
    assert len(notes) == (plan.layout.is_volume and step == 5.0)
    assert plan.layout.is_volume == (stacks == "auto")
    assert all("5.0 pixels apart" in note and "'Plane by plane'" in note for note in notes)


def test_a_thin_stack_is_never_restored_as_a_volume() -> None:
    plan = plan_image((3, 64, 64), "ZYX", stacks="volume")
    assert isinstance(plan, Plan)
    assert plan.layout.grid_axes == "YX"
    assert any("too few for a volume" in str(note) for note in plan.notes)


def test_a_volume_too_large_for_the_memory_goes_plane_by_plane() -> None:
    plan = plan_image((64, 512, 512), "ZYX", machine=replace(MACHINE, memory_bytes=3 * 10**9))
    assert isinstance(plan, Plan)
    assert plan.layout.grid_axes == "YX"


def test_later_frames_begin_with_what_was_learned_and_take_less_than_a_fifth() -> None:
    plan = plan_image((4, 64, 64), "TYX", max_iterations=500)
    assert isinstance(plan, Plan)
    assert [unit.iterations for unit in plan.units] == [500, 100, 100, 100]
    assert [bool(unit.start_unit_id) for unit in plan.units] == [False, True, True, True]
    assert len({unit.seed for unit in plan.units}) == 1


@pytest.mark.parametrize(("preset", "half"), [("fast", True), ("balanced", False), ("best", False)])
def test_only_fast_fills_in_in_half_precision(preset: str, half: bool) -> None:
    """With `balanced`, textures lose half a decibel by it (docs/benchmarks/inpainting.md)."""
    quick = replace(MACHINE, has_bfloat16=True)
    peaks = []
    for machine in (MACHINE, quick):
        image = ImageHeader(name="cells", shape=(256, 256), dtype="float32", axes="YX")
        plan = preflight(make_recipe("inpaint", preset=preset), image, machine)
        assert isinstance(plan, Plan)
        assert plan.fit_config.allows_bfloat16 == half
        peaks.append((plan.peak_bytes, plan.seconds))
    assert (peaks[1] < peaks[0]) == half
    assert half or peaks[0] == peaks[1]


@pytest.mark.parametrize(
    ("axes", "shape", "settings", "names"),
    [
        ("YX", (64, 64), {}, [""]),
        ("CYX", (2, 64, 64), {}, ["channel 1 of 2", "channel 2 of 2"]),
        ("YX", (64, 64), {"restarts": 2}, ["restart 1 of 2", "restart 2 of 2"]),
        ("TYX", (2, 64, 64), {}, ["frame 1 of 2", "frame 2 of 2"]),
        (
            "TCYX",
            (2, 2, 64, 64),
            {},
            [
                f"frame {frame} of 2, channel {channel} of 2"
                for frame in (1, 2)
                for channel in (1, 2)
            ],
        ),
    ],
)
def test_each_fit_is_named_by_what_it_restores(axes, shape, settings, names):
    plan = plan_image(shape, axes, preset="fast", **settings)
    assert not isinstance(plan, Refusal)
    assert sorted(map(plan.describe_unit, plan.units)) == names


def test_the_training_of_one_network_for_all_tiles_has_no_place_among_them():
    plan = plan_image((128, 320), "YX", preset="fast", tile=128, series_training="joint")
    assert not isinstance(plan, Refusal)
    names = {unit.has_estimate: plan.describe_unit(unit) for unit in reversed(plan.units)}
    assert names[False] == ""
    assert names[True].startswith("tile 1 of")
