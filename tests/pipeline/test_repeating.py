"""Script, command and methods text of a result give the same pixels and cite what was used."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli import main
from napari_dip.engine.fit.stopping import Control
from napari_dip.errors.templates import METHODS
from napari_dip.io import ImageHeader
from napari_dip.pipeline.assess.methods_section import (
    PAPER_TOPICS,
    PAPERS,
    describe_result_iteration,
    list_paper_keys,
    write_methods_section,
)
from napari_dip.pipeline.assess.report import compute_sha256
from napari_dip.pipeline.execute.runner import run
from napari_dip.pipeline.machine import detect_machine
from napari_dip.pipeline.plan.preflight import preflight
from napari_dip.pipeline.progress import drain_generator
from napari_dip.pipeline.repetition import (
    Repetition,
    build_command,
    format_command_line,
    write_python_script,
)
from napari_dip.tasks.noise_models.registry import NOISE_MODELS
from napari_dip.tasks.priors.registry import PRIOR_SPECS

ROOT = Path(__file__).resolve().parents[2]
FEW = {"preset": "fast", "max_iterations": 3, "device": "cpu"}


def draw_scene(side=24, seed=0):
    y, x = np.mgrid[:side, :side]
    clean = 200 + 80 * np.sin(x / 5) * np.cos(y / 7)
    return np.random.default_rng(seed).poisson(clean).astype("uint16")


@pytest.fixture
def shot(tmp_path):
    """A file whose name has all that must be quoted."""
    path = tmp_path / 'it\'s a "shot" $1.tif'
    tifffile.imwrite(path, draw_scene())
    return path


def make_repetition(result, **paths):
    return Repetition(
        report=result.report, paths={name: str(path) for name, path in paths.items()}, name="cells"
    )


@pytest.mark.long
@pytest.mark.all_cores
def test_the_script_run_by_itself_gives_the_same_pixels(shot, tmp_path):
    result = dip.denoise(shot, seed=7, smoothing=0.05, **FEW)
    script = tmp_path / "again.py"
    script.write_text(write_python_script(make_repetition(result, image=shot)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "The same pixels as then.\n"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "cells denoised.tif"), result.image)


def test_the_script_tells_another_image_from_other_pixels(shot, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = write_python_script(make_repetition(dip.denoise(shot, **FEW), image=shot))
    exec(text.replace("seed=0", "seed=1"), {})
    assert "Other pixels than then" in capsys.readouterr().out
    tifffile.imwrite(shot, draw_scene(seed=5))
    exec(text, {})
    assert "another image than the one" in capsys.readouterr().out


def test_the_script_tells_another_psf_from_that_of_the_run(shot, tmp_path, capsys, monkeypatch):
    psf, narrow = tmp_path / "psf.tif", np.zeros((5, 5), np.float32)
    narrow[2, 1:4] = 1
    tifffile.imwrite(psf, narrow)
    monkeypatch.chdir(tmp_path)
    result = dip.deblur(shot, psf=psf, **FEW)
    assert result.report["extra_inputs_sha256"] == {"psf": compute_sha256(narrow)}
    text = write_python_script(make_repetition(result, image=shot, psf=psf))
    exec(text, {})
    assert capsys.readouterr().out == "The same pixels as then.\n"
    tifffile.imwrite(psf, narrow.T)
    exec(text, {})
    assert "This is another psf than the one" in capsys.readouterr().out
    tifffile.imwrite(shot, draw_scene(seed=5))
    exec(text, {})
    assert "This is another image and another psf than the one" in capsys.readouterr().out
    earlier = {key: value for key, value in result.report.items() if "extra" not in key}
    again = Repetition(report=earlier, paths={"image": str(shot), "psf": str(psf)}, name="cells")
    exec(write_python_script(again), {})
    assert "This is another image than the one" in capsys.readouterr().out


@pytest.mark.parametrize("evil", ["1\nevil()\n", '"; evil(); "', "'; evil(); '", '"\r"+evil()+"'])
def test_a_strangers_report_cannot_put_a_statement_into_the_script(evil):
    """It comes with a layer that somebody sent; the script is pasted and run unread."""
    report = dict(dip.denoise(draw_scene(), **FEW).report)
    image = {"image": "cells.tif", "repeated_exposure": "again.tif"}
    plain = write_python_script(Repetition(report=report, paths=image, name="cells"))
    report |= dict.fromkeys(report.keys() - {"recipe", "fit", "shape", "prior", "axes"}, evil)
    report["axes"], report["fit"] = (
        f"YX{evil}",
        {"joint_training": {"network_file": evil, "sha256": evil}},
    )
    report["fit"]["axes"] = evil
    hostile = Repetition(
        report=report,
        paths={"image": evil, "repeated_exposure": evil, f"x={evil}, y": evil},
        name=evil,
    )
    trees = [ast.parse(text) for text in (plain, write_python_script(hostile))]
    calls = [
        [ast.unparse(call.func) for call in ast.walk(tree) if isinstance(call, ast.Call)]
        for tree in trees
    ]
    assert [type(statement) for statement in trees[0].body] == [
        type(statement) for statement in trees[1].body
    ]
    assert calls[0] == calls[1] and "evil" not in calls[1]
    assert "x=" not in "".join(build_command(hostile)[::2])


@pytest.mark.skipif(os.name == "nt", reason="quoted for another shell there")
@pytest.mark.all_cores
def test_the_command_as_a_shell_takes_it_apart_gives_the_same_pixels(shot, tmp_path, monkeypatch):
    result = dip.denoise(shot, prior="blind-spot", neighbouring_frames=False, gain=1.5, **FEW)
    line = format_command_line(make_repetition(result, image=shot))
    assert "--no-neighbouring-frames" in line and "--gain 1.5" in line
    program, *argv = shlex.split(line)
    monkeypatch.chdir(tmp_path)
    assert program == "napari-dip" and main([*argv, "--quiet"]) == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "cells denoised.tif"), result.image)


def test_further_images_come_along(shot, tmp_path, monkeypatch):
    mask = tmp_path / "mask.tif"
    holes = np.zeros((24, 24), np.uint8)
    holes[8:12, 8:12] = 1
    tifffile.imwrite(mask, holes)
    monkeypatch.chdir(tmp_path)
    result = dip.inpaint(shot, mask, **FEW)
    again = make_repetition(result, image=shot, mask=mask)
    assert main([*build_command(again)[1:], "--quiet"]) == 0
    np.testing.assert_array_equal(tifffile.imread("cells inpainted.tif"), result.image)
    exec(write_python_script(again), {})
    np.testing.assert_array_equal(tifffile.imread("cells inpainted.tif"), result.image)


@pytest.mark.long
@pytest.mark.parametrize(
    ("prior", "polls"),
    [("r2r", 29), ("r2r", 12), ("blind-spot", 27), ("random-input", 27)],
)
def test_an_image_that_was_kept_by_hand_comes_back(prior, polls):
    """Kept between two looks, after a preview that came later than the last judgement."""
    image = draw_scene()
    recipe = dip.make_recipe("denoise", preset="fast", max_iterations=40, prior=prior)
    controls = []

    def poll_control():
        controls.append(1)
        return Control.KEEP if len(controls) > polls else Control.GO

    plan = preflight(
        recipe,
        ImageHeader(name="x", shape=(24, 24), dtype="uint16", axes="YX"),
        detect_machine(),
        {},
    )
    kept = drain_generator(
        run(plan, {"image": image}, poll_control=poll_control, preview_seconds=0.0), None
    )
    assert str(kept.stop) == "you stopped it and kept the image"
    again = make_repetition(kept, image="x.tif")
    assert again.kept_iteration == kept.best_iteration
    repeated = dip.restore(image, again.recipe, keep_after=again.kept_iteration)
    np.testing.assert_array_equal(repeated.image, kept.image)
    assert f"--keep-after {kept.best_iteration}" in format_command_line(again)
    assert f"keep_after={kept.best_iteration}" in write_python_script(again)
    assert "ended by hand" in write_methods_section(kept.report)


@pytest.mark.long
def test_the_script_says_where_a_kept_image_comes_back_only_roughly():
    recipe = dip.make_recipe("denoise", preset="fast", max_iterations=20, restarts=2)
    kept = dip.restore(draw_scene(), recipe, keep_after=25)  # in the second fit
    assert kept.report["fit"]["finished_fit_count"] == kept.report["fit"]["stopped_fit_count"] == 1
    assert "# The run had several fits and was ended" in write_python_script(
        make_repetition(kept, image="x")
    )
    whole = dip.restore(draw_scene(), dip.make_recipe("denoise", **FEW))
    assert make_repetition(whole, image="x").unreliable_reason == ""


@pytest.mark.parametrize("wrong", [0, -3, "many", True])
def test_keeping_after_no_number_of_iterations_is_refused(wrong):
    with pytest.raises(dip.RefusedError, match="whole number above 0"):
        dip.restore(draw_scene(), dip.make_recipe("denoise"), keep_after=wrong)


@pytest.mark.long
def test_what_the_scale_of_a_stack_decided_is_written_down():
    stack = np.stack([draw_scene(seed=n) for n in range(4)])
    header = ImageHeader(
        name="x",
        shape=stack.shape,
        dtype="uint16",
        axes="ZYX",
        path=None,
        scale=(3.0, 1.0, 1.0),
        units=("um",) * 3,
    )
    recipe = dip.make_recipe("denoise", **FEW)
    plan = preflight(recipe, header, detect_machine(), {})
    result = drain_generator(run(plan, {"image": stack}), None)
    again = make_repetition(result, image="x.tif")
    assert again.recipe.run_settings.stacks == "planes"
    repeated = dip.restore(stack, again.recipe, axes="ZYX")
    np.testing.assert_array_equal(repeated.image, result.image)


ALWAYS = {"deep image prior"}
USED = {
    "r2r": {"r2r", "nl-bayes", "bm3d", "noise estimation"},
    "blind-spot": {"noise2void", "posterior mean", "nl-bayes", "bm3d", "noise estimation"},
    "random-input": {"noise estimation"},
}


@pytest.mark.parametrize("prior", USED)
def test_the_methods_text_names_the_prior_that_ran_and_cites_no_other(prior):
    result = dip.denoise(draw_scene(), prior=prior, **FEW)
    text = write_methods_section(result.report)
    body, _, references = text.partition("\n\n")
    assert set(list_paper_keys(result.report)) == ALWAYS | USED[prior]
    lines = references.strip().splitlines()
    assert {line.partition("] ")[2] for line in lines} == {
        PAPERS[key] for key in ALWAYS | USED[prior]
    }
    cited = {
        int(number) for group in re.findall(r"\[([\d, ]+)\]", body) for number in group.split(",")
    }
    assert cited == set(range(1, len(lines) + 1))
    names = {
        "r2r": "more noise of its own kind",
        "blind-spot": "pixels hidden afresh",
        "random-input": "fixed random noise",
    }
    assert [key for key, name in names.items() if name in body] == [prior]


def test_the_methods_text_has_the_figures_of_the_run():
    result = dip.denoise(draw_scene(), seed=3, smoothing=0.2, gain=2.5, read_noise=4, **FEW)
    text, report = write_methods_section(result.report), result.report
    assert f"napari-dip {dip.__version__}" in text and "preset 'Fast', seed 3" in text
    assert "gain 2.5" in text and f"{report['noise']['intercept'][0]:.4g}" in text
    assert "given by hand" in text and "Trimeche" not in text
    assert "3 iterations of at most 3" in text and "all 3 iterations were used" in text
    assert "Smoothing: 0.2" in text and "Rudin, Osher, Fatemi" in text
    assert "{" not in text and "None" not in text


def test_the_methods_text_says_which_of_the_iterations_was_taken():
    report = dict(dip.denoise(draw_scene(), **FEW).report)
    report["validation_loss"] = [[1, 1.0], [2, 0.90], [3, 0.91]]
    for changes, text in (
        ({"best_iteration": 2}, "the running average up to iteration 2 was taken"),
        (
            {"best_iteration": 3},
            "up to iteration 3 was taken, the last of several that hardly differ",
        ),
        ({"best_iteration": 3, "stop_reason": "user"}, "the running average up to iteration 3"),
        (
            {"best_iteration": 3, "validation_loss": [[3, None]]},
            "the running average up to iteration 3 was taken",
        ),
    ):
        assert text in write_methods_section({**report, **changes})
    later = {**report, "best_iteration": 3}
    assert describe_result_iteration(later).endswith("the last of several that hardly differ")
    earlier = {**report, "best_iteration": 2}
    assert earlier["stop_reason"] == "iterations"
    assert describe_result_iteration(earlier) == "the running average up to iteration 2 was taken"
    for explained in (
        {**earlier, "stop_reason": "plateau"},  # its sentence says how long ago the best was
        {**report, "best_iteration": 3, "validation_loss": [[3, 0.9]]},
        {**report, "best_iteration": 2, "iterations": 2},
    ):
        assert describe_result_iteration(explained) == ""


def test_the_methods_text_tells_the_last_phase_from_the_iterations_that_were_judged():
    scene = draw_scene()
    mask = np.zeros(scene.shape, bool)
    mask[20:24, 10:30] = True
    result = dip.inpaint(scene, mask, preset="fast", max_iterations=16)
    text = write_methods_section(result.report)
    assert "took 16 iterations of at most 16, the last 2 of them with the validation pixels" in text
    assert str(result.stop) == "all 16 iterations were used"
    assert "the running average after these last iterations was taken" in text
    assert "to judge the fit until its last iterations, in which they take part." in text


@pytest.mark.parametrize(
    ("axes", "settings", "takes_neighbours"),
    [
        ("ZYX", {}, True),
        ("ZYX", {"neighbouring_frames": False}, False),
        ("ZYX", {"stacks": "volume"}, True),
        ("CYX", {}, False),
    ],
)
def test_the_methods_text_names_the_neighbours_that_were_filtered(axes, settings, takes_neighbours):
    stack = np.random.default_rng(0).normal(100, 10, (4, 32, 32)).astype(np.float32)
    report = dip.denoise(stack, axes=axes, preset="instant", max_iterations=1, **settings).report
    sentence = "Patches of the planes or frames before and after were filtered with them, where"
    text = write_methods_section(report)
    assert (sentence in text) == takes_neighbours
    is_fed = takes_neighbours and "stacks" not in settings  # a volume is fed as a whole
    assert (
        ", and the planes or frames before and after" in text.split("were filtered")[0]
    ) == is_fed


def test_the_methods_text_of_deblurring_names_blur_loss_and_what_follows_the_fit():
    result = dip.deblur(draw_scene(), gaussian_sigma=2.0, preset="fast", max_iterations=16)
    text = write_methods_section(result.report)
    assert "took 16 iterations of at most 16" in text
    assert "with the validation pixels" not in text
    assert "Gaussian blur of standard deviation 2 pixels" in text
    assert "In the end it was deconvolved, guided by the network's image" in text
    marks = {line[:3] for line in text.splitlines() if "Zukerman" in line}
    assert f"the distance to the measurement, with the blur partly undone {marks.pop()}" in text


def test_every_paper_that_no_sentence_cites_has_its_part_named():
    path = ROOT / "src/napari_dip/pipeline/assess/methods_section.py"
    sentences = " ".join((path.read_text(encoding="utf-8"), *METHODS.values()))
    of_rows = {key for row in (*PRIOR_SPECS.values(), *NOISE_MODELS.values()) for key in row.papers}
    assert (
        {key for key in PAPERS if key not in sentences} - of_rows
        <= set(PAPER_TOPICS)
        <= set(PAPERS)
    )


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("task", "settings", "inputs"),
    [
        ("denoise", {"noise": "salt-and-pepper"}, {}),
        ("denoise", {"noise": "speckle"}, {}),
        ("denoise", {"prior": "random-input"}, {"repeated_exposure": 1}),
        ("denoise", {}, {"repeated_exposure": 1}),
        ("guide", {"prior": "blind-spot"}, {"guide": 0}),
        ("guide", {"prior": "random-input"}, {"guide": 0}),
        ("super-resolve", {"factor": 2}, {}),
        ("super-resolve", {"prior": "random-input"}, {}),
        ("deblur", {"gaussian_sigma": 1.0}, {}),
        ("deblur", {"gaussian_sigma": 1.0, "initial_estimate": "none"}, {}),
        pytest.param("blind-deblur", {"psf_size": 7}, {}, marks=pytest.mark.long),
        ("blind-deblur", {"psf_size": 7, "blur": "free"}, {}),
        ("inpaint", {}, {"mask": -1}),
    ],
    ids=str,
)
def test_parts_are_cited_where_they_ran_and_nowhere_else(task, settings, inputs, monkeypatch):
    """The engine itself is asked what it did; nothing is put in its place."""
    from napari_dip.engine import refinement as collaborative
    from napari_dip.engine.deconvolution import plug_and_play
    from napari_dip.engine.deconvolution import richardson_lucy as first_guess
    from napari_dip.engine.priors import r2r as recorruption

    ran = set()

    def watched(module, name, key):
        real = getattr(module, name)

        def call(*arguments, **options):
            ran.add(key)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    watched(collaborative, "refine_by_nl_bayes", "nl-bayes")
    watched(plug_and_play, "refine_by_nl_bayes", "nl-bayes")
    watched(first_guess, "run_masked_richardson_lucy", "Lucy")
    watched(recorruption, "R2RPrior", "r2r")
    others = {name: draw_scene(seed=seed) for name, seed in inputs.items() if seed >= 0}
    if "mask" in inputs:
        others["mask"] = np.random.default_rng(0).random((24, 24)) < 0.2
    result = dip.restore(draw_scene(), dip.make_recipe(task, **{**FEW, **settings}), **others)
    cited = set(list_paper_keys(result.report))
    assert cited & {"nl-bayes", "Lucy", "r2r"} == ran
    assert ("repeated exposure" in cited) == ("repeated_exposure" in inputs)
    assert ("bp-dip" in cited) == ("deblur" in task)
    text = write_methods_section(result.report)
    assert "{" not in text and text.count("\n[") == len(cited)


def test_every_paper_is_named_where_its_part_is_written():
    """So that the list here and the docstrings there do not drift apart."""
    sources = [*(ROOT / "src").rglob("*.py"), ROOT / "docs" / "how-denoising-works.md"]
    texts = []
    for path in sources:
        text = path.read_text(encoding="utf-8")
        if path.name == "references.py":
            continue
        texts.append(" ".join(text.split()))
    for key, paper in PAPERS.items():
        author, year = paper.partition(",")[0], re.findall(r"(?:19|20)\d\d(?=[,.])", paper)[0]
        assert any(re.search(rf"{author}.{{0,300}}?{year}", text) for text in texts), key
        number = re.search(r"(doi:\S+|arXiv:\S+)\.$", paper)
        assert number or key in ("repeated exposure", "temporal smoothing", "confocal"), key
        if number and key not in ("deep image prior", "noise2void", "r2r"):
            assert any(number[1] in text for text in texts), key
