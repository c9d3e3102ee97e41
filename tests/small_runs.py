"""A small noisy image, and a plan for it, for the run tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from skimage import data

from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import Machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

MACHINE = Machine(
    cores=2,
    memory_bytes=8 * 10**9,
    devices=("cpu",),
    torch_version="2.13.0",
    no_gpu_reason="no NVIDIA driver was found",
)


def make_truth(side: int = 64) -> npt.NDArray[np.float64]:
    """Corner of scikit-image's cell, in counts."""
    return data.cell()[200 : 200 + side, 200 : 200 + side].astype(np.float64)


def make_noisy(side: int = 64, seed: int = 0) -> npt.NDArray[np.uint16]:
    """What a camera of gain 2, read noise 3 and offset 100 sees of it."""
    rng = np.random.default_rng(seed)
    counts = 2 * rng.poisson(make_truth(side) / 2) + rng.normal(0, 3, (side, side)) + 100
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def plan_for(array: npt.NDArray[Any], axes: str = "YX", **settings: Any) -> Plan:
    """Plan with a small budget."""
    recipe = make_recipe("denoise", **{"preset": "fast", "max_iterations": 25, **settings})
    answer = preflight(
        recipe,
        ImageHeader(name="shot", shape=array.shape, dtype=array.dtype.name, axes=axes),
        MACHINE,
    )
    assert not isinstance(answer, Refusal), answer.message
    return answer


def run_to_end(plan: Plan, array: Any, **options: Any) -> tuple[list[Event], Restoration | None]:
    """Run to the end."""
    loop = run(plan, {"image": array}, **options)
    events = []
    while True:
        try:
            events.append(next(loop))
        except StopIteration as end:
            return events, end.value
