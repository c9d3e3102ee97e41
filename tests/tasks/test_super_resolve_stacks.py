"""Super-resolution of stacks: along Z alone, or along any axis, at the position of the input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import zoom

import napari_dip as dip
from fit_inputs import make_plain_fit_input, make_task_plan, make_task_prior, make_task_problem
from napari_dip.cli import main
from napari_dip.engine.operators.imaging import interpolate_cubic
from napari_dip.engine.priors.random_input import RandomInputPrior
from napari_dip.engine.problem import Estimate
from napari_dip.io import ImageHeader
from napari_dip.io.reading import read_header
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.tasks import SuperResolve
from napari_dip.tasks.priors.prior_spec import RANDOM_INPUT_CHANNELS_IN_VOLUMES

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.tasks.base import FitInput

FAST = {"preset": "fast", "device": "cpu"}
MACHINE = Machine(
    cores=2,
    memory_bytes=8 * 10**9,
    devices=("cpu",),
    torch_version="2.13.0",
    no_gpu_reason="no NVIDIA driver was found",
)


def make_tubes(planes: int = 16, side: int = 20) -> np.ndarray:
    """Draw two slanted tubes, smooth along Z over about two planes."""
    z, y, x = np.mgrid[:planes, :side, :side].astype(np.float32)
    first = np.exp(-((z - 0.5 * y - 2) ** 2 + (x - 6) ** 2) / 5)
    second = np.exp(-((z + 0.4 * x - 14) ** 2 + (y - 12) ** 2) / 5)
    return np.asarray(200 * (first + second) + 30, np.float32)


def bin_pixels(volume: np.ndarray, factor: int) -> np.ndarray:
    planes, height, width = volume.shape
    return volume.reshape(planes // factor, factor, height, width).mean(1)


def make_fit_input(grid: tuple[int, ...] = (4, 16, 20)) -> FitInput:
    return make_plain_fit_input(grid)


@pytest.mark.parametrize(
    ("factor", "kept", "along"),
    [("4,1,1", "4,1,1", (4, 1, 1)), ((2, 2, 2), "2,2,2", (2, 2, 2)), (2, "2", (1, 2, 2))],
)
def test_one_number_is_for_the_plane_and_three_for_the_volume(factor, kept, along) -> None:
    task = SuperResolve(factor=factor)
    assert task.factor == kept
    header = ImageHeader(name="cells", shape=(6, 24, 32), dtype="uint16", axes="ZYX")
    assert make_task_plan(task, header, axes="ZYX").get_factors("ZYX") == along
    assert make_task_plan(task, header, axes="ZYX").get_factors("YXS") == (*along[1:], 1)


@pytest.mark.parametrize(
    ("axes", "settings", "grid"),
    [
        ("ZYX", {"factor": "2,1,1"}, "ZYX"),
        ("ZYX", {"factor": "2"}, "YX"),
        ("ZYX", {"factor": "2", "psf_sigma_z": 1.0}, "ZYX"),
        ("ZYX", {"factor": "2", "stacks": "volume"}, "ZYX"),
        ("TYX", {"factor": "2"}, "YX"),
    ],
)
def test_only_depth_makes_a_volume_unless_the_user_wants_one(axes, settings, grid) -> None:
    header = ImageHeader(name="cells", shape=(6, 24, 32), dtype="uint16", axes=axes)
    plan = preflight(make_recipe("super-resolve", **settings), header, MACHINE)
    assert isinstance(plan, Plan)
    assert plan.layout.grid_axes == grid


@pytest.mark.parametrize(
    "settings", [{}, {"downsampling": "binning"}, {"psf_sigma": 0.8, "psf_sigma_z": 1.3}]
)
@pytest.mark.parametrize("factor", ["2,1,1", "2,1,2", "3,1,1"])
def test_the_network_output_has_the_grid_of_the_operator(factor, settings) -> None:
    task, fit_input = SuperResolve(factor=factor, **settings), make_fit_input()
    prior = make_task_prior(task, fit_input)
    header = ImageHeader(name="cells", shape=fit_input.grid, dtype="float32", axes="ZYX")
    assert prior.grid == make_task_plan(task, header, axes="ZYX").network_grid
    problem = make_task_problem(task, fit_input)
    image = torch.rand(1, 1, *prior.grid, generator=torch.Generator().manual_seed(1))
    assert problem.main_term.operator(image).shape == fit_input.measurement.shape
    factors = make_task_plan(task, header, axes="ZYX").get_factors("ZYX")
    result = tuple(n * f for n, f in zip(fit_input.grid, factors, strict=True))
    assert problem.make_preview(prior.estimate(image)).mean.shape[2:] == result


def test_validation_pixels_are_not_in_the_network_input() -> None:
    fit_input, changed = make_fit_input(), make_fit_input()
    changed.measurement[changed.masks.validation > 0] = 9.0
    codes = []
    for measured in (fit_input, changed):
        prior = make_task_prior(SuperResolve(factor="2,1,1"), measured)
        assert isinstance(prior, RandomInputPrior)
        codes.append(prior.random_input)
    assert codes[0].shape[1] == RANDOM_INPUT_CHANNELS_IN_VOLUMES + 1
    torch.testing.assert_close(codes[0], codes[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_interpolation_along_any_axis_keeps_a_ramp(axis) -> None:
    factors = tuple(2 if number == axis else 1 for number in range(3))
    shape = [1, 1, 1]
    shape[axis] = 8
    ramp = torch.arange(8.0).reshape(1, 1, *shape).expand(1, 1, 8, 8, 8)
    fine = interpolate_cubic(ramp, factors).movedim(axis + 2, -1)[0, 0, 4, 4]
    # the cubic's slope at its middle is 0.75, not 0.5, so a ramp bends by a twentieth of a pixel
    torch.testing.assert_close(fine[4:-4], torch.arange(4, 12) / 2 - 0.25, atol=0.06, rtol=0)


@pytest.mark.long
def test_finer_planes_are_nearer_to_the_truth_than_cubic_interpolation() -> None:
    truth = make_tubes()
    coarse = bin_pixels(truth, 2)
    settings = {"downsampling": "binning", "noise": "gaussian", "max_iterations": 30}
    result = dip.super_resolve(coarse, factor="2,1,1", **settings, **FAST)
    cubic = zoom(coarse, (2, 1, 1), order=3, mode="nearest", grid_mode=True)
    ours, naive = (float(np.mean((image - truth) ** 2)) for image in (result.image, cubic))
    assert ours < naive
    assert result.residual is not None
    assert result.residual.shape == coarse.shape


def test_planes_are_enlarged_one_by_one_by_one_number() -> None:
    result = dip.super_resolve(make_tubes(3), factor=2, max_iterations=2, **FAST)
    assert result.image.shape == (3, 40, 40)


@pytest.mark.parametrize(("factor", "along"), [("2,1,1", (2, 1, 1)), ("2,1,2", (2, 1, 2))])
def test_the_file_has_planes_nearer_to_each_other(tmp_path: Path, factor, along) -> None:
    source, output = tmp_path / "in.tif", tmp_path / "out.tif"
    metadata = {"axes": "ZYX", "spacing": 0.6, "unit": "um"}
    whole = {"imagej": True, "resolution": (5, 5), "metadata": metadata}
    tifffile.imwrite(source, make_tubes(4), **whole)
    argv = ["super-resolve", str(source), "-o", str(output), "--factor", factor, "--quiet"]
    assert main([*argv, "--preset", "fast", "--max-iterations", "2"]) == 0
    assert read_header(output).shape == tuple(np.multiply((4, 20, 20), along))
    assert read_header(output).scale == pytest.approx(tuple(np.divide((0.6, 0.2, 0.2), along)))


def test_the_fit_starts_with_a_volume_that_explains_the_measurement() -> None:
    coarse = torch.from_numpy(bin_pixels(make_tubes(8), 2))[None, None] / 200
    fit_input = replace(make_fit_input((4, 20, 20)), measurement=coarse)
    task = SuperResolve(factor="2,1,1", downsampling="binning")
    prior, problem = make_task_prior(task, fit_input), make_task_problem(task, fit_input)
    assert isinstance(prior, RandomInputPrior)
    assert prior.baseline is not None
    assert prior.output_scale < 0.5
    operator = problem.main_term.operator
    cubic, _ = task._fit_interpolation(fit_input, operator, 1 - fit_input.masks.validation)
    errors = [
        float(((operator(image) - coarse) * (1 - fit_input.masks.validation)).square().mean())
        for image in (prior.baseline, cubic)
    ]
    assert errors[0] < 0.2 * errors[1]
    # in the end the pixels that judged are begun from, too
    finished = problem.make_preview(Estimate(prior.baseline)).mean
    assert float((operator(finished) - coarse).square().mean()) < 0.2 * errors[1]
