"""A crop is restored with the range and the noise of the whole image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.execute.crop_preview import (
    RIM_WIDTH,
    CropRegion,
    make_crop_region,
    plan_crop_preview,
    run_crop_preview,
)
from napari_dip.pipeline.execute.neighbour_frames import NeighbourFrameProvider
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(tifffile.imread(MITOCHONDRIA)[0, 20:148, 40:168])


@pytest.fixture
def provided(monkeypatch):
    """The frames that fits get."""
    frames = []

    def record(provider, unit, prior_key):
        frames.append(get_frames(provider, unit, prior_key))
        return frames[-1]

    get_frames = NeighbourFrameProvider.get_neighbour_frames
    monkeypatch.setattr(NeighbourFrameProvider, "get_neighbour_frames", record)
    return frames


def make_task_plan(task, pixels, others=None, **settings):
    recipe = make_recipe(task, preset="fast", **{"max_iterations": 3, **settings})
    axes = {2: "YX", 3: "TYX"}[pixels.ndim]
    header = ImageHeader(name="cells", shape=pixels.shape, dtype=pixels.dtype.name, axes=axes)
    headers = {
        name: ImageHeader(name=name, shape=array.shape, dtype=array.dtype.name, axes="YX")
        for name, array in (others or {}).items()
    }
    return preflight(recipe, header, detect_machine(), headers)


def run_preview(plan, region, **data):
    small = plan_crop_preview(plan, region, detect_machine())
    assert not isinstance(small, Refusal)
    return drain_generator(run_crop_preview(plan, region, small, data), None)


@pytest.mark.long
@pytest.mark.all_cores
def test_a_trial_on_all_of_an_image_gives_the_pixels_of_a_run(image):
    pixels = image[:64, :64].copy()
    plan = make_task_plan("denoise", pixels)
    whole = drain_generator(run(plan, {"image": pixels}), None)
    preview = run_preview(plan, CropRegion(spans=((0, 64), (0, 64))), image=pixels)
    assert preview.image.tobytes() == whole.image.tobytes()


@pytest.mark.long
def test_a_crop_preview_uses_the_noise_of_the_whole_image_and_names_its_region(image):
    pixels = image.astype(np.float32)
    pixels[:, 64:] += np.random.default_rng(0).normal(0, 40, (128, 64)).astype(np.float32)
    # enough iterations for a result that does not fail: else each repeats with weaker noise
    plan = make_task_plan("denoise", pixels, max_iterations=60)
    whole = drain_generator(run(plan, {"image": pixels}), None)
    preview = run_preview(plan, CropRegion(spans=((0, 64), (0, 64))), image=pixels)
    assert preview.report["noise"] == whole.report["noise"]
    alone = drain_generator(
        run(make_task_plan("denoise", pixels[:64, :64]), {"image": pixels[:64, :64]}), None
    )
    assert alone.report["noise"] != whole.report["noise"]
    assert preview.image.shape == (64, 64)
    assert any(
        "preview of rows 0 to 63 and columns 0 to 63" in note for note in preview.report["notes"]
    )


def test_a_mask_is_cut_with_the_image_and_measured_pixels_come_back(image):
    mask = np.zeros(image.shape, np.uint8)
    mask[70:76, 70:90] = 1
    plan = make_task_plan("inpaint", image, {"mask": mask})
    region = CropRegion(spans=((64, 128), (64, 128)))
    preview = run_preview(plan, region, image=image, mask=mask)
    unmasked = mask[region.slices] == 0
    np.testing.assert_array_equal(preview.image[unmasked], image[region.slices][unmasked])
    assert (preview.image[~unmasked] != image[region.slices][~unmasked]).any()


@pytest.mark.long
def test_maps_of_the_camera_are_cut_with_the_image_and_mean_what_they_mean_for_the_whole(image):
    ramp = np.tile(np.linspace(0, 40, 128), (128, 1))
    noise = np.ones(image.shape)
    noise[70:80, 70:80] = 30
    maps = {"offset_map": ramp, "noise_map": noise}
    plan = make_task_plan("denoise", image, maps)
    region = CropRegion(spans=((64, 128), (64, 128)))
    whole = drain_generator(run(plan, {"image": image, **maps}), None)
    preview = run_preview(plan, region, image=image, **maps)
    assert preview.report["noise"] == whole.report["noise"]
    corrected = (image - ramp + ramp.mean())[region.slices]
    assert preview.image.mean() == pytest.approx(corrected.mean(), rel=1e-3)


def test_of_a_movie_one_frame_is_tried(image):
    movie = np.stack([image, image[::-1]])
    plan = make_task_plan("denoise", movie)
    region = make_crop_region(plan.header, plan.layout, (3.2, 10, 60.5, 300), (1, 50, 50))
    assert region.spans == ((1, 2), (0, 64), (8, 128))
    preview = run_preview(plan, region, image=movie)
    assert preview.image.shape == (1, 64, 120)


@pytest.mark.parametrize(("frame", "neighbours"), [(0, (1, 1)), (1, (0, 2)), (2, (1, 1))])
def test_of_a_movie_a_region_is_tried_with_the_frames_before_and_after(
    image, provided, frame, neighbours
):
    scene = gaussian_filter(image / 20, 3)  # else the frames would share the noise of the image
    movie = np.random.default_rng(0).poisson(np.stack([scene] * 3)).astype(np.uint16)
    plan = make_task_plan("denoise", movie, temporal_smoothing=1.0)
    region = make_crop_region(plan.header, plan.layout, (16, 24, 80, 88), (frame, 50, 50))
    preview = run_preview(plan, region, image=movie)
    assert "planes or frames before and after" in write_methods_section(preview.report)
    frames = provided[0]
    assert frames.previous is None
    np.testing.assert_array_equal(frames.neighbours[0], movie[list(neighbours), 16:80, 24:88])


def test_frames_around_a_region_are_registered_as_in_a_run_of_the_movie(image, provided):
    scene = gaussian_filter(image / 5, 2)
    frames = [scene[:96, 4 * step : 96 + 4 * step] for step in range(3)]  # drifts to the left
    movie = np.random.default_rng(0).poisson(np.stack(frames)).astype(np.uint16)
    plan = make_task_plan("denoise", movie)
    region = make_crop_region(plan.header, plan.layout, (0, 0, 96, 96), (1, 50, 50))
    run_preview(plan, region, image=movie)
    before, after = provided[0].neighbours[0][..., 16:-16]
    own = movie[1, :, 16:-16]
    for neighbour, moved in ((before, movie[0]), (after, movie[2])):
        assert np.std(neighbour - own) < 0.8 * np.std(moved[:, 16:-16].astype(float) - own)


def test_a_frame_of_a_movie_whose_noise_grows_is_tried_in_its_own_values(image):
    remaining = np.exp(-np.arange(6) / 3)[:, None, None]
    light = 1 + 40 * np.broadcast_to(image, (6, *image.shape)) / image.max()
    movie = (np.random.default_rng(0).poisson(light * remaining) / remaining).astype(np.float32)
    plan = make_task_plan("denoise", movie)
    region = make_crop_region(plan.header, plan.layout, (16, 16, 80, 80), (4, 50, 50))
    preview = run_preview(plan, region, image=movie)
    assert "noise-levelled" in {note["code"] for note in preview.report["note_codes"]}
    crop = movie[4:5, 16:80, 16:80]
    assert preview.image.mean() == pytest.approx(crop.mean(), rel=0.05)
    np.testing.assert_allclose(preview.image + preview.residual, crop, atol=1e-3)


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize(
    ("box", "code", "size"),
    [
        ((200, 200, 300, 300), "drawing-outside", None),
        ((20, -40, 60, -3), "drawing-outside", None),
        ((33, 41.5, 36, 46.5), "region-small", (3, 6)),
    ],
)
def test_a_region_is_refused_for_itself_and_not_for_its_image(image, box, code, size, is_merged):
    plan = make_task_plan("denoise", image)
    region = make_crop_region(plan.header, plan.layout, box, (0, 0), is_merged=is_merged)
    answer = plan_crop_preview(plan, region, detect_machine())
    if size is not None and is_merged:  # what lies around it is restored with it
        assert not isinstance(answer, Refusal)
        return
    assert isinstance(answer, Refusal) and answer.code == code
    if size is not None:
        assert (answer.facts["height"], answer.facts["width"]) == size


@pytest.mark.long
def test_a_region_is_merged_without_a_seam_and_leaves_the_rest_as_it_was(image):
    plan = make_task_plan("denoise", image, max_iterations=20)
    whole = drain_generator(run(plan, {"image": image}), None).image
    box = (40, 48, 83.5, 90)
    region = make_crop_region(plan.header, plan.layout, box, (0, 0), is_merged=True)
    assert region.spans == ((24, 104), (32, 112)) and region.inner_spans == ((40, 84), (48, 90))
    merged = run_preview(plan, region, image=image, merge_into=whole)
    alone = run_preview(plan, replace(region, inner_spans=()), image=image)
    assert merged.image.dtype == np.float32
    changed = merged.image != whole
    assert changed[40:84, 48:90].mean() > 0.9
    assert not changed[:26].any() and not changed[102:].any()
    assert not changed[:, :34].any() and not changed[:, 110:].any()
    np.testing.assert_array_equal(merged.image[40:84, 48:90], alone.image[16:60, 16:58])
    step = region.merge(np.zeros_like(whole), np.ones((80, 80)), plan.factors)
    assert all(abs(np.diff(step, axis=axis)).max() < 1 / 7 for axis in (0, 1))
    assert any("Rows 40 to 83 and columns 48 to 89" in note for note in merged.report["notes"])
    assert "Only rows 40 to 83" in write_methods_section(merged.report)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_region_changes_no_pixel_beyond_its_rim(image, factor):
    plan = make_task_plan("denoise", image[:96, :96])
    box = (39, 30, 49, 60)  # its crop is larger than the rim, to multiples of eight
    region = make_crop_region(plan.header, plan.layout, box, (0, 0), is_merged=True)
    shape = [factor * (stop - start) for start, stop in region.spans]
    merged = region.merge(np.zeros((96 * factor,) * 2), np.ones(shape), (factor, factor))
    rows, columns = np.nonzero(merged)
    assert factor * (39 - RIM_WIDTH) <= rows.min() and rows.max() < factor * (49 + RIM_WIDTH)
    assert factor * (30 - RIM_WIDTH) <= columns.min()
    assert columns.max() < factor * (60 + RIM_WIDTH)
    assert (merged[factor * 39 : factor * 49, factor * 30 : factor * 60] == 1).all()


def test_a_region_at_the_border_without_a_result_is_merged_into_the_image(image):
    plan = make_task_plan("super-resolve", image[:64, :64], factor=2, dtype="same")
    region = make_crop_region(plan.header, plan.layout, (0, 0, 32, 300), (0, 0), is_merged=True)
    assert region.spans == ((0, 48), (0, 64))
    merged = run_preview(plan, region, image=image[:64, :64])
    fine = np.repeat(np.repeat(image[:64, :64], 2, 0), 2, 1)
    assert merged.image.shape == (128, 128) and merged.image.dtype == image.dtype
    np.testing.assert_array_equal(merged.image[96:], fine[96:])
    assert (merged.image[:64] != fine[:64]).mean() > 0.7  # the rest is black


@pytest.mark.long
def test_a_region_of_a_movie_changes_one_frame(image):
    movie = np.stack([image, image[::-1]])
    plan = make_task_plan("denoise", movie)
    region = make_crop_region(plan.header, plan.layout, (0, 0, 64, 64), (1, 9, 9), is_merged=True)
    merged = run_preview(plan, region, image=movie)
    np.testing.assert_array_equal(merged.image[0], movie[0])
    assert (merged.image[1, :64, :64] != movie[1, :64, :64]).any()


@pytest.mark.long
def test_a_crop_of_an_image_in_tiles_is_fitted_once(image):
    plan = make_task_plan("denoise", np.tile(image, (2, 2)), tile=128)
    assert plan.tiles
    region = CropRegion(spans=((0, 216), (0, 216)))
    preview = run_preview(plan, region, image=np.tile(image, (2, 2)))
    assert preview.report["iterations"] == 3
