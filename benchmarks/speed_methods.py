"""Methods of the speed benchmark, each in a process of its own: CPU seconds, PSNR, peak memory.

Import time is left out for all. Ours is the whole of a run: the noise measurement, previews as
often as there are reports, the last filter, the judgement of the result.
"""

from __future__ import annotations

import re
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared_data import counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from speed_cases import Problem

#: Iterations between two previews; the engine judges as often.
EVERY = 25
#: Steps after which deepinv's is stopped and judged; it hands out nothing on the way.
DEEPINV_STEPS = (20,)


def read_memory(what: str) -> int:
    """Read one of this process's memory figures, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"{what}:\s+(\d+)", text)
    assert match is not None
    return int(match.group(1)) * 1024


class PeakMemory:
    """Memory that a stretch of work takes above what the process held before."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        self.before = read_memory("VmRSS")

    def megabytes(self) -> float:
        """So far, in MB."""
        return (read_memory("VmHWM") - self.before) / 1e6


def run_preset(problem: Problem, preset: str) -> dict[str, Any]:
    """Our preset, as `napari_dip.denoise` and its like run it: dB against CPU seconds."""
    from napari_dip.pipeline.torch_state import load_torch

    load_torch()
    for name in (
        "engine.fit.loop",
        "engine.refinement",
        "pipeline.execute.fit_setup",
        "pipeline.execute.run_monitor",
        "pipeline.assess.merge",
    ):
        import_module(f"napari_dip.{name}")
    from napari_dip.pipeline.execute.run_monitor import RunMonitor

    RunMonitor.is_preview_due = _every_report()  # type: ignore[method-assign]
    peak, course = PeakMemory(), _run(problem, preset)
    spent, curve = 0.0, []
    while True:
        began = time.process_time()
        try:
            event = next(course)
        except StopIteration as ended:
            spent += time.process_time() - began
            answer = ended.value
            break
        spent += time.process_time() - began  # judging by the truth is not on the clock
        if event.preview is not None:
            curve.append({"seconds": spent, "dB": problem.judge(event.preview)})
    last = problem.judge(answer.image)
    curve.append({"seconds": spent, "dB": last})
    record = {"prior": answer.report["prior"]["key"], "iterations": answer.report["iterations"]}
    return {"dB": last, "seconds": spent, "MB": peak.megabytes(), "curve": curve, **record}


def _run(problem: Problem, preset: str) -> Iterator[Any]:
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.execute.runner import run
    from napari_dip.pipeline.machine import detect_machine
    from napari_dip.pipeline.plan.preflight import preflight
    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.recipe import make_recipe

    settings: dict[str, Any] = {"preset": preset, "device": "cpu"}
    data = {"image": counts(problem.noisy)}
    task = {"inpaint": "inpaint", "super-resolve": "super-resolve"}.get(problem.kind, "denoise")
    if task == "super-resolve":  # no noise in these images: all residuals count alike
        settings |= {"factor": problem.factor, "noise": "gaussian"}
    if problem.mask is not None:
        data["mask"] = np.where(problem.mask, 0, 255).astype(np.uint8)
    headers = {
        name: ImageHeader(
            name=name,
            shape=array.shape,
            dtype=str(array.dtype),
            axes="YX" if array.ndim == 2 else "YXS",
        )
        for name, array in data.items()
    }
    image = headers.pop("image")
    plan = preflight(make_recipe(task, **settings), image, detect_machine(), headers)
    assert isinstance(plan, Plan), plan
    return run(plan, data, preview_seconds=0)


def _every_report() -> Callable[[Any, bool], bool]:
    count = 0

    def due(_: Any, at_hand: bool) -> bool:
        nonlocal count
        count += 1
        return count % EVERY == 0

    return due


def measure_reference(problem: Problem) -> dict[str, Any]:
    """Take three steps of the reference network: what it takes in memory, and a step in time."""
    import torch

    from speed_reference import Fit

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    peak, fit = PeakMemory(), Fit(problem, half=False)
    for _ in range(3):
        fit.advance()
    return {"MB": peak.megabytes()}


def make_method(name: str) -> Callable[[Problem], dict[str, Any]]:
    """Make a way to time one of the other methods of the quality benchmark."""

    def run(problem: Problem) -> dict[str, Any]:
        from baselines import METHODS

        if "bm3d" in name:
            import bm3d

            bm3d.bm3d(np.random.default_rng(0).normal(size=(32, 32)), 1.0)  # loads its library
        peak, began = PeakMemory(), time.process_time()
        output = METHODS[name].run(problem.source, problem.noisy, problem.truth)
        spent = time.process_time() - began
        return {"dB": problem.judge(output.image), "seconds": spent, "MB": peak.megabytes()}

    return run


def run_deepinv(problem: Problem) -> dict[str, Any]:
    """Deep Image Prior of deepinv, as its own example has it."""
    import torch

    # Builds of torchvision for CUDA do not load beside a PyTorch for processors unless the two
    # operators exist that they describe at import. They find boxes; no denoising calls them.
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + boxes)
    import run_deepinv as dinv

    planes = problem.noisy[None] if problem.noisy.ndim == 2 else np.moveaxis(problem.noisy, -1, 0)
    measured = torch.from_numpy(np.ascontiguousarray(planes, np.float32))[None] / 255
    physics = dinv.physics.Denoising()
    curve = []
    peak = PeakMemory()
    for steps in DEEPINV_STEPS:
        torch.manual_seed(0)
        size = (problem.truth.shape[0] // 32, problem.truth.shape[1] // 32)
        net = dinv.models.ConvDecoder(img_size=measured.shape[1:], in_size=size)
        prior = dinv.models.DeepImagePrior(
            net, iterations=steps, learning_rate=1e-2, img_size=[256, *size]
        )
        began = time.process_time()
        image = prior(measured, physics)[0].detach().double().numpy() * 255
        pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
        spent = time.process_time() - began
        curve.append({"seconds": spent, "dB": problem.judge(pixels), "steps": steps})
    best = max(curve, key=lambda point: point["dB"])
    return {**best, "MB": peak.megabytes(), "curve": curve, "version": dinv.__version__}
