"""Joint training for all frames or tiles: the same when interrupted, and reported."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from fit_inputs import make_task_plan
from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.prior import draw_random_window
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.merge import ResultMerger
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.calibrate.types import CalibratedImage
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.execute.run_monitor import RunMonitor
from napari_dip.pipeline.plan.joint_training import (
    MAX_TRAINING_PIXELS,
    MAX_TRAINING_REGIONS,
    apply_probe_outcome,
    choose_training_regions,
    compute_fine_tune_gain,
)
from napari_dip.pipeline.plan.types import FINE_TUNE_PROBE, INFERENCE, JOINT, UnitOutcome, WorkUnit
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.tasks import Denoise
from napari_dip.tasks.shared_settings import MIN_JOINT_FRAMES, get_series_training
from small_runs import make_noisy, plan_for, run_to_end

PLANE = ImageHeader(name="cells", shape=(64, 64), dtype="uint8", axes="YX")

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

FRAMES = 4


def draw_movie() -> np.ndarray:
    """Return shots of one scene, each with noise of its own."""
    return np.stack([make_noisy(32, seed) for seed in range(FRAMES)])


def make_plan(**settings: object) -> Plan:
    """Plan that one network is fitted to all frames."""
    return plan_for(draw_movie(), "TYX", series_training="joint", max_iterations=4, **settings)


@cache
def restore_movie() -> tuple[list[Event], Restoration]:
    """Restore the movie, once for all tests."""
    events, answer = run_to_end(make_plan(), draw_movie())
    assert answer is not None
    return events, answer


def make_probe_outcome(*gain: float, series: str = "c0r0") -> UnitOutcome:
    """Give the outcome of a trial."""
    return UnitOutcome(
        unit_id="trial",
        stop="",
        is_ended_by_user=False,
        best_iteration=1,
        iterations=1,
        history=(),
        notes=(),
        role=FINE_TUNE_PROBE,
        joint_network_name=series,
        log_likelihood_gain=gain,
    )


@pytest.mark.parametrize(
    ("count", "series", "sharing"),
    [
        (MIN_JOINT_FRAMES - 1, "auto", "warm-start"),
        (MIN_JOINT_FRAMES, "auto", "joint"),
        (2, "joint", "joint"),
        (1, "joint", "warm-start"),
        (96, "independent", "independent"),
        (96, "warm-start", "warm-start"),
    ],
)
def test_many_frames_share_one_network_and_the_user_can_overrule_it(
    count: int, series: str, sharing: str
) -> None:
    task = Denoise(series_training=series)  # type: ignore[arg-type]
    assert get_series_training(make_task_plan(task, PLANE), "r2r", count) == sharing


def test_tiles_share_one_network_only_where_that_is_sooner() -> None:
    few, many = (
        get_series_training(make_task_plan(Denoise(), PLANE), "r2r", count, are_tiles=True)
        for count in (31, 32)
    )
    assert (few, many) == ("warm-start", "joint")
    joint = make_task_plan(Denoise(series_training="joint"), PLANE)
    assert get_series_training(joint, "r2r", 2, are_tiles=True) == "joint"


def test_a_code_of_fixed_noise_is_never_shared() -> None:
    joint = make_task_plan(Denoise(series_training="joint"), PLANE)
    assert get_series_training(joint, "random-input", 96) == "warm-start"
    compressed = make_task_plan(Denoise(series_training="joint", noise="jpeg"), PLANE)
    assert get_series_training(compressed, "recompression", 96) == "warm-start"


def test_a_long_movie_takes_r2r_and_a_long_stack_a_blind_spot() -> None:
    long, deep = (
        ImageHeader(name="a", shape=(MIN_JOINT_FRAMES, 24, 24), dtype="uint8", axes=axes)
        for axes in ("TYX", "ZYX")
    )
    assert make_task_plan(Denoise(), long).prior_key == "r2r"
    assert make_task_plan(Denoise(), deep).prior_key == "blind-spot"
    assert make_task_plan(Denoise(series_training="warm-start"), long).prior_key == "blind-spot"


def test_the_fit_to_all_and_its_trials_come_first_and_frames_then_take_no_iterations() -> None:
    plan = make_plan()
    assert [unit.role for unit in plan.units] == [
        JOINT,
        *[FINE_TUNE_PROBE] * 3,
        *[INFERENCE] * FRAMES,
    ]
    assert [unit.iterations for unit in plan.units if unit.role == INFERENCE] == [0] * FRAMES
    assert len({unit.id for unit in plan.units}) == len(plan.units)


@pytest.mark.parametrize("most", [1, 7, 400, 100_000])
def test_a_limit_of_iterations_holds_for_every_fit_that_of_all_frames_included(most: int) -> None:
    plan = plan_for(draw_movie(), "TYX", series_training="joint", max_iterations=most)
    fits = [unit.iterations + plan.fit_config.refit_iterations for unit in plan.units]
    assert max(fits) == most


def test_each_by_itself_begins_with_nothing_and_takes_all_iterations() -> None:
    units = plan_for(draw_movie(), "TYX", series_training="independent", max_iterations=10).units
    assert [(bool(unit.start_unit_id), unit.iterations) for unit in units] == [(False, 10)] * FRAMES


@pytest.mark.parametrize("grid", [(32, 32), (512, 512), (3000, 700)])
def test_members_lie_within_their_frames_and_are_no_more_than_the_memory_was_counted_for(
    grid: tuple[int, int],
) -> None:
    members = choose_training_regions(96, grid, 1)
    assert len({region.item for region in members}) == len(members) <= MAX_TRAINING_REGIONS
    for region in members:
        sides = zip(region.origin, region.size, grid, strict=True)
        assert all(start >= 0 and start + count <= side for start, count, side in sides)
    assert sum(np.prod(region.size) for region in members) <= MAX_TRAINING_PIXELS


def test_frames_go_on_only_where_trials_gain_more_than_chance_explains() -> None:
    unit = WorkUnit(
        id="p0",
        channels=(0,),
        restart=0,
        seed=0,
        iterations=0,
        role=INFERENCE,
        joint_network_name="c0r0",
        fine_tune_iterations=50,
    )
    sure, chance = make_probe_outcome(10.0, 2.0, 100.0), make_probe_outcome(1.0, 100.0, 100.0)
    assert apply_probe_outcome(unit, [sure]).iterations == 50
    assert apply_probe_outcome(unit, [chance]).iterations == 0
    assert apply_probe_outcome(unit, []).iterations == 0
    assert apply_probe_outcome(replace(unit, joint_network_name="c1r0"), [sure]).iterations == 0
    both = compute_fine_tune_gain([sure, chance], "c0r0")
    assert both is not None
    assert both.mean == pytest.approx(11 / 200)


def test_one_of_several_images_is_drawn_and_a_single_one_draws_no_further_number() -> None:
    rng, same = (torch.Generator().manual_seed(0) for _ in range(2))
    drawn = {draw_random_window((8, 8), (4, 4), rng, batch_size=3).batch_index for _ in range(40)}
    assert drawn == {0, 1, 2}
    draw_random_window((8, 8), (4, 4), same)
    assert torch.equal(
        torch.rand(1, generator=same),
        torch.rand(5, generator=torch.Generator().manual_seed(0))[-1:],
    )


def test_the_report_of_a_movie_describes_its_joint_training() -> None:
    _, answer = restore_movie()
    fit_record = answer.report["fit"]
    assert fit_record["finished_fit_count"] == FRAMES
    assert fit_record["joint_training"]["region_count"] == FRAMES
    assert fit_record["joint_training"]["probe_count"] == 3
    assert any(
        "One network was fitted to 4 training regions" in note for note in answer.report["notes"]
    )
    assert "was fitted to 4 parts of the data together" in write_methods_section(answer.report)


def test_a_shared_movie_says_how_far_it_is_up_to_the_end() -> None:
    events, _ = restore_movie()
    shares = [event.fraction for event in events]
    # a fraction is stored as work that is done, so its last digit is rounded
    assert all(later > earlier - 1e-12 for earlier, later in pairwise(shares))
    assert shares[-1] == pytest.approx(1, abs=0.05)
    assert any("Learning from many" in event.message for event in events)
    assert "frame 4 of 4" in events[-1].message


@pytest.mark.long
@pytest.mark.parametrize("events", [2, 6])
def test_a_shared_movie_is_the_same_when_it_was_interrupted(tmp_path: Path, events: int) -> None:
    from napari_dip.pipeline.execute.runner import run

    checkpoints = CheckpointStore(tmp_path / "kept", resume=False, first_write_seconds=0)
    loop = run(make_plan(), {"image": draw_movie()}, checkpoints=checkpoints)
    for _ in range(2 + events):
        next(loop)
    checkpoints.write()
    loop.close()
    _, answer = run_to_end(
        make_plan(), draw_movie(), checkpoints=CheckpointStore(tmp_path / "kept", resume=True)
    )
    assert answer is not None
    np.testing.assert_array_equal(answer.image, restore_movie()[1].image)


@pytest.mark.long
def test_frames_that_are_done_are_kept_though_they_take_no_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_dip.pipeline.execute.runner import run

    monkeypatch.setattr(
        "napari_dip.pipeline.store.checkpoints.MAX_WRITE_INTERVAL", 0.0
    )  # whatever the clock says
    loop = run(
        make_plan(),
        {"image": draw_movie()},
        checkpoints=CheckpointStore(tmp_path / "kept", resume=False, first_write_seconds=0),
    )
    next(event for event in loop if "frame 4 of 4" in event.message)
    loop.close()  # as if it had been killed: nothing is written on the way out
    events, answer = run_to_end(
        make_plan(), draw_movie(), checkpoints=CheckpointStore(tmp_path / "kept", resume=True)
    )
    assert answer is not None
    np.testing.assert_array_equal(answer.image, restore_movie()[1].image)
    assert not any("Learning" in event.message for event in events)


@pytest.mark.long
def test_frames_need_the_network_of_all_and_not_each_other() -> None:
    plan = make_plan()
    image = calibrate_image(plan, {"image": draw_movie()})
    assert isinstance(image, CalibratedImage)
    first = [unit for unit in plan.units if unit.role != INFERENCE]
    frames = [unit for unit in plan.units if unit.role == INFERENCE]
    images = []
    for order in (frames, frames[::-1]):
        merge = ResultMerger(image)
        monitor = RunMonitor(plan, lambda: Control.GO, None)
        for _ in Executor(merge, monitor).run((*first, *order)):
            pass
        images.append(merge.get_estimates()[0])
    np.testing.assert_array_equal(*images)


def test_a_person_who_keeps_while_all_is_learned_gets_every_frame() -> None:
    counter = iter(range(10_000))
    _, answer = run_to_end(
        make_plan(),
        draw_movie(),
        poll_control=lambda: Control.KEEP if next(counter) > 5 else Control.GO,
    )
    assert answer is not None
    warnings = answer.report["verdict"]["warnings"]
    assert not any("as in the input" in warning for warning in warnings)
    assert any("ended early" in warning for warning in warnings)
    assert str(answer.stop) == "you stopped it and kept the image"
    assert (answer.image != draw_movie()).all()


@pytest.mark.long
def test_tiles_use_one_network_and_are_the_same_when_interrupted(tmp_path: Path) -> None:
    image = np.tile(make_noisy(32), (1, 8))
    plan = plan_for(image, series_training="joint", tile=128, max_iterations=2)
    assert [unit.role for unit in plan.units][:1] == [JOINT]
    assert {unit.tile for unit in plan.units if unit.role == INFERENCE} == {0, 1}
    _, whole = run_to_end(plan, image)
    assert whole is not None
    assert whole.report["fit"]["joint_training"]["inference"] == 2
    checkpoints = CheckpointStore(tmp_path / "kept", resume=False, first_write_seconds=0)
    from napari_dip.pipeline.execute.runner import run

    loop = run(plan, {"image": image}, checkpoints=checkpoints)
    for event in loop:
        if "tile 2" in event.message:
            break
    loop.close()
    _, again = run_to_end(plan, image, checkpoints=CheckpointStore(tmp_path / "kept", resume=True))
    assert again is not None
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(whole.image))
