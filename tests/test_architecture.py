"""The import order, sizes and names of modules, checked without the linter."""

from __future__ import annotations

import ast
import json
import pickle
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from napari_dip.pipeline.recipe import make_recipe, recipe_from_json
from napari_dip.tasks import TASKS
from napari_dip.tasks.noise_models.registry import NOISE_MODELS
from napari_dip.tasks.priors.registry import PRIOR_SPECS
from syntax_trees import list_nodes, parse_source

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "napari_dip"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Part: parts of the package that it may import, besides itself.
MAY_IMPORT = {
    "errors": set(),
    "samples": set(),
    "public_types": set(),
    "version": set(),
    "io": {"errors"},
    "engine": {"errors"},
    "tasks": {"engine", "io", "errors"},
    "pipeline": {"tasks", "engine", "io", "errors", "samples", "public_types"},
    "scale": {"pipeline", "tasks", "engine", "io", "errors", "samples", "public_types"},
    "explore": {"pipeline", "tasks", "engine", "io", "errors", "public_types"},
    "cli": {"explore", "scale", "pipeline", "tasks", "io", "errors", "samples"},
    "qt": {"explore", "scale", "pipeline", "tasks", "io", "errors", "samples"},
    "__init__": {
        *("explore", "scale", "pipeline", "tasks", "io", "errors", "samples", "public_types")
    },
    "__main__": {"cli"},
}
#: Library: the parts, or modules, that alone may import it.
ONLY_IN = {
    "torch": {"engine", "tasks", "pipeline", "scale", "explore"},
    "qtpy": {"qt"},
    "napari": {"qt"},
    "magicgui": {"qt"},
    "superqt": {"qt"},
    "psygnal": {"qt"},
    "pyqtgraph": {"qt"},
    "cyclopts": {"cli"},
    "rich": {"cli"},
    "matplotlib": {
        "pipeline/assess/report_figures.py",
        "pipeline/measure/camera_maps.py",
        "pipeline/measure/psf_measurement.py",
    },
    "safetensors": {
        "pipeline/store/tensor_file.py",
        "tasks/network_import/child.py",
        "tasks/network_import/loading.py",
    },
    "distributed": {"scale/cluster/dask_cluster.py"},
    "dask": {"io", "qt", "scale/blocks.py", "scale/cluster/dask_cluster.py"},
}
EMPTY_WORDS = {"utils", "util", "helpers", "helper", "manager", "handler", "common", "misc"}


def part(path: Path) -> str:
    """First folder below the package, or the module there."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def read_nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of the syntax tree of a file."""
    return list_nodes(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Give each module that is imported anywhere in a file, even late or for types only."""
    return frozenset(_iter_imports(path))


def _iter_imports(path: Path) -> Iterator[str]:
    for node in read_nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports by a relative path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_in_package(path: Path) -> str:
    """Spell a module's path within the package."""
    return path.relative_to(PACKAGE).as_posix()


def test_imports_point_down():
    strays = {}
    for path in MODULES:
        inner = {name.split(".")[1] for name in imports(path) if name.startswith("napari_dip.")}
        inner &= set(MAY_IMPORT) - {"version"}  # `from napari_dip import __version__` names no part
        strays[name_in_package(path)] = inner - MAY_IMPORT[part(path)] - {part(path)}
    assert {path: names for path, names in strays.items() if names} == {}


def test_each_library_stays_in_its_part():
    strays = {
        (name_in_package(path), library)
        for path in MODULES
        for library in {module.partition(".")[0] for module in imports(path)}
        if library in ONLY_IN and not {part(path), name_in_package(path)} & ONLY_IN[library]
    }
    assert strays == set()


def test_the_engine_imports_torch_and_the_standard_library_only():
    allowed = {"napari_dip", "torch", *sys.stdlib_module_names}
    strays = {
        (name_in_package(path), module)
        for path in MODULES
        if part(path) == "engine"
        for module in imports(path)
        if module.partition(".")[0] not in allowed
    }
    assert strays == set()


def test_every_library_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["app"], *extras["qt"], *extras["zarr"]]
    wanted += [*extras["cluster"], *extras["networks"], *extras["notebook"]]
    declared = {
        distribution(re.split(r"[\[<>=!~; ]", line)[0]) for line in [*wanted, *extras["formats"]]
    }
    owners = packages_distributions()
    used = {module.partition(".")[0] for path in MODULES for module in imports(path)}
    foreign = used - set(sys.stdlib_module_names) - {"napari_dip"}
    undeclared = {
        module
        for module in foreign
        if not declared & {distribution(name) for name in owners.get(module, [module])}
    }
    assert not undeclared


