"""The plugin reaches napari in every kind of install, with all that it needs."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_string
from importlib import import_module
from importlib.metadata import distribution, metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import tifffile
import yaml
from npe2 import PluginManifest
from packaging.requirements import Requirement

import napari_dip
from napari_dip.samples import MITOCHONDRIA
from napari_dip.tasks import TASKS

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = (ROOT / "napari.yaml").read_text(encoding="utf-8")
#: Names of distributions that belong to Qt or draw with it.
QT = re.compile("qt|pyside|napari$|magicgui|pyconify|psygnal", re.IGNORECASE)
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
    shutil.copytree(
        ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.png", "_build")
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


@pytest.mark.long
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
    pages = (*ROOT.glob("docs/*.md"), *ROOT.glob("docs/tasks/*.md"))  # for the help in the docks
    wanted |= {f"napari_dip/{page.relative_to(ROOT).as_posix()}" for page in pages}
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


def test_the_wheel_names_the_licences_of_its_samples(wheel):
    fields = read_wheel_metadata(wheel)
    assert fields["License-Expression"] == "BSD-3-Clause AND CC0-1.0 AND CC-BY-4.0"
    assert len(fields.get_all("License-File")) == 2


def test_the_page_of_an_index_links_to_no_file_of_the_repository(wheel):
    page = read_wheel_metadata(wheel).get_payload()
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links
    assert not [link for link in links if not link.startswith("https://")]
    assert "The tasks are denoise, inpaint" in page


def read_wheel_metadata(wheel: zipfile.ZipFile) -> Message:
    """Read name, requirements and description of the wheel."""
    name = f"napari_dip-{napari_dip.__version__}.dist-info/METADATA"
    return message_from_string(wheel.read(name).decode())


@pytest.fixture(scope="module")
def headless(built_files, tmp_path_factory) -> Path:
    """Make an environment of the wheel and what it requires, and return its Python.

    The libraries are links to those of the tests, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("headless")
    venv.create(folder, with_pip=False)
    windows = sys.platform == "win32"
    python = folder / ("Scripts/python.exe" if windows else "bin/python")
    libraries = Path(
        run_command(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", where=folder
        ).strip()
    )
    wheel = next(built_files.glob("*.whl"))
    for name in list_requirements(""):
        link_distribution(name, libraries)
    pip = (sys.executable, "-m", "pip", "--python", python)
    run_command(*pip, "install", "-q", "--no-deps", "--no-index", wheel, where=folder)
    return python


def list_requirements(extra: str) -> list[str]:
    """List what is installed here for the package, or for an extra of it."""
    script = runpy.run_path(str(ROOT / "scripts" / "dependencies.py"))
    names: list[str] = script["list_installed"](extra)
    return names


def link_distribution(name: str, folder: Path) -> None:
    """Make the files of an installed distribution importable from `folder`."""
    for top in {file.parts[0] for file in distribution(name).files or () if ".." not in file.parts}:
        source = Path(str(distribution(name).locate_file(top)))
        if source.exists() and not (folder / top).exists():
            (folder / top).symlink_to(source, target_is_directory=source.is_dir())


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_the_command_line_works_where_no_qt_library_is_installed(headless, tmp_path):
    pip = (sys.executable, "-m", "pip", "--python", headless, "list", "--format", "json")
    names = [row["name"] for row in json.loads(run_command(*pip, where=tmp_path))]
    assert {"napari-dip", "torch"} <= {name.lower() for name in names}
    assert not [name for name in names if QT.search(name)]
    command = headless.with_name("napari-dip")
    run_command(command, "--help", where=tmp_path)
    fit = ("--preset", "instant", "--max-iterations", "2", "--report", "report.json")
    crop = tmp_path / "crop.tif"
    tifffile.imwrite(crop, tifffile.imread(MITOCHONDRIA)[0, :64, :64])
    run_command(command, "denoise", crop, "-o", "out.tif", *fit, where=tmp_path)
    assert tifffile.imread(tmp_path / "out.tif").shape == (64, 64)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["task"] == "denoise"


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_dock_says_which_extra_is_missing(headless, tmp_path):
    libraries = next(headless.parents[1].glob("lib/python*/site-packages"))
    for name in set(list_requirements("app")) - {"pyqtgraph"}:
        link_distribution(name, libraries)
    code = "import napari_dip.qt.task.task_dock"
    done = subprocess.run(
        [headless, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    message = 'The docks need pyqtgraph, which is not installed. Install it with: pip install "napa'
    assert message in done.stderr


@pytest.mark.long
def test_the_plugin_works_from_an_installed_sdist(built_files, tmp_path):
    sdist = next(built_files.glob("*.tar.gz"))
    pip_install("--target", tmp_path, sdist, where=tmp_path)
    plugin = inspect_install(tmp_path)
    assert plugin.package == (tmp_path / "napari_dip").resolve()
    assert plugin.manifest == MANIFEST
    assert "napari-dip.denoise" in plugin.commands


@pytest.mark.long
def test_the_plugin_works_from_a_plain_install(checkout, tmp_path):
    pip_install("--target", tmp_path, checkout, where=tmp_path)
    plugin = inspect_install(tmp_path)
    assert plugin.package == (tmp_path / "napari_dip").resolve()
    assert plugin.manifest == MANIFEST
    assert "napari-dip.denoise" in plugin.commands


@pytest.mark.long
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


def test_each_change_stands_below_a_version_and_a_kind():
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions and all(re.match(r"## \d+[.]\d+[.]\d+ \(", line) for line in versions)
    kind = ""
    for line in lines:
        kind = line if line.startswith("#") else kind
        assert not line.startswith("- ") or kind in {"### Added", "### Changed", "### Fixed"}, line


def test_conda_pixi_and_pre_commit_ask_for_what_pyproject_asks_for():
    read = runpy.run_path(str(ROOT / "scripts" / "dependencies.py"))
    own = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    wanted = {}
    for extra in ("", "qt"):
        needs = map(Requirement, read["read_requirements"](extra))
        wanted[extra] = {own.get(need.name, need.name): str(need.specifier) for need in needs}
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text(encoding="utf-8"))
    base, app = (output["requirements"]["run"] for output in recipe["outputs"])
    base_run = dict(line.partition(" ")[::2] for line in base)
    app_run = dict(line.partition(" ")[::2] for line in app)
    assert base_run.pop("python") == ">=${{ python_min }}"
    assert recipe["context"] == {"version": napari_dip.__version__, "python_min": "3.11"}
    assert base_run == wanted[""]
    assert wanted["qt"].items() <= app_run.items()
    pixi = tomllib.loads((ROOT / "pixi.toml").read_text(encoding="utf-8"))
    from_conda = pixi["dependencies"]
    assert from_conda.items() <= {**wanted[""], "python": ">=3.11"}.items()
    assert wanted["qt"].items() <= pixi["feature"]["app"]["dependencies"].items()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==[\w.]+", hooks)) == {f"ruff=={read['pinned']()['ruff']}"}


def test_the_package_itself_asks_for_no_qt_binding_and_sets_no_upper_bound():
    wanted = [
        line for line in metadata("napari-dip").get_all("Requires-Dist") if "extra ==" not in line
    ]
    names = {re.split(r"[^a-z0-9]", line.lower())[0] for line in wanted}
    assert "torch" in names
    assert not names & {"napari", "pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert not [line for line in wanted if re.search(r"<|==|~=", line)]
