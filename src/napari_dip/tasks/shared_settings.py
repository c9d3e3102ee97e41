"""What a user may know of the noise, as fields of several tasks.

Smoothing beside the network's own, as a field of several tasks.

A second measurement of the same object, as a further input of a task.

Movies and stacks: what the frames beside one tell of it, as fields and steps of tasks.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from napari_dip.errors import refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.base import Input, Setting
from napari_dip.tasks.priors.blind_spot import build_blind_spot_prior
from napari_dip.tasks.priors.r2r import MEASUREMENT_INPUT_PRIORS, R2R_PRIOR, build_r2r_prior

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from napari_dip.engine.prior import Prior
    from napari_dip.engine.problem import Penalty, Problem
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.base import FitInput

NoiseModel = Annotated[
    Literal["auto", "gaussian", "poisson-gaussian"],
    Setting(
        "Noise model",
        "Gaussian: the noise is equally strong everywhere. Poisson-Gaussian: it grows with "
        "brightness, as photon noise does. Automatic measures which.",
        choices={
            "auto": "Automatic",
            "gaussian": "Gaussian",
            "poisson-gaussian": "Poisson-Gaussian",
        },
    ),
]
NoiseOrCompression = Annotated[
    Literal[
        "auto", "gaussian", "poisson-gaussian", "jpeg", "salt-and-pepper", "stripes", "speckle"
    ],
    Setting(
        "Noise model",
        "Gaussian: the noise is equally strong everywhere. Poisson-Gaussian: it grows with "
        "brightness, as photon noise does. Automatic measures which of the two. JPEG compression: "
        "blocks and rings of a compressed picture are taken away. Salt and pepper: hot, dead and "
        "other faulty pixels are found and filled in. Stripes: rows or columns with offsets of "
        "their own, as of sCMOS cameras and scanners, are levelled. Speckle: noise in proportion "
        "to the signal, as in OCT, ultrasound and coherent light.",
        choices={
            "auto": "Automatic",
            "gaussian": "Gaussian",
            "poisson-gaussian": "Poisson-Gaussian",
            "jpeg": "JPEG compression",
            "salt-and-pepper": "Salt and pepper (faulty pixels)",
            "stripes": "Stripes (line noise)",
            "speckle": "Speckle",
        },
    ),
]
ReadNoise = Annotated[
    Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None,
    Setting(
        "Read noise",
        "Standard deviation of the noise where the image is dark, in intensity units of the "
        "image. Empty: measured.",
        least=0,
        most=1e9,
    ),
]
CameraGain = Annotated[
    Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None,
    Setting(
        "Gain",
        "How much the noise variance grows for each unit of brightness. Empty: measured.",
        least=0,
        most=1e9,
    ),
]
Smoothing = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    Setting(
        "Smoothing",
        "Weight of a total-variation penalty added to the fit, without unit. 0 is best for "
        "most images; 0.1 is visible, 1 is strong.",
        least=0,
        most=100,
        step=0.05,
        written="Smoothing: {:g} (weight of the penalty on total variation, without unit)",
    ),
]
SmoothingKind = Annotated[
    Literal["isotropic", "anisotropic"],
    Setting(
        "Kind of smoothing",
        "How steps from pixel to pixel are counted where smoothing is above 0. Isotropic: edges of "
        "all directions cost alike. Anisotropic: edges along the rows and columns are the "
        "cheapest, as suits chips, letters and gratings.",
        choices={"isotropic": "Isotropic", "anisotropic": "Anisotropic"},
    ),
]


def make_total_variation_penalty(
    scene: FitInput, weight: float, kind: str
) -> tuple[tuple[float, Penalty], ...]:
    """Give the penalty of that weight and kind, none for weight 0."""
    from napari_dip.engine.likelihood.penalties import anisotropic_total_variation, total_variation

    if not weight:
        return ()
    penalty = anisotropic_total_variation if kind == "anisotropic" else total_variation
    return ((weight, penalty(scene.noise_level)),)


#: What the dock and the command line ask for.
REPEATED_EXPOSURE = Input(
    name="repeated_exposure",
    label="Repeated exposure",
    help="Another shot of the same thing, unmoved: its noise is another, so the two together tell "
    "more "
    "than twice as much. Exposures may differ. Leave it out if there is one image only.",
    optional=True,
    measures=True,
)
#: Side of the blocks whose means are compared, in pixels: noise falls to an eighth, and what a
#: microscope shows mostly is as large.
COMPARISON_BLOCK_SIDE = 8
#: Least correlation of those means. It is 0.5 where the noise of a block's mean is as strong as
#: the picture, so that of a pixel eight times as strong, where nobody could tell.
MIN_BLOCK_CORRELATION = 0.5
#: Most blocks that are compared; more would only make sure of what is sure.
MAX_COMPARED_BLOCKS = 20_000


def check_exposure_header(source: ImageSpec, second: ImageSpec) -> Refusal | None:
    """Say no to a repeated exposure of another size or kind, from the headers alone."""
    same_axes = source.guessed or second.guessed or source.axes == second.axes
    if second.shape == source.shape and same_axes:
        return None
    ours, theirs = (
        f"{' × '.join(map(str, item.shape))} ({item.axes})" for item in (source, second)
    )
    return refusal("second-size", name=second.name, image=source.name, size=theirs, other=ours)


def check_exposure_pixels(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], name: str, other: str
) -> Refusal | None:
    """Say no to a repeated exposure that is no second measurement of the same object.

    Parameters
    ----------
    first, second : ndarray
        (parts, C, *grid), in units of their own.
    name, other : str
        Of the repeated exposure and of the first.
    """
    import numpy as np

    if np.array_equal(first, second):
        return refusal("second-same", name=name, image=other)
    alike = [
        correlation
        for channel in range(first.shape[1])
        if (correlation := _correlate_block_means(first[:, channel], second[:, channel]))
        is not None
    ]
    if alike and min(alike) < MIN_BLOCK_CORRELATION:
        facts = {
            "name": name,
            "image": other,
            "found": f"{min(alike):.2f}",
            "least": f"{MIN_BLOCK_CORRELATION}",
        }
        return refusal("second-other", **facts)
    return None


def average_exposures(scene: FitInput) -> FitInput:
    """Make one measurement of a scene's two: their mean, weighed by how sure each of them is.

    All that two measurements with normal noise tell of a picture is in that mean, so a network
    that is fed with it misses nothing. A line of variances stays one.

    Parameters
    ----------
    scene : FitInput
        Comes back as it is if it has one measurement only.
    """
    from dataclasses import replace

    from napari_dip.engine.likelihood.fidelity import NoiseVariance

    if len(scene.measurement) == 1:
        return scene
    noise, axes = scene.noise, tuple(range(2, scene.measurement.ndim))
    sure = 1 / noise.at(scene.measurement).mean(axes, keepdim=True)  # (B, C, 1, ...)
    weight = sure / sure.sum(0, keepdim=True)
    square = weight**2
    mean = (weight * scene.measurement).sum(0, keepdim=True)
    total = NoiseVariance(
        gain=(square * noise.gain).sum(0, keepdim=True),
        intercept=(square * noise.intercept).sum(0, keepdim=True),
        floor=(square * noise.floor).sum(0, keepdim=True),
    )
    level = float(total.at(mean).mean().sqrt())
    return replace(scene, measurement=mean, noise=total, noise_level=level)


def _correlate_block_means(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> float | None:
    """Correlation of the means of blocks; None where the first has nothing to be like."""
    x, y = (_compute_block_means(item) for item in (first, second))
    if first.min() == first.max():  # such a channel is left as it is
        return None
    x, y = x - x.mean(), y - y.mean()
    power = float((x**2).sum() * (y**2).sum())
    return float((x * y).sum()) / power**0.5 if power > 0 else 0.0


def _compute_block_means(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Means of blocks of (..., Y, X), evenly chosen if there are very many."""
    import numpy as np

    height, width = (side // COMPARISON_BLOCK_SIDE for side in volume.shape[-2:])
    planes = volume.reshape(-1, *volume.shape[-2:])[
        :, : height * COMPARISON_BLOCK_SIDE, : width * COMPARISON_BLOCK_SIDE
    ]
    every = max(1, len(planes) * height * width // MAX_COMPARED_BLOCKS)
    some = planes[:: min(every, max(1, len(planes)))]
    blocks = some.reshape(
        len(some), height, COMPARISON_BLOCK_SIDE, width, COMPARISON_BLOCK_SIDE
    ).astype(np.float64)
    return np.asarray(blocks.mean((2, 4))).ravel()


#: Pixels between planes from which on a volume is not worth its time: of every second plane of an
#: embryo (8 x 48 x 48) it made 25.8 dB in 36 s, planes that see their neighbours 26.2 dB in 9 s.
MIN_DISTANT_SPACING = 2.0
#: Priors whose networks are shown the image, and may be shown the frames beside as well.
NEIGHBOUR_FRAME_PRIORS = (R2R_PRIOR, "blind-spot")
UseNeighbouringFrames = Annotated[
    bool,
    Setting(
        "Use neighbouring frames",
        "For movies and stacks restored one frame or plane at a time, with R2R or the blind spot: "
        "the network also gets the noisy frame before and the one after, those of a movie "
        "registered onto it. It finds out by itself where they help. Switch it off if all of them "
        "share one noise, as with a dirty camera.",
    ),
]
TemporalSmoothing = Annotated[
    Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)],
    Setting(
        "Temporal smoothing",
        "For movies restored frame by frame: how strongly a pixel is drawn to its value in the "
        "frame before, where nothing has moved. 0: not at all; 1: as much as the two values "
        "deserve by their uncertainties.",
        least=0,
        most=100,
        step=0.5,
    ),
]
#: What one network for all, the weights of the one before, and nothing shared are called.
SharingMode = Literal["joint", "warm-start", "independent"]
#: Frames or planes from which on one network is fitted to all of them: 12 frames of 64 x 64 took
#: 12.9 CPU seconds so, and 13.0 in turn (cancer_cell_migration, `fast`).
MIN_JOINT_FRAMES = 16
#: And tiles, whose steps in turn look at less: 16 of 128 x 128 took 182 and 162 CPU seconds a
#: megapixel with one network for all, 155 and 141 in turn (TwoPhoton_BPAE_B, Confocal_BPAE_R).
MIN_JOINT_TILES = 32
SeriesSharing = Annotated[
    Literal["auto", "joint", "warm-start", "independent"],
    Setting(
        "Network for a series",
        "How the frames of a movie, the planes of a stack that are restored one by one, or the "
        "tiles of a large picture share a network. Joint training: one network is fitted to all of "
        "them and then applied to each; it is fine-tuned only where validation pixels ask for it. "
        "Warm start: each begins with the weights of an earlier one. Independent: each has a "
        "network of its own; slowest. Automatic: joint training from 16 frames or planes, or 32 "
        "tiles, on; else warm start.",
        choices={
            "auto": "Automatic",
            "joint": "Joint training (one network)",
            "warm-start": "Warm start (in turn)",
            "independent": "Independent",
        },
    ),
]


