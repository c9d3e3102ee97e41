"""TIFF headers that are wrong about planes, colours or sizes: corrected, reported or refused."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_dip.cli import main
from napari_dip.errors import Refusal, RefusedError
from napari_dip.io.reading import open_pixels, read_header, read_pixels
from napari_dip.pipeline.api import restore
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import make_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def draw_pixels(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def read_refusal(path: Path, axes: str | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        read_pixels(read_header(path, axes))
    return caught.value.reason.sentence


def write_with_header(path: Path, change: Callable[[str], str], **options: Any) -> np.ndarray:
    """Write ten planes of 20 × 30 pixels, and change what their header says."""
    image = draw_pixels(10, 20, 30)
    kind = {} if options.get("imagej") else {"photometric": "minisblack"}
    tifffile.imwrite(path, image, metadata={"axes": "ZYX"}, **kind, **options)
    with tifffile.TiffFile(path) as file:
        before = file.pages[0].description
    after = change(before)
    assert after != before
    tifffile.tiffcomment(path, after.encode())
    return image


def halve_counts(text: str) -> str:
    return text.replace("=10", "=5").replace('"10"', '"5"')


HALVED = "'{}' holds 10 planes, but its header names 5 of them: 5 are left out."


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_that_an_ome_header_leaves_out_are_counted_in_a_note(tmp_path, compression):
    image = write_with_header(
        tmp_path / "a.ome.tif", halve_counts, ome=True, compression=compression
    )
    header = read_header(tmp_path / "a.ome.tif")
    assert (header.axes, header.shape) == ("ZYX", (5, 20, 30))
    assert list(map(str, header.notes)) == [HALVED.format(header.name)]
    np.testing.assert_array_equal(read_pixels(header), image[:5])


def test_planes_that_an_imagej_header_leaves_out_are_counted_in_a_note(tmp_path):
    write_with_header(tmp_path / "a.tif", halve_counts, imagej=True)
    header = read_header(tmp_path / "a.tif")
    assert header.shape == (5, 20, 30)
    assert list(map(str, header.notes)) == [HALVED.format(header.name)]


@pytest.mark.long
def test_planes_that_are_left_out_are_reported_by_plan_terminal_and_report(tmp_path, capsys):
    path = tmp_path / "a.ome.tif"
    write_with_header(path, halve_counts, ome=True)
    note = HALVED.format(path.name)
    plan = preflight(make_recipe("denoise", preset="fast"), read_header(path), detect_machine())
    assert not isinstance(plan, Refusal) and note in map(str, plan.notes)
    assert main(["plan", "denoise", str(path)]) == 0
    assert note in capsys.readouterr().out.splitlines()
    result = restore(path, make_recipe("denoise", preset="fast", max_iterations=2))
    assert note in result.report["notes"]


@pytest.mark.parametrize("tag", ["", '<TiffData FirstZ="20" IFD="0" PlaneCount="10"/>'])
def test_planes_that_an_ome_header_does_not_place_are_taken_in_order_with_a_note(tmp_path, tag):
    image = write_with_header(
        tmp_path / "a.ome.tif", lambda xml: re.sub("<TiffData[^>]*/>", tag, xml), ome=True
    )
    header = read_header(tmp_path / "a.ome.tif")
    assert header.shape == (10, 20, 30) and header.has_guessed_axes
    assert "all 10 are taken, in the order in which they are stored" in str(header.notes[0])
    np.testing.assert_array_equal(read_pixels(header), image)


def test_a_page_that_an_ome_header_names_twice_is_reported(tmp_path):
    tags = "".join(f'<TiffData FirstZ="{z}" IFD="{z // 2}" PlaneCount="1"/>' for z in range(10))
    write_with_header(
        tmp_path / "a.ome.tif", lambda xml: re.sub("<TiffData[^>]*/>", tags, xml), ome=True
    )
    left_out, twice = map(str, read_header(tmp_path / "a.ome.tif").notes)
    assert left_out == HALVED.format("a.ome.tif")
    assert twice == "The header of 'a.ome.tif' names 5 of its planes more than once."


@pytest.mark.parametrize(
    ("options", "before", "after", "message"),
    [
        ({"ome": True}, '"10"', '"12"', "states 12 planes, but 10 are found"),
        ({"ome": True}, 'PlaneCount="10"', 'PlaneCount="5"', "10 planes, but 5 are found"),
        ({"imagej": True, "compression": "zlib"}, "=10", "=12", "12 planes, but 10 are found"),
        ({"imagej": True, "compression": "zlib"}, "=10", "=5", "5 planes, but 10 are found"),
    ],
)
def test_planes_that_are_promised_but_missing_are_counted_in_the_refusal(
    tmp_path, options, before, after, message
):
    write_with_header(tmp_path / "a.tif", lambda text: text.replace(before, after), **options)
    assert message in read_refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("count", ["4", "5"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_shape_that_does_not_fit_the_pages_is_reported(tmp_path, compression, count):
    write_with_header(
        tmp_path / "a.tif", lambda text: text.replace("10", count), compression=compression
    )
    header = read_header(tmp_path / "a.tif")
    assert header.shape == (10, 20, 30) and "does not match its planes: all 10" in str(
        header.notes[0]
    )


def test_an_honest_header_needs_no_note(tmp_path):
    for number, options in enumerate([{"ome": True}, {"imagej": True}, {"compression": "zlib"}]):
        kind = {} if options.get("imagej") else {"photometric": "minisblack"}
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, draw_pixels(10, 20, 30), metadata={"axes": "ZYX"}, **kind, **options)
        assert read_header(path).notes == ()


# --- tags that say what values and pages mean


@pytest.mark.sampled(2)
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_an_image_whose_0_is_white_gives_a_result_whose_0_is_white(tmp_path, dtype, suffix):
    path, result = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    image = draw_pixels(32, 32, dtype=dtype)
    tifffile.imwrite(path, image, photometric="miniswhite")
    header = read_header(path)
    np.testing.assert_array_equal(read_pixels(header), image)
    assert "white-zero" in [note.code for note in header.notes]
    assert denoise_quickly(path, result, "--residual", str(tmp_path / "c.tif")) == 0
    with tifffile.TiffFile(result) as file, tifffile.TiffFile(tmp_path / "c.tif") as residual:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISWHITE
        assert np.corrcoef(file.asarray().ravel(), image.ravel())[0, 1] > 0
        assert residual.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK


def test_a_mask_of_one_bit_gets_no_note_on_what_its_zeros_look_like(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", np.eye(32, dtype=bool), photometric="miniswhite")
    header = read_header(tmp_path / "m.tif")
    assert (header.dtype, header.notes) == ("bool", ())


@pytest.mark.parametrize(
    ("text", "value"), [("-9999", "-9999"), ("0 ", "0"), ("nan", ""), ("none", ""), ("", "")]
)
def test_a_value_that_gdal_writes_for_missing_pixels_is_named(tmp_path, text, value):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, draw_pixels(20, 30), extratags=[(42113, "s", 0, text, True)])
    notes = [str(note) for note in read_header(path).notes if note.code == "value-missing"]
    assert len(notes) == bool(value)
    assert not value or f"pixels of {value} were not measured" in notes[0]


def denoise_quickly(path: Path, result: Path, *more: str) -> int:
    """Denoise for a few iterations on the command line."""
    settings = ["--preset", "fast", "--max-iterations", "2", "--quiet", *more]
    return main(["denoise", str(path), "-o", str(result), *settings])


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_a_stack_that_is_stored_turned_gives_a_result_turned_alike(tmp_path, suffix):
    path, result = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    turned = {"photometric": "minisblack", "extratags": [(274, "H", 1, 6, False)]}
    tifffile.imwrite(path, draw_pixels(2, 24, 32), metadata={"axes": "ZYX"}, **turned)
    assert "orientation 6" in str(read_header(path).notes[0])
    assert denoise_quickly(path, result) == 0
    with tifffile.TiffFile(result) as file:
        assert file.series[0].shape == (2, 24, 32)
        pages = [file.pages.get(number) for number in range(len(file.pages))]
        assert {page.tags[274].value for page in pages} == {6}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_photograph_that_is_stored_turned_gives_a_result_turned_alike(tmp_path, suffix):
    turned = Image.Exif()
    turned[274] = 8
    path, result = tmp_path / f"a{suffix}", tmp_path / "b.tif"
    Image.fromarray(draw_pixels(24, 32, dtype="uint8")).save(path, exif=turned)
    assert "orientation 8" in str(read_header(path).notes[0])
    assert denoise_quickly(path, result) == 0
    with tifffile.TiffFile(result) as file:
        assert file.pages[0].tags[274].value == 8 and file.pages[0].shape == (24, 32)


def test_values_that_stand_for_the_colours_of_a_table_are_restored_as_colours(tmp_path):
    path, image = tmp_path / "a.tif", draw_pixels(20, 30, dtype="uint8")
    colours = np.random.default_rng(1).integers(0, 256, (3, 256)).astype("uint16") * 257
    tifffile.imwrite(path, image, photometric="palette", colormap=colours)
    expected = (colours >> 8).astype("uint8").T[image]
    header = read_header(path)
    assert (header.axes, header.shape, header.dtype) == ("YXS", (20, 30, 3), "uint8")
    assert "--axes YX" in str(header.notes[0])
    np.testing.assert_array_equal(read_pixels(header), expected)
    np.testing.assert_array_equal(open_pixels(header)[...], expected)
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), expected)
    np.testing.assert_array_equal(read_pixels(read_header(path, "YX")), image)


def test_a_table_of_greys_is_looked_up_and_a_ramp_changes_nothing(tmp_path):
    image = draw_pixels(20, 30, dtype="uint8")
    ramp = np.arange(256, dtype="uint16") * 257
    for name, greys in {"ramp": ramp, "turned": ramp[::-1]}.items():
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, photometric="palette", colormap=np.stack([greys] * 3))
        header = read_header(path)
        assert (header.axes, bool(header.notes)) == ("YX", name == "turned")
        for pixels_read in (read_pixels(header), open_pixels(header)[...]):
            np.testing.assert_array_equal(pixels_read, image if name == "ramp" else 255 - image)


def test_colours_in_which_imagej_shows_values_are_no_values(tmp_path):
    path, image = tmp_path / "a.tif", draw_pixels(20, 30, dtype="uint8")
    colours = np.random.default_rng(1).integers(0, 65536, (3, 256)).astype("uint16")
    tifffile.imwrite(path, image, imagej=True, colormap=colours)
    header = read_header(path)
    assert header.axes == "YX" and "shown are left out" in str(header.notes[0])
    np.testing.assert_array_equal(read_pixels(header), image)


@pytest.mark.parametrize(
    ("unit", "name", "size"),
    [("MILLIMETER", "millimeter", 0.1), ("MICROMETER", "micrometer", 0.1)],
)
def test_resolution_tags_in_millimetres_and_micrometres_are_lengths(tmp_path, unit, name, size):
    path, result = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(path, draw_pixels(32, 32), resolution=(10, 10), resolutionunit=unit)
    assert denoise_quickly(path, result) == 0
    for file in (path, result):
        header = read_header(file)
        assert header.units == (name, name) and header.scale == pytest.approx((size, size))


@pytest.mark.parametrize("flag", [0, 1])
def test_a_thumbnail_is_not_taken_for_the_image(tmp_path, flag):
    image = draw_pixels(64, 48)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image[::4, ::4], subfiletype=flag, metadata=None)
        file.write(image, metadata=None)
    header = read_header(tmp_path / "a.tif")
    assert tuple(map(str, header.notes)) == (
        "'a.tif' holds 2 images, and the first is a small copy: the one of 64 × 48 pixels is "
        "restored.",
    )
    np.testing.assert_array_equal(read_pixels(header), image)
    np.testing.assert_array_equal(open_pixels(header)[...], image)


@pytest.mark.parametrize(
    ("kind", "samples", "coded"),
    [("separated", 4, "CMYK"), ("cielab", 3, "CIELab"), ("ycbcr", 3, "YCbCr"), ("cfa", 0, "CFA")],
)
def test_colours_that_are_no_brightness_are_refused_by_name(tmp_path, kind, samples, coded):
    image = draw_pixels(20, 30, *[samples] * bool(samples), dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=kind)
    assert coded in read_refusal(tmp_path / "a.tif")
    if kind == "separated":
        Image.fromarray(image, "CMYK").save(tmp_path / "a.jpg")
        assert coded in read_refusal(tmp_path / "a.jpg")


def test_red_green_and_blue_that_jpeg_packs_as_ycbcr_are_read(tmp_path):
    image = np.full((32, 32, 3), (200, 40, 90), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    pixels_read = read_pixels(read_header(tmp_path / "a.tif"))
    assert np.abs(pixels_read.astype(int) - image).max() <= 6


# --- words


@pytest.mark.parametrize("period", [1, 2, 3, 7, 120])
def test_pages_that_run_in_a_circle_are_refused_as_such(tmp_path, period):
    size, count = 2 + 9 * 12 + 4, period + 2
    places = [8 + number * size for number in range(count)]
    where = 8 + count * size
    tags = [(256, 30), (257, 20), (258, 8), (259, 1), (262, 1), (273, where), (277, 1)]
    tags += [(278, 20), (279, 600)]
    body = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags)
    content = b"II*\0" + struct.pack("<I", 8)
    for following in (*places[1:], places[2]):
        content += struct.pack("<H", len(tags)) + body + struct.pack("<I", following)
    (tmp_path / "a.tif").write_bytes(content + draw_pixels(20, 30, dtype="uint8").tobytes())
    assert "its list of pages runs in a circle" in read_refusal(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("XYCZT", "XYQZT", "calls the axes 'XYQZT', where X, Y, Z, C and T are known"),
        (' SizeZ="10"', "", "says nothing where the size along Z should be"),
        ('SizeZ="10"', 'SizeZ="ten"', "says 'ten' where the size along Z should be"),
    ],
)
def test_axes_and_sizes_that_ome_does_not_have_are_named(tmp_path, before, after, message):
    write_with_header(tmp_path / "a.ome.tif", lambda xml: xml.replace(before, after), ome=True)
    assert message in read_refusal(tmp_path / "a.ome.tif")


def test_the_text_of_a_parser_error_is_not_shown_as_a_name(tmp_path):
    write_with_header(tmp_path / "a.tif", lambda text: text.replace("10", "12"), compression="zlib")
    assert read_refusal(tmp_path / "a.tif").endswith(
        "damaged: what its header says makes no sense."
    )


def test_no_attribute_of_an_ome_header_that_is_missing_or_wrong_ends_in_a_bare_name(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, draw_pixels(3, 20, 30), ome=True, metadata={"axes": "CYX"})
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
    attributes = re.findall(r' ([A-Z]\w+)="[^"]*"', xml)
    assert {"SizeC", "DimensionOrder", "IFD", "PlaneCount", "ID"} <= set(attributes)
    for name in dict.fromkeys(attributes):
        for replaced in ("", f' {name}=""', f' {name}="?"', f' {name}="-1"', f' {name}="9e9"'):
            path.write_bytes(whole)
            tifffile.tiffcomment(path, re.sub(f' {name}="[^"]*"', replaced, xml).encode())
            try:
                assert read_pixels(read_header(path)).ndim == 3
            except RefusedError as no:
                why = no.reason.sentence.rpartition("damaged: ")[2]
                assert " " in why and "int()" not in why, why
