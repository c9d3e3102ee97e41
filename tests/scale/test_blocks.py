"""A dask array in gives a dask array out, which any scheduler computes to the same pixels."""

from __future__ import annotations

import sys

import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback

import napari_dip as dip
from napari_dip.errors import RefusedError

SETTINGS = {"preset": "instant", "max_iterations": 20, "tile": 128, "threads": 1}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    y, x = np.mgrid[:120, :300]
    signal = 100 + 40 * np.sin(x / 9) * np.cos(y / 13)
    return (signal + np.random.default_rng(0).normal(0, 8, signal.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def restored(image) -> da.Array:
    return dip.restore_blocks(da.from_array(image, chunks=(120, 100)), **SETTINGS)


@pytest.fixture(scope="module")
def pixels(restored) -> np.ndarray:
    return restored.compute(scheduler="synchronous")


def test_nothing_is_computed_before_it_is_wanted():
    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("it was computed")

    array = da.zeros((120, 300), chunks=(120, 100), dtype=np.float32).map_blocks(
        fail, dtype=np.float32, meta=np.zeros((0, 0), np.float32)
    )
    result = dip.restore_blocks(array, **SETTINGS)
    assert isinstance(result, da.Array)
    assert (result.shape, result.dtype) == ((120, 300), np.float32)
    assert result.numblocks == (1, 3)
    with pytest.raises((AssertionError, RefusedError), match="it was computed"):
        result.compute(scheduler="synchronous")


@pytest.mark.long
@pytest.mark.all_cores
def test_blocks_have_the_pixels_of_a_run_in_tiles(image, pixels):
    whole = dip.denoise(image, series_training="independent", **SETTINGS).image
    assert np.abs(pixels - whole).mean() < 0.2  # each block keeps its own mean
    signal_error = np.abs(pixels - image).std()
    assert 3 < signal_error < 8
    assert (
        np.corrcoef(np.diff(pixels[:, 90:210]).ravel(), np.diff(whole[:, 90:210]).ravel())[0, 1]
        > 0.99
    )  # no seams where the other has none


@pytest.mark.long
@pytest.mark.all_cores
def test_each_scheduler_gives_the_same_pixels(restored, pixels):
    assert np.array_equal(restored.compute(scheduler="threads"), pixels)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.all_cores
def test_processes_give_the_same_pixels(restored, pixels):
    assert np.array_equal(restored.compute(scheduler="processes", num_workers=2), pixels)


@pytest.mark.long
def test_one_block_needs_only_its_neighbours_and_progress_counts_blocks(restored, pixels):
    fitted = []

    class Watch(Callback):
        def _posttask(self, key, *_: object) -> None:
            fitted.append(str(key))

    with Watch(), dask.config.set(scheduler="synchronous"):
        first = restored.blocks[0, 0].compute()
    assert np.array_equal(first, pixels[:, : first.shape[1]])
    assert len([key for key in fitted if "restore_block" in key]) == 2


@pytest.mark.long
def test_a_small_array_is_restored_as_a_whole(image):
    settings = {**SETTINGS, "tile": 512, "max_iterations": 2}
    result = dip.restore_blocks(da.from_array(image, chunks=100), **settings)
    alone = dip.denoise(image, **{**settings, "tile": None}).image
    assert np.array_equal(result.compute(scheduler="synchronous"), alone)


def test_a_wrong_setting_is_refused_before_anything_is_built(image):
    with pytest.raises(RefusedError, match="nonsense"):
        dip.restore_blocks(da.from_array(image), prior="nonsense")


def test_blocks_without_dask_are_refused(image, monkeypatch):
    array = da.from_array(image)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(RefusedError, match="'dask', which is not installed"):
        dip.restore_blocks(array)


@pytest.mark.parametrize("convert", [np.asarray, np.ndarray.tolist, str, lambda _: None])
def test_what_is_no_dask_array_is_refused(image, convert):
    with pytest.raises(RefusedError, match="Only a dask array") as refusal:
        dip.restore_blocks(convert(image[:8, :8]))
    assert isinstance(refusal.value, TypeError)


@pytest.mark.parametrize("array", [da.zeros(()), da.zeros(9), da.zeros((9, 9))[da.ones(9) > 0]])
def test_an_array_without_a_plane_of_known_size_is_refused(array):
    with pytest.raises(RefusedError):
        dip.restore_blocks(array)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("inpaint", {}),
        ("super-resolve", {}),
        ("blind-deblur", {}),
        ("denoise", {"noise": "stripes"}),
        ("deblur", {"gaussian_sigma": 2.0, "factor": 2}),
    ],
)
def test_tasks_that_need_the_whole_image_are_refused(image, task, settings):
    with pytest.raises(RefusedError, match=f"'{task}' cannot restore blocks"):
        dip.restore_blocks(da.from_array(image), task, **settings)


def test_a_movie_is_restored_as_a_whole(image):
    movie = np.stack([image[:64, :64], image[:64, 64:128]])
    settings = {"preset": "instant", "max_iterations": 2, "threads": 1}
    result = dip.restore_blocks(da.from_array(movie), axes="TYX", **settings)
    assert (result.shape, result.numblocks) == ((2, 64, 64), (1, 1, 1))
    independent = {**settings, "series_training": "independent"}
    whole = dip.denoise(movie, axes="TYX", **independent).image
    assert np.array_equal(result.compute(scheduler="synchronous"), whole)
