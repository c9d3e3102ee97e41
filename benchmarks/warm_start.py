"""Fits that start from the weights of another image, against fits from random weights: PSNR.

    NAPARI_DIP_DATA=FOLDER python benchmarks/warm_start.py

Crops of 96 x 96: a field of FMD, and camera of scikit-image with noise of 20 grey levels. The
weights come from another shot of the same place (an upper bound: that is a second measurement),
from another place of the same image (a sister), or from another subject. Each budget of
iterations is a fit of its own with its own rates and its own stop, as a run of that length has. A
fit that is done is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from skimage import data

from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.torch_state import load_torch, use_default_torch_state
from shared_data import OUT, fmd, write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SIDE = 96
BUDGETS = (25, 50, 100, 250)
#: Of the fit that the weights come from: that of the preset `fast` where the network is shown the
#: image.
BEFORE = 250
NOISE = 20.0
PRIORS = ("random-input", "r2r")
FIELD = "Confocal_BPAE_G"
#: Where crops begin: the one that is restored, and its sister.
PLACES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    FIELD: ((128, 128), (320, 320)),
    "camera": ((96, 144), (300, 60)),
}
STARTS = ("cold", "same place, another shot", "another place", "another subject")


@dataclass(frozen=True, eq=False)
class NoisyCrop:
    """A noisy crop and what it should have been."""

    noisy: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float64]


def make_noisy_crop(name: str, place: tuple[int, int], number: int) -> NoisyCrop:
    """Take one shot of one place; the noise of scikit-image's images is drawn by its number."""
    cut = tuple(slice(begin, begin + SIDE) for begin in place)
    if name == FIELD:
        raw, truth = fmd(name, number)
        return NoisyCrop(raw[cut].astype(np.float32), truth[cut])
    whole = getattr(data, name)().astype(np.float64)
    drawn = np.random.default_rng(number).normal(0, NOISE, whole.shape)
    return NoisyCrop((whole + drawn)[cut].astype(np.float32), whole[cut])


def find_start(name: str, start: str) -> NoisyCrop | None:
    """Give the shot whose weights a fit begins with; None: with none."""
    reference, shifted = PLACES[name]
    other = "camera" if name == FIELD else FIELD
    return {
        "cold": None,
        "same place, another shot": make_noisy_crop(name, reference, 2),
        "another place": make_noisy_crop(name, shifted, 1),
        "another subject": make_noisy_crop(other, PLACES[other][0], 1),
    }[start]


def run_fit(
    shot: NoisyCrop, prior: str, count: int, weights: Mapping[str, Tensor] | None = None
) -> tuple[float, Mapping[str, Tensor]]:
    """Denoise with that many iterations; PSNR at a peak of 255, and the weights."""
    from napari_dip.engine.fit.loop import fit
    from napari_dip.io import ImageHeader
    from napari_dip.pipeline.calibrate.run_plan import calibrate_image
    from napari_dip.pipeline.execute.fit_setup import convert_to_image_units, prepare_fit

    recipe = make_recipe("denoise", prior=prior, preset="fast", max_iterations=count, device="cpu")
    plan = preflight(
        recipe,
        ImageHeader(name="crop", shape=shot.noisy.shape, dtype="float32", axes="YX"),
        detect_machine(),
    )
    image = calibrate_image(plan, {"image": shot.noisy})
    with use_default_torch_state(plan.threads):
        prepared = prepare_fit(image, image.run_plan.units[0])
        loop = fit(
            prepared.problem,
            prepared.prior,
            prepared.schedule,
            prepared.stop_rule,
            seed=prepared.unit.seed,
            warm_start=weights,
        )
        result = drain_generator(loop)
    pixels = convert_to_image_units(image.calibration, plan.units[0], result.estimate.mean)[0]
    error = np.mean((pixels.astype(np.float64) - shot.truth) ** 2)
    return float(10 * np.log10(255**2 / error)), result.weights


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    load_torch()
    folder = OUT / "warm_start"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in PLACES:
        for prior in PRIORS:
            for start in STARTS:
                kept = folder / f"{prior}_{name}_{start.replace(', ', '_').replace(' ', '_')}.json"
                if not kept.is_file():
                    kept.write_text(json.dumps(make_row(prior, name, start)), encoding="utf-8")
                rows.append(json.loads(kept.read_text(encoding="utf-8")))
                print(rows[-1], flush=True)
    write("warm_start", rows, summarise(rows))


def make_row(prior: str, name: str, start: str) -> dict[str, Any]:
    """One line of the table: PSNR after each budget."""
    begun = time.process_time()
    before, target = find_start(name, start), make_noisy_crop(name, PLACES[name][0], 1)
    weights = None if before is None else run_fit(before, prior, BEFORE)[1]
    scores = {f"{count}": run_fit(target, prior, count, weights)[0] for count in BUDGETS}
    error = np.mean((target.noisy - target.truth) ** 2)
    return {
        "prior": prior,
        "picture": name,
        "begins with": start,
        "input": float(10 * np.log10(255**2 / error)),
        **scores,
        "CPU s": time.process_time() - begun,
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean gain over a cold start, over the images."""
    means: dict[str, Any] = {}
    cold = {(row["prior"], row["picture"]): row for row in rows if row["begins with"] == "cold"}
    for prior in PRIORS:
        for start in STARTS[1:]:
            mine = [row for row in rows if row["prior"] == prior and row["begins with"] == start]
            gains = [
                np.mean([row[f"{n}"] - cold[prior, row["picture"]][f"{n}"] for row in mine])
                for n in BUDGETS
            ]
            gains_text = ", ".join(f"{gain:+.2f}" for gain in gains)
            means[f"{prior}, {start}: dB over a cold start at {BUDGETS}"] = gains_text
    return means


if __name__ == "__main__":
    main()
