"""The documentation says what the code does, and its links lead somewhere."""

from __future__ import annotations

import io
import pkgutil
import re
import runpy
import shlex
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_dip
from napari_dip.cli import main
from napari_dip.pipeline.recipe import OLD_INPUTS, OLD_SETTINGS, OLD_SWITCHES, OLD_VALUES
from napari_dip.samples import MITOCHONDRIA
from napari_dip.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *ROOT.glob("*.md"),
    *DOCS.rglob("*.md"),
    *ROOT.glob("workflows/*.md"),
    *ROOT.glob("packaging/*.md"),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def parametrise_paths(paths: list[Path]) -> list[pytest.param]:
    """Parametrise by the path within the repository."""
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in sorted(paths)]


def test_what_the_pages_take_from_the_code_is_up_to_date():
    written = runpy.run_path(str(ROOT / "scripts" / "write_pages.py"))["pages"]()
    stale = [
        path.name for path, text in written.items() if path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run: make pages"


@pytest.mark.parametrize("page", parametrise_paths(PAGES))
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    inner = [target for target in targets if "://" not in target]
    assert not [target for target in inner if not (page.parent / target).exists()]


@pytest.mark.parametrize(
    "page", parametrise_paths([page for page in PAGES if "add-a-" not in page.name])
)
def test_modules_that_a_page_names_exist(page):
    named = re.findall(r"`([\w./]+/\w+\.py)`", page.read_text(encoding="utf-8"))
    own = [name for name in named if not name.startswith("torch/")]
    places = (ROOT, ROOT / "src" / "napari_dip")
    assert not [name for name in own if not any((place / name).exists() for place in places)]


def list_sections(page):
    """Titles of a page's sections as they are linked: small letters, hyphens, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", parametrise_paths(PAGES))
def test_sections_that_are_linked_exist(page):
    links = re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    inner = [(page.parent / file if file else page, section) for file, section in links]
    sources = {DOCS / "readme.md": ROOT / "README.md"}
    lost = [name for file, name in inner if name not in list_sections(sources.get(file, file))]
    assert not lost


def test_every_page_is_listed_on_the_first_one():
    """The site makes its contents of these lists, and leaves no page out."""
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\]\(([^)]+\.md)\)", first))
    stubs = {"readme.md", "contributing.md", "security.md", "changes.md"}
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    unlisted = pages - listed - stubs - {"index.md"}
    assert {page for page in unlisted if not page.startswith(("adr/", "_build/"))} == set()
    assert any(page.startswith("adr/") for page in listed)


@pytest.mark.parametrize("page", parametrise_paths(sorted(DOCS.rglob("*.md"))))
def test_every_page_leads_to_the_glossary(page):
    if "_build" in page.parts or page.name == "glossary.md":
        return
    last = page.read_text(encoding="utf-8").rstrip("\n").splitlines()[-1]
    (link,) = re.findall(r"^\[Glossary\]\(([^)]+)\)", last)
    assert (page.parent / link).resolve() == DOCS / "glossary.md"


def test_what_the_glossary_names_is_where_it_says():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8").partition("## Names of before")[0]
    rows = [row.split(" | ") for row in re.findall(r"^\| (?!word)(.+) \|$", text, re.M)]
    assert len(rows) > 60 and all(len(row) == 3 for row in rows)
    assert len({row[0] for row in rows}) == len(rows)
    assert all(row[1].endswith(".") for row in rows)
    options = set().union(*map(list_options, (*TASKS, "batch")))
    for word, _, place in rows:
        named = re.findall(r"`([^`]+)`", place)
        options_named = [option.split()[0] for option in named if option.startswith("--")]
        assert set(options_named) <= options, word
        for entry in named:
            if (
                not entry.startswith(("--", "napari-dip"))
                and f"`{entry}` in the report" not in place
            ):
                assert pkgutil.resolve_name(f"napari_dip.{entry}"), word


def test_the_glossary_has_the_names_of_before():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    old, new = (set(), set())
    for names in (*OLD_SETTINGS.values(), OLD_INPUTS, OLD_SWITCHES):
        old |= {name.replace("_", "-") for name in names}
        new |= {name.replace("_", "-") for name in names.values()}
    for values in OLD_VALUES.values():
        old |= set(values)
        new |= set(values.values())
    before = text.partition("## Names of before")[2]
    assert not [name for name in old | new if name not in before]


def test_every_public_name_has_its_place_in_the_reference():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\.\. auto\w+:: napari_dip\.(\S+)$", page, re.M))
    assert set(napari_dip.__all__) - {"__version__"} <= named


REQUESTS = (ROOT / "tests" / "feature_requests.md").read_text(encoding="utf-8")


def test_every_request_has_its_row_here_and_elsewhere():
    for part in (REQUESTS.split("## Journeys")[0], REQUESTS.split("## Elsewhere")[1]):
        numbers = [int(number) for number in re.findall(r"^\| (\d+) ", part, re.M)]
        assert numbers == list(range(1, 26))


def test_every_test_that_the_requests_name_exists():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", REQUESTS)
    assert len(named) > 40
    gone = [
        f"{file}::{name}"
        for file, name in named
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert not gone


@cache
def list_options(*command):
    """Give the options that a command's help names."""
    screen = io.StringIO()
    with redirect_stdout(screen):
        assert main([*command, "--help"]) == 0
    return set(re.findall(r"--[a-z][a-z-]+", screen.getvalue()))


@pytest.mark.parametrize("page", parametrise_paths(PAGES))
def test_commands_on_the_pages_use_options_that_exist(page, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = [line.split("  #")[0] for _, block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("napari-dip ")]
    for argv in map(shlex.split, commands):
        task = argv[1:3] if argv[1] == "explore" else argv[1:2]
        used = {word for word in argv if word.startswith("--")} - {"--help"}
        assert used <= list_options(*task), task


@pytest.mark.long
def test_the_python_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert 'preset="fast"' in example
    monkeypatch.chdir(tmp_path)
    # two iterations tell whether the words are right; how good the image is, others test
    exec(example.replace('preset="fast"', 'preset="fast", max_iterations=2'), {})
    assert '"task": "denoise"' in capsys.readouterr().out
    assert tifffile.imread("denoised.tif").shape == tifffile.imread(MITOCHONDRIA)[0].shape


def test_the_sample_is_what_its_page_says():
    page = (ROOT / "docs" / "samples.md").read_text(encoding="utf-8")
    exposures = tifffile.imread(MITOCHONDRIA).astype(float)
    assert exposures.shape == (2, 320, 320)
    assert "2 × 320 × 320 pixels, 8 bit" in page
    # the single shot differs from its neighbours far more than the long exposure does
    single, long = np.abs(np.diff(exposures, axis=1)).mean((1, 2))
    assert single > 1.5 * long


@pytest.mark.parametrize("page", parametrise_paths(PAGES))
def test_make_targets_on_the_pages_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text, re.M)
    targets = {target for pair in named for target in pair if target}
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.M))


