"""The page "Add a prior" is followed to the letter: its prior goes through the whole program.

The files of the page become modules, its row is registered, and nothing else is changed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile

import napari_dip as dip
from napari_dip.cli.app import main
from napari_dip.pipeline.assess.methods_section import PAPERS, write_methods_section
from napari_dip.tasks.priors import registry
from small_runs import plan_for

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "add-a-prior.md").read_text("utf-8")
#: Blocks of the page in their order: engine, builders, row, paper, test, command.
ENGINE, BUILDERS, ROW, PAPER, TEST, COMMAND = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.S | re.M)


def define_module(monkeypatch, name, code):
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, name, "exec"), vars(module))


@pytest.fixture
def noise2fast(monkeypatch):
    """The prior of the page, as its files, its row and its paper add it."""
    define_module(monkeypatch, "napari_dip.engine.priors.noise2fast", ENGINE)
    define_module(monkeypatch, "napari_dip.tasks.priors.noise2fast", BUILDERS)
    for key, paper in tomllib.loads(PAPER).items():
        monkeypatch.setitem(PAPERS, key, paper)
    names = dict(vars(registry))
    exec(compile(ROW, "row", "exec"), names)
    prior_spec = names["NOISE2FAST"]
    yield prior_spec
    del registry._specs[prior_spec.key]


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(100, 20, (33, 32)).astype(np.float32)


@pytest.mark.long
def test_the_test_of_the_new_prior_passes(noise2fast):
    names = {"__name__": "test_noise2fast"}
    exec(compile(TEST, "test_noise2fast.py", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_plan_fit_report_and_methods_text_have_the_new_prior(noise2fast, image):
    plan = plan_for(image, prior="noise2fast", max_iterations=None)
    assert plan.fit_config.prior_key == "noise2fast"
    assert plan.fit_config.iterations == 250  # as of all priors that take the image as input
    result = dip.denoise(image, prior="noise2fast", max_iterations=4)
    assert result.image.shape == image.shape
    assert result.report["prior"] == {"key": "noise2fast", "reason": "you chose it"}
    text = write_methods_section(result.report)
    assert f"was fed {noise2fast.methods_phrase} [2] (chosen by hand)." in text
    assert "Lequyer" in text


def test_the_command_has_the_new_prior(noise2fast, image, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "IMAGE.tif", image)
    argv = [str(tmp_path / word) if ".tif" in word else word for word in COMMAND.split()[3:]]
    assert main([*argv, "--max-iterations", "4", "--quiet"]) == 0
    assert tifffile.imread(tmp_path / "RESULT.tif").shape == image.shape
    main(["denoise", "--help"])
    assert "noise2fast" in capsys.readouterr().out


def test_the_form_of_the_dock_has_the_new_prior(noise2fast, qtbot):
    from napari_dip.qt.shell.settings_form import SettingsForm

    form = SettingsForm("denoise")
    qtbot.addWidget(form.basic_page)
    qtbot.addWidget(form.advanced_page)
    assert "noise2fast" in form.widgets["prior"].choices
    form.widgets["prior"].value = "noise2fast"
    assert form.build_recipe().task.prior == "noise2fast"


def test_a_prior_that_is_not_registered_is_refused(image):
    with pytest.raises(dip.RefusedError, match="should be auto, r2r, blind-spot or random-input"):
        dip.denoise(image, prior="noise2fast")
