"""JPEG compression is detected in the pixels and undone, or refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.transform import resize

import napari_dip as dip
from napari_dip.errors import RefusedError
from napari_dip.pipeline.assess.card import make_card
from napari_dip.tasks.noise_models.jpeg_traces import (
    find_jpeg_parameters,
    measure_compressed_noise,
)

SIDE = 96
QUICK = {"preset": "fast", "noise": "jpeg", "max_iterations": 3}


def load_grey() -> np.ndarray:
    return data.camera()[96 : 96 + SIDE, 192 : 192 + SIDE]


def load_colours() -> np.ndarray:
    return data.astronaut()[40 : 40 + SIDE, 160 : 160 + SIDE]


def save_as_jpeg(image: np.ndarray, quality: int, **options: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, **options)
    return np.asarray(Image.open(file))


def split_channels(image: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.atleast_3d(image), -1, 0)


def measure_error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(((image.astype(np.float64) - truth) ** 2).mean())


@pytest.mark.parametrize("quality", [10, 40, 90])
@pytest.mark.parametrize("cut", [(0, 0), (3, 5)])
def test_grid_and_steps_are_read_from_the_pixels(quality: int, cut: tuple[int, int]) -> None:
    traces = find_jpeg_parameters(
        split_channels(save_as_jpeg(load_grey(), quality)[cut[0] :, cut[1] :])
    )
    assert traces is not None
    assert traces.block_offset == tuple(-offset % 8 for offset in cut)
    assert traces.quality == quality
    file = io.BytesIO()
    Image.fromarray(load_grey()).save(file, "JPEG", quality=quality)
    table = np.array(Image.open(file).quantization[0]).reshape(8, 8)
    np.testing.assert_array_equal(traces.quantisation_tables[0], table)


@pytest.mark.parametrize(("subsampling", "halved"), [(0, False), (2, True)])
def test_subsampled_colour_is_distinguished_from_full_colour(
    subsampling: int, halved: bool
) -> None:
    traces = find_jpeg_parameters(
        split_channels(save_as_jpeg(load_colours(), 90, subsampling=subsampling))
    )
    assert traces is not None
    assert traces.has_half_chroma == (halved, halved)
    assert len(traces.quantisation_tables) == 3


def load_uncompressed() -> list[np.ndarray]:
    smaller = resize(save_as_jpeg(load_grey(), 20), (72, 72), preserve_range=True)
    noise = np.random.default_rng(0).poisson(40, (SIDE, SIDE))
    return [
        load_grey(),
        load_colours(),
        data.moon()[:SIDE, :SIDE],
        data.brick()[:SIDE, :SIDE],
        smaller,
        noise,
    ]


@pytest.mark.parametrize("image", load_uncompressed(), ids=str)
def test_no_traces_are_found_where_there_are_none(image: np.ndarray) -> None:
    assert find_jpeg_parameters(split_channels(image).astype(np.float32)) is None


@pytest.mark.long
@pytest.mark.parametrize(
    ("truth", "axes"), [(load_grey(), "YX"), (load_colours(), "YXS")], ids=["grey", "RGB"]
)
def test_the_image_comes_nearer_to_what_was_compressed(truth: np.ndarray, axes: str) -> None:
    compressed = save_as_jpeg(truth, 10)
    settings = {**QUICK, "max_iterations": 25}
    result = dip.denoise(compressed, axes=axes, **settings)
    assert measure_error(result.image, truth) < 0.9 * measure_error(compressed, truth)
    assert result.report["noise"]["model"] == "jpeg"
    assert result.report["prior"]["key"] == "recompression"
    assert any("quality 10" in note for note in result.report["notes"])
    assert float(result.uncertainty.min()) > 0


@pytest.mark.parametrize("scale", [1 / 255, 257.0])
def test_rescaled_images_are_known_too(scale: float) -> None:
    image = load_grey()[:64, :64]
    compressed = save_as_jpeg(image, 10) * scale
    result = dip.denoise(compressed.astype(np.float32), **QUICK)
    assert measure_error(result.image / scale, image) < measure_error(compressed / scale, image)


@pytest.mark.parametrize("prior", ["random-input", "blind-spot"])
def test_other_priors_keep_to_the_file_as_well(prior: str) -> None:
    compressed = save_as_jpeg(load_grey(), 10)
    result = dip.denoise(compressed, prior=prior, **QUICK)
    assert result.report["prior"]["key"] == prior
    again = save_as_jpeg(np.clip(np.rint(result.image), 0, 255).astype(np.uint8), 10)
    assert measure_error(again, compressed) < 0.1 * float(
        compressed.var()
    )  # though three iterations give hardly any


def test_frames_are_restored_one_by_one() -> None:
    movie = np.stack([save_as_jpeg(load_grey(), 20)] * 2)
    assert dip.denoise(movie, axes="TYX", **QUICK).image.shape == movie.shape


@pytest.mark.parametrize(
    ("image", "options", "code"),
    [
        (load_grey(), {}, "jpeg-none"),
        (
            save_as_jpeg(load_grey(), 20),
            {"repeated_exposure": load_grey()},
            "jpeg-repeated-exposure",
        ),
        (np.stack([save_as_jpeg(load_grey(), 20)] * 2), {"axes": "CYX"}, "jpeg-channels"),
        (
            np.stack([save_as_jpeg(load_grey(), 20)] * 4),
            {"axes": "ZYX", "stacks": "volume"},
            "jpeg-volume",
        ),
    ],
)
def test_compression_that_cannot_be_undone_is_refused_with_a_message(
    image: np.ndarray, options: dict[str, object], code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        dip.denoise(image, **QUICK, **options)
    assert caught.value.reason.code == code


#: Crops without noise, in grey and in colour, whose parts are flat or textured.
CLEAN_CROPS = {
    "camera": data.camera()[128:384, 128:384],
    "cell": data.cell()[200:392, 150:342],
    "astronaut": data.astronaut()[:256, 128:384],
    "coffee": data.coffee()[60:252, 100:292],
}
#: Share of the standard deviation of red, green and blue that luma has.
LUMA_NOISE = (0.299**2 + 0.587**2 + 0.114**2) ** 0.5


@pytest.mark.parametrize(("load", "axes"), [(load_grey, "YX"), (load_colours, "YXS")])
def test_where_compression_hides_the_noise_automatic_undoes_it(load: Any, axes: str) -> None:
    image, settings = save_as_jpeg(load(), 40), {"preset": "fast", "max_iterations": 3}
    result = dip.denoise(image, axes=axes, **settings)
    chosen = dip.denoise(image, axes=axes, noise="jpeg", **settings)
    np.testing.assert_array_equal(result.image, chosen.image)
    report = result.report
    assert (report["noise"]["model"], report["prior"]["key"]) == ("jpeg", "recompression")
    assert any("about quality 40 was found" in note for note in report["notes"])
    assert any(report["noise"]["unreliable_reason"])  # which a card need not tell any more
    card = make_card(report)
    assert "noise that JPEG compression hides may be left" in card.headline
    codes = {note.code for note in (*card.all_warnings, *card.details)}
    assert not any(code.startswith(("noise-unreliable", "impulses")) for code in codes)
    np.testing.assert_array_equal(dip.restore(image, result.recipe, axes=axes).image, result.image)


@pytest.mark.parametrize(
    ("quality", "settings", "is_told"),
    [
        (40, {"prior": "blind-spot"}, True),
        (40, {"read_noise": 5.0}, False),
        (40, {"noise": "gaussian"}, False),
        (97, {}, False),
    ],
)
def test_compression_is_only_a_hint_where_the_user_has_decided(
    quality: int, settings: dict[str, Any], is_told: bool
) -> None:
    image = save_as_jpeg(load_grey(), quality)
    result = dip.denoise(image, preset="fast", max_iterations=1, **settings)
    assert any(result.report["noise"]["unreliable_reason"])
    assert result.report["noise"]["model"] != "jpeg"
    card = make_card(result.report)
    hints = [note for note in card.warnings if note.code == "jpeg-likely"]
    assert bool(hints) == is_told
    assert all(f"quality {quality}" in str(note) for note in hints)
    notes = {note.code for note in (*card.all_warnings, *card.details)}
    assert not (is_told and "impulses-likely" in notes)


def test_frames_that_were_compressed_get_a_hint() -> None:
    movie = np.stack([save_as_jpeg(load_grey(), 40)] * 2)
    result = dip.denoise(movie, preset="fast", max_iterations=1, axes="TYX")
    assert "jpeg-likely" in {note["code"] for note in result.report["note_codes"]}


def add_noise(image: np.ndarray, std: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, std, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("std", "quality"), [(5, 85), (10, 75), (25, 75), (25, 95)])
@pytest.mark.parametrize("name", CLEAN_CROPS)
def test_noise_is_measured_as_it_was_before_compression(name, std, quality) -> None:
    image = CLEAN_CROPS[name]
    noise = measure_compressed_noise(split_channels(save_as_jpeg(add_noise(image, std), quality)))
    assert noise is not None
    wanted = std * (LUMA_NOISE if image.ndim == 3 else 1)
    assert noise.variance**0.5 == pytest.approx(wanted, rel=0.12)


def test_photon_noise_before_compression_is_measured_at_each_brightness() -> None:
    brightness = np.linspace(30, 200, 256)[None].repeat(256, 0)
    counts = np.random.default_rng(0).poisson(brightness / 2)
    noise = measure_compressed_noise(split_channels(save_as_jpeg((2 * counts).astype("u1"), 80)))
    assert noise is not None
    assert noise.gain == pytest.approx(2, rel=0.1)
    assert noise.intercept == pytest.approx(0, abs=10)


@pytest.mark.sampled(7)
@pytest.mark.parametrize("quality", [75, 90])
@pytest.mark.parametrize("name", ["brick", "grass", "gravel", *CLEAN_CROPS])
def test_compressed_images_without_noise_have_none(name, quality) -> None:
    image = CLEAN_CROPS[name] if name in CLEAN_CROPS else getattr(data, name)()[:192, :192]
    assert measure_compressed_noise(split_channels(save_as_jpeg(image, quality))) is None


@pytest.mark.parametrize("subsampling", [0, 2])
def test_noise_that_compression_leaves_in_the_colours_is_told(subsampling) -> None:
    flat = np.full((192, 192, 3), 120)
    image = save_as_jpeg(add_noise(flat, 10), 85, subsampling=subsampling)
    noise = measure_compressed_noise(split_channels(image))
    assert noise is not None
    difference = (image[..., 0].astype(float) - image[..., 2]) / 2**0.5
    assert noise.colour_std == pytest.approx(difference.std(), rel=0.3)
