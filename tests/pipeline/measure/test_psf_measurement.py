"""A PSF that is measured from beads has the widths of the true one, or is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from scipy import ndimage

import napari_dip as dip
from napari_dip.cli.app import main
from napari_dip.errors import RefusedError
from napari_dip.pipeline.measure.beads import BeadFault, measure_fwhm
from napari_dip.public_types import OpticsKeywords
from napari_dip.tasks.psf.psf_settings import OpticsSettings

if TYPE_CHECKING:
    from pathlib import Path

#: Distance of the beads' cells in pixels along Y and X.
CELL = 32


def make_field(psf: np.ndarray, peak: float, rows: int = 4, seed: int = 0) -> np.ndarray:
    """Put beads at random parts of a pixel, one to a cell; photon noise and read noise of 3."""
    rng = np.random.default_rng(seed)
    depth = (psf.shape[0] + 6,) if psf.ndim == 3 else ()
    image = np.zeros((*depth, (rows + 2) * CELL, (rows + 2) * CELL))
    reach = [count // 2 for count in psf.shape]
    for row, column in np.ndindex(rows, rows):
        middle = [*(count // 2 for count in depth), (row + 1.5) * CELL, (column + 1.5) * CELL]
        fractions = rng.uniform(-0.5, 0.5, psf.ndim)
        moved = ndimage.fourier_shift(np.fft.fftn(psf / psf.max()), fractions)
        place = tuple(slice(int(m) - r, int(m) + r + 1) for m, r in zip(middle, reach, strict=True))
        image[place] += peak * rng.uniform(0.7, 1.4) * np.fft.ifftn(moved).real.clip(min=0)
    noisy = rng.poisson(image) + rng.normal(0, 3, image.shape) + 100
    return np.asarray(noisy, np.float32)


def make_gaussian(sigmas: tuple[float, ...], reach: float = 5) -> np.ndarray:
    grids = np.ogrid[tuple(slice(-int(reach * s), int(reach * s) + 1) for s in sigmas)]
    return np.exp(-sum((grid / s) ** 2 for grid, s in zip(grids, sigmas, strict=True)) / 2)


def compute_skewness(psf: np.ndarray) -> float:
    """Skewness of the light along X."""
    light = psf.sum(0) / psf.sum()
    offsets = np.arange(len(light)) - light @ np.arange(len(light))
    return float(light @ offsets**3 / (light @ offsets**2) ** 1.5)


def test_the_width_of_a_gaussian_is_known_before() -> None:
    np.testing.assert_allclose(measure_fwhm(make_gaussian((1.4, 2.0))), [3.297, 4.710], rtol=1e-3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("sigmas", [(1.3, 1.8), (1.5, 1.3, 1.3)])
def test_widths_are_right_within_3_percent_and_within_their_errors(
    sigmas: tuple[float, ...],
) -> None:
    true = measure_fwhm(make_gaussian(sigmas))
    report = dip.measure_psf(make_field(make_gaussian(sigmas), peak=400))
    assert len(report.positions) == 16
    np.testing.assert_allclose(report.fwhm, true, rtol=0.03)
    assert np.all(np.abs(np.subtract(report.fwhm, true)) < 4 * np.array(report.fwhm_error))
    assert report.psf.sum() == pytest.approx(1)
    assert all(count % 2 for count in report.psf.shape)
    assert report.psf.argmax() == report.psf.size // 2


@pytest.mark.long
def test_the_error_grows_with_the_noise() -> None:
    psf = make_gaussian((1.5, 1.5))
    errors = [max(dip.measure_psf(make_field(psf, peak)).fwhm_error) for peak in (2000, 60)]
    assert errors[1] > 2 * errors[0]


@pytest.mark.long
def test_the_shape_of_a_lopsided_psf_is_kept() -> None:
    psf = make_gaussian((1.5, 1.5), 7)
    psf += 0.5 * np.roll(psf, 3, axis=1)
    report = dip.measure_psf(make_field(psf, peak=2000))
    assert compute_skewness(psf) > 0.2
    assert compute_skewness(report.psf) == pytest.approx(compute_skewness(psf), abs=0.06)


@pytest.mark.long
def test_beads_that_touch_are_saturated_or_at_the_border_are_left_out() -> None:
    psf = make_gaussian((1.5, 1.5))
    image = make_field(psf, peak=400)
    image[50:, 60:] += np.pad(500 * psf, ((0, 127), (0, 117)))[: 192 - 50, : 192 - 60]
    image[:8, 90:105] += 500 * psf[7:, :]
    image[137:152, 137:152] += 2000 * psf
    report = dip.measure_psf(np.minimum(image, 1500))
    assert report.rejected[BeadFault.BORDER] == 1
    assert report.rejected[BeadFault.CROWDED] >= 2
    assert report.rejected[BeadFault.SATURATED] == 1
    assert any("too near to the border" in sentence for sentence in report.sentences)
    np.testing.assert_allclose(report.fwhm, measure_fwhm(psf), rtol=0.05)


def test_hot_pixels_are_no_beads() -> None:
    image = np.random.default_rng(0).normal(100, 3, (128, 128)).astype(np.float32)
    image[20::30, 25::30] = 4000
    with pytest.raises(RefusedError) as caught:
        dip.measure_psf(image)
    assert caught.value.reason.code == "beads-none"


@pytest.mark.long
def test_the_size_of_the_beads_is_taken_out() -> None:
    psf = make_gaussian((1.5, 1.5), 6)
    grid = np.linspace(-4, 4, 81)
    thickness = np.sqrt(np.maximum(1 - (grid[:, None] ** 2 + grid**2) / 2.0**2, 0))
    ball = thickness[:-1, :-1].reshape(8, 10, 8, 10).mean((1, 3))
    blurred = ndimage.shift(ndimage.convolve(psf, ball / ball.sum()), 0.5, order=3)
    image = make_field(blurred.clip(min=0), peak=4000)
    beads = dip.measure_psf(image, pixel_size=100)
    corrected = dip.measure_psf(image, pixel_size=100, bead_diameter=400)
    true = measure_fwhm(psf)
    assert beads.fwhm[0] > 1.1 * true[0]
    np.testing.assert_allclose(corrected.fwhm, true, rtol=0.04)


@pytest.mark.long
def test_a_microscope_to_compare_with_is_computed_on_the_same_pixels() -> None:
    optics = {"microscope": "widefield", "na": 0.8, "wavelength": 520, "pixel_size": 100}
    image = make_field(make_gaussian((1.4, 1.4)), peak=400)
    report = dip.measure_psf(image, **optics)
    assert report.computed_fwhm[1] == pytest.approx(0.51 * 520 / 0.8 / 100, rel=0.05)
    sharp = dip.measure_psf(image, **{**optics, "na": 1.4})
    assert any("aberrations, which" in sentence for sentence in sharp.sentences)
    assert not any("aberrations, which" in sentence for sentence in report.sentences)


@pytest.mark.parametrize(
    ("image", "settings", "code"),
    [
        (np.zeros((3, 64, 64), np.float32), {"axes": "CYX"}, "beads-axes"),
        (np.random.default_rng(0).normal(size=(64, 64)), {}, "beads-none"),
        (np.full((64, 64), np.nan), {}, "input-not-finite"),
        (make_field(make_gaussian((1.5, 1.5)), 400), {"bead_diameter": 100}, "beads-scale"),
        (make_field(make_gaussian((1.5, 1.5)), 400), {"bead_diameter": -1}, "beads-diameter"),
        (make_field(make_gaussian((1.5, 1.5)), 400), {"na": 1.4}, "optics-missing"),
        (make_field(make_gaussian((1.5, 1.5)), 400, 1)[40:56, 40:56], {}, "beads-unusable"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    image: np.ndarray, settings: dict[str, object], code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        dip.measure_psf(image, **settings)
    assert caught.value.reason.code == code


@pytest.mark.long
def test_the_command_writes_a_psf_that_deblur_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beads, psf = tmp_path / "beads.tif", tmp_path / "psf.tif"
    tifffile.imwrite(beads, make_field(make_gaussian((1.4, 1.4)), peak=400))
    command = ["psf", str(beads), "-o", str(psf), "--pixel-size", "65"]
    report = tmp_path / "psf.json"
    assert main([*command, "--report", str(report)]) == 0
    assert "16 of 16 beads" in capsys.readouterr().err
    assert report.is_file()
    assert (tmp_path / "psf.png").read_bytes().startswith(b"\x89PNG")
    with tifffile.TiffFile(psf) as file:
        assert file.pages[0].tags["XResolution"].value[0] > 1
    assert main(command) == 2  # nothing is replaced unasked
    assert main([*command, "--overwrite", "--quiet"]) == 0
    image = str(tmp_path / "in.tif")
    tifffile.imwrite(image, make_field(make_gaussian((1.4, 1.4)), 400, 1))
    deblur = ["deblur", image, "--psf", str(psf), "-o", str(tmp_path / "out.tif"), "--quiet"]
    assert main([*deblur, "--max-iterations", "2"]) == 0


def make_widening_field(count: int = 9, side: int = 384, seed: int = 0) -> np.ndarray:
    """Put beads on a grid of cells, wider from the left (1.2 pixels) to the right (2.4)."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side, side))
    pitch = side / count
    for row, column in np.ndindex(count, count):
        middle = (np.array([row, column]) + 0.5) * pitch + rng.uniform(-3, 3, 2)
        pixel = np.round(middle).astype(int)
        width = 1.2 + 1.2 * (middle[1] + 0.5) / side
        y, x = np.mgrid[-14:15, -14:15]
        squares = (y - (middle - pixel)[0]) ** 2 + (x - (middle - pixel)[1]) ** 2
        spot = np.exp(-squares / (2 * width**2)) / width**2
        place = tuple(slice(at - 14, at + 15) for at in pixel)
        image[place] += 1500 * rng.uniform(0.7, 1.4) * spot
    noisy = rng.poisson(image) + rng.normal(0, 3, image.shape) + 100
    return np.asarray(noisy, np.float32)


