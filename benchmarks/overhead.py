"""CPU time of the fit loop, against a hand-written loop and the network's layers alone.

Usage: python benchmarks/overhead.py [--pairs 10] [--iterations 60]
The hand-written loop has the same network, draws, loss, optimizer, clipping and average, and judges
nothing; both are timed in CPU seconds, in turns. The network's layers alone are timed as well: the
same shapes, forward and backward, with nothing around them.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage import data

from napari_dip.engine.fit.loop import fit
from napari_dip.engine.fit.stopping import never_stop
from napari_dip.engine.fit.train_step import (
    convert_to_channels_last,
    has_fast_bfloat16,
    run_in_bfloat16,
)
from napari_dip.engine.networks.hourglass import Hourglass
from napari_dip.io import ImageHeader
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.calibrate.types import CalibratedImage
from napari_dip.pipeline.execute.fit_setup import PreparedFit, prepare_fit
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from shared_data import write

if TYPE_CHECKING:
    from napari_dip.engine.fit.optimizers import Schedule

SIDE, SIGMA = 256, 20.0


def make_image(side: int = SIDE) -> np.ndarray:
    """Crop of camera with Gaussian noise; larger ones are mirrored."""
    truth = data.camera()[128 : 128 + SIDE, 128 : 128 + SIDE].astype(np.float64)
    truth = np.pad(truth, (0, max(0, side - SIDE)), mode="symmetric")[:side, :side]
    return np.asarray(truth + np.random.default_rng(0).normal(0, SIGMA, truth.shape), np.float32)


def prepare(
    iterations: int,
    device: str = "cpu",
    preset: str = "fast",
    image: np.ndarray | None = None,
    prior: str = "auto",
) -> PreparedFit:
    """One unit, ready for the loop."""
    image = make_image() if image is None else image
    recipe = make_recipe(
        "denoise", preset=preset, max_iterations=iterations, device=device, prior=prior
    )
    plan = preflight(
        recipe,
        ImageHeader(name="camera", shape=image.shape, dtype="float32", axes="YX"),
        detect_machine(),
    )
    assert isinstance(plan, Plan)
    calibrated = calibrate_image(plan, {"image": image})
    assert isinstance(calibrated, CalibratedImage)
    return prepare_fit(calibrated, calibrated.run_plan.units[0])


def time_engine(prepared: PreparedFit) -> float:
    """CPU seconds of the engine's loop, judging and all but the last look."""
    began = time.process_time()
    for progress in fit(prepared.problem, prepared.prior, prepared.schedule, never_stop, seed=0):
        if progress.iteration == prepared.schedule.last_iteration:
            break
    return time.process_time() - began


def time_manual_loop(fit: PreparedFit) -> float:
    """CPU seconds of the same written by hand."""
    net, schedule, measurement = fit.prior.network, fit.schedule, fit.fit_input.measurement
    rng = torch.Generator().manual_seed(0)
    sigma = fit.fit_input.noise.noise_variance.compute_variance(measurement).sqrt()
    half = schedule.uses_bfloat16 and has_fast_bfloat16(measurement.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0, foreach=True)
    kept = [weight.detach().clone() for weight in net.parameters()]
    weight = fit.problem.terms[0].training_pixel_weights
    began = time.process_time()
    for iteration in range(1, schedule.last_iteration + 1):
        optimizer.param_groups[0]["lr"] = schedule.get_rates(iteration)[0]
        noise = torch.empty_like(measurement).normal_(generator=rng) * sigma
        code = convert_to_channels_last(measurement + 0.5 * noise)
        residual = measurement - noise / 0.5 - (run_in_bfloat16(net, code) if half else net(code))
        loss = (residual**2 * weight).sum() / weight.sum() / fit.fit_input.noise.rms_std**2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), schedule.max_gradient_norm, foreach=True)
        optimizer.step()
        with torch.no_grad():
            decay = min(schedule.average_decay, iteration / (iteration + 9))
            torch._foreach_lerp_(kept, list(net.parameters()), 1 - decay)
    return time.process_time() - began


def time_layers(fit: PreparedFit, schedule: Schedule) -> float:
    """CPU seconds of the network's forward and backward passes alone."""
    net = fit.prior.network
    assert isinstance(net, Hourglass)
    code = convert_to_channels_last(fit.fit_input.measurement)
    half = schedule.uses_bfloat16 and has_fast_bfloat16(code.device)
    began = time.process_time()
    for _ in range(schedule.last_iteration):
        output = run_in_bfloat16(net, code) if half else net(code)
        output.backward(torch.ones_like(output))
    return time.process_time() - began


def main() -> None:
    """Time in turns and write the medians."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--pairs", type=int, default=10)
    ask.add_argument("--iterations", type=int, default=60)
    options = ask.parse_args()
    torch.set_num_threads(1)
    rows = []
    for pair in range(options.pairs + 1):  # the first warms up and is left out
        row = {
            "pair": pair,
            "engine": time_engine(prepare(options.iterations)),
            "by hand": time_manual_loop(prepare(options.iterations)),
        }
        fit = prepare(options.iterations)
        row["layers alone"] = time_layers(fit, fit.schedule)
        rows.append(row)
        print(row, flush=True)
    rows = rows[1:]
    ratios = [row["engine"] / row["by hand"] for row in rows]
    shares = [row["layers alone"] / row["engine"] for row in rows]
    summary = {
        "engine by hand-written loop, median": float(np.median(ratios)),
        "layers alone by engine, median": float(np.median(shares)),
    }
    write("overhead", rows, summary)


if __name__ == "__main__":
    main()
