"""Ablation study of denoising: PSNR with one part disabled at a time; resumable.

Usage: python benchmarks/ablation.py [--only "no skewness" ...] [--captures 1] [--fields NAME ...]
The middle 256 x 256 pixels of captures of each FMD field, `fast`, seed 0; for repeats `best`, one
and four fits. A part is left out by putting what does nothing in its place while a run is on.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

import napari_dip as dip
from napari_dip.engine.likelihood.fidelity import compute_posterior
from shared_data import FMD_FIELDS, OUT, fmd, psnr, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIDE = 256
BEST = {"preset": "best"}
BLIND = {"prior": "blind-spot"}


def _posterior_without_measurement(*arguments: Any, **named: Any) -> Any:
    return compute_posterior(*arguments, **{**named, "own_word": False})


def _no_skewness(measurement: Any, mask: Any, noise: Any, correlation: Any = None) -> Any:
    return 0 * noise.gain


def _skip_halving(*_: Any, **_named: Any) -> None:
    """Return no image at half resolution."""


#: What is put in the place of what, by the dotted name of the module that uses it.
Changes = dict[str, "Callable[..., Any]"]
WHITE: Changes = {
    "napari_dip.engine.noise.estimate.compute_blind_spot_size": lambda *_: (1, 1),
    "napari_dip.pipeline.calibrate.image_calibration.halve_oversampled": _skip_halving,
}
#: (name, settings, changes), each beside the settings alone.
PARTS: tuple[tuple[str, dict[str, Any], Changes], ...] = (
    ("all", {}, {}),
    ("no correlation", {}, WHITE),
    ("no skewness", {}, {"napari_dip.engine.priors.r2r.estimate_count_skewness": _no_skewness}),
    (
        "no last filter",
        {},
        {"napari_dip.tasks.priors.image_input.make_nl_bayes_refinement": lambda *_: None},
    ),
    (
        "no lines along the border",
        {},
        {"napari_dip.engine.likelihood.lost_detail.restore_border_detail": lambda *a: a[2]},
    ),
    (
        "no half size",
        {},
        {"napari_dip.pipeline.calibrate.image_calibration.halve_oversampled": _skip_halving},
    ),
    ("blind spot", BLIND, {}),
    (
        "blind spot, no posterior",
        BLIND,
        {"napari_dip.engine.likelihood.fidelity.compute_posterior": _posterior_without_measurement},
    ),
    ("best, one fit", {**BEST, "restarts": 1}, {}),
    ("best, four fits", BEST, {}),
)


@contextmanager
def disable_parts(changes: Changes) -> Iterator[None]:
    """Leave parts out for a while."""
    with ExitStack() as stack:
        for name, stand_in in changes.items():
            stack.enter_context(patch(name, stand_in))
        yield


def main() -> None:
    """Run what is missing, and write all there is."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--only", nargs="*", default=[name for name, *_ in PARTS])
    ask.add_argument("--captures", nargs="*", type=int, default=[1])
    ask.add_argument("--fields", nargs="*", default=list(FMD_FIELDS))
    options = ask.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / "ablation.lines.json"
    lines = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    for field in options.fields:
        for capture in options.captures:
            noisy, truth = (_crop_middle(image) for image in fmd(field, capture))
            for name, settings, changes in PARTS:
                place = (f"{field} {capture}", name)
                if name not in options.only or any(tuple(line[:2]) == place for line in lines):
                    continue
                with disable_parts(changes):
                    result = dip.denoise(noisy, **{"preset": "fast", **settings})
                lines.append((*place, psnr(result.image, truth)))
                kept.write_text(json.dumps(lines), encoding="utf-8")
                print(*lines[-1], flush=True)
    crops = list(dict.fromkeys(line[0] for line in lines))
    figures = {(crop, name): value for crop, name, value in lines}
    names = [name for name, *_ in PARTS if all((crop, name) in figures for crop in crops)]
    rows = [{"crop": crop, **{name: figures[crop, name] for name in names}} for crop in crops]
    write("ablation", rows, {name: float(np.mean([row[name] for row in rows])) for name in names})


def _crop_middle(image: Any) -> Any:
    """Cut the middle out."""
    starts = [(side - SIDE) // 2 for side in image.shape[:2]]
    return image[tuple(slice(start, start + SIDE) for start in starts)]


if __name__ == "__main__":
    main()
