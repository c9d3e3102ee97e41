"""A stack in tiles: planes one by one or as a volume, one calibration, read region by region."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from skimage import data

from napari_dip.cli import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors import Refusal
from napari_dip.io import ImageHeader
from napari_dip.io.reading import open_pixels, read_header, read_pixels, read_provenance
from napari_dip.io.writing import write_image
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.tiling import cut_z_stack_tiles
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from napari_dip.tasks.priors import image_input
from small_runs import MACHINE, plan_for, run_to_end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_dip.pipeline.plan.types import Plan
    from napari_dip.pipeline.restoration import Restoration

SHAPE, TILE, ITERATIONS = (6, 136, 24), 128, 4
SCALE, UNITS = (1.0, 0.25, 0.25), ("micrometer",) * 3


@pytest.fixture(autouse=True, scope="module")
def thin_tiles() -> Iterator[None]:
    """So that a small stack has some, which are restored once, however few their iterations are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_dip.pipeline.plan.tiling.Z_STACK_TILE_PLANES", 3)
        patch.setattr("napari_dip.pipeline.assess.metrics.ResidualMetrics.failure_score", 0.0)
        yield


def draw_stack() -> np.ndarray:
    """Crop of scikit-image's camera that moves from plane to plane, 16 bit, with photon noise."""
    rows, columns = (slice(100, 100 + SHAPE[1]), slice(150, 150 + SHAPE[2]))
    truth = np.stack([np.roll(data.camera(), z, 1)[rows, columns] for z in range(SHAPE[0])])
    return np.random.default_rng(0).poisson(2.0 * truth + 100).astype(np.uint16)


def plan_stack(stacks: str, **settings: object) -> Plan:
    options = {"max_iterations": ITERATIONS, "stacks": stacks, **settings}
    return replace(plan_for(draw_stack(), "ZYX", **options), threads=1)


def restore(plan: Plan, image: object = None, **options: object) -> Restoration:
    answer = run_to_end(plan, draw_stack() if image is None else image, **options)[1]
    assert answer is not None
    return answer


@pytest.fixture(scope="module")
def restored_planes() -> Restoration:
    return restore(plan_stack("planes", tile=TILE))


@pytest.fixture(scope="module")
def restored_volume() -> Restoration:
    return restore(plan_stack("volume", tile=TILE, max_iterations=2))


@pytest.mark.parametrize("apart", [False, True])
def test_the_shares_of_all_tiles_sum_to_one_at_each_voxel(apart: bool) -> None:
    total = np.zeros((70, 100, 90))
    tiles = cut_z_stack_tiles(total.shape, (24, 64), (8, 16), is_plane_by_plane=apart)
    for tile in tiles:
        total[tile.get_slices("ZYX")] += tile.compute_weights()
    assert len(tiles) == len({tile.index for tile in tiles}) > 8
    assert np.abs(total - 1).max() < 1e-12


def test_planes_next_to_a_tile_are_looked_at_and_left_to_their_own_tile() -> None:
    plan = plan_stack("planes", tile=TILE)
    lower = [unit for unit in plan.units if plan.tiles[unit.tile or 0].z.start == 0]  # type: ignore[union-attr]
    assert {tile.size[0] for tile in plan.tiles} == {4}  # three and one beside
    assert {unit.item for unit in lower} == {0, 1, 2}
    assert {unit.next_item for unit in lower if unit.item == 2} == {3}
    assert len({unit.id for unit in plan.units}) == len(plan.units) == 2 * SHAPE[0]


@pytest.mark.long
def test_a_stack_in_tiles_shares_the_calibration_of_the_whole(
    restored_planes: Restoration, restored_volume: Restoration
) -> None:
    whole = restore(plan_stack("planes"))
    for image, grid, depth in ((restored_planes, "YX", 4), (restored_volume, "ZYX", 6)):
        assert image.image.shape == SHAPE
        assert image.report["noise"]["gain"] == whole.report["noise"]["gain"]
        assert image.report["fit"]["axes"] == grid
        assert image.report["tiles"]["depth"] == depth
        assert float(image.image.mean()) == pytest.approx(draw_stack().mean(), rel=1e-5)
        assert np.isfinite(image.uncertainty).all()
    # so few iterations leave noise, but no tile is brighter than in a run of the whole
    assert np.abs(restored_planes.image.mean((1, 2)) - whole.image.mean((1, 2))).max() < 2


