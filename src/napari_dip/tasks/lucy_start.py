"""What Richardson-Lucy makes of an image, as a deblurring network is fed with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_dip.tasks.noise_code import CHANNELS, NOISE_IN_VOLUMES, noise_code

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import NoiseCode
    from napari_dip.engine.problem import Operator, Penalty
    from napari_dip.tasks.base import Scene

#: Steps after which the picture of a plane is shown to the network.
LUCY_STEPS = (5, 20)
#: Steps after which that of a volume is looked at: light that was spread along Z comes back slowly.
LUCY_STEPS_DEEP = (5, 10, 20, 40, 80, 160, 320)
#: Part of the pixels that tell which is the best; they are not held out from the fit.
TESTED = 0.04
#: Jitter of these pictures, which have a range of about one: without it the network copies their
#: noise (one crop of 128 x 128, 300 iterations: 27.9 dB without, 29.6 dB with).
LUCY_JITTER = 0.1
#: Weight of the distance from the best of them in a volume. It shows the network at once what the
#: blur tells only step by step; a network of so few steps cannot take its noise over (crop of
#: pollen, 16 x 64 x 64, after 50 iterations: 25.3 dB without, 26.5 dB with).
PULL = 1.0


class FirstGuess(NamedTuple):
    """Pictures by Richardson-Lucy, in network units.

    Attributes
    ----------
    shown : tuple of Tensor
        (1, C, *grid) each, the first after the fewest steps.
    best : Tensor or None
        That of them which foretells pixels best; None where that was not asked.
    doubt : float
        How far it may be off: root mean square of what its last steps changed.
    reach : float
        How far above darkness it goes.
    """

    shown: tuple[Tensor, ...]
    best: Tensor | None = None
    doubt: float = 0.0
    reach: float = 1.0


def first_guess(
    scene: Scene, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> FirstGuess:
    """Deconvolve by Richardson-Lucy for some steps, without the pixels that judge.

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

    if len(grid) == 2:
        seen = scene.known * (1 - scene.guarded)
        kept = lucy_guesses(operator, scene.measurement - dark, seen, grid, LUCY_STEPS)
        return FirstGuess(tuple(one + dark for one in kept))
    kept, best = guesses_until_worse(scene, operator, grid, dark)
    before = kept[max(0, best - 1)]
    change = float((kept[best] - before).square().mean().sqrt())
    return FirstGuess(
        tuple(one + dark for one in (kept[0], before, kept[best])),
        kept[best] + dark,
        max(change, scene.noise_level),
        reach_of(kept[best]),
    )


def guesses_until_worse(
    scene: Scene, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> tuple[tuple[Tensor, ...], int]:
    """Go on with Richardson-Lucy until it foretells pixels less well that it was not shown.

    Returns
    -------
    guesses : tuple of Tensor
        (1, C, *grid) each, above darkness.
    best : int
        Which of them foretells those pixels best.
    """
    import torch

    from napari_dip.engine.first_guess import lucy_guesses

    seen, light = scene.known * (1 - scene.guarded), scene.measurement - dark
    rng = torch.Generator().manual_seed(0)
    tested = (torch.rand(seen.shape, generator=rng) < TESTED).to(seen) * seen
    losses: list[float] = []

    def enough(prediction: Tensor) -> bool:
        squares = (light - prediction).square() / scene.noise.at(prediction + dark)
        losses.append(float((squares * tested).sum()))
        return losses[-1] > min(losses)

    kept = lucy_guesses(operator, light, seen - tested, grid, LUCY_STEPS_DEEP, enough)
    return kept, losses.index(min(losses))


def code_with(
    guess: FirstGuess, scene: Scene, grid: tuple[int, ...], rng: torch.Generator
) -> NoiseCode:
    """Make a network that is fed these pictures beside noise; a volume's begins with the first."""
    import torch

    deep = len(grid) > 2
    return noise_code(
        scene,
        grid,
        rng,
        shown=torch.cat(guess.shown, 1) / guess.reach,
        jitter_of_shown=LUCY_JITTER,
        channels_of_noise=NOISE_IN_VOLUMES if deep else CHANNELS,
        reach=guess.reach,
        start=guess.shown[0] if deep else None,
    )


def pull_towards(guess: FirstGuess) -> tuple[tuple[float, Penalty], ...]:
    """Give the penalty on the distance from the best of these pictures, if one was chosen."""
    from napari_dip.engine.penalties import near

    return () if guess.best is None else ((PULL, near(guess.best, guess.doubt)),)
