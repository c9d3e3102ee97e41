"""What a fit costs: its budget, and estimates of memory and time from the header alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil, prod
from typing import TYPE_CHECKING

from napari_dip.tasks.blind_spot import IMAGE_FED, trusted_core

if TYPE_CHECKING:
    from napari_dip.io import ImageSpec

#: Floating-point operations a second that convolutions of these widths reach. Per CPU thread:
#: 0.105 s for a step of 256 x 256 and 0.14 s for a look at 512 x 512 were measured with 2 threads
#: on an idle machine, which is 50e9; a tenth less is counted on. On a graphics card: a cautious
#: guess, no card was at hand.
THREAD_RATE, CARD_RATE = 45e9, 2e12
#: Loading torch and measuring the noise, on the same machine.
START_SECONDS = 3.0
#: Iterations between two judgements, as the engine's schedule has it.
JUDGE_EVERY = 25
#: Sides that a hidden block can have.
BLOCK_SIDES = (1, 3, 5, 7)
#: What a first fit of 32 x 32 pixels loads and never gives back, and a little for the scratch
#: space of convolutions.
START_BYTES = 160e6
#: Bytes for each pixel and channel of a layer: of a step, forward and backward, by prior (the
#: fixed noise has 32 channels of code and normalised layers), and of a look that learns nothing.
STEP_BYTES = {"blind-spot": 40, "guided": 40, "noise": 67, "guided-noise": 67}
LOOK_BYTES = 17
#: Bytes for each pixel of a channel: the input and what all fits leave; a look's code and picture.
PLANE_BYTES, CODE_BYTES = 120, 180


@dataclass(frozen=True, slots=True)
class Budget:
    """What a preset spends on one fit; read from `presets/<task>.json`.

    `release` counts the iterations of the last phase, in which the judging pixels drive, too;
    `race` those after which one of several priors is chosen.
    """

    prior: str
    iterations: int
    restarts: int
    widths: tuple[int, ...]
    learning_rate: float
    window: int | None
    release: int = 0
    race: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """Estimated seconds of all fits, judging included, and of the last close looks.

    Attributes
    ----------
    fit : float
    usual_look : float
        Last looks where the noise differs from pixel to pixel, as it mostly does.
    longest_look : float
        Last looks at the noise that takes most of them.
    """

    fit: float
    usual_look: float
    longest_look: float


def looks(block: tuple[int, ...], core: tuple[int, ...]) -> int:
    """Count the looks of a last sweep: shifts of a lattice of blocks until their cores tile.

    Parameters
    ----------
    block, core : tuple of int
        Sizes of a hidden block and of the middle of it that is trusted, per axis.
    """
    return prod(ceil((size + 2) / middle) for size, middle in zip(block, core, strict=True))


def looks_at(block: tuple[int, int]) -> int:
    """Count the looks of a last sweep with blocks of that size."""
    height, width = block
    return looks(block, (trusted_core(height), trusted_core(width)))


#: The noise is only known once the pixels are read: single pixels are the usual case.
USUAL_LOOKS = looks_at((1, 1))
MOST_LOOKS = max(looks_at(block) for block in product(BLOCK_SIDES, BLOCK_SIDES))


def channel_count(source: ImageSpec) -> int:
    """Count the channels or colour samples."""
    return next(
        (count for axis, count in zip(source.axes, source.shape, strict=True) if axis in "CS"), 1
    )


def scales_within(side: int) -> int:
    """Count the scales that a network may have on that many pixels.

    Each scale halves the grid, rounding up, and the coarsest needs two pixels: its border is
    continued by reflection.
    """
    scales = 1
    while ceil(side / 2) >= 2:
        side = ceil(side / 2)
        scales += 1
    return scales


def _multiplications(widths: tuple[int, ...]) -> float:
    """Multiply-adds of the hourglass for one pixel and one look, all 3 x 3 layers."""
    finest, coarsest = widths[0], widths[-1]
    total = 9.0 * 2 * finest**2  # second layer of the first scale, and the last
    total += 9.0 * coarsest**2 * 0.25 ** (len(widths) - 1)
    for scale, (finer, coarser) in enumerate(pairwise(widths)):
        share = 0.25**scale
        total += 9.0 * ((finer + coarser) * finer * share + finer * coarser * share / 4)
    return total


def estimate_planes(grid: tuple[int, int], channels: int) -> int:
    """Estimate the memory for the input and what the fits leave, wherever they run."""
    height, width = grid
    return height * width * PLANE_BYTES * channels


def estimate_fit(grid: tuple[int, int], channels: int, budget: Budget) -> int:
    """Estimate the memory beyond Python and torch: one step, or a look at the whole image.

    The constants come from the growth of the peak of the resident memory (`ru_maxrss`) since
    torch was loaded, in a process of its own for each of 256 x 256, 512 x 512 and 768 x 768
    pixels, both priors, 1 and 3 channels, 3 iterations with 2 threads: within 25 % of it.

    Parameters
    ----------
    grid : tuple of int
        Of the network, along Y and X.
    channels : int
        Channels of one fit.
    budget : Budget
    """
    height, width = grid
    whole = height * width
    features = sum(width / 4**scale for scale, width in enumerate(budget.widths))
    step = _step_pixels(grid, budget) * features * STEP_BYTES[budget.prior]
    work = max(step, whole * features * LOOK_BYTES) + whole * CODE_BYTES * channels
    return int(START_BYTES + work)


def estimate_costs(
    grid: tuple[int, int], units: int, device: str, threads: int, budget: Budget
) -> Costs:
    """Estimate fit and last look of all units, in seconds."""
    height, width = grid
    rate = THREAD_RATE * threads if device == "cpu" else CARD_RATE
    pixel: float = 2 * _multiplications(budget.widths) / rate
    look = pixel * height * width if budget.prior in IMAGE_FED else 0.0
    iterations = budget.iterations + budget.release
    fit = 3 * iterations * _step_pixels(grid, budget) * pixel
    fit += iterations / JUDGE_EVERY * look
    return Costs(START_SECONDS + units * fit, units * USUAL_LOOKS * look, units * MOST_LOOKS * look)


def _step_pixels(grid: tuple[int, int], budget: Budget) -> int:
    """Count the pixels that one step looks at."""
    height, width = grid
    most = budget.window or max(height, width)
    return min(height, most) * min(width, most)
