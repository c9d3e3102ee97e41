"""The plugin reaches napari in every kind of install, with all that it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from npe2 import PluginManifest

import napari_dip
from napari_dip.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = (ROOT / "napari.yaml").read_text(encoding="utf-8")
BUILT_FROM = ("LICENSE", "README.md", "hatch_build.py", "napari.yaml", "pyproject.toml")

#: Looks at an install from outside: only `folder` is a site directory, the libraries stand behind.
LOOK = """
import json, site, sys
from pathlib import Path
folder, libraries = sys.argv[1:]
site.addsitedir(folder)
sys.path.append(libraries)
import napari_dip
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("napari-dip")
text = (Path(napari_dip.__file__).parent / "napari.yaml").read_text(encoding="utf-8")
print(json.dumps({
    "file": napari_dip.__file__,
    "text": text,
    "commands": [command.id for command in manifest.contributions.commands],
}))
"""


def run_command(*command: str | Path, where: Path) -> str:
    """Run a command and return what it prints; its errors become the test's."""
    done = subprocess.run(
        [str(word) for word in command], cwd=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Install(NamedTuple):
    """What an install is seen to be: its package, its manifest, and what napari finds of it."""

    package: Path
    manifest: str
    commands: list[str]


def inspect_install(folder: Path) -> Install:
    """Load the package, and its manifest as napari does, from the install in `folder`."""
    libraries = sysconfig.get_path("purelib")
    record = json.loads(
        run_command(sys.executable, "-I", "-S", "-c", LOOK, folder, libraries, where=folder)
    )
    return Install(Path(record["file"]).resolve().parent, record["text"], record["commands"])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Copy what the package is built from, so that no build touches the real checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(
        ROOT / "src",
        folder / "src",
        ignore=shutil.ignore_patterns("__pycache__", "napari.yaml"),
    )
    return folder


@pytest.fixture(scope="module")
def built_files(checkout, tmp_path_factory) -> Path:
    """Build the sdist, and the wheel from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run_command(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, where=checkout)
    return folder


@pytest.fixture(scope="module")
def wheel(built_files) -> zipfile.ZipFile:
    with zipfile.ZipFile(next(built_files.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_the_manifest_exactly_once(wheel):
    manifests = [name for name in wheel.namelist() if name.endswith("napari.yaml")]
    assert manifests == ["napari_dip/napari.yaml"]
    assert wheel.read("napari_dip/napari.yaml").decode() == MANIFEST


def test_the_wheel_holds_every_file_of_the_package(wheel):
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "napari_dip").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    } | {"napari_dip/napari.yaml", "napari_dip/samples/mitochondria.tif"}
    names = {name for name in wheel.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert names == wanted


def test_each_sample_travels_with_its_licence(wheel):
    folder = ROOT / "src" / "napari_dip" / "samples"
    licence = (folder / "LICENSE.txt").read_text(encoding="utf-8")
    images = [path.name for path in folder.glob("*.tif")]
    assert len(images) == 4
    for name in (*images, "LICENSE.txt"):
        assert wheel.read(f"napari_dip/samples/{name}") == (folder / name).read_bytes()
    for name in images:
        _, _, said = licence.partition(f"{name}\n\n")
        assert re.search("Licence: CC0|Licence: CC BY 4.0", said.partition(".tif\n\n")[0])


def test_all_samples_together_stay_below_one_megabyte():
    folder = ROOT / "src" / "napari_dip" / "samples"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 2**20


def test_the_plugin_works_from_the_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    plugin = inspect_install(tmp_path)
    assert plugin.package == (tmp_path / "napari_dip").resolve()
    assert plugin.manifest == MANIFEST
    assert "napari-dip.denoise" in plugin.commands


def test_the_sdist_holds_the_manifest_at_its_root(built_files):
    with tarfile.open(next(built_files.glob("*.tar.gz"))) as archive:
        names = [name for name in archive.getnames() if name.endswith("napari.yaml")]
        assert names == [f"napari_dip-{napari_dip.__version__}/napari.yaml"]
        assert archive.extractfile(names[0]).read().decode() == MANIFEST


def test_the_plugin_works_from_an_installed_sdist(built_files, tmp_path):
    sdist = next(built_files.glob("*.tar.gz"))
    pip_install("--target", tmp_path, sdist, where=tmp_path)
    plugin = inspect_install(tmp_path)
    assert plugin.package == (tmp_path / "napari_dip").resolve()
    assert plugin.manifest == MANIFEST
    assert "napari-dip.denoise" in plugin.commands


def test_the_plugin_works_from_a_plain_install(checkout, tmp_path):
    pip_install("--target", tmp_path, checkout, where=tmp_path)
    plugin = inspect_install(tmp_path)
    assert plugin.package == (tmp_path / "napari_dip").resolve()
    assert plugin.manifest == MANIFEST
    assert "napari-dip.denoise" in plugin.commands


def test_the_plugin_works_from_an_editable_install_and_follows_edits(checkout, tmp_path):
    pip_install("--prefix", tmp_path, "--editable", checkout, where=tmp_path)
    plugin = inspect_install(next(tmp_path.rglob("napari_dip-*.dist-info")).parent)
    assert plugin.package == (checkout / "src" / "napari_dip").resolve()
    assert plugin.manifest == MANIFEST
    assert "napari-dip.denoise" in plugin.commands
    inside = checkout / "src" / "napari_dip" / "napari.yaml"
    if inside.is_symlink():  # elsewhere it is a copy, made again by each install
        assert inside.resolve() == (checkout / "napari.yaml").resolve()


def pip_install(*arguments: str | Path, where: Path) -> None:
    """Install without looking anything up, and without touching what the tests run in."""
    quiet = ("--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed")
    run_command(sys.executable, "-m", "pip", "install", "--quiet", *quiet, *arguments, where=where)


def test_the_manifest_in_use_is_that_of_the_root():
    inside = Path(napari_dip.__file__).with_name("napari.yaml")
    assert inside.read_text(encoding="utf-8") == MANIFEST, "install again: the copy is stale"
    assert PluginManifest.from_distribution("napari-dip").name == "napari-dip"


def test_every_command_of_the_manifest_can_be_imported():
    commands = PluginManifest.from_file(ROOT / "napari.yaml").contributions.commands
    assert commands
    for command in commands:
        module, name = command.python_name.split(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_every_menu_of_the_manifest_is_open_to_plugins():
    # npe2 accepts any menu, and napari then leaves out those that plugins may not use
    from napari._app_model.constants import MenuId

    raw = yaml.safe_load(MANIFEST)["contributions"]
    own = {submenu["id"] for submenu in raw["submenus"]}
    assert set(raw["menus"]) <= own | {str(menu.value) for menu in MenuId.contributables()}
    assert {
        item["submenu"] for items in raw["menus"].values() for item in items if "submenu" in item
    } == own


def test_every_task_has_its_command_its_widget_and_its_menu_entry():
    raw = yaml.safe_load(MANIFEST)["contributions"]
    for places in (raw["commands"], raw["widgets"], raw["menus"]["napari_dip_menu"]):
        named = {place.get("id", place.get("command")) for place in places}
        assert {f"napari-dip.{name.replace('-', '_')}" for name in TASKS} <= named


def test_versions_agree_everywhere():
    version = napari_dip.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version == metadata("napari-dip")["Version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_package_itself_asks_for_no_qt_binding_and_sets_no_upper_bound():
    wanted = [
        line for line in metadata("napari-dip").get_all("Requires-Dist") if "extra ==" not in line
    ]
    names = {re.split(r"[^a-z0-9]", line.lower())[0] for line in wanted}
    assert "torch" in names
    assert not names & {"napari", "pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert not [line for line in wanted if re.search(r"<|==|~=", line)]
