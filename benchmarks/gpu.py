"""A GPU: speed with and without CUDA graphs, agreement with the CPU, and every frozen recipe.

Usage: python benchmarks/gpu.py [recipes] [steps] [runs] [agreement] [presets] [volumes]
       (default: all)

recipes    all frozen recipes of tests/golden on the GPU: errors, notes, and waits within a step
steps      milliseconds of a step, recorded as a CUDA graph and operation by operation; kernels of a
           step, and the share of the loop in which the GPU was busy
runs       seconds of whole runs in a program that has PyTorch loaded, the second of two each
agreement  every task and prior against the truth; with --device cpu the same on the processor
presets    four sets of the quality benchmark with each preset: PSNR, coverage, seconds of each run
volumes    learning rates and iterations of volumes: PSNR of four stacks, three seeds each

Needs an NVIDIA GPU that PyTorch can use; it says so where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import napari_dip as dip
from napari_dip.engine.fit.train_step import CudaGraphTrainStep
from napari_dip.engine.fit.trainer import Trainer
from overhead import SIGMA, make_image, prepare
from quality_sets import SETS, interval_coverage
from shared_data import OUT, counts, data_folder, psnr, write
from stacks import PEAK, READ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Steps before the clock starts, and on it.
WARM_UP, STEPS = 20, 200
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # `golden`, imported where used
#: Processes that share the GPU where times do not count.
PROCESSES = 12
PRESETS = ("instant", "fast", "balanced", "best")
PRESET_SETS = ("fmd", "set12-25", "color9-25", "kodak256-50")
#: Learning rate and iterations of a volume.
VOLUME_SCHEDULES = (
    (0.0025, 250),
    (0.00125, 250),
    (0.000625, 250),
    (0.00125, 350),
    (0.00125, 500),
    (0.0025, 600),
    (0.00125, 600),
)


def run_recipes(_: str) -> None:
    """Run the frozen recipes that Python can run."""
    from golden.recipes import RECIPES

    names = [recipe.name for recipe in RECIPES if {"python", "command"} & set(recipe.interfaces)]
    rows = list(_map(_run_recipe, names))
    write(
        "gpu_recipes",
        rows,
        {
            "recipes": len(rows),
            "failed": sum(bool(row["error"]) for row in rows),
            "not recorded": sum(row["eager steps"] > 0 for row in rows),
            "with waits in a step": sum(row["waits"] > 0 for row in rows),
        },
    )


def _run_recipe(name: str) -> dict[str, Any]:
    from dataclasses import replace

    from golden.interfaces import run
    from golden.recipes import RECIPES

    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    watch = StepWatch()
    row: dict[str, Any] = {"recipe": name, "error": ""}
    began = time.perf_counter()
    with watch:
        try:
            run(replace(recipe, settings={**recipe.settings, "device": "cuda"}), "python")
        except Exception:
            row["error"] = traceback.format_exc()[-1500:]
    return row | {"s": time.perf_counter() - began} | watch.summarise()


class StepWatch:
    """Count recorded and eager steps, and operations in a step that wait for the GPU."""

    def __init__(self) -> None:
        self.waits: list[int] = []
        self.recorded = self.eager = 0
        self.notes: set[str] = set()

    def __enter__(self) -> None:
        self._advance = Trainer.advance
        advance, watch = self._advance, self

        def advance_and_count(trainer: Trainer) -> None:
            step = trainer.train_step
            is_warm = trainer.iteration > 2 and getattr(step, "_graph", 1) is not None
            torch.cuda.set_sync_debug_mode("warn" if is_warm else "default")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    advance(trainer)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            if is_warm:
                waits = [item for item in caught if "called a synchronizing" in str(item.message)]
                watch.waits.append(len(waits))
                watch.notes |= {f"waits at {Path(w.filename).name}:{w.lineno}" for w in waits}
            is_recorded = isinstance(step, CudaGraphTrainStep) and step.note is None
            watch.recorded += is_recorded
            watch.eager += not is_recorded
            if step.note is not None:
                watch.notes.add(str(step.note))

        Trainer.advance = advance_and_count  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Trainer.advance = self._advance  # type: ignore[method-assign]

    def summarise(self) -> dict[str, Any]:
        """Return columns of a row."""
        return {
            "recorded steps": self.recorded,
            "eager steps": self.eager,
            "waits": median(self.waits) if self.waits else 0,
            "notes": "; ".join(sorted(self.notes)),
        }


def compare_steps(_: str) -> None:
    """Compare recorded and eager steps."""
    rows = []
    for prior, preset, side in (
        ("r2r", "fast", 256),
        ("blind-spot", "fast", 256),
        ("random-input", "fast", 256),
        ("r2r", "best", 512),
        ("random-input", "best", 512),
    ):
        row: dict[str, Any] = {"prior": prior, "preset": preset, "side": side}
        for name, graph in (("graph", True), ("eager", False)):
            trainer = prepare_trainer(prior, preset, side, graph=graph)
            row[f"{name}, ms"] = time_step(trainer)
            row |= {f"{name}, {key}": value for key, value in profile_steps(trainer).items()}
            row["note"] = str(trainer.note or "")
        row["eager by graph"] = row["eager, ms"] / row["graph, ms"]
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    write("gpu_steps", rows, {"asked for at 256": 2.0, "busy asked for": 0.8})


def prepare_trainer(prior: str, preset: str, side: int, *, graph: bool) -> Trainer:
    """Make one unit ready on the GPU, with its steps recorded or not."""
    fit = prepare(
        WARM_UP + 2 * STEPS, device="cuda", preset=preset, image=make_image(side), prior=prior
    )
    trainer = Trainer(fit.problem, fit.prior, fit.schedule, seed=0)
    step = trainer.train_step
    assert isinstance(step, CudaGraphTrainStep)
    if not graph:
        trainer.train_step = step.eager
    return trainer


def time_step(trainer: Trainer, steps: int = STEPS) -> float:
    """Return milliseconds of a step, the GPU waited for at both ends."""
    for _ in range(WARM_UP):
        trainer.advance()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        trainer.advance()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / steps


def profile_steps(trainer: Trainer, steps: int = 30) -> dict[str, Any]:
    """Return the share of time in which kernels ran, and kernels and longest kernels of a step."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        for _ in range(steps):
            trainer.advance()
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    kernels = [
        event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    busy, last = 0.0, 0.0
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    for start, end in spans:  # streams overlap: time counts once
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    by_name: dict[str, float] = {}
    for event in kernels:
        length = (event.time_range.end - event.time_range.start) / 1000 / steps
        by_name[event.name] = by_name.get(event.name, 0.0) + length
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:12]
    print(*(f"{took:.3f} ms  {name[:110]}" for name, took in longest), sep="\n", file=sys.stderr)
    return {"busy": busy / 1e6 / took, "kernels": round(len(kernels) / steps)}


