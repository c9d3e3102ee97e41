"""Camera maps correct pixels and weight noisy ones; bad maps are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data

import napari_dip as dip
from napari_dip.engine.likelihood.fidelity import NoiseVariance
from napari_dip.errors import RefusedError
from napari_dip.pipeline.assess.methods_section import PAPERS, list_paper_keys
from napari_dip.pipeline.calibrate.channel_noise import measure_single_exposure
from napari_dip.tasks.base import NoiseSettings
from napari_dip.tasks.noise_models.camera_correction import (
    build_camera_correction,
    compute_pixel_weights,
)

SIDE = 64
QUICK = {"preset": "fast", "max_iterations": 4}


def make_camera(seed: int = 0) -> dict[str, np.ndarray]:
    """Offsets of 100 ± 3, gains of 2 ± 3 %, read noise of 1.5 with a pixel in fifty at 25."""
    rng = np.random.default_rng(seed)
    noise = rng.lognormal(np.log(1.5), 0.15, (SIDE, SIDE))
    noise[rng.random(noise.shape) < 0.02] = 25
    return {
        "offset_map": rng.normal(100, 3, noise.shape),
        "gain_map": rng.normal(2, 0.06, noise.shape),
        "noise_map": noise,
    }


CAMERA = make_camera()
HOT = CAMERA["noise_map"] == 25
#: Photons.
TRUTH = data.camera()[100 : 100 + SIDE, 150 : 150 + SIDE] / 10


def make_noisy(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    light = CAMERA["gain_map"] * rng.poisson(TRUTH)
    read = rng.normal(0, CAMERA["noise_map"])
    return np.rint(CAMERA["offset_map"] + light + read).clip(0).astype(np.uint16)


def measure_error(image: np.ndarray, where: np.ndarray | None = None) -> float:
    wanted = CAMERA["gain_map"].mean() * TRUTH + CAMERA["offset_map"].mean()
    square = (image - wanted) ** 2
    return float((square if where is None else square[where]).mean())


def read_refusal_code(**maps: np.ndarray) -> str:
    settings = {**QUICK, **maps}
    with pytest.raises(RefusedError) as caught:
        dip.denoise(make_noisy(), **settings)
    return caught.value.reason.code


def test_correction_keeps_units_and_offset_and_can_be_undone() -> None:
    camera = build_camera_correction(CAMERA, (SIDE, SIDE))
    light = np.full((SIDE, SIDE), 50.0)
    read = (CAMERA["offset_map"] + CAMERA["gain_map"] * light).astype(np.float32)
    expected = CAMERA["offset_map"].mean() + CAMERA["gain_map"].mean() * 50
    np.testing.assert_allclose(camera.correct(read), expected, rtol=1e-5)
    np.testing.assert_allclose(camera.undo(camera.correct(read)), read, rtol=1e-5)
    assert build_camera_correction({}, (SIDE, SIDE)) is None


def test_what_is_measured_of_the_noise_is_that_of_usual_pixels() -> None:
    rng = np.random.default_rng(0)
    light = rng.normal(500, 4, (1, SIDE, SIDE))
    dark = rng.normal(0, 1, light.shape)
    hot = (light + CAMERA["noise_map"] * dark).astype(np.float32)
    camera = build_camera_correction({"noise_map": CAMERA["noise_map"]}, (SIDE, SIDE))
    quiet, plain, usual = (
        measure_single_exposure(image, None, 0, NoiseSettings(model="gaussian")).intercept
        for image in ((light + 1.5 * dark).astype(np.float32), hot, camera.suppress_hot_pixels(hot))
    )
    assert usual == pytest.approx(quiet, rel=0.05)
    assert plain > quiet and plain - quiet > 3 * abs(usual - quiet)


def test_a_pixel_counts_by_the_usual_variance_as_a_share_of_its_own() -> None:
    line = NoiseVariance(
        gain=torch.zeros(1, 1, 1, 1),
        intercept=torch.full((1, 1, 1, 1), 4.0),
        floor=torch.ones(1, 1, 1, 1),
    )
    excess = torch.zeros(1, 1, 8, 8)
    excess[..., 3, 3] = 12
    trust = compute_pixel_weights(excess, line, torch.zeros(1, 1, 8, 8))
    assert trust.shape == (1, 1, 8, 8)
    assert trust[..., 3, 3] == 0.25 and trust[..., 0, 0] == 1


@pytest.mark.long
@pytest.mark.parametrize("prior", ["r2r", "blind-spot"])
def test_hot_pixels_and_those_around_them_are_restored_better_with_a_noise_map(prior: str) -> None:
    settings = {"preset": "fast", "prior": prior, "max_iterations": 80}
    plain = dip.denoise(make_noisy(), **settings)
    mapped = dip.denoise(make_noisy(), noise_map=CAMERA["noise_map"], **settings)
    around = sum(np.roll(HOT, step, axis) for step in (1, -1) for axis in (0, 1)) > 0
    assert measure_error(mapped.image, HOT) < 0.7 * measure_error(plain.image, HOT)
    assert measure_error(mapped.image, around & ~HOT) < measure_error(plain.image, around & ~HOT)
    assert mapped.report["verdict"]["figures"]["residual"]["noise_ratio"] < 1.3
    assert any("noise map" in note for note in mapped.report["notes"])


@pytest.mark.long
def test_all_three_maps_give_a_better_image_than_none() -> None:
    settings = {"preset": "fast", "max_iterations": 80}
    mapped = dip.denoise(make_noisy(), **CAMERA, **settings)
    assert measure_error(mapped.image) < 0.9 * measure_error(
        dip.denoise(make_noisy(), **settings).image
    )
    assert mapped.report["fit"]["inputs"] == list(CAMERA)
    assert any("nmeth.2488" in PAPERS[key] for key in list_paper_keys(mapped.report))


@pytest.mark.long
@pytest.mark.parametrize(("axes", "planes"), [("ZYX", 4), ("TYX", 3), ("CYX", 2)])
def test_maps_of_one_plane_hold_for_stacks_movies_and_channels(axes: str, planes: int) -> None:
    stack = np.stack([make_noisy(seed) for seed in range(planes)])
    result = dip.denoise(stack, axes=axes, dtype="same", **CAMERA, **QUICK)
    assert result.image.shape == stack.shape and result.image.dtype == stack.dtype
    assert result.image.mean() == pytest.approx(stack.mean(), rel=0.01)


@pytest.mark.parametrize(
    ("maps", "code"),
    [
        ({"noise_map": CAMERA["noise_map"][:-1]}, "map-size"),
        ({"offset_map": np.stack([CAMERA["offset_map"]] * 2)}, "map-size"),
        ({"gain_map": CAMERA["gain_map"]}, "map-gain-alone"),
        ({**CAMERA, "gain_map": CAMERA["gain_map"] - 2}, "map-not-positive"),
        ({"noise_map": 0 * CAMERA["noise_map"]}, "map-not-positive"),
        ({"noise_map": np.where(HOT, np.nan, 1)}, "input-not-finite"),
        (
            {"noise_map": CAMERA["noise_map"], "repeated_exposure": make_noisy(2)},
            "map-repeated-exposure",
        ),
        ({"offset_map": CAMERA["offset_map"], "noise": "speckle"}, "map-noise"),
    ],
)
def test_invalid_camera_maps_are_refused_with_a_message(
    maps: dict[str, np.ndarray], code: str
) -> None:
    assert read_refusal_code(**maps) == code
