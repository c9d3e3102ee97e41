"""`napari-dip methods RESULT` describes a run from the record in its result."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.io.reading import read_provenance
from napari_dip.pipeline.assess.methods_section import write_methods_section
from napari_dip.pipeline.recipe import load_recipe

FEW = ("--preset", "fast", "--max-iterations", "3", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results in each kind of TIFF, all with the report of their run beside."""
    folder = tmp_path_factory.mktemp("results")
    image = np.random.default_rng(0).normal(500, 20, (24, 24))
    tifffile.imwrite(folder / "in.tif", image.astype("uint16"))
    tifffile.imwrite(folder / "in64.tif", image)
    same = ("--dtype", "same")
    for name, source, more in (
        ("imagej", "in.tif", ()),
        ("plain", "in64.tif", same),
        ("ome.ome", "in.tif", ()),
    ):
        report = ("--report", str(folder / f"{name}-report.json"))
        out = ("-o", str(folder / f"{name}.tif"))
        assert main(["denoise", str(folder / source), *out, *FEW, *more, *report]) == 0
    return folder


@pytest.mark.parametrize("kind", ["imagej", "plain", "ome.ome"])
def test_the_text_from_a_result_is_that_from_the_report_of_its_run(kind, folder, capsys):
    assert main(["methods", str(folder / f"{kind}.tif")]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    report = json.loads((folder / f"{kind}-report.json").read_text(encoding="utf-8"))
    assert output.out == write_methods_section(report)
    assert "Deep Image Prior" in output.out and "[1] Ulyanov" in output.out
    assert main(["methods", str(folder / f"{kind}-report.json")]) == 0
    assert capsys.readouterr().out == output.out


def test_methods_says_how_the_noise_was_modelled_and_where_its_figures_come_from(folder):
    report = json.loads((folder / "plain-report.json").read_text())
    text = write_methods_section(report)
    modelled = text[text.index("The noise was modelled as Gaussian") :]
    assert ", measured from the image [" in modelled.split(" were held back")[0]


def test_methods_says_that_a_prior_was_chosen_by_hand_under_its_name_of_today():
    image = np.random.default_rng(0).random((32, 32), np.float32)
    result = dip.guide(image, image, prior="random-input", preset="fast", max_iterations=3)
    text = write_methods_section(result.report)
    assert "The network was fed the guide and fixed random noise" in text
    assert "(chosen by hand)" in text


def test_a_result_saved_by_other_programs_is_known_by_the_report_beside_it(
    folder, tmp_path, capsys
):
    pixels = tifffile.imread(folder / "imagej.tif")
    report = (folder / "imagej-report.json").read_text(encoding="utf-8")
    tifffile.imwrite(tmp_path / "out.tif", pixels)
    assert main(["methods", str(tmp_path / "out.tif")]) == 2
    assert "neither in itself nor in a report beside it" in capsys.readouterr().err
    (tmp_path / "out.json").write_text(report, encoding="utf-8")
    assert main(["methods", str(tmp_path / "out.tif")]) == 0
    assert "[1] Ulyanov" in capsys.readouterr().out
    tifffile.imwrite(tmp_path / "out.tif", pixels + 1)
    assert main(["methods", str(tmp_path / "out.tif")]) == 2
    assert "of another image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.tif", None, "There is no file"),
        ("a.json", "{", "holds no record of how it was made"),
        ("b.json", "[]", "it is no report of a run"),
        ("c.json", '{"task": "denoise"}', "it is no report of a run"),
        ("d.tif", "no picture", "is not a kind of image file"),
    ],
)
def test_a_file_without_a_record_is_refused_with_a_message(
    name, content, message, tmp_path, capsys
):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["methods", str(tmp_path / name)]) == 2
    output = capsys.readouterr()
    assert message in output.err and output.out == "" and output.err.count("\n") == 1


def test_reports_and_recipes_of_editors_that_put_a_mark_before_them_are_read(
    folder, tmp_path, capsys
):
    text = (folder / "imagej-report.json").read_text(encoding="utf-8")
    (tmp_path / "report.json").write_text(text, encoding="utf-8-sig")
    assert main(["methods", str(tmp_path / "report.json")]) == 0
    assert "[1] Ulyanov" in capsys.readouterr().out
    recipe = dip.make_recipe("denoise", preset="fast")
    (tmp_path / "recipe.json").write_text(recipe.to_json(), encoding="utf-8-sig")
    assert load_recipe(tmp_path / "recipe.json") == recipe


@pytest.mark.parametrize("content", ["{}".encode("utf-16"), pickle.dumps({"version": "1"})])
def test_a_report_or_recipe_that_is_no_text_is_refused_with_a_message(
    content, folder, tmp_path, capsys
):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    image, out = str(folder / "in.tif"), str(tmp_path / "out.tif")
    by_recipe = ["denoise", image, "-o", out, "--from-recipe", str(path)]
    for command in (["methods", str(path)], by_recipe):
        assert main(command) == 2
        error_output = capsys.readouterr().err
        assert "it is no text in UTF-8" in error_output and "codec" not in error_output


def test_what_a_result_holds_is_the_same_whenever_it_is_made_again(folder, tmp_path):
    again = tmp_path / "again.tif"
    assert main(["denoise", str(folder / "in.tif"), "-o", str(again), *FEW]) == 0
    assert again.read_bytes() == (folder / "imagej.tif").read_bytes()
    provenance = read_provenance(again)
    assert provenance["report"]["output_sha256"] and "seconds" not in provenance["report"]


def test_a_result_that_is_restored_again_is_named_as_such(folder, tmp_path, capsys):
    again = tmp_path / "again.tif"
    assert main(["denoise", str(folder / "imagej.tif"), "-o", str(again), *FEW[:-1]]) == 0
    output = capsys.readouterr()
    assert "'imagej.tif' is already a result of 'Denoise'" in output.out + output.err
    assert "the image is itself a result of 'Denoise'" in output.out + output.err
    assert main(["methods", str(again)]) == 0
    assert "The image was itself a result of the task 'Denoise'." in capsys.readouterr().out


def test_the_image_is_kept_after_the_requested_iterations(folder, tmp_path, capsys):
    kept, image = tmp_path / "kept.tif", folder / "in.tif"
    command = ["denoise", str(image), "-o", str(kept), "--preset", "fast", "--quiet"]
    assert main([*command, "--max-iterations", "40", "--keep-after", "4"]) == 0
    recipe = dip.make_recipe("denoise", preset="fast", max_iterations=40)
    result = dip.restore(image, recipe, keep_after=4)
    assert result.best_iteration == 4
    np.testing.assert_array_equal(tifffile.imread(kept), result.image)
    assert list(tmp_path.iterdir()) == [kept]
    assert main([*command, "--overwrite", "--keep-after", "soon"]) == 2
    assert "'--keep-after' cannot be 'soon'" in capsys.readouterr().err
