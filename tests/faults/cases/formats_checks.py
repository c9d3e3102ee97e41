"""Image files as other programs write them: how they are made, and read back."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from bad_inputs import chunk
from faults.cases import (
    QUICK,
    Outcome,
    check,
    check_command_refused,
    check_completed,
    check_files_unchanged,
    check_same_pixels,
    check_unmasked_pixels,
    make_image,
    read_folder,
    run_cli,
    save_hole_mask,
    save_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def check_read_back(
    array: np.ndarray, tiff_options: dict[str, Any], folder: Path, tolerance: float = 0.0
) -> None:
    """Save an array by tifffile in some way; its pixels must come back."""
    options = [f"--axes={tiff_options['axes']}"] if "axes" in tiff_options else []
    tiff_options = {name: value for name, value in tiff_options.items() if name != "axes"}
    check_unmasked_pixels(
        save_tiff(folder / "in.tif", array, **tiff_options), array, *options, tolerance=tolerance
    )


def check_tiff_refused(
    array: np.ndarray, pattern: str, tiff_options: dict[str, Any], folder: Path
) -> None:
    save_tiff(folder / "in.tif", array, **tiff_options)
    before = read_folder(folder)
    check_command_refused(run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK), pattern, "in.tif")
    check_files_unchanged(folder, before)


def make_raw_tiff(
    pixels: bytes, tags: dict[int, tuple[int, Any]], order: str = "<", side: int = 32
) -> bytes:
    """Write a TIFF by hand; tags: type (3 short, 4 long, 2 text) and value or values."""
    base = {
        256: (4, side),
        257: (4, side),
        258: (3, 8),
        259: (3, 1),
        262: (3, 1),
        273: (4, 8),
        277: (3, 1),
        278: (4, side),
        279: (4, len(pixels)),
    }
    every = dict(sorted({**base, **tags}.items()))
    start = 8 + len(pixels)
    body, extra = b"", b""
    after = start + 2 + 12 * len(every) + 4
    for tag, (kind, value) in every.items():
        letter = {2: "s", 3: "H", 4: "I", 5: "II", 12: "d"}[kind]
        if kind == 2:
            packed, count = value, len(value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            packed = b"".join(struct.pack(order + letter[0], value) for value in values)
            count = len(values) // len(letter)
        if len(packed) <= 4:
            body += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
        else:
            body += struct.pack(order + "HHII", tag, kind, count, after + len(extra))
            extra += packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return head + pixels + struct.pack(order + "H", len(every)) + body + bytes(4) + extra


def check_raw_file(content: bytes, wanted: np.ndarray, folder: Path, name: str = "in.tif") -> None:
    (folder / name).write_bytes(content)
    check_unmasked_pixels(folder / name, wanted)


def check_12_bit_packing(folder: Path) -> None:
    """Pack 12 bits a pixel, as cameras do."""
    values = (make_image() * 4).astype(np.uint16)
    check_raw_file(make_raw_tiff(_pack_12_bits(values), {258: (3, 12)}), values, folder)


def _pack_12_bits(values: np.ndarray) -> bytes:
    first, second = values.ravel()[::2].astype(int), values.ravel()[1::2].astype(int)
    parts = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    return parts.astype(np.uint8).tobytes()


def check_fill_order_2(folder: Path) -> None:
    """Store bits the other way round (FillOrder 2)."""
    values = make_image(dtype="uint8")
    turned = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., ::-1], axis=-1)
    check_raw_file(make_raw_tiff(turned.tobytes(), {266: (3, 2)}), values, folder)


def check_bilevel(folder: Path) -> None:
    bits = np.packbits(make_image() > 400, axis=-1).tobytes()
    (folder / "in.tif").write_bytes(make_raw_tiff(bits, {258: (3, 1)}))
    check_command_refused(
        run_cli("denoise", "in.tif", "-o", "out.tif"), "mask|true and false", "in.tif"
    )


def check_empty_strip(folder: Path) -> None:
    values = make_image(dtype="uint8")
    half = {273: (4, (8, 8 + 512)), 278: (4, 16), 279: (4, (512, 0))}
    (folder / "in.tif").write_bytes(make_raw_tiff(values.tobytes(), half))
    check_command_refused(run_cli("denoise", "in.tif", "-o", "out.tif"), "in.tif", "missing")


def check_shared_strip(folder: Path) -> None:
    """Let both halves of an image lie at one place: a copy of the file went wrong."""
    values = make_image(dtype="uint8")
    half = {273: (4, (8, 8)), 278: (4, 16), 279: (4, (512, 512))}
    (folder / "in.tif").write_bytes(make_raw_tiff(values.tobytes(), half))
    twice = np.concatenate([values[:16], values[:16]])
    check_unmasked_pixels(folder / "in.tif", twice)


def check_missing_sample_format(folder: Path) -> None:
    values = make_image()
    check_raw_file(make_raw_tiff(values.tobytes(), {258: (3, 16)}), values, folder)


def check_void_sample_format(folder: Path) -> None:
    values = make_image()
    check_raw_file(make_raw_tiff(values.tobytes(), {258: (3, 16), 339: (3, 4)}), values, folder)


def check_missing_byte_counts(folder: Path) -> None:
    """Leave the length of the strips to be reckoned, as some old writers do."""
    values = make_image(dtype="uint8")
    content = bytearray(make_raw_tiff(values.tobytes(), {}))
    place = content.index(struct.pack("<HH", 279, 4))
    content[place : place + 2] = struct.pack("<H", 65000)
    (folder / "in.tif").write_bytes(bytes(content))
    result = run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)
    if result.code:
        check_command_refused(result, "in.tif")
    else:
        check_unmasked_pixels(folder / "in.tif", values)


def check_invalid_resolution(value: tuple[int, int], folder: Path) -> None:
    """Say a size of pixels that makes no sense; the image is restored without it."""
    values = make_image(dtype="uint8")
    tags = {282: (5, value), 283: (5, value), 296: (3, 3)}
    check_raw_file(make_raw_tiff(values.tobytes(), tags), values, folder)


def check_gdal_nodata(folder: Path) -> None:
    """Mark missing pixels by a number of GDAL's: they are no measurement."""
    values = make_image(dtype="float32")
    values[4:8, 20:24] = -9999
    extra = [(42113, "s", 0, "-9999", True)]
    save_tiff(folder / "in.tif", values, extratags=extra)
    result = run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)
    if result.code == 2:
        return check_command_refused(result, "in.tif")
    check_completed(result, "-9999|no ?data|nodata")
    return None


