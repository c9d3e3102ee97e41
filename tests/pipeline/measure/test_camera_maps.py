"""Camera maps from dark and flat frames are right within their errors, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli.app import main
from napari_dip.errors import RefusedError
from napari_dip.pipeline.measure.camera_maps import CAMERA_MAP_FILES

if TYPE_CHECKING:
    from pathlib import Path

SIDE, COUNT, LIGHTS = 48, 100, (100, 600, 2500)


@dataclass(frozen=True, eq=False)
class SimulatedCamera:
    """A made camera whose pixels differ in gain by 8 %."""

    offset: np.ndarray
    gain: np.ndarray
    noise: np.ndarray

    def frames(self, light: float, count: int = COUNT, flicker: float = 0.0) -> np.ndarray:
        rng = np.random.default_rng(int(light))
        lamp = light * (1 + flicker * rng.normal(size=(count, 1, 1)))
        photons = rng.poisson(np.broadcast_to(lamp, (count, SIDE, SIDE)))
        read = rng.normal(0, self.noise, photons.shape)
        return np.rint(self.offset + self.gain * photons + read).clip(0).astype(np.uint16)


@pytest.fixture(scope="module")
def camera() -> SimulatedCamera:
    rng = np.random.default_rng(0)
    noise = rng.lognormal(np.log(1.5), 0.1, (SIDE, SIDE))
    noise[rng.random(noise.shape) < 0.02] = 20
    return SimulatedCamera(rng.normal(100, 3, noise.shape), rng.normal(2, 0.16, noise.shape), noise)


@pytest.fixture(scope="module")
def report(camera: SimulatedCamera) -> dip.CameraReport:
    return dip.measure_camera_maps(camera.frames(0), [camera.frames(light) for light in LIGHTS])


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def test_offset_and_noise_are_right_within_their_errors(
    camera: SimulatedCamera, report: dip.CameraReport
) -> None:
    true = np.sqrt(camera.noise**2 + 1 / 12)
    off = (report.offset - camera.offset) / (true / COUNT**0.5)
    assert root_mean_square(off) == pytest.approx(1, abs=0.1)
    wrong = (report.noise / true - 1) * (2 * (COUNT - 1)) ** 0.5
    assert root_mean_square(wrong) == pytest.approx(1, abs=0.1)


def test_gain_errors_are_as_large_as_said_and_smaller_in_the_map(
    camera: SimulatedCamera, report: dip.CameraReport
) -> None:
    quiet = camera.noise < 5
    assert report.camera_gain == pytest.approx(2, rel=0.01)
    assert report.gain_spread == pytest.approx(0.08, abs=0.015)
    raw = (report.raw_gain - camera.gain)[quiet] / 2
    assert root_mean_square(raw) == pytest.approx(report.gain_error, rel=0.1)
    assert root_mean_square((report.gain - camera.gain)[quiet] / 2) < 0.8 * root_mean_square(raw)


def test_pixels_alike_in_gain_get_the_same_gain(camera: SimulatedCamera) -> None:
    even = SimulatedCamera(camera.offset, np.full_like(camera.gain, 2.0), camera.noise)
    result = dip.measure_camera_maps(even.frames(0), [even.frames(light) for light in LIGHTS])
    assert result.gain.std() < 0.3 * result.raw_gain.std()


def test_a_flickering_lamp_is_no_noise(camera: SimulatedCamera, report: dip.CameraReport) -> None:
    flats = [camera.frames(light, flicker=0.05) for light in LIGHTS]
    result = dip.measure_camera_maps(camera.frames(0), flats)
    assert result.camera_gain == pytest.approx(report.camera_gain, rel=0.03)


def test_few_dark_frames_are_said_to_be_uncertain(
    camera: SimulatedCamera, report: dip.CameraReport
) -> None:
    few = dip.measure_camera_maps(camera.frames(0, 5))
    assert few.gain is None
    assert any("uncertain" in sentence for sentence in few.sentences)
    assert not any("uncertain" in sentence for sentence in report.sentences)


def test_single_frames_in_any_order_of_axes_count_as_a_stack(camera: SimulatedCamera) -> None:
    stack = camera.frames(0, 6)[:, :, :-8]
    whole = dip.measure_camera_maps(stack)
    apart = dip.measure_camera_maps(list(stack))
    np.testing.assert_array_equal(whole.offset, apart.offset)
    np.testing.assert_array_equal(whole.noise, apart.noise)


@pytest.mark.parametrize(
    ("dark", "flat", "code"),
    [
        ((0, 1), (), "frames-few"),
        ((0, 4), (100,), "camera-levels"),
        ((100, 4), (0, 0), "camera-not-lit"),
    ],
)
def test_frames_without_information_are_refused(
    camera: SimulatedCamera, dark: tuple[int, int], flat: tuple[int, ...], code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        dip.measure_camera_maps(camera.frames(*dark), [camera.frames(light, 4) for light in flat])
    assert caught.value.reason.code == code


def test_frames_of_another_size_or_of_one_value_are_refused(camera: SimulatedCamera) -> None:
    dark = camera.frames(0, 4)
    for other, code in ((dark[:, :-1], "frames-size"), (0 * dark, "frames-constant")):
        with pytest.raises(RefusedError) as caught:
            dip.measure_camera_maps(dark, [camera.frames(100, 4), other])
        assert caught.value.reason.code == code


def save_frames(camera: SimulatedCamera, folder: Path) -> list[str]:
    """Save frames; the command's arguments."""
    for light in (0, *LIGHTS):
        tifffile.imwrite(
            folder / f"{light}.tif", camera.frames(light, 20), photometric="minisblack"
        )
    flats = [str(folder / f"{light}.tif") for light in LIGHTS]
    return ["camera-maps", "--dark", str(folder / "0.tif"), "--flat", *flats]


@pytest.mark.long
def test_the_command_writes_maps_that_denoise_takes(
    camera: SimulatedCamera, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*save_frames(camera, tmp_path), "-o", str(tmp_path / "maps")]
    assert main(command) == 0
    assert "20 dark frames" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted(CAMERA_MAP_FILES)
    assert main(command) == 2  # they are not replaced unasked
    assert main([*command, "--overwrite", "--quiet"]) == 0
    offset, gain, noise, _ = (str(tmp_path / "maps" / name) for name in CAMERA_MAP_FILES)
    assert tifffile.imread(noise).dtype == np.float32
    tifffile.imwrite(tmp_path / "in.tif", camera.frames(30, 1)[0])
    maps = ["--offset-map", offset, "--gain-map", gain, "--noise-map", noise]
    quick = ["--preset", "fast", "--max-iterations", "3", "--quiet"]
    restore = ["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif"), *quick]
    assert main([*restore, *maps]) == 0
    assert tifffile.imread(tmp_path / "out.tif").shape == (SIDE, SIDE)


def test_frames_are_never_replaced_by_maps(camera: SimulatedCamera, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "offset.tif", camera.frames(0, 4), photometric="minisblack")
    before = (tmp_path / "offset.tif").read_bytes()
    dark = str(tmp_path / "offset.tif")
    assert main(["camera-maps", "--dark", dark, "-o", str(tmp_path), "--overwrite"]) == 2
    assert (tmp_path / "offset.tif").read_bytes() == before