def time_runs(_: str) -> None:
    """Time whole runs, everything but the import included."""
    cases: tuple[tuple[str, int, Mapping[str, Any]], ...] = (
        *((preset, 512, {}) for preset in PRESETS),
        ("fast", 512, {"prior": "blind-spot"}),
        ("fast", 512, {"prior": "random-input"}),
        ("fast", 2048, {}),
    )
    rows = []
    for preset, side, settings in cases:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            result = dip.denoise(make_image(side), preset=preset, device="cuda", **settings)
            seconds.append(time.perf_counter() - began)
        rows.append(
            {
                "preset": preset,
                "prior": settings.get("prior", "auto"),
                "side": side,
                "first, s": seconds[0],
                "second, s": seconds[1],
                "iterations": result.report["iterations"],
                "notes": _list_note_codes(result),
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    write("gpu_runs", rows, {})


def make_cases() -> Iterator[tuple[str, Callable[[str], tuple[Any, np.ndarray]]]]:
    """Yield the name of a case, and what runs it on a device: result and truth."""
    truth = data.camera()[128:256, 200:328].astype(np.float64)
    rng = np.random.default_rng(0)
    noisy = np.asarray(truth + rng.normal(0, SIGMA, truth.shape), np.float32)
    mask = rng.random(truth.shape) < 0.5
    block = np.zeros(truth.shape, bool)
    block[40:52, 30:70] = block[90:100, 80:110] = True
    stack = np.stack([np.roll(truth, shift, 1) for shift in range(6)])
    noisy_stack = np.asarray(stack + rng.normal(0, SIGMA, stack.shape), np.float32)
    blurred = np.asarray(gaussian_filter(truth, 1.5) + rng.normal(0, 1, truth.shape), np.float32)
    colours = data.astronaut()[:128, 150:278].astype(np.float64)
    noisy_colours = np.asarray(colours + rng.normal(0, SIGMA, colours.shape), np.float32)
    small = np.asarray(truth.reshape(64, 2, 64, 2).mean((1, 3)), np.float32)

    for prior in ("r2r", "blind-spot", "random-input"):
        yield f"denoise, {prior}", partial(_restore, "denoise", noisy, truth, prior=prior)
    yield "denoise, colours", partial(_restore, "denoise", noisy_colours, colours, axes="YXS")
    yield "denoise, volume", partial(_restore, "denoise", noisy_stack, stack, axes="ZYX")
    yield "denoise, movie", partial(_restore, "denoise", noisy_stack, stack, axes="TYX")
    for prior in ("masked-input", "random-input", "random-input-no-skips"):
        yield (
            f"inpaint half, {prior}",
            partial(_restore, "inpaint", truth, truth, mask=mask, prior=prior),
        )
    yield "inpaint blocks", partial(_restore, "inpaint", truth, truth, mask=block)
    for prior in ("zssr", "random-input"):
        yield (
            f"super-resolve, {prior}",
            partial(_restore, "super_resolve", small, truth, factor=2, prior=prior),
        )
    yield "deblur", partial(_restore, "deblur", blurred, truth, gaussian_sigma=1.5)
    yield (
        "blind deblur",
        partial(_restore, "blind_deblur", blurred, truth, blur="gaussian", psf_size=11),
    )
    yield "guide", partial(_restore, "guide", noisy, truth, guide=truth + 0.0)


def _restore(
    task: str, image: Any, truth: np.ndarray, device: str, **settings: Any
) -> tuple[Any, np.ndarray]:
    result = getattr(dip, task)(image, preset="fast", device=device, seed=1, **settings)
    return result, truth


def _run_case(device: str, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    began = time.perf_counter()
    row: dict[str, Any] = {"case": name, "dB": float("nan"), "iterations": 0}
    try:
        result, truth = dict(make_cases())[name](device)
    except Exception:
        return row | {"s": time.perf_counter() - began, "notes": traceback.format_exc()[-900:]}
    row |= {"dB": psnr(result.image, truth), "iterations": result.report["iterations"]}
    return row | {"s": time.perf_counter() - began, "notes": _list_note_codes(result)}


def _list_note_codes(result: dip.Restoration) -> str:
    return " ".join(note["code"] for note in result.report["note_codes"])


def compare_devices(device: str) -> None:
    """Run every task and prior on a device, and set it beside the other one if that was run."""
    names = [name for name, _ in make_cases()]
    rows = list(_map(partial(_run_case, device), names))
    other = OUT / f"gpu_agreement_{'cuda' if device == 'cpu' else 'cpu'}.json"
    if other.exists():
        other_dB = {row["case"]: row["dB"] for row in json.loads(other.read_text())["rows"]}
        for row in rows:
            row["above the other, dB"] = row["dB"] - other_dB.get(row["case"], float("nan"))
    write(f"gpu_agreement_{device}", rows, {"device": device})


def _run_preset(case: tuple[str, str, str]) -> dict[str, Any]:
    preset, image_set, name = case
    torch.set_num_threads(1)
    image_case = next(item for item in SETS[image_set]() if item.name == name)
    noisy, truth = image_case.load()
    axes = "YXS" if noisy.ndim == 3 else "YX"
    began = time.perf_counter()
    result = dip.denoise(counts(noisy), preset=preset, axes=axes, device="cuda")
    return {
        "set": image_set,
        "preset": preset,
        "image": name,
        "dB": psnr(result.image, truth),
        "inside 90 %": interval_coverage(image_case, result.image, result.uncertainty, truth),
        "iterations": result.report["iterations"],
        "s": time.perf_counter() - began,
    }


def compare_presets(_: str) -> None:
    """Restore the images of four sets with each preset."""
    cases = [
        (preset, image_set, item.name)
        for preset in PRESETS
        for image_set in PRESET_SETS
        for item in SETS[image_set]()
    ]
    rows = list(_map(_run_preset, cases))
    summary = {
        f"{image_set}, {preset}, mean dB": mean(
            row["dB"] for row in rows if (row["set"], row["preset"]) == (image_set, preset)
        )
        for image_set in PRESET_SETS
        for preset in PRESETS
    }
    write("gpu_presets", rows, summary)


def load_volume(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Return noisy and true planes, and the peak of the PSNR."""
    rng = np.random.default_rng(0)
    if name == "sheared":  # camera, a pixel further in each plane
        plane = data.camera()[128:256, 200:328].astype(np.float64)
        truth = np.stack([np.roll(plane, shift, 1) for shift in range(6)])
        return np.asarray(truth + rng.normal(0, SIGMA, truth.shape), np.float32), truth, 255.0
    stack = np.squeeze(tifffile.imread(data_folder() / "stacks3d" / f"{name}.tif"))
    halves = (5, *(min(64, side // 2) for side in stack.shape[1:]))
    middle = [
        slice(side // 2 - half, side // 2 + half)
        for side, half in zip(stack.shape, halves, strict=True)
    ]
    truth = stack[tuple(middle)].astype(np.float64)
    truth *= PEAK / np.quantile(truth, 0.999)
    noisy = rng.poisson(truth) + rng.normal(0, READ, truth.shape)
    return np.asarray(noisy, np.float32), truth, PEAK


def _run_volume(case: tuple[str, float, int, int]) -> dict[str, Any]:
    from napari_dip.pipeline.plan import costs

    name, rate, iterations, seed = case
    torch.set_num_threads(1)
    presets = json.loads(json.dumps(costs.read_presets("denoise")))
    presets["blind-spot"]["fast"]["volume"] = {"learning_rate": rate, "iterations": iterations}
    costs.read_presets = lambda task: presets  # type: ignore[assignment]
    noisy, truth, peak = load_volume(name)
    result = dip.denoise(noisy, axes="ZYX", preset="fast", seed=seed, device="cuda")
    error = np.mean((result.image.astype(np.float64) - truth) ** 2)
    return {
        "stack": name,
        "rate": rate,
        "iterations": iterations,
        "seed": seed,
        "dB": float(10 * np.log10(peak**2 / error)),
        "notes": _list_note_codes(result),
    }


def compare_volume_rates(_: str) -> None:
    """Restore four stacks as volumes, with learning rates and iterations of the blind spot."""
    cases = [
        (name, rate, iterations, seed)
        for name in ("sheared", "arabidopsis_embryo", "pollen", "nuclei3d_stardist")
        for rate, iterations in VOLUME_SCHEDULES
        for seed in range(3)
    ]
    write("gpu_volumes", list(_map(_run_volume, cases)), {})


def _map(run: Callable[[Any], dict[str, Any]], items: list[Any]) -> Iterator[dict[str, Any]]:
    """Run items in processes that share the GPU, in order."""
    workers = min(PROCESSES, os.cpu_count() or 1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for row in pool.map(run, items):
            print(row, file=sys.stderr, flush=True)
            yield row


def main() -> None:
    """Do what was asked for."""
    parts = {
        "recipes": run_recipes,
        "steps": compare_steps,
        "runs": time_runs,
        "agreement": compare_devices,
        "presets": compare_presets,
        "volumes": compare_volume_rates,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    parser.add_argument("--device", default="cuda", help="of the part 'agreement'")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no NVIDIA GPU that this PyTorch can use, so nothing was measured.")
    for name in options.parts or parts:
        parts[name](options.device)


if __name__ == "__main__":
    main()