def check_colour_mosaic(folder: Path) -> None:
    """Bring the raw mosaic of a colour camera: neighbouring pixels are of other colours."""
    extra = [(50706, "B", 4, (1, 4, 0, 0), True), (33421, "H", 2, (2, 2), True)]
    save_tiff(folder / "in.tif", make_image(), photometric=32803, extratags=extra)
    result = run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)
    if result.code == 2:
        return check_command_refused(result, "in.tif")
    check_completed(result, "mosaic|colour filter|CFA|Bayer")
    return None


def check_pyramid_sub_ifds(folder: Path) -> None:
    """Hang smaller copies below a page, as pyramids do: the page itself is meant."""
    values = make_image(32, 32)
    with tifffile.TiffWriter(folder / "in.tif") as file:
        file.write(values, subifds=1, photometric="minisblack")
        file.write(values[::2, ::2], subfiletype=1, photometric="minisblack")
    check_unmasked_pixels(folder / "in.tif", values)


def check_pages_of_two_sizes(folder: Path) -> None:
    """Follow the image by a smaller page: said, since it is left out."""
    with tifffile.TiffWriter(folder / "in.tif") as file:
        file.write(make_image(), photometric="minisblack")
        file.write(make_image(16, 16), photometric="minisblack")
    result = check_unmasked_pixels(folder / "in.tif", make_image())
    check("only the first" in result.err, f"left out without a word: {result.err}")


