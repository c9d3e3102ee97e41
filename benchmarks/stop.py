"""How close the held-out stop comes to the best iterate, on ten named crops, for one prior.

Usage: python benchmarks/stop.py [--prior noise] [--preset fast]
Each fit runs to its last iteration; the stop rule is then asked, report by report, where it
would have ended and which iterate it would have kept. The truth is only used to judge.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.io import ImageSpec
from napari_dip.run.machine import this_machine
from napari_dip.run.plan import Plan, preflight
from napari_dip.run.recipe import make_recipe
from shared_data import fmd, psnr, write

if TYPE_CHECKING:
    from collections.abc import Callable

#: (field, capture, first row, first column) of each 256 x 256 crop.
CROPS = (
    ("Confocal_BPAE_B", 1, 128, 128),
    ("Confocal_BPAE_G", 1, 128, 128),
    ("Confocal_BPAE_R", 1, 128, 128),
    ("TwoPhoton_BPAE_B", 1, 128, 128),
    ("TwoPhoton_BPAE_R", 1, 128, 128),
    ("WideField_BPAE_B", 1, 128, 128),
    ("WideField_BPAE_R", 1, 128, 128),
    ("Confocal_BPAE_G", 2, 0, 0),
    ("TwoPhoton_BPAE_R", 3, 256, 256),
    ("WideField_BPAE_R", 4, 0, 256),
)


def follow(crop: tuple[str, int, int, int], prior: str, preset: str) -> dict[str, Any]:
    """Fit one crop to the end and compare the rule's choice with the oracle's."""
    import torch

    from napari_dip.engine.fit import fit
    from napari_dip.engine.stopping import never
    from napari_dip.run.fitting import make_fit, to_units
    from napari_dip.run.inputs import Inputs, sort_inputs
    from napari_dip.run.prepare import prepare

    field, capture, top, left = crop
    raw, truth = (image[top : top + 256, left : left + 256] for image in fmd(field, capture))
    recipe = make_recipe("denoise", prior=prior, preset=preset)
    plan = preflight(recipe, ImageSpec(field, raw.shape, "uint8", "YX"), this_machine())
    if not isinstance(plan, Plan):
        raise SystemExit(plan.message)
    torch.set_num_threads(plan.threads)
    inputs = sort_inputs(plan, {"image": raw})
    if not isinstance(inputs, Inputs):
        raise SystemExit(inputs.message)
    calibration, planes = prepare(plan, inputs)
    unit = plan.units[0]
    one = make_fit(plan, calibration, planes, unit)
    noise = one.scene.noise
    target = (
        torch.from_numpy(truth.astype(np.float32)) - calibration.offset[0]
    ) / calibration.scale[0]
    quality: dict[int, tuple[float, float]] = {}
    loop = fit(
        one.problem,
        one.prior,
        one.schedule,
        never,
        seed=one.seed,
        preview_due=every(one.schedule.report_every),
    )
    history = []
    for progress in loop:
        if progress.estimate is not None:
            mean = progress.estimate.mean
            true_loss = float(((mean[0, 0] - target) ** 2 / noise.at(mean)[0, 0]).mean())
            picture = to_units(calibration, unit, mean)[0]
            quality[progress.iteration] = (psnr(picture, truth), -10 * np.log10(true_loss))
        elif not progress.swept:
            history.append(progress.judgement)
    stopped = next((i + 1 for i in range(len(history)) if one.stop(history[: i + 1])), len(history))
    kept = min(history[:stopped], key=lambda entry: entry.held_out).iteration
    best = max(quality, key=lambda iteration: quality[iteration][0])
    best_weighted = max(quality, key=lambda iteration: quality[iteration][1])
    return {
        "crop": f"{field}_raw{capture}[{top}:{top + 256}, {left}:{left + 256}]",
        "input dB": psnr(raw, truth),
        "stopped at": history[stopped - 1].iteration,
        "kept": kept,
        "kept dB": quality[kept][0],
        "best iterate": best,
        "best dB": quality[best][0],
        "lost dB": quality[best][0] - quality[kept][0],
        "lost, noise model dB": float(quality[best_weighted][1] - quality[kept][1]),
    }


def every(reports: int) -> Callable[[], bool]:
    """Ask for a picture at each report."""
    count = 0

    def due() -> bool:
        nonlocal count
        count += 1
        return count % reports == 0

    return due


def main() -> None:
    """Run the ten crops and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="noise")
    parser.add_argument("--preset", default="fast")
    wish = parser.parse_args()
    rows = []
    for crop in CROPS:
        rows.append(follow(crop, wish.prior, wish.preset))
        print(rows[-1], file=sys.stderr, flush=True)
    summary = {
        "prior": wish.prior,
        "preset": wish.preset,
        "within 0.5 dB (PSNR)": sum(1 for row in rows if row["lost dB"] <= 0.5),
        "within 0.5 dB (noise model)": sum(1 for row in rows if row["lost, noise model dB"] <= 0.5),
        "mean lost dB": float(np.mean([row["lost dB"] for row in rows])),
    }
    write(f"stop_{wish.prior}_{wish.preset}", rows, summary)


if __name__ == "__main__":
    main()
