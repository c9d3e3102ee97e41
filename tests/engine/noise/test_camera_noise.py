"""Noise of colour cameras, spread over pixels and colours, is measured and filtered."""

from __future__ import annotations

import pytest
import torch

from napari_dip.engine.noise.camera_noise import (
    CameraNoise,
    draw_noise_sample,
    make_opponent_matrix,
    measure_camera_noise,
)
from napari_dip.engine.refinement import filter_camera_noise

NOISE = CameraNoise((6.0, 4.0, 3.0), (0.65, 0.88, 0.88))
SIDE = 160


def draw_scene(side: int = SIDE) -> torch.Tensor:
    """Coloured discs with sharp borders on a slope of light: (1, 3, side, side), 0 to 255."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = 60 + 0.3 * x.expand(3, -1, -1).float()
    rng = torch.Generator().manual_seed(1)
    for _ in range(12):
        row, column, radius, *colour = torch.rand(6, generator=rng).tolist()
        inside = (y - row * side) ** 2 + (x - column * side) ** 2 < (6 + 14 * radius) ** 2
        image = torch.where(inside, 60 + 140 * torch.tensor(colour)[:, None, None], image)
    return image[None]


def take_camera_shot(camera_noise: CameraNoise = NOISE, seed: int = 7) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    drawn = draw_noise_sample(camera_noise, (SIDE, SIDE), rng)
    return draw_scene() + torch.einsum("cd,dyx->cyx", make_opponent_matrix().T, drawn)


def measure_error(image: torch.Tensor) -> float:
    return float((image - draw_scene()).square().mean())


def test_the_noise_of_a_camera_is_measured_in_luminance_and_colour() -> None:
    measured = measure_camera_noise(take_camera_shot())
    assert measured is not None
    noise, signs = measured
    assert noise.std[0] == pytest.approx(6.0, rel=0.35)
    assert noise.std[1] == pytest.approx(4.0, rel=0.45)
    assert noise.std[2] == pytest.approx(3.0, rel=0.45)
    assert signs.correlation == pytest.approx(0.6, abs=0.1)
    assert signs.block_ratio < 1.3


def test_white_noise_shows_no_correlation_of_neighbours() -> None:
    rng = torch.Generator().manual_seed(3)
    measured = measure_camera_noise(draw_scene() + 6 * torch.randn(1, 3, SIDE, SIDE, generator=rng))
    assert measured is not None
    assert abs(measured[1].correlation) < 0.1


def test_an_image_without_noise_has_too_few_blocks_to_measure() -> None:
    assert measure_camera_noise(draw_scene()) is None


def test_noise_is_expressed_in_other_units() -> None:
    halves = NOISE.convert_units(2.0)
    assert halves.std == pytest.approx((3.0, 2.0, 1.5))
    assert halves.compute_covariance()[0].max() == pytest.approx(9.0)


def test_the_variance_of_channels_sums_to_that_of_components() -> None:
    variances, along = NOISE.compute_channel_noise()
    assert sum(variances) == pytest.approx(sum(std**2 for std in NOISE.std))
    assert 0.65 < along[0] < 0.88
    assert sorted(along, reverse=True) == list(along)


def test_a_drawn_sample_has_the_requested_noise() -> None:
    drawn = draw_noise_sample(NOISE, (256, 256), torch.Generator().manual_seed(0))
    assert drawn.std((1, 2)).tolist() == pytest.approx(NOISE.std, rel=0.02)
    first = (drawn[:, :, 1:] * drawn[:, :, :-1]).mean((1, 2)) / drawn.square().mean((1, 2))
    assert first.tolist() == pytest.approx(NOISE.correlations, abs=0.04)


def test_filtering_takes_blotches_and_keeps_borders_and_the_mean() -> None:
    shot = take_camera_shot()
    filtered = filter_camera_noise(shot, NOISE)
    assert measure_error(filtered.mean) < 0.3 * measure_error(shot)
    means = filtered.mean.mean((2, 3)) - shot.mean((2, 3))
    assert float(means.abs().max()) < 0.2
    assert filtered.log_variance is not None
    variance = float(filtered.log_variance.exp().mean())
    assert 0.3 * measure_error(filtered.mean) < variance < 4 * measure_error(filtered.mean)


@pytest.mark.long
def test_a_better_image_as_guide_makes_the_result_better() -> None:
    shot = take_camera_shot()
    alone, guided = (
        filter_camera_noise(shot, NOISE, draw_scene(), fraction).mean for fraction in (0.0, 0.5)
    )
    assert measure_error(guided) < 0.9 * measure_error(alone)


def test_an_image_of_any_size_is_filtered_whole() -> None:
    shot = take_camera_shot()[:, :, :45, :70]
    filtered = filter_camera_noise(shot, NOISE).mean
    assert filtered.shape == shot.shape
    assert float((filtered - draw_scene()[:, :, :45, :70]).square().mean()) < 0.5 * float(
        (shot - draw_scene()[:, :, :45, :70]).square().mean()
    )
