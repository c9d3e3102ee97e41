"""Accuracy of planned run times: CPU seconds of one thread, planned and measured.

Usage: python benchmarks/speed_plan.py [--only NAME ...]
Few iterations of each prior on a part of the package's samples, and runs in which the last filter
counts most; the import of torch is left out on both sides. Where the time went is told as well:
before the first step, in steps, and in all the rest (looks, judging, the last filter).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage import data

from napari_dip.engine.fit.trainer import Trainer
from napari_dip.io import ImageHeader
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.costs import START_SECONDS
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.torch_state import load_torch
from shared_data import write

if TYPE_CHECKING:
    from collections.abc import Callable

SIGMA = 20.0


def make_noisy(*shape: int) -> np.ndarray:
    """Camera, mirrored to a size, with Gaussian noise."""
    truth = data.camera().astype(np.float64)
    truth = np.block([[truth, truth[:, ::-1]], [truth[::-1], truth[::-1, ::-1]]])
    plane = truth[: shape[-2], : shape[-1]]
    return np.float32(plane + np.random.default_rng(0).normal(0, SIGMA, shape))


def make_random_mask(image: np.ndarray) -> np.ndarray:
    """Half of the pixels."""
    return np.uint8(np.random.default_rng(1).random(image.shape) < 0.5)


VOLUME_BLUR = {"gaussian_sigma": 1.6, "gaussian_sigma_z": 1.8}
#: Name: task, settings, shape of the image, further inputs made from it.
RUNS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], dict[str, Callable[..., Any]]]] = {
    "more noise": ("denoise", {"prior": "r2r", "max_iterations": 50}, (256, 256), {}),
    "more noise, 3 steps": ("denoise", {"max_iterations": 3}, (512, 512), {}),
    "more noise, 3 steps, large": ("denoise", {"max_iterations": 3}, (1024, 1024), {}),
    "blind spot": ("denoise", {"prior": "blind-spot", "max_iterations": 30}, (256, 256), {}),
    "fixed noise": ("denoise", {"prior": "random-input", "max_iterations": 15}, (256, 256), {}),
    "inpaint": ("inpaint", {"max_iterations": 12}, (256, 256), {"mask": make_random_mask}),
    "super-resolve": ("super-resolve", {"factor": 4, "max_iterations": 20}, (64, 64), {}),
    "deblur": ("deblur", {"gaussian_sigma": 2.0, "max_iterations": 15}, (256, 256), {}),
    "guide": ("guide", {"max_iterations": 20}, (256, 256), {"guide": np.array}),
    "volume": ("denoise", {"max_iterations": 6, "stacks": "volume"}, (16, 96, 96), {}),
    "planes": ("denoise", {"max_iterations": 6}, (4, 256, 256), {}),
    "deblur volume": ("deblur", VOLUME_BLUR, (24, 96, 96), {}),
    "deblur volume, balanced": (
        "deblur",
        {**VOLUME_BLUR, "preset": "balanced", "max_iterations": 20},
        (16, 64, 64),
        {},
    ),
}


def measure(name: str) -> dict[str, Any]:
    """Plan and run one of them."""
    task, settings, shape, further = RUNS[name]
    arrays = {"image": make_noisy(*shape)}
    arrays |= {what: make(arrays["image"]) for what, make in further.items()}
    headers = {
        what: ImageHeader(
            name=what, shape=array.shape, dtype=str(array.dtype), axes="ZYX"[-array.ndim :]
        )
        for what, array in arrays.items()
    }
    recipe = make_recipe(task, **{"preset": "fast", "device": "cpu", **settings})
    machine = replace(detect_machine(), cores=1)
    plan = preflight(recipe, headers.pop("image"), machine, headers)
    assert isinstance(plan, Plan), plan
    steps: list[float] = []
    before: list[float] = []
    advance = Trainer.advance

    def time_step(step: Trainer) -> None:
        began = time.process_time()
        before.append(began)
        advance(step)
        steps.append(time.process_time() - began)

    Trainer.advance = time_step  # type: ignore[method-assign]
    began = time.process_time()
    answer = drain_generator(run(plan, arrays))
    took = time.process_time() - began
    Trainer.advance = advance  # type: ignore[method-assign]
    assert answer is not None
    said = (
        plan.costs.fit_seconds
        + plan.costs.usual_inference_seconds
        + plan.costs.postprocessing_seconds
        - START_SECONDS
    )
    return {
        "run": name,
        "pixels": " × ".join(map(str, shape)),
        "prior": answer.report["prior"]["key"],
        "steps": len(steps),
        "planned, s": said,
        "took, s": took,
        "planned by took": said / took,
        "before the first step, s": before[0] - began,
        "a step, ms": 1000 * float(np.median(steps)),
        "rest, s": took - sum(steps) - (before[0] - began),
    }


def main() -> None:
    """Run them in turn and write the table."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    load_torch()
    rows = []
    for name in ask.parse_args().only:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    off = [row["planned by took"] for row in rows]
    write("speed_plan", rows, {"least": min(off), "most": max(off)})


if __name__ == "__main__":
    main()
