"""Decide whether the noise of a colour image is that of a colour camera, and measure it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.noise.reliability import NoiseCaution
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from napari_dip.engine.noise.camera_noise import CameraNoise, TextureStatistics
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.pipeline.calibrate.calibration import StackArray

#: Limits of a camera's noise: maximum ratio between blocks, maximum ratio between brightnesses, and
#: minimum correlation of neighbouring pixels. Of 29 files of cc15 and polyu 26 have up to 1.30 and
#: 4.52, and 0.51 or more. Of 29 photographs with little noise (kodak256, McMaster, the page of
#: CBM3D) 26 have a correlation of 0.44 or less; the others have block ratios of 1.53 to 1.67.
MAX_BLOCK_NOISE_SPREAD, MAX_BRIGHTNESS_RATIO, MIN_NEIGHBOUR_CORRELATION = 1.32, 5.0, 0.46
#: Alternative limits: minimum correlation of neighbouring pixels, minimum ratio of the noise of
#: colours to that of luminance, and minimum ratio of the noise of luminance to that of the finest
#: frequencies. Window and Pattern3 of RNI15 have 0.31 and 0.44, 0.88 to 1.0, and 4.1 or more; none
#: of the photographs above meets all three.
MIN_COLOUR_NEIGHBOUR_CORRELATION, MIN_COLOUR_NOISE_FRACTION, MIN_FINE_NOISE_RATIO = 0.3, 0.7, 4.0
#: Minimum noise of luminance, in steps of grey values, and minimum ratio to the noise of the finest
#: frequencies: 2.3 or more in cc15 and polyu, 1 for white noise.
MIN_LUMINANCE_STD, MIN_LUMINANCE_NOISE_RATIO = 1.5, 1.5
#: Maximum root mean square correlation of residuals at the distances below, factor of the noise for
#: the next attempt if there is more, and number of such attempts. Of cc15 and polyu 28 files have
#: 0.008 to 0.014; woven cloth (Canon5D2_bag) has 0.065. Chance correlation is inversely
#: proportional to the side of the image.
MAX_DISTANT_CORRELATION, NOISE_RETRY_FACTOR, MAX_NOISE_RETRIES = 0.03, 0.6, 2
#: Distances of pixels for that correlation, in pixels.
MIN_CORRELATION_DISTANCE, MAX_CORRELATION_DISTANCE = 5, 24
#: Side of the central crop on which residuals are examined, in pixels.
RESIDUAL_CROP_SIDE = 256


def detect_camera_noise(
    stack: StackArray, noise: Sequence[NoiseEstimate], step: float
) -> CameraNoise | None:
    """Measure the noise of a colour camera in the image's units; None if it is other noise.

    Parameters
    ----------
    stack : ndarray
        (N, 3, Y, X): red, green and blue of one image, or of regions of it.
    noise : sequence of NoiseEstimate
        Noise of each channel, measured at the finest frequencies.
    step : float
        Distance of neighbouring grey values; 0 for floating-point images.
    """
    import torch

    from napari_dip.engine.noise.camera_noise import measure_camera_noise

    planes = torch.from_numpy(np.ascontiguousarray(stack))
    measured = measure_camera_noise(planes)
    if measured is None:
        return None
    camera, texture = measured
    channel_means = planes.mean((0, 2, 3)).tolist()
    fine_deviation = np.mean(
        [
            compute_noise_variance(item, mean) ** 0.5
            for item, mean in zip(noise, channel_means, strict=True)
        ]
    )
    min_deviation = max(MIN_LUMINANCE_STD * step, MIN_LUMINANCE_NOISE_RATIO * float(fine_deviation))
    if camera.std[0] < min_deviation or not _is_camera_noise(
        camera, texture, float(fine_deviation)
    ):
        return None
    return _confirm_camera_noise(planes, camera)


def _is_camera_noise(camera: CameraNoise, signs: TextureStatistics, fine: float) -> bool:
    luminance, *colours = camera.std
    has_strong_colour_noise = (
        sum(colours) >= 2 * MIN_COLOUR_NOISE_FRACTION * luminance
        and luminance >= MIN_FINE_NOISE_RATIO * fine
    )
    return (
        signs.spread <= MAX_BLOCK_NOISE_SPREAD
        and signs.brightness_ratio <= MAX_BRIGHTNESS_RATIO
        and signs.lag
        >= (
            MIN_COLOUR_NEIGHBOUR_CORRELATION
            if has_strong_colour_noise
            else MIN_NEIGHBOUR_CORRELATION
        )
    )


def _confirm_camera_noise(planes: torch.Tensor, camera: CameraNoise) -> CameraNoise | None:
    """Filter a central crop, and accept the noise if the residual has no texture."""
    from napari_dip.engine.refinement import filter_camera_noise

    centre_slices = [
        slice(
            (side - min(side, RESIDUAL_CROP_SIDE)) // 2, (side + min(side, RESIDUAL_CROP_SIDE)) // 2
        )
        for side in planes.shape[-2:]
    ]
    crop = planes[len(planes) // 2, :, centre_slices[0], centre_slices[1]][None].float()
    for _ in range(1 + MAX_NOISE_RETRIES):
        residual = (crop - filter_camera_noise(crop, camera).mean).mean((0, 1))
        if compute_distant_correlation(
            residual
        ) <= MAX_DISTANT_CORRELATION * RESIDUAL_CROP_SIDE / min(residual.shape):
            return camera
        camera = camera.convert_units(1 / NOISE_RETRY_FACTOR)
    return None


def compute_distant_correlation(residual: torch.Tensor) -> float:
    """Return the root mean square correlation of distant pixels of a residual (Y, X).

    Distances are `MIN_CORRELATION_DISTANCE` to `MAX_CORRELATION_DISTANCE` pixels.
    """
    import torch

    spectrum = torch.fft.rfft2(residual - residual.mean()).abs().square()
    autocorrelation = torch.fft.irfft2(spectrum, s=residual.shape)
    autocorrelation = torch.roll(
        autocorrelation / autocorrelation[0, 0].clamp(min=1e-12),
        (MAX_CORRELATION_DISTANCE, MAX_CORRELATION_DISTANCE),
        (0, 1),
    )
    autocorrelation = autocorrelation[
        : 2 * MAX_CORRELATION_DISTANCE + 1, : 2 * MAX_CORRELATION_DISTANCE + 1
    ]
    is_distant = torch.ones_like(autocorrelation, dtype=torch.bool)
    is_distant[
        MAX_CORRELATION_DISTANCE - MIN_CORRELATION_DISTANCE + 1 : MAX_CORRELATION_DISTANCE
        + MIN_CORRELATION_DISTANCE,
        MAX_CORRELATION_DISTANCE - MIN_CORRELATION_DISTANCE + 1 : MAX_CORRELATION_DISTANCE
        + MIN_CORRELATION_DISTANCE,
    ] = False
    return float(autocorrelation[is_distant].square().mean().sqrt())


def replace_channel_noise(
    camera: CameraNoise, noise: Sequence[NoiseEstimate]
) -> tuple[NoiseEstimate, ...]:
    """Return the noise of each channel with variance and correlation of the camera's noise."""
    variances, autocorrelation = camera.compute_channel_noise()
    lags = autocorrelation[: len(noise[0].along_y)]
    return tuple(
        replace(
            estimate,
            gain=0.0,
            intercept=variance,
            floor=variance / 2,
            along_y=lags,
            along_x=lags,
            unreliable_reason=None,
            caution=NoiseCaution.COLOUR_CAMERA,
            offset=None,
            read_noise=None,
        )
        for estimate, variance in zip(noise, variances, strict=True)
    )