def test_each_plane_of_a_volume_in_tiles_keeps_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    # the filter at the end would bring the means back by itself
    monkeypatch.setattr(image_input, "make_nl_bayes_refinement", lambda *_: None)
    restored = restore(plan_stack("volume", tile=TILE, max_iterations=2))
    # 0.09 with one shift for all planes
    assert np.abs(restored.image.mean((1, 2)) - draw_stack().mean((1, 2))).max() < 0.01
    assert np.abs(restored.residual.mean((1, 2))).max() < 0.01


@pytest.mark.long
@pytest.mark.all_cores
def test_a_stack_in_tiles_that_was_ended_resumes_to_the_same_bytes(
    tmp_path: Path, restored_planes: Restoration
) -> None:
    counter = iter(range(10**9))
    # in the second plane of the first tile
    poll_control = lambda: Control.KEEP if next(counter) >= 14 else Control.GO  # noqa: E731
    plan, path = plan_stack("planes", tile=TILE), tmp_path / "run"
    ended = restore(
        plan, poll_control=poll_control, checkpoints=CheckpointStore(path, resume=False)
    )
    warnings = " ".join(ended.report["verdict"]["warnings"])
    assert "tiles were not restored; they are as in the input." in warnings
    assert "ended early" in warnings
    resumed = restore(plan, checkpoints=CheckpointStore(path, resume=True))
    assert np.array_equal(resumed.image, restored_planes.image)
    assert resumed.report["iterations"] == restored_planes.report["iterations"]


@pytest.mark.long
@pytest.mark.all_cores
def test_a_zarr_is_restored_region_by_region_to_the_same_bytes(
    tmp_path: Path, restored_planes: Restoration, monkeypatch
) -> None:
    pytest.importorskip("zarr")
    source, result = tmp_path / "in.ome.zarr", tmp_path / "out.ome.zarr"
    write_image(source, draw_stack(), axes="ZYX", scale=SCALE, units=UNITS)
    largest = 0

    def watched(header: ImageHeader) -> object:
        opened = open_pixels(header)

        class Watched:
            shape, dtype, ndim = opened.shape, opened.dtype, opened.ndim

            def __getitem__(self, place: object) -> np.ndarray:
                nonlocal largest
                pixels = opened[place]  # type: ignore[index]
                largest = max(largest, pixels.size)
                return pixels

        return Watched()

    monkeypatch.setattr("napari_dip.io.reading.open_pixels", watched)
    monkeypatch.setattr("napari_dip.io.lazy_images.MAX_CHUNK_BYTES", 5000)
    monkeypatch.setattr("napari_dip.pipeline.machine.choose_thread_count", lambda *_: 1)
    arguments = ["--max-iterations", str(ITERATIONS), "--stacks", "planes", "--tile", str(TILE)]
    arguments += ["--preset", "fast", "--device", "cpu", "--quiet"]
    assert main(["denoise", str(source), "-o", str(result), *arguments]) == 0
    assert largest < 0.7 * draw_stack().size  # four of six planes, while tiles are put together
    header = read_header(result)
    assert (header.scale, header.units, header.dtype) == (SCALE, UNITS, "float32")
    provenance = read_provenance(result)
    assert provenance is not None
    assert provenance["report"]["tiles"]["count"] == 4
    assert np.allclose(read_pixels(header), restored_planes.image, atol=1e-2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.ome.zarr", "out.ome.zarr"]


def preflight_image(
    shape: tuple[int, ...], axes: str = "ZYX", **settings: object
) -> Plan | Refusal:
    header = ImageHeader(
        name="cells.zarr", shape=shape, dtype="uint16", axes=axes, path="cells.zarr"
    )
    return preflight(make_recipe("denoise", **settings), header, MACHINE)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stacks", ["auto", "volume"])
def test_the_memory_of_tiles_does_not_grow_with_the_stack(stacks: str, monkeypatch) -> None:
    monkeypatch.undo()
    peaks = [preflight_image((depth, 2048, 2048), stacks=stacks) for depth in (128, 4096)]
    assert peaks[0].peak_bytes == peaks[1].peak_bytes < 3e9  # type: ignore[union-attr]


def test_movies_are_not_cut_into_tiles() -> None:
    answer = preflight_image((40, 512, 512), "TYX", tile=128)
    assert isinstance(answer, Refusal)
    assert answer.code == "tile-impossible"
