"""JPEG compression as a named noise: found in the pixels, undone, and kept to at the end.

The traces that JPEG compression leaves in pixels: its grid, its steps, its size of colour.

Read from the pixels alone, since a layer has nothing else: cosine coefficients of blocks on the
right grid are multiples of a step, up to the rounding of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors import refusal
from napari_dip.errors.notes import make_note

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import torch
    from torch import Tensor

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.priors.jpeg import JpegCompression
    from napari_dip.engine.problem import Estimate, Penalty, Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import FitInput

    Plane = npt.NDArray[np.float64]

#: Name of the prior that learns to undo a compression; a row of the presets.
RECOMPRESSION = "recompression"
#: Part of the blocks that judge: they are whole blocks of the compression's grid, since what it
#: took from one pixel of a block it took from all of them together.
VALIDATION_BLOCK_FRACTION = 0.1
#: Share of what compression takes, as a variance, that is reckoned with everywhere: it keeps the
#: loss finite where a network is sure of itself.
COMPRESSION_VARIANCE_FLOOR = 0.1


def check_jpeg(source: ImageSpec, others: Mapping[str, ImageSpec]) -> Refusal | None:
    """Say no to what compression is not undone for, from the headers alone."""
    if "repeated_exposure" in others:
        return refusal("jpeg-second", name=others["repeated_exposure"].name)
    counts = [source.shape[source.axes.index(axis)] for axis in "C" if axis in source.axes]
    if any(count > 1 for count in counts):
        return refusal("jpeg-channels", name=source.name, count=counts[0])
    return None


def admit_jpeg(image: npt.NDArray[np.float32], name: str) -> Refusal | None:
    """Say no to a picture (C, Y, X) that shows no trace of compression."""
    return refusal("jpeg-none", name=name) if _find_scaled_traces(image)[0] is None else None


def read_jpeg_traces(
    image: npt.NDArray[np.float32],
) -> tuple[Mapping[str, npt.NDArray[np.float32]], tuple[Note, ...]]:
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

    traces, levels = _find_scaled_traces(image)
    assert traces is not None  # it was asked for when the pixels were sorted
    others = {
        "jpeg_steps": traces.steps.astype(np.float32),
        "jpeg_start": np.array(traces.start, np.float32),
        "jpeg_halved": np.array(traces.halved, np.float32),
        "jpeg_levels": np.array([levels], np.float32),
    }
    down, right = (first % 8 for first in traces.start)
    facts = {"quality": traces.quality, "halved": any(traces.halved), "down": down, "right": right}
    return others, (make_note("jpeg-found", **facts),)


def clear_validation_pixels(scene: FitInput) -> FitInput:
    """Let no single pixels judge: whole blocks do, which `build_recompression_problem` chooses."""
    if scene.prior != RECOMPRESSION:
        return scene
    none = scene.held_out * 0
    return replace(scene, held_out=none, guarded=none)


def build_recompression_prior(scene: FitInput, rng: torch.Generator) -> Prior:
    """Make the network and its code: the picture, compressed once more on other grids."""
    from napari_dip.engine.networks.hourglass import Hourglass
    from napari_dip.engine.priors.jpeg import RecompressionPrior
    from napari_dip.engine.priors.masked_input import FillingResidualNetwork

    channels = scene.measurement.shape[1]
    fed = 2 * channels
    net = Hourglass(2, fed, channels, scene.widths, skip=None, normalised=False, rng=rng)
    return RecompressionPrior(
        FillingResidualNetwork(net, fed, channels, 2, rng),
        scene.measurement,
        _make_compression(scene),
        lambda picture: _to_grey_levels(scene, picture),
        lambda levels: _to_network_units(scene, levels),
        window=None if scene.window is None else (scene.window,) * 2,
    )


def build_recompression_problem(
    scene: FitInput, penalties: tuple[tuple[float, Penalty], ...]
) -> Problem:
    """Ask for the picture as it was before it was compressed once more."""
    import torch

    from napari_dip.engine.likelihood.fidelity import (
        NoiseVariance,
        beta_nll,
        gaussian_likelihood,
    )
    from napari_dip.engine.priors.jpeg import RECOMPRESSION_SHIFTS, number_blocks, recompress
    from napari_dip.engine.problem import MIN_PREDICTION_VARIANCE, Identity, Problem, Term

    how, measured = _make_compression(scene), scene.measurement
    picture = _to_grey_levels(scene, measured)
    again = _to_network_units(scene, recompress(picture, how, RECOMPRESSION_SHIFTS[0]))
    lost = max(float((again - measured).square().mean()), MIN_PREDICTION_VARIANCE)
    nothing = torch.zeros_like(scene.noise.gain)
    sure = NoiseVariance(
        gain=nothing, intercept=nothing, floor=nothing + COMPRESSION_VARIANCE_FLOOR * lost
    )
    numbers = number_blocks(picture, how)
    dealt = torch.rand(int(numbers.max()) + 1, generator=torch.Generator().manual_seed(0))
    judges = (dealt.to(numbers.device)[numbers] < VALIDATION_BLOCK_FRACTION).to(measured)[
        None, None
    ]
    term = Term(
        measurement=measured,
        operator=Identity(),
        fidelity=beta_nll(sure, lost),
        likelihood=gaussian_likelihood(sure),
        fitted=1 - judges,
        held_out=judges,
        measured=torch.ones_like(judges),
    )

    def finish(estimate: Estimate) -> Estimate:
        doubt = estimate.log_variance
        assert doubt is not None  # this prior says how sure it is
        return project_to_jpeg(
            scene,
            estimate._replace(log_variance=(doubt.exp() + COMPRESSION_VARIANCE_FLOOR * lost).log()),
        )

    return Problem(terms=(term,), penalties=penalties, finish=finish)


def add_jpeg_projection(scene: FitInput, problem: Problem) -> Problem:
    """End a problem with the nearest picture that compresses to what was measured."""
    from napari_dip.engine.problem import append_final_step

    return append_final_step(problem, lambda _, done: project_to_jpeg(scene, done))


def project_to_jpeg(scene: FitInput, estimate: Estimate) -> Estimate:
    """Move an estimate to the nearest picture that compresses to what was measured."""
    from napari_dip.engine.priors.jpeg import project_onto_quantisation_set

    measured = _to_grey_levels(scene, scene.measurement)
    nearest = project_onto_quantisation_set(
        _to_grey_levels(scene, estimate.mean), measured, _make_compression(scene)
    )
    return estimate._replace(mean=_to_network_units(scene, nearest))


def _find_scaled_traces(image: npt.NDArray[np.float32]) -> tuple[Traces | None, float]:
    """Find a picture's traces, and what makes 8-bit levels of its units."""
    most = float(image.max())
    # as pictures are commonly rescaled: to 1, or to 16 bits, where 65535 stands for 255
    levels = 255.0 if most <= 1 else 1.0 if most <= 255 else 1 / 257
    return find_traces(image * levels), levels


