"""What a fit costs: its budget, and estimates of memory and time from the header alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec

#: Floating-point operations a second that convolutions of these widths reach, per CPU thread
#: (measured on the reference machine, 2 cores) and on a graphics card (a cautious guess: no
#: card was at hand).
THREAD_RATE, CARD_RATE = 45e9, 2e12
#: Loading torch and measuring the noise, on the reference machine.
START_SECONDS = 3.0
#: Iterations between two judgements, as the engine's schedule has it.
JUDGE_EVERY = 25
#: Looks that the last sweep of the widest usual block (7 x 7) takes.
MOST_LOOKS = 81
#: Bytes for each pixel and channel of a layer: of a step, forward and backward, and of a look
#: that learns nothing; and for each pixel of the planes that the run keeps. Measured as growth
#: of the resident memory at 512 x 512 and 1024 x 1024.
STEP_BYTES, LOOK_BYTES, PLANE_BYTES = 60, 24, 200


@dataclass(frozen=True, slots=True)
class Budget:
    """What a preset spends on one fit; read from `presets/<task>.json`."""

    prior: str
    iterations: int
    restarts: int
    widths: tuple[int, ...]
    learning_rate: float
    window: int | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Estimated seconds of all fits, judging included, and of the last close look."""

    fit: float
    last_look: float


def channel_count(source: ImageSpec) -> int:
    """Count the channels or colour samples."""
    return next(
        (count for axis, count in zip(source.axes, source.shape, strict=True) if axis in "CS"), 1
    )


def _multiplications(widths: tuple[int, ...]) -> float:
    """Multiply-adds of the hourglass for one pixel and one look, all 3 x 3 layers."""
    finest, coarsest = widths[0], widths[-1]
    total = 9.0 * 2 * finest**2  # second layer of the first scale, and the last
    total += 9.0 * coarsest**2 * 0.25 ** (len(widths) - 1)
    for scale, (finer, coarser) in enumerate(pairwise(widths)):
        share = 0.25**scale
        total += 9.0 * ((finer + coarser) * finer * share + finer * coarser * share / 4)
    return total


def estimate_peak(source: ImageSpec, channels: int, budget: Budget) -> int:
    """Estimate the memory beyond the program itself: one step, or a look at the whole image."""
    height, width = source.grid
    whole = height * width
    step = min(height, budget.window) * min(width, budget.window) if budget.window else whole
    features = sum(width / 4**scale for scale, width in enumerate(budget.widths))
    work = max(step * features * STEP_BYTES, whole * features * LOOK_BYTES)
    return int(work + whole * (PLANE_BYTES * channel_count(source) + 100 * channels))


def estimate_costs(
    source: ImageSpec, units: int, device: str, threads: int, budget: Budget
) -> Costs:
    """Estimate fit and last look of all units, in seconds."""
    height, width = source.grid
    whole = height * width
    step = min(height, budget.window) * min(width, budget.window) if budget.window else whole
    rate = THREAD_RATE * threads if device == "cpu" else CARD_RATE
    look: float = 2 * _multiplications(budget.widths) / rate
    blind = budget.prior == "blind-spot"
    judging = budget.iterations / JUDGE_EVERY * whole * look if blind else 0.0
    fit = 3 * budget.iterations * step * look + judging
    last = MOST_LOOKS * whole * look if blind else 0.0
    return Costs(START_SECONDS + units * fit, units * last)
