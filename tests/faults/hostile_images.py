"""Hostile images: impossible headers, decompression bombs, paths outside the folder, pickles."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from bad_inputs import chunk, noisy
from faults.attacks import SHORT, Attack, PicklePayload, denoise, denoise_bytes, use_pickle
from napari_dip.io.header import MAX_IMAGE_PLANES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def pack_tags(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """Write a directory of a classic TIFF: tag, type, count, value."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def list_tags(width: int, height: int, count: int, **others: int) -> list[tuple[int, ...]]:
    compression, strip = others.get("compression", 1), others.get("strip", 8)
    bits = others.get("bits", 16)
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, strip),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, count),
    ]


def make_tiff(content: bytes, entries: Any, following: int = 0) -> bytes:
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    return head + content + pack_tags(*entries, following=following)


def fake_tiff(width: int, height: int, content: bytes = bytes(4096), **others: int) -> bytes:
    return make_tiff(content, list_tags(width, height, len(content), **others))


def fake_bigtiff() -> bytes:
    """Make a BigTIFF whose header claims 2^40 pixels in a row."""
    sides = [(256, 16, 1, 2**40), (257, 16, 1, 1), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)]
    places = [(273, 16, 1, 16), (277, 3, 1, 1), (278, 16, 1, 1), (279, 16, 1, 2**41)]
    packed = b"".join(struct.pack("<HHQQ", *entry) for entry in (*sides, *places))
    body = struct.pack("<Q", 9) + packed + struct.pack("<Q", 0)
    return b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + 4096) + bytes(4096) + body


def make_looping_tiff() -> bytes:
    """Make a TIFF whose directory of pages leads back to itself."""
    return fake_tiff(32, 32, bytes(2048))[:-4] + struct.pack("<I", 8 + 2048)


def compress_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


def make_strip_bomb() -> bytes:
    """An image of 32 x 32 whose strip unpacks to 4 GiB."""
    return fake_tiff(32, 32, compress_zeros(2**32), compression=8)


def make_large_tiff() -> bytes:
    """100 million pixels of zeros in 200 KB, as the header says."""
    return fake_tiff(10_000, 10_000, compress_zeros(200_000_000 + 2**20), compression=8)


def omit_strip(folder: Path, outside: Path) -> list[str]:
    """Remove the second strip, which readers take for zeros."""
    options = {"photometric": "minisblack", "rowsperstrip": 16}
    tifffile.imwrite(folder / "in.tif", noisy(), **options)
    with tifffile.TiffFile(folder / "in.tif", mode="r+b") as file:
        tags_of = file.pages[0].tags
        tags_of["StripByteCounts"].overwrite((tags_of["StripByteCounts"].value[0], 0))
    return denoise(folder, "in.tif", *SHORT)


def make_many_pages(count: int) -> bytes:
    """Make a TIFF of `count` pages that share one strip."""
    entries = list_tags(32, 32, 2048)
    size, start = len(pack_tags(*entries)), 8 + 2048
    pages = [
        pack_tags(*entries, following=start + (number + 1) * size if number < count - 1 else 0)
        for number in range(count)
    ]
    return b"II*\0" + struct.pack("<I", start) + bytes(2048) + b"".join(pages)


