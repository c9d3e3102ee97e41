"""Rank correlation of the scores of architectures with the PSNR that they reach.

    python benchmarks/architectures.py --side 96 --iterations 200

Five free images with noise of half their standard deviation; designs of `napari-dip explore
architectures`. For each image the designs are ranked by impedance score, band score and held-out
error, and by what only the truth knows: the PSNR of the best running average (oracle) and of the
one that validation pixels take. A fit that is done is not computed again.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from skimage import data
from tifffile import imread

from napari_dip.explore.experiment_setup import (
    list_plan_architectures,
    make_experiment_setup,
    measure_blind_spot_size,
)
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.torch_state import use_default_torch_state
from napari_dip.samples import TWO_CHANNELS
from shared_data import OUT, write

#: The order is that of the work: the micrograph second, so that a part of it says something, too.
IMAGES = ("camera", "mitochondria", "coins", "cell", "brick")
DESIGNS = (
    "preset",
    "no-skips",
    "decoder",
    "depth-1",
    "depth-2",
    "depth-6",
    "half-width",
    "nearest",
    "coordinates",
    "sgd",
    "deep-decoder",
    "wide-deep-decoder",
    "upsampling-0.5",
    "lipschitz-2",
    "decoder+lipschitz-2",
    "decoder+lipschitz-2+upsampling-0.5",
)
#: Left out in a second look, after the fact: on most images still getting better at the end.
SLOW = ("coordinates", "deep-decoder", "wide-deep-decoder")
NOISE = 0.5  # of the image's standard deviation
SCORES = ("impedance", "band_score", "held_out_error")
TRUTHS = ("oracle_psnr", "taken_psnr")


class FitSize(NamedTuple):
    """Side of the images, and iterations of each fit."""

    side: int
    iterations: int


def load_clean(name: str, side: int) -> npt.NDArray[np.float32]:
    """Cut the middle out of an image of scikit-image, or of the mitochondria that we ship."""
    whole = imread(TWO_CHANNELS)[0] if name == "mitochondria" else getattr(data, name)()
    row, column = ((count - side) // 2 for count in whole.shape)
    return whole[row : row + side, column : column + side].astype(np.float32)


def run_fit(name: str, design: str, size: FitSize, noise: dict[Any, Any]) -> dict[str, Any]:
    """Fit one design to one image, and to noise where that is not known yet."""
    from napari_dip.explore.architecture_fits import fit_architecture

    truth = load_clean(name, size.side)
    drawn = np.random.default_rng(0).standard_normal(truth.shape)
    noisy = (truth + NOISE * truth.std() * drawn).astype(np.float32)
    subject = make_experiment_setup(
        noisy, crop=size.side, max_iterations=size.iterations, device="cpu", preset="fast"
    )
    block = measure_blind_spot_size(subject)
    noise_of_design = noise.get((design, block))
    with use_default_torch_state(subject.plan.threads):
        result = drain_generator(
            fit_architecture(
                list_plan_architectures(subject.plan)[design],
                subject,
                truth,
                block,
                noise_loss=noise_of_design,
            )
        )
    noise[design, block] = result.noise_loss
    return {
        "name": design,
        "weights": result.weight_count,
        "impedance": result.impedance,
        "band_score": result.band_score,
        "held_out_error": result.validation_error,
        "oracle_psnr": result.best_psnr,
        "oracle_iteration": int(result.psnr.argmax()) + 1,
        "taken_psnr": result.selected_psnr,
        "taken": result.stop.selected_iteration,
        "milliseconds": 1000 * result.seconds_per_iteration,
        "block": list(block),
        "noise": result.noise_loss.tolist(),
        "energy": result.image_loss.tolist(),
    }


def main() -> None:
    """Measure what is not measured yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--iterations", type=int, default=200)
    options = parser.parse_args()
    size = FitSize(options.side, options.iterations)
    name = f"architectures_{size.side}_{size.iterations}"
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    noise: dict[Any, Any] = {}
    for image in IMAGES:
        for design in DESIGNS:
            kept = folder / f"{image}_{design}.json"
            if not kept.is_file():
                result = run_fit(image, design, size, noise)
                kept.write_text(json.dumps(result), encoding="utf-8")
                print(image, design, f"{result['oracle_psnr']:.2f} dB", flush=True)
            row = json.loads(kept.read_text(encoding="utf-8"))
            noise[design, tuple(row["block"])] = np.array(row["noise"])
            rows.append({"picture": image, **row})
    quick = [row for row in rows if row["name"] not in SLOW]
    without = {
        f"without {', '.join(SLOW)}: {key}": said
        for key, said in compute_correlations(quick).items()
    }
    summary = compute_correlations(rows) | without
    columns = ("picture", "name", *SCORES, *TRUTHS, "oracle_iteration", "taken", "milliseconds")
    write(name, [{key: _round(row[key]) for key in columns} for row in rows], summary)


def compute_correlations(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of each score with each truth, image by image, and their mean."""
    result: dict[str, Any] = {}
    for truth in TRUTHS:
        for score in SCORES:
            sign = -1 if score == "held_out_error" else 1  # less is better there
            each = []
            for image in dict.fromkeys(row["picture"] for row in rows):
                mine = [row for row in rows if row["picture"] == image]
                scores, goal = ([row[key] for row in mine] for key in (score, truth))
                each.append(sign * float(spearmanr(scores, goal).statistic))
            values_text = ", ".join(f"{value:+.2f}" for value in each)
            result[f"{score} and {truth}"] = f"{values_text}; mean {np.mean(each):+.2f}"
    return result


def _round(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
