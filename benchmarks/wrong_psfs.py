"""Check wrong and right PSFs as *Deblur* does before a fit: which are refused, mended or named.

Usage: python benchmarks/wrong_psfs.py [--random 100]
Wrong PSFs are made from right ones, in several degrees. A wrong PSF counts as caught if it is
refused, or if a note or warning of its kind is in the plan or in the report. A right PSF is a false
alarm if there is a refusal, a warning, or a note that its light was changed. PSFs of the set
*drawn* are random; no limit of the check was set by them. Nothing is fitted.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from scipy import ndimage

import napari_dip as dip
from napari_dip.engine.deconvolution.psf import compute_microscope_psf
from napari_dip.errors import DipError, Refusal
from napari_dip.io import ImageHeader
from napari_dip.pipeline.calibrate.inputs import arrange_inputs
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe
from shared_data import data_folder, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Optics of the computed PSFs, and their pixel sizes in nm.
OPTICS = {"na": 1.4, "wavelength": 520.0}
PIXEL, Z_STEP = 65.0, 200.0
LEVIN = (1, 2, 3, 5, 6, 8)
#: Notes on even sizes and offsets, which only move a PSF, and true descriptions.
HARMLESS = {"psf-padded", "psf-centred", "psf-uniform", "psf-plane", "psf-unchecked"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A PSF, the image it is for, and settings; `codes` are messages that name its fault."""

    name: str
    psf: Array
    codes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    is_stack: bool = False
    image: Array | None = None
    image_pixel: tuple[float, ...] | None = None
    psf_pixel: tuple[float, ...] | None = None
    psf_axes: str = ""


# PSFs


def sample_gaussian(sides: tuple[int, ...], sigmas: tuple[float, ...], angle: float = 0) -> Array:
    """Sample a Gaussian, which may be turned in the plane."""
    grids = list(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in sides], indexing="ij"))
    y, x = grids[-2:]
    grids[-2:] = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    squares = sum((grid / sigma) ** 2 for grid, sigma in zip(grids, sigmas, strict=True))
    return np.asarray(np.exp(-squares / 2))


