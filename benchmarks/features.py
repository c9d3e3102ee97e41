"""Feature inversion of early, middle and deep layers, by deep prior, total variation and no prior.

    python benchmarks/features.py --side 64

A small classifier is trained on the upper halves of twelve images of scikit-image
(scripts/small_classifier.py); its features of crops of lower halves are inverted, as `napari-dip
explore features` does, preset `fast`. Correlation with the crop. An image that is done is not
computed again.
"""

from __future__ import annotations

import argparse
import json
import runpy
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_dip import explore
from napari_dip.explore.feature_layers import PRIOR_LABELS
from shared_data import OUT, ROOT, write

#: Crops of lower halves: name, and where their upper left corner lies.
CROPS = {
    "coins": (190, 90),
    "camera": (290, 230),
    "astronaut": (300, 150),
    "coffee": (230, 260),
    "chelsea": (180, 150),
}
#: After the second, the third and the fourth convolution, and the first linear layer.
LAYERS = ("features.4", "features.7", "features.10", "classifier.2")


def load_crop(script: dict[str, Any], name: str, side: int) -> npt.NDArray[np.float32]:
    """Cut a crop of a lower half out, grey, in a range of 0 to 1."""
    row, column = CROPS[name]
    whole = script["grey"](name)
    assert row >= len(whole) // 2
    return np.ascontiguousarray(whole[row : row + side, column : column + side])


def invert(name: str, image: npt.NDArray[np.float32], network: str, options: Any) -> Any:
    """Invert all layers of one crop with all priors, and keep page and figures."""
    place = OUT / "features" / f"{name}-{options.side}-{options.iterations or 'fast'}"
    path = place / "features.json"
    if not path.is_file():
        settings = {"mean": 0.5, "deviation": 0.25, "black": 0, "white": 1, "crop": options.side}
        if options.iterations:
            settings["max_iterations"] = options.iterations
        inversion = explore.features(image, network, layers=LAYERS, device="cpu", **settings)
        place.parent.mkdir(parents=True, exist_ok=True)
        inversion.save(place, overwrite=True)
    return json.loads(path.read_text(encoding="utf-8"))["layers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=0, help="0: the preset's")
    parser.add_argument("--images", nargs="*", default=list(CROPS), choices=list(CROPS))
    options = parser.parse_args()
    script = runpy.run_path(str(ROOT / "scripts" / "small_classifier.py"))
    place = OUT / "small_classifier.pt2"
    OUT.mkdir(parents=True, exist_ok=True)
    if not place.is_file():
        network, share = script["trained"]()
        script["save"](network, place)
        print(f"The classifier tells {share:.0%} of its last training crops rightly.")
    rows = []
    for name in options.images:
        for line in invert(name, load_crop(script, name, options.side), str(place), options):
            row = {"image": name, "layer": line["layer"], "answer": line["answer"]}
            for prior, label in PRIOR_LABELS.items():
                row[label.lower()] = line[f"{prior.replace('-', '_')}_correlation"]
            rows.append(row)
        write("features", rows, _summarise(rows))


def _summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean correlation for each layer, and on how many images the untrained network is best."""
    mean_values: dict[str, Any] = {}
    for layer in LAYERS:
        lines = [row for row in rows if row["layer"] == layer]
        names = [label.lower() for label in PRIOR_LABELS.values()]
        means = [f"{name} {np.mean([row[name] for row in lines]):.3f}" for name in names]
        best = sum(max(names, key=lambda name, row=row: row[name]) == names[0] for row in lines)
        mean_values[layer] = f"{', '.join(means)}; untrained network best on {best} of {len(lines)}"
    return mean_values


if __name__ == "__main__":
    main()
