"""A table of bad inputs: each is created on disk, with the refusal that must answer it."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

from napari_dip.pipeline.machine import detect_machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = 32


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Attributes
    ----------
    name : str
    code : str
        Key in `FAULTS`.
    make : callable
        Gets an empty folder, puts the files there, returns what is typed after `napari-dip`.
    """

    name: str
    code: str
    make: Callable[[Path], list[str]]


def noisy(*shape: int, dtype: str = "uint16") -> np.ndarray:
    values = np.random.default_rng(0).normal(1000, 50, shape or (SIDE, SIDE))
    return values.astype(dtype)


def large(side: int) -> np.ndarray:
    """Repeat a small noisy image: to draw as many values anew takes seconds."""
    return np.resize(noisy(), (side, side))


def denoise_array(array: Any, *options: str, **tiff_options: Any) -> Callable[[Path], list[str]]:
    """Denoise a TIFF file that holds this array."""

    def make(folder: Path) -> list[str]:
        if np.ndim(array) > 1:  # or tifffile takes a stack of three for colours
            tiff_options.setdefault("photometric", "minisblack")
        tifffile.imwrite(folder / "in.tif", array, **tiff_options)
        return make_argv(folder, "in.tif", *options)

    return make


def denoise_image(*options: str) -> Callable[[Path], list[str]]:
    """Denoise a good image, with options in which {folder} stands for the folder."""
    return denoise_array(noisy(), *options)


def denoise_bytes(content: bytes, name: str = "in.tif") -> Callable[[Path], list[str]]:
    """Denoise a file of these bytes."""

    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        return make_argv(folder, name)

    return make


def make_argv(folder: Path, name: str, *options: str) -> list[str]:
    filled = [option.replace("{folder}", str(folder)) for option in options]
    if not any(option == "-o" for option in filled):
        filled += ["-o", str(folder / "out.tif")]
    return ["denoise", str(folder / name) if name else "", *filled]


def recipe(content: object) -> Callable[[Path], list[str]]:
    """Denoise a good image by a recipe file that holds this."""

    def make(folder: Path) -> list[str]:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "recipe.json").write_text(text, encoding="utf-8")
        return denoise_image("--from-recipe", "{folder}/recipe.json")(folder)

    return make


def denoise_after(prepare: Callable[[Path], object], *options: str) -> Callable[[Path], list[str]]:
    """Denoise a good image once something more was done to the folder."""

    def make(folder: Path) -> list[str]:
        argv = denoise_image(*options)(folder)
        prepare(folder)
        return argv

    return make


def with_nan(*shape: int) -> np.ndarray:
    values = noisy(*shape, dtype="float32")
    values[3, 4] = np.nan
    return values


def with_infinity() -> np.ndarray:
    values = noisy(dtype="float32")
    values[5, 6] = -np.inf
    return values


def absurd_header(side: int = 2**20) -> bytes:
    """Write a TIFF of 4 KiB whose header claims side x side pixels of 16 bits."""
    entries = [(256, side), (257, side), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, side), (279, 4096)]
    tags = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in entries)
    directory = struct.pack("<H", len(entries)) + tags + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + 4096) + bytes(4096) + directory


def absurd_png() -> bytes:
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 16, 0, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + packed


