"""A plate is a batch of its fields, and the results are a plate again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.errors import RefusedError
from napari_dip.io.reading import read_header
from napari_dip.io.writing import write_image
from napari_dip.pipeline.recipe import make_recipe
from napari_dip.samples import MITOCHONDRIA

if TYPE_CHECKING:
    from pathlib import Path

ROWS, COLUMNS, FIELDS = "AB", "123", "01"


def make_plate(path: Path, version: str, rows: str = ROWS, columns: str = COLUMNS) -> Path:
    """Write a plate of crops of the sample, two fields in each well."""
    sample = tifffile.imread(MITOCHONDRIA)[0]
    wells = [f"{row}/{column}" for row in rows for column in columns]
    plate = {
        "version": version,
        "name": "test",
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [
            {"path": well, "rowIndex": rows.index(well[0]), "columnIndex": columns.index(well[2])}
            for well in wells
        ],
        "field_count": len(FIELDS),
        "acquisitions": [{"id": 0, "name": "first", "maximumfieldcount": 2}],
    }
    images = [{"path": field, "acquisition": 0} for field in FIELDS]
    write_group(path, version, {"plate": plate})
    for row in rows:
        write_group(path / row, version, {})
    like = path.parent / f"like {version}.ome.zarr"
    axes = [{"name": name, "type": "space"} for name in "yx"]
    levels = {"version": version, "axes": axes, "datasets": [{"path": "0"}]}
    write_group(like, version, {"multiscales": [levels]})
    (like / "0").mkdir(exist_ok=True)
    array = {"zarr_format": 2, "shape": [1, 1]}
    (like / "0" / ".zarray").write_text(json.dumps(array))
    for number, well in enumerate(wells):
        write_group(path / well, version, {"well": {"images": images, "version": version}})
        for field in FIELDS:
            begin = 40 * number + 17 * int(field)
            image = sample[begin // 4 : begin // 4 + 40, begin : begin + 40]
            size = {"scale": (0.25, 0.25), "units": ("micrometer",) * 2}
            write_image(path / well / field, image, axes="YX", like=str(like), **size)
    return path


def write_group(folder: Path, version: str, attributes: dict[str, object]) -> None:
    """Write the metadata of a group, as any other program does."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (folder / ".zattrs").write_text(json.dumps(attributes))
        return
    attributes = {"ome": {"version": version, **attributes}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(group))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    settings = {"preset": "instant", "max_iterations": 3, "threads": 1}
    path.write_text(make_recipe("denoise", **settings).to_json())
    return path


def list_fields(rows: str = ROWS, columns: str = COLUMNS) -> list[str]:
    return [f"{row}/{column}/{field}" for row in rows for column in columns for field in FIELDS]


