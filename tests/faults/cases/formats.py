"""Image files as other programs write them: what is read is what a person sees in them, or is said.

Most rows fill a small hole: all other pixels of a result are those of the file, so that what was
read can be compared with what was written, value by value."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from faults.cases import (
    Case,
    make_image,
)
from faults.cases.formats_checks import (
    check_12_bit_packing,
    check_animation,
    check_bilevel,
    check_bit_depth,
    check_colour_mosaic,
    check_damaged_png,
    check_description,
    check_empty_strip,
    check_fill_order_2,
    check_foreign_format,
    check_gdal_nodata,
    check_huge_text,
    check_imagej_big_endian,
    check_imagej_calibration,
    check_imagej_plane_count,
    check_imagej_stack,
    check_interlaced_png,
    check_invalid_resolution,
    check_jpeg,
    check_missing_byte_counts,
    check_missing_ome_companion,
    check_missing_sample_format,
    check_ome_dimension_order,
    check_pages_of_two_sizes,
    check_palette,
    check_png_gamma,
    check_png_without_end_chunk,
    check_pyramid_sub_ifds,
    check_read_back,
    check_shared_strip,
    check_tiff_refused,
    check_trailing_bytes,
    check_transparent_grey,
    check_truncated_jpeg,
    check_truncated_png,
    check_unknown_unit,
    check_void_sample_format,
)
from faults.cases.zarr_checks import (
    change_multiscale,
    check_bare_zarr_array,
    check_zarr,
    check_zarr_level_path,
    check_zarr_path_with_slash,
    check_zarr_refused,
    check_zarr_to_zarr,
    check_zarr_translation,
    check_zarr_units,
    check_zarr_with_byte_order_mark,
    check_zipped_zarr,
    cut_chunk,
    drop_chunk,
)

U8, U16, F4 = make_image(dtype="uint8"), make_image(), make_image(dtype="float32")
COLOUR = np.stack([U8, U8 // 2, 255 - U8], -1)
COLOUR16 = np.stack([U16, U16 // 2, 3000 - U16], -1)
WRITTEN: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "BigTIFF": (U16, {"bigtiff": True}),
    "tiles": (U16, {"tile": (16, 16)}),
    "tiles that stand over": (make_image(40, 40), {"tile": (32, 32)}),
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
    "float16": (make_image(dtype="float16"), {}),
    "float64": (make_image(dtype="float64") + 0.5, {}),
    "int8": (make_image(dtype="int8"), {}),
    "int16": (make_image(dtype="int16") - 700, {}),
    "int32 below zero": (make_image(dtype="int32") - 100_000, {}),
    "uint32": (make_image(dtype="uint32"), {}),
    "int64": (make_image(dtype="int64"), {}),
    "uint64": (make_image(dtype="uint64"), {}),
    "one row a strip": (U16, {"rowsperstrip": 1}),
    "colours side by side": (COLOUR, {"photometric": "rgb"}),
    "colours of 16 bits": (COLOUR16, {"photometric": "rgb"}),
}
CASES = [
    *(
        Case(f"TIFF, {name}", partial(check_read_back, array, options), "the same pixels")
        for name, (array, options) in WRITTEN.items()
    ),
    Case(
        "TIFF, lossy JPEG",
        partial(
            check_read_back,
            U8,
            {"compression": "jpeg", "compressionargs": {"level": 99}},
            tolerance=12,
        ),
        "nearly the same pixels",
    ),
    Case(
        "TIFF of complex numbers",
        partial(check_tiff_refused, U16.astype("c8"), "complex", {}),
        "refused",
    ),
    Case(
        "TIFF of a half-precision infinity",
        partial(check_tiff_refused, np.where(U16 > 500, np.inf, U16).astype("f2"), "infinite", {}),
        "refused",
    ),
    Case("TIFF of 12 bits", check_12_bit_packing, "the same pixels"),
    Case("TIFF of reversed bits", check_fill_order_2, "the same pixels"),
    Case("TIFF of one bit", check_bilevel, "refused as a mask"),
    Case("TIFF with a strip of no length", check_empty_strip, "refused"),
    Case("TIFF whose strips lie at one place", check_shared_strip, "as the file says"),
    Case("TIFF without a sample format", check_missing_sample_format, "the same pixels"),
    Case("TIFF of an undefined sample format", check_void_sample_format, "the same pixels"),
    Case(
        "TIFF without lengths of strips", check_missing_byte_counts, "the same pixels, or refused"
    ),
    *(
        Case(
            f"TIFF of {up} / {down} pixels a centimetre",
            partial(check_invalid_resolution, (up, down)),
            "restored",
        )
        for up, down in ((0, 0), (1, 0), (0, 1), (2**32 - 1, 1))
    ),
    Case("TIFF with GDAL's missing pixels", check_gdal_nodata, "refused, or said"),
    Case("TIFF that is a raw colour mosaic", check_colour_mosaic, "refused, or said"),
    Case("TIFF with smaller copies below", check_pyramid_sub_ifds, "the large one"),
    Case("TIFF with a smaller second page", check_pages_of_two_sizes, "the first, and said"),
    *(
        Case(
            f"ImageJ file that speaks of {count} planes",
            partial(check_imagej_plane_count, count),
            "one plane, or refused",
        )
        for count in (2, 10**6, 10**15, -1, 0)
    ),
    Case("ImageJ stack of channels", check_imagej_stack, "each plane in its place"),
    Case("ImageJ, big-endian", check_imagej_big_endian, "the same pixels"),
    Case("ImageJ's micrometres", check_imagej_calibration, "kept in the result"),
    *(
        Case(
            f"OME-TIFF in the order {order}",
            partial(check_ome_dimension_order, order),
            "each plane in its place",
        )
        for order in ("XYZCT", "XYCZT", "XYTCZ", "XYZTC")
    ),
    *(
        Case(f"ImageJ's unit {unit}", partial(check_unknown_unit, unit), "restored")
        for unit in ("мкм", "ピクセル", "\\u00B5m", "a\\tb", "inch", "1/cm")
    ),
    Case("OME-TIFF whose second file is gone", check_missing_ome_companion, "refused"),
    Case("TIFF with rubbish at its end", check_trailing_bytes, "the same pixels"),
    *(
        Case(
            f"TIFF with a description of {what}",
            partial(check_description, text),
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
    Case("PNG, interlaced, of 16 bits", check_interlaced_png, "the same pixels"),
    *(
        Case(f"PNG of {bits} bits", partial(check_bit_depth, bits), "in proportion")
        for bits in (2, 4)
    ),
    Case("PNG with gamma", check_png_gamma, "the stored values"),
    Case("PNG with a transparent grey", check_transparent_grey, "the same pixels"),
    Case("PNG with a palette out of order", check_palette, "its colours"),
    Case("PNG that is animated", check_animation, "the first frame, and said"),
    Case("PNG with a flipped byte", check_damaged_png, "refused"),
    Case("PNG without an end", check_png_without_end_chunk, "the same pixels, or refused"),
    Case("PNG with half of its rows", check_truncated_png, "refused"),
    Case("PNG with three million letters", check_huge_text, "restored, or refused in words"),
    Case("JPEG, progressive", partial(check_jpeg, {"progressive": True}), "nearly the same pixels"),
    Case(
        "JPEG with restarts",
        partial(check_jpeg, {"restart_marker_blocks": 2}),
        "nearly the same pixels",
    ),
    Case("JPEG cut in half", check_truncated_jpeg, "refused"),
    *(
        Case(
            f"{name} as an image", partial(check_foreign_format, save, name), "refused by its kind"
        )
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
    Case("Zarr 2", partial(check_zarr, U16, {"version": 2}), "the same pixels"),
    Case(
        "Zarr 2, columns first",
        partial(check_zarr, U16, {"version": 2, "order": "F"}),
        "the same pixels",
    ),
    Case(
        "Zarr 2, big-endian",
        partial(check_zarr, U16.astype(">u2"), {"version": 2}),
        "the same pixels",
    ),
    Case(
        "Zarr 3 in shards",
        partial(check_zarr, U16, {"chunks": (8, 8), "shards": (32, 32)}),
        "the same pixels",
    ),
    Case("Zarr of uint64", partial(check_zarr, U16.astype("u8"), {}), "the same pixels"),
    Case("Zarr of float16", partial(check_zarr, U16.astype("f2"), {}), "the same pixels"),
    Case(
        "Zarr whose axes are x and y", partial(check_zarr, U16, {"axes": "xy"}), "the same pixels"
    ),
    Case(
        "Zarr with a mark before its metadata",
        check_zarr_with_byte_order_mark,
        "restored, or refused in words",
    ),
    Case("Zarr that lies elsewhere", check_zarr_translation, "its place is kept, or said"),
    Case("Zarr in milliseconds and nanometres", check_zarr_units, "units and values kept"),
    Case("Zarr in a zip", check_zipped_zarr, "refused by its kind"),
    Case("Zarr that is an array alone", check_bare_zarr_array, "refused"),
    Case("Zarr named by its level", check_zarr_level_path, "refused"),
    Case("Zarr with a slash", check_zarr_path_with_slash, "restored"),
    Case("Zarr into a Zarr", check_zarr_to_zarr, "the input as before"),
    *(
        Case(f"Zarr {what}", partial(check_zarr_refused, change, pattern, options), "refused")
        for what, change, pattern, options in (
            ("without a chunk", drop_chunk, "lacks", {"chunks": (16, 16)}),
            ("whose chunk is cut", cut_chunk, "damaged|cut off", {"chunks": (16, 16)}),
            (
                "of pixels of no size",
                change_multiscale(
                    lambda ome: ome["datasets"][0].update(
                        coordinateTransformations=[{"type": "scale", "scale": [0, 1]}]
                    )
                ),
                "size",
                {},
            ),
            (
                "of pixels of negative size",
                change_multiscale(
                    lambda ome: ome["datasets"][0].update(
                        coordinateTransformations=[{"type": "scale", "scale": [-1, 1]}]
                    )
                ),
                "size",
                {},
            ),
            (
                "with one axis too many",
                change_multiscale(lambda ome: ome["axes"].insert(0, {"name": "z"})),
                "axes|sizes",
                {},
            ),
            (
                "with an axis of another name",
                change_multiscale(lambda ome: ome["axes"][0].update(name="q")),
                "axes",
                {},
            ),
            (
                "without levels",
                change_multiscale(lambda ome: ome.update(datasets=[])),
                "levels",
                {},
            ),
            (
                "whose level is not there",
                change_multiscale(lambda ome: ome["datasets"][0].update(path="7")),
                "damaged|level|lacks|7",
                {},
            ),
        )
    ),
]