def check_imagej_plane_count(count: int, folder: Path) -> None:
    """Let ImageJ's text speak of planes that are not there."""
    text = f"ImageJ=1.53t\nimages={count}\nframes={count}\nmin=0\nmax=9\n"
    save_tiff(folder / "in.tif", make_image(), description=text, metadata=None)
    result = run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)
    if result.code:
        return check_command_refused(result, "in.tif")
    shape = tifffile.imread("out.tif").shape
    check(shape == (32, 32), f"restored as {shape}")
    return None


def check_imagej_stack(folder: Path) -> None:
    """Name channels and slices as ImageJ does: each plane keeps its place."""
    values = np.stack(
        [np.stack([make_image(24, 24) + 500 * c + 40 * z for c in range(2)]) for z in range(3)]
    ).astype(np.uint16)
    tifffile.imwrite(folder / "in.tif", values, imagej=True, metadata={"axes": "ZCYX"})
    check_unmasked_pixels(folder / "in.tif", values)


def check_imagej_big_endian(folder: Path) -> None:
    values = make_image()
    tifffile.imwrite(folder / "in.tif", values, imagej=True, byteorder=">")
    check_unmasked_pixels(folder / "in.tif", values)


def check_imagej_calibration(folder: Path) -> None:
    """Give the size of a pixel in ImageJ's way: the result has it too."""
    tiff_options = {
        "metadata": {"unit": "\\u00B5m", "axes": "YX"},
        "resolution": (1 / 0.065, 1 / 0.065),
    }
    tifffile.imwrite(folder / "in.tif", make_image(), imagej=True, **tiff_options)
    check_completed(run_cli("denoise", "in.tif", "-o", "out.ome.tif", *QUICK))
    with tifffile.TiffFile("out.ome.tif") as file:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    check(abs(pixels.get("PhysicalSizeX", 0) - 0.065) < 1e-6, f"size of a pixel: {pixels}")
    check(pixels.get("PhysicalSizeXUnit", "µm") == "µm", f"unit of a pixel: {pixels}")


def check_unknown_unit(unit: str, folder: Path) -> None:
    """Give the size of a pixel in a unit of one's own language: the image is restored."""
    text = f"ImageJ=1.53t\nunit={unit}\n"
    save_tiff(folder / "in.tif", description=text.encode(), metadata=None, resolution=(9, 9))
    for out in ("out.tif", "out.ome.tif", "out.ome.zarr"):
        result = run_cli("denoise", "in.tif", "-o", out, *QUICK)
        check(
            (folder / out).exists(),
            f"the image is lost: {result.err}"[-400:],
            Outcome.LOST,
        )
        check_completed(result)


def check_ome_dimension_order(order: str, folder: Path) -> None:
    """Store planes in one of OME's orders: each keeps its place."""
    values = np.zeros((2, 3, 2, 24, 24), np.uint16)
    for t, z, c in np.ndindex(2, 3, 2):
        values[t, z, c] = make_image(24, 24) + 900 * t + 200 * z + 50 * c
    letters = {"T": 0, "Z": 1, "C": 2}
    slow = [letters[axis] for axis in reversed(order[2:])]
    pages = values.transpose(*slow, 3, 4).reshape(-1, 24, 24)
    sizes = 'SizeX="24" SizeY="24" SizeC="2" SizeZ="3" SizeT="2" Type="uint16"'
    data = "".join(
        f'<TiffData IFD="{n}" PlaneCount="1" {_format_first_indices(n, order)}/>' for n in range(12)
    )
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="{order}" {sizes}>{data}'
        "</Pixels></Image></OME>"
    )
    save_tiff(folder / "in.ome.tif", pages, description=ome.encode(), metadata=None)
    check_completed(
        run_cli(
            "inpaint",
            "in.ome.tif",
            "--mask",
            save_hole_mask(folder, 24, 24),
            "-o",
            "o.ome.tif",
            *QUICK,
        )
    )
    with tifffile.TiffFile("o.ome.tif") as file:
        axes, read = file.series[0].axes, file.series[0].asarray()
    read = read.transpose([axes.index(axis) for axis in "TZCYX"])
    check_same_pixels(read[..., :10, :], values[..., :10, :].astype(np.float32), "planes")


