"""Images and settings at the limits of arithmetic: what is computed and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import napari_dip as dip
from faults.cases import (
    FAST,
    check,
    check_call_refused,
    check_restored,
    check_same_pixels,
    make_hole_mask,
    make_image,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


F8 = make_image(dtype="float64").astype(np.float64)


def denoise(image: Any, **options: Any) -> Any:
    return check_restored(lambda: dip.denoise(image, **{**FAST, **options}))


def check_plausible_result(image: np.ndarray, _: Path | None = None, **options: Any) -> Any:
    """Denoise; the answer is finite, near the image, and its mean is kept."""
    result = denoise(image, **options)
    wanted = np.asarray(image, np.float64)
    span = float(np.ptp(wanted)) or 1.0
    check(result.image.shape == wanted.shape, f"shape {result.image.shape}")
    off = abs(float(result.image.mean(dtype=np.float64)) - float(wanted.mean()))
    check(off <= 0.005 * span, f"the mean is off by {off / span:.4f} of the range")
    low, high = float(wanted.min()), float(wanted.max())
    beyond = max(low - float(result.image.min()), float(result.image.max()) - high) / span
    check(beyond <= 0.5, f"beyond the range by {beyond:.2f} times its width")
    check((result.uncertainty >= 0).all(), "an uncertainty is negative")
    return result


def check_plausible_row(make: Callable[[], np.ndarray], options: dict[str, Any], _: Path) -> None:
    check_plausible_result(make(), **options)


def check_array_refused(
    make: Callable[[], Any], pattern: str, options: dict[str, Any], _: Path
) -> None:
    """Refuse an image, whatever came before."""
    image = make()
    check_call_refused(lambda: dip.denoise(image, **{**FAST, **options}), pattern)


def check_setting_refused(task: str, options: dict[str, Any], pattern: str, _: Path) -> None:
    check_call_refused(lambda: getattr(dip, task)(make_image(), **{**FAST, **options}), pattern)


def check_restored_or_refused(
    make: Callable[[], Any], pattern: str, options: dict[str, Any], folder: Path
) -> None:
    """Restore soundly, or refuse in these words."""
    image = make()
    try:
        dip.denoise(image, **{**FAST, **options})
    except dip.RefusedError:
        check_array_refused(lambda: image, pattern, options, folder)
    else:
        check_plausible_result(image, **options)


# --- what must not matter


def check_scaled_result(
    factor: float, offset: float, tolerance: float, kind: str, options: dict[str, Any], _: Path
) -> None:
    """Change the unit of the intensities: the answer changes by the same."""
    base = F8.astype(kind) if kind != "f8" else F8
    first = denoise(base, **options).image.astype(np.float64)
    changed = (base.astype(np.float64) * factor + offset).astype(kind)
    second = (denoise(changed, **options).image.astype(np.float64) - offset) / factor
    off = np.abs(first - second).max() / np.ptp(F8)
    check(off <= tolerance, f"off by {off:.5f} of the range")


def check_integer_dtype(kind: str, options: dict[str, Any], _: Path) -> None:
    """Hand over the same numbers in another type of whole numbers: the same answer."""
    values = make_image(dtype="uint16")
    first = denoise(values, **options).image
    check_same_pixels(denoise(values.astype(kind), **options).image, first, f"as {kind}", 1e-3)


def check_float_dtype(kind: str, _: Path) -> None:
    """Hand over the same real numbers in another precision: the same answer but for rounding."""
    values = (make_image(dtype="float32") + np.float32(0.25)).astype(np.float32)
    first = denoise(values).image
    check_same_pixels(denoise(values.astype(kind)).image, first, f"as {kind}", 1e-2)


def check_turned_result(change: Callable[[np.ndarray], np.ndarray], _: Path) -> None:
    """Turn or mirror an image that is not square: what comes back is turned alike."""
    image = make_image(24, 40)
    plain = denoise(image).image
    back = denoise(np.ascontiguousarray(change(image))).image
    wanted = change(plain)
    check(back.shape == wanted.shape, f"shape {back.shape}, not {wanted.shape}")
    near = np.corrcoef(back.ravel(), change(image).ravel())[0, 1]
    check(near > 0.9, f"correlation with the turned input is {near:.3f}")


def check_repeated_run(options: dict[str, Any], _: Path) -> None:
    first, second = denoise(make_image(), **options), denoise(make_image(), **options)
    check_same_pixels(first.image, second.image, "a second run")
    check_same_pixels(first.uncertainty, second.uncertainty, "its uncertainty")


def check_other_seed(_: Path) -> None:
    first, second = denoise(make_image(), seed=1).image, denoise(make_image(), seed=2).image
    check((first != second).any(), "two seeds gave the same pixels")


# --- inpainting


def check_filled_hole(
    image: np.ndarray, mask: Any, tolerance: float, _: Path, **options: Any
) -> None:
    """Fill a hole; what was measured stays exactly, what is filled lies within the range."""
    result = check_restored(lambda: dip.inpaint(image, mask, **{**FAST, **options}))
    unmasked = ~(np.asarray(mask, float) > 0)
    check_same_pixels(
        result.image[unmasked], np.asarray(image)[unmasked].astype(np.float32), "measured pixels"
    )
    clear = np.asarray(image)[unmasked]
    span = float(np.ptp(clear))
    inside = result.image[~unmasked]
    if inside.size:
        beyond = max(float(clear.min() - inside.min()), float(inside.max() - clear.max())) / span
        check(beyond <= tolerance, f"filled beyond the range by {beyond:.2f}")


def check_mask_dtype(kind: str, _: Path) -> None:
    """Mark a hole in any type of number: the same pixels."""
    mask = make_hole_mask()
    first = check_restored(lambda: dip.inpaint(make_image(), mask.astype(bool), **FAST)).image
    again = check_restored(lambda: dip.inpaint(make_image(), mask.astype(kind), **FAST)).image
    check_same_pixels(again, first, f"mask as {kind}")


def check_mask_value(value: float, _: Path) -> None:
    """Mark a hole by some value above 0."""
    mask = make_hole_mask().astype(np.float64) * value
    first = check_restored(lambda: dip.inpaint(make_image(), make_hole_mask(), **FAST)).image
    check_same_pixels(
        check_restored(lambda: dip.inpaint(make_image(), mask, **FAST)).image,
        first,
        f"mask of {value}",
    )


def check_negative_mask(_: Path) -> None:
    """Mark nothing by negative values, which are not above 0."""
    mask = -make_hole_mask().astype(np.float64)
    check_call_refused(lambda: dip.inpaint(make_image(), mask, **FAST), "mask")


def check_measured_islands(_: Path) -> None:
    """Leave a few known islands among missing pixels."""
    image = make_image(dtype="float32")
    gone = np.ones(image.shape, bool)
    gone[4:12, 4:12] = gone[20:26, 18:28] = False
    holed = np.where(gone, np.float32(np.nan), image)
    result = check_restored(lambda: dip.inpaint(holed, **FAST))
    check_same_pixels(result.image[~gone], image[~gone], "measured pixels")
    check(np.isfinite(result.image).all(), "not all is filled")


def check_hole_content_ignored(value: float, _: Path) -> None:
    """Put anything into the hole: what is filled in does not depend on it."""
    mask = make_hole_mask().astype(bool)
    clean, dirty = make_image(dtype="float32"), make_image(dtype="float32")
    dirty[mask] = value
    first = check_restored(lambda: dip.inpaint(clean, mask, **FAST)).image
    second = check_restored(lambda: dip.inpaint(dirty, mask, **FAST)).image
    span = float(np.ptp(clean))
    off = float(np.abs(first - second).max()) / span
    check(off <= 1e-3, f"what lay in the hole ({value:g}) changed the image by {off:.4f}")


# --- PSF, guide, factor


def check_psf_invariance(change: Callable[[np.ndarray], Any], tolerance: float, _: Path) -> None:
    """Change a PSF in what does not matter: the same answer."""
    psf = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(np.float64)
    first = check_restored(lambda: dip.deblur(make_image(), psf, **FAST)).image
    second = check_restored(lambda: dip.deblur(make_image(), change(psf), **FAST)).image
    span = np.ptp(make_image().astype(float))
    off = np.abs(first - second).max() / span
    check(off <= tolerance, f"off by {off:.4f} of the range")


def check_psf_refused(make: Callable[[], Any], pattern: str, _: Path) -> None:
    check_call_refused(lambda: dip.deblur(make_image(), make(), **FAST), pattern)


def check_narrow_psf(_: Path) -> None:
    """Deblur by little more than a point: nothing is moved."""
    psf = np.zeros((5, 5))
    psf[1:4, 1:4] = 0.01
    psf[2, 2] = 1
    result = check_restored(lambda: dip.deblur(make_image(), psf, preset="fast", max_iterations=60))
    near = np.corrcoef(result.image.ravel(), make_image().ravel())[0, 1]
    check(near > 0.9, f"correlation with the input is {near:.3f}")


def check_off_centre_psf(_: Path) -> None:
    """Hand over a PSF whose peak lies off its middle: the image is not moved without a word."""
    image = np.zeros((32, 32))
    image[8:24, 8:24] = 500
    image += np.random.default_rng(0).normal(100, 3, image.shape)
    psf = np.zeros((9, 9))
    psf[1:4, 1:4] = 1
    result = check_restored(lambda: dip.deblur(image, psf, preset="fast", max_iterations=60))
    shifts = [
        (
            np.corrcoef(
                np.roll(result.image, (-y, -x), (0, 1))[6:-6, 6:-6].ravel(),
                image[6:-6, 6:-6].ravel(),
            )[0, 1],
            y,
            x,
        )
        for y in range(-3, 4)
        for x in range(-3, 4)
    ]
    _, down, across = max(shifts)
    notes = " ".join(result.report["notes"])
    moved = abs(down) + abs(across) > 1
    check(not moved or "PSF" in notes, f"moved by {down}, {across} pixels: {notes}")


def check_guide_units(factor: float, offset: float, kind: str, _: Path) -> None:
    """Give a guide in other units: the same answer."""
    guide = make_image(dtype="float64", seed=5)
    first = check_restored(lambda: dip.guide(make_image(), guide, **FAST)).image
    other = (guide * factor + offset).astype(kind)
    second = check_restored(lambda: dip.guide(make_image(), other, **FAST)).image
    off = np.abs(first - second).max() / np.ptp(make_image().astype(float))
    check(off <= 0.02, f"off by {off:.4f} of the range")


def check_upscaling(factor: Any, shape: tuple[int, ...], _: Path) -> None:
    """Enlarge: the size is right, and averages over the coarse pixels are those measured."""
    result = check_restored(lambda: dip.super_resolve(make_image(), factor=factor, **FAST))
    check(result.image.shape == shape, f"shape {result.image.shape}, not {shape}")
    rows, columns = shape[0] // 32, shape[1] // 32
    mean = result.image.reshape(32, rows, 32, columns).mean((1, 3))
    near = np.corrcoef(mean.ravel(), make_image().ravel())[0, 1]
    check(near > 0.9, f"correlation with the input is {near:.3f}")
    off = abs(float(mean.mean()) - float(make_image().mean()))
    check(off < 0.02 * np.ptp(make_image()), f"the mean is off by {off:.1f}")


# --- noise


def check_noise_measurement(
    make: Callable[[], np.ndarray], gain: float | None, deviation: float | None, _: Path
) -> None:
    """Measure noise that is known: within a fifth, or it is said that it is not known."""
    report = dip.measure_noise(make())
    (channel,) = report.channels
    if channel.unreliable_reason:
        return
    if gain is not None:
        check(
            abs(channel.gain - gain) <= 0.25 * gain + 0.02, f"gain {channel.gain:.3f}, not {gain}"
        )
    if deviation is not None:
        at = float(np.mean(make()))
        noise = max(channel.gain * at + channel.intercept, 0.0) ** 0.5
        check(abs(noise - deviation) <= 0.25 * deviation, f"deviation {noise:.3f}, not {deviation}")


def check_flat_image(deviation: float, offset: float, _: Any = None) -> np.ndarray:
    return np.random.default_rng(4).normal(offset, deviation, (48, 48))


def poisson(gain: float) -> np.ndarray:
    ramp = np.repeat(np.linspace(20, 400, 6), 8)[:, None] * np.ones(48)
    return gain * np.random.default_rng(4).poisson(ramp).astype(np.float64) + 100


def check_uncertainty_calibration(_: Path) -> None:
    """Compare the uncertainty with the error where the truth is known: of one size."""
    truth = 1000 + 200 * np.sin(np.linspace(0, 6, 48))[:, None] * np.ones(48)
    noisy = truth + np.random.default_rng(0).normal(0, 30, truth.shape)
    result = denoise(noisy, max_iterations=100)
    error = np.sqrt(np.mean((result.image - truth) ** 2))
    uncertainty = np.sqrt(np.mean(result.uncertainty.astype(float) ** 2))
    check(0.25 < error / uncertainty < 4, f"error {error:.2f}, uncertainty {uncertainty:.2f}")


def check_integer_output(kind: str, _: Path) -> None:
    """Ask for the input's type: whole numbers within the type, rounded and not cut."""
    image = make_image(dtype=kind)
    plain = denoise(image).image
    whole = denoise(image, dtype="same").image
    check(whole.dtype == image.dtype, f"type {whole.dtype}")
    limits = np.iinfo(kind)
    check_same_pixels(whole, np.clip(np.rint(plain), limits.min, limits.max), "rounded", 1.0)
    check((whole != np.floor(plain)).any(), "cut, not rounded")


def check_integer_output_at_limits(kind: str, _: Path) -> None:
    """Round at the ends of a type: nothing wraps around."""
    limits = np.iinfo(kind)
    image = np.full((32, 32), limits.min, kind)
    image[:, 16:] = limits.max
    image[::5, ::7] = limits.min + (limits.max - limits.min) // 2
    result = denoise(image, dtype="same").image
    near = np.corrcoef(result.astype(float).ravel(), image.astype(float).ravel())[0, 1]
    check(near > 0.7, f"correlation with the input is {near:.3f}: it wrapped around")


def make_constant_rows() -> np.ndarray:
    return np.repeat(np.arange(32.0), 32).reshape(32, 32)


def make_image_with_pixel(value: float, kind: str = "float32") -> np.ndarray:
    image = make_image(dtype=kind)
    image[10, 10] = value
    return image


def make_array_with_outlier(base: float, other: float, kind: str) -> np.ndarray:
    image = np.full((32, 32), base, kind)
    image[9, 9] = other
    return image


def make_checkerboard(period: int) -> np.ndarray:
    y, x = np.indices((32, 32)) // period
    return ((y + x) % 2 * 100.0 + 50).astype(np.float32)
