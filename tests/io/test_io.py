"""Files: pixels are read as they were saved, and impossible files are refused."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_dip.errors import FailedError, RefusedError
from napari_dip.errors.notes import make_note
from napari_dip.io import guess_axes
from napari_dip.io.outputs import check_outputs_differ, resolve_output
from napari_dip.io.reading import find_file_header, open_pixels, read_header, read_pixels
from napari_dip.io.writing import write_image, write_text

if TYPE_CHECKING:
    from pathlib import Path


def draw_pixels(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def read_refusal_code(call, *arguments, **settings) -> str:
    with pytest.raises(RefusedError) as caught:
        call(*arguments, **settings)
    assert "{" not in caught.value.reason.message
    return caught.value.reason.code


# --- reading


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_pixels_come_back_in_the_byte_order_of_this_computer(tmp_path, dtype, byteorder):
    image = draw_pixels(20, 30, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, byteorder=byteorder)
    header = read_header(tmp_path / "a.tif")
    assert (header.shape, header.axes, header.dtype, header.name) == (
        (20, 30),
        "YX",
        dtype,
        "a.tif",
    )
    read = read_pixels(header)
    assert read.dtype == np.dtype(dtype) and read.dtype.isnative
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize(
    ("shape", "settings", "axes"),
    [
        ((3, 20, 30), {"imagej": True, "metadata": {"axes": "CYX"}}, "CYX"),
        ((5, 20, 30), {"imagej": True, "metadata": {"axes": "ZYX"}}, "ZYX"),
        ((5, 20, 30), {}, "ZYX"),
        ((2, 3, 20, 30), {"ome": True, "metadata": {"axes": "CZYX"}}, "CZYX"),
        ((20, 30, 5), {"photometric": "minisblack", "planarconfig": "contig"}, "YXC"),
        ((2, 3, 4, 20, 30), {"photometric": "minisblack"}, "TCZYX"),
        ((30,), {}, "X"),
        ((), {}, ""),
    ],
)
def test_axes_are_those_the_tiff_names(tmp_path, shape, settings, axes):
    tifffile.imwrite(tmp_path / "a.tif", draw_pixels(*shape), **settings)
    header = read_header(tmp_path / "a.tif")
    assert (header.axes, header.shape) == (axes, shape)


def test_axes_given_by_hand_win(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", draw_pixels(3, 20, 30), photometric="minisblack")
    assert read_header(tmp_path / "a.tif", axes="cyx").axes == "CYX"


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize(
    ("samples", "axes", "shape", "noted"),
    [(3, "YXS", (20, 30, 3), False), (4, "YXS", (20, 30, 3), True), (2, "YX", (20, 30), True)],
)
def test_colours_are_read_and_alpha_is_left_out_with_a_note(
    tmp_path, suffix, samples, axes, shape, noted
):
    image = draw_pixels(20, 30, samples, dtype="uint8")
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(image).save(path)
    else:
        kind = {2: "minisblack"}.get(samples, "rgb")
        extra = {} if samples == 3 else {"extrasamples": ["unassalpha"]}
        tifffile.imwrite(path, image, photometric=kind, planarconfig="contig", **extra)
    header = read_header(path)
    assert (header.axes, header.shape, bool(header.notes)) == (axes, shape, noted)
    expected = image[..., 0] if samples == 2 else image[..., :3]
    np.testing.assert_array_equal(read_pixels(header), expected)


#: What tifffile makes of such arrays by itself, with a warning that it will not for ever.
AS_COLOURS = {"photometric": "rgb", "planarconfig": "separate"}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("shape", [(3, 20, 30), (4, 20, 30), (5, 4, 20, 30)])
def test_planes_that_tifffile_calls_colours_are_the_stack_that_napari_shows(tmp_path, shape, dtype):
    image = draw_pixels(*shape, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, **AS_COLOURS)
    header = read_header(tmp_path / "a.tif")
    assert (header.axes, header.shape, header.notes) == (
        guess_axes(shape),
        shape,
        (),
    ) and header.has_guessed_axes
    np.testing.assert_array_equal(read_pixels(header), image)
    np.testing.assert_array_equal(open_pixels(header)[...], image)


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("uint8", {}),
        ("uint16", {"iccprofile": b"colours"}),
        ("uint16", {"metadata": {"axes": "SYX"}}),
    ],
)
def test_planes_that_are_meant_as_colours_stay_colours(tmp_path, dtype, settings):
    tifffile.imwrite(
        tmp_path / "a.tif", draw_pixels(3, 20, 30, dtype=dtype), **AS_COLOURS, **settings
    )
    assert read_header(tmp_path / "a.tif").axes == "SYX"
    assert not read_header(tmp_path / "a.tif").has_guessed_axes


def test_a_plane_that_is_called_alpha_is_not_left_out_without_saying_how_to_keep_it(tmp_path):
    image = draw_pixels(4, 20, 30, dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", image, **AS_COLOURS)
    (note,) = read_header(tmp_path / "a.tif").notes
    assert "last of four planes" in str(note) and "--axes ZYX" in str(note)
    np.testing.assert_array_equal(read_pixels(read_header(tmp_path / "a.tif", "ZYX")), image)


def test_a_palette_is_expanded_to_its_colours(tmp_path):
    image = Image.fromarray(draw_pixels(20, 30, 3, dtype="uint8")).quantize(16)
    image.save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert (header.axes, header.shape) == ("YXS", (20, 30, 3))
    np.testing.assert_array_equal(read_pixels(header), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("alpha", [{}, {"transparency": 3}])
def test_a_palette_of_greys_is_one_channel_as_in_a_tiff(tmp_path, step, alpha):
    image = Image.fromarray(draw_pixels(20, 30, dtype="uint8"))
    greys = np.arange(256, dtype=np.uint8)[::step]
    image.putpalette(np.repeat(greys, 3).tolist())
    image.save(tmp_path / "a.png", **alpha)
    header = read_header(tmp_path / "a.png")
    assert (header.axes, header.shape) == ("YX", (20, 30))
    np.testing.assert_array_equal(read_pixels(header), greys[draw_pixels(20, 30, dtype="uint8")])


@pytest.mark.parametrize("rows", [1, 12, 23, 24])
def test_a_png_without_all_of_its_rows_is_refused_and_not_filled_with_black(tmp_path, rows):
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    image = draw_pixels(24, 30, dtype="uint8")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image[:rows]))
    chunk_header = struct.pack(">IIBBBBB", 30, 24, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", chunk_header), (b"IDAT", packed), (b"IEND", b""))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks))
    header = read_header(path)
    if rows < len(image):
        assert read_refusal_code(read_pixels, header) == "file-broken"
    else:
        np.testing.assert_array_equal(read_pixels(header), image)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_whole_png_of_each_mode_is_read(tmp_path, mode):
    Image.fromarray(draw_pixels(24, 30, dtype="uint8")).convert(mode).save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert read_pixels(header).shape == header.shape


def test_a_16_bit_png_keeps_all_its_bits(tmp_path):
    image = draw_pixels(20, 30) * 300
    Image.fromarray(image).save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert header.dtype == "uint16"
    np.testing.assert_array_equal(read_pixels(header), image)


def test_several_images_in_one_file_are_noted_and_the_first_is_read(tmp_path):
    first = draw_pixels(20, 30)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(first)
        file.write(draw_pixels(40, 50))
    header = read_header(tmp_path / "a.tif")
    assert header.shape == (20, 30) and "2 images" in str(header.notes[0])
    np.testing.assert_array_equal(read_pixels(header), first)


def test_a_file_is_known_by_its_bytes_and_not_by_its_name(tmp_path):
    Image.fromarray(draw_pixels(20, 30, dtype="uint8")).save(tmp_path / "a.tif", format="PNG")
    assert read_header(tmp_path / "a.tif").shape == (20, 30)


@pytest.mark.parametrize(
    ("settings", "size", "unit"),
    [
        ({"imagej": True, "resolution": (10, 20), "metadata": {"unit": "um"}}, 0.1, "micrometer"),
        (
            {"ome": True, "metadata": {"PhysicalSizeX": 100.0, "PhysicalSizeXUnit": "nm"}},
            100.0,
            "nanometer",
        ),
        ({"resolution": (1e5, 1e5), "resolutionunit": "CENTIMETER"}, 0.1, "micrometer"),
    ],
)
def test_pixel_sizes_are_found_where_each_kind_of_tiff_keeps_them(tmp_path, settings, size, unit):
    tifffile.imwrite(tmp_path / "a.tif", draw_pixels(20, 30), **settings)
    header = read_header(tmp_path / "a.tif")
    assert header.scale is not None and header.units is not None
    assert header.scale[1] == pytest.approx(size) and header.units[1] == unit


def test_a_tiff_without_pixel_size_claims_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", draw_pixels(20, 30))
    assert read_header(tmp_path / "a.tif").scale is None


def absurd_tiff(path: Path, side: int) -> None:
    """A classic TIFF whose header claims side x side pixels of 16 bits."""
    tags = [
        (256, 4, side),
        (257, 4, side),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, side),
        (279, 4, 4096),
    ]
    body = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + body + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + 4096) + bytes(4096) + directory)


def test_a_header_that_claims_a_trillion_pixels_is_refused_at_once(tmp_path):
    absurd_tiff(tmp_path / "a.tif", 2**20)
    assert read_refusal_code(read_header, tmp_path / "a.tif") == "file-broken"


def test_an_ome_header_that_claims_a_billion_frames_is_refused_at_once(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, draw_pixels(2, 20, 30), ome=True, metadata={"axes": "TYX"})
    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata.replace('SizeT="2"', 'SizeT="999999999"').encode()
    tifffile.imwrite(path, draw_pixels(2, 20, 30), description=xml, metadata=None)
    started = time.monotonic()
    assert read_refusal_code(read_header, path) == "file-broken"
    assert time.monotonic() - started < 2


def test_a_tiff_of_more_pages_than_a_run_restores_is_refused_before_they_are_listed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("napari_dip.io.formats.tiff.MAX_IMAGE_PLANES", 3)
    for count in (3, 4):
        options = {"photometric": "minisblack", "metadata": None}
        tifffile.imwrite(tmp_path / f"{count}.tif", draw_pixels(count, 20, 30), **options)
    assert read_header(tmp_path / "3.tif").shape == (3, 20, 30)
    monkeypatch.setattr(tifffile.TiffFile, "series", None)
    assert read_refusal_code(read_header, tmp_path / "4.tif") == "planes-many"


@pytest.mark.parametrize("compression", ["lzw", "zstd", "zlib", "packbits"])
def test_compressed_tiffs_are_read(tmp_path, compression):
    image = draw_pixels(40, 30)
    tifffile.imwrite(tmp_path / "a.tif", image, compression=compression, predictor=False)
    header = read_header(tmp_path / "a.tif")
    assert (header.shape, header.dtype) == ((40, 30), "uint16")
    np.testing.assert_array_equal(read_pixels(header), image)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_cut_off_tiff_is_never_filled_with_zeros(tmp_path, compression, share):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, draw_pixels(64, 64), compression=compression, rowsperstrip=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert read_refusal_code(lambda: read_pixels(read_header(path))) in ("file-broken", "file-type")


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits"])
def test_damaged_compressed_pixels_are_refused_without_the_names_of_a_decoder(
    tmp_path, compression
):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, draw_pixels(64, 64), compression=compression)
    content = bytearray(path.read_bytes())
    content[-400:-200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        read_pixels(read_header(path))
    assert "is cut off or damaged: its pixels cannot be decoded." in caught.value.reason.sentence


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_cut_off_image_is_refused(tmp_path, share, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(draw_pixels(64, 64, dtype="uint8")).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert read_refusal_code(lambda: read_pixels(read_header(path))) == "file-broken"


@pytest.mark.parametrize("kind", ["tiff", "imagej", "ome", "png"])
def test_damaged_bytes_end_in_a_refusal_or_an_image_of_the_promised_shape(tmp_path, kind, caplog):
    rng = np.random.default_rng(1)
    path = tmp_path / "a"
    image = draw_pixels(32, 32, dtype="uint8")
    if kind == "png":
        Image.fromarray(image).save(path, format="PNG")
    else:
        tifffile.imwrite(path, image, imagej=kind == "imagej", ome=kind == "ome")
    whole = np.frombuffer(path.read_bytes(), "uint8")
    head = min(len(whole), 400)
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, head, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            header = read_header(path)
            assert header.pixel_count < 2**32
            assert read_pixels(header).shape == header.shape
        except RefusedError:
            continue


def test_a_loop_of_links_a_folder_a_pipe_and_an_empty_file_are_distinguished(tmp_path):
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    (tmp_path / "empty.tif").touch()
    os.mkfifo(tmp_path / "pipe.tif")
    refusals = {
        name: read_refusal_code(read_header, tmp_path / name)
        for name in ("loop.tif", "empty.tif", "pipe.tif", "", "missing.tif")
    }
    assert refusals == {
        "loop.tif": "file-unreadable",
        "empty.tif": "file-empty",
        "pipe.tif": "file-type",
        "": "file-is-folder",
        "missing.tif": "file-missing",
    }
    assert read_refusal_code(read_header, "") == "path-empty"
    assert read_refusal_code(read_header, "a\0b.tif") == "path-wrong"
    assert read_refusal_code(read_header, tmp_path / ("a" * 300 + ".tif")) == "path-wrong"


def test_a_file_that_changes_between_header_and_pixels_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", draw_pixels(20, 30))
    header = read_header(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", draw_pixels(20, 31))
    assert read_refusal_code(read_pixels, header) == "file-broken"


def test_guessed_axes_end_in_the_image_plane():
    assert [guess_axes((9,) * count) for count in range(2, 6)] == ["YX", "ZYX", "TZYX", "TCZYX"]
    assert guess_axes((9, 9, 3), rgb=True) == "YXS"


# --- writing


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.ome.tif", "a.OME.TIFF"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16", "int32"])
@pytest.mark.parametrize("axes", ["YX", "CYX", "YXS", "YXC", "ZYX"])
def test_what_is_saved_is_read_again_with_axes_and_pixel_size(tmp_path, name, dtype, axes):
    shape = tuple({"Y": 20, "X": 30}.get(axis, 3) for axis in axes)
    image = draw_pixels(*shape, dtype=dtype)
    scale = tuple({"Y": 0.2, "X": 0.1}.get(axis, 1.0) for axis in axes)
    units = tuple("micrometer" if axis in "YX" else "pixel" for axis in axes)
    path = write_image(tmp_path / name, image, axes=axes, scale=scale, units=units)
    header = read_header(path, axes=axes)
    assert header.shape == shape and header.dtype == dtype
    np.testing.assert_array_equal(read_pixels(header), image)
    assert header.scale is not None and header.units is not None
    for axis, size in (("Y", 0.2), ("X", 0.1)):
        assert header.scale[axes.index(axis)] == pytest.approx(
            size, rel=1e-5
        )  # tifffile before 2026.3.3
        assert header.units[axes.index(axis)] == "micrometer"
    if axes != "YXC":  # no kind of TIFF can name channels as its last axis
        assert read_header(path).axes == axes
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_same_image_is_saved_in_the_same_bytes(tmp_path):
    image = draw_pixels(20, 30, dtype="float32")
    for name in ("a.tif", "b.tif", "a.ome.tif", "b.ome.tif"):
        write_image(tmp_path / name, image, axes="YX", provenance={"version": "1"})
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    first, second = ((tmp_path / f"{name}.ome.tif").read_bytes() for name in "ab")
    assert first == second.replace(b"b.ome.tif", b"a.ome.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.ome.zarr"])
def test_the_header_of_a_result_says_which_task_made_it(tmp_path, name):
    image = draw_pixels(20, 30, dtype="float32")
    provenance = {"recipe": {"task": "denoise"}}
    write_image(tmp_path / name, image, axes="YX", provenance=provenance)
    assert read_header(tmp_path / name).tags.made_by == "denoise"
    write_image(tmp_path / f"raw-{name}", image, axes="YX", provenance={"recipe": "denoise"})
    assert not read_header(tmp_path / f"raw-{name}").tags.made_by


def test_provenance_is_kept_in_each_kind_of_tiff(tmp_path):
    provenance = {"recipe": {"task": "denoise", "seed": 3}, "name": "µ × \"'<&>"}
    image = draw_pixels(20, 30, dtype="float32")
    write_image(tmp_path / "a.tif", image, axes="YX", provenance=provenance)
    write_image(tmp_path / "b.tif", image.astype("int32"), axes="YX", provenance=provenance)
    write_image(tmp_path / "c.ome.tif", image, axes="YX", provenance=provenance)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert json.loads(file.imagej_metadata["Info"]) == provenance
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert json.loads(file.shaped_metadata[0]["napari_dip"]) == provenance
    with tifffile.TiffFile(tmp_path / "c.ome.tif") as file:
        xml = tifffile.xml2dict(file.ome_metadata)
        entry = xml["OME"]["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"]
        assert json.loads(entry["value"]) == provenance


def test_a_disk_that_fills_up_leaves_the_earlier_file_whole(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.tif", draw_pixels(20, 30), axes="YX")
    before = path.read_bytes()

    def raise_disk_full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(FailedError, match="no space left"):
        write_image(path, draw_pixels(20, 30, seed=1), axes="YX", overwrite=True)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_during_the_run_is_not_replaced(tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(FailedError, match="exists"):
        write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_overwritten_file_hands_on_its_permissions_and_links_stay_links(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("real.json")
    place = resolve_output(tmp_path / "link.json", overwrite=True, suffixes=(".json",))
    write_text(place, "{}", overwrite=True)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "{}"
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o640


def test_a_folder_removed_during_the_run_fails_with_a_message(tmp_path):
    with pytest.raises(FailedError, match="could not be saved"):
        write_image(tmp_path / "gone" / "a.tif", draw_pixels(20, 30), axes="YX")


# --- outputs


def test_each_output_fault_has_its_own_code(tmp_path):
    source = tmp_path / "in.tif"
    source.write_bytes(b"pixels")
    (tmp_path / "soft.tif").symlink_to(source)
    (tmp_path / "hard.tif").hardlink_to(source)
    (tmp_path / "old.tif").touch()
    (tmp_path / "dangling.tif").symlink_to("nowhere.tif")
    (tmp_path / "folder.tif").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")

    def answer(name: str, **settings) -> str:
        return read_refusal_code(resolve_output, tmp_path / name, [source], **settings)

    assert answer("in.tif", overwrite=True) == "output-is-input"
    assert answer("soft.tif", overwrite=True) == "output-is-input"
    assert answer("hard.tif", overwrite=True) == "output-is-input"
    assert answer("old.tif") == "output-exists"
    assert answer("dangling.tif") == "output-exists"
    assert answer("folder.tif", overwrite=True) == "output-is-folder"
    assert answer("pipe.tif", overwrite=True) == "output-not-regular-file"
    assert answer("new.png") == "output-type"
    for name in (".tif", ".TIFF", ".ome.tif", ".zarr", ".ome.zarr"):
        assert answer(name) == "output-nameless"
    assert answer("new") == "output-type"
    assert answer("new.txt", suffixes=(".json",)) == "output-json"
    assert answer("gone/new.tif") == "output-folder-missing"
    assert answer("in.tif/new.tif") == "folder-is-file"
    assert answer("new.tif", bytes_needed=2**62) == "output-full"
    assert read_refusal_code(resolve_output, "/proc/new.tif") == "output-readonly"
    assert read_refusal_code(resolve_output, "") == "path-empty"


def test_a_good_output_is_accepted_and_leaves_no_trace(tmp_path):
    (tmp_path / "old.tif").write_bytes(b"old")
    for name in ("new.tif", "NEW.TIFF", "new.ome.tif", "old.tif"):
        assert resolve_output(tmp_path / name, overwrite=True).name == name
    assert [path.name for path in tmp_path.iterdir()] == ["old.tif"]


def test_two_results_under_one_name_are_refused_however_it_is_written(tmp_path):
    check_outputs_differ([tmp_path / "a.tif", tmp_path / "b.tif"])
    again = f"{tmp_path}/sub/../a.tif"
    assert read_refusal_code(check_outputs_differ, [tmp_path / "a.tif", again]) == "output-twice"


@pytest.mark.parametrize("names", [("c.tif", "C.tif"), ("e\u0301.tif", "\u00e9.tif")])
def test_results_whose_names_are_one_on_some_disks_are_refused(tmp_path, names):
    with pytest.raises(RefusedError, match="differ only in case or accents") as refused:
        check_outputs_differ([tmp_path / name for name in names])
    assert refused.value.reason.code == "output-twice"
    for folder in "ab":
        (tmp_path / folder).mkdir()
    check_outputs_differ(
        [tmp_path / folder / name for folder, name in zip("ab", names, strict=True)]
    )


def test_the_refusal_of_an_output_says_what_is_so(tmp_path, monkeypatch):
    folder = write_image(tmp_path / "in.ome.zarr", draw_pixels(20, 30), axes="YX")
    with pytest.raises(RefusedError, match=r"'.*x\.tif' would lie inside its own input"):
        resolve_output(folder / "x.tif", [folder])
    with pytest.raises(RefusedError, match=r"would replace its own input '.*in\.ome\.zarr'"):
        resolve_output(folder, [folder / "0" / "zarr.json"], overwrite=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2900))
    with pytest.raises(RefusedError, match="38 kB are needed and 2 kB are free"):
        resolve_output(tmp_path / "out.tif", bytes_needed=37_100)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1000255.0, "1000255"), (-0.0, "0"), (0.25, "0.25"), (65535.0, "65535"), (1e30, "1e+30")],
)
def test_a_grey_value_is_written_with_all_its_digits(value, text):
    note = make_note("pixels-saturated", share="2%", value=value)
    assert f"at {text}:" in str(note)


def test_the_file_of_an_array_tells_its_axes_unless_it_holds_much_else(tmp_path: Path) -> None:
    path, pixels = tmp_path / "movie.tif", np.zeros((4, 16, 16), np.uint8)
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "TYX"})
    header = find_file_header(str(path), pixels.shape, pixels.dtype)
    assert header is not None and header.axes == "TYX"
    assert find_file_header(str(path), (3, 16, 16), pixels.dtype) is None  # changed since
    assert find_file_header(str(tmp_path / "gone.tif"), pixels.shape, pixels.dtype) is None
    with tifffile.TiffWriter(path) as writer:  # napari reads the first of these images only
        for _ in range(3000):
            writer.write(pixels[0], contiguous=False)
    begin = time.perf_counter()
    assert find_file_header(str(path), (16, 16), pixels.dtype) is None
    assert time.perf_counter() - begin < 0.5  # all pages take seconds


def test_imagej_keeps_a_frame_interval_without_a_pixel_size_and_none_is_invented(tmp_path):
    movie = np.zeros((4, 16, 16), np.float32)
    intervals = {}
    for interval in (2.0, None):
        facts = {"unit": "um"} if interval is None else {"finterval": interval}
        metadata = {"axes": "TYX", **facts}
        sizes = {"resolution": (10, 10)} if interval is None else {}
        tifffile.imwrite(tmp_path / "in.tif", movie, imagej=True, metadata=metadata, **sizes)
        header = read_header(tmp_path / "in.tif")
        out = tmp_path / "out.tif"
        write_image(out, movie, axes="TYX", scale=header.scale, units=header.units, overwrite=True)
        with tifffile.TiffFile(out) as file:
            intervals[interval] = file.imagej_metadata.get("finterval")
            assert ("unit" in file.imagej_metadata) == (interval is None)
        assert read_header(out).scale == header.scale
    assert intervals == {2.0: 2.0, None: None}
