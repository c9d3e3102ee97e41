"""The page "Add a task" is followed to the letter, in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")
#: Blocks of the page in their order: task, line in TASKS, manifest, page, test, command.
TASK, LINE, ENTRY, DOCS, TEST, COMMAND = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.S | re.M)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Copy of what the page edits, with its five edits made."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("src", "scripts", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    package = copy / "src" / "napari_dip"
    (package / "tasks" / "subtract_background.py").write_text(TASK, encoding="utf-8")
    with (package / "tasks" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\n" + LINE)
    manifest = yaml.safe_load((ROOT / "napari.yaml").read_text(encoding="utf-8"))
    entry, contributions = yaml.safe_load(ENTRY), manifest["contributions"]
    contributions["commands"] += entry["commands"]
    contributions["widgets"] += entry["widgets"]
    contributions["menus"]["napari_dip_menu"] += entry["menus"]["napari_dip_menu"]
    (copy / "napari.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    (copy / "docs" / "tasks" / "subtract-background.md").write_text(DOCS, encoding="utf-8")
    (copy / "test_subtract_background.py").write_text(TEST, encoding="utf-8")
    return copy


def run(project, *argv):
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "QT_QPA_PLATFORM": "offscreen"}
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_the_test_of_the_new_task_passes(project):
    done = run(
        project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_subtract_background.py"
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_the_command_is_there_with_its_options_and_both_outputs(project, tmp_path):
    light = np.linspace(100, 300, 32)[None] + np.zeros((24, 1))
    image = light + np.random.default_rng(0).normal(0, 5, (24, 32))
    tifffile.imwrite(tmp_path / "IMAGE.tif", image.astype(np.float32))
    argv = COMMAND.replace("--spacing 32", "--spacing 8").split()[1:]
    argv = [str(tmp_path / word) if word.endswith(".tif") else word for word in argv]
    done = run(project, *argv, "--max-iterations", 4, "--quiet")
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(tmp_path / "RESULT.tif").shape == (24, 32)
    assert np.abs(tifffile.imread(tmp_path / "LIGHT.tif") - light).mean() < 20


@pytest.mark.long
def test_the_dock_is_there_with_its_form(project):
    code = (
        "from qtpy.QtWidgets import QApplication; app = QApplication([])\n"
        "from napari.components import ViewerModel\n"
        "import napari_dip.qt.task.task_dock as docks\n"
        "dock = docks.subtract_background(ViewerModel())\n"
        "assert dock.form.widgets['spacing'].value == 16\n"
        "assert dock.form.build_recipe().task.spec.name == 'subtract-background'\n"
        "dock.shut_down()\n"
    )
    done = run(project, "-W", "ignore", "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_manifest_names_the_task(project):
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(project / "napari.yaml")
    titles = [command.title for command in manifest.contributions.commands]
    assert "Subtract background (Deep Image Prior)" in titles


@pytest.mark.long
def test_the_page_gets_its_table_of_settings(project):
    done = run(project, "scripts/write_pages.py")
    assert done.returncode == 0, done.stderr
    page = (project / "docs" / "tasks" / "subtract-background.md").read_text(encoding="utf-8")
    assert "| Background detail (pixels) | `--spacing" in page
