"""Channels, positions and times are copied to the result, whatever the formats of both."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main
from napari_dip.io.header import SourceTags, parse_zarr_channels
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


GREEN, RED, GREY = (0, 255, 0), (255, 0, 0), (255, 255, 255)


def make_ramp(colour: tuple[int, int, int]) -> np.ndarray:
    """Make a lookup table from black to a colour, rounded down as ImageJ does."""
    return np.outer(colour, np.arange(256) / 255).astype(np.uint8)


def save_imagej(path: Path, axes: str = "CYX", **metadata: Any) -> np.ndarray:
    shape = tuple({"T": 3, "C": 2}.get(axis, 24) for axis in axes)
    image = np.random.default_rng(0).poisson(100, shape).astype("uint16")
    tifffile.imwrite(path, image, imagej=True, metadata={"axes": axes, **metadata})
    return image


def read_display(path: Path) -> dict[str, Any]:
    """Read how ImageJ shows the channels: names, last entries of the tables, mode and limits."""
    with tifffile.TiffFile(path) as file:
        metadata = dict(file.imagej_metadata)
    metadata["LUTs"] = [tuple(table[:, -1].tolist()) for table in metadata.get("LUTs", ())]
    return {key: metadata.get(key) for key in ("Labels", "LUTs", "mode", "Ranges")}


@pytest.mark.parametrize("axes", ["CYX", "TCYX"])
def test_a_result_is_shown_in_imagej_as_its_input_is(tmp_path, axes):
    labels = ["DAPI", "µ-GFP"] * (3 if "T" in axes else 1)
    display = {"Labels": labels, "mode": "composite", "Ranges": (10.0, 200.0, 20.0, 150.0)}
    tables = [make_ramp(GREEN), make_ramp(RED)]
    image = save_imagej(tmp_path / "in.tif", axes, LUTs=tables, **display)
    tags = read_header(tmp_path / "in.tif").tags
    write_image(tmp_path / "out.tif", image.astype(np.float32), axes=axes, tags=tags)
    assert read_display(tmp_path / "out.tif") == {**display, "LUTs": [GREEN, RED]}


def test_names_and_colours_go_from_each_format_to_each_other(tmp_path):
    image = save_imagej(
        tmp_path / "0.tif", LUTs=[make_ramp(GREEN), make_ramp(GREY)], Labels=["DAPI", "GFP"]
    )
    names = ["0.tif", "1.ome.tif", "2.ome.zarr", "3.tif", "4.ome.zarr", "5.ome.tif", "6.tif"]
    for source, target in pairwise(names):
        write_image(tmp_path / target, image, axes="CYX", tags=read_header(tmp_path / source).tags)
    assert {read_header(tmp_path / name).tags.ome.channels for name in names} == {
        ((("Name", "DAPI"), ("Color", "16711935")), (("Name", "GFP"), ("Color", "-1")))
    }
    display = read_display(tmp_path / "6.tif")
    limits = tuple(float(limit) for plane in image for limit in (plane.min(), plane.max()))
    assert display["LUTs"] == [GREEN, GREY] and display["mode"] == "composite"
    assert sum(read_header(tmp_path / "4.ome.zarr").tags.contrast_limits, ()) == limits


def test_labels_of_single_planes_and_tables_of_many_colours_are_not_taken_for_channels(tmp_path):
    fire = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint8)
    labels = [f"plane {number}" for number in range(6)]
    image = save_imagej(tmp_path / "in.tif", "TCYX", LUTs=[make_ramp(GREEN), fire], Labels=labels)
    tags = read_header(tmp_path / "in.tif").tags
    assert tags.ome.channels == ((("Color", "16711935"),), ())
    write_image(tmp_path / "out.tif", image[:, :1], axes="TCYX", tags=tags)
    assert read_display(tmp_path / "out.tif")["LUTs"] == []


@pytest.mark.parametrize(
    "omero",
    [
        None,
        [],
        {"channels": 3},
        {"channels": [{"color": "no hex", "window": {"start": 0, "end": 1}}]},
        {"channels": [{"color": "00FF00", "window": None}]},
        {"channels": [{"color": "00FF00"}]},
    ],
)
def test_a_display_that_makes_no_sense_is_left_out(omero):
    assert parse_zarr_channels(omero) == SourceTags()
