"""Unchanged pixels keep the type and values of the input, also beyond single precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli.app import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.assess.merge import convert_to_input_dtype
from small_runs import plan_for, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"preset": "fast", "device": "cpu", "max_iterations": 2}
SIDE = 32


def draw_large_values(kind: str, *shape: int) -> np.ndarray:
    """Odd numbers beyond 2 ** 24, of which float32 holds none; of floats, with a fraction."""
    numbers = 2**25 + np.random.default_rng(0).integers(0, 2**26, shape) | 1
    return numbers.astype(kind) + (0.1 if kind.startswith("float") else 0)


def draw_mask(*shape: int) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[..., 10:14, 8:24] = True
    return mask


@pytest.mark.parametrize("kind", ["int32", "uint32", "int64", "uint64", "float64"])
def test_filling_in_with_the_inputs_type_changes_no_measured_pixel(kind: str) -> None:
    image, mask = draw_large_values(kind, SIDE, SIDE), draw_mask(SIDE, SIDE)
    result = dip.inpaint(image, mask, dtype="same", **SETTINGS)
    assert result.image.dtype == kind
    np.testing.assert_array_equal(result.image[~mask], image[~mask])
    assert (result.image[mask] != image[mask]).mean() > 0.9
    assert str(make_note("type-shortened", dtype=kind)) not in result.report["notes"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("axes", ["ZYX", "YXC", "TZYX"])
def test_no_measured_pixel_of_a_stack_or_of_channels_changes_either(axes: str) -> None:
    sizes = {"T": 2, "Z": 3, "C": 2, "Y": SIDE, "X": SIDE}
    image = draw_large_values("uint32", *(sizes[axis] for axis in axes))
    mask = np.zeros(image.shape, bool)
    mask[tuple(slice(8, 12) if axis in "YX" else slice(None) for axis in axes)] = True
    result = dip.inpaint(image, mask, dtype="same", axes=axes, **SETTINGS)
    np.testing.assert_array_equal(result.image[~mask], image[~mask])


@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
def test_the_command_writes_measured_pixels_beyond_single_precision(
    tmp_path: Path, name: str
) -> None:
    image, mask = draw_large_values("int32", SIDE, SIDE), draw_mask(SIDE, SIDE)
    tifffile.imwrite(tmp_path / "in.tif", image)
    tifffile.imwrite(tmp_path / "mask.tif", mask.astype(np.uint8))
    command = ["inpaint", tmp_path / "in.tif", "--mask", tmp_path / "mask.tif", "--dtype", "same"]
    command += ["-o", tmp_path / name, "--max-iterations", "2", "--device", "cpu", "--quiet"]
    assert main([str(word) for word in command]) == 0
    from napari_dip.io.reading import read_header, read_pixels

    filled = read_pixels(read_header(tmp_path / name))
    np.testing.assert_array_equal(filled[~mask], image[~mask])


def test_a_result_in_single_precision_says_that_measured_pixels_were_shortened() -> None:
    image, mask = draw_large_values("int32", SIDE, SIDE), draw_mask(SIDE, SIDE)
    notes = str(make_note("type-shortened", dtype="int32"))
    assert notes in dip.inpaint(image, mask, **SETTINGS).report["notes"]
    assert notes not in dip.inpaint(image % 2**24, mask, **SETTINGS).report["notes"]


@pytest.mark.parametrize("settings", [{}, {"tile": 128}])
def test_a_channel_of_one_value_comes_back_with_that_value(settings: dict[str, int]) -> None:
    image = np.stack([draw_large_values("int32", 144, 32), np.full((144, 32), 2**24 + 1, np.int32)])
    plan = plan_for(image, "CYX", dtype="same", max_iterations=1, **settings)
    assert bool(plan.tiles) == bool(settings)
    result = run_to_end(plan, image)[1]
    assert result is not None
    assert (result.image[1] == 2**24 + 1).all()


def test_what_no_fit_has_reached_is_as_in_the_input() -> None:
    image = draw_large_values("int32", 3, SIDE, SIDE)
    plan = plan_for(image, "TYX", dtype="same", max_iterations=4)
    calls = iter(range(10**9))
    result = run_to_end(
        plan, image, poll_control=lambda: Control.KEEP if next(calls) > 1 else Control.GO
    )[1]
    assert result is not None
    assert any("not restored" in warning for warning in result.report["verdict"]["warnings"])
    np.testing.assert_array_equal(result.image[2], image[2])


def test_a_restored_pixel_beyond_the_type_is_its_largest_number() -> None:
    array = np.full((2, 2), np.iinfo(np.int64).max)
    plan = plan_for(np.zeros((SIDE, SIDE), np.int64), dtype="same")
    answer = convert_to_input_dtype(
        np.full((2, 2), 1e19, np.float32), array, plan, np.zeros((2, 2), bool)
    )
    assert (answer > 2**62).all()
