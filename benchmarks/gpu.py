"""Speed, utilisation and agreement with the CPU of a GPU, with and without CUDA graphs.

Usage: python benchmarks/gpu.py [steps] [runs] [agreement]   (default: all)

steps      milliseconds of a step at 256 x 256, as a recorded graph and operation by operation
           (512 `balanced` and 2,048 as well), and the share of the loop in which the card was busy
runs       seconds of 512 x 512 `balanced` and 2,048 x 2,048 `fast`, the second of two runs each
agreement  `fast` of 256 x 256 on processor and card: how far the images lie apart

Needs an NVIDIA card that PyTorch can use; it says so where there is none. Not run so far.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import torch
from skimage import data

import napari_dip as dip
from napari_dip.engine.fit.train_step import CudaGraphTrainStep, EagerTrainStep
from napari_dip.engine.fit.trainer import Trainer
from overhead import SIGMA, make_image, prepare
from shared_data import psnr, write

#: Steps before the clock starts, and on it.
WARM_UP, STEPS = 20, 200


def time_step(step: Trainer, compare_steps: int = STEPS) -> float:
    """Wall time of a step, the card waited for at both ends."""
    for _ in range(WARM_UP):
        step.advance()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(compare_steps):
        step.advance()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / compare_steps


def measure_busy_fraction(step: Trainer, compare_steps: int = 50) -> float:
    """Share of the loop's time in which kernels ran."""
    from torch.profiler import ProfilerActivity, profile

    time_step(step, 1)
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        for _ in range(compare_steps):
            step.advance()
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, last = 0.0, 0.0
    for start, end in spans:  # streams overlap: time counts once
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    return busy / 1e6 / took


def prepare_step(preset: str, side: int, *, graph: bool) -> Trainer:
    """Make one unit ready on the card, with its steps recorded or not."""
    fit = prepare(STEPS, device="cuda", preset=preset, image=make_image(side))
    step = Trainer(fit.problem, fit.prior, fit.schedule, seed=0)
    learner = step.train_step
    assert isinstance(learner, CudaGraphTrainStep)
    if not graph:
        step.train_step = learner.eager
        assert isinstance(step.train_step, EagerTrainStep)
    return step


def compare_steps() -> None:
    """Compare the two ways."""
    rows = []
    for preset, side in (("fast", 256), ("balanced", 512), ("fast", 2048)):
        row: dict[str, Any] = {"preset": preset, "side": side}
        for name, graph in (("graph", True), ("eager", False)):
            step = prepare_step(preset, side, graph=graph)
            row[f"{name}, ms"] = time_step(step)
            row[f"{name}, busy"] = measure_busy_fraction(step)
            row["note"] = step.note
        row["eager by graph"] = row["eager, ms"] / row["graph, ms"]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    write("gpu_steps", rows, {"asked for at 256": 2.0, "busy asked for": 0.8})


def time_runs() -> None:
    """Time whole runs, everything but the import included."""
    rows = []
    for preset, side, target_seconds in (("balanced", 512, 3.0), ("fast", 2048, 20.0)):
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            result = dip.denoise(make_image(side), preset=preset, device="cuda")
            seconds.append(time.perf_counter() - began)
        notes = "; ".join(result.report["notes"])
        rows.append(
            {"preset": preset, "side": side, "s": seconds[1], "asked": target_seconds, "n": notes}
        )
    write("gpu_runs", rows, {"most by asked": max(row["s"] / row["asked"] for row in rows)})


def compare_devices() -> None:
    """Compare the images of processor and card."""
    truth = data.camera()[128:384, 128:384].astype(np.float64)
    images = {
        device: dip.denoise(make_image(), preset="fast", device=device).image
        for device in ("cpu", "cuda")
    }
    apart = float(np.sqrt(np.mean((images["cpu"] - images["cuda"]) ** 2)))
    row = {f"{device}, dB": psnr(image, truth) for device, image in images.items()}
    write("gpu_agreement", [{**row, "apart, grey values": apart}], {"noise, grey values": SIGMA})


def main() -> None:
    """Do what was asked for."""
    parts = {"steps": compare_steps, "runs": time_runs, "agreement": compare_devices}
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    parts_chosen = ask.parse_args().parts or parts
    if not torch.cuda.is_available():
        sys.exit("There is no NVIDIA card that this PyTorch can use, so nothing was measured.")
    for name in parts_chosen:
        parts[name]()


if __name__ == "__main__":
    main()
