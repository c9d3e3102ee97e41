"""What is installed with the package and its extras: versions, licences, and who asked for it.

Read from the metadata of what is installed here, so nothing is fetched. `rows()` feeds
docs/dependencies.md through write_pages.py.
"""

from __future__ import annotations

import re
import tomllib
from collections import deque
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
#: Extras that development installs, in the order in which they are told; what none of them brings
#: is of the package itself.
EXTRAS = ("qt", "app", "zarr", "cluster", "test")
#: Longest licence that is a name and not its text.
_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Dependency:
    """One distribution.

    Attributes
    ----------
    name, version, licence : str
    wanted : str
        "" for the package itself, else the first extra that brings it.
    """

    name: str
    version: str
    licence: str
    wanted: str


def rows() -> list[Dependency]:
    """List all that is installed for the package and its extras, in the order of the alphabet."""
    rows_by_name: dict[str, Dependency] = {}
    for extra in ("", *EXTRAS):
        for name in list_installed(extra):
            if name not in rows_by_name:
                distribution = metadata.distribution(name)
                version = distribution.version.partition("+")[0]  # torch names its build there
                rows_by_name[name] = Dependency(
                    distribution.name, version, licence_of(distribution), extra
                )
    return sorted(rows_by_name.values(), key=lambda row: normal(row.name))


def pinned() -> dict[str, str]:
    """Read constraints.txt: versions by normal names.

    Raises
    ------
    ValueError
        If a line pins no exact version.
    """
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, equal, version = line.partition("==")
        if not equal or not re.fullmatch(r"[\w.]+", version):
            raise ValueError(f"constraints.txt does not pin '{line}' exactly")
        pins[normal(name)] = version
    return pins


def licence_of(distribution: metadata.Distribution) -> str:
    """Say under which licence a distribution is, in as few words as it says so itself."""
    said = distribution.metadata
    for field in ("License-Expression", "License"):
        text = " ".join((said.get(field) or "").split())
        if text and text != "UNKNOWN" and len(text) <= _LONGEST:
            return text
    kinds = [
        line.rpartition(" :: ")[2]
        for line in said.get_all("Classifier") or ()
        if line.startswith("License :: ")
    ]
    return ", ".join(kinds) or "see its files"


def normal(name: str) -> str:
    """Spell a name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(extra: str) -> list[str]:
    """Read what the package ("") or an extra asks for; an extra that it names is read as well."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    own = f"{project['name']}["
    named = [line[len(own) : -1] for line in lines if line.startswith(own)]
    further = [line for inner in named for line in read_requirements(inner)]
    return [line for line in lines if not line.startswith(own)] + further


def list_installed(extra: str) -> list[str]:
    """Follow requirements from the package, through those that are installed."""
    requirements = read_requirements(extra)
    todo, visited = deque([("", "")]), {("", "")}
    names: list[str] = []
    while todo:
        name, wanted = todo.popleft()
        for line in (metadata.requires(name) or ()) if name else requirements:
            need = Requirement(line)
            if need.marker and not need.marker.evaluate({"extra": wanted}):
                continue
            if not _installed(need.name):
                continue
            names.append(normal(need.name))
            for need_extra in ("", *need.extras):
                if (place := (normal(need.name), need_extra)) not in visited:
                    visited.add(place)
                    todo.append(place)
    return list(dict.fromkeys(names))


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
