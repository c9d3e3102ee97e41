"""Operations that Apple graphics cannot compute run on the CPU, and a note says so."""

from __future__ import annotations

from napari_dip.pipeline.machine import MPS_FALLBACK_NOTE, InstallationReport


def make_report(*devices: str) -> InstallationReport:
    return InstallationReport(
        version="0.1",
        python="3.12",
        system="macOS",
        torch="2.13.0",
        build="no CUDA",
        devices=devices,
        gpus=(),
        no_gpu_reason="",
        cores=8,
        memory_bytes=10**9,
        napari="0.7",
        qt="PyQt6 6.9",
        repairs=(),
    )


def test_doctor_says_so_where_there_are_apple_graphics_and_only_there() -> None:
    assert MPS_FALLBACK_NOTE in make_report("mps", "cpu").sentences
    assert MPS_FALLBACK_NOTE not in make_report("cuda", "cpu").sentences
