"""The image-fed prior, as several tasks use it: what is hidden is foretold and then weighed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from napari_dip.engine.prior import BlindSpotPrior
    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.tasks.base import FitInput

#: Priors that are fed the image itself: they say how sure they are of each pixel.
IMAGE_INPUT_PRIORS = ("blind-spot", "guided", "masked-input", "masked-input-shapes")
#: Part of the pixels that the blind spot hides at a step: single pixels, and blocks, whose centre
#: alone drives the fit. On FMD crops single pixels do not care (1/12, 1/6 and 1/4 lie within
#: 0.1 dB); blocks of 5 x 7 gain 0.2 dB from 0.15 to 0.3 and nothing beyond.
BLIND_SPOT_FRACTION, BLIND_SPOT_BLOCK_FRACTION = 1 / 8, 0.3
#: Blocks from this width on drive the fit with their middle three pixels, not one.
MIN_WIDE_BLOCK = 7
#: Share of the network's picture in the mean with the last filter's: the two err in other places.
#: A tenth gained 0.07 dB on starfish (noise of 25), 0.04 on W2S 010_0 and 077_2, and lost 0.04 on
#: lena and TwoPhoton_BPAE_R, 0.16 on barbara, which repeats itself; a twentieth is between. Where
#: neighbours share noise, the low frequencies that it is made of are known less well than the
#: network knows the picture.
REFINEMENT_NETWORK_SHARE, CORRELATED_NETWORK_SHARE = 0.05, 0.5
#: Weight of the network's picture beside the filter's first step, where the noise is a camera's.
CAMERA_GUIDE_WEIGHT = 0.3
#: Deepest window of a fit in three dimensions: more planes than the network's coarsest look spans
#: would only take from the window's width.
MAX_WINDOW_DEPTH = 16


def compute_window_size(dims: int, side: int) -> tuple[int, ...]:
    """Size of what a step looks at: in three dimensions about as many pixels as in two."""
    return (side,) * 2 if dims == 2 else (MAX_WINDOW_DEPTH, side * 3 // 8, side * 3 // 8)


def compute_loss_core_width(side: int) -> int:
    """Width of the middle of a hidden block of that width that may drive the fit."""
    return 3 if side >= MIN_WIDE_BLOCK else 1


def build_blind_spot_prior(
    scene: FitInput, rng: torch.Generator, *, further: int = 0
) -> BlindSpotPrior:
    """Make a network and its code: the measurement with blocks hidden.

    Parameters
    ----------
    scene : FitInput
    rng : torch.Generator
    further : int
        Channels that the network is fed beside the measurement.
    """
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.prior import BlindSpotPrior

    channels, *grid = scene.measurement.shape[1:]
    net = Hourglass(
        len(grid),
        channels + further,
        2 * channels,
        scene.widths,
        skip=None,
        normalised=False,
        rng=rng,
        even=True,
    )
    single = all(side == 1 for side in scene.block)
    hidden = scene.guarded
    if scene.trust is not None:  # noisy pixels are filled in from others, too
        hidden = hidden.maximum(1 - scene.quiet)
    return BlindSpotPrior(
        net,
        scene.measurement,
        hidden,
        scene.block,
        tuple(compute_loss_core_width(side) for side in scene.block),
        share=BLIND_SPOT_FRACTION if single else BLIND_SPOT_BLOCK_FRACTION,
        window=None if scene.window is None else compute_window_size(len(grid), scene.window),
    )


def build_blind_spot_problem(
    scene: FitInput, penalties: tuple[tuple[float, Penalty], ...], *, own_word: bool = True
) -> Problem:
    """Explain the image as picture plus noise; the pixel's own word comes in at the end.

    Parameters
    ----------
    scene : FitInput
    penalties : tuple of (weight, Penalty)
    own_word : bool
        Whether it does, alone and with those of pixels whose surroundings look alike.
    """
    from napari_dip.engine.likelihood.fidelity import (
        beta_nll,
        compute_posterior,
        gaussian_likelihood,
    )
    from napari_dip.engine.problem import Identity, Problem, Term

    noise = scene.noise.times(scene.granted)
    term = Term(
        measurement=scene.measurement,
        operator=Identity(),
        fidelity=beta_nll(noise, scene.noise_level**2),
        likelihood=gaussian_likelihood(noise),
        fitted=scene.weight * (1 - scene.guarded),
        held_out=scene.held_out,
        measured=scene.weight,
    )

    def finish(estimate: Estimate) -> Estimate:
        return compute_posterior(
            scene.noise,
            scene.measurement,
            estimate,
            granted=scene.granted,
            judges=scene.held_out,
            own_word=own_word,
            trust=scene.trust,
        )

    refine = make_bm3d_refinement(scene, finish) if own_word else None
    return Problem(terms=(term,), penalties=penalties, finish=finish, refine=refine)


def make_bm3d_refinement(
    scene: FitInput, finish: Callable[[Estimate], Estimate]
) -> Callable[[Estimate], Estimate] | None:
    """Give what filters patches that look alike together, in the end; None in three dimensions.

    Some of the network's picture is kept (`REFINEMENT_NETWORK_SHARE`): the errors of the two are
    not the same.
    """
    from napari_dip.engine.likelihood.fidelity import restore_border_detail
    from napari_dip.engine.refinement.bm3d import PATCH_SIDE, refine_collaboratively

    if scene.measurement.ndim > 4 or min(scene.grid) < PATCH_SIDE:
        return None
    if scene.camera is not None:
        return _make_camera_refinement(scene, finish)

    def refine(estimate: Estimate) -> Estimate:
        pilot = finish(estimate)
        noise, measured = scene.noise, scene.measurement
        if scene.correlation is None:
            damped = pilot.mean + scene.weight * (measured - pilot.mean)
            pilot = pilot._replace(mean=restore_border_detail(noise, damped, pilot.mean))
        facts = noise, measured, pilot.mean, scene.weight, scene.correlation
        filtered = refine_collaboratively(*facts, informed=scene.neighbours is not None)
        kept = REFINEMENT_NETWORK_SHARE if scene.correlation is None else CORRELATED_NETWORK_SHARE
        return filtered._replace(mean=filtered.mean + kept * (pilot.mean - filtered.mean))

    return refine


def _make_camera_refinement(
    scene: FitInput, finish: Callable[[Estimate], Estimate]
) -> Callable[[Estimate], Estimate]:
    """Make the filter of a colour camera's noise, which the network's picture guides in part."""
    from napari_dip.engine.noise.oversampling import upscale_estimate
    from napari_dip.engine.refinement.colour_camera import filter_camera_noise

    camera, picture = scene.camera, scene.full_size
    assert camera is not None
    assert picture is not None

    def refine(estimate: Estimate) -> Estimate:
        guide = upscale_estimate(finish(estimate), tuple(picture.shape[2:])).mean
        return filter_camera_noise(picture, camera, guide, CAMERA_GUIDE_WEIGHT)

    return refine


def describe_blind_spot(block: tuple[int, ...]) -> str:
    """Say how the blind spot hides, and why so.

    Parameters
    ----------
    block : tuple of int
        Size of hidden blocks, along Y and X.
    """
    if all(side == 1 for side in block):
        return "single pixels are hidden, since neighbouring pixels do not share noise"
    sizes = " × ".join(str(side) for side in reversed(block))
    return f"blocks of {sizes} pixels are hidden, since neighbouring pixels share noise"
