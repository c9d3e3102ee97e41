"""Noise of which much was clipped is measured as it was before."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from skimage.data import camera

from napari_dip.engine.likelihood.fidelity import UNLIMITED, ClippingLimit, NoiseVariance
from napari_dip.engine.noise import UnreliableReason, compute_dark_excess, compute_excess
from napari_dip.engine.noise.clipped_noise import (
    compute_variance_left,
    relate_to_signals,
    restore_clipped_spectra,
)
from napari_dip.engine.noise.estimate import (
    NoiseEstimate,
    correct_by_prediction,
    estimate_noise,
)
from napari_dip.engine.noise.flat_blocks import NO_CLIPPING
from napari_dip.samples import MITOCHONDRIA

DRAWS = 400_000


def save(values: np.ndarray) -> torch.Tensor:
    """Round and clip, as 8 bits do."""
    return torch.from_numpy(np.clip(np.rint(values), 0, 255))[None]


def draw_nuclei(brightest: float) -> np.ndarray:
    """Draw round nuclei on black."""
    spots = np.random.default_rng(5).random((256, 256)) < 0.0008
    nuclei = gaussian_filter(spots.astype(float), 7)
    return np.asarray(nuclei * brightest / nuclei.max())


def draw_spots(seed: int = 0) -> np.ndarray:
    """Draw spots of many widths, in photons, on a background without light."""
    rng, (y, x) = np.random.default_rng(seed), np.indices((300, 300))
    scene = np.zeros((300, 300))
    for _ in range(120):
        row, column = rng.uniform(0, 300, 2)
        photons, width = rng.uniform(20, 100), rng.uniform(1.5, 5)
        scene += photons * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    return scene[:96, :96]


@pytest.mark.parametrize(("gain", "white"), [(20, 1600), (40, 4095)])
def test_noise_of_saturated_spots_is_not_called_weaker_than_a_grey_level(
    gain: int, white: int
) -> None:
    rng, truth = np.random.default_rng(5), draw_spots()
    image = 100 + gain * rng.poisson(truth) + rng.normal(0, 3, truth.shape)
    planes = torch.from_numpy(np.clip(image, 0, white).astype(np.uint16).astype(float))[None]
    estimate = estimate_noise(planes, 1.0)
    assert estimate.unreliable_reason is not UnreliableReason.COARSE_GREY_VALUES
    assert estimate.gain == pytest.approx(gain, rel=0.15)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("factor", "std"), [(0.2, 40.0), (0.1, 25.0), (1.0, 60.0)])
def test_white_noise_is_measured_although_most_blocks_are_clipped(
    factor: float, std: float
) -> None:
    noise = np.random.default_rng(0).normal(0, std, camera().shape)
    planes = save(factor * camera() + noise)
    estimate = estimate_noise(planes, 1.0)
    assert estimate.unreliable_reason is None
    assert estimate.compute_variance(torch.tensor(20.0)).sqrt() == pytest.approx(std, rel=0.06)


def test_gain_and_read_noise_are_measured_although_the_dark_is_clipped() -> None:
    gain, read_noise, rng = 1.0, 8.0, np.random.default_rng(0)
    truth = draw_nuclei(200)
    planes = save(gain * rng.poisson(truth / gain) + rng.normal(0, read_noise, truth.shape))
    estimate = estimate_noise(planes, 1.0)
    assert float((planes == 0).double().mean()) > 0.25
    assert estimate.unreliable_reason is None
    assert estimate.gain == pytest.approx(gain, rel=0.15)
    assert estimate.intercept**0.5 == pytest.approx(read_noise, rel=0.2)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("y", "x"), [(30, 50), (128, 128), (192, 128)])
def test_black_pixels_without_a_photon_are_not_taken_for_clipped_noise(y: int, x: int) -> None:
    crop = tifffile.imread(MITOCHONDRIA)[0, y : y + 128, x : x + 128]
    estimate = estimate_noise(torch.from_numpy(crop.astype(float))[None], 1.0)
    assert estimate.gain == pytest.approx(63, rel=0.15)
    assert abs(estimate.intercept) < 0.15 * estimate.gain * crop.mean()


def test_a_black_that_noise_does_not_explain_is_not_taken_for_clipping() -> None:
    nuclei = draw_nuclei(200)
    noise = np.random.default_rng(0).normal(0, 4, nuclei.shape)
    planes = save(np.where(nuclei > 30, nuclei + noise, 0))
    planes[0, ::5, ::7] = 1  # no block is constant
    assert restore_clipped_spectra(planes, None, (0.0, inf), 1 / 12) is None


def test_pixels_without_a_photon_are_not_taken_for_clipped_noise() -> None:
    shot = torch.from_numpy(tifffile.imread(MITOCHONDRIA)[:1].astype(np.float64))
    assert 0.3 < float((shot == 0).double().mean()) < 0.5
    assert restore_clipped_spectra(shot, None, (0.0, 255.0), 1 / 12) is None
    assert estimate_noise(shot, 1.0).gain == pytest.approx(69, rel=0.1)  # its mean tells 69


def test_the_noise_beyond_a_limit_is_that_of_drawn_values() -> None:
    draws = torch.randn(DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    excess = (3 * draws - 2).clamp(min=0)
    parts = excess, excess.square(), (excess > 0).double()
    excesses = compute_excess(torch.tensor([-2.0]).double(), torch.tensor([3.0]).double())
    assert [float(mean) for mean in excesses] == pytest.approx(
        [float(part.mean()) for part in parts], rel=0.02
    )


def test_the_noise_below_black_is_that_of_drawn_counts() -> None:
    rng, gain, dark_std, light = np.random.default_rng(0), 10.0, 6.0, 7.0
    values = gain * rng.poisson(light / gain, DRAWS) + rng.normal(0, dark_std, DRAWS)
    below = np.maximum(-values, 0)
    excesses = compute_dark_excess(torch.tensor([light]).double(), gain, dark_std)
    expected = [below.mean(), (below**2).mean(), (below > 0).mean()]
    assert [float(mean) for mean in excesses] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("signal", "gain", "limits"),
    [(12.0, 0.0, (0.0, inf)), (240.0, 0.0, (-inf, 255.0)), (25.0, 15.0, (0.0, 255.0))],
)
def test_signal_and_noise_behind_clipped_values_are_found(
    signal: float, gain: float, limits: tuple[float, float]
) -> None:
    rng, dark_std = np.random.default_rng(0), 20.0
    light = gain * rng.poisson(signal / gain, DRAWS) if gain else np.full(DRAWS, signal)
    drawn = light + rng.normal(0, dark_std, DRAWS)
    clipped = np.clip(drawn, *limits)
    means = torch.tensor([0.0, clipped.mean(), 255.0]).double()
    noise = relate_to_signals(means, (gain, dark_std**2, 1.0), limits)
    assert float(noise.signals[1]) == pytest.approx(signal, abs=0.5)
    assert float(noise.variance_ratio[1]) == pytest.approx(clipped.var() / drawn.var(), rel=0.02)
    assert float(noise.fraction[1]) == pytest.approx((clipped != drawn).mean(), abs=0.01)


@pytest.mark.parametrize("brightest", [255.0, 65_535.0])
def test_the_range_of_an_image_does_not_blur_the_noise_near_black(brightest: float) -> None:
    drawn = 10 + 20 * np.random.default_rng(0).standard_normal(DRAWS)
    clipped = drawn.clip(0)
    means = torch.tensor([0.0, clipped.mean(), brightest]).double()
    noise = relate_to_signals(means, (0.0, 400.0, 1.0), (0.0, inf))
    assert float(noise.signals[1]) == pytest.approx(10, abs=0.3)
    assert float(noise.variance_ratio[1]) == pytest.approx(clipped.var() / 400, rel=0.02)


def test_no_ratio_is_lost_where_the_line_of_the_noise_is_below_its_floor() -> None:
    means = torch.tensor([5.0, 7.0, 10.0, 100.0, 200.0]).double()
    noise = relate_to_signals(means, (2.0, -80.0, 9.0), (-inf, 255.0))
    assert noise.variance_ratio.numpy() == pytest.approx(np.ones(5), abs=0.01)


def test_unmeasured_pixels_do_not_count_as_clipped() -> None:
    planes = save(0.1 * camera() + np.random.default_rng(0).normal(0, 25, camera().shape))
    mask = torch.ones_like(planes, dtype=torch.bool)
    mask[:, 256:] = False
    planes[:, 256:] = 120 + 5 * torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    estimate = estimate_noise(planes, 1.0, mask)
    assert estimate.unreliable_reason is None
    assert estimate.intercept**0.5 == pytest.approx(25, rel=0.06)


def clip_at(value: float, std: float) -> ClippingLimit:
    """Return a limit of one channel of one measurement."""
    return ClippingLimit(torch.full((1, 1, 1, 1), value), torch.full((1, 1, 1, 1), std))


def test_the_fit_and_the_measurement_agree_on_the_noise_that_clipping_leaves() -> None:
    std, limits = 20.0, (0.0, 255.0)
    means = torch.linspace(10, 245, 48).double()
    none = torch.zeros(1, 1, 1, 1)
    fitted = NoiseVariance(
        gain=none,
        intercept=none + std**2,
        floor=none + 1,
        limits=tuple(clip_at(limit, std) for limit in limits),
    )
    actual = fitted.compute_variance(means[None, None, None]).flatten() / std**2
    expected = compute_variance_left(means, (0.0, std**2, 1.0), limits)
    assert actual.numpy() == pytest.approx(expected.numpy(), rel=0.02)


@pytest.mark.parametrize("direction", [1, -1])
def test_fits_assume_the_noise_that_clipping_has_left(direction: int) -> None:
    unit, draws = torch.ones(1, 1, 1, 1), torch.randn(DRAWS, dtype=torch.float64)
    noise = NoiseVariance(gain=0 * unit, intercept=4 * unit, floor=unit, limits=(clip_at(0, 2),))
    for signal in (0.0, 0.5, 2.0, 9.0):
        clipped = (signal + 2 * draws).clamp(min=0)
        assumed = noise.compute_variance(direction * clipped.mean() * unit)
        assert float(assumed) == pytest.approx(float(clipped.var()), rel=0.03)


def test_limits_stay_where_the_variance_is_scaled_and_joined() -> None:
    unit, near_white = torch.ones(1, 1, 1, 1), torch.full((2, 1, 1, 1), 8.9)
    limits = (clip_at(UNLIMITED, 1), clip_at(9, 1))
    noise = NoiseVariance(gain=0 * unit, intercept=unit, floor=unit, limits=limits)
    scaled = noise.scale(0.6).compute_variance(near_white[:1])
    assert float(scaled) == pytest.approx(0.6 * float(noise.compute_variance(near_white[:1])))
    unclipped = NoiseVariance(gain=0 * unit, intercept=unit, floor=unit)
    joined = NoiseVariance.concatenate([noise, unclipped])
    assert float(joined.compute_variance(near_white)[0]) == pytest.approx(0.34, abs=0.01)
    assert float(joined.select(1).compute_variance(near_white[:1])) == 1.0


def test_the_gradient_is_defined_where_one_limit_clips_nothing() -> None:
    mean = torch.full((1, 1, 1, 1), 0.5, requires_grad=True)
    noise = NoiseVariance(
        gain=0 * mean.detach(),
        intercept=torch.ones_like(mean),
        floor=0.1 * torch.ones_like(mean),
        limits=(clip_at(0, 1), clip_at(UNLIMITED, 1)),
    )
    noise.compute_variance(mean).sum().backward()
    assert mean.grad is not None and bool(mean.grad.isfinite().all())


def test_clipped_noise_is_not_doubted_since_neighbours_predict_it_better() -> None:
    plane = save(8.0 + np.random.default_rng(0).normal(0, 25, (128, 128)))[0]
    line = NoiseEstimate(gain=0.0, intercept=625.0, floor=1.0, clipping_limits=(0.0, inf))
    assert correct_by_prediction(line, plane, 1.0).unreliable_reason is None
    unclipped = NoiseEstimate(gain=0.0, intercept=625.0, floor=1.0, clipping_limits=NO_CLIPPING)
    assert correct_by_prediction(unclipped, plane, 1.0).unreliable_reason is not None
