"""A GPU without the memory for a run: the CPU computes it, and a note says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_dip.io import ImageHeader
from napari_dip.pipeline.calibrate import run_plan
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.calibrate.types import CalibratedImage, RunPlan
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe

GPU_MACHINE = replace(detect_machine(), devices=("cuda", "cpu"))
MEGABYTE = 10**6


def make_run_plan(device: str) -> RunPlan:
    image = np.random.default_rng(0).poisson(40, (64, 64)).astype(np.float32)
    header = ImageHeader(name="image", shape=(64, 64), dtype="float32", axes="YX")
    plan = preflight(make_recipe("denoise", device=device), header, GPU_MACHINE)
    assert isinstance(plan, Plan)
    assert plan.device == "cuda"
    calibrated_image = calibrate_image(plan, {"image": image})
    assert isinstance(calibrated_image, CalibratedImage)
    return calibrated_image.run_plan


@pytest.mark.parametrize(
    ("chosen", "gpu_bytes", "main_bytes", "expected"),
    [
        ("auto", 10_000 * MEGABYTE, 10_000 * MEGABYTE, "cuda"),
        ("auto", 50 * MEGABYTE, 10_000 * MEGABYTE, "cpu"),
        ("cuda", 50 * MEGABYTE, 10_000 * MEGABYTE, "cuda"),
        ("auto", 50 * MEGABYTE, 20 * MEGABYTE, "cuda"),  # the CPU has no room either
    ],
)
def test_a_run_goes_to_the_cpu_if_the_gpu_has_too_little_memory(
    monkeypatch: pytest.MonkeyPatch, chosen: str, gpu_bytes: int, main_bytes: int, expected: str
) -> None:
    monkeypatch.setattr(run_plan, "read_free_gpu_memory", lambda: gpu_bytes)
    monkeypatch.setattr(run_plan, "read_free_memory", lambda: main_bytes)
    plan = make_run_plan(chosen)
    assert plan.device == expected
    sentences = [str(note) for note in plan.notes if note.code == "gpu-memory-small"]
    assert len(sentences) == (expected == "cpu")
    assert all("50 MB of memory free" in sentence for sentence in sentences)
