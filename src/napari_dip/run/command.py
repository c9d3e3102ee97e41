"""A picture's making as the command line that makes it again."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

from napari_dip.run.repeating import settings_of

if TYPE_CHECKING:
    from napari_dip.run.repeating import Repetition


def command_line(run: Repetition) -> str:
    """Write the command, quoted for the shell of this computer.

    Parameters
    ----------
    run : Repetition
    """
    words = command_words(run)
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def command_words(run: Repetition) -> list[str]:
    """Give the command word by word."""
    recipe = run.recipe
    words = ["napari-dip", recipe.task.name, run.paths["image"], "--output", run.result]
    words += ["--axes", run.axes]
    for name, path in run.files.items():
        if name != "image":
            words += [_option(name), path]
    for name, value in settings_of(recipe).items():
        words += _given(name, value)
    if run.keep_after is not None:
        words += ["--keep-after", str(run.keep_after)]
    return words


def _given(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_option(name if value else f"no_{name}")]
    return [_option(name), str(value)]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
