"""Planes that were filled in or smoothed do not decide the noise of a stack; dark planes do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.data import cell

import napari_dip as dip
from napari_dip.engine.noise.consistency_checks import find_smooth_planes

SCENE = cell()[200:328, 200:328].astype(np.float64)


def record(levels: list[float], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.poisson(SCENE * level) for level in levels])
    return (3 * counts + rng.normal(0, 4, counts.shape) + 100).round().astype(np.float32)


MOVIE = record([0.2] * 6)


def find(planes: np.ndarray) -> list[bool]:
    mask: list[bool] = find_smooth_planes(torch.from_numpy(planes)).tolist()
    return mask


def smooth(movie: np.ndarray, *frames: int) -> np.ndarray:
    smoothed = movie.copy()
    for frame in frames:
        smoothed[frame] = gaussian_filter(movie[frame], 1)
    return smoothed


@pytest.mark.parametrize("frames", [(0,), (3,), (5,), (1, 4)])
def test_smoothed_frames_are_found(frames: tuple[int, ...]) -> None:
    assert find(smooth(MOVIE, *frames)) == [frame in frames for frame in range(6)]


def test_frames_that_bleach_and_dark_deep_planes_are_not_smooth() -> None:
    assert not any(find(record([0.4, 0.2, 0.1, 0.05, 0.02, 0.005])))


def test_a_mean_of_two_frames_is_not_smooth() -> None:
    movie = MOVIE.copy()
    movie[2] = (MOVIE[1] + MOVIE[3]) / 2
    assert not any(find(movie))


def test_smoothed_planes_are_those_that_are_in_the_minority() -> None:
    assert not any(find(smooth(MOVIE, 0, 1, 2)))
    assert not any(find(smooth(MOVIE[:2], 0)))
    assert not any(find(MOVIE[:1]))


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_the_noise_of_a_stack_is_not_that_of_its_smooth_planes(axes: str) -> None:
    without = dip.measure_noise(np.delete(MOVIE, [1, 4], 0), axes=axes).channels[0]
    smoothed = dip.measure_noise(smooth(MOVIE, 1, 4), axes=axes).channels[0]
    assert smoothed.gain == pytest.approx(without.gain, rel=1e-6)


def test_regions_of_one_image_are_not_compared() -> None:
    from napari_dip.pipeline.calibrate.channel_noise import measure_single_exposure
    from napari_dip.tasks.base import NoiseSettings

    regions = smooth(MOVIE, 2)
    whole = measure_single_exposure(regions, None, 0.0, NoiseSettings())
    series = measure_single_exposure(regions, None, 0.0, NoiseSettings(), is_series=True)
    assert whole.gain < series.gain / 2
