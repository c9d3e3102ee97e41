"""Random small problems of all tasks: finite, in the same units, the mean kept, or refused."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_dip as dip
from faults.trials import Trial, is_translated, make_failed, make_passed
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

PROBLEMS, PORTION = 1000, 20
#: Most that the mean may be off, as a share of the range: what the program says of its results.
MEAN = 0.005
#: The same where the result has other pixels than the input had: finer ones, filled-in ones, or a
#: frame that the light came from beyond.
OTHER_MEAN = 0.1
#: What multiplying by a power of two may change, as a share of the range.
ROUNDING = 1e-3


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield a thousand problems, in portions."""
    portion = 10 if small else PORTION
    for start in range(0, portion if small else PROBLEMS, portion):
        yield Trial(f"problems from {start}", partial(_run_portion, start, portion))


def _run_portion(start: int, portion: int) -> TrialResult:
    ends: Counter[str] = Counter()
    for number in range(start, start + portion):
        try:
            ends[solve(number)] += 1
        except Exception as error:
            return make_failed(
                f"problem {number}: {type(error).__name__}: {error}"[:600], count=portion
            )
    summary = ", ".join(f"{count} {end}" for end, count in ends.items())
    return make_passed(summary, kind="held", count=portion, **ends)


def draw_problem(number: int) -> tuple[str, np.ndarray, dict[str, Any], dict[str, Any]]:
    """Draw a problem: task, image, further inputs, settings."""
    rng = random.Random(number)
    task = rng.choice(list(TASKS))
    # two thirds as wide as can be restored, the others narrower
    width = 16 if rng.random() < 0.67 else rng.randint(2, 15)
    shape = (rng.randint(16, 24), width)
    image = draw_pixels(rng, shape)
    inputs: dict[str, Any] = {}
    settings: dict[str, Any] = {"preset": "fast", "max_iterations": rng.choice((1, 2, 3, 8))}
    if task == "inpaint":
        mask = np.zeros(shape, bool)
        mask[rng.randrange(shape[0]) :, rng.randrange(width)] = True
        inputs["mask"] = mask
    elif task == "deblur":
        inputs["psf"] = np.random.default_rng(number).random((3, 3))
    elif task == "blind-deblur":
        settings |= {"psf_size": 3, "blur": rng.choice(("gaussian", "free"))}
    elif task == "guide":
        inputs["guide"] = np.random.default_rng(number).random(shape) * 10.0 ** rng.randint(-6, 6)
    elif task == "denoise":
        settings["prior"] = rng.choice(("auto", "random-input", "blind-spot"))
    return task, image, inputs, settings


def draw_pixels(rng: random.Random, shape: tuple[int, int]) -> np.ndarray:
    """Draw pixels of some scale: noise, large constant regions, single bright pixels."""
    values = np.random.default_rng(rng.randrange(10**6)).normal(5, 1, shape)
    kind = rng.choice(("noise", "half constant", "one bright", "two values", "steps", "negative"))
    if kind == "half constant":
        values[: shape[0] // 2] = 0
    elif kind == "one bright":
        values[...] = 0
        values[rng.randrange(shape[0]), rng.randrange(shape[1])] = 1
    elif kind == "two values":
        values = (values > 5).astype(float)
    elif kind == "steps":
        values = np.rint(values)
    elif kind == "negative":
        values -= 50
    scale = 10.0 ** rng.uniform(-12, 12)
    if rng.random() < 0.2:  # as a camera gives them
        return np.clip(values * 10 ** rng.uniform(0, 3), 0, 65535).astype(rng.choice(("u2", "u1")))
    return (values * scale).astype(rng.choice(("f4", "f8")))


def solve(number: int) -> str:
    """Solve a problem and check the answer; how it ended."""
    task, image, inputs, settings = draw_problem(number)
    recipe = dip.make_recipe(task, **settings)
    try:
        result = dip.restore(image, recipe, **inputs)
    except dip.RefusedError as no:
        assert is_translated(no.reason), no.reason
        return "refused"
    check(task, image, inputs, result)
    if number % 10 == 0 and image.dtype.kind == "f":
        again = dip.restore(image * image.dtype.type(64), recipe, **inputs)
        off = np.abs(again.image / 64 - result.image).max()
        assert off <= ROUNDING * float(np.ptp(image)), f"64 times brighter is off by {off}"
        return "restored, also 64 times brighter"
    return "restored"


def check(task: str, image: np.ndarray, inputs: dict[str, Any], result: Any) -> None:
    """Say that an answer is finite and in the input's units."""
    span = float(np.ptp(image))
    for name in ("image", "uncertainty", "residual"):
        assert np.isfinite(getattr(result, name)).all(), f"{name} is not finite"
    assert (result.uncertainty >= 0).all()
    if task == "inpaint":
        mask = ~inputs["mask"]
        assert np.array_equal(result.image[mask], image[mask].astype(np.float32))
    off = abs(float(result.image.mean(dtype=np.float64)) - float(image.mean(dtype=np.float64)))
    most = MEAN if task in ("denoise", "guide") else OTHER_MEAN
    if task == "inpaint":  # nobody knows the mean of what was not measured
        most += float(inputs["mask"].mean())
    assert off <= most * span, f"{task}: mean off by {off / span:.4f} of the range"
    beyond = max(float(image.min()) - result.image.min(), result.image.max() - float(image.max()))
    assert beyond <= 20 * span, f"{task}: beyond the range by {beyond / span:.1f} times"
