"""Perform repeatability runs: restore two halves of the measurement, and noise without an object.

A measurement is thinned into halves with independent noise of twice the variance: photons that are
counted exactly go into either half by chance; other noise is added to one half and subtracted from
the other. Two exposures of one object are halves already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_dip.engine.fit.stopping import Control
from napari_dip.engine.noise.correlation import subtract_image_correlation
from napari_dip.engine.noise.flat_blocks import NO_CLIPPING
from napari_dip.errors.notes import make_note
from napari_dip.io.header import get_unit_symbol
from napari_dip.io.paths import describe_exception
from napari_dip.pipeline.assess.merge import ResultMerger
from napari_dip.pipeline.assess.repeatability import (
    FRC_CRITERION,
    MIN_REPEATED_CORRELATION,
    compute_peak_density,
    extract_detail,
    make_background,
    make_taper,
    map_repeats,
    measure_contrast,
    measure_resolution,
    smooth_rings,
)
from napari_dip.pipeline.assess.report import add_notes
from napari_dip.pipeline.calibrate.channel_noise import compute_noise_variance, select_spread_planes
from napari_dip.pipeline.calibrate.image_calibration import replace_half_resolution
from napari_dip.pipeline.execute.executor import Executor
from napari_dip.pipeline.execute.run_monitor import RunMonitor
from napari_dip.pipeline.plan.layout import from_stack, to_stack
from napari_dip.pipeline.progress import map_generator

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from napari_dip.engine.noise.estimate import NoiseEstimate
    from napari_dip.errors.notes import Note
    from napari_dip.io import AnyArray, Float32Array, FloatArray
    from napari_dip.pipeline.calibrate.types import CalibratedImage, Calibration
    from napari_dip.pipeline.progress import Event
    from napari_dip.pipeline.restoration import Restoration

    #: Restored image and predicted measurement, (N, C, *grid).
    _Estimates = tuple[Float32Array, Float32Array]

#: Distance of the seeds of image and repeatability runs, larger than those of tiles and channels.
SEED_STEP = 500_000_003
#: Largest width of fine detail in pixels: what is invented is finer than what is resolved. Of its
#: area in 61 images, maps with this width mark 79 %, with 16 pixels 63 %.
MAX_PERIOD = 4.0
#: Share of the contrast of the result from which on structure of a null control counts.
MIN_NULL_CONTRAST = 0.5
#: Frequency in periods per pixel from which on the noise is measured beside the residual: below,
#: the restoration keeps almost all.
MIN_NOISE_FREQUENCY = 0.06
#: Least power of the noise at a frequency, relative to white noise.
MIN_SPECTRUM = 0.01
#: Largest ratio of the measured power of the noise to the expected one, at a frequency.
MAX_SPECTRUM_RATIO = 4.0
#: Maximum number of thinnings of the input that are averaged: with eight, a correlation of 0.1 has
#: a standard error of 0.02 instead of 0.04 in 256 x 256 pixels.
MAX_INPUT_DRAWS = 8
#: Maximum number of pixels in all thinnings of the input that are averaged.
MAX_INPUT_DRAW_PIXELS = 2**21
#: Names of the images of repeatability runs, for the user, by what they are.
_RUN_NAMES = {
    "first": "the first half",
    "second": "the second half",
    "null": "noise without an object",
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NoiseSource:
    """Draw noise like that of a measurement.

    Attributes
    ----------
    calibration : Calibration
    signal : ndarray
        (N, C, *grid): the measurement without noise, as its restoration predicts it.
    amplitudes : tuple of ndarray
        For each channel, (Y, X): root of the noise spectrum, relative to white noise of the
        variance model.
    """

    calibration: Calibration
    signal: Float32Array
    amplitudes: tuple[FloatArray, ...]

    def draw(self, signal: Float32Array, rng: np.random.Generator) -> Float32Array:
        """Draw the noise at a signal (N, C, *grid); for counted photons, a normal one."""
        deviation = rng.standard_normal(signal.shape, np.float32)
        for channel, amplitude in enumerate(self.amplitudes):
            if channel in self.calibration.constant_channels:
                deviation[:, channel] = 0
                continue
            field = np.fft.ifft2(np.fft.fft2(deviation[:, channel]) * amplitude).real
            deviation[:, channel] = field * _compute_std(self.calibration, signal, channel)
        if self.calibration.measured_mask is not None:
            deviation *= self.calibration.measured_mask
        return deviation


def make_noise_source(calibrated_image: CalibratedImage, restoration: Restoration) -> NoiseSource:
    """Return the noise of a measurement, from its calibration and its restoration.

    The autocorrelation gives a first spectrum. The mean product of measurement and residual
    corrects it: a restoration that keeps the share S / (S + N) of each frequency leaves the share
    N / (S + N), so that product is N, whatever S is. It is larger where a signal was lost, and
    smaller where noise was kept. White noise is known from the finest frequencies, and real noise
    rises towards lower ones, so there the mean of both is taken where the product is larger.
    """
    assert restoration.residual is not None
    calibration, stack = calibrated_image.calibration, calibrated_image.stack
    residual = to_stack(restoration.residual, calibrated_image.header.axes, calibrated_image.layout)
    residual = residual / calibration.noise_level
    signal = stack - residual
    amplitudes: list[FloatArray] = []
    is_white = all(side == 1 for side in calibration.blind_spot_size)
    for channel, noise in enumerate(calibration.noise):
        spectrum = np.ones(stack.shape[-2:])
        if not is_white:
            spectrum = _compute_noise_spectrum(noise, spectrum.shape)
        is_drawn = channel not in calibration.constant_channels and not noise.counts_photons
        if is_drawn and calibration.measured_mask is None:
            variance = _compute_std(calibration, signal, channel) ** 2
            ratio = compare_spectra(stack[:, channel], residual[:, channel], variance, spectrum)
            spectrum = spectrum * ((1 + np.maximum(ratio, 1)) / 2 if is_white else ratio)
        amplitudes.append(np.sqrt(spectrum))
    return NoiseSource(calibration=calibration, signal=signal, amplitudes=tuple(amplitudes))


def _compute_std(calibration: Calibration, signal: Float32Array, channel: int) -> FloatArray:
    """Return the standard deviation of the noise of a channel at a signal (N, C, *grid)."""
    noise, excess = calibration.noise[channel], calibration.excess_variance
    return np.sqrt(compute_noise_variance(noise, signal[:, channel], excess))


def _compute_noise_spectrum(noise: NoiseEstimate, sizes: tuple[int, ...]) -> FloatArray:
    """Return the power of correlated noise, (Y, X): that along Y times that along X, mean 1."""
    spectrum = np.ones(())
    for size, lags in zip(sizes, (noise.along_y, noise.along_x), strict=True):
        phases = 2 * np.pi * np.outer(np.arange(size), np.arange(1, len(lags) + 1)) / size
        power = 1 + 2 * np.cos(phases) @ np.array(subtract_image_correlation(lags))
        spectrum = spectrum[..., None] * np.maximum(power, MIN_SPECTRUM)
    return np.asarray(spectrum / spectrum.mean())


def compare_spectra(
    measurement: AnyArray, residual: AnyArray, variance: AnyArray, spectrum: FloatArray
) -> FloatArray:
    """Return the ratio of the noise, measured in Fourier rings, to the expected noise: (Y, X).

    Parameters
    ----------
    measurement, residual, variance : ndarray
        (..., Y, X), the last in squared units of the image.
    spectrum : ndarray
        (Y, X): expected power of each frequency, relative to white noise of that variance.
    """
    sizes = spectrum.shape
    window = make_taper(sizes[0])[:, None] * make_taper(sizes[1])
    planes = [array.reshape(-1, *sizes) for array in (measurement, residual, variance)]
    products, level = np.zeros(sizes), 0.0
    for index in select_spread_planes(len(planes[0])):
        pixels, rest, plane_variance = (array[index] for array in planes)
        a, b = (np.fft.fft2((plane - plane.mean()) * window) for plane in (pixels, rest))
        products += (a * b.conj()).real
        level += float((plane_variance * window**2).sum())
    radius = np.hypot(np.fft.fftfreq(sizes[0])[:, None], np.fft.fftfreq(sizes[1]))
    rings = np.rint(radius * min(sizes)).astype(int)
    ring_count = min(sizes) // 2 + 1
    rings = np.minimum(rings, ring_count - 1)
    measured, expected = (
        np.bincount(rings.ravel(), values.ravel(), ring_count).astype(np.float64)
        for values in (products, level * spectrum)
    )
    lowest = ceil(MIN_NOISE_FREQUENCY * min(sizes))
    numerator, denominator = smooth_rings(measured[lowest:]), smooth_rings(expected[lowest:])
    ratio = np.clip(numerator / denominator, MIN_SPECTRUM, MAX_SPECTRUM_RATIO)
    return np.asarray(np.concatenate([np.full(lowest, ratio[0]), ratio])[rings])


def split_measurement(
    calibrated_image: CalibratedImage, noise_source: NoiseSource, rng: np.random.Generator
) -> tuple[CalibratedImage, CalibratedImage]:
    """Return two images of one object with independent noise: exposures, or halves of the image."""
    calibration = calibrated_image.calibration
    repeated = calibration.repeated_exposure
    if repeated is not None:
        single = replace(calibration, repeated_exposure=None)
        other = replace(single, noise=repeated.noise)
        second = replace(calibrated_image, calibration=other, stack=repeated.stack)
        return replace(calibrated_image, calibration=single), second
    deviation = noise_source.draw(noise_source.signal, rng)
    for channel, noise in enumerate(calibration.noise):
        if noise.counts_photons:
            pixels = calibrated_image.stack[:, channel]
            photons = np.rint(np.maximum(pixels, 0) / noise.gain).astype(np.int64)
            deviation[:, channel] = 2 * noise.gain * rng.binomial(photons, 0.5) - pixels
    stacks = calibrated_image.stack + deviation, calibrated_image.stack - deviation
    thinned = _double_noise(calibration)
    first, second = (
        replace(calibrated_image, stack=stack, calibration=replace_half_resolution(thinned, stack))
        for stack in stacks
    )
    return first, second


def _double_noise(calibration: Calibration) -> Calibration:
    """Return the calibration of a half: twice the variance, and no clipping."""

    def double(noise: NoiseEstimate) -> NoiseEstimate:
        relative_deviation = 2**0.5 * noise.relative_deviation
        return replace(
            noise.scale(2), relative_deviation=relative_deviation, clipping_limits=NO_CLIPPING
        )

    half_resolution, camera = calibration.half_resolution, calibration.camera_correction
    if half_resolution is not None:
        noise = tuple(map(double, half_resolution.noise))
        half_resolution = replace(half_resolution, noise=noise)
    if camera is not None and camera.excess_variance is not None:
        camera = replace(
            camera,
            median_variance=2 * camera.median_variance,
            excess_variance=2 * camera.excess_variance,
        )
    return replace(
        calibration,
        noise=tuple(map(double, calibration.noise)),
        half_resolution=half_resolution,
        camera_correction=camera,
    )


def perform_repeatability_runs(
    calibrated_image: CalibratedImage, restoration: Restoration, monitor: RunMonitor
) -> Generator[Event, None, Restoration | None]:
    """Perform the repeatability runs of the recipe, and add what they tell to the restoration.

    A run that ends meanwhile keeps the restoration, with a note.

    Parameters
    ----------
    calibrated_image : CalibratedImage
        With the calibration of the restoration.
    restoration : Restoration
    monitor : RunMonitor
        That of the whole run.

    Returns
    -------
    Restoration or None
        None if the user discarded the run.
    """
    if not calibrated_image.run_plan.repeatability_run_count:
        return restoration
    if monitor.is_ended:
        return _add_findings(restoration, make_note("repeatability-ended"))
    noise_source = make_noise_source(calibrated_image, restoration)
    check_images = make_repeatability_images(calibrated_image, noise_source)
    try:
        ended, results = yield from _restore_all(check_images, monitor)
    except Exception as error:  # must not cost the result
        note = make_note("repeatability-failed", why=describe_exception(error))
        return _add_findings(restoration, note)
    if ended is Control.DISCARD:
        return None
    if ended is not Control.GO:
        return _add_findings(restoration, make_note("repeatability-ended"))
    period = MAX_PERIOD
    if "first" in results:
        halves = check_images["first"], check_images["second"]
        restored = results["first"], results["second"]
        restoration, period = add_half_comparison(
            calibrated_image, restoration, noise_source, halves, restored
        )
    if "null" in results:
        restoration = add_null_control(calibrated_image, restoration, results["null"][0], period)
    if len(check_images) < calibrated_image.run_plan.repeatability_run_count:
        restoration = _add_findings(restoration, make_note("repeatability-noise-unknown"))
    return restoration


def _restore_all(
    check_images: Mapping[str, CalibratedImage], monitor: RunMonitor
) -> Generator[Event, None, tuple[Control, dict[str, _Estimates]]]:
    """Restore one control image after another; return how the last ended, and results by name."""
    results: dict[str, _Estimates] = {}
    for number, (name, check_image) in enumerate(check_images.items()):
        message = f"Restoring {_RUN_NAMES[name]}"

        def fold(event: Event, number: int = number, message: str = message) -> Event:
            return monitor.report_repeatability_run(number, message, event.progress)

        steps = restore_repeatability_image(check_image, number + 1, monitor)
        ended, results[name] = yield from map_generator(steps, fold)
        if ended is not Control.GO:
            return ended, results
    return Control.GO, results


def make_repeatability_images(
    calibrated_image: CalibratedImage, noise_source: NoiseSource
) -> dict[str, CalibratedImage]:
    """Return the images of the repeatability runs, as far as the noise can be drawn, by name."""
    run_settings = calibrated_image.run_plan.recipe.run_settings
    calibration = calibrated_image.calibration
    rng = np.random.default_rng(run_settings.seed)
    noise = [calibration.noise[channel] for channel in calibration.varied_channels]
    can_draw = calibration.camera_noise is None and not any(
        estimate.unreliable_reason or estimate.is_before_compression for estimate in noise
    )
    check_images: dict[str, CalibratedImage] = {}
    if run_settings.halves and (can_draw or calibration.repeated_exposure is not None):
        halves = split_measurement(calibrated_image, noise_source, rng)
        check_images |= dict(zip(("first", "second"), halves, strict=True))
    if run_settings.null_control and can_draw:
        check_images["null"] = make_null_image(calibrated_image, noise_source, rng)
    return check_images


def add_half_comparison(
    calibrated_image: CalibratedImage,
    restoration: Restoration,
    noise_source: NoiseSource,
    halves: tuple[CalibratedImage, CalibratedImage],
    results: tuple[_Estimates, _Estimates],
) -> tuple[Restoration, float]:
    """Return the restoration with what its halves tell, and its resolution in pixels.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    restoration : Restoration
    noise_source : NoiseSource
    halves : tuple of CalibratedImage
    results : tuple of tuple of ndarray
        Restored image and predicted measurement of each half, (N, C, *grid).
    """
    header, calibration = calibrated_image.header, calibrated_image.calibration
    is_thinned = calibration.repeated_exposure is None
    channels = calibration.varied_channels
    grid_axes = calibrated_image.layout.grid_axes.removeprefix("T")
    axes = [header.axes.index(axis) for axis in grid_axes]
    spacing = [1.0 if header.scale is None else header.scale[axis] for axis in axes]
    units = ["pixel" if header.units is None else header.units[axis] for axis in axes]
    first, second = (image[:, channels] for image, _ in results)
    predictions = [prediction[:, channels] for _, prediction in results]
    draws = [halves]
    if is_thinned:  # further draws average the chance of a single one
        rng = np.random.default_rng(SEED_STEP)
        count = min(MAX_INPUT_DRAWS, 1 + MAX_INPUT_DRAW_PIXELS // calibrated_image.stack.size)
        draws += [split_measurement(calibrated_image, noise_source, rng) for _ in range(1, count)]
    pairs = [(a.stack[:, channels], b.stack[:, channels]) for a, b in draws]
    measured: tuple[float | None, float | None] = (None, None)
    if calibration.measured_mask is None:
        measured = measure_resolution(pairs, spacing, is_thinned=is_thinned)
    else:  # what was not measured can neither confirm nor refute
        mask, (a, b) = calibration.measured_mask[:, channels], predictions
        pairs = [(np.where(mask, left, a), np.where(mask, right, b)) for left, right in pairs]
    restored = measure_resolution(pairs, spacing, is_thinned=is_thinned, predictions=predictions)
    period = min(max((restored[0] or MAX_PERIOD) / spacing[-1], 2.0), MAX_PERIOD)
    whole = to_stack(restoration.image, header.axes, calibrated_image.layout)
    whole = calibration.divide_by_level(whole)
    repeats = np.full(whole.shape, np.nan, np.float32)
    repeats[:, channels] = map_repeats(
        first, second, whole[:, channels], period, is_thinned=is_thinned
    )
    repeated_fraction = None
    if len(visible := repeats[~np.isnan(repeats)]):
        repeated_fraction = float((visible >= MIN_REPEATED_CORRELATION).mean())
    unit, axial_unit = (get_unit_symbol(name) or name for name in (units[-1], units[0]))
    fields: dict[str, Any] = {
        "resolution": {"input": measured[0], "result": restored[0]},
        "unit": unit,
        "criterion": round(FRC_CRITERION, 3),
        "repeated": repeated_fraction,
        "by": "thinning" if is_thinned else "second",
    }
    if len(axes) > 2:
        fields |= {
            "axial_resolution": {"input": measured[1], "result": restored[1]},
            "axial_unit": axial_unit,
        }
    note = make_note(
        "halves",
        result=_format_length(restored[0], unit),
        input=_format_length(measured[0], unit),
        exposures=not is_thinned,
        axial=_format_length(restored[1], axial_unit),
        has_share=repeated_fraction is not None,
        share=repeated_fraction or 0.0,
    )
    repeat_map = from_stack(repeats, header.axes, header.shape, calibrated_image.layout)
    return replace(_add_findings(restoration, note, halves=fields), repeat_map=repeat_map), period


def _format_length(length: float | None, unit: str) -> str:
    """Return a length with three digits and its unit; "" for none."""
    if length is None:
        return ""
    return f"{length:.3g} {unit}s" if unit == "pixel" else f"{length:.3g} {unit}"


def make_null_image(
    calibrated_image: CalibratedImage, noise_source: NoiseSource, rng: np.random.Generator
) -> CalibratedImage:
    """Return the image without its object: its noise, on a smooth background as bright."""
    calibration = calibrated_image.calibration
    background = make_background(noise_source.signal).astype(np.float32)
    stack = background + noise_source.draw(background, rng)
    for channel, noise in enumerate(calibration.noise):
        if noise.counts_photons:
            light = np.maximum(background[:, channel], 0) / noise.gain
            stack[:, channel] = noise.gain * rng.poisson(light)
        stack[:, channel] = stack[:, channel].clip(*noise.clipping_limits)
    calibration = replace(calibration, repeated_exposure=None)
    return replace(
        calibrated_image, stack=stack, calibration=replace_half_resolution(calibration, stack)
    )


def add_null_control(
    calibrated_image: CalibratedImage, restoration: Restoration, result: Float32Array, period: float
) -> Restoration:
    """Return the restoration with what the same run finds without an object."""
    header, layout = calibrated_image.header, calibrated_image.layout
    calibration = calibrated_image.calibration
    whole = calibration.divide_by_level(to_stack(restoration.image, header.axes, layout))
    contrast = measure_contrast(extract_detail(whole, period))
    rate = compute_peak_density(extract_detail(result, period), MIN_NULL_CONTRAST * contrast)
    note = make_note("null-control", rate=round(rate))
    return replace(
        _add_findings(restoration, note, null_control={"rate": rate, "contrast": contrast}),
        null_image=from_stack(calibration.undo_level(result), header.axes, header.shape, layout),
    )


def _add_findings(restoration: Restoration, note: Note, **fields: Any) -> Restoration:
    """Return the restoration with a further note and further fields in its report."""
    return replace(restoration, report=add_notes(restoration.report, [note], **fields))


def restore_repeatability_image(
    calibrated_image: CalibratedImage, number: int, parent: RunMonitor
) -> Generator[Event, None, tuple[Control, _Estimates]]:
    """Restore a control image with seeds of its own; return how it ended, and its estimates.

    Parameters
    ----------
    calibrated_image : CalibratedImage
    number : int
        1-based.
    parent : RunMonitor
        That of the whole run.
    """
    run_plan = calibrated_image.run_plan
    shift = number * SEED_STEP
    units = tuple(replace(unit, seed=(unit.seed + shift) % 2**31) for unit in run_plan.units)
    recipe = run_plan.recipe.replace_run_settings(
        seed=(run_plan.recipe.run_settings.seed + shift) % 2**31,
        halves=False,
        null_control=False,
        time_limit=None,
    )
    run_plan = replace(run_plan, units=units, recipe=recipe)
    merger = ResultMerger(replace(calibrated_image, run_plan=run_plan))
    monitor = RunMonitor(run_plan, parent.poll_control, None)
    control = yield from Executor(merger, monitor).run(units)
    image, _, prediction = merger.get_estimates()
    return control, (image, prediction)
