"""JPEG compression as a named noise: found in the pixels, undone, and kept to at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_dip.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from napari_dip.engine.jpeg import Compression
    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.errors import Refusal
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import Scene
    from napari_dip.tasks.jpeg_traces import Traces

#: Name of the prior that learns to undo a compression; a row of the presets.
RECOMPRESSION = "recompression"
#: Part of the blocks that judge: they are whole blocks of the compression's grid, since what it
#: took from one pixel of a block it took from all of them together.
JUDGES = 0.1
#: Share of what compression takes, as a variance, that is reckoned with everywhere: it keeps the
#: loss finite where a network is sure of itself.
GRANTED = 0.1


def check_jpeg(source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
    """Say no to what compression is not undone for, from the headers alone."""
    if "second" in others:
        return refusal("jpeg-second", name=others["second"].name)
    counts = [source.shape[source.axes.index(axis)] for axis in "C" if axis in source.axes]
    if any(count > 1 for count in counts):
        return refusal("jpeg-channels", name=source.name, count=counts[0])
    return None


def admit_jpeg(image: npt.NDArray[np.float32], name: str) -> Refusal | None:
    """Say no to a picture (C, Y, X) that shows no trace of compression."""
    return refusal("jpeg-none", name=name) if _traces(image)[0] is None else None


def traces_of(
    image: npt.NDArray[np.float32],
) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[str, ...]]:
    """Read how a picture was compressed.

    Parameters
    ----------
    image : ndarray
        (C, Y, X), in its own units.

    Returns
    -------
    others, notes
        What `Scene.others` will hold, and what the user should know of it.
    """
    import numpy as np

    found, levels = _traces(image)
    assert found is not None  # it was asked for when the pixels were sorted
    others = {
        "jpeg_steps": found.steps.astype(np.float32),
        "jpeg_start": np.array(found.start, np.float32),
        "jpeg_halved": np.array(found.halved, np.float32),
        "jpeg_levels": np.array([levels], np.float32),
    }
    down, right = (first % 8 for first in found.start)
    colour = ", colour at half the size" if any(found.halved) else ""
    note = (
        f"JPEG compression of quality {found.quality} or alike was found{colour}: its blocks of "
        f"8 × 8 pixels begin {down} pixels down and {right} to the right."
    )
    return others, (note,)


def without_pixel_judges(scene: Scene) -> Scene:
    """Let no single pixels judge: whole blocks do, which `recompression_problem` chooses."""
    if scene.prior != RECOMPRESSION:
        return scene
    none = scene.held_out * 0
    return replace(scene, held_out=none, guarded=none)


def recompression(scene: Scene, rng: torch.Generator) -> Prior:
    """Make the network and its code: the picture, compressed once more on other grids."""
    from napari_dip.engine.hidden_pixels import FromFilling
    from napari_dip.engine.networks import Hourglass
    from napari_dip.engine.recompression import Recompression

    channels = scene.measurement.shape[1]
    fed = 2 * channels
    net = Hourglass(2, fed, channels, scene.widths, skip=None, normalised=False, rng=rng)
    return Recompression(
        FromFilling(net, fed, channels, 2, rng),
        scene.measurement,
        _compression(scene),
        lambda picture: _levels(scene, picture),
        lambda levels: _network(scene, levels),
        window=None if scene.window is None else (scene.window,) * 2,
    )


def recompression_problem(scene: Scene, penalties: tuple[tuple[float, Penalty], ...]) -> Problem:
    """Ask for the picture as it was before it was compressed once more."""
    import torch

    from napari_dip.engine.fidelity import NoiseVariance, gaussian_likelihood, mean_and_doubt
    from napari_dip.engine.jpeg import block_numbers, recompressed
    from napari_dip.engine.operators import Identity
    from napari_dip.engine.problem import LEAST_VARIANCE, Problem, Term
    from napari_dip.engine.recompression import ELSEWHERE

    how, measured = _compression(scene), scene.measurement
    picture = _levels(scene, measured)
    again = _network(scene, recompressed(picture, how, ELSEWHERE[0]))
    lost = max(float((again - measured).square().mean()), LEAST_VARIANCE)
    nothing = torch.zeros_like(scene.noise.gain)
    sure = NoiseVariance(nothing, nothing, nothing + GRANTED * lost)
    numbers = block_numbers(picture, how)
    dealt = torch.rand(int(numbers.max()) + 1, generator=torch.Generator().manual_seed(0))
    judges = (dealt.to(numbers.device)[numbers] < JUDGES).to(measured)[None, None]
    term = Term(
        measured,
        Identity(),
        mean_and_doubt(sure, lost),
        gaussian_likelihood(sure),
        fitted=1 - judges,
        held_out=judges,
        measured=torch.ones_like(judges),
    )

    def finish(estimate: Estimate) -> Estimate:
        doubt = estimate.log_variance
        assert doubt is not None  # this prior says how sure it is
        return kept_to(scene, estimate._replace(log_variance=(doubt.exp() + GRANTED * lost).log()))

    return Problem((term,), penalties, finish)


def keeping_to(scene: Scene, problem: Problem) -> Problem:
    """End a problem with the nearest picture that compresses to what was measured."""
    from napari_dip.engine.problem import followed_by

    return followed_by(problem, lambda _, done: kept_to(scene, done))


def kept_to(scene: Scene, estimate: Estimate) -> Estimate:
    """Move an estimate to the nearest picture that compresses to what was measured."""
    from napari_dip.engine.jpeg import consistent

    measured = _levels(scene, scene.measurement)
    nearest = consistent(_levels(scene, estimate.mean), measured, _compression(scene))
    return estimate._replace(mean=_network(scene, nearest))


def _traces(image: npt.NDArray[np.float32]) -> tuple[Traces | None, float]:
    """Find a picture's traces, and what makes 8-bit levels of its units."""
    from napari_dip.tasks.jpeg_traces import find_traces

    most = float(image.max())
    # as pictures are commonly rescaled: to 1, or to 16 bits, where 65535 stands for 255
    levels = 255.0 if most <= 1 else 1.0 if most <= 255 else 1 / 257
    return find_traces(image * levels), levels


def _compression(scene: Scene) -> Compression:
    from napari_dip.engine.jpeg import Compression

    down, right = (int(one) for one in scene.others["jpeg_start"])
    tall, wide = (bool(one) for one in scene.others["jpeg_halved"])
    return Compression((down, right), scene.others["jpeg_steps"], (tall, wide))


def _levels(scene: Scene, picture: Tensor) -> Tensor:
    """From network units to grey levels of 8 bits."""
    assert scene.zero is not None
    assert scene.unit is not None
    return (picture - scene.zero) / scene.unit * scene.others["jpeg_levels"]


def _network(scene: Scene, levels: Tensor) -> Tensor:
    """From grey levels of 8 bits to network units."""
    assert scene.zero is not None
    assert scene.unit is not None
    return levels / scene.others["jpeg_levels"] * scene.unit + scene.zero
