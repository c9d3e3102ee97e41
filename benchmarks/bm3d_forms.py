"""Variants of BM3D for the quality benchmark.

BM3D is the authors' own package (PyPI `bm3d`, free for non-commercial use only), so it is no
dependency of napari-dip: `make bench-quality` installs it, and nothing else needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from blind_noise import compute_mean_sigma, is_micrograph, split_channels
from quality_method import Output
from shared_data import psnr
from variance_stabilising import (
    estimate_variance_line,
    estimate_white_sigma,
    invert_stabilisation,
    stabilise,
)

if TYPE_CHECKING:
    from quality_sets import Case, Picture

#: Strengths that the oracle may choose from, as multiples of the estimated standard deviation,
#: and the one that it begins with. FMD widefield, whose noise is correlated, asks for more than 16.
MULTIPLES, MIDDLE = tuple(round(2 ** (k / 2), 3) for k in range(-3, 14)), 3


def load_bm3d() -> Any:
    """Import BM3D; its noise spectra still call a function that NumPy 2.4 has renamed."""
    import bm3d

    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    return bm3d


def run_bm3d(noisy: Picture, sigma: list[float]) -> Picture:
    """BM3D, or CBM3D on three channels, on a scale of 0 to 1 as its matching thresholds have it."""
    bm3d = load_bm3d()

    if noisy.ndim == 2:
        return 255 * np.asarray(bm3d.bm3d(noisy / 255, sigma[0] / 255))
    return 255 * np.asarray(bm3d.bm3d_rgb(noisy / 255, [deviation / 255 for deviation in sigma]))


def run_bm3d_blind(case: Case, noisy: Picture, truth: Picture) -> Output:
    """One standard deviation a channel, from neighbour differences."""
    if is_micrograph(case):
        sigma = [compute_mean_sigma(case, noisy)]
    else:
        sigma = [max(estimate_white_sigma(plane), 0.1) for plane in split_channels(noisy)]
    return Output(run_bm3d(noisy, sigma), {"sigma": sigma})


def run_bm3d_known(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Tell it the standard deviation that the noise was made with."""
    sigma = [case.sigma or 0.0] * len(split_channels(noisy))
    return Output(run_bm3d(noisy, sigma), {"sigma": sigma})


def run_stabilised_bm3d(
    noisy: Picture,
    line: tuple[float, float],
    multiple: float = 1.0,
    psd: Picture | None = None,
    profile: Any = "np",
) -> Picture:
    """Stabilise, denoise at unit variance times `multiple`^2 or with a noise spectrum, go back."""
    bm3d = load_bm3d()

    stable = stabilise(noisy, *line)
    low, span = float(stable.min()), float(np.ptp(stable))
    strength = multiple / span if psd is None else psd / span**2
    clean = np.asarray(bm3d.bm3d((stable - low) / span, strength, profile))
    return invert_stabilisation(clean * span + low, *line)


def run_vst_blind(case: Case, noisy: Picture, truth: Picture) -> Output:
    """As published: estimate from neighbour differences, transform, BM3D, inverse."""
    line = estimate_variance_line(noisy)
    return Output(run_stabilised_bm3d(noisy, line), {"gain": line[0], "intercept": line[1]})


def run_vst_oracle(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Choose the strength by the truth, in the quick profile, and restore with the full one.

    From a multiple of 1 upwards, or downwards, as long as that betters the image.
    """
    bm3d = load_bm3d()

    line = estimate_variance_line(noisy)
    quick: dict[int, float] = {}

    def better(place: int) -> float:
        if place not in quick:
            stabilised = run_stabilised_bm3d(
                noisy, line, MULTIPLES[place], profile=bm3d.BM3DProfileLC()
            )
            quick[place] = psnr(stabilised, truth)
        return quick[place]

    best = MIDDLE
    for step in (1, -1):
        while 0 <= best + step < len(MULTIPLES) and better(best + step) > better(best):
            best += step
        if best != MIDDLE:
            break
    # the two profiles may differ on neighbouring strengths, so blind strength has its chance
    last = {best, MIDDLE} if abs(best - MIDDLE) <= 1 else {best}
    stabilised = {place: run_stabilised_bm3d(noisy, line, MULTIPLES[place]) for place in last}
    chosen = max(last, key=lambda place: psnr(stabilised[place], truth))
    return Output(stabilised[chosen], {"multiple": MULTIPLES[chosen], "line": line})


def calibrate(case: Case, noisy: Picture) -> dict[str, Any]:
    """Measure, as napari-dip does: line of the variance, and correlation."""
    import torch

    from napari_dip.engine.noise.estimate import compute_blind_spot_size, estimate_noise

    noise = estimate_noise(torch.from_numpy(noisy)[None], 1.0)
    high, wide = compute_blind_spot_size([noise], (noisy.shape[0], noisy.shape[1]))
    return {
        "gain": noise.gain,
        "intercept": noise.intercept,
        "along_y": noise.along_y[: high // 2],
        "along_x": noise.along_x[: wide // 2],
    }


def run_vst_calibrated(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Tell BM3D the noise's line and spectrum as we measure them."""
    variance_line_of_camera = calibrate(case, noisy)
    lags = variance_line_of_camera["along_y"], variance_line_of_camera["along_x"]
    psd = (
        compute_noise_psd(noisy.shape, *lags) if any(lags) else None
    )  # white: the same, but sooner
    return Output(
        run_stabilised_bm3d(
            noisy, (variance_line_of_camera["gain"], variance_line_of_camera["intercept"]), psd=psd
        ),
        variance_line_of_camera,
    )


def compute_noise_psd(
    shape: tuple[int, ...], along_y: tuple[float, ...], along_x: tuple[float, ...]
) -> Picture:
    """Spectrum of unit-variance noise whose correlation is the product of those along each axis.

    Normalised as bm3d has it: mean over frequencies = number of pixels. Lags that were not
    measured are none, and frequencies that this makes negative are raised to a thousandth.
    """
    axes = []
    for side, lags in zip(shape, (along_y, along_x), strict=True):
        covariance = np.zeros(side)
        covariance[0] = 1
        for lag, value in enumerate(lags, 1):
            covariance[[lag, -lag]] = value
        axes.append(np.maximum(np.fft.fft(covariance).real, 1e-3))
    psd = np.outer(*axes)
    return psd / psd.mean() * psd.size
