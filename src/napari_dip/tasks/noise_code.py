"""The paper's prior, as several tasks use it: an hourglass fed with fixed noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import NoiseCode
    from napari_dip.engine.problem import Penalty, Problem
    from napari_dip.tasks.base import Scene

#: Channels of the fixed noise, its range, and the channels of a skip: the values of the paper.
CHANNELS, RANGE, SKIP = 32, 0.1, 4
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
        Channels that the network is fed beside the noise.
    shown : Tensor or None
        (1, G, *grid): pictures of a range of about one that stand beside the noise in the code.
    jitter_of_shown : float
        Their own jitter.
    """
    import torch

    from napari_dip.engine.networks import Hourglass
    from napari_dip.engine.prior import NoiseCode

    channels = scene.measurement.shape[1]
    if shown is not None:
        further += shown.shape[1]
    net = Hourglass(
        len(grid), CHANNELS + further, channels, scene.widths, skip=skip, normalised=True, rng=rng
    )
    code = torch.empty(1, CHANNELS, *grid).uniform_(0, RANGE, generator=rng)
    if shown is None:
        return NoiseCode(net, code, jitter)
    jitters = torch.tensor([jitter] * CHANNELS + [jitter_of_shown] * shown.shape[1])
    jitters = jitters.reshape(1, -1, *(1,) * len(grid))
    return NoiseCode(net, torch.cat([code, shown.detach().cpu()], 1), jitters)


def noise_code_problem(scene: Scene, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Explain the image as picture plus noise, where the network does not see the image."""
    from napari_dip.engine.fidelity import gaussian_likelihood, weighted_residual
    from napari_dip.engine.operators import Identity
    from napari_dip.engine.overfitting import NoiseTaken
    from napari_dip.engine.problem import Problem, Term

    noise = scene.noise.times(scene.granted)
    term = Term(
        scene.measurement,
        Identity(),
        weighted_residual(noise),
        gaussian_likelihood(noise),
        fitted=scene.known * (1 - scene.guarded),
        held_out=scene.held_out,
        measured=scene.known,
    )
    shared = any(side > 1 for side in scene.block)
    return Problem((term,), penalties, unseen=NoiseTaken(scene.measurement) if shared else None)
