"""Measure how well the time that is left is foretold, in runs that go to their limit.

    python benchmarks/time_left.py [--cpu] [--only NAME ...]

The samples of the package are restored with previews, as in the dock. At a tenth, a quarter and a
half of the run, by time, the seconds left that it says are compared with those that came.
`--cpu` reads processor time instead of the wall clock: for a computer that is busy otherwise.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import tifffile

from napari_dip.pipeline.execute import clock as clocks
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA
from napari_dip.samples.degraded import SPOILT
from shared_data import write

if TYPE_CHECKING:
    from collections.abc import Callable

#: Shares of a run's time at which it is asked.
ASKED = (0.1, 0.25, 0.5)
#: Seconds between previews, as in the dock.
PREVIEWS = 0.2
#: Name: task, sample (None: the noisy single shot), settings beside the preset `fast`.
RUNS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "denoise": ("denoise", None, {}),
    "denoise, blind spot": ("denoise", None, {"prior": "blind-spot"}),
    "denoise, fixed noise, 200": (
        "denoise",
        None,
        {"prior": "random-input", "max_iterations": 200},
    ),
    "inpaint": ("inpaint", "scratched", {}),
    "super-resolve": ("super-resolve", "coarse", {}),
    "deblur": ("deblur", "blurred", {"gaussian_sigma": 2.0}),
    "guide": ("guide", "weak_channel", {}),
    "movie": ("denoise", "movie", {}),
}


def measure(name: str, now: Callable[[], float]) -> list[dict[str, Any]]:
    """Restore one sample; what was said at each share of its time, and what came."""
    task, sample, settings = RUNS[name]
    plan, data = _ready(task, sample, settings)
    began = now()
    heard = [(now(), event) for event in run(plan, data, preview_seconds=PREVIEWS)]
    ended = now()
    rows = []
    for share in ASKED:
        asked = began + share * (ended - began)
        at, event = next(
            (one for one in heard if one[0] >= asked and one[1].seconds_left is not None),
            heard[-1],
        )
        came, said = ended - at, event.seconds_left or 0.0
        rows.append(
            {
                "run": name,
                "asked at": f"{share:.0%}",
                "iteration": f"{event.iteration} of {event.iterations}",
                "said_s": round(said, 1),
                "came_s": round(came, 1),
                "said / came": round(said / max(came, 1e-3), 2),
                "planned_s": round(plan.seconds, 1),
                "whole_s": round(ended - began, 1),
            }
        )
    last = max(heard, key=lambda one: (one[1].unit, one[1].iteration))[1]
    print(name, f"{last.unit} of {last.units}, {last.iteration} of {last.iterations}", flush=True)
    return rows


def _ready(task: str, sample: str | None, settings: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
    from napari_dip.pipeline.api import describe_input

    recipe = make_recipe(task, preset="fast", **settings)
    if sample is None:
        data: dict[str, Any] = {"image": tifffile.imread(MITOCHONDRIA)[0]}
        axes = "YX"
    else:
        made = SPOILT[sample]()
        taken = {one.name for one in recipe.task.spec.inputs}
        data = {"image": made.image, **{k: v for k, v in made.extra_inputs.items() if k in taken}}
        axes = "TYX" if sample == "movie" else "YX"
    if "gaussian_sigma" in settings:
        data.pop("psf", None)
    specs = {k: describe_input(k, v, axes if k == "image" else None)[0] for k, v in data.items()}
    plan = preflight(recipe, specs.pop("image"), detect_machine(), specs)
    if not isinstance(plan, Plan):
        raise SystemExit(plan.message)
    return plan, data


def main() -> None:
    """Measure what is asked for, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    asked = parser.parse_args()
    now = time.process_time if asked.cpu else time.monotonic
    clocks.RunClock.__init__.__defaults__ = (now,)  # type: ignore[attr-defined]
    rows = [row for name in asked.only for row in measure(name, now)]
    worst = max(abs(row["said / came"] - 1) for row in rows)
    write("time_left", rows, {"clock": now.__name__, "worst_error": round(worst, 2)})


if __name__ == "__main__":
    main()