def distribution(name: str) -> str:
    """Spell the name of a distribution as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_modules_stay_below_600_lines():
    lengths = {name_in_package(path): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {path: length for path, length in lengths.items() if length > 600} == {}


def test_a_folder_holds_twelve_modules_at_most_and_says_what_is_decided_in_it():
    for folder in {path.parent for path in MODULES}:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        assert count <= 12, f"{folder.name} holds {count} modules"
        text = (folder / "__init__.py").read_text(encoding="utf-8")
        assert len(ast.get_docstring(parse_source(text)).splitlines()) >= 3, folder.name


def test_only_tasks_know_the_class_of_a_task():
    """Elsewhere, the task itself says what differs."""
    kinds = {kind.__name__ for kind in TASKS.values()}
    strays = [
        (name_in_package(path), node.lineno)
        for path in MODULES
        if part(path) != "tasks"
        for node in read_nodes(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
        if kinds & {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
    ]
    assert strays == []


#: Uses of what one task's module defines, by what is measured or drawn for that task alone.
TASK_MODULE_USERS = {
    ("deblur", "pipeline/measure/psf_measurement.py"),
    ("guide", "pipeline/assess/card.py"),
    ("guide", "pipeline/execute/neighbour_frames.py"),
    ("inpaint", "pipeline/assess/metrics.py"),
    ("invert_features", "explore/feature_layers.py"),
}


def test_only_tasks_ask_which_settings_a_task_has():
    """Elsewhere, `TaskSpec` states what hangs on a setting."""
    tasks = {name.replace("-", "_") for name in TASKS}
    settings = {field.name for kind in TASKS.values() for field in fields(kind)}
    imports, probes = set(), []
    for path in MODULES:
        for node in read_nodes(path) if part(path) != "tasks" else ():
            name = node.left if isinstance(node, ast.Compare) else None
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "hasattr":
                name = node.args[1]
            is_setting = isinstance(name, ast.Constant) and name.value in settings
            if is_setting and "task" in ast.unparse(node).lower():
                probes.append((name_in_package(path), node.lineno))
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.ImportFrom) and module.startswith("napari_dip.tasks."):
                imports |= {(module.split(".")[2], name_in_package(path))}
    assert probes == []
    assert {use for use in imports if use[0] in tasks} == TASK_MODULE_USERS


def test_regions_and_files_are_no_movies():
    written = {
        argument.value.value
        for path in MODULES
        for node in read_nodes(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Layout"
        for argument in node.keywords
        if argument.arg == "parts" and isinstance(argument.value, ast.Constant)
    }
    assert not written, "a layout's parts are the image's own axes, or REGION_AXIS"


def test_there_are_at_most_195_modules():
    """There are 193, so that a new task and a new prior have room."""
    assert sum(path.name != "__init__.py" for path in MODULES) <= 195


def test_ruff_refuses_functions_with_more_than_ten_branches():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert "C90" in settings["lint"]["select"]
    assert settings["lint"]["mccabe"]["max-complexity"] == 10


def test_each_constant_has_a_line_of_its_own():
    """In a tuple, a comment tells its values apart only by their order."""
    packed = [
        (name_in_package(path), node.lineno)
        for path in MODULES
        for node in parse_source(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
    ]
    assert packed == []


def test_no_name_says_nothing():
    empty = {}
    for path in MODULES:
        names = set(path.relative_to(PACKAGE).with_suffix("").parts)
        kinds = (ast.FunctionDef, ast.ClassDef)
        names |= {node.name for node in read_nodes(path) if isinstance(node, kinds)}
        parts = {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+", name)}
        empty[name_in_package(path)] = parts & EMPTY_WORDS
    assert {path: parts for path, parts in empty.items() if parts} == {}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_a_page_a_test_and_survives_json_and_pickle(name):
    assert (ROOT / "docs" / "tasks" / f"{name}.md").is_file()
    assert (ROOT / "tests" / "tasks" / f"test_{name.replace('-', '_')}.py").is_file()
    recipe = make_recipe(name, preset="fast", seed=7)
    assert recipe_from_json(recipe.to_json()) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert json.loads(recipe.to_json())["task"] == name


SLOW = (
    *("torch", "scipy", "skimage", "matplotlib", "dask"),
    *("qtpy", "PyQt6", "PyQt5", "PySide6", "napari", "magicgui", "superqt", "pyqtgraph"),
)
LOADS_NOTHING_SLOW = {
    "the package": "import napari_dip",
    "the tasks": "import napari_dip.tasks",
    "the plan": "import napari_dip.pipeline.plan.preflight",
    "the runner": "import napari_dip.pipeline.execute.runner",
    "the command line": "import napari_dip.cli",
    "the help": "import sys; sys.argv = ['napari-dip', '--help']; import napari_dip.cli as c\n"
    "try: c.main()\nexcept SystemExit as end: assert not end.code, end.code",
}


@pytest.mark.parametrize("code", LOADS_NOTHING_SLOW.values(), ids=LOADS_NOTHING_SLOW)
def test_neither_torch_nor_qt_is_loaded_by(code):
    check = f"\nimport sys; print('slow:', [name for name in {SLOW!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "slow: []"


def test_measuring_white_noise_loads_no_scipy(tmp_path):
    """Its filters take as long to load as all else of the command, PyTorch apart."""
    pixels = np.random.default_rng(0).normal(100, 5, (64, 64)).astype(np.float32)
    tifffile.imwrite(tmp_path / "shot.tif", pixels)
    code = (
        "import sys; from napari_dip.cli import main\n"
        "assert main(['noise', 'shot.tif']) == 0\n"
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=100).returncode == 0


def test_the_package_is_imported_within_300_milliseconds():
    code = "import time; t = time.perf_counter(); import napari_dip; print(time.perf_counter() - t)"
    seconds = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(5)
    )
    assert seconds < 0.3


def test_only_tests_of_qt_draw():
    """`make test-gl` looks nowhere else."""
    tests = ROOT.glob("tests/**/test_*.py")
    drawing = [path for path in tests if re.search(r"mark\.gl\b", path.read_text(encoding="utf-8"))]
    assert {path.relative_to(ROOT / "tests").parts[0] for path in drawing} == {"qt"}


def test_tests_that_compare_bytes_of_fits_get_all_cores():
    """With fewer threads, the last digits differ."""
    unmarked = [
        node.name
        for path in ROOT.glob("tests/**/test_*.py")
        for node in read_nodes(path)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if re.search("(gives?|have|to)_the_same_(bytes|pixels)", node.name)
        if not any("all_cores" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    assert unmarked == []


def test_the_folders_of_the_tests_are_those_of_the_package():
    """`faults` and `golden` try the whole program; `named` folders belong to a part of it."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.relative_to(ROOT / "tests").parent
        if folder.parts and folder.parts[0] not in {"faults", "golden"}:
            assert (PACKAGE / folder / "__init__.py").is_file(), path


#: Strings outside the registries that are keys of a prior or a noise model, but mean another thing:
#: a shape of blur, a suffix of results, figures of a report, an input of a reader.
HOMONYMS = {
    "gaussian": {"tasks/blind_deblur.py"},
    "guided": {"tasks/guide.py"},
    "pixels": {"pipeline/assess/quality_checks.py", "io/reading.py", "io/header.py"},
    "random-input": {
        "tasks/base.py"
    },  # the key of the default, which the registry takes from there
}


def test_only_the_registries_name_a_prior_or_a_noise_model() -> None:
    keys = {*PRIOR_SPECS, *NOISE_MODELS} - {"auto"}
    named = [
        (node.value, path.relative_to(PACKAGE).as_posix())
        for path in MODULES
        if path.parent.name not in ("priors", "noise_models") or part(path) != "tasks"
        if part(path) != "public_types"  # which `make pages` writes
        for node in read_nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in keys
    ]
    assert [place for place in named if place[1] not in HOMONYMS.get(place[0], ())] == []
