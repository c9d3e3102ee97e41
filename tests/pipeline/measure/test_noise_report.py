"""The noise of an image can be measured on its own, in Python and for a plot."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy.signal import convolve2d
from skimage import data

import napari_dip as dip
from napari_dip.errors.templates import NOTES
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA

GAIN, READ_NOISE, OFFSET = 2.0, 6.0, 100.0


@pytest.fixture(scope="module")
def camera_shot() -> np.ndarray:
    """A real scene in a camera of known gain, read noise and offset."""
    rng = np.random.default_rng(0)
    scene = data.cell().astype(np.float64)[:384, :384] * 10
    counts = GAIN * rng.poisson(scene / GAIN) + rng.normal(0, READ_NOISE, scene.shape) + OFFSET
    return np.rint(counts).astype(np.uint16)


@pytest.fixture(scope="module")
def noise_report(camera_shot) -> dip.NoiseReport:
    return dip.measure_noise(camera_shot)


def test_clipped_pixels_all_over_the_image_are_not_called_almost_all_of_it():
    sample = tifffile.imread(MITOCHONDRIA)[0]
    assert 0.3 < (sample == sample.min()).mean() < 0.4
    sentences = " ".join(dip.measure_noise(sample).sentences)
    assert "nearly all parts of it hold pixels that are clipped" in sentences
    assert "almost all of" not in sentences + NOTES["noise-unreliable-clipped"]


def test_the_gain_of_a_camera_is_found(noise_report):
    (channel,) = noise_report.channels
    assert channel.gain == pytest.approx(GAIN, rel=0.2)
    assert noise_report.blind_spot_size == (1, 1)
    assert "do not share noise" in noise_report.correlation_sentence
    assert "single pixels are hidden" in noise_report.correlation_sentence


@pytest.mark.long
def test_its_figures_are_those_of_a_run(camera_shot, noise_report):
    result = dip.denoise(camera_shot, preset="fast", max_iterations=2)
    noise = result.report["noise"]
    (channel,) = noise_report.channels
    assert noise["gain"] == [pytest.approx(channel.gain, rel=1e-4)]
    assert noise["intercept"] == [pytest.approx(channel.intercept, rel=1e-4)]
    assert noise["blind_spot_size"] == list(noise_report.blind_spot_size)


def correlated(kernel: np.ndarray) -> np.ndarray:
    """A scene in noise of 15 that was filtered with a kernel."""
    rng = np.random.default_rng(3)
    noise = convolve2d(rng.normal(size=(140, 140)), kernel, mode="same")[6:134, 6:134]
    scene = data.coins()[60:188, 60:188]
    return (scene + 15 * noise / noise.std()).astype(np.float32)


CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("kernel", [CROSS, np.ones((1, 4)), np.eye(3)], ids=["cross", "row", "eye"])
def test_the_correlation_is_measured_at_all_lags_of_the_plane(kernel):
    (channel,) = dip.measure_noise(correlated(kernel)).channels
    side = len(channel.correlation) // 2
    overlaps = convolve2d(kernel, kernel[::-1, ::-1]) / (kernel**2).sum()
    truth = np.zeros_like(channel.correlation)
    rows, columns = (slice(side - n // 2, side + n // 2 + 1) for n in overlaps.shape)
    truth[rows, columns] = overlaps
    np.testing.assert_allclose(channel.correlation, truth, atol=0.15)
    np.testing.assert_allclose(channel.correlation, channel.correlation[::-1, ::-1], atol=1e-9)
    assert channel.correlation[side, side] == pytest.approx(1)


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (CROSS, "00100/01110/11111/01110/00100"),
        (np.ones((1, 3)), "11111"),
        (np.ones((1, 1)), "1"),
    ],
    ids=["cross", "row", "white"],
)
def test_the_shape_that_shares_noise_is_suggested(kernel, shape):
    report = dip.measure_noise(correlated(kernel))
    assert report.to_dict()["blind_spot_shape"] == shape
    assert (f"Only the pixels {shape}" in report.correlation_sentence) == ("0" in shape)
    assert make_recipe("denoise", blind_spot_shape=shape).task.blind_spot_shape == shape


def test_the_points_lie_about_the_line(noise_report):
    (channel,) = noise_report.channels
    means, variances = np.array(channel.points).T
    assert len(means) > 50
    line = channel.gain * means + channel.intercept
    assert np.median(variances / line) == pytest.approx(1, abs=0.2)


def test_dark_pixels_separate_offset_and_read_noise(camera_shot):
    dark = camera_shot.copy()
    dark[:128] = np.rint(np.random.default_rng(1).normal(OFFSET, READ_NOISE, (128, 384)))
    (channel,) = dip.measure_noise(dark).channels
    assert channel.offset == pytest.approx(OFFSET, abs=2)
    assert channel.read_noise == pytest.approx(READ_NOISE, rel=0.2)


@pytest.mark.long
def test_measuring_and_a_run_give_the_same_offset_and_read_noise(camera_shot, noise_report):
    noise = dip.denoise(camera_shot, preset="fast", max_iterations=2).report["noise"]
    (channel,) = noise_report.channels
    assert noise["offset"] == [channel.offset]
    assert noise["read_noise"] == [channel.read_noise]


def test_the_noise_in_the_dark_is_that_where_it_is_darkest(camera_shot, noise_report):
    (channel,) = noise_report.channels
    dark = np.percentile(camera_shot, 1)
    assert channel.darkest_std**2 == pytest.approx(
        channel.gain * dark + channel.intercept, rel=0.05
    )


def test_it_is_plain_json_with_sentences(noise_report):
    record = noise_report.to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["sentences"] and all(channel.endswith(".") for channel in record["sentences"])


def test_an_unreliable_measurement_is_reported():
    texture = np.random.default_rng(0).normal(size=(48, 48))
    texture[::2] *= 40
    flat = dip.measure_noise((500 + texture[:, :17]).astype(np.float32)[:17])
    assert all(channel.offset is None for channel in flat.channels)
    assert "cannot tell" in " ".join(flat.sentences)


@pytest.mark.long
def test_channels_are_measured_one_by_one_and_a_constant_one_left_out(camera_shot):
    pair = np.stack([camera_shot, 3 * camera_shot, np.full_like(camera_shot, 7)])
    estimate = dip.measure_noise(pair, axes="CYX")
    assert len(estimate.channels) == 2
    assert estimate.channels[1].gain == pytest.approx(3 * estimate.channels[0].gain, rel=0.1)
    assert estimate.sentences[0].startswith("Channel 1: ")


def test_saturated_pixels_are_reported(camera_shot):
    clipped = np.minimum(camera_shot, np.percentile(camera_shot, 95)).astype(np.uint16)
    assert "saturated" in " ".join(dip.measure_noise(clipped).sentences)


@pytest.mark.long
def test_holes_do_not_count(camera_shot, noise_report):
    holed = camera_shot.astype(np.float32)
    holed[100:140, 50:300] = np.nan
    (channel,) = dip.measure_noise(holed).channels
    assert channel.gain == pytest.approx(noise_report.channels[0].gain, rel=0.2)


def test_a_file_is_measured_as_its_pixels_are(tmp_path, camera_shot, noise_report):
    tifffile.imwrite(tmp_path / "shot.tif", camera_shot)
    assert dip.measure_noise(tmp_path / "shot.tif").to_dict() == noise_report.to_dict()


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (np.ones(5), "image-line"),
        (np.full((40, 40), 3.0), "pixels-constant"),
        (np.ones((40, 40), complex), "image-complex"),
        (np.ones((4, 40)), "image-small"),
    ],
)
def test_what_is_no_image_is_refused(image, code):
    with pytest.raises(dip.RefusedError) as caught:
        dip.measure_noise(image)
    assert caught.value.reason.code == code


def make_frames(light: float, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (count, 64, 64)
    return GAIN * rng.poisson(light, shape) + rng.normal(0, READ_NOISE, shape) + OFFSET


def test_dark_and_flat_frames_replace_the_measurement_of_the_image(camera_shot):
    dark, flat = make_frames(0, 4), make_frames(400, 4, seed=1)
    (channel,) = dip.measure_noise(camera_shot, dark=dark, flat=flat).channels
    assert channel.gain == pytest.approx(GAIN, rel=0.05)
    assert channel.offset == pytest.approx(OFFSET, rel=0.01)
    assert channel.read_noise == pytest.approx(READ_NOISE, rel=0.05)
    assert channel.intercept == pytest.approx(READ_NOISE**2 - GAIN * OFFSET, rel=0.05)
    assert channel.unreliable_reason == ""


def test_dark_frames_alone_give_offset_and_read_noise(camera_shot, noise_report):
    (channel,) = dip.measure_noise(camera_shot, dark=make_frames(0, 1)[0]).channels
    assert channel.offset == pytest.approx(OFFSET, rel=0.01)
    assert channel.read_noise == pytest.approx(READ_NOISE, rel=0.1)
    assert channel.gain == noise_report.channels[0].gain


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ({"flat": np.ones((32, 32)) * np.arange(32)}, "but 2 at the same light level are needed"),
        ({"dark": np.full((2, 32, 32), 7)}, "one value only"),
        ({"flat": np.random.default_rng(0).poisson(400, (4, 64, 64))}, "have one brightness"),
    ],
)
def test_frames_without_information_are_refused(camera_shot, frames, message):
    with pytest.raises(dip.RefusedError, match=message):
        dip.measure_noise(camera_shot, **frames)


def test_figures_have_intervals_that_hold_the_truth(noise_report):
    (channel,) = noise_report.channels
    assert 0 < channel.gain_error < 0.1
    assert channel.gain == pytest.approx(GAIN, abs=4 * channel.gain_error)
    assert f"± {2 * channel.gain_error:.2g}" in noise_report.sentences[0]
    assert noise_report.to_dict()["channels"][0]["gain_error"] == pytest.approx(
        channel.gain_error, 1e-3
    )


def test_background_light_is_not_said_to_be_the_offset(camera_shot):
    lit = camera_shot.copy()
    light = np.random.default_rng(1).poisson(60, (128, 384))
    lit[:128] = np.rint(OFFSET + GAIN * light + np.random.default_rng(2).normal(0, 6, (128, 384)))
    estimate = dip.measure_noise(lit)
    (channel,) = estimate.channels
    assert channel.offset > OFFSET + 50  # as far as an image can tell
    assert "both are less if some did" in estimate.sentences[1]


def test_offset_and_read_noise_of_dark_frames_are_certain(camera_shot):
    dark = np.rint(np.random.default_rng(1).normal(OFFSET, READ_NOISE, (4, 64, 64)))
    estimate = dip.measure_noise(camera_shot, dark=dark.astype(np.uint16))
    assert "if some did" not in estimate.sentences[1]
    assert "offset is 99.9" in estimate.sentences[1]


def test_the_command_calls_an_unreliable_gain_a_guess(tmp_path, capsys):
    from napari_dip.cli.commands import run_noise_command

    ramp = 20 + 800 * np.linspace(0, 1, 192)[None] * np.ones((192, 1))
    speckle = ramp * np.random.default_rng(0).gamma(20, 1 / 20, ramp.shape)
    tifffile.imwrite(tmp_path / "speckle.tif", speckle.astype(np.float32))
    assert run_noise_command(str(tmp_path / "speckle.tif")) == 0
    assert "These are guesses" in capsys.readouterr().out


def test_a_correlation_that_widens_no_blind_spot_is_explained(noise_report):
    (channel,) = noise_report.channels
    slight = replace(channel, along_y=(0.05, 0.0), along_x=(0.12, 0.0))
    sentence = replace(noise_report, channels=(slight,)).correlation_sentence
    assert "do not share noise (the 12% measured can be structure)" in sentence
    assert "single pixels are hidden" in sentence
