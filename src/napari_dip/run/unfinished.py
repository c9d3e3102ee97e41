"""Runs that have not ended, kept on the disk so that a crash costs a few seconds of work.

Each lies in a folder of its own: what was asked for (run.json), the pixels of inputs that no file
holds, and a checkpoint. The process that is at it holds the folder; once none does and the folder
is still there, the run was cut off. A run that ends by itself takes its folder away.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, TypeAdapter

from napari_dip.errors import DipError
from napari_dip.errors.printable import printable
from napari_dip.io.paths import small_text
from napari_dip.io.plain_json import plain_json
from napari_dip.io.writing import write_text
from napari_dip.run.checkpoint_file import read_header
from napari_dip.run.fields import Count, Fields, Name, Text, fault_in
from napari_dip.run.held import Held, is_held, is_run_folder, remove_run_folder
from napari_dip.run.machine import Machine, torch_version

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Raised by one whenever what was kept before could not be read.
SCHEMA = 1
#: The file that makes a folder an unfinished run; written after the inputs, and all of it at once.
TOLD = "run.json"
CHECKPOINT = "checkpoint"
#: Bytes that run.json may have: recipe and look of a few layers take some thousand.
_TOLD_BYTES = 1_000_000
#: Seconds after which a folder that holds no run is what a crash has left of its beginning.
_STALE = 60.0
#: Runs that are kept at most; each may hold a gigabyte of pixels.
MOST_RUNS = 5
#: What is raised where a checkpoint's header is none.
_NO_HEADER = (OSError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError)
#: Part of `Machine` that a plan depends on.
_MACHINE = tuple(one.name for one in fields(Machine))


class _Task(Fields):
    task: Text


class _Input(Fields):
    layer: Name
    sha256: Text
    file: Name | None
    path: Name | None


class _RunFields(Fields):
    """What run.json must hold."""

    schema_version: Literal[1] = Field(alias="schema")
    version: Text
    torch: Text
    recipe: _Task
    label: Name
    begun: Text
    iterations: Count
    tiles: Count
    machine: dict[str, Any]
    inputs: dict[str, _Input]


@dataclass(frozen=True, slots=True, eq=False)
class Unfinished:
    """A run that was cut off.

    Attributes
    ----------
    folder : Path
    told : mapping
        What `told_of` has written down.
    """

    folder: Path
    told: Mapping[str, Any]

    @property
    def inputs(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of each input: layer, sha256, axes, and path or file."""
        inputs: Mapping[str, Mapping[str, Any]] = self.told["inputs"]
        return inputs

    @property
    def machine(self) -> Machine:
        """What the computer offered when the run was planned, so that the plan comes out again."""
        return TypeAdapter(Machine).validate_python(self.told["machine"])

    @property
    def exact(self) -> bool:
        """Whether it can be gone on with: by the same version of this package and of torch."""
        return all(self.told[name] == value for name, value in versions().items())

    @property
    def begun(self) -> datetime:
        """When it was begun."""
        return datetime.fromisoformat(self.told["begun"])

    @property
    def done(self) -> int:
        """Iterations of which something is kept; those of tiles in progress alone."""
        try:
            header = read_header(self.folder / CHECKPOINT)
            fit, ended = header["fit"], header["outcomes"]
            last = 0 if fit is None else int(fit["history"][-1][0])
            return last + sum(int(one["iterations"]) for one in ended)
        except (
            OSError,
            ValueError,
            OverflowError,
            TypeError,
            KeyError,
            IndexError,
            RecursionError,
        ):
            return 0

    @property
    def tiles(self) -> int:
        """Tiles that are done."""
        words = (self.folder / f"{CHECKPOINT}.tiles").glob("*.json")
        return sum(path.stem.isdigit() for path in words)

    def words(self) -> str:
        """Say what it is, when it was begun, and how far it came, in one sentence."""
        began = self.begun.astimezone()
        when = f"{began.day} {began:%B %Y at %H:%M}"
        far = f"{self.done:,} of at most {self.told['iterations']:,} iterations"
        if self.told["tiles"]:
            far = f"{self.tiles} of {self.told['tiles']} tiles"
        return printable(f"{self.told['label']}, begun on {when}, was cut off after {far}.")

    def remove(self) -> None:
        """Delete all that runs have written there; what makes it a run first."""
        with suppress(OSError):  # what was read as a run is one, by whichever version
            Held(self.folder).let_go()
            (self.folder / TOLD).unlink(missing_ok=True)
        remove_run_folder(self.folder)


def versions() -> dict[str, str]:
    """Give the versions that pixels depend on."""
    from napari_dip import __version__

    return {"version": __version__, "torch": torch_version()}


def find_unfinished(home: Path, task: str) -> tuple[Unfinished, ...]:
    """List the runs of a task that were cut off, latest first; takes no pixel and loads no torch.

    Parameters
    ----------
    home : Path
        Folder of the folders; need not be there.
    task : str
        Key in `TASKS`.
    """
    found = [_read(folder) for folder in _folders(home) if not is_held(folder)]
    runs = [one for one in found if one is not None and one.told["recipe"]["task"] == task]
    return tuple(sorted(runs, key=lambda one: one.told["begun"], reverse=True))


def make_room(home: Path) -> None:
    """Remove what a crash has left of a beginning, and the oldest runs where there are many.

    What no run has written stays.
    """
    old = time.time() - _STALE
    runs = []
    for folder in _folders(home):
        with suppress(OSError):
            if not is_run_folder(folder) or is_held(folder):
                continue
            if (folder / TOLD).exists():
                runs.append((folder.stat().st_mtime, folder))
            elif folder.stat().st_mtime < old:
                remove_run_folder(folder)
    for _, folder in sorted(runs)[: max(0, len(runs) - MOST_RUNS + 1)]:
        remove_run_folder(folder)


def write_told(folder: Path, about: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Make a folder an unfinished run.

    Parameters
    ----------
    folder : Path
    about : mapping
        By `told_of`.
    inputs : mapping of str to mapping
        Of each input, what is known of it.

    Raises
    ------
    Failed
        If the disk does not take it.
    """
    told = {"schema": SCHEMA, **versions(), **about, "inputs": inputs}
    write_text(folder / TOLD, json.dumps(told, indent=1), overwrite=True)


def told_of(plan: Any, label: str, machine: Machine) -> dict[str, Any]:
    """Write down what was asked for, in plain JSON types.

    Parameters
    ----------
    plan : Plan
    label : str
        How the run is called, such as "Denoise cells".
    machine : Machine
        That it was planned for.
    """
    return {
        "recipe": plan.recipe.to_dict(),
        "label": label,
        "begun": datetime.now().astimezone().isoformat(timespec="seconds"),
        "iterations": sum(unit.iterations for unit in plan.units),
        "tiles": len(plan.tiles),
        "machine": asdict(machine),
    }


def _folders(home: Path) -> list[Path]:
    try:
        return [one for one in home.iterdir() if one.is_dir() and not one.is_symlink()]
    except OSError:
        return []


def _read(folder: Path) -> Unfinished | None:
    """Read a folder's run; None if it holds none that can be read."""
    try:
        told = plain_json(small_text(folder / TOLD, "an unfinished run", _TOLD_BYTES))
        if fault_in(told, _RunFields) or set(told["machine"]) != set(_MACHINE):
            return None
        one = Unfinished(folder, told)
        one.words(), one.machine
    except (DipError, OSError, ValueError, OverflowError):  # a date of another age
        return None
    files = [noted["file"] for noted in one.inputs.values()]
    elsewhere = any(file is not None and Path(file).name != file for file in files)
    return None if elsewhere else one
