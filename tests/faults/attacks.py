"""Hostile inputs: the files of each, and the command that reads them."""

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

#: Options of a short run.
SHORT = ("--preset", "fast", "--max-iterations", "1", "--quiet")


def _find_nothing(folder: Path) -> str:
    return ""


@dataclass(frozen=True)
class Attack:
    """One hostile input.

    Attributes
    ----------
    name : str
    make_argv : callable
        Gets the working folder and one that must not be touched; returns the arguments.
    exit_codes : tuple of int
        Accepted exit codes.
    forbidden : str
        Text that must not be in the output.
    find_damage : callable
        Inspects the folder afterwards; describes the damage, or returns "".
    """

    name: str
    make_argv: Callable[[Path, Path], list[str]]
    exit_codes: tuple[int, ...] = (2,)
    forbidden: str = ""
    find_damage: Callable[[Path], str] = _find_nothing


def denoise(folder: Path, name: str, *options: str) -> list[str]:
    return ["denoise", str(folder / name), "-o", str(folder / "out.tif"), *options]


def denoise_bytes(content: bytes | Callable[[], bytes], name: str = "in.tif") -> Any:
    """Denoise a file of these bytes."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        (folder / name).write_bytes(content() if callable(content) else content)
        return denoise(folder, name)

    return make_argv


class PicklePayload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def use_pickle(name: str, *options: str, wrap: Callable[[bytes], bytes] = bytes) -> Any:
    """Put a pickle where a file of another kind should be."""

    def make_argv(folder: Path, outside: Path) -> list[str]:
        tifffile.imwrite(folder / "in.tif", noisy())
        (folder / name).write_bytes(wrap(pickle.dumps(PicklePayload(outside / "executed"))))
        arguments = [option.replace("{folder}", str(folder)) for option in options]
        return denoise(folder, "in.tif", *arguments)

    return make_argv
