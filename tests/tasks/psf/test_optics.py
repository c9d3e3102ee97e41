"""The size of a PSF follows from the optics, without computing it."""

from __future__ import annotations

import pytest

import napari_dip as dip
from napari_dip.engine.deconvolution.psf import compute_microscope_psf
from napari_dip.io import ImageHeader
from napari_dip.tasks.psf.psf_settings import OpticsSettings

PLANE = ImageHeader(name="cells", shape=(512, 512), dtype="uint16", axes="YX")
STACK = ImageHeader(name="cells", shape=(64, 512, 512), dtype="uint16", axes="ZYX")


def make_oil_optics(**changes: object) -> OpticsSettings:
    figures = {"microscope": "widefield", "na": 1.4, "wavelength": 520.0, "pixel_size": 65.0}
    figures |= {"z_step": 200.0, "refractive_index": 1.518, "excitation": None, "pinhole": 1.0}
    return OpticsSettings(**{**figures, **changes})


def test_sizes_in_focus_hold_the_fourth_airy_radius() -> None:
    height, width = make_oil_optics(
        na=0.8, wavelength=500.0, refractive_index=1.0
    ).compute_psf_sizes(PLANE, "YX")
    assert height == width
    assert width % 2 == 1
    assert (width // 2) * 65 == pytest.approx(4 * 0.61 * 500 / 0.8, abs=65)


def test_sizes_along_z_hold_the_second_dark_point() -> None:
    sizes = make_oil_optics(na=0.8, wavelength=500.0, refractive_index=1.0, z_step=100.0)
    depth = sizes.compute_psf_sizes(STACK, "ZYX")[0]
    axis = compute_microscope_psf(
        "widefield", 0.8, 500.0, (50.0, 5.0, 5.0), 1.0, (2 * depth - 1, 1, 1)
    )
    half = axis[depth - 1 :, 0, 0]  # dark after 1 and 2 wavelengths over 1 - cos(alpha) = 0.4
    assert int(half[:30].argmin()) * 50 == pytest.approx(500 / 0.4, abs=50)
    assert int(half[35:].argmin() + 35) * 50 == pytest.approx(2 * 500 / 0.4, abs=100)
    assert depth // 2 == 25


def test_a_widefield_psf_holds_the_cone_of_light_in_its_outermost_plane() -> None:
    depth, height, width = make_oil_optics().compute_psf_sizes(STACK, "ZYX")
    cone = (depth // 2) * 200 * 1.4 / (1.518**2 - 1.4**2) ** 0.5
    assert (width // 2) * 65 == pytest.approx(cone, abs=65)
    assert make_oil_optics(microscope="confocal").compute_psf_sizes(STACK, "ZYX")[1] < height


def test_a_computed_psf_is_no_deeper_than_its_stack() -> None:
    thin = ImageHeader(name="cells", shape=(5, 512, 512), dtype="uint16", axes="ZYX")
    assert make_oil_optics().compute_psf_sizes(thin, "ZYX")[0] == 5
    four = ImageHeader(name="cells", shape=(4, 512, 512), dtype="uint16", axes="ZYX")
    assert make_oil_optics().compute_psf_sizes(four, "ZYX")[0] == 5  # the pixel that makes it odd


def test_the_distance_of_planes_is_the_users_or_the_files() -> None:
    units = ("micrometer",) * 3
    said = ImageHeader(
        name="cells",
        shape=(9, 64, 64),
        dtype="uint16",
        axes="ZYX",
        scale=(0.3, 0.1, 0.1),
        units=units,
    )
    assert make_oil_optics(z_step=None, pixel_size=None).get_pixel_sizes(
        said, "ZYX"
    ) == pytest.approx((300, 100, 100))
    assert make_oil_optics().get_pixel_sizes(said, "ZYX") == (200, 65, 65)
    assert make_oil_optics(z_step=None).get_pixel_sizes(STACK, "ZYX") == (None, 65, 65)


def test_all_missing_figures_are_named_at_once() -> None:
    refusal = make_oil_optics(na=None, wavelength=None).refuse_header(STACK)
    assert refusal is not None and refusal.code == "optics-missing"
    assert "aperture (--na) and the wavelength (--wavelength)." in str(refusal.sentence)
    refusal = make_oil_optics(na=None, wavelength=None, pixel_size=None).refuse_header(STACK)
    listed = "aperture (--na), the wavelength (--wavelength) and the pixel size (--pixel-size)."
    assert refusal is not None and listed in refusal.sentence


@pytest.mark.parametrize(
    ("name", "value"), [("wavelength", 0.52), ("excitation", 0.488), ("pixel_size", 0.04)]
)
def test_lengths_in_micrometres_are_refused(name: str, value: float) -> None:
    lengths = {"na": 1.4, "wavelength": 520, name: value}
    with pytest.raises(dip.RefusedError, match="should be in nanometres, so at least"):
        dip.make_recipe("deblur", microscope="confocal", **lengths)
