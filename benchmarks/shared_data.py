"""Shared by the benchmarks: data folder, PSNR, result files, description of the machine."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.io import imread

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "out"

FMD_FIELDS = (
    "Confocal_BPAE_B",
    "Confocal_BPAE_G",
    "Confocal_BPAE_R",
    "TwoPhoton_BPAE_B",
    "TwoPhoton_BPAE_R",
    "WideField_BPAE_B",
    "WideField_BPAE_R",
)


def data_folder() -> Path:
    """Find the benchmark images, or say plainly that they are missing."""
    folder = Path(os.environ.get("NAPARI_DIP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(
            f"The benchmark images are not at '{folder}'. Set NAPARI_DIP_DATA to their folder."
        )
    return folder


def fmd(field: str, capture: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """One single shot and the truth (mean of 50 captures), 8 bit."""
    folder = data_folder() / "fmd"
    raw = imread(folder / f"{field}_raw{capture}.png")
    return raw, imread(folder / f"{field}_gt.png").astype(np.float64)


def counts(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """8 bit where it is 8 bit: its grey steps are part of its noise."""
    whole = not np.any(image % 1) and image.min() >= 0 and image.max() < 256
    return image.astype(np.uint8 if whole else np.float32)


def psnr(image: npt.NDArray[Any], truth: npt.NDArray[np.float64]) -> float:
    """Peak signal-to-noise ratio at 8 bit: rounded, clipped, peak 255."""
    pixels = np.clip(np.rint(image.astype(np.float64)), 0, 255)
    return float(10 * np.log10(255**2 / np.mean((pixels - truth) ** 2)))


def machine() -> dict[str, Any]:
    """Name the machine that the figures come from."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def write(name: str, rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Write rows and summary as JSON and as a Markdown table under benchmarks/out."""
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "summary": summary, "rows": rows}, indent=1)
    (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(row[head]) for head in heads) + " |" for row in rows]
    lines += ["", *(f"- {key}: {_cell(value)}" for key, value in summary.items())]
    (OUT / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