def _make_compression(scene: FitInput) -> JpegCompression:
    from napari_dip.engine.priors.jpeg import JpegCompression

    down, right = (int(other) for other in scene.others["jpeg_start"])
    tall, wide = (bool(other) for other in scene.others["jpeg_halved"])
    return JpegCompression(
        start=(down, right), steps=scene.others["jpeg_steps"], halved=(tall, wide)
    )


def _to_grey_levels(scene: FitInput, picture: Tensor) -> Tensor:
    """From network units to grey levels of 8 bits."""
    assert scene.zero is not None
    assert scene.unit is not None
    return (picture - scene.zero) / scene.unit * scene.others["jpeg_levels"]


def _to_network_units(scene: FitInput, levels: Tensor) -> Tensor:
    """From grey levels of 8 bits to network units."""
    assert scene.zero is not None
    assert scene.unit is not None
    return levels / scene.others["jpeg_levels"] * scene.unit + scene.zero


DCT_BLOCK_SIDE = 8
#: Variance of a coefficient by the rounding of pixels: 1/12, and as much again for the rounding of
#: three colours.
ROUNDING_VARIANCE = 1 / 6
#: The same for colour at half the size, which has to be sharpened to be read: more.
CHROMA_ROUNDING_VARIANCE = 1.0
#: The same for the mean of a block, if larger: decoders round colours to one side, by a tenth of a
#: level and more, and in the lowest coefficient that counts eight times.
DC_ROUNDING_VARIANCE = 2.0
#: Most that one coefficient may speak against a step, as a logarithm of odds.
MAX_LOG_ODDS_PENALTY = 8.0
#: Coefficients nearer to 0 than so many standard deviations of the rounding tell nothing of a step.
ZERO_SIGMAS = 2.0
#: Fewest coefficients away from 0 that tell the step of a frequency.
MIN_NONZERO_COEFFICIENTS = 8
#: Logarithm of the odds for steps against none, of the whole picture, to be believed. Pictures
#: that were never compressed stay below 0; crops of 64 x 64 at quality 90 reach hundreds.
MIN_JPEG_LOG_ODDS = 30.0
#: Blocks that are looked at in any case, clipped or not.
MIN_DCT_BLOCKS = 64
#: Most blocks that are looked at in the search for the grid, and for the steps.
MAX_GRID_SEARCH_BLOCKS, MAX_STEP_SEARCH_BLOCKS = 400, 4096
#: Share of the steps found that must be the standard's, give or take one, to trust it in all.
STANDARD_SHARE = 0.8
#: Tables of the standard, for brightness and colour, at quality 50 (ITU-T T.81, annex K).
STANDARD_QUANTISATION_TABLES = tuple(
    np.array(table.split(), np.float64).reshape(DCT_BLOCK_SIDE, DCT_BLOCK_SIDE)
    for table in (
        "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 "
        "80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 "
        "92 95 98 112 100 103 99",
        "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 "
        "99 99" + 32 * " 99",
    )
)
_RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)
_DCT_BASIS = np.array(
    [
        [
            np.sqrt((1 if row == 0 else 2) / DCT_BLOCK_SIDE)
            * np.cos((2 * x + 1) * row * np.pi / (2 * DCT_BLOCK_SIDE))
            for x in range(DCT_BLOCK_SIDE)
        ]
        for row in range(DCT_BLOCK_SIDE)
    ]
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Traces:
    """How a picture was compressed.

    Attributes
    ----------
    start : (int, int)
        Row and column at which a block begins, of the grid of all channels.
    steps : ndarray
        (1 or 3, 8, 8).
    halved : (bool, bool)
        Whether colour was kept at half the size, along Y and X.
    quality : int
        Of the standard's tables, 1 to 100, that come nearest.
    """

    start: tuple[int, int]
    steps: npt.NDArray[np.float64]
    halved: tuple[bool, bool]
    quality: int


def find_traces(levels: npt.NDArray[np.floating]) -> Traces | None:
    """Find out how a picture was compressed; None if it shows no trace of that.

    Parameters
    ----------
    levels : ndarray
        (C, Y, X), one or three channels, in grey levels of 8 bits.

    References
    ----------
    Fan, de Queiroz, Identification of bitmap compression history: JPEG detection and quantizer
    estimation, IEEE TIP 12(2), 2003, doi:10.1109/TIP.2002.807361.
    """
    planes = levels.astype(np.float64)
    # clipped pixels are not what was decoded
    clipped = np.asarray(((planes <= 0) | (planes >= 255)).any(0), np.float64)
    if len(planes) == 3:
        planes = np.einsum("pc,cyx->pyx", _RGB_TO_YCBCR, planes)
    bright = planes[0] - 128
    start = max(
        ((down, right) for down in range(DCT_BLOCK_SIDE) for right in range(DCT_BLOCK_SIDE)),
        key=lambda place: _compute_zero_share(
            compute_dct_coefficients(bright, clipped, place, MAX_GRID_SEARCH_BLOCKS)
        ),
    )
    steps, odds, _ = _estimate_quantisation_steps(
        compute_dct_coefficients(bright, clipped, start, MAX_STEP_SEARCH_BLOCKS), ROUNDING_VARIANCE
    )
    if odds < MIN_JPEG_LOG_ODDS:
        return None
    quality = _estimate_quality(steps)
    table = _complete_quantisation_steps(steps, 0, quality)
    if len(planes) == 1:
        return Traces(start=start, steps=table[None], halved=(False, False), quality=quality)
    start, halved, colour_traces = _find_chroma_subsampling(planes[1:], clipped, start)
    colour = [_complete_quantisation_steps(item, 1, quality) for item in colour_traces]
    return Traces(start=start, steps=np.stack([table, *colour]), halved=halved, quality=quality)


def compute_dct_coefficients(
    plane: Plane, clipped: Plane, start: tuple[int, int], most: int
) -> Plane:
    """Cosine coefficients of the whole blocks of a plane, evenly chosen if there are many.

    Parameters
    ----------
    plane : ndarray
        (Y, X).
    clipped : ndarray
        (Y, X), above 0 where a pixel is not what was decoded; its block is left out if possible.
    start : (int, int)
        Row and column at which a block begins.
    most : int
        Blocks at most.

    Returns
    -------
    ndarray
        (K, 8, 8).
    """
    rows, columns = (
        (count - first) // DCT_BLOCK_SIDE for count, first in zip(plane.shape, start, strict=True)
    )
    blocks, spoilt = (
        item[start[0] :, start[1] :][: rows * DCT_BLOCK_SIDE, : columns * DCT_BLOCK_SIDE]
        .reshape(rows, DCT_BLOCK_SIDE, columns, DCT_BLOCK_SIDE)
        .swapaxes(1, 2)
        .reshape(-1, DCT_BLOCK_SIDE, DCT_BLOCK_SIDE)
        for item in (plane, clipped)
    )
    counts = spoilt.sum((1, 2))
    # few blocks without clipped pixels: those with the fewest of them have to do
    bound = np.sort(counts)[:MIN_DCT_BLOCKS][-1:].sum()
    chosen = blocks[counts <= bound]
    chosen = chosen[:: max(1, -(-len(chosen) // most))]
    return np.asarray(_DCT_BASIS @ chosen @ _DCT_BASIS.T)


def _compute_zero_share(blocks: Plane) -> float:
    """Share of the coefficients that are 0 but for rounding: on the right grid, many."""
    return float(np.exp(-(blocks**2) / (4 * ROUNDING_VARIANCE)).mean()) if len(blocks) else 0.0


def _estimate_quantisation_steps(
    blocks: Plane, rounding: float, *, means: bool = False
) -> tuple[Plane, float, float]:
    """Find the likeliest step of each frequency, 0 where nothing tells; and the odds for them.

    With a step q, coefficients crowd around every q-th value, q times as densely as if they could
    be anywhere.
    """
    steps, odds, count = np.zeros((DCT_BLOCK_SIDE, DCT_BLOCK_SIDE)), 0.0, 0
    wished = np.arange(2.0, 256.0)
    for v, u in product(range(DCT_BLOCK_SIDE), repeat=2):
        variance = rounding if u or v else max(rounding, DC_ROUNDING_VARIANCE)
        crowded = np.log(wished / np.sqrt(2 * np.pi * variance))[:, None]
        values = blocks[:, v, u]
        values = values[np.abs(values) > ZERO_SIGMAS * variance**0.5]
        if len(values) < MIN_NONZERO_COEFFICIENTS:
            continue
        count += len(values)
        multiple = np.rint(values / wished[:, None])
        off = values - wished[:, None] * multiple
        spoken = crowded - np.minimum(off**2 / (2 * variance), MAX_LOG_ODDS_PENALTY)
        # near 0 there are values for any step: they can speak against one, but not for it
        gain = np.where(multiple == 0, np.minimum(spoken, 0), spoken).sum(1)
        best = int(gain.argmax())
        if gain[best] > np.log(len(wished)):  # as many steps were tried
            odds += float(gain[best]) if means or u or v else 0.0
            steps[v, u] = wished[best]
    return steps, odds, odds / max(1, count)


def _find_chroma_subsampling(
    planes: Plane, clipped: Plane, start: tuple[int, int]
) -> tuple[tuple[int, int], tuple[bool, bool], list[Plane]]:
    """Find size, grid and steps of the two colour planes, by the best odds of all that may be."""
    best: tuple[float, tuple[int, int], tuple[bool, bool], list[Plane]] | None = None
    for halved in ((True, True), (False, True), (False, False)):
        ways = [(0, DCT_BLOCK_SIDE) if half else (0,) for half in halved]
        for further in product(*ways):
            place = start[0] + further[0], start[1] + further[1]
            total, subsampled = 0.0, []
            for plane in planes:
                small, spoilt, corner = _undo_chroma_upsampling(plane, clipped, place, halved)
                rounding = CHROMA_ROUNDING_VARIANCE if any(halved) else ROUNDING_VARIANCE
                blocks = compute_dct_coefficients(small, spoilt, corner, MAX_STEP_SEARCH_BLOCKS)
                steps, odds, each = _estimate_quantisation_steps(blocks, rounding, means=True)
                total += each if odds > MIN_JPEG_LOG_ODDS else 0.0
                subsampled.append(steps)
            if best is None or total > best[0]:
                best = total, place, halved, subsampled
    assert best is not None
    return best[1:]


def _undo_chroma_upsampling(
    plane: Plane, clipped: Plane, start: tuple[int, int], halved: tuple[bool, bool]
) -> tuple[Plane, Plane, tuple[int, int]]:
    """Undo what decoders do to enlarge colour, where it was kept at half the size.

    They give each half of a pixel three parts of it and one of its neighbour, so that the mean of
    both halves is six parts of eight of the pixel and one of each neighbour.
    """
    corner = list(start)
    for axis, half in enumerate(halved):
        if not half:
            continue
        first = start[axis] % 2
        end = first + (plane.shape[axis] - first) // 2 * 2
        lines, spoilt = (np.moveaxis(item, axis, 0)[first:end] for item in (plane, clipped))
        count = len(lines) // 2
        blur = np.eye(count) * 6 / 8 + (np.eye(count, k=1) + np.eye(count, k=-1)) / 8
        blur[0, 0] += 1 / 8
        blur[-1, -1] += 1 / 8
        sharpened = np.linalg.solve(blur, (lines[0::2] + lines[1::2]) / 2)
        plane = np.asarray(np.moveaxis(sharpened, 0, axis), np.float64)
        clipped = np.moveaxis(spoilt[0::2] + spoilt[1::2], 0, axis)
        corner[axis] = (start[axis] - first) // 2
    return plane, clipped, (corner[0], corner[1])


def _estimate_quality(steps: Plane) -> int:
    """Quality whose table for brightness comes nearest to the steps that were found."""
    mask = steps > 0
    return min(
        range(1, 101),
        key=lambda item: float(
            np.abs(np.log(_scale_quantisation_table(0, item)[mask] / steps[mask])).sum()
        ),
    )


def _scale_quantisation_table(kind: int, quality: int) -> Plane:
    """Table of the standard at a quality, as the reference library of JPEG scales it."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.asarray(np.clip((STANDARD_QUANTISATION_TABLES[kind] * scale + 50) // 100, 1, 255))


def _complete_quantisation_steps(steps: Plane, kind: int, quality: int) -> Plane:
    """Take the standard's table where most steps are its; else its steps where nothing told."""
    table, mask = _scale_quantisation_table(kind, quality), steps > 0
    mask[0, 0] = False
    if not mask.any() or np.mean(np.abs(steps - table)[mask] <= 1) >= STANDARD_SHARE:
        return table
    return np.where(steps > 0, steps, table)
