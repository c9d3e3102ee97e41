"""When the noise is taken for a colour camera's, and what follows from that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from napari_dip.engine.noise.colour_camera import CameraNoise, TextureStatistics
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import Planes

#: Most that blocks, and brightnesses, may differ in noise, and least correlation of neighbours: 26
#: of 29 files of cc15 and polyu have up to 1.30 and 4.52, and 0.51 or more. Of 29 photographs with
#: little noise (kodak256, McMaster, the page of CBM3D) 26 have 0.44 or less; the others differ from
#: block to block by 1.53 to 1.67.
MAX_BLOCK_NOISE_SPREAD, MAX_BRIGHTNESS_RATIO, MIN_NEIGHBOUR_CORRELATION = 1.32, 5.0, 0.46
#: Least correlation of neighbours where colour is nearly as noisy as luminance, and luminance is so
#: many times as noisy as the finest frequencies tell: Window and Pattern3 of RNI15 have 0.31 and
#: 0.44, 0.88 to 1.0, and 4.1 or more; of the photographs above none has all three.
MIN_COLOUR_NEIGHBOUR_CORRELATION, MIN_COLOUR_NOISE_SHARE, MIN_FINE_NOISE_RATIO = 0.3, 0.7, 4.0
#: Least noise in luminance, in grey values of 8 bits, and least times the noise that the finest
#: frequencies tell: 2.3 or more in cc15 and polyu; white noise has 1.
MIN_LUMINANCE_STD, MIN_LUMINANCE_NOISE_RATIO = 1.5, 1.5
#: Most that residuals of pixels far apart have in common (root mean square correlation at 5 to 24
#: pixels), and by how much less noise is tried where they have more, and how often. Of cc15 and
#: polyu 28 files have 0.008 to 0.014; woven cloth (Canon5D2_bag) 0.065. In smaller pictures chance
#: makes as much more of it as their side is shorter.
MAX_DISTANT_CORRELATION, NOISE_RETRY_FACTOR, MAX_NOISE_RETRIES = 0.03, 0.6, 2
MIN_CORRELATION_DISTANCE, MAX_CORRELATION_DISTANCE = 5, 24
#: Side of the middle of a picture that residuals are looked at in.
RESIDUAL_CROP_SIDE = 256


def detect_camera_noise(
    stack: Planes, noise: Sequence[NoiseEstimate], step: float
) -> CameraNoise | None:
    """Measure the noise as a colour camera's, in the image's units; None if it is none.

    Parameters
    ----------
    stack : ndarray
        (N, 3, Y, X): red, green and blue of one picture, or of parts of it.
    noise : sequence of NoiseEstimate
        What each channel's finest frequencies tell.
    step : float
        Distance of neighbouring grey values; 0 if there are no steps.
    """
    import torch

    from napari_dip.engine.noise.colour_camera import measure_camera_noise

    planes = torch.from_numpy(np.ascontiguousarray(stack))
    measured = measure_camera_noise(planes)
    if measured is None:
        return None
    camera, signs = measured
    level = planes.mean((0, 2, 3)).tolist()
    fine = np.mean(
        [compute_noise_variance(item, mean) ** 0.5 for item, mean in zip(noise, level, strict=True)]
    )
    least = max(MIN_LUMINANCE_STD * step, MIN_LUMINANCE_NOISE_RATIO * float(fine))
    if camera.std[0] < least or not _is_camera_noise(camera, signs, float(fine)):
        return None
    return _confirm_camera_noise(planes, camera)


def _is_camera_noise(camera: CameraNoise, signs: TextureStatistics, fine: float) -> bool:
    luminance, *colours = camera.std
    colourful = (
        sum(colours) >= 2 * MIN_COLOUR_NOISE_SHARE * luminance
        and luminance >= MIN_FINE_NOISE_RATIO * fine
    )
    return (
        signs.spread <= MAX_BLOCK_NOISE_SPREAD
        and signs.brightness_ratio <= MAX_BRIGHTNESS_RATIO
        and signs.lag
        >= (MIN_COLOUR_NEIGHBOUR_CORRELATION if colourful else MIN_NEIGHBOUR_CORRELATION)
    )


def _confirm_camera_noise(planes: torch.Tensor, camera: CameraNoise) -> CameraNoise | None:
    """Filter the middle of a picture, and believe the noise if its residual is no texture."""
    from napari_dip.engine.refinement.colour_camera import filter_camera_noise

    places = [
        slice(
            (side - min(side, RESIDUAL_CROP_SIDE)) // 2, (side + min(side, RESIDUAL_CROP_SIDE)) // 2
        )
        for side in planes.shape[-2:]
    ]
    middle = planes[len(planes) // 2, :, places[0], places[1]][None].float()
    for _ in range(1 + MAX_NOISE_RETRIES):
        residual = (middle - filter_camera_noise(middle, camera).mean).mean((0, 1))
        if compute_distant_correlation(
            residual
        ) <= MAX_DISTANT_CORRELATION * RESIDUAL_CROP_SIDE / min(residual.shape):
            return camera
        camera = camera.in_units_of(1 / NOISE_RETRY_FACTOR)
    return None


def compute_distant_correlation(residual: torch.Tensor) -> float:
    """Compute the root mean square correlation of distant pixels (Y, X).

    They lie `MIN_CORRELATION_DISTANCE` to `MAX_CORRELATION_DISTANCE` pixels apart.
    """
    import torch

    spectrum = torch.fft.rfft2(residual - residual.mean()).abs().square()
    alike = torch.fft.irfft2(spectrum, s=residual.shape)
    alike = torch.roll(
        alike / alike[0, 0].clamp(min=1e-12),
        (MAX_CORRELATION_DISTANCE, MAX_CORRELATION_DISTANCE),
        (0, 1),
    )
    alike = alike[: 2 * MAX_CORRELATION_DISTANCE + 1, : 2 * MAX_CORRELATION_DISTANCE + 1]
    away = torch.ones_like(alike, dtype=torch.bool)
    away[
        MAX_CORRELATION_DISTANCE - MIN_CORRELATION_DISTANCE + 1 : MAX_CORRELATION_DISTANCE
        + MIN_CORRELATION_DISTANCE,
        MAX_CORRELATION_DISTANCE - MIN_CORRELATION_DISTANCE + 1 : MAX_CORRELATION_DISTANCE
        + MIN_CORRELATION_DISTANCE,
    ] = False
    return float(alike[away].square().mean().sqrt())


def replace_channel_noise(
    camera: CameraNoise, noise: Sequence[NoiseEstimate]
) -> tuple[NoiseEstimate, ...]:
    """Put a camera's noise in place of what each channel's finest frequencies tell."""
    variances, along = camera.of_channels()
    lags = along[: len(noise[0].along_y)]
    return tuple(
        replace(
            item,
            gain=0.0,
            intercept=variance,
            floor=variance / 2,
            along_y=lags,
            along_x=lags,
            doubt="",
            caution="camera",
            offset=None,
            read_noise=None,
        )
        for item, variance in zip(noise, variances, strict=True)
    )


def flag_correlated_colours(
    noise: Sequence[NoiseEstimate], grid: tuple[int, int]
) -> tuple[NoiseEstimate, ...]:
    """Warn of noise that a colour picture's neighbours share and that is no camera's as such."""
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    return tuple(
        replace(item, caution="colours")
        if not (item.doubt or item.caution) and compute_blind_spot_size([item], grid) != (1, 1)
        else item
        for item in noise
    )


def measure_colour_noise(
    stack: Planes, noise: Sequence[NoiseEstimate], step: float
) -> tuple[CameraNoise | None, tuple[NoiseEstimate, ...]]:
    """Measure a colour picture's noise as a camera's, or else warn where neighbours share it.

    Parameters
    ----------
    stack, noise, step
        As `detect_camera_noise` takes them.

    Returns
    -------
    camera : CameraNoise or None
    noise : tuple of NoiseEstimate
        Of red, green and blue.
    """
    camera = detect_camera_noise(stack, noise, step)
    height, width = stack.shape[-2:]
    return camera, (
        replace_channel_noise(camera, noise)
        if camera
        else flag_correlated_colours(noise, (height, width))
    )


def make_camera_note(camera: CameraNoise) -> Note:
    """Describe the noise to the user."""
    return make_note("camera-noise", std=camera.std[0])
