"""Blind deblurring of stacks: one Gaussian, with a width of its own along Z."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.engine.deconvolution.psf import estimate_gaussian_psf
from napari_dip.engine.operators.imaging import EstimatedConvolution
from napari_dip.errors import RefusedError
from napari_dip.errors.notes import parse_report_notes

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"preset": "fast", "device": "cpu", "max_iterations": 2}
SHAPE, FRAME = (24, 64, 64), 12


def make_stack(
    lateral: float, axial: float, distance: float = 1.0, *, is_hollow: bool = True
) -> np.ndarray:
    """Blur balls or shells at random places, from an object larger than the frame; photon noise."""
    rng = np.random.default_rng(3)
    grid = np.mgrid[tuple(slice(0, size + 2 * FRAME) for size in SHAPE)].astype(float)
    grid[0] *= distance
    scene = np.zeros(grid.shape[1:])
    for _ in range(100):
        middle = rng.uniform(0, np.array(scene.shape) * [distance, 1, 1])
        radius = rng.uniform(4, 10)
        from_middle = np.sqrt(((grid - middle[:, None, None, None]) ** 2).sum(0))
        is_inside = abs(from_middle - radius) < 0.7 if is_hollow else from_middle < radius
        scene += rng.uniform(0.5, 1.5) * is_inside
    light = gaussian_filter(scene, (axial, lateral, lateral))[FRAME:-FRAME, FRAME:-FRAME]
    light = 100 * light[..., FRAME:-FRAME] / np.quantile(light, 0.995)
    return (rng.poisson(light + 1) + rng.normal(0, 1, SHAPE)).astype(np.float32)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("lateral", "axial", "distance", "is_hollow"),
    [(1.3, 2.4, 1.0, True), (1.6, 1.4, 2.0, True), (1.5, 2.4, 1.0, False)],
)
def test_both_widths_are_found_within_15_percent(
    lateral: float, axial: float, distance: float, is_hollow: bool
) -> None:
    stack = make_stack(lateral, axial, distance, is_hollow=is_hollow)
    noise = torch.tensor([float(stack.mean()) + 1])
    widths = estimate_gaussian_psf(torch.from_numpy(stack)[None, None], noise, distance)
    assert widths == pytest.approx((axial, lateral), rel=0.15)


@pytest.mark.long
def test_brightness_and_offset_do_not_change_the_widths() -> None:
    stack = torch.from_numpy(make_stack(1.4, 2.2))[None, None]
    noise = torch.tensor([30.0])
    widths = estimate_gaussian_psf(stack, noise, 1.0)
    others = estimate_gaussian_psf(0.01 * stack + 7, 1e-4 * noise, 1.0)
    assert others == pytest.approx(widths, rel=0.02)


@pytest.mark.long
def test_a_run_from_the_command_line_says_both_widths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, psf = (tmp_path / name for name in ("cells.tif", "sharp.tif", "psf.tif"))
    stack = make_stack(1.6, 1.4, 2.0)
    metadata = {"axes": "ZYX", "spacing": 0.2, "unit": "um"}
    tifffile.imwrite(source, stack, imagej=True, resolution=(10, 10), metadata=metadata)
    options = ["--preset", "fast", "--max-iterations", "2", "--psf-out", str(psf)]
    assert main(["blind-deblur", str(source), "-o", str(target), *options]) == 0
    assert "Gaussian with a standard deviation of 1." in capsys.readouterr().err
    assert tifffile.imread(target).shape == SHAPE
    with tifffile.TiffFile(psf) as file:
        assert file.series[0].axes == "ZYX"
        assert file.series[0].shape == (23, 31, 31)
        assert file.imagej_metadata["spacing"] == pytest.approx(0.2)


@pytest.mark.long
def test_the_report_has_the_widths_along_each_axis() -> None:
    result = dip.blind_deblur(make_stack(1.3, 2.4), **SETTINGS)
    axial, *lateral = result.learned_parameters["sigmas"]
    assert lateral[0] == lateral[1]
    assert axial == pytest.approx(2.4, rel=0.12)
    (note,) = (n for n in parse_report_notes(result.report) if n.code == "blur-gaussian-volume")
    assert f"{axial:.2f} planes" in str(note)


def refuse(image: np.ndarray, axes: str | None = None, **settings: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        dip.blind_deblur(image, axes=axes, **{**SETTINGS, **settings})
    return caught.value.reason.code


def test_stacks_whose_blur_cannot_be_found_are_refused() -> None:
    stack = np.random.default_rng(0).poisson(50, (6, 40, 40)).astype(np.float32)
    assert refuse(stack, blur="free") == "blind-volume-kind"
    assert refuse(stack, axes="TYX") == "blind-planes"
    assert refuse(stack, stacks="planes") == "blind-planes"
    assert refuse(stack[:3]) == "blind-planes"


def test_an_estimated_kernel_reports_what_was_estimated() -> None:
    kernel, widths = torch.full((3, 3, 3), 1 / 27), torch.tensor([1.0, 2.0, 2.0])
    operator = EstimatedConvolution(kernel, (1, 1, 1), {"psf": kernel, "sigmas": widths})
    assert set(operator.get_learned_parameters()) == {"psf", "sigmas"}
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert operator(image).shape == (1, 1, 6, 6, 6)