def cut_tiff(folder: Path) -> list[str]:
    argv = denoise_array(noisy(64, 64))(folder)
    whole = (folder / "in.tif").read_bytes()
    (folder / "in.tif").write_bytes(whole[: len(whole) // 2])
    return argv


def cut_png(folder: Path) -> list[str]:
    Image.fromarray(noisy(64, 64, dtype="uint16")).save(folder / "in.png")
    whole = (folder / "in.png").read_bytes()
    (folder / "in.png").write_bytes(whole[: len(whole) // 2])
    return make_argv(folder, "in.png")


def damaged_tags(folder: Path) -> list[str]:
    """Let the strips of pixels begin far behind the end of the file."""
    argv = denoise_array(noisy())(folder)
    with tifffile.TiffFile(folder / "in.tif", mode="r+b") as file:
        file.pages[0].tags["StripOffsets"].overwrite((2**31,))
    return argv


def claim_compression(method: int) -> Callable[[Path], list[str]]:
    """Name a compression in the header that the pixels do not have."""

    def make(folder: Path) -> list[str]:
        argv = denoise_array(noisy())(folder)
        with tifffile.TiffFile(folder / "in.tif", mode="r+b") as file:
            file.pages[0].tags["Compression"].overwrite(method)
        return argv

    return make


def absurd_ome(folder: Path) -> list[str]:
    argv = denoise_array(noisy(2, SIDE, SIDE), ome=True, metadata={"axes": "TYX"})(folder)
    with tifffile.TiffFile(folder / "in.tif") as file:
        xml = file.pages[0].description
    absurd = xml.replace('SizeT="2"', 'SizeT="999999999"').encode()
    denoise_array(noisy(2, SIDE, SIDE), description=absurd, metadata=None)(folder)
    return argv


def write_zip(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "in.tif", "w") as file:
        file.writestr("a.txt", "text")
    return make_argv(folder, "in.tif")


def link_to_itself(folder: Path) -> list[str]:
    (folder / "in.tif").symlink_to("in.tif")
    return make_argv(folder, "in.tif")


def make_pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "in.tif")
    return make_argv(folder, "in.tif")


def forbid_reading(folder: Path) -> list[str]:
    argv = denoise_image()(folder)
    (folder / "in.tif").chmod(0)
    return argv


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def colours_of_16_bits() -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in noisy(SIDE, SIDE * 3).astype(">u2"))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")


def coded_as_cmyk(folder: Path) -> list[str]:
    Image.fromarray(noisy(SIDE, SIDE, 3, dtype="uint8")).convert("CMYK").save(folder / "in.jpg")
    return make_argv(folder, "in.jpg")


def black_and_white(folder: Path) -> list[str]:
    Image.fromarray(noisy() > 1000).save(folder / "in.png")
    return make_argv(folder, "in.png")


def many_series(folder: Path) -> list[str]:
    with tifffile.TiffWriter(folder / "in.tif") as file:
        file.write(noisy(4, 7))
        file.write(noisy(SIDE, SIDE))
    return make_argv(folder, "in.tif")


def arguments(*argv: str) -> Callable[[Path], list[str]]:
    """What is typed, as it is, in which {folder} stands for the folder."""
    return lambda folder: [text.replace("{folder}", str(folder)) for text in argv]


def recipe_of_bytes(folder: Path) -> list[str]:
    (folder / "recipe.json").write_bytes(b"\xff\xfe\x00\xd8" * 9)
    return denoise_image("--from-recipe", "{folder}/recipe.json")(folder)


def touch(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("mine")


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(target)


def missing_device() -> str:
    devices = detect_machine().devices
    return next(device for device in ("cuda", "mps") if device not in devices)


def task(name: str, *options: str, **images: Any) -> Callable[[Path], list[str]]:
    """Run another task on a good image; further images are saved and named by their option."""

    def make(folder: Path) -> list[str]:
        argv = denoise_image(*options)(folder)
        for option, array in images.items():
            tiff_options = {"photometric": "minisblack"} if array.ndim > 1 else {}
            tifffile.imwrite(folder / f"{option}.tif", array, **tiff_options)
            argv += [f"--{option}", str(folder / f"{option}.tif")]
        return [name, *argv[1:]]

    return make


def stack(name: str, *options: str, planes: int = 6, **images: Any) -> Callable[..., list[str]]:
    """Run another task on a good stack."""

    def make(folder: Path) -> list[str]:
        argv = task(name, *options, **images)(folder)
        volume = noisy(planes, SIDE, SIDE)
        tifffile.imwrite(folder / "in.tif", volume, photometric="minisblack", imagej=False)
        return argv

    return make


def psf(**values: float) -> np.ndarray:
    """Even PSF of 5 x 5, with single values put in at its corner and middle."""
    array = np.ones((5, 5), "float32")
    for place, value in values.items():
        array[{"corner": (0, 0), "middle": (2, 2)}[place]] = value
    return array


def make_two_spots(side: int) -> np.ndarray:
    """PSF of two bright spots near opposite borders, with darkness between them."""
    rows, columns = np.mgrid[:side, :side]
    distances = [(rows - side // 2) ** 2 + (columns - middle) ** 2 for middle in (12, side - 13)]
    return sum(np.exp(-distance / 8) for distance in distances).astype("float32")


def setting(option: str, value: str) -> Case:
    return Case(
        f"--{option} {value or 'empty'}", "setting-wrong", denoise_image(f"--{option}={value}")
    )


FILES = [
    Case("missing file", "file-missing", lambda folder: make_argv(folder, "none.tif")),
    Case("folder in the way", "file-missing", lambda folder: make_argv(folder, "none/none.tif")),
    Case("folder as file", "file-is-folder", lambda folder: make_argv(folder, ".")),
    Case("empty file", "file-empty", denoise_bytes(b"")),
    Case("empty path", "path-empty", lambda folder: make_argv(folder, "")),
    Case("NUL in path", "path-wrong", lambda folder: make_argv(folder, "a\0b.tif")),
    Case("name too long", "path-wrong", lambda folder: make_argv(folder, "a" * 300 + ".tif")),
    Case("loop of links", "file-unreadable", link_to_itself),
    Case("pipe", "file-type", make_pipe),
    Case("text", "file-type", denoise_bytes(b"These are not pixels.\n" * 20)),
    Case("PDF", "file-type", denoise_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" * 9, "in.pdf")),
    Case("zip called tif", "file-type", write_zip),
    Case("16-bit colour PNG", "file-type", denoise_bytes(colours_of_16_bits(), "in.png")),
    Case("CMYK", "file-colours", coded_as_cmyk),
    Case("absurd PNG header", "file-type", denoise_bytes(absurd_png(), "in.png")),
    Case("absurd TIFF header", "file-broken", denoise_bytes(absurd_header())),
    Case("absurd OME header", "file-broken", absurd_ome),
    Case("TIFF of a header only", "file-broken", denoise_bytes(b"II*\0\x08\0\0\0")),
    Case("PNG of a header only", "file-broken", denoise_bytes(b"\x89PNG\r\n\x1a\n", "in.png")),
    Case("cut-off TIFF", "file-broken", cut_tiff),
    Case("cut-off PNG", "file-broken", cut_png),
    Case("damaged tags", "file-broken", damaged_tags),
    Case("damaged LZW", "file-broken", claim_compression(5)),
    Case("compressed in a forgotten way", "file-codec", claim_compression(32809)),
    Case("compressed in an unknown way", "file-codec", claim_compression(60000)),
]
if os.geteuid() != 0:  # nothing is forbidden to root
    FILES.append(Case("no permission", "file-unreadable", forbid_reading))

PIXELS = [
    Case("0-d", "image-scalar", denoise_array(np.array(7, "uint16"))),
    Case("1-d", "image-line", denoise_array(noisy(SIDE))),
    Case("1 x N", "image-small", denoise_array(noisy(1, 500))),
    Case("N x 1", "image-small", denoise_array(noisy(500, 1))),
    Case("too small", "image-small", denoise_array(noisy(8, 8))),
    Case("first of several images too small", "image-small", many_series),
    Case("all NaN", "pixels-nan", denoise_array(np.full((SIDE, SIDE), np.nan, "float32"))),
    Case("one NaN", "pixels-nan", denoise_array(with_nan(SIDE, SIDE))),
    Case("one infinite", "pixels-infinite", denoise_array(with_infinity())),
    Case("constant", "pixels-constant", denoise_array(np.full((SIDE, SIDE), 7, "uint16"))),
    Case("beyond single precision", "pixels-range", denoise_array(noisy(dtype="float64") + 1e15)),
    Case("bool", "image-bool", denoise_array(noisy() > 1000)),
    Case("black and white PNG", "image-bool", black_and_white),
    Case("complex", "image-complex", denoise_array(noisy().astype("complex64"))),
    Case(
        "colours in channels",
        "axes-twice",
        denoise_array(noisy(2, SIDE, SIDE, 3), "--axes", "CYXS"),
    ),
    Case(
        "colours taken for a stack",
        "axes-colours",
        denoise_array(noisy(SIDE, SIDE, 3), "--axes", "ZYX"),
    ),
    Case("six axes", "axes-wrong", denoise_array(noisy(2, 2, 2, 2, SIDE, SIDE))),
    Case("too few axes named", "axes-wrong", denoise_array(noisy(), "--axes", "X")),
    Case("unknown axes named", "axes-wrong", denoise_array(noisy(), "--axes", "QQ")),
    Case("an axis named twice", "axes-wrong", denoise_array(noisy(), "--axes", "YY")),
    Case("axes without Y", "axes-missing", denoise_array(noisy(), "--axes", "CX")),
    Case("five colours", "image-channels", denoise_array(noisy(SIDE, SIDE, 5), "--axes", "YXS")),
]

OUTPUTS = [
    Case(
        "output folder missing", "output-folder-missing", denoise_image("-o", "{folder}/no/out.tif")
    ),
    Case("output exists", "output-exists", denoise_after(touch("out.tif"))),
    Case("output is a dangling link", "output-exists", denoise_after(link("out.tif", "none.tif"))),
    Case(
        "output is the input",
        "output-is-input",
        denoise_image("-o", "{folder}/in.tif", "--overwrite"),
    ),
    Case(
        "output is the input by another way",
        "output-is-input",
        denoise_after(
            lambda folder: (folder / "a").mkdir(), "-o", "{folder}/a/../in.tif", "--overwrite"
        ),
    ),
    Case(
        "output is a link to the input", "output-is-input", denoise_after(link("out.tif", "in.tif"))
    ),
    Case(
        "output is the input by another name",
        "output-is-input",
        denoise_after(lambda folder: os.link(folder / "in.tif", folder / "out.tif"), "--overwrite"),
    ),
    Case("output is a folder", "output-is-folder", denoise_image("-o", "{folder}")),
    Case("output as PNG", "output-type", denoise_image("-o", "{folder}/out.png")),
    Case("output without ending", "output-type", denoise_image("-o", "{folder}/out")),
    Case("output empty", "path-empty", denoise_image("-o", "")),
    Case("output with NUL", "path-wrong", denoise_image("-o", "{folder}/a\0b.tif")),
    Case("output read-only", "output-readonly", denoise_image("-o", "/proc/out.tif")),
    Case("PSF as PNG", "output-type", task("blind-deblur", "--psf-out", "{folder}/psf.png")),
    Case("report as text", "output-json", denoise_image("--report", "{folder}/report.txt")),
    Case(
        "report exists",
        "output-exists",
        denoise_after(touch("r.json"), "--report", "{folder}/r.json"),
    ),
    Case(
        "uncertainty over the input",
        "output-is-input",
        denoise_image("--uncertainty", "{folder}/in.tif"),
    ),
    Case("two results, one name", "output-twice", denoise_image("--residual", "{folder}/out.tif")),
    Case(
        "recipe over the recipe it came from",
        "output-is-input",
        denoise_after(
            lambda folder: (folder / "r.json").write_text('{"schema": 1, "task": "denoise"}'),
            *("--from-recipe", "{folder}/r.json", "--recipe", "{folder}/r.json", "--overwrite"),
        ),
    ),
]

SETTINGS = [
    *(setting("read-noise", value) for value in ("-3", "nan", "inf", "1e300", "", "loud")),
    *(setting("gain", value) for value in ("-1", "nan")),
    *(setting("blind-spot-shape", value) for value in ("11", "110/111/010", "101", "abc", "/")),
    *(setting("smoothing", value) for value in ("-0.1", "101")),
    *(setting("seed", value) for value in ("-1", "1.5", "99999999999999999999")),
    *(setting("max-iterations", value) for value in ("0", "-5", "1e3", "2000000")),
    *(setting("restarts", value) for value in ("0", "65")),
    *(setting("time-limit", value) for value in ("0", "-1", "nan")),
    setting("preset", "quick"),
    setting("prior", "bm3d"),
    setting("noise", "rician"),
    setting("channels", "some"),
    setting("device", "tpu"),
    setting("dtype", "float16"),
    Case("device that is not there", "device-missing", denoise_image("--device", missing_device())),
]

RECIPES = [
    Case("recipe missing", "file-missing", denoise_image("--from-recipe", "{folder}/none.json")),
    Case("recipe path empty", "path-empty", denoise_image("--from-recipe", "")),
    Case("recipe is a folder", "file-is-folder", denoise_image("--from-recipe", "{folder}")),
    Case("recipe empty", "file-empty", recipe("")),
    Case("recipe cut off", "recipe-broken", recipe('{"schema": 1, "task": "den')),
    Case("recipe is a list", "recipe-broken", recipe([1, 2])),
    Case("recipe nested too deep", "recipe-broken", recipe("[" * 100_000)),
    Case("recipe without schema", "recipe-broken", recipe({"task": "denoise"})),
    Case("recipe is no text", "recipe-broken", recipe_of_bytes),
    Case("recipe from the future", "recipe-newer", recipe({"schema": 99, "task": "denoise"})),
    Case(
        "recipe with an unknown setting",
        "setting-unknown",
        recipe({"schema": 1, "task": "denoise", "settings": {"sharpness": 3}}),
    ),
    Case(
        "recipe with a value of the wrong type",
        "setting-wrong",
        recipe({"schema": 1, "task": "denoise", "seed": {"a": 1}}),
    ),
    Case("recipe of an unknown task", "setting-wrong", recipe({"schema": 1, "task": "sharpen"})),
]

SPOILT_TEXTS = [
    Case("unknown command", "command-unknown", arguments("sharpen", "in.tif")),
    Case("plan of an unknown task", "command-unknown", arguments("plan", "sharpen", "in.tif")),
    Case("unknown option", "option-unknown", denoise_image("--sharpness", "3")),
    Case("option without its value", "option-value", denoise_image("--seed")),
    Case("option given twice", "option-twice", denoise_image("--seed", "1", "--seed", "2")),
    Case("no input", "argument-missing", arguments("denoise", "-o", "{folder}/out.tif")),
    Case("no output", "argument-missing", arguments("denoise", "{folder}/in.tif")),
    Case("two inputs", "argument-extra", denoise_image("second.tif")),
    Case("no guide", "argument-missing", task("guide")),
]

SUPER_RESOLVE = [
    *(
        Case(
            f"factor {text or 'empty'}", "setting-wrong", task("super-resolve", f"--factor={text}")
        )
        for text in ("0", "1", "5", "-2", "2.5", "1,1", "2,5", "1,1,1", "2,1,1,1", "", "two")
    ),
    *(
        Case(f"--psf-sigma {text}", "setting-wrong", task("super-resolve", f"--psf-sigma={text}"))
        for text in ("-1", "21", "nan")
    ),
    Case("finer planes of a plane", "factor-depth", task("super-resolve", "--factor", "2,1,1")),
    Case(
        "finer planes of too few",
        "factor-depth",
        stack("super-resolve", "--factor", "2,1,1", planes=3),
    ),
    Case(
        "finer planes one by one",
        "factor-depth",
        stack("super-resolve", "--factor", "2,1,1", "--stacks", "planes"),
    ),
    Case(
        "finer planes of a movie",
        "factor-depth",
        stack("super-resolve", "--factor", "2,1,1", "--axes", "TYX"),
    ),
    Case("depth of a plane", "gaussian-depth", task("super-resolve", "--psf-sigma-z", "1")),
    Case(
        "coarser scales beside a PSF",
        "scales-none",
        task("super-resolve", "--prior", "zssr", "--psf-sigma", "1"),
    ),
    Case("unknown coarse pixels", "setting-wrong", task("super-resolve", "--downsampling", "mean")),
    Case(
        "result too large",
        "result-large",
        lambda folder: ["super-resolve", *denoise_array(large(9000), "--factor", "8")(folder)[1:]],
    ),
]

WIDEFIELD = (
    "--microscope",
    "widefield",
    "--na",
    "1.4",
    "--wavelength",
    "520",
    "--pixel-size",
    "65",
)
DEBLUR = [
    Case("no PSF", "psf-missing", task("deblur")),
    Case("PSF twice", "psf-twice", task("deblur", "--gaussian-sigma", "1", psf=psf())),
    Case("PSF and microscope", "psf-twice", task("deblur", *WIDEFIELD, psf=psf())),
    Case("PSF negative", "psf-negative", task("deblur", psf=psf(corner=-0.5))),
    Case("PSF all zero", "psf-zero", task("deblur", psf=0 * psf())),
    Case("PSF with NaN", "input-not-finite", task("deblur", psf=psf(middle=np.nan))),
    Case("PSF infinite", "input-not-finite", task("deblur", psf=psf(middle=np.inf))),
    Case("PSF dark in its middle", "psf-large", task("deblur", psf=make_two_spots(3 * SIDE + 1))),
    Case("PSF with three axes", "psf-axes", task("deblur", psf=np.ones((3, 5, 5)))),
    Case("PSF with one axis", "psf-axes", task("deblur", psf=np.ones(5))),
    Case("PSF missing file", "file-missing", task("deblur", "--psf", "{folder}/none.tif")),
    *(
        Case(
            f"--gaussian-sigma {text}", "setting-wrong", task("deblur", f"--gaussian-sigma={text}")
        )
        for text in ("0", "-1", "nan", "inf", "101", "wide")
    ),
    Case("Gaussian wider than the image", "psf-large", task("deblur", "--gaussian-sigma", "9")),
    Case("aperture alone", "optics-missing", task("deblur", "--na", "1.4")),
    *(
        Case(
            f"microscope without {WIDEFIELD[place][2:]}",
            "optics-missing",
            task("deblur", *WIDEFIELD[:place], *WIDEFIELD[place + 2 :]),
        )
        for place in (0, 2, 4, 6)
    ),
    Case(
        "aperture above the refractive index",
        "optics-impossible",
        task("deblur", *WIDEFIELD, "--refractive-index", "1.33"),
    ),
    Case("computed PSF larger than the image", "psf-large", task("deblur", *WIDEFIELD[:-1], "5")),
    Case("--na 0", "setting-wrong", task("deblur", "--na=0")),
    Case("--wavelength -520", "setting-wrong", task("deblur", "--wavelength=-520")),
    Case("--pixel-size nan", "setting-wrong", task("deblur", "--pixel-size=nan")),
    Case("--refractive-index 0.9", "setting-wrong", task("deblur", "--refractive-index=0.9")),
    Case("--pinhole -1", "setting-wrong", task("deblur", "--pinhole=-1")),
    Case("unknown microscope", "setting-wrong", task("deblur", "--microscope", "light sheet")),
    Case("width along Z alone", "gaussian-axial", stack("deblur", "--gaussian-sigma-z", "1")),
    Case(
        "width along Z of a plane",
        "gaussian-depth",
        task("deblur", "--gaussian-sigma", "1", "--gaussian-sigma-z", "1"),
    ),
    Case("--gaussian-sigma-z 0", "setting-wrong", task("deblur", "--gaussian-sigma-z=0")),
    Case("--z-step 0", "setting-wrong", task("deblur", "--z-step=0")),
    Case("distance of planes unknown", "z-step-missing", stack("deblur", *WIDEFIELD)),
    Case(
        "Gaussian deeper than the stack",
        "psf-large",
        stack("deblur", "--gaussian-sigma", "1", "--gaussian-sigma-z", "2"),
    ),
    Case("negative PSF of a stack", "psf-negative", stack("deblur", psf=-np.ones((3, 3, 3)))),
    Case("PSF of six axes", "psf-axes", stack("deblur", psf=np.ones((2, 3, 2, 3, 3, 3)))),
    Case("field of PSFs without light", "psf-zero", stack("deblur", psf=np.zeros((2, 3, 3, 3)))),
    Case(
        "field of PSFs with a circular border",
        "psf-field-circular",
        stack("deblur", "--border", "circular", psf=np.ones((2, 3, 3, 3))),
    ),
    Case("deep PSF of few planes", "psf-axes", stack("deblur", planes=3, psf=np.ones((3, 3, 3)))),
    Case(
        "deep PSF plane by plane",
        "psf-axes",
        stack("deblur", "--stacks", "planes", psf=np.ones((3, 3, 3))),
    ),
    Case(
        "deep PSF of a movie",
        "psf-axes",
        stack("deblur", "--axes", "TYX", psf=np.ones((3, 3, 3))),
    ),
    Case("unknown border", "setting-wrong", task("deblur", "--border", "mirror")),
]

HOLE = np.pad(np.full((4, 4), 2, "uint8"), 14)


def inpaint_by_colours(folder: Path) -> list[str]:
    """Fill in what a mask with red, green and blue marks."""
    argv = task("inpaint", mask=HOLE)(folder)
    tifffile.imwrite(folder / "mask.tif", np.stack([HOLE] * 3, -1), photometric="rgb")
    return argv


INPAINT = [
    Case("no mask", "holes-none", task("inpaint")),
    Case("label without a mask", "mask-missing", task("inpaint", "--label", "1")),
    Case("mask empty", "mask-empty", task("inpaint", mask=0 * HOLE)),
    Case("mask full", "mask-full", task("inpaint", mask=HOLE + 1)),
    Case("mask full once grown", "mask-full", task("inpaint", "--grow", "30", mask=HOLE)),
    Case("mask without the label", "mask-label", task("inpaint", "--label", "3", mask=HOLE)),
    Case("mask of another shape", "mask-shape", task("inpaint", mask=HOLE[:, 1:])),
    Case("mask turned", "mask-shape", task("inpaint", mask=np.ones((SIDE, 2 * SIDE), "uint8"))),
    Case("mask with planes", "mask-planes", task("inpaint", mask=np.stack([HOLE, HOLE]))),
    Case("mask with colours", "mask-planes", task("inpaint", mask=np.stack([HOLE] * 3, -1))),
    Case("mask in colours", "mask-colours", inpaint_by_colours),
    Case("mask with one axis", "mask-planes", task("inpaint", mask=HOLE[0])),
    Case("mask with NaN", "input-not-finite", task("inpaint", mask=np.where(HOLE, np.nan, 0))),
    Case("mask infinite", "input-not-finite", task("inpaint", mask=np.where(HOLE, np.inf, 0))),
    Case("mask missing file", "file-missing", task("inpaint", "--mask", "{folder}/none.tif")),
    *(
        Case(f"--grow {text}", "setting-wrong", task("inpaint", f"--grow={text}"))
        for text in ("-1", "65", "1.5")
    ),
    *(
        Case(f"--label {text}", "setting-wrong", task("inpaint", f"--label={text}"))
        for text in ("0", "-2", "dust")
    ),
    Case("unknown choice", "setting-wrong", task("inpaint", "--unmasked", "some")),
    Case("unknown prior for holes", "setting-wrong", task("inpaint", "--prior", "blind-spot")),
]

GUIDE = [
    Case("guide of other size", "guide-size", task("guide", guide=noisy(SIDE, SIDE + 1))),
    Case("guide is a stack", "guide-stack", task("guide", guide=noisy(3, SIDE, SIDE))),
    Case(
        "guide of other planes",
        "guide-planes",
        stack("guide", guide=noisy(3, SIDE, SIDE)),
    ),
    Case("guide is constant", "guide-constant", task("guide", guide=np.full((SIDE, SIDE), 7.0))),
    Case("guide with NaN", "input-not-finite", task("guide", guide=with_nan(SIDE, SIDE))),
    Case(
        "unknown prior of a guide",
        "setting-wrong",
        task("guide", "--prior", "flash", guide=noisy()),
    ),
]

BLIND_DEBLUR = [
    *(
        Case(f"--psf-size {text}", "setting-wrong", task("blind-deblur", f"--psf-size={text}"))
        for text in ("1", "-3", "0", "7.5", "999", "wide")
    ),
    Case("PSF size above the image's", "psf-large", task("blind-deblur", "--psf-size", "35")),
    Case("unknown kind of blur", "setting-wrong", task("blind-deblur", "--blur", "box")),
]

INVERTING = ("--network", "{folder}/net.pt2", "--layer", "body.1")


def inverting(name: str, content: bytes, *options: str) -> Callable[[Path], list[str]]:
    """Invert features of a good image by a network file of these bytes."""

    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(content)
        named = ("--network", f"{{folder}}/{name}", "--layer", "body.1")
        return task("invert-features", *named, *options)(folder)

    return make


def no_layer(folder: Path) -> list[str]:
    (folder / "net.pt2").write_bytes(b"x")
    return task("invert-features", "--network", "{folder}/net.pt2", "--layer=")(folder)


INVERT_FEATURES = [
    Case("no network", "network-missing", task("invert-features")),
    Case("no network file", "file-missing", task("invert-features", *INVERTING)),
    Case("network is a pickle", "network-type", inverting("net.pth", b"\x80\x04N.")),
    Case("network is empty", "file-empty", inverting("net.pt2", b"")),
    Case("network is text", "network-foreign", inverting("net.pt2", b"not a network")),
    Case("no layer", "layer-missing", no_layer),
    Case("architecture alone", "weights-missing", task("invert-features", "--network", "vgg16")),
    Case(
        "weights of a program",
        "weights-extra",
        inverting("net.pt2", b"x", "--weights", "w.safetensors"),
    ),
    Case("mean in words", "setting-wrong", inverting("net.pt2", b"x", "--mean", "half")),
    Case("white is black", "setting-wrong", inverting("net.pt2", b"x", "--black=5", "--white=5")),
    Case("smoothing below 0", "setting-wrong", inverting("net.pt2", b"x", "--smoothing=-1")),
]

CASES = [
    *FILES,
    *PIXELS,
    *OUTPUTS,
    *SETTINGS,
    *RECIPES,
    *SPOILT_TEXTS,
    *SUPER_RESOLVE,
    *DEBLUR,
    *INPAINT,
    *GUIDE,
    *BLIND_DEBLUR,
    *INVERT_FEATURES,
]
#: The Python call has no files of results and no words to misspell.
PYTHON_CASES = [
    *FILES,
    *PIXELS,
    *SETTINGS,
    *RECIPES,
    *SUPER_RESOLVE,
    *DEBLUR,
    *INPAINT,
    *GUIDE,
    *BLIND_DEBLUR,
    *INVERT_FEATURES,
]