@pytest.mark.long
def test_the_width_over_the_field_is_right_within_6_percent() -> None:
    report = dip.measure_psf(make_widening_field(), field=True)
    assert report.field is not None
    assert report.field.degree > 0
    columns = (np.arange(7) + 0.5) / 7
    expected = 2.3548 * (1.2 + 1.2 * columns)
    np.testing.assert_allclose(report.field.lateral_widths, np.tile(expected, (7, 1)), rtol=0.06)
    np.testing.assert_allclose(report.field.psfs.sum((2, 3)), 1, rtol=1e-5)
    assert any("Over the field the width" in sentence for sentence in report.sentences)


@pytest.mark.long
def test_a_psf_that_does_not_change_is_said_to_be_enough() -> None:
    report = dip.measure_psf(make_field(make_gaussian((1.5, 1.5)), 1000, rows=6), field=True)
    assert report.field is not None
    assert report.field.degree == 0
    assert any("single PSF is enough" in sentence for sentence in report.sentences)


@pytest.mark.long
def test_beads_in_a_part_of_the_field_alone_are_refused() -> None:
    image = make_widening_field()
    image[:, 200:] = 100 + np.random.default_rng(1).normal(0, 3, image[:, 200:].shape)
    with pytest.raises(RefusedError) as caught:
        dip.measure_psf(image, field=True)
    assert caught.value.reason.code == "beads-field"


@pytest.mark.long
def test_the_command_writes_psfs_of_the_field_that_deblur_takes_for_this_field_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beads, cells, psf = (tmp_path / f"{name}.tif" for name in ("beads", "cells", "psf"))
    tifffile.imwrite(beads, make_widening_field())
    assert main(["psf", str(beads), "--field", "-o", str(psf)]) == 0
    assert tifffile.imread(psf).shape[:2] == (7, 7)
    image = np.random.default_rng(0).poisson(50, (384, 384)).astype(np.float32)
    tifffile.imwrite(cells, image)
    assert main(["plan", "deblur", str(cells), "--psf", str(psf)]) == 0
    assert "7 × 7 PSFs" in capsys.readouterr().out
    tifffile.imwrite(cells, image[:192])
    assert main(["plan", "deblur", str(cells), "--psf", str(psf)]) == 2
    assert "field of 384 × 384 pixels" in capsys.readouterr().err


def test_the_typed_settings_of_the_microscope_are_those_that_are_taken() -> None:
    assert set(OpticsKeywords.__annotations__) == {field.name for field in fields(OpticsSettings)}
