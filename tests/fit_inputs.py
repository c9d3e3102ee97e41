"""Small synthetic inputs of problems and priors, shared by tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.pipeline.plan.layout import plan_task
from napari_dip.tasks.base import (
    FitInput,
    FitMasks,
    FitNoise,
    InspectedPixels,
    Inspection,
    TaskPlan,
    TaskSetup,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_dip.tasks import Task


def make_fit_input_from(
    measurement: torch.Tensor,
    noise_variance: NoiseVariance,
    validation_mask: torch.Tensor,
    *,
    noise_level: float,
    measured_mask: torch.Tensor | None = None,
    blind_spot_size: tuple[int, ...] = (1, 1),
    assumed_noise_fraction: float = 1.0,
    prior: str = "random-input",
    window_side: int | None = None,
    extra_inputs: Mapping[str, torch.Tensor] | None = None,
) -> FitInput:
    """Make the input of a small fit, whose darkest pixel has no light."""
    if measured_mask is None:
        measured_mask = torch.ones_like(measurement[:1, :1])
    axes = tuple(range(2, measurement.ndim))
    zero = measurement[:1].amin(axes, keepdim=True)
    return FitInput(
        measurement=measurement,
        intensity_offset=-zero,
        intensity_scale=torch.ones_like(zero),
        noise=FitNoise(
            noise_variance=noise_variance,
            rms_std=noise_level,
            assumed_fraction=assumed_noise_fraction,
        ),
        masks=FitMasks(
            measured=measured_mask,
            validation=validation_mask,
            excluded=validation_mask,
            blind_spot_size=blind_spot_size,
        ),
        prior_key=prior,
        widths=(4, 8),
        window_side=window_side,
        extra_inputs=extra_inputs or {},
    )


def make_plain_fit_input(grid: tuple[int, ...], **others: torch.Tensor) -> FitInput:
    """White noise of variance 0.01 on (1, 1, *grid), every fifth pixel of a plane held out.

    Of a volume, those of every second plane.
    """
    ones = torch.ones([1] * (2 + len(grid)))
    validation_mask = torch.zeros(1, 1, *grid)
    validation_mask[..., ::5, ::5] = 1
    if len(grid) > 2:
        validation_mask[:, :, 1::2] = 0
    return make_fit_input_from(
        torch.rand(1, 1, *grid, generator=torch.Generator().manual_seed(0)),
        NoiseVariance(gain=0 * ones, intercept=0.01 * ones, floor=1e-4 * ones),
        validation_mask,
        noise_level=0.1,
        blind_spot_size=(1,) * len(grid),
        extra_inputs=others,
    )


def make_task_setup(task: Task, fit_input: FitInput, seed: int = 0) -> TaskSetup:
    """Set a fit up as a run does."""
    return task.setup(fit_input, torch.Generator().manual_seed(seed))


def make_task_prior(task: Task, fit_input: FitInput, seed: int = 0) -> Any:
    """Make a task's prior as a fit does."""
    return make_task_setup(task, fit_input, seed).prior


def make_task_problem(task: Task, fit_input: FitInput) -> Any:
    """Make a task's problem as a fit does."""
    return make_task_setup(task, fit_input).problem


def make_task_plan(
    task: Task,
    header: ImageHeader,
    extra_headers: Mapping[str, ImageHeader] | None = None,
    axes: str = "YX",
) -> TaskPlan:
    """Plan a task that is not refused."""
    plan = plan_task(task, header, extra_headers or {}, axes)
    assert not isinstance(plan, Refusal)
    return plan


def inspect_stack(task: Task, stack: Any, **extra_inputs: Any) -> Inspection | Refusal:
    """Let a task inspect the pixels (N, C, *grid) of an image with its further inputs."""
    stack = np.asarray(stack, np.float32)
    axes = "TCZYX" if stack.ndim > 4 else "TCYX"
    header = ImageHeader(name="cells", shape=stack.shape, dtype="float32", axes=axes)
    headers = {
        name: ImageHeader(name=name, shape=pixels.shape, dtype="float32", axes=axes)
        for name, pixels in extra_inputs.items()
    }
    pixels = InspectedPixels(header=header, image=stack, stack=stack, extra_inputs=extra_inputs)
    return task.inspect(pixels, make_task_plan(task, header, headers))
