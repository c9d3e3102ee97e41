"""What Apple graphics cannot compute is done by the processor: the user is told."""

from __future__ import annotations

from napari_dip.cli.inspection import _computer_lines
from napari_dip.pipeline.doctor import MPS_FALLBACK_NOTE, Examination


def found(*devices: str) -> Examination:
    told = ("0.1", "3.12", "macOS", "2.13.0", "no CUDA")
    return Examination(*told, devices, (), "", 8, 10**9, "0.7", "PyQt6 6.9", ())


def test_doctor_says_so_where_there_are_apple_graphics_and_only_there() -> None:
    assert MPS_FALLBACK_NOTE in _computer_lines(found("mps", "cpu"))
    assert MPS_FALLBACK_NOTE not in _computer_lines(found("cuda", "cpu"))
