"""A stack in tiles: planes one by one or as a volume, one calibration, read region by region."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from skimage import data

from napari_dip.cli import main
from napari_dip.engine.control import Control
from napari_dip.errors import Refusal
from napari_dip.io import ImageSpec
from napari_dip.io.reading import open_pixels, read_pixels, read_provenance, read_spec
from napari_dip.io.writing import write_image
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.plan.tiling import cut_z_stack_tiles
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.pipeline.store.checkpoints import CheckpointStore
from small_runs import MACHINE, drain, plan_for

if TYPE_CHECKING:
    from pathlib import Path

    from napari_dip.pipeline.events import Restoration
    from napari_dip.pipeline.plan.types import Plan

SHAPE, TILE, ITERATIONS = (6, 136, 24), 128, 4
SCALE, UNITS = (1.0, 0.25, 0.25), ("micrometer",) * 3


@pytest.fixture(autouse=True)
def thin_tiles(monkeypatch) -> None:
    """So that a small stack has some."""
    monkeypatch.setattr("napari_dip.pipeline.plan.tiling.Z_STACK_TILE_PLANES", 3)


def stack() -> np.ndarray:
    """Crop of scikit-image's camera that moves from plane to plane, 16 bit, with photon noise."""
    rows, columns = (slice(100, 100 + SHAPE[1]), slice(150, 150 + SHAPE[2]))
    truth = np.stack([np.roll(data.camera(), z, 1)[rows, columns] for z in range(SHAPE[0])])
    return np.random.default_rng(0).poisson(2.0 * truth + 100).astype(np.uint16)


def planned(stacks: str, **settings: object) -> Plan:
    wish = {"max_iterations": ITERATIONS, "stacks": stacks, **settings}
    return replace(plan_for(stack(), "ZYX", **wish), threads=1)


def restored(plan: Plan, image: object = None, **wishes: object) -> Restoration:
    answer = drain(plan, stack() if image is None else image, **wishes)[1]
    assert answer is not None
    return answer


@pytest.fixture(scope="module")
def planes() -> Restoration:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_dip.pipeline.plan.tiling.Z_STACK_TILE_PLANES", 3)
        return restored(planned("planes", tile=TILE))


@pytest.fixture(scope="module")
def volume() -> Restoration:
    return restored(planned("volume", tile=TILE, max_iterations=2))


@pytest.mark.parametrize("apart", [False, True])
def test_the_shares_of_all_tiles_sum_to_one_at_each_voxel(apart: bool) -> None:
    total = np.zeros((70, 100, 90))
    tiles = cut_z_stack_tiles(total.shape, (24, 64), (8, 16), is_plane_by_plane=apart)
    for tile in tiles:
        total[tile.get_slices("ZYX")] += tile.compute_weights()
    assert len(tiles) == len({tile.index for tile in tiles}) > 8
    assert np.abs(total - 1).max() < 1e-12


def test_planes_next_to_a_tile_are_looked_at_and_left_to_their_own_tile() -> None:
    plan = planned("planes", tile=TILE)
    lower = [unit for unit in plan.units if plan.tiles[unit.tile or 0].z.start == 0]  # type: ignore[union-attr]
    assert {tile.size[0] for tile in plan.tiles} == {4}  # three and one beside
    assert {unit.item for unit in lower} == {0, 1, 2}
    assert {unit.next_item for unit in lower if unit.item == 2} == {3}
    assert len({unit.id for unit in plan.units}) == len(plan.units) == 2 * SHAPE[0]


def test_a_stack_in_tiles_shares_the_calibration_of_the_whole(
    planes: Restoration, volume: Restoration, monkeypatch: pytest.MonkeyPatch
) -> None:
    # after so few iterations the whole would be restored again with weaker noise, tiles never are
    monkeypatch.setattr("napari_dip.pipeline.assess.noise_retry.compute_failure_score", lambda _: 0)
    whole = restored(planned("planes"))
    for one, grid, depth in ((planes, "YX", 4), (volume, "ZYX", 6)):
        assert one.image.shape == SHAPE
        assert one.report["noise"]["gain"] == whole.report["noise"]["gain"]
        assert one.report["fit"]["axes"] == grid
        assert one.report["tiles"]["depth"] == depth
        assert float(one.image.mean()) == pytest.approx(stack().mean(), rel=1e-5)
        assert np.isfinite(one.uncertainty).all()
    # so few iterations leave noise, but no tile is brighter than in a run of the whole
    assert np.abs(planes.image.mean((1, 2)) - whole.image.mean((1, 2))).max() < 2


