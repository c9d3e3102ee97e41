"""What Apple graphics cannot compute is done by the processor, and the user is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from napari_dip.cli.doctor import _lines
from napari_dip.run.doctor import BRIDGED, Examination
from napari_dip.run.machine import MPS_FALLBACK, load_torch

if TYPE_CHECKING:
    import pytest


def found(*devices: str) -> Examination:
    told = ("0.1", "3.12", "macOS", "2.13.0", "no CUDA")
    return Examination(*told, devices, (), "", 8, 10**9, "0.7", "PyQt6 6.9", ())


def test_the_processor_stands_in_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(MPS_FALLBACK, raising=False)
    load_torch()
    assert os.environ[MPS_FALLBACK] == "1"
    monkeypatch.setenv(MPS_FALLBACK, "0")
    load_torch()
    assert os.environ[MPS_FALLBACK] == "0"


def test_doctor_says_so_where_there_are_apple_graphics_and_only_there() -> None:
    assert BRIDGED in _lines(found("mps", "cpu"))
    assert BRIDGED not in _lines(found("cuda", "cpu"))
