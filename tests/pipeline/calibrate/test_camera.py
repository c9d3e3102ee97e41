"""Noise of a colour camera is detected, and only then is the image restored accordingly."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from skimage import data

import napari_dip as dip
from engine.noise.test_camera_noise import NOISE, draw_scene, take_camera_shot
from napari_dip.engine.noise import NoiseCaution, camera_noise
from napari_dip.engine.noise.camera_noise import (
    CameraNoise,
    TextureStatistics,
    compute_distant_correlation,
    flag_correlated_colours,
    measure_camera_noise,
)
from napari_dip.engine.noise.estimate import NoiseEstimate, estimate_noise
from napari_dip.errors import raise_if_refused
from napari_dip.pipeline.assess.artefact_detection import calibrate_for_weaker_noise
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.metrics import measure_residual
from napari_dip.pipeline.assess.quality_checks import (
    compute_correlation_limit,
    compute_edge_variance_limit,
)
from napari_dip.pipeline.calibrate.channel_noise import detect_camera_noise
from napari_dip.pipeline.calibrate.run_plan import calibrate_image
from napari_dip.pipeline.lazy_inputs import open_input
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe


def make_noisy(image: torch.Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = image[0].permute(1, 2, 0).numpy().round().clip(0, 255)
    return np.asarray(pixels, np.uint8)


def find_camera(image: torch.Tensor) -> Any:
    stack = image.round().clamp(0, 255).numpy().astype(np.float32)
    noise = [estimate_noise(torch.from_numpy(stack[:, c]), 1.0) for c in range(3)]
    return detect_camera_noise(stack, noise, 1.0)


def test_the_noise_of_a_camera_is_found() -> None:
    camera = find_camera(take_camera_shot())
    assert camera is not None
    assert camera.std[0] == pytest.approx(6.0, rel=0.35)


def test_noise_that_colours_share_with_neighbours_is_told_with_caution() -> None:
    lags = (0.5, 0.2, 0.0, 0.0, 0.0)
    white, shared = (
        NoiseEstimate(gain=0, intercept=9, floor=1, along_y=(0.0,) * 5, along_x=(0.0,) * 5),
        NoiseEstimate(gain=0, intercept=9, floor=1, along_y=lags, along_x=lags),
    )
    doubted = replace(shared, unreliable_reason="smoothed")
    estimates = flag_correlated_colours((white, shared, doubted), (64, 64))
    assert [estimate.caution for estimate in estimates] == [None, "correlated-colours", None]


def test_white_noise_is_not_taken_for_a_cameras() -> None:
    rng = torch.Generator().manual_seed(3)
    assert find_camera(draw_scene() + 12 * torch.randn(draw_scene().shape, generator=rng)) is None


@pytest.mark.parametrize(
    ("name", "row", "column", "noise"),
    [("immunohistochemistry", 200, 200, 5), ("chelsea", 40, 60, 3), ("gravel", 40, 60, 10)],
)
def test_texture_under_white_noise_is_not_taken_for_noise_of_a_camera(
    name: str, row: int, column: int, noise: int
) -> None:
    picture = np.asarray(getattr(data, name)(), np.float32)
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, 2)
    crop = torch.from_numpy(picture[row : row + 160, column : column + 160]).permute(2, 0, 1)[None]
    rng = torch.Generator().manual_seed(0)
    assert find_camera(crop + noise * torch.randn(crop.shape, generator=rng)) is None


def make_shot_of_pebbles(contrast: float) -> torch.Tensor:
    """Pebbles of this standard deviation with noise of a camera: (1, 3, Y, X)."""
    pebbles = zoom(data.gravel()[100:180, 60:140].astype(float), 2)
    pebbles = 130 + contrast * (pebbles - pebbles.mean()) / pebbles.std()
    shot = take_camera_shot(NOISE._replace(correlations=(0.5, 0.88, 0.88)))
    return shot - draw_scene() + torch.from_numpy(pebbles).float()


def test_texture_in_the_flattest_blocks_counts_less_as_noise() -> None:
    image = make_shot_of_pebbles(20)
    camera, measured = find_camera(image), measure_camera_noise(image)
    assert camera is not None and measured is not None
    assert 6 < camera.std[0] < 0.85 * measured[0].std[0]


def test_strong_texture_does_not_hide_that_the_rest_is_noise_of_a_camera() -> None:
    assert find_camera(make_shot_of_pebbles(30)) is not None


def test_blocks_of_which_little_is_noise_show_no_noise_of_a_camera() -> None:
    assert find_camera(make_shot_of_pebbles(50)) is None


def test_weak_noise_with_strong_colours_is_not_taken_for_compressed() -> None:
    weak = NOISE._replace(std=(2.6, 1.6, 1.5), correlations=(0.74, 0.88, 0.88))
    assert find_camera(take_camera_shot(weak)) is not None


@pytest.mark.parametrize(
    ("name", "side", "row", "column"),
    [
        ("immunohistochemistry", 256, 100, 150),
        ("immunohistochemistry", 128, 0, 0),
        ("astronaut", 128, 100, 150),
        ("astronaut", 128, 40, 180),
        ("chelsea", 128, 40, 180),
    ],
)
def test_a_crop_of_a_photograph_without_noise_has_no_camera_noise(
    name: str, side: int, row: int, column: int
) -> None:
    image = getattr(data, name)()[row : row + side, column : column + side]
    assert find_camera(torch.from_numpy(image).permute(2, 0, 1)[None].float()) is None


def interpolate_mosaic(light: torch.Tensor) -> torch.Tensor:
    """Take (1, 3, Y, X) with a Bayer sensor, 2,000 photons at 255, and interpolate linearly."""
    shot = torch.poisson(light * 2000 / 255, torch.Generator().manual_seed(1)) * 255 / 2000
    masks = torch.zeros_like(shot)
    masks[:, 0, ::2, ::2] = masks[:, 2, 1::2, 1::2] = 1
    masks[:, 1, ::2, 1::2] = masks[:, 1, 1::2, ::2] = 1
    square = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]])
    kernels = torch.stack([square, cross, square])[:, None] / 4
    return torch.nn.functional.conv2d(shot * masks, kernels, padding=1, groups=3)


@pytest.mark.parametrize(("row", "column"), [(0, 64), (48, 128), (96, 0)])
def test_stained_tissue_from_a_bayer_sensor_is_not_taken_for_noise(row: int, column: int) -> None:
    tissue = torch.from_numpy(data.immunohistochemistry()).permute(2, 0, 1)[None].double()
    crop = torch.nn.functional.avg_pool2d(tissue, 2)[:, :, row:, column:][:, :, :128, :128]
    assert find_camera(interpolate_mosaic(crop.float())) is None


def test_the_noise_of_a_small_crop_is_measured_in_its_flattest_blocks() -> None:
    camera = find_camera(take_camera_shot()[:, :, :128, :128])
    assert camera is not None
    assert camera.std[0] == pytest.approx(6.0, rel=0.2)


def test_a_repeating_texture_is_not_filtered_away_as_noise() -> None:
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    cloth = 128 + 18 * torch.sin(2 * torch.pi * x / 7) * torch.sin(2 * torch.pi * y / 5)
    rng = torch.Generator().manual_seed(0)
    assert (
        find_camera(cloth.expand(1, 3, -1, -1) + 0.5 * torch.randn(1, 3, 160, 160, generator=rng))
        is None
    )


def test_residuals_far_apart_tell_texture_from_noise() -> None:
    drawn = take_camera_shot()[0, 0] - draw_scene()[0, 0]
    x = torch.arange(160.0)
    assert compute_distant_correlation(drawn) < 0.04
    assert (
        compute_distant_correlation(torch.sin(2 * torch.pi * x / 12).expand(160, -1) + drawn / 6)
        > 0.1
    )


@pytest.mark.long
def test_a_camera_image_gains_and_the_result_says_so() -> None:
    taken = make_noisy(take_camera_shot())
    result = dip.denoise(taken, axes="YXS", preset="fast", max_iterations=60)
    truth = draw_scene()[0].permute(1, 2, 0).numpy()
    errors = [float(((image - truth) ** 2).mean()) for image in (taken, np.asarray(result.image))]
    assert errors[1] < 0.4 * errors[0]
    assert result.image.shape == taken.shape
    assert any("colour camera" in note for note in result.report["notes"])


@pytest.mark.parametrize(("luminance", "is_found"), [(6.8, True), (8.0, False)])
def test_structure_without_colours_is_not_taken_for_compressed_noise(
    monkeypatch: pytest.MonkeyPatch, luminance: float, is_found: bool
) -> None:
    noise = CameraNoise((luminance, 0.4, 0.4), (0.65, 0.88, 0.88))
    texture = TextureStatistics(1.1, 1.2, 0.65, 0.7, 0.3, 0.5)
    monkeypatch.setattr(camera_noise, "measure_camera_noise", lambda planes: (noise, texture))
    identified = camera_noise.identify_camera_noise(torch.zeros(1, 3, 16, 16), 1.0, 1.0)
    assert (identified is not None) == is_found


@pytest.mark.parametrize(
    ("std", "fine_std", "colour_decay", "is_found"),
    [
        ((9.0, 5.0, 4.0), 1.8, 0.5, True),
        ((9.0, 5.0, 4.0), 1.8, 0.35, False),
        ((7.0, 5.0, 4.0), 0.9, 0.35, True),  # the camera has filtered its noise
        ((9.0, 4.0, 8.0), 1.8, 0.5, False),  # magenta, as eosin is
        ((9.0, 7.0, 7.0), 1.8, 0.35, True),  # colours as strong as luminance
        ((9.0, 7.0, 7.0), 1.8, 0.15, False),
    ],
)
def test_noise_of_a_camera_spreads_over_colours(
    monkeypatch: pytest.MonkeyPatch,
    std: tuple[float, float, float],
    fine_std: float,
    colour_decay: float,
    is_found: bool,
) -> None:
    texture = TextureStatistics(1.1, 1.2, 0.6, fine_std, 0.3, colour_decay)
    measured = (CameraNoise(std, (0.6, 0.88, 0.88)), texture)
    monkeypatch.setattr(camera_noise, "measure_camera_noise", lambda planes: measured)
    identified = camera_noise.identify_camera_noise(torch.zeros(1, 3, 16, 16), 1.0, 1.0)
    assert (identified is not None) == is_found


def test_noise_of_a_camera_is_not_weakened_where_the_residual_is_uneven() -> None:
    taken = make_noisy(take_camera_shot())
    header, read = open_input("image", taken, "YXS")
    plan = raise_if_refused(preflight(make_recipe("denoise"), header, detect_machine()))
    image = calibrate_image(plan, {"image": read()})
    failed: Any = SimpleNamespace(residual=0.1 * (taken - 128.0), failure_score=1.2)
    assert calibrate_for_weaker_noise(image, failed) is None
    plain = replace(image, calibration=replace(image.calibration, camera_noise=None))
    assert calibrate_for_weaker_noise(plain, failed) is not None


def test_residuals_of_a_camera_may_be_more_uneven() -> None:
    white = NoiseEstimate(gain=0, intercept=9, floor=1, along_y=(0.0,) * 5, along_x=(0.0,) * 5)
    residual = np.random.default_rng(0).normal(0, 3, (1, 96, 96))
    usual, camera = (
        measure_residual(residual, np.zeros_like(residual), None, estimate)
        for estimate in (white, replace(white, caution=NoiseCaution.COLOUR_CAMERA))
    )
    assert compute_correlation_limit(camera) > 0.21 > compute_correlation_limit(usual)
    assert compute_edge_variance_limit(camera) > 1.66 > compute_edge_variance_limit(usual)


def test_holes_do_not_hide_the_noise_of_a_camera() -> None:
    taken = make_noisy(take_camera_shot())
    holes = np.random.default_rng(0).random(taken.shape[:2]) < 0.03
    holed = np.where(holes[..., None], 0, taken).astype(np.uint8)
    result = dip.inpaint(
        holed, mask=holes, axes="YXS", unmasked="denoise", preset="instant", max_iterations=10
    )
    truth = draw_scene()[0].permute(1, 2, 0).numpy()
    errors = [float(((image - truth) ** 2).mean()) for image in (taken, np.asarray(result.image))]
    assert errors[1] < 0.45 * errors[0]
    assert "filled smoothly" in result.report["prior"]["reason"]


@pytest.mark.long
def test_what_the_user_knows_of_the_noise_goes_first() -> None:
    taken = make_noisy(take_camera_shot())
    result = dip.denoise(taken, axes="YXS", preset="fast", max_iterations=5, read_noise=6, gain=0)
    assert not any("colour camera" in note for note in result.report["notes"])


def test_the_noise_is_that_of_luminance_and_colours_together() -> None:
    variances, _ = NOISE.compute_channel_noise()
    assert sum(variances) == pytest.approx(36 + 16 + 9)


@pytest.mark.long
def test_the_methods_text_tells_of_luminance_and_colours() -> None:
    taken = make_noisy(take_camera_shot())
    report = dip.denoise(taken, axes="YXS", preset="fast", max_iterations=5).report
    assert report["noise"]["camera"]["std"][0] == pytest.approx(6.0, rel=0.35)
    text = write_methods_section(report)
    assert "luminance and colours were filtered together" in text
    assert "Lebrun" in text
