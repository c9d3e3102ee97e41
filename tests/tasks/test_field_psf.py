"""Deblurring with PSFs that change over the field: each part of the image has its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from fit_inputs import make_plain_fit_input, make_task_problem
from napari_dip.cli import main
from napari_dip.engine.deconvolution.psf import sample_gaussian_psf
from napari_dip.engine.operators.imaging import FieldConvolution
from napari_dip.errors import RefusedError
from napari_dip.errors.notes import parse_report_notes
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.crop_preview import (
    make_crop_region,
    plan_crop_preview,
    run_crop_preview,
)
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import Deblur
from napari_dip.tasks.base import FitInput, GridLocation
from napari_dip.tasks.psf.psf_settings import get_psf_cells

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"preset": "fast", "device": "cpu"}
SIDE = 64


def make_psfs(cells: int = 3, side: int = 15) -> np.ndarray:
    """Make Gaussians that widen by two from the left to the right."""
    widths = np.linspace(1.0, 2.0, cells)
    row = [sample_gaussian_psf((width, width), (side, side)).numpy() for width in widths]
    return np.array([row] * cells)


def blur_scene() -> tuple[np.ndarray, np.ndarray]:
    """Blur a picture from left to right more and more; return it and the truth."""
    scene = data.camera()[80 : 80 + SIDE + 24, 140 : 140 + SIDE + 24].astype(float)
    columns = (np.arange(-12, SIDE + 12) + 0.5) / SIDE
    widths = 0.75 + 1.5 * np.clip(columns, 0, 1)
    blurred = sum(
        gaussian_filter(scene * (np.arange(SIDE + 24) == column), width)
        for column, width in enumerate(widths)
    )
    noise = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE))
    return (blurred[12:-12, 12:-12] + noise).astype(np.float32), scene[12:-12, 12:-12]


def deblur_error(psf: np.ndarray, image: np.ndarray, truth: np.ndarray) -> float:
    result = dip.deblur(image, psf, max_iterations=40, **SETTINGS)
    return float(np.sqrt(np.mean((np.asarray(result.image) - truth) ** 2)))


@pytest.mark.long
def test_all_psfs_are_nearer_to_the_truth_than_each_of_them_alone() -> None:
    image, truth = blur_scene()
    psfs = make_psfs()
    field_error = deblur_error(psfs, image, truth)
    assert field_error < 0.95 * min(deblur_error(psf, image, truth) for psf in psfs[0])


def test_a_tile_has_the_coefficients_of_its_place() -> None:
    task = Deblur()
    modes = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    arrays = {"psf": modes[0], "psf_modes": modes}
    arrays["psf_coefficients"] = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1))
    whole = make_plain_fit_input((30, 40), **arrays)
    tile = make_plain_fit_input((12, 16), **arrays)
    tile = replace(tile, location=GridLocation(start=(10, 20), image_size=(30, 40)))
    maps = [
        make_task_problem(task, fit_input).main_term.operator.coefficients
        for fit_input in (whole, tile)
    ]
    torch.testing.assert_close(maps[1], maps[0][:, 10:26, 20:40])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stacked", ["volume", "planes"])
def test_a_stack_has_psfs_of_planes_or_of_stacks(stacked: str) -> None:
    psfs = make_psfs(2, 9)
    if stacked == "volume":
        profile = np.array([0.25, 0.5, 0.25])[:, None, None]
        psfs = (psfs[:, :, None] * profile).astype(np.float32)
    stack = np.random.default_rng(0).poisson(40, (5, 24, 20)).astype(np.float32)
    result = dip.deblur(stack, psfs, max_iterations=2, **SETTINGS)
    assert result.image.shape == stack.shape
    codes = {note.code for note in parse_report_notes(result.report)}
    assert {"psf-field", "psf-modes"} <= codes
    assert ("psf-plane" in codes) is (stacked == "planes")


@pytest.mark.long
def test_the_finer_grid_takes_psfs_of_the_field() -> None:
    image, _ = blur_scene()
    result = dip.deblur(image[:32, :40], make_psfs(), factor=2, max_iterations=2, **SETTINGS)
    assert result.image.shape == (64, 80)


def list_locations(monkeypatch: pytest.MonkeyPatch) -> list[GridLocation | None]:
    """Record the part of the image that each fit is set up for."""
    locations: list[GridLocation | None] = []
    setup = Deblur.setup

    def record(task: Deblur, fit_input: FitInput, rng: torch.Generator) -> Any:
        locations.append(fit_input.location)
        assert isinstance(make_task_problem_operator(task, fit_input), FieldConvolution)
        return setup(task, fit_input, rng)

    def make_task_problem_operator(task: Deblur, fit_input: FitInput) -> Any:
        return task._make_operator(fit_input)

    monkeypatch.setattr(Deblur, "setup", record)
    return locations


def make_plan(image: np.ndarray, psfs: np.ndarray, **settings: Any) -> Plan:
    header = ImageHeader(name="cells", shape=image.shape, dtype="float32", axes="YX")
    psf_header = ImageHeader(name="psf", shape=psfs.shape, dtype="float32", axes="TZYX")
    recipe = make_recipe("deblur", max_iterations=2, **SETTINGS, **settings)
    plan = preflight(recipe, header, detect_machine(), {"psf": psf_header})
    assert isinstance(plan, Plan)
    return plan


@pytest.mark.long
def test_a_crop_preview_has_the_psfs_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = blur_scene()
    psfs = make_psfs()
    plan = make_plan(image, psfs)
    region = make_crop_region(plan.header, plan.layout, (16, 24, 56, 64), (20, 30))
    small = plan_crop_preview(plan, region, detect_machine())
    assert isinstance(small, Plan)
    locations = list_locations(monkeypatch)
    drain_generator(run_crop_preview(plan, region, small, {"image": image, "psf": psfs}), None)
    assert set(locations) == {GridLocation(start=(16, 24), image_size=(SIDE, SIDE))}


def write_psfs(path: Path, psfs: np.ndarray) -> Path:
    tifffile.imwrite(path, psfs.astype(np.float32), ome=True, metadata={"axes": "TZYX"})
    return path


@pytest.mark.long
def test_a_run_in_tiles_reads_psfs_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = blur_scene()
    source, target = tmp_path / "cells.tif", tmp_path / "sharp.tif"
    tifffile.imwrite(source, np.tile(image, (4, 4)))
    psf = write_psfs(tmp_path / "psf.ome.tif", make_psfs())
    locations = list_locations(monkeypatch)
    options = ["--tile", "160", "--max-iterations", "1", "--preset", "fast"]
    options += ["--initial-estimate", "none"]
    assert main(["deblur", str(source), "--psf", str(psf), "-o", str(target), *options]) == 0
    assert {location.image_size for location in locations if location} == {(256, 256)}
    assert len({location.start for location in locations if location}) > 1


def test_the_plan_names_psfs_that_change_over_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = blur_scene()
    source = tmp_path / "cells.tif"
    tifffile.imwrite(source, image)
    psf = write_psfs(tmp_path / "psf.ome.tif", make_psfs())
    assert main(["plan", "deblur", str(source), "--psf", str(psf)]) == 0
    assert "3 × 3 PSFs" in capsys.readouterr().out


def refuse(image: np.ndarray, psfs: np.ndarray, **settings: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        dip.deblur(image, psfs, **SETTINGS, **settings)
    return caught.value.reason.code


def test_psfs_of_the_field_are_refused_where_they_cannot_be_right() -> None:
    image, _ = blur_scene()
    dark = make_psfs()
    dark[1, 2] = 0
    assert refuse(image, make_psfs(), border="circular") == "psf-field-circular"
    assert refuse(image, dark) == "psf-zero"
    assert refuse(image, np.stack([make_psfs(2, 9)] * 5, 2)) == "psf-axes"  # stacks for a plane


@pytest.mark.parametrize(
    ("axes", "shape", "cells"),
    [
        ("TZYX", (3, 4, 9, 9), (3, 4)),
        ("TCZYX", (3, 4, 5, 9, 9), (3, 4)),
        ("TCZYX", (3, 1, 4, 9, 9), (3, 4)),
        ("CZYX", (2, 5, 9, 9), None),  # two colours of a stack
        ("TCYX", (2, 5, 9, 9), None),
        ("ZYX", (5, 9, 9), None),
        ("TZYX", (1, 5, 9, 9), None),
    ],
)
def test_rows_and_columns_are_the_axes_before_those_of_a_psf(
    axes: str, shape: tuple[int, ...], cells: tuple[int, int] | None
) -> None:
    header = ImageHeader(name="psf", shape=shape, dtype="float32", axes=axes)
    assert get_psf_cells(header) == cells
