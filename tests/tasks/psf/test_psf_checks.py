"""A PSF is checked before a run: wrong ones are refused, mended or named, right ones pass."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.engine.deconvolution.psf import (
    compute_microscope_psf,
    sample_gaussian_psf,
)
from napari_dip.errors import Refusal, RefusedError
from napari_dip.io import ImageHeader
from napari_dip.io.writing import write_image
from napari_dip.tasks import Deblur
from napari_dip.tasks.base import InspectedPixels, Inspection, TaskPlan
from napari_dip.tasks.psf.psf_checks import CheckedPsf, inspect_psf_image

GAUSSIAN = sample_gaussian_psf((2.0, 2.0), (31, 31)).numpy()
GAUSSIAN = GAUSSIAN / GAUSSIAN.max()
DEEP = sample_gaussian_psf((3.5, 1.6, 1.6), (31, 21, 21)).numpy()
AIRY = compute_microscope_psf("widefield", 1.4, 520.0, (65.0, 65.0), 1.518, (41, 41)).numpy()


def compute_spherical_aberration(waves: float) -> np.ndarray:
    frequencies = np.fft.fftfreq(256, 65.0) * 520.0 / 1.4
    radii = np.hypot(frequencies[:, None], frequencies)
    phase = waves * np.sqrt(5) * (6 * radii**4 - 6 * radii**2 + 1)
    field = np.fft.fftshift(np.fft.ifft2((radii <= 1) * np.exp(2j * np.pi * phase)))
    return np.abs(field[108:149, 108:149]) ** 2


#: Width of that PSF in pixels, as *Deblur* expects it.
AIRY_FWHM = dict.fromkeys("YX", 3.01)
DISTANCES = np.hypot(*np.mgrid[-20:21, -20:21])
MOFFAT = (1 + (DISTANCES / 3) ** 2) ** -2.5
#: A spot in rings that spherical aberration makes, computed from the pupil of an objective.
RINGS = compute_spherical_aberration(0.4)
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 0.02, GAUSSIAN.shape)


def inspect(psf: np.ndarray, **computed_fwhm: float) -> CheckedPsf:
    checked = inspect_psf_image(psf, computed_fwhm)
    assert isinstance(checked, CheckedPsf)
    return checked


def list_codes(psf: np.ndarray, **computed_fwhm: float) -> list[str]:
    checked = inspect_psf_image(psf, computed_fwhm)
    if isinstance(checked, Refusal):
        return [checked.code]
    return [note.code for note in checked.notes]


def put_point(value: float = 1.0) -> np.ndarray:
    point = np.zeros((9, 9))
    point[4, 4] = value
    return point


def draw_disc(radius: float, side: int) -> np.ndarray:
    fine = (np.arange(side * 9) + 0.5) / 9 - side / 2
    return (np.hypot(fine[:, None], fine) <= radius).reshape(side, 9, side, 9).mean((1, 3))


def draw_path() -> np.ndarray:
    """Draw the path of a shaken camera that paused twice."""
    steps = np.linspace(0, 1, 400)
    path = np.zeros((19, 19))
    np.add.at(path, (np.int_(3 + 12 * steps), np.int_(9 + 5 * np.sin(5 * steps))), 1.0)
    path[3, 9] = path[15, 4] = 2 * path.max()
    return ndimage.gaussian_filter(path, 0.5)


RIGHT = {
    "Gaussian": GAUSSIAN,
    "narrow Gaussian": sample_gaussian_psf((0.5, 0.5)).numpy(),
    "binomial": np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]),
    "seven pixels of SD 1.6": sample_gaussian_psf((1.6, 1.6), (7, 7)).numpy(),
    "Airy": AIRY,
    "8 bit": np.round(255 * GAUSSIAN),
    "disc": draw_disc(5, 11),
    "disc in a frame": draw_disc(5, 31),
    "line": np.pad(np.ones((1, 11)), 3),
    "path": draw_path(),
    "stack": DEEP,
    "widefield stack": compute_microscope_psf(
        "widefield", 1.2, 520.0, (200.0, 80.0, 80.0), 1.333, (21, 41, 41)
    ).numpy(),
}
WRONG = {
    "psf-zero": 0 * GAUSSIAN,
    "psf-negative": GAUSSIAN - 0.1,
    "psf-point": put_point(),
    "psf-constant": np.ones((40, 50)),
    "psf-uniform": np.ones((9, 9)),
    "psf-inverted": 1 - 0.9 * GAUSSIAN,
    "psf-noise": 100 + RNG.normal(0, 10, (64, 64)),
    "psf-corner": np.fft.ifftshift(AIRY),
    "psf-clipped": GAUSSIAN.clip(max=0.6),
    "psf-hot-pixel": GAUSSIAN + 3 * np.pad(put_point(), ((0, 22), (0, 22))),
    "psf-beads": np.pad(GAUSSIAN, 8) + 0.6 * np.roll(np.pad(GAUSSIAN, 8), (12, 7), (0, 1)),
    "psf-cut": GAUSSIAN[13:18, 13:18],
    "psf-cut-depth": DEEP[13:18],
    "psf-transposed": DEEP.transpose(1, 2, 0),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_psf_passes_without_a_note_and_without_a_change(name: str) -> None:
    checked = inspect(RIGHT[name])
    assert checked.notes == ()
    np.testing.assert_array_equal(checked.image, RIGHT[name])


@pytest.mark.parametrize("code", WRONG)
def test_a_wrong_psf_is_refused_or_named(code: str) -> None:
    assert list_codes(WRONG[code]) == [code]


def test_negative_values_are_refused_but_for_rounding_errors() -> None:
    psf = GAUSSIAN.copy()
    psf[0, 0] = -1e-4
    assert list_codes(psf) == ["psf-negative"]
    psf[0, 0] = -1e-8
    assert list_codes(psf) == []


@pytest.mark.parametrize("background", [0.003 + 0 * NOISE, 0.1 + NOISE, NOISE, NOISE.clip(min=0)])
def test_background_and_noise_are_taken_out_and_that_is_said(background: np.ndarray) -> None:
    checked = inspect(GAUSSIAN + background)
    assert [note.code for note in checked.notes] == ["psf-background"]
    assert not checked.image[[0, -1]].any()
    before, after = (
        np.abs(psf / psf.sum() - GAUSSIAN / GAUSSIAN.sum()).sum()
        for psf in (GAUSSIAN + background, checked.image)
    )
    assert after < 0.5 * before


@pytest.mark.parametrize(("sigma", "side"), [(1.5, 11), (1.5, 15), (2.0, 15), (3.0, 25)])
@pytest.mark.parametrize("level", [0.02, 0.1])
def test_a_background_close_to_the_light_is_taken_out(
    sigma: float, side: int, level: float
) -> None:
    gaussian = sample_gaussian_psf((sigma, sigma), (side, side)).numpy()
    checked = inspect(gaussian + level * gaussian.max())
    assert [note.code for note in checked.notes] == ["psf-background"]
    error = np.abs(checked.image / checked.image.sum() - gaussian / gaussian.sum()).sum()
    assert error < 0.02


@pytest.mark.parametrize("side", [11, 13, 15, 17, 21, 25, 31])
@pytest.mark.parametrize("psf", [AIRY, MOFFAT, RINGS])
def test_light_that_reaches_the_rim_stays(psf: np.ndarray, side: int) -> None:
    margin = (len(psf) - side) // 2
    cropped = psf[margin:-margin, margin:-margin]
    checked = inspect(cropped)
    assert "psf-background" not in [note.code for note in checked.notes]
    np.testing.assert_array_equal(checked.image, cropped)


def test_a_noisy_psf_is_named() -> None:
    noisy = (GAUSSIAN + 0.5 + 8 * NOISE).clip(min=0)
    assert list_codes(noisy) == ["psf-background", "psf-noisy"]


def test_a_psf_stored_for_fourier_transforms_is_moved_to_the_middle() -> None:
    checked = inspect(np.fft.ifftshift(AIRY))
    np.testing.assert_array_equal(checked.image, AIRY)


@pytest.mark.parametrize(
    ("factor", "codes"), [(1.0, []), (0.5, ["psf-narrow"]), (1.5, ["psf-wide"])]
)
def test_the_width_is_compared_with_that_of_the_optics(factor: float, codes: list[str]) -> None:
    computed_fwhm = {axis: width / factor for axis, width in AIRY_FWHM.items()}
    assert list_codes(AIRY, **computed_fwhm) == codes


def test_one_sentence_names_both_axes_that_are_too_wide() -> None:
    computed_fwhm = {axis: width / 1.5 for axis, width in AIRY_FWHM.items()}
    (note,) = inspect(AIRY, **computed_fwhm).notes
    assert "pixels wide along Y and X, and" in str(note)


def test_a_field_of_beads_on_a_background_points_to_the_measurement() -> None:
    field = np.full((96, 96), 0.05)
    for (row, column), height in zip(((40, 30), (12, 70), (70, 66)), (1, 0.5, 0.4), strict=True):
        field[row : row + GAUSSIAN.shape[0], column : column + GAUSSIAN.shape[1]] += (
            height * GAUSSIAN / GAUSSIAN.max()
        )[: 96 - row, : 96 - column]
    (note,) = inspect(field).notes
    assert "Other bright spots were left out; 'PSF from beads'" in str(note)
    (note,) = inspect(GAUSSIAN + 0.1 + NOISE).notes
    assert "Other bright spots" not in str(note)


def make_header(pixel: float, side: int = 64, axes: str = "YX") -> ImageHeader:
    shape = (12, side, side)[-len(axes) :]
    scale, units = (pixel,) * len(axes), ("nanometer",) * len(axes)
    return ImageHeader(
        name="cells", shape=shape, dtype="float32", axes=axes, scale=scale, units=units
    )


def list_plan_codes(task: Deblur, header: ImageHeader, psf_header: ImageHeader | None) -> list[str]:
    extra_headers = {} if psf_header is None else {"psf": psf_header}
    plan = task.plan(header, extra_headers, "YX")
    assert isinstance(plan, TaskPlan)
    return [note.code for note in plan.notes]


def test_the_plan_names_another_pixel_size_a_missing_axis_and_too_wide_pixels() -> None:
    optics = {"na": 1.4, "wavelength": 520.0}
    psf = make_header(65.0, 21)
    assert list_plan_codes(Deblur(), make_header(65.5), psf) == []
    assert list_plan_codes(Deblur(), make_header(100.0), psf) == ["psf-pixel-size"] * 2
    assert list_plan_codes(Deblur(), make_header(65.0), make_header(352778.0)) == []  # 72 dpi
    assert list_plan_codes(Deblur(), make_header(65.0, axes="ZYX"), psf) == ["psf-plane"]
    assert list_plan_codes(Deblur(**optics), make_header(65.0), psf) == []
    assert "psf-nyquist" in list_plan_codes(Deblur(**optics), make_header(160.0), psf)
    assert (
        list_plan_codes(Deblur(**optics, factor="2"), make_header(160.0), psf)
        == ["psf-pixel-size"] * 2
    )
    widefield = Deblur(**optics, microscope="widefield")
    assert list_plan_codes(widefield, make_header(160.0), None) == ["psf-nyquist"]


@pytest.mark.parametrize(
    ("pixel", "side", "is_cropped"), [(50.0, 101, False), (100.0, 101, True), (200.0, 41, True)]
)
def test_a_psf_is_cropped_if_it_covers_more_pixels_of_the_image_than_there_are(
    pixel: float, side: int, is_cropped: bool
) -> None:
    codes = list_plan_codes(Deblur(), make_header(100.0), make_header(pixel, side))
    assert ("psf-cropped" in codes) == is_cropped


def compute_airy(pixel: float, side: int) -> np.ndarray:
    psf = compute_microscope_psf("widefield", 0.9, 600.0, (pixel, pixel), 1.0, (side, side))
    return psf.numpy()


@pytest.mark.parametrize(("pixel", "side"), [(50.0, 61), (33.0, 93), (150.0, 21)])
def test_a_psf_of_another_pixel_size_is_resampled_to_that_of_the_image(
    pixel: float, side: int
) -> None:
    headers = {"image": make_header(100.0), "psf": make_header(pixel, side)}
    image, task = np.zeros((1, 64, 64), np.float32), Deblur(na=0.9, wavelength=600.0)
    pixels = InspectedPixels(
        header=headers["image"],
        image=image[0],
        stack=image[None],
        extra_inputs={"psf": compute_airy(pixel, side)},
        extra_headers={"psf": headers["psf"]},
    )
    plan = task.plan(headers["image"], {"psf": headers["psf"]}, "YX")
    assert isinstance(plan, TaskPlan)
    inspection = task.inspect(pixels, plan)
    assert isinstance(inspection, Inspection)
    assert not {"psf-wide", "psf-narrow"} & {note.code for note in inspection.notes}
    kernel = inspection.convert_inputs(image, {}, headers)[0]["psf"]
    expected, margin = compute_airy(100.0, 31), (31 - kernel.shape[0]) // 2
    assert margin >= 0
    difference = np.pad(kernel, margin) - expected / expected.sum()
    assert np.abs(difference).max() < 0.02 * kernel.max()


def test_an_impossible_aperture_is_refused_beside_a_psf_image() -> None:
    plan = Deblur(na=1.6, wavelength=520.0).plan(
        make_header(65.0), {"psf": make_header(65.0)}, "YX"
    )
    assert isinstance(plan, Refusal)
    assert plan.code == "optics-impossible"


def make_blurred() -> np.ndarray:
    scene = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(40, 44)), 2.0)
    return (100 + 300 * scene + np.random.default_rng(2).normal(0, 2, scene.shape)).astype(
        np.float32
    )


def test_the_image_itself_is_refused_as_a_psf() -> None:
    image = make_blurred()
    with pytest.raises(RefusedError) as caught:
        dip.deblur(image, image, preset="fast")
    assert caught.value.reason.code == "psf-same"


@pytest.mark.all_cores
def test_notes_on_the_psf_are_in_the_report_and_a_mended_one_gives_the_pixels_of_a_right_one() -> (
    None
):
    settings = {"preset": "fast", "device": "cpu", "max_iterations": 2}
    image, psf = make_blurred(), np.pad(sample_gaussian_psf((1.0, 1.0)).numpy(), 6)
    right = dip.deblur(image, psf, **settings)
    mended = dip.deblur(image, psf + 0.01 * psf.max(), **settings)
    assert [code["code"] for code in mended.report["note_codes"]].count("psf-background") == 1
    assert "psf-background" not in str(right.report["note_codes"])
    np.testing.assert_allclose(mended.image, right.image, rtol=0.02, atol=2)


def test_the_command_prints_the_warning_before_the_run(tmp_path, capsys) -> None:
    image, psf, output = (tmp_path / name for name in ("in.tif", "psf.tif", "out.tif"))
    write_image(image, make_blurred(), axes="YX")
    write_image(psf, WRONG["psf-clipped"][8:-8, 8:-8].astype(np.float32), axes="YX")
    argv = ["deblur", str(image), "--psf", str(psf), "-o", str(output), "--preset", "fast"]
    assert main([*argv, "--max-iterations", "2"]) == 0
    printed = capsys.readouterr().err
    assert printed.count("The PSF seems saturated") == 1
    assert printed.index("The PSF seems saturated") < printed.index("Starting the engine")


def test_the_command_plan_names_a_doubtful_psf_and_refuses_a_wrong_one(tmp_path, capsys) -> None:
    image, psf = tmp_path / "in.tif", tmp_path / "psf.tif"
    write_image(image, make_blurred(), axes="YX")
    argv = ["plan", "deblur", str(image), "--psf", str(psf)]
    write_image(psf, WRONG["psf-clipped"][8:-8, 8:-8].astype(np.float32), axes="YX")
    assert main(argv) == 0
    assert "The PSF seems saturated" in capsys.readouterr().out
    write_image(psf, np.zeros((9, 9), np.float32), axes="YX", overwrite=True)
    assert main(argv) == 2
    assert "All values of the PSF are 0" in capsys.readouterr().err