def denoise_described(text: bytes | Callable[[], bytes]) -> Any:
    """Denoise a TIFF with this description."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        content = text() if callable(text) else text
        content = content.replace(b"{outside}", str(outside).encode())
        options = {"description": content, "metadata": None, "photometric": "minisblack"}
        tifffile.imwrite(folder / "in.tif", noisy(), **options)
        tifffile.imwrite(outside / "other.ome.tif", noisy(2, 32, 32), photometric="minisblack")
        return denoise(folder, "in.tif", *SHORT)

    return make_argv


OME = b'<?xml version="1.0"?>%b<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">%b</OME>'
PIXELS = (
    b'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="32" '
    b'SizeY="32" SizeC="1" SizeZ="1" SizeT="%b">%b</Pixels></Image>'
)


def make_billion_laughs() -> bytes:
    """Make an XML of entities that grow tenfold nine times."""
    lines = [b'<!ENTITY l0 "lolololololol">']
    lines += [b'<!ENTITY l%d "%b">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10)]
    name = b'<Image ID="Image:0" Name="&l9;"/>'
    return OME % (b"<!DOCTYPE OME [" + b"".join(lines) + b"]>", name)


def make_external_entity() -> bytes:
    head = b'<!DOCTYPE OME [<!ENTITY x SYSTEM "file://{outside}/treasure">]>'
    return OME % (head, PIXELS % (b"1", b"") + b"<Text>&x;</Text>")


def make_external_plane() -> bytes:
    """Make an OME-XML whose second plane is a file outside."""
    named = (
        b'<TiffData FirstT="0" IFD="0"><UUID FileName="in.tif">urn:uuid:1</UUID></TiffData>'
        b'<TiffData FirstT="1" IFD="0"><UUID FileName="../outside/other.ome.tif">urn:uuid:2</UUID>'
        b"</TiffData>"
    )
    return OME % (b"", PIXELS % (b"2", named))


def make_png(width: int, height: int, *before: bytes, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", data or zlib.compress(bytes(100)))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + b"".join(before) + body + chunk(b"IEND", b"")


def make_png_text_bomb() -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in noisy(32, 32, dtype="uint8"))
    note = chunk(b"zTXt", b"Comment\0\0" + compress_zeros(2**30))
    profile = chunk(b"iCCP", b"icc\0\0" + compress_zeros(2**30))
    return make_png(32, 32, note, profile, data=zlib.compress(rows))


def make_huge_jpeg() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(noisy(32, 32, dtype="uint8")).save(file, "JPEG")
    content = bytearray(file.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


def make_npz_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("../../outside/treasure", bytes(2**28))
    return file.getvalue()


def write_object_array(folder: Path, outside: Path) -> list[str]:
    array = np.empty(1, object)
    array[0] = PicklePayload(outside / "executed")
    with (folder / "in.tif").open("wb") as file:
        np.save(file, array, allow_pickle=True)
    return denoise(folder, "in.tif")


def nest(text: str) -> Callable[[], bytes]:
    return lambda: (text * 2_000_000).encode()


ATTACKS = [
    Attack("TIFF that claims 2^40 pixels", denoise_bytes(partial(fake_tiff, 2**20, 2**20))),
    Attack("BigTIFF that claims a row of 2^40 pixels", denoise_bytes(fake_bigtiff)),
    Attack("TIFF that claims 2^62 pixels", denoise_bytes(partial(fake_tiff, 2**31, 2**31))),
    Attack(
        "TIFF of one bit a pixel that claims 2^34",
        denoise_bytes(partial(fake_tiff, 2**17, 2**17, bits=1)),
    ),
    Attack("TIFF whose pages go in a circle", denoise_bytes(make_looping_tiff), (0, 2)),
    Attack("TIFF of 200,000 pages", denoise_bytes(partial(make_many_pages, 200_000))),
    Attack(
        "TIFF of as many pages as are taken",
        denoise_bytes(partial(make_many_pages, MAX_IMAGE_PLANES)),
    ),
    Attack("TIFF whose strip unpacks to 4 GiB", denoise_bytes(make_strip_bomb), (0, 2)),
    Attack("TIFF of 100 million zeros in 200 KB", denoise_bytes(make_large_tiff)),
    Attack(
        "TIFF whose tag has 2^32 values",
        denoise_bytes(
            lambda: make_tiff(bytes(2048), [*list_tags(32, 32, 2048), (34665, 4, 2**32 - 1, 8)])
        ),
        (0, 2),
    ),
    Attack(
        "TIFF with a description of 2^31 bytes",
        denoise_bytes(
            lambda: make_tiff(bytes(2048), [*list_tags(32, 32, 2048), (270, 2, 2**31, 8)])
        ),
        (0, 2),
    ),
    Attack(
        "TIFF whose strips lie at negative places",
        denoise_bytes(partial(fake_tiff, 32, 32, bytes(2048), strip=2**32 - 4)),
    ),
    Attack("TIFF with a strip that is missing", omit_strip),
    Attack("OME-XML of a billion laughs", denoise_described(make_billion_laughs), (0, 2)),
    Attack(
        "OME-XML that reads a file outside",
        denoise_described(make_external_entity),
        (0, 2),
        forbidden="mine",
    ),
    Attack("OME-TIFF whose second plane is a file outside", denoise_described(make_external_plane)),
    Attack("OME-XML nested two million deep", denoise_described(nest("<a>")), (0, 2)),
    Attack("PNG that claims 2^40 pixels", denoise_bytes(partial(make_png, 2**20, 2**20), "in.png")),
    Attack(
        "PNG that claims 10^8 pixels", denoise_bytes(partial(make_png, 10_000, 10_000), "in.png")
    ),
    Attack("PNG whose texts unpack to 2 GiB", denoise_bytes(make_png_text_bomb, "in.png"), (0, 2)),
    Attack("JPEG that claims 65535 x 65535", denoise_bytes(make_huge_jpeg, "in.jpg")),
    Attack("zip that would unpack elsewhere", denoise_bytes(make_npz_bomb)),
    Attack(
        "pickle called in.tif",
        lambda folder, outside: [
            text.replace("in.tif", "bomb.tif") for text in use_pickle("bomb.tif")(folder, outside)
        ],
    ),
    Attack("array of objects called in.tif", write_object_array),
]
