"""A grey image that is saved in colours is restored as the grey image, and keeps its shape."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.io.lazy_images import LazyImage
from napari_dip.pipeline import autosave
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.autosave import (
    AutosaveTarget,
    find_interrupted_runs,
    read_run_inputs,
    run_with_autosave,
    summarise_run,
)
from napari_dip.pipeline.execute.crop_preview import (
    make_crop_region,
    plan_crop_preview,
    run_crop_preview,
)
from napari_dip.pipeline.lazy_inputs import merge_equal_colours
from napari_dip.pipeline.plan.joint_training import GREY_GROUPS, refuse_channels
from napari_dip.pipeline.progress import drain_generator
from napari_dip.scale.batch.plan import plan_batch
from napari_dip.scale.batch_run import run_batch
from scale.cluster.simulated_workers import InProcessPool
from small_runs import MACHINE, make_noisy, plan_for, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

SIDE = 48
FEW: dict[str, Any] = {"preset": "instant", "max_iterations": 2, "device": "cpu"}


def make_colours(grey: Any, axis: int = -1) -> Any:
    return np.stack([grey] * 3, axis)


def list_codes(result: Any) -> list[str]:
    return [note["code"] for note in result.report["note_codes"]]


@pytest.mark.parametrize(("axes", "axis"), [("YXS", -1), ("SYX", 0)])
def test_equal_colours_give_the_pixels_of_the_grey_image(axes: str, axis: int) -> None:
    grey, colours = make_noisy(SIDE), make_colours(make_noisy(SIDE), axis)
    _, expected = run_to_end(plan_for(grey, max_iterations=3), grey)
    events, result = run_to_end(
        plan_for(colours, axes, max_iterations=3), colours, preview_seconds=0.0
    )
    assert result is not None
    assert expected is not None
    for name in ("image", "uncertainty", "residual"):
        each = getattr(result, name)
        assert np.array_equal(each, make_colours(getattr(expected, name), axis)), name
        assert each.flags.writeable
    previews = [event.preview for event in events if event.preview is not None]
    assert {preview.shape for preview in previews} == {colours.shape}
    report = result.report
    assert report["noise"]["gain"] == expected.report["noise"]["gain"]
    assert (report["axes"], report["shape"]) == (axes, list(colours.shape))
    assert report["input_sha256"] == compute_sha256(colours)
    assert report["output_sha256"] == compute_sha256(result.image)
    assert sorted(list_codes(result)) == sorted([*list_codes(expected), "colours-equal"])


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("super-resolve", {"factor": 2}),
        ("inpaint", {"mask": np.arange(SIDE**2).reshape(SIDE, SIDE) % 7 == 0}),
        ("denoise", {"repeated_exposure": make_noisy(SIDE, 1)}),
    ],
)
def test_equal_colours_count_as_grey_in_each_task(task: str, settings: Any) -> None:
    def restore(image: Any, axes: str, **inputs: Any) -> Any:
        steps = dip.run(task, image, axes=axes, **{**FEW, **settings, **inputs})
        list(steps)
        return steps.result

    expected = restore(make_noisy(SIDE), "YX")
    exposure = settings.get("repeated_exposure")
    if exposure is None:
        result = restore(make_colours(make_noisy(SIDE)), "YXS")
    else:
        exposures = make_colours(exposure)
        result = restore(make_colours(make_noisy(SIDE)), "YXS", repeated_exposure=exposures)
        assert result.report["extra_inputs_sha256"] == {
            "repeated_exposure": compute_sha256(exposures)
        }
    assert np.array_equal(result.image, make_colours(expected.image))


def test_one_other_value_keeps_the_colours() -> None:
    colours = make_colours(make_noisy(SIDE))
    colours[5, 7, 2] += 1
    merged = merge_equal_colours(plan_for(colours, "YXS"), {"image": colours})
    assert merged.plan.header.axes == "YXS"
    assert not merged.hashes


def test_missing_pixels_of_all_colours_are_equal() -> None:
    colours = make_colours(make_noisy(SIDE)).astype(np.float32)
    colours[5, 7] = np.nan
    merged = merge_equal_colours(plan_for(colours, "YXS"), {"image": colours})
    assert merged.plan.header.axes == "YX"


def test_equal_colours_in_tiles_give_the_pixels_of_the_grey_image() -> None:
    grey = np.tile(make_noisy(64), (4, 5))
    colours = make_colours(grey)
    options = {"tile": 128, "max_iterations": 2, "threads": 1}
    _, expected = run_to_end(plan_for(grey, **options), grey)
    lazy = LazyImage(path=None, array=colours, fetch=colours.__getitem__)  # type: ignore[arg-type]
    plan = plan_for(colours, "YXS", **options)
    assert plan.tiles
    _, result = run_to_end(plan, lazy)
    assert expected is not None
    assert result is not None
    assert np.array_equal(result.image, make_colours(expected.image))
    assert result.report["input_sha256"] == compute_sha256(colours)


def test_of_an_image_in_colours_on_the_disk_only_the_first_tile_is_compared() -> None:
    colours = np.random.default_rng(0).normal(100, 9, (256, 320, 3)).astype(np.float32)
    regions: list[Any] = []

    def fetch(region: Any) -> Any:
        regions.append(region)
        return colours[region]

    lazy = LazyImage(path=None, array=colours, fetch=fetch)  # type: ignore[arg-type]
    plan = plan_for(colours, "YXS", tile=128)
    assert len(plan.tiles) > 1
    assert merge_equal_colours(plan, {"image": lazy}).inputs["image"] is lazy
    assert len(regions) == 1


def test_a_dask_array_is_computed_once() -> None:
    counts: list[int] = []

    def count(block: Any) -> Any:
        counts.append(1)
        return block

    array = da.from_array(make_colours(make_noisy(SIDE)), chunks=(SIDE, SIDE, 3))
    lazy = array.map_blocks(count, dtype=array.dtype, meta=np.empty((0, 0, 0), array.dtype))
    result = dip.denoise(lazy, axes="YXS", **FEW)
    assert "colours-equal" in list_codes(result)
    assert len(counts) == 1


def test_shards_of_equal_colours_give_the_file_of_a_single_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "in").mkdir()
    colours = make_colours((make_noisy(SIDE) // 8).astype(np.uint8))
    tifffile.imwrite(tmp_path / "in" / "grey.tif", colours, photometric="rgb")
    # three fits of colours by the header, two of grey by the pixels
    recipe = dip.make_recipe("denoise", **FEW, channels="separate", restarts=2)
    dip.batch(recipe, tmp_path / "in", tmp_path / "single", threads=1)
    plan = plan_batch(recipe, tmp_path / "in", tmp_path / "shards", threads=1)
    pool = InProcessPool(count=8)
    list(run_batch(plan, pool=pool))
    assert len(pool.sent) > 1
    single, merged = (tmp_path / name / "grey.tif" for name in ("single", "shards"))
    assert single.read_bytes() == merged.read_bytes()


def test_an_interrupted_run_of_equal_colours_is_kept_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autosave, "AUTOSAVE_DELAY_SECONDS", 0)
    colours = make_colours(make_noisy(SIDE))
    plan = plan_for(colours, "YXS", max_iterations=40)
    target = AutosaveTarget(
        folder=tmp_path / "run-1",
        run_summary=summarise_run(plan, "Denoise", MACHINE),
        inputs={"image": {"layer": "grey", "path": None}},
    )
    steps = run_with_autosave(target, plan, {"image": colours})
    while next(steps).iteration < 25:
        pass
    steps.close()
    (interrupted,) = find_interrupted_runs(tmp_path, "denoise")
    inputs = read_run_inputs(interrupted, {})
    assert np.array_equal(inputs["image"], colours)
    result = drain_generator(run_with_autosave(replace(target, resume=True), plan, inputs))
    _, expected = run_to_end(plan, colours)
    assert result is not None
    assert expected is not None
    assert np.array_equal(result.image, expected.image)


def test_a_preview_on_a_crop_is_of_the_grey_image() -> None:
    def preview(array: Any, axes: str) -> Any:
        plan = plan_for(array, axes, max_iterations=2)
        positions = (0,) * array.ndim
        region = make_crop_region(plan.header, plan.layout, (8, 8, 40, 40), positions)
        crop_plan = plan_crop_preview(plan, region, MACHINE)
        assert not isinstance(crop_plan, Refusal)
        return drain_generator(run_crop_preview(plan, region, crop_plan, {"image": array}))

    grey = make_noisy(SIDE)
    expected, result = preview(grey, "YX"), preview(make_colours(grey), "YXS")
    assert np.array_equal(result.image, make_colours(expected.image))


def test_the_noise_of_equal_colours_is_that_of_one_channel() -> None:
    grey = make_noisy(64)
    report = dip.measure_noise(make_colours(grey), axes="YXS")
    assert report.sentences == dip.measure_noise(grey).sentences


def test_a_network_of_grey_images_suits_colours_that_are_equal(tmp_path: Path) -> None:
    colours = make_colours(make_noisy(SIDE))
    plan = plan_for(colours, "YXS")
    assert refuse_channels(plan.task_plan, plan.header, GREY_GROUPS) is None
    channels = ImageHeader(name="c", shape=(3, SIDE, SIDE), dtype="uint16", axes="CYX")
    assert refuse_channels(plan.task_plan, channels, GREY_GROUPS) is not None
    path = tmp_path / "network.safetensors"
    settings = {**FEW, "prior": "r2r"}
    dip.denoise(colours, axes="YXS", **settings).network.write(path, overwrite=False)
    result = dip.denoise(colours, axes="YXS", network_file=path, **settings)
    assert {"colours-equal", "network-start"} <= set(list_codes(result))
    colours[..., 0] += 9
    colours[::2, ::2, 1] += 5
    own = dip.denoise(colours, axes="YXS", network_file=path, **settings)
    assert "joint-unfit" in list_codes(own)
