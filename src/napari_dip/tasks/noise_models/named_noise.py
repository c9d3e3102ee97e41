"""Noises that a user can name, beside those that are measured: which there are, and their hints.

Speckle as a named noise: its variance is a share of the squared signal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors import refusal
from napari_dip.errors.notes import make_note
from napari_dip.tasks.noise_models.impulses import SALT_AND_PEPPER
from napari_dip.tasks.noise_models.stripes import STRIPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors import Refusal
    from napari_dip.errors.notes import Note
    from napari_dip.io import ImageSpec
    from napari_dip.tasks.noise_models.stripes import StripeOffsets

#: Name of the noise.
SPECKLE = "speckle"
#: Signal, as a share of the mean, from which on speckle is reckoned with: where there is no light
#: there is no speckle, but a variance of 0 would weigh without bound.
MIN_SPECKLE_SIGNAL = 0.02


def admit_speckle(name: str, parts: npt.NDArray[np.float32]) -> Refusal | None:
    """Say no to a picture with negative values: no signal times anything gives them."""
    count = int((parts < 0).sum())
    if not count:
        return None
    facts = {"count": count, "total": parts.size, "least": f"{float(parts.min()):g}"}
    return refusal("speckle-negative", name=name, **facts)


def compute_logarithm(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Give the logarithm of (..., Y, X) of one channel."""
    import numpy as np
    import torch

    from napari_dip.engine.noise.variance_model import compute_log_intensity

    return np.asarray(compute_log_intensity(torch.from_numpy(np.ascontiguousarray(planes))).numpy())


def convert_log_noise(
    measured: NoiseEstimate, logarithms: npt.NDArray[np.float32]
) -> NoiseEstimate:
    """Give the noise of intensities from that which was measured of their logarithms."""
    import numpy as np

    from napari_dip.engine.noise.variance_model import estimate_number_of_looks

    level = float(logarithms.mean(dtype=np.float64))
    variance = max(measured.gain * level + measured.intercept, measured.floor)
    relative = estimate_number_of_looks(variance) ** -0.5
    signal = float(np.exp(logarithms, dtype=np.float64).mean())
    floor = (MIN_SPECKLE_SIGNAL * relative * signal) ** 2
    return replace(measured, gain=0.0, intercept=0.0, floor=floor, relative=relative)


#: Names as the recipe has them, and as people say them.
NAMED_NOISE_LABELS = {SALT_AND_PEPPER: "Salt and pepper", STRIPES: "Stripes", SPECKLE: "Speckle"}
#: Side of the middle of a picture that is looked at for hints, in pixels: enough to see a noise
#: that is everywhere, and done in a fraction of a second.
HINT_CROP_SIDE = 256
#: Standard deviations that make a hint of an impulse, and the share of such pixels that is worth
#: a word: one in five hundred.
HINT_IMPULSE_SIGMAS, MIN_IMPULSE_SHARE = 8.0, 0.002
#: Least share of these that lie off twice as far. Of salt and pepper on four pictures it was 0.43
#: and more, of a confocal shot of few photons, with their long tails, 0.03.
MIN_FAR_IMPULSE_SHARE = 0.2
#: Least share of impulses in each quarter of the pixels by brightness, in that of all: impulses
#: come everywhere, the long tails of photon noise do not.
MIN_QUARTER_IMPULSE_SHARE = 0.3
#: How many times above that of the pixels' noise the variance of line offsets must lie to be worth
#: a word.
MIN_STRIPE_VARIANCE_RATIO = 20.0


def check_named_noise(noise: str, others: Mapping[str, ImageSpec]) -> Refusal | None:
    """Say no to a repeated exposure where the noise is one that is found in a single picture."""
    if noise in NAMED_NOISE_LABELS and "repeated_exposure" in others:
        return refusal(
            "named-second", noise=NAMED_NOISE_LABELS[noise], name=others["repeated_exposure"].name
        )
    return None


def remove_named_noise(
    volume: npt.NDArray[np.float32],
    measured_mask: npt.NDArray[np.bool_] | None,
    step: float,
    noise: str,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, float]:
    """Take from a channel (..., Y, X) what is no common noise, so that the rest can be measured.

    Returns
    -------
    volume, known, step
        As they came; the logarithm, which has no steps, for speckle.
    """
    from napari_dip.tasks.noise_models.impulses import replace_by_random_neighbours
    from napari_dip.tasks.noise_models.stripes import subtract_line_offsets

    if noise == STRIPES:
        return subtract_line_offsets(volume), measured_mask, step
    if noise == SPECKLE:
        return compute_logarithm(volume), measured_mask, 0.0
    if measured_mask is None:
        return volume, measured_mask, step
    planes = volume.reshape(-1, *volume.shape[-2:])
    return (
        replace_by_random_neighbours(planes, measured_mask.reshape(planes.shape)).reshape(
            volume.shape
        ),
        None,
        step,
    )


def list_noise_hints(image: npt.NDArray[np.float32]) -> tuple[Note, ...]:
    """Say which named noise a picture (C, *grid) shows clearly."""
    planes = [_crop_middle(item) for item in image.reshape(-1, *image.shape[-2:])]
    plane = max(planes, key=lambda item: float(item.std()))
    said = []
    if impulses := _measure_impulse_share(plane):
        said.append(make_note("impulses-likely", share=impulses))
    lines = find_clear_stripes(plane)
    if lines is not None:
        facts = {"rows": lines.axis == -2, "deviation": lines.deviation}
        said.append(make_note("stripes-likely", **facts))
    return tuple(said)


def find_clear_stripes(plane: npt.NDArray[np.floating]) -> StripeOffsets | None:
    """Find offsets of rows or columns in the middle of a plane (Y, X); None: none worth a word."""
    from napari_dip.tasks.noise_models.stripes import find_lines

    lines = find_lines(_crop_middle(plane))
    return lines if lines is not None and lines.chance > MIN_STRIPE_VARIANCE_RATIO else None


def _crop_middle(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    starts = [max(0, (side - HINT_CROP_SIDE) // 2) for side in plane.shape]
    return plane[starts[0] : starts[0] + HINT_CROP_SIDE, starts[1] : starts[1] + HINT_CROP_SIDE]


def _measure_impulse_share(plane: npt.NDArray[np.float32]) -> float:
    """Give the share of clear impulses, 0 if they are too few or not everywhere."""
    import numpy as np

    from napari_dip.tasks.noise_models.impulses import compute_local_median, find_impulses

    impulses = find_impulses(plane, far=HINT_IMPULSE_SIGMAS, looks=1)
    share = float(impulses.mean())
    if share < MIN_IMPULSE_SHARE:
        return 0.0
    if (
        float(find_impulses(plane, far=2 * HINT_IMPULSE_SIGMAS, looks=1).mean())
        < MIN_FAR_IMPULSE_SHARE * share
    ):
        return 0.0
    order = compute_local_median(plane).argsort(axis=None, kind="stable")
    quarters = [float(impulses.ravel()[item].mean()) for item in np.array_split(order, 4)]
    return share if min(quarters) > MIN_QUARTER_IMPULSE_SHARE * share else 0.0