def flag_correlated_colours(
    noise: Sequence[NoiseEstimate], grid: tuple[int, int]
) -> tuple[NoiseEstimate, ...]:
    """Add a caution to channels with correlated noise that is not that of a camera."""
    from napari_dip.engine.noise.estimate import compute_blind_spot_size

    return tuple(
        replace(estimate, caution=NoiseCaution.CORRELATED_COLOURS)
        if not (estimate.unreliable_reason or estimate.caution)
        and compute_blind_spot_size([estimate], grid) != (1, 1)
        else estimate
        for estimate in noise
    )


def measure_colour_noise(
    stack: StackArray, noise: Sequence[NoiseEstimate], step: float
) -> tuple[CameraNoise | None, tuple[NoiseEstimate, ...]]:
    """Measure the noise of a colour camera, or add a caution on other correlated noise.

    Parameters
    ----------
    stack, noise, step
        As for `detect_camera_noise`.

    Returns
    -------
    camera : CameraNoise or None
    noise : tuple of NoiseEstimate
        Noise of red, green and blue.
    """
    camera = detect_camera_noise(stack, noise, step)
    height, width = stack.shape[-2:]
    return camera, (
        replace_channel_noise(camera, noise)
        if camera
        else flag_correlated_colours(noise, (height, width))
    )


def make_camera_note(camera: CameraNoise) -> Note:
    """Return a note on the camera's noise."""
    return make_note("camera-noise", std=camera.std[0])
