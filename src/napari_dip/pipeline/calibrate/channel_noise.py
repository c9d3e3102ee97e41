"""Measure the noise of each channel in image units; the user's own figures take precedence."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from napari_dip.engine.noise import (
    NoiseCaution,
    UnreliableReason,
    compute_intercept,
    crop_centre,
    predict_variance,
)
from napari_dip.errors.notes import make_note
from napari_dip.pipeline.calibrate.types import RepeatedExposure, name_channel
from napari_dip.tasks.noise_models.impulses import replace_single_pixels
from napari_dip.tasks.noise_models.jpeg_traces import measure_compressed_noise
from napari_dip.tasks.noise_models.registry import (
    GAUSSIAN,
    NOISE_MODELS,
    POISSON_GAUSSIAN,
    find_clear_stripes,
    remove_clear_artefacts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import torch

    from napari_dip.engine.noise.camera_noise import CameraNoise
    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.io import BoolArray, Float32Array, FloatArray
    from napari_dip.pipeline.calibrate.types import RunInputs
    from napari_dip.tasks.base import NoiseSettings

#: Maximum RMS correlation of distant residuals: at most 0.014 in 28 camera files, 0.065 in woven
#: cloth (docs/constants.md).
MAX_DISTANT_CORRELATION = 0.03
#: Factor on the noise for the next attempt, where distant residuals correlate.
NOISE_RETRY_FACTOR = 0.6
#: Maximum number of attempts with weaker noise.
MAX_NOISE_RETRIES = 2
#: Side of the central crop on which residuals are examined, in pixels.
RESIDUAL_CROP_SIDE = 256
#: Maximum number of measured planes: eight of 512 x 512 hold 30,000 blocks of the same detector.
MAX_NOISE_PLANES = 8
#: Maximum deviation from 1 of the intensity ratio of two exposures without a note. Exposures of the
#: same duration differ by up to 2 %.
GAIN_TOLERANCE = 0.02
#: Cautions with which chosen noise is not compared: the measured one may be wrong by a factor of
#: two, is not that of the pixels, or is next to nothing where no photon came.
INCOMPARABLE_CAUTIONS = (
    NoiseCaution.HALF_SIZE,
    NoiseCaution.HEAVY_TAILS,
    NoiseCaution.COMPRESSED,
    NoiseCaution.PHOTON_COUNTS,
)
#: Ratio of the standard deviations of chosen and measured noise from which on they differ: in 2 of
#: 225 crops if the right noise is chosen, in 218 if twice as much is (docs/constants.md).
MAX_CHOSEN_RATIO = 1.5
#: Reasons to measure noise again in every second pixel.
SHARED_NOISE_REASONS = (
    UnreliableReason.AMBIGUOUS_CORRELATION,
    UnreliableReason.SMOOTHED,
    UnreliableReason.TEXTURE,
)
#: Minimum side of an image whose noise is measured in every second pixel: half of it has 36 blocks.
MIN_SPARSE_SIDE = 96
#: Maximum variance of the noise of every second pixel, in units of the unreliable one of all: at
#: most 5.3 where it was right, 4,071 in a crop of grass (docs/constants.md).
MAX_SPARSE_RATIO = 10.0
#: Maximum excess of the correlation between every second pixel over that at lag 2 between all: at
#: most 0.05 where the variance was right, 0.23 in a crop where structure doubled it.
MAX_CORRELATION_EXCESS = 0.1
#: Correlation of neighbours from which on they share noise, and every second pixel may have more:
#: in 0 of 220 crops without noise, 1 of 220 with white noise (docs/constants.md).
MIN_SHARED_CORRELATION = 0.3
#: Variance in every second pixel, in units of that in all pixels, from which on structure was taken
#: for noise that is not shared: at least 1.35 there, at most 1.14 where it was right.
MIN_STRUCTURED_RATIO = 1.25
#: Variances in every second pixel, in units of that of the finest frequencies, between which it is
#: that of structure: 1.22 to 4.5 there; right up to 1.15, and from 5.5 on (docs/constants.md).
STRUCTURED_FINE_RATIOS = (1.18, 5.0)
#: Minimum correlation at lag 3, in units of that at lag 1 (both less that at the longest lag), of
#: texture taken for noise: 0.29 to 0.31 in four made micrographs of thin films; 0 in five others.
MIN_TAIL_RATIO = 0.2
#: Maximum variance of white noise in every second pixel, in units of that in all: noise that
#: correlates by 0.2 between neighbours has 1.4.
MAX_WHITE_SPARSE_RATIO = 1.5
#: Minimum variance before compression, in units of the measured one, for it to be used: with noise
#: of 10, 0.9 to 1.0 at quality 95, 1.0 to 1.5 at 85, and 680 and more at 75.
MIN_HIDDEN_RATIO = 1.5


def compute_noise_variance(
    noise_estimate: NoiseEstimate, signal: npt.ArrayLike, excess: npt.ArrayLike = 0.0
) -> FloatArray:
    """Return the noise variance of one channel at a signal, in squared units of the image.

    `excess` is the additional variance of each pixel by camera maps, (Y, X).
    """
    level = np.asarray(signal, np.float64)
    variance = predict_variance(level, noise_estimate.gain, noise_estimate.intercept)
    variance = variance + (noise_estimate.relative_deviation * level) ** 2
    return np.asarray(np.maximum(variance, noise_estimate.floor) + np.asarray(excess, np.float64))


def identify_noise_model(
    noise_estimates: Sequence[NoiseEstimate], noise_settings: NoiseSettings
) -> str:
    """Return the noise model: that of an artefact, Gaussian or Poisson-Gaussian."""
    if not NOISE_MODELS[noise_settings.model].has_variance_model:
        return noise_settings.model
    has_photon_noise = any(estimate.gain != 0 for estimate in noise_estimates)
    return POISSON_GAUSSIAN.key if has_photon_noise else GAUSSIAN.key


def measure_channel_noise(
    inputs: RunInputs,
    stack: Float32Array,
    constant_channels: tuple[int, ...],
    noise_settings: NoiseSettings,
    *,
    are_regions: bool = False,
) -> tuple[tuple[NoiseEstimate, ...], RepeatedExposure | None]:
    """Measure the noise of each channel from the image, or from two exposures of one object.

    Parameters
    ----------
    inputs : RunInputs
    stack : ndarray
        (N, C, *grid) of the image; pixels without a measurement are filled.
    constant_channels : tuple of int
        Channels that hold one value only.
    noise_settings : NoiseSettings
    are_regions : bool
        Whether items are regions of one image rather than frames or planes.

    Returns
    -------
    noise : tuple of NoiseEstimate
    repeated_exposure : RepeatedExposure or None
        The repeated exposure with its noise, if there is one.
    """
    channels = range(stack.shape[1])
    if inputs.repeated_exposure is None:
        measured_mask = inputs.measured_mask
        return tuple(
            measure_single_exposure(
                stack[:, c],
                None if measured_mask is None else measured_mask[:, c],
                inputs.grey_level_step,
                noise_settings,
                is_series=not are_regions,
            )
            for c in channels
        ), None
    pairs = [
        _measure_exposure_pair(
            stack[:, c],
            inputs.repeated_exposure[:, c],
            inputs.grey_level_step,
            noise_settings,
            is_constant=c in constant_channels,
        )
        for c in channels
    ]
    scaled_exposures, first_noise, second_noise, scalings = zip(*pairs, strict=True)
    notes = tuple(
        make_note("exposures-scaled", **scaling, **name_channel(channel, len(pairs)))
        for channel, scaling in enumerate(scalings)
        if scaling
    )
    return first_noise, RepeatedExposure(
        stack=np.stack(scaled_exposures, 1),
        noise=second_noise,
        notes=(make_note("two-exposures"), *notes),
    )


def measure_single_exposure(
    volume: Float32Array,
    measured_mask: BoolArray | None,
    grey_level_step: float,
    noise_settings: NoiseSettings,
    *,
    is_halved: bool = False,
    is_series: bool = False,
) -> NoiseEstimate:
    """Measure the noise of one channel from its measured pixels.

    Parameters
    ----------
    volume, measured_mask : ndarray
        (..., Y, X): pixels, and True where there is a measurement; None: everywhere.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for floating-point images.
    noise_settings : NoiseSettings
    is_halved : bool
        Whether the pixels are an enlarged image at half its size.
    is_series : bool
        Whether they are frames or planes, of which smooth ones are left out.
    """
    noise_model = NOISE_MODELS[noise_settings.model]
    if noise_model.remove_artefact:
        volume, measured_mask, grey_level_step = noise_model.remove_artefact(
            volume, measured_mask, grey_level_step
        )
    planes, sample, plane_masks = _select_planes(volume, measured_mask, is_series=is_series)
    missing_fraction = 0.0 if plane_masks is None else 1 - float(plane_masks.mean())
    sample, plane_masks = replace_single_pixels(sample, plane_masks)
    measure = partial(
        _measure_planes,
        grey_level_step=grey_level_step,
        noise_settings=noise_settings,
        is_halved=is_halved,
        replaced_fraction=missing_fraction,
    )
    measured = measure(sample, plane_masks)
    is_hidden = measured.unreliable_reason not in (None, UnreliableReason.HEAVY_TAILS)
    may_have_artefacts = plane_masks is None and not noise_model.remove_artefact
    cleaned = remove_clear_artefacts(sample) if is_hidden and may_have_artefacts else None
    if cleaned is not None:
        measured = measure(cleaned, None)
    is_ambiguous = measured.unreliable_reason is UnreliableReason.AMBIGUOUS_CORRELATION
    if is_ambiguous and noise_settings.is_known_white:
        caution = measured.caution or NoiseCaution.MOSTLY_TEXTURED
        measured = replace(measured, unreliable_reason=None, caution=caution)
    if noise_model.convert_noise:
        return noise_model.convert_noise(measured, planes)
    white = measured
    if noise_settings.is_white:
        white = _extract_white_part(measured, min(sample.shape[1:]))
    return _apply_user_noise(white, planes, noise_settings, measured)


def _measure_planes(
    sample: Float32Array,
    plane_masks: BoolArray | None,
    *,
    grey_level_step: float,
    noise_settings: NoiseSettings,
    is_halved: bool,
    replaced_fraction: float,
) -> NoiseEstimate:
    """Measure the noise of planes (P, Y, X), and check it where all their pixels are measured."""
    import torch

    from napari_dip.engine.noise.estimate import correct_by_prediction, estimate_noise
    from napari_dip.engine.noise.weakest_patterns import limit_by_patterns

    sample_mask = None if plane_masks is None else torch.from_numpy(plane_masks)
    measured = estimate_noise(torch.from_numpy(sample), grey_level_step, sample_mask)
    has_artefact_model = NOISE_MODELS[noise_settings.model].remove_artefact
    if plane_masks is not None or has_artefact_model or measured.counts_photons:
        return measured
    plane = sample[len(sample) // 2]
    measured = correct_by_prediction(
        measured,
        torch.from_numpy(plane),
        grey_level_step,
        is_halved=is_halved,
        replaced_fraction=replaced_fraction,
    )
    if not noise_settings.has_entered_noise:
        measured = _measure_before_compression(measured, plane)
    if not noise_settings.is_known_white:
        measured = _measure_every_second_pixel(measured, sample, grey_level_step)
    if not measured.is_before_compression:
        measured = limit_by_patterns(measured, torch.from_numpy(sample))
    is_replaceable = not (measured.unreliable_reason or measured.is_before_compression)
    if is_replaceable and find_clear_stripes(plane) is not None:
        measured = replace(measured, caution=NoiseCaution.LINE_OFFSETS)
    return measured


def _select_planes(
    volume: Float32Array, measured_mask: BoolArray | None, *, is_series: bool
) -> tuple[Float32Array, Float32Array, BoolArray | None]:
    """Return all planes (P, Y, X) that vary, those that are measured, and the masks of these."""
    planes = volume.reshape(-1, *volume.shape[-2:])
    if measured_mask is not None:
        masks = measured_mask.reshape(planes.shape)
        if masks.any():  # planes without a measurement are constant
            planes, masks = planes[masks.any((1, 2))], masks[masks.any((1, 2))]
        indices = select_spread_planes(len(planes))
        return planes, planes[indices], masks[indices]
    is_varied = planes.min((1, 2)) < planes.max((1, 2))
    planes = planes[is_varied] if is_varied.any() and not is_varied.all() else planes
    sample = planes[select_spread_planes(len(planes))]
    if is_series:
        import torch

        from napari_dip.engine.noise.consistency_checks import find_smooth_planes

        sample = sample[~find_smooth_planes(torch.from_numpy(sample)).numpy()]
    return planes, sample, None


def _measure_before_compression(measured: NoiseEstimate, plane: Float32Array) -> NoiseEstimate:
    """Measure noise that JPEG compression may have hidden in (Y, X) as it was before."""
    from napari_dip.engine.noise.camera_noise import replace_noise

    has_doubt = measured.unreliable_reason or measured.caution
    noise = measure_compressed_noise(plane[None]) if has_doubt else None
    if noise is None:
        return measured
    if noise.variance < MIN_HIDDEN_RATIO * compute_noise_variance(measured, noise.level):
        return measured
    white = (0.0,) * len(measured.along_y)
    line = noise.gain, noise.intercept, noise.floor
    return replace_noise(measured, NoiseCaution.COMPRESSED, *line, white)


def _measure_every_second_pixel(
    measured: NoiseEstimate, planes: Float32Array, grey_level_step: float
) -> NoiseEstimate:
    """Measure unreliable noise of (P, Y, X) in every second pixel: such pixels share less of it."""
    import torch

    from napari_dip.engine.noise import correlation
    from napari_dip.engine.noise.consistency_checks import measure_finest_variance
    from napari_dip.engine.noise.estimate import estimate_noise
    from napari_dip.engine.noise.weakest_patterns import limit_by_patterns

    height, width = (side // 2 * 2 for side in planes.shape[1:])
    reason = measured.unreliable_reason
    if reason not in SHARED_NOISE_REASONS or min(height, width) < MIN_SPARSE_SIDE:
        return measured
    sparse_planes = np.concatenate(
        [planes[:, down:height:2, right:width:2] for down in (0, 1) for right in (0, 1)]
    )
    sparse = estimate_noise(torch.from_numpy(sparse_planes), grey_level_step)
    level = float(planes.mean(dtype=np.float64))
    sparse_variance = compute_noise_variance(sparse, level)
    ratio = sparse_variance / compute_noise_variance(measured, level)
    fine_ratio = sparse_variance / measure_finest_variance(torch.from_numpy(planes))
    low, high = STRUCTURED_FINE_RATIOS
    is_structured = ratio > MIN_STRUCTURED_RATIO and low < fine_ratio < high
    axes = measured.along_y, measured.along_x
    is_structured &= max(lags[0] for lags in axes) < MIN_SHARED_CORRELATION
    is_structured |= any(
        any(lags) and sparse_lags[0] > lags[1] + MAX_CORRELATION_EXCESS
        for lags, sparse_lags in zip(axes, (sparse.along_y, sparse.along_x), strict=True)
    )
    if ratio > MAX_WHITE_SPARSE_RATIO and not any(map(any, axes)):
        interpolate = correlation.interpolate_correlation
        axes = interpolate(sparse.along_y), interpolate(sparse.along_x)
    if reason is UnreliableReason.TEXTURE:
        short_lags = map(correlation.subtract_image_correlation, axes)
        is_structured |= any(lags[2] > MIN_TAIL_RATIO * lags[0] for lags in short_lags)
    if is_structured or sparse.unreliable_reason or not 1 <= ratio <= MAX_SPARSE_RATIO:
        return measured
    sparse = replace(sparse, caution=NoiseCaution.EVERY_SECOND_PIXEL)
    sparse = replace(sparse, along_y=axes[0], along_x=axes[1])
    return sparse if limit_by_patterns(sparse, torch.from_numpy(planes)) is sparse else measured


def _extract_white_part(measured: NoiseEstimate, side: int) -> NoiseEstimate:
    """Return the white part of noise, or all of it where neighbours share noise for certain."""
    is_doubtful = measured.unreliable_reason or measured.caution is NoiseCaution.EVERY_SECOND_PIXEL
    if is_doubtful or max(measured.along_y[0], measured.along_x[0]) < MIN_SHARED_CORRELATION:
        return measured.extract_white_part()
    if side >= MIN_SPARSE_SIDE:
        return measured
    # few flat blocks tell noise from structure
    return replace(measured.extract_white_part(), caution=NoiseCaution.CORRELATED_KEPT)


def _measure_exposure_pair(
    first: Float32Array,
    second: Float32Array,
    grey_level_step: float,
    noise_settings: NoiseSettings,
    *,
    is_constant: bool,
) -> tuple[Float32Array, NoiseEstimate, NoiseEstimate, dict[str, float]]:
    """Scale the second exposure of one channel to the first, and measure the noise of both.

    Returns
    -------
    second : ndarray
        Scaled to the intensities of the first.
    first_noise, second_noise : NoiseEstimate
    scaling : dict
        Its gain and offset; empty if the exposures are equal.
    """
    import torch

    from napari_dip.engine.noise.repeated_exposure import (
        match_intensities,
        measure_repeated_exposure,
    )

    if is_constant:  # the channel is not restored
        noise = measure_single_exposure(first, None, grey_level_step, noise_settings)
        return first, noise, noise, {}
    first_planes, second_planes = (
        exposure.reshape(-1, *exposure.shape[-2:]) for exposure in (first, second)
    )
    plane_indices = select_spread_planes(len(first_planes))
    planes = torch.from_numpy(first_planes[plane_indices])
    match = match_intensities(planes, torch.from_numpy(second_planes[plane_indices]))
    scaled_second = np.asarray((second.astype(np.float64) - match.offset) / match.gain, np.float32)
    scaled_planes = scaled_second.reshape(-1, *scaled_second.shape[-2:])
    noises = measure_repeated_exposure(
        planes, torch.from_numpy(scaled_planes[plane_indices]), grey_level_step
    )
    # the user's figures are in grey values of the camera, and the second exposure was scaled
    gain, read = noise_settings.gain, noise_settings.read_noise
    scaled_settings = replace(
        noise_settings,
        gain=None if gain is None else gain / match.gain,
        read_noise=None if read is None else read / match.gain,
    )
    scaling = {}
    if abs(match.gain - 1) > GAIN_TOLERANCE:
        scaling = {"gain": float(match.gain), "offset": float(match.offset)}
    return (
        scaled_second,
        _apply_user_noise(noises[0], first_planes, noise_settings),
        _apply_user_noise(noises[1], scaled_planes, scaled_settings),
        scaling,
    )


def select_spread_planes(count: int) -> npt.NDArray[np.int_]:
    """Return indices of at most `MAX_NOISE_PLANES` evenly spread planes."""
    return np.unique(np.linspace(0, count - 1, MAX_NOISE_PLANES).astype(int))


def find_dark_level(noise_estimate: NoiseEstimate, pixels: Float32Array) -> float:
    """Return the measured level without light, or the first percentile of pixels.

    It is the last percentile of an image with inverted grey values.
    """
    if noise_estimate.offset is not None:
        return noise_estimate.offset
    return float(np.percentile(pixels, 99 if noise_estimate.gain < 0 else 1))


def _apply_user_noise(
    noise_estimate: NoiseEstimate,
    planes: Float32Array,
    noise_settings: NoiseSettings,
    measured: NoiseEstimate | None = None,
) -> NoiseEstimate:
    """Replace measured figures by those of the user.

    At the dark level the variance is the square of the user's read noise (0: pixels are counts of
    photons), and from there it rises by the user's gain. If noise falls with brightness, grey
    values are inverted. It is compared with `measured`: more if shared noise counts as structure.
    """
    from napari_dip.engine.noise.estimate import DARK_COUNT_STD

    gain, read_noise = noise_estimate.gain, noise_settings.read_noise
    dark_signal = find_dark_level(noise_estimate, planes)
    mean_signal = float(planes.mean(dtype=np.float64))
    mean_variance = float(compute_noise_variance(noise_estimate, mean_signal))
    dark_variance = float(compute_noise_variance(noise_estimate, dark_signal))
    if noise_settings.model == GAUSSIAN.key:
        gain, dark_variance = 0.0, mean_variance
    elif noise_settings.model == POISSON_GAUSSIAN.key and gain == 0 and mean_signal > dark_signal:
        # what the mean variance has above the floor, and at least a tenth of it, is photon noise
        photon_variance = max(mean_variance - noise_estimate.floor, 0.1 * mean_variance)
        gain, dark_variance = photon_variance / (mean_signal - dark_signal), noise_estimate.floor
    if noise_settings.gain is not None:
        gain = math.copysign(noise_settings.gain, noise_estimate.gain)
    if gain == noise_estimate.gain and read_noise is None:
        return noise_estimate
    chosen = replace(noise_estimate, gain=gain, floor=min(noise_estimate.floor, dark_variance))
    if read_noise == 0:  # each pixel is a number of photons
        if noise_settings.gain is None:
            gain = mean_variance / mean_signal if mean_signal > 0 else 0.0
        if gain <= 0 or noise_settings.model == GAUSSIAN.key:  # these are no counts
            return replace(noise_estimate, caution=NoiseCaution.CHOSEN)
        floor = (DARK_COUNT_STD * gain) ** 2
        chosen = replace(chosen, gain=gain, floor=floor, offset=0.0, read_noise=0.0)
        dark_signal = dark_variance = 0.0
    elif read_noise is not None:
        dark_variance = read_noise**2
        chosen = replace(chosen, floor=dark_variance, offset=dark_signal, read_noise=read_noise)
    chosen = replace(chosen, intercept=compute_intercept(gain, dark_signal, dark_variance))
    is_comparable = noise_estimate.caution not in INCOMPARABLE_CAUTIONS
    is_comparable &= noise_estimate.unreliable_reason is None
    differs = is_comparable and _differs(chosen, measured or noise_estimate, planes)
    return replace(chosen, caution=NoiseCaution.CHOSEN) if differs else chosen


def _differs(chosen: NoiseEstimate, measured: NoiseEstimate, planes: Float32Array) -> bool:
    """Return whether noise is much stronger or weaker in the darkest, middle or brightest third."""
    import torch

    from napari_dip.engine.noise.flat_blocks import DCT_SIDE, cut_patches

    sample = torch.from_numpy(planes[select_spread_planes(len(planes))]).double()
    means = cut_patches(sample, DCT_SIDE, DCT_SIDE).mean((1, 2)).sort().values
    levels = [float(third.mean()) for third in means.tensor_split(3) if len(third)]
    ratio = compute_noise_variance(chosen, levels) / compute_noise_variance(measured, levels)
    return bool(np.abs(np.log(ratio)).max(initial=0) > 2 * math.log(MAX_CHOSEN_RATIO))


def detect_camera_noise(
    stack: Float32Array, noise_estimates: Sequence[NoiseEstimate], grey_level_step: float
) -> CameraNoise | None:
    """Measure the noise of a colour camera in the image's units; None if it is other noise.

    Parameters
    ----------
    stack : ndarray
        (N, 3, Y, X): red, green and blue of one image, or of regions of it.
    noise_estimates : sequence of NoiseEstimate
        Noise of each channel, measured at the finest frequencies.
    grey_level_step : float
        Distance of neighbouring grey values; 0 for floating-point images.
    """
    import torch

    from napari_dip.engine.noise.camera_noise import identify_camera_noise

    planes = torch.from_numpy(np.ascontiguousarray(stack))
    channel_means = planes.mean((0, 2, 3)).tolist()
    deviations = [
        compute_noise_variance(estimate, mean) ** 0.5
        for estimate, mean in zip(noise_estimates, channel_means, strict=True)
    ]
    camera = identify_camera_noise(planes, float(np.mean(deviations)), grey_level_step)
    return None if camera is None else _confirm_camera_noise(planes, camera)


def _detect_compressed_noise(
    stack: Float32Array, noise_estimates: Sequence[NoiseEstimate]
) -> CameraNoise | None:
    """Measure the noise of (N, 3, Y, X) before JPEG compression; None if it hid nothing."""
    import torch

    noise = measure_compressed_noise(stack[len(stack) // 2])
    if noise is None:
        return None
    hidden = [
        item.is_before_compression
        or noise.variance >= MIN_HIDDEN_RATIO * compute_noise_variance(item, noise.level)
        for item in noise_estimates
    ]
    if not (noise.has_half_chroma or any(hidden)):  # half chroma leaves colours the same noise
        return None
    planes = torch.from_numpy(np.ascontiguousarray(stack))
    return _confirm_camera_noise(planes, noise.to_camera_noise())


def _confirm_camera_noise(planes: torch.Tensor, camera: CameraNoise) -> CameraNoise | None:
    """Filter a central crop, and accept the noise if the residual has no texture."""
    from napari_dip.engine.noise.camera_noise import compute_distant_correlation
    from napari_dip.engine.refinement import filter_camera_noise

    crop = crop_centre(planes[len(planes) // 2], RESIDUAL_CROP_SIDE, "CYX")[None].float()
    for _ in range(1 + MAX_NOISE_RETRIES):
        residual = (crop - filter_camera_noise(crop, camera).mean).mean((0, 1))
        max_correlation = MAX_DISTANT_CORRELATION * RESIDUAL_CROP_SIDE / min(residual.shape)
        if compute_distant_correlation(residual) <= max_correlation:
            return camera
        camera = camera.convert_units(1 / NOISE_RETRY_FACTOR)
    return None


def measure_colour_noise(
    stack: Float32Array, noise_estimates: Sequence[NoiseEstimate], grey_level_step: float
) -> tuple[CameraNoise | None, tuple[NoiseEstimate, ...]]:
    """Measure the noise of a colour camera, or add a caution on other correlated noise.

    Parameters
    ----------
    stack, noise_estimates, grey_level_step
        As for `detect_camera_noise`.

    Returns
    -------
    camera : CameraNoise or None
    noise_estimates : tuple of NoiseEstimate
        Noise of red, green and blue.
    """
    from napari_dip.engine.noise.camera_noise import flag_correlated_colours, replace_channel_noise

    camera = detect_camera_noise(stack, noise_estimates, grey_level_step)
    caution = NoiseCaution.COLOUR_CAMERA
    if camera is None:
        camera, caution = _detect_compressed_noise(stack, noise_estimates), NoiseCaution.COMPRESSED
    if camera is not None:
        return camera, replace_channel_noise(camera, noise_estimates, caution)
    height, width = stack.shape[-2:]
    return None, flag_correlated_colours(noise_estimates, (height, width))
