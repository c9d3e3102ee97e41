"""Noise estimates of all real and standard images, compared with those of an earlier version.

Usage: python benchmarks/noise_claims.py [--sets fmd w2s ...] [--name claims] [--against claims]
No fit is made. For each channel: variance at the mean brightness, correlation at lag 1, doubt and
caution; for each image: blind spot, prior, half resolution, camera noise. `--against NAME`
reads benchmarks/out/NAME.json and lists each image that differs.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from napari_dip.errors import raise_if_refused
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from quality_sets import SETS
from shared_data import OUT, counts, write

if TYPE_CHECKING:
    import numpy.typing as npt

#: Sets without the crops of FMD.
DEFAULT_SETS = tuple(name for name in SETS if name != "fmd256")


def list_claims(image_array: npt.NDArray[Any]) -> dict[str, Any]:
    """Calibrate one image as a denoising with `fast` does."""
    axes = "YXS" if image_array.ndim == 3 else "YX"
    header, pixels = open_input("image", image_array, axes)
    plan = raise_if_refused(preflight(make_recipe("denoise"), header, detect_machine()))
    image = calibrate_image(plan, {"image": pixels()})
    calibration = image.calibration
    variances = [
        float(compute_noise_variance(noise, mean))
        for noise, mean in zip(calibration.noise, calibration.intensity_offset, strict=True)
    ]
    return {
        "variance": [float(f"{variance:.6g}") for variance in variances],
        "lag 1": [[noise.along_y[0], noise.along_x[0]] for noise in calibration.noise],
        "doubt": [noise.unreliable_reason for noise in calibration.noise],
        "caution": [noise.caution for noise in calibration.noise],
        "block": list(calibration.blind_spot_size),
        "prior": image.run_plan.fit_config.prior_key,
        "half": calibration.half_resolution is not None,
        "camera": calibration.camera_noise is not None,
        "notes": [note.code for note in calibration.notes],
    }


def main() -> None:
    """Write the claims, and print what differs from an earlier state."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=DEFAULT_SETS)
    parser.add_argument("--name", default="noise_claims")
    parser.add_argument("--against")
    options = parser.parse_args()
    rows = [
        {"picture": case.key, **list_claims(counts(case.load()[0]))}
        for group in options.sets
        for case in SETS[group]()
    ]
    doubted = sum(any(row["doubt"]) for row in rows)
    cautioned = sum(any(row["caution"]) and not any(row["doubt"]) for row in rows)
    write(options.name, rows, {"doubted": doubted, "with a caution alone": cautioned})
    if options.against:
        earlier = json.loads((OUT / f"{options.against}.json").read_text("utf-8"))["rows"]
        before = {row["picture"]: row for row in earlier}
        changed = 0
        for row in json.loads(json.dumps(rows)):
            old = before.get(row["picture"], {})
            names = [name for name in row if row[name] != old.get(name)]
            changed += bool(names)
            for name in names:
                print(f"{row['picture']}: {name} {old.get(name)} -> {row[name]}")
        print(f"{changed} of {len(rows)} pictures differ")


if __name__ == "__main__":
    main()
