"""Any Python object given as an image is refused with a message, or taken."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip import explore
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.lazy_inputs import LazyPixels
from small_runs import make_noisy, plan_for, run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = 32
SETTINGS: dict[str, Any] = {"preset": "fast", "device": "cpu", "max_iterations": 2}
RGBA = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 4)).astype(np.uint8)


def read_refusal_code(call: Callable[[], object]) -> str:
    with pytest.raises(dip.DipError) as caught:
        call()
    return caught.value.reason.code


def make_lying_array(change: Callable[[np.ndarray], Any], side: int = SIDE) -> Any:
    """An array of blocks that come to something else than they say."""
    image = da.from_array(np.resize(make_noisy(SIDE), (side, side)), chunks=16)
    return image.map_blocks(change, dtype="uint16", meta=np.empty((0, 0), "uint16"))


def raise_error(block: np.ndarray) -> np.ndarray:
    raise ValueError("the disk is gone")


LIES = {
    "shape": lambda block: block[:5, :5],
    "size": lambda block: np.pad(block, 3),
    "floats": lambda block: block + 0.5,
    "complex": lambda block: block * 1j,
    "texts": lambda block: block.astype("U5"),
    "objects": lambda block: block.astype(object),
}


@pytest.mark.parametrize("lie", LIES)
def test_dask_blocks_that_lie_of_shape_or_type_are_refused(lie: str) -> None:
    assert (
        read_refusal_code(lambda: dip.denoise(make_lying_array(LIES[lie]), **SETTINGS))
        == "array-other"
    )
    assert (
        read_refusal_code(lambda: dip.measure_noise(make_lying_array(LIES[lie]))) == "array-other"
    )


def test_dask_blocks_that_fail_are_refused_with_what_they_said() -> None:
    with pytest.raises(dip.RefusedError, match="could not be computed: the disk is gone"):
        dip.denoise(make_lying_array(raise_error), **SETTINGS)
    assert read_refusal_code(
        lambda: dip.denoise(make_lying_array(lambda block: None), **SETTINGS)
    ) in (
        "array-broken",
        "array-other",
    )
    assert (
        read_refusal_code(
            lambda: explore.impedance(make_lying_array(raise_error), max_iterations=2)
        )
        == "array-broken"
    )
    assert (
        read_refusal_code(
            lambda: dip.inpaint(make_noisy(SIDE), make_lying_array(raise_error), **SETTINGS)
        )
        == "array-broken"
    )


@pytest.mark.parametrize(
    ("change", "code"), [(raise_error, "array-broken"), ("shape", "array-other")]
)
def test_dask_blocks_that_fail_or_lie_in_tiles_are_refused(change: Any, code: str) -> None:
    plan = plan_for(np.resize(make_noisy(SIDE), (160, 160)), tile=128)
    assert plan.tiles
    image = LazyPixels("shot", make_lying_array(LIES.get(change, change), 160))
    assert read_refusal_code(lambda: list(run(plan, {"image": image}))) == code


@pytest.mark.long
@pytest.mark.all_cores
def test_an_honest_dask_array_gives_the_pixels_of_its_array_whole_and_in_tiles() -> None:
    image = np.resize(make_noisy(SIDE), (160, 160))
    plan = plan_for(image, tile=128, max_iterations=1)
    lazy = LazyPixels("shot", da.from_array(image, chunks=50))
    results = [run_to_end(plan, array)[1] for array in (image, lazy)]
    assert all(result is not None for result in results)
    first, second = (result.image for result in results if result is not None)
    assert np.array_equal(first, second)
    whole = dip.denoise(da.from_array(make_noisy(SIDE), chunks=16), **SETTINGS)
    assert np.array_equal(whole.image, dip.denoise(make_noisy(SIDE), **SETTINGS).image)


@pytest.mark.parametrize("axes", ["YXS", "SYX", "dask"])
def test_alpha_of_an_array_is_left_out_as_that_of_a_file(tmp_path: Path, axes: str) -> None:
    tifffile.imwrite(tmp_path / "in.tif", RGBA, photometric="rgb", extrasamples=["unassalpha"])
    of_file = dip.denoise(tmp_path / "in.tif", **SETTINGS)
    image = {"YXS": RGBA, "SYX": np.moveaxis(RGBA, -1, 0), "dask": da.from_array(RGBA)}[axes]
    result = dip.denoise(image, axes="YXS" if axes == "dask" else axes, **SETTINGS)
    for each in (of_file, result):
        assert "alpha-skipped" in [note["code"] for note in each.report["note_codes"]]
    colours = np.moveaxis(result.image, 0, -1) if axes == "SYX" else result.image
    assert np.array_equal(colours, of_file.image)


def test_four_samples_without_axes_are_advised_to_be_colours_and_alpha(tmp_path: Path) -> None:
    path = tmp_path / "four.tif"
    tifffile.imwrite(path, RGBA, photometric="minisblack", metadata=None)
    for image in (RGBA, path):
        with pytest.raises(dip.RefusedError, match="in colours and alpha, which is left out"):
            dip.plan("denoise", image, **SETTINGS)
        plan = dip.plan("denoise", image, axes="YXS", **SETTINGS)  # as advised
        assert [note.code for note in plan.notes] == ["alpha-skipped"]
    assert dip.denoise(path, axes="YXS", **SETTINGS).image.shape == (SIDE, SIDE, 3)


def test_a_labelled_array_loses_its_alpha_and_keeps_its_coordinates() -> None:
    xarray = pytest.importorskip("xarray")
    image = xarray.DataArray(RGBA, {"s": list("rgba")}, ("y", "x", "s"))
    result = dip.denoise(image, **SETTINGS)
    assert [*result.to_xarray().coords["s"].values] == list("rgb")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("axes", [("Y", "X"), ["y", "x"], "yx"])
def test_axes_may_be_a_sequence_of_letters(tmp_path: Path, axes: Any) -> None:
    assert dip.denoise(make_noisy(SIDE), axes=axes, **SETTINGS).report["axes"] == "YX"
    assert dip.measure_noise(make_noisy(SIDE), axes=axes).channels
    tifffile.imwrite(tmp_path / "in.tif", make_noisy(SIDE))
    recipe = dip.make_recipe("denoise", **SETTINGS)
    done = dip.batch(recipe, tmp_path / "in.tif", tmp_path / "out", axes=axes)
    assert [outcome.state for outcome in done.outcomes] == ["restored"]


@pytest.mark.parametrize("axes", [5, b"YX", ("Y", 1), {"Y": 1}, [None, None]])
def test_axes_that_are_no_letters_are_refused(axes: Any) -> None:
    assert (
        read_refusal_code(lambda: dip.denoise(make_noisy(SIDE), axes=axes, **SETTINGS))
        == "setting-wrong"
    )


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "None"),
        ({"a": 1}, "dict"),
        ((row for row in [[1, 2]]), "generator"),
        (zip([1], [2], strict=True), "zip"),
        (b"\x00" * 64, "bytes"),
        (bytearray(64), "bytearray"),
        ("1 2 3\n4 5 6", "several lines"),
        (["a.tif", "b.tif"], "napari_dip.batch"),
        ({1, 2}, "set"),
        (object(), "object"),
        (np, "module"),
    ],
)
def test_what_is_no_image_is_named(value: Any, named: str) -> None:
    with pytest.raises(dip.RefusedError, match=named) as caught:
        dip.denoise(value, **SETTINGS)
    assert caught.value.reason.code == "image-not-array"


@pytest.mark.parametrize(
    "url", ["https://a.org/b.tif", "HTTP://a/b.tif", "s3://a/b.zarr", "file://host/b.tif"]
)
def test_addresses_are_refused_since_files_lie_on_this_computer(tmp_path: Path, url: str) -> None:
    recipe = dip.make_recipe("denoise", **SETTINGS)
    tifffile.imwrite(tmp_path / "in.tif", make_noisy(SIDE))
    for call in (
        lambda: dip.denoise(url, **SETTINGS),
        lambda: dip.inpaint(make_noisy(SIDE), url, **SETTINGS),
        lambda: dip.restore(make_noisy(SIDE), url),
        lambda: dip.batch(recipe, [url], tmp_path / "out"),
        lambda: dip.batch(recipe, tmp_path / "in.tif", url),
    ):
        with pytest.raises(dip.RefusedError, match=r"address \(URL\).*Download it"):
            call()


def test_the_address_of_a_file_here_is_answered_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a cell.tif"
    with pytest.raises(dip.RefusedError) as caught:
        dip.denoise(path.as_uri(), **SETTINGS)
    assert str(path) in caught.value.reason.remedy


@pytest.mark.parametrize("inputs", [None, 5, b"in.tif", {"in.tif": 1}, [np.zeros((2, 2))]])
def test_a_batch_names_what_is_no_path(tmp_path: Path, inputs: Any) -> None:
    recipe = dip.make_recipe("denoise", **SETTINGS)
    assert read_refusal_code(lambda: dip.batch(recipe, inputs, tmp_path / "out")) == "batch-paths"
    folder: Any = None
    assert (
        read_refusal_code(lambda: dip.batch(recipe, tmp_path / "in.tif", folder)) == "batch-paths"
    )


_SCRIPT = """
import napari_dip as dip

def work():
    recipe = dip.make_recipe("denoise", preset="fast", device="cpu", max_iterations=2)
    result = dip.batch(recipe, {inputs!r}, {folder!r}, workers=2)
    print([one.state for one in result.outcomes])

"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("guard", [False, True])
def test_workers_of_a_script_without_a_main_guard_are_refused_before_any_is_started(
    tmp_path: Path, guard: bool
) -> None:
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, make_noisy(SIDE))
    inputs, folder = str(tmp_path / "*.tif"), str(tmp_path / "out")
    end = 'if __name__ == "__main__":\n    work()\n' if guard else "work()\n"
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(inputs=inputs, folder=folder) + end)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=300
    )
    if guard:
        assert "['restored', 'restored']" in done.stdout
        return
    last = done.stderr.strip().splitlines()[-1]
    assert f"Each worker would run the script '{script}' again, since line 9" in last
    assert done.stderr.count("Traceback") == 1
    assert not (tmp_path / "out").exists()
