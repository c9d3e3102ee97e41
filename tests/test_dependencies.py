"""Every dependency of the development environment is pinned."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dependencies():
    spec = importlib.util.spec_from_file_location(
        "dependencies", ROOT / "scripts" / "dependencies.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.skipif(sys.platform != "linux", reason="what other systems bring may differ")
def test_all_that_is_installed_for_the_extras_is_pinned_at_its_version(dependencies):
    pins = dependencies.pinned()
    loose = {
        row.name: row.version
        for row in dependencies.rows()
        if pins.get(dependencies.normal(row.name)) != row.version
    }
    assert not loose


def test_a_pin_that_is_not_exact_is_found(dependencies, monkeypatch, tmp_path):
    monkeypatch.setattr(dependencies, "ROOT", tmp_path)
    for line in ("numpy>=2", "numpy", "numpy==2.*"):
        (tmp_path / "constraints.txt").write_text(f"# what the tests ran with\n{line}\n")
        with pytest.raises(ValueError, match="exactly"):
            dependencies.pinned()