def compute_aberrated(planes: int = 1, side: int = 65, **waves: float) -> Array:
    """Compute a PSF of aperture 1.4 by the FFT of a pupil with Zernike aberrations in waves."""
    size = 256
    frequencies = np.fft.fftfreq(size, PIXEL)
    y, x = np.meshgrid(frequencies, frequencies, indexing="ij")
    rho, theta = np.hypot(y, x) * OPTICS["wavelength"] / OPTICS["na"], np.arctan2(y, x)
    shapes = {
        "astigmatism": np.sqrt(6) * rho**2 * np.cos(2 * theta),
        "coma": np.sqrt(8) * (3 * rho**3 - 2 * rho) * np.cos(theta),
        "spherical": np.sqrt(5) * (6 * rho**4 - 6 * rho**2 + 1),
        "defocus": np.sqrt(3) * (2 * rho**2 - 1),
    }
    phase = sum(weight * shapes[name] for name, weight in waves.items()) + 0 * rho
    axial = np.sqrt(np.maximum(1.518**2 - (OPTICS["na"] * rho) ** 2, 0)) / OPTICS["wavelength"]
    stack = []
    for plane in range(planes):
        depth = (plane - planes // 2) * Z_STEP
        pupil = (rho <= 1) * np.exp(2j * np.pi * (phase + depth * axial))
        stack.append(np.abs(np.fft.fftshift(np.fft.ifft2(pupil))) ** 2)
    middle = slice(size // 2 - side // 2, size // 2 + side // 2 + 1)
    psf = np.array(stack)[:, middle, middle]
    return psf[0] if planes == 1 else psf


def compute_microscope(model: str, sizes: tuple[int, ...], **changes: Any) -> Array:
    """Compute a PSF as the setting *Microscope* does."""
    pixels = (Z_STEP, PIXEL, PIXEL)[-len(sizes) :]
    values = {"na": OPTICS["na"], "wavelength_nm": OPTICS["wavelength"], "pixel_nm": pixels}
    values |= {"refractive_index": 1.518, "pinhole_airy": 1.0, "sizes": sizes, **changes}
    return np.asarray(compute_microscope_psf(model, **values).numpy())


def draw_disc(radius: float, side: int) -> Array:
    """Draw a disc with smooth pixels at its edge."""
    fine = (np.arange(side * 9) + 0.5) / 9 - side / 2
    disc = np.hypot(fine[:, None], fine) <= radius
    return disc.reshape(side, 9, side, 9).mean((1, 3))


def draw_line(length: int, degrees: float, side: int) -> Array:
    """Draw a line of uniform motion."""
    line = np.zeros((side, side))
    for step in np.linspace(-length / 2, length / 2, 20 * length):
        y, x = (
            side / 2 + step * np.sin(np.deg2rad(degrees)),
            side / 2 + step * np.cos(np.deg2rad(degrees)),
        )
        line[int(y), int(x)] += 1
    return line


def draw_shake(seed: int, side: int = 25) -> Array:
    """Draw a random path of a camera, with pauses, cropped tightly."""
    rng = np.random.default_rng(seed)
    speed = np.cumsum(rng.normal(size=(400, 2)), 0)
    path = np.cumsum(speed - speed.mean(0), 0)
    path = (path - path.min(0)) / np.ptp(path, 0).max() * (side - 3) + 1
    shake = np.zeros((side, side))
    np.add.at(shake, tuple(np.round(path).astype(int).T), rng.gamma(0.5, size=400))
    shake = ndimage.gaussian_filter(shake, 0.5)
    shake[shake < 0.01 * shake.max()] = 0
    lit = np.argwhere(shake)
    return shake[
        tuple(slice(low, high + 1) for low, high in zip(lit.min(0), lit.max(0), strict=True))
    ]


def make_beads(psf: Array, seed: int, count: int = 40) -> Array:
    """Make an image of beads with photon and read noise."""
    rng = np.random.default_rng(seed)
    field_shape = (*([psf.shape[0] + 8] if psf.ndim == 3 else []), 360, 360)
    points = np.zeros(field_shape)
    edges = np.array(psf.shape) // 2 + 3
    for _ in range(count):
        at = [rng.integers(edge, n - edge) for edge, n in zip(edges, field_shape, strict=True)]
        points[tuple(at)] = rng.uniform(400, 800) / psf.max()
    spectrum = np.fft.rfftn(np.fft.ifftshift(_pad(psf, field_shape)))
    image = np.fft.irfftn(np.fft.rfftn(points) * spectrum).clip(min=0)
    return np.asarray(rng.poisson(image) + rng.normal(0, 3, field_shape) + 100, np.float32)


def _pad(psf: Array, shape: tuple[int, ...]) -> Array:
    before = [n // 2 - count // 2 for n, count in zip(shape, psf.shape, strict=True)]
    pads = [(b, n - b - c) for b, n, c in zip(before, shape, psf.shape, strict=True)]
    return np.pad(psf, pads)


# Cases


def list_right() -> Iterator[Case]:
    """List PSFs without a fault."""
    gaussian = sample_gaussian((13, 13), (1.5, 1.5))
    planes = {
        "Gaussian, SD 1.5": gaussian,
        "Gaussian, SD 0.6": sample_gaussian((7, 7), (0.6, 0.6)),
        "Gaussian, SD 4": sample_gaussian((33, 33), (4, 4)),
        "Gaussian, turned": sample_gaussian((25, 25), (1.2, 3.0), 0.5),
        "Gaussian of even size": sample_gaussian((20, 20), (2, 2)),
        "Gaussian in 16 bit": np.round(60000 * gaussian).astype(np.uint16),
        "Gaussian in 8 bit": np.round(255 * sample_gaussian((65, 65), (8, 8))).astype(np.uint8),
        "binomial, 5 × 5": np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]).astype(float),
        "Moffat": (1 + (np.hypot(*np.mgrid[-30:31, -30:31]) / 3) ** 2) ** -2.5,
        "astigmatism": compute_aberrated(astigmatism=0.12, defocus=0.1),
        "coma": compute_aberrated(coma=0.12),
        "spherical aberration with rings": compute_aberrated(spherical=0.15, defocus=0.15),
        "disc, cropped tightly": draw_disc(5, 11),
        "disc in a wide frame": draw_disc(6.5, 31),
        "uniform, 9 × 9": np.ones((9, 9)),
        "uniform in a wide frame": np.pad(np.ones((9, 9)), 6),
        "line of motion": draw_line(15, 30, 21),
        "line of motion, one row": np.ones((1, 11)),
        **{f"random shake {seed}": draw_shake(seed) for seed in range(8)},
    }
    for name, psf in planes.items():
        yield Case(name=name, psf=psf)
    optics = {**OPTICS, "pixel_size": PIXEL}
    yield Case(name="Airy, NA 1.4", psf=compute_microscope("widefield", (41, 41)), settings=optics)
    yield Case(name="Airy, NA 1.4, vectorial width", psf=compute_aberrated(), settings=optics)
    yield Case(
        name="spherical, known optics", psf=compute_aberrated(spherical=0.07), settings=optics
    )
    yield Case(
        name="Airy, NA 0.5, 200 nm",
        psf=compute_microscope("widefield", (31, 31), na=0.5, pixel_nm=(200.0, 200.0)),
        settings={"na": 0.5, "wavelength": 520.0, "pixel_size": 200.0},
    )
    yield Case(name="confocal plane", psf=compute_microscope("confocal", (31, 31)), settings=optics)
    stack_optics = {**optics, "z_step": Z_STEP}
    stacks = {
        "widefield stack": compute_microscope("widefield", (23, 61, 61)),
        "confocal stack": compute_microscope("confocal", (21, 31, 31)),
        "stack with spherical aberration": compute_aberrated(23, spherical=0.08),
        "astigmatic stack": compute_aberrated(23, astigmatism=0.08),
    }
    for name, psf in stacks.items():
        yield Case(name=name, psf=psf, is_stack=True, settings=stack_optics)
    gaussian = sample_gaussian((17, 13, 13), (2.5, 1.5, 1.5))
    yield Case(name="Gaussian stack", psf=gaussian, is_stack=True)
    yield Case(
        name="average of made beads",
        psf=dip.measure_psf(make_beads(compute_microscope("widefield", (31, 31)), 1)).psf,
        settings=optics,
    )
    folder = data_folder()
    beads = tifffile.imread(folder / "deconv3d" / "measured_grid" / "beads.tif")
    yield Case(name="average of real beads", psf=dip.measure_psf(beads, "ZYX").psf, is_stack=True)
    for name in ("bars/psf", "bead/psf", "psf_bornwolf_31"):
        psf = tifffile.imread(folder / "deconv3d" / f"{name}.tif")
        yield Case(name=f"real set, {name.split('/')[0]}", psf=psf, is_stack=True)
    for number in LEVIN:
        path = folder / "levin" / f"kernel{number}_conv_f8.npy"
        yield Case(name=f"camera shake {number} (Levin)", psf=np.load(path))
        coarse = np.round(255 * np.load(path) / np.load(path).max()).astype(np.uint8)
        yield Case(name=f"camera shake {number}, 8 bit", psf=coarse)


def list_wrong() -> Iterator[Case]:
    """List PSFs with a fault, most in several degrees."""
    rng = np.random.default_rng(0)
    gaussian, airy = (
        sample_gaussian((31, 31), (2.0, 2.0)),
        compute_microscope("widefield", (41, 41)),
    )
    airy = airy / airy.max()
    aberrated = compute_aberrated(spherical=0.1)
    bases = {"Gaussian": gaussian, "Airy": airy, "aberrated": aberrated / aberrated.max()}
    widefield = compute_microscope("widefield", (23, 61, 61))
    confocal = compute_microscope("confocal", (21, 31, 31))
    confocal = confocal / confocal.max()
    deep = sample_gaussian((31, 21, 21), (3.5, 1.6, 1.6))
    optics = {**OPTICS, "pixel_size": PIXEL}
    yield from _list_refused(gaussian, deep)
    for base, psf in bases.items():
        for level in (0.003, 0.02, 0.2):
            yield Case(name="constant background", psf=psf + level, codes=("psf-background",))
        for sigma in (0.01, 0.05):
            noisy = psf + 0.1 + rng.normal(0, sigma, psf.shape)
            yield Case(name="background and noise", psf=noisy.clip(0), codes=("psf-background",))
            noisy = (psf + rng.normal(0, sigma, psf.shape)).clip(min=0)
            yield Case(name="noise, negative values set to 0", psf=noisy, codes=("psf-background",))
            noisy = psf + rng.normal(0, sigma, psf.shape)
            yield Case(name="noise around zero", psf=noisy, codes=("psf-background",))
        noisy = psf + 0.5 + rng.normal(0, 0.15, psf.shape)
        yield Case(name="strong noise", psf=noisy.clip(0), codes=("psf-noisy", "psf-noise"))
        for shift in (1, 4):
            yield Case(name="off its middle", psf=np.roll(psf, shift, 1), codes=("psf-centred",))
        yield Case(name="even size, half a pixel off", psf=psf[1:, 1:], codes=("psf-padded",))
        yield Case(
            name="centred at the first pixel", psf=np.fft.ifftshift(psf), codes=("psf-corner",)
        )
        middle = len(psf) // 2
        for radius in (1, 2, 3) if base == "Gaussian" else (1, 2):
            cut = psf[middle - radius : middle + radius + 1, middle - radius : middle + radius + 1]
            yield Case(name="tails cut off", psf=cut, codes=("psf-cut",))
        for distance, share in ((12, 1.0), (14, 0.5), (10, 0.8)):
            beads = np.pad(psf, 10)
            beads = beads + share * np.roll(beads, (distance, distance // 2), (0, 1))
            yield Case(name="two beads", psf=beads, codes=("psf-beads",))
        for limit in (0.7, 0.5, 0.3):
            clipped = np.minimum(psf, limit)
            yield Case(name="saturated", psf=clipped, codes=("psf-clipped",))
        hot = psf.copy()
        hot[middle + 6, middle - 5] = 3.0
        yield Case(name="hot pixel", psf=hot, codes=("psf-hot-pixel",))
    yield from _list_wrong_stacks(confocal, deep, widefield, optics)
    yield from _list_wrong_optics(gaussian, deep, airy, optics)


def _list_wrong_stacks(
    confocal: Array, deep: Array, widefield: Array, optics: dict[str, float]
) -> Iterator[Case]:
    """List faulty PSFs of volumes."""
    rng = np.random.default_rng(2)
    volumes = {"confocal": confocal, "Gaussian stack": deep}
    for psf in volumes.values():
        noisy = (psf + 0.02 + rng.normal(0, 0.005, psf.shape)).clip(min=0)
        yield Case(name="constant background", psf=noisy, codes=("psf-background",), is_stack=True)
        planes = slice(psf.shape[0] // 2 - 1, psf.shape[0] // 2 + 2)
        yield Case(name="too few planes", psf=psf[planes], codes=("psf-cut-depth",), is_stack=True)
        yield Case(
            name="off its middle", psf=np.roll(psf, 3, 0), codes=("psf-centred",), is_stack=True
        )
    for axes in ((1, 2, 0), (1, 0, 2)):
        for psf in (deep, np.moveaxis(confocal, 0, 0), widefield):
            turned = np.ascontiguousarray(psf.transpose(axes))
            yield Case(
                name="axes in another order",
                psf=turned,
                codes=("psf-transposed", "psf-large", "psf-wide", "psf-narrow"),
                is_stack=True,
                settings={**optics, "z_step": Z_STEP} if psf is confocal else {},
            )


def _list_wrong_optics(
    gaussian: Array, deep: Array, airy: Array, optics: dict[str, float]
) -> Iterator[Case]:
    """List PSFs of another pixel size, or of another width than the optics say."""
    for pixels, codes in (
        ((130.0, 65.0), ("psf-pixel-size",)),
        ((65.0, 100.0), ("psf-pixel-size",)),
    ):
        yield Case(
            name="pixel size of another image",
            psf=gaussian,
            codes=codes,
            image_pixel=(pixels[0],) * 2,
            psf_pixel=(pixels[1],) * 2,
        )
    yield Case(
        name="Z step of another stack",
        psf=deep,
        codes=("psf-pixel-size",),
        is_stack=True,
        image_pixel=(200.0, 65.0, 65.0),
        psf_pixel=(300.0, 65.0, 65.0),
    )
    twice = np.asarray(ndimage.convolve(np.pad(airy, 12), airy, mode="constant"))
    yield Case(name="blurred twice", psf=twice, codes=("psf-wide",), settings=optics)
    yield Case(name="blurred twice, optics unknown", psf=twice, codes=("psf-wide",))
    fine = compute_microscope("widefield", (81, 81), pixel_nm=(32.5, 32.5))
    yield Case(name="of half the pixel size", psf=fine, codes=("psf-wide",), settings=optics)
    coarse = compute_microscope("widefield", (21, 21), pixel_nm=(130.0, 130.0))
    yield Case(name="of twice the pixel size", psf=coarse, codes=("psf-narrow",), settings=optics)
    low = compute_microscope("widefield", (61, 61), na=0.7)
    yield Case(name="of an objective of NA 0.7", psf=low, codes=("psf-wide",), settings=optics)
    yield Case(
        name="square root of the values", psf=np.sqrt(airy), codes=("psf-wide",), settings=optics
    )
    yield Case(
        name="pixels too wide for the optics",
        psf=compute_microscope("widefield", (21, 21), pixel_nm=(160.0, 160.0)),
        codes=("psf-nyquist",),
        settings={**OPTICS, "pixel_size": 160.0},
    )
    yield Case(
        name="mirrored coma", psf=compute_aberrated(coma=0.12)[:, ::-1], codes=("psf-mirror",)
    )


def list_random(seed: int, count: int) -> Iterator[Case]:
    """Draw right PSFs, and wrong ones made from them, by which no limit was set."""
    rng = np.random.default_rng(seed)

    def aberrate(strength: float) -> Array:
        names = ("astigmatism", "coma", "spherical", "defocus")
        psf = compute_aberrated(**{name: rng.normal(0, strength) for name in names})
        return psf / psf.max()

    def draw_gaussian() -> Array:
        sigmas = (rng.uniform(0.5, 5), rng.uniform(0.5, 5))
        side = 2 * int(np.ceil(4 * max(sigmas))) + 1
        return sample_gaussian((side, side), sigmas, rng.uniform(0, np.pi))

    def draw_base() -> Array:
        sigma = rng.uniform(1.2, 3.0)
        is_gaussian = rng.random() < 0.3
        return sample_gaussian((41, 41), (sigma, sigma)) if is_gaussian else aberrate(0.06)

    def draw_beads() -> Array:
        psf, distance, angle = np.pad(draw_base(), 10), rng.integers(11, 18), rng.uniform(0, 6.28)
        offset = int(distance * np.sin(angle)), int(distance * np.cos(angle))
        return np.asarray(psf + rng.uniform(0.4, 1) * np.roll(psf, offset, (0, 1)))

    for _ in range(count):
        side = int(rng.integers(13, 45))
        yield Case(name="shake of a camera", psf=draw_shake(int(rng.integers(1 << 30)), side))
        yield Case(name="aberrations up to 0.2 waves", psf=aberrate(0.1))
        yield Case(name="Gaussian", psf=draw_gaussian())
        radius = rng.uniform(1, 12)
        side = 2 * int(np.ceil(radius + rng.uniform(0, 4))) + 1
        yield Case(name="disc", psf=draw_disc(radius, side))
        base = draw_base()
        level = 10 ** rng.uniform(-2.7, 0)
        yield Case(name="constant background", psf=base + level, codes=("psf-background",))
        photons = 10 ** rng.uniform(1.3, 3.5)
        noisy = rng.poisson(draw_base() * photons + rng.uniform(2, 50)).astype(float)
        yield Case(name="background and noise", psf=noisy, codes=("psf-background", "psf-noise"))
        yield Case(name="two beads", psf=draw_beads(), codes=("psf-beads",))
        clipped = np.minimum(draw_base(), rng.uniform(0.3, 0.65))
        yield Case(name="saturated", psf=clipped, codes=("psf-clipped",))
        box = slice(len(base) // 2 - 2, len(base) // 2 + 3)
        yield Case(name="tails cut off", psf=base[box, box], codes=("psf-cut",))
        moved = np.roll(draw_base(), int(rng.integers(2, 9)), int(rng.integers(2)))
        yield Case(name="off its middle", psf=moved, codes=("psf-centred",))
        corner = np.fft.ifftshift(draw_base())
        yield Case(name="centred at the first pixel", psf=corner, codes=("psf-corner",))
        inverted = 1 - rng.uniform(0.2, 1) * draw_base()
        yield Case(name="dark on bright ground", psf=inverted, codes=("psf-inverted",))


def _list_refused(gaussian: Array, deep: Array) -> Iterator[Case]:
    """List PSFs that are none."""
    rng = np.random.default_rng(1)
    broken = gaussian.copy()
    broken[3, 4] = np.nan
    yield Case(name="not finite", psf=broken, codes=("input-not-finite",))
    yield Case(name="all zero", psf=0 * gaussian, codes=("psf-zero",))
    yield Case(name="constant", psf=np.full((64, 64), 7.0), codes=("psf-constant",))
    yield Case(name="constant", psf=np.full((21, 21), 7.0), codes=("psf-uniform",))
    yield Case(name="negative values", psf=gaussian - 0.1, codes=("psf-negative",))
    yield Case(name="negative values", psf=-gaussian, codes=("psf-negative",))
    point = np.zeros((9, 9))
    point[4, 4] = 1
    yield Case(name="single pixel", psf=point, codes=("psf-point",))
    yield Case(name="single pixel", psf=np.ones((1, 1)), codes=("psf-point",))
    yield Case(name="complex", psf=np.fft.fft2(gaussian), codes=("image-text", "image-complex"))
    yield Case(
        name="in colours", psf=np.stack([gaussian] * 3, -1), psf_axes="YXS", codes=("psf-axes",)
    )
    yield Case(
        name="in channels", psf=np.stack([gaussian] * 3), psf_axes="CYX", codes=("psf-axes",)
    )
    yield Case(
        name="stacks in channels", psf=np.stack([deep] * 2), psf_axes="CZYX", codes=("psf-axes",)
    )
    yield Case(name="dark on bright ground", psf=1 - 0.8 * gaussian, codes=("psf-inverted",))
    noise = rng.normal(100, 10, (64, 64))
    yield Case(name="noise alone", psf=noise, codes=("psf-noise",))
    image = make_image()
    yield Case(name="the image itself", psf=image, image=image, codes=("psf-same",))
    wide = sample_gaussian((121, 121), (20, 20))
    yield Case(name="larger than the image", psf=wide, codes=("psf-cropped",))
    yield Case(name="stack for a plane", psf=deep, codes=("psf-axes",))
    yield Case(name="plane for a stack", psf=gaussian, is_stack=True, codes=("psf-plane",))
    scene = make_image(1)[:61, :61]
    yield Case(
        name="another image", psf=scene, codes=("psf-cut", "psf-beads", "psf-noise", "psf-inverted")
    )
    yield Case(
        name="given twice", psf=gaussian, settings={"gaussian_sigma": 2.0}, codes=("psf-twice",)
    )


def make_image(seed: int = 0, depth: int = 0) -> Array:
    """Make a blurred, noisy image of blobs, which a check of its pixels accepts."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=(*([depth] if depth else []), 96, 96)), 2.0)
    image = 200 + 600 * image / image.std() * 0.3
    return np.asarray(rng.poisson(image.clip(min=20)), np.float32)


def check(case: Case) -> tuple[str, list[str]]:
    """Return the code of a refusal, or "", and the codes of notes on the PSF."""
    image = case.image if case.image is not None else make_image(depth=64 if case.is_stack else 0)
    units = ("nanometer",) * 3

    def describe(
        name: str, array: Array, pixel: tuple[float, ...] | None, axes: str
    ) -> ImageHeader:
        axes = axes or "TZYX"[-array.ndim :]
        return ImageHeader(
            name=name,
            shape=array.shape,
            dtype=str(array.dtype),
            axes=axes,
            scale=pixel,
            units=None if pixel is None else units[: len(pixel)],
        )

    header = describe("image", image, case.image_pixel, "")
    psf_header = describe("psf", case.psf, case.psf_pixel, case.psf_axes)
    try:
        recipe = make_recipe("deblur", **case.settings)
        plan = preflight(recipe, header, detect_machine(), {"psf": psf_header})
        if isinstance(plan, Refusal):
            return plan.code, []
        inputs = arrange_inputs(plan, {"image": image, "psf": case.psf})
        headers = {"image": header, "psf": psf_header}
        _, kernel_notes = inputs.inspection.convert_inputs(
            inputs.stack[0], inputs.extra_inputs, headers
        )
    except DipError as error:
        return error.reason.code, []
    notes = (*plan.notes, *inputs.inspection.notes, *kernel_notes)
    return "", list(dict.fromkeys(note.code for note in notes if note.code.startswith("psf")))


def judge(case: Case) -> dict[str, Any]:
    """Check one PSF and classify the answer."""
    refusal, notes = check(case)
    codes = [refusal] if refusal else notes
    hits = [code for code in codes if code in case.codes]
    if not case.codes:
        outcome = "false alarm" if set(codes) - HARMLESS else "no alarm"
    elif not hits:
        outcome = "missed"
    elif refusal:
        outcome = "refused"
    else:
        mended = {"psf-background", "psf-centred", "psf-padded", "psf-corner", "psf-pixel-size"}
        outcome = "mended" if mended & set(hits) else "named"
    return {"PSF": case.name, "outcome": outcome, "codes": codes}


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count the outcomes of each kind of wrong PSF."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["PSF"], []).append(row)
    outcomes = ("refused", "mended", "named", "missed", "no alarm", "false alarm")
    return [
        {
            "kind": kind,
            "PSFs": len(members),
            **{name: sum(row["outcome"] == name for row in members) for name in outcomes},
            "messages": ", ".join(sorted({code for row in members for code in row["codes"]})),
        }
        for kind, members in kinds.items()
    ]


def main() -> None:
    """Check all PSFs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=100, help="PSFs of each kind that are drawn")
    drawn = [judge(case) for case in list_random(2026, parser.parse_args().random)]
    wrong = [judge(case) for case in list_wrong()]
    right = [judge(case) for case in list_right()]
    kinds = summarise(wrong)
    caught = [row for row in wrong if row["outcome"] != "missed"]
    alarms = [row for row in right if row["outcome"] != "no alarm"]
    for row in [row for row in wrong if row["outcome"] == "missed"] + alarms:
        print(row)
    summary = {
        "kinds of wrong PSFs": len(kinds),
        "kinds of which none was missed": sum(not row["missed"] for row in kinds),
        "wrong PSFs": len(wrong),
        "wrong PSFs caught": len(caught),
        "right PSFs": len(right),
        "false alarms": len(alarms),
        "names of the right PSFs": ", ".join(row["PSF"] for row in right),
    }
    rows = [{"set": "named", **row} for row in kinds]
    rows += [{"set": "drawn", **row} for row in summarise(drawn)]
    write("wrong_psfs", rows, summary)


if __name__ == "__main__":
    main()
