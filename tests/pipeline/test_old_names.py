"""Old names are accepted for one version: options, keywords, recipes, reports, batches."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import napari_dip as dip
from napari_dip.__main__ import main
from napari_dip.errors import RefusedError
from napari_dip.pipeline import recipe as recipes
from napari_dip.pipeline.assess import report_fields
from napari_dip.pipeline.assess.artefact_detection import ClippedPixels
from napari_dip.pipeline.assess.card import make_card
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.assess.metrics import ResidualMetrics, ResultMetrics
from napari_dip.pipeline.assess.report_fields import migrate_record, read_run_report
from napari_dip.pipeline.assess.validation_evidence import ConfirmedDetail
from napari_dip.pipeline.recipe import make_recipe, recipe_from_dict
from napari_dip.pipeline.repetition import Repetition
from napari_dip.pipeline.store.checkpoints import parse_outcome
from napari_dip.pipeline.store.network_files import read_network
from napari_dip.pipeline.store.run_folder import RunFolder
from napari_dip.pipeline.store.tensor_file import write_tensors
from napari_dip.qt.shell.preferences import SavedRecipeFolder

FEW = {"preset": "fast", "max_iterations": 2, "device": "cpu"}
#: A recipe of schema 1, with all that is called otherwise by now in a denoising.
OLD = {
    "schema": 1,
    "task": "denoise",
    "settings": {
        "prior": "recorrupted",
        "neighbours": False,
        "steadiness": 2.0,
        "sharing": "in-turn",
    },
    **FEW,
}
NEW = {
    "prior": "r2r",
    "neighbouring_frames": False,
    "temporal_smoothing": 2.0,
    "series_training": "warm-start",
}
NAMES = [(task, *pair) for task, names in recipes.OLD_SETTINGS.items() for pair in names.items()]
VALUES = [
    (task, name, *pair)
    for (task, name), values in recipes.OLD_VALUES.items()
    for pair in values.items()
]


def make_noisy(seed: int = 0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.arange(32.0), np.arange(32.0))
    return (200 + 3 * smooth + rng.normal(0, 12, smooth.shape)).astype(np.float32)


def invert(names: Any) -> dict[str, str]:
    return {new: old for old, new in names.items()}


def write_old_report(report: dict[str, Any]) -> dict[str, Any]:
    """Write a report as the program before did, of a run by `OLD`."""
    old = json.loads(json.dumps(report)) | {"recipe": OLD}
    for path, names in reversed(report_fields.OLD_FIELDS.items()):  # a section before its parent
        kind, *sections = path.split(".")
        if kind == "report":
            old = report_fields._rename_within(old, sections, invert(names))
    priors = invert(report_fields._OLD_PRIORS)
    old["prior"] = old["prior"] | {"chosen": priors[old["prior"]["chosen"]]}
    return old


@pytest.mark.parametrize(("task", "old", "new"), NAMES)
def test_an_old_setting_is_taken_with_a_warning_that_names_the_new_one(
    task: str, old: str, new: str
) -> None:
    default = getattr(make_recipe(task).task, new)
    with pytest.warns(FutureWarning, match=f"'{old}' is called '{new}' now"):
        recipe = make_recipe(task, **{old: default})
    assert recipe == make_recipe(task)
    with pytest.raises(RefusedError) as no:
        make_recipe(task, **{old: default, new: default})
    assert no.value.reason.code == "setting-wrong" and new in no.value.reason.sentence


@pytest.mark.parametrize(("task", "name", "old", "new"), VALUES)
def test_an_old_value_is_taken_with_a_warning_that_names_the_new_one(
    task: str, name: str, old: str, new: str
) -> None:
    with pytest.warns(FutureWarning, match=f"'{old}' of '{name}' is called '{new}' now"):
        recipe = make_recipe(task, **{name: old})
    assert getattr(recipe.task, name) == new


@pytest.mark.filterwarnings("error")
def test_old_recipes_and_presets_are_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "presets" / "denoise" / "mine.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(OLD))
    for recipe in (
        recipe_from_dict(OLD),
        SavedRecipeFolder(folder=tmp_path, task="denoise").load("mine"),
    ):
        assert recipe == make_recipe("denoise", **NEW, **FEW)
        assert recipe.to_dict() == {"schema": 3, "task": "denoise", "settings": NEW, **FEW}


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize("task", ["denoise", "guide"])
def test_an_old_recipe_keeps_the_defaults_of_its_time(task: str, schema: int) -> None:
    raw = {"schema": schema, "task": task, "settings": {}}
    assert recipe_from_dict(raw) == make_recipe(task, temporal_smoothing=1.0)
    explicit = {**raw, "settings": {"temporal_smoothing": 0.5}}
    assert recipe_from_dict(explicit) == make_recipe(task, temporal_smoothing=0.5)
    assert recipe_from_dict({**raw, "schema": 3}) == make_recipe(task)
    migrated = migrate_record({"recipe": raw, "report": {"recipe": raw}})
    assert migrated["recipe"] == make_recipe(task, temporal_smoothing=1.0).to_dict()


def test_a_value_that_is_no_text_is_refused_as_ever() -> None:
    with pytest.raises(RefusedError) as no:
        make_recipe("denoise", prior=["noise"])
    assert no.value.reason.code == "setting-wrong"


def test_old_keywords_of_images_and_networks_are_taken(tmp_path: Path) -> None:
    today = dip.denoise(make_noisy(), repeated_exposure=make_noisy(1), **FEW)
    with pytest.warns(FutureWarning, match="'second' is called 'repeated_exposure' now"):
        before = dip.denoise(make_noisy(), second=make_noisy(1), **FEW)
    assert np.array_equal(today.image, before.image)
    with pytest.warns(FutureWarning, match="'network_file' now"), pytest.raises(RefusedError) as no:
        dip.restore(make_noisy(), OLD, shared_network=tmp_path / "none.network")
    assert no.value.reason.code == "file-missing"
    tifffile.imwrite(tmp_path / "in.tif", make_noisy())
    with (
        pytest.warns(FutureWarning, match="'joint_training' now"),
        pytest.raises(RefusedError) as no,
    ):
        dip.batch(OLD, tmp_path / "in.tif", tmp_path / "out", one_network=True)
    assert no.value.reason.code == "joint-few"


def test_old_keywords_of_experiments_are_taken() -> None:
    with pytest.warns(FutureWarning, match="'network' is called 'architecture' now"):
        result = dip.explore.impedance(
            make_noisy(), network="gaussian-code", max_iterations=1, device="cpu"
        )
    assert result.setup.recipe["architecture"] == "gaussian-input"


def test_old_options_are_taken_and_not_shown(tmp_path: Path, capsys: Any) -> None:
    tifffile.imwrite(tmp_path / "in.tif", np.stack([make_noisy(), make_noisy(1)]))
    line = ["denoise", str(tmp_path / "in.tif"), "--axes", "TYX", "--preset", "fast"]
    line += ["-o", str(tmp_path / "o.tif"), "--recipe", str(tmp_path / "recipe.json")]
    line += ["--max-iterations", "2", "--device", "cpu", "--prior", "recorrupted"]
    line += ["--no-neighbours", "--steadiness", "2", "--sharing", "in-turn"]
    assert main(line) == 0
    error_output = capsys.readouterr().err
    assert (
        error_output.count("is called") == 5
        and "'steadiness' is called 'temporal_smoothing' now" in error_output
    )
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["settings"] == NEW
    assert main(["denoise", "--help"]) == 0
    assert main(["batch", "--help"]) == 0
    helped = capsys.readouterr().out
    for old in ("--neighbours", "--steadiness", "--sharing", "--second", "--one-network"):
        assert old not in helped
    assert "--temporal-smoothing" in helped and "--joint-training" in helped


def test_the_old_switch_of_a_batch_and_of_an_experiment_are_taken(
    tmp_path: Path, capsys: Any
) -> None:
    tifffile.imwrite(tmp_path / "in.tif", make_noisy())
    (tmp_path / "recipe.json").write_text(json.dumps(OLD))
    line = ["batch", str(tmp_path / "recipe.json"), str(tmp_path / "in.tif")]
    assert main([*line, "-o", str(tmp_path / "out"), "--one-network"]) == 2  # one file is too few
    assert "'one_network' is called 'joint_training' now" in capsys.readouterr().err
    line = ["explore", "impedance", str(tmp_path / "in.tif"), "-o", str(tmp_path / "page")]
    assert main([*line, "--network", "none", "--device", "cpu"]) == 2
    assert "'network' is called 'architecture' now" in capsys.readouterr().err


def test_an_old_report_is_read_as_one_of_today(tmp_path: Path) -> None:
    report = dip.denoise(make_noisy(), **NEW, **FEW).report
    report = json.loads(json.dumps(report)) | {"recipe": make_recipe("denoise", **NEW, **FEW)}
    report["recipe"] = report["recipe"].to_dict()
    old = write_old_report(report)
    assert old["prior"]["chosen"] == "recorrupted" and "held_out" in old
    (tmp_path / "old.json").write_text(json.dumps(old))
    read = read_run_report(tmp_path / "old.json")
    assert read == report
    assert write_methods_section(read) == write_methods_section(report)
    again = Repetition(report=read, paths={"image": "in.tif"}, name="in")
    assert again.recipe == make_recipe("denoise", **NEW, **FEW)


@pytest.mark.parametrize("schema", [2, recipes.RECIPE_SCHEMA])
def test_the_end_of_a_fit_is_read_under_its_old_names_whatever_the_recipe(
    tmp_path: Path, schema: int
) -> None:
    report = dict(dip.denoise(make_noisy(), **FEW).report)
    old = {name: value for name, value in report.items() if name != "stop_sentence"}
    old |= {"stop_code": report["stop_reason"], "stop_reason": report["stop_sentence"]}
    old["recipe"] = {**old["recipe"], "schema": schema}
    (tmp_path / "old.json").write_text(json.dumps(old))
    read = read_run_report(tmp_path / "old.json")
    assert (read["stop_reason"], read["stop_sentence"]) == ("iterations", report["stop_sentence"])
    assert "stop_code" not in read
    within = migrate_record({"recipe": old["recipe"], "report": old})["report"]
    assert (within["stop_reason"], within["stop_sentence"]) == ("iterations", old["stop_reason"])


def test_the_old_record_of_a_series_is_read_too() -> None:
    series = {"members": 3, "iterations": 9, "shown": 3, "went_on": False, "file": "series.network"}
    fit = {"shared": series, "inputs": ["second"]}
    record = {"recipe": OLD, "prior": {"chosen": "noise"}, "fit": fit, "noise": {}}
    migrated = migrate_record(record)
    assert migrated["fit"]["inputs"] == ["repeated_exposure"]
    assert migrated["fit"]["joint_training"] == {
        "region_count": 3,
        "iterations": 9,
        "inference": 3,
        "fine_tuned": False,
        "network_file": "series.network",
    }
    noted = {"recipe": OLD, "inputs": {"second": {"layer": "again"}}, "report": record}
    assert migrate_record(noted)["inputs"] == {"repeated_exposure": {"layer": "again"}}
    assert migrate_record(noted)["report"]["prior"]["key"] == "random-input"


@pytest.mark.parametrize(
    "record", [{}, {"recipe": 3}, {"recipe": {"schema": 1}}, {"recipe": OLD, "report": 3, "fit": 7}]
)
def test_a_damaged_record_comes_back_for_its_reader_to_refuse(record: dict[str, Any]) -> None:
    migrated = migrate_record(record)
    assert set(migrated) == set(record)


@pytest.mark.filterwarnings("error")
def test_a_batch_that_was_begun_before_is_resumed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "in.tif", make_noisy())
    recipe, out = make_recipe("denoise", **NEW, **FEW), tmp_path / "out"
    dip.batch(recipe, tmp_path / "in.tif", out)
    before = (out / "in.tif").read_bytes()
    (out / "records").rename(out / "receipts")
    for path in (out / "batch.json", out / "receipts" / "in.tif.json"):
        record = json.loads(path.read_text())
        if record.get("report"):
            record["report"] = write_old_report(record["report"])
        path.write_text(json.dumps({**record, "recipe": OLD}))
    done = dip.batch(recipe, tmp_path / "in.tif", out, resume=True)
    assert [outcome.state for outcome in done.outcomes] == ["already-done"]
    assert (out / "in.tif").read_bytes() == before and not (out / "records").exists()


def test_current_names_are_taken_without_a_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        recipe = make_recipe("denoise", **NEW, **FEW)
    assert not caught and NEW.items() <= recipe.to_dict()["settings"].items()


def list_fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


@pytest.fixture(scope="module")
def old_records() -> Any:
    """Give the report of a movie and the metadata of a network file with their old keys."""
    return json.loads(Path(__file__).with_name("old_records.json").read_text(encoding="utf-8"))


def test_a_report_with_the_keys_of_before_is_judged_and_described(
    old_records: Any, tmp_path: Path
) -> None:
    old = old_records["report"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    report = read_run_report(tmp_path / "old.json")
    figures, old_figures = report["verdict"]["figures"], old["verdict"]["figures"]
    later_fields = {"channels", "has_entered_noise", "is_instant", "is_refitted", "plane"}
    later_fields |= {"saturated_fraction", "smooth_fill"}
    assert set(figures) == list_fields(ResultMetrics) - later_fields
    assert set(figures["residual"]) == list_fields(ResidualMetrics) - {"is_camera_noise"}
    assert set(figures["detail"]) == set(figures["contrast"]) == list_fields(ConfirmedDetail)
    assert set(figures["upper_clipping"]) == list_fields(ClippedPixels) - {"channel_number"}
    assert figures["residual"]["noise_ratio"] == old_figures["residual"]["strength"]
    assert figures["detail"]["regression_slope"] == old_figures["detail"]["share"]
    assert report["noise"]["unreliable_reason"] == [None]
    card = make_card(report)
    assert (card.verdict, card.headline) == ("fine", old["verdict"]["headline"])
    assert "fitted to 4 parts of the data" in write_methods_section(report)


def test_a_network_file_of_before_is_refused_since_its_layers_were_others(
    old_records: Any, tmp_path: Path
) -> None:
    path = tmp_path / "old.network"
    write_tensors(path, {"c0r0/weight": torch.zeros(1)}, {"network": old_records["network"]})
    with pytest.raises(RefusedError) as refused:
        read_network(path)
    assert refused.value.code == "joint-broken"


def test_outcomes_with_the_keys_of_before_are_read(old_records: Any) -> None:
    old = old_records["network"]
    joint, probe = map(parse_outcome, old["outcomes"])
    assert (joint.unit_id, joint.region_count, joint.joint_network_name) == ("all-c0r0", 6, "c0r0")
    assert list(probe.log_likelihood_gain) == old["outcomes"][1]["gain"]
    assert parse_outcome(json.loads(json.dumps(probe.to_dict()))) == probe


def test_a_run_folder_with_the_keys_of_before_is_resumed(tmp_path: Path) -> None:
    before = RunFolder(tmp_path / "run", resume=False)
    before.open({"budget": {"prior": "r2r", "window": 64}, "axes": "YX"})
    before.initialise()
    fit_config = {"prior_key": "r2r", "window_side": 64}
    RunFolder(tmp_path / "run", resume=True).open({"fit_config": fit_config, "axes": "YX"})
    with pytest.raises(RefusedError):
        RunFolder(tmp_path / "run", resume=True).open({"fit_config": fit_config, "axes": "ZYX"})


def test_no_old_name_of_a_field_is_a_present_one() -> None:
    for names in report_fields.OLD_FIELDS.values():
        assert not names.keys() & set(names.values())


def test_a_report_is_checked_by_the_names_that_it_has() -> None:
    report = dip.denoise(make_noisy(), **FEW).report
    sections = {"fit": report_fields._Fit, "prior": report_fields._Prior}
    sections |= {"residual": report_fields._Residual, "verdict": report_fields._Verdict}
    unknown = [
        f"{section}.{name}"
        for section, model in sections.items()
        for name in model.model_fields
        if name not in {**report[section], "joint_training": None}
    ]
    assert not unknown
    assert set(report_fields._CheckFigures.model_fields) <= list_fields(ResultMetrics)
