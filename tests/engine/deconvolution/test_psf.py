"""Computed PSFs obey the physics; given PSFs are corrected or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import j1

from napari_dip.engine.deconvolution import psf as psf_module
from napari_dip.engine.deconvolution.psf import (
    clean_psf,
    compute_microscope_psf,
    sample_gaussian_psf,
)

#: NA, refractive index, pixel along Z and along Y and X in nm: oil, air, water.
OBJECTIVES = [(1.4, 1.515, 200.0, 65.0), (0.8, 1.0, 500.0, 160.0), (1.2, 1.33, 300.0, 100.0)]


def measure_width(line: np.ndarray, pixel: float) -> float:
    """Measure the full width at half maximum of a line with its peak in the middle."""
    half = line[len(line) // 2 :] / line.max()
    last = int(np.argmax(half < 0.5)) - 1
    return 2 * pixel * (last + (half[last] - 0.5) / (half[last] - half[last + 1]))


def make_focal_psf(na: float = 1.2, pixel: float = 10.0, size: int = 121) -> np.ndarray:
    return compute_microscope_psf(
        "widefield", na, 520.0, (pixel, pixel), 1.33, (size, size)
    ).numpy()


def test_gaussians_sum_to_one_and_have_their_width() -> None:
    psf = sample_gaussian_psf((1.5, 0.0, 2.5)).double()
    assert psf.shape == (13, 1, 21)
    assert float(psf.sum()) == pytest.approx(1, abs=1e-6)
    place = torch.arange(21.0) - 10
    assert float((psf.sum((0, 1)) * place**2).sum()) ** 0.5 == pytest.approx(2.5, rel=0.01)
    assert sample_gaussian_psf((1.0, 1.0), (5, 9)).shape == (5, 9)


def test_in_focus_the_pattern_is_airys() -> None:
    line = make_focal_psf()[60]
    place = (np.arange(121) - 60) * 10.0
    v = 2 * np.pi * 1.2 * place / 520
    v[60] = 1
    airy = (2 * j1(v) / v) ** 2
    airy[60] = 1
    assert line / line.max() == pytest.approx(airy, abs=0.01)  # pixels of 10 nm blur by 0.5 %


@pytest.mark.parametrize("na", [0.5, 0.9, 1.2])
def test_first_dark_ring_and_width_in_focus_are_the_textbooks(na: float) -> None:
    pixel = 520 / na / 60
    line = make_focal_psf(na, pixel)[60]
    ring = 60 + int(np.argmin(line[60:100]))
    assert (ring - 60) * pixel == pytest.approx(0.61 * 520 / na, rel=0.02)
    assert measure_width(line, pixel) == pytest.approx(0.51 * 520 / na, rel=0.02)


def test_light_of_a_widefield_psf_is_the_same_in_each_plane() -> None:
    psf = compute_microscope_psf("widefield", 0.8, 520.0, (400.0, 160.0, 160.0), 1.0, (9, 81, 81))
    planes = psf.sum((1, 2))
    assert float(psf.sum()) == pytest.approx(1, abs=1e-5)
    assert (planes / planes.max()).numpy() == pytest.approx(1, abs=0.02)  # the rest leaves the side


@pytest.mark.parametrize(("na", "index", "depth", "pixel"), OBJECTIVES)
def test_widefield_agrees_with_psfmodels(
    na: float, index: float, depth: float, pixel: float
) -> None:
    psfmodels = pytest.importorskip("psfmodels")
    mine = compute_microscope_psf(
        "widefield", na, 520.0, (depth, pixel, pixel), index, (15, 33, 33)
    )
    mine = mine.double().numpy()
    other = psfmodels.make_psf(
        15,
        33,
        dxy=pixel / 1000,
        dz=depth / 1000,
        NA=na,
        wvl=0.52,
        ns=index,
        ni=index,
        ni0=index,
        ng=index,
        ng0=index,
        model="scalar",
        oversample_factor=5,
    )
    other = other / other.sum()
    assert np.corrcoef(mine.ravel(), other.ravel())[0, 1] > 0.9999
    across, theirs = mine[7, 16], other[7, 16]
    assert measure_width(across, pixel) == pytest.approx(measure_width(theirs, pixel), rel=0.01)
    along, theirs = mine[:, 16, 16], other[:, 16, 16]
    assert measure_width(along, depth) == pytest.approx(measure_width(theirs, depth), rel=0.01)


def make_confocal_psf(pinhole: float, excitation: float | None = None) -> np.ndarray:
    psf = compute_microscope_psf(
        *("confocal", 1.2, 520.0, (150.0, 30.0, 30.0), 1.33, (15, 41, 41)),
        excitation_nm=excitation,
        pinhole_airy=pinhole,
    )
    assert float(psf.sum()) == pytest.approx(1, abs=1e-5)
    return psf.double().numpy()


def test_a_point_pinhole_squares_the_widefield_psf() -> None:
    wide = make_focal_psf(pixel=10.0, size=41)
    narrow = compute_microscope_psf("confocal", 1.2, 520.0, (10.0, 10.0), 1.33, (41, 41)).numpy()
    assert narrow / narrow.max() == pytest.approx((wide / wide.max()) ** 2, abs=0.005)


def test_a_wider_pinhole_widens_the_psf_up_to_the_excitations() -> None:
    widths = [
        measure_width(make_confocal_psf(pinhole)[7, 20], 30.0) for pinhole in (0.0, 0.5, 1.0, 20.0)
    ]
    assert widths == sorted(widths)
    assert widths[0] < 0.75 * widths[-1]
    excitation = compute_microscope_psf(
        "widefield", 1.2, 520.0, (30.0, 30.0), 1.33, (41, 41)
    ).numpy()
    assert widths[-1] == pytest.approx(measure_width(excitation[20], 30.0), rel=0.02)


def test_shorter_excitation_sharpens_a_confocal_psf() -> None:
    assert measure_width(make_confocal_psf(0, 405.0)[7, 20], 30.0) < measure_width(
        make_confocal_psf(0)[7, 20], 30.0
    )


def test_finer_sampling_changes_no_pixel_by_more_than_a_five_hundredth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coarse = make_confocal_psf(1.0, 488.0)
    for name in ("_MIN_PIXEL_SAMPLES", "_SAMPLES_PER_AIRY", "_STEPS_PER_AIRY", "_NODES_PER_CYCLE"):
        monkeypatch.setattr(psf_module, name, 2 * getattr(psf_module, name))
    fine = make_confocal_psf(1.0, 488.0)
    assert np.abs(fine - coarse).max() < 0.002 * fine.max()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"na": 1.4}, "No light"),
        ({"na": 0.0}, "No light"),
        ({"wavelength_nm": float("nan")}, "No light"),
        ({"excitation_nm": -488.0}, "No light"),
        ({"pixel_nm": (100.0, -100.0)}, "above 0"),
        ({"pixel_nm": (100.0,)}, "axes"),
        ({"sizes": (10, 11)}, "odd"),
        ({"pinhole_airy": -1.0}, "pinhole"),
    ],
)
def test_impossible_microscopes_are_refused(change: dict[str, object], said: str) -> None:
    settings = {"na": 1.2, "wavelength_nm": 520.0, "pixel_nm": (100.0, 100.0), "sizes": (11, 11)}
    with pytest.raises(ValueError, match=said):
        compute_microscope_psf("confocal", refractive_index=1.33, **(settings | change))


def clean(array: torch.Tensor) -> tuple[torch.Tensor, tuple[str, ...]]:
    kernel, notes = clean_psf(array)
    return kernel, tuple(map(str, notes))


def test_negative_rounding_errors_are_set_to_zero() -> None:
    psf = sample_gaussian_psf((1.0, 1.0))
    psf[0, 0] = -1e-8 * psf.max()
    assert float(clean(psf)[0].min()) >= 0


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_a_good_psf_is_kept_but_for_its_scale(scale: float) -> None:
    psf = sample_gaussian_psf((1.0, 1.5), (7, 9)).double()
    kernel, notes = clean(psf * scale)
    assert notes == ()
    assert kernel.dtype == torch.float32
    assert kernel.numpy() == pytest.approx(psf.numpy(), rel=0.01)


def test_counts_of_a_camera_will_do() -> None:
    counts = (sample_gaussian_psf((1.0, 1.0)) * 60000).to(torch.int32)
    assert float(clean(counts)[0].sum()) == pytest.approx(1, abs=1e-6)


def test_even_sizes_become_odd_with_a_note() -> None:
    psf = torch.zeros(6, 7)
    psf[1:5, 2:5] = 1
    kernel, notes = clean(psf)
    assert [size % 2 for size in kernel.shape] == [1, 1]
    assert len(notes) == 1
    assert "6 pixels wide along Y" in notes[0]


def test_the_middle_of_an_even_widefield_stack_is_its_focus() -> None:
    # every plane holds as much light, and the first has no partner, as the FFT lays arrays out
    psf = torch.stack([sample_gaussian_psf((s, s), (15, 15)) for s in (4, 3, 2, 1, 0.5, 1, 2, 3)])
    kernel, _ = clean(psf)
    assert kernel.shape[0] == 9
    assert int(kernel.amax((1, 2)).argmax()) == 4


@pytest.mark.parametrize("size", [15, 16])
def test_a_symmetric_psf_between_two_pixels_is_moved_onto_one(size: int) -> None:
    places = torch.arange(size, dtype=torch.float64)
    middle = (size - 1) / 2 if size % 2 == 0 else 7.2
    line = torch.exp(-((places - middle) ** 2) / (2 * 1.5**2))
    kernel, notes = clean(torch.outer(sample_gaussian_psf((1.5,)).double(), line))
    count = torch.arange(kernel.shape[1]) - kernel.shape[1] // 2
    centre = float((kernel.sum(0) * count).sum())
    width = float((kernel.sum(0) * (count - centre) ** 2).sum().sqrt())
    assert centre == pytest.approx(0.0, abs=0.02)
    assert width == pytest.approx(1.5, rel=0.02)
    said = "moved by 0.50 pixels" if size == 16 else "0.2 pixels off its middle along X"
    assert [said in note for note in notes] == [True]


@pytest.mark.parametrize("fraction", [0.28, 0.3, 0.4, 0.6])
def test_a_psf_off_its_middle_by_part_of_a_pixel_does_not_displace_the_image(fraction: float):
    places = torch.arange(21, dtype=torch.float64)
    line = torch.exp(-((places - 8 - fraction) ** 2) / (2 * 1.8**2))
    kernel, notes = clean(torch.outer(sample_gaussian_psf((1.8,), (21,)).double(), line))
    count = torch.arange(kernel.shape[1]) - kernel.shape[1] // 2
    assert float((kernel.sum(0) * count).sum()) == pytest.approx(0.0, abs=0.01)
    assert [f"{2 - fraction:.1f} pixels off its middle along X" in note for note in notes] == [True]


def test_an_asymmetric_psf_of_odd_size_is_centred_by_whole_pixels() -> None:
    line = torch.tensor([0, 0, 0, 8, 4, 2, 1, 0, 0], dtype=torch.float64)
    kernel, _ = clean(torch.outer(sample_gaussian_psf((1.0,)).double(), line))
    profile = kernel.sum(0)
    assert (profile[profile > 1e-6] * 15).tolist() == pytest.approx([8, 4, 2, 1], rel=0.01)


def test_a_psf_off_its_middle_is_centred_with_a_note_and_without_loss() -> None:
    psf = torch.zeros(15, 21)
    bump = sample_gaussian_psf((0.5, 0.5), (5, 5))
    psf[8:13, 1:6] = bump
    kernel, notes = clean(psf)
    assert [f"{n} pixels off its middle along {a}" in note for n, a, note in
            zip((3, 7), "YX", notes, strict=True)] == [True, True]  # fmt: skip
    middle = [size // 2 for size in kernel.shape]
    assert int(kernel.argmax()) == middle[0] * kernel.shape[1] + middle[1]
    assert float(kernel.max()) == pytest.approx(float(bump.max()), rel=0.003)


def test_the_empty_border_is_cut_off_at_999_thousandths_of_the_light() -> None:
    psf = torch.zeros(41, 61, 61)
    psf[14:27, 22:39, 10:51] = sample_gaussian_psf((1.0, 2.0, 5.0), (13, 17, 41))
    kernel, _ = clean(psf)
    assert kernel.shape == (7, 15, 33)  # 3.29 standard deviations hold 99.9 %
    whole = sample_gaussian_psf((1.0, 2.0, 5.0), (13, 17, 41))
    for axis, size in enumerate(kernel.shape):
        others = [other for other in range(3) if other != axis]
        line, middle = whole.sum(others), whole.shape[axis] // 2
        assert float(line[middle - size // 2 : middle + size // 2 + 1].sum()) >= 0.999
        narrower = line[middle - size // 2 + 1 : middle + size // 2]
        assert float(narrower.sum()) < 0.999
