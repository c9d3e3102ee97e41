"""Image files as other programs write them: what is read is what a person sees in them, or is said.

Most rows fill a small hole: all other pixels of a result are those of the file, so that what was
read can be compared with what was written, value by value."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from faults.cases import (
    Row,
    make_picture,
)
from faults.cases.formats_acts import (
    animated,
    bilevel,
    calibration,
    cfa,
    damaged_png,
    description,
    few_bits,
    gamma,
    half_jpeg,
    huge_text,
    imagej_big_endian,
    imagej_count,
    imagej_stack,
    interlaced_16,
    jpeg,
    no_sample_format,
    no_strip_counts,
    nodata,
    odd_resolution,
    odd_unit,
    ome_companion_missing,
    ome_order,
    other_kind,
    palette,
    png_without_end,
    refused_as,
    reversed_bits,
    same_strip_twice,
    short_png,
    sub_ifds,
    trailing_rubbish,
    transparent_grey,
    twelve_bits,
    two_sizes,
    void_sample_format,
    written,
    zero_strip,
)
from faults.cases.zarr_acts import (
    cut_chunk,
    drop_chunk,
    edited,
    zarr_array_alone,
    zarr_beside,
    zarr_is_zip,
    zarr_marked,
    zarr_named_level,
    zarr_of,
    zarr_refused,
    zarr_slash,
    zarr_translation,
    zarr_units,
)

U8, U16, F4 = make_picture(dtype="uint8"), make_picture(), make_picture(dtype="float32")
COLOUR = np.stack([U8, U8 // 2, 255 - U8], -1)
COLOUR16 = np.stack([U16, U16 // 2, 3000 - U16], -1)
WRITTEN: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "BigTIFF": (U16, {"bigtiff": True}),
    "tiles": (U16, {"tile": (16, 16)}),
    "tiles that stand over": (make_picture(40, 40), {"tile": (32, 32)}),
    "Deflate with predictor": (U16, {"compression": "zlib", "predictor": True}),
    "floats with predictor": (F4, {"compression": "zlib", "predictor": True}),
    "LZW": (U16, {"compression": "lzw", "predictor": True}),
    "Zstandard": (U16, {"compression": "zstd"}),
    "LZMA": (U16, {"compression": "lzma"}),
    "PackBits": (U8, {"compression": "packbits"}),
    "lossless JPEG 2000": (U16, {"compression": "jpeg2000"}),
    "lossless WebP": (
        COLOUR,
        {"compression": "webp", "compressionargs": {"lossless": True}, "photometric": "rgb"},
    ),
    "PNG within": (U8, {"compression": "png"}),
    "LERC": (F4, {"compression": "lerc"}),
    "big-endian": (U16, {"byteorder": ">"}),
    "big-endian floats in Deflate": (F4, {"byteorder": ">", "compression": "zlib"}),
    "float16": (make_picture(dtype="float16"), {}),
    "float64": (make_picture(dtype="float64") + 0.5, {}),
    "int8": (make_picture(dtype="int8"), {}),
    "int16": (make_picture(dtype="int16") - 700, {}),
    "int32 below zero": (make_picture(dtype="int32") - 100_000, {}),
    "uint32": (make_picture(dtype="uint32"), {}),
    "int64": (make_picture(dtype="int64"), {}),
    "uint64": (make_picture(dtype="uint64"), {}),
    "one row a strip": (U16, {"rowsperstrip": 1}),
    "colours side by side": (COLOUR, {"photometric": "rgb"}),
    "colours of 16 bits": (COLOUR16, {"photometric": "rgb"}),
}
ROWS = [
    *(
        Row(f"TIFF, {name}", partial(written, array, options), "the same pixels")
        for name, (array, options) in WRITTEN.items()
    ),
    Row(
        "TIFF, lossy JPEG",
        partial(written, U8, {"compression": "jpeg", "compressionargs": {"level": 99}}, most=12),
        "nearly the same pixels",
    ),
    Row("TIFF of complex numbers", partial(refused_as, U16.astype("c8"), "complex", {}), "refused"),
    Row(
        "TIFF of a half-precision infinity",
        partial(refused_as, np.where(U16 > 500, np.inf, U16).astype("f2"), "infinite", {}),
        "refused",
    ),
    Row("TIFF of 12 bits", twelve_bits, "the same pixels"),
    Row("TIFF of reversed bits", reversed_bits, "the same pixels"),
    Row("TIFF of one bit", bilevel, "refused as a mask"),
    Row("TIFF with a strip of no length", zero_strip, "refused"),
    Row("TIFF whose strips lie at one place", same_strip_twice, "as the file says"),
    Row("TIFF without a sample format", no_sample_format, "the same pixels"),
    Row("TIFF of an undefined sample format", void_sample_format, "the same pixels"),
    Row("TIFF without lengths of strips", no_strip_counts, "the same pixels, or refused"),
    *(
        Row(
            f"TIFF of {up} / {down} pixels a centimetre",
            partial(odd_resolution, (up, down)),
            "restored",
        )
        for up, down in ((0, 0), (1, 0), (0, 1), (2**32 - 1, 1))
    ),
    Row("TIFF with GDAL's missing pixels", nodata, "refused, or said"),
    Row("TIFF that is a raw colour mosaic", cfa, "refused, or said"),
    Row("TIFF with smaller copies below", sub_ifds, "the large one"),
    Row("TIFF with a smaller second page", two_sizes, "the first, and said"),
    *(
        Row(
            f"ImageJ file that speaks of {count} planes",
            partial(imagej_count, count),
            "one plane, or refused",
        )
        for count in (2, 10**6, 10**15, -1, 0)
    ),
    Row("ImageJ stack of channels", imagej_stack, "each plane in its place"),
    Row("ImageJ, big-endian", imagej_big_endian, "the same pixels"),
    Row("ImageJ's micrometres", calibration, "kept in the result"),
    *(
        Row(f"OME-TIFF in the order {order}", partial(ome_order, order), "each plane in its place")
        for order in ("XYZCT", "XYCZT", "XYTCZ", "XYZTC")
    ),
    *(
        Row(f"ImageJ's unit {unit}", partial(odd_unit, unit), "restored")
        for unit in ("мкм", "ピクセル", "\\u00B5m", "a\\tb", "inch", "1/cm")
    ),
    Row("OME-TIFF whose second file is gone", ome_companion_missing, "refused"),
    Row("TIFF with rubbish at its end", trailing_rubbish, "the same pixels"),
    *(
        Row(
            f"TIFF with a description of {what}",
            partial(description, text),
            "the pixels, or why not",
        )
        for what, text in (
            ("Latin letters", "Grösse µ".encode("latin-1")),
            ("five million letters", b"x" * 5_000_000),
            ("broken XML", b"<OME><Image"),
            ("broken JSON", b'{"shape": [32, 32'),
            ("JSON that lies", b'{"shape": [64, 16]}'),
            ("JSON of huge sizes", b'{"shape": [1000000, 1000000]}'),
        )
    ),
    Row("PNG, interlaced, of 16 bits", interlaced_16, "the same pixels"),
    *(Row(f"PNG of {bits} bits", partial(few_bits, bits), "in proportion") for bits in (2, 4)),
    Row("PNG with gamma", gamma, "the stored values"),
    Row("PNG with a transparent grey", transparent_grey, "the same pixels"),
    Row("PNG with a palette out of order", palette, "its colours"),
    Row("PNG that is animated", animated, "the first frame, and said"),
    Row("PNG with a flipped byte", damaged_png, "refused"),
    Row("PNG without an end", png_without_end, "the same pixels, or refused"),
    Row("PNG with half of its rows", short_png, "refused"),
    Row("PNG with three million letters", huge_text, "restored, or refused in words"),
    Row("JPEG, progressive", partial(jpeg, {"progressive": True}), "nearly the same pixels"),
    Row(
        "JPEG with restarts", partial(jpeg, {"restart_marker_blocks": 2}), "nearly the same pixels"
    ),
    Row("JPEG cut in half", half_jpeg, "refused"),
    *(
        Row(f"{name} as an image", partial(other_kind, save, name), "refused by its kind")
        for name, save in (
            ("in.gif", lambda path: Image.fromarray(U8).save(path)),
            ("in.bmp", lambda path: Image.fromarray(U8).save(path)),
            ("in.webp", lambda path: Image.fromarray(COLOUR).save(path)),
            ("in.npy", lambda path: np.save(path, U16)),
            ("in.npz", lambda path: np.savez(path, a=U16)),
            ("in.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))),
            ("in.mrc", lambda path: path.write_bytes(bytes(208) + b"MAP " + bytes(9999))),
        )
    ),
    Row("Zarr 2", partial(zarr_of, U16, {"version": 2}), "the same pixels"),
    Row(
        "Zarr 2, columns first",
        partial(zarr_of, U16, {"version": 2, "order": "F"}),
        "the same pixels",
    ),
    Row(
        "Zarr 2, big-endian", partial(zarr_of, U16.astype(">u2"), {"version": 2}), "the same pixels"
    ),
    Row(
        "Zarr 3 in shards",
        partial(zarr_of, U16, {"chunks": (8, 8), "shards": (32, 32)}),
        "the same pixels",
    ),
    Row("Zarr of uint64", partial(zarr_of, U16.astype("u8"), {}), "the same pixels"),
    Row("Zarr of float16", partial(zarr_of, U16.astype("f2"), {}), "the same pixels"),
    Row("Zarr whose axes are x and y", partial(zarr_of, U16, {"axes": "xy"}), "the same pixels"),
    Row("Zarr with a mark before its metadata", zarr_marked, "restored, or refused in words"),
    Row("Zarr that lies elsewhere", zarr_translation, "its place is kept, or said"),
    Row("Zarr in milliseconds and nanometres", zarr_units, "units and values kept"),
    Row("Zarr in a zip", zarr_is_zip, "refused by its kind"),
    Row("Zarr that is an array alone", zarr_array_alone, "refused"),
    Row("Zarr named by its level", zarr_named_level, "refused"),
    Row("Zarr with a slash", zarr_slash, "restored"),
    Row("Zarr into a Zarr", zarr_beside, "the input as before"),
    *(
        Row(f"Zarr {what}", partial(zarr_refused, change, pattern, options), "refused")
        for what, change, pattern, options in (
            ("without a chunk", drop_chunk, "lacks", {"chunks": (16, 16)}),
            ("whose chunk is cut", cut_chunk, "damaged|cut off", {"chunks": (16, 16)}),
            (
                "of pixels of no size",
                edited(
                    lambda ome: ome["datasets"][0].update(
                        coordinateTransformations=[{"type": "scale", "scale": [0, 1]}]
                    )
                ),
                "size",
                {},
            ),
            (
                "of pixels of negative size",
                edited(
                    lambda ome: ome["datasets"][0].update(
                        coordinateTransformations=[{"type": "scale", "scale": [-1, 1]}]
                    )
                ),
                "size",
                {},
            ),
            (
                "with one axis too many",
                edited(lambda ome: ome["axes"].insert(0, {"name": "z"})),
                "axes|sizes",
                {},
            ),
            (
                "with an axis of another name",
                edited(lambda ome: ome["axes"][0].update(name="q")),
                "axes",
                {},
            ),
            ("without levels", edited(lambda ome: ome.update(datasets=[])), "levels", {}),
            (
                "whose level is not there",
                edited(lambda ome: ome["datasets"][0].update(path="7")),
                "damaged|level|lacks|7",
                {},
            ),
        )
    ),
]
