"""Named noise: labels, removal before the calibration, hints for the user, and speckle.

The variance of speckle is a share of the squared signal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_dip.errors import make_refusal
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

#: Name of the noise model.
SPECKLE = "speckle"
#: Minimum signal for the variance of speckle, as a share of the mean: without it, the variance of
#: dark pixels would be 0 and their weight infinite.
MIN_SPECKLE_SIGNAL = 0.02


def admit_speckle(name: str, stack: npt.NDArray[np.float32]) -> Refusal | None:
    """Refuse images with negative values, which no multiplicative noise produces."""
    count = int((stack < 0).sum())
    if not count:
        return None
    facts = {"count": count, "total": stack.size, "least": f"{float(stack.min()):g}"}
    return make_refusal("speckle-negative", name=name, **facts)


def compute_logarithm(planes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the logarithm of the intensities (..., Y, X) of one channel."""
    import numpy as np
    import torch

    from napari_dip.engine.noise.variance_model import compute_log_intensity

    return np.asarray(compute_log_intensity(torch.from_numpy(np.ascontiguousarray(planes))).numpy())


def convert_log_noise(noise: NoiseEstimate, logarithms: npt.NDArray[np.float32]) -> NoiseEstimate:
    """Convert the noise that was measured on logarithms to that of intensities."""
    import numpy as np

    from napari_dip.engine.noise.variance_model import estimate_number_of_looks

    level = float(logarithms.mean(dtype=np.float64))
    variance = max(noise.gain * level + noise.intercept, noise.floor)
    relative = estimate_number_of_looks(variance) ** -0.5
    signal = float(np.exp(logarithms, dtype=np.float64).mean())
    floor = (MIN_SPECKLE_SIGNAL * relative * signal) ** 2
    return replace(noise, gain=0.0, intercept=0.0, floor=floor, relative_deviation=relative)


#: Label of each named noise in messages.
NAMED_NOISE_LABELS = {SALT_AND_PEPPER: "Salt and pepper", STRIPES: "Stripes", SPECKLE: "Speckle"}
#: Side of the central crop that is searched for hints, in pixels: enough for noise that is
#: everywhere, and fast.
HINT_CROP_SIDE = 256
#: Standard deviations from which on a pixel counts as an impulse, and the share of such pixels that
#: is worth a hint: one in five hundred.
HINT_IMPULSE_SIGMAS, MIN_IMPULSE_SHARE = 8.0, 0.002
#: Minimum share of these impulses that deviate twice as far. It was at least 0.43 for salt and
#: pepper on four images, and 0.03 for a confocal image of few photons, whose noise has long tails.
MIN_FAR_IMPULSE_SHARE = 0.2
#: Minimum share of impulses in each quarter of the pixels by brightness, relative to that in all
#: pixels. Impulses occur at every brightness, the long tails of photon noise do not.
MIN_QUARTER_IMPULSE_SHARE = 0.3
#: Minimum ratio of the variance of line offsets to that of a line's mean by pixel noise that is
#: worth a hint.
MIN_STRIPE_VARIANCE_RATIO = 20.0


def check_named_noise(noise: str, extra_headers: Mapping[str, ImageSpec]) -> Refusal | None:
    """Refuse a repeated exposure with a named noise, which is found in a single image."""
    if noise in NAMED_NOISE_LABELS and "repeated_exposure" in extra_headers:
        return make_refusal(
            "named-second",
            noise=NAMED_NOISE_LABELS[noise],
            name=extra_headers["repeated_exposure"].name,
        )
    return None


def remove_named_noise(
    volume: npt.NDArray[np.float32],
    measured_mask: npt.NDArray[np.bool_] | None,
    step: float,
    noise: str,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None, float]:
    """Remove a named noise from one channel (..., Y, X), so that the rest can be measured.

    Returns
    -------
    volume, measured_mask, step
        Without the named noise; for speckle the logarithm, which has no grey-level step.
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
    """Return notes on named noises that an image (C, *grid) clearly shows."""
    planes = [_crop_middle(item) for item in image.reshape(-1, *image.shape[-2:])]
    plane = max(planes, key=lambda item: float(item.std()))
    notes = []
    if impulses := _measure_impulse_share(plane):
        notes.append(make_note("impulses-likely", share=impulses))
    lines = find_clear_stripes(plane)
    if lines is not None:
        facts = {"rows": lines.axis == -2, "deviation": lines.deviation}
        notes.append(make_note("stripes-likely", **facts))
    return tuple(notes)


def find_clear_stripes(plane: npt.NDArray[np.floating]) -> StripeOffsets | None:
    """Find clear stripes in the centre of a plane (Y, X); None if there are none."""
    from napari_dip.tasks.noise_models.stripes import find_lines

    lines = find_lines(_crop_middle(plane))
    return lines if lines is not None and lines.variance_ratio > MIN_STRIPE_VARIANCE_RATIO else None


def _crop_middle(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    starts = [max(0, (side - HINT_CROP_SIDE) // 2) for side in plane.shape]
    return plane[starts[0] : starts[0] + HINT_CROP_SIDE, starts[1] : starts[1] + HINT_CROP_SIDE]


def _measure_impulse_share(plane: npt.NDArray[np.float32]) -> float:
    """Return the share of clear impulses; 0 if they are too few or not everywhere."""
    import numpy as np

    from napari_dip.tasks.noise_models.impulses import compute_local_median, find_impulses

    impulses = find_impulses(plane, threshold_sigmas=HINT_IMPULSE_SIGMAS, passes=1)
    share = float(impulses.mean())
    if share < MIN_IMPULSE_SHARE:
        return 0.0
    if (
        float(find_impulses(plane, threshold_sigmas=2 * HINT_IMPULSE_SIGMAS, passes=1).mean())
        < MIN_FAR_IMPULSE_SHARE * share
    ):
        return 0.0
    order = compute_local_median(plane).argsort(axis=None, kind="stable")
    quarters = [float(impulses.ravel()[members].mean()) for members in np.array_split(order, 4)]
    return share if min(quarters) > MIN_QUARTER_IMPULSE_SHARE * share else 0.0
