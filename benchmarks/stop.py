"""How close the held-out stop comes to the best iterate, for one prior; resumable.

Usage: python benchmarks/stop.py [--prior random-input] [--preset fast] [--sets fmd w2s ...]
       [--whole color9-25/F16]
Without --sets ten named crops of FMD; with it, the middle 256 x 256 pixels of four pictures of
each set, chosen by seed 0; or named pictures, whole. Pictures that were stretched to 8 bit are
brought to the truth by a straight line before they are judged.
Each fit runs to its last iteration; the stop rule is then asked, report by report, where it would
have ended and which iterate it would have kept. The truth is only used to judge. Validation losses
and PSNR of all reports are kept in the JSON of the lines, for benchmarks/prior_selection.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.io import ImageHeader
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from quality_sets import SETS, line_psnr
from shared_data import OUT, counts, fmd, psnr, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

#: Side of a crop, and pictures of each set.
SIDE, PICTURES = 256, 4
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


@dataclass(frozen=True)
class Crop:
    """A noisy crop, its truth, and what judges a picture of it, in dB."""

    name: str
    noisy: npt.NDArray[Any]
    truth: npt.NDArray[np.float64]
    judge: Callable[..., float]


def named_crops() -> Iterator[Crop]:
    """Cut the ten crops out."""
    for field, capture, row, column in CROPS:
        raw, truth = (
            image[row : row + SIDE, column : column + SIDE] for image in fmd(field, capture)
        )
        name = f"{field}_raw{capture}[{row}:{row + SIDE}, {column}:{column + SIDE}]"
        yield Crop(name, raw, truth, psnr)


def seeded_crops(names: list[str]) -> Iterator[Crop]:
    """Cut the middle out of four pictures of each set."""
    for name in names:
        cases = list(SETS[name]())
        for place in sorted(np.random.default_rng(0).permutation(len(cases))[:PICTURES]):
            case = cases[place]
            noisy, truth = case.load()
            starts = (max(0, (side - SIDE) // 2) for side in truth.shape[:2])
            middle = tuple(slice(start, start + SIDE) for start in starts)
            noisy, truth = noisy[middle], truth[middle]
            judge = line_psnr if case.stretched else psnr
            yield Crop(f"{name}/{case.name}", noisy, truth, judge)


def whole_pictures(names: list[str]) -> Iterator[Crop]:
    """Take pictures as they are, each named by its set and its own name."""
    for name in names:
        group, own = name.split("/")
        case = next(case for case in SETS[group]() if case.name == own)
        yield Crop(f"{name}, whole", *case.load(), line_psnr if case.stretched else psnr)


def follow(crop: Crop, prior: str, preset: str) -> dict[str, Any]:
    """Fit one crop to the end and compare the rule's choice with the oracle's."""
    import torch

    from napari_dip.engine.fit.loop import fit
    from napari_dip.engine.fit.stopping import never_stop
    from napari_dip.pipeline.calibrate.run_plan import calibrate_image
    from napari_dip.pipeline.calibrate.types import CalibratedImage
    from napari_dip.pipeline.execute.fit_setup import convert_to_image_units, prepare_fit

    raw, truth = counts(crop.noisy), crop.truth
    recipe = make_recipe("denoise", prior=prior, preset=preset)
    axes = "YXS" if raw.ndim == 3 else "YX"
    plan = preflight(
        recipe,
        ImageHeader(name="crop", shape=raw.shape, dtype=str(raw.dtype), axes=axes),
        detect_machine(),
    )
    if not isinstance(plan, Plan):
        raise SystemExit(plan.message)
    torch.set_num_threads(plan.threads)
    image = calibrate_image(plan, {"image": raw})
    if not isinstance(image, CalibratedImage):
        raise SystemExit(image.message)
    calibration, unit = image.calibration, image.run_plan.units[0]
    prepared = prepare_fit(image, unit)
    quality: dict[int, float] = {}
    loop = fit(
        prepared.problem,
        prepared.prior,
        prepared.schedule,
        never_stop,
        seed=prepared.unit.seed,
        is_preview_due=every(prepared.schedule.validation_interval, unit.iterations),
    )
    history, best_so_far = [], []
    for progress in loop:
        if progress.estimate is not None:
            picture = convert_to_image_units(calibration, unit, progress.estimate.mean)
            picture = np.moveaxis(picture, 0, -1) if raw.ndim == 3 else picture[0]
            quality[progress.iteration] = crop.judge(picture, truth)
        elif not progress.inference_fraction:
            history.append(progress.validation_record)
            best_so_far.append(progress.best_iteration)
    stopped = next(
        (i + 1 for i in range(len(history)) if prepared.stop_rule(history[: i + 1])), len(history)
    )
    kept = best_so_far[stopped - 1]
    best = max(quality, key=lambda iteration: quality[iteration])
    return {
        "crop": crop.name,
        "input dB": crop.judge(raw, truth),
        "stopped at": history[stopped - 1].iteration,
        "kept": kept,
        "kept dB": quality[kept],
        "best iterate": best,
        "best dB": quality[best],
        "lost dB": quality[best] - quality[kept],
        "course": [
            (entry.iteration, entry.validation_loss, quality.get(entry.iteration))
            for entry in history
        ],
    }


def every(interval: int, last: int) -> Callable[[bool], bool]:
    """Ask for a picture at each report, the last of which need not be a multiple."""
    count = 0

    def due(_: bool) -> bool:
        nonlocal count
        count += 1
        return count % interval == 0 or count == last

    return due


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="random-input")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--sets", nargs="*", default=[])
    parser.add_argument("--whole", nargs="*", default=[])
    options = parser.parse_args()
    part = "_whole" if options.whole else "_sets" if options.sets else ""
    name = f"stop_{options.prior}_{options.preset}{part}"
    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / f"{name}.lines.json"
    rows = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    sets = seeded_crops(options.sets) if options.sets else named_crops()
    for crop in whole_pictures(options.whole) if options.whole else sets:
        if any(row["crop"] == crop.name for row in rows):
            continue
        rows.append(follow(crop, options.prior, options.preset))
        kept.write_text(json.dumps(rows), encoding="utf-8")
        print(rows[-1], file=sys.stderr, flush=True)
    summary = {
        "prior": options.prior,
        "preset": options.preset,
        "within 0.5 dB": sum(1 for row in rows if row["lost dB"] <= 0.5),
        "mean lost dB": float(np.mean([row["lost dB"] for row in rows])),
        "most lost dB": max(row["lost dB"] for row in rows),
    }
    write(name, [{key: row[key] for key in row if key != "course"} for row in rows], summary)


if __name__ == "__main__":
    main()
