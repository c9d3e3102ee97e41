"""Noise that JPEG compression hides is measured as it was before, and the image denoised."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

import napari_dip as dip
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.tasks.noise_models.jpeg_traces import measure_compressed_noise

QUICK = {"preset": "fast", "device": "cpu", "max_iterations": 4}
GREY = data.cell()[200:328, 150:278]
COLOURS = data.astronaut()[:160, 224:384]


def make_noisy_jpeg(truth: np.ndarray, quality: int, **options: int) -> np.ndarray:
    """Add normal noise of 10, and save in memory; the finest frequencies are all 0 then."""
    noisy = truth + np.random.default_rng(0).normal(0, 10, truth.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).save(
        file, "JPEG", quality=quality, **options
    )
    return np.asarray(Image.open(file))


def measure_error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(((image.astype(np.float64) - truth) ** 2).mean())


@pytest.mark.parametrize(
    ("truth", "axes", "options"),
    [(GREY, "YX", {}), (COLOURS, "YXS", {}), (COLOURS, "YXS", {"subsampling": 0})],
    ids=["grey", "half chroma", "full chroma"],
)
def test_a_noisy_jpeg_does_not_come_back_as_it_was(truth, axes, options) -> None:
    noisy = make_noisy_jpeg(truth, 75, **options)
    result = dip.denoise(noisy, axes=axes, **QUICK)
    assert set(result.report["noise"]["caution"]) == {"compressed"}
    assert set(result.report["noise"]["unreliable_reason"]) == {None}
    assert measure_error(result.image, truth) < 0.5 * measure_error(noisy, truth)
    assert any("JPEG compression hides" in note for note in result.report["notes"])
    assert "as it was before JPEG compression " in write_methods_section(result.report)


def test_noise_that_the_user_entered_is_kept() -> None:
    result = dip.denoise(make_noisy_jpeg(GREY, 75), axes="YX", read_noise=3, gain=0, **QUICK)
    assert result.report["noise"]["intercept"] == [pytest.approx(9)]
    assert result.report["noise"]["caution"] != ["compressed"]


def test_colours_whose_noise_compression_left_keep_their_own() -> None:
    noisy = make_noisy_jpeg(COLOURS, 97, subsampling=0)
    result = dip.denoise(noisy, axes="YXS", **QUICK)
    assert "compressed" not in result.report["noise"]["caution"]
    assert "camera" not in result.report["noise"]


def test_a_run_that_uses_no_noise_cites_nothing_on_its_compression() -> None:
    result = dip.denoise(GREY[:32, :32], preset="instant", device="cpu", max_iterations=2)
    report = {**result.report, "noise": {**result.report["noise"], "caution": ["compressed"]}}
    report["task"] = report["recipe"]["task"] = "invert-features"
    assert "JPEG" not in write_methods_section(report)


def test_halves_are_not_drawn_from_noise_that_the_pixels_no_longer_hold() -> None:
    result = dip.denoise(make_noisy_jpeg(GREY, 75), axes="YX", halves=True, **QUICK)
    assert "halves" not in result.report


def test_coarse_grey_values_are_no_compression() -> None:
    noisy = GREY + np.random.default_rng(0).normal(0, 25, GREY.shape)
    for step in (16, 32, 64, 255):
        coarse = np.clip(step * np.rint(noisy / step), 0, 255).astype(np.float32)
        assert measure_compressed_noise(coarse[None]) is None


def test_measure_tells_the_noise_before_compression() -> None:
    (channel,) = dip.measure_noise(make_noisy_jpeg(GREY, 75)).channels
    variance = channel.gain * GREY.mean() + channel.intercept
    assert variance**0.5 == pytest.approx(10, rel=0.15)
    assert not channel.unreliable_reason
    assert "JPEG compression hides" in channel.caution


@pytest.mark.parametrize("factor", [1, 1 / 255, 257])
def test_a_jpeg_is_recognised_in_other_types_and_units(factor) -> None:
    noisy = make_noisy_jpeg(GREY, 75).astype(np.float32) * np.float32(factor)
    (channel,) = dip.measure_noise(noisy).channels
    assert (channel.gain * GREY.mean() * factor + channel.intercept) ** 0.5 == pytest.approx(
        10 * factor, rel=0.15
    )


def test_noise_that_compression_left_is_measured_in_the_pixels() -> None:
    (channel,) = dip.measure_noise(make_noisy_jpeg(GREY, 97)).channels
    assert channel.darkest_std == pytest.approx(10, rel=0.15)
    assert "JPEG" not in (channel.caution or "")
