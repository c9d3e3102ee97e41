"""What Richardson-Lucy makes of an image, as a deblurring network is fed with it.

What least squares and few bends make of a blurred volume, before the network begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari_dip.tasks.priors.deep_image_prior import (
    NOISE_IN_VOLUMES,
    RANDOM_INPUT_CHANNELS,
    build_random_input_prior,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor

    from napari_dip.engine.prior import RandomInputPrior
    from napari_dip.engine.problem import Estimate, Operator, Penalty
    from napari_dip.tasks.base import FitInput

#: Price of a bend, one after the other: each a third of the one before. Smooth pictures first,
#: since noise that is let in is slow to go again (crop of pollen, 12 x 48 x 48, each begun afresh:
#: 26.3 dB; so: 26.5 dB).
SMOOTHNESS_WEIGHTS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
#: Steps after which a picture is looked at, for each.
CHECKED_STEPS = (20, 40)
#: Steps without a price that tell how much the blur leaves unexplained.
UNREGULARISED_STEPS = (10, 20, 40, 80)
#: Richardson-Lucy's steps to a picture that tells how bright, so how noisy, each pixel is.
LUCY_STEPS_TO_NOISE = 20
#: Share by which a loss may be the larger one, and that only within its standard error, to count as
#: alike (that crop: 0.4 % for a picture that is 0.2 dB better).
LOSS_TOLERANCE = 0.01
#: Share of the network in the result before the judging pixels are asked, and how sure that is: one
#: over its variance, (1/4)^2. Two pictures off by as much, each in its own way, are best halved.
PRIOR_NETWORK_SHARE, NETWORK_SHARE_PRECISION = 0.5, 16.0


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


def compute_smooth_guess(
    scene: FitInput, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> SmoothGuess:
    """Deconvolve with a falling price of bends, down to where judging pixels are foretold worse.

    Parameters
    ----------
    scene : FitInput
    operator : Operator
    grid : tuple of int
        Of the object.
    dark : Tensor
        (1, C, 1, ...), where there is no light, in network units.
    """
    from itertools import islice

    from napari_dip.engine.deconvolution.initial_estimate import iterate_smooth_deconvolution

    light, valid = scene.measurement - dark, scene.measured_mask * (1 - scene.guarded)
    noise = _estimate_volume_noise(scene, operator, grid, dark)
    excess = _measure_model_error(scene, operator, grid, dark, noise)
    variance = noise + excess

    def pictures(used: Tensor) -> Iterator[Tensor]:
        return iterate_smooth_deconvolution(
            operator, light, variance, used, grid, SMOOTHNESS_WEIGHTS, CHECKED_STEPS
        )

    kept, losses = _run_until_worse(scene, operator, light, variance, pictures(valid))
    best = _find_sharpest(losses)
    whole = next(islice(pictures(scene.measured_mask), best, None))
    change = float((kept[best] - kept[max(0, best - 1)]).square().mean().sqrt())
    return SmoothGuess(
        kept[max(0, best - 1)] + dark,
        kept[best] + dark,
        whole + dark,
        max(change, scene.noise_level),
        variance,
        excess > float(noise.mean()),
    )


def make_validated_mixture(
    guess: SmoothGuess, scene: FitInput, operator: Operator, dark: Tensor | None
) -> Callable[[Estimate], Estimate]:
    """Make the step that mixes the network's picture with the guess as the judging pixels ask for.

    So a network that has not got far yet, or nowhere, spoils nothing. What the judging pixels tell
    of the object by themselves is then added.

    Parameters
    ----------
    guess : SmoothGuess
    scene : FitInput
    operator : Operator
    dark : Tensor or None
        (1, C, 1, ...): below that nothing falls; None: no bound.
    """
    import torch

    judges = scene.held_out / guess.variance
    with torch.no_grad():
        expected = operator(guess.best)
    facts = guess.whole - guess.best

    def mixed(estimate: Estimate) -> Estimate:
        with torch.no_grad():
            step = operator(estimate.mean) - expected
        wanted = (
            (scene.measurement - expected) * step * judges
        ).sum() + PRIOR_NETWORK_SHARE * NETWORK_SHARE_PRECISION
        share = (wanted / ((step.square() * judges).sum() + NETWORK_SHARE_PRECISION)).clamp(0, 1)
        mean = guess.best + share * (estimate.mean - guess.best) + facts
        return estimate._replace(mean=mean if dark is None else mean.maximum(dark))

    return mixed


def _estimate_volume_noise(
    scene: FitInput, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> Tensor:
    """Variance of the noise where each pixel is as bright as a picture with little noise says."""
    import torch

    from napari_dip.engine.deconvolution.initial_estimate import run_masked_richardson_lucy

    valid = scene.measured_mask * (1 - scene.guarded)
    steps = (LUCY_STEPS_TO_NOISE,)
    (picture,) = run_masked_richardson_lucy(operator, scene.measurement - dark, valid, grid, steps)
    with torch.no_grad():
        return scene.noise.at(operator(picture) + dark)


def _measure_model_error(
    scene: FitInput, operator: Operator, grid: tuple[int, ...], dark: Tensor, noise: Tensor
) -> float:
    """Mean square by which judging pixels lie off what is foretold, beyond their noise.

    A PSF is never quite that of the image. Where it is off by more than the noise, bright pixels
    are no less sure than dark ones are wrong, and must not be trusted more for their noise.
    """
    import torch

    from napari_dip.engine.deconvolution.initial_estimate import iterate_smooth_deconvolution

    light, valid = scene.measurement - dark, scene.measured_mask * (1 - scene.guarded)
    count = float(scene.held_out.sum()) * light.shape[1]
    off = []
    for item in iterate_smooth_deconvolution(
        operator, light, noise, valid, grid, (0.0,), UNREGULARISED_STEPS
    ):
        with torch.no_grad():
            beyond = ((light - operator(item)).square() - noise) * scene.held_out
        off.append(float(beyond.sum()) / max(count, 1.0))
    return max(0.0, min(off))


def _run_until_worse(
    scene: FitInput, operator: Operator, light: Tensor, variance: Tensor, pictures: Iterator[Tensor]
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
        means = [float(loss.mean()) for loss in losses]
        if len(kept) % len(CHECKED_STEPS) == 0 and min(means[-len(CHECKED_STEPS) :]) > min(means):
            break
    return kept, losses


def _find_sharpest(losses: list[Tensor]) -> int:
    """Tell which is the last that foretells as well as the best, but for chance.

    With the judging pixels, which it then gets as well, a picture may be sharper than without.
    """
    means = [float(loss.mean()) for loss in losses]
    best = means.index(min(means))
    for index in range(len(losses) - 1, best, -1):
        error = float((losses[index] - losses[best]).std()) / len(losses[best]) ** 0.5
        if means[index] - means[best] <= min(error, LOSS_TOLERANCE * means[best]):
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
FIRST_GUESS_WEIGHT = 1.0


class FirstGuess(NamedTuple):
    """Pictures that the network is fed with, in network units.

    Attributes
    ----------
    candidates : tuple of Tensor
        (1, C, *grid) each, the first by Richardson-Lucy after the fewest steps.
    smooth : SmoothGuess or None
        Of a volume, what least squares make of it.
    reach : float
        How far above darkness it goes.
    """

    candidates: tuple[Tensor, ...]
    smooth: SmoothGuess | None = None
    reach: float = 1.0


def compute_first_guess(
    scene: FitInput, operator: Operator, grid: tuple[int, ...], dark: Tensor
) -> FirstGuess:
    """Deconvolve for some steps, without the pixels that judge.

    Parameters
    ----------
    scene : FitInput
    operator : Operator
    grid : tuple of int
        Of the object.
    dark : Tensor
        (1, C, 1, ...), where there is no light, in network units.
    """
    from napari_dip.engine.deconvolution.initial_estimate import (
        estimate_peak_intensity,
        run_masked_richardson_lucy,
    )

    valid, deep = scene.measured_mask * (1 - scene.guarded), len(grid) > 2
    steps = LUCY_STEPS_DEEP if deep else LUCY_STEPS
    kept = run_masked_richardson_lucy(operator, scene.measurement - dark, valid, grid, steps)
    candidates = tuple(item + dark for item in kept)
    if not deep:
        return FirstGuess(candidates)
    smooth = compute_smooth_guess(scene, operator, grid, dark)
    return FirstGuess(
        (*candidates, smooth.before, smooth.best),
        smooth,
        estimate_peak_intensity(smooth.best - dark),
    )


def build_first_guess_prior(
    guess: FirstGuess, scene: FitInput, grid: tuple[int, ...], rng: torch.Generator
) -> RandomInputPrior:
    """Make a network that is fed these pictures beside noise; a volume's begins with one of them.

    What it begins with stays, since the data do not mind noise that the blur hides: so it begins
    with the one after fewest steps, unless noise is the least of what the blur leaves unexplained.
    """
    import torch

    smooth = guess.smooth
    start = None
    if smooth is not None:
        start = smooth.best if smooth.misfit else guess.candidates[0]
    return build_random_input_prior(
        scene,
        grid,
        rng,
        extra_input=torch.cat(guess.candidates, 1) / guess.reach,
        extra_input_jitter=LUCY_JITTER,
        channels_of_noise=RANDOM_INPUT_CHANNELS if smooth is None else NOISE_IN_VOLUMES,
        reach=guess.reach,
        start=start,
    )


def make_first_guess_penalty(guess: FirstGuess) -> tuple[tuple[float, Penalty], ...]:
    """Give the penalty on the distance from the smooth guess, if there is one."""
    from napari_dip.engine.likelihood.penalties import quadratic_proximity

    smooth = guess.smooth
    return (
        ()
        if smooth is None
        else ((FIRST_GUESS_WEIGHT, quadratic_proximity(smooth.best, smooth.doubt)),)
    )
