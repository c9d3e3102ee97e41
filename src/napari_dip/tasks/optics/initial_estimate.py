"""What Richardson-Lucy makes of an image, as a deblurring network is fed with it.

What least squares and few bends make of a blurred volume, before the network begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_dip.tasks.priors.deep_image_prior import CHANNELS, NOISE_IN_VOLUMES, noise_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor

    from napari_dip.engine.prior import NoiseCode
    from napari_dip.engine.problem import Estimate, Operator, Penalty
    from napari_dip.tasks.base import Scene

#: Price of a bend, one after the other: each a third of the one before. Smooth pictures first,
#: since noise that is let in is slow to go again (crop of pollen, 12 x 48 x 48, each begun afresh:
#: 26.3 dB; so: 26.5 dB).
WEIGHTS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
#: Steps after which a picture is looked at, for each.
MARKS = (20, 40)
#: Steps without a price that tell how much the blur leaves unexplained.
PLAIN_MARKS = (10, 20, 40, 80)
#: Richardson-Lucy's steps to a picture that tells how bright, so how noisy, each pixel is.
LUCY_STEPS_TO_NOISE = 20
#: Share by which a loss may be the larger one, and that only within its standard error, to count as
#: alike (that crop: 0.4 % for a picture that is 0.2 dB better).
ALIKE = 0.01
#: Share of the network in the result before the judging pixels are asked, and how sure that is: one
#: over its variance, (1/4)^2. Two pictures off by as much, each in its own way, are best halved.
HALF, SURE = 0.5, 16.0


class SmoothGuess(NamedTuple):
    """A volume deconvolved, in network units.

    Attributes
    ----------
    before, best : Tensor
        (1, C, *grid) each: the picture that is chosen, and the one before it, which is smoother.
    whole : Tensor
        As `best`, made from the judging pixels as well.
    doubt : float
        How far `best` may be off: root mean square of what its last steps changed.
    variance : Tensor
        (1, C, *measured), of the noise and of what the blur does not explain.
    misfit : bool
        Whether the blur leaves more unexplained than the noise.
    """

    before: Tensor
    best: Tensor
    whole: Tensor
    doubt: float
    variance: Tensor
    misfit: bool


def smooth_guess(
    scene: Scene, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> SmoothGuess:
    """Deconvolve with a falling price of bends, down to where judging pixels are foretold worse.

    Parameters
    ----------
    scene : Scene
    operator : Operator
    grid : tuple of int
        Of the object.
    dark : Tensor
        (1, C, 1, ...), where there is no light, in network units.
    """
    from itertools import islice

    from napari_dip.engine.deconvolution.initial_estimate import smooth_deconvolutions

    light, seen = scene.measurement - dark, scene.known * (1 - scene.guarded)
    noise = _noise(scene, operator, grid, dark)
    excess = _unexplained(scene, operator, grid, dark, noise)
    variance = noise + excess

    def pictures(used: Tensor) -> Iterator[Tensor]:
        return smooth_deconvolutions(operator, light, variance, used, grid, WEIGHTS, MARKS)

    kept, losses = _until_worse(scene, operator, light, variance, pictures(seen))
    best = _sharpest(losses)
    whole = next(islice(pictures(scene.known), best, None))
    change = float((kept[best] - kept[max(0, best - 1)]).square().mean().sqrt())
    return SmoothGuess(
        kept[max(0, best - 1)] + dark,
        kept[best] + dark,
        whole + dark,
        max(change, scene.noise_level),
        variance,
        excess > float(noise.mean()),
    )


def judged_mixture(
    guess: SmoothGuess, scene: Scene, operator: Operator, dark: Tensor | None
) -> Callable[[Estimate], Estimate]:
    """Make the step that mixes the network's picture with the guess as the judging pixels ask for.

    So a network that has not got far yet, or nowhere, spoils nothing. What the judging pixels tell
    of the object by themselves is then added.

    Parameters
    ----------
    guess : SmoothGuess
    scene : Scene
    operator : Operator
    dark : Tensor or None
        (1, C, 1, ...): below that nothing falls; None: no bound.
    """
    import torch

    judges = scene.held_out / guess.variance
    with torch.no_grad():
        expected = operator(guess.best)
    told = guess.whole - guess.best

    def mixed(estimate: Estimate) -> Estimate:
        with torch.no_grad():
            step = operator(estimate.mean) - expected
        wanted = ((scene.measurement - expected) * step * judges).sum() + HALF * SURE
        share = (wanted / ((step.square() * judges).sum() + SURE)).clamp(0, 1)
        mean = guess.best + share * (estimate.mean - guess.best) + told
        return estimate._replace(mean=mean if dark is None else mean.maximum(dark))

    return mixed


def _noise(scene: Scene, operator: Operator, grid: tuple[int, ...], dark: Tensor) -> Tensor:
    """Variance of the noise where each pixel is as bright as a picture with little noise says."""
    import torch

    from napari_dip.engine.deconvolution.initial_estimate import lucy_guesses

    seen = scene.known * (1 - scene.guarded)
    steps = (LUCY_STEPS_TO_NOISE,)
    (picture,) = lucy_guesses(operator, scene.measurement - dark, seen, grid, steps)
    with torch.no_grad():
        return scene.noise.at(operator(picture) + dark)


def _unexplained(
    scene: Scene, operator: Operator, grid: tuple[int, ...], dark: Tensor, noise: Tensor
) -> float:
    """Mean square by which judging pixels lie off what is foretold, beyond their noise.

    A PSF is never quite that of the image. Where it is off by more than the noise, bright pixels
    are no less sure than dark ones are wrong, and must not be trusted more for their noise.
    """
    import torch

    from napari_dip.engine.deconvolution.initial_estimate import smooth_deconvolutions

    light, seen = scene.measurement - dark, scene.known * (1 - scene.guarded)
    count = float(scene.held_out.sum()) * light.shape[1]
    off = []
    for one in smooth_deconvolutions(operator, light, noise, seen, grid, (0.0,), PLAIN_MARKS):
        with torch.no_grad():
            beyond = ((light - operator(one)).square() - noise) * scene.held_out
        off.append(float(beyond.sum()) / max(count, 1.0))
    return max(0.0, min(off))


def _until_worse(
    scene: Scene, operator: Operator, light: Tensor, variance: Tensor, pictures: Iterator[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Take pictures until all of one price are worse than the best so far; their losses, too.

    Losses are those of each judging pixel, in units of the variance.
    """
    import torch

    judging = (scene.held_out > 0).expand_as(light)
    kept: list[Tensor] = []
    losses: list[Tensor] = []
    for picture in pictures:
        with torch.no_grad():
            off = (light - operator(picture)).square() / variance
        kept.append(picture)
        losses.append(off[judging])
        means = [float(one.mean()) for one in losses]
        if len(kept) % len(MARKS) == 0 and min(means[-len(MARKS) :]) > min(means):
            break
    return kept, losses


def _sharpest(losses: list[Tensor]) -> int:
    """Tell which is the last that foretells as well as the best, but for chance.

    With the judging pixels, which it then gets as well, a picture may be sharper than without.
    """
    means = [float(one.mean()) for one in losses]
    best = means.index(min(means))
    for index in range(len(losses) - 1, best, -1):
        error = float((losses[index] - losses[best]).std()) / len(losses[best]) ** 0.5
        if means[index] - means[best] <= min(error, ALIKE * means[best]):
            return index
    return best


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
    from napari_dip.engine.deconvolution.initial_estimate import lucy_guesses, reach_of

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
    from napari_dip.engine.likelihood.penalties import near

    smooth = guess.smooth
    return () if smooth is None else ((PULL, near(smooth.best, smooth.doubt)),)
