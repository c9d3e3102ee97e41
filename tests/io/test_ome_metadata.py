"""Channels, positions and times of an OME-TIFF are copied to the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main
from napari_dip.io.reading import read_header, read_pixels
from napari_dip.io.writing import write_image

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = [
    {"Name": "DAPI & <co>", "EmissionWavelength": 461.0, "EmissionWavelengthUnit": "nm"},
    {"Name": "GFP", "EmissionWavelength": 509.0, "EmissionWavelengthUnit": "nm", "Color": 16711935},
]
IMAGE = {"Name": "cells", "Description": "day 3", "AcquisitionDate": "2024-05-06T07:08:09"}


def describe_planes(count: int) -> list[dict[str, Any]]:
    """Describe each plane differently, with digits that a float would not keep."""
    return [
        {
            "DeltaT": f"{number}.10",
            "DeltaTUnit": "s",
            "PositionX": f"10{number}.250",
            "PositionXUnit": "µm",
            "PositionZ": f"{number}.50",
            "PositionZUnit": "µm",
        }
        for number in range(count)
    ]


def save_ome(path: Path, axes: str = "TCZYX", shape: tuple[int, ...] = (2, 2, 3, 24, 24)) -> Path:
    image = np.random.default_rng(0).poisson(100, shape).astype("uint16")
    count = int(np.prod(shape[:-2]))
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5}
    ome = {"Channel": CHANNELS[: dict(zip(axes, shape, strict=True)).get("C", 1)]}
    metadata = {"axes": axes, **sizes, **IMAGE, **ome, "Plane": describe_planes(count)}
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", metadata=metadata)
    return path


def list_attributes(path: Path, tag: str) -> list[dict[str, str]]:
    """List the attributes of all elements of a name, numbers of channels and planes included."""
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    return [dict(element.attrib) for element in root.iter() if element.tag.endswith("}" + tag)]


def find_text(path: Path, tag: str) -> str | None:
    with tifffile.TiffFile(path) as file:
        root = ElementTree.fromstring(file.ome_metadata)
    return next(element.text for element in root.iter() if element.tag.endswith("}" + tag))


def restore_file(task: str, path: Path, result: Path, *more: str) -> Path:
    settings = ["--preset", "fast", "--max-iterations", "2", "--quiet", *more]
    assert main([task, str(path), "-o", str(result), *settings]) == 0
    return result


def list_plane_positions(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """Planes by channel, depth and frame, in whatever order they are stored."""
    positions = {}
    for plane in list_attributes(path, "Plane"):
        place = tuple(plane.pop(f"The{axis}") for axis in "CZT")
        positions[place] = plane
    return positions


@pytest.mark.long
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("TCZYX", (2, 2, 3, 24, 24)),
        ("CTYX", (2, 3, 24, 24)),
        ("ZYX", (3, 24, 24)),
        ("YX", (24, 24)),
    ],
)
def test_channels_positions_times_and_names_come_back_as_they_were(tmp_path, axes, shape):
    path = save_ome(tmp_path / "in.ome.tif", axes, shape)
    result = restore_file("denoise", path, tmp_path / "out.ome.tif")
    assert (
        list_attributes(result, "Channel") == list_attributes(path, "Channel")
        and len(list_attributes(result, "Channel")) > 0
    )
    assert list_plane_positions(result) == list_plane_positions(path) and len(
        list_plane_positions(result)
    ) == np.prod(shape[:-2])
    assert list_attributes(result, "Image") == list_attributes(path, "Image")
    for tag in ("Description", "AcquisitionDate"):
        assert find_text(result, tag) == find_text(path, tag) == IMAGE[tag]
    assert read_header(result).scale == read_header(path).scale


def test_a_finer_result_keeps_positions_and_has_smaller_pixels(tmp_path):
    path = save_ome(tmp_path / "in.ome.tif", "CYX", (2, 24, 24))
    result = restore_file("super-resolve", path, tmp_path / "out.ome.tif", "--factor", "2")
    assert list_plane_positions(result) == list_plane_positions(path) and list_attributes(
        result, "Channel"
    ) == list_attributes(path, "Channel")
    (pixels,) = list_attributes(result, "Pixels")
    assert pixels["PhysicalSizeX"] == "0.25" and pixels["SizeX"] == "48"


def test_planes_that_were_divided_along_z_claim_no_position_in_z(tmp_path):
    header = read_header(save_ome(tmp_path / "in.ome.tif", "ZYX", (3, 24, 24)))
    result = tmp_path / "out.ome.tif"
    write_image(result, np.zeros((6, 48, 48), "float32"), axes="ZYX", tags=header.tags)
    positions = list_plane_positions(result)
    assert positions["0", "4", "0"] == positions["0", "5", "0"]
    assert (
        positions["0", "5", "0"]["PositionX"] == "102.250"
        and "PositionZ" not in positions["0", "5", "0"]
    )


def test_a_result_of_some_channels_claims_no_names_of_all(tmp_path):
    header = read_header(save_ome(tmp_path / "in.ome.tif", "CYX", (2, 24, 24)))
    result = tmp_path / "out.ome.tif"
    write_image(result, np.zeros((24, 24), "float32"), axes="YX", tags=header.tags)
    assert "Name" not in list_attributes(result, "Channel")[0] and not list_plane_positions(result)
    assert list_attributes(result, "Image")[0]["Name"] == "cells"


def test_axes_named_by_hand_take_no_channels_or_positions_over(tmp_path):
    path = save_ome(tmp_path / "in.ome.tif", "CYX", (2, 24, 24))
    result = restore_file("denoise", path, tmp_path / "out.ome.tif", "--axes", "ZYX")
    assert "Name" not in list_attributes(result, "Channel")[0] and not list_plane_positions(result)


def test_a_batch_hands_channels_and_positions_on(tmp_path):
    path = save_ome(tmp_path / "in.ome.tif", "CYX", (2, 24, 24))
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.json"
    restore_file("denoise", path, tmp_path / "one.ome.tif", "--recipe", str(recipe))
    assert main(["batch", str(recipe), str(path), "-o", str(out), "--quiet"]) == 0
    result = out / "in.ome.tif"
    assert list_plane_positions(result) == list_plane_positions(path) and list_attributes(
        result, "Channel"
    ) == list_attributes(path, "Channel")


def test_an_objective_is_named_in_the_result(tmp_path):
    path = save_ome(tmp_path / "in.ome.tif", "YX", (24, 24))
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
    lens = '<Objective ID="Objective:1" Model="Plan Apo" LensNA="1.40" Immersion="Oil"/>'
    xml = xml.replace("<Image ", f'<Instrument ID="Instrument:0">{lens}</Instrument><Image ', 1)
    xml = xml.replace("<Pixels ", '<ObjectiveSettings ID="Objective:1"/><Pixels ', 1)
    tifffile.tiffcomment(path, xml.encode())
    result = restore_file("denoise", path, tmp_path / "out.ome.tif")
    with tifffile.TiffFile(result) as file:
        assert "Model Plan Apo, LensNA 1.40, Immersion Oil" in file.ome_metadata


def test_metadata_that_make_no_sense_are_left_out_with_a_note(tmp_path):
    path = save_ome(tmp_path / "in.ome.tif", "CYX", (2, 24, 24))
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata.replace('TheC="0"', 'TheC="blue"')
    tifffile.tiffcomment(path, xml.encode())
    header = read_header(path)
    assert header.tags.ome is None and "cannot be read and are left out" in str(header.notes[0])
    assert read_pixels(header).shape == (2, 24, 24)
