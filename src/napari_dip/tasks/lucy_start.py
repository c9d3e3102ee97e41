"""What Richardson-Lucy makes of an image, as a deblurring network is fed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_dip.tasks.noise_code import CHANNELS, NOISE_IN_VOLUMES, noise_code
from napari_dip.tasks.volume_start import smooth_guess

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import NoiseCode
    from napari_dip.engine.problem import Operator, Penalty
    from napari_dip.tasks.base import Scene
    from napari_dip.tasks.volume_start import SmoothGuess

#: Steps after which the picture is shown to the network of a plane, and to that of a volume.
LUCY_STEPS, LUCY_STEPS_DEEP = (5, 20), (5,)
#: Jitter of these pictures, which have a range of about one: without it the network copies their
#: noise (one crop of 128 x 128, 300 iterations: 27.9 dB without, 29.6 dB with).
LUCY_JITTER = 0.1
#: Weight of the distance from the smooth guess in a volume. It shows the network at once what the
#: blur tells only step by step; a network of so few steps cannot take its noise over (crop of
#: pollen, 16 x 64 x 64, after 50 iterations: 25.3 dB without, 26.5 dB with).
PULL = 1.0


class FirstGuess(NamedTuple):
    """Pictures that the network is fed with, in network units.

    Attributes
    ----------
    shown : tuple of Tensor
        (1, C, *grid) each, the first by Richardson-Lucy after the fewest steps.
    smooth : SmoothGuess or None
        Of a volume, what least squares make of it.
    reach : float
        How far above darkness it goes.
    """

    shown: tuple[Tensor, ...]
    smooth: SmoothGuess | None = None
    reach: float = 1.0


def first_guess(
    scene: Scene, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> FirstGuess:
    """Deconvolve for some steps, without the pixels that judge.

    Parameters
    ----------
    scene : Scene
    operator : Operator
    grid : tuple of int
        Of the object.
    dark : Tensor
        (1, C, 1, ...), where there is no light, in network units.
    """
    from napari_dip.engine.first_guess import lucy_guesses, reach_of

    seen, deep = scene.known * (1 - scene.guarded), len(grid) > 2
    steps = LUCY_STEPS_DEEP if deep else LUCY_STEPS
    kept = lucy_guesses(operator, scene.measurement - dark, seen, grid, steps)
    shown = tuple(one + dark for one in kept)
    if not deep:
        return FirstGuess(shown)
    smooth = smooth_guess(scene, operator, grid, dark)
    return FirstGuess((*shown, smooth.before, smooth.best), smooth, reach_of(smooth.best - dark))


def code_with(
    guess: FirstGuess, scene: Scene, grid: tuple[int, ...], rng: torch.Generator
) -> NoiseCode:
    """Make a network that is fed these pictures beside noise; a volume's begins with one of them.

    What it begins with stays, since the data do not mind noise that the blur hides: so it begins
    with the one after fewest steps, unless noise is the least of what the blur leaves unexplained.
    """
    import torch

    smooth = guess.smooth
    start = None
    if smooth is not None:
        start = smooth.best if smooth.misfit else guess.shown[0]
    return noise_code(
        scene,
        grid,
        rng,
        shown=torch.cat(guess.shown, 1) / guess.reach,
        jitter_of_shown=LUCY_JITTER,
        channels_of_noise=CHANNELS if smooth is None else NOISE_IN_VOLUMES,
        reach=guess.reach,
        start=start,
    )


def pull_towards(guess: FirstGuess) -> tuple[tuple[float, Penalty], ...]:
    """Give the penalty on the distance from the smooth guess, if there is one."""
    from napari_dip.engine.penalties import near

    smooth = guess.smooth
    return () if smooth is None else ((PULL, near(smooth.best, smooth.doubt)),)