def choose_sharing_mode(choice: str, count: int, *, sees_image: bool, tiles: bool) -> SharingMode:
    """Choose how so many frames, planes or tiles share what a network learns.

    One network can only serve all if it is fed with the image: fed with random input, it holds one
    picture.
    """
    if choice == "independent":
        return "independent"
    least = MIN_JOINT_TILES if tiles else MIN_JOINT_FRAMES
    wanted = choice == "joint" or (choice == "auto" and count >= least)
    return "joint" if wanted and sees_image and count > 1 else "warm-start"


def count_planes(source: ImageSpec) -> int:
    """Count frames times planes."""
    sizes = zip(source.axes, source.shape, strict=True)
    return prod(count for axis, count in sizes if axis in "TZ")


def is_movie(source: ImageSpec) -> bool:
    """Whether there are several frames."""
    return "T" in source.axes and source.shape[source.axes.index("T")] > 1


def compute_plane_distance(source: ImageSpec) -> float:
    """Distance of neighbouring planes in pixels of the plane; 1 where the header does not say."""
    if source.scale is None or source.units is None or "Z" not in source.axes:
        return 1.0
    deep, wide = (source.axes.index(axis) for axis in "ZX")
    if (
        source.shape[deep] < 2
        or source.units[deep] != source.units[wide]
        or not source.scale[wide] > 0
    ):
        return 1.0
    return abs(source.scale[deep]) / source.scale[wide] or 1.0