def read_tree(folder: Path) -> dict[str, bytes]:
    """Read all files of a plate."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.long
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_becomes_a_plate_with_all_its_fields(tmp_path, recipe, version):
    plate = make_plate(tmp_path / "plate.ome.zarr", version, rows="A", columns="12")
    done = dip.batch(recipe, plate, tmp_path / "results")
    assert done.count("restored") == 4
    result = tmp_path / "results" / plate.name
    ours, theirs = (read_group(folder, version) for folder in (result, plate))
    assert ours == theirs
    assert read_group(result / "A" / "2", version) == read_group(plate / "A" / "2", version)
    for field in list_fields("A", "12"):
        before, after = (read_header(folder / field) for folder in (plate, result))
        assert (after.shape, after.scale, after.units) == (before.shape, before.scale, before.units)
        assert after.name == f"plate.ome.zarr/{field}"
    if find_spec("ome_zarr_models"):
        validate_plate(result, version)


def read_group(folder: Path, version: str) -> dict[str, object]:
    if version == "0.4":
        return json.loads((folder / ".zattrs").read_text())
    return json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]


def validate_plate(path: Path, version: str) -> None:
    """Read plate, wells and images with the models of OME-Zarr."""
    import zarr
    from ome_zarr_models import open_ome_zarr

    plate = open_ome_zarr(zarr.open_group(path, mode="r"), version=version)
    assert type(plate).__name__ == "HCS"
    assert len(list(plate.well_groups)) == len(list(path.glob("?/?")))
    for field in path.glob("?/?/?"):
        image = open_ome_zarr(zarr.open_group(field, mode="r"), version=version)
        assert type(image).__name__ == "Image"


def test_the_table_of_a_plate_has_well_field_and_figures(tmp_path, recipe):
    plate = make_plate(tmp_path / "plate.zarr", "0.5", rows="B", columns="3")
    other = tmp_path / "alone.tif"
    tifffile.imwrite(other, tifffile.imread(MITOCHONDRIA)[0, :40, :40])
    done = dip.batch(recipe, [other, plate], tmp_path / "results")
    with done.table.open(newline="", encoding="utf-8") as file:
        alone, first, second = csv.DictReader(file)
    assert (alone["plate"], alone["well"], alone["field"]) == ("", "", "")
    assert (first["plate"], first["well"], first["field"]) == ("plate.zarr", "B3", "0")
    assert (second["result"], second["state"]) == ("plate.zarr/B/3/1", "restored")
    assert float(second["residual_lag_1_correlation"]) < 1
    assert len(second["result_sha256"]) == 64


def test_a_field_that_is_refused_is_left_out_of_the_plate(tmp_path, recipe):
    plate = make_plate(tmp_path / "plate.zarr", "0.5", rows="A", columns="1")
    constant = np.full((40, 40), 7, np.uint8)
    write_image(plate / "A/1/0", constant, axes="YX", overwrite=True)
    done = dip.batch(recipe, plate, tmp_path / "results")
    assert [outcome.state for outcome in done.outcomes] == ["refused", "restored"]
    result = tmp_path / "results" / "plate.zarr"
    well = read_group(result / "A/1", "0.5")["well"]
    assert well["images"] == [{"path": "1", "acquisition": 0}]
    assert read_group(result, "0.5")["plate"]["field_count"] == 1
    assert not (result / "A/1/0").exists()


def test_a_field_that_is_refused_now_leaves_the_plate_and_its_earlier_result_another_name(
    tmp_path, recipe
):
    plate = make_plate(tmp_path / "plate.zarr", "0.5", rows="A", columns="1")
    dip.batch(recipe, plate, tmp_path / "results")
    constant = np.full((40, 40), 7, np.uint8)
    write_image(plate / "A/1/0", constant, axes="YX", overwrite=True)
    dip.batch(recipe, plate, tmp_path / "results", resume=True)
    well = tmp_path / "results" / "plate.zarr" / "A/1"
    assert [image["path"] for image in read_group(well, "0.5")["well"]["images"]] == ["1"]
    assert {path.name for path in well.iterdir() if path.is_dir()} == {"0.changed", "1"}


def test_a_plate_that_is_not_named_again_keeps_rows_and_fields(tmp_path, recipe):
    plate = make_plate(tmp_path / "plate.zarr", "0.5", rows="A", columns="1")
    other = tmp_path / "alone.tif"
    tifffile.imwrite(other, tifffile.imread(MITOCHONDRIA)[0, :40, :40])
    dip.batch(recipe, [other, plate], tmp_path / "results")
    again = dip.batch(recipe, other, tmp_path / "results", resume=True)
    with again.table.open(newline="", encoding="utf-8") as file:
        fields = [row["field"] for row in csv.DictReader(file)]
    assert fields == ["", "0", "1"]
    well = read_group(tmp_path / "results" / "plate.zarr" / "A/1", "0.5")["well"]
    assert [image["path"] for image in well["images"]] == ["0", "1"]


@pytest.mark.parametrize("path", ["../out", "A/../..", "A/1/2", "", 7])
def test_a_well_that_leads_elsewhere_is_refused(tmp_path, recipe, path):
    plate = make_plate(tmp_path / "plate.zarr", "0.5", rows="A", columns="1")
    metadata = json.loads((plate / "zarr.json").read_text())
    metadata["attributes"]["ome"]["plate"]["wells"][0]["path"] = path
    (plate / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(RefusedError) as caught:
        dip.batch(recipe, plate, tmp_path / "results")
    assert caught.value.code in {"file-broken", "file-outside-folder"}
    assert not (tmp_path / "results").exists()


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.all_cores
def test_a_plate_that_is_killed_twice_has_the_bytes_of_one_that_was_not(tmp_path, recipe):
    plate = make_plate(tmp_path / "plate.ome.zarr", "0.5")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for count in (2, 6):
        kill_batch(recipe, plate, killed, count)
        records = list((killed / "records").glob("*.json"))
        assert len(records) < len(list_fields())
    command = make_command(recipe, plate, killed)
    assert subprocess.run([*command, "--resume"], check=False).returncode == 0
    dip.batch(recipe, plate, whole, threads=1)
    ours, theirs = read_tree(killed / plate.name), read_tree(whole / plate.name)
    assert len([path for path in theirs if path.endswith("c/0/0")]) == len(list_fields())
    assert ours == theirs
    alone = tmp_path / "alone.ome.zarr"
    dip.denoise(plate / "B/2/1", preset="instant", max_iterations=3, threads=1).save(alone)
    field = read_tree(whole / plate.name / "B/2/1")
    assert read_tree(alone)["0/c/0/0"] == field["0/c/0/0"]


def make_command(recipe: Path, plate: Path, results: Path) -> list[str]:
    command = [sys.executable, "-m", "napari_dip", "batch", str(recipe), str(plate), "--quiet"]
    return [*command, "-o", str(results), "--threads", "1", "--workers", "2"]


def kill_batch(recipe: Path, plate: Path, results: Path, count: int) -> None:
    """Run a batch with two workers until `count` fields are done, and kill all of it."""
    command = make_command(recipe, plate, results)
    resume = ["--resume"] if results.exists() else []
    program = subprocess.Popen([*command, *resume], start_new_session=True)
    while program.poll() is None and len(list(results.glob("records/*.json"))) < count:
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    assert program.returncode == -signal.SIGKILL, "it ended before it was killed"
