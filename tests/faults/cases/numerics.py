"""Images and settings at the limits of arithmetic: right to rounding, or refused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from faults.cases import (
    Case,
    cases_to_trials,
    make_hole_mask,
    make_image,
)
from faults.cases.numerics_checks import (
    F8,
    check_array_refused,
    check_filled_hole,
    check_flat_image,
    check_float_dtype,
    check_guide_units,
    check_hole_content_ignored,
    check_integer_dtype,
    check_integer_output,
    check_integer_output_at_limits,
    check_mask_dtype,
    check_mask_value,
    check_measured_islands,
    check_narrow_psf,
    check_negative_mask,
    check_noise_measurement,
    check_off_centre_psf,
    check_other_seed,
    check_plausible_row,
    check_psf_invariance,
    check_psf_refused,
    check_repeated_run,
    check_restored_or_refused,
    check_scaled_result,
    check_setting_refused,
    check_turned_result,
    check_uncertainty_calibration,
    check_upscaling,
    make_array_with_outlier,
    make_checkerboard,
    make_constant_rows,
    make_image_with_pixel,
    poisson,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.trials import Trial


def trials(*, small: bool) -> Iterator[Trial]:
    """Give every trial; of a few, every fiftieth."""
    yield from cases_to_trials(CASES, small=small, step=50)


SOUND: dict[str, Callable[[], np.ndarray]] = {
    "rows of one value each": make_constant_rows,
    "columns of one value each": lambda: make_constant_rows().T.copy(),
    "a slope": lambda: np.add.outer(np.arange(32.0), np.arange(32.0)),
    "a steep exponential": lambda: np.exp(np.add.outer(np.arange(32.0), np.arange(32.0)) / 4),
    "checkers of one pixel": lambda: make_checkerboard(1),
    "checkers of four pixels": lambda: make_checkerboard(4),
    "stripes of one pixel": lambda: np.indices((32, 32))[1] % 2 * 50.0,
    "photons, 0.1 on average": lambda: np.random.default_rng(1).poisson(0.1, (32, 32)).astype("u2"),
    "photons, 0.02 on average": lambda: (
        np.random.default_rng(1).poisson(0.02, (48, 48)).astype("u2")
    ),
    "photons, a million on average": lambda: np.random.default_rng(1).poisson(1e6, (32, 32)),
    "an offset of 65000": lambda: (make_image() % 500 + 65000).astype("u2"),
    "an offset of a million": lambda: F8 + 1e6,
    "values of 1e-15": lambda: F8 * 1e-15 / 600,
    "values of 1e15": lambda: F8 * 1e15 / 600,
    "only negative values": lambda: F8 - 5000,
    "values about 0": lambda: F8 - F8.mean(),
    "negative zeros": lambda: np.where(F8 > 400, F8, -0.0),
    "uniform noise": lambda: np.random.default_rng(1).random((32, 32)),
    "heavy tails": lambda: np.random.default_rng(1).standard_t(3, (32, 32)) * 10 + 100,
    "37 × 41 pixels": lambda: make_image(37, 41),
    "17 × 48 pixels": lambda: make_image(17, 48),
    "16 × 200 pixels": lambda: make_image(16, 200),
    "eight bits to both ends": lambda: (
        np.random.default_rng(1).integers(0, 256, (32, 32)).astype("u1")
    ),
    "two neighbouring grey values": lambda: (make_image() > 400).astype("u1") + np.uint8(100),
    "a border of zeros": lambda: np.pad(make_image(24, 24), 4),
    "half an image of zeros": lambda: np.where(
        np.indices((32, 32))[0] < 16, 0, make_image()
    ).astype("u2"),
}
NO: dict[str, tuple[Callable[[], Any], str]] = {
    "one value": (lambda: np.full((32, 32), 7.5), "nothing to restore"),
    "zeros of both signs": (lambda: np.where(F8 > 400, 0.0, -0.0), "nothing to restore"),
    "all infinite": (lambda: np.full((32, 32), np.inf), "infinite"),
    "one minus infinity": (lambda: make_image_with_pixel(-np.inf), "1 of the 1024 .*infinite"),
    "one NaN and one infinity": (
        lambda: np.where(np.eye(32) > 0, np.nan, make_image_with_pixel(np.inf)),
        "NaN|infinite",
    ),
    "values of 1e300": (lambda: F8 * 1e300, "range|single precision"),
    "subnormals": (lambda: F8 * 1e-310, "single precision"),
    "an offset of 1e12": (lambda: F8 / 600 + 1e12, "single precision|offset"),
    "whole numbers of 64 bits that differ little": (
        lambda: make_image().astype(np.int64) + 2**62,
        "single precision|offset",
    ),
    "uint64 near its end": (
        lambda: make_image().astype(np.uint64) + np.uint64(2**63),
        "single precision|offset",
    ),
    "one row": (lambda: make_image(32, 32)[:1], "1 × 32"),
    "one column": (lambda: make_image(32, 32)[:, :1], "32 × 1"),
    "15 × 1000 pixels of nothing": (lambda: np.zeros((0, 32)), "no pixels"),
    "no axes": (lambda: np.float64(3), "single number"),
    "seven axes": (lambda: np.zeros((1, 1, 1, 1, 1, 32, 32)) + make_image(), "axes"),
    "dates": (lambda: make_image().astype("M8[s]"), "type|numbers"),
    "durations": (lambda: make_image().astype("m8[s]"), "type|numbers"),
    "texts": (lambda: make_image().astype("U8"), "type|numbers"),
    "bytes": (lambda: make_image().astype("S8"), "type|numbers"),
    "truth values": (lambda: make_image() > 400, "mask"),
    "complex numbers": (lambda: make_image() + 1j, "complex"),
}
EITHER: dict[str, tuple[Callable[[], Any], str]] = {
    "one pixel of another value": (
        lambda: make_array_with_outlier(100, 101, "u2"),
        "nothing|noise",
    ),
    "one dead pixel in an image": (lambda: make_image_with_pixel(0, "uint16"), "pixel"),
    "one pixel of 1e12": (lambda: make_image_with_pixel(1e12), "single precision|outlier|pixel"),
    "one pixel of the largest float": (
        lambda: make_image_with_pixel(3.4e38),
        "single precision|pixel",
    ),
    "one subnormal pixel": (lambda: make_image_with_pixel(1e-40), "single precision"),
    "int64 of ordinary values": (lambda: make_image(dtype="int64"), "type"),
    "an object array of numbers": (lambda: make_image().astype(object), "type|numbers"),
    "float128": (lambda: make_image().astype(np.longdouble), "type|numbers"),
    "a huge offset with a tiny contrast": (lambda: F8 / 600 + 30000, "single precision|offset"),
}
INVARIANT = [
    ("1000", 1000.0, 0.0, 1e-3, "f4"),
    ("1/1000", 0.001, 0.0, 1e-3, "f4"),
    ("3", 3.0, 0.0, 1e-3, "f8"),
    ("1, plus 4096", 1.0, 4096.0, 0.02, "f8"),
    ("1, plus 10000", 1.0, 1e4, 0.02, "f8"),
    ("1, minus 5000", 1.0, -5000.0, 0.02, "f8"),
    ("1e9", 1e9, 0.0, 1e-3, "f8"),
    ("1e-12", 1e-12, 0.0, 1e-3, "f8"),
]
SETTINGS: list[tuple[str, dict[str, Any], str]] = [
    ("denoise", {"read_noise": 0}, "read"),
    ("denoise", {"read_noise": -1.0}, "read"),
    ("denoise", {"gain": -0.5}, "gain"),
    ("denoise", {"gain": float("inf")}, "gain"),
    ("denoise", {"gain": 1e40}, "gain"),
    ("denoise", {"smoothing": float("nan")}, "smoothing"),
    ("denoise", {"smoothing": -0.0001}, "smoothing"),
    ("denoise", {"seed": -1}, "seed"),
    ("denoise", {"seed": 2**64}, "seed"),
    ("denoise", {"seed": 0.5}, "seed"),
    ("denoise", {"seed": None}, "seed"),
    ("denoise", {"max_iterations": 0}, "max_iterations"),
    ("denoise", {"max_iterations": True}, "max_iterations"),
    ("denoise", {"max_iterations": 2.5}, "max_iterations"),
    ("denoise", {"max_iterations": 10**30}, "max_iterations"),
    ("denoise", {"restarts": -1}, "restarts"),
    ("denoise", {"time_limit": float("inf")}, "time_limit"),
    ("denoise", {"tile": -128}, "tile"),
    ("denoise", {"tile": 1}, "tile"),
    ("denoise", {"tile": 100.5}, "tile"),
    ("denoise", {"preset": "FAST"}, "preset"),
    ("denoise", {"preset": None}, "preset"),
    ("denoise", {"preset": 3}, "preset"),
    ("denoise", {"device": ""}, "device"),
    ("denoise", {"device": None}, "device"),
    ("super_resolve", {"factor": 1}, "factor"),
    ("super_resolve", {"factor": 0}, "factor"),
    ("super_resolve", {"factor": 1.5}, "factor"),
    ("super_resolve", {"factor": -2}, "factor"),
    ("super_resolve", {"factor": 16}, "factor"),
    ("super_resolve", {"factor": (1, 1)}, "factor"),
    ("super_resolve", {"factor": (2, 2, 2, 2)}, "factor"),
    ("super_resolve", {"factor": []}, "factor"),
    ("super_resolve", {"factor": None}, "factor"),
    ("super_resolve", {"factor": float("nan")}, "factor"),
    ("super_resolve", {"factor": True}, "factor"),
    ("deblur", {"gaussian_sigma": 0}, "gaussian_sigma"),
    ("deblur", {"gaussian_sigma": float("nan")}, "gaussian_sigma"),
    ("deblur", {"gaussian_sigma": (1, 2)}, "gaussian_sigma"),
    ("blind_deblur", {"psf_size": 2}, "psf_size"),
    ("blind_deblur", {"psf_size": 10**9}, "psf_size|PSF"),
    ("inpaint", {"mask": make_hole_mask(), "grow": -1}, "grow"),
    ("inpaint", {"mask": make_hole_mask(), "grow": 0.5}, "grow"),
    ("inpaint", {"mask": make_hole_mask(), "label": float("nan")}, "label"),
    ("inpaint", {"mask": make_hole_mask(), "label": 2**70}, "label"),
]


def _format_options(task: str, options: dict[str, Any]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in options.items() if name != "mask")
    return f"{task} with {arguments}"


def make_area_mask(area: Any) -> np.ndarray:
    """Draw a mask over some part of an image."""
    mask = np.zeros((32, 32), np.uint8)
    mask[area] = 1
    return mask


PSF = np.outer([1, 2, 1], [1, 2, 1]).astype(float)
CASES = [
    *(
        Case(
            f"image of {what}",
            partial(check_plausible_row, make, {}),
            "finite, the mean kept, near the image",
        )
        for what, make in SOUND.items()
    ),
    *(
        Case(
            f"image of {what} is refused",
            partial(check_array_refused, make, message, {}),
            "refused in words",
        )
        for what, (make, message) in NO.items()
    ),
    *(
        Case(
            f"image with {what}",
            partial(check_restored_or_refused, make, message, {}),
            "sound, or refused",
        )
        for what, (make, message) in EITHER.items()
    ),
    *(
        Case(
            f"intensities times {what}",
            partial(check_scaled_result, factor, offset, tolerance, kind, {}),
            "the same image in the new unit",
        )
        for what, factor, offset, tolerance, kind in INVARIANT
    ),
    *(
        Case(
            f"intensities times 1000, prior {prior}",
            partial(check_scaled_result, 1000.0, 0.0, 1e-3, "f4", {"prior": prior}),
            "the same image",
        )
        for prior in ("random-input", "blind-spot", "r2r")
    ),
    *(
        Case(
            f"the same numbers as {kind}",
            partial(check_integer_dtype, kind, {}),
            "the same image",
        )
        for kind in ("int16", "int32", "uint32", "int64", "uint64")
    ),
    *(
        Case(f"the same numbers as {kind}", partial(check_float_dtype, kind), "the same image")
        for kind in ("float64", ">f4", ">f8", "longdouble")
    ),
    *(
        Case(f"image that is {what}", partial(check_turned_result, change), "its answer alike")
        for what, change in (
            ("transposed", np.transpose),
            ("turned", np.rot90),
            ("mirrored", np.fliplr),
            ("upside down", np.flipud),
        )
    ),
    *(
        Case(f"one run twice, {what}", partial(check_repeated_run, options), "the same bytes")
        for what, options in (
            ("plainly", {}),
            ("with two restarts", {"restarts": 2}),
            ("with the largest seed", {"seed": 2**31 - 1}),
            ("of one iteration", {"max_iterations": 1}),
        )
    ),
    Case("two seeds", check_other_seed, "other pixels"),
    *(
        Case(f"mask as {kind}", partial(check_mask_dtype, kind), "the same pixels")
        for kind in ("uint8", "int8", "int64", "uint64", "float16", "float32", "float64", ">u2")
    ),
    *(
        Case(f"mask of {value}", partial(check_mask_value, value), "the same pixels")
        for value in (0.5, 255, 1e-30, 1e-50, 1e30, 1e300)
    ),
    Case("mask below 0", check_negative_mask, "refused: it marks nothing"),
    Case("known islands", check_measured_islands, "islands kept, all filled"),
    *(
        Case(f"{value:g} in the hole", partial(check_hole_content_ignored, value), "no matter")
        for value in (0.0, -1e6, 1e9, 1e30, float("nan"), float("inf"), -float("inf"))
    ),
    *(
        Case(
            f"hole {what}",
            partial(check_filled_hole, make_image(dtype="float32"), make_area_mask(area), 0.6),
            "measured pixels stay",
        )
        for what, area in (
            ("in the corner", np.s_[:8, :8]),
            ("of one pixel", np.s_[5:6, 5:6]),
            ("of whole rows", np.s_[10:14]),
            ("of half the image", np.s_[:, 16:]),
            ("of every second pixel", np.s_[::2, ::2]),
        )
    ),
    *(
        Case(f"PSF {what}", partial(check_psf_invariance, change, tolerance), "the same answer")
        for what, change, tolerance in (
            ("times 1e6", lambda psf: psf * 1e6, 1e-3),
            ("times 1e-6", lambda psf: psf * 1e-6, 1e-3),
            ("times 1e-40", lambda psf: psf * 1e-40, 1e-3),
            ("times 1e30", lambda psf: psf * 1e30, 1e-3),
            ("as whole numbers", lambda psf: psf.astype("u2"), 1e-3),
            ("within zeros", lambda psf: np.pad(psf, 3), 0.02),
            ("with columns first", np.asfortranarray, 0.0),
            ("read-only", lambda psf: np.frombuffer(psf.tobytes()).reshape(psf.shape), 0.0),
            ("as a list", lambda psf: psf.tolist(), 1e-3),
        )
    ),
    *(
        Case(
            f"PSF {what} is refused", partial(check_psf_refused, make, message), "refused in words"
        )
        for what, make, message in (
            ("of no sum", lambda: np.zeros((3, 3)), "0"),
            ("that cancels", lambda: PSF - PSF.mean(), "negative"),
            ("with one tiny negative", lambda: np.where(PSF > 3, PSF, -1e-3), "negative"),
            ("of truth values", lambda: PSF > 1e9, "0|PSF"),
            ("of no pixels", lambda: np.zeros((0, 3)), "PSF|pixels|axes"),
            ("with NaN", lambda: PSF * np.nan, "finite"),
            ("larger than the image", lambda: np.ones((35, 35)), "pixels"),
            ("of complex numbers", lambda: PSF * 1j, "complex|numbers|PSF"),
            ("of text", lambda: "", "empty|file"),
            ("of one number", lambda: 3.0, "axes"),
            ("that is a point", lambda: np.pad([[1.0]], 2), "one pixel.*denoise"),
        )
    ),
    Case("PSF that is nearly a point", check_narrow_psf, "the image, unmoved"),
    Case("PSF off its middle", check_off_centre_psf, "unmoved, or said"),
    *(
        Case(
            f"guide times {factor:g} plus {offset:g} as {kind}",
            partial(check_guide_units, factor, offset, kind),
            "the same answer",
        )
        for factor, offset, kind in (
            (1e6, 0, "f8"),
            (1e-6, 0, "f4"),
            (1, 1e4, "f4"),
            (1, 0, "u2"),
            (-1, 0, "f8"),
        )
    ),
    *(
        Case(f"factor {factor!r}", partial(check_upscaling, factor, shape), "right size and means")
        for factor, shape in (
            (2, (64, 64)),
            ("2", (64, 64)),
            ((1, 2), (32, 64)),
            ((3, 1), (96, 32)),
            (np.int64(2), (64, 64)),
            ("1,3", (32, 96)),
        )
    ),
    *(
        Case(
            _format_options(task, options),
            partial(check_setting_refused, task, options, message),
            "refused by its name",
        )
        for task, options, message in SETTINGS
    ),
    *(
        Case(
            f"measured noise of {what}",
            partial(check_noise_measurement, make, gain, deviation),
            "measured, or not claimed",
        )
        for what, make, gain, deviation in (
            ("deviation 5 on an even field", partial(check_flat_image, 5.0, 100.0), None, 5.0),
            (
                "deviation 0.001 on an even field",
                partial(check_flat_image, 0.001, 1.0),
                None,
                0.001,
            ),
            ("deviation 5 below zero", partial(check_flat_image, 5.0, -100.0), None, 5.0),
            ("deviation 5 on 60000", partial(check_flat_image, 5.0, 60000.0), None, 5.0),
            ("photons", partial(poisson, 1.0), 1.0, None),
            ("photons times 4", partial(poisson, 4.0), 4.0, None),
            ("photons times 0.1", partial(poisson, 0.1), 0.1, None),
        )
    ),
    Case("uncertainty and error", check_uncertainty_calibration, "of one size"),
    *(
        Case(f"rounded to {kind}", partial(check_integer_output, kind), "rounded, not cut")
        for kind in ("uint8", "uint16", "int16")
    ),
    *(
        Case(
            f"{kind} from end to end, rounded",
            partial(check_integer_output_at_limits, kind),
            "nothing wraps around",
        )
        for kind in ("uint8", "int8", "uint16", "int16", "int32", "uint32")
    ),
]
