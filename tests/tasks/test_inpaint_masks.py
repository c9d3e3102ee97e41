"""A mask marks what its author drew, not what compression or resampling added."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.ndimage import label as label_parts

import napari_dip as dip
from fit_inputs import inspect_stack
from napari_dip.errors import Refusal
from napari_dip.errors.notes import make_note
from napari_dip.io.reading import read_header
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import Inpaint
from napari_dip.tasks.base import Inspection
from napari_dip.tasks.inpaint import parse_mask
from small_runs import MACHINE

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.io import BoolArray


def make_two_rectangles() -> BoolArray:
    mask = np.zeros((48, 48), bool)
    mask[10:16, 6:40] = mask[30:33, 20:44] = True
    return mask


def make_rim_label() -> np.ndarray:
    """Return two rectangles of 255 within a rim of 1 that is one pixel wide."""
    mask = make_two_rectangles()
    return binary_dilation(mask, np.ones((3, 3))) + 254.0 * mask


def compress(mask: BoolArray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray((mask * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file), np.float32)


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_rings_of_a_compressed_mask_mark_nothing(quality: int) -> None:
    mask = make_two_rectangles()
    compressed = compress(mask, quality)
    assert (compressed > 0).sum() > mask.sum()
    assert np.array_equal(parse_mask(compressed, None, is_inverted=False), mask)
    assert np.array_equal(parse_mask(compressed, None, is_inverted=True), ~mask)


def make_flat_shapes() -> dict[str, BoolArray]:
    """Return masks of which JPEG makes rings that are equal along a border, or none at all."""
    y, x = np.indices((64, 64))
    return {
        "dead columns": np.isin(x, (13, 14, 50)),
        "frame": (np.minimum(x, 63 - x) < 9) | (np.minimum(y, 63 - y) < 9),
        "whole blocks": (x // 8 > 3) & (y // 8 > 4),
        "disc": np.hypot(x - 30, y - 40) < 13,
        "scattered": np.random.default_rng(1).random((64, 64)) < 0.01,
    }


@pytest.mark.parametrize("shape", make_flat_shapes())
def test_no_quality_of_a_compressed_mask_marks_its_background(shape: str) -> None:
    for quality in range(20, 101):
        compressed = compress(make_flat_shapes()[shape], quality)
        marked = parse_mask(compressed, None, is_inverted=False)
        assert np.array_equal(marked, compressed >= compressed.max() / 2), quality


def test_flat_labels_stay_labels_beside_one_of_255() -> None:
    y, x = np.indices((64, 64))
    apart = np.where(x < 20, 1, np.where(x > 40, 255, 0)) * (y > 9)
    touching = np.where(x < 20, 1, 255) * (y > 9)
    nested = np.select([np.hypot(x - 30, y - 30) < radius for radius in (9, 13)], [255, 85])
    numbered = np.random.default_rng(0).permutation(np.arange(1, 201))[y // 5 * 13 + x // 5]
    for labels in (apart, touching, nested, numbered * (y > 4)):
        marked = parse_mask(labels.astype(np.float32), None, is_inverted=False)
        assert np.array_equal(marked, labels > 0)


@pytest.mark.parametrize("highest", [1.0, 255.0])
def test_a_resampled_mask_marks_from_half_of_its_highest_value_on(highest: float) -> None:
    blurred = gaussian_filter(make_two_rectangles() * highest, 1.0)
    blurred = blurred.round() if highest > 1 else blurred
    marked = parse_mask(blurred, None, is_inverted=False)
    assert np.array_equal(marked, blurred >= blurred.max() / 2)


def test_labels_mark_whatever_their_values() -> None:
    mask = make_two_rectangles()
    parts, _ = label_parts(mask)
    cells = (np.indices(mask.shape)[1] // 5 + 1) * mask
    for labels in (mask, 255 * mask, 0.5 * mask, np.choose(parts, [0, 2, 65535]), cells):
        for pixels in (labels, np.where(mask, labels, -3), make_rim_label()):
            marked = parse_mask(pixels.astype(np.float32), None, is_inverted=False)
            assert np.array_equal(marked, pixels > 0)


@pytest.mark.parametrize(
    ("pixels", "ignored"), [(compress(make_two_rectangles(), 90), True), (make_rim_label(), False)]
)
def test_a_note_counts_the_weak_pixels_of_a_mask(pixels: Any, ignored: bool) -> None:
    weak_count = int(((pixels > 0) & ~make_two_rectangles()).sum())
    assert list_notes(pixels) == (make_note("mask-weak", count=weak_count, ignored=ignored),)
    assert not list_notes(pixels, label=255)


def test_labels_that_touch_do_not_count_as_weak() -> None:
    cells = (np.indices((48, 48))[1] // 5 + 1) * make_two_rectangles()
    assert not list_notes(cells)


def list_notes(mask: np.ndarray, **settings: Any) -> tuple[Any, ...]:
    image = np.random.default_rng(0).normal(100, 5, (1, 1, 48, 48))
    overlay = mask.astype(np.float32)[None, None]
    inspection = inspect_stack(Inpaint(**settings), image, mask=overlay)
    assert isinstance(inspection, Inspection)
    return inspection.notes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_mask_with_colours_is_refused_as_such(mode: str, tmp_path: Path) -> None:
    mask = Image.fromarray(make_two_rectangles().astype(np.uint8)).convert(mode)
    if mode == "P":
        mask.putpalette([0, 0, 0, 255, 0, 0])
    mask.save(tmp_path / "mask.png")
    assert refuse_mask(np.eye(48), tmp_path / "mask.png") == "mask-colours"


def test_a_mask_with_a_palette_of_greys_is_a_mask(tmp_path: Path) -> None:
    mask = make_two_rectangles().astype(np.uint8)
    Image.fromarray(255 * mask).convert("P").save(tmp_path / "mask.png")
    image = np.random.default_rng(0).normal(100, 5, (48, 48)).astype(np.float32)
    settings = {"preset": "instant", "max_iterations": 2, "device": "cpu"}
    filled, expected = (
        dip.inpaint(image, source, **settings).image for source in (tmp_path / "mask.png", mask)
    )
    np.testing.assert_array_equal(filled, expected)


def test_a_mask_of_the_shape_of_a_colour_image_is_refused_for_its_colours() -> None:
    image = np.random.default_rng(0).random((48, 48, 3))
    assert refuse_mask(image, np.ones((48, 48, 3), bool), axes="YXS") == "mask-colours"
    assert refuse_mask(image, np.ones((48, 47, 3), bool), axes="YXS") != "mask-colours"


def test_a_masked_array_with_a_mask_is_refused_for_having_two() -> None:
    mask = make_two_rectangles()
    assert refuse_mask(np.ma.masked_array(np.eye(48), mask), mask) == "mask-twice"


def refuse_mask(image: Any, mask: Any, **settings: Any) -> str:
    with pytest.raises(dip.RefusedError) as caught:
        dip.inpaint(image, mask, **settings)
    return caught.value.reason.code


def test_infinite_pixels_are_counted_among_all_of_the_image() -> None:
    image = np.random.default_rng(0).normal(100, 5, (48, 48))
    image[:8] = np.nan
    image[30, 30] = np.inf
    with pytest.raises(dip.RefusedError, match="1 of the 2304 pixels"):
        dip.inpaint(image)


def test_a_mask_whose_0_is_white_is_not_said_to_be_restored(tmp_path: Path) -> None:
    for name in ("image.tif", "mask.tif"):
        pixels = (make_two_rectangles() * 200).astype(np.uint8)
        tifffile.imwrite(tmp_path / name, pixels, photometric="miniswhite")
    headers = [read_header(tmp_path / name) for name in ("image.tif", "mask.tif")]
    plan = preflight(make_recipe("inpaint"), headers[0], MACHINE, {"mask": headers[1]})
    assert not isinstance(plan, Refusal)
    notes = [note for note in plan.notes if note.code == "white-zero"]
    assert [note.facts["restored"] for note in notes] == [True, False]


def test_an_infinite_pixel_is_named_where_nothing_is_missing() -> None:
    image = np.random.default_rng(0).normal(100, 5, (1, 1, 16, 16))
    image[..., 5, 5] = np.inf
    refusal = inspect_stack(Inpaint(), image)
    assert not isinstance(refusal, Inspection) and refusal.code == "pixels-infinite"