def test_a_stack_in_tiles_that_was_ended_goes_on_to_the_same_bytes(
    tmp_path: Path, planes: Restoration
) -> None:
    asked = iter(range(10**9))
    # in the second plane of the first tile
    wish = lambda: Control.KEEP if next(asked) >= 14 else Control.GO  # noqa: E731
    plan, path = planned("planes", tile=TILE), tmp_path / "run"
    ended = restored(plan, control=wish, store=CheckpointStore(path, resume=False))
    warnings = " ".join(ended.report["verdict"]["warnings"])
    assert "tiles were not restored; they are as in the input." in warnings
    assert "ended early" in warnings
    resumed = restored(plan, store=CheckpointStore(path, resume=True))
    assert np.array_equal(resumed.image, planes.image)
    assert resumed.report["iterations"] == planes.report["iterations"]


def test_a_zarr_is_restored_region_by_region_to_the_same_bytes(
    tmp_path: Path, planes: Restoration, monkeypatch
) -> None:
    pytest.importorskip("zarr")
    source, result = tmp_path / "in.ome.zarr", tmp_path / "out.ome.zarr"
    write_image(source, stack(), axes="ZYX", scale=SCALE, units=UNITS)
    largest = 0

    def watched(spec: ImageSpec) -> object:
        found = open_pixels(spec)

        class Watched:
            shape, dtype, ndim = found.shape, found.dtype, found.ndim

            def __getitem__(self, place: object) -> np.ndarray:
                nonlocal largest
                pixels = found[place]  # type: ignore[index]
                largest = max(largest, pixels.size)
                return pixels

        return Watched()

    monkeypatch.setattr("napari_dip.io.reading.open_pixels", watched)
    monkeypatch.setattr("napari_dip.io.regions.CHUNK", 5000)
    monkeypatch.setattr("napari_dip.pipeline.machine.choose_thread_count", lambda *_: 1)
    wish = ["--max-iterations", str(ITERATIONS), "--stacks", "planes", "--tile", str(TILE)]
    wish += ["--preset", "fast", "--device", "cpu", "--quiet"]
    assert main(["denoise", str(source), "-o", str(result), *wish]) == 0
    assert largest < 0.7 * stack().size  # four of six planes, while tiles are put together
    spec = read_spec(result)
    assert (spec.scale, spec.units, spec.dtype) == (SCALE, UNITS, "float32")
    told = read_provenance(result)
    assert told is not None
    assert told["report"]["tiles"]["count"] == 4
    assert np.allclose(read_pixels(spec), planes.image, atol=1e-2)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.ome.zarr", "out.ome.zarr"]


def asked(shape: tuple[int, ...], axes: str = "ZYX", **settings: object) -> Plan | Refusal:
    source = ImageSpec(name="cells.zarr", shape=shape, dtype="uint16", axes=axes, path="cells.zarr")
    return preflight(make_recipe("denoise", **settings), source, MACHINE)


@pytest.mark.parametrize("stacks", ["auto", "volume"])
def test_the_memory_of_tiles_does_not_grow_with_the_stack(stacks: str, monkeypatch) -> None:
    monkeypatch.undo()
    peaks = [asked((depth, 2048, 2048), stacks=stacks) for depth in (128, 4096)]
    assert peaks[0].peak_bytes == peaks[1].peak_bytes < 3e9  # type: ignore[union-attr]


def test_movies_are_not_cut_into_tiles() -> None:
    answer = asked((40, 512, 512), "TYX", tile=128)
    assert isinstance(answer, Refusal)
    assert answer.code == "tile-impossible"
