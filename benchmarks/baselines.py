"""Baselines for one noisy image: total variation, non-local means, BM3D, ZS-N2N."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.io import imread
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from blind_noise import compute_mean_sigma, estimate_noise, is_micrograph
from bm3d_forms import (
    MIDDLE,
    MULTIPLES,
    calibrate,
    run_bm3d_blind,
    run_bm3d_known,
    run_vst_blind,
    run_vst_calibrated,
    run_vst_oracle,
)
from quality_method import Method, Output
from shared_data import psnr

if TYPE_CHECKING:
    from collections.abc import Callable

    from quality_sets import Case, Picture

#: Weights of total variation on a scale of 0 to 1, each 1.25 times the one before: finer than that
#: the peak is flat.
TV_WEIGHTS = tuple(round(0.01 * 1.25**k, 4) for k in range(20))
#: As scikit-image's own example has them; h is the share of the noise in the distance's width.
NLM = {"patch_size": 5, "patch_distance": 6, "h": 0.6, "fast_mode": True}


def denoise_total_variation(noisy: Picture, weight: float) -> Picture:
    """Chambolle's total variation, all channels together."""
    axis = None if noisy.ndim == 2 else -1
    return 255 * np.asarray(denoise_tv_chambolle(noisy / 255, weight, channel_axis=axis))


def tv_oracle(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Choose the weight by the truth."""
    tried = [denoise_total_variation(noisy, weight) for weight in TV_WEIGHTS]
    best = int(np.argmax([psnr(image, truth) for image in tried]))
    return Output(tried[best], {"weight": TV_WEIGHTS[best]})


def tv_blind(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Take away as much as there is noise (Chambolle 2004): seven halvings of the weight's span."""
    aim = compute_mean_sigma(case, noisy)
    low, high = TV_WEIGHTS[0] / 10, TV_WEIGHTS[-1]
    image, weight = noisy, 0.0
    for _ in range(7):
        weight = sqrt(low * high)
        image = denoise_total_variation(noisy, weight)
        taken = sqrt(float(np.mean((image - noisy) ** 2)))
        low, high = (weight, high) if taken < aim else (low, weight)
    return Output(image, {"weight": weight, "sigma": aim})


def denoise_non_local_means(case: Case, noisy: Picture, truth: Picture) -> Output:
    """scikit-image's, with the estimated noise."""
    sigma = compute_mean_sigma(case, noisy) / 255
    options = {**NLM, "h": NLM["h"] * sigma, "channel_axis": None if noisy.ndim == 2 else -1}
    return Output(
        255 * denoise_nl_means(noisy / 255, sigma=sigma, **options), {"sigma": 255 * sigma}
    )


def read_published(title: str) -> Method:
    """Read an output that others have published for this very input."""

    def run(case: Case, noisy: Picture, truth: Picture) -> Output:
        return Output(imread(dict(case.published)[title]))

    return Method(title, run, lambda case: title in dict(case.published))


def denoise_zero_shot(case: Case, noisy: Picture, truth: Picture) -> Output:
    """Fit a small network to the image's two halves."""
    from zs_n2n import denoise

    return Output(denoise(noisy))


def list_zero_shot_settings(case: Case, noisy: Picture) -> dict[str, Any]:
    """All that the fit depends on."""
    from zs_n2n import SETTINGS

    return dict(SETTINGS)


def _with_estimate(**further: Any) -> Callable[[Case, Picture], dict[str, Any]]:
    return lambda case, noisy: {**estimate_noise(case, noisy), **further}


METHODS: dict[str, Method] = {
    "input": Method("input", lambda case, noisy, truth: Output(noisy)),
    "vst_bm3d": Method("VST + BM3D, blind (a)", run_vst_blind, is_micrograph, estimate_noise),
    "vst_bm3d_calibrated": Method(
        "VST + BM3D, told our calibration (b)", run_vst_calibrated, is_micrograph, calibrate
    ),
    "vst_bm3d_oracle": Method(
        "VST + BM3D, strength by oracle (c)",
        run_vst_oracle,
        is_micrograph,
        _with_estimate(multiples=MULTIPLES, start=MIDDLE, chosen_with="LC, then np"),
    ),
    "bm3d": Method("BM3D, blind", run_bm3d_blind, settings=estimate_noise),
    "bm3d_told": Method("BM3D, told sigma", run_bm3d_known, lambda case: case.sigma is not None),
    "nlm": Method("NLM, blind", denoise_non_local_means, settings=_with_estimate(**NLM)),
    "tv": Method("TV, blind", tv_blind, settings=_with_estimate(halvings=7, weights=TV_WEIGHTS)),
    "tv_oracle": Method(
        "TV, strength by oracle",
        tv_oracle,
        settings=lambda case, noisy: {"weights": TV_WEIGHTS},
    ),
    "published_dip": read_published("published DIP"),
    "zs_n2n": Method("ZS-N2N", denoise_zero_shot, settings=list_zero_shot_settings),
}
