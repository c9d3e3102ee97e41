"""Noise models of the noise matrix: how light becomes grey values.

A recipe turns a scene from 0 to 1 into one draw of an image before rounding and cutting off. Its
truth is simulated, so nothing here needs to be known of it but detector constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter, median_filter, rotate, zoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Picture = npt.NDArray[np.float64]
    DrawFunction = Callable[..., Picture]
    Row = tuple[str, str, DrawFunction, dict[str, Any], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One noise.

    Attributes
    ----------
    group, name : str
    draw : callable
        (light, rng) -> (Y, X) or (Y, X, 3), before rounding and cutting off.
    step : float
        Distance of grey values, 0 for none.
    top : float
        Largest grey value; infinite if nothing is cut off, then neither at 0.
    dark : (float, float) or None
        True offset and read noise; None where the detector has none of its own.
    clean : callable or None
        What the truth is simulated by, if not by `draw`.
    """

    group: str
    name: str
    draw: DrawFunction
    step: float = 0.0
    top: float = np.inf
    dark: tuple[float, float] | None = None
    clean: DrawFunction | None = None


def camera(
    light: Picture,
    rng: np.random.Generator,
    *,
    peak: float,
    gain: float = 1.0,
    read: float = 2.0,
    offset: float = 100.0,
) -> Picture:
    """Photons, read noise, gain and offset."""
    return gain * rng.poisson(peak * light) + rng.normal(0, read, light.shape) + offset


def add_gaussian(
    light: Picture, rng: np.random.Generator, *, sigma: float, low: float, high: float
):
    """Even normal noise between two grey values."""
    return low + (high - low) * light + rng.normal(0, sigma, light.shape)


def darken(light: Picture, rng: np.random.Generator, *, share: float, **kinds: float) -> Picture:
    """Black in that share of the image."""
    low = np.quantile(light, share)
    return camera(np.clip((light - low) / max(light.max() - low, 1e-9), 0, 1), rng, **kinds)


def brighten(light: Picture, rng: np.random.Generator, *, share: float, top: float, **kinds: float):
    """So much light that a share of the image is beyond `top`."""
    wanted = (top - kinds["offset"]) / kinds["gain"]
    at = max(np.quantile(light, 1 - share), 0.02)
    return camera(light, rng, peak=wanted / at, **kinds)


def add_correlated(
    light: Picture,
    rng: np.random.Generator,
    *,
    blur: tuple[float, float],
    sigma: float = 20.0,
    white: float = 0.0,
) -> Picture:
    """Even noise that neighbours share, and a white part."""
    rim = 4 * round(max(blur)) + 4
    whole = rng.normal(size=[side + 2 * rim for side in light.shape])
    noise = gaussian_filter(whole, blur)[rim:-rim, rim:-rim]
    norm = np.sqrt(np.prod([2 * np.sqrt(np.pi) * s if s > 0.3 else 1 for s in blur]))
    return 40 + 800 * light + sigma * (noise * norm + white * rng.normal(size=light.shape))


def correlate_photons(light: Picture, rng: np.random.Generator, *, blur: tuple[float, float]):
    """Photon noise, blurred afterwards: by interpolation or a filter in the detector."""
    return 5 * gaussian_filter(camera(light, rng, peak=200), blur)


def multiply_electrons(light: Picture, rng: np.random.Generator, *, peak: float) -> Picture:
    """Multiply each photon by chance, as an EMCCD does, which doubles its variance."""
    photons = rng.poisson(peak * light)
    return 200 + rng.normal(0, 5, light.shape) + 40 * rng.gamma(np.maximum(photons, 1e-9))


def add_student_t(light: Picture, rng: np.random.Generator, *, freedom: float) -> Picture:
    """Noise of Student's t distribution."""
    return 40 + 800 * light + 15 * rng.standard_t(freedom, light.shape)


def add_hot_pixels(light: Picture, rng: np.random.Generator, *, share: float) -> Picture:
    """Single bright pixels; what is measured and judged is the noise of the others."""
    shot = camera(light, rng, peak=300)
    return np.where(rng.random(light.shape) < share, 3000, shot)


def add_line_offsets(
    light: Picture, rng: np.random.Generator, *, sd: float, axis: int = 0
) -> Picture:
    """Offsets of whole rows or columns beside a camera's noise."""
    shape = (len(light), 1) if axis == 0 else (1, light.shape[1])
    return camera(light, rng, peak=400) + rng.normal(0, sd, shape)


