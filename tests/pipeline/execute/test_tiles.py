"""An image in tiles: one calibration, no seams, and never all of it in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from skimage import data
from tifffile import imread, imwrite

from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Refusal, RefusedError
from napari_dip.io import ImageHeader
from napari_dip.io.lazy_images import MemoryMappedImage, iter_chunks
from napari_dip.io.reading import open_pixels, read_header, read_pixels
from napari_dip.io.writing import write_image
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.tiling import cut_plane_tiles
from napari_dip.pipeline.plan.types import Plan
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from small_runs import MACHINE, plan_for, run_to_end

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.pipeline.restoration import Restoration

SIDE, TILE, ITERATIONS = 160, 128, 16


def make_noisy() -> np.ndarray:
    """Crop of scikit-image's camera, 16 bit, with photon noise."""
    truth = data.camera()[100 : 100 + SIDE, 150 : 150 + SIDE].astype(np.float64)
    return np.random.default_rng(0).poisson(2 * truth + 100).astype(np.uint16)


def plan_image(**settings: object) -> Plan:
    """With one thread: at this size a second one only waits."""
    return replace(plan_for(make_noisy(), max_iterations=ITERATIONS, **settings), threads=1)


def restore(plan: Plan, **options: object) -> Restoration:
    answer = run_to_end(plan, make_noisy(), **options)[1]
    assert answer is not None
    return answer


@pytest.fixture(scope="module")
def tiled_result() -> Restoration:
    return restore(plan_image(tile=TILE))


@pytest.fixture(scope="module")
def whole_result() -> Restoration:
    return restore(plan_image())


@pytest.mark.parametrize(("grid", "side"), [((160, 163), 80), ((1000, 70), 96), ((64, 64), 64)])
def test_the_shares_of_all_tiles_sum_to_one_at_each_pixel(grid, side) -> None:
    total = np.zeros(grid)
    for tile in cut_plane_tiles(grid, side, 32):
        y, x = (axis.compute_weights(axis.start, axis.stop) for axis in (tile.y, tile.x))
        total[tile.y.start : tile.y.stop, tile.x.start : tile.x.stop] += np.outer(y, x)
    assert np.abs(total - 1).max() < 1e-12


def test_a_tile_has_no_say_where_it_has_seen_a_mirror() -> None:
    first, second = cut_plane_tiles((512, 200), 256, 32)
    assert (first.y.start, first.y.stop, second.y.start, second.y.stop) == (0, 288, 224, 512)
    assert not first.y.compute_weights(284, 288).any()
    assert not second.y.compute_weights(224, 228).any()
    assert first.y.compute_weights(0, 4).all()


def measure_seam_energy(image: np.ndarray) -> float:
    """Squared differences across the seams where tiles blend, by those elsewhere."""
    near = np.abs(np.arange(SIDE - 1) + 0.5 - SIDE / 2) < 32
    squares = [np.diff(image.astype(np.float64), axis=axis).T ** 2 for axis in (0, 1)]
    squares[1] = squares[1].T
    return sum(square[..., near].mean() for square in squares) / sum(
        square[..., ~near].mean() for square in squares
    )


@pytest.mark.long
def test_an_image_in_tiles_has_no_seams(
    tiled_result: Restoration, whole_result: Restoration
) -> None:
    # the image's own detail lies in either alike
    assert measure_seam_energy(tiled_result.image) / measure_seam_energy(whole_result.image) <= 1.02


@pytest.mark.long
def test_all_tiles_share_one_calibration_which_is_that_of_the_whole(
    tiled_result: Restoration, whole_result: Restoration
) -> None:
    assert tiled_result.report["noise"] == whole_result.report["noise"]
    assert tiled_result.report["tiles"]["count"] == 4
    assert tiled_result.report["shape"] == [SIDE, SIDE]
    assert float(tiled_result.image.mean()) == pytest.approx(make_noisy().mean(), rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("after", [14, 22])  # within the first tile, and after it
@pytest.mark.all_cores
def test_a_run_in_tiles_that_was_ended_resumes_to_the_same_bytes(
    tmp_path: Path, tiled_result: Restoration, after: int
) -> None:
    counter = iter(range(10**9))
    poll_control = lambda: Control.KEEP if next(counter) >= after else Control.GO  # noqa: E731
    path = tmp_path / "run"
    ended = restore(
        plan_image(tile=TILE),
        poll_control=poll_control,
        checkpoints=CheckpointStore(path, resume=False),
    )
    warnings = " ".join(ended.report["verdict"]["warnings"])
    assert "tiles were not restored; they are as in the input." in warnings
    assert "ended early" in warnings
    checkpoints = CheckpointStore(path, resume=True)
    resumed = restore(plan_image(tile=TILE), checkpoints=checkpoints)
    assert np.array_equal(resumed.image, tiled_result.image)
    assert resumed.report["iterations"] == tiled_result.report["iterations"]
    checkpoints.remove()
    assert not list(tmp_path.iterdir())


def test_tiles_of_another_run_are_not_gone_on_with(tmp_path: Path) -> None:
    stop = lambda: Control.KEEP  # noqa: E731
    first, other = plan_image(tile=TILE), plan_image(tile=TILE, seed=1)
    run_to_end(
        first,
        make_noisy(),
        poll_control=stop,
        checkpoints=CheckpointStore(tmp_path / "run", resume=False),
    )
    with pytest.raises(RefusedError) as caught:
        run_to_end(other, make_noisy(), checkpoints=CheckpointStore(tmp_path / "run", resume=True))
    assert caught.value.reason.code == "resume-other"


def preflight_image(shape: tuple[int, ...], memory: float, **settings: object) -> Plan | Refusal:
    header = ImageHeader(
        name="cells.tif", shape=shape, dtype="uint16", axes="ZYX"[-len(shape) :], path="cells.tif"
    )
    machine = replace(MACHINE, memory_bytes=int(memory))
    return preflight(make_recipe("denoise", **settings), header, machine)


def test_tiles_are_taken_only_where_the_whole_does_not_fit() -> None:
    whole, parts = preflight_image((2048, 2048), 8e9), preflight_image((2048, 2048), 1e9)
    assert isinstance(whole, Plan)
    assert not whole.tiles
    assert isinstance(parts, Plan)
    assert len(parts.tiles) > 1
    assert parts.peak_bytes <= 1e9 < whole.peak_bytes
    assert "tiles of up to" in " ".join(map(str, parts.notes))


def test_the_memory_of_tiles_does_not_grow_with_the_image() -> None:
    peaks = [preflight_image((side, side), 8e9) for side in (8192, 65536)]
    assert peaks[0].peak_bytes == peaks[1].peak_bytes < 2e9  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", [{"noise": "stripes"}, {"noise": "jpeg"}])
def test_what_depends_on_the_whole_is_refused_in_tiles(settings: dict[str, str]) -> None:
    answer = preflight_image((512, 512), 8e9, tile=128, **settings)
    assert isinstance(answer, Refusal)
    assert answer.code == "tile-impossible"
    large = preflight_image((2**15, 2**15), 8e9, **settings)
    assert isinstance(large, Refusal)
    assert large.code == "image-large"


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}])
def test_regions_are_read_from_the_file_as_the_whole_is(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "a.tif"
    imwrite(path, make_noisy(), **options)
    header = read_header(path)
    opened = open_pixels(header)
    assert isinstance(opened, MemoryMappedImage)
    assert np.array_equal(opened[10:40, 3:9], read_pixels(header)[10:40, 3:9])
    assert opened.dtype == np.uint16


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_an_image_on_the_disk_is_saved_as_one_in_memory(tmp_path: Path, name: str) -> None:
    image = make_noisy().astype(np.float32)
    (tmp_path / "raw").write_bytes(image.tobytes())
    mapped = MemoryMappedImage(
        path=tmp_path / "raw", offset=0, shape=image.shape, stored_dtype="<f4"
    ).make_memmap()
    for folder, source in (("held", image), ("mapped", mapped)):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / name, source, axes="YX", scale=(2.0, 2.0))
    in_memory, mapped_bytes = (
        (tmp_path / folder / name).read_bytes() for folder in ("held", "mapped")
    )
    assert in_memory == mapped_bytes
    assert np.array_equal(imread(tmp_path / "mapped" / name), image)


def test_going_through_an_image_gives_its_bytes_in_order(monkeypatch) -> None:
    monkeypatch.setattr("napari_dip.io.lazy_images.MAX_CHUNK_BYTES", 500)
    image = np.arange(5 * 7 * 11, dtype=np.uint16).reshape(5, 7, 11)
    assert b"".join(part.tobytes() for part in iter_chunks(image)) == image.tobytes()
