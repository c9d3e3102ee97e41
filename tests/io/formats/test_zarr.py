"""OME-Zarr: units, pyramids, regions, atomic writing, and hostile metadata."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_dip.cli import main
from napari_dip.errors import FailedError, RefusedError
from napari_dip.io.lazy_images import MemoryMappedImage, iter_chunks
from napari_dip.io.outputs import resolve_output
from napari_dip.io.reading import open_pixels, read_header, read_pixels, read_provenance
from napari_dip.io.writing import write_image

if TYPE_CHECKING:
    from pathlib import Path

zarr = pytest.importorskip("zarr")

SHAPE = (5, 300, 40)
SCALE, UNITS = (0.5, 0.25, 0.25), ("micrometer",) * 3
PROVENANCE = {"recipe": {"task": "denoise"}, "program": "napari-dip"}


def draw_stack() -> np.ndarray:
    return np.random.default_rng(0).poisson(100, SHAPE).astype(np.uint16)


def save_zarr(folder: Path, version: str, image: Any = None, **changes: Any) -> Path:
    """In the version asked for, by way of a result that is to be like another one."""
    path, like = folder / "cells.ome.zarr", folder / "like.ome.zarr"
    if version == "0.4":
        like.mkdir()
        axes = [{"name": "y"}, {"name": "x"}]
        multiscale = {
            "multiscales": [{"version": version, "axes": axes, "datasets": [{"path": "0"}]}]
        }
        (like / ".zattrs").write_text(json.dumps(multiscale))
    options = {"axes": "ZYX", "scale": SCALE, "units": UNITS, "provenance": PROVENANCE, **changes}
    image = draw_stack() if image is None else image
    return write_image(path, image, like=str(like) if version == "0.4" else None, **options)


@pytest.fixture(params=["0.4", "0.5"])
def cells(request, tmp_path: Path) -> Path:
    return save_zarr(tmp_path, request.param)


def find_metadata(path: Path) -> Path:
    return next(file for file in (path / "zarr.json", path / ".zattrs") if file.is_file())


def edit_metadata(path: Path, change: Any) -> None:
    """Let a file say something else of its image."""
    whole = json.loads(find_metadata(path).read_text())
    multiscale = whole["attributes"]["ome"] if "attributes" in whole else whole
    change(multiscale["multiscales"][0])
    find_metadata(path).write_text(json.dumps(whole))


def read_refusal_code(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        read_header(path)
    return caught.value.reason.code


def test_pixels_axes_units_and_provenance_come_back(cells: Path) -> None:
    header = read_header(cells)
    assert (header.axes, header.shape, header.dtype) == ("ZYX", SHAPE, "uint16")
    assert (header.scale, header.units) == (SCALE, UNITS)
    assert np.array_equal(read_pixels(header), draw_stack())
    assert read_provenance(cells) == PROVENANCE


def test_each_level_halves_the_plane_and_says_where_it_lies(cells: Path) -> None:
    fine, coarse = (zarr.open_array(cells / level, mode="r")[:] for level in "01")
    assert coarse.shape == (5, 150, 20)  # planes lie further apart than pixels
    blocks = fine.reshape(5, 150, 2, 20, 2).mean((2, 4))
    assert np.array_equal(coarse, np.rint(blocks))
    whole = json.loads(find_metadata(cells).read_text())
    ome = whole["attributes"]["ome"] if "attributes" in whole else whole
    first, second = ome["multiscales"][0]["datasets"]
    assert first["coordinateTransformations"] == [{"type": "scale", "scale": list(SCALE)}]
    assert second["coordinateTransformations"] == [
        {"type": "scale", "scale": [0.5, 0.5, 0.5]},
        {"type": "translation", "translation": [0.0, 0.125, 0.125]},
    ]


def test_regions_are_read_without_the_whole(cells: Path, monkeypatch) -> None:
    monkeypatch.setattr("napari_dip.io.lazy_images.MAX_CHUNK_BYTES", 5000)
    opened = open_pixels(read_header(cells))
    assert not isinstance(opened, np.ndarray)
    assert np.array_equal(opened[1:3, 10:20, 5], draw_stack()[1:3, 10:20, 5])
    assert b"".join(part.tobytes() for part in iter_chunks(opened)) == draw_stack().tobytes()


def test_a_result_on_the_disk_in_other_axes_is_saved_in_the_order_of_the_format(
    tmp_path: Path,
) -> None:
    image = np.arange(20 * 24 * 3, dtype=np.float32).reshape(20, 24, 3)
    (tmp_path / "raw").write_bytes(image.tobytes())
    mapped = MemoryMappedImage(
        path=tmp_path / "raw", offset=0, shape=image.shape, stored_dtype="<f4"
    ).make_memmap()
    path = save_zarr(tmp_path, "0.5", mapped, axes="YXS", scale=None, units=None)
    header = read_header(path)
    assert (header.axes, header.shape, header.units) == ("CYX", (3, 20, 24), None)
    assert np.array_equal(read_pixels(header), image.transpose(2, 0, 1))


@pytest.mark.all_cores
def test_the_same_pixels_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        path = save_zarr(tmp_path / name, "0.5")
        files = sorted(file for file in path.rglob("*") if file.is_file())
        contents.append([(file.relative_to(path), file.read_bytes()) for file in files])
    assert contents[0] == contents[1]


class HalfReadableImage:
    """An image whose second half cannot be read."""

    shape, dtype, ndim = SHAPE, np.dtype(np.uint16), 3

    def __getitem__(self, place: Any) -> np.ndarray:
        if place[0].start:
            raise OSError(28, "No space left on device")
        return draw_stack()[place]


@pytest.mark.parametrize("exists", [False, True])
def test_a_result_that_cannot_be_written_leaves_nothing_and_harms_nothing(
    tmp_path: Path, monkeypatch, exists: bool
) -> None:
    before = save_zarr(tmp_path, "0.5") if exists else None
    monkeypatch.setattr("napari_dip.io.writing._make_contiguous", lambda image: image)
    with pytest.raises(FailedError):
        save_zarr(tmp_path, "0.5", HalfReadableImage(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == (["cells.ome.zarr"] if exists else [])
    if before is not None:
        assert np.array_equal(read_pixels(read_header(before)), draw_stack())


def test_an_earlier_result_is_replaced_only_on_request(tmp_path: Path) -> None:
    path = save_zarr(tmp_path, "0.5")
    with pytest.raises(FailedError):
        save_zarr(tmp_path, "0.5", draw_stack() + 1)
    assert np.array_equal(read_pixels(read_header(path)), draw_stack())
    save_zarr(tmp_path, "0.5", draw_stack() + 1, overwrite=True)
    assert np.array_equal(read_pixels(read_header(path)), draw_stack() + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.ome.zarr"]


def check_output_code(path: Path, inputs: tuple[Path, ...] = (), overwrite: bool = True) -> str:
    with pytest.raises(RefusedError) as caught:
        resolve_output(path, inputs, overwrite)
    return caught.value.reason.code


@pytest.mark.parametrize(
    "name", ["labels.xlsx", "labels/zarr.json", "0/notes.txt", "0/c/notes/a", "tables/0/zarr.json"]
)
def test_a_zarr_that_holds_a_file_of_the_users_is_never_replaced(cells: Path, name: str) -> None:
    assert resolve_output(cells, overwrite=True) == cells
    foreign = cells / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_text("{}")
    with pytest.raises(RefusedError) as caught:
        resolve_output(cells, overwrite=True)
    assert caught.value.reason.code == "zarr-shared"
    assert name.split("/")[0] in caught.value.reason.message
    with pytest.raises(FailedError):  # one that appeared after the check
        write_image(cells, draw_stack(), axes="ZYX", overwrite=True)
    assert foreign.read_text() == "{}"


def test_a_result_named_with_a_slash_at_its_end_is_a_zarr(tmp_path: Path) -> None:
    name = f"{tmp_path / 'out.ome.zarr'}{os.sep}"
    write_image(name, draw_stack(), axes="ZYX")
    assert read_header(name).shape == SHAPE and (tmp_path / "out.ome.zarr").is_dir()


def test_places_where_a_folder_would_do_harm_are_refused(tmp_path: Path) -> None:
    folder = save_zarr(tmp_path, "0.5")
    assert check_output_code(folder, overwrite=False) == "output-exists"
    assert check_output_code(folder, (folder,)) == "output-is-input"
    assert check_output_code(folder, (folder / "0" / "zarr.json",)) == "output-is-input"
    assert check_output_code(folder / "inner.ome.zarr", (folder,)) == "output-is-input"
    assert check_output_code(folder / "picture.tif", (folder,)) == "output-is-input"
    (tmp_path / "letters.zarr").mkdir()
    (tmp_path / "letters.zarr" / "mine.txt").write_text("dear")
    assert check_output_code(tmp_path / "letters.zarr") == "zarr-foreign"
    (tmp_path / "file.zarr").write_text("dear")
    assert check_output_code(tmp_path / "file.zarr") == "folder-is-file"
    assert resolve_output(folder, overwrite=True) == folder


@pytest.mark.parametrize("level", ["../../other/0", "/etc", "0/../../x", "", "C:\\x"])
def test_levels_that_lead_out_of_the_folder_are_refused(cells: Path, level: str) -> None:
    edit_metadata(cells, lambda multiscale: multiscale["datasets"][1].update(path=level))
    assert read_refusal_code(cells) == "file-outside-folder"


def test_links_that_lead_out_of_the_folder_are_not_followed(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    header = read_header(cells)
    chunk = next(path for path in (cells / "0").rglob("*") if path.name == "0" and path.is_file())
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret")
    assert read_refusal_code(cells) == "file-outside-folder"
    with pytest.raises(RefusedError) as caught:
        read_pixels(header)
    assert caught.value.reason.code == "file-outside-folder"


@pytest.mark.parametrize("what", ["metadata of the image", "metadata of a level", "level"])
def test_metadata_and_levels_behind_links_that_lead_out_are_not_read(
    cells: Path, tmp_path: Path, what: str
) -> None:
    level = next(path for path in (cells / "0").iterdir() if path.name in ("zarr.json", ".zarray"))
    place = {"level": cells / "0", "metadata of a level": level}.get(what, find_metadata(cells))
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert read_refusal_code(cells) == "file-outside-folder"


def test_an_image_of_several_behind_a_link_that_leads_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    outside = save_zarr(tmp_path / "outside", "0.4")
    several = tmp_path / "several.zarr"
    several.mkdir()
    (several / ".zattrs").write_text('{"bioformats2raw.layout": 3}')
    (several / "0").symlink_to(outside)
    assert read_refusal_code(several) == "file-outside-folder"
    (several / "0").unlink()
    outside.rename(several / "0")
    assert read_header(several).shape == SHAPE


def test_the_finest_level_is_that_of_the_smallest_pixels_wherever_it_is_listed(
    cells: Path,
) -> None:
    edit_metadata(cells, lambda multiscale: multiscale["datasets"].reverse())
    header = read_header(cells)
    assert (header.shape, header.scale) == (SHAPE, SCALE)
    assert "level '0' is restored" in str(header.notes[0])
    np.testing.assert_array_equal(read_pixels(header), draw_stack())


def test_of_levels_without_scales_the_largest_is_the_finest(cells: Path) -> None:
    def change(multiscale: Any) -> None:
        multiscale["datasets"].reverse()
        for dataset in multiscale["datasets"]:
            dataset["coordinateTransformations"] = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]

    edit_metadata(cells, change)
    np.testing.assert_array_equal(read_pixels(read_header(cells)), draw_stack())


def test_pixels_of_negative_size_are_refused_as_such(cells: Path) -> None:
    def change(multiscale: Any) -> None:
        for dataset in multiscale["datasets"]:
            dataset["coordinateTransformations"] = [{"type": "scale", "scale": [1.0, 1.0, -1.0]}]

    edit_metadata(cells, change)
    with pytest.raises(RefusedError, match="size"):
        read_header(cells)


def test_levels_whose_sizes_and_scales_contradict_are_refused(cells: Path) -> None:
    def change(multiscale: Any) -> None:
        first, second = multiscale["datasets"][:2]
        first["path"], second["path"] = second["path"], first["path"]

    edit_metadata(cells, change)
    with pytest.raises(RefusedError, match="'1' has the smallest pixels, but '0' has more of them"):
        read_header(cells)


def test_missing_chunks_are_not_taken_for_empty_ones(cells: Path) -> None:
    next(path for path in (cells / "0").rglob("*") if path.name == "0" and path.is_file()).unlink()
    assert read_refusal_code(cells) == "zarr-gaps"


def find_array_metadata(path: Path) -> Path:
    return next(
        file for file in (path / "0" / "zarr.json", path / "0" / ".zarray") if file.is_file()
    )


@pytest.mark.parametrize("side", [10**9, 10**15])
def test_absurd_sizes_are_refused_before_anything_is_read(cells: Path, side: int) -> None:
    record = json.loads(find_array_metadata(cells).read_text())
    record["shape"] = [side] * 3
    find_array_metadata(cells).write_text(json.dumps(record))
    assert read_refusal_code(cells) == "zarr-gaps"
    if "chunks" in record:
        record["chunks"] = [side] * 3
    else:
        record["chunk_grid"]["configuration"]["chunk_shape"] = [side] * 3
    find_array_metadata(cells).write_text(json.dumps(record))
    assert read_refusal_code(cells) == "file-broken"


def test_a_codec_that_runs_what_it_unpacks_is_refused(cells: Path) -> None:
    record = json.loads(find_array_metadata(cells).read_text())
    if "compressor" in record:
        record["filters"] = [{"id": "pickle", "protocol": 5}]
    else:
        record["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    find_array_metadata(cells).write_text(json.dumps(record))
    assert read_refusal_code(cells) == "file-codec"


@pytest.mark.parametrize(
    ("task", "moved"), [("denoise", (100.0, 200.0)), ("super-resolve", (99.875, 199.875))]
)
def test_a_result_lies_where_its_input_lay(tmp_path: Path, task: str, moved: Any) -> None:
    image = draw_stack()[0, :48, :40]
    source = save_zarr(tmp_path, "0.5", image, axes="YX", scale=(0.5, 0.5), units=UNITS[:2])

    def translate(multiscale: Any) -> None:
        multiscale["datasets"][0]["coordinateTransformations"] += [
            {"type": "translation", "translation": [90, 190]}
        ]
        multiscale["coordinateTransformations"] = [
            {"type": "translation", "translation": [10, 10]},
            {"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]},
        ]

    edit_metadata(source, translate)
    assert ["'affine'" in str(note) for note in read_header(source).notes] == [True]
    out = tmp_path / "out.ome.zarr"
    options = ("--preset", "fast", "--max-iterations", "2", "--device", "cpu")
    assert main([task, str(source), "-o", str(out), *options]) == 0
    assert read_header(out).tags.origin == pytest.approx(moved)
    finer = 1 if task == "denoise" else 2
    assert read_header(out).scale == (0.5 / finer, 0.5 / finer)


def change_multiscale(**values: Any) -> Any:
    return lambda multiscale: multiscale.update(values)


@pytest.mark.parametrize(
    "change",
    [
        change_multiscale(axes=[{"name": name} for name in "zyxx"]),
        change_multiscale(axes=[{"name": name} for name in "zy"]),
        change_multiscale(axes=[{"name": name} for name in ("depth", "y", "x")]),
        change_multiscale(axes="zyx"),
        change_multiscale(datasets=[]),
        change_multiscale(datasets=[{"path": 7}]),
        change_multiscale(coordinateTransformations=[{"type": "scale", "scale": [1, 0, 1]}]),
        change_multiscale(coordinateTransformations=[{"type": "scale", "scale": [1, 1]}]),
        change_multiscale(
            coordinateTransformations=[{"type": "translation", "translation": [1, 1]}]
        ),
        change_multiscale(coordinateTransformations=[{"type": "scale", "scale": ["nan", 1, 1]}]),
    ],
)
def test_senseless_metadata_are_refused(cells: Path, change: Any) -> None:
    edit_metadata(cells, change)
    assert read_refusal_code(cells) == "file-broken"


def test_other_versions_plates_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    path = save_zarr(tmp_path, "0.5")
    whole = json.loads(find_metadata(path).read_text())
    whole["attributes"]["ome"]["version"] = "0.9"
    find_metadata(path).write_text(json.dumps(whole))
    assert read_refusal_code(path) == "zarr-version"
    whole["attributes"]["ome"] = {"version": "0.5", "plate": {}}
    find_metadata(path).write_text(json.dumps(whole))
    assert read_refusal_code(path) == "zarr-none"
    find_metadata(path).write_text("{")
    assert read_refusal_code(path) == "file-broken"
    assert read_refusal_code(tmp_path) == "file-is-folder"


def make_orphan_name() -> str:
    """Name a part of a process that has ended."""
    code = "from napari_dip.io.atomic import make_temporary_name; print(make_temporary_name())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_what_a_killed_program_left_is_removed(tmp_path: Path) -> None:
    from napari_dip.io.atomic import make_temporary_name
    from napari_dip.io.outputs import remove_stale_temporary_files

    orphan = tmp_path / make_orphan_name()
    mine, foreign = tmp_path / make_temporary_name(), tmp_path / ".napari-dip-0.part"
    elsewhere = tmp_path / (f".napari-dip-{0:012x}-{orphan.name.split('-', 3)[3]}")
    for path in (orphan, mine, foreign, elsewhere):
        path.mkdir()
        (path / "zarr.json").write_text("{}")
        os.utime(path, (0, 0))
    remove_stale_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, foreign.name, elsewhere.name}


@pytest.mark.parametrize(
    ("start", "package"),
    [(b"ZISRAWFILE", "bioio_czi"), (b"\xda\xce\xbe\x0a", "bioio_nd2"), (b"p\0\0\0", "bioio_lif")],
)
def test_a_file_whose_reader_is_not_installed_is_refused_with_how_to_install_it(
    tmp_path: Path, start: bytes, package: str
) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    path = tmp_path / "cells.dat"
    path.write_bytes(start + bytes(64))
    with pytest.raises(RefusedError) as caught:
        read_header(path)
    assert caught.value.reason.code == "extra-missing"
    assert 'pip install "napari-dip[formats]"' in caught.value.reason.message
