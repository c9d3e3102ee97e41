"""Random arrays and files of all kinds: a right result, or a refusal."""

from __future__ import annotations

import io
import logging
import random
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import napari_dip as dip
from faults.trials import Trial, find_fault_code, is_translated, make_failed, make_passed
from napari_dip.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.trials import TrialResult

#: What numbers can be made of, some of which are no numbers.
TYPES = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "bool"),
    *("U3", "S3", "O", "M8[s]", "m8[s]", "i2,f4"),
)
NUMBERS = TYPES[:12]
#: Examples of each property.
ARRAYS, FLIPS, CODINGS = 240, 160, 100


def trials(*, small: bool) -> Iterator[Trial]:
    """Yield each property, in portions."""
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    portion = 5 if small else 20
    for name, check_example, count in (
        ("arrays", _check_arrays, ARRAYS),
        ("flipped bytes", _check_damaged_files, FLIPS),
        ("codings", _check_tiff_codings, CODINGS),
    ):
        for start in range(0, portion if small else count, portion):
            yield Trial(f"{name} {start}", partial(_run_examples, check_example, start, portion))


def _run_examples(check_example: Any, start: int, portion: int) -> TrialResult:
    """Check drawn examples; the first failure is made as small as possible."""
    ends: Counter[str] = Counter()
    phases = (Phase.generate, Phase.shrink)
    limits: dict[str, Any] = {
        "deadline": None,
        "database": None,
        "suppress_health_check": list(HealthCheck),
    }
    limits["report_multiple_bugs"] = False
    try:
        seed(start)(settings(max_examples=portion, phases=phases, **limits)(check_example(ends)))()
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        return make_failed(f"{type(error).__name__}: {error} {notes}"[:900], count=portion)
    return make_passed(
        ", ".join(f"{n} {end}" for end, n in ends.items()), kind="held", count=portion
    )


def draw_shape(rng: random.Random) -> tuple[int, ...]:
    """Draw a shape: mostly of images that can be restored, and everything around them."""
    if rng.random() < 0.8:
        leading = rng.choice([()] * 8 + [(1,), (2,), (3,), (0,)])
        return (*leading, rng.randint(15, 26), rng.randint(15, 26))
    return tuple(rng.randint(0, 20) for _ in range(rng.randint(0, 6)))


@st.composite
def draw_array(draw: Any) -> np.ndarray:
    """Array of any type, byte order, strides and range, with or without odd values."""
    # hypothesis likes small numbers, and of small images nearly all would be refused
    rng = random.Random(draw(st.integers(0, 10**9)))
    kind = draw(st.sampled_from(NUMBERS if rng.random() < 0.9 else TYPES))
    shape = draw_shape(rng)
    scale = 10.0 ** draw(st.sampled_from([1, 1, 0, 2, 4, -3, -12, 12, -25, 25, -200, 200]))
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, 100.0, -50.0, 1e8]))
    with np.errstate(all="ignore"):
        values = np.random.default_rng(rng.randrange(10**6)).normal(3, 1, shape)
        values = np.asarray((values + offset) * scale)
        if values.size and rng.random() < 0.2:
            odd = draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf, 1e300, -1.0, 5e-324]))
            values.flat[rng.randrange(values.size)] = odd
        if rng.random() < 0.05:
            values[...] = offset
        array = _cast(values, kind)
    order = draw(st.sampled_from(["=", "<", ">"]))
    if array.dtype.kind in "iufc":
        array = array.astype(array.dtype.newbyteorder(order))
    return _change_layout(
        array, draw(st.sampled_from(["C", "F", "reversed", "every second", "frozen"]))
    )


def _cast(values: np.ndarray, kind: str) -> np.ndarray:
    if kind in ("i2,f4", "M8[s]", "m8[s]"):
        return np.zeros(values.shape, kind)
    if np.dtype(kind).kind in "iu":
        limits = np.iinfo(kind)
        values = np.clip(np.nan_to_num(values), limits.min / 2, limits.max / 2)
    return values.astype(kind)


def _change_layout(array: np.ndarray, options: str) -> np.ndarray:
    """Lay the same values out in another way."""
    if options == "F":
        return np.asfortranarray(array)
    if options == "reversed" and array.ndim:
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if options == "every second" and array.ndim:
        return np.repeat(array, 2, -1)[..., ::2]
    if options == "frozen" and array.ndim:
        array.flags.writeable = False
    return array


def _check_arrays(ends: Counter[str]) -> Any:
    """Python: refused, or as of a plain copy, finite, in the same units; the input untouched."""
    odd = ("XY", "CYX", "TYX", "YXS", "Q", "", "yx")
    axes = st.integers(0, 10**9).map(lambda n: random.Random(n).choice([None] * 30 + [*odd]))
    tasks = st.sampled_from(["denoise", "denoise", "inpaint", "super-resolve", "blind-deblur"])

    @given(draw_array(), axes, tasks)
    def hold(array: np.ndarray, named: str | None, task: str) -> None:
        before = array.copy()
        result = _restore(task, array, named, ends)
        assert np.array_equal(array, before, equal_nan=array.dtype.kind in "fc")
        if result is None:
            return
        plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
        again = _restore(task, plain, named, Counter())
        assert again is not None and np.array_equal(result.image, again.image)
        check(task, array, result)

    return hold


