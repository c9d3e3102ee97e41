"""The paper's prior, as several tasks use it: an hourglass fed with fixed noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import NoiseCode
    from napari_dip.engine.problem import Penalty, Problem
    from napari_dip.tasks.base import Scene

#: Channels of the fixed noise, its range, and the channels of a skip: the values of the paper.
CHANNELS, RANGE, SKIP = 32, 0.1, 4
#: Channels of noise in a volume that is shown a first guess besides: time and memory go to the
#: finest layers there.
NOISE_IN_VOLUMES = 8
#: Standard deviation of the jitter, in units of the code: 1/30 as in the paper's denoising.
JITTER = 1 / 30


def noise_code(
    scene: Scene,
    grid: tuple[int, ...],
    rng: torch.Generator,
    *,
    skip: int = SKIP,
    jitter: float = JITTER,
    further: int = 0,
    shown: Tensor | None = None,
    jitter_of_shown: float = 0.0,
    channels_of_noise: int = CHANNELS,
    reach: float = 1.0,
    start: Tensor | None = None,
) -> NoiseCode:
    """Make a network and its code for a picture on `grid`.

    Parameters
    ----------
    scene : Scene
    grid : tuple of int
        Size of the picture, which may be finer or larger than the measurement.
    rng : torch.Generator
    skip : int
        Channels that a skip passes on; 0: no skips.
    jitter : float
    further : int
        Channels fed beside the noise.
    shown : Tensor or None
        (1, G, *grid): pictures of a range of about one that stand beside the noise in the code.
    jitter_of_shown : float
        Their own jitter.
    channels_of_noise : int
        Of the fixed noise.
    reach : float
        Range that the picture is expected to have, in network units.
    start : Tensor or None
        (1, C, *grid): the picture that the fit begins with; None: a random one.
    """
    import torch

    from napari_dip.engine.networks import Hourglass
    from napari_dip.engine.prior import NoiseCode

    channels = scene.measurement.shape[1]
    if shown is not None:
        further += shown.shape[1]
    fed = channels_of_noise + further
    net = Hourglass(len(grid), fed, channels, scene.widths, skip=skip, normalised=True, rng=rng)
    code = torch.empty(1, channels_of_noise, *grid).uniform_(0, RANGE, generator=rng)
    if shown is None:
        return NoiseCode(net, code, jitter, reach)
    if start is not None:
        net.begin_at_zero()
    jitters = torch.tensor([jitter] * channels_of_noise + [jitter_of_shown] * shown.shape[1])
    jitters = jitters.reshape(1, -1, *(1,) * len(grid))
    return NoiseCode(net, torch.cat([code, shown.detach().cpu()], 1), jitters, reach, start)


def noise_code_problem(scene: Scene, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Explain the image as picture plus noise, where the network does not see the image.

    Of two measurements the first drives everywhere, and the second judges where it does not
    drive: noise that the network learns from the first is none of the second's, so it shows there.
    """
    import torch

    from napari_dip.engine.fidelity import gaussian_likelihood, weighted_residual
    from napari_dip.engine.operators import Identity
    from napari_dip.engine.overfitting import NoiseTaken
    from napari_dip.engine.problem import Problem, Term

    shots = len(scene.measurement)
    terms = []
    for number in range(shots):
        noise = scene.noise.times(scene.granted).of(number)
        judges = number == shots - 1
        terms.append(
            Term(
                scene.measurement[number : number + 1],
                Identity(),
                weighted_residual(noise),
                gaussian_likelihood(noise),
                fitted=scene.weight * (1 - scene.guarded) if judges else scene.weight,
                held_out=scene.held_out if judges else torch.zeros_like(scene.held_out),
                measured=scene.weight,
            )
        )
    blind = shots == 1 and any(side > 1 for side in scene.block)
    unseen = NoiseTaken(scene.measurement) if blind else None
    return Problem(tuple(terms), penalties, unseen=unseen)


def judged_by_error(scene: Scene, problem: Problem) -> Problem:
    """Judge a picture by how far off it is, whatever it says of itself.

    The spread of a noise code from step to step is widest at the start, and where the image has
    little noise, it would make the least learned picture the likeliest one. What a network says of
    planes that it has not seen is too sure by a factor that grows as it learns. Of scattered pixels
    it is nearly right: error and likelihood chose steps 450 and 425 of 540, at 34.07 and 34.00 dB
    (montage, docs/benchmarks.md).
    """
    from napari_dip.engine.fidelity import gaussian_likelihood

    likelihood = gaussian_likelihood(scene.noise)
    terms = (
        replace(
            term,
            likelihood=lambda estimate, measurement: likelihood(
                type(estimate)(estimate.mean), measurement
            ),
        )
        for term in problem.terms
    )
    return replace(problem, terms=tuple(terms))
