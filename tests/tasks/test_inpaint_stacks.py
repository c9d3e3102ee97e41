"""Missing planes, frames and lines are filled from their neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from fit_inputs import inspect_stack
from napari_dip.cli.app import main
from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.io.header import match_axes
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import Inpaint
from napari_dip.tasks.inpaint import choose_validation_patches
from small_runs import MACHINE

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.pipeline.plan.types import Plan

FRAMES, SIDE = 9, 24
GONE = 4


def movie(frames: int = FRAMES) -> np.ndarray:
    """Spots that drift by two pixels from frame to frame, with a little noise."""
    y, x = np.mgrid[:SIDE, :SIDE]
    rng = np.random.default_rng(0)
    spots = rng.uniform(-8, SIDE + 8, (14, 2))
    images = [
        sum(np.exp(-((y - a) ** 2 + (x - b - 2 * t + frames) ** 2) / 8) for a, b in spots)
        for t in range(frames)
    ]
    return (1000 * np.stack(images) + rng.normal(0, 5, (frames, SIDE, SIDE))).astype(np.float32)


def remove_planes(image: np.ndarray, *planes: int) -> np.ndarray:
    spoilt = image.copy()
    spoilt[list(planes)] = np.nan
    return spoilt


def inpaint_briefly(
    image: Any, mask: Any = None, iterations: int = 3, **settings: Any
) -> dip.Restoration:
    options = {"preset": "fast", "device": "cpu", "max_iterations": iterations, **settings}
    return dip.inpaint(image, mask, **options)


def make_task_plan(
    axes: str, shape: tuple[int, ...], mask: tuple[int, ...], **settings: Any
) -> Plan:
    image = ImageHeader(name="cells", shape=shape, dtype="uint16", axes=axes)
    header = ImageHeader(name="holes", shape=mask, dtype="uint8", axes="TCZYX"[-len(mask) :])
    answer = preflight(make_recipe("inpaint", **settings), image, MACHINE, {"mask": header})
    assert not isinstance(answer, Refusal), answer.message
    return answer


@pytest.mark.long
def test_a_missing_frame_is_filled_better_than_by_the_line_between_its_neighbours() -> None:
    truth = movie()
    result = inpaint_briefly(remove_planes(truth, GONE), iterations=60, axes="TYX")
    straight = (truth[GONE - 1] + truth[GONE + 1]) / 2
    error = np.square(result.image[GONE] - truth[GONE]).mean()
    assert error < 0.5 * np.square(straight - truth[GONE]).mean()
    np.testing.assert_array_equal(np.delete(result.image, GONE, 0), np.delete(truth, GONE, 0))
    said = "1 of the 9 planes held no measurement and were filled in from the others."
    assert said in result.report["notes"]
    assert "before and after" in result.report["prior"]["reason"]


@pytest.mark.long
def test_the_uncertainty_of_filled_planes_comes_from_predicted_planes() -> None:
    truth = movie()
    result = inpaint_briefly(remove_planes(truth, GONE), iterations=60, axes="TYX")
    off = np.abs(result.image[GONE] - truth[GONE]) / result.uncertainty[GONE]
    assert 0.2 < np.sqrt(np.square(off).mean()) < 5


@pytest.mark.sampled(2)
@pytest.mark.parametrize("axes", ["ZYX", "TYX", "TCYX", "CZYX"])
def test_a_mask_of_the_same_shape_marks_whole_planes(axes: str) -> None:
    image = movie(5)
    if "C" in axes:
        image = np.stack([image, image[::-1] + 50], axes.index("C"))
    mask = np.zeros(image.shape, bool)
    np.moveaxis(mask, axes.index(axes.strip("CYX")), 0)[2] = True
    result = inpaint_briefly(image, mask, axes=axes)
    assert result.image.shape == image.shape
    np.testing.assert_array_equal(result.image[~mask], image[~mask])
    assert np.isfinite(result.image).all()
    assert (result.image[mask] != image[mask]).any()


def test_a_mask_without_channels_holds_for_all_of_them() -> None:
    image = np.stack([movie(5), movie(5)[::-1]], 1)
    mask = np.zeros((5, SIDE, SIDE), np.uint8)
    mask[3] = 1
    result = inpaint_briefly(image, mask, axes="TCYX")
    changed = (result.image != image).any((2, 3))
    assert changed.tolist() == [[False] * 2] * 3 + [[True] * 2, [False] * 2]


def test_a_mask_of_one_plane_holds_for_all_and_that_is_said() -> None:
    image = movie(5)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:12] = True
    result = inpaint_briefly(image, mask, axes="TYX")
    assert (result.image[:, ~mask] == image[:, ~mask]).all()
    assert (result.image[:, mask] != image[:, mask]).any((1,)).all()
    assert "The mask has one plane, which holds for all 5 planes." in result.report["notes"]


def test_lines_missing_in_one_frame_are_filled_from_the_next() -> None:
    truth = np.repeat(movie(1), 6, 0) + np.random.default_rng(1).normal(0, 2, (6, SIDE, SIDE))
    truth = truth.astype(np.float32)
    spoilt = truth.copy()
    spoilt[2, 8:14] = np.nan
    filled = inpaint_briefly(spoilt, axes="TYX").image[2, 8:14]
    along_y = np.linspace(truth[2, 7], truth[2, 14], 8)[1:-1]
    assert np.abs(filled - truth[2, 8:14]).mean() < 0.2 * np.abs(along_y - truth[2, 8:14]).mean()


def test_frames_at_either_end_are_filled_from_one_side() -> None:
    result = inpaint_briefly(remove_planes(movie(5), 0, 4), axes="TYX")
    assert np.isfinite(result.image).all()
    assert np.isfinite(result.uncertainty).all()


@pytest.mark.long
def test_neighbouring_planes_may_be_missing_together() -> None:
    truth = movie()
    result = inpaint_briefly(remove_planes(truth, 3, 4), iterations=40, axes="TYX")
    straight = np.stack([(2 * truth[2] + truth[5]) / 3, (truth[2] + 2 * truth[5]) / 3])
    assert np.abs(result.image[3:5] - truth[3:5]).mean() < np.abs(straight - truth[3:5]).mean()


def test_three_planes_are_enough() -> None:
    result = inpaint_briefly(remove_planes(movie(3), 1), axes="ZYX")
    assert "1 of the 3 planes" in " ".join(result.report["notes"])


def test_measured_planes_are_restored_on_request() -> None:
    truth = movie(5)
    result = inpaint_briefly(remove_planes(truth, 2), axes="TYX", unmasked="denoise")
    assert not (result.image[0] == truth[0]).all()


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_measured_planes_have_less_noise_than_after_a_gaussian_filter(axes: str) -> None:
    truth = np.stack([data.camera()[100 + t : 164 + t, 200:264] for t in range(5)]) * 1.0
    noisy = truth + np.random.default_rng(0).normal(0, 25, truth.shape)
    image = remove_planes(noisy, 2)
    settings = {"preset": "instant", "max_iterations": 20, "unmasked": "denoise"}
    result = dip.inpaint(image, axes=axes, **settings)
    measured = [0, 1, 3, 4]

    def measure_error(planes: np.ndarray) -> float:
        return float(np.square(planes[measured] - truth[measured]).mean())

    widths = np.arange(0.5, 4, 0.25)
    smoothed = [gaussian_filter(noisy, (0, width, width)) for width in widths]
    assert measure_error(result.image) < min(map(measure_error, smoothed))


def test_whole_planes_cannot_go_one_by_one_so_they_go_together_and_that_is_said() -> None:
    report = inpaint_briefly(remove_planes(movie(5), 2), axes="ZYX", stacks="planes").report
    assert any("planes along Z are fitted together" in note for note in report["notes"])


def test_planes_with_measured_pixels_are_restored_one_by_one_on_request() -> None:
    image = movie(3)
    image[:, 5:8, 5:8] = np.nan
    report = inpaint_briefly(image, axes="ZYX", stacks="planes").report
    assert report["prior"]["key"] == "masked-input-shapes"


def test_a_moment_of_which_no_depth_is_known_is_filled_from_other_moments() -> None:
    stacks = np.stack([movie(4) + 30 * t for t in range(4)])
    result = inpaint_briefly(remove_planes(stacks, 2), axes="TZYX")
    assert any("planes along T are fitted together" in note for note in result.report["notes"])
    np.testing.assert_array_equal(result.image[[0, 1, 3]], stacks[[0, 1, 3]])
    assert np.abs(result.image[2] - stacks[2]).mean() < 60


def test_items_without_any_measured_pixel_are_refused() -> None:
    stacks = np.stack([movie(3)] * 3)
    stacks[1] = stacks[:, 1] = np.nan  # neither depth nor time has all of it
    with pytest.raises(dip.RefusedError) as caught:
        inpaint_briefly(stacks, axes="TZYX")
    assert caught.value.reason.code == "plane-unmeasured"


@pytest.mark.parametrize(
    ("shape", "mask", "code"),
    [
        ((5, SIDE, SIDE), (4, SIDE, SIDE), "mask-stack"),
        ((5, SIDE, SIDE), (5, SIDE, SIDE - 1), "mask-stack"),
        ((5, SIDE, SIDE), (SIDE, SIDE - 1), "mask-shape"),
        ((3, 5, SIDE, SIDE), (3, SIDE, SIDE), "mask-stack"),
    ],
)
def test_masks_of_another_shape_are_refused_before_anything_is_read(
    shape: tuple[int, ...], mask: tuple[int, ...], code: str
) -> None:
    with pytest.raises(dip.RefusedError) as caught:
        dip.inpaint(np.ones(shape, np.float32), np.ones(mask))
    assert caught.value.reason.code == code


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_a_plan_fits_planes_together_and_counts_with_a_network_of_planes(axes: str) -> None:
    shape = (40, 256, 256)
    plan = make_task_plan(axes, shape, (256, 256))
    assert plan.layout.grid_axes == axes
    assert len(plan.units) == 1
    alone = make_task_plan("YX", (256, 256), (256, 256))
    assert plan.costs.fit_seconds < 4 * alone.costs.fit_seconds
    assert plan.peak_bytes > 40 * 256 * 256 * 100
    assert "The mask has one plane, which holds for all 40 planes." in map(str, plan.notes)


@pytest.mark.parametrize(
    ("axes", "shape", "mask", "shared"),
    [
        ("TCYX", (3, 2, 20, 30), (3, 2, 20, 30), "TCYX"),
        ("TCYX", (3, 2, 20, 30), (3, 20, 30), "TYX"),
        ("TCYX", (3, 2, 20, 30), (1, 20, 30), "YX"),
        ("ZYX", (3, 20, 30), (30, 20), ""),
        ("YXS", (20, 30, 3), (20, 30), "YX"),
        ("YXS", (20, 30, 3), (20, 30, 3), ""),
    ],
)
def test_a_mask_lies_on_all_axes_or_on_those_of_a_plane(
    axes: str, shape: tuple[int, ...], mask: tuple[int, ...], shared: str
) -> None:
    assert (
        match_axes(ImageHeader(name="cells", shape=shape, dtype="uint8", axes=axes), mask) == shared
    )


def test_validation_uses_patches_for_wide_holes_and_pixels_for_scattered_ones() -> None:
    mask = torch.ones(1, 1, 6, 32, 32)
    assert choose_validation_patches(mask[:, :, 0]) is None
    scattered = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert choose_validation_patches(scattered) is None
    mask[:, :, 2, 10:13] = 0
    lines = choose_validation_patches(mask)
    assert lines is not None and lines[0] == (1, 4, 4)
    mask[:, :, 2] = 0
    planes = choose_validation_patches(mask)
    assert planes is not None and planes[0] == (1, 8, 8)
    assert float(planes[1][:, :, 3].sum()) == 0  # its neighbour is missing


def test_scattered_pixels_of_a_stack_are_filled_with_the_help_of_other_planes() -> None:
    truth = movie(5)
    holes = np.random.default_rng(0).random(truth.shape) < 0.5
    report = inpaint_briefly(truth, holes, axes="ZYX").report
    assert report["prior"]["key"] == "masked-input-shapes"
    assert "what is missing in one" in report["prior"]["reason"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("prior", ["random-input-no-skips", "random-input"])
def test_a_random_input_fills_a_volume_on_request(prior: str) -> None:
    result = inpaint_briefly(remove_planes(movie(5), 2), axes="ZYX", prior=prior)
    assert np.isfinite(result.image).all()


def test_planes_are_counted_over_all_channels() -> None:
    mask = np.ones((1, 2, 4, 5, 6), bool)
    mask[:, 0, 1] = False
    assert inspect_stack(Inpaint(), np.where(mask, 1.0, np.nan)).notes == ()
    mask[:, 1, 1] = False
    (note,) = inspect_stack(Inpaint(), np.where(mask, 1.0, np.nan)).notes
    assert str(note).startswith("1 of the 4 planes")


def test_the_command_fills_a_stack_and_keeps_its_axes_and_scale(tmp_path: Path) -> None:
    image, mask = movie(5).clip(0).astype(np.uint16), np.zeros((5, SIDE, SIDE), np.uint8)
    mask[2] = 1
    metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "um"}
    tifffile.imwrite(tmp_path / "in.tif", image, imagej=True, metadata=metadata)
    tifffile.imwrite(tmp_path / "mask.tif", mask, imagej=True, metadata={"axes": "ZYX"})
    command = ["inpaint", tmp_path / "in.tif", "--mask", tmp_path / "mask.tif"]
    command += ["-o", tmp_path / "out.tif", "--max-iterations", "3", "--device", "cpu", "--quiet"]
    assert main([str(word) for word in command]) == 0
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.series[0].axes == "ZYX"
        filled = file.asarray()
    np.testing.assert_array_equal(filled[[0, 1, 3, 4]], image[[0, 1, 3, 4]])
