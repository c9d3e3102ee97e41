"""Stacks, movies and channels in any order of axes keep the position of each plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.io.header import OmeMetadata, SourceTags
from napari_dip.io.reading import read_header, read_pixels
from napari_dip.io.writing import write_image
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.assess.report_fields import has_reported_pixels

if TYPE_CHECKING:
    from pathlib import Path

#: Counts along each axis; four planes of depth make a volume.
SIZES = {"T": 2, "Z": 4, "C": 2, "Y": 20, "X": 24}
ORDERS = ["CYX", "TYX", "ZYX", "ZCYX", "CZYX", "TZYX", "ZTYX", "TCYX", "TZCYX", "YXZ", "XYT"]
FAST = {"preset": "fast", "max_iterations": 2, "device": "cpu"}


def draw_planes(axes: str) -> np.ndarray:
    """Return planes of different brightness, the later the brighter, with noise."""
    shape = tuple(SIZES[axis] for axis in axes)
    places = np.indices(shape)
    image = np.full(shape, 200.0)
    for step, axis in enumerate("TZC"):
        if axis in axes:
            image += 40 * 3**step * places[axes.index(axis)]
    image += 20 * np.sin(places[axes.index("X")] / 3)
    noise = np.random.default_rng(0).normal(0, 5, shape)
    return np.rint(image + noise).astype(np.uint16)


def compute_means(image: np.ndarray, axes: str) -> np.ndarray:
    """Mean of each plane."""
    return image.mean((axes.index("Y"), axes.index("X")), dtype=np.float64)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stacks", ["planes", "volume"])
@pytest.mark.parametrize("axes", ORDERS)
def test_each_plane_comes_back_where_it_was(axes: str, stacks: str) -> None:
    image = draw_planes(axes)
    result = dip.denoise(image, axes=axes, stacks=stacks, **FAST)
    assert result.image.shape == result.uncertainty.shape == image.shape
    depth = stacks == "volume" and "Z" in axes  # a volume's planes are fitted, not put back
    apart = 30 if depth else 0.01
    np.testing.assert_allclose(
        compute_means(result.image, axes), compute_means(image, axes), atol=apart
    )


@pytest.mark.parametrize("dtype", ["float32", "int32", "float64", "uint64", "float16"])
@pytest.mark.parametrize("axes", [*ORDERS, "CTYX", "CZTYX", "ZYXC"])
def test_a_tiff_keeps_each_size_and_the_channels(axes: str, dtype: str, tmp_path: Path) -> None:
    sizes = {"T": (500.0, "millisecond"), "Z": (300.0, "nanometer"), "C": (1.0, "pixel")}
    scale, units = zip(*(sizes.get(axis, (0.2, "micrometer")) for axis in axes), strict=True)
    channels = tuple((("Name", name), ("Color", "16711935")) for name in ("DAPI", "GFP"))
    tags = SourceTags(ome=OmeMetadata(channels=channels), contrast_limits=((0.0, 9.0),) * 2)
    image, path = draw_planes(axes).astype(dtype), tmp_path / "out.tif"
    write_image(path, image, axes=axes, scale=scale, units=units, tags=tags)
    header = read_header(path)
    assert sorted(header.axes) == sorted(axes) and header.dtype == dtype
    order = [header.axes.index(axis) for axis in axes]
    np.testing.assert_array_equal(read_pixels(header).transpose(order), image)
    assert has_reported_pixels(path, {"axes": axes, "output_sha256": compute_sha256(image)})
    saved_sizes = dict(zip(header.axes, zip(header.scale, header.units, strict=True), strict=True))
    factors = {"second": 1.0, "millisecond": 1e-3, "micrometer": 1.0, "nanometer": 1e-3}
    expected = {"T": 0.5, "Z": 0.3, "Y": 0.2, "X": 0.2}
    assert {
        axis: size * factors[unit] for axis, (size, unit) in saved_sizes.items() if axis != "C"
    } == {axis: pytest.approx(expected[axis], rel=1e-5) for axis in header.axes if axis != "C"}
    if "C" in axes:
        assert header.tags.ome == OmeMetadata(channels=channels)
        assert header.tags.contrast_limits == tags.contrast_limits


@pytest.mark.long
def test_a_volume_keeps_the_order_of_its_planes() -> None:
    image = draw_planes("ZYX")
    result = dip.denoise(image, axes="ZYX", **{**FAST, "max_iterations": 60})
    assert (np.diff(compute_means(result.image, "ZYX")) > 20).all()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("axes", ["CYX", "TYX", "ZCYX", "TZYX"])
@pytest.mark.all_cores
def test_the_command_line_and_python_make_the_same_pixels(
    axes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = draw_planes(axes)
    source, result = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, image, photometric="minisblack")
    options = ["--preset", "fast", "--max-iterations", "2", "--device", "cpu", "--axes", axes]
    assert main(["denoise", str(source), "-o", str(result), *options]) == 0, capsys.readouterr().err
    header = read_header(result)
    written = np.transpose(read_pixels(header), [header.axes.index(axis) for axis in axes])
    np.testing.assert_array_equal(written, dip.denoise(image, axes=axes, **FAST).image)


@pytest.mark.long
@pytest.mark.all_cores
def test_the_recipe_of_a_movie_repeats_its_pixels(tmp_path: Path) -> None:
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, draw_planes("TYX"), imagej=True, metadata={"axes": "TYX"})
    first, second, recipe = (str(tmp_path / name) for name in ("a.tif", "b.tif", "r.json"))
    options = [
        "--preset",
        "fast",
        "--max-iterations",
        "2",
        "--temporal-smoothing",
        "3",
        "--no-neighbouring-frames",
    ]
    assert main(["denoise", str(source), "-o", first, *options, "--recipe", recipe]) == 0
    assert main(["denoise", str(source), "-o", second, "--from-recipe", recipe]) == 0
    with open(first, "rb") as once, open(second, "rb") as other:
        assert once.read() == other.read()
