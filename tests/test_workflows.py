"""The workflow files run where their engine is installed, and are checked where it is not."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from napari_dip.cli import main
from napari_dip.cli.app import COMMANDS
from napari_dip.samples import MITOCHONDRIA
from napari_dip.tasks import TASKS
from napari_dip.version import __version__

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"
#: `make workflows` installs it beside the other environment, since it brings fifty packages.
OWN = ROOT / ".venv-workflows" / "bin" / "snakemake"
SNAKEMAKE = str(OWN) if OWN.exists() else shutil.which("snakemake")


@pytest.mark.skipif(not SNAKEMAKE, reason="Snakemake is not installed: make workflows")
@pytest.mark.timeout(400)
def test_snakemake_restores_six_files_of_which_one_is_refused(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    sample = tifffile.imread(MITOCHONDRIA)[0]
    for number in range(5):
        crop = sample[48 * number : 48 * number + 48, 100:148]
        tifffile.imwrite(images / f"cell {number}.tif", crop)
    tifffile.imwrite(images / "constant.tif", np.full((48, 48), 7, np.uint8))
    config = yaml.safe_load((WORKFLOWS / "snakemake/config.yaml").read_text(encoding="utf-8"))
    config["options"] = ["--preset", "instant", "--max-iterations", 2]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run_snakemake(tmp_path)
    with (tmp_path / "results/table.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert [row["state"] for row in rows.values()] == ["restored"] * 5 + ["refused"]
    assert "there is nothing to restore" in rows["constant.tif"]["refused"]
    assert rows["cell 3.tif"]["prior"] in {"r2r", "blind-spot"}
    written = {path.name for path in (tmp_path / "results").glob("*.tif")}
    assert written == {f"cell {number}.tif" for number in range(5)}
    begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.tif")}
    tifffile.imwrite(images / "cell 0.tif", sample[:48, :48])  # only this one is restored again
    run_snakemake(tmp_path)
    again = {path.name for path, before in begun.items() if path.stat().st_mtime_ns != before}
    assert again == {"cell 0.tif"}


def run_snakemake(folder: Path) -> None:
    """Run the workflow in a folder with its images and config.yaml."""
    programs = folder / "programs"  # the command of these sources, whatever is installed
    programs.mkdir(exist_ok=True)
    command = programs / "napari-dip"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m napari_dip "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }
    file = WORKFLOWS / "snakemake" / "Snakefile"
    done = subprocess.run(
        [SNAKEMAKE, "--cores", "2", "--directory", folder, "--snakefile", file],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_galaxy_tool_offers_what_the_command_takes(tmp_path, monkeypatch):
    tool = ET.parse(WORKFLOWS / "galaxy/napari_dip_denoise.xml").getroot()
    token = tool.find("macros/token").text
    assert token == __version__
    chosen = {
        param.get("argument"): [option.get("value") for option in param.findall("option")]
        for param in tool.iter("param")
        if param.get("argument")
    }
    monkeypatch.chdir(tmp_path)
    for option, values in chosen.items():
        for value in values or ["1"]:
            image = str(WORKFLOWS / "galaxy/test-data/cells.tif")
            assert main(["plan", "denoise", image, option, value]) == 0, (option, value)


def test_the_tests_of_the_galaxy_tool_hold_for_the_command(tmp_path):
    data = WORKFLOWS / "galaxy" / "test-data"
    out, report = tmp_path / "restored.tif", tmp_path / "report.json"
    fit = ["--preset", "instant", "--prior", "auto", "--seed", "0", "--threads", "1", "--quiet"]
    fit += ["-o", str(out), "--report", str(report)]
    assert main(["denoise", str(data / "cells.tif"), *fit, "--max-iterations", "5"]) == 0
    assert out.stat().st_size >= 16000
    assert json.loads(report.read_text(encoding="utf-8"))["verdict"]["sentences"]
    assert main(["denoise", str(data / "constant.tif"), *fit]) == 2


@pytest.mark.parametrize("name", ["fiji", "qupath", "nextflow", "galaxy", "snakemake"])
def test_a_workflow_calls_the_command_by_names_that_exist(name, capsys):
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (WORKFLOWS / name).iterdir()
        if path.is_file() and path.suffix != ".tif"
    )
    main(["denoise", "--help"])
    help_text = capsys.readouterr().out
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - ENGINES_OPTIONS:
        assert option in help_text, option


#: Options of the engines themselves, in the comments on how they are started.
ENGINES_OPTIONS = {"--cores", "--directory", "--snakefile", "--images", "--results", "--version"}


def test_the_page_for_programs_names_commands_codes_and_fields_that_exist(tmp_path):
    page = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    commands = page.split("```")[1]
    named = set(re.findall(r"^napari-dip ([a-z-]+)", commands, re.MULTILINE))
    assert len(named) >= 6
    assert named <= set(COMMANDS)
    assert "denoise" in named & set(TASKS)
    report = tmp_path / "report.json"
    image = str(WORKFLOWS / "galaxy/test-data/cells.tif")
    fit = ["--preset", "instant", "--max-iterations", "2", "--quiet"]
    output = str(tmp_path / "out.tif")
    assert main(["denoise", image, "-o", output, "--report", str(report), *fit]) == 0
    record = json.loads(report.read_text(encoding="utf-8"))
    for path in re.findall(r"`report[.]([\w.]+)`", page):
        value = record
        for field in path.split("."):
            assert field in value, path
            value = value[field]