def test_the_scripts_that_make_starts_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    loops = re.findall(r"for one in (.+?);", makefile, re.DOTALL)
    names = {
        f"benchmarks/{command.split()[0]}.py"
        for loop in loops
        for command in shlex.split(loop.replace("\\\n", " "))
    }
    names |= set(re.findall(r"\b(?:benchmarks|scripts)/\w+\.py", makefile))
    names |= {f"benchmarks/{name}" for name in re.findall(r"[,(] ?(\w+\.py)", makefile)}
    assert {name for name in names if not (ROOT / name).is_file()} == set()


def is_defined(path, name):
    """Whether a module, or a preset, of the package defines a name."""
    text = (ROOT / "src" / "napari_dip" / path).read_text(encoding="utf-8")
    if path.endswith(".json"):
        return f'"{name}"' in text
    return re.search(rf"^ *(?:def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE) is not None


def test_where_a_change_goes_is_defined_there():
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| `([\w/.-]+)` \| `(\w+)` \|$", table, re.MULTILINE)
    assert len(rows) >= 25
    assert [row for row in rows if not is_defined(*row)] == []


@pytest.mark.parametrize("page", ["architecture", "one-call", "debug-a-result"])
def test_what_the_pages_for_contributors_name_is_there(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    places = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    rows = re.findall(r"^\| `(\w+)`(?:, `\w+`)* \| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(places) >= 2
    assert [(name, path) for name, path in places if not is_defined(path, name)] == []
    assert [path for _, path in rows if not (ROOT / "src" / "napari_dip" / path).is_file()] == []


def test_the_page_of_constants_names_those_of_the_code():
    text = (DOCS / "constants.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `([\w/]+\.py)` \|", text, re.MULTILINE)
    assert len(rows) > 70
    for names, path in rows:
        module = (ROOT / "src" / "napari_dip" / path).read_text(encoding="utf-8")
        assert [name for name in re.findall(r"\w+", names) if name not in module] == [], path


def test_the_image_of_the_folders_shows_each_of_them():
    image = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    package = ROOT / "src" / "napari_dip"
    folders = {path.parent.name for path in package.glob("*/**/__init__.py")} - {"samples"}
    assert {name for name in folders if f">{name}<" not in image} == set()
