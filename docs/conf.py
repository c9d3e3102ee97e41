"""Settings of the documentation's site: `make docs` builds it into docs/_build/html.

The pages are written to be read on their own as well, with links between files. Those that lie in
the root of the repository are shown as pages of the site under names of its own, and the contents
are made of the lists in index.md.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import napari_dip

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]

project = "napari-dip"
author = "The napari-dip developers"
copyright = author  # noqa: A001 (a name of Sphinx's)
release = version = napari_dip.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # sections are linked by their titles, as on code hosts
highlight_language = "none"  # blocks without a language are commands
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings give shapes and units besides
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"napari-dip {release}"
html_copy_source = False

#: Pages of the site that show a file in the root of the repository.
ROOT_PAGES = {
    "readme": "README.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "changes": "CHANGELOG.md",
}


def show_root_files(_: Sphinx, page: str, source: list[str]) -> None:
    """Put a file of the root in the place of its page, and let links to it lead to that page."""
    text = source[0]
    if page in ROOT_PAGES:
        text = (ROOT / ROOT_PAGES[page]).read_text(encoding="utf-8").replace("](docs/", "](")
    up = "../" * len(PurePosixPath(page).parent.parts)
    for shown, file in ROOT_PAGES.items():
        link = re.escape(file if page in ROOT_PAGES else f"{up}../{file}")
        text = re.sub(rf"\]\({link}(#[^)]*)?\)", rf"]({up}{shown}.md\1)", text)
    if page in ROOT_PAGES:  # what has no page of its own is a file to fetch
        text = re.sub(r"\]\(([A-Z]+(?:\.cff)?)\)", r"](../\1)", text)
        text += "\n[Glossary](glossary.md): the terms of these pages.\n"
    source[0] = text + contents(text) if page == "index" else text


def contents(index: str) -> str:
    """Make the site's contents of the lists on its first page, section by section.

    A link into the folder of decisions stands for all of them.
    """
    made = ""
    for title, section in re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", index, re.M | re.S):
        pages = re.findall(r"\]\(([^):]+)\.md\)", section)
        pages = ["adr/*" if page.startswith("adr/") else page for page in pages]
        listed = "\n".join(dict.fromkeys(pages))
        made += f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {title}\n\n{listed}\n```\n"
    return made


def setup(app: Sphinx) -> None:
    """Have each page read through `show_root_files`."""
    app.connect("source-read", show_root_files)