def average_frames(light: Picture, rng: np.random.Generator, *, frames: int) -> Picture:
    """Mean of frames."""
    total = camera(light, rng, peak=150 * frames, gain=2, read=2 * frames**0.5, offset=0)
    return 100 + total / frames


def enlarge(light: Picture, rng: np.random.Generator, *, factor: float, order: int) -> Picture:
    """Interpolated to a finer grid."""
    side = round(len(light) / factor), round(light.shape[1] / factor)
    return zoom(camera(light[: side[0], : side[1]], rng, peak=300), factor, order=order)


def rotate_image(light: Picture, rng: np.random.Generator, *, order: int) -> Picture:
    """Rotated by 10 degrees; the middle is kept, so no corner is empty."""
    shot = rotate(camera(light, rng, peak=300), 10, reshape=False, order=order)
    row, column = (length // 8 for length in shot.shape)
    return shot[row:-row, column:-column]


def scmos(light: Picture, rng: np.random.Generator) -> Picture:
    """Each pixel has an offset, a gain and a read noise of its own."""
    shape = light.shape
    gain = 2 * (1 + rng.normal(0, 0.02, shape))
    read = rng.lognormal(np.log(3), 0.4, shape)
    return (
        gain * rng.poisson(300 * light) + read * rng.normal(size=shape) + rng.normal(100, 1, shape)
    )


def gamma(light: Picture, rng: np.random.Generator, *, power: float) -> Picture:
    """Store a power of what was measured."""
    shot = camera(light, rng, peak=600, offset=10, read=4).clip(0)
    return 255 * (shot / 640) ** power


def correct_vignetting(light: Picture, rng: np.random.Generator) -> Picture:
    """Uneven light that was corrected: noise is stronger in the corners."""
    y, x = np.mgrid[-1 : 1 : light.shape[0] * 1j, -1 : 1 : light.shape[1] * 1j]
    fall = 1 / (1 + 1.2 * (x**2 + y**2))
    return (camera(light * fall, rng, peak=500, offset=0) / fall) + 100


def multiply_speckle(light: Picture, rng: np.random.Generator) -> Picture:
    """Noise that multiplies the light."""
    return 20 + 800 * light * rng.gamma(25, 1 / 25, light.shape) + rng.normal(0, 3, light.shape)


def filter_image(light: Picture, rng: np.random.Generator, *, how: str) -> Picture:
    """Sharpen, denoise or compress a grey image in the camera."""
    shot = camera(light, rng, peak=400, gain=0.5, read=3, offset=15)
    if how == "sharpened":
        return shot + 1.0 * (shot - gaussian_filter(shot, 1))
    if how == "median":
        return median_filter(shot, 3)
    if how == "smoothed":
        return gaussian_filter(shot, 0.6)
    if how == "adaptive":  # Wiener's filter of local means
        mean = gaussian_filter(shot, 1.5)
        power = gaussian_filter((shot - mean) ** 2, 1.5)
        return mean + (power - 100).clip(0) / power.clip(1) * (shot - mean)
    return jpeg(shot, int(how.removeprefix("jpeg ")))


def jpeg(image: Picture, quality: int) -> Picture:
    """Compress and decompress."""
    kept = BytesIO()
    Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(
        kept, "JPEG", quality=quality
    )
    return np.asarray(Image.open(kept), np.float64)


def colours(light: Picture) -> Picture:
    """Three channels of one scene, (Y, X, 3)."""
    return np.stack([light, 0.2 + 0.6 * np.sqrt(light), 0.7 - 0.5 * light], -1)


def colour_camera(light: Picture, rng: np.random.Generator, *, after: str) -> Picture:
    """Interpolate a Bayer mosaic, and do with it what cameras do."""
    shot = camera(colours(light), rng, peak=400, gain=0.5, read=3, offset=15)
    masks = np.zeros(shot.shape)
    masks[::2, ::2, 0] = masks[1::2, 1::2, 2] = masks[::2, 1::2, 1] = masks[1::2, ::2, 1] = 1
    cross = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4.0
    full = np.stack([convolve(shot[..., c] * masks[..., c], cross) for c in range(3)], -1)
    full[..., 1] /= 2
    if after == "sharpened":
        full = full + (full - gaussian_filter(full, (1, 1, 0)))
    if after == "denoised":
        full = np.stack([median_filter(full[..., c], 3) for c in range(3)], -1)
    return jpeg(full, int(after[5:])) if after.startswith("jpeg") else full


def colour_blotches(light: Picture, rng: np.random.Generator, *, shared: float) -> Picture:
    """Noise of another correlation in each colour, part of it shared between them."""
    blurs = ((0.0, 0.0), (0.7, 0.7), (0.0, 1.0))
    parts = [add_correlated(0 * light, rng, blur=blur) - 40 for blur in blurs]
    common = parts[1]
    mixed = [np.sqrt(1 - shared) * part + np.sqrt(shared) * common for part in parts]
    return 40 + 200 * colours(light) + np.stack(mixed, -1)


TWO = (100.0, 2.0)
DEEP: Any = {"step": 1.0, "top": 65535}
EIGHT: Any = {"step": 1.0, "top": 255}
TWELVE: Any = {"step": 1.0, "top": 4095}


def list_recipes() -> list[Recipe]:
    """All of them."""
    add_line_offsets = [
        *list_detectors(),
        *list_ranges(),
        *list_correlations(),
        *list_odd_noises(),
        *list_processed(),
    ]
    return [
        Recipe(group=group, name=name, draw=partial(draw, **kinds), **more)
        for group, name, draw, kinds, more in add_line_offsets
    ]


def list_detectors() -> Iterator[Row]:
    """Photons and even noise on cameras of several depths."""
    group, few = "photons", {"peak": 6, "gain": 10}
    eight = {"peak": 60, "gain": 3, "offset": 20}
    share = {"peak": 100, "gain": 0.01, "read": 0.02, "offset": 1}
    yield group, "16 bits", camera, {"peak": 500, "gain": 2}, {**DEEP, "dark": TWO}
    yield group, "12 bits", camera, {"peak": 2500, "gain": 1.4}, {**TWELVE, "dark": TWO}
    yield group, "8 bits", camera, eight, {**EIGHT, "dark": (20, 2)}
    yield group, "float", camera, share, {"dark": (1, 0.02)}
    yield group, "few", camera, few, {**DEEP, "dark": TWO}
    for sigma in (3, 12, 40):
        kinds = {"sigma": sigma, "low": 130, "high": 170}
        yield "even", f"8 bits, {sigma}", add_gaussian, kinds, {"step": 1.0}
    yield "even", "float", add_gaussian, {"sigma": 0.05, "low": 0, "high": 1}, {}
    for peak in (3, 30, 300):
        yield (
            "EMCCD",
            f"{peak} photons",
            multiply_electrons,
            {"peak": peak},
            {**DEEP, "dark": (200, 5)},
        )
    # the sum of 2 x 2 pixels, whole and brought to 8 bits
    whole = {"peak": 400, "gain": 1.5, "read": 4, "offset": 400}
    small = {"peak": 400, "gain": 0.25, "read": 0.7, "offset": 67}
    yield "binned", "16 bits", camera, whole, {**DEEP, "dark": (400, 4)}
    yield "binned", "8 bits", camera, small, {**EIGHT, "dark": (67, 0.7)}
    yield "detector", "sCMOS", scmos, {}, {**DEEP, "dark": (100, 3.4)}
    yield "detector", "vignetting corrected", correct_vignetting, {}, {}
    for frames in (4, 16):
        yield "averaged", f"{frames}, float", average_frames, {"frames": frames}, {}
        yield "averaged", f"{frames}, rounded", average_frames, {"frames": frames}, {"step": 1.0}


def list_ranges() -> Iterator[Row]:
    """Mostly black, mostly saturated, cut off, and coarse grey values."""
    for share in (0.5, 0.8, 0.95):
        for offset, name in ((100, "offset 100"), (0, "cut at 0")):
            kinds = {"share": share, "peak": 300, "gain": 2, "read": 5, "offset": offset}
            more = {**DEEP, "dark": (offset, 5)}
            yield "mostly black", f"{share:.0%}, {name}", darken, kinds, more
    for share in (0.2, 0.6, 0.9):
        kinds = {"share": share, "top": 255, "gain": 2, "read": 3, "offset": 20}
        more = {**EIGHT, "dark": (20, 3)}
        yield "mostly saturated", f"{share:.0%}, 8 bits", brighten, kinds, more
        kinds = {"share": share, "top": 4095, "gain": 4, "read": 5, "offset": 100}
        more = {**TWELVE, "dark": (100, 5)}
        yield "mostly saturated", f"{share:.0%}, 12 bits", brighten, kinds, more
    for sigma in (25, 50):
        kinds = {"sigma": sigma, "low": 0, "high": 255}
        yield "cut at both ends", f"{sigma}", add_gaussian, kinds, EIGHT
    kinds = {"peak": 80, "gain": 4, "read": 6, "offset": 0}
    yield "cut at both ends", "photons", camera, kinds, {**EIGHT, "dark": (0, 6)}
    for share in (0.5, 1.0, 2.0, 4.0):
        more = {"step": 15 * share, "dark": (100, 10)}
        yield "coarse grey values", f"{share:g} x noise", camera, {"peak": 400, "read": 10}, more
    more = {"step": 20.0, "top": 300, "dark": (100, 5)}
    yield "coarse grey values", "16 values", camera, {"peak": 200, "read": 5}, more


def list_correlations() -> Iterator[Row]:
    """Noise that neighbours share: a pixel or two wide, in blotches, along lines, per colour."""
    for blur in ((0.6, 0.6), (1.0, 1.0), (0.0, 0.7), (0.7, 0.0), (0.5, 1.2)):
        yield "short correlation", f"even, {blur[0]} {blur[1]}", add_correlated, {"blur": blur}, {}
    for blur in ((0.6, 0.6), (0.0, 0.8)):
        name = f"photons, {blur[0]} {blur[1]}"
        yield "short correlation", name, correlate_photons, {"blur": blur}, {}
    for wide in (2.0, 4.0, 8.0):
        kinds = {"blur": (wide, wide)}
        yield "blotches", f"{wide:g}", add_correlated, kinds, {}
        yield "blotches", f"{wide:g} on white", add_correlated, {**kinds, "white": 1.0}, {}
    kinds = {"blur": (2.0, 5.0), "white": 1.0}
    yield "blotches", "2 x 5 on white", add_correlated, kinds, {}
    for sd in (5, 20, 60):
        yield "scan lines", f"rows, sd {sd}", add_line_offsets, {"sd": sd}, {}
    yield "scan lines", "columns, sd 30", add_line_offsets, {"sd": 30, "axis": 1}, {}
    for shared in (0.0, 0.5):
        name, kinds = f"shared {shared:.0%}", {"shared": shared}
        yield "correlation per colour", name, colour_blotches, kinds, {}


def list_odd_noises() -> Iterator[Row]:
    """Tails, bright pixels, and variances that are no line in the mean."""
    for freedom in (3, 5):
        yield "heavy tails", f"t of {freedom}", add_student_t, {"freedom": freedom}, {}
    others = partial(camera, peak=300)
    for share in (0.001, 0.01):
        yield (
            "bright pixels",
            f"{share:.1%}",
            add_hot_pixels,
            {"share": share},
            {**DEEP, "clean": others},
        )
    for power in (0.45, 2.0):
        yield "not a line", f"gamma {power:g}", gamma, {"power": power}, EIGHT
    yield "not a line", "speckle", multiply_speckle, {}, {}


def list_processed() -> Iterator[Row]:
    """Interpolated, turned, filtered and compressed, in grey and in colour."""
    yield "interpolated", "x 1.5, linear", enlarge, {"factor": 1.5, "order": 1}, {}
    yield "interpolated", "x 2, cubic", enlarge, {"factor": 2.0, "order": 3}, {}
    yield "interpolated", "turned, linear", rotate_image, {"order": 1}, {}
    yield "interpolated", "turned, cubic", rotate_image, {"order": 3}, {}
    for how in ("sharpened", "median", "smoothed", "adaptive", "jpeg 95", "jpeg 85", "jpeg 70"):
        yield "processed, grey", how, filter_image, {"how": how}, EIGHT
    for after in ("demosaicked", "sharpened", "denoised", "jpeg 95", "jpeg 85", "jpeg 70"):
        yield "colour camera", after, colour_camera, {"after": after}, EIGHT
