"""What the processor can do. NumPy is not loaded here: its BLAS reads the environment."""

from __future__ import annotations

from pathlib import Path

#: Instructions that libraries choose their arithmetic by, as Linux names them.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd")


def list_instructions() -> list[str]:
    """Return those of the instructions that the processor has; none where Linux does not run."""
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
    return [name for name in INSTRUCTIONS if name in flags]


def choose_blas_kernels() -> dict[str, str]:
    """Return the variable that tells OpenBLAS its kernels, to be set before NumPy is loaded.

    By itself it chooses by the maker of the processor, which the frozen pixels do not know.
    """
    instructions = list_instructions()
    if "avx2" not in instructions:
        return {}
    return {"OPENBLAS_CORETYPE": "SkylakeX" if "avx512f" in instructions else "Haswell"}
