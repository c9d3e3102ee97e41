"""The page "Add a prior" is followed to the letter, in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add-a-prior.md").read_text(encoding="utf-8")
#: Blocks of the page in their order: engine, builders, row, budgets, paper, test, command.
ENGINE, BUILDERS, ROW, BUDGETS, PAPER, TEST, COMMAND = re.findall(
    r"^```\w*\n(.*?)^```", PAGE, re.S | re.M
)


def edit(path, before, after):
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, (path, before)
    path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Copy of the package with the six edits of the page."""
    copy = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    package = copy / "src" / "napari_dip"
    (package / "engine" / "priors" / "noise2fast.py").write_text(ENGINE, encoding="utf-8")
    (package / "tasks" / "priors" / "noise2fast.py").write_text(BUILDERS, encoding="utf-8")
    imported, row = ROW.split("\n\n", 1)
    registry = package / "tasks" / "priors" / "registry.py"
    first = "from napari_dip.tasks.priors.recompression import"
    edit(registry, first, f"{imported}\n{first}")
    edit(registry, "#: All priors, by key.\n", f"{row}\n#: All priors, by key.\n")
    edit(registry, "            PIXELS,\n", "            PIXELS,\n            NOISE2FAST,\n")
    presets = package / "pipeline" / "plan" / "presets" / "denoise.json"
    fit_configs = json.loads(presets.read_text(encoding="utf-8")) | json.loads(BUDGETS)
    presets.write_text(json.dumps(fit_configs), encoding="utf-8")
    papers = package / "pipeline" / "assess" / "papers.toml"
    edit(papers, "\n# Papers that only", f"{PAPER}\n# Papers that only")
    (copy / "test_noise2fast.py").write_text(TEST, encoding="utf-8")
    return copy


def run(project, *words):
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "QT_QPA_PLATFORM": "offscreen"}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_test_of_the_new_prior_passes(project):
    done = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_noise2fast.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_has_the_new_prior(project, tmp_path):
    image = np.random.default_rng(0).normal(100, 20, (33, 32)).astype(np.float32)
    tifffile.imwrite(tmp_path / "IMAGE.tif", image)
    words = [str(tmp_path / word) if ".tif" in word else word for word in COMMAND.split()[1:]]
    done = run(project, *words, "--max-iterations", 4, "--quiet")
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(tmp_path / "RESULT.tif").shape == image.shape
    assert "noise2fast" in run(project, "-m", "napari_dip", "denoise", "--help").stdout


def test_the_form_of_the_dock_has_the_new_prior(project):
    code = (
        "from qtpy.QtWidgets import QApplication; app = QApplication([])\n"
        "from napari_dip.qt.shell.settings_form import SettingsForm\n"
        "form = SettingsForm('denoise')\n"
        "assert 'noise2fast' in form.widgets['prior'].choices\n"
    )
    done = run(project, "-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr
