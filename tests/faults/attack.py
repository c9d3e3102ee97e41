"""A trap: the files that it lays, and what is typed to walk into it."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tifffile

from bad_inputs import noisy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Few iterations, where an attack lies in what surrounds a run.
SHORT = ("--preset", "fast", "--max-iterations", "1", "--quiet")


def _nothing(field: Path) -> str:
    return ""


@dataclass(frozen=True)
class Attack:
    """One trap.

    Attributes
    ----------
    name : str
    make : callable
        Gets the folder to work in and one that must not be touched; returns what is typed.
    ends : tuple of int
        Exit codes that are right.
    unsaid : str
        What must not be among what is said.
    check : callable
        Looks at the folder afterwards; says what is wrong there, or nothing.
    """

    name: str
    make: Callable[[Path, Path], list[str]]
    ends: tuple[int, ...] = (2,)
    unsaid: str = ""
    check: Callable[[Path], str] = _nothing


def denoise(field: Path, name: str, *options: str) -> list[str]:
    return ["denoise", str(field / name), "-o", str(field / "out.tif"), *options]


def denoise_bytes(content: bytes | Callable[[], bytes], name: str = "in.tif") -> Any:
    """Denoise a file of these bytes."""

    def make(field: Path, outside: Path) -> list[str]:
        (field / name).write_bytes(content() if callable(content) else content)
        return denoise(field, name)

    return make


class Bomb:
    """Unpickled, it leaves its mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def pickled(name: str, *options: str, wrap: Callable[[bytes], bytes] = bytes) -> Any:
    """Put a pickle where a file of another kind should be."""

    def make(field: Path, outside: Path) -> list[str]:
        tifffile.imwrite(field / "in.tif", noisy())
        (field / name).write_bytes(wrap(pickle.dumps(Bomb(outside / "executed"))))
        arguments = [option.replace("{field}", str(field)) for option in options]
        return denoise(field, "in.tif", *arguments)

    return make