def _format_first_indices(number: int, order: str) -> str:
    sizes = {"T": 2, "Z": 3, "C": 2}
    attributes = []
    for letter in order[2:]:
        attributes.append(f'First{letter}="{number % sizes[letter]}"')
        number //= sizes[letter]
    return " ".join(attributes)


def check_missing_ome_companion(folder: Path) -> None:
    """Name a second file of one's own folder that is not there: its planes are not invented."""
    planes = '<TiffData FirstT="0" IFD="0"><UUID FileName="in.ome.tif">urn:uuid:1</UUID></TiffData>'
    planes += '<TiffData FirstT="1" IFD="0"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        'Type="uint16" SizeX="32" SizeY="32" SizeC="1" SizeZ="1" SizeT="2">'
        f"{planes}</Pixels></Image></OME>"
    )
    save_tiff(folder / "in.ome.tif", make_image(), description=ome.encode(), metadata=None)
    check_command_refused(
        run_cli("denoise", "in.ome.tif", "-o", "out.tif", *QUICK), "in.ome.tif", "b.ome|missing"
    )


def check_trailing_bytes(folder: Path) -> None:
    save_tiff(folder / "in.tif")
    with (folder / "in.tif").open("ab") as file:
        file.write(b"<html>rubbish</html>" * 50)
    check_unmasked_pixels(folder / "in.tif", make_image())


def check_description(text: bytes, folder: Path) -> None:
    save_tiff(folder / "in.tif", description=text, metadata=None)
    result = run_cli("denoise", "in.tif", "-o", "out.tif", *QUICK)
    if result.code:
        check_command_refused(result, "in.tif", "description")
    else:
        check_unmasked_pixels(folder / "in.tif", make_image())


# --- PNG and JPEG


def make_png(
    bits: int,
    kind: int,
    rows: bytes,
    *,
    side: int = 32,
    interlaced: bool = False,
    extra: bytes = b"",
    tail: bool = True,
) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, int(interlaced))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
    content += chunk(b"IDAT", zlib.compress(rows))
    return content + (chunk(b"IEND", b"") if tail else b"")


def make_png_rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


def check_interlaced_png(folder: Path) -> None:
    values = make_image().astype(">u2")
    passes = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    rows = b"".join(make_png_rows(values[y::down, x::across]) for y, x, down, across in passes)
    check_raw_file(make_png(16, 0, rows, interlaced=True), make_image(), folder, "in.png")