def _restore(task: str, array: Any, axes: str | None, ends: Counter[str]) -> Any:
    """Restore in one iteration; None if it was refused in words."""
    options = {"blur": "gaussian", "psf_size": 3} if task == "blind-deblur" else {}
    try:
        recipe = dip.make_recipe(task, preset="fast", max_iterations=1, **options)
        result = dip.restore(array, recipe, axes=axes)
    except dip.RefusedError as no:
        assert is_translated(no.reason), no.reason
        ends["refused"] += 1
        return None
    ends["restored"] += 1
    return result


def check(task: str, array: np.ndarray, result: Any) -> None:
    """Say that a result is finite, of the right shape, and in the units of the input."""
    finer = 2 if task == "super-resolve" else 1
    assert result.image.shape[-1] in (array.shape[-1], finer * array.shape[-1])
    assert np.isfinite(result.image).all() and np.isfinite(result.uncertainty).all()
    measured = array[np.isfinite(array)].astype(np.float64)
    low, high = float(measured.min()), float(measured.max())
    rounding = 4 * float(np.spacing(np.float32(max(abs(low), abs(high)))))
    difference = abs(float(result.image.mean(dtype=np.float64)) - float(measured.mean()))
    assert difference <= 0.2 * (high - low) + rounding, f"mean off by {difference} of {high - low}"


def _denoise_by_command(path: Path, ends: Counter[str]) -> Any:
    """Denoise a file with the command; give back the result, None if it was refused in words."""
    out, err = io.StringIO(), io.StringIO()
    target = path.with_name("out.tif")
    with redirect_stdout(out), redirect_stderr(err):
        argv = ["denoise", path, "-o", target, "--preset", "fast", "--max-iterations", "1", "-q"]
        code = main([str(text) for text in argv[:-1]] + ["--quiet"])
    format_message = err.getvalue()
    assert code in (0, 2), f"exit {code}: {format_message}"
    if code == 2:
        assert find_fault_code(format_message), format_message
        assert not target.exists()
        ends["refused"] += 1
        return None
    ends["restored"] += 1
    return tifffile.imread(target)


def _check_damaged_files(ends: Counter[str]) -> Any:
    """Command: a file with bytes changed or cut off is refused, or read as tifffile reads it."""
    places = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4)
    kinds = st.sampled_from(["plain", "deflate", "OME", "ImageJ", "tiled", "big", "PNG"])

    @given(kinds, places, st.booleans(), st.integers(8, 2000))
    def hold(kind: str, changes: Any, at_end: bool, cut: int) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = _write_file(Path(scratch), kind)
            content = bytearray(path.read_bytes())
            for place, value in changes:
                content[(-1 - place if at_end else place) % len(content)] = value
            path.write_bytes(content[:cut] if cut < 1000 else content)
            result = _denoise_by_command(path, ends)
            assert result is None or np.isfinite(result).all()

    return hold


def _write_file(folder: Path, kind: str) -> Path:
    values = np.random.default_rng(0).normal(1000, 50, (20, 24)).astype("uint16")
    if kind == "PNG":
        from PIL import Image

        Image.fromarray(values).save(folder / "in.png")
        return folder / "in.png"
    options: dict[str, Any] = {
        "deflate": {"compression": "zlib"},
        "OME": {"ome": True, "metadata": {"axes": "YX"}},
        "ImageJ": {"imagej": True},
        "tiled": {"tile": (16, 16)},
        "big": {"bigtiff": True},
    }.get(kind, {})
    tifffile.imwrite(folder / "in.tif", values, photometric="minisblack", **options)
    return folder / "in.tif"


def _check_tiff_codings(ends: Counter[str]) -> Any:
    """Command: the same pixels give the same result, however a TIFF codes them."""
    types = st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
    codecs = st.sampled_from([None, "zlib", "lzw", "zstd", "packbits", "lzma"])
    predictors = st.booleans()
    orders = st.sampled_from("<>")
    tiles = st.sampled_from([None, (16, 16), (16, 32)])
    plain: dict[str, Any] = {}

    @given(types, codecs, predictors, orders, tiles)
    def hold(kind: str, codec: Any, predictor: bool, order: str, tile: Any) -> None:
        values = np.random.default_rng(1).normal(100, 9, (18, 33)).astype(kind)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "in.tif"
            if kind not in plain:
                tifffile.imwrite(path, values, photometric="minisblack")
                plain[kind] = _denoise_by_command(path, Counter())
                (Path(scratch) / "out.tif").unlink()
            options = {"compression": codec, "byteorder": order, "tile": tile}
            if predictor and codec not in (None, "packbits"):
                options["predictor"] = True
            tifffile.imwrite(path, values, photometric="minisblack", **options)
            result = _denoise_by_command(path, ends)
            assert result is not None and np.array_equal(result, plain[kind])

    return hold
