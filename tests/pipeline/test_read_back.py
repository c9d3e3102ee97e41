"""JSON files are read or refused when any field is deleted or replaced by any value."""

from __future__ import annotations

import copy
import json
import struct
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_dip.cli import main
from napari_dip.errors import DipError, RefusedError
from napari_dip.io.paths import parse_strict_json
from napari_dip.io.reading import read_header
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.report_fields import read_run_report
from napari_dip.pipeline.autosave import find_interrupted_runs
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.recipe import load_recipe, recipe_from_dict
from napari_dip.pipeline.store.run_folder import get_pixel_versions
from napari_dip.qt.shell.preferences import SavedRecipeFolder
from napari_dip.scale.batch.jobs import FileOutcome, Job
from napari_dip.scale.batch.records import (
    make_result_paths,
    read_batch_manifest,
    read_earlier_batch,
    read_file_record,
    read_verified_record,
)
from napari_dip.scale.batch.table import format_batch_csv, render_batch_page

RECIPE = {"schema": 1, "task": "denoise", "settings": {}, "preset": "fast", "device": "cpu"}
RECIPE["max_iterations"] = 1
HOSTILE = "x\x1b]0;owned\x07\u202e{Lucy|\nimport os"
MISSING = object()
VALUES = (
    *(MISSING, None, True, 0, -1, 10**30, 1.5, -1e308, 1e308, "", HOSTILE, "{", "9" * 20_000),
    *([], [[]], [None], ["a"], [1, 2, 3], {}, {"a": 1}, {"x": {"y": [{}]}}),
)
#: What is no JSON, or none that anybody means: each would have to be refused.
TEXTS = (
    *("", "{", "[", "null", "1", '"a"', "[]", "NaN", '{"task": NaN}', '{"a": Infinity}'),
    *('{"task": "denoise", "task": "inpaint"}', "[" * 100_000, "[" * 480 + "]" * 480),
    *(
        '{"a":' * 490 + "1" + "}" * 490,
        "9" * 5000,
        "\ufeff{}",
        "{} x",
        "\x00",
        '{"task": "denoise"}',
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report, and a batch with its list and a receipt, as runs leave them."""
    folder = tmp_path_factory.mktemp("made")
    image = np.random.default_rng(0).normal(500, 20, (32, 32)).astype("uint16")
    tifffile.imwrite(folder / "in.tif", image)
    (folder / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    same = ("--from-recipe", str(folder / "recipe.json"), "--quiet")
    report = ("--report", str(folder / "report.json"))
    image, out = str(folder / "in.tif"), str(folder / "out.tif")
    assert main(["denoise", image, "-o", out, *report, *same]) == 0
    recipe = str(folder / "recipe.json")
    assert main(["batch", recipe, image, "-o", str(folder / "done"), "--quiet"]) == 0
    return folder


def list_paths(value: object, place: tuple = ()):
    """Give the way to each value; of a list to the first two."""
    if place:
        yield place
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:2])
        if isinstance(value, list)
        else ()
    )
    for key, entry in inner:
        yield from list_paths(entry, (*place, key))


def change_value(record: Any, place: tuple, value: Any) -> None:
    """Replace the value at a place of a JSON, or delete it."""
    for key in place[:-1]:
        record = record[key]
    if value is MISSING:
        del record[place[-1]]
    else:
        record[place[-1]] = value


def make_mutants(whole: dict):
    """Give the JSON with one value deleted or replaced, for all values, and what was done."""
    for place in list_paths(whole):
        for value in VALUES:
            changed = copy.deepcopy(whole)
            change_value(changed, place, value)
            yield (place, str(value)[:30]), json.dumps(changed)


def check_harmless(change: object, text: str) -> None:
    assert not {"\x1b", "\x07", "\u202e"} & set(text), change
    assert "import os" not in text.split("\n"), change


def check_refusal(change: object, error: DipError) -> None:
    """A refusal is two sentences in one line that commands nothing."""
    text = error.reason.message
    check_harmless(change, text)
    assert "\n" not in text and text.count(". ") >= 1 and len(text) < 1200, change


def test_methods_are_written_for_a_report_without_a_verdict(folder, tmp_path):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    whole = write_methods_section(read_run_report(folder / "report.json"))
    del report["verdict"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    assert write_methods_section(read_run_report(path)) == whole


@pytest.mark.long
def test_a_report_is_read_or_refused_whatever_a_field_holds(folder, tmp_path):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    probes = {"probe_count": 2, "gain": 0.1, "error": 0.1, "fine_tuned": True}
    network = {"network_file": "a{b}.network", "sha256": "0" * 64}
    shared = {"region_count": 2, "iterations": 3, "inference": 4, **probes, **network}
    report["fit"]["joint_training"] = shared
    path, said = tmp_path / "report.json", 0
    path.write_text(json.dumps(report), encoding="utf-8")
    assert "a(b).network" in write_methods_section(read_run_report(path))
    for change, text in make_mutants(report):
        path.write_text(text, encoding="utf-8")
        try:
            check_harmless(change, write_methods_section(read_run_report(path)))
        except DipError as error:
            check_refusal(change, error)
            said += 1
    assert said > 500


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("noise", "gain"), 3, "its field 'noise.gain' should be a valid list"),
        (("noise", "gain"), [None], "its field 'noise.gain.0' should be a valid number"),
        (("torch",), MISSING, "its field 'torch' is missing"),
        (("iterations",), "3", "its field 'iterations' should be a valid integer"),
        (("axes",), "Y", "its field 'shape' has 2 sizes and 'axes' 1"),
        (("task",), "inpaint", "its field 'task' is another than that of its recipe"),
        (
            ("validation_loss",),
            [[1, 2, 3]],
            "its field 'validation_loss.0' is wrong: list should have at most 2",
        ),
        (("version",), "1\nimport os", "its field 'version' is wrong"),
        (("recipe", "schema"), 99, "schema version 99"),
        (("recipe", "settings"), {"gain": "much"}, "The setting 'gain' cannot be 'much'"),
    ],
)
def test_the_field_of_a_report_that_is_wrong_is_named(
    place, value, message, folder, tmp_path, capsys
):
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    change_value(report, place, value)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    assert main(["methods", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_what_is_no_plain_json_is_refused_from_every_door(text, folder, tmp_path):
    path = tmp_path / "text.json"
    path.write_text(text, encoding="utf-8")
    for read in (read_run_report, load_recipe):
        with pytest.raises(RefusedError) as caught:
            read(path)
        check_refusal(text[:30], caught.value)
    (tmp_path / "batch.json").write_text(text, encoding="utf-8")
    with pytest.raises(RefusedError) as caught:
        read_batch_manifest(tmp_path, recipe_from_dict(RECIPE))
    check_refusal(text[:30], caught.value)
    assert read_earlier_batch(tmp_path) is None


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '{"a": {"b": 1, "c": 2, "b": 3}}', "[NaN]"])
def test_json_that_says_two_things_at_once_is_none(text):
    with pytest.raises(ValueError, match=r"twice|no number"):
        parse_strict_json(text)


def test_a_recipe_is_read_or_refused_whatever_a_field_holds(tmp_path):
    path, shelf = tmp_path / "recipe.json", SavedRecipeFolder(folder=tmp_path, task="denoise")
    (tmp_path / "last").mkdir()
    whole = {**RECIPE, "settings": {"gain": 1.0, "noise": "auto", "network": ""}, "tile": 128}
    deep = [{**whole, "settings": {"gain": json.loads("[" * n + "]" * n)}} for n in (50, 200, 400)]
    long = {**whole, "x" * 100_000: 1}
    refused = read = 0
    for change, text in (
        *make_mutants(whole),
        *(("deep", json.dumps(value)) for value in (*deep, long)),
    ):
        path.write_text(text, encoding="utf-8")
        (tmp_path / "last" / "denoise.json").write_text(text, encoding="utf-8")
        remembered = shelf.load_last()
        try:
            recipe = load_recipe(path)
        except DipError as error:
            check_refusal(change, error)
            assert remembered is None, change
            refused += 1
        else:
            assert remembered == recipe == recipe_from_dict(recipe.to_dict()), change
            read += 1
    assert refused > 150 and read


def test_the_list_of_a_batch_is_read_or_refused_whatever_a_field_holds(folder, tmp_path):
    whole = json.loads((folder / "done" / "batch.json").read_text(encoding="utf-8"))
    whole["refused"] = [{"source": "b.tif", "code": "x", "sentence": "x", "remedy": "x"}]
    refused = read = 0
    for change, text in make_mutants(whole):
        (tmp_path / "batch.json").write_text(text, encoding="utf-8")
        read_earlier_batch(tmp_path)
        try:
            read_batch_manifest(tmp_path, recipe_from_dict(RECIPE))
        except DipError as error:
            check_refusal(change, error)
            refused += 1
        else:
            read += 1
    assert refused > 150 and read > 50


@pytest.mark.long
def test_a_record_counts_only_if_a_table_can_be_made_of_it(folder):
    at, header = make_result_paths(folder / "done", "in.tif"), read_header(folder / "in.tif")
    recipe, before = recipe_from_dict(RECIPE), at.record.read_text(encoding="utf-8")
    assert read_file_record(at, header, recipe) is not None
    plan = preflight(recipe, header, detect_machine())
    job = Job(source=folder / "in.tif", plan=plan, paths=at)
    assert read_verified_record(job, plan) is not None
    counted = 0
    try:
        for change, text in make_mutants(json.loads(before)):
            at.record.write_text(text, encoding="utf-8")
            read_verified_record(job, plan)
            if (record := read_file_record(at, header, recipe)) is not None:
                outcome = FileOutcome(
                    source=folder / "in.tif", state="already-done", result=at.result, record=record
                )
                check_harmless(
                    change, format_batch_csv([outcome]) + render_batch_page([outcome], recipe)
                )
                counted += 1
    finally:
        at.record.write_text(before, encoding="utf-8")
    assert counted > 100


@pytest.mark.long
def test_an_unfinished_run_is_offered_or_passed_over_whatever_its_files_hold(tmp_path):
    run = tmp_path / "run-1"
    run.mkdir()
    noted = {"layer": "a", "sha256": "0" * 64, "axes": "YX", "path": None, "file": "image.npy"}
    whole = {"schema": 1, **get_pixel_versions(), "recipe": RECIPE, "label": "Denoise cells"}
    whole |= {"begun": "2026-01-01T00:00:00+00:00", "iterations": 10, "tiles": 0}
    machine = asdict(detect_machine())
    machine |= {"torch": machine.pop("torch_version"), "missing": machine.pop("no_gpu_reason")}
    whole |= {"machine": machine, "inputs": {"image": noted}}
    (run / "run.json").write_text(json.dumps(whole), encoding="utf-8")
    assert len(find_interrupted_runs(tmp_path, "denoise")) == 1
    whole = json.loads(json.dumps(whole))
    ages = (
        ("begun", json.dumps({**whole, "begun": value})) for value in ("0001-01-01", "9999-12-31")
    )
    for change, text in (*make_mutants(whole), *((value[:9], value) for value in TEXTS), *ages):
        (run / "run.json").write_text(text, encoding="utf-8")
        for interrupted in find_interrupted_runs(tmp_path, "denoise"):
            check_harmless(change, interrupted.describe())
            assert (
                isinstance(interrupted.is_resumable, bool)
                and interrupted.machine.devices is not None
            )
    (run / "run.json").write_text(json.dumps(whole), encoding="utf-8")
    inner = (*TEXTS, '{"fit": {"history": [[1e400]]}, "outcomes": []}', '{"fit": 1, "outcomes": 1}')
    heads = [json.dumps({"__metadata__": {"napari_dip": value}}) for value in inner]
    for head in (*TEXTS, *heads, '{"__metadata__": 3}', '{"__metadata__": []}'):
        content = head.encode()
        (run / "checkpoint.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)
        (interrupted,) = find_interrupted_runs(tmp_path, "denoise")
        assert interrupted.completed_iterations == 0