def check_bit_depth(bits: int, folder: Path) -> None:
    """Bring grey values of few bits: in proportion, whatever white is called."""
    tolerance = 2**bits - 1
    values = (make_image().astype(int) * tolerance // 1100).clip(0, tolerance).astype(np.uint8)
    per = 8 // bits
    packed = np.zeros((32, 32 // per), np.uint8)
    for place in range(per):
        packed |= values[:, place::per] << (8 - bits * (place + 1))
    (folder / "in.png").write_bytes(make_png(bits, 0, make_png_rows(packed)))
    check_unmasked_pixels(folder / "in.png", values * np.uint8(255 // tolerance))


def check_png_gamma(folder: Path) -> None:
    """Let a chunk speak of gamma: the stored values are the measured ones."""
    extra = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sRGB", b"\0")
    check_raw_file(
        make_png(8, 0, make_png_rows(make_image(dtype="uint8")), extra=extra),
        make_image(dtype="uint8"),
        folder,
        "i.png",
    )


def check_transparent_grey(folder: Path) -> None:
    """Declare one grey value transparent: pixels stay as they are."""
    extra = chunk(b"tRNS", struct.pack(">H", 40))
    values = make_image(dtype="uint8")
    check_raw_file(make_png(8, 0, make_png_rows(values), extra=extra), values, folder, "in.png")


def check_palette(folder: Path) -> None:
    """Show indices by a palette that is not in order: its colours are the image."""
    values = make_image(dtype="uint8")
    table = np.random.default_rng(3).permutation(256).astype(np.uint8)
    colours = np.stack([table, table, table], -1)
    inverse = np.argsort(table).astype(np.uint8)
    extra = chunk(b"PLTE", colours.tobytes())
    content = make_png(8, 3, make_png_rows(inverse[values]), extra=extra)
    check_raw_file(content, np.stack([values] * 3, -1), folder, "in.png")


def check_animation(folder: Path) -> None:
    frames = [Image.fromarray(make_image(dtype="uint8", seed=seed)) for seed in range(3)]
    frames[0].save(folder / "in.png", save_all=True, append_images=frames[1:])
    result = check_unmasked_pixels(folder / "in.png", make_image(dtype="uint8"))
    check("animated" in result.err, f"frames left out without a word: {result.err}")


def check_damaged_png(folder: Path) -> None:
    content = bytearray(make_png(8, 0, make_png_rows(make_image(dtype="uint8"))))
    content[len(content) // 2] ^= 0x55
    (folder / "in.png").write_bytes(bytes(content))
    check_command_refused(
        run_cli("denoise", "in.png", "-o", "out.tif", *QUICK), "in.png", "damaged|cut off"
    )


def check_png_without_end_chunk(folder: Path) -> None:
    """Cut a PNG off behind its pixels: all of them are there."""
    content = make_png(8, 0, make_png_rows(make_image(dtype="uint8")), tail=False)
    (folder / "in.png").write_bytes(content)
    result = run_cli("denoise", "in.png", "-o", "out.tif", *QUICK)
    if result.code:
        check_command_refused(result, "in.png")
    else:
        check_unmasked_pixels(folder / "in.png", make_image(dtype="uint8"))


def check_truncated_png(folder: Path) -> None:
    """Hold half of the rows that the header promises: not filled up in black."""
    rows = make_png_rows(make_image(dtype="uint8")[:16])
    (folder / "in.png").write_bytes(make_png(8, 0, rows))
    check_command_refused(
        run_cli("denoise", "in.png", "-o", "out.tif", *QUICK), "in.png", "damaged|cut off"
    )


def check_jpeg(tiff_options: dict[str, Any], folder: Path) -> None:
    values = make_image(dtype="uint8")
    packed = io.BytesIO()
    Image.fromarray(values).save(packed, "JPEG", quality=98, **tiff_options)
    (folder / "in.jpg").write_bytes(packed.getvalue())
    check_unmasked_pixels(folder / "in.jpg", values, tolerance=12)


def check_truncated_jpeg(folder: Path) -> None:
    """Cut a JPEG in half: the lower half is not taken for grey."""
    packed = io.BytesIO()
    Image.fromarray(make_image(64, 64, dtype="uint8")).save(packed, "JPEG", quality=98)
    whole = packed.getvalue()
    (folder / "in.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    check_command_refused(
        run_cli("denoise", "in.jpg", "-o", "out.tif", *QUICK), "in.jpg", "damaged|cut off"
    )


def check_foreign_format(save: Callable[[Path], object], name: str, folder: Path) -> None:
    save(folder / name)
    check_command_refused(run_cli("denoise", name, "-o", "out.tif"), name, "kind|TIFF")


def check_huge_text(folder: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 3_000_000, zip=True)
    Image.fromarray(make_image(dtype="uint8")).save(folder / "in.png", pnginfo=info)
    result = run_cli("denoise", "in.png", "-o", "out.tif", *QUICK)
    if result.code:
        check_command_refused(result, "in.png")
