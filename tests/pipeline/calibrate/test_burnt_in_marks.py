"""A scale bar or a text of one extreme value neither enters a fit nor changes in the result."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage.data import camera

import napari_dip as dip
from napari_dip.pipeline.calibrate.inputs import fill_empty_areas, find_kept_pixels

SIDE = 128
RNG = np.random.default_rng(0)
CLEAN = camera()[100 : 100 + SIDE, 180 : 180 + SIDE].astype(np.float64) / 2 + 10
NOISY = RNG.poisson(CLEAN).astype(np.uint16)
IS_BAR = np.zeros(NOISY.shape, bool)
IS_BAR[110:116, 70:120] = True
NOWHERE = np.zeros_like(IS_BAR)


def burn_in(value: int, mark: np.ndarray = IS_BAR) -> np.ndarray:
    return np.where(mark, value, NOISY).astype(np.uint16)


def write_text() -> np.ndarray:
    image = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(image).text((20, 20), "20 um", fill=1, font_size=14)
    return np.asarray(image)


def find(plane: np.ndarray) -> np.ndarray:
    stack = plane.astype(np.float32)[None, None]
    return find_kept_pixels(stack, stack)[0, 0]


@pytest.mark.parametrize("value", [65535, 4095, 255])
def test_a_burnt_in_scale_bar_is_found_to_the_pixel(value):
    np.testing.assert_array_equal(find(burn_in(value)), IS_BAR)


def test_a_burnt_in_text_is_found_also_where_it_is_black():
    text = write_text()
    np.testing.assert_array_equal(find(burn_in(255, text)), text)
    np.testing.assert_array_equal(find(np.where(text, 0, NOISY + 100)), text)


def test_bars_of_both_extremes_are_found():
    both = np.where(np.roll(IS_BAR, -60, axis=0), 0, burn_in(65535) + np.uint16(100) * ~IS_BAR)
    np.testing.assert_array_equal(find(both), IS_BAR | np.roll(IS_BAR, -60, axis=0))


def test_a_mark_in_one_channel_is_filled_there_alone():
    channels = np.stack([burn_in(65535), NOISY, NOISY])[None].astype(np.float32)
    filled, count = fill_empty_areas(channels)
    assert count == IS_BAR.sum()
    assert filled[0, 0].max() <= NOISY.max()
    np.testing.assert_array_equal(filled[0, 1:], channels[0, 1:])
    kept = find_kept_pixels(channels, filled)
    np.testing.assert_array_equal(kept[0], [IS_BAR, NOWHERE, NOWHERE])


def test_a_mark_beside_padding_is_filled_with_measured_pixels():
    padded = burn_in(65535).astype(np.float32)
    padded[117:] = 0
    filled, _ = fill_empty_areas(padded[None, None])
    assert 0 < filled.min()
    assert filled.max() <= NOISY.max()


def make_saturated_spot(width: float) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    spot = 30 * np.exp(-((y - 30.2) ** 2 + (x - 31) ** 2) / 2 / width**2)
    return np.minimum(spot + RNG.normal(0.05, 0.005, spot.shape), 1)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.minimum(NOISY, np.quantile(NOISY, 0.95)), id="saturated"),
        pytest.param(make_saturated_spot(1.0), id="sharp saturated spot"),
        pytest.param(make_saturated_spot(3.0), id="saturated spot"),
        pytest.param(burn_in(65535, RNG.random(NOISY.shape) < 0.05), id="salt"),
        pytest.param(burn_in(0, RNG.random(NOISY.shape) < 0.05), id="pepper"),
        pytest.param(RNG.poisson(CLEAN / 200), id="photons"),
        pytest.param(np.digitize(CLEAN, (40, 110)), id="labels"),
        pytest.param(np.where(np.arange(SIDE) < 20, 65535, NOISY), id="wide"),
        pytest.param(burn_in(250, np.pad([[True] * 3] * 3, (0, SIDE - 3))), id="hot pixels"),
        pytest.param(np.where(IS_BAR, NOISY.max() + 5, NOISY), id="no gap"),
    ],
)
def test_other_pixels_of_one_extreme_value_are_no_marks(image):
    assert not find(image).any()


@pytest.mark.parametrize("tile", [None, 128])
def test_a_burnt_in_scale_bar_stays_and_does_not_spoil_the_rest(tile):
    plain = np.tile(NOISY, (1, 2))
    is_bar = np.pad(IS_BAR, ((0, 0), (40, SIDE - 40)))  # in two tiles
    image = np.where(is_bar, 65535, plain).astype(np.uint16)
    settings = {"preset": "instant", "max_iterations": 10, "tile": tile}
    results = [dip.denoise(pixels, **settings) for pixels in (image, plain)]
    np.testing.assert_array_equal(results[0].image[is_bar], 65535)
    np.testing.assert_array_equal(results[0].residual[is_bar], 0)
    is_far = gaussian_filter(is_bar.astype(float), 6) < 1e-3
    clean = np.tile(CLEAN, (1, 2))
    errors = [np.sqrt(np.mean((each.image - clean)[is_far] ** 2)) for each in results]
    assert errors[0] < 1.05 * errors[1]
    notes = " ".join(results[0].report["notes"])
    assert "such as padding or a scale bar" in notes
    assert "saturated" not in notes
    assert results[0].report["verdict"]["kind"] == "fine"


def test_a_burnt_in_scale_bar_does_not_change_the_noise():
    plain, marked = (dip.measure_noise(image) for image in (NOISY, burn_in(65535)))
    stds = [report.channels[0].darkest_std for report in (plain, marked)]
    assert stds[1] == pytest.approx(stds[0], rel=0.1)
    assert marked.upper_clipping.fraction == 0


def test_a_mark_that_a_task_cannot_put_back_is_told():
    result = dip.super_resolve(burn_in(65535), factor=2, preset="instant", max_iterations=5)
    notes = " ".join(result.report["notes"])
    assert "A mark of one grey value (65535)" in notes
    assert "saturated" not in notes
    assert result.report["verdict"]["kind"] == "look-closer"
    plain = dip.super_resolve(NOISY, factor=2, preset="instant", max_iterations=5)
    assert "mark" not in " ".join(plain.report["notes"])
