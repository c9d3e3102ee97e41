"""The image-fed prior, as several tasks use it: what is hidden is foretold and then weighed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from napari_dip.engine.prior import BlindSpotCode
    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.tasks.base import Scene

#: Priors that are fed the image itself: they say how sure they are of each pixel.
IMAGE_FED = ("blind-spot", "guided", "image", "image-shapes")
#: Part of the pixels that the blind spot hides at a step: single pixels, and blocks, whose centre
#: alone drives the fit. On FMD crops single pixels do not care (1/12, 1/6 and 1/4 lie within
#: 0.1 dB); blocks of 5 x 7 gain 0.2 dB from 0.15 to 0.3 and nothing beyond.
HIDDEN_SHARE, HIDDEN_SHARE_OF_BLOCKS = 1 / 8, 0.3
#: Blocks from this width on drive the fit with their middle three pixels, not one.
WIDE = 7
#: Share of the network's picture in the mean with the last filter's: the two err in other places.
#: A tenth gained 0.07 dB on starfish (noise of 25), 0.04 on W2S 010_0 and 077_2, and lost 0.04 on
#: lena and TwoPhoton_BPAE_R, 0.16 on barbara, which repeats itself; a twentieth is between. Where
#: neighbours share noise, the low frequencies that it is made of are known less well than the
#: network knows the picture.
KEPT, KEPT_IF_SHARED = 0.05, 0.5
#: Weight of the network's picture beside the filter's first step, where the noise is a camera's.
GUIDE = 0.3
#: Deepest window of a fit in three dimensions: more planes than the network's coarsest look spans
#: would only take from the window's width.
DEPTH = 16


def window_for(dims: int, side: int) -> tuple[int, ...]:
    """Size of what a step looks at: in three dimensions about as many pixels as in two."""
    return (side,) * 2 if dims == 2 else (DEPTH, side * 3 // 8, side * 3 // 8)


def trusted_core(side: int) -> int:
    """Width of the middle of a hidden block of that width that may drive the fit."""
    return 3 if side >= WIDE else 1


def blind_spot_code(scene: Scene, rng: torch.Generator, *, further: int = 0) -> BlindSpotCode:
    """Make a network and its code: the measurement with blocks hidden.

    Parameters
    ----------
    scene : Scene
    rng : torch.Generator
    further : int
        Channels that the network is fed beside the measurement.
    """
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.prior import BlindSpotCode

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
    return BlindSpotCode(
        net,
        scene.measurement,
        hidden,
        scene.block,
        tuple(trusted_core(side) for side in scene.block),
        share=HIDDEN_SHARE if single else HIDDEN_SHARE_OF_BLOCKS,
        window=None if scene.window is None else window_for(len(grid), scene.window),
    )


def blind_spot_problem(
    scene: Scene, penalties: tuple[tuple[float, Penalty], ...], *, own_word: bool = True
) -> Problem:
    """Explain the image as picture plus noise; the pixel's own word comes in at the end.

    Parameters
    ----------
    scene : Scene
    penalties : tuple of (weight, Penalty)
    own_word : bool
        Whether it does, alone and with those of pixels whose surroundings look alike.
    """
    from napari_dip.engine.likelihood.fidelity import gaussian_likelihood, mean_and_doubt, posterior
    from napari_dip.engine.problem import Identity, Problem, Term

    noise = scene.noise.times(scene.granted)
    term = Term(
        scene.measurement,
        Identity(),
        mean_and_doubt(noise, scene.noise_level**2),
        gaussian_likelihood(noise),
        fitted=scene.weight * (1 - scene.guarded),
        held_out=scene.held_out,
        measured=scene.weight,
    )

    def finish(estimate: Estimate) -> Estimate:
        return posterior(
            scene.noise,
            scene.measurement,
            estimate,
            granted=scene.granted,
            judges=scene.held_out,
            own_word=own_word,
            trust=scene.trust,
        )

    refine = refined(scene, finish) if own_word else None
    return Problem((term,), penalties, finish, refine=refine)


def refined(
    scene: Scene, finish: Callable[[Estimate], Estimate]
) -> Callable[[Estimate], Estimate] | None:
    """Give what filters patches that look alike together, in the end; None in three dimensions.

    Some of the network's picture is kept (`KEPT`): the errors of the two are not the same.
    """
    from napari_dip.engine.likelihood.fidelity import frame_put_back
    from napari_dip.engine.refinement.bm3d import PATCH, collaborative

    if scene.measurement.ndim > 4 or min(scene.grid) < PATCH:
        return None
    if scene.camera is not None:
        return _camera_filtered(scene, finish)

    def refine(estimate: Estimate) -> Estimate:
        pilot = finish(estimate)
        noise, measured = scene.noise, scene.measurement
        if scene.correlation is None:
            seen = pilot.mean + scene.weight * (measured - pilot.mean)
            pilot = pilot._replace(mean=frame_put_back(noise, seen, pilot.mean))
        told = noise, measured, pilot.mean, scene.weight, scene.correlation
        filtered = collaborative(*told, informed=scene.beside is not None)
        kept = KEPT if scene.correlation is None else KEPT_IF_SHARED
        return filtered._replace(mean=filtered.mean + kept * (pilot.mean - filtered.mean))

    return refine


def _camera_filtered(
    scene: Scene, finish: Callable[[Estimate], Estimate]
) -> Callable[[Estimate], Estimate]:
    """Make the filter of a colour camera's noise, which the network's picture guides in part."""
    from napari_dip.engine.noise.oversampling import enlarged
    from napari_dip.engine.refinement.colour_camera import filter_camera_noise

    camera, picture = scene.camera, scene.full_size
    assert camera is not None
    assert picture is not None

    def refine(estimate: Estimate) -> Estimate:
        guide = enlarged(finish(estimate), tuple(picture.shape[2:])).mean
        return filter_camera_noise(picture, camera, guide, GUIDE)

    return refine


def hidden_words(block: tuple[int, ...]) -> str:
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