def has_distant_planes(source: ImageSpec) -> bool:
    """Whether planes lie too far apart to be restored together rather than one by one."""
    return compute_plane_distance(source) >= MIN_DISTANT_SPACING


def describe_distant_planes(source: ImageSpec) -> Note:
    """Say what becomes of planes that lie far apart."""
    return make_note("planes-distant", distance=compute_plane_distance(source))


def build_neighbour_frame_prior(scene: FitInput, rng: torch.Generator) -> Prior:
    """Make a network that is shown the image, and the frames beside, if there are any.

    Parameters
    ----------
    scene : FitInput
        Its prior is one of `NEIGHBOUR_FRAME_PRIORS`.
    rng : torch.Generator
    """
    from napari_dip.engine.priors.guided import GuidedPrior

    make = build_r2r_prior if scene.prior == R2R_PRIOR else build_blind_spot_prior
    if scene.neighbours is None:
        return make(scene, rng)
    return GuidedPrior(make(scene, rng, further=scene.neighbours.shape[1]), scene.neighbours)


def add_temporal_smoothing(problem: Problem, scene: FitInput, weight: float) -> Problem:
    """Draw a problem's picture to that of the frame before, if there is one.

    A network that says how sure it is gives a picture that is weighed against the frame before
    in the end; any other is drawn to it while it is fitted.
    """
    from napari_dip.engine.likelihood.penalties import make_temporal_term, smooth_temporally
    from napari_dip.engine.problem import append_final_step

    before = scene.before
    if before is None or not weight:
        return problem
    if scene.prior not in MEASUREMENT_INPUT_PRIORS:
        term = make_temporal_term(before, scene.noise_level, weight, problem.finish)
        return replace(problem, terms=(*problem.terms, term))
    return append_final_step(problem, lambda _, done: smooth_temporally(done, before, weight))
